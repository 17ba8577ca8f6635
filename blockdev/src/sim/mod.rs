//! A deterministic little world for tests and the simulator: one thread, one seed.
//!
//! [`Sim`] picks the next ready task by its seed and moves its own clock; [`SimDisk`] is a disk with
//! a volatile cache that can fail, vanish and lose power. The same code that runs on real disks runs
//! here.

mod disk;
mod executor;
mod rng;

pub use disk::{Fault, SimDisk, SimDiskConfig};
pub use executor::Sim;
pub use rng::Rng;
