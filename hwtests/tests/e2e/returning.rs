//! Members that go and come back: caught up on what they missed, never trusted with more.

use cairn_api::{Array, ArrayState, EventPage, MemberState};
use cairn_hwtests::acked::Ledger;
use cairn_hwtests::disks;
use cairn_hwtests::fault::Pullable;
use cairn_hwtests::host::Host;
use cairn_hwtests::scratch::Scratch;

use crate::world::{DISK_MIB, World, io};

const LOADED_BYTES: u64 = 96 << 20;
const CAUGHT_UP: &str = "rows that it missed are caught up";

/// A RAID 5 of three loops and a disk that can be pulled, known by a name that stays. Fields go in
/// this order.
struct Plugged {
    host: Host,
    pulled: Pullable,
    name: String,
    others: Vec<String>,
    _loops: Vec<disks::Loop>,
    scratch: Scratch,
}

impl Plugged {
    fn new(config: &str) -> Self {
        let scratch = Scratch::new();
        let ram = scratch.ram("ram", 8 * DISK_MIB);
        let loops = disks::loops(&ram, "d", 3, DISK_MIB, 512);
        let host = Host::start_with(&scratch, "state", config);
        let pulled = Pullable::make(&scratch, &ram, "p", DISK_MIB, 512);
        let name = scratch.text("by-id-p");
        std::os::unix::fs::symlink(pulled.device(), &name).unwrap();
        let others = disks::devices(&loops);
        let members: Vec<String> = others.iter().chain([&name]).cloned().collect();
        host.create("pool", "raid5", &members, &[]);
        host.volume("pg", "pool", "256MiB", &scratch.text("pg.sock"));
        Self {
            host,
            pulled,
            name,
            others,
            _loops: loops,
            scratch,
        }
    }

    fn wait_ejected(&self) -> Array {
        let name = &self.name;
        let out = |array: &Array| state_of(array, name) != Some(MemberState::InSync);
        self.host.wait_array("pool", "the disk's ejection", out)
    }

    fn plug(&mut self) {
        std::fs::remove_file(&self.name).unwrap();
        self.pulled.plug();
        std::os::unix::fs::symlink(self.pulled.device(), &self.name).unwrap();
    }
}

fn state_of(array: &Array, path: &str) -> Option<MemberState> {
    let mut members = array.members.iter();
    members.find(|m| m.path == path).map(|m| m.state)
}

fn said(host: &Host, words: &str) -> bool {
    let page: EventPage = host.json(&["events", "-n", "1000"]);
    page.events.iter().any(|event| event.detail.contains(words))
}

#[test]
fn d9_a_disk_that_is_pulled_and_plugged_in_again_is_caught_up_by_itself() {
    let mut world = Plugged::new("degraded_wait_seconds = 1\n");
    let socket = world.scratch.join("pg.sock");
    let writers = Ledger::new(51, LOADED_BYTES).write(&socket, "pg");
    writers.progress(300);
    world.pulled.pull();
    writers.progress(300);
    world.wait_ejected();
    world.plug();
    // It is taken back under load.
    let name = world.name.clone();
    world.host.wait_array("pool", "the disk's return", |array| {
        state_of(array, &name) == Some(MemberState::InSync)
    });
    writers.progress(100);
    let mut ledger = writers.finish();
    let array = world.host.wait_clean("pool");
    assert_eq!(array.redundancy_left, 1, "{array:#?}");
    assert!(said(&world.host, CAUGHT_UP));
    ledger.verify(&socket, "pg");
    // What it was given carries the data: without another it must be right.
    world.host.ok(&["disk", "fail", &world.others[1], "--yes"]);
    ledger.verify(&socket, "pg");
    world.host.down();
    world.host.up();
    ledger.verify(&socket, "pg");
    world.host.down();
}

#[test]
fn d9_a_member_that_is_away_at_the_start_and_connected_later_is_caught_up_by_itself() {
    let mut world = World::new("raid5", 4, 0, "256MiB");
    io(&world.uri, &["write -P 0x11 0 24M"]);
    world.host.down();
    let (home, away) = (world.disks[2].clone(), world.scratch.join("away"));
    std::fs::rename(&home, &away).unwrap();
    world.host.up();
    assert_eq!(world.array().state, ArrayState::Degraded);
    io(&world.uri, &["write -P 0x22 4M 2M"]);
    std::fs::rename(&away, &home).unwrap();
    world.host.wait_array("pool", "its return", |array| {
        state_of(array, &home) == Some(MemberState::InSync)
    });
    world.host.wait_clean("pool");
    assert!(said(&world.host, CAUGHT_UP));
    world.host.ok(&["disk", "fail", &world.disks[0], "--yes"]);
    let checks = [
        "read -P 0x11 0 4M",
        "read -P 0x22 4M 2M",
        "read -P 0x11 6M 18M",
    ];
    io(&world.uri, &checks);
}

#[test]
fn d9_a_member_that_is_back_at_the_next_start_is_caught_up_and_never_read_before() {
    let mut world = World::new("raid5", 4, 0, "256MiB");
    io(&world.uri, &["write -P 0x11 0 24M"]);
    world.host.down();
    let (home, away) = (world.disks[2].clone(), world.scratch.join("away"));
    std::fs::rename(&home, &away).unwrap();
    world.host.up();
    io(&world.uri, &["write -P 0x22 0 24M"]);
    world.host.down();
    std::fs::rename(&away, &home).unwrap();
    world.host.up();
    io(&world.uri, &["read -P 0x22 0 24M"]);
    let array = world.host.wait_clean("pool");
    assert_eq!(array.redundancy_left, 1, "{array:#?}");
    assert!(said(&world.host, CAUGHT_UP));
    world.host.ok(&["disk", "fail", &world.disks[0], "--yes"]);
    io(&world.uri, &["read -P 0x22 0 24M"]);
}

