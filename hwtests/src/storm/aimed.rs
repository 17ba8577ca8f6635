//! Short turns, each aimed at a schedule that random clients and faults seldom come to: what has to be
//! slow, cached or lost on which disk, and where the plug is pulled then. A chapter of a random history
//! may be one, and the search for planted bugs looks there.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cairn_blockdev::IoErrorKind;
use cairn_blockdev::sim::{Effect, On, Strike};
use cairn_blockdev::units::{BLOCK, u64_of, usize_of};
use cairn_raid::layout::{LABEL_A, ZONES_START, ZoneKind};
use cairn_raid::{Level, MemberState};

use super::harm::{restart, rot, somewhere};
use super::history::any_crash;
use super::load::{Cut, Mix};
use super::log::Aim;
use super::model::Crash;
use super::shape::{LARGE_CHUNK, Shape};
use super::tell::{Told, tell};
use super::totals::Totals;
use super::world::World;

/// Volumes of a world.
const VOLUMES: usize = 2;
/// Without clients for so long, everything is in place and trimmed.
const ALL_TRIMMED_AFTER: Duration = Duration::from_secs(8);
/// Bytes before a ring: its zone's header and its own.
const HEADERS: u64 = 4 * BLOCK;
/// Pages that rot in each ring.
const ROTTEN_PAGES: usize = 16;

/// What a turn aims at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Turn {
    /// Complete rows are long on their way to one member, while cycles trim what is older.
    SlowRows,
    /// A member fails a write, the labels that say so are late, and everything is cut off; then as many
    /// members go as may.
    LateEjection,
    /// A rebuild of an idle array is cut off, mostly about when labels are written; then as many members go
    /// as may.
    Rebuild,
    /// A rebuild onto a disk that is slow, so that labels tell how far it is, is cut off about then; then as many
    /// members go as may.
    SlowRebuild,
    /// A member loses what is written to one of its zones, and the array is restarted.
    LostPages,
    /// A member writes checksum pages in the places of others, and the array is restarted.
    StrayPages,
    /// Complete rows are cut off by a power cut, and blocks of a member rot before the next start.
    RottenRows,
    /// Extents are given back and used again, and the power goes.
    Reuse,
    /// A volume is deleted while others are trimmed and written anew, and the power goes.
    Deletion,
    /// What is trimmed rots in every ring, and everything is cut off; members go with that.
    SpoiltRings,
    /// Members give no answers while clients flush what is in the journal alone, and the power goes; then as
    /// many members go as may.
    SlowFlush,
    /// A member that was away is caught up while clients go on and another disk is slow to flush; the power goes
    /// in the middle of it.
    CatchUp,
    /// Every row is cut off on its way past the journal, and the replay of that is cut off itself.
    LongReplay,
    /// Blocks are lost, and complete rows that are to heal them are cut off by a power cut.
    LostRows,
    /// Members are replaced, two at once, and clients are cut off about when labels are written; a member that isn't may go
    /// with that.
    Successors,
}

impl Turn {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::SlowRows,
        Self::LateEjection,
        Self::Rebuild,
        Self::SlowRebuild,
        Self::LostPages,
        Self::StrayPages,
        Self::RottenRows,
        Self::Reuse,
        Self::Deletion,
        Self::SpoiltRings,
        Self::SlowFlush,
        Self::CatchUp,
        Self::LongReplay,
        Self::LostRows,
        Self::Successors,
    ];

    /// Those that chapters of random histories may be: seeds that are known by what they told go on telling it.
    pub fn of_stories() -> Vec<Self> {
        let mut turns = Self::ALL.to_vec();
        turns.retain(|turn| !matches!(turn, Self::Successors | Self::SlowRebuild));
        turns
    }

    /// Members that have to be there beside those that the data needs.
    pub const fn needs(self) -> usize {
        match self {
            Self::SlowRows
            | Self::Reuse
            | Self::Deletion
            | Self::SpoiltRings
            | Self::LongReplay
            | Self::LostRows
            | Self::Successors => 0,
            Self::LateEjection
            | Self::Rebuild
            | Self::SlowRebuild
            | Self::LostPages
            | Self::StrayPages
            | Self::RottenRows
            | Self::SlowFlush
            | Self::CatchUp => 1,
        }
    }

    /// Takes it. The array runs, and runs afterwards.
    pub fn take(self, world: &mut World) {
        match self {
            Self::SlowRows => slow_rows(world),
            Self::LateEjection => late_ejection(world),
            Self::Rebuild => rebuild(world),
            Self::SlowRebuild => slow_rebuild(world),
            Self::LostPages => lost_pages(world),
            Self::StrayPages => stray_pages(world),
            Self::RottenRows => rotten_rows(world),
            Self::Reuse => reuse(world),
            Self::Deletion => deletion(world),
            Self::SpoiltRings => spoilt_rings(world),
            Self::SlowFlush => slow_flush(world),
            Self::CatchUp => catch_up(world),
            Self::LongReplay => long_replay(world),
            Self::LostRows => lost_rows(world),
            Self::Successors => successors(world),
        }
    }
}

