//! Every row of the fault table as a function, named after its row.
//!
//! A fault *strikes* while clients run: disks are told what to do to coming operations. What follows
//! later (a disk returns, the daemon is killed, an old image is put back) happens when it *passes*. An array
//! that isn't running was cut off: what else would only follow once it runs then strikes in its start.

use std::time::Duration;

use cairn_blockdev::IoErrorKind;
use cairn_blockdev::sim::{Effect, Fault as DiskFault, Image, On, Strike};
use cairn_blockdev::units::{BLOCK, u64_of, usize_of};
use cairn_raid::layout::{LABEL_A, LABEL_B, ZONES_START, ZoneKind, label_copy};
use cairn_raid::{RaidError, Readded};

use super::history::any_crash;
use super::load::{Cut, Mix};
use super::model::Crash;
use super::states::State;
use super::world::World;

use super::faults::Fault;

/// A fault that has struck, or is about to.
pub struct Harm {
    pub(super) fault: Fault,
    /// Disks that it concerns.
    pub victims: Vec<usize>,
    pub(super) image: Option<Image>,
    /// What isn't counted by a disk and came about.
    pub came: u64,
    /// Of that, what came while the array was in the state that is asked for.
    pub came_in_state: u64,
    state: Option<State>,
    /// It has passed already: nothing is to follow.
    has_passed: bool,
}

/// A disk that hangs is out after this long.
pub(super) const EJECTED_AFTER: Duration = Duration::from_mins(1);
/// A read takes no longer, whatever hangs (fault D4). Most take 2 s; one that has to be solved in a row
/// that is on its way to a hung disk waits for the ejection.
const READ_MAX: Duration = Duration::from_secs(31);
/// How soon: the strike hits one of the next so many operations.
pub(super) const SOON: u64 = 30;
/// A start that is cut off comes so far at most: few take less.
const START_IOS: u64 = 150;

impl Harm {
    /// The fault strikes: from now on, while clients run.
    pub fn strike(world: &mut World, fault: Fault) -> Self {
        Self::strike_in(world, fault, None)
    }

    /// The same; what comes while the array is in a state is counted for it.
    pub fn strike_in(world: &mut World, fault: Fault, state: Option<State>) -> Self {
        let mut harm = Self {
            fault,
            victims: Vec::new(),
            image: None,
            came: 0,
            came_in_state: 0,
            state,
            has_passed: false,
        };
        if !world.is_running() && harm.strikes_the_start(world) {
            return harm;
        }
        if fault.plan().rings > 0 {
            harm.strike_ring(world);
            return harm;
        }
        match fault {
            Fault::D1ReadFails => harm.d1_a_read_fails(world),
            Fault::D1BadSectors => harm.d1_bad_sectors(world),
            Fault::D2WriteFails | Fault::D2WriteFailsAndCrash => harm.d2_a_write_fails(world),
            // What a failed flush lost may be read before the disk is out: a checksum has to tell.
            Fault::D3FlushFailsOnce if world.shape.integrity => {
                // Within redundancy nobody is to notice.
                world.rules.cache_lost.set(world.rules.errors_allowed.get());
                harm.d3_a_flush_fails(world, Effect::FailAndLoseCache, 1);
            }
            Fault::D3FlushFailsOnce => {
                harm.d3_a_flush_fails(world, Effect::Fail(IoErrorKind::Medium), 1);
            }
            Fault::D3FlushFailsAlways => {
                harm.d3_a_flush_fails(world, Effect::Fail(IoErrorKind::Medium), u64::MAX);
            }
            Fault::D4Hangs => harm.d4_a_disk_hangs(world, On::Any),
            Fault::D4Slow => harm.d4_a_disk_is_slow(world),
            Fault::D6LostWrite => harm.d6_lost_writes(world),
            Fault::D6LostMetaWrite => harm.d6_a_lost_meta_write(world),
            Fault::D7MisdirectedWrite => harm.d7_misdirected_writes(world),
            Fault::D7MisdirectedPage => harm.d7_misdirected_pages(world),
            Fault::D8RotInData => harm.d8_rot_in_data(world),
            Fault::D8RotInLabel => harm.d8_rot_in_a_label(world),
            Fault::D8RotInZones => harm.d8_rot_in_zones(world),
            Fault::D9VanishesAndReturns | Fault::D9CaughtUp => harm.vanish(world, 1, false),
            Fault::D11Full => harm.d11_full(world),
            Fault::D12CacheLost => harm.vanish(world, 1, true),
            Fault::D13LateWrite => harm.d4_a_disk_hangs(world, On::Write),
            Fault::A2TwoAtOnce => harm.vanish(world, 2, false),
            Fault::A2ThreeAtOnce => harm.vanish(world, 3, false),
            Fault::A3CrashInRebuild => harm.a3_a_rebuild_begins(world),
            Fault::A4SpareFailsToo => harm.a4_the_spare_fails_too(world),
            Fault::A5LatentInRebuild => harm.a5_bad_sectors_in_a_rebuild(world),
            Fault::A10OlderImage => harm.a10_an_image_is_kept(world),
            Fault::H3ClockJump => harm.h3_the_clock_jumps(world),
            // The others come about when they pass.
            _ => {}
        }
        harm
    }

