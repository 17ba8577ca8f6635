//! The spares that all arrays of a host share: one for whoever needs it first, and for nobody else.

use cairn_api::{
    Array, ArrayState, Disk, DiskContent, DiskRole, EventPage, HealthCode, MemberState,
};
use cairn_hwtests::disks;
use cairn_hwtests::fault::Pullable;
use cairn_hwtests::host::Host;
use cairn_hwtests::program::run;
use cairn_hwtests::scratch::Scratch;
use cairn_hwtests::wait;

use crate::world::{DISK_MIB, io};

/// A daemon with two arrays of three disks each and no spares of their own; every disk is found by a
/// pattern of the configuration. Fields go in this order.
struct Two {
    host: Host,
    first: Vec<String>,
    second: Vec<String>,
    uri: String,
    scratch: Scratch,
}

impl Two {
    fn new() -> Self {
        Self::of(DISK_MIB, DISK_MIB)
    }

    /// The first array of disks of so many MiB, the second of others.
    fn of(first_mib: u64, second_mib: u64) -> Self {
        let scratch = Scratch::new();
        let first = disks::texts(&disks::files(scratch.path(), "a", 3, first_mib));
        let second = disks::texts(&disks::files(scratch.path(), "b", 3, second_mib));
        let pattern = scratch.text("[abp][0-9]*");
        let config = format!("degraded_wait_seconds = 1\ndevices = ['{pattern}']\n");
        let host = Host::start_with(&scratch, "state", &config);
        host.create("first", "raid5", &first, &[]);
        host.create("second", "raid5", &second, &[]);
        let uri = host.volume("pg", "first", "128MiB", &scratch.text("pg.sock"));
        Self {
            host,
            first,
            second,
            uri,
            scratch,
        }
    }

    /// A blank disk that the pattern finds.
    fn disk(&self, name: &str, mib: u64) -> String {
        disks::texts(&[disks::file(self.scratch.path(), name, mib)]).remove(0)
    }

    fn events(&self) -> Vec<String> {
        let page: EventPage = self.host.json(&["events", "-n", "1000"]);
        page.events.into_iter().map(|event| event.kind).collect()
    }

    fn has_event(&self, kind: &str) -> bool {
        self.events().iter().any(|seen| seen == kind)
    }

    /// Arrays whose spares are missed.
    fn missed(&self) -> Vec<String> {
        let checks = self.host.health().checks.into_iter();
        let missed = checks.filter(|check| check.code == HealthCode::SpareMissing);
        missed.map(|check| check.subject).collect()
    }

    fn wait_offered(&self, name: &str) {
        let offered = |array: &Array| array.host_spares.fitting > 0;
        self.host.wait_array(name, "a disk in the pool", offered);
    }

    fn shown(&self, path: &str) -> Disk {
        self.host.json(&["disk", "show", path])
    }
}

fn holds(array: &Array, path: &str) -> bool {
    let mut members = array.members.iter();
    members.any(|member| member.path == path && member.state == MemberState::InSync)
}

#[test]
fn one_spare_of_the_host_goes_to_the_array_that_fails_first_and_the_other_misses_it() {
    let mut world = Two::new();
    io(&world.uri, &["write -P 0x11 0 24M"]);
    let spare = world.disk("p0", DISK_MIB);
    let dry = ["disk", "add", &spare, "--dry-run"];
    world.host.ok(&dry).says(&["would put", &spare]);
    assert_eq!(world.shown(&spare).role, DiskRole::Free);
    world.host.ok(&["disk", "add", &spare]).says(&[&spare]);
    let disk = world.shown(&spare);
    assert_eq!(
        (disk.role, disk.state, disk.content),
        (
            DiskRole::HostSpare,
            Some(MemberState::Spare),
            DiskContent::Cairn
        )
    );
    let status = world.host.ok(&["status"]);
    assert!(status.stdout.contains("host_spare"), "{status}");
    for name in ["first", "second"] {
        world.wait_offered(name);
    }
    // Over a restart it is in the pool still.
    world.host.down();
    world.host.up();
    assert_eq!(world.shown(&spare).role, DiskRole::HostSpare);
    for name in ["first", "second"] {
        world.wait_offered(name);
    }
    assert_eq!(world.missed(), Vec::<String>::new());
    world.host.ok(&["disk", "fail", &world.first[1], "--yes"]);
    let array = world.host.wait_clean("first");
    assert!(holds(&array, &spare), "{array:#?}");
    assert!(world.has_event("HostSpareTaken"));
    world.host.ok(&["disk", "fail", &world.second[1], "--yes"]);
    let array = world.host.array("second");
    assert_eq!(array.state, ArrayState::Degraded);
    assert!(world.missed().contains(&"second".to_owned()));
    // After a crash it is where it was.
    world.host.kill();
    world.host.up();
    assert!(holds(&world.host.wait_clean("first"), &spare));
    assert_eq!(world.shown(&spare).role, DiskRole::Member);
    assert!(world.missed().contains(&"second".to_owned()));
    world.host.ok(&["disk", "fail", &world.first[0], "--yes"]);
    io(&world.uri, &["read -P 0x11 0 24M"]);
    // Another disk is for the one that waits, at once.
    let more = world.disk("p1", DISK_MIB);
    world.host.ok(&["disk", "add", &more]);
    let more_yet = world.disk("p2", DISK_MIB);
    world.host.ok(&["disk", "add", &more_yet]);
    for name in ["first", "second"] {
        world.host.wait_clean(name);
    }
    io(&world.uri, &["read -P 0x11 0 24M"]);
}

