//! Pages in memory: what is verified against, what is changed, and what has to stay.
//!
//! Invariants
//! - A page that says more than the disks do (dirty), or that somebody has pinned, is never dropped;
//!   of the others the one that was used longest ago goes first. So there are at most as many pages
//!   as the bound says, or as are dirty and pinned, if that is more.
//! - A page's generation rises with every snapshot that is taken of it for the disks, whether or not
//!   that snapshot gets there.
//! - A page is clean only if the latest snapshot was written and nothing changed since it was taken.
//!
//! Does not know: disks, where copies lie. It keeps for the store which side of each copy is newest.

use std::collections::{BTreeMap, BTreeSet};

use cairn_blockdev::units::{BLOCK_BYTES, u64_of};
use uuid::Uuid;

use super::page::{PAGE_BYTES, PageId, encode, regenerate};
use super::place::{PageNumber, Places, Run, Side};
use super::seal::Seal;
use crate::geometry::{Columns, Row, Slot};

/// What a page takes: its sums, its entry, its share of the trees.
pub(super) const ENTRY_BYTES: usize = PAGE_BYTES + 256;

fn pages_in(bytes: usize) -> usize {
    (bytes / ENTRY_BYTES).max(1)
}

/// The side of each copy that holds its newest content, where that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sides {
    known: u32,
    in_b: u32,
}

impl Sides {
    pub(crate) fn get(self, copy: usize) -> Option<Side> {
        if self.known >> copy & 1 == 0 {
            None
        } else if self.in_b >> copy & 1 == 0 {
            Some(Side::A)
        } else {
            Some(Side::B)
        }
    }

    pub(crate) fn set(&mut self, copy: usize, side: Option<Side>) {
        let bit = 1 << copy;
        self.known = if side.is_some() {
            self.known | bit
        } else {
            self.known & !bit
        };
        self.in_b = if side == Some(Side::B) {
            self.in_b | bit
        } else {
            self.in_b & !bit
        };
    }
}

/// A page as it was found on the disks; generation 0 and zeros if it was never written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) generation: u64,
    pub(crate) sums: Box<[u32]>,
    pub(crate) sides: Sides,
}

/// What the sums say of a run of blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Not all pages are here: [`super::Sums::ready`] brings them.
    Absent,
    /// Every block is what was written there.
    Good,
    /// These columns aren't, ascending; the others are.
    Bad(Vec<u64>),
}

/// A page to be written.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) page: PageNumber,
    pub(crate) generation: u64,
    pub(crate) bytes: Box<[u8]>,
    pub(crate) sides: Sides,
}

#[derive(Debug, Default)]
struct Entry {
    sums: Box<[u32]>,
    /// The highest that a snapshot had, or that was found on the disks.
    generation: u64,
    /// Counts changes.
    changes: u64,
    /// The changes that the disks have, too.
    saved: u64,
    /// The changes in the snapshot of `generation`.
    taken: u64,
    pins: usize,
    /// A copy that may be newer wasn't waited for: nothing is changed by what this says.
    partial: bool,
    /// Its place in `idle`.
    idle_at: Option<u64>,
    sides: Sides,
}

impl Entry {
    fn is_dirty(&self) -> bool {
        self.changes != self.saved
    }
}

/// The pages in memory.
pub(crate) struct SumsCache {
    array: Uuid,
    places: Places,
    seal: Seal,
    pages_max: usize,
    entries: BTreeMap<PageNumber, Entry>,
    /// Pages that may be dropped, by the time of their last use.
    idle: BTreeMap<u64, PageNumber>,
    dirty: BTreeSet<PageNumber>,
    next_use: u64,
}

impl SumsCache {
    /// An empty cache of at most `bytes`, and of at least one page.
    pub(crate) fn new(array: Uuid, places: Places, bytes: usize) -> Self {
        Self {
            array,
            places,
            seal: Seal::new(array),
            pages_max: pages_in(bytes),
            entries: BTreeMap::new(),
            idle: BTreeMap::new(),
            dirty: BTreeSet::new(),
            next_use: 0,
        }
    }

    /// Which page it is, for the codec.
    pub(crate) fn id(&self, page: PageNumber) -> PageId {
        PageId {
            array: self.array,
            page,
            words: self.places.words_per_page(),
            members: self.places.members(),
        }
    }

    /// Pages that it holds without being forced to more.
    pub(crate) fn pages_max(&self) -> usize {
        self.pages_max
    }

    /// Pages in memory.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether a page is in memory.
    pub(crate) fn has(&self, page: PageNumber) -> bool {
        self.entries.contains_key(&page)
    }

