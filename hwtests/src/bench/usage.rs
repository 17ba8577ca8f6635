//! What the process has used of the processors, and what its disks have done.

use std::time::Duration;

use cairn_blockdev::disk::{Disk, DiskCounters};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::Serialize;

/// Processor time of this process so far, the kernel's on its behalf included. What the loop
/// devices' own kernel threads take isn't in it.
pub fn cpu_time() -> Duration {
    let micros = getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| {
        usage.user_time().num_microseconds() + usage.system_time().num_microseconds()
    });
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

/// What all disks of a subject have done.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct DiskWork {
    /// Reads.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Writes, of data and of zeros.
    pub writes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Flushes.
    pub flushes: u64,
}

impl DiskWork {
    /// What these disks have done so far.
    pub fn of(disks: &[Disk]) -> Self {
        disks.iter().map(Disk::counters).fold(
            Self::default(),
            |sum,
             DiskCounters {
                 read, write, flush, ..
             }| Self {
                reads: sum.reads + read.ops,
                read_bytes: sum.read_bytes + read.bytes,
                writes: sum.writes + write.ops,
                write_bytes: sum.write_bytes + write.bytes,
                flushes: sum.flushes + flush.ops,
            },
        )
    }

    /// What came since.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            reads: self.reads - earlier.reads,
            read_bytes: self.read_bytes - earlier.read_bytes,
            writes: self.writes - earlier.writes,
            write_bytes: self.write_bytes - earlier.write_bytes,
            flushes: self.flushes - earlier.flushes,
        }
    }
}
