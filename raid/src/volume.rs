//! A volume: a thin device made of extents of one array.
//!
//! Translates addresses and allocates on first write. Everything else — rows, parity, durability —
//! is the array's. Ranges that were never written, or were trimmed, read as zeros without I/O.

mod prepared;

use std::rc::Rc;

use cairn_blockdev::units::{BLOCK, SECTOR, align_down, u64_of, usize_of};
use cairn_blockdev::{
    BlockDevice, BlockStatus, Buf, DeviceGeometry, IoError, IoErrorKind, IoFuture, IoOp,
    LocalFuture, ReadResult, SharedBuf, StatusRun, Ticks, WriteFlags, ZeroFlags,
};
use futures_util::future::join_all;

use crate::array::Array;
use crate::geometry::Row;
use crate::journal::entry::{Entry, Kind};
use crate::space::{ExtentId, VolumeId, VolumeRecord};
use crate::tally::{Asked, Counters, Ended};

/// Zeros of partly trimmed rows go out in pieces of this size.
const ZERO_PIECE: u64 = 1 << 20;
/// Runs of one block-status answer; a client asks again for the rest.
const STATUS_RUNS_MAX: usize = 1024;

/// A volume of an array.
#[derive(Clone)]
pub(crate) struct Volume {
    array: Rc<Array>,
    id: VolumeId,
    name: Rc<str>,
    uuid: uuid::Uuid,
    counters: Rc<Counters>,
}

/// A part of a request that lies in one extent.
struct Part {
    /// Byte of the volume.
    at: u64,
    /// Bytes.
    len: u64,
}

impl Volume {
    pub(crate) fn new(array: Rc<Array>, id: VolumeId, record: &VolumeRecord) -> Self {
        Self {
            counters: array.counters_of(record.uuid),
            array,
            id,
            name: Rc::from(record.name.as_str()),
            uuid: record.uuid,
        }
    }

    /// Size now; zero once the volume is deleted.
    fn size(&self) -> u64 {
        let space = self.array.space.borrow();
        space
            .volume(self.id)
            .filter(|volume| volume.uuid == self.uuid)
            .map_or(0, |volume| self.array.durable_size(volume))
    }

    fn parts(&self, offset: u64, len: u64) -> Vec<Part> {
        let space = self.array.space.borrow();
        let (mut at, end) = (offset, offset + len);
        let mut parts = Vec::new();
        while at < end {
            let part = space.run_in_extent(at).min(end - at);
            parts.push(Part { at, len: part });
            at += part;
        }
        parts
    }

    /// The extent that holds byte `at`, and the byte's address in the array.
    fn find(&self, at: u64) -> Option<(ExtentId, u64)> {
        let space = self.array.space.borrow();
        // The place in the table may be another volume's by now.
        space
            .volume(self.id)
            .filter(|volume| volume.uuid == self.uuid)?;
        let (owner, within) = space.place(self.id, at);
        let extent = space.find(owner)?;
        Some((extent, space.extent_offset(extent) + within))
    }

    async fn find_or_allocate(&self, at: u64) -> Result<(ExtentId, u64), IoErrorKind> {
        loop {
            match self.find_or_allocate_now(at) {
                Err(IoErrorKind::NoSpace) if self.array.may_have_space().await? => {}
                found => return found,
            }
        }
    }

    fn find_or_allocate_now(&self, at: u64) -> Result<(ExtentId, u64), IoErrorKind> {
        // A volume that was deleted in between must not get new extents.
        if at >= self.size() {
            return Err(IoErrorKind::OutOfRange);
        }
        let mut space = self.array.space.borrow_mut();
        let (owner, within) = space.place(self.id, at);
        let known = space.find(owner);
        let extent = space.allocate(owner).map_err(|_| IoErrorKind::NoSpace)?;
        let address = space.extent_offset(extent) + within;
        drop(space);
        if known.is_none() {
            self.array.log_mapping(extent);
        }
        Ok((extent, address))
    }

