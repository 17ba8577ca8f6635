//! A disk: an open block device or regular file as a [`BlockDevice`].
//!
//! Invariants
//! - A flush that failed stays failed: what the device's cache held then may be lost, and a later
//!   success would hide that (the "fsyncgate" lesson). The layer above ejects the disk.
//! - A disk found shorter than it was when opened is gone for good: writing on would extend the
//!   file with holes that read as zeros. A pulled disk shows so too, whatever number its failures
//!   bear: the kernel sets its size to 0.
//! - Memory that O_DIRECT wouldn't take is copied through the pool; callers see no difference.

use std::cell::Cell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::libc;

use super::counters::DiskCounters;
use super::error::OpenError;
use super::open::{self, OpenMode, Opened};
use super::reactor::Reactor;
use super::sys;
use super::table::{Action, Failure, Memory, Request, Target};
use crate::buf::{Buf, SharedBuf};
use crate::device::{
    BlockDevice, DeviceGeometry, IoFuture, LocalFuture, ReadResult, WriteFlags, ZeroFlags,
};
use crate::error::{IoError, IoErrorKind, IoOp};
use crate::units::{MIB, u64_of, usize_of};

/// Zeros are written in pieces of this size where the device can't do it by itself.
const ZERO_PIECE_BYTES: u64 = MIB;

/// A disk; clones are the same one, closed with the last of them and the last operation on it.
#[derive(Clone)]
pub struct Disk(Rc<Inner>);

struct Inner {
    reactor: Reactor,
    target: Rc<Target>,
    name: Rc<str>,
    path: PathBuf,
    geometry: DeviceGeometry,
    mode: OpenMode,
    is_block: bool,
    direct: bool,
    memory_align: usize,
    gone: Cell<bool>,
    /// The device refused a write with FUA; a flush after it stands in.
    no_dsync: Cell<bool>,
    /// The device refused to make zeros; they are written.
    no_zero_range: Cell<bool>,
}

impl Disk {
    /// Opens the disk at `path`. Blocks the thread for as long as the system's open takes.
    pub fn open(
        reactor: &Reactor,
        path: impl AsRef<Path>,
        mode: OpenMode,
    ) -> Result<Self, OpenError> {
        let path = path.as_ref();
        Ok(Self::of(reactor, path, mode, open::open(path, mode)?))
    }

    /// As [`Disk::open`], on a thread of its own: a disk that hangs holds up its caller alone, and the
    /// thread, until it answers.
    pub async fn open_apart(
        reactor: &Reactor,
        path: &Path,
        mode: OpenMode,
    ) -> Result<Self, OpenError> {
        let (answer, opened) = tokio::sync::oneshot::channel();
        let asked = path.to_owned();
        std::thread::Builder::new()
            .name("cairn-open".into())
            // Nobody waits any more: what was opened is closed.
            .spawn(move || drop(answer.send(open::open(&asked, mode))))
            .map_err(|error| OpenError::from_io(path, "open", error))?;
        let opened = opened.await.map_err(|_| {
            let gone = std::io::Error::other("the thread that opened it ended in a panic");
            OpenError::from_io(path, "open", gone)
        })?;
        Ok(Self::of(reactor, path, mode, opened?))
    }

    fn of(reactor: &Reactor, path: &Path, mode: OpenMode, opened: Opened) -> Self {
        let Opened {
            file,
            is_block,
            direct,
            memory_align,
            geometry,
        } = opened;
        let block = if direct { geometry.logical_block } else { 1 };
        let target = Target::new(file, block, reactor.entries_per_disk());
        Self(Rc::new(Inner {
            reactor: reactor.clone(),
            target: Rc::new(target),
            name: Rc::from(path.to_string_lossy()),
            path: path.to_owned(),
            geometry,
            mode,
            is_block,
            direct,
            memory_align,
            gone: Cell::new(false),
            no_dsync: Cell::new(false),
            no_zero_range: Cell::new(false),
        }))
    }

    /// Opens the disk to look at it: read only, without a lock.
    pub fn open_probe(reactor: &Reactor, path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::open(reactor, path, OpenMode::Probe)
    }

    /// The path as given.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Whether it is a block device rather than a regular file.
    pub fn is_block_device(&self) -> bool {
        self.0.is_block
    }

    /// Whether the page cache is bypassed; false on file systems that don't do O_DIRECT, where the
    /// same memory is then used twice.
    pub fn is_direct(&self) -> bool {
        self.0.direct
    }

    /// What it has done since it was opened.
    pub fn counters(&self) -> DiskCounters {
        self.0.target.counters.snapshot()
    }

    fn start<T: 'static>(&self, work: impl AsyncFnOnce(&Inner) -> T + 'static) -> LocalFuture<T> {
        let inner = Rc::clone(&self.0);
        Box::pin(async move { work(&inner).await })
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Disk({}, {} bytes)", self.0.name, self.0.geometry.size)
    }
}

/// Place of an operation, for its errors.
#[derive(Clone, Copy)]
struct Span {
    op: IoOp,
    offset: u64,
    len: u64,
}

