//! The write hole (raid/README.md): one transaction on a row, cut off at every I/O, with any part of
//! what was unflushed on the disks, and any members lost that the level survives. The engine is the real
//! one, over simulated disks.
//!
//! A case runs once, healthy, and everything that the engine asks of its disks goes on a tape
//! ([`tape`]). The crash states are made from that tape ([`cuts`]); each is put on disks, the array is
//! started without some of them, and then ([`explore`])
//! - every sector must be of a version that it may have: untouched ones exactly as they were, acked and
//!   flushed ones (after a kill: acked ones) new, the others old or new;
//! - P and Q must fit the data in place, and a scrub must find nothing;
//! - a block may be lost only as raid/README.md's one exception allows: never of a row that the crash left
//!   so whole that the block can be solved; and those that are lost are counted, and bounded by each case.
//!
//! What is exhaustive, for 3+1 and 3+2 and each case:
//! - crash points: every one, by the argument at the head of [`cuts`], for a power cut and for a kill;
//! - torn sectors of a row, where its transaction has at most 1024 states at a crash point: each sector of
//!   P, Q and data that changes is old or new for itself. Writes in part are so at every crash point, and
//!   their cases insist on it. A case runs on 64 rows at once, each crashed in
//!   a state of its own, so one restart tries 64 of them; rows share nothing but the journal's groups;
//! - sets of lost members, for each state of that kind.
//!
//! What is sampled, by fixed seeds:
//! - torn sectors of the journal, the checksum pages and the maps, and with them the lost members:
//!   no row is being written then, and what was flushed of a row stays;
//! - rows with more states than that: every sector of a complete row changing;
//! - the first write of a complete row, where journal and row are torn at the same time;
//! - complete rows at crash points where the 64 rows are not all at the same I/O.
//!
//! `notes.rs` looks at what a cycle and a replay note of the parities that they are about to write.
//!
//! With `--features mutations` the bugs that reopen the hole must be found (`planted.rs`).

#[cfg(test)]
mod cases;
#[cfg(test)]
mod cuts;
#[cfg(test)]
mod explore;
#[cfg(test)]
mod notes;
#[cfg(all(test, feature = "mutations"))]
mod planted;
#[cfg(test)]
mod scene;
#[cfg(test)]
mod script;
#[cfg(test)]
mod tape;