    /// What follows, after clients have run with it for a while. The array runs or was refused.
    pub fn pass(&mut self, world: &mut World) {
        if self.has_passed {
            return;
        }
        match self.fault {
            Fault::D2WriteFailsAndCrash => self.crash(world, Crash::Kill, &[]),
            Fault::D5TornWrite | Fault::H2PowerLoss => self.cut_off(world, Crash::Power),
            Fault::H1Kill | Fault::A1CrashMidStripe | Fault::A3CrashInRebuild => {
                self.cut_off(world, Crash::Kill);
            }
            Fault::A8CrashAndMemberGone => self.a8_crash_and_a_member_gone(world),
            Fault::A9TrimReuseCrash => self.a9_trim_reuse_crash(world),
            Fault::A10OlderImage => self.a10_the_image_is_put_back(world),
            Fault::A7LabelsCorrupt => self.a7_labels_are_corrupt(world),
            Fault::D8RotInLabel => restart(world),
            Fault::D10OrderAndClone => self.d10_other_order_and_a_clone(world),
            Fault::D9VanishesAndReturns | Fault::D12CacheLost => self.d9_it_returns(world),
            Fault::D9CaughtUp => self.d9_only_what_changed_is_copied(world),
            Fault::D4Hangs | Fault::D13LateWrite => self.d13_it_answers_at_last(world),
            _ => self.pass_ring(world),
        }
    }

    /// Whether the array is in the state that is asked for, if one is.
    fn holds(&self, world: &World) -> bool {
        self.state.is_none_or(|state| state.holds(world))
    }

    /// Clients that were left running make the state again, if they are what makes it.
    fn wait_for_state(&self, world: &World) {
        if let Some(state) = self.state {
            state.once_more(world);
        }
    }

    /// Something came about that no disk counts. `held`: the array was in the state just before.
    fn comes(&mut self, held: bool) {
        self.came += 1;
        self.came_in_state += u64::from(held);
    }

    fn victim(&mut self, world: &mut World) -> usize {
        let victim = world.any_member();
        self.victims.push(victim);
        victim
    }

    fn d1_a_read_fails(&mut self, world: &mut World) {
        let victim = self.victim(world);
        let k = world.rng.below(SOON);
        let fail = Strike::new(On::Read, Effect::Fail(IoErrorKind::Medium));
        let rows = world.rows_on_disk(victim);
        world.disk(victim).strike(fail.after(k).within(rows));
    }

    fn d1_bad_sectors(&mut self, world: &mut World) {
        let victim = self.victim(world);
        // Many, for what is written before it is read heals.
        for _ in 0..world.shape.rows * 4 {
            let offset = somewhere(world, victim);
            let bad = DiskFault::BadRange { offset, len: 512 };
            world.disk(victim).inject(bad);
            world.spoilt += 1;
        }
    }

