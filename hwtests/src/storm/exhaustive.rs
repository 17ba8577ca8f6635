//! A short history, cut off at every I/O: after each cut the array comes back and everything is as it
//! was promised. Once more for every I/O of the start that follows.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use cairn_raid::Level;

use super::load::{Cut, Mix};
use super::model::Crash;
use super::tell::{Finding, tell};
use super::totals::Totals;
use super::world::{Shape, World};

/// Operations of the short history, by all clients together.
const OPS: u64 = 24;
/// No history of so few operations takes so many I/Os.
const IOS_MAX: u64 = 20_000;

/// What to cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    /// The seed.
    pub seed: u64,
    /// Level of the array.
    pub level: Level,
    /// How it is cut off.
    pub crash: Crash,
    /// In the history itself, or in the start after it.
    pub in_start: bool,
}

/// What came of it.
pub struct Outcome {
    /// What was done.
    pub totals: Totals,
    /// Places where it was cut.
    pub cuts: u64,
    /// The first finding and the I/O where it was cut.
    pub finding: Option<(u64, Finding)>,
}

/// Cuts at every `step`-th I/O.
pub fn cut_everywhere(subject: Subject, step: u64, jobs: usize) -> Outcome {
    let next = AtomicU64::new(1);
    let end = AtomicU64::new(IOS_MAX);
    let outcome = Mutex::new(Outcome {
        totals: Totals::default(),
        cuts: 0,
        finding: None,
    });
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let ios = next.fetch_add(step.max(1), Ordering::Relaxed);
                    if ios >= end.load(Ordering::Relaxed) {
                        return;
                    }
                    let (told, was_cut) = cut_at(subject, ios);
                    let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
                    outcome.totals += told.totals;
                    if let Some(finding) = told.finding {
                        end.store(0, Ordering::Relaxed);
                        outcome.finding.get_or_insert((ios, finding));
                    } else if was_cut {
                        outcome.cuts += 1;
                    } else {
                        end.fetch_min(ios, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    outcome.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// The history, cut at one I/O; false if it has fewer.
pub fn cut_at(subject: Subject, ios: u64) -> (super::tell::Told, bool) {
    let mut was_cut = false;
    let mut shape = Shape::of(subject.level);
    shape.rows = 4;
    let told = tell(World::new(subject.seed, shape), |world| {
        world.create(0);
        world.load(20);
        let cut = if subject.in_start {
            Cut::Ios(IOS_MAX.min(60))
        } else {
            Cut::Ios(ios)
        };
        was_cut = !world.load_cut(OPS, Mix::Any, cut);
        world.crash(subject.crash);
        if subject.in_start {
            was_cut = world.start_cut_after(ios);
            if was_cut {
                world.crash(subject.crash);
            }
        }
        if !world.is_running()
            && let Err(error) = world.start()
        {
            panic!("start after a cut: {error}");
        }
        world.check();
        world.load(20);
        world.check();
        world.stop_and_audit();
    });
    (told, was_cut)
}
