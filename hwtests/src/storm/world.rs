//! A world of simulated disks with one array on them: what happens to it, crashes and restarts
//! included, and what is checked whenever it comes back.
//!
//! What is wrong is a panic with the reason: the engine's own asserts end a history in the same way,
//! and [`super::tell`] turns both into a finding with its seed.
//!
//! Does not know: which faults there are, in which order things happen.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use cairn_blockdev::sim::{FaultCounts, Rng, Sim, SimDisk, SimDiskConfig};
use cairn_blockdev::units::{SECTOR, u64_of, usize_of};
use cairn_blockdev::{BlockDevice, BufPool, Env, LocalFuture};
use cairn_raid::layout::ZoneKind;
use cairn_raid::{
    Array, ArrayEvent, CreateSpec, EventSink, Hooks, MemberDisk, MemberState, MemoryShare,
    NewDisks, Witness, WitnessStore, create_with,
};
use uuid::Uuid;

use super::load::Crowd;
use super::log::{Log, Wire};
use super::model::{Crash, Model};
use super::owner::Replica;
use super::shape::{JOURNAL_DISK_BYTES, LARGE_CHUNK, Shape};
use super::totals::{OpCounts, Totals};

/// The host that owns the array.
pub(super) const HOST: Uuid = Uuid::from_bytes([0xAB; 16]);
/// A step that takes more task polls than this hangs.
pub(super) const POLLS_MAX: u64 = 100_000_000;
/// Buffers that a world keeps for reuse.
pub(super) const POOL_BYTES: usize = 32 << 20;

/// What is known of a volume's existence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Being created: it may be there after a crash.
    Coming,
    /// There.
    There,
    /// Being deleted: it may be gone after a crash.
    Going,
}

/// A volume, and what is known of it.
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Whether it is there.
    pub life: Cell<Life>,
    /// What it may hold.
    pub model: RefCell<Model>,
    pub(super) device: RefCell<Option<Rc<dyn BlockDevice>>>,
}

impl Volume {
    /// Its device, while it is there.
    pub fn device(&self) -> Option<Rc<dyn BlockDevice>> {
        let there = self.life.get() == Life::There;
        self.device.borrow().clone().filter(|_| there)
    }
}

/// What the host keeps over restarts, and hears.
#[derive(Default)]
pub(super) struct Host {
    pub(super) witness: RefCell<Option<Witness>>,
    events: RefCell<BTreeMap<String, u64>>,
    told: RefCell<Vec<String>>,
}

impl EventSink for Host {
    fn event(&self, event: ArrayEvent) {
        let kind = event.kind.to_string();
        // Rebuild20, Rebuild40, … are one kind.
        if !kind.ends_with(|c: char| c.is_ascii_digit()) {
            *self.events.borrow_mut().entry(kind).or_default() += 1;
        }
        let disk = event.disk.unwrap_or_default();
        let line = format!("{} {disk} {}", event.kind, event.detail);
        self.told.borrow_mut().push(line);
    }
}

impl WitnessStore for Host {
    fn record(&self, witness: Witness) -> LocalFuture<Result<(), String>> {
        *self.witness.borrow_mut() = Some(witness);
        Box::pin(std::future::ready(Ok(())))
    }
}

/// What clients may be told, and what they were.
#[derive(Default)]
pub struct Rules {
    /// More is lost than the level survives: errors are right, wrong bytes never.
    pub errors_allowed: Cell<bool>,
    /// A disk has lost what it had acked and not flushed: a kill is as bad as a power cut then.
    pub cache_lost: Cell<bool>,
    /// The array may run out of space.
    pub full_allowed: Cell<bool>,
    /// What clients did.
    pub ops: Cell<OpCounts>,
    /// The longest time that a read took.
    pub longest_read: Cell<Duration>,
}

