//! Arrays: what they are, how they fare, and the requests that change them.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::scrub::{BadBlocks, Integrity, Scrub};
use crate::wire::wire_names;

/// How an array spreads data over its members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Copies on every member.
    Raid1,
    /// One parity: any one member may be lost.
    Raid5,
    /// Two parities: any two members may be lost.
    Raid6,
}

impl Level {
    /// All levels, for help texts.
    pub const ALL: [Self; 3] = [Self::Raid1, Self::Raid5, Self::Raid6];

    /// Fewest members that make such an array.
    pub const fn members_min(self) -> usize {
        match self {
            Self::Raid1 => 2,
            Self::Raid5 => 3,
            Self::Raid6 => 4,
        }
    }
}

wire_names!(Level { Raid1 => "raid1", Raid5 => "raid5", Raid6 => "raid6" });

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|level| level.as_str() == text)
            .ok_or_else(|| format!("{text:?} is no RAID level; use raid1, raid5 or raid6"))
    }
}

/// The state of an array as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArrayState {
    /// All members are in sync.
    Clean,
    /// A member is gone and no rebuild runs.
    Degraded,
    /// A member is gone and a spare, or the new disk of a replace, is being written.
    Rebuilding,
    /// More members are gone than the level survives, or it may not start without them.
    Incomplete,
    /// Known, and stopped by request.
    Stopped,
}

wire_names!(ArrayState {
    Clean => "clean",
    Degraded => "degraded",
    Rebuilding => "rebuilding",
    Incomplete => "incomplete",
    Stopped => "stopped",
});

/// The state of one disk within its array.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// Holds its chunk of every row.
    InSync,
    /// Being filled; read only where it already is.
    Rebuilding,
    /// Waiting for a member to fail.
    Spare,
    /// Ejected after errors or by request.
    Failed,
    /// Belongs to the array and isn't there.
    Missing,
    /// In sync and being copied to a new disk.
    Replacing,
    /// Taken out by request.
    Removed,
    /// Holds a ring of the journal and nothing else.
    Journal,
}

wire_names!(MemberState {
    InSync => "in_sync",
    Rebuilding => "rebuilding",
    Spare => "spare",
    Failed => "failed",
    Missing => "missing",
    Replacing => "replacing",
    Removed => "removed",
    Journal => "journal",
});

/// What the daemon does in the background with an array.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyncAction {
    /// Nothing.
    #[default]
    Idle,
    /// Writes the chunks of a lost member to a spare.
    Rebuild,
    /// Copies a living member to the disk that will take its place.
    Replace,
    /// Recomputes parity after an unclean stop.
    Resync,
    /// Copies what members missed that were away.
    CatchUp,
}

wire_names!(SyncAction {
    Idle => "idle",
    Rebuild => "rebuild",
    Replace => "replace",
    Resync => "resync",
    CatchUp => "catch-up",
});

/// Progress of the background work of an array.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncStatus {
    /// What runs.
    pub action: SyncAction,
    /// Bytes done of `total_bytes`; zero when idle.
    pub done_bytes: u64,
    /// Bytes that this action goes through; zero when idle.
    pub total_bytes: u64,
    /// Recent speed in bytes per second; zero when idle or not yet known.
    #[serde(default)]
    pub speed_bytes_per_second: u64,
    /// Seconds to the end at the recent speed; `null` when idle or not yet known.
    pub eta_seconds: Option<u64>,
    /// Slots being written.
    #[serde(default)]
    pub slots: Vec<u32>,
}

/// Errors counted on one disk since its array was started, or it joined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorCounters {
    /// Reads that failed.
    pub read: u64,
    /// Writes that failed.
    pub write: u64,
    /// Flushes that failed.
    pub flush: u64,
    /// Reads with blocks whose checksum didn't match.
    pub corruption: u64,
    /// Blocks that were valid and old.
    pub generation: u64,
    /// Operations that got no answer in time.
    #[serde(default)]
    pub timeouts: u64,
}

