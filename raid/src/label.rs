//! The label: what a member says of itself and of its array.
//!
//! ```text
//!      0 magic  8 version  12 header_len  16 compat  24 ro_compat  32 incompat
//!     40 array uuid   56 member uuid   72 home host   88 name (64)
//!    152 level  156 chunk  160 members  164 entries in use
//!    168 generation  176 event count  184 flags  188 rows per extent
//!    192 data bytes a member  200 disk bytes  208 created (ms)  216 journal bytes asked for
//!    224 zone table: 8 × {kind u32, reserved u32, offset u64, length u64}
//!    416 journal headers: every member in sync had one of this generation when the label was written
//!    424 reserved … 1020
//!   1020 table: 48 × 64 bytes, one per member, spare or failed disk
//!   4092 crc32c of all bytes before it
//! ```
//!
//! Three copies a disk: slot A, slot B and one before the end. A commit writes the slot that its
//! generation's lowest bit names, flushes, then the copy: a torn write leaves the other slot.
//!
//! Invariants
//! - The highest valid (event count, generation) is a disk's word; the highest among all disks of
//!   an array names who is in sync (fault A7).
//! - The event count rises with every change of membership, the generation with every commit.
//! - Unknown incompat bits refuse the disk; with unknown ro-compat bits nothing is written
//!   to any disk of the array: it is read only.
//!
//! Does not know: which disks are there, or when a label is written.

use cairn_blockdev::units::BLOCK_BYTES;
use uuid::Uuid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::geometry::Geometry;
use crate::journal::entry::Seq;
use crate::layout::{Layout, Zone, ZoneKind};
use crate::level::Level;
use crate::member::MemberState;

/// First bytes of every label.
pub const LABEL_MAGIC: [u8; 8] = *b"CAIRNLBL";
/// Version of this structure.
pub const LABEL_VERSION: u32 = 1;
/// Disks that a label can list.
pub const TABLE_MAX: usize = 48;
/// Longest name in bytes.
pub const NAME_MAX: usize = 48;

/// Incompat: no checksums; their zone is reserved and empty.
pub const INCOMPAT_NO_INTEGRITY: u64 = 1;
/// Incompat: acked writes may be in the journal alone.
pub const INCOMPAT_JOURNAL: u64 = 2;
/// Incompat: the journal is, or was, on disks of its own; acked writes may be on them alone.
pub const INCOMPAT_JOURNAL_DISKS: u64 = 4;
/// Incompat: no label of a member, but of a disk in a host's pool ([`crate::host_spare`]).
pub const INCOMPAT_HOST_SPARE: u64 = 1 << 16;
/// What this version understands of a member's label.
const INCOMPAT_KNOWN: u64 = INCOMPAT_NO_INTEGRITY | INCOMPAT_JOURNAL | INCOMPAT_JOURNAL_DISKS;
const RO_COMPAT_KNOWN: u64 = 0;

/// Every write was applied and flushed when this label was written.
const FLAG_CLEAN: u32 = 1;
/// In an entry: the operator failed this member; it doesn't come back by itself.
const ENTRY_HELD_OUT: u8 = 1;
/// In an entry: the member is being taken back and may not have a label that says so.
const ENTRY_RETURNING: u8 = 2;
/// In an entry: a journal disk, in service or out.
const ENTRY_JOURNAL: u8 = 4;
/// In an entry of a journal disk that is out: records may have one copy too few for its sake.
const ENTRY_UNDRAINED: u8 = 8;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawZone {
    kind: U32,
    reserved: U32,
    offset: U64,
    len: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawEntry {
    uuid: [u8; 16],
    slot: U16,
    state: u8,
    flags: u8,
    /// Number of the missed map of a member that was away; 0: none.
    missed_map: U32,
    /// Rows rebuilt, for `rebuilding` and `replacing`.
    cursor_rows: U64,
    /// Event count at which the state was last changed.
    since_event: U64,
    disk_bytes: U64,
    /// Floor of the journal when the map began.
    missed_from: U64,
    /// Generation of the last label that the member surely had when it went.
    last_generation: U64,
}

const _: () = assert!(size_of::<RawEntry>() == 64);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone)]
#[repr(C)]
struct RawLabel {
    magic: [u8; 8],
    version: U32,
    header_len: U32,
    compat: U64,
    ro_compat: U64,
    incompat: U64,
    array_uuid: [u8; 16],
    member_uuid: [u8; 16],
    home_host: [u8; 16],
    name: [u8; 64],
    level: U32,
    chunk_bytes: U32,
    members: U32,
    entries: U32,
    generation: U64,
    event_count: U64,
    flags: U32,
    rows_per_extent: U32,
    data_bytes: U64,
    disk_bytes: U64,
    created_ms: U64,
    journal_bytes: U64,
    zones: [RawZone; 8],
    journal_headers: U64,
    reserved: [u8; 596],
    table: [RawEntry; TABLE_MAX],
    crc32c: U32,
}

