//! What a partial write to one segment of a row has to read: a pure decision.
//!
//! A segment is a run of columns in which the same data chunks are written. Knows which chunks and
//! parities can be read; does not know disks, buffers or rows.
//!
//! Invariants
//! - Parity is computed from new data and from data that was read or solved, never from a guess.
//! - The plan reads the fewest members; a complete segment reads none.

use crate::geometry::Set;

/// The situation of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Data chunks in the row.
    pub(crate) data: usize,
    /// Data indices that are written over the whole segment.
    pub(crate) written: Set,
    /// Data indices whose old contents can be read.
    pub(crate) readable: Set,
    /// Whether the old P can be read.
    pub(crate) p_readable: bool,
    /// Whether the old Q can be read.
    pub(crate) q_readable: bool,
    /// Whether a new P has a place to go.
    pub(crate) p_wanted: bool,
    /// Whether a new Q has a place to go.
    pub(crate) q_wanted: bool,
}

/// How the new parity comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// No parity to update: write the data alone.
    DataOnly,
    /// New parity from the new data and the old data of `read`.
    FromData {
        /// Data indices to read; empty for a complete segment.
        read: Set,
    },
    /// New parity from the old parity, the old and the new data of what is written.
    FromDelta,
    /// Read everything there is, solve what is missing, then as [`Strategy::FromData`].
    Solve,
}

/// More is gone than the parities can give back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMuchLost;

/// The cheapest strategy that is possible.
pub(crate) fn plan(segment: &Segment) -> Result<Strategy, TooMuchLost> {
    let Segment {
        data,
        written,
        readable,
        ..
    } = *segment;
    if !segment.p_wanted && !segment.q_wanted {
        return Ok(Strategy::DataOnly);
    }
    let rest = Set::first(data).minus(written);
    let from_data = rest.minus(readable).is_empty().then_some(rest.len());
    // A delta needs the old value of each parity that is to be renewed.
    let delta_possible = written.minus(readable).is_empty()
        && (!segment.p_wanted || segment.p_readable)
        && (!segment.q_wanted || segment.q_readable);
    let parities = usize::from(segment.p_wanted) + usize::from(segment.q_wanted);
    let from_delta = delta_possible.then_some(written.len() + parities);
    match (from_data, from_delta) {
        (Some(reads), Some(delta)) if delta < reads => Ok(Strategy::FromDelta),
        (Some(_), _) => Ok(Strategy::FromData { read: rest }),
        (None, Some(_)) => Ok(Strategy::FromDelta),
        (None, None) => {
            let lost = Set::first(data).minus(readable).len();
            let solvers = usize::from(segment.p_readable) + usize::from(segment.q_readable);
            if lost <= solvers {
                Ok(Strategy::Solve)
            } else {
                Err(TooMuchLost)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthy(data: usize, written: Set) -> Segment {
        Segment {
            data,
            written,
            readable: Set::first(data),
            p_readable: true,
            q_readable: true,
            p_wanted: true,
            q_wanted: true,
        }
    }

    #[test]
    fn a_complete_segment_reads_nothing() {
        let segment = healthy(8, Set::first(8));
        assert_eq!(plan(&segment), Ok(Strategy::FromData { read: Set::EMPTY }));
    }

    #[test]
    fn the_cheaper_of_delta_and_reconstruction_is_chosen() {
        // 8+2: a delta of k chunks reads k+2, a reconstruction 8−k.
        for k in 1..8 {
            let strategy = plan(&healthy(8, Set::first(k))).unwrap();
            let delta = strategy == Strategy::FromDelta;
            assert_eq!(delta, k + 2 < 8 - k, "{k} written");
        }
    }

    #[test]
    fn a_written_chunk_that_is_lost_is_not_read() {
        let mut segment = healthy(4, Set::EMPTY.with(1));
        segment.readable = segment.readable.without(1);
        let rest = Set::first(4).without(1);
        assert_eq!(plan(&segment), Ok(Strategy::FromData { read: rest }));
    }

    #[test]
    fn an_untouched_chunk_that_is_lost_forces_a_delta() {
        let mut segment = healthy(4, Set::first(3));
        segment.readable = segment.readable.without(3);
        assert_eq!(plan(&segment), Ok(Strategy::FromDelta));
    }

    #[test]
    fn a_written_and_an_untouched_loss_are_solved_by_two_parities_only() {
        let mut segment = healthy(4, Set::EMPTY.with(0));
        segment.readable = segment.readable.without(0).without(1);
        assert_eq!(plan(&segment), Ok(Strategy::Solve));
        segment.q_readable = false;
        segment.q_wanted = false;
        assert_eq!(plan(&segment), Err(TooMuchLost));
    }

    #[test]
    fn without_a_place_for_parity_only_data_is_written() {
        let mut segment = healthy(4, Set::EMPTY.with(0));
        (segment.p_wanted, segment.q_wanted) = (false, false);
        assert_eq!(plan(&segment), Ok(Strategy::DataOnly));
    }

    /// Whatever is lost within redundancy, a plan exists and rests on readable members alone.
    #[test]
    fn every_situation_within_redundancy_has_a_plan() {
        for data in 2..6 {
            for written in 1u64..1 << data {
                let written = (0..data)
                    .filter(|i| written >> i & 1 == 1)
                    .fold(Set::EMPTY, Set::with);
                for a in 0..data + 2 {
                    for b in 0..data + 2 {
                        let gone = Set::EMPTY.with(a).with(b);
                        let segment = Segment {
                            data,
                            written,
                            readable: Set::first(data).minus(gone),
                            p_readable: !gone.has(data),
                            q_readable: !gone.has(data + 1),
                            p_wanted: !gone.has(data),
                            q_wanted: !gone.has(data + 1),
                        };
                        match plan(&segment).unwrap() {
                            Strategy::FromData { read } => {
                                assert!(read.minus(segment.readable).is_empty());
                            }
                            Strategy::FromDelta => {
                                assert!(written.minus(segment.readable).is_empty());
                            }
                            Strategy::DataOnly | Strategy::Solve => {}
                        }
                    }
                }
            }
        }
    }
}
