//! Disks that hang: reads go around them, writes wait no longer than the deadline. Bounds are in
//! simulated time.

use std::rc::Rc;
use std::time::Duration;

use cairn_blockdev::sim::{Effect, Fault, On, Strike};
use cairn_raid::{Deadlines, Level, MemberState, RaidError};

use crate::model::Crash;
use crate::races::{Bench, LABELS};
use crate::region::check_all;
use crate::world::{Shape, is_full};

/// A hung disk is thrown out by then: 30 s, and the grain of the watch.
pub(crate) const EJECTED_MS: u64 = 31_000;
/// A read is answered around a slow disk by then.
const AROUND_MS: u64 = 3_000;

const SHAPES: [(Level, usize); 3] = [(Level::Raid1, 3), (Level::Raid5, 4), (Level::Raid6, 5)];

impl Bench {
    pub(crate) fn now_ms(&self) -> u64 {
        self.world.env.clock.now().0 / 1_000_000
    }

    /// Reads all that was written; gives the simulated milliseconds that it took.
    fn timed_read(&self) -> u64 {
        let began = self.now_ms();
        let client = self.client(0..256);
        self.world.run(client.read(0..256)).unwrap();
        self.now_ms() - began
    }

    pub(crate) fn timed_write(&self) -> u64 {
        let began = self.now_ms();
        let client = self.client(0..256);
        self.world.run(client.write(0..256, false)).unwrap();
        self.now_ms() - began
    }

    /// Writes a part of a row.
    fn timed_part(&self) -> u64 {
        let began = self.now_ms();
        let client = self.client(0..256);
        self.world.run(client.write(8..24, false)).unwrap();
        self.now_ms() - began
    }

    pub(crate) fn state_of(&self, disk: usize) -> MemberState {
        let path = self.world.path(disk);
        let members = self.array.status().members;
        let member = members.iter().find(|m| *m.path == *path);
        member.map_or(MemberState::Removed, |m| m.state)
    }

    fn timeouts_of(&self, disk: usize) -> u64 {
        let path = self.world.path(disk);
        let members = self.array.status().members;
        members
            .iter()
            .filter(|m| *m.path == *path)
            .map(|m| m.errors.timeouts)
            .sum()
    }

    pub(crate) fn check(&self, what: &str) {
        self.world
            .run(check_all(&self.volume, &self.model, None, what));
    }

    /// Sleeps until `done`; panics after `ms`.
    pub(crate) fn within(&self, ms: u64, what: &str, mut done: impl FnMut() -> bool) {
        for _ in 0..ms / 10 {
            if done() {
                return;
            }
            self.world.sleep(10);
        }
        panic!("not {what} within {ms} ms");
    }

    /// The power goes, and disks with it.
    fn lose_and_check(self, gone: &[usize]) {
        let Self {
            mut world,
            array,
            volume,
            model,
        } = self;
        drop((array, volume));
        world.crash(Crash::Power);
        let mut left = world.all();
        left.retain(|disk| !gone.contains(disk));
        let array = world.assemble(&left, false).unwrap();
        let volume = array.open_volume("v").unwrap();
        let what = format!("without {gone:?}");
        world.run(check_all(&volume, &model, Some(Crash::Power), &what));
    }

    pub(crate) fn add_spare(&self, disk: usize) -> Result<(), RaidError> {
        let member = self.world.member(disk);
        self.world.run(self.array.add_spare(member))
    }
}

pub(crate) fn each(mut history: impl FnMut(u64, Level, usize)) {
    for (level, members) in SHAPES {
        for seed in 1..=3 {
            println!("seed {seed}: {level} of {members}");
            history(seed, level, members);
        }
    }
}

