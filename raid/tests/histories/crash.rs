//! Stories cut off at every point, by `kill -9` and by the power, and told on from there.

use cairn_raid::Level;

use crate::model::Crash;
use crate::story::Story;
use crate::world::Shape;

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
