//! Clients: concurrent random reads, writes, flushes, trims and zeros on the volumes, each checked
//! against the model as it ends.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::ops::Range;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use cairn_blockdev::sim::Rng;
use cairn_blockdev::units::{SECTOR, u64_of, usize_of};
use cairn_blockdev::{BlockDevice, Buf, Env, IoError, IoErrorKind, WriteFlags, ZeroFlags};

use super::log::{Aim, Log};
use super::totals::OpCounts;
use super::world::{Life, Rules, Volume, World};

/// Clients at once.
const CLIENTS: usize = 8;
/// Sectors of the longest ordinary request: 32 KiB.
const SECTORS_MAX: u64 = 64;
/// Bytes of a write of [`Mix::Burst`].
pub(super) const BURST_BYTES: u64 = SECTORS_MAX * SECTOR;
/// Clients that get nothing done for this long hang.
const PATIENCE: Duration = Duration::from_mins(30);
/// A client whose request failed waits a little.
pub(super) const AFTER_ERROR: Duration = Duration::from_micros(500);

/// What clients prefer to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mix {
    /// Everything, reads and writes first.
    Any,
    /// Writes only, the longest: what fills a journal.
    Burst,
    /// Complete rows and parts of the same ones, and trims of a row, each of which has a cycle begin at once.
    Rows,
    /// Everything is trimmed and complete rows are written again: extents change hands all the time.
    Churn,
    /// Writes of one block or a part of it, and flushes: what is in the journal alone.
    Parts,
}

/// Where a load is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Nowhere.
    Never,
    /// After so many polls of tasks.
    Polls(u64),
    /// At the so-manieth I/O of a disk.
    Ios(u64),
    /// So many I/Os after the first that fails.
    AfterError(u64),
    /// Right after a write.
    After(Aim),
}

/// What the clients of one load share.
pub(super) struct Crowd {
    /// Operations still to be begun.
    left: Cell<u64>,
    running: Cell<usize>,
    waiter: RefCell<Option<Waker>>,
}

impl Crowd {
    fn one_gone(&self) {
        self.running.set(self.running.get() - 1);
        if self.running.get() == 0
            && let Some(waker) = self.waiter.borrow_mut().take()
        {
            waker.wake();
        }
    }
}

impl World {
    /// Clients do so many operations.
    pub fn load(&mut self, ops: u64) {
        self.load_cut(ops, Mix::Any, Cut::Never);
    }

    /// Clients do so many operations, unless they are cut off. True if they came to their end.
    pub fn load_cut(&mut self, ops: u64, mix: Mix, cut: Cut) -> bool {
        let crowd = Rc::new(Crowd {
            left: Cell::new(ops),
            running: Cell::new(CLIENTS),
            waiter: RefCell::new(None),
        });
        let env = self.env();
        for _ in 0..CLIENTS {
            let client = Client {
                crowd: Rc::clone(&crowd),
                env: env.clone(),
                volumes: self.volumes.clone(),
                rules: Rc::clone(&self.rules),
                log: Rc::clone(&self.log),
                rng: Rng::new(self.rng.next_u64()),
                row_sectors: self.shape.row_bytes() / SECTOR,
                mix,
            };
            env.spawn.spawn(Box::pin(client.work()));
        }
        self.set_owners_to_work(&crowd, &env);
        let polls = self.cut_at(cut);
        let before = time_on_core();
        let ended = self.sim.run_until(all_gone(&crowd, &env), polls);
        self.done.load_time += time_on_core().saturating_sub(before);
        self.log.pull_no_more();
        assert!(
            ended != Some(false),
            "clients hang; the array told: {:#?}",
            self.told()
        );
        self.crowds.extend(ended.is_none().then_some(crowd));
        ended.is_some()
    }

    /// Those who write by way of logs work for as long as the clients do.
    fn set_owners_to_work(&mut self, crowd: &Rc<Crowd>, env: &Env) {
        let Some(replica) = self.replica.clone() else {
            return;
        };
        let Some(device) = replica.device.borrow().clone() else {
            return;
        };
        for owner in &replica.owners {
            if !owner.can_work() {
                continue;
            }
            crowd.running.set(crowd.running.get() + 1);
            let rng = Rng::new(self.rng.next_u64());
            let around = (env.clone(), Rc::clone(&self.rules), Rc::clone(&self.log));
            let (owner, device) = (Rc::clone(owner), Rc::clone(&device));
            let crowd = Rc::clone(crowd);
            env.spawn.spawn(Box::pin(async move {
                let go_on = || crowd.left.get() > 0;
                owner.work(device, rng, around, go_on).await;
                crowd.one_gone();
            }));
        }
    }

