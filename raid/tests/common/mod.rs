#![allow(unused)]
//! A small world of simulated disks with an array on them, and a model that knows every byte.

use std::cell::RefCell;
use std::rc::Rc;

use cairn_blockdev::sim::{Rng, Sim, SimDisk, SimDiskConfig};
use cairn_blockdev::{
    BlockDevice, Buf, BufPool, Env, IoErrorKind, LocalFuture, WriteFlags, ZeroFlags,
};
use cairn_raid::{
    Array, ArrayEvent, AssembleOptions, CreateSpec, EventSink, Geometry, Hooks, Level, MemberDisk,
    MemberState, RaidError, Role, Row, Slot, Witness, WitnessStore, assemble, create,
};
use uuid::Uuid;

pub const HOST: Uuid = Uuid::from_bytes([0xAB; 16]);

/// What the host keeps: events and the witness.
#[derive(Default)]
pub struct Host {
    pub events: RefCell<Vec<ArrayEvent>>,
    pub witness: RefCell<Option<Witness>>,
}

impl EventSink for Host {
    fn event(&self, event: ArrayEvent) {
        self.events.borrow_mut().push(event);
    }
}

impl WitnessStore for Host {
    fn record(&self, witness: Witness) -> LocalFuture<Result<(), String>> {
        *self.witness.borrow_mut() = Some(witness);
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Host {
    pub fn saw(&self, kind: &str) -> bool {
        self.events
            .borrow()
            .iter()
            .any(|event| event.kind.to_string() == kind)
    }
}

/// How an array of a test is shaped.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub level: Level,
    pub members: usize,
    pub spares: usize,
    pub chunk_bytes: u32,
    pub disk_bytes: u64,
    pub logical_block: u32,
}

impl Shape {
    pub fn new(level: Level, members: usize, spares: usize, chunk_bytes: u32) -> Self {
        // Room for labels, a journal of 16 MiB and at least one extent: tests use little of it.
        Self {
            level,
            members,
            spares,
            chunk_bytes,
            disk_bytes: 256 << 20,
            logical_block: 512,
        }
    }
}

pub struct World {
    pub sim: Sim,
    pub env: Env,
    pub host: Rc<Host>,
    pub disks: Vec<SimDisk>,
    pub shape: Shape,
    pub seed: u64,
    boots: u64,
}

impl World {
    pub fn new(seed: u64, shape: Shape) -> Self {
        let sim = Sim::new(seed);
        let env = sim.env();
        let config = SimDiskConfig {
            size: shape.disk_bytes,
            logical_block: shape.logical_block,
            latency_us_max: 100,
        };
        let disks = (0..shape.members + shape.spares)
            .map(|i| {
                SimDisk::new(
                    &format!("/dev/sim{i}"),
                    config,
                    &env,
                    seed * 1000 + i as u64,
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

    pub fn hooks(&self) -> Hooks {
        Hooks {
            events: Rc::<Host>::clone(&self.host),
            witness: Rc::<Host>::clone(&self.host),
        }
    }

    pub fn member(&self, index: usize) -> MemberDisk {
        let disk = self.disks[index].clone();
        MemberDisk {
            path: disk.name(),
            device: Rc::new(disk),
        }
    }

    pub fn create(&self) -> Rc<Array> {
        let spec = CreateSpec {
            name: "pool".into(),
            level: self.shape.level,
            chunk_bytes: self.shape.chunk_bytes,
            home_host: HOST,
            journal_bytes: None,
        };
        let n = self.shape.members;
        let members = (0..n).map(|i| self.member(i)).collect();
        let spares = (n..self.disks.len()).map(|i| self.member(i)).collect();
        let (env, hooks) = (self.env.clone(), self.hooks());
        self.sim
            .block_on(create(
                env,
                BufPool::new(64 << 20),
                spec,
                members,
                spares,
                hooks,
            ))
            .unwrap()
    }

    /// A new boot: nothing of the old one runs on. Disks keep their contents.
    pub fn reboot(&mut self, power_cut: bool) {
        self.sim.drop_tasks();
        self.boots += 1;
        let seed = self.seed.wrapping_mul(31).wrapping_add(self.boots);
        let sim = Sim::new(seed);
        let env = sim.env();
        for (i, disk) in self.disks.iter_mut().enumerate() {
            if power_cut {
                disk.power_cut();
            }
            *disk = disk.reborn(&env, seed.wrapping_add(i as u64 * 7919));
        }
        self.sim = sim;
        self.env = env;
    }

    pub fn assemble(&self, present: &[usize], force: bool) -> Result<Rc<Array>, RaidError> {
        let disks = present.iter().map(|&i| self.member(i)).collect();
        let options = AssembleOptions {
            force,
            waited: true,
            home_host: HOST,
            witness: self.host.witness.borrow().clone(),
        };
        let (env, hooks) = (self.env.clone(), self.hooks());
        self.sim
            .block_on(assemble(env, BufPool::new(64 << 20), disks, options, hooks))
    }

    pub fn assemble_all(&self) -> Rc<Array> {
        let all: Vec<usize> = (0..self.disks.len()).collect();
        self.assemble(&all, false).unwrap()
    }

    /// Waits until nothing is left to fill.
    pub fn wait_until_filled(&self, array: &Rc<Array>) {
        self.sim.block_on(async {
            for _ in 0..100_000 {
                let status = array.status();
                if status.sync.is_none() && status.redundancy_left == full(array) {
                    return;
                }
                self.env
                    .clock
                    .sleep(std::time::Duration::from_millis(5))
                    .await;
            }
            panic!(
                "never filled: {:?} events {:?}",
                array.status(),
                self.host.events.borrow()
            );
        });
    }

    /// Checks P and Q of every written row against the data on the members, byte by byte.
    pub fn audit(&self, array: &Rc<Array>) {
        let status = array.status();
        let geometry =
            Geometry::new(status.level, status.members_total, self.shape.chunk_bytes).unwrap();
        let mut slots: Vec<Option<&SimDisk>> = vec![None; status.members_total];
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
        let chunk = self.shape.chunk_bytes as usize;
        for row in array.written_rows() {
            let chunk_of = |slot: Slot| {
                let disk = slots[slot.0]?;
                let offset = array.data_offset(&disk.name())?;
                Some(disk.peek(offset + row.0 * chunk as u64, chunk))
            };
            audit_row(&geometry, row, chunk_of);
        }
    }
}

fn full(array: &Rc<Array>) -> usize {
    let status = array.status();
    status.level.redundancy(status.members_total)
}

fn audit_row(geometry: &Geometry, row: Row, chunk_of: impl Fn(Slot) -> Option<Vec<u8>>) {
    let slots: Vec<Slot> = (0..geometry.members()).map(Slot).collect();
    if geometry.level() == Level::Raid1 {
        let copies: Vec<_> = slots.iter().filter_map(|slot| chunk_of(*slot)).collect();
        assert!(
            copies.windows(2).all(|pair| pair[0] == pair[1]),
            "mirrors differ in {row:?}"
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
        assert!(p == want, "P is wrong in {row:?}");
    }
    if let Some(q) = q {
        cairn_raid::parity::compute_q(sources(), &mut want);
        assert!(q == want, "Q is wrong in {row:?}");
    }
}

/// What each 512-byte sector of a volume may hold: its acked contents, and those of writes that a
/// crash left open.
pub struct Model {
    pub bytes: Vec<u8>,
    /// Other values that a sector may have after a crash.
    pub open: std::collections::BTreeMap<usize, Vec<Vec<u8>>>,
}

pub const SECTOR: usize = 512;

impl Model {
    pub fn new(size: usize) -> Self {
        Self {
            bytes: vec![0; size],
            open: Default::default(),
        }
    }

    /// Notes that `data` is being written at `offset`.
    pub fn begin(&mut self, offset: usize, data: &[u8]) {
        for (i, sector) in data.chunks(SECTOR).enumerate() {
            self.open
                .entry(offset / SECTOR + i)
                .or_default()
                .push(sector.to_vec());
        }
    }

    /// Notes that the write is acked.
    pub fn acked(&mut self, offset: usize, data: &[u8]) {
        self.bytes[offset..offset + data.len()].copy_from_slice(data);
        for i in 0..data.len().div_ceil(SECTOR) {
            self.open.remove(&(offset / SECTOR + i));
        }
    }

    /// Checks what was read; an open sector is settled at what it turned out to be.
    pub fn check(&mut self, offset: usize, got: &[u8], what: &str) {
        for (i, sector) in got.chunks(SECTOR).enumerate() {
            let number = offset / SECTOR + i;
            let at = number * SECTOR;
            if self.bytes[at..at + SECTOR] == *sector {
                continue;
            }
            let allowed = self
                .open
                .get(&number)
                .is_some_and(|open| open.iter().any(|o| o == sector));
            assert!(
                allowed,
                "{what}: sector {number} holds {:?}…, not {:?}…",
                &sector[..8],
                &self.bytes[at..at + 8]
            );
            self.bytes[at..at + SECTOR].copy_from_slice(sector);
        }
    }
}

/// One operation of a history.
pub async fn random_op(
    volume: &Rc<dyn BlockDevice>,
    model: &RefCell<Model>,
    rng: &RefCell<Rng>,
    longest: usize,
) -> Result<(), IoErrorKind> {
    let size = model.borrow().bytes.len();
    let (choice, offset, len, fua) = {
        let mut rng = rng.borrow_mut();
        let longest = if rng.one_in(4) {
            longest
        } else {
            longest.min(16 * SECTOR)
        };
        let len = (1 + rng.below((longest / SECTOR) as u64) as usize) * SECTOR;
        let offset = rng.below(((size - len) / SECTOR) as u64 + 1) as usize * SECTOR;
        (rng.below(10), offset, len, rng.one_in(8))
    };
    match choice {
        0..=4 => {
            let mut buf = Buf::zeroed(len);
            rng.borrow_mut().fill(&mut buf);
            let data = buf.freeze();
            model.borrow_mut().begin(offset, &data);
            volume
                .write(offset as u64, data.clone(), WriteFlags { fua })
                .await
                .map_err(|error| error.kind)?;
            model.borrow_mut().acked(offset, &data);
        }
        5..=7 => {
            let (buf, result) = volume.read(offset as u64, Buf::zeroed(len)).await;
            result.map_err(|error| error.kind)?;
            model.borrow_mut().check(offset, &buf, "read");
        }
        8 => {
            let zeros = vec![0; len];
            model.borrow_mut().begin(offset, &zeros);
            let (at, len) = (offset as u64, len as u64);
            let done = if rng.borrow_mut().one_in(2) {
                volume.discard(at, len).await
            } else {
                let no_hole = rng.borrow_mut().one_in(2);
                volume
                    .write_zeroes(at, len, ZeroFlags { fua, no_hole })
                    .await
            };
            done.map_err(|error| error.kind)?;
            model.borrow_mut().acked(offset, &zeros);
        }
        _ => volume.flush().await.map_err(|error| error.kind)?,
    }
    Ok(())
}

/// Reads the whole volume against the model.
pub async fn check_all(volume: &Rc<dyn BlockDevice>, model: &RefCell<Model>, what: &str) {
    let size = model.borrow().bytes.len();
    let mut at = 0;
    while at < size {
        let len = (1 << 20).min(size - at);
        let (buf, result) = volume.read(at as u64, Buf::zeroed(len)).await;
        result.unwrap_or_else(|error| panic!("{what}: {error}"));
        model.borrow_mut().check(at, &buf, what);
        at += len;
    }
}
