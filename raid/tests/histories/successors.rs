//! Members that are replaced while clients write: what was acked is there with the members of after, wherever it is cut off.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;

use cairn_blockdev::sim::{Effect, On, Strike};
use cairn_blockdev::units::u64_of;
use cairn_blockdev::{Buf, IoErrorKind, WriteFlags};
use cairn_raid::layout::{LABEL_A, ZONES_START};
use cairn_raid::{Array, Level, MemberState};

use crate::lab::{BLOCK, Lab};
use crate::model::Crash;
use crate::story::Story;
use crate::world::{Shape, World, is_full};

/// What is replaced, of which array, and what else happens.
#[derive(Debug, Clone, Copy)]
struct Case {
    level: Level,
    members: usize,
    /// Failed before.
    failed: Option<usize>,
    replaced: &'static [usize],
    /// Gone in the crash, beside what was replaced.
    lost: Option<usize>,
}

const CASES: [Case; 5] = [
    // Both halves of a mirror, for larger ones.
    Case {
        level: Level::Raid1,
        members: 2,
        failed: None,
        replaced: &[0, 1],
        lost: None,
    },
    // The last one of a mirror.
    Case {
        level: Level::Raid1,
        members: 2,
        failed: Some(1),
        replaced: &[0],
        lost: None,
    },
    Case {
        level: Level::Raid5,
        members: 4,
        failed: None,
        replaced: &[0, 2],
        lost: None,
    },
    // As many as the level survives are lost in that very crash.
    Case {
        level: Level::Raid5,
        members: 4,
        failed: None,
        replaced: &[1],
        lost: Some(3),
    },
    Case {
        level: Level::Raid6,
        members: 5,
        failed: Some(4),
        replaced: &[0, 1, 2],
        lost: Some(3),
    },
];

fn shape(case: &Case) -> Shape {
    let mut shape = Shape::new(case.level, case.members, case.replaced.len(), 4096);
    shape.disk_bytes = 330 << 20;
    shape
}

/// An array whose members are being replaced.
struct Scene {
    story: Story,
    array: Rc<Array>,
    new: Vec<String>,
    clients: Pin<Box<dyn Future<Output = ()>>>,
}

impl Scene {
    fn new(case: &Case, seed: u64) -> Self {
        let mut story = Story::new(shape(case), seed);
        let array = story.world.create();
        let chapter = story.chapter(&array, 6);
        story.world.run(chapter);
        if let Some(failed) = case.failed {
            // It isn't to be rebuilt.
            for at in 0..case.replaced.len() {
                let spare = story.world.path(case.members + at);
                story.world.run(array.remove_spare(&spare)).unwrap();
            }
            let path = story.world.path(failed);
            story.world.run(array.fail_member(&path)).unwrap();
        }
        let mut new = Vec::new();
        for (at, old) in case.replaced.iter().enumerate() {
            let old = story.world.path(*old);
            let successor = story.world.member(case.members + at);
            new.push(story.world.path(case.members + at).to_string());
            story
                .world
                .run(array.replace_member(&old, successor))
                .unwrap();
        }
        let clients = Box::pin(story.chapter(&array, 100_000));
        Self {
            story,
            array,
            new,
            clients,
        }
    }

    fn are_members(&self) -> bool {
        let in_sync = World::in_state(&self.array, MemberState::InSync);
        self.new.iter().all(|path| in_sync.contains(path))
    }

    fn step(&mut self) {
        self.story.world.sim.run_until(self.clients.as_mut(), STEP);
    }
}

/// Polls between two looks.
const STEP: u64 = 16;

/// Steps until the successors are members.
fn steps_until_members(case: &Case, seed: u64) -> u64 {
    let mut scene = Scene::new(case, seed);
    for step in 0..200_000 {
        if scene.are_members() {
            return step;
        }
        scene.step();
    }
    panic!("seed {seed}: never replaced");
}

/// True if the successors were members when it was cut off.
fn cut_off_after(case: &Case, seed: u64, steps: u64, crash: Crash) -> bool {
    println!("seed {seed}, {steps} steps, {crash:?}");
    let mut scene = Scene::new(case, seed);
    for _ in 0..steps {
        scene.step();
    }
    let are_members = scene.are_members();
    let Scene {
        mut story,
        array,
        clients,
        ..
    } = scene;
    drop((clients, array));
    story.cut(crash);
    let lost = case.lost.into_iter().chain(case.failed);
    let lost: Vec<usize> = lost.collect();
    let mut present = story.world.labelled();
    present.retain(|disk| !lost.contains(disk));
    let array = story.world.assemble(&present, false).unwrap();
    story.check(&array, crash, false);
    let chapter = story.chapter(&array, 6);
    story.world.run(chapter);
    if case.lost.is_none() && case.failed.is_none() {
        story.world.run_till("replaced", || {
            array.status().sync.is_none() && is_full(&array)
        });
    }
    story.check(&array, Crash::Kill, false);
    are_members
}

