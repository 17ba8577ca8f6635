//! The logs of an array, and the turns of their operations: each log lets in one after the other, in
//! the order of the calls, and while its quota lasts.
//!
//! Invariants
//! - A ticket names the next sequence that wasn't announced. Dropped before its operation is in the log,
//!   it makes all later tickets of the log void, and its sequence is the next one again.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use cairn_blockdev::IoErrorKind;
use cairn_blockdev::prepared::{BeforeTrim, LogId};
use tokio::sync::Notify;

use crate::array::Array;
use crate::journal::admission::operation_bytes;
use crate::journal::entry::Seq;
use crate::journal::log::Journal;
use crate::logs::book::{Book, LOGS_MAX};
use crate::logs::log::{Held, Log};

/// Operations of a log that wait for their turn at most.
const TICKETS_MAX: usize = 4096;
/// Logs whose floor or hook is remembered before they begin, at most.
const EARLY_MAX: usize = 4 * LOGS_MAX;

/// Tickets of one log, by the operation's sequence.
type Tickets = BTreeMap<u64, Rc<Cell<bool>>>;

/// All logs.
#[derive(Default)]
pub(crate) struct Logs {
    pub(crate) book: RefCell<Book>,
    /// Valid tickets of operations that aren't in their logs yet, and whether they still are valid.
    tickets: RefCell<BTreeMap<LogId, Tickets>>,
    hooks: RefCell<BTreeMap<LogId, BeforeTrim>>,
    /// Floors of logs that haven't begun.
    floors: RefCell<BTreeMap<LogId, u64>>,
    /// Logs whose hook is being asked, each with the question's number.
    asked: RefCell<BTreeMap<LogId, u64>>,
    /// Questions so far.
    questions: Cell<u64>,
    moved: Notify,
    /// The newest commit.
    pub(super) newest_commit: Cell<Option<Seq>>,
    /// The newest record by which the logs need less of what is older: the floor doesn't rise before it is durable.
    pub(super) newest: Cell<Option<Seq>>,
    /// What operations that have their turn will take, by their tickets' numbers: no other one gets that room.
    granted: RefCell<BTreeMap<u64, u64>>,
    /// Turns so far.
    turns: Cell<u64>,
    /// Everything that logs need below this is to be copied, whatever it costs.
    pub(super) renew_below: Cell<Option<Seq>>,
    /// What copying brings the floor to, or has brought it to.
    pub(super) cut: Cell<Option<Seq>>,
}

/// The place of an operation that isn't in its log yet.
pub(crate) struct Ticket {
    logs: Rc<Logs>,
    log: LogId,
    seq: u64,
    valid: Rc<Cell<bool>>,
    /// The number of its turn, once it has room.
    turn: Cell<Option<u64>>,
}

impl Ticket {
    pub(crate) fn log(&self) -> LogId {
        self.log
    }

    /// Fails once an operation before it failed, or was aborted.
    pub(crate) fn check(&self) -> Result<(), IoErrorKind> {
        if self.valid.get() {
            Ok(())
        } else {
            Err(IoErrorKind::Busy)
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(turn) = self.turn.get() {
            // It is in its log, and counts there, or comes to nothing.
            self.logs.granted.borrow_mut().remove(&turn);
            self.logs.wake();
        }
        if self.valid.get() {
            self.logs.void_tickets(self.log, self.seq);
        }
    }
}

impl Logs {
    /// Announces the operation that comes next in a log.
    pub(crate) fn announce(self: &Rc<Self>, id: LogId, seq: u64) -> Result<Ticket, IoErrorKind> {
        let mut tickets = self.tickets.borrow_mut();
        let of_log = tickets.entry(id).or_default();
        let expects = match of_log.last_key_value() {
            Some((last, _)) => Some(last + 1),
            None => self.look(id, Log::expects).flatten(),
        };
        let fits = seq > 0 && seq < u64::MAX && expects.is_none_or(|next| next == seq);
        if !fits || of_log.len() >= TICKETS_MAX {
            return Err(IoErrorKind::Busy);
        }
        let valid = Rc::new(Cell::new(true));
        of_log.insert(seq, Rc::clone(&valid));
        Ok(Ticket {
            logs: Rc::clone(self),
            log: id,
            seq,
            valid,
            turn: Cell::new(None),
        })
    }

    /// It is its turn: nobody else gets the room that it takes.
    fn grant(&self, ticket: &Ticket, cost: u64) {
        let turn = self.turns.get();
        self.turns.set(turn + 1);
        ticket.turn.set(Some(turn));
        self.granted.borrow_mut().insert(turn, cost);
    }

    /// Makes the log of a ticket, if there is none.
    pub(super) fn begin(&self, ticket: &Ticket) -> Result<(), IoErrorKind> {
        ticket.check()?;
        self.open(ticket.log)
    }

    /// Makes a log, if there is none.
    pub(super) fn open(&self, id: LogId) -> Result<(), IoErrorKind> {
        let mut book = self.book.borrow_mut();
        let log = book.open(id).ok_or(IoErrorKind::NoSpace)?;
        if let Some(floor) = self.floors.borrow_mut().remove(&id) {
            log.set_floor(floor);
        }
        Ok(())
    }

