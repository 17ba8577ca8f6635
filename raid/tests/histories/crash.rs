//! Stories cut off at every point, by `kill -9` and by the power, and told on from there.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use cairn_blockdev::sim::Rng;
use cairn_blockdev::{Buf, WriteFlags, ZeroFlags};
use cairn_raid::Level;

use crate::model::{Crash, Model, ZERO};
use crate::region::{Region, check_all};
use crate::story::Story;
use crate::world::{Shape, World};

const CRASHES: [Crash; 2] = [Crash::Kill, Crash::Power];

/// Disks with room for few extents, so that they are used again and again.
fn small(level: Level, members: usize, chunk_bytes: u32) -> Shape {
    let mut shape = Shape::new(level, members, 0, chunk_bytes);
    shape.disk_bytes = 330 << 20;
    shape
}

/// A story that is cut off after `first` polls, and again after `second`.
fn twice_cut(shape: Shape, seed: u64, crash: Crash, first: u64, second: u64) {
    let mut story = Story::new(shape, seed);
    let array = story.world.create();
    let chapter = story.chapter(&array, 40);
    let all_told = story.world.sim.run_until(chapter, first).is_some();
    drop(array);
    story.cut(crash);
    let array = story.world.assemble_all();
    story.check(&array, crash, false);
    let chapter = story.chapter(&array, 10);
    story.world.sim.run_until(chapter, second);
    drop(array);
    story.cut(crash);
    let array = story.world.assemble_all();
    story.check(&array, crash, false);
    story.end(array);
    assert!(!all_told, "the story is too short for {first} polls");
}

fn at_every_poll(level: Level, members: usize, seed: u64) {
    for crash in CRASHES {
        for polls in 0..300 {
            println!("seed {seed}: {level} of {members}, {crash:?} after {polls} polls");
            twice_cut(
                small(level, members, 4096),
                seed,
                crash,
                polls,
                97 + polls * 7 % 400,
            );
        }
    }
}

#[test]
fn raid1_keeps_its_word_cut_off_at_every_poll() {
    at_every_poll(Level::Raid1, 2, 31);
}

#[test]
fn raid5_keeps_its_word_cut_off_at_every_poll() {
    at_every_poll(Level::Raid5, 3, 32);
}

#[test]
fn raid6_keeps_its_word_cut_off_at_every_poll() {
    at_every_poll(Level::Raid6, 5, 33);
}

fn long_stories(level: Level, members: usize, chunk: u32, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        for crash in CRASHES {
            println!("seed {seed}: {level} of {members}, chunk {chunk}, {crash:?}");
            let first = 200 + seed.wrapping_mul(7919) % 9_000;
            twice_cut(
                small(level, members, chunk),
                seed,
                crash,
                first,
                seed.wrapping_mul(6007) % 5_000,
            );
        }
    }
}

#[test]
fn long_stories_on_mirrors_keep_their_word() {
    long_stories(Level::Raid1, 3, 4096, 100..160);
}

#[test]
fn long_stories_on_raid5_keep_their_word() {
    long_stories(Level::Raid5, 4, 4096, 200..260);
    long_stories(Level::Raid5, 3, 65536, 260..290);
}

#[test]
fn long_stories_on_raid6_keep_their_word() {
    long_stories(Level::Raid6, 6, 4096, 300..360);
    long_stories(Level::Raid6, 5, 65536, 360..390);
}

/// The volume has every extent. One of them is trimmed empty and written again while it is given back.
#[test]
fn a_write_waits_for_the_extent_that_a_trim_is_giving_back() {
    let mut shape = small(Level::Raid5, 3, 4096);
    shape.disk_bytes = 140 << 20;
    let world = World::new(7_000, shape);
    let array = world.create();
    let space = array.status().space;
    world
        .run(array.create_volume("v", space.total_bytes))
        .unwrap();
    let volume = array.open_volume("v").unwrap();
    let flags = ZeroFlags {
        fua: false,
        no_hole: true,
    };
    let ones = || Buf::copy_of(&[1; 4096]).freeze();
    let all = volume.write_zeroes(0, space.total_bytes, flags);
    world.run(all).unwrap();
    for micros in 0..600 {
        let write = volume.write(0, ones(), WriteFlags::default());
        world.run(write).unwrap();
        assert_eq!(array.status().space.free_bytes, 0);
        let trim = volume.discard(0, space.extent_bytes);
        let write = volume.write(8192, ones(), WriteFlags::default());
        let (trimmed, written) = world.run(async {
            let later = async {
                world.env.clock.sleep(Duration::from_micros(micros)).await;
                write.await
            };
            futures_util::future::join(trim, later).await
        });
        trimmed.unwrap();
        assert!(written.is_ok(), "after {micros} us: {written:?}");
    }
    world.audit(&array);
}

