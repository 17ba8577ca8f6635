//! Storm: the real array engine on simulated disks, one thread, one seed, and a model that knows what
//! every sector may hold.
//!
//! ```text
//!   clients (load) ──▶ volumes ──▶ the engine of cairn-raid ──▶ simulated disks ──▶ log ──▶ hash
//!       │  ▲                                                       ▲    ▲
//!       ▼  │ may it hold that?                       faults (D1…H3)┘    └ power cuts, kills
//!      model                                          states (degraded, rebuilding, …)
//! ```
//!
//! - [`world`]: disks, array, host; `boots` (crash, stop, start), `check`, `audit`,
//!   `deeds` (the operator's). `load`: the clients. [`model`]: the
//!   promise, per sector.
//! - [`faults`]: the rows of the fault table; `harm`: each as a function, `ring_harm`: those on journal disks. [`states`]: every state that an array can
//!   be in when it strikes. [`matrix`]: each × each, and what is promised in each cell.
//! - [`aimed`]: turns that aim at one schedule each. [`history`]: a long random story, with such turns in it. [`exhaustive`]: a short one, cut off at every I/O.
//!   `mutations`: does it find planted bugs?
//! - `owner`: prepared writes, on a volume of their own.
//!
//! A history is a function of its seed: what is found once is found again by the command that is
//! printed with it.

pub mod aimed;
mod audit;
mod boots;
mod check;
mod deeds;
pub mod exhaustive;
pub mod faults;
pub mod harm;
pub mod history;
pub mod hunt;
mod load;
pub mod log;
pub mod matrix;
pub mod model;
#[cfg(feature = "mutations")]
pub mod mutations;
mod owner;
mod ring_harm;
mod rings;
pub mod shape;
pub mod states;
mod tell;
pub mod totals;
pub mod world;

pub use tell::{Finding, Told, tell};
