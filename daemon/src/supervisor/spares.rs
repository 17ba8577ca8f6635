//! The host's pool of spares at work: disks that join and leave it, and arrays that are given one.
//!
//! ```text
//!   disk add ──▶ in the pool: labelled, open for the daemon alone ──▶ disk remove: blank
//!                     │ an array has an empty slot and no spare of its own
//!                     ▼
//!               reserved ─▶ noted ─▶ let go ─▶ the array prepares it ─▶ its label commit: the array's
//!                     └──────────◀── refused: in the pool again, or unfit ──┘
//! ```
//!
//! Which disks are in the pool is on the disks ([`cairn_raid::host_spare`]); records are only where to look
//! and what to miss. The array decides alone what it does with a spare that it was given. The operator's
//! verbs are in [`pool_verbs`](super::pool_verbs).
//!
//! Invariants
//! - A disk that bears more than its label, say a file system, is never taken.
//! - The label of another host is left alone.
//! - Locks: an array's `changes` before the pool's, and the pool's never over an await.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_api::{Array, Disk, DiskContent, DiskRole, ErrorCode, ErrorDetail};
use cairn_blockdev::disk::OpenError;
use cairn_raid::{HostSpare, MemberDisk, write_host_spare};
use uuid::Uuid;

use super::disks::{blank_row, same};
use super::pool::{POOL_MAX, PoolDisk, PoolState, wants_disk};
use super::returning::{Connection, add};
use super::{Entry, Supervisor, locked};
use crate::engine::Engine;
use crate::events::NewEvent;
use crate::looking::{self, Content};
use crate::record::{SpareRecord, forget_spare, save_spare};
use crate::refuse::{self, Answer, refuse};

/// Between two looks at the pool and at what arrays want.
const POOL_PERIOD: Duration = Duration::from_secs(2);
/// A disk that was let go a moment ago may still be open: so often, and so long between, it is tried.
const RELEASE_TRIES: u32 = 20;
const RELEASE_PAUSE: Duration = Duration::from_millis(100);
/// Longest wait for a disk of the pool to be opened and labelled.
pub(super) const HOLD_PATIENCE: Duration = Duration::from_mins(1);
/// What the pool is called where an array would be.
pub(super) const POOL: &str = "this host's pool of spares";

/// A label that was found.
pub(super) struct FoundSpare {
    pub(super) path: PathBuf,
    pub(super) label: HostSpare,
}

impl Supervisor {
    /// An array, and what the pool has for it.
    pub(super) fn with_pool(&self, mut array: Array) -> Array {
        let need_bytes = array.host_spares.need_bytes;
        if need_bytes > 0 {
            array.host_spares = locked(&self.pool).offer(need_bytes, &taker(&array.name));
        }
        array
    }

    /// The pool's disks, for lists.
    pub(super) fn pool_disks(&self) -> Vec<Disk> {
        let disks = locked(&self.pool).disks();
        disks.iter().map(shown).collect()
    }

    /// Paths that the pool has.
    pub(super) fn pool_paths(&self) -> Vec<PathBuf> {
        let disks = locked(&self.pool).disks().into_iter();
        let here = disks.filter(PoolDisk::is_here);
        here.map(|disk| disk.path).collect()
    }

    /// Where the pool's disks are looked for, and which of them need no look.
    pub(super) fn pool_hints(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let disks = locked(&self.pool).disks();
        let (known, missing): (Vec<_>, Vec<_>) = disks.into_iter().partition(PoolDisk::is_here);
        let paths = |disks: Vec<PoolDisk>| disks.into_iter().map(|disk| disk.path).collect();
        (paths(missing), paths(known))
    }

    pub(super) fn pool_misses_some(&self) -> bool {
        locked(&self.pool).misses_some()
    }

    /// The disk of the pool that `disk` names, by any path to it or by the UUID in its label.
    pub(super) fn pooled(&self, disk: &str) -> Option<PoolDisk> {
        let disks = locked(&self.pool).disks();
        let path = Path::new(disk);
        let here = disks.iter().filter(|one| one.is_here());
        let found = here
            .clone()
            .find(|one| one.is_at(path))
            .or_else(|| here.clone().find(|one| same(&one.path, path)));
        let found = found.or_else(|| {
            let mut all = disks.iter();
            all.find(|one| one.is_at(path) || one.label.uuid.to_string() == disk)
        });
        found.cloned()
    }

