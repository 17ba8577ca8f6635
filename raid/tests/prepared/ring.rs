//! A log that is stuck delays itself: not plain writes, not other logs.

use std::cell::RefCell;
use std::rc::Rc;

use cairn_blockdev::WriteFlags;
use cairn_blockdev::prepared::{LogId, Op, PreparedDevice, Seq};
use cairn_raid::Level;
use futures_util::future::Either;

use crate::model::Crash;
use crate::tale::{block_at, filled, tag_of, write};
use crate::world::{Shape, World};

const STUCK: LogId = LogId(1);
const LIVELY: LogId = LogId(2);

/// Prepares behind `seq` until there is no room; `after` each. Gives the last one that found some.
async fn fill_up(device: &Rc<dyn PreparedDevice>, mut seq: u64, after: impl Fn(Seq)) -> u64 {
    loop {
        let next = device.prepare(STUCK, Seq(seq + 1), tag_of(seq + 1), write(seq * 4, 4, 1));
        let room = async {
            for _ in 0..50 {
                device.flush().await.unwrap();
            }
        };
        match futures_util::future::select(next, Box::pin(room)).await {
            Either::Left((done, _)) => done.unwrap(),
            Either::Right(_) => break,
        }
        seq += 1;
        after(Seq(seq));
    }
    // What waits for room goes on waiting, whoever dropped its future.
    device.abort(STUCK, Seq(seq + 1)).await.unwrap();
    seq
}

/// Plain writes and another log go through ten rings of 16 MiB.
async fn others_go_on(device: &Rc<dyn PreparedDevice>) {
    let base = 64 << 20;
    for round in 0..400u64 {
        let at = base + round % 64 * (1 << 19) + 4096;
        let data = filled(96, 5);
        device.write(at, data, WriteFlags::default()).await.unwrap();
        let seq = Seq(round + 1);
        let op = write((base + (round % 64 << 19)) / 4096, 1, 6);
        let prepared = device.prepare(LIVELY, seq, tag_of(seq.0), op);
        prepared.await.unwrap();
        device.commit(LIVELY, seq);
        device.set_floor(LIVELY, seq);
    }
}

#[test]
fn a_stuck_log_never_blocks_the_ring() {
    let mut world = World::new(1, Shape::new(Level::Raid5, 3, 0, 65536));
    let array = world.create();
    world.run(array.create_volume("v", 1 << 30)).unwrap();
    let device = array.open_prepared("v").unwrap();
    let stuck = world.run(fill_up(&device, 0, |_| ()));
    assert!(stuck > 16, "{stuck} records are little");
    world.run(others_go_on(&device));
    assert_eq!(device.watermarks(STUCK).contiguous, Seq(stuck));
    drop((array, device));
    world.crash(Crash::Power);
    let array = world.assemble_all();
    let device = array.open_prepared("v").unwrap();
    world.run(async {
        assert_eq!(
            device.records(STUCK, Seq::NONE).await.unwrap().len(),
            stuck as usize
        );
        device.commit(STUCK, Seq(stuck));
        for seq in 0..stuck {
            assert_eq!(block_at(&device, seq * 4).await, 1);
        }
        device.set_floor(STUCK, Seq(stuck + 1));
    });
    world.run_till("trimmed", || device.watermarks(STUCK).trimmed == Seq(stuck));
    // And it goes on.
    world.run(async {
        let op = Op::Barrier;
        device
            .prepare(STUCK, Seq(stuck + 1), tag_of(stuck + 1), op)
            .await
            .unwrap();
    });
    world.audit(&array);
}

