//! Disks that say nothing of what they lost: bytes flipped, blocks swapped, files cut short, swapped
//! and put back as they once were. Checksums find it out, redundancy mends it.

use std::fs::File;
use std::os::unix::fs::FileExt;

use cairn_api::ArrayState;
use cairn_hwtests::acked::Ledger;
use cairn_hwtests::program::run;
use cairn_raid::layout::{LABEL_A, LABEL_B, LABEL_COPY_BEFORE_END};

use crate::world::{DISK_MIB, World, io};

const BLOCK: usize = 4096;
/// From the pattern back to what the writers wrote.
const DISTANCE_BYTES: u64 = 12 << 20;
pub(crate) const PATTERN: u8 = 0x5d;
/// Beyond the journal, which may hold the pattern as well.
const SEARCH_FROM: u64 = 32 << 20;
const WRITTEN: &str = "write -P 0x5d 1M 90M";
const READ: &str = "read -P 0x5d 1M 90M";

pub(crate) fn open(path: &str) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

/// Where a member holds blocks that are full of the pattern, in place and not in its journal.
pub(crate) fn places(path: &str) -> Vec<u64> {
    let file = open(path);
    let mut block = vec![0; BLOCK];
    let mut found = Vec::new();
    let mut at = SEARCH_FROM;
    while file.read_exact_at(&mut block, at).is_ok() {
        if block.iter().all(|byte| *byte == PATTERN) {
            found.push(at);
        }
        at += u64::try_from(BLOCK).unwrap();
    }
    assert!(found.len() > 100, "the pattern is on {path}");
    found
}

/// One bit of every so-many-th block.
fn flip(path: &str, places: &[u64], every: usize) -> usize {
    let file = open(path);
    let chosen = places.iter().step_by(every);
    let count = chosen.len();
    for (number, at) in chosen.enumerate() {
        let within = u64::try_from(number * 7 % BLOCK).unwrap();
        file.write_all_at(&[PATTERN ^ 0x10], at + within).unwrap();
    }
    count
}

/// Everything is read right, without errors, and a scrub leaves nothing to mend.
fn is_mended(world: &World, read: &str) {
    io(&world.uri, &[read]);
    world.host.ok(&["array", "scrub", "pool", "--wait"]);
    let array = world.array();
    assert_eq!(array.scrub.unrepairable, 0, "{array:#?}");
    assert_eq!(array.bad_blocks_total, 0, "{array:#?}");
    world.host.ok(&["array", "scrub", "pool", "--wait"]);
    let array = world.array();
    assert_eq!(
        (array.scrub.mismatched, array.scrub.unrepairable),
        (0, 0),
        "a second scrub finds nothing: {array:#?}"
    );
    assert_eq!(array.state, ArrayState::Clean, "{array:#?}");
    io(&world.uri, &[read]);
}

/// What was mended carries the data: it is read right without `others`.
fn holds_without(world: &World, others: &[usize], read: &str) {
    for other in others {
        world
            .host
            .ok(&["disk", "fail", &world.disks[*other], "--yes"]);
    }
    io(&world.uri, &[read]);
}

fn corruption(world: &World, member: usize) -> u64 {
    world.array().members[member].errors.corruption
}

/// With everything in place.
fn written() -> World {
    let mut world = World::new("raid6", 5, 0, "128MiB");
    io(&world.uri, &[WRITTEN, "flush"]);
    // A clean stop drains the journal.
    world.host.down();
    world
}

#[test]
fn d8_bytes_flipped_on_two_members_of_a_stopped_array_are_never_read_and_are_mended() {
    let mut world = written();
    for member in [1, 3] {
        let path = &world.disks[member];
        assert!(flip(path, &places(path), 3) > 30);
    }
    world.host.up();
    io(&world.uri, &[READ]);
    assert!(corruption(&world, 1) + corruption(&world, 3) > 0);
    is_mended(&world, READ);
    holds_without(&world, &[0, 2], READ);
}

#[test]
fn d8_bytes_flipped_on_a_running_array_are_never_read_and_are_mended() {
    let mut world = written();
    world.host.up();
    let path = world.disks[2].clone();
    let all = places(&path);
    for round in 1..4 {
        let before = corruption(&world, 2);
        assert!(flip(&path, &all, round + 1) > 30);
        io(&world.uri, &[READ]);
        assert!(corruption(&world, 2) > before, "seen in round {round}");
    }
    is_mended(&world, READ);
    holds_without(&world, &[0, 4], READ);
}

