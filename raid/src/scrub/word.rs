//! What a scrub does with some columns of a row: read all of every member, compare, and mend what is
//! wrong by what verifies.
//!
//! With checksums a block is *good* if it matches its sum, and a *word* (one column of all members) is
//! solved from good blocks alone. What comes out is right if it matches its sum, or if it is what was
//! read: then the page was stale, and the page is mended. Parity follows from data once all data of
//! the word is right, and never before (fault D8: parity that is computed from a rotten block makes
//! the rot final).
//!
//! Without checksums a block is good if it can be read. Blocks that can't are solved and rewritten; a
//! word whose parity doesn't match its data is counted and left as it is, because nothing says which
//! of its blocks is wrong.
//!
//! Does not know: rows that were never written, the pace, the order of rows.

use std::rc::Rc;

use cairn_blockdev::units::{BLOCK_BYTES, u32_of, u64_of, usize_of};
use cairn_blockdev::{Buf, SharedBuf};
use futures_util::future::join_all;

use super::{Found, Looked, Piece};
use crate::array::disk::is_late;
use crate::array::flights::Patience;
use crate::array::{Array, vouch::Vouched};
use crate::defects::{Defect, Place, Reason};
use crate::events::EventKind;
use crate::geometry::{Columns, Role, Row, Set, Slot};
use crate::level::Level;
use crate::parity::{Word, compute_p, compute_q};
use crate::stripe::view::RowView;

/// One member's blocks of the columns.
struct Shelf {
    slot: Slot,
    role: Role,
    /// All columns; empty if the slot has no member.
    data: Buf,
    /// Columns, from the first of the piece on, that couldn't be read.
    unread: Vec<bool>,
    present: bool,
}

impl Shelf {
    /// A block, if it was read. `at` counts from the first column of the piece.
    fn block(&self, at: usize) -> Option<&[u8]> {
        if !self.present || self.unread.get(at) == Some(&true) {
            return None;
        }
        self.data.get(at * BLOCK_BYTES..(at + 1) * BLOCK_BYTES)
    }

    fn whole(&self) -> Option<&[u8]> {
        (self.present && !self.unread.contains(&true)).then(|| &*self.data)
    }
}

/// One column of a row.
struct Column<'a> {
    view: &'a RowView,
    col: u64,
    /// From the first column of the piece.
    at: usize,
    shelves: &'a [Shelf],
}

impl<'a> Column<'a> {
    fn cols(&self) -> Columns {
        self.col..self.col + 1
    }

    fn of(&self, role: Role) -> Option<&'a Shelf> {
        self.shelves.iter().find(|shelf| shelf.role == role)
    }

    fn row(&self) -> Row {
        self.view.row
    }

    fn path(&self, slot: Slot) -> Option<&'a str> {
        self.view.reader(slot).map(|disk| &*disk.path)
    }
}

/// The data of a word, and how it was come by.
struct Right {
    data: Vec<Buf>,
}

impl Array {
    /// Looks at a piece under its columns' lock.
    pub(super) async fn look_at(self: &Rc<Self>, piece: &Piece) -> Result<Looked, String> {
        let members = u64_of(self.geometry.members());
        let blocks = (piece.cols.end - piece.cols.start) * members;
        let cost = u32::try_from(blocks).unwrap_or(u32::MAX);
        // What is read, and what is solved beside it.
        let cost = cost.saturating_mul(2);
        let _memory = self.memory.acquire(cost).await;
        let _lock = self.cache.lock(piece.row, piece.cols.clone()).await;
        if self.check_alive().is_err() {
            return Ok(Looked::Later);
        }
        if !self.space.borrow().is_written(piece.row) {
            return Ok(Looked::Done(Found::default()));
        }
        let vouched = self.vouch_for(piece.row, &piece.cols).await?;
        let view = self.view(piece.row);
        let Some(shelves) = self.shelves(&view, &piece.cols).await else {
            return Ok(Looked::Later);
        };
        if self.all_is_well(&view, &piece.cols, &shelves, &vouched) {
            self.found_good(piece.row, &piece.cols, Set::first(self.geometry.members()));
            return Ok(Looked::Done(Found::default()));
        }
        let mut found = Found::default();
        for (at, col) in piece.cols.clone().enumerate() {
            let column = Column {
                view: &view,
                col,
                at,
                shelves: &shelves,
            };
            let what = if self.geometry.level() == Level::Raid1 {
                self.mend_mirrors(&column, &vouched).await
            } else {
                self.mend_word(&column, &vouched).await
            };
            found.add(what);
        }
        if found.unrepairable > 0 && self.save_defects().await.is_err() {
            return Ok(Looked::Later);
        }
        Ok(Looked::Done(found))
    }