#[test]
fn two_arrays_that_fail_at_once_take_a_disk_each_and_never_the_same() {
    let world = Two::new();
    let spares = [world.disk("p0", DISK_MIB), world.disk("p1", DISK_MIB)];
    std::thread::scope(|scope| {
        for lost in [&world.first[0], &world.second[0]] {
            scope.spawn(|| world.host.ok(&["disk", "fail", lost, "--yes"]));
        }
    });
    world.host.ok(&["disk", "add", &spares[0], &spares[1]]);
    let (first, second) = (
        world.host.wait_clean("first"),
        world.host.wait_clean("second"),
    );
    for spare in &spares {
        assert!(
            holds(&first, spare) != holds(&second, spare),
            "{first:#?} {second:#?}"
        );
    }
}

#[test]
fn a_disk_that_is_taken_is_in_the_pool_or_in_the_array_after_a_kill_at_any_moment() {
    let mut world = Two::new();
    io(&world.uri, &["write -P 0x22 0 24M"]);
    let mut spare = world.disk("p0", DISK_MIB);
    world.host.ok(&["disk", "add", &spare]);
    world.wait_offered("first");
    let mut lost = world.first[2].clone();
    for round in 0..6u64 {
        world.host.ok(&["disk", "fail", &lost, "--yes"]);
        std::thread::sleep(std::time::Duration::from_millis(round * 40));
        world.host.kill();
        world.host.up();
        let array = world.host.wait_clean("first");
        assert!(holds(&array, &spare), "round {round}: {array:#?}");
        let pool: cairn_api::DiskList = world.host.json(&["disk", "list"]);
        let in_pool = pool.disks.iter().filter(|d| d.role == DiskRole::HostSpare);
        assert_eq!(in_pool.count(), 0, "round {round}: in both");
        // The next round loses what was rebuilt; what was lost waits in its place.
        world.host.ok(&["disk", "remove", &lost]);
        world.host.ok(&["disk", "add", &lost, "--wipe", &lost]);
        std::mem::swap(&mut spare, &mut lost);
    }
    io(&world.uri, &["read -P 0x22 0 24M"]);
}

#[test]
fn a_disk_too_small_for_an_array_is_skipped_and_said_with_both_sizes() {
    let world = Two::of(2 * DISK_MIB, DISK_MIB);
    let small = world.disk("p0", DISK_MIB);
    let tiny = world.disk("p1", DISK_MIB / 2);
    let tiny_bytes = ((DISK_MIB / 2) << 20).to_string();
    world.host.refuses(
        &["disk", "add", &tiny],
        1,
        &[&tiny, &tiny_bytes, "too small"],
    );
    world
        .host
        .ok(&["disk", "add", &small])
        .says(&["too small", "first"]);
    world.host.ok(&["disk", "fail", &world.first[0], "--yes"]);
    let bytes = (DISK_MIB << 20).to_string();
    let check = wait::until("the finding", || {
        let checks = world.host.health().checks.into_iter();
        let mut missed = checks.filter(|check| check.code == HealthCode::SpareMissing);
        missed
            .find(|check| check.subject == "first")
            .ok_or_else(|| "SPARE_MISSING isn't said".to_owned())
    });
    assert!(
        check.message.contains("too small") && check.message.contains(&bytes),
        "{}",
        check.message
    );
    let array = world.host.array("first");
    assert_eq!(
        (array.host_spares.fitting, array.host_spares.too_small),
        (0, 1)
    );
    let need = array.host_spares.need_bytes.to_string();
    world
        .host
        .ok(&["array", "show", "first"])
        .says(&["too small", &bytes, &need]);
    // By name it is refused by both sizes, and stays where it is, whatever may be wiped.
    let add = ["array", "spare", "add", "first", &small, "--wipe"];
    world.host.refuses(&add, 1, &[&small, &bytes, &need]);
    let replace = ["disk", "replace", &world.first[1], &small, "--wipe"];
    world.host.refuses(&replace, 1, &[&small, &bytes, &need]);
    // The other array takes it.
    world.host.ok(&["disk", "fail", &world.second[0], "--yes"]);
    assert!(holds(&world.host.wait_clean("second"), &small));
    let enough = world.disk("p2", 2 * DISK_MIB);
    world.host.ok(&["disk", "add", &enough]);
    assert!(holds(&world.host.wait_clean("first"), &enough));
}

