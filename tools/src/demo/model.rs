//! What a volume should hold: a stamp per sector, from which its bytes follow.
//!
//! A volume of 1 GiB needs 8 MiB of model, and a block that landed in the wrong place, or is an
//! old one, differs from what its sector and stamp say.

use std::ops::Range;

/// The unit of the model: the smallest that a client may write.
pub(super) const SECTOR: u64 = 512;
/// [`SECTOR`] as a length in memory.
const SECTOR_LEN: usize = 512;

/// One step of splitmix64: well mixed, and nothing that has to be a secret.
pub(super) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A sequence of numbers from a seed.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    /// The sequence of `seed`.
    pub(super) fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// The next number below `bound`, which isn't zero.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0) % bound
    }
}

/// A run of sectors of the volume, and what was last written to each.
#[derive(Debug)]
pub(super) struct Model {
    seed: u64,
    first_sector: u64,
    /// Zero: never written, or trimmed. Reads as zeros.
    stamps: Vec<u32>,
}

impl Model {
    /// Sectors `sectors` of a fresh volume.
    pub(super) fn new(seed: u64, sectors: Range<u64>) -> Self {
        let count = sectors.end.saturating_sub(sectors.start);
        Self {
            seed,
            first_sector: sectors.start,
            stamps: vec![0; usize::try_from(count).unwrap_or(0)],
        }
    }

    /// Sectors in it.
    pub(super) fn sectors(&self) -> u64 {
        u64::try_from(self.stamps.len()).unwrap_or(u64::MAX)
    }

    /// Where sector `index` of the model lies in the volume, in bytes.
    pub(super) fn offset(&self, index: u64) -> u64 {
        (self.first_sector + index) * SECTOR
    }

    /// Fills `bytes` with what sectors from `index` on hold under `stamp`.
    pub(super) fn fill(&self, index: u64, stamp: u32, bytes: &mut [u8]) {
        let first = self.first_sector + index;
        for (sector, chunk) in (first..).zip(bytes.chunks_mut(SECTOR_LEN)) {
            fill_sector(self.seed, sector, stamp, chunk);
        }
    }

    /// Notes that sectors from `index` on now hold `stamp`.
    pub(super) fn note(&mut self, index: u64, sectors: u64, stamp: u32) {
        let (Ok(from), Ok(count)) = (usize::try_from(index), usize::try_from(sectors)) else {
            return;
        };
        for slot in self.stamps.iter_mut().skip(from).take(count) {
            *slot = stamp;
        }
    }

    /// The first sector of the volume in which `bytes`, read from sector `index` on, is wrong.
    pub(super) fn first_difference(&self, index: u64, bytes: &[u8]) -> Option<u64> {
        let first = self.first_sector + index;
        let from = usize::try_from(index).unwrap_or(usize::MAX);
        let mut expected = [0_u8; SECTOR_LEN];
        let mut stamps = self.stamps.iter().skip(from);
        for (sector, chunk) in (first..).zip(bytes.chunks(SECTOR_LEN)) {
            let Some(stamp) = stamps.next() else {
                return Some(sector);
            };
            fill_sector(self.seed, sector, *stamp, &mut expected);
            if expected.get(..chunk.len()) != Some(chunk) {
                return Some(sector);
            }
        }
        None
    }
}

fn fill_sector(seed: u64, sector: u64, stamp: u32, bytes: &mut [u8]) {
    if stamp == 0 {
        bytes.fill(0);
        return;
    }
    let mut state = mix(seed ^ mix(sector ^ mix(u64::from(stamp)))) | 1;
    for word in bytes.chunks_mut(8) {
        // xorshift64: fast, and never zero from an odd start.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let value = state.to_le_bytes();
        for (to, from) in word.iter_mut().zip(value) {
            *to = from;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_misplaced_and_flipped_bytes_are_all_seen() {
        let mut model = Model::new(7, 100..200);
        assert_eq!(model.offset(0), 51_200);
        let mut bytes = vec![0; 4 * SECTOR_LEN];
        assert_eq!(model.first_difference(10, &bytes), None, "fresh is zeros");

        model.fill(10, 1, &mut bytes);
        model.note(10, 4, 1);
        assert_eq!(model.first_difference(10, &bytes), None);
        assert_eq!(model.first_difference(11, &bytes), Some(111), "misplaced");

        let old = bytes.clone();
        model.fill(10, 2, &mut bytes);
        model.note(10, 4, 2);
        assert_eq!(model.first_difference(10, &old), Some(110), "old");
        bytes[3 * SECTOR_LEN + 9] ^= 1;
        assert_eq!(model.first_difference(10, &bytes), Some(113), "flipped");

        model.note(10, 4, 0);
        assert_eq!(model.first_difference(10, &vec![0; 2048]), None, "trimmed");
    }

    #[test]
    fn reading_past_the_model_is_a_difference() {
        let model = Model::new(7, 0..2);
        assert_eq!(model.first_difference(1, &vec![0; 1024]), Some(2));
    }

    #[test]
    fn a_seed_repeats_its_numbers() {
        let numbers = |seed| {
            let mut random = Random::new(seed);
            (0..8).map(|_| random.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(numbers(1), numbers(1));
        assert_ne!(numbers(1), numbers(2));
    }
}
