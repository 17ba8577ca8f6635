//! Serving any [`BlockDevice`](crate::BlockDevice) to clients outside the process.
//!
//! Knows protocols, not sockets: accepted streams are handed in by the daemon.

mod admin;
mod budget;
pub mod kernel_nbd;
mod memory;
pub mod nbd;
pub mod ublk;

pub use memory::Memory;