#[test]
fn what_is_somebody_elses_or_in_use_is_no_spare_of_the_host() {
    let world = Two::new();
    let foreign = world.disk("p0", DISK_MIB);
    run("mkfs.ext4", &["-q", "-F", &foreign]).ok();
    world
        .host
        .refuses(&["disk", "add", &foreign], 1, &[&foreign, "ext4", "--wipe"]);
    let member = &world.first[0];
    world
        .host
        .refuses(&["disk", "add", member], 1, &[member, "array first"]);
    let link = world.scratch.text("link");
    std::os::unix::fs::symlink(member, &link).unwrap();
    world
        .host
        .refuses(&["disk", "add", &link], 1, &[member, "same disk"]);
    let blank = world.disk("p1", DISK_MIB);
    world
        .host
        .refuses(&["disk", "add", &blank, &blank], 1, &["twice"]);
    world
        .host
        .ok(&["disk", "add", &foreign, &blank, "--wipe", &foreign]);
    // In the pool they are nobody else's.
    world
        .host
        .refuses(&["disk", "add", &blank], 1, &[&blank, "pool of spares"]);
    let create = [
        "array", "create", "third", "--level", "raid1", "--disks", &blank, &foreign, "--wipe",
        &blank, "--wipe", &foreign,
    ];
    world.host.refuses(&create, 1, &[&blank, "pool of spares"]);
    world
        .host
        .refuses(&["disk", "wipe", &blank, "--yes"], 1, &["pool of spares"]);
    let locked = run("flock", &["-n", &blank, "true"]);
    assert_ne!(locked.code, Some(0), "it isn't held: {locked}");
}

#[test]
fn a_spare_of_the_host_that_is_taken_out_is_a_blank_disk_again() {
    let mut world = Two::new();
    let (one, other) = (world.disk("p0", DISK_MIB), world.disk("p1", DISK_MIB));
    world.host.ok(&["disk", "add", &one, &other]);
    world.wait_offered("first");
    world.host.ok(&["disk", "remove", &one]);
    let disk = world.shown(&one);
    assert_eq!(
        (disk.role, disk.content),
        (DiskRole::Free, DiskContent::Blank)
    );
    // The last one is the last spare of both arrays.
    world
        .host
        .ok(&["disk", "remove", &other, "--dry-run"])
        .says(&["--yes"]);
    world.host.refuses(
        &["disk", "remove", &other],
        3,
        &["last spare", "first", "second"],
    );
    world.host.ok(&["disk", "remove", &other, "--yes"]);
    assert_eq!(world.missed(), Vec::<String>::new(), "fewer will do");
    world.host.down();
    world.host.up();
    assert_eq!(world.shown(&other).content, DiskContent::Blank);
    // One that is given to an array needs no wipe.
    world.host.ok(&["disk", "add", &one]);
    world
        .host
        .ok(&["array", "spare", "add", "second", &one])
        .says(&["added spare"]);
    let disk = world.shown(&one);
    assert_eq!(
        (disk.role, disk.array),
        (DiskRole::Spare, Some("second".into()))
    );
    // Nor one that takes a certain member's place.
    world.host.ok(&["disk", "add", &other]);
    let replace = ["disk", "replace", &world.first[0], &other];
    world.host.ok(&replace);
    assert!(holds(&world.host.wait_clean("first"), &other));
    assert_eq!(world.shown(&other).role, DiskRole::Member);
}

#[test]
fn the_pool_is_found_again_without_records_and_another_hosts_is_left_alone() {
    let mut world = Two::new();
    let spare = world.disk("p0", DISK_MIB);
    world.host.ok(&["disk", "add", &spare]);
    world.host.down();
    std::fs::remove_file(world.host.state_dir().join("meta.redb")).unwrap();
    world.host.up();
    assert_eq!(world.shown(&spare).role, DiskRole::HostSpare);
    world.wait_offered("first");
    world.host.down();
    // All of it lost: the host has another identity, and whose the disk is can't be known.
    world.host.lose_state();
    world.host.up();
    let disk = world.shown(&spare);
    assert_eq!(
        (disk.role, disk.content),
        (DiskRole::Free, DiskContent::Cairn)
    );
    assert!(disk.note.unwrap().contains("spare of host"));
    let paths: Vec<&str> = world.first.iter().map(String::as_str).collect();
    let mut scan = vec!["array", "assemble", "first", "--scan"];
    scan.extend(paths);
    world.host.ok(&scan);
    world.host.ok(&["disk", "fail", &world.first[0], "--yes"]);
    world
        .host
        .refuses(&["disk", "add", &spare], 1, &[&spare, "spare of host"]);
    assert_eq!(world.host.array("first").state, ArrayState::Degraded);
    world.host.ok(&["disk", "add", &spare, "--wipe", &spare]);
    assert!(holds(&world.host.wait_clean("first"), &spare));
}

