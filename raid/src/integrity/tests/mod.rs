//! The checksums of an array on simulated disks.

mod checkpoints;
mod copies;
mod pages;

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use cairn_blockdev::sim::{Sim, SimDisk, SimDiskConfig};
use cairn_blockdev::units::{BLOCK, BLOCK_BYTES, MIB, usize_of};
use cairn_blockdev::{BlockDevice, DeviceGeometry, Env, IoFuture, ReadResult};
use cairn_blockdev::{IoErrorKind, LocalFuture, SharedBuf, WriteFlags, ZeroFlags};

use super::page::SumsPage;
use super::place::{Copy, Side};
use super::store::Flaw;
use super::*;
use crate::array::watch::Watch;
use crate::layout::{Layout, Shape, ZoneKind};
use crate::level::Level;

const ARRAY: Uuid = Uuid::from_bytes([7; 16]);
const CHUNK: u32 = 16384;
const CACHE_BYTES: usize = 256 << 20;

/// A disk that acks writes to a range and drops them: fault D6.
struct Forgetful {
    disk: SimDisk,
    /// Offsets from, to.
    dropped: Rc<Cell<(u64, u64)>>,
}

impl BlockDevice for Forgetful {
    fn name(&self) -> Rc<str> {
        self.disk.name()
    }
    fn geometry(&self) -> DeviceGeometry {
        self.disk.geometry()
    }
    fn read(&self, offset: u64, buf: Buf) -> LocalFuture<ReadResult> {
        self.disk.read(offset, buf)
    }
    fn write(&self, offset: u64, data: SharedBuf, flags: WriteFlags) -> IoFuture<()> {
        let (from, to) = self.dropped.get();
        if (from..to).contains(&offset) {
            return Box::pin(std::future::ready(Ok(())));
        }
        self.disk.write(offset, data, flags)
    }
    fn flush(&self) -> IoFuture<()> {
        self.disk.flush()
    }
    fn discard(&self, offset: u64, len: u64) -> IoFuture<()> {
        self.disk.discard(offset, len)
    }
    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> IoFuture<()> {
        self.disk.write_zeroes(offset, len, flags)
    }
}

struct World {
    sim: Sim,
    geometry: Geometry,
    data_bytes: u64,
    layout: Layout,
    sim_disks: Vec<SimDisk>,
    dropped: Vec<Rc<Cell<(u64, u64)>>>,
    disks: Vec<Option<Rc<Disk>>>,
    sums: Sums,
    cache_bytes: usize,
}

fn disk_of(
    sim_disk: &SimDisk,
    layout: Layout,
    dropped: &Rc<Cell<(u64, u64)>>,
    env: &Env,
) -> Rc<Disk> {
    let device: Rc<dyn BlockDevice> = Rc::new(Forgetful {
        disk: sim_disk.clone(),
        dropped: Rc::clone(dropped),
    });
    let watched = Watch::new(env).over(&sim_disk.name(), &device);
    let uuid = Uuid::from_bytes([1; 16]);
    Disk::new(uuid, sim_disk.name(), watched, Some(layout))
}

fn config(latency_us_max: u64) -> SimDiskConfig {
    SimDiskConfig {
        size: 256 * MIB,
        logical_block: 4096,
        latency_us_max,
    }
}

impl World {
    fn new(level: Level, members: usize, seed: u64) -> Self {
        let sim = Sim::new(seed);
        let env = sim.env();
        let disks = (0..members)
            .map(|n| SimDisk::new(&format!("d{n}"), config(50), &env, seed + n as u64))
            .collect();
        Self::over(sim, level, disks, CACHE_BYTES)
    }

    fn over(sim: Sim, level: Level, sim_disks: Vec<SimDisk>, cache_bytes: usize) -> Self {
        let geometry = Geometry::new(level, sim_disks.len(), CHUNK).unwrap();
        let shape = Shape {
            geometry,
            journal_bytes: None,
        };
        let size = sim_disks[0].geometry().size;
        let data_bytes = shape.data_bytes_for(size).unwrap();
        let layout = shape.layout(size, data_bytes).unwrap();
        let dropped: Vec<_> = sim_disks.iter().map(|_| Rc::default()).collect();
        let env = sim.env();
        let disks = sim_disks
            .iter()
            .zip(&dropped)
            .map(|(disk, dropped)| Some(disk_of(disk, layout, dropped, &env)))
            .collect();
        let sums = Sums::new(ARRAY, &geometry, data_bytes, cache_bytes);
        Self {
            sim,
            geometry,
            data_bytes,
            layout,
            sim_disks,
            dropped,
            disks,
            sums,
            cache_bytes,
        }
    }

