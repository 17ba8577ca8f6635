//! Commits of labels that are cut off when some members have them, and a start without one member after that.

use std::time::Duration;

use cairn_blockdev::sim::Rng;
use cairn_blockdev::units::usize_of;
use cairn_blockdev::{Buf, WriteFlags};
use cairn_raid::label::Label;
use cairn_raid::layout::{LABEL_A, LABEL_B, ZONES_START, label_copy};
use cairn_raid::{Level, MemberState};
use futures_util::future::{Either, select};

use crate::lab::{CHUNK, Lab};
use crate::model::Crash;
use crate::world::{Shape, World};

const MEMBERS: usize = 4;

/// Long enough for labels on disks that answer.
const WHILE: Duration = Duration::from_millis(200);

fn lab(integrity: bool) -> Lab {
    let mut shape = Shape::new(Level::Raid5, MEMBERS, 1, u32::try_from(CHUNK).unwrap());
    shape.integrity = integrity;
    Lab::new(5, shape)
}

/// Members but this one.
fn without(lost: usize) -> Vec<usize> {
    (0..MEMBERS).filter(|member| *member != lost).collect()
}

/// Whoever writes labels now gets none onto these disks.
fn hold_labels(lab: &Lab, disks: &[usize]) {
    for disk in disks {
        lab.world.disks[*disk].hold_writes(LABEL_A..ZONES_START);
    }
}

/// So long, and no longer.
fn run_a_while<T>(world: &World, what: impl Future<Output = T>) {
    let nap = world.env.clock.sleep(WHILE);
    let what = Box::pin(what);
    world.run(async {
        if let Either::Left(_) = select(what, nap).await {
            panic!("it came to its end");
        }
    });
}

/// The daemon is killed in a change of membership of which these disks get no label.
fn cut_off(lab: &mut Lab, unsaid: &[usize]) {
    // Unclean: the next start begins with writes allowed.
    write(lab, 0, 1);
    hold_labels(lab, unsaid);
    let spare = lab.world.path(MEMBERS);
    run_a_while(&lab.world, lab.array.remove_spare(&spare));
    kill(lab);
}

/// The daemon is killed, and what waits is never written.
fn kill(lab: &mut Lab) {
    for disk in &lab.world.disks {
        disk.lose_flying();
    }
    lab.world.crash(Crash::Kill);
}

fn write(lab: &mut Lab, offset: usize, seed: u64) {
    let len = usize_of(lab.geometry.row_bytes()) * 2;
    let place = &mut lab.contents[offset..offset + len];
    Rng::new(seed).fill(place);
    let data = Buf::copy_of(place).freeze();
    let at = u64::try_from(offset).unwrap();
    let written = lab.volume.write(at, data, WriteFlags { fua: true });
    lab.world.run(written).unwrap();
}

/// Starts with these.
fn start(lab: &mut Lab, present: &[usize]) {
    lab.array = lab
        .world
        .assemble(present, false)
        .unwrap_or_else(|error| panic!("with {present:?}: {error}"));
    lab.volume = lab.array.open_volume("v").unwrap();
}

/// As after more rounds of that commit, each without somebody who failed in it.
fn raise_generation(lab: &Lab, disk: usize) {
    let disk = &lab.world.disks[disk];
    for slot in [LABEL_A, LABEL_B, label_copy(lab.world.shape.disk_bytes)] {
        let mut label = Label::decode(&disk.peek(slot, 4096)).unwrap();
        label.array.generation += 8;
        disk.poke(slot, &label.encode());
    }
}

#[test]
fn a7_two_commits_that_are_cut_off_leave_no_member_two_events_behind() {
    for lost in 0..MEMBERS {
        for slow in without(lost) {
            let mut lab = lab(true);
            cut_off(&mut lab, &[slow]);
            hold_labels(&lab, &[slow]);
            run_a_while(&lab.world, lab.world.assemble_later(&without(lost), false));
            kill(&mut lab);
            start(&mut lab, &without(lost));
            assert_eq!(
                World::in_state(&lab.array, MemberState::InSync).len(),
                MEMBERS - 1,
                "without {lost}, {slow} slow"
            );
            lab.check();
        }
    }
}

#[test]
fn a7_who_alone_knows_of_a_commit_that_was_cut_off_speaks_for_nobody_who_went_on_without_it() {
    for knows in 0..MEMBERS {
        for integrity in [true, false] {
            let mut lab = lab(integrity);
            cut_off(&mut lab, &without(knows));
            raise_generation(&lab, knows);
            let mut others = without(knows);
            others.push(MEMBERS);
            start(&mut lab, &others);
            for row in 0..4 {
                let offset = usize_of(lab.geometry.row_bytes()) * 4 * row;
                write(&mut lab, offset, u64::try_from(row).unwrap() + 2);
            }
            // Nothing of it is in the journal any more.
            lab.world.run(lab.array.drain()).unwrap();
            kill(&mut lab);
            start(&mut lab, &[0, 1, 2, 3]);
            let left_out = lab.world.path(knows).to_string();
            assert!(!World::in_state(&lab.array, MemberState::InSync).contains(&left_out));
            lab.check();
        }
    }
}
