//! The label and the live disks of an array: the one place where states change.
//!
//! Does not know: how labels get to disks, when, or why a state changes.

use std::collections::BTreeMap;
use std::rc::Rc;

use uuid::Uuid;

use super::disk::Disk;
use crate::journal::entry::Seq;
use crate::label::{Absence, ArrayLabel, Entry, INCOMPAT_JOURNAL_DISKS};
use crate::member::MemberState;

/// The disks of a slot.
#[derive(Clone, Default)]
pub(crate) struct SlotDisks {
    /// The member that is in sync.
    pub(crate) member: Option<Rc<Disk>>,
    /// A disk that is being filled.
    pub(crate) target: Option<Rc<Disk>>,
}

/// Label, live disks, and the slots derived from both.
pub(crate) struct Ledger {
    label: ArrayLabel,
    disks: BTreeMap<Uuid, Rc<Disk>>,
    slots: Vec<SlotDisks>,
    /// Journal disks in service.
    journal_disks: Vec<Rc<Disk>>,
    /// Journal disks that are out, and what has to be in place before they don't matter any more.
    undrained: BTreeMap<Uuid, Seq>,
    /// Membership was changed since the last commit.
    uncommitted: bool,
    /// Last known paths of disks that aren't live.
    paths: BTreeMap<Uuid, Rc<str>>,
}

/// The entry of a journal disk that enters service at event `since`.
pub(super) fn journal_entry(disk: &Disk, since: u64) -> Entry {
    Entry {
        uuid: disk.uuid,
        slot: None,
        state: MemberState::Journal,
        cursor_rows: 0,
        since_event: since,
        disk_bytes: disk.size,
        absence: None,
        held_out: false,
        journal: true,
        undrained: false,
    }
}

impl Ledger {
    pub(crate) fn new(label: ArrayLabel, disks: Vec<Rc<Disk>>) -> Self {
        for entry in &label.table {
            if let Some(disk) = disks.iter().find(|disk| disk.uuid == entry.uuid) {
                disk.start_filling_at(entry.cursor_rows);
                disk.ring_only.set(entry.journal);
                disk.held_out.set(entry.journal && entry.held_out);
            }
        }
        let disks = disks.into_iter().map(|disk| (disk.uuid, disk)).collect();
        let mut ledger = Self {
            label,
            disks,
            slots: Vec::new(),
            journal_disks: Vec::new(),
            undrained: BTreeMap::new(),
            uncommitted: false,
            paths: BTreeMap::new(),
        };
        ledger.derive();
        ledger
    }

    fn derive(&mut self) {
        let mut slots = vec![SlotDisks::default(); self.label.geometry.members()];
        for entry in &self.label.table {
            let Some(disk) = self.disks.get(&entry.uuid) else {
                continue;
            };
            let Some(slot) = entry.slot.and_then(|slot| slots.get_mut(slot)) else {
                continue;
            };
            match entry.state {
                MemberState::InSync => slot.member = Some(Rc::clone(disk)),
                MemberState::Rebuilding | MemberState::Replacing => {
                    slot.target = Some(Rc::clone(disk));
                }
                _ => {}
            }
        }
        self.slots = slots;
        let table = self.label.table.iter();
        self.journal_disks = table
            .filter(|entry| entry.state == MemberState::Journal)
            .filter_map(|entry| self.disks.get(&entry.uuid))
            .map(Rc::clone)
            .collect();
    }

    pub(crate) fn label(&self) -> &ArrayLabel {
        &self.label
    }

    pub(crate) fn slots(&self) -> &[SlotDisks] {
        &self.slots
    }

    pub(crate) fn entry(&self, uuid: Uuid) -> Option<Entry> {
        self.label.entry(uuid).copied()
    }

    pub(crate) fn disk(&self, uuid: Uuid) -> Option<Rc<Disk>> {
        self.disks.get(&uuid).map(Rc::clone)
    }

    /// Disks that get labels.
    pub(crate) fn live(&self) -> Vec<Rc<Disk>> {
        self.disks
            .values()
            .filter(|disk| !disk.out.get())
            .map(Rc::clone)
            .collect()
    }

