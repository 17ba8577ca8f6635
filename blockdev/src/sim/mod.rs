//! A deterministic little world for tests and the simulator: one thread, one seed.
//!
//! [`Sim`] picks the next ready task by its seed and moves its own clock; [`SimDisk`] is a disk with
//! a volatile cache that can fail, lie, hang, vanish and lose power ([`Fault`], [`Strike`]). The same
//! code that runs on real disks runs here.

mod disk;
mod executor;
mod fault;
mod medium;
mod pages;
mod rng;
#[cfg(test)]
mod tests;

pub use disk::{Completion, Image, SimDisk, SimDiskConfig, Watch};
pub use executor::{Halt, Sim};
pub use fault::{Effect, Fault, FaultCounts, On, Strike};
pub use rng::Rng;
