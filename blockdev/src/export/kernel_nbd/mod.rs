//! Linux's own NBD client, driven over generic netlink: a volume as `/dev/nbdN` of this host.
//!
//! ```text
//!  database ─▶ /dev/nbdN ─▶ kernel ──socketpair──▶ nbd::serve_agreed ─▶ BlockDevice
//!                             ▲  │ LINK_DEAD
//!                  CONNECT, RECONFIGURE, DISCONNECT (netlink)
//! ```
//!
//! The kernel's ends of the sockets die with the daemon, and the device stays: its requests wait, up
//! to [`DEAD_LINK_TIMEOUT`], for new sockets. The next daemon finds the device by the identifier that
//! was given to it and hands them over. Requests that were under way then are sent again
//! [`REQUEST_TIMEOUT`] after they were sent first: a pause, not an error.
//!
//! Invariants
//! - A device is never set up twice for one identifier.
//! - Nothing here waits for a client: it is for threads that may block for a moment.
//!
//! Does not know: volumes, who serves the other ends of the sockets, when.

pub mod messages;
pub mod netlink;

mod control;
mod error;

pub use control::{Control, DeadLinks, busy, device_path, find};
pub use error::KernelNbdError;
pub use messages::{DEAD_LINK_TIMEOUT, Device, REQUEST_TIMEOUT};
