//! The journal's values: what a group looks like, where it lies in a member's ring, and what the
//! rings of all members say together after a crash.
//!
//! ```text
//!  journal zone of a member
//!   0            4 KiB      8 KiB      12 KiB   16 KiB                                    ring end
//!   ├ZoneHeader──┼header A──┼header B──┼─zeros──┼group┼group┼───free───┼group┼ … ┼─skipped─┤
//!
//!  group                                                        entries' payloads, in their order
//!   ├descriptor: head 128 │ entries 128 each │ sums 4 each │ 0…┼─payload─┼─payload─┼─ … ─┤
//!    whole 4 KiB blocks, one crc32c over all                    whole 4 KiB blocks, a sum each
//! ```
//!
//! `entry` is what one sequence says, `group` the bytes that go to R+1 members, `header` what a
//! member says of its ring, `ring` the space in it (`room`: when it is given back), `scan` what can
//! be found in it, and `union` what the members' findings amount to. `copies` is where a group
//! lies, `around` a flush that goes around slow disks.
//!
//! Invariants
//! - A group has neither position nor member in it: every copy is the same bytes.
//! - No block of a payload begins like a descriptor ([`group::escape`]): what a client stored is
//!   never taken for a group, whatever became of the group around it.
//! - A decoder allocates no more than what it was given could hold.
//!
//! Does not know: queues, acks, when to write, what an entry does to a row.

pub(crate) mod admission;
mod around;
pub(crate) mod copies;
pub mod entry;
pub mod group;
pub mod header;
pub(crate) mod joining;
pub(crate) mod log;
pub(crate) mod open;
pub(crate) mod ring;
mod room;
pub(crate) mod scan;
#[cfg(test)]
mod tests;
pub(crate) mod union;
pub(crate) mod upkeep;
