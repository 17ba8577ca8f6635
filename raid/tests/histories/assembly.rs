//! Labels in every order, doubled, flipped and torn.

use std::cell::RefCell;
use std::rc::Rc;

use cairn_blockdev::sim::Rng;
use cairn_blockdev::{Buf, IoErrorKind, WriteFlags};
use cairn_raid::label::{ArrayLabel, Label};
use cairn_raid::layout::{LABEL_A, LABEL_B, label_copy};
use cairn_raid::{Level, MemberDisk, MemberState, RaidError};

use crate::model::{Crash, Model};
use crate::region::{Region, check_all};
use crate::world::{Shape, World};

/// A cleanly stopped array with 256 written sectors.
fn stopped(level: Level, members: usize, spares: usize) -> (World, Rc<RefCell<Model>>) {
    let mut world = World::new(77, Shape::new(level, members, spares, 4096));
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
    world.run(client.write(0..256, false)).unwrap();
    world.run(array.stop()).unwrap();
    drop((client, array));
    world.crash(Crash::Power);
    (world, model)
}

fn permutations(items: &[usize]) -> Vec<Vec<usize>> {
    if items.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (at, first) in items.iter().enumerate() {
        let mut rest = items.to_vec();
        rest.remove(at);
        for mut tail in permutations(&rest) {
            tail.insert(0, *first);
            all.push(tail);
        }
    }
    all
}

#[test]
fn every_order_of_disks_is_the_same_array() {
    let (mut world, model) = stopped(Level::Raid5, 4, 1);
    for order in permutations(&world.all()) {
        let array = world.assemble(&order, false).unwrap();
        let mut slots: Vec<_> = array
            .status()
            .members
            .into_iter()
            .map(|m| (m.path, m.slot))
            .collect();
        slots.sort();
        let expected: Vec<_> = (0..5)
            .map(|i| (format!("/dev/sim{i}"), (i < 4).then_some(i)))
            .collect();
        assert_eq!(slots, expected, "{order:?}");
        let volume = array.open_volume("v").unwrap();
        world.run(check_all(&volume, &model, None, "in another order"));
        drop((array, volume));
        world.crash(Crash::Kill);
    }
}

#[test]
fn a_copy_of_a_member_is_refused() {
    let (world, _) = stopped(Level::Raid5, 4, 0);
    for original in 0..4 {
        let copy = MemberDisk {
            path: "/dev/copy".into(),
            device: Rc::new(world.disks[original].clone()),
        };
        let refused = world.assemble_with(&world.all(), vec![copy], false);
        assert!(
            matches!(refused, Err(RaidError::Cloned { .. })),
            "{refused:?}"
        );
    }
}

/// Spoils a label: one byte, or from the middle on.
fn spoil(world: &World, disk: usize, offset: u64, torn: bool) {
    let disk = &world.disks[disk];
    let mut bytes = disk.peek(offset, 4096);
    if torn {
        bytes[2048..].fill(0);
    } else {
        bytes[300] ^= 0x10;
    }
    disk.poke(offset, &bytes);
}

/// The newest label that a combination leaves.
fn newest(labels: &[Vec<Vec<u8>>], spoilt: u32) -> Option<ArrayLabel> {
    let left = labels
        .iter()
        .flatten()
        .enumerate()
        .filter(|(bit, _)| spoilt >> bit & 1 == 0);
    left.filter_map(|(_, bytes)| Some(Label::decode(bytes).ok()?.array))
        .max_by_key(|label| (label.event_count, label.generation))
}

#[test]
fn a7_any_labels_may_be_spoilt_as_long_as_enough_members_have_one() {
    let (mut world, model) = stopped(Level::Raid5, 3, 0);
    let places = [LABEL_A, LABEL_B, label_copy(world.shape.disk_bytes)];
    let before: Vec<Vec<Vec<u8>>> = world
        .disks
        .iter()
        .map(|disk| places.iter().map(|at| disk.peek(*at, 4096)).collect())
        .collect();
    let witness = world.host.witness.take();
    for combination in 0..1u32 << 9 {
        for torn in [false, true] {
            world.host.witness.replace(witness.clone());
            for (disk, labels) in world.disks.iter().zip(&before) {
                for (at, label) in places.iter().zip(labels) {
                    disk.poke(*at, label);
                }
            }
            for bit in (0..9).filter(|bit| combination >> bit & 1 == 1) {
                spoil(&world, bit / 3, places[bit % 3], torn);
            }
            let labelled = world.labelled();
            let assembled = world.assemble(&labelled, false);
            // What the newest label that is left says of the stop.
            let clean = newest(&before, combination).is_some_and(|label| label.clean);
            if labelled.len() < 2 {
                assert!(assembled.is_err(), "{combination:#b}: too few members");
            } else if labelled.len() == 2 && !clean {
                let refused = assembled.is_err();
                assert!(
                    refused,
                    "{combination:#b}: unclean, as far as anybody knows, and degraded"
                );
            } else {
                let array =
                    assembled.unwrap_or_else(|e| panic!("{combination:#b}, torn {torn}: {e}"));
                let volume = array.open_volume("v").unwrap();
                let what = format!("labels spoilt {combination:#b}");
                world.run(check_all(&volume, &model, None, &what));
            }
            world.crash(Crash::Kill);
        }
    }
}

