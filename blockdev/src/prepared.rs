//! Prepared writes: the seam between a device and a layer that replicates it.
//!
//! A *log* is one stream of operations with dense sequences, agreed upon between hosts. Each operation
//! is first *prepared*: durable here, and neither readable nor in place. Once all who must have it do,
//! the log is *committed* up to it and it takes effect; or what isn't committed is *aborted*.
//!
//! ```text
//!   prepare ──▶ durable, invisible ──▶ commit ──▶ readable ──▶ destaged ──▶ hook says yes ──▶ trimmed
//!                        │                                        and below the log's floor
//!                        └──▶ abort ──▶ void
//! ```
//!
//! Invariants
//! - The operations of a log take effect in the order of their sequences, overlapping or not.
//! - What is prepared and not committed is never read and never in place.
//! - After a restart everything above the durable commit watermark is pending again; its owner decides.
//! - A record goes only when it is committed, in place and flushed, below the floor that the owner set
//!   in this run, and the owner's hook said that its own state is durable.
//! - A log that is neither committed nor trimmed delays itself and nobody else.
//!
//! Does not know: how a device keeps records, who the hosts are, why a log is committed.

use std::rc::Rc;

use crate::buf::SharedBuf;
use crate::device::{BlockDevice, IoFuture, LocalFuture};

/// Prepared operations begin and end at multiples of this many bytes: a part of a block would have to
/// be completed with what lies beside it at a moment that only the owner's range lock can name.
pub const PREPARE_UNIT: u32 = 4096;
/// Bytes of one prepared write at most.
pub const PREPARE_MAX: usize = 1 << 20;
/// Bytes of one prepared zero or discard at most.
pub const PREPARE_RANGE_MAX: u64 = 1 << 30;
/// Bytes of a log's metadata at most.
pub const META_MAX: usize = 4096;
/// Bytes of a tag at most.
pub const TAG_MAX: usize = 64;

/// A log of prepared operations. Unique in an array: a log may span the array's volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId(pub u32);

/// A sequence of a log, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq(pub u64);

impl Seq {
    /// Before every sequence.
    pub const NONE: Self = Self(0);

