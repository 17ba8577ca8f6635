//! Disks made of files: as they are, or as block devices by way of a loop.

use std::path::{Path, PathBuf};

use crate::program;
use crate::wait;

/// Makes a sparse file of `mib` MiB.
#[track_caller]
pub fn file(dir: &Path, name: &str, mib: u64) -> PathBuf {
    let path = dir.join(name);
    let made = std::fs::File::create(&path).and_then(|file| file.set_len(mib << 20));
    if let Err(error) = made {
        panic!("{} can't be made: {error}", path.display());
    }
    path
}

/// Makes `count` sparse files `PREFIX0`, `PREFIX1`, ….
#[track_caller]
pub fn files(dir: &Path, prefix: &str, count: usize, mib: u64) -> Vec<PathBuf> {
    (0..count)
        .map(|number| file(dir, &format!("{prefix}{number}"), mib))
        .collect()
}

/// Paths as the arguments of a command.
pub fn texts<P: AsRef<Path>>(paths: &[P]) -> Vec<String> {
    paths
        .iter()
        .map(|path| path.as_ref().to_string_lossy().into_owned())
        .collect()
}

/// A loop device over a file; detached with its value.
#[derive(Debug)]
pub struct Loop {
    device: String,
}

impl Loop {
    /// Attaches `backing`, with sectors of `sector_bytes`. Wants root.
    #[track_caller]
    pub fn attach(backing: &Path, sector_bytes: u32) -> Self {
        program::need_root();
        let sector = sector_bytes.to_string();
        let backing = backing.to_string_lossy();
        let arguments = [
            "--find",
            "--show",
            "--direct-io=on",
            "--sector-size",
            &sector,
            &backing,
        ];
        let attached = program::run("losetup", &arguments).ok();
        let attached = Self {
            device: attached.stdout.trim().to_owned(),
        };
        attached.write_back();
        attached
    }

    /// Lets it say that it has a cache, so that it is asked for flushes: what it was told to say before
    /// stays with its number, over its use.
    #[track_caller]
    fn write_back(&self) {
        let name = self.device.trim_start_matches("/dev/");
        let setting = format!("/sys/block/{name}/queue/write_cache");
        if let Err(error) = std::fs::write(&setting, "write back") {
            panic!("{setting} can't be set: {error}");
        }
    }

    /// Its path, such as `/dev/loop7`.
    pub fn device(&self) -> &str {
        &self.device
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // Whoever had it open may be dying just now.
        let detach = || program::run("losetup", &["-d", &self.device]);
        if std::thread::panicking() {
            detach();
        } else {
            wait::until("the loop device's release", || match detach() {
                done if done.code == Some(0) => Ok(()),
                // Somebody else has detached it.
                gone if gone.stderr.contains("No such device") => Ok(()),
                busy => Err(busy.to_string()),
            });
        }
    }
}

/// `count` loop devices over sparse files of `mib` MiB in `dir`.
#[track_caller]
pub fn loops(dir: &Path, prefix: &str, count: usize, mib: u64, sector_bytes: u32) -> Vec<Loop> {
    files(dir, prefix, count, mib)
        .iter()
        .map(|file| Loop::attach(file, sector_bytes))
        .collect()
}

/// The devices of loops, as the arguments of a command.
pub fn devices(loops: &[Loop]) -> Vec<String> {
    loops.iter().map(|one| one.device.clone()).collect()
}