    /// Reserves a disk that was named for an array.
    pub(super) fn reserve_pooled(&self, disk: &PoolDisk, whom: &str) -> Answer<PoolDisk> {
        let reserved = locked(&self.pool).reserve_this(disk.label.uuid, whom);
        reserved.map_err(|why| {
            refuse(
                ErrorCode::DiskInUse,
                format!("{} of {POOL} can't be had: {why}", disk.path.display()),
                "`cairn disk list` shows the pool's disks",
            )
        })
    }

    /// Notes for which arrays the pool has a disk: they miss it when it is gone.
    pub(super) async fn note_reliance(&self) {
        for entry in self.entries() {
            let Some(array) = entry.running_array().await else {
                continue;
            };
            let fitting = self.with_pool(array).host_spares.fitting;
            if fitting > 0 && !entry.record().relies_on_pool {
                entry.update(|record| record.relies_on_pool = true);
                self.save(&entry).await;
            }
        }
    }

    /// Takes in labels that were found at places that are all looked at now.
    pub(super) async fn admit_all(&self, found: Vec<FoundSpare>) {
        for spare in found {
            self.admit(spare).await;
        }
        let missing = locked(&self.pool).disks().into_iter();
        let missing: Vec<PoolDisk> = missing.filter(|disk| !disk.is_here()).collect();
        for disk in missing {
            if disk.was_taking {
                // It bears an array's label now, or is away as one of its disks.
                self.has_left(&disk).await;
            } else if locked(&self.pool).tell_missing(disk.label.uuid) {
                let why = "it isn't where it was last seen";
                self.events
                    .record(pool_event("HostSpareMissing", &disk, why));
            }
        }
    }

    /// Takes in one that was found, if it is this pool's.
    pub(super) async fn admit(&self, found: FoundSpare) {
        let FoundSpare { path, label } = found;
        let known = locked(&self.pool).get(label.uuid).cloned();
        let is_copy = match &known {
            Some(disk) if disk.is_here() => {
                if same(&disk.path, &path) {
                    return;
                }
                true
            }
            _ => false,
        };
        if is_copy || label.host != self.host.uuid {
            if locked(&self.pool).tell_stranger(label.uuid) {
                let (path, host) = (path.display(), label.host);
                tracing::warn!(
                    %path, %host,
                    "{}; `cairn disk add {path} --wipe {path}` takes it",
                    if is_copy {
                        "a copy of another disk of the pool of spares isn't taken into it"
                    } else {
                        "a spare of another host isn't taken into the pool by itself"
                    }
                );
            }
            return;
        }
        if locked(&self.pool).disks().len() >= POOL_MAX && known.is_none() {
            tracing::warn!(path = %path.display(), "the pool of spares is full: it isn't taken in");
            return;
        }
        let was_told = known.as_ref().is_some_and(|disk| disk.told);
        match self.hold(&path, label).await {
            Ok(disk) if known.is_none() || was_told => {
                let why = "found with the label of the pool";
                self.has_joined(disk, "HostSpareBack", why).await;
            }
            Ok(disk) => self.keep(disk).await,
            Err(detail) => {
                let mut disk = PoolDisk {
                    label,
                    path,
                    size_bytes: label.disk_bytes,
                    state: PoolState::Missing,
                    was_taking: false,
                    told: true,
                };
                locked(&self.pool).insert(disk.clone());
                disk.state = PoolState::Unfit(detail.message.clone(), Instant::now());
                self.is_unfit(&disk, &detail);
            }
        }
    }

    /// Opens a disk of the pool for the daemon alone, and makes its label whole.
    async fn hold(&self, path: &Path, label: HostSpare) -> Answer<PoolDisk> {
        let asked = path.to_owned();
        let holding = self.scanner.call(move |engine| async move {
            let disk = open_pooled(&engine, &asked, label).await?;
            seal(&engine, disk, label).await
        });
        // One that is late has the disk open to its end: nobody else can before.
        let held = tokio::time::timeout(HOLD_PATIENCE, holding).await;
        held.map_err(|_| hung(path))??
    }

