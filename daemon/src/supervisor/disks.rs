//! Disks: list, show, fail, remove, replace, wipe.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use cairn_api::{
    Array, Changed, Disk, DiskContent, DiskKind, DiskRole, ErrorCode, ErrorCounters, ErrorDetail,
    FailDisk, MemberState, RemoveDisk, ReplaceDisk, WipeDisk,
};
use cairn_blockdev::disk::{DiskInfo, OpenError, discover};
use tokio::sync::Mutex;

use super::arrays::{Purpose, check_pooled_size, check_size, take_one};
use super::located::located;
use super::pool::PoolDisk;
use super::returning::Awaited;
use super::spares::{POOL, open_pooled, taker};
use super::{Snapshot, Supervisor, path_text};
use crate::events::NewEvent;
use crate::looking::{self, Content, Looked, distinct};
use crate::refuse::{self, Answer, confirm, refuse};

/// Paths that a pattern of the configuration may bring: a typo must not open a whole file system.
const GLOB_PATHS_MAX: usize = 4096;
/// Longest wait for the kernel's list of disks: drivers are asked, too, and one whose disk hangs may
/// not answer.
const DISCOVER_TIMEOUT: Duration = Duration::from_secs(5);

impl Supervisor {
    /// Every disk in an array, and every other that the host has or the configuration names.
    pub async fn disks(&self) -> Vec<Disk> {
        let snapshots = self.snapshots().await;
        let mut disks = self.array_disks(&snapshots).await;
        let infos = host_disks().await;
        let awaited = self.awaited().await;
        let mut paths: Vec<PathBuf> = infos.values().map(|info| info.path.clone()).collect();
        paths.extend(glob_paths(&self.config().devices).await);
        // Members by other names are the same disks.
        let is_known = |disks: &[Disk], path: &Path| {
            let mut disks = disks.iter();
            disks.any(|known| !is_away(known) && same(Path::new(&known.path), path))
        };
        paths.retain(|path| !is_known(&disks, path));
        // All at once: one that hangs takes its time beside the others.
        let looks: Vec<_> = paths
            .into_iter()
            .map(|path| {
                let look = self.look_in(&path, &awaited);
                (path, tokio::spawn(look))
            })
            .collect();
        for (path, look) in looks {
            let looked = look
                .await
                .unwrap_or_else(|error| Err(refuse::internal(error.to_string())));
            if is_known(&disks, &path) {
                continue;
            }
            let mut found = match looked {
                Ok(looked) => described(&path, looked),
                Err(detail) => {
                    let mut disk = blank_row(&path);
                    disk.note = Some(detail.message);
                    disk
                }
            };
            add_facts(&mut found, &infos);
            // A failed disk that can still be looked at is shown already.
            if found.uuid.is_none() || disks.iter().all(|known| known.uuid != found.uuid) {
                disks.push(found);
            }
        }
        disks.sort_by(|a, b| a.path.cmp(&b.path));
        disks
    }

    /// The disks of arrays, and those of the host's pool of spares.
    pub(super) async fn array_disks(&self, snapshots: &[Snapshot]) -> Vec<Disk> {
        let infos = host_disks().await;
        let mut disks = Vec::new();
        for Snapshot { array, .. } in snapshots {
            disks.extend(members(array));
        }
        disks.extend(self.pool_disks());
        for disk in disks
            .iter_mut()
            .filter(|disk| disk.state != Some(MemberState::Missing))
        {
            add_facts(disk, &infos);
        }
        disks.sort_by(|a, b| a.path.cmp(&b.path));
        disks
    }

