//! Opening a disk: what it is, that nobody else has it, and its shape.
//!
//! Invariants
//! - An exclusively opened disk is held by O_EXCL (block devices) and by a lock (both kinds), so a
//!   second opener is refused, in this process too. What a loop device stands on is refused as
//!   well: loops hold it neither way.
//! - A probe takes no lock, changes nothing, and can't write.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use nix::libc;

use super::error::OpenError;
use super::sys;
use super::sysfs::{BlockDir, DeviceNumber, Sysfs};
use super::usage::{self, Tables};
use crate::device::DeviceGeometry;
use crate::units::{BLOCK, BLOCK_BYTES, MIB, align_down, u32_of, usize_of_u32};

/// Least size of a disk: below it the label slots at 2 MiB and the copy before the end don't fit.
pub const DISK_BYTES_MIN: u64 = 4 * MIB;

/// Logical block of a regular file, unless its file system wants more for O_DIRECT.
const FILE_SECTOR_BYTES: u32 = 512;
/// Memory alignment that every kernel takes for O_DIRECT, where it doesn't say.
const MEMORY_ALIGN_SAFE: u32 = 4096;
/// udev takes the same lock for a moment after every change to a block device.
const LOCK_TRIES: u32 = 5;
/// Between two tries; it blocks the engine thread, so all together stay at a tenth of a second.
const LOCK_PAUSE: Duration = Duration::from_millis(25);

/// What a disk is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// As a member: read and write, nobody else.
    Exclusive,
    /// To look at labels and signatures: read only, without a lock.
    Probe,
}

/// What opening found out.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) file: File,
    pub(crate) is_block: bool,
    /// O_DIRECT is in force; without it the page cache lies in between.
    pub(crate) direct: bool,
    /// What O_DIRECT wants memory aligned to, in bytes; 1 without it.
    pub(crate) memory_align: usize,
    pub(crate) geometry: DeviceGeometry,
}

/// See the module.
pub(crate) fn open(path: &Path, mode: OpenMode) -> Result<Opened, OpenError> {
    let meta = std::fs::metadata(path).map_err(|e| OpenError::from_io(path, "stat", e))?;
    let is_block = kind_of(&meta, path)?;
    let sys = Sysfs::system();
    let dir = if is_block {
        sys.block(DeviceNumber::of(meta.rdev()))
    } else {
        None
    };
    let (file, direct) = open_file(path, mode, is_block).map_err(|error| {
        // A mounted device is refused with EBUSY; or with EPERM, where the kernel guards mounts.
        let by = dir
            .as_ref()
            .filter(|_| matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EPERM)))
            .and_then(|dir| usage::of_block(&sys, dir, &Tables::system()))
            // Not the kernel's: then another program's, which holds the lock as well if it is us.
            .or_else(|| usage::lock_holder(&File::open(path).ok()?));
        if by.is_some() || error.raw_os_error() == Some(libc::EBUSY) {
            let path = path.to_owned();
            return OpenError::InUse { path, by };
        }
        OpenError::from_io(path, "open", error)
    })?;
    let now = file
        .metadata()
        .map_err(|e| OpenError::from_io(path, "stat", e))?;
    if (now.dev(), now.ino()) != (meta.dev(), meta.ino()) {
        // Replaced in between; what was checked isn't what is open.
        let changed = io::Error::other("the path was replaced while it was being opened");
        return Err(OpenError::from_io(path, "open", changed));
    }
    if mode == OpenMode::Exclusive {
        if let Some(by) = usage::loop_over(&sys, &file, dir.as_ref()) {
            return Err(OpenError::InUse {
                path: path.to_owned(),
                by: Some(by),
            });
        }
        lock(path, &file, is_block)?;
    }
    describe(path, mode, file, direct, dir.as_ref(), is_block)
}

/// Whether it is a block device rather than a regular file; an error for anything else.
fn kind_of(meta: &std::fs::Metadata, path: &Path) -> Result<bool, OpenError> {
    let kind = meta.file_type();
    let what = if kind.is_block_device() {
        return Ok(true);
    } else if kind.is_file() {
        return Ok(false);
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_char_device() {
        "a character device"
    } else if kind.is_fifo() {
        "a pipe"
    } else {
        "a socket"
    };
    Err(OpenError::NotADisk {
        path: path.to_owned(),
        what,
    })
}

/// Opens with O_DIRECT, or without where the file system doesn't do it.
fn open_file(path: &Path, mode: OpenMode, is_block: bool) -> io::Result<(File, bool)> {
    let exclusive = mode == OpenMode::Exclusive;
    let flags = if exclusive && is_block {
        libc::O_EXCL
    } else {
        0
    };
    let attempt = |flags| {
        OpenOptions::new()
            .read(true)
            .write(exclusive)
            .custom_flags(flags)
            .open(path)
    };
    match attempt(flags | libc::O_DIRECT) {
        Ok(file) => Ok((file, true)),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            attempt(flags).map(|file| (file, false))
        }
        Err(error) => Err(error),
    }
}

