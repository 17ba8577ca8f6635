//! Bad sectors that a rebuild meets on the members that are left (fault A5): what needed them is lost, and
//! said; nothing else is.

use std::collections::BTreeSet;

use cairn_blockdev::BlockDevice;
use cairn_blockdev::sim::Fault;
use cairn_blockdev::units::u64_of;
use cairn_raid::{Level, MemberState, Role, Row, Slot};

use crate::lab::{BLOCK, Lab, shape};
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
    lab.world.disks[LOST].inject(Fault::Gone);
    // Whoever writes to it notices.
    let same = cairn_blockdev::Buf::copy_of(&lab.contents[..4096]).freeze();
    lab.world
        .run(
            lab.volume
                .write(0, same, cairn_blockdev::WriteFlags::default()),
        )
        .unwrap();
    lab.world.run(lab.array.drain()).unwrap();
    expected.remove(&0);
    let (array, spare) = (std::rc::Rc::clone(&lab.array), lab.world.path(4));
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
