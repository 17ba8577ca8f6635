//! Disks that were members and turn up again, by themselves or by request; and disks that must not be
//! looked at, because an array still waits for their answers.
//!
//! By themselves: every few seconds it is seen which disks are connected. One that wasn't there the
//! last time is looked at while a running array has members away; if it is one of them, the array
//! takes it back, unless the operator put it out. What a member that comes back may be trusted with is
//! the array's to say ([`cairn_raid::Array::member_returned`]).
//!
//! Invariants
//! - A disk that owes answers is never looked at: the look might never end, and a write that is still
//!   on its way could land on what is then made of the disk (fault D13).
//! - A disk that failed and was connected all the time doesn't come back by itself: it would fail again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use cairn_api::{Array, ErrorCode, ErrorDetail, MemberState};
use cairn_raid::{HostSpare, Identity, RaidError, Readded};
use nix::sys::stat::{major, minor};

use super::arrays::{Purpose, check_size, take_opened};
use super::disks::{glob_paths, same};
use super::spares::{FoundSpare, open_pooled};
use super::{Entry, Supervisor, locked};
use crate::engine::Engine;
use crate::looking::{self, Content};
use crate::refuse::{self, Answer, refuse};

/// Between two looks at what is connected.
const ARRIVALS_PERIOD: Duration = Duration::from_secs(2);
/// New disks that are looked at in one round; the others are for the next.
const LOOKS_MAX: usize = 64;
/// Ordinary operations of a disk that was just put out end within this.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

/// Which disk is connected at a path, so that another one, or the same connected anew, is told from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Connection {
    /// A file.
    File { device: u64, inode: u64 },
    /// A block device. The kernel counts how often a medium was connected, since Linux 5.14.
    Block { number: u64, sequence: u64 },
}

impl Connection {
    /// What is at `path` now.
    pub(super) fn at(path: &Path) -> Option<Self> {
        use std::os::unix::fs::{FileTypeExt, MetadataExt};
        let meta = std::fs::metadata(path).ok()?;
        if meta.is_file() {
            return Some(Self::File {
                device: meta.dev(),
                inode: meta.ino(),
            });
        }
        if !meta.file_type().is_block_device() {
            return None;
        }
        let number = meta.rdev();
        let dir = format!("/sys/dev/block/{}:{}", major(number), minor(number));
        // A partition has that of its disk.
        let places = [format!("{dir}/diskseq"), format!("{dir}/../diskseq")];
        let read = places
            .iter()
            .find_map(|place| std::fs::read_to_string(place).ok());
        let sequence = read.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        Some(Self::Block { number, sequence })
    }
}

/// What is known of a connected disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Acquaintance {
    /// Somebody looks at it just now.
    Looking,
    /// It takes part in an array, did so since it was connected, or is no member that is away.
    Known,
}

/// Disks that are connected, and whether they were looked at since.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    known: BTreeMap<Connection, Acquaintance>,
}

impl Arrivals {
    /// Takes in what is connected now and what of it takes part, and gives the disks to look at.
    fn round(
        &mut self,
        connected: &BTreeMap<Connection, PathBuf>,
        live: impl IntoIterator<Item = Connection>,
        some_away: bool,
    ) -> Vec<(Connection, PathBuf)> {
        // One that went is a new one when it is back.
        self.known
            .retain(|one, how| connected.contains_key(one) || *how == Acquaintance::Looking);
        for one in live {
            self.known.entry(one).or_insert(Acquaintance::Known);
        }
        if !some_away {
            return Vec::new();
        }
        let new = connected
            .iter()
            .filter(|(one, _)| !self.known.contains_key(one));
        let new: Vec<_> = new
            .take(LOOKS_MAX)
            .map(|(one, path)| (*one, path.clone()))
            .collect();
        for (one, _) in &new {
            self.known.insert(*one, Acquaintance::Looking);
        }
        new
    }

    /// A look has ended; without a verdict there will be another.
    fn looked(&mut self, one: Connection, is_decided: bool) {
        if is_decided {
            self.known.insert(one, Acquaintance::Known);
        } else {
            self.known.remove(&one);
        }
    }
}

