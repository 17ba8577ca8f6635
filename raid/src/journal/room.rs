//! Room in the rings.
//!
//! Invariants
//! - A place is given to a group once what lay there is trimmed, the floor that says so is durable, and no write
//!   of what lay there is on its way any more.
//! - What a record was admitted with is given back no earlier than its room.
//!
//! Does not know: how many copies of a group are wanted, where it may not go.

use std::rc::Rc;

use super::entry::Seq;
use super::log::Journal;
use crate::array::disk::Disk;

/// Keeps the room of a group, and of all later ones, from being given back, until dropped: also where a cycle
/// has looked at the holds already and is about to raise the floor.
pub(super) struct KeptRoom {
    journal: Rc<Journal>,
    first: Seq,
}

impl Drop for KeptRoom {
    fn drop(&mut self) {
        let mut kept = self.journal.kept.borrow_mut();
        let Some(count) = kept.get_mut(&self.first) else {
            return;
        };
        *count -= 1;
        if *count > 0 {
            return;
        }
        let was_lowest = kept.keys().next() == Some(&self.first);
        kept.remove(&self.first);
        drop(kept);
        if was_lowest && self.first < self.journal.trimmed.get() {
            self.journal.give_back_room();
        }
    }
}

impl Journal {
    /// Space for a group on disks that don't have it yet: those that come next in turn first.
    pub(super) fn place(
        &self,
        disks: &[Rc<Disk>],
        wanted: usize,
        len: u64,
        last: Seq,
    ) -> Vec<(Rc<Disk>, u64)> {
        let mut rings = self.rings.borrow_mut();
        let start = self.rotation.get();
        let turn = disks.iter().cycle().skip(start % disks.len().max(1));
        let mut placed = Vec::with_capacity(wanted);
        for disk in turn.take(disks.len()) {
            if placed.len() == wanted {
                break;
            }
            let Some(ring) = rings.get_mut(&disk.uuid) else {
                continue;
            };
            if let Some(position) = ring.allocate(len, last) {
                placed.push((Rc::clone(disk), position));
            }
        }
        self.rotation.set(start.wrapping_add(wanted));
        placed
    }

    /// Whether the disk's ring has room for so many bytes in one piece.
    pub(super) fn has_room(&self, disk: &Disk, len: u64) -> bool {
        let rings = self.rings.borrow();
        rings
            .get(&disk.uuid)
            .is_some_and(|ring| ring.largest() >= len)
    }

    /// Keeps the room of a group while writes of it are on their way.
    pub(super) fn keep_room(self: &Rc<Self>, first: Seq) -> KeptRoom {
        *self.kept.borrow_mut().entry(first).or_default() += 1;
        KeptRoom {
            journal: Rc::clone(self),
            first,
        }
    }

    /// The floor is durable: what lies below it gives its room back.
    pub(crate) fn trimmed(&self, floor: Seq) {
        self.trimmed.set(floor.max(self.trimmed.get()));
        self.give_back_room();
    }

    fn give_back_room(&self) {
        let lowest = self.kept.borrow().keys().next().copied();
        let trimmed = self.trimmed.get();
        let floor = lowest.map_or(trimmed, |lowest| lowest.min(trimmed));
        for ring in self.rings.borrow_mut().values_mut() {
            ring.free_below(floor);
        }
        self.give_back_below(floor);
        self.room.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use cairn_blockdev::units::BLOCK;
    use uuid::Uuid;

    use super::super::log::Resume;
    use super::super::ring::Ring;
    use super::*;

    const RING: u64 = 16 << 20;

    fn journal() -> Rc<Journal> {
        let rings = (1..=3).map(|disk| (Uuid::from_u128(disk), Ring::new(RING)));
        let from = Resume {
            epoch: 1,
            next: Seq(100),
            floor: Seq(1),
            header_generation: 0,
            rings: rings.collect(),
            own_rings: BTreeMap::new(),
        };
        Journal::resume(from, 2, None, crate::MemoryShare::FULL)
    }

    fn taken(journal: &Journal) -> u64 {
        let rings = journal.rings.borrow();
        rings.values().map(|ring| RING - ring.free_bytes()).sum()
    }

    /// A group of one block on each disk.
    fn fill(journal: &Journal, last: u64) {
        for ring in journal.rings.borrow_mut().values_mut() {
            ring.allocate(BLOCK, Seq(last)).unwrap();
        }
    }

    #[test]
    fn room_comes_back_when_the_last_write_has_landed() {
        let journal = journal();
        (10..14).for_each(|last| fill(&journal, last));
        let [first, again, later] = [11, 11, 13].map(|first| journal.keep_room(Seq(first)));
        journal.trimmed(Seq(20));
        // What is older than the oldest that is on its way.
        assert_eq!(taken(&journal), 3 * 3 * BLOCK);
        drop(later);
        drop(first);
        assert_eq!(taken(&journal), 3 * 3 * BLOCK);
        drop(again);
        assert_eq!(taken(&journal), 0);
    }

    #[test]
    fn nothing_is_given_back_by_a_write_that_lands_before_the_floor_passes() {
        let journal = journal();
        fill(&journal, 30);
        drop(journal.keep_room(Seq(30)));
        assert_eq!(taken(&journal), 3 * BLOCK);
        let kept = journal.keep_room(Seq(40));
        journal.trimmed(Seq(31));
        assert_eq!(taken(&journal), 0);
        drop(kept);
    }
}
