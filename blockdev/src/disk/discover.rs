//! The local block devices that could become members, with what is known of each.

use std::path::PathBuf;

use super::sysfs::{BlockDir, Sysfs};
use super::usage::{self, Tables, Usage};

/// Kernel names of what is never a member: RAM disks, compressed RAM, optical drives, floppies,
/// and the clients and servers of Cairn's own volumes.
const SKIPPED: [&str; 6] = ["ram", "zram", "sr", "fd", "nbd", "ublkb"];

/// A block device as `cairn disk list` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskInfo {
    /// Where it is in /dev.
    pub path: PathBuf,
    /// Bytes.
    pub size_bytes: u64,
    /// Logical sector in bytes.
    pub logical_block: u32,
    /// Vendor and model.
    pub model: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// World-wide name.
    pub wwid: Option<String>,
    /// Spinning disk.
    pub rotational: bool,
    /// Can be pulled out or ejected, as USB sticks can.
    pub removable: bool,
    /// The kernel takes no writes to it.
    pub read_only: bool,
    /// For a partition, the kernel name of its disk.
    pub partition_of: Option<String>,
    /// Kernel names of its partitions.
    pub partitions: Vec<String>,
    /// What it, or a partition of it, is used for now.
    pub usage: Option<Usage>,
}

/// Lists the machine's disks and their partitions, by name.
pub fn discover() -> std::io::Result<Vec<DiskInfo>> {
    discover_in(&Sysfs::system(), &Tables::system())
}

fn discover_in(sys: &Sysfs, tables: &Tables) -> std::io::Result<Vec<DiskInfo>> {
    let mut found = Vec::new();
    for dir in sys.whole_devices()? {
        let name = dir.name();
        let skipped = SKIPPED.iter().any(|kind| {
            name.strip_prefix(kind)
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        });
        // A size of zero: a loop without a file, a drive without a medium.
        if skipped || dir.size_bytes().unwrap_or(0) == 0 {
            continue;
        }
        found.push(describe(sys, &dir, tables));
        for part in dir.partitions() {
            found.push(describe(sys, &part, tables));
        }
    }
    Ok(found)
}

fn describe(sys: &Sysfs, dir: &BlockDir, tables: &Tables) -> DiskInfo {
    let whole = dir.whole();
    DiskInfo {
        path: PathBuf::from("/dev").join(dir.name()),
        size_bytes: dir.size_bytes().unwrap_or(0),
        logical_block: dir
            .queue("logical_block_size")
            .and_then(|text| text.parse().ok())
            .unwrap_or(512),
        model: dir.model(),
        serial: dir.serial(),
        wwid: dir.wwid(),
        rotational: dir.queue("rotational").as_deref() == Some("1"),
        removable: whole.number("removable") == Some(1),
        read_only: dir.number("ro") == Some(1),
        partition_of: dir.is_partition().then(|| whole.name()),
        partitions: dir.partitions().iter().map(BlockDir::name).collect(),
        usage: usage::of_block(sys, dir, tables),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sysfs::testing::FakeSys;
    use super::*;

    #[test]
    fn disks_and_partitions_are_listed_and_ram_and_empty_loops_are_not() {
        let fake = FakeSys::new("discover");
        fake.device("ram0", "1:0", &[("size", "8192")]);
        fake.device("zram0", "252:0", &[("size", "8192")]);
        fake.device("loop0", "7:0", &[("size", "0")]);
        fake.device("loop1", "7:1", &[("size", "8192")]);
        fake.device(
            "sda",
            "8:0",
            &[
                ("size", "4096"),
                ("queue/rotational", "1"),
                ("queue/logical_block_size", "4096"),
                ("device/model", "ST4000"),
                ("device/vendor", "SEAGATE"),
                ("serial", "Z1"),
            ],
        );
        fake.device("sda/sda1", "8:1", &[("size", "1024")]);
        let tables = Tables {
            mountinfo: "29 1 8:1 / /home rw - ext4 /dev/sda1 rw\n".to_owned(),
            swaps: String::new(),
        };
        let found = discover_in(&fake.sys(), &tables).unwrap();
        let names: Vec<_> = found.iter().map(|d| d.path.to_str().unwrap()).collect();
        assert_eq!(names, ["/dev/sda", "/dev/sda1", "/dev/loop1"]);
        let disk = &found[0];
        assert_eq!(disk.model.as_deref(), Some("SEAGATE ST4000"));
        assert_eq!((disk.logical_block, disk.rotational), (4096, true));
        assert_eq!(disk.partitions, ["sda1"]);
        let usage = disk.usage.as_ref().unwrap().to_string();
        assert_eq!(usage, "sda1 is mounted at /home");
        assert_eq!(found[1].partition_of.as_deref(), Some("sda"));
    }
}