const _: () = assert!(size_of::<RawLabel>() == BLOCK_BYTES);

/// A row of the label's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The disk.
    pub uuid: Uuid,
    /// Its slot; `None` for spares and disks out of the geometry.
    pub slot: Option<usize>,
    /// Its state.
    pub state: MemberState,
    /// Rows rebuilt, for a rebuilding or replacing disk.
    pub cursor_rows: u64,
    /// Event count of its last change of state.
    pub since_event: u64,
    /// Its size.
    pub disk_bytes: u64,
    /// What is known of the absence of a member that can be caught up; kept until it is in sync.
    pub absence: Option<Absence>,
    /// The operator failed it: it doesn't come back by itself.
    pub held_out: bool,
    /// It is a journal disk, or was one before it went out.
    pub journal: bool,
    /// Of a journal disk that is out: records that were logged with it may not be in place yet. It counts
    /// among the copies that are lost.
    pub undrained: bool,
}

/// Of a member that went away and whose missed rows are noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Absence {
    /// Number of its missed map ([`crate::missed`]); never 0.
    pub map: u32,
    /// Floor of the journal when the map began: as long as the journal still begins there, it tells
    /// all that the member missed, even if the map was never written.
    pub from: Seq,
    /// Generation of the last label that the member surely had: one that comes back with an older one
    /// is an old image.
    pub last_generation: u64,
    /// The array is about to take it back: the member may not have a label that says so yet, and nothing
    /// of it counts.
    pub returning: bool,
}

/// A label, decoded. What all disks of the array share is in `array`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// This disk.
    pub member_uuid: Uuid,
    /// Bytes of this disk.
    pub disk_bytes: u64,
    /// Zones of this disk.
    pub layout: Layout,
    /// What every label of the array says alike.
    pub array: ArrayLabel,
}

/// The part of a label that is the same on every disk of an array after a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArrayLabel {
    /// The array.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// Host that starts it by itself.
    pub home_host: Uuid,
    /// Level, members, chunk.
    pub geometry: Geometry,
    /// Features that older versions may ignore.
    pub compat: u64,
    /// Features without which nothing may be written.
    pub ro_compat: u64,
    /// Features without which nothing may be read.
    pub incompat: u64,
    /// Rises with every commit.
    pub generation: u64,
    /// Rises with every change of membership.
    pub event_count: u64,
    /// Whether parity is known to match the data.
    pub clean: bool,
    /// Rows of an extent.
    pub rows_per_extent: u64,
    /// Bytes of each data zone.
    pub data_bytes: u64,
    /// When it was created, in ms since 1970.
    pub created_ms: u64,
    /// Journal size asked for at creation; 0 = by the disk's size.
    pub journal_bytes: u64,
    /// Generation of the journal's header that every member in sync had, durably, when the label was
    /// written: a member with an older one is an older image of itself (fault A10). 0 = not known.
    pub journal_headers: u64,
    /// Members, spares and failed disks.
    pub table: Vec<Entry>,
}

impl ArrayLabel {
    /// Whether acked writes may be in the journal alone.
    pub fn has_journal(&self) -> bool {
        self.incompat & INCOMPAT_JOURNAL != 0
    }

    /// Whether the journal is, or was, on disks of its own.
    pub fn has_journal_disks(&self) -> bool {
        self.incompat & INCOMPAT_JOURNAL_DISKS != 0
    }

