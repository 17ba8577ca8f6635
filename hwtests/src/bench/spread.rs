//! Disks side by side without redundancy: the raw limit, under the same loads as an array.
//!
//! ```text
//!   offset    0       1 MiB    2 MiB   …   n MiB
//!             ├disk 0─┼─disk 1─┼─disk 2┼ … ┼─disk 0, its second MiB
//! ```
//!
//! Invariant: a request lies within one piece, so that it is one disk's request and nothing is added to it.

use std::rc::Rc;

use cairn_blockdev::disk::Disk;
use cairn_blockdev::units::{MIB, u64_of, usize_of};
use cairn_blockdev::{
    BlockDevice, Buf, DeviceGeometry, IoError, IoErrorKind, IoFuture, IoOp, LocalFuture,
    ReadResult, SharedBuf, WriteFlags, ZeroFlags,
};

/// See the module.
pub struct Spread {
    disks: Vec<Disk>,
    disk_bytes: u64,
}

impl Spread {
    /// The first `disk_bytes` of each of these disks.
    pub fn new(disks: Vec<Disk>, disk_bytes: u64) -> Self {
        Self {
            disks,
            disk_bytes: disk_bytes - disk_bytes % MIB,
        }
    }

    fn place(&self, op: IoOp, offset: u64, len: u64) -> Result<(&Disk, u64), IoError> {
        self.check(op, offset, len)?;
        let piece = offset / MIB;
        let count = u64_of(self.disks.len());
        let crosses = offset % MIB + len > MIB;
        let disk = self.disks.get(usize_of(piece % count)).filter(|_| !crosses);
        let disk = disk
            .ok_or_else(|| IoError::new(IoErrorKind::Misaligned, &self.name(), op, offset, len))?;
        Ok((disk, piece / count * MIB + offset % MIB))
    }
}

impl BlockDevice for Spread {
    fn name(&self) -> Rc<str> {
        Rc::from("raw")
    }

    fn geometry(&self) -> DeviceGeometry {
        DeviceGeometry {
            size: self.disk_bytes * u64_of(self.disks.len()),
            logical_block: 4096,
            physical_block: 512,
            io_min: 4096,
            io_opt: 0,
            rotational: false,
            write_cache: true,
        }
    }

    fn read(&self, offset: u64, buf: Buf) -> LocalFuture<ReadResult> {
        match self.place(IoOp::Read, offset, u64_of(buf.len())) {
            Ok((disk, at)) => disk.read(at, buf),
            Err(error) => Box::pin(std::future::ready((buf, Err(error)))),
        }
    }

    fn write(&self, offset: u64, data: SharedBuf, flags: WriteFlags) -> IoFuture<()> {
        match self.place(IoOp::Write, offset, u64_of(data.len())) {
            Ok((disk, at)) => disk.write(at, data, flags),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn flush(&self) -> IoFuture<()> {
        let flushes: Vec<_> = self.disks.iter().map(BlockDevice::flush).collect();
        Box::pin(async move {
            for flush in flushes {
                flush.await?;
            }
            Ok(())
        })
    }

    fn discard(&self, offset: u64, len: u64) -> IoFuture<()> {
        match self.place(IoOp::Discard, offset, len) {
            Ok((disk, at)) => disk.discard(at, len),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> IoFuture<()> {
        match self.place(IoOp::Write, offset, len) {
            Ok((disk, at)) => disk.write_zeroes(at, len, flags),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }
}
