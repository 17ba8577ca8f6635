//! The engine thread's disk I/O: takes requests from [`super::Disk`]s, batches them to the kernel,
//! wakes who waits.
//!
//! One reactor per engine thread. Its driver is a task on that thread: whoever starts an operation
//! wakes it, and by the time it runs every task that was ready has had its turn, so one system
//! call submits what all of them asked for. An eventfd that the ring or the threads ring (the bell)
//! wakes it for completions.
//!
//! Invariants
//! - Operations under way never exceed `entries`; the rest wait, in order.
//! - An operation's memory stays in the table until its completion, whatever becomes of the caller,
//!   and is leaked rather than freed if a completion hasn't come when the reactor ends.
//! - Nothing is woken or dropped while a cell is borrowed: both may run foreign code.

use std::cell::RefCell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use nix::libc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Semaphore;

use super::ring::Ring;
use super::table::{Command, Failure, Finished, Memory, Outcome, Request, Step, Table};
use super::threads::Threads;
use crate::buf::BufPool;
use crate::env::{Clock, Ticks};
use crate::units::{u32_of, usize_of_u32};

/// Environment variable that chooses a [`Backend`], for tests and for narrowing down a fault.
pub const BACKEND_VARIABLE: &str = "CAIRN_IO";

/// How long an ending reactor waits for what is under way: disks that answer at all do so in this.
const DRAIN_STEP: Duration = Duration::from_millis(100);
/// How many such steps before the memory under a hung disk is leaked.
const DRAIN_STEPS_MAX: u32 = 50;

/// Which way to the disks is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    /// io_uring where the system lets us, threads otherwise.
    #[default]
    Auto,
    /// io_uring, or an error.
    IoUring,
    /// The thread pool.
    Threads,
}

impl Backend {
    /// What the variable [`BACKEND_VARIABLE`] asks for: `auto`, `io_uring` or `threads`.
    pub fn from_env() -> Result<Self, ReactorError> {
        match std::env::var(BACKEND_VARIABLE).as_deref() {
            Err(std::env::VarError::NotPresent) | Ok("" | "auto") => Ok(Self::Auto),
            Ok("io_uring") => Ok(Self::IoUring),
            Ok("threads") => Ok(Self::Threads),
            Ok(other) => Err(ReactorError::BadBackend(other.to_owned())),
            Err(error) => Err(ReactorError::BadBackend(error.to_string())),
        }
    }
}

/// How a reactor is to be set up.
#[derive(Clone)]
pub struct ReactorConfig {
    /// Operations under way at once, over all disks; rounded up to a power of two, and fewer where
    /// RLIMIT_MEMLOCK leaves no room for as many.
    pub entries: u32,
    /// Operations under way at once on one disk, so that a hung one can't take every entry.
    pub entries_per_disk: u32,
    /// Memory to register with the ring, in bytes; less is taken where RLIMIT_MEMLOCK says so.
    pub arena_bytes: usize,
    /// Freed buffers that the pool keeps beyond the arena, in bytes.
    pub keep_max_bytes: usize,
    /// Threads of the pool that stands in for io_uring.
    pub threads: u32,
    /// Which way to the disks.
    pub backend: Backend,
    /// Measures latencies; they stay 0 without it.
    pub clock: Option<Rc<dyn Clock>>,
}

impl Default for ReactorConfig {
    fn default() -> Self {
        Self {
            entries: 1024,
            entries_per_disk: 128,
            arena_bytes: 64 << 20,
            keep_max_bytes: 64 << 20,
            threads: 32,
            backend: Backend::Auto,
            clock: None,
        }
    }
}

impl fmt::Debug for ReactorConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReactorConfig")
            .field("entries", &self.entries)
            .field("entries_per_disk", &self.entries_per_disk)
            .field("arena_bytes", &self.arena_bytes)
            .field("keep_max_bytes", &self.keep_max_bytes)
            .field("threads", &self.threads)
            .field("backend", &self.backend)
            .finish_non_exhaustive()
    }
}

/// Why there is no reactor.
#[derive(Debug, thiserror::Error)]
pub enum ReactorError {
    /// The variable asks for something unknown.
    #[error("{BACKEND_VARIABLE}={0}: must be auto, io_uring or threads")]
    BadBackend(String),
    /// io_uring was demanded and the system refuses it.
    #[error(
        "io_uring can't be set up ({0}); allow it (sysctl kernel.io_uring_disabled, the container's \
         seccomp profile), or don't set {BACKEND_VARIABLE}=io_uring so that threads stand in"
    )]
    NoIoUring(io::Error),
    /// The stand-in can't be started either.
    #[error("no I/O thread can be started ({0}); raise the limit on processes (ulimit -u)")]
    NoThreads(io::Error),
    /// The completion descriptor can't be watched.
    #[error("completions can't be watched ({0}); start the reactor on a tokio runtime with I/O")]
    NoReadiness(io::Error),
}