#[test]
fn a_spare_of_the_host_that_bears_something_new_is_not_taken_and_the_next_one_is() {
    let mut world = Two::new();
    let (spoilt, good) = (world.disk("p0", DISK_MIB), world.disk("p1", DISK_MIB + 1));
    world.host.ok(&["disk", "add", &spoilt, &good]);
    // As if by somebody who doesn't ask for locks, while the daemon has it open.
    let other = world.scratch.text("other");
    disks::file(world.scratch.path(), "other", DISK_MIB);
    run("mkswap", &[&other]).ok();
    let dd = format!("of={spoilt}");
    run(
        "dd",
        &[
            &format!("if={other}"),
            &dd,
            "bs=4096",
            "count=1",
            "conv=notrunc",
        ],
    )
    .ok();
    world.host.ok(&["disk", "fail", &world.first[1], "--yes"]);
    let array = world.host.wait_clean("first");
    assert!(holds(&array, &good), "{array:#?}");
    assert!(world.has_event("HostSpareFailed"));
    let disk = world.shown(&spoilt);
    assert_eq!(disk.content, DiskContent::Foreign);
    assert!(disk.note.unwrap().contains("pool of spares"));
    let check = world.host.cairn(&["check"]).exited(1);
    assert!(check.stdout.contains(&spoilt), "{check}");
    // Its new content is nobody's but its owner's.
    world.host.ok(&["disk", "remove", &spoilt, "--yes"]);
    world.host.down();
    world.host.up();
    assert_eq!(world.shown(&spoilt).content, DiskContent::Foreign);
}

#[test]
fn a_spare_of_the_host_that_is_pulled_is_missed_and_is_back_when_it_is_connected() {
    let scratch = Scratch::new();
    let ram = scratch.ram("ram", 8 * DISK_MIB);
    let members = disks::loops(&ram, "d", 3, DISK_MIB, 512);
    let mut pulled = Pullable::make(&scratch, &ram, "p", DISK_MIB, 512);
    let host = Host::start(&scratch);
    let name = scratch.text("by-id-p");
    std::os::unix::fs::symlink(pulled.device(), &name).unwrap();
    host.create("pool", "raid5", &disks::devices(&members), &[]);
    host.ok(&["disk", "add", &name]);
    host.wait_array("pool", "a spare", |a| a.host_spares.fitting == 1);
    pulled.pull();
    std::fs::remove_file(&name).unwrap();
    host.wait_array("pool", "its loss", |a| a.host_spares.fitting == 0);
    let checks = host.cairn(&["check"]).exited(1);
    assert!(checks.stdout.contains(&name), "{checks}");
    pulled.plug();
    std::os::unix::fs::symlink(pulled.device(), &name).unwrap();
    host.wait_array("pool", "its return", |a| a.host_spares.fitting == 1);
    host.ok(&["disk", "fail", members[0].device(), "--yes"]);
    let array = host.wait_clean("pool");
    assert!(holds(&array, &name), "{array:#?}");
}

#[test]
fn a4_a_disk_of_the_pool_that_hangs_keeps_no_array_from_the_next_one() {
    let mut world = Two::new();
    io(&world.uri, &["write -P 0x41 0 16M"]);
    // The smallest that fits is taken first.
    let ram = world.scratch.ram("ram", 2 * DISK_MIB);
    let hanging = Pullable::make(&world.scratch, &ram, "h", DISK_MIB, 512);
    let first = world.scratch.text("p0");
    std::os::unix::fs::symlink(hanging.device(), &first).unwrap();
    let second = world.disk("p1", 2 * DISK_MIB);
    world.host.ok(&["disk", "add", &first, &second]);
    world.wait_offered("first");
    hanging.hang();
    world.host.ok(&["disk", "fail", &world.first[1], "--yes"]);
    let rebuilt = |array: &Array| array.state == ArrayState::Clean && holds(array, &second);
    world
        .host
        .wait_array("first", "the rebuild onto the other disk", rebuilt);
    // The array waits for nobody.
    io(&world.uri, &["read -P 0x41 0 16M"]);
    world.host.ok(&["volume", "unexport", "pg"]);
    assert!(world.has_event("HostSpareFailed"), "{:?}", world.events());
    hanging.resume();
    world.host.down();
}
