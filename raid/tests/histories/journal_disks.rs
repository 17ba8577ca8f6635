//! The journal on disks of its own: cut off anywhere, without up to R of them and up to R members; disks
//! that fail, hang, are replaced or are older images of themselves.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use cairn_blockdev::sim::{Effect, On, Rng, SimDiskConfig, Strike};
use cairn_blockdev::{BlockDevice, IoErrorKind};
use cairn_raid::layout::{LABEL_A, ZONES_START};
use cairn_raid::{
    Array, ArrayState, CreateSpec, Level, MemberDisk, MemberState, NewDisks, RaidError, create_with,
};

use crate::disk::TestDisk;
use crate::model::{Crash, Model};
use crate::races::Bench;
use crate::region::{Region, check_all};
use crate::world::{HOST, Shape, World};

/// Rows so long that nothing that clients write covers one: the one exception to what is promised when a
/// crash takes a member isn't looked at here.
fn shape(level: Level, members: usize, journal_disks: usize) -> Shape {
    Shape::new(level, members, 0, 64 << 10).with_journal_disks(journal_disks)
}

fn bench(seed: u64, level: Level, members: usize, journal_disks: usize) -> Bench {
    Bench::shaped(seed, shape(level, members, journal_disks))
}

/// Every choice of at most `most` of `items`.
fn choices(items: &[usize], most: usize) -> Vec<Vec<usize>> {
    let mut all = vec![Vec::new()];
    for item in items {
        let with: Vec<Vec<usize>> = all
            .iter()
            .filter(|chosen| chosen.len() < most)
            .map(|chosen| chosen.iter().copied().chain([*item]).collect())
            .collect();
        all.extend(with);
    }
    all
}

fn all_but(world: &World, gone: &[usize]) -> Vec<usize> {
    let mut here = world.all();
    here.retain(|disk| !gone.contains(disk));
    here
}

/// Clients with a part of the volume each, for so many operations.
async fn clients(bench: Vec<Region>, steps: usize) {
    let run = bench.into_iter().map(|mut client| async move {
        for _ in 0..steps {
            client.step().await.unwrap();
        }
    });
    futures_util::future::join_all(run).await;
}

impl Bench {
    fn regions(&self, seed: u64) -> Vec<Region> {
        let parts = [0..61, 61..128, 128..256];
        let with_rng = |(i, part): (u64, _)| Region {
            rng: Rng::new(seed ^ (i << 40)),
            ..self.client(part)
        };
        (0..).zip(parts).map(with_rng).collect()
    }

    /// What is left of a bench after a crash.
    fn crashed(mut self, crash: Crash) -> (World, Rc<RefCell<Model>>) {
        drop((self.array, self.volume));
        self.world.crash(crash);
        (self.world, self.model)
    }

    fn on_members(&self) -> bool {
        self.array.status().journal.unwrap().on_members
    }

    fn wait_until_drained(&self) {
        self.world
            .run_till("drained", || !self.array.status().journal.unwrap().draining);
    }

    fn journal_zone_written(&self, disk: usize) -> u64 {
        let zone = ZONES_START + 16384..ZONES_START + (16 << 20);
        self.world.disks[disk].written_in(zone)
    }
}

fn back(
    (world, model): (World, Rc<RefCell<Model>>),
    array: Rc<Array>,
    crash: Crash,
    what: &str,
) -> Bench {
    let volume = array.open_volume("v").unwrap();
    world.run(check_all(&volume, &model, Some(crash), what));
    Bench {
        world,
        array,
        volume,
        model,
    }
}

