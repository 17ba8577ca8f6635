//! Checksums that a rebuild sets while another member is away: that member doesn't get the pages.

use std::rc::Rc;

use cairn_blockdev::sim::Rng;
use cairn_blockdev::units::{u64_of, usize_of};
use cairn_blockdev::{Buf, WriteFlags};
use cairn_raid::{Level, MemberState, Readded};

use crate::lab::{Lab, shape};
use crate::model::Crash;
use crate::world::World;

const MEMBERS: usize = 6;
/// So many that their checksums take several pages.
const ROWS: u64 = 400;

fn write(lab: &mut Lab, rows: std::ops::Range<u64>, seed: u64) {
    let row = lab.geometry.row_bytes();
    let place = usize_of(rows.start * row)..usize_of(rows.end * row);
    let data = &mut lab.contents[place];
    Rng::new(seed).fill(data);
    let data = Buf::copy_of(data).freeze();
    let written = lab
        .volume
        .write(rows.start * row, data, WriteFlags::default());
    lab.world.run(written).unwrap();
    lab.world.run(lab.array.drain()).unwrap();
}

fn go(lab: &Lab, disk: usize) {
    lab.world.disks[disk].vanish(false);
}

fn is_in(lab: &Lab, disk: usize) -> bool {
    let path = lab.world.path(disk).to_string();
    World::in_state(&lab.array, MemberState::InSync).contains(&path)
}

fn come_back(lab: &Lab, disk: usize) {
    lab.world.disks[disk].come_back();
    let back = lab.array.readd_member(lab.world.member(disk));
    let back = lab.world.run(back).unwrap();
    assert!(matches!(back, Readded::CatchingUp { .. }), "{back:?}");
    let array = Rc::clone(&lab.array);
    lab.world.run_till("caught up", || {
        is_in(lab, disk) && array.status().sync.is_none()
    });
}

/// Rows are written while one member is away, so that nobody has a checksum of its parities; they are filled in while
/// another is away that was there for the writes. Then only that one has a copy of the checksums.
#[test]
fn d9_checksums_that_a_catch_up_sets_reach_a_member_that_is_away() {
    let stay = [0, 2, 3, 5];
    for (at, first) in stay.iter().enumerate() {
        for second in &stay[at + 1..] {
            for crash in [None, Some(Crash::Kill)] {
                let mut lab = Lab::with_rows(9, shape(Level::Raid6, MEMBERS, true), ROWS);
                go(&lab, 1);
                write(&mut lab, 0..ROWS - 100, 1);
                assert!(!is_in(&lab, 1));
                go(&lab, 4);
                // Of other pages.
                write(&mut lab, ROWS - 10..ROWS, 2);
                assert!(!is_in(&lab, 4));
                come_back(&lab, 1);
                if let Some(crash) = crash {
                    // What it missed is known to the next start, too.
                    lab.world.crash(crash);
                    let here = [0, 1, 2, 3, 5];
                    lab.array = lab.world.assemble(&here, false).unwrap();
                    lab.volume = lab.array.open_volume("v").unwrap();
                }
                come_back(&lab, 4);
                lab.world.run(lab.array.stop()).unwrap();
                lab.world.crash(Crash::Power);
                lab.reopen();
                for lost in [first, second] {
                    let path = lab.world.path(*lost);
                    lab.world.run(lab.array.fail_member(&path)).unwrap();
                }
                let all = lab.read(0, u64_of(lab.contents.len()));
                let all =
                    all.unwrap_or_else(|error| panic!("without {first} and {second}: {error}"));
                assert!(all == lab.contents, "without {first} and {second}");
            }
        }
    }
}
