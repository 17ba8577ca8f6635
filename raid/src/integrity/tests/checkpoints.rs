//! What of a checkpoint is there after crashes, failures and changes of members.

use std::collections::{BTreeMap, BTreeSet};

use cairn_blockdev::sim::{Fault, Rng};

use super::*;
use crate::integrity::cache::ENTRY_BYTES;

#[test]
fn sums_come_back_after_a_restart_and_sides_take_turns() {
    for (level, members) in [(Level::Raid1, 2), (Level::Raid5, 4), (Level::Raid6, 5)] {
        let mut world = World::new(level, members, 1);
        for generation in 1..=4u8 {
            world.set(3, generation);
            world.checkpoint(u64::from(generation));
            world.restart();
            assert!(world.holds(3, generation).unwrap());
            assert_eq!(world.flaws(), []);
        }
        for copy in world.copies(3) {
            assert_eq!(world.generations(3, &copy), [Some(3), Some(4)]);
        }
    }
}

#[test]
fn d5_a_torn_checkpoint_leaves_the_page_before_it_or_the_one_after() {
    for seed in 0..200 {
        let mut world = World::new(Level::Raid6, 4, seed);
        let mut last = 0;
        for generation in 1..=1 + u8::try_from(seed % 3).unwrap() {
            world.set(0, generation);
            world.set(900, generation);
            world.checkpoint(u64::from(generation));
            last = generation;
        }
        world.set(0, last + 1);
        world.set(900, last + 1);
        // Any moment of the checkpoint, and after it, before the flush.
        let (sim, sums) = (&world.sim, &world.sums);
        let _ = sim.run_until(sums.write_dirty(&world.disks, &[], 9), seed % 40);
        world = world.power_cut(seed);
        for row in [0, 900] {
            let new = world.holds(row, last + 1).unwrap();
            assert!(new || world.holds(row, last).unwrap(), "seed {seed}");
        }
        // Half-done copies are mended, and that survives the same again.
        let new = world.holds(0, last + 1).unwrap();
        world.flaws();
        world.checkpoint(10);
        world = world.power_cut(seed);
        assert_eq!(world.holds(0, last + 1).unwrap(), new);
        assert_eq!(world.flaws(), []);
    }
}

#[test]
fn a_first_checkpoint_torn_on_every_member_leaves_a_blank_page() {
    let mut torn = 0;
    for seed in 0..100 {
        let mut world = World::new(Level::Raid5, 3, seed);
        world.set(0, 1);
        assert!(world.write_dirty(1).is_empty());
        world = world.power_cut(seed);
        if !world.holds(0, 1).unwrap() {
            torn += 1;
            // As the journal's replay does.
            world.flaws();
            world.set(0, 1);
        }
        world.checkpoint(1);
        world.restart();
        assert!(world.holds(0, 1).unwrap());
        assert_eq!(world.flaws(), []);
    }
    assert!(torn > 10, "{torn} of 100 seeds tore it");
}

#[test]
fn no_side_is_written_before_the_other_was_flushed_even_by_a_daemon_killed_between() {
    for seed in 0..400 {
        let mut world = World::new(Level::Raid1, 2, seed);
        world.set(0, 1);
        world.checkpoint(1);
        world.set(0, 2);
        assert!(world.write_dirty(2).is_empty());
        if seed % 2 == 0 {
            world.restart();
        }
        // Nobody has flushed generation 2, and 3 goes where 1 was.
        world.set(0, 3);
        let (sim, sums) = (&world.sim, &world.sums);
        let polls = if seed % 4 < 2 { u64::MAX } else { seed / 10 };
        let _ = sim.run_until(sums.write_dirty(&world.disks, &[], 3), polls);
        world = world.power_cut(seed);
        let held: Vec<u8> = (1..=3).filter(|n| world.holds(0, *n).unwrap()).collect();
        assert_eq!(held.len(), 1, "seed {seed}");
    }
}