/// A new array takes the turn: a history of its own.
pub fn alone(turn: Turn, level: Level, seed: u64) -> Told {
    let mut shape = Shape::of(level);
    shape.rows = 4 + seed % 3 * 4;
    shape.tear_bytes = 512 << (seed % 2 * 3);
    if matches!(turn, Turn::LongReplay | Turn::SlowRebuild) {
        // So many that memory doesn't have room for all of them at once, nor a rebuild fills all of them at once.
        shape.rows = 80;
        shape.chunk_bytes = LARGE_CHUNK;
    }
    tell(World::new(seed, shape), |world| {
        world.create(usize::from(matches!(
            turn,
            Turn::Rebuild | Turn::SlowRebuild
        )));
        world.load(40);
        turn.take(world);
        world.load(20);
        world.check();
    })
}

/// What to run.
#[derive(Debug, Clone)]
pub struct Choice {
    /// The seed to begin with.
    pub first_seed: u64,
    /// Each turn so many times, on each level.
    pub seeds: u64,
    /// Threads.
    pub jobs: usize,
    /// Only turns whose name has this in it.
    pub only: Option<String>,
}

/// What came of it.
#[derive(Default)]
pub struct Outcome {
    /// What was done.
    pub totals: Totals,
    /// A line for each history that found something, with the command that tells it again.
    pub failures: Vec<String>,
}

/// Takes every turn, on every level, with so many seeds.
pub fn run(choice: &Choice) -> Outcome {
    let fits = |turn: &Turn| {
        let name = format!("{turn:?}");
        choice.only.as_ref().is_none_or(|only| name.contains(only))
    };
    let turns: Vec<Turn> = Turn::ALL.into_iter().filter(fits).collect();
    let mut stories = Vec::new();
    for seed in choice.first_seed..choice.first_seed + choice.seeds {
        for turn in &turns {
            for level in [Level::Raid6, Level::Raid5, Level::Raid1] {
                stories.push((*turn, level, seed));
            }
        }
    }
    let next = AtomicUsize::new(0);
    let outcome: Mutex<Outcome> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..choice.jobs.max(1) {
            scope.spawn(|| {
                while let Some((turn, level, seed)) = stories.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let told = alone(*turn, *level, *seed);
                    let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
                    outcome.totals += told.totals;
                    outcome.failures.extend(told.finding.map(|finding| {
                        format!(
                            "{turn:?} on {level}: {}\nagain: storm --aimed --only {turn:?} --seed {seed}",
                            finding.what
                        )
                    }));
                }
            });
        }
    });
    outcome.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn long_replay(world: &mut World) {
    // The first write of a row needs less than the second.
    world.write_all();
    world.load(60);
    world.write_all();
    // Rows with older records, some of them cut off.
    world.load(40);
    let ios = 1 + world.rng.below(600);
    world.load_cut(100, Mix::Rows, Cut::Ios(ios));
    for _ in 0..2 {
        let crash = any_crash(world);
        world.crash(crash);
        let (ios, all) = (1 + world.rng.below(1500), world.without(&[]));
        if !world.start_cut_after(ios, &all) {
            return world.check();
        }
    }
    world.crash(Crash::Power);
    come_back(world);
    world.check();
}

