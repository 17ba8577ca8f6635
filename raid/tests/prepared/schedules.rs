//! Schedules of logs beside cycles, crashes and losses, each of which went wrong once.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use cairn_blockdev::prepared::{LogId, Op, PreparedDevice, Seq};
use cairn_blockdev::sim::{Effect, On, Strike};
use cairn_blockdev::{Buf, IoErrorKind, WriteFlags};
use cairn_raid::label::Label;
use cairn_raid::layout::{LABEL_A, LABEL_B, ZoneKind};
use cairn_raid::{Array, Level};
use futures_util::future::{join, join_all};

use crate::model::Crash;
use crate::tale::{block_at, filled, tag_of, write};
use crate::world::{Shape, World, is_full};

const LOG: LogId = LogId(1);
/// Headers of a journal's zone; its ring follows.
const HEADERS: u64 = 4 * 4096;

fn open(seed: u64, shape: Shape) -> (World, Rc<Array>, Rc<dyn PreparedDevice>) {
    let world = World::new(seed, shape);
    let array = world.create();
    world.run(array.create_volume("v", 1 << 30)).unwrap();
    let device = array.open_prepared("v").unwrap();
    (world, array, device)
}

async fn prepare(device: &Rc<dyn PreparedDevice>, seq: u64, op: Op) {
    let prepared = device.prepare(LOG, Seq(seq), tag_of(seq), op);
    prepared.await.unwrap();
}

async fn plain(device: &Rc<dyn PreparedDevice>, block: u64, blocks: usize) {
    let flags = WriteFlags::default();
    let written = device.write(block * 4096, filled(blocks, 9), flags);
    written.await.unwrap();
}

/// Where the zone of a kind lies on a disk, but for its headers.
fn zone(world: &World, disk: usize, kind: ZoneKind) -> Range<u64> {
    let labels = [LABEL_A, LABEL_B].map(|at| world.disks[disk].peek(at, 4096));
    let label = labels.iter().find_map(|label| Label::decode(label).ok());
    let zone = label.unwrap().layout.zone(kind);
    zone.offset + HEADERS..zone.offset + zone.len
}

/// A cycle raised the floor over the metadata that was acked, because what follows it was queued.
#[test]
fn acked_metadata_stays_until_what_follows_it_is_durable() {
    for crash in [Crash::Kill, Crash::Power] {
        let (mut world, array, device) = open(1, Shape::new(Level::Raid5, 3, 0, 65536));
        world.run(async {
            device.set_meta(LOG, &[7; 64]).await.unwrap();
            array.drain().await.unwrap();
            plain(&device, 64, 8).await;
        });
        // A cycle comes as far as its checksum pages.
        let hold = |kind| {
            for disk in 0..3 {
                world.disks[disk].hold_writes(zone(&world, disk, kind));
            }
        };
        hold(ZoneKind::Checksums);
        world.sleep(8_000);
        // The records that follow stay on their way, and the cycle goes on.
        hold(ZoneKind::Journal);
        let later = Rc::clone(&device);
        world.env.spawn.spawn(Box::pin(async move {
            let _ = later.set_meta(LOG, &[8; 64]).await;
        }));
        world.sleep(500);
        for disk in 0..3 {
            world.disks[disk].release();
        }
        hold(ZoneKind::Journal);
        world.sleep(8_000);
        drop((array, device));
        world.crash(crash);
        let array = world.assemble_all();
        let device = array.open_prepared("v").unwrap();
        let meta = device.meta(LOG);
        assert!(
            [&[7; 64], &[8; 64]]
                .iter()
                .any(|known| meta[..] == known[..]),
            "after a {crash:?}: {meta:?}"
        );
    }
}

/// The log wasn't there yet, and an abort of what was on its way into it found nothing to void.
#[test]
fn an_abort_of_a_log_that_is_only_beginning_is_an_abort() {
    let (mut world, array, device) = open(2, Shape::new(Level::Raid5, 3, 0, 65536));
    let first = device.prepare(LOG, Seq(1), tag_of(1), write(0, 1, 1));
    let abort = device.abort(LOG, Seq(1));
    let (first, abort) = world.run(join(first, abort));
    assert!(abort.unwrap().is_empty());
    assert_eq!(first.unwrap_err().kind, IoErrorKind::Busy);
    world.run(async {
        prepare(&device, 1, write(0, 1, 2)).await;
        device.commit(LOG, Seq(1));
        device.flush().await.unwrap();
    });
    drop((array, device));
    world.crash(Crash::Kill);
    let array = world.assemble_all();
    let device = array.open_prepared("v").unwrap();
    assert_eq!(world.run(block_at(&device, 0)), 2);
}

