//! What a run of the simulator has done, added up over histories and threads.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::AddAssign;
use std::time::Duration;

use cairn_blockdev::sim::FaultCounts;

/// Operations of clients, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpCounts {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Writes through the cache, of those.
    pub fua: u64,
    /// Flushes.
    pub flushes: u64,
    /// Trims and writes of zeros.
    pub zeros: u64,
    /// Of all, those that failed: beyond redundancy, or without space.
    pub failed: u64,
    /// Beside them, operations that the owners of logs prepared.
    pub prepared: u64,
}

impl OpCounts {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.reads + self.writes + self.flushes + self.zeros
    }
}

/// Everything that is reported at the end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Totals {
    /// Histories told.
    pub histories: u64,
    /// Operations of clients.
    pub ops: OpCounts,
    /// I/Os of disks.
    pub ios: u64,
    /// Power cuts.
    pub power_cuts: u64,
    /// Kills.
    pub kills: u64,
    /// Starts of the array, clean or not.
    pub starts: u64,
    /// Starts that were refused.
    pub refusals: u64,
    /// Faults of disks that struck.
    pub faults: FaultCounts,
    /// What the array told of: repairs, ejections, rebuilds.
    pub events: BTreeMap<String, u64>,
    /// Time on a core spent under load, without restarts and audits.
    pub load_time: Duration,
}

impl Totals {
    /// Client operations per second of load on one core.
    pub fn ops_per_second(&self) -> u64 {
        let ms = u64::try_from(self.load_time.as_millis()).unwrap_or(u64::MAX);
        (self.ops.total() * 1000).checked_div(ms).unwrap_or(0)
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.histories += other.histories;
        self.ops.reads += other.ops.reads;
        self.ops.writes += other.ops.writes;
        self.ops.fua += other.ops.fua;
        self.ops.flushes += other.ops.flushes;
        self.ops.zeros += other.ops.zeros;
        self.ops.failed += other.ops.failed;
        self.ops.prepared += other.ops.prepared;
        self.ios += other.ios;
        self.power_cuts += other.power_cuts;
        self.kills += other.kills;
        self.starts += other.starts;
        self.refusals += other.refusals;
        self.faults += other.faults;
        for (event, count) in other.events {
            *self.events.entry(event).or_default() += count;
        }
        self.load_time += other.load_time;
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ops = &self.ops;
        writeln!(
            f,
            "histories {}, client operations {} (reads {}, writes {} of which FUA {}, flushes {}, \
             trims and zeros {}; failed as they should {}), prepared beside them {}, disk I/Os {}",
            self.histories,
            ops.total(),
            ops.reads,
            ops.writes,
            ops.fua,
            ops.flushes,
            ops.zeros,
            ops.failed,
            ops.prepared,
            self.ios
        )?;
        writeln!(
            f,
            "power cuts {}, kills {}, starts {}, starts refused {}",
            self.power_cuts, self.kills, self.starts, self.refusals
        )?;
        let faults: Vec<String> = self
            .faults
            .by_kind()
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(kind, count)| format!("{kind} {count}"))
            .collect();
        writeln!(f, "faults: {}", faults.join(", "))?;
        let events: Vec<String> = self
            .events
            .iter()
            .map(|(event, count)| format!("{event} {count}"))
            .collect();
        writeln!(f, "the array told: {}", events.join(", "))?;
        write!(
            f,
            "under load {} operations/s per core",
            self.ops_per_second()
        )
    }
}
