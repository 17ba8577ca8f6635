//! Histories of random seeds on several threads for a while: looking for what nobody thought of.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::history::history;
use super::tell::Finding;
use super::totals::Totals;

/// Client operations of one history of a hunt: long enough for several faults and crashes.
pub const OPS: u64 = 6000;

/// What a hunt found.
pub struct Caught {
    /// What was done.
    pub totals: Totals,
    /// The first finding, and the seed of its history.
    pub finding: Option<(u64, Finding)>,
}

/// Hunts for so long, from `first_seed` on.
pub fn hunt(first_seed: u64, time: Duration, jobs: usize) -> Caught {
    let until = Instant::now() + time;
    let next = AtomicU64::new(first_seed);
    let over = AtomicBool::new(false);
    let caught = Mutex::new(Caught {
        totals: Totals::default(),
        finding: None,
    });
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while Instant::now() < until && !over.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let told = history(seed, OPS);
                    let mut caught = caught.lock().unwrap_or_else(PoisonError::into_inner);
                    caught.totals += told.totals;
                    if let Some(finding) = told.finding {
                        over.store(true, Ordering::Relaxed);
                        caught.finding.get_or_insert((seed, finding));
                    }
                }
            });
        }
    });
    caught.into_inner().unwrap_or_else(PoisonError::into_inner)
}
