//! Looking at disks and taking them: what is on them, whether they may be used, on an engine thread.
//!
//! Invariants
//! - Looking changes nothing and takes no lock.
//! - A disk is taken only if it is blank, or its present content was named to be wiped.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use cairn_api::{ErrorCode, ErrorDetail};
use cairn_blockdev::disk::{Disk, OpenError, OpenMode, identity, same_disk};
use cairn_blockdev::signature::{self, Kind, Signature};
use cairn_blockdev::{BlockDevice, DeviceGeometry, IoError};
use cairn_raid::{MemberDisk, Probe};
use uuid::Uuid;

use crate::engine::Engine;
use crate::refuse::{self, Answer, refuse};

/// Longest wait for a disk to open. Most take a millisecond; one that has to spin up, seconds.
const OPEN_PATIENCE: Duration = Duration::from_secs(20);
/// Opens of one path at a time; more than that wait for a disk that hangs.
const OPENS_MAX: usize = 4;
/// A disk that is open and gives no answer for so long hangs.
const ANSWER_PATIENCE: Duration = Duration::from_secs(20);
const SILENT: &str = "it doesn't answer";

/// What is on a disk.
#[derive(Debug, Clone)]
pub enum Content {
    /// Nothing known.
    Blank,
    /// A Cairn label.
    Cairn(cairn_raid::Identity),
    /// The label of a disk in a host's pool of spares, and nothing else.
    HostSpare(cairn_raid::HostSpare),
    /// Another's signature.
    Foreign(String),
    /// A Cairn label that is damaged, and how.
    Damaged(String),
    /// It couldn't be read.
    Unreadable(String),
}

impl Content {
    /// What it bears, in words that follow "bears".
    pub fn words(&self) -> String {
        match self {
            Self::Blank => "nothing".into(),
            Self::Cairn(identity) => format!(
                "the label of array {} ({})",
                identity.array_name, identity.array_uuid
            ),
            Self::HostSpare(label) => format!("the label of a spare of host {}", label.host),
            Self::Damaged(how) => format!("a damaged Cairn label ({how})"),
            Self::Foreign(signature) => format!("a signature of {signature}"),
            Self::Unreadable(error) => format!("what can't be read: {error}"),
        }
    }
}

/// A disk that was looked at.
#[derive(Debug, Clone)]
pub struct Looked {
    /// Where.
    pub path: PathBuf,
    /// Its shape.
    pub geometry: DeviceGeometry,
    /// A block device rather than a file.
    pub is_block: bool,
    /// What is on it.
    pub content: Content,
}

/// Why a disk can't be opened, in the API's words.
pub fn open_error(error: &OpenError) -> ErrorDetail {
    let code = match error {
        OpenError::Missing { .. } => ErrorCode::UnknownDisk,
        OpenError::InUse { .. } | OpenError::Locked { .. } => ErrorCode::DiskInUse,
        OpenError::System { .. } => ErrorCode::Io,
        _ => ErrorCode::DiskUnusable,
    };
    // Its message has the next step already.
    refuse(code, error.to_string(), "")
}

/// What is on a disk that is open; unreadable where it doesn't answer, and then it stays open until it does.
pub async fn content(disk: &MemberDisk) -> Content {
    let device = Rc::clone(&disk.device);
    let look = tokio::task::spawn_local(async move { content_of(device.as_ref()).await });
    match tokio::time::timeout(ANSWER_PATIENCE, look).await {
        Ok(Ok(content)) => content,
        Ok(Err(_)) | Err(_) => Content::Unreadable(SILENT.into()),
    }
}

async fn content_of(device: &dyn BlockDevice) -> Content {
    // Cairn's label first: a disk of ours may still bear remains of what it was before.
    let spare = match cairn_raid::probe(device).await {
        Ok(Probe::Member(identity)) => return Content::Cairn(identity),
        Ok(Probe::Damaged(how)) => return Content::Damaged(how),
        // It was blank beside its label: what else is on it came later and is somebody's.
        Ok(Probe::HostSpare(label)) => Some(label),
        Ok(Probe::Blank) => None,
        Err(error) => return Content::Unreadable(error.to_string()),
    };
    match (signature::probe(device).await, spare) {
        (Ok(found), Some(label)) if found.iter().all(|one| one.kind == Kind::Cairn) => {
            Content::HostSpare(label)
        }
        (found, _) => signatures(found),
    }
}

fn signatures(found: Result<Vec<Signature>, IoError>) -> Content {
    match found {
        Ok(found) if found.is_empty() => Content::Blank,
        Ok(found) if found.iter().all(|one| one.kind == Kind::Cairn) => {
            Content::Damaged("its checksum is wrong".into())
        }
        Ok(found) => {
            let others = found.into_iter().filter(|one| one.kind != Kind::Cairn);
            let what: Vec<String> = others.map(|one| one.what).collect();
            Content::Foreign(what.join(" and "))
        }
        Err(error) => Content::Unreadable(error.to_string()),
    }
}

