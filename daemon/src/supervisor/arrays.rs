//! Arrays: list, show, make, stop; and their spares.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use cairn_api::{
    Array, ArrayState, Changed, CreateArray, ErrorCode, Integrity, MemberState, SpareChange,
    StopArray, validate_name,
};
use cairn_raid::label::TABLE_MAX;
use cairn_raid::{CHUNK_MAX, CreateSpec, Geometry, MemberDisk, NewDisks, RaidError};
use uuid::Uuid;

use super::located::located;
use super::pool::PoolDisk;
use super::returning::{Added, add};
use super::scrubs::ArraySettings;
use super::spares::taker;
use super::{Entry, Run, Supervisor, locked, path_text};
use crate::engine::{Engine, EngineHandle};
use crate::looking::{self, Content, distinct, take, wipe};
use crate::record::ArrayRecord;
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
        Ok(self.with_pool(self.find(name)?.snapshot().await.array))
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
        let chunk = u32::try_from(chunk_bytes).map_err(|_| {
            invalid(
                format!(
                    "a chunk of {chunk_bytes} bytes can't be: it must be a power of two up to \
                     {CHUNK_MAX}"
                ),
                "",
            )
        })?;
        Geometry::new(level, request.disks.len(), chunk)
            .map_err(|error| invalid(error.to_string(), ""))?;
        let plan = CreatePlan::of(&request)?;
        for path in plan.all() {
            self.check_answered(&path).await?;
        }
        distinct(plan.all(), self.taken().await).await?;
        let spec = CreateSpec {
            name: name.clone(),
            level,
            chunk_bytes: chunk,
            home_host: self.host.uuid,
            journal_bytes: request.journal_bytes,
            integrity: request.integrity == Integrity::Crc32c,
            journal: !request.no_journal,
        };
        let others = self.running_arrays();
        let settings = ArraySettings::of(&self.config(), others + 1);
        let engine = self.new_engine(others).await?;
        let dry_run = request.dry_run;
        let (members, spares, journal) =
            (plan.members.len(), plan.spares.len(), plan.journal.len());
        let made = engine
            .call(move |engine| async move { create(&engine, spec, plan, settings, dry_run).await })
            .await
            .and_then(|made| made);
        let (mut warnings, made) = match made {
            Ok(made) => made,
            Err(detail) => {
                engine.shut_down().await;
                return Err(detail);
            }
        };
        warnings.extend(protection_warnings(&request));
        let what = format!(
            "array {name}: {} of {members} disks{}{}, chunk {} KiB",
            request.level,
            match spares {
                0 => String::new(),
                n => format!(" and {n} spares"),
            },
            match journal {
                0 => String::new(),
                n => format!(", its journal on {n} more"),
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
        self.settings_changed.notify_one();
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
        self.settings_changed.notify_one();
        self.remember(&entry).await;
        if let Err(why) = stopped {
            // What it says of itself is of the time before.
            return Err(refuse(
                why.code,
                format!("array {name} is stopped, but not cleanly: {why}"),
                format!(
                    "connect its disks that can still be read, then `cairn array assemble {name}`"
                ),
            ));
        }
        Ok(Changed {
            changed: true,
            summary: format!("stopped array {name}; `cairn array assemble {name}` starts it"),
            array: Some(entry.snapshot().await.array),
            ..Changed::default()
        })
    }

    /// Adds a disk: one that was a member is caught up, any other becomes a spare.
    pub async fn add_spare(&self, name: &str, request: SpareChange) -> Answer<Changed> {
        let entry = self.find(name)?;
        let path = path_text(&request.path)?;
        let taken = self.taken_by_arrays().await;
        let _within = entry.changes.lock().await;
        self.check_running()?;
        let engine = entry.running()?;
        self.check_answered(&path).await?;
        distinct(vec![path.clone()], taken).await?;
        let dry_run = request.dry_run;
        let may_wipe = request.wipe;
        let pooled = self.pooled(&request.path).filter(PoolDisk::is_here);
        if let Some(disk) = &pooled {
            check_pooled_size(&engine, disk).await?;
        }
        let added = match pooled {
            // The pool has it open, and it was checked when it was put in.
            Some(_) if dry_run => Added::WouldBeSpare,
            Some(disk) => {
                let disk = self.reserve_pooled(&disk, &taker(&entry.name()))?;
                let label = disk.label;
                let path = disk.path.clone();
                let taking = async move {
                    let added = engine.call(move |engine| async move {
                        add(&engine, path, Some(label), may_wipe, false).await
                    });
                    added.await?
                };
                self.hand_over(&entry, &disk, taking).await?
            }
            None => engine
                .call(
                    move |engine| async move { add(&engine, path, None, may_wipe, dry_run).await },
                )
                .await??,
        };
        if !dry_run {
            let ready = entry.ready_spares().await;
            entry.update(|record| record.spares_wanted = record.spares_wanted.max(ready));
            self.remember(&entry).await;
        }
        let (path, name) = (&request.path, entry.name());
        let summary = match added {
            Added::WouldBeSpare => format!("would add spare {path} to array {name}"),
            Added::WouldReturn => format!(
                "would take member {path} back into array {name} and catch it up, if it is known \
                 what it missed"
            ),
            Added::Spare => format!("added spare {path} to array {name}"),
            Added::Anew(why) => {
                format!("added {path} to array {name} as a spare: it can't be caught up: {why}")
            }
            Added::CatchingUp(rows) => format!(
                "took member {path} back into array {name}: {rows} rows that it missed are caught up"
            ),
        };
        self.answer_about(&entry, dry_run, summary).await
    }

    /// Takes a spare away.
    pub async fn remove_spare(&self, name: &str, request: SpareChange) -> Answer<Changed> {
        let entry = self.find(name)?;
        let _within = entry.changes.lock().await;
        self.check_running()?;
        let engine = entry.running()?;
        let array = self.with_pool(entry.snapshot().await.array);
        let name = array.name.clone();
        let spare = located(&array, &request.path);
        let Some(spare) = spare.filter(|disk| disk.state == MemberState::Spare) else {
            return Err(refuse(
                ErrorCode::UnknownDisk,
                format!("{} is no spare of array {name}", request.path),
                format!(
                    "`cairn array show {name}` lists its spares; `cairn disk remove` takes out \
                     failed disks"
                ),
            ));
        };
        let ready = array.spares.iter();
        let last = ready.filter(|s| s.state == MemberState::Spare).count() == 1
            && array.host_spares.fitting == 0;
        if last && !request.yes && !request.dry_run {
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
                needs_yes: last,
                summary: format!("would take spare {} away from array {name}", request.path),
                redundancy_left: Some(array.redundancy_left),
                array: Some(array),
                ..Changed::default()
            });
        }
        let asked = spare.name;
        engine
            .call(move |engine| async move {
                let array = engine.array()?;
                let removed = array.remove_spare(&asked).await;
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
        let array = self.with_pool(entry.snapshot().await.array);
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
}

/// The disks of a new array.
struct CreatePlan {
    members: Vec<PathBuf>,
    spares: Vec<PathBuf>,
    journal: Vec<PathBuf>,
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
            journal: paths(&request.journal_disks)?,
            wipe: paths(&request.wipe)?,
        };
        let all = plan.all();
        if let Some(stray) = plan.wipe.iter().find(|path| !all.contains(path)) {
            return Err(invalid(
                format!("--wipe {} names no disk of the new array", stray.display()),
                "name disks to wipe exactly as in --disks, --spares or --journal-disks",
            ));
        }
        Ok(plan)
    }

    fn all(&self) -> Vec<PathBuf> {
        let members = self.members.iter();
        let others = self.spares.iter().chain(&self.journal);
        members.chain(others).cloned().collect()
    }
}

