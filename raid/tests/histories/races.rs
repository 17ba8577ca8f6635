//! Moments that are hard to hit by chance, held open by holding writes back.

use std::cell::RefCell;
use std::rc::Rc;

use cairn_blockdev::sim::{Fault, Rng};
use cairn_blockdev::{BlockDevice, IoErrorKind};
use cairn_raid::layout::{LABEL_A, LABEL_B};
use cairn_raid::{Array, Level, MemberState};

use crate::model::{Crash, Model};
use crate::region::{Region, check_all};
use crate::world::{Shape, World, is_full};

pub(crate) const LABELS: std::ops::Range<u64> = LABEL_A..LABEL_B + (64 << 10);

pub(crate) struct Bench {
    pub(crate) world: World,
    pub(crate) array: Rc<Array>,
    pub(crate) volume: Rc<dyn BlockDevice>,
    pub(crate) model: Rc<RefCell<Model>>,
}

impl Bench {
    /// An array with a volume whose first 256 sectors are written and flushed.
    pub(crate) fn new(seed: u64, level: Level, members: usize, spares: usize) -> Self {
        Self::shaped(seed, Shape::new(level, members, spares, 4096))
    }

    /// The same, of any shape.
    pub(crate) fn shaped(seed: u64, shape: Shape) -> Self {
        let world = World::new(seed, shape);
        let array = world.create();
        world.run(array.create_volume("v", 1 << 20)).unwrap();
        let volume = array.open_volume("v").unwrap();
        let model = Rc::new(RefCell::new(Model::new(
            seed,
            std::slice::from_ref(&(0..256)),
        )));
        let bench = Self {
            world,
            array,
            volume,
            model,
        };
        let client = bench.client(0..256);
        bench.world.run(async {
            client.write(0..256, false).await.unwrap();
            client.flush().await.unwrap();
        });
        bench
    }

    pub(crate) fn client(&self, sectors: std::ops::Range<u64>) -> Region {
        Region {
            volume: Rc::clone(&self.volume),
            model: Rc::clone(&self.model),
            rng: Rng::new(1),
            sectors,
            whole: None,
            longest: 16,
        }
    }

    /// Starts a write; the cell tells when it is acked.
    pub(crate) fn start_write(&self, sectors: std::ops::Range<u64>) -> Rc<RefCell<Option<bool>>> {
        let acked = Rc::new(RefCell::new(None));
        let (client, told) = (self.client(sectors.clone()), Rc::clone(&acked));
        self.world.env.spawn.spawn(Box::pin(async move {
            let result = client.write(sectors, false).await;
            *told.borrow_mut() = Some(result.is_ok());
        }));
        acked
    }

    fn hold_labels(&self) {
        for disk in &self.world.disks {
            disk.hold_writes(LABELS);
        }
    }

    fn release(&self) {
        for disk in &self.world.disks {
            disk.release();
        }
    }

    fn labels_are_held(&self) {
        self.world.run_till("a label commit begins", || {
            self.world.disks.iter().any(|disk| disk.waiting() > 0)
        });
    }

    /// A crash, with all disks back; what was acked must be there, and no force is needed for it.
    pub(crate) fn crash_and_check(mut self, crash: Crash) {
        drop((self.array, self.volume));
        self.world.crash(crash);
        let array = self.world.assemble_all();
        let volume = array.open_volume("v").unwrap();
        self.world.run(check_all(
            &volume,
            &self.model,
            Some(crash),
            "after the crash",
        ));
    }
}

fn an_ack_waits_for_the_ejection(level: Level, members: usize) {
    for seed in 1..=8 {
        for crash in [Crash::Kill, Crash::Power] {
            println!("seed {seed}: {level} of {members}, {crash:?}");
            let bench = Bench::new(seed, level, members, 0);
            bench.hold_labels();
            bench.world.disks[1].inject(Fault::WritesFail);
            // The first write meets the fault; its ejection can't become durable yet.
            let first = bench.start_write(0..64);
            bench.labels_are_held();
            // A later one goes around the disk, and must not be acked before the ejection either.
            let second = bench.start_write(100..164);
            bench.world.sleep(5);
            assert_eq!(
                *first.borrow(),
                None,
                "acked before the ejection was durable"
            );
            assert_eq!(
                *second.borrow(),
                None,
                "acked around a disk that the labels call in sync"
            );
            bench.crash_and_check(crash);
        }
    }
}

#[test]
fn d2_no_write_is_acked_before_the_ejection_that_it_relies_on() {
    an_ack_waits_for_the_ejection(Level::Raid5, 4);
    an_ack_waits_for_the_ejection(Level::Raid6, 5);
    an_ack_waits_for_the_ejection(Level::Raid1, 3);
}

