//! The recognisers: functions of the bytes that were read.

use super::magic::TABLE;
use super::window::{CAIRN_SLOTS, Windows, cairn_copy};
use super::{Kind, Place, Signature};
use crate::units::{GIB, KIB, MIB, align_down};

/// First bytes of every Cairn label.
const CAIRN_MAGIC: &[u8] = b"CAIRNLBL";
const MD_MAGIC: u32 = 0xa92b_4efc;
const EXT_MAGIC: u16 = 0xef53;
const GPT_MAGIC: &[u8] = b"EFI PART";
/// DRBD 8.0 to 8.3, 8.4 (unclean), and 9.
const DRBD_MAGICS: [u32; 3] = [0x8374_026b, 0x8374_026c, 0x8374_026d];
const ZFS_MAGIC: u64 = 0x00ba_b10c;
/// A ZFS label is 256 KiB, its second half the ring of uberblocks, one at least every KiB.
const ZFS_LABEL_BYTES: u64 = 256 * KIB;
const ZFS_RING_BYTES: u64 = 128 * KIB;
const ZFS_UBERBLOCK_BYTES: u64 = KIB;
/// Where LUKS2 may keep its second header: at the size of the first.
const LUKS2_SECOND: [u64; 9] = [
    16 * KIB,
    32 * KIB,
    64 * KIB,
    128 * KIB,
    256 * KIB,
    512 * KIB,
    MIB,
    2 * MIB,
    4 * MIB,
];

/// Everything that the bytes are known to be, in order of offset.
pub fn recognise(view: &Windows<'_>) -> Vec<Signature> {
    let mut found = Vec::new();
    found.extend(from_table(view));
    found.extend(ext(view));
    found.extend(btrfs(view));
    found.extend(zfs(view));
    found.extend(lvm(view));
    found.extend(md(view));
    found.extend(firmware_raid(view));
    found.extend(luks(view));
    found.extend(drbd(view));
    found.extend(gpt(view));
    found.extend(mbr(view));
    found.extend(cairn(view));
    found.sort_by_key(|signature| signature.offset);
    found
}

fn at(offset: u64, magic: &[u8]) -> Place {
    Place {
        offset,
        len: magic.len(),
    }
}

fn from_table(view: &Windows<'_>) -> Vec<Signature> {
    TABLE
        .iter()
        .filter(|row| view.has(row.offset, row.bytes))
        .map(|row| Signature::new(row.kind, row.what, vec![at(row.offset, row.bytes)]))
        .collect()
}

/// ext2, ext3, ext4 and their external journals: two bytes of magic, so its neighbours must make
/// sense as well.
fn ext(view: &Windows<'_>) -> Option<Signature> {
    const SUPERBLOCK: u64 = KIB;
    let field = |offset| view.u32_le(SUPERBLOCK + offset);
    let sane = view.u16_le(SUPERBLOCK + 56)? == EXT_MAGIC
        && field(24)? <= 6 // block size: 1 KiB << 0..=6
        && field(76)? <= 1 // revision
        && field(32)? > 0; // blocks per group
    if !sane {
        return None;
    }
    let (compat, incompat, ro_compat) = (field(92)?, field(96)?, field(100)?);
    // Extents, 64 bit, flexible groups, and what else only ext4 has.
    let is_4 = incompat & !0x1f != 0 || ro_compat & !0x7 != 0;
    let what = match (incompat & 0x8 != 0, is_4, compat & 0x4 != 0) {
        (true, _, _) => "ext external journal",
        (false, true, _) => "ext4 file system",
        (false, false, true) => "ext3 file system",
        (false, false, false) => "ext2 file system",
    };
    let place = Place {
        offset: SUPERBLOCK + 56,
        len: 2,
    };
    Some(Signature::new(Kind::FileSystem, what, vec![place]))
}

/// btrfs with its copies, which a repair would otherwise bring it back from.
fn btrfs(view: &Windows<'_>) -> Option<Signature> {
    const MAGIC: &[u8] = b"_BHRfS_M";
    let places: Vec<Place> = [64 * KIB, 64 * MIB, 256 * GIB]
        .into_iter()
        .map(|superblock| superblock + 64)
        .filter(|&offset| view.has(offset, MAGIC))
        .map(|offset| at(offset, MAGIC))
        .collect();
    let first = places.first()?;
    let what = if first.offset < MIB {
        "btrfs file system"
    } else {
        "btrfs copy of a superblock"
    };
    Some(Signature::new(Kind::FileSystem, what, places))
}

