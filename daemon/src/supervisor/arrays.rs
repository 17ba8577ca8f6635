//! Arrays: list, show, make, stop, end; and their spares.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use cairn_api::{
    Array, ArrayState, Changed, CreateArray, DestroyArray, ErrorCode, MemberState, SpareChange,
    StopArray, validate_name,
};
use cairn_raid::{CreateSpec, Geometry, MemberDisk};
use uuid::Uuid;

use super::{Entry, Run, Snapshot, Supervisor, locked, path_text};
use crate::engine::{Engine, EngineHandle};
use crate::events::NewEvent;
use crate::looking::{check_distinct, take, wipe};
use crate::record::{ArrayRecord, forget_array};
use crate::refuse::{self, Answer, confirm, invalid, refuse};
use crate::view;

/// Chunk of an array whose maker names none: small enough for full rows from a database's writes
/// on ten disks, large enough for sequential reads.
const CHUNK_BYTES_DEFAULT: u64 = 64 << 10;

impl Supervisor {
    /// Every array.
    pub async fn arrays(&self) -> Vec<Array> {
        let snapshots = self.snapshots().await;
        snapshots.into_iter().map(|s| s.array).collect()
    }

    /// One array.
    pub async fn array(&self, name: &str) -> Answer<Array> {
        Ok(self.find(name)?.snapshot().await.array)
    }

    /// Paths that running arrays have, with the array's name.
    pub(super) async fn taken(&self) -> Vec<(PathBuf, String)> {
        let snapshots = self.snapshots().await;
        let running = snapshots.iter().filter(|snapshot| snapshot.running);
        let mut taken = Vec::new();
        for Snapshot { array, .. } in running {
            let away = [MemberState::Missing, MemberState::Removed];
            let members = array.members.iter().filter(|m| !away.contains(&m.state));
            let spares = array.spares.iter().filter(|s| !away.contains(&s.state));
            let paths = members.map(|m| &m.path).chain(spares.map(|s| &s.path));
            taken.extend(paths.map(|path| (PathBuf::from(path), array.name.clone())));
        }
        taken
    }

    /// Makes an array.
    pub async fn create_array(&self, request: CreateArray) -> Answer<Changed> {
        let _changes = self.changes.lock().await;
        self.check_running()?;
        let name = request.name.clone();
        validate_name(&name).map_err(|why| invalid(why, "choose another name"))?;
        if self.entries().iter().any(|entry| entry.name() == name) {
            return Err(refuse(
                ErrorCode::NameTaken,
                format!("an array called {name:?} is there already"),
                "choose another name",
            ));
        }
        let chunk_bytes = request.chunk_bytes.unwrap_or(CHUNK_BYTES_DEFAULT);
        let level = view::raid_level(request.level);
        let chunk = u32::try_from(chunk_bytes).unwrap_or(u32::MAX);
        Geometry::new(level, request.disks.len(), chunk)
            .map_err(|error| invalid(error.to_string(), ""))?;
        let plan = CreatePlan::of(&request)?;
        check_distinct(&plan.all(), &self.taken().await)?;
        let spec = CreateSpec {
            name: name.clone(),
            level,
            chunk_bytes: chunk,
            home_host: self.host.uuid,
            journal_bytes: request.journal_bytes,
        };
        let engine = self.new_engine().await?;
        let dry_run = request.dry_run;
        let (members, spares) = (plan.members.len(), plan.spares.len());
        let made = engine
            .call(move |engine| async move { create(&engine, spec, plan, dry_run).await })
            .await
            .and_then(|made| made);
        let (warnings, made) = match made {
            Ok(made) => made,
            Err(detail) => {
                engine.shut_down().await;
                return Err(detail);
            }
        };
        let what = format!(
            "array {name}: {} of {members} disks{}, chunk {} KiB",
            request.level,
            match spares {
                0 => String::new(),
                n => format!(" and {n} spares"),
            },
            chunk_bytes >> 10
        );
        let Some((uuid, array)) = made else {
            engine.shut_down().await;
            return Ok(Changed {
                dry_run: true,
                changed: true,
                summary: format!("would make {what}"),
                warnings,
                redundancy_left: u32::try_from(level.redundancy(members)).ok(),
                ..Changed::default()
            });
        };
        let entry = Arc::new(Entry::new(
            ArrayRecord::of(uuid, &array, spares),
            Run::Running(engine),
        ));
        self.add_entry(uuid, Arc::clone(&entry));
        self.remember(&entry).await;
        Ok(Changed {
            changed: true,
            summary: format!("made {what}"),
            warnings,
            redundancy_left: Some(array.redundancy_left),
            array: Some(array),
            ..Changed::default()
        })
    }