    /// One disk, by path.
    pub async fn disk(&self, path: &str) -> Answer<Disk> {
        let path = path_text(path)?;
        let snapshots = self.snapshots().await;
        let in_array = self.array_disks(&snapshots).await;
        let is_it = |disk: &&Disk| !is_away(disk) && same(Path::new(&disk.path), &path);
        if let Some(disk) = in_array.iter().find(is_it) {
            return Ok(disk.clone());
        }
        let was_here = |disk: &&Disk| is_away(disk) && Path::new(&disk.path) == path;
        let away = in_array.iter().find(was_here);
        // An error of opening is the answer here; in a list it is a note.
        let looked = match (self.look(&path).await, away) {
            (Ok(looked), _) => looked,
            (Err(_), Some(away)) => return Ok(away.clone()),
            (Err(error), None) => return Err(error),
        };
        let mut disk = described(&path, Ok(looked));
        add_facts(&mut disk, &host_disks().await);
        let Some(away) = away else { return Ok(disk) };
        if disk.uuid == away.uuid {
            return Ok(away.clone());
        }
        let place = match &away.array {
            Some(array) => format!("array {array}"),
            None => POOL.to_owned(),
        };
        let was = format!(
            "a disk of {place} that was last seen here is {}",
            away.state.map_or("away", MemberState::as_str)
        );
        disk.note = Some(match disk.note {
            Some(note) => format!("{note}; {was}"),
            None => was,
        });
        Ok(disk)
    }

    pub(super) async fn look(&self, path: &Path) -> Answer<Looked> {
        self.awaited().await.check(path)?;
        let path = path.to_owned();
        self.scanner
            .call(move |engine| async move {
                let looked = looking::look(&engine, &path).await;
                looked.map_err(|error| looking::open_error(&error))
            })
            .await?
    }

    /// A look that needs nothing of this any more.
    fn look_in(
        &self,
        path: &Path,
        awaited: &Awaited,
    ) -> impl Future<Output = Answer<Result<Looked, OpenError>>> + Send + use<> {
        let (scanner, at) = (self.scanner.clone(), path.to_owned());
        let checked = awaited.check(path);
        async move {
            checked?;
            scanner
                .call(move |engine| async move { looking::look(&engine, &at).await })
                .await
        }
    }

    /// Ejects a member, or marks a spare as failed.
    pub async fn fail_disk(&self, request: FailDisk) -> Answer<Changed> {
        let path = request.path.clone();
        let (entry, engine) = self.array_of_disk(&path).await?;
        let _within = entry.changes.lock().await;
        self.check_running()?;
        let array = entry.snapshot().await.array;
        let name = array.name.clone();
        let disk = located(&array, &path).ok_or_else(|| gone(&path, &name))?;
        let holds_data = disk.state == MemberState::InSync;
        if disk.state == MemberState::Failed {
            return Ok(Changed {
                dry_run: request.dry_run,
                summary: format!("disk {path} of array {name} has failed already"),
                redundancy_left: Some(array.redundancy_left),
                array: Some(array),
                ..Changed::default()
            });
        }
        if holds_data && array.redundancy_left == 0 {
            // Not even with yes: what is on it is nowhere else.
            return Err(refuse(
                ErrorCode::ArrayBusy,
                format!(
                    "disk {path} holds data of array {name} that is nowhere else: without it the \
                     array fails"
                ),
                format!("add a spare with `cairn array spare add {name} PATH` and let it rebuild"),
            ));
        }
        let left = array.redundancy_left.saturating_sub(u32::from(holds_data));
        let last = holds_data && left == 0;
        if request.dry_run {
            return Ok(Changed {
                dry_run: true,
                changed: true,
                needs_yes: last,
                summary: format!("would fail disk {path} of array {name}"),
                redundancy_left: Some(left),
                array: Some(array),
                ..Changed::default()
            });
        }
        if last && !request.yes {
            return Err(confirm(format!(
                "failing disk {path} takes the last redundancy of array {name}: the next disk \
                 that fails takes data with it"
            )));
        }
        let asked = disk.name;
        engine
            .call(move |engine| async move {
                let failed = engine.array()?.fail_member(&asked).await;
                failed.map_err(|error| refuse::raid(&error))
            })
            .await??;
        self.remember(&entry).await;
        self.answer_about(&entry, false, format!("failed disk {path} of array {name}"))
            .await
    }