/// What is lost is an error until it is written anew, and never anything else.
fn lost_rows(world: &mut World) {
    // What only logs write nobody here could write anew.
    if !world.shape.integrity || world.shape.logs {
        return;
    }
    world.write_all();
    restart(world);
    let members = world.members();
    let too_many = world.shape.level.redundancy(world.shape.members) + 1;
    let Some(first) = members.first().copied() else {
        return;
    };
    let before = world.rules.errors_allowed.replace(true);
    for _ in 0..4 {
        let at = somewhere(world, first) / BLOCK * BLOCK;
        for victim in members.iter().take(too_many) {
            let at = at + world.rng.below(BLOCK);
            rot(world, *victim, at);
        }
    }
    world.make_whole();
    let ios = 20 + world.rng.below(200);
    world.load_cut(100, Mix::Rows, Cut::Ios(ios));
    world.crash(Crash::Power);
    come_back(world);
    world.check();
    world.write_all();
    world.rules.errors_allowed.set(before);
    world.check();
    world.make_whole();
}

/// One that is in sync, with its writes to the rows so many times slower.
fn slow_member(world: &mut World, times: u32) {
    let victim = world.any_member();
    let rows = world.rows_on_disk(victim);
    let slow = Strike::new(On::Write, Effect::Slow(times)).within(rows);
    world.disk(victim).strike(slow.always());
}

fn come_back(world: &mut World) {
    if let Err(error) = world.start() {
        panic!("start: {error}; the array told: {:#?}", world.told());
    }
}

fn slow_rows(world: &mut World) {
    let times = 20 + u32::try_from(world.rng.below(200)).unwrap_or(0);
    slow_member(world, times);
    let ios = 1 + world.rng.below(1200);
    world.load_cut(200, Mix::Rows, Cut::Ios(ios));
    let crash = any_crash(world);
    world.crash(crash);
    come_back(world);
    world.check();
}

fn late_ejection(world: &mut World) {
    let victim = world.any_member();
    let rows = world.rows_on_disk(victim);
    let fail = Strike::new(On::Write, Effect::Fail(IoErrorKind::Medium));
    let after = world.rng.below(20);
    for disk in world.members() {
        let labels = LABEL_A..ZONES_START;
        let late = Strike::new(On::Write, Effect::Slow(300)).within(labels);
        world.disk(disk).strike(late.always());
    }
    world.disk(victim).strike(fail.after(after).within(rows));
    let ios = 1 + world.rng.below(400);
    world.load_cut(300, Mix::Rows, Cut::AfterError(ios));
    let crash = any_crash(world);
    world.crash(crash);
    come_back(world);
    lose_what_may_be(world);
}

/// The array stops first, so that nothing of the rebuild is helped by the journal.
fn rebuild(world: &mut World) {
    restart(world);
    let victim = world.any_member();
    let cut = if world.rng.one_in(4) {
        Cut::Ios(1 + world.rng.below(300))
    } else {
        Cut::After(Aim {
            from: LABEL_A,
            to: ZONES_START,
            writes: 1 + world.rng.below(40),
            ios: world.rng.below(6),
        })
    };
    world.fail_member_cut(victim, cut);
    world.crash(Crash::Power);
    come_back(world);
    world.wait_for_sync();
    lose_what_may_be(world);
}

fn slow_rebuild(world: &mut World) {
    world.write_all();
    restart(world);
    let victim = world.any_member();
    let spares = world.in_state(MemberState::Spare);
    // It'll be given as much room as those that are alike.
    let rows = world.rows_on_disk(victim);
    for spare in &spares {
        let times = 20_000 + u32::try_from(world.rng.below(80_000)).unwrap_or(0);
        let slow = Strike::new(On::Write, Effect::Slow(times)).within(rows.clone());
        world.disk(*spare).strike(slow.always());
    }
    let cut = Cut::After(Aim {
        from: LABEL_A,
        to: ZONES_START,
        writes: 1 + world.rng.below(60),
        ios: world.rng.below(30),
    });
    world.fail_member_cut(victim, Cut::Never);
    world.wait_for_sync_cut(cut);
    world.crash(Crash::Power);
    for spare in spares {
        world.disk(spare).heal();
    }
    come_back(world);
    world.wait_for_sync();
    lose_what_may_be(world);
}

