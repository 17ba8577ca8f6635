//! Where the sum of a block stands: which page, which of the page's sums, which members hold its
//! copies and where in their zones.
//!
//! A *word* is one column of one row: a 4 KiB block on every member. Words are numbered row by row,
//! `row * chunk_blocks + column`. A page holds the sums of `words_per_page` consecutive words, of
//! all members each, in slot order. A page is kept R+1 times: linear copy `page * (R+1) + j` is on
//! slot `linear mod n`, at place `linear div n` of its zone.
//!
//! ```text
//!  zone   0        4 KiB      12 KiB     20 KiB
//!         ├─header─┼─place 0──┼─place 1──┼─place 2──┼ …
//!                  ├─A──┬──B──┼──B──┬──A─┼─A──┬──B──┼
//! ```
//!
//! A place is two blocks, so that a torn write leaves the page before it. Every other place has its
//! sides swapped: neighbours that are written to the same side together are one write, for sides A
//! as for sides B, and yet both sides of a place are one read.
//!
//! What it costs: `8192 * (R+1) / (n * words_per_page)` bytes for every 4096 of data. Without
//! rounding that is 0.6 % on RAID 6, 0.4 % on RAID 5; RAID 1 keeps a copy on every member, 0.4 % with
//! two, 0.6 % with three. Rounding makes it more where 1008 / n falls just short of a whole chunk or
//! a power of two. RAID 6 with 64 KiB chunks: at most 0.7 % up to 15 members, 0.9 % up to 31, 1.2 %
//! with 32. With chunks of 512 KiB and more, 4, 8, 16 and 32 members take 1.2 %, no width takes more.
//!
//! Does not know: what is in a page, disks.

use cairn_blockdev::units::{BLOCK, u64_of, usize_of};

use super::page::SUMS_MAX;
use crate::geometry::{Columns, Geometry, Row, Slot};
use crate::layout::{Layout, ZoneKind};

/// A page's number, from the start of the data zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageNumber(pub u64);

/// One of the two blocks of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Written first.
    A,
    /// Written second, and so on in turn.
    B,
}

impl Side {
    /// The one that isn't this.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// Where one copy of a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copy {
    /// Number among the page's copies, from 0.
    pub number: usize,
    /// The member.
    pub slot: Slot,
    /// The place in its zone.
    pub place: u64,
}

impl Copy {
    /// First byte of the place in the zone; both sides are in the 8 KiB from here.
    pub fn offset(&self) -> u64 {
        BLOCK + self.place * 2 * BLOCK
    }

    /// The sides in their order on the disk.
    pub fn sides(&self) -> [Side; 2] {
        if self.place.is_multiple_of(2) {
            [Side::A, Side::B]
        } else {
            [Side::B, Side::A]
        }
    }

    /// First byte of a side in the zone.
    pub fn side_offset(&self, side: Side) -> u64 {
        let [first, _] = self.sides();
        self.offset() + if side == first { 0 } else { BLOCK }
    }
}

/// The part of a run of columns that is in one page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The page.
    pub page: PageNumber,
    /// First word, from the page's start.
    pub word: usize,
    /// Columns of the row.
    pub cols: Columns,
}

/// The places of an array's pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Places {
    members: usize,
    copies: usize,
    chunk_blocks: u64,
    words_per_page: u64,
    pages: u64,
}

impl Places {
    /// The places of an array with `data_bytes` a member.
    pub fn new(geometry: &Geometry, data_bytes: u64) -> Self {
        let fit = u64_of(SUMS_MAX / geometry.members());
        let chunk = geometry.chunk_blocks();
        let words_per_page = if fit >= chunk {
            fit - fit % chunk
        } else {
            1 << fit.ilog2()
        };
        Self {
            members: geometry.members(),
            copies: geometry.redundancy() + 1,
            chunk_blocks: chunk,
            words_per_page,
            pages: (data_bytes / BLOCK).div_ceil(words_per_page),
        }
    }

    /// Members, and so sums of a word.
    pub fn members(&self) -> usize {
        self.members
    }

    /// Words of a page.
    pub fn words_per_page(&self) -> usize {
        usize_of(self.words_per_page)
    }

