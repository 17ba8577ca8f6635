//! Who can be read and who must be written in one row, at one moment.
//!
//! Taken under the lock of the row's columns, so that a rebuild can't pass by in between.

use std::rc::Rc;

use crate::array::disk::Disk;
use crate::geometry::{Geometry, Role, Row, Set, Slot};

/// One slot in one row.
#[derive(Clone, Default)]
pub(crate) struct SlotView {
    /// Whom to read.
    pub(crate) read: Option<Rc<Disk>>,
    /// Whom to write: the member, and a disk that is being filled and has this row.
    pub(crate) write: Vec<Rc<Disk>>,
}

/// All slots in one row.
#[derive(Clone)]
pub(crate) struct RowView {
    pub(crate) row: Row,
    geometry: Geometry,
    slots: Vec<SlotView>,
    /// Slots that failed to be read in this transaction.
    bad: Set,
}

impl RowView {
    pub(crate) fn new(row: Row, geometry: Geometry, slots: Vec<SlotView>) -> Self {
        Self {
            row,
            geometry,
            slots,
            bad: Set::EMPTY,
        }
    }

    /// Leaves a slot out of all further reads.
    pub(crate) fn distrust(&mut self, slot: Slot) {
        self.bad = self.bad.with(slot.0);
    }

    /// Leaves slots out of all further reads.
    pub(crate) fn distrust_all(&mut self, slots: Set) {
        self.bad = self.bad.or(slots);
    }

    /// Slots that were distrusted.
    pub(crate) fn distrusted(&self) -> Set {
        self.bad
    }

    pub(crate) fn reader(&self, slot: Slot) -> Option<&Rc<Disk>> {
        if self.bad.has(slot.0) {
            return None;
        }
        self.slots.get(slot.0)?.read.as_ref()
    }

    pub(crate) fn writers(&self, slot: Slot) -> &[Rc<Disk>] {
        self.slots.get(slot.0).map_or(&[], |slot| &slot.write)
    }

    /// Slots that hold data chunk `index`: one, or all on RAID 1.
    pub(crate) fn slots_of(&self, index: usize) -> impl Iterator<Item = Slot> + use<> {
        let mirrored = self.geometry.p_slot(self.row).is_none();
        let first = self.geometry.data_slot(self.row, index).0;
        let count = if mirrored { self.geometry.members() } else { 1 };
        (first..first + count).map(Slot)
    }

    /// A slot from which data chunk `index` can be read. Mirrors take turns by row.
    pub(crate) fn source(&self, index: usize) -> Option<(Slot, Rc<Disk>)> {
        let readable: Vec<(Slot, Rc<Disk>)> = self
            .slots_of(index)
            .filter_map(|slot| Some((slot, Rc::clone(self.reader(slot)?))))
            .collect();
        let count = cairn_blockdev::units::u64_of(readable.len());
        let turn = self.row.0.checked_rem(count)?;
        readable
            .into_iter()
            .nth(cairn_blockdev::units::usize_of(turn))
    }

    /// Data indices that can be read.
    pub(crate) fn readable_data(&self) -> Set {
        (0..self.geometry.data_chunks())
            .filter(|&index| self.slots_of(index).any(|slot| self.reader(slot).is_some()))
            .fold(Set::EMPTY, Set::with)
    }

    /// Slot of a parity, by role.
    pub(crate) fn parity_slot(&self, role: Role) -> Option<Slot> {
        match role {
            Role::P => self.geometry.p_slot(self.row),
            Role::Q => self.geometry.q_slot(self.row),
            Role::Data(_) => None,
        }
    }

    /// Whether a parity can be read.
    pub(crate) fn parity_readable(&self, role: Role) -> bool {
        self.parity_slot(role)
            .is_some_and(|slot| self.reader(slot).is_some())
    }

    /// Whether a parity has a place to go.
    pub(crate) fn parity_wanted(&self, role: Role) -> bool {
        self.parity_slot(role)
            .is_some_and(|slot| !self.writers(slot).is_empty())
    }
}
