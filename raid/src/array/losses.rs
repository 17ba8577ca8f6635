//! Blocks that nothing here can give any more.
//!
//! A lost block must not hold up its neighbours: parity, rebuild and the journal's trim go on as if it
//! held zeros, and the bad-block list says that it doesn't. A read of it fails until it is written.
//!
//! Invariants
//! - The list is durable before zeros take a lost block's place in parity or on a disk.
//! - Zeros for a lost block are logged as a zero record; only data heals. So a replay ends with the
//!   same list.
//! - A healed block leaves the list on the disks before the record that healed it is trimmed, and before its row gets
//!   another intent: only of the last one a start can tell whether it is in place.

use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use cairn_blockdev::IoErrorKind;
use cairn_blockdev::units::{BLOCK, BLOCK_BYTES, u32_of, u64_of, usize_of};

use super::Array;
use super::disk::is_late;
use super::flights::Patience;
use crate::defects::{Defect, ENTRIES_MAX, Place, Reason};
use crate::error::RaidError;
use crate::events::EventKind;
use crate::geometry::{Columns, Row, Set, Slot};
use crate::journal::entry::{Entry, Kind};
use crate::stripe::view::RowView;

/// How long a row waits for checksums that can't be had before it is looked at without them.
const LOOK_AFTER: Duration = Duration::from_secs(10);
/// How long it may wait for a disk that is slow meanwhile, in a start, and how often that is tried.
const LOOK_PATIENCE: Duration = Duration::from_secs(90);
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How often it is looked whether what is given up has been.
const GIVING_UP_LOOK: Duration = Duration::from_millis(2);

/// What can't be had of a row is being given up.
pub(crate) struct GivingUp {
    array: Rc<Array>,
    row: Row,
}

impl Drop for GivingUp {
    fn drop(&mut self) {
        self.array.giving_up.borrow_mut().remove(&self.row);
    }
}

impl Array {
    pub(crate) fn place(&self, row: Row, index: usize, col: u64) -> Place {
        Place {
            row,
            col: u32_of(usize_of(col)),
            slot: self.geometry.data_slot(row, index),
        }
    }

    /// Puts a data block on the list. The caller saves it before anything rests on it.
    pub(crate) fn note_lost(&self, row: Row, index: usize, col: u64, reason: Reason) {
        let place = self.place(row, index, col);
        let since_ms = self.env.clock.unix_ms();
        let defect = Defect { since_ms, reason };
        let new = self.defects.borrow_mut().note(place, defect);
        if new {
            self.losses_noted.set(self.losses_noted.get() + 1);
            let detail = format!(
                "row {} column {col} of slot {} is lost: {reason}; write it anew, or restore it from a \
                 copy (`cairn array show` tells which volume)",
                row.0, place.slot.0
            );
            self.report(EventKind::BadBlock, None, detail);
        }
        if !self.defects.borrow().is_bad(place) {
            self.unlisted.borrow_mut().insert(place);
        }
    }

    /// Fails if a block is given up that the list has no room for: what takes its place would be read for
    /// its contents.
    pub(crate) fn check_listed(&self) -> Result<(), RaidError> {
        let first = self.unlisted.borrow().first().copied();
        let Some(Place { row, .. }) = first else {
            return Ok(());
        };
        Err(RaidError::NotStarted {
            array: self.name().to_owned(),
            reason: format!(
                "the journal's records of row {} (byte {} of the data zones) can't be finished: blocks of \
                 it are lost, and the bad-block list has no room for more than {ENTRIES_MAX}; bring more \
                 members back",
                row.0,
                row.0 * self.geometry.chunk_bytes()
            ),
            wait_may_help: true,
            force_may_help: false,
        })
    }

    /// How many blocks were put on the list so far. Who reads a block and finds this changed afterwards may
    /// have read what stands in for a lost one.
    pub(crate) fn losses_noted(&self) -> u64 {
        self.losses_noted.get()
    }

    /// A row of which nothing could be given up since the last call, because its checksums can't be had.
    pub(crate) fn take_unvouched(&self) -> Option<Row> {
        self.unvouched.take()
    }

    /// Whether any of `cols` of a data chunk is lost, so that what stands in its place is no data.
    pub(crate) fn is_lost(&self, row: Row, index: usize, cols: &Columns) -> bool {
        let defects = self.defects.borrow();
        if defects.total() == 0 {
            return false;
        }
        let slot = self.geometry.data_slot(row, index);
        defects
            .in_columns(row, cols)
            .any(|(place, defect)| place.slot == slot && defect.reason.is_given_up())
    }

