//! Disks that hold a ring of the journal and nothing else.
//!
//! ```text
//!   create, replace ─▶ journal ─┬─▶ failed, missing: undrained ─▶ (all of then in place) ─▶ out
//!                               └─▶ replaced: leaving ──────────▶ (all of then in place) ─▶ gone
//!
//!   R+1 of them answer: a group goes to R+1 of them │ fewer: to the members, as if there were none
//! ```
//!
//! Invariants
//! - A group counts as logged by its copies on journal disks alone or on members alone. So any R journal
//!   disks may be lost, whatever becomes of members, and the other way round.
//! - A journal disk takes groups only once every label has it. When it is out it counts among the lost,
//!   durably, until all that was logged with it is in place and trimmed: [`Entry::undrained`]. One that is
//!   replaced gets no more groups and stays in service for as long.
//! - It makes an array neither degraded nor broken.
//! - What the rings of journal disks admit, the members' rings take, too: the ring can move at any time.
//!
//! [`Entry::undrained`]: crate::label::Entry::undrained

use std::rc::Rc;
use std::time::Duration;

use uuid::Uuid;

use super::create::prepare;
use super::disk::Disk;
use super::ledger::Ledger;
use super::status::JournalStatus;
use super::{Array, MemberDisk};
use crate::error::RaidError;
use crate::events::EventKind;
use crate::journal::entry::Seq;
use crate::journal::log::Journal;
use crate::journal::open::Opened;
use crate::label::{ArrayLabel, TABLE_MAX};
use crate::layout::{JOURNAL_DISK_MIN, Layout, ZoneKind, journal_disk_layout};
use crate::member::MemberState;

/// A cycle that didn't bring the floor far enough is followed by the next one after this.
const DRAIN_PAUSE: Duration = Duration::from_millis(300);

/// Journal disks beyond this are of no use, but for a mirror of many, which needs one for each member.
const JOURNAL_DISKS_MAX: usize = 4;

/// How many journal disks an array with that redundancy takes: at least, and at most.
pub(super) fn journal_disks_bounds(redundancy: usize) -> (usize, usize) {
    let fewest = redundancy + 1;
    (fewest, fewest.max(JOURNAL_DISKS_MAX))
}

/// The zones of a disk as a journal disk, or why it can't be one.
pub(super) fn journal_layout_for(
    path: &str,
    size: u64,
    journal_bytes: Option<u64>,
) -> Result<Layout, RaidError> {
    journal_disk_layout(size, journal_bytes).ok_or_else(|| RaidError::TooSmall {
        disk: path.to_owned(),
        size,
        need: JOURNAL_DISK_MIN,
        what: "labels and a journal".into(),
    })
}

/// Journal disks that should be in service and aren't among `trusted`; and all whose copies are lost.
pub(super) fn lost_journal_disks(
    label: &ArrayLabel,
    trusted: impl Fn(Uuid) -> bool,
) -> (Vec<Uuid>, Vec<Uuid>) {
    let is_absent = |state, uuid| state == MemberState::Journal && !trusted(uuid);
    let table = label.table.iter();
    let lost = table.filter(|entry| entry.undrained || is_absent(entry.state, entry.uuid));
    let (mut absent, mut all) = (Vec::new(), Vec::new());
    for entry in lost {
        all.push(entry.uuid);
        if !entry.undrained {
            absent.push(entry.uuid);
        }
    }
    (absent, all)
}

/// Why an array isn't started without these.
pub(super) fn too_few_copies(lost: &[Uuid]) -> String {
    let names: Vec<String> = lost.iter().map(Uuid::to_string).collect();
    format!(
        "it was stopped in the middle of writes, and of its journal disks too many are gone ({}): acked \
         writes may be on them alone; bring them back, or start with --force: what was written last is \
         lost then, and rows that were being written may hold old data or give errors; scrub and check \
         them",
        names.join(", ")
    )
}