impl Inner {
    async fn request(
        &self,
        span: Span,
        action: Action,
        memory: Memory,
    ) -> (Memory, Result<(), IoError>) {
        if self.gone.get() {
            return (memory, Err(self.error(IoErrorKind::Gone, span)));
        }
        let request = Request {
            target: Rc::clone(&self.target),
            action,
            memory,
        };
        let (memory, result) = self.reactor.perform(request).await;
        (memory, result.map_err(|failure| self.failed(failure, span)))
    }

    fn error(&self, kind: IoErrorKind, span: Span) -> IoError {
        IoError::new(kind, &self.name, span.op, span.offset, span.len)
    }

    fn errno(&self, errno: i32, span: Span) -> IoError {
        IoError::from_errno(errno, &self.name, span.op, span.offset, span.len)
    }

    fn failed(&self, failure: Failure, span: Span) -> IoError {
        match failure {
            Failure::End if span.op == IoOp::Read => self.shrunk(span),
            _ if self.has_shrunk() => self.shrunk(span),
            Failure::Errno(errno) => self.errno(errno, span),
            // A write that the device takes no further: no space, in every case known.
            Failure::End => self.errno(libc::ENOSPC, span),
        }
    }

    fn has_shrunk(&self) -> bool {
        let file = &self.target.file;
        let bytes = if self.is_block {
            sys::device_bytes(file)
        } else {
            file.metadata().map(|meta| meta.len())
        };
        bytes.is_ok_and(|bytes| bytes < self.geometry.size)
    }

    /// The disk ends before `size`: truncated, detached, or another one by now.
    fn shrunk(&self, span: Span) -> IoError {
        if !self.gone.replace(true) {
            tracing::error!(
                disk = %self.name,
                expected_bytes = self.geometry.size,
                offset = span.offset,
                "the disk ends before its size at opening: truncated or detached; \
                 it is given up"
            );
        }
        self.error(IoErrorKind::Gone, span)
    }

    async fn read(&self, span: Span, buf: Buf) -> ReadResult {
        let action = Action::Read {
            offset: span.offset,
        };
        if self.takes(buf.as_ptr()) {
            let (memory, result) = self.request(span, action, Memory::Read(buf)).await;
            return (into_buf(memory), result);
        }
        let mut buf = buf;
        let bounce = self.reactor.pool().take(buf.len());
        let (memory, result) = self.request(span, action, Memory::Read(bounce)).await;
        if result.is_ok() {
            buf.copy_from_slice(&into_buf(memory));
        }
        (buf, result)
    }

    async fn write(&self, span: Span, data: SharedBuf, flags: WriteFlags) -> Result<(), IoError> {
        let data = if self.takes(data.as_ptr()) {
            data
        } else {
            let mut bounce = self.reactor.pool().take(data.len());
            bounce.copy_from_slice(&data);
            bounce.freeze()
        };
        let dsync = flags.fua && !self.no_dsync.get();
        if flags.fua {
            self.flush_fence(span)?;
        }
        let action = |dsync| Action::Write {
            offset: span.offset,
            dsync,
        };
        let memory = Memory::Write(data.clone());
        let (_, result) = self.request(span, action(dsync), memory).await;
        match result {
            Err(error) if dsync && error.kind == IoErrorKind::Unsupported => {
                self.no_dsync.set(true);
                let memory = Memory::Write(data);
                self.request(span, action(false), memory).await.1?;
            }
            Err(error) => return Err(error),
            Ok(()) if dsync || !flags.fua => return Ok(()),
            Ok(()) => {}
        }
        self.flush(span).await
    }

    async fn flush(&self, span: Span) -> Result<(), IoError> {
        self.flush_fence(span)?;
        if self.has_shrunk() {
            return Err(self.shrunk(span));
        }
        if self.is_block && !self.geometry.write_cache && self.direct {
            // Nothing lies between a completed write and the medium.
            return if self.gone.get() {
                Err(self.error(IoErrorKind::Gone, span))
            } else {
                Ok(())
            };
        }
        self.request(span, Action::Sync, Memory::None).await.1
    }

    /// The error of an earlier flush.
    fn flush_fence(&self, span: Span) -> Result<(), IoError> {
        match self.target.sync_failed.get() {
            Some(errno) => Err(self.errno(errno, span)),
            None => Ok(()),
        }
    }