    /// Takes a failed member or a spare out of its array, or a disk out of the pool of spares.
    pub async fn remove_disk(&self, request: RemoveDisk) -> Answer<Changed> {
        let path = request.path.clone();
        let pooled = self.pooled(&path);
        // What is there now comes before what an array has lost, and that before what the pool has.
        if let Some(disk) = pooled.clone().filter(PoolDisk::is_here) {
            return self.remove_pooled(&request, disk).await;
        }
        let (entry, engine) = match (self.array_of_disk(&path).await, pooled) {
            (Err(_), Some(disk)) => return self.remove_pooled(&request, disk).await,
            (found, _) => found?,
        };
        let _within = entry.changes.lock().await;
        self.check_running()?;
        let array = self.with_pool(entry.snapshot().await.array);
        let name = array.name.clone();
        let disk = located(&array, &path).ok_or_else(|| gone(&path, &name))?;
        let state = disk.state;
        let is_spare = state == MemberState::Spare;
        if matches!(
            state,
            MemberState::InSync
                | MemberState::Rebuilding
                | MemberState::Replacing
                | MemberState::Journal
        ) {
            return Err(refuse(
                ErrorCode::ArrayBusy,
                format!("disk {path} is {state} in array {name}"),
                format!(
                    "`cairn disk replace {path} NEW` puts another in its place first; `cairn disk fail \
                     {path}` ejects it"
                ),
            ));
        }
        let spares = array
            .spares
            .iter()
            .filter(|s| s.state == MemberState::Spare);
        let last_spare = is_spare && spares.count() == 1 && array.host_spares.fitting == 0;
        if request.dry_run {
            return Ok(Changed {
                dry_run: true,
                changed: true,
                needs_yes: last_spare,
                summary: format!("would remove disk {path} from array {name}"),
                redundancy_left: Some(array.redundancy_left),
                array: Some(array),
                ..Changed::default()
            });
        }
        if last_spare && !request.yes {
            return Err(confirm(format!(
                "disk {path} is the last spare of array {name}: after a failure nothing would be \
                 rebuilt by itself"
            )));
        }
        let asked = disk.name;
        engine
            .call(move |engine| async move {
                let removed = engine.array()?.remove_member(&asked).await;
                removed.map_err(|error| refuse::raid(&error))
            })
            .await??;
        if is_spare {
            let ready = entry.ready_spares().await;
            entry.update(|record| record.spares_wanted = ready);
        }
        self.remember(&entry).await;
        self.answer_about(
            &entry,
            false,
            format!("removed disk {path} from array {name}"),
        )
        .await
    }

