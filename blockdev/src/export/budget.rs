//! Memory for requests' payloads that several connections, or several devices, have together.
//!
//! Invariants
//! - The memory of admitted requests never exceeds the budget, except that a single request
//!   larger than the whole budget is let in when it is alone: it would wait for ever otherwise.
//! - Who waits for memory is served in the order of asking, so that large requests aren't starved.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::units::{BLOCK_BYTES, usize_of_u32};

/// Payload memory is counted in pages: the permits of a semaphore are 32 bits at a time.
const PAGE_BYTES: usize = BLOCK_BYTES;

/// Largest buffer that a pool rounds up to a power of two.
const ROUNDED_MAX_BYTES: usize = 4 << 20;

/// Bytes that can be lent, in order of asking.
pub(crate) struct Budget {
    pages: Arc<Semaphore>,
    pages_total: u32,
    waiting: Cell<usize>,
}

/// Memory lent by a [`Budget`], given back by dropping it.
#[derive(Debug)]
pub(crate) struct Lent {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Budget {
    pub(crate) fn new(bytes: usize) -> Self {
        let pages_total = u32::try_from(bytes / PAGE_BYTES).unwrap_or(u32::MAX).max(1);
        Self {
            pages: Arc::new(Semaphore::new(usize_of_u32(pages_total))),
            pages_total,
            waiting: Cell::new(0),
        }
    }

    /// Waits for memory to receive or to fill `len` bytes.
    pub(crate) async fn lend(&self, len: usize) -> Lent {
        let pages = u32::try_from(footprint_bytes(len).div_ceil(PAGE_BYTES))
            .unwrap_or(u32::MAX)
            .min(self.pages_total);
        if pages == 0 {
            return Lent { _permit: None };
        }
        let _waiting = Waiting::new(&self.waiting);
        // The semaphore is never closed; were it, nothing would be left to guard.
        let permit = Arc::clone(&self.pages).acquire_many_owned(pages).await.ok();
        Lent { _permit: permit }
    }

    /// Whether somebody waits for memory.
    pub(crate) fn contended(&self) -> bool {
        self.waiting.get() > 0
    }
}

/// One more waiter, until dropped: also when the wait is abandoned.
struct Waiting<'a>(&'a Cell<usize>);

impl<'a> Waiting<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Bytes that a pool's buffer of `len` bytes takes.
fn footprint_bytes(len: usize) -> usize {
    match len {
        0 => 0,
        len if len <= ROUNDED_MAX_BYTES => len.max(PAGE_BYTES).next_power_of_two(),
        len => len.next_multiple_of(PAGE_BYTES),
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget")
            .field("pages_free", &self.pages.available_permits())
            .field("pages_total", &self.pages_total)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::sim::Sim;

    #[test]
    fn a_request_larger_than_the_budget_is_admitted_alone() {
        let sim = Sim::new(1);
        let budget = Rc::new(Budget::new(8 * PAGE_BYTES));
        let small = sim.block_on(budget.lend(1));
        let polled = sim.run_until(budget.lend(1 << 20), 1);
        assert!(polled.is_none(), "admitted beside another");
        drop(small);
        let _large = sim.block_on(budget.lend(1 << 20));
        assert_eq!(budget.pages.available_permits(), 0);
        assert!(!budget.contended());
    }

    #[test]
    fn a_buffer_is_charged_for_what_the_pool_takes() {
        assert_eq!(footprint_bytes(0), 0);
        assert_eq!(footprint_bytes(512), 4096);
        assert_eq!(footprint_bytes(12288), 16384);
        assert_eq!(footprint_bytes((4 << 20) + 1), (4 << 20) + 4096);
    }
}
