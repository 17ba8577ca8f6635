//! An engine thread and its handle: where one array's disks, rows and NBD connections live.
//!
//! ```text
//!   any thread ── EngineHandle::call(job) ──▶ bounded queue ──▶ engine thread:
//!                                              current_thread runtime + LocalSet + Reactor
//!                      ◀── oneshot ────────────  job makes a !Send future, runs there, answers
//! ```
//!
//! Invariants
//! - Nothing of an engine leaves its thread; jobs go in as `Send` closures, answers come out as `Send`
//!   values.
//! - Jobs run beside each other; one that waits holds up no other.
//! - [`EngineHandle::shut_down`] returns when the thread is gone and its disks are closed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use cairn_blockdev::disk::{Backend, IoKind, Reactor, ReactorConfig};
use cairn_blockdev::export::Memory;
use cairn_blockdev::export::nbd::Limits;
use cairn_blockdev::export::ublk::Remains;
use cairn_blockdev::{BlockDevice, BufPool, Env, LocalFuture};
use cairn_raid::{Array, Hooks, MemberDisk};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::block::BlockServing;
use crate::refuse::{Answer, internal};
use crate::serving::Serving;

/// Jobs that may wait for an engine; callers beyond it wait to be queued.
const JOBS_MAX: usize = 256;
/// Name of engine threads, by which a panic on one is known (see `main`).
pub const THREAD_NAME: &str = "cairn-engine";

/// What an engine thread owns.
pub struct Engine {
    /// Time and tasks of this thread.
    pub env: Env,
    /// I/O memory of this thread.
    pub pool: BufPool,
    /// Disk I/O of this thread.
    pub reactor: Reactor,
    /// What the array tells.
    pub hooks: Hooks,
    /// Bounds of the NBD connections of this thread.
    pub nbd_limits: Limits,
    /// Memory of the requests of this host's block devices, of either kind.
    pub block_memory: Memory,
    /// The running array, if any.
    pub array: RefCell<Option<Rc<Array>>>,
    /// Disks that this engine has open, by path: an array doesn't give its own out.
    disks: RefCell<BTreeMap<Rc<str>, Weak<dyn BlockDevice>>>,
    /// Disks of the host's pool of spares, open so that nobody else takes them; the scanner has them.
    pub(crate) held: RefCell<BTreeMap<Uuid, MemberDisk>>,
    /// Disks that are being opened, by path, and how often.
    pub(crate) opening: RefCell<BTreeMap<PathBuf, usize>>,
    /// Exports of the array's volumes, by volume and address.
    pub exports: RefCell<BTreeMap<(Uuid, String), Rc<Serving>>>,
    /// What block devices leave that were given up.
    pub(crate) remains: Remains,
    /// Volumes that are block devices of this host.
    pub devices: RefCell<BTreeMap<Uuid, Rc<BlockServing>>>,
}

impl Engine {
    /// The array, which a caller knows to run.
    pub fn array(&self) -> Answer<Rc<Array>> {
        let array = self.array.borrow().clone();
        array.ok_or_else(|| internal("the engine has no array"))
    }

    /// Remembers a disk for as long as somebody has it open.
    pub(crate) fn remember(&self, disk: &MemberDisk) {
        let mut disks = self.disks.borrow_mut();
        disks.retain(|_, device| device.strong_count() > 0);
        disks.insert(Rc::clone(&disk.path), Rc::downgrade(&disk.device));
    }

    /// The disk that was opened at this path, if somebody still has it open.
    pub(crate) fn opened(&self, path: &str) -> Option<MemberDisk> {
        let disks = self.disks.borrow();
        let (path, device) = disks.get_key_value(path)?;
        Some(MemberDisk {
            path: Rc::clone(path),
            device: device.upgrade()?,
        })
    }
}

type Job = Box<dyn FnOnce(Rc<Engine>) -> LocalFuture<()> + Send>;

enum Message {
    Run(Job),
    End,
}

/// What an engine is started with.
pub struct EngineConfig {
    /// Makes the hooks on the engine's thread.
    pub hooks: Box<dyn FnOnce() -> Hooks + Send>,
    /// Memory to register with the ring, in bytes.
    pub arena_bytes: usize,
    /// Payload memory of all NBD requests in flight, in bytes.
    pub nbd_in_flight_bytes_max: usize,
}