/// The world.
pub struct World {
    /// Its seed.
    pub seed: u64,
    /// Its shape.
    pub shape: Shape,
    /// For those who make things happen.
    pub rng: Rng,
    /// What happened.
    pub log: Rc<Log>,
    /// The disks; the array's first members come first.
    pub disks: Vec<SimDisk>,
    /// The volumes.
    pub volumes: Vec<Rc<Volume>>,
    /// What clients may be told.
    pub rules: Rc<Rules>,
    /// What has been done so far, but for what [`World::totals`] adds.
    pub(super) done: Totals,
    pub(super) sim: Sim,
    pub(super) array: Option<Rc<Array>>,
    pub(super) host: Rc<Host>,
    pub(super) boots: u64,
    tags: u64,
    /// First bytes of the data zones.
    data_offsets: Vec<u64>,
    /// Members in sync when the array was last asked.
    pub(super) last_members: Vec<usize>,
    /// Members that were in sync when everything was checked last.
    pub(super) checked_members: Vec<usize>,
    /// One of them isn't any more, after the crash that is about to be checked.
    pub(super) lost_in_crash: bool,
    /// Blocks of rows that a fault may have spoilt since everything was checked, at most.
    pub(super) spoilt: usize,
    /// The worst that came since everything was checked.
    pub(super) worst: Option<Crash>,
    /// Clients that were left running.
    pub(super) crowds: Vec<Rc<Crowd>>,
    /// The volume that is written by way of logs.
    pub(super) replica: Option<Rc<Replica>>,
    /// Struck on disks of earlier boots.
    pub(super) struck: FaultCounts,
}

impl World {
    /// Blank disks.
    pub fn new(seed: u64, shape: Shape) -> Self {
        let sim = Sim::new(seed);
        let log = Rc::<Log>::default();
        let config = SimDiskConfig {
            size: shape.disk_bytes(),
            logical_block: 512,
            latency_us_max: 100,
        };
        let env = sim.env();
        let others = u64_of(shape.members + shape.spares);
        let disks: Vec<SimDisk> = (0..others + u64_of(shape.journal_disks))
            .map(|i| {
                let size = if i < others {
                    config.size
                } else {
                    JOURNAL_DISK_BYTES
                };
                let config = SimDiskConfig { size, ..config };
                let disk = SimDisk::new(&format!("/dev/sim{i}"), config, &env, seed ^ (i << 32));
                disk.tear_in(shape.tear_bytes);
                wire(&disk, i, &log, &env);
                disk
            })
            .collect();
        Self {
            seed,
            shape,
            rng: Rng::new(seed.rotate_left(17)),
            log,
            data_offsets: vec![0; disks.len()],
            disks,
            volumes: Vec::new(),
            rules: Rc::default(),
            done: Totals {
                histories: 1,
                ..Totals::default()
            },
            sim,
            array: None,
            host: Rc::default(),
            boots: 0,
            tags: 0,
            last_members: Vec::new(),
            checked_members: Vec::new(),
            lost_in_crash: false,
            spoilt: 0,
            worst: None,
            crowds: Vec::new(),
            replica: None,
            struck: FaultCounts::default(),
        }
    }

    /// Makes the array of the first disks, with so many of the others as spares, and two volumes.
    pub fn create(&mut self, spares: usize) {
        let spec = CreateSpec {
            name: "pool".into(),
            level: self.shape.level,
            chunk_bytes: self.shape.chunk_bytes,
            home_host: HOST,
            journal_bytes: None,
            integrity: self.shape.integrity,
            journal: true,
        };
        let n = self.shape.members;
        let members = (0..n).map(|i| self.member(i)).collect();
        let rings = n + self.shape.spares..self.disks.len();
        let disks = NewDisks {
            members,
            spares: (n..n + spares).map(|i| self.member(i)).collect(),
            journal: rings.map(|i| self.member(i)).collect(),
        };
        let (env, hooks) = (self.sim.env(), self.hooks());
        let pool = BufPool::new(POOL_BYTES);
        let made = self.run(create_with(env, pool, spec, disks, hooks));
        let made = made.unwrap_or_else(|error| panic!("creation: {error}"));
        made.set_bypass(self.bypasses());
        self.array = Some(made);
        self.checked_members = self.members();
        self.note_offsets();
        for _ in 0..2 {
            self.add_volume();
        }
        if self.shape.logs {
            self.add_replica();
        }
    }

