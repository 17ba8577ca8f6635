//! A small world of simulated disks with an array on them, its host, and crashes.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::future::Future;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use cairn_blockdev::sim::{Rng, Sim, SimDiskConfig};
use cairn_blockdev::units::{u64_of, usize_of_u32};
use cairn_blockdev::{BlockDevice, BufPool, Env, LocalFuture, WriteFlags};
use cairn_raid::{
    Array, ArrayEvent, AssembleOptions, CreateSpec, EventSink, Geometry, Hooks, Level, MemberDisk,
    MemberState, MemoryShare, NewDisks, RaidError, Role, Row, Slot, Witness, WitnessStore,
    assemble, create_with,
};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::disk::TestDisk;
use crate::model::Crash;

pub(crate) const HOST: Uuid = Uuid::from_bytes([0xAB; 16]);

/// A history that takes more task polls than this hangs.
const POLLS_MAX: u64 = 20_000_000;
/// Buffers that a world keeps for reuse.
const POOL_BYTES: usize = 32 << 20;
/// A journal disk: a ring of 27 MiB.
const JOURNAL_DISK_BYTES: u64 = 32 << 20;

/// What the host keeps: events and the witness.
#[derive(Default)]
pub(crate) struct Host {
    pub(crate) events: RefCell<Vec<ArrayEvent>>,
    pub(crate) witness: RefCell<Option<Witness>>,
    /// The state directory takes nothing.
    pub(crate) is_full: Cell<bool>,
    /// And gives nothing up.
    pub(crate) is_read_only: Cell<bool>,
    /// When it is given, a witness is recorded once that is told.
    pub(crate) recording: RefCell<Option<oneshot::Receiver<()>>>,
}

impl EventSink for Host {
    fn event(&self, event: ArrayEvent) {
        self.events.borrow_mut().push(event);
    }
}

impl WitnessStore for Host {
    fn record(&self, witness: Witness) -> LocalFuture<Result<(), String>> {
        if self.is_full.get() || self.is_read_only.get() {
            return Box::pin(std::future::ready(Err("no space left on device".into())));
        }
        *self.witness.borrow_mut() = Some(witness);
        let told = self.recording.take();
        Box::pin(async move {
            if let Some(told) = told {
                let _ = told.await;
            }
            Ok(())
        })
    }

    fn forget(&self, _: Uuid) -> LocalFuture<Result<(), String>> {
        if self.is_read_only.get() {
            return Box::pin(std::future::ready(Err("read-only file system".into())));
        }
        *self.witness.borrow_mut() = None;
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Host {
    pub(crate) fn saw(&self, kind: &str) -> bool {
        self.count(kind) > 0
    }

    pub(crate) fn count(&self, kind: &str) -> u32 {
        let events = self.events.borrow();
        let of_kind = events.iter().filter(|event| event.kind.to_string() == kind);
        u32::try_from(of_kind.count()).unwrap()
    }
}

/// How an array of a test is shaped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) level: Level,
    pub(crate) members: usize,
    pub(crate) spares: usize,
    pub(crate) chunk_bytes: u32,
    pub(crate) disk_bytes: u64,
    pub(crate) logical_block: u32,
    pub(crate) integrity: bool,
    pub(crate) journal: bool,
    /// Disks for the journal alone; they come after the spares.
    pub(crate) journal_disks: usize,
}

impl Shape {
    /// Disks with room for labels, a journal of 16 MiB and a few extents.
    pub(crate) fn new(level: Level, members: usize, spares: usize, chunk_bytes: u32) -> Self {
        Self {
            level,
            members,
            spares,
            chunk_bytes,
            disk_bytes: 256 << 20,
            logical_block: 512,
            integrity: true,
            journal: true,
            journal_disks: 0,
        }
    }

    /// The same, with disks for the journal alone.
    pub(crate) fn with_journal_disks(self, journal_disks: usize) -> Self {
        Self {
            journal_disks,
            ..self
        }
    }

