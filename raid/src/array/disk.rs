//! A disk of the array as the engine uses it: its device, where its zones lie, how far it is
//! rebuilt, and what it has done wrong.
//!
//! Does not know: other disks, states in the label, what to do about an error.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use cairn_blockdev::units::{BLOCK, u64_of};
use cairn_blockdev::{
    BlockDevice, Buf, IoError, IoErrorKind, IoOp, ReadResult, SharedBuf, Ticks, WriteFlags,
};
use uuid::Uuid;

use super::budget::Budget;
use super::flights::{Flights, Patience};
use super::missed::SharedMap;
use super::watch::{Operation, Watched};
use crate::geometry::{Geometry, Row};
use crate::layout::Layout;
use crate::mutation::{Mutation, on};

/// Errors of a disk since the array was started, by kind, as btrfs counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ErrorCounts {
    /// Failed reads.
    pub read: u64,
    /// Failed writes.
    pub write: u64,
    /// Failed flushes.
    pub flush: u64,
    /// Reads with blocks whose checksum was wrong.
    pub corruption: u64,
    /// Blocks that were older than they should be.
    pub generation: u64,
    /// Operations that got no answer in time.
    pub timeouts: u64,
}

/// How far a disk is filled: rows below the watermark, and single rows above it. A member that is
/// caught up also has all that it didn't miss.
#[derive(Default)]
pub(crate) struct Progress {
    watermark: u64,
    above: BTreeSet<u64>,
    missed: Option<SharedMap>,
}

impl Progress {
    /// Everything below `row` is done.
    pub(crate) fn starting_at(row: u64) -> Self {
        Self {
            watermark: row,
            above: BTreeSet::new(),
            missed: None,
        }
    }

    /// The same, where only what is in the map is lacking.
    pub(crate) fn catching_up(self, missed: SharedMap) -> Self {
        Self {
            missed: Some(missed),
            ..self
        }
    }

    /// Whether it has less to get than everything.
    pub(crate) fn is_catching_up(&self) -> bool {
        self.missed.is_some()
    }

    pub(crate) fn has(&self, row: Row) -> bool {
        let missed = |map: &SharedMap| map.borrow().contains(row);
        row.0 < self.watermark
            || self.above.contains(&row.0)
            || !self.missed.as_ref().is_none_or(missed)
    }

    /// The first row at or after `row` that may be lacking.
    pub(crate) fn next_lacking(&self, row: Row) -> Option<Row> {
        let mut at = row.max(self.watermark());
        loop {
            if let Some(map) = &self.missed {
                at = map.borrow().next(at)?;
            }
            if !self.above.contains(&at.0) {
                return Some(at);
            }
            at = Row(at.0 + 1);
        }
    }

    pub(crate) fn watermark(&self) -> Row {
        Row(self.watermark)
    }

    /// Notes that `row` is done; the watermark moves over what is done without a gap.
    pub(crate) fn mark(&mut self, row: Row) {
        if row.0 >= self.watermark {
            self.above.insert(row.0);
        }
        while self.above.remove(&self.watermark) {
            self.watermark += 1;
        }
    }

    /// Everything below `row` needs nothing: moves the watermark there.
    pub(crate) fn skip_to(&mut self, row: Row) {
        self.watermark = self.watermark.max(row.0);
        self.above = self.above.split_off(&self.watermark);
        while self.above.remove(&self.watermark) {
            self.watermark += 1;
        }
    }
}

/// A live disk.
pub(crate) struct Disk {
    pub(crate) uuid: Uuid,
    pub(crate) path: Rc<str>,
    device: Watched,
    pub(crate) size: u64,
    /// `None` on a spare, which has no zones yet.
    pub(crate) layout: Cell<Option<Layout>>,
    pub(crate) progress: RefCell<Progress>,
    /// Generation of the last label that it has whole.
    pub(crate) labelled: Cell<u64>,
    /// Generation of the last journal header that was written to it, and of the last that is durable.
    header: Cell<u64>,
    flushed_header: Cell<u64>,
    /// It is an older image of a member: what it misses isn't known.
    pub(crate) outdated: Cell<bool>,
    /// It is a journal disk: it has a ring, and nothing of the rest.
    pub(crate) ring_only: Cell<bool>,
    /// The operator throws it out.
    pub(crate) held_out: Cell<bool>,
    /// Rows filled and flushed: what a label may say.
    pub(crate) durable_rows: Cell<u64>,
    /// Set at the first sign of an ejection, so that nothing new is planned on it.
    pub(crate) out: Cell<bool>,
    /// The first flush of it that failed.
    failed_flush: RefCell<Option<IoError>>,
    errors: Cell<ErrorCounts>,
    budget: RefCell<Budget>,
    /// It is beyond its budget, and stays because the array can't do without it.
    pub(crate) needed: Cell<bool>,
}

