//! A group: entries that are written at once, the same bytes to every member that takes a copy.
//!
//! ```text
//!   0 magic `CAIRNGRP`   8 version u32   12 descriptor blocks u32   16 array uuid   32 epoch u64
//!  40 first sequence u64   48 durable through u64   56 floor u64   64 lane u16   66 reserved
//!  68 entries u32   72 payload blocks u32   76 sums u32   80 crc32c   84 reserved … 128
//! 128 entries: 128 bytes each
//!     sums: u32 each, those of the first entry first
//!     zeros to the end of the block
//!     payloads of the entries, in their order, whole blocks
//! ```
//!
//! The crc32c is over all descriptor blocks, its own field taken as zero.
//!
//! A payload block that begins with the magic is stored with those eight bytes inverted, as ext4's
//! journal does with its magic; its sum stays that of the block as it was given, and tells the two
//! apart: the two forms of one block never have the same sum.
//!
//! Invariants
//! - `durable_through` < first sequence, and floor ≤ first sequence: both were known at the cut.
//! - Every count is checked against a bound and against the others before anything is allocated.
//!
//! Does not know: members, positions, what the entries do.

use std::ops::Range;

use cairn_blockdev::units::{BLOCK_BYTES, u32_of, u64_of, usize_of_u32};
use uuid::Uuid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::entry::{ENTRY_BYTES, Entry, RawEntry, Seq};
use crate::geometry::CHUNK_MAX;
use crate::level::MEMBERS_MAX;

/// First bytes of every group.
pub const GROUP_MAGIC: [u8; 8] = *b"CAIRNGRP";
/// Version of this structure.
pub const GROUP_VERSION: u32 = 1;
/// Bytes of a descriptor before its entries.
pub const HEAD_BYTES: usize = 128;
/// Largest group, descriptor and payloads: what a scan keeps in memory, and one write of a disk.
pub const GROUP_BYTES_MAX: usize = 4 << 20;
/// Largest descriptor: a quarter of the group, so that a group of notes has an end, too.
pub const DESCRIPTOR_BYTES_MAX: usize = 1 << 20;
/// Most entries of a group: as many as blocks of payload fit at all.
pub const ENTRIES_MAX: usize = GROUP_BYTES_MAX / BLOCK_BYTES;

/// What a block that began with the magic begins with in a journal.
const ESCAPED: [u8; 8] = {
    let word = !u64::from_le_bytes(GROUP_MAGIC);
    word.to_le_bytes()
};
/// Where the checksum's field lies.
const CRC_AT: usize = 80;

// The note of the widest chunk and the intent of the widest row must fit a descriptor.
const _: () = {
    let chunk = usize_of_u32(CHUNK_MAX);
    let note = HEAD_BYTES + ENTRY_BYTES + 4 * (2 * chunk / 512);
    let intent = HEAD_BYTES + ENTRY_BYTES + 2 * 4 * (MEMBERS_MAX * (chunk / BLOCK_BYTES));
    assert!(note <= DESCRIPTOR_BYTES_MAX && intent <= DESCRIPTOR_BYTES_MAX);
};

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHead {
    magic: [u8; 8],
    version: U32,
    blocks: U32,
    array_uuid: [u8; 16],
    epoch: U64,
    first: U64,
    durable_through: U64,
    floor: U64,
    lane: U16,
    reserved: U16,
    entries: U32,
    payload_blocks: U32,
    sums: U32,
    crc32c: U32,
    reserved2: [u8; 44],
}

const _: () = assert!(size_of::<RawHead>() == HEAD_BYTES);
const _: () = assert!(std::mem::offset_of!(RawHead, crc32c) == CRC_AT);

/// What a group says of its lane at the moment it was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The array.
    pub array: Uuid,
    /// A re-created journal never replays an older one's groups.
    pub epoch: u64,
    /// The lane.
    pub lane: u16,
    /// Sequence of the first entry.
    pub first: Seq,
    /// Every sequence up to this one was known flushed on R+1 members: a hole at or below it is
    /// rot, a hole above it the torn tail.
    pub durable_through: Seq,
    /// Every sequence below this one was trimmed.
    pub floor: Seq,
}