    /// Acks follow the writes in place, and an unclean stop is answered by recomputing parity.
    pub(crate) fn without_journal(self) -> Self {
        Self {
            integrity: false,
            journal: false,
            ..self
        }
    }
}

pub(crate) struct World {
    pub(crate) sim: Sim,
    pub(crate) env: Env,
    pub(crate) host: Rc<Host>,
    pub(crate) disks: Vec<TestDisk>,
    pub(crate) shape: Shape,
    seed: u64,
    boots: u64,
}

impl World {
    pub(crate) fn new(seed: u64, shape: Shape) -> Self {
        crate::region::reset_stamps();
        let sim = Sim::new(seed);
        let env = sim.env();
        let config = SimDiskConfig {
            size: shape.disk_bytes,
            logical_block: shape.logical_block,
            latency_us_max: 100,
        };
        let others = shape.members + shape.spares;
        let disks = (0..others + shape.journal_disks)
            .map(|i| {
                let size = if i < others {
                    config.size
                } else {
                    JOURNAL_DISK_BYTES
                };
                TestDisk::new(
                    &format!("/dev/sim{i}"),
                    SimDiskConfig { size, ..config },
                    &env,
                    seed * 1000 + u64_of(i),
                )
            })
            .collect();
        Self {
            sim,
            env,
            host: Rc::default(),
            disks,
            shape,
            seed,
            boots: 0,
        }
    }

    /// Runs a future to its end.
    pub(crate) fn run<T>(&self, main: impl Future<Output = T>) -> T {
        self.sim
            .run_until(main, POLLS_MAX)
            .unwrap_or_else(|| panic!("seed {}: it hangs", self.seed))
    }

    /// One world of three has an array with as little memory as can be.
    fn memory(&self) -> MemoryShare {
        if self.seed.is_multiple_of(3) {
            MemoryShare::LEAST
        } else {
            MemoryShare::FULL
        }
    }

    pub(crate) fn hooks(&self) -> Hooks {
        Hooks {
            events: Rc::<Host>::clone(&self.host),
            witness: Rc::<Host>::clone(&self.host),
            memory: self.memory(),
        }
    }

    pub(crate) fn member(&self, index: usize) -> MemberDisk {
        let disk = self.disks[index].clone();
        MemberDisk {
            path: disk.name(),
            device: Rc::new(disk),
        }
    }

    pub(crate) fn path(&self, index: usize) -> Rc<str> {
        self.disks[index].name()
    }

    pub(crate) fn create_later(
        &self,
    ) -> impl Future<Output = Result<Rc<Array>, RaidError>> + use<> {
        let spec = CreateSpec {
            name: "pool".into(),
            level: self.shape.level,
            chunk_bytes: self.shape.chunk_bytes,
            home_host: HOST,
            journal_bytes: None,
            integrity: self.shape.integrity,
            journal: self.shape.journal,
        };
        let n = self.shape.members;
        let members = (0..n).map(|i| self.member(i)).collect();
        let rings = n + self.shape.spares;
        let disks = NewDisks {
            members,
            spares: (n..rings).map(|i| self.member(i)).collect(),
            journal: self.journal_disks().map(|i| self.member(i)).collect(),
        };
        let (env, hooks) = (self.env.clone(), self.hooks());
        create_with(env, BufPool::new(POOL_BYTES), spec, disks, hooks)
    }

    /// Disks that the array had for its journal when it was made.
    pub(crate) fn journal_disks(&self) -> Range<usize> {
        let first = self.shape.members + self.shape.spares;
        first..first + self.shape.journal_disks
    }

    pub(crate) fn create(&self) -> Rc<Array> {
        self.run(self.create_later()).unwrap()
    }

    /// A new boot: nothing of the old one runs on. After a kill, what the kernel had in flight
    /// lands whole, in part or not; a power cut loses or tears what wasn't flushed.
    pub(crate) fn crash(&mut self, crash: Crash) {
        self.sim.drop_tasks();
        self.boots += 1;
        let seed = self.seed.wrapping_mul(31).wrapping_add(self.boots);
        let mut rng = Rng::new(seed);
        let sim = Sim::new(seed);
        let env = sim.env();
        for (i, disk) in self.disks.iter_mut().enumerate() {
            let landing = match crash {
                Crash::Kill => disk.take_flying(&mut rng),
                Crash::Power => {
                    disk.power_cut();
                    Vec::new()
                }
            };
            *disk = disk.reborn(&env, seed.wrapping_add(u64_of(i) * 7919));
            sim.block_on(async {
                for (offset, data) in landing {
                    disk.write(offset, data, WriteFlags::default())
                        .await
                        .unwrap();
                }
            });
        }
        self.sim = sim;
        self.env = env;
    }

