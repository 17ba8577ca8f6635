use cairn_blockdev::sim::{Fault, Sim, SimDisk, SimDiskConfig};
use cairn_blockdev::units::{BLOCK, MIB};
use cairn_blockdev::{BlockDevice, Buf, IoErrorKind, WriteFlags};

use super::*;
use crate::journal::group::{ENTRIES_MAX, GROUP_BYTES_MAX, decode};
use crate::journal::header::RING_OFFSET;
use crate::journal::scan::{Found, PayloadError, read_payload, scan};

const ZONE: u64 = 4 * MIB;
const RING: u64 = 8 * MIB;

struct World {
    sim: Sim,
    disk: SimDisk,
}

impl World {
    fn new(seed: u64) -> Self {
        let sim = Sim::new(seed);
        let config = SimDiskConfig {
            size: ZONE + RING_OFFSET + RING + MIB,
            logical_block: 4096,
            latency_us_max: 0,
        };
        let disk = SimDisk::new("d", config, &sim.env(), seed);
        Self { sim, disk }
    }

    fn put(&self, position: u64, bytes: &[u8]) {
        self.disk.poke(ZONE + RING_OFFSET + position, bytes);
    }

    fn scan(&self, floor: u64) -> Vec<Found> {
        let found = scan(&self.disk, ZONE, RING, ARRAY, EPOCH, 0, Seq(floor));
        self.sim.block_on(found).unwrap()
    }

    /// Position, first sequence, whether it is intact.
    fn seen(&self, floor: u64) -> Vec<(u64, u64, bool)> {
        self.scan(floor)
            .iter()
            .map(|found| (found.position, found.group.head.first.0, found.intact))
            .collect()
    }

    fn payload(&self, found: &Found, index: usize) -> Result<Buf, PayloadError> {
        let read = read_payload(&self.disk, ZONE, found, index);
        self.sim.block_on(read)
    }

    fn bad_block(&self, position: u64) {
        self.disk.inject(Fault::BadRange {
            offset: ZONE + RING_OFFSET + position + 512,
            len: 512,
        });
    }
}

#[test]
fn an_empty_ring_holds_nothing() {
    assert_eq!(World::new(1).seen(1), []);
}

#[test]
fn groups_are_found_where_they_lie_and_those_of_others_are_not() {
    let world = World::new(1);
    let other = |change: &dyn Fn(&mut Head)| {
        let mut head = head(60);
        change(&mut head);
        bytes_of(&head, &[bare(Kind::Barrier, Vec::new())], &[])
    };
    world.put(0, &write_group(50, 3, 1));
    world.put(5 * BLOCK, &other(&|head| head.array = Uuid::nil()));
    world.put(6 * BLOCK, &other(&|head| head.epoch += 1));
    world.put(7 * BLOCK, &other(&|head| head.lane = 1));
    world.put(8 * BLOCK, &write_group(39, 1, 2));
    let two = [
        bare(Kind::Barrier, Vec::new()),
        bare(Kind::Barrier, Vec::new()),
    ];
    world.put(10 * BLOCK, &bytes_of(&head(39), &two, &[]));
    let end = RING - 2 * BLOCK;
    world.put(end, &write_group(51, 1, 3));
    assert_eq!(
        world.seen(40),
        [(0, 50, true), (10 * BLOCK, 39, true), (end, 51, true)]
    );
    let found = world.scan(40);
    assert!(
        world
            .payload(&found[0], 0)
            .unwrap()
            .iter()
            .all(|&byte| byte == 1)
    );
    assert_eq!(world.payload(&found[0], 0).unwrap().len(), 3 * BLOCK_BYTES);
    assert_eq!(world.payload(&found[1], 1).unwrap().len(), 0);
}

#[test]
fn the_largest_groups_are_found_across_reads() {
    let world = World::new(1);
    let payload = vec![5; GROUP_BYTES_MAX - 2 * BLOCK_BYTES];
    let long = bytes_of(&head(1), &[data(0, &payload)], &payload);
    let most = vec![bare(Kind::Commit, Vec::new()); ENTRIES_MAX];
    let many = bytes_of(&head(2), &most, &[]);
    let at = MIB - BLOCK;
    let behind = at + long.len() as u64;
    world.put(at, &long);
    world.put(behind, &many);
    assert_eq!(world.seen(1), [(at, 1, true), (behind, 2, true)]);
}

#[test]
fn a_group_that_runs_past_the_ring_is_none() {
    let world = World::new(1);
    world.put(RING - 2 * BLOCK, &write_group(1, 2, 1));
    let note = bytes_of(&head(2), &[bare(Kind::Note, vec![1; 3000])], &[]);
    world.put(RING - BLOCK, &note);
    assert_eq!(world.seen(1), []);
}

#[test]
fn a_stored_image_of_a_journal_is_not_taken_for_one() {
    let image = [write_group(90, 2, 1), write_group(91, 1, 2)].concat();
    let group = bytes_of(&head(50), &[data(0, &image)], &image);
    let world = World::new(1);
    world.put(0, &group);
    assert_eq!(world.seen(1), [(0, 50, true)]);
    let found = world.scan(1);
    assert_eq!(&*world.payload(&found[0], 0).unwrap(), &image[..]);

    // Torn: the last block never came.
    let torn = World::new(1);
    torn.put(0, &group[..group.len() - BLOCK_BYTES]);
    assert_eq!(torn.seen(1), [(0, 50, false)]);

    // Its descriptor never came, or was overwritten after it was trimmed.
    let headless = World::new(1);
    headless.put(BLOCK, &group[BLOCK_BYTES..]);
    assert_eq!(headless.seen(1), []);
}