    /// Disks that hold data or are being filled: they get data, map pages and flushes.
    pub(crate) fn with_data(&self) -> Vec<Rc<Disk>> {
        let all = self
            .slots
            .iter()
            .flat_map(|slot| slot.member.iter().chain(&slot.target));
        all.filter(|disk| !disk.out.get()).map(Rc::clone).collect()
    }

    /// Journal disks that are in service and in.
    pub(crate) fn journal_disks(&self) -> Vec<Rc<Disk>> {
        let disks = self.journal_disks.iter();
        disks
            .filter(|disk| !disk.out.get())
            .map(Rc::clone)
            .collect()
    }

    /// Journal disks that are in service by the label.
    pub(crate) fn journal_disks_listed(&self) -> usize {
        self.journal_disks.len()
    }

    /// Path of a disk, live or last known.
    pub(crate) fn path(&self, uuid: Uuid) -> Option<Rc<str>> {
        let live = self.disks.get(&uuid).map(|disk| &disk.path);
        live.or_else(|| self.paths.get(&uuid)).map(Rc::clone)
    }

    /// Remembers where a disk that isn't live was seen.
    pub(crate) fn remember_path(&mut self, uuid: Uuid, path: Rc<str>) {
        self.paths.insert(uuid, path);
    }

    /// The disk that a path, or a UUID, names.
    pub(crate) fn find(&self, name: &str) -> Option<Uuid> {
        self.label
            .table
            .iter()
            .map(|entry| entry.uuid)
            .find(|uuid| {
                self.path(*uuid).is_some_and(|path| *path == *name) || uuid.to_string() == name
            })
    }

    /// Slots without a member that is in sync and in.
    pub(crate) fn slots_missing(&self) -> usize {
        let has = |slot: &&SlotDisks| slot.member.as_ref().is_some_and(|disk| !disk.out.get());
        self.slots.len() - self.slots.iter().filter(has).count()
    }

    /// Whether the array has no redundancy left that could stand in for a disk.
    pub(crate) fn is_needed(&self, uuid: Uuid, redundancy: usize) -> bool {
        let is_it = |slot: &SlotDisks| slot.member.as_ref().is_some_and(|disk| disk.uuid == uuid);
        self.slots_missing() >= redundancy && self.slots.iter().any(is_it)
    }

    /// Whether a change of membership isn't in the labels yet.
    pub(crate) fn has_uncommitted(&self) -> bool {
        self.uncommitted
    }

    /// The labels say what the ledger says.
    pub(crate) fn note_committed(&mut self) {
        self.uncommitted = false;
    }

    /// Moves a disk to another state. The caller commits the label.
    ///
    /// # Panics
    /// If the state machine has no such transition.
    pub(crate) fn set_state(&mut self, uuid: Uuid, next: MemberState) {
        self.uncommitted = true;
        let events = self.label.event_count;
        if let Some(entry) = self.label.table.iter_mut().find(|entry| entry.uuid == uuid) {
            assert!(
                entry.state.may_become(next),
                "disk {uuid} can't go from {} to {next}",
                entry.state
            );
            entry.state = next;
            entry.since_event = events + 1;
            if next == MemberState::InSync {
                entry.cursor_rows = 0;
                entry.absence = None;
                entry.held_out = false;
            }
            if next == MemberState::Spare {
                entry.slot = None;
                entry.cursor_rows = 0;
            }
        }
        if !next.is_live()
            && let Some(disk) = self.disks.remove(&uuid)
        {
            disk.out.set(true);
            self.paths.insert(uuid, Rc::clone(&disk.path));
        }
        self.derive();
    }

    /// Adds a journal disk. The caller commits the label.
    pub(crate) fn add_journal_disk(&mut self, disk: Rc<Disk>) {
        self.uncommitted = true;
        disk.ring_only.set(true);
        self.label.incompat |= INCOMPAT_JOURNAL_DISKS;
        let since = self.label.event_count + 1;
        self.label.table.push(journal_entry(&disk, since));
        self.disks.insert(disk.uuid, disk);
        self.derive();
    }

