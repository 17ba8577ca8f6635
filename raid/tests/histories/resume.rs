//! A rebuild that was cut off goes on at its cursor (fault A3): what was filled by then isn't written again.

use cairn_blockdev::sim::{Effect, On, Strike};
use cairn_blockdev::units::{u64_of, usize_of};
use cairn_raid::label::Label;
use cairn_raid::layout::{LABEL_A, LABEL_B, LABEL_COPY_BEFORE_END};
use cairn_raid::{Level, MemberState};

use crate::lab::{BLOCK, CHUNK, LEVELS, Lab, shape};
use crate::model::Crash;

const ROWS: u64 = 400;
const LOST: usize = 0;
const SURVIVOR: usize = 1;

/// Where the labels say that the rebuild is, if there is one.
fn cursor(lab: &Lab) -> Option<u64> {
    let slots = [LABEL_A, LABEL_B].map(|at| lab.world.disks[SURVIVOR].peek(at, usize_of(BLOCK)));
    let labels = slots.iter().filter_map(|bytes| Label::decode(bytes).ok());
    let newest = labels.max_by_key(|label| label.array.generation).unwrap();
    let mut table = newest.array.table.into_iter();
    let filled = table.find(|entry| entry.state == MemberState::Rebuilding);
    filled.map(|entry| entry.cursor_rows)
}

/// Bytes that a rebuild wrote to its target after a crash, and those that it had still to write by the
/// cursor. The crash comes before the first cursor is saved, or once half of the rows are behind one.
fn cut_off(level: Level, members: usize, crash: Crash, with_cursor: bool) -> (u64, u64) {
    println!("{level} of {members}, {crash:?}, cursor {with_cursor}");
    let mut shape = shape(level, members, true);
    shape.spares = 1;
    let mut lab = Lab::with_rows(5_300 + u64_of(members), shape, ROWS);
    let rows = lab.rows();
    let data = lab.array.data_offset(&lab.world.path(SURVIVOR)).unwrap();
    let data = data..shape.disk_bytes - LABEL_COPY_BEFORE_END;
    // So slow that the cursor is saved a few times on the way.
    let slow = Strike::new(On::Write, Effect::Slow(10_000)).always();
    let slow = slow.within(data.clone());
    lab.world.disks[members].sim().strike(slow);
    let path = lab.world.path(LOST);
    lab.world.run(lab.array.fail_member(&path)).unwrap();
    let before = |row: u64| u64_of(rows.iter().filter(|at| at.0 < row).count());
    let mut looks = 0;
    loop {
        lab.world.sleep(100);
        let done = before(cursor(&lab).expect("it is being rebuilt"));
        looks += 1;
        assert!(looks < 600, "no cursor is saved: {done} rows");
        let is_time = if with_cursor {
            done * 2 >= ROWS
        } else {
            assert_eq!(done, 0);
            looks == 30
        };
        if is_time {
            break;
        }
    }
    // Some more, of which no label speaks.
    lab.world.sleep(700);
    let written = lab.world.disks[members].written_in(data.clone());
    let target = lab.world.path(members);
    lab.world.crash(crash);
    // What was on its way and lands after all isn't the rebuild's doing.
    let landed = lab.world.disks[members].written_in(data.clone());
    let done = before(cursor(&lab).unwrap());
    assert!(written > done * CHUNK, "it wasn't beyond its cursor");
    let present: Vec<usize> = (0..=members).filter(|disk| *disk != LOST).collect();
    lab.array = lab.world.assemble(&present, false).unwrap();
    lab.volume = lab.array.open_volume("v").unwrap();
    lab.world.wait_until_filled(&lab.array);
    let status = lab.array.status();
    let member = status.members.iter().find(|m| *m.path == *target).unwrap();
    assert_eq!(member.state, MemberState::InSync);
    lab.check();
    let rewritten = lab.world.disks[members].written_in(data) - landed;
    (rewritten, (u64_of(rows.len()) - done) * CHUNK)
}

#[test]
fn a3_a_rebuild_that_was_cut_off_writes_only_what_lies_behind_its_cursor() {
    for (level, members) in LEVELS {
        for crash in [Crash::Kill, Crash::Power] {
            let (rewritten, left) = cut_off(level, members, crash, true);
            assert!(left * 2 <= ROWS * CHUNK);
            assert_eq!(rewritten, left, "not from the cursor on");
        }
    }
}

#[test]
fn a3_a_rebuild_that_saved_no_cursor_begins_anew() {
    for (level, members) in LEVELS {
        let (rewritten, left) = cut_off(level, members, Crash::Power, false);
        assert_eq!((rewritten, left), (ROWS * CHUNK, ROWS * CHUNK));
    }
}