/// Before, in and after the commit that makes the successors members.
fn cut_off_everywhere(case: &Case) {
    println!("{case:?}");
    let mut members = 0;
    let mut runs = 0;
    for seed in [4000, 4001] {
        let end = steps_until_members(case, seed);
        for steps in (end.saturating_sub(60)..end + 60).step_by(3) {
            let crash = [Crash::Kill, Crash::Power][usize::try_from(runs % 2).unwrap()];
            members += u64::from(cut_off_after(case, seed, steps, crash));
            runs += 1;
        }
    }
    println!("{members} of {runs} were cut off when the successors were members");
    assert!(
        members > 3 && members < runs - 3,
        "{members} of {runs}: {case:?}"
    );
}

#[test]
fn what_was_acked_is_on_both_disks_that_replace_those_of_a_mirror() {
    cut_off_everywhere(&CASES[0]);
}

#[test]
fn what_was_acked_is_on_the_disk_that_replaces_the_last_one_of_a_mirror() {
    cut_off_everywhere(&CASES[1]);
}

#[test]
fn what_was_acked_is_on_two_disks_that_replace_members_of_raid5() {
    cut_off_everywhere(&CASES[2]);
}

#[test]
fn what_was_acked_outlasts_a_member_while_another_is_replaced() {
    cut_off_everywhere(&CASES[3]);
}

#[test]
fn what_was_acked_is_on_three_disks_that_replace_members_of_a_degraded_raid6() {
    cut_off_everywhere(&CASES[4]);
}

#[test]
fn a_successor_that_fails_in_the_moment_of_its_promotion_takes_nobody_along() {
    let case = CASES[1];
    let raid5 = Case {
        level: Level::Raid5,
        members: 4,
        failed: Some(3),
        ..case
    };
    for case in [case, raid5] {
        let seed = 4100;
        let end = steps_until_members(&case, seed);
        let mut failed_first = 0;
        for k in 0..10 {
            println!("label write {k}: {case:?}");
            let mut scene = Scene::new(&case, seed);
            for _ in 0..end.saturating_sub(40) {
                scene.step();
            }
            let successor = case.members;
            let fail = Strike::new(On::Write, Effect::Fail(IoErrorKind::Medium));
            let labels = LABEL_A..ZONES_START;
            let disk = scene.story.world.disks[successor].clone();
            disk.sim().strike(fail.after(k).within(labels).always());
            scene.story.expect_errors();
            for _ in 0..120 {
                scene.step();
            }
            failed_first += u64::from(!scene.are_members());
            let Scene {
                mut story,
                array,
                clients,
                ..
            } = scene;
            drop((clients, array));
            let crash = [Crash::Kill, Crash::Power][usize::try_from(k % 2).unwrap()];
            story.cut(crash);
            let was_member = {
                let mut present = story.world.labelled();
                present.retain(|at| *at != successor && Some(*at) != case.failed);
                let started = story.world.assemble(&present, false);
                match started {
                    Ok(array) => {
                        story.check(&array, crash, false);
                        false
                    }
                    Err(_) => true,
                }
            };
            // It was one, whole: nobody has taken the other's place before that.
            if was_member {
                story.world.crash(Crash::Kill);
                let mut present = story.world.labelled();
                present.retain(|at| Some(*at) != case.failed);
                let array = story.world.assemble(&present, false).unwrap();
                story.check(&array, crash, false);
            }
        }
        assert!(failed_first > 0);
    }
}

#[test]
fn a_successor_whose_ring_is_full_holds_up_nobody() {
    let mut shape = Shape::new(Level::Raid5, 8, 1, 16 << 10);
    shape.disk_bytes = 330 << 20;
    let lab = Lab::new(4201, shape);
    // Nothing comes to its place, so that the journal fills.
    let (member, at) = lab.place(lab.rows()[0], 2, 0);
    lab.world.disks[member].hold_writes(at..at + (64 << 20));
    let (old, new) = (lab.world.path(0), lab.world.member(8));
    lab.world.run(lab.array.replace_member(&old, new)).unwrap();
    let copied = Rc::clone(&lab.array);
    lab.world.run_till("copied", move || {
        let sync = copied.status().sync;
        sync.is_some_and(|sync| sync.total_bytes > 0 && sync.done_bytes >= sync.total_bytes)
    });
    let answered = Rc::new(Cell::new(0));
    // Each takes 8 KiB of a ring of 16 MiB; three rings' worth of them may be on their way.
    let writes = 4500;
    for n in 0..writes {
        let data = Buf::copy_of(&[0x5A; 4096]).freeze();
        let at = n * 3 * BLOCK % u64_of(lab.contents.len());
        let write = lab.volume.write(at, data, WriteFlags::default());
        let answered = Rc::clone(&answered);
        lab.world.env.spawn.spawn(Box::pin(async move {
            write.await.unwrap();
            answered.set(answered.get() + 1);
        }));
    }
    lab.world.sleep(8_000);
    assert_eq!(answered.get(), writes);
    lab.world.disks[member].release();
    let array = Rc::clone(&lab.array);
    let successor = lab.world.path(8).to_string();
    lab.world.run_till("replaced", move || {
        World::in_state(&array, MemberState::InSync).contains(&successor)
    });
    lab.world.run(lab.array.drain()).unwrap();
    lab.world.audit(&lab.array);
}
