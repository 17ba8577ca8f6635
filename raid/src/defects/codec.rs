//! The bad-block list on disk: one structure, in two slots by generation, on every member.
//!
//! ```text
//!  zone   0 header   4 KiB slot A (508 KiB)   512 KiB slot B (508 KiB)   1020 KiB unused
//!
//!  slot   0 magic  8 version  12 count  16 array uuid  32 generation  40 more
//!        48 scrub: state  52 runs  56 cursor row  64 started (ms)  72 finished (ms)
//!        80 repaired  88 mismatched  96 unrepairable  104 reserved  124 crc32c
//!       128 entries of 24 bytes: 0 row  8 since (ms)  16 column  20 member slot  22 reason  23 reserved
//! ```
//!
//! The sum covers the head before it and the entries; the rest of the last block is zero. Generation
//! g is written to slot g mod 2, after everything written before was flushed: a torn write leaves the
//! other slot. Entries ascend by (row, column, member slot).

use cairn_blockdev::units::{BLOCK, BLOCK_BYTES, MIB, u64_of, usize_of_u32};
use uuid::Uuid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Defect, Defects, Place, Reason, ScrubRecord, ScrubState};
use crate::geometry::{Row, Slot};
use crate::level::MEMBERS_MAX;

const MAGIC: [u8; 8] = *b"CAIRNBAD";
const VERSION: u32 = 1;
/// Slot B begins here in the zone.
const SLOT_B: u64 = MIB / 2;
/// Bytes of a slot: from behind the zone's header to the middle.
const SLOT_BYTES: usize = 508 << 10;
/// Entries that fit in a slot: 84 MiB of bad blocks. A disk with more of them is to be replaced.
pub const ENTRIES_MAX: usize = (SLOT_BYTES - size_of::<RawHead>()) / size_of::<RawEntry>();

const _: () = assert!(ENTRIES_MAX == 21_669);
const _: () = assert!(BLOCK_BYTES + SLOT_BYTES == 512 << 10);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHead {
    magic: [u8; 8],
    version: U32,
    count: U32,
    array_uuid: [u8; 16],
    generation: U64,
    more: U64,
    scrub_state: U32,
    scrub_runs: U32,
    scrub_cursor: U64,
    scrub_started_ms: U64,
    scrub_finished_ms: U64,
    scrub_repaired: U64,
    scrub_mismatched: U64,
    scrub_unrepairable: U64,
    reserved: [u8; 20],
    crc32c: U32,
}

const _: () = assert!(size_of::<RawHead>() == 128);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawEntry {
    row: U64,
    since_ms: U64,
    col: U32,
    slot: U16,
    reason: u8,
    reserved: u8,
}

const _: () = assert!(size_of::<RawEntry>() == 24);

/// Why bytes aren't a list that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DefectsError {
    /// Never written.
    #[error("never written")]
    Blank,
    /// Torn, rotten or another array's.
    #[error("damaged, or of another array")]
    Damaged,
    /// A newer structure.
    #[error(
        "bad-block list has version {0}, this Cairn knows {VERSION}: use the version that wrote it"
    )]
    Version(u32),
}

/// First byte, in its zone, of the slot of a generation.
pub fn slot_offset(generation: u64) -> u64 {
    if generation.is_multiple_of(2) {
        BLOCK
    } else {
        SLOT_B
    }
}

fn sum(head: &RawHead, entries: &[u8]) -> u32 {
    let bytes = head.as_bytes();
    let before = bytes.split_at(bytes.len() - size_of::<U32>()).0;
    cairn_blockdev::crc::crc32c_append(cairn_blockdev::crc::crc32c(before), entries)
}

/// Bytes to read for the list whose first block this is: whole blocks.
pub fn bytes_needed(first: &[u8]) -> Result<usize, DefectsError> {
    let (head, _) = RawHead::read_from_prefix(first).map_err(|_| DefectsError::Damaged)?;
    if head.as_bytes().iter().all(|byte| *byte == 0) {
        return Err(DefectsError::Blank);
    }
    if head.magic != MAGIC {
        return Err(DefectsError::Damaged);
    }
    let count = usize_of_u32(head.count.get());
    if count > ENTRIES_MAX {
        return Err(DefectsError::Damaged);
    }
    let bytes = size_of::<RawHead>() + count * size_of::<RawEntry>();
    Ok(bytes.next_multiple_of(BLOCK_BYTES))
}

