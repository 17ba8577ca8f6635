//! Disks: block devices and regular files, in an array or free.

use serde::{Deserialize, Serialize};

use crate::wire::wire_names;
use crate::{ErrorCounters, MemberState};

/// What stands behind a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskKind {
    /// A kernel block device.
    Block,
    /// A regular file.
    File,
    /// Not there now.
    Absent,
}

/// What the disk is for the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskRole {
    /// Has a slot in an array.
    Member,
    /// Waits for a slot.
    Spare,
    /// Waits in the host's pool for any of its arrays.
    HostSpare,
    /// Holds the journal of an array, or did.
    Journal,
    /// In no array.
    Free,
}

/// What is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskContent {
    /// Nothing known to us.
    Blank,
    /// A valid Cairn label.
    Cairn,
    /// Another's signature: a file system, LVM, md, a partition table, swap; see `signature`.
    Foreign,
    /// A Cairn label that is damaged.
    Damaged,
    /// It couldn't be read; see `note`.
    Unreadable,
    /// Not looked at: another program has it open.
    Unknown,
}

wire_names!(DiskKind { Block => "block", File => "file", Absent => "absent" });
wire_names!(DiskRole {
    Member => "member",
    Spare => "spare",
    HostSpare => "host_spare",
    Journal => "journal",
    Free => "free",
});
wire_names!(DiskContent {
    Blank => "blank",
    Cairn => "cairn",
    Foreign => "foreign",
    Damaged => "damaged",
    Unreadable => "unreadable",
    Unknown => "unknown",
});

/// One disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Absolute path.
    pub path: String,
    /// What stands behind the path.
    pub kind: DiskKind,
    /// Bytes on it; zero when absent.
    pub size_bytes: u64,
    /// Bytes of its smallest write; zero when absent.
    #[serde(default)]
    pub logical_block_bytes: u32,
    /// Whether it spins, where the kernel says so.
    #[serde(default)]
    pub rotational: Option<bool>,
    /// Model as the kernel names it.
    #[serde(default)]
    pub model: Option<String>,
    /// Serial number as the kernel names it.
    #[serde(default)]
    pub serial: Option<String>,
    /// What is on it.
    pub content: DiskContent,
    /// The foreign signature, for example `ext4`.
    #[serde(default)]
    pub signature: Option<String>,
    /// What it is for the daemon.
    pub role: DiskRole,
    /// Name of its array.
    #[serde(default)]
    pub array: Option<String>,
    /// Identity in its label.
    #[serde(default)]
    pub uuid: Option<String>,
    /// Its slot in the array.
    #[serde(default)]
    pub slot: Option<u32>,
    /// How it fares in its array.
    #[serde(default)]
    pub state: Option<MemberState>,
    /// Errors counted on it.
    #[serde(default)]
    pub errors: ErrorCounters,
    /// Anything else worth a sentence.
    #[serde(default)]
    pub note: Option<String>,
}

/// All disks that the daemon knows or sees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskList {
    /// In the order of their paths.
    pub disks: Vec<Disk>,
}

/// Query of [`crate::routes::DISK`]: which disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskQuery {
    /// Absolute path.
    pub path: String,
}

/// Ejects a member, or marks a spare as failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailDisk {
    /// Absolute path.
    pub path: String,
    /// Although this takes the last redundancy.
    #[serde(default)]
    pub yes: bool,
    /// Say what would be done, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Puts disks in the host's pool of spares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddDisks {
    /// Absolute paths.
    pub paths: Vec<String>,
    /// Those of them whose present content may go.
    #[serde(default)]
    pub wipe: Vec<String>,
    /// Say what would be done, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Takes a failed member or a spare out of its array, or a disk out of the host's pool of spares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveDisk {
    /// Absolute path.
    pub path: String,
    /// Although this takes the last spare of an array.
    #[serde(default)]
    pub yes: bool,
    /// Say what would be done, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Copies a living member to a new disk, which then takes its slot; for a lost one: rebuilds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplaceDisk {
    /// Absolute path of the member.
    pub old: String,
    /// Absolute path of the disk that takes its slot.
    pub new: String,
    /// The present content of `new` may go.
    #[serde(default)]
    pub wipe: bool,
    /// Say what would be done, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Removes signatures and labels from a disk that is in no running array.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WipeDisk {
    /// Absolute path.
    pub path: String,
    /// Without it the daemon refuses.
    #[serde(default)]
    pub yes: bool,
    /// Say what would be done, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}