/// Disks that owe answers, with the array that waits for each.
#[derive(Debug, Default)]
pub(super) struct Awaited(Vec<(PathBuf, ErrorDetail)>);

impl Awaited {
    /// Refuses a disk that owes answers, by whatever path.
    pub(super) fn check(&self, path: &Path) -> Answer<()> {
        let found = self.0.iter().find(|(owing, _)| same(owing, path));
        found.map_or(Ok(()), |(_, detail)| Err(detail.clone()))
    }
}

fn unanswered(array: &Rc<cairn_raid::Array>) -> Vec<(PathBuf, ErrorDetail)> {
    let name = array.status().name;
    let refusal = |owing: cairn_raid::Unanswered| {
        let detail = refuse::raid(&RaidError::Unanswered {
            disk: owing.path.clone(),
            array: name.clone(),
            operations: owing.operations,
        });
        (PathBuf::from(owing.path), detail)
    };
    array.awaited().into_iter().map(refusal).collect()
}

fn is_away(state: MemberState) -> bool {
    matches!(state, MemberState::Missing | MemberState::Failed)
}

impl Supervisor {
    /// The disks that arrays wait for.
    pub(super) async fn awaited(&self) -> Awaited {
        let mut awaited = Vec::new();
        for entry in self.entries() {
            awaited.extend(entry.ask(unanswered).await.unwrap_or_default());
        }
        Awaited(awaited)
    }

    /// Waits a moment for a disk's answers, and refuses it if they don't come.
    pub(super) async fn check_answered(&self, path: &Path) -> Answer<()> {
        for entry in self.entries() {
            let asked = path.to_owned();
            let Some(engine) = entry.engine() else {
                continue;
            };
            engine
                .call(move |engine| async move {
                    let Some(array) = engine.array.borrow().clone() else {
                        return;
                    };
                    let owing = array.awaited().into_iter();
                    let mut owing = owing.filter(|one| same(one.path.as_ref(), &asked));
                    if let Some(one) = owing.next() {
                        // Whether they came is looked at below.
                        let quiet = array.quiet(&one.path);
                        drop(tokio::time::timeout(ANSWER_PATIENCE, quiet).await);
                    }
                })
                .await?;
        }
        self.awaited().await.check(path)
    }

    /// Takes members back that are connected again, until the daemon stops.
    pub async fn keep_members(self: Arc<Self>) {
        loop {
            tokio::time::sleep(ARRIVALS_PERIOD).await;
            if self.check_running().is_err() {
                return;
            }
            self.look_for_members().await;
        }
    }

    async fn look_for_members(self: &Arc<Self>) {
        let mut running: Vec<Array> = Vec::new();
        let mut paths: Vec<PathBuf> = Vec::new();
        for entry in self.entries() {
            let Some(array) = entry.running_array().await else {
                continue;
            };
            let known = entry.record().disks.into_iter();
            paths.extend(known.map(|disk| PathBuf::from(disk.path)));
            running.push(array);
        }
        let disks = || {
            running.iter().flat_map(|array| {
                let members = array.members.iter().map(|m| (&m.path, m.state));
                members.chain(array.spares.iter().map(|s| (&s.path, s.state)))
            })
        };
        let some_away = self.pool_misses_some()
            || running
                .iter()
                .flat_map(|array| &array.members)
                .any(|member| is_away(member.state));
        let (missing, held) = self.pool_hints();
        paths.extend(missing);
        let members = disks()
            .filter(|(path, state)| !path.is_empty() && !is_away(*state))
            .map(|(path, _)| PathBuf::from(path));
        let live: Vec<PathBuf> = members.chain(held).collect();
        paths.extend(live.iter().cloned());
        if some_away {
            paths.extend(glob_paths(&self.config().devices).await);
        }
        let seen = tokio::task::spawn_blocking(move || {
            let connected = paths
                .into_iter()
                .filter_map(|path| Some((Connection::at(&path)?, path)))
                .collect::<BTreeMap<_, _>>();
            let live: Vec<_> = live
                .iter()
                .filter_map(|path| Connection::at(path))
                .collect();
            (connected, live)
        });
        let (connected, live) = match seen.await {
            Ok(seen) => seen,
            Err(error) => {
                tracing::error!(%error, "looking for disks that are back ended in a panic");
                return;
            }
        };
        let new = locked(&self.arrivals).round(&connected, live, some_away);
        for (connection, path) in new {
            // Each by itself: a look at a disk that hangs holds up no other.
            let daemon = Arc::clone(self);
            tokio::spawn(async move {
                let is_decided = daemon.welcome(&path).await;
                locked(&daemon.arrivals).looked(connection, is_decided);
            });
        }
    }

