//! Disks: block devices and regular files behind one io_uring per engine thread.
//!
//! ```text
//!   Disk::read ──▶ Reactor::perform ──▶ table (memory stays here) ──▶ ring | threads ──▶ kernel
//!        ▲                                   │                             │
//!        └────────────── waker ◀─────────────┴──── driver task ◀── bell (an eventfd)
//! ```
//!
//! [`Reactor`] is the thread's way to the kernel, [`Disk`] one open disk on it, [`OpenError`] why
//! there is none. [`discover`](discover()), [`identity`](identity()) and [`same_disk`] answer what
//! the machine has and whether two paths mean one disk.
//!
//! Does not know: labels, arrays, time-outs. A caller that has waited long enough drops its
//! future; the memory stays with the operation until the kernel is done with it.

mod counters;
mod device;
mod discover;
mod error;
mod holder;
mod identity;
mod open;
mod reactor;
mod ring;
pub(crate) mod sys;
pub(crate) mod sysfs;
mod table;
mod threads;
pub(crate) mod usage;

pub use self::counters::{DiskCounters, OpCounters};
pub use self::device::Disk;
pub use self::discover::{DiskInfo, discover};
pub use self::error::OpenError;
pub use self::holder::{holder_of, is_claimed};
pub use self::identity::{DiskId, identity, same_disk};
pub use self::open::{DISK_BYTES_MIN, OpenMode};
pub use self::reactor::{BACKEND_VARIABLE, Backend, IoKind, Reactor, ReactorConfig, ReactorError};
pub use self::usage::Usage;
