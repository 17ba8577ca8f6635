//! What is read when: prepared, committed, aborted; and which sequences are taken.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use cairn_blockdev::prepared::{LogId, Op, PreparedDevice, Seq, Tag};
use cairn_blockdev::{IoErrorKind, WriteFlags};
use cairn_raid::{Array, Level};

use crate::model::Crash;
use crate::tale::{block_at, filled, tag_of, write};
use crate::world::{Shape, World};

const A: LogId = LogId(1);
const B: LogId = LogId(2);

fn world(seed: u64) -> (World, Rc<Array>, Rc<dyn PreparedDevice>) {
    let world = World::new(seed, Shape::new(Level::Raid5, 3, 0, 4096));
    let array = world.create();
    world.run(array.create_volume("v", 1 << 30)).unwrap();
    let device = array.open_prepared("v").unwrap();
    (world, array, device)
}

async fn prepare(device: &Rc<dyn PreparedDevice>, log: LogId, seq: u64, op: Op) {
    device
        .prepare(log, Seq(seq), tag_of(seq), op)
        .await
        .unwrap();
}

#[test]
fn what_is_prepared_is_neither_read_nor_put_in_place_before_its_commit() {
    let (world, array, device) = world(1);
    world.run(async {
        device
            .write(0, filled(4, 9), WriteFlags::default())
            .await
            .unwrap();
        prepare(&device, A, 1, write(1, 2, 1)).await;
        array.drain().await.unwrap();
        assert_eq!(block_at(&device, 1).await, 9);
        let marks = device.watermarks(A);
        assert_eq!(
            (marks.contiguous, marks.durable, marks.committed),
            (Seq(1), Seq(1), Seq(0))
        );
        device.commit(A, Seq(1));
        assert_eq!(block_at(&device, 1).await, 1);
        assert_eq!(block_at(&device, 3).await, 9);
        assert_eq!(device.watermarks(A).destaged, Seq(0));
        array.drain().await.unwrap();
        assert_eq!(device.watermarks(A).destaged, Seq(1));
    });
    world.audit(&array);
}

#[test]
fn operations_of_a_log_apply_in_order_and_logs_in_the_order_of_their_commits() {
    let (mut world, array, device) = world(2);
    world.run(async {
        prepare(&device, A, 1, write(0, 4, 1)).await;
        prepare(&device, B, 7, write(0, 4, 2)).await;
        prepare(
            &device,
            A,
            2,
            Op::Zero {
                offset: 4096,
                len: 4096,
            },
        )
        .await;
        prepare(&device, A, 3, write(2, 1, 3)).await;
        device
            .write(3 * 4096, filled(1, 4), WriteFlags::default())
            .await
            .unwrap();
        device.commit(B, Seq(7));
        assert_eq!(block_at(&device, 3).await, 2);
        device.commit(A, Seq(2));
        device
            .write(0, filled(1, 5), WriteFlags::default())
            .await
            .unwrap();
        device.commit(A, Seq(3));
        device.flush().await.unwrap();
        for (block, value) in [5, 0, 3, 1].into_iter().enumerate() {
            assert_eq!(block_at(&device, block as u64).await, value);
        }
    });
    drop((array, device));
    world.crash(Crash::Power);
    let array = world.assemble_all();
    let device = array.open_prepared("v").unwrap();
    world.run(async {
        for (block, value) in [5, 0, 3, 1].into_iter().enumerate() {
            assert_eq!(block_at(&device, block as u64).await, value);
        }
    });
}

#[test]
fn only_the_next_sequence_is_taken_and_a_failure_takes_the_later_ones_along() {
    let (world, _array, device) = world(3);
    world.run(async {
        prepare(&device, A, 4, Op::Barrier).await;
        for wrong in [0, 3, 4, 6] {
            let refused = device
                .prepare(A, Seq(wrong), Tag::default(), Op::Barrier)
                .await;
            assert_eq!(refused.unwrap_err().kind, IoErrorKind::Busy);
        }
        // Called in order, polled in any.
        let five = device.prepare(A, Seq(5), tag_of(5), write(0, 1, 5));
        let six = device.prepare(A, Seq(6), tag_of(6), write(0, 1, 6));
        let (six, five) = futures_util::future::join(six, five).await;
        five.unwrap();
        six.unwrap();
        let seven = device.prepare(A, Seq(7), tag_of(7), write(0, 1, 7));
        let eight = device.prepare(A, Seq(8), tag_of(8), write(0, 1, 8));
        drop(seven);
        assert_eq!(eight.await.unwrap_err().kind, IoErrorKind::Busy);
        prepare(&device, A, 7, Op::Barrier).await;
        device.commit(A, Seq(100));
        assert_eq!(device.watermarks(A).committed, Seq(7));
        assert_eq!(block_at(&device, 0).await, 6);
        let misaligned = Op::Zero {
            offset: 512,
            len: 4096,
        };
        let refused = device.prepare(A, Seq(8), Tag::default(), misaligned).await;
        assert_eq!(refused.unwrap_err().kind, IoErrorKind::Misaligned);
        let refused = device.abort(A, Seq(7)).await;
        assert_eq!(refused.unwrap_err().kind, IoErrorKind::OutOfRange);
    });
}

