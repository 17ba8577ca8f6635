//! Who else uses a block device or holds a file's lock, for messages that name the culprit.
//!
//! The verdict itself is the kernel's (O_EXCL, flock); this only explains it, but for loop devices:
//! they hold what they stand on neither way.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::sys;
use super::sysfs::{BlockDir, DeviceNumber, Sysfs};

/// What a device, or a part of it, is used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Usage {
    /// A mounted file system.
    Mounted {
        /// Kernel name of the device or partition.
        device: String,
        /// The mount point.
        at: String,
    },
    /// Active swap space.
    Swap {
        /// Kernel name of the device or partition.
        device: String,
    },
    /// A part of another block device: device mapper, md, bcache.
    Holder {
        /// Kernel name of the device or partition.
        device: String,
        /// Kernel name of what is built over it, with the mapped name where it has one.
        holder: String,
    },
    /// What a loop device stands on.
    Loop {
        /// Kernel name of the loop device.
        device: String,
    },
    /// Locked by a process.
    Locked {
        /// Its id.
        pid: u32,
        /// Its command name, empty if it can't be read.
        command: String,
    },
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mounted { device, at } => write!(f, "{device} is mounted at {at}"),
            Self::Swap { device } => write!(f, "{device} is swap space"),
            Self::Holder { device, holder } => write!(f, "{device} is part of {holder}"),
            Self::Loop { device } => write!(f, "it is attached as /dev/{device}"),
            Self::Locked { pid, command } => write!(f, "process {pid} ({command}) holds its lock"),
        }
    }
}

/// The kernel's tables of mounts and swap.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tables {
    pub(crate) mountinfo: String,
    pub(crate) swaps: String,
}

impl Tables {
    pub(crate) fn system() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        Self {
            mountinfo: read("/proc/self/mountinfo"),
            swaps: read("/proc/swaps"),
        }
    }

    /// Where the device of this number or name is mounted.
    fn mount_of(&self, number: DeviceNumber, name: &str) -> Option<String> {
        self.mountinfo.lines().find_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let mut left = left.split(' ').skip(2);
            let mounted = DeviceNumber::parse(left.next()?);
            // btrfs mounts under a number of its own; its source names one of its devices.
            let source = right.split(' ').nth(1)?;
            let hit = mounted == Some(number) || source.strip_prefix("/dev/") == Some(name);
            hit.then(|| left.nth(1).map(unescape)).flatten()
        })
    }

    fn is_swap(&self, name: &str) -> bool {
        self.swaps
            .lines()
            .filter_map(|line| line.split_whitespace().next()?.strip_prefix("/dev/"))
            .any(|swap| swap == name)
    }
}

/// mountinfo writes blanks as octal escapes.
fn unescape(text: &str) -> String {
    let plain = text.replace("\\040", " ").replace("\\011", "\t");
    plain.replace("\\012", "\n").replace("\\134", "\\")
}

/// What the device, or a partition of it, is used for.
pub(crate) fn of_block(sys: &Sysfs, dir: &BlockDir, tables: &Tables) -> Option<Usage> {
    let parts = dir.partitions();
    std::iter::once(dir).chain(&parts).find_map(|part| {
        let device = part.name();
        if let Some(holder) = part.holders().into_iter().next() {
            let holder = mapped_name(sys, &holder);
            return Some(Usage::Holder { device, holder });
        }
        if let Some(at) = tables.mount_of(part.device_number()?, &device) {
            return Some(Usage::Mounted { device, at });
        }
        tables.is_swap(&device).then_some(Usage::Swap { device })
    })
}

/// "dm-0 (vg-root)" where device mapper says so.
fn mapped_name(sys: &Sysfs, holder: &str) -> String {
    let dirs = sys.whole_devices().unwrap_or_default();
    dirs.iter()
        .find(|dir| dir.name() == holder)
        .and_then(|dir| dir.text("dm/name"))
        .map_or_else(|| holder.to_owned(), |name| format!("{holder} ({name})"))
}

