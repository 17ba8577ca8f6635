//! An executor of one thread that picks the next ready task by its seed, with a clock of its own.
//!
//! Time moves only when no task is ready, straight to the next timer. If neither a task nor a timer
//! is left while the main future waits, that is a deadlock and panics.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::rng::Rng;
use crate::device::LocalFuture;
use crate::env::{Clock, Entropy, Env, Spawn, Ticks};

type TaskId = u64;
const MAIN: TaskId = 0;

#[derive(Default)]
struct ReadyQueue(Mutex<BTreeSet<TaskId>>);

struct TaskWaker {
    id: TaskId,
    ready: Arc<ReadyQueue>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.ready
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(self.id);
    }
}

struct World {
    /// Identities come from a stream of their own, so that they don't shift the order of tasks.
    identities: RefCell<Rng>,
    now_ns: Cell<u64>,
    timers: RefCell<BTreeMap<(u64, u64), Waker>>,
    next_timer: Cell<u64>,
    spawned: RefCell<Vec<LocalFuture<()>>>,
}

/// The simulated world. Clones of its [`Env`] share it.
pub struct Sim {
    world: Rc<World>,
    ready: Arc<ReadyQueue>,
    tasks: RefCell<BTreeMap<TaskId, LocalFuture<()>>>,
    next_task: Cell<TaskId>,
    rng: RefCell<Rng>,
}

impl Sim {
    /// A world that is a function of `seed` alone.
    pub fn new(seed: u64) -> Self {
        Self {
            world: Rc::new(World {
                identities: RefCell::new(Rng::new(!seed)),
                now_ns: Cell::new(1),
                timers: RefCell::default(),
                next_timer: Cell::new(0),
                spawned: RefCell::default(),
            }),
            ready: Arc::default(),
            tasks: RefCell::default(),
            next_task: Cell::new(MAIN + 1),
            rng: RefCell::new(Rng::new(seed)),
        }
    }

    /// Its clock and spawner.
    pub fn env(&self) -> Env {
        let handle = Rc::new(Handle(Rc::clone(&self.world)));
        Env {
            clock: Rc::<Handle>::clone(&handle),
            entropy: Rc::<Handle>::clone(&handle),
            spawn: handle,
        }
    }

    /// Forgets every task, as a power cut or `kill -9` does: nothing of them runs on.
    pub fn drop_tasks(&self) {
        self.tasks.borrow_mut().clear();
        self.world.spawned.borrow_mut().clear();
        self.world.timers.borrow_mut().clear();
        self.ready
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// Runs `main` to its end, and the tasks beside it as far as they get by then.
    ///
    /// # Panics
    /// If nothing can run and no timer is set: a deadlock.
    pub fn block_on<T>(&self, main: impl Future<Output = T>) -> T {
        self.run_until(main, u64::MAX)
            .unwrap_or_else(|| unreachable!("no bound on polls"))
    }

    /// Like [`Sim::block_on`], but stops after `polls` task polls and gives `None`: the place to cut
    /// the power.
    pub fn run_until<T>(&self, main: impl Future<Output = T>, polls: u64) -> Option<T> {
        let mut main = Box::pin(main);
        self.mark_ready(MAIN);
        for _ in 0..polls {
            self.adopt_spawned();
            let Some(id) = self.pick() else {
                self.advance();
                continue;
            };
            let waker = Waker::from(Arc::new(TaskWaker {
                id,
                ready: Arc::clone(&self.ready),
            }));
            let mut context = Context::from_waker(&waker);
            if id == MAIN {
                if let Poll::Ready(value) = main.as_mut().poll(&mut context) {
                    return Some(value);
                }
                continue;
            }
            let task = self.tasks.borrow_mut().remove(&id);
            if let Some(mut task) = task
                && task.as_mut().poll(&mut context).is_pending()
            {
                self.tasks.borrow_mut().insert(id, task);
            }
        }
        None
    }

    fn mark_ready(&self, id: TaskId) {
        self.ready
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id);
    }

    fn adopt_spawned(&self) {
        for task in self.world.spawned.borrow_mut().drain(..) {
            let id = self.next_task.get();
            self.next_task.set(id + 1);
            self.tasks.borrow_mut().insert(id, task);
            self.ready
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(id);
        }
    }

    fn pick(&self) -> Option<TaskId> {
        let mut ready = self.ready.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = crate::units::u64_of(ready.len());
        let at = crate::units::usize_of(self.rng.borrow_mut().below(count));
        let id = ready.iter().nth(at).copied()?;
        ready.remove(&id);
        Some(id)
    }

    fn advance(&self) {
        let next = self.world.timers.borrow_mut().pop_first();
        let Some(((at_ns, _), waker)) = next else {
            panic!("deadlock: no task is ready and no timer is set");
        };
        self.world.now_ns.set(self.world.now_ns.get().max(at_ns));
        waker.wake();
    }
}

struct Handle(Rc<World>);

impl Clock for Handle {
    fn now(&self) -> Ticks {
        Ticks(self.0.now_ns.get())
    }

    fn unix_ms(&self) -> u64 {
        // A fixed day, so that nothing in a run depends on when it ran.
        1_700_000_000_000 + self.0.now_ns.get() / 1_000_000
    }

    fn sleep(&self, duration: Duration) -> LocalFuture<()> {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let deadline_ns = self.0.now_ns.get().saturating_add(ns);
        Box::pin(Sleep {
            world: Rc::clone(&self.0),
            deadline_ns,
            timer: None,
        })
    }
}

impl Entropy for Handle {
    fn bits(&self) -> u128 {
        let mut rng = self.0.identities.borrow_mut();
        u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64())
    }
}

impl Spawn for Handle {
    fn spawn(&self, task: LocalFuture<()>) {
        self.0.spawned.borrow_mut().push(task);
    }
}

struct Sleep {
    world: Rc<World>,
    deadline_ns: u64,
    /// Its place among the timers: one, however often it is polled.
    timer: Option<u64>,
}

impl Future for Sleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.timer.is_some() && self.world.now_ns.get() >= self.deadline_ns {
            return Poll::Ready(());
        }
        let id = self.timer.unwrap_or_else(|| {
            let id = self.world.next_timer.get();
            self.world.next_timer.set(id + 1);
            id
        });
        let key = (self.deadline_ns, id);
        self.world
            .timers
            .borrow_mut()
            .insert(key, context.waker().clone());
        self.timer = Some(id);
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleepers_wake_in_order_of_their_deadlines() {
        let sim = Sim::new(3);
        let env = sim.env();
        let seen = Rc::new(RefCell::new(Vec::new()));
        for ms in [30u64, 10, 20] {
            let (clock, seen) = (Rc::clone(&env.clock), Rc::clone(&seen));
            env.spawn.spawn(Box::pin(async move {
                clock.sleep(Duration::from_millis(ms)).await;
                seen.borrow_mut().push(ms);
            }));
        }
        sim.block_on(env.clock.sleep(Duration::from_millis(40)));
        assert_eq!(*seen.borrow(), [10, 20, 30]);
    }

    #[test]
    #[should_panic(expected = "deadlock")]
    fn a_deadlock_is_loud() {
        Sim::new(1).block_on(std::future::pending::<()>());
    }
}
