//! A ring that carries commands to one file: ublk's control device, or the character device of one
//! ublk device.
//!
//! Beside the engine's ring for disks and on the same thread, because its entries have another size
//! (128 bytes). A driver task submits what all tasks asked for in one call; an eventfd (the bell)
//! wakes it for completions.
//!
//! Invariants
//! - One command at a time per slot; as many slots as the submission queue has entries.
//! - A command's memory stays in its slot until the completion, whatever becomes of the caller, and
//!   is leaked if the ring ends before.
//! - The file is the ring's own: no command can meet a closed or another descriptor.
//! - The ring takes commands to files and no other operation.
//! - The ring of a live device isn't closed while commands are in it: see [`super::remains`].

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use io_uring::register::Restriction;
use io_uring::types::Fd;
use io_uring::{IoUring, cqueue, opcode, squeue};
use nix::libc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::remains::{Remains, Remnant};
use super::uapi::Op;
use crate::buf::Buf;
use crate::disk::sys::event_fd;
use crate::units::{u64_of, usize_of};

/// The bell's descriptor, for tokio to watch.
struct Watched(RawFd);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

#[derive(Default)]
enum State {
    #[default]
    Idle,
    Waiting(Waker),
    /// Its caller is gone.
    Abandoned,
    Done(i32),
}

#[derive(Default)]
struct Slot {
    state: State,
    memory: Option<Buf>,
}

struct Inner {
    /// Before `bell`: tokio must forget the descriptor before it is closed.
    readiness: AsyncFd<Watched>,
    /// `None` only while being dropped.
    ring: RefCell<Option<IoUring<squeue::Entry128, cqueue::Entry>>>,
    _bell: File,
    file: Arc<File>,
    /// Where the ring goes if it can't be closed yet.
    remains: RefCell<Option<Remains>>,
    slots: RefCell<Vec<Slot>>,
    driver: RefCell<Waker>,
    closed: Cell<bool>,
}

/// What a command came to: the kernel's result, and the memory that it was given.
pub(crate) struct Completed {
    pub(crate) code: i32,
    pub(crate) memory: Option<Buf>,
}

/// See the module.
#[derive(Clone)]
pub(crate) struct CommandRing(Rc<Inner>);

impl CommandRing {
    /// A ring for commands to `file`, with so many slots. Its driver runs on the current
    /// [`tokio::task::LocalSet`].
    pub(crate) fn start(file: File, slots: u16) -> io::Result<Self> {
        let ring = IoUring::<squeue::Entry128, cqueue::Entry>::builder()
            .setup_r_disabled()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .build(u32::from(slots).max(1).next_power_of_two())?;
        let bell = event_fd()?;
        ring.submitter().register_eventfd(bell.as_raw_fd())?;
        let mut allowed = [Restriction::sqe_op(opcode::UringCmd80::CODE)];
        ring.submitter().register_restrictions(&mut allowed)?;
        ring.submitter().register_enable_rings()?;
        let watched = Watched(bell.as_raw_fd());
        // SAFETY: `Inner` drops `readiness` before `_bell`; should the registration fail, `bell`
        // outlives it here.
        let readiness = unsafe { AsyncFd::register_with_interest(watched, Interest::READABLE) }
            .map_err(io::Error::from)?;
        let inner = Rc::new(Inner {
            readiness,
            ring: RefCell::new(Some(ring)),
            _bell: bell,
            file: Arc::new(file),
            remains: RefCell::new(None),
            slots: RefCell::new((0..slots).map(|_| Slot::default()).collect()),
            driver: RefCell::new(Waker::noop().clone()),
            closed: Cell::new(false),
        });
        let weak = Rc::downgrade(&inner);
        tokio::task::spawn_local(poll_fn(move |cx| drive(&weak, cx)));
        Ok(Self(inner))
    }

    /// The file that commands go to.
    pub(crate) fn file(&self) -> &File {
        &self.0.file
    }

    /// Requests come from now on: what is in the ring at its end is kept in `remains`.
    pub(crate) fn live(&self, remains: Remains) {
        *self.0.remains.borrow_mut() = Some(remains);
    }

    /// A slot that no command is in.
    pub(crate) fn free_slot(&self) -> Option<u16> {
        let slots = self.0.slots.borrow();
        let free = slots
            .iter()
            .position(|slot| matches!(slot.state, State::Idle));
        free.and_then(|index| u16::try_from(index).ok())
    }

    /// Sends a command from an idle slot and waits for its completion; `None` once the ring is
    /// closed. `memory` is what the command points at.
    pub(crate) async fn run(
        &self,
        slot: u16,
        op: Op,
        command: [u8; 80],
        memory: Option<Buf>,
    ) -> Option<Completed> {
        let inner = &self.0;
        if inner.closed.get() {
            return None;
        }
        let index = usize::from(slot);
        {
            let mut slots = inner.slots.borrow_mut();
            let slot = slots.get_mut(index)?;
            debug_assert!(matches!(slot.state, State::Idle));
            *slot = Slot {
                state: State::Waiting(Waker::noop().clone()),
                memory,
            };
        }
        let entry = opcode::UringCmd80::new(Fd(inner.file.as_raw_fd()), op.0)
            .cmd(command)
            .build()
            .user_data(u64_of(index));
        if let Some(ring) = &mut *inner.ring.borrow_mut() {
            // SAFETY: the file is the ring's, and memory that the command points at stays in its
            // slot until the completion has been reaped.
            let pushed = unsafe { ring.submission().push(&entry) };
            assert!(pushed.is_ok(), "more commands than submission entries");
        }
        inner.driver.borrow().wake_by_ref();
        let waiting = Waiting { inner, index };
        let code = poll_fn(|cx| inner.poll(index, cx)).await?;
        drop(waiting);
        let memory = inner.slots.borrow_mut().get_mut(index)?.memory.take();
        Some(Completed { code, memory })
    }