/// The thread of the engine goes on meanwhile, and a disk that hangs is given up.
async fn open_in_time(engine: &Rc<Engine>, path: &Path, mode: OpenMode) -> Result<Disk, OpenError> {
    in_time(engine, path, move |engine, path| async move {
        Disk::open_apart(&engine.reactor, &path, mode).await
    })
    .await
}

/// The same of anything that begins with opening a disk.
async fn in_time<T, F>(
    engine: &Rc<Engine>,
    path: &Path,
    work: impl FnOnce(Rc<Engine>, PathBuf) -> F,
) -> Result<T, OpenError>
where
    T: 'static,
    F: Future<Output = Result<T, OpenError>> + 'static,
{
    let hung = || OpenError::System {
        path: path.to_owned(),
        what: "open",
        source: std::io::Error::new(std::io::ErrorKind::TimedOut, SILENT),
    };
    let under_way = |engine: &Engine| engine.opening.borrow().get(path).copied().unwrap_or(0);
    if under_way(engine) >= OPENS_MAX {
        return Err(hung());
    }
    *engine
        .opening
        .borrow_mut()
        .entry(path.to_owned())
        .or_default() += 1;
    let (owner, asked) = (Rc::clone(engine), path.to_owned());
    let work = work(Rc::clone(engine), path.to_owned());
    // Counted to its end, which may be long after its caller's.
    let opening = tokio::task::spawn_local(async move {
        let outcome = work.await;
        let mut opening = owner.opening.borrow_mut();
        if let Some(count) = opening.get_mut(&asked) {
            *count -= 1;
        }
        opening.retain(|_, count| *count > 0);
        outcome
    });
    match tokio::time::timeout(OPEN_PATIENCE, opening).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) | Err(_) => Err(hung()),
    }
}

/// Looks at the disk at `path`.
pub async fn look(engine: &Rc<Engine>, path: &Path) -> Result<Looked, OpenError> {
    in_time(engine, path, |engine, path| async move {
        let disk = Disk::open_apart(&engine.reactor, &path, OpenMode::Probe).await?;
        Ok(Looked {
            geometry: disk.geometry(),
            is_block: disk.is_block_device(),
            content: content_of(&disk).await,
            path,
        })
    })
    .await
}

/// Opens the disk at `path` for itself alone.
pub async fn open(engine: &Rc<Engine>, path: &Path) -> Result<MemberDisk, OpenError> {
    let disk = open_in_time(engine, path, OpenMode::Exclusive).await?;
    let disk = MemberDisk {
        path: Rc::from(path.to_string_lossy()),
        device: Rc::new(disk),
    };
    engine.remember(&disk);
    Ok(disk)
}

/// Refuses two paths to one disk, among `paths` and between them and `taken` (path, and what has it).
pub fn check_distinct(paths: &[PathBuf], taken: &[(PathBuf, String)]) -> Answer<()> {
    let mut seen: Vec<(&PathBuf, _)> = Vec::new();
    let mut used = Vec::new();
    for (path, place) in taken {
        // A member that vanished has no identity to compare with.
        if let Ok(id) = identity(path) {
            used.push((path, place, id));
        }
    }
    for path in paths {
        let id = identity(path).map_err(|error| open_error(&error))?;
        if let Some((other, _)) = seen.iter().find(|(_, other)| same_disk(other, &id)) {
            return Err(refuse(
                ErrorCode::DiskDuplicate,
                if *other == path {
                    format!("{} is named twice", path.display())
                } else {
                    format!(
                        "{} and {} are the same disk",
                        other.display(),
                        path.display()
                    )
                },
                "name every disk once",
            ));
        }
        if let Some((other, place, _)) = used.iter().find(|(_, _, other)| same_disk(other, &id)) {
            return Err(refuse(
                ErrorCode::DiskInUse,
                if *other == path {
                    format!("{} is in {place}", path.display())
                } else {
                    format!(
                        "{} is the same disk as {}, which is in {place}",
                        path.display(),
                        other.display()
                    )
                },
                "choose another disk; `cairn disk list` shows where each is, `cairn disk remove` takes out \
                 spares",
            ));
        }
        seen.push((path, id));
    }
    Ok(())
}

/// As [`check_distinct`], from where waiting is no harm: the system's answer may take long, or never
/// come where a disk hangs.
pub async fn distinct(paths: Vec<PathBuf>, taken: Vec<(PathBuf, String)>) -> Answer<()> {
    let compared = tokio::task::spawn_blocking(move || check_distinct(&paths, &taken));
    match tokio::time::timeout(OPEN_PATIENCE, compared).await {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(error)) => Err(refuse::internal(format!("comparing disks: {error}"))),
        Err(_) => Err(refuse(
            ErrorCode::Io,
            "whether the disk is in use already can't be told: a disk doesn't answer",
            "find the disk that hangs (`cairn events`, the kernel's log) and disconnect it",
        )),
    }
}