/// Which way to the disks is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IoKind {
    /// One io_uring.
    IoUring {
        /// The ring takes disk opcodes only.
        restricted: bool,
        /// Bytes of buffers registered with it; 0 where the limit on locked memory allows none.
        registered_bytes: usize,
    },
    /// A pool of threads.
    Threads {
        /// Why not io_uring.
        reason: String,
    },
}

impl fmt::Display for IoKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IoUring {
                registered_bytes, ..
            } => write!(
                f,
                "io_uring, {} MiB of registered buffers",
                registered_bytes >> 20
            ),
            Self::Threads { reason } => write!(f, "threads ({reason})"),
        }
    }
}

enum Engine {
    Ring(Box<Ring>),
    Threads(Threads),
}

impl Engine {
    fn push(&mut self, command: &Command) {
        match self {
            Self::Ring(ring) => ring.push(command),
            Self::Threads(threads) => threads.push(command),
        }
    }

    /// False if it is to be asked again later.
    fn submit(&mut self) -> bool {
        match self {
            Self::Ring(ring) => ring.submit(),
            Self::Threads(threads) => {
                threads.submit();
                true
            }
        }
    }

    fn reap(&mut self, into: &mut Vec<(u64, i32)>) {
        match self {
            Self::Ring(ring) => ring.reap(into),
            Self::Threads(threads) => threads.reap(into),
        }
    }

    fn wait(&mut self, timeout: Duration) {
        match self {
            Self::Ring(ring) => ring.wait(timeout),
            Self::Threads(threads) => threads.wait(timeout),
        }
    }
}

impl AsRawFd for Engine {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Ring(ring) => ring.as_raw_fd(),
            Self::Threads(threads) => threads.as_raw_fd(),
        }
    }
}

/// The engine's descriptor, for tokio to watch.
struct Watched(RawFd);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

struct Inner {
    /// Before `engine`: tokio must forget the descriptor before it is closed.
    readiness: AsyncFd<Watched>,
    engine: RefCell<Engine>,
    table: RefCell<Table>,
    slots: Semaphore,
    driver: RefCell<Waker>,
    results: RefCell<Vec<(u64, i32)>>,
    pool: BufPool,
    kind: IoKind,
    entries_per_disk: u32,
    clock: Option<Rc<dyn Clock>>,
}

/// Disk I/O of one engine thread; clones are the same reactor. See the module.
#[derive(Clone)]
pub struct Reactor(Rc<Inner>);

impl Reactor {
    /// Sets up the way to the disks and starts its driver on the current [`tokio::task::LocalSet`].
    ///
    /// # Panics
    /// Outside a `LocalSet`, as `tokio::task::spawn_local` does.
    pub fn start(config: ReactorConfig) -> Result<Self, ReactorError> {
        let entries = config.entries.max(1);
        let (engine, kind) = start_engine(&config, entries)?;
        let (capacity, pool) = match &engine {
            Engine::Ring(ring) => (
                ring.capacity(),
                match ring.arena() {
                    Some(arena) => BufPool::with_arena(config.keep_max_bytes, Rc::clone(arena)),
                    None => BufPool::new(config.keep_max_bytes),
                },
            ),
            Engine::Threads(_) => (entries, BufPool::new(config.keep_max_bytes)),
        };
        let capacity = usize_of_u32(capacity);
        let watched = Watched(engine.as_raw_fd());
        // SAFETY: the descriptor is the engine's, and `Inner` drops `readiness` before `engine`;
        // should the registration fail, `engine` outlives it here.
        let readiness = unsafe { AsyncFd::register_with_interest(watched, Interest::READABLE) }
            .map_err(|error| ReactorError::NoReadiness(error.into()))?;
        let inner = Rc::new(Inner {
            readiness,
            engine: RefCell::new(engine),
            table: RefCell::new(Table::new(capacity)),
            slots: Semaphore::new(capacity),
            driver: RefCell::new(Waker::noop().clone()),
            results: RefCell::new(Vec::with_capacity(capacity)),
            pool,
            kind,
            entries_per_disk: config.entries_per_disk.clamp(1, u32_of(capacity)),
            clock: config.clock,
        });
        let weak = Rc::downgrade(&inner);
        tokio::task::spawn_local(poll_fn(move |cx| drive(&weak, cx)));
        Ok(Self(inner))
    }

    /// The pool whose buffers are registered with the ring, as far as they are.
    pub fn pool(&self) -> BufPool {
        self.0.pool.clone()
    }

    /// Which way to the disks is in use.
    pub fn kind(&self) -> IoKind {
        self.0.kind.clone()
    }

