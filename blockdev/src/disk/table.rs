//! The table of operations under way, for whichever backend performs them.
//!
//! Knows requests, retries, continuation of short transfers, and who waits. Does not know rings or
//! threads: it hands out [`Command`]s and is told their results.
//!
//! Invariants
//! - A request's memory and file stay here from the first command to the last completion. A
//!   caller that goes away ([`Table::abandon`]) leaves them here; that is what makes it safe to
//!   give their addresses to the kernel.
//! - An entry has exactly one command out until it is finished.
//! - A flush that failed stays failed ([`Target::sync_failed`]), whether or not its caller still
//!   waits: the kernel tells of a lost write only once, and only one of those who flush at a time.

use std::cell::Cell;
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use nix::libc;
use tokio::sync::Semaphore;

use super::counters::Counters;
use crate::buf::{Buf, SharedBuf};
use crate::env::Ticks;
use crate::error::{IoErrorKind, IoOp};
use crate::units::{u32_of, u64_of, usize_of, usize_of_u32};

/// Longest piece given to the kernel at once; it would cut at 2 GiB less a page by itself.
const PIECE_BYTES_MAX: usize = 1 << 30;
/// How often EINTR and EAGAIN are met with another try before they are the operation's error.
const RETRIES_MAX: u32 = 100;

/// An open file and what is counted and bounded for it.
pub(crate) struct Target {
    pub(crate) file: File,
    pub(crate) counters: Counters,
    /// Short transfers are continued only at multiples of this; a rest that isn't is the end.
    pub(crate) block: u32,
    /// Bounds what one disk, perhaps a hung one, has under way.
    pub(crate) slots: Semaphore,
    /// The error number of the first flush that failed.
    pub(crate) sync_failed: Cell<Option<i32>>,
}

impl Target {
    /// An open file on which nothing has been done.
    pub(crate) fn new(file: File, block: u32, slots: usize) -> Self {
        Self {
            file,
            counters: Counters::default(),
            block,
            slots: Semaphore::new(slots),
            sync_failed: Cell::new(None),
        }
    }

    /// Remembers a flush that failed, and lets none that makes data durable succeed after it.
    fn settle(&self, action: Action, result: Result<(), Failure>) -> Result<(), Failure> {
        let poisons = |errno| match action {
            Action::Sync => true,
            // The flush is a part of the write, and it may be what failed.
            Action::Write { dsync: true, .. } => matches!(
                IoErrorKind::of_errno(errno),
                IoErrorKind::Medium | IoErrorKind::Gone | IoErrorKind::TimedOut
            ),
            _ => false,
        };
        if let Err(Failure::Errno(errno)) = result
            && self.sync_failed.get().is_none()
            && poisons(errno)
        {
            self.sync_failed.set(Some(errno));
        }
        match (action, self.sync_failed.get()) {
            (Action::Sync | Action::Write { dsync: true, .. }, Some(errno)) => {
                result.and(Err(Failure::Errno(errno)))
            }
            _ => result,
        }
    }
}

/// What is to be done.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Action {
    Read { offset: u64 },
    Write { offset: u64, dsync: bool },
    Sync,
    Zero { offset: u64, len: u64 },
    Punch { offset: u64, len: u64 },
}

impl Action {
    fn op(self) -> IoOp {
        match self {
            Self::Read { .. } => IoOp::Read,
            Self::Write { .. } | Self::Zero { .. } => IoOp::Write,
            Self::Sync => IoOp::Flush,
            Self::Punch { .. } => IoOp::Discard,
        }
    }
}

/// The memory of a request.
pub(crate) enum Memory {
    None,
    Read(Buf),
    Write(SharedBuf),
}

/// One operation as its caller asks for it.
pub(crate) struct Request {
    pub(crate) target: Rc<Target>,
    pub(crate) action: Action,
    pub(crate) memory: Memory,
}

impl Request {
    fn len(&self) -> u64 {
        match (&self.memory, self.action) {
            (Memory::Read(buf), _) => u64_of(buf.len()),
            (Memory::Write(data), _) => u64_of(data.len()),
            (Memory::None, Action::Zero { len, .. } | Action::Punch { len, .. }) => len,
            (Memory::None, _) => 0,
        }
    }
}

/// Why an operation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The system's error number.
    Errno(i32),
    /// The file or device ends before the range does.
    End,
}

/// A finished operation: the memory comes back.
pub(crate) type Outcome = (Memory, Result<(), Failure>);