    /// Sums of a page.
    pub fn sums_per_page(&self) -> usize {
        self.words_per_page() * self.members
    }

    /// Pages in all.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Bytes of a member's zone, its header included.
    pub fn zone_bytes(&self) -> u64 {
        let linear = self.pages * u64_of(self.copies);
        BLOCK + linear.div_ceil(u64_of(self.members)) * 2 * BLOCK
    }

    /// Whether the zone of a member has room for them. The zone of an array that was made without
    /// sums may be smaller.
    pub fn fits(&self, layout: &Layout) -> bool {
        layout.zone(ZoneKind::Checksums).len >= self.zone_bytes()
    }

    /// A block's number in the data zone of its member.
    pub fn block(&self, row: Row, col: u64) -> u64 {
        row.0 * self.chunk_blocks + col
    }

    /// Cuts columns of a row at the ends of pages.
    ///
    /// # Panics
    /// If the columns aren't in the row's chunk, or the row isn't in the data zone.
    pub fn runs(&self, row: Row, cols: Columns) -> impl Iterator<Item = Run> + use<> {
        assert!(
            cols.start <= cols.end && cols.end <= self.chunk_blocks,
            "columns {cols:?} of a chunk of {} blocks",
            self.chunk_blocks
        );
        let places = *self;
        let mut at = cols.start;
        std::iter::from_fn(move || {
            if at >= cols.end {
                return None;
            }
            let word = places.block(row, at);
            let page = PageNumber(word / places.words_per_page);
            assert!(page.0 < places.pages, "row {} has no sums", row.0);
            let within = word % places.words_per_page;
            let len = (places.words_per_page - within).min(cols.end - at);
            let run = Run {
                page,
                word: usize_of(within),
                cols: at..at + len,
            };
            at += len;
            Some(run)
        })
    }

    /// The rows that a page speaks of, in whole or in part.
    pub fn rows(&self, page: PageNumber) -> std::ops::Range<Row> {
        let first = page.0 * self.words_per_page;
        let end = (first + self.words_per_page).div_ceil(self.chunk_blocks);
        Row(first / self.chunk_blocks)..Row(end)
    }

    /// The copies of a page, on different members.
    ///
    /// # Panics
    /// If there is no such page.
    pub fn copies(&self, page: PageNumber) -> impl Iterator<Item = Copy> + use<> {
        assert!(page.0 < self.pages, "page {} of {}", page.0, self.pages);
        let members = u64_of(self.members);
        let first = page.0 * u64_of(self.copies);
        (0..self.copies).map(move |number| {
            let linear = first + u64_of(number);
            Copy {
                number,
                slot: Slot(usize_of(linear % members)),
                place: linear / members,
            }
        })
    }
}