    /// Whether a block of data is on the list, for whatever reason.
    pub(crate) fn is_listed(&self, row: Row, index: usize, col: u64) -> bool {
        let slot = self.geometry.data_slot(row, index);
        let defects = self.defects.borrow();
        let cols = col..col + 1;
        let mut listed = defects.in_columns(row, &cols);
        listed.any(|(place, _)| place.slot == slot)
    }

    /// Whether any block of a row's data is lost.
    pub(crate) fn has_losses(&self, row: Row) -> bool {
        let whole = 0..self.geometry.chunk_blocks();
        (0..self.geometry.data_chunks()).any(|index| self.is_lost(row, index, &whole))
    }

    /// New data is logged for `cols` of a chunk: they are lost no more.
    pub(crate) fn heal(&self, row: Row, index: usize, cols: &Columns) {
        let slot = self.geometry.data_slot(row, index);
        self.heal_slots(row, cols, Set::EMPTY.with(slot.0));
    }

    fn heal_slots(&self, row: Row, cols: &Columns, slots: Set) {
        let mut defects = self.defects.borrow_mut();
        if defects.total() > 0 {
            if defects.heal(row, cols, slots) > 0 {
                let saved_with = defects.generation() + 1;
                self.healed.borrow_mut().insert(row, saved_with);
            }
            let healed = |place: &Place| {
                place.row == row && cols.contains(&place.col.into()) && slots.has(place.slot.0)
            };
            self.unlisted.borrow_mut().retain(|place| !healed(place));
        }
    }

    /// A whole row reads as zeros, or is written, from here on.
    pub(crate) fn heal_row(&self, row: Row) {
        let all = Set::first(self.geometry.members());
        self.heal_slots(row, &(0..self.geometry.chunk_blocks()), all);
    }

    /// [`Array::heal_row`], of many: their extent is nobody's, or another volume's from here on.
    pub(crate) fn heal_rows(&self, rows: Range<Row>) {
        let listed: BTreeSet<Row> = {
            let defects = self.defects.borrow();
            let listed = defects.list().map(|(place, _)| place.row);
            listed.filter(|row| rows.contains(row)).collect()
        };
        for row in listed {
            self.heal_row(row);
        }
    }

    /// Takes blocks off the list whose extent is nobody's: of a volume whose deletion a crash cut off.
    pub(super) fn heal_what_is_nobodys(&self) {
        let nobodys: BTreeSet<Row> = {
            let (defects, space) = (self.defects.borrow(), self.space.borrow());
            let is_nobodys = |row: &Row| {
                let extent = space.extent_at(row.0 * self.geometry.row_bytes());
                extent.is_none_or(|extent| space.owner(extent).is_none())
            };
            let listed = defects.list().map(|(place, _)| place.row);
            listed.filter(is_nobodys).collect()
        };
        for row in nobodys {
            self.heal_row(row);
        }
    }

    /// Makes the list durable as it is. Somebody else may be saving it, and not have flushed it.
    pub(crate) async fn settle_losses(self: &Rc<Self>) -> Result<(), IoErrorKind> {
        let is_durable = {
            let defects = self.defects.borrow();
            !defects.is_dirty() && defects.generation() == self.list_durable.get()
        };
        if !is_durable {
            self.save_defects().await?;
            let written = self.list_written.get();
            self.flush_all().await?;
            self.list_durable.set(written.max(self.list_durable.get()));
        }
        let durable = self.list_durable.get();
        self.healed
            .borrow_mut()
            .retain(|_, saved_with| *saved_with > durable);
        Ok(())
    }

    /// Makes it durable that what was healed of a row isn't on the list any more.
    pub(crate) async fn settle_healed(self: &Rc<Self>, row: Row) -> Result<(), IoErrorKind> {
        if self.healed.borrow().contains_key(&row) {
            self.settle_losses().await?;
        }
        Ok(())
    }