    async fn keep(&self, disk: PoolDisk) {
        let record = SpareRecord::of(&disk.label, &disk.path.display().to_string());
        locked(&self.pool).insert(disk);
        if let Err(error) = save_spare(self.store.as_ref(), &record).await {
            self.store_failed(&error.to_string());
        }
    }

    pub(super) async fn has_joined(&self, disk: PoolDisk, kind: &str, why: &str) {
        self.events.record(pool_event(kind, &disk, why));
        self.keep(disk).await;
    }

    pub(super) async fn has_left(&self, disk: &PoolDisk) {
        locked(&self.pool).remove(disk.label.uuid);
        if let Err(error) = forget_spare(self.store.as_ref(), disk.label.uuid).await {
            self.store_failed(&error.to_string());
        }
    }

    fn is_unfit(&self, disk: &PoolDisk, detail: &ErrorDetail) {
        let why = detail.message.clone();
        locked(&self.pool).set_state(
            disk.label.uuid,
            PoolState::Unfit(why.clone(), Instant::now()),
        );
        self.events
            .record(pool_event("HostSpareFailed", disk, &why));
    }

    async fn let_go(&self, uuid: Uuid) {
        let gone = self
            .scanner
            .call(move |engine| async move { drop(engine.held.borrow_mut().remove(&uuid)) });
        if let Err(detail) = gone.await {
            tracing::error!("a disk of the pool isn't let go: {detail}");
        }
    }

    /// Lets an array take a disk that is reserved for it: `taking` ends with the array's commit, or with
    /// an error. What became of the disk is read from its label then.
    pub(super) async fn hand_over<T>(
        &self,
        entry: &Entry,
        disk: &PoolDisk,
        taking: impl Future<Output = Answer<T>>,
    ) -> Answer<T> {
        let mut record = SpareRecord::of(&disk.label, &disk.path.display().to_string());
        record.was_taking = true;
        if let Err(error) = save_spare(self.store.as_ref(), &record).await {
            self.store_failed(&error.to_string());
        }
        self.let_go(disk.label.uuid).await;
        let taken = taking.await;
        let error = match &taken {
            Ok(_) => None,
            Err(detail) => match self.look(&disk.path).await {
                Ok(looked) if is_labelled(&looked.content, entry.uuid()) => None,
                _ => Some(detail.clone()),
            },
        };
        let Some(detail) = error else {
            self.has_left(disk).await;
            let event = pool_event("HostSpareTaken", disk, "taken from the host's pool");
            self.events.record(event.array(&entry.name()));
            self.remember(entry).await;
            return taken;
        };
        if is_of_disk(detail.code) {
            self.is_unfit(disk, &detail);
        } else {
            locked(&self.pool).note_refused(entry.uuid(), Instant::now());
            match self.hold(&disk.path, disk.label).await {
                Ok(disk) => self.keep(disk).await,
                Err(detail) => self.is_unfit(disk, &detail),
            }
        }
        taken
    }

    /// Gives arrays the disks that they want, and watches those of the pool, until the daemon stops.
    pub async fn keep_pool(self: Arc<Self>) {
        loop {
            // Either is a reason to look.
            let _ = tokio::time::timeout(POOL_PERIOD, self.pool_wake.notified()).await;
            if self.check_running().is_err() {
                return;
            }
            self.watch_pool().await;
            self.note_reliance().await;
            self.serve_arrays().await;
        }
    }

