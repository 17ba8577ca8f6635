//! What a disk has done and how it took: cheap cells on its engine thread, and a snapshot that
//! may leave it.

use std::cell::Cell;
use std::time::Duration;

use crate::error::IoOp;

/// Weight of the newest latency in the average, as a divisor: 1/16, about what the last few dozen
/// operations took.
const EWMA_DIVISOR: u64 = 16;

/// One kind of operation, as counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpCounters {
    /// Operations that completed, failed ones included.
    pub ops: u64,
    /// Bytes moved by those that succeeded.
    pub bytes: u64,
    /// Operations that failed.
    pub errors: u64,
    /// Moving average of the time from submission to completion, in nanoseconds; 0 without a clock.
    pub latency_ns_ewma: u64,
    /// Longest such time since the disk was opened.
    pub latency_ns_max: u64,
}

/// A disk's counters since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskCounters {
    /// Reads.
    pub read: OpCounters,
    /// Writes, of data and of zeros.
    pub write: OpCounters,
    /// Flushes.
    pub flush: OpCounters,
    /// Discards.
    pub discard: OpCounters,
    /// Operations under way, abandoned ones included: their memory is still the kernel's.
    pub in_flight: u32,
}

/// The live cells behind [`DiskCounters`].
#[derive(Debug, Default)]
pub(crate) struct Counters(Cell<DiskCounters>);

impl Counters {
    pub(crate) fn started(&self) {
        let mut all = self.0.get();
        all.in_flight += 1;
        self.0.set(all);
    }

    /// `bytes` is what was moved, or `None` if the operation failed.
    pub(crate) fn finished(&self, op: IoOp, bytes: Option<u64>, took: Option<Duration>) {
        let mut all = self.0.get();
        all.in_flight -= 1;
        let one = match op {
            IoOp::Read | IoOp::Open => &mut all.read,
            IoOp::Write => &mut all.write,
            IoOp::Flush => &mut all.flush,
            IoOp::Discard => &mut all.discard,
        };
        one.ops += 1;
        match bytes {
            Some(bytes) => one.bytes += bytes,
            None => one.errors += 1,
        }
        if let Some(took) = took {
            let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
            one.latency_ns_max = one.latency_ns_max.max(ns);
            one.latency_ns_ewma = average(one.latency_ns_ewma, ns);
        }
        self.0.set(all);
    }

    pub(crate) fn snapshot(&self) -> DiskCounters {
        self.0.get()
    }
}

fn average(old: u64, new: u64) -> u64 {
    if old == 0 {
        return new;
    }
    old - old / EWMA_DIVISOR + new / EWMA_DIVISOR
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_counted_by_itself_and_failures_move_no_bytes() {
        let counters = Counters::default();
        for _ in 0..3 {
            counters.started();
        }
        counters.finished(IoOp::Read, Some(4096), Some(Duration::from_nanos(160)));
        counters.finished(IoOp::Read, None, Some(Duration::from_nanos(320)));
        let seen = counters.snapshot();
        assert_eq!(seen.in_flight, 1);
        assert_eq!(
            seen.read,
            OpCounters {
                ops: 2,
                bytes: 4096,
                errors: 1,
                latency_ns_ewma: 170,
                latency_ns_max: 320,
            }
        );
        assert_eq!(seen.write, OpCounters::default());
    }
}