    /// Pages that the disks don't have yet.
    pub(crate) fn dirty_count(&self) -> usize {
        self.dirty.len()
    }

    /// Their numbers, ascending.
    pub(crate) fn dirty_pages(&self) -> Vec<PageNumber> {
        self.dirty.iter().copied().collect()
    }

    // --- sums

    /// Compares blocks of `slot`, from column `col` of `row` on, with what was written there.
    ///
    /// # Panics
    /// If `data` isn't whole blocks of the row's chunk.
    pub(crate) fn verify(&mut self, row: Row, col: u64, slot: Slot, data: &[u8]) -> Verdict {
        let mut blocks = data.chunks_exact(BLOCK_BYTES);
        assert!(blocks.remainder().is_empty(), "a part of a block");
        let mut bad = Vec::new();
        for run in self.places.runs(row, col..col + u64_of(blocks.len())) {
            let Some(sums) = self.sums(&run, slot) else {
                return Verdict::Absent;
            };
            for (col, stored) in run.cols.zip(sums) {
                let crc = cairn_blockdev::crc::crc32c(blocks.next().unwrap_or_default());
                if self.seal.apply(slot, self.places.block(row, col), crc) != *stored {
                    bad.push(col);
                }
            }
            self.used(run.page);
        }
        if bad.is_empty() {
            Verdict::Good
        } else {
            Verdict::Bad(bad)
        }
    }

    /// Whether a word's sums are all as in a page that was begun anew.
    pub(crate) fn says_nothing(&self, row: Row, col: u64) -> bool {
        let members = (0..self.places.members()).map(Slot);
        let mut runs = self.places.runs(row, col..col + 1);
        let Some(run) = runs.next() else {
            return false;
        };
        let mut stored = members.map(|slot| self.sums(&run, slot)?.next().copied());
        stored.all(|sum| sum == Some(0))
    }

    /// The crc of what was written at a block. `None` if the page isn't in memory.
    pub(crate) fn crc(&self, slot: Slot, row: Row, col: u64) -> Option<u32> {
        let run = self.places.runs(row, col..col + 1).next()?;
        let stored = *self.sums(&run, slot)?.next()?;
        Some(self.seal.apply(slot, self.places.block(row, col), stored))
    }

    /// Puts the crcs of what was written at columns of `slot` behind those in `crcs`. False if a page of
    /// theirs isn't in memory.
    pub(crate) fn append_crcs(
        &self,
        slot: Slot,
        row: Row,
        cols: Columns,
        crcs: &mut Vec<u32>,
    ) -> bool {
        for run in self.places.runs(row, cols) {
            let Some(sums) = self.sums(&run, slot) else {
                return false;
            };
            crcs.extend(run.cols.zip(sums).map(|(col, stored)| {
                let block = self.places.block(row, col);
                self.seal.apply(slot, block, *stored)
            }));
        }
        true
    }

    /// Notes the crcs of blocks of `slot`, from column `col` of `row` on.
    ///
    /// # Panics
    /// If a page isn't in memory: a page that isn't pinned can't be changed.
    pub(crate) fn set(&mut self, slot: Slot, row: Row, col: u64, crcs: &[u32]) {
        let mut crcs = crcs.iter();
        let (places, seal) = (self.places, self.seal);
        assert!(slot.0 < places.members(), "slot {} has no sums", slot.0);
        for run in places.runs(row, col..col + u64_of(crcs.len())) {
            let entry = self.expect(run.page);
            assert!(
                !entry.partial,
                "checksum page {} is changed and may be old",
                run.page.0
            );
            let mut changed = false;
            let first = run.word * places.members() + slot.0;
            let sums = entry.sums.iter_mut().skip(first).step_by(places.members());
            // The columns first: `zip` takes from its left side before it finds the right one empty.
            for ((col, stored), crc) in run.cols.zip(sums).zip(&mut crcs) {
                let new = seal.apply(slot, places.block(row, col), *crc);
                changed |= std::mem::replace(stored, new) != new;
            }
            if changed {
                let was_dirty = entry.is_dirty();
                entry.changes += 1;
                if !was_dirty {
                    self.settle(run.page);
                }
            }
        }
    }

    /// Has the pages of columns written again, though their sums haven't changed.
    ///
    /// # Panics
    /// If a page isn't in memory.
    pub(crate) fn touch(&mut self, row: Row, cols: Columns) {
        for run in self.places.runs(row, cols) {
            self.expect(run.page).changes += 1;
            self.settle(run.page);
        }
    }