/// The sums of an intent come of what clients store, and can spell anything.
#[test]
fn sums_that_spell_a_descriptor_are_not_taken_for_one() {
    let spelled = bytes_of(&head(90), &[bare(Kind::Barrier, Vec::new())], &[]);
    // Behind the head and two entries, up to the second block.
    let mut sums = vec![7; (BLOCK_BYTES - 3 * 128) / 4];
    sums.extend(
        spelled
            .chunks_exact(4)
            .map(|word| u32::from_le_bytes(word.try_into().unwrap())),
    );
    let payload = [1; BLOCK_BYTES];
    let entries = [bare(Kind::Intent, sums), data(0, &payload)];
    let group = bytes_of(&head(50), &entries, &payload);
    assert!(decode(&group[BLOCK_BYTES..]).is_ok());
    let world = World::new(1);
    world.put(0, &group);
    assert_eq!(world.seen(1), [(0, 50, true)]);
    world.put(group.len() as u64 - BLOCK, &[2]);
    assert_eq!(world.seen(1), [(0, 50, false)]);
}

#[test]
fn a_torn_group_hides_none_behind_it() {
    let world = World::new(1);
    world.put(0, &write_group(1, 2, 1));
    world.put(3 * BLOCK, &write_group(2, 4, 2)[..3 * BLOCK_BYTES]);
    world.put(8 * BLOCK, &write_group(3, 1, 3));
    let descriptor = bytes_of(&head(4), &[bare(Kind::Note, vec![1; 3000])], &[]);
    world.put(10 * BLOCK, &descriptor[..2 * BLOCK_BYTES]);
    world.put(14 * BLOCK, &write_group(5, 1, 5));
    assert_eq!(
        world.seen(1),
        [
            (0, 1, true),
            (3 * BLOCK, 2, false),
            (8 * BLOCK, 3, true),
            (14 * BLOCK, 5, true)
        ]
    );
}

#[test]
fn a_newer_group_in_the_place_of_a_trimmed_one_is_found() {
    let world = World::new(1);
    world.put(0, &write_group(1, 8, 1));
    world.put(4 * BLOCK, &write_group(20, 1, 2));
    assert_eq!(world.seen(10), [(4 * BLOCK, 20, true)]);
    assert_eq!(world.seen(1), [(0, 1, false), (4 * BLOCK, 20, true)]);
}

#[test]
fn a_bad_sector_costs_one_copy() {
    let world = World::new(1);
    // Zeros: what stands in memory for blocks that can't be read must not pass for them.
    world.put(0, &write_group(1, 3, 0));
    world.put(4 * BLOCK, &write_group(2, 1, 2));
    world.put(6 * BLOCK, &write_group(3, 1, 3));
    world.put(2 * MIB, &write_group(4, 1, 4));
    world.bad_block(2 * BLOCK);
    world.bad_block(4 * BLOCK);
    assert_eq!(
        world.seen(1),
        [(0, 1, false), (6 * BLOCK, 3, true), (2 * MIB, 4, true)]
    );
}

#[test]
fn a_disk_that_is_gone_is_no_empty_ring() {
    let world = World::new(1);
    world.put(0, &write_group(1, 3, 0));
    world.disk.inject(Fault::Gone);
    let found = scan(&world.disk, ZONE, RING, ARRAY, EPOCH, 0, Seq(1));
    assert_eq!(
        world.sim.block_on(found).unwrap_err().kind,
        IoErrorKind::Gone
    );
}

#[test]
fn payload_that_rots_after_the_scan_is_not_returned() {
    let world = World::new(1);
    world.put(0, &write_group(7, 3, 1));
    let found = world.scan(1);
    world.put(2 * BLOCK, &[9]);
    let error = world.payload(&found[0], 0).unwrap_err();
    assert!(matches!(
        error,
        PayloadError::Rotten {
            seq: Seq(7),
            position: BLOCK,
            ..
        }
    ));
    world.bad_block(2 * BLOCK);
    assert!(matches!(
        world.payload(&found[0], 0),
        Err(PayloadError::Io(_))
    ));
}

/// Groups one behind the other, a flush somewhere, then the power goes: what was flushed is found
/// whole, and nothing is found whole that isn't what was written.
#[test]
fn what_was_flushed_is_found_after_a_power_cut() {
    for seed in 0..40 {
        let world = World::new(seed);
        let flushed = usize::try_from(seed % 7).unwrap();
        let groups: Vec<_> = (1u8..=12)
            .map(|n| write_group(u64::from(n), 1 + usize::from(n) % 4, n))
            .collect();
        world.sim.block_on(async {
            let mut at = ZONE + RING_OFFSET;
            for (n, group) in groups.iter().enumerate() {
                if n == flushed {
                    world.disk.flush().await.unwrap();
                }
                let bytes = Buf::copy_of(group).freeze();
                world
                    .disk
                    .write(at, bytes, WriteFlags::default())
                    .await
                    .unwrap();
                at += group.len() as u64;
            }
        });
        world.disk.power_cut();
        let found = world.scan(1);
        for (group, found) in groups.iter().zip(&found).take(flushed) {
            assert!(found.intact && found.group == decode(group).unwrap());
        }
        assert!(found.len() >= flushed);
        for found in found.iter().filter(|found| found.intact) {
            let written = &groups[usize::try_from(found.group.head.first.0).unwrap() - 1];
            assert_eq!(found.group, decode(written).unwrap());
            let payload = world.payload(found, 0).unwrap();
            assert_eq!(*payload, written[found.group.descriptor_len..]);
        }
    }
}
