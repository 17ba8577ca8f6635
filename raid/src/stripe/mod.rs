//! The stripe engine: every write enters the row cache and leaves as a row transaction.
//!
//! [`plan`] decides what to read and compute, as values; [`cache`] holds queued writes and the locks
//! of columns; `write` and `read` are the thin executors; `word` loads and repairs code words.

pub(crate) mod apply;
pub(crate) mod bypass;
pub(crate) mod cache;
pub(crate) mod cleared;
mod complete;
pub(crate) mod dirty;
mod history;
pub(crate) mod overlay;
pub(crate) mod plan;
mod read;
mod replay;
mod settle;
pub(crate) mod transaction;
mod turn;
pub(crate) mod versions;
pub(crate) mod view;
mod word;
mod write;