/// A ZFS pool member: the uberblocks of its four labels, two at each end.
fn zfs(view: &Windows<'_>) -> Option<Signature> {
    let whole = align_down(view.size(), ZFS_LABEL_BYTES);
    let labels = [
        Some(0),
        Some(ZFS_LABEL_BYTES),
        whole.checked_sub(2 * ZFS_LABEL_BYTES),
        whole.checked_sub(ZFS_LABEL_BYTES),
    ];
    let mut places: Vec<Place> = Vec::new();
    for label in labels.into_iter().flatten() {
        let ring = label + ZFS_RING_BYTES;
        for index in 0..ZFS_RING_BYTES / ZFS_UBERBLOCK_BYTES {
            let offset = ring + index * ZFS_UBERBLOCK_BYTES;
            let hit = view
                .u64_le(offset)
                .is_some_and(|magic| magic == ZFS_MAGIC || magic.swap_bytes() == ZFS_MAGIC);
            // On a small device the labels at the two ends are the same bytes.
            if hit && places.iter().all(|place| place.offset != offset) {
                places.push(Place { offset, len: 8 });
            }
        }
    }
    (!places.is_empty()).then(|| Signature::new(Kind::FileSystem, "ZFS pool member", places))
}

/// An LVM2 physical volume: its label is in one of the first four sectors.
fn lvm(view: &Windows<'_>) -> Option<Signature> {
    const LABEL: &[u8] = b"LABELONE";
    let places: Vec<Place> = (0..4)
        .map(|sector| sector * 512)
        .filter(|&offset| view.has(offset, LABEL) && view.has(offset + 24, b"LVM2 001"))
        .map(|offset| at(offset, LABEL))
        .collect();
    (!places.is_empty())
        .then(|| Signature::new(Kind::VolumeManager, "LVM2 physical volume", places))
}

/// Linux md superblocks of every version; a disk may bear an old one beside the valid one.
fn md(view: &Windows<'_>) -> Vec<Signature> {
    let sectors = view.size() / 512;
    let places = [
        ("1.1", Some(0)),
        ("1.2", Some(4 * KIB)),
        ("1.0", sectors.checked_sub(16).map(|end| (end & !7) * 512)),
        (
            "0.90",
            align_down(view.size(), 64 * KIB).checked_sub(64 * KIB),
        ),
    ];
    let mut found = Vec::new();
    for (version, offset) in places {
        let Some(offset) = offset else { continue };
        let (Some(magic), Some(major)) = (view.u32_le(offset), view.u32_le(offset + 4)) else {
            continue;
        };
        let place = Place { offset, len: 4 };
        let hit = if version == "0.90" {
            // Written in the byte order of the machine that made it.
            major == 0 && [magic, magic.swap_bytes()].contains(&MD_MAGIC)
        } else {
            major == 1 && magic == MD_MAGIC
        };
        if hit {
            let name = view.text(offset + 32, 32).filter(|_| version != "0.90");
            let name = name.map_or_else(String::new, |name| format!(" of {name:?}"));
            let what = format!("Linux md RAID member{name} (superblock {version})");
            found.push(Signature::new(Kind::Raid, what, vec![place]));
        }
    }
    found
}

/// RAID that a mainboard's firmware does: Intel's and SNIA's formats, at the end.
fn firmware_raid(view: &Windows<'_>) -> Option<Signature> {
    const INTEL: &[u8] = b"Intel Raid ISM Cfg Sig. ";
    const DDF: [u8; 4] = [0xde, 0x11, 0xde, 0x11];
    let anchor = view.before_end(2 * 512)?;
    if view.has(anchor, INTEL) {
        let places = vec![at(anchor, INTEL)];
        return Some(Signature::new(
            Kind::Raid,
            "Intel firmware RAID member",
            places,
        ));
    }
    let last = view.before_end(512)?;
    let is_ddf = view.has(last, &DDF);
    is_ddf.then(|| Signature::new(Kind::Raid, "DDF firmware RAID member", vec![at(last, &DDF)]))
}

fn luks(view: &Windows<'_>) -> Option<Signature> {
    const FIRST: &[u8] = b"LUKS\xba\xbe";
    const SECOND: &[u8] = b"SKUL\xba\xbe";
    let mut places = Vec::new();
    let mut what = "LUKS2 container (second header)".to_owned();
    if view.has(0, FIRST) {
        let version = view.array(6).map_or(0, u16::from_be_bytes);
        what = format!("LUKS{version} container");
        places.push(at(0, FIRST));
    }
    let second = LUKS2_SECOND.into_iter();
    places.extend(
        second
            .filter(|&offset| view.has(offset, SECOND))
            .map(|offset| at(offset, SECOND)),
    );
    (!places.is_empty()).then(|| Signature::new(Kind::Encryption, what, places))
}

