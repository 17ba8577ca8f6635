//! Members that were away and come back: they get what they missed and nothing else, and are never
//! believed further than that is known.

use std::rc::Rc;
use std::time::Duration;

use cairn_blockdev::BlockDevice;
use cairn_blockdev::sim::Rng;
use cairn_raid::{Level, MemberState, RaidError, Readded, SyncAction};

use crate::members::assemble_unforced;
use crate::model::{Crash, ZERO};
use crate::races::Bench;
use crate::region::check_all;
use crate::story::Story;
use crate::world::{Shape, World, is_full};

const SHAPES: [(Level, usize); 3] = [(Level::Raid1, 3), (Level::Raid5, 4), (Level::Raid6, 5)];

fn each(mut history: impl FnMut(u64, Level, usize)) {
    for (level, members) in SHAPES {
        for seed in 1..=4 {
            println!("seed {seed}: {level} of {members}");
            history(seed, level, members);
        }
    }
}

impl Bench {
    fn write(&self, sectors: std::ops::Range<u64>) {
        let client = self.client(0..256);
        self.world.run(client.write(sectors, false)).unwrap();
    }

    fn vanish(&self, disk: usize, lose_cache: bool) {
        self.world.disks[disk].vanish(lose_cache);
    }

    /// Writes until the array has noticed that `disk` is gone.
    fn notice(&self, disk: usize) {
        self.write(0..1);
        self.world.run(self.array.drain()).unwrap();
        assert_eq!(self.state_of(disk), MemberState::Failed);
    }

    fn readd(&self, disk: usize) -> Result<Readded, RaidError> {
        self.world.disks[disk].come_back();
        self.world
            .run(self.array.readd_member(self.world.member(disk)))
    }

    /// Takes `disk` back and waits until it has caught up; gives the rows copied.
    fn catch_up(&self, disk: usize) -> u64 {
        let back = self.readd(disk).unwrap();
        let Readded::CatchingUp { rows } = back else {
            panic!("not caught up: {back:?}");
        };
        self.world.run_till("caught up", || {
            self.state_of(disk) == MemberState::InSync && self.array.status().sync.is_none()
        });
        rows
    }

    fn data_written(&self, disk: usize) -> u64 {
        let data = self.data_offset(0);
        self.world.disks[disk].written_in(data..data + (4 << 20))
    }

    /// What is read is right, also with any one other member gone; parity matches.
    fn check_without(&mut self, others: &[usize]) {
        self.check("as it is");
        self.world.audit(&self.array);
        for other in others {
            let path = self.world.path(*other);
            self.world.run(self.array.fail_member(&path)).unwrap();
            self.check("without another");
            self.world.audit_all(&self.array);
        }
    }

    /// A restart with the disks that are named.
    fn restart(&mut self, present: &[usize], crash: Crash) {
        self.world.crash(crash);
        self.array = self.world.assemble(present, false).unwrap();
        self.volume = self.array.open_volume("v").unwrap();
        let what = "after the restart";
        self.world
            .run(check_all(&self.volume, &self.model, Some(crash), what));
    }
}

#[test]
fn d9_a_member_that_was_away_for_some_writes_gets_their_rows_and_no_others() {
    each(|seed, level, members| {
        let mut bench = Bench::new(seed, level, members, 0);
        bench.world.run(bench.array.drain()).unwrap();
        bench.vanish(1, false);
        bench.notice(1);
        // Rows of 4 KiB (RAID 1) to 12 KiB: three of them, one twice.
        for first in [0, 64, 64, 200] {
            bench.write(first..first + 3);
        }
        bench.world.run(bench.array.drain()).unwrap();
        let before = bench.data_written(1);
        assert_eq!(bench.catch_up(1), 3);
        assert_eq!(bench.data_written(1) - before, 3 * 4096);
        assert!(bench.world.host.saw("RebuildStarted") && bench.world.host.saw("SpareActive"));
        bench.check_without(&[0]);
    });
}

impl Bench {
    fn data_offset(&self, disk: usize) -> u64 {
        self.array.data_offset(&self.world.path(disk)).unwrap()
    }
}