/// Takes the lock (flock, as udev and mkfs do); it ends with the last copy of the descriptor.
fn lock(path: &Path, file: &File, is_block: bool) -> Result<(), OpenError> {
    // O_EXCL has already settled who owns a block device; what holds its lock is a passing probe.
    let tries = if is_block { LOCK_TRIES } else { 1 };
    for attempt in 1..=tries {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => {
                return Err(OpenError::from_io(path, "lock", error));
            }
        }
        if attempt < tries {
            std::thread::sleep(LOCK_PAUSE);
        }
    }
    Err(OpenError::Locked {
        path: path.to_owned(),
        by: usage::lock_holder(file),
    })
}

/// Size, sectors and nature of the open disk.
fn describe(
    path: &Path,
    mode: OpenMode,
    file: File,
    direct: bool,
    dir: Option<&BlockDir>,
    is_block: bool,
) -> Result<Opened, OpenError> {
    let system = |what| move |error| OpenError::from_io(path, what, error);
    let (bytes, sector, physical) = if is_block {
        (
            sys::device_bytes(&file).map_err(system("BLKGETSIZE64"))?,
            sys::logical_sector(&file).map_err(system("BLKSSZGET"))?,
            sys::physical_sector(&file).map_err(system("BLKPBSZGET"))?,
        )
    } else {
        let meta = file.metadata().map_err(system("stat"))?;
        (meta.len(), FILE_SECTOR_BYTES, FILE_SECTOR_BYTES)
    };
    let size = align_down(bytes, BLOCK);
    let min = match mode {
        OpenMode::Exclusive => DISK_BYTES_MIN,
        OpenMode::Probe => BLOCK,
    };
    if size < min {
        let path = path.to_owned();
        return Err(match (is_block, bytes) {
            (true, 0) => OpenError::NoMedium { path },
            _ => OpenError::TooSmall { path, size, min },
        });
    }
    if is_block
        && mode == OpenMode::Exclusive
        && sys::is_read_only(&file).map_err(system("BLKROGET"))?
    {
        return Err(OpenError::ReadOnly {
            path: path.to_owned(),
        });
    }
    let align = direct.then(|| sys::direct_align(&file)).flatten();
    // Zeros: the file system takes the flag and then goes through its page cache all the same.
    let direct = direct && align.is_none_or(|align| align.offset != 0);
    let offset_align = align.map_or(FILE_SECTOR_BYTES, |align| align.offset);
    let sector = if direct {
        sector.max(offset_align)
    } else {
        sector
    };
    if sector != FILE_SECTOR_BYTES && u64::from(sector) != BLOCK {
        return Err(OpenError::Sector {
            path: path.to_owned(),
            bytes: sector,
        });
    }
    let queue = |attribute| dir.and_then(|dir| dir.queue(attribute));
    if mode == OpenMode::Exclusive && queue("zoned").as_deref() == Some("host-managed") {
        return Err(OpenError::Zoned {
            path: path.to_owned(),
        });
    }
    let bytes_of = |attribute| queue(attribute).and_then(|text| text.parse::<u32>().ok());
    let geometry = DeviceGeometry {
        size,
        logical_block: sector,
        physical_block: if is_block && sys::is_aligned(&file).unwrap_or(false) {
            physical
        } else {
            // Who knows what lies below a file.
            FILE_SECTOR_BYTES
        },
        io_min: bytes_of("minimum_io_size")
            .unwrap_or(0)
            .max(physical)
            .max(u32_of(BLOCK_BYTES)),
        io_opt: bytes_of("optimal_io_size").unwrap_or(0),
        rotational: queue("rotational").as_deref() == Some("1"),
        // A file's writes always need its file system's flush.
        write_cache: queue("write_cache").as_deref() != Some("write through"),
    };
    let memory_align = match (direct, align) {
        (false, _) => 1,
        (true, Some(align)) => align.memory.max(1),
        (true, None) => MEMORY_ALIGN_SAFE,
    };
    Ok(Opened {
        file,
        is_block,
        direct,
        memory_align: usize_of_u32(memory_align),
        geometry,
    })
}