    fn d2_a_write_fails(&mut self, world: &mut World) {
        let victim = self.victim(world);
        let k = world.rng.below(SOON);
        let fail = Strike::new(On::Write, Effect::Fail(IoErrorKind::Medium));
        world.disk(victim).strike(fail.after(k));
    }

    fn d3_a_flush_fails(&mut self, world: &mut World, effect: Effect, times: u64) {
        let victim = self.victim(world);
        let k = world.rng.below(3);
        let fail = Strike::new(On::Flush, effect);
        world.disk(victim).strike(fail.after(k).times(times));
    }

    fn d4_a_disk_hangs(&mut self, world: &mut World, on: On) {
        let victim = self.victim(world);
        let k = world.rng.below(SOON);
        let hang = Strike::new(on, Effect::Hang(None));
        world.rules.longest_read.set(Duration::ZERO);
        world.disk(victim).strike(hang.after(k).always());
    }

    fn d4_a_disk_is_slow(&mut self, world: &mut World) {
        let victim = self.victim(world);
        let slow = Strike::new(On::Any, Effect::Slow(400));
        world.disk(victim).strike(slow.times(100));
    }

    fn d6_lost_writes(&mut self, world: &mut World) {
        let victim = self.victim(world);
        let k = world.rng.below(SOON);
        let rows = world.rows_on_disk(victim);
        let lose = Strike::new(On::Write, Effect::Lose).after(k).times(3);
        world.disk(victim).strike(lose.within(rows));
        world.spoilt += 3 * chunk_blocks(world);
    }

    fn d6_a_lost_meta_write(&mut self, world: &mut World) {
        let victim = self.victim(world);
        let zones = LABEL_A..world.data_offset(victim);
        let k = world.rng.below(4);
        let lose = Strike::new(On::Write, Effect::Lose).after(k);
        world.disk(victim).strike(lose.within(zones));
    }

    fn d7_misdirected_writes(&mut self, world: &mut World) {
        let victim = self.victim(world);
        let rows = world.rows_on_disk(victim);
        for _ in 0..2 {
            let k = world.rng.below(SOON);
            let to = somewhere(world, victim) / BLOCK * BLOCK;
            let astray = Strike::new(On::Write, Effect::Misdirect(to)).after(k);
            world.disk(victim).strike(astray.within(rows.clone()));
            // Where it should be, and where it is.
            world.spoilt += 2 * chunk_blocks(world);
        }
    }

    /// Checksum pages come to the places of other pages of the same disk.
    fn d7_misdirected_pages(&mut self, world: &mut World) {
        let victim = self.victim(world);
        let zone = world.zone(victim, ZoneKind::Checksums);
        let used = world.disk(victim).stored(zone.start, zone.end - zone.start);
        for _ in 0..3 {
            let at = usize_of(world.rng.below(u64_of(used.len().max(1))));
            // Behind the zone's header.
            let to = used.get(at).copied().unwrap_or(0).max(zone.start + BLOCK);
            let k = world.rng.below(4);
            let astray = Strike::new(On::Write, Effect::Misdirect(to)).after(k);
            world.disk(victim).strike(astray.within(zone.clone()));
        }
    }

    fn d8_rot_in_data(&mut self, world: &mut World) {
        let victim = self.victim(world);
        for _ in 0..4 {
            let at = somewhere(world, victim) + world.rng.below(512);
            rot(world, victim, at);
            world.spoilt += 1;
        }
    }

    fn d8_rot_in_a_label(&mut self, world: &mut World) {
        let victim = self.victim(world);
        let size = world.size(victim);
        let places = [LABEL_A, LABEL_B, label_copy(size)];
        let at = usize_of(world.rng.below(u64_of(places.len())));
        let place = places.get(at).copied().unwrap_or(LABEL_A);
        let at = place + world.rng.below(BLOCK);
        rot(world, victim, at);
    }

