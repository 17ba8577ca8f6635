//! The one place of the daemon that trusts numbers from outside to be descriptors.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Descriptors that a service manager has handed to this process, with their names. To be asked
/// once, before anything else opens or closes descriptors.
pub(crate) fn inherited() -> std::io::Result<Vec<(OwnedFd, String)>> {
    let adopt = |(fd, name): (RawFd, String)| {
        // SAFETY: the environment says, addressed to this very process, that these descriptors are
        // its own; nobody else of the process has taken them, as this is asked once and first.
        (unsafe { OwnedFd::from_raw_fd(fd) }, name)
    };
    Ok(sd_notify::listen_fds_with_names()?.map(adopt).collect())
}
