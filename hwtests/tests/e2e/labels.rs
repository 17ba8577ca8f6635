//! Labels that are cut off, flipped, copied or gone.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use cairn_api::{ArrayState, EventPage};
use cairn_hwtests::program::run;
use cairn_raid::layout::{LABEL_A, LABEL_B, LABEL_COPY_BEFORE_END};

use crate::world::{DISK_MIB, World, io};

const LABEL_BYTES: usize = 4096;

fn places() -> [u64; 3] {
    [LABEL_A, LABEL_B, (DISK_MIB << 20) - LABEL_COPY_BEFORE_END]
}

fn open(path: &str) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

fn flip(path: &str, at: u64) {
    let file = open(path);
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

fn erase(path: &str, at: u64) {
    open(path).write_all_at(&[0; LABEL_BYTES], at).unwrap();
}

fn written(level: &str, members: usize) -> World {
    let mut world = World::new(level, members, 0, "128MiB");
    io(&world.uri, &["write -P 0x4d 1M 17M"]);
    world.host.down();
    world
}

fn reads(world: &World) {
    io(&world.uri, &["read -P 0x4d 1M 17M"]);
}

#[test]
fn a7_any_two_of_a_disks_three_labels_may_be_flipped_or_erased() {
    let mut world = written("raid6", 6);
    for (number, disk) in world.disks.iter().enumerate() {
        let spared = number % 3;
        for (index, place) in places().into_iter().enumerate() {
            match index {
                index if index == spared => {}
                _ if number % 2 == 0 => flip(disk, place + 100),
                _ => erase(disk, place),
            }
        }
    }
    world.host.up();
    let array = world.array();
    assert_eq!(
        (array.state, array.redundancy_left),
        (ArrayState::Clean, 2),
        "{array:#?}"
    );
    reads(&world);
    // A commit writes them anew: after a clean stop any other two may go.
    world.host.down();
    world.host.up();
    assert_eq!(world.array().state, ArrayState::Clean);
}

#[test]
fn a7_members_without_any_label_are_lost_members_and_no_more() {
    let mut world = written("raid6", 6);
    for place in places() {
        erase(&world.disks[1], place);
        flip(&world.disks[4], place + 1000);
    }
    world.host.up();
    let array = world.array();
    assert_eq!(
        (array.state, array.redundancy_left),
        (ArrayState::Degraded, 0),
        "{array:#?}"
    );
    reads(&world);
    let shown = world.host.ok(&["disk", "show", &world.disks[4]]);
    assert!(shown.stdout.contains("damaged"), "{shown}");
}

#[test]
fn too_many_members_without_labels_leave_the_array_unstarted_and_said_so() {
    let mut world = written("raid6", 5);
    for disk in &world.disks[..3] {
        for place in places() {
            erase(disk, place);
        }
    }
    world.host.up();
    assert_eq!(world.array().state, ArrayState::Incomplete);
    let was = format!("last seen at {}", world.disks[1]);
    world
        .host
        .refuses(&["array", "assemble", "pool"], 1, &["pool", &was, "next:"]);
    world
        .host
        .refuses(&["array", "assemble", "pool", "--force"], 1, &["pool"]);
    world
        .host
        .cairn(&["check"])
        .exited(2)
        .says(&["ARRAY_INCOMPLETE", "pool"]);
    assert!(
        run("nbdinfo", &[&world.uri]).code != Some(0),
        "nothing of it is exported"
    );
    // What is left on the disks is left alone.
    for disk in &world.disks[3..] {
        world.host.refuses(
            &[
                "array",
                "create",
                "new",
                "--level",
                "raid1",
                "--disks",
                disk,
                &world.disks[0],
            ],
            1,
            &[disk, "pool", "--wipe"],
        );
    }
}

/// Too short for a disk, and with its labels, zones and some of its data still there.
#[test]
fn a_member_cut_short_while_it_was_stopped_is_a_lost_member() {
    for kept in [3 << 20, 40 << 20, (128 << 20) - 4096] {
        let mut world = written("raid5", 4);
        open(&world.disks[2]).set_len(kept).unwrap();
        world.host.up();
        let array = world.array();
        assert_eq!(
            (array.state, array.redundancy_left),
            (ArrayState::Degraded, 0),
            "{kept} bytes kept: {array:#?}"
        );
        reads(&world);
        if kept > 4 << 20 {
            let page: EventPage = world.host.json(&["events", "-n", "1000"]);
            let why = format!("it has {kept} bytes, its label says {}", DISK_MIB << 20);
            let told = page
                .events
                .iter()
                .any(|event| event.detail.starts_with(&why));
            assert!(told, "{page:#?}");
        }
    }
}

#[test]
fn d10_a_clone_of_a_member_is_refused_by_name() {
    let mut world = written("raid5", 4);
    let clone = world.scratch.text("clone");
    run("cp", &["--sparse=always", &world.disks[1], &clone]).ok();
    let mut line = vec!["array", "assemble", "pool", "--scan"];
    let paths: Vec<&str> = world
        .disks
        .iter()
        .map(String::as_str)
        .chain([clone.as_str()])
        .collect();
    line.extend(&paths);
    world.host.lose_state();
    world.host.up();
    world
        .host
        .refuses(&line, 1, &[&clone, &world.disks[1], "wipe"]);
    assert!(Path::new(&clone).exists());
    std::fs::remove_file(&clone).unwrap();
    line.pop();
    world.host.ok(&line);
    assert_eq!(world.array().state, ArrayState::Clean);
}
