//! Random histories against a byte-vector model: every level × members × losses × chunk, with
//! rebuilds in between and parity audited on the members at the end.

mod common;

use std::cell::RefCell;
use std::rc::Rc;

use cairn_blockdev::BlockDevice;
use cairn_blockdev::sim::{Fault, Rng};
use cairn_raid::{Array, Level};
use common::{Model, Shape, World, check_all, random_op};

const VOLUME: usize = 6 << 20;

/// Runs `ops` operations in histories of one sector range each, so that the model knows the order.
fn run_ops(
    world: &World,
    volume: &Rc<dyn BlockDevice>,
    model: &Rc<RefCell<Model>>,
    rng: &Rc<RefCell<Rng>>,
    ops: usize,
) {
    let longest = 1 << 20;
    world.sim.block_on(async {
        for _ in 0..ops {
            random_op(volume, model, rng, longest).await.unwrap();
        }
    });
}

fn lose(world: &World, array: &Rc<Array>, index: usize, how: u64) {
    let disk = &world.disks[index];
    match how % 3 {
        0 => disk.inject(Fault::Gone),
        1 => disk.inject(Fault::WritesFail),
        _ => world.sim.block_on(array.fail_member(&disk.name())).unwrap(),
    }
}

fn history(level: Level, members: usize, lost: usize, chunk_bytes: u32, seed: u64) {
    let mut world = World::new(seed, Shape::new(level, members, 2, chunk_bytes));
    println!("seed {seed}: {level} of {members}, {lost} lost, chunk {chunk_bytes}");
    let array = world.create();
    world
        .sim
        .block_on(array.create_volume("v", VOLUME as u64))
        .unwrap();
    let mut volume = array.open_volume("v").unwrap();
    let model = Rc::new(RefCell::new(Model::new(VOLUME)));
    let rng = Rc::new(RefCell::new(Rng::new(seed)));
    run_ops(&world, &volume, &model, &rng, 25);
    // Spares first have to go, or each loss is mended at once.
    for spare in members..members + 2 {
        let path = world.disks[spare].name();
        world.sim.block_on(array.remove_spare(&path)).unwrap();
    }
    for k in 0..lost {
        lose(
            &world,
            &array,
            (seed as usize + k * 2 + 1) % members,
            seed + k as u64,
        );
        run_ops(&world, &volume, &model, &rng, 15);
    }
    world.sim.block_on(check_all(&volume, &model, "degraded"));
    world.audit(&array);
    // Spares come back, the slots are filled while clients go on.
    for spare in members..members + 2 {
        world
            .sim
            .block_on(array.add_spare(world.member(spare)))
            .unwrap();
        run_ops(&world, &volume, &model, &rng, 10);
    }
    run_ops(&world, &volume, &model, &rng, 10);
    world.wait_until_filled(&array);
    world.audit(&array);
    world.sim.block_on(check_all(&volume, &model, "rebuilt"));
    // A clean restart finds everything, in whatever order the disks turn up.
    let free = array.status().space.free_bytes;
    world.sim.block_on(array.stop()).unwrap();
    drop((array, volume));
    world.reboot(true);
    let mut present: Vec<usize> = (0..world.disks.len()).collect();
    present.rotate_left(seed as usize % members);
    // Lost disks still bear labels: they must not be believed.
    let array = world.assemble(&present, false).unwrap();
    assert_eq!(
        array.status().space.free_bytes,
        free,
        "space after a restart"
    );
    volume = array.open_volume("v").unwrap();
    world.sim.block_on(check_all(&volume, &model, "restarted"));
    run_ops(&world, &volume, &model, &rng, 10);
    world.audit(&array);
}

fn all_shapes(level: Level, seed: u64) {
    for members in [4usize, 5, 6, 8, 12, 24] {
        for lost in 0..=level.redundancy(members).min(2) {
            for chunk in [4096, 65536, 1 << 20] {
                let mix = (members * 100 + lost * 10) as u64 + u64::from(chunk >> 12);
                history(level, members, lost, chunk, seed + mix);
            }
        }
    }
}

#[test]
fn raid1_reads_like_its_model_whatever_is_lost() {
    all_shapes(Level::Raid1, 1_000);
}

#[test]
fn raid5_reads_like_its_model_whatever_is_lost() {
    all_shapes(Level::Raid5, 50_000);
}

#[test]
fn raid6_reads_like_its_model_whatever_is_lost() {
    all_shapes(Level::Raid6, 90_000);
}

#[test]
fn smallest_arrays_work() {
    history(Level::Raid1, 2, 1, 65536, 7);
    history(Level::Raid5, 3, 1, 65536, 8);
    history(Level::Raid6, 4, 2, 4096, 9);
}
