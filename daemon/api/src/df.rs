//! Free space in the columns of gp_disk_free, then Cairn's own.

use serde::{Deserialize, Serialize};

/// What a row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DfKind {
    /// A Cairn array.
    Array,
    /// A mounted file system.
    Filesystem,
}

crate::wire::wire_names!(DfKind { Array => "array", Filesystem => "filesystem" });

/// One array or one mounted file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DfRow {
    /// Content id of the segment; −1 on a host that isn't part of a cluster.
    pub dfsegment: i32,
    /// Host name.
    pub dfhostname: String,
    /// Name of the array, or the device behind the file system.
    pub dfdevice: String,
    /// Free space in KiB.
    pub dfspace: u64,
    /// What the row is about.
    pub kind: DfKind,
    /// Where the file system is mounted; `null` for an array.
    #[serde(default)]
    pub mount: Option<String>,
    /// Size in KiB.
    pub size_kib: u64,
    /// Used space in KiB.
    pub used_kib: u64,
    /// Used of what can be used, in whole percent, rounded up.
    pub used_percent: u32,
}

/// All rows: arrays first, then file systems.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Df {
    /// The rows.
    pub rows: Vec<DfRow>,
}