impl Disk {
    pub(crate) fn new(
        uuid: Uuid,
        path: Rc<str>,
        device: Watched,
        layout: Option<Layout>,
    ) -> Rc<Self> {
        let size = device.geometry().size;
        device.flights().belongs_to(uuid);
        Rc::new(Self {
            uuid,
            path,
            device,
            size,
            layout: Cell::new(layout),
            progress: RefCell::default(),
            labelled: Cell::new(0),
            header: Cell::new(0),
            flushed_header: Cell::new(0),
            outdated: Cell::new(false),
            ring_only: Cell::new(false),
            held_out: Cell::new(false),
            durable_rows: Cell::new(0),
            out: Cell::new(false),
            failed_flush: RefCell::default(),
            errors: Cell::default(),
            budget: RefCell::default(),
            needed: Cell::new(false),
        })
    }

    /// Starts filling at `row`; everything below is there, durably.
    pub(crate) fn start_filling_at(&self, row: u64) {
        *self.progress.borrow_mut() = Progress::starting_at(row);
        self.durable_rows.set(row);
    }

    /// Whether it holds what `row` has in its slot, for a disk that is being filled.
    pub(crate) fn has(&self, row: Row) -> bool {
        self.progress.borrow().has(row) || on(Mutation::StaleMemberRead)
    }

    /// Lacks only what is in the map, of what it lacks.
    pub(crate) fn catch_up(&self, missed: SharedMap) {
        let progress = self.progress.take();
        *self.progress.borrow_mut() = progress.catching_up(missed);
    }

    pub(crate) fn errors(&self) -> ErrorCounts {
        ErrorCounts {
            timeouts: self.flights().timeouts(),
            ..self.errors.get()
        }
    }

    /// Counts an error by its operation. What timed out is counted already.
    pub(crate) fn count_error(&self, error: &IoError) {
        if is_late(error) {
            return;
        }
        self.count(|errors| match error.op {
            IoOp::Read | IoOp::Open => errors.read += 1,
            IoOp::Write | IoOp::Discard => errors.write += 1,
            IoOp::Flush => errors.flush += 1,
        });
    }

    /// Changes the counters.
    pub(crate) fn count(&self, change: impl FnOnce(&mut ErrorCounts)) {
        let mut errors = self.errors.get();
        change(&mut errors);
        self.errors.set(errors);
    }

    /// What it was asked and hasn't answered.
    pub(crate) fn flights(&self) -> &Rc<Flights> {
        self.device.flights()
    }

    /// Whether it owes an answer for longer than the first deadline: what can go elsewhere does.
    pub(crate) fn is_slow(&self) -> bool {
        self.flights().is_slow()
    }

    /// The whole disk, watched: for labels and zones.
    pub(crate) fn device(&self) -> &dyn BlockDevice {
        &self.device
    }

    /// Notes a failed read; true if the disk is gone, or has failed in more than `places_max` places.
    ///
    /// One that came too late isn't a medium error: whether the disk hangs is for the watch to say.
    pub(crate) fn read_failed(&self, error: &IoError, now: Ticks, places_max: u32) -> bool {
        self.count_error(error);
        if is_late(error) {
            return false;
        }
        if error.kind == IoErrorKind::Gone {
            return true;
        }
        let mut budget = self.budget.borrow_mut();
        budget.note(error.offset, error.len, now, places_max)
    }

    fn offset(&self, geometry: &Geometry, row: Row, col: u64) -> u64 {
        let data = self.layout.get().map_or(0, |layout| layout.data_offset());
        assert!(
            data != 0,
            "I/O to the data zone of a disk that has none: {}",
            self.path
        );
        data + row.0 * geometry.chunk_bytes() + col * BLOCK
    }

    /// Reads whole blocks of this disk's chunk of `row` from column `col`.
    pub(crate) fn read(
        &self,
        geometry: &Geometry,
        row: Row,
        col: u64,
        buf: Buf,
        patience: Patience,
    ) -> Operation<ReadResult> {
        assert!(col * BLOCK + u64_of(buf.len()) <= geometry.chunk_bytes());
        self.read_at(self.offset(geometry, row, col), buf, patience)
    }

    /// Writes whole blocks of this disk's chunk of `row` from column `col`.
    pub(crate) fn write(
        &self,
        geometry: &Geometry,
        row: Row,
        col: u64,
        data: SharedBuf,
    ) -> Operation<Result<(), IoError>> {
        self.write_with(geometry, row, col, data, WriteFlags::default())
    }

    /// The same, through the disk's cache if that is wanted.
    pub(crate) fn write_with(
        &self,
        geometry: &Geometry,
        row: Row,
        col: u64,
        data: SharedBuf,
        flags: WriteFlags,
    ) -> Operation<Result<(), IoError>> {
        assert!(col * BLOCK + u64_of(data.len()) <= geometry.chunk_bytes());
        self.write_at(self.offset(geometry, row, col), data, flags)
    }

