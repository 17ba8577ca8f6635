//! What is measured: an array, or the disks alone, on an engine thread as the daemon starts it.
//!
//! Jobs run one after the other on that thread, and see what it has ([`Stage`]).

use std::rc::Rc;
use std::time::{Duration, Instant};

use cairn_blockdev::disk::{Disk, IoKind, OpenMode};
use cairn_blockdev::{BlockDevice, LocalFuture};
use cairn_raid::{
    Array, ArrayEvent, CreateSpec, EventKind, EventSink, Hooks, Level, MemberDisk, MemoryShare,
    Witness, WitnessStore, create,
};
use cairnd::engine::{Engine, EngineConfig, EngineHandle};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::interrupt::Interrupt;
use super::load::{self, Ground, Load, Sample};
use super::spread::Spread;
use super::stamps::Stamps;
use super::usage::{DiskWork, cpu_time};

/// Memory that an engine registers with its ring, as the daemon has it for an array.
const ARENA_BYTES: usize = 64 << 20;
/// How long clients are remembered, generously.
const CLIENTS_FORGOTTEN: Duration = Duration::from_secs(1);
/// How often a chore is looked at.
const CHORE_LOOK: Duration = Duration::from_millis(2);
/// The volume that loads work on.
const VOLUME: &str = "load";
/// The volume that is made to be written for the first time.
const FRESH: &str = "fresh";

/// What a subject is made of.
#[derive(Debug, Clone)]
pub enum Make {
    /// An array.
    Array {
        /// Its level.
        level: Level,
        /// Its chunk.
        chunk_bytes: u32,
        /// Journal of a member, in bytes; `None`: there is none.
        journal_bytes: Option<u64>,
        /// Whether blocks have checksums.
        integrity: bool,
        /// Size of the volume.
        volume_bytes: u64,
    },
    /// The disks side by side.
    Raw {
        /// So much of each.
        disk_bytes: u64,
    },
}

/// What an array does beside its clients' requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chore {
    /// Fills the first member again, which was taken out and came back blank.
    Rebuild,
    /// Reads and compares everything.
    Scrub,
}

/// What came of a chore.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Done {
    /// What it took.
    pub seconds: f64,
    /// Processor time of the whole process meanwhile.
    pub cpu_seconds: f64,
    /// Bytes written to the first disk.
    pub first_disk_bytes: u64,
    /// What the disks did meanwhile.
    pub disks: DiskWork,
    /// The load beside it.
    pub load: Option<Sample>,
}

/// What an engine thread has for its jobs.
pub struct Stage {
    engine: Rc<Engine>,
    /// All disks.
    pub disks: Rc<Vec<Disk>>,
    /// What loads work on.
    pub device: Rc<dyn BlockDevice>,
    /// The array; the disks alone have none.
    pub array: Option<Rc<Array>>,
    stamps: Option<Rc<Stamps>>,
    interrupt: Interrupt,
}

type Answer<T> = Result<T, String>;
type Job = Box<dyn FnOnce(Rc<Stage>) -> LocalFuture<()> + Send>;

/// A subject, from outside of its thread.
pub struct Subject {
    jobs: mpsc::Sender<Job>,
    engine: EngineHandle,
}

/// Says what happens to the array that shouldn't.
struct Talk;

impl EventSink for Talk {
    fn event(&self, event: ArrayEvent) {
        let is_bad = matches!(
            event.kind,
            EventKind::ArrayFailed
                | EventKind::FailSpare
                | EventKind::RebuildStopped
                | EventKind::Mismatch
                | EventKind::Repaired
                | EventKind::DiskError
                | EventKind::BadBlock
                | EventKind::DiskSlow
                | EventKind::ApplyStuck
        );
        if is_bad {
            eprintln!("array {}: {}: {}", event.array, event.kind, event.detail);
        }
    }
}

