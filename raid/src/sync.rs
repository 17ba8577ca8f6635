//! Filling slots: rebuild onto spares, replacement, catching up members that were away; and, without a
//! journal, recomputing parity after an unclean stop.
//!
//! Only rows that were written are visited, in order. A filled disk takes part in a row as soon as
//! the row is filled ([`Progress`](crate::array)), and nowhere before.
//!
//! Invariants
//! - A row is filled under the lock of all its columns.
//! - The watermark passes a row that was never written only if nobody is writing it at that moment.
//! - Clients go first: while they are active, filling takes turns with pauses as long as its work.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use cairn_blockdev::units::{BLOCK_BYTES, u64_of, usize_of};
use cairn_blockdev::{Buf, IoErrorKind, SharedBuf, Ticks};
use futures_util::future::join_all;
use tokio::sync::MutexGuard;
use uuid::Uuid;

use crate::array::disk::Disk;
use crate::array::{Array, SyncAction, SyncStatus};
use crate::error::RaidError;
use crate::events::EventKind;
use crate::geometry::{Role, Row, Set, Slot};
use crate::journal::entry::Seq;
use crate::journal::joining::Joining;
use crate::journal::log::Hold;
use crate::level::Level;
use crate::member::MemberState;
use crate::mutation::{self, Mutation};
use crate::space::SpaceMap;

/// Rows filled at once, at most.
const ROWS_AT_ONCE: u64 = 16;
/// Bytes read at once, about.
const BYTES_AT_ONCE: u64 = 16 << 20;
/// Clients count as active for this long after their last request.
const CLIENT_ACTIVE: Duration = Duration::from_millis(100);
/// How often the cursor goes into the labels.
const CURSOR_EVERY: Duration = Duration::from_secs(5);
/// Why a rebuild can't end.
const LOGGED_WAITS: &str = "what is logged can't be put in place yet";
/// A pass that couldn't go on is tried again after this long: what held it up may be over.
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// So often a disk joins before it is told that this takes long, and why.
const JOINS_UNTOLD: u32 = 60;
const JOIN_WAITS: &str = "all is copied, and a disk is too slow, or has too little room for the journal, to take part in what is \
     written meanwhile: it is tried again and again";
/// A drain that was in vain is tried again after this long: somebody may be waiting to stop.
const DRAIN_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Events tell of every so many per cent.
const PERCENT_STEP: u64 = 20;

/// What the filling task has to tell.
#[derive(Default)]
pub(crate) struct SyncState {
    running: Cell<bool>,
    /// Something changed while it ran: look again before ending.
    again: Cell<bool>,
    progress: RefCell<Option<Pass>>,
    /// It will be tried again by itself.
    retry_due: Cell<bool>,
    /// Why the last pass couldn't go on.
    stuck: RefCell<Option<String>>,
    /// Keeps what members that were to be replaced lack in the journal of an array that has failed.
    kept: RefCell<Option<Hold>>,
    /// Disks that became members and whose labels don't say so yet.
    promoted: RefCell<Vec<Uuid>>,
    /// Members that have just joined, while records are in the journal that were logged without them.
    joining: Cell<usize>,
}

/// One pass over the rows.
#[derive(Debug, Clone, Copy)]
struct Pass {
    action: SyncAction,
    started: Ticks,
    /// Rows that this pass has filled.
    filled: u64,
    /// Rows that it has to fill, for a catch-up; otherwise all written rows count.
    total: Option<u64>,
    row_bytes: u64,
    cursor: Row,
    percent_told: u64,
}

impl Pass {
    /// Rows done, and rows to do in all.
    fn share(&self, space: &SpaceMap) -> (u64, u64) {
        let (done, total) = match self.total {
            // Rows that are written meanwhile come on top.
            Some(total) => (self.filled, total.max(self.filled)),
            None => (space.rows_written_before(self.cursor), space.rows_written()),
        };
        (done.min(total), total)
    }
}

impl SyncState {
    pub(crate) fn is_running(&self) -> bool {
        self.running.get()
    }

    /// Members that can't be counted on for everything yet: some records have a copy less.
    pub(crate) fn joining(&self) -> usize {
        self.joining.get()
    }
}

