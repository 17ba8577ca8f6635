//! Clients that give up: a dropped future must not leave anything half done.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use cairn_blockdev::sim::Rng;
use cairn_blockdev::{Clock, ZeroFlags};
use cairn_raid::layout::{LABEL_A, LABEL_B};
use cairn_raid::{Array, Level};
use futures_util::future::{Either, select};

use crate::model::{Crash, Model};
use crate::region::{Region, check_all};
use crate::world::{Shape, World};

/// Runs `work` for so long at most, and drops it then. True if it ended.
async fn give_up_after<F: Future>(clock: &Rc<dyn Clock>, micros: u64, work: F) -> bool {
    let sleep = clock.sleep(Duration::from_micros(micros));
    matches!(select(Box::pin(work), sleep).await, Either::Left(_))
}

fn client(array: &Rc<Array>, name: &str, tag: u64) -> Region {
    Region {
        volume: array.open_volume(name).unwrap(),
        model: Rc::new(RefCell::new(Model::new(
            tag,
            std::slice::from_ref(&(0..256)),
        ))),
        rng: Rng::new(tag),
        sectors: 0..256,
        whole: None,
        longest: 32,
    }
}

fn hold_data(world: &World, array: &Array) {
    for (i, disk) in world.disks.iter().enumerate() {
        disk.hold_writes(world.rows_on_disk(array, i, 0..4096));
    }
}

fn release(world: &World) {
    for disk in &world.disks {
        disk.release();
    }
}

#[test]
fn a_write_that_was_given_up_never_reaches_the_volume_that_gets_its_extent() {
    for seed in 0..10 {
        let world = World::new(seed, Shape::new(Level::Raid5, 3, 0, 4096));
        let array = world.create();
        world.run(array.create_volume("a", 1 << 20)).unwrap();
        let a = client(&array, "a", 1);
        hold_data(&world, &array);
        let clock = Rc::clone(&world.env.clock);
        let ended = world.run(give_up_after(&clock, 3_000, a.write(0..100, false)));
        assert!(!ended);
        let b = Rc::new(RefCell::new(None));
        let (put, for_b) = (Rc::clone(&b), Rc::clone(&array));
        world.env.spawn.spawn(Box::pin(async move {
            for_b.delete_volume("a").await.unwrap();
            for_b.create_volume("b", 1 << 20).await.unwrap();
            let b = client(&for_b, "b", 2);
            // Maps the extent, without a written row where the old write goes.
            let flags = ZeroFlags {
                fua: false,
                no_hole: true,
            };
            b.volume.write_zeroes(0, 1 << 17, flags).await.unwrap();
            *put.borrow_mut() = Some(b);
        }));
        world.sleep(20);
        release(&world);
        world.run_till("b is there", || b.borrow().is_some());
        world.sleep(5);
        let b = b.take().unwrap();
        world.run(check_all(
            &b.volume,
            &b.model,
            None,
            "the volume that came after",
        ));
        world.check_space(&array);
    }
}

#[test]
fn stop_waits_for_writes_that_were_given_up() {
    let world = World::new(2, Shape::new(Level::Raid5, 3, 0, 4096));
    let array = world.create();
    world.run(array.create_volume("a", 1 << 20)).unwrap();
    let a = client(&array, "a", 1);
    world.run(a.write(0..256, false)).unwrap();
    hold_data(&world, &array);
    let clock = Rc::clone(&world.env.clock);
    assert!(!world.run(give_up_after(&clock, 500, a.write(3..100, false))));
    let stopped = Rc::new(Cell::new(false));
    let (tell, stopping) = (Rc::clone(&stopped), Rc::clone(&array));
    world.env.spawn.spawn(Box::pin(async move {
        stopping.stop().await.unwrap();
        tell.set(true);
    }));
    world.sleep(50);
    assert!(
        !stopped.get(),
        "stopped while a row transaction still writes"
    );
    release(&world);
    world.run_till("stopped", || stopped.get());
}

#[test]
fn an_idle_array_is_not_called_clean_under_a_write_that_was_given_up() {
    let world = World::new(3, Shape::new(Level::Raid5, 3, 0, 4096));
    let array = world.create();
    world.run(array.create_volume("a", 1 << 20)).unwrap();
    let a = client(&array, "a", 1);
    world.run(a.write(0..256, false)).unwrap();
    hold_data(&world, &array);
    let clock = Rc::clone(&world.env.clock);
    assert!(!world.run(give_up_after(&clock, 500, a.write(3..100, false))));
    world.sleep(20_000);
    assert!(
        !array.status().clean,
        "clean, with a transaction on its way"
    );
    release(&world);
}