    /// Makes the volume that is written by way of logs.
    fn add_replica(&mut self) {
        let bytes = self.shape.row_bytes() * self.shape.rows;
        let array = self.array();
        if let Err(error) = self.run(array.create_volume(Replica::NAME, bytes)) {
            panic!("the birth of {}: {error}", Replica::NAME);
        }
        self.replica = Some(Rc::new(Replica::new(bytes)));
        self.open_replica();
    }

    /// Makes a further volume.
    pub fn add_volume(&mut self) {
        let array = self.array();
        let volume = self.plan_volume();
        let size = volume.model.borrow().sectors() * SECTOR;
        let made = self.run(array.create_volume(&volume.name, size));
        if let Err(error) = made {
            assert!(self.rules.errors_allowed.get(), "a volume's birth: {error}");
            return;
        }
        volume.life.set(Life::There);
        self.open_volumes();
    }

    /// A volume that is on its way.
    pub fn plan_volume(&mut self) -> Rc<Volume> {
        self.tags += 1;
        // Its end lies inside a row and inside a chunk.
        let bytes = self.shape.row_bytes() * self.shape.rows + 4096;
        let volume = Rc::new(Volume {
            name: format!("v{}", self.tags),
            life: Cell::new(Life::Coming),
            model: RefCell::new(Model::new(0x7A60 + self.tags, bytes / SECTOR)),
            device: RefCell::new(None),
        });
        self.volumes.push(Rc::clone(&volume));
        volume
    }

    /// The running array.
    pub fn array(&self) -> Rc<Array> {
        match &self.array {
            Some(array) => Rc::clone(array),
            None => panic!("the array isn't running"),
        }
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        self.array.is_some()
    }

    /// The world's surroundings, for its tasks.
    pub fn env(&self) -> Env {
        self.sim.env()
    }

    /// Runs a future to its end.
    #[track_caller]
    pub fn run<T>(&self, main: impl Future<Output = T>) -> T {
        let done = self.sim.run_until(main, POLLS_MAX);
        let Some(done) = done else {
            panic!(
                "it hangs: {:?}; the array told: {:#?}",
                self.array,
                self.told()
            )
        };
        done
    }

    /// Lets time pass.
    pub fn sleep(&self, time: Duration) {
        self.run(self.env().clock.sleep(time));
    }

    /// Runs until `done`, looking every little while.
    pub fn run_till(&self, what: &str, mut done: impl FnMut() -> bool) {
        const LOOKS: u32 = 600_000;
        let clock = self.env().clock;
        let came = self.run(async move {
            for _ in 0..LOOKS {
                if done() {
                    return true;
                }
                clock.sleep(Duration::from_millis(1)).await;
            }
            false
        });
        assert!(
            came,
            "never {what}: {:?}; the array told: {:#?}",
            self.array,
            self.told()
        );
    }

    /// The last things that the array told.
    pub fn told(&self) -> Vec<String> {
        let told = self.host.told.borrow();
        told.iter().rev().take(12).rev().cloned().collect()
    }

    /// Whether the array told of this kind of event since the world began.
    pub fn heard(&self, kind: &str) -> bool {
        self.host.events.borrow().contains_key(kind)
    }

    /// One world of four has an array with as little memory as can be, and so has each with large rows.
    fn memory(&self) -> MemoryShare {
        if self.seed % 4 == 3 || self.shape.chunk_bytes == LARGE_CHUNK {
            MemoryShare::LEAST
        } else {
            MemoryShare::FULL
        }
    }

    /// One world of five has an array that logs complete rows as well.
    pub(super) fn bypasses(&self) -> bool {
        self.seed % 5 != 2
    }

    /// Whether a complete row that was cut off may be lost in part (raid/README.md, the exception): without bypassing
    /// only where all data of a row may be gone, and nothing tells that it never came to its place.
    pub(super) fn may_cut_off(&self) -> bool {
        self.bypasses() || (self.shape.level == cairn_raid::Level::Raid6 && self.shape.members == 4)
    }

