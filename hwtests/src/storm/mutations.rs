//! Does storm find bugs? Each deliberate bug of [`cairn_raid::mutation`] is planted, and histories
//! that could meet it are told until one does, or their seeds are used up.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use cairn_blockdev::sim::{Effect, On, Strike};
use cairn_blockdev::units::{BLOCK, u64_of, usize_of};
use cairn_raid::mutation::{Mutation, plant, reached};
use cairn_raid::{Level, MemberState};

use super::aimed::{self, Turn};
use super::exhaustive::{Place, Subject, cut_at};
use super::faults::Fault;
use super::history::{any_crash, history};
use super::load::{Cut, Mix};
use super::matrix;
use super::model::Crash;
use super::shape::Shape;
use super::states::State;
use super::tell::{Told, tell};
use super::world::World;

/// Seeds that are tried on each ground.
const SEEDS_MAX: u64 = 250;
/// Operations of a history that looks for a planted bug.
const STORY_OPS: u64 = 4000;

/// Bugs that the engine has no place for yet. One that is planted must leave this list: the test says
/// so.
pub const NOT_PLANTED: &[Mutation] = &[];

/// Where to look for a bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ground {
    /// Long random stories.
    Story,
    /// A short history, cut at any I/O of the load or of the start after it.
    Cut(Crash),
    /// A cell of the matrix.
    Cell(Fault, State),
    /// A cell of the matrix on one level, every other time on disks that tear no block.
    CellOf(Fault, State, Level),
    /// A turn that aims at one schedule.
    Aimed(Turn),
    /// A journal disk hangs, a crash follows, and takes journal disks and members.
    RingThenCut,
}

