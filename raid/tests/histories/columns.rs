//! What is unreadable, old or rotten in one column of a row says nothing of the row's other columns, and
//! nothing old stands for it.

use std::rc::Rc;

use cairn_blockdev::sim::Fault;
use cairn_blockdev::units::{u64_of, usize_of};
use cairn_blockdev::{Buf, WriteFlags};
use cairn_raid::{Level, MemberState, Role, Row, Slot};

use crate::lab::{BLOCK, CHUNK, Lab, shape};
use crate::model::Crash;
use crate::world::World;

const FUA: WriteFlags = WriteFlags { fua: true };
/// The row that is worked on.
const ROW: usize = 2;

fn lab(seed: u64, spares: usize) -> Lab {
    let mut shape = shape(Level::Raid5, 4, true);
    shape.spares = spares;
    Lab::with_rows(seed, shape, 6)
}

fn row(lab: &Lab) -> Row {
    lab.rows()[ROW]
}

/// Where a block of the row lies in the volume.
fn address(lab: &Lab, index: usize, col: u64) -> usize {
    usize_of(u64_of(ROW) * lab.geometry.row_bytes() + u64_of(index) * CHUNK + col * BLOCK)
}

/// Writes bytes that are new, durably.
fn write(lab: &mut Lab, at: usize, len: usize, byte: u8) {
    let data = Buf::copy_of(&vec![byte; len]).freeze();
    let written = lab.volume.write(u64_of(at), data, FUA);
    lab.world.run(written).unwrap();
    lab.contents[at..at + len].fill(byte);
}

/// Puts what is logged in place, as far as it comes in so many polls; then the power goes, or not only that.
fn cut_off(lab: &mut Lab, polls: u64) -> bool {
    let array = Rc::clone(&lab.array);
    let drained = async move { array.drain().await };
    let over = lab.world.sim.run_until(drained, polls).is_some();
    let crash = if polls.is_multiple_of(2) {
        Crash::Kill
    } else {
        Crash::Power
    };
    lab.world.crash(crash);
    over
}

fn spoil(lab: &Lab, index: usize, col: u64) {
    let slot = lab.geometry.data_slot(row(lab), index);
    let (disk, offset) = lab.place(row(lab), slot.0, col);
    lab.world.disks[disk].inject(Fault::BadRange { offset, len: 512 });
}

/// The slot of a data chunk of the row is no member's any more, and no spare takes its place.
fn lose(lab: &Lab, index: usize) {
    let slot = lab.geometry.data_slot(row(lab), index);
    let (disk, _) = lab.place(row(lab), slot.0, 0);
    let path = lab.world.path(disk);
    lab.world.run(lab.array.fail_member(&path)).unwrap();
}

#[test]
fn bad_sectors_in_different_columns_of_a_row_cost_nothing_wherever_its_cycle_was_cut_off() {
    let mut over = 0;
    for polls in (1..1_500).step_by(13) {
        let mut lab = lab(3, 0);
        let at = address(&lab, 0, 0);
        write(&mut lab, at, usize_of(CHUNK), 0xA1);
        let [first, second] = [(1, 0), (2, 3)];
        let places: Vec<(usize, u64)> = [first, second]
            .map(|(index, col)| {
                let slot = lab.geometry.data_slot(row(&lab), index);
                lab.place(row(&lab), slot.0, col)
            })
            .to_vec();
        over += u32::from(cut_off(&mut lab, polls));
        for (disk, offset) in places {
            lab.world.disks[disk].inject(Fault::BadRange { offset, len: 512 });
        }
        lab.reopen();
        assert_eq!(
            lab.array.status().bad_blocks_total,
            0,
            "after {polls} polls"
        );
        lab.check();
    }
    assert!(over > 0, "never drained: the last moments aren't reached");
}

