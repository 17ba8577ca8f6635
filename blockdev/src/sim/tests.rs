//! Each fault does what it says and is counted, and nothing depends on anything but the seed.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::{
    Completion, Effect, Fault, FaultCounts, On, Sim, SimDisk, SimDiskConfig, Strike, Watch,
};
use crate::buf::Buf;
use crate::device::{BlockDevice, WriteFlags, ZeroFlags, read_vec};
use crate::error::IoErrorKind;

const CONFIG: SimDiskConfig = SimDiskConfig {
    size: 1 << 20,
    logical_block: 512,
    latency_us_max: 50,
};

fn world(seed: u64) -> (Sim, SimDisk) {
    let sim = Sim::new(seed);
    let disk = SimDisk::new("d", CONFIG, &sim.env(), seed);
    (sim, disk)
}

async fn put(disk: &SimDisk, offset: u64, len: usize, byte: u8) -> Result<(), IoErrorKind> {
    let data = Buf::copy_of(&vec![byte; len]).freeze();
    let written = disk.write(offset, data, WriteFlags::default()).await;
    written.map_err(|error| error.kind)
}

async fn put_fua(disk: &SimDisk, offset: u64, len: usize, byte: u8) {
    let data = Buf::copy_of(&vec![byte; len]).freeze();
    disk.write(offset, data, WriteFlags { fua: true })
        .await
        .unwrap();
}

async fn get(disk: &SimDisk, offset: u64, len: usize) -> Result<Vec<u8>, IoErrorKind> {
    let read = read_vec(disk, offset, len).await;
    read.map(|buf| buf.to_vec()).map_err(|error| error.kind)
}

fn all(bytes: &[u8], byte: u8) -> bool {
    bytes.iter().all(|&b| b == byte)
}

#[test]
fn a_power_cut_keeps_what_was_flushed() {
    let mut torn = 0;
    for seed in 0..80 {
        let (sim, disk) = world(seed);
        sim.block_on(async {
            put(&disk, 4096, 8192, 1).await.unwrap();
            disk.flush().await.unwrap();
            put(&disk, 8192, 4096, 2).await.unwrap();
        });
        disk.power_cut();
        assert!(all(&disk.peek(4096, 4096), 1));
        for sector in disk.peek(8192, 4096).chunks(512) {
            assert!(all(sector, sector[0]) && [1, 2].contains(&sector[0]));
        }
        torn += disk.struck().torn_writes;
    }
    assert!(torn > 5, "{torn}");
}

#[test]
fn nothing_smaller_than_the_disk_writes_at_once_is_torn() {
    for (tear, torn_expected) in [(512, true), (4096, false)] {
        let mut torn_blocks = 0;
        for seed in 0..80 {
            let (sim, disk) = world(seed);
            disk.tear_in(tear);
            sim.block_on(async {
                put(&disk, 0, 16384, 2).await.unwrap();
            });
            disk.power_cut();
            let blocks = disk.peek(0, 16384);
            torn_blocks += blocks.chunks(4096).filter(|b| !all(b, b[0])).count();
        }
        assert_eq!(torn_blocks > 0, torn_expected, "{tear}");
    }
}

#[test]
fn a_flush_covers_what_had_completed_when_it_was_asked_for() {
    let (mut kept, mut lost) = (0, 0);
    for seed in 0..60 {
        let (sim, disk) = world(seed);
        sim.block_on(async {
            put(&disk, 0, 4096, 1).await.unwrap();
            put(&disk, 4096, 4096, 1).await.unwrap();
            let flush = disk.flush();
            // Over the first page once more, after the flush was asked for.
            put(&disk, 0, 4096, 2).await.unwrap();
            flush.await.unwrap();
        });
        disk.power_cut();
        assert!(all(&disk.peek(4096, 4096), 1));
        for sector in disk.peek(0, 4096).chunks(512) {
            assert!(all(sector, 1) || all(sector, 2));
            *(if sector[0] == 1 { &mut lost } else { &mut kept }) += 1;
        }
    }
    assert!(kept > 0 && lost > 0);
}

#[test]
fn what_was_written_through_never_gives_way_to_something_older() {
    for seed in 0..60 {
        let (sim, disk) = world(seed);
        sim.block_on(async {
            put(&disk, 0, 8192, 1).await.unwrap();
            put_fua(&disk, 0, 4096, 2).await;
        });
        disk.power_cut();
        assert!(all(&disk.peek(0, 4096), 2));
    }
}