    async fn discard(&self, span: Span) -> Result<(), IoError> {
        if !self.is_block {
            let action = Action::Punch {
                offset: span.offset,
                len: span.len,
            };
            return self.request(span, action, Memory::None).await.1;
        }
        if self.gone.get() {
            return Err(self.error(IoErrorKind::Gone, span));
        }
        // The ring's opcodes have no discard that every kernel knows; it is rare enough for a
        // thread. A task waits for it, so that a caller that goes away leaves the disk's count and
        // its place to the discard's end.
        let failed = |e: std::io::Error| {
            let errno = e.raw_os_error().unwrap_or(libc::EIO);
            self.failed(Failure::Errno(errno), span)
        };
        let target = Rc::clone(&self.target);
        match target.slots.acquire().await {
            Ok(slot) => slot.forget(),
            // The semaphore is never closed.
            Err(_) => return Err(self.errno(libc::ESHUTDOWN, span)),
        }
        let file = match target.file.try_clone() {
            Ok(file) => file,
            Err(error) => {
                target.slots.add_permits(1);
                return Err(failed(error));
            }
        };
        target.counters.started();
        let (offset, len) = (span.offset, span.len);
        let work = tokio::task::spawn_local(async move {
            let work = tokio::task::spawn_blocking(move || sys::discard(&file, offset, len));
            let result = work.await.unwrap_or_else(|e| Err(std::io::Error::other(e)));
            let moved = result.is_ok().then_some(len);
            target.counters.finished(IoOp::Discard, moved, None);
            target.slots.add_permits(1);
            result
        });
        let result = work.await.unwrap_or_else(|e| Err(std::io::Error::other(e)));
        result.map_err(failed)
    }

    async fn write_zeroes(&self, span: Span, flags: ZeroFlags) -> Result<(), IoError> {
        if !self.no_zero_range.get() {
            // Zeroing without giving space back, whatever the flags allow: a member file keeps
            // the space that it has.
            let action = Action::Zero {
                offset: span.offset,
                len: span.len,
            };
            match self.request(span, action, Memory::None).await.1 {
                Err(error) if error.kind == IoErrorKind::Unsupported => {
                    self.no_zero_range.set(true);
                }
                Ok(()) if flags.fua => return self.flush(span).await,
                result => return result,
            }
        }
        let piece = usize_of(span.len.min(ZERO_PIECE_BYTES));
        let zeros = self.reactor.pool().take_zeroed(piece).freeze();
        let end = span.offset + span.len;
        let mut offset = span.offset;
        while offset < end {
            let len = (end - offset).min(ZERO_PIECE_BYTES);
            let part = Span {
                offset,
                len,
                ..span
            };
            let data = zeros.slice(0..usize_of(len));
            self.write(part, data, WriteFlags::default()).await?;
            offset += len;
        }
        if flags.fua {
            self.flush(span).await?;
        }
        Ok(())
    }

    fn takes(&self, memory: *const u8) -> bool {
        memory.addr().is_multiple_of(self.memory_align)
    }
}

/// The buffer of a read request; the table gives back what it was given.
fn into_buf(memory: Memory) -> Buf {
    match memory {
        Memory::Read(buf) => buf,
        Memory::None | Memory::Write(_) => Buf::zeroed(0),
    }
}

impl BlockDevice for Disk {
    fn name(&self) -> Rc<str> {
        Rc::clone(&self.0.name)
    }

    fn geometry(&self) -> DeviceGeometry {
        self.0.geometry
    }

    fn read(&self, offset: u64, buf: Buf) -> LocalFuture<ReadResult> {
        let len = u64_of(buf.len());
        let checked = self.check(IoOp::Read, offset, len);
        let op = IoOp::Read;
        self.start(async move |disk| match checked {
            Err(error) => (buf, Err(error)),
            Ok(()) if len == 0 => (buf, Ok(())),
            Ok(()) => disk.read(Span { op, offset, len }, buf).await,
        })
    }

    fn write(&self, offset: u64, data: SharedBuf, flags: WriteFlags) -> IoFuture<()> {
        let len = u64_of(data.len());
        let checked = self.check_change(IoOp::Write, offset, len);
        let op = IoOp::Write;
        self.start(async move |disk| match checked {
            Ok(()) if len > 0 => disk.write(Span { op, offset, len }, data, flags).await,
            checked => checked,
        })
    }

    fn flush(&self) -> IoFuture<()> {
        let span = Span {
            op: IoOp::Flush,
            offset: 0,
            len: 0,
        };
        let checked = self.check_change(span.op, 0, 0);
        self.start(async move |disk| {
            checked?;
            disk.flush(span).await
        })
    }

    fn discard(&self, offset: u64, len: u64) -> IoFuture<()> {
        let checked = self.check_change(IoOp::Discard, offset, len);
        let op = IoOp::Discard;
        self.start(async move |disk| match checked {
            Ok(()) if len > 0 => disk.discard(Span { op, offset, len }).await,
            checked => checked,
        })
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> IoFuture<()> {
        let checked = self.check_change(IoOp::Write, offset, len);
        let op = IoOp::Write;
        self.start(async move |disk| match checked {
            Ok(()) if len > 0 => disk.write_zeroes(Span { op, offset, len }, flags).await,
            checked => checked,
        })
    }
}

impl Disk {
    /// As [`BlockDevice::check`], and that this disk was opened to be changed.
    fn check_change(&self, op: IoOp, offset: u64, len: u64) -> Result<(), IoError> {
        self.check(op, offset, len)?;
        if self.0.mode == OpenMode::Probe {
            return Err(self
                .0
                .error(IoErrorKind::ReadOnly, Span { op, offset, len }));
        }
        Ok(())
    }
}