    /// Reads anywhere on the disk: zones and labels.
    pub(crate) fn read_at(
        &self,
        offset: u64,
        buf: Buf,
        patience: Patience,
    ) -> Operation<ReadResult> {
        self.device.read_at(offset, buf, patience)
    }

    /// Writes anywhere on the disk: zones and labels.
    pub(crate) fn write_at(
        &self,
        offset: u64,
        data: SharedBuf,
        flags: WriteFlags,
    ) -> Operation<Result<(), IoError>> {
        self.device.write_at(offset, data, flags)
    }

    /// Makes every write that has completed durable. Fails for ever once it has failed.
    pub(crate) async fn flush(&self) -> Result<(), IoError> {
        let header = self.header.get();
        let flushed = self.device.flush_cache().await;
        // Also for who asks now and whose own flush succeeded: it may be that one's writes that are lost.
        if let Some(error) = self.failed_flush() {
            return Err(error);
        }
        if let Err(error) = flushed {
            self.failed_flush.replace(Some(error.clone()));
            return Err(error);
        }
        self.flushed_header
            .set(header.max(self.flushed_header.get()));
        Ok(())
    }

    /// The first flush of it that failed: what it had in its cache then may be gone, whatever a later one says
    /// (fault D3).
    pub(crate) fn failed_flush(&self) -> Option<IoError> {
        self.failed_flush.borrow().clone()
    }

    /// A journal header of this generation was written to it.
    pub(crate) fn note_header(&self, generation: u64) {
        self.header.set(generation);
    }

    /// A journal header of this generation was found on it. After a kill it may be in its cache only.
    pub(crate) fn found_header(&self, generation: u64) {
        self.header.set(generation);
    }

    /// Generation of the journal header that was found on it or written to it; 0 if there is none.
    pub(crate) fn header(&self) -> u64 {
        self.header.get()
    }

    /// The labels say that it had a header of this generation, durably.
    pub(crate) fn had_header(&self, generation: u64) {
        let durable = generation.min(self.header.get());
        self.flushed_header
            .set(durable.max(self.flushed_header.get()));
    }

    /// Generation of its journal header that is durable; 0 if that isn't known.
    pub(crate) fn durable_header(&self) -> u64 {
        if self.has_write_cache() {
            self.flushed_header.get()
        } else {
            self.header.get()
        }
    }

    /// Whether a crash leaves every block as it was before a write of it or after, and never a mixture.
    pub(crate) fn writes_blocks_whole(&self) -> bool {
        u64::from(self.device.geometry().physical_block) >= BLOCK && !on(Mutation::WholeBlockTorn)
    }

    /// Whether writes need a flush before they are durable.
    pub(crate) fn has_write_cache(&self) -> bool {
        self.device.geometry().write_cache
    }
}

/// Whether an answer didn't come within the deadline. A time-out that the system reports has an
/// error number: then the disk has answered, badly.
pub(crate) fn is_late(error: &IoError) -> bool {
    error.kind == IoErrorKind::TimedOut && error.errno.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::missed::{MapId, MapShape, MissedMap};

    #[test]
    fn the_watermark_moves_over_what_is_done_without_a_gap() {
        let mut progress = Progress::starting_at(3);
        progress.mark(Row(5));
        assert!(progress.has(Row(2)) && progress.has(Row(5)) && !progress.has(Row(4)));
        progress.mark(Row(3));
        assert_eq!(progress.watermark(), Row(4));
        progress.mark(Row(4));
        assert_eq!(progress.watermark(), Row(6));
        progress.mark(Row(9));
        progress.skip_to(Row(9));
        assert_eq!(progress.watermark(), Row(10));
        progress.mark(Row(11));
        assert_eq!(progress.next_lacking(Row(11)), Some(Row(12)));
    }

    #[test]
    fn a_member_that_is_caught_up_lacks_only_what_it_missed() {
        let id = MapId {
            array: Uuid::nil(),
            member: Uuid::nil(),
            number: 1,
        };
        let mut map = MissedMap::new(id, MapShape::new(1000, 1 << 20), 0);
        for row in [10, 11, 500] {
            map.insert(Row(row));
        }
        let map = Rc::new(RefCell::new(map));
        let mut progress = Progress::starting_at(0).catching_up(Rc::clone(&map));
        assert!(progress.has(Row(9)) && !progress.has(Row(10)) && progress.has(Row(12)));
        progress.mark(Row(10));
        assert!(progress.has(Row(10)));
        assert_eq!(progress.next_lacking(Row(0)), Some(Row(11)));
        progress.skip_to(Row(11));
        progress.mark(Row(11));
        assert_eq!(progress.next_lacking(Row(0)), Some(Row(500)));
        // What is flushed leaves the map; nothing else changes.
        map.borrow_mut().clear_below(progress.watermark());
        assert!(progress.has(Row(11)) && !progress.has(Row(500)));
    }
}
