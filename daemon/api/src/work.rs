//! What the daemon has done: counts that only rise, of which two looks give a rate. In the statistics page and in `/metrics`.

use serde::{Deserialize, Serialize};

use crate::array::{ArrayState, ErrorCounters, MemberState};

/// Requests of one kind that have ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Requests, those that failed included.
    pub ops: u64,
    /// Of these, those that failed.
    pub failed: u64,
    /// Bytes that they were about.
    pub bytes: u64,
    /// The time that each took, summed up, in ns.
    pub nanos: u64,
}

/// Requests that have ended, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Reads.
    pub reads: Count,
    /// Writes of data.
    pub writes: Count,
    /// Flushes.
    pub flushes: Count,
    /// Trims, and writes of zeros that carry no data.
    pub zeros: Count,
}

impl Tally {
    /// The kinds and their names.
    pub fn kinds(&self) -> [(&'static str, Count); 4] {
        [
            ("read", self.reads),
            ("write", self.writes),
            ("flush", self.flushes),
            ("zero", self.zeros),
        ]
    }
}

/// What clients asked of a volume since its array was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeWork {
    /// Name.
    pub name: String,
    /// Identity.
    pub uuid: String,
    /// What was asked.
    pub tally: Tally,
}

/// What a disk was asked since its array was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskWork {
    /// Where it is.
    pub path: String,
    /// Identity.
    pub uuid: String,
    /// Its slot; `null` for spares and journal disks.
    #[serde(default)]
    pub slot: Option<u32>,
    /// Its state.
    pub state: MemberState,
    /// Operations that it hasn't ended.
    pub in_flight: u64,
    /// What it has ended.
    pub tally: Tally,
    /// Its errors.
    pub errors: ErrorCounters,
}

/// What an array has done since it was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArrayWork {
    /// Name.
    pub name: String,
    /// Identity.
    pub uuid: String,
    /// When it said this. Older than the page's own time: its thread didn't answer.
    pub taken_unix_ms: u64,
    /// How long its thread had been running, in ns: rates are by this, for no clock turns it back.
    pub running_ns: u64,
    /// Processor time of its thread, in ns: all that its requests, connections and background work cost, the kernel's on their behalf
    /// included, and without what the kernel does in threads of its own.
    pub cpu_ns: u64,
    /// In one word.
    pub state: ArrayState,
    /// Further member failures that would be survived.
    pub redundancy_left: u32,
    /// Bytes that may be written to it in all.
    pub size_bytes: u64,
    /// Of these, bytes that no volume has.
    pub free_bytes: u64,
    /// Bytes admitted to the journal; 0 without one.
    pub journal_used_bytes: u64,
    /// Bytes that may be admitted: writes wait where it is all used. 0 without a journal.
    pub journal_total_bytes: u64,
    /// Checksum pages that were in memory when they were needed.
    pub checksum_cache_hits: u64,
    /// Those that had to be read.
    pub checksum_cache_misses: u64,
    /// Bytes that its caches take.
    pub memory_used_bytes: u64,
    /// By name.
    pub volumes: Vec<VolumeWork>,
    /// Members by slot, then the others.
    pub disks: Vec<DiskWork>,
}

/// What the daemon has done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// When the page was written.
    pub taken_unix_ms: u64,
    /// The daemon's process.
    pub pid: u32,
    /// Running arrays, by name.
    pub arrays: Vec<ArrayWork>,
    /// There were so many volumes that those without requests are left out.
    #[serde(default)]
    pub idle_volumes_left_out: bool,
}
