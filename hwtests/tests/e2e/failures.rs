//! Members that fail, and spares that take their places, under load.

use cairn_api::{Array, ArrayState, EventPage, MemberState};
use cairn_hwtests::acked::Ledger;
use cairn_hwtests::disks;
use cairn_hwtests::fault::Pullable;
use cairn_hwtests::host::Host;
use cairn_hwtests::scratch::Scratch;

use crate::world::{DISK_MIB, World, io, qemu_io};

const LOADED_BYTES: u64 = 96 << 20;

fn events(host: &Host) -> Vec<String> {
    let page: EventPage = host.json(&["events", "-n", "1000"]);
    page.events.into_iter().map(|event| event.kind).collect()
}

fn in_sync(array: &Array) -> Vec<&str> {
    let members = array.members.iter();
    let good = members.filter(|member| member.state == MemberState::InSync);
    good.map(|member| member.path.as_str()).collect()
}

#[test]
fn d2_a_pulled_disk_is_out_before_the_write_is_acknowledged_and_stays_out_over_a_crash() {
    let scratch = Scratch::new();
    let ram = scratch.ram("ram", 8 * DISK_MIB);
    let loops = disks::loops(&ram, "d", 3, DISK_MIB, 512);
    let mut pulled = Pullable::make(&scratch, &ram, "p", DISK_MIB, 512);
    let mut members = disks::devices(&loops);
    members.push(pulled.device().to_owned());
    let mut host = Host::start(&scratch);
    host.create("pool", "raid5", &members, &[]);
    host.volume("pg", "pool", "128MiB", &scratch.text("pg.sock"));
    let socket = scratch.join("pg.sock");
    let writers = Ledger::new(21, LOADED_BYTES).write(&socket, "pg");
    writers.progress(200);
    pulled.pull();
    writers.progress(400);
    host.kill();
    let mut ledger = writers.finish();
    host.up();
    let array = host.array("pool");
    // Unclean and degraded: the journal knows what was under way, so it starts by itself.
    assert_eq!(array.state, ArrayState::Degraded, "{array:#?}");
    assert_ne!(array.members[3].state, MemberState::InSync);
    assert_eq!(array.redundancy_left, 0);
    ledger.verify(&socket, "pg");
    assert!(events(&host).iter().any(|kind| kind == "Fail"));
}

#[test]
fn two_members_fail_under_load_and_both_spares_are_rebuilt_with_every_byte_right() {
    let world = World::new("raid6", 8, 2, "512MiB");
    let socket = world.socket();
    let writers = Ledger::new(22, LOADED_BYTES).write(&socket, "pg");
    writers.progress(300);
    world.host.ok(&["disk", "fail", &world.disks[2]]);
    writers.progress(50);
    world.host.ok(&["disk", "fail", &world.disks[6], "--yes"]);
    writers.progress(300);
    let mut ledger = writers.finish();
    let array = world.host.wait_clean("pool");
    assert_eq!(array.redundancy_left, 2);
    assert!(
        array
            .spares
            .iter()
            .all(|spare| spare.state != MemberState::Spare)
    );
    ledger.verify(&socket, "pg");
    // What was rebuilt carries the data: without two others it must still be there.
    world.host.ok(&["disk", "fail", &world.disks[0], "--yes"]);
    world.host.ok(&["disk", "fail", &world.disks[1], "--yes"]);
    ledger.verify(&socket, "pg");
    let kinds = events(&world.host);
    for kind in [
        "NewArray",
        "Fail",
        "RebuildStarted",
        "RebuildFinished",
        "SpareActive",
    ] {
        assert!(
            kinds.iter().any(|seen| seen == kind),
            "{kind} isn't in {kinds:?}"
        );
    }
}

#[test]
fn a4_a_spare_that_fails_during_its_rebuild_is_followed_by_the_next() {
    let world = World::new("raid6", 6, 2, "768MiB");
    let socket = world.socket();
    let writers = Ledger::new(23, 512 << 20).write(&socket, "pg");
    writers.progress(2000);
    world.host.ok(&["disk", "fail", &world.disks[0]]);
    let array = world.array();
    let filling = array
        .members
        .iter()
        .find(|member| member.state == MemberState::Rebuilding);
    // A small array may have been rebuilt already; then it is a member that fails.
    let target = filling.map_or(array.members[0].path.clone(), |member| member.path.clone());
    world.host.ok(&["disk", "fail", &target, "--yes"]);
    writers.progress(200);
    let mut ledger = writers.finish();
    let array = world.host.wait_clean("pool");
    assert!(!in_sync(&array).contains(&target.as_str()), "{array:#?}");
    ledger.verify(&socket, "pg");
}

