//! Applying: logged data goes to its place on the members, in cycles that share their flushes.
//!
//! A cycle takes the rows with the oldest data:
//! 1. plan, read, compute parity; log a *note* per written span: the sum of each new sector of P and Q;
//! 2. flush: the records and notes are durable;
//! 3. write P and Q, flush;
//! 4. write data, flush;
//! 5. write checksum pages, flush, map pages, flush, the missed maps of absent members, flush;
//! 6. write the floor, flush: now the records are trimmed.
//!
//! Why parity goes before data, and why that is enough without journalling parity, is argued in
//! raid/README.md (The write hole) and tried by `raid/tests/write_hole` and `storm --exhaustive`.
//!
//! Invariants
//! - One cycle at a time: when a note is written, all that earlier cycles put in place is durable.
//! - A row's columns are locked from before its plan until it is in place.
//! - What is in place ends at the oldest record that is in somebody's hands: dirty, held, or newer than
//!   the snapshot. The floor rises that far, but for what logs need.
//! - Memory is taken before locks, by everybody, so that nobody waits in a circle.

use std::rc::Rc;
use std::time::Duration;

use cairn_blockdev::units::{BLOCK, BLOCK_BYTES, SECTOR, u64_of, usize_of};
use cairn_blockdev::{IoErrorKind, SharedBuf, WriteFlags};
use futures_util::future::{Either, LocalBoxFuture, join_all, select};

use super::cache::Lock;
use super::history::{NOTE_P, NOTE_Q, NOTE_SETTLED};
use super::overlay::Overlay;
use super::transaction::NewParity;
use super::view::RowView;
use crate::array::Array;
use crate::events::EventKind;
use crate::geometry::{Columns, Role, Row, Set};
use crate::integrity::Ready;
use crate::journal::entry::{Entry, Kind, Seq, Tag};
use crate::journal::log::Journal;
use crate::level::Level;
use crate::mutation::{Mutation, on};

/// Logged data waits at least about this long for its cycle: enough for neighbours to share it.
const APPLY_AFTER: Duration = Duration::from_millis(300);
/// As long as clients keep the array busy, and the journal has room, it waits for so many times that:
/// a burst has the disks for itself, and rows are written once for more of their writes.
const PAUSES_MAX: u32 = 10;
/// How long an array that stops tries on when nothing comes forward any more, and how long a rebuild does.
pub(crate) const STOP_PATIENCE: Duration = Duration::from_secs(10);
const DRAIN_PATIENCE: Duration = Duration::from_mins(1);
/// Cycles that it takes at least.
const CYCLES_IN_VAIN: u32 = 3;
/// A pause between cycles that bring nothing forward: with rows that can't be finished, and without.
const UNFINISHED_PAUSE: Duration = Duration::from_secs(1);
const UNMOVED_PAUSE: Duration = Duration::from_millis(5);
/// Rows of a cycle at most. Their notes must fit in the part of the journal that is kept for them.
const ROWS_MAX: usize = 4096;

/// One row in a cycle.
struct Work {
    row: Row,
    lock: Lock,
    view: RowView,
    frozen: Rc<Overlay>,
    /// Lowest sequence of what is frozen.
    first: Seq,
    /// All records of the row below this are in what is frozen.
    below: Seq,
    overlay: Overlay,
    fresh: bool,
    parity: Vec<NewParity>,
    /// Its checksum pages.
    sums: Option<Ready>,
}

impl Array {
    /// Starts the task that applies what is logged.
    pub(crate) fn start_applying(self: &Rc<Self>) {
        if self.journal().is_none() {
            return;
        }
        let weak = Rc::downgrade(self);
        let (clock, kicked) = (Rc::clone(&self.env.clock), Rc::clone(&self.apply_kicked));
        self.env.spawn.spawn(Box::pin(async move {
            let mut pauses = 0;
            loop {
                let pause = clock.sleep(APPLY_AFTER);
                let kick = kicked.notified();
                let was_kicked =
                    matches!(select(pause, std::pin::pin!(kick)).await, Either::Right(_));
                let Some(array) = weak.upgrade() else { return };
                if array.is_stopping() || array.check_alive().is_err() {
                    array.logs.wake();
                }
                // Writers that wait for room in the journal get it from a cycle, also while it stops.
                if array.has_ended() || array.check_alive().is_err() {
                    return;
                }
                array.ask_hooks();
                if !was_kicked && pauses < PAUSES_MAX && array.may_apply_later() {
                    pauses += 1;
                } else if array.has_something_to_apply() {
                    array.run_cycle().await;
                    pauses = 0;
                }
            }
        }));
    }