type Made = (Vec<String>, Option<(Uuid, Array)>);

async fn create(
    engine: &Rc<Engine>,
    spec: CreateSpec,
    plan: CreatePlan,
    settings: ArraySettings,
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
    let (shape, data_bytes) = spec.shape(&sizes).map_err(|error| refuse::raid(&error))?;
    if taken.len() > TABLE_MAX {
        return Err(refuse::raid(&RaidError::TooManyDisks {
            array: spec.name,
            max: TABLE_MAX,
        }));
    }
    let journal: Vec<(&str, u64)> = taken
        .iter()
        .skip(count + plan.spares.len())
        .map(|(disk, _)| (&*disk.path, disk.device.geometry().size))
        .collect();
    spec.check_journal_disks(count, &journal)
        .map_err(|error| refuse::raid(&error))?;
    for (spare, _) in taken.iter().skip(count).take(plan.spares.len()) {
        let size = spare.device.geometry().size;
        if shape.layout(size, data_bytes).is_none() {
            return Err(refuse::raid(&RaidError::TooSmall {
                disk: spare.path.to_string(),
                size,
                need: shape.disk_bytes_min(data_bytes),
                what: "a spare of this array".into(),
            }));
        }
    }
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
    let mut spares = members.split_off(count.min(members.len()));
    let journal = spares.split_off(plan.spares.len().min(spares.len()));
    let disks = NewDisks {
        members,
        spares,
        journal,
    };
    let (env, pool) = (engine.env.clone(), engine.pool.clone());
    let array = cairn_raid::create_with(env, pool, spec, disks, engine.hooks.clone())
        .await
        .map_err(|error| refuse::raid(&error))?;
    settings.apply(&array);
    let status = array.status();
    engine.array.replace(Some(array));
    Ok((warnings, Some((status.uuid, view::array(&status)))))
}