    /// Stops an array; it stays stopped until it is assembled by request.
    pub async fn stop_array(&self, name: &str, request: StopArray) -> Answer<Changed> {
        let _changes = self.changes.lock().await;
        self.check_running()?;
        let entry = self.find(name)?;
        let name = entry.name();
        let snapshot = entry.snapshot().await;
        if snapshot.array.state == ArrayState::Stopped {
            return Ok(Changed {
                dry_run: request.dry_run,
                summary: format!("array {name} is stopped already"),
                array: Some(snapshot.array),
                ..Changed::default()
            });
        }
        let clients: usize = snapshot.connections.values().sum();
        if clients > 0 && !request.yes && !request.dry_run {
            return Err(confirm(format!(
                "{clients} clients are connected to volumes of array {name}"
            )));
        }
        if request.dry_run {
            return Ok(Changed {
                dry_run: true,
                changed: true,
                needs_yes: clients > 0,
                summary: format!(
                    "would stop array {name} and end {} exports with {clients} clients",
                    snapshot.connections.len()
                ),
                array: Some(snapshot.array),
                ..Changed::default()
            });
        }
        let stopped = entry.stop().await;
        // Even an unclean stop is one: the array must not start again by itself.
        entry.update(|record| record.stopped = true);
        entry.set_run(Run::Stopped);
        self.remember(&entry).await;
        stopped?;
        Ok(Changed {
            changed: true,
            summary: format!("stopped array {name}; `cairn array assemble {name}` starts it"),
            array: Some(entry.snapshot().await.array),
            ..Changed::default()
        })
    }

    /// Ends an array for good.
    pub async fn destroy_array(&self, name: &str, request: DestroyArray) -> Answer<Changed> {
        let _changes = self.changes.lock().await;
        self.check_running()?;
        let entry = self.find(name)?;
        let name = entry.name();
        let uuid = entry.uuid();
        let exported = self.exports_of(uuid);
        if let Some(export) = exported.first() {
            return Err(refuse(
                ErrorCode::ArrayBusy,
                format!(
                    "array {name} has exported volumes: {} at {}{}",
                    export.name,
                    export.address,
                    match exported.len() {
                        1 => String::new(),
                        n => format!(", and {} more", n - 1),
                    }
                ),
                format!("`cairn volume unexport {}` first", export.name),
            ));
        }
        // Its labels are known, and its disks ours, only while it runs.
        let engine = entry.running()?;
        let snapshot = entry.snapshot().await;
        let loses = format!(
            "array {name} with {} volumes and {} allocated bytes",
            snapshot.volumes.len(),
            snapshot.array.space.allocated_bytes
        );
        if request.dry_run {
            return Ok(Changed {
                dry_run: true,
                changed: true,
                needs_yes: true,
                summary: format!("would destroy {loses}"),
                array: Some(snapshot.array),
                ..Changed::default()
            });
        }
        if !request.yes {
            return Err(confirm(format!("this destroys {loses}")));
        }
        let _within = entry.changes.lock().await;
        engine
            .call(|engine| async move {
                let array = engine.array()?;
                array.destroy().await.map_err(|error| refuse::raid(&error))
            })
            .await??;
        engine.shut_down().await;
        self.remove_entry(uuid);
        self.witness.remove(uuid);
        if let Err(error) = forget_array(self.store.as_ref(), uuid, &[]).await {
            self.store_failed(&error.to_string());
        }
        self.events
            .record(NewEvent::new("ArrayDestroyed", "destroyed by request").array(&name));
        Ok(Changed {
            changed: true,
            summary: format!("destroyed {loses}"),
            ..Changed::default()
        })
    }

