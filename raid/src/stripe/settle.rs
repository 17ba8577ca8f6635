//! Rows with intents, in a replay: what a complete row holds that was on its way past the journal.
//!
//! Each block is told to be new by the intent's sum or old by the checksum, or is solved; none of it is
//! believed without a sum but one that its disk may have torn. The row is written anew by a cycle, because
//! its parity can't be trusted.
//!
//! Invariants
//! - What may have been acked is never replaced by what is older: it is lost, loudly.
//! - A block that no sum vouches for and no crash can have torn is lost, never served.

use std::collections::BTreeMap;
use std::rc::Rc;

use cairn_blockdev::units::{BLOCK, BLOCK_BYTES, u64_of, usize_of};
use cairn_blockdev::{Buf, IoErrorKind, SharedBuf};
use futures_util::future::join_all;

use super::history::{Layer, Note, RowHistory};
use super::overlay::Overlay;
use super::versions::{Blocks, Speaking};
use super::view::RowView;
use crate::array::Array;
use crate::array::flights::Patience;
use crate::defects::Reason;
use crate::geometry::{Row, Slot};
use crate::journal::entry::{Entry, Kind};
use crate::mutation::{Mutation, on};

/// Data of a row as it lies on the members that have it, whatever it is.
struct AsItLies<'a> {
    view: &'a RowView,
    /// Chunks that could be read in one piece.
    chunks: BTreeMap<Slot, SharedBuf>,
}

impl Array {
    /// Puts together what a row with an intent holds, block by block, and makes all of it dirty: its
    /// parity can't be trusted, so it is written anew as a complete row.
    pub(super) async fn settle_intents(
        self: &Rc<Self>,
        row: Row,
        history: &RowHistory,
    ) -> Result<(), IoErrorKind> {
        let mut view = self.view(row);
        // What a disk that is slow holds isn't lost.
        view.wait_for_all();
        // What follows an intent found its row in place, whatever the map on the disks says yet.
        let followed = history.intents() > 1 || !history.notes().is_empty();
        let written = self.space.borrow().is_written(row) || followed;
        let _sums = self
            .sums_ready(row, &(0..self.geometry.chunk_blocks()))
            .await?;
        let there = self.as_it_lies(&view).await;
        // Logged together: a group for each block would take twice the room.
        let mut homeless: Vec<(usize, u64, SharedBuf)> = Vec::new();
        let mut lost: Vec<(usize, u64)> = Vec::new();
        for col in 0..self.geometry.chunk_blocks() {
            let column = self.settle_column(&there, history, col, written).await;
            for (index, mut block) in column.into_iter().enumerate() {
                let in_journal = history.newest(index, &(col..col + 1)).is_some();
                if !in_journal && self.is_lost(row, index, &(col..col + 1)) {
                    // Zeros stood for it. Only what the intent announced is new.
                    let is_new =
                        |block: &SharedBuf| self.is_announced(history, (index, col), block);
                    if block.as_ref().is_some_and(is_new) {
                        self.heal(row, index, &(col..col + 1));
                    } else {
                        block = None;
                    }
                }
                let is_lost = block.is_none();
                let zeros = || self.pool.take_zeroed(BLOCK_BYTES).freeze();
                let block = block.unwrap_or_else(zeros);
                if is_lost {
                    self.note_lost(row, index, col, Reason::CutOff);
                    lost.push((index, col));
                } else if !self.is_lost(row, index, &(col..col + 1))
                    && history.newest(index, &(col..col + 1)).is_none()
                    && Self::is_homeless(&self.in_sync(), &view, index)
                {
                    // Zeros that an earlier replay put there are in the journal as what they are, and
                    // what it logged needn't be logged again.
                    homeless.push((index, col, block.clone()));
                }
                self.dirty_rows.put(row, index, col, block, history.first());
            }
        }
        if self.check_listed().is_err() {
            return Err(IoErrorKind::Lost);
        }
        for (index, col) in lost {
            self.remember_lost(row, index, col);
        }
        for (index, col, block) in homeless {
            self.remember_homeless(row, index, col, &block);
        }
        self.settled.borrow_mut().insert(row);
        if written {
            // No first write: what is in place is overwritten only once its successor is durable.
            self.space.borrow_mut().mark(row, true);
        }
        // The row is whole in memory now: nothing in place is read for it.
        Ok(())
    }

