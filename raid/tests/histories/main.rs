//! Histories of arrays on simulated disks: concurrent clients, failing members, crashes at every
//! point, and a model that knows what each sector may hold.
//!
//! Every history is a function of its seed, which is printed.

mod assembly;
mod cancel;
mod concurrent;
mod crash;
mod disk;
mod faults;
mod members;
mod model;
mod races;
mod region;
mod story;
mod world;
