//! NBD clients that others wrote, against a volume on RAID 6.

use cairn_hwtests::program::{self, run};
use serde_json::Value;

use crate::world::{World, io, qemu_io};

fn world() -> World {
    World::new("raid6", 6, 0, "512MiB")
}

#[test]
fn nbdinfo_lists_the_export_with_its_size_and_block_sizes() {
    let world = world();
    let server = format!("nbd+unix:///?socket={}", world.socket().display());
    let listed = run("nbdinfo", &["--list", "--json", &server]).ok();
    let list: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(list["exports"][0]["export-name"], "pg");
    let shown = run("nbdinfo", &["--json", &world.uri]).ok();
    let info: Value = serde_json::from_str(&shown.stdout).unwrap();
    let export = &info["exports"][0];
    assert_eq!(export["export-size"], 512u64 << 20);
    assert_eq!(export["block_size_minimum"], 512);
    assert_eq!(export["block_size_preferred"], 4096);
    assert_eq!(export["block_size_maximum"], 32u64 << 20);
    for can in [
        "can_flush",
        "can_fua",
        "can_trim",
        "can_zero",
        "can_cache",
        "can_multi_conn",
    ] {
        assert_eq!(export[can], true, "{can} in {}", listed.stdout);
    }
    assert_eq!(export["is_read_only"], false);
    assert_eq!(info["structured"], true);
}

#[test]
fn nbdinfo_maps_what_was_written_and_what_was_not() {
    let world = world();
    let map = |what: &str| -> Vec<(u64, u64, u64)> {
        let shown = run("nbdinfo", &["--map", "--json", &world.uri]).ok();
        let extents: Vec<Value> = serde_json::from_str(&shown.stdout).unwrap();
        assert!(!extents.is_empty(), "{what}");
        let number = |extent: &Value, key: &str| extent[key].as_u64().unwrap();
        extents
            .iter()
            .map(|e| (number(e, "offset"), number(e, "length"), number(e, "type")))
            .collect()
    };
    // Type 3 is hole and zero, 0 is data.
    assert_eq!(map("blank"), [(0, 512 << 20, 3)]);
    io(&world.uri, &["write -P 7 64M 16M"]);
    let after = map("written");
    let total: u64 = after.iter().map(|(_, length, _)| length).sum();
    assert_eq!(total, 512 << 20, "the map covers the export: {after:?}");
    for (offset, length, kind) in &after {
        let overlaps = offset < &(80 << 20) && offset + length > 64 << 20;
        assert_eq!(overlaps, *kind == 0, "{after:?}");
    }
    io(&world.uri, &["discard 64M 16M"]);
    assert_eq!(map("trimmed"), [(0, 512 << 20, 3)]);
}

#[test]
fn nbdcopy_brings_back_what_it_took() {
    let world = world();
    let (there, back) = (world.scratch.text("there"), world.scratch.text("back"));
    // Random data, a hole, and an end that isn't on a row's border.
    let size = "bs=1M count=150";
    let make = format!(
        "dd if=/dev/urandom of={there} {size} status=none && \
         fallocate --punch-hole --offset 20M --length 33M {there} && \
         dd if=/dev/urandom bs=512 count=3 status=none >> {there} && truncate -s 512M {there}"
    );
    run("bash", &["-c", &make]).ok();
    run("nbdcopy", &["--flush", &there, &world.uri]).ok();
    run("nbdcopy", &[&world.uri, &back]).ok();
    run("cmp", &[&there, &back]).ok();
    run(
        "nbdcopy",
        &[
            "--connections=4",
            "--requests=64",
            "--synchronous",
            &world.uri,
            "null:",
        ],
    )
    .ok();
}

#[test]
fn qemu_img_converts_onto_the_volume_and_finds_it_identical() {
    let world = world();
    let (image, back) = (
        world.scratch.text("image.qcow2"),
        world.scratch.text("back.qcow2"),
    );
    run("qemu-img", &["create", "-q", "-f", "qcow2", &image, "512M"]).ok();
    let writes = [
        "write -P 0x5a 1M 77M",
        "write -P 0xc3 300M 5M",
        "write -P 1 511M 1M",
    ];
    for write in writes {
        run("qemu-io", &["-c", write, &image]).ok();
    }
    let onto = [
        "convert", "-n", "-f", "qcow2", "-O", "raw", &image, &world.uri,
    ];
    run("qemu-img", &onto).ok();
    run(
        "qemu-img",
        &["compare", "-f", "qcow2", "-F", "raw", &image, &world.uri],
    )
    .ok()
    .says(&["Images are identical"]);
    run(
        "qemu-img",
        &["convert", "-f", "raw", "-O", "qcow2", &world.uri, &back],
    )
    .ok();
    run("qemu-img", &["compare", &image, &back]).ok();
    run("qemu-img", &["map", "-f", "raw", &world.uri]).ok();
}

