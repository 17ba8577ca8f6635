//! The one reply of every request that changes something, or would (`dry_run`).

use serde::{Deserialize, Serialize};

use crate::{Array, Disk, Volume};

/// What a request changed, or with `dry_run` what it would change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// True: nothing was done, this is what would be.
    pub dry_run: bool,
    /// False: it was so already, nothing had to be done.
    pub changed: bool,
    /// One sentence for a person: what was done, or in a dry run "would …".
    pub summary: String,
    /// Further sentences worth reading: unequal disks, a volume larger than its array, ….
    #[serde(default)]
    pub warnings: Vec<String>,
    /// In a dry run: the same request without `dry_run` wants `yes`, because it destroys data or
    /// takes the last redundancy.
    #[serde(default)]
    pub needs_yes: bool,
    /// Members that the array concerned may lose afterwards without losing data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redundancy_left: Option<u32>,
    /// The array as it is now, where the request was about one that still exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array: Option<Array>,
    /// The volume as it is now, where the request was about one that still exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<Volume>,
    /// The disk as it is now, where the request was about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Disk>,
}
