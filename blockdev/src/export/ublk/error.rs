//! Why a volume has no ublk device, or why one stays.

use std::io;

use super::uapi::CONTROL_PATH;

/// What went wrong, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum UblkError {
    /// The driver isn't there.
    #[error(
        "this kernel has no ublk now ({CONTROL_PATH} isn't there): `modprobe ublk_drv` loads it \
         where the kernel has it (Linux 6.8 and newer); NBD works without (--nbd unix:PATH)"
    )]
    NoModule,
    /// The driver is there, and not for us.
    #[error(
        "the daemon may not use ublk ({what}: {error}): it must run as root with CAP_SYS_ADMIN, and \
         a unit with DevicePolicy needs the lines of packaging/cairnd-ublk.conf; NBD works without \
         (--nbd unix:PATH)"
    )]
    NoPermission {
        /// What was refused.
        what: String,
        /// The system's answer.
        error: io::Error,
    },
    /// No ring to send commands by.
    #[error(
        "ublk needs io_uring, which can't be set up ({0}): allow it (sysctl \
         kernel.io_uring_disabled, the container's seccomp profile), or use NBD (--nbd unix:PATH)"
    )]
    NoRing(io::Error),
    /// The driver lacks something.
    #[error(
        "this kernel's ublk is too old (it lacks features {missing:#x}): Linux 6.8 or newer is \
         needed; NBD works without (--nbd unix:PATH)"
    )]
    TooOld {
        /// `UBLK_F_*` that aren't there.
        missing: u64,
    },
    /// A command failed.
    #[error("ublk device {number}: {what}: {error}")]
    Command {
        /// The device's number.
        number: u32,
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        error: io::Error,
    },
    /// Somebody serves the device of this volume.
    #[error(
        "/dev/ublkb{number} belongs to this volume and is served by process {pid}: end that one \
         first"
    )]
    Served {
        /// The device's number.
        number: u32,
        /// Who.
        pid: i32,
    },
    /// The device that is left isn't what it should be.
    #[error(
        "/dev/ublkb{number} belongs to this volume but {why}: unmount what is on it, then `cairn \
         volume unexport` it and export it again"
    )]
    Unlike {
        /// The device's number.
        number: u32,
        /// How it differs.
        why: String,
    },
    /// The queue ended while the device was being started.
    #[error("ublk device {number}: its queue ended at the start: {error}")]
    Queue {
        /// The device's number.
        number: u32,
        /// The kernel's answer.
        error: io::Error,
    },
}

impl UblkError {
    /// A failed command, `errno` positive.
    pub(crate) fn command(number: u32, what: &'static str, errno: i32) -> Self {
        let error = io::Error::from_raw_os_error(errno);
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::NoPermission {
                what: what.to_owned(),
                error,
            },
            _ => Self::Command {
                number,
                what,
                error,
            },
        }
    }

    /// The system's number, where there was one.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Self::Command { error, .. } => error.raw_os_error(),
            _ => None,
        }
    }
}
