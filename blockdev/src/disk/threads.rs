//! A pool of threads with pread and pwrite, where io_uring is blocked.
//!
//! Takes the same commands as the ring and gives the same results, so everything above is one
//! code. Slower by a hand-off each way; `cairn status` says that it stands in.
//!
//! Invariants
//! - A command that a thread has begun gives exactly one result.
//! - The bell (an eventfd) rings whenever results went from none to some.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;

use super::sys;
use super::table::{Call, Command};
use crate::units::usize_of_u32;

/// A command on its way to a thread.
struct Job(Command);

// SAFETY: a command's addresses point into memory that the table keeps, untouched, until the
// command's result has been reaped; so one thread at a time uses it.
unsafe impl Send for Job {}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    threads: u32,
    idle: u32,
    closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    done: Mutex<Vec<(u64, i32)>>,
    finished: Condvar,
    /// An eventfd.
    bell: File,
}

/// See the module.
pub(crate) struct Threads {
    shared: Arc<Shared>,
    /// Pushed since the last submission.
    pushed: Vec<Job>,
    threads_max: u32,
}

/// Poison means that a thread panicked between two fields of a queue; every state in between is
/// valid here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Threads {
    /// A pool of up to `threads_max` threads, the first of which is started now.
    pub(crate) fn start(threads_max: u32) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            work: Condvar::new(),
            done: Mutex::default(),
            finished: Condvar::new(),
            bell: sys::event_fd()?,
        });
        spawn(&shared)?;
        lock(&shared.queue).threads = 1;
        Ok(Self {
            shared,
            pushed: Vec::new(),
            threads_max: threads_max.max(1),
        })
    }

    pub(crate) fn push(&mut self, command: &Command) {
        self.pushed.push(Job(*command));
    }

    /// Hands the pushed commands to the threads, starting more of them if they are all busy.
    pub(crate) fn submit(&mut self) {
        if self.pushed.is_empty() {
            return;
        }
        let mut queue = lock(&self.shared.queue);
        queue.jobs.extend(self.pushed.drain(..));
        let waiting = u32::try_from(queue.jobs.len()).unwrap_or(u32::MAX);
        let wanted = waiting.saturating_sub(queue.idle);
        for _ in 0..wanted.min(self.threads_max.saturating_sub(queue.threads)) {
            match spawn(&self.shared) {
                Ok(()) => queue.threads += 1,
                Err(error) => {
                    tracing::warn!(%error, threads = queue.threads, "no more I/O threads");
                    break;
                }
            }
        }
        drop(queue);
        self.shared.work.notify_all();
    }

    /// Appends the results that have come: key, and count or negative error number.
    pub(crate) fn reap(&mut self, into: &mut Vec<(u64, i32)>) {
        let mut done = lock(&self.shared.done);
        if done.is_empty() {
            return;
        }
        // EAGAIN says that the bell was answered already.
        drop((&self.shared.bell).read(&mut [0; 8]));
        into.append(&mut done);
    }

    /// Waits up to `timeout` for a result; for the end only, it blocks the thread.
    pub(crate) fn wait(&mut self, timeout: Duration) {
        let done = lock(&self.shared.done);
        if done.is_empty() {
            drop(self.shared.finished.wait_timeout(done, timeout));
        }
    }
}

impl AsRawFd for Threads {
    fn as_raw_fd(&self) -> RawFd {
        self.shared.bell.as_raw_fd()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        let mut queue = lock(&self.shared.queue);
        queue.closed = true;
        // None is left unless the table gave up waiting; what hasn't begun never begins.
        queue.jobs.clear();
        drop(queue);
        self.shared.work.notify_all();
    }
}

fn spawn(shared: &Arc<Shared>) -> io::Result<()> {
    let shared = Arc::clone(shared);
    std::thread::Builder::new()
        .name("cairn-io".to_owned())
        .spawn(move || work(&shared))
        .map(drop)
}

fn work(shared: &Shared) {
    while let Some(Job(command)) = next(shared) {
        let result = perform(&command);
        let mut done = lock(&shared.done);
        done.push((command.key, result));
        let first = done.len() == 1;
        drop(done);
        if first {
            // Only an overflow of 2^64 could refuse it.
            drop((&shared.bell).write(&1_u64.to_ne_bytes()));
            shared.finished.notify_all();
        }
    }
}

fn next(shared: &Shared) -> Option<Job> {
    let mut queue = lock(&shared.queue);
    loop {
        if let Some(job) = queue.jobs.pop_front() {
            return Some(job);
        }
        if queue.closed {
            return None;
        }
        queue.idle += 1;
        queue = shared
            .work
            .wait(queue)
            .unwrap_or_else(PoisonError::into_inner);
        queue.idle -= 1;
    }
}

fn perform(command: &Command) -> i32 {
    let fd = command.fd;
    let result = match command.call {
        Call::Read { ptr, len, offset } => signed(offset).map(|offset| {
            // SAFETY: `ptr` is good for `len` bytes until this command's result is reaped.
            unsafe { libc::pread(fd, ptr.cast(), usize_of_u32(len), offset) }
        }),
        Call::Write {
            ptr,
            len,
            offset,
            dsync,
        } => signed(offset).map(|offset| {
            let iovec = libc::iovec {
                iov_base: ptr.cast_mut().cast(),
                iov_len: usize_of_u32(len),
            };
            let flags = if dsync { libc::RWF_DSYNC } else { 0 };
            // SAFETY: `ptr` is good for `len` bytes until this command's result is reaped, and
            // pwritev2 only reads them.
            unsafe { libc::pwritev2(fd, &raw const iovec, 1, offset, flags) }
        }),
        Call::Sync => {
            // SAFETY: the command's file is kept open by the table; the borrow ends with the call.
            let file = unsafe { BorrowedFd::borrow_raw(fd) };
            Ok(nix::unistd::fdatasync(file).map_or(-1, |()| 0))
        }
        Call::Fallocate { mode, offset, len } => signed(offset).and_then(|offset| {
            let len = signed(len)?;
            // SAFETY: no memory is involved; the command's file is kept open by the table.
            let result = unsafe { libc::fallocate(fd, mode, offset, len) };
            Ok(if result == 0 { 0 } else { -1 })
        }),
    };
    match result {
        Err(errno) => -errno,
        Ok(-1) => -Errno::last_raw(),
        Ok(moved) => i32::try_from(moved).unwrap_or(i32::MAX),
    }
}

fn signed(offset: u64) -> Result<i64, i32> {
    i64::try_from(offset).map_err(|_| libc::EINVAL)
}
