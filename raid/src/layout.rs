//! Where the zones of a member lie.
//!
//! ```text
//!  0        4 KiB          2 MiB   +64 KiB   4 MiB                                            size−1 MiB
//!  ├─zeros──┼─free for md──┼label A┼label B──┼journal┼checksums┼maps┼bad┼replica┼dirty┼─data─┼─┼label copy┤
//! ```
//!
//! The bytes before 2 MiB stay free for md's superblock, bitmap, bad-block log and PPL, so that an
//! array can be handed to md later. Every zone begins at a multiple of 1 MiB. Reserved zones hold a
//! [`ZoneHeader`] and zeros until their owners come.
//!
//! Does not know: members' states, what is in the zones.

use cairn_blockdev::units::{BLOCK, MIB, align_down, u64_of};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::geometry::Geometry;
use crate::integrity::place::zone_bytes;
use crate::space::map_bytes;

/// Label slot A.
pub const LABEL_A: u64 = 2 * MIB;
/// Label slot B.
pub const LABEL_B: u64 = 2 * MIB + 64 * 1024;
/// The label's copy lies this far before the end.
pub const LABEL_COPY_BEFORE_END: u64 = MIB;
/// First byte of the first zone.
pub const ZONES_START: u64 = 4 * MIB;
/// Smallest journal of a member.
pub const JOURNAL_MIN: u64 = 16 * MIB;
/// Largest journal of a member.
pub const JOURNAL_MAX: u64 = 1 << 30;
/// Extents hold at least this much data.
const EXTENT_BYTES_MIN: u64 = 64 * MIB;
/// Size of the bad-block list.
const BAD_BLOCKS: u64 = MIB;
/// Bytes of metadata that each replica may keep, in two slots.
const REPLICA_META: u64 = 2 * 4096;
/// Data behind one replica's metadata: a shard.
const SHARD_BYTES: u64 = 1 << 30;
/// Grain of the dirty maps.
const DIRTY_GRAIN: u64 = 64 * 1024;
/// Dirty maps kept at once, in two slots each.
const DIRTY_MAPS: u64 = 2 * 4;

/// Rows of an extent: a power of two that holds at least 64 MiB of data.
pub fn rows_per_extent(geometry: &Geometry) -> u64 {
    EXTENT_BYTES_MIN
        .div_ceil(geometry.row_bytes())
        .next_power_of_two()
}

/// What a zone is for. The numbers are in labels for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZoneKind {
    /// Journal ring.
    Journal,
    /// Checksum pages.
    Checksums,
    /// Extent and volume maps.
    Maps,
    /// Bad-block list.
    BadBlocks,
    /// Per-replica metadata.
    ReplicaMeta,
    /// Dirty maps of absent peers and members.
    DirtyMaps,
    /// The data.
    Data,
}

impl ZoneKind {
    /// All, in their order on the disk.
    pub const ALL: [Self; 7] = [
        Self::Journal,
        Self::Checksums,
        Self::Maps,
        Self::BadBlocks,
        Self::ReplicaMeta,
        Self::DirtyMaps,
        Self::Data,
    ];

    /// The number in the label.
    pub const fn code(self) -> u32 {
        match self {
            Self::Journal => 1,
            Self::Checksums => 2,
            Self::Maps => 3,
            Self::BadBlocks => 4,
            Self::ReplicaMeta => 5,
            Self::DirtyMaps => 6,
            Self::Data => 7,
        }
    }
}

/// A range of a member. Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Zone {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// The zones of one member, in the order of [`ZoneKind::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Layout {
    /// The zones.
    pub zones: [Zone; 7],
}

impl Layout {
    /// The zone of a kind.
    pub fn zone(&self, kind: ZoneKind) -> Zone {
        ZoneKind::ALL
            .iter()
            .zip(self.zones)
            .find(|(k, _)| **k == kind)
            .map_or(Zone::default(), |(_, zone)| zone)
    }

    /// First byte of the data zone.
    pub fn data_offset(&self) -> u64 {
        self.zone(ZoneKind::Data).offset
    }
}

/// The zones of a journal disk of `size`: all that it has is the ring's, up to `most` and 1 GiB. The
/// others are empty and lie behind it. `None`: too small.
pub fn journal_disk_layout(size: u64, most: Option<u64>) -> Option<Layout> {
    let room = align_down(label_copy(size).checked_sub(ZONES_START)?, MIB);
    let most = most
        .map_or(JOURNAL_MAX, mib_up)
        .clamp(JOURNAL_MIN, JOURNAL_MAX);
    let len = room.min(most);
    let ring = Zone {
        offset: ZONES_START,
        len,
    };
    let behind = Zone {
        offset: ZONES_START + len,
        len: 0,
    };
    let zones = ZoneKind::ALL.map(|kind| match kind {
        ZoneKind::Journal => ring,
        _ => behind,
    });
    (len >= JOURNAL_MIN).then_some(Layout { zones })
}

/// Smallest disk that can carry a ring of its own.
pub const JOURNAL_DISK_MIN: u64 = ZONES_START + JOURNAL_MIN + LABEL_COPY_BEFORE_END;