    /// A journal disk has gone with records that are in place only once the journal has passed `below`.
    pub(crate) fn note_undrained(&mut self, uuid: Uuid, below: Seq) {
        self.uncommitted = true;
        self.undrained.insert(uuid, below);
        if let Some(entry) = self.label.table.iter_mut().find(|entry| entry.uuid == uuid) {
            entry.undrained = true;
        }
    }

    /// What has to be in place before journal disks that are out don't matter any more; `None`: none does.
    pub(crate) fn undrained_below(&self) -> Option<Seq> {
        let mut table = self.label.table.iter();
        // Of one that went in an earlier run it isn't known: this run's first epoch tells.
        let any = table.any(|entry| entry.undrained);
        any.then(|| self.undrained.values().copied().max().unwrap_or(Seq::FIRST))
    }

    /// Everything below `floor` is in place and trimmed; `None`: everything that was ever logged. True if
    /// that changes the label, which the caller commits.
    pub(crate) fn note_drained(&mut self, floor: Option<Seq>) -> bool {
        let undrained = &mut self.undrained;
        let mut changed = false;
        for entry in &mut self.label.table {
            let below = undrained.get(&entry.uuid);
            let passed = floor.is_none_or(|floor| below.is_none_or(|below| *below <= floor));
            if entry.undrained && passed {
                entry.undrained = false;
                undrained.remove(&entry.uuid);
                changed = true;
            }
        }
        changed
    }

    /// Journal disks that are in service until what was logged with them is in place: others have their
    /// places.
    pub(crate) fn leaving_journal_disks(&self) -> Vec<Rc<Disk>> {
        let mut disks = self.journal_disks();
        disks.retain(|disk| self.entry(disk.uuid).is_some_and(|entry| entry.held_out));
        disks
    }

    /// Takes a journal disk that nobody needs any more out of the table. The caller commits the label.
    pub(crate) fn let_go(&mut self, uuid: Uuid) {
        self.set_state(uuid, MemberState::Removed);
        self.drop_entry(uuid);
    }

    /// Gives a spare a slot to fill, from the first row on.
    pub(crate) fn start_target(&mut self, uuid: Uuid, slot: usize, state: MemberState) {
        self.set_state(uuid, state);
        if let Some(entry) = self.label.table.iter_mut().find(|entry| entry.uuid == uuid) {
            entry.slot = Some(slot);
            entry.cursor_rows = 0;
        }
        if let Some(disk) = self.disks.get(&uuid) {
            disk.start_filling_at(0);
        }
        self.derive();
    }

    /// Makes a member that was away, and is back, the target of its slot. The caller commits the label.
    ///
    /// # Panics
    /// If its slot is taken.
    pub(crate) fn take_back(&mut self, disk: Rc<Disk>) {
        let uuid = disk.uuid;
        self.paths.remove(&uuid);
        self.disks.insert(uuid, disk);
        self.set_state(uuid, MemberState::Rebuilding);
        if let Some(entry) = self.label.table.iter_mut().find(|entry| entry.uuid == uuid) {
            entry.cursor_rows = 0;
            entry.held_out = false;
            entry.absence = entry.absence.map(|absence| Absence {
                returning: true,
                ..absence
            });
            let taken = entry.slot.and_then(|slot| self.slots.get(slot));
            assert!(
                taken.is_some_and(|slot| {
                    slot.member.is_none() && slot.target.as_ref().is_some_and(|t| t.uuid == uuid)
                }),
                "the slot of {uuid} is taken"
            );
        }
    }

    /// Notes what is known of a member's absence. The caller commits the label.
    pub(crate) fn set_absence(&mut self, uuid: Uuid, absence: Option<Absence>) {
        self.uncommitted = true;
        if let Some(entry) = self.label.table.iter_mut().find(|entry| entry.uuid == uuid) {
            entry.absence = absence;
        }
    }