    async fn read_part(&self, at: u64, mut buf: Buf) -> (Buf, Result<(), IoErrorKind>) {
        loop {
            let Some((extent, address)) = self.find(at) else {
                buf.fill(0);
                return (buf, Ok(()));
            };
            let _in_use = self.array.enter_extent(extent).await;
            // It may have been given away while the gate was shut.
            if self.find(at) == Some((extent, address)) {
                return self.array.read_at(address, buf).await;
            }
        }
    }

    async fn write_part(&self, at: u64, data: SharedBuf) -> Result<(), IoErrorKind> {
        loop {
            let (extent, address) = self.find_or_allocate(at).await?;
            let _in_use = self.array.enter_extent(extent).await;
            if self.find(at) == Some((extent, address)) {
                return self.array.write_at(address, data).await;
            }
        }
    }

    async fn do_read(&self, offset: u64, buf: Buf) -> (Buf, Result<(), IoErrorKind>) {
        if self.array.is_stopping() {
            return (buf, Err(IoErrorKind::Stopped));
        }
        self.array.note_client_io();
        let mut parts = Vec::new();
        let mut rest = buf;
        for part in self.parts(offset, u64_of(rest.len())) {
            let tail = rest.split_off(usize_of(part.len));
            parts.push((part.at, rest));
            rest = tail;
        }
        let reads = parts.into_iter().map(|(at, buf)| self.read_part(at, buf));
        let mut outcome = Ok(());
        let mut back = Vec::new();
        for (buf, result) in join_all(reads).await {
            outcome = outcome.and(result);
            back.push(buf);
        }
        (Buf::join(back), outcome)
    }

    async fn do_write(&self, offset: u64, data: SharedBuf, fua: bool) -> Result<(), IoErrorKind> {
        if self.array.is_read_only() {
            return Err(IoErrorKind::ReadOnly);
        }
        let parts = self.parts(offset, u64_of(data.len()));
        let writes = parts.into_iter().map(|part| {
            let from = usize_of(part.at - offset);
            self.write_part(part.at, data.slice(from..from + usize_of(part.len)))
        });
        let written: Result<(), IoErrorKind> = join_all(writes).await.into_iter().collect();
        written?;
        if fua {
            self.array.flush_acked().await
        } else {
            Ok(())
        }
    }

    /// [`Volume::do_zero`], to its end even if the caller gives up.
    async fn zero(
        &self,
        offset: u64,
        len: u64,
        flags: ZeroFlags,
        free: bool,
    ) -> Result<(), IoErrorKind> {
        let volume = self.clone();
        let work = async move { volume.do_zero(offset, len, flags, free).await };
        self.array
            .detached(work)
            .await
            .unwrap_or(Err(IoErrorKind::Stopped))
    }

    /// Makes a range read as zeros: whole rows lose their written bit, the rest is overwritten.
    async fn do_zero(
        &self,
        offset: u64,
        len: u64,
        flags: ZeroFlags,
        free: bool,
    ) -> Result<(), IoErrorKind> {
        let active = self.array.begin_write().await?;
        let mut emptied = Vec::new();
        for part in self.parts(offset, len) {
            if flags.no_hole {
                self.find_or_allocate(part.at).await?;
            }
            let Some((extent, _)) = self.find(part.at) else {
                continue;
            };
            let _in_use = self.array.enter_extent(extent).await;
            let Some((now, address)) = self.find(part.at) else {
                continue;
            };
            if now == extent {
                self.zero_in_extent(address, part.len).await?;
                if free && self.array.is_empty_extent(extent) {
                    emptied.push(extent);
                }
            }
        }
        self.array.settle_map().await?;
        for extent in emptied {
            self.array.free_if_empty(extent).await?;
        }
        drop(active);
        if flags.fua {
            self.array.flush_acked().await
        } else {
            Ok(())
        }
    }