    /// Looks at a disk that was connected, and gives it to the array that misses it, or to the pool of
    /// spares. False if it couldn't be decided yet.
    async fn welcome(&self, path: &Path) -> bool {
        let identity = match self.look(path).await {
            Ok(looked) => match looked.content {
                Content::Cairn(identity) => identity,
                Content::HostSpare(label) => {
                    let path = path.to_owned();
                    self.admit(FoundSpare { path, label }).await;
                    return true;
                }
                _ => return true,
            },
            // In use, or owing answers: that may end.
            Err(detail) => return detail.code != ErrorCode::DiskInUse,
        };
        let entries = self.entries().into_iter();
        let mut entries = entries.filter(|entry| entry.uuid() == identity.array_uuid);
        let Some(entry) = entries.next() else {
            return true;
        };
        let _within = entry.changes.lock().await;
        if self.check_running().is_err() || !misses(&entry, &identity).await {
            return true;
        }
        let Some(engine) = entry.engine() else {
            return true;
        };
        let asked = path.to_owned();
        let returned = engine
            .call(move |engine| async move {
                let array = engine.array()?;
                let disk = looking::open(&engine, &asked).await;
                let disk = disk.map_err(|error| looking::open_error(&error))?;
                let returned = array.member_returned(disk).await;
                returned.map_err(|error| refuse::raid(&error))
            })
            .await;
        match returned.and_then(|returned| returned) {
            Ok(Some(rows)) => {
                tracing::info!(array = entry.name(), path = %path.display(), rows, "a member is back");
                self.remember(&entry).await;
                true
            }
            // The operator put it out, or the array has said why not.
            Ok(None) => true,
            Err(detail) => {
                let (array, path) = (entry.name(), path.display());
                let is_decided = detail.code != ErrorCode::DiskInUse;
                if is_decided {
                    tracing::warn!(array, %path, "a member isn't taken back: {detail}");
                } else {
                    tracing::debug!(array, %path, "a member isn't taken back yet: {detail}");
                }
                is_decided
            }
        }
    }
}

/// Whether this is a member that the running array has as away.
async fn misses(entry: &Entry, identity: &Identity) -> bool {
    let uuid = identity.member_uuid.to_string();
    let array = entry.running_array().await;
    array.is_some_and(|array| {
        let mut members = array.members.iter();
        members.any(|member| member.uuid == uuid && is_away(member.state))
    })
}

/// How a disk was added to an array.
pub(super) enum Added {
    /// As a spare.
    Spare,
    /// In the slot that it had; it gets so many rows that it missed.
    CatchingUp(u64),
    /// As a spare, and why it couldn't be caught up.
    Anew(String),
    /// Not yet: it would be a spare.
    WouldBeSpare,
    /// Not yet: it would be taken back, as far as that can be.
    WouldReturn,
}

