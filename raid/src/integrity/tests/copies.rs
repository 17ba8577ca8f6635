//! Which copy of a page is believed, what is found wrong with the others, what is lost.

use std::time::Duration;

use cairn_blockdev::sim::{Effect, Fault, On, Rng, Strike};

use super::*;

#[test]
fn a_page_that_was_never_written_is_blank_and_nothing_is_wrong_with_it() {
    let world = World::new(Level::Raid6, 4, 1);
    assert!(!world.holds(0, 0).unwrap(), "blank sums verify nothing");
    assert_eq!(world.flaws(), []);
    assert_eq!(world.sums.stats().dirty, 0);
}

#[test]
fn d6_a_lost_write_of_a_copy_is_outvoted_by_the_others_and_mended() {
    let mut world = World::new(Level::Raid6, 5, 2);
    world.set(0, 1);
    world.checkpoint(1);
    let copy = world.copies(0)[1];
    let dropped = Rc::clone(&world.dropped[copy.slot.0]);
    dropped.set((0, u64::MAX));
    world.set(0, 2);
    world.checkpoint(2);
    dropped.set((0, 0));
    assert_eq!(world.generations(0, &copy), [Some(1), None]);
    world.restart();
    assert!(world.holds(0, 2).unwrap());
    assert_eq!(world.flaws(), [(copy.slot.0, "stale")]);
    assert_eq!(world.sums.stats().dirty, 1);
    world.checkpoint(2);
    assert_eq!(world.generations(0, &copy), [Some(1), Some(3)]);
    world.restart();
    assert!(world.holds(0, 2).unwrap());
    assert_eq!(world.flaws(), []);
}

/// The one copy that answers is old: reads may be served by it, but nothing is changed by it, and it never outranks the newer.
#[test]
fn d6_a_copy_on_a_disk_that_is_slow_is_waited_for_before_anything_is_changed() {
    let mut world = World::new(Level::Raid5, 3, 22);
    world.set(0, 1);
    world.checkpoint(1);
    let [old, new] = [0, 1].map(|copy| world.copies(0)[copy]);
    let dropped = Rc::clone(&world.dropped[old.slot.0]);
    dropped.set((0, u64::MAX));
    world.set(0, 2);
    world.checkpoint(2);
    dropped.set((0, 0));
    world.restart();
    let slow = Strike::new(On::Read, Effect::Hang(Some(Duration::from_secs(5))));
    world.sim_disks[new.slot.0].strike(slow.always());
    world.sim.block_on(async {
        let (sums, disks) = (&world.sums, &world.disks);
        let at_hand = sums.at_hand(disks, Row(0), 0..1).await.unwrap();
        assert!(sums.is_partial(Row(0), &(0..1)));
        assert_eq!(sums.verify(Row(0), 0, Slot(0), &block(1)), Verdict::Good);
        assert_eq!(sums.stats().dirty, 0, "nothing is known to be wrong");
        let ready = sums.ready(disks, Row(0), 0..1).await.unwrap();
        assert!(!sums.is_partial(Row(0), &(0..1)));
        assert_eq!(sums.verify(Row(0), 0, Slot(0), &block(2)), Verdict::Good);
        drop((at_hand, ready));
    });
    assert_eq!(world.flaws(), [(old.slot.0, "stale")]);
    world.checkpoint(2);
    world.restart();
    assert!(world.holds(0, 2).unwrap());
    assert_eq!(world.flaws(), []);
}

#[test]
fn what_a_member_kept_of_a_checkpoint_that_was_cut_off_never_outranks_what_is_written_later() {
    let mut world = World::new(Level::Raid5, 3, 20);
    world.set(0, 1);
    world.checkpoint(1);
    // The power goes in a checkpoint: one copy got it, under a sequence that is given again afterwards.
    let away = world.copies(0)[0];
    let other = Rc::clone(&world.dropped[world.copies(0)[1].slot.0]);
    other.set((0, u64::MAX));
    world.set(0, 2);
    world.checkpoint(100);
    other.set((0, 0));
    assert_eq!(world.generations(0, &away), [Some(1), Some(100)]);
    // Who got it is away at the start, and comes back.
    let member = world.disks[away.slot.0].take();
    world.restart();
    world.set(0, 3);
    world.checkpoint(5);
    world.sums.joined(away.slot);
    world.disks[away.slot.0] = member;
    let cols = 0..1;
    world.sim.block_on(async {
        // As catching up does: the disk isn't read before it has what it missed.
        let mut without = world.disks.clone();
        without[away.slot.0] = None;
        let _ready = world.sums.ready(&without, Row(0), cols.clone()).await;
        world.sums.touch(Row(0), cols);
    });
    world.checkpoint(7);
    world.restart();
    assert!(world.holds(0, 3).unwrap());
    assert_eq!(world.flaws(), []);
}

