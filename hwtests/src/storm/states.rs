//! Every state that an array can be in when a fault strikes, and whether it was in it when one did.
//!
//! A state lasts: what scrubs or fills takes its time, and clients keep a journal full. So a strike that
//! [`Sentry`] counts came while the state was on, not after it.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use cairn_blockdev::sim::{Completion, Effect, FaultCounts, On, SimDisk, Strike, Watch};
use cairn_blockdev::units::u64_of;
use cairn_raid::defects::ScrubState;
use cairn_raid::layout::JOURNAL_MIN;
use cairn_raid::{Array, Level, SyncAction};

use super::faults::Fault;
use super::load::{BURST_BYTES, Cut, Mix};
use super::log::Wire;
use super::model::Crash;
use super::shape::Shape;
use super::world::World;

/// What is put in place takes so many times as long, so that room in the journal is long in coming.
const PUT_SLOWLY: u32 = 2000;
/// What the shortest record takes of the journal's room.
const PART_ADMITTED: u64 = 8192;
/// Rows that a scrub reads in a second, so that a fault meets it.
const SCRUBBED_A_SECOND: u64 = 16;
/// How long clients may take to fill the journal once more, while something else goes on as well.
const FULL_AGAIN_MS: u64 = 2000;

/// A state of the array.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// All members in sync.
    Healthy,
    /// One member is gone, and nothing fills its slot.
    Degraded1,
    /// Two are.
    Degraded2,
    /// A spare is being filled for a member that is gone.
    Rebuilding,
    /// A disk is being filled for a member that still lives.
    Replacing,
    /// Everything is read and compared.
    Scrubbing,
    /// It was cut off; the fault strikes while it starts.
    Replaying,
    /// Writes wait for room in the journal.
    JournalFull,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Healthy,
        Self::Degraded1,
        Self::Degraded2,
        Self::Rebuilding,
        Self::Replacing,
        Self::Scrubbing,
        Self::Replaying,
        Self::JournalFull,
    ];

    /// In a word or two.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded1 => "degraded 1",
            Self::Degraded2 => "degraded 2",
            Self::Rebuilding => "rebuilding",
            Self::Replacing => "replacing",
            Self::Scrubbing => "scrubbing",
            Self::Replaying => "replaying",
            Self::JournalFull => "journal full",
        }
    }

    /// Members that are gone in it.
    pub const fn missing(self) -> usize {
        match self {
            Self::Degraded2 => 2,
            Self::Degraded1 | Self::Rebuilding => 1,
            _ => 0,
        }
    }

    /// Whether an array of this shape can be in it.
    pub fn fits(self, shape: &Shape) -> bool {
        self.missing() <= shape.redundancy()
    }

    /// Brings a healthy array into it.
    pub fn enter(self, world: &mut World) {
        match self {
            Self::Healthy => {}
            Self::Degraded1 => lose(world, 1),
            Self::Degraded2 => lose(world, 2),
            Self::Rebuilding => {
                lose(world, 1);
                world.add_slow_spare();
                world.run_till("rebuilding", || self.holds(world));
            }
            Self::Replacing => {
                world.begin_replacing();
                world.run_till("replacing", || self.holds(world));
            }
            Self::Scrubbing => {
                let row = u64_of(world.shape.members) * u64::from(world.shape.chunk_bytes);
                let limit = row * SCRUBBED_A_SECOND;
                world.array().set_scrub_limit(Some(limit));
                world.begin_scrub();
                world.run_till("scrubbing", || self.holds(world));
            }
            Self::Replaying => {
                let ios = 100 + world.rng.below(500);
                world.load_cut(200, Mix::Any, Cut::Ios(ios));
                let kill = world.rng.one_in(2);
                world.crash(if kill { Crash::Kill } else { Crash::Power });
            }
            Self::JournalFull => fill_the_journal(world),
        }
    }

    /// Whether the world's array is in it now.
    pub fn holds(self, world: &World) -> bool {
        self.is_of(&world.shape, world.array.as_ref())
    }

    /// Whether an array is in it now; none: its start isn't over.
    fn is_of(self, shape: &Shape, array: Option<&Rc<Array>>) -> bool {
        let Some(array) = array else {
            return self == Self::Replaying;
        };
        let status = array.status();
        if self == Self::JournalFull {
            // Whoever waits for room takes what there is, so that nothing is free.
            let room = status.journal_room;
            return room.is_some_and(|room| room.used_bytes == room.total_bytes);
        }
        let gone = shape.redundancy().saturating_sub(status.redundancy_left);
        let filled = status.sync.map(|sync| sync.action);
        match self {
            Self::Healthy => gone == 0 && filled.is_none() && status.scrubbing.is_none(),
            Self::Degraded1 => gone == 1 && filled.is_none(),
            Self::Degraded2 => gone == 2 && filled.is_none(),
            Self::Rebuilding => filled == Some(SyncAction::Rebuild),
            Self::Replacing => filled == Some(SyncAction::Replace),
            Self::Scrubbing => {
                status.scrub.state == ScrubState::Running && status.scrubbing.is_some()
            }
            Self::Replaying | Self::JournalFull => false,
        }
    }

    /// Where clients make the state, they get a little time to make it again.
    pub fn once_more(self, world: &World) {
        if self != Self::JournalFull || world.crowds.is_empty() {
            return;
        }
        let clock = world.env().clock;
        world.run(async {
            for _ in 0..FULL_AGAIN_MS {
                if self.holds(world) {
                    return;
                }
                clock.sleep(Duration::from_millis(1)).await;
            }
        });
    }

    /// What was done to make it last is taken back.
    pub fn leave(self, world: &mut World) {
        if !world.is_running() {
            return;
        }
        match self {
            Self::Scrubbing => world.array().set_scrub_limit(None),
            Self::JournalFull => world.hush(),
            _ => {}
        }
    }
}