/// A small write in the first columns of a row of which the parity or the chunk that it changes is bad in one column, and another
/// chunk in the next.
fn write_beside_bad_columns(level: Level, members: usize, failed: bool, first_bad: Role) {
    for is_cut_off in [false, true] {
        let mut lab = Lab::with_rows(17, shape(level, members, true), 6);
        if failed {
            lose(&lab, 2);
        }
        let at = address(&lab, 0, 0);
        write(&mut lab, at, usize_of(2 * BLOCK), 0xA1);
        let slots = 0..members;
        for (role, col) in [(first_bad, 0), (Role::Data(1), 1)] {
            let is_of_role = |slot: &usize| lab.geometry.role(row(&lab), Slot(*slot)) == role;
            let slot = slots.clone().find(is_of_role).unwrap();
            let (disk, offset) = lab.place(row(&lab), slot, col);
            lab.world.disks[disk].inject(Fault::BadRange { offset, len: 512 });
        }
        if is_cut_off {
            lab.world.crash(Crash::Kill);
            for (role, col) in [(first_bad, 0), (Role::Data(1), 1)] {
                let is_of_role = |slot: &usize| lab.geometry.role(row(&lab), Slot(*slot)) == role;
                let slot = slots.clone().find(is_of_role).unwrap();
                let (disk, offset) = lab.place(row(&lab), slot, col);
                lab.world.disks[disk].inject(Fault::BadRange { offset, len: 512 });
            }
            lab.reopen();
        }
        lab.world.run(lab.array.drain()).unwrap();
        assert_eq!(lab.array.status().bad_blocks_total, 0);
        // The other one may be overwritten.
        assert!(lab.world.host.saw("Repaired"));
        if failed {
            let all = lab.read(0, u64_of(lab.contents.len())).unwrap();
            assert!(all == lab.contents, "the volume changed");
        } else {
            lab.check();
        }
    }
}

#[test]
fn d1_a_small_write_is_put_in_place_beside_bad_sectors_in_different_columns() {
    write_beside_bad_columns(Level::Raid5, 5, false, Role::P);
    write_beside_bad_columns(Level::Raid5, 5, false, Role::Data(0));
    write_beside_bad_columns(Level::Raid6, 8, false, Role::P);
    write_beside_bad_columns(Level::Raid6, 6, true, Role::P);
    write_beside_bad_columns(Level::Raid6, 6, true, Role::Data(0));
}

#[test]
fn d1_a_read_that_comes_across_bad_sectors_in_different_columns_mends_them_all() {
    let lab = lab(19, 0);
    spoil(&lab, 0, 0);
    spoil(&lab, 1, 3);
    let at = address(&lab, 0, 0);
    let read = lab.read(u64_of(at), CHUNK).unwrap();
    assert!(read == lab.contents[at..at + usize_of(CHUNK)]);
    lab.world.sleep(1_000);
    assert_eq!(lab.world.host.count("Repaired"), 2);
    lab.check();
}

#[test]
fn a_member_with_a_bad_sector_beside_anothers_in_its_row_is_replaced() {
    let lab = lab(5, 1);
    spoil(&lab, 0, 0);
    spoil(&lab, 1, 3);
    let slot = lab.geometry.data_slot(row(&lab), 0);
    let (disk, _) = lab.place(row(&lab), slot.0, 0);
    let (old, new) = (lab.world.path(disk), lab.world.path(4));
    let by = lab.world.member(4);
    lab.world.run(lab.array.replace_member(&old, by)).unwrap();
    let array = Rc::clone(&lab.array);
    lab.world.run_till("replaced", move || {
        World::in_state(&array, MemberState::InSync).contains(&*new)
    });
    assert_eq!(lab.array.status().bad_blocks_total, 0);
    lab.check();
}

