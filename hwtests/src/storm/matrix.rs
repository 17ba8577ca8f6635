//! Fault × state: in each cell what is promised, and whether it holds.
//!
//! The promise (the fault table's first sentence): one fault at a time within redundancy, nothing is
//! lost and nothing wrong returned; beyond redundancy, errors and never wrong bytes. Both follow from
//! how many members of a row the state and the fault take away; what differs is in [`EXCEPTIONS`], and
//! in [`promise`] what has no cell.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::PoisonError;

use cairn_blockdev::units::{u64_of, usize_of};
use cairn_raid::Level;

use super::abilities::Ability;
use super::faults::Fault;
use super::harm::{Harm, allow_refusal};
use super::history::any_crash;
use super::load::{Cut, Mix};
use super::shape::Shape;
use super::states::State;
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
    /// Safe once these have come; not run.
    Waits(BTreeSet<Ability>),
    /// Such an array can't be in that state.
    Nothing,
}

/// Cells that aren't what the counting says, each with its reason. There are none.
pub const EXCEPTIONS: &[(Fault, State, Expect)] = &[];

/// What is promised of `fault` in `state` of an array of this shape.
pub fn expect(fault: Fault, state: State, shape: &Shape) -> Expect {
    let promised = promise(fault, state, shape);
    if promised == Expect::Nothing {
        return promised;
    }
    let waits = waits(fault, state);
    if waits.is_empty() {
        promised
    } else {
        Expect::Waits(waits)
    }
}

/// What it takes and isn't there yet.
fn waits(fault: Fault, state: State) -> BTreeSet<Ability> {
    let plan = fault.plan();
    let needs = plan.needs.iter().chain(state.needs()).copied();
    let mut waits: BTreeSet<Ability> = needs.filter(|need| !need.is_there()).collect();
    // Cut off with a member missing.
    if plan.crashes && state.missing() > 0 && !Ability::Journal.is_there() {
        waits.insert(Ability::Journal);
    }
    waits
}

/// What is promised once everything is there.
fn promise(fault: Fault, state: State, shape: &Shape) -> Expect {
    let on_ring = fault.plan().rings > 0;
    if !state.fits(shape) || on_ring != (shape.journal_disks > 0) {
        return Expect::Nothing;
    }
    let exception = EXCEPTIONS
        .iter()
        .find(|(f, s, _)| (*f, *s) == (fault, state));
    if fault == Fault::D8RotInZones && state.missing() + 1 == shape.members {
        // The last copy of the maps: if its newest slot rots the one before it is all that there is.
        return Expect::Nothing;
    }
    if let Some((_, _, expect)) = exception {
        return expect.clone();
    }
    if state.missing() + fault.plan().disks <= shape.redundancy() {
        Expect::Safe
    } else {
        Expect::Loud
    }
}

/// How a cell went.
struct Cell {
    told: Told,
    struck: u64,
}

/// Runs one cell once.
fn run_cell(fault: Fault, state: State, shape: Shape, expect: &Expect, seed: u64) -> Cell {
    let mut struck = 0;
    let told = tell(World::new(seed, shape), |world| {
        world.create(0);
        world.load(150);
        state.enter(world);
        world.rules.errors_allowed.set(*expect == Expect::Loud);
        let before = struck_by(fault, world);
        let mut harm = Harm::strike(world, fault);
        if !world.is_running() {
            allow_refusal(world, World::start);
            world.check();
        }
        if world.is_running() {
            world.load(250);
            harm.pass(world);
        }
        if world.is_running() {
            world.load(60);
            world.check();
        }
        struck = struck_by(fault, world) - before + harm.came;
        if world.is_running() {
            harm.is_over(world);
            come_to_an_end(world, fault.plan().latent);
        }
    });
    Cell { told, struck }
}

/// Faults that have struck; slowness only where it is the fault, for some states need slow disks.
fn struck_by(fault: Fault, world: &World) -> u64 {
    let struck = world.struck();
    if matches!(fault, Fault::D4Slow | Fault::RingSlow) {
        struck.slow
    } else {
        struck.total() - struck.slow
    }
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
    let may_crash = Ability::Journal.is_there() || world.is_full() || broken(world);
    if may_crash && world.rng.one_in(2) {
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

/// One cell once, as the matrix runs it; `None` if it waits for something or can't be.
pub fn once(fault: Fault, state: State, shape: Shape, seed: u64) -> Option<Told> {
    match expect(fault, state, &shape) {
        Expect::Waits(_) | Expect::Nothing => None,
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
    /// Cells that wait for something are run as well, to see what comes of it.
    pub waiting: bool,
}

/// The outcome of a matrix.
pub struct Outcome {
    /// The table, for people.
    pub table: String,
    /// One line for each cell that failed.
    pub failures: Vec<String>,
    /// What was done.
    pub totals: Totals,
}

/// The arrays that the table is about: on the last ones, which have journal disks, these are struck.
fn shapes() -> [Shape; 5] {
    [
        Shape::of(Level::Raid6),
        Shape::of(Level::Raid5),
        Shape::of(Level::Raid1),
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
        table: draw(&jobs, &cells),
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
    let expected = match expect(job.fault, job.state, &shape) {
        Expect::Waits(_) if choice.waiting && job.state != State::Scrubbing => {
            promise(job.fault, job.state, &shape)
        }
        other => other,
    };
    let mut totals = Totals::default();
    match &expected {
        Expect::Nothing => return ("·".into(), None, totals),
        Expect::Waits(waits) => {
            let waits: Vec<&str> = waits.iter().map(|ability| ability.name()).collect();
            return (format!("({})", waits.join(", ")), None, totals);
        }
        Expect::Safe | Expect::Loud => {}
    }
    let mut struck = 0;
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
    for i in 0..seeds {
        let seed = choice.first_seed + i;
        let shape = Shape {
            tear_bytes: if i % 2 == 0 { 512 } else { 4096 },
            ..shape
        };
        let cell = run_cell(job.fault, job.state, shape, &expected, seed);
        totals += cell.told.totals;
        struck += cell.struck;
        if let Some(finding) = cell.told.finding {
            let failed = format!("{}, seed {seed}: {}", name(), finding.what);
            return (format!("FAILED {seed}"), Some(failed), totals);
        }
    }
    if struck == 0 {
        let failed = format!("{}: it never struck", name());
        return ("NEVER".into(), Some(failed), totals);
    }
    let word = if expected == Expect::Safe {
        "safe"
    } else {
        "loud"
    };
    (format!("{word} {struck}"), None, totals)
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
    let name = format!("{} of {}", shape.level, shape.members);
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
                    Expect::Waits(_) => 2,
                    Expect::Nothing => 3,
                };
                if let Some(count) = counts.get_mut(at) {
                    *count += 1;
                }
            }
        }
    }
    let names = ["safe", "loud", "waiting", "impossible"];
    debug_assert_eq!(u64_of(names.len()), 4);
    debug_assert_eq!(usize_of(4), counts.len());
    names.into_iter().zip(counts).collect()
}
