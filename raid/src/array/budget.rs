//! How many places of a disk may be unreadable before the disk itself is.
//!
//! Invariants
//! - A place counts once, however often it is asked for, and by whichever reads that cover it.
//! - At most one place more than the budget is remembered.
//!
//! Does not know: which disk it is, whether it can be done without, how large its budget is.

use std::collections::BTreeMap;
use std::time::Duration;

use cairn_blockdev::Ticks;
use cairn_blockdev::units::usize_of_u32;

/// Unreadable places within [`WINDOW`] that a disk may have if nobody says otherwise.
pub(super) const PLACES_MAX: u32 = 20;
/// The window of the error budget.
const WINDOW: Duration = Duration::from_hours(1);

/// A range that couldn't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    len: u64,
    /// When it failed last.
    failed_at: Ticks,
}

/// Where a disk couldn't be read of late.
#[derive(Debug, Default)]
pub(super) struct Budget {
    /// By first byte. No two of them overlap.
    places: BTreeMap<u64, Place>,
}

impl Budget {
    /// Notes that `len` bytes from `offset` on couldn't be read. True if there are more than `max` such places.
    pub(super) fn note(&mut self, offset: u64, len: u64, now: Ticks, max: u32) -> bool {
        let max = usize_of_u32(max);
        self.places
            .retain(|_, place| now.since(place.failed_at) <= WINDOW);
        let end = offset.saturating_add(len.max(1));
        let meets = |(at, place): (&u64, &Place)| {
            (*at < end && at.saturating_add(place.len) > offset).then_some((*at, place.len))
        };
        let met: Vec<(u64, u64)> = self.places.iter().filter_map(meets).collect();
        let place = |len| Place {
            len,
            failed_at: now,
        };
        match met.as_slice() {
            [] => {
                self.places.insert(offset, place(end - offset));
            }
            // The read before was of more, and didn't tell where in it: this does.
            [(at, known)] if *known > end - offset => {
                self.places.remove(at);
                self.places.insert(offset, place(end - offset));
            }
            // All of it, or a part: what is known tells more.
            known => {
                for (at, len) in known {
                    self.places.insert(*at, place(*len));
                }
            }
        }
        let beyond = self.places.len() > max;
        while self.places.len() > max.saturating_add(1) {
            self.places.pop_first();
        }
        beyond
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = 4096;

    fn at(seconds: u64) -> Ticks {
        Ticks(seconds * 1_000_000_000)
    }

    #[test]
    fn a_place_counts_once_however_often_it_fails() {
        let mut budget = Budget::default();
        for second in 0..100 {
            assert!(!budget.note(BLOCK, BLOCK, at(second), PLACES_MAX));
        }
        // 20 are within the budget, the next one isn't.
        for place in 2..=20 {
            assert!(
                !budget.note(place * BLOCK, BLOCK, at(100), PLACES_MAX),
                "{place}"
            );
        }
        assert!(budget.note(21 * BLOCK, BLOCK, at(100), PLACES_MAX));
        assert!(
            budget.note(21 * BLOCK, BLOCK, at(101), PLACES_MAX),
            "it stays so"
        );
    }

    #[test]
    fn a_read_of_much_counts_once_until_its_parts_tell_where() {
        let mut budget = Budget::default();
        // As a rebuild reads: a chunk, then block by block, twice. Two blocks of each chunk are bad.
        for chunk in 0..10 {
            let from = chunk * 16 * BLOCK;
            for second in 0..2 {
                assert!(!budget.note(from, 16 * BLOCK, at(second), PLACES_MAX));
                assert!(!budget.note(from + 3 * BLOCK, BLOCK, at(second), PLACES_MAX));
                assert!(!budget.note(from + 9 * BLOCK, BLOCK, at(second), PLACES_MAX));
            }
        }
        assert_eq!(budget.places.len(), 20);
        assert!(budget.note(1000 * BLOCK, BLOCK, at(3), PLACES_MAX));
    }

    #[test]
    fn what_is_longer_ago_than_the_window_counts_no_more() {
        let mut budget = Budget::default();
        for place in 0..20 {
            assert!(!budget.note(place * BLOCK, BLOCK, at(place), PLACES_MAX));
        }
        assert!(!budget.note(20 * BLOCK, BLOCK, at(3601), PLACES_MAX));
        assert!(budget.note(21 * BLOCK, BLOCK, at(3601), PLACES_MAX));
    }

    #[test]
    fn a_disk_that_can_t_be_done_without_may_fail_everywhere_in_bounded_memory() {
        let mut budget = Budget::default();
        for place in 0..100_000 {
            budget.note(place * BLOCK, BLOCK, at(0), PLACES_MAX);
        }
        assert_eq!(budget.places.len(), usize_of_u32(PLACES_MAX) + 1);
        budget.note(0, u64::MAX, at(0), PLACES_MAX);
        assert_eq!(budget.places.len(), usize_of_u32(PLACES_MAX) + 1);
    }

    #[test]
    fn a_budget_that_shrinks_counts_what_was_noted_before() {
        let mut budget = Budget::default();
        for place in 0..5 {
            assert!(!budget.note(place * BLOCK, BLOCK, at(0), 10), "{place}");
        }
        assert!(budget.note(0, BLOCK, at(1), 2), "5 of 2");
        assert!(budget.places.len() <= 3);
        assert!(!budget.note(0, BLOCK, at(2), 10), "what is left of them");
    }
}