/// What all members of an array share, and what sizes the zones of each.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Level, members, chunk.
    pub geometry: Geometry,
    /// Journal of a member; `None`: 1 % of the disk within bounds.
    pub journal_bytes: Option<u64>,
}

fn mib_up(bytes: u64) -> u64 {
    bytes.next_multiple_of(MIB)
}

impl Shape {
    fn journal(&self, size: u64) -> u64 {
        mib_up(
            self.journal_bytes
                .unwrap_or(size / 100)
                .clamp(JOURNAL_MIN, JOURNAL_MAX),
        )
    }

    /// Lengths of the zones before the data zone, for a data zone of `data_bytes`.
    fn reserved(&self, size: u64, data_bytes: u64) -> [u64; 6] {
        let array_bytes = data_bytes.saturating_mul(u64_of(self.geometry.data_chunks()));
        [
            self.journal(size),
            mib_up(zone_bytes(&self.geometry, data_bytes)),
            mib_up(map_bytes(&self.geometry, data_bytes) + BLOCK),
            BAD_BLOCKS,
            mib_up(array_bytes.div_ceil(SHARD_BYTES) * REPLICA_META + BLOCK),
            mib_up(array_bytes.div_ceil(DIRTY_GRAIN * 8) * DIRTY_MAPS + BLOCK),
        ]
    }

    /// Bytes of the zone of dirty maps, the same on every member.
    pub fn dirty_maps_bytes(&self, data_bytes: u64) -> u64 {
        let [.., dirty_maps] = self.reserved(0, data_bytes);
        dirty_maps
    }

    fn needs(&self, size: u64, data_bytes: u64) -> u64 {
        let reserved: u64 = self.reserved(size, data_bytes).iter().sum();
        ZONES_START + reserved + data_bytes + LABEL_COPY_BEFORE_END + MIB
    }

    /// Bytes of one member in an extent.
    fn extent_member_bytes(&self) -> u64 {
        rows_per_extent(&self.geometry) * self.geometry.chunk_bytes()
    }

    /// The largest data zone that a disk of `size` can carry: whole extents. `None` if not one.
    pub fn data_bytes_for(&self, size: u64) -> Option<u64> {
        let unit = self.extent_member_bytes();
        let (mut low, mut high) = (0u64, size / unit + 1);
        // The need grows with the data: bisect for the largest that fits.
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            if self.needs(size, middle * unit) <= size {
                low = middle;
            } else {
                high = middle;
            }
        }
        (low > 0).then_some(low * unit)
    }

    /// Smallest disk that carries `data_bytes`, to the byte. The journal grows with the disk.
    pub fn disk_bytes_min(&self, data_bytes: u64) -> u64 {
        let data_bytes = data_bytes.max(self.extent_member_bytes());
        // A disk has no less than with the smallest journal, and needs no more than with the largest.
        let (mut low, mut high) = (self.needs(0, data_bytes), self.needs(u64::MAX, data_bytes));
        while low < high {
            let middle = low + (high - low) / 2;
            if self.needs(middle, data_bytes) <= middle {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low
    }

    /// The zones of a disk of `size` in an array with `data_bytes` a member. `None`: too small.
    pub fn layout(&self, size: u64, data_bytes: u64) -> Option<Layout> {
        if self.needs(size, data_bytes) > size {
            return None;
        }
        let mut at = ZONES_START;
        let mut zones = [Zone::default(); 7];
        let lengths = self
            .reserved(size, data_bytes)
            .into_iter()
            .chain([data_bytes]);
        for (zone, len) in zones.iter_mut().zip(lengths) {
            *zone = Zone { offset: at, len };
            at = (at + len).next_multiple_of(MIB);
        }
        assert!(at <= label_copy(size), "zones run into the label's copy");
        Some(Layout { zones })
    }
}

/// Where the label's copy lies on a disk of `size`.
pub fn label_copy(size: u64) -> u64 {
    align_down(size.saturating_sub(LABEL_COPY_BEFORE_END), BLOCK)
}

/// Opens every zone but the data: 64 bytes, the rest of the block is zero.
///
/// ```text
///  0      8        12     16          32           48       56     60    64
///  ├magic─┼version─┼kind──┼array uuid─┼member uuid─┼length──┼resvd─┼crc──┤
/// ```
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Debug, Clone, Copy)]
#[repr(C)]
pub struct ZoneHeader {
    /// `CAIRNZON`.
    pub magic: [u8; 8],
    /// 1.
    pub version: U32,
    /// [`ZoneKind::code`].
    pub kind: U32,
    /// The array.
    pub array_uuid: [u8; 16],
    /// The member.
    pub member_uuid: [u8; 16],
    /// Bytes of the zone, this header included.
    pub length: U64,
    /// Zero.
    pub reserved: U32,
    /// crc32c of all bytes before it.
    pub crc32c: U32,
}

const _: () = assert!(size_of::<ZoneHeader>() == 64);

/// Magic of [`ZoneHeader`].
pub const ZONE_MAGIC: [u8; 8] = *b"CAIRNZON";
/// Version of [`ZoneHeader`].
pub const ZONE_VERSION: u32 = 1;

