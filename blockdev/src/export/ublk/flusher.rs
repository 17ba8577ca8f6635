//! The promise of a process that writes what others wait to have written.

use std::io;

use nix::errno::Errno;
use nix::libc;

/// Of `linux/prctl.h`; the libc crate doesn't have it yet.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// Tells the kernel that memory is freed through this thread and those that it starts: when memory is
/// short, none of them waits in an allocation for writes to a file system or a block device, which
/// may be one that this process itself serves. Wants CAP_SYS_RESOURCE.
pub fn promise_to_write() -> io::Result<()> {
    let (yes, unused): (libc::c_ulong, libc::c_ulong) = (1, 0);
    // SAFETY: no memory is involved.
    let result = unsafe { libc::prctl(PR_SET_IO_FLUSHER, yes, unused, unused, unused) };
    Errno::result(result)?;
    Ok(())
}
