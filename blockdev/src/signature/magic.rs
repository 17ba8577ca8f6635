//! Signatures that are one magic number at one place from the beginning: a table.
//!
//! Places and values are those of util-linux' libblkid and of each format's own header.

use super::Kind::{self, Encryption, FileSystem, Raid, Storage, Swap, VolumeManager};
use crate::units::KIB;

/// One row: what it is if `bytes` lie at `offset`.
pub(crate) struct Magic {
    pub(crate) kind: Kind,
    pub(crate) what: &'static str,
    pub(crate) offset: u64,
    pub(crate) bytes: &'static [u8],
}

const fn row(kind: Kind, what: &'static str, offset: u64, bytes: &'static [u8]) -> Magic {
    Magic {
        kind,
        what,
        offset,
        bytes,
    }
}

/// Long enough to be no accident; shorter ones are in `recognise`.
pub(crate) const TABLE: &[Magic] = &[
    row(FileSystem, "xfs file system", 0, b"XFSB"),
    row(FileSystem, "exfat file system", 3, b"EXFAT   "),
    row(FileSystem, "ntfs file system", 3, b"NTFS    "),
    row(FileSystem, "vfat file system", 0x52, b"FAT32   "),
    row(FileSystem, "vfat file system", 0x36, b"FAT16   "),
    row(FileSystem, "vfat file system", 0x36, b"FAT12   "),
    row(FileSystem, "apfs container", 32, b"NXSB"),
    row(FileSystem, "squashfs file system", 0, b"hsqs"),
    row(FileSystem, "f2fs file system", KIB, b"\x10\x20\xf5\xf2"),
    row(FileSystem, "erofs file system", KIB, b"\xe2\xe1\xf5\xe0"),
    row(FileSystem, "hfs+ file system", KIB, b"H+\0\x04"),
    row(FileSystem, "ocfs2 file system", KIB, b"OCFSV2"),
    row(FileSystem, "ocfs2 file system", 2 * KIB, b"OCFSV2"),
    row(FileSystem, "ocfs2 file system", 4 * KIB, b"OCFSV2"),
    row(FileSystem, "ocfs2 file system", 8 * KIB, b"OCFSV2"),
    row(FileSystem, "jfs file system", 32 * KIB, b"JFS1"),
    row(FileSystem, "iso9660 file system", 32 * KIB + 1, b"CD001"),
    row(
        FileSystem,
        "reiserfs file system",
        64 * KIB + 52,
        b"ReIsErFs",
    ),
    row(
        FileSystem,
        "reiserfs file system",
        64 * KIB + 52,
        b"ReIsEr2Fs",
    ),
    row(
        FileSystem,
        "reiserfs file system",
        64 * KIB + 52,
        b"ReIsEr3Fs",
    ),
    row(
        FileSystem,
        "gfs2 file system",
        64 * KIB,
        b"\x01\x16\x19\x70\x00\x00\x00\x01",
    ),
    row(
        FileSystem,
        "bcachefs file system",
        4 * KIB + 24,
        b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef",
    ),
    row(Swap, "swap space", 4 * KIB - 10, b"SWAPSPACE2"),
    row(Swap, "swap space", 8 * KIB - 10, b"SWAPSPACE2"),
    row(Swap, "swap space", 16 * KIB - 10, b"SWAPSPACE2"),
    row(Swap, "swap space", 64 * KIB - 10, b"SWAPSPACE2"),
    row(Swap, "swap space (old format)", 4 * KIB - 10, b"SWAP-SPACE"),
    row(Swap, "hibernation image", 4 * KIB - 10, b"S1SUSPEND"),
    row(
        VolumeManager,
        "Stratis pool member",
        512 + 4,
        b"!Stra0tis\x86\xff\x02^\x41rh",
    ),
    row(Encryption, "dm-integrity device", 0, b"integrt\0"),
    row(Encryption, "dm-verity device", 0, b"verity\0\0"),
    row(Encryption, "BitLocker volume", 3, b"-FVE-FS-"),
    row(Storage, "VDO device", 0, b"dmvdo001"),
    row(
        Storage,
        "Ceph BlueStore device",
        0,
        b"bluestore block device",
    ),
    row(
        Storage,
        "bcache device",
        4 * KIB + 24,
        b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
    ),
    row(Raid, "Linux dm-raid member", 0, b"DmRd"),
];
