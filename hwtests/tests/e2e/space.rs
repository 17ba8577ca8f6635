//! Thin space: more promised than there is, full, given back, and still right.

use cairn_api::{Array, ArrayState};
use cairn_hwtests::disks;
use cairn_hwtests::host::Host;
use cairn_hwtests::scratch::Scratch;

use crate::world::{DISK_MIB, io, qemu_io};

struct Full {
    host: Host,
    uri: String,
    array: Array,
    scratch: Scratch,
}

/// A RAID 6 of four, overcommitted, and written until it says that it is full.
fn fill() -> Full {
    let scratch = Scratch::new();
    let members = disks::texts(&disks::files(scratch.path(), "d", 4, DISK_MIB));
    let spares = disks::texts(&disks::files(scratch.path(), "s", 1, DISK_MIB));
    let host = Host::start(&scratch);
    host.create("pool", "raid6", &members, &spares);
    host.ok(&[
        "volume", "create", "small", "--array", "pool", "--size", "64MiB",
    ]);
    let made = host.ok(&[
        "volume", "create", "large", "--array", "pool", "--size", "4GiB",
    ]);
    assert!(
        made.stderr.contains("warning:") && made.stderr.contains("overcommitted"),
        "{made}"
    );
    let address = format!("unix:{}", scratch.text("pg.sock"));
    host.ok(&["volume", "export", "large", "--nbd", &address]);
    let volume: cairn_api::Volume = host.json(&["volume", "show", "large"]);
    let uri = volume.exports[0].uri.clone();
    let mib = host.array("pool").size_bytes >> 20;
    io(&uri, &[&format!("write -P 0x31 0 {mib}M"), "flush"]);
    let array = host.array("pool");
    assert_eq!(array.space.free_bytes, 0, "{array:#?}");
    Full {
        host,
        uri,
        array,
        scratch,
    }
}

#[test]
fn d11_a_full_array_says_no_space_goes_on_reading_and_takes_writes_again_after_a_trim() {
    let full = fill();
    let mib = full.array.size_bytes >> 20;
    let beyond = qemu_io(&full.uri, &[&format!("write {mib}M 1M")]);
    assert!(
        beyond.stdout.contains("No space left") || beyond.stderr.contains("No space left"),
        "{beyond}"
    );
    io(
        &full.uri,
        &[
            "write -P 0x32 5M 1M",
            "read -P 0x32 5M 1M",
            "read -P 0x31 6M 1M",
        ],
    );
    full.host
        .cairn(&["check"])
        .exited(2)
        .says(&["SPACE_FULL", "pool"]);
    let health = full.host.health();
    assert!(
        health.checks.iter().all(|check| !check.hint.is_empty()),
        "{health:#?}"
    );
    // Whole extents come back.
    io(&full.uri, &["discard 0 128M", "flush"]);
    let after = full.host.array("pool");
    assert!(
        after.space.free_bytes >= after.space.extent_bytes,
        "{after:#?}"
    );
    io(
        &full.uri,
        &[
            &format!("write -P 0x33 {mib}M 1M"),
            &format!("read -P 0x33 {mib}M 1M"),
        ],
    );
    // What was given back reads as zeros, also where its extent serves somebody else now.
    io(
        &full.uri,
        &["read -P 0 0 128M", &format!("read -P 0 {}M 1M", mib + 1)],
    );
}

#[test]
fn d11_a_full_array_rebuilds_and_a_deleted_volume_gives_its_space_back() {
    let mut full = fill();
    let disk = full.scratch.text("d1");
    full.host.ok(&["disk", "fail", &disk]);
    let array = full.host.wait_clean("pool");
    assert_eq!((array.state, array.redundancy_left), (ArrayState::Clean, 2));
    let mib = full.array.size_bytes >> 20;
    io(&full.uri, &[&format!("read -P 0x31 0 {mib}M")]);
    full.host.ok(&["volume", "unexport", "large"]);
    full.host.ok(&["volume", "delete", "large", "--yes"]);
    let array = full.host.array("pool");
    assert_eq!(array.space.allocated_bytes, 0, "{array:#?}");
    full.host.kill();
    full.host.up();
    assert_eq!(
        full.host.array("pool").space.allocated_bytes,
        0,
        "it stays so over a crash"
    );
    // A9: nothing of the deleted volume shows through in a new one.
    let uri = full
        .host
        .volume("new", "pool", "128MiB", &full.scratch.text("new.sock"));
    io(
        &uri,
        &["write -P 9 1M 4k", "read -P 0 0 1M", "read -P 0 1028k 63M"],
    );
}

#[test]
fn a_resized_volume_keeps_its_data_and_never_shrinks() {
    let scratch = Scratch::new();
    let members = disks::texts(&disks::files(scratch.path(), "d", 3, DISK_MIB));
    let mut host = Host::start(&scratch);
    host.create("pool", "raid5", &members, &[]);
    let uri = host.volume("pg", "pool", "64MiB", &scratch.text("pg.sock"));
    io(&uri, &["write -P 7 63M 1M"]);
    host.ok(&["volume", "resize", "pg", "--size", "128MiB"]);
    io(
        &uri,
        &[
            "read -P 7 63M 1M",
            "read -P 0 64M 64M",
            "write -P 8 127M 1M",
        ],
    );
    let shrink = ["volume", "resize", "pg", "--size", "64MiB"];
    host.refuses(&shrink, 1, &["pg", "volume unexport pg"]);
    host.down();
    host.up();
    io(&uri, &["read -P 7 63M 1M", "read -P 8 127M 1M"]);
    host.ok(&["volume", "unexport", "pg"]);
    // What it would cut off is never lost: there is no consent to that.
    host.refuses(&shrink, 3, &["pg", "shrink"]);
    host.refuses(&[&shrink[..], &["--yes"]].concat(), 3, &["pg", "shrink"]);
    let volume: cairn_api::Volume = host.json(&["volume", "show", "pg"]);
    assert_eq!(volume.size_bytes, 128 << 20);
}
