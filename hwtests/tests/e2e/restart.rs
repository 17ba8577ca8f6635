//! What a daemon finds again after it was stopped, killed, or has lost everything but the disks.

use cairn_api::{ArrayState, BackendKind, EventPage, Status, Volume};
use cairn_hwtests::acked::Ledger;
use cairn_hwtests::disks::{self, Loop};
use cairn_hwtests::host::Host;
use cairn_hwtests::program::run;
use cairn_hwtests::scratch::Scratch;

use crate::world::{DISK_MIB, World, create_line, io};

fn pattern(uri: &str, verb: &str) {
    io(uri, &[&format!("{verb} -P 0x6b 3M 21M")]);
}

#[test]
fn arrays_volumes_and_exports_come_back_after_a_stop() {
    let mut world = World::new("raid6", 6, 1, "512MiB");
    pattern(&world.uri, "write");
    world.host.ok(&[
        "volume", "create", "other", "--array", "pool", "--size", "64MiB",
    ]);
    let before = world.array();
    world.host.down();
    assert!(!world.socket().exists(), "a stopped daemon's socket stays");
    world.host.up();
    let after = world.array();
    assert_eq!(after.uuid, before.uuid);
    assert_eq!(after.space, before.space, "space is exact after a restart");
    assert_eq!(after.state, ArrayState::Clean);
    assert_eq!(after.spares.len(), 1);
    pattern(&world.uri, "read");
    let other: Volume = world.host.json(&["volume", "show", "other"]);
    assert_eq!(other.size_bytes, 64 << 20);
    assert!(other.exports.is_empty());
}

#[test]
fn d10_an_array_assembles_by_its_labels_whatever_the_paths_and_their_order() {
    let scratch = Scratch::new();
    let ram = scratch.ram("ram", 8 * DISK_MIB);
    let images = disks::files(&ram, "d", 5, DISK_MIB);
    let attach = |order: &[usize]| -> Vec<Loop> {
        order
            .iter()
            .map(|index| Loop::attach(&images[*index], 4096))
            .collect()
    };
    let config = "degraded_wait_seconds = 1\ndevices = ['/dev/loop*']\n";
    let loops = attach(&[0, 1, 2, 3, 4]);
    let before = disks::devices(&loops);
    let mut host = Host::start_with(&scratch, "state", config);
    host.create("pool", "raid6", &before, &[]);
    let uri = host.volume("pg", "pool", "128MiB", &scratch.text("pg.sock"));
    pattern(&uri, "write");
    host.down();
    drop(loops);
    // One more loop in front, and the rest in another order: no member keeps its path and slot.
    let front = disks::file(&ram, "front", 1);
    let _front = Loop::attach(&front, 512);
    let loops = attach(&[3, 0, 4, 2, 1]);
    host.up();
    let array = host.array("pool");
    assert_eq!(
        (array.state, array.redundancy_left),
        (ArrayState::Clean, 2),
        "{array:#?}"
    );
    let slots: Vec<&str> = array
        .members
        .iter()
        .map(|member| member.path.as_str())
        .collect();
    let now = disks::devices(&loops);
    assert_eq!(slots, [&*now[1], &*now[4], &*now[3], &*now[0], &*now[2]]);
    pattern(&uri, "read");
    host.down();
}

#[test]
fn with_the_state_directory_lost_the_disks_alone_bring_everything_but_exports_back() {
    let mut world = World::new("raid6", 6, 1, "512MiB");
    pattern(&world.uri, "write");
    world.host.down();
    world.host.lose_state();
    world.host.up();
    world
        .host
        .refuses(&["array", "show", "pool"], 1, &["pool", "--scan"]);
    let mut line = vec!["array", "assemble", "pool", "--scan"];
    let scanned: Vec<&str> = world
        .disks
        .iter()
        .chain(&world.spares)
        .rev()
        .map(String::as_str)
        .collect();
    line.extend(&scanned);
    world.host.ok(&line);
    let array = world.array();
    assert_eq!(
        (array.state, array.redundancy_left),
        (ArrayState::Clean, 2),
        "{array:#?}"
    );
    assert_eq!(array.spares.len(), 1);
    let slots: Vec<&str> = array
        .members
        .iter()
        .map(|member| member.path.as_str())
        .collect();
    assert_eq!(slots, world.disks, "slots come from the labels");
    let address = format!("unix:{}", world.scratch.text("pg.sock"));
    world
        .host
        .ok(&["volume", "export", "pg", "--nbd", &address]);
    pattern(&world.uri, "read");
}

#[test]
fn a_stopped_array_stays_stopped_until_it_is_assembled_by_request() {
    let mut world = World::new("raid5", 3, 0, "128MiB");
    pattern(&world.uri, "write");
    world.host.ok(&["array", "stop", "pool", "--yes"]);
    assert!(
        run("nbdinfo", &[&world.uri]).code != Some(0),
        "its export ended with it"
    );
    world.host.down();
    world.host.up();
    assert_eq!(world.array().state, ArrayState::Stopped);
    world.host.ok(&["array", "assemble", "pool"]);
    assert_eq!(world.array().state, ArrayState::Clean);
    pattern(&world.uri, "read");
}

