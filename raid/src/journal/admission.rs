//! Room for records: in the rings, and in the memory that holds them until they are in place.
//!
//! Invariants
//! - A record is admitted before it gets a sequence, and what it was admitted with is given back when
//!   the floor has passed it, and the floor is durable; at once if it comes to nothing.
//! - What is admitted fits into three quarters of the rings, with as many members gone as can be.

use std::collections::BTreeMap;

use cairn_blockdev::IoErrorKind;
use cairn_blockdev::units::{BLOCK, u64_of, usize_of};
use uuid::Uuid;

use super::entry::Seq;
use super::log::Journal;
use super::ring::Ring;
use crate::array::disk::Disk;
use crate::memory::{MemoryShare, Quota};

/// What a record that isn't trimmed yet was admitted with.
pub(super) struct Admitted {
    seq: Seq,
    units: u32,
}

/// Permission to queue a record: space for it in the rings and in memory. Dropped, it gives that back.
pub(crate) struct Admission {
    from: Quota,
    units: u32,
}

impl Admission {
    /// It is a record's from here on.
    fn take(mut self) -> u32 {
        std::mem::take(&mut self.units)
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.from.give_back(u64::from(self.units));
    }
}

impl Journal {
    /// Bytes of records that may be admitted at once.
    pub(crate) fn admits_bytes(&self) -> u64 {
        u64::from(self.admission.size()) * BLOCK
    }

    /// Changes how much memory there is for records. As many as the rings take are admitted at most.
    pub(crate) fn set_admitted_max(&self, bytes: u64) {
        self.admission
            .resize(self.rings_take.min(units_within(bytes)));
    }

    /// Bytes of admitted records that aren't trimmed.
    pub(crate) fn admitted_bytes(&self) -> u64 {
        let left = self.admission.free() * BLOCK;
        self.admits_bytes().saturating_sub(left)
    }

    /// Whoever waits for room, or asks for it, is refused.
    pub(crate) fn admit_no_more(&self) {
        self.admission.close();
    }

    /// A record was copied: the copy takes over what it was admitted with. The copy is the newest record.
    pub(crate) fn readmit(&self, old: Seq, copy: Seq) {
        let mut admitted = self.admitted.borrow_mut();
        // The first of that sequence: what is held for more copies comes behind it.
        let at = admitted.partition_point(|one| one.seq < old);
        if let Some(one) = admitted.get_mut(at).filter(|one| one.seq == old) {
            let units = std::mem::take(&mut one.units);
            admitted.push_back(Admitted { seq: copy, units });
        }
    }

    /// A record has got its sequence.
    pub(super) fn note_admitted(&self, seq: Seq, admission: Admission) {
        let mut admitted = self.admitted.borrow_mut();
        let units = admission.take();
        admitted.push_back(Admitted { seq, units });
    }

    /// More copies of a record were made: given back no earlier than what the newest record has.
    pub(super) fn note_more_copies(&self, admission: Admission) {
        self.note_admitted(Seq(self.next().0.saturating_sub(1)), admission);
    }

    /// Everything below is trimmed.
    pub(super) fn give_back_below(&self, floor: Seq) {
        let mut admitted = self.admitted.borrow_mut();
        let mut units = 0u64;
        while admitted.front().is_some_and(|first| first.seq < floor) {
            units += admitted
                .pop_front()
                .map_or(0, |first| u64::from(first.units));
        }
        self.admission.give_back(units);
    }

    /// Whether so much is admitted that applying should not wait for more.
    pub(crate) fn is_crowded(&self) -> bool {
        self.admission.free() * 2 < u64::from(self.admission.size())
    }

    /// Whether some ring has more in it than was admitted, by a sixteenth of its length: descriptors, and what logs said of
    /// their records.
    pub(crate) fn holds_unadmitted(&self) -> bool {
        let admitted = self.admitted_bytes();
        let rings = self.rings.borrow();
        let mut rings = rings.values();
        rings.any(|ring| ring.used_bytes() > admitted + ring.len_bytes() / 16)
    }

    /// Bytes that are free in a disk's ring.
    pub(crate) fn free_bytes(&self, disk: &Disk) -> u64 {
        let rings = self.rings.borrow();
        rings.get(&disk.uuid).map_or(0, Ring::free_bytes)
    }

    fn units_of(&self, bytes: u64) -> u32 {
        let units = u32::try_from(bytes / BLOCK).unwrap_or(u32::MAX);
        units.min(self.admission.size())
    }

    /// Room for a record of so many payload bytes, if there is some now.
    pub(crate) fn try_admit(&self, payload: usize) -> Option<Admission> {
        self.try_admit_bytes(admission_bytes(payload))
    }

