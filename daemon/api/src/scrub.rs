//! Scrubs, and the blocks that are lost.

use serde::{Deserialize, Serialize};

use crate::wire::wire_names;

/// Where the scrub of an array is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScrubState {
    /// None was started, or the last one is finished.
    #[default]
    Idle,
    /// Under way; goes on after a restart.
    Running,
    /// Paused by request until it is resumed.
    Paused,
    /// Outside its window; goes on by itself in the next one.
    Waiting,
    /// Ended by request before its end.
    Stopped,
}

wire_names!(ScrubState {
    Idle => "idle",
    Running => "running",
    Paused => "paused",
    Waiting => "waiting",
    Stopped => "stopped",
});

/// The scrub of an array: the present run, or the last one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrub {
    /// Where it is.
    pub state: ScrubState,
    /// Bytes done of `total_bytes`; zero unless it is running, paused or waiting.
    pub done_bytes: u64,
    /// Bytes that it goes through.
    pub total_bytes: u64,
    /// Recent speed in bytes per second; zero where not known.
    pub speed_bytes_per_second: u64,
    /// Seconds to the end at that speed; `null` where not known.
    pub eta_seconds: Option<u64>,
    /// When this run, or the last one, was started, in milliseconds since 1970, UTC; `null`: never.
    pub started_unix_ms: Option<u64>,
    /// When a run last came to its end, in milliseconds since 1970, UTC; `null`: never.
    pub finished_unix_ms: Option<u64>,
    /// Runs that came to their end.
    pub runs: u32,
    /// Blocks that were rewritten with what verifies.
    pub repaired: u64,
    /// Blocks that didn't match.
    pub mismatched: u64,
    /// Blocks that nothing could give; see `bad_blocks` of the array.
    pub unrepairable: u64,
}

/// What to do with a scrub.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScrubAction {
    /// Begin one, or go on with one that is paused or waiting.
    #[default]
    Start,
    /// Pause it until it is resumed.
    Pause,
    /// Go on.
    Resume,
    /// End it; the next one begins at the beginning.
    Stop,
}

wire_names!(ScrubAction {
    Start => "start",
    Pause => "pause",
    Resume => "resume",
    Stop => "stop",
});

/// Starts, pauses, resumes or ends the scrub of an array.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScrubArray {
    /// What to do.
    #[serde(default)]
    pub action: ScrubAction,
    /// Say what would be done, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// A run of lost blocks of one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadBlocks {
    /// The member; empty if it is missing.
    pub path: String,
    /// Its slot.
    pub slot: u32,
    /// First byte on the disk; zero if the member is missing.
    pub offset_bytes: u64,
    /// Bytes.
    pub len_bytes: u64,
    /// Why, in a few words.
    pub reason: String,
    /// Since when, in milliseconds since 1970, UTC.
    pub since_unix_ms: u64,
    /// The volume whose data is lost; `null` where none is.
    pub volume: Option<String>,
    /// First byte in that volume.
    pub volume_offset_bytes: Option<u64>,
}

/// What tells right blocks from wrong ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Integrity {
    /// Nothing: what can be read is believed.
    None,
    /// A crc32c per 4 KiB block, kept on other disks.
    #[default]
    Crc32c,
}

impl Integrity {
    /// All of them, for help texts.
    pub const ALL: [Self; 2] = [Self::None, Self::Crc32c];
}

wire_names!(Integrity { None => "none", Crc32c => "crc32c" });

impl std::str::FromStr for Integrity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|integrity| integrity.as_str() == text)
            .ok_or_else(|| format!("{text:?} is no kind of checksum; use crc32c or none"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrub_without_a_word_starts_and_a_misspelt_one_is_refused() {
        let request: ScrubArray = serde_json::from_str("{}").unwrap();
        assert_eq!(request.action, ScrubAction::Start);
        assert!(serde_json::from_str::<ScrubArray>("{\"action\":\"halt\"}").is_err());
        assert!(serde_json::from_str::<ScrubArray>("{\"pause\":true}").is_err());
    }

    #[test]
    fn names_on_the_wire_are_those_that_are_printed() {
        for integrity in Integrity::ALL {
            let text = serde_json::to_string(&integrity).unwrap();
            assert_eq!(text, format!("\"{integrity}\""));
            assert_eq!(integrity.as_str().parse(), Ok(integrity));
        }
        let state = serde_json::to_string(&ScrubState::Waiting).unwrap();
        assert_eq!(state, "\"waiting\"");
    }
}
