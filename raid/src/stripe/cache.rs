//! The row cache: writes that wait for their row's next transaction, and the locks of columns.
//!
//! Writes to a row queue here and leave together, so that neighbours gather into complete rows.
//! Transactions on different columns of a row run side by side: their code words are independent.
//!
//! Invariants
//! - Overlapping column locks are granted in the order they were asked for.
//! - Queued writes that may overlap leave in order.
//! - A row without queue or locks takes no memory.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use cairn_blockdev::units::u64_of;
use cairn_blockdev::{IoErrorKind, SharedBuf};
use tokio::sync::oneshot;

use crate::geometry::{Columns, Row};

/// A queued write: bytes of one row's data.
pub(crate) struct Pending {
    /// First byte in the row's data.
    pub(crate) within: u64,
    /// The bytes.
    pub(crate) data: SharedBuf,
    /// Columns it touches.
    pub(crate) cols: Columns,
    /// Told when it is applied.
    pub(crate) done: oneshot::Sender<Result<(), IoErrorKind>>,
}

#[derive(Default)]
struct Entry {
    pending: RefCell<VecDeque<Pending>>,
    /// A task is on its way that hasn't taken its batch yet.
    scheduled: Cell<bool>,
    locks: RefCell<Locks>,
}

#[derive(Default)]
struct Locks {
    next_id: u64,
    held: Vec<(u64, Columns)>,
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    id: u64,
    cols: Columns,
    granted: oneshot::Sender<Lock>,
}

/// All rows with something queued or locked.
#[derive(Default)]
pub(crate) struct RowCache {
    rows: RefCell<BTreeMap<Row, Rc<Entry>>>,
}

/// Exclusive use of some columns of a row, until dropped.
pub(crate) struct Lock {
    cache: Rc<RowCache>,
    entry: Rc<Entry>,
    row: Row,
    id: u64,
    cols: Columns,
}

fn overlap(a: &Columns, b: &Columns) -> bool {
    a.start < b.end && b.start < a.end
}

impl RowCache {
    fn entry(&self, row: Row) -> Rc<Entry> {
        Rc::clone(self.rows.borrow_mut().entry(row).or_default())
    }

    /// Queues a write. True if the caller has to start a task for the row.
    pub(crate) fn queue(&self, row: Row, pending: Pending) -> bool {
        let entry = self.entry(row);
        entry.pending.borrow_mut().push_back(pending);
        !entry.scheduled.replace(true)
    }

    /// Columns from the first to the last that the queue touches. `None` if it is empty.
    pub(crate) fn hull(&self, row: Row) -> Option<Columns> {
        let entry = self.rows.borrow().get(&row).map(Rc::clone)?;
        let pending = entry.pending.borrow();
        let start = pending.iter().map(|p| p.cols.start).min()?;
        let end = pending.iter().map(|p| p.cols.end).max()?;
        Some(start..end)
    }

    /// Bytes queued for a row.
    pub(crate) fn queued_bytes(&self, row: Row) -> u64 {
        let rows = self.rows.borrow();
        let queued = |entry: &Rc<Entry>| {
            entry
                .pending
                .borrow()
                .iter()
                .map(|pending| u64_of(pending.data.len()))
                .sum()
        };
        rows.get(&row).map_or(0, queued)
    }

    /// Takes everything that is queued for a row. What comes later needs another task.
    pub(crate) fn take_all(&self, row: Row) -> Vec<Pending> {
        let Some(entry) = self.rows.borrow().get(&row).map(Rc::clone) else {
            return Vec::new();
        };
        entry.scheduled.set(false);
        let all = std::mem::take(&mut *entry.pending.borrow_mut()).into();
        self.forget_if_idle(row);
        all
    }

    /// Whether nobody uses the row now: no lock is held or waited for, and nothing is queued.
    pub(crate) fn is_idle(&self, row: Row) -> bool {
        !self.rows.borrow().contains_key(&row)
    }

    /// The first row at or after `row` that somebody uses.
    pub(crate) fn next_busy(&self, row: Row) -> Option<Row> {
        self.rows.borrow().range(row..).next().map(|(row, _)| *row)
    }

    /// The rows that somebody uses.
    pub(crate) fn busy(&self) -> Vec<Row> {
        self.rows.borrow().keys().copied().collect()
    }

    /// Waits for exclusive use of `cols`.
    pub(crate) async fn lock(self: &Rc<Self>, row: Row, cols: Columns) -> Lock {
        let entry = self.entry(row);
        let receiver = {
            let mut locks = entry.locks.borrow_mut();
            let id = locks.next_id;
            locks.next_id += 1;
            let blocked = locks.held.iter().any(|(_, held)| overlap(held, &cols))
                || locks.waiting.iter().any(|w| overlap(&w.cols, &cols));
            if !blocked {
                locks.held.push((id, cols.clone()));
                drop(locks);
                return Lock {
                    cache: Rc::clone(self),
                    entry,
                    row,
                    id,
                    cols,
                };
            }
            let (granted, receiver) = oneshot::channel();
            locks.waiting.push_back(Waiting { id, cols, granted });
            receiver
        };
        // The sender lives in the entry, which lives as long as somebody waits.
        receiver
            .await
            .unwrap_or_else(|_| unreachable!("a waiter was dropped without its lock"))
    }