#[test]
fn d4_reads_of_a_disk_that_hangs_are_answered_by_the_others() {
    for (level, members) in SHAPES {
        for disk in 0..members {
            println!("{level} of {members}, disk {disk}");
            let bench = Bench::new(1, level, members, 0);
            bench.world.disks[disk].hang();
            let took = bench.timed_read();
            assert!(took <= AROUND_MS, "{took} ms");
            // Now that it is known to be slow nobody waits for it.
            let took = bench.timed_read();
            assert!(took <= 100, "{took} ms");
            bench.world.sleep(EJECTED_MS);
            assert_eq!(bench.state_of(disk), MemberState::Failed);
            bench.check("after the ejection");
            bench.world.run(bench.array.stop()).unwrap();
        }
    }
}

#[test]
fn d4_writes_are_acked_once_the_hung_disk_is_thrown_out() {
    each(|seed, level, members| {
        let bench = Bench::new(seed, level, members, 0);
        bench.world.disks[1].hang();
        let took = bench.timed_write();
        assert!(took <= EJECTED_MS, "{took} ms");
        assert_eq!(bench.state_of(1), MemberState::Failed);
        assert!(bench.timed_write() <= 100);
        bench.check("without the disk");
        if seed == 1 {
            bench.crash_and_check(Crash::Kill);
        } else {
            let client = bench.client(0..256);
            bench.world.run(client.flush()).unwrap();
            bench.crash_and_check(Crash::Power);
        }
    });
}

#[test]
fn d4_a_disk_that_hangs_holds_up_no_write_while_enough_others_have_the_journal() {
    for (level, members) in [(Level::Raid5, 4), (Level::Raid6, 5)] {
        for seed in 1..=4 {
            println!("seed {seed}: {level} of {members}");
            let bench = Bench::shaped(seed, Shape::new(level, members, 0, 65_536));
            let disk = usize::try_from(seed).unwrap() % members;
            bench.world.disks[disk].hang();
            // One of them finds out that it hangs; after that nobody waits for it.
            let took: u64 = (0..=members).map(|_| bench.timed_part()).sum();
            assert!(took <= AROUND_MS, "{took} ms");
            assert_eq!(bench.state_of(disk), MemberState::InSync);
            bench.check("while it hangs");
            bench.world.sleep(EJECTED_MS);
            assert_eq!(bench.state_of(disk), MemberState::Failed);
            bench.check("without it");
            bench.crash_and_check(Crash::Kill);
        }
    }
}

/// Nothing can be put in place, and still writes of the same blocks are acked one after the other.
#[test]
fn writes_of_one_column_do_not_wait_for_each_other_to_be_in_place() {
    each(|seed, level, members| {
        let bench = Bench::shaped(seed, Shape::new(level, members, 0, 65_536));
        for (index, disk) in bench.world.disks.iter().enumerate() {
            let data = bench.array.data_offset(&bench.world.path(index)).unwrap();
            disk.hold_writes(data..u64::MAX);
        }
        let began = bench.now_ms();
        let client = bench.client(0..256);
        for _ in 0..20 {
            bench.world.run(client.write(0..8, false)).unwrap();
        }
        let took = bench.now_ms() - began;
        assert!(took <= 1_000, "{took} ms");
        bench.check("in the journal");
        for disk in &bench.world.disks {
            disk.release();
        }
        bench.world.run(bench.array.drain()).unwrap();
        bench.check("in place");
        bench.crash_and_check(Crash::Kill);
    });
}

#[test]
fn d4_an_operation_that_begins_late_waits_only_for_the_ejection() {
    each(|seed, level, members| {
        let bench = Bench::new(seed, level, members, 0);
        bench.world.disks[0].hang();
        let first = bench.start_write(0..128);
        bench.world.sleep(28_000);
        let second = bench.start_write(128..256);
        bench.world.sleep(3_000);
        assert_eq!(
            (*first.borrow(), *second.borrow()),
            (Some(true), Some(true))
        );
        bench.check("after both");
    });
}