/// Cut off after so many polls, started again without some disks, told on and audited.
fn cut(seed: u64, shape: Shape, polls: u64, crash: Crash, gone: &[usize]) -> bool {
    let what = format!("seed {seed}, {shape:?}, {polls} polls, {crash:?}, without {gone:?}");
    let bench = Bench::shaped(seed, shape);
    let load = clients(bench.regions(seed), 12);
    let all_told = bench.world.sim.run_until(load, polls).is_some();
    let (world, model) = bench.crashed(crash);
    let array = world.assemble(&all_but(&world, gone), false);
    let array = array.unwrap_or_else(|error| panic!("{what}: {error}"));
    let bench = back((world, model), array, crash, &what);
    let status = bench.array.status();
    let redundancy = shape.level.redundancy(shape.members);
    let members_gone = gone.iter().filter(|disk| **disk < shape.members).count();
    assert_eq!(status.redundancy_left, redundancy - members_gone, "{what}");
    let left = shape.journal_disks + members_gone - gone.len();
    assert_eq!(bench.on_members(), left <= redundancy, "{what}");
    bench.world.run(clients(bench.regions(seed + 1), 3));
    bench
        .world
        .run(check_all(&bench.volume, &bench.model, None, &what));
    bench.world.audit(&bench.array);
    bench.world.run(bench.array.stop()).unwrap();
    !all_told
}

/// Every crash point, and at each every choice of lost journal disks, with the choices of lost members in
/// turn: all pairs come by.
fn at_every_poll(seed: u64, shape: Shape, step: usize) {
    let redundancy = shape.level.redundancy(shape.members);
    let own: Vec<usize> = (shape.members..shape.members + shape.journal_disks).collect();
    let members: Vec<usize> = (0..shape.members).collect();
    let members = choices(&members, redundancy);
    let mut turn = 0;
    for polls in (0..).step_by(step) {
        let mut was_cut = false;
        for mut gone in choices(&own, redundancy) {
            gone.extend(&members[turn % members.len()]);
            let crash = [Crash::Kill, Crash::Power][turn / members.len() % 2];
            was_cut |= cut(seed, shape, polls, crash, &gone);
            turn += 1;
        }
        if !was_cut {
            assert!(polls > 100, "the history is too short");
            return;
        }
    }
}

#[test]
fn a_mirror_keeps_its_word_whichever_journal_disks_and_members_a_crash_takes() {
    at_every_poll(51, shape(Level::Raid1, 2, 2), 3);
}

#[test]
fn raid5_keeps_its_word_whichever_journal_disks_and_members_a_crash_takes() {
    at_every_poll(52, shape(Level::Raid5, 3, 2), 3);
}

#[test]
fn raid5_with_a_journal_disk_more_keeps_its_word() {
    at_every_poll(53, shape(Level::Raid5, 4, 3), 7);
}

#[test]
fn raid6_keeps_its_word_whichever_journal_disks_and_members_a_crash_takes() {
    at_every_poll(54, shape(Level::Raid6, 4, 3), 11);
}

#[test]
fn groups_go_to_the_journal_disks_and_none_to_members() {
    let bench = bench(1, Level::Raid5, 4, 2);
    let before: Vec<u64> = (0..6)
        .map(|disk| bench.journal_zone_written(disk))
        .collect();
    bench.world.run(clients(bench.regions(3), 20));
    for (disk, before) in before.into_iter().enumerate() {
        let grown = bench.journal_zone_written(disk) > before;
        assert_eq!(grown, disk >= 4, "disk {disk}");
    }
    let status = bench.array.status();
    assert_eq!(status.state, ArrayState::Clean);
    let journal = status.journal.unwrap();
    assert_eq!(
        (journal.disks, journal.wanted, journal.on_members),
        (2, 2, false)
    );
    assert_eq!(World::in_state(&bench.array, MemberState::Journal).len(), 2);
}

/// A journal disk fails under load in the way of `strike`; R more of those that are left are lost in a
/// crash once it is drained.
fn one_fails(seed: u64, level: Level, members: usize, journal_disks: usize, strike: Strike) {
    let bench = bench(seed, level, members, journal_disks);
    let redundancy = level.redundancy(members);
    let victim = members + 1;
    bench.world.disks[victim].sim().strike(strike);
    bench.world.run(clients(bench.regions(seed), 40));
    bench.world.sleep(40_000);
    bench.world.run(clients(bench.regions(seed + 1), 10));
    let status = bench.array.status();
    assert_eq!(bench.state_of(victim), MemberState::Failed);
    assert_eq!(
        status.state,
        ArrayState::Clean,
        "it makes no array degraded"
    );
    assert_eq!(status.redundancy_left, redundancy);
    assert_eq!(bench.on_members(), journal_disks == redundancy + 1);
    assert_eq!(bench.world.host.saw("JournalOnMembers"), bench.on_members());
    bench.wait_until_drained();
    bench.world.run(clients(bench.regions(seed + 2), 10));
    let others = (members..members + journal_disks).filter(|disk| *disk != victim);
    let gone: Vec<usize> = others.take(redundancy).collect();
    let crash = if seed.is_multiple_of(2) {
        Crash::Kill
    } else {
        Crash::Power
    };
    let (world, model) = bench.crashed(crash);
    let array = world.assemble(&all_but(&world, &gone), false).unwrap();
    let bench = back((world, model), array, crash, "after a failed journal disk");
    bench.world.audit(&bench.array);
}