    /// Notices disks that were disconnected, and tries those again that couldn't be used.
    async fn watch_pool(&self) {
        let disks = locked(&self.pool).disks();
        let looked = tokio::task::spawn_blocking(move || {
            let gone = |disk: &PoolDisk| match &disk.state {
                PoolState::Ready(connection) => *connection != Connection::at(&disk.path),
                _ => false,
            };
            disks.into_iter().filter(gone).collect::<Vec<_>>()
        });
        for disk in looked.await.unwrap_or_default() {
            let uuid = disk.label.uuid;
            {
                let mut pool = locked(&self.pool);
                // It may have been taken meanwhile.
                if !pool.get(uuid).is_some_and(PoolDisk::is_ready) {
                    continue;
                }
                pool.set_state(uuid, PoolState::Missing);
                pool.tell_missing(uuid);
            }
            self.let_go(uuid).await;
            self.events.record(pool_event(
                "HostSpareMissing",
                &disk,
                "it was disconnected, or another is in its place",
            ));
        }
        let again = locked(&self.pool).to_retry(Instant::now());
        for disk in again {
            let Ok(disk) = self.reserve_pooled(&disk, "the daemon") else {
                continue;
            };
            match self.hold(&disk.path, disk.label).await {
                Ok(disk) => self.has_joined(disk, "HostSpareBack", "usable again").await,
                Err(detail) => {
                    let why = detail.message;
                    let unfit = PoolState::Unfit(why, Instant::now());
                    locked(&self.pool).set_state(disk.label.uuid, unfit);
                }
            }
        }
    }

    /// Reserves a disk for every array that wants one, those with the least redundancy first.
    async fn serve_arrays(self: &Arc<Self>) {
        let mut wanting: Vec<(u32, String, Arc<Entry>, u64)> = Vec::new();
        for entry in self.entries() {
            let Some(array) = entry.running_array().await else {
                continue;
            };
            let array = self.with_pool(array);
            let pool = array.host_spares;
            if wants_disk(&array) && pool.fitting > 0 {
                wanting.push((array.redundancy_left, array.name, entry, pool.need_bytes));
            }
        }
        wanting.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        for (_, name, entry, need_bytes) in wanting {
            let whom = taker(&name);
            let disk = {
                let mut pool = locked(&self.pool);
                let disks = pool.disks();
                let has_one = disks
                    .iter()
                    .any(|disk| disk.state == PoolState::Reserved(whom.clone()));
                if has_one || !pool.may_ask(entry.uuid(), Instant::now()) {
                    continue;
                }
                pool.reserve(need_bytes, &whom)
            };
            let Some(disk) = disk else { continue };
            let daemon = Arc::clone(self);
            // By itself: preparing a large disk takes a while, and one that hangs longer.
            tokio::spawn(async move { daemon.give(&entry, disk).await });
        }
    }

    /// Gives an array a disk that is reserved for it.
    async fn give(&self, entry: &Entry, disk: PoolDisk) {
        let _within = entry.changes.lock().await;
        // Looked at again: there may have been a change before.
        let array = entry.running_array().await;
        let engine = entry.engine();
        let (Some(_), Some(engine), true) = (
            array.filter(wants_disk),
            engine,
            self.check_running().is_ok(),
        ) else {
            locked(&self.pool).set_state(disk.label.uuid, disk.state);
            return;
        };
        let (path, label) = (disk.path.clone(), disk.label);
        let taking = async move {
            let added = engine.call(move |engine| async move {
                add(&engine, path, Some(label), false, false).await
            });
            added.await?
        };
        if let Err(detail) = self.hand_over(entry, &disk, taking).await {
            let (array, path) = (entry.name(), disk.path.display());
            tracing::warn!(array, %path, "a disk of the pool isn't taken: {detail}");
        }
        // There may be another one, or another slot.
        self.pool_wake.notify_one();
    }
}

/// Makes the label of an open disk whole, and keeps the disk open.
pub(super) async fn seal(
    engine: &Rc<Engine>,
    disk: MemberDisk,
    label: HostSpare,
) -> Answer<PoolDisk> {
    let raid = |error| refuse::raid(&error);
    write_host_spare(disk.device.as_ref(), &label)
        .await
        .map_err(raid)?;
    let path = PathBuf::from(&*disk.path);
    let pooled = PoolDisk {
        label,
        size_bytes: disk.device.geometry().size,
        state: PoolState::Ready(Connection::at(&path)),
        path,
        was_taking: false,
        told: false,
    };
    engine.held.borrow_mut().insert(label.uuid, disk);
    Ok(pooled)
}

