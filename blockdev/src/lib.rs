//! Bytes on devices: the [`BlockDevice`] trait that every layer of Cairn implements and is built
//! over, and what lies directly below and above it: disks, simulated disks, exporters.
//!
//! Knows nothing of RAID, volumes or hosts. See `blockdev/README.md` for a picture.
#![cfg_attr(test, allow(clippy::as_conversions))]

pub mod buf;
pub mod crc;
pub mod device;
pub mod disk;
pub mod env;
pub mod error;
pub mod export;
pub mod prepared;
pub mod signature;
pub mod sim;
pub mod units;

pub use buf::{Buf, BufPool, SharedBuf};
pub use device::{
    BlockDevice, BlockStatus, DeviceGeometry, IoFuture, LocalFuture, ReadResult, StatusRun,
    WriteFlags, ZeroFlags,
};
pub use env::{Clock, Entropy, Env, Spawn, Ticks};
pub use error::{IoError, IoErrorKind, IoOp};
pub use prepared::PreparedDevice;