#[test]
fn d2_no_flush_is_acked_before_the_ejection_that_it_relies_on() {
    let bench = Bench::new(3, Level::Raid5, 4, 0);
    let client = bench.client(100..110);
    bench.world.run(client.write(100..110, false)).unwrap();
    bench.hold_labels();
    bench.world.disks[1].inject(Fault::WritesFail);
    let _first = bench.start_write(0..64);
    bench.labels_are_held();
    let flushed = Rc::new(RefCell::new(false));
    let told = Rc::clone(&flushed);
    bench.world.env.spawn.spawn(Box::pin(async move {
        *told.borrow_mut() = client.flush().await.is_ok();
    }));
    bench.world.sleep(5);
    assert!(
        !*flushed.borrow(),
        "a flush skipped a disk that the labels call in sync"
    );
    bench.crash_and_check(Crash::Power);
}

#[test]
fn no_write_is_acked_while_only_the_successor_of_a_member_has_it() {
    for seed in 1..=6 {
        println!("seed {seed}");
        let bench = Bench::new(seed, Level::Raid5, 4, 1);
        let (old, new) = (bench.world.path(0), bench.world.member(4));
        bench
            .world
            .run(bench.array.replace_member(&old, new))
            .unwrap();
        bench.world.run_till("the copy is under way", || {
            bench.array.status().sync.is_some()
        });
        bench.hold_labels();
        bench.labels_are_held();
        // Every sector of the volume: some of it lies on the member that is leaving.
        let write = bench.start_write(0..256);
        bench.world.sleep(5);
        if *write.borrow() == Some(true) {
            for disk in &bench.world.disks {
                disk.lose_flying();
            }
            bench.crash_and_check(Crash::Kill);
        } else {
            bench.release();
            bench.world.wait_until_filled(&bench.array);
            bench
                .world
                .run_till("acked", || *write.borrow() == Some(true));
        }
    }
}

#[test]
fn d3_a_flush_that_failed_when_going_clean_ejects_its_disk() {
    let bench = Bench::new(7, Level::Raid5, 4, 0);
    bench.world.disks[2].fail_next_flush();
    bench.world.sleep(12_000);
    assert!(
        World::in_state(&bench.array, MemberState::Failed).contains(&*bench.world.path(2)),
        "a later flush proves nothing about what the failed one lost"
    );
}

#[test]
fn d3_a_flush_that_failed_in_stop_ejects_its_disk() {
    // One flush after another: whichever of stop's flushes it is that fails.
    let mut failed = 0;
    for nth in 0..24u64 {
        let mut bench = Bench::new(8, Level::Raid5, 4, 0);
        let client = bench.client(3..4);
        bench.world.run(client.write(3..4, false)).unwrap();
        let (array, disk) = (Rc::clone(&bench.array), bench.world.disks[2].clone());
        let stopping = Rc::clone(&array);
        bench.world.env.spawn.spawn(Box::pin(async move {
            let _ = stopping.stop().await;
        }));
        bench.world.run(
            bench
                .world
                .env
                .clock
                .sleep(std::time::Duration::from_micros(nth * 60)),
        );
        disk.fail_next_flush();
        bench.world.sleep(1_000);
        if disk.flush_fault_is_due() {
            // The stop was over before.
            continue;
        }
        failed += 1;
        drop((array, bench.array, bench.volume));
        bench.world.crash(Crash::Power);
        let array = bench.world.assemble_all();
        let in_sync = World::in_state(&array, MemberState::InSync);
        assert!(
            !in_sync.contains(&*bench.world.path(2)),
            "flush {nth} failed and nobody minded"
        );
    }
    assert!(failed >= 3, "only {failed} flushes of a stop failed");
}

#[test]
fn a4_a_disk_lost_while_idle_is_replaced_by_the_spare() {
    let bench = Bench::new(9, Level::Raid5, 4, 1);
    bench.world.sleep(10_000);
    assert!(bench.array.status().clean, "idle arrays become clean");
    bench.world.disks[1].inject(Fault::Gone);
    let client = bench.client(0..256);
    let events = bench.array.status().event_count;
    bench.world.run(client.write(0..1, false)).unwrap();
    assert!(
        bench.array.status().event_count > events,
        "an ejection is an event"
    );
    bench.world.wait_until_filled(&bench.array);
    assert!(bench.world.host.saw("SpareActive"));
}

