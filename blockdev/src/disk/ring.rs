//! The io_uring behind a [`super::Reactor`].
//!
//! Knows set-up, the opcode allow-list, registered memory, submission and reaping. Does not know
//! whose operations these are; the table (`disk::table`) keeps their memory alive.
//!
//! Invariants
//! - Never more commands are out than the submission queue has entries: the table's bound.
//! - Only operations on the allow-list can be submitted once the ring is enabled: seccomp doesn't
//!   see what a ring does, so the ring itself is restricted.
//! - Files are not registered: a registered file keeps its lock and its exclusive hold for as long
//!   as the kernel defers the slot's release, and the next opener would meet "in use".

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use io_uring::register::Restriction;
use io_uring::types::{Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{Builder, IoUring, cqueue, opcode, squeue};
use nix::libc;

use super::sys;
use super::table::{Call, Command};
use crate::buf::Arena;
use crate::units::usize_of_u32;

/// Index of the arena among the ring's registered buffers.
const ARENA_INDEX: u16 = 0;

/// Fewer entries than this aren't worth a ring where locked memory is short.
const ENTRIES_MIN: u32 = 64;

/// Everything the ring may ever be asked to do.
const OPCODES: [u8; 6] = [
    opcode::Read::CODE,
    opcode::Write::CODE,
    opcode::ReadFixed::CODE,
    opcode::WriteFixed::CODE,
    opcode::Fsync::CODE,
    opcode::Fallocate::CODE,
];

/// Set-ups from the best to what every kernel since 5.10 has. `DEFER_TASKRUN` completes in this
/// thread's own calls only: no interrupted `epoll_wait`, and completions come in batches. With it
/// the ring's own descriptor isn't made readable by work that waits to be run (seen on Linux 6.18:
/// the reader sleeps for ever), while a registered eventfd is; so an eventfd is what is watched.
const SETUPS: [fn(&mut Builder<squeue::Entry, cqueue::Entry>); 3] = [
    |builder| {
        builder
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all();
    },
    |builder| {
        builder
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all();
    },
    |_| {},
];

/// See the module.
pub(crate) struct Ring {
    ring: IoUring,
    /// Registered with the ring; kept mapped for as long as it is.
    arena: Option<Rc<Arena>>,
    restricted: bool,
    /// An eventfd that the ring counts its completions in.
    bell: File,
}

impl Ring {
    /// A ring for up to `entries` commands at once, with an arena of up to `arena_bytes` registered.
    pub(crate) fn start(entries: u32, arena_bytes: usize) -> io::Result<Self> {
        let ring = build(entries)?;
        let arena = register_arena(&ring, arena_bytes);
        let bell = sys::event_fd()?;
        ring.submitter().register_eventfd(bell.as_raw_fd())?;
        let mut allowed = OPCODES.map(Restriction::sqe_op);
        // Kernels without restrictions (before 5.10) say EINVAL; the ring is as good without.
        let restricted = ring.submitter().register_restrictions(&mut allowed).is_ok();
        ring.submitter().register_enable_rings()?;
        Ok(Self {
            ring,
            arena,
            restricted,
            bell,
        })
    }

    /// The registered memory.
    pub(crate) fn arena(&self) -> Option<&Rc<Arena>> {
        self.arena.as_ref()
    }

    /// Whether the opcode allow-list is in force.
    pub(crate) fn is_restricted(&self) -> bool {
        self.restricted
    }

    /// Commands that the queue holds.
    pub(crate) fn capacity(&self) -> u32 {
        self.ring.params().sq_entries()
    }

    /// Puts a command in the submission queue; the kernel sees it at the next [`Ring::submit`].
    pub(crate) fn push(&mut self, command: &Command) {
        let entry = self.entry(command).user_data(command.key);
        // SAFETY: the addresses in the entry lie in memory that the table keeps, untouched, until
        // this key's completion has been reaped, and the file is kept open by the same entry.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        assert!(pushed.is_ok(), "more commands than submission entries");
    }

    fn entry(&self, command: &Command) -> squeue::Entry {
        let fd = Fd(command.fd);
        match command.call {
            Call::Read { ptr, len, offset } if self.is_registered(ptr, len) => {
                opcode::ReadFixed::new(fd, ptr, len, ARENA_INDEX)
                    .offset(offset)
                    .build()
            }
            Call::Read { ptr, len, offset } => {
                opcode::Read::new(fd, ptr, len).offset(offset).build()
            }
            Call::Write {
                ptr,
                len,
                offset,
                dsync,
            } => {
                let rw_flags = if dsync { libc::RWF_DSYNC } else { 0 };
                if self.is_registered(ptr, len) {
                    opcode::WriteFixed::new(fd, ptr, len, ARENA_INDEX)
                        .offset(offset)
                        .rw_flags(rw_flags)
                        .build()
                } else {
                    opcode::Write::new(fd, ptr, len)
                        .offset(offset)
                        .rw_flags(rw_flags)
                        .build()
                }
            }
            Call::Sync => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
            Call::Fallocate { mode, offset, len } => opcode::Fallocate::new(fd, len)
                .offset(offset)
                .mode(mode)
                .build(),
        }
    }

    fn is_registered(&self, ptr: *const u8, len: u32) -> bool {
        self.arena
            .as_ref()
            .is_some_and(|arena| arena.contains(ptr, usize_of_u32(len)))
    }

    /// Hands the queued commands to the kernel and runs its deferred work, in one call, or in none
    /// if there is nothing of either. False if the kernel wants to be asked again later.
    pub(crate) fn submit(&mut self) -> bool {
        loop {
            let queue = self.ring.submission();
            if queue.is_empty() && !queue.taskrun() && !queue.cq_overflow() {
                return true;
            }
            drop(queue);
            match self.ring.submit() {
                Ok(_) if self.ring.submission().is_empty() => return true,
                // A part was taken, or the call was interrupted before any.
                Ok(_) => {}
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // Out of memory for requests, or completions wait to be reaped.
                    Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM) => return false,
                    _ => refused(&error),
                },
            }
        }
    }

    /// Appends the completions that have come: key and result.
    pub(crate) fn reap(&mut self, into: &mut Vec<(u64, i32)>) {
        into.extend(
            self.ring
                .completion()
                .map(|entry| (entry.user_data(), entry.result())),
        );
    }

    /// Waits up to `timeout` for a completion; for the end only, it blocks the thread.
    pub(crate) fn wait(&mut self, timeout: Duration) {
        let timespec = Timespec::from(timeout);
        let args = SubmitArgs::new().timespec(&timespec);
        // ETIME and EINTR both mean: look again.
        drop(self.ring.submitter().submit_with_args(1, &args));
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.bell.as_raw_fd()
    }
}