/// A disk to fill and its slot.
struct Target {
    slot: Slot,
    disk: Rc<Disk>,
}

impl Target {
    fn is_catching_up(&self) -> bool {
        self.disk.progress.borrow().is_catching_up()
    }
}

enum PassEnd {
    Complete,
    /// Members changed: look anew.
    Changed,
    Stopping,
    /// A row can't be had.
    Stuck(String),
}

impl Array {
    /// Starts filling if there is something to fill and nobody does yet.
    pub(crate) fn kick_sync(self: &Rc<Self>) {
        if !self.is_open() {
            return;
        }
        if self.sync.running.replace(true) {
            self.sync.again.set(true);
            return;
        }
        let array = Rc::clone(self);
        self.env.spawn.spawn(Box::pin(async move {
            array.fill_slots().await;
            array.sync.running.set(false);
        }));
    }

    async fn fill_slots(self: &Rc<Self>) {
        loop {
            self.sync.again.set(false);
            if self.is_stopping() || self.check_alive().is_err() {
                return;
            }
            if self.use_spares().await.is_err() {
                return;
            }
            let targets = self.targets();
            if targets.is_empty() {
                if self.sync.again.get() {
                    continue;
                }
                return;
            }
            let end = self.fill(&targets).await;
            let done = match end {
                PassEnd::Complete => self.complete(&targets).await,
                _ => Ok(true),
            };
            // Not before its end is durable and told.
            *self.sync.progress.borrow_mut() = None;
            let end = match (end, done) {
                (PassEnd::Complete, Err(_))
                    if self.is_stopping() || self.check_alive().is_err() =>
                {
                    return;
                }
                (PassEnd::Complete, Err(_)) => PassEnd::Stuck(LOGGED_WAITS.into()),
                (PassEnd::Complete, Ok(false)) => PassEnd::Changed,
                (end, _) => end,
            };
            match end {
                PassEnd::Complete => *self.sync.stuck.borrow_mut() = None,
                PassEnd::Changed => {}
                PassEnd::Stopping => {
                    let _ = self.save_cursor(&targets).await;
                    return;
                }
                PassEnd::Stuck(why) => {
                    let _ = self.save_cursor(&targets).await;
                    // Said once, and not each time that it is tried.
                    if self.sync.stuck.borrow_mut().replace(why.clone()) != Some(why.clone()) {
                        self.report(EventKind::RebuildStopped, None, why);
                    }
                    if !self.sync.again.get() {
                        self.retry_later();
                        return;
                    }
                }
            }
        }
    }

    fn retry_later(self: &Rc<Self>) {
        if self.sync.retry_due.replace(true) {
            return;
        }
        let (weak, clock) = (Rc::downgrade(self), Rc::clone(&self.env.clock));
        self.env.spawn.spawn(Box::pin(async move {
            clock.sleep(RETRY_AFTER).await;
            if let Some(array) = weak.upgrade() {
                array.sync.retry_due.set(false);
                array.kick_sync();
            }
        }));
    }

    /// Gives every slot without a member a spare, as long as there are spares.
    async fn use_spares(self: &Rc<Self>) -> Result<(), RaidError> {
        loop {
            let held = self.lock_labels().await;
            let Some((slot, spare)) = self.next_spare() else {
                return Ok(());
            };
            let began = self.begin_target(&held, &spare, slot, MemberState::Rebuilding);
            match began.await {
                // It couldn't even be labelled: the next one.
                Err(_) if spare.out.get() && self.check_alive().is_ok() => {}
                began => began?,
            }
        }
    }

    /// Makes a spare the target of a slot, durably.
    pub(crate) async fn begin_target(
        self: &Rc<Self>,
        held: &MutexGuard<'_, ()>,
        disk: &Rc<Disk>,
        slot: usize,
        state: MemberState,
    ) -> Result<(), RaidError> {
        self.start_target(disk, slot, state);
        self.commit_event(held).await?;
        self.check_in(disk)?;
        let detail = format!("slot {slot} onto {}", disk.path);
        self.report(EventKind::RebuildStarted, Some(&disk.path), detail);
        Ok(())
    }

