//! The state directory: made private, locked against a second daemon, with atomic file writes.
//!
//! Invariants
//! - One daemon per state directory: the lock file is flocked for the daemon's life, and the kernel
//!   releases it however the daemon ends. The pid in it is for messages only.
//! - A file written by [`write_atomically`] holds the old content or the new, whole and durable.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::error::DaemonError;

/// A pid has at most this many digits and a newline.
const PID_MAX_BYTES: u64 = 16;

/// The locked state directory.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl StateDir {
    /// Makes the directory (0700) if it isn't there, and takes its lock.
    pub fn open(path: &Path) -> Result<Self, DaemonError> {
        let failed = |what: &str, error: &dyn std::fmt::Display| DaemonError::StateDir {
            path: path.to_owned(),
            message: format!("{what}: {error}"),
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| failed("can't be created", &error))?;
        let metadata = std::fs::metadata(path).map_err(|error| failed("can't be read", &error))?;
        if !metadata.is_dir() {
            return Err(failed("is in the way", &"it is no directory"));
        }
        if metadata.permissions().mode() & 0o077 != 0 {
            tracing::warn!(
                path = %path.display(),
                "the state directory is open to other users; `chmod 0700` closes it"
            );
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(|error| failed("its lock file can't be opened", &error))?;
        let mut owner = String::new();
        // Who holds it, if it is held: read before the try, since a holder has long written it.
        (&mut file)
            .take(PID_MAX_BYTES)
            .read_to_string(&mut owner)
            .map_err(|error| failed("its lock file can't be read", &error))?;
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                return Err(DaemonError::SecondDaemon {
                    path: path.to_owned(),
                    pid: owner.trim().parse().ok(),
                });
            }
            Err((_, errno)) => return Err(failed("can't be locked", &errno)),
        };
        lock.set_len(0)
            .and_then(|()| {
                use std::os::unix::fs::FileExt;
                lock.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0)
            })
            .map_err(|error| failed("its lock file can't be written", &error))?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The metadata store's file.
    pub fn store_path(&self) -> PathBuf {
        self.path.join("meta.redb")
    }

    /// The directory of event witnesses, made if needed.
    pub fn witness_dir(&self) -> Result<PathBuf, DaemonError> {
        let dir = self.path.join("witness");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(|error| DaemonError::StateDir {
                path: dir.clone(),
                message: format!("can't be created: {error}"),
            })?;
        Ok(dir)
    }
}

/// Replaces `dir/name` by `bytes`: temporary file, fsync, rename, fsync of the directory.
pub fn write_atomically(dir: &Path, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = dir.join(format!(".{name}.new"));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, dir.join(name))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn the_directory_is_private() {
        let dir = TempDir::new();
        let state = StateDir::open(&dir.path().join("a/b")).unwrap();
        let mode = std::fs::metadata(state.path())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn a_second_daemon_is_refused_by_name_until_the_first_ends() {
        let dir = TempDir::new();
        let first = StateDir::open(dir.path()).unwrap();
        let error = StateDir::open(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains(&format!("pid {}", std::process::id())),
            "{error}"
        );
        drop(first);
        StateDir::open(dir.path()).unwrap();
    }

    #[test]
    fn a_file_in_the_way_is_said() {
        let dir = TempDir::new();
        let path = dir.path().join("f");
        std::fs::write(&path, "x").unwrap();
        let error = StateDir::open(&path).unwrap_err().to_string();
        assert!(error.contains("can't be created"), "{error}");
    }

    #[test]
    fn an_atomic_write_replaces_and_leaves_no_temporary_file() {
        let dir = TempDir::new();
        write_atomically(dir.path(), "w", b"one").unwrap();
        write_atomically(dir.path(), "w", b"two").unwrap();
        assert_eq!(std::fs::read(dir.path().join("w")).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
