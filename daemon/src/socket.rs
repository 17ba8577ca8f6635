//! Unix sockets as files: a living one is never taken over, a dead one is, and ours goes with us.

use std::fs::Permissions;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

/// A listening socket's file, removed when this goes, unless somebody else has put another there.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    device_inode: Option<(u64, u64)>,
}

impl SocketFile {
    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.device_inode.is_some()
            && identity(&self.path) == self.device_inode
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "the socket's file stays behind");
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// What stands in the way of listening at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// Nothing: the path is free, or a dead socket that may go.
    None,
    /// A sentence, with the next step.
    Taken(String),
}

/// Looks whether `path` can be listened at. Changes nothing.
pub fn obstacle(path: &Path) -> Obstacle {
    if let Err(error) = crate::config::check_socket_path(path) {
        return Obstacle::Taken(error.to_string());
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    match std::fs::metadata(parent) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Obstacle::Taken(format!("{} is no directory", parent.display())),
        Err(error) => {
            return Obstacle::Taken(format!(
                "the directory {} can't be used ({error}): create it first",
                parent.display()
            ));
        }
    }
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Obstacle::None,
        Err(error) => Obstacle::Taken(format!("{} can't be looked at: {error}", path.display())),
        Ok(metadata) if !metadata.file_type().is_socket() => Obstacle::Taken(format!(
            "{} exists and is no socket: remove it, or choose another path",
            path.display()
        )),
        Ok(_) if is_alive(path) => Obstacle::Taken(format!(
            "{} is in use: another process listens there",
            path.display()
        )),
        Ok(_) => Obstacle::None,
    }
}

/// Listens at `path`, replacing a dead socket. The file gets mode 0600; the daemon's umask keeps
/// others out until then. The listener doesn't block.
pub fn listen(path: &Path) -> Result<(UnixListener, SocketFile), String> {
    // One at a time: between the look and the bind, another of ours must not take the path and then
    // be removed for a dead socket.
    static LISTENING: Mutex<()> = Mutex::new(());
    let _listening = LISTENING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Obstacle::Taken(why) = obstacle(path) {
        return Err(why);
    }
    let failed = |what: &str, error: std::io::Error| format!("{}: {what}: {error}", path.display());
    if identity(path).is_some() {
        std::fs::remove_file(path).map_err(|e| failed("the dead socket can't be removed", e))?;
    }
    let listener = UnixListener::bind(path).map_err(|e| failed("can't listen there", e))?;
    let file = SocketFile {
        path: path.to_owned(),
        device_inode: identity(path),
    };
    std::fs::set_permissions(path, Permissions::from_mode(0o600))
        .map_err(|e| failed("can't be made private", e))?;
    listener
        .set_nonblocking(true)
        .map_err(|e| failed("can't be made non-blocking", e))?;
    Ok((listener, file))
}

/// Whether somebody listens at `path`: anything but a refusal counts, so that doubt protects them.
fn is_alive(path: &Path) -> bool {
    let Ok(address) = UnixAddr::new(path) else {
        return true;
    };
    // Non-blocking: a listener with a full backlog is alive, and must not hold us up.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let Ok(fd) = socket(AddressFamily::Unix, SockType::Stream, flags, None) else {
        return true;
    };
    !matches!(
        connect(fd.as_raw_fd(), &address),
        Err(Errno::ECONNREFUSED | Errno::ENOENT)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
        let dir = TempDir::new();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a dead socket's file");
        let (_listener, file) = listen(&path).unwrap();
        let error = listen(&path).unwrap_err();
        assert!(error.contains("in use"), "{error}");
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn of_many_that_listen_at_one_path_at_once_one_does_and_stays() {
        let dir = TempDir::new();
        let path = dir.path().join("s");
        let together = std::sync::Barrier::new(8);
        let listeners: Vec<_> = std::thread::scope(|scope| {
            let one = || {
                together.wait();
                listen(&path).ok()
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(one)).collect();
            threads
                .into_iter()
                .filter_map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(listeners.len(), 1);
        assert!(is_alive(&path));
    }

    #[test]
    fn a_file_that_is_no_socket_is_never_removed() {
        let dir = TempDir::new();
        let path = dir.path().join("precious");
        std::fs::write(&path, "data").unwrap();
        let error = listen(&path).unwrap_err();
        assert!(error.contains("is no socket"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"data");
    }

    #[test]
    fn anothers_socket_at_our_path_is_left_alone() {
        let dir = TempDir::new();
        let path = dir.path().join("s");
        let (_listener, file) = listen(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(file);
        assert!(path.exists());
    }

    #[test]
    fn a_missing_directory_is_named() {
        let dir = TempDir::new();
        let error = listen(&dir.path().join("no/s")).unwrap_err();
        assert!(error.contains("create it first"), "{error}");
    }
}