/// Adds a disk: one that was a member of this array is caught up, any other becomes a spare. One with
/// the label `pooled` was reserved for this array by the host's pool, which has let it go.
pub(super) async fn add(
    engine: &Rc<Engine>,
    path: PathBuf,
    pooled: Option<HostSpare>,
    may_wipe: bool,
    dry_run: bool,
) -> Answer<Added> {
    let array = engine.array()?;
    if let Some(label) = pooled {
        let disk = open_pooled(engine, &path, label).await?;
        check_size(&array, &disk)?;
        let added = array.add_spare(disk).await;
        return added
            .map(|()| Added::Spare)
            .map_err(|error| refuse::raid(&error));
    }
    let disk = looking::open(engine, &path)
        .await
        .map_err(|error| looking::open_error(&error))?;
    let content = looking::content(&disk).await;
    let raid = |error| refuse::raid(&error);
    let is_ours =
        matches!(&content, Content::Cairn(identity) if identity.array_uuid == array.uuid());
    if is_ours && may_wipe {
        check_size(&array, &disk)?;
    }
    if is_ours && dry_run {
        return Ok(Added::WouldReturn);
    }
    if is_ours && may_wipe {
        return Ok(match array.readd_member(disk).await.map_err(raid)? {
            Readded::CatchingUp { rows } => Added::CatchingUp(rows),
            Readded::Spare { why } => Added::Anew(why),
        });
    }
    if is_ours {
        let name = array.status().name;
        return match array.catch_up_member(&disk).await.map_err(raid)? {
            Ok(rows) => Ok(Added::CatchingUp(rows)),
            Err(why) => Err(refuse(
                ErrorCode::DiskInUse,
                format!(
                    "{} bears the label of array {name} and can't be caught up: {why}",
                    path.display()
                ),
                format!(
                    "if its content may go, `cairn array spare add {name} {} --wipe` makes it a \
                     spare",
                    path.display()
                ),
            )),
        };
    }
    match take_opened(&array, disk, &content, Purpose::Data, may_wipe, dry_run).await? {
        Some(disk) => {
            array.add_spare(disk).await.map_err(raid)?;
            Ok(Added::Spare)
        }
        None => Ok(Added::WouldBeSpare),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn disk(inode: u64) -> Connection {
        Connection::File { device: 1, inode }
    }

    fn connected(inodes: &[u64]) -> BTreeMap<Connection, PathBuf> {
        let paths = inodes.iter().map(|inode| format!("/d{inode}").into());
        inodes.iter().map(|inode| disk(*inode)).zip(paths).collect()
    }

    #[test]
    fn a_disk_that_failed_in_its_place_is_left_alone_until_it_is_connected_anew() {
        let mut arrivals = Arrivals::default();
        let all = connected(&[1, 2]);
        assert_eq!(arrivals.round(&all, [disk(1), disk(2)], false), []);
        // 2 fails, and stays connected.
        assert_eq!(arrivals.round(&all, [disk(1)], true), []);
        let fewer = connected(&[1]);
        assert_eq!(arrivals.round(&fewer, [disk(1)], true), []);
        let new = arrivals.round(&all, [disk(1)], true);
        assert_eq!(new, [(disk(2), PathBuf::from("/d2"))]);
    }

    #[test]
    fn a_new_disk_is_looked_at_once_unless_the_look_gave_no_verdict() {
        let mut arrivals = Arrivals::default();
        let all = connected(&[1, 2, 3]);
        assert_eq!(arrivals.round(&all, [disk(1)], true).len(), 2);
        assert_eq!(
            arrivals.round(&all, [disk(1)], true),
            [],
            "they are looked at"
        );
        arrivals.looked(disk(2), true);
        arrivals.looked(disk(3), false);
        let new = arrivals.round(&all, [disk(1)], true);
        assert_eq!(new, [(disk(3), PathBuf::from("/d3"))]);
    }

    #[test]
    fn while_no_member_is_away_nobody_looks_at_new_disks() {
        let mut arrivals = Arrivals::default();
        assert_eq!(arrivals.round(&connected(&[1, 2]), [disk(1)], false), []);
        let new = arrivals.round(&connected(&[1, 2]), [disk(1)], true);
        assert_eq!(new.len(), 1, "later they are new still");
    }

    #[test]
    fn a_disk_that_owes_answers_is_refused_by_every_path_to_it() {
        let dir = TempDir::new();
        let (path, link, other) = (
            dir.path().join("disk"),
            dir.path().join("link"),
            dir.path().join("other"),
        );
        std::fs::write(&path, "").unwrap();
        std::fs::write(&other, "").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let detail = refuse(ErrorCode::DiskInUse, "it owes answers", "");
        let awaited = Awaited(vec![(path.clone(), detail.clone())]);
        assert_eq!(awaited.check(&path), Err(detail.clone()));
        assert_eq!(awaited.check(&link), Err(detail));
        assert_eq!(awaited.check(&other), Ok(()));
    }
}
