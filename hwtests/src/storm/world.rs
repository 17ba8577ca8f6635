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
use cairn_blockdev::units::{MIB, SECTOR, u64_of, usize_of};
use cairn_blockdev::{BlockDevice, Buf, BufPool, Env, LocalFuture};
use cairn_raid::layout::rows_per_extent;
use cairn_raid::{
    Array, ArrayEvent, AssembleOptions, CreateSpec, EventSink, Geometry, Hooks, Level, MemberDisk,
    MemberState, RaidError, Witness, WitnessStore, assemble, create,
};
use uuid::Uuid;

use super::load::Crowd;
use super::log::{Log, Wire};
use super::model::{Crash, Model};
use super::totals::{OpCounts, Totals};

/// The host that owns the array.
const HOST: Uuid = Uuid::from_bytes([0xAB; 16]);
/// A step that takes more task polls than this hangs.
const POLLS_MAX: u64 = 100_000_000;
/// Buffers that a world keeps for reuse.
const POOL_BYTES: usize = 32 << 20;
/// Room for labels and zones on a disk, beside its extents.
const ZONES_BYTES: u64 = 48 * MIB;
/// Extents of an array.
const EXTENTS: u64 = 4;
/// Checks read so much at once.
const CHECK_BYTES: u64 = 256 << 10;

/// How a world is shaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Level of the array.
    pub level: Level,
    /// Its members.
    pub members: usize,
    /// Disks beside them.
    pub spares: usize,
    /// Its chunk.
    pub chunk_bytes: u32,
    /// What the disks tear: 512 or 4096.
    pub tear_bytes: u64,
    /// Rows that a volume covers.
    pub rows: u64,
}

impl Shape {
    /// An array of this level, of a size that restarts quickly.
    pub fn of(level: Level) -> Self {
        let members = match level {
            Level::Raid1 => 3,
            Level::Raid5 => 4,
            Level::Raid6 => 6,
        };
        Self {
            level,
            members,
            spares: 2,
            chunk_bytes: 8192,
            tear_bytes: SECTOR,
            rows: 24,
        }
    }

    /// Member failures that it survives.
    pub fn redundancy(&self) -> usize {
        self.level.redundancy(self.members)
    }

    fn geometry(&self) -> Geometry {
        Geometry::new(self.level, self.members, self.chunk_bytes)
            .unwrap_or_else(|error| panic!("{self:?}: {error}"))
    }

    fn disk_bytes(&self) -> u64 {
        let geometry = self.geometry();
        ZONES_BYTES + EXTENTS * rows_per_extent(&geometry) * geometry.chunk_bytes()
    }