#[test]
fn a_degraded_array_comes_back_degraded_by_itself() {
    let mut world = World::new("raid6", 6, 0, "256MiB");
    pattern(&world.uri, "write");
    world.host.down();
    let away = world.scratch.join("away");
    std::fs::rename(&world.disks[4], &away).unwrap();
    world.host.up();
    let array = world.array();
    assert_eq!(
        (array.state, array.redundancy_left),
        (ArrayState::Degraded, 1),
        "{array:#?}"
    );
    pattern(&world.uri, "read");
    world
        .host
        .cairn(&["check"])
        .exited(1)
        .says(&["ARRAY_DEGRADED"]);
}

#[test]
fn where_io_uring_is_blocked_threads_stand_in_and_status_says_so() {
    let scratch = Scratch::new();
    let members = disks::texts(&disks::files(scratch.path(), "d", 4, DISK_MIB));
    let mut host = Host::start_on_threads(&scratch);
    host.create("pool", "raid6", &members, &[]);
    host.volume("pg", "pool", "128MiB", &scratch.text("pg.sock"));
    let socket = scratch.join("pg.sock");
    let writers = Ledger::new(36, 32 << 20).write(&socket, "pg");
    writers.progress(200);
    host.kill();
    let mut ledger = writers.finish();
    host.up();
    ledger.verify(&socket, "pg");
    let status: Status = host.json(&["status"]);
    assert_eq!(status.io_backend.kind, BackendKind::Threads);
    host.ok(&["status"]).says(&["threads"]);
}

/// `kill -9` in the middle of writes, again and again; after each start every acknowledged byte.
fn survives_kills(level: &str, members: usize, seed: u64) {
    let mut world = World::new(level, members, 0, "256MiB");
    let socket = world.socket();
    let mut ledger = Ledger::new(seed, 64 << 20);
    for round in 0..4 {
        let writers = ledger.write(&socket, "pg");
        writers.progress(150 + 100 * round);
        world.host.kill();
        ledger = writers.finish();
        world.host.up();
        ledger.verify(&socket, "pg");
    }
    // Parity carries the data as well: without a member it must still be there.
    world.host.wait_clean("pool");
    for disk in world
        .disks
        .iter()
        .take(world.array().redundancy_left.try_into().unwrap())
    {
        world.host.ok(&["disk", "fail", disk, "--yes"]);
    }
    ledger.verify(&socket, "pg");
}

#[test]
fn h1_every_acknowledged_write_survives_kill_9_on_raid1() {
    survives_kills("raid1", 2, 31);
}

#[test]
fn h1_every_acknowledged_write_survives_kill_9_on_raid5() {
    survives_kills("raid5", 4, 32);
}

#[test]
fn h1_every_acknowledged_write_survives_kill_9_on_raid6() {
    survives_kills("raid6", 6, 33);
}

#[test]
fn a_stop_under_load_drains_what_is_under_way() {
    let mut world = World::new("raid6", 6, 0, "256MiB");
    let socket = world.socket();
    let writers = Ledger::new(34, 64 << 20).write(&socket, "pg");
    writers.progress(200);
    world.host.down();
    let mut ledger = writers.finish();
    world.host.up();
    ledger.verify(&socket, "pg");
}

#[test]
fn a8_a_kill_9_under_load_and_a_member_gone_loses_nothing_that_was_acknowledged() {
    let mut world = World::new("raid5", 4, 0, "256MiB");
    let socket = world.socket();
    let writers = Ledger::new(35, 64 << 20).write(&socket, "pg");
    writers.progress(200);
    world.host.kill();
    let mut ledger = writers.finish();
    std::fs::rename(&world.disks[0], world.scratch.join("away")).unwrap();
    world.host.up();
    let array = world.array();
    assert_eq!(
        (array.state, array.redundancy_left),
        (ArrayState::Degraded, 0),
        "{array:#?}"
    );
    ledger.verify(&socket, "pg");
}

#[test]
fn without_a_journal_unclean_and_degraded_starts_only_when_the_operator_forces_it() {
    let scratch = Scratch::new();
    let members = disks::texts(&disks::files(scratch.path(), "d", 4, DISK_MIB));
    let mut host = Host::start(&scratch);
    let line = create_line("pool", "raid5", &members, &["--journal", "none"]);
    host.ok(&line);
    host.volume("pg", "pool", "256MiB", &scratch.text("pg.sock"));
    let writers = Ledger::new(35, 64 << 20).write(&scratch.join("pg.sock"), "pg");
    writers.progress(200);
    host.kill();
    let _ = writers.finish();
    std::fs::rename(&members[0], scratch.join("away")).unwrap();
    host.up();
    assert_eq!(host.array("pool").state, ArrayState::Incomplete);
    host.refuses(&["array", "assemble", "pool"], 1, &["--force"]);
    host.cairn(&["check"]).exited(2);
    let forced = host.ok(&["array", "assemble", "pool", "--force"]);
    let price = "can't be told right from wrong";
    let said = forced.stdout + &forced.stderr;
    assert!(
        said.contains("started by force") && said.contains(price),
        "{said}"
    );
    let page: EventPage = host.json(&["events", "-n", "1000"]);
    let mut told = page.events.iter().filter(|event| event.kind == "Forced");
    assert!(
        told.next()
            .is_some_and(|event| event.detail.contains(price))
    );
    assert_eq!(host.array("pool").state, ArrayState::Degraded);
}
