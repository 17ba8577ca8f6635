//! tokio's clock and spawner, and the system's randomness, for an engine thread: the [`Env`] of blockdev and raid.
//!
//! Must be used inside a `LocalSet` of a current-thread runtime with time enabled.

use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cairn_blockdev::{Clock, Entropy, Env, LocalFuture, Spawn, Ticks};
use tokio::time::Instant;

struct TokioEnv {
    start: Instant,
}

impl Clock for TokioEnv {
    fn now(&self) -> Ticks {
        let elapsed = self.start.elapsed().as_nanos();
        Ticks(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }

    fn unix_ms(&self) -> u64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn sleep(&self, duration: Duration) -> LocalFuture<()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

impl Spawn for TokioEnv {
    fn spawn(&self, task: LocalFuture<()>) {
        tokio::task::spawn_local(task);
    }
}

impl Entropy for TokioEnv {
    fn bits(&self) -> u128 {
        uuid::Uuid::new_v4().as_u128()
    }
}

/// Time, tasks and randomness of the current engine thread.
pub fn env() -> Env {
    let both = Rc::new(TokioEnv {
        start: Instant::now(),
    });
    Env {
        clock: Rc::<TokioEnv>::clone(&both),
        entropy: Rc::<TokioEnv>::clone(&both),
        spawn: both,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_run_beside_their_spawner_and_time_does_not_go_back() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            let env = env();
            let (done, wait) = tokio::sync::oneshot::channel();
            let clock = Rc::clone(&env.clock);
            let before = env.clock.now();
            env.spawn.spawn(Box::pin(async move {
                clock.sleep(Duration::from_millis(1)).await;
                done.send(clock.now()).unwrap();
            }));
            let after = wait.await.unwrap();
            assert!(after.since(before) >= Duration::from_millis(1));
        });
    }
}
