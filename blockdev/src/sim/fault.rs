//! What can go wrong with a simulated disk, on order.
//!
//! A [`Fault`] is a state of the disk that lasts until it is healed. A [`Strike`] hits chosen
//! operations: the k-th write, three flushes from now on, every read of a range. What has struck is
//! counted by kind, so that a test can tell a fault that was survived from one that never came.

use std::ops::{AddAssign, Range};
use std::time::Duration;

use crate::error::{IoErrorKind, IoOp};

/// A fault that lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Reads that touch the range fail until it is written again.
    BadRange {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Every write fails with a medium error.
    WritesFail,
    /// Every flush fails.
    FlushFails,
    /// Everything fails: the disk is pulled.
    Gone,
}

/// Which kind of operation a strike waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// Reads.
    Read,
    /// Writes, of data or of zeros.
    Write,
    /// Flushes.
    Flush,
    /// All three.
    Any,
}

/// What it does to the operation that it hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Fails it. A write or flush that fails has done nothing.
    Fail(IoErrorKind),
    /// Acks a write and drops it (fault D6).
    Lose,
    /// A write lands at this offset instead of its own (fault D7).
    Misdirect(u64),
    /// What was written, or is about to be read, has one bit flipped where it is stored (fault D8).
    Rot,
    /// It doesn't complete for this long; `None`: until [`SimDisk::release`](super::SimDisk::release).
    Hang(Option<Duration>),
    /// It takes so many times as long.
    Slow(u32),
    /// A flush fails, and a part of the cache is lost with it (fault D3).
    FailAndLoseCache,
    /// A flush is acked and nothing is flushed.
    Lie,
}

/// A fault that hits chosen operations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strike {
    pub(super) on: On,
    pub(super) effect: Effect,
    pub(super) within: Option<Range<u64>>,
    pub(super) skip: u64,
    pub(super) times: u64,
}

impl Strike {
    /// Hits the next operation of its kind, once.
    pub fn new(on: On, effect: Effect) -> Self {
        Self {
            on,
            effect,
            within: None,
            skip: 0,
            times: 1,
        }
    }

    /// Lets so many operations that it would hit pass first.
    #[must_use]
    pub fn after(mut self, count: u64) -> Self {
        self.skip = count;
        self
    }

    /// Hits so many in a row.
    #[must_use]
    pub fn times(mut self, count: u64) -> Self {
        self.times = count;
        self
    }

    /// Hits for ever.
    #[must_use]
    pub fn always(self) -> Self {
        self.times(u64::MAX)
    }

    /// Hits only operations that touch these bytes.
    #[must_use]
    pub fn within(mut self, range: Range<u64>) -> Self {
        self.within = Some(range);
        self
    }

    fn fits(&self, op: IoOp, offset: u64, len: u64) -> bool {
        let kind = match self.on {
            On::Read => op == IoOp::Read,
            On::Write => op == IoOp::Write,
            On::Flush => op == IoOp::Flush,
            On::Any => true,
        };
        let range = self.within.as_ref();
        kind && range.is_none_or(|range| offset < range.end && range.start < offset + len)
    }

    /// Counts an operation down; true if it is hit.
    pub(super) fn hits(&mut self, op: IoOp, offset: u64, len: u64) -> bool {
        if self.times == 0 || !self.fits(op, offset, len) {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        if self.times != u64::MAX {
            self.times -= 1;
        }
        true
    }
}

/// Faults that have struck, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultCounts {
    /// Reads that failed.
    pub read_errors: u64,
    /// Writes that failed.
    pub write_errors: u64,
    /// Flushes that failed.
    pub flush_errors: u64,
    /// Operations that found the disk gone.
    pub gone: u64,
    /// Writes acked and dropped.
    pub lost_writes: u64,
    /// Writes that landed elsewhere.
    pub misdirected_writes: u64,
    /// Writes torn by a power cut or a kill.
    pub torn_writes: u64,
    /// Places where bits were flipped.
    pub rotten: u64,
    /// Operations that hung.
    pub hung: u64,
    /// Operations that were slow.
    pub slow: u64,
    /// Caches lost with a failed flush or a vanished disk.
    pub caches_lost: u64,
    /// Flushes that lied.
    pub lying_flushes: u64,
}

impl FaultCounts {
    /// Each kind with its name.
    pub fn by_kind(&self) -> [(&'static str, u64); 12] {
        [
            ("read errors", self.read_errors),
            ("write errors", self.write_errors),
            ("flush errors", self.flush_errors),
            ("gone", self.gone),
            ("lost writes", self.lost_writes),
            ("misdirected writes", self.misdirected_writes),
            ("torn writes", self.torn_writes),
            ("rotten places", self.rotten),
            ("hung", self.hung),
            ("slow", self.slow),
            ("caches lost", self.caches_lost),
            ("lying flushes", self.lying_flushes),
        ]
    }

    /// All together.
    pub fn total(&self) -> u64 {
        self.by_kind().iter().map(|(_, count)| count).sum()
    }

    pub(super) fn count_error(&mut self, op: IoOp, kind: IoErrorKind) {
        let count = match (kind, op) {
            (IoErrorKind::Gone, _) => &mut self.gone,
            (_, IoOp::Read) => &mut self.read_errors,
            (_, IoOp::Flush) => &mut self.flush_errors,
            _ => &mut self.write_errors,
        };
        *count += 1;
    }
}

impl AddAssign for FaultCounts {
    fn add_assign(&mut self, other: Self) {
        let Self {
            read_errors,
            write_errors,
            flush_errors,
            gone,
            lost_writes,
            misdirected_writes,
            torn_writes,
            rotten,
            hung,
            slow,
            caches_lost,
            lying_flushes,
        } = other;
        self.read_errors += read_errors;
        self.write_errors += write_errors;
        self.flush_errors += flush_errors;
        self.gone += gone;
        self.lost_writes += lost_writes;
        self.misdirected_writes += misdirected_writes;
        self.torn_writes += torn_writes;
        self.rotten += rotten;
        self.hung += hung;
        self.slow += slow;
        self.caches_lost += caches_lost;
        self.lying_flushes += lying_flushes;
    }
}