#[test]
fn a_journal_disk_whose_write_fails_costs_nothing_but_itself() {
    let error = Effect::Fail(cairn_blockdev::IoErrorKind::Medium);
    for seed in 0..20 {
        let strike = || Strike::new(On::Write, error).after(seed * 3).always();
        one_fails(seed, Level::Raid5, 3, 2, strike());
        one_fails(seed + 100, Level::Raid6, 4, 4, strike());
        one_fails(seed + 200, Level::Raid1, 2, 3, strike());
    }
}

#[test]
fn a_journal_disk_whose_flush_fails_is_out() {
    let error = Effect::FailAndLoseCache;
    for seed in 300..320 {
        let strike = Strike::new(On::Flush, error).after(seed % 7);
        one_fails(seed, Level::Raid5, 3, 2, strike);
    }
}

#[test]
fn a_journal_disk_that_hangs_holds_up_no_write_and_is_thrown_out() {
    for seed in 400..410 {
        let strike = Strike::new(On::Write, Effect::Hang(None)).after(seed % 7 * 5);
        one_fails(seed, Level::Raid5, 3, 2, strike.always());
        let strike = Strike::new(On::Any, Effect::Hang(None)).after(seed % 7 * 5);
        one_fails(seed, Level::Raid6, 4, 3, strike.always());
    }
}

#[test]
fn while_a_journal_disk_hangs_writes_are_acked_by_the_members() {
    let bench = bench(9, Level::Raid5, 4, 2);
    bench.world.disks[5].hang();
    let clock = Rc::clone(&bench.world.env.clock);
    let longest = Cell::new(Duration::ZERO);
    for _ in 0..20 {
        let began = clock.now();
        let client = bench.client(0..256);
        bench.world.run(client.write(8..24, false)).unwrap();
        longest.set(longest.get().max(clock.now().since(began)));
    }
    assert!(longest.get() < Duration::from_secs(4), "{longest:?}");
    assert_eq!(bench.state_of(5), MemberState::Journal, "slow, not out yet");
    // What was acked is on members alone: both journal disks may go, the one that hangs and another.
    let (world, model) = bench.crashed(Crash::Kill);
    let array = world.assemble(&all_but(&world, &[5]), false).unwrap();
    back((world, model), array, Crash::Kill, "one of them hung");
}

#[test]
fn journal_disks_that_fail_in_an_unclean_start_aren_t_done_without() {
    for (level, members, count) in [(Level::Raid5, 3, 2), (Level::Raid6, 5, 3)] {
        let bench = bench(13, level, members, count);
        bench.world.run(clients(bench.regions(1), 10));
        let client = bench.client(0..256);
        bench.world.run(async {
            client.write(100..130, false).await.unwrap();
            client.flush().await.unwrap();
        });
        drop(client);
        let (mut world, model) = bench.crashed(Crash::Power);
        // They can be read, and not written any more.
        for disk in world.journal_disks() {
            let fail = Strike::new(On::Write, Effect::Fail(IoErrorKind::Medium));
            world.disks[disk]
                .sim()
                .strike(fail.within(LABEL_A..ZONES_START).always());
        }
        let refused = world.assemble(&world.all(), false).unwrap_err();
        assert!(refused.to_string().contains("journal disks"), "{refused}");
        // Nothing was given up.
        world.crash(Crash::Power);
        let array = world.assemble_all();
        assert_eq!(array.status().journal.unwrap().disks, count);
        world.audit(&array);
        let volume = array.open_volume("v").unwrap();
        world.run(check_all(
            &volume,
            &model,
            Some(Crash::Power),
            "all are back",
        ));
    }
}