/// A group's descriptor, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// What it says of its lane.
    pub head: Head,
    /// The entries; never none.
    pub entries: Vec<Entry>,
    /// Bytes of descriptor, whole blocks.
    pub descriptor_len: usize,
    /// Bytes of payload behind it, whole blocks.
    pub payload_len: usize,
}

/// Why no group can be read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// No magic: no descriptor begins here.
    #[error("no journal group")]
    Absent,
    /// The descriptor claims to be longer than what was given.
    #[error("journal group: its descriptor has {needs} bytes")]
    Short {
        /// Bytes to give, from the descriptor's start.
        needs: usize,
    },
    /// Torn, rotten, or (under a right checksum) nonsense.
    #[error("journal group is damaged: {0}")]
    Damaged(&'static str),
    /// A newer structure.
    #[error(
        "journal group has version {0}, this Cairn knows {GROUP_VERSION}: use the version that \
         wrote it"
    )]
    Version(u32),
}

impl Group {
    /// Bytes of the whole group.
    pub fn bytes(&self) -> usize {
        self.descriptor_len + self.payload_len
    }

    /// Sequence of the last entry.
    pub fn last(&self) -> Seq {
        self.head.first.plus(self.entries.len().saturating_sub(1))
    }

    /// Where the payload of an entry lies, from the group's first byte; empty if it has none.
    /// `None` if there is no such entry.
    pub fn payload_range(&self, index: usize) -> Option<Range<usize>> {
        let entry = self.entries.get(index)?;
        let before: usize = self
            .entries
            .iter()
            .take(index)
            .map(|entry| usize_of_u32(entry.payload_len))
            .sum();
        let start = self.descriptor_len + before;
        Some(start..start + usize_of_u32(entry.payload_len))
    }
}

/// Bytes of the descriptor that these entries take, whole blocks.
pub fn descriptor_bytes(entries: &[Entry]) -> usize {
    let sums: usize = entries.iter().map(|entry| entry.sums.len()).sum();
    descriptor_len(entries.len(), sums)
}

/// Bytes of the group that these entries take. Cut groups by this, [`descriptor_bytes`] and the
/// number of entries: past [`GROUP_BYTES_MAX`], [`DESCRIPTOR_BYTES_MAX`] or [`ENTRIES_MAX`] there
/// is no group.
pub fn group_bytes(entries: &[Entry]) -> usize {
    let payload: usize = entries
        .iter()
        .map(|entry| usize_of_u32(entry.payload_len))
        .sum();
    descriptor_bytes(entries) + payload
}

fn descriptor_len(entries: usize, sums: usize) -> usize {
    (HEAD_BYTES + entries * ENTRY_BYTES + sums * size_of::<u32>()).next_multiple_of(BLOCK_BYTES)
}

fn descriptor_sum(descriptor: &[u8]) -> u32 {
    let (before, rest) = descriptor.split_at(CRC_AT);
    let (field, after) = rest.split_at(size_of::<U32>());
    let sum = cairn_blockdev::crc::crc32c_append(
        cairn_blockdev::crc::crc32c(before),
        &[0; size_of::<U32>()],
    );
    debug_assert_eq!(field.len(), size_of::<U32>());
    cairn_blockdev::crc::crc32c_append(sum, after)
}