#[test]
fn d4_a_disk_that_answers_again_is_used_again() {
    each(|seed, level, members| {
        let bench = Bench::new(seed, level, members, 0);
        bench.world.disks[1].hang();
        let acked = bench.start_write(0..64);
        let client = bench.client(128..256);
        bench.world.run(client.read(128..256)).unwrap();
        bench.world.sleep(5_000);
        assert!(bench.world.host.saw("DiskSlow"));
        bench.world.disks[1].release();
        bench.within(1_000, "acked", || *acked.borrow() == Some(true));
        bench.world.sleep(60_000);
        assert!(bench.world.host.saw("DiskAnswers"));
        assert_eq!(bench.state_of(1), MemberState::InSync);
        // Reads come from it again: with the others gone, only it can give them.
        let lost = level.redundancy(members);
        for disk in (0..members).filter(|disk| *disk != 1).take(lost) {
            bench.world.disks[disk].inject(Fault::Gone);
        }
        bench.check("with what is left");
        assert_eq!(bench.state_of(1), MemberState::InSync);
    });
}

#[test]
fn d4_where_nobody_else_has_the_data_a_slow_disk_is_waited_for() {
    each(|seed, level, members| {
        let bench = Bench::new(seed, level, members, 0);
        for disk in 0..level.redundancy(members) {
            bench.world.disks[disk].inject(Fault::Gone);
        }
        bench.check("degraded");
        let slow = bench.world.disks[members - 1].clone();
        slow.hang();
        let clock = Rc::clone(&bench.world.env.clock);
        bench.world.env.spawn.spawn(Box::pin(async move {
            clock.sleep(Duration::from_secs(12)).await;
            slow.release();
        }));
        let took = bench.timed_read();
        assert!((11_000..14_000).contains(&took), "{took} ms");
        assert!(bench.timeouts_of(members - 1) > 0);
        assert_eq!(bench.state_of(members - 1), MemberState::InSync);
        assert!(bench.array.status().failure.is_none());
    });
}

/// All disks pause, as when their controller is reset, and nothing of the checksums is in memory.
#[test]
fn d4_where_nobody_else_has_the_checksum_pages_slow_disks_are_waited_for() {
    each(|seed, level, members| {
        let mut bench = Bench::new(seed, level, members, 0);
        bench.world.run(bench.array.stop()).unwrap();
        bench.world.crash(Crash::Kill);
        let present: Vec<usize> = (level.redundancy(members)..members).collect();
        bench.array = bench.world.assemble(&present, false).unwrap();
        bench.volume = bench.array.open_volume("v").unwrap();
        let paused: Vec<_> = present
            .iter()
            .map(|at| bench.world.disks[*at].clone())
            .collect();
        for disk in &paused {
            disk.hang();
        }
        let clock = Rc::clone(&bench.world.env.clock);
        bench.world.env.spawn.spawn(Box::pin(async move {
            clock.sleep(Duration::from_secs(9)).await;
            for disk in paused {
                disk.release();
            }
        }));
        let took = bench.timed_read();
        assert!((8_000..11_000).contains(&took), "{took} ms");
        bench.check("after the pause");
        for disk in present {
            assert_eq!(bench.state_of(disk), MemberState::InSync);
        }
        assert_eq!(bench.array.status().bad_blocks_total, 0);
    });
}

#[test]
fn d4_beyond_redundancy_a_hung_disk_gives_errors_and_hangs_nobody() {
    each(|seed, level, members| {
        let bench = Bench::new(seed, level, members, 0);
        for disk in 0..level.redundancy(members) {
            bench.world.disks[disk].inject(Fault::Gone);
        }
        bench.check("degraded");
        bench.world.disks[members - 1].hang();
        let client = bench.client(0..256);
        let began = bench.now_ms();
        assert!(bench.world.run(client.write(0..256, false)).is_err());
        // What is in memory can still be given; it is checked.
        let _ = bench.world.run(client.read(0..256));
        assert!(bench.world.run(client.flush()).is_err());
        assert!(bench.now_ms() - began <= EJECTED_MS);
        assert!(bench.array.status().failure.is_some());
        assert!(bench.world.run(bench.array.stop()).is_err());
    });
}

