//! Memory that an array may take, and how a share of it grows and shrinks while it is in use.
//!
//! Invariants
//! - What a [`Quota`] gives out at once is never more than its size, and nobody waits for more than that:
//!   it shrinks only while nobody waits.

use std::cell::Cell;
use std::rc::Rc;

use cairn_blockdev::units::{MIB, u64_of, usize_of};
use tokio::sync::{AcquireError, Semaphore, SemaphorePermit};

/// An array's part of its host's memory. It may be changed while the array runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryShare {
    /// Pages of checksums, in bytes. Pages that are changed or in use stay, if they are more.
    pub checksum_cache_bytes: u64,
    /// Rows that are being worked on, and payload that is logged and not in place yet, in bytes.
    pub row_cache_bytes: u64,
}

impl MemoryShare {
    /// What an array runs well with, alone on its host. More row cache than that isn't used.
    pub const FULL: Self = Self {
        checksum_cache_bytes: 256 * MIB,
        row_cache_bytes: 128 * MIB,
    };
    /// What an array can't do with less of.
    pub const LEAST: Self = Self {
        checksum_cache_bytes: 8 * MIB,
        row_cache_bytes: 16 * MIB,
    };

    /// One of `arrays` equal parts of `self`, in the bounds of what an array can use.
    #[must_use]
    pub fn part_of(self, arrays: usize) -> Self {
        let arrays = u64_of(arrays.max(1));
        let rows = self.row_cache_bytes / arrays;
        Self {
            checksum_cache_bytes: (self.checksum_cache_bytes / arrays)
                .max(Self::LEAST.checksum_cache_bytes),
            row_cache_bytes: rows.clamp(Self::LEAST.row_cache_bytes, Self::FULL.row_cache_bytes),
        }
    }

    /// For rows that are being worked on.
    pub(crate) fn rows_bytes(self) -> u64 {
        self.row_cache_bytes / 2
    }

    /// For records, as they are admitted: half of that is payload.
    pub(crate) fn admitted_bytes(self) -> u64 {
        self.row_cache_bytes
    }
}

impl Default for MemoryShare {
    fn default() -> Self {
        Self::FULL
    }
}

/// What an array takes of its share, and what it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryStatus {
    /// What it takes.
    pub used: MemoryShare,
    /// What it may take.
    pub share: MemoryShare,
    /// Checksum pages that were here when they were needed.
    pub checksum_hits: u64,
    /// Those that had to be read.
    pub checksum_misses: u64,
}

/// Units of something that is given out and comes back.
#[derive(Clone)]
pub(crate) struct Quota {
    free: Rc<Semaphore>,
    size: Rc<Cell<u32>>,
}

impl Quota {
    pub(crate) fn new(size: u32) -> Self {
        Self {
            free: Rc::new(Semaphore::new(usize_of(u64::from(size)))),
            size: Rc::new(Cell::new(size)),
        }
    }

    /// All of it.
    pub(crate) fn size(&self) -> u32 {
        self.size.get()
    }

    /// What nobody has.
    pub(crate) fn free(&self) -> u64 {
        u64_of(self.free.available_permits())
    }

    /// So many units, or all of it if that is less.
    pub(crate) async fn acquire(&self, units: u32) -> Result<SemaphorePermit<'_>, AcquireError> {
        self.free.acquire_many(units.min(self.size())).await
    }

    /// The same, if they are there now.
    pub(crate) fn try_acquire(&self, units: u32) -> Option<SemaphorePermit<'_>> {
        self.free.try_acquire_many(units.min(self.size())).ok()
    }

    /// Units come back that were forgotten.
    pub(crate) fn give_back(&self, units: u64) {
        self.free.add_permits(usize_of(units));
    }

    /// Nobody gets any more.
    pub(crate) fn close(&self) {
        self.free.close();
    }

    /// Makes it larger, or smaller by what is free now. Called again, it comes nearer.
    pub(crate) fn resize(&self, size: u32) {
        let now = self.size();
        if size >= now {
            self.size.set(size);
            self.give_back(u64::from(size - now));
            return;
        }
        // Where somebody waits nothing is free: whoever waits was promised the size of before.
        let free = u32::try_from(self.free()).unwrap_or(u32::MAX);
        let less = free.min(now - size);
        if let Ok(permit) = self.free.try_acquire_many(less) {
            permit.forget();
            self.size.set(now - less);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::Poll;

    use cairn_blockdev::sim::Sim;

    use super::*;

    async fn is_pending(future: &mut (impl Future + Unpin)) -> bool {
        std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx).is_pending())).await
    }

    #[test]
    fn arrays_share_what_the_host_gives_within_what_they_can_use() {
        let full = MemoryShare::FULL;
        assert_eq!(full.part_of(1), full);
        assert_eq!(full.part_of(0), full);
        let half = full.part_of(2);
        assert_eq!(
            (half.checksum_cache_bytes, half.row_cache_bytes),
            (128 * MIB, 64 * MIB)
        );
        assert_eq!(full.part_of(1000), MemoryShare::LEAST);
        let much = MemoryShare {
            row_cache_bytes: 1 << 40,
            checksum_cache_bytes: 1 << 40,
        };
        assert_eq!(much.part_of(1).row_cache_bytes, full.row_cache_bytes);
        assert_eq!(much.part_of(1).checksum_cache_bytes, 1 << 40);
    }

    #[test]
    fn a_quota_that_shrinks_keeps_its_promises() {
        let sim = Sim::new(1);
        let quota = Quota::new(10);
        sim.block_on(async {
            let held = quota.acquire(7).await.unwrap();
            quota.resize(2);
            assert_eq!((quota.size(), quota.free()), (7, 0), "what is held is held");
            let mut waits = Box::pin(quota.acquire(7));
            assert!(is_pending(&mut waits).await);
            drop(held);
            let held = waits.await.unwrap();
            assert_eq!(quota.size(), 7);
            drop(held);
            quota.resize(2);
            assert_eq!((quota.size(), quota.free()), (2, 2));
            // Whoever wants more than there is gets all of it.
            let all = quota.acquire(50).await.unwrap();
            assert!(quota.try_acquire(1).is_none());
            quota.resize(5);
            assert_eq!(quota.free(), 3);
            drop(all);
            assert_eq!((quota.size(), quota.free()), (5, 5));
        });
    }

    #[test]
    fn a_quota_doesnt_shrink_under_whoever_waits() {
        let sim = Sim::new(2);
        let quota = Quota::new(10);
        sim.block_on(async {
            let held = quota.acquire(4).await.unwrap();
            let mut waits = Box::pin(quota.acquire(10));
            assert!(is_pending(&mut waits).await);
            quota.resize(1);
            assert_eq!(quota.size(), 10);
            drop(held);
            assert!(waits.await.is_ok());
        });
    }
}
