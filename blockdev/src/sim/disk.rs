//! A disk with a volatile cache, random latencies and faults on order.
//!
//! Invariants
//! - What a read sees is every write that completed; what survives a power cut is what was flushed
//!   before it, and of the rest a seeded choice per sector.
//! - A write takes effect at its completion, so an abandoned operation (its task dropped by a power
//!   cut) leaves nothing or, torn by [`SimDisk::power_cut`], a part.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use super::rng::Rng;
use crate::buf::{Buf, SharedBuf};
use crate::device::{
    BlockDevice, DeviceGeometry, IoFuture, LocalFuture, ReadResult, WriteFlags, ZeroFlags,
};
use crate::env::Env;
use crate::error::{IoError, IoErrorKind, IoOp};
use crate::units::{BLOCK, BLOCK_BYTES, SECTOR, u64_of, usize_of};

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

/// A fault to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Reads that touch the range fail until it is written again.
    BadRange {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Every write fails with a medium error.
    WritesFail,
    /// Every flush fails.
    FlushFails,
    /// Everything fails: the disk is pulled.
    Gone,
}

type Pages = BTreeMap<u64, Box<[u8; BLOCK_BYTES]>>;

#[derive(Default)]
struct State {
    /// What reads see.
    current: Pages,
    /// What is on the medium for certain.
    durable: Pages,
    /// Completed writes since the last flush, in order.
    unflushed: Vec<(u64, SharedBuf)>,
    /// Cached writes completed, and flushed, since the beginning.
    cached_total: usize,
    flushed_total: usize,
    faults: Vec<Fault>,
    reads: u64,
    writes: u64,
    flushes: u64,
}

struct Inner {
    name: Rc<str>,
    config: SimDiskConfig,
    env: Env,
    rng: RefCell<Rng>,
    state: RefCell<State>,
    in_flight: RefCell<BTreeMap<u64, (u64, SharedBuf)>>,
    next_op: Cell<u64>,
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
            rng: RefCell::new(Rng::new(seed)),
            state: RefCell::default(),
            in_flight: RefCell::default(),
            next_op: Cell::new(0),
        }))
    }

    /// The same contents in another world, as after a reboot; faults are not carried over.
    pub fn reborn(&self, env: &Env, seed: u64) -> Self {
        let new = Self::new(&self.0.name, self.0.config, env, seed);
        {
            let old = self.0.state.borrow();
            let mut state = new.0.state.borrow_mut();
            state.current = old.current.clone();
            state.durable = old.durable.clone();
            state.unflushed.clone_from(&old.unflushed);
            state.cached_total = state.unflushed.len();
        }
        new
    }

    /// Adds a fault.
    pub fn inject(&self, fault: Fault) {
        self.0.state.borrow_mut().faults.push(fault);
    }

    /// Takes every fault back.
    pub fn heal(&self) {
        self.0.state.borrow_mut().faults.clear();
    }

    /// Loses power: of every write since the last flush, and of those in flight, each sector
    /// survives or not by the seed; what reads see from now on is what survived.
    pub fn power_cut(&self) {
        let mut state = self.0.state.borrow_mut();
        let mut rng = self.0.rng.borrow_mut();
        let mut lost: Vec<_> = std::mem::take(&mut state.unflushed);
        state.flushed_total = state.cached_total;
        lost.extend(std::mem::take(&mut *self.0.in_flight.borrow_mut()).into_values());
        for (offset, data) in lost {
            // Whole, gone, or torn in sectors.
            let fate = rng.below(3);
            for (sector, bytes) in (0u64..).zip(data.chunks(usize_of(SECTOR))) {
                if fate == 0 || (fate == 2 && rng.one_in(2)) {
                    store(&mut state.durable, offset + sector * SECTOR, bytes);
                }
            }
        }
        state.current = state.durable.clone();
    }

    /// Reads without time, faults or counters: for audits.
    pub fn peek(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        load(&self.0.state.borrow().current, offset, &mut bytes);
        bytes
    }

    /// Changes bytes behind everybody's back: rot.
    pub fn poke(&self, offset: u64, bytes: &[u8]) {
        let mut state = self.0.state.borrow_mut();
        store(&mut state.current, offset, bytes);
        store(&mut state.durable, offset, bytes);
    }

    /// Reads, writes and flushes done so far.
    pub fn counts(&self) -> (u64, u64, u64) {
        let state = self.0.state.borrow();
        (state.reads, state.writes, state.flushes)
    }

    fn pause(&self) -> LocalFuture<()> {
        let max = self.0.config.latency_us_max;
        if max == 0 {
            return Box::pin(std::future::ready(()));
        }
        let us = 1 + self.0.rng.borrow_mut().below(max);
        self.0.env.clock.sleep(Duration::from_micros(us))
    }

    fn fault(&self, op: IoOp, offset: u64, len: u64) -> Result<(), IoError> {
        let mut state = self.0.state.borrow_mut();
        if op == IoOp::Write {
            state.faults.retain(|fault| {
                !matches!(fault, Fault::BadRange { offset: o, len: l }
                    if offset <= *o && o + l <= offset + len)
            });
        }
        for fault in &state.faults {
            let kind = match (fault, op) {
                (Fault::Gone, _) => IoErrorKind::Gone,
                (Fault::WritesFail, IoOp::Write) | (Fault::FlushFails, IoOp::Flush) => {
                    IoErrorKind::Medium
                }
                (Fault::BadRange { offset: o, len: l }, IoOp::Read)
                    if *o < offset + len && offset < o + l =>
                {
                    IoErrorKind::Medium
                }
                _ => continue,
            };
            return Err(IoError::new(kind, &self.0.name, op, offset, len));
        }
        Ok(())
    }

    fn put(&self, offset: u64, data: SharedBuf, fua: bool) -> IoFuture<()> {
        if let Err(error) = self.check(IoOp::Write, offset, u64_of(data.len())) {
            return Box::pin(std::future::ready(Err(error)));
        }
        let disk = self.clone();
        let op = self.0.next_op.get();
        self.0.next_op.set(op + 1);
        self.0
            .in_flight
            .borrow_mut()
            .insert(op, (offset, data.clone()));
        Box::pin(async move {
            disk.pause().await;
            disk.0.in_flight.borrow_mut().remove(&op);
            disk.fault(IoOp::Write, offset, u64_of(data.len()))?;
            let mut state = disk.0.state.borrow_mut();
            state.writes += 1;
            store(&mut state.current, offset, &data);
            if fua {
                store(&mut state.durable, offset, &data);
            } else {
                state.unflushed.push((offset, data));
                state.cached_total += 1;
            }
            Ok(())
        })
    }
}

