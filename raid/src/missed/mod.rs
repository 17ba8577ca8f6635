//! The missed map: which rows a member that is away has missed.
//!
//! One bit stands for a row, or for a few neighbouring rows where rows are so small that the zone has
//! no room for a bit each. Pages without a set bit take no memory. The bits are saved as they are
//! changed, page by page ([`codec`]); a head says up to which floor of the journal they are complete.
//!
//! Invariants
//! - A set bit costs a copy, a bit that isn't set and should be costs data: whoever doubts sets it.
//! - A page is written to the slot that doesn't hold its last written copy, so that the copies that a
//!   head speaks of stay until a newer head is whole.
//! - The head's digest names every page's generation: a page that was lost, and whose older copy
//!   stands in for it, is noticed.
//!
//! Does not know: disks, when it is saved, who writes rows.

mod codec;

use std::collections::{BTreeMap, BTreeSet};

use cairn_blockdev::units::{BLOCK, BLOCK_BYTES, align_down, u64_of, usize_of};
use uuid::Uuid;

pub use codec::{Block, BlockError, Head};

use crate::geometry::Row;
use crate::journal::entry::Seq;

/// Maps of members that an array keeps at once: as many as RAID 6 survives. The other places of the
/// zone are kept for the maps of absent peers.
pub const MAPS_MAX: usize = 2;
/// Places in the zone.
const PLACES: u64 = 4;
/// No map is saved so often.
const GENERATION_MAX: u64 = 1 << 62;
/// Bits of a page.
const PAGE_BITS: u64 = u64_of(codec::BODY_BYTES) * 8;

/// How a map lies in its zone: what one bit stands for, and where its pages are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapShape {
    /// Rows of a member.
    pub rows: u64,
    /// Rows that a bit stands for: a power of two.
    pub rows_per_bit: u64,
    /// Bytes of a slot, the head included.
    pub slot_bytes: u64,
}

impl MapShape {
    /// The shape for `rows` in a zone of `zone_bytes`.
    pub fn new(rows: u64, zone_bytes: u64) -> Self {
        let place_bytes = align_down(zone_bytes.saturating_sub(BLOCK) / PLACES, 2 * BLOCK);
        let slot_bytes = place_bytes / 2;
        let bits = (slot_bytes / BLOCK).saturating_sub(1).max(1) * PAGE_BITS;
        Self {
            rows,
            rows_per_bit: rows.div_ceil(bits).next_power_of_two(),
            slot_bytes,
        }
    }

    /// Pages that a complete map has.
    pub fn pages(&self) -> u32 {
        let pages = self.rows.div_ceil(self.rows_per_bit).div_ceil(PAGE_BITS);
        u32::try_from(pages).unwrap_or(u32::MAX)
    }

    /// First byte, in the zone, of a slot of a place: its head. The pages follow it.
    pub fn slot_offset(&self, place: usize, slot: usize) -> u64 {
        BLOCK + (u64_of(place) * 2 + u64_of(slot)) * self.slot_bytes
    }

    /// First byte, in the zone, of a block.
    pub fn offset(&self, place: usize, slot: usize, block: BlockNo) -> u64 {
        let before = match block {
            BlockNo::Head => 0,
            BlockNo::Page(page) => u64::from(page) + 1,
        };
        self.slot_offset(place, slot) + before * BLOCK
    }
}

/// A block of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BlockNo {
    /// The head.
    Head,
    /// A page of bits.
    Page(u32),
}

/// Whose map it is. A member that goes away again later has a map of another number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapId {
    /// The array.
    pub array: Uuid,
    /// The member that is away.
    pub member: Uuid,
    /// Tells the maps of one member apart; never 0.
    pub number: u32,
}

/// A block to be written: slot, place in the slot, contents.
pub struct Save {
    /// Slot.
    pub slot: usize,
    /// Which block of it.
    pub block: BlockNo,
    /// 4 KiB.
    pub bytes: Vec<u8>,
}

struct Page {
    words: Vec<u64>,
    /// Of its last written copy; 0: never written.
    generation: u64,
    slot: usize,
}

impl Page {
    fn blank() -> Self {
        Self {
            words: vec![0; codec::BODY_BYTES / 8],
            generation: 0,
            slot: 0,
        }
    }
}