#[test]
fn a_member_whose_labels_are_all_gone_is_absent_and_no_obstacle() {
    let (world, model) = stopped(Level::Raid5, 4, 0);
    for at in [LABEL_A, LABEL_B, label_copy(world.shape.disk_bytes)] {
        spoil(&world, 2, at, false);
    }
    // The disk is still handed in: it was probed before it went bad.
    let array = world.assemble(&world.all(), false).unwrap();
    let volume = array.open_volume("v").unwrap();
    world.run(check_all(&volume, &model, None, "without one member"));
    assert_eq!(array.status().redundancy_left, 0);
}

/// Gives every label a feature without which this version must not write.
fn forbid_writing(world: &World) {
    for disk in &world.disks {
        for place in [LABEL_A, LABEL_B, label_copy(world.shape.disk_bytes)] {
            if let Ok(mut label) = Label::decode(&disk.peek(place, 4096)) {
                label.array.ro_compat |= 1 << 7;
                disk.poke(place, &label.encode());
            }
        }
    }
}

#[test]
fn o4_an_array_with_unknown_ro_compat_bits_is_read_and_nothing_of_it_is_written() {
    for (level, members) in [(Level::Raid1, 2), (Level::Raid5, 4), (Level::Raid6, 5)] {
        for missing in [None, Some(1)] {
            println!("{level} of {members}, without {missing:?}");
            let (world, model) = stopped(level, members, 1);
            forbid_writing(&world);
            let mut present = world.all();
            present.retain(|disk| Some(*disk) != missing);
            let array = world.assemble(&present, false).unwrap();
            assert!(array.status().read_only.is_some());
            if missing.is_none() {
                // Read around, and not repaired.
                let rows = world.rows_on_disk(&array, 0, 0..2);
                world.disks[0].poke(rows.start + 4097, &[0x5A; 9]);
            }
            let volume = array.open_volume("v").unwrap();
            world.run(check_all(&volume, &model, None, "read only"));
            // Reads have had what they start by themselves; nothing is awaited for its own sake.
            world.sleep(20_000);

            let data = Buf::zeroed(4096).freeze();
            let written = world.run(volume.write(0, data, WriteFlags::default()));
            assert_eq!(written.unwrap_err().kind, IoErrorKind::ReadOnly);
            let trimmed = world.run(volume.discard(0, 1 << 20));
            assert_eq!(trimmed.unwrap_err().kind, IoErrorKind::ReadOnly);
            world.run(volume.flush()).unwrap();
            let read_only = |refused: Result<(), RaidError>| {
                assert!(
                    matches!(refused, Err(RaidError::ReadOnly { .. })),
                    "{refused:?}"
                );
            };
            read_only(world.run(array.create_volume("w", 1 << 20)).map(drop));
            read_only(world.run(array.fail_member(&world.path(0))).map(drop));
            read_only(world.run(array.scrub_start()).map(drop));
            read_only(world.run(array.destroy()));
            world.run(check_all(&volume, &model, None, "after refusals"));
            let status = array.status();
            let in_sync = World::in_state(&array, MemberState::InSync).len();
            assert_eq!(
                in_sync,
                members - usize::from(missing.is_some()),
                "{status:?}"
            );
            world.run(array.stop()).unwrap();
            for disk in &world.disks {
                assert_eq!(disk.written_in(0..u64::MAX), 0);
            }
        }
    }
}

#[test]
fn o4_an_array_with_unknown_ro_compat_bits_isnt_started_after_an_unclean_stop() {
    let mut world = World::new(78, Shape::new(Level::Raid5, 4, 0, 4096));
    let array = world.create();
    world.run(array.create_volume("v", 1 << 20)).unwrap();
    let volume = array.open_volume("v").unwrap();
    let data = Buf::zeroed(4096).freeze();
    world
        .run(volume.write(0, data, WriteFlags { fua: true }))
        .unwrap();
    drop((volume, array));
    world.crash(Crash::Kill);
    forbid_writing(&world);
    for force in [false, true] {
        let refused = world.assemble(&world.all(), force);
        assert!(
            matches!(refused, Err(RaidError::NotStarted { .. })),
            "{refused:?}"
        );
    }
    for disk in &world.disks {
        assert_eq!(disk.written_in(0..u64::MAX), 0);
    }
}
