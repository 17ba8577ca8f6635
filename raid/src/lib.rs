//! RAID arrays over block devices: geometry and parity as pure functions, the stripe engine, member
//! states, rebuild, and the space that volumes are made of.
//!
//! Knows block devices only through [`cairn_blockdev::BlockDevice`]; time and tasks are handed in.
//! See `raid/README.md` for the picture and the argument.
#![cfg_attr(test, allow(clippy::as_conversions))]

mod array;
pub mod defects;
mod error;
mod events;
mod geometry;
pub mod host_spare;
pub mod integrity;
pub mod journal;
pub mod label;
pub mod layout;
mod level;
mod logs;
mod member;
mod memory;
pub mod missed;
pub mod mutation;
pub mod parity;
mod scrub;
pub mod space;
mod stripe;
mod sync;
mod tally;
mod turnstile;
mod volume;

pub use array::assemble::{AssembleOptions, assemble};
pub use array::create::{CreateSpec, NewDisks, create, create_with, wipe_label};
pub use array::probe::{Identity, Probe, probe};
pub use array::{
    Array, ArrayState, ArrayStatus, ArrayWork, BadBlock, Deadlines, DiskWork, ErrorCounts,
    JournalRoom, JournalStatus, ListedLog, MemberDisk, MemberStatus, Readded, SpaceStatus,
    SyncAction, SyncStatus, Unanswered, VolumeInfo, VolumeWork, list_logs,
};
pub use error::RaidError;
pub use events::{ArrayEvent, EventKind, EventSink, Hooks, Witness, WitnessStore};
pub use geometry::{CHUNK_MAX, CHUNK_MIN, Geometry, GeometryError, Role, Row, Set, Slot};
pub use host_spare::{HOST_SPARE_BYTES_MIN, HostSpare, write_host_spare};
pub use level::{Level, MEMBERS_MAX};
pub use member::MemberState;
pub use memory::{MemoryShare, MemoryStatus};
pub use tally::{Count, Tally};