#[test]
fn a_side_that_isn_t_known_is_looked_for_before_the_other_is_written() {
    let world = World::new(Level::Raid5, 3, 8);
    world.set(0, 1);
    world.checkpoint(1);
    let copy = world.copies(0)[0];
    world.sim.block_on(async {
        let _held = world.sums.ready(&world.disks, Row(0), 0..1).await.unwrap();
        world.sums.joined(copy.slot);
        let failed = world.sums.write_dirty(&world.disks, &[], 2).await;
        assert!(failed.is_empty());
    });
    assert_eq!(world.generations(0, &copy), [Some(1), Some(2)]);
}

#[test]
fn a_member_that_joins_during_a_checkpoint_gets_the_page_with_the_next() {
    for joins_at in 1..30 {
        let mut world = World::new(Level::Raid1, 2, 8);
        world.set(0, 1);
        // Not flushed, so that the checkpoint below begins with that.
        assert!(world.write_dirty(1).is_empty());
        let blank = SimDisk::new("new", config(50), &world.sim.env(), 5);
        let disk = disk_of(&blank, world.layout, &world.dropped[1], &world.sim.env());
        world.set(0, 2);
        world.sim.block_on(async {
            let _held = world.sums.ready(&world.disks, Row(0), 0..1).await.unwrap();
            let mut writing = Box::pin(world.sums.write_dirty(&world.disks, &[], 2));
            let mut ended = false;
            for _ in 0..joins_at {
                ended = ended || !is_pending(&mut writing).await;
                world.sim.env().clock.sleep(Duration::from_micros(3)).await;
            }
            world.sums.joined(Slot(1));
            if !ended {
                assert!(writing.await.is_empty());
            }
        });
        world.sim_disks[1] = blank;
        world.disks[1] = Some(disk);
        world.checkpoint(3);
        let (reads, ..) = world.sim_disks[1].counts();
        assert!(reads > 0, "what the disk has was looked at");
        world.disks[0] = None;
        world.restart();
        assert!(world.holds(0, 2).unwrap(), "at {joins_at}");
    }
}

#[test]
fn a_failing_member_is_named_and_the_page_is_clean_on_the_others() {
    let mut world = World::new(Level::Raid6, 4, 8);
    world.set(0, 1);
    world.checkpoint(1);
    world.set(0, 2);
    let bad = world.copies(0)[1].slot.0;
    world.sim_disks[bad].inject(Fault::WritesFail);
    let failed = world.write_dirty(2);
    assert_eq!(failed.len(), 1);
    assert!(Rc::ptr_eq(&failed[0].0, world.disks[bad].as_ref().unwrap()));
    assert_eq!(failed[0].1.kind, IoErrorKind::Medium);
    assert_eq!(world.sums.stats().dirty, 0);
    world.disks[bad].as_ref().unwrap().out.set(true);
    world.set(0, 3);
    assert!(world.write_dirty(3).is_empty());
    world.restart();
    assert!(world.holds(0, 3).unwrap());
    assert_eq!(world.flaws(), []);
}

#[test]
fn a_page_that_no_member_took_stays_dirty() {
    let world = World::new(Level::Raid1, 2, 8);
    world.set(0, 1);
    for disk in &world.sim_disks {
        disk.inject(Fault::WritesFail);
    }
    assert_eq!(world.write_dirty(1).len(), 2);
    assert_eq!(world.sums.stats().dirty, 1);
    for disk in &world.sim_disks {
        disk.heal();
    }
    world.checkpoint(1);
}

#[test]
fn a_failed_flush_of_earlier_copies_names_the_disk_and_nothing_is_written_to_it() {
    let world = World::new(Level::Raid5, 3, 8);
    world.set(0, 1);
    assert!(world.write_dirty(1).is_empty());
    world.set(0, 2);
    world.sim_disks[0].inject(Fault::FlushFails);
    let failed = world.write_dirty(2);
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].1.op, cairn_blockdev::IoOp::Flush);
    let copy = world.copies(0)[0];
    assert_eq!(copy.slot, Slot(0));
    assert_eq!(world.generations(0, &copy), [Some(1), None]);
}

