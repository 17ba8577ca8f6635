//! A disk with a volatile cache, random latencies and faults on order.
//!
//! Invariants
//! - What a read sees is every write that completed; what survives a power cut is what was flushed
//!   before it, and of the rest a seeded choice per sector.
//! - A write takes effect at its completion, so an abandoned operation (its task dropped by a power
//!   cut) leaves nothing or, torn by [`SimDisk::power_cut`] or [`SimDisk::kill`], a part.
//! - Everything is decided by the seed and the order of the operations.

mod run;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::Waker;

use super::fault::{Fault, FaultCounts, Strike};
use super::medium::{Medium, Payload, Write};
use super::rng::Rng;
use crate::buf::{Buf, SharedBuf};
use crate::device::{
    BlockDevice, DeviceGeometry, IoFuture, LocalFuture, ReadResult, WriteFlags, ZeroFlags,
};
use crate::env::Env;
use crate::error::{IoErrorKind, IoOp};
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
    bytes_written: u64,
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
                bytes_written: 0,
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

    /// Bytes of data, not of zeros, written so far.
    pub fn bytes_written(&self) -> u64 {
        self.0.state.borrow().bytes_written
    }

    /// Reads, writes and flushes done so far.
    pub fn counts(&self) -> (u64, u64, u64) {
        let state = self.0.state.borrow();
        (state.reads, state.writes, state.flushes)
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
            physical_block: u32::try_from(self.0.state.borrow().tear_bytes).unwrap_or(512),
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
