//! What can go wrong with one operation on one device.

use std::fmt;
use std::rc::Rc;

/// The kind of operation that failed, for messages and counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoOp {
    /// A read.
    Read,
    /// A write, of data or of zeros.
    Write,
    /// A flush of the volatile cache.
    Flush,
    /// A discard.
    Discard,
    /// Opening or describing the device.
    Open,
}

impl fmt::Display for IoOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Discard => "discard",
            Self::Open => "open",
        })
    }
}

/// What the layers above decide by. The errno stays in the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IoErrorKind {
    /// The medium gave no answer for these blocks (EIO and its like); others may be fine.
    #[error("medium error")]
    Medium,
    /// The device is gone (ENODEV, ENXIO, ENOMEDIUM, a stale handle): nothing on it can be reached.
    #[error("device is gone")]
    Gone,
    /// No space is left to hold the write.
    #[error("no space left")]
    NoSpace,
    /// The device, or the array above it, takes no writes.
    #[error("read-only")]
    ReadOnly,
    /// The range lies outside the device.
    #[error("outside the device")]
    OutOfRange,
    /// Offset or length is not a multiple of the device's logical block.
    #[error("not aligned to the logical block")]
    Misaligned,
    /// The range is held by something that must be decided first.
    #[error("busy")]
    Busy,
    /// No answer within the deadline.
    #[error("timed out")]
    TimedOut,
    /// The device doesn't do this operation.
    #[error("not supported")]
    Unsupported,
    /// More redundancy is gone than the array has: the blocks are lost here.
    #[error("data lost: redundancy is used up")]
    Lost,
    /// The layer is stopping and takes no more requests.
    #[error("stopped")]
    Stopped,
}

/// One failed operation: which device, what, where, why.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{device}: {op} of {len} bytes at offset {offset}: {kind}{}", errno_text(*.errno))]
pub struct IoError {
    /// The kind that decides what happens next.
    pub kind: IoErrorKind,
    /// Path or name of the device.
    pub device: Rc<str>,
    /// What was tried.
    pub op: IoOp,
    /// First byte of the range.
    pub offset: u64,
    /// Bytes in the range.
    pub len: u64,
    /// The system's error number, where there was one.
    pub errno: Option<i32>,
}

impl IoErrorKind {
    /// What the system's error number means for a device.
    pub fn of_errno(errno: i32) -> Self {
        use nix::libc;
        match errno {
            libc::ENODEV
            | libc::ENXIO
            | libc::ENOMEDIUM
            | libc::ESTALE
            | libc::ESHUTDOWN
            | libc::EBADF
            | libc::ENOTCONN => Self::Gone,
            libc::ENOSPC | libc::EDQUOT => Self::NoSpace,
            libc::EROFS | libc::EPERM | libc::EACCES => Self::ReadOnly,
            libc::EINVAL => Self::Misaligned,
            libc::EBUSY => Self::Busy,
            libc::ETIMEDOUT => Self::TimedOut,
            libc::EOPNOTSUPP | libc::ENOSYS => Self::Unsupported,
            _ => Self::Medium,
        }
    }
}

fn errno_text(errno: Option<i32>) -> String {
    errno.map_or_else(String::new, |n| {
        format!(" ({})", std::io::Error::from_raw_os_error(n))
    })
}

impl IoError {
    /// An error without a system error number.
    pub fn new(kind: IoErrorKind, device: &Rc<str>, op: IoOp, offset: u64, len: u64) -> Self {
        Self {
            kind,
            device: Rc::clone(device),
            op,
            offset,
            len,
            errno: None,
        }
    }

    /// An error by the system's number, classified.
    pub fn from_errno(errno: i32, device: &Rc<str>, op: IoOp, offset: u64, len: u64) -> Self {
        Self {
            kind: IoErrorKind::of_errno(errno),
            device: Rc::clone(device),
            op,
            offset,
            len,
            errno: Some(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::libc;

    #[test]
    fn a_device_that_is_pulled_ejected_or_stale_is_gone_and_a_bad_block_is_not() {
        for errno in [libc::ENODEV, libc::ENXIO, libc::ENOMEDIUM, libc::ESTALE] {
            assert_eq!(IoErrorKind::of_errno(errno), IoErrorKind::Gone);
        }
        for errno in [libc::EIO, libc::ENODATA, libc::EILSEQ, libc::EREMOTEIO] {
            assert_eq!(IoErrorKind::of_errno(errno), IoErrorKind::Medium);
        }
    }
}
