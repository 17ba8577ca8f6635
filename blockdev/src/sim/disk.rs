//! A disk with a volatile cache, random latencies and faults on order.
//!
//! Invariants
//! - What a read sees is every write that completed; what survives a power cut is what was flushed
//!   before it, and of the rest a seeded choice per sector.
//! - A write takes effect at its completion, so an abandoned operation (its task dropped by a power
//!   cut) leaves nothing or, torn by [`SimDisk::power_cut`] or [`SimDisk::kill`], a part.
//! - Everything is decided by the seed and the order of the operations.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::fault::{Effect, Fault, FaultCounts, Strike};
use super::medium::{Medium, Payload, Write};
use super::rng::Rng;
use crate::buf::{Buf, SharedBuf};
use crate::device::{
    BlockDevice, DeviceGeometry, IoFuture, LocalFuture, ReadResult, WriteFlags, ZeroFlags,
};
use crate::env::Env;
use crate::error::{IoError, IoErrorKind, IoOp};
use crate::units::{BLOCK, SECTOR, u64_of};

/// Shape and pace of a [`SimDisk`].
#[derive(Debug, Clone, Copy)]
pub struct SimDiskConfig {
    /// Bytes, a multiple of 4096.
    pub size: u64,
    /// 512 or 4096.
    pub logical_block: u32,
    /// Longest time an operation takes, in microseconds; 0 completes at once.
    pub latency_us_max: u64,
}

/// An operation that came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// What it was.
    pub op: IoOp,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// How it failed, if it did.
    pub error: Option<IoErrorKind>,
}

/// Is told of every completion: a log, or the hand at the plug.
pub trait Watch {
    /// An operation came to its end; nobody has been told yet.
    fn completed(&self, done: &Completion);
}

/// A disk's contents at some moment; cheap to keep.
#[derive(Clone)]
pub struct Image(Medium);

struct State {
    medium: Medium,
    /// Writes without a completion: what a power cut may leave in part.
    in_flight: BTreeMap<u64, Write>,
    next_op: u64,
    faults: Vec<Fault>,
    strikes: Vec<Strike>,
    struck: FaultCounts,
    /// Operations that hang until they are released.
    hung: BTreeMap<u64, Waker>,
    releases: u64,
    /// What the disk writes at once.
    tear_bytes: u64,
    rng: Rng,
    watch: Option<Rc<dyn Watch>>,
    reads: u64,
    writes: u64,
    flushes: u64,
}

struct Inner {
    name: Rc<str>,
    config: SimDiskConfig,
    env: Env,
    state: RefCell<State>,
}

/// A simulated disk; clones are the same disk.
#[derive(Clone)]
pub struct SimDisk(Rc<Inner>);

impl SimDisk {
    /// A blank disk.
    pub fn new(name: &str, config: SimDiskConfig, env: &Env, seed: u64) -> Self {
        assert!(
            config.size.is_multiple_of(BLOCK),
            "size {} is no multiple of 4096",
            config.size
        );
        Self(Rc::new(Inner {
            name: Rc::from(name),
            config,
            env: env.clone(),
            state: RefCell::new(State {
                medium: Medium::default(),
                in_flight: BTreeMap::new(),
                next_op: 0,
                faults: Vec::new(),
                strikes: Vec::new(),
                struck: FaultCounts::default(),
                hung: BTreeMap::new(),
                releases: 0,
                tear_bytes: SECTOR,
                rng: Rng::new(seed),
                watch: None,
                reads: 0,
                writes: 0,
                flushes: 0,
            }),
        }))
    }

    /// The same contents in another world, as after a reboot; faults, strikes, counts and the watch
    /// are not carried over.
    pub fn reborn(&self, env: &Env, seed: u64) -> Self {
        let new = Self::new(&self.0.name, self.0.config, env, seed);
        {
            let old = self.0.state.borrow();
            let mut state = new.0.state.borrow_mut();
            state.medium = old.medium.clone();
            state.tear_bytes = old.tear_bytes;
        }
        new
    }

    /// What the disk writes at once, so that nothing smaller is ever torn: 512 bytes, or 4096.
    pub fn tear_in(&self, bytes: u64) {
        assert!(bytes.is_power_of_two() && (SECTOR..=BLOCK).contains(&bytes));
        self.0.state.borrow_mut().tear_bytes = bytes;
    }

    /// Tells `watch` of every completion from now on.
    pub fn watch(&self, watch: Rc<dyn Watch>) {
        self.0.state.borrow_mut().watch = Some(watch);
    }

    // --- faults

    /// Adds a fault.
    pub fn inject(&self, fault: Fault) {
        self.0.state.borrow_mut().faults.push(fault);
    }

    /// Orders a strike. Where several would hit the same operation, the last ordered does.
    pub fn strike(&self, strike: Strike) {
        self.0.state.borrow_mut().strikes.push(strike);
    }

