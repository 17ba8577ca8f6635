//! Starting arrays from the labels on their disks: by itself at the daemon's start, and by request.
//!
//! At the start: paths seen before and the configuration's patterns are probed, and grouped by the
//! array in their labels. An array of this host that wasn't stopped is assembled; where members are
//! missing and waiting may help, it is tried again until `degraded_wait` is over, and then told that
//! it has waited: whether it starts degraded is the array's own decision.
//!
//! Invariants
//! - Identity comes from labels; a path is only where to look.
//! - An array whose labels name another host is never started by itself.
//! - A stopped array is never started by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use cairn_api::{AssembleArray, Changed, ErrorCode};
use cairn_raid::{AssembleOptions, Identity, RaidError};
use tokio::time::Instant;
use uuid::Uuid;

use super::disks::glob_paths;
use super::scrubs::ArraySettings;
use super::spares::FoundSpare;
use super::{Entry, Run, Supervisor, path_text};
use crate::engine::{Engine, EngineHandle};
use crate::looking::{self, Content};
use crate::record::{ArrayRecord, KnownDisk};
use crate::refuse::{self, Answer, refuse};
use crate::view;
use crate::witness::WitnessDir;

/// Time between two looks at disks that are missing.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The disks of one array that were found.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// Name in the newest label.
    name: String,
    /// Home in the newest label: an older one may not know of a move.
    pub(super) home_host: Uuid,
    event_count: u64,
    /// Where, and which disk of the array.
    pub(super) disks: Vec<(PathBuf, Uuid)>,
}

impl Found {
    fn add(&mut self, path: PathBuf, identity: Identity) {
        if identity.event_count > self.event_count {
            self.event_count = identity.event_count;
            self.home_host = identity.home_host;
            self.name = identity.array_name;
        }
        self.disks.push((path, identity.member_uuid));
    }

    fn has(&self, member: &str) -> bool {
        self.disks
            .iter()
            .any(|(_, uuid)| uuid.to_string() == member)
    }
}

/// The disks that were found, by array.
fn group(looked: Vec<(PathBuf, Identity)>) -> BTreeMap<Uuid, Found> {
    let mut found: BTreeMap<Uuid, Found> = BTreeMap::new();
    for (path, identity) in looked {
        let array = found.entry(identity.array_uuid).or_insert_with(|| Found {
            name: identity.array_name.clone(),
            home_host: identity.home_host,
            event_count: identity.event_count,
            disks: Vec::new(),
        });
        array.add(path, identity);
    }
    found
}

impl Supervisor {
    /// Starts every array that should run. Ready when each has been started or given up; false if the
    /// daemon is stopping before that.
    pub async fn assemble_all(self: &Arc<Self>) -> bool {
        let deadline = Instant::now() + self.config().degraded_wait;
        let mut undecided: BTreeSet<Uuid> = BTreeSet::new();
        let mut seen: BTreeSet<Uuid> = BTreeSet::new();
        loop {
            let waited = Instant::now() >= deadline;
            let changes = self.changes.lock().await;
            if self.check_running().is_err() {
                return false;
            }
            let found = Arc::new(self.scan(Vec::new()).await);
            undecided.extend(self.candidates(&found, &mut seen));
            // All at once: one without a journal that recomputes its parity for hours must not hold up
            // the others.
            let mut starts = tokio::task::JoinSet::new();
            for &uuid in &undecided {
                let (daemon, found) = (Arc::clone(self), Arc::clone(&found));
                starts.spawn(async move { (uuid, daemon.try_start(uuid, &found, waited).await) });
            }
            while let Some(started) = starts.join_next().await {
                match started {
                    Ok((uuid, true)) => {
                        undecided.remove(&uuid);
                    }
                    Ok((_, false)) => {}
                    Err(error) => tracing::error!(%error, "starting an array ended in a panic"),
                }
            }
            drop(changes);
            if self.check_running().is_err() {
                return false;
            }
            if undecided.is_empty() || waited {
                return true;
            }
            tokio::time::sleep_until(deadline.min(Instant::now() + RETRY_PAUSE)).await;
        }
    }