/// Volume `a` gives up the only extent that `b` could get; the power goes at any moment.
fn the_only_extent_changes_hands(polls: u64, seed: u64, delete: bool) {
    let mut shape = small(Level::Raid5, 3, 4096);
    shape.disk_bytes = 140 << 20;
    let mut world = World::new(seed, shape);
    let array = world.create();
    let space = array.status().space;
    for (name, extents) in [
        ("a", 1),
        ("b", 1),
        ("rest", space.total_bytes / space.extent_bytes),
    ] {
        let size = extents * space.extent_bytes;
        world.run(array.create_volume(name, size)).unwrap();
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
    let rest = array.open_volume("rest").unwrap();
    world.run(async {
        a.write(0..64, false).await.unwrap();
        // Everything else is taken.
        let flags = ZeroFlags {
            fua: false,
            no_hole: true,
        };
        let others = space.total_bytes - space.extent_bytes;
        rest.write_zeroes(0, others, flags).await.unwrap();
        a.flush().await.unwrap();
    });
    assert_eq!(array.status().space.free_bytes, 0);
    let (model_a, model_b) = (Rc::clone(&a.model), Rc::clone(&b.model));
    let (clock, deleting) = (Rc::clone(&world.env.clock), Rc::clone(&array));
    let story = async move {
        let give_up = async {
            if delete {
                deleting.delete_volume("a").await.unwrap();
            } else {
                a.model.borrow_mut().begin(0..64, ZERO);
                a.volume.discard(0, space.extent_bytes).await.unwrap();
                a.model.borrow_mut().acked(0..64, ZERO, false);
            }
        };
        let take = async {
            while b.write(0..64, false).await.is_err() {
                clock.sleep(Duration::from_micros(3)).await;
            }
        };
        futures_util::future::join(give_up, take).await;
    };
    world.sim.run_until(story, polls);
    drop((array, rest));
    world.crash(Crash::Power);
    let array = world.assemble_all();
    for (name, model) in [("a", model_a), ("b", model_b)] {
        if let Ok(volume) = array.open_volume(name) {
            let what = format!("seed {seed}, {polls} polls, {name}");
            world.run(check_all(&volume, &model, Some(Crash::Power), &what));
        }
    }
    world.check_space(&array);
}

#[test]
fn an_extent_changes_hands_only_after_its_unmapping_is_durable() {
    for polls in 0..900 {
        for delete in [false, true] {
            the_only_extent_changes_hands(polls, 5_000 + polls, delete);
        }
    }
}

/// A mirror of three whose stop is cut off by the power, and the start after it, too; one member is left.
/// `None` if the stop was through by then; otherwise whether the start was.
fn stop_and_start_cut(stop: u64, start: u64) -> Option<bool> {
    let mut world = World::new(9_000 + stop, Shape::new(Level::Raid1, 3, 0, 4096));
    let array = world.create();
    world.run(array.create_volume("v", 1 << 20)).unwrap();
    let model = Rc::new(RefCell::new(Model::new(7, std::slice::from_ref(&(0..256)))));
    let client = Region {
        volume: array.open_volume("v").unwrap(),
        model: Rc::clone(&model),
        rng: Rng::new(1),
        sectors: 0..256,
        whole: None,
        longest: 16,
    };
    world.run(client.write(0..256, true)).unwrap();
    drop(client);
    let stopped = world.sim.run_until(array.stop(), stop).is_some();
    drop(array);
    world.crash(Crash::Power);
    if stopped {
        return None;
    }
    let starting = world.assemble_later(&[0, 1, 2], false);
    let started = world.sim.run_until(starting, start).is_some();
    world.crash(Crash::Power);
    let last = usize::try_from((stop + start) % 3).unwrap();
    let what = format!("stop cut at {stop}, start at {start}, only {last} left");
    println!("{what}");
    let array = world.assemble(&[last], false).expect(&what);
    let volume = array.open_volume("v").unwrap();
    world.run(check_all(&volume, &model, Some(Crash::Power), &what));
    Some(started)
}

/// Two slots for everything that is written again and again: a member that was left behind by the first
/// cut must not lose the one copy that it has in the second.
#[test]
fn the_last_of_a_mirror_has_a_whole_copy_of_everything_after_two_cuts() {
    for stop in (1u64..).step_by(11) {
        for start in (1u64..).step_by(23) {
            match stop_and_start_cut(stop, start) {
                None => return,
                Some(true) => break,
                Some(false) => {}
            }
        }
    }
}

/// A record of a block, then the row as a whole, durably; the power goes, and a block of the row rots.
fn rots_in_a_complete_row(level: Level, members: usize, victim: usize) {
    let mut world = World::new(9_500, Shape::new(level, members, 0, 4096));
    let array = world.create();
    world.run(array.create_volume("v", 1 << 20)).unwrap();
    let row = array.status().row_bytes / 512;
    let model = Rc::new(RefCell::new(Model::new(7, std::slice::from_ref(&(0..row)))));
    let client = Region {
        volume: array.open_volume("v").unwrap(),
        model: Rc::clone(&model),
        rng: Rng::new(1),
        sectors: 0..row,
        whole: None,
        longest: row,
    };
    world.run(async {
        client.write(0..row, false).await.unwrap();
        for block in 0..row / 8 {
            client.write(block * 8..block * 8 + 8, false).await.unwrap();
        }
        client.write(0..row, false).await.unwrap();
        client.flush().await.unwrap();
    });
    let first = array.written_rows()[0].0;
    let place = world.rows_on_disk(&array, victim, first..first + 1).start;
    drop((array, client));
    world.crash(Crash::Power);
    let rotten = world.disks[victim].peek(place + 1000, 1)[0] ^ 8;
    world.disks[victim].poke(place + 1000, &[rotten]);
    let array = world.assemble_all();
    let volume = array.open_volume("v").unwrap();
    let what = format!("{level}, member {victim} rots");
    world.run(check_all(&volume, &model, Some(Crash::Power), &what));
    world.audit(&array);
}

#[test]
fn a_block_that_rots_after_its_complete_row_is_durable_is_not_an_older_record_again() {
    for (level, members) in [(Level::Raid1, 2), (Level::Raid5, 4), (Level::Raid6, 5)] {
        for victim in 0..members {
            rots_in_a_complete_row(level, members, victim);
        }
    }
}
