//! The supervisor: which arrays, volumes and exports this host has, and every change to them.
//!
//! ```text
//!   admin API ──▶ Supervisor ──▶ EngineHandle (one per running array) ──▶ raid, blockdev
//!                     │
//!                     └──▶ MetaStore: hints, exports, events
//! ```
//!
//! - [`assembly`]: starting arrays, at the daemon's start and by request.
//! - [`arrays`], [`destruction`], [`disks`], [`volumes`], [`exports`]: what their names say.
//! - [`block`]: volumes as block devices of this host.
//! - [`scrubs`]: scrubs by request and by their windows.
//! - [`located`]: which array has a disk.
//! - [`returning`]: members that come back, and disks that still owe answers.
//! - [`pool`], [`spares`], [`pool_verbs`]: the spares that all arrays of the host share.
//! - [`entry`]: one array that the daemon knows, running or not.
//!
//! Invariants
//! - Changes that start, stop, make or end arrays happen one at a time; so do changes within one array.
//!   Reads wait for neither.
//! - A change is in the metadata store, or on the disks, before its answer is sent.
//! - With `dry_run` everything is checked and nothing is changed.

mod arrays;
mod assembly;
mod block;
mod choice;
mod destruction;
mod disks;
mod entry;
mod exports;
mod located;
mod pool;
mod pool_verbs;
mod returning;
mod scrubs;
mod spares;
mod volumes;
mod work;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use cairn_api::{Array, BackendKind, Df, Health, HostInfo, IoBackend, Status, Version, Work};
use cairn_blockdev::disk::IoKind;
use cairn_raid::MemoryShare;
use cairn_replication::{LocalStore, MetaStore};
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use crate::config::Config;
use crate::engine::{EngineConfig, EngineHandle};
use crate::error::DaemonError;
use crate::events::{EventLog, NewEvent};
use crate::health::{Facts, verdict};
use crate::hooks::EngineEvents;
use crate::host::Host;
use crate::inherited::Inherited;
use crate::record::{forget_array, load_arrays, load_exports, load_spares, save_array};
use crate::refuse::{Answer, refuse};
use crate::statedir::StateDir;
use crate::tls::TlsShelf;
use crate::witness::WitnessDir;
pub(crate) use entry::{Entry, Run, Snapshot};
use exports::ExportEntry;

/// Events that `status` shows.
const STATUS_EVENTS: usize = 10;
/// Longest wait for the list of mounted file systems: a dead network mount never answers.
const MOUNTS_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for an array at the daemon's stop: NBD clients drain and every disk flushes.
const STOP_TIMEOUT: Duration = Duration::from_secs(90);
/// Longest waits then for a change that is under way, and for disks that are in no array. Together below the unit's TimeoutStopSec.
const CHANGES_PATIENCE: Duration = Duration::from_secs(20);
const SCANNER_PATIENCE: Duration = Duration::from_secs(5);

