//! Time, tasks and randomness, handed in: nothing below the daemon reads a clock, starts a task or
//! rolls dice by itself.
//!
//! The daemon gives tokio's, the simulator its own, so that both drive the same code.

use std::rc::Rc;
use std::time::Duration;

use crate::device::LocalFuture;

/// Monotonic nanoseconds since a start that only differences may be taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Ticks(pub u64);

impl Ticks {
    /// Time from `earlier` to `self`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A clock: monotonic for decisions, wall time for logs and labels only.
pub trait Clock {
    /// Monotonic time.
    fn now(&self) -> Ticks;
    /// Wall time in milliseconds since 1970, for people.
    fn unix_ms(&self) -> u64;
    /// Completes after at least `duration`.
    fn sleep(&self, duration: Duration) -> LocalFuture<()>;
}

/// Starts tasks on the current engine thread.
pub trait Spawn {
    /// Runs `task` to its end, beside the caller.
    fn spawn(&self, task: LocalFuture<()>);
}

/// Random bytes for identities. Not below secrets: nobody's safety rests on them.
pub trait Entropy {
    /// 128 random bits.
    fn bits(&self) -> u128;
}

/// What an engine needs of its surroundings. Cheap to clone.
#[derive(Clone)]
pub struct Env {
    /// Time.
    pub clock: Rc<dyn Clock>,
    /// Tasks.
    pub spawn: Rc<dyn Spawn>,
    /// Identities.
    pub entropy: Rc<dyn Entropy>,
}

impl Env {
    /// A new random (version 4) UUID.
    pub fn new_uuid(&self) -> uuid::Uuid {
        uuid::Builder::from_random_bytes(self.entropy.bits().to_ne_bytes()).into_uuid()
    }
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Env")
    }
}