    /// The daemon starts again: nothing is in memory.
    fn restart(&mut self) {
        self.sums = Sums::new(ARRAY, &self.geometry, self.data_bytes, self.cache_bytes);
    }

    /// Power fails and comes back.
    fn power_cut(self, seed: u64) -> Self {
        self.sim.drop_tasks();
        let sim = Sim::new(seed);
        let env = sim.env();
        for disk in &self.sim_disks {
            disk.power_cut();
        }
        let level = self.geometry.level();
        let reborn = self.sim_disks.iter().map(|disk| disk.reborn(&env, seed));
        Self::over(sim, level, reborn.collect(), self.cache_bytes)
    }

    fn page(&self, row: u64) -> PageNumber {
        self.sums.places.runs(Row(row), 0..1).next().unwrap().page
    }

    fn copies(&self, row: u64) -> Vec<Copy> {
        self.sums.places.copies(self.page(row)).collect()
    }

    fn side_at(&self, copy: &Copy, side: Side) -> u64 {
        self.layout.zone(ZoneKind::Checksums).offset + copy.side_offset(side)
    }

    /// Sets the sums of column 0 of `row` on every member to those of blocks of `fill`.
    fn set(&self, row: u64, fill: u8) {
        self.sim.block_on(async {
            let _ready = self.sums.ready(&self.disks, Row(row), 0..1).await.unwrap();
            for slot in (0..self.disks.len()).map(Slot) {
                self.sums.set(slot, Row(row), 0, &[crc(fill)]);
            }
        });
    }

    fn write_dirty(&self, generation: u64) -> Vec<(Rc<Disk>, IoError)> {
        self.sim
            .block_on(self.sums.write_dirty(&self.disks, &[], generation))
    }

    fn flush(&self) {
        self.sim.block_on(async {
            for disk in self.disks.iter().flatten() {
                disk.flush().await.unwrap();
            }
        });
        self.sums.flushed();
    }

    fn checkpoint(&self, generation: u64) {
        assert!(self.write_dirty(generation).is_empty());
        assert_eq!(self.sums.stats().dirty, 0);
        self.flush();
    }

    /// Whether column 0 of `row` verifies as `fill` on every member.
    fn holds(&self, row: u64, fill: u8) -> Result<bool, SumsError> {
        self.sim.block_on(async {
            let _ready = self.sums.ready(&self.disks, Row(row), 0..1).await?;
            let good = |slot| self.sums.verify(Row(row), 0, slot, &block(fill)) == Verdict::Good;
            Ok((0..self.disks.len()).map(Slot).all(good))
        })
    }

    /// What was found wrong, by slot.
    fn flaws(&self) -> Vec<(usize, &'static str)> {
        let name = |flaw: &Flaw| match flaw {
            Flaw::Stale { .. } => "stale",
            Flaw::Damaged => "damaged",
            Flaw::Differs => "differs",
            Flaw::Unreadable(_) => "unreadable",
        };
        let findings = self.sums.take_findings();
        let mut flaws: Vec<_> = findings
            .iter()
            .inspect(|finding| {
                let disk = self.disks[finding.slot.0].as_ref().unwrap();
                assert!(Rc::ptr_eq(&finding.disk, disk));
            })
            .map(|finding| (finding.slot.0, name(&finding.flaw)))
            .collect();
        flaws.sort_unstable();
        flaws
    }

    /// Generations on the two sides of a copy.
    fn generations(&self, row: u64, copy: &Copy) -> [Option<u64>; 2] {
        let id = self.sums.cache.borrow().id(self.page(row));
        [Side::A, Side::B].map(|side| {
            let bytes = self.sim_disks[copy.slot.0].peek(self.side_at(copy, side), BLOCK_BYTES);
            let page = SumsPage::decode(&id, &bytes).ok();
            page.map(|page| page.generation())
        })
    }
}

/// Polls a future once.
async fn is_pending(future: &mut (impl Future + Unpin)) -> bool {
    let poll = |cx: &mut Context<'_>| Poll::Ready(Pin::new(&mut *future).poll(cx).is_pending());
    std::future::poll_fn(poll).await
}

fn block(fill: u8) -> Vec<u8> {
    vec![fill; BLOCK_BYTES]
}

fn crc(fill: u8) -> u32 {
    cairn_blockdev::crc::crc32c(&block(fill))
}