    /// Gives waiters what they can have now.
    fn grant(self: &Rc<Self>, row: Row, entry: &Rc<Entry>) {
        loop {
            let ready = {
                let mut locks = entry.locks.borrow_mut();
                let mut passed: Vec<Columns> = Vec::new();
                let mut found = None;
                for (at, waiting) in locks.waiting.iter().enumerate() {
                    let blocked = locks
                        .held
                        .iter()
                        .any(|(_, held)| overlap(held, &waiting.cols))
                        || passed.iter().any(|p| overlap(p, &waiting.cols));
                    if !blocked {
                        found = Some(at);
                        break;
                    }
                    passed.push(waiting.cols.clone());
                }
                let Some(waiting) = found.and_then(|at| locks.waiting.remove(at)) else {
                    break;
                };
                locks.held.push((waiting.id, waiting.cols.clone()));
                waiting
            };
            let lock = Lock {
                cache: Rc::clone(self),
                entry: Rc::clone(entry),
                row,
                id: ready.id,
                cols: ready.cols,
            };
            // A waiter that is gone gives the lock back by dropping it, here and now.
            drop(ready.granted.send(lock));
        }
    }

    fn forget_if_idle(&self, row: Row) {
        let mut rows = self.rows.borrow_mut();
        let idle = rows.get(&row).is_some_and(|entry| {
            let locks = entry.locks.borrow();
            entry.pending.borrow().is_empty() && locks.held.is_empty() && locks.waiting.is_empty()
        });
        if idle {
            rows.remove(&row);
        }
    }
}

impl Lock {
    /// Takes the row's queued writes that lie in what is locked, but none that would pass one before it
    /// that doesn't and that it may overlap. The flag says that some are left, for which the caller
    /// has to start another task.
    pub(crate) fn take_queued(&self) -> (Vec<Pending>, bool) {
        let mut pending = self.entry.pending.borrow_mut();
        let mut batch = Vec::with_capacity(pending.len());
        let mut left: VecDeque<Pending> = VecDeque::new();
        for write in pending.drain(..) {
            let fits = self.cols.start <= write.cols.start && write.cols.end <= self.cols.end;
            if fits && !left.iter().any(|before| overlap(&before.cols, &write.cols)) {
                batch.push(write);
            } else {
                left.push_back(write);
            }
        }
        *pending = left;
        self.entry.scheduled.set(!pending.is_empty());
        (batch, !pending.is_empty())
    }

    /// What is locked.
    pub(crate) fn cols(&self) -> &Columns {
        &self.cols
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.entry
            .locks
            .borrow_mut()
            .held
            .retain(|(id, _)| *id != self.id);
        self.cache.grant(self.row, &self.entry);
        self.cache.forget_if_idle(self.row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_blockdev::sim::Sim;
    use futures_util::FutureExt;
    use std::time::Duration;

    #[test]
    fn overlapping_locks_exclude_each_other_and_others_do_not_wait() {
        for seed in 0..20 {
            let sim = Sim::new(seed);
            let env = sim.env();
            let cache = Rc::new(RowCache::default());
            let inside = Rc::new(RefCell::new(Vec::<Columns>::new()));
            let most = Rc::new(Cell::new(0));
            for i in 0..30u64 {
                let (cache, inside, most) =
                    (Rc::clone(&cache), Rc::clone(&inside), Rc::clone(&most));
                let clock = Rc::clone(&env.clock);
                env.spawn.spawn(Box::pin(async move {
                    let cols = i % 5..i % 5 + 1 + i % 3;
                    let lock = cache.lock(Row(1), cols.clone()).await;
                    assert!(!inside.borrow().iter().any(|c| overlap(c, &cols)));
                    inside.borrow_mut().push(cols.clone());
                    most.set(most.get().max(inside.borrow().len()));
                    clock.sleep(Duration::from_micros(10 + i)).await;
                    inside.borrow_mut().retain(|c| *c != cols);
                    drop(lock);
                }));
            }
            sim.block_on(env.clock.sleep(Duration::from_secs(1)));
            assert!(inside.borrow().is_empty() && most.get() > 1);
            assert!(cache.is_idle(Row(1)), "an idle row takes no memory");
        }
    }

    #[test]
    fn a_waiter_that_gave_up_does_not_keep_the_lock() {
        let sim = Sim::new(1);
        let cache = Rc::new(RowCache::default());
        sim.block_on(async {
            let first = cache.lock(Row(0), 0..4).await;
            assert!(cache.lock(Row(0), 2..3).now_or_never().is_none());
            drop(first);
            let _again = cache.lock(Row(0), 0..4).await;
        });
    }
}