#[test]
fn a_flush_that_began_before_the_writes_ended_counts_for_nothing() {
    let world = World::new(Level::Raid1, 2, 8);
    world.set(0, 1);
    world.checkpoint(1);
    world.set(0, 2);
    world.sim.block_on(async {
        let mut writing = Box::pin(world.sums.write_dirty(&world.disks, &[], 2));
        assert!(is_pending(&mut writing).await);
        world.sums.flushed();
        assert!(writing.await.is_empty());
    });
    world.set(0, 3);
    let flushes = |world: &World| world.sim_disks[0].counts().2;
    let before = flushes(&world);
    assert!(world.write_dirty(3).is_empty());
    assert_eq!(flushes(&world), before + 1);
    world.flush();
    world.set(0, 4);
    let before = flushes(&world);
    assert!(world.write_dirty(4).is_empty());
    assert_eq!(flushes(&world), before);
}

#[test]
fn d9_a_member_that_was_away_is_caught_up_with_pages_in_memory_and_pages_that_aren_t() {
    let mut world = World::new(Level::Raid5, 3, 9);
    world.set(0, 1);
    world.set(300, 1);
    world.checkpoint(1);
    let slot = world.copies(0)[0].slot;
    let away = world.disks[slot.0].take();
    world.set(0, 2);
    world.set(300, 2);
    world.checkpoint(2);
    world.disks[slot.0] = away;
    world.sums.joined(slot);
    // Held and changed while the member comes, so that it can't be read anew.
    world.set(0, 3);
    world.checkpoint(3);
    for row in [0, 300] {
        world.holds(row, 2).unwrap();
    }
    world.flaws();
    world.checkpoint(4);
    world.restart();
    assert!(world.holds(0, 3).unwrap() && world.holds(300, 2).unwrap());
    assert_eq!(world.flaws(), []);
}

#[test]
fn a_member_that_joins_during_a_read_is_looked_at_before_it_is_written() {
    let mut world = World::new(Level::Raid1, 2, 9);
    world.set(0, 1);
    world.checkpoint(1);
    world.restart();
    let blank = SimDisk::new("new", config(50), &world.sim.env(), 5);
    world.sim.block_on(async {
        let mut reading = Box::pin(world.sums.ready(&world.disks, Row(0), 0..1));
        assert!(is_pending(&mut reading).await);
        world.sums.joined(Slot(1));
        drop(reading.await.unwrap());
    });
    assert_eq!(world.sums.stats().dirty, 1);
    world.sim_disks[1] = blank;
    world.disks[1] = Some(disk_of(
        &world.sim_disks[1],
        world.layout,
        &world.dropped[1],
        &world.sim.env(),
    ));
    world.checkpoint(2);
    world.restart();
    assert!(world.holds(0, 1).unwrap());
    assert_eq!(world.flaws(), []);
}

#[test]
fn a_target_gets_every_page_that_is_touched_and_can_take_over() {
    let mut world = World::new(Level::Raid5, 3, 10);
    let rows: Vec<u64> = (0..1000).step_by(84).collect();
    for row in &rows {
        world.set(*row, 1);
    }
    world.checkpoint(1);
    let target = SimDisk::new("target", config(50), &world.sim.env(), 5);
    let disk = disk_of(&target, world.layout, &Rc::default(), &world.sim.env());
    world.sim.block_on(async {
        for row in &rows {
            let ready = world.sums.ready(&world.disks, Row(*row), 0..1).await;
            world.sums.touch(Row(*row), 0..1);
            drop(ready);
        }
        let targets = [(Slot(1), Rc::clone(&disk))];
        assert!(
            world
                .sums
                .write_dirty(&world.disks, &targets, 2)
                .await
                .is_empty()
        );
    });
    world.sums.joined(Slot(1));
    world.sim_disks[1] = target;
    world.disks[1] = Some(disk);
    // The others rot: the target alone has to do.
    for slot in [0, 2] {
        let zone = world.layout.zone(ZoneKind::Checksums);
        world.sim_disks[slot].poke(zone.offset, &vec![0xEE; usize_of(zone.len)]);
    }
    let mut held = 0;
    for row in &rows {
        if world.copies(*row).iter().any(|copy| copy.slot == Slot(1)) {
            assert!(world.holds(*row, 1).unwrap());
            held += 1;
        }
    }
    assert!(held > 5);
}

