//! API values as views: pure functions, one noun per file.

mod array;
mod change;
mod disk;
mod host;
mod status;
mod top;
mod volume;

pub(crate) use array::{array, array_list, rebuild_position};
pub(crate) use change::changed;
pub(crate) use disk::{disk, disk_list};
pub(crate) use host::{EVENT_COLUMNS, df, event_rows, events, health, status_facts, version};
pub(crate) use status::screen;
pub(crate) use top::top;
pub(crate) use volume::{volume, volume_list};

#[cfg(test)]
pub(crate) mod samples;