/// io_uring_enter failed in a way that only a bug of ours explains: a ring of another thread, a
/// ring not enabled, a bad address.
#[expect(
    clippy::panic,
    reason = "operations would hang without a word otherwise"
)]
fn refused(error: &io::Error) -> ! {
    panic!("io_uring_enter: {error}")
}

/// The best set-up that the kernel knows, with as many entries as RLIMIT_MEMLOCK lets through:
/// newer kernels count a ring's own memory against it.
fn build(entries: u32) -> io::Result<IoUring> {
    let mut entries = entries;
    let mut setups = SETUPS.iter();
    let mut last = io::Error::from_raw_os_error(libc::EINVAL);
    let mut setup = setups.next();
    while let Some(apply) = setup {
        let mut builder = IoUring::builder();
        builder.setup_clamp().setup_r_disabled();
        apply(&mut builder);
        last = match builder.build(entries) {
            Ok(ring) => return Ok(ring),
            Err(error) => error,
        };
        match last.raw_os_error() {
            // An older kernel doesn't know a flag: a simpler set-up may do.
            Some(libc::EINVAL) => setup = setups.next(),
            Some(libc::ENOMEM) if entries > ENTRIES_MIN => entries /= 2,
            _ => break,
        }
    }
    Err(last)
}

/// Registers as large an arena as RLIMIT_MEMLOCK lets through, halving down to nothing.
fn register_arena(ring: &IoUring, bytes: usize) -> Option<Rc<Arena>> {
    let mut bytes = bytes;
    loop {
        let arena = match Arena::map(bytes) {
            Ok(Some(arena)) => arena,
            Ok(None) => return None,
            Err(error) => {
                tracing::warn!(bytes, %error, "no memory for registered buffers");
                return None;
            }
        };
        let iovec = libc::iovec {
            iov_base: arena.base().as_ptr().cast(),
            iov_len: arena.len(),
        };
        // SAFETY: the range is one live mapping, and the arena is kept beside the ring for as long
        // as the ring lives.
        match unsafe { ring.submitter().register_buffers(&[iovec]) } {
            Ok(()) => return Some(Rc::new(arena)),
            Err(error) => {
                tracing::debug!(bytes, %error, "arena not registered, trying half");
                bytes /= 2;
            }
        }
    }
}