#[test]
fn a10_an_old_image_of_a_member_is_caught_whichever_member_it_is() {
    for slot in 0..4 {
        let mut world = World::new(Level::Raid5, 4, 3);
        let rows: Vec<u64> = (0..600).step_by(60).collect();
        for row in &rows {
            world.set(*row, 1);
        }
        world.checkpoint(1);
        let old = world.sim_disks[slot].peek(0, 256 << 20);
        for row in &rows {
            world.set(*row, 2);
        }
        world.checkpoint(2);
        world.sim_disks[slot].poke(0, &old);
        world.restart();
        for row in &rows {
            assert!(world.holds(*row, 2).unwrap());
            assert!(!world.holds(*row, 1).unwrap());
        }
        let flaws = world.flaws();
        assert!(!flaws.is_empty());
        assert!(flaws.iter().all(|flaw| *flaw == (slot, "stale")));
    }
}

#[test]
fn two_bad_copies_of_three_are_survived_on_raid_6_and_mended() {
    let mut world = World::new(Level::Raid6, 6, 4);
    for bad in [[0, 1], [0, 2], [1, 2]] {
        world.set(9, 5);
        world.checkpoint(1);
        let copies = world.copies(9);
        let rotten = copies[bad[0]];
        for side in [Side::A, Side::B] {
            let at = world.side_at(&rotten, side);
            world.sim_disks[rotten.slot.0].poke(at + 100, &[0xEE; 8]);
        }
        let unreadable = copies[bad[1]];
        let offset = world.side_at(&unreadable, unreadable.sides()[0]);
        let len = 2 * BLOCK;
        world.sim_disks[unreadable.slot.0].inject(Fault::BadRange { offset, len });
        world.restart();
        assert!(world.holds(9, 5).unwrap());
        let mut expected = [
            (rotten.slot.0, "damaged"),
            (unreadable.slot.0, "unreadable"),
        ];
        expected.sort_unstable();
        assert_eq!(world.flaws(), expected);
        world.sim_disks[unreadable.slot.0].heal();
        world.checkpoint(1);
        world.restart();
        assert!(world.holds(9, 5).unwrap());
        assert_eq!(world.flaws(), []);
    }
}

#[test]
fn an_unreadable_sector_under_one_side_doesn_t_cost_the_other() {
    let mut world = World::new(Level::Raid1, 2, 4);
    world.set(0, 1);
    world.checkpoint(1);
    world.set(0, 2);
    world.checkpoint(2);
    // The newest of one copy, and the whole other disk.
    let copies = world.copies(0);
    let offset = world.side_at(&copies[0], Side::A);
    let len = 512;
    world.sim_disks[copies[0].slot.0].inject(Fault::BadRange { offset, len });
    world.disks[copies[1].slot.0] = None;
    world.restart();
    assert!(world.holds(0, 2).unwrap());
    assert_eq!(world.sums.stats().dirty, 1);
    world.checkpoint(2);
    // The write went to the bad side, and healed it.
    assert_eq!(world.generations(0, &copies[0]), [Some(3), Some(2)]);
}