    /// Whether blocks have checksums.
    pub fn has_sums(&self) -> bool {
        self.incompat & INCOMPAT_NO_INTEGRITY == 0
    }
}

/// Why 4 KiB aren't a label that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// No magic: there is no label here.
    #[error("no label")]
    Absent,
    /// Magic, but the checksum is wrong.
    #[error("label is damaged: its checksum doesn't match")]
    Checksum,
    /// A newer structure.
    #[error(
        "label has version {0}, this Cairn knows {LABEL_VERSION}: use the version that wrote it"
    )]
    Version(u32),
    /// Feature bits that this version doesn't know.
    #[error(
        "label needs features {0:#x} that this Cairn doesn't know: use the version that wrote it"
    )]
    Incompat(u64),
    /// The checksum is right and the contents are not: our own bug, or malice.
    #[error("label makes no sense: {0}")]
    Nonsense(&'static str),
}

impl ArrayLabel {
    /// Whether writing is allowed to this version.
    pub fn writable(&self) -> bool {
        self.ro_compat_unknown() == 0
    }

    /// Features that this version doesn't know and that forbid it to write.
    pub fn ro_compat_unknown(&self) -> u64 {
        self.ro_compat & !RO_COMPAT_KNOWN
    }

    /// The entry of a disk.
    pub fn entry(&self, uuid: Uuid) -> Option<&Entry> {
        self.table.iter().find(|entry| entry.uuid == uuid)
    }
}

pub(crate) fn sum(bytes: &[u8]) -> u32 {
    cairn_blockdev::crc::crc32c(
        bytes
            .split_at(bytes.len().saturating_sub(size_of::<U32>()))
            .0,
    )
}

impl Label {
    /// The 4 KiB to write.
    ///
    /// # Panics
    /// If the table or the name is too long, which creation and membership changes check first.
    pub fn encode(&self) -> Box<[u8]> {
        let array = &self.array;
        assert!(
            array.table.len() <= TABLE_MAX,
            "label table of {} entries",
            array.table.len()
        );
        assert!(
            array.name.len() <= NAME_MAX,
            "label name of {} bytes",
            array.name.len()
        );
        let mut raw = RawLabel::new_zeroed();
        raw.magic = LABEL_MAGIC;
        raw.version = LABEL_VERSION.into();
        raw.header_len = 1020.into();
        raw.compat = array.compat.into();
        raw.ro_compat = array.ro_compat.into();
        raw.incompat = array.incompat.into();
        raw.array_uuid = array.uuid.into_bytes();
        raw.member_uuid = self.member_uuid.into_bytes();
        raw.home_host = array.home_host.into_bytes();
        for (to, from) in raw.name.iter_mut().zip(array.name.bytes()) {
            *to = from;
        }
        raw.level = array.geometry.level().code().into();
        raw.chunk_bytes = narrow(array.geometry.chunk_bytes()).into();
        raw.members = narrow(array.geometry.members()).into();
        raw.entries = narrow(array.table.len()).into();
        raw.generation = array.generation.into();
        raw.event_count = array.event_count.into();
        raw.flags = (if array.clean { FLAG_CLEAN } else { 0 }).into();
        raw.rows_per_extent = narrow(array.rows_per_extent).into();
        raw.data_bytes = array.data_bytes.into();
        raw.disk_bytes = self.disk_bytes.into();
        raw.created_ms = array.created_ms.into();
        raw.journal_bytes = array.journal_bytes.into();
        raw.journal_headers = array.journal_headers.into();
        for ((to, kind), zone) in raw
            .zones
            .iter_mut()
            .zip(ZoneKind::ALL)
            .zip(self.layout.zones)
        {
            to.kind = kind.code().into();
            to.offset = zone.offset.into();
            to.len = zone.len.into();
        }
        for (to, entry) in raw.table.iter_mut().zip(&array.table) {
            to.uuid = entry.uuid.into_bytes();
            to.slot = entry
                .slot
                .and_then(|s| u16::try_from(s).ok())
                .unwrap_or(u16::MAX)
                .into();
            to.state = entry.state.code();
            to.cursor_rows = entry.cursor_rows.into();
            to.since_event = entry.since_event.into();
            to.disk_bytes = entry.disk_bytes.into();
            let flags = [
                (entry.held_out, ENTRY_HELD_OUT),
                (entry.journal, ENTRY_JOURNAL),
                (entry.journal && entry.undrained, ENTRY_UNDRAINED),
            ];
            to.flags = flags.iter().map(|(set, bit)| u8::from(*set) * bit).sum();
            if let Some(absence) = entry.absence {
                to.missed_map = absence.map.into();
                to.missed_from = absence.from.0.into();
                to.last_generation = absence.last_generation.into();
                to.flags |= if absence.returning {
                    ENTRY_RETURNING
                } else {
                    0
                };
            }
        }
        raw.crc32c = sum(raw.as_bytes()).into();
        raw.as_bytes().into()
    }