#[test]
fn all_journal_disks_lost_is_refused_after_an_unclean_stop_and_no_matter_after_a_clean_one() {
    for (level, members, count) in [(Level::Raid5, 3, 2), (Level::Raid6, 5, 3)] {
        let bench = bench(11, level, members, count);
        bench.world.run(clients(bench.regions(1), 10));
        let client = bench.client(0..256);
        bench.world.run(async {
            client.write(100..130, false).await.unwrap();
            client.flush().await.unwrap();
        });
        drop(client);
        let (world, _) = bench.crashed(Crash::Power);
        let members: Vec<usize> = (0..members).collect();
        let refused = world.assemble(&members, false).unwrap_err();
        let RaidError::NotStarted {
            reason,
            wait_may_help: true,
            force_may_help: true,
            ..
        } = refused
        else {
            panic!("{refused}");
        };
        assert!(
            reason.contains("journal disks") && reason.contains("--force"),
            "{reason}"
        );
        // The refusal changed nothing: with all of them it starts.
        let array = world.assemble_all();
        world.run(array.stop()).unwrap();
        drop(array);
        let mut world = world;
        world.crash(Crash::Power);
        let array = world.assemble(&members, false).unwrap();
        let journal = array.status().journal.unwrap();
        assert!(journal.on_members && journal.disks == 0);
        assert!(world.host.saw("JournalOnMembers"));
        world.audit(&array);
    }
}

#[test]
fn by_force_it_starts_without_its_journal_disks_and_serves() {
    for seed in 500..540 {
        let bench = bench(seed, Level::Raid5, 3, 2);
        let load = clients(bench.regions(seed), 60);
        bench.world.sim.run_until(load, 50 + seed * 37 % 900);
        let (mut world, model) = bench.crashed(Crash::Power);
        let members = [0, 1, 2];
        if world.assemble(&members, false).is_ok() {
            continue;
        }
        // Interrupted, and once more.
        world
            .sim
            .run_until(world.assemble_later(&members, true), seed * 13 % 400);
        world.crash(Crash::Kill);
        let array = match world.assemble(&members, false) {
            Ok(array) => array,
            Err(_) => world.assemble(&members, true).unwrap(),
        };
        let volume = array.open_volume("v").unwrap();
        // Whatever was lost: what is written from now on is there, also after the next crash.
        let fresh = Rc::new(RefCell::new(Model::new(
            99,
            std::slice::from_ref(&(0..256)),
        )));
        let client = Region {
            volume,
            model: Rc::clone(&fresh),
            rng: Rng::new(1),
            sectors: 0..256,
            whole: None,
            longest: 16,
        };
        world.run(async {
            client.write(0..256, false).await.unwrap();
            client.write(3..9, false).await.unwrap();
            client.flush().await.unwrap();
        });
        drop((client, array, model));
        world.crash(Crash::Power);
        let array = world.assemble(&members, false).unwrap();
        let volume = array.open_volume("v").unwrap();
        world.run(check_all(
            &volume,
            &fresh,
            Some(Crash::Power),
            "after a start by force",
        ));
    }
}

