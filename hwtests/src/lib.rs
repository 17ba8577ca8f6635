//! What the end-to-end tests stand on: a directory of their own, disks made of files and loops, a
//! `cairnd` with the tool that talks to it, and a client that remembers what was acknowledged.
//!
//! Everything here is for tests: what goes wrong is a panic that says what to do. What is made
//! (mounts, loops, processes) goes with its value, on a panic too; what a killed run left behind,
//! the next one removes ([`scratch::Scratch::new`]).
//!
//! Invariants
//! - A missing program or privilege fails the test by name. Nothing is skipped.
//! - Processes are ended by the id that they were started with.
//! - Waiting is for a condition, with a bound that says what didn't come; no test measures time.

pub mod acked;
pub mod bench;
pub mod disks;
pub mod fault;
pub mod full;
pub mod host;
pub mod lab;
pub mod program;
pub mod scratch;
pub mod storm;
pub mod wait;
