//! A member put back as it was some writes ago, with today's labels and today's journal headers on it (fault
//! A10): nothing but the checksum pages of the others tells that its blocks are old.

use cairn_blockdev::units::{u64_of, usize_of};
use cairn_blockdev::{Buf, WriteFlags};
use cairn_raid::journal::header::SLOTS;
use cairn_raid::layout::{LABEL_A, LABEL_B, LABEL_COPY_BEFORE_END, ZoneKind};
use cairn_raid::{ErrorCounts, Level, MemberState};

use crate::lab::{BLOCK, LEVELS, Lab, shape, zone};
use crate::model::Crash;
use crate::world::World;

/// How the array was left before the older image was put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// Stopped: its journal isn't looked at.
    Stopped,
    /// Killed: its journal is replayed.
    Killed,
}

/// Most rows get something new: every third as a whole, past the journal, the next one a block, through it.
/// The others stay as they are.
fn write_some_more(lab: &mut Lab) {
    let row_bytes = lab.geometry.row_bytes();
    for row in 0..u64_of(lab.contents.len()) / row_bytes {
        let len = match row % 3 {
            0 => row_bytes,
            1 => BLOCK,
            _ => continue,
        };
        // A block in another chunk from row to row.
        let block = row * 5 % (row_bytes / BLOCK);
        let at = row * row_bytes + if len == BLOCK { block * BLOCK } else { 0 };
        let fresh = vec![u8::try_from(row + 1).unwrap(); usize_of(len)];
        let data = Buf::copy_of(&fresh).freeze();
        let written = lab.volume.write(at, data, WriteFlags::default());
        lab.world.run(written).unwrap();
        lab.contents[usize_of(at)..usize_of(at + len)].copy_from_slice(&fresh);
    }
    lab.world.run(lab.array.drain()).unwrap();
    lab.world.run(lab.volume.flush()).unwrap();
}

fn leave(lab: &mut Lab, left: Left) {
    if left == Left::Stopped {
        lab.world.run(lab.array.stop()).unwrap();
    }
    lab.world.crash(Crash::Kill);
}

fn errors_of(lab: &Lab, disk: usize) -> ErrorCounts {
    let path = lab.world.path(disk);
    let members = lab.array.status().members;
    members.iter().find(|m| *m.path == *path).unwrap().errors
}

fn put_back(level: Level, members: usize, disk: usize, left: Left) {
    println!("{level} of {members}: disk {disk}, {left:?}");
    let mut lab = Lab::new(3_100 + u64_of(disk), shape(level, members, true));
    let blocks_then = lab.image();
    leave(&mut lab, Left::Stopped);
    let older = lab.world.disks[disk].sim().image();
    lab.reopen();
    write_some_more(&mut lab);
    let blocks_now = lab.image();
    assert!(blocks_then != blocks_now);
    leave(&mut lab, left);
    let (ring, _) = zone(&lab.world, disk, ZoneKind::Journal);
    let labels = [
        LABEL_A,
        LABEL_B,
        lab.world.shape.disk_bytes - LABEL_COPY_BEFORE_END,
    ];
    let today = &lab.world.disks[disk];
    let names_its_age: Vec<_> = (labels.into_iter())
        .chain(SLOTS.map(|slot| ring + slot))
        .map(|at| (at, today.peek(at, usize_of(BLOCK))))
        .collect();
    today.sim().set_image(&older);
    for (at, bytes) in names_its_age {
        assert!(today.peek(at, usize_of(BLOCK)) != bytes, "{at} is as old");
        today.poke(at, &bytes);
    }
    lab.world.host.events.borrow_mut().clear();
    lab.reopen();

    // Whatever is read is today's, and what was found is shown at the disk.
    let all = lab.read(0, u64_of(lab.contents.len())).unwrap();
    assert!(all == lab.contents, "old data was read");
    let errors = errors_of(&lab, disk);
    assert!(errors.corruption + errors.generation > 0, "{errors:?}");
    // A scrub finds the rest, and every block is today's again.
    let scrub = lab.scrub();
    assert!(
        scrub.repaired > 0 && scrub.unrepairable == 0,
        "{scrub:?}, {errors:?}"
    );
    assert!(lab.image() == blocks_now, "old blocks are still in place");
    // Nobody threw it out: it wasn't its labels or headers that told.
    let in_sync = World::in_state(&lab.array, MemberState::InSync);
    assert_eq!(in_sync.len(), members);
    assert!(!lab.world.host.saw("Fail"));
    for other in 0..members {
        let errors = errors_of(&lab, other);
        let found = errors.corruption + errors.generation;
        assert_eq!(found > 0, other == disk, "disk {other}: {errors:?}");
    }
    lab.check();
    // It stands in for others as any member does.
    let others = (0..members).filter(|other| *other != disk);
    for other in others.take(level.redundancy(members)) {
        let path = lab.world.path(other);
        lab.world.run(lab.array.fail_member(&path)).unwrap();
    }
    lab.check();
}

#[test]
fn a10_an_older_image_with_todays_labels_and_journal_headers_is_found_out_by_checksum_pages() {
    for (level, members) in LEVELS {
        for disk in 0..members {
            put_back(level, members, disk, Left::Stopped);
        }
    }
}

#[test]
fn a10_an_older_image_under_a_replay_is_found_out_by_checksum_pages() {
    for (level, members) in LEVELS {
        for disk in 0..members {
            put_back(level, members, disk, Left::Killed);
        }
    }
}
