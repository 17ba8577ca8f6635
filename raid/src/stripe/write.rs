//! Writes: into the row cache, and out of it.
//!
//! Queued writes of a row leave together. With a journal each is logged and acked, and the row is
//! applied later ([`super::apply`]); complete rows go straight to the members ([`super::bypass`]).
//! Without one, a transaction plans, reads, computes parity and writes all of it before the ack, and
//! an unclean stop is answered by recomputing parity (raid/README.md, Without a journal).
//!
//! Invariants
//! - An ack follows the record and all before it on R+1 members, or, without a journal, every write
//!   of the transaction; and the durable ejection of every disk that failed one.
//! - The first write to a row writes all of it, zero-filled, and its written bit is on the disks
//!   after the data, and without a journal before the ack.
//! - What is logged enters the newest contents of its row in the same breath.

use std::rc::Rc;

use cairn_blockdev::units::{BLOCK, BLOCK_BYTES, align_down, u64_of, usize_of};
use cairn_blockdev::{IoErrorKind, SharedBuf, WriteFlags};
use futures_util::future::join_all;
use tokio::sync::oneshot;

use super::bypass::{Bypassed, Whole};
use super::cache::{Lock, Pending};
use super::turn::Turn;
use crate::array::Array;
use crate::geometry::{Columns, Row};
use crate::journal::entry::{Entry, Kind};
use crate::journal::log::{Journal, RECORD_PAYLOAD_MAX};
use crate::mutation::{Mutation, on};

/// Turns that a row waits at most for neighbours of its queued writes: a stream of small requests
/// must not keep the first of them waiting.
const GATHER_TURNS_MAX: u32 = 8;

impl Array {
    /// Writes to the array's address space; returns when it is applied.
    pub(crate) async fn write_at(
        self: &Rc<Self>,
        offset: u64,
        data: SharedBuf,
    ) -> Result<(), IoErrorKind> {
        let _active = self.begin_write().await?;
        let mut waits = Vec::new();
        let mut done = 0;
        while done < data.len() {
            let (row, within) = self.geometry.locate(offset + u64_of(done));
            let left = usize_of(self.geometry.row_bytes() - within);
            let len = left.min(data.len() - done);
            waits.push(self.queue(row, within, data.slice(done..done + len)));
            done += len;
        }
        let mut outcome = Ok(());
        for wait in waits {
            outcome = outcome.and(wait.await.unwrap_or(Err(IoErrorKind::Stopped)));
        }
        outcome
    }

    fn queue(
        self: &Rc<Self>,
        row: Row,
        within: u64,
        data: SharedBuf,
    ) -> oneshot::Receiver<Result<(), IoErrorKind>> {
        let (done, wait) = oneshot::channel();
        let cols = self.columns(within, u64_of(data.len()));
        if self.cache.queue(
            row,
            Pending {
                within,
                data,
                cols,
                done,
            },
        ) {
            self.start_row(row);
        }
        wait
    }

    /// Columns that a range of a row's data touches, as one run.
    fn columns(&self, within: u64, len: u64) -> Columns {
        let pieces = self.geometry.pieces(within, len);
        let ends = pieces.map(|piece| {
            (
                piece.in_chunk / BLOCK,
                (piece.in_chunk + piece.len).div_ceil(BLOCK),
            )
        });
        let hull = ends.reduce(|(a, b), (start, end)| (a.min(start), b.max(end)));
        hull.map_or(0..0, |(start, end)| start..end)
    }

    fn start_row(self: &Rc<Self>, row: Row) {
        let array = Rc::clone(self);
        self.env
            .spawn
            .spawn(Box::pin(async move { array.run_row(row).await }));
    }

    /// Takes what is queued for a row and sees it through.
    async fn run_row(self: Rc<Self>, row: Row) {
        match self.journal() {
            Some(journal) => self.log_row(row, &journal).await,
            None => self.run_transaction(row).await,
        }
    }

    /// Logs what is queued for a row; a complete row goes to the members at once.
    async fn log_row(self: &Rc<Self>, row: Row, journal: &Rc<Journal>) {
        self.gather_neighbours(row).await;
        let batch = self.cache.take_all(row);
        // In place it would have to wait for a disk that is slow; in the journal it doesn't.
        let in_place = !self.has_slow_disk() && self.may_bypass(row, journal);
        if in_place && self.whole_with(row, &batch).is_some() {
            let outcome = self.bypass(row, journal, &batch).await;
            if outcome != Ok(Bypassed::Outdated) {
                for pending in batch {
                    // A client that is gone doesn't mind.
                    let _ = pending.done.send(outcome.map(|_| ()));
                }
                return;
            }
        }
        join_all(batch.into_iter().map(|pending| async move {
            let result = self.log_write(row, journal, &pending).await;
            let _ = pending.done.send(result);
        }))
        .await;
    }

