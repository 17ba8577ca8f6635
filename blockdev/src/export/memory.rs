//! Memory for the requests of all block devices of this host that an engine thread serves, ublk's and those
//! of the kernel's NBD client.
//!
//! A budget apart from the one of NBD's other connections: under memory pressure the kernel waits for these
//! requests, and they must not wait for a client that is slow to send, or to take what it has asked for.

use std::rc::Rc;

use crate::buf::{Buf, BufPool};
use crate::export::budget::{Budget, Lent};
use crate::export::nbd::Limits;

/// Bytes of requests in flight on all devices of a thread: 64 of the largest.
const BYTES_MAX: usize = 32 << 20;

/// See the module; clones share it.
#[derive(Debug, Clone)]
pub struct Memory {
    pool: BufPool,
    budget: Rc<Budget>,
}

impl Memory {
    /// 32 MiB of a pool.
    pub fn new(pool: BufPool) -> Self {
        Self {
            pool,
            budget: Rc::new(Budget::new(BYTES_MAX)),
        }
    }

    /// What the kernel's NBD client has of it.
    pub fn limits(&self) -> Limits {
        Limits::within(self.pool.clone(), Rc::clone(&self.budget))
    }

    /// A buffer, when it may be had.
    pub(crate) async fn take(&self, len: usize) -> (Lent, Buf) {
        let lent = self.budget.lend(len).await;
        (lent, self.pool.take(len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Sim;

    #[test]
    fn devices_together_use_no_more_than_the_bound() {
        let sim = Sim::new(1);
        let memory = Memory::new(BufPool::new(0));
        let request = 512 << 10;
        let mut held: Vec<(Lent, Buf)> = (0..BYTES_MAX / request)
            .map(|_| sim.block_on(memory.clone().take(request)))
            .collect();
        assert!(sim.run_until(memory.take(4096), 1).is_none());
        // The kernel's NBD client has none beside it.
        let of_nbd = memory.limits();
        assert!(sim.run_until(of_nbd.budget.lend(4096), 1).is_none());
        held.pop();
        assert!(sim.run_until(memory.take(4096), 1).is_some());
        assert!(sim.run_until(of_nbd.budget.lend(4096), 1).is_some());
    }
}