    /// Room for a prepared operation of so many payload bytes, if there is some now.
    pub(crate) fn try_admit_operation(&self, payload: usize) -> Option<Admission> {
        self.try_admit_bytes(operation_bytes(payload))
    }

    fn try_admit_bytes(&self, bytes: u64) -> Option<Admission> {
        let units = self.units_of(bytes);
        self.admission.try_acquire(units)?.forget();
        Some(Admission {
            from: self.admission.clone(),
            units,
        })
    }

    /// Room for so many more copies of a group, of those that what it was admitted with is for.
    pub(super) fn try_admit_copies(&self, len: u64, more: usize, of: usize) -> Option<Admission> {
        let bytes = len * u64_of(more);
        self.try_admit(usize_of(bytes.div_ceil(u64_of(of.max(1)))))
    }

    /// Waits for room for a record of so many payload bytes.
    pub(crate) async fn admit(&self, payload: usize) -> Result<Admission, IoErrorKind> {
        self.admit_sum(admission_bytes(payload)).await
    }

    /// Waits for room for a prepared operation of so many payload bytes.
    pub(crate) async fn admit_operation(&self, payload: usize) -> Result<Admission, IoErrorKind> {
        self.admit_sum(operation_bytes(payload)).await
    }

    async fn admit_sum(&self, bytes: u64) -> Result<Admission, IoErrorKind> {
        let units = self.units_of(bytes);
        let permit = self.admission.acquire(units).await;
        let stopped = |_| self.failed.get().unwrap_or(IoErrorKind::Stopped);
        permit.map_err(stopped)?.forget();
        Ok(Admission {
            from: self.admission.clone(),
            units,
        })
    }

    /// Bytes of the smallest ring that can take all that may ever be admitted, and what applying it needs.
    pub(crate) fn ring_bytes_min(&self) -> u64 {
        (u64::from(self.rings_take) * BLOCK).div_ceil(3) * 4
    }
}

/// What a record of so many payload bytes is admitted with: in a ring it may have a descriptor of its
/// own, and of all that is admitted half is payload at most.
pub(crate) fn admission_bytes(payload: usize) -> u64 {
    let payload = u64_of(payload);
    (payload + BLOCK).max(2 * payload).next_multiple_of(BLOCK)
}

/// The same for a prepared operation. What is said of it later (its commit, or its abort) may have a group of its own, and
/// a copy of it has to find room beside it.
pub(crate) fn operation_bytes(payload: usize) -> u64 {
    admission_bytes(payload) + 2 * BLOCK
}

/// What is admitted within so many bytes.
pub(super) fn units_within(bytes: u64) -> u32 {
    u32::try_from(bytes / BLOCK).unwrap_or(u32::MAX)
}

/// Three quarters of what the members' rings can take with that many copies of everything, also with as
/// many members gone as can be, and of `most`, and no more than any array has memory for.
pub(super) fn admission_units(rings: &BTreeMap<Uuid, Ring>, copies: usize, most: u64) -> u32 {
    // What lies in them is a replay's, and goes with it.
    let smallest = rings.values().map(Ring::len_bytes).min().unwrap_or(0);
    let takes = |members: usize| smallest * u64_of(members) / u64_of(copies.min(members).max(1));
    let fewest = (rings.len() + 1).saturating_sub(copies).max(1);
    let total = takes(rings.len().max(1)).min(takes(fewest)).min(most);
    units_within((total / 4 * 3).min(MemoryShare::FULL.admitted_bytes()))
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::super::log::Resume;
    use super::*;

    fn journal() -> Rc<Journal> {
        let rings = (1..=3).map(|disk| (Uuid::from_u128(disk), Ring::new(16 << 20)));
        let from = Resume {
            epoch: 1,
            next: Seq::FIRST,
            floor: Seq::FIRST,
            header_generation: 0,
            rings: rings.collect(),
            own_rings: BTreeMap::new(),
        };
        Journal::resume(from, 2, None, MemoryShare::FULL)
    }

    #[test]
    fn a_write_that_comes_to_nothing_gives_its_room_back() {
        let journal = journal();
        let admission = journal.try_admit(8192);
        assert_eq!(journal.admitted_bytes(), admission_bytes(8192));
        drop(admission);
        assert_eq!(journal.admitted_bytes(), 0);
    }

    #[test]
    fn a_record_keeps_its_room_until_the_floor_has_passed_it() {
        let journal = journal();
        journal.note_admitted(Seq::FIRST, journal.try_admit(8192).unwrap());
        assert_eq!(journal.admitted_bytes(), admission_bytes(8192));
        journal.give_back_below(Seq::FIRST);
        assert_eq!(journal.admitted_bytes(), admission_bytes(8192));
        journal.give_back_below(Seq(Seq::FIRST.0 + 1));
        assert_eq!(journal.admitted_bytes(), 0);
    }
}