    /// Arrays to be started by themselves that weren't `seen` yet: remembered ones that weren't
    /// stopped, and new ones of this host.
    fn candidates(
        &self,
        found: &BTreeMap<Uuid, Found>,
        seen: &mut BTreeSet<Uuid>,
    ) -> BTreeSet<Uuid> {
        let mut wanted: BTreeSet<Uuid> = BTreeSet::new();
        for entry in self.entries() {
            let record = entry.record();
            if seen.insert(record.uuid) && !record.stopped && !record.destroying {
                wanted.insert(record.uuid);
            }
        }
        for (uuid, array) in found {
            if !seen.insert(*uuid) {
                continue;
            }
            if array.home_host == self.host.uuid {
                wanted.insert(*uuid);
            } else {
                tracing::warn!(
                    array = array.name,
                    uuid = %uuid,
                    home_host = %array.home_host,
                    "this array belongs to another host and isn't started by itself; \
                     `cairn array assemble` starts it here"
                );
            }
        }
        wanted
    }

    /// Tries to start one. True if that is decided, one way or the other.
    async fn try_start(&self, uuid: Uuid, found: &BTreeMap<Uuid, Found>, waited: bool) -> bool {
        let entry = self
            .entries()
            .into_iter()
            .find(|entry| entry.uuid() == uuid);
        if let Some(entry) = &entry {
            // Somebody assembled or stopped it in the meantime.
            if matches!(entry.run(), Run::Running(_) | Run::Stopped) {
                return true;
            }
            // Or began to destroy it.
            if entry.record().destroying {
                entry.set_run(Run::half_destroyed(&entry.name()));
                return true;
            }
        }
        let Some(array) = found.get(&uuid) else {
            if let Some(entry) = entry {
                entry.set_run(Run::Idle {
                    reason: "none of its disks is found".into(),
                    hint: format!(
                        "connect them; `cairn array assemble {} --scan PATH…` looks elsewhere",
                        entry.name()
                    ),
                });
            }
            return waited;
        };
        if array.home_host != self.host.uuid {
            if let Some(entry) = entry {
                entry.set_run(Run::Idle {
                    reason: format!("its labels name another host, {}", array.home_host),
                    hint: format!("`cairn array assemble {}` takes it over", entry.name()),
                });
            }
            return true;
        }
        if let Some(entry) = &entry
            && !waited
        {
            // Spares too: one that is absent at the start is out of the array.
            let record = entry.record();
            let late = |disk: &&KnownDisk| disk.live && !array.has(&disk.uuid);
            let late: Vec<&str> = record
                .disks
                .iter()
                .filter(late)
                .map(|disk| disk.path.as_str())
                .collect();
            if !late.is_empty() {
                self.note_waiting(entry, &late);
                return false;
            }
        }
        match self.start(uuid, array, entry.clone(), false, waited).await {
            Ok(_) => true,
            Err(Refused {
                detail,
                wait_may_help,
            }) => {
                // The name is said by whoever shows the reason.
                let prefix = format!("array {} is not started: ", array.name);
                let message = detail.message.strip_prefix(&prefix);
                let why = message.unwrap_or(&detail.message).to_owned();
                let told = entry.as_ref().is_some_and(
                    |entry| matches!(entry.run(), Run::Idle { reason, .. } if reason == why),
                );
                if !told {
                    tracing::warn!(array = array.name, "{}", detail.message);
                }
                if let Some(entry) = entry {
                    entry.set_run(Run::Idle {
                        reason: why,
                        hint: detail.hint,
                    });
                }
                waited || !wait_may_help
            }
        }
    }

    fn note_waiting(&self, entry: &Entry, late: &[&str]) {
        let reason = format!("it waits for {}", late.join(", "));
        let told = matches!(entry.run(), Run::Idle { reason: known, .. } if known == reason);
        if !told {
            tracing::warn!(array = entry.name(), "{reason}");
        }
        let seconds = self.config().degraded_wait.as_secs();
        entry.set_run(Run::Idle {
            reason,
            hint: format!(
                "connect them; {seconds} s after its start the daemon starts the array without \
                 them if it may"
            ),
        });
    }

