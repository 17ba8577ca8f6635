//! The admin API of `cairnd` as values: requests, replies, errors and the route table.
//!
//! Both sides compile against this crate, so that a path, a field or an enum can't differ between
//! them. It knows shapes and units and nothing else: no HTTP library, no clock, no disk.
//!
//! Invariants
//! - Every top-level reply carries `schema` ([`SCHEMA`]); see [`Reply`].
//! - Integers are bytes unless the name says otherwise; enums are snake_case strings.
//! - Requests refuse unknown fields, so that a misspelt flag is an error and not a default.
//! - Replies may gain fields within a schema; they never lose or rename one.

pub mod array;
pub mod change;
pub mod df;
pub mod disk;
pub mod error;
pub mod events;
pub mod name;
pub mod page;
pub mod reply;
pub mod routes;
pub mod scrub;
pub mod status;
pub mod volume;
mod wire;
pub mod work;

pub use array::{
    Array, ArrayFlag, ArrayList, ArrayMemory, ArrayState, AssembleArray, CreateArray, DestroyArray,
    ErrorCounters, HostSpares, JournalRing, Level, Member, MemberState, Space, Spare, SpareChange,
    StopArray, SyncAction, SyncStatus,
};
pub use change::Changed;
pub use df::{Df, DfKind, DfRow};
pub use disk::{
    AddDisks, Disk, DiskContent, DiskKind, DiskList, DiskQuery, DiskRole, FailDisk, RemoveDisk,
    ReplaceDisk, WipeDisk,
};
pub use error::{ErrorBody, ErrorCode, ErrorDetail, Exit};
pub use events::{Event, EventPage, EventsQuery};
pub use name::validate_name;
pub use reply::{Reply, SCHEMA};
pub use scrub::{BadBlocks, Integrity, Scrub, ScrubAction, ScrubArray, ScrubState};
pub use status::{
    BackendKind, Check, Health, HealthCode, HealthLevel, HostInfo, IoBackend, Status, Version,
};
pub use volume::{
    BlockChoice, CreateVolume, DeleteVolume, Export, ExportState, ExportVolume, KERNEL, NbdAddress,
    ResizeVolume, UBLK, UnexportVolume, Volume, VolumeList,
};
pub use work::{ArrayWork, Count, DiskWork, Tally, VolumeWork, Work};

/// The admin socket when neither the command line nor the environment names one.
pub const DEFAULT_SOCKET: &str = "/run/cairn/cairnd.sock";
/// The environment variable that names the admin socket.
pub const SOCKET_ENV: &str = "CAIRN_SOCKET";
/// Longest path of a unix socket in bytes: `sun_path` is 108 with its closing zero.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Longest request body in bytes: a create with hundreds of paths of 4 KiB fits.
pub const REQUEST_BYTES_MAX: usize = 1 << 20;
/// Longest reply body in bytes that a client reads: a status of a host with hundreds of disks,
/// or [`events::LIMIT_MAX`] events, with room to spare.
pub const REPLY_BYTES_MAX: usize = 16 << 20;
