//! Block devices of this host's kernel (`/dev/ublkbN`) over any
//! [`BlockDevice`](crate::BlockDevice), by the driver ublk.
//!
//! ```text
//!   file system, database
//!        │
//!   /dev/ublkbN ── kernel ──▶ queue: a task per tag ──▶ BlockDevice
//!                    │          fetch ▶ Request ▶ result ▶ commit and fetch
//!   /dev/ublk-control ◀── control: add, params, start, recover, stop, delete
//!
//!   uapi: the kernel's structures   request, params: pure   ring: commands and completions
//! ```
//!
//! Invariants
//! - A device outlives its server: whatever ends us, crash or stop, its requests wait in the kernel
//!   and those under way are given to the next server. It goes by [`Ublk::remove`] alone, or with
//!   the host.
//! - A device belongs to the identity that it was made with, which the kernel keeps; an identity
//!   never has two.
//! - A device is served on the thread that owns what is served: nothing is handed off.
//! - Memory is bounded for all devices of a thread together.
//!
//! Does not know: volumes, who may have a device, what is remembered over restarts.

mod control;
mod device;
mod error;
mod flusher;
mod holders;
mod params;
mod queue;
mod remains;
mod request;
mod ring;
mod uapi;

pub use device::{
    Grown, Identity, Origin, Place, Ublk, Wish, leftovers, path, probe, remove_leftover,
    shown_bytes,
};
pub use error::UblkError;
pub use flusher::{promise_to_write, stay_in_memory};
pub use holders::{holder, is_used};
pub use params::Choice;
pub use remains::Remains;
