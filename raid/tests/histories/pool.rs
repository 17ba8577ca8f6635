//! A disk of the host's pool that an array takes: in the pool or in the array, whatever is cut off.

use std::rc::Rc;

use cairn_blockdev::BlockDevice;
use cairn_blockdev::sim::Fault;
use cairn_raid::{
    Array, HostSpare, Level, MemberDisk, MemberState, Probe, probe, write_host_spare,
};
use uuid::Uuid;

use crate::model::Crash;
use crate::world::{HOST, Shape, World};

const POOLED: usize = 3;

fn label(world: &World) -> HostSpare {
    HostSpare {
        uuid: Uuid::from_u128(77),
        host: HOST,
        disk_bytes: world.disks[POOLED].geometry().size,
        since_ms: 1,
    }
}

/// A RAID 5 of three that has lost its first member, and a fourth disk in the pool.
fn degraded(seed: u64) -> (World, Rc<Array>) {
    let mut shape = Shape::new(Level::Raid5, 3, 1, 4096);
    shape.disk_bytes = 330 << 20;
    let world = World::new(seed, shape);
    let array = world.create();
    let (spare, lost) = (world.path(POOLED), world.path(0));
    world.run(array.remove_spare(&spare)).unwrap();
    let spare = label(&world);
    world
        .run(write_host_spare(&world.disks[POOLED], &spare))
        .unwrap();
    world.run(array.fail_member(&lost)).unwrap();
    (world, array)
}

fn pooled(world: &World) -> Probe {
    world.run(probe(&world.disks[POOLED])).unwrap()
}

#[test]
fn a_disk_that_is_taken_from_the_pool_is_in_the_pool_or_in_the_array_at_every_crash() {
    let (mut in_pool, mut in_array) = (0, 0);
    for crash in [Crash::Kill, Crash::Power] {
        for polls in (0..400).chain((400..1600).step_by(7)) {
            let (mut world, array) = degraded(900 + polls % 5);
            let (taking, disk) = (Rc::clone(&array), world.member(POOLED));
            let taken = world
                .sim
                .run_until(async move { taking.add_spare(disk).await }, polls);
            drop(array);
            let was_taken = taken.is_some();
            drop(taken);
            world.crash(crash);
            let found = pooled(&world);
            let array = world.assemble(&world.labelled(), false).unwrap();
            let listed = array.status().members;
            match found {
                Probe::HostSpare(spare) => {
                    assert_eq!(spare, label(&world));
                    assert!(!was_taken, "polls {polls}: it was the array's already");
                    assert_eq!(listed.len(), 3, "polls {polls}: in both: {listed:?}");
                    in_pool += 1;
                    // And it is taken then as if nothing had been.
                    world.run(array.add_spare(world.member(POOLED))).unwrap();
                }
                Probe::Member(identity) => {
                    assert_eq!(identity.array_uuid, array.uuid());
                    in_array += 1;
                }
                other => panic!("polls {polls}: neither in the pool nor in the array: {other:?}"),
            }
            world.wait_until_filled(&array);
            let filled = World::in_state(&array, MemberState::InSync);
            assert!(filled.contains(&*world.path(POOLED)), "polls {polls}");
        }
    }
    assert!(in_pool > 50 && in_array > 50, "{in_pool}, {in_array}");
}

#[test]
fn a_disk_of_the_pool_that_fails_while_it_is_taken_is_refused_and_the_array_goes_on() {
    let (world, array) = degraded(990);
    world.disks[POOLED].inject(Fault::Gone);
    let refused = world.run(array.add_spare(world.member(POOLED)));
    assert!(refused.is_err());
    assert_eq!(array.status().redundancy_left, 0);
    assert_eq!(array.status().members.len(), 3);
}

#[test]
fn a_disk_that_is_a_block_too_small_is_refused_by_both_sizes_and_keeps_its_content() {
    let (world, array) = degraded(991);
    let need = array.status().member_bytes_min;
    for (size, fits) in [(need - 4096, false), (need, true)] {
        let config = cairn_blockdev::sim::SimDiskConfig {
            size,
            logical_block: 512,
            latency_us_max: 100,
        };
        let disk = cairn_blockdev::sim::SimDisk::new("/dev/small", config, &world.env, 5);
        let spare = HostSpare {
            disk_bytes: size,
            ..label(&world)
        };
        world.run(write_host_spare(&disk, &spare)).unwrap();
        let member = MemberDisk {
            path: disk.name(),
            device: Rc::new(disk.clone()),
        };
        let added = world.run(array.add_spare(member));
        if fits {
            added.unwrap();
            continue;
        }
        let text = added.unwrap_err().to_string();
        assert!(
            text.contains(&size.to_string()) && text.contains(&need.to_string()),
            "{text}"
        );
        let found = world.run(probe(&disk)).unwrap();
        assert_eq!(found, Probe::HostSpare(spare), "it is as it was");
    }
}