#[test]
fn a_page_without_a_valid_copy_is_lost_and_loud_until_it_is_begun_anew() {
    let mut world = World::new(Level::Raid5, 3, 5);
    world.set(0, 1);
    world.set(0, 2);
    world.checkpoint(1);
    world.set(0, 3);
    world.checkpoint(2);
    for copy in world.copies(0) {
        for side in [Side::A, Side::B] {
            let at = world.side_at(&copy, side);
            world.sim_disks[copy.slot.0].poke(at + 4000, &[0xEE; 8]);
        }
    }
    world.restart();
    let error = world.holds(0, 3).unwrap_err();
    let SumsError::Lost { page, copies } = &error else {
        panic!("{error}");
    };
    assert_eq!((*page, copies.as_str()), (0, "d0 damaged, d1 damaged"));
    world.sim.block_on(async {
        let (sums, disks) = (&world.sums, &world.disks);
        let _ready = sums.ready_or_blank(disks, Row(0), 0..1).await.unwrap();
        assert_eq!(
            sums.verify(Row(0), 0, Slot(1), &block(3)),
            Verdict::Bad(vec![0])
        );
        for slot in (0..3).map(Slot) {
            sums.set(slot, Row(0), 0, &[crc(3)]);
        }
    });
    world.checkpoint(3);
    world.restart();
    assert!(world.holds(0, 3).unwrap());
}

#[test]
fn a_page_of_which_every_member_is_missing_is_not_taken_for_a_blank_one() {
    let mut world = World::new(Level::Raid5, 4, 5);
    world.set(0, 1);
    world.checkpoint(1);
    world.restart();
    for copy in world.copies(0) {
        world.disks[copy.slot.0] = None;
    }
    assert!(matches!(world.holds(0, 1), Err(SumsError::Lost { .. })));
}

#[test]
fn d7_d8_a_rotten_or_misdirected_block_fails_and_no_other_does() {
    let world = World::new(Level::Raid6, 5, 6);
    let cols = 4;
    world.sim.block_on(async {
        let (sums, disks) = (&world.sums, &world.disks);
        let mut rng = Rng::new(6);
        let _ready = sums.ready(disks, Row(7), 0..cols).await.unwrap();
        let mut chunks = Vec::new();
        for slot in (0..5).map(Slot) {
            let mut chunk = vec![0; BLOCK_BYTES * 4];
            rng.fill(&mut chunk);
            let crcs: Vec<u32> = chunk
                .chunks(BLOCK_BYTES)
                .map(cairn_blockdev::crc::crc32c)
                .collect();
            sums.set(slot, Row(7), 0, &crcs);
            chunks.push(chunk);
        }
        for (slot, chunk) in chunks.iter().enumerate() {
            for col in 0..4usize {
                let mut rotten = chunk.clone();
                rotten[col * BLOCK_BYTES + 77] ^= 1;
                let mut misdirected = chunk.clone();
                let from = (col + 1) % 4 * BLOCK_BYTES;
                misdirected.copy_within(from..from + BLOCK_BYTES, col * BLOCK_BYTES);
                for wrong in [rotten, misdirected] {
                    assert_eq!(
                        sums.verify(Row(7), 0, Slot(slot), &wrong),
                        Verdict::Bad(vec![col as u64])
                    );
                }
            }
            assert_eq!(sums.verify(Row(7), 0, Slot(slot), chunk), Verdict::Good);
        }
    });
}

#[test]
fn callers_share_the_read_of_a_page_and_one_who_gives_up_leaves_it_to_the_next() {
    let mut world = World::new(Level::Raid6, 5, 7);
    world.set(0, 1);
    world.checkpoint(1);
    world.restart();
    let reads = |world: &World| -> u64 { world.sim_disks.iter().map(|d| d.counts().0).sum() };
    let before = reads(&world);
    world.sim.block_on(async {
        let wait = || world.sums.ready(&world.disks, Row(0), 0..4);
        let mut given_up = Box::pin(wait());
        assert!(is_pending(&mut given_up).await);
        let mut rest = Box::pin(join_all((0..20).map(|_| wait())));
        assert!(is_pending(&mut rest).await);
        drop(given_up);
        assert!(rest.await.iter().all(Result::is_ok));
    });
    assert_eq!(world.sums.stats().loads, 2);
    // The first three reads were given up before they began.
    assert!(reads(&world) - before <= 6);
    assert!(world.holds(0, 1).unwrap());
    assert_eq!(world.sums.stats().loads, 2);
}

#[test]
fn copies_of_one_generation_that_differ_are_noticed_and_made_one() {
    let mut world = World::new(Level::Raid5, 3, 12);
    world.set(0, 1);
    world.checkpoint(5);
    let mut copies = world.copies(0);
    let other = copies.pop().unwrap();
    let id = world.sums.cache.borrow().id(world.page(0));
    let sums = vec![1; world.sums.places.sums_per_page()];
    let bytes = super::page::encode(&id, 5, &sums);
    world.sim_disks[other.slot.0].poke(world.side_at(&other, Side::A), &bytes);
    world.restart();
    assert!(world.holds(0, 1).unwrap());
    assert_eq!(world.flaws(), [(other.slot.0, "differs")]);
    world.checkpoint(5);
    world.restart();
    assert!(world.holds(0, 1).unwrap());
    assert_eq!(world.flaws(), []);
}