    /// Members that are being taken back have labels that say so. The caller commits the label.
    pub(crate) fn note_returned(&mut self) {
        for entry in &mut self.label.table {
            if let Some(absence) = &mut entry.absence
                && entry.state.is_live()
                && self.disks.contains_key(&entry.uuid)
            {
                self.uncommitted |= absence.returning;
                absence.returning = false;
            }
        }
    }

    /// Notes that the operator failed a member, or that a journal disk is to leave; or not, after all.
    pub(crate) fn hold_out(&mut self, uuid: Uuid, out: bool) {
        if let Some(entry) = self.label.table.iter_mut().find(|entry| entry.uuid == uuid) {
            entry.held_out = out;
        }
    }

    /// Lets every replacement begin anew.
    pub(crate) fn restart_replacements(&self) {
        for slot in &self.slots {
            if let (Some(_), Some(target)) = (&slot.member, &slot.target) {
                target.start_filling_at(0);
            }
        }
    }

    /// Adds a spare.
    pub(crate) fn add_spare(&mut self, disk: Rc<Disk>) {
        self.uncommitted = true;
        self.label.table.push(Entry {
            uuid: disk.uuid,
            slot: None,
            state: MemberState::Spare,
            cursor_rows: 0,
            since_event: self.label.event_count + 1,
            disk_bytes: disk.size,
            absence: None,
            held_out: false,
            journal: false,
            undrained: false,
        });
        self.disks.insert(disk.uuid, disk);
        self.derive();
    }

    /// Takes a disk out of the table. Its label is the caller's.
    pub(crate) fn drop_entry(&mut self, uuid: Uuid) {
        self.uncommitted = true;
        self.label.table.retain(|entry| entry.uuid != uuid);
        self.disks.remove(&uuid);
        self.paths.remove(&uuid);
        self.undrained.remove(&uuid);
        self.derive();
    }

    /// Counts a change of membership.
    pub(crate) fn count_event(&mut self) {
        self.count_events(1);
    }

    /// Counts so many.
    pub(crate) fn count_events(&mut self, events: u64) {
        self.uncommitted = true;
        self.label.event_count += events;
    }

    pub(crate) fn set_home_host(&mut self, host: Uuid) {
        self.label.home_host = host;
    }

    /// Takes a slot's former disks, which are out, off it: it has a member again.
    pub(crate) fn clear_former(&mut self, slot: usize) {
        for entry in &mut self.label.table {
            if entry.slot == Some(slot) && !entry.state.is_live() {
                entry.slot = None;
                entry.absence = None;
            }
        }
    }

    pub(crate) fn set_clean(&mut self, clean: bool) {
        self.label.clean = clean;
    }

    /// Whether the disks that are here don't all have the newest label.
    pub(crate) fn is_uneven(&self) -> bool {
        let newest = self.label.generation;
        self.live().iter().any(|disk| disk.labelled.get() != newest)
    }

    /// The next commit: takes the cursors over and raises the generation.
    pub(crate) fn next_generation(&mut self) -> ArrayLabel {
        self.label.generation += 1;
        let with_rings = self
            .label
            .table
            .iter()
            .filter(|entry| matches!(entry.state, MemberState::InSync | MemberState::Journal));
        let headers = with_rings
            .filter_map(|entry| self.disks.get(&entry.uuid))
            .filter(|disk| !disk.out.get())
            .map(|disk| disk.durable_header());
        self.label.journal_headers = headers.min().unwrap_or(0);
        for entry in &mut self.label.table {
            let filling = matches!(
                entry.state,
                MemberState::Rebuilding | MemberState::Replacing
            );
            if let Some(disk) = self.disks.get(&entry.uuid)
                && filling
            {
                entry.cursor_rows = disk.durable_rows.get();
            }
        }
        self.label.clone()
    }

    /// Lets go of all devices.
    pub(crate) fn close(&mut self) {
        let disks = std::mem::take(&mut self.disks);
        for (uuid, disk) in disks {
            self.paths.insert(uuid, Rc::clone(&disk.path));
        }
        self.derive();
    }
}
