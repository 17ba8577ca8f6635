//! Who uses a block device that this host's kernel shows, so that nobody's file system is taken away by
//! mistake.
//!
//! Invariants
//! - Files of the system are read and never the device, so that this doesn't hang where the device does;
//!   but for [`is_claimed`], which says so.

use std::fs;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::sysfs::{BlockDir, DeviceNumber, Sysfs};
use super::usage::{self, Tables};

/// Who uses the whole device of this kernel name or a partition of it, as a sentence; `None` if nobody is
/// known to. A mount, swap or a device built over it, else a process that has it open, as far as /proc
/// shows it.
pub fn holder_of(name: &str) -> Option<String> {
    let sys = Sysfs::system();
    let dirs = sys.whole_devices().ok()?;
    let dir = dirs.into_iter().find(|dir| dir.name() == name)?;
    if let Some(used) = usage::of_block(&sys, &dir, &Tables::system()) {
        return Some(used.to_string());
    }
    let parts = dir.partitions();
    let numbers: Vec<DeviceNumber> = std::iter::once(&dir)
        .chain(&parts)
        .filter_map(BlockDir::device_number)
        .collect();
    opener(Path::new("/proc"), &numbers).map(|who| format!("{name} is open in {who}"))
}

/// Whether somebody has claimed a device for itself alone, as a mount does that this process doesn't see (a
/// container's). Opens it: for a thread that may wait as long as the device does.
pub fn is_claimed(path: &Path) -> bool {
    let exclusive = fs::File::options()
        .read(true)
        .custom_flags(nix::libc::O_EXCL)
        .open(path);
    matches!(exclusive, Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY))
}

/// A process other than this one that has one of these devices open.
fn opener(proc: &Path, numbers: &[DeviceNumber]) -> Option<String> {
    let own = std::process::id().to_string();
    fs::read_dir(proc).ok()?.flatten().find_map(|process| {
        let pid = process.file_name().into_string().ok()?;
        if pid == own || !pid.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let open = |file: fs::DirEntry| {
            // Through the link, without opening anything.
            let meta = fs::metadata(file.path()).ok()?;
            (meta.rdev() != 0).then(|| DeviceNumber::of(meta.rdev()))
        };
        let files = fs::read_dir(process.path().join("fd")).ok()?;
        let hit = files
            .flatten()
            .any(|file| open(file).is_some_and(|number| numbers.contains(&number)));
        let command = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        hit.then(|| format!("process {pid} ({})", command.trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_device_open_is_named() {
        let dir = std::env::temp_dir().join(format!("cairn-opener-{}", std::process::id()));
        let fds = dir.join("4711/fd");
        fs::create_dir_all(&fds).unwrap();
        fs::write(dir.join("4711/comm"), "postgres\n").unwrap();
        std::os::unix::fs::symlink("/dev/null", fds.join("3")).unwrap();
        let null = DeviceNumber::of(fs::metadata("/dev/null").unwrap().rdev());
        let zero = DeviceNumber::of(fs::metadata("/dev/zero").unwrap().rdev());
        let (found, other) = (opener(&dir, &[null]), opener(&dir, &[zero]));
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(found.as_deref(), Some("process 4711 (postgres)"));
        assert_eq!(other, None);
    }
}