/// Writes the descriptor to the front of `out`; the payloads belong right behind it, after
/// [`escape`].
///
/// # Panics
/// If `out` is shorter than [`descriptor_bytes`], the group is past its bounds, or what it says is
/// nonsense: bugs of the caller that must not reach a disk.
pub fn encode(head: &Head, entries: &[Entry], out: &mut [u8]) {
    let sums: usize = entries.iter().map(|entry| entry.sums.len()).sum();
    let total = group_bytes(entries);
    let len = descriptor_bytes(entries);
    assert!(
        !entries.is_empty() && entries.len() <= ENTRIES_MAX,
        "journal group of {} entries",
        entries.len()
    );
    assert!(
        total <= GROUP_BYTES_MAX && len <= DESCRIPTOR_BYTES_MAX,
        "journal group of {total} bytes, {len} of them descriptor"
    );
    assert_eq!(head_nonsense(head, entries.len()), None, "{head:?}");
    for entry in entries {
        assert_eq!(entry.nonsense(), None, "{entry:?}");
    }
    assert!(out.len() >= len, "{} bytes for {len}", out.len());

    let mut raw = RawHead::new_zeroed();
    raw.magic = GROUP_MAGIC;
    raw.version = GROUP_VERSION.into();
    raw.blocks = u32_of(len / BLOCK_BYTES).into();
    raw.array_uuid = head.array.into_bytes();
    raw.epoch = head.epoch.into();
    raw.first = head.first.0.into();
    raw.durable_through = head.durable_through.0.into();
    raw.floor = head.floor.0.into();
    raw.lane = head.lane.into();
    raw.entries = u32_of(entries.len()).into();
    raw.payload_blocks = u32_of((total - len) / BLOCK_BYTES).into();
    raw.sums = u32_of(sums).into();

    let (descriptor, _) = out.split_at_mut(len);
    {
        let (place, rest) = descriptor.split_at_mut(HEAD_BYTES);
        place.copy_from_slice(raw.as_bytes());
        let (places, rest) = rest.split_at_mut(entries.len() * ENTRY_BYTES);
        for (place, entry) in places.chunks_exact_mut(ENTRY_BYTES).zip(entries) {
            place.copy_from_slice(entry.to_raw().as_bytes());
        }
        let (places, rest) = rest.split_at_mut(sums * size_of::<u32>());
        let all = entries.iter().flat_map(|entry| &entry.sums);
        for (place, sum) in places.chunks_exact_mut(size_of::<u32>()).zip(all) {
            place.copy_from_slice(&sum.to_le_bytes());
        }
        rest.fill(0);
    }
    raw.crc32c = descriptor_sum(descriptor).into();
    descriptor
        .split_at_mut(HEAD_BYTES)
        .0
        .copy_from_slice(raw.as_bytes());
}

/// What is wrong with a head over so many entries, if anything.
fn head_nonsense(head: &Head, entries: usize) -> Option<&'static str> {
    if head.first < Seq::FIRST || head.first.0.checked_add(u64_of(entries)).is_none() {
        return Some("its sequences");
    }
    if head.durable_through >= head.first || head.floor > head.first {
        return Some("it knows of the durability of sequences that it is older than");
    }
    None
}

/// Decodes the descriptor that begins at the first byte. `bytes` may go on behind it.
pub fn decode(bytes: &[u8]) -> Result<Group, Damage> {
    let Ok((raw, _)) = RawHead::ref_from_prefix(bytes) else {
        return Err(Damage::Short { needs: BLOCK_BYTES });
    };
    if raw.magic != GROUP_MAGIC {
        return Err(Damage::Absent);
    }
    if raw.version.get() > GROUP_VERSION {
        return Err(Damage::Version(raw.version.get()));
    }
    let (entries, sums) = (
        usize_of_u32(raw.entries.get()),
        usize_of_u32(raw.sums.get()),
    );
    let (blocks, payload_blocks) = (
        usize_of_u32(raw.blocks.get()),
        usize_of_u32(raw.payload_blocks.get()),
    );
    let bounded = raw.version.get() == GROUP_VERSION
        && (1..=ENTRIES_MAX).contains(&entries)
        && sums <= DESCRIPTOR_BYTES_MAX / size_of::<u32>()
        && blocks <= DESCRIPTOR_BYTES_MAX / BLOCK_BYTES
        && payload_blocks + blocks <= GROUP_BYTES_MAX / BLOCK_BYTES
        && descriptor_len(entries, sums) == blocks * BLOCK_BYTES;
    if !bounded {
        return Err(Damage::Damaged("its counts"));
    }
    let needs = blocks * BLOCK_BYTES;
    let descriptor = bytes.get(..needs).ok_or(Damage::Short { needs })?;
    if descriptor_sum(descriptor) != raw.crc32c.get() {
        return Err(Damage::Damaged("its checksum doesn't match"));
    }
    let head = Head {
        array: Uuid::from_bytes(raw.array_uuid),
        epoch: raw.epoch.get(),
        lane: raw.lane.get(),
        first: Seq(raw.first.get()),
        durable_through: Seq(raw.durable_through.get()),
        floor: Seq(raw.floor.get()),
    };
    if let Some(what) = head_nonsense(&head, entries) {
        return Err(Damage::Damaged(what));
    }
    let (_, body) = descriptor.split_at(HEAD_BYTES);
    let entries = decode_entries(body, entries, sums).map_err(Damage::Damaged)?;
    let payload: usize = entries.iter().map(Entry::payload_blocks).sum();
    if payload != payload_blocks {
        return Err(Damage::Damaged("its payload"));
    }
    Ok(Group {
        head,
        entries,
        descriptor_len: needs,
        payload_len: payload_blocks * BLOCK_BYTES,
    })
}