impl Array {
    /// Journal disks that take groups.
    pub(crate) fn rings_of_their_own(&self, journal: &Journal) -> Vec<Rc<Disk>> {
        let mut disks = self.ledger.borrow().journal_disks();
        disks.retain(|disk| journal.has_ring(disk) && !disk.held_out.get());
        disks
    }

    /// Every disk that has a ring: members in sync, and journal disks.
    pub(crate) fn with_rings(&self) -> Vec<Rc<Disk>> {
        let mut disks = self.in_sync();
        disks.extend(self.ledger.borrow().journal_disks());
        disks
    }

    /// Every disk that a flush is for.
    pub(crate) fn flushed_disks(&self) -> Vec<Rc<Disk>> {
        let ledger = self.ledger.borrow();
        let mut disks = ledger.with_data();
        disks.extend(ledger.journal_disks());
        disks
    }

    /// Where the journal is, of an array that has, or had, disks for it.
    pub(super) fn journal_status(&self, ledger: &Ledger) -> Option<JournalStatus> {
        let serving = ledger.journal_disks().len();
        let disks = serving - ledger.leaving_journal_disks().len();
        // One that was just thrown out counts before the ledger says so.
        let draining =
            ledger.undrained_below().is_some() || serving < ledger.journal_disks_listed();
        let wanted = self.geometry.redundancy() + 1;
        ledger.label().has_journal_disks().then_some(JournalStatus {
            disks,
            wanted,
            on_members: disks < wanted,
            draining,
        })
    }

    /// Whether too few journal disks are in service, of an array that has, or had, some.
    pub(super) fn journal_is_displaced(&self) -> bool {
        let status = self.journal_status(&self.ledger.borrow());
        status.is_some_and(|status| status.on_members)
    }

    /// Moves a journal disk out in the ledger. The caller holds the labels and commits.
    pub(super) fn put_out_journal_disk(&self, disk: &Rc<Disk>, why: &str) {
        let detail = format!("was {}: {why}", MemberState::Journal);
        self.report(EventKind::Fail, Some(&disk.path), detail);
        let next = self.journal().map_or(Seq::FIRST, |journal| journal.next());
        let mut ledger = self.ledger.borrow_mut();
        ledger.set_state(disk.uuid, MemberState::Failed);
        ledger.note_undrained(disk.uuid, next);
        drop(ledger);
        disk.flights().retire();
        if disk.held_out.get() {
            self.ledger.borrow_mut().hold_out(disk.uuid, true);
        }
        // By state: of several that go at once each is put out on its own, and it is said once.
        let listed = self.ledger.borrow().journal_disks_listed();
        if listed == self.geometry.redundancy() {
            self.say_on_members();
        }
    }

    /// Says that too few journal disks are left.
    pub(super) fn say_on_members(&self) {
        let left = self.ledger.borrow().journal_disks().len();
        let detail = format!(
            "{left} journal disk(s) are left and it takes {}: THE JOURNAL IS ON THE MEMBERS NOW, which \
             costs speed and no safety; `cairn disk replace OLD NEW` puts a new one in",
            self.geometry.redundancy() + 1
        );
        self.report(EventKind::JournalOnMembers, None, detail);
    }

    /// Throws out journal disks that say nothing of what they should hold.
    pub(super) fn throw_out_blind_journal_disks(self: &Rc<Self>, opened: &Opened) {
        for disk in opened.blind_journal_disks() {
            self.throw_out(disk, "its ring, or the header of it, can't be read");
        }
    }

    /// Refuses a start after an unclean stop if records may be gone with journal disks. True if they may be
    /// and the operator wants it so.
    pub(super) fn check_journal_copies(
        &self,
        unclean: bool,
        forced: bool,
    ) -> Result<bool, RaidError> {
        let lost = self.journal_disks_lost();
        let too_few = unclean && lost.len() > self.geometry.redundancy();
        if too_few && !forced {
            return Err(RaidError::NotStarted {
                array: self.name.to_string(),
                reason: too_few_copies(&lost),
                wait_may_help: true,
                force_may_help: true,
            });
        }
        Ok(too_few)
    }

