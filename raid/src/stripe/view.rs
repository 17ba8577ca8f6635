//! Who can be read and who must be written in one row, at one moment.
//!
//! Taken under the lock of the row's columns, so that a rebuild can't pass by in between.

use std::rc::Rc;

use crate::array::disk::Disk;
use crate::array::flights::Patience;
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
    /// Shared by all clones: what they learn is beside it.
    slots: Rc<[SlotView]>,
    /// Slots that failed to be read in this transaction.
    bad: Set,
    /// Those of them whose disk refused to give what it holds.
    refused: Set,
    /// Slots whose disk is slow, left out as long as the others suffice.
    late: Set,
    /// Slots whose disk is slow and that are waited for, because the others don't suffice.
    patient: Set,
}

/// A slot that couldn't be read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unread {
    pub(crate) slot: Slot,
    pub(crate) why: Why,
}

/// Why a slot couldn't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// Its disk didn't fail: it gave no answer in time.
    Late,
    /// Its disk gave an error.
    Refused,
    /// Nothing vouches for what it gave.
    Unverified,
}

impl RowView {
    pub(crate) fn new(row: Row, geometry: Geometry, slots: Vec<SlotView>) -> Self {
        let slow = |slot: &SlotView| slot.read.as_ref().is_some_and(|d| d.is_slow());
        let late = (0..slots.len()).filter(|&at| slots.get(at).is_some_and(slow));
        Self {
            row,
            geometry,
            late: late.fold(Set::EMPTY, Set::with),
            slots: Rc::from(slots),
            bad: Set::EMPTY,
            refused: Set::EMPTY,
            patient: Set::EMPTY,
        }
    }

    /// Leaves a slot out of further reads; one that is late only until the others don't suffice.
    pub(crate) fn leave_out(&mut self, unread: Unread) {
        let at = unread.slot.0;
        match unread.why {
            Why::Late if !self.patient.has(at) => self.late = self.late.with(at),
            Why::Refused => {
                self.bad = self.bad.with(at);
                self.refused = self.refused.with(at);
            }
            Why::Late | Why::Unverified => self.bad = self.bad.with(at),
        }
    }

    /// Takes over what a clone of this view has learnt.
    pub(crate) fn learn(&mut self, other: &Self) {
        self.bad = self.bad.or(other.bad);
        self.refused = self.refused.or(other.refused);
        self.patient = self.patient.or(other.patient);
        self.late = self.late.or(other.late).minus(self.patient);
    }

    /// Slots that failed to be read: what they hold is to be mended.
    pub(crate) fn distrusted(&self) -> Set {
        self.bad
    }

    /// Whether a slot's disk gave an error.
    pub(crate) fn refused(&self, slot: Slot) -> bool {
        self.refused.has(slot.0)
    }

    /// Slots that aren't read, failed or late.
    pub(crate) fn left_out(&self) -> Set {
        self.bad.or(self.late)
    }

    /// The others don't suffice: what is late is waited for from now on. False if nothing was late.
    pub(crate) fn wait_for_late(&mut self) -> bool {
        let some = !self.late.is_empty();
        self.patient = self.patient.or(self.late);
        self.late = Set::EMPTY;
        some
    }

    /// Every slot is waited for: what the others would give in its place can't be trusted.
    pub(crate) fn wait_for_all(&mut self) {
        self.patient = Set::first(self.slots.len());
        self.late = Set::EMPTY;
    }

    /// How long a slot's disk is waited for.
    pub(crate) fn patience(&self, slot: Slot) -> Patience {
        if self.patient.has(slot.0) {
            Patience::Eject
        } else {
            Patience::Reconstruct
        }
    }

    pub(crate) fn reader(&self, slot: Slot) -> Option<&Rc<Disk>> {
        if self.left_out().has(slot.0) {
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
