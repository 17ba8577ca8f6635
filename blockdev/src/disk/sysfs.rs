//! What /sys says of block devices, by device number. Knows only files under one root, so that
//! tests hand in a tree of their own.

use std::path::{Path, PathBuf};

/// A block device's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct DeviceNumber {
    /// Driver.
    pub(crate) major: u64,
    /// Instance.
    pub(crate) minor: u64,
}

impl DeviceNumber {
    pub(crate) fn of(rdev: u64) -> Self {
        Self {
            major: nix::sys::stat::major(rdev),
            minor: nix::sys::stat::minor(rdev),
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim().split_once(':')?;
        Some(Self {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    }
}

impl std::fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// The root of sysfs.
#[derive(Debug, Clone)]
pub(crate) struct Sysfs(PathBuf);

/// One block device's directory.
#[derive(Debug, Clone)]
pub(crate) struct BlockDir(PathBuf);

impl Sysfs {
    pub(crate) fn system() -> Self {
        Self(PathBuf::from("/sys"))
    }

    #[cfg(test)]
    pub(crate) fn at(root: &Path) -> Self {
        Self(root.to_owned())
    }

    /// The directory of a device, partitions included; `None` if there is none.
    pub(crate) fn block(&self, number: DeviceNumber) -> Option<BlockDir> {
        let link = self.0.join("dev/block").join(number.to_string());
        link.canonicalize().ok().map(BlockDir)
    }

    /// All whole devices, by name.
    pub(crate) fn whole_devices(&self) -> std::io::Result<Vec<BlockDir>> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(self.0.join("block"))? {
            if let Ok(path) = entry?.path().canonicalize() {
                all.push(BlockDir(path));
            }
        }
        all.sort_by_key(|dir| natural(&dir.name()));
        Ok(all)
    }
}

/// Sorts sda2 before sda10 and sdb before sdaa.
fn natural(name: &str) -> (usize, String, u64) {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = name.get(stem.len()..).and_then(|n| n.parse().ok());
    (stem.len(), stem.to_owned(), number.unwrap_or(0))
}

impl BlockDir {
    /// The kernel's name, as in /dev.
    pub(crate) fn name(&self) -> String {
        // The kernel writes `!` for a slash (cciss!c0d0).
        self.0
            .file_name()
            .map(|name| name.to_string_lossy().replace('!', "/"))
            .unwrap_or_default()
    }

    /// An attribute, trimmed; `None` if it isn't there or is empty.
    pub(crate) fn text(&self, attribute: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.0.join(attribute)).ok()?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// An attribute that is a number.
    pub(crate) fn number(&self, attribute: &str) -> Option<u64> {
        self.text(attribute)?.parse().ok()
    }

    /// The device's number.
    pub(crate) fn device_number(&self) -> Option<DeviceNumber> {
        DeviceNumber::parse(&self.text("dev")?)
    }

    /// Size in bytes; sysfs counts 512-byte sectors whatever the disk's are.
    pub(crate) fn size_bytes(&self) -> Option<u64> {
        self.number("size")?.checked_mul(512)
    }

    /// Whether this is a partition.
    pub(crate) fn is_partition(&self) -> bool {
        self.0.join("partition").exists()
    }

    /// The whole disk: of a partition its parent, of a disk itself.
    pub(crate) fn whole(&self) -> Self {
        match self.0.parent() {
            Some(parent) if self.is_partition() => Self(parent.to_owned()),
            _ => self.clone(),
        }
    }

    /// An attribute of the whole disk's queue.
    pub(crate) fn queue(&self, attribute: &str) -> Option<String> {
        self.whole().text(&format!("queue/{attribute}"))
    }

    /// The partitions of a whole disk.
    pub(crate) fn partitions(&self) -> Vec<Self> {
        let mut found: Vec<Self> = entries(&self.0)
            .map(Self)
            .filter(Self::is_partition)
            .collect();
        found.sort_by_key(|dir| natural(&dir.name()));
        found
    }

    /// Kernel names of the devices that are built over this one.
    pub(crate) fn holders(&self) -> Vec<String> {
        let mut names: Vec<String> = entries(&self.0.join("holders"))
            .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .collect();
        names.sort();
        names
    }

    /// The world-wide name, wherever the driver puts it.
    pub(crate) fn wwid(&self) -> Option<String> {
        let whole = self.whole();
        whole.text("device/wwid").or_else(|| whole.text("wwid"))
    }

    /// The serial number, wherever the driver puts it.
    pub(crate) fn serial(&self) -> Option<String> {
        let whole = self.whole();
        whole.text("device/serial").or_else(|| whole.text("serial"))
    }

    /// Vendor and model, as far as they are said.
    pub(crate) fn model(&self) -> Option<String> {
        let whole = self.whole();
        let model = whole.text("device/model")?;
        Some(match whole.text("device/vendor") {
            // A PCI vendor number, which virtio gives, is no name.
            Some(vendor) if !vendor.starts_with("0x") && vendor != "ATA" => {
                format!("{vendor} {model}")
            }
            _ => model,
        })
    }
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A sysfs of a test's own: `dev/block/M:m` and `block/NAME` as the kernel links them.
    pub(crate) struct FakeSys(PathBuf);

    impl FakeSys {
        pub(crate) fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("cairn-{name}-{}", std::process::id()));
            std::fs::create_dir_all(root.join("dev/block")).unwrap();
            std::fs::create_dir_all(root.join("block")).unwrap();
            Self(root)
        }

        pub(crate) fn sys(&self) -> Sysfs {
            Sysfs::at(&self.0)
        }

        /// `path` under devices/, "sda" or "sda/sda1", with its attributes.
        pub(crate) fn device(&self, path: &str, number: &str, attributes: &[(&str, &str)]) {
            let dir = self.0.join("devices").join(path);
            std::fs::create_dir_all(&dir).unwrap();
            std::os::unix::fs::symlink(&dir, self.0.join("dev/block").join(number)).unwrap();
            match path.split_once('/') {
                Some(_) => std::fs::write(dir.join("partition"), "1\n").unwrap(),
                None => std::os::unix::fs::symlink(&dir, self.0.join("block").join(path)).unwrap(),
            }
            std::fs::write(dir.join("dev"), format!("{number}\n")).unwrap();
            for (attribute, value) in attributes {
                let file = dir.join(attribute);
                std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                std::fs::write(file, format!("{value}\n")).unwrap();
            }
        }
    }

    impl Drop for FakeSys {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::FakeSys;
    use super::*;

    #[test]
    fn a_partition_has_its_disks_queue() {
        let fake = FakeSys::new("sysfs-queue");
        fake.device("sda", "8:0", &[("queue/rotational", "1"), ("size", "2048")]);
        fake.device("sda/sda1", "8:1", &[("size", "1024")]);
        let part = fake
            .sys()
            .block(DeviceNumber { major: 8, minor: 1 })
            .unwrap();
        assert_eq!(
            (part.name().as_str(), part.size_bytes()),
            ("sda1", Some(512 << 10))
        );
        assert_eq!(part.queue("rotational").as_deref(), Some("1"));
        assert_eq!(part.whole().partitions().len(), 1);
    }

    #[test]
    fn names_sort_as_people_count() {
        let mut names = ["sdaa", "sda10", "sdb", "sda2"];
        names.sort_by_key(|name| natural(name));
        assert_eq!(names, ["sda2", "sda10", "sdb", "sdaa"]);
    }
}