/// Opens a disk that the pool has let go, if nothing but this label is on it.
pub(super) async fn open_pooled(
    engine: &Rc<Engine>,
    path: &Path,
    label: HostSpare,
) -> Answer<MemberDisk> {
    // What was kept too late for its asker.
    engine.held.borrow_mut().remove(&label.uuid);
    let mut tries = 0;
    let disk = loop {
        tries += 1;
        match looking::open(engine, path).await {
            Ok(disk) => break disk,
            Err(OpenError::InUse { .. } | OpenError::Locked { .. }) if tries < RELEASE_TRIES => {
                // What had it open, a look or the pool itself, may be on its way out.
                tokio::time::sleep(RELEASE_PAUSE).await;
            }
            Err(error) => return Err(looking::open_error(&error)),
        }
    };
    let content = looking::content(&disk).await;
    if matches!(content, Content::Unreadable(_)) {
        // It must not hold up the array that wants one.
        return Err(hung(path));
    }
    if matches!(&content, Content::HostSpare(found) if *found == label) {
        return Ok(disk);
    }
    Err(refuse(
        ErrorCode::DiskForeign,
        format!(
            "{} is no longer what was put in the pool: it bears {}",
            path.display(),
            content.words()
        ),
        "`cairn disk remove` forgets it; `cairn disk add` puts it in again",
    ))
}

/// An array as one for whom a disk is reserved.
pub(super) fn taker(array: &str) -> String {
    format!("array {array}")
}

/// The refusal of a disk of the pool that doesn't answer.
pub(super) fn hung(path: &Path) -> ErrorDetail {
    refuse(
        ErrorCode::Io,
        format!("{} doesn't answer", path.display()),
        "look at cable and power, and at the kernel's log for this disk",
    )
}

fn is_labelled(content: &Content, array: Uuid) -> bool {
    matches!(content, Content::Cairn(identity) if identity.array_uuid == array)
}

/// Whether an array's refusal is about the disk rather than about the array.
fn is_of_disk(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::Io
            | ErrorCode::UnknownDisk
            | ErrorCode::DiskInUse
            | ErrorCode::DiskForeign
            | ErrorCode::DiskUnusable
            | ErrorCode::DiskDuplicate
    )
}

pub(super) fn pool_event(kind: &str, disk: &PoolDisk, detail: &str) -> NewEvent {
    let mut event = NewEvent::new(kind, detail);
    event.disk = Some(disk.path.display().to_string());
    event
}

/// A line of `disk list`.
fn shown(disk: &PoolDisk) -> Disk {
    let note = match &disk.state {
        PoolState::Ready(_) => None,
        PoolState::Reserved(whom) => Some(format!("{whom} is about to take it")),
        PoolState::Missing => Some("it isn't where it was last seen".to_owned()),
        PoolState::Unfit(why, _) => Some(why.clone()),
    };
    Disk {
        content: match disk.state {
            PoolState::Missing | PoolState::Unfit(..) => DiskContent::Unknown,
            _ => DiskContent::Cairn,
        },
        role: DiskRole::HostSpare,
        uuid: Some(disk.label.uuid.to_string()),
        state: Some(disk.shown_state()),
        size_bytes: disk.size_bytes,
        note,
        ..blank_row(&disk.path)
    }
}

/// A record of the last run.
pub(super) fn remembered(record: SpareRecord) -> PoolDisk {
    PoolDisk {
        label: HostSpare {
            uuid: record.uuid,
            host: record.host,
            disk_bytes: record.size_bytes,
            since_ms: record.since_unix_ms,
        },
        path: record.path.into(),
        size_bytes: record.size_bytes,
        state: PoolState::Missing,
        was_taking: record.was_taking,
        told: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_arrays_fault_is_not_the_disks() {
        assert!(is_of_disk(ErrorCode::Io) && is_of_disk(ErrorCode::DiskForeign));
        assert!(!is_of_disk(ErrorCode::ArrayFailed) && !is_of_disk(ErrorCode::ArrayBusy));
        assert!(!is_of_disk(ErrorCode::Stopping));
    }
}
