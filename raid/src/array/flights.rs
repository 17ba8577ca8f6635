//! The operations of one disk that are on their way: how old they are, who waits for them, and what
//! their age says of the disk.
//!
//! Invariants
//! - An operation stays in the table until the device has ended it, whether anybody still waits for it or not.
//! - Ages are counted in the watch's own time, which stands still while the engine does: completions
//!   that nobody could fetch say nothing against a disk.
//! - A disk that was given up ([`Flights::give_up`]) or retired begins no operation any more.
//!
//! Does not know: clocks, tasks, devices, what follows for the array.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use cairn_blockdev::{IoError, IoErrorKind, IoOp, Ticks};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::tally::{Asked, Counters, Ended};

/// How long an array waits for the answer of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// A disk without an answer for this long is slow: reads go around it where redundancy allows.
    pub reconstruct: Duration,
    /// A disk without an answer for this long is thrown out.
    pub eject: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            reconstruct: Duration::from_secs(2),
            eject: Duration::from_secs(30),
        }
    }
}

/// How long the caller of an operation waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// As long as a read that others can answer.
    Reconstruct,
    /// Until the disk is thrown out.
    Eject,
}

/// At most one event of a slow disk in this time.
const TELL_EVERY: Duration = Duration::from_mins(1);

/// What one operation is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    pub(crate) op: IoOp,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) patience: Patience,
}

impl Request {
    fn asked(&self) -> Asked {
        match self.op {
            IoOp::Read | IoOp::Open => Asked::Read,
            IoOp::Write => Asked::Write,
            IoOp::Flush => Asked::Flush,
            IoOp::Discard => Asked::Zeros,
        }
    }
}

struct Flight {
    /// By the watch's time, which stands still when the engine does.
    started: Duration,
    began: Ticks,
    request: Request,
    /// It is older than the first deadline.
    overdue: bool,
    /// Its caller is to be told that it timed out.
    given_up: bool,
    waker: Option<Waker>,
}

/// What a look at the table has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    Nothing,
    /// The disk became slow.
    Slow(String),
    /// It answers again.
    Answers,
    /// It gave no answer for too long: nobody waits for it any more.
    Hung(String),
    /// A disk that was given up has ended all that it was asked.
    Quiet,
}

/// Operations in flight of one disk.
pub(crate) struct Flights {
    path: Rc<str>,
    member: Cell<Option<Uuid>>,
    /// By number: in the order of their start.
    table: RefCell<BTreeMap<u64, Flight>>,
    next: Cell<u64>,
    overdue: Cell<usize>,
    /// It is in the list of the watch.
    pub(super) listed: Cell<bool>,
    hung: Cell<bool>,
    retired: Cell<bool>,
    timeouts: Cell<u64>,
    counters: Counters,
    told_slow: Cell<bool>,
    told_at: Cell<Option<Duration>>,
    /// Told when the last operation ends, and when the disk becomes slow.
    changed: Notify,
}

impl Flights {
    pub(crate) fn new(path: Rc<str>) -> Rc<Self> {
        Rc::new(Self {
            path,
            member: Cell::new(None),
            table: RefCell::default(),
            next: Cell::new(0),
            overdue: Cell::new(0),
            listed: Cell::new(false),
            hung: Cell::new(false),
            retired: Cell::new(false),
            timeouts: Cell::new(0),
            counters: Counters::default(),
            told_slow: Cell::new(false),
            told_at: Cell::new(None),
            changed: Notify::new(),
        })
    }

    pub(crate) fn path(&self) -> &Rc<str> {
        &self.path
    }

    /// The identity of the disk, once it has one.
    pub(crate) fn member(&self) -> Option<Uuid> {
        self.member.get()
    }

    pub(crate) fn belongs_to(&self, member: Uuid) {
        self.member.set(Some(member));
    }

    /// Operations that the device hasn't ended.
    pub(crate) fn in_flight(&self) -> usize {
        self.table.borrow().len()
    }

    /// Whether some operation is overdue.
    pub(crate) fn is_slow(&self) -> bool {
        self.overdue.get() > 0
    }

    /// Callers that were told that their operation timed out.
    pub(crate) fn timeouts(&self) -> u64 {
        self.timeouts.get()
    }

    /// What the device has ended.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Begins no further operation: the disk has left the array.
    pub(crate) fn retire(&self) {
        self.retired.set(true);
    }

    /// Why nothing can be begun, if so.
    pub(crate) fn refuses(&self, request: &Request) -> Option<IoError> {
        let kind = match (self.hung.get(), self.retired.get()) {
            (true, _) => IoErrorKind::TimedOut,
            (_, true) => IoErrorKind::Gone,
            _ => return None,
        };
        Some(self.error(kind, request))
    }

