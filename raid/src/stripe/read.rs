//! Reads: straight from the members into the caller's memory; around what is lost or fails.
//!
//! Healthy reads take no lock: what they race with isn't acked yet, and each 512-byte sector is old
//! or new. A read that needs other members of the row takes the lock of its columns, because parity
//! and data disagree while a transaction is on its way.

use std::rc::Rc;

use cairn_blockdev::units::{BLOCK, align_down, u64_of, usize_of};
use cairn_blockdev::{Buf, IoErrorKind, SharedBuf};
use futures_util::future::join_all;

use super::view::{Unread, Why};
use super::word::bytes_of;
use crate::array::Array;
use crate::array::disk::is_late;
use crate::array::flights::Patience;
use crate::geometry::{Columns, Row, Set, Slot};
use crate::mutation::{Mutation, on};

/// Where a part of a read comes from.
enum Source {
    /// Never written.
    Zeros,
    /// Lost: what stands in its place is no data.
    Nobody,
    /// Logged, and newer than the members.
    Memory(SharedBuf),
    /// Some columns of a chunk.
    Members(Row, usize, Columns),
}

impl Array {
    /// Fills `buf` from the array's address space.
    pub(crate) async fn read_at(
        self: &Rc<Self>,
        offset: u64,
        mut buf: Buf,
    ) -> (Buf, Result<(), IoErrorKind>) {
        let len = u64_of(buf.len());
        if offset.is_multiple_of(BLOCK) && len.is_multiple_of(BLOCK) {
            return self.read_blocks(offset, buf).await;
        }
        let start = align_down(offset, BLOCK);
        let skip = usize_of(offset - start);
        let whole = (skip + buf.len()).next_multiple_of(usize_of(BLOCK));
        let (blocks, result) = self.read_blocks(start, self.pool.take(whole)).await;
        if result.is_ok()
            && let Some(part) = blocks.get(skip..skip + buf.len())
        {
            buf.copy_from_slice(part);
        }
        (buf, result)
    }

    /// A block that is given up while it is read may be found as the zeros that take its place; then the
    /// list is asked again, and what was written over it meanwhile is found.
    async fn read_blocks(
        self: &Rc<Self>,
        offset: u64,
        mut buf: Buf,
    ) -> (Buf, Result<(), IoErrorKind>) {
        loop {
            let known = self.losses_noted();
            let (back, result) = self.read_blocks_once(offset, buf).await;
            let seen = self.losses_noted() == known || on(Mutation::LossUnseenByRead);
            if result.is_err() || seen {
                return (back, result);
            }
            buf = back;
        }
    }

    async fn read_blocks_once(
        self: &Rc<Self>,
        offset: u64,
        buf: Buf,
    ) -> (Buf, Result<(), IoErrorKind>) {
        let mut parts = Vec::new();
        let mut rest = buf;
        let mut at = offset;
        while !rest.is_empty() {
            let (row, within) = self.geometry.locate(at);
            let row_left = self.geometry.row_bytes() - within;
            let row_len = row_left.min(u64_of(rest.len()));
            let mut of_row = rest;
            rest = of_row.split_off(usize_of(row_len));
            at += row_len;
            let written = self.space.borrow().is_written(row);
            if !written && !self.dirty_rows.has(row) {
                parts.push((of_row, Source::Zeros));
                continue;
            }
            for piece in self.geometry.pieces(within, row_len) {
                let first = piece.in_chunk / BLOCK;
                let cols = first..first + piece.len / BLOCK;
                if self.is_lost(row, piece.index, &cols) {
                    let tail = of_row.split_off(usize_of(piece.len));
                    parts.push((of_row, Source::Nobody));
                    of_row = tail;
                    continue;
                }
                for cover in self.dirty_rows.cover(row, piece.index, &cols) {
                    let tail = of_row.split_off(bytes_of(&cover.cols));
                    let source = match cover.data {
                        Some(data) => Source::Memory(data),
                        None if written => Source::Members(row, piece.index, cover.cols),
                        None => Source::Zeros,
                    };
                    parts.push((of_row, source));
                    of_row = tail;
                }
            }
        }
        let reads = parts.into_iter().map(|(mut buf, source)| async move {
            match source {
                Source::Zeros => {
                    buf.fill(0);
                    (buf, Ok(()))
                }
                Source::Nobody => (buf, Err(IoErrorKind::Lost)),
                Source::Memory(data) => {
                    buf.copy_from_slice(&data);
                    (buf, Ok(()))
                }
                Source::Members(row, index, cols) => self.read_chunk(row, index, cols, buf).await,
            }
        });
        let mut outcome = Ok(());
        let mut back = Vec::new();
        for (buf, result) in join_all(reads).await {
            outcome = outcome.and(result);
            back.push(buf);
        }
        (Buf::join(back), outcome)
    }