    /// What makes a complete row of the writes, if anything does: a stream that isn't row-aligned has
    /// the beginning of a row in the journal when the rest of it comes.
    pub(super) fn whole_with(&self, row: Row, batch: &[Pending]) -> Option<Whole> {
        let mut ranges: Vec<(u64, u64)> = batch
            .iter()
            .map(|pending| (pending.within, pending.within + u64_of(pending.data.len())))
            .collect();
        if self.covers_row(&mut ranges) {
            return Some(Whole::Batch);
        }
        // A block that is lost in a crash must be one that is being overwritten as a whole, or be in the
        // journal as it is announced: the rest of one that is written in part may be durable.
        let aligned = |p: &Pending| {
            p.within.is_multiple_of(BLOCK) && u64_of(p.data.len()).is_multiple_of(BLOCK)
        };
        if !batch.iter().all(aligned) {
            return None;
        }
        let bytes: u64 = batch.iter().map(|p| u64_of(p.data.len())).sum();
        // Less is cheaper in the journal: its ack needs no write in place. And zeros that stand for a
        // lost block are logged as well: they must not come to be its contents.
        if bytes < self.geometry.row_bytes() / 2
            || !self.dirty_rows.has(row)
            || self.has_losses(row)
        {
            return None;
        }
        let chunk = self.geometry.chunk_bytes();
        let logged = self.logged_of_row(row);
        ranges.extend(logged.iter().map(|(index, col, data)| {
            let start = u64_of(*index) * chunk + col * BLOCK;
            (start, start + u64_of(data.len()))
        }));
        self.covers_row(&mut ranges).then_some(Whole::WithLogged)
    }

    /// What is logged of a row and not in place, piece by piece: data index, column, bytes.
    pub(super) fn logged_of_row(&self, row: Row) -> Vec<(usize, u64, SharedBuf)> {
        let whole = 0..self.geometry.chunk_blocks();
        let pieces = (0..self.geometry.data_chunks()).flat_map(|index| {
            let covers = self.dirty_rows.cover(row, index, &whole).into_iter();
            covers.filter_map(move |cover| Some((index, cover.cols.start, cover.data?)))
        });
        pieces.collect()
    }

    /// Whether the ranges together cover every byte of a row.
    fn covers_row(&self, ranges: &mut [(u64, u64)]) -> bool {
        ranges.sort_unstable();
        let reached = ranges.iter().try_fold(0, |reached, (start, end)| {
            (*start <= reached).then_some(reached.max(*end))
        });
        reached == Some(self.geometry.row_bytes())
    }

    /// Logs one write: acked once its records, and all before them, are on R+1 members.
    async fn log_write(
        self: &Rc<Self>,
        row: Row,
        journal: &Rc<Journal>,
        pending: &Pending,
    ) -> Result<(), IoErrorKind> {
        let start = align_down(pending.within, BLOCK);
        let end = (pending.within + u64_of(pending.data.len())).next_multiple_of(BLOCK);
        let admission = journal.admit(usize_of(end - start)).await?;
        let blocks = loop {
            self.check_alive()?;
            // Of these alone: a client that writes elsewhere in the row all the time is none to wait for.
            let edges = Self::partial_blocks(pending).into_iter();
            let edges = edges.flat_map(|edge| self.geometry.pieces(edge, BLOCK));
            let edges = edges.map(|piece| (piece.index, piece.in_chunk / BLOCK));
            let pin = self.dirty_rows.pin_blocks(row, edges.collect());
            let blocks = self.whole_blocks(row, pending).await?;
            // What the rest of a partly written block was read from may be old by now.
            if !pin.is_outdated() {
                break blocks;
            }
        };
        // What is counted as its memory is what it holds, until it is in place.
        let blocks = self.pool.compact(blocks);
        let mut admission = Some(admission);
        let mut at = start;
        let mut next = journal.next();
        let mut from = 0;
        while from < blocks.len() {
            let len = (blocks.len() - from).min(RECORD_PAYLOAD_MAX);
            let part = blocks.slice(from..from + len);
            let entry =
                Entry::with_payload(Kind::Data, row.0 * self.geometry.row_bytes() + at, &part);
            let seq = self.log(journal, entry, vec![part.clone()], admission.take());
            for piece in self.geometry.pieces(at, u64_of(len)) {
                let begin = usize_of(piece.in_request);
                let data = part.slice(begin..begin + usize_of(piece.len));
                let col = piece.in_chunk / BLOCK;
                self.heal(row, piece.index, &(col..col + piece.len / BLOCK));
                self.dirty_rows
                    .put(row, piece.index, piece.in_chunk / BLOCK, data, seq);
            }
            next = journal.next();
            at += u64_of(len);
            from += len;
        }
        if !on(Mutation::AckBeforeJournal) {
            journal.logged_below(next).await?;
        }
        self.kick_apply_if_crowded(journal);
        self.before_ack().await
    }