#[test]
fn a_before_trim_hook_that_never_answers_holds_up_its_own_log_alone() {
    let world = World::new(4, Shape::new(Level::Raid5, 3, 0, 65536));
    let array = world.create();
    world.run(array.create_volume("v", 1 << 30)).unwrap();
    let device = array.open_prepared("v").unwrap();
    let asked = Rc::new(RefCell::new(Vec::new()));
    let questions = Rc::clone(&asked);
    let hook = move |_, through| {
        questions.borrow_mut().push(through);
        Box::pin(std::future::pending()) as cairn_blockdev::LocalFuture<bool>
    };
    device.on_trim(STUCK, Rc::new(hook));
    // Its owner needs none of its records; only the hook keeps them.
    device.set_floor(STUCK, Seq(1 << 40));
    let commit = |seq| device.commit(STUCK, seq);
    let stuck = world.run(fill_up(&device, 0, commit));
    assert!(stuck > 16, "{stuck} records are little");
    world.run(others_go_on(&device));
    world.run(array.drain()).unwrap();
    let marks = device.watermarks(STUCK);
    assert_eq!((marks.destaged, marks.trimmed), (Seq(stuck), Seq::NONE));
    // Asked once: not again while it owes the answer.
    assert_eq!(asked.borrow().len(), 1);
    assert!((Seq(1)..=Seq(stuck)).contains(&asked.borrow()[0]));
    assert!(device.watermarks(LIVELY).trimmed > Seq(300));
    let still = world.run(fill_up(&device, stuck, commit));
    assert_eq!(still, stuck, "there is no more room than there was");
    // Nor does a stop wait for it. The next start asks whoever is there then.
    world.run(array.stop()).unwrap();
    drop((array, device));
    let array = world.assemble_all();
    let device = array.open_prepared("v").unwrap();
    let kept = world.run(device.records(STUCK, Seq::NONE)).unwrap();
    assert_eq!(kept.len() as u64, stuck);
    assert!(kept.iter().all(|record| record.committed));
    device.on_trim(STUCK, Rc::new(|_, _| Box::pin(std::future::ready(true))));
    device.set_floor(STUCK, Seq(stuck + 1));
    world.run_till("trimmed", || device.watermarks(STUCK).trimmed == Seq(stuck));
    let op = Op::Barrier;
    let next = device.prepare(STUCK, Seq(stuck + 1), tag_of(stuck + 1), op);
    world.run(next).unwrap();
    world.audit(&array);
}

#[test]
fn back_pressure_ends_when_the_owner_lets_records_go() {
    let world = World::new(2, Shape::new(Level::Raid1, 2, 0, 65536));
    let array = world.create();
    world.run(array.create_volume("v", 1 << 30)).unwrap();
    let device = array.open_prepared("v").unwrap();
    let stuck = world.run(fill_up(&device, 0, |_| ()));
    world.run(async {
        let waiting = device.prepare(STUCK, Seq(stuck + 1), tag_of(stuck + 1), write(0, 4, 1));
        let letting = async {
            device.commit(STUCK, Seq(stuck));
            device.set_floor(STUCK, Seq(stuck));
        };
        let (waiting, ()) = futures_util::future::join(waiting, letting).await;
        waiting.unwrap();
    });
    // A stop doesn't wait for what nobody decides.
    let stuck = world.run(async {
        let waiting: Vec<_> = (stuck + 2..stuck + 200)
            .map(|seq| device.prepare(STUCK, Seq(seq), tag_of(seq), write(0, 4, 1)))
            .collect();
        let all = futures_util::future::join_all(waiting);
        let (all, stopped) = futures_util::future::join(all, array.stop()).await;
        stopped.unwrap();
        all.into_iter().filter(Result::is_err).count()
    });
    assert!(stuck > 0);
    drop((array, device));
    let array = world.assemble_all();
    let device = array.open_prepared("v").unwrap();
    let marks = device.watermarks(STUCK);
    assert!(
        marks.contiguous > marks.committed,
        "pending survives a clean stop"
    );
    world.audit(&array);
}

#[test]
fn pending_records_outlive_the_members_that_took_them() {
    let world = World::new(3, Shape::new(Level::Raid5, 3, 2, 4096));
    let array = world.create();
    world.run(array.create_volume("v", 1 << 30)).unwrap();
    let device = array.open_prepared("v").unwrap();
    world.run(async {
        for seq in 1..=6 {
            device
                .prepare(STUCK, Seq(seq), tag_of(seq), write(seq, 1, seq as u8))
                .await
                .unwrap();
        }
    });
    for gone in [0, 1] {
        world.run(array.fail_member(&world.path(gone))).unwrap();
        world.wait_until_filled(&array);
    }
    let mut world = world;
    drop((array, device));
    world.crash(Crash::Power);
    // Whoever is left, one more may go.
    let array = world.assemble(&[3, 4], false).unwrap();
    let device = array.open_prepared("v").unwrap();
    world.run(async {
        assert_eq!(device.watermarks(STUCK).contiguous, Seq(6));
        device.commit(STUCK, Seq(6));
        for seq in 1..=6 {
            assert_eq!(block_at(&device, seq).await, seq as u8);
        }
    });
}
