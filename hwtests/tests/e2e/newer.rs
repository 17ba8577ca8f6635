//! Newer NBD clients, which speak extended headers, and the NBD project's own test client.

use cairn_hwtests::newer::{newer, tester};
use cairn_hwtests::program::run;
use serde_json::Value;

use crate::world::World;

fn world() -> World {
    World::new("raid6", 6, 0, "512MiB")
}

/// A newer qemu-io with these commands, all of which must succeed and every pattern match.
#[track_caller]
fn io(uri: &str, commands: &[&str]) {
    let mut line = vec!["-f", "raw"];
    for command in commands {
        line.extend(["-c", command]);
    }
    line.push(uri);
    let done = newer("qemu-io", &line).ok();
    assert!(!done.stdout.contains("failed"), "{done}");
}

#[test]
fn newer_clients_agree_on_extended_headers_and_older_ones_do_without() {
    let world = world();
    let shown = newer("nbdinfo", &[&world.uri]).ok();
    shown.says(&[
        "using extended packets",
        "base:allocation",
        "qemu:allocation-depth",
        "can_fast_zero: true",
        "can_block_status_payload: false",
    ]);
    run("nbdinfo", &[&world.uri])
        .ok()
        .says(&["using structured packets"]);
}

#[test]
fn a_newer_qemu_writes_zeroes_and_maps_beyond_4_gib_in_one_request() {
    let world = world();
    let size = ["--array", "pool", "--size", "8GiB"];
    let create = [&["volume", "create", "big"], &size[..]].concat();
    world.host.ok(&create);
    let address = format!("unix:{}", world.scratch.text("big.sock"));
    world
        .host
        .ok(&["volume", "export", "big", "--nbd", &address]);
    let volume: cairn_api::Volume = world.host.json(&["volume", "show", "big"]);
    let uri = &volume.exports[0].uri;
    io(
        uri,
        &[
            "write -P 7 5G 3M",
            "read -P 7 5G 3M",
            // Fast ones, as qemu-img asks for before a conversion.
            "write -zun 0 6G",
            "read -P 0 5G 3M",
            "write -P 9 5G 3M",
        ],
    );
    let map = newer("nbdinfo", &["--map", "--json", uri]).ok();
    let extents: Vec<Value> = serde_json::from_str(&map.stdout).unwrap();
    let data: Vec<_> = extents.iter().filter(|e| e["type"] == 0).collect();
    assert_eq!(extents[0]["length"], 5u64 << 30, "{extents:?}");
    assert_eq!(data.len(), 1, "{extents:?}");
    let depth = newer("nbdinfo", &["--map=qemu:allocation-depth", uri]).ok();
    depth.says(&["absent", "local"]);
    let map = newer("qemu-img", &["map", "-f", "raw", "--output", "json", uri]).ok();
    let extents: Vec<Value> = serde_json::from_str(&map.stdout).unwrap();
    assert_eq!(extents[0]["length"], 5u64 << 30, "{extents:?}");
}

#[test]
fn newer_qemu_and_libnbd_bring_back_what_they_took() {
    let world = world();
    let (image, back) = (world.scratch.text("image"), world.scratch.text("back"));
    let make = format!(
        "dd if=/dev/urandom of={image} bs=1M count=90 status=none && \
         fallocate --punch-hole --offset 20M --length 33M {image} && truncate -s 512M {image}"
    );
    run("bash", &["-c", &make]).ok();
    let raw = ["-f", "raw", "-O", "raw"];
    let onto = [&["convert", "-n"], &raw[..], &[&image, &world.uri]].concat();
    newer("qemu-img", &onto).ok();
    newer("nbdcopy", &[&world.uri, &back]).ok();
    run("cmp", &[&image, &back]).ok();
    newer("nbdcopy", &["--flush", "--requests=64", &image, &world.uri]).ok();
    newer(
        "qemu-img",
        &["compare", "-f", "raw", "-F", "raw", &image, &world.uri],
    )
    .ok()
    .says(&["Images are identical"]);
    io(
        &world.uri,
        &[
            "write -f -P 0x3c 1M 64k",
            "read -P 0x3c 1M 64k",
            "write -z 2M 100k",
            "read -P 0 2M 100k",
            "discard 0 64M",
            "read -P 0 0 64M",
            "flush",
        ],
    );
}

#[test]
fn the_nbd_projects_own_test_client_is_content() {
    let world = world();
    let volume = |name: &str, size: &str| {
        let socket = world.scratch.text(&format!("{name}.sock"));
        world.host.volume(name, "pool", size, &socket);
        socket
    };
    let trace = |name: &str| {
        let path = cairn_hwtests::newer::clients().join("tests").join(name);
        path.to_string_lossy().into_owned()
    };
    let socket = volume("handshake", "1MiB");
    tester(&["-N", "handshake", "-u", &socket, "-h"]);
    let socket = volume("load", "16MiB");
    for mode in [&[][..], &["-w"], &["-w", "-f"]] {
        let line = [&["-N", "load", "-u", &socket], mode].concat();
        tester(&line);
    }
    // It expects zeros where it hasn't written.
    let socket = volume("integrity", "256MiB");
    let recorded = trace("integrity-test.tr");
    tester(&["-N", "integrity", "-u", &socket, "-i", "-t", &recorded]);
}
