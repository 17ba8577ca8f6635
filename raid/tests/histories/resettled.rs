//! A start puts a row together that was cut off, and is cut off itself when the row's parity says how: what that found is what
//! the next start finds, also without a member.

use std::rc::Rc;

use cairn_blockdev::units::{u64_of, usize_of};
use cairn_blockdev::{Buf, WriteFlags};
use cairn_raid::{Level, Role, Slot};

use crate::lab::{CHUNK, Lab, shape};
use crate::model::Crash;

/// How far the first start came.
#[derive(Debug, PartialEq, Eq)]
enum First {
    /// The row's parity is as it was.
    NotThere,
    /// Parity of the row as the start has put it together is in place.
    There,
    /// It ended.
    Ended,
}

/// Of a complete row only the first chunk arrives. A start is cut off after so many polls; then the member of the second
/// chunk is gone, which holds what was flushed long ago.
fn twice_cut_off(level: Level, members: usize, polls: u64) -> First {
    let mut lab = Lab::with_rows(7_300, shape(level, members, true), 4);
    for disk in &lab.world.disks {
        // What a disk tears nothing of can't be excused by that.
        disk.sim().tear_in(4096);
    }
    let row = lab.rows()[1];
    let slot_of = |role| {
        let slots = 0..lab.geometry.members();
        slots
            .into_iter()
            .find(|slot| lab.geometry.role(row, Slot(*slot)) == role)
    };
    let disk_of = |role| slot_of(role).map(|slot| lab.place(row, slot, 0));
    let (arrives, offset) = disk_of(Role::Data(0)).unwrap();
    let (goes, _) = disk_of(Role::Data(1)).unwrap();
    let (parity, _) = disk_of(Role::P).unwrap();
    for disk in (0..members).filter(|disk| *disk != arrives) {
        lab.world.disks[disk].hold_writes(offset..offset + CHUNK);
    }
    let at = lab.geometry.row_bytes();
    let bytes = vec![0x33; usize_of(at)];
    let (volume, data) = (Rc::clone(&lab.volume), Buf::copy_of(&bytes).freeze());
    lab.world.env.spawn.spawn(Box::pin(async move {
        let _ = volume.write(at, data, WriteFlags::default()).await;
    }));
    let peek = |lab: &Lab, disk: usize| lab.world.disks[disk].peek(offset, usize_of(CHUNK));
    lab.world.run_till("half there", || {
        peek(&lab, arrives) == bytes[..usize_of(CHUNK)] && lab.world.disks[parity].waiting() > 0
    });
    lab.world.sleep(1);
    for disk in &lab.world.disks {
        disk.lose_flying();
    }
    let before = peek(&lab, parity);
    lab.world.crash(Crash::Kill);
    let all = lab.world.all();
    let start = lab.world.assemble_later(&all, false);
    if lab.world.sim.run_until(start, polls).is_some() {
        return First::Ended;
    }
    let there = peek(&lab, parity) != before;
    lab.world.crash(Crash::Kill);
    let left: Vec<usize> = all.into_iter().filter(|disk| *disk != goes).collect();
    lab.array = lab.world.assemble(&left, false).unwrap();
    lab.volume = lab.array.open_volume("v").unwrap();
    let read = lab.read(at, at);
    if !there {
        return First::NotThere;
    }
    let read = read.unwrap_or_else(|error| panic!("{level}, {polls} polls: {error}"));
    let old = &lab.contents[usize_of(at)..usize_of(at + at)];
    for (number, block) in read.chunks(4096).enumerate() {
        let from = number * 4096;
        let known = *block == old[from..from + 4096] || block.iter().all(|byte| *byte == 0x33);
        assert!(
            known,
            "{level}, {polls} polls: block {number} was never written"
        );
    }
    assert_eq!(u64_of(read.len()), at);
    First::There
}

#[test]
fn what_a_start_found_in_place_is_known_to_the_next_one_without_its_member() {
    for (level, members) in [(Level::Raid5, 3), (Level::Raid6, 4), (Level::Raid6, 5)] {
        let mut there = 0;
        for polls in (20..).step_by(3) {
            match twice_cut_off(level, members, polls) {
                First::NotThere => {}
                First::There => there += 1,
                First::Ended => break,
            }
        }
        assert!(there > 3, "{level}: {there} cuts behind the parity");
    }
}
