//! Whether two paths lead to the same disk.
//!
//! Follows links, loop devices to what they stand on, and partitions to their disk, down to a file
//! or a whole device and a range of it. Two disks that share a world-wide name (two paths of a
//! multipath) are one. What still escapes (a disk seen through another host's device mapper) is
//! for a nonce written through one path and looked for through the other.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::error::OpenError;
use super::sys;
use super::sysfs::{BlockDir, DeviceNumber, Sysfs};

/// Loops over files over loops: deeper than anybody builds.
const DEPTH_MAX: u32 = 8;
/// World-wide name formats that are unique by their standard; others repeat on cheap hardware.
const UNIQUE_PREFIXES: [&str; 4] = ["naa.", "eui.", "nvme.", "uuid."];

/// What lies at the bottom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Base {
    File { device: u64, inode: u64 },
    Device(DeviceNumber),
}

/// Which bytes of which thing a path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskId {
    base: Base,
    /// The whole disk's own identity, where the hardware has one.
    hardware: Option<String>,
    start: u64,
    len: u64,
}

/// Finds out what `path` leads to.
pub fn identity(path: impl AsRef<Path>) -> Result<DiskId, OpenError> {
    let path = path.as_ref();
    let meta = std::fs::metadata(path).map_err(|e| OpenError::from_io(path, "stat", e))?;
    if meta.is_file() {
        return Ok(of_file(&meta));
    }
    if !meta.file_type().is_block_device() {
        return Err(OpenError::NotADisk {
            path: path.to_owned(),
            what: "neither of the two",
        });
    }
    of_device(&Sysfs::system(), DeviceNumber::of(meta.rdev()), DEPTH_MAX)
        .map_err(|e| OpenError::from_io(path, "identity", e))
}

/// Whether the two share bytes: the same disk by two paths, or a disk and its own partition.
pub fn same_disk(a: &DiskId, b: &DiskId) -> bool {
    let same_hardware = a.hardware.is_some() && a.hardware == b.hardware;
    let overlap =
        a.start < b.start.saturating_add(b.len) && b.start < a.start.saturating_add(a.len);
    (a.base == b.base || same_hardware) && overlap
}

fn of_file(meta: &std::fs::Metadata) -> DiskId {
    DiskId {
        base: Base::File {
            device: meta.dev(),
            inode: meta.ino(),
        },
        hardware: None,
        start: 0,
        len: meta.len(),
    }
}

fn of_device(sys: &Sysfs, number: DeviceNumber, depth: u32) -> io::Result<DiskId> {
    let dir = sys
        .block(number)
        .ok_or_else(|| io::Error::other(format!("device {number} isn't in /sys")))?;
    let len = dir.size_bytes().unwrap_or(u64::MAX);
    if dir.is_partition() {
        let start = dir.number("start").unwrap_or(0).saturating_mul(512);
        let whole = dir.whole().device_number().unwrap_or(number);
        return Ok(inside(
            of_whole(sys, whole, &dir.whole(), depth)?,
            start,
            len,
        ));
    }
    of_whole(sys, number, &dir, depth)
}

fn of_whole(sys: &Sysfs, number: DeviceNumber, dir: &BlockDir, depth: u32) -> io::Result<DiskId> {
    let len = dir.size_bytes().unwrap_or(u64::MAX);
    if let Some(backing) = dir.text("loop/backing_file") {
        if depth == 0 {
            return Err(io::Error::other("loop devices are nested too deeply"));
        }
        if let Some((id, offset)) = behind_loop(sys, dir, &backing, depth - 1)? {
            return Ok(inside(id, offset, len));
        }
    }
    Ok(DiskId {
        base: Base::Device(number),
        hardware: hardware(dir),
        start: 0,
        len,
    })
}