    pub(crate) fn error(&self, kind: IoErrorKind, request: &Request) -> IoError {
        IoError::new(kind, &self.path, request.op, request.offset, request.len)
    }

    /// Enters an operation; gives its number.
    pub(crate) fn start(&self, now: Duration, began: Ticks, request: Request) -> u64 {
        let number = self.next.get();
        self.next.set(number + 1);
        let flight = Flight {
            started: now,
            began,
            request,
            overdue: false,
            given_up: false,
            waker: None,
        };
        self.table.borrow_mut().insert(number, flight);
        number
    }

    /// Whom to wake when the operation is given up; or, if it was, the error for the caller.
    pub(crate) fn wait(&self, number: u64, waker: &Waker) -> Option<IoError> {
        let mut table = self.table.borrow_mut();
        let flight = table.get_mut(&number)?;
        if flight.given_up {
            self.timeouts.set(self.timeouts.get() + 1);
            flight.waker = None;
            return Some(self.error(IoErrorKind::TimedOut, &flight.request));
        }
        match &mut flight.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        None
    }

    /// Nobody waits for the operation any more; it stays in the table.
    pub(crate) fn orphan(&self, number: u64) {
        if let Some(flight) = self.table.borrow_mut().get_mut(&number) {
            flight.waker = None;
        }
    }

    /// The device has ended an operation.
    pub(crate) fn finish(&self, number: u64, now: Ticks, failed: bool) {
        let (ended, left) = {
            let mut table = self.table.borrow_mut();
            (table.remove(&number), table.len())
        };
        if let Some(flight) = ended {
            if flight.overdue {
                self.overdue.set(self.overdue.get() - 1);
            }
            let took = now.since(flight.began);
            let bytes = flight.request.len;
            let ended = Ended {
                bytes,
                took,
                failed,
            };
            self.counters.note(flight.request.asked(), &ended);
        }
        if left == 0 {
            self.changed.notify_waiters();
        }
    }

    /// Looks at what is oldest and wakes those who have waited long enough.
    pub(crate) fn look(&self, now: Duration, deadlines: &Deadlines, grain: Duration) -> Seen {
        if self.hung.get() {
            return if self.in_flight() == 0 {
                Seen::Quiet
            } else {
                Seen::Nothing
            };
        }
        // An operation may have started up to one look before its stamp: never too early.
        let age = |flight: &Flight| now.saturating_sub(flight.started + grain);
        let oldest = self.table.borrow().first_key_value().map(|(_, flight)| {
            let Request {
                op, offset, len, ..
            } = flight.request;
            let what = if op == IoOp::Flush {
                "a flush".to_owned()
            } else {
                format!("a {op} of {len} bytes at offset {offset}")
            };
            (age(flight), what)
        });
        if let Some((age, what)) = &oldest
            && *age >= deadlines.eject
        {
            self.give_up();
            return Seen::Hung(format!("no answer to {what} for {} s", age.as_secs()));
        }
        let mut wakers = Vec::new();
        for flight in self.table.borrow_mut().values_mut() {
            if age(flight) < deadlines.reconstruct {
                break;
            }
            if flight.overdue {
                continue;
            }
            flight.overdue = true;
            self.overdue.set(self.overdue.get() + 1);
            if flight.request.patience == Patience::Reconstruct {
                flight.given_up = true;
                wakers.extend(flight.waker.take());
            }
        }
        wakers.into_iter().for_each(Waker::wake);
        self.tell(now, oldest.map(|(_, what)| what))
    }

    fn tell(&self, now: Duration, oldest: Option<String>) -> Seen {
        if !self.is_slow() {
            return if self.told_slow.replace(false) {
                Seen::Answers
            } else {
                Seen::Nothing
            };
        }
        self.changed.notify_waiters();
        let told_at = self.told_at.get();
        let too_soon = told_at.is_some_and(|then| now.saturating_sub(then) < TELL_EVERY);
        if self.told_slow.get() || too_soon {
            return Seen::Nothing;
        }
        self.told_slow.set(true);
        self.told_at.set(Some(now));
        Seen::Slow(oldest.unwrap_or_default())
    }

