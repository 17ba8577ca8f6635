//! RAID arrays over block devices: geometry and parity as pure functions, the stripe engine, member
//! states, rebuild, and the space that volumes are made of.
//!
//! Knows block devices only through [`cairn_blockdev::BlockDevice`]; time and tasks are handed in.
//! See `raid/README.md` for the picture and the argument.
#![cfg_attr(test, allow(clippy::as_conversions))]

mod error;
mod geometry;
pub mod label;
pub mod layout;
mod level;
mod member;
pub mod parity;
pub mod space;

pub use error::RaidError;
pub use geometry::{CHUNK_MAX, CHUNK_MIN, Geometry, GeometryError, Role, Row, Set, Slot};
pub use level::{Level, MEMBERS_MAX};
pub use member::MemberState;