/// Bytes of a member's zone of checksum pages, its header included.
pub fn zone_bytes(geometry: &Geometry, data_bytes: u64) -> u64 {
    Places::new(geometry, data_bytes).zone_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::Set;
    use crate::level::{Level, MEMBERS_MAX};
    use std::collections::{BTreeMap, BTreeSet};

    fn every_geometry() -> impl Iterator<Item = Geometry> {
        [Level::Raid1, Level::Raid5, Level::Raid6]
            .into_iter()
            .flat_map(|level| (level.members_min()..=MEMBERS_MAX).map(move |n| (level, n)))
            .flat_map(|(level, n)| {
                [4096, 16384, 65536, 524_288, 4 << 20]
                    .into_iter()
                    .map(move |chunk| Geometry::new(level, n, chunk).unwrap())
            })
    }

    #[test]
    fn a_page_holds_whole_chunks_or_a_power_of_two_of_words() {
        for geometry in every_geometry() {
            let places = Places::new(&geometry, 1 << 30);
            let words = u64_of(places.words_per_page());
            assert!(places.sums_per_page() <= SUMS_MAX);
            assert!(
                words.is_multiple_of(geometry.chunk_blocks())
                    || geometry.chunk_blocks().is_multiple_of(words)
            );
            // No more is wasted than the rounding asks for.
            assert!(
                places.sums_per_page() * 2 > SUMS_MAX - geometry.members(),
                "{geometry:?}"
            );
        }
    }

    #[test]
    fn a_page_s_rows_are_those_whose_columns_are_cut_to_it() {
        for geometry in every_geometry() {
            let places = Places::new(&geometry, 1 << 31);
            let mut rows: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
            for row in 0..300 {
                for run in places.runs(Row(row), 0..geometry.chunk_blocks()) {
                    rows.entry(run.page.0).or_default().insert(row);
                }
            }
            // The last one goes on behind the rows that were asked.
            rows.pop_last();
            for (page, rows) in rows {
                let said = places.rows(PageNumber(page));
                assert!((said.start.0..said.end.0).eq(rows), "page {page}: {said:?}");
            }
        }
    }

    #[test]
    fn no_two_copies_share_a_place_and_a_page_s_copies_are_on_different_members() {
        for geometry in every_geometry() {
            let places = Places::new(&geometry, 64 << 20);
            let mut taken = BTreeSet::new();
            for page in (0..places.pages()).map(PageNumber) {
                let mut slots = Set::EMPTY;
                for (number, copy) in places.copies(page).enumerate() {
                    assert_eq!(copy.number, number);
                    assert!(!slots.has(copy.slot.0));
                    slots = slots.with(copy.slot.0);
                    for side in [Side::A, Side::B] {
                        let offset = copy.side_offset(side);
                        assert!(offset >= BLOCK && offset + BLOCK <= places.zone_bytes());
                        assert!(taken.insert((copy.slot, offset)));
                    }
                }
                assert_eq!(slots.len(), geometry.redundancy() + 1);
            }
        }
    }

    #[test]
    fn neighbouring_places_meet_in_one_side_of_each_pair() {
        let copy = |place| Copy {
            number: 0,
            slot: Slot(0),
            place,
        };
        for place in (0..8).step_by(2) {
            let [one, two, three] = [copy(place), copy(place + 1), copy(place + 2)];
            assert_eq!(one.side_offset(Side::B) + BLOCK, two.side_offset(Side::B));
            assert_eq!(two.side_offset(Side::A) + BLOCK, three.side_offset(Side::A));
        }
    }

    #[test]
    fn runs_cover_the_columns_once_and_every_word_has_a_place_of_its_own() {
        for geometry in every_geometry() {
            let data = 2 * geometry.chunk_bytes().max(4 << 20);
            let places = Places::new(&geometry, data);
            let mut next = (PageNumber(0), 0);
            for row in (0..data / geometry.chunk_bytes()).map(Row) {
                let mut at = 0;
                for run in places.runs(row, 0..geometry.chunk_blocks()) {
                    assert_eq!(run.cols.start, at);
                    if next.1 == places.words_per_page() {
                        next = (PageNumber(next.0.0 + 1), 0);
                    }
                    assert_eq!((run.page, run.word), next);
                    next.1 += usize_of(run.cols.end - run.cols.start);
                    at = run.cols.end;
                }
                assert_eq!(at, geometry.chunk_blocks());
            }
            assert_eq!(next.0.0 + 1, places.pages());
        }
    }

    #[test]
    fn the_zone_costs_what_the_head_of_this_file_says() {
        let data = 1u64 << 40;
        let per_myriad = |level, n, chunk| {
            zone_bytes(&Geometry::new(level, n, chunk).unwrap(), data) * 10_000 / data
        };
        for n in 4..=MEMBERS_MAX {
            let at_most = match n {
                ..=15 => 72,
                16..=31 => 85,
                _ => 117,
            };
            assert!(per_myriad(Level::Raid6, n, 65536) <= at_most, "{n}");
            let large = per_myriad(Level::Raid6, n, 1 << 20);
            assert!(large <= 117, "{n}");
            assert_eq!(large == 117, [4, 8, 16, 32].contains(&n), "{n}: {large}");
        }
        assert_eq!(per_myriad(Level::Raid6, 10, 65536), 62);
        assert_eq!(per_myriad(Level::Raid5, 5, 65536), 41);
        assert_eq!(per_myriad(Level::Raid1, 2, 65536), 40);
        assert_eq!(per_myriad(Level::Raid1, 3, 65536), 59);
    }
}
