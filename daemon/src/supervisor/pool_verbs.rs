//! `cairn disk add` and `cairn disk remove` for the host's pool of spares.
//!
//! Invariants
//! - All disks that are to be added are open and checked before the first is changed.
//! - A disk that is taken out is blank, or it is said that it isn't.

use std::path::PathBuf;
use std::rc::Rc;

use cairn_api::{AddDisks, Changed, ErrorDetail, MemberState, RemoveDisk};
use cairn_raid::{HOST_SPARE_BYTES_MIN, HostSpare, MemberDisk, RaidError};
use uuid::Uuid;

use super::pool::{POOL_MAX, PoolDisk};
use super::spares::{HOLD_PATIENCE, POOL, hung, open_pooled, pool_event, seal};
use super::{Supervisor, locked, path_text};
use crate::engine::Engine;
use crate::looking::{self, Content, distinct};
use crate::refuse::{self, Answer, confirm, invalid};

impl Supervisor {
    /// Puts disks in the pool.
    pub async fn add_disks(&self, request: AddDisks) -> Answer<Changed> {
        let _changes = self.changes.lock().await;
        self.check_running()?;
        let (paths, wipe) = paths_of(&request)?;
        if locked(&self.pool).disks().len() + paths.len() > POOL_MAX {
            return Err(invalid(
                format!("the pool would have more than {POOL_MAX} disks"),
                "give disks to arrays, or take some out of the pool",
            ));
        }
        for path in &paths {
            self.check_answered(path).await?;
        }
        distinct(paths.clone(), self.taken().await).await?;
        let mut needs = Vec::new();
        for entry in self.entries() {
            if let Some(array) = entry.running_array().await {
                needs.push((array.name, array.host_spares.need_bytes));
            }
        }
        let here: Vec<Uuid> = {
            let disks = locked(&self.pool).disks().into_iter();
            let here = disks.filter(PoolDisk::is_here);
            here.map(|disk| disk.label.uuid).collect()
        };
        let (host, dry_run) = (self.host.uuid, request.dry_run);
        let shown = paths.first().cloned().unwrap_or_default();
        let joining = self.scanner.call(move |engine| async move {
            let plan = Joining {
                host,
                here,
                needs,
                wipe,
            };
            let (disks, warnings) = plan.check(&engine, &paths).await?;
            if dry_run {
                return Ok((Vec::new(), warnings, None));
            }
            let (joined, failed) = join(&engine, disks).await;
            Ok((joined, warnings, failed))
        });
        let joined = tokio::time::timeout(HOLD_PATIENCE, joining).await;
        let joined = joined.map_err(|_| hung(&shown))??;
        let (joined, warnings, failed) = joined?;
        for disk in joined {
            self.has_joined(disk, "HostSpareAdded", "put in the pool by request")
                .await;
        }
        self.note_reliance().await;
        self.pool_wake.notify_one();
        if let Some(detail) = failed {
            return Err(detail);
        }
        let would = if dry_run { "would put" } else { "put" };
        Ok(Changed {
            dry_run,
            changed: true,
            summary: format!("{would} {} in {POOL}", request.paths.join(", ")),
            warnings,
            disk: match request.paths.as_slice() {
                [one] if !dry_run => self.disk(one).await.ok(),
                _ => None,
            },
            ..Changed::default()
        })
    }

