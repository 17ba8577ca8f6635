//! A simulated disk under a test's hand: writes can be held back, flushes fail once, and a killed
//! daemon leaves the operations in flight half done.
//!
//! Zeros over what was never written cost nothing, so that making an array is quick.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use cairn_blockdev::sim::{Fault, Rng, SimDisk, SimDiskConfig};
use cairn_blockdev::units::u64_of;
use cairn_blockdev::{
    BlockDevice, Buf, DeviceGeometry, Env, IoError, IoErrorKind, IoFuture, IoOp, LocalFuture,
    ReadResult, SharedBuf, WriteFlags, ZeroFlags,
};

/// What was written is remembered in grains of this size.
const GRAIN: u64 = 64 << 10;
const SECTOR: usize = 512;
/// How often an operation that is held back for long looks whether it may go on.
const PAUSE_MAX: Duration = Duration::from_millis(20);

struct Inner {
    sim: SimDisk,
    env: Env,
    touched: RefCell<BTreeSet<u64>>,
    flying: RefCell<BTreeMap<u64, (u64, SharedBuf)>>,
    next_op: Cell<u64>,
    /// Bytes written, by offset.
    written: RefCell<BTreeMap<u64, u64>>,
    held: RefCell<Vec<Range<u64>>>,
    held_reads: RefCell<Vec<Range<u64>>>,
    flushes_held: Cell<bool>,
    waiting: Cell<usize>,
    flushes_to_fail: Cell<usize>,
}

/// A disk; clones are the same disk.
#[derive(Clone)]
pub(crate) struct TestDisk(Rc<Inner>);

impl TestDisk {
    pub(crate) fn new(name: &str, config: SimDiskConfig, env: &Env, seed: u64) -> Self {
        Self::over(SimDisk::new(name, config, env, seed), env, BTreeSet::new())
    }

    fn over(sim: SimDisk, env: &Env, touched: BTreeSet<u64>) -> Self {
        Self(Rc::new(Inner {
            sim,
            env: env.clone(),
            touched: RefCell::new(touched),
            flying: RefCell::default(),
            next_op: Cell::new(0),
            written: RefCell::default(),
            held: RefCell::default(),
            held_reads: RefCell::default(),
            flushes_held: Cell::new(false),
            waiting: Cell::new(0),
            flushes_to_fail: Cell::new(0),
        }))
    }

    /// The same contents in another world; faults and holds are gone.
    pub(crate) fn reborn(&self, env: &Env, seed: u64) -> Self {
        let touched = self.0.touched.borrow().clone();
        Self::over(self.0.sim.reborn(env, seed), env, touched)
    }

    /// Writes that the kernel had when the daemon was killed: each lands whole, in part, or not.
    pub(crate) fn take_flying(&self, rng: &mut Rng) -> Vec<(u64, SharedBuf)> {
        let flying = std::mem::take(&mut *self.0.flying.borrow_mut());
        let mut landing = Vec::new();
        for (offset, data) in flying.into_values() {
            match rng.below(3) {
                0 => landing.push((offset, data)),
                1 => {}
                _ => {
                    let pieces = (0..data.len()).step_by(SECTOR);
                    for at in pieces.filter(|_| rng.one_in(2)) {
                        landing.push((offset + u64_of(at), data.slice(at..at + SECTOR)));
                    }
                }
            }
        }
        landing
    }

    pub(crate) fn power_cut(&self) {
        self.0.sim.power_cut();
    }

    pub(crate) fn inject(&self, fault: Fault) {
        self.0.sim.inject(fault);
    }

    /// It has no faults any more.
    pub(crate) fn heal(&self) {
        self.0.sim.heal();
    }

    /// It is pulled, with or without what its cache holds.
    pub(crate) fn vanish(&self, lose_cache: bool) {
        self.0.sim.vanish(lose_cache);
    }

    /// It is put back.
    pub(crate) fn come_back(&self) {
        self.0.sim.come_back();
    }

    /// The simulated disk itself.
    pub(crate) fn sim(&self) -> &SimDisk {
        &self.0.sim
    }

    /// Bytes written so far to a range.
    pub(crate) fn written_in(&self, range: Range<u64>) -> u64 {
        let written = self.0.written.borrow();
        written.range(range).map(|(_, bytes)| bytes).sum()
    }

    /// The next flush fails; the one after succeeds, as on real disks (fault D3).
    pub(crate) fn fail_next_flush(&self) {
        self.0.flushes_to_fail.set(1);
    }

    /// Whether [`TestDisk::fail_next_flush`] still waits for its flush.
    pub(crate) fn flush_fault_is_due(&self) -> bool {
        self.0.flushes_to_fail.get() > 0
    }

    /// What is in flight never lands, even if the daemon is killed.
    pub(crate) fn lose_flying(&self) {
        self.0.flying.borrow_mut().clear();
    }

    /// Writes that begin in `range` wait until [`TestDisk::release`].
    pub(crate) fn hold_writes(&self, range: Range<u64>) {
        self.0.held.borrow_mut().push(range);
    }