/// What a loop stands on, and where in it: by the driver if it may be asked, by name otherwise.
fn behind_loop(
    sys: &Sysfs,
    dir: &BlockDir,
    backing: &str,
    depth: u32,
) -> io::Result<Option<(DiskId, u64)>> {
    let asked =
        File::open(Path::new("/dev").join(dir.name())).and_then(|device| sys::loop_status(&device));
    if let Ok(status) = asked {
        let id = if status.block_device != 0 {
            of_device(sys, DeviceNumber::of(status.block_device), depth)?
        } else {
            DiskId {
                base: Base::File {
                    device: status.device,
                    inode: status.inode,
                },
                hardware: None,
                start: 0,
                len: u64::MAX,
            }
        };
        return Ok(Some((id, status.offset)));
    }
    let Ok(meta) = std::fs::metadata(backing) else {
        // Deleted, or in another mount name space: the loop stands for itself.
        return Ok(None);
    };
    let offset = dir.number("loop/offset").unwrap_or(0);
    if meta.is_file() {
        return Ok(Some((of_file(&meta), offset)));
    }
    let id = of_device(sys, DeviceNumber::of(meta.rdev()), depth)?;
    Ok(Some((id, offset)))
}

fn inside(outer: DiskId, start: u64, len: u64) -> DiskId {
    DiskId {
        start: outer.start.saturating_add(start),
        len,
        ..outer
    }
}

fn hardware(dir: &BlockDir) -> Option<String> {
    let size = dir.size_bytes()?;
    let wwid = dir.wwid();
    if let Some(wwid) = wwid
        .as_ref()
        .filter(|w| UNIQUE_PREFIXES.iter().any(|prefix| w.starts_with(prefix)))
    {
        return Some(format!("{wwid}/{size}"));
    }
    let (serial, model) = (dir.serial()?, dir.model().or(wwid)?);
    Some(format!("{model}/{serial}/{size}"))
}

#[cfg(test)]
mod tests {
    use super::super::sysfs::testing::FakeSys;
    use super::*;

    fn id(sys: &Sysfs, number: &str) -> DiskId {
        of_device(sys, DeviceNumber::parse(number).unwrap(), DEPTH_MAX).unwrap()
    }

    #[test]
    fn a_disk_shares_bytes_with_its_partitions_but_they_dont_with_each_other() {
        let fake = FakeSys::new("identity-parts");
        fake.device("sda", "8:0", &[("size", "4096")]);
        fake.device("sda/sda1", "8:1", &[("size", "1024"), ("start", "1024")]);
        fake.device("sda/sda2", "8:2", &[("size", "1024"), ("start", "2048")]);
        let sys = fake.sys();
        let (disk, one, two) = (id(&sys, "8:0"), id(&sys, "8:1"), id(&sys, "8:2"));
        assert!(same_disk(&disk, &one) && same_disk(&two, &disk));
        assert!(!same_disk(&one, &two));
    }

    #[test]
    fn two_paths_of_a_multipath_are_one_disk_and_nameless_disks_are_not() {
        let fake = FakeSys::new("identity-wwid");
        let attributes = [("size", "4096"), ("device/wwid", "naa.5000c500a1b2c3d4")];
        fake.device("sda", "8:0", &attributes);
        fake.device("sdb", "8:16", &attributes);
        fake.device(
            "sdc",
            "8:32",
            &[("size", "4096"), ("device/wwid", "t10.USB")],
        );
        fake.device(
            "sdd",
            "8:48",
            &[("size", "4096"), ("device/wwid", "t10.USB")],
        );
        let sys = fake.sys();
        assert!(same_disk(&id(&sys, "8:0"), &id(&sys, "8:16")));
        assert!(!same_disk(&id(&sys, "8:32"), &id(&sys, "8:48")));
    }

    #[test]
    fn a_loop_is_its_backing_file_from_its_offset_on() {
        let fake = FakeSys::new("identity-loop");
        let file = std::env::temp_dir().join(format!("cairn-backing-{}", std::process::id()));
        std::fs::write(&file, [0; 8192]).unwrap();
        let backing = file.to_str().unwrap();
        // Names that no machine has, so that the driver isn't asked.
        let of = |offset| {
            [
                ("size", "8"),
                ("loop/backing_file", backing),
                ("loop/offset", offset),
            ]
        };
        fake.device("loop99990", "7:99990", &of("0"));
        fake.device("loop99991", "7:99991", &of("4096"));
        let sys = fake.sys();
        let (low, high) = (id(&sys, "7:99990"), id(&sys, "7:99991"));
        let whole = identity(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert!(same_disk(&low, &whole) && same_disk(&high, &whole));
        assert!(!same_disk(&low, &high));
    }
}
