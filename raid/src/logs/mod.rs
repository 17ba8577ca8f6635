//! Logs of prepared operations, as values: what a layer above prepared, committed, aborted and still
//! needs, folded from the lane's records in their order.
//!
//! ```text
//!            base          applied     committed                 next
//!   trimmed │  kept, in place  │ on its way │  pending, invisible │
//!   ────────┴──────────────────┴────────────┴─────────────────────┴─▶ log sequence
//! ```
//!
//! [`log`] is one log, [`book`] all of them, with quotas and with what the journal has to keep for
//! them; [`codec`] what stands in the journal. The executor is `array/prepared`.
//!
//! A log takes these records of the lane:
//! - an operation with the flag PREPARED: data, zero, discard, barrier. Its range is the volume's, not
//!   the array's: that is what the owner asks for, also where no map can be read. It is found in the
//!   array when it takes effect; the extents of pending data are pinned;
//! - commit and abort, with a sequence;
//! - its *state*: everything that the records before it amount to, and the metadata.
//!
//! Invariants
//! - The operations of a log stand in the lane in the order of their sequences, each whole in one record.
//! - An operation may stand in the lane more than once, the last counts; it is copied only while it is
//!   pending, or when it is in place. What is committed and not in place stays where it is: its effect
//!   belongs to the place of the commit, and the floor is not beyond either.
//! - The floor never passes a log's newest state, and is never between an operation and its commit.
//!
//! Does not know: disks, rows, extents' places, hooks, who waits.

pub(crate) mod book;
pub(crate) mod codec;
pub(crate) mod log;
#[cfg(test)]
mod tests;
