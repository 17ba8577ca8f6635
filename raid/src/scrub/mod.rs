//! Scrub: every block that was written is read and compared, and what is wrong is mended by what
//! verifies.
//!
//! [`word`] looks at columns of a row, [`pace`] decides how fast; here is the walk over the rows and
//! its record, which is kept with the bad-block list on every member.
//!
//! Invariants
//! - Columns are looked at under their lock: no transaction is in the middle of them.
//! - The record's cursor never runs ahead of what was looked at. What is done twice after a crash is
//!   harmless.
//! - A run that was under way goes on after a restart; one that is held or paused stays so.
//! - A rebuild goes first: while slots are being filled, the scrub waits.
//!
//! Does not know: when a scrub is due, or in which hours of the week it may run (the daemon does).

mod pace;
mod word;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use cairn_blockdev::units::{BLOCK, u64_of};
use cairn_blockdev::{IoErrorKind, Ticks};
use futures_util::future::{LocalBoxFuture, join_all, select};
use tokio::sync::Notify;

use crate::array::{Array, SyncAction, SyncStatus};
use crate::defects::{ENTRIES_MAX, ScrubRecord, ScrubState};
use crate::error::RaidError;
use crate::events::EventKind;
use crate::geometry::{Columns, Role, Row};
use pace::{Pace, Requests, Turn};

/// Bytes read from all members together for one piece, about.
const PIECE_BYTES: u64 = 1 << 20;
/// Pieces at once while no client is active.
const PIECES_AT_ONCE: usize = 8;
/// Clients count as active for this long after their last request.
const CLIENT_ACTIVE: Duration = Duration::from_millis(100);
/// How often the cursor is saved while nothing is found.
const SAVE_EVERY: Duration = Duration::from_secs(5);
/// How long it waits for a rebuild, or for a disk that is slow, before it looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Findings of one run that are told one by one; the rest is only counted.
const TOLD_MAX: u32 = 256;

/// What the scrub's task needs beside its record.
#[derive(Default)]
pub(crate) struct ScrubTask {
    running: Cell<bool>,
    /// Told when it has something to look at before its pause is over.
    woken: Notify,
    /// Clients' requests since somebody last looked.
    requests: Cell<Requests>,
    bytes_per_second_max: Cell<Option<u64>>,
    progress: RefCell<Option<Pass>>,
    /// Findings told in this run.
    told: Cell<u32>,
    /// Counts the runs started here, so that a walk doesn't go on in the next one's name.
    run: Cell<u64>,
    /// The record of a run that has ended, as it was before, while its end is being made durable.
    ending: Cell<Option<ScrubRecord>>,
}

impl ScrubTask {
    pub(crate) fn is_running(&self) -> bool {
        self.running.get()
    }

    pub(crate) fn wake(&self) {
        self.woken.notify_one();
    }

    /// A client's request has ended.
    pub(crate) fn note_request(&self, took: Duration) {
        let mut requests = self.requests.get();
        requests.add(took);
        self.requests.set(requests);
    }
}

/// What is done since the task was started, for the pace that is shown.
#[derive(Debug, Clone, Copy)]
struct Pass {
    started: Ticks,
    rows: u64,
}

/// A piece of work.
struct Piece {
    row: Row,
    cols: Columns,
}

impl Piece {
    fn start(&self) -> Place {
        Place {
            row: self.row,
            col: self.cols.start,
        }
    }
}

/// Where the walk is: everything before this was looked at.
#[derive(Debug, Clone, Copy)]
struct Place {
    row: Row,
    col: u64,
}

/// What looking at blocks has come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Found {
    repaired: u64,
    mismatched: u64,
    unrepairable: u64,
}

impl Found {
    fn add(&mut self, other: Self) {
        self.repaired += other.repaired;
        self.mismatched += other.mismatched;
        self.unrepairable += other.unrepairable;
    }

    fn is_some(self) -> bool {
        self.repaired + self.mismatched + self.unrepairable > 0
    }

    /// Without what is left as it was.
    fn mended(self) -> Self {
        Self {
            repaired: self.repaired,
            mismatched: self.mismatched.min(self.repaired),
            unrepairable: 0,
        }
    }
}