    /// Adds a spare.
    pub async fn add_spare(&self, name: &str, request: SpareChange) -> Answer<Changed> {
        let entry = self.find(name)?;
        let path = path_text(&request.path)?;
        let taken = self.taken().await;
        let _within = entry.changes.lock().await;
        self.check_running()?;
        let engine = entry.running()?;
        check_distinct(std::slice::from_ref(&path), &taken)?;
        let dry_run = request.dry_run;
        let may_wipe = request.wipe;
        engine
            .call(move |engine| async move {
                let (array, disk) = take_one(&engine, path, may_wipe, dry_run).await?;
                let Some(disk) = disk else { return Ok(()) };
                array
                    .add_spare(disk)
                    .await
                    .map_err(|error| refuse::raid(&error))
            })
            .await??;
        if !dry_run {
            let ready = entry.ready_spares().await;
            entry.update(|record| record.spares_wanted = record.spares_wanted.max(ready));
            self.remember(&entry).await;
        }
        let would = if dry_run { "would add" } else { "added" };
        self.answer_about(
            &entry,
            dry_run,
            format!("{would} spare {} to array {}", request.path, entry.name()),
        )
        .await
    }

    /// Takes a spare away.
    pub async fn remove_spare(&self, name: &str, request: SpareChange) -> Answer<Changed> {
        let entry = self.find(name)?;
        let _within = entry.changes.lock().await;
        self.check_running()?;
        let engine = entry.running()?;
        let array = entry.snapshot().await.array;
        let name = array.name.clone();
        let spares: BTreeSet<&str> = array.spares.iter().map(|s| s.path.as_str()).collect();
        if !spares.contains(request.path.as_str()) {
            return Err(refuse(
                ErrorCode::UnknownDisk,
                format!("{} is no spare of array {name}", request.path),
                format!("`cairn array show {name}` lists its spares"),
            ));
        }
        if spares.len() == 1 && !request.yes && !request.dry_run {
            return Err(confirm(format!(
                "{} is the last spare of array {name}: after a failure nothing would be rebuilt \
                 by itself",
                request.path
            )));
        }
        if request.dry_run {
            return Ok(Changed {
                dry_run: true,
                changed: true,
                needs_yes: spares.len() == 1,
                summary: format!("would take spare {} away from array {name}", request.path),
                redundancy_left: Some(array.redundancy_left),
                array: Some(array),
                ..Changed::default()
            });
        }
        let path = request.path.clone();
        engine
            .call(move |engine| async move {
                let array = engine.array()?;
                let removed = array.remove_spare(&path).await;
                removed.map_err(|error| refuse::raid(&error))
            })
            .await??;
        let ready = entry.ready_spares().await;
        entry.update(|record| record.spares_wanted = ready);
        self.remember(&entry).await;
        self.answer_about(
            &entry,
            false,
            format!("took spare {} away from array {name}", request.path),
        )
        .await
    }

    /// The usual answer after a change within an array.
    pub(super) async fn answer_about(
        &self,
        entry: &Entry,
        dry_run: bool,
        summary: String,
    ) -> Answer<Changed> {
        let array = entry.snapshot().await.array;
        Ok(Changed {
            dry_run,
            changed: true,
            summary,
            redundancy_left: Some(array.redundancy_left),
            array: Some(array),
            ..Changed::default()
        })
    }

    /// Exports that are remembered for volumes of an array.
    pub(super) fn exports_of(&self, array: Uuid) -> Vec<crate::record::ExportRecord> {
        let exports = locked(&self.exports);
        let records = exports.values().map(|export| export.record.clone());
        records.filter(|record| record.array == array).collect()
    }

    /// The running array that has this disk, named by path or by the UUID in its label: a disk that
    /// is away has no path.
    pub(super) async fn array_of_disk(
        &self,
        disk: &str,
    ) -> Answer<(Arc<Entry>, EngineHandle, Array)> {
        for entry in self.entries() {
            let Some(array) = entry.running_array().await else {
                continue;
            };
            let members = array.members.iter().map(|m| (&m.path, &m.uuid));
            let spares = array.spares.iter().map(|s| (&s.path, &s.uuid));
            let mut disks = members.chain(spares);
            if disks.any(|(path, uuid)| path == disk || uuid == disk) {
                let engine = entry.running()?;
                return Ok((entry, engine, array));
            }
        }
        Err(refuse(
            ErrorCode::UnknownDisk,
            format!("{disk} is in no running array"),
            "`cairn disk list` shows the disks and their arrays",
        ))
    }
}

