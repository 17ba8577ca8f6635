//! How the host fares: the verdict with its codes, and everything that it rests on.

use serde::{Deserialize, Serialize};

use crate::{Array, Disk, Event, Export, Volume};

/// The verdict, and the weight of one check.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthLevel {
    /// Nothing to do.
    #[default]
    Ok,
    /// Everything is served; somebody should look.
    Warn,
    /// Something isn't served, or data is lost.
    Err,
}

crate::wire::wire_names!(HealthLevel { Ok => "ok", Warn => "warn", Err => "err" });

/// Stable codes of health checks; the daemon's README has a section on each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum HealthCode {
    /// A member is gone and no rebuild runs.
    ArrayDegraded,
    /// A rebuild, replace or resync runs.
    ArrayRebuilding,
    /// More members are gone than the level survives, or the array wasn't started.
    ArrayIncomplete,
    /// An array has no spare left.
    SpareMissing,
    /// A disk was ejected, or is missing.
    DiskFailed,
    /// A journal disk is out: the next step is a new one.
    JournalDiskFailed,
    /// Too few journal disks are left: the journal is on the members.
    JournalOnMembers,
    /// A disk in use has counted errors.
    DiskErrors,
    /// Blocks of an array are lost.
    BadBlocks,
    /// An array hasn't been scrubbed to its end for long.
    ScrubOverdue,
    /// An array is nearly full.
    SpaceLow,
    /// An array is full: writes get ENOSPC.
    SpaceFull,
    /// Volumes are together larger than their array.
    SpaceOvercommitted,
    /// An export can't be reached.
    ExportFailed,
    /// Disk I/O goes through threads because io_uring is blocked.
    IoThreads,
    /// A code of a later version.
    #[serde(other)]
    Other,
}

crate::wire::wire_names!(HealthCode {
    ArrayDegraded => "ARRAY_DEGRADED",
    ArrayRebuilding => "ARRAY_REBUILDING",
    ArrayIncomplete => "ARRAY_INCOMPLETE",
    SpareMissing => "SPARE_MISSING",
    DiskFailed => "DISK_FAILED",
    JournalDiskFailed => "JOURNAL_DISK_FAILED",
    JournalOnMembers => "JOURNAL_ON_MEMBERS",
    DiskErrors => "DISK_ERRORS",
    BadBlocks => "BAD_BLOCKS",
    ScrubOverdue => "SCRUB_OVERDUE",
    SpaceLow => "SPACE_LOW",
    SpaceFull => "SPACE_FULL",
    SpaceOvercommitted => "SPACE_OVERCOMMITTED",
    ExportFailed => "EXPORT_FAILED",
    IoThreads => "IO_THREADS",
    Other => "OTHER",
});

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Which finding.
    pub code: HealthCode,
    /// Its weight.
    pub severity: HealthLevel,
    /// Name of the array or volume, path of the disk, or empty for the host.
    pub subject: String,
    /// One sentence: what is the matter.
    pub message: String,
    /// One sentence: what the operator does next.
    #[serde(default)]
    pub hint: String,
}

/// The verdict with its reasons. Reply of [`crate::routes::HEALTH`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The heaviest of the checks.
    pub level: HealthLevel,
    /// Findings, the heaviest first; empty when all is well.
    pub checks: Vec<Check>,
}

impl Health {
    /// The verdict over `checks`, ordered by weight, then code, then subject.
    pub fn of(mut checks: Vec<Check>) -> Self {
        checks.sort_by(|a, b| {
            (b.severity, a.code, &a.subject).cmp(&(a.severity, b.code, &b.subject))
        });
        Self {
            level: checks
                .iter()
                .map(|check| check.severity)
                .max()
                .unwrap_or_default(),
            checks,
        }
    }
}

/// What disk I/O goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackendKind {
    /// One io_uring per engine thread.
    IoUring,
    /// A pool of threads with pread and pwrite.
    Threads,
}

crate::wire::wire_names!(BackendKind { IoUring => "io_uring", Threads => "threads" });

/// What disk I/O goes through, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoBackend {
    /// Which.
    pub kind: BackendKind,
    /// Whether buffers are registered with the ring.
    #[serde(default)]
    pub registered_buffers: bool,
    /// Why not the faster choice, where it isn't.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Facts about the host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostInfo {
    /// Host name.
    pub name: String,
    /// Identity of this host in the labels of its arrays.
    pub uuid: String,
    /// Kernel release.
    pub kernel: String,
    /// Processors.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Memory that could be had without swapping, in bytes.
    pub memory_available_bytes: u64,
    /// Load average of the last minute.
    pub load_one: f64,
    /// Seconds since boot.
    pub uptime_seconds: u64,
}

/// The daemon. Reply of [`crate::routes::VERSION`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Version of `cairnd`.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Its state directory.
    pub state_dir: String,
    /// Its admin socket.
    pub socket: String,
    /// When it started, in milliseconds since 1970, UTC.
    pub started_unix_ms: u64,
    /// How long it has been running, in seconds.
    pub uptime_seconds: u64,
}

/// Everything on one screen. Reply of [`crate::routes::STATUS`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The verdict.
    pub health: Health,
    /// The host.
    pub host: HostInfo,
    /// The daemon.
    pub daemon: Version,
    /// What disk I/O goes through.
    pub io_backend: IoBackend,
    /// Arrays with their members, spares and background work.
    pub arrays: Vec<Array>,
    /// Disks in arrays, and free ones that the daemon knows.
    pub disks: Vec<Disk>,
    /// Volumes.
    pub volumes: Vec<Volume>,
    /// Exports of all volumes.
    pub exports: Vec<Export>,
    /// The last few events, oldest first.
    #[serde(default)]
    pub events: Vec<Event>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: HealthCode, severity: HealthLevel) -> Check {
        Check {
            code,
            severity,
            subject: String::new(),
            message: String::new(),
            hint: String::new(),
        }
    }

    #[test]
    fn the_verdict_is_the_heaviest_check_and_that_comes_first() {
        let health = Health::of(vec![
            check(HealthCode::SpareMissing, HealthLevel::Warn),
            check(HealthCode::ArrayIncomplete, HealthLevel::Err),
            check(HealthCode::ArrayDegraded, HealthLevel::Warn),
        ]);
        assert_eq!(health.level, HealthLevel::Err);
        let codes: Vec<_> = health.checks.iter().map(|c| c.code).collect();
        assert_eq!(
            codes,
            [
                HealthCode::ArrayIncomplete,
                HealthCode::ArrayDegraded,
                HealthCode::SpareMissing
            ]
        );
        assert_eq!(Health::of(Vec::new()).level, HealthLevel::Ok);
    }

    #[test]
    fn a_code_of_a_later_version_is_read_as_other() {
        let code: HealthCode = serde_json::from_str("\"PEER_DOWN\"").unwrap();
        assert_eq!(code, HealthCode::Other);
        assert_eq!(
            serde_json::to_string(&HealthCode::SpareMissing).unwrap(),
            format!("\"{}\"", HealthCode::SpareMissing)
        );
    }
}