    /// Puts a new disk in a member's place.
    pub async fn replace_disk(&self, request: ReplaceDisk) -> Answer<Changed> {
        let old = request.old.clone();
        let new = path_text(&request.new)?;
        let taken = self.taken_by_arrays().await;
        let (entry, engine) = self.array_of_disk(&old).await?;
        let _within = entry.changes.lock().await;
        self.check_running()?;
        let array = entry.snapshot().await.array;
        let name = array.name.clone();
        let disk = located(&array, &old).ok_or_else(|| gone(&old, &name))?;
        // Before anything is wiped for it.
        let in_the_way = match (disk.slot, disk.state) {
            (None, _) if !disk.journal => Some("it has no slot"),
            (_, MemberState::Rebuilding | MemberState::Replacing) => Some("it is being filled"),
            _ => None,
        };
        if let Some(why) = in_the_way {
            return Err(refuse(
                ErrorCode::ArrayBusy,
                format!("disk {old} of array {name} can't be replaced: {why}"),
                format!("`cairn array show {name}` lists its members"),
            ));
        }
        let spare = located(&array, &request.new).filter(|new| new.state == MemberState::Spare);
        if spare.is_none() {
            self.check_answered(&new).await?;
            distinct(vec![new.clone()], taken).await?;
        }
        let (asked, dry_run, may_wipe) = (disk.name, request.dry_run, request.wipe);
        let purpose = if disk.journal {
            Purpose::Journal
        } else {
            Purpose::Data
        };
        // The array's own word, before anything is wiped for it.
        let for_old = asked.clone();
        engine
            .call(move |engine| async move {
                let checked = engine.array()?.check_replaceable(&for_old);
                checked.map_err(|error| refuse::raid(&error))
            })
            .await??;
        let pooled = self.pooled(&request.new).filter(PoolDisk::is_here);
        let pooled = pooled.filter(|_| spare.is_none() && purpose == Purpose::Data);
        if let Some(disk) = &pooled {
            check_pooled_size(&engine, disk).await?;
        }
        match pooled {
            Some(_) if dry_run => {}
            Some(disk) => {
                let disk = self.reserve_pooled(&disk, &taker(&name))?;
                let (label, path) = (disk.label, disk.path.clone());
                let taking = async move {
                    let replaced = engine.call(move |engine| async move {
                        let array = engine.array()?;
                        let disk = open_pooled(&engine, &path, label).await?;
                        check_size(&array, &disk)?;
                        let replaced = array.replace_member(&asked, disk).await;
                        replaced.map_err(|error| refuse::raid(&error))
                    });
                    replaced.await?
                };
                self.hand_over(&entry, &disk, taking).await?;
            }
            None => {
                engine
                    .call(move |engine| async move {
                        let (array, disk) = match spare {
                            // The array has it open already, and blank.
                            Some(_) if dry_run => return Ok(()),
                            Some(spare) => {
                                let opened = engine.opened(&spare.name);
                                let opened =
                                    opened.ok_or_else(|| refuse::internal("a spare isn't open"))?;
                                (engine.array()?, Some(opened))
                            }
                            None => take_one(&engine, new, purpose, may_wipe, dry_run).await?,
                        };
                        let Some(disk) = disk else { return Ok(()) };
                        let replaced = array.replace_member(&asked, disk).await;
                        replaced.map_err(|error| refuse::raid(&error))
                    })
                    .await??;
            }
        }
        if !dry_run {
            self.remember(&entry).await;
        }
        let would = if dry_run {
            "would replace"
        } else {
            "replacing"
        };
        self.answer_about(
            &entry,
            dry_run,
            format!(
                "{would} disk {old} of array {} by {}",
                entry.name(),
                request.new
            ),
        )
        .await
    }

    /// Removes signatures and labels from a disk that is in no running array.
    pub async fn wipe_disk(&self, request: WipeDisk) -> Answer<Changed> {
        let path = path_text(&request.path)?;
        let _changes = self.changes.lock().await;
        self.check_running()?;
        self.check_answered(&path).await?;
        distinct(vec![path.clone()], self.taken().await).await?;
        let looked = self.look(&path).await?;
        let content = match &looked.content {
            Content::Blank => {
                return Ok(Changed {
                    dry_run: request.dry_run,
                    summary: format!("disk {} is blank already", request.path),
                    disk: Some(described(&path, Ok(looked))),
                    ..Changed::default()
                });
            }
            Content::Cairn(identity) => format!("the label of array {}", identity.array_name),
            Content::HostSpare(_) => looked.content.words(),
            Content::Foreign(signature) => format!("the signature of {signature}"),
            Content::Damaged(how) => format!("a damaged Cairn label ({how})"),
            Content::Unreadable(error) => {
                return Err(refuse(
                    ErrorCode::Io,
                    format!("{} can't be read: {error}", request.path),
                    "look at the kernel's log for this disk",
                ));
            }
        };
        let (asked, dry_run) = (path.clone(), request.dry_run);
        if !dry_run && !request.yes {
            return Err(confirm(format!(
                "this wipes {content} from {}, and with it the way to its data",
                request.path
            )));
        }
        self.scanner
            .call(move |engine| async move {
                let disk = looking::open(&engine, &asked)
                    .await
                    .map_err(|error| looking::open_error(&error))?;
                if dry_run {
                    return Ok(());
                }
                looking::wipe(&disk).await
            })
            .await??;
        if dry_run {
            return Ok(Changed {
                dry_run: true,
                changed: true,
                needs_yes: true,
                summary: format!("would wipe {content} from {}", request.path),
                disk: Some(described(&path, Ok(looked))),
                ..Changed::default()
            });
        }
        let mut event = NewEvent::new("DiskWiped", format!("wiped {content}"));
        event.disk = Some(request.path.clone());
        self.events.record(event);
        Ok(Changed {
            changed: true,
            summary: format!("wiped {content} from {}", request.path),
            disk: Some(self.disk(&request.path).await?),
            ..Changed::default()
        })
    }
}