    /// Takes a disk out of the pool: it is blank then.
    pub(super) async fn remove_pooled(
        &self,
        request: &RemoveDisk,
        disk: PoolDisk,
    ) -> Answer<Changed> {
        self.check_running()?;
        let shown = disk.path.display().to_string();
        let relying = self.relying_on(&disk).await;
        let needs_yes = !relying.is_empty();
        let arrays = relying.join(", ");
        if request.dry_run {
            return Ok(Changed {
                dry_run: true,
                changed: true,
                needs_yes,
                summary: format!("would take disk {shown} out of {POOL}"),
                warnings: if needs_yes {
                    vec![format!("it is the last spare of: {arrays}")]
                } else {
                    Vec::new()
                },
                ..Changed::default()
            });
        }
        if needs_yes && !request.yes {
            return Err(confirm(format!(
                "disk {shown} is the last spare of {arrays}: after a failure nothing would be \
                 rebuilt by itself"
            )));
        }
        let disk = self.reserve_pooled(&disk, "`cairn disk remove`")?;
        let mut warnings = Vec::new();
        if disk.is_here() {
            let (label, path) = (disk.label, disk.path.clone());
            let erasing = self
                .scanner
                .call(move |engine| async move { erase(&engine, path, label).await });
            let erased = tokio::time::timeout(HOLD_PATIENCE, erasing).await;
            let erased = erased.unwrap_or_else(|_| Err(hung(&disk.path)));
            if let Err(detail) = erased.and_then(|erased| erased) {
                warnings.push(format!(
                    "its label stays, and brings it back when it is found: {detail}"
                ));
            }
        }
        self.has_left(&disk).await;
        self.events.record(pool_event(
            "HostSpareRemoved",
            &disk,
            "taken out of the pool by request",
        ));
        // Who takes the last one away says that none will do.
        for entry in self.entries() {
            let array = entry.running_array().await.map(|a| self.with_pool(a));
            if array.is_none_or(|array| array.host_spares.fitting > 0) {
                continue;
            }
            entry.update(|record| record.relies_on_pool = false);
            self.save(&entry).await;
        }
        Ok(Changed {
            changed: true,
            summary: format!("took disk {shown} out of {POOL}"),
            warnings,
            ..Changed::default()
        })
    }

    /// Running arrays for which this is the last spare.
    async fn relying_on(&self, disk: &PoolDisk) -> Vec<String> {
        let mut relying = Vec::new();
        if !disk.is_ready() {
            return relying;
        }
        for entry in self.entries() {
            let Some(array) = entry.running_array().await else {
                continue;
            };
            let array = self.with_pool(array);
            let mut own = array.spares.iter();
            let has_own = own.any(|spare| spare.state == MemberState::Spare);
            let pool = array.host_spares;
            if !has_own && pool.fitting == 1 && disk.size_bytes >= pool.need_bytes {
                relying.push(format!("array {}", array.name));
            }
        }
        relying
    }
}

/// What disks must be to join the pool.
struct Joining {
    host: Uuid,
    /// Disks of the pool that are there: another with the same label is a copy.
    here: Vec<Uuid>,
    /// Running arrays, and what their disks must have.
    needs: Vec<(String, u64)>,
    wipe: Vec<PathBuf>,
}

/// A disk that may join: the label that it is to bear, and whether something is to be wiped first.
type Joiner = (MemberDisk, HostSpare, bool);

impl Joining {
    /// Opens and checks all; changes nothing.
    async fn check(
        &self,
        engine: &Rc<Engine>,
        paths: &[PathBuf],
    ) -> Answer<(Vec<Joiner>, Vec<String>)> {
        let (mut disks, mut warnings) = (Vec::new(), Vec::new());
        for path in paths {
            let disk = looking::open(engine, path)
                .await
                .map_err(|error| looking::open_error(&error))?;
            let content = looking::content(&disk).await;
            let ours = match &content {
                Content::HostSpare(label)
                    if label.host == self.host && !self.here.contains(&label.uuid) =>
                {
                    Some(*label)
                }
                _ => None,
            };
            let has_content =
                ours.is_none() && looking::check_content(path, &content, self.wipe.contains(path))?;
            let size = disk.device.geometry().size;
            warnings.extend(self.check_size(&disk.path, size)?);
            let label = ours.unwrap_or_else(|| HostSpare {
                uuid: Uuid::new_v4(),
                host: self.host,
                disk_bytes: size,
                since_ms: u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0),
            });
            disks.push((disk, label, has_content));
        }
        Ok((disks, warnings))
    }

    /// Refuses a disk that is too small for every array, and tells for which it is.
    fn check_size(&self, path: &str, size: u64) -> Answer<Option<String>> {
        if size < HOST_SPARE_BYTES_MIN {
            return Err(refuse::raid(&RaidError::TooSmall {
                disk: path.to_owned(),
                size,
                need: HOST_SPARE_BYTES_MIN,
                what: "a spare of any array".into(),
            }));
        }
        let small = self.needs.iter().filter(|(_, need)| size < *need);
        let small: Vec<&(String, u64)> = small.collect();
        if let Some((name, need)) = small.iter().min_by_key(|(_, need)| *need)
            && small.len() == self.needs.len()
        {
            return Err(refuse::raid(&RaidError::TooSmall {
                disk: path.to_owned(),
                size,
                need: *need,
                what: format!("a member of array {name}, and no other array takes less"),
            }));
        }
        let names = small
            .iter()
            .map(|(name, need)| format!("{name} ({need} bytes)"));
        let names: Vec<String> = names.collect();
        Ok((!names.is_empty()).then(|| {
            format!(
                "{path} with {size} bytes is too small for these arrays: {}",
                names.join(", ")
            )
        }))
    }
}