/// The likeliest grounds for each bug, in order.
fn grounds(mutation: Mutation) -> &'static [Ground] {
    use Ground::{Aimed, Cell, CellOf, Cut, RingThenCut, Story};
    match mutation {
        Mutation::AckBeforeJournal | Mutation::AckOutOfSequence | Mutation::OldRecordOverBypass => {
            &[Cut(Crash::Power), Cut(Crash::Kill), Story]
        }
        Mutation::TrimBeforeBypassFlushed => &[Aimed(Turn::SlowRows), Story],
        Mutation::ReplayWithoutHold => &[Aimed(Turn::LongReplay), Story],
        Mutation::SuccessorWithoutCopies => &[Aimed(Turn::Successors)],
        Mutation::SlowDiskCounted => &[Aimed(Turn::SlowFlush), Story],
        Mutation::OneCopyTooFew => &[
            Cell(Fault::A8CrashAndMemberGone, State::Healthy),
            Cell(Fault::A8CrashAndMemberGone, State::Degraded1),
            Story,
        ],
        Mutation::ReplayStopsAtFirstGap => &[
            Aimed(Turn::SpoiltRings),
            Cell(Fault::D8RotInZones, State::Replaying),
            Story,
        ],
        Mutation::DataBeforeParity | Mutation::NoFlushBetween | Mutation::NoteWithoutThrough => &[
            Cell(Fault::A8CrashAndMemberGone, State::Healthy),
            Cell(Fault::A8CrashAndMemberGone, State::Degraded1),
            Cell(Fault::H2PowerLoss, State::Degraded2),
            Story,
        ],
        Mutation::TrimBeforePages => &[
            Cut(Crash::Power),
            Cell(Fault::H2PowerLoss, State::JournalFull),
            Story,
        ],
        Mutation::MissedMapClearedEarly => &[
            Aimed(Turn::CatchUp),
            Cell(Fault::D12CacheLost, State::Healthy),
            Cell(Fault::D9VanishesAndReturns, State::Healthy),
            Aimed(Turn::Rebuild),
            Story,
        ],
        Mutation::StaleMemberRead => &[Cell(Fault::D2WriteFails, State::Healthy), Story],
        Mutation::AckBeforeEjection => &[Aimed(Turn::LateEjection), Story],
        Mutation::CursorAheadOfFlush => &[Aimed(Turn::SlowRebuild)],
        Mutation::MembersAheadOfFlush => &[Aimed(Turn::Rebuild), Story],
        Mutation::ParityFromUnverified => &[
            Cell(Fault::D8RotInData, State::Healthy),
            Cell(Fault::D6LostWrite, State::Degraded1),
            Story,
        ],
        Mutation::PageWithoutNumber => &[
            Aimed(Turn::StrayPages),
            Cell(Fault::D7MisdirectedPage, State::Healthy),
            Cell(Fault::D7MisdirectedPage, State::Scrubbing),
            Story,
        ],
        Mutation::PageWithoutGeneration => &[
            Aimed(Turn::LostPages),
            Cell(Fault::A10OlderImage, State::Healthy),
            Story,
        ],
        Mutation::ReuseBeforeUnmapDurable => &[Aimed(Turn::Deletion), Aimed(Turn::Reuse), Story],
        Mutation::DiscardDoesNotRevoke => &[
            Cell(Fault::A9TrimReuseCrash, State::Healthy),
            Cut(Crash::Power),
            Cut(Crash::Kill),
            Story,
        ],
        Mutation::CopiesMixed => &[RingThenCut, Story],
        Mutation::IntentNotDurable => &[
            Cut(Crash::Power),
            Cell(Fault::H2PowerLoss, State::Healthy),
            Story,
        ],
        Mutation::LossUnseenByRead => &[
            CellOf(Fault::D6LostWrite, State::Rebuilding, Level::Raid5),
            CellOf(Fault::D7MisdirectedWrite, State::Rebuilding, Level::Raid5),
            CellOf(Fault::D8RotInData, State::Rebuilding, Level::Raid5),
        ],
        Mutation::IntentHeals => &[
            Aimed(Turn::LostRows),
            CellOf(Fault::D7MisdirectedWrite, State::Degraded2, Level::Raid6),
            CellOf(Fault::D6LostWrite, State::Degraded2, Level::Raid6),
            CellOf(Fault::D8RotInData, State::Degraded2, Level::Raid6),
        ],
        Mutation::OnlyCopyNotKept => &[
            CellOf(Fault::D3FlushFailsOnce, State::Replaying, Level::Raid5),
            CellOf(Fault::D4Hangs, State::Replaying, Level::Raid5),
            CellOf(Fault::D3FlushFailsAlways, State::Replaying, Level::Raid6),
        ],
        Mutation::WholeBlockTorn => &[
            Aimed(Turn::RottenRows),
            CellOf(Fault::D8RotInData, State::Replaying, Level::Raid5),
            CellOf(Fault::D8RotInData, State::JournalFull, Level::Raid5),
            CellOf(Fault::D8RotInData, State::Healthy, Level::Raid5),
            CellOf(Fault::D8RotInData, State::Replaying, Level::Raid6),
            Story,
        ],
        Mutation::ReplayNotIdempotent => &[Cut(Crash::Kill), Cut(Crash::Power), Story],
    }
}

/// What came of looking for a bug.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// The bug.
    pub mutation: Mutation,
    /// Its code ran.
    pub reached: bool,
    /// Histories told.
    pub tried: u64,
    /// How long it took.
    pub time: Duration,
    /// Where it was found, with the seed and the finding; `None`: it wasn't.
    pub found: Option<String>,
}

/// Looks for a bug.
pub fn look_for(mutation: Mutation) -> Search {
    let mut search = Search {
        mutation,
        reached: false,
        tried: 0,
        time: Duration::ZERO,
        found: None,
    };
    let began = Instant::now();
    for ground in grounds(mutation) {
        for seed in 1..=SEEDS_MAX {
            plant(Some(mutation));
            let told = tell_on(*ground, seed);
            search.reached |= reached();
            plant(None);
            search.tried += 1;
            search.time = began.elapsed();
            if let Some(finding) = told.and_then(|told| told.finding) {
                search.found = Some(format!("{ground:?}, seed {seed}: {}", finding.what));
                return search;
            }
            // The last ground is the longest, and of no use where nothing is planted.
            if !search.reached && seed > 100 {
                break;
            }
        }
    }
    search
}