/// What only the slow disk may lose was given to others: after the flush it may lose its cache, and as many
/// disks as ever may be lost with it.
#[test]
fn d4_a_flush_goes_around_a_disk_that_hangs() {
    for (level, members) in [(Level::Raid5, 4), (Level::Raid6, 5)] {
        for seed in 1..=20 {
            println!("seed {seed}: {level} of {members}");
            let bench = Bench::shaped(seed, Shape::new(level, members, 0, 65_536));
            let disk = usize::try_from(seed).unwrap() % members;
            let client = bench.client(0..256);
            for part in 0..u64::try_from(2 * members).unwrap() {
                let at = part * 24;
                bench.world.run(client.write(at..at + 17, false)).unwrap();
            }
            if seed.is_multiple_of(2) {
                bench.world.disks[disk].hang();
            } else {
                bench.world.disks[disk].hold_flushes();
            }
            for most in [AROUND_MS, 100, 100] {
                let began = bench.now_ms();
                bench.world.run(client.flush()).unwrap();
                let took = bench.now_ms() - began;
                assert!(took <= most, "{took} ms");
                bench.world.run(client.write(3..20, false)).unwrap();
            }
            bench.world.run(client.write(30..47, true)).unwrap();
            assert!(bench.now_ms() < EJECTED_MS);
            assert_eq!(bench.state_of(disk), MemberState::InSync);
            drop(client);
            let gone = (1..=level.redundancy(members)).map(|next| (disk + next) % members);
            bench.lose_and_check(&gone.collect::<Vec<_>>());
        }
    }
}

#[test]
fn d4_a_flush_goes_around_as_many_disks_as_may_be_lost() {
    for seed in 1..=10 {
        let bench = Bench::shaped(seed, Shape::new(Level::Raid6, 6, 0, 65_536));
        let client = bench.client(0..256);
        for part in 0..12 {
            let at = part * 20;
            bench.world.run(client.write(at..at + 17, false)).unwrap();
        }
        bench.world.disks[1].hang();
        bench.world.disks[4].hold_flushes();
        let began = bench.now_ms();
        bench.world.run(client.flush()).unwrap();
        let took = bench.now_ms() - began;
        assert!(took <= AROUND_MS, "{took} ms");
        for disk in [1, 4] {
            assert_eq!(bench.state_of(disk), MemberState::InSync);
        }
        drop(client);
        let prompt = [0, 2, 3, 5];
        let first = usize::try_from(seed).unwrap();
        let gone = [prompt[first % 4], prompt[(first + 1 + first / 4) % 4]];
        bench.lose_and_check(&gone);
    }
}

#[test]
fn d4_a_flush_goes_around_a_journal_disk_that_hangs() {
    for (level, members, journal_disks) in [(Level::Raid5, 4, 2), (Level::Raid6, 5, 3)] {
        for seed in 1..=10 {
            println!("seed {seed}: {level} of {members}");
            let shape = Shape::new(level, members, 0, 65_536).with_journal_disks(journal_disks);
            let bench = Bench::shaped(seed, shape);
            let client = bench.client(0..256);
            for part in 0..8 {
                let at = part * 24;
                bench.world.run(client.write(at..at + 17, false)).unwrap();
            }
            let disk = members + usize::try_from(seed).unwrap() % journal_disks;
            if seed.is_multiple_of(2) {
                bench.world.disks[disk].hang();
            } else {
                bench.world.disks[disk].hold_flushes();
            }
            for most in [AROUND_MS, 100] {
                let began = bench.now_ms();
                bench.world.run(client.flush()).unwrap();
                let took = bench.now_ms() - began;
                assert!(took <= most, "{took} ms");
                bench.world.run(client.write(3..20, true)).unwrap();
            }
            assert!(bench.now_ms() < EJECTED_MS);
            drop(client);
            // As many members as may be lost, and all journal disks but the slow one.
            let gone = (0..level.redundancy(members))
                .map(|next| (usize::try_from(seed).unwrap() + next) % members);
            let rings = (members..members + journal_disks).filter(|ring| *ring != disk);
            bench.lose_and_check(&gone.chain(rings).collect::<Vec<_>>());
        }
    }
}

