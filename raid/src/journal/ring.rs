//! Space of one member's ring: which bytes hold groups that are still needed.
//!
//! Positions are bytes from the ring's start, multiples of 4096. Groups are laid one after the
//! other; one that doesn't fit before the end, or before a group that is still needed, leaves the
//! rest unused and goes to the next place that holds it.
//!
//! Sequences needn't rise with positions: a copy that was first sent to a slow member is sent to
//! this one later, behind groups that were cut after it. So space is freed by sequence, wherever it
//! lies, and can be used again although older positions are still held.
//!
//! Invariants
//! - Live groups never overlap, nor do live groups and free space; together they are the ring.
//! - Free runs are as long as they can be: no two touch.
//!
//! Does not know: what is in a group, and whether the floor is durable. It must be, on R+1 members,
//! *before* [`Ring::free_below`] is told: else a crash after the reuse leaves a floor that
//! promises records whose bytes are gone.

use std::collections::{BTreeMap, BTreeSet};

use cairn_blockdev::units::BLOCK;

use super::entry::Seq;

/// A group that takes space: position, bytes, last sequence.
pub(crate) type LiveGroup = (u64, u64, Seq);

/// The space of one ring.
#[derive(Debug, Clone)]
pub(crate) struct Ring {
    len: u64,
    /// Where the next group goes if there is room.
    head: u64,
    /// Live groups by position: bytes and last sequence.
    live: BTreeMap<u64, (u64, Seq)>,
    /// The same by last sequence.
    by_last: BTreeSet<(Seq, u64)>,
    /// Free runs by position.
    free: BTreeMap<u64, u64>,
    /// The same by length.
    by_len: BTreeSet<(u64, u64)>,
    used: u64,
}

impl Ring {
    /// An empty ring of `len` bytes.
    ///
    /// # Panics
    /// If that isn't whole blocks.
    pub(crate) fn new(len: u64) -> Self {
        assert!(len.is_multiple_of(BLOCK), "ring of {len} bytes");
        let mut ring = Self {
            len,
            head: 0,
            live: BTreeMap::new(),
            by_last: BTreeSet::new(),
            free: BTreeMap::new(),
            by_len: BTreeSet::new(),
            used: 0,
        };
        if len > 0 {
            ring.add_free(0, len);
        }
        ring
    }

    /// A ring with these groups in it, as a scan found them. The next one goes behind the one with
    /// the highest sequence.
    ///
    /// # Panics
    /// If they overlap or lie outside, which a scan never finds.
    pub(crate) fn restore(len: u64, live: Vec<LiveGroup>) -> Self {
        let mut ring = Self::new(len);
        let newest = live.iter().max_by_key(|(_, _, last)| *last);
        let head = newest.map_or(0, |(position, len, _)| position + len);
        for (position, len, last) in live {
            let run = ring
                .run_around(position)
                .filter(|(at, run)| position + len <= at + run);
            let Some(run) = run else {
                unreachable!("journal groups overlap, or leave the ring, at {position}+{len}");
            };
            ring.take(run, position, len, last);
        }
        ring.head = head;
        ring
    }

    /// Space for a group of `len` bytes whose last sequence is `last`; `None` if there is none.
    ///
    /// # Panics
    /// If `len` isn't whole blocks.
    pub(crate) fn allocate(&mut self, len: u64, last: Seq) -> Option<u64> {
        assert!(
            len > 0 && len.is_multiple_of(BLOCK),
            "journal group of {len} bytes"
        );
        if self.largest() < len {
            return None;
        }
        // From the head on in its own run, then the runs behind it, then from the start again.
        let at_head = self
            .run_around(self.head)
            .filter(|(at, run)| self.head + len <= at + run)
            .map(|run| (run, self.head));
        let (run, position) = at_head.or_else(|| {
            let fits = |(&at, &run): (&u64, &u64)| (run >= len).then_some(((at, run), at));
            let mut behind = self.free.range(self.head..);
            let mut before = self.free.range(..self.head);
            behind.find_map(fits).or_else(|| before.find_map(fits))
        })?;
        self.take(run, position, len, last);
        self.head = position + len;
        Some(position)
    }

