//! The event history: persistent, numbered, named in mdadm's manner.

use serde::{Deserialize, Serialize};

/// Events in a page when the request doesn't say.
pub const LIMIT_DEFAULT: u32 = 100;
/// Most events in one page; a larger `limit` is cut to it.
pub const LIMIT_MAX: u32 = 1000;
/// Longest wait of one request in milliseconds; a larger `wait_ms` is cut to it.
pub const WAIT_MS_MAX: u64 = 30_000;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Rising by one from 1, over restarts too.
    pub id: u64,
    /// Wall-clock time in milliseconds since 1970, UTC.
    pub time_unix_ms: u64,
    /// The same in RFC 3339, for people.
    pub time: String,
    /// `NewArray`, `Fail`, `DegradedArray`, `RebuildStarted`, `Rebuild20`, `SpareActive`, ….
    pub kind: String,
    /// Name of the array concerned.
    #[serde(default)]
    pub array: Option<String>,
    /// Path of the disk concerned.
    #[serde(default)]
    pub disk: Option<String>,
    /// Name of the volume concerned.
    #[serde(default)]
    pub volume: Option<String>,
    /// One sentence.
    #[serde(default)]
    pub detail: String,
}

/// Query of [`crate::routes::EVENTS`].
///
/// Without `after`: the newest `limit` events. With it: the oldest `limit` events whose id is
/// larger; if there is none, the reply waits up to `wait_ms` for one. Always oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    /// Only events with a larger id.
    #[serde(default)]
    pub after: Option<u64>,
    /// At most so many, up to [`LIMIT_MAX`].
    #[serde(default)]
    pub limit: Option<u32>,
    /// Wait so long for the first, up to [`WAIT_MS_MAX`].
    #[serde(default)]
    pub wait_ms: Option<u64>,
}

/// Some events, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventPage {
    /// The events.
    pub events: Vec<Event>,
    /// What to ask for as `after` next: id of the last event here, or of the newest there is.
    pub last_id: u64,
}