impl WitnessStore for Talk {
    fn record(&self, _: Witness) -> LocalFuture<Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl Subject {
    /// Starts an engine thread and makes the subject of these disks. With `stamped`, what is written can
    /// be compared.
    pub async fn start(
        make: Make,
        paths: Vec<String>,
        stamped: bool,
        interrupt: Interrupt,
    ) -> Answer<Self> {
        let engine = EngineHandle::start(EngineConfig {
            hooks: Box::new(|| Hooks {
                events: Rc::new(Talk),
                witness: Rc::new(Talk),
                memory: MemoryShare::FULL,
            }),
            arena_bytes: ARENA_BYTES,
            nbd_in_flight_bytes_max: 0,
        })
        .await
        .map_err(|error| format!("{error:?}"))?;
        let (jobs, mut queue) = mpsc::channel::<Job>(1);
        let (ready, wait) = oneshot::channel();
        let handle = engine.clone();
        tokio::spawn(async move {
            let stays = handle.call(move |engine| async move {
                match Stage::set(engine, make, paths, stamped, interrupt).await {
                    Ok(stage) => {
                        // Whoever asked waits for it, or is gone with everything else.
                        drop(ready.send(Ok(())));
                        let stage = Rc::new(stage);
                        while let Some(job) = queue.recv().await {
                            job(Rc::clone(&stage)).await;
                        }
                    }
                    Err(error) => drop(ready.send(Err(error))),
                }
            });
            // The engine's end is its thread's, and is waited for there.
            drop(stays.await);
        });
        wait.await.map_err(text)??;
        Ok(Self { jobs, engine })
    }

    /// What its disk I/O goes through.
    pub fn backend(&self) -> &IoKind {
        self.engine.backend()
    }

    /// Runs the future that `job` makes on the subject's thread.
    pub async fn call<T, F, Fut>(&self, job: F) -> Answer<T>
    where
        T: Send + 'static,
        F: FnOnce(Rc<Stage>) -> Fut + Send + 'static,
        Fut: Future<Output = Answer<T>> + 'static,
    {
        let (answer, wait) = oneshot::channel();
        let job: Job = Box::new(move |stage| {
            Box::pin(async move {
                drop(answer.send(job(stage).await));
            })
        });
        let gone = "the subject's thread is gone";
        self.jobs.send(job).await.map_err(|_| gone)?;
        wait.await.map_err(|_| gone)?
    }

    /// Runs a load on the volume, or on the raw disks.
    pub async fn load(&self, load: Load) -> Answer<Sample> {
        self.call(move |stage| async move { stage.load(load).await })
            .await
    }

    /// Brings everything to its place, and waits for it.
    pub async fn drain(&self) -> Answer<()> {
        self.call(|stage| async move { stage.drain().await }).await
    }

    /// Runs a load on rows that were never written. Its figures include that all is in its place.
    pub async fn load_fresh(&self, load: Load) -> Answer<Sample> {
        self.call(move |stage| async move { stage.load_fresh(load).await })
            .await
    }

    /// Takes the first member out.
    pub async fn fail_one(&self) -> Answer<()> {
        self.call(|stage| async move {
            let array = stage.array.as_ref().ok_or("no array")?;
            let first = stage.disks.first().ok_or("no disks")?;
            let path = first.name();
            array.fail_member(&path).await.map_err(text)
        })
        .await
    }

    /// Does a chore to its end, with a load beside it.
    pub async fn chore(&self, chore: Chore, load: Option<Load>) -> Answer<Done> {
        self.call(move |stage| async move { stage.chore(chore, load).await })
            .await
    }

    /// Compares all that was written with what is read; the number of blocks.
    pub async fn compare(&self) -> Answer<u64> {
        self.call(|stage| async move {
            let stamps = stage.stamps.as_ref().ok_or("nothing was noted")?;
            stamps.compare(&*stage.device).await
        })
        .await
    }

    /// Stops the array, and ends the thread.
    pub async fn end(self) -> Answer<()> {
        let stopped = self
            .call(|stage| async move {
                match &stage.array {
                    Some(array) => array.stop().await.map_err(text),
                    None => Ok(()),
                }
            })
            .await;
        drop(self.jobs);
        self.engine.shut_down().await;
        stopped
    }
}

impl Stage {
    async fn set(
        engine: Rc<Engine>,
        make: Make,
        paths: Vec<String>,
        stamped: bool,
        interrupt: Interrupt,
    ) -> Answer<Self> {
        let mut disks = Vec::new();
        for path in &paths {
            let disk = Disk::open(&engine.reactor, path, OpenMode::Exclusive).map_err(text)?;
            disks.push(disk);
        }
        let (device, array): (Rc<dyn BlockDevice>, _) = match make {
            Make::Raw { disk_bytes } => (Rc::new(Spread::new(disks.clone(), disk_bytes)), None),
            Make::Array {
                level,
                chunk_bytes,
                journal_bytes,
                integrity,
                volume_bytes,
            } => {
                let spec = CreateSpec {
                    name: if journal_bytes.is_some() { "on" } else { "off" }.into(),
                    level,
                    chunk_bytes,
                    home_host: Uuid::new_v4(),
                    // Without a journal the zone is as small as can be.
                    journal_bytes: Some(journal_bytes.unwrap_or(1)),
                    integrity,
                    journal: journal_bytes.is_some(),
                };
                let members = disks.iter().map(|disk| MemberDisk {
                    path: disk.name(),
                    device: Rc::new(disk.clone()),
                });
                let made = create(
                    engine.env.clone(),
                    engine.pool.clone(),
                    spec,
                    members.collect(),
                    Vec::new(),
                    engine.hooks.clone(),
                );
                let array = made.await.map_err(text)?;
                *engine.array.borrow_mut() = Some(Rc::clone(&array));
                array
                    .create_volume(VOLUME, volume_bytes)
                    .await
                    .map_err(text)?;
                (array.open_volume(VOLUME).map_err(text)?, Some(array))
            }
        };
        Ok(Self {
            engine,
            disks: Rc::new(disks),
            device,
            array,
            stamps: stamped.then(Rc::default),
            interrupt,
        })
    }

