//! Prepared operations at work: the executor of [`crate::logs`] on an array's journal.
//!
//! `turns` lets the operations of a log in, one after the other; `place` is what a commit does to the
//! rows; `tend` what a cycle does for the logs; `listing` reads logs from disks that make no array.
//!
//! Invariants
//! - An operation gets its place in the lane in the same breath in which it enters its log, and so do a
//!   commit and its effects.
//! - Prepared writes never bypass: their payload is in the journal until it is in place, so an abort
//!   leaves nothing in doubt.
//! - A record's payload is in memory for as long as it isn't trimmed; the logs' quotas bound that.
//! - Extents of a pending write are mapped, and stay so: a commit needs no space.
//! - An array with logs is never called clean: its journal isn't empty.

mod listing;
mod place;
mod tend;
mod turns;

use std::rc::Rc;

use cairn_blockdev::prepared::{BeforeTrim, LogId, META_MAX, Record, Seq as LogSeq, Watermarks};
use cairn_blockdev::units::BLOCK_BYTES;
use cairn_blockdev::{IoErrorKind, SharedBuf};

pub use listing::{ListedLog, list_logs};
pub(crate) use turns::{Logs, Ticket};

use super::Array;
use crate::journal::entry::{Entry, Seq};
use crate::journal::log::Journal;
use crate::logs::codec::{of_abort, of_commit, of_forget, of_state};
use crate::logs::log::{Held, Log};
use crate::space::ExtentId;

impl Array {
    /// The journal, or why nothing can be prepared.
    fn journal_for_logs(&self) -> Result<Rc<Journal>, IoErrorKind> {
        if self.is_stopping() {
            return Err(IoErrorKind::Stopped);
        }
        self.check_alive()?;
        self.journal().ok_or(IoErrorKind::Unsupported)
    }

    /// Brings an operation into its log, durably. `reserve` maps what it needs, and says which extents
    /// these are; they are in use until it returned and the record pins them.
    pub(crate) async fn prepare<G>(
        self: &Rc<Self>,
        ticket: Ticket,
        (entry, payload): (Entry, Vec<SharedBuf>),
        reserve: impl AsyncFnOnce() -> Result<(Vec<ExtentId>, G), IoErrorKind>,
    ) -> Result<(), IoErrorKind> {
        let bytes: usize = payload.iter().map(|part| part.len()).sum();
        let journal = self.journal_for_logs()?;
        self.turn(&ticket, &journal, bytes).await?;
        let active = self.begin_write().await?;
        let admission = journal.admit_operation(bytes).await?;
        let (pins, guards) = reserve().await?;
        let begun = self.check_alive().and_then(|()| self.logs.begin(&ticket));
        if let Err(kind) = begun {
            // Nobody is to find its space taken by nothing.
            drop(guards);
            for extent in pins {
                self.free_if_empty(extent).await?;
            }
            return Err(kind);
        }
        // From here to the ticket's end nothing awaits.
        let seq = entry.log_seq;
        let lane = self.log(&journal, entry.clone(), payload.clone(), Some(admission));
        let held = Held {
            entry,
            payload,
            lane,
            stamp: lane,
            pins,
        };
        let id = ticket.log();
        self.logs.enter(ticket, held);
        drop(guards);
        self.make_durable(&journal, lane).await?;
        drop(active);
        let is_it = {
            let mut book = self.logs.book.borrow_mut();
            book.get_mut(id)
                .is_some_and(|log| log.note_durable(seq, lane))
        };
        self.tend_if_crowded(&journal);
        // An abort came while it was made durable: it is void, whatever became of its number since.
        is_it.then_some(()).ok_or(IoErrorKind::Busy)
    }

    /// What logs say takes room that wasn't admitted: a cycle has to look after it in time.
    fn tend_if_crowded(&self, journal: &Journal) {
        if journal.is_crowded() || journal.holds_unadmitted() {
            self.kick_apply();
        }
    }

    /// Everything through `lane` is on R+1 members and flushed.
    async fn make_durable(
        self: &Rc<Self>,
        journal: &Rc<Journal>,
        lane: Seq,
    ) -> Result<(), IoErrorKind> {
        journal.logged_below(lane.plus(1)).await?;
        // Its group is on R+1 members that answer: as for a client's flush, one that hangs holds up nobody.
        self.flush_acked().await?;
        self.before_ack().await
    }

    /// What is prepared through `through` takes effect.
    pub(crate) fn commit_log(self: &Rc<Self>, id: LogId, through: LogSeq) {
        // A stop, or a loss, came before it: it is pending at the next start. Until then nobody may read what is older.
        let (journal, is_logged) = match (self.journal_for_logs(), self.journal()) {
            (Ok(journal), _) => (journal, true),
            (Err(IoErrorKind::Lost), Some(journal)) => (journal, false),
            _ => return,
        };
        let end = self
            .logs
            .look(id, |log| log.commits_to(through.0))
            .flatten();
        let Some((first, through)) = end else {
            return;
        };
        let lane = if is_logged {
            let commit = of_commit(id.0, first, through);
            let lane = self.log(&journal, commit, Vec::new(), None);
            self.logs.newest_commit.set(Some(lane));
            lane
        } else {
            // No cycle runs any more, and no record is to be found.
            journal.next()
        };
        let effects = self.logs.book.borrow_mut().commit(id, lane, through);
        self.put_effects(&effects, lane);
        self.tend_if_crowded(&journal);
    }