    /// Takes every fault and strike back, and lets go of what hangs.
    pub fn heal(&self) {
        let mut state = self.0.state.borrow_mut();
        state.faults.clear();
        state.strikes.clear();
        drop(state);
        self.release();
    }

    /// Lets everything complete that hangs.
    pub fn release(&self) {
        let mut state = self.0.state.borrow_mut();
        state.releases += 1;
        for waker in std::mem::take(&mut state.hung).into_values() {
            waker.wake();
        }
    }

    /// Operations that hang until they are released.
    pub fn hung(&self) -> usize {
        self.0.state.borrow().hung.len()
    }

    /// The disk is pulled: what is in flight lands whole, in part or not, and fails; so does what
    /// comes. With `lose_cache` its unflushed writes go as well, or a part of them (fault D12).
    pub fn vanish(&self, lose_cache: bool) {
        let mut state = self.0.state.borrow_mut();
        let state = &mut *state;
        let in_flight: Vec<Write> = std::mem::take(&mut state.in_flight).into_values().collect();
        let (rng, tear) = (&mut state.rng, state.tear_bytes);
        if lose_cache {
            state.struck.caches_lost += 1;
            state.struck.torn_writes += state.medium.power_cut(in_flight, rng, tear);
        } else {
            state.struck.torn_writes += state.medium.land(in_flight, rng, tear);
        }
        state.faults.push(Fault::Gone);
        state.releases += 1;
        for waker in std::mem::take(&mut state.hung).into_values() {
            waker.wake();
        }
    }

    /// It is plugged in again.
    pub fn come_back(&self) {
        let mut state = self.0.state.borrow_mut();
        state.faults.retain(|fault| *fault != Fault::Gone);
    }

    /// Whether it is pulled.
    pub fn is_gone(&self) -> bool {
        self.0.state.borrow().faults.contains(&Fault::Gone)
    }

    /// Flips one bit of what is stored at `offset`: rot.
    pub fn rot(&self, offset: u64, bit: u8) {
        let mut byte = [0];
        let mut state = self.0.state.borrow_mut();
        state.medium.load(offset, &mut byte);
        state
            .medium
            .poke(offset, &byte.map(|byte| byte ^ (1 << (bit % 8))));
        state.struck.rotten += 1;
    }

    /// Faults that have struck so far.
    pub fn struck(&self) -> FaultCounts {
        self.0.state.borrow().struck
    }

    // --- crashes

    /// Loses power: of every write since the last flush, and of those in flight, each sector
    /// survives or not by the seed; what reads see from now on is what survived.
    pub fn power_cut(&self) {
        let mut state = self.0.state.borrow_mut();
        let state = &mut *state;
        let in_flight = std::mem::take(&mut state.in_flight).into_values().collect();
        let (rng, tear) = (&mut state.rng, state.tear_bytes);
        state.struck.torn_writes += state.medium.power_cut(in_flight, rng, tear);
    }

    /// Whoever used the disk is killed: what is in flight lands whole, in part or not.
    pub fn kill(&self) {
        let mut state = self.0.state.borrow_mut();
        let state = &mut *state;
        let in_flight = std::mem::take(&mut state.in_flight).into_values().collect();
        let (rng, tear) = (&mut state.rng, state.tear_bytes);
        state.struck.torn_writes += state.medium.land(in_flight, rng, tear);
    }

    // --- contents

    /// Reads without time, faults or counters: for audits.
    pub fn peek(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.peek_into(offset, &mut bytes);
        bytes
    }

    /// As [`SimDisk::peek`], into memory that is there.
    pub fn peek_into(&self, offset: u64, bytes: &mut [u8]) {
        self.0.state.borrow().medium.load(offset, bytes);
    }

    /// Changes bytes behind everybody's back.
    pub fn poke(&self, offset: u64, bytes: &[u8]) {
        self.0.state.borrow_mut().medium.poke(offset, bytes);
    }

    /// Where something is stored in a range: the offsets of pages of 4 KiB.
    pub fn stored(&self, offset: u64, len: u64) -> Vec<u64> {
        self.0.state.borrow().medium.present(offset, len)
    }

    /// The contents as they are, cache included.
    pub fn image(&self) -> Image {
        Image(self.0.state.borrow().medium.clone())
    }

    /// Replaces the contents: an older image of the disk, or another disk's.
    pub fn set_image(&self, image: &Image) {
        self.0.state.borrow_mut().medium = image.0.clone();
    }

    /// Reads, writes and flushes done so far.
    pub fn counts(&self) -> (u64, u64, u64) {
        let state = self.0.state.borrow();
        (state.reads, state.writes, state.flushes)
    }

    // --- how an operation runs