fn decode_entries(body: &[u8], count: usize, sums: usize) -> Result<Vec<Entry>, &'static str> {
    let (raws, rest) = body.split_at(count * ENTRY_BYTES);
    let (sums, _) = rest.split_at(sums * size_of::<u32>());
    let mut sums = sums
        .chunks_exact(size_of::<u32>())
        .filter_map(|bytes| bytes.try_into().ok().map(u32::from_le_bytes));
    let mut entries = Vec::with_capacity(count);
    for raw in raws.chunks_exact(ENTRY_BYTES) {
        let raw = RawEntry::ref_from_bytes(raw).map_err(|_| "an entry's length")?;
        let own: Vec<u32> = sums.by_ref().take(raw.sums()).collect();
        if own.len() != raw.sums() {
            return Err("an entry's sums");
        }
        entries.push(raw.decode(own)?);
    }
    match sums.next() {
        None => Ok(entries),
        Some(_) => Err("sums of no entry"),
    }
}

/// How a block of payload lies in a journal.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stored {
    Plain,
    Escaped,
}

fn stored(block: &[u8], sum: u32) -> Option<Stored> {
    if cairn_blockdev::crc::crc32c(block) == sum {
        return Some(Stored::Plain);
    }
    let (start, rest) = block.split_at_checked(ESCAPED.len())?;
    let escaped = start == ESCAPED
        && cairn_blockdev::crc::crc32c_append(cairn_blockdev::crc::crc32c(&GROUP_MAGIC), rest)
            == sum;
    escaped.then_some(Stored::Escaped)
}

/// Makes payload fit to lie in a journal: no block of it begins like a descriptor any more. Its
/// sums stay those of the bytes before.
pub fn escape(payload: &mut [u8]) {
    for block in payload.chunks_exact_mut(BLOCK_BYTES) {
        if let Some(start) = block.first_chunk_mut()
            && *start == GROUP_MAGIC
        {
            *start = ESCAPED;
        }
    }
}

/// Checks payload of one entry as it lies in a journal and makes of it what was given to
/// [`escape`]. `false`: it is not what its sums say, and is not to be used.
#[must_use]
pub fn unescape(sums: &[u32], payload: &mut [u8]) -> bool {
    let blocks = payload.chunks_exact_mut(BLOCK_BYTES);
    if blocks.len() != sums.len() || !blocks.into_remainder().is_empty() {
        return false;
    }
    for (block, &sum) in payload.chunks_exact_mut(BLOCK_BYTES).zip(sums) {
        match stored(block, sum) {
            None => return false,
            Some(Stored::Plain) => {}
            Some(Stored::Escaped) => {
                if let Some(start) = block.first_chunk_mut() {
                    *start = GROUP_MAGIC;
                }
            }
        }
    }
    true
}

/// Whether all payload of the group, as it lies in a journal, is what its sums say.
pub fn payload_is_intact(group: &Group, payload: &[u8]) -> bool {
    let sums = group
        .entries
        .iter()
        .filter(|entry| entry.payload_len > 0)
        .flat_map(|entry| &entry.sums);
    payload.len() == group.payload_len
        && payload
            .chunks_exact(BLOCK_BYTES)
            .zip(sums)
            .all(|(block, &sum)| stored(block, sum).is_some())
}