/// What is given up by doing without checksums or journal.
fn protection_warnings(request: &CreateArray) -> Vec<String> {
    let mut warnings = Vec::new();
    if request.no_journal {
        warnings.push(
            "WITHOUT A JOURNAL: a crash or power cut in the middle of writes, together with a disk \
             that fails before parity is recomputed, loses data that was acknowledged long before. \
             This is for measurements; do not keep data on it"
                .into(),
        );
    }
    if request.integrity == Integrity::None {
        warnings.push(
            "without checksums: a disk that returns wrong bytes without an error is believed, and \
             scrubs can count what differs but not mend it"
                .into(),
        );
    }
    warnings
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

/// What a disk is for in an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A member, now or later.
    Data,
    /// The journal alone, which needs less of it.
    Journal,
}

/// Opens one disk for a running array, and wipes it if that was allowed; nothing in a dry run.
pub(super) async fn take_one(
    engine: &Rc<Engine>,
    path: PathBuf,
    purpose: Purpose,
    may_wipe: bool,
    dry_run: bool,
) -> Answer<(Rc<cairn_raid::Array>, Option<MemberDisk>)> {
    let array = engine.array()?;
    let disk = looking::open(engine, &path)
        .await
        .map_err(|error| looking::open_error(&error))?;
    let content = looking::content(&disk).await;
    let disk = take_opened(&array, disk, &content, purpose, may_wipe, dry_run).await?;
    Ok((array, disk))
}

/// The same with a disk that is open, and known to bear `content`.
pub(super) async fn take_opened(
    array: &Rc<cairn_raid::Array>,
    disk: MemberDisk,
    content: &Content,
    purpose: Purpose,
    may_wipe: bool,
    dry_run: bool,
) -> Answer<Option<MemberDisk>> {
    let has_content = looking::check_content(Path::new(&*disk.path), content, may_wipe)?;
    if purpose == Purpose::Data {
        check_size(array, &disk)?;
    }
    if dry_run {
        return Ok(None);
    }
    if has_content {
        wipe(&disk).await?;
    }
    Ok(Some(disk))
}

/// Refuses a disk that is too small for the array, to the byte: before its content goes for nothing.
pub(super) fn check_size(array: &Rc<cairn_raid::Array>, disk: &MemberDisk) -> Answer<()> {
    let size = disk.device.geometry().size;
    array
        .check_size(&disk.path, size)
        .map_err(|error| refuse::raid(&error))
}

/// The same with a disk of the host's pool, which is the pool's still.
pub(super) async fn check_pooled_size(engine: &EngineHandle, disk: &PoolDisk) -> Answer<()> {
    let (path, size) = (disk.path.display().to_string(), disk.size_bytes);
    let checked = engine.call(move |engine| async move {
        let checked = engine.array()?.check_size(&path, size);
        checked.map_err(|error| refuse::raid(&error))
    });
    checked.await?
}
