//! The watch over the disks of an array: nobody waits for ever for a disk that hangs (fault D4), and
//! what it was asked is followed to its end (fault D13).
//!
//! [`Watched`] is the one way from the engine to a device. Every operation through it is entered in
//! the disk's [`Flights`]; one task looks at the oldest of them while there are any. A caller whose
//! deadline has passed gets `TimedOut`; the operation, with its buffer, goes on without it, and so
//! does one whose caller gave up.
//!
//! Invariants
//! - No timer and no task per operation, unless it outlives its caller.
//! - An operation that has begun is polled until the device ends it, or until the engine goes down.
//! - Dropping an [`Operation`] starts nothing: it may happen where nothing can be started.

use std::cell::{Cell, RefCell};
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use cairn_blockdev::units::{u64_of, usize_of};
use cairn_blockdev::{
    BlockDevice, Buf, DeviceGeometry, Env, IoError, IoErrorKind, IoFuture, IoOp, LocalFuture,
    ReadResult, SharedBuf, WriteFlags, ZeroFlags,
};
use futures_util::future::{Either, select};
use tokio::sync::Notify;
use uuid::Uuid;

use super::Array;
use super::flights::{Deadlines, Flights, Patience, Request};

/// How often the operations in flight are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// What one look counts for at most: later than that, the engine itself stood still.
const LOOK_MAX: Duration = Duration::from_millis(500);

/// An operation that outlived its caller.
struct Orphan {
    /// Gives whether it failed.
    work: LocalFuture<bool>,
    flights: Rc<Flights>,
    number: u64,
}

/// Looks after the disks of one array.
pub(crate) struct Watch {
    env: Env,
    deadlines: Cell<Deadlines>,
    /// Who is told of what is seen.
    array: RefCell<Weak<Array>>,
    /// Time that the engine was running in, by looks.
    time: Cell<Duration>,
    /// Disks with operations in flight.
    listed: RefCell<Vec<Rc<Flights>>>,
    running: Cell<bool>,
    orphans: RefCell<Vec<Orphan>>,
    orphaned: Notify,
    /// Nothing is written to any of its disks, whoever asks.
    read_only: Cell<bool>,
}

/// Notes the end of the task, also if the engine goes down.
struct Running(Rc<Watch>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.set(false);
        // Of an engine that goes down: devices keep their buffers by themselves.
        let orphans = self.0.orphans.take();
        drop(orphans);
    }
}

impl Watch {
    pub(crate) fn new(env: &Env) -> Rc<Self> {
        Rc::new(Self {
            env: env.clone(),
            deadlines: Cell::default(),
            array: RefCell::default(),
            time: Cell::default(),
            listed: RefCell::default(),
            running: Cell::new(false),
            orphans: RefCell::default(),
            orphaned: Notify::new(),
            read_only: Cell::new(false),
        })
    }

    /// From now on `array` is told what is seen.
    pub(super) fn tell(&self, array: &Rc<Array>) {
        *self.array.borrow_mut() = Rc::downgrade(array);
    }

    /// From now on nothing is written to any of its disks, whoever asks.
    pub(super) fn forbid_writes(&self) {
        self.read_only.set(true);
    }

    fn refuses_writes(&self, flights: &Flights, request: &Request) -> Option<IoError> {
        let refuses = self.read_only.get();
        refuses.then(|| flights.error(IoErrorKind::ReadOnly, request))
    }

    pub(super) fn set_deadlines(&self, deadlines: Deadlines) {
        self.deadlines.set(deadlines);
    }

    /// A device whose operations are watched.
    pub(crate) fn over(self: &Rc<Self>, path: &Rc<str>, device: &Rc<dyn BlockDevice>) -> Watched {
        Watched {
            device: Rc::clone(device),
            flights: Flights::new(Rc::clone(path)),
            watch: Rc::clone(self),
        }
    }

    /// Disks with operations in flight that were opened at this path, or as this member.
    pub(super) fn unfinished(&self, path: &str, member: Option<Uuid>) -> Option<Rc<Flights>> {
        let listed = self.listed.borrow();
        let mut known = listed.iter().filter(|flights| {
            **flights.path() == *path || (member.is_some() && flights.member() == member)
        });
        known.find(|flights| flights.in_flight() > 0).map(Rc::clone)
    }