    /// Decodes and checks 4 KiB.
    pub fn decode(bytes: &[u8]) -> Result<Self, LabelError> {
        let raw =
            RawLabel::ref_from_bytes(bytes).map_err(|_| LabelError::Nonsense("its length"))?;
        if raw.magic != LABEL_MAGIC {
            return Err(LabelError::Absent);
        }
        if raw.crc32c.get() != sum(bytes) {
            return Err(LabelError::Checksum);
        }
        if raw.version.get() != LABEL_VERSION {
            return Err(LabelError::Version(raw.version.get()));
        }
        let unknown = raw.incompat.get() & !INCOMPAT_KNOWN;
        if unknown != 0 {
            return Err(LabelError::Incompat(unknown));
        }
        let level = Level::from_code(raw.level.get()).ok_or(LabelError::Nonsense("level"))?;
        let members = cairn_blockdev::units::usize_of_u32(raw.members.get());
        let geometry = Geometry::new(level, members, raw.chunk_bytes.get())
            .map_err(|_| LabelError::Nonsense("geometry"))?;
        let name = stored_name(&raw.name).ok_or(LabelError::Nonsense("name"))?;
        let rows_per_extent = u64::from(raw.rows_per_extent.get());
        let extent_bytes = rows_per_extent * geometry.chunk_bytes();
        if !rows_per_extent.is_power_of_two() || !raw.data_bytes.get().is_multiple_of(extent_bytes)
        {
            return Err(LabelError::Nonsense("extent size"));
        }
        let member_uuid = Uuid::from_bytes(raw.member_uuid);
        let table = decode_table(raw, members)?;
        let mut own = table.iter().filter(|entry| entry.uuid == member_uuid);
        let has_data = !own.any(|entry| entry.journal);
        Ok(Self {
            member_uuid,
            disk_bytes: raw.disk_bytes.get(),
            layout: decode_zones(raw, has_data)?,
            array: ArrayLabel {
                uuid: Uuid::from_bytes(raw.array_uuid),
                name: name.to_owned(),
                home_host: Uuid::from_bytes(raw.home_host),
                geometry,
                compat: raw.compat.get(),
                ro_compat: raw.ro_compat.get(),
                incompat: raw.incompat.get(),
                generation: raw.generation.get(),
                event_count: raw.event_count.get(),
                clean: raw.flags.get() & FLAG_CLEAN != 0,
                rows_per_extent,
                data_bytes: raw.data_bytes.get(),
                created_ms: raw.created_ms.get(),
                journal_bytes: raw.journal_bytes.get(),
                journal_headers: raw.journal_headers.get(),
                table,
            },
        })
    }
}

/// The zones; all but the journal's are empty on a disk without data.
fn decode_zones(raw: &RawLabel, has_data: bool) -> Result<Layout, LabelError> {
    let mut layout = Layout::default();
    let mut at = 0;
    for ((zone, kind), from) in layout.zones.iter_mut().zip(ZoneKind::ALL).zip(&raw.zones) {
        *zone = Zone {
            offset: from.offset.get(),
            len: from.len.get(),
        };
        let end = zone
            .offset
            .checked_add(zone.len)
            .ok_or(LabelError::Nonsense("zone table"))?;
        if from.kind.get() != kind.code() || zone.offset < at || end > raw.disk_bytes.get() {
            return Err(LabelError::Nonsense("zone table"));
        }
        at = end;
    }
    let data_bytes = if has_data { raw.data_bytes.get() } else { 0 };
    if layout.zone(ZoneKind::Data).len != data_bytes {
        return Err(LabelError::Nonsense("data zone"));
    }
    Ok(layout)
}

