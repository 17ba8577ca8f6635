//! The one trait: a disk, a simulated disk, an array and a volume are all a [`BlockDevice`], and
//! the exporters serve any of them.
//!
//! Invariants
//! - A buffer belongs to its operation until the completion: dropping a future never frees memory
//!   that the kernel may still write to.
//! - A read either fills the whole buffer or fails; a failed read's buffer holds nothing to be used.
//! - Futures are `'static` and `!Send`: a device lives on one engine thread.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use crate::buf::{Buf, SharedBuf};
use crate::error::{IoError, IoErrorKind, IoOp};
use crate::units::u64_of;

/// A boxed future of this thread.
pub type LocalFuture<T> = Pin<Box<dyn Future<Output = T>>>;
/// The future of one operation.
pub type IoFuture<T> = LocalFuture<Result<T, IoError>>;
/// A read's end: the buffer always comes back, on error too.
pub type ReadResult = (Buf, Result<(), IoError>);

/// Shape of a device. Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceGeometry {
    /// Size, a multiple of `logical_block`.
    pub size: u64,
    /// Smallest unit of I/O: offsets and lengths are multiples of it. 512 or 4096.
    pub logical_block: u32,
    /// What it writes whole or not at all, aligned to it, whatever goes wrong: a power cut tears nothing
    /// smaller. Where that isn't known, 512.
    pub physical_block: u32,
    /// Preferred smallest I/O (an array's chunk).
    pub io_min: u32,
    /// Best I/O (an array's row); 0 if there is none.
    pub io_opt: u32,
    /// Spinning disk.
    pub rotational: bool,
    /// Writes need a flush before they are durable.
    pub write_cache: bool,
}

/// How a write is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriteFlags {
    /// Durable on completion.
    pub fua: bool,
}

/// How zeros are to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ZeroFlags {
    /// Durable on completion.
    pub fua: bool,
    /// Keep the space allocated (NBD's NO_HOLE).
    pub no_hole: bool,
}

/// What a range of a device holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockStatus {
    /// Written data.
    Data,
    /// Allocated, reads as zeros.
    Zero,
    /// Not allocated, reads as zeros.
    Hole,
}

/// A run of one status, in bytes from the asked offset on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusRun {
    /// Bytes in the run.
    pub len: u64,
    /// What they hold.
    pub status: BlockStatus,
}

/// Bytes that can be read, written, flushed and given back.
///
/// Offsets and lengths are bytes and multiples of `geometry().logical_block`; a request that isn't
/// aligned or runs past the end fails with [`IoErrorKind::Misaligned`] or
/// [`IoErrorKind::OutOfRange`] and does nothing. Overlapping requests in flight have no order.
pub trait BlockDevice {
    /// Path or name, for messages.
    fn name(&self) -> Rc<str>;

    /// Shape; may change only by growing.
    fn geometry(&self) -> DeviceGeometry;

    /// Fills `buf` from `offset`.
    fn read(&self, offset: u64, buf: Buf) -> LocalFuture<ReadResult>;

    /// Writes `data` at `offset`. The view keeps the memory alive until the completion; the caller
    /// keeps its own clone if it needs the bytes again.
    fn write(&self, offset: u64, data: SharedBuf, flags: WriteFlags) -> IoFuture<()>;

    /// Makes every write that completed before this call durable.
    fn flush(&self) -> IoFuture<()>;

    /// Gives the range back. What it reads as afterwards is the device's to say: volumes give
    /// zeros for whole ranges, a disk may do nothing.
    fn discard(&self, offset: u64, len: u64) -> IoFuture<()>;

    /// Makes the range read as zeros.
    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> IoFuture<()>;

    /// What the range holds, as runs that cover it from `offset`; at least one run, and the
    /// device may stop short of `len`. Devices that don't know say data.
    fn block_status(&self, offset: u64, len: u64) -> IoFuture<Vec<StatusRun>> {
        let checked = self.check(IoOp::Read, offset, len);
        Box::pin(async move {
            checked?;
            Ok(vec![StatusRun {
                len,
                status: BlockStatus::Data,
            }])
        })
    }

    /// Whether `offset..offset+len` is aligned and inside.
    fn check(&self, op: IoOp, offset: u64, len: u64) -> Result<(), IoError> {
        let geometry = self.geometry();
        let block = u64::from(geometry.logical_block);
        let fail = |kind| Err(IoError::new(kind, &self.name(), op, offset, len));
        match offset.checked_add(len) {
            None => fail(IoErrorKind::OutOfRange),
            Some(end) if end > geometry.size => fail(IoErrorKind::OutOfRange),
            Some(_) if !offset.is_multiple_of(block) || !len.is_multiple_of(block) => {
                fail(IoErrorKind::Misaligned)
            }
            Some(_) => Ok(()),
        }
    }
}

/// Reads `len` bytes at `offset` into a fresh buffer.
pub async fn read_vec(device: &dyn BlockDevice, offset: u64, len: usize) -> Result<Buf, IoError> {
    let (buf, result) = device.read(offset, Buf::zeroed(len)).await;
    debug_assert_eq!(u64_of(buf.len()), u64_of(len));
    result.map(|()| buf)
}