fn successors(world: &mut World) {
    restart(world);
    world.load(20);
    let mut stay = world.members();
    let left = world.array().status().redundancy_left;
    for _ in 0..2 {
        let at = usize_of(world.rng.below(u64_of(stay.len())));
        if stay.len() > 1 || left == 0 {
            let old = stay.swap_remove(at.min(stay.len() - 1));
            world.replace(old);
        }
    }
    let cut = Cut::After(Aim {
        from: LABEL_A,
        to: ZONES_START,
        writes: 1 + world.rng.below(60),
        ios: world.rng.below(60),
    });
    world.load_cut(500, Mix::Any, cut);
    let crash = any_crash(world);
    world.crash(crash);
    let goes = left > 0 && !stay.is_empty() && world.rng.one_in(2);
    let gone: Vec<usize> = stay.into_iter().take(usize::from(goes)).collect();
    let present = world.without(&gone);
    if let Err(error) = world.start_with(&present) {
        panic!("start after {crash:?}, without {gone:?}: {error}");
    }
    world.check();
    world.wait_for_sync();
    world.check();
}

fn lost_pages(world: &mut World) {
    let victim = world.any_member();
    let kinds = [ZoneKind::Checksums, ZoneKind::Maps, ZoneKind::Journal];
    let at = usize_of(world.rng.below(u64_of(kinds.len())));
    let zone = world.zone(
        victim,
        kinds.get(at).copied().unwrap_or(ZoneKind::Checksums),
    );
    let lose = Strike::new(On::Write, Effect::Lose).within(zone);
    let after = world.rng.below(4);
    let times = 1 + world.rng.below(6);
    world.load(60);
    world.disk(victim).strike(lose.after(after).times(times));
    world.load(60);
    restart(world);
    world.check();
    world.make_whole();
    restart(world);
}

fn stray_pages(world: &mut World) {
    let victim = world.any_member();
    let zone = world.zone(victim, ZoneKind::Checksums);
    world.load(60);
    // Both volumes have pages by then.
    world.write_all();
    restart(world);
    let used = world.disk(victim).stored(zone.start, zone.end - zone.start);
    for _ in 0..2 {
        let at = usize_of(world.rng.below(u64_of(used.len().max(1))));
        if let Some(to) = used.get(at) {
            let astray = Strike::new(On::Write, Effect::Misdirect(*to)).within(zone.clone());
            world.disk(victim).strike(astray.after(world.rng.below(3)));
        }
    }
    world.load(60);
    restart(world);
    world.check();
    world.make_whole();
    restart(world);
}

fn rotten_rows(world: &mut World) {
    if !world.shape.integrity {
        return;
    }
    world.write_all();
    let ios = 20 + world.rng.below(200);
    world.load_cut(100, Mix::Rows, Cut::Ios(ios));
    let victim = world.any_member();
    world.crash(Crash::Power);
    for _ in 0..6 {
        let at = somewhere(world, victim) + world.rng.below(512);
        rot(world, victim, at);
        world.spoilt += 1;
    }
    come_back(world);
    world.check();
    // Rot in parity would be one fault too many beside the next.
    world.make_whole();
}

fn reuse(world: &mut World) {
    world.write_all();
    restart(world);
    let ios = 1 + world.rng.below(150);
    world.load_cut(100, Mix::Churn, Cut::Ios(ios));
    world.crash(Crash::Power);
    come_back(world);
    world.check();
}

/// What the volume held is there, all of it, if it is there at all.
fn deletion(world: &mut World) {
    world.write_all();
    restart(world);
    let at = usize_of(world.rng.below(u64_of(world.volumes.len())));
    let delay = Duration::from_micros(world.rng.below(1500));
    world.delete_soon(at, delay);
    let ios = 1 + world.rng.below(250);
    world.load_cut(200, Mix::Churn, Cut::Ios(ios));
    world.crash(Crash::Power);
    come_back(world);
    world.check();
    if world.volumes.len() < VOLUMES {
        world.add_volume();
    }
}

fn spoilt_rings(world: &mut World) {
    world.load(60);
    world.sleep(ALL_TRIMMED_AFTER);
    let old = if world.array().status().clean {
        ring_pages(world)
    } else {
        Vec::new()
    };
    let left = u64_of(world.array().status().redundancy_left);
    let ios = 100 + world.rng.below(400);
    world.load_cut(60, Mix::Any, Cut::Ios(ios));
    let mut gone = world.members();
    let crash = any_crash(world);
    world.crash(crash);
    for (disk, page, bytes) in old {
        // Where something newer lies by now the place isn't free.
        if world.disk(disk).peek(page, usize_of(BLOCK)) == bytes {
            let at = page + world.rng.below(BLOCK);
            rot(world, disk, at);
        }
    }
    let count = usize_of(world.rng.below(left + 1));
    while gone.len() > count {
        let at = usize_of(world.rng.below(u64_of(gone.len())));
        gone.swap_remove(at);
    }
    let present = world.without(&gone);
    if let Err(error) = world.start_with(&present) {
        panic!("start without {gone:?}: {error}");
    }
    world.check();
}

