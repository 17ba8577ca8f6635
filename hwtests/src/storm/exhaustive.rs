//! A short history, cut off at every I/O or every poll of a task: after each cut the array comes back,
//! with all members or without some, and everything is as it was promised. Once more for every I/O of
//! the start that follows.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use cairn_raid::Level;

use super::load::{Cut, Mix};
use super::model::Crash;
use super::shape::Shape;
use super::tell::{Finding, Told, tell};
use super::totals::Totals;
use super::world::World;

/// Operations of the short history, by all clients together.
const OPS: u64 = 24;
/// No history of so few operations takes so many polls.
const CUTS_MAX: u64 = 50_000;
/// Where the load is cut if the start is what is looked at.
const LOAD_IOS: u64 = 60;

/// Where the cut is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// At an I/O of the load.
    Io,
    /// At a poll of the load.
    Poll,
    /// At an I/O of the start after a cut of the load.
    Start,
}

/// What to cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    /// The seed.
    pub seed: u64,
    /// Level of the array.
    pub level: Level,
    /// How it is cut off.
    pub crash: Crash,
    /// Where.
    pub place: Place,
    /// Members that don't come back from it (fault A8).
    pub lost: usize,
    /// The journal is on disks of its own; as many of them as may don't come back either.
    pub journal_disks: bool,
}

impl Subject {
    /// Everything that there is to cut in a seed.
    pub fn all(seed: u64) -> Vec<Self> {
        let mut all = Vec::new();
        for level in [Level::Raid1, Level::Raid5, Level::Raid6] {
            let lost_max = Shape::of(level).redundancy();
            for lost in 0..=lost_max {
                for crash in [Crash::Kill, Crash::Power] {
                    for place in [Place::Io, Place::Poll, Place::Start] {
                        all.push(Self {
                            seed,
                            level,
                            crash,
                            place,
                            lost,
                            journal_disks: false,
                        });
                    }
                }
            }
        }
        let on_members = all.iter().filter(|subject| subject.level == Level::Raid5);
        let on_disks: Vec<Self> = on_members
            .map(|subject| Self {
                journal_disks: true,
                ..*subject
            })
            .collect();
        all.extend(on_disks);
        all
    }
}

/// What came of it.
pub struct Outcome {
    /// What was done.
    pub totals: Totals,
    /// Places where it was cut.
    pub cuts: u64,
    /// The first finding and where it was cut.
    pub finding: Option<(u64, Finding)>,
}

/// Cuts everywhere.
pub fn cut_everywhere(subject: Subject, jobs: usize) -> Outcome {
    let next = AtomicU64::new(1);
    let end = AtomicU64::new(CUTS_MAX);
    let outcome = Mutex::new(Outcome {
        totals: Totals::default(),
        cuts: 0,
        finding: None,
    });
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= end.load(Ordering::Relaxed) {
                        return;
                    }
                    let (told, was_cut) = cut_at(subject, at);
                    let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
                    outcome.totals += told.totals;
                    if let Some(finding) = told.finding {
                        end.store(0, Ordering::Relaxed);
                        outcome.finding.get_or_insert((at, finding));
                    } else if was_cut {
                        outcome.cuts += 1;
                    } else {
                        end.fetch_min(at, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    outcome.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// The history, cut at one place; false if it doesn't come so far.
pub fn cut_at(subject: Subject, at: u64) -> (Told, bool) {
    let mut was_cut = false;
    let mut shape = Shape::of(subject.level);
    shape.rows = 4;
    if subject.journal_disks {
        shape = shape.with_journal_disks();
    }
    let told = tell(World::new(subject.seed, shape), |world| {
        world.create(0);
        world.load(20);
        let cut = match subject.place {
            Place::Io => Cut::Ios(at),
            Place::Poll => Cut::Polls(at),
            Place::Start => Cut::Ios(LOAD_IOS),
        };
        was_cut = !world.load_cut(OPS, Mix::Any, cut);
        world.crash(subject.crash);
        if subject.place == Place::Start {
            was_cut = world.start_cut_after(at, &world.without(&[]));
            if was_cut {
                world.crash(subject.crash);
            }
        }
        if !world.is_running() {
            come_back(world, subject.lost, at);
        }
        world.check();
        world.load(20);
        world.check();
        world.stop_and_audit();
    });
    (told, was_cut)
}

/// Starts without so many members: others at each cut.
fn come_back(world: &mut World, lost: usize, at: u64) {
    let members = world.shape.members;
    let first = usize::try_from(at).unwrap_or(0);
    let gone: Vec<usize> = (0..lost).map(|i| (first + i) % members).collect();
    let rings = world.shape.members + world.shape.spares;
    let own = world.shape.journal_disks.saturating_sub(1);
    // Others at each turn of the members.
    let turn = first / members.max(1);
    let lost_rings = (0..own).map(|i| rings + (turn + i) % (own + 1));
    let gone: Vec<usize> = gone.into_iter().chain(lost_rings).collect();
    let present = world.without(&gone);
    if let Err(error) = world.start_with(&present) {
        panic!("start after a cut, without {gone:?}: {error}");
    }
}