    async fn read_chunk(
        self: &Rc<Self>,
        row: Row,
        index: usize,
        cols: Columns,
        mut buf: Buf,
    ) -> (Buf, Result<(), IoErrorKind>) {
        let mut refused = None;
        if let Some(disk) = self.reader(row, index) {
            let (back, result) = disk
                .read(&self.geometry, row, cols.start, buf, Patience::Reconstruct)
                .await;
            match result {
                Ok(()) => {
                    if let Some(slot) = self.slot_read(row, index, &disk)
                        && let Ok(true) = self.verified(row, slot, &cols, &back).await
                    {
                        return (back, Ok(()));
                    }
                    // Rotten, or written anew meanwhile: the lock of its columns tells.
                    buf = back;
                }
                Err(error) => {
                    self.read_failed(&disk, &error);
                    // One that is out by now has nothing to be mended.
                    refused = self
                        .slot_read(row, index, &disk)
                        .filter(|_| !is_late(&error));
                    buf = back;
                }
            }
        }
        let array = Rc::clone(self);
        // To its end even if the caller gives up: it may be in the middle of a repair.
        let around = async move {
            let result = array
                .read_around((row, index), &cols, refused, &mut buf)
                .await;
            (buf, result)
        };
        match self.detached(around).await {
            Some(end) => end,
            // The engine is going down and takes this task along.
            None => std::future::pending().await,
        }
    }

    /// Reads a chunk's columns under their lock, from whoever can give them, and repairs whoever
    /// should have and didn't: also the disk in slot `refused`, which gave an error before the lock was taken.
    async fn read_around(
        self: &Rc<Self>,
        (row, index): (Row, usize),
        cols: &Columns,
        refused: Option<Slot>,
        buf: &mut Buf,
    ) -> Result<(), IoErrorKind> {
        let _lock = self.cache.lock(row, cols.clone()).await;
        if !self.space.borrow().is_written(row) {
            buf.fill(0);
            return Ok(());
        }
        let _sums = self.sums_at_hand(row, cols).await?;
        let mut view = self.view(row);
        let wanted = Set::EMPTY.with(index);
        if let Some(slot) = refused.filter(|_| self.has_sums()) {
            let why = Why::Refused;
            view.leave_out(Unread { slot, why });
        }
        let mut loaded = self.load_data(&mut view, cols, wanted).await;
        if loaded.is_err() && refused.is_some() {
            // The others don't suffice: perhaps it gives it after all.
            view = self.view(row);
            loaded = self.load_data(&mut view, cols, wanted).await;
        }
        if loaded.is_err() && self.sums_are_partial(row, cols) {
            // The one copy of their sums that was at hand may be old: then nothing is wrong but that.
            let _sums = self.sums_ready(row, cols).await?;
            view = self.view(row);
            loaded = self.load_data(&mut view, cols, wanted).await;
        }
        let mut data = loaded?;
        let chunk = data
            .get_mut(index)
            .and_then(Option::take)
            .ok_or(IoErrorKind::Lost)?;
        buf.copy_from_slice(&chunk);
        self.repair(&mut view, cols).await;
        if let Some(slot) = refused.filter(|slot| !view.refused(*slot)) {
            // It gave it this time.
            self.refresh(&view, slot, cols).await;
        }
        Ok(())
    }
}
