//! Where a logical byte lies: md's left-symmetric geometry as pure functions.
//!
//! A *row* is one chunk on every member, at the same place of each data zone. RAID 5 (md layout 2):
//! the parity of row r is on slot n−1−(r mod n), data i on parity+1+i, all mod n. RAID 6: Q on
//! parity+1, data i on parity+2+i. RAID 1: every slot holds the row's only chunk.
//!
//! Within a row, a place on a member is a *column*: a 4 KiB block of the chunk. Blocks of one column
//! on all members form one independent code word.
//!
//! Does not know: which members live, what is written, disks.

use std::ops::Range;

use cairn_blockdev::units::{BLOCK, u64_of, usize_of};

use crate::level::{Level, MEMBERS_MAX};

/// Smallest chunk in bytes: one block.
pub const CHUNK_MIN: u32 = 4096;
/// Largest chunk in bytes. A row buffer of 24 members stays under 100 MiB.
pub const CHUNK_MAX: u32 = 4 << 20;

/// A row's number, from the start of the data zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Row(pub u64);

/// A member's place in the geometry, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub usize);

/// Columns (4 KiB blocks) of a chunk.
pub(crate) type Columns = Range<u64>;

/// A set of slots or data indices.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Set(u64);

impl Set {
    /// No element.
    pub const EMPTY: Self = Self(0);

    /// The elements 0..n.
    pub fn first(n: usize) -> Self {
        (0..n).fold(Self::EMPTY, Self::with)
    }

    /// This set and `element`.
    #[must_use]
    pub fn with(self, element: usize) -> Self {
        assert!(element < 64, "set element {element}");
        Self(self.0 | 1 << element)
    }

    /// This set without `element`.
    #[must_use]
    pub fn without(self, element: usize) -> Self {
        Self(self.0 & !(1 << element))
    }

    /// What is in both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in either.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is here and not in `other`.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether `element` is in it.
    pub fn has(self, element: usize) -> bool {
        self.0 >> element & 1 == 1
    }

    /// Whether nothing is in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many.
    pub fn len(self) -> usize {
        cairn_blockdev::units::usize_of_u32(self.0.count_ones())
    }

    /// The elements, ascending.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..64).filter(move |&element| self.has(element))
    }
}

impl std::fmt::Debug for Set {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// What a slot holds in one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Data chunk i of the row. On RAID 1 every slot is `Data(0)`.
    Data(usize),
    /// XOR of the data.
    P,
    /// Σ 2^i · data i over GF(2⁸).
    Q,
}

/// Level, members and chunk of an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    level: Level,
    members: usize,
    chunk_bytes: u64,
}

/// Why a geometry can't be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// Not enough members.
    #[error("{level} needs at least {} members, {given} given", .level.members_min())]
    TooFew {
        /// The level asked for.
        level: Level,
        /// Members given.
        given: usize,
    },
    /// Too many.
    #[error("an array has at most {MEMBERS_MAX} members, {given} given")]
    TooMany {
        /// Members given.
        given: usize,
    },
    /// The chunk is no power of two in range.
    #[error("chunk of {given} bytes: it must be a power of two from 4 KiB to 4 MiB")]
    Chunk {
        /// Bytes given.
        given: u64,
    },
}

impl Geometry {
    /// Checks and makes a geometry.
    pub fn new(level: Level, members: usize, chunk_bytes: u32) -> Result<Self, GeometryError> {
        if members < level.members_min() {
            return Err(GeometryError::TooFew {
                level,
                given: members,
            });
        }
        if members > MEMBERS_MAX {
            return Err(GeometryError::TooMany { given: members });
        }
        if !chunk_bytes.is_power_of_two() || !(CHUNK_MIN..=CHUNK_MAX).contains(&chunk_bytes) {
            return Err(GeometryError::Chunk {
                given: u64::from(chunk_bytes),
            });
        }
        Ok(Self {
            level,
            members,
            chunk_bytes: u64::from(chunk_bytes),
        })
    }

    /// The level.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Slots.
    pub fn members(&self) -> usize {
        self.members
    }

    /// How many members may be gone.
    pub fn redundancy(&self) -> usize {
        self.level.redundancy(self.members)
    }

    /// Data chunks in a row.
    pub fn data_chunks(&self) -> usize {
        match self.level {
            Level::Raid1 => 1,
            Level::Raid5 => self.members - 1,
            Level::Raid6 => self.members - 2,
        }
    }

    /// Chunk in bytes.
    pub fn chunk_bytes(&self) -> u64 {
        self.chunk_bytes
    }

    /// Columns of a chunk.
    pub fn chunk_blocks(&self) -> u64 {
        self.chunk_bytes / BLOCK
    }

    /// Data bytes of a row.
    pub fn row_bytes(&self) -> u64 {
        self.chunk_bytes * u64_of(self.data_chunks())
    }

    /// Slot of P; `None` on RAID 1.
    pub fn p_slot(&self, row: Row) -> Option<Slot> {
        let n = u64_of(self.members);
        (self.level != Level::Raid1).then(|| Slot(usize_of(n - 1 - row.0 % n)))
    }

