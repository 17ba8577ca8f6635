//! btrfs, the peer that has redundancy and checksums of its own: over as many disks in memory as the array.
//!
//! One file takes all of the load. Data has the array's level; metadata are mirrored, as its manual
//! advises, so that they survive as many members.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::program;
use crate::scratch::Scratch;

/// A file system that is mounted, until its value goes.
pub struct Btrfs {
    mount: PathBuf,
}

impl Btrfs {
    /// Makes one of these devices. Wants root, and a kernel with btrfs.
    pub fn make(level: &str, devices: &[String], scratch: &Scratch) -> Self {
        let metadata = if level == "raid6" { "raid1c3" } else { "raid1" };
        let mut line = vec!["-q", "-f", "-d", level, "-m", metadata];
        line.extend(devices.iter().map(String::as_str));
        program::run("mkfs.btrfs", &line).ok();
        // The kernel finds the others by what it has seen of each.
        for device in devices {
            program::run("btrfs", &["device", "scan", device]).ok();
        }
        let mount = scratch.dir("btrfs");
        let first = devices.first().map_or("", String::as_str);
        let shown = mount.to_string_lossy().into_owned();
        program::run("mount", &["-t", "btrfs", "-o", "noatime", first, &shown]).ok();
        Self { mount }
    }

    /// Where the file is that loads go to.
    pub fn file(&self) -> String {
        self.mount.join("load").to_string_lossy().into_owned()
    }

    /// Fills the file, once, and everything is on the disks.
    pub fn fill(&self, mib: u64) {
        let (to, count) = (format!("of={}", self.file()), format!("count={mib}"));
        let line = ["if=/dev/urandom", &to, "bs=1M", &count, "conv=fsync"];
        program::run("dd", &line).ok();
        program::run("sync", &["-f", &self.file()]).ok();
    }

    /// Reads and compares everything; the time that it takes.
    pub fn scrub(&self) -> Duration {
        let mount = self.mount.to_string_lossy();
        let began = Instant::now();
        // In the foreground; it ends with another code if anything was wrong.
        program::run("btrfs", &["scrub", "start", "-B", &mount]).ok();
        began.elapsed()
    }
}

impl Drop for Btrfs {
    fn drop(&mut self) {
        // What can't be unmounted is left to the scratch directory's sweep.
        program::run("umount", &[&*self.mount.to_string_lossy()]);
    }
}