#[test]
fn an_ejection_that_was_given_up_is_done_all_the_same() {
    for micros in [0, 100, 300, 1000] {
        let mut world = World::new(4, Shape::new(Level::Raid6, 5, 0, 4096));
        let array = world.create();
        world.run(array.create_volume("a", 1 << 20)).unwrap();
        let a = client(&array, "a", 1);
        world.run(a.write(0..256, false)).unwrap();
        // Another change of the labels is on its way.
        for disk in &world.disks {
            disk.hold_writes(LABEL_A..LABEL_B + 4096);
        }
        let (first, path) = (Rc::clone(&array), world.path(0));
        world.env.spawn.spawn(Box::pin(
            async move { first.fail_member(&path).await.unwrap() },
        ));
        world.run_till("it waits", || {
            world.disks.iter().any(|disk| disk.waiting() > 0)
        });
        let (clock, path) = (Rc::clone(&world.env.clock), world.path(1));
        assert!(!world.run(give_up_after(&clock, micros, array.fail_member(&path))));
        release(&world);
        world.sleep(100);
        world.run(a.write(0..256, false)).unwrap();
        world.run(a.flush()).unwrap();
        drop(array);
        world.crash(Crash::Kill);
        let array = world.assemble_all();
        let volume = array.open_volume("a").unwrap();
        let what = format!("given up after {micros} us");
        world.run(check_all(&volume, &a.model, Some(Crash::Kill), &what));
    }
}

#[test]
fn clients_that_give_up_at_any_moment_leave_a_sound_array() {
    for seed in 0..40 {
        println!("seed {seed}");
        let mut world = World::new(seed, Shape::new(Level::Raid6, 5, 0, 4096));
        let array = world.create();
        let extent = array.status().space.extent_bytes;
        world.run(array.create_volume("a", 2 * extent)).unwrap();
        let a = client(&array, "a", 1);
        let clients = [0..70, 70..133, 133..256]
            .into_iter()
            .zip(0..)
            .map(|(sectors, i)| {
                let mut region = Region {
                    volume: Rc::clone(&a.volume),
                    model: Rc::clone(&a.model),
                    rng: Rng::new(seed * 10 + i),
                    whole: (i == 2).then_some(133..2 * extent / 512),
                    sectors,
                    longest: 32,
                };
                let clock = Rc::clone(&world.env.clock);
                async move {
                    for _ in 0..40 {
                        let patience = region.rng.below(400);
                        if region.rng.one_in(2) {
                            if !give_up_after(&clock, patience, region.step()).await {
                                // It may go on for a while, and has no order with what comes next.
                                clock.sleep(Duration::from_millis(20)).await;
                            }
                        } else {
                            region.step().await.unwrap();
                        }
                    }
                }
            });
        world.run(futures_util::future::join_all(clients));
        world.sleep(500);
        world.audit(&array);
        world.check_space(&array);
        world.run(array.stop()).unwrap();
        drop(array);
        world.crash(Crash::Power);
        let array = world.assemble_all();
        let volume = array.open_volume("a").unwrap();
        world.run(check_all(&volume, &a.model, Some(Crash::Kill), "restarted"));
        world.audit(&array);
        drop(volume);
        world.run(array.delete_volume("a")).unwrap();
        let space = array.status().space;
        assert_eq!(space.free_bytes, space.total_bytes);
    }
}

#[test]
fn a_deletion_that_was_given_up_keeps_no_space() {
    for micros in (20..900).step_by(40) {
        let world = World::new(5, Shape::new(Level::Raid5, 3, 0, 4096));
        let array = world.create();
        world.run(array.create_volume("a", 1 << 20)).unwrap();
        let a = client(&array, "a", 1);
        world.run(a.write(0..256, false)).unwrap();
        let clock = Rc::clone(&world.env.clock);
        world.run(give_up_after(&clock, micros, array.delete_volume("a")));
        world.sleep(100);
        world.check_space(&array);
    }
}

#[test]
fn a_read_that_gave_up_at_a_gate_does_not_keep_the_array_from_stopping() {
    let world = World::new(6, Shape::new(Level::Raid5, 3, 0, 4096));
    let array = world.create();
    world.run(array.create_volume("a", 1 << 20)).unwrap();
    let a = client(&array, "a", 1);
    world.run(a.write(0..256, false)).unwrap();
    // A discard has emptied the extent and waits for its record; a write comes in between.
    let zones = (4 << 20)..array.data_offset(&world.path(0)).unwrap();
    for disk in &world.disks {
        disk.hold_writes(zones.clone());
    }
    let volume = Rc::clone(&a.volume);
    world.env.spawn.spawn(Box::pin(
        async move { drop(volume.discard(0, 1 << 20).await) },
    ));
    world.run_till("it waits", || {
        let asked = world.disks.iter().filter(|disk| disk.waiting() > 0);
        asked.count() == 2
    });
    hold_data(&world, &array);
    let late = client(&array, "a", 1);
    let written = Rc::new(Cell::new(false));
    let tell = Rc::clone(&written);
    world.env.spawn.spawn(Box::pin(async move {
        late.write(3..100, false).await.unwrap();
        tell.set(true);
    }));
    world.sleep(1);
    // The discard goes on to the gate and waits for the write; a read waits behind it.
    release(&world);
    hold_data(&world, &array);
    world.sleep(5);
    let mut read = a.volume.read(0, cairn_blockdev::Buf::zeroed(4096));
    assert!(world.sim.run_until(&mut read, 50).is_none());
    release(&world);
    world.run_till("written", || written.get());
    world.sleep(5);
    drop(read);
    world.run(array.stop()).unwrap();
}
