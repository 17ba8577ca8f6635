//! What a commit does to the rows, now and at replay.
//!
//! Zeros and discards take effect as zeros, in the same breath as their commit; whole rows of zeros are
//! cleared behind it, and a discard's empty extents given back, as a plain discard would: that changes
//! nothing that can be read, and is a record of its own.

use std::rc::Rc;

use cairn_blockdev::units::{BLOCK, u64_of, usize_of};
use cairn_blockdev::{IoErrorKind, SharedBuf};

use crate::array::Array;
use crate::geometry::Row;
use crate::journal::entry::{Entry, Kind, Seq};
use crate::logs::log::{Held, Log};
use crate::space::{ExtentId, Owner};
use crate::stripe::dirty::Pin;

/// A part of an operation in one row.
struct RowPart {
    row: Row,
    /// First byte in the row's data.
    within: u64,
    len: u64,
    /// Where it begins in the operation.
    at: u64,
}

impl Array {
    /// Where an operation's range lies now; what isn't mapped is left out.
    fn row_parts(&self, entry: &Entry) -> Vec<RowPart> {
        let space = self.space.borrow();
        let Some(volume) = space.volume_by_mark(entry.arg) else {
            return Vec::new();
        };
        let row_bytes = self.geometry.row_bytes();
        let mut parts = Vec::new();
        let (mut at, end) = (entry.offset, entry.offset.saturating_add(entry.len));
        while at < end {
            let run = space.run_in_extent(at).min(end - at);
            let (owner, within) = space.place(volume, at);
            if let Some(extent) = space.find(owner) {
                let address = space.extent_offset(extent) + within;
                let mut done = 0;
                while done < run {
                    let (row, within) = self.geometry.locate(address + done);
                    let len = (row_bytes - within).min(run - done);
                    let at = at - entry.offset + done;
                    parts.push(RowPart {
                        row,
                        within,
                        len,
                        at,
                    });
                    done += len;
                }
            }
            at += run;
        }
        parts
    }

    /// Gives `put` the new contents that an operation has for rows: whole blocks of a chunk. Zeros only
    /// for rows that `has_data` says hold anything.
    pub(crate) fn effects_of(
        &self,
        held: &Held,
        has_data: impl Fn(Row) -> bool,
        mut put: impl FnMut(Row, usize, u64, SharedBuf),
    ) {
        let data = match held.entry.kind {
            Kind::Data => held.payload.first(),
            Kind::Zero | Kind::Discard => None,
            _ => return,
        };
        let zeros = usize_of(self.geometry.chunk_bytes());
        let mut zeros = data
            .is_none()
            .then(|| self.pool.take_zeroed(zeros).freeze());
        for part in self.row_parts(&held.entry) {
            if data.is_none() && !has_data(part.row) {
                continue;
            }
            for piece in self.geometry.pieces(part.within, part.len) {
                let len = usize_of(piece.len);
                let block = match (data, &mut zeros) {
                    (Some(data), _) => {
                        let from = usize_of(part.at + piece.in_request);
                        data.slice(from..from + len)
                    }
                    (None, Some(zeros)) => zeros.slice(0..len),
                    (None, None) => continue,
                };
                put(part.row, piece.index, piece.in_chunk / BLOCK, block);
            }
        }
    }

    /// Makes what was committed at `lane` the newest contents.
    pub(super) fn put_effects(self: &Rc<Self>, effects: &[Rc<Held>], lane: Seq) {
        for held in effects {
            let has_data = |row| self.space.borrow().is_written(row) || self.dirty_rows.has(row);
            self.effects_of(held, has_data, |row, index, col, data| {
                self.heal(row, index, &(col..col + u64_of(data.len()) / BLOCK));
                self.dirty_rows.put(row, index, col, data, lane);
            });
            if matches!(held.entry.kind, Kind::Zero | Kind::Discard) {
                self.clear_behind(held);
            }
        }
    }

