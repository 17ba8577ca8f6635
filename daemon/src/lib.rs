//! cairnd, the Cairn storage daemon: the one place where disks, arrays, exporters and the metadata
//! store are put together.
//!
//! The binary is [`daemon::run`] with a command line around it. Start reading at [`supervisor`] (what
//! the host has) and [`engine`] (the thread of an array); daemon/README.md has the picture.
#![cfg_attr(test, allow(clippy::as_conversions))]

pub mod api;
pub mod block;
mod claim;
pub mod config;
pub mod daemon;
pub mod df;
pub mod engine;
pub mod error;
pub mod events;
pub mod health;
pub mod hooks;
pub mod host;
pub mod inherited;
pub mod kernel_nbd;
pub mod looking;
mod metrics;
mod notify;
mod page;
pub mod record;
pub mod refuse;
pub mod runtime;
pub mod schedule;
pub mod serving;
pub mod socket;
pub mod statedir;
pub mod supervisor;
mod sys;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod view;
pub mod witness;
pub mod work;