    /// Waits until every commit that was called is logged, so that a flush makes it durable.
    pub(crate) async fn settle_commits(&self) -> Result<(), IoErrorKind> {
        match (self.journal(), self.logs.newest_commit.get()) {
            (Some(journal), Some(lane)) => journal.logged_below(lane.plus(1)).await,
            _ => Ok(()),
        }
    }

    /// What is pending from `from` on is void.
    pub(crate) async fn abort_log(
        self: &Rc<Self>,
        id: LogId,
        from: LogSeq,
    ) -> Result<(), IoErrorKind> {
        let journal = self.journal_for_logs()?;
        let Some(may) = self.logs.look(id, |log| log.may_abort(from.0)) else {
            // Its first operations may be on their way into it.
            self.logs.void_tickets(id, from.0);
            return Ok(());
        };
        if !may {
            return Err(IoErrorKind::OutOfRange);
        }
        let active = self.begin_write().await?;
        if self.logs.look(id, |log| log.may_abort(from.0)) != Some(true) {
            // It was committed while this waited.
            return Err(IoErrorKind::OutOfRange);
        }
        let voids = self.logs.look(id, Log::expects).flatten() > Some(from.0);
        let lane = if voids {
            self.log(&journal, of_abort(id.0, from.0), Vec::new(), None)
        } else {
            // Nothing to say; but another abort may be on its way.
            Seq(journal.next().0.saturating_sub(1))
        };
        self.logs.newest.set(Some(lane));
        let void = self.logs.abort(id, from.0);
        self.make_durable(&journal, lane).await?;
        drop(active);
        for extent in void.iter().flat_map(|held| &held.pins) {
            self.free_if_empty(*extent).await?;
        }
        Ok(())
    }

    /// Replaces a log's metadata.
    pub(crate) async fn set_log_meta(
        self: &Rc<Self>,
        id: LogId,
        meta: Vec<u8>,
    ) -> Result<(), IoErrorKind> {
        if meta.len() > META_MAX {
            return Err(IoErrorKind::OutOfRange);
        }
        let journal = self.journal_for_logs()?;
        let active = self.begin_write().await?;
        let admission = journal.admit(BLOCK_BYTES).await?;
        self.logs.open(id)?;
        self.logs.change(id, |log| log.set_meta(&meta));
        let state = self.logs.look(id, Log::state).ok_or(IoErrorKind::NoSpace)?;
        let (entry, payload) = of_state(id.0, &state);
        let lane = self.log(&journal, entry, payload, Some(admission));
        self.logs.newest.set(Some(lane));
        self.logs.change(id, |log| log.note_anchor(lane));
        self.make_durable(&journal, lane).await?;
        drop(active);
        Ok(())
    }

    /// Forgets a log.
    pub(crate) async fn forget_log(self: &Rc<Self>, id: LogId) -> Result<(), IoErrorKind> {
        let journal = self.journal_for_logs()?;
        let known = |log: &Log| log.watermarks().committed;
        let Some(committed) = self.logs.look(id, known) else {
            // What is on its way into it, and what its owner said of it before it was there.
            self.logs.forget(id);
            return Ok(());
        };
        // What was committed has to be in place first: its records go with the log.
        self.abort_log(id, committed.next()).await?;
        self.apply_all().await?;
        let active = self.begin_write().await?;
        if self.logs.look(id, Log::is_idle) == Some(false) {
            // Its owner goes on with it.
            return Err(IoErrorKind::Busy);
        }
        self.logs.forget(id);
        let lane = self.log(&journal, of_forget(id.0), Vec::new(), None);
        self.logs.newest.set(Some(lane));
        self.make_durable(&journal, lane).await?;
        drop(active);
        self.kick_apply();
        Ok(())
    }

    pub(crate) fn log_records(&self, id: LogId, from: LogSeq) -> Vec<Record> {
        self.logs.book.borrow().records(id, from)
    }

    pub(crate) fn log_watermarks(&self, id: LogId) -> Watermarks {
        self.logs.look(id, Log::watermarks).unwrap_or_default()
    }

    pub(crate) fn log_meta(&self, id: LogId) -> Rc<[u8]> {
        let meta = self.logs.look(id, |log| Rc::from(log.meta()));
        meta.unwrap_or_else(|| Rc::from([].as_slice()))
    }

    pub(crate) fn set_log_floor(&self, id: LogId, keep_from: LogSeq) {
        self.logs.set_floor(id, keep_from.0);
        self.kick_apply();
    }

    pub(crate) fn on_log_trim(&self, id: LogId, hook: BeforeTrim) {
        self.logs.set_hook(id, hook);
    }

    pub(crate) fn log_ids(&self) -> Vec<LogId> {
        self.logs.book.borrow().ids()
    }
}