    /// Every disk with operations in flight.
    pub(super) fn busy(&self) -> Vec<Rc<Flights>> {
        let listed = self.listed.borrow();
        let busy = listed.iter().filter(|flights| flights.in_flight() > 0);
        busy.map(Rc::clone).collect()
    }

    fn note_start(self: &Rc<Self>, flights: &Rc<Flights>) {
        if !flights.listed.replace(true) {
            self.listed.borrow_mut().push(Rc::clone(flights));
        }
        if !self.running.replace(true) {
            let running = Running(Rc::clone(self));
            self.env
                .spawn
                .spawn(Box::pin(async move { running.0.look_on().await }));
        }
    }

    /// Follows an operation to its end in its caller's place.
    fn adopt(&self, orphan: Orphan) {
        orphan.flights.orphan(orphan.number);
        if self.running.get() {
            self.orphans.borrow_mut().push(orphan);
            self.orphaned.notify_one();
        }
    }

    /// Looks until nothing is in flight.
    async fn look_on(&self) {
        let mut before = self.env.clock.now();
        while !self.listed.borrow().is_empty() {
            let mut tick = self.env.clock.sleep(LOOK_EVERY);
            loop {
                self.place_orphans();
                let orphaned = pin!(self.orphaned.notified());
                match select(tick, orphaned).await {
                    Either::Left(_) => break,
                    Either::Right(((), rest)) => tick = rest,
                }
            }
            self.place_orphans();
            let now = self.env.clock.now();
            let passed = now.since(before).min(LOOK_MAX);
            self.time.set(self.time.get() + passed);
            before = now;
            self.look();
        }
    }

    fn place_orphans(&self) {
        for orphan in self.orphans.take() {
            let clock = Rc::clone(&self.env.clock);
            self.env.spawn.spawn(Box::pin(async move {
                let failed = orphan.work.await;
                orphan.flights.finish(orphan.number, clock.now(), failed);
            }));
        }
    }

    fn look(&self) {
        let listed = self.listed.borrow().clone();
        for flights in &listed {
            let seen = flights.look(self.time.get(), &self.deadlines.get(), LOOK_EVERY);
            if let Some(array) = self.array.borrow().upgrade() {
                array.disk_seen(flights, seen);
            }
        }
        self.listed.borrow_mut().retain(|flights| {
            let keep = flights.in_flight() > 0;
            flights.listed.set(keep);
            keep
        });
    }
}

/// What an operation ends with, timed out or not.
pub(crate) trait Answer: Unpin + 'static {
    /// The answer in the place of one that didn't come. The memory of the operation isn't the
    /// caller's any more; a read gets other memory back.
    fn timed_out(error: IoError) -> Self;

    fn has_failed(&self) -> bool;
}

impl Answer for Result<(), IoError> {
    fn timed_out(error: IoError) -> Self {
        Err(error)
    }

    fn has_failed(&self) -> bool {
        self.is_err()
    }
}

impl Answer for ReadResult {
    fn timed_out(error: IoError) -> Self {
        (Buf::zeroed(usize_of(error.len)), Err(error))
    }

    fn has_failed(&self) -> bool {
        self.1.is_err()
    }
}

enum State<T> {
    Flying {
        work: LocalFuture<T>,
        number: u64,
        flights: Rc<Flights>,
        watch: Rc<Watch>,
    },
    Refused(T),
    Ended,
}

/// An operation on a disk, as its caller sees it.
#[must_use = "an operation is waited for"]
pub(crate) struct Operation<T: Answer>(State<T>);

impl<T: Answer> Operation<T> {
    /// Hands a begun operation over, to be followed without its caller.
    fn orphan(&mut self) {
        if let State::Flying {
            work,
            number,
            flights,
            watch,
        } = std::mem::replace(&mut self.0, State::Ended)
        {
            watch.adopt(Orphan {
                work: Box::pin(async move { work.await.has_failed() }),
                flights,
                number,
            });
        }
    }
}