    /// Applies soon.
    pub(crate) fn kick_apply(&self) {
        self.apply_kicked.notify_one();
    }

    pub(super) fn kick_apply_if_crowded(&self, journal: &Journal) {
        if journal.is_crowded() {
            self.kick_apply();
        }
    }

    /// Whether clients have just been served, and nobody waits for a cycle.
    fn may_apply_later(&self) -> bool {
        let idle = self.env.clock.now().since(self.last_client_io());
        idle < APPLY_AFTER && !self.is_stopping() && !self.logs_want_a_cycle()
    }

    fn has_something_to_apply(&self) -> bool {
        let journal = self.journal();
        journal.is_some_and(|journal| {
            let could = self.log_floor(journal.applied());
            journal.applied() < journal.next()
                || journal.floor() < could
                || self.logs_want_a_cycle()
        })
    }

    /// One cycle that starts after this call.
    pub(crate) async fn run_cycle(self: &Rc<Self>) {
        self.cycles
            .pass(&self.env.spawn, || {
                let array = Rc::clone(self);
                Box::pin(async move { array.cycle().await })
            })
            .await;
    }

    /// Applies until everything is in place that was logged by now or is logged for that: if nothing is
    /// written meanwhile, the journal is empty then, but for what logs need.
    pub(crate) async fn settle_journal(self: &Rc<Self>) -> Result<(), IoErrorKind> {
        // The notes of the last cycle with rows are trimmed by one without.
        self.apply_all().await?;
        self.apply_all().await
    }

    /// The same for an array that stops, and the logs' records as well; false if there are rows that can't be
    /// finished. The next start finds them in the journal.
    pub(crate) async fn empty_journal(self: &Rc<Self>) -> bool {
        let Some(journal) = self.journal() else {
            return true;
        };
        for _ in 0..2 {
            let target = journal.next();
            if !self
                .cycles_until(|| journal.applied() >= target, || STOP_PATIENCE)
                .await
            {
                return false;
            }
        }
        if self.log_ids().is_empty() {
            return true;
        }
        // What logs keep would keep everything behind it, to be replayed as if it had been cut off.
        let target = journal.next();
        self.renew_logs(target);
        self.cycles_until(|| journal.floor() >= target, || STOP_PATIENCE)
            .await
    }

    /// Cycles until it is `done`, or the array has failed, which ends its journal as well; false if nothing has come
    /// forward for as long as `patience`.
    async fn cycles_until(
        self: &Rc<Self>,
        done: impl Fn() -> bool,
        patience: impl Fn() -> Duration,
    ) -> bool {
        let (mut moved, mut in_vain) = (self.env.clock.now(), 0);
        while !done() && self.check_alive().is_ok() {
            if self.cycle_moves().await {
                (moved, in_vain) = (self.env.clock.now(), 0);
                continue;
            }
            in_vain += 1;
            // A single one may take as long.
            if in_vain >= CYCLES_IN_VAIN && self.env.clock.now().since(moved) >= patience() {
                return done();
            }
        }
        true
    }

    /// A cycle, and a pause if it has brought nothing forward; false then.
    async fn cycle_moves(self: &Rc<Self>) -> bool {
        let state = || {
            let journal = self.journal();
            let journal = journal.map(|journal| (journal.applied(), journal.floor()));
            (journal, self.dirty_rows.first())
        };
        let before = state();
        self.run_cycle().await;
        let moved = state() != before;
        if !moved {
            let pause = if self.unfinished.borrow().is_empty() {
                UNMOVED_PAUSE
            } else {
                UNFINISHED_PAUSE
            };
            self.env.clock.sleep(pause).await;
        }
        moved
    }

    /// Applies until everything that is logged now is in place.
    pub(crate) async fn apply_all(self: &Rc<Self>) -> Result<(), IoErrorKind> {
        let Some(journal) = self.journal() else {
            return Ok(());
        };
        let target = journal.next();
        while journal.applied() < target {
            self.check_alive()?;
            self.cycle_moves().await;
        }
        Ok(())
    }