#[test]
fn neighbouring_pages_of_a_member_share_writes() {
    let world = World::new(Level::Raid1, 2, 11);
    let words = world.sums.places.words_per_page() as u64;
    let rows = words / world.geometry.chunk_blocks();
    for generation in 1..=2u64 {
        let before: u64 = world.sim_disks.iter().map(|d| d.counts().1).sum();
        for page in 0..16 {
            world.set(page * rows, u8::try_from(generation).unwrap());
        }
        world.checkpoint(generation);
        let writes: u64 = world.sim_disks.iter().map(|d| d.counts().1).sum();
        // 16 pages in 8 writes, or in 7 and the two at the ends.
        assert!(writes - before <= 2 * 9, "{} writes", writes - before);
    }
    for page in 0..16 {
        assert!(world.holds(page * rows, 2).unwrap());
    }
}

/// Random sums, checkpoints, restarts, power cuts and rot of any one copy, with a cache of a few
/// pages, against a model.
#[test]
fn nothing_is_forgotten_over_long_histories_with_a_small_cache() {
    for seed in 0..12u64 {
        let mut rng = Rng::new(seed);
        let sim = Sim::new(seed);
        let env: Env = sim.env();
        let sim_disks = (0..5)
            .map(|n| SimDisk::new(&format!("d{n}"), config(0), &env, seed + n))
            .collect();
        let mut world = World::over(sim, Level::Raid6, sim_disks, 5 * ENTRY_BYTES);
        let mut model: BTreeMap<u64, u8> = BTreeMap::new();
        let mut unsaved = BTreeSet::new();
        let mut sequence = 1;
        for _ in 0..150 {
            let row = rng.below(12) * 61;
            match rng.below(8) {
                0..=3 => {
                    let fill = u8::try_from(1 + rng.below(255)).unwrap();
                    world.set(row, fill);
                    model.insert(row, fill);
                    unsaved.insert(row);
                    sequence += 1;
                }
                4 => {
                    world.checkpoint(sequence);
                    unsaved.clear();
                }
                5 => {
                    world.checkpoint(sequence);
                    unsaved.clear();
                    if rng.one_in(2) {
                        world.restart();
                    } else {
                        world = world.power_cut(rng.next_u64());
                    }
                }
                6 => {
                    let copies = world.copies(row);
                    let copy = copies[usize_of(rng.below(3))];
                    let at = world.side_at(&copy, [Side::A, Side::B][usize_of(rng.below(2))]);
                    world.sim_disks[copy.slot.0].poke(at + 8 * rng.below(500), &[0xEE; 8]);
                    // Mended before the next one rots: read, and written.
                    world.checkpoint(sequence);
                    world.restart();
                    unsaved.clear();
                    if let Some(fill) = model.get(&row) {
                        assert!(world.holds(row, *fill).unwrap());
                        world.checkpoint(sequence);
                    }
                }
                _ => {
                    let held = model
                        .get(&row)
                        .is_none_or(|f| world.holds(row, *f).unwrap());
                    assert!(held, "seed {seed} row {row}");
                }
            }
            let stats = world.sums.stats();
            assert!(stats.pages <= stats.pages_max.max(stats.dirty));
        }
        for (row, fill) in &model {
            assert!(world.holds(*row, *fill).unwrap(), "seed {seed} row {row}");
        }
    }
}
