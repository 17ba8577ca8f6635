//! The promises of a process that writes what others wait to have written: when the host's memory is
//! short, it must not wait for memory that only its own writes can free.

use std::io;

use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

/// Of `linux/prctl.h`; the libc crate doesn't have it yet.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// Tells the kernel that memory is freed through this thread and those that it starts: none of them
/// waits in an allocation for writes to a file system or a block device, which may be one that this
/// process itself serves. Wants CAP_SYS_RESOURCE.
pub fn promise_to_write() -> io::Result<()> {
    let (yes, unused): (libc::c_ulong, libc::c_ulong) = (1, 0);
    // SAFETY: no memory is involved.
    let result = unsafe { libc::prctl(PR_SET_IO_FLUSHER, yes, unused, unused, unused) };
    Errno::result(result)?;
    Ok(())
}

/// Keeps what the process has touched, its program too, in memory from now on, so that no write waits
/// for a page of its own. Only without a limit on locked memory: below one, later allocations would
/// fail at it. False if there is one that this process may not lift (CAP_SYS_RESOURCE).
pub fn stay_in_memory() -> io::Result<bool> {
    let (limit, _) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    // A unit gives the right; a privileged daemon that somebody starts by hand takes it.
    if limit != RLIM_INFINITY
        && setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).is_err()
    {
        return Ok(false);
    }
    // What is mapped and never touched costs nothing.
    let on_fault = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_fault)?;
    Ok(true)
}
