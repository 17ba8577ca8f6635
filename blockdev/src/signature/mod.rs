//! Foreign signatures: what a disk holds before Cairn would overwrite it.
//!
//! [`recognise()`] is a function of bytes; [`probe`] reads the few places that it looks at, and
//! [`wipe`] zeroes the magic numbers found, as wipefs does, so that nobody takes the disk for what
//! it was.
//!
//! Prefers a false alarm to a lost file system: a magic number is enough where it is long; short
//! ones are checked against the fields around them.

mod magic;
mod recognise;
mod window;

use std::fmt;

pub use self::recognise::recognise;
pub use self::window::{Window, Windows, windows_of};

use crate::buf::Buf;
use crate::device::{BlockDevice, WriteFlags, read_vec};
use crate::error::IoError;
use crate::units::{align_down, usize_of};

/// What kind of thing a signature belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A file system.
    FileSystem,
    /// Swap space or a hibernation image.
    Swap,
    /// An LVM physical volume, or another volume manager's.
    VolumeManager,
    /// A member of a software RAID array of another program.
    Raid,
    /// An encrypted container.
    Encryption,
    /// A GPT or MBR partition table.
    PartitionTable,
    /// A cache or replication layer (bcache, DRBD), or another storage system's disk.
    Storage,
    /// A member of a Cairn array.
    Cairn,
}

/// Where one magic number lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// First byte on the device.
    pub offset: u64,
    /// Bytes.
    pub len: usize,
}

/// One thing found on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// What kind of thing.
    pub kind: Kind,
    /// Byte offset of its first magic number.
    pub offset: u64,
    /// What exactly, for people: "ext4 file system".
    pub what: String,
    /// Every magic number that makes it recognised, all zeroed by [`wipe`].
    pub places: Vec<Place>,
}

impl Signature {
    pub(crate) fn new(kind: Kind, what: impl Into<String>, places: Vec<Place>) -> Self {
        Self {
            kind,
            offset: places.first().map_or(0, |place| place.offset),
            what: what.into(),
            places,
        }
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at offset {}", self.what, self.offset)
    }
}

/// Finds what the device holds. Reads about 2 MiB.
pub async fn probe(device: &dyn BlockDevice) -> Result<Vec<Signature>, IoError> {
    let size = device.geometry().size;
    let mut read: Vec<(u64, Buf)> = Vec::new();
    for window in windows_of(size) {
        let bytes = read_vec(device, window.offset, usize_of(window.len)).await?;
        read.push((window.offset, bytes));
    }
    let windows = Windows::new(size, read.iter().map(|(at, bytes)| (*at, &bytes[..])));
    Ok(recognise(&windows))
}

/// Zeroes the magic numbers of the signatures, nothing else, and flushes.
pub async fn wipe(device: &dyn BlockDevice, found: &[Signature]) -> Result<(), IoError> {
    let block = u64::from(device.geometry().logical_block);
    for place in found.iter().flat_map(|signature| &signature.places) {
        let start = align_down(place.offset, block);
        let inside = usize_of(place.offset - start);
        let len = (inside + place.len).next_multiple_of(usize_of(block));
        let mut bytes = read_vec(device, start, len).await?;
        if let Some(magic) = bytes.get_mut(inside..inside + place.len) {
            magic.fill(0);
        }
        device
            .write(start, bytes.freeze(), WriteFlags::default())
            .await?;
    }
    device.flush().await
}
