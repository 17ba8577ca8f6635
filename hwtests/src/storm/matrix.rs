//! Fault × state: in each cell what is promised, and whether it holds.
//!
//! The promise (the fault table's first sentence): one fault at a time within redundancy, nothing is
//! lost and nothing wrong returned; beyond redundancy, errors and never wrong bytes. Both follow from
//! how many members of a row the state and the fault take away; what differs is in [`EXCEPTIONS`].
//!
//! Beyond redundancy the array has to be loud where whole disks are gone: a client's operation fails, the
//! start is refused, or the array says that it has failed. And once the disks are back and it is
//! restarted, everything that was acknowledged is there.
//!
//! A cell counts what struck while the array was in the cell's state; one without is a failure, unless
//! [`UNHIT`] says why it can't be hit.

use std::fmt::Write;
use std::sync::Mutex;
use std::sync::PoisonError;

use cairn_raid::Level;

use super::faults::Fault;
use super::harm::{Harm, allow_refusal};
use super::history::any_crash;
use super::load::{Cut, Mix};
use super::model::Crash;
use super::shape::Shape;
use super::states::{Sentry, State};
use super::tell::{Told, tell};
use super::totals::Totals;
use super::world::World;

/// What is promised in a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// Nothing is lost, no client is told of an error.
    Safe,
    /// Errors where data is lost; never wrong bytes.
    Loud,
    /// Less than the counting says, for this reason; not run.
    Exempt(&'static str),
    /// Such an array can't be in that state.
    Nothing,
}

/// Cells that aren't what the counting says, each with its reason.
pub const EXCEPTIONS: &[(Fault, State, Level, &str)] = &[(
    Fault::D8RotInZones,
    State::Degraded2,
    Level::Raid1,
    "of the last copy of the maps the newest slot may rot, and nothing tells that the one before it is older",
)];

/// Cells whose fault can't strike in their state, on this level or on all, each with its reason. They are
/// run.
pub const UNHIT: &[(Fault, State, Option<Level>, &str)] = &[
    (
        Fault::RingAllVanish,
        State::Replaying,
        None,
        "without any journal disk nothing is replayed: that is a crash and R+1 gone",
    ),
    (
        Fault::A5LatentInRebuild,
        State::Degraded2,
        Some(Level::Raid1),
        "the last member goes, and there is no survivor to have a bad sector",
    ),
];

/// Seeds that a cell gets beyond those that are asked for, until its fault strikes in its state.
const MORE_SEEDS: u64 = 12;

/// What is promised of `fault` in `state` of an array of this shape.
pub fn expect(fault: Fault, state: State, shape: &Shape) -> Expect {
    let on_ring = fault.plan().rings > 0;
    let on_checksums = fault.plan().checksums && !shape.integrity;
    if !state.fits(shape) || on_ring != (shape.journal_disks > 0) || on_checksums {
        return Expect::Nothing;
    }
    let exception = EXCEPTIONS
        .iter()
        .find(|(f, s, level, _)| (*f, *s, *level) == (fault, state, shape.level));
    if let Some((.., reason)) = exception {
        return Expect::Exempt(reason);
    }
    if state.missing() + fault.plan().disks <= shape.redundancy() {
        Expect::Safe
    } else {
        Expect::Loud
    }
}

/// Whole disks that are out of the array, or should be, once the fault has struck.
const fn takes_disks(fault: Fault) -> usize {
    match fault {
        Fault::A2ThreeAtOnce => 3,
        Fault::A2TwoAtOnce => 2,
        Fault::D2WriteFails
        | Fault::D2WriteFailsAndCrash
        | Fault::D3FlushFailsOnce
        | Fault::D3FlushFailsAlways
        | Fault::D4Hangs
        | Fault::D9VanishesAndReturns
        | Fault::D9CaughtUp
        | Fault::D11Full
        | Fault::D12CacheLost
        | Fault::D13LateWrite
        | Fault::A3CrashInRebuild
        | Fault::A4SpareFailsToo
        | Fault::A5LatentInRebuild
        | Fault::A8CrashAndMemberGone
        | Fault::A10OlderImage => 1,
        _ => 0,
    }
}

/// Whether all that was acknowledged is there once its disks are.
const fn gives_back(fault: Fault) -> bool {
    // What can't be read or solved meanwhile is on the bad-block list for good, and an older image is no
    // disk that comes back.
    takes_disks(fault) > 0 && !matches!(fault, Fault::A5LatentInRebuild | Fault::A10OlderImage)
}