    /// Frees every group whose last sequence is below `floor`, the oldest sequences first.
    pub(crate) fn free_below(&mut self, floor: Seq) {
        while let Some(&(last, position)) = self.by_last.first()
            && last < floor
        {
            self.by_last.remove(&(last, position));
            if let Some((len, _)) = self.live.remove(&position) {
                self.used -= len;
                self.release(position, len);
            }
        }
    }

    /// Bytes that hold no live group. One allocation may get less: see [`Ring::largest`].
    pub(crate) fn free_bytes(&self) -> u64 {
        self.len - self.used
    }

    /// The largest allocation that would succeed.
    pub(crate) fn largest(&self) -> u64 {
        self.by_len.last().map_or(0, |(len, _)| *len)
    }

    /// Bytes of live groups.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.used
    }

    /// All its bytes.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.len
    }

    /// The free run that `position` lies in.
    fn run_around(&self, position: u64) -> Option<(u64, u64)> {
        let (&at, &run) = self.free.range(..=position).next_back()?;
        (position < at + run).then_some((at, run))
    }

    /// Makes a part of a free run a live group.
    fn take(&mut self, run: (u64, u64), position: u64, len: u64, last: Seq) {
        let (at, run_len) = run;
        let (end, run_end) = (position + len, at + run_len);
        assert!(
            at <= position && end <= run_end,
            "journal space at {position}+{len} is taken"
        );
        self.remove_free(at, run_len);
        if at < position {
            self.add_free(at, position - at);
        }
        if end < run_end {
            self.add_free(end, run_end - end);
        }
        self.live.insert(position, (len, last));
        self.by_last.insert((last, position));
        self.used += len;
    }

    /// Makes a range free, joined with what is free on both sides of it.
    fn release(&mut self, position: u64, len: u64) {
        let (mut at, mut end) = (position, position + len);
        if let Some((&before, &run)) = self.free.range(..position).next_back()
            && before + run == position
        {
            self.remove_free(before, run);
            at = before;
        }
        if let Some(&run) = self.free.get(&end) {
            self.remove_free(end, run);
            end += run;
        }
        self.add_free(at, end - at);
    }

    fn add_free(&mut self, at: u64, len: u64) {
        self.free.insert(at, len);
        self.by_len.insert((len, at));
    }

    fn remove_free(&mut self, at: u64, len: u64) {
        self.free.remove(&at);
        self.by_len.remove(&(len, at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_blockdev::units::usize_of;
    use proptest::prelude::*;

    const BLOCKS: usize = 40;

    /// Every block on its own: which group holds it.
    struct Model {
        blocks: [Option<usize>; BLOCKS],
        groups: Vec<LiveGroup>,
    }

    impl Model {
        fn longest_run(&self) -> usize {
            self.blocks
                .split(Option::is_some)
                .map(<[_]>::len)
                .max()
                .unwrap_or(0)
        }

        fn put(&mut self, position: u64, len: u64, last: Seq) {
            let group = self.groups.len();
            self.groups.push((position, len, last));
            for at in position / BLOCK..(position + len) / BLOCK {
                let block = &mut self.blocks[usize_of(at)];
                assert_eq!(*block, None, "live groups overlap in block {at}");
                *block = Some(group);
            }
        }

        fn free_below(&mut self, floor: Seq) {
            for block in &mut self.blocks {
                if block.is_some_and(|group| self.groups[group].2 < floor) {
                    *block = None;
                }
            }
        }

        fn live(&self) -> Vec<LiveGroup> {
            let held: BTreeSet<_> = self.blocks.iter().flatten().copied().collect();
            held.into_iter().map(|group| self.groups[group]).collect()
        }

        fn check(&self, ring: &Ring) {
            let used = self.blocks.iter().flatten().count() as u64 * BLOCK;
            assert_eq!(ring.used_bytes(), used);
            assert_eq!(ring.free_bytes(), BLOCKS as u64 * BLOCK - used);
            assert_eq!(ring.largest(), self.longest_run() as u64 * BLOCK);
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// Blocks, and how far its last sequence lags behind.
        Allocate(u64, u64),
        /// Floor, behind the newest sequence.
        Free(u64),
        Restore,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (1u64..12, 0u64..6).prop_map(|(blocks, lag)| Step::Allocate(blocks, lag)),
            3 => (0u64..10).prop_map(Step::Free),
            1 => Just(Step::Restore),
        ]
    }

    proptest! {
        #[test]
        fn the_ring_is_as_full_as_a_map_of_its_blocks(
            steps in proptest::collection::vec(step(), 0..80)
        ) {
            let mut ring = Ring::new(BLOCKS as u64 * BLOCK);
            let mut model = Model {
                blocks: [None; BLOCKS],
                groups: Vec::new(),
            };
            let mut newest = 10;
            for step in steps {
                match step {
                    Step::Allocate(blocks, lag) => {
                        newest += 1;
                        let (len, last) = (blocks * BLOCK, Seq(newest - lag));
                        match ring.allocate(len, last) {
                            Some(position) => model.put(position, len, last),
                            None => assert!((model.longest_run() as u64) < blocks),
                        }
                    }
                    Step::Free(behind) => {
                        let floor = Seq(newest - behind.min(newest));
                        ring.free_below(floor);
                        model.free_below(floor);
                    }
                    Step::Restore => {
                        ring = Ring::restore(BLOCKS as u64 * BLOCK, model.live());
                    }
                }
                model.check(&ring);
            }
        }
    }

    #[test]
    fn groups_follow_each_other_round_and_round() {
        let mut ring = Ring::new(10 * BLOCK);
        for seq in 1..100u64 {
            ring.free_below(Seq(seq.saturating_sub(1)));
            // Three fit before the end, the tenth block is skipped.
            let expected = (seq - 1) % 3 * 3 * BLOCK;
            assert_eq!(ring.allocate(3 * BLOCK, Seq(seq)), Some(expected));
        }
    }

    #[test]
    fn a_copy_sent_late_is_freed_by_its_sequence_and_not_by_its_place() {
        let mut ring = Ring::new(4 * BLOCK);
        assert_eq!(ring.allocate(BLOCK, Seq(8)), Some(0));
        assert_eq!(ring.allocate(BLOCK, Seq(3)), Some(BLOCK));
        assert_eq!(ring.allocate(2 * BLOCK, Seq(9)), Some(2 * BLOCK));
        ring.free_below(Seq(4));
        assert_eq!(ring.used_bytes(), 3 * BLOCK);
        assert_eq!(ring.allocate(BLOCK, Seq(10)), Some(BLOCK));
        ring.free_below(Seq(8));
        assert_eq!(
            ring.free_bytes(),
            0,
            "a group that ends at the floor is needed"
        );
    }

    #[test]
    fn a_restored_ring_goes_on_behind_its_newest_group() {
        let live = vec![(0, BLOCK, Seq(7)), (4 * BLOCK, BLOCK, Seq(5))];
        let mut ring = Ring::restore(8 * BLOCK, live);
        assert_eq!(ring.allocate(2 * BLOCK, Seq(8)), Some(BLOCK));
        assert_eq!(ring.allocate(2 * BLOCK, Seq(9)), Some(5 * BLOCK));
    }

    #[test]
    #[should_panic(expected = "overlap")]
    fn groups_that_overlap_are_not_restored() {
        let live = vec![(0, 2 * BLOCK, Seq(7)), (BLOCK, BLOCK, Seq(5))];
        drop(Ring::restore(8 * BLOCK, live));
    }
}
