//! Map pages on disk: 4 KiB, two slots each, on every member.
//!
//! ```text
//!  0 magic  8 version  12 kind  16 array uuid  32 page  40 generation  48 reserved  60 body … 4092 crc32c
//!
//!  body of a volume page: 31 × 128 bytes
//!    0 uuid  16 name (64)  80 size  88 created (ms)  96 in use  100 reserved
//!  body of an extent page: records of 32 bytes and one bit a row, padded to 8 bytes
//!    0 volume+1 (0: free)  4 shard  8 index  12 reserved  16 alloc sequence  24 volume tag  32 bits
//! ```
//!
//! Generation g is written to slot g mod 2, after everything written before was flushed: a torn
//! write leaves the other slot.

use cairn_blockdev::units::{u64_of, usize_of};
use uuid::Uuid;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::PAGE_BYTES;
use crate::label::stored_name;

const MAGIC: [u8; 8] = *b"CAIRNMAP";
const VERSION: u32 = 1;
const BODY_BYTES: usize = 4032;
/// Pages of the volume table.
pub(super) const VOLUME_PAGES: usize = 8;
/// Volumes of one page.
pub(super) const VOLUMES_PER_PAGE: usize = BODY_BYTES / size_of::<RawVolume>();

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawPage {
    magic: [u8; 8],
    version: U32,
    kind: U32,
    array_uuid: [u8; 16],
    page: U64,
    generation: U64,
    reserved: [u8; 12],
    body: [u8; BODY_BYTES],
    crc32c: U32,
}

const _: () = assert!(size_of::<RawPage>() == PAGE_BYTES);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawVolume {
    uuid: [u8; 16],
    name: [u8; 64],
    size_bytes: U64,
    created_ms: U64,
    in_use: U32,
    reserved: [u8; 28],
}

const _: () = assert!(size_of::<RawVolume>() == 128);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawExtent {
    volume_plus_one: U32,
    shard: U32,
    index: U32,
    reserved: U32,
    alloc_seq: U64,
    volume_tag: U64,
}

const _: () = assert!(size_of::<RawExtent>() == EXTENT_FIELDS);

/// Bytes of the fixed part of an extent's record, in a page and in the journal.
pub(super) const EXTENT_FIELDS: usize = 32;

impl RawExtent {
    fn of(fields: &ExtentFields) -> Self {
        Self {
            volume_plus_one: (fields.volume + 1).into(),
            shard: fields.shard.into(),
            index: fields.index.into(),
            reserved: 0.into(),
            alloc_seq: fields.alloc_seq.into(),
            volume_tag: fields.volume_tag.into(),
        }
    }

    fn fields(&self) -> Option<ExtentFields> {
        Some(ExtentFields {
            volume: self.volume_plus_one.get().checked_sub(1)?,
            volume_tag: self.volume_tag.get(),
            shard: self.shard.get(),
            index: self.index.get(),
            alloc_seq: self.alloc_seq.get(),
        })
    }
}

/// The fixed part of an extent's record.
pub(super) fn extent_fields_to_bytes(fields: &ExtentFields) -> [u8; EXTENT_FIELDS] {
    zerocopy::transmute!(RawExtent::of(fields))
}

/// The fixed part of an extent's record, read back. `None`: not that long, or of no volume.
pub(super) fn extent_fields_from_bytes(bytes: &[u8]) -> Option<ExtentFields> {
    RawExtent::ref_from_bytes(bytes).ok()?.fields()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PageKind {
    Volumes,
    Extents,
}

impl PageKind {
    const fn code(self) -> u32 {
        match self {
            Self::Volumes => 1,
            Self::Extents => 2,
        }
    }
}

/// A volume as the array describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeRecord {
    /// Identity.
    pub uuid: Uuid,
    /// Name.
    pub name: String,
    /// Size that clients see.
    pub size_bytes: u64,
    /// When it was created, in ms since 1970.
    pub created_ms: u64,
}

/// The fixed part of an extent's record.
pub(super) struct ExtentFields {
    pub(super) volume: u32,
    pub(super) volume_tag: u64,
    pub(super) shard: u32,
    pub(super) index: u32,
    pub(super) alloc_seq: u64,
}

/// Why 4 KiB aren't a page that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// Never written.
    #[error("never written")]
    Blank,
    /// Torn, rotten or another's.
    #[error("damaged, or of another array or place")]
    Damaged,
    /// A newer structure.
    #[error("map page has version {0}, this Cairn knows {VERSION}: use the version that wrote it")]
    Version(u32),
    /// Valid sum, impossible contents.
    #[error("map page makes no sense: {0}")]
    Nonsense(&'static str),
}

