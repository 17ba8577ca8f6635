//! Tales cut off at every point, by `kill -9` and by the power, and told on from there.

use std::collections::{BTreeMap, BTreeSet};

use cairn_raid::Level;
use cairn_raid::journal::entry::Kind;
use cairn_raid::journal::group;
use cairn_raid::layout::{JOURNAL_MIN, ZONES_START};

use crate::model::Crash;
use crate::tale::Tale;
use crate::world::{Shape, World};

/// Prepared writes that stand at more than one place of the lane, as the rings on the disks have them. A
/// new epoch takes them all along, so that only places of one epoch count. Two writes of one sequence,
/// the first of them aborted, have different payloads and so different sums.
fn copied_forward(world: &World) -> usize {
    let mut places: BTreeMap<_, BTreeSet<u64>> = BTreeMap::new();
    for disk in &world.disks {
        let ring = disk.peek(ZONES_START, JOURNAL_MIN.try_into().unwrap());
        for at in (0..ring.len()).step_by(4096) {
            let Ok(group) = group::decode(&ring[at..]) else {
                continue;
            };
            for (entry, place) in group.entries.into_iter().zip(group.head.first.0..) {
                if entry.is_prepared() && entry.kind == Kind::Data {
                    let is = (group.head.epoch, entry.log, entry.log_seq, entry.sums);
                    places.entry(is).or_default().insert(place);
                }
            }
        }
    }
    places.values().filter(|places| places.len() > 1).count()
}

/// Gives how many writes were copied forward before the first cut.
fn cut(shape: Shape, seed: u64, crash: Crash, bulk: bool, (steps, cuts): (usize, &[u64])) -> usize {
    println!("seed {seed}, {crash:?}, cut after {cuts:?}");
    let mut tale = Tale::new(shape, seed, bulk);
    let mut array = tale.begin();
    let mut copied = None;
    for polls in cuts {
        let chapter = tale.chapter(&array, steps);
        tale.world.sim.run_until(chapter, *polls);
        drop(array);
        tale.crash(crash);
        copied = copied.or_else(|| bulk.then(|| copied_forward(&tale.world)));
        array = tale.world.assemble_all();
        tale.recover(&array, crash);
    }
    let chapter = tale.chapter(&array, 10);
    tale.world.run(chapter);
    tale.end(&array);
    copied.unwrap_or(0)
}

fn small(level: Level, members: usize) -> Shape {
    Shape::new(level, members, 0, 4096)
}

#[test]
fn logs_are_what_they_were_cut_off_at_every_poll() {
    for crash in [Crash::Kill, Crash::Power] {
        for polls in 0..400 {
            let then = 61 + polls * 7 % 300;
            cut(
                small(Level::Raid5, 3),
                40 + polls % 3,
                crash,
                false,
                (30, &[polls, then]),
            );
        }
    }
}

#[test]
fn logs_are_what_they_were_on_mirrors_and_raid6() {
    for seed in 0..40 {
        for crash in [Crash::Kill, Crash::Power] {
            let polls = seed * 7919 % 6_000;
            let cuts = [polls, seed * 6007 % 3_000, 500];
            cut(small(Level::Raid1, 2), seed, crash, false, (200, &cuts));
            cut(
                Shape::new(Level::Raid6, 5, 0, 16384),
                seed,
                crash,
                false,
                (200, &cuts),
            );
        }
    }
}

/// Enough is written beside them that records are copied forward again and again.
#[test]
fn logs_are_what_they_were_when_their_records_are_copied_forward() {
    let mut copied = Vec::new();
    for seed in 0..30 {
        for crash in [Crash::Kill, Crash::Power] {
            let shape = Shape::new(Level::Raid5, 3, 0, 65536);
            let cuts = [3_000 + seed * 9_173 % 30_000, seed * 6_007 % 9_000, 500];
            copied.push(cut(shape, seed, crash, true, (600, &cuts)));
        }
    }
    // The first cut of a few histories comes too early for that.
    let with_copies = copied.iter().filter(|count| **count > 0).count();
    assert!(with_copies > copied.len() / 2, "{copied:?}");
}
