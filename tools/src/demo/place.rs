//! The demo's directory: file disks, state, sockets, the daemon's log.

use std::cell::Cell;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cairn_api::SOCKET_PATH_BYTES_MAX;

use crate::error::ToolError;
use crate::output::say;

/// Enough of the log's end to see why a daemon gave up.
const LOG_TAIL_BYTES: u64 = 4096;
/// Tries for a name that nobody has.
const NAME_TRIES: u32 = 16;

/// A directory of our own that is removed when dropped, unless kept.
#[derive(Debug)]
pub(super) struct Place {
    dir: PathBuf,
    owned: Cell<bool>,
}

impl Place {
    /// Makes it in `base`, or where temporary files go.
    pub(super) fn make(base: Option<&Path>) -> Result<Self, ToolError> {
        let base = base.map_or_else(std::env::temp_dir, Path::to_path_buf);
        let base = base.canonicalize().map_err(|error| {
            ToolError::usage(
                format!("the directory {} can't be used: {error}", base.display()),
                "name one that exists with --dir",
            )
        })?;
        for _ in 0..NAME_TRIES {
            let dir = base.join(format!("cairn-demo-{:06x}", super::random() & 0xff_ffff));
            match DirBuilder::new().mode(0o700).create(&dir) {
                Ok(()) => {
                    let place = Self {
                        dir,
                        owned: Cell::new(true),
                    };
                    place.check()?;
                    return Ok(place);
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(ToolError::failed_with(
                        format!("{} can't be made: {error}", dir.display()),
                        "name a directory that you may write to with --dir",
                    ));
                }
            }
        }
        Err(ToolError::failed_with(
            format!("{} is full of demos", base.display()),
            "remove the cairn-demo-* directories in it",
        ))
    }

    fn check(&self) -> Result<(), ToolError> {
        let longest = self.admin_socket();
        let length = longest.as_os_str().len();
        let utf8 = longest.to_str().is_some();
        if length <= SOCKET_PATH_BYTES_MAX && utf8 {
            return Ok(());
        }
        Err(ToolError::usage(
            format!(
                "the directory {} can't hold sockets: {}",
                self.dir.display(),
                if utf8 {
                    format!("their paths may have {SOCKET_PATH_BYTES_MAX} bytes, not {length}")
                } else {
                    "its name isn't UTF-8".to_owned()
                }
            ),
            "name one with a shorter path: --dir /tmp",
        ))
    }

    /// The directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The daemon's state directory.
    pub(super) fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The daemon's admin socket: the longest path in here.
    pub(super) fn admin_socket(&self) -> PathBuf {
        self.state_dir().join("cairnd.sock")
    }

    /// The volume's socket; UTF-8, as checked when the place was made.
    pub(super) fn nbd_socket(&self) -> String {
        self.dir.join("pg.sock").to_string_lossy().into_owned()
    }

    /// A new file for the daemon's log.
    pub(super) fn make_log(&self) -> Result<File, ToolError> {
        self.make_file("cairnd.log")
    }

    /// A sparse file disk; its path.
    pub(super) fn make_disk(&self, name: &str, bytes: u64) -> Result<String, ToolError> {
        let file = self.make_file(name)?;
        file.set_len(bytes).map_err(|error| {
            ToolError::failed_with(
                format!("{name} can't be made {bytes} bytes long: {error}"),
                "name a directory on another file system with --dir",
            )
        })?;
        Ok(self.dir.join(name).to_string_lossy().into_owned())
    }

    fn make_file(&self, name: &str) -> Result<File, ToolError> {
        let path = self.dir.join(name);
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| {
                ToolError::failed(format!("{} can't be made: {error}", path.display()))
            })
    }

    /// Prints the end of the daemon's log.
    pub(super) fn show_log(&self) {
        let path = self.dir.join("cairnd.log");
        let tail = File::open(&path).and_then(|mut file| {
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
            let mut bytes = Vec::new();
            file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        });
        if let Ok(tail) = tail
            && !tail.trim().is_empty()
        {
            say(format!(
                "The daemon's log ends with:\n{}\n",
                tail.trim_end()
            ));
        }
    }

    /// Leaves it where it is.
    pub(super) fn keep(&self) {
        self.owned.set(false);
    }

    /// Removes it and what is in it.
    pub(super) fn remove(self) -> Result<(), ToolError> {
        self.owned.set(false);
        std::fs::remove_dir_all(&self.dir).map_err(|error| {
            ToolError::failed_with(
                format!("{} can't be removed: {error}", self.dir.display()),
                format!("remove it: rm -r {}", self.dir.display()),
            )
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.owned.get() {
            // The way out of an error or a panic; there is nobody left to tell.
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn it_is_private_and_gone_afterwards() {
        let place = Place::make(None).unwrap();
        let dir = place.dir().to_path_buf();
        let mode = std::fs::metadata(&dir).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let disk = place.make_disk("d0", 1 << 20).unwrap();
        assert_eq!(std::fs::metadata(disk).unwrap().len(), 1 << 20);
        drop(place);
        assert!(!dir.exists());
    }

    #[test]
    fn a_directory_too_deep_for_sockets_is_refused_and_left_clean() {
        let outer = Place::make(None).unwrap();
        let deep = outer.dir().join("x".repeat(90));
        std::fs::create_dir(&deep).unwrap();
        let error = Place::make(Some(&deep)).unwrap_err();
        assert_eq!(error.exit().code(), 3);
        assert_eq!(std::fs::read_dir(&deep).unwrap().count(), 0);
    }
}