    /// Starts an array by request.
    pub async fn assemble_array(&self, name: &str, request: AssembleArray) -> Answer<Changed> {
        let scan: Vec<PathBuf> = request
            .scan
            .iter()
            .map(|path| path_text(path))
            .collect::<Answer<_>>()?;
        let _changes = self.changes.lock().await;
        self.check_running()?;
        let found = self.scan(scan).await;
        let (uuid, entry) = match self.find(name) {
            Ok(entry) => (entry.uuid(), Some(entry)),
            Err(detail) if detail.code == ErrorCode::UnknownArray => {
                (find_scanned(name, &found).ok_or(detail)??, None)
            }
            Err(detail) => return Err(detail),
        };
        if let Some(entry) = &entry
            && entry.engine().is_some()
        {
            return Ok(Changed {
                dry_run: request.dry_run,
                summary: format!("array {} runs already", entry.name()),
                array: Some(entry.snapshot().await.array),
                ..Changed::default()
            });
        }
        let Some(array) = found.get(&uuid) else {
            return Err(refuse(
                ErrorCode::ArrayNotStarted,
                format!("array {name} is not started: none of its disks is found"),
                format!("`cairn array assemble {name} --scan PATH…` looks at further disks"),
            ));
        };
        let mut warnings = Vec::new();
        let entries = self.entries();
        let namesake = |other: &&Arc<Entry>| other.uuid() != uuid && other.name() == array.name;
        if let Some(other) = entries.iter().find(namesake) {
            warnings.push(format!(
                "two arrays are called {}: from now on name them by UUID, {uuid} and {}",
                array.name,
                other.uuid()
            ));
        }
        if request.dry_run {
            return Ok(Changed {
                dry_run: true,
                changed: true,
                summary: format!(
                    "would assemble array {} of {} disks that were found",
                    array.name,
                    array.disks.len()
                ),
                warnings,
                ..Changed::default()
            });
        }
        // Who asks has seen that nothing more will come.
        let entry = self
            .start(uuid, array, entry, request.force, true)
            .await
            .map_err(|refused| refused.detail)?;
        if let Some(engine) = entry.engine() {
            let forced = engine.call(|engine| async move {
                let array = engine.array.borrow();
                array.as_ref().and_then(|array| array.forced_over())
            });
            let forced = forced.await.ok().flatten();
            warnings.extend(forced.map(|why| format!("started by force: {why}")));
        }
        let snapshot = entry.snapshot().await;
        Ok(Changed {
            changed: true,
            summary: format!(
                "assembled array {}: {}, {} more disks may fail",
                snapshot.array.name, snapshot.array.state, snapshot.array.redundancy_left
            ),
            warnings,
            redundancy_left: Some(snapshot.array.redundancy_left),
            array: Some(snapshot.array),
            ..Changed::default()
        })
    }

    /// Probes every path that may have a member: hints, patterns, and `further`.
    pub(super) async fn scan(&self, further: Vec<PathBuf>) -> BTreeMap<Uuid, Found> {
        let mut paths: BTreeSet<PathBuf> = further.into_iter().collect();
        for entry in self.entries() {
            // What a running array has open needs no look.
            if entry.engine().is_none() {
                let disks = entry.record().disks.into_iter();
                paths.extend(disks.map(|disk| PathBuf::from(disk.path)));
            }
        }
        let (missing, held) = self.pool_hints();
        paths.extend(missing);
        paths.extend(glob_paths(&self.config().devices).await);
        paths.retain(|path| !held.contains(path));
        paths.remove(&PathBuf::new());
        let awaited = self.awaited().await;
        paths.retain(|path| match awaited.check(path) {
            Ok(()) => true,
            Err(detail) => {
                tracing::warn!("not looked at: {detail}");
                false
            }
        });
        let looked = self
            .scanner
            .call(move |engine| async move { probe_all(&engine, paths).await })
            .await;
        match looked {
            Ok((looked, spares)) => {
                self.admit_all(spares).await;
                group(looked)
            }
            Err(detail) => {
                tracing::error!("disks can't be looked at: {detail}");
                BTreeMap::new()
            }
        }
    }

