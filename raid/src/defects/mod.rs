//! Blocks that are lost here, and what the scrub has done: the bad-block list of an array.
//!
//! A block is *bad* when nothing on this host can give its contents: too many members of its code
//! word are gone, unreadable or don't verify. It is an error for that block alone, until the next
//! write over it, or a peer, heals it.
//!
//! Invariants
//! - A block stays in the list until it was written anew; a restart doesn't forget it.
//! - The list is bounded ([`ENTRIES_MAX`]). What doesn't fit is counted in `more`: that count is only
//!   taken back by [`Defects::forget_more`], after a scrub has looked at every row.
//!
//! Does not know: where the zone lies, when the list is saved, what a reader does about a bad block.

mod codec;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use cairn_blockdev::units::u64_of;
use uuid::Uuid;

pub use codec::{DefectsError, ENTRIES_MAX, bytes_needed, slot_offset};

use crate::geometry::{Columns, Row, Set, Slot};

/// Why a block is lost. The numbers are on disks for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It couldn't be read, and the others don't suffice to solve it.
    Unreadable,
    /// What was read doesn't match its checksum, and nothing that does could be solved.
    Mismatch,
    /// A write over a complete row was cut off and its member lost in the same crash.
    CutOff,
    /// It wasn't to be had when its member was rebuilt.
    NotRebuilt,
}

impl Reason {
    /// The number on disk.
    pub const fn code(self) -> u8 {
        match self {
            Self::Unreadable => 1,
            Self::Mismatch => 2,
            Self::CutOff => 3,
            Self::NotRebuilt => 4,
        }
    }

    /// The reason of a number.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Unreadable),
            2 => Some(Self::Mismatch),
            3 => Some(Self::CutOff),
            4 => Some(Self::NotRebuilt),
            _ => None,
        }
    }
}

impl Reason {
    /// Whether what lies in its place isn't the block: zeros, for the sake of the others.
    pub(crate) const fn is_given_up(self) -> bool {
        matches!(self, Self::CutOff | Self::NotRebuilt)
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unreadable => "unreadable",
            Self::Mismatch => "checksum mismatch",
            Self::CutOff => "cut off in a write",
            Self::NotRebuilt => "not rebuilt",
        })
    }
}

/// Where a scrub is. The numbers are on disks for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ScrubState {
    /// None was started, or the last one is finished.
    #[default]
    Idle,
    /// Under way; goes on after a restart.
    Running,
    /// Paused by the operator until he resumes it.
    Paused,
    /// Ended by the operator before its end.
    Stopped,
    /// Outside its window; the host resumes it.
    Waiting,
}

impl ScrubState {
    /// The number on disk.
    pub const fn code(self) -> u32 {
        match self {
            Self::Idle => 0,
            Self::Running => 1,
            Self::Paused => 2,
            Self::Stopped => 3,
            Self::Waiting => 4,
        }
    }

    /// The state of a number.
    pub const fn from_code(code: u32) -> Option<Self> {
        match code {
            0 => Some(Self::Idle),
            1 => Some(Self::Running),
            2 => Some(Self::Paused),
            3 => Some(Self::Stopped),
            4 => Some(Self::Waiting),
            _ => None,
        }
    }
}

/// What is kept of the scrub. Counts are of the present run, or of the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScrubRecord {
    /// Where it is.
    pub state: ScrubState,
    /// The first row that it hasn't looked at.
    pub cursor: Row,
    /// When it was started, in ms since 1970; 0: never.
    pub started_ms: u64,
    /// When a run last came to its end, in ms since 1970; 0: never.
    pub finished_ms: u64,
    /// Blocks rewritten with what verifies.
    pub repaired: u64,
    /// Blocks that didn't match.
    pub mismatched: u64,
    /// Blocks that nothing could give.
    pub unrepairable: u64,
    /// Runs that came to their end.
    pub runs: u32,
}

/// One block of one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Its row.
    pub row: Row,
    /// Its column: which 4 KiB of the chunk.
    pub col: u32,
    /// Its member's slot.
    pub slot: Slot,
}

/// What is known of a bad block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Defect {
    /// When it was noted, in ms since 1970.
    pub since_ms: u64,
    /// Why.
    pub reason: Reason,
}

