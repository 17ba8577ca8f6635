//! What was asked of a volume or of a disk since the array was started: counts that only rise, so that two looks give a rate.
//!
//! Does not know: who looks, how often, what is much.

use std::cell::Cell;
use std::time::Duration;

/// Requests of one kind that have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Requests, those that failed included.
    pub ops: u64,
    /// Of these, those that failed.
    pub failed: u64,
    /// Bytes that they were about.
    pub bytes: u64,
    /// The time that each took, summed up, in ns.
    pub nanos: u64,
}

impl Count {
    fn with(self, ended: &Ended) -> Self {
        let nanos = u64::try_from(ended.took.as_nanos()).unwrap_or(u64::MAX);
        Self {
            ops: self.ops + 1,
            failed: self.failed + u64::from(ended.failed),
            bytes: self.bytes.saturating_add(ended.bytes),
            nanos: self.nanos.saturating_add(nanos),
        }
    }
}

/// Requests that have ended, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Reads.
    pub reads: Count,
    /// Writes of data.
    pub writes: Count,
    /// Flushes.
    pub flushes: Count,
    /// Trims, and writes of zeros that carry no data.
    pub zeros: Count,
}

/// What a request was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Read,
    Write,
    Flush,
    Zeros,
}

/// How one request ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) bytes: u64,
    pub(crate) took: Duration,
    pub(crate) failed: bool,
}

/// The counts of one volume or disk.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    reads: Cell<Count>,
    writes: Cell<Count>,
    flushes: Cell<Count>,
    zeros: Cell<Count>,
}

impl Counters {
    /// A request has ended.
    pub(crate) fn note(&self, asked: Asked, ended: &Ended) {
        let count = match asked {
            Asked::Read => &self.reads,
            Asked::Write => &self.writes,
            Asked::Flush => &self.flushes,
            Asked::Zeros => &self.zeros,
        };
        count.set(count.get().with(ended));
    }

    /// What it has come to.
    pub(crate) fn tally(&self) -> Tally {
        Tally {
            reads: self.reads.get(),
            writes: self.writes.get(),
            flushes: self.flushes.get(),
            zeros: self.zeros.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_own_count_and_what_failed_is_among_it() {
        let counters = Counters::default();
        let mut ended = Ended {
            bytes: 4096,
            took: Duration::from_micros(3),
            failed: false,
        };
        counters.note(Asked::Write, &ended);
        ended.failed = true;
        counters.note(Asked::Write, &ended);
        counters.note(Asked::Flush, &Ended { bytes: 0, ..ended });
        let tally = counters.tally();
        let writes = Count {
            ops: 2,
            failed: 1,
            bytes: 8192,
            nanos: 6000,
        };
        assert_eq!(tally.writes, writes);
        assert_eq!((tally.flushes.ops, tally.flushes.bytes), (1, 0));
        assert_eq!(
            (tally.reads, tally.zeros),
            (Count::default(), Count::default())
        );
    }
}
