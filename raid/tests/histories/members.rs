//! Members that come and go, cut off in the middle: creation, stop, rebuild, replacement.

use std::rc::Rc;

use cairn_blockdev::IoErrorKind;
use cairn_blockdev::sim::{Effect, Fault, On, Strike};
use cairn_raid::layout::{LABEL_A, LABEL_B};
use cairn_raid::{Array, Level, MemberState};

use crate::model::Crash;
use crate::story::Story;
use crate::world::{Shape, World, is_full};

const CRASHES: [Crash; 2] = [Crash::Kill, Crash::Power];

fn shape(level: Level, members: usize, spares: usize) -> Shape {
    let mut shape = Shape::new(level, members, spares, 4096);
    shape.disk_bytes = 330 << 20;
    shape
}

#[test]
fn a_creation_that_was_cut_off_can_be_done_again() {
    for crash in CRASHES {
        for polls in (0..260).chain((260..2000).step_by(17)) {
            let mut world = World::new(polls, shape(Level::Raid5, 3, 1));
            let done = world.sim.run_until(world.create_later(), polls);
            let was_done = done.is_some();
            drop(done);
            world.crash(crash);
            let labelled = world.labelled();
            let found = world.assemble(&labelled, false);
            assert!(found.is_ok() || !was_done, "polls {polls}: {found:?}");
            if let Ok(array) = found {
                world.run(array.create_volume("v", 1 << 20)).unwrap();
                drop(array);
                world.crash(crash);
            }
            let array = world.create();
            assert!(array.volumes().is_empty());
            world.check_space(&array);
        }
    }
}

#[test]
fn a_stop_that_was_cut_off_loses_nothing_and_a_finished_one_needs_no_resync() {
    for polls in 0..250 {
        let mut story = Story::new(shape(Level::Raid6, 4, 0), 500 + polls);
        let array = story.world.create();
        let chapter = story.chapter(&array, 4);
        story.world.run(chapter);
        let (stopping, limit) = (Rc::clone(&array), polls * 2);
        let stopped = story
            .world
            .sim
            .run_until(async move { stopping.stop().await }, limit);
        drop(array);
        // What a finished stop leaves is durable; what a cut one leaves has the promise of acks.
        let crash = if stopped.is_some() {
            Crash::Power
        } else {
            Crash::Kill
        };
        story.cut(crash);
        story.world.host.events.borrow_mut().clear();
        let array = story.world.assemble_all();
        story.check(&array, Crash::Kill, false);
        if stopped.is_some() {
            assert!(!story.world.host.saw("ResyncStarted"), "polls {polls}");
        }
        story.end(array);
    }
}