fn load(pages: &Pages, offset: u64, bytes: &mut [u8]) {
    let mut at = offset;
    let mut rest = bytes;
    while !rest.is_empty() {
        let within = usize_of(at % BLOCK);
        let n = rest.len().min(BLOCK_BYTES - within);
        let (head, tail) = rest.split_at_mut(n);
        match pages
            .get(&(at / BLOCK))
            .and_then(|page| page.get(within..within + n))
        {
            Some(page) => head.copy_from_slice(page),
            None => head.fill(0),
        }
        at += u64_of(n);
        rest = tail;
    }
}

fn store(pages: &mut Pages, offset: u64, bytes: &[u8]) {
    let mut at = offset;
    let mut rest = bytes;
    while !rest.is_empty() {
        let within = usize_of(at % BLOCK);
        let n = rest.len().min(BLOCK_BYTES - within);
        let (head, tail) = rest.split_at(n);
        let page = pages
            .entry(at / BLOCK)
            .or_insert_with(|| Box::new([0; BLOCK_BYTES]));
        if let Some(to) = page.get_mut(within..within + n) {
            to.copy_from_slice(head);
        }
        at += u64_of(n);
        rest = tail;
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
            disk.pause().await;
            if let Err(error) = disk.fault(IoOp::Read, offset, len) {
                // A failed read leaves rubbish behind, so that nobody comes to rely on it.
                buf.fill(0xDB);
                return (buf, Err(error));
            }
            let mut state = disk.0.state.borrow_mut();
            state.reads += 1;
            load(&state.current, offset, &mut buf);
            drop(state);
            (buf, Ok(()))
        })
    }

    fn write(&self, offset: u64, data: SharedBuf, flags: WriteFlags) -> IoFuture<()> {
        self.put(offset, data, flags.fua)
    }

    fn flush(&self) -> IoFuture<()> {
        let disk = self.clone();
        // Only what had completed when the flush was asked for is covered.
        let covered_total = self.0.state.borrow().cached_total;
        Box::pin(async move {
            disk.pause().await;
            disk.fault(IoOp::Flush, 0, 0)?;
            let mut state = disk.0.state.borrow_mut();
            // A flush that overlapped another finds less to do; it never covers later writes.
            let covered = covered_total.saturating_sub(state.flushed_total);
            state.flushes += 1;
            state.flushed_total += covered;
            let done: Vec<_> = state.unflushed.drain(..covered).collect();
            for (offset, data) in done {
                store(&mut state.durable, offset, &data);
            }
            Ok(())
        })
    }

    fn discard(&self, offset: u64, len: u64) -> IoFuture<()> {
        let checked = self.check(IoOp::Discard, offset, len);
        Box::pin(std::future::ready(checked))
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> IoFuture<()> {
        self.put(offset, Buf::zeroed(usize_of(len)).freeze(), flags.fua)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Sim;

    const CONFIG: SimDiskConfig = SimDiskConfig {
        size: 1 << 20,
        logical_block: 512,
        latency_us_max: 50,
    };

    #[test]
    fn a_power_cut_keeps_what_was_flushed() {
        for seed in 0..50 {
            let sim = Sim::new(seed);
            let disk = SimDisk::new("d", CONFIG, &sim.env(), seed);
            sim.block_on(async {
                let one = Buf::copy_of(&[1; 8192]).freeze();
                disk.write(4096, one, WriteFlags::default()).await.unwrap();
                disk.flush().await.unwrap();
                let two = Buf::copy_of(&[2; 4096]).freeze();
                disk.write(8192, two, WriteFlags::default()).await.unwrap();
            });
            disk.power_cut();
            assert!(disk.peek(4096, 4096).iter().all(|&b| b == 1));
            for sector in disk.peek(8192, 4096).chunks(512) {
                assert!(sector.iter().all(|&b| b == sector[0]) && [1, 2].contains(&sector[0]));
            }
        }
    }

    #[test]
    fn a_bad_range_fails_reads_until_it_is_written() {
        let sim = Sim::new(1);
        let disk = SimDisk::new("d", CONFIG, &sim.env(), 1);
        disk.inject(Fault::BadRange {
            offset: 4096,
            len: 512,
        });
        sim.block_on(async {
            let (_, result) = disk.read(4096, Buf::zeroed(4096)).await;
            assert_eq!(result.unwrap_err().kind, IoErrorKind::Medium);
            let data = Buf::copy_of(&[3; 4096]).freeze();
            disk.write(4096, data, WriteFlags::default()).await.unwrap();
            let (buf, result) = disk.read(4096, Buf::zeroed(4096)).await;
            assert!(result.is_ok() && buf.iter().all(|&b| b == 3));
        });
    }
}