impl ErrorCounters {
    /// All errors together.
    pub const fn total(&self) -> u64 {
        self.read
            .saturating_add(self.write)
            .saturating_add(self.flush)
            .saturating_add(self.corruption)
            .saturating_add(self.generation)
            .saturating_add(self.timeouts)
    }
}

/// A disk with a slot in an array.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Where it is now; for a missing one where it was last seen, or empty.
    pub path: String,
    /// Identity in its label; empty where unknown.
    #[serde(default)]
    pub uuid: String,
    /// Its column in the geometry, from 0. During a replace two entries share one.
    pub slot: u32,
    /// How it fares.
    pub state: MemberState,
    /// Errors counted on it.
    pub errors: ErrorCounters,
}

/// Where the bytes of an array went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// Bytes in one extent, the unit of allocation.
    pub extent_bytes: u64,
    /// Bytes in extents that volumes hold.
    pub allocated_bytes: u64,
    /// Bytes in extents that nobody holds.
    pub free_bytes: u64,
    /// Sum of the sizes of all volumes; may exceed the array (thin).
    pub provisioned_bytes: u64,
}

/// What the host's pool of spares has for an array.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSpares {
    /// Free disks that are large enough for it.
    pub fitting: u32,
    /// Free disks that are too small.
    pub too_small: u32,
    /// Bytes of the largest of those; zero where there is none.
    pub too_small_bytes: u64,
    /// Bytes that a disk must have to become a member; zero where that isn't known.
    pub need_bytes: u64,
}

/// Things about an array worth a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArrayFlag {
    /// Blocks carry no checksums: "verified" means read without an error.
    NoIntegrity,
    /// Writes go in place without a journal: a crash together with a failing disk can lose more
    /// than the disk.
    NoJournal,
    /// The labels name another host as the home of this array.
    ForeignHost,
    /// The array takes no writes.
    ReadOnly,
    /// It is being started; after an unclean stop its journal is replayed before it is served.
    Starting,
}

wire_names!(ArrayFlag {
    NoIntegrity => "no_integrity",
    NoJournal => "no_journal",
    ForeignHost => "foreign_host",
    ReadOnly => "read_only",
    Starting => "starting",
});

/// One array.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Array {
    /// Its name, unique on this host.
    pub name: String,
    /// Its identity in the labels.
    pub uuid: String,
    /// RAID level.
    pub level: Level,
    /// Bytes of one chunk.
    pub chunk_bytes: u64,
    /// Bytes that volumes can hold together.
    pub size_bytes: u64,
    /// State of the whole.
    pub state: ArrayState,
    /// Members that may still be lost without losing data.
    pub redundancy_left: u32,
    /// Disks with a slot, in slot order.
    pub members: Vec<Member>,
    /// Spares of this array, its journal disks, and disks that were one or the other.
    #[serde(default)]
    pub spares: Vec<Spare>,
    /// What the host's pool of spares has for it.
    #[serde(default)]
    pub host_spares: HostSpares,
    /// Where its journal is, if it has, or had, disks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<JournalRing>,
    /// Memory of its caches, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<ArrayMemory>,
    /// Background work.
    pub sync: SyncStatus,
    /// Its scrub.
    #[serde(default)]
    pub scrub: Scrub,
    /// Blocks that are lost here: the first runs.
    #[serde(default)]
    pub bad_blocks: Vec<BadBlocks>,
    /// Lost blocks of 4 KiB in all.
    #[serde(default)]
    pub bad_blocks_total: u64,
    /// Where the bytes went.
    #[serde(default)]
    pub space: Space,
    /// Things worth knowing.
    #[serde(default)]
    pub flags: Vec<ArrayFlag>,
    /// When it was created, in milliseconds since 1970, UTC; zero where not known.
    #[serde(default)]
    pub created_unix_ms: u64,
    /// Count of membership changes; the highest among the labels wins.
    #[serde(default)]
    pub event_count: u64,
    /// Why it isn't started, or what is wrong, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the operator does next about `reason`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Memory of an array's caches, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArrayMemory {
    /// Pages of checksums.
    pub checksum_cache_bytes: u64,
    /// What these may take: the array's part of `memory.checksum_cache_bytes`.
    pub checksum_cache_bytes_max: u64,
    /// Pages that a request needed and that were here, since the array was started.
    #[serde(default)]
    pub checksum_cache_hits: u64,
    /// Pages that had to be read first: each is a disk's read more.
    #[serde(default)]
    pub checksum_cache_misses: u64,
    /// Rows that are being worked on, and what is logged and not in place yet.
    pub row_cache_bytes: u64,
    /// What these may take: the array's part of `memory.row_cache_bytes`.
    pub row_cache_bytes_max: u64,
    /// Records that are logged and not trimmed yet, with what they take in memory.
    #[serde(default)]
    pub journal_bytes: u64,
    /// What these may take: writes wait at it. 0: there is no journal.
    #[serde(default)]
    pub journal_bytes_max: u64,
}

