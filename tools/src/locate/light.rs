//! The light at a disk's slot that says "this one", where Linux can switch it.
//!
//! Two kinds of them, both a file of sysfs that takes 1 and 0:
//! - SCSI enclosure services: `…/device/enclosure_device:SLOT/locate` beside a SAS or SATA disk;
//! - native PCIe enclosure management: an LED `…:enclosure:locate` of a port above an NVMe disk (Linux 6.13).

use std::fs::read_dir;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};
use serde::Serialize;

/// Who drives a light.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum By {
    /// The enclosure that the disk is in.
    Enclosure,
    /// The PCIe port that it is connected to.
    Port,
    /// The disk itself, by its activity: it has no light of this kind.
    Activity,
}

impl By {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Enclosure => "enclosure",
            Self::Port => "port",
            Self::Activity => "activity",
        }
    }
}

/// A light that can be switched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Light {
    pub(super) by: By,
    /// The file that switches it.
    pub(super) file: PathBuf,
}

impl Light {
    /// That of the block device `number`, below the sysfs at `sys`.
    pub(super) fn of(sys: &Path, number: u64) -> Option<Self> {
        let device = format!("dev/block/{}:{}", major(number), minor(number));
        let mut disk = sys.join(device).canonicalize().ok()?;
        // A partition is lit with its disk.
        if disk.join("partition").exists() {
            disk.pop();
        }
        Self::of_slot(&disk).or_else(|| Self::of_port(sys, &disk))
    }

    fn of_slot(disk: &Path) -> Option<Self> {
        let slots = entries(&disk.join("device"), |name| {
            name.starts_with("enclosure_device:")
        });
        let files = slots.into_iter().map(|slot| slot.join("locate"));
        let file = files.into_iter().find(|file| file.exists())?;
        Some(Self {
            by: By::Enclosure,
            file,
        })
    }

    /// The nearest one above the disk, or above a controller of it: with multipath the disk itself is nowhere on PCIe.
    fn of_port(sys: &Path, disk: &Path) -> Option<Self> {
        let controllers = entries(&disk.join("device"), |name| name.starts_with("nvme"));
        let real = controllers
            .iter()
            .filter_map(|controller| controller.canonicalize().ok());
        let sys = sys.canonicalize().ok()?;
        std::iter::once(disk.to_owned()).chain(real).find_map(|at| {
            let above = at.ancestors().take_while(|above| *above != sys);
            let leds = above.flat_map(|port| {
                entries(&port.join("leds"), |name| {
                    name.ends_with(":enclosure:locate")
                })
            });
            let mut files = leds.map(|led| led.join("brightness"));
            let file = files.find(|file| file.exists())?;
            Some(Self { by: By::Port, file })
        })
    }

    /// Switches it.
    pub(super) fn switch(&self, on: bool) -> io::Result<()> {
        std::fs::write(&self.file, if on { "1" } else { "0" })
    }
}

/// What is in `dir` and has such a name, in the order of names.
fn entries(dir: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let all = read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = all
        .filter(|entry| entry.file_name().to_str().is_some_and(&wanted))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A sysfs in a directory that goes with it.
    struct Sys(PathBuf);

    impl Sys {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("cairn-sys-{}-{name}", std::process::id()));
            let _ = std::fs::remove_dir_all(&dir);
            std::fs::create_dir_all(dir.join("dev/block")).unwrap();
            Self(dir)
        }

        fn file(&self, path: &str) -> PathBuf {
            let file = self.0.join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, "0\n").unwrap();
            file.canonicalize().unwrap()
        }

        fn link(&self, link: &str, to: &str) {
            let link = self.0.join(link);
            std::fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(self.0.join(to), link).unwrap();
        }

        fn device(&self, number: &str, at: &str) {
            self.file(&format!("{at}/size"));
            self.link(&format!("dev/block/{number}"), at);
        }
    }

    impl Drop for Sys {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn number(major: u64, minor: u64) -> u64 {
        nix::sys::stat::makedev(major, minor)
    }

    const SAS: &str = "devices/pci0000:00/0000:00:01.0/host0/target0:0:3/0:0:3:0";

    #[test]
    fn a_disk_in_an_enclosure_has_the_light_of_its_slot_and_so_has_its_partition() {
        let sys = Sys::new("slot");
        let disk = format!("{SAS}/block/sdc");
        sys.device("8:32", &disk);
        sys.link(&format!("{disk}/device"), SAS);
        sys.device("8:33", &format!("{disk}/sdc1"));
        sys.file(&format!("{disk}/sdc1/partition"));
        let file = sys.file("devices/ses/0:0:9:0/enclosure/0:0:9:0/Slot 03/locate");
        sys.link(
            &format!("{SAS}/enclosure_device:Slot 03"),
            "devices/ses/0:0:9:0/enclosure/0:0:9:0/Slot 03",
        );
        for minor in [32, 33] {
            let light = Light::of(&sys.0, number(8, minor)).unwrap();
            assert_eq!(light.by, By::Enclosure);
            assert_eq!(light.file.canonicalize().unwrap(), file);
            light.switch(true).unwrap();
            assert_eq!(std::fs::read_to_string(&file).unwrap(), "1");
            light.switch(false).unwrap();
            assert_eq!(std::fs::read_to_string(&file).unwrap(), "0");
        }
    }

    #[test]
    fn a_disk_on_pcie_has_the_light_of_the_nearest_port() {
        let sys = Sys::new("port");
        let port = "devices/pci0000:00/0000:00:02.0/0000:02:05.0";
        let disk = format!("{port}/0000:03:00.0/nvme/nvme0/nvme0n1");
        sys.device("259:0", &disk);
        sys.file("devices/pci0000:00/0000:00:02.0/leds/0000:00:02.0:enclosure:locate/brightness");
        sys.file(&format!(
            "{port}/leds/0000:02:05.0:enclosure:fail/brightness"
        ));
        let file = sys.file(&format!(
            "{port}/leds/0000:02:05.0:enclosure:locate/brightness"
        ));
        let light = Light::of(&sys.0, number(259, 0)).unwrap();
        assert_eq!((light.by, light.file), (By::Port, file));
    }

    #[test]
    fn a_disk_with_several_paths_is_found_by_its_controllers() {
        let sys = Sys::new("paths");
        let subsystem = "devices/virtual/nvme-subsystem/nvme-subsys0";
        sys.device("259:1", &format!("{subsystem}/nvme0n1"));
        sys.link(&format!("{subsystem}/nvme0n1/device"), subsystem);
        let port = "devices/pci0000:00/0000:02:05.0";
        sys.file(&format!("{port}/0000:03:00.0/nvme/nvme0/address"));
        sys.link(
            &format!("{subsystem}/nvme0"),
            &format!("{port}/0000:03:00.0/nvme/nvme0"),
        );
        let file = sys.file(&format!(
            "{port}/leds/0000:02:05.0:enclosure:locate/brightness"
        ));
        let light = Light::of(&sys.0, number(259, 1)).unwrap();
        assert_eq!((light.by, light.file), (By::Port, file));
    }

    #[test]
    fn a_disk_without_one_has_none() {
        let sys = Sys::new("none");
        sys.device("7:0", "devices/virtual/block/loop0");
        assert_eq!(Light::of(&sys.0, number(7, 0)), None);
        assert_eq!(Light::of(&sys.0, number(7, 1)), None, "not even there");
    }
}
