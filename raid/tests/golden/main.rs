//! A whole array of version 1 as it lay on its disks, read with today's code: an array of today is opened
//! for ever. The fixtures of single structures beside it are read by the unit tests of their modules.
//!
//! `array-raid6-v1.bin` is four disks after a power cut in the middle of a cycle: parity of the rows that
//! were written to in part is new, durably, their data is old, and what was written is in the journal. So
//! with members lost only the journal's notes say of what the parity speaks. A log of prepared writes has
//! operations of every kind, some committed. `story.rs` is what was done, and wrote it.

#[cfg(test)]
#[path = "../histories/disk.rs"]
#[expect(dead_code, reason = "the histories use the rest")]
mod disk;
#[cfg(test)]
mod image;
#[cfg(test)]
#[path = "../histories/model.rs"]
#[expect(dead_code, reason = "the histories use the rest")]
mod model;
#[cfg(test)]
mod opened;
#[cfg(test)]
#[path = "../histories/region.rs"]
#[expect(dead_code, reason = "the histories use the rest")]
mod region;
#[cfg(test)]
mod story;
#[cfg(test)]
#[path = "../histories/world.rs"]
#[expect(dead_code, reason = "the histories use the rest")]
mod world;