/// The loop device that stands on the open file; or on the device, a partition or the whole of it.
pub(crate) fn loop_over(sysfs: &Sysfs, file: &File, device: Option<&BlockDir>) -> Option<Usage> {
    let meta = file.metadata().ok()?;
    let parts = device.map(|dir| (dir.whole(), dir.partitions()));
    let numbers: Vec<_> = parts
        .iter()
        .flat_map(|(whole, parts)| std::iter::once(whole).chain(device).chain(parts))
        .filter_map(BlockDir::device_number)
        .collect();
    sysfs.whole_devices().ok()?.iter().find_map(|dir| {
        let backing = dir.text("loop/backing_file")?;
        let asked = File::open(Path::new("/dev").join(dir.name()));
        let hit = match asked.and_then(|device| sys::loop_status(&device)) {
            // The driver knows what it stands on, whatever became of the path.
            Ok(status) if status.block_device != 0 => {
                numbers.contains(&DeviceNumber::of(status.block_device))
            }
            Ok(status) => (status.device, status.inode) == (meta.dev(), meta.ino()),
            Err(_) => std::fs::metadata(backing).is_ok_and(|theirs| {
                (theirs.dev(), theirs.ino()) == (meta.dev(), meta.ino())
                    || numbers.contains(&DeviceNumber::of(theirs.rdev()))
            }),
        };
        hit.then(|| Usage::Loop { device: dir.name() })
    })
}

/// The process that holds the flock of the file, as far as /proc/locks tells.
pub(crate) fn lock_holder(file: &File) -> Option<Usage> {
    let meta = file.metadata().ok()?;
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let pid = flock_pid(&locks, DeviceNumber::of(meta.dev()), meta.ino())?;
    let command = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(Usage::Locked {
        pid,
        command: command.trim().to_owned(),
    })
}

fn flock_pid(locks: &str, device: DeviceNumber, inode: u64) -> Option<u32> {
    let wanted = format!("{:02x}:{:02x}:{inode}", device.major, device.minor);
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let flock = words.next()? == "FLOCK";
        let pid = words.nth(2)?;
        (flock && words.next()? == wanted).then(|| pid.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::super::sysfs::testing::FakeSys;
    use super::*;

    fn number(text: &str) -> DeviceNumber {
        DeviceNumber::parse(text).unwrap()
    }

    #[test]
    fn a_mount_is_found_by_number_and_by_source() {
        let tables = Tables {
            mountinfo: "29 1 8:1 / /data\\040one rw,noatime shared:1 - ext4 /dev/sda1 rw\n\
                        30 1 0:45 / /pool rw - btrfs /dev/sdb rw\n"
                .to_owned(),
            swaps: String::new(),
        };
        assert_eq!(
            tables.mount_of(number("8:1"), "sda1").as_deref(),
            Some("/data one")
        );
        assert_eq!(
            tables.mount_of(number("8:16"), "sdb").as_deref(),
            Some("/pool")
        );
        assert_eq!(tables.mount_of(number("8:32"), "sdc"), None);
    }

    #[test]
    fn a_disk_is_in_use_when_its_partition_is() {
        let fake = FakeSys::new("usage");
        fake.device("sda", "8:0", &[]);
        fake.device("sda/sda2", "8:2", &[]);
        fake.device("sdb", "8:16", &[("holders/dm-0", "")]);
        fake.device("dm-0", "253:0", &[("dm/name", "vg-root")]);
        let sys = fake.sys();
        let tables = Tables {
            mountinfo: String::new(),
            swaps: "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n".to_owned(),
        };
        let usage = |text| of_block(&sys, &sys.block(number(text)).unwrap(), &tables);
        assert_eq!(usage("8:0").unwrap().to_string(), "sda2 is swap space");
        assert_eq!(
            usage("8:16").unwrap().to_string(),
            "sdb is part of dm-0 (vg-root)"
        );
        assert_eq!(usage("253:0"), None);
    }

    #[test]
    fn a_file_is_known_by_the_loop_over_it_also_through_another_link() {
        let fake = FakeSys::new("usage-loop");
        let name = |kind| {
            let name = format!("cairn-usage-loop-{kind}-{}", std::process::id());
            std::env::temp_dir().join(name)
        };
        let (backing, link) = (name("file"), name("link"));
        std::fs::write(&backing, [0; 4096]).unwrap();
        std::fs::hard_link(&backing, &link).unwrap();
        // A name that no machine has, so that the driver isn't asked.
        let path = backing.to_str().unwrap();
        fake.device("loop99992", "7:99992", &[("loop/backing_file", path)]);
        let over = |path| loop_over(&fake.sys(), &File::open(path).unwrap(), None);
        let (linked, other) = (over(&link), over(&std::env::current_exe().unwrap()));
        std::fs::remove_file(&backing).unwrap();
        std::fs::remove_file(&link).unwrap();
        let device = "loop99992".to_owned();
        assert_eq!((linked, other), (Some(Usage::Loop { device }), None));
    }

    #[test]
    fn the_lock_holder_is_read_from_the_kernels_list() {
        let locks = "1: POSIX  ADVISORY  WRITE 7 fe:00:99 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 4711 fe:00:99 0 EOF\n";
        assert_eq!(flock_pid(locks, number("254:0"), 99), Some(4711));
        assert_eq!(flock_pid(locks, number("254:0"), 98), None);
    }
}
