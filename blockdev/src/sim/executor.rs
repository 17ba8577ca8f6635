//! An executor of one thread that picks the next ready task by its seed, with a clock of its own.
//!
//! Time moves only when no task is ready, straight to the next timer. If neither a task nor a timer
//! is left while the main future waits, that is a deadlock and panics.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::rng::Rng;
use crate::device::LocalFuture;
use crate::env::{Clock, Entropy, Env, Spawn, Ticks};

/// A task's place in the table.
type TaskId = usize;
const MAIN: TaskId = 0;

/// Tasks that can go on, in the order of their wake-ups.
#[derive(Default)]
struct ReadyQueue(Mutex<Vec<TaskId>>);

impl ReadyQueue {
    fn lock(&self) -> MutexGuard<'_, Vec<TaskId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct TaskWaker {
    id: TaskId,
    /// In the queue already, or never to be put there again: the task has ended.
    queued: AtomicBool,
    ready: Arc<ReadyQueue>,
}

impl TaskWaker {
    fn new(id: TaskId, ready: &Arc<ReadyQueue>) -> Arc<Self> {
        Arc::new(Self {
            id,
            queued: AtomicBool::new(false),
            ready: Arc::clone(ready),
        })
    }

    fn retire(&self) {
        self.queued.store(true, Ordering::Relaxed);
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.ready.lock().push(self.id);
        }
    }
}

struct Task {
    /// Away while it is polled.
    future: Option<LocalFuture<()>>,
    state: Arc<TaskWaker>,
    waker: Waker,
}

struct World {
    /// Identities come from a stream of their own, so that they don't shift the order of tasks.
    identities: RefCell<Rng>,
    now_ns: Cell<u64>,
    /// Added to the wall clock, in milliseconds.
    wall_jump_ms: Cell<i64>,
    timers: RefCell<BTreeMap<(u64, u64), Waker>>,
    next_timer: Cell<u64>,
    spawned: RefCell<Vec<LocalFuture<()>>>,
    halted: Cell<bool>,
}

/// The simulated world. Clones of its [`Env`] share it.
pub struct Sim {
    world: Rc<World>,
    ready: Arc<ReadyQueue>,
    /// By [`TaskId`]; the place of [`MAIN`] is never used.
    tasks: RefCell<Vec<Option<Task>>>,
    /// Places of tasks that have ended.
    vacant: RefCell<Vec<TaskId>>,
    rng: RefCell<Rng>,
}

/// Stops a world from within, at the moment of its choice.
#[derive(Clone)]
pub struct Halt(Rc<World>);

impl Halt {
    /// [`Sim::run_until`] gives `None` before anything else runs.
    pub fn halt(&self) {
        self.0.halted.set(true);
    }
}

