//! The system calls that no crate wraps safely: block-device ioctls and statx.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;

const BLKROGET: libc::Ioctl = nix::request_code_none!(0x12, 94);
const BLKGETSIZE64: libc::Ioctl = nix::request_code_read!(0x12, 114, size_of::<usize>());
const BLKSSZGET: libc::Ioctl = nix::request_code_none!(0x12, 104);
const BLKDISCARD: libc::Ioctl = nix::request_code_none!(0x12, 119);
const BLKALIGNOFF: libc::Ioctl = nix::request_code_none!(0x12, 122);
const BLKPBSZGET: libc::Ioctl = nix::request_code_none!(0x12, 123);
const LOOP_GET_STATUS64: libc::Ioctl = 0x4C05;

/// u64 words in the kernel's `struct loop_info64` (232 bytes).
const LOOP_INFO_WORDS: usize = 29;

fn int_ioctl(file: &File, request: libc::Ioctl) -> io::Result<u32> {
    let mut value: libc::c_uint = 0;
    // SAFETY: these requests write one int to the pointer; the descriptor is open.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request, &raw mut value) };
    Errno::result(result)?;
    Ok(value)
}

/// Size of a block device in bytes.
pub(crate) fn device_bytes(file: &File) -> io::Result<u64> {
    let mut value: u64 = 0;
    // SAFETY: BLKGETSIZE64 writes one u64 to the pointer; the descriptor is open.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64, &raw mut value) };
    Errno::result(result)?;
    Ok(value)
}

/// Logical sector of a block device in bytes.
pub(crate) fn logical_sector(file: &File) -> io::Result<u32> {
    int_ioctl(file, BLKSSZGET)
}

/// Physical sector of a block device in bytes.
pub(crate) fn physical_sector(file: &File) -> io::Result<u32> {
    int_ioctl(file, BLKPBSZGET)
}

/// Whether the device begins where a physical sector does: a partition may not.
pub(crate) fn is_aligned(file: &File) -> io::Result<bool> {
    int_ioctl(file, BLKALIGNOFF).map(|offset| offset == 0)
}

/// Whether the kernel holds the device read-only.
pub(crate) fn is_read_only(file: &File) -> io::Result<bool> {
    int_ioctl(file, BLKROGET).map(|value| value != 0)
}

/// Tells a block device that the range isn't needed. Blocks the thread.
pub(crate) fn discard(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let range = [offset, len];
    // SAFETY: BLKDISCARD reads two u64 from the pointer; the descriptor is open.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), BLKDISCARD, range.as_ptr()) };
    Errno::result(result)?;
    Ok(())
}

/// A counter to wake an event loop with: readable while it isn't zero.
pub(crate) fn event_fd() -> io::Result<File> {
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    Errno::result(fd)?;
    // SAFETY: the descriptor is fresh and nobody else's.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// What a loop device stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LoopStatus {
    /// Device number of the file system that the backing file lies on.
    pub(crate) device: u64,
    /// The backing file's inode there.
    pub(crate) inode: u64,
    /// The backing block device's number; 0 if it is a file.
    pub(crate) block_device: u64,
    /// Where in the backing file the loop begins, in bytes.
    pub(crate) offset: u64,
}

/// What the open loop device stands on.
pub(crate) fn loop_status(file: &File) -> io::Result<LoopStatus> {
    let mut words = [0_u64; LOOP_INFO_WORDS];
    // SAFETY: LOOP_GET_STATUS64 writes a struct loop_info64, which is as large as the array and
    // begins with the four u64 taken below; the descriptor is open.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), LOOP_GET_STATUS64, words.as_mut_ptr()) };
    Errno::result(result)?;
    let [device, inode, block_device, offset, ..] = words;
    Ok(LoopStatus {
        device,
        inode,
        block_device,
        offset,
    })
}

/// Alignment that O_DIRECT wants, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DirectAlign {
    /// Of memory.
    pub(crate) memory: u32,
    /// Of offsets and lengths.
    pub(crate) offset: u32,
}

/// Alignment that O_DIRECT wants on the open file; `None` if the kernel or the file system doesn't
/// say, and zeros if it says that O_DIRECT isn't done.
pub(crate) fn direct_align(file: &File) -> Option<DirectAlign> {
    let mut stat = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is an empty C string, which AT_EMPTY_PATH takes as the descriptor itself;
    // the kernel writes one struct statx.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            stat.as_mut_ptr(),
        )
    };
    if result != 0 {
        return None;
    }
    // SAFETY: all-zero is a valid statx, and the kernel has filled it.
    let stat = unsafe { stat.assume_init() };
    (stat.stx_mask & libc::STATX_DIOALIGN != 0).then_some(DirectAlign {
        memory: stat.stx_dio_mem_align,
        offset: stat.stx_dio_offset_align,
    })
}