/// DRBD with internal meta data, whose superblock is the last 4 KiB.
fn drbd(view: &Windows<'_>) -> Option<Signature> {
    let offset = align_down(view.size(), 4 * KIB).checked_sub(4 * KIB)? + 60;
    let magic = view.u32_be(offset)?;
    DRBD_MAGICS.contains(&magic).then(|| {
        let place = Place { offset, len: 4 };
        Signature::new(Kind::Storage, "DRBD device", vec![place])
    })
}

/// The primary GPT header in the second sector, the backup in the last; of either sector size.
fn gpt(view: &Windows<'_>) -> Vec<Signature> {
    let primary = [Some(512), Some(4096)];
    let backup = [view.before_end(512), view.before_end(4096)];
    let found = |places: [Option<u64>; 2], what: &str| {
        let places: Vec<Place> = places
            .into_iter()
            .flatten()
            .filter(|&offset| view.has(offset, GPT_MAGIC))
            .map(|offset| at(offset, GPT_MAGIC))
            .collect();
        (!places.is_empty()).then(|| Signature::new(Kind::PartitionTable, what, places))
    };
    let primary = found(primary, "GPT partition table");
    let backup = found(backup, "GPT partition table (backup)");
    primary.into_iter().chain(backup).collect()
}

/// An MBR partition table; boot sectors of file systems end in the same two bytes.
fn mbr(view: &Windows<'_>) -> Option<Signature> {
    const PLACE: Place = Place {
        offset: 510,
        len: 2,
    };
    if !view.has(PLACE.offset, b"\x55\xaa") {
        return None;
    }
    let is_boot_sector = TABLE.iter().any(|row| {
        let with_code = row.kind == Kind::FileSystem || row.kind == Kind::Encryption;
        with_code && row.offset < 0x60 && view.has(row.offset, row.bytes)
    });
    if is_boot_sector {
        return None;
    }
    let mut used = 0;
    let mut protective = false;
    for entry in (0..4).map(|index| 446 + 16 * index) {
        let (active, kind) = (view.u8(entry)?, view.u8(entry + 4)?);
        if active & 0x7f != 0 {
            // No table: code or data that happens to end so.
            return None;
        }
        let sectors = view.u32_le(entry + 12)?;
        used += u32::from(kind != 0 && sectors != 0);
        protective |= kind == 0xee;
    }
    let what = match (protective, used) {
        (true, _) => "protective MBR of a GPT",
        (false, 0) => "MBR partition table (empty)",
        (false, _) => "MBR partition table",
    };
    Some(Signature::new(Kind::PartitionTable, what, vec![PLACE]))
}