    /// Tells every caller that its operation timed out, and begins no further one.
    pub(crate) fn give_up(&self) {
        self.hung.set(true);
        let mut wakers = Vec::new();
        for flight in self.table.borrow_mut().values_mut() {
            if !flight.overdue {
                flight.overdue = true;
                self.overdue.set(self.overdue.get() + 1);
            }
            flight.given_up = true;
            wakers.extend(flight.waker.take());
        }
        wakers.into_iter().for_each(Waker::wake);
        self.changed.notify_waiters();
    }

    /// Waits until nothing is in flight (true), or the disk is slow (false).
    pub(crate) async fn settled(&self) -> bool {
        loop {
            let changed = self.changed.notified();
            if self.in_flight() == 0 {
                return true;
            }
            if self.is_slow() {
                return false;
            }
            changed.await;
        }
    }

    /// Waits until some operation is overdue.
    pub(crate) async fn becomes_slow(&self) {
        loop {
            let changed = self.changed.notified();
            if self.is_slow() {
                return;
            }
            changed.await;
        }
    }

    /// Waits until nothing is in flight.
    pub(crate) async fn quiet(&self) {
        loop {
            let changed = self.changed.notified();
            if self.in_flight() == 0 {
                return;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRAIN: Duration = Duration::from_millis(250);

    fn request(patience: Patience) -> Request {
        Request {
            op: IoOp::Read,
            offset: 4096,
            len: 512,
            patience,
        }
    }

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn d4_an_old_read_is_given_up_a_patient_one_waits_and_both_make_the_disk_slow() {
        let flights = Flights::new("/dev/x".into());
        let deadlines = Deadlines::default();
        let waker = Waker::noop();
        let hasty = flights.start(at(0), Ticks(0), request(Patience::Reconstruct));
        let patient = flights.start(at(0), Ticks(0), request(Patience::Eject));
        assert_eq!(flights.look(at(2000), &deadlines, GRAIN), Seen::Nothing);
        assert!(flights.wait(hasty, waker).is_none());
        let seen = flights.look(at(2250), &deadlines, GRAIN);
        assert_eq!(
            seen,
            Seen::Slow("a read of 512 bytes at offset 4096".into())
        );
        let error = flights.wait(hasty, waker).unwrap();
        assert_eq!(error.kind, IoErrorKind::TimedOut);
        assert!(flights.wait(patient, waker).is_none());
        assert!(flights.is_slow() && flights.timeouts() == 1);
        // The answers come after all.
        flights.finish(hasty, Ticks(0), false);
        assert!(flights.is_slow());
        flights.finish(patient, Ticks(0), false);
        assert!(!flights.is_slow());
        assert_eq!(flights.look(at(2500), &deadlines, GRAIN), Seen::Answers);
        assert!(flights.refuses(&request(Patience::Eject)).is_none());
    }

    #[test]
    fn d4_a_disk_that_never_answers_is_given_up_with_all_that_it_was_asked() {
        let flights = Flights::new("/dev/x".into());
        let deadlines = Deadlines::default();
        let first = flights.start(at(0), Ticks(0), request(Patience::Eject));
        let last = flights.start(at(29_000), Ticks(0), request(Patience::Eject));
        flights.look(at(2250), &deadlines, GRAIN);
        let seen = flights.look(at(30_250), &deadlines, GRAIN);
        assert!(matches!(seen, Seen::Hung(_)), "{seen:?}");
        for number in [first, last] {
            assert!(flights.wait(number, Waker::noop()).is_some());
        }
        let refused = flights.refuses(&request(Patience::Eject)).unwrap();
        assert_eq!(refused.kind, IoErrorKind::TimedOut);
        // d13: it isn't quiet before the last one has ended.
        flights.finish(last, Ticks(0), false);
        assert_eq!(flights.look(at(31_000), &deadlines, GRAIN), Seen::Nothing);
        flights.finish(first, Ticks(0), false);
        assert_eq!(flights.look(at(90_000), &deadlines, GRAIN), Seen::Quiet);
        assert!(flights.refuses(&request(Patience::Eject)).is_some());
    }

    #[test]
    fn a_disk_that_is_slow_again_and_again_is_told_of_once_a_minute() {
        let flights = Flights::new("/dev/x".into());
        let deadlines = Deadlines::default();
        let mut told = 0;
        for turn in 0..40u64 {
            let start = turn * 3000;
            let number = flights.start(at(start), Ticks(0), request(Patience::Reconstruct));
            let seen = flights.look(at(start + 2500), &deadlines, GRAIN);
            told += u32::from(matches!(seen, Seen::Slow(_)));
            assert!(flights.is_slow());
            flights.finish(number, Ticks(0), false);
            flights.look(at(start + 2750), &deadlines, GRAIN);
        }
        assert_eq!(told, 2);
    }
}