#[test]
fn d9_a_member_that_was_absent_over_restarts_is_caught_up_at_the_next() {
    each(|seed, level, members| {
        let mut bench = Bench::new(seed, level, members, 0);
        bench.world.run(bench.array.stop()).unwrap();
        let others: Vec<usize> = (0..members).filter(|disk| *disk != 1).collect();
        for (turn, crash) in [Crash::Kill, Crash::Power, Crash::Kill]
            .into_iter()
            .enumerate()
        {
            bench.restart(&others, crash);
            let first = 60 * u64::try_from(turn).unwrap();
            bench.write(first..first + 3);
            let client = bench.client(0..256);
            bench.world.run(client.flush()).unwrap();
            if seed % 2 == 0 {
                bench.world.run(bench.array.drain()).unwrap();
            }
        }
        let before = bench.data_written(1);
        let all = bench.world.all();
        bench.restart(&all, Crash::Power);
        bench.world.run_till("caught up", || is_full(&bench.array));
        let copied = bench.data_written(1) - before;
        assert!((4096..=3 * 4096).contains(&copied), "{copied}");
        bench.check_without(&[0]);
    });
}

#[test]
fn d12_what_a_member_lost_with_its_cache_is_caught_up() {
    each(|seed, level, members| {
        for drained in [false, true] {
            for away in 0..3 {
                let mut bench = Bench::new(seed, level, members, 0);
                let disk = usize::try_from(seed).unwrap() % members;
                for turn in 0..away {
                    bench.write(turn * 30..turn * 30 + 20);
                }
                // Complete rows, past the journal.
                bench.write(96..192);
                if drained {
                    bench.world.sleep(400 + 7 * away);
                }
                bench.vanish(disk, true);
                bench.notice(disk);
                bench.write(190..200);
                bench.catch_up(disk);
                let other = (disk + 1) % members;
                bench.check_without(&[other]);
            }
        }
    });
}

#[test]
fn d12_a_member_may_leave_with_its_cache_while_it_is_caught_up() {
    each(|seed, level, members| {
        for pause in 0..25 {
            let mut bench = Bench::new(seed, level, members, 0);
            bench.world.run(bench.array.drain()).unwrap();
            bench.vanish(1, true);
            bench.notice(1);
            bench.write(0..256);
            bench.world.run(bench.array.drain()).unwrap();
            assert!(matches!(bench.readd(1), Ok(Readded::CatchingUp { .. })));
            bench.world.run(
                bench
                    .world
                    .env
                    .clock
                    .sleep(Duration::from_micros(pause * 60)),
            );
            bench.vanish(1, true);
            bench.write(9..12);
            bench.world.run(bench.array.drain()).unwrap();
            bench.world.sleep(5);
            if bench.state_of(1) != MemberState::Failed {
                bench.notice(1);
            }
            bench.catch_up(1);
            bench.check_without(&[0]);
        }
    });
}

#[test]
fn d9_members_leave_and_come_back_under_load() {
    for (level, members) in SHAPES {
        for seed in 0..25u64 {
            println!("seed {seed}: {level} of {members}");
            let mut shape = Shape::new(level, members, 0, 4096);
            shape.disk_bytes = 330 << 20;
            shape.integrity = seed % 2 == 0;
            let mut story = Story::new(shape, 9_000 + seed);
            let array = story.world.create();
            let chapter = story.chapter(&array, 6);
            story.world.run(chapter);
            let disk = story.world.disks[usize::try_from(seed).unwrap() % members].clone();
            let member = story.world.member(usize::try_from(seed).unwrap() % members);
            let (clock, back) = (Rc::clone(&story.world.env.clock), Rc::clone(&array));
            let mut rng = Rng::new(seed);
            story.world.env.spawn.spawn(Box::pin(async move {
                for _ in 0..6 {
                    clock.sleep(Duration::from_micros(rng.below(4_000))).await;
                    disk.vanish(rng.one_in(2));
                    clock.sleep(Duration::from_micros(rng.below(4_000))).await;
                    disk.come_back();
                    // Refused as long as nobody has noticed that it was gone.
                    let _ = back.readd_member(member.clone()).await;
                }
            }));
            let chapter = story.chapter(&array, 25);
            story.world.run(chapter);
            story.world.sleep(100);
            if !is_full(&array) {
                let gone = World::in_state(&array, MemberState::Failed);
                for (i, disk) in story.world.disks.iter().enumerate() {
                    if gone.contains(&*disk.name()) {
                        let member = story.world.member(i);
                        story.world.run(array.readd_member(member)).unwrap();
                    }
                }
            }
            story.world.wait_until_filled(&array);
            story.check(&array, Crash::Kill, false);
            drop(array);
            story.cut(Crash::Power);
            let array = assemble_unforced(&story.world);
            story.check(&array, Crash::Power, false);
            story.end(array);
        }
    }
}