    /// Starts an array on an engine of its own, and brings its exports back.
    async fn start(
        &self,
        uuid: Uuid,
        found: &Found,
        entry: Option<Arc<Entry>>,
        force: bool,
        waited: bool,
    ) -> Result<Arc<Entry>, Refused> {
        let before = entry.as_ref().map(|entry| entry.run());
        if let Some(entry) = &entry {
            entry.set_run(Run::Starting);
        }
        let started = self.start_engine(uuid, found, force, waited).await;
        let (engine, array) = match started {
            Ok(started) => started,
            Err(mut refused) => {
                if let (Some(entry), Some(before)) = (entry, before) {
                    entry.set_run(before);
                    let detail = &mut refused.detail;
                    detail.message = entry.record().name_disks(&detail.message);
                }
                return Err(refused);
            }
        };
        let entry = if let Some(entry) = entry {
            entry.refresh(&array);
            entry.update(|record| {
                record.stopped = false;
                record.destroying = false;
            });
            entry
        } else {
            let spares = array.spares.iter().filter(|spare| !spare.journal).count();
            let record = ArrayRecord::of(uuid, &array, spares);
            let entry = Arc::new(Entry::known(record));
            self.add_entry(uuid, Arc::clone(&entry));
            entry
        };
        entry.set_run(Run::Running(engine.clone()));
        self.settings_changed.notify_one();
        self.remember(&entry).await;
        // Nobody ends or makes an export of it meanwhile.
        let within = entry.changes.lock().await;
        self.restore_exports(uuid, &engine).await;
        drop(within);
        Ok(entry)
    }

    async fn start_engine(
        &self,
        uuid: Uuid,
        found: &Found,
        force: bool,
        waited: bool,
    ) -> Result<(EngineHandle, cairn_api::Array), Refused> {
        // It is one of them if the daemon knew it.
        let arrays = self.running_arrays().max(1);
        let engine = self.new_engine(arrays - 1).await?;
        let options = AssembleOptions {
            force,
            waited,
            home_host: self.host.uuid,
            witness: self.witness.load(uuid),
        };
        let settings = ArraySettings::of(&self.config(), arrays);
        let paths = found.disks.iter().map(|(path, _)| path.clone()).collect();
        let witness = self.witness.clone();
        let mut stop = self.stopping.subscribe();
        let started = tokio::select! {
            biased;
            started = engine.call(move |engine| async move {
                let array = assemble(&engine, paths, options, &witness).await;
                if let Some(array) = &*engine.array.borrow() {
                    settings.apply(array);
                }
                array
            }) => started,
            // A replay, or parity that is recomputed, may take long. The labels stay unclean, and the
            // next start does it again.
            _ = stop.wait_for(|stopping| *stopping) => Err(super::stopping()),
        };
        match started.map_err(Refused::from).and_then(|started| started) {
            Ok(array) => Ok((engine, array)),
            Err(refused) => {
                engine.shut_down().await;
                Err(refused)
            }
        }
    }
}

/// Why an array wasn't started.
struct Refused {
    detail: cairn_api::ErrorDetail,
    wait_may_help: bool,
}

impl From<cairn_api::ErrorDetail> for Refused {
    fn from(detail: cairn_api::ErrorDetail) -> Self {
        Self {
            detail,
            wait_may_help: false,
        }
    }
}

/// The array of that name or UUID among those found.
fn find_scanned(name: &str, found: &BTreeMap<Uuid, Found>) -> Option<Answer<Uuid>> {
    if let Ok(uuid) = Uuid::parse_str(name)
        && found.contains_key(&uuid)
    {
        return Some(Ok(uuid));
    }
    let mut named = found.iter().filter(|(_, array)| array.name == name);
    match (named.next(), named.next()) {
        (None, _) => None,
        (Some((uuid, _)), None) => Some(Ok(*uuid)),
        (Some((one, _)), Some((other, _))) => Some(Err(refuse(
            ErrorCode::InvalidArgument,
            format!("the disks found belong to two arrays called {name:?}"),
            format!("use a UUID: {one} or {other}"),
        ))),
    }
}