    /// The strike that hits an operation, if one does.
    fn struck_by(&self, op: IoOp, offset: u64, len: u64) -> Option<Effect> {
        let mut state = self.0.state.borrow_mut();
        if state.strikes.is_empty() {
            return None;
        }
        let hit = state
            .strikes
            .iter_mut()
            .rev()
            .find_map(|strike| strike.hits(op, offset, len).then_some(strike.effect));
        state.strikes.retain(|strike| strike.times > 0);
        hit
    }

    /// The time that an operation takes.
    fn pause(&self, effect: Option<Effect>) -> LocalFuture<()> {
        let max = self.0.config.latency_us_max;
        let us = if max == 0 {
            0
        } else {
            1 + self.0.state.borrow_mut().rng.below(max)
        };
        match effect {
            Some(Effect::Hang(time)) => {
                self.0.state.borrow_mut().struck.hung += 1;
                self.hang(time)
            }
            Some(Effect::Slow(factor)) => {
                self.0.state.borrow_mut().struck.slow += 1;
                let us = us.max(1).saturating_mul(u64::from(factor));
                self.0.env.clock.sleep(Duration::from_micros(us))
            }
            _ if max == 0 => Box::pin(std::future::ready(())),
            _ => self.0.env.clock.sleep(Duration::from_micros(us)),
        }
    }

    fn hang(&self, time: Option<Duration>) -> LocalFuture<()> {
        let disk = self.clone();
        let (id, releases) = {
            let mut state = self.0.state.borrow_mut();
            state.next_op += 1;
            (state.next_op, state.releases)
        };
        let mut timer = time.map(|time| self.0.env.clock.sleep(time));
        Box::pin(poll_fn(move |context| {
            let mut state = disk.0.state.borrow_mut();
            if state.releases != releases {
                return Poll::Ready(());
            }
            let over = timer
                .as_mut()
                .is_some_and(|timer| timer.as_mut().poll(context).is_ready());
            if over {
                state.hung.remove(&id);
                return Poll::Ready(());
            }
            state.hung.insert(id, context.waker().clone());
            Poll::Pending
        }))
    }

    /// The lasting fault, or the strike, that fails an operation at its end.
    fn verdict(
        &self,
        op: IoOp,
        offset: u64,
        len: u64,
        effect: Option<Effect>,
    ) -> Result<(), IoError> {
        let mut state = self.0.state.borrow_mut();
        let mut failed = match effect {
            Some(Effect::Fail(kind)) => Some(kind),
            Some(Effect::FailAndLoseCache) => Some(IoErrorKind::Medium),
            _ => None,
        };
        if op == IoOp::Write {
            state.faults.retain(|fault| {
                !matches!(fault, Fault::BadRange { offset: o, len: l }
                    if offset <= *o && o + l <= offset + len)
            });
        }
        for fault in &state.faults {
            failed = match (fault, op) {
                (Fault::Gone, _) => Some(IoErrorKind::Gone),
                (Fault::WritesFail, IoOp::Write) | (Fault::FlushFails, IoOp::Flush) => {
                    failed.or(Some(IoErrorKind::Medium))
                }
                (Fault::BadRange { offset: o, len: l }, IoOp::Read)
                    if *o < offset + len && offset < o + l =>
                {
                    failed.or(Some(IoErrorKind::Medium))
                }
                _ => failed,
            };
        }
        let Some(kind) = failed else { return Ok(()) };
        state.struck.count_error(op, kind);
        Err(IoError::new(kind, &self.0.name, op, offset, len))
    }

    fn done<T>(&self, op: IoOp, offset: u64, len: u64, result: &Result<T, IoError>) {
        let watch = self.0.state.borrow().watch.clone();
        if let Some(watch) = watch {
            let error = result.as_ref().err().map(|error| error.kind);
            watch.completed(&Completion {
                op,
                offset,
                len,
                error,
            });
        }
    }

    fn put(&self, offset: u64, payload: Payload, fua: bool) -> IoFuture<()> {
        let len = payload.len();
        if let Err(error) = self.check(IoOp::Write, offset, len) {
            return Box::pin(std::future::ready(Err(error)));
        }
        let disk = self.clone();
        let effect = self.struck_by(IoOp::Write, offset, len);
        let lands = match effect {
            Some(Effect::Lose) => None,
            Some(Effect::Misdirect(to)) => Some(to.min(self.0.config.size - len)),
            _ => Some(offset),
        };
        let op = {
            let mut state = self.0.state.borrow_mut();
            state.next_op += 1;
            let op = state.next_op;
            if let Some(offset) = lands {
                let write = Write {
                    offset,
                    payload,
                    fua,
                };
                state.in_flight.insert(op, write);
            }
            op
        };
        Box::pin(async move {
            disk.pause(effect).await;
            let result = disk.finish_write(op, offset, len, effect);
            disk.done(IoOp::Write, offset, len, &result);
            result
        })
    }