/// A member is caught up, under load, and everything is cut off after so many polls.
fn cut_off(seed: u64, level: Level, members: usize, crash: Crash, polls: u64) -> bool {
    let mut bench = Bench::new(seed, level, members, 0);
    bench.vanish(1, true);
    bench.notice(1);
    for first in [0, 40, 80, 120, 160] {
        bench.write(first..first + 7);
    }
    let client = bench.client(0..256);
    bench.world.run(client.flush()).unwrap();
    bench.world.disks[1].come_back();
    let (array, member) = (Rc::clone(&bench.array), bench.world.member(1));
    let clock = Rc::clone(&bench.world.env.clock);
    let story = async move {
        let catching_up = async {
            array.readd_member(member).await.unwrap();
            while !is_full(&array) {
                clock.sleep(Duration::from_micros(50)).await;
            }
        };
        let load = async {
            for first in [3, 100, 41] {
                client.write(first..first + 5, false).await.unwrap();
            }
            client.flush().await.unwrap();
        };
        futures_util::future::join(catching_up, load).await;
    };
    let told = bench.world.sim.run_until(story, polls).is_some();
    let all = bench.world.all();
    bench.restart(&all, crash);
    bench.world.run_till("caught up", || is_full(&bench.array));
    bench.check_without(&[0]);
    told
}

#[test]
fn d9_a_catch_up_may_be_cut_off_at_every_poll() {
    for (level, members) in [(Level::Raid1, 2), (Level::Raid5, 3), (Level::Raid6, 5)] {
        for crash in [Crash::Kill, Crash::Power] {
            let step = if level == Level::Raid5 { 1 } else { 4 };
            for polls in (0..).step_by(step) {
                println!("{level} of {members}, {crash:?} after {polls} polls");
                if cut_off(7 + polls, level, members, crash, polls) {
                    break;
                }
            }
        }
    }
}

#[test]
fn d9_a_row_that_was_trimmed_and_written_again_meanwhile_is_caught_up() {
    each(|seed, level, members| {
        let mut bench = Bench::new(seed, level, members, 0);
        bench.world.run(bench.array.drain()).unwrap();
        bench.vanish(1, false);
        bench.notice(1);
        // Everything goes, and some of it comes back: nothing of what was there may show.
        let size = bench.volume.geometry().size;
        bench.model.borrow_mut().begin(0..256, ZERO);
        let (volume, model) = (Rc::clone(&bench.volume), Rc::clone(&bench.model));
        bench.world.run(async {
            volume.discard(0, size).await.unwrap();
            volume.flush().await.unwrap();
        });
        model.borrow_mut().acked(0..256, ZERO, true);
        bench.world.run(bench.array.drain()).unwrap();
        assert_eq!(bench.array.status().space.written_bytes, 0);
        bench.write(10..12);
        bench.write(90..91);
        bench.world.run(bench.array.drain()).unwrap();
        assert_eq!(bench.catch_up(1), 2);
        // And what is written from now on reaches it.
        bench.write(150..153);
        bench.check_without(&[0]);
    });
}

#[test]
fn d9_two_members_of_raid6_are_away_at_different_times() {
    for seed in 1..=6 {
        let mut bench = Bench::new(seed, Level::Raid6, 6, 0);
        bench.world.run(bench.array.drain()).unwrap();
        bench.vanish(1, true);
        bench.notice(1);
        bench.write(20..40);
        bench.vanish(4, seed % 2 == 0);
        bench.notice(4);
        bench.write(100..110);
        bench.world.run(bench.array.drain()).unwrap();
        let first = bench.catch_up(1);
        bench.write(180..190);
        bench.world.run(bench.array.drain()).unwrap();
        if seed % 3 == 0 {
            // The map of the other outlives a restart, and the one that is back has it too.
            let here = [0, 1, 2, 3, 5];
            bench.restart(&here, Crash::Power);
        }
        let second = bench.catch_up(4);
        assert!(first > 0 && second > 0);
        bench.check_without(&[0, 2]);
    }
}