    /// Slot of Q; `None` but on RAID 6.
    pub fn q_slot(&self, row: Row) -> Option<Slot> {
        let p = self.p_slot(row)?;
        (self.level == Level::Raid6).then(|| Slot((p.0 + 1) % self.members))
    }

    /// Slot of data chunk `index`; on RAID 1 the first mirror.
    pub fn data_slot(&self, row: Row, index: usize) -> Slot {
        assert!(index < self.data_chunks());
        match self.p_slot(row) {
            None => Slot(0),
            Some(p) => {
                let parities = self.members - self.data_chunks();
                Slot((p.0 + parities + index) % self.members)
            }
        }
    }

    /// What `slot` holds in `row`.
    pub fn role(&self, row: Row, slot: Slot) -> Role {
        let Some(p) = self.p_slot(row) else {
            return Role::Data(0);
        };
        if slot == p {
            return Role::P;
        }
        if Some(slot) == self.q_slot(row) {
            return Role::Q;
        }
        let parities = self.members - self.data_chunks();
        Role::Data((slot.0 + 2 * self.members - p.0 - parities) % self.members)
    }

    /// The row that holds the logical byte `offset`, and the byte's place in the row's data.
    pub fn locate(&self, offset: u64) -> (Row, u64) {
        (Row(offset / self.row_bytes()), offset % self.row_bytes())
    }

    /// Cuts a range of one row's data into chunk pieces: (data index, byte in the chunk, length).
    pub fn pieces(&self, within: u64, len: u64) -> impl Iterator<Item = Piece> + use<> {
        let chunk = self.chunk_bytes;
        let end = within + len;
        let mut at = within;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let in_chunk = at % chunk;
            let piece_len = (chunk - in_chunk).min(end - at);
            let piece = Piece {
                index: usize_of(at / chunk),
                in_chunk,
                len: piece_len,
                in_request: at - within,
            };
            at += piece_len;
            Some(piece)
        })
    }
}

/// A part of a request that lies in one chunk. Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Data index of the chunk in its row.
    pub index: usize,
    /// First byte in the chunk.
    pub in_chunk: u64,
    /// Bytes.
    pub len: u64,
    /// First byte in the request's part on this row.
    pub in_request: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn md_left_symmetric_raid5_of_five() {
        // From md's documentation of layout 2: parity walks down from the last disk, data begins
        // right after it.
        let g = Geometry::new(Level::Raid5, 5, 4096).unwrap();
        let table: Vec<Vec<usize>> = (0..5)
            .map(|row| (0..4).map(|i| g.data_slot(Row(row), i).0).collect())
            .collect();
        assert_eq!(
            table,
            [
                [0, 1, 2, 3],
                [4, 0, 1, 2],
                [3, 4, 0, 1],
                [2, 3, 4, 0],
                [1, 2, 3, 4]
            ]
        );
        assert_eq!(
            (0..5)
                .map(|r| g.p_slot(Row(r)).unwrap().0)
                .collect::<Vec<_>>(),
            [4, 3, 2, 1, 0]
        );
    }

    #[test]
    fn roles_and_slots_are_inverse_for_every_level() {
        for level in [Level::Raid1, Level::Raid5, Level::Raid6] {
            for n in level.members_min()..=MEMBERS_MAX {
                let g = Geometry::new(level, n, 65536).unwrap();
                for row in (0..70).map(Row) {
                    let mut seen = Set::EMPTY;
                    for slot in (0..n).map(Slot) {
                        match g.role(row, slot) {
                            Role::Data(i) if level != Level::Raid1 => {
                                assert_eq!(g.data_slot(row, i), slot);
                                assert!(!seen.has(i));
                                seen = seen.with(i);
                            }
                            Role::Data(i) => assert_eq!(i, 0),
                            Role::P => assert_eq!(g.p_slot(row), Some(slot)),
                            Role::Q => assert_eq!(g.q_slot(row), Some(slot)),
                        }
                    }
                    if level != Level::Raid1 {
                        assert_eq!(seen.len(), g.data_chunks());
                    }
                }
            }
        }
    }

    #[test]
    fn pieces_cover_the_range_once() {
        let g = Geometry::new(Level::Raid6, 6, 8192).unwrap();
        let pieces: Vec<_> = g.pieces(4096, 20480).collect();
        assert_eq!(pieces.iter().map(|p| p.len).sum::<u64>(), 20480);
        assert_eq!(
            pieces
                .iter()
                .map(|p| (p.index, p.in_chunk, p.len, p.in_request))
                .collect::<Vec<_>>(),
            [(0, 4096, 4096, 0), (1, 0, 8192, 4096), (2, 0, 8192, 12288)]
        );
    }

    #[test]
    fn impossible_geometries_are_refused() {
        assert!(Geometry::new(Level::Raid6, 3, 65536).is_err());
        assert!(Geometry::new(Level::Raid5, 33, 65536).is_err());
        assert!(Geometry::new(Level::Raid5, 5, 5000).is_err());
        assert!(Geometry::new(Level::Raid5, 5, 8 << 20).is_err());
    }
}