#[test]
fn zeros_over_what_was_never_written_leave_nothing_and_over_data_they_count() {
    for seed in 0..40 {
        let (sim, disk) = world(seed);
        sim.block_on(async {
            disk.write_zeroes(0, 1 << 20, ZeroFlags::default())
                .await
                .unwrap();
            put(&disk, 4096, 4096, 1).await.unwrap();
            disk.flush().await.unwrap();
            disk.write_zeroes(0, 1 << 20, ZeroFlags::default())
                .await
                .unwrap();
            assert!(all(&get(&disk, 4096, 4096).await.unwrap(), 0));
        });
        let durable = seed % 2 == 0;
        if durable {
            sim.block_on(disk.flush()).unwrap();
        }
        disk.power_cut();
        let now = disk.peek(4096, 4096);
        assert!(all(&now, 0) || (!durable && now.chunks(512).all(|s| all(s, 0) || all(s, 1))));
    }
}

#[test]
fn a_killed_users_writes_land_whole_in_part_or_not_and_completed_ones_stay() {
    let (mut whole, mut none, mut part) = (0, 0, 0);
    for seed in 0..60 {
        let (sim, disk) = world(seed);
        sim.block_on(put(&disk, 0, 4096, 1)).unwrap();
        let in_flight = disk.write(
            4096,
            Buf::copy_of(&[2; 4096]).freeze(),
            WriteFlags::default(),
        );
        drop(in_flight);
        disk.kill();
        assert!(all(&disk.peek(0, 4096), 1));
        let landed = disk
            .peek(4096, 4096)
            .iter()
            .map(|b| usize::from(*b == 2))
            .sum::<usize>();
        *(match landed {
            0 => &mut none,
            4096 => &mut whole,
            _ => &mut part,
        }) += 1;
    }
    assert!(whole > 0 && none > 0 && part > 0);
}

#[test]
fn a_bad_range_fails_reads_until_it_is_written() {
    let (sim, disk) = world(1);
    disk.inject(Fault::BadRange {
        offset: 4096,
        len: 512,
    });
    sim.block_on(async {
        assert_eq!(
            get(&disk, 4096, 4096).await.unwrap_err(),
            IoErrorKind::Medium
        );
        put(&disk, 4096, 4096, 3).await.unwrap();
        assert!(all(&get(&disk, 4096, 4096).await.unwrap(), 3));
    });
    assert_eq!(disk.struck().read_errors, 1);
}

#[test]
fn the_kth_operation_of_its_kind_is_struck_for_every_k() {
    for k in 0..5u64 {
        let (sim, disk) = world(k);
        let medium = Effect::Fail(IoErrorKind::Medium);
        disk.strike(Strike::new(On::Read, medium).after(k));
        disk.strike(Strike::new(On::Write, medium).after(k));
        disk.strike(Strike::new(On::Flush, medium).after(k));
        sim.block_on(async {
            for i in 0..5u64 {
                let written = put(&disk, 0, 512, 1).await;
                let read = get(&disk, 0, 512).await;
                let flushed = disk.flush().await;
                assert_eq!(written.is_err(), i == k);
                assert_eq!(read.is_err(), i == k);
                assert_eq!(flushed.is_err(), i == k);
            }
        });
        let want = FaultCounts {
            read_errors: 1,
            write_errors: 1,
            flush_errors: 1,
            ..FaultCounts::default()
        };
        assert_eq!(disk.struck(), want);
    }
}

#[test]
fn a_strike_within_a_range_hits_what_touches_it_as_often_as_it_says() {
    let (sim, disk) = world(1);
    let medium = Effect::Fail(IoErrorKind::Medium);
    disk.strike(Strike::new(On::Write, medium).within(4096..4608).times(2));
    sim.block_on(async {
        put(&disk, 0, 4096, 1).await.unwrap();
        put(&disk, 0, 8192, 1).await.unwrap_err();
        put(&disk, 4608, 512, 1).await.unwrap();
        put(&disk, 4096, 512, 1).await.unwrap_err();
        put(&disk, 4096, 512, 1).await.unwrap();
        disk.strike(Strike::new(On::Write, medium).within(0..512).always());
        for _ in 0..5 {
            put(&disk, 0, 512, 1).await.unwrap_err();
        }
        disk.heal();
        put(&disk, 0, 512, 1).await.unwrap();
    });
}