    fn d8_rot_in_zones(&mut self, world: &mut World) {
        let victim = self.victim(world);
        let data = world.data_offset(victim);
        let used = world.disk(victim).stored(ZONES_START, data - ZONES_START);
        for _ in 0..4 {
            let at = usize_of(world.rng.below(u64_of(used.len())));
            if let Some(page) = used.get(at) {
                let at = page + world.rng.below(BLOCK);
                rot(world, victim, at);
            }
        }
    }

    fn vanish(&mut self, world: &mut World, count: usize, lose_cache: bool) {
        for _ in 0..count {
            let free: Vec<usize> = world
                .members()
                .into_iter()
                .filter(|member| !self.victims.contains(member))
                .collect();
            let at = usize_of(world.rng.below(u64_of(free.len())));
            if let Some(victim) = free.get(at) {
                self.victims.push(*victim);
                world.disk(*victim).vanish(lose_cache);
            }
        }
    }

    /// What is left of it is taken back. What vanished is noticed first: a handle to it stays dead.
    pub fn is_over(&self, world: &mut World) {
        if self.fault.plan().rings > 0 {
            return self.ring_is_over(world);
        }
        for victim in &self.victims {
            if world.disk(*victim).is_gone() {
                world.until_noticed(*victim);
            }
            world.disk(*victim).heal();
        }
    }

    /// It is back: as a spare of the running array, or at the next start.
    fn d9_it_returns(&mut self, world: &mut World) {
        for victim in self.victims.clone() {
            world.until_noticed(victim);
            world.disk(victim).come_back();
            if world.is_running() && world.is_out(victim) && world.rng.one_in(2) {
                world.add_spare(victim);
                world.wait_for_sync();
            }
        }
    }

    /// A few rows change while it is away: when it is back, only these are what it lacks.
    fn d9_only_what_changed_is_copied(&mut self, world: &mut World) {
        let Some(&victim) = self.victims.first() else {
            return;
        };
        world.until_noticed(victim);
        if world.rules.errors_allowed.get() {
            return;
        }
        // Back and caught up for the first time: whatever changed until now.
        world.disk(victim).come_back();
        world.add_spare(victim);
        world.wait_for_sync();
        if world.is_out(victim) {
            // Something else took its slot meanwhile.
            return;
        }
        // Clients of the state that go on would change more than is counted here.
        world.hush();
        let array = world.array();
        if let Err(error) = world.run(async move { array.drain().await }) {
            panic!("drained: {error}");
        }
        // The journal forgets in the cycle after.
        world.sleep(Duration::from_secs(1));
        world.disk(victim).vanish(false);
        world.notice_by_flush(victim);
        let changed = 4;
        world.load(changed);
        world.disk(victim).come_back();
        let array = world.array();
        let member = world.member(victim);
        let back = world.run(async move { array.readd_member(member).await });
        let most = world.shape.rows;
        match back {
            Ok(Readded::CatchingUp { rows }) => assert!(
                rows < most,
                "{rows} rows of {} copied after {changed} operations",
                2 * most
            ),
            other => panic!("a member that was away for {changed} operations: {other:?}"),
        }
        world.wait_for_sync();
    }

    fn d10_other_order_and_a_clone(&mut self, world: &mut World) {
        let held = self.holds(world);
        if world.is_running() && !world.stop() {
            return;
        }
        let count = world.disks.len();
        let mut order: Vec<usize> = (0..count).collect();
        for i in (1..count).rev() {
            order.swap(i, usize_of(world.rng.below(u64_of(i + 1))));
        }
        let original = world.any_member();
        let clone = world.clone_of(original);
        let disks = order.iter().map(|&i| world.member(i));
        let refused = world.start_from(disks.chain([clone]).collect());
        assert!(
            matches!(refused, Err(RaidError::Cloned { .. })),
            "a clone of a member wasn't refused: {refused:?}"
        );
        self.comes(held);
        allow_refusal(world, |world| world.start_with(&order));
        world.check();
    }