#[test]
fn what_was_aborted_stays_void() {
    for crash in [Crash::Kill, Crash::Power] {
        let (mut world, array, device) = world(4);
        world.run(async {
            prepare(&device, A, 1, write(0, 1, 1)).await;
            prepare(&device, A, 2, write(0, 1, 2)).await;
            prepare(&device, A, 3, write(1, 1, 3)).await;
            device.commit(A, Seq(1));
            assert!(device.abort(A, Seq(2)).await.unwrap().is_empty());
            device.commit(A, Seq(3));
            prepare(&device, A, 2, write(1, 1, 4)).await;
        });
        drop((array, device));
        world.crash(crash);
        let array = world.assemble_all();
        let device = array.open_prepared("v").unwrap();
        world.run(async {
            assert_eq!(device.watermarks(A).contiguous, Seq(2));
            device.commit(A, Seq(2));
            assert_eq!(block_at(&device, 0).await, 1);
            assert_eq!(block_at(&device, 1).await, 4);
        });
    }
}

#[test]
fn records_go_when_they_are_in_place_below_the_floor_and_the_hook_agrees() {
    let (world, array, device) = world(5);
    let asked = Rc::new(RefCell::new(Vec::new()));
    let agrees = Rc::new(Cell::new(false));
    let (questions, answer) = (Rc::clone(&asked), Rc::clone(&agrees));
    device.on_trim(
        A,
        Rc::new(move |log, through| {
            questions.borrow_mut().push((log, through));
            Box::pin(std::future::ready(answer.get()))
        }),
    );
    let trimmed = || device.watermarks(A).trimmed;
    world.run(async {
        for seq in 1..=5 {
            prepare(&device, A, seq, write(seq, 1, 1)).await;
        }
        device.commit(A, Seq(4));
    });
    world.sleep(1000);
    assert_eq!(
        (trimmed(), asked.borrow().len()),
        (Seq(0), 0),
        "the owner hasn't spoken"
    );
    device.set_floor(A, Seq(4));
    world.sleep(1000);
    assert_eq!(trimmed(), Seq(0), "the hook says no");
    assert_eq!(asked.borrow().first(), Some(&(A, Seq(3))));
    agrees.set(true);
    world.sleep(1000);
    assert_eq!(trimmed(), Seq(3));
    device.set_floor(A, Seq(9));
    world.sleep(1000);
    assert_eq!(trimmed(), Seq(4), "5 is pending");
    let kept = world.run(device.records(A, Seq::NONE)).unwrap();
    assert_eq!(kept.len(), 1);
    world.audit(&array);
}

#[test]
fn a_commit_needs_no_space_and_a_prepare_without_space_is_refused() {
    let mut shape = Shape::new(Level::Raid5, 3, 0, 4096);
    shape.disk_bytes = 140 << 20;
    let mut world = World::new(6, shape);
    let array = world.create();
    let space = array.status().space;
    world.run(array.create_volume("v", 16 << 30)).unwrap();
    let device = array.open_prepared("v").unwrap();
    let blocks = space.extent_bytes / 4096;
    let extents = space.total_bytes / space.extent_bytes;
    world.run(async {
        for extent in 0..extents {
            prepare(&device, A, extent + 1, write(extent * blocks, 1, 1)).await;
        }
        assert_eq!(array.status().space.free_bytes, 0);
        let full = device.prepare(
            A,
            Seq(extents + 1),
            Tag::default(),
            write(extents * blocks, 1, 1),
        );
        assert_eq!(full.await.unwrap_err().kind, IoErrorKind::NoSpace);
        // Nothing is written there yet, and it is set aside all the same.
        device
            .discard(0, extents * space.extent_bytes)
            .await
            .unwrap();
        assert_eq!(array.status().space.free_bytes, 0);
    });
    drop((array, device));
    world.crash(Crash::Power);
    let array = world.assemble_all();
    let device = array.open_prepared("v").unwrap();
    world.run(async {
        device
            .discard(0, extents * space.extent_bytes)
            .await
            .unwrap();
        assert_eq!(array.status().space.free_bytes, 0);
        device.commit(A, Seq(extents - 1));
        for extent in 0..extents {
            assert_eq!(
                block_at(&device, extent * blocks).await,
                u8::from(extent + 1 < extents)
            );
        }
        // What is aborted gives its space back, and so does a committed discard.
        device.abort(A, Seq(extents)).await.unwrap();
        assert_eq!(array.status().space.free_bytes, space.extent_bytes);
        prepare(
            &device,
            A,
            extents,
            Op::Discard {
                offset: 0,
                len: space.extent_bytes,
            },
        )
        .await;
        device.commit(A, Seq(extents));
        assert_eq!(block_at(&device, 0).await, 0);
    });
    world.run_till("given back", || {
        array.status().space.free_bytes == 2 * space.extent_bytes
    });
    world.check_space(&array);
    world.audit(&array);
}

#[test]
fn a_deleted_volume_takes_its_prepared_writes_along() {
    let (mut world, array, device) = world(7);
    world.run(async {
        prepare(&device, A, 1, write(0, 4, 1)).await;
        array.delete_volume("v").await.unwrap();
        array.create_volume("w", 1 << 30).await.unwrap();
        let other = array.open_prepared("w").unwrap();
        other
            .write(0, filled(1, 7), WriteFlags::default())
            .await
            .unwrap();
        device.commit(A, Seq(1));
        assert_eq!(block_at(&other, 1).await, 0);
        other.flush().await.unwrap();
    });
    drop((array, device));
    world.crash(Crash::Power);
    let array = world.assemble_all();
    let other = array.open_prepared("w").unwrap();
    world.run(async {
        assert_eq!(block_at(&other, 0).await, 7);
        assert_eq!(block_at(&other, 1).await, 0);
        other.forget(A).await.unwrap();
        assert!(other.logs().is_empty());
    });
    world.check_space(&array);
    world.audit(&array);
}