    /// Data bytes of a row.
    pub fn row_bytes(&self) -> u64 {
        self.geometry().row_bytes()
    }
}

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
    device: RefCell<Option<Rc<dyn BlockDevice>>>,
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
struct Host {
    witness: RefCell<Option<Witness>>,
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
    array: Option<Rc<Array>>,
    host: Rc<Host>,
    boots: u64,
    tags: u64,
    /// First bytes of the data zones.
    data_offsets: Vec<u64>,
    /// Members in sync when the array was last asked.
    last_members: Vec<usize>,
    /// The worst that came since everything was checked.
    worst: Option<Crash>,
    /// Clients that were left running.
    pub(super) crowds: Vec<Rc<Crowd>>,
    /// Struck on disks of earlier boots.
    struck: FaultCounts,
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
        let disks: Vec<SimDisk> = (0..u64_of(shape.members + shape.spares))
            .map(|i| {
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
            worst: None,
            crowds: Vec::new(),
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
        };
        let n = self.shape.members;
        let members = (0..n).map(|i| self.member(i)).collect();
        let spares = (n..n + spares).map(|i| self.member(i)).collect();
        let (env, hooks) = (self.sim.env(), self.hooks());
        let pool = BufPool::new(POOL_BYTES);
        let made = self.run(create(env, pool, spec, members, spares, hooks));
        self.array = Some(made.unwrap_or_else(|error| panic!("creation: {error}")));
        self.note_offsets();
        for _ in 0..2 {
            self.add_volume();
        }
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
    pub fn run<T>(&self, main: impl Future<Output = T>) -> T {
        let done = self.sim.run_until(main, POLLS_MAX);
        done.unwrap_or_else(|| panic!("it hangs; the array told: {:#?}", self.told()))
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
        assert!(came, "never {what}; the array told: {:#?}", self.told());
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

    fn hooks(&self) -> Hooks {
        Hooks {
            events: Rc::<Host>::clone(&self.host),
            witness: Rc::<Host>::clone(&self.host),
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

    fn note_offsets(&mut self) {
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

    // --- the end of a boot, and the beginning of the next

    /// The daemon is killed, or power goes: nothing of this boot runs on.
    pub fn crash(&mut self, crash: Crash) {
        match crash {
            Crash::Kill => self.done.kills += 1,
            Crash::Power => self.done.power_cuts += 1,
        }
        self.worst = self.worst.max(Some(crash));
        self.crowds.clear();
        self.last_members = self.members();
        self.array = None;
        self.sim.drop_tasks();
        self.log.pull_no_more();
        for volume in &self.volumes {
            *volume.device.borrow_mut() = None;
            volume.model.borrow_mut().crashed();
        }
        for disk in &self.disks {
            match crash {
                Crash::Kill => disk.kill(),
                Crash::Power => disk.power_cut(),
            }
        }
        self.boot();
    }

    /// The array is stopped cleanly; everything acked is durable then. True if it went well.
    pub fn stop(&mut self) -> bool {
        self.hush();
        let array = self.array();
        self.last_members = self.members();
        let flushes: Vec<_> = self
            .volumes
            .iter()
            .map(|volume| volume.model.borrow_mut().flush_begins())
            .collect();
        let stopped = self.run(array.stop());
        if let Err(error) = &stopped {
            assert!(self.rules.errors_allowed.get(), "stop: {error}");
        } else {
            for (volume, began) in self.volumes.iter().zip(flushes) {
                volume.model.borrow_mut().flushed(began);
            }
        }
        drop(array);
        // What was acked is durable now, and a power cut is the strictest way to ask for it.
        self.worst = Some(Crash::Power);
        self.array = None;
        self.sim.drop_tasks();
        for volume in &self.volumes {
            *volume.device.borrow_mut() = None;
            volume.model.borrow_mut().crashed();
        }
        self.boot();
        stopped.is_ok()
    }

    fn boot(&mut self) {
        self.boots += 1;
        let seed = self.seed.wrapping_mul(31).wrapping_add(self.boots);
        self.sim = Sim::new(seed);
        let env = self.sim.env();
        for (disk, i) in self.disks.iter_mut().zip(0u64..) {
            self.struck += disk.struck();
            *disk = disk.reborn(&env, seed ^ (i << 32));
            wire(disk, i, &self.log, &env);
        }
    }

    /// Starts the array with the disks that are here.
    pub fn start(&mut self) -> Result<(), RaidError> {
        let all: Vec<usize> = (0..self.disks.len()).collect();
        self.start_with(&all)
    }

    /// Starts it with some of the disks.
    pub fn start_with(&mut self, present: &[usize]) -> Result<(), RaidError> {
        let disks = present.iter().map(|&i| self.member(i)).collect();
        self.start_from(disks)
    }

    /// Starts it with whatever these are.
    pub fn start_from(&mut self, disks: Vec<MemberDisk>) -> Result<(), RaidError> {
        let started = self.run(self.assembly(disks));
        self.adopt(started)
    }

    /// Starts it, and pulls the plug or the process after so many I/Os: true if it came that far.
    pub fn start_cut_after(&mut self, ios: u64) -> bool {
        let all = (0..self.disks.len()).map(|i| self.member(i)).collect();
        self.log.pull_after(ios, self.sim.halt());
        let started = self.sim.run_until(self.assembly(all), POLLS_MAX);
        self.log.pull_no_more();
        match started {
            None => true,
            Some(started) => {
                if let Err(error) = self.adopt(started) {
                    panic!("start: {error}");
                }
                false
            }
        }
    }

    fn assembly(
        &self,
        disks: Vec<MemberDisk>,
    ) -> impl Future<Output = Result<Rc<Array>, RaidError>> + use<> {
        let options = AssembleOptions {
            force: false,
            waited: true,
            home_host: HOST,
            witness: self.host.witness.borrow().clone(),
        };
        let pool = BufPool::new(POOL_BYTES);
        assemble(self.sim.env(), pool, disks, options, self.hooks())
    }

    fn adopt(&mut self, started: Result<Rc<Array>, RaidError>) -> Result<(), RaidError> {
        match started {
            Ok(array) => {
                self.done.starts += 1;
                self.array = Some(array);
                self.note_offsets();
                self.settle_volumes();
                Ok(())
            }
            Err(error) => {
                self.done.refusals += 1;
                Err(error)
            }
        }
    }

    /// Which volumes there are: those that must be, and perhaps those that came or went.
    fn settle_volumes(&mut self) {
        let mut there: Vec<String> = Vec::new();
        for volume in self.array().volumes() {
            there.push(volume.name);
        }
        self.volumes.retain(|volume| {
            let found = there.contains(&volume.name);
            let must = volume.life.get() == Life::There;
            assert!(found || !must, "volume {} is lost", volume.name);
            volume.life.set(Life::There);
            found
        });
        for name in there {
            let known = self.volumes.iter().any(|volume| volume.name == name);
            assert!(known, "volume {name} is there again, or nobody's");
        }
        self.open_volumes();
    }

    /// Opens the volumes that are there.
    pub fn open_volumes(&self) {
        let array = self.array();
        for volume in &self.volumes {
            if volume.life.get() != Life::There || volume.device.borrow().is_some() {
                continue;
            }
            match array.open_volume(&volume.name) {
                Ok(device) => *volume.device.borrow_mut() = Some(device),
                Err(error) => assert!(
                    self.rules.errors_allowed.get(),
                    "volume {} doesn't open: {error}",
                    volume.name
                ),
            }
        }
    }

    // --- checks

    /// Reads every volume whole, if the array runs: nothing is lost, nothing wrong. After a crash or a
    /// stop, what is found is settled by it.
    pub fn check(&mut self) {
        if !self.is_running() {
            return;
        }
        let after = self.worst.take();
        for volume in &self.volumes {
            let Some(device) = volume.device() else {
                continue;
            };
            let size = volume.model.borrow().sectors() * SECTOR;
            let mut at = 0;
            while at < size {
                let len = CHECK_BYTES.min(size - at);
                self.check_range(volume, &device, at, len, after);
                at += len;
            }
        }
    }

    fn check_range(
        &self,
        volume: &Volume,
        device: &Rc<dyn BlockDevice>,
        at: u64,
        len: u64,
        after: Option<Crash>,
    ) {
        let began = volume.model.borrow_mut().read_begins();
        let (buf, result) = self.run(device.read(at, Buf::zeroed(usize_of(len))));
        volume.model.borrow_mut().read_ends(began);
        let first = at / SECTOR;
        if let Err(error) = result {
            assert!(
                self.rules.errors_allowed.get(),
                "{}: {error}; the array told: {:#?}",
                volume.name,
                self.told()
            );
            // What can be read of it, sector by sector's block.
            if len > 4096 {
                let half = (len / 2).next_multiple_of(4096);
                self.check_range(volume, device, at, half, after);
                self.check_range(volume, device, at + half, len - half, after);
            }
            return;
        }
        let checked = match after {
            Some(crash) => volume.model.borrow_mut().check_after(crash, first, &buf),
            None => volume.model.borrow().check(first, &buf, began),
        };
        if let Err(complaint) = checked {
            let row = self.shape.row_bytes();
            panic!(
                "{complaint}; row {} of its extent; the array told: {:#?}",
                at / row,
                self.told()
            );
        }
    }

    /// What was done, all in all.
    pub fn totals(&self) -> Totals {
        let mut totals = self.done.clone();
        totals.ops = self.rules.ops.get();
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

fn wire(disk: &SimDisk, index: u64, log: &Rc<Log>, env: &Env) {
    disk.watch(Rc::new(Wire {
        log: Rc::clone(log),
        env: env.clone(),
        disk: index,
    }));
}
