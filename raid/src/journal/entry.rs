//! What one sequence of a lane says.
//!
//! ```text
//!   0 kind u8   1 flags u8   2 tag length u8   3 reserved   4 log u32   8 log sequence u64
//!  16 offset u64   24 len u64   32 arg u64   40 payload bytes u32   44 sums u32
//!  48 tag (64)   112 reserved (16)
//! ```
//!
//! Invariants
//! - The numbers of kinds are on disks for ever.
//! - A payload is whole blocks and has one sum per block; only entries without a payload use the
//!   sums for what their kind says.
//!
//! Does not know: what offset, len and arg mean to a kind; that is the executor's.

use cairn_blockdev::units::{BLOCK_BYTES, u32_of, usize_of_u32};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of an entry in a descriptor.
pub const ENTRY_BYTES: usize = 128;
/// Longest tag.
pub const TAG_MAX: usize = 64;
/// Flag: not applied before a commit of its log covers it.
pub const PREPARED: u8 = 1;

/// What this version understands.
const FLAGS_KNOWN: u8 = PREPARED;

/// A sequence of a lane: every entry takes exactly one, those of a group follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

impl Seq {
    /// Before every sequence: the `durable_through` of a journal in which nothing is durable.
    pub const NONE: Self = Self(0);
    /// The first sequence of an epoch.
    pub const FIRST: Self = Self(1);

    /// The sequence `count` further on.
    ///
    /// # Panics
    /// Past `u64::MAX`, which no decoder lets through and no disk lives to see.
    #[must_use]
    pub fn plus(self, count: usize) -> Self {
        Self(self.0 + cairn_blockdev::units::u64_of(count))
    }
}

impl std::fmt::Display for Seq {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What an entry is. The numbers are on disks for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Bytes of a write.
    Data,
    /// A range that is to read as zeros.
    Zero,
    /// A range that is given back.
    Discard,
    /// A complete row that is about to be written in place; sums: each data block of the row, and behind
    /// them, where that is known, each as it is before that.
    Intent,
    /// Parity that is about to be written; sums: each 512-byte sector of P, then of Q.
    Note,
    /// Prepared entries of a log that now count.
    Commit,
    /// Prepared entries of a log that never will.
    Abort,
    /// An extent gets an owner.
    Map,
    /// An extent loses its owner; older data for it is void.
    Unmap,
    /// Order, and nothing else.
    Barrier,
    /// Metadata of a layer above.
    Meta,
}

impl Kind {
    /// All, by their numbers.
    pub const ALL: [Self; 11] = [
        Self::Data,
        Self::Zero,
        Self::Discard,
        Self::Intent,
        Self::Note,
        Self::Commit,
        Self::Abort,
        Self::Map,
        Self::Unmap,
        Self::Barrier,
        Self::Meta,
    ];

    /// The number on disk.
    pub const fn code(self) -> u8 {
        match self {
            Self::Data => 1,
            Self::Zero => 2,
            Self::Discard => 3,
            Self::Intent => 4,
            Self::Note => 5,
            Self::Commit => 6,
            Self::Abort => 7,
            Self::Map => 8,
            Self::Unmap => 9,
            Self::Barrier => 10,
            Self::Meta => 11,
        }
    }

    /// The kind with this number.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

/// At most [`TAG_MAX`] bytes that a layer above gave and gets back.
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

/// What one sequence says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// [`PREPARED`] or nothing.
    pub flags: u8,
    /// The log above that it belongs to.
    pub log: u32,
    /// Its sequence in that log.
    pub log_seq: u64,
    /// First byte of its range.
    pub offset: u64,
    /// Bytes of its range.
    pub len: u64,
    /// One number more, for kinds that need it.
    pub arg: u64,
    /// Opaque bytes of the layer above.
    pub tag: Tag,
    /// With a payload: crc32c of each 4 KiB of it. Without: what the kind says.
    pub sums: Vec<u32>,
    /// Bytes of payload, whole blocks; 0 if there is none.
    pub payload_len: u32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawEntry {
    kind: u8,
    flags: u8,
    tag_len: u8,
    reserved: u8,
    log: U32,
    log_seq: U64,
    offset: U64,
    len: U64,
    arg: U64,
    payload_len: U32,
    sums: U32,
    tag: [u8; TAG_MAX],
    reserved2: [u8; 16],
}

const _: () = assert!(size_of::<RawEntry>() == ENTRY_BYTES);

impl Entry {
    /// Blocks of the payload.
    pub fn payload_blocks(&self) -> usize {
        usize_of_u32(self.payload_len) / BLOCK_BYTES
    }

    /// Whether it waits for a commit.
    pub fn is_prepared(&self) -> bool {
        self.flags & PREPARED != 0
    }

    /// What is wrong with it, if anything: the same for what is written and for what was read.
    pub(super) fn nonsense(&self) -> Option<&'static str> {
        if self.flags & !FLAGS_KNOWN != 0 {
            return Some("an entry's flags");
        }
        if !usize_of_u32(self.payload_len).is_multiple_of(BLOCK_BYTES) {
            return Some("an entry's payload isn't whole blocks");
        }
        if self.payload_len > 0 && self.sums.len() != self.payload_blocks() {
            return Some("an entry's payload and sums don't match");
        }
        if self.offset.checked_add(self.len).is_none() {
            return Some("an entry's range");
        }
        None
    }

    pub(super) fn to_raw(&self) -> RawEntry {
        let mut raw = RawEntry::new_zeroed();
        raw.kind = self.kind.code();
        raw.flags = self.flags;
        raw.tag_len = u8::try_from(self.tag.0.len()).unwrap_or_else(|_| unreachable!("TAG_MAX"));
        raw.log = self.log.into();
        raw.log_seq = self.log_seq.into();
        raw.offset = self.offset.into();
        raw.len = self.len.into();
        raw.arg = self.arg.into();
        raw.payload_len = self.payload_len.into();
        raw.sums = u32_of(self.sums.len()).into();
        for (to, from) in raw.tag.iter_mut().zip(self.tag.bytes()) {
            *to = *from;
        }
        raw
    }
}

impl RawEntry {
    /// Sums that it claims.
    pub(super) fn sums(&self) -> usize {
        usize_of_u32(self.sums.get())
    }

    /// The entry, with the sums that lie behind the entries.
    pub(super) fn decode(&self, sums: Vec<u32>) -> Result<Entry, &'static str> {
        let tag = self
            .tag
            .get(..usize::from(self.tag_len))
            .and_then(Tag::new)
            .ok_or("an entry's tag")?;
        let entry = Entry {
            kind: Kind::from_code(self.kind).ok_or("an entry's kind")?,
            flags: self.flags,
            log: self.log.get(),
            log_seq: self.log_seq.get(),
            offset: self.offset.get(),
            len: self.len.get(),
            arg: self.arg.get(),
            tag,
            sums,
            payload_len: self.payload_len.get(),
        };
        entry.nonsense().map_or(Ok(entry), Err)
    }
}