impl Defects {
    /// The list as `generation`, in whole blocks.
    pub fn encode(&self, generation: u64) -> Vec<u8> {
        let mut entries = Vec::with_capacity(self.blocks.len() * size_of::<RawEntry>());
        for (place, defect) in &self.blocks {
            let entry = RawEntry {
                row: place.row.0.into(),
                since_ms: defect.since_ms.into(),
                col: place.col.into(),
                slot: u16::try_from(place.slot.0).unwrap_or(u16::MAX).into(),
                reason: defect.reason.code(),
                reserved: 0,
            };
            entries.extend_from_slice(entry.as_bytes());
        }
        let mut head = RawHead::new_zeroed();
        head.magic = MAGIC;
        head.version = VERSION.into();
        head.count = u32::try_from(self.blocks.len()).unwrap_or(u32::MAX).into();
        head.array_uuid = self.array.into_bytes();
        head.generation = generation.into();
        head.more = self.more.into();
        head.scrub_state = self.scrub.state.code().into();
        head.scrub_runs = self.scrub.runs.into();
        head.scrub_cursor = self.scrub.cursor.0.into();
        head.scrub_started_ms = self.scrub.started_ms.into();
        head.scrub_finished_ms = self.scrub.finished_ms.into();
        head.scrub_repaired = self.scrub.repaired.into();
        head.scrub_mismatched = self.scrub.mismatched.into();
        head.scrub_unrepairable = self.scrub.unrepairable.into();
        head.crc32c = sum(&head, &entries).into();
        let mut bytes = head.as_bytes().to_vec();
        bytes.append(&mut entries);
        bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
        assert!(
            bytes.len() <= SLOT_BYTES,
            "the bad-block list outgrew its slot"
        );
        bytes
    }

    /// The list that these bytes hold. Never panics.
    pub fn decode(bytes: &[u8], array: Uuid) -> Result<Self, DefectsError> {
        bytes_needed(bytes)?;
        let (head, rest) = RawHead::read_from_prefix(bytes).map_err(|_| DefectsError::Damaged)?;
        let len = usize_of_u32(head.count.get()) * size_of::<RawEntry>();
        let entries = rest.get(..len).ok_or(DefectsError::Damaged)?;
        if head.crc32c.get() != sum(&head, entries) || head.array_uuid != array.into_bytes() {
            return Err(DefectsError::Damaged);
        }
        // Not before the sum, whose rule all versions share: rot isn't a newer version.
        if head.version.get() != VERSION {
            return Err(DefectsError::Version(head.version.get()));
        }
        let mut defects = Self::new(array);
        let mut before: Option<Place> = None;
        for entry in entries.chunks(size_of::<RawEntry>()) {
            let entry = RawEntry::read_from_bytes(entry).map_err(|_| DefectsError::Damaged)?;
            let place = Place {
                row: Row(entry.row.get()),
                col: entry.col.get(),
                slot: Slot(usize::from(entry.slot.get())),
            };
            let reason = Reason::from_code(entry.reason).ok_or(DefectsError::Damaged)?;
            let ascends = before.is_none_or(|before| before < place);
            if !ascends || place.slot.0 >= MEMBERS_MAX {
                return Err(DefectsError::Damaged);
            }
            before = Some(place);
            let since_ms = entry.since_ms.get();
            defects.blocks.insert(place, Defect { since_ms, reason });
        }
        defects.generation = head.generation.get();
        defects.more = head.more.get();
        defects.scrub = ScrubRecord {
            state: ScrubState::from_code(head.scrub_state.get()).ok_or(DefectsError::Damaged)?,
            cursor: Row(head.scrub_cursor.get()),
            started_ms: head.scrub_started_ms.get(),
            finished_ms: head.scrub_finished_ms.get(),
            repaired: head.scrub_repaired.get(),
            mismatched: head.scrub_mismatched.get(),
            unrepairable: head.scrub_unrepairable.get(),
            runs: head.scrub_runs.get(),
        };
        assert!(u64_of(defects.blocks.len()) <= u64_of(ENTRIES_MAX));
        Ok(defects)
    }
}