    /// Operations under way, abandoned ones included.
    pub fn in_flight(&self) -> usize {
        self.0.table.borrow().active()
    }

    pub(crate) fn entries_per_disk(&self) -> usize {
        usize_of_u32(self.0.entries_per_disk)
    }

    /// Performs a request once a place for it is free. Nothing happens before the first poll; a
    /// future dropped after that leaves the operation to run to its end.
    pub(crate) async fn perform(&self, request: Request) -> Outcome {
        let inner = &self.0;
        let target = Rc::clone(&request.target);
        let (Ok(of_disk), Ok(of_all)) = (target.slots.acquire().await, inner.slots.acquire().await)
        else {
            // Neither semaphore is ever closed.
            return (request.memory, Err(Failure::Errno(libc::ESHUTDOWN)));
        };
        // Given back by the turn that the completion comes in.
        of_disk.forget();
        of_all.forget();
        let command = inner.table.borrow_mut().insert(request, inner.now());
        inner.engine.borrow_mut().push(&command);
        inner.driver.borrow().wake_by_ref();
        Operation {
            inner,
            key: Some(command.key),
        }
        .await
    }
}

impl fmt::Debug for Reactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Reactor({}, {} in flight)",
            self.0.kind,
            self.in_flight()
        )
    }
}

/// One operation's caller; dropping it abandons the operation.
struct Operation<'a> {
    inner: &'a Rc<Inner>,
    key: Option<u64>,
}

impl Future for Operation<'_> {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let Some(key) = self.key else {
            return Poll::Ready((Memory::None, Err(Failure::Errno(libc::ESHUTDOWN))));
        };
        let polled = self.inner.table.borrow_mut().poll(key, cx);
        if polled.is_ready() {
            self.key = None;
        }
        polled
    }
}

impl Drop for Operation<'_> {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        let outcome = self.inner.table.borrow_mut().abandon(key);
        drop(outcome);
    }
}

fn start_engine(config: &ReactorConfig, entries: u32) -> Result<(Engine, IoKind), ReactorError> {
    let reason = if config.backend == Backend::Threads {
        format!("asked for, {BACKEND_VARIABLE}=threads")
    } else {
        match Ring::start(entries, config.arena_bytes) {
            Ok(ring) => {
                let kind = IoKind::IoUring {
                    restricted: ring.is_restricted(),
                    registered_bytes: ring.arena().map_or(0, |arena| arena.len()),
                };
                return Ok((Engine::Ring(Box::new(ring)), kind));
            }
            Err(error) if config.backend == Backend::IoUring => {
                return Err(ReactorError::NoIoUring(error));
            }
            Err(error) => format!("io_uring: {error}"),
        }
    };
    let threads = Threads::start(config.threads).map_err(ReactorError::NoThreads)?;
    Ok((Engine::Threads(threads), IoKind::Threads { reason }))
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
            Poll::Ready(Err(error)) => {
                tracing::debug!(%error, "the runtime is ending");
                return Poll::Ready(());
            }
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
    fn now(&self) -> Option<Ticks> {
        self.clock.as_ref().map(|clock| clock.now())
    }

    /// Submits what is queued and finishes what has completed. False if a further turn is due.
    fn turn(&self) -> bool {
        let mut results = self.results.take();
        let submitted = {
            let mut engine = self.engine.borrow_mut();
            let submitted = engine.submit();
            engine.reap(&mut results);
            submitted
        };
        let now = if results.is_empty() { None } else { self.now() };
        let mut again = false;
        for (key, result) in results.drain(..) {
            let step = self.table.borrow_mut().complete(key, result, now);
            match step {
                Step::Again(command) => {
                    self.engine.borrow_mut().push(&command);
                    again = true;
                }
                Step::Stray => {
                    tracing::error!(key, "a completion of no operation under way; ignored");
                }
                Step::Finished(Finished {
                    target,
                    waker,
                    abandoned,
                }) => {
                    drop(abandoned);
                    target.slots.add_permits(1);
                    self.slots.add_permits(1);
                    if let Some(waker) = waker {
                        waker.wake();
                    }
                }
            }
        }
        self.results.replace(results);
        submitted && !again
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // No caller is left: each holds a handle. What is under way was abandoned.
        for _ in 0..DRAIN_STEPS_MAX {
            self.turn();
            if self.table.get_mut().active() == 0 {
                break;
            }
            self.engine.get_mut().wait(DRAIN_STEP);
        }
        let hung = self.table.get_mut().active();
        if hung > 0 {
            tracing::error!(
                operations = hung,
                "disk operations haven't ended; their memory is given up"
            );
            let table = std::mem::replace(self.table.get_mut(), Table::new(0));
            std::mem::forget(table);
        }
        // The driver finds no handle and ends.
        self.driver.get_mut().wake_by_ref();
    }
}