impl<T: Answer> Future for Operation<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let late = match &mut self.0 {
            State::Flying {
                work,
                number,
                flights,
                watch,
            } => match work.as_mut().poll(context) {
                Poll::Ready(answer) => {
                    flights.finish(*number, watch.env.clock.now(), answer.has_failed());
                    self.0 = State::Ended;
                    return Poll::Ready(answer);
                }
                Poll::Pending => flights.wait(*number, context.waker()),
            },
            _ => None,
        };
        if let Some(error) = late {
            self.orphan();
            return Poll::Ready(T::timed_out(error));
        }
        match std::mem::replace(&mut self.0, State::Ended) {
            State::Refused(answer) => Poll::Ready(answer),
            flying => {
                self.0 = flying;
                Poll::Pending
            }
        }
    }
}

impl<T: Answer> Drop for Operation<T> {
    fn drop(&mut self) {
        self.orphan();
    }
}

/// A device whose operations are watched: the only way from the engine to it.
pub(crate) struct Watched {
    device: Rc<dyn BlockDevice>,
    flights: Rc<Flights>,
    watch: Rc<Watch>,
}

impl Watched {
    /// Its operations in flight.
    pub(crate) fn flights(&self) -> &Rc<Flights> {
        &self.flights
    }

    /// Bytes of the device.
    pub(crate) fn device_size(&self) -> u64 {
        self.device.geometry().size
    }

    fn begin<T: Answer>(&self, request: Request, work: LocalFuture<T>) -> Operation<T> {
        let began = self.watch.env.clock.now();
        let number = self.flights.start(self.watch.time.get(), began, request);
        self.watch.note_start(&self.flights);
        Operation(State::Flying {
            work,
            number,
            flights: Rc::clone(&self.flights),
            watch: Rc::clone(&self.watch),
        })
    }

    /// Fills `buf` from `offset`.
    pub(crate) fn read_at(
        &self,
        offset: u64,
        buf: Buf,
        patience: Patience,
    ) -> Operation<ReadResult> {
        let request = Request {
            op: IoOp::Read,
            offset,
            len: u64_of(buf.len()),
            patience,
        };
        match self.flights.refuses(&request) {
            Some(error) => Operation(State::Refused((buf, Err(error)))),
            None => self.begin(request, self.device.read(offset, buf)),
        }
    }

    fn change(
        &self,
        op: IoOp,
        (offset, len): (u64, u64),
        work: impl FnOnce(&dyn BlockDevice) -> IoFuture<()>,
    ) -> Operation<Result<(), IoError>> {
        let request = Request {
            op,
            offset,
            len,
            patience: Patience::Eject,
        };
        let refused = match op {
            IoOp::Flush => None,
            _ => self.watch.refuses_writes(&self.flights, &request),
        };
        match refused.or_else(|| self.flights.refuses(&request)) {
            Some(error) => Operation(State::Refused(Err(error))),
            None => self.begin(request, work(&*self.device)),
        }
    }

    /// Writes `data` at `offset`.
    pub(crate) fn write_at(
        &self,
        offset: u64,
        data: SharedBuf,
        flags: WriteFlags,
    ) -> Operation<Result<(), IoError>> {
        let range = (offset, u64_of(data.len()));
        self.change(IoOp::Write, range, |device| {
            device.write(offset, data, flags)
        })
    }

    /// Makes every write that has completed durable.
    pub(crate) fn flush_cache(&self) -> Operation<Result<(), IoError>> {
        self.change(IoOp::Flush, (0, 0), |device| device.flush())
    }
}

impl BlockDevice for Watched {
    fn name(&self) -> Rc<str> {
        self.device.name()
    }

    fn geometry(&self) -> DeviceGeometry {
        self.device.geometry()
    }

    fn read(&self, offset: u64, buf: Buf) -> LocalFuture<ReadResult> {
        Box::pin(self.read_at(offset, buf, Patience::Eject))
    }

    fn write(&self, offset: u64, data: SharedBuf, flags: WriteFlags) -> IoFuture<()> {
        Box::pin(self.write_at(offset, data, flags))
    }

    fn flush(&self) -> IoFuture<()> {
        Box::pin(self.flush_cache())
    }

    fn discard(&self, offset: u64, len: u64) -> IoFuture<()> {
        let range = (offset, len);
        Box::pin(self.change(IoOp::Discard, range, |device| device.discard(offset, len)))
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> IoFuture<()> {
        let range = (offset, len);
        Box::pin(self.change(IoOp::Write, range, |device| {
            device.write_zeroes(offset, len, flags)
        }))
    }
}