/// It was told that it was prepared, after the abort that voided it.
#[test]
fn what_is_aborted_while_it_is_made_durable_is_not_prepared() {
    let (world, array, device) = open(4, Shape::new(Level::Raid5, 3, 0, 65536));
    world.run(prepare(&device, 1, write(0, 1, 1)));
    let second = device.prepare(LOG, Seq(2), tag_of(2), write(1, 1, 2));
    let abort = async {
        while device.watermarks(LOG).contiguous < Seq(2) {
            world.env.clock.sleep(Duration::from_micros(1)).await;
        }
        device.abort(LOG, Seq(2)).await
    };
    let (second, abort) = world.run(join(second, abort));
    abort.unwrap();
    assert_eq!(second.unwrap_err().kind, IoErrorKind::Busy);
    drop(array);
}

/// The floor of a replay went between an operation of a log that was forgotten and its commit. Cut off, too, it left the
/// commit without what it commits.
#[test]
fn a_replay_that_is_cut_off_knows_what_a_log_committed_that_is_forgotten() {
    const ROWS: u64 = 56;
    let row_blocks = 32;
    for cut in 1.. {
        // Arrays of every third seed have so little memory that a replay is one in parts.
        let (mut world, array, device) = open(3 * cut, Shape::new(Level::Raid5, 3, 0, 65536));
        world.run(async {
            device.set_floor(LOG, Seq(1));
            prepare(&device, 1, write(0, 1, 5)).await;
            for row in 1..ROWS {
                // A row costs what is between its first and its last column.
                plain(&device, row * row_blocks, 1).await;
                plain(&device, row * row_blocks + 15, 1).await;
            }
            plain(&device, 0, 1).await;
            device.commit(LOG, Seq(1));
            device.flush().await.unwrap();
            device.forget(LOG).await.unwrap();
        });
        drop((array, device));
        world.crash(Crash::Kill);
        let all = world.all();
        let start = world.assemble_later(&all, false);
        let started = world.sim.run_until(start, cut * 150);
        let was_cut = started.is_none();
        drop(started);
        world.crash(Crash::Kill);
        let array = world.assemble_all();
        let device = array.open_prepared("v").unwrap();
        assert_eq!(world.run(block_at(&device, 0)), 5, "cut {cut}");
        if !was_cut {
            assert!(cut > 4, "a replay of one part");
            return;
        }
    }
}

/// What was committed on an array that had failed was read as it had been before.
#[test]
fn what_was_committed_after_the_array_failed_is_never_read_as_it_was_before() {
    let (world, array, device) = open(3, Shape::new(Level::Raid5, 3, 0, 65536));
    world.run(async {
        plain(&device, 0, 4).await;
        array.drain().await.unwrap();
        prepare(&device, 1, write(1, 1, 5)).await;
    });
    world.disks[1].vanish(false);
    world.disks[2].vanish(false);
    world.run(async {
        let flags = WriteFlags::default();
        for _ in 0..8 {
            let _ = device.write(1 << 20, filled(1, 1), flags).await;
            let _ = device.flush().await;
        }
    });
    assert!(array.status().failure.is_some());
    device.commit(LOG, Seq(1));
    let (buf, result) = world.run(device.read(4096, Buf::zeroed(4096)));
    let old = result.is_ok() && buf.iter().any(|byte| *byte != 5);
    assert!(!old, "it begins with {:?}", &buf[..4]);
}

/// Rings that a crash left full made an array that admits little for as long as it runs.
#[test]
fn an_array_admits_as_much_after_a_crash_as_before() {
    let (mut world, array, device) = open(4, Shape::new(Level::Raid1, 2, 0, 65536));
    let before = array.status().journal_room.unwrap().total_bytes;
    world.run(async {
        prepare(&device, 1, write(0, 1, 1)).await;
        for block in 0..1200 {
            plain(&device, 64 + block * 2, 1).await;
        }
    });
    drop((array, device));
    world.crash(Crash::Kill);
    let array = world.assemble_all();
    assert_eq!(array.status().journal_room.unwrap().total_bytes, before);
}