    /// Where in its row the blocks begin that a write changes a part of.
    fn partial_blocks(pending: &Pending) -> Vec<u64> {
        let start = align_down(pending.within, BLOCK);
        let write_end = pending.within + u64_of(pending.data.len());
        let end = write_end.next_multiple_of(BLOCK);
        let mut edges = Vec::new();
        if start != pending.within {
            edges.push(start);
        }
        if end != write_end && edges.first() != Some(&(end - BLOCK)) {
            edges.push(end - BLOCK);
        }
        edges
    }

    /// A write as whole blocks; what it leaves of its first and last block is read.
    async fn whole_blocks(
        self: &Rc<Self>,
        row: Row,
        pending: &Pending,
    ) -> Result<SharedBuf, IoErrorKind> {
        let start = align_down(pending.within, BLOCK);
        let write_end = pending.within + u64_of(pending.data.len());
        let end = write_end.next_multiple_of(BLOCK);
        if start == pending.within && end == write_end {
            return Ok(self.aligned(&pending.data));
        }
        let mut blocks = self.pool.take(usize_of(end - start));
        let edges = Self::partial_blocks(pending);
        let base = row.0 * self.geometry.row_bytes();
        for edge in edges {
            let buf = self.pool.take(BLOCK_BYTES);
            let (old, result) = self.read_at(base + edge, buf).await;
            result?;
            let at = usize_of(edge - start);
            if let Some(to) = blocks.get_mut(at..at + BLOCK_BYTES) {
                to.copy_from_slice(&old);
            }
        }
        let at = usize_of(pending.within - start);
        if let Some(to) = blocks.get_mut(at..at + pending.data.len()) {
            to.copy_from_slice(&pending.data);
        }
        Ok(blocks.freeze())
    }

    /// Without a journal: one transaction of a row, with what is queued by the time that it can run.
    async fn run_transaction(self: &Rc<Self>, row: Row) {
        let permit = self.memory.acquire(self.row_cost).await;
        self.gather_neighbours(row).await;
        let Some(lock) = self.lock_for_write(row).await else {
            return;
        };
        let (batch, more) = lock.take_queued();
        if more {
            self.start_row(row);
        }
        let result = self.transact(row, &lock, &batch).await;
        drop((lock, permit));
        for pending in batch {
            // A client that is gone doesn't mind.
            let _ = pending.done.send(result);
        }
    }

    /// Lets requests that are on their way reach the queue, as long as each turn brings some and the
    /// row isn't complete: group commit without a timer.
    async fn gather_neighbours(&self, row: Row) {
        let mut before = 0;
        for _ in 0..GATHER_TURNS_MAX {
            let queued = self.cache.queued_bytes(row);
            if queued == before || queued >= self.geometry.row_bytes() {
                return;
            }
            before = queued;
            Turn::default().await;
        }
    }

    /// Locks what the queue touches; the whole row if it was never written.
    async fn lock_for_write(self: &Rc<Self>, row: Row) -> Option<Lock> {
        let whole = 0..self.geometry.chunk_blocks();
        let mut widened = false;
        loop {
            let hull = self.cache.hull(row)?;
            let written = self.space.borrow().is_written(row);
            let cols = if written { hull } else { whole.clone() };
            let lock = self.cache.lock(row, cols).await;
            // The row may have been trimmed while this waited.
            let enough = *lock.cols() == whole || self.space.borrow().is_written(row);
            // What came to the queue meanwhile may make the row complete: worth one more wait.
            let hull = self.cache.hull(row)?;
            let grown = hull.start < lock.cols().start || lock.cols().end < hull.end;
            if enough && (widened || !grown) {
                return Some(lock);
            }
            widened = true;
        }
    }

    async fn transact(
        self: &Rc<Self>,
        row: Row,
        lock: &Lock,
        batch: &[Pending],
    ) -> Result<(), IoErrorKind> {
        self.check_alive()?;
        let mut view = self.view(row);
        let fresh = !self.space.borrow().is_written(row);
        let mut overlay = self.gather(&mut view, fresh, &[], batch).await?;
        if fresh {
            self.fill_with_zeros(&mut overlay);
        }
        overlay.coalesce(&self.pool);
        let parity = self.parity_of_overlay(&mut view, &overlay).await?;
        self.check_alive()?;
        let writes = Self::data_writes(&view, &overlay).into_iter();
        let writes = writes.chain(Self::parity_writes(&view, &parity));
        let writes = writes.map(|write| (row, write));
        self.write_all(writes, WriteFlags::default()).await?;
        if fresh {
            self.space.borrow_mut().mark(row, true);
            self.checkpoint().await?;
        }
        if !view.distrusted().is_empty() {
            self.repair(&mut view, lock.cols()).await;
        }
        self.before_ack().await
    }
}