/// One system call for a backend.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Command {
    pub(crate) key: u64,
    pub(crate) fd: RawFd,
    pub(crate) call: Call,
}

/// What to call. Addresses are valid until the key's completion, by the table's invariant.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Call {
    Read {
        ptr: *mut u8,
        len: u32,
        offset: u64,
    },
    Write {
        ptr: *const u8,
        len: u32,
        offset: u64,
        dsync: bool,
    },
    Sync,
    Fallocate {
        mode: i32,
        offset: u64,
        len: u64,
    },
}

/// What a completion means.
pub(crate) enum Step {
    /// The operation goes on with this command.
    Again(Command),
    /// It is finished.
    Finished(Finished),
    /// No operation of that key is under way.
    Stray,
}

/// An operation that has left the table: what is to be given back, woken and dropped once the table
/// isn't borrowed any more.
pub(crate) struct Finished {
    /// Where its place among those of its disk goes back to.
    pub(crate) target: Rc<Target>,
    /// Whoever waits.
    pub(crate) waker: Option<Waker>,
    /// What it owned, if its caller is gone.
    pub(crate) abandoned: Option<Outcome>,
}

struct Active {
    request: Request,
    started: Option<Ticks>,
    done_bytes: usize,
    retries: u32,
    waker: Option<Waker>,
    abandoned: bool,
}

enum Entry {
    Free,
    Active(Active),
    Done(Outcome),
}

/// See the module. Results that nobody has collected yet bound nothing: were their places counted,
/// callers that start something new before they collect could wait for one another for ever.
pub(crate) struct Table {
    entries: Vec<Entry>,
    free: Vec<usize>,
    active: usize,
}

impl Table {
    /// An empty table with room for `capacity` operations.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            entries: (0..capacity).map(|_| Entry::Free).collect(),
            free: (0..capacity).rev().collect(),
            active: 0,
        }
    }

    /// Operations whose completion hasn't come.
    pub(crate) fn active(&self) -> usize {
        self.active
    }

    /// Takes a request in and gives its first command.
    pub(crate) fn insert(&mut self, request: Request, started: Option<Ticks>) -> Command {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry::Free);
            self.entries.len() - 1
        });
        request.target.counters.started();
        let mut active = Active {
            request,
            started,
            done_bytes: 0,
            retries: 0,
            waker: None,
            abandoned: false,
        };
        let command = active.command(u64_of(index));
        self.active += 1;
        if let Some(entry) = self.entries.get_mut(index) {
            *entry = Entry::Active(active);
        }
        command
    }

    /// The kernel's answer to a command: a count, or a negative error number.
    pub(crate) fn complete(&mut self, key: u64, result: i32, now: Option<Ticks>) -> Step {
        let index = usize_of(key);
        let Some(entry) = self.entries.get_mut(index) else {
            return Step::Stray;
        };
        let Entry::Active(active) = entry else {
            return Step::Stray;
        };
        let result = match active.advance(key, result) {
            Advance::Again(command) => return Step::Again(command),
            Advance::Finished(result) => result,
        };
        let Entry::Active(active) = std::mem::replace(entry, Entry::Free) else {
            return Step::Stray;
        };
        self.active -= 1;
        let Active {
            request,
            started,
            waker,
            abandoned,
            ..
        } = active;
        let result = request.target.settle(request.action, result);
        let moved = result.is_ok().then(|| request.len());
        let took = now.zip(started).map(|(now, then)| now.since(then));
        let op = request.action.op();
        request.target.counters.finished(op, moved, took);
        let outcome = (request.memory, result);
        let abandoned = if abandoned {
            self.free.push(index);
            Some(outcome)
        } else {
            *entry = Entry::Done(outcome);
            None
        };
        Step::Finished(Finished {
            target: request.target,
            waker,
            abandoned,
        })
    }

    /// The outcome of `key`, once; registers the waker before.
    pub(crate) fn poll(&mut self, key: u64, cx: &mut Context<'_>) -> Poll<Outcome> {
        let index = usize_of(key);
        let Some(entry) = self.entries.get_mut(index) else {
            return Poll::Pending;
        };
        match entry {
            Entry::Active(active) => {
                match &mut active.waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    none => *none = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
            Entry::Done(_) => match std::mem::replace(entry, Entry::Free) {
                Entry::Done(outcome) => {
                    self.free.push(index);
                    Poll::Ready(outcome)
                }
                _ => Poll::Pending,
            },
            Entry::Free => {
                debug_assert!(false, "operation {key} polled after its end");
                Poll::Pending
            }
        }
    }

    /// The caller of `key` is gone. What was finished comes back to be dropped; what is under way
    /// stays until its completion.
    pub(crate) fn abandon(&mut self, key: u64) -> Option<Outcome> {
        let index = usize_of(key);
        let entry = self.entries.get_mut(index)?;
        match entry {
            Entry::Active(active) => {
                active.abandoned = true;
                active.waker = None;
                None
            }
            Entry::Done(_) => match std::mem::replace(entry, Entry::Free) {
                Entry::Done(outcome) => {
                    self.free.push(index);
                    Some(outcome)
                }
                _ => None,
            },
            Entry::Free => None,
        }
    }
}