    pub(crate) fn assemble_later(
        &self,
        present: &[usize],
        force: bool,
    ) -> impl Future<Output = Result<Rc<Array>, RaidError>> + use<> {
        self.assemble_disks(present.iter().map(|&i| self.member(i)).collect(), force)
    }

    fn assemble_disks(
        &self,
        disks: Vec<MemberDisk>,
        force: bool,
    ) -> impl Future<Output = Result<Rc<Array>, RaidError>> + use<> {
        let options = AssembleOptions {
            force,
            waited: true,
            home_host: HOST,
            witness: self.host.witness.borrow().clone(),
        };
        let (env, hooks) = (self.env.clone(), self.hooks());
        assemble(env, BufPool::new(POOL_BYTES), disks, options, hooks)
    }

    pub(crate) fn assemble(&self, present: &[usize], force: bool) -> Result<Rc<Array>, RaidError> {
        self.run(self.assemble_later(present, force))
    }

    /// With disks that aren't the world's own.
    pub(crate) fn assemble_with(
        &self,
        present: &[usize],
        others: Vec<MemberDisk>,
        force: bool,
    ) -> Result<Rc<Array>, RaidError> {
        let own = present.iter().map(|&i| self.member(i));
        self.run(self.assemble_disks(own.chain(others).collect(), force))
    }

    pub(crate) fn all(&self) -> Vec<usize> {
        (0..self.disks.len()).collect()
    }

    /// Disks that bear a label.
    pub(crate) fn labelled(&self) -> Vec<usize> {
        let bears = |i: &usize| {
            let probe = self.run(cairn_raid::probe(&self.disks[*i]));
            matches!(probe, Ok(cairn_raid::Probe::Member(_)))
        };
        self.all().into_iter().filter(bears).collect()
    }

    pub(crate) fn assemble_all(&self) -> Rc<Array> {
        self.assemble(&self.all(), false).unwrap_or_else(|error| {
            let events = self.host.events.borrow();
            let last = &events[events.len().saturating_sub(5)..];
            panic!("seed {}: {error}; last events {last:?}", self.seed)
        })
    }

    pub(crate) fn sleep(&self, ms: u64) {
        self.run(self.env.clock.sleep(Duration::from_millis(ms)));
    }

    /// Runs until `done`, looking every little while; panics if it takes a simulated minute.
    pub(crate) fn run_till(&self, what: &str, mut done: impl FnMut() -> bool) {
        let clock = Rc::clone(&self.env.clock);
        let seed = self.seed;
        let host = Rc::clone(&self.host);
        self.run(async move {
            for _ in 0..3_000_000 {
                if done() {
                    return;
                }
                clock.sleep(Duration::from_micros(20)).await;
            }
            panic!(
                "seed {seed}: never {what}; events {:?}",
                host.events.borrow()
            );
        });
    }

    /// Waits until nothing is left to fill.
    pub(crate) fn wait_until_filled(&self, array: &Rc<Array>) {
        self.run_till("filled", || is_full(array));
    }

    /// Checks P and Q of every written row against the data on the members, byte by byte.
    pub(crate) fn audit(&self, array: &Rc<Array>) {
        self.run(array.drain()).unwrap();
        let status = array.status();
        let geometry =
            Geometry::new(status.level, status.members_total, self.shape.chunk_bytes).unwrap();
        let mut slots: Vec<Option<&TestDisk>> = vec![None; status.members_total];
        for member in &status.members {
            if member.state == MemberState::InSync {
                let disk = self
                    .disks
                    .iter()
                    .find(|d| *d.name() == member.path)
                    .unwrap();
                slots[member.slot.unwrap()] = Some(disk);
            }
        }
        let chunk = usize_of_u32(self.shape.chunk_bytes);
        for row in array.written_rows() {
            let chunk_of = |slot: Slot| {
                let disk = slots[slot.0]?;
                let offset = array.data_offset(&disk.name())?;
                Some(disk.peek(offset + row.0 * u64_of(chunk), chunk))
            };
            audit_row(&geometry, row, chunk_of, self.seed);
        }
    }