    /// Gives up what can't be had of a row, block by block, so that the rest can go on. If that is for want of checksums and
    /// all members are here, a scrub's look tells first what of it is sound: nobody who might come back knows better.
    ///
    /// Not at once: what several disks couldn't read together may have been a controller's.
    pub(crate) async fn give_up(self: &Rc<Self>, row: Row) -> Result<(), IoErrorKind> {
        let given_up = self.give_up_once(row).await;
        let since = self.unfinished.borrow().get(&row).copied();
        let now = self.env.clock.now();
        let is_long = since.is_some_and(|since| now.since(since) >= LOOK_AFTER);
        let is_unvouched = given_up.is_err() && self.unvouched.get() == Some(row);
        if !is_unvouched || !self.is_open() || !is_long || !self.is_whole() {
            return given_up;
        }
        let _ = self.look_at_row(row).await;
        self.give_up_once(row).await
    }

    /// In a replay a row can't be finished for want of checksums. That waits a little, then a scrub's look tells what of it is
    /// sound; true if it may be tried once more.
    pub(crate) async fn look_in_replay(self: &Rc<Self>, row: Row) -> bool {
        // Who is away may know what is missing.
        let all_here = self.in_sync().len() == self.geometry.members();
        if !all_here || self.looked.borrow().contains(&row) {
            return false;
        }
        let now = self.env.clock.now();
        let since = self.looks_since.get().unwrap_or(now);
        self.looks_since.set(Some(since));
        let waited = now.since(since);
        if waited < LOOK_AFTER {
            // One wait for all of them.
            self.env
                .clock
                .sleep(LOOK_AFTER.saturating_sub(waited))
                .await;
        } else if self.is_whole() && self.look_at_row(row).await {
            self.looked.borrow_mut().insert(row);
        } else if waited < LOOK_AFTER + LOOK_PATIENCE {
            // A disk is slow.
            self.env.clock.sleep(LOOK_AGAIN).await;
        } else {
            return false;
        }
        true
    }

    /// The replay is over.
    pub(crate) fn forget_looks(&self) {
        self.looked.borrow_mut().clear();
        self.looks_since.set(None);
    }

    /// Whether every member is here and in sync, so that nobody is away who may know what is missing.
    fn is_whole(&self) -> bool {
        let members = self.in_sync();
        members.len() == self.geometry.members() && !members.iter().any(|disk| disk.is_slow())
    }

    /// A row can't be finished; true if that is news.
    pub(crate) fn note_unfinished(&self, row: Row) -> bool {
        let now = self.env.clock.now();
        let mut unfinished = self.unfinished.borrow_mut();
        let news = !unfinished.contains_key(&row);
        unfinished.entry(row).or_insert(now);
        news
    }

    /// A row that couldn't be finished for longer than any disk may take to answer.
    pub(crate) fn unfinished_for_long(&self) -> Option<Row> {
        let now = self.env.clock.now();
        let unfinished = self.unfinished.borrow();
        let mut rows = unfinished.iter();
        rows.find(|(_, since)| now.since(**since) >= LOOK_AFTER + LOOK_PATIENCE)
            .map(|(row, _)| *row)
    }

    /// A task that gives up what can't be had of a row is under way until this is dropped; [`None`] if one is already.
    pub(crate) fn begin_giving_up(self: &Rc<Self>, row: Row) -> Option<GivingUp> {
        let is_new = self.giving_up.borrow_mut().insert(row);
        is_new.then(|| GivingUp {
            array: Rc::clone(self),
            row,
        })
    }

    /// Waits until no such task is under way.
    pub(crate) async fn given_up(&self) {
        while !self.giving_up.borrow().is_empty() {
            self.env.clock.sleep(GIVING_UP_LOOK).await;
        }
    }

