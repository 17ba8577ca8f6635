//! A missed map on disk: blocks of 4 KiB, a head and pages of bits, in two slots, on every member.
//!
//! ```text
//!  zone   0 header   4 KiB place 0 slot A │ slot B   place 1 slot A │ slot B   (places 2, 3: peers)
//!  slot   0 head   4 KiB page 0   8 KiB page 1 …
//!
//!  block  0 magic `CAIRNMIS`   8 version u32   12 map number u32   16 array uuid   32 member uuid
//!        48 generation u64   56 page u32 (0xFFFF_FFFF: head)   60 crc32c u32   64 body
//!  head's body    64 floor u64   72 digest u64   80 rows u64   88 rows per bit u64   zeros to 4096
//!  page's body    64 bits, the lowest of a byte first: 32,256 of them
//! ```
//!
//! The crc32c is over the whole block, its own field taken as zero. A head of generation g lies in slot
//! g mod 2; a page alternates with every write of it.

use cairn_blockdev::units::BLOCK_BYTES;
use uuid::Uuid;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::MapId;
use crate::journal::entry::Seq;

const MAGIC: [u8; 8] = *b"CAIRNMIS";
const VERSION: u32 = 1;
/// Page number of a head.
const HEAD: u32 = u32::MAX;
/// Bytes of a block behind its fields.
pub(super) const BODY_BYTES: usize = BLOCK_BYTES - 64;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawBlock {
    magic: [u8; 8],
    version: U32,
    number: U32,
    array_uuid: [u8; 16],
    member_uuid: [u8; 16],
    generation: U64,
    page: U32,
    crc32c: U32,
    body: [u8; BODY_BYTES],
}

const _: () = assert!(size_of::<RawBlock>() == BLOCK_BYTES);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHead {
    floor: U64,
    digest: U64,
    rows: U64,
    rows_per_bit: U64,
}

/// What a head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The bits are complete for every record of the journal below this one.
    pub floor: Seq,
    /// Of the pages and their generations.
    pub digest: u64,
    /// Rows of a member.
    pub rows: u64,
    /// Rows that a bit stands for.
    pub rows_per_bit: u64,
}

/// A block, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Block {
    /// A head.
    Head(Head),
    /// A page and its bits.
    Page(u32, Vec<u64>),
}

/// Why bytes aren't a block of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// Never written, torn or rotten.
    #[error("blank or damaged")]
    Damaged,
    /// Of another array, member or map.
    #[error("of another map")]
    Other,
    /// A newer structure.
    #[error("missed map has version {0}, this Cairn knows {VERSION}")]
    Version(u32),
}

fn sum(raw: &RawBlock) -> u32 {
    let bytes = raw.as_bytes();
    let at = std::mem::offset_of!(RawBlock, crc32c);
    let (before, rest) = bytes.split_at(at);
    let (_, after) = rest.split_at(size_of::<U32>());
    let sum = cairn_blockdev::crc::crc32c_append(cairn_blockdev::crc::crc32c(before), &[0; 4]);
    cairn_blockdev::crc::crc32c_append(sum, after)
}

fn seal(id: &MapId, generation: u64, page: u32, body: impl Iterator<Item = u8>) -> Vec<u8> {
    let mut raw = RawBlock::new_zeroed();
    raw.magic = MAGIC;
    raw.version = VERSION.into();
    raw.number = id.number.into();
    raw.array_uuid = id.array.into_bytes();
    raw.member_uuid = id.member.into_bytes();
    raw.generation = generation.into();
    raw.page = page.into();
    for (to, from) in raw.body.iter_mut().zip(body) {
        *to = from;
    }
    raw.crc32c = sum(&raw).into();
    raw.as_bytes().to_vec()
}

/// A page's block.
pub(super) fn encode_page(
    id: &MapId,
    generation: u64,
    page: u32,
    bits: impl Iterator<Item = u8>,
) -> Vec<u8> {
    seal(id, generation, page, bits)
}

/// A head's block.
pub(super) fn encode_head(id: &MapId, generation: u64, head: &Head) -> Vec<u8> {
    let raw = RawHead {
        floor: head.floor.0.into(),
        digest: head.digest.into(),
        rows: head.rows.into(),
        rows_per_bit: head.rows_per_bit.into(),
    };
    seal(id, generation, HEAD, raw.as_bytes().iter().copied())
}

/// The block of the map `id` that these bytes hold, and its generation. Never panics.
pub(super) fn decode(bytes: &[u8], id: &MapId) -> Result<(u64, Block), BlockError> {
    let raw = RawBlock::ref_from_bytes(bytes).map_err(|_| BlockError::Damaged)?;
    if raw.magic != MAGIC || raw.crc32c.get() != sum(raw) {
        return Err(BlockError::Damaged);
    }
    // Not before the sum, whose rule all versions share: rot isn't a newer version.
    if raw.version.get() != VERSION {
        return Err(BlockError::Version(raw.version.get()));
    }
    let found = MapId {
        array: Uuid::from_bytes(raw.array_uuid),
        member: Uuid::from_bytes(raw.member_uuid),
        number: raw.number.get(),
    };
    if found != *id {
        return Err(BlockError::Other);
    }
    if raw.page.get() != HEAD {
        let words = raw.body.chunks_exact(8).map(|word| {
            let word = U64::read_from_bytes(word).unwrap_or_default();
            word.get()
        });
        let page = Block::Page(raw.page.get(), words.collect());
        return Ok((raw.generation.get(), page));
    }
    let (head, _) = RawHead::read_from_prefix(&raw.body).map_err(|_| BlockError::Damaged)?;
    let head = Head {
        floor: Seq(head.floor.get()),
        digest: head.digest.get(),
        rows: head.rows.get(),
        rows_per_bit: head.rows_per_bit.get(),
    };
    Ok((raw.generation.get(), Block::Head(head)))
}
