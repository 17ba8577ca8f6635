//! Wrong input: a clear error that names the thing and the next step, the right exit code, and
//! nothing lost. What concerns disks is in `disk_refusals`.

use cairn_api::MemberState;
use cairn_hwtests::disks;
use cairn_hwtests::host::Host;
use cairn_hwtests::program::{self, run};
use cairn_hwtests::scratch::Scratch;

use crate::world::{DISK_MIB, World, create_line, io};

#[test]
fn without_a_daemon_the_tool_names_the_socket_and_how_to_start_one() {
    let scratch = Scratch::new();
    let socket = scratch.text("state/cairnd.sock");
    let mut command = program::command(program::binary("cairn"), &["status"]);
    command.env("CAIRN_SOCKET", &socket);
    program::finish(command)
        .exited(4)
        .says(&[&socket, "next:", "cairnd"]);
    let mut host = Host::start(&scratch);
    host.down();
    let silent = host.cairn(&["-o", "json", "array", "list"]).exited(4);
    let error: serde_json::Value = serde_json::from_str(&silent.stderr).unwrap();
    assert_eq!(error["error"]["code"], "unreachable");
}

#[test]
fn a_second_daemon_on_the_same_state_directory_is_refused_and_the_first_goes_on() {
    let world = World::new("raid5", 3, 0, "64MiB");
    let line = ["--state-dir".as_ref(), world.host.state_dir().as_os_str()];
    let second = program::finish(program::command(program::binary("cairnd"), &line));
    let pid = world.host.pid().to_string();
    second.exited(1).says(&[&pid, "--state-dir"]);
    run("nbdinfo", &["--size", &world.uri]).ok();
}

#[test]
fn a_level_wants_its_number_of_disks() {
    let scratch = Scratch::new();
    let paths = disks::texts(&disks::files(scratch.path(), "d", 3, DISK_MIB));
    let host = Host::start(&scratch);
    for (level, few, least) in [("raid1", 1, "2"), ("raid5", 2, "3"), ("raid6", 3, "4")] {
        let line = create_line("pool", level, &paths[..few], &[]);
        host.refuses(&line, 3, &[level, least]);
    }
    host.refuses(
        &create_line("pool", "raid7", &paths, &[]),
        3,
        &["raid7", "raid5"],
    );
}

#[test]
fn a_chunk_is_a_power_of_two_within_bounds() {
    let scratch = Scratch::new();
    let paths = disks::texts(&disks::files(scratch.path(), "d", 3, DISK_MIB));
    let host = Host::start(&scratch);
    for chunk in ["48KiB", "2KiB", "1GiB", "0", "64KB", "many"] {
        host.refuses(
            &create_line("pool", "raid5", &paths, &["--chunk", chunk]),
            3,
            &[],
        );
    }
    host.refuses(
        &create_line("pool", "raid5", &paths, &["--chunk", "48KiB"]),
        3,
        &["power of two"],
    );
    host.ok(&create_line(
        "pool",
        "raid5",
        &paths,
        &["--chunk", "128KiB"],
    ));
    assert_eq!(host.array("pool").chunk_bytes, 128 << 10);
}

#[test]
fn names_are_taken_once_and_unknown_ones_are_named() {
    let world = World::new("raid5", 3, 0, "64MiB");
    let host = &world.host;
    let more = disks::texts(&disks::files(world.scratch.path(), "m", 3, DISK_MIB));
    host.refuses(
        &create_line("pool", "raid5", &more, &[]),
        1,
        &["pool", "next:", "another name"],
    );
    let volume = [
        "volume", "create", "pg", "--array", "pool", "--size", "64MiB",
    ];
    host.refuses(&volume, 1, &["pg", "name"]);
    host.refuses(&["array", "show", "nope"], 1, &["nope", "cairn array list"]);
    host.refuses(
        &["array", "stop", "nope", "--yes"],
        1,
        &["nope", "cairn array list"],
    );
    host.refuses(
        &["volume", "show", "nope"],
        1,
        &["nope", "cairn volume list"],
    );
    let stray = [
        "volume", "create", "x", "--array", "nope", "--size", "64MiB",
    ];
    host.refuses(&stray, 1, &["nope", "cairn array list"]);
    host.refuses(
        &["disk", "fail", "/no/such/disk"],
        1,
        &["/no/such/disk", "cairn disk list"],
    );
    host.refuses(&["disk", "show", "/no/such/disk"], 1, &["/no/such/disk"]);
    host.refuses(
        &[
            "volume", "create", "a/b", "--array", "pool", "--size", "1MiB",
        ],
        3,
        &["a/b"],
    );
    host.refuses(&["array", "list", "--frobnicate"], 3, &["--frobnicate"]);
}