/// The client has its answer long before: what the disk was asked is followed all the same.
#[test]
fn d4_a_flush_that_a_slow_disk_fails_in_the_end_throws_it_out() {
    for (level, members) in [(Level::Raid5, 4), (Level::Raid6, 5)] {
        for seed in 1..=5 {
            println!("seed {seed}: {level} of {members}");
            let bench = Bench::shaped(seed, Shape::new(level, members, 0, 65_536));
            let client = bench.client(0..256);
            bench.world.run(client.write(0..17, false)).unwrap();
            bench.world.disks[1].hold_flushes();
            bench.world.run(client.flush()).unwrap();
            assert_eq!(bench.state_of(1), MemberState::InSync);
            bench.world.disks[1].inject(Fault::FlushFails);
            bench.world.disks[1].release();
            bench.within(1_000, "thrown out", || {
                bench.state_of(1) == MemberState::Failed
            });
            bench.check("without it");
            drop(client);
            bench.crash_and_check(Crash::Power);
        }
    }
}

/// What it lost in that can't be known, and its next flush succeeds (fault D3): nobody is acked before it is out.
#[test]
fn d4_a_disk_whose_flush_fails_while_another_hangs_is_out_before_the_ack() {
    for seed in 1..=10 {
        let bench = Bench::shaped(seed, Shape::new(Level::Raid6, 6, 0, 65_536));
        let client = bench.client(0..256);
        for part in 0..12 {
            let at = part * 20;
            bench.world.run(client.write(at..at + 17, false)).unwrap();
        }
        bench.world.disks[1].hold_flushes();
        let fails = Strike::new(On::Flush, Effect::FailAndLoseCache);
        bench.world.disks[2].sim().strike(fails);
        let began = bench.now_ms();
        bench.world.run(client.flush()).unwrap();
        // Its label waits for the other one.
        assert!(bench.now_ms() - began <= EJECTED_MS);
        assert_eq!(bench.state_of(2), MemberState::Failed);
        drop(client);
        bench.crash_and_check(Crash::Power);
    }
}

/// A flush of a disk fails in the middle of what waits for another disk's pages: the next flush, a client's, says
/// nothing about what was in its cache.
#[test]
fn d3_a_flush_that_failed_for_pages_fails_the_clients_as_well() {
    let mut fired = 0;
    for earlier in 0..10 {
        println!("after {earlier} flushes");
        let bench = Bench::shaped(1, Shape::new(Level::Raid6, 6, 0, 65_536));
        let client = bench.client(0..256);
        bench.world.run(client.write(0..256, false)).unwrap();
        bench.world.run(client.write(3..20, false)).unwrap();
        let data = bench.array.data_offset(&bench.world.path(1)).unwrap();
        bench.world.disks[1].hold_writes(LABELS.end..data);
        let fails = Strike::new(On::Flush, Effect::FailAndLoseCache);
        let struck = bench.world.disks[2].sim().clone();
        struck.strike(fails.after(earlier));
        let array = Rc::clone(&bench.array);
        bench.world.env.spawn.spawn(Box::pin(async move {
            let _ = array.drain().await;
        }));
        bench.world.sleep(1_000);
        bench.world.run(client.flush()).unwrap();
        if struck.struck().caches_lost > 0 {
            fired += 1;
            assert_eq!(bench.state_of(2), MemberState::Failed);
        }
        struck.heal();
        drop(client);
        bench.crash_and_check(Crash::Power);
    }
    assert!(fired > 2, "{fired}");
}