#[test]
fn a_mirror_thrown_out_while_idle_is_not_started_alone() {
    let mut bench = Bench::new(10, Level::Raid1, 2, 0);
    bench.world.sleep(10_000);
    bench.world.disks[1].inject(Fault::Gone);
    let client = bench.client(0..256);
    bench.world.run(client.write(0..1, false)).unwrap();
    bench.world.run(client.flush()).unwrap();
    drop((client, bench.array, bench.volume));
    bench.world.crash(Crash::Power);
    let alone = bench.world.assemble(&[1], false);
    assert!(
        alone.is_err(),
        "a stale mirror was started as if it were current"
    );
}

#[test]
fn a_broken_array_leaves_its_labels_as_they_were() {
    let mut bench = Bench::new(11, Level::Raid5, 4, 3);
    bench.world.run(bench.client(0..256).flush()).unwrap();
    bench.world.sleep(10_000);
    for gone in [0, 1] {
        bench.world.disks[gone].inject(Fault::Gone);
    }
    let client = bench.client(0..256);
    bench.world.run(async {
        for at in 0..32 {
            let _ = client.write(at * 8..at * 8 + 8, false).await;
        }
    });
    assert!(
        bench.array.status().failure.is_some(),
        "two of four are gone"
    );
    for spare in 4..7 {
        let path = bench.world.path(spare);
        let _ = bench.world.run(bench.array.remove_spare(&path));
    }
    drop((client, bench.array, bench.volume));
    bench.world.crash(Crash::Kill);
    let labelled = bench.world.labelled();
    let array = bench.world.assemble(&labelled, false);
    let array = array.expect("the disks are back, so is the array, without force");
    assert!(array.status().failure.is_none());
}

#[test]
fn a_refused_start_touches_the_disks_no_more() {
    let shape = Shape::new(Level::Raid5, 4, 1, 4096).without_journal();
    let mut bench = Bench::shaped(12, shape);
    let client = bench.client(0..256);
    bench.world.run(client.write(0..2048, false)).unwrap();
    drop((client, bench.array, bench.volume));
    bench.world.crash(Crash::Kill);
    let ended = Rc::new(RefCell::new(None));
    let (tell, starting) = (
        Rc::clone(&ended),
        bench.world.assemble_later(&bench.world.all(), false),
    );
    bench.world.env.spawn.spawn(Box::pin(async move {
        *tell.borrow_mut() = Some(starting.await.is_ok());
    }));
    let host = Rc::clone(&bench.world.host);
    bench.world.run_till("resync", || host.saw("ResyncStarted"));
    bench.world.disks[1].inject(Fault::Gone);
    bench.world.run_till("it ends", || ended.borrow().is_some());
    assert_eq!(
        *ended.borrow(),
        Some(false),
        "unclean, and a member is gone"
    );
    bench.world.sleep(2_000);
    assert!(
        !bench.world.host.saw("RebuildStarted"),
        "a refused array rebuilds"
    );
    // The disk is back: nothing has happened that would cost it its place.
    bench.world.crash(Crash::Kill);
    let array = bench.world.assemble_all();
    assert_eq!(array.status().redundancy_left, 1);
}

#[test]
fn deleting_a_volume_leaves_extents_that_others_got_meanwhile() {
    let world = World::new(15, Shape::new(Level::Raid5, 3, 0, 4096));
    let array = world.create();
    let extent = array.status().space.extent_bytes;
    let (sectors, rows) = (extent / 512, extent / 8192);
    for name in ["a", "b"] {
        world.run(array.create_volume(name, 2 * extent)).unwrap();
    }
    let client = |name: &str, tag: u64| Region {
        volume: array.open_volume(name).unwrap(),
        model: Rc::new(RefCell::new(Model::new(
            tag,
            std::slice::from_ref(&(0..64)),
        ))),
        rng: Rng::new(tag),
        sectors: 0..64,
        whole: None,
        longest: 8,
    };
    let (a, b) = (client("a", 1), client("b", 2));
    world.run(async {
        a.write(0..64, false).await.unwrap();
        a.write(sectors..sectors + 64, false).await.unwrap();
    });
    let hold = |from: u64| {
        for (i, disk) in world.disks.iter().enumerate() {
            disk.hold_writes(world.rows_on_disk(&array, i, from..from + 64));
        }
    };
    let spawn = |work: cairn_blockdev::LocalFuture<()>| world.env.spawn.spawn(work);
    let deleted = Rc::new(RefCell::new(false));
    // A write holds the first extent; another holds a row of the second, where a discard waits.
    hold(0);
    hold(rows);
    for at in [0, sectors] {
        let a = client("a", 1);
        spawn(Box::pin(
            async move { drop(a.write(at..at + 16, false).await) },
        ));
    }
    world.sleep(1);
    let volume = Rc::clone(&a.volume);
    spawn(Box::pin(async move {
        drop(volume.discard(extent, extent).await);
    }));
    world.sleep(1);
    let (deleting, tell) = (Rc::clone(&array), Rc::clone(&deleted));
    spawn(Box::pin(async move {
        deleting.delete_volume("a").await.unwrap();
        *tell.borrow_mut() = true;
    }));
    world.sleep(5);
    // The second extent goes on: the discard frees it, and the other volume gets it.
    for disk in &world.disks {
        disk.release();
    }
    hold(0);
    world.run_till("the second extent is free", || {
        array.volumes().iter().all(|v| v.allocated_bytes == 0)
            || *deleted.borrow()
            || array.status().space.written_bytes <= 8 * 8192
    });
    world.sleep(5);
    world.run(b.write(0..64, false)).unwrap();
    for disk in &world.disks {
        disk.release();
    }
    world.run_till("deleted", || *deleted.borrow());
    world.run(check_all(&b.volume, &b.model, None, "the other volume"));
    world.check_space(&array);
}

