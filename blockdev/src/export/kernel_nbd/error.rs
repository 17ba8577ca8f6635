//! Why the kernel's client can't be used.

use nix::errno::Errno;

/// A step with the kernel's NBD client that failed.
#[derive(Debug, thiserror::Error)]
pub enum KernelNbdError {
    /// The driver isn't there.
    #[error(
        "the kernel's nbd driver isn't loaded: `modprobe nbd`, or export at a socket \
         (--nbd unix:PATH) and attach that with nbdfuse"
    )]
    NoDriver,
    /// Not without privileges.
    #[error(
        "the daemon may not set up /dev/nbdN: it must run with CAP_SYS_ADMIN, and its unit needs the \
         lines of packaging/cairnd-kernel-nbd.conf; a socket works without (--nbd unix:PATH)"
    )]
    NotPermitted,
    /// It doesn't say whose a device is.
    #[error(
        "this kernel doesn't keep whose an NBD device is (Linux 5.14 and newer do), so that it could never be \
         found again; or /sys/block isn't to be seen from here: export at a socket (--nbd unix:PATH) and attach that with nbdfuse"
    )]
    NoIdentifier,
    /// It takes writes, and its server is to refuse them.
    #[error(
        "/dev/nbd{index} is left by an earlier daemon and takes writes: refused now, those that wait would be \
         lost; export it without --read-only"
    )]
    TakesWrites {
        /// Its number.
        index: u32,
    },
    /// Anything else.
    #[error("{what}: {errno}")]
    Failed {
        /// What was tried.
        what: &'static str,
        /// What the kernel says.
        errno: Errno,
    },
    /// The kernel's answer wasn't understood.
    #[error("{what}: the kernel gave no answer that makes sense")]
    NoAnswer {
        /// What was tried.
        what: &'static str,
    },
}

impl KernelNbdError {
    pub(super) fn of(what: &'static str, errno: Errno) -> Self {
        match errno {
            // The last: a sandbox without AF_NETLINK.
            Errno::EPERM | Errno::EACCES | Errno::EAFNOSUPPORT => Self::NotPermitted,
            errno => Self::Failed { what, errno },
        }
    }
}