    /// Journal disks whose copies are lost.
    pub(super) fn journal_disks_lost(&self) -> Vec<Uuid> {
        let ledger = self.ledger.borrow();
        let is_here = |uuid| ledger.disk(uuid).is_some_and(|disk| !disk.out.get());
        lost_journal_disks(ledger.label(), is_here).1
    }

    /// Bytes of the smallest ring that a journal disk in the table has, or had.
    pub(super) fn smallest_ring(&self) -> Option<u64> {
        let (shape, _) = self.shape();
        let ledger = self.ledger.borrow();
        let disks = ledger.label().table.iter().filter(|entry| entry.journal);
        let rings = disks.filter_map(|entry| {
            let layout = journal_disk_layout(entry.disk_bytes, shape.journal_bytes)?;
            Some(layout.zone(ZoneKind::Journal).len)
        });
        let zone = rings.min()?;
        Some(zone.saturating_sub(crate::journal::header::RING_OFFSET))
    }

    /// A new epoch has begun: nothing of what went before is needed of any journal disk.
    pub(super) async fn forget_lost_copies(self: &Rc<Self>) -> Result<(), RaidError> {
        let leaving = self.ledger.borrow().leaving_journal_disks();
        if self.ledger.borrow_mut().note_drained(None) && leaving.is_empty() {
            let held = self.labels.lock().await;
            self.commit(&held).await?;
        }
        for disk in leaving {
            self.let_journal_disk_go(&disk).await?;
        }
        Ok(())
    }

    /// Takes a journal disk out that was replaced and that nobody needs any more.
    async fn let_journal_disk_go(self: &Rc<Self>, disk: &Rc<Disk>) -> Result<(), RaidError> {
        let held = self.labels.lock().await;
        if !disk.out.get() {
            self.ledger.borrow_mut().let_go(disk.uuid);
            self.commit_event(&held).await?;
            drop(held);
            self.dismiss(disk).await;
        }
        Ok(())
    }

    /// Applies until everything below is in place and trimmed, also what logs need.
    async fn trim_through(
        self: &Rc<Self>,
        journal: &Rc<Journal>,
        below: Seq,
    ) -> Result<(), RaidError> {
        while journal.trimmed_below() < below {
            self.check_open()?;
            self.renew_logs(below);
            self.run_cycle().await;
            if journal.trimmed_below() < below {
                self.env.clock.sleep(DRAIN_PAUSE).await;
            }
        }
        Ok(())
    }

    /// Brings to its place, soon, what has a copy less because journal disks went.
    pub(super) fn kick_journal_drain(self: &Rc<Self>) {
        let needed = self.ledger.borrow().undrained_below().is_some();
        if needed && self.is_open() && !self.draining.replace(true) {
            let array = Rc::clone(self);
            self.env.spawn.spawn(Box::pin(async move {
                array.drain_lost_copies().await;
                array.draining.set(false);
            }));
        }
    }

    /// Applies until no journal disk that is out matters any more, and the labels say so.
    async fn drain_lost_copies(self: &Rc<Self>) {
        loop {
            let below = self.ledger.borrow().undrained_below();
            let (Some(below), Some(journal)) = (below, self.journal()) else {
                return;
            };
            if self.trim_through(&journal, below).await.is_err() {
                // Stopping, or broken.
                return;
            }
            let held = self.labels.lock().await;
            let floor = journal.trimmed_below();
            let changed = self.ledger.borrow_mut().note_drained(Some(floor));
            if changed && self.commit(&held).await.is_err() {
                return;
            }
        }
    }

    /// Waits until no journal disk that is out matters any more.
    pub(super) async fn lost_copies_drained(self: &Rc<Self>) -> Result<(), RaidError> {
        loop {
            let needed = self.ledger.borrow().undrained_below().is_some();
            if !needed {
                return Ok(());
            }
            self.check_open()?;
            self.kick_journal_drain();
            self.env.clock.sleep(DRAIN_PAUSE / 30).await;
        }
    }