#[test]
fn d9_a_member_that_the_operator_failed_comes_back_when_it_is_added_and_not_before() {
    let mut world = World::new("raid6", 5, 0, "256MiB");
    let socket = world.socket();
    let writers = Ledger::new(52, LOADED_BYTES).write(&socket, "pg");
    writers.progress(200);
    let disk = world.disks[3].clone();
    world.host.ok(&["disk", "fail", &disk]);
    writers.progress(200);
    world.host.kill();
    let mut ledger = writers.finish();
    world.host.up();
    assert_eq!(state_of(&world.array(), &disk), Some(MemberState::Failed));
    ledger.verify(&socket, "pg");
    let add = ["array", "spare", "add", "pool", &disk];
    let dry = [&add[..], &["--dry-run"]].concat();
    world.host.ok(&dry).says(&["would take member", &disk]);
    assert_eq!(state_of(&world.array(), &disk), Some(MemberState::Failed));
    world.host.ok(&add).says(&[CAUGHT_UP]);
    let array = world.host.wait_clean("pool");
    assert_eq!(array.redundancy_left, 2, "{array:#?}");
    for other in &world.disks[..2] {
        world.host.ok(&["disk", "fail", other, "--yes"]);
    }
    ledger.verify(&socket, "pg");
}

#[test]
fn d9_a_member_that_cannot_be_caught_up_keeps_its_content_until_it_may_be_wiped() {
    let mut world = World::new("raid5", 4, 0, "256MiB");
    io(&world.uri, &["write -P 0x11 0 24M"]);
    world.host.down();
    let disk = world.disks[2].clone();
    let image = world.scratch.text("older");
    cairn_hwtests::program::run("cp", &["--sparse=always", &disk, &image]).ok();
    world.host.up();
    io(&world.uri, &["write -P 0x22 0 24M"]);
    world.host.ok(&["disk", "fail", &disk, "--yes"]);
    world.host.down();
    // What comes back is an image of it that was taken before.
    std::fs::rename(&image, &disk).unwrap();
    world.host.up();
    let add = ["array", "spare", "add", "pool", &disk];
    world
        .host
        .refuses(&add, 1, &[&disk, "older image", "--wipe"]);
    io(&world.uri, &["read -P 0x22 0 24M"]);
    let wipe = [&add[..], &["--wipe"]].concat();
    world.host.ok(&wipe).says(&["as a spare"]);
    world.host.wait_clean("pool");
    world.host.ok(&["disk", "fail", &world.disks[0], "--yes"]);
    io(&world.uri, &["read -P 0x22 0 24M"]);
}

#[test]
fn d13_a_disk_that_owes_answers_is_not_looked_at_and_comes_back_when_it_has_given_them() {
    let config = "degraded_wait_seconds = 1\n\
                  [disks]\nreconstruct_after = '1s'\neject_after = '3s'\n";
    let mut world = Plugged::new(config);
    let socket = world.scratch.join("pg.sock");
    let writers = Ledger::new(53, LOADED_BYTES).write(&socket, "pg");
    writers.progress(200);
    world.pulled.hang();
    world.wait_ejected();
    writers.progress(200);
    let name = world.name.clone();
    for line in [
        &["disk", "show", &name][..],
        &["array", "spare", "add", "pool", &name],
        &["array", "spare", "add", "pool", &name, "--wipe"],
        &["disk", "wipe", &name, "--yes"],
    ] {
        let refused = world.host.cairn(line);
        println!("{refused}");
        if line[1] != "show" {
            refused.exited(1).says(&[&name, "answer"]);
        }
    }
    world.host.ok(&["disk", "list"]);
    world.pulled.resume();
    let add = ["array", "spare", "add", "pool", &name];
    cairn_hwtests::wait::until("the disk's answers", || {
        let added = world.host.cairn(&add);
        if added.code == Some(0) {
            Ok(())
        } else {
            Err(added.to_string())
        }
    });
    writers.progress(50);
    let mut ledger = writers.finish();
    let array = world.host.wait_clean("pool");
    assert_eq!(array.redundancy_left, 1, "{array:#?}");
    world.host.ok(&["disk", "fail", &world.others[0], "--yes"]);
    ledger.verify(&socket, "pg");
    world.host.down();
}

#[test]
fn d4_a_disk_that_hangs_keeps_no_array_from_starting_and_the_daemon_from_no_stop() {
    let config = "degraded_wait_seconds = 1\n";
    let mut world = Plugged::new(config);
    let uri = format!("nbd+unix:///pg?socket={}", world.scratch.text("pg.sock"));
    io(&uri, &["write -P 0x31 0 16M"]);
    world.host.down();
    world.pulled.hang();
    // It is asked for its label, and never answers.
    world.host.up();
    let array = world.host.array("pool");
    assert_eq!(array.state, ArrayState::Degraded, "{array:#?}");
    io(&uri, &["read -P 0x31 0 16M", "write -P 0x32 0 4M"]);
    let began = std::time::Instant::now();
    world.host.down();
    println!("stopped in {:?}", began.elapsed());
    world.pulled.resume();
    world.host.up();
    io(&uri, &["read -P 0x32 0 4M"]);
    assert!(!said(&world.host, "replayed"), "it was a clean stop");
    world.host.down();
}
