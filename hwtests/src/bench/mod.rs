//! `bench`: how fast the engine is and what it takes, beside the same work done otherwise.
//!
//! ```text
//!   cases ──▶ loads ──▶ subject: journal and checksums on ─┐
//!                 ├───▶ subject: both off                  ├──▶ disks in memory, on loops
//!                 └───▶ subject: the disks, raw            ┘
//! ```
//!
//! Every subject has an engine thread of the daemon's own making and disks of its own. The subjects
//! take turns, run after run, so that what else the machine does falls on all of them; what counts
//! is the ratio.
//!
//! Invariants
//! - A figure is the median of the runs; every run is kept (`-o json`).
//! - A target that was missed is printed, and is no failure. An I/O error is one, and memory beyond its bound.
//! - What is made (mounts, loops) goes with its value, on an interrupt and on a panic too.

pub mod array;
pub mod btrfs;
pub mod cases;
pub mod chores;
pub mod figures;
pub mod interrupt;
pub mod kernels;
pub mod load;
pub mod machine;
pub mod memory;
pub mod nbd;
pub mod ram_disks;
pub mod readme;
pub mod report;
pub mod scale;
pub mod spread;
pub mod stamps;
pub mod subject;
pub mod svg;
pub mod usage;