    /// Applies until everything that is logged now is in place and trimmed. What logs still need of it
    /// is written anew, with as many copies as the members of now give it. Fails if that isn't to be had now.
    pub(crate) async fn drain_journal(self: &Rc<Self>) -> Result<(), IoErrorKind> {
        let Some(journal) = self.journal() else {
            return Ok(());
        };
        let target = journal.next();
        self.renew_logs(target);
        let patience = || {
            if self.is_stopping() {
                STOP_PATIENCE
            } else {
                DRAIN_PATIENCE
            }
        };
        let drained = self.cycles_until(|| journal.floor() >= target, patience);
        if !drained.await {
            return Err(IoErrorKind::Busy);
        }
        self.check_alive()
    }

    /// Brings everything that is logged now to its place: what an audit of the members wants first.
    pub fn drain(self: &Rc<Self>) -> LocalBoxFuture<'_, Result<(), crate::RaidError>> {
        Box::pin(async move { self.apply_all().await.map_err(|_| self.lost_error()) })
    }

    async fn cycle(self: Rc<Self>) {
        let Some(journal) = self.journal() else {
            return;
        };
        // An error means that the array has failed; the next start finds everything in the journal.
        let _ = self.try_cycle(&journal).await;
    }

    async fn try_cycle(self: &Rc<Self>, journal: &Rc<Journal>) -> Result<(), IoErrorKind> {
        self.check_alive()?;
        // Complete rows that are in place by now are durable after this cycle's flush.
        let in_place = std::mem::take(&mut *self.bypassed.borrow_mut());
        let is_dirty = |row: &Row| self.dirty_rows.hull(*row).is_some();
        self.unfinished.borrow_mut().retain(|row, _| is_dirty(row));
        let rows = self.choose_rows();
        let units: u32 = rows.iter().map(|row| self.cost(*row)).sum();
        let memory = self.memory.acquire(units).await;
        let mut works = Vec::with_capacity(rows.len());
        for row in rows {
            works.extend(self.take_row(row, journal).await);
        }
        drop(in_place);
        let snapshot = self.trimmable(journal, journal.next());
        let works = self.plan_rows(works).await;
        self.put_in_place(journal, &works).await?;
        drop((works, memory));
        let applied = self.trimmable(journal, snapshot);
        self.checkpoint_all(journal, applied).await
    }

    /// What is in place but for its flush: everything below the oldest record that is in somebody's hands.
    fn trimmable(&self, journal: &Journal, most: Seq) -> Seq {
        let needs = [self.dirty_rows.first(), journal.first_held()];
        needs.into_iter().flatten().fold(most, Seq::min)
    }

    /// The oldest rows, as many as three quarters of the row memory can hold: clients' complete rows have
    /// the rest.
    fn choose_rows(&self) -> Vec<Row> {
        let mut left = self.memory.size() / 4 * 3;
        let mut rows = Vec::new();
        for row in self.dirty_rows.oldest(ROWS_MAX) {
            let cost = self.cost(row);
            if cost > left && !rows.is_empty() {
                break;
            }
            left = left.saturating_sub(cost);
            rows.push(row);
        }
        // In the order of their addresses, which disks like.
        rows.sort_unstable();
        rows
    }

    /// Memory of applying a row: old and new contents of the columns that it touches.
    fn cost(&self, row: Row) -> u32 {
        let whole = 0..self.geometry.chunk_blocks();
        let written = self.space.borrow().is_written(row);
        let cols = self
            .dirty_rows
            .hull(row)
            .filter(|_| written)
            .unwrap_or(whole);
        let blocks = (cols.end - cols.start) * u64_of(self.geometry.members());
        u32::try_from(blocks)
            .unwrap_or(u32::MAX)
            .min(self.row_cost.max(1))
            .max(1)
    }

    /// Locks a row and freezes what is logged of it.
    async fn take_row(self: &Rc<Self>, row: Row, journal: &Journal) -> Option<Work> {
        let whole = 0..self.geometry.chunk_blocks();
        let mut cols: Columns = whole.clone();
        if self.space.borrow().is_written(row) {
            cols = self.dirty_rows.hull(row)?;
        }
        let mut lock = self.cache.lock(row, cols.clone()).await;
        let hull = self.dirty_rows.hull(row)?;
        let fresh = !self.space.borrow().is_written(row);
        if cols != whole && (fresh || hull.start < cols.start || cols.end < hull.end) {
            // It grew, or was trimmed, while this waited.
            drop(lock);
            lock = self.cache.lock(row, whole).await;
        }
        self.check_alive().ok()?;
        let fresh = !self.space.borrow().is_written(row);
        let (first, frozen) = self.dirty_rows.freeze(row)?;
        Some(Work {
            row,
            lock,
            view: self.view(row),
            first,
            below: journal.next(),
            overlay: Overlay::new(self.geometry.data_chunks()),
            frozen,
            fresh,
            parity: Vec::new(),
            sums: None,
        })
    }

    /// Computes the parity of every row. A row for which that can't be done stays as it is.
    async fn plan_rows(self: &Rc<Self>, works: Vec<Work>) -> Vec<Work> {
        let planned = join_all(works.into_iter().map(|work| self.plan_row(work))).await;
        planned.into_iter().flatten().collect()
    }

    async fn plan_row(self: &Rc<Self>, mut work: Work) -> Option<Work> {
        for (index, run) in work.frozen.runs() {
            work.overlay.put(index, run.col, run.data.clone());
        }
        if work.fresh {
            self.fill_with_zeros(&mut work.overlay);
        }
        work.overlay.coalesce(&self.pool);
        let cols = if work.fresh {
            0..self.geometry.chunk_blocks()
        } else {
            work.lock.cols().clone()
        };
        let parity = match self.sums_ready(work.row, &cols).await {
            Ok(sums) => {
                work.sums = sums;
                self.parity_of_overlay(&mut work.view, &work.overlay).await
            }
            Err(kind) => Err(kind),
        };
        match parity {
            Ok(parity) => {
                work.parity = parity;
                self.unfinished.borrow_mut().remove(&work.row);
                Some(work)
            }
            Err(kind) => {
                // Said once, however often it is tried.
                if self.note_unfinished(work.row) {
                    let detail = format!("row {} can't be applied yet: {kind}", work.row.0);
                    self.report(EventKind::ApplyStuck, None, detail);
                }
                self.dirty_rows.thaw(work.row, work.first);
                let (array, row) = (Rc::clone(self), work.row);
                drop(work);
                if let Some(under_way) = self.begin_giving_up(row) {
                    self.env.spawn.spawn(Box::pin(async move {
                        // An error means that the array has failed, or that its list is full: both are
                        // said elsewhere, and the row waits.
                        let _ = array.give_up(row).await;
                        drop(under_way);
                    }));
                }
                None
            }
        }
    }

    /// Notes, parity, data: each durable before the next.
    async fn put_in_place(
        self: &Rc<Self>,
        journal: &Rc<Journal>,
        works: &[Work],
    ) -> Result<(), IoErrorKind> {
        if works.is_empty() {
            return Ok(());
        }
        for work in works {
            self.note_in_place(work.row, work.below);
        }
        self.flush_bypassed(works.iter().map(|work| work.row))
            .await?;
        let mirrored = self.geometry.level() == Level::Raid1;
        // The first write of a row has nothing in place that could be lost; a complete row that replay
        // puts together has.
        let has_old = |work: &&Work| !work.fresh || self.settled.borrow().contains(&work.row);
        // A mirror has no parity to tell of, but that a replay put a row together is told.
        let is_told = |work: &&Work| !mirrored || self.settled.borrow().contains(&work.row);
        for work in works.iter().filter(has_old).filter(is_told) {
            self.log_notes(journal, work);
        }
        journal.logged_below(journal.next()).await?;
        // Nor may anything lie in place that a power cut could bring back.
        let needs_flush = |work: &Work| has_old(&work) || self.may_return(work.row, journal);
        if works.iter().any(needs_flush) {
            self.flush_all().await?;
        }
        // The records may be on disks that no label tells of yet.
        self.settle().await;
        self.check_alive()?;
        let parity = works.iter().flat_map(|work| {
            let writes = Self::parity_writes(&work.view, &work.parity);
            writes.into_iter().map(|write| (work.row, write))
        });
        let data = works.iter().flat_map(|work| {
            let writes = Self::data_writes(&work.view, &work.overlay);
            writes.into_iter().map(|write| (work.row, write))
        });
        if on(Mutation::DataBeforeParity) {
            self.write_all(data, WriteFlags::default()).await?;
            self.flush_all().await?;
            self.write_all(parity, WriteFlags::default()).await?;
        } else {
            self.write_all(parity, WriteFlags::default()).await?;
            if !on(Mutation::NoFlushBetween) && works.iter().any(|work| !work.parity.is_empty()) {
                self.flush_all().await?;
            }
            self.write_all(data, WriteFlags::default()).await?;
        }
        for work in works {
            self.note_sums(&work.view, &work.overlay, &work.parity);
            if work.fresh {
                self.space.borrow_mut().mark(work.row, true);
            }
            self.dirty_rows.applied(work.row);
            if !work.view.distrusted().is_empty() {
                self.repair(&mut work.view.clone(), work.lock.cols()).await;
            }
        }
        Ok(())
    }

    /// Notes what the parity of a row will be. Where all of its data is in the journal no sums are
    /// needed, but the note is: it says that the ones before it are over.
    fn log_notes(self: &Rc<Self>, journal: &Rc<Journal>, work: &Work) {
        let all = Set::first(self.geometry.data_chunks());
        // A row that replay puts together: not all of it is in the journal, however complete it is.
        let settled = self.settled.borrow().contains(&work.row);
        for span in work.overlay.spans() {
            let complete = span.written == all && !settled;
            let mut roles = if settled { NOTE_SETTLED } else { 0 };
            let mut sums = Vec::new();
            for (bit, role) in [(NOTE_P, Role::P), (NOTE_Q, Role::Q)] {
                let new = work
                    .parity
                    .iter()
                    .find(|new| new.role == role && new.col == span.cols.start);
                if let Some(new) = new.filter(|_| !complete) {
                    roles |= bit;
                    sums.extend(sector_sums(&new.data));
                }
            }
            let entry = Entry {
                arg: work.below.0,
                tag: Tag::new(&[roles]).unwrap_or_default(),
                ..Entry::without_payload(
                    Kind::Note,
                    work.row.0 * self.geometry.chunk_bytes() + span.cols.start * BLOCK,
                    (span.cols.end - span.cols.start) * BLOCK,
                    sums,
                )
            };
            self.log(journal, entry, Vec::new(), None);
        }
    }

    /// Makes what is in place durable, then the pages that speak of it, then the floor.
    async fn checkpoint_all(
        self: &Rc<Self>,
        journal: &Rc<Journal>,
        applied: Seq,
    ) -> Result<(), IoErrorKind> {
        // What leaves nothing to put in place is passed over, and may be on its way into the journal. The floor isn't to be
        // beyond it, nor is a log's owner to be told that it is there. It may wait for the room that all before it takes.
        let logged = journal.logged();
        if logged < applied {
            self.checkpoint_below(journal, logged).await?;
            journal.logged_below(applied).await?;
        }
        self.checkpoint_below(journal, applied).await
    }

    async fn checkpoint_below(
        self: &Rc<Self>,
        journal: &Rc<Journal>,
        applied: Seq,
    ) -> Result<(), IoErrorKind> {
        if on(Mutation::TrimBeforePages) {
            self.write_floor(journal, applied).await;
        }
        // Flushes what is in place, writes sums, flushes, and writes the map.
        self.checkpoint().await?;
        self.flush_all().await?;
        journal.note_applied(applied);
        let floor = self.tend_logs(journal, applied).await?;
        self.save_all_missed(floor).await?;
        self.write_floor(journal, floor).await;
        self.flush_all().await?;
        journal.trimmed(floor);
        self.missed.trimmed(floor);
        self.logs.book.borrow_mut().passed(floor);
        Ok(())
    }

    /// What absent members missed below a floor is durable before the floor says that it needn't be replayed.
    pub(crate) async fn save_all_missed(self: &Rc<Self>, floor: Seq) -> Result<(), IoErrorKind> {
        loop {
            self.save_missed(floor).await?;
            self.flush_all().await?;
            self.settle_losses().await?;
            // A member that has just gone has a map that isn't saved yet.
            if self.is_missed_saved(floor) {
                return Ok(());
            }
        }
    }
}

/// The sum of each sector.
pub(crate) fn sector_sums(data: &SharedBuf) -> impl Iterator<Item = u32> {
    data.chunks(usize_of(SECTOR))
        .map(cairn_blockdev::crc::crc32c)
}

const _: () = assert!(BLOCK_BYTES.is_multiple_of(512));
