//! Logs can be listed on degraded arrays, and on disks that make no array any more.

use std::ops::RangeInclusive;
use std::rc::Rc;

use cairn_blockdev::prepared::{LogId, Op, PreparedDevice, Record, Seq};
use cairn_raid::{Level, ListedLog, MemberDisk, list_logs};

use crate::model::Crash;
use crate::tale::{block_at, filled, tag_of, write};
use crate::world::{Shape, World};

const A: LogId = LogId(77);

async fn prepare(device: &Rc<dyn PreparedDevice>, seqs: RangeInclusive<u64>) {
    for seq in seqs {
        let op = write(seq, 1, seq as u8);
        device.prepare(A, Seq(seq), tag_of(seq), op).await.unwrap();
    }
}

/// A record is the one that was prepared, payload and all.
fn check(record: &Record) {
    let seq = record.seq.0;
    let Op::Write { data, offset } = &record.op else {
        panic!("record {seq} is no write")
    };
    assert_eq!((&record.tag, *offset), (&tag_of(seq), seq * 4096));
    assert!(data[..] == filled(1, seq as u8)[..], "payload of {seq}");
}

/// All twenty are there.
fn check_all(log: &ListedLog) {
    let seqs: Vec<u64> = log.records.iter().map(|record| record.seq.0).collect();
    assert_eq!(seqs, (1..=20).collect::<Vec<u64>>());
    for record in &log.records {
        check(record);
        assert_eq!(record.committed, record.seq <= Seq(12));
    }
    assert_eq!((log.log, &log.meta[..]), (A, &b"ballot 3"[..]));
    assert_eq!(log.watermarks.committed, Seq(12));
}

fn crashed(shape: Shape) -> World {
    let mut world = World::new(5, shape);
    let array = world.create();
    world.run(array.create_volume("v", 1 << 30)).unwrap();
    let device = array.open_prepared("v").unwrap();
    world.run(async {
        prepare(&device, 1..=20).await;
        device.set_meta(A, b"ballot 3").await.unwrap();
        device.commit(A, Seq(12));
        device.flush().await.unwrap();
    });
    drop((array, device));
    world.crash(Crash::Power);
    world
}

fn list(world: &World, disks: &[usize]) -> (Vec<ListedLog>, bool) {
    let disks: Vec<MemberDisk> = disks.iter().map(|i| world.member(*i)).collect();
    world.run(list_logs(&world.env, disks)).unwrap()
}

#[test]
fn any_enough_members_list_everything_and_change_nothing() {
    let world = crashed(Shape::new(Level::Raid6, 4, 0, 4096));
    for disks in [&[0, 1, 2, 3][..], &[0, 1], &[2, 3], &[1, 3]] {
        let (logs, complete) = list(&world, disks);
        assert!(complete && logs.len() == 1);
        check_all(&logs[0]);
    }
    let array = world.assemble(&[1, 2], false).unwrap();
    let device = array.open_prepared("v").unwrap();
    assert_eq!(world.run(device.records(A, Seq(13))).unwrap().len(), 8);
}

#[test]
fn an_incomplete_array_lists_what_is_left_and_says_so() {
    let world = crashed(Shape::new(Level::Raid5, 5, 0, 4096));
    assert!(world.assemble(&[0, 1], false).is_err());
    for first in 0..5 {
        for second in first + 1..5 {
            let (logs, complete) = list(&world, &[first, second]);
            let records: Vec<&Record> = logs.iter().flat_map(|log| &log.records).collect();
            assert!(!complete);
            // Groups go to two members in turn: no two of five have all, and no two have nothing.
            assert!((1..20).contains(&records.len()));
            let ascends = |pair: &[&Record]| pair[0].seq < pair[1].seq;
            assert!(records.windows(2).all(ascends) && records[records.len() - 1].seq <= Seq(20));
            records.into_iter().for_each(check);
        }
    }
}