fn decode_table(raw: &RawLabel, members: usize) -> Result<Vec<Entry>, LabelError> {
    let count = cairn_blockdev::units::usize_of_u32(raw.entries.get());
    let rows = raw
        .table
        .get(..count)
        .ok_or(LabelError::Nonsense("table length"))?;
    let with_journal_disks = raw.incompat.get() & INCOMPAT_JOURNAL_DISKS != 0;
    let mut table = Vec::with_capacity(count);
    for row in rows {
        let slot = match row.slot.get() {
            u16::MAX => None,
            slot if usize::from(slot) < members => Some(usize::from(slot)),
            _ => return Err(LabelError::Nonsense("slot")),
        };
        let state = MemberState::from_code(row.state).ok_or(LabelError::Nonsense("state"))?;
        if slot.is_none() && state.holds_slot() {
            return Err(LabelError::Nonsense("a member without a slot"));
        }
        let journal = row.flags & ENTRY_JOURNAL != 0;
        let fits = matches!(
            state,
            MemberState::Journal
                | MemberState::Failed
                | MemberState::Missing
                | MemberState::Removed
        );
        if journal && (slot.is_some() || !fits || !with_journal_disks) {
            return Err(LabelError::Nonsense(
                "a journal disk that is something else",
            ));
        }
        if !journal && state == MemberState::Journal {
            return Err(LabelError::Nonsense("a journal disk that isn't called one"));
        }
        table.push(Entry {
            uuid: Uuid::from_bytes(row.uuid),
            slot,
            state,
            cursor_rows: row.cursor_rows.get(),
            since_event: row.since_event.get(),
            disk_bytes: row.disk_bytes.get(),
            absence: (row.missed_map.get() != 0).then(|| Absence {
                map: row.missed_map.get(),
                from: Seq(row.missed_from.get()),
                last_generation: row.last_generation.get(),
                returning: row.flags & ENTRY_RETURNING != 0,
            }),
            held_out: row.flags & ENTRY_HELD_OUT != 0,
            journal,
            undrained: journal && row.flags & ENTRY_UNDRAINED != 0,
        });
    }
    Ok(table)
}

fn narrow<T: TryInto<u32>>(value: T) -> u32 {
    value
        .try_into()
        .unwrap_or_else(|_| unreachable!("bounded by the checks of creation"))
}

/// A name from its zero-padded place on disk, if it is one that could have been given.
pub(crate) fn stored_name(bytes: &[u8]) -> Option<&str> {
    let len = bytes
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(bytes.len());
    let name = std::str::from_utf8(bytes.get(..len)?).ok()?;
    valid_name(name).then_some(name)
}