#[test]
fn a_page_of_a_newer_version_is_refused_and_left_alone() {
    let mut world = World::new(Level::Raid5, 3, 13);
    world.set(0, 1);
    world.checkpoint(1);
    let copy = world.copies(0)[0];
    let at = world.side_at(&copy, Side::A);
    let disk = &world.sim_disks[copy.slot.0];
    let mut bytes = disk.peek(at, BLOCK_BYTES);
    bytes[8] = 2;
    let crc = cairn_blockdev::crc::crc32c(&bytes[..4092]);
    bytes[4092..].copy_from_slice(&crc.to_le_bytes());
    disk.poke(at, &bytes);
    world.restart();
    let error = world.holds(0, 1).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("d0: checksum page has version 2")
    );
}

#[test]
fn findings_that_nobody_fetches_are_bounded_and_counted() {
    let mut world = World::new(Level::Raid1, 32, 14);
    let rows = world.sums.places.words_per_page() as u64 / world.geometry.chunk_blocks();
    let pages: u64 = 40;
    for page in 0..pages {
        world.set(page * rows, 1);
    }
    world.checkpoint(1);
    // Every copy but the first member's.
    let zone = world.layout.zone(ZoneKind::Checksums).offset + BLOCK;
    for disk in world.sim_disks.iter().skip(1) {
        disk.poke(zone, &vec![0xEE; 40 * 2 * BLOCK_BYTES]);
    }
    world.restart();
    for page in 0..pages {
        assert!(world.holds(page * rows, 1).unwrap());
    }
    assert_eq!(world.sums.stats().flaws, pages * 31);
    assert_eq!(world.sums.take_findings().len(), FINDINGS_MAX);
    assert!(world.sums.take_findings().is_empty());
}

#[test]
fn a_torn_first_write_is_written_over_and_never_counts_as_loss() {
    for side in [Side::A, Side::B] {
        let mut world = World::new(Level::Raid5, 3, 15);
        for copy in world.copies(0) {
            world.sim_disks[copy.slot.0].poke(world.side_at(&copy, side), &[0xEE; 512]);
        }
        assert!(!world.holds(0, 1).unwrap());
        assert_eq!(world.flaws(), []);
        world.set(0, 1);
        world.checkpoint(1);
        for copy in world.copies(0) {
            let expected = match side {
                Side::A => [Some(1), None],
                Side::B => [None, Some(1)],
            };
            assert_eq!(world.generations(0, &copy), expected);
        }
        world.restart();
        assert!(world.holds(0, 1).unwrap());
    }
}

#[test]
fn a_blank_copy_beside_one_with_both_sides_damaged_is_no_blank_page() {
    let world = World::new(Level::Raid5, 3, 15);
    let copy = world.copies(0)[0];
    for side in [Side::A, Side::B] {
        world.sim_disks[copy.slot.0].poke(world.side_at(&copy, side), &[0xEE; 512]);
    }
    let error = world.holds(0, 1).unwrap_err();
    assert!(
        error.to_string().contains("d0 damaged, d1 blank"),
        "{error}"
    );
}

#[test]
fn a_page_begun_anew_isn_t_replaced_by_a_read_that_was_under_way() {
    let mut world = World::new(Level::Raid1, 2, 16);
    world.set(0, 1);
    world.checkpoint(1);
    world.restart();
    let good: Vec<Vec<u8>> = world.sim_disks.iter().map(|d| d.peek(0, 1 << 26)).collect();
    for copy in world.copies(0) {
        for side in [Side::A, Side::B] {
            world.sim_disks[copy.slot.0].poke(world.side_at(&copy, side), &[0xEE; 512]);
        }
    }
    world.sim.block_on(async {
        let (sums, disks) = (&world.sums, &world.disks);
        let mut first = Box::pin(sums.ready(disks, Row(0), 0..1));
        assert!(is_pending(&mut first).await);
        let mut anew = Box::pin(sums.ready_or_blank(disks, Row(0), 0..1));
        assert!(is_pending(&mut anew).await);
        assert!(matches!(first.await, Err(SumsError::Lost { .. })));
        for (disk, bytes) in world.sim_disks.iter().zip(&good) {
            disk.poke(0, bytes);
        }
        let mut late = Box::pin(sums.ready(disks, Row(0), 0..1));
        assert!(is_pending(&mut late).await);
        let _anew = anew.await.unwrap();
        sums.set(Slot(0), Row(0), 0, &[crc(2)]);
        let _late = late.await.unwrap();
        assert_eq!(sums.crc(Slot(0), Row(0), 0), Some(crc(2)));
    });
}