#[test]
fn logs_on_journal_disks_are_listed_from_any_of_these() {
    let world = crashed(Shape::new(Level::Raid5, 3, 0, 4096).with_journal_disks(2));
    for disks in [&[0, 1, 2, 3, 4][..], &[0, 1, 2, 3], &[4, 2], &[3, 4], &[4]] {
        let (logs, complete) = list(&world, disks);
        // What went to members alone would leave no hole where these are too few.
        let members = disks.iter().filter(|disk| **disk < 3).count();
        assert_eq!(complete, members >= 2, "{disks:?}");
        assert_eq!(logs.len(), 1, "{disks:?}");
        check_all(&logs[0]);
    }
    // One journal disk and one member may go.
    let array = world.assemble(&[1, 2, 3], false).unwrap();
    let device = array.open_prepared("v").unwrap();
    assert_eq!(world.run(device.records(A, Seq(13))).unwrap().len(), 8);
}

/// Whoever took the groups isn't here: that nothing is known to be missing doesn't make it all there is.
#[test]
fn members_alone_are_not_called_complete_while_the_ring_is_on_journal_disks() {
    let world = crashed(Shape::new(Level::Raid5, 3, 0, 4096).with_journal_disks(2));
    let (logs, complete) = list(&world, &[0, 1, 2]);
    assert!(logs.is_empty(), "members have nothing of it");
    assert!(!complete, "twenty durable records are on the journal disks");
}

#[test]
fn too_few_members_are_not_called_complete_however_short_the_journal_is() {
    for count in 1..=4 {
        let mut world = World::new(8, Shape::new(Level::Raid5, 5, 0, 4096));
        let array = world.create();
        world.run(array.create_volume("v", 1 << 30)).unwrap();
        let device = array.open_prepared("v").unwrap();
        world.run(prepare(&device, 1..=count));
        drop((array, device));
        world.crash(Crash::Power);
        for first in 0..5 {
            for second in first + 1..5 {
                let (logs, complete) = list(&world, &[first, second]);
                let found: usize = logs.iter().map(|log| log.records.len()).sum();
                let what = format!("{found} of {count} on {first} and {second}");
                assert!(!complete || found as u64 == count, "{what}");
            }
        }
    }
}

#[test]
fn a_ring_that_moves_to_the_members_takes_the_logs_along() {
    let mut world = World::new(
        7,
        Shape::new(Level::Raid5, 3, 0, 65536).with_journal_disks(2),
    );
    let array = world.create();
    world.run(array.create_volume("v", 1 << 30)).unwrap();
    let device = array.open_prepared("v").unwrap();
    let journal = || array.status().journal.unwrap();
    world.run(prepare(&device, 1..=10));
    assert!(!journal().on_members);
    world.run(array.fail_member(&world.path(4))).unwrap();
    world.run(async {
        prepare(&device, 11..=20).await;
        device.set_meta(A, b"ballot 3").await.unwrap();
        device.commit(A, Seq(12));
        device.flush().await.unwrap();
    });
    assert!(journal().on_members && world.host.saw("JournalOnMembers"));
    world.run_till("drained", || !journal().draining);
    drop((array, device));
    world.crash(Crash::Power);
    // Drained: what was on the journal disks is on the members as well, on any two of three.
    for disks in [&[0, 1, 2, 3, 4][..], &[0, 1, 2], &[0, 1], &[1, 2], &[0, 2]] {
        let (logs, complete) = list(&world, disks);
        assert!(complete && logs.len() == 1, "{disks:?}");
        check_all(&logs[0]);
    }
    let array = world.assemble(&[1, 2], false).unwrap();
    let device = array.open_prepared("v").unwrap();
    world.run(async {
        let records = device.records(A, Seq::NONE).await.unwrap();
        assert_eq!(records.len(), 20);
        records.iter().for_each(check);
        device.commit(A, Seq(20));
        for seq in 1..=20 {
            assert_eq!(block_at(&device, seq).await, seq as u8);
        }
    });
    world.audit(&array);
}
