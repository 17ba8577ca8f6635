//! What a disk that hung still owes when it was thrown out: it lands on nothing that is in use.

use std::rc::Rc;
use std::time::Duration;

use cairn_raid::{Level, MemberState, RaidError};

use crate::hung::{EJECTED_MS, each};
use crate::model::Crash;
use crate::races::Bench;
use crate::world::{World, is_full};

#[test]
fn d13_a_late_write_of_a_hung_disk_lands_before_it_may_come_back() {
    each(|seed, level, members| {
        let bench = Bench::new(seed, level, members, 0);
        let path = bench.world.path(1);
        bench.world.disks[1].hold_writes(0..u64::MAX);
        let took = bench.timed_write();
        assert!(took <= EJECTED_MS, "{took} ms");
        assert_eq!(bench.state_of(1), MemberState::Failed);
        for _ in 0..3 {
            let refused = bench.add_spare(1);
            assert!(
                matches!(&refused, Err(RaidError::Unanswered { disk, .. }) if **disk == *path),
                "{refused:?}"
            );
            let replaced = bench.array.replace_member(&path, bench.world.member(1));
            let refused = bench.world.run(replaced);
            assert!(
                matches!(&refused, Err(RaidError::Unanswered { .. })),
                "{refused:?}"
            );
            bench.world.sleep(10_000);
            // The others go on meanwhile.
            bench.timed_write();
        }
        assert!(bench.array.unanswered(&path).is_some());
        // A minute after they were sent the writes land, over what the disk held.
        bench.world.disks[1].release();
        bench.world.run(bench.array.quiet(&path));
        assert!(bench.array.unanswered(&path).is_none());
        bench.add_spare(1).unwrap();
        bench.within(10_000, "rebuilt", || is_full(&bench.array));
        bench.check("with the disk back");
        bench.world.audit(&bench.array);
        bench.world.sleep(60_000);
        bench.world.audit(&bench.array);
        assert!(bench.world.host.saw("DiskAnswers"));
        bench.crash_and_check(Crash::Power);
    });
}

#[test]
fn d13_a_disk_under_another_path_is_known_by_what_is_on_it() {
    let bench = Bench::new(1, Level::Raid6, 5, 0);
    bench.world.disks[1].hold_writes(0..u64::MAX);
    bench.timed_write();
    let mut again = bench.world.member(1);
    again.path = "/dev/other".into();
    let refused = bench.world.run(bench.array.add_spare(again));
    assert!(
        matches!(&refused, Err(RaidError::Unanswered { .. })),
        "{refused:?}"
    );
}

#[test]
fn d13_a_disk_that_was_failed_with_writes_on_their_way_is_added_after_their_end() {
    each(|seed, level, members| {
        let bench = Bench::new(seed, level, members, 0);
        let path = bench.world.path(1);
        let data = bench.array.data_offset(&path).unwrap();
        bench.world.disks[1].hold_writes(data..u64::MAX);
        let acked = bench.start_write(0..256);
        bench.world.sleep(50);
        bench.world.run(bench.array.fail_member(&path)).unwrap();
        let disk = bench.world.disks[1].clone();
        let clock = Rc::clone(&bench.world.env.clock);
        bench.world.env.spawn.spawn(Box::pin(async move {
            clock.sleep(Duration::from_millis(900)).await;
            disk.release();
        }));
        let began = bench.now_ms();
        bench.add_spare(1).unwrap();
        assert!(bench.now_ms() - began >= 900);
        bench.within(10_000, "rebuilt", || is_full(&bench.array));
        assert_eq!(*acked.borrow(), Some(true));
        bench.check("with the disk back");
        bench.world.audit(&bench.array);
        assert!(World::in_state(&bench.array, MemberState::Failed).is_empty());
    });
}

#[test]
fn d13_a_read_that_its_caller_gave_up_is_still_on_its_way() {
    let bench = Bench::new(1, Level::Raid5, 4, 0);
    for disk in &bench.world.disks {
        disk.hold_reads(0..u64::MAX);
    }
    let client = bench.client(0..256);
    let given_up = bench.world.sim.run_until(client.read(0..256), 50);
    assert!(given_up.is_none());
    drop(given_up);
    bench.world.sleep(500);
    let owed = |disk| bench.array.unanswered(&bench.world.path(disk));
    assert!((0..4).all(|disk| owed(disk).is_some_and(|owed| owed.operations > 0)));
    for disk in &bench.world.disks {
        disk.release();
    }
    for disk in 0..4 {
        bench.world.run(bench.array.quiet(&bench.world.path(disk)));
        assert!(owed(disk).is_none());
    }
    bench.check("afterwards");
}
