//! Two halves of a mirror, each of which could run alone: what was acknowledged on one is never hidden by the
//! other unless the operator says so, and then for good.

use cairn_api::{ArrayState, EventPage};

use crate::world::{World, io};

/// One half was thrown out, the other was written to since; all is stopped and only the first is there.
fn only_the_stale_half_is_there(between: impl FnOnce(&World)) -> World {
    let mut world = World::new("raid1", 2, 0, "64MiB");
    io(&world.uri, &["write -P 0x11 0 4M"]);
    between(&world);
    world.host.ok(&["disk", "fail", &world.disks[1], "--yes"]);
    io(&world.uri, &["write -P 0x22 0 4M", "flush"]);
    world.host.down();
    std::fs::rename(&world.disks[0], world.scratch.join("away")).unwrap();
    world.host.up();
    assert_eq!(world.array().state, ArrayState::Incomplete);
    world
        .host
        .refuses(&["array", "assemble", "pool"], 1, &["--force"]);
    world
}

fn both_are_there(world: &mut World) {
    world.host.down();
    std::fs::rename(world.scratch.join("away"), &world.disks[0]).unwrap();
    world.host.up();
}

#[test]
fn a_stale_half_is_not_started_though_the_state_directory_could_not_take_the_witness() {
    let mut world = only_the_stale_half_is_there(|world| {
        let uuid = world.array().uuid;
        let witness = world.host.state_dir().join("witness");
        // Where the new one would be written first.
        std::fs::create_dir(witness.join(format!(".{uuid}.new"))).unwrap();
    });
    let page: EventPage = world.host.json(&["events", "-n", "1000"]);
    let mut told = page.events.iter().filter(|e| e.kind == "WitnessFailed");
    assert!(told.any(|event| event.detail.contains("--force")));
    both_are_there(&mut world);
    assert_eq!(world.array().state, ArrayState::Degraded);
    io(&world.uri, &["read -P 0x22 0 4M"]);
}

#[test]
fn a_half_that_was_started_by_force_outranks_the_one_that_had_run_without_it() {
    let mut world = only_the_stale_half_is_there(|_| {});
    let forced = world.host.ok(&["array", "assemble", "pool", "--force"]);
    let said = forced.stdout + &forced.stderr;
    assert!(said.contains("the disks here are old"), "{said}");
    io(
        &world.uri,
        &["read -P 0x11 0 4M", "write -P 0x33 0 1M", "flush"],
    );
    both_are_there(&mut world);
    let array = world.array();
    assert_eq!(array.state, ArrayState::Degraded, "{array:#?}");
    io(&world.uri, &["read -P 0x33 0 1M", "read -P 0x11 1M 3M"]);
    // Nobody knows in what its rows differ.
    let add = ["array", "spare", "add", "pool", &world.disks[0]];
    world
        .host
        .refuses(&add, 1, &[&world.disks[0], "without the others", "--wipe"]);
    world.host.ok(&[&add[..], &["--wipe"]].concat());
    world.host.wait_clean("pool");
    world.host.ok(&["disk", "fail", &world.disks[1], "--yes"]);
    io(&world.uri, &["read -P 0x33 0 1M", "read -P 0x11 1M 3M"]);
}
