//! Why a disk can't be opened.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::usage::Usage;

/// Why a disk can't be opened; each names the path and the next step.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nothing is there.
    #[error("{path}: no such file or device; check the path, `cairn disk list` shows the disks")]
    Missing {
        /// The path as given.
        path: PathBuf,
    },
    /// The process may not.
    #[error(
        "{path}: permission denied; run the daemon as root, or give its user read and write access"
    )]
    Permission {
        /// The path as given.
        path: PathBuf,
    },
    /// Neither a regular file nor a block device.
    #[error("{path}: is {what}; give a block device or a regular file")]
    NotADisk {
        /// The path as given.
        path: PathBuf,
        /// What it is, with its article.
        what: &'static str,
    },
    /// The kernel holds it for something else.
    #[error(
        "{path}: is in use (mounted or part of another device){}; free it first",
        because(.by.as_ref())
    )]
    InUse {
        /// The path as given.
        path: PathBuf,
        /// By what, where that was found.
        by: Option<Usage>,
    },
    /// Another opener holds the lock: another cairnd, or this one.
    #[error(
        "{path}: is locked by another opener{}; stop that one, or choose another disk",
        because(.by.as_ref())
    )]
    Locked {
        /// The path as given.
        path: PathBuf,
        /// By what, where that was found.
        by: Option<Usage>,
    },
    /// Too small to hold labels and data.
    #[error("{path}: {size} bytes are too small for a disk; at least {min} bytes are needed")]
    TooSmall {
        /// The path as given.
        path: PathBuf,
        /// Its usable size in bytes.
        size: u64,
        /// The least size in bytes.
        min: u64,
    },
    /// Can't be written.
    #[error(
        "{path}: is read-only; make it writable (blockdev --setrw, or remount its file system)"
    )]
    ReadOnly {
        /// The path as given.
        path: PathBuf,
    },
    /// A disk that takes sequential writes only.
    #[error(
        "{path}: is a host-managed zoned disk, which can't be written at random; choose another"
    )]
    Zoned {
        /// The path as given.
        path: PathBuf,
    },
    /// Sectors that O_DIRECT can't serve in 4096-byte blocks.
    #[error("{path}: has sectors of {bytes} bytes; only 512 and 4096 are supported")]
    Sector {
        /// The path as given.
        path: PathBuf,
        /// Its logical sector in bytes.
        bytes: u32,
    },
    /// A drive without a medium, a loop device without a file, a disk that is gone.
    #[error("{path}: has no medium; insert or attach it, or choose another disk")]
    NoMedium {
        /// The path as given.
        path: PathBuf,
    },
    /// Any other refusal of the system.
    #[error("{path}: {what}: {source}; see the kernel log (dmesg) for what it says of this disk")]
    System {
        /// The path as given.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

fn because(by: Option<&Usage>) -> impl fmt::Display {
    by.map_or_else(String::new, |by| format!(": {by}"))
}

impl OpenError {
    /// Classifies what the system said; the caller handles EBUSY, which means different things.
    pub(crate) fn from_io(path: &Path, what: &'static str, source: io::Error) -> Self {
        use nix::libc;
        let path = path.to_owned();
        match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => Self::Missing { path },
            Some(libc::EACCES | libc::EPERM) => Self::Permission { path },
            Some(libc::EROFS) => Self::ReadOnly { path },
            Some(libc::ENXIO | libc::ENOMEDIUM | libc::ENODEV) => Self::NoMedium { path },
            _ => Self::System { path, what, source },
        }
    }
}