enum Advance {
    Again(Command),
    Finished(Result<(), Failure>),
}

impl Active {
    fn command(&mut self, key: u64) -> Command {
        let done = self.done_bytes;
        let call = match (&mut self.request.memory, self.request.action) {
            (Memory::Read(buf), Action::Read { offset }) => {
                let rest = buf.get_mut(done..).unwrap_or_default();
                Call::Read {
                    len: u32_of(rest.len().min(PIECE_BYTES_MAX)),
                    ptr: rest.as_mut_ptr(),
                    offset: offset + u64_of(done),
                }
            }
            (Memory::Write(data), Action::Write { offset, dsync }) => {
                let rest = data.get(done..).unwrap_or_default();
                Call::Write {
                    len: u32_of(rest.len().min(PIECE_BYTES_MAX)),
                    ptr: rest.as_ptr(),
                    offset: offset + u64_of(done),
                    dsync,
                }
            }
            (_, Action::Zero { offset, len }) => Call::Fallocate {
                mode: libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
                offset,
                len,
            },
            (_, Action::Punch { offset, len }) => Call::Fallocate {
                mode: libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
                offset,
                len,
            },
            (memory, action) => {
                assert!(
                    matches!((memory, action), (Memory::None, Action::Sync)),
                    "request whose memory doesn't suit its action"
                );
                Call::Sync
            }
        };
        Command {
            key,
            fd: self.request.target.file.as_raw_fd(),
            call,
        }
    }