    /// Disks to fill. Members that only have to catch up come first: they are soon done.
    fn targets(&self) -> Vec<Target> {
        let all = self.slot_targets().into_iter().map(|(slot, disk)| Target {
            slot: Slot(slot),
            disk,
        });
        let (behind, rest): (Vec<_>, Vec<_>) = all.partition(Target::is_catching_up);
        if behind.is_empty() { rest } else { behind }
    }

    async fn fill(self: &Rc<Self>, targets: &[Target]) -> PassEnd {
        let behind = targets.iter().all(Target::is_catching_up);
        let action = if behind {
            SyncAction::CatchUp
        } else if self.any_slot_empty() {
            SyncAction::Rebuild
        } else {
            SyncAction::Replace
        };
        let first = targets
            .iter()
            .map(|t| t.disk.progress.borrow().watermark())
            .min();
        *self.sync.progress.borrow_mut() = Some(Pass {
            action,
            started: self.env.clock.now(),
            filled: 0,
            total: behind.then(|| {
                targets
                    .iter()
                    .map(|t| self.rows_to_get(&t.disk))
                    .max()
                    .unwrap_or(0)
            }),
            row_bytes: self.geometry.row_bytes(),
            cursor: first.unwrap_or(Row(0)),
            percent_told: 0,
        });
        let row_members = u64_of(self.geometry.members()) * self.geometry.chunk_bytes();
        let at_once = (BYTES_AT_ONCE / row_members).clamp(1, ROWS_AT_ONCE);
        let mut saved = self.env.clock.now();
        // A new disk has no map pages and no bad-block list yet: all go to all, before it can become a member.
        self.space.borrow_mut().touch_all();
        self.defects.borrow_mut().touch();
        self.touch_missed();
        let floor = self.journal().map_or(Seq::FIRST, |journal| journal.floor());
        if self.checkpoint().await.is_err()
            || self.save_defects().await.is_err()
            || self.save_missed(floor).await.is_err()
        {
            return PassEnd::Changed;
        }
        loop {
            if self.is_stopping() {
                return PassEnd::Stopping;
            }
            if self.sync.again.get() || targets.iter().any(|target| target.disk.out.get()) {
                return PassEnd::Changed;
            }
            if self.check_alive().is_err() {
                return PassEnd::Stuck("the array has failed".into());
            }
            let began = self.env.clock.now();
            let clients = began.since(self.last_client_io()) < CLIENT_ACTIVE;
            let rows = self.next_rows(targets, if clients { at_once.min(2) } else { at_once });
            if rows.is_empty() {
                return PassEnd::Complete;
            }
            let results = join_all(rows.iter().map(|row| self.fill_row(*row, targets))).await;
            for (row, result) in rows.iter().zip(results) {
                let Err(kind) = result else { continue };
                if self.check_alive().is_err() || self.let_go(*row, targets).await.is_err() {
                    return PassEnd::Stuck(format!("row {} can't be rebuilt: {kind}", row.0));
                }
            }
            self.note_filled(&rows);
            if mutation::on(Mutation::MissedMapClearedEarly) {
                for target in targets {
                    let done = rows.last().map_or(Row(0), |row| Row(row.0 + 1));
                    let _ = self.clear_missed(&target.disk, done);
                }
            }
            if self.env.clock.now().since(saved) >= CURSOR_EVERY {
                saved = self.env.clock.now();
                if self.save_cursor(targets).await.is_err() {
                    return PassEnd::Changed;
                }
            }
            if clients {
                self.env
                    .clock
                    .sleep(self.env.clock.now().since(began))
                    .await;
            }
        }
    }

    /// Gives up what of a row can't be had, and fills the rest of it.
    async fn let_go(self: &Rc<Self>, row: Row, targets: &[Target]) -> Result<(), IoErrorKind> {
        self.give_up(row).await?;
        self.drain_journal().await?;
        self.fill_row(row, targets).await
    }

