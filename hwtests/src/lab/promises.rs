//! What a file system promised to those who synced: notes of a workload, and what a file may hold at
//! some moment of the record.
//!
//! ```text
//!   begin end slot new|over SEED SIZE        a line each; begin and end are lengths of the record
//!   begin end slot gone
//! ```
//! From `end` on the file holds exactly that; between `begin` and `end` that, or what it held before;
//! of a file written over, sector by sector.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use cairn_blockdev::sim::Rng;
use cairn_blockdev::units::{SECTOR, usize_of};

use super::Answer;

/// What a file was made to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Another file took its name.
    New(Contents),
    /// It was written over in place; its size stays.
    Over(Contents),
    /// It was removed.
    Gone,
}

/// Bytes that a seed gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contents {
    /// The seed.
    pub seed: u64,
    /// How many.
    pub size: u64,
}

impl Contents {
    /// They.
    pub fn bytes(self) -> Vec<u8> {
        let mut bytes = vec![0; usize_of(self.size)];
        Rng::new(self.seed).fill(&mut bytes);
        bytes
    }
}

/// A line of the notes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Note {
    /// Length of the record before it began.
    pub begin: u64,
    /// And once it was synced.
    pub end: u64,
    /// The file.
    pub slot: u32,
    /// What it became.
    pub shape: Shape,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.begin, self.end, self.slot)?;
        match self.shape {
            Shape::New(contents) => write!(f, " new {} {}", contents.seed, contents.size),
            Shape::Over(contents) => write!(f, " over {} {}", contents.seed, contents.size),
            Shape::Gone => write!(f, " gone"),
        }
    }
}

impl FromStr for Note {
    type Err = String;

    fn from_str(line: &str) -> Answer<Self> {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |word: &str| word.parse::<u64>().map_err(|_| format!("no note: {line}"));
        let contents = |seed, size| {
            Ok::<_, String>(Contents {
                seed: number(seed)?,
                size: number(size)?,
            })
        };
        let (place, shape) = match words.as_slice() {
            [begin, end, slot, "new", seed, size] => {
                ((begin, end, slot), Shape::New(contents(seed, size)?))
            }
            [begin, end, slot, "over", seed, size] => {
                ((begin, end, slot), Shape::Over(contents(seed, size)?))
            }
            [begin, end, slot, "gone"] => ((begin, end, slot), Shape::Gone),
            _ => return Err(format!("no note: {line}")),
        };
        let (begin, end, slot) = place;
        Ok(Self {
            begin: number(begin)?,
            end: number(end)?,
            slot: u32::try_from(number(slot)?).map_err(|error| error.to_string())?,
            shape,
        })
    }
}

/// All notes.
#[derive(Debug, Default)]
pub struct Promises(BTreeMap<u32, Vec<Note>>);

impl Promises {
    /// Those of a workload.
    pub fn of(text: &str) -> Answer<Self> {
        let mut slots: BTreeMap<u32, Vec<Note>> = BTreeMap::new();
        for line in text.lines() {
            let note: Note = line.parse()?;
            slots.entry(note.slot).or_default().push(note);
        }
        Ok(Self(slots))
    }

    /// Where something was synced, ascending.
    pub fn ends(&self) -> Vec<u64> {
        let mut ends: Vec<u64> = self.0.values().flatten().map(|note| note.end).collect();
        ends.sort_unstable();
        ends.dedup();
        ends
    }

    /// Where the first of it began.
    pub fn begin(&self) -> u64 {
        let begins = self.0.values().flatten().map(|note| note.begin);
        begins.min().unwrap_or_default()
    }

    /// The files.
    pub fn slots(&self) -> impl Iterator<Item = u32> {
        self.0.keys().copied()
    }