#[test]
fn a_discard_under_way_does_not_reach_the_volume_that_comes_after() {
    for seed in 0..40 {
        let world = World::new(seed, Shape::new(Level::Raid5, 3, 0, 4096));
        let array = world.create();
        let extent = array.status().space.extent_bytes;
        world.run(array.create_volume("a", 3 * extent)).unwrap();
        let sectors = extent / 512;
        let windows = [0..64, sectors..sectors + 64, 2 * sectors..2 * sectors + 64];
        let old = array.open_volume("a").unwrap();
        let client = |tag: u64| Region {
            volume: array.open_volume("a").unwrap(),
            model: Rc::new(RefCell::new(Model::new(tag, &windows))),
            rng: Rng::new(seed),
            sectors: 0..64,
            whole: None,
            longest: 8,
        };
        let first = client(1);
        world.run(async {
            for window in &windows {
                first.write(window.clone(), false).await.unwrap();
            }
        });
        // Partial trims of written rows take their time: many small pieces, extent after extent.
        let trim = async {
            for _ in 0..20 {
                let end = 2 * extent + 64 * 512;
                if let Err(error) = old.discard(512, end - 1024).await {
                    assert!(
                        matches!(
                            error.kind,
                            IoErrorKind::OutOfRange | IoErrorKind::Stopped | IoErrorKind::NoSpace
                        ),
                        "{error}"
                    );
                    break;
                }
            }
        };
        let recreate = async {
            world
                .env
                .clock
                .sleep(std::time::Duration::from_micros(37 * seed))
                .await;
            array.delete_volume("a").await.unwrap();
            array.create_volume("a", 3 * extent).await.unwrap();
            let second = client(2);
            for window in windows.iter().rev() {
                second.write(window.clone(), false).await.unwrap();
            }
            second
        };
        world.run(async {
            let ((), second) = futures_util::future::join(trim, recreate).await;
            check_all(&second.volume, &second.model, None, "the new volume").await;
        });
    }
}

#[test]
fn two_torn_changes_of_membership_cost_no_member() {
    let bench = Bench::new(13, Level::Raid5, 3, 3);
    let (mut world, array) = (bench.world, bench.array);
    for spare in 3..6 {
        world.run(array.remove_spare(&world.path(spare))).unwrap();
    }
    world.run(array.stop()).unwrap();
    drop((array, bench.volume));
    world.crash(Crash::Kill);
    let mut present = vec![0, 1, 2];
    for spare in 3..6 {
        let array = world.assemble(&present, false).unwrap();
        assert_eq!(
            array.status().redundancy_left,
            1,
            "a good member was called stale"
        );
        // The commit reaches everybody but one member; nothing is written before the next.
        world.disks[2].hold_writes(LABELS);
        let (adding, disk) = (Rc::clone(&array), world.member(spare));
        world
            .env
            .spawn
            .spawn(Box::pin(async move { drop(adding.add_spare(disk).await) }));
        world.run_till("it waits", || world.disks[2].waiting() > 0);
        world.sleep(5);
        world.disks[2].lose_flying();
        present.push(spare);
        drop(array);
        world.crash(Crash::Kill);
    }
}

#[test]
fn rebuilt_members_are_in_sync_when_clients_never_pause() {
    let bench = Bench::new(14, Level::Raid6, 5, 2);
    bench.world.disks[0].inject(Fault::Gone);
    bench.world.disks[3].inject(Fault::Gone);
    let mut client = bench.client(0..256);
    let array = Rc::clone(&bench.array);
    bench.world.run(async move {
        for _ in 0..20_000 {
            client.step().await.unwrap();
            if is_full(&array) {
                return;
            }
        }
        panic!("never rebuilt under load: {:?}", array.status());
    });
    bench.world.audit(&bench.array);
}