fn slow_flush(world: &mut World) {
    world.load_cut(20, Mix::Parts, Cut::Never);
    let left = world.array().status().redundancy_left;
    let mut members = world.members();
    let mut slow = Vec::new();
    for _ in 0..=world.rng.below(u64_of(left)) {
        let at = usize_of(world.rng.below(u64_of(members.len())));
        slow.push(members.swap_remove(at));
    }
    // One that answers again in time stays, and goes on with what it has got late.
    for &disk in &slow {
        let on = if world.rng.one_in(2) {
            On::Flush
        } else {
            On::Any
        };
        let answers_after = Duration::from_secs(2 + world.rng.below(10));
        let hang = Effect::Hang(world.rng.one_in(3).then_some(answers_after));
        let after = world.rng.below(12);
        world
            .disk(disk)
            .strike(Strike::new(on, hang).after(after).always());
    }
    let ios = 1 + world.rng.below(300);
    world.load_cut(60, Mix::Parts, Cut::Ios(ios));
    // Some may have been thrown out meanwhile.
    let left = left.min(world.array().status().redundancy_left);
    let mut still = world.members();
    let all_are_in = still.len() == slow.len() + members.len();
    world.crash(Crash::Power);
    for &disk in &slow {
        world.disk(disk).heal();
    }
    let mut gone = Vec::new();
    while gone.len() < left {
        let at = usize_of(world.rng.below(u64_of(still.len())));
        gone.push(still.swap_remove(at));
    }
    let present = world.without(&gone);
    if let Err(error) = world.start_with(&present) {
        assert!(!all_are_in, "start without {gone:?}: {error}");
        // One that was thrown out as well is one too many.
        come_back(world);
    }
    world.check();
}

/// What the member is given while the flushes of another take long is in its cache alone when its map is written.
fn catch_up(world: &mut World) {
    let victim = world.any_member();
    world.disk(victim).vanish(false);
    world.until_noticed(victim);
    world.load_cut(30, Mix::Rows, Cut::Never);
    world.disk(victim).come_back();
    let times = 20 + u32::try_from(world.rng.below(200)).unwrap_or(0);
    let slow = world.any_member();
    if world.is_out(victim) {
        let flushes = Strike::new(On::Flush, Effect::Slow(times)).always();
        world.disk(slow).strike(flushes);
        world.add_spare(victim);
    }
    let ios = 1 + world.rng.below(600);
    world.load_cut(100, Mix::Any, Cut::Ios(ios));
    world.crash(Crash::Power);
    world.disk(slow).heal();
    come_back(world);
    world.wait_for_sync();
    world.check();
    lose_what_may_be(world);
}

/// Some pages of every ring, with what they hold: never zeros alone, since new records hold those too and
/// then nothing would tell the old page from the new one.
fn ring_pages(world: &mut World) -> Vec<(usize, u64, Vec<u8>)> {
    let mut pages = Vec::new();
    for disk in world.members().into_iter().chain(world.rings()) {
        let zone = world.zone(disk, ZoneKind::Journal);
        let first = zone.start + HEADERS;
        let mut stored = world.disk(disk).stored(first, zone.end - first);
        for _ in 0..ROTTEN_PAGES.min(stored.len()) {
            let at = usize_of(world.rng.below(u64_of(stored.len())));
            let page = stored.swap_remove(at);
            let bytes = world.disk(disk).peek(page, usize_of(BLOCK));
            if bytes.iter().any(|&byte| byte != 0) {
                pages.push((disk, page, bytes));
            }
        }
    }
    pages
}

/// Members go, as many as the array says may; everything is there all the same. Then they are back.
fn lose_what_may_be(world: &mut World) {
    let mut members = world.members();
    let left = world.array().status().redundancy_left;
    let mut gone = Vec::new();
    for _ in 0..left {
        let at = usize_of(world.rng.below(u64_of(members.len())));
        let victim = members.swap_remove(at);
        world.disk(victim).vanish(false);
        gone.push(victim);
    }
    world.check();
    for victim in gone {
        world.until_noticed(victim);
        world.disk(victim).heal();
        world.add_spare(victim);
    }
    world.wait_for_sync();
    world.check();
}