    /// Lays a hand at the plug. Gives the polls after which the world stops.
    pub(super) fn cut_at(&self, cut: Cut) -> u64 {
        match cut {
            Cut::Polls(polls) => polls,
            Cut::Ios(ios) => {
                self.log.pull_after(ios, self.sim.halt());
                u64::MAX
            }
            Cut::AfterError(ios) => {
                self.log.pull_after_error(ios, self.sim.halt());
                u64::MAX
            }
            Cut::After(aim) => {
                self.log.pull_after_write(aim, self.sim.halt());
                u64::MAX
            }
            Cut::Never => u64::MAX,
        }
    }

    /// Clients that were left running come to their end.
    pub fn hush(&mut self) {
        for crowd in std::mem::take(&mut self.crowds) {
            crowd.left.set(0);
            let gone = self.run(all_gone(&crowd, &self.env()));
            assert!(gone, "clients hang; the array told: {:#?}", self.told());
        }
    }
}

/// All clients have come to their end; false: they don't.
fn all_gone(crowd: &Rc<Crowd>, env: &Env) -> impl Future<Output = bool> + use<> {
    let crowd = Rc::clone(crowd);
    let mut patience = env.clock.sleep(PATIENCE);
    poll_fn(move |context| {
        if crowd.running.get() == 0 {
            return Poll::Ready(true);
        }
        *crowd.waiter.borrow_mut() = Some(context.waker().clone());
        patience.as_mut().poll(context).map(|()| false)
    })
}

/// Time that this thread has had a core, so that a busy machine doesn't make the engine look slow.
fn time_on_core() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let ns = text
        .split_whitespace()
        .next()
        .and_then(|ns| ns.parse().ok());
    Duration::from_nanos(ns.unwrap_or(0))
}

struct Client {
    crowd: Rc<Crowd>,
    env: Env,
    volumes: Vec<Rc<Volume>>,
    rules: Rc<Rules>,
    log: Rc<Log>,
    rng: Rng,
    row_sectors: u64,
    mix: Mix,
}

/// A request, as it is noted in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Read,
    Write { fua: bool },
    Discard,
    Zeroes { fua: bool, no_hole: bool },
    Flush,
}

impl Client {
    async fn work(mut self) {
        while self.crowd.left.get() > 0 {
            self.crowd.left.set(self.crowd.left.get() - 1);
            self.step().await;
        }
        self.crowd.one_gone();
    }

    async fn step(&mut self) {
        let at = usize_of(self.rng.below(u64_of(self.volumes.len())));
        let volume = self.volumes.get(at).map(Rc::clone);
        let Some((volume, device)) = volume.and_then(|v| Some((Rc::clone(&v), v.device()?))) else {
            self.env.clock.sleep(AFTER_ERROR).await;
            return;
        };
        let sectors = volume.model.borrow().sectors();
        let (what, range) = self.choose(sectors);
        let before = self.env.clock.now();
        let result = self.request(&volume, &device, what, range.clone()).await;
        if what == What::Read {
            let took = self.env.clock.now().since(before);
            let longest = &self.rules.longest_read;
            longest.set(longest.get().max(took));
        }
        let code = match what {
            What::Read => 1,
            What::Write { .. } => 2,
            What::Discard => 3,
            What::Zeroes { .. } => 4,
            What::Flush => 5,
        };
        self.log.note(code << 1 | u64::from(result.is_err()));
        self.log.note(range.start << 32 ^ range.end);
        self.log.note(self.env.clock.now().0);
        self.count(what, result.is_err());
        if let Err(error) = result {
            self.judge(&volume, &error);
            self.env.clock.sleep(AFTER_ERROR).await;
        }
    }

    fn choose(&mut self, sectors: u64) -> (What, Range<u64>) {
        match self.mix {
            Mix::Any => {}
            Mix::Burst => {
                let first = self.rng.below(sectors - SECTORS_MAX);
                return (What::Write { fua: false }, first..first + SECTORS_MAX);
            }
            Mix::Rows => return self.choose_in_rows(sectors),
            Mix::Churn => {
                let what = match self.rng.below(16) {
                    0..=3 => return (What::Discard, 0..sectors),
                    4 => What::Flush,
                    _ => What::Write { fua: false },
                };
                return (what, self.complete_row(sectors));
            }
            Mix::Parts => {
                let len = 1 + self.rng.below(8);
                let first = self.rng.below(sectors - len + 1);
                let what = match self.rng.below(8) {
                    0 => What::Flush,
                    1 => What::Write { fua: true },
                    _ => What::Write { fua: false },
                };
                return (what, first..first + len);
            }
        }
        let range = self.range(sectors);
        let fua = self.rng.one_in(10);
        let what = match self.rng.below(32) {
            0..=10 => What::Read,
            11..=27 => What::Write { fua },
            28 => What::Discard,
            29 => {
                let no_hole = self.rng.one_in(2);
                What::Zeroes { fua, no_hole }
            }
            _ => What::Flush,
        };
        // Now and then everything goes at once, and its extents with it.
        let whole = what == What::Discard && self.rng.one_in(8);
        (what, if whole { 0..sectors } else { range })
    }