#[test]
fn qemu_io_patterns_zeroes_discards_and_fua_read_back_right() {
    let world = world();
    let io = |commands: &[&str]| io(&world.uri, commands);
    io(&["write -P 0xa5 0 4M", "read -P 0xa5 0 4M"]);
    io(&[
        "write -f -P 0x3c 1M 64k",
        "read -P 0x3c 1M 64k",
        "read -P 0xa5 1088k 64k",
    ]);
    io(&[
        "write -z 2M 100k",
        "read -P 0 2M 100k",
        "read -P 0xa5 2148k 4k",
    ]);
    io(&["write -z -u 3M 512k", "read -P 0 3M 512k"]);
    io(&["discard 0 512k", "read -P 0 0 512k", "read -P 0xa5 512k 4k"]);
    // Below the block, and across borders of chunks and rows.
    io(&[
        "write -P 0x11 512 512",
        "read -P 0x11 512 512",
        "read -P 0 0 512",
        "read -P 0 1024 512",
    ]);
    io(&[
        "write -P 0x22 1048064 1024",
        "read -P 0x22 1048064 1024",
        "read -P 0x3c 1049088 512",
    ]);
    io(&[
        "write -P 0x77 255k 1537k",
        "flush",
        "read -P 0x77 255k 1537k",
    ]);
    io(&[
        "aio_write -P 0x99 8M 1M",
        "aio_write -P 0x98 9M 1M",
        "aio_flush",
        "read -P 0x99 8M 1M",
    ]);
}

#[test]
fn fio_verifies_random_writes_of_all_sizes_at_depth_32() {
    let world = world();
    let uri = format!("--uri={}", world.uri);
    let job = |name: &str, further: &[&str]| {
        let name = format!("--name={name}");
        let mut line = vec![
            &name,
            "--ioengine=nbd",
            &uri,
            "--size=128m",
            "--iodepth=32",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--do_verify=1",
            "--randrepeat=1",
        ];
        line.extend(further);
        let scratch = world.scratch.path();
        let mut command = program::command("fio", &line);
        // It leaves a state file where it runs.
        command.current_dir(scratch);
        program::finish(command).ok().says(&["err= 0"]);
    };
    job(
        "mixed",
        &[
            "--rw=randwrite",
            "--bsrange=512-256k",
            "--bs_unaligned=0",
            "--blockalign=512",
        ],
    );
    job("small", &["--rw=randwrite", "--bs=4k", "--size=32m"]);
    job("large", &["--rw=write", "--bs=1m", "--offset=128m"]);
}

#[test]
fn no_abuse_of_the_protocol_harms_the_server_or_the_data() {
    let world = world();
    let socket = world.socket().to_string_lossy().into_owned();
    let pid = world.host.pid().to_string();
    let script = program::lab("nbd-abuse.py");
    run("/usr/bin/python3", &[&script, &socket, "pg", &pid])
        .ok()
        .says(&["1000 connections", "the data unchanged"]);
    assert_eq!(world.array().redundancy_left, 2);
}

#[test]
fn a_read_only_export_refuses_writes_and_a_loopback_port_serves() {
    let world = world();
    world.host.ok(&[
        "volume", "create", "ro", "--array", "pool", "--size", "64MiB",
    ]);
    let address = format!("unix:{}", world.scratch.text("ro.sock"));
    world
        .host
        .ok(&["volume", "export", "ro", "--nbd", &address, "--read-only"]);
    let volume: cairn_api::Volume = world.host.json(&["volume", "show", "ro"]);
    let uri = &volume.exports[0].uri;
    run("nbdinfo", &["--is", "read-only", uri]).ok();
    let refused = qemu_io(uri, &["write 0 4k"]);
    assert_ne!(refused.code, Some(0), "{refused}");
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let address = format!("tcp:127.0.0.1:{port}");
    world
        .host
        .ok(&["volume", "export", "pg", "--nbd", &address]);
    run(
        "nbdinfo",
        &["--size", &format!("nbd://127.0.0.1:{port}/pg")],
    )
    .ok()
    .says(&["536870912"]);
}