impl ZoneHeader {
    /// A sealed header.
    pub fn new(kind: ZoneKind, array: [u8; 16], member: [u8; 16], length: u64) -> Self {
        let mut header = Self {
            magic: ZONE_MAGIC,
            version: ZONE_VERSION.into(),
            kind: kind.code().into(),
            array_uuid: array,
            member_uuid: member,
            length: length.into(),
            reserved: 0.into(),
            crc32c: 0.into(),
        };
        header.crc32c = header.sum().into();
        header
    }

    fn sum(&self) -> u32 {
        let bytes = self.as_bytes();
        cairn_blockdev::crc::crc32c(bytes.split_at(bytes.len() - size_of::<U32>()).0)
    }

    /// Whether magic, version and sum are right.
    pub fn is_valid(&self) -> bool {
        self.magic == ZONE_MAGIC
            && self.version.get() == ZONE_VERSION
            && self.crc32c.get() == self.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::Level;

    fn shape(level: Level, n: usize, chunk: u32) -> Shape {
        Shape {
            geometry: Geometry::new(level, n, chunk).unwrap(),
            journal_bytes: None,
        }
    }

    #[test]
    fn zones_are_aligned_disjoint_and_inside() {
        for level in [Level::Raid1, Level::Raid5, Level::Raid6] {
            for n in [4, 8, 24] {
                for chunk in [4096, 65536, 1 << 20] {
                    for size in [256 * MIB, 10 << 30, 4 << 40] {
                        let shape = shape(level, n, chunk);
                        let Some(data) = shape.data_bytes_for(size) else {
                            continue;
                        };
                        let layout = shape.layout(size, data).unwrap();
                        let mut at = ZONES_START;
                        for zone in layout.zones {
                            assert!(zone.offset >= at && zone.offset.is_multiple_of(MIB));
                            at = zone.offset + zone.len;
                        }
                        assert!(at <= label_copy(size));
                        assert!(
                            shape
                                .layout(size, data + shape.extent_member_bytes())
                                .is_none()
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_smallest_disk_of_an_array_is_known_to_the_byte() {
        for (members, journal_bytes) in [(4, None), (8, None), (8, Some(200 * MIB))] {
            for size in [256 * MIB, 10 << 30, 900 << 30, 4 << 40] {
                let shape = Shape {
                    journal_bytes,
                    ..shape(Level::Raid6, members, 65536)
                };
                let data = shape.data_bytes_for(size).unwrap_or(64 * MIB);
                let need = shape.disk_bytes_min(data);
                assert!(shape.layout(need, data).is_some());
                assert!(shape.layout(need - 1, data).is_none());
            }
        }
    }

    #[test]
    fn a_journal_disk_is_all_ring_within_bounds() {
        assert_eq!(journal_disk_layout(JOURNAL_DISK_MIN - 1, None), None);
        assert_eq!(journal_disk_layout(0, None), None);
        for (size, most, len) in [
            (JOURNAL_DISK_MIN, None, JOURNAL_MIN),
            (64 * MIB, None, 59 * MIB),
            (4 << 30, None, JOURNAL_MAX),
            (4 << 30, Some(100 * MIB + 1), 101 * MIB),
            (64 * MIB, Some(MIB), JOURNAL_MIN),
        ] {
            let layout = journal_disk_layout(size, most).unwrap();
            let ring = layout.zone(ZoneKind::Journal);
            assert_eq!((ring.offset, ring.len), (ZONES_START, len));
            assert!(ring.offset + ring.len <= label_copy(size));
            let others = layout.zones.iter().filter(|zone| **zone != ring);
            assert!(others.clone().count() == 6 && others.into_iter().all(|zone| zone.len == 0));
        }
    }

    #[test]
    fn checksums_cost_what_the_readme_says() {
        let shape = shape(Level::Raid6, 10, 65536);
        let size = 4 << 40;
        let data = shape.data_bytes_for(size).unwrap();
        let zone = shape.layout(size, data).unwrap().zone(ZoneKind::Checksums);
        assert!(
            zone.len * 1000 / size < 7,
            "checksum zone is {} of {size}",
            zone.len
        );
    }

    #[test]
    fn the_zone_header_of_version_1_is_read_for_ever() {
        let golden = include_bytes!("../tests/golden/zone-v1.bin");
        assert!(ZoneHeader::read_from_bytes(golden).unwrap().is_valid());
        let header = ZoneHeader::new(ZoneKind::Maps, [1; 16], [2; 16], MIB);
        assert_eq!(
            header.as_bytes(),
            golden,
            "the encoding of version 1 changed"
        );
    }

    #[test]
    fn a_zone_header_sees_a_flipped_bit() {
        let header = ZoneHeader::new(ZoneKind::Maps, [1; 16], [2; 16], MIB);
        assert!(header.is_valid());
        let mut bytes = [0u8; 64];
        bytes.copy_from_slice(header.as_bytes());
        for at in 0..64 {
            bytes[at] ^= 1;
            assert!(
                !ZoneHeader::read_from_bytes(&bytes).unwrap().is_valid(),
                "byte {at}"
            );
            bytes[at] ^= 1;
        }
    }
}