    fn complete_row(&mut self, sectors: u64) -> Range<u64> {
        let first = self.rng.below(sectors / self.row_sectors) * self.row_sectors;
        first..first + self.row_sectors
    }

    fn choose_in_rows(&mut self, sectors: u64) -> (What, Range<u64>) {
        let row = self.complete_row(sectors);
        match self.rng.below(32) {
            0..=10 => (What::Write { fua: false }, row),
            11..=22 => {
                let block = 8;
                let first = row.start + self.rng.below(self.row_sectors / block) * block;
                (What::Write { fua: false }, first..first + block)
            }
            23..=26 => (What::Discard, row),
            27 | 28 => (What::Flush, row),
            _ => (What::Read, row),
        }
    }

    /// Mostly 512 bytes to 32 KiB, blocks or not; sometimes complete rows, or the rest of one.
    fn range(&mut self, sectors: u64) -> Range<u64> {
        let block = 8;
        match self.rng.below(16) {
            0 => self.complete_row(sectors),
            1 => {
                let row = self.complete_row(sectors);
                row.start + self.rng.below(self.row_sectors / 2)..row.end
            }
            2..=9 => {
                let len = block << self.rng.below(3);
                let first = self.rng.below((sectors - len) / block + 1) * block;
                first..first + len
            }
            10..=12 => {
                let len = 1 + self.rng.below(block);
                let first = self.rng.below(sectors - len + 1);
                first..first + len
            }
            _ => {
                let len = 1 + self.rng.below(SECTORS_MAX.min(sectors));
                let first = self.rng.below(sectors - len + 1);
                first..first + len
            }
        }
    }

    async fn request(
        &self,
        volume: &Volume,
        device: &Rc<dyn BlockDevice>,
        what: What,
        range: Range<u64>,
    ) -> Result<(), IoError> {
        let model = &volume.model;
        let (at, len) = (range.start * SECTOR, (range.end - range.start) * SECTOR);
        match what {
            What::Read => {
                let began = model.borrow_mut().read_begins();
                let (buf, result) = device.read(at, Buf::zeroed(usize_of(len))).await;
                model.borrow_mut().read_ends(began);
                result?;
                let checked = model.borrow().check(range.start, &buf, began);
                if let Err(complaint) = checked
                    && volume.life.get() == Life::There
                {
                    panic!("{complaint}");
                }
                Ok(())
            }
            What::Flush => {
                let began = model.borrow_mut().flush_begins();
                device.flush().await?;
                model.borrow_mut().flushed(began);
                Ok(())
            }
            What::Write { fua } => {
                let id = model.borrow_mut().begin_write(range.clone(), fua);
                let mut buf = Buf::zeroed(usize_of(len));
                model.borrow().fill(id, range.start, &mut buf);
                let written = device.write(at, buf.freeze(), WriteFlags { fua }).await;
                end(volume, id, written)
            }
            What::Discard => {
                let id = model.borrow_mut().begin_zeros(range, false);
                end(volume, id, device.discard(at, len).await)
            }
            What::Zeroes { fua, no_hole } => {
                let id = model.borrow_mut().begin_zeros(range, fua);
                let flags = ZeroFlags { fua, no_hole };
                end(volume, id, device.write_zeroes(at, len, flags).await)
            }
        }
    }

    fn count(&self, what: What, failed: bool) {
        let ops = self.rules.ops.get();
        let one = |yes: bool| u64::from(yes);
        self.rules.ops.set(OpCounts {
            reads: ops.reads + one(what == What::Read),
            writes: ops.writes + one(matches!(what, What::Write { .. })),
            fua: ops.fua + one(what == What::Write { fua: true }),
            flushes: ops.flushes + one(what == What::Flush),
            zeros: ops.zeros + one(matches!(what, What::Discard | What::Zeroes { .. })),
            failed: ops.failed + one(failed),
            ..ops
        });
    }

    fn judge(&self, volume: &Volume, error: &IoError) {
        let allowed = self.rules.errors_allowed.get()
            || volume.life.get() != Life::There
            || (self.rules.full_allowed.get() && error.kind == IoErrorKind::NoSpace);
        assert!(allowed, "a client was told: {error}");
    }
}

fn end(
    volume: &Volume,
    id: super::model::WriteId,
    result: Result<(), IoError>,
) -> Result<(), IoError> {
    let mut model = volume.model.borrow_mut();
    match &result {
        Ok(()) => model.acked(id),
        Err(_) => model.failed(id),
    }
    result
}