#[test]
fn a_lost_write_is_acked_and_nowhere() {
    let (sim, disk) = world(1);
    sim.block_on(async {
        put(&disk, 0, 4096, 1).await.unwrap();
        disk.strike(Strike::new(On::Write, Effect::Lose));
        put(&disk, 0, 4096, 2).await.unwrap();
        assert!(all(&get(&disk, 0, 4096).await.unwrap(), 1));
    });
    assert_eq!(disk.struck().lost_writes, 1);
}

#[test]
fn a_misdirected_write_is_acked_and_elsewhere() {
    let (sim, disk) = world(1);
    sim.block_on(async {
        put(&disk, 0, 12288, 1).await.unwrap();
        disk.strike(Strike::new(On::Write, Effect::Misdirect(8192)));
        put(&disk, 0, 4096, 2).await.unwrap();
        assert!(all(&get(&disk, 0, 8192).await.unwrap(), 1));
        assert!(all(&get(&disk, 8192, 4096).await.unwrap(), 2));
    });
    assert_eq!(disk.struck().misdirected_writes, 1);
}

#[test]
fn rot_flips_one_stored_bit_and_stays_over_a_flush_and_a_power_cut() {
    let (sim, disk) = world(1);
    let ones = |disk: &SimDisk| -> u32 { disk.peek(0, 4096).iter().map(|b| b.count_ones()).sum() };
    sim.block_on(async {
        put(&disk, 0, 4096, 0).await.unwrap();
        disk.flush().await.unwrap();
        disk.rot(100, 3);
        assert_eq!(disk.peek(100, 1), [8]);
        disk.strike(Strike::new(On::Read, Effect::Rot));
        get(&disk, 0, 4096).await.unwrap();
        disk.flush().await.unwrap();
    });
    disk.power_cut();
    assert_eq!((ones(&disk), disk.struck().rotten), (2, 2));
}

#[test]
fn a_flush_that_fails_once_loses_cache_and_then_succeeds_as_if_nothing_had_been() {
    let mut lost = 0;
    for seed in 0..40 {
        let (sim, disk) = world(seed);
        disk.strike(Strike::new(On::Flush, Effect::FailAndLoseCache));
        sim.block_on(async {
            put(&disk, 0, 4096, 1).await.unwrap();
            disk.flush().await.unwrap_err();
            disk.flush().await.unwrap();
            lost += usize::from(!all(&get(&disk, 0, 4096).await.unwrap(), 1));
        });
        assert_eq!(
            (disk.struck().caches_lost, disk.struck().flush_errors),
            (1, 1)
        );
    }
    assert!(lost > 5);
}

#[test]
fn a_flush_that_lies_leaves_everything_to_the_next_power_cut() {
    let mut lost = 0;
    for seed in 0..40 {
        let (sim, disk) = world(seed);
        disk.strike(Strike::new(On::Flush, Effect::Lie).always());
        sim.block_on(async {
            put(&disk, 0, 4096, 1).await.unwrap();
            disk.flush().await.unwrap();
        });
        assert_eq!(disk.struck().lying_flushes, 1);
        disk.power_cut();
        lost += usize::from(!all(&disk.peek(0, 4096), 1));
    }
    assert!(lost > 5);
}

#[test]
fn what_hangs_completes_when_it_is_released_or_its_time_is_over() {
    let (sim, disk) = world(1);
    let env = sim.env();
    disk.strike(Strike::new(On::Any, Effect::Hang(None)).always());
    let ended = Rc::new(RefCell::new(0));
    for _ in 0..3 {
        let (disk, ended) = (disk.clone(), Rc::clone(&ended));
        env.spawn.spawn(Box::pin(async move {
            put(&disk, 0, 4096, 1).await.unwrap();
            *ended.borrow_mut() += 1;
        }));
    }
    sim.block_on(env.clock.sleep(Duration::from_mins(1)));
    assert_eq!((*ended.borrow(), disk.hung()), (0, 3));
    assert!(all(&disk.peek(0, 4096), 0), "nothing landed");
    disk.heal();
    sim.block_on(env.clock.sleep(Duration::from_secs(1)));
    assert_eq!((*ended.borrow(), disk.hung()), (3, 0));
    assert!(all(&disk.peek(0, 4096), 1), "late, but there");
    let minute = Duration::from_mins(1);
    disk.strike(Strike::new(On::Read, Effect::Hang(Some(minute))));
    let before = env.clock.now();
    sim.block_on(get(&disk, 0, 512)).unwrap();
    assert!(env.clock.now().since(before) >= minute);
    assert_eq!(disk.struck().hung, 4);
}