    fn sums<'a>(
        &'a self,
        run: &Run,
        slot: Slot,
    ) -> Option<impl Iterator<Item = &'a u32> + use<'a>> {
        let members = self.places.members();
        assert!(slot.0 < members, "slot {} has no sums", slot.0);
        let entry = self.entries.get(&run.page)?;
        let first = run.word * members + slot.0;
        Some(entry.sums.iter().skip(first).step_by(members))
    }

    fn expect(&mut self, page: PageNumber) -> &mut Entry {
        match self.entries.get_mut(&page) {
            Some(entry) => entry,
            None => panic!("checksum page {} is changed and isn't in memory", page.0),
        }
    }

    // --- residence

    /// Takes in a page that isn't here, pinned once. `dirty`: the disks need it written again.
    ///
    /// # Panics
    /// If it is here already, or has the wrong shape.
    pub(crate) fn insert(&mut self, page: PageNumber, content: Content, dirty: bool) {
        self.insert_known(page, content, dirty, false);
    }

    /// As [`SumsCache::insert`]; `partial`: a copy that may be newer wasn't waited for.
    pub(crate) fn insert_known(
        &mut self,
        page: PageNumber,
        content: Content,
        dirty: bool,
        partial: bool,
    ) {
        assert_eq!(content.sums.len(), self.places.sums_per_page());
        let entry = Entry {
            partial,
            sums: content.sums,
            generation: content.generation,
            changes: u64::from(dirty),
            pins: 1,
            sides: content.sides,
            ..Entry::default()
        };
        let before = self.entries.insert(page, entry);
        assert!(before.is_none(), "checksum page {} came twice", page.0);
        self.settle(page);
    }

    /// Whether a copy of a page in memory wasn't waited for that may be newer.
    pub(crate) fn is_partial(&self, page: PageNumber) -> bool {
        self.entries.get(&page).is_some_and(|entry| entry.partial)
    }

    /// All copies of a partial page have been read. `dirty`: one of them isn't as it should be.
    pub(crate) fn complete(&mut self, page: PageNumber, content: Content, dirty: bool) {
        if let Some(entry) = self.entries.get_mut(&page).filter(|entry| entry.partial) {
            entry.partial = false;
            entry.sums = content.sums;
            entry.generation = entry.generation.max(content.generation);
            entry.sides = content.sides;
            entry.changes += u64::from(dirty);
            self.settle(page);
        }
    }

    /// What a partial page says is all that there is.
    pub(crate) fn leave_partial(&mut self, page: PageNumber) {
        if let Some(entry) = self.entries.get_mut(&page) {
            entry.partial = false;
        }
    }

    /// Takes in a page that says nothing, pinned once: one that was never written, or whose sums are
    /// about to be set anew.
    pub(crate) fn blank(&mut self, page: PageNumber) {
        let content = Content {
            generation: 0,
            sums: vec![0; self.places.sums_per_page()].into(),
            sides: Sides::default(),
        };
        self.insert(page, content, false);
    }

    /// Keeps a page from being dropped. False if it isn't here.
    pub(crate) fn pin(&mut self, page: PageNumber) -> bool {
        let Some(entry) = self.entries.get_mut(&page) else {
            return false;
        };
        entry.pins += 1;
        if entry.idle_at.is_some() {
            self.settle(page);
        }
        true
    }

    /// Takes one pin back.
    ///
    /// # Panics
    /// If there is none.
    pub(crate) fn unpin(&mut self, page: PageNumber) {
        let entry = self.expect(page);
        assert!(entry.pins > 0, "checksum page {} has no pin", page.0);
        entry.pins -= 1;
        if entry.pins == 0 && !entry.is_dirty() {
            self.settle(page);
        }
    }

    /// Notes a use of a page that may not be pinned. One that was used a moment ago, as the bound
    /// counts, stays where it is: its turn to go is far off.
    fn used(&mut self, page: PageNumber) {
        let Some(stamp) = self.entries.get(&page).and_then(|entry| entry.idle_at) else {
            return;
        };
        if self.next_use - stamp > u64_of(self.pages_max / 4) {
            self.settle(page);
        }
    }

    /// Puts a page where it belongs after a change, and drops what is too much.
    fn settle(&mut self, page: PageNumber) {
        let Some(entry) = self.entries.get_mut(&page) else {
            return;
        };
        if let Some(stamp) = entry.idle_at.take() {
            self.idle.remove(&stamp);
        }
        if entry.is_dirty() {
            self.dirty.insert(page);
        } else {
            self.dirty.remove(&page);
        }
        if !entry.is_dirty() && entry.pins == 0 {
            entry.idle_at = Some(self.next_use);
            self.idle.insert(self.next_use, page);
            self.next_use += 1;
        }
        self.drop_surplus();
    }

    /// Changes its bound.
    pub(crate) fn set_bytes(&mut self, bytes: usize) {
        self.pages_max = pages_in(bytes);
        self.drop_surplus();
    }

    fn drop_surplus(&mut self) {
        while self.entries.len() > self.pages_max
            && let Some((_, oldest)) = self.idle.pop_first()
        {
            self.entries.remove(&oldest);
        }
    }

    // --- the disks' side

    /// What is to be written of those of `pages` that are dirty. The generation of each is at least
    /// `given` and above all that it had before.
    pub(crate) fn take_dirty(&mut self, pages: &[PageNumber], given: u64) -> Vec<Snapshot> {
        let mut snapshots = Vec::with_capacity(pages.len());
        for page in pages {
            let id = self.id(*page);
            let takes = |entry: &&mut Entry| entry.is_dirty() && !entry.partial;
            let Some(entry) = self.entries.get_mut(page).filter(takes) else {
                continue;
            };
            entry.generation = given.max(entry.generation + 1);
            entry.taken = entry.changes;
            snapshots.push(Snapshot {
                page: *page,
                generation: entry.generation,
                bytes: encode(&id, entry.generation, &entry.sums),
                sides: entry.sides,
            });
        }
        snapshots
    }

    /// A copy that the snapshot is about to be written to holds a page of `generation`: the snapshot gets a
    /// higher one.
    pub(crate) fn outrank(&mut self, snapshot: &mut Snapshot, generation: u64) {
        if generation < snapshot.generation {
            return;
        }
        let higher = generation + 1;
        if let Some(entry) = self.entries.get_mut(&snapshot.page)
            && entry.generation == snapshot.generation
        {
            entry.generation = higher;
        }
        snapshot.generation = higher;
        regenerate(&mut snapshot.bytes, higher);
    }

    /// The snapshot of `generation` is on the disks. What changed since it was taken is still dirty.
    pub(crate) fn written(&mut self, page: PageNumber, generation: u64) {
        let Some(entry) = self.entries.get_mut(&page) else {
            return;
        };
        if entry.generation == generation {
            entry.saved = entry.taken;
            self.settle(page);
        }
    }

    /// Notes which side of a copy is the newest; `None` if that isn't known.
    pub(crate) fn note_side(&mut self, page: PageNumber, copy: usize, side: Option<Side>) {
        if let Some(entry) = self.entries.get_mut(&page) {
            entry.sides.set(copy, side);
        }
    }

    /// The generation of a page in memory that the disks have as it is; `None` if they don't.
    pub(crate) fn clean(&self, page: PageNumber) -> Option<u64> {
        let entry = self.entries.get(&page).filter(|entry| !entry.is_dirty())?;
        Some(entry.generation)
    }

    /// Has a page written again because of what its copies look like; the newest is of `generation`.
    pub(crate) fn mend(&mut self, page: PageNumber, sides: Sides, generation: u64) {
        if let Some(entry) = self.entries.get_mut(&page) {
            entry.sides = sides;
            entry.generation = entry.generation.max(generation);
            entry.changes += 1;
            self.settle(page);
        }
    }

    /// Puts what is on the disks in the place of a page that is clean; `dirty` if a copy isn't as it should be.
    pub(crate) fn replace(&mut self, page: PageNumber, content: Content, dirty: bool) {
        if let Some(entry) = self.entries.get_mut(&page) {
            entry.sums = content.sums;
            entry.generation = content.generation;
            entry.sides = content.sides;
            entry.changes += u64::from(dirty);
            self.settle(page);
        }
    }

    /// Another disk is at `slot`, or the old one came back: what is there has to be looked at.
    /// Pages with a copy there are dropped, or, where they can't be, written again.
    pub(crate) fn joined(&mut self, slot: Slot) {
        let places = self.places;
        let here: Vec<(PageNumber, usize)> = self
            .entries
            .keys()
            .filter_map(|page| {
                let copy = places.copies(*page).find(|copy| copy.slot == slot)?;
                Some((*page, copy.number))
            })
            .collect();
        for (page, copy) in here {
            let Some(entry) = self.entries.get_mut(&page) else {
                continue;
            };
            if let Some(stamp) = entry.idle_at {
                self.idle.remove(&stamp);
                self.entries.remove(&page);
                continue;
            }
            entry.sides.set(copy, None);
            // One that says nothing isn't written over what the disk may bring.
            if entry.is_dirty() || entry.generation > 0 {
                entry.changes += 1;
            }
            self.settle(page);
        }
    }

    /// Bytes that the cache takes now.
    pub(crate) fn bytes(&self) -> u64 {
        u64_of(self.entries.len()) * u64_of(ENTRY_BYTES)
    }
}