/// The disk left its array while the request waited for others.
fn gone(disk: &str, array: &str) -> ErrorDetail {
    refuse(
        ErrorCode::UnknownDisk,
        format!("{disk} is no longer in array {array}"),
        format!("`cairn array show {array}` lists its disks"),
    )
}

/// Whether a disk isn't where it was: at its path may be another.
fn is_away(disk: &Disk) -> bool {
    matches!(disk.state, Some(MemberState::Missing | MemberState::Failed))
}

/// Whether two paths lead to one file or device node.
pub(super) fn same(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    if a == b {
        return true;
    }
    let (Ok(a), Ok(b)) = (std::fs::metadata(a), std::fs::metadata(b)) else {
        return false;
    };
    let is_block = |m: &std::fs::Metadata| m.file_type().is_block_device();
    if is_block(&a) && is_block(&b) {
        return a.rdev() == b.rdev();
    }
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// The host's block devices, by canonical path; none where the system doesn't answer in time.
async fn host_disks() -> BTreeMap<PathBuf, DiskInfo> {
    /// Held while the system is asked: where a disk hangs one thread waits for it, and not more and more.
    static ASKING: LazyLock<Arc<Mutex<()>>> = LazyLock::new(Arc::default);
    let found = async {
        let asking = Arc::clone(&ASKING).lock_owned().await;
        let ask = move || {
            let _asking = asking;
            discover()
        };
        tokio::task::spawn_blocking(ask).await
    };
    let Ok(found) = tokio::time::timeout(DISCOVER_TIMEOUT, found).await else {
        tracing::warn!("a disk doesn't answer: what the kernel knows of disks isn't shown");
        return BTreeMap::new();
    };
    match found {
        Ok(Ok(infos)) => infos
            .into_iter()
            .map(|info| (info.path.clone(), info))
            .collect(),
        Ok(Err(error)) => {
            tracing::debug!(%error, "the host's block devices can't be listed");
            BTreeMap::new()
        }
        Err(error) => {
            tracing::error!(%error, "listing block devices ended in a panic");
            BTreeMap::new()
        }
    }
}

/// What the configuration's patterns bring now: disks and files, each once.
pub(super) async fn glob_paths(patterns: &[String]) -> Vec<PathBuf> {
    let patterns = patterns.to_vec();
    let expand = move || {
        let mut paths = std::collections::BTreeSet::new();
        for pattern in &patterns {
            // The configuration was checked: a pattern that fails here is none.
            let Ok(found) = glob::glob(pattern) else {
                continue;
            };
            // What can't be read is no candidate.
            for path in found.flatten().take(GLOB_PATHS_MAX) {
                if !path.is_dir() {
                    paths.insert(path);
                }
            }
        }
        paths.into_iter().take(GLOB_PATHS_MAX).collect::<Vec<_>>()
    };
    tokio::task::spawn_blocking(expand)
        .await
        .unwrap_or_default()
}

fn members(array: &Array) -> Vec<Disk> {
    let row = |path: &str, uuid: &str, slot, state: MemberState, errors, role| Disk {
        path: path.to_owned(),
        content: match state {
            MemberState::Missing | MemberState::Failed => DiskContent::Unknown,
            _ => DiskContent::Cairn,
        },
        role,
        array: Some(array.name.clone()),
        uuid: (!uuid.is_empty()).then(|| uuid.to_owned()),
        slot,
        state: Some(state),
        errors,
        ..blank_row(Path::new(path))
    };
    let members = array.members.iter().map(|m| {
        row(
            &m.path,
            &m.uuid,
            Some(m.slot),
            m.state,
            m.errors,
            DiskRole::Member,
        )
    });
    let spares = array.spares.iter().map(|s| {
        let role = if s.journal {
            DiskRole::Journal
        } else {
            DiskRole::Spare
        };
        row(&s.path, &s.uuid, None, s.state, s.errors, role)
    });
    members
        .chain(spares)
        .filter(|disk| !disk.path.is_empty())
        .collect()
}

pub(super) fn blank_row(path: &Path) -> Disk {
    Disk {
        path: path.display().to_string(),
        kind: DiskKind::Absent,
        size_bytes: 0,
        logical_block_bytes: 0,
        rotational: None,
        model: None,
        serial: None,
        content: DiskContent::Unknown,
        signature: None,
        role: DiskRole::Free,
        array: None,
        uuid: None,
        slot: None,
        state: None,
        errors: ErrorCounters::default(),
        note: None,
    }
}

/// A disk that is in no array of ours.
fn described(path: &Path, looked: Result<Looked, OpenError>) -> Disk {
    let mut disk = blank_row(path);
    let looked = match looked {
        Ok(looked) => looked,
        Err(error) => {
            disk.content = match error {
                OpenError::Missing { .. } | OpenError::NoMedium { .. } => DiskContent::Unknown,
                _ => DiskContent::Unreadable,
            };
            disk.note = Some(error.to_string());
            return disk;
        }
    };
    disk.kind = if looked.is_block {
        DiskKind::Block
    } else {
        DiskKind::File
    };
    disk.size_bytes = looked.geometry.size;
    disk.logical_block_bytes = looked.geometry.logical_block;
    disk.rotational = Some(looked.geometry.rotational);
    match looked.content {
        Content::Blank => disk.content = DiskContent::Blank,
        Content::Cairn(identity) => {
            disk.content = DiskContent::Cairn;
            disk.uuid = Some(identity.member_uuid.to_string());
            disk.note = Some(format!(
                "label of array {} ({}); it takes no part in a running array",
                identity.array_name, identity.array_uuid
            ));
        }
        Content::HostSpare(label) => {
            disk.content = DiskContent::Cairn;
            disk.uuid = Some(label.uuid.to_string());
            disk.note = Some(format!(
                "label of a spare of host {}; it isn't in the pool of this one",
                label.host
            ));
        }
        Content::Foreign(signature) => {
            disk.content = DiskContent::Foreign;
            disk.signature = Some(signature);
        }
        Content::Damaged(how) => {
            disk.content = DiskContent::Damaged;
            disk.note = Some(how);
        }
        Content::Unreadable(error) => {
            disk.content = DiskContent::Unreadable;
            disk.note = Some(error);
        }
    }
    disk
}

/// Adds what the kernel says of a block device, or the file system of a file.
fn add_facts(disk: &mut Disk, infos: &BTreeMap<PathBuf, DiskInfo>) {
    let path = Path::new(&disk.path);
    let canonical = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if let Some(info) = infos.get(&canonical) {
        disk.kind = DiskKind::Block;
        disk.size_bytes = info.size_bytes;
        disk.logical_block_bytes = info.logical_block;
        disk.rotational = Some(info.rotational);
        disk.model.clone_from(&info.model);
        disk.serial.clone_from(&info.serial);
        if disk.role == DiskRole::Free
            && let Some(usage) = &info.usage
        {
            disk.note = Some(usage.to_string());
        }
    } else if let Ok(metadata) = std::fs::metadata(&canonical)
        && metadata.is_file()
    {
        disk.kind = DiskKind::File;
        disk.size_bytes = metadata.len();
    }
}