/// Wipes, labels and holds disks that were checked; up to the first that fails.
async fn join(engine: &Rc<Engine>, disks: Vec<Joiner>) -> (Vec<PoolDisk>, Option<ErrorDetail>) {
    let mut joined = Vec::new();
    for (disk, label, has_content) in disks {
        if has_content && let Err(detail) = looking::wipe(&disk).await {
            return (joined, Some(detail));
        }
        match seal(engine, disk, label).await {
            Ok(disk) => joined.push(disk),
            Err(detail) => return (joined, Some(detail)),
        }
    }
    (joined, None)
}

/// Removes the label of a disk that leaves the pool.
async fn erase(engine: &Rc<Engine>, path: PathBuf, label: HostSpare) -> Answer<()> {
    let held = engine.held.borrow_mut().remove(&label.uuid);
    let disk = match held {
        Some(disk) => disk,
        None => open_pooled(engine, &path, label).await?,
    };
    looking::wipe(&disk).await
}

fn paths_of(request: &AddDisks) -> Answer<(Vec<PathBuf>, Vec<PathBuf>)> {
    let paths = |texts: &[String]| -> Answer<Vec<PathBuf>> {
        texts.iter().map(|text| path_text(text)).collect()
    };
    let (all, wipe) = (paths(&request.paths)?, paths(&request.wipe)?);
    if all.is_empty() {
        return Err(invalid(
            "no disk is named",
            "name the disks to put in the pool",
        ));
    }
    if let Some(stray) = wipe.iter().find(|path| !all.contains(path)) {
        return Err(invalid(
            format!("--wipe {} names no disk of those to add", stray.display()),
            "name disks to wipe exactly as those to add",
        ));
    }
    Ok((all, wipe))
}

#[cfg(test)]
mod tests {
    use cairn_api::ErrorCode;

    use super::*;

    fn joining(needs: &[(&str, u64)]) -> Joining {
        Joining {
            host: Uuid::nil(),
            here: Vec::new(),
            needs: needs.iter().map(|(n, b)| ((*n).to_owned(), *b)).collect(),
            wipe: Vec::new(),
        }
    }

    #[test]
    fn a_disk_that_is_too_small_for_every_array_is_refused_by_both_sizes() {
        const MIB: u64 = 1 << 20;
        let plan = joining(&[("a", 500 * MIB), ("b", 300 * MIB)]);
        let refused = plan.check_size("/d", 200 * MIB).unwrap_err();
        assert_eq!(refused.code, ErrorCode::DiskUnusable);
        for part in ["/d", "209715200", "314572800", "array b"] {
            assert!(refused.message.contains(part), "{refused}");
        }
        let warned = plan.check_size("/d", 400 * MIB).unwrap().unwrap();
        assert!(warned.contains("a (524288000 bytes)"), "{warned}");
        assert_eq!(plan.check_size("/d", 500 * MIB), Ok(None));
        assert_eq!(joining(&[]).check_size("/d", 200 * MIB), Ok(None));
        let tiny = joining(&[]).check_size("/d", MIB).unwrap_err();
        assert!(tiny.message.contains("1048576"), "{tiny}");
    }

    #[test]
    fn a_disk_to_wipe_must_be_one_of_those_to_add() {
        let request = |paths: &[&str], wipe: &[&str]| AddDisks {
            paths: paths.iter().map(|p| (*p).to_owned()).collect(),
            wipe: wipe.iter().map(|p| (*p).to_owned()).collect(),
            dry_run: false,
        };
        assert!(paths_of(&request(&["/a", "/b"], &["/b"])).is_ok());
        let stray = paths_of(&request(&["/a"], &["/b"])).unwrap_err();
        assert!(stray.message.contains("--wipe /b"), "{stray}");
        assert!(paths_of(&request(&[], &[])).is_err());
    }
}
