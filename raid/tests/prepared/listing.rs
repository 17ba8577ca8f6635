//! Logs can be listed on degraded arrays, and on disks that make no array any more.

use cairn_blockdev::prepared::{LogId, Op, Seq};
use cairn_raid::{Level, MemberDisk, list_logs};

use crate::model::Crash;
use crate::tale::{tag_of, write};
use crate::world::{Shape, World};

const A: LogId = LogId(77);

fn crashed(members: usize, level: Level) -> World {
    let mut world = World::new(5, Shape::new(level, members, 0, 4096));
    let array = world.create();
    world.run(array.create_volume("v", 1 << 30)).unwrap();
    let device = array.open_prepared("v").unwrap();
    world.run(async {
        for seq in 1..=20 {
            let op = write(seq, 1, seq as u8);
            device.prepare(A, Seq(seq), tag_of(seq), op).await.unwrap();
        }
        device.set_meta(A, b"ballot 3").await.unwrap();
        device.commit(A, Seq(12));
        device.flush().await.unwrap();
    });
    drop((array, device));
    world.crash(Crash::Power);
    world
}

fn list(world: &World, disks: &[usize]) -> (Vec<cairn_raid::ListedLog>, bool) {
    let disks: Vec<MemberDisk> = disks.iter().map(|i| world.member(*i)).collect();
    world.run(list_logs(&world.env, disks)).unwrap()
}

#[test]
fn any_enough_members_list_everything_and_change_nothing() {
    let world = crashed(4, Level::Raid6);
    for disks in [&[0, 1, 2, 3][..], &[0, 1], &[2, 3], &[1, 3]] {
        let (logs, complete) = list(&world, disks);
        assert!(complete && logs.len() == 1);
        let log = &logs[0];
        assert_eq!((log.log, &log.meta[..]), (A, &b"ballot 3"[..]));
        assert_eq!(log.watermarks.committed, Seq(12));
        assert_eq!(log.records.len(), 20);
        for (record, seq) in log.records.iter().zip(1..) {
            let Op::Write { data, offset } = &record.op else {
                panic!()
            };
            assert_eq!(
                (record.seq, *offset, data[0]),
                (Seq(seq), seq * 4096, seq as u8)
            );
        }
    }
    let array = world.assemble(&[1, 2], false).unwrap();
    let device = array.open_prepared("v").unwrap();
    assert_eq!(world.run(device.records(A, Seq(13))).unwrap().len(), 8);
}

#[test]
fn an_incomplete_array_lists_what_is_left_and_says_so() {
    let world = crashed(5, Level::Raid5);
    assert!(world.assemble(&[0, 1], false).is_err());
    let mut found = 0;
    for disks in [[0, 1], [2, 3], [1, 4]] {
        let (logs, complete) = list(&world, &disks);
        let records: usize = logs.iter().map(|log| log.records.len()).sum();
        assert!(!complete && records < 20);
        found += records;
    }
    assert!(found > 0);
}