/// Each looked whether there was room, waited, and went in.
#[test]
fn operations_that_wait_together_take_no_more_than_the_logs_part() {
    let (world, array, device) = open(5, Shape::new(Level::Raid1, 2, 0, 65536));
    let room = || array.status().journal_room.unwrap();
    let waits = (1..=8).map(|log| {
        let op = write(log * 256, 256, 1);
        let prepared = device.prepare(LogId(log as u32), Seq(1), tag_of(1), op);
        async move { prepared.await.is_ok() }
    });
    let all = world.sim.run_until(join_all(waits), 20_000);
    assert!(all.is_none(), "there is no room for all of them");
    let room = room();
    assert!(
        room.used_bytes * 5 <= room.total_bytes * 2 + (64 << 10),
        "{room:?}"
    );
}

/// Commits and states take room that nobody admits; nothing was done about it before the ring was full.
#[test]
fn what_logs_say_of_their_records_never_fills_the_ring() {
    let (mut world, array, device) = open(6, Shape::new(Level::Raid1, 2, 0, 65536));
    let silent = LogId(9);
    let agree: cairn_blockdev::prepared::BeforeTrim =
        Rc::new(|_, _| Box::pin(std::future::ready(true)));
    device.on_trim(LOG, agree);
    world.run(async {
        let pending = device.prepare(silent, Seq(1), tag_of(1), write(8, 1, 1));
        pending.await.unwrap();
        device.set_meta(LOG, &[1; 64]).await.unwrap();
        for seq in 1..=1500 {
            prepare(&device, seq, write(seq % 64 * 4, 1, 1)).await;
            device.commit(LOG, Seq(seq));
            device.set_floor(LOG, Seq(seq));
            device.flush().await.unwrap();
            array.drain().await.unwrap();
        }
    });
    drop((array, device));
    world.crash(Crash::Kill);
    let array = world.assemble_all();
    let device = array.open_prepared("v").unwrap();
    assert_eq!(device.watermarks(silent).contiguous, Seq(1));
    assert_eq!(device.watermarks(LOG).committed, Seq(1500));
}

/// With operations always on their way there is no moment at which none spans the floor; a rebuild waits for it.
#[test]
fn the_floor_rises_under_an_owner_that_always_has_operations_on_their_way() {
    const ROUNDS: u64 = 1500;
    let (world, array, device) = open(7, Shape::new(Level::Raid1, 2, 1, 65536));
    // Cycles take longer than operations.
    for disk in &world.disks {
        let slow = Strike::new(On::Write, Effect::Slow(8));
        let data = zone(&world, 0, ZoneKind::Journal).end..256 << 20;
        disk.sim().strike(slow.within(data).always());
    }
    let acked = Rc::new(Cell::new(0));
    let clock = Rc::clone(&world.env.clock);
    world.run(async {
        for seq in 1..=ROUNDS {
            if seq == ROUNDS / 4 {
                array.fail_member(&world.path(0)).await.unwrap();
            }
            let op = write(seq % 64 * 8, 1, 1);
            let prepared = device.prepare(LOG, Seq(seq), tag_of(seq), op);
            let acked_by_now = Rc::clone(&acked);
            world.env.spawn.spawn(Box::pin(async move {
                prepared.await.unwrap();
                acked_by_now.set(acked_by_now.get().max(seq));
            }));
            // The next two are logged when one is committed.
            let oldest = seq.saturating_sub(2);
            clock.sleep(Duration::from_micros(20)).await;
            while acked.get() < oldest {
                clock.sleep(Duration::from_micros(20)).await;
            }
            device.commit(LOG, Seq(oldest));
            device.set_floor(LOG, Seq(oldest));
            let room = array.status().journal_room.unwrap();
            let used = room.used_bytes * 100 / room.total_bytes;
            assert!(used < 90, "{used} % used after {seq}");
        }
    });
    assert!(is_full(&array), "the rebuild went on: {:?}", array.status());
}

/// An operation that finds no place for its log gives back the space that it had taken for its data.
#[test]
fn an_operation_without_a_log_keeps_no_space() {
    let (world, array, device) = open(8, Shape::new(Level::Raid1, 2, 0, 65536));
    world.run(async {
        for log in 1..=32 {
            device.set_meta(LogId(log), &[1]).await.unwrap();
        }
    });
    let free = array.status().space.free_bytes;
    let one_more = device.prepare(LogId(99), Seq(1), tag_of(1), write(0, 1, 1));
    let refused = world.run(one_more).unwrap_err();
    assert_eq!(refused.kind, IoErrorKind::NoSpace);
    assert_eq!(array.status().space.free_bytes, free);
}