    /// An operation is in the lane: puts it in its log.
    pub(super) fn enter(&self, ticket: Ticket, held: Held) {
        let mut book = self.book.borrow_mut();
        book.pin(&held.pins);
        if let Some(log) = book.get_mut(ticket.log) {
            log.prepare(ticket.seq, held);
        }
        drop(book);
        ticket.valid.set(false);
        if let Some(of_log) = self.tickets.borrow_mut().get_mut(&ticket.log) {
            of_log.remove(&ticket.seq);
        }
        self.wake();
    }

    pub(super) fn abort(&self, id: LogId, from: u64) -> Vec<Rc<Held>> {
        let mut book = self.book.borrow_mut();
        let void = book
            .get_mut(id)
            .map(|log| log.abort(from))
            .unwrap_or_default();
        for held in &void {
            book.unpin(&held.pins);
        }
        drop(book);
        self.void_tickets(id, from);
        void
    }

    /// Removes a log of which nothing is pending.
    pub(super) fn forget(&self, id: LogId) {
        self.book.borrow_mut().remove(id);
        self.hooks.borrow_mut().remove(&id);
        // An answer that comes later is about this log, and none that is made anew under its name.
        self.asked.borrow_mut().remove(&id);
        self.floors.borrow_mut().remove(&id);
        self.void_tickets(id, 0);
    }

    /// Operations from `from` on don't get into the log.
    pub(super) fn void_tickets(&self, id: LogId, from: u64) {
        let mut tickets = self.tickets.borrow_mut();
        if let Some(of_log) = tickets.get_mut(&id) {
            for valid in of_log.split_off(&from).into_values() {
                valid.set(false);
            }
            if of_log.is_empty() {
                tickets.remove(&id);
            }
        }
        drop(tickets);
        self.wake();
    }

    pub(super) fn set_floor(&self, id: LogId, keep_from: u64) {
        let known = self.book.borrow().get(id).is_some();
        if known {
            self.change(id, |log| log.set_floor(keep_from));
            return;
        }
        let mut floors = self.floors.borrow_mut();
        if floors.len() < EARLY_MAX {
            let floor = floors.entry(id).or_default();
            *floor = keep_from.max(*floor);
        }
    }

    /// Looks at a log, if there is one.
    pub(crate) fn look<T>(&self, id: LogId, look: impl FnOnce(&Log) -> T) -> Option<T> {
        self.book.borrow().get(id).map(look)
    }

    pub(super) fn change(&self, id: LogId, change: impl FnOnce(&mut Log)) {
        if let Some(log) = self.book.borrow_mut().get_mut(id) {
            change(log);
        }
    }

    pub(super) fn set_hook(&self, id: LogId, hook: BeforeTrim) {
        let mut hooks = self.hooks.borrow_mut();
        if hooks.len() < EARLY_MAX || hooks.contains_key(&id) {
            hooks.insert(id, hook);
        }
    }

    pub(super) fn hook(&self, id: LogId) -> Option<BeforeTrim> {
        self.hooks.borrow().get(&id).map(Rc::clone)
    }

    /// A question to a log's hook; `None` while it owes the answer to another.
    pub(super) fn ask(&self, id: LogId) -> Option<u64> {
        let mut asked = self.asked.borrow_mut();
        if asked.contains_key(&id) {
            return None;
        }
        self.questions.set(self.questions.get() + 1);
        asked.insert(id, self.questions.get());
        Some(self.questions.get())
    }

    /// A hook answers. False: nobody waits for that any more.
    pub(super) fn answered(&self, id: LogId, question: u64) -> bool {
        let mut asked = self.asked.borrow_mut();
        let waits = asked.get(&id) == Some(&question);
        if waits {
            asked.remove(&id);
        }
        waits
    }

    /// Whether every operation before it is in the log.
    fn is_first(&self, ticket: &Ticket) -> bool {
        let tickets = self.tickets.borrow();
        let first = tickets.get(&ticket.log).and_then(BTreeMap::first_key_value);
        first.is_some_and(|(seq, _)| *seq == ticket.seq)
    }

    /// Whoever waits for a turn looks again.
    pub(crate) fn wake(&self) {
        self.moved.notify_waiters();
    }
}

impl Array {
    /// Waits until everything before it is in the log, and there is room for it.
    pub(super) async fn turn(
        self: &Rc<Self>,
        ticket: &Ticket,
        journal: &Journal,
        payload: usize,
    ) -> Result<(), IoErrorKind> {
        let cost = operation_bytes(payload);
        loop {
            let moved = self.logs.moved.notified();
            ticket.check()?;
            self.check_alive()?;
            if self.is_stopping() {
                return Err(IoErrorKind::Stopped);
            }
            if self.logs.is_first(ticket) {
                let book = self.logs.book.borrow();
                let granted = self.logs.granted.borrow().values().sum();
                if book.has_room(ticket.log, cost, journal.admits_bytes(), granted) {
                    drop(book);
                    self.logs.grant(ticket, cost);
                    return Ok(());
                }
            }
            moved.await;
        }
    }
}