#[test]
fn d10_a_clone_is_refused_and_an_old_image_is_not_believed() {
    each(|seed, level, members| {
        let bench = Bench::new(seed, level, members, 0);
        bench.world.run(bench.array.stop()).unwrap();
        drop((bench.array, bench.volume));
        let old = bench.world.disks[1].sim().image();
        let array = bench.world.assemble_all();
        let volume = array.open_volume("v").unwrap();
        let mut bench = Bench {
            array,
            volume,
            ..bench
        };
        bench.write(0..200);
        // A copy of a member that lives, at another path.
        let mut copy = bench.world.member(1);
        copy.path = "/dev/copy".into();
        let refused = bench.world.run(bench.array.readd_member(copy));
        assert!(
            matches!(refused, Err(RaidError::Cloned { .. })),
            "{refused:?}"
        );
        // It goes, and what comes back is how it was before the last start.
        bench.vanish(1, false);
        bench.notice(1);
        bench.world.disks[1].sim().set_image(&old);
        let back = bench.readd(1).unwrap();
        assert!(
            matches!(&back, Readded::Spare { why } if why.contains("older image")),
            "{back:?}"
        );
        bench.world.run_till("rebuilt", || is_full(&bench.array));
        bench.check_without(&[0]);
    });
}

#[test]
fn d13_a_member_that_hung_is_taken_back_when_all_has_landed_and_not_before() {
    each(|seed, level, members| {
        let mut bench = Bench::new(seed, level, members, 0);
        let data = bench.data_offset(1);
        bench.world.disks[1].hold_writes(data..u64::MAX);
        bench.write(0..100);
        bench.world.sleep(40_000);
        assert_eq!(bench.state_of(1), MemberState::Failed);
        bench.write(50..60);
        bench.world.run(bench.array.drain()).unwrap();
        let refused = bench.readd(1);
        assert!(
            matches!(refused, Err(RaidError::Unanswered { .. })),
            "{refused:?}"
        );
        bench.world.sleep(20_000);
        // The late writes land now, over what is there.
        bench.world.disks[1].release();
        bench.world.run(bench.array.quiet(&bench.world.path(1)));
        bench.catch_up(1);
        bench.check_without(&[0]);
    });
}

#[test]
fn what_the_operator_failed_comes_back_by_the_operator_only() {
    each(|seed, level, members| {
        let mut bench = Bench::new(seed, level, members, 0);
        let path = bench.world.path(1);
        bench.world.run(bench.array.fail_member(&path)).unwrap();
        bench.write(3..9);
        let all = bench.world.all();
        bench.restart(&all, Crash::Kill);
        bench.world.sleep(500);
        assert_eq!(bench.state_of(1), MemberState::Failed);
        let member = bench.world.member(1);
        let by_itself = bench.world.run(bench.array.member_returned(member));
        assert_eq!(by_itself.unwrap(), None);
        bench.catch_up(1);
        bench.check_without(&[0]);
    });
}

#[test]
fn a_spare_in_the_slot_is_not_disturbed_by_the_member_that_was_there() {
    let bench = Bench::new(1, Level::Raid5, 4, 1);
    bench.vanish(1, false);
    bench.notice(1);
    bench.world.run_till("rebuilt", || is_full(&bench.array));
    bench.world.disks[1].come_back();
    let member = bench.world.member(1);
    let by_itself = bench.world.run(bench.array.member_returned(member));
    assert_eq!(by_itself.unwrap(), None);
    let back = bench.readd(1).unwrap();
    assert!(matches!(back, Readded::Spare { .. }), "{back:?}");
    assert_eq!(bench.state_of(1), MemberState::Spare);
}

#[test]
fn without_a_journal_a_member_is_rebuilt_whole() {
    let shape = Shape::new(Level::Raid5, 4, 0, 4096).without_journal();
    let mut bench = Bench::shaped(1, shape);
    bench.vanish(1, false);
    bench.notice(1);
    let back = bench.readd(1).unwrap();
    assert!(matches!(back, Readded::Spare { .. }), "{back:?}");
    bench.world.run_till("rebuilt", || is_full(&bench.array));
    bench.check_without(&[0]);
}

#[test]
fn a_status_tells_of_a_catch_up() {
    let bench = Bench::new(1, Level::Raid5, 4, 0);
    bench.world.run(bench.array.drain()).unwrap();
    bench.vanish(1, false);
    bench.notice(1);
    bench.write(0..256);
    bench.world.run(bench.array.drain()).unwrap();
    bench.world.disks[1].hold_writes(bench.data_offset(0)..255 << 20);
    assert!(matches!(bench.readd(1), Ok(Readded::CatchingUp { .. })));
    let sync = || bench.array.status().sync;
    bench.world.run_till("begun", || sync().is_some());
    let now = sync().unwrap();
    assert_eq!(now.action, SyncAction::CatchUp);
    assert_eq!((now.done_bytes, now.total_bytes), (0, 11 * 12_288));
    bench.world.disks[1].release();
    bench.world.run_till("caught up", || is_full(&bench.array));
}