#[test]
fn d7_blocks_that_changed_places_on_and_between_members_are_found_out_and_mended() {
    let mut world = World::new("raid6", 5, 0, "128MiB");
    let socket = world.socket();
    let writers = Ledger::new(61, 64 << 20).write(&socket, "pg");
    writers.progress(600);
    let mut ledger = writers.finish();
    io(&world.uri, &["write -P 0x5d 64M 60M", "flush"]);
    world.host.down();
    // Whole blocks, right in themselves, that belong elsewhere: from another member, and from another
    // place of the same.
    let (to, from) = (open(&world.disks[1]), open(&world.disks[2]));
    let all = places(&world.disks[1]);
    let mut block = vec![0; BLOCK];
    for at in all.iter().step_by(5).take(40) {
        from.read_exact_at(&mut block, at - DISTANCE_BYTES).unwrap();
        to.write_all_at(&block, *at).unwrap();
    }
    for at in all.iter().step_by(5).skip(40).take(40) {
        to.read_exact_at(&mut block, at - DISTANCE_BYTES).unwrap();
        to.write_all_at(&block, *at).unwrap();
    }
    world.host.up();
    let read = "read -P 0x5d 64M 60M";
    assert_eq!(corruption(&world, 1), 0);
    is_mended(&world, read);
    assert!(corruption(&world, 1) > 20, "{:#?}", world.array());
    ledger.verify(&socket, "pg");
    holds_without(&world, &[3, 4], read);
    ledger.verify(&socket, "pg");
}

#[test]
fn d10_members_that_swapped_their_files_are_known_by_their_labels() {
    let mut world = written();
    let (a, b, c) = (
        world.disks[0].clone(),
        world.disks[3].clone(),
        world.scratch.text("swap"),
    );
    std::fs::rename(&a, &c).unwrap();
    std::fs::rename(&b, &a).unwrap();
    std::fs::rename(&c, &b).unwrap();
    world.host.up();
    let array = world.array();
    assert_eq!(array.redundancy_left, 2, "{array:#?}");
    assert_eq!(
        (&array.members[0].path, &array.members[3].path),
        (&b, &a),
        "{array:#?}"
    );
    is_mended(&world, READ);
}

#[test]
fn d10_a_clone_beside_a_running_member_is_refused_and_the_array_goes_on() {
    let mut world = written();
    world.host.up();
    let clone = world.scratch.text("clone");
    run("cp", &["--sparse=always", &world.disks[1], &clone]).ok();
    let add = ["array", "spare", "add", "pool", &clone];
    world.host.refuses(&add, 1, &[&clone, &world.disks[1]]);
    let wipe = [&add[..], &["--wipe"]].concat();
    world.host.refuses(&wipe, 1, &[&clone, &world.disks[1]]);
    is_mended(&world, READ);
}

#[test]
fn a_member_file_cut_short_under_load_costs_a_member_and_nothing_else() {
    let world = World::new("raid6", 5, 0, "128MiB");
    let socket = world.socket();
    let writers = Ledger::new(62, 64 << 20).write(&socket, "pg");
    writers.progress(200);
    open(&world.disks[3]).set_len(40 << 20).unwrap();
    writers.progress(400);
    let mut ledger = writers.finish();
    ledger.verify(&socket, "pg");
    // Its file may have grown again by writes: whatever it is, what it lost isn't believed.
    world.host.ok(&["disk", "fail", &world.disks[0], "--yes"]);
    ledger.verify(&socket, "pg");
}

/// A member is put back as it was some writes ago; with `fresh_label` even its labels are today's.
fn put_back(fresh_label: bool) {
    let mut world = World::new("raid6", 5, 0, "128MiB");
    let socket = world.socket();
    let writers = Ledger::new(63, 64 << 20).write(&socket, "pg");
    writers.progress(300);
    let ledger = writers.finish();
    world.host.down();
    let (disk, older) = (world.disks[1].clone(), world.scratch.text("older"));
    run("cp", &["--sparse=always", &disk, &older]).ok();
    world.host.up();
    let writers = ledger.write(&socket, "pg");
    writers.progress(300);
    let mut ledger = writers.finish();
    world.host.down();
    if fresh_label {
        let (now, then) = (open(&disk), open(&older));
        let mut label = vec![0; BLOCK];
        for at in [LABEL_A, LABEL_B, (DISK_MIB << 20) - LABEL_COPY_BEFORE_END] {
            now.read_exact_at(&mut label, at).unwrap();
            then.write_all_at(&label, at).unwrap();
        }
    }
    std::fs::rename(&older, &disk).unwrap();
    world.host.up();
    ledger.verify(&socket, "pg");
    let array = world.array();
    if array.state != ArrayState::Clean {
        // It was found out by its label, and is a member that is gone.
        let add = ["array", "spare", "add", "pool", &disk, "--wipe"];
        world.host.ok(&add);
    }
    world.host.wait_clean("pool");
    world.host.ok(&["array", "scrub", "pool", "--wait"]);
    let array = world.array();
    assert_eq!(array.scrub.unrepairable, 0, "{array:#?}");
    assert_eq!(array.bad_blocks_total, 0, "{array:#?}");
    ledger.verify(&socket, "pg");
    for other in [0, 2] {
        world
            .host
            .ok(&["disk", "fail", &world.disks[other], "--yes"]);
    }
    ledger.verify(&socket, "pg");
}

#[test]
fn a10_a_member_put_back_as_it_was_some_writes_ago_is_never_read() {
    put_back(false);
}

#[test]
fn a10_a_member_put_back_with_todays_label_is_found_out_by_the_others_pages() {
    put_back(true);
}