/// Assembles every disk that bears a label. With a journal and all its disks an array needs no force,
/// however it was cut off.
pub(crate) fn assemble_unforced(world: &World) -> Rc<Array> {
    assert!(world.shape.journal, "without a journal force may be needed");
    let array = world.assemble(&world.labelled(), false);
    array.unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_rebuild_under_load_may_be_cut_off_anywhere() {
    for (level, members, lost) in [
        (Level::Raid1, 3, 1),
        (Level::Raid5, 4, 1),
        (Level::Raid6, 5, 2),
    ] {
        for seed in 0..60 {
            for crash in CRASHES {
                println!("seed {seed}: {level} of {members}, {crash:?}");
                let mut story = Story::new(shape(level, members, lost), 600 + seed);
                let array = story.world.create();
                let chapter = story.chapter(&array, 8);
                story.world.run(chapter);
                let chapter = story.chapter(&array, 40);
                for k in 0..lost {
                    story.world.disks[(usize::try_from(seed).unwrap() + k) % members]
                        .inject(Fault::Gone);
                }
                story.world.sim.run_until(chapter, 50 + seed * 37);
                drop(array);
                story.cut(crash);
                let array = assemble_unforced(&story.world);
                story.check(&array, crash, false);
                let chapter = story.chapter(&array, 6);
                story.world.run(chapter);
                story.world.wait_until_filled(&array);
                // Told on without a crash: everything acked is there, exactly.
                story.check(&array, Crash::Kill, false);
                story.end(array);
            }
        }
    }
}

#[test]
fn after_a_forced_start_and_a_rebuild_parity_matches_before_the_labels_say_so() {
    for (level, members) in [(Level::Raid1, 3), (Level::Raid6, 5)] {
        for seed in 0..20 {
            println!("seed {seed}: {level}");
            let mut story = Story::new(shape(level, members, 0).without_journal(), 650 + seed);
            let array = story.world.create();
            let chapter = story.chapter(&array, 40);
            story.world.sim.run_until(chapter, 1_500 + seed * 137);
            drop(array);
            story.cut(Crash::Kill);
            // One member doesn't come back.
            let present: Vec<usize> = (1..members).collect();
            assert!(
                story.world.assemble(&present, false).is_err(),
                "unclean and degraded"
            );
            let array = story.world.assemble(&present, true).unwrap();
            story.world.run_till("clean", || array.status().clean);
            story.world.audit_all(&array);
            story.check(&array, Crash::Kill, true);
            story
                .world
                .run(array.add_spare(story.world.member(0)))
                .unwrap();
            story.world.wait_until_filled(&array);
            story.world.audit(&array);
            story.check(&array, Crash::Kill, true);
        }
    }
}

#[test]
fn a_rebuild_of_an_idle_array_goes_on_after_a_crash_without_force() {
    // Every other moment at first, later ones in steps, until each history has seen its end.
    let moments = (0..400).step_by(2).chain((400..400_000).step_by(67));
    let mut over = 0;
    for (turn, polls) in (0u64..).zip(moments) {
        let crash = CRASHES[usize::try_from(turn % 2).unwrap()];
        let mut story = Story::new(shape(Level::Raid5, 4, 1), 700 + turn % 5);
        let array = story.world.create();
        let chapter = story.chapter(&array, 12);
        story.world.run(chapter);
        story.world.sleep(10_000);
        assert!(array.status().clean);
        let (failing, path) = (Rc::clone(&array), story.world.path(1));
        let clock = Rc::clone(&story.world.env.clock);
        let fail = async move {
            failing.fail_member(&path).await.unwrap();
            while !is_full(&failing) {
                clock.sleep(std::time::Duration::from_millis(1)).await;
            }
        };
        let ended = story.world.sim.run_until(fail, polls).is_some();
        over = if ended { over + 1 } else { 0 };
        drop(array);
        story.cut(crash);
        let array = story.world.assemble_all();
        story.check(&array, Crash::Kill, false);
        story.world.wait_until_filled(&array);
        story.check(&array, Crash::Kill, false);
        story.end(array);
        if over == 10 {
            return;
        }
    }
    panic!("the rebuild never ended");
}

#[test]
fn a_replacement_under_load_may_be_cut_off_anywhere_and_needs_no_force() {
    for level in [Level::Raid1, Level::Raid5, Level::Raid6] {
        for seed in 0..80 {
            let crash = CRASHES[usize::try_from(seed % 2).unwrap()];
            println!("seed {seed}: {level}, {crash:?}");
            let mut story = Story::new(shape(level, 4, 1), 800 + seed);
            let array = story.world.create();
            let chapter = story.chapter(&array, 6);
            story.world.run(chapter);
            let (old, new) = (story.world.path(2), story.world.member(4));
            story.world.run(array.replace_member(&old, new)).unwrap();
            let chapter = story.chapter(&array, 40);
            story.world.sim.run_until(chapter, seed * 29);
            drop(array);
            story.cut(crash);
            let array = story.world.assemble_all();
            story.check(&array, crash, false);
            let chapter = story.chapter(&array, 6);
            story.world.run(chapter);
            story.world.run_till("replaced", || {
                array.status().sync.is_none() && is_full(&array)
            });
            story.check(&array, Crash::Kill, false);
            let in_sync = World::in_state(&array, MemberState::InSync);
            assert!(
                !in_sync.contains(&*old),
                "seed {seed}: the old member is out"
            );
            story.end(array);
        }
    }
}

#[test]
fn a_replacement_survives_the_death_of_the_old_or_the_new_disk() {
    for dies in [2, 4] {
        for seed in 0..30 {
            println!("seed {seed}, {dies} dies");
            let mut story = Story::new(shape(Level::Raid6, 5, 2), 900 + seed);
            let array = story.world.create();
            let chapter = story.chapter(&array, 10);
            story.world.run(chapter);
            // The second spare has to wait until something is lost.
            let (old, new) = (story.world.path(2), story.world.member(5));
            story.world.run(array.replace_member(&old, new)).unwrap();
            let chapter = story.chapter(&array, 12);
            let disk = story.world.disks[if dies == 2 { 2 } else { 5 }].clone();
            let clock = Rc::clone(&story.world.env.clock);
            story.world.env.spawn.spawn(Box::pin(async move {
                clock
                    .sleep(std::time::Duration::from_micros(100 + seed * 150))
                    .await;
                disk.inject(Fault::Gone);
            }));
            story.world.run(chapter);
            story.world.wait_until_filled(&array);
            story.check(&array, Crash::Kill, false);
            story.end(array);
        }
    }
}

#[test]
fn a4_a_spare_that_dies_while_it_is_filled_is_followed_by_the_next() {
    for seed in 0..30 {
        let mut story = Story::new(shape(Level::Raid5, 4, 3), 1_000 + seed);
        let array = story.world.create();
        let chapter = story.chapter(&array, 10);
        story.world.run(chapter);
        story.world.disks[1].inject(Fault::Gone);
        let disks: Vec<_> = story.world.disks[4..7].to_vec();
        let (watched, clock) = (Rc::clone(&array), Rc::clone(&story.world.env.clock));
        story.world.env.spawn.spawn(Box::pin(async move {
            // Two of three spares die as soon as they are being filled.
            for _ in 0..2 {
                let target = loop {
                    let members = watched.status().members;
                    let filled = members.iter().find(|m| m.state == MemberState::Rebuilding);
                    if let Some(member) = filled {
                        break member.path.clone();
                    }
                    clock.sleep(std::time::Duration::from_micros(30)).await;
                };
                clock
                    .sleep(std::time::Duration::from_micros(seed * 40))
                    .await;
                let disk = disks
                    .iter()
                    .find(|d| *cairn_blockdev::BlockDevice::name(*d) == *target);
                if let Some(disk) = disk {
                    disk.inject(Fault::WritesFail);
                }
                clock.sleep(std::time::Duration::from_millis(2)).await;
            }
        }));
        let chapter = story.chapter(&array, 12);
        story.world.run(chapter);
        story.world.wait_until_filled(&array);
        story.check(&array, Crash::Kill, false);
        story.end(array);
    }
}

#[test]
fn a_disk_that_cannot_even_be_labelled_is_not_said_to_be_in() {
    let mut story = Story::new(shape(Level::Raid5, 4, 2), 77);
    let array = story.world.create();
    for at in [4, 5] {
        let path = story.world.path(at);
        story.world.run(array.remove_spare(&path)).unwrap();
    }
    for at in [4, 5] {
        let fail = Strike::new(On::Write, Effect::Fail(IoErrorKind::Medium));
        let labels = LABEL_A..LABEL_B;
        // What prepares it writes no label.
        story.world.disks[at]
            .sim()
            .strike(fail.within(labels).always());
    }
    let refused = story.world.run(array.add_spare(story.world.member(4)));
    let refused = format!("{:?}", refused.unwrap_err());
    assert!(refused.contains("labelled"), "{refused}");
    let old = story.world.path(1);
    let refused = story
        .world
        .run(array.replace_member(&old, story.world.member(5)));
    assert!(refused.is_err());
    assert!(!story.world.host.saw("RebuildStarted"));
    assert_eq!(World::in_state(&array, MemberState::InSync).len(), 4);
    let chapter = story.chapter(&array, 6);
    story.world.run(chapter);
    story.check(&array, Crash::Kill, false);
    story.end(array);
}
