//! What connections may use: memory, requests in flight, time.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use crate::buf::BufPool;
use crate::export::budget::Budget;

/// Requests of one connection in flight. Linux's client keeps 128 per connection.
pub const IN_FLIGHT_MAX: usize = 128;

/// Connections of one listener. Each costs some 20 KiB while idle; a fleet of database hosts with
/// several connections per volume stays well below.
pub const CONNECTIONS_MAX: usize = 4096;

/// Memory for payloads of one connection in flight: two of the largest requests, so that one is
/// received while the other is written.
pub const CONNECTION_BYTES_MAX: usize = 64 << 20;

/// Memory for payloads of all connections of one [`Limits`], unless the daemon says otherwise.
pub const BUDGET_BYTES_DEFAULT: usize = 64 << 20;

/// Time for a whole handshake. Tools that let a person think in the middle of it reconnect.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// Time without progress after which a connection that holds memory others wait for is closed.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The bounds that all connections of an engine thread share; clones share them.
#[derive(Clone)]
pub struct Limits {
    pub(crate) pool: BufPool,
    pub(crate) budget: Rc<Budget>,
    pub(crate) handshake_timeout: Duration,
    pub(crate) stall_timeout: Duration,
}

impl Limits {
    /// The usual bounds, with payload memory from `pool` and at most `budget_bytes` of it in use
    /// ([`BUDGET_BYTES_DEFAULT`]).
    pub fn new(pool: BufPool, budget_bytes: usize) -> Self {
        Self::within(pool, Rc::new(Budget::new(budget_bytes)))
    }

    /// The usual bounds, within a budget that others have, too.
    pub(crate) fn within(pool: BufPool, budget: Rc<Budget>) -> Self {
        Self {
            pool,
            budget,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            stall_timeout: STALL_TIMEOUT,
        }
    }
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limits")
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}