    fn ground(&self, device: Rc<dyn BlockDevice>, stamps: Option<Rc<Stamps>>) -> Ground {
        Ground {
            device,
            pool: self.engine.pool.clone(),
            stamps,
            interrupt: self.interrupt.clone(),
        }
    }

    async fn load(&self, load: Load) -> Answer<Sample> {
        let ground = self.ground(Rc::clone(&self.device), self.stamps.clone());
        let nothing = std::future::ready(Ok(()));
        load::run(load, ground, Rc::clone(&self.disks), nothing).await
    }

    async fn drain(&self) -> Answer<()> {
        match &self.array {
            Some(array) => array.drain().await.map_err(text),
            None => Ok(()),
        }
    }

    fn first(&self) -> Answer<MemberDisk> {
        let disk = self.disks.first().ok_or("no disks")?;
        Ok(MemberDisk {
            path: disk.name(),
            device: Rc::new(disk.clone()),
        })
    }

    async fn chore(self: Rc<Self>, chore: Chore, load: Option<Load>) -> Answer<Done> {
        let array = self.array.as_ref().ok_or("no array")?;
        let first = self.first()?;
        if chore == Chore::Rebuild {
            array.fail_member(&first.path).await.map_err(text)?;
        }
        // Clients of a moment ago would hold it up.
        self.engine.env.clock.sleep(CLIENTS_FORGOTTEN).await;
        let runs = array.scrub_record().runs;
        let first_disk = |disks: &[Disk]| DiskWork::of(disks.get(..1).unwrap_or_default());
        match chore {
            Chore::Rebuild => array.add_spare(first).await.map_err(text)?,
            Chore::Scrub => drop(array.scrub_start().await.map_err(text)?),
        }
        let (began, cpu) = (Instant::now(), cpu_time());
        let (before, before_first) = (DiskWork::of(&self.disks), first_disk(&self.disks));
        let beside = load.map(|load| {
            let stage = Rc::clone(&self);
            tokio::task::spawn_local(async move { stage.load(load).await })
        });
        loop {
            self.interrupt.check()?;
            let is_over = match chore {
                Chore::Rebuild => {
                    array.status().redundancy_left
                        == array.status().level.redundancy(self.disks.len())
                }
                Chore::Scrub => array.scrub_record().runs > runs,
            };
            if is_over {
                break;
            }
            self.engine.env.clock.sleep(CHORE_LOOK).await;
        }
        let done = Done {
            seconds: began.elapsed().as_secs_f64(),
            cpu_seconds: cpu_time().saturating_sub(cpu).as_secs_f64(),
            first_disk_bytes: first_disk(&self.disks).since(before_first).write_bytes,
            disks: DiskWork::of(&self.disks).since(before),
            load: None,
        };
        let load = match beside {
            Some(beside) => Some(beside.await.map_err(text)??),
            None => None,
        };
        Ok(Done { load, ..done })
    }

    async fn load_fresh(&self, load: Load) -> Answer<Sample> {
        let array = self.array.as_ref().ok_or("no array")?;
        array
            .create_volume(FRESH, load.span_bytes)
            .await
            .map_err(text)?;
        let device = array.open_volume(FRESH).map_err(text)?;
        let stamps = self.stamps.is_some().then(Rc::<Stamps>::default);
        let ground = self.ground(Rc::clone(&device), stamps.clone());
        let sample = load::run(load, ground, Rc::clone(&self.disks), self.drain()).await?;
        if let Some(stamps) = stamps {
            stamps.compare(&*device).await?;
        }
        drop(device);
        array.delete_volume(FRESH).await.map_err(text)?;
        Ok(sample)
    }
}
