//! Blocks that nothing gives any more, as bad sectors that a rebuild meets (fault A5): they are lost, and
//! said; nothing else is.

use std::collections::BTreeSet;
use std::rc::Rc;

use cairn_blockdev::sim::Fault;
use cairn_blockdev::units::{u64_of, usize_of};
use cairn_blockdev::{BlockDevice, Buf, WriteFlags};
use cairn_raid::defects::{Defect, Defects, ENTRIES_MAX, Place, Reason, slot_offset};
use cairn_raid::layout::ZoneKind;
use cairn_raid::{Level, MemberState, Role, Row, Slot};

use crate::lab::{BLOCK, Lab, shape, zone};
use crate::model::Crash;
use crate::world::World;

const LOST: usize = 1;
const SURVIVOR: usize = 2;

/// Where in the volume the data blocks of two members in a column lie.
fn blocks_of(lab: &Lab, row: Row, col: u64) -> Vec<u64> {
    let first = lab.rows()[0].0;
    let roles = [LOST, SURVIVOR].map(|slot| lab.geometry.role(row, Slot(slot)));
    let data = roles.into_iter().filter_map(|role| match role {
        Role::Data(index) => Some(u64_of(index)),
        _ => None,
    });
    let at = (row.0 - first) * lab.geometry.row_bytes();
    data.map(|index| at + index * lab.geometry.chunk_bytes() + col * BLOCK)
        .collect()
}

/// A member goes, and the array notices.
fn notice_loss(lab: &Lab) {
    lab.world.disks[LOST].inject(Fault::Gone);
    // Whoever writes to it does.
    let same = Buf::copy_of(&lab.contents[..4096]).freeze();
    let write = lab.volume.write(0, same, WriteFlags::default());
    lab.world.run(write).unwrap();
    lab.world.run(lab.array.drain()).unwrap();
}

/// A member goes, and another one has `bad` sectors, in as many columns: a rebuild onto a spare.
fn rebuilt_beside(bad: usize) -> (Lab, BTreeSet<u64>) {
    let mut shape = shape(Level::Raid5, 4, true);
    shape.spares = 1;
    let lab = Lab::new(31, shape);
    let cols = lab.geometry.chunk_bytes() / BLOCK;
    let places = lab
        .rows()
        .into_iter()
        .flat_map(|row| (0..cols).map(move |col| (row, col)));
    let step = lab.rows().len() * 4 / bad;
    let mut expected = BTreeSet::new();
    for (row, col) in places.step_by(step).take(bad) {
        let (disk, offset) = lab.place(row, SURVIVOR, col);
        lab.world.disks[disk].inject(Fault::BadRange { offset, len: 512 });
        expected.extend(blocks_of(&lab, row, col));
    }
    notice_loss(&lab);
    expected.remove(&0);
    let (array, spare) = (Rc::clone(&lab.array), lab.world.path(4));
    lab.world.run_till("rebuilt", move || {
        World::in_state(&array, MemberState::InSync).contains(&*spare)
    });
    (lab, expected)
}

/// Block by block: what is lost fails, and what isn't is there.
fn check(lab: &Lab, lost: &BTreeSet<u64>) {
    for at in (0..u64_of(lab.contents.len())).step_by(4096) {
        let from = usize::try_from(at).unwrap();
        match lab.read(at, BLOCK) {
            Ok(data) => {
                assert!(!lost.contains(&at), "{at} is lost, and was read");
                assert!(data == lab.contents[from..from + 4096], "{at} is wrong");
            }
            Err(error) => assert!(lost.contains(&at), "{at}: {error}"),
        }
    }
}

#[test]
fn a5_bad_sectors_on_the_last_survivors_cost_their_blocks_and_nothing_else() {
    for bad in [1, 5, 20, 48] {
        let (lab, lost) = rebuilt_beside(bad);
        let status = lab.array.status();
        assert!(
            World::in_state(&lab.array, MemberState::Failed).len() == 1,
            "{bad}: {status:?}"
        );
        assert_eq!(status.bad_blocks_total, u64_of(lost.len()), "{bad}");
        check(&lab, &lost);
        let said = lab.world.host.events.borrow();
        let stays = said
            .iter()
            .filter(|event| event.detail.contains("stays in because"));
        assert_eq!(stays.count(), usize::from(bad > 20), "{bad}");
    }
}

#[test]
fn a5_a_disk_beyond_its_error_budget_goes_once_it_can_be_done_without() {
    let (lab, lost) = rebuilt_beside(48);
    let row = lab.rows()[7];
    let (disk, offset) = lab.place(row, SURVIVOR, 1);
    lab.world.disks[disk].inject(Fault::BadRange { offset, len: 512 });
    lab.scrub();
    let failed = World::in_state(&lab.array, MemberState::Failed);
    assert!(
        failed.contains(&*lab.world.disks[SURVIVOR].name()),
        "{failed:?}"
    );
    check(&lab, &lost);
}

/// A bad-block list without room, on every member; of blocks of another volume.
fn fill_the_list(lab: &Lab) {
    let row_bytes = lab.geometry.row_bytes();
    let size = 1500 * row_bytes;
    lab.world.run(lab.array.create_volume("w", size)).unwrap();
    let other = lab.array.open_volume("w").unwrap();
    // Its extents are its own once something is written in them.
    for at in (0..size).step_by(usize_of(16 * row_bytes)) {
        let data = Buf::copy_of(&[1; 4096]).freeze();
        lab.world
            .run(other.write(at, data, WriteFlags::default()))
            .unwrap();
    }
    lab.world.run(lab.array.drain()).unwrap();
    let mut defects = Defects::new(lab.array.uuid());
    let defect = Defect {
        since_ms: 1,
        reason: Reason::Unreadable,
    };
    for entry in 0..u64_of(ENTRIES_MAX) {
        let place = Place {
            row: Row(120 + entry / 16),
            col: u32::try_from(entry / 4 % 4).unwrap(),
            slot: Slot(usize_of(entry % 4)),
        };
        assert!(defects.note(place, defect));
    }
    let (generation, bytes) = defects.take_dirty().unwrap();
    for disk in 0..lab.world.disks.len() {
        let (offset, _) = zone(&lab.world, disk, ZoneKind::BadBlocks);
        lab.world.disks[disk].poke(offset + slot_offset(generation), &bytes);
    }
}