/// Whether a name can be an array's or a volume's: it becomes part of paths, tables and URIs.
pub fn valid_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() <= NAME_MAX
        && bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn sample() -> Label {
        let geometry = Geometry::new(Level::Raid6, 5, 65536).unwrap();
        let shape = crate::layout::Shape {
            geometry,
            journal_bytes: None,
        };
        let disk_bytes = 512 << 20;
        let data_bytes = shape.data_bytes_for(disk_bytes).unwrap();
        let entry = |n: u8, slot, state| Entry {
            uuid: Uuid::from_bytes([n; 16]),
            slot,
            state,
            cursor_rows: if state == MemberState::Rebuilding {
                77
            } else {
                0
            },
            since_event: u64::from(n),
            disk_bytes,
            absence: None,
            held_out: false,
            journal: false,
            undrained: false,
        };
        Label {
            member_uuid: Uuid::from_bytes([2; 16]),
            disk_bytes,
            layout: shape.layout(disk_bytes, data_bytes).unwrap(),
            array: ArrayLabel {
                uuid: Uuid::from_bytes([9; 16]),
                name: "pool".into(),
                home_host: Uuid::from_bytes([8; 16]),
                geometry,
                compat: 0,
                ro_compat: 0,
                incompat: INCOMPAT_NO_INTEGRITY,
                generation: 12,
                event_count: 5,
                clean: true,
                rows_per_extent: crate::layout::rows_per_extent(&geometry),
                data_bytes,
                created_ms: 1_700_000_000_000,
                journal_bytes: 0,
                journal_headers: 0,
                table: vec![
                    entry(1, Some(0), MemberState::InSync),
                    entry(2, Some(1), MemberState::InSync),
                    entry(3, Some(2), MemberState::Rebuilding),
                    entry(4, Some(3), MemberState::InSync),
                    entry(5, Some(4), MemberState::Missing),
                    entry(6, None, MemberState::Spare),
                ],
            },
        }
    }

    #[test]
    fn the_label_of_version_1_is_read_for_ever() {
        let golden = include_bytes!("../tests/golden/label-v1.bin");
        assert_eq!(Label::decode(golden).unwrap(), sample());
        assert_eq!(
            &*sample().encode(),
            &golden[..],
            "the encoding of version 1 changed"
        );
    }

    /// The label of a journal disk: of three, one has just failed.
    fn with_journal_disks() -> Label {
        let mut label = sample();
        let entry = |n: u8, state| Entry {
            uuid: Uuid::from_bytes([n; 16]),
            slot: None,
            state,
            cursor_rows: 0,
            since_event: 5,
            disk_bytes: 64 << 20,
            absence: None,
            held_out: false,
            journal: true,
            undrained: state == MemberState::Failed,
        };
        label.array.incompat = INCOMPAT_JOURNAL | INCOMPAT_JOURNAL_DISKS;
        label.array.table.extend([
            entry(11, MemberState::Journal),
            entry(12, MemberState::Failed),
            entry(13, MemberState::Journal),
        ]);
        label.member_uuid = Uuid::from_bytes([11; 16]);
        label.disk_bytes = 64 << 20;
        label.layout = crate::layout::journal_disk_layout(64 << 20, None).unwrap();
        label
    }

    #[test]
    fn the_label_of_a_journal_disk_of_version_1_is_read_for_ever() {
        let golden = include_bytes!("../tests/golden/label-journal-disk-v1.bin");
        assert_eq!(Label::decode(golden).unwrap(), with_journal_disks());
        assert_eq!(
            &*with_journal_disks().encode(),
            &golden[..],
            "the encoding of version 1 changed"
        );
    }

    /// No field is what it is in an empty label, and the table is full.
    fn full() -> Label {
        let entry = |n: u8, slot, state| Entry {
            uuid: Uuid::from_bytes([n; 16]),
            slot,
            state,
            cursor_rows: u64::from(state == MemberState::Replacing) * 0x0123_4567,
            since_event: (1 << 40) + u64::from(n),
            disk_bytes: (1 << 42) + (u64::from(n) << 12),
            absence: None,
            held_out: false,
            journal: slot.is_none() && n < 11,
            undrained: n == 8 || n == 9,
        };
        let absence = |map, returning| Absence {
            map,
            from: Seq(0x1122_3344_5566),
            last_generation: 0x77_8899_AABB,
            returning,
        };
        let mut table = vec![
            entry(1, Some(0), MemberState::InSync),
            entry(2, Some(1), MemberState::InSync),
            entry(3, Some(2), MemberState::InSync),
            Entry {
                held_out: true,
                absence: Some(absence(0xA1A2_A3A4, false)),
                ..entry(4, Some(3), MemberState::Failed)
            },
            Entry {
                cursor_rows: 0x89AB_CDEF,
                absence: Some(absence(0xB1B2_B3B4, true)),
                ..entry(5, Some(4), MemberState::Rebuilding)
            },
            entry(6, Some(0), MemberState::Replacing),
            entry(7, None, MemberState::Journal),
            entry(8, None, MemberState::Failed),
            entry(9, None, MemberState::Missing),
            entry(10, None, MemberState::Removed),
            entry(11, None, MemberState::Spare),
        ];
        let removed = (12..).map(|n| entry(n, None, MemberState::Removed));
        table.extend(removed.take(TABLE_MAX - table.len()));
        let (mut label, mut at) = (sample(), 4 << 20);
        for (zone, mib) in label.layout.zones.iter_mut().zip([17, 3, 2, 1, 5, 6, 96]) {
            let len = mib << 20;
            // A gap behind each: zones lie where the label says, not where today's code would put them.
            *zone = Zone { offset: at, len };
            at += len + (1 << 20);
        }
        let array = &mut label.array;
        array.name = "Pool_0.of-forty-eight-bytes-".to_owned() + &"x".repeat(20);
        (array.compat, array.ro_compat) = (1 << 62 | 1, 1 << 63);
        array.incompat = INCOMPAT_NO_INTEGRITY | INCOMPAT_JOURNAL | INCOMPAT_JOURNAL_DISKS;
        (array.generation, array.event_count) = (0x1020_3040_5060, 1 << 41);
        (array.data_bytes, array.journal_bytes) = (96 << 20, 17 << 20);
        array.journal_headers = 0x0102_0304_0506;
        array.table = table;
        label
    }

    #[test]
    fn every_field_of_the_label_of_version_1_is_read_for_ever() {
        let golden = include_bytes!("../tests/golden/label-v1-full.bin");
        assert_eq!(Label::decode(golden).unwrap(), full());
        assert_eq!(&*full().encode(), golden, "the encoding changed");
    }

    #[test]
    fn a_journal_disk_is_nothing_else() {
        let refused = |change: fn(&mut Label)| {
            let mut label = with_journal_disks();
            change(&mut label);
            assert!(matches!(
                Label::decode(&label.encode()),
                Err(LabelError::Nonsense(_))
            ));
        };
        refused(|label| label.array.table[6].slot = Some(1));
        refused(|label| label.array.table[6].state = MemberState::Spare);
        refused(|label| label.array.table[6].journal = false);
        refused(|label| label.array.incompat = INCOMPAT_JOURNAL);
        // A member without a data zone.
        refused(|label| label.member_uuid = Uuid::from_bytes([2; 16]));
    }

    #[test]
    fn an_absence_is_in_the_reserved_bytes_of_an_entry() {
        let mut label = sample();
        label.array.table[4].absence = Some(Absence {
            map: 0x1234_5678,
            from: Seq(99),
            last_generation: 11,
            returning: true,
        });
        label.array.table[4].held_out = true;
        assert_eq!(Label::decode(&label.encode()).unwrap(), label);
    }

    #[test]
    fn a_newer_label_is_told_from_a_damaged_one() {
        let mut bytes = sample().encode();
        bytes[8] = 2;
        let crc = sum(&bytes);
        bytes[4092..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Label::decode(&bytes), Err(LabelError::Version(2)));
    }

    #[test]
    fn every_flipped_byte_is_seen() {
        let good = sample().encode();
        for at in 0..good.len() {
            let mut bytes = good.to_vec();
            bytes[at] ^= 0x40;
            assert!(Label::decode(&bytes).is_err(), "byte {at}");
        }
    }

    #[test]
    fn unknown_incompat_bits_are_refused_and_unknown_ro_compat_bits_forbid_writing() {
        let mut label = sample();
        label.array.incompat |= 1 << 40;
        assert_eq!(
            Label::decode(&label.encode()),
            Err(LabelError::Incompat(1 << 40))
        );
        let mut label = sample();
        label.array.ro_compat = 1 << 3;
        assert!(!Label::decode(&label.encode()).unwrap().array.writable());
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..5000)) {
            let _ = Label::decode(&bytes);
        }

        /// A right checksum over wrong contents: the checks behind it must hold too.
        #[test]
        fn sealed_nonsense_never_panics(at in 8usize..4092, len in 1usize..64, value: u8) {
            let mut bytes = sample().encode().to_vec();
            let end = (at + len).min(4092);
            bytes[at..end].fill(value);
            let crc = sum(&bytes);
            bytes[4092..].copy_from_slice(&crc.to_le_bytes());
            let _ = Label::decode(&bytes);
        }
    }
}
