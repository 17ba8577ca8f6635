//! One run for everybody who waits: flushes and checkpoints are shared.
//!
//! A caller is satisfied by a run that *started* after it asked. While one runs, all who come wait
//! for the next, together.

use std::cell::Cell;
use std::rc::Rc;

use cairn_blockdev::{LocalFuture, Spawn};
use tokio::sync::Notify;

/// Shares runs of one operation.
#[derive(Default)]
pub(crate) struct Turnstile {
    started: Cell<u64>,
    finished: Cell<u64>,
    woken: Notify,
}

impl std::fmt::Debug for Turnstile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let running = self.started.get() != self.finished.get();
        write!(
            f,
            "{}{}",
            self.finished.get(),
            if running { "+1" } else { "" }
        )
    }
}

/// Ends a run even if its task is dropped in the middle.
struct Run(Rc<Turnstile>);

impl Drop for Run {
    fn drop(&mut self) {
        self.0.finished.set(self.0.started.get());
        self.0.woken.notify_waiters();
    }
}

impl Turnstile {
    /// Returns after a run of `work` that started after this call. The run is a task of its own, so
    /// that a caller who gives up doesn't stop it for the others.
    pub(crate) async fn pass(
        self: &Rc<Self>,
        spawn: &Rc<dyn Spawn>,
        work: impl Fn() -> LocalFuture<()>,
    ) {
        let wanted = self.started.get() + 1;
        loop {
            let woken = self.woken.notified();
            if self.finished.get() >= wanted {
                return;
            }
            if self.started.get() == self.finished.get() {
                self.started.set(self.started.get() + 1);
                let (run, work) = (Run(Rc::clone(self)), work());
                spawn.spawn(Box::pin(async move {
                    work.await;
                    drop(run);
                }));
            }
            woken.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_blockdev::sim::Sim;
    use std::time::Duration;

    #[test]
    fn a_caller_waits_for_a_run_that_started_after_it_and_runs_are_shared() {
        let sim = Sim::new(5);
        let env = sim.env();
        let turnstile = Rc::new(Turnstile::default());
        let runs = Rc::new(Cell::new(0u32));
        let satisfied = Rc::new(Cell::new(0u32));
        for i in 0..100u64 {
            let (turnstile, runs, satisfied) = (
                Rc::clone(&turnstile),
                Rc::clone(&runs),
                Rc::clone(&satisfied),
            );
            let (clock, spawn) = (Rc::clone(&env.clock), Rc::clone(&env.spawn));
            env.spawn.spawn(Box::pin(async move {
                clock.sleep(Duration::from_micros(i)).await;
                let before = clock.now();
                let started_at = Rc::new(Cell::new(before));
                turnstile
                    .pass(&spawn, || {
                        let (clock, runs) = (Rc::clone(&clock), Rc::clone(&runs));
                        started_at.set(clock.now());
                        Box::pin(async move {
                            clock.sleep(Duration::from_micros(20)).await;
                            runs.set(runs.get() + 1);
                        })
                    })
                    .await;
                assert!(clock.now().since(before) >= Duration::from_micros(20));
                satisfied.set(satisfied.get() + 1);
            }));
        }
        sim.block_on(env.clock.sleep(Duration::from_millis(10)));
        assert_eq!(satisfied.get(), 100);
        assert!(runs.get() < 20, "{} runs", runs.get());
    }
}