    /// Reads all data of a row as it lies there, a chunk at a time.
    async fn as_it_lies<'a>(&self, view: &'a RowView) -> AsItLies<'a> {
        let bytes = usize_of(self.geometry.chunk_bytes());
        let indexes = 0..self.geometry.data_chunks();
        let slots = indexes.flat_map(|index| view.slots_of(index));
        let chunks = slots.map(|slot| async move {
            let disk = view.reader(slot)?;
            let buf = self.pool.take(bytes);
            let patience = Patience::Eject;
            let (buf, result) = disk.read(&self.geometry, view.row, 0, buf, patience).await;
            result.ok().map(|()| (slot, buf.freeze()))
        });
        let chunks = join_all(chunks).await;
        AsItLies {
            view,
            chunks: chunks.into_iter().flatten().collect(),
        }
    }

    /// A block as it lies on a member, whatever it is; of a chunk that couldn't be read in one piece by itself.
    async fn block_in_place(
        &self,
        there: &AsItLies<'_>,
        slot: Slot,
        col: u64,
    ) -> Option<SharedBuf> {
        if let Some(chunk) = there.chunks.get(&slot) {
            let at = usize_of(col) * BLOCK_BYTES;
            return Some(chunk.slice(at..at + BLOCK_BYTES));
        }
        let block = self.read_raw_slot(there.view, slot, &(col..col + 1)).await;
        block.map(Buf::freeze)
    }

    /// What the blocks of a column of a row with intents are to hold. `None`: nobody knows.
    async fn settle_column(
        self: &Rc<Self>,
        there: &AsItLies<'_>,
        history: &RowHistory,
        col: u64,
        written: bool,
    ) -> Blocks {
        let view = there.view;
        let cols = col..col + 1;
        let count = self.geometry.data_chunks();
        let mut column: Blocks = Vec::with_capacity(count);
        // Blocks that nothing vouches for, each with what lies in place.
        let mut unsolved: Vec<(usize, Option<SharedBuf>)> = Vec::new();
        // Blocks that can be read and aren't what the last intent announced.
        let mut others: Vec<usize> = Vec::new();
        for index in 0..count {
            let mut found: Vec<SharedBuf> = Vec::new();
            for slot in view.slots_of(index) {
                found.extend(self.block_in_place(there, slot, col).await);
            }
            let block = match history.newest(index, &cols) {
                Some(newest) => Some(newest),
                None if found.is_empty() => None,
                None => self.settle_block(view, history, (index, col), &found, written),
            };
            let is_announced = |found| self.is_announced(history, (index, col), found);
            if history.newest(index, &cols).is_none()
                && !found.is_empty()
                && !found.iter().any(is_announced)
            {
                others.push(index);
            }
            if block.is_none() {
                unsolved.push((index, found.into_iter().next()));
            }
            column.push(block);
        }
        for (index, block) in self.announced(view, history, col, &column, &others).await {
            unsolved.retain(|(other, _)| *other != index);
            if let Some(place) = column.get_mut(index) {
                *place = Some(block);
            }
        }
        if unsolved.is_empty() {
            return column;
        }
        let (settled, noted) = (settled_so_far(col, &column), history.noted());
        let versions = versions_of(history, col, &settled, &noted);
        let mut solutions = self.solutions(view, col, &column, &versions).await;
        let (present, absent): (Vec<_>, Vec<_>) =
            unsolved.iter().partition(|(_, raw)| raw.is_some());
        if !present.is_empty() && !absent.is_empty() {
            // Perhaps what can't be vouched for is right all the same.
            let mut as_it_lies = column.clone();
            for (index, raw) in present {
                if let Some(place) = as_it_lies.get_mut(*index) {
                    place.clone_from(raw);
                }
            }
            solutions.extend(self.solutions(view, col, &as_it_lies, &versions).await);
        }
        let unsettled = column.clone();
        for (index, in_place) in unsolved {
            let found: Vec<SharedBuf> = solutions
                .iter()
                .filter_map(|solved| solved.get(&index).cloned())
                .collect();
            let mut block = self.settle_block(view, history, (index, col), &found, written);
            let by_replay = self.sum_by_replay(view, history, (index, col));
            let is_newest = block.as_ref().is_some_and(|block| {
                self.is_announced(history, (index, col), block)
                    || by_replay == Some(cairn_blockdev::crc::crc32c(block))
            });
            if in_place.is_none()
                && !is_newest
                && self.seems_in_place(there, history).await
                && !self
                    .is_by_replay(view, history, (index, col), &unsettled, block.as_ref())
                    .await
            {
                // It may have been acked: what is older must not stand for it.
                block = None;
            } else if block.is_none() {
                // What lies in place and fits nothing is mixed by sectors, and was never acked, unless its
                // disk mixes nothing: then it has rotted. What was never written before its intent never
                // held anything.
                let zeros = || self.pool.take_zeroed(BLOCK_BYTES).freeze();
                // And what a cycle found in place was no more on its way; and what is on the bad-block list was no
                // good before.
                let known = self.sum_before(history, (index, col)).is_some();
                let noted = !history.notes().is_empty();
                let rotten = noted || self.is_listed(view.row, index, col);
                block = if written {
                    in_place.filter(|_| !rotten && (!known || may_be_torn(view, index)))
                } else {
                    Some(zeros())
                };
            }
            if let Some(place) = column.get_mut(index) {
                *place = block;
            }
        }
        column
    }

    /// Whether a block is what the row's last intent announced.
    fn is_announced(
        &self,
        history: &RowHistory,
        (index, col): (usize, u64),
        block: &SharedBuf,
    ) -> bool {
        let at = usize_of(u64_of(index) * self.geometry.chunk_blocks() + col);
        let sum = history.last_intent().and_then(|sums| sums.get(at));
        Some(&cairn_blockdev::crc::crc32c(block)) == sum
    }

    /// The sum of what the row's last intent was to overwrite, durable at that time.
    fn sum_before(&self, history: &RowHistory, (index, col): (usize, u64)) -> Option<u32> {
        let at = usize_of(u64_of(index) * self.geometry.chunk_blocks() + col);
        let blocks = usize_of(self.geometry.row_bytes() / BLOCK);
        history.last_intent()?.get(blocks + at).copied()
    }

    /// The sum of what an earlier replay put in place, by the pages, if it was neither what the row's intent announced
    /// nor what that was to overwrite: it came from older records, and these may be gone while the intent is still
    /// there. With one intent alone: the pages may be older than what a second one found. And with that replay's note:
    /// a page may also be stale, or have been begun anew.
    fn sum_by_replay(
        &self,
        view: &RowView,
        history: &RowHistory,
        (index, col): (usize, u64),
    ) -> Option<u32> {
        let replayed = history
            .settled()
            .iter()
            .any(|note| note.cols.contains(&col));
        if history.intents() != 1 || !replayed || self.sums_say_nothing(view.row, col) {
            return None;
        }
        let at = usize_of(u64_of(index) * self.geometry.chunk_blocks() + col);
        let announced = history.last_intent()?.get(at).copied();
        let before = self.sum_before(history, (index, col))?;
        let slot = self.geometry.data_slot(view.row, index);
        let page = self.expected_sum(view.row, col, slot);
        page.filter(|sum| Some(*sum) != announced && *sum != before)
    }

    /// Whether an earlier replay put such a block in the row, by the parity in place: every sector of that is what the
    /// replay's note announced.
    async fn is_by_replay(
        &self,
        view: &RowView,
        history: &RowHistory,
        (index, col): (usize, u64),
        column: &Blocks,
        block: Option<&SharedBuf>,
    ) -> bool {
        let mut notes = history.settled().iter();
        let Some(note) = notes.find(|note| note.cols.contains(&col)) else {
            return false;
        };
        let settled = settled_so_far(col, column);
        let versions = [(&settled, note)];
        let is_noted = |parity: &Speaking| parity.of.iter().all(|version| *version == 0);
        let solutions = self.solutions_of(view, col, column, &versions, is_noted);
        let solutions = solutions.await;
        let mut solved = solutions.iter().filter_map(|solved| solved.get(&index));
        block.is_some_and(|block| solved.any(|solved| solved[..] == block[..]))
    }

    /// Those of a column's blocks that lie in place as something else than the last intent announced, and
    /// are what it announced by the other blocks and parity. Such a block has rotted, or its write was
    /// lost, after the row was in place: it may have been acked, and durable, and nothing older stands for it.
    async fn announced(
        &self,
        view: &RowView,
        history: &RowHistory,
        col: u64,
        column: &Blocks,
        others: &[usize],
    ) -> BTreeMap<usize, SharedBuf> {
        let mut wanted = column.clone();
        for index in others {
            if let Some(place) = wanted.get_mut(*index) {
                *place = None;
            }
        }
        let unknown = wanted.iter().filter(|block| block.is_none()).count();
        if others.is_empty() || unknown > self.geometry.redundancy() {
            return BTreeMap::new();
        }
        let (settled, noted) = (settled_so_far(col, &wanted), history.noted());
        let versions = versions_of(history, col, &settled, &noted);
        let solutions = self.solutions(view, col, &wanted, &versions).await;
        let found = solutions.into_iter().flatten();
        found
            .filter(|(index, block)| {
                others.contains(index) && self.is_announced(history, (*index, col), block)
            })
            .collect()
    }

    /// Whether every block that can be read is what the row's last intent announced, or newer. What is logged after
    /// it comes to its place by a cycle, with a note: without one, what lies there has to be the intent's.
    async fn seems_in_place(self: &Rc<Self>, there: &AsItLies<'_>, history: &RowHistory) -> bool {
        let Some(sums) = history.last_intent() else {
            return false;
        };
        let may_be_newer = !history.notes().is_empty() || !history.settled().is_empty();
        let mut all = sums.iter();
        for index in 0..self.geometry.data_chunks() {
            for col in 0..self.geometry.chunk_blocks() {
                let sum = all.next();
                let cols = col..col + 1;
                if may_be_newer && history.newest(index, &cols).is_some() {
                    continue;
                }
                for slot in there.view.slots_of(index) {
                    let block = self.block_in_place(there, slot, col).await;
                    if block.is_some_and(|block| Some(&cairn_blockdev::crc::crc32c(&block)) != sum)
                    {
                        return false;
                    }
                }
            }
        }
        true
    }

    /// Which of what was found a block is to hold, or a record's: what was found must match a sum.
    fn settle_block(
        &self,
        view: &RowView,
        history: &RowHistory,
        (index, col): (usize, u64),
        found: &[SharedBuf],
        written: bool,
    ) -> Option<SharedBuf> {
        let cols = col..col + 1;
        let at = usize_of(u64_of(index) * self.geometry.chunk_blocks() + col);
        let noted = !history.notes().is_empty();
        let mut followed = false;
        for layer in history.layers().iter().rev() {
            match layer {
                Layer::Data(overlay) => {
                    if let Some(data) = overlay.get(index, &cols) {
                        return Some(data);
                    }
                }
                Layer::Intent(_) if on(Mutation::OldRecordOverBypass) => {}
                Layer::Intent(sums) => {
                    let sum = sums.get(at);
                    let fits =
                        |block: &&SharedBuf| Some(&cairn_blockdev::crc::crc32c(block)) == sum;
                    if let Some(block) = found.iter().find(fits) {
                        return Some(block.clone());
                    }
                    if noted {
                        // It was in place, durably: what lies there as something else has rotted.
                        return None;
                    }
                    if followed {
                        // Its row was in place when the next one began: nothing older counts.
                        break;
                    }
                    followed = true;
                }
            }
        }
        if !written {
            return None;
        }
        let slot = self.geometry.data_slot(view.row, index);
        let before = self.sum_before(history, (index, col));
        let expected = self
            .sum_by_replay(view, history, (index, col))
            .or(before)
            .or_else(|| self.expected_sum(view.row, col, slot));
        let old = found
            .iter()
            .find(|block| expected.is_some_and(|sum| cairn_blockdev::crc::crc32c(block) == sum));
        old.cloned()
    }

    /// Logs that zeros take the place of a lost block: the next replay must not find them in parity and
    /// hold them for data.
    fn remember_lost(self: &Rc<Self>, row: Row, index: usize, col: u64) {
        if let Some(journal) = self.journal() {
            let chunk = u64_of(index) * self.geometry.chunk_bytes();
            let at = row.0 * self.geometry.row_bytes() + chunk + col * BLOCK;
            let entry = Entry::without_payload(Kind::Zero, at, BLOCK, Vec::new());
            self.log(&journal, entry, Vec::new(), None);
        }
    }

    /// Logs a block that has no member to go to: the row's parity is about to be written over, and a
    /// stop in the middle of that must find the block somewhere. Its room was admitted with the row's
    /// intent.
    fn remember_homeless(self: &Rc<Self>, row: Row, index: usize, col: u64, block: &SharedBuf) {
        if let Some(journal) = self.journal() {
            let chunk = u64_of(index) * self.geometry.chunk_bytes();
            let at = row.0 * self.geometry.row_bytes() + chunk + col * BLOCK;
            let entry = Entry::with_payload(Kind::Data, at, block);
            self.log(&journal, entry, vec![block.clone()], None);
        }
    }
}

/// Whether a crash may have left a mixture of two writes in a data block of a chunk.
fn may_be_torn(view: &RowView, index: usize) -> bool {
    let mut disks = view.slots_of(index).filter_map(|slot| view.reader(slot));
    disks.any(|disk| !disk.writes_blocks_whole())
}

/// What is known by now of how a replay puts a column together.
fn settled_so_far(col: u64, column: &Blocks) -> Overlay {
    let mut settled = Overlay::new(column.len());
    for (index, block) in column.iter().enumerate() {
        if let Some(block) = block {
            settled.put(index, col, block.clone());
        }
    }
    settled
}

/// What parity may speak of beside what lies in place: an earlier replay may have begun to put the column
/// together, a cycle before it something else.
fn versions_of<'a>(
    history: &'a RowHistory,
    col: u64,
    settled: &'a Overlay,
    noted: &'a Overlay,
) -> Vec<(&'a Overlay, &'a Note)> {
    let speaks = |note: &&Note| note.cols.contains(&col);
    let replays = history.settled().iter().find(speaks);
    let cycles = history.notes().iter().find(speaks);
    let replays = replays.map(|note| (settled, note));
    let cycles = cycles.map(|note| (noted, note));
    replays.into_iter().chain(cycles).collect()
}