#[test]
fn o1_the_last_redundancy_goes_only_with_consent_and_the_last_copy_never() {
    let world = World::new("raid6", 4, 0, "64MiB");
    let host = &world.host;
    io(&world.uri, &["write -P 5 0 8M"]);
    let dry = host.ok(&["disk", "fail", &world.disks[0], "--dry-run"]);
    assert!(dry.stderr.contains("redundancy left: 1"), "{dry}");
    assert_eq!(world.array().redundancy_left, 2, "a dry run does nothing");
    host.ok(&["disk", "fail", &world.disks[0]]);
    host.refuses(
        &["disk", "fail", &world.disks[1]],
        3,
        &[&world.disks[1], "--yes"],
    );
    assert_eq!(world.array().redundancy_left, 1);
    host.ok(&["disk", "fail", &world.disks[1], "--yes"]);
    assert_eq!(world.array().redundancy_left, 0);
    host.refuses(
        &["disk", "fail", &world.disks[2], "--yes"],
        1,
        &[&world.disks[2], "spare"],
    );
    let array = world.array();
    assert_eq!(array.members[2].state, MemberState::InSync);
    io(&world.uri, &["read -P 5 0 8M"]);
    host.refuses(&["disk", "remove", &world.disks[2]], 1, &[&world.disks[2]]);
}

#[test]
fn what_is_exported_is_neither_deleted_nor_destroyed() {
    let world = World::new("raid5", 3, 0, "64MiB");
    let host = &world.host;
    host.refuses(
        &["array", "destroy", "pool", "--yes"],
        1,
        &["pg", "volume unexport pg"],
    );
    host.refuses(&["volume", "delete", "pg", "--yes"], 1, &["pg", "unexport"]);
    run("nbdinfo", &["--size", &world.uri]).ok();
    host.ok(&["volume", "unexport", "pg"]);
    host.refuses(&["volume", "delete", "pg"], 3, &["pg", "--yes"]);
    host.refuses(&["array", "destroy", "pool"], 3, &["pool", "--yes"]);
    host.ok(&["array", "destroy", "pool", "--yes"]);
    host.refuses(&["array", "show", "pool"], 1, &["pool"]);
    // Its disks are blank again.
    host.create("pool", "raid5", &world.disks, &[]);
}

#[test]
fn an_export_is_refused_where_it_can_not_or_should_not_listen() {
    let world = World::new("raid5", 3, 0, "64MiB");
    let host = &world.host;
    host.ok(&[
        "volume", "create", "other", "--array", "pool", "--size", "64MiB",
    ]);
    let refuses = |address: &str, code: i32, words: &[&str]| {
        host.refuses(
            &["volume", "export", "other", "--nbd", address],
            code,
            words,
        );
    };
    let long = format!("unix:{}", world.scratch.text(&"x".repeat(110)));
    refuses(&long, 3, &["107"]);
    let taken = format!("unix:{}", world.socket().display());
    refuses(&taken, 1, &["pg.sock", "volume pg"]);
    let admin = format!("unix:{}", host.state_dir().join("cairnd.sock").display());
    refuses(&admin, 1, &["cairnd.sock", "in use"]);
    let nowhere = format!("unix:{}", world.scratch.text("no/such/dir.sock"));
    refuses(&nowhere, 1, &["no/such"]);
    let file = format!("unix:{}", world.disks[0]);
    refuses(&file, 1, &["socket"]);
    refuses("tcp:0.0.0.0:10809", 1, &["0.0.0.0", "TLS"]);
    refuses("tcp:nowhere", 3, &["nowhere"]);
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    refuses(
        &format!("tcp:{}", busy.local_addr().unwrap()),
        1,
        &["in use"],
    );
    assert!(
        std::fs::metadata(&world.disks[0]).unwrap().len() == DISK_MIB << 20,
        "nothing lost"
    );
    run("nbdinfo", &["--size", &world.uri]).ok();
}

#[test]
fn o5_a_bad_configuration_is_refused_with_line_and_column() {
    let scratch = Scratch::new();
    for (text, words) in [
        (
            "degraded_wait_second = 3\n",
            &["bad.toml:1:1", "degraded_wait_second"][..],
        ),
        (
            "\n\ndegraded_wait_seconds = 99999\n",
            &["bad.toml:3:25", "3600"],
        ),
        ("state_dir = 'relative'\n", &["bad.toml:1:13", "relative"]),
        ("[nbd\n", &["bad.toml:1:"]),
    ] {
        std::fs::write(scratch.join("bad.toml"), text).unwrap();
        let file = scratch.text("bad.toml");
        let line = ["--config", &file];
        program::finish(program::command(program::binary("cairnd"), &line))
            .exited(1)
            .says(words);
    }
    let long = scratch.text(&"d".repeat(120));
    let line = ["--state-dir", &long];
    program::finish(program::command(program::binary("cairnd"), &line))
        .exited(1)
        .says(&["107"]);
}

#[test]
fn a_volume_needs_a_size_that_can_be() {
    let world = World::new("raid5", 3, 0, "64MiB");
    let host = &world.host;
    let create = |size: &'static str| ["volume", "create", "v", "--array", "pool", "--size", size];
    host.refuses(&create("0"), 3, &["zero"]);
    host.refuses(&create("1000"), 3, &["1000"]);
    host.refuses(&create("lots"), 3, &["lots"]);
    host.refuses(&["volume", "resize", "pg", "--size", "1001"], 3, &["1001"]);
}
