//! Block devices of this host, as far as its kernel has them. What they promise is in `lab/ublk.sh` and
//! `lab/kernel-nbd.sh`, on a kernel that has both.

use std::path::Path;

use cairn_hwtests::disks;
use cairn_hwtests::host::Host;
use cairn_hwtests::scratch::Scratch;

use crate::world::{DISK_MIB, World};

#[test]
fn the_daemon_chooses_a_block_device_or_says_what_to_load() {
    let world = World::new("raid1", 2, 0, "64MiB");
    let host = &world.host;
    host.ok(&["volume", "unexport", "pg", "--yes"]);
    let export = ["volume", "export", "pg", "--block", "auto"];
    let answer = host.cairn(&export);
    if answer.code == Some(0) {
        // The device alone, as for scripts; asked again, the same one.
        let device = answer.stdout.trim_end().to_owned();
        let kinds = ["/dev/ublkb", "/dev/nbd"];
        assert!(kinds.iter().any(|k| device.starts_with(k)), "{answer}");
        assert_eq!(host.ok(&export).stdout.trim_end(), device);
        host.ok(&["volume", "unexport", "pg", "--yes"]);
    } else {
        let mut words = vec!["volume pg", "neither by ublk", "--nbd unix:", "next:"];
        // What isn't loaded is to be; what is has another cause, permission for one.
        let is_there = |file: &str| Path::new(file).exists();
        if !is_there("/dev/ublk-control") {
            words.push("modprobe ublk_drv");
        }
        if !is_there("/sys/module/nbd") && !is_there("/sys/block/nbd0") {
            words.push("modprobe nbd");
        }
        answer.exited(1).says(&words);
        let volume: cairn_api::Volume = host.json(&["volume", "show", "pg"]);
        assert!(volume.exports.is_empty(), "{volume:?}");
    }
    // It can be reached all the same.
    let address = format!("unix:{}", world.scratch.text("again.sock"));
    host.ok(&["volume", "export", "pg", "--nbd", &address]);
}

#[test]
fn a_volume_is_exported_one_way_at_a_time() {
    let scratch = Scratch::new();
    let host = Host::start(&scratch);
    let members = disks::texts(&disks::files(scratch.path(), "d", 2, DISK_MIB));
    host.create("pool", "raid1", &members, &[]);
    host.ok(&[
        "volume", "create", "pg", "--array", "pool", "--size", "64MiB",
    ]);
    let ways: [&[&str]; 4] = [
        &["--nbd", "tcp:127.0.0.1:10809"],
        &["--block", "auto"],
        &["--ublk"],
        &["--kernel-nbd"],
    ];
    for (at, one) in ways.iter().enumerate() {
        for other in &ways[at + 1..] {
            let line = [&["volume", "export", "pg"], *one, *other].concat();
            host.refuses(&line, 3, &[one[0], other[0]]);
        }
    }
    host.refuses(&["volume", "export", "pg"], 3, &["--nbd"]);
    let line = ["volume", "export", "pg", "--block", "md"];
    host.refuses(&line, 3, &["auto", "--ublk", "--kernel-nbd"]);
}