/// The map said that rows were given back before the commit that gave them back was durable.
#[test]
fn what_a_commit_gives_back_is_there_as_long_as_the_commit_may_be_lost() {
    let (mut world, array, device) = open(10, Shape::new(Level::Raid1, 2, 0, 65536));
    world.run(async {
        plain(&device, 16, 16).await;
        device.flush().await.unwrap();
        array.drain().await.unwrap();
        let op = Op::Discard {
            offset: 16 * 4096,
            len: 65536,
        };
        prepare(&device, 1, op).await;
        plain(&device, 80, 1).await;
        device.flush().await.unwrap();
    });
    // A cycle has come to the rows; the commit comes to no ring.
    let journal = zone(&world, 0, ZoneKind::Journal);
    for disk in &world.disks {
        disk.hold_writes(journal.end..256 << 20);
    }
    let draining = Rc::clone(&array);
    world.env.spawn.spawn(Box::pin(async move {
        let _ = draining.drain().await;
    }));
    world.sleep(5);
    for disk in &world.disks {
        disk.release();
        disk.hold_writes(journal.clone());
    }
    device.commit(LOG, Seq(1));
    world.sleep(500);
    drop((array, device));
    world.crash(Crash::Power);
    let array = world.assemble_all();
    let device = array.open_prepared("v").unwrap();
    assert_eq!(device.watermarks(LOG).committed, Seq::NONE);
    assert_eq!(world.run(block_at(&device, 20)), 9);
}

/// What logs had said of their records took the room that a start needs to write these anew: it waited for it for ever.
#[test]
fn rings_that_logs_and_clients_have_filled_leave_room_for_a_stop_and_for_a_start() {
    for crash in [None, Some(Crash::Kill)] {
        let (mut world, array, device) = open(11, Shape::new(Level::Raid1, 2, 0, 65536));
        // Small operations, each with a commit of its own, of which nobody lets any go.
        let fill = async {
            for log in (1..=8).map(LogId) {
                for seq in 1.. {
                    let op = write(u64::from(log.0) * 4096 + seq, 1, 1);
                    let prepared = device.prepare(log, Seq(seq), tag_of(seq), op);
                    let room = world.env.clock.sleep(Duration::from_millis(50));
                    let prepared = std::pin::pin!(prepared);
                    match futures_util::future::select(prepared, room).await {
                        futures_util::future::Either::Left((done, _)) => done.unwrap(),
                        futures_util::future::Either::Right(_) => break,
                    }
                    device.commit(log, Seq(seq));
                    device.flush().await.unwrap();
                }
                let last = device.watermarks(log).contiguous;
                device.abort(log, last.next()).await.unwrap();
            }
        };
        world.run(fill);
        // And all that clients may log while a cycle is on its way.
        let journal = zone(&world, 0, ZoneKind::Journal);
        for disk in &world.disks {
            disk.hold_writes(journal.end..256 << 20);
        }
        for client in 0..4 {
            let device = Rc::clone(&device);
            world.env.spawn.spawn(Box::pin(async move {
                for block in 0..2000 {
                    let flags = WriteFlags::default();
                    let at = (100_000 + client * 5000 + block) * 4096;
                    if device.write(at, filled(1, 9), flags).await.is_err() {
                        return;
                    }
                }
            }));
        }
        let admitted = || array.status().journal_room.unwrap();
        let mut before = 0;
        loop {
            world.sleep(200);
            let used = admitted().used_bytes;
            if used == before {
                break;
            }
            before = used;
        }
        let room = admitted();
        assert!(room.used_bytes * 8 > room.total_bytes * 7, "{room:?}");
        if crash.is_none() {
            for disk in &world.disks {
                disk.release();
            }
            let stopped = world.sim.run_until(array.stop(), 5_000_000);
            stopped.expect("a stop that ends").unwrap();
        }
        let logs = || (1..=8).map(LogId);
        let before: Vec<_> = logs().map(|log| device.watermarks(log).committed).collect();
        assert!(
            before
                .iter()
                .filter(|committed| **committed > Seq(8))
                .count()
                > 2,
            "{before:?}"
        );
        drop((array, device));
        world.crash(crash.unwrap_or(Crash::Kill));
        let all = world.all();
        let start = world.assemble_later(&all, false);
        let started = world.sim.run_until(start, 5_000_000);
        let array = started.expect("a start that ends").unwrap();
        let device = array.open_prepared("v").unwrap();
        for (log, before) in logs().zip(before) {
            let marks = device.watermarks(log);
            assert_eq!((marks.committed, marks.trimmed), (before, Seq::NONE));
        }
    }
}