    /// The next rows that some target lacks. The watermarks move over what needs nothing, in the
    /// same breath in which it was looked at.
    fn next_rows(&self, targets: &[Target], most: u64) -> Vec<Row> {
        let mut rows = Vec::new();
        let first = targets
            .iter()
            .map(|t| t.disk.progress.borrow().watermark())
            .min();
        let mut at = first.unwrap_or(Row(0));
        while u64_of(rows.len()) < most {
            let next = targets
                .iter()
                .filter_map(|t| t.disk.progress.borrow().next_lacking(at))
                .min();
            let Some(next) = next else {
                break;
            };
            at = at.max(next);
            let written = self.space.borrow().next_written(at);
            let busy = self.cache.next_busy(at);
            let Some(row) = [written, busy].into_iter().flatten().min() else {
                break;
            };
            let lacking = targets.iter().any(|t| !t.disk.progress.borrow().has(row));
            if lacking {
                rows.push(row);
            }
            at = Row(row.0 + 1);
        }
        let quiet_until = rows.first().copied().unwrap_or(Row(u64::MAX));
        for target in targets {
            target.disk.progress.borrow_mut().skip_to(quiet_until);
        }
        rows
    }

    async fn fill_row(self: &Rc<Self>, row: Row, targets: &[Target]) -> Result<(), IoErrorKind> {
        let _memory = self.memory.acquire(self.row_cost).await;
        let cols = 0..self.geometry.chunk_blocks();
        let _lock = self.cache.lock(row, cols.clone()).await;
        let lacking: Vec<&Target> = targets
            .iter()
            .filter(|t| !t.disk.progress.borrow().has(row))
            .collect();
        if self.space.borrow().is_written(row) {
            let _sums = self.sums_ready(row, &cols).await?;
            let contents = self.slot_contents(row, &lacking).await?;
            self.touch_sums(row);
            for (target, data) in lacking.iter().zip(contents) {
                // Nobody vouched for a parity that had no place to go.
                let is_parity = !matches!(self.geometry.role(row, target.slot), Role::Data(_));
                if is_parity && !self.is_noted(row, target.slot, &data) {
                    self.note_refilled(row).await?;
                }
                self.note_blocks(row, target.slot, 0, &data);
                let written = target.disk.write(&self.geometry, row, 0, data).await;
                if let Err(error) = written {
                    self.write_failed(&target.disk, &error).await;
                    // The next pass does without this disk.
                    return Ok(());
                }
            }
        }
        for target in lacking {
            target.disk.progress.borrow_mut().mark(row);
        }
        Ok(())
    }

    /// What the targets' slots should hold in `row`; read once for all of them.
    async fn slot_contents(
        self: &Rc<Self>,
        row: Row,
        lacking: &[&Target],
    ) -> Result<Vec<SharedBuf>, IoErrorKind> {
        let cols = 0..self.geometry.chunk_blocks();
        let mut view = self.view(row);
        if let [target] = lacking {
            if let Some(member) = view.reader(target.slot).map(Rc::clone) {
                let read = self.read_slot(&view, target.slot, Rc::clone(&member), &cols);
                let buf = match read.await {
                    Ok(buf) => buf,
                    Err(_) => self.block_by_block(row, target.slot, &member).await?,
                };
                return Ok(vec![buf.freeze()]);
            }
            let buf = self.contents_of(&mut view, target.slot, &cols).await?;
            return Ok(vec![buf.freeze()]);
        }
        let all = Set::first(self.geometry.data_chunks());
        let data = self.load_data(&mut view, &cols, all).await?;
        let data: Vec<Buf> = data.into_iter().flatten().collect();
        let mut contents = Vec::with_capacity(lacking.len());
        for target in lacking {
            contents.push(match self.geometry.role(row, target.slot) {
                Role::Data(index) => {
                    let chunk = data.get(index).ok_or(IoErrorKind::Lost)?;
                    Buf::copy_of(chunk).freeze()
                }
                parity => self.parity_of(parity, &data).freeze(),
            });
        }
        Ok(contents)
    }

