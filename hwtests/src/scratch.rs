//! A test's own directory, and a RAM disk in it.
//!
//! The directory's name carries the id of the process, so that what a killed run left behind
//! (mounts, loops, files) is known as such and removed by the next.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::program;

/// Begins the name of every directory made here.
const PREFIX: &str = "cairn-e2e-";

/// A directory that goes with its value, with everything mounted below it.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes one. Its path is short: sockets lie in it.
    #[track_caller]
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        sweep();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("{PREFIX}{}-{number}", std::process::id()));
        if let Err(error) = std::fs::create_dir(&path) {
            panic!("{} can't be made: {error}", path.display());
        }
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A path in it, as text.
    pub fn text(&self, name: &str) -> String {
        self.join(name).to_string_lossy().into_owned()
    }

    /// A directory in it.
    #[track_caller]
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.join(name);
        if let Err(error) = std::fs::create_dir_all(&path) {
            panic!("{} can't be made: {error}", path.display());
        }
        path
    }

    /// A directory in it that lives in memory, of at most `mib` MiB. Wants root.
    #[track_caller]
    pub fn ram(&self, name: &str, mib: u64) -> PathBuf {
        program::need_root();
        let path = self.dir(name);
        let size = format!("size={mib}m,mode=755");
        let shown = path.to_string_lossy();
        program::run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", &shown]).ok();
        path
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes what processes left that are no more.
fn sweep() {
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next())
            .and_then(|pid| pid.parse::<u32>().ok());
        if let Some(pid) = owner
            && !Path::new(&format!("/proc/{pid}")).exists()
        {
            remove(&entry.path());
        }
    }
}

/// Unmounts, detaches and deletes everything below `path`; what can't be is left for the next sweep.
fn remove(path: &Path) {
    // A database that still runs on a mount below would keep it busy.
    if path.join("pg/mnt").is_dir() {
        program::run(
            "bash",
            &[
                program::lab("pg-on-nbd.sh"),
                "down".into(),
                path.join("pg").to_string_lossy().into_owned(),
            ],
        );
    }
    let mounts = mounts_below(path);
    let on_loops = mounts
        .iter()
        .filter(|(source, _)| source.starts_with("/dev/loop"));
    for (_, target) in on_loops {
        program::run("umount", &[target]);
    }
    for device in loops_below(path) {
        program::run("losetup", &["-d", &device]);
    }
    for (_, target) in mounts
        .iter()
        .filter(|(source, _)| !source.starts_with("/dev/loop"))
    {
        // A file system whose server is gone can only be left.
        if program::run("umount", &[target]).code != Some(0) {
            program::run("umount", &["-l", target]);
        }
    }
    if let Err(error) = std::fs::remove_dir_all(path)
        && path.exists()
    {
        eprintln!("{} stays: {error}", path.display());
    }
}

/// (source, target) of what is mounted below, the innermost first.
fn mounts_below(path: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut mounts: Vec<(String, String)> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            Some((words.next()?.to_owned(), words.next()?.to_owned()))
        })
        .filter(|(_, target)| Path::new(target).starts_with(path))
        .collect();
    mounts.reverse();
    mounts
}

/// Loop devices over files below.
fn loops_below(path: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/sys/block") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let backing = std::fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
            let is_below = Path::new(backing.trim_end()).starts_with(path);
            is_below.then(|| format!("/dev/{}", entry.file_name().to_string_lossy()))
        })
        .collect()
}