/// The journal of an array with disks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalRing {
    /// Journal disks in service.
    pub disks: u32,
    /// Journal disks that it takes.
    pub wanted: u32,
    /// Too few are left: the journal is on the members.
    pub on_members: bool,
    /// Records that lost a copy with a journal disk are still being brought to their places.
    pub draining: bool,
}

/// A disk of an array without a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spare {
    /// Where it is now.
    pub path: String,
    /// Identity in its label.
    #[serde(default)]
    pub uuid: String,
    /// `spare` or `journal`, or `failed` or `missing`.
    pub state: MemberState,
    /// It is, or was, for the journal.
    #[serde(default)]
    pub journal: bool,
    /// Errors counted on it.
    #[serde(default)]
    pub errors: ErrorCounters,
}

/// All arrays of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArrayList {
    /// In the order of their names.
    pub arrays: Vec<Array>,
}

/// Makes an array of blank disks. Destroys what is on the disks in `wipe`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateArray {
    /// Name for it.
    pub name: String,
    /// RAID level.
    pub level: Level,
    /// Absolute paths of the members.
    pub disks: Vec<String>,
    /// Absolute paths of the spares.
    #[serde(default)]
    pub spares: Vec<String>,
    /// Absolute paths of disks for the journal alone; without, it is on the members.
    #[serde(default)]
    pub journal_disks: Vec<String>,
    /// Bytes of one chunk, a power of two; the daemon's default without.
    #[serde(default)]
    pub chunk_bytes: Option<u64>,
    /// Bytes of the journal zone on each disk; without, 1 % of a member, and all of a journal disk up to
    /// 1 GiB.
    #[serde(default)]
    pub journal_bytes: Option<u64>,
    /// What tells right blocks from wrong ones; checksums without.
    #[serde(default)]
    pub integrity: Integrity,
    /// Make it without a journal: for measurements only.
    #[serde(default)]
    pub no_journal: bool,
    /// Absolute paths, of those above, whose present content may go.
    #[serde(default)]
    pub wipe: Vec<String>,
    /// Say what would be done, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Stops an array: exports end, everything is flushed, its disks are let go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopArray {
    /// Stop although volumes of it have connected clients.
    #[serde(default)]
    pub yes: bool,
    /// Say what would be done, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Starts an array from the labels on its disks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AssembleArray {
    /// Absolute paths to look at besides those the daemon remembers.
    #[serde(default)]
    pub scan: Vec<String>,
    /// Start although absent members may have newer data, or unclean and degraded.
    #[serde(default)]
    pub force: bool,
    /// Say what would be done, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Ends an array for good: its volumes and the labels on its disks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DestroyArray {
    /// Without it the daemon refuses.
    #[serde(default)]
    pub yes: bool,
    /// Say what would be done, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Adds a spare to an array, or takes one away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpareChange {
    /// Absolute path of the disk.
    pub path: String,
    /// On adding: its present content may go.
    #[serde(default)]
    pub wipe: bool,
    /// On removing: although it is the last spare.
    #[serde(default)]
    pub yes: bool,
    /// Say what would be done, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}