    /// All space is used; then a disk goes, and its rebuild needs none.
    fn d11_full(&mut self, world: &mut World) {
        world.rules.full_allowed.set(true);
        if world.is_running() {
            let held = self.holds(world);
            world.fill_up();
            self.comes(held);
        }
        self.vanish(world, 1, false);
    }

    /// Ejected or not by now: its operations complete, and whatever they carried is of no consequence.
    fn d13_it_answers_at_last(&mut self, world: &mut World) {
        world.load(60);
        let mut hung = self.victims.clone();
        hung.retain(|victim| world.disk(*victim).hung() > 0);
        world.sleep(EJECTED_AFTER);
        world.load(60);
        if !world.rules.errors_allowed.get() {
            let longest = world.rules.longest_read.get();
            assert!(longest <= READ_MAX, "a read took {longest:?}");
            for victim in hung {
                assert!(world.is_out(victim), "a disk that hangs stays a member");
            }
        }
        for victim in self.victims.clone() {
            if world.is_running() && world.is_out(victim) && world.disk(victim).hung() > 0 {
                // While an old operation is on its way it must not come back.
                let early = world.try_add_spare(victim);
                assert!(
                    early.is_err(),
                    "re-added while its old operations are on their way"
                );
            }
            world.disk(victim).heal();
        }
        world.sleep(Duration::from_secs(1));
    }

    fn a3_a_rebuild_begins(&mut self, world: &mut World) {
        self.vanish(world, 1, false);
        if world.is_running() {
            world.add_blank_spare(1);
        }
    }

    fn a4_the_spare_fails_too(&mut self, world: &mut World) {
        if !world.is_running() {
            return self.vanish(world, 1, false);
        }
        for _ in 0..2 {
            let Some(spare) = world.add_blank_spare(3) else {
                continue;
            };
            if self.victims.is_empty() {
                let k = world.rng.below(SOON);
                let rows = world.rows_on_disk(spare);
                let fail = Strike::new(On::Write, Effect::Fail(IoErrorKind::Medium));
                world.disk(spare).strike(fail.after(k).within(rows));
                self.victims.push(spare);
            }
        }
        self.vanish(world, 1, false);
    }

    /// Bad sectors on all survivors, each in a row of its own, and a disk to be rebuilt.
    fn a5_bad_sectors_in_a_rebuild(&mut self, world: &mut World) {
        self.vanish(world, 1, false);
        let chunk = u64::from(world.shape.chunk_bytes);
        let survivors: Vec<usize> = world
            .members()
            .into_iter()
            .filter(|member| !self.victims.contains(member))
            .collect();
        // In every row: what is written before it is read heals.
        for (row, survivor) in (0..world.shape.rows).zip(survivors.iter().cycle()) {
            let offset = world.rows_on_disk(*survivor).start + row * chunk;
            let bad = DiskFault::BadRange { offset, len: 512 };
            world.disk(*survivor).inject(bad);
        }
        if world.is_running() {
            world.add_blank_spare(1);
        }
    }

    /// Any two of the three places of a label, on every disk.
    fn a7_labels_are_corrupt(&mut self, world: &mut World) {
        let held = self.holds(world);
        if world.is_running() && !world.stop() {
            return;
        }
        for disk in 0..world.disks.len() {
            let mut places = vec![LABEL_A, LABEL_B, label_copy(world.size(disk))];
            places.swap_remove(usize_of(world.rng.below(3)));
            for place in places {
                let at = place + world.rng.below(64);
                world.disk(disk).rot(at, 3);
            }
        }
        self.comes(held);
        allow_refusal(world, World::start);
        world.check();
    }

    fn a8_crash_and_a_member_gone(&mut self, world: &mut World) {
        let victim = self.victim(world);
        let ios = 1 + world.rng.below(600);
        world.load_cut(100, Mix::Any, Cut::Ios(ios));
        self.wait_for_state(world);
        let crash = if world.rng.one_in(2) {
            Crash::Kill
        } else {
            Crash::Power
        };
        self.crash(world, crash, &[victim]);
    }