    async fn give_up_once(self: &Rc<Self>, row: Row) -> Result<(), IoErrorKind> {
        let Some(journal) = self.journal() else {
            return Err(IoErrorKind::Lost);
        };
        // It writes: the labels must not be clean meanwhile. Of one that stops they aren't: its journal isn't
        // empty.
        let _active = self.begin_write().await.ok();
        let lock = self.cache.lock(row, 0..self.geometry.chunk_blocks()).await;
        self.check_alive()?;
        let sums = self.sums_ready(row, lock.cols()).await;
        let _sums = sums.inspect_err(|_| self.unvouched.set(Some(row)))?;
        if !self.space.borrow().is_written(row) {
            return Ok(());
        }
        let mut lost = Vec::new();
        for col in lock.cols().clone() {
            for index in self.lost_in(row, col).await {
                lost.push((index, col));
            }
        }
        for (_, col) in &lost {
            self.check_answers(row, *col).await?;
        }
        self.check_vouched(row, &lost)?;
        self.check_room(row, &lost)?;
        // Its extent may have been given away meanwhile: that waits for no lock of an idle row.
        if !self.space.borrow().is_written(row) {
            return Ok(());
        }
        for (index, col) in &lost {
            self.note_lost(row, *index, *col, Reason::NotRebuilt);
        }
        self.settle_losses().await?;
        if !self.space.borrow().is_written(row) {
            self.heal_row(row);
            return Ok(());
        }
        let zeros = self.pool.take_zeroed(BLOCK_BYTES).freeze();
        for (index, col) in lost {
            // Written anew meanwhile: it has contents, and they are newer.
            if !self.is_lost(row, index, &(col..col + 1)) {
                continue;
            }
            let within = u64_of(index) * self.geometry.chunk_bytes() + col * BLOCK;
            let at = row.0 * self.geometry.row_bytes() + within;
            let entry = Entry::without_payload(Kind::Zero, at, BLOCK, Vec::new());
            let seq = self.log(&journal, entry, Vec::new(), None);
            self.dirty_rows.put(row, index, col, zeros.clone(), seq);
        }
        self.kick_apply();
        Ok(())
    }

    /// Fails if checksums that say nothing are why a block can't be had: it may be sound, and a scrub tells.
    /// What that couldn't vouch for either is on the list.
    fn check_vouched(&self, row: Row, lost: &[(usize, u64)]) -> Result<(), IoErrorKind> {
        let is_told = |(index, col): &(usize, u64)| {
            let place = self.place(row, *index, *col);
            !self.sums_say_nothing(row, *col) || self.defects.borrow().is_bad(place)
        };
        if lost.iter().all(is_told) {
            return Ok(());
        }
        self.unvouched.set(Some(row));
        Err(IoErrorKind::Lost)
    }

    /// Fails if the list has no room for these blocks: what isn't listed would be read as zeros.
    fn check_room(&self, row: Row, lost: &[(usize, u64)]) -> Result<(), IoErrorKind> {
        let defects = self.defects.borrow();
        let places = lost
            .iter()
            .map(|(index, col)| self.place(row, *index, *col));
        let new: Vec<Place> = places.filter(|place| !defects.is_bad(*place)).collect();
        if defects.total() - defects.more() + u64_of(new.len()) <= u64_of(ENTRIES_MAX) {
            return Ok(());
        }
        self.unlisted.borrow_mut().extend(new);
        Err(IoErrorKind::Lost)
    }

    /// Fails if a member gives no answer for a column: a disk that is about to be thrown out, and may
    /// come back with what it holds, has lost nothing.
    async fn check_answers(self: &Rc<Self>, row: Row, col: u64) -> Result<(), IoErrorKind> {
        // One that was just thrown out isn't asked any more: whether that has broken the array is known only then.
        self.settle().await;
        self.check_alive()?;
        let view = self.view(row);
        for slot in (0..self.geometry.members()).map(Slot) {
            let Some(disk) = view.reader(slot) else {
                continue;
            };
            let buf = self.pool.take(BLOCK_BYTES);
            let read = disk.read(&self.geometry, row, col, buf, Patience::Eject);
            match read.await.1 {
                Err(error) if is_late(&error) || error.kind == IoErrorKind::Gone => {
                    return Err(IoErrorKind::Lost);
                }
                _ => {}
            }
        }
        self.settle().await;
        self.check_alive()
    }

    /// Whether what is logged for columns of a chunk is all that they are to hold.
    pub(crate) fn is_logged(&self, row: Row, index: usize, cols: &Columns) -> bool {
        let covered = self.dirty_rows.cover(row, index, cols);
        covered.iter().all(|cover| cover.data.is_some())
    }

    /// Data blocks of one column that neither a member nor the others can give, and that no logged
    /// write is about to replace.
    async fn lost_in(self: &Rc<Self>, row: Row, col: u64) -> Vec<usize> {
        let cols = col..col + 1;
        let all = Set::first(self.geometry.data_chunks());
        let fresh_view = || -> RowView { self.view(row) };
        if self.load_data(&mut fresh_view(), &cols, all).await.is_ok() {
            return Vec::new();
        }
        let mut lost = Vec::new();
        for index in all.iter() {
            if self.is_logged(row, index, &cols) {
                continue;
            }
            let one = Set::EMPTY.with(index);
            if self.load_data(&mut fresh_view(), &cols, one).await.is_err() {
                lost.push(index);
            }
        }
        lost
    }
}