/// The rows that one member has missed.
pub struct MissedMap {
    id: MapId,
    shape: MapShape,
    place: usize,
    generation: u64,
    digest: u64,
    /// Floor of the journal that the last written head speaks of.
    saved_floor: Option<Seq>,
    pages: BTreeMap<u32, Page>,
    dirty: BTreeSet<u32>,
}

/// A page's part in the digest (splitmix64).
fn mix(page: u32, generation: u64) -> u64 {
    if generation == 0 {
        return 0;
    }
    let mut word = (u64::from(page) << 40 ^ generation).wrapping_add(0x9E37_79B9_7F4A_7C15);
    word = (word ^ word >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ word >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ word >> 31
}

impl MissedMap {
    /// An empty map in a place of the zone.
    ///
    /// # Panics
    /// If there is no such place for members.
    pub fn new(id: MapId, shape: MapShape, place: usize) -> Self {
        assert!(place < MAPS_MAX, "place {place} isn't for members' maps");
        Self {
            id,
            shape,
            place,
            generation: 0,
            digest: 0,
            saved_floor: None,
            pages: BTreeMap::new(),
            dirty: BTreeSet::new(),
        }
    }

    /// Whose it is.
    pub fn id(&self) -> MapId {
        self.id
    }

    /// Its place in the zone.
    pub fn place(&self) -> usize {
        self.place
    }

    /// How it lies there.
    pub fn shape(&self) -> &MapShape {
        &self.shape
    }

    /// The floor of the journal up to which the last written bits are complete.
    pub fn saved_floor(&self) -> Option<Seq> {
        self.saved_floor
    }

    fn locate(&self, row: Row) -> (u32, usize, u64) {
        let bit = row.0 / self.shape.rows_per_bit;
        let page = u32::try_from(bit / PAGE_BITS).unwrap_or(u32::MAX);
        let within = bit % PAGE_BITS;
        (page, usize_of(within / 64), within % 64)
    }

    /// Notes that `row` was missed.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn insert(&mut self, row: Row) {
        assert!(row.0 < self.shape.rows, "{row:?} is beyond the member");
        let (page, word, bit) = self.locate(row);
        let words = &mut self.pages.entry(page).or_insert_with(Page::blank).words;
        if let Some(word) = words.get_mut(word)
            && *word >> bit & 1 == 0
        {
            *word |= 1 << bit;
            self.dirty.insert(page);
        }
    }

    /// Whether `row` was missed, or shares its bit with one that was.
    pub fn contains(&self, row: Row) -> bool {
        let (page, word, bit) = self.locate(row);
        let words = self.pages.get(&page).map(|page| &page.words);
        words
            .and_then(|words| words.get(word))
            .is_some_and(|word| word >> bit & 1 == 1)
    }

    /// The first missed row at or after `row`.
    pub fn next(&self, row: Row) -> Option<Row> {
        let (first, mut word_at, bit) = self.locate(row);
        let mut mask = u64::MAX << bit;
        for (number, page) in self.pages.range(first..) {
            if *number != first {
                (word_at, mask) = (0, u64::MAX);
            }
            for (at, word) in page.words.iter().enumerate().skip(word_at) {
                let left = word & mask;
                mask = u64::MAX;
                if left != 0 {
                    let bit = u64::from(*number) * PAGE_BITS
                        + u64_of(at) * 64
                        + u64::from(left.trailing_zeros());
                    let found = Row(bit * self.shape.rows_per_bit);
                    return Some(found.max(row)).filter(|row| row.0 < self.shape.rows);
                }
            }
        }
        None
    }

    /// Forgets the rows below `row`: they are on the member, durably.
    pub fn clear_below(&mut self, row: Row) {
        let end = row.0.min(self.shape.rows) / self.shape.rows_per_bit;
        let last = u32::try_from(end / PAGE_BITS).unwrap_or(u32::MAX);
        for (number, page) in self.pages.range_mut(..=last) {
            let first = u64::from(*number) * PAGE_BITS;
            for (at, word) in (0u64..).zip(&mut page.words) {
                let below = end.saturating_sub(first + at * 64).min(64);
                let keep = u64::MAX.checked_shl(u32::try_from(below).unwrap_or(64));
                let kept = *word & keep.unwrap_or(0);
                if kept != *word {
                    *word = kept;
                    self.dirty.insert(*number);
                }
            }
        }
    }

    /// Whether no row is in it.
    pub fn is_empty(&self) -> bool {
        self.next(Row(0)).is_none()
    }

    /// Has every page written again: to disks that don't have them.
    pub fn touch(&mut self) {
        self.dirty.extend(self.pages.keys());
    }

    /// The blocks to write so that the bits are complete for every record below `floor`; they count as
    /// written from here on, and the next ones must not be written before these are durable.
    pub fn take_dirty(&mut self, floor: Seq) -> Vec<Save> {
        self.generation += 1;
        let mut saves = Vec::with_capacity(self.dirty.len() + 1);
        for number in std::mem::take(&mut self.dirty) {
            let Some(page) = self.pages.get_mut(&number) else {
                continue;
            };
            self.digest = self
                .digest
                .wrapping_sub(mix(number, page.generation))
                .wrapping_add(mix(number, self.generation));
            if page.generation > 0 {
                page.slot = 1 - page.slot;
            }
            page.generation = self.generation;
            let body = page.words.iter().flat_map(|word| word.to_le_bytes());
            saves.push(Save {
                slot: page.slot,
                block: BlockNo::Page(number),
                bytes: codec::encode_page(&self.id, self.generation, number, body),
            });
        }
        let head = Head {
            floor,
            digest: self.digest,
            rows: self.shape.rows,
            rows_per_bit: self.shape.rows_per_bit,
        };
        saves.push(Save {
            slot: usize_of(self.generation % 2),
            block: BlockNo::Head,
            bytes: codec::encode_head(&self.id, self.generation, &head),
        });
        self.saved_floor = Some(floor);
        saves
    }
}