    async fn zero_in_extent(&self, address: u64, len: u64) -> Result<(), IoErrorKind> {
        let row_bytes = self.array.geometry.row_bytes();
        let (mut at, end) = (address, address + len);
        while at < end {
            let (row, within) = self.array.geometry.locate(at);
            let run = (row_bytes - within).min(end - at);
            if run == row_bytes {
                self.clear_row(row).await?;
            } else if self.array.space.borrow().is_written(row) || self.array.dirty_rows.has(row) {
                let mut done = 0;
                while done < run {
                    let piece = ZERO_PIECE.min(run - done);
                    let zeros = self.array.pool.take_zeroed(usize_of(piece)).freeze();
                    self.array.write_at(at + done, zeros).await?;
                    done += piece;
                }
            }
            at += run;
        }
        Ok(())
    }

    /// Takes a row's written bit away, after the transactions before it.
    async fn clear_row(&self, row: Row) -> Result<(), IoErrorKind> {
        let written = self.array.space.borrow().is_written(row);
        if !written && !self.array.dirty_rows.has(row) && self.array.cache.is_idle(row) {
            return Ok(());
        }
        let journal = self.array.journal();
        let admission = match &journal {
            Some(journal) => Some(journal.admit(0).await?),
            None => None,
        };
        let whole = 0..self.array.geometry.chunk_blocks();
        let _lock = self.array.cache.lock(row, whole).await;
        self.array.check_alive()?;
        if let Some(journal) = journal {
            let bytes = self.array.geometry.row_bytes();
            let entry = Entry::without_payload(Kind::Discard, row.0 * bytes, bytes, Vec::new());
            let seq = self.array.log(&journal, entry, Vec::new(), admission);
            self.array.dirty_rows.revoke(row);
            self.array.heal_row(row);
            self.array.clear_by(row, seq);
        } else {
            self.array.space.borrow_mut().mark(row, false);
        }
        Ok(())
    }

    fn status_runs(&self, offset: u64, len: u64) -> Vec<StatusRun> {
        let row_bytes = self.array.geometry.row_bytes();
        let mut runs: Vec<StatusRun> = Vec::new();
        for part in self.parts(offset, len) {
            let place = self.find(part.at);
            let mut done = 0;
            while done < part.len {
                let (len, status) = match place {
                    None => (part.len, BlockStatus::Hole),
                    Some((_, address)) => {
                        let (row, within) = self.array.geometry.locate(address + done);
                        let written = self.array.space.borrow().is_written(row)
                            || self.array.dirty_rows.has(row);
                        let len = (row_bytes - within).min(part.len - done);
                        (
                            len,
                            if written {
                                BlockStatus::Data
                            } else {
                                BlockStatus::Zero
                            },
                        )
                    }
                };
                done += len;
                if let Some(last) = runs.last_mut()
                    && last.status == status
                {
                    last.len += len;
                } else if runs.len() == STATUS_RUNS_MAX {
                    return runs;
                } else {
                    runs.push(StatusRun { len, status });
                }
            }
        }
        runs
    }

    /// A read or write has ended: who works in the background steps back by how long they take.
    fn note_end(&self, asked: Asked, began: Ticks, bytes: u64, failed: bool) {
        self.array.note_request(began);
        self.count(asked, began, bytes, failed);
    }

    fn count(&self, asked: Asked, began: Ticks, bytes: u64, failed: bool) {
        let took = self.array.env.clock.now().since(began);
        let ended = Ended {
            bytes,
            took,
            failed,
        };
        self.counters.note(asked, &ended);
    }

    fn fail(&self, op: IoOp, offset: u64, len: u64) -> impl Fn(IoErrorKind) -> IoError + use<> {
        let name = self.name();
        move |kind| IoError::new(kind, &name, op, offset, len)
    }
}

impl BlockDevice for Volume {
    fn name(&self) -> Rc<str> {
        Rc::from(format!("{}/{}", self.array.shared_name(), self.name))
    }