/// How a cell went.
struct Cell {
    told: Told,
    /// Strikes while the array was in the cell's state.
    in_state: u64,
    /// It told of what was beyond redundancy.
    was_loud: bool,
}

/// Runs one cell once.
fn run_cell(fault: Fault, state: State, shape: Shape, expect: &Expect, seed: u64) -> Cell {
    let (mut in_state, mut was_loud) = (0, false);
    let told = tell(World::new(seed, shape), |world| {
        world.create(0);
        world.load(150);
        state.enter(world);
        world.rules.errors_allowed.set(*expect == Expect::Loud);
        let sentry = Sentry::new(world, fault, state);
        let boots = world.boots;
        let mut harm = Harm::strike_in(world, fault, Some(state));
        sentry.look();
        if world.boots != boots {
            sentry.stand(world);
        }
        if matches!(fault, Fault::D4Slow | Fault::RingSlow) {
            sentry.look_at(world, &harm.victims);
        }
        if !world.is_running() {
            allow_refusal(world, World::start);
            sentry.meet(world);
            world.check();
        }
        if world.is_running() {
            world.load(250);
            state.once_more(world);
            // What strikes journal disks doesn't know of states.
            let (held, came) = (state.holds(world), harm.came);
            harm.pass(world);
            if fault.plan().rings > 0 && held {
                harm.came_in_state += harm.came - came;
            }
        }
        if world.is_running() {
            world.load(60);
            world.check();
        }
        state.leave(world);
        sentry.dismiss();
        in_state = sentry.in_state.get() + harm.came_in_state;
        if fault == Fault::A5LatentInRebuild && world.struck().read_errors == 0 {
            // A disk went, and no bad sector was met.
            in_state = 0;
        }
        let struck = sentry.struck.get() + harm.came > 0;
        let gone = state.missing() + takes_disks(fault);
        let too_many = gone > world.shape.redundancy();
        was_loud = is_loud(world) || (!too_many && world.heard("BadBlock"));
        let must_be_loud = *expect == Expect::Loud && too_many && struck;
        assert!(
            was_loud || !must_be_loud,
            "{gone} disks are gone, and nobody was told"
        );
        if world.is_running() {
            harm.is_over(world);
        }
        if must_be_loud && gives_back(fault) {
            return come_back_whole(world, fault);
        }
        if world.is_running() {
            come_to_an_end(world, fault.plan().latent);
        }
    });
    Cell {
        told,
        in_state,
        was_loud,
    }
}

/// Whether anybody was told of a loss: a client whose operation failed, whoever starts the array, or
/// the operator.
fn is_loud(world: &World) -> bool {
    let totals = world.totals();
    let failed = totals.ops.failed > 0 || totals.refusals > 0;
    failed || world.heard("ArrayFailed")
}

/// More disks were gone than the level survives, and are back. What is on them is as it was when the array
/// failed, so that a restart finds everything that was acknowledged (raid/README.md, Invariants).
fn come_back_whole(world: &mut World, fault: Fault) {
    if fault == Fault::D12CacheLost {
        // With what the disk hadn't flushed: more copies of that are gone than may be.
        world.rules.cache_lost.set(true);
    }
    if world.is_running() {
        world.crash(Crash::Kill);
    }
    for disk in &world.disks {
        disk.heal();
    }
    world.rules.errors_allowed.set(false);
    if let Err(error) = world.start() {
        panic!(
            "all disks are back, and it isn't started: {error}; the array told: {:#?}",
            world.told()
        );
    }
    world.check();
    world.load(60);
    world.wait_for_sync();
    world.check();
    world.stop_and_audit();
    if let Err(error) = world.start() {
        panic!("the last start: {error}");
    }
    world.check();
}

/// What is being filled gets filled; a last crash or stop; everything is read and audited.
fn come_to_an_end(world: &mut World, latent: bool) {
    let broken = |world: &World| world.array().status().failure.is_some();
    if !broken(world) {
        world.wait_for_sync();
        world.check();
        if latent && !world.rules.errors_allowed.get() {
            world.make_whole();
        }
    }
    if world.rng.one_in(2) {
        world.load_cut(40, Mix::Any, Cut::Ios(90));
        let crash = any_crash(world);
        world.crash(crash);
    } else if !world.stop() {
        return;
    }
    allow_refusal(world, World::start);
    if !world.is_running() {
        return;
    }
    world.check();
    if !world.rules.errors_allowed.get() {
        world.stop_and_audit();
        if let Err(error) = world.start() {
            panic!("the last start: {error}");
        }
        world.check();
    }
}

