//! What the filling of slots ([`crate::sync`]) needs of the ledger and the labels.

use std::rc::Rc;

use tokio::sync::MutexGuard;

use super::Array;
use super::create::wipe_label;
use super::disk::Disk;
use crate::error::RaidError;
use crate::events::EventKind;
use crate::geometry::Slot;
use crate::member::MemberState;

impl Array {
    /// Excludes every other change of the label.
    pub(crate) async fn lock_labels(&self) -> MutexGuard<'_, ()> {
        self.labels.lock().await
    }

    /// A slot that nobody fills, and a spare for it.
    pub(crate) fn next_spare(&self) -> Option<(usize, Rc<Disk>)> {
        let ledger = self.ledger.borrow();
        let slot = ledger
            .slots()
            .iter()
            .position(|slot| slot.member.is_none() && slot.target.is_none())?;
        let spare = ledger
            .label()
            .table
            .iter()
            .filter(|entry| entry.state == MemberState::Spare)
            .find_map(|entry| ledger.disk(entry.uuid).filter(|disk| !disk.out.get()))?;
        Some((slot, spare))
    }

    /// Slots being filled.
    pub(crate) fn slot_targets(&self) -> Vec<(usize, Rc<Disk>)> {
        let ledger = self.ledger.borrow();
        let targets = ledger.slots().iter().enumerate();
        targets
            .filter_map(|(slot, disks)| Some((slot, Rc::clone(disks.target.as_ref()?))))
            .filter(|(_, disk)| !disk.out.get())
            .collect()
    }

    /// Whether a slot has no member.
    pub(crate) fn any_slot_empty(&self) -> bool {
        self.ledger.borrow().slots_missing() > 0
    }

    /// Gives a spare a slot to fill, in memory.
    pub(crate) fn start_target(&self, disk: &Disk, slot: usize, state: MemberState) {
        self.ledger
            .borrow_mut()
            .start_target(disk.uuid, slot, state);
    }

    /// Makes a filled disk the member of its slot, in memory, and gives back the member that it
    /// replaces, which is out of the array once this is committed.
    pub(crate) fn promote(&self, disk: &Disk, slot: usize) -> Option<Rc<Disk>> {
        self.sums_joined(Slot(slot));
        let mut ledger = self.ledger.borrow_mut();
        let old = ledger
            .slots()
            .get(slot)
            .and_then(|disks| disks.member.clone());
        if let Some(old) = &old {
            ledger.set_state(old.uuid, MemberState::Removed);
            ledger.drop_entry(old.uuid);
        }
        ledger.set_state(disk.uuid, MemberState::InSync);
        ledger.clear_former(slot);
        old
    }

    /// Removes the label of a disk that was replaced; it may be pulled.
    pub(crate) async fn dismiss(&self, old: &Disk) {
        let wiped = wipe_label(old.device()).await;
        // Whoever still has an old view of a row writes it no more.
        old.flights().retire();
        let detail = match wiped {
            Ok(()) => "replaced; its label is wiped and it may be pulled".to_owned(),
            Err(error) => format!("replaced; its label stays, wipe it before reuse: {error}"),
        };
        self.report(EventKind::DiskRemoved, Some(&old.path), detail);
    }

    /// Rows of an extent.
    pub(crate) fn rows_per_extent(&self) -> u64 {
        self.ledger.borrow().label().rows_per_extent
    }

    /// The error of an array that is broken.
    pub(crate) fn lost_error(&self) -> RaidError {
        let reason = self.broken.borrow().clone().unwrap_or_default();
        RaidError::Failed {
            array: self.name.to_string(),
            reason,
        }
    }
}