#[test]
fn a3_a_rebuild_goes_on_after_a_restart_and_after_a_crash() {
    let mut world = World::new("raid6", 6, 1, "768MiB");
    let socket = world.socket();
    let writers = Ledger::new(24, 512 << 20).write(&socket, "pg");
    writers.progress(2500);
    let mut ledger = writers.finish();
    world.host.ok(&["disk", "fail", &world.disks[3]]);
    world.host.down();
    world.host.up();
    ledger.verify(&socket, "pg");
    world.host.wait_clean("pool");
    world.host.ok(&["disk", "fail", &world.disks[5]]);
    let fresh = disks::texts(&[disks::file(world.scratch.path(), "fresh", DISK_MIB)]);
    world.host.ok(&["array", "spare", "add", "pool", &fresh[0]]);
    world.host.kill();
    world.host.up();
    world.host.wait_clean("pool");
    ledger.verify(&socket, "pg");
}

#[test]
fn replace_copies_to_the_new_disk_under_load_and_lets_the_old_one_go() {
    let world = World::new("raid5", 4, 0, "256MiB");
    let socket = world.socket();
    let writers = Ledger::new(25, LOADED_BYTES).write(&socket, "pg");
    writers.progress(200);
    let fresh = disks::texts(&[disks::file(world.scratch.path(), "fresh", DISK_MIB)]);
    world
        .host
        .ok(&["disk", "replace", &world.disks[1], &fresh[0]]);
    assert!(world.array().redundancy_left >= 1, "never less than before");
    writers.progress(200);
    let array = world.host.wait_clean("pool");
    assert!(in_sync(&array).contains(&fresh[0].as_str()), "{array:#?}");
    assert!(
        !in_sync(&array).contains(&world.disks[1].as_str()),
        "{array:#?}"
    );
    let mut ledger = writers.finish();
    ledger.verify(&socket, "pg");
    world.host.ok(&["disk", "fail", &world.disks[0], "--yes"]);
    ledger.verify(&socket, "pg");
}

#[test]
fn a2_one_failure_beyond_the_level_is_an_error_to_the_client_and_never_wrong_data() {
    let scratch = Scratch::new();
    let ram = scratch.ram("ram", 8 * DISK_MIB);
    let loops = disks::loops(&ram, "d", 3, DISK_MIB, 512);
    let mut pulled: Vec<Pullable> = ["p", "q"]
        .iter()
        .map(|name| Pullable::make(&scratch, &ram, name, DISK_MIB, 512))
        .collect();
    let mut members = disks::devices(&loops);
    members.extend(pulled.iter().map(|disk| disk.device().to_owned()));
    let host = Host::start(&scratch);
    host.create("pool", "raid5", &members, &[]);
    let uri = host.volume("pg", "pool", "128MiB", &scratch.text("pg.sock"));
    io(&uri, &["write -P 0x5a 0 32M", "flush"]);
    pulled[0].pull();
    io(&uri, &["read -P 0x5a 0 32M"]);
    pulled[1].pull();
    // What was on the second one can't be known any more; the rest may be read.
    let written = qemu_io(&uri, &["write -P 0x66 0 4M"]);
    assert!(
        written.stdout.contains("rror") || written.code != Some(0),
        "{written}"
    );
    let read = qemu_io(&uri, &["read -P 0x5a 0 32M"]);
    let refused = read.code != Some(0) || read.stdout.contains("rror");
    assert!(
        refused && !read.stdout.contains("Pattern verification failed"),
        "{read}"
    );
    let check = host.cairn(&["check"]).exited(2);
    assert!(check.stdout.contains("ARRAY_INCOMPLETE"), "{check}");
    host.cairn(&["array", "wait", "pool", "--timeout", "1s"]);
}