    /// A chunk of which a member can't give all: what it gives of it, and the others the rest.
    async fn block_by_block(
        self: &Rc<Self>,
        row: Row,
        slot: Slot,
        member: &Rc<Disk>,
    ) -> Result<Buf, IoErrorKind> {
        let mut chunk = self.pool.take(usize_of(self.geometry.chunk_bytes()));
        for (col, to) in (0..).zip(chunk.chunks_mut(BLOCK_BYTES)) {
            let cols = col..col + 1;
            // Anew for each: who can't be read in one column may well be in the next.
            let mut view = self.view(row);
            let read = self.read_slot(&view, slot, Rc::clone(member), &cols);
            let block = match read.await {
                Ok(block) => block,
                Err(unread) => {
                    view.leave_out(unread);
                    self.contents_of(&mut view, slot, &cols).await?
                }
            };
            to.copy_from_slice(&block);
        }
        Ok(chunk)
    }

    fn note_filled(&self, rows: &[Row]) {
        let told = {
            let mut progress = self.sync.progress.borrow_mut();
            let Some(pass) = progress.as_mut() else {
                return;
            };
            pass.filled += u64_of(rows.len());
            pass.cursor = rows.last().map_or(pass.cursor, |row| Row(row.0 + 1));
            let space = self.space.borrow();
            let (done, total) = pass.share(&space);
            let percent = done * 100 / total.max(1);
            let step = percent / PERCENT_STEP * PERCENT_STEP;
            let news = step > pass.percent_told && step < 100;
            if news {
                pass.percent_told = step;
            }
            news.then_some(step)
        };
        if let Some(percent) = told.and_then(|percent| u8::try_from(percent).ok()) {
            self.report(
                EventKind::Rebuild(percent),
                None,
                format!("{percent} % rebuilt"),
            );
        }
    }

    /// Makes what is filled durable and notes it in the labels.
    async fn save_cursor(self: &Rc<Self>, targets: &[Target]) -> Result<(), RaidError> {
        let reached: Vec<u64> = targets
            .iter()
            .map(|t| t.disk.progress.borrow().watermark().0)
            .collect();
        let rows = self.space.borrow().extents_total() * self.rows_per_extent();
        // The pages that the targets' copies need, too.
        if !mutation::on(Mutation::CursorAheadOfFlush) {
            self.flush_filled().await?;
        }
        for (target, row) in targets.iter().zip(reached) {
            if self.clear_missed(&target.disk, Row(row)) {
                target.disk.durable_rows.set(row.min(rows));
            }
        }
        let held = self.lock_labels().await;
        self.commit(&held).await
    }

    /// Makes durable what is filled, and the pages that speak of it.
    async fn flush_filled(self: &Rc<Self>) -> Result<(), RaidError> {
        // Flushes what is filled before it writes pages. The cursor has passed rows that were trimmed by
        // records that are still on their way: not before these are on the disks, too.
        let flushed = async {
            if let Some(journal) = self.journal() {
                journal.logged_below(journal.next()).await?;
            }
            let refilled = self.missed.refilled();
            self.checkpoint().await?;
            self.flush_all().await?;
            self.missed.note_refilled_flushed(&refilled);
            Ok::<(), IoErrorKind>(())
        };
        flushed.await.map_err(|_| self.lost_error())
    }

    /// Has everything in place that was logged, and gives the targets a copy of everything that is logged from now on: what
    /// was logged before has fewer copies than will be counted on, on members that are missing, and what isn't on the targets
    /// has none on who replaces the members that have it.
    async fn join_journal(
        self: &Rc<Self>,
        targets: &[Target],
    ) -> Result<Option<Joining>, RaidError> {
        let disks: Vec<_> = targets
            .iter()
            .map(|target| Rc::clone(&target.disk))
            .filter(|disk| !disk.out.get())
            .collect();
        let journal = self.journal();
        let mut joining = None;
        if let Some(journal) = &journal {
            self.write_headers_and_to(journal, &disks).await;
            for disk in &disks {
                journal.add_ring(disk);
            }
            joining = Some(journal.join(disks.clone()));
        }
        self.drain_journal().await.map_err(|_| self.lost_error())?;
        if let Some(journal) = &journal {
            // What the drain has passed isn't looked for in their rings.
            self.write_headers_and_to(journal, &disks).await;
        }
        if !mutation::on(Mutation::MembersAheadOfFlush) {
            self.flush_filled().await?;
        }
        Ok(joining)
    }

