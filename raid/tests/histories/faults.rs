//! Disks that fail in every way at random moments under load, and then a crash.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use cairn_blockdev::sim::{Fault, Rng};
use cairn_blockdev::units::u64_of;
use cairn_raid::{Level, MemberState};

use crate::members::assemble_unforced;
use crate::model::Crash;
use crate::region::check_all;
use crate::story::Story;
use crate::world::{Shape, World};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Gone,
    WritesFail,
    FlushFailsOnce,
    ReadsFailInPlaces,
    Hangs,
}

const WAYS: [How; 5] = [
    How::Gone,
    How::WritesFail,
    How::FlushFailsOnce,
    How::ReadsFailInPlaces,
    How::Hangs,
];

fn shape(level: Level, members: usize) -> Shape {
    let mut shape = Shape::new(level, members, 0, 4096);
    shape.disk_bytes = 330 << 20;
    shape
}

/// Under load, `disk` fails after a while; the cell tells when.
fn fail_later(
    story: &Story,
    data_offset: u64,
    disk: usize,
    how: How,
    micros: u64,
) -> Rc<Cell<bool>> {
    let failing = Rc::new(Cell::new(false));
    let told = Rc::clone(&failing);
    let (disk, clock) = (
        story.world.disks[disk].clone(),
        Rc::clone(&story.world.env.clock),
    );
    story.world.env.spawn.spawn(Box::pin(async move {
        clock.sleep(Duration::from_micros(micros)).await;
        told.set(true);
        match how {
            How::Gone => disk.inject(Fault::Gone),
            How::WritesFail => disk.inject(Fault::WritesFail),
            How::FlushFailsOnce => disk.fail_next_flush(),
            How::Hangs => disk.hang(),
            How::ReadsFailInPlaces => {
                for row in [0, 3, 4, 7] {
                    let offset = data_offset + row * 4096;
                    disk.inject(Fault::BadRange { offset, len: 512 });
                }
            }
        }
    }));
    failing
}

/// One member fails under load; the crash comes at once or later; its stale bytes are never read. How
/// often a failed flush was seen to throw its disk out.
fn one_fails(level: Level, members: usize, how: How, seeds: std::ops::Range<u64>) -> u32 {
    let mut thrown_out = 0;
    for seed in seeds {
        let disk = usize::try_from(seed).unwrap() % members;
        let crash = if seed % 2 == 0 {
            Crash::Kill
        } else {
            Crash::Power
        };
        println!("seed {seed}: {level} of {members}, disk {disk} {how:?}, {crash:?}");
        let mut rng = Rng::new(seed);
        let mut story = Story::new(shape(level, members), 2_000 + seed);
        let array = story.world.create();
        let chapter = story.chapter(&array, 6);
        story.world.run(chapter);
        let data = array.data_offset(&story.world.path(disk)).unwrap();
        let failing = fail_later(&story, data, disk, how, rng.below(3_000));
        let chapter = story.chapter(&array, 20);
        story.world.sim.run_until(chapter, 300 + rng.below(6_000));
        let has_struck = failing.get() && !story.world.disks[disk].flush_fault_is_due();
        // Every other pair of histories is cut off only after the array has minded.
        if how == How::FlushFailsOnce && has_struck && seed % 4 < 2 {
            story.world.sleep(20);
            let failed = World::in_state(&array, MemberState::Failed);
            assert!(failed.contains(&*story.world.path(disk)), "seed {seed}: d3");
            thrown_out += 1;
        }
        drop(array);
        // The disk is back after the crash, as if nothing had happened to it.
        story.cut(crash);
        let array = assemble_unforced(&story.world);
        story.check(&array, crash, false);
        let chapter = story.chapter(&array, 6);
        story.world.run(chapter);
        story.check(&array, Crash::Kill, false);
        story.end(array);
    }
    thrown_out
}

/// [`one_fails`] in every way.
fn one_fails_in_every_way(level: Level, members: usize, seeds: &std::ops::Range<u64>) {
    for how in WAYS {
        let thrown_out = one_fails(level, members, how, seeds.clone());
        assert_eq!(
            thrown_out > 0,
            how == How::FlushFailsOnce,
            "{level}, {how:?}: no history reached the flush that failed"
        );
    }
}

#[test]
fn d2_a_member_that_fails_under_load_is_never_believed_again_on_mirrors() {
    one_fails_in_every_way(Level::Raid1, 3, &(0..30));
}

#[test]
fn d2_a_member_that_fails_under_load_is_never_believed_again_on_raid5() {
    one_fails_in_every_way(Level::Raid5, 4, &(0..40));
}

#[test]
fn d2_a_member_that_fails_under_load_is_never_believed_again_on_raid6() {
    one_fails_in_every_way(Level::Raid6, 5, &(0..40));
}

#[test]
fn two_members_that_fail_together_cost_raid6_nothing() {
    for seed in 0..75u64 {
        let (first, second) = (
            WAYS[usize::try_from(seed % 5).unwrap()],
            WAYS[usize::try_from(seed / 5 % 5).unwrap()],
        );
        println!("seed {seed}: {first:?} and {second:?}");
        let mut story = Story::new(shape(Level::Raid6, 6), 3_000 + seed);
        let array = story.world.create();
        let chapter = story.chapter(&array, 6);
        story.world.run(chapter);
        let data = array.data_offset(&story.world.path(0)).unwrap();
        let one = usize::try_from(seed).unwrap() % 6;
        fail_later(&story, data, one, first, 500);
        fail_later(
            &story,
            data,
            (one + 1 + usize::try_from(seed / 6).unwrap() % 5) % 6,
            second,
            500 + seed % 3 * 40,
        );
        let chapter = story.chapter(&array, 12);
        story.world.run(chapter);
        for vol in story.plot.vols.borrow().iter() {
            let volume = array.open_volume(vol.name()).unwrap();
            story.world.run(check_all(
                &volume,
                &vol.model,
                None,
                &format!("seed {seed}"),
            ));
        }
        story.world.audit(&array);
        drop(array);
        story.cut(Crash::Kill);
        let array = assemble_unforced(&story.world);
        story.check(&array, Crash::Kill, false);
        story.end(array);
    }
}

#[test]
fn beyond_redundancy_there_are_errors_and_never_wrong_bytes() {
    for (level, members, lost) in [
        (Level::Raid1, 2, 2),
        (Level::Raid5, 4, 2),
        (Level::Raid6, 5, 3),
    ] {
        for seed in 0..40u64 {
            println!("seed {seed}: {lost} of {members} on {level}");
            let mut story = Story::new(shape(level, members), 4_000 + seed);
            let array = story.world.create();
            let chapter = story.chapter(&array, 6);
            story.world.run(chapter);
            story.expect_errors();
            for k in 0..lost {
                let how = if (seed + u64_of(k)).is_multiple_of(3) {
                    How::WritesFail
                } else {
                    How::Gone
                };
                fail_later(
                    &story,
                    0,
                    (usize::try_from(seed).unwrap() + k) % members,
                    how,
                    300 + seed % 5 * 70 * u64_of(k),
                );
            }
            let chapter = story.chapter(&array, 12);
            story.world.run(chapter);
            assert!(array.status().failure.is_some(), "seed {seed}: it goes on");
            // Everybody comes back: whatever was acked is there.
            drop(array);
            story.cut(Crash::Kill);
            let array = assemble_unforced(&story.world);
            story.check(&array, Crash::Kill, false);
        }
    }
}