    /// Reads columns of every member. `None` if one of them is slow, or was thrown out meanwhile.
    async fn shelves(self: &Rc<Self>, view: &RowView, cols: &Columns) -> Option<Vec<Shelf>> {
        let slots = (0..self.geometry.members()).map(Slot);
        let reads = slots.map(|slot| self.shelf(view, slot, cols));
        join_all(reads).await.into_iter().collect()
    }

    async fn shelf(self: &Rc<Self>, view: &RowView, slot: Slot, cols: &Columns) -> Option<Shelf> {
        let count = usize_of(cols.end - cols.start);
        let mut shelf = Shelf {
            slot,
            role: self.geometry.role(view.row, slot),
            data: self.pool.take(0),
            unread: vec![false; count],
            present: false,
        };
        if view.left_out().has(slot.0) {
            return None;
        }
        let Some(disk) = view.reader(slot) else {
            return Some(shelf);
        };
        shelf.present = true;
        let buf = self.pool.take(count * BLOCK_BYTES);
        let patience = Patience::Reconstruct;
        let read = disk.read(&self.geometry, view.row, cols.start, buf, patience);
        let (buf, result) = read.await;
        shelf.data = buf;
        match result {
            Ok(()) => return (!disk.out.get()).then_some(shelf),
            Err(error) if is_late(&error) || disk.out.get() => return None,
            Err(error) if count == 1 => {
                self.read_failed(disk, &error);
                shelf.unread = vec![true];
                return (!disk.out.get()).then_some(shelf);
            }
            // Which of them it is: block by block.
            Err(_) => {}
        }
        for (at, col) in cols.clone().enumerate() {
            let block = self.pool.take(BLOCK_BYTES);
            let read = disk.read(&self.geometry, view.row, col, block, patience);
            match read.await {
                (block, Ok(())) => {
                    let to = shelf.data.get_mut(at * BLOCK_BYTES..(at + 1) * BLOCK_BYTES);
                    if let Some(to) = to {
                        to.copy_from_slice(&block);
                    }
                }
                (_, Err(error)) if is_late(&error) => return None,
                (_, Err(error)) => {
                    self.read_failed(disk, &error);
                    if disk.out.get() {
                        return None;
                    }
                    if let Some(unread) = shelf.unread.get_mut(at) {
                        *unread = true;
                    }
                }
            }
        }
        Some(shelf)
    }

    /// Whether everything is here, matches its sums, and parity matches data: the common case, in
    /// whole buffers.
    fn all_is_well(
        &self,
        view: &RowView,
        cols: &Columns,
        shelves: &[Shelf],
        vouched: &Vouched,
    ) -> bool {
        let mut blocks: Vec<&[u8]> = Vec::with_capacity(shelves.len());
        for shelf in shelves {
            match shelf.whole() {
                Some(data) if self.is_vouched(vouched, view.row, shelf.slot, cols.start, data) => {
                    blocks.push(data);
                }
                _ => return false,
            }
        }
        if self.geometry.level() == Level::Raid1 {
            return blocks.windows(2).all(|pair| pair.first() == pair.last());
        }
        let data = self.data_of(shelves, |shelf| shelf.whole());
        let Some(data) = data.into_iter().collect::<Option<Vec<_>>>() else {
            return false;
        };
        shelves.iter().all(|shelf| match shelf.role {
            Role::Data(_) => true,
            role => {
                let mut parity = self.pool.take(shelf.data.len());
                parity_into(role, &data, &mut parity);
                *parity == *shelf.data
            }
        })
    }