/// Bytes of an extent's record.
pub(super) fn record_len(rows_per_extent: u64) -> usize {
    size_of::<RawExtent>() + usize_of(rows_per_extent.div_ceil(64) * 8)
}

/// Extent records of one page; at least one, since 4 KiB chunks give at most 16,384 rows (2 KiB).
pub(super) fn records_per_page(rows_per_extent: u64) -> usize {
    (BODY_BYTES / record_len(rows_per_extent)).max(1)
}

pub(super) fn encode_page(
    kind: PageKind,
    array_uuid: Uuid,
    page: usize,
    generation: u64,
    fill: impl FnOnce(&mut [u8]),
) -> Box<[u8]> {
    let mut raw = RawPage::new_zeroed();
    raw.magic = MAGIC;
    raw.version = VERSION.into();
    raw.kind = kind.code().into();
    raw.array_uuid = array_uuid.into_bytes();
    raw.page = u64_of(page).into();
    raw.generation = generation.into();
    fill(&mut raw.body);
    raw.crc32c = sum(raw.as_bytes()).into();
    raw.as_bytes().into()
}

fn sum(bytes: &[u8]) -> u32 {
    cairn_blockdev::crc::crc32c(
        bytes
            .split_at(bytes.len().saturating_sub(size_of::<U32>()))
            .0,
    )
}

/// Checks a page and gives its kind, generation and body.
pub(super) fn decode_page(
    bytes: &[u8],
    array_uuid: Uuid,
    page: usize,
) -> Result<(PageKind, u64, &[u8]), PageError> {
    let raw = RawPage::ref_from_bytes(bytes).map_err(|_| PageError::Damaged)?;
    if bytes.iter().all(|&byte| byte == 0) {
        return Err(PageError::Blank);
    }
    let ours = raw.magic == MAGIC
        && raw.crc32c.get() == sum(bytes)
        && raw.array_uuid == array_uuid.into_bytes()
        && raw.page.get() == u64_of(page);
    if !ours {
        return Err(PageError::Damaged);
    }
    if raw.version.get() != VERSION {
        return Err(PageError::Version(raw.version.get()));
    }
    let kind = if page < VOLUME_PAGES {
        PageKind::Volumes
    } else {
        PageKind::Extents
    };
    if raw.kind.get() != kind.code() {
        return Err(PageError::Nonsense("kind"));
    }
    Ok((kind, raw.generation.get(), &raw.body))
}

pub(super) fn write_volume(body: &mut [u8], at: usize, volume: &VolumeRecord) {
    let mut raw = RawVolume::new_zeroed();
    raw.uuid = volume.uuid.into_bytes();
    for (to, from) in raw.name.iter_mut().zip(volume.name.bytes()) {
        *to = from;
    }
    raw.size_bytes = volume.size_bytes.into();
    raw.created_ms = volume.created_ms.into();
    raw.in_use = 1.into();
    put(body, at * size_of::<RawVolume>(), raw.as_bytes());
}

pub(super) fn read_volume(body: &[u8], at: usize) -> Result<Option<VolumeRecord>, PageError> {
    let start = at * size_of::<RawVolume>();
    let raw = body
        .get(start..start + size_of::<RawVolume>())
        .and_then(|bytes| RawVolume::ref_from_bytes(bytes).ok())
        .ok_or(PageError::Nonsense("volume record"))?;
    if raw.in_use.get() == 0 {
        return Ok(None);
    }
    let name = stored_name(&raw.name).ok_or(PageError::Nonsense("volume name"))?;
    Ok(Some(VolumeRecord {
        uuid: Uuid::from_bytes(raw.uuid),
        name: name.to_owned(),
        size_bytes: raw.size_bytes.get(),
        created_ms: raw.created_ms.get(),
    }))
}

pub(super) fn write_extent(
    body: &mut [u8],
    at: usize,
    len: usize,
    fields: &ExtentFields,
    bits: impl Iterator<Item = bool>,
) {
    let raw = RawExtent::of(fields);
    put(body, at * len, raw.as_bytes());
    let bits_at = at * len + size_of::<RawExtent>();
    for (row, written) in bits.enumerate() {
        if written && let Some(byte) = body.get_mut(bits_at + row / 8) {
            *byte |= 1 << (row % 8);
        }
    }
}

/// The record at `at`, `None` if it is free; the bits run past the extent's rows, padded with zeros.
pub(super) fn read_extent(
    body: &[u8],
    at: usize,
    len: usize,
) -> Option<(ExtentFields, impl Iterator<Item = bool>)> {
    let record = body.get(at * len..(at + 1) * len)?;
    let (raw, bits) = RawExtent::ref_from_prefix(record).ok()?;
    let fields = raw.fields()?;
    let bits = bits
        .iter()
        .flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
    Some((fields, bits))
}

fn put(body: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = body.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}