/// One cell once, as the matrix runs it; `None` if nothing is promised of it.
pub fn once(fault: Fault, state: State, shape: Shape, seed: u64) -> Option<Told> {
    match expect(fault, state, &shape) {
        Expect::Exempt(_) | Expect::Nothing => None,
        expected => Some(run_cell(fault, state, shape, &expected, seed).told),
    }
}

/// What to run.
#[derive(Debug, Clone)]
pub struct Choice {
    /// Every cell so many times, on each level; those of journal disks half as often.
    pub seeds: u64,
    /// Threads.
    pub jobs: usize,
    /// Only faults whose name has this in it.
    pub fault: Option<String>,
    /// Only states whose name has this in it.
    pub state: Option<String>,
    /// The seed to begin with.
    pub first_seed: u64,
}

/// The outcome of a matrix.
pub struct Outcome {
    /// The table, for people.
    pub table: String,
    /// One line for each cell that failed, or that wasn't hit.
    pub failures: Vec<String>,
    /// What was done.
    pub totals: Totals,
}

/// The arrays that the table is about: on the last ones, which have journal disks, these are struck.
fn shapes() -> [Shape; 6] {
    [
        Shape::of(Level::Raid6),
        Shape::of(Level::Raid5),
        Shape::of(Level::Raid1),
        Shape::of(Level::Raid6).without_checksums(),
        Shape::of(Level::Raid6).with_journal_disks(),
        Shape::of(Level::Raid5).with_journal_disks(),
    ]
}

/// One line of the table in progress.
struct Job {
    shape: Shape,
    fault: Fault,
    state: State,
}

