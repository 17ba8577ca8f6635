//! Linux's own NBD client, driven over generic netlink: a volume as `/dev/nbdN` of this host.
//!
//! ```text
//!  database ─▶ /dev/nbdN ─▶ kernel ──socketpair──▶ nbd::serve_agreed ─▶ BlockDevice
//!                             ▲  │ LINK_DEAD
//!                  CONNECT, RECONFIGURE, DISCONNECT (netlink)
//! ```
//!
//! The kernel's end of the socket dies with the daemon, and the device stays: its requests wait, up
//! to [`DEAD_LINK_TIMEOUT`], for a new one. The next daemon finds the device by the identifier that
//! was given to it and hands one over. Requests that were under way then are sent again within
//! [`LOOK_EVERY`]: a pause, not an error.
//!
//! One socket, not several: with more than one the kernel takes a request that is slow for one whose
//! socket is dead, sends it again over another and so has two of it under way (seen on Linux 6.12
//! under load: sockets dying in turns, and every request on them waiting for its own time-out). An
//! engine thread serves all of them one after the other in any case.
//!
//! Invariants
//! - A device is never set up twice for one identifier.
//! - A request is sent again only after its socket was replaced, and a socket is replaced only when
//!   none of its requests is being served any more: no request is under way twice.
//! - Nothing here waits for a client: it is for threads that may block for a moment.
//!
//! Does not know: volumes, who serves the other end of the socket, when.

pub mod messages;
pub mod netlink;

mod control;
mod error;

pub use control::{
    Control, DeadLinks, LOOK_EVERY, Shown, device_path, find, holder, may_set_up, shown,
};
pub use error::KernelNbdError;
pub use messages::{DEAD_LINK_TIMEOUT, Device};