/// A history of a seed; `None` where nothing is promised of a cell.
fn tell_on(ground: Ground, seed: u64) -> Option<Told> {
    let level = match seed % 3 {
        0 => Level::Raid1,
        1 => Level::Raid6,
        _ => Level::Raid5,
    };
    match ground {
        Ground::Story => Some(history(seed, STORY_OPS)),
        Ground::Cut(crash) => {
            let lost_max = Shape::of(level).redundancy();
            let subject = Subject {
                journal_disks: false,
                seed,
                level,
                crash,
                place: if seed.is_multiple_of(2) {
                    Place::Io
                } else {
                    Place::Start
                },
                lost: usize::try_from(seed / 3).unwrap_or(0) % (lost_max + 1),
            };
            Some(cut_at(subject, 1 + seed * 7 % 160).0)
        }
        Ground::Cell(fault, state) => matrix::once(fault, state, Shape::of(level), seed),
        Ground::CellOf(fault, state, level) => {
            let mut shape = Shape::of(level);
            if seed.is_multiple_of(2) {
                shape.tear_bytes = BLOCK;
            }
            matrix::once(fault, state, shape, seed)
        }
        Ground::Aimed(turn) => Some(aimed::alone(turn, level, seed)),
        Ground::RingThenCut => Some(ring_then_cut(level, seed)),
    }
}

fn ring_then_cut(level: Level, seed: u64) -> Told {
    let shape = Shape::of(level).with_journal_disks();
    tell(World::new(seed, shape), |world| {
        world.create(0);
        world.load(40);
        let rings = world.in_state(MemberState::Journal);
        let mut members = world.members();
        let hang = Strike::new(On::Write, Effect::Hang(None));
        let Some((hangs, others)) = rings.split_first() else {
            return;
        };
        let after = world.rng.below(20);
        world.disk(*hangs).strike(hang.after(after).always());
        let ios = 1 + world.rng.below(300);
        world.load_cut(200, Mix::Any, Cut::Ios(ios));
        let lost = world.shape.redundancy();
        while members.len() > lost {
            let at = usize_of(world.rng.below(u64_of(members.len())));
            members.remove(at);
        }
        let gone: Vec<usize> = others.iter().take(lost).copied().chain(members).collect();
        let crash = any_crash(world);
        world.crash(crash);
        let present = world.without(&gone);
        // One that was thrown out as well is one too many.
        if world.start_with(&present).is_ok() {
            world.check();
        }
    })
}

/// Looks for every bug on so many threads, tells of each, and whether all that can be were found.
pub fn run(jobs: usize, name: Option<&str>) -> bool {
    let named =
        |mutation: &Mutation| name.is_none_or(|name| format!("{mutation:?}").contains(name));
    let chosen: Vec<Mutation> = Mutation::ALL.into_iter().filter(named).collect();
    let searches = look_for_all(&chosen, jobs);
    let mut fine = true;
    for search in &searches {
        let name = format!("{:?}", search.mutation);
        match &search.found {
            Some(found) => {
                let line = found.lines().take(2).collect::<Vec<_>>().join(" ");
                let seconds = search.time.as_secs_f64();
                println!(
                    "{name:26} found after {:3} in {seconds:.1} s: {line}",
                    search.tried
                );
            }
            None if !search.reached => {
                println!("{name:26} NOT PLANTED, or its code never ran");
                fine &= NOT_PLANTED.contains(&search.mutation);
            }
            None => {
                println!("{name:26} NOT FOUND in {} histories", search.tried);
                fine = false;
            }
        }
    }
    fine
}

/// Looks for bugs side by side.
pub fn look_for_all(mutations: &[Mutation], jobs: usize) -> Vec<Search> {
    let next = AtomicUsize::new(0);
    let found: Mutex<Vec<Search>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(mutation) = mutations.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let search = look_for(*mutation);
                    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                    found.push(search);
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_by_key(|search| search.mutation);
    found
}