#[test]
fn a_start_that_would_have_to_give_up_more_than_the_list_holds_ends_and_says_why() {
    let mut lab = Lab::new(37, shape(Level::Raid5, 4, true));
    let row = lab.rows()[5];
    fill_the_list(&lab);
    // Logged, not in place yet.
    let at = 5 * lab.geometry.row_bytes();
    let fresh = Buf::copy_of(&[0xA7; 4096]).freeze();
    let fua = WriteFlags { fua: true };
    lab.world.run(lab.volume.write(at, fresh, fua)).unwrap();
    lab.world.crash(Crash::Kill);
    let written = lab.geometry.data_slot(row, 0);
    let others = (0..4).filter(|slot| *slot != written.0);
    for slot in others.take(2) {
        let (disk, offset) = lab.place(row, slot, 0);
        let fault = Fault::BadRange { offset, len: 512 };
        lab.world.disks[disk].inject(fault);
    }
    let error = lab.world.assemble(&lab.world.all(), false).err();
    let said = error.map(|error| error.to_string()).unwrap_or_default();
    assert!(said.contains("no room for more than 21669"), "{said}");
    // With room, two blocks are given up, and the rest is served.
    for disk in 0..4 {
        let (offset, len) = zone(&lab.world, disk, ZoneKind::BadBlocks);
        lab.world.disks[disk].poke(offset, &vec![0; usize_of(len)]);
    }
    lab.reopen();
    assert!(lab.array.status().bad_blocks_total > 0);
    assert!(lab.read(at, BLOCK).unwrap() == [0xA7; 4096]);
}

#[test]
fn blocks_that_a_volume_lost_are_off_the_list_once_it_is_deleted_wherever_that_was_cut_off() {
    let mut over = 0;
    for (turn, polls) in (0..2_000).step_by(7).enumerate() {
        let mut lab = Lab::with_rows(41, shape(Level::Raid5, 4, true), 6);
        let row = lab.rows()[1];
        for slot in [0, 1] {
            let (disk, offset) = lab.place(row, slot, 0);
            let fault = Fault::BadRange { offset, len: 512 };
            lab.world.disks[disk].inject(fault);
        }
        lab.scrub();
        assert!(lab.array.status().bad_blocks_total > 0);
        let array = Rc::clone(&lab.array);
        let deletion = async move { array.delete_volume("v").await };
        over += u32::from(lab.world.sim.run_until(deletion, polls).is_some());
        let crash = if turn % 2 == 0 {
            Crash::Kill
        } else {
            Crash::Power
        };
        lab.world.crash(crash);
        let array = lab.world.assemble_all();
        let left = array.status().bad_blocks_total;
        let is_there = array.open_volume("v").is_ok();
        assert_eq!(
            left > 0,
            is_there,
            "{polls} polls, {crash:?}: {left} listed"
        );
        if over > 3 {
            return;
        }
    }
    panic!("the deletion never ended");
}

#[test]
fn a_rebuild_that_could_not_go_on_does_so_when_it_can() {
    let mut shape = shape(Level::Raid5, 4, true);
    shape.spares = 1;
    let mut lab = Lab::new(43, shape);
    fill_the_list(&lab);
    lab.world.crash(Crash::Kill);
    lab.reopen();
    let row = lab.rows()[9];
    let (survivor, offset) = lab.place(row, SURVIVOR, 2);
    lab.world.disks[survivor].inject(Fault::BadRange { offset, len: 512 });
    notice_loss(&lab);
    let host = Rc::clone(&lab.world.host);
    lab.world
        .run_till("stuck", move || host.saw("RebuildStopped"));
    let said = |lab: &Lab| lab.world.host.count("RebuildStopped");
    // It is tried again, and says the same: nothing.
    lab.world.sleep(70_000);
    assert_eq!(said(&lab), 1);
    lab.world.disks[survivor].heal();
    lab.world.sleep(40_000);
    let in_sync = World::in_state(&lab.array, MemberState::InSync);
    assert!(in_sync.contains(&*lab.world.path(4)), "{in_sync:?}");
    lab.check();
}

#[test]
fn sound_blocks_whose_checksums_are_lost_are_never_given_up_before_a_scrub_has_looked() {
    let mut lab = Lab::new(47, shape(Level::Raid5, 4, true));
    lab.world.run(lab.array.stop()).unwrap();
    lab.lose_pages(4);
    lab.world.crash(Crash::Kill);
    lab.reopen();
    // A part of a late row waits for its checksums, and whoever applies it asks again and again.
    let at = usize_of(20 * lab.geometry.row_bytes());
    let fresh = Buf::copy_of(&[0xA7; 4096]).freeze();
    let write = lab
        .volume
        .write(u64_of(at), fresh, WriteFlags { fua: true });
    lab.world.run(write).unwrap();
    lab.contents[at..at + 4096].fill(0xA7);
    let array = Rc::clone(&lab.array);
    lab.world.env.spawn.spawn(Box::pin(async move {
        let _ = array.drain().await;
    }));
    lab.world.sleep(5);
    lab.scrub();
    lab.world.run(lab.array.drain()).unwrap();
    assert_eq!(lab.array.status().bad_blocks_total, 0);
    lab.check();
}