    fn finish_write(
        &self,
        op: u64,
        offset: u64,
        len: u64,
        effect: Option<Effect>,
    ) -> Result<(), IoError> {
        let write = self.0.state.borrow_mut().in_flight.remove(&op);
        self.verdict(IoOp::Write, offset, len, effect)?;
        let mut state = self.0.state.borrow_mut();
        match (write, effect) {
            (_, Some(Effect::Lose)) => state.struck.lost_writes += 1,
            (Some(write), _) => {
                state.writes += 1;
                state.medium.write(write);
                if matches!(effect, Some(Effect::Misdirect(_))) {
                    state.struck.misdirected_writes += 1;
                }
            }
            (None, _) => {
                // The disk went and came back in the meantime.
                state.struck.gone += 1;
                let gone = IoErrorKind::Gone;
                return Err(IoError::new(gone, &self.0.name, IoOp::Write, offset, len));
            }
        }
        drop(state);
        if effect == Some(Effect::Rot) {
            self.rot_somewhere(offset, len);
        }
        Ok(())
    }

    fn finish_read(
        &self,
        offset: u64,
        buf: &mut Buf,
        effect: Option<Effect>,
    ) -> Result<(), IoError> {
        let len = u64_of(buf.len());
        if let Err(error) = self.verdict(IoOp::Read, offset, len, effect) {
            // A failed read leaves rubbish behind, so that nobody comes to rely on it.
            buf.fill(0xDB);
            return Err(error);
        }
        if effect == Some(Effect::Rot) {
            self.rot_somewhere(offset, len);
        }
        let mut state = self.0.state.borrow_mut();
        state.reads += 1;
        state.medium.load(offset, buf);
        Ok(())
    }

    fn finish_flush(&self, through: u64, effect: Option<Effect>) -> Result<(), IoError> {
        let verdict = self.verdict(IoOp::Flush, 0, 0, effect);
        let mut state = self.0.state.borrow_mut();
        let state = &mut *state;
        if effect == Some(Effect::FailAndLoseCache) {
            state.struck.caches_lost += 1;
            let (rng, tear) = (&mut state.rng, state.tear_bytes);
            state.struck.torn_writes += state.medium.power_cut(Vec::new(), rng, tear);
        }
        verdict?;
        state.flushes += 1;
        if effect == Some(Effect::Lie) {
            state.struck.lying_flushes += 1;
        } else {
            state.medium.flush(through);
        }
        Ok(())
    }

    fn rot_somewhere(&self, offset: u64, len: u64) {
        let (at, bit) = {
            let mut state = self.0.state.borrow_mut();
            (state.rng.below(len), state.rng.below(8))
        };
        self.rot(offset + at, u8::try_from(bit).unwrap_or(0));
    }
}

impl BlockDevice for SimDisk {
    fn name(&self) -> Rc<str> {
        Rc::clone(&self.0.name)
    }

    fn geometry(&self) -> DeviceGeometry {
        DeviceGeometry {
            size: self.0.config.size,
            logical_block: self.0.config.logical_block,
            io_min: self.0.config.logical_block,
            io_opt: 0,
            rotational: false,
            write_cache: true,
        }
    }

    fn read(&self, offset: u64, mut buf: Buf) -> LocalFuture<ReadResult> {
        let disk = self.clone();
        Box::pin(async move {
            let len = u64_of(buf.len());
            if let Err(error) = disk.check(IoOp::Read, offset, len) {
                return (buf, Err(error));
            }
            let effect = disk.struck_by(IoOp::Read, offset, len);
            disk.pause(effect).await;
            let result = disk.finish_read(offset, &mut buf, effect);
            disk.done(IoOp::Read, offset, len, &result);
            (buf, result)
        })
    }

    fn write(&self, offset: u64, data: SharedBuf, flags: WriteFlags) -> IoFuture<()> {
        self.put(offset, Payload::Data(data), flags.fua)
    }

    fn flush(&self) -> IoFuture<()> {
        let disk = self.clone();
        let effect = self.struck_by(IoOp::Flush, 0, 0);
        // Only what had completed when the flush was asked for is covered.
        let through = self.0.state.borrow().medium.next_write();
        Box::pin(async move {
            disk.pause(effect).await;
            let result = disk.finish_flush(through, effect);
            disk.done(IoOp::Flush, 0, 0, &result);
            result
        })
    }

    fn discard(&self, offset: u64, len: u64) -> IoFuture<()> {
        let checked = self.check(IoOp::Discard, offset, len);
        Box::pin(std::future::ready(checked))
    }

    /// Zeros over what was never written cost neither time nor memory.
    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> IoFuture<()> {
        self.put(offset, Payload::Zeros(len), flags.fua)
    }
}