/// A degraded array; a complete row, durable; then a small write in it, whose cycle is cut off; and a block of
/// the complete row that its disk has lost. What is read of it?
fn what_is_read_of_a_lost_write(rotten: bool) {
    let (mut noted, mut over) = (0, 0);
    for polls in (1..1_500).step_by(13) {
        let mut lab = lab(7, 0);
        lose(&lab, 2);
        let slot = lab.geometry.data_slot(row(&lab), 1);
        let old = lab.block(row(&lab), slot.0, 1);
        let (disk, offset) = lab.place(row(&lab), slot.0, 1);
        let all = usize_of(lab.geometry.row_bytes());
        let at = address(&lab, 0, 0);
        write(&mut lab, at, all, 0xB2);
        lab.world.run(lab.volume.flush()).unwrap();
        let parity = (0..4)
            .find(|slot| lab.geometry.role(row(&lab), Slot(*slot)) == Role::P)
            .unwrap();
        let (p_disk, p) = lab.place(row(&lab), parity, 0);
        let of_p = p..p + CHUNK;
        let before = lab.world.disks[p_disk].written_in(of_p.clone());
        write(&mut lab, at, usize_of(BLOCK), 0xC3);
        let array = Rc::clone(&lab.array);
        let drained = async move { array.drain().await };
        over += u32::from(lab.world.sim.run_until(drained, polls).is_some());
        let is_noted = lab.world.disks[p_disk].written_in(of_p) > before;
        lab.world.crash(Crash::Power);
        let spoilt = if rotten { vec![0xEE; 4096] } else { old };
        lab.world.disks[disk].poke(offset, &spoilt);
        lab.reopen();
        if !is_noted {
            continue;
        }
        noted += 1;
        match lab.read(u64_of(address(&lab, 1, 1)), BLOCK) {
            Ok(data) => assert!(data == [0xB2; 4096], "{:x}, {polls} polls", data[0]),
            Err(error) => assert_eq!(error.kind, cairn_blockdev::IoErrorKind::Lost),
        }
        let newest = lab.read(u64_of(at), BLOCK).unwrap();
        assert!(newest == [0xC3; 4096], "what was acked last, {polls} polls");
    }
    assert!(
        noted > 3 && over > 0,
        "{noted} cut off behind the note, {over} drained"
    );
}

#[test]
fn what_a_note_found_in_place_is_never_replaced_by_what_was_there_before() {
    what_is_read_of_a_lost_write(false);
}

#[test]
fn what_a_note_found_in_place_is_never_adopted_as_it_rotted() {
    what_is_read_of_a_lost_write(true);
}

#[test]
fn a_block_that_was_logged_while_a_cycle_planned_is_there_though_the_cycles_can_t_be_had() {
    let (mut over, mut lost) = (0, 0);
    for polls in (1..1_500).step_by(13) {
        let mut lab = lab(11, 0);
        lose(&lab, 2);
        let at = address(&lab, 0, 0);
        write(&mut lab, at, usize_of(BLOCK), 0xA1);
        let array = Rc::clone(&lab.array);
        let drained = async move { array.drain().await };
        over += u32::from(lab.world.sim.run_until(drained, polls).is_some());
        // Of the chunk that has no member.
        let late = address(&lab, 2, 0);
        write(&mut lab, late, usize_of(BLOCK), 0xD4);
        let slot = lab.geometry.data_slot(row(&lab), 1);
        let (disk, offset) = lab.place(row(&lab), slot.0, 0);
        lab.world.crash(Crash::Power);
        lab.world.disks[disk].inject(Fault::BadRange { offset, len: 512 });
        lab.reopen();
        lost += u32::from(lab.array.status().bad_blocks_total > 0);
        let data = lab.read(u64_of(late), BLOCK);
        let data = data.unwrap_or_else(|error| panic!("{polls} polls: {error}"));
        assert!(data == [0xD4; 4096], "{polls} polls");
        let data = lab.read(u64_of(at), BLOCK).unwrap();
        assert!(data == [0xA1; 4096], "{polls} polls");
    }
    assert!(over > 0 && lost > 0, "{over} drained, {lost} lost a block");
}