    /// As [`World::audit`], and with RAID 6 and one member missing: P and Q speak of the same data.
    pub(crate) fn audit_all(&self, array: &Rc<Array>) {
        self.audit(array);
        let status = array.status();
        let geometry =
            Geometry::new(status.level, status.members_total, self.shape.chunk_bytes).unwrap();
        if status.level != Level::Raid6 || status.redundancy_left != 1 {
            return;
        }
        let chunk = usize_of_u32(self.shape.chunk_bytes);
        for row in array.written_rows() {
            let of = |slot: usize| {
                let member = status
                    .members
                    .iter()
                    .find(|m| m.slot == Some(slot) && m.state == MemberState::InSync)?;
                let disk = self.disks.iter().find(|d| *d.name() == member.path)?;
                let offset = array.data_offset(&member.path)?;
                Some(disk.peek(offset + row.0 * u64_of(chunk), chunk))
            };
            let mut data = vec![None; geometry.data_chunks()];
            let (mut p, mut q) = (None, None);
            for slot in 0..geometry.members() {
                match geometry.role(row, Slot(slot)) {
                    Role::Data(i) => data[i] = of(slot),
                    Role::P => p = of(slot),
                    Role::Q => q = of(slot),
                }
            }
            let (Some(p), Some(q)) = (p, q) else { continue };
            let Some(gone) = data.iter().position(Option::is_none) else {
                continue;
            };
            // The lost chunk by P; then Q must agree.
            let mut lost = p;
            for chunk in data.iter().flatten() {
                lost.iter_mut()
                    .zip(chunk)
                    .for_each(|(to, from)| *to ^= from);
            }
            data[gone] = Some(lost);
            let data: Vec<Vec<u8>> = data.into_iter().flatten().collect();
            let mut want = vec![0; chunk];
            cairn_raid::parity::compute_q(data.iter().map(Vec::as_slice), &mut want);
            assert!(want == q, "seed {}: P and Q disagree in {row:?}", self.seed);
        }
    }

    /// Total, free and mapped space agree, and no extent belongs to nobody.
    pub(crate) fn check_space(&self, array: &Rc<Array>) {
        let space = array.status().space;
        let mapped: u64 = array.volumes().iter().map(|v| v.allocated_bytes).sum();
        assert_eq!(
            space.total_bytes - space.free_bytes,
            mapped,
            "seed {}: space that is neither free nor a volume's",
            self.seed
        );
    }

    /// The range of a member's data zone that holds `rows`.
    pub(crate) fn rows_on_disk(&self, array: &Array, index: usize, rows: Range<u64>) -> Range<u64> {
        let offset = array.data_offset(&self.path(index)).unwrap();
        let chunk = u64::from(self.shape.chunk_bytes);
        offset + rows.start * chunk..offset + rows.end * chunk
    }

    /// Paths in a state.
    pub(crate) fn in_state(array: &Rc<Array>, state: MemberState) -> BTreeSet<String> {
        let members = array.status().members;
        members
            .into_iter()
            .filter(|m| m.state == state)
            .map(|m| m.path)
            .collect()
    }
}

/// Every slot has its member, and nothing is being filled.
pub(crate) fn is_full(array: &Rc<Array>) -> bool {
    let status = array.status();
    let full = status.level.redundancy(status.members_total);
    status.sync.is_none() && status.redundancy_left == full
}

fn audit_row(geometry: &Geometry, row: Row, chunk_of: impl Fn(Slot) -> Option<Vec<u8>>, seed: u64) {
    let slots: Vec<Slot> = (0..geometry.members()).map(Slot).collect();
    if geometry.level() == Level::Raid1 {
        let copies: Vec<_> = slots.iter().filter_map(|slot| chunk_of(*slot)).collect();
        assert!(
            copies.windows(2).all(|pair| pair[0] == pair[1]),
            "seed {seed}: mirrors differ in {row:?}"
        );
        return;
    }
    let mut data = vec![None; geometry.data_chunks()];
    let (mut p, mut q) = (None, None);
    for slot in slots {
        match geometry.role(row, slot) {
            Role::Data(i) => data[i] = chunk_of(slot),
            Role::P => p = chunk_of(slot),
            Role::Q => q = chunk_of(slot),
        }
    }
    let Some(data) = data.into_iter().collect::<Option<Vec<_>>>() else {
        return;
    };
    let sources = || data.iter().map(Vec::as_slice);
    let mut want = vec![0; data[0].len()];
    if let Some(p) = p {
        cairn_raid::parity::compute_p(sources(), &mut want);
        assert!(p == want, "seed {seed}: P is wrong in {row:?}");
    }
    if let Some(q) = q {
        cairn_raid::parity::compute_q(sources(), &mut want);
        assert!(q == want, "seed {seed}: Q is wrong in {row:?}");
    }
}