    /// Reads that begin in `range` wait until [`TestDisk::release`].
    pub(crate) fn hold_reads(&self, range: Range<u64>) {
        self.0.held_reads.borrow_mut().push(range);
    }

    /// Flushes wait until [`TestDisk::release`].
    pub(crate) fn hold_flushes(&self) {
        self.0.flushes_held.set(true);
    }

    /// Nothing is answered until [`TestDisk::release`].
    pub(crate) fn hang(&self) {
        self.hold_reads(0..u64::MAX);
        self.hold_writes(0..u64::MAX);
        self.hold_flushes();
    }

    pub(crate) fn release(&self) {
        self.0.held.borrow_mut().clear();
        self.0.held_reads.borrow_mut().clear();
        self.0.flushes_held.set(false);
    }

    /// Operations that are held back now.
    pub(crate) fn waiting(&self) -> usize {
        self.0.waiting.get()
    }

    pub(crate) fn peek(&self, offset: u64, len: usize) -> Vec<u8> {
        self.0.sim.peek(offset, len)
    }

    pub(crate) fn poke(&self, offset: u64, bytes: &[u8]) {
        self.touch(offset, u64_of(bytes.len()));
        self.0.sim.poke(offset, bytes);
    }

    fn touch(&self, offset: u64, len: u64) {
        let mut touched = self.0.touched.borrow_mut();
        touched.extend(offset / GRAIN..=(offset + len.max(1) - 1) / GRAIN);
    }

    fn is_held(&self, op: IoOp, offset: u64) -> bool {
        let within = |held: &RefCell<Vec<Range<u64>>>| {
            held.borrow().iter().any(|range| range.contains(&offset))
        };
        match op {
            IoOp::Flush => self.0.flushes_held.get(),
            IoOp::Read => within(&self.0.held_reads),
            _ => within(&self.0.held),
        }
    }

    /// Waits as long as the operation is held back.
    async fn pass(&self, op: IoOp, offset: u64) {
        if !self.is_held(op, offset) {
            return;
        }
        self.0.waiting.set(self.0.waiting.get() + 1);
        let mut pause = Duration::from_micros(50);
        while self.is_held(op, offset) {
            self.0.env.clock.sleep(pause).await;
            // Short at first: what is released soon goes on soon.
            pause = (pause + pause / 16).min(PAUSE_MAX);
        }
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}

impl BlockDevice for TestDisk {
    fn name(&self) -> Rc<str> {
        self.0.sim.name()
    }

    fn geometry(&self) -> DeviceGeometry {
        self.0.sim.geometry()
    }

    fn read(&self, offset: u64, buf: Buf) -> LocalFuture<ReadResult> {
        if !self.is_held(IoOp::Read, offset) {
            return self.0.sim.read(offset, buf);
        }
        let disk = self.clone();
        Box::pin(async move {
            disk.pass(IoOp::Read, offset).await;
            disk.0.sim.read(offset, buf).await
        })
    }

    fn write(&self, offset: u64, data: SharedBuf, flags: WriteFlags) -> IoFuture<()> {
        let (disk, op) = (self.clone(), self.0.next_op.get());
        self.0.next_op.set(op + 1);
        self.touch(offset, u64_of(data.len()));
        *self.0.written.borrow_mut().entry(offset).or_default() += u64_of(data.len());
        self.0
            .flying
            .borrow_mut()
            .insert(op, (offset, data.clone()));
        Box::pin(async move {
            disk.pass(IoOp::Write, offset).await;
            let result = disk.0.sim.write(offset, data, flags).await;
            disk.0.flying.borrow_mut().remove(&op);
            result
        })
    }

    fn flush(&self) -> IoFuture<()> {
        let fails = self.0.flushes_to_fail.get();
        if fails > 0 {
            self.0.flushes_to_fail.set(fails - 1);
            let error = IoError::new(IoErrorKind::Medium, &self.name(), IoOp::Flush, 0, 0);
            return Box::pin(std::future::ready(Err(error)));
        }
        if !self.is_held(IoOp::Flush, 0) {
            return self.0.sim.flush();
        }
        let disk = self.clone();
        Box::pin(async move {
            disk.pass(IoOp::Flush, 0).await;
            disk.0.sim.flush().await
        })
    }

    fn discard(&self, offset: u64, len: u64) -> IoFuture<()> {
        self.0.sim.discard(offset, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> IoFuture<()> {
        if let Err(error) = self.check(IoOp::Write, offset, len) {
            return Box::pin(std::future::ready(Err(error)));
        }
        let end = offset + len;
        let touched = self.0.touched.borrow();
        let grains = touched.range(offset / GRAIN..end.div_ceil(GRAIN));
        let pieces: Vec<Range<u64>> = grains
            .map(|grain| (grain * GRAIN).max(offset)..((grain + 1) * GRAIN).min(end))
            .collect();
        let disk = self.clone();
        Box::pin(async move {
            for piece in pieces {
                let zeros = Buf::zeroed(usize::try_from(piece.end - piece.start).unwrap());
                let flags = WriteFlags { fua: flags.fua };
                disk.write(piece.start, zeros.freeze(), flags).await?;
            }
            Ok(())
        })
    }
}