/// The list, and the record of the scrub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defects {
    array: Uuid,
    generation: u64,
    blocks: BTreeMap<Place, Defect>,
    more: u64,
    scrub: ScrubRecord,
    /// Something isn't on the disks yet.
    dirty: bool,
}

impl Defects {
    /// An empty list.
    pub fn new(array: Uuid) -> Self {
        Self {
            array,
            generation: 0,
            blocks: BTreeMap::new(),
            more: 0,
            scrub: ScrubRecord::default(),
            dirty: false,
        }
    }

    /// Notes that a block is lost. True if that is news: also that one that couldn't be had is given up.
    pub fn note(&mut self, place: Place, defect: Defect) -> bool {
        if let Some(known) = self.blocks.get_mut(&place) {
            let news = defect.reason.is_given_up() && !known.reason.is_given_up();
            if news {
                *known = defect;
                self.dirty = true;
            }
            return news;
        }
        self.dirty = true;
        if self.blocks.len() < ENTRIES_MAX {
            self.blocks.insert(place, defect);
        } else {
            self.more = self.more.saturating_add(1);
        }
        true
    }

    /// Columns of these slots were written anew. Gives how many blocks that has healed.
    pub fn heal(&mut self, row: Row, cols: &Columns, slots: Set) -> usize {
        let healed: Vec<Place> = self
            .in_columns(row, cols)
            .map(|(place, _)| place)
            .filter(|place| slots.has(place.slot.0))
            .collect();
        for place in &healed {
            self.blocks.remove(place);
        }
        self.dirty |= !healed.is_empty();
        healed.len()
    }

    /// Whether a block is in the list. O(log n); free while the list is empty.
    pub fn is_bad(&self, place: Place) -> bool {
        self.blocks.contains_key(&place)
    }

    /// Bad blocks of some columns of a row, in order.
    pub fn in_columns(&self, row: Row, cols: &Columns) -> impl Iterator<Item = (Place, Defect)> {
        let at = |col: u64| Place {
            row,
            col: u32::try_from(col).unwrap_or(u32::MAX),
            slot: Slot(0),
        };
        let range = at(cols.start)..at(cols.end.max(cols.start));
        self.blocks
            .range(range)
            .map(|(place, defect)| (*place, *defect))
    }

    /// All, by row, column and slot.
    pub fn list(&self) -> impl Iterator<Item = (Place, Defect)> {
        self.blocks.iter().map(|(place, defect)| (*place, *defect))
    }

    /// Whether no block is known to be lost.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.more == 0
    }

    /// Bad blocks, those that didn't fit included.
    pub fn total(&self) -> u64 {
        u64_of(self.blocks.len()).saturating_add(self.more)
    }

    /// Bad blocks that didn't fit in the list.
    pub fn more(&self) -> u64 {
        self.more
    }

    /// Every row was looked at since, and what is bad is in the list.
    pub fn forget_more(&mut self) {
        self.dirty |= self.more > 0;
        self.more = 0;
    }

    /// The record of the scrub.
    pub fn scrub(&self) -> ScrubRecord {
        self.scrub
    }

    /// Changes the record of the scrub.
    pub fn set_scrub(&mut self, scrub: ScrubRecord) {
        self.dirty |= self.scrub != scrub;
        self.scrub = scrub;
    }

    /// The generation that was saved or loaded last.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether something isn't on the disks yet.
    pub fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Some member may lack the list: the next save writes it.
    pub fn touch(&mut self) {
        // A member's blank zone says what a list says that was never saved.
        self.dirty |= self.generation > 0;
    }

    /// The list as it was loaded, if it hasn't changed since: its generation and its bytes.
    pub fn saved(&self) -> (u64, Vec<u8>) {
        (self.generation, self.encode(self.generation))
    }

    /// What is to be written, if anything: the next generation and its bytes.
    pub fn take_dirty(&mut self) -> Option<(u64, Vec<u8>)> {
        if !std::mem::take(&mut self.dirty) {
            return None;
        }
        self.generation += 1;
        Some((self.generation, self.encode(self.generation)))
    }
}