    fn advance(&mut self, key: u64, result: i32) -> Advance {
        let Ok(moved) = u32::try_from(result) else {
            let errno = result.saturating_neg();
            if matches!(errno, libc::EINTR | libc::EAGAIN) && self.retries < RETRIES_MAX {
                self.retries += 1;
                return Advance::Again(self.command(key));
            }
            return Advance::Finished(Err(Failure::Errno(errno)));
        };
        let len = match &self.request.memory {
            Memory::None => return Advance::Finished(Ok(())),
            Memory::Read(buf) => buf.len(),
            Memory::Write(data) => data.len(),
        };
        self.done_bytes += usize_of_u32(moved);
        if self.done_bytes >= len {
            return Advance::Finished(Ok(()));
        }
        // Nothing moved, or a rest that O_DIRECT can't continue: the end lies inside the range.
        if moved == 0
            || !self
                .done_bytes
                .is_multiple_of(usize_of_u32(self.request.target.block))
        {
            return Advance::Finished(Err(Failure::End));
        }
        Advance::Again(self.command(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Rc<Target> {
        Rc::new(Target::new(File::open("/dev/null").unwrap(), 512, 0))
    }

    fn read(target: &Rc<Target>, len: usize) -> Request {
        Request {
            target: Rc::clone(target),
            action: Action::Read { offset: 4096 },
            memory: Memory::Read(Buf::zeroed(len)),
        }
    }

    fn ready(table: &mut Table, key: u64) -> Option<Result<(), Failure>> {
        match table.poll(key, &mut Context::from_waker(Waker::noop())) {
            Poll::Ready((_, result)) => Some(result),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_short_transfer_goes_on_where_it_stopped() {
        let (target, mut table) = (target(), Table::new(1));
        let first = table.insert(read(&target, 4096), None);
        let Call::Read { ptr: start, .. } = first.call else {
            panic!("{first:?}")
        };
        let Step::Again(next) = table.complete(first.key, 1024, None) else {
            panic!("not continued")
        };
        let Call::Read { ptr, len, offset } = next.call else {
            panic!("{next:?}")
        };
        assert_eq!((len, offset), (3072, 5120));
        assert_eq!(ptr.addr() - start.addr(), 1024);
        let end = table.complete(next.key, 3072, None);
        assert!(matches!(end, Step::Finished(_)));
        assert_eq!(ready(&mut table, first.key), Some(Ok(())));
        assert_eq!(target.counters.snapshot().read.bytes, 4096);
    }

    #[test]
    fn an_end_inside_the_range_is_an_error_and_not_zeros() {
        for short in [0, 100] {
            let (target, mut table) = (target(), Table::new(1));
            let command = table.insert(read(&target, 4096), None);
            table.complete(command.key, short, None);
            assert_eq!(ready(&mut table, command.key), Some(Err(Failure::End)));
        }
    }

    #[test]
    fn interruptions_are_retried_but_not_for_ever() {
        let (target, mut table) = (target(), Table::new(1));
        let command = table.insert(read(&target, 4096), None);
        for _ in 0..RETRIES_MAX {
            let step = table.complete(command.key, -libc::EAGAIN, None);
            assert!(matches!(step, Step::Again(_)));
        }
        table.complete(command.key, -libc::EAGAIN, None);
        assert_eq!(
            ready(&mut table, command.key),
            Some(Err(Failure::Errno(libc::EAGAIN)))
        );
        assert_eq!(target.counters.snapshot().read.errors, 1);
    }

    #[test]
    fn an_abandoned_operation_keeps_its_memory_and_its_place_until_the_completion() {
        let (target, mut table) = (target(), Table::new(1));
        let pool = crate::BufPool::new(1 << 20);
        let request = Request {
            target: Rc::clone(&target),
            action: Action::Read { offset: 0 },
            memory: Memory::Read(pool.take(4096)),
        };
        let command = table.insert(request, None);
        assert!(table.abandon(command.key).is_none());
        assert_eq!((pool.kept_bytes(), table.active()), (0, 1));
        assert_eq!(target.counters.snapshot().in_flight, 1);
        let Step::Finished(end) = table.complete(command.key, 4096, None) else {
            panic!("not finished")
        };
        assert!(end.abandoned.is_some() && end.waker.is_none());
        drop(end);
        assert_eq!((pool.kept_bytes(), table.active()), (4096, 0));
        table.insert(read(&target, 512), None);
    }

    #[test]
    fn a_finished_operation_that_nobody_collects_gives_its_place_back() {
        let (target, mut table) = (target(), Table::new(1));
        let command = table.insert(read(&target, 512), None);
        table.complete(command.key, 512, None);
        assert!(table.abandon(command.key).is_some());
        table.insert(read(&target, 512), None);
    }

    fn durable(target: &Rc<Target>, action: Action) -> Request {
        let memory = match action {
            Action::Write { .. } => Memory::Write(Buf::zeroed(4096).freeze()),
            _ => Memory::None,
        };
        Request {
            target: Rc::clone(target),
            action,
            memory,
        }
    }

    #[test]
    fn a_failed_flush_is_remembered_though_its_caller_is_gone() {
        let (target, mut table) = (target(), Table::new(1));
        let flush = table.insert(durable(&target, Action::Sync), None);
        table.abandon(flush.key);
        table.complete(flush.key, -libc::EIO, None);
        assert_eq!(target.sync_failed.get(), Some(libc::EIO));
    }

    #[test]
    fn of_flushes_at_a_time_none_succeeds_after_one_has_failed() {
        let dsync = Action::Write {
            offset: 0,
            dsync: true,
        };
        for (action, done) in [(Action::Sync, 0), (dsync, 4096)] {
            let (target, mut table) = (target(), Table::new(2));
            let first = table.insert(durable(&target, dsync), None);
            let second = table.insert(durable(&target, action), None);
            table.complete(first.key, -libc::EIO, None);
            table.complete(second.key, done, None);
            let lost = Some(Err(Failure::Errno(libc::EIO)));
            assert_eq!(ready(&mut table, second.key), lost);
        }
    }

    #[test]
    fn a_device_that_only_refuses_fua_has_lost_nothing() {
        let (target, mut table) = (target(), Table::new(1));
        let dsync = Action::Write {
            offset: 0,
            dsync: true,
        };
        let write = table.insert(durable(&target, dsync), None);
        table.complete(write.key, -libc::EOPNOTSUPP, None);
        assert_eq!(target.sync_failed.get(), None);
    }
}
