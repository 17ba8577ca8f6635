//! What a member says of its journal ring: two slots of a block each, before the ring.
//!
//! ```text
//!   0 magic `CAIRNJNL`   8 version u32   12 lanes u16   14 reserved   16 array uuid
//!  32 member uuid   48 epoch u64   56 floor u64   64 generation u64   72 ring bytes u64
//!  80 crc32c   84 reserved … 128, zeros to 4096
//! ```
//!
//! The crc32c is over the whole block, its own field taken as zero. Generation g is written to slot
//! g mod 2, after everything before it was flushed: a torn write leaves the other slot.
//!
//! Invariants
//! - The crc field lies here in every version, so that damage isn't taken for a newer version, and
//!   a newer version in either slot isn't passed over for an older one in the other.
//! - A header in the slot that its generation doesn't name isn't used: it was misdirected.
//!
//! Does not know: what is in the ring, when a header is written.

use cairn_blockdev::units::{BLOCK, BLOCK_BYTES};
use uuid::Uuid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::entry::Seq;

/// First bytes of a journal header.
pub const HEADER_MAGIC: [u8; 8] = *b"CAIRNJNL";
/// Version of this structure.
pub const HEADER_VERSION: u32 = 1;
/// Where the slots lie, from the zone's first byte; block 0 is the zone's header.
pub const SLOTS: [u64; 2] = [BLOCK, 2 * BLOCK];
/// Where the ring begins, from the zone's first byte.
pub const RING_OFFSET: u64 = 4 * BLOCK;
/// Lanes that an array can have.
pub const LANES_MAX: u16 = 16;

const CRC_AT: usize = 80;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 8],
    version: U32,
    lanes: U16,
    reserved: U16,
    array_uuid: [u8; 16],
    member_uuid: [u8; 16],
    epoch: U64,
    floor: U64,
    generation: U64,
    ring_bytes: U64,
    crc32c: U32,
    reserved2: [u8; 44],
}

const _: () = assert!(size_of::<RawHeader>() == 128);
const _: () = assert!(std::mem::offset_of!(RawHeader, crc32c) == CRC_AT);

/// What a member says of its ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalHeader {
    /// The array.
    pub array: Uuid,
    /// The member.
    pub member: Uuid,
    /// Rises when the journal is created anew.
    pub epoch: u64,
    /// Every sequence below this one was trimmed.
    pub floor: Seq,
    /// Rises with every header written; names the slot.
    pub generation: u64,
    /// Bytes of the ring.
    pub ring_bytes: u64,
    /// Lanes of the array.
    pub lanes: u16,
}

/// Why a block isn't a journal header that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// No magic.
    #[error("no journal header")]
    Absent,
    /// The checksum is wrong.
    #[error("journal header is damaged: its checksum doesn't match")]
    Checksum,
    /// A newer structure.
    #[error(
        "journal header has version {0}, this Cairn knows {HEADER_VERSION}: use the version that \
         wrote it"
    )]
    Version(u32),
    /// The checksum is right and the contents are not: our own bug, or malice.
    #[error("journal header makes no sense: {0}")]
    Nonsense(&'static str),
}

fn sum(block: &[u8]) -> u32 {
    let (before, rest) = block.split_at(CRC_AT);
    let (field, after) = rest.split_at(size_of::<U32>());
    debug_assert_eq!(field.len(), size_of::<U32>());
    let sum = cairn_blockdev::crc::crc32c_append(
        cairn_blockdev::crc::crc32c(before),
        &[0; size_of::<U32>()],
    );
    cairn_blockdev::crc::crc32c_append(sum, after)
}

impl JournalHeader {
    /// Where it is to be written, from the zone's first byte.
    pub fn slot(&self) -> u64 {
        let [even, odd] = SLOTS;
        if self.generation.is_multiple_of(2) {
            even
        } else {
            odd
        }
    }

    /// The block to write.
    pub fn encode(&self) -> Box<[u8]> {
        let mut block: Box<[u8]> = vec![0; BLOCK_BYTES].into();
        let mut raw = RawHeader::new_zeroed();
        raw.magic = HEADER_MAGIC;
        raw.version = HEADER_VERSION.into();
        raw.lanes = self.lanes.into();
        raw.array_uuid = self.array.into_bytes();
        raw.member_uuid = self.member.into_bytes();
        raw.epoch = self.epoch.into();
        raw.floor = self.floor.0.into();
        raw.generation = self.generation.into();
        raw.ring_bytes = self.ring_bytes.into();
        put(&mut block, &raw);
        raw.crc32c = sum(&block).into();
        put(&mut block, &raw);
        block
    }