/// How looking at a piece ended.
enum Looked {
    Done(Found),
    /// A disk is slow, or was just thrown out: look again later.
    Later,
}

/// What a run has come to.
fn words(scrub: ScrubRecord) -> String {
    format!(
        "{} blocks repaired, {} mismatched, {} unrepairable",
        scrub.repaired, scrub.mismatched, scrub.unrepairable
    )
}

impl Array {
    /// Starts a scrub of all that was written, or goes on with one that is paused or held. Durable on
    /// return; true if that changed anything.
    pub fn scrub_start(self: &Rc<Self>) -> LocalBoxFuture<'_, Result<bool, RaidError>> {
        Box::pin(async move {
            self.check_open()?;
            match self.scrub_record().state {
                ScrubState::Running => return Ok(false),
                ScrubState::Paused | ScrubState::Waiting => return self.scrub_resume().await,
                ScrubState::Idle | ScrubState::Stopped => {}
            }
            self.scrub.told.set(0);
            self.scrub.run.set(self.scrub.run.get() + 1);
            let started_ms = self.env.clock.unix_ms();
            self.change_scrub(|scrub| ScrubRecord {
                state: ScrubState::Running,
                started_ms,
                finished_ms: scrub.finished_ms,
                runs: scrub.runs,
                ..ScrubRecord::default()
            })
            .await?;
            self.report(EventKind::ScrubStarted, None, "from the beginning".into());
            self.kick_scrub();
            Ok(true)
        })
    }

    /// Pauses a scrub; it stays paused, over restarts too, until it is resumed.
    pub fn scrub_pause(self: &Rc<Self>) -> LocalBoxFuture<'_, Result<bool, RaidError>> {
        Box::pin(async move {
            self.check_open()?;
            match self.scrub_record().state {
                ScrubState::Paused => Ok(false),
                ScrubState::Running | ScrubState::Waiting => {
                    self.halt_scrub(ScrubState::Paused, "by the operator").await
                }
                ScrubState::Idle | ScrubState::Stopped => Err(self.no_scrub("pause")),
            }
        })
    }

    /// Holds a running scrub until the host resumes it: its window is over. A paused one stays paused.
    pub fn scrub_hold(self: &Rc<Self>) -> LocalBoxFuture<'_, Result<bool, RaidError>> {
        Box::pin(async move {
            self.check_open()?;
            if self.scrub_record().state != ScrubState::Running {
                return Ok(false);
            }
            self.halt_scrub(ScrubState::Waiting, "until its next window")
                .await
        })
    }

    /// Goes on with a scrub that is paused or held.
    pub fn scrub_resume(self: &Rc<Self>) -> LocalBoxFuture<'_, Result<bool, RaidError>> {
        Box::pin(async move {
            self.check_open()?;
            match self.scrub_record().state {
                ScrubState::Running => return Ok(false),
                ScrubState::Paused | ScrubState::Waiting => {}
                ScrubState::Idle | ScrubState::Stopped => return Err(self.no_scrub("resume")),
            }
            self.change_scrub(|scrub| ScrubRecord {
                state: ScrubState::Running,
                ..scrub
            })
            .await?;
            let row = self.scrub_record().cursor;
            self.report(
                EventKind::ScrubStarted,
                None,
                format!("goes on at row {}", row.0),
            );
            self.kick_scrub();
            Ok(true)
        })
    }

    /// Ends a scrub before its end. The next one begins at the beginning.
    pub fn scrub_stop(self: &Rc<Self>) -> LocalBoxFuture<'_, Result<bool, RaidError>> {
        Box::pin(async move {
            self.check_open()?;
            match self.scrub_record().state {
                ScrubState::Stopped => Ok(false),
                ScrubState::Idle => Err(self.no_scrub("stop")),
                ScrubState::Running | ScrubState::Paused | ScrubState::Waiting => {
                    self.halt_scrub(ScrubState::Stopped, "by the operator")
                        .await
                }
            }
        })
    }

    /// Bounds what a scrub reads, of all members together. `None`: only clients' latency does.
    pub fn set_scrub_limit(&self, bytes_per_second_max: Option<u64>) {
        self.scrub.bytes_per_second_max.set(bytes_per_second_max);
    }

    fn no_scrub(&self, verb: &'static str) -> RaidError {
        RaidError::NoScrub {
            array: self.name().to_owned(),
            verb,
        }
    }

    async fn halt_scrub(self: &Rc<Self>, to: ScrubState, why: &str) -> Result<bool, RaidError> {
        self.change_scrub(|scrub| ScrubRecord { state: to, ..scrub })
            .await?;
        self.scrub.wake();
        let kind = if to == ScrubState::Stopped {
            EventKind::ScrubStopped
        } else {
            EventKind::ScrubPaused
        };
        self.report(kind, None, format!("{why}; {}", words(self.scrub_record())));
        Ok(true)
    }

    async fn change_scrub(
        self: &Rc<Self>,
        change: impl FnOnce(ScrubRecord) -> ScrubRecord,
    ) -> Result<(), RaidError> {
        {
            let mut defects = self.defects.borrow_mut();
            let scrub = change(defects.scrub());
            defects.set_scrub(scrub);
        }
        self.save_scrub().await.map_err(|_| self.lost_error())
    }

    async fn save_scrub(self: &Rc<Self>) -> Result<(), IoErrorKind> {
        if self.has_dirty_sums() {
            // Pages that it mended are found no more once the cursor is past them.
            self.checkpoint().await?;
        }
        self.save_defects().await?;
        self.flush_all().await
    }

    /// Starts the task if a scrub is to run and nobody runs it yet.
    pub(crate) fn kick_scrub(self: &Rc<Self>) {
        if self.should_scrub() && !self.scrub.running.replace(true) {
            let array = Rc::clone(self);
            self.env
                .spawn
                .spawn(Box::pin(async move { array.scrub_on().await }));
        }
    }

    fn should_scrub(&self) -> bool {
        self.is_open()
            && !self.is_stopping()
            && self.check_alive().is_ok()
            && self.scrub_record().state == ScrubState::Running
    }

    async fn scrub_on(self: Rc<Self>) {
        while self.should_scrub() {
            if let Err(reason) = self.walk().await {
                // Nothing here says that it will be better at once: the operator decides.
                let paused = |scrub| ScrubRecord {
                    state: ScrubState::Paused,
                    ..scrub
                };
                if self.change_scrub(paused).await.is_ok() {
                    self.report(EventKind::ScrubPaused, None, reason);
                }
            }
            *self.scrub.progress.borrow_mut() = None;
        }
        if self.check_alive().is_ok() {
            // An error means that the array has failed; the cursor of some seconds ago will do.
            let _ = self.save_scrub().await;
        }
        self.scrub.running.set(false);
        // It may have been resumed while that was saved.
        self.kick_scrub();
    }

    /// Walks from the cursor to the end, or until it is to stop. Fails with what is in the way.
    async fn walk(self: &Rc<Self>) -> Result<(), String> {
        *self.scrub.progress.borrow_mut() = Some(Pass {
            started: self.env.clock.now(),
            rows: 0,
        });
        let mut at = Place {
            row: self.scrub_record().cursor,
            col: 0,
        };
        let mut pace = Pace::default();
        let mut before = Requests::default();
        let mut saved = self.env.clock.now();
        self.scrub.requests.take();
        let run = self.scrub.run.get();
        while self.should_scrub() && self.scrub.run.get() == run {
            if self.sync.is_running() {
                self.scrub_sleep(LOOK_AGAIN).await;
                continue;
            }
            let began = self.env.clock.now();
            let clients = began.since(self.last_client_io()) < CLIENT_ACTIVE;
            let most = if clients { 1 } else { PIECES_AT_ONCE };
            let (pieces, next) = self.next_pieces(at, most);
            if pieces.is_empty() {
                return self.finish_scrub().await;
            }
            let results = join_all(pieces.iter().map(|piece| self.look_at(piece))).await;
            if self.scrub.run.get() != run {
                return Ok(());
            }
            let mut found = Found::default();
            let mut again = None;
            for (piece, result) in pieces.iter().zip(results) {
                match result? {
                    Looked::Done(what) if again.is_none() => found.add(what),
                    // Looked at once more: what it can't mend is counted then.
                    Looked::Done(what) => found.add(what.mended()),
                    Looked::Later => again = again.or(Some(piece.start())),
                }
            }
            let next = again.unwrap_or(next);
            self.note_rows(at.row, next.row);
            at = next;
            self.note_found(found, at.row);
            // What is mended is found no more: a crash must not take the count of it.
            if found.is_some() || self.env.clock.now().since(saved) >= SAVE_EVERY {
                saved = self.env.clock.now();
                self.save_scrub().await.map_err(|kind| kind.to_string())?;
            }
            let blocks: u64 = pieces.iter().map(|p| p.cols.end - p.cols.start).sum();
            let turn = Turn {
                clients,
                before,
                during: self.scrub.requests.take(),
                took: self.env.clock.now().since(began),
                bytes: blocks * BLOCK * u64_of(self.geometry.members()),
            };
            let pause = pace.after(&turn, self.scrub.bytes_per_second_max.get());
            self.scrub_sleep(if again.is_some() {
                pause.max(LOOK_AGAIN)
            } else {
                pause
            })
            .await;
            before = self.scrub.requests.take();
        }
        Ok(())
    }

    /// Looks at a single row, out of turn, as a scrub does; false if it couldn't look at all of it now. What it finds counts
    /// for none.
    pub(crate) async fn look_at_row(self: &Rc<Self>, row: Row) -> bool {
        let whole = 0..self.geometry.chunk_blocks();
        if !self.space.borrow().is_written(row) {
            // It holds nothing; its checksums begin anew.
            let _lock = self.cache.lock(row, whole.clone()).await;
            return self.vouch_for(row, &whole).await.is_ok();
        }
        let is_whole = self.look_at_columns(row).await;
        // What is logged for a block is what it is to hold. Of what is given up it is zeros.
        let found: Vec<_> = {
            let defects = self.defects.borrow();
            let found = defects.in_columns(row, &whole);
            let found = found.filter(|(_, defect)| !defect.reason.is_given_up());
            found.map(|(place, _)| place).collect()
        };
        for place in found {
            let (col, slot) = (u64::from(place.col), place.slot);
            if let Role::Data(index) = self.geometry.role(row, slot)
                && self.is_logged(row, index, &(col..col + 1))
            {
                self.heal(row, index, &(col..col + 1));
            }
        }
        is_whole
    }

    async fn look_at_columns(self: &Rc<Self>, row: Row) -> bool {
        let mut at = Place { row, col: 0 };
        let mut is_whole = true;
        while at.row == row {
            let (pieces, next) = self.next_pieces(at, 1);
            for piece in pieces.iter().filter(|piece| piece.row == row) {
                is_whole &= matches!(self.look_at(piece).await, Ok(Looked::Done(_)));
            }
            if pieces.is_empty() {
                break;
            }
            at = next;
        }
        is_whole
    }

    /// The next pieces at or after `at`, and where the walk is after them.
    fn next_pieces(&self, at: Place, most: usize) -> (Vec<Piece>, Place) {
        let blocks = self.geometry.chunk_blocks();
        let members = u64_of(self.geometry.members());
        let len = (PIECE_BYTES / (BLOCK * members)).clamp(1, blocks);
        let mut pieces = Vec::with_capacity(most);
        let mut at = at;
        while pieces.len() < most {
            let Some(row) = self.space.borrow().next_written(at.row) else {
                break;
            };
            let from = if row == at.row { at.col } else { 0 };
            let to = (from + len).min(blocks);
            pieces.push(Piece {
                row,
                cols: from..to,
            });
            at = if to == blocks {
                Place {
                    row: Row(row.0 + 1),
                    col: 0,
                }
            } else {
                Place { row, col: to }
            };
        }
        (pieces, at)
    }

    fn note_rows(&self, from: Row, to: Row) {
        let space = self.space.borrow();
        let rows = space.rows_written_before(to) - space.rows_written_before(from);
        if let Some(pass) = self.scrub.progress.borrow_mut().as_mut() {
            pass.rows += rows;
        }
    }

    fn note_found(&self, found: Found, cursor: Row) {
        let mut defects = self.defects.borrow_mut();
        let scrub = defects.scrub();
        defects.set_scrub(ScrubRecord {
            cursor,
            repaired: scrub.repaired + found.repaired,
            mismatched: scrub.mismatched + found.mismatched,
            unrepairable: scrub.unrepairable + found.unrepairable,
            ..scrub
        });
    }

    async fn scrub_sleep(&self, pause: Duration) {
        if pause.is_zero() {
            return;
        }
        let woken = std::pin::pin!(self.scrub.woken.notified());
        select(self.env.clock.sleep(pause), woken).await;
    }

    async fn finish_scrub(self: &Rc<Self>) -> Result<(), String> {
        let run = self.scrub.run.get();
        let zones = self.check_zones().await;
        let zones = zones.map_err(|kind| kind.to_string())?;
        // What was mended is durable before the record says so.
        let mended = async {
            self.flush_all().await?;
            self.checkpoint().await
        };
        let mended: Result<(), IoErrorKind> = mended.await;
        mended.map_err(|kind| kind.to_string())?;
        let finished_ms = self.env.clock.unix_ms();
        let (before, ended) = {
            let mut defects = self.defects.borrow_mut();
            let before = defects.scrub();
            if before.state != ScrubState::Running || self.scrub.run.get() != run {
                // Stopped at the last moment, or begun anew: it is as the operator said.
                return Ok(());
            }
            // Everything was looked at, and what is bad had room in the list.
            if defects.total() - defects.more() < u64_of(ENTRIES_MAX) {
                defects.forget_more();
            }
            let ended = ScrubRecord {
                state: ScrubState::Idle,
                cursor: Row(0),
                finished_ms,
                repaired: before.repaired + zones,
                runs: before.runs.saturating_add(1),
                ..before
            };
            defects.set_scrub(ended);
            (before, ended)
        };
        self.scrub.ending.set(Some(before));
        let saved = self.save_scrub().await;
        match saved {
            Ok(()) => self.report(EventKind::ScrubFinished, None, words(ended)),
            // It hasn't ended, unless it has begun anew meanwhile.
            Err(_) if self.scrub_record() == ended => self.defects.borrow_mut().set_scrub(before),
            Err(_) => {}
        }
        self.scrub.ending.set(None);
        saved.map_err(|kind| kind.to_string())
    }

    /// The record as it is shown: a run has ended once its end is durable and told, not before.
    pub(crate) fn shown_scrub(&self) -> ScrubRecord {
        self.scrub
            .ending
            .get()
            .unwrap_or_else(|| self.scrub_record())
    }

    /// Tells of a finding, unless this run has told enough.
    fn tell_finding(&self, kind: EventKind, disk: Option<&str>, detail: String) {
        let told = self.scrub.told.get();
        match told.cmp(&TOLD_MAX) {
            std::cmp::Ordering::Less => self.report(kind, disk, detail),
            std::cmp::Ordering::Equal => self.report(
                kind,
                disk,
                format!("{detail}; what else this scrub finds is only counted"),
            ),
            std::cmp::Ordering::Greater => return,
        }
        self.scrub.told.set(told + 1);
    }

    /// How far a scrub is, if one is under way, paused or held.
    pub(crate) fn scrub_status(&self) -> Option<SyncStatus> {
        let scrub = self.shown_scrub();
        match scrub.state {
            ScrubState::Running | ScrubState::Paused | ScrubState::Waiting => {}
            ScrubState::Idle | ScrubState::Stopped => return None,
        }
        let row_bytes = self.geometry.row_bytes();
        let space = self.space.borrow();
        let total = space.rows_written();
        let done = space.rows_written_before(scrub.cursor).min(total);
        let pass = *self.scrub.progress.borrow();
        let bytes_per_second = pass.map_or(0, |pass| {
            let elapsed = self.env.clock.now().since(pass.started).as_millis();
            let elapsed_ms = u64::try_from(elapsed).unwrap_or(u64::MAX).max(1);
            (pass.rows * row_bytes).saturating_mul(1000) / elapsed_ms
        });
        let left = (total - done) * row_bytes;
        Some(SyncStatus {
            action: SyncAction::Scrub,
            done_bytes: done * row_bytes,
            total_bytes: total * row_bytes,
            eta_seconds: left.checked_div(bytes_per_second),
            bytes_per_second,
        })
    }
}