    pub(super) fn hooks(&self) -> Hooks {
        Hooks {
            events: Rc::<Host>::clone(&self.host),
            witness: Rc::<Host>::clone(&self.host),
            memory: self.memory(),
        }
    }

    /// A disk as a member to be.
    pub fn member(&self, index: usize) -> MemberDisk {
        let disk = self.disk(index);
        MemberDisk {
            path: disk.name(),
            device: Rc::new(disk),
        }
    }

    /// A disk.
    pub fn disk(&self, index: usize) -> SimDisk {
        match self.disks.get(index) {
            Some(disk) => disk.clone(),
            None => panic!("there is no disk {index}"),
        }
    }

    /// Its path.
    pub fn path(&self, index: usize) -> Rc<str> {
        self.disk(index).name()
    }

    fn index_of(&self, path: &str) -> Option<usize> {
        self.disks.iter().position(|disk| *disk.name() == *path)
    }

    /// Disks in a state, by the array's word.
    pub fn in_state(&self, state: MemberState) -> Vec<usize> {
        let members = self.array().status().members;
        let of_state = members.iter().filter(|member| member.state == state);
        of_state
            .filter_map(|member| self.index_of(&member.path))
            .collect()
    }

    /// Members in sync; those of the last boot while the array doesn't run.
    pub fn members(&self) -> Vec<usize> {
        if self.is_running() {
            self.in_state(MemberState::InSync)
        } else {
            self.last_members.clone()
        }
    }

    /// A member in sync, by chance.
    pub fn any_member(&mut self) -> usize {
        let members = self.members();
        let at = usize_of(self.rng.below(u64_of(members.len())));
        match members.get(at) {
            Some(member) => *member,
            None => panic!("no member is in sync"),
        }
    }

    /// First byte of a disk's data zone.
    pub fn data_offset(&self, disk: usize) -> u64 {
        let known = self.data_offsets.get(disk).filter(|offset| **offset > 0);
        // Disks of one size have their zones in the same places.
        known.or(self.data_offsets.first()).copied().unwrap_or(0)
    }

    /// Bytes of a disk's data zone that the volumes' rows cover.
    pub fn rows_on_disk(&self, disk: usize) -> std::ops::Range<u64> {
        let start = self.data_offset(disk);
        start..start + self.shape.rows * u64::from(self.shape.chunk_bytes)
    }

    /// Where the zone of a kind lies on a disk.
    pub fn zone(&self, disk: usize, kind: ZoneKind) -> std::ops::Range<u64> {
        self.shape.zone(kind, self.is_for_journal(disk))
    }

    pub(super) fn note_offsets(&mut self) {
        let array = self.array();
        for (offset, disk) in self.data_offsets.iter_mut().zip(&self.disks) {
            if let Some(found) = array.data_offset(&disk.name()) {
                *offset = found;
            }
        }
    }

    /// Every slot has its member and nothing is being filled.
    pub fn is_full(&self) -> bool {
        let status = self.array().status();
        status.sync.is_none() && status.redundancy_left == self.shape.redundancy()
    }

    /// Waits until nothing is being filled any more, whatever came of it.
    pub fn wait_for_sync(&self) {
        let array = self.array();
        self.run_till("filled", || {
            array.status().sync.is_none() || array.status().failure.is_some()
        });
    }

    /// What was done, all in all.
    pub fn totals(&self) -> Totals {
        let mut totals = self.done.clone();
        totals.ops = self.rules.ops.get();
        let owners = self.replica.iter().flat_map(|replica| &replica.owners);
        totals.ops.prepared = owners.map(|owner| owner.prepared()).sum();
        totals.ios = self.log.completions();
        totals.faults = self.struck();
        totals.events = self.host.events.borrow().clone();
        totals
    }

    /// Faults that struck so far.
    pub fn struck(&self) -> FaultCounts {
        let mut struck = self.struck;
        for disk in &self.disks {
            struck += disk.struck();
        }
        struck
    }
}

pub(super) fn wire(disk: &SimDisk, index: u64, log: &Rc<Log>, env: &Env) {
    disk.watch(Rc::new(Wire {
        log: Rc::clone(log),
        env: env.clone(),
        disk: index,
    }));
}