    /// What `of` says of each data chunk's shelf, in their order.
    fn data_of<'a, T>(
        &self,
        shelves: &'a [Shelf],
        of: impl Fn(&'a Shelf) -> Option<T>,
    ) -> Vec<Option<T>> {
        (0..self.geometry.data_chunks())
            .map(|index| {
                let shelf = shelves.iter().find(|s| s.role == Role::Data(index))?;
                of(shelf)
            })
            .collect()
    }

    /// A block that is good.
    fn good<'a>(
        &self,
        column: &Column<'a>,
        shelf: &'a Shelf,
        vouched: &Vouched,
    ) -> Option<&'a [u8]> {
        let block = shelf.block(column.at)?;
        self.is_vouched(vouched, column.row(), shelf.slot, column.col, block)
            .then_some(block)
    }

    // --- RAID 5 and 6

    async fn mend_word(self: &Rc<Self>, column: &Column<'_>, vouched: &Vouched) -> Found {
        if vouched.says_nothing(column.col) {
            return self.adopt(column);
        }
        let mut found = Found::default();
        let Some(right) = self.right_data(column, vouched, &mut found) else {
            return found;
        };
        for (index, data) in right.data.iter().enumerate() {
            if let Some(shelf) = column.of(Role::Data(index)) {
                found.add(self.mend_block(column, shelf, data, vouched).await);
            }
        }
        let mut differs = false;
        for role in [Role::P, Role::Q] {
            let Some(shelf) = column.of(role) else {
                continue;
            };
            let parity = self.parity_of(role, &right.data);
            if vouched.has_sums() || shelf.block(column.at).is_none() {
                found.add(self.mend_block(column, shelf, &parity, vouched).await);
            } else {
                differs |= shelf.block(column.at) != Some(&*parity);
            }
        }
        if differs {
            found.add(self.left_as_it_is(column, "its parity doesn't match its data"));
        }
        found
    }

    /// All data of a word, every block of it right; or what is lost is put on the list.
    fn right_data(
        &self,
        column: &Column<'_>,
        vouched: &Vouched,
        found: &mut Found,
    ) -> Option<Right> {
        let good = |role: Role| {
            let shelf = column.of(role)?;
            self.good(column, shelf, vouched)
        };
        let copy = |block: &[u8]| {
            let mut buf = self.pool.take(BLOCK_BYTES);
            buf.copy_from_slice(block);
            buf
        };
        let count = self.geometry.data_chunks();
        let mut word = Word {
            data: (0..count).map(|i| good(Role::Data(i)).map(copy)).collect(),
            p: good(Role::P).map(copy),
            q: good(Role::Q).map(copy),
        };
        let here: Set = (0..count)
            .filter(|i| word.data.get(*i).is_some_and(Option::is_some))
            .fold(Set::EMPTY, Set::with);
        let unknown = Set::first(count).minus(here);
        let parities = usize::from(word.p.is_some()) + usize::from(word.q.is_some());
        let solved = word.solve_data(|| self.pool.take(BLOCK_BYTES)).is_ok();
        let wrong: Set = if solved {
            let wrong = unknown.iter().filter(|index| {
                let data = word.data.get(*index).and_then(Option::as_ref);
                !data.is_some_and(|data| self.is_right(column, *index, data, vouched))
            });
            wrong.fold(Set::EMPTY, Set::with)
        } else {
            unknown
        };
        for index in wrong.iter() {
            found.add(self.lost(column, index));
        }
        if !wrong.is_empty() {
            return None;
        }
        let right = Right {
            data: word.data.into_iter().collect::<Option<_>>()?,
        };
        // Without sums, a parity that wasn't needed is the only witness against what was solved.
        if !vouched.has_sums() && !unknown.is_empty() && parities > unknown.len() {
            for role in [Role::P, Role::Q] {
                let stored = good(role);
                if stored.is_some_and(|stored| stored != &*self.parity_of(role, &right.data)) {
                    found.add(self.left_as_it_is(
                        column,
                        "what P and Q give for the block that can't be read differs",
                    ));
                    return None;
                }
            }
        }
        Some(right)
    }

    /// Whether what was solved for a data block is what was written there.
    fn is_right(&self, column: &Column<'_>, index: usize, data: &[u8], vouched: &Vouched) -> bool {
        let slot = self.geometry.data_slot(column.row(), index);
        if self.is_vouched(vouched, column.row(), slot, column.col, data) {
            return true;
        }
        // It is what was read: redundancy and disk agree against the page.
        let read = column
            .of(Role::Data(index))
            .and_then(|shelf| shelf.block(column.at));
        read == Some(data)
    }

    /// Sees to it that a block holds `right`, and its page says so.
    async fn mend_block(
        self: &Rc<Self>,
        column: &Column<'_>,
        shelf: &Shelf,
        right: &[u8],
        vouched: &Vouched,
    ) -> Found {
        let (row, slot) = (column.row(), shelf.slot);
        if !shelf.present {
            return Found::default();
        }
        let read = shelf.block(column.at);
        let sum_matches = self.is_vouched(vouched, row, slot, column.col, right);
        if read == Some(right) {
            if sum_matches {
                self.found_good(row, &column.cols(), Set::EMPTY.with(slot.0));
                return Found::default();
            }
            self.note_blocks(row, slot, column.col, right);
            self.found_good(row, &column.cols(), Set::EMPTY.with(slot.0));
            let detail = format!(
                "row {} column {}: the block is right and its checksum was old; mended",
                row.0, column.col
            );
            self.tell_finding(EventKind::Repaired, column.path(slot), detail);
            return Found {
                repaired: 1,
                mismatched: 1,
                unrepairable: 0,
            };
        }
        let mismatched = u64::from(read.is_some());
        let mut buf = self.pool.take(BLOCK_BYTES);
        buf.copy_from_slice(right);
        let repaired = self
            .rewrite(column, slot, buf.freeze(), read.is_some())
            .await;
        Found {
            repaired: u64::from(repaired),
            mismatched,
            unrepairable: 0,
        }
    }

    /// Writes a block in place, to everybody who has a place for it. A disk that can't is ejected.
    async fn rewrite(
        self: &Rc<Self>,
        column: &Column<'_>,
        slot: Slot,
        data: SharedBuf,
        was_read: bool,
    ) -> bool {
        let row = column.row();
        let mut written = false;
        for disk in column.view.writers(slot) {
            if disk.out.get() {
                continue;
            }
            if was_read {
                disk.count(|errors| errors.corruption += 1);
            }
            match disk
                .write(&self.geometry, row, column.col, data.clone())
                .await
            {
                Ok(()) => {
                    written = true;
                    let why = if was_read {
                        "it wasn't what was written there"
                    } else {
                        "it couldn't be read"
                    };
                    let detail = format!("row {} column {} rewritten: {why}", row.0, column.col);
                    self.tell_finding(EventKind::Repaired, Some(&disk.path), detail);
                }
                Err(error) => self.write_failed(disk, &error).await,
            }
        }
        if written {
            self.note_blocks(row, slot, column.col, &data);
            self.found_good(row, &column.cols(), Set::EMPTY.with(slot.0));
        }
        written
    }

    // --- RAID 1

    async fn mend_mirrors(self: &Rc<Self>, column: &Column<'_>, vouched: &Vouched) -> Found {
        if vouched.says_nothing(column.col) {
            return self.adopt(column);
        }
        let good = |shelf| self.good(column, shelf, vouched);
        let mut copies = column.shelves.iter().filter_map(good);
        let Some(first) = copies.next() else {
            return self.lost(column, 0);
        };
        if copies.any(|copy| copy != first) {
            return self.left_as_it_is(column, "its mirrors differ");
        }
        let mut found = Found::default();
        for shelf in column.shelves {
            found.add(self.mend_block(column, shelf, first, vouched).await);
        }
        found
    }

    // --- what can't be mended

    /// Puts a data block on the list.
    fn lost(&self, column: &Column<'_>, index: usize) -> Found {
        let slot = self.geometry.data_slot(column.row(), index);
        let shelf = column.of(Role::Data(index));
        let read = shelf.is_some_and(|shelf| shelf.block(column.at).is_some());
        let reason = if read {
            Reason::Mismatch
        } else {
            Reason::Unreadable
        };
        let place = Place {
            row: column.row(),
            col: u32_of(usize_of(column.col)),
            slot,
        };
        let since_ms = self.env.clock.unix_ms();
        if self
            .defects
            .borrow_mut()
            .note(place, Defect { since_ms, reason })
        {
            let detail = format!(
                "row {} column {} of slot {} is lost: {reason}; write it anew, or restore it from a \
                 copy (`cairn array show` tells which volume)",
                column.row().0,
                column.col,
                slot.0
            );
            self.tell_finding(EventKind::BadBlock, column.path(slot), detail);
        }
        Found {
            repaired: 0,
            mismatched: u64::from(read),
            unrepairable: 1,
        }
    }

    /// Nothing says which block of a word is wrong.
    fn left_as_it_is(&self, column: &Column<'_>, why: &str) -> Found {
        let detail = format!(
            "row {} column {}: {why}, and the array has no checksums that would tell which block is \
             wrong; nothing was changed",
            column.row().0,
            column.col
        );
        self.tell_finding(EventKind::Mismatch, None, detail);
        Found {
            mismatched: 1,
            ..Found::default()
        }
    }

    /// The word's page is lost with all its copies. If every block can be read and redundancy agrees
    /// with all of them, they are taken for what was written; otherwise nothing vouches for any.
    fn adopt(&self, column: &Column<'_>) -> Found {
        let blocks: Vec<Option<&[u8]>> = column
            .shelves
            .iter()
            .map(|shelf| shelf.block(column.at))
            .collect();
        let whole = self.agrees(column);
        if let (true, Some(blocks)) = (whole, blocks.into_iter().collect::<Option<Vec<_>>>()) {
            for (shelf, block) in column.shelves.iter().zip(blocks) {
                self.note_blocks(column.row(), shelf.slot, column.col, block);
            }
            return Found {
                repaired: 1,
                mismatched: 1,
                unrepairable: 0,
            };
        }
        let mut found = Found::default();
        for index in 0..self.geometry.data_chunks() {
            found.add(self.lost(column, index));
        }
        found
    }

    /// Whether all blocks of a word are here and agree with each other.
    fn agrees(&self, column: &Column<'_>) -> bool {
        if self.geometry.level() == Level::Raid1 {
            let mut blocks = column.shelves.iter().map(|shelf| shelf.block(column.at));
            let first = blocks.next().flatten();
            return first.is_some() && blocks.all(|block| block == first);
        }
        let data = self.data_of(column.shelves, |shelf| shelf.block(column.at));
        let Some(data) = data.into_iter().collect::<Option<Vec<_>>>() else {
            return false;
        };
        column.shelves.iter().all(|shelf| match shelf.role {
            Role::Data(_) => true,
            role => {
                let mut parity = self.pool.take(BLOCK_BYTES);
                parity_into(role, &data, &mut parity);
                shelf.block(column.at) == Some(&*parity)
            }
        })
    }

    /// Blocks that were on the list because they couldn't be had, and now can.
    fn found_good(&self, row: Row, cols: &Columns, slots: Set) {
        let mut defects = self.defects.borrow_mut();
        if defects.total() == 0 {
            return;
        }
        let back: Vec<Place> = defects
            .in_columns(row, cols)
            .filter(|(place, defect)| {
                // What the others stand for holds zeros in its place, which verify.
                slots.has(place.slot.0)
                    && matches!(defect.reason, Reason::Unreadable | Reason::Mismatch)
            })
            .map(|(place, _)| place)
            .collect();
        for place in back {
            let col = u64::from(place.col);
            defects.heal(row, &(col..col + 1), Set::EMPTY.with(place.slot.0));
        }
    }
}

/// P or Q of complete data.
fn parity_into(role: Role, data: &[&[u8]], parity: &mut [u8]) {
    let sources = data.iter().copied();
    match role {
        Role::P => compute_p(sources, parity),
        Role::Q => compute_q(sources, parity),
        Role::Data(_) => unreachable!("parity of a data role"),
    }
}