    /// Decodes and checks a block.
    pub fn decode(block: &[u8]) -> Result<Self, HeaderError> {
        let raw = RawHeader::ref_from_prefix(block)
            .ok()
            .filter(|_| block.len() == BLOCK_BYTES)
            .map(|(raw, _)| raw)
            .ok_or(HeaderError::Nonsense("its length"))?;
        if raw.magic != HEADER_MAGIC {
            return Err(HeaderError::Absent);
        }
        if raw.crc32c.get() != sum(block) {
            return Err(HeaderError::Checksum);
        }
        if raw.version.get() != HEADER_VERSION {
            return Err(HeaderError::Version(raw.version.get()));
        }
        let ring_bytes = raw.ring_bytes.get();
        if ring_bytes == 0 || !ring_bytes.is_multiple_of(BLOCK) {
            return Err(HeaderError::Nonsense("size of the ring"));
        }
        if !(1..=LANES_MAX).contains(&raw.lanes.get()) {
            return Err(HeaderError::Nonsense("lanes"));
        }
        Ok(Self {
            array: Uuid::from_bytes(raw.array_uuid),
            member: Uuid::from_bytes(raw.member_uuid),
            epoch: raw.epoch.get(),
            floor: Seq(raw.floor.get()),
            generation: raw.generation.get(),
            ring_bytes,
            lanes: raw.lanes.get(),
        })
    }
}

fn put(block: &mut [u8], raw: &RawHeader) {
    block
        .split_at_mut(size_of::<RawHeader>())
        .0
        .copy_from_slice(raw.as_bytes());
}

/// The newer header of the two slots' blocks.
///
/// One good slot is enough, unless the other is of a newer version: then that is the answer. With
/// none, the answer is what is wrong with the first, or with the second if the first is blank.
pub fn newest(a: &[u8], b: &[u8]) -> Result<JournalHeader, HeaderError> {
    let [even, odd] = SLOTS;
    let decode = |block, slot| match JournalHeader::decode(block) {
        Ok(header) if header.slot() != slot => Err(HeaderError::Nonsense("it is in a wrong slot")),
        result => result,
    };
    match (decode(a, even), decode(b, odd)) {
        (Err(HeaderError::Version(version)), _) | (_, Err(HeaderError::Version(version))) => {
            Err(HeaderError::Version(version))
        }
        (Ok(a), Ok(b)) => Ok(if a.generation > b.generation { a } else { b }),
        (Ok(header), Err(_)) | (Err(_), Ok(header)) => Ok(header),
        (Err(HeaderError::Absent), Err(error)) | (Err(error), Err(_)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::ZoneHeader;

    /// Block 0 of the zone, before the slots: the header that every zone begins with.
    #[test]
    fn a_newer_zone_header_is_refused_though_its_sum_is_right() {
        let of_version = |version: u8| {
            let mut bytes = *include_bytes!("../../tests/golden/zone-v1.bin");
            bytes[8] = version;
            let sum = cairn_blockdev::crc::crc32c(&bytes[..60]);
            bytes[60..].copy_from_slice(&sum.to_le_bytes());
            ZoneHeader::read_from_bytes(&bytes).unwrap()
        };
        assert!(of_version(1).is_valid());
        assert!(!of_version(0).is_valid());
        assert!(!of_version(2).is_valid());
    }

    #[test]
    fn a_newer_header_in_either_slot_is_the_answer() {
        let of_version = |version: u8| {
            let mut block = *include_bytes!("../../tests/golden/journal-header-v1.bin");
            block[8] = version;
            block[CRC_AT..CRC_AT + 4].fill(0);
            let sum = cairn_blockdev::crc::crc32c(&block);
            block[CRC_AT..CRC_AT + 4].copy_from_slice(&sum.to_le_bytes());
            block
        };
        let (known, newer) = (of_version(1), of_version(2));
        assert!(JournalHeader::decode(&known).is_ok());
        let refused = HeaderError::Version(2);
        assert_eq!(JournalHeader::decode(&newer), Err(refused));
        assert_eq!(newest(&newer, &known), Err(refused));
        assert_eq!(newest(&known, &newer), Err(refused));
        // Rot isn't a newer version: the other slot counts.
        let mut rotten = newer;
        rotten[4000] ^= 1;
        assert_eq!(JournalHeader::decode(&rotten), Err(HeaderError::Checksum));
        assert!(newest(&rotten, &known).is_ok());
    }
}