    /// Hands over what is queued now instead of at the driver's next turn.
    pub(crate) fn submit(&self) {
        self.0.turn();
    }

    /// Ends all waiting: callers get `None`. The kernel takes back what it has when the last handle
    /// is dropped.
    pub(crate) fn close(&self) {
        self.0.closed.set(true);
        let wakers: Vec<Waker> = {
            let slots = self.0.slots.borrow();
            let waiting = slots.iter().filter_map(|slot| match &slot.state {
                State::Waiting(waker) => Some(waker.clone()),
                _ => None,
            });
            waiting.collect()
        };
        wakers.iter().for_each(Waker::wake_by_ref);
    }
}

/// A caller that waits; gone before the completion it leaves the slot to it.
struct Waiting<'a> {
    inner: &'a Inner,
    index: usize,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut slots = self.inner.slots.borrow_mut();
        if let Some(slot) = slots.get_mut(self.index)
            && matches!(slot.state, State::Waiting(_))
        {
            slot.state = State::Abandoned;
        }
    }
}

/// One turn of the driver task; it ends with the last handle.
fn drive(weak: &Weak<Inner>, cx: &mut Context<'_>) -> Poll<()> {
    let Some(inner) = weak.upgrade() else {
        return Poll::Ready(());
    };
    inner.driver.borrow_mut().clone_from(cx.waker());
    loop {
        // Readiness is cleared before the queues are looked at: what comes in between rings again.
        let ready = match inner.readiness.poll_read_ready(cx) {
            Poll::Ready(Ok(mut guard)) => {
                guard.clear_ready();
                true
            }
            Poll::Pending => false,
            // The runtime is ending.
            Poll::Ready(Err(_)) => return Poll::Ready(()),
        };
        if !inner.turn() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if !ready {
            return Poll::Pending;
        }
    }
}

impl Inner {
    fn poll(&self, index: usize, cx: &mut Context<'_>) -> Poll<Option<i32>> {
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.get_mut(index) else {
            return Poll::Ready(None);
        };
        match &mut slot.state {
            State::Done(code) => {
                let code = *code;
                slot.state = State::Idle;
                Poll::Ready(Some(code))
            }
            State::Waiting(_) if self.closed.get() => Poll::Ready(None),
            State::Waiting(waker) => {
                waker.clone_from(cx.waker());
                Poll::Pending
            }
            State::Idle | State::Abandoned => Poll::Ready(None),
        }
    }

    /// Submits what is queued and wakes whose command has completed. False if a further turn is due.
    fn turn(&self) -> bool {
        let (submitted, completions) = {
            let mut ring = self.ring.borrow_mut();
            let Some(ring) = &mut *ring else { return true };
            let submitted = submit(ring);
            let entries = ring.completion();
            let entries = entries.map(|entry| (entry.user_data(), entry.result()));
            (submitted, entries.collect::<Vec<_>>())
        };
        for (key, code) in completions {
            // Nothing is woken or dropped while the slots are borrowed: both may run foreign code.
            let (waker, memory) = {
                let mut slots = self.slots.borrow_mut();
                let Some(slot) = slots.get_mut(usize_of(key)) else {
                    continue;
                };
                match std::mem::take(&mut slot.state) {
                    State::Waiting(waker) => {
                        slot.state = State::Done(code);
                        (Some(waker), None)
                    }
                    _ => (None, slot.memory.take()),
                }
            };
            drop(memory);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        submitted
    }
}

/// Hands the queued commands to the kernel and runs its deferred work, in one call, or in none if
/// there is nothing of either. False if the kernel wants to be asked again later.
fn submit(ring: &mut IoUring<squeue::Entry128, cqueue::Entry>) -> bool {
    loop {
        let queue = ring.submission();
        if queue.is_empty() && !queue.taskrun() && !queue.cq_overflow() {
            return true;
        }
        drop(queue);
        match ring.submit() {
            Ok(_) if ring.submission().is_empty() => return true,
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

/// io_uring_enter failed in a way that only a bug of ours explains.
#[expect(clippy::panic, reason = "requests would hang without a word otherwise")]
fn refused(error: &io::Error) -> ! {
    panic!("io_uring_enter: {error}")
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut under_way = false;
        for slot in self.slots.get_mut() {
            if !matches!(slot.state, State::Idle | State::Done(_)) {
                under_way = true;
                // The kernel may still write there.
                std::mem::forget(slot.memory.take());
            }
        }
        if under_way
            && let Some(remains) = self.remains.get_mut().take()
            && let Some(ring) = self.ring.get_mut().take()
        {
            remains.keep(Remnant {
                _ring: ring,
                _file: Arc::clone(&self.file),
            });
        }
    }
}