/// Runs the matrix.
pub fn run(choice: &Choice) -> Outcome {
    let fits = |name: &str, filter: &Option<String>| {
        filter.as_ref().is_none_or(|filter| name.contains(filter))
    };
    let mut jobs = Vec::new();
    for shape in shapes() {
        let struck = |fault: &Fault| (fault.plan().rings > 0) == (shape.journal_disks > 0);
        for fault in Fault::ALL.into_iter().filter(struck) {
            for state in State::ALL {
                if fits(fault.plan().name, &choice.fault) && fits(state.name(), &choice.state) {
                    jobs.push(Job {
                        shape,
                        fault,
                        state,
                    });
                }
            }
        }
    }
    let results: Mutex<Vec<(usize, String)>> = Mutex::default();
    let failures: Mutex<Vec<String>> = Mutex::default();
    let totals: Mutex<Totals> = Mutex::default();
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..choice.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(job) = jobs.get(at) else { return };
                    let (cell, failed, done) = run_job(job, choice);
                    lock(&results).push((at, cell));
                    lock(&failures).extend(failed);
                    *lock(&totals) += done;
                }
            });
        }
    });
    let mut cells = lock(&results).clone();
    cells.sort();
    let cells: Vec<String> = cells.into_iter().map(|(_, cell)| cell).collect();
    Outcome {
        table: format!("{}\n\n{}", draw(&jobs, &cells), legend()),
        failures: std::mem::take(&mut *lock(&failures)),
        totals: std::mem::take(&mut *lock(&totals)),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A cell's text, its failure and its totals.
fn run_job(job: &Job, choice: &Choice) -> (String, Option<String>, Totals) {
    let shape = job.shape;
    let expected = expect(job.fault, job.state, &shape);
    let mut totals = Totals::default();
    match &expected {
        Expect::Nothing => return ("·".into(), None, totals),
        Expect::Exempt(_) => return ("exempt".into(), None, totals),
        Expect::Safe | Expect::Loud => {}
    }
    let (mut in_state, mut loud, mut runs) = (0, 0u64, 0u64);
    let unhit = UNHIT.iter().any(|(fault, state, level, _)| {
        (*fault, *state) == (job.fault, job.state) && level.is_none_or(|level| level == shape.level)
    });
    let name = || {
        format!(
            "{} × {} on {} ({expected:?})",
            job.fault.plan().name,
            job.state.name(),
            name_of(&shape)
        )
    };
    // A fault of a journal disk comes about with every seed.
    let seeds = match job.fault.plan().rings {
        0 => choice.seeds,
        _ => choice.seeds.div_ceil(2),
    };
    let more = if unhit { 0 } else { MORE_SEEDS };
    for i in 0..seeds + more {
        if i >= seeds && in_state > 0 {
            break;
        }
        let seed = choice.first_seed + i;
        let shape = Shape {
            tear_bytes: if i % 2 == 0 { 512 } else { 4096 },
            ..shape
        };
        let cell = run_cell(job.fault, job.state, shape, &expected, seed);
        totals += cell.told.totals;
        in_state += cell.in_state;
        (runs, loud) = (runs + 1, loud + u64::from(cell.was_loud));
        if let Some(finding) = cell.told.finding {
            let failed = format!("{}, seed {seed}: {}", name(), finding.what);
            return (format!("FAILED {seed}"), Some(failed), totals);
        }
    }
    if (in_state == 0) != unhit {
        let what = if unhit {
            "it struck, and is said not to"
        } else {
            "it never struck in that state"
        };
        let failed = format!("{}: {what}", name());
        return ("NOT HIT".into(), Some(failed), totals);
    }
    let cell = match expected {
        _ if unhit => "(not hit)".into(),
        Expect::Loud => format!("loud {loud}/{runs}"),
        _ => format!("safe {in_state}"),
    };
    (cell, None, totals)
}

/// What the table's words mean, and the reasons of the cells that differ.
fn legend() -> String {
    let mut text = String::from(
        "safe: strikes in that state, of which clients noticed nothing\nloud: runs in which a loss was told, of all",
    );
    for (fault, state, level, reason) in EXCEPTIONS {
        let (fault, state) = (fault.plan().name, state.name());
        let _ = write!(text, "\nexempt: {fault} × {state} on {level}: {reason}");
    }
    for (fault, state, level, reason) in UNHIT {
        let (fault, state) = (fault.plan().name, state.name());
        let on = level
            .map(|level| format!(" on {level}"))
            .unwrap_or_default();
        let _ = write!(text, "\nnot hit: {fault} × {state}{on}: {reason}");
    }
    text
}

/// The table: a block for each level, a line for each fault, a column for each state.
fn draw(jobs: &[Job], cells: &[String]) -> String {
    const NAME_WIDTH: usize = 32;
    let mut text = String::new();
    let mut states: Vec<State> = jobs.iter().map(|job| job.state).collect();
    states.sort();
    states.dedup();
    let mut widths: Vec<usize> = states.iter().map(|state| state.name().len()).collect();
    for (job, cell) in jobs.iter().zip(cells) {
        let column = states.iter().position(|state| *state == job.state);
        if let Some(width) = column.and_then(|column| widths.get_mut(column)) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let (mut drawn, mut fault) = (None, None);
    for (job, cell) in jobs.iter().zip(cells) {
        if drawn != Some(job.shape) {
            let title = name_of(&job.shape);
            let _ = write!(text, "\n\n{title:NAME_WIDTH$}");
            for (state, width) in states.iter().zip(&widths) {
                let _ = write!(text, "  {:width$}", state.name(), width = *width);
            }
            drawn = Some(job.shape);
            fault = None;
        }
        if fault != Some(job.fault) {
            let _ = write!(text, "\n{:NAME_WIDTH$}", job.fault.plan().name);
            fault = Some(job.fault);
        }
        let column = states.iter().position(|state| *state == job.state);
        let width = column.and_then(|column| widths.get(column)).copied();
        let _ = write!(text, "  {cell:width$}", width = width.unwrap_or(0));
    }
    text.trim_start().to_owned()
}

/// A shape's name in the table.
fn name_of(shape: &Shape) -> String {
    let mut name = format!("{} of {}", shape.level, shape.members);
    if !shape.integrity {
        name += ", no checksums";
    }
    match shape.journal_disks {
        0 => name,
        disks => format!("{name}, {disks} journal disks"),
    }
}

/// How many cells are promised what: for the report.
pub fn census() -> Vec<(&'static str, u64)> {
    let mut counts = [0u64; 4];
    for shape in shapes() {
        let struck = |fault: &Fault| (fault.plan().rings > 0) == (shape.journal_disks > 0);
        for fault in Fault::ALL.into_iter().filter(struck) {
            for state in State::ALL {
                let at = match expect(fault, state, &shape) {
                    Expect::Safe => 0,
                    Expect::Loud => 1,
                    Expect::Exempt(_) => 2,
                    Expect::Nothing => 3,
                };
                if let Some(count) = counts.get_mut(at) {
                    *count += 1;
                }
            }
        }
    }
    let names = ["safe", "loud", "exempt", "impossible"];
    debug_assert_eq!(names.len(), counts.len());
    names.into_iter().zip(counts).collect()
}
