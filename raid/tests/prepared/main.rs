//! Prepared writes as the replica protocol uses them: several logs beside plain writes, pending after
//! a crash at any point, committed or aborted by their owner, kept for it and trimmed.
#![cfg_attr(
    test,
    allow(
        clippy::as_conversions,
        clippy::cast_possible_truncation,
        clippy::precedence
    )
)]

#[cfg(test)]
mod crash;
#[cfg(test)]
#[path = "../histories/disk.rs"]
#[expect(dead_code, reason = "the histories use the rest")]
mod disk;
#[cfg(test)]
mod listing;
#[cfg(test)]
#[path = "../histories/model.rs"]
#[expect(dead_code, reason = "the histories use the rest")]
mod model;
#[cfg(test)]
mod order;
#[cfg(test)]
#[path = "../histories/region.rs"]
#[expect(dead_code, reason = "the histories use the rest")]
mod region;
#[cfg(test)]
mod ring;
#[cfg(test)]
mod schedules;
#[cfg(test)]
mod tale;
#[cfg(test)]
#[path = "../histories/world.rs"]
#[expect(dead_code, reason = "the histories use the rest")]
mod world;