    /// Whether the file `slot` may hold `found` (`None`: it isn't there) after a power cut at `position`.
    /// The error says what it should.
    pub fn check(&self, slot: u32, position: u64, found: Option<&[u8]>) -> Answer<()> {
        let notes = self.0.get(&slot).map_or(&[][..], Vec::as_slice);
        let done = notes.iter().rev().find(|note| note.end <= position);
        let under_way = notes
            .iter()
            .find(|note| note.begin < position && position < note.end);
        let must = done.map_or(Shape::Gone, |note| note.shape);
        let is = |shape: Shape| match (shape, found) {
            (Shape::Gone, None) => true,
            (Shape::New(contents) | Shape::Over(contents), Some(found)) => {
                contents.bytes() == found
            }
            _ => false,
        };
        if is(must) || under_way.is_some_and(|note| is(note.shape)) {
            return Ok(());
        }
        if let (Some(found), Some(note)) = (found, under_way)
            && let (Shape::New(old) | Shape::Over(old), Shape::Over(new)) = (must, note.shape)
            && are_mixed(found, &old.bytes(), &new.bytes())
        {
            return Ok(());
        }
        let held = match found {
            None => "isn't there".to_owned(),
            Some(found) => format!(
                "has {} bytes, the first wrong one of them at {:?}",
                found.len(),
                first_wrong(found, must)
            ),
        };
        let maybe = under_way.map(|note| note.shape);
        Err(format!(
            "file {slot} {held}; it was synced as {must:?}, under way was {maybe:?}"
        ))
    }
}

fn first_wrong(found: &[u8], must: Shape) -> Option<usize> {
    let (Shape::New(contents) | Shape::Over(contents)) = must else {
        return Some(0);
    };
    let bytes = contents.bytes();
    found.iter().zip(&bytes).position(|(a, b)| a != b)
}

/// Each sector is one or the other.
fn are_mixed(found: &[u8], old: &[u8], new: &[u8]) -> bool {
    let sector = usize_of(SECTOR);
    let is_same_size = found.len() == old.len() && found.len() == new.len();
    let sectors = old.chunks(sector).zip(new.chunks(sector));
    is_same_size
        && found
            .chunks(sector)
            .zip(sectors)
            .all(|(found, (old, new))| found == old || found == new)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Contents = Contents {
        seed: 1,
        size: 1500,
    };
    const NEW: Contents = Contents {
        seed: 2,
        size: 1500,
    };

    #[test]
    fn notes_are_read_as_they_were_written() {
        for shape in [Shape::New(OLD), Shape::Over(NEW), Shape::Gone] {
            let note = Note {
                begin: 7,
                end: 9,
                slot: 3,
                shape,
            };
            assert_eq!(note.to_string().parse(), Ok(note));
        }
        assert!("1 2 3 new 4".parse::<Note>().is_err());
    }

    #[test]
    fn a_synced_file_is_what_it_was_and_one_under_way_old_or_new_in_each_sector() {
        let promises =
            Promises::of("10 20 0 new 1 1500\n30 40 0 over 2 1500\n50 60 0 gone").unwrap();
        let (old, new) = (OLD.bytes(), NEW.bytes());
        let mut mixed = old.clone();
        mixed[512..1024].copy_from_slice(&new[512..1024]);
        let mut torn = old.clone();
        torn[512..600].copy_from_slice(&new[512..600]);
        let may = |position, found: Option<&Vec<u8>>| {
            promises
                .check(0, position, found.map(Vec::as_slice))
                .is_ok()
        };
        assert!(may(5, None) && !may(5, Some(&old)));
        assert!(may(15, None) && may(15, Some(&old)) && !may(15, Some(&mixed)));
        assert!(may(20, Some(&old)) && !may(20, None));
        assert!(may(35, Some(&old)) && may(35, Some(&new)) && may(35, Some(&mixed)));
        assert!(!may(35, Some(&torn)) && !may(35, None));
        assert!(may(40, Some(&new)) && !may(40, Some(&mixed)) && !may(40, Some(&old)));
        assert!(may(55, None) && may(55, Some(&new)));
        assert!(may(60, None) && !may(60, Some(&new)));
        assert_eq!((promises.begin(), promises.ends()), (10, vec![20, 40, 60]));
    }
}