    /// Volumes go and others take their extents, and that is cut off anywhere.
    fn a9_trim_reuse_crash(&mut self, world: &mut World) {
        let ios = 1 + world.rng.below(80);
        world.change_volumes_cut(ios);
        let crash = if world.rng.one_in(2) {
            Crash::Kill
        } else {
            Crash::Power
        };
        self.crash(world, crash, &[]);
        if world.is_running() {
            world.add_volume();
        }
    }

    fn a10_an_image_is_kept(&mut self, world: &mut World) {
        let victim = self.victim(world);
        self.image = Some(world.disk(victim).image());
    }

    /// The older image is put back, but for its labels, which are today's.
    fn a10_the_image_is_put_back(&mut self, world: &mut World) {
        let held = self.holds(world);
        if world.stop() {
            self.put_the_image_back(world, held);
            allow_refusal(world, World::start);
            world.check();
        }
    }

    fn put_the_image_back(&mut self, world: &World, held: bool) {
        let (Some(image), Some(&victim)) = (self.image.take(), self.victims.first()) else {
            return;
        };
        let disk = world.disk(victim);
        let places = [LABEL_A, LABEL_B, label_copy(world.size(victim))];
        let labels = places.map(|place| disk.peek(place, usize_of(BLOCK)));
        disk.set_image(&image);
        for (place, label) in places.into_iter().zip(labels) {
            disk.poke(place, &label);
        }
        self.comes(held);
    }

    fn h3_the_clock_jumps(&mut self, world: &mut World) {
        const YEAR_MS: i64 = 365 * 24 * 3600 * 1000;
        let forth = world.rng.one_in(2);
        world.jump_wall_clock(if forth { YEAR_MS } else { -YEAR_MS });
        self.comes(self.holds(world));
    }

    /// Clients are cut off at some I/O.
    pub(super) fn cut_off(&mut self, world: &mut World, crash: Crash) {
        if world.is_running() {
            let ios = 1 + world.rng.below(800);
            world.load_cut(120, Mix::Any, Cut::Ios(ios));
            self.wait_for_state(world);
        }
        self.crash(world, crash, &[]);
    }

    fn crash(&mut self, world: &mut World, crash: Crash, gone: &[usize]) {
        self.fall(world, crash);
        let present = world.without(gone);
        allow_refusal(world, |world| world.start_with(&present));
        world.check();
    }

    /// The host falls, and isn't started yet.
    fn fall(&mut self, world: &mut World, crash: Crash) {
        let held = self.holds(world);
        let torn = world.struck().torn_writes;
        world.crash(crash);
        let torn = world.struck().torn_writes - torn;
        // Torn writes come with most power cuts, not with all.
        if self.fault != Fault::D5TornWrite || torn > 0 {
            self.comes(held);
        }
    }