/// The disks of a new array.
struct CreatePlan {
    members: Vec<PathBuf>,
    spares: Vec<PathBuf>,
    wipe: Vec<PathBuf>,
}

impl CreatePlan {
    fn of(request: &CreateArray) -> Answer<Self> {
        let paths = |texts: &[String]| -> Answer<Vec<PathBuf>> {
            texts.iter().map(|text| path_text(text)).collect()
        };
        let plan = Self {
            members: paths(&request.disks)?,
            spares: paths(&request.spares)?,
            wipe: paths(&request.wipe)?,
        };
        let all = plan.all();
        if let Some(stray) = plan.wipe.iter().find(|path| !all.contains(path)) {
            return Err(invalid(
                format!("--wipe {} names no disk of the new array", stray.display()),
                "name disks to wipe exactly as in --disks or --spares",
            ));
        }
        Ok(plan)
    }

    fn all(&self) -> Vec<PathBuf> {
        self.members.iter().chain(&self.spares).cloned().collect()
    }
}

type Made = (Vec<String>, Option<(Uuid, Array)>);

async fn create(
    engine: &Engine,
    spec: CreateSpec,
    plan: CreatePlan,
    dry_run: bool,
) -> Answer<Made> {
    let count = plan.members.len();
    let taken = take(engine, &plan.all(), &plan.wipe).await?;
    let warnings = size_warnings(taken.iter().take(count).map(|(disk, _)| disk));
    // Before anything is wiped: whether the disks are large enough.
    let sizes = taken.iter().take(count);
    let sizes: Vec<(&str, u64)> = sizes
        .map(|(disk, _)| (&*disk.path, disk.device.geometry().size))
        .collect();
    spec.shape(&sizes).map_err(|error| refuse::raid(&error))?;
    if dry_run {
        return Ok((warnings, None));
    }
    let mut members = Vec::new();
    for (disk, has_content) in taken {
        if has_content {
            wipe(&disk).await?;
        }
        members.push(disk);
    }
    let spares = members.split_off(count.min(members.len()));
    let (env, pool) = (engine.env.clone(), engine.pool.clone());
    let array = cairn_raid::create(env, pool, spec, members, spares, engine.hooks.clone())
        .await
        .map_err(|error| refuse::raid(&error))?;
    let status = array.status();
    engine.array.replace(Some(array));
    Ok((warnings, Some((status.uuid, view::array(&status)))))
}

/// What there is to say about the members' sizes.
fn size_warnings<'a>(members: impl Iterator<Item = &'a MemberDisk> + Clone) -> Vec<String> {
    let sizes = members.map(|disk| (disk.device.geometry().size, &disk.path));
    let (Some((smallest, path)), Some((largest, _))) = (
        sizes.clone().min_by_key(|s| s.0),
        sizes.clone().max_by_key(|s| s.0),
    ) else {
        return Vec::new();
    };
    if smallest == largest {
        return Vec::new();
    }
    let unused: u64 = sizes.map(|(size, _)| size - smallest).sum();
    vec![format!(
        "the disks are of unequal size: {path} with {smallest} bytes decides, {unused} bytes of the \
         others stay unused"
    )]
}

/// Opens one disk for a running array, and wipes it if that was allowed; nothing in a dry run.
pub(super) async fn take_one(
    engine: &Engine,
    path: PathBuf,
    may_wipe: bool,
    dry_run: bool,
) -> Answer<(std::rc::Rc<cairn_raid::Array>, Option<MemberDisk>)> {
    let array = engine.array()?;
    let allowed = if may_wipe {
        vec![path.clone()]
    } else {
        Vec::new()
    };
    let mut taken = take(engine, &[path], &allowed).await?;
    let Some((disk, has_content)) = taken.pop() else {
        return Ok((array, None));
    };
    if dry_run {
        return Ok((array, None));
    }
    if has_content {
        wipe(&disk).await?;
    }
    Ok((array, Some(disk)))
}