    /// Starts to clear the whole rows of what was just committed as zeros.
    fn clear_behind(self: &Rc<Self>, held: &Rc<Held>) {
        let row_bytes = self.geometry.row_bytes();
        let mut rows: Vec<(Row, Pin)> = Vec::new();
        for part in self.row_parts(&held.entry) {
            if part.len == row_bytes && self.dirty_rows.has(part.row) {
                rows.push((part.row, self.dirty_rows.pin(part.row)));
            }
        }
        let (array, held) = (Rc::clone(self), Rc::clone(held));
        self.env.spawn.spawn(Box::pin(async move {
            // An error is a stop or a loss: the rows stay as they are, zeros.
            let _ = array.clear_rows(&held, rows).await;
        }));
    }

    async fn clear_rows(
        self: &Rc<Self>,
        held: &Held,
        rows: Vec<(Row, Pin)>,
    ) -> Result<(), IoErrorKind> {
        let active = self.begin_write().await?;
        for (row, pin) in rows {
            self.clear_zero_row(row, pin).await?;
        }
        if held.entry.kind == Kind::Discard {
            self.settle_map().await?;
            for (owner, extent) in self.extents_under(&held.entry) {
                let same = self.space.borrow().find(owner) == Some(extent);
                if same && self.is_empty_extent(extent) {
                    self.free_if_empty(extent).await?;
                }
            }
        }
        drop(active);
        Ok(())
    }

    /// Takes a row's written bit away, if it still holds the zeros that it held when `pin` was made.
    async fn clear_zero_row(self: &Rc<Self>, row: Row, pin: Pin) -> Result<(), IoErrorKind> {
        let Some(journal) = self.journal() else {
            return Ok(());
        };
        let admission = journal.admit(0).await?;
        let whole = 0..self.geometry.chunk_blocks();
        let _lock = self.cache.lock(row, whole).await;
        self.check_alive()?;
        if pin.is_outdated() {
            return Ok(());
        }
        let bytes = self.geometry.row_bytes();
        let entry = Entry::without_payload(Kind::Discard, row.0 * bytes, bytes, Vec::new());
        let seq = self.log(&journal, entry, Vec::new(), Some(admission));
        self.dirty_rows.revoke(row);
        self.heal_row(row);
        self.clear_by(row, seq);
        Ok(())
    }

    /// The extents that lie under an operation's range.
    fn extents_under(&self, entry: &Entry) -> Vec<(Owner, ExtentId)> {
        let space = self.space.borrow();
        let Some(volume) = space.volume_by_mark(entry.arg) else {
            return Vec::new();
        };
        let mut extents = Vec::new();
        let (mut at, end) = (entry.offset, entry.offset.saturating_add(entry.len));
        while at < end {
            let (owner, _) = space.place(volume, at);
            extents.extend(space.find(owner).map(|extent| (owner, extent)));
            at += space.run_in_extent(at).min(end - at);
        }
        extents
    }

    /// Pins what pending writes need: they are mapped since before the stop.
    pub(crate) fn pin_pending(&self) {
        let mut book = self.logs.book.borrow_mut();
        for id in book.ids() {
            let pending = book.get(id).into_iter().flat_map(Log::pending);
            let needs: Vec<(u64, Vec<ExtentId>)> = pending
                .filter(|(_, held)| held.entry.kind == Kind::Data)
                .map(|(seq, held)| {
                    let extents = self.extents_under(&held.entry).into_iter();
                    (seq, extents.map(|(_, extent)| extent).collect())
                })
                .collect();
            for (seq, pins) in needs {
                book.pin(&pins);
                if let Some(log) = book.get_mut(id) {
                    log.set_pins(seq, pins);
                }
            }
        }
    }

    /// Whether a pending write needs an extent.
    pub(crate) fn is_pinned(&self, extent: ExtentId) -> bool {
        self.logs.book.borrow().pins(extent)
    }
}

/// Bytes of a payload.
pub(super) fn payload_bytes(payload: &[SharedBuf]) -> u64 {
    payload.iter().map(|part| u64_of(part.len())).sum()
}