/// Opens `paths` for an array, refusing what isn't blank unless `wipe` names it. Wipes nothing yet:
/// what has to be is returned beside the disk.
pub async fn take(
    engine: &Rc<Engine>,
    paths: &[PathBuf],
    wipe: &[PathBuf],
) -> Answer<Vec<(MemberDisk, bool)>> {
    let mut disks = Vec::new();
    for path in paths {
        let disk = open(engine, path)
            .await
            .map_err(|error| open_error(&error))?;
        let may_wipe = wipe.contains(path);
        let content = content(&disk).await;
        let has_content = check_content(path, &content, may_wipe)?;
        disks.push((disk, has_content));
    }
    Ok(disks)
}

/// Whether there is something to wipe; refuses if that wasn't allowed.
pub(crate) fn check_content(path: &Path, content: &Content, may_wipe: bool) -> Answer<bool> {
    let shown = path.display();
    let code = match content {
        Content::Blank => return Ok(false),
        Content::Unreadable(error) => {
            return Err(refuse(
                ErrorCode::Io,
                format!("{shown} can't be read: {error}"),
                "look at the kernel's log for this disk, or choose another",
            ));
        }
        _ if may_wipe => return Ok(true),
        Content::Cairn(_) | Content::HostSpare(_) => ErrorCode::DiskInUse,
        Content::Damaged(_) | Content::Foreign(_) => ErrorCode::DiskForeign,
    };
    let what = content.words();
    let wipe = format!("if its content may go, say so with `--wipe {shown}`");
    let hint = match content {
        Content::Cairn(identity) => format!(
            "`cairn array assemble {} --scan PATH…` starts that array; {wipe}",
            identity.array_name
        ),
        _ => wipe,
    };
    Err(refuse(code, format!("{shown} bears {what}"), hint))
}

/// Whether a disk bears a label of this array.
pub async fn is_of(disk: &MemberDisk, array: Uuid) -> bool {
    matches!(
        content(disk).await,
        Content::Cairn(identity) if identity.array_uuid == array
    )
}

/// Removes labels and signatures from a disk that is open for us alone. One that doesn't answer stays open until it does: what
/// is on its way to it lands in nobody else's data.
pub async fn wipe(disk: &MemberDisk) -> Answer<()> {
    let device = Rc::clone(&disk.device);
    let wiping = tokio::task::spawn_local(async move { wipe_now(device.as_ref()).await });
    match tokio::time::timeout(ANSWER_PATIENCE, wiping).await {
        Ok(Ok(wiped)) => wiped,
        Ok(Err(_)) | Err(_) => Err(refuse(
            ErrorCode::Io,
            format!("{} isn't wiped: {SILENT}", disk.path),
            "look at the kernel's log for this disk, and disconnect it",
        )),
    }
}

async fn wipe_now(device: &dyn BlockDevice) -> Answer<()> {
    cairn_raid::wipe_label(device)
        .await
        .map_err(|error| refuse::raid(&error))?;
    let io = |error| refuse::io(&error);
    let found = signature::probe(device).await.map_err(io)?;
    signature::wipe(device, &found).await.map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn file(dir: &TempDir, name: &str) -> PathBuf {
        let path = dir.path().join(name);
        std::fs::write(&path, [0; 4096]).unwrap();
        path
    }

    #[test]
    fn the_same_disk_by_two_paths_is_found_out() {
        let dir = TempDir::new();
        let (a, b) = (file(&dir, "a"), file(&dir, "b"));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&a, &link).unwrap();
        assert_eq!(check_distinct(&[a.clone(), b.clone()], &[]), Ok(()));
        let error = check_distinct(&[a.clone(), b.clone(), link.clone()], &[]).unwrap_err();
        assert_eq!(error.code, ErrorCode::DiskDuplicate);
        assert!(error.message.contains("are the same disk"), "{error}");
        let error = check_distinct(&[a.clone(), a.clone()], &[]).unwrap_err();
        assert!(error.message.contains("named twice"), "{error}");
        let taken = [(a, "array pool".to_owned())];
        let error = check_distinct(&[b, link], &taken).unwrap_err();
        assert_eq!(error.code, ErrorCode::DiskInUse);
        assert!(error.message.contains("in array pool"), "{error}");
    }

    #[test]
    fn a_path_to_nothing_is_an_unknown_disk() {
        let error = check_distinct(&["/no/such/disk".into()], &[]).unwrap_err();
        assert_eq!(error.code, ErrorCode::UnknownDisk);
    }

    #[test]
    fn foreign_content_goes_only_when_it_was_named() {
        let path = Path::new("/dev/sdx");
        let ext4 = Content::Foreign("ext4".into());
        let error = check_content(path, &ext4, false).unwrap_err();
        assert_eq!(error.code, ErrorCode::DiskForeign);
        assert!(error.message.contains("ext4") && error.hint.contains("--wipe /dev/sdx"));
        assert_eq!(check_content(path, &ext4, true), Ok(true));
        assert_eq!(check_content(path, &Content::Blank, false), Ok(false));
        let broken = Content::Unreadable("EIO".into());
        assert!(
            check_content(path, &broken, true).is_err(),
            "an unreadable disk is never taken"
        );
    }
}