/// A way to an engine thread, from any other.
#[derive(Clone)]
pub struct EngineHandle {
    jobs: mpsc::Sender<Message>,
    backend: IoKind,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
    remains: Remains,
}

impl EngineHandle {
    /// Starts a thread with its reactor.
    pub async fn start(config: EngineConfig) -> Answer<Self> {
        let (jobs, queue) = mpsc::channel(JOBS_MAX);
        let (started, wait) = oneshot::channel();
        let remains = Remains::default();
        let kept = remains.clone();
        let thread = std::thread::Builder::new()
            .name(THREAD_NAME.into())
            .spawn(move || run(config, kept, queue, started))
            .map_err(|error| internal(format!("an engine thread can't be started: {error}")))?;
        let backend = wait
            .await
            .map_err(|_| internal("an engine thread ended at its start"))?
            .map_err(|error| internal(format!("an engine can't be started: {error}")))?;
        Ok(Self {
            jobs,
            backend,
            thread: Arc::new(Mutex::new(Some(thread))),
            remains,
        })
    }

    /// What its disk I/O goes through.
    pub fn backend(&self) -> &IoKind {
        &self.backend
    }

    /// Runs the future that `job` makes on the engine's thread, and gives its result.
    pub async fn call<T, F, Fut>(&self, job: F) -> Answer<T>
    where
        T: Send + 'static,
        F: FnOnce(Rc<Engine>) -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        let gone = || internal("the array's engine thread is gone");
        let (answer, wait) = oneshot::channel();
        let job: Job = Box::new(move |engine| {
            Box::pin(async move {
                // A caller that went away needs no answer.
                drop(answer.send(job(engine).await));
            })
        });
        self.jobs
            .send(Message::Run(job))
            .await
            .map_err(|_| gone())?;
        wait.await.map_err(|_| gone())
    }

    /// Ends the thread: jobs that still run are dropped, disks closed.
    pub async fn shut_down(self) {
        let thread = {
            let mut slot = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
            slot.take()
        };
        // Gone already is as good.
        drop(self.jobs.send(Message::End).await);
        let Some(thread) = thread else { return };
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            tracing::error!("an engine thread ended in a panic");
        }
        // Not before: see there.
        self.remains.clear();
    }
}

fn run(
    config: EngineConfig,
    remains: Remains,
    mut queue: mpsc::Receiver<Message>,
    started: oneshot::Sender<Result<IoKind, std::io::Error>>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_name("cairn-engine-helper")
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            drop(started.send(Err(error)));
            return;
        }
    };
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async move {
        let env = crate::runtime::env();
        let reactor = Backend::from_env().and_then(|backend| {
            Reactor::start(ReactorConfig {
                backend,
                arena_bytes: config.arena_bytes,
                clock: Some(Rc::clone(&env.clock)),
                ..ReactorConfig::default()
            })
        });
        let reactor = match reactor {
            Ok(reactor) => reactor,
            Err(error) => {
                drop(started.send(Err(std::io::Error::other(error))));
                return;
            }
        };
        let pool = reactor.pool();
        drop(started.send(Ok(reactor.kind())));
        let engine = Rc::new(Engine {
            env,
            nbd_limits: Limits::new(pool.clone(), config.nbd_in_flight_bytes_max),
            block_memory: Memory::new(pool.clone()),
            pool,
            reactor,
            hooks: (config.hooks)(),
            array: RefCell::default(),
            disks: RefCell::default(),
            held: RefCell::default(),
            opening: RefCell::default(),
            exports: RefCell::default(),
            devices: RefCell::default(),
            remains,
        });
        while let Some(Message::Run(job)) = queue.recv().await {
            tokio::task::spawn_local(job(Rc::clone(&engine)));
        }
        // Late callers get "gone" instead of waiting in a queue that nobody reads.
        queue.close();
        engine.exports.borrow_mut().clear();
        engine.devices.borrow_mut().clear();
        engine.array.borrow_mut().take();
        engine.held.borrow_mut().clear();
    });
}