/// Cairn's own labels: two slots and a copy before the end.
fn cairn(view: &Windows<'_>) -> Option<Signature> {
    let places: Vec<Place> = CAIRN_SLOTS
        .into_iter()
        .chain(cairn_copy(view.size()))
        .filter(|&offset| view.has(offset, CAIRN_MAGIC))
        .map(|offset| at(offset, CAIRN_MAGIC))
        .collect();
    (!places.is_empty()).then(|| Signature::new(Kind::Cairn, "Cairn array member", places))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::usize_of;

    const SIZE: u64 = 80 * MIB;

    /// What is recognised on a device of `SIZE` zeros with these bytes in it.
    fn seen(patches: &[(u64, &[u8])]) -> Vec<Signature> {
        let mut device = vec![0_u8; usize_of(SIZE)];
        for (offset, bytes) in patches {
            let offset = usize_of(*offset);
            device[offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        let parts = super::super::windows_of(SIZE);
        let parts = parts.iter().map(|w| {
            let (from, len) = (usize_of(w.offset), usize_of(w.len));
            (w.offset, &device[from..from + len])
        });
        recognise(&Windows::new(SIZE, parts))
    }

    fn only(patches: &[(u64, &[u8])]) -> Signature {
        let mut found = seen(patches);
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    #[test]
    fn zeros_are_nothing() {
        assert_eq!(seen(&[]), []);
    }

    #[test]
    fn every_row_of_the_table_is_read_and_recognised_as_itself() {
        for row in TABLE {
            let found = seen(&[(row.offset, row.bytes)]);
            let hit = found
                .iter()
                .any(|s| s.kind == row.kind && s.places.contains(&at(row.offset, row.bytes)));
            assert!(hit, "{}: {found:?}", row.what);
        }
    }

    #[test]
    fn ext_is_told_by_its_features_and_two_bytes_alone_are_nothing() {
        let sane: [(u64, &[u8]); 2] = [(1024 + 56, b"\x53\xef"), (1024 + 32, b"\0\x20\0\0")];
        assert_eq!(only(&sane).what, "ext2 file system");
        let with = |offset: u64, byte: &'static [u8]| {
            only(&[sane[0], sane[1], (1024 + offset, byte)]).what
        };
        assert_eq!(with(92, b"\x04"), "ext3 file system");
        assert_eq!(with(96, b"\x40"), "ext4 file system");
        assert_eq!(with(96, b"\x08"), "ext external journal");
        assert_eq!(seen(&sane[..1]), []);
    }

    #[test]
    fn md_is_recognised_in_all_four_places() {
        let one = b"\xfc\x4e\x2b\xa9\x01\0\0\0";
        assert!(only(&[(0, one)]).what.contains("1.1"));
        let named = only(&[(4096, one), (4096 + 32, b"host:data")]);
        assert_eq!(
            named.what,
            "Linux md RAID member of \"host:data\" (superblock 1.2)"
        );
        assert!(only(&[(SIZE - 8192, one)]).what.contains("1.0"));
        let old = b"\xfc\x4e\x2b\xa9\0\0\0\0";
        assert!(only(&[(SIZE - 65536, old)]).what.contains("0.90"));
        assert_eq!(seen(&[(4096, old)]), []);
    }

    #[test]
    fn both_gpts_are_found_beside_the_protective_mbr() {
        let entry = b"\0\0\x02\0\xee\xff\xff\xff\x01\0\0\0\xff\xff\xff\xff";
        let found = seen(&[
            (446, entry),
            (510, b"\x55\xaa"),
            (512, GPT_MAGIC),
            (SIZE - 512, GPT_MAGIC),
        ]);
        let what: Vec<_> = found.iter().map(|s| s.what.as_str()).collect();
        assert_eq!(
            what,
            [
                "protective MBR of a GPT",
                "GPT partition table",
                "GPT partition table (backup)"
            ]
        );
        assert_eq!(only(&[(SIZE - 4096, GPT_MAGIC)]).offset, SIZE - 4096);
    }

    #[test]
    fn a_boot_sector_of_a_file_system_is_no_partition_table() {
        let found = only(&[(3, b"NTFS    "), (510, b"\x55\xaa")]);
        assert_eq!(found.what, "ntfs file system");
        assert_eq!(seen(&[(446, b"\x41"), (510, b"\x55\xaa")]), []);
        let found = only(&[(446 + 4, b"\x83"), (446 + 12, b"\x01"), (510, b"\x55\xaa")]);
        assert_eq!(found.what, "MBR partition table");
    }

    #[test]
    fn lvm_needs_its_type_beside_its_label() {
        for sector in 0..4 {
            let at = sector * 512;
            let found = only(&[(at, b"LABELONE"), (at + 24, b"LVM2 001")]);
            assert_eq!((found.kind, found.offset), (Kind::VolumeManager, at));
        }
        assert_eq!(seen(&[(512, b"LABELONE")]), []);
    }

    #[test]
    fn luks_headers_are_one_signature() {
        let found = only(&[(0, b"LUKS\xba\xbe\0\x02"), (16384, b"SKUL\xba\xbe")]);
        assert_eq!(
            (found.what.as_str(), found.places.len()),
            ("LUKS2 container", 2)
        );
        assert_eq!(only(&[(0, b"LUKS\xba\xbe\0\x01")]).what, "LUKS1 container");
        assert_eq!(only(&[(4 * MIB, b"SKUL\xba\xbe")]).kind, Kind::Encryption);
    }

    #[test]
    fn zfs_is_found_by_uberblocks_at_either_end_and_in_either_byte_order() {
        let (little, big) = (ZFS_MAGIC.to_le_bytes(), ZFS_MAGIC.to_be_bytes());
        assert_eq!(only(&[(128 * KIB, &little)]).what, "ZFS pool member");
        let found = only(&[(129 * KIB, &big), (SIZE - 100 * KIB, &little)]);
        assert_eq!(found.places.len(), 2);
    }

    #[test]
    fn what_lies_at_the_end_is_found() {
        assert_eq!(
            only(&[(SIZE - 4096 + 60, b"\x83\x74\x02\x6b")]).what,
            "DRBD device"
        );
        assert_eq!(only(&[(SIZE - 512, b"\xde\x11\xde\x11")]).kind, Kind::Raid);
        let intel = only(&[(SIZE - 1024, b"Intel Raid ISM Cfg Sig. ")]);
        assert_eq!(intel.kind, Kind::Raid);
    }

    #[test]
    fn any_one_of_three_cairn_labels_is_enough() {
        for offset in [2 * MIB, 2 * MIB + 64 * KIB, SIZE - MIB] {
            let found = only(&[(offset, CAIRN_MAGIC)]);
            assert_eq!((found.kind, found.offset), (Kind::Cairn, offset));
        }
    }

    #[test]
    fn btrfs_and_its_copy_are_one_signature() {
        let magic = b"_BHRfS_M";
        let found = only(&[(64 * KIB + 64, magic), (64 * MIB + 64, magic)]);
        assert_eq!(found.places.len(), 2);
        assert_eq!(found.what, "btrfs file system");
    }
}