/// A journal disk vanishes, and before or after its records are in place a crash takes another: refused, or
/// nothing is lost.
#[test]
fn a_second_journal_disk_lost_before_the_first_is_drained_is_never_silent() {
    let (mut refused, mut started) = (0, 0);
    for polls in 0..400 {
        let bench = bench(600 + polls, Level::Raid5, 3, 2);
        bench.world.run(clients(bench.regions(polls), 10));
        bench.world.disks[3].vanish(true);
        let load = clients(bench.regions(polls + 1), 10);
        let clock = Rc::clone(&bench.world.env.clock);
        let load = async move {
            load.await;
            // What they wrote is put in place.
            clock.sleep(Duration::from_secs(10)).await;
        };
        bench.world.sim.run_until(load, polls * 7);
        let (world, model) = bench.crashed(Crash::Power);
        match world.assemble(&[0, 1, 2], false) {
            Ok(array) => {
                let bench = back((world, model), array, Crash::Power, &format!("{polls}"));
                bench.world.audit(&bench.array);
                started += 1;
            }
            Err(RaidError::NotStarted { force_may_help, .. }) => {
                assert!(force_may_help);
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(
        refused > 20 && started > 20,
        "{refused} refused, {started} started"
    );
}

fn new_disk(world: &World, name: &str, size: u64, seed: u64) -> TestDisk {
    let config = SimDiskConfig {
        size,
        logical_block: 512,
        latency_us_max: 100,
    };
    TestDisk::new(name, config, &world.env, seed)
}

fn as_member(disk: &TestDisk) -> MemberDisk {
    MemberDisk {
        path: disk.name(),
        device: Rc::new(disk.clone()),
    }
}

#[test]
fn a_journal_disk_is_replaced_under_load() {
    let mut bench = bench(21, Level::Raid5, 3, 2);
    let new = new_disk(&bench.world, "/dev/new", 32 << 20, 5);
    bench.world.disks.push(new.clone());
    let load = clients(bench.regions(21), 60);
    let old = bench.world.path(3);
    let replace = bench.array.replace_member(&old, as_member(&new));
    let (replaced, ()) = bench.world.run(futures_util::future::join(replace, load));
    replaced.unwrap();
    let status = bench.array.status();
    assert_eq!(status.members.len(), 5, "{:?}", status.members);
    assert!(!bench.on_members() && !status.journal.unwrap().draining);
    assert_eq!(bench.state_of(5), MemberState::Journal);
    bench.world.run(clients(bench.regions(22), 20));
    // The old one has no label any more, and one of the two may be lost.
    assert_eq!(bench.world.labelled(), [0, 1, 2, 4, 5]);
    let (world, model) = bench.crashed(Crash::Power);
    let array = world.assemble(&[0, 1, 2, 5], false).unwrap();
    back(
        (world, model),
        array,
        Crash::Power,
        "with the new one alone",
    );
}

/// Cut off anywhere in a replacement, with any one of the journal disks lost.
#[test]
fn a_replacement_cut_off_anywhere_loses_nothing() {
    for polls in (0..).step_by(9) {
        let lost = 3 + usize::try_from(polls / 9 % 3).unwrap();
        let mut bench = bench(700, Level::Raid5, 3, 2);
        let new = new_disk(&bench.world, "/dev/new", 32 << 20, polls);
        bench.world.disks.push(new.clone());
        let load = clients(bench.regions(polls), 30);
        let old = bench.world.path(3);
        let array = Rc::clone(&bench.array);
        let replace = array.replace_member(&old, as_member(&new));
        let both = futures_util::future::join(replace, load);
        let all_told = bench.world.sim.run_until(both, polls).is_some();
        drop(array);
        let (world, model) = bench.crashed(Crash::Power);
        let what = format!("{polls} polls, without {lost}");
        let array = world.assemble(&all_but(&world, &[lost]), false);
        let array = array.unwrap_or_else(|error| panic!("{what}: {error}"));
        let bench = back((world, model), array, Crash::Power, &what);
        bench.world.run(clients(bench.regions(1), 3));
        bench.world.audit(&bench.array);
        let removed = World::in_state(&bench.array, MemberState::Removed);
        assert!(removed.is_empty(), "{what}: {removed:?}");
        if all_told {
            assert!(polls > 300);
            return;
        }
    }
}

#[test]
fn a_failed_journal_disk_is_replaced_also_by_itself() {
    let bench = bench(31, Level::Raid5, 3, 2);
    let path = bench.world.path(4);
    bench.world.run(bench.array.fail_member(&path)).unwrap();
    assert!(bench.on_members());
    let again = bench.world.run(bench.array.fail_member(&path));
    assert!(
        matches!(again, Err(RaidError::MemberState { .. })),
        "{again:?}"
    );
    bench.world.run(clients(bench.regions(1), 20));
    bench.wait_until_drained();
    let itself = bench.world.member(4);
    bench
        .world
        .run(bench.array.replace_member(&path, itself))
        .unwrap();
    assert!(!bench.on_members());
    let before = bench.journal_zone_written(4);
    bench.world.run(clients(bench.regions(2), 20));
    assert!(
        bench.journal_zone_written(4) > before,
        "it takes groups again"
    );
    let (world, model) = bench.crashed(Crash::Power);
    let array = world.assemble(&[0, 1, 2, 4], false).unwrap();
    back(
        (world, model),
        array,
        Crash::Power,
        "with the one that was replaced by itself",
    );
}

#[test]
fn a_journal_disk_is_removed_only_when_it_is_out() {
    let bench = bench(32, Level::Raid5, 3, 2);
    let path = bench.world.path(4);
    let early = bench.world.run(bench.array.remove_member(&path));
    assert!(
        matches!(early, Err(RaidError::MemberState { .. })),
        "{early:?}"
    );
    bench.world.run(bench.array.fail_member(&path)).unwrap();
    bench.world.run(bench.array.remove_member(&path)).unwrap();
    assert_eq!(bench.array.status().members.len(), 4);
    assert!(bench.on_members());
}

#[test]
fn a_journal_disk_that_is_too_small_or_takes_part_is_refused() {
    let bench = bench(33, Level::Raid5, 3, 2);
    let old = bench.world.path(4);
    for size in [1 << 20, 20 << 20] {
        let small = new_disk(&bench.world, "/dev/small", size, 1);
        let refused = bench
            .world
            .run(bench.array.replace_member(&old, as_member(&small)));
        assert!(
            matches!(refused, Err(RaidError::TooSmall { .. })),
            "{size}: {refused:?}"
        );
    }
    for member in [0, 3] {
        let part = bench.world.member(member);
        let refused = bench.world.run(bench.array.replace_member(&old, part));
        assert!(
            matches!(refused, Err(RaidError::MemberState { .. })),
            "{refused:?}"
        );
    }
    assert_eq!(bench.array.status().members.len(), 5);
}

#[test]
fn an_older_image_of_a_journal_disk_is_not_believed() {
    for seed in 800..830 {
        let bench = bench(seed, Level::Raid5, 3, 2);
        bench.world.run(clients(bench.regions(seed), 5));
        let image = bench.world.disks[3].sim().image();
        bench.world.run(clients(
            bench.regions(seed + 1),
            10 + usize::try_from(seed % 20).unwrap(),
        ));
        bench.world.sleep(seed % 4 * 400);
        let crash = [Crash::Kill, Crash::Power][usize::try_from(seed % 2).unwrap()];
        let (world, model) = bench.crashed(crash);
        world.disks[3].sim().set_image(&image);
        let array = world.assemble_all();
        let bench = back((world, model), array, crash, &format!("seed {seed}"));
        bench.world.audit(&bench.array);
    }
}

#[test]
fn an_older_image_and_another_one_lost_is_refused_or_nothing_is_lost() {
    let mut refused = 0;
    for seed in 900..960 {
        let bench = bench(seed, Level::Raid5, 3, 2);
        bench.world.run(clients(bench.regions(seed), 5));
        let image = bench.world.disks[3].sim().image();
        // Clean and dirty again: labels and headers have moved on.
        bench.world.sleep(8000);
        bench.world.run(clients(bench.regions(seed + 1), 10));
        bench.world.sleep(seed % 4 * 400);
        let (world, model) = bench.crashed(Crash::Power);
        world.disks[3].sim().set_image(&image);
        match world.assemble(&[0, 1, 2, 3], false) {
            Err(RaidError::NotStarted { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
            Ok(array) => {
                back((world, model), array, Crash::Power, &format!("seed {seed}"));
            }
        }
    }
    assert!(refused > 0);
}

#[test]
fn a_journal_disk_without_its_ring_is_as_good_as_lost() {
    let bench = bench(41, Level::Raid5, 3, 2);
    bench.world.run(clients(bench.regions(1), 10));
    let (mut world, model) = bench.crashed(Crash::Power);
    world.disks[3].poke(ZONES_START, &vec![0; 16 << 20]);
    // Alone it would be believed to know of no record.
    let refused = world.assemble(&[0, 1, 2, 3], false);
    assert!(
        matches!(refused, Err(RaidError::NotStarted { .. })),
        "{refused:?}"
    );
    world.crash(Crash::Kill);
    let array = world.assemble_all();
    let bench = back((world, model), array, Crash::Power, "with the other one");
    assert_eq!(bench.state_of(3), MemberState::Failed);
    assert!(bench.on_members());
}

#[test]
fn the_ring_goes_round_many_times_and_moves_in_the_middle_of_it() {
    let bench = bench(42, Level::Raid6, 4, 3);
    // Complete rows bypass the journal; parts of rows fill it.
    for round in 0..6 {
        if round == 3 {
            bench.world.disks[5].vanish(false);
        }
        bench.world.run(clients(bench.regions(round), 300));
    }
    assert!(bench.on_members());
    bench.wait_until_drained();
    bench.crash_and_check(Crash::Power);
}

#[test]
fn a_wrong_number_of_journal_disks_is_refused_with_the_right_one() {
    for (level, members, count, fine) in [
        (Level::Raid5, 3, 1, false),
        (Level::Raid5, 3, 2, true),
        (Level::Raid5, 3, 4, true),
        (Level::Raid5, 3, 5, false),
        (Level::Raid6, 5, 2, false),
        (Level::Raid6, 5, 3, true),
        (Level::Raid1, 5, 4, false),
        (Level::Raid1, 5, 5, true),
        (Level::Raid1, 5, 6, false),
    ] {
        let world = World::new(1, shape(level, members, count));
        let made = world.run(world.create_later());
        match made {
            Ok(_) => assert!(fine, "{level} of {members} with {count}"),
            Err(RaidError::JournalDisks { fewest, .. }) => {
                assert!(!fine);
                assert_eq!(fewest, level.redundancy(members) + 1);
            }
            Err(error) => panic!("{error}"),
        }
    }
    let world = World::new(1, shape(Level::Raid5, 3, 2).without_journal());
    let refused = world.run(world.create_later());
    assert!(matches!(refused, Err(RaidError::NoJournal)));
}

#[test]
fn one_disk_as_member_and_journal_disk_is_refused() {
    let world = World::new(1, shape(Level::Raid5, 3, 2));
    let spec = CreateSpec {
        name: "pool".into(),
        level: Level::Raid5,
        chunk_bytes: 4096,
        home_host: HOST,
        journal_bytes: None,
        integrity: true,
        journal: true,
    };
    let twice = MemberDisk {
        path: "/dev/twice".into(),
        device: Rc::new(world.disks[1].clone()),
    };
    let disks = NewDisks {
        members: (0..3).map(|i| world.member(i)).collect(),
        spares: Vec::new(),
        journal: vec![world.member(3), twice],
    };
    let pool = cairn_blockdev::BufPool::new(1 << 20);
    let refused = world.run(create_with(
        world.env.clone(),
        pool,
        spec,
        disks,
        world.hooks(),
    ));
    assert!(
        matches!(refused, Err(RaidError::SameDisk { .. })),
        "{refused:?}"
    );
}

#[test]
fn other_journal_disks_are_in_service_after_a_restart_with_one_missing() {
    let bench = bench(43, Level::Raid5, 3, 3);
    bench.world.run(clients(bench.regions(1), 10));
    let (mut world, model) = bench.crashed(Crash::Power);
    let array = world.assemble(&[0, 1, 2, 3, 5], false).unwrap();
    let bench = back((world, model), array, Crash::Power, "without one of three");
    assert!(!bench.on_members());
    let members = bench.array.status().members;
    assert!(
        members
            .iter()
            .any(|m| m.journal && m.state == MemberState::Missing)
    );
    bench.world.run(clients(bench.regions(2), 10));
    let (world_after, model) = bench.crashed(Crash::Power);
    world = world_after;
    // It is back, and stale: another may be lost all the same.
    let array = world.assemble(&[0, 1, 2, 4, 5], false).unwrap();
    let bench = back((world, model), array, Crash::Power, "one stale, one lost");
    assert_eq!(bench.state_of(4), MemberState::Missing);
    assert!(bench.world.host.saw("MemberStale"));
    let path = bench.world.path(4);
    let itself = bench.world.member(4);
    bench
        .world
        .run(bench.array.replace_member(&path, itself))
        .unwrap();
    assert!(!bench.on_members());
}