    /// Strikes an array that was cut off and isn't started yet, where what [`Harm::pass`] does would come
    /// too late for its start. False: what strikes anyway does so in the start.
    fn strikes_the_start(&mut self, world: &mut World) -> bool {
        match self.fault {
            Fault::D5TornWrite | Fault::H2PowerLoss => self.the_start_is_cut(world, Crash::Power),
            Fault::H1Kill | Fault::A1CrashMidStripe => self.the_start_is_cut(world, Crash::Kill),
            Fault::A7LabelsCorrupt => {
                self.a7_labels_are_corrupt(world);
                self.has_passed = true;
            }
            Fault::D10OrderAndClone => {
                self.d10_other_order_and_a_clone(world);
                self.has_passed = true;
            }
            Fault::A8CrashAndMemberGone => {
                let victim = self.victim(world);
                let crash = any_crash(world);
                self.the_start_is_cut(world, crash);
                if !world.is_running() {
                    let present = world.without(&[victim]);
                    allow_refusal(world, |world| world.start_with(&present));
                    world.check();
                    self.has_passed = true;
                }
            }
            Fault::A9TrimReuseCrash => {
                // It runs once more, so that there are trims to be replayed.
                allow_refusal(world, World::start);
                world.check();
                let ios = 1 + world.rng.below(80);
                world.change_volumes_cut(ios);
                let crash = any_crash(world);
                world.crash(crash);
                self.the_start_is_cut(world, Crash::Kill);
            }
            Fault::A10OlderImage => {
                self.a10_an_image_is_kept(world);
                self.an_older_image_meets_a_replay(world);
            }
            Fault::RingOlderImage => {
                let rings = some_of(world, world.rings(), 1);
                self.image = rings.first().map(|ring| world.disk(*ring).image());
                self.victims = rings;
                self.an_older_image_meets_a_replay(world);
            }
            Fault::D11Full => {
                allow_refusal(world, World::start);
                world.check();
                world.rules.full_allowed.set(true);
                world.fill_up();
                cut_soon(world);
                self.vanish(world, 1, false);
            }
            Fault::RingsGoneInCrash => {
                let gone = some_of(world, world.rings(), world.shape.redundancy());
                self.comes(self.holds(world));
                let present = world.without(&gone);
                allow_refusal(world, |world| world.start_with(&present));
                world.check();
                self.has_passed = true;
            }
            Fault::RingsTooManyGone => {
                let gone = some_of(world, world.rings(), world.shape.redundancy() + 1);
                let present = world.without(&gone);
                let refused = world.start_with(&present);
                assert!(
                    refused.is_err(),
                    "started after a crash without {gone:?}, which may have had what was acked"
                );
                self.comes(self.holds(world));
                self.has_passed = true;
            }
            _ => return false,
        }
        true
    }

    /// The start of an array that was cut off is cut off as well, unless it is over before.
    fn the_start_is_cut(&mut self, world: &mut World, crash: Crash) {
        let ios = 1 + world.rng.below(START_IOS);
        if world.start_cut_after(ios, &world.without(&[])) {
            self.fall(world, crash);
        } else {
            world.check();
        }
    }

    /// The array runs for a while after an image was kept, is cut off again, and finds the image.
    fn an_older_image_meets_a_replay(&mut self, world: &mut World) {
        allow_refusal(world, World::start);
        world.check();
        world.load(60);
        cut_soon(world);
        self.put_the_image_back(world, self.holds(world));
        self.has_passed = true;
    }
}

/// Clients are cut off soon.
fn cut_soon(world: &mut World) {
    let ios = 1 + world.rng.below(400);
    world.load_cut(200, Mix::Any, Cut::Ios(ios));
    let crash = any_crash(world);
    world.crash(crash);
}

/// So many of these disks, by chance.
fn some_of(world: &mut World, mut disks: Vec<usize>, count: usize) -> Vec<usize> {
    while disks.len() > count {
        let at = usize_of(world.rng.below(u64_of(disks.len())));
        disks.swap_remove(at);
    }
    disks
}

/// Clean stop, start, check.
pub fn restart(world: &mut World) {
    if world.is_running() && world.stop() {
        allow_refusal(world, World::start);
        world.check();
    }
}

/// A start that may be refused if errors may be had at all.
pub fn allow_refusal(world: &mut World, start: impl FnOnce(&mut World) -> Result<(), RaidError>) {
    if let Err(error) = start(world) {
        assert!(
            world.rules.errors_allowed.get(),
            "it isn't started: {error}; the array told: {:#?}",
            world.told()
        );
    }
}

/// The most that one write to a row spoils.
fn chunk_blocks(world: &World) -> usize {
    usize_of(u64::from(world.shape.chunk_bytes) / BLOCK)
}

/// A sector among the rows of a disk.
pub(super) fn somewhere(world: &mut World, disk: usize) -> u64 {
    let rows = world.rows_on_disk(disk);
    rows.start + world.rng.below((rows.end - rows.start) / 512) * 512
}

pub(super) fn rot(world: &mut World, disk: usize, at: u64) {
    let bit = u8::try_from(world.rng.below(8)).unwrap_or(0);
    world.disk(disk).rot(at, bit);
}