    fn geometry(&self) -> DeviceGeometry {
        let geometry = &self.array.geometry;
        DeviceGeometry {
            size: self.size(),
            logical_block: u32::try_from(SECTOR).unwrap_or(512),
            // What isn't acked yet is old or new by such sectors.
            physical_block: u32::try_from(SECTOR).unwrap_or(512),
            io_min: u32::try_from(geometry.chunk_bytes()).unwrap_or(u32::MAX),
            io_opt: u32::try_from(geometry.row_bytes()).unwrap_or(u32::MAX),
            rotational: false,
            write_cache: true,
        }
    }

    fn read(&self, offset: u64, buf: Buf) -> LocalFuture<ReadResult> {
        let volume = self.clone();
        Box::pin(async move {
            let len = u64_of(buf.len());
            if let Err(error) = volume.check(IoOp::Read, offset, len) {
                return (buf, Err(error));
            }
            let began = volume.array.env.clock.now();
            let (buf, result) = volume.do_read(offset, buf).await;
            volume.note_end(Asked::Read, began, len, result.is_err());
            (buf, result.map_err(volume.fail(IoOp::Read, offset, len)))
        })
    }

    fn write(&self, offset: u64, data: SharedBuf, flags: WriteFlags) -> IoFuture<()> {
        let volume = self.clone();
        Box::pin(async move {
            let len = u64_of(data.len());
            volume.check(IoOp::Write, offset, len)?;
            let began = volume.array.env.clock.now();
            let work = volume.clone();
            // To its end even if the caller gives up: the row cache has it, and its extent must stay.
            let write = async move { work.do_write(offset, data, flags.fua).await };
            let written = volume.array.detached(write).await;
            let written = written.unwrap_or(Err(IoErrorKind::Stopped));
            volume.note_end(Asked::Write, began, len, written.is_err());
            written.map_err(volume.fail(IoOp::Write, offset, len))
        })
    }

    fn flush(&self) -> IoFuture<()> {
        let volume = self.clone();
        Box::pin(async move {
            let began = volume.array.env.clock.now();
            let mut flushed = volume.array.settle_commits().await;
            if flushed.is_ok() {
                flushed = volume.array.flush_acked().await;
            }
            volume.count(Asked::Flush, began, 0, flushed.is_err());
            flushed.map_err(volume.fail(IoOp::Flush, 0, 0))
        })
    }

    fn discard(&self, offset: u64, len: u64) -> IoFuture<()> {
        let volume = self.clone();
        Box::pin(async move {
            volume.check(IoOp::Discard, offset, len)?;
            let began = volume.array.env.clock.now();
            let zeroed = volume.zero(offset, len, ZeroFlags::default(), true).await;
            volume.count(Asked::Zeros, began, len, zeroed.is_err());
            zeroed.map_err(volume.fail(IoOp::Discard, offset, len))
        })
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> IoFuture<()> {
        let volume = self.clone();
        Box::pin(async move {
            volume.check(IoOp::Write, offset, len)?;
            let began = volume.array.env.clock.now();
            let zeroed = volume.zero(offset, len, flags, !flags.no_hole).await;
            volume.count(Asked::Zeros, began, len, zeroed.is_err());
            zeroed.map_err(volume.fail(IoOp::Write, offset, len))
        })
    }

    /// Whole rows are a note in the map, and what was never written needs nothing; a part of a row
    /// that was written is data.
    fn zeroes_fast(&self, offset: u64, len: u64, _: ZeroFlags) -> bool {
        let is_data = |run: &StatusRun| run.status == BlockStatus::Data;
        len >= 2 * self.array.geometry.row_bytes()
            || !self.status_runs(offset, len).iter().any(is_data)
    }

    fn block_status(&self, offset: u64, len: u64) -> IoFuture<Vec<StatusRun>> {
        let checked = self.check(IoOp::Read, offset, len);
        let runs = checked.map(|()| self.status_runs(align_down(offset, SECTOR), len));
        Box::pin(std::future::ready(runs))
    }
}

const _: () = assert!(SECTOR < BLOCK);