/// In a mirror of two nobody else could have what the slow disk may lose; in a degraded RAID 5 of four two others.
#[test]
fn d4_a_flush_waits_where_too_few_others_answer() {
    for (level, members, lost) in [(Level::Raid1, 2, 0), (Level::Raid5, 4, 1)] {
        for seed in 1..=5 {
            println!("seed {seed}: {level} of {members}");
            let bench = Bench::shaped(seed, Shape::new(level, members, 0, 65_536));
            for disk in 0..lost {
                let path = bench.world.path(disk);
                bench.world.run(bench.array.fail_member(&path)).unwrap();
            }
            let client = bench.client(0..256);
            bench.world.run(client.write(0..17, false)).unwrap();
            let slow = bench.world.disks[members - 1].clone();
            slow.hold_flushes();
            let clock = Rc::clone(&bench.world.env.clock);
            bench.world.env.spawn.spawn(Box::pin(async move {
                clock.sleep(Duration::from_secs(12)).await;
                slow.release();
            }));
            let began = bench.now_ms();
            bench.world.run(client.flush()).unwrap();
            let took = bench.now_ms() - began;
            if level == Level::Raid1 {
                assert!((11_000..14_000).contains(&took), "{took} ms");
            } else {
                assert!(took <= AROUND_MS, "{took} ms");
            }
            assert_eq!(bench.state_of(members - 1), MemberState::InSync);
            drop(client);
            bench.crash_and_check(Crash::Power);
        }
    }
}

#[test]
fn d4_a_disk_that_hangs_in_a_flush_holds_one_of_complete_rows_up_until_its_ejection() {
    each(|seed, level, members| {
        let bench = Bench::new(seed, level, members, 0);
        let client = bench.client(0..256);
        bench.world.run(client.write(0..200, false)).unwrap();
        bench.world.disks[2].hold_flushes();
        let began = bench.now_ms();
        bench.world.run(client.flush()).unwrap();
        assert!(bench.now_ms() - began <= EJECTED_MS);
        assert_eq!(bench.state_of(2), MemberState::Failed);
        bench.crash_and_check(Crash::Power);
    });
}

#[test]
fn d4_a_disk_that_hangs_in_a_label_commit_doesnt_hold_up_the_ejection_of_another_for_ever() {
    for (level, members) in [(Level::Raid1, 3), (Level::Raid6, 5)] {
        for seed in 1..=3 {
            println!("seed {seed}: {level} of {members}");
            let bench = Bench::new(seed, level, members, 0);
            bench.world.disks[0].hold_writes(LABELS);
            bench.world.disks[1].inject(Fault::WritesFail);
            let took = bench.timed_write();
            assert!(took <= EJECTED_MS, "{took} ms");
            assert_eq!(bench.state_of(0), MemberState::Failed);
            assert_eq!(bench.state_of(1), MemberState::Failed);
            bench.check("without both");
            bench.crash_and_check(Crash::Kill);
        }
    }
}

#[test]
fn d4_an_array_stops_with_a_disk_that_hangs() {
    each(|seed, level, members| {
        let bench = Bench::new(seed, level, members, 0);
        bench.timed_write();
        bench.world.disks[0].hang();
        let began = bench.now_ms();
        bench.world.run(bench.array.stop()).unwrap();
        assert!(bench.now_ms() - began <= 2 * EJECTED_MS);
        // The others say that it stopped cleanly: it starts without force, and without the disk.
        drop((Rc::clone(&bench.array), Rc::clone(&bench.volume)));
        let present: Vec<usize> = (1..members).collect();
        let array = bench.world.assemble(&present, false).unwrap();
        assert!(array.status().clean);
    });
}

#[test]
fn d4_an_array_goes_clean_past_a_disk_that_hangs() {
    each(|seed, level, members| {
        let bench = Bench::new(seed, level, members, 0);
        bench.timed_write();
        bench.world.disks[members - 1].hang();
        bench.within(120_000, "clean without it", || {
            bench.array.status().clean && bench.state_of(members - 1) == MemberState::Failed
        });
        bench.check("without the disk");
    });
}

#[test]
fn d4_a_disk_that_hangs_at_the_start_is_done_without() {
    each(|seed, level, members| {
        let mut bench = Bench::new(seed, level, members, 0);
        bench.world.run(bench.array.stop()).unwrap();
        let Bench { array, volume, .. } = &bench;
        drop((Rc::clone(array), Rc::clone(volume)));
        bench.world.crash(Crash::Kill);
        bench.world.disks[1].hang();
        let array = bench.world.assemble(&bench.world.all(), false).unwrap();
        assert_eq!(
            array.status().redundancy_left,
            level.redundancy(members) - 1
        );
        assert!(array.unanswered(&bench.world.path(1)).is_some());
    });
}