    /// The targets are members now; false: not yet, since something changed.
    async fn complete(self: &Rc<Self>, targets: &[Target]) -> Result<bool, RaidError> {
        let mut tries = 0;
        let (held, joining, hold) = loop {
            let joined = self.join_journal(targets).await?;
            // Until the labels say who the members are, a start may find those of before: what is put in place, or in
            // pages, without them meanwhile stays in the journal. A cycle that began before this may trim more.
            let journal = self.journal();
            let hold = journal.map(|journal| journal.hold(journal.floor()));
            if !mutation::on(Mutation::MembersAheadOfFlush) {
                self.run_cycle().await;
            }
            let held = self.lock_labels().await;
            // Who can't be labelled is out before anybody is replaced by it.
            self.commit(&held).await?;
            // From here to the last promotion nothing awaits.
            if joined.as_ref().is_none_or(Joining::has_all) {
                break (held, joined, hold);
            }
            drop((held, joined, hold));
            // One was slow, or had no room: nobody is to wait for it, and it joins anew.
            tries += 1;
            if tries == JOINS_UNTOLD {
                self.report(EventKind::RebuildStopped, None, JOIN_WAITS.into());
            }
            self.env.clock.sleep(DRAIN_AGAIN_AFTER).await;
            if self.is_stopping() || self.check_alive().is_err() {
                return Err(self.lost_error());
            }
            if self.sync.again.get() {
                return Ok(false);
            }
        };
        let ready = |target: &&Target| !target.disk.out.get();
        self.sync.joining.set(targets.len());
        let mut done = Vec::new();
        let mut replaced = Vec::new();
        for target in targets.iter().filter(ready) {
            let old = self.promote(&target.disk, target.slot.0);
            replaced.extend(old.map(|old| (Rc::clone(&target.disk), old)));
            self.sync.promoted.borrow_mut().push(target.disk.uuid);
            done.push(target);
        }
        drop(joining);
        let committed = self.commit_event(&held).await;
        self.sync.promoted.borrow_mut().clear();
        if committed.is_err() {
            // It has failed, and the next start finds the members of before.
            self.sync.kept.replace(hold);
            return committed.map(|()| true);
        }
        drop((held, hold));
        // One may have failed in that very moment.
        done.retain(|target| !target.disk.out.get());
        // And what was logged while that was committed: until then no more disks may be lost than before.
        let mut told = false;
        while self.drain_journal().await.is_err() {
            if self.is_stopping() || self.check_alive().is_err() {
                return Err(self.lost_error());
            }
            if !std::mem::replace(&mut told, true) {
                self.report(EventKind::RebuildStopped, None, LOGGED_WAITS.into());
            }
            self.env.clock.sleep(DRAIN_AGAIN_AFTER).await;
        }
        self.sync.joining.set(0);
        for (new, old) in replaced {
            if !new.out.get() {
                self.dismiss(&old).await;
                continue;
            }
            let detail = format!(
                "replaced by {}, which failed at once: its label stays, wipe it before reuse",
                new.path
            );
            self.report(EventKind::DiskRemoved, Some(&old.path), detail);
        }
        self.forget_maps();
        let is_over = !done.is_empty();
        for target in done {
            let detail = format!("slot {}", target.slot.0);
            self.report(EventKind::SpareActive, Some(&target.disk.path), detail);
        }
        if is_over {
            self.report(EventKind::RebuildFinished, None, String::new());
        }
        Ok(true)
    }

    /// Whether a disk has become a member, which no label says yet.
    pub(crate) fn is_promoted(&self, disk: Uuid) -> bool {
        self.sync.promoted.borrow().contains(&disk)
    }