    /// Puts a new journal disk in the place of one that is in service or out. Nothing is copied: what the
    /// old one holds is brought to its place, and then the old one is let go.
    pub(super) async fn replace_journal_disk(
        self: &Rc<Self>,
        old: Uuid,
        old_name: &str,
        new: MemberDisk,
    ) -> Result<(), RaidError> {
        let Some(journal) = self.journal() else {
            return Err(RaidError::NoJournal);
        };
        // Entries that are dropped below must not be needed any more.
        self.lost_copies_drained().await?;
        let disk = self.prepare_journal_disk(&journal, new).await?;
        let failed = |disk: &Rc<Disk>| {
            let hint = "it failed just now; choose another disk";
            self.wrong_state(&disk.path, MemberState::Failed, hint)
        };
        self.write_journal_headers(&journal, std::slice::from_ref(&disk))
            .await;
        if disk.out.get() {
            return Err(failed(&disk));
        }
        disk.flush().await?;
        let held = self.labels.lock().await;
        self.check_newcomer(&disk.path)?;
        let entry = self.ledger.borrow().entry(old);
        let Some(entry) = entry.filter(|entry| entry.journal && !entry.undrained) else {
            return Err(RaidError::NoMember {
                disk: old_name.to_owned(),
                array: self.name.to_string(),
            });
        };
        self.enter_service(entry.state.is_live(), old, &disk)?;
        self.ledger.borrow_mut().hold_out(old, true);
        self.commit_event(&held).await?;
        if disk.out.get() {
            self.ledger.borrow_mut().hold_out(old, false);
            self.commit(&held).await?;
            return Err(failed(&disk));
        }
        journal.add_ring(&disk);
        self.report(
            EventKind::JournalDiskActive,
            Some(&disk.path),
            format!("in the place of {old_name}"),
        );
        let former = self.ledger.borrow().disk(old);
        let Some(former) = former.filter(|former| !former.out.get()) else {
            return Ok(());
        };
        former.held_out.set(true);
        drop(held);
        self.trim_through(&journal, journal.next()).await?;
        self.let_journal_disk_go(&former).await
    }

    /// Lists a new journal disk, and no longer what was at its path or, unless it lives, the old one.
    fn enter_service(&self, lives: bool, old: Uuid, disk: &Rc<Disk>) -> Result<(), RaidError> {
        let mut ledger = self.ledger.borrow_mut();
        let before = ledger.find(&disk.path);
        if lives && before.is_none() && ledger.label().table.len() >= TABLE_MAX {
            return Err(RaidError::TooManyDisks {
                array: self.name.to_string(),
                max: TABLE_MAX,
            });
        }
        let gone = (!lives).then_some(old);
        for uuid in gone.into_iter().chain(before) {
            ledger.drop_entry(uuid);
        }
        ledger.add_journal_disk(Rc::clone(disk));
        Ok(())
    }

    /// Checks a disk and writes its zones, so that it can become a journal disk without delay.
    async fn prepare_journal_disk(
        &self,
        journal: &Journal,
        new: MemberDisk,
    ) -> Result<Rc<Disk>, RaidError> {
        let (shape, _) = self.shape();
        let size = new.device.geometry().size;
        let layout = journal_layout_for(&new.path, size, shape.journal_bytes)?;
        let device = self.newcomer(&new).await?;
        let disk = Disk::new(self.env.new_uuid(), new.path, device, Some(layout));
        disk.ring_only.set(true);
        let has = crate::journal::log::ring_bytes(&disk);
        let needs = journal.ring_bytes_min();
        if has < needs {
            return Err(RaidError::TooSmall {
                disk: disk.path.to_string(),
                size,
                need: size + (needs - has),
                what: "a journal like those of the other journal disks".into(),
            });
        }
        // What fails here must not leave a label behind that looks like the array's: there is none yet.
        prepare(&disk, self.uuid).await?;
        Ok(disk)
    }
}