/// See the module.
pub struct Supervisor {
    config: RwLock<Config>,
    /// Told when arrays may have other settings to take over: that is another, or there are more or fewer to share memory.
    settings_changed: Notify,
    host: Host,
    state: StateDir,
    store: Arc<dyn MetaStore>,
    events: EventLog,
    witness: WitnessDir,
    /// Looks at disks that may be in no array.
    scanner: EngineHandle,
    arrays: RwLock<BTreeMap<Uuid, Arc<Entry>>>,
    exports: Mutex<BTreeMap<(Uuid, String), ExportEntry>>,
    /// TLS of exports.
    tls: TlsShelf,
    /// Sockets that the service manager listens on for exports.
    inherited: Inherited,
    /// Disks that are connected, as far as members that are away are concerned.
    arrivals: Mutex<returning::Arrivals>,
    /// The host's pool of spares.
    pool: Mutex<pool::Pool>,
    /// Told when an array may want a disk of the pool, or the pool has another.
    pool_wake: Notify,
    /// Held by whoever starts, stops, makes or ends an array.
    changes: tokio::sync::Mutex<()>,
    /// Told when an array's members may have changed.
    changed: Arc<Notify>,
    store_error: Mutex<Option<String>>,
    /// True once the daemon is stopping; what takes long looks at it.
    stopping: watch::Sender<bool>,
    /// What was done, as it was written last.
    work: Mutex<Arc<Work>>,
    /// Held from reading an array's record to its being stored, so that no older one lands later.
    saving: tokio::sync::Mutex<()>,
    started: Instant,
    started_unix_ms: u64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Supervisor {
    /// Opens what the state directory holds. Starts no array yet.
    pub async fn open(
        config: Config,
        state: StateDir,
        inherited: Inherited,
    ) -> Result<Arc<Self>, DaemonError> {
        let host = Host::load(state.path())?;
        let witness = WitnessDir::new(state.witness_dir()?);
        let store_path = state.store_path();
        let store = tokio::task::spawn_blocking(move || LocalStore::open(&store_path))
            .await
            .map_err(|error| DaemonError::System {
                what: "opening the metadata store".into(),
                error: std::io::Error::other(error),
            })??;
        let store: Arc<dyn MetaStore> = Arc::new(store);
        let events = EventLog::load(store.as_ref()).await?;
        let records = load_arrays(store.as_ref()).await?;
        let exports = load_exports(store.as_ref()).await?;
        let mut remembered = pool::Pool::default();
        for record in load_spares(store.as_ref()).await? {
            remembered.insert(spares::remembered(record));
        }
        let changed = Arc::new(Notify::new());
        let least = MemoryShare::LEAST;
        let scanner = Self::engine(
            &config,
            &witness,
            &events,
            &changed,
            least,
            SCANNER_ARENA_BYTES,
        )
        .await
        .map_err(|detail| DaemonError::System {
            what: "starting disk I/O".into(),
            error: std::io::Error::other(detail.message),
        })?;
        let now = jiff::Timestamp::now().as_millisecond();
        let entries = records
            .into_iter()
            .map(|record| (record.uuid, Arc::new(Entry::known(record))));
        let exports = exports.into_iter().map(|record| {
            let key = (record.volume, record.address.clone());
            (key, ExportEntry::new(record))
        });
        Ok(Arc::new(Self {
            tls: TlsShelf::open(config.nbd_tls.as_ref()),
            inherited,
            arrays: RwLock::new(entries.collect()),
            exports: Mutex::new(exports.collect()),
            config: RwLock::new(config),
            host,
            state,
            store,
            events,
            witness,
            scanner,
            arrivals: Mutex::default(),
            pool: Mutex::new(remembered),
            pool_wake: Notify::new(),
            settings_changed: Notify::new(),
            changes: tokio::sync::Mutex::default(),
            changed,
            store_error: Mutex::default(),
            stopping: watch::Sender::new(false),
            work: Mutex::default(),
            saving: tokio::sync::Mutex::default(),
            started: Instant::now(),
            started_unix_ms: u64::try_from(now).unwrap_or(0),
        }))
    }

    async fn engine(
        config: &Config,
        witness: &WitnessDir,
        events: &EventLog,
        changed: &Arc<Notify>,
        memory: MemoryShare,
        arena_bytes: usize,
    ) -> Answer<EngineHandle> {
        let (witness, events, changed) = (witness.clone(), events.clone(), Arc::clone(changed));
        EngineHandle::start(EngineConfig {
            hooks: Box::new(move || EngineEvents::hooks(events, witness, changed, memory)),
            arena_bytes,
            nbd_in_flight_bytes_max: usize::try_from(config.nbd.in_flight_bytes_max)
                .unwrap_or(usize::MAX),
        })
        .await
    }

    /// An engine for an array beside `others` that run.
    async fn new_engine(&self, others: usize) -> Answer<EngineHandle> {
        let config = self.config();
        Self::engine(
            &config,
            &self.witness,
            &self.events,
            &self.changed,
            share_of(&config, others + 1),
            ARRAY_ARENA_BYTES,
        )
        .await
    }

    /// Arrays that run, or are being started.
    fn running_arrays(&self) -> usize {
        let runs = |entry: &Arc<Entry>| matches!(entry.run(), Run::Running(_) | Run::Starting);
        self.entries().iter().filter(|entry| runs(entry)).count()
    }

    /// The settings as they are now.
    pub fn config(&self) -> Config {
        self.config
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Takes over new settings, and reads TLS's files again. If one of them can't be used, nothing
    /// changes, and the error names it. The caller has checked what can't change.
    pub fn set_config(&self, config: Config) -> Result<(), String> {
        self.tls.reload(config.nbd_tls.as_ref())?;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        self.settings_changed.notify_one();
        Ok(())
    }

    /// The event history.
    pub fn events(&self) -> &EventLog {
        &self.events
    }

    /// The metadata store.
    pub fn store(&self) -> Arc<dyn MetaStore> {
        Arc::clone(&self.store)
    }

    /// Every array known, by identity.
    fn entries(&self) -> Vec<Arc<Entry>> {
        let arrays = self.arrays.read().unwrap_or_else(PoisonError::into_inner);
        arrays.values().cloned().collect()
    }

    fn add_entry(&self, uuid: Uuid, entry: Arc<Entry>) {
        let mut arrays = self.arrays.write().unwrap_or_else(PoisonError::into_inner);
        arrays.insert(uuid, entry);
    }

    fn remove_entry(&self, uuid: Uuid) {
        let mut arrays = self.arrays.write().unwrap_or_else(PoisonError::into_inner);
        arrays.remove(&uuid);
    }

    /// The array of that name or UUID.
    fn find(&self, name: &str) -> Answer<Arc<Entry>> {
        let entries = self.entries();
        let by_name = |entry: &&Arc<Entry>| entry.name() == name;
        let mut named = entries.iter().filter(by_name);
        match (named.next(), named.next()) {
            (Some(entry), None) => return Ok(Arc::clone(entry)),
            (Some(one), Some(other)) => {
                return Err(refuse(
                    cairn_api::ErrorCode::InvalidArgument,
                    format!("two arrays are called {name:?}"),
                    format!("use a UUID: {} or {}", one.uuid(), other.uuid()),
                ));
            }
            (None, _) => {}
        }
        let uuid = Uuid::parse_str(name).ok();
        let mut entries = entries.into_iter();
        entries
            .find(|entry| Some(entry.uuid()) == uuid)
            .ok_or_else(|| crate::refuse::unknown_array(name))
    }

    /// What every array looks like now, in the order of their names.
    pub(crate) async fn snapshots(&self) -> Vec<Snapshot> {
        let mut snapshots = Vec::new();
        for entry in self.entries() {
            let mut snapshot = entry.snapshot().await;
            snapshot.array = self.with_pool(snapshot.array);
            snapshots.push(snapshot);
        }
        snapshots.sort_by(|a, b| a.array.name.cmp(&b.array.name));
        snapshots
    }

    /// Refuses changes once the daemon is stopping.
    fn check_running(&self) -> Answer<()> {
        if *self.stopping.borrow() {
            return Err(stopping());
        }
        Ok(())
    }

    /// Remembers how `entry` looks now. A store that fails is told in the health verdict: the
    /// change itself has happened, on the disks.
    async fn remember(&self, entry: &Entry) {
        if let Some(array) = entry.running_array().await {
            entry.refresh(&array);
        }
        self.save(entry).await;
    }

    /// Stores an array's record as it is now, unless the array was destroyed meanwhile.
    async fn save(&self, entry: &Entry) {
        let _saving = self.saving.lock().await;
        if !self.knows(entry.uuid()) {
            return;
        }
        if let Err(error) = save_array(self.store.as_ref(), &entry.record()).await {
            self.store_failed(&error.to_string());
        }
    }

    /// Drops an array and its record.
    async fn forget(&self, uuid: Uuid) {
        self.remove_entry(uuid);
        let _saving = self.saving.lock().await;
        self.witness.remove(uuid);
        if let Err(error) = forget_array(self.store.as_ref(), uuid).await {
            self.store_failed(&error.to_string());
        }
    }

    fn knows(&self, uuid: Uuid) -> bool {
        let arrays = self.arrays.read().unwrap_or_else(PoisonError::into_inner);
        arrays.contains_key(&uuid)
    }

    /// Tells in the verdict that the state directory takes no writes; the first reason stays.
    pub fn store_failed(&self, error: &str) {
        tracing::error!("{error}");
        locked(&self.store_error).get_or_insert_with(|| error.to_owned());
    }

    /// Keeps the records of running arrays up to date: a spare that took a slot, a disk that went.
    pub async fn keep_records(self: Arc<Self>) {
        loop {
            self.changed.notified().await;
            // Events come in bursts; what they changed is read once.
            tokio::time::sleep(Duration::from_millis(200)).await;
            for entry in self.entries() {
                let before = entry.record();
                if let Some(array) = entry.running_array().await {
                    entry.refresh(&array);
                }
                if entry.record() != before {
                    self.save(&entry).await;
                }
            }
            self.pool_wake.notify_one();
        }
    }

    /// Who runs here.
    pub fn version(&self) -> Version {
        Version {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            state_dir: self.state.path().display().to_string(),
            socket: self.config().socket.display().to_string(),
            started_unix_ms: self.started_unix_ms,
            uptime_seconds: self.started.elapsed().as_secs(),
        }
    }

    fn io_backend(&self) -> IoBackend {
        let running = self.entries().into_iter().find_map(|entry| entry.engine());
        // Registered buffers are the arrays' matter; without one the scanner tells ring or threads.
        match running.as_ref().unwrap_or(&self.scanner).backend() {
            IoKind::IoUring {
                registered_bytes, ..
            } => IoBackend {
                kind: BackendKind::IoUring,
                registered_buffers: *registered_bytes > 0,
                reason: None,
            },
            IoKind::Threads { reason } => IoBackend {
                kind: BackendKind::Threads,
                registered_buffers: false,
                reason: Some(reason.clone()),
            },
        }
    }

    fn verdict(&self, snapshots: &[Snapshot]) -> Health {
        let arrays: Vec<Array> = snapshots.iter().map(|s| s.array.clone()).collect();
        let entries = self.entries();
        let spares_wanted: BTreeMap<String, usize> = entries
            .iter()
            .map(|entry| (entry.uuid().to_string(), entry.record().spares_wanted))
            .collect();
        let relies = |entry: &&Arc<Entry>| entry.record().relies_on_pool;
        let on_pool = entries.iter().filter(relies);
        let store_error = locked(&self.store_error).clone();
        verdict(&Facts {
            arrays: &arrays,
            spares_wanted,
            relying_on_pool: on_pool.map(|entry| entry.uuid().to_string()).collect(),
            pool: &self.pool_disks(),
            exports: &self.export_list(snapshots),
            io_backend: Some(&self.io_backend()),
            store_error: store_error.as_deref(),
            now_unix_ms: u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0),
            scrub_overdue_after: Some(self.config().scrub.overdue_after),
        })
    }

    /// The verdict.
    pub async fn health(&self) -> Health {
        self.verdict(&self.snapshots().await)
    }

    /// Everything on one screen.
    pub async fn status(&self) -> Status {
        let snapshots = self.snapshots().await;
        let health = self.verdict(&snapshots);
        let host = self.host_info().await;
        Status {
            health,
            host,
            daemon: self.version(),
            io_backend: self.io_backend(),
            disks: self.array_disks(&snapshots).await,
            volumes: self.volume_list(&snapshots),
            exports: self.export_list(&snapshots),
            events: self.events.newest(STATUS_EVENTS),
            arrays: snapshots.into_iter().map(|s| s.array).collect(),
        }
    }

    async fn host_info(&self) -> HostInfo {
        let host = self.host.clone();
        let facts = tokio::task::spawn_blocking(move || host.facts()).await;
        facts.unwrap_or_else(|error| {
            tracing::error!(%error, "host facts can't be read");
            self.host.unknown_facts()
        })
    }

    /// Free space of arrays and mounted file systems.
    pub async fn df(&self) -> Df {
        let snapshots = self.snapshots().await;
        let arrays: Vec<Array> = snapshots.into_iter().map(|s| s.array).collect();
        let mounts = tokio::task::spawn_blocking(crate::df::mounts);
        let mounts = match tokio::time::timeout(MOUNTS_TIMEOUT, mounts).await {
            Ok(Ok(mounts)) => mounts,
            Ok(Err(error)) => {
                tracing::error!(%error, "the list of mounted file systems ended in a panic");
                Vec::new()
            }
            Err(_) => {
                tracing::warn!("a mounted file system doesn't answer: df shows arrays only");
                Vec::new()
            }
        };
        crate::df::rows(&self.host.name, &arrays, &mounts)
    }

    /// Stops every array cleanly: exports drain, labels are marked clean, disks are let go. Then
    /// writes the last events.
    pub async fn shut_down(&self) {
        self.stopping.send_replace(true);
        // Whoever has it may be waiting for a disk that hangs: the arrays are stopped all the same.
        let _changes = tokio::time::timeout(CHANGES_PATIENCE, self.changes.lock()).await;
        // All at once: one slow array must not eat the others' time.
        let mut stops = tokio::task::JoinSet::new();
        for entry in self.entries() {
            stops.spawn(async move {
                let name = entry.name();
                match tokio::time::timeout(STOP_TIMEOUT, entry.stop()).await {
                    Ok(Ok(())) => true,
                    Ok(Err(detail)) => {
                        tracing::error!(array = name, "not stopped cleanly: {detail}");
                        false
                    }
                    Err(_) => {
                        tracing::error!(array = name, "not stopped in time, left unclean");
                        false
                    }
                }
            });
        }
        while stops.join_next().await.is_some() {}
        let scanner = self.scanner.clone().shut_down();
        if tokio::time::timeout(SCANNER_PATIENCE, scanner)
            .await
            .is_err()
        {
            tracing::error!("a disk that is in no array doesn't answer");
        }
        self.events
            .record(NewEvent::new("DaemonStopped", "cairnd stopped"));
        if let Err(error) = self.events.persist_all(self.store.as_ref()).await {
            tracing::error!(%error, "the last events are lost");
        }
    }
}

/// Memory that an array's engine registers with its ring.
const ARRAY_ARENA_BYTES: usize = 64 << 20;
/// The scanner reads labels only.
const SCANNER_ARENA_BYTES: usize = 0;

/// What one of so many arrays may take of the host's memory for arrays.
fn share_of(config: &Config, arrays: usize) -> MemoryShare {
    let all = MemoryShare {
        checksum_cache_bytes: config.memory.checksum_cache_bytes,
        row_cache_bytes: config.memory.row_cache_bytes,
    };
    all.part_of(arrays)
}

/// The answer to changes once the daemon is stopping.
fn stopping() -> cairn_api::ErrorDetail {
    refuse(
        cairn_api::ErrorCode::Stopping,
        "the daemon is stopping",
        "try again when it runs again",
    )
}

/// A path given by a person, as it is kept.
fn path_text(path: &str) -> Answer<PathBuf> {
    let path = PathBuf::from(path);
    if !path.is_absolute() {
        return Err(crate::refuse::invalid(
            format!("the path {:?} is relative", path.display().to_string()),
            "give the whole path: the daemon's working directory isn't yours",
        ));
    }
    Ok(path)
}