impl Sim {
    /// A world that is a function of `seed` alone.
    pub fn new(seed: u64) -> Self {
        Self {
            world: Rc::new(World {
                identities: RefCell::new(Rng::new(!seed)),
                now_ns: Cell::new(1),
                wall_jump_ms: Cell::new(0),
                timers: RefCell::default(),
                next_timer: Cell::new(0),
                spawned: RefCell::default(),
                halted: Cell::new(false),
            }),
            ready: Arc::default(),
            tasks: RefCell::new(vec![None]),
            vacant: RefCell::default(),
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

    /// The means to stop it from within.
    pub fn halt(&self) -> Halt {
        Halt(Rc::clone(&self.world))
    }

    /// Moves the wall clock, not the monotonic one (fault H3).
    pub fn jump_wall_clock(&self, ms: i64) {
        let so_far = self.world.wall_jump_ms.get();
        self.world.wall_jump_ms.set(so_far.saturating_add(ms));
    }

    /// Forgets every task, as a power cut or `kill -9` does: nothing of them runs on.
    pub fn drop_tasks(&self) {
        // What is dropped may start tasks on its way out.
        loop {
            let tasks = self.tasks.replace(vec![None]);
            let spawned = self.world.spawned.take();
            let timers = self.world.timers.take();
            if tasks.len() == 1 && spawned.is_empty() && timers.is_empty() {
                break;
            }
            for task in tasks.iter().flatten() {
                task.state.retire();
            }
        }
        self.vacant.borrow_mut().clear();
        self.ready.lock().clear();
        self.world.halted.set(false);
    }

    /// Runs `main` to its end, and the tasks beside it as far as they get by then.
    ///
    /// # Panics
    /// If nothing can run and no timer is set: a deadlock.
    pub fn block_on<T>(&self, main: impl Future<Output = T>) -> T {
        self.run_until(main, u64::MAX)
            .unwrap_or_else(|| unreachable!("no bound on polls"))
    }

    /// Like [`Sim::block_on`], but stops after `polls` task polls, or when told to by [`Halt`], and
    /// gives `None`: the place to cut the power.
    pub fn run_until<T>(&self, main: impl Future<Output = T>, polls: u64) -> Option<T> {
        self.world.halted.set(false);
        let mut main = pin!(main);
        let state = TaskWaker::new(MAIN, &self.ready);
        let waker = Waker::from(Arc::clone(&state));
        let _retired = Retire(Arc::clone(&state), &self.ready);
        let mut context = Context::from_waker(&waker);
        context.waker().wake_by_ref();
        for _ in 0..polls {
            if self.world.halted.get() {
                return None;
            }
            self.adopt_spawned();
            let Some(id) = self.pick() else {
                self.advance();
                continue;
            };
            if id == MAIN {
                state.queued.store(false, Ordering::Relaxed);
                if let Poll::Ready(value) = main.as_mut().poll(&mut context) {
                    return Some(value);
                }
            } else {
                self.poll_task(id);
            }
        }
        None
    }

    fn poll_task(&self, id: TaskId) {
        let (mut future, waker) = {
            let mut tasks = self.tasks.borrow_mut();
            let Some(Some(task)) = tasks.get_mut(id) else {
                return;
            };
            task.state.queued.store(false, Ordering::Relaxed);
            let Some(future) = task.future.take() else {
                return;
            };
            (future, task.waker.clone())
        };
        let mut context = Context::from_waker(&waker);
        let ended = future.as_mut().poll(&mut context).is_ready();
        let mut tasks = self.tasks.borrow_mut();
        let Some(place) = tasks.get_mut(id) else {
            return;
        };
        if ended {
            if let Some(task) = place.take() {
                task.state.retire();
            }
            // A wake-up during its last poll is for nobody.
            self.ready.lock().retain(|ready| *ready != id);
            self.vacant.borrow_mut().push(id);
        } else if let Some(task) = place {
            task.future = Some(future);
        }
    }

    fn adopt_spawned(&self) {
        if self.world.spawned.borrow().is_empty() {
            return;
        }
        let mut tasks = self.tasks.borrow_mut();
        for future in self.world.spawned.borrow_mut().drain(..) {
            let vacant = self.vacant.borrow_mut().pop();
            let id = vacant.unwrap_or_else(|| {
                tasks.push(None);
                tasks.len() - 1
            });
            let state = TaskWaker::new(id, &self.ready);
            let waker = Waker::from(Arc::clone(&state));
            waker.wake_by_ref();
            if let Some(place) = tasks.get_mut(id) {
                *place = Some(Task {
                    future: Some(future),
                    state,
                    waker,
                });
            }
        }
    }

    fn pick(&self) -> Option<TaskId> {
        let mut ready = self.ready.lock();
        if ready.is_empty() {
            return None;
        }
        let count = crate::units::u64_of(ready.len());
        let at = crate::units::usize_of(self.rng.borrow_mut().below(count));
        Some(ready.swap_remove(at))
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

impl Drop for Sim {
    /// Tasks hold the world that holds them.
    fn drop(&mut self) {
        self.drop_tasks();
    }
}

/// Takes the main future out of the queue, however its run ends.
struct Retire<'a>(Arc<TaskWaker>, &'a ReadyQueue);

impl Drop for Retire<'_> {
    fn drop(&mut self) {
        self.0.retire();
        self.1.lock().retain(|ready| *ready != MAIN);
    }
}

struct Handle(Rc<World>);

impl Clock for Handle {
    fn now(&self) -> Ticks {
        Ticks(self.0.now_ns.get())
    }

    fn unix_ms(&self) -> u64 {
        // A fixed day, so that nothing in a run depends on when it ran.
        let unmoved = 1_700_000_000_000 + self.0.now_ns.get() / 1_000_000;
        unmoved.saturating_add_signed(self.0.wall_jump_ms.get())
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