#[test]
fn d4_a_rebuild_goes_around_a_source_that_hangs() {
    for (level, members) in [(Level::Raid1, 3), (Level::Raid6, 5)] {
        for seed in 1..=3 {
            println!("seed {seed}: {level} of {members}");
            let bench = Bench::new(seed, level, members, 1);
            bench.world.disks[2].hold_reads(0..u64::MAX);
            bench
                .world
                .run(bench.array.fail_member(&bench.world.path(0)))
                .unwrap();
            bench.within(40_000, "rebuilt", || {
                bench.state_of(members) == MemberState::InSync
            });
            bench.world.sleep(EJECTED_MS);
            assert_eq!(bench.state_of(2), MemberState::Failed);
            bench.check("after the rebuild");
            bench.world.audit(&bench.array);
        }
    }
}

#[test]
fn a4_a_spare_that_hangs_while_it_is_filled_is_followed_by_the_next() {
    each(|seed, level, members| {
        let bench = Bench::new(seed, level, members, 2);
        let data = bench.array.data_offset(&bench.world.path(members)).unwrap();
        // Whichever is taken first: it hangs in its data zone.
        bench.world.disks[members].hold_writes(data..u64::MAX);
        bench
            .world
            .run(bench.array.fail_member(&bench.world.path(0)))
            .unwrap();
        bench.within(120_000, "rebuilt", || is_full(&bench.array));
        bench.check("after the rebuild");
        bench.world.audit(&bench.array);
    });
}

/// An array that was killed in the middle of its writes, and where the data of its members begins.
fn killed(seed: u64, level: Level, members: usize) -> (Bench, u64) {
    let shape = Shape::new(level, members, 0, 4096).without_journal();
    let mut bench = Bench::shaped(seed, shape);
    bench.timed_write();
    let data = bench.array.data_offset(&bench.world.path(1)).unwrap();
    bench.world.crash(Crash::Kill);
    (bench, data)
}

#[test]
fn d4_parity_in_doubt_never_stands_in_for_a_disk_that_is_slow_at_the_start() {
    each(|seed, level, members| {
        let (mut bench, data) = killed(seed, level, members);
        let slow = bench.world.disks[1].clone();
        // Labels and maps are read as ever.
        slow.hold_reads(data..255 << 20);
        let clock = Rc::clone(&bench.world.env.clock);
        bench.world.env.spawn.spawn(Box::pin(async move {
            clock.sleep(Duration::from_secs(10)).await;
            slow.release();
        }));
        let began = bench.now_ms();
        bench.array = bench.world.assemble(&bench.world.all(), false).unwrap();
        assert!(bench.now_ms() - began >= 9_000);
        assert_eq!(bench.state_of(1), MemberState::InSync);
        bench.volume = bench.array.open_volume("v").unwrap();
        bench.check("after the start");
        bench.world.audit(&bench.array);
    });
}

#[test]
fn d4_a_disk_that_hangs_while_parity_is_recomputed_refuses_the_start_in_time() {
    each(|seed, level, members| {
        let (bench, data) = killed(seed, level, members);
        bench.world.disks[1].hold_reads(data..255 << 20);
        let began = bench.now_ms();
        let refused = bench.world.assemble(&bench.world.all(), false);
        assert!(bench.now_ms() - began <= 2 * EJECTED_MS);
        assert!(
            matches!(
                &refused,
                Err(RaidError::NotStarted {
                    force_may_help: true,
                    ..
                })
            ),
            "{refused:?}"
        );
    });
}

#[test]
fn d4_the_deadlines_can_be_set() {
    let bench = Bench::new(1, Level::Raid6, 5, 0);
    bench.array.set_deadlines(Deadlines {
        reconstruct: Duration::from_millis(500),
        eject: Duration::from_secs(5),
    });
    bench.world.disks[1].hang();
    assert!(bench.timed_read() <= 1_000);
    bench.world.sleep(5_000);
    assert_eq!(bench.state_of(1), MemberState::Failed);
}