#[test]
fn d8_a_scrub_sees_copies_that_rot_under_a_page_in_memory() {
    let mut world = World::new(Level::Raid6, 4, 17);
    let check = |world: &World| {
        let check = world.sums.check(&world.disks, Row(0), 0..4);
        world.sim.block_on(check).unwrap();
    };
    world.set(0, 1);
    check(&world);
    assert_eq!(world.flaws(), [], "a dirty page has no copies to look at");
    world.checkpoint(1);
    check(&world);
    assert_eq!((world.flaws(), world.sums.stats().dirty), (vec![], 0));
    for rotten in 1..=3 {
        for copy in &world.copies(0)[..rotten] {
            for side in [Side::A, Side::B] {
                world.sim_disks[copy.slot.0].poke(world.side_at(copy, side), &[0xEE; 512]);
            }
        }
        check(&world);
        // With no copy left there is nobody to compare with, and memory still knows.
        let flaws = world.flaws();
        assert_eq!(flaws.len(), if rotten == 3 { 0 } else { rotten });
        assert_eq!(world.sums.stats().dirty, 1);
        world.checkpoint(1);
        check(&world);
        assert_eq!((world.flaws(), world.sums.stats().dirty), (vec![], 0));
    }
    world.restart();
    assert!(world.holds(0, 1).unwrap());
    assert_eq!(world.flaws(), []);
    // Not in memory: read, and so checked.
    world.restart();
    check(&world);
    assert_eq!(world.sums.stats().loads, 1);
}

#[test]
fn copies_that_can_be_read_again_are_never_written_over_by_a_page_that_says_nothing() {
    let mut world = World::new(Level::Raid5, 3, 21);
    world.set(0, 1);
    world.checkpoint(1);
    world.restart();
    for copy in world.copies(0) {
        let offset = world.side_at(&copy, copy.sides()[0]);
        let len = 2 * BLOCK;
        world.sim_disks[copy.slot.0].inject(Fault::BadRange { offset, len });
    }
    // As a scrub does, twice, and nothing vouches for any block.
    for _ in 0..2 {
        world.sim.block_on(async {
            let (sums, disks) = (&world.sums, &world.disks);
            let _lost = sums.check(disks, Row(0), 0..1).await;
            let _ready = sums.ready_or_blank(disks, Row(0), 0..1).await.unwrap();
        });
        assert_eq!(world.sums.stats().dirty, 0);
    }
    for copy in world.copies(0) {
        world.sim_disks[copy.slot.0].heal();
    }
    let check = world.sums.check(&world.disks, Row(0), 0..1);
    world.sim.block_on(check).unwrap();
    assert!(world.holds(0, 1).unwrap());
    world.checkpoint(2);
    world.restart();
    assert!(world.holds(0, 1).unwrap());
}

#[test]
fn d6_a_scrub_sees_a_checkpoint_that_every_member_lost() {
    let world = World::new(Level::Raid1, 2, 18);
    world.set(0, 1);
    world.checkpoint(1);
    for dropped in &world.dropped {
        dropped.set((0, u64::MAX));
    }
    world.set(0, 2);
    world.checkpoint(2);
    for dropped in &world.dropped {
        dropped.set((0, 0));
    }
    let check = world.sums.check(&world.disks, Row(0), 0..1);
    world.sim.block_on(check).unwrap();
    assert_eq!(world.sums.stats().dirty, 1);
    world.checkpoint(2);
    for copy in world.copies(0) {
        assert_eq!(world.generations(0, &copy), [Some(1), Some(3)]);
    }
}