/// Puts a map together from the blocks that lie on the members.
pub struct Loader {
    id: MapId,
    shape: MapShape,
    place: usize,
    heads: BTreeMap<u64, Head>,
    /// By page, generation: the slot and the bits.
    copies: BTreeMap<u32, BTreeMap<u64, (usize, Vec<u64>)>>,
}

impl Loader {
    /// For the map `id` in a place.
    pub fn new(id: MapId, shape: MapShape, place: usize) -> Self {
        Self {
            id,
            shape,
            place,
            heads: BTreeMap::new(),
            copies: BTreeMap::new(),
        }
    }

    /// Takes a block that was found in a slot. What isn't a block of this map is passed over.
    pub fn take(&mut self, slot: usize, bytes: &[u8]) {
        match codec::decode(bytes, &self.id) {
            Ok((generation, _)) if generation > GENERATION_MAX => {}
            Ok((generation, Block::Head(head)))
                if head.rows == self.shape.rows && head.rows_per_bit == self.shape.rows_per_bit =>
            {
                self.heads.insert(generation, head);
            }
            Ok((generation, Block::Page(page, words))) if page < self.shape.pages() => {
                let copies = self.copies.entry(page).or_default();
                copies.insert(generation, (slot, words));
            }
            _ => {}
        }
    }

    /// Whether a head was found.
    pub fn has_head(&self) -> bool {
        !self.heads.is_empty()
    }

    /// The map, if its pages are what a head says and it is complete for every record below `floor`.
    pub fn finish(self, floor: Seq) -> Option<MissedMap> {
        let (number, head) = self.heads.iter().rev().find(|(number, head)| {
            let mut digest = 0u64;
            for (page, copies) in &self.copies {
                if let Some((generation, _)) = copies.range(..=**number).next_back() {
                    digest = digest.wrapping_add(mix(*page, *generation));
                }
            }
            head.floor >= floor && head.digest == digest
        })?;
        let (number, head) = (*number, *head);
        let newest = self.copies.values().filter_map(|c| c.keys().next_back());
        let heads = self.heads.keys().next_back();
        let mut map = MissedMap::new(self.id, self.shape, self.place);
        map.generation = newest.chain(heads).copied().max().unwrap_or(number);
        map.saved_floor = Some(head.floor);
        map.digest = head.digest;
        for (page, copies) in self.copies {
            let counted = copies.range(..=number).next_back();
            let (generation, slot) = counted.map_or((0, 0), |(g, (slot, _))| (*g, *slot));
            let mut whole = Page {
                generation,
                slot,
                ..Page::blank()
            };
            // A newer copy is of a save that was cut off: its bits may be right, so they count too.
            let from = copies.range(generation.max(1)..);
            for (_, (_, words)) in from {
                for (to, word) in whole.words.iter_mut().zip(words) {
                    *to |= word;
                }
            }
            map.pages.insert(page, whole);
        }
        map.touch();
        Some(map)
    }
}

const _: () = assert!(BLOCK_BYTES == 4096);

#[cfg(test)]
mod tests;