/// Counts the strikes of a fault, and those that came while the array was in a state. It looks at the end of
/// every I/O, and changes nothing: a seed tells the same with it and without it.
pub struct Sentry {
    fault: Fault,
    state: State,
    shape: Shape,
    /// The array once its start is over.
    array: RefCell<Option<Weak<Array>>>,
    /// Disks that were gone before: that they are found gone is the state's doing.
    gone: Vec<usize>,
    disks: RefCell<Vec<SimDisk>>,
    seen: Cell<u64>,
    /// Strikes.
    pub struck: Cell<u64>,
    /// Strikes while the array was in the state.
    pub in_state: Cell<u64>,
}

/// A disk's word to the log, and to the sentry.
struct Post {
    wire: Wire,
    sentry: Rc<Sentry>,
}

impl Watch for Post {
    fn completed(&self, done: &Completion) {
        self.wire.completed(done);
        self.sentry.look();
    }
}

impl Sentry {
    /// Before a fault strikes.
    pub fn new(world: &World, fault: Fault, state: State) -> Rc<Self> {
        let all = 0..world.disks.len();
        let sentry = Rc::new(Self {
            fault,
            state,
            shape: world.shape,
            array: RefCell::default(),
            gone: all.filter(|disk| world.disk(*disk).is_gone()).collect(),
            disks: RefCell::default(),
            seen: Cell::new(0),
            struck: Cell::new(0),
            in_state: Cell::new(0),
        });
        sentry.stand(world);
        sentry
    }

    /// Takes its stand at the disks and the array of this boot.
    pub fn stand(self: &Rc<Self>, world: &World) {
        let disks = world.without(&self.gone);
        *self.disks.borrow_mut() = disks.iter().map(|disk| world.disk(*disk)).collect();
        self.seen.set(self.count());
        *self.array.borrow_mut() = world.array.as_ref().map(Rc::downgrade);
        for (disk, i) in world.disks.iter().zip(0u64..) {
            disk.watch(Rc::new(Post {
                wire: Wire {
                    log: Rc::clone(&world.log),
                    env: world.env(),
                    disk: i,
                },
                sentry: Rc::clone(self),
            }));
        }
    }

    /// The start is over.
    pub fn meet(&self, world: &World) {
        *self.array.borrow_mut() = world.array.as_ref().map(Rc::downgrade);
    }

    /// Looks at these disks alone, as some states make others slow.
    pub fn look_at(&self, world: &World, disks: &[usize]) {
        *self.disks.borrow_mut() = disks.iter().map(|disk| world.disk(*disk)).collect();
        self.seen.set(self.count());
    }

    /// Goes home: disks and sentry would hold each other for ever.
    pub fn dismiss(&self) {
        self.disks.borrow_mut().clear();
    }

    /// Counts what has struck since it looked last.
    pub fn look(&self) {
        let now = self.count();
        let new = now.saturating_sub(self.seen.replace(now));
        if new == 0 {
            return;
        }
        self.struck.set(self.struck.get() + new);
        let array = self.array.borrow().clone();
        let holds = match array {
            None => self.state.is_of(&self.shape, None),
            // An array of an earlier boot is in no state.
            Some(array) => array
                .upgrade()
                .is_some_and(|array| self.state.is_of(&self.shape, Some(&array))),
        };
        if holds {
            self.in_state.set(self.in_state.get() + new);
        }
    }

    fn count(&self) -> u64 {
        let disks = self.disks.borrow();
        disks
            .iter()
            .map(|disk| strikes(self.fault, &disk.struck()))
            .sum()
    }
}

/// What of a disk's count is a fault's doing. Slowness only where it is the fault, for some states need slow
/// disks.
fn strikes(fault: Fault, counts: &FaultCounts) -> u64 {
    if matches!(fault, Fault::D4Slow | Fault::RingSlow) {
        counts.slow
    } else {
        counts.total() - counts.slow
    }
}

/// So many members vanish, and the array notices.
fn lose(world: &mut World, count: usize) {
    for _ in 0..count {
        let victim = world.any_member();
        world.disk(victim).vanish(false);
        world.until_noticed(victim);
    }
    world.sleep(Duration::from_millis(50));
}

/// What is in place takes its time, so that what is to come there piles up in the journal, and clients keep
/// coming until they wait for room. The first volume isn't theirs: what is asked of it is asked of disks, not
/// of the journal.
fn fill_the_journal(world: &mut World) {
    for disk in world.members() {
        let slow = Strike::new(On::Write, Effect::Slow(PUT_SLOWLY));
        let data = world.data_offset(disk)..world.size(disk);
        world.disk(disk).strike(slow.within(data).always());
    }
    let shape = world.shape;
    let copies = u64_of(shape.redundancy()) + 1;
    let ring = u64_of(shape.members) * JOURNAL_MIN / copies;
    // No complete rows, which bypass the journal: shorter rows lie within the longest writes.
    let (mix, bytes) = match shape.level {
        Level::Raid6 => (Mix::Burst, BURST_BYTES),
        Level::Raid5 | Level::Raid1 => (Mix::Parts, PART_ADMITTED),
    };
    let first = world.volumes.remove(0);
    world.load_cut(ring / bytes * 3, mix, Cut::Polls(1));
    world.volumes.insert(0, first);
    world.run_till("full", || State::JournalFull.holds(world));
}
