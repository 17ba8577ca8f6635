//! The operator's verbs: spares, failing, removing and replacing disks, stopping, destroying.
//!
//! Each checks first and says what is in the way; what changes membership is durable on return.

use std::rc::Rc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use uuid::Uuid;

use super::create::{layout_for, prepare, wipe_label, zone_owner};
use super::disk::Disk;
use super::watch::Watched;
use super::{Array, MemberDisk};
use crate::error::RaidError;
use crate::events::EventKind;
use crate::label::TABLE_MAX;
use crate::member::MemberState;
use crate::stripe::apply::STOP_PATIENCE;

/// How often a stop looks whether the last writes are done.
const STOP_LOOK: Duration = Duration::from_millis(5);

impl Array {
    fn find(&self, name: &str) -> Result<Uuid, RaidError> {
        self.ledger
            .borrow()
            .find(name)
            .ok_or_else(|| RaidError::NoMember {
                disk: name.to_owned(),
                array: self.name.to_string(),
            })
    }

    pub(super) fn wrong_state(&self, disk: &str, state: MemberState, hint: &str) -> RaidError {
        RaidError::MemberState {
            disk: disk.to_owned(),
            state: state.to_string(),
            array: self.name.to_string(),
            hint: hint.to_owned(),
        }
    }

    /// Adds a disk as a spare. A rebuild begins by itself if a slot waits for one.
    ///
    /// Takes as long as zeroing the disk's reserved zones does.
    pub fn add_spare(
        self: &Rc<Self>,
        disk: MemberDisk,
    ) -> LocalBoxFuture<'_, Result<(), RaidError>> {
        Box::pin(async move {
            let disk = self.prepare_spare(disk).await?;
            let held = self.labels.lock().await;
            self.enlist(&disk)?;
            self.commit_event(&held).await?;
            drop(held);
            self.check_in(&disk)?;
            self.kick_sync();
            Ok(())
        })
    }

    /// Fails if a disk that was just taken in is out again: it couldn't even be labelled.
    pub(crate) fn check_in(&self, disk: &Disk) -> Result<(), RaidError> {
        if disk.out.get() {
            return Err(self.wrong_state(
                &disk.path,
                MemberState::Failed,
                "it failed when it was labelled; choose another disk",
            ));
        }
        Ok(())
    }

    /// Checks a disk and writes its zones, so that it can become a member without delay.
    async fn prepare_spare(&self, disk: MemberDisk) -> Result<Rc<Disk>, RaidError> {
        let (shape, data_bytes) = self.shape();
        let layout = layout_for(&shape, &disk, data_bytes)?;
        let device = self.newcomer(&disk).await?;
        let disk = Disk::new(self.env.new_uuid(), disk.path, device, Some(layout));
        prepare(&disk, self.uuid).await?;
        Ok(disk)
    }

    /// A disk that may be prepared for this array: it takes no part, and nothing is on its way to it.
    pub(super) async fn newcomer(&self, disk: &MemberDisk) -> Result<Watched, RaidError> {
        self.check_newcomer(&disk.path)?;
        // Before it is asked anything: what it was asked earlier could land on what follows.
        self.settled_disk(&disk.path, None).await?;
        let device = self.watch.over(&disk.path, &disk.device);
        if let Some((array, member)) = zone_owner(&device).await?
            && array == self.uuid
        {
            if self.ledger.borrow().disk(member).is_some() {
                // Whatever became of its label: what follows would overwrite a disk in use.
                let known = self.ledger.borrow().path(member);
                return Err(RaidError::SameDisk {
                    first: disk.path.to_string(),
                    second: known.map_or_else(String::new, |path| path.to_string()),
                });
            }
            self.settled_disk(&disk.path, Some(member)).await?;
        }
        Ok(device)
    }

    pub(super) fn check_newcomer(&self, path: &str) -> Result<(), RaidError> {
        self.check_open()?;
        let ledger = self.ledger.borrow();
        let known = ledger.find(path).and_then(|uuid| ledger.entry(uuid));
        match known {
            Some(entry) if entry.state.is_live() => {
                Err(self.wrong_state(path, entry.state, "it takes part already"))
            }
            // Its entry tells the next start that records are gone with it.
            Some(entry) if entry.undrained => Err(self.wrong_state(
                path,
                entry.state,
                "what was logged with it isn't in place yet; try again in a moment",
            )),
            None if ledger.label().table.len() >= TABLE_MAX => Err(RaidError::TooManyDisks {
                array: self.name.to_string(),
                max: TABLE_MAX,
            }),
            _ => Ok(()),
        }
    }

    /// Puts a prepared disk in the table as a spare, without a commit. A disk that was thrown out, or
    /// an older one at this path, comes back as a new one.
    fn enlist(&self, disk: &Rc<Disk>) -> Result<(), RaidError> {
        self.check_newcomer(&disk.path)?;
        let mut ledger = self.ledger.borrow_mut();
        if let Some(old) = ledger.find(&disk.path) {
            ledger.drop_entry(old);
        }
        ledger.add_spare(Rc::clone(disk));
        drop(ledger);
        self.report(EventKind::SpareAdded, Some(&disk.path), String::new());
        Ok(())
    }

    /// Takes a spare out and removes its label.
    pub fn remove_spare<'a>(
        self: &'a Rc<Self>,
        path: &'a str,
    ) -> LocalBoxFuture<'a, Result<(), RaidError>> {
        Box::pin(async move {
            self.check_open()?;
            let uuid = self.find(path)?;
            let held = self.labels.lock().await;
            let entry = self.ledger.borrow().entry(uuid);
            match entry {
                Some(entry) if entry.state == MemberState::Spare => {}
                Some(entry) => {
                    return Err(self.wrong_state(
                        path,
                        entry.state,
                        "`cairn disk remove` takes out failed disks, `cairn disk replace` members",
                    ));
                }
                None => {
                    return Err(RaidError::NoMember {
                        disk: path.into(),
                        array: self.name.to_string(),
                    });
                }
            }
            self.take_out(uuid, path).await;
            self.commit_event(&held).await
        })
    }

    /// Drops an entry; wipes the label if the disk is there.
    async fn take_out(&self, uuid: Uuid, path: &str) {
        let disk = self.ledger.borrow().disk(uuid);
        self.ledger.borrow_mut().drop_entry(uuid);
        if let Some(disk) = disk {
            if let Err(error) = wipe_label(disk.device()).await {
                self.report(
                    EventKind::DiskError,
                    Some(path),
                    format!("its label stays: {error}"),
                );
            }
            disk.flights().retire();
        }
        self.report(EventKind::DiskRemoved, Some(path), String::new());
    }

    /// Whether a member could be failed or removed now, and what would be left.
    pub fn redundancy_without(&self, path: &str) -> Result<usize, RaidError> {
        let uuid = self.find(path)?;
        let ledger = self.ledger.borrow();
        let holds = ledger
            .entry(uuid)
            .is_some_and(|entry| entry.state == MemberState::InSync);
        let missing = ledger.slots_missing() + usize::from(holds);
        self.geometry.redundancy().checked_sub(missing).ok_or_else(|| RaidError::NoRedundancy {
            array: self.name.to_string(),
            disk: path.to_owned(),
            reason: format!(
                "{} member(s) are missing already and {} survives {}; wait for the rebuild, or add \
                 a spare",
                missing - usize::from(holds),
                self.geometry.level(),
                self.geometry.redundancy()
            ),
        })
    }

    /// Fails a member: it is thrown out, and a spare takes its place. Refused where data would go.
    pub fn fail_member<'a>(
        self: &'a Rc<Self>,
        path: &'a str,
    ) -> LocalBoxFuture<'a, Result<(), RaidError>> {
        Box::pin(async move {
            self.check_open()?;
            let uuid = self.find(path)?;
            let entry = self.ledger.borrow().entry(uuid);
            let disk = self.ledger.borrow().disk(uuid);
            match (entry, disk) {
                (Some(entry), Some(disk)) if entry.state.is_live() => {
                    if entry.state == MemberState::InSync {
                        self.redundancy_without(path)?;
                    }
                    disk.held_out.set(true);
                    self.eject(&disk, "failed by the operator").await;
                    self.check_open()
                }
                (Some(entry), _) => Err(self.wrong_state(path, entry.state, "it is out already")),
                (None, _) => Err(RaidError::NoMember {
                    disk: path.into(),
                    array: self.name.to_string(),
                }),
            }
        })
    }

    /// Forgets a disk that is out, or a spare.
    pub fn remove_member<'a>(
        self: &'a Rc<Self>,
        path: &'a str,
    ) -> LocalBoxFuture<'a, Result<(), RaidError>> {
        Box::pin(async move {
            self.check_open()?;
            let uuid = self.find(path)?;
            let entry = self.ledger.borrow().entry(uuid);
            if entry.is_some_and(|entry| entry.undrained) {
                self.lost_copies_drained().await?;
            }
            let held = self.labels.lock().await;
            let entry = self.ledger.borrow().entry(uuid);
            let Some(entry) = entry else {
                return Err(RaidError::NoMember {
                    disk: path.into(),
                    array: self.name.to_string(),
                });
            };
            if entry.undrained || (entry.state.is_live() && entry.state != MemberState::Spare) {
                return Err(self.wrong_state(
                    path,
                    entry.state,
                    "fail it first (`cairn disk fail`), or replace it (`cairn disk replace`)",
                ));
            }
            self.take_out(uuid, path).await;
            self.commit_event(&held).await
        })
    }

    /// Fills `new` for the slot of `old`, from `old` while it lives, and then takes `old` out.
    ///
    /// `new` may be a spare of this array or a blank disk; in the place of a journal disk a blank disk.
    pub fn replace_member<'a>(
        self: &'a Rc<Self>,
        old: &'a str,
        new: MemberDisk,
    ) -> LocalBoxFuture<'a, Result<(), RaidError>> {
        Box::pin(async move {
            let uuid = self.find(old)?;
            if self.ledger.borrow().entry(uuid).is_some_and(|e| e.journal) {
                return self.replace_journal_disk(uuid, old, new).await;
            }
            self.replaceable(old)?;
            let spare = self.spare_named(&new.path);
            let prepared = match spare {
                Some(spare) => spare,
                None => self.prepare_spare(new).await?,
            };
            let held = self.labels.lock().await;
            // Looked at again: preparing a disk may take minutes.
            let (slot, state) = self.replaceable(old)?;
            if self.spare_named(&prepared.path).is_none() {
                if prepared.out.get() {
                    return Err(self.wrong_state(
                        &prepared.path,
                        MemberState::Failed,
                        "it failed just now; choose another disk",
                    ));
                }
                self.enlist(&prepared)?;
            }
            self.begin_target(&held, &prepared, slot, state).await?;
            drop(held);
            self.kick_sync();
            Ok(())
        })
    }

    /// Whether [`Array::replace_member`] would take another disk for `old` now: to be asked before anything on that is changed.
    pub fn check_replaceable(&self, old: &str) -> Result<(), RaidError> {
        self.check_open()?;
        let uuid = self.find(old)?;
        if self.ledger.borrow().entry(uuid).is_some_and(|e| e.journal) {
            return Ok(());
        }
        self.replaceable(old).map(|_| ())
    }

    /// The slot of a disk that can be replaced, and what its replacement becomes.
    fn replaceable(&self, old: &str) -> Result<(usize, MemberState), RaidError> {
        self.check_open()?;
        let uuid = self.find(old)?;
        let ledger = self.ledger.borrow();
        let Some((entry, slot)) = ledger.entry(uuid).and_then(|e| Some((e, e.slot?))) else {
            return Err(RaidError::NoMember {
                disk: old.into(),
                array: self.name.to_string(),
            });
        };
        if ledger
            .slots()
            .get(slot)
            .is_some_and(|disks| disks.target.is_some())
        {
            return Err(self.wrong_state(
                old,
                entry.state,
                "its slot is being filled already; `cairn array show` tells how far",
            ));
        }
        let taken = ledger
            .slots()
            .get(slot)
            .is_some_and(|disks| disks.member.is_some());
        match entry.state {
            MemberState::InSync => Ok((slot, MemberState::Replacing)),
            MemberState::Failed | MemberState::Missing if !taken => {
                Ok((slot, MemberState::Rebuilding))
            }
            other => Err(self.wrong_state(old, other, "only members are replaced")),
        }
    }

    fn spare_named(&self, path: &str) -> Option<Rc<Disk>> {
        let ledger = self.ledger.borrow();
        let uuid = ledger.find(path)?;
        let spare = ledger.entry(uuid)?.state == MemberState::Spare;
        ledger.disk(uuid).filter(|_| spare)
    }

    /// Whether the array is stopping, and all that was under way when that began is over.
    pub(crate) fn has_ended(&self) -> bool {
        let is_busy = self.active_writes.get() > 0
            || self.sync.is_running()
            || self.scrub.is_running()
            || self.gates.in_use();
        self.stopping.get() && !is_busy
    }

    /// Waits until all that was under way is over. Who waits for room in a journal that nothing leaves is refused.
    async fn until_ended(&self) {
        let journal = self.journal();
        let floor = || journal.as_ref().map(|journal| journal.floor());
        let mut moved = (floor(), self.env.clock.now());
        while !self.has_ended() {
            self.env.clock.sleep(STOP_LOOK).await;
            let now = self.env.clock.now();
            if floor() != moved.0 {
                moved = (floor(), now);
            } else if now.since(moved.1) >= STOP_PATIENCE
                && let Some(journal) = &journal
                && !self.unfinished.borrow().is_empty()
            {
                journal.admit_no_more();
            }
        }
    }

    /// Stops cleanly: no more requests, everything flushed, labels clean, disks closed.
    pub fn stop(self: &Rc<Self>) -> LocalBoxFuture<'_, Result<(), RaidError>> {
        Box::pin(async move {
            self.stopping.set(true);
            self.scrub.wake();
            self.until_ended().await;
            let broken = self.check_unbroken();
            if broken.is_ok() && !self.is_read_only() {
                // A failure has ejected its disk; what is left is flushed.
                let is_empty = self.empty_journal().await;
                let _ = self.checkpoint().await;
                let _ = self.flush_all().await;
                if !is_empty {
                    self.close_unfinished().await;
                    return Ok(());
                }
                self.dirty.set(true);
                // A disk that fails its last flush is ejected, and the others are asked again.
                for _ in 0..=self.geometry.redundancy() + self.with_rings().len() {
                    self.settle().await;
                    self.mark_clean().await?;
                    if !self.dirty.get() {
                        break;
                    }
                }
                self.report(EventKind::DeviceDisappeared, None, "stopped".into());
            }
            let _held = self.labels.lock().await;
            self.closed.set(true);
            self.ledger.borrow_mut().close();
            broken
        })
    }

    /// Ends with rows in the journal that can't be finished: as a crash would, but that everything is flushed.
    async fn close_unfinished(self: &Rc<Self>) {
        self.given_up().await;
        let what = match self.unfinished.borrow().len() {
            0 => "what logs keep".to_owned(),
            rows => format!("records of {rows} rows that can't be put in place now"),
        };
        let detail = format!("stopped; {what} wait in the journal for the next start");
        self.report(EventKind::DeviceDisappeared, None, detail);
        let _held = self.labels.lock().await;
        self.closed.set(true);
        self.ledger.borrow_mut().close();
    }

    /// Stops and removes the labels of all disks.
    pub fn destroy(self: &Rc<Self>) -> LocalBoxFuture<'_, Result<(), RaidError>> {
        Box::pin(async move {
            if self.is_read_only() {
                self.check_open()?;
            }
            let disks = self.ledger.borrow().live();
            // What is destroyed needs no clean end, but its writes must be over.
            let _ = self.stop().await;
            // A disk that can't be wiped doesn't keep the others from it.
            let mut outcome = Ok(());
            for disk in disks {
                outcome = outcome.and(wipe_label(disk.device()).await);
            }
            outcome
        })
    }
}