    /// The sequence after this one.
    ///
    /// # Panics
    /// Past `u64::MAX`, which nobody lives to see.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The sequence before this one; none before the first.
    #[must_use]
    pub fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl std::fmt::Display for Seq {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// At most [`TAG_MAX`] bytes that the owner gets back with a record: a ballot, for example.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tag(Box<[u8]>);

impl Tag {
    /// A tag of these bytes; `None` if they are too many.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (bytes.len() <= TAG_MAX).then(|| Self(bytes.into()))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A prepared operation. Offsets and lengths are bytes of the device, multiples of [`PREPARE_UNIT`].
#[derive(Debug, Clone)]
pub enum Op {
    /// Bytes go to `offset`; [`PREPARE_MAX`] at most.
    Write {
        /// First byte.
        offset: u64,
        /// The bytes.
        data: SharedBuf,
    },
    /// A range reads as zeros; [`PREPARE_RANGE_MAX`] at most.
    Zero {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// A range reads as zeros, and its space is given back; [`PREPARE_RANGE_MAX`] at most.
    Discard {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Order, and nothing else.
    Barrier,
}

impl Op {
    /// The range that it changes: first byte and bytes. Nothing for a barrier.
    pub fn range(&self) -> (u64, u64) {
        match self {
            Self::Write { offset, data } => (*offset, crate::units::u64_of(data.len())),
            Self::Zero { offset, len } | Self::Discard { offset, len } => (*offset, *len),
            Self::Barrier => (0, 0),
        }
    }
}

/// A record that isn't trimmed.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its sequence.
    pub seq: Seq,
    /// The device that `op` is of: the first eight bytes of its UUID, big-endian.
    pub device: u64,
    /// As it was prepared.
    pub tag: Tag,
    /// As it was prepared; a write's bytes are here to be read.
    pub op: Op,
    /// Whether it took effect; else it is pending.
    pub committed: bool,
}

/// A range of which nobody knows whether it holds what was there before an aborted operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InDoubt {
    /// The log.
    pub log: LogId,
    /// The aborted operation.
    pub seq: Seq,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// How far a log has come. Each is the last sequence of which it is true, and true of all before it;
/// [`Seq::NONE`] if there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Watermarks {
    /// Accepted without a gap.
    pub contiguous: Seq,
    /// Durable here.
    pub durable: Seq,
    /// Committed. After a restart: durably so.
    pub committed: Seq,
    /// Committed, in place, and flushed.
    pub destaged: Seq,
    /// Trimmed: no record is left.
    pub trimmed: Seq,
}

/// Asked before the records through a sequence go; `true` says that what the owner has to remember of
/// them is durable. `false`, and it is asked again later. Asked once at a time per log.
pub type BeforeTrim = Rc<dyn Fn(LogId, Seq) -> LocalFuture<bool>>;

/// A device whose writes can be prepared.
///
/// A plain write, zero or discard beside it is prepare and commit in one, belongs to no log, and has
/// no order with prepared operations but that of commits and acks.
pub trait PreparedDevice: BlockDevice {
    /// Prepares an operation: durable (flushed) on completion, and space for it is set aside.
    ///
    /// Sequences are dense: the first of a log is any, each call's is one above the last call's. The
    /// place in the log is taken by the call; the future may be polled at any time, and dropped. It
    /// waits while the log's untrimmed records are over its quota.
    ///
    /// # Errors
    /// - [`Misaligned`](crate::IoErrorKind::Misaligned), [`OutOfRange`](crate::IoErrorKind::OutOfRange).
    /// - [`NoSpace`](crate::IoErrorKind::NoSpace): no extent is left, or no place for one log more.
    /// - [`Busy`](crate::IoErrorKind::Busy): not the sequence that comes next, or it, or one before
    ///   it, failed or was aborted meanwhile.
    /// - [`Unsupported`](crate::IoErrorKind::Unsupported): the device keeps no journal.
    ///
    /// A sequence that failed wasn't taken and is the next one again.
    fn prepare(&self, log: LogId, seq: Seq, tag: Tag, op: Op) -> IoFuture<()>;

    /// Everything through `through` takes effect, now; what isn't prepared yet doesn't. Durable lazily:
    /// with the next flush, and before anything of it is in place.
    fn commit(&self, log: LogId, through: Seq);

    /// Everything from `from` on is void, durably; `from` is the next sequence. Gives the ranges of
    /// which it isn't known whether they hold the old or the new.
    ///
    /// # Errors
    /// [`OutOfRange`](crate::IoErrorKind::OutOfRange): `from` is committed.
    fn abort(&self, log: LogId, from: Seq) -> IoFuture<Vec<InDoubt>>;

    /// The records from `from` on that aren't trimmed, in order.
    fn records(&self, log: LogId, from: Seq) -> IoFuture<Vec<Record>>;

    /// How far a log has come.
    fn watermarks(&self, log: LogId) -> Watermarks;

    /// The owner needs the records from `keep_from` on. Until it says so, after each start, all are kept.
    fn set_floor(&self, log: LogId, keep_from: Seq);

    /// Has `hook` asked before records go. To be given before [`PreparedDevice::set_floor`]: without a
    /// hook the floor alone decides.
    fn on_trim(&self, log: LogId, hook: BeforeTrim);

    /// Replaces the log's metadata, at most [`META_MAX`] bytes: durable on completion, and in order with
    /// its records: whoever finds a record that was prepared after this finds this, or newer.
    fn set_meta(&self, log: LogId, meta: &[u8]) -> IoFuture<()>;

    /// The log's metadata; empty if there is none.
    fn meta(&self, log: LogId) -> Rc<[u8]>;

    /// The logs there are.
    fn logs(&self) -> Vec<LogId>;

    /// Forgets a log, its records and its metadata, durably. What was committed stays.
    fn forget(&self, log: LogId) -> IoFuture<()>;
}