    /// How far filling is.
    pub(crate) fn sync_status(&self) -> Option<SyncStatus> {
        let pass = (*self.sync.progress.borrow())?;
        let space = self.space.borrow();
        let (done, total) = pass.share(&space);
        let elapsed_ms = u64::try_from(self.env.clock.now().since(pass.started).as_millis());
        let elapsed_ms = elapsed_ms.unwrap_or(u64::MAX).max(1);
        let bytes_per_second = (pass.filled * pass.row_bytes).saturating_mul(1000) / elapsed_ms;
        let left = (total - done) * pass.row_bytes;
        Some(SyncStatus {
            action: pass.action,
            done_bytes: done * pass.row_bytes,
            total_bytes: total * pass.row_bytes,
            eta_seconds: left.checked_div(bytes_per_second),
            bytes_per_second,
        })
    }

    /// Recomputes parity (RAID 1: copies one member over the others) of every written row; gives the
    /// rows for which that couldn't be done.
    ///
    /// Runs before the array serves: until it is done, no block of a failed member could be trusted.
    /// With members missing (which the operator forced) their data is what the parities say.
    pub(crate) async fn resync(self: &Rc<Self>) -> Result<Unsynced, RaidError> {
        self.report(
            EventKind::ResyncStarted,
            None,
            "after an unclean stop".into(),
        );
        let row_members = u64_of(self.geometry.members()) * self.geometry.chunk_bytes();
        let at_once = usize_of((BYTES_AT_ONCE / row_members).clamp(1, ROWS_AT_ONCE));
        let mut at = Row(0);
        let mut unsynced = Unsynced {
            rows: 0,
            first: None,
        };
        let mut rows = 0u64;
        loop {
            let mut batch = Vec::with_capacity(at_once);
            while batch.len() < at_once {
                let Some(row) = self.space.borrow().next_written(at) else {
                    break;
                };
                batch.push(row);
                at = Row(row.0 + 1);
            }
            if batch.is_empty() {
                break;
            }
            rows += u64_of(batch.len());
            let results = join_all(batch.iter().map(|row| self.resync_row(*row))).await;
            for (row, result) in batch.iter().zip(results) {
                if result.is_err() {
                    unsynced.rows += 1;
                    unsynced.first.get_or_insert(*row);
                }
            }
            self.check_alive().map_err(|_| self.lost_error())?;
        }
        self.flush_all().await.map_err(|_| self.lost_error())?;
        let detail = format!("{rows} rows, {} of them couldn't be", unsynced.rows);
        self.report(EventKind::ResyncFinished, None, detail);
        Ok(unsynced)
    }

    async fn resync_row(self: &Rc<Self>, row: Row) -> Result<(), IoErrorKind> {
        let cols = 0..self.geometry.chunk_blocks();
        let _lock = self.cache.lock(row, cols.clone()).await;
        let mut view = self.view(row);
        view.wait_for_all();
        let whole = view.readable_data().len() == self.geometry.data_chunks();
        let all = Set::first(self.geometry.data_chunks());
        let data = self.load_data(&mut view, &cols, all).await?;
        if whole && self.geometry.level() != Level::Raid1 && !view.distrusted().is_empty() {
            // A data block couldn't be read, and what the parity gave in its place can't be trusted.
            return Err(IoErrorKind::Lost);
        }
        let data: Vec<Buf> = data.into_iter().flatten().collect();
        let copies: Vec<(Slot, SharedBuf)> = if self.geometry.level() == Level::Raid1 {
            let first = data.into_iter().next().map(Buf::freeze);
            view.slots_of(0)
                .filter_map(|slot| Some((slot, first.clone()?)))
                .collect()
        } else {
            let parities = [Role::P, Role::Q].into_iter();
            parities
                .filter_map(|role| {
                    Some((
                        view.parity_slot(role)?,
                        self.parity_of(role, &data).freeze(),
                    ))
                })
                .collect()
        };
        for (slot, wanted) in copies {
            for disk in view.writers(slot) {
                let same = match self.read_slot(&view, slot, Rc::clone(disk), &cols).await {
                    Ok(now) => *now == *wanted,
                    Err(_) => false,
                };
                if !same {
                    let written = disk.write(&self.geometry, row, 0, wanted.clone()).await;
                    if let Err(error) = written {
                        self.write_failed(disk, &error).await;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Rows whose parity couldn't be recomputed.
pub(crate) struct Unsynced {
    pub(crate) rows: u64,
    pub(crate) first: Option<Row>,
}