#[test]
fn a_slow_disk_takes_its_time() {
    let (sim, disk) = world(1);
    let env = sim.env();
    disk.strike(Strike::new(On::Read, Effect::Slow(100_000)));
    let before = env.clock.now();
    sim.block_on(get(&disk, 0, 512)).unwrap();
    assert!(env.clock.now().since(before) >= Duration::from_millis(100));
    assert_eq!(disk.struck().slow, 1);
}

#[test]
fn a_disk_that_vanishes_fails_what_is_in_flight_and_may_come_back_without_its_cache() {
    let mut lost = 0;
    for seed in 0..40 {
        let (sim, disk) = world(seed);
        sim.block_on(async {
            put(&disk, 0, 4096, 1).await.unwrap();
            disk.flush().await.unwrap();
            put(&disk, 4096, 4096, 2).await.unwrap();
            let in_flight = put(&disk, 8192, 4096, 3);
            let pull = async {
                disk.vanish(seed % 2 == 0);
                assert_eq!(disk.flush().await.unwrap_err().kind, IoErrorKind::Gone);
                disk.come_back();
            };
            let (written, ()) = futures_util::future::join(in_flight, pull).await;
            assert_eq!(written, Err(IoErrorKind::Gone));
            assert!(all(&get(&disk, 0, 4096).await.unwrap(), 1));
            let cached = all(&get(&disk, 4096, 4096).await.unwrap(), 2);
            assert!(cached || seed % 2 == 0);
            lost += usize::from(!cached);
        });
    }
    assert!(lost > 3);
}

#[test]
fn an_image_is_what_the_disk_held_then() {
    let (sim, disk) = world(1);
    sim.block_on(put(&disk, 0, 4096, 1)).unwrap();
    let image = disk.image();
    sim.block_on(put(&disk, 0, 4096, 2)).unwrap();
    assert!(all(&disk.peek(0, 4096), 2));
    disk.set_image(&image);
    assert!(all(&disk.peek(0, 4096), 1));
}

#[derive(Default)]
struct Log(RefCell<Vec<(u64, Completion)>>);

struct Logged(Rc<Log>, crate::env::Env);

impl Watch for Logged {
    fn completed(&self, done: &Completion) {
        let now = self.1.clock.now().0;
        self.0.0.borrow_mut().push((now, *done));
    }
}

fn history(seed: u64) -> (Vec<(u64, Completion)>, Vec<u8>) {
    let (sim, disk) = world(seed);
    let log = Rc::<Log>::default();
    disk.watch(Rc::new(Logged(Rc::clone(&log), sim.env())));
    disk.strike(Strike::new(On::Write, Effect::Lose).after(3));
    disk.strike(Strike::new(On::Flush, Effect::FailAndLoseCache).after(1));
    for i in 0..8u8 {
        let disk = disk.clone();
        sim.env().spawn.spawn(Box::pin(async move {
            for k in 0..8u64 {
                let _ = put(&disk, 512 * (k + u64::from(i)), 2048, i).await;
                let _ = disk.flush().await;
            }
        }));
    }
    sim.block_on(sim.env().clock.sleep(Duration::from_secs(1)));
    disk.power_cut();
    let log = log.0.borrow().clone();
    (log, disk.peek(0, 65536))
}

#[test]
fn the_same_seed_gives_the_same_history_and_another_seed_another() {
    for seed in 0..5 {
        assert!(history(seed) == history(seed), "seed {seed}");
    }
    assert!(history(1).0 != history(2).0);
}

#[test]
fn a_halted_world_stops_before_anything_else_runs() {
    let (sim, disk) = world(1);
    let (halt, log) = (sim.halt(), Rc::<Log>::default());
    disk.watch(Rc::new(Logged(Rc::clone(&log), sim.env())));
    let done = sim.run_until(
        async {
            put(&disk, 0, 512, 1).await.unwrap();
            halt.halt();
            put(&disk, 0, 512, 2).await.unwrap();
        },
        u64::MAX,
    );
    assert!(done.is_none());
    assert_eq!(log.0.borrow().len(), 1);
}