/// On the scanner's thread: which of `paths` bear a label, of an array or of a host's pool.
async fn probe_all(
    engine: &Rc<Engine>,
    paths: BTreeSet<PathBuf>,
) -> (Vec<(PathBuf, Identity)>, Vec<FoundSpare>) {
    let mut found: Vec<(PathBuf, Identity)> = Vec::new();
    let mut spares = Vec::new();
    // All at once: one that hangs holds up no other.
    let looks: Vec<_> = paths
        .into_iter()
        .map(|path| {
            let engine = Rc::clone(engine);
            tokio::task::spawn_local(async move {
                let looked = looking::look(&engine, &path).await;
                (path, looked)
            })
        })
        .collect();
    for look in looks {
        let Ok((path, looked)) = look.await else {
            continue;
        };
        match looked {
            Ok(looked) => match looked.content {
                Content::Cairn(identity) => found.push((path, identity)),
                Content::HostSpare(label) => spares.push(FoundSpare { path, label }),
                Content::Damaged(how) => {
                    tracing::warn!(path = %path.display(), "its Cairn label is damaged: {how}");
                }
                Content::Blank | Content::Foreign(_) | Content::Unreadable(_) => {}
            },
            Err(error) => tracing::debug!(%error, "not looked at"),
        }
    }
    // The driver's answers about loops may be long in coming.
    let kept = tokio::task::spawn_blocking(move || dedup(found)).await;
    (kept.unwrap_or_default(), spares)
}

/// One path for each disk: a link beside its target is no second disk.
fn dedup(found: Vec<(PathBuf, Identity)>) -> Vec<(PathBuf, Identity)> {
    let mut kept: Vec<(PathBuf, Identity)> = Vec::new();
    for (path, identity) in found {
        let is_known = kept.iter().any(|(other, known)| {
            known.member_uuid == identity.member_uuid
                && looking::check_distinct(&[other.clone(), path.clone()], &[]).is_err()
        });
        if !is_known {
            kept.push((path, identity));
        }
    }
    kept
}

/// On the array's own thread.
async fn assemble(
    engine: &Rc<Engine>,
    paths: Vec<PathBuf>,
    options: AssembleOptions,
    witness: &WitnessDir,
) -> Result<cairn_api::Array, Refused> {
    let mut disks = Vec::new();
    for path in paths {
        match looking::open(engine, &path).await {
            Ok(disk) => disks.push(disk),
            // The others may be enough; whether they are is the array's to say.
            Err(error) => tracing::warn!(%error, "a member can't be opened"),
        }
    }
    let (env, pool) = (engine.env.clone(), engine.pool.clone());
    match cairn_raid::assemble(env, pool, disks, options, engine.hooks.clone()).await {
        Ok(array) => {
            let status = array.status();
            engine.array.replace(Some(array));
            // After the loss of the state directory this host must learn what it may rely on.
            if let Err(error) = witness.record_first(&status).await {
                tracing::warn!(
                    array = status.name,
                    "the event witness isn't written: {error}"
                );
            }
            Ok(view::array(&status))
        }
        Err(error) => Err(Refused {
            wait_may_help: matches!(
                error,
                RaidError::NotStarted {
                    wait_may_help: true,
                    ..
                }
            ),
            detail: refuse::raid(&error),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str) -> Found {
        Found {
            name: name.into(),
            home_host: Uuid::nil(),
            event_count: 0,
            disks: Vec::new(),
        }
    }

    #[test]
    fn the_newest_label_says_whose_an_array_is_in_whatever_order_disks_are_found() {
        let label = |member, event_count, home| Identity {
            array_uuid: Uuid::from_u128(1),
            array_name: "pool".into(),
            member_uuid: Uuid::from_u128(member),
            home_host: Uuid::from_u128(home),
            event_count,
            state: None,
            members_listed: 3,
        };
        let (old, new) = (label(10, 4, 7), label(11, 5, 8));
        for order in [[&old, &new], [&new, &old]] {
            let looked = order.map(|identity| (PathBuf::from("/d"), identity.clone()));
            let found = group(looked.to_vec());
            let array = &found[&Uuid::from_u128(1)];
            assert_eq!(array.home_host, Uuid::from_u128(8));
            assert_eq!(array.disks.len(), 2);
        }
    }

    #[test]
    fn two_arrays_of_one_name_are_told_apart_by_uuid_only() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let all = BTreeMap::from([(a, found("pool")), (b, found("pool"))]);
        let error = find_scanned("pool", &all).unwrap().unwrap_err();
        assert!(error.hint.contains(&a.to_string()) && error.hint.contains(&b.to_string()));
        assert_eq!(find_scanned(&b.to_string(), &all), Some(Ok(b)));
        assert_eq!(find_scanned("other", &all), None);
    }
}
