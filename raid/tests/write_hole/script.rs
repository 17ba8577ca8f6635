//! What a case writes, and what each sector may then hold after a crash.

use std::ops::Range;

use cairn_blockdev::units::u64_of;
use cairn_raid::Level;

pub(crate) const SECTOR: usize = 512;
pub(crate) const CHUNK: usize = 4096;

/// How the machine goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Crash {
    /// The power: any sector that wasn't flushed may be there or not.
    Power,
    /// `kill -9`: what was done stays, what was under way lands in part.
    Kill,
}

/// A step of a script; every row gets the same.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Writes these sectors of the row in one request. Of them only those in `changed` differ from what
    /// the row held before.
    Write {
        sectors: Range<usize>,
        changed: Vec<usize>,
    },
    /// The client's flush.
    Flush,
    /// What is logged goes in place, and is trimmed.
    Apply,
}

pub(crate) fn write(sectors: Range<usize>, changed: &[usize]) -> Step {
    assert!(changed.iter().all(|sector| sectors.contains(sector)));
    Step::Write {
        sectors,
        changed: changed.to_vec(),
    }
}

/// One case.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) level: Level,
    pub(crate) members: usize,
    /// The rows were never written before.
    pub(crate) fresh: bool,
    pub(crate) script: Vec<Step>,
}

impl Case {
    pub(crate) fn parities(&self) -> usize {
        match self.level {
            Level::Raid6 => 2,
            _ => 1,
        }
    }

    pub(crate) fn data_chunks(&self) -> usize {
        self.members - self.parities()
    }

    pub(crate) fn row_sectors(&self) -> usize {
        self.data_chunks() * CHUNK / SECTOR
    }

    /// Whether a step writes a complete row, which goes past the journal.
    fn is_complete(&self, sectors: &Range<usize>) -> bool {
        *sectors == (0..self.row_sectors())
    }
}

/// What a client knows of one row at some moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// Steps that began, by index below this.
    pub(crate) begun: usize,
    /// Steps that must have survived, by index below this.
    pub(crate) kept: usize,
}

/// The versions that a sector went through: 0 is what it held before the script.
pub(crate) fn versions(case: &Case, sector: usize, known: &Known) -> Vec<usize> {
    let mut versions = vec![0];
    for (index, step) in case.script.iter().enumerate().take(known.begun) {
        let Step::Write { changed, .. } = step else {
            continue;
        };
        if !changed.contains(&sector) {
            continue;
        }
        if index < known.kept {
            versions.clear();
        }
        versions.push(index + 1);
    }
    versions
}

/// Whether a complete row is being overwritten past the journal: the documented exception.
pub(crate) fn is_exposed(case: &Case, known: &Known) -> bool {
    let steps = case.script.iter().enumerate();
    let mut begun = steps.take(known.begun).skip(known.kept);
    begun.any(|(_, step)| matches!(step, Step::Write { sectors, .. } if case.is_complete(sectors)))
}

/// Steps through the last one that wrote a complete row, of those that began: what an intent announced.
pub(crate) fn announced(case: &Case, known: &Known) -> usize {
    let begun = &case.script[..known.begun];
    let is_complete =
        |step: &Step| matches!(step, Step::Write { sectors, .. } if case.is_complete(sectors));
    begun.iter().rposition(is_complete).map_or(0, |at| at + 1)
}

/// Whether a write of a part of a block began after the last complete row.
pub(crate) fn is_journalled_since(case: &Case, known: &Known, block: usize) -> bool {
    let since = &case.script[announced(case, known)..known.begun];
    let touched = block * CHUNK / SECTOR..(block + 1) * CHUNK / SECTOR;
    since.iter().any(|step| match step {
        Step::Write { sectors, .. } => sectors.start < touched.end && touched.start < sectors.end,
        Step::Flush | Step::Apply => false,
    })
}

/// The contents of a sector of a row in a version.
pub(crate) fn contents(case: &Case, row: usize, sector: usize, version: usize) -> [u8; SECTOR] {
    if case.fresh && version == 0 {
        return [0; SECTOR];
    }
    let mut state = u64_of(row) << 32 | u64_of(sector) << 16 | u64_of(version) | 1 << 60;
    let mut bytes = [0; SECTOR];
    for word in bytes.chunks_mut(8) {
        // SplitMix64: no two sectors have a word in common, and parity of them looks like noise.
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    bytes
}

/// The payload of a step's request.
pub(crate) fn payload(case: &Case, row: usize, step: usize, sectors: &Range<usize>) -> Vec<u8> {
    let known = Known {
        begun: step + 1,
        kept: step + 1,
    };
    let newest = |sector| *versions(case, sector, &known).last().unwrap();
    sectors
        .clone()
        .flat_map(|sector| contents(case, row, sector, newest(sector)))
        .collect()
}
