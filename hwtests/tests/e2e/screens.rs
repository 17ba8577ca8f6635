//! What the tool shows, for people and for programs, and with which exit code.

use cairn_api::{ArrayFlag, Df, DfKind, EventPage, Status};
use cairn_hwtests::disks;
use cairn_hwtests::host::Host;
use cairn_hwtests::program::run_with_input;
use cairn_hwtests::scratch::Scratch;
use serde_json::Value;

use crate::world::{DISK_MIB, World, create_line};

#[test]
fn df_begins_with_the_columns_of_gp_disk_free_and_counts_in_kib() {
    let world = World::new("raid6", 6, 0, "512MiB");
    let csv = world.host.ok(&["-o", "csv", "df"]);
    let mut lines = csv.stdout.lines();
    assert!(
        lines
            .next()
            .unwrap()
            .starts_with("dfsegment,dfhostname,dfdevice,dfspace,"),
        "{csv}"
    );
    let df: Df = world.host.json(&["df"]);
    let array = world.array();
    let row = &df.rows[0];
    assert_eq!(
        (row.kind, row.dfdevice.as_str(), row.dfsegment),
        (DfKind::Array, "pool", -1)
    );
    assert_eq!(row.dfspace, array.space.free_bytes / 1024);
    let first = lines.next().unwrap();
    assert!(
        first.starts_with(&format!("-1,{},pool,{},", row.dfhostname, row.dfspace)),
        "{first}"
    );
    let root = df.rows.iter().find(|row| row.mount.as_deref() == Some("/"));
    let root = root.expect("a row for the root file system");
    assert_eq!(root.kind, DfKind::Filesystem);
    // Against df's own word; others write meanwhile.
    let other = cairn_hwtests::program::run("df", &["-k", "--output=size", "/"]).ok();
    let size: u64 = other.stdout.lines().nth(1).unwrap().trim().parse().unwrap();
    assert_eq!(root.size_kib, size);
    let table = world.host.ok(&["df"]);
    assert!(table.stdout.starts_with("dfsegment"), "{table}");
}

#[test]
fn status_shows_verdict_arrays_disks_volumes_and_exports_on_one_screen() {
    let world = World::new("raid6", 6, 1, "512MiB");
    let screen = world.host.ok(&["status"]);
    for word in ["pool", "raid6", "clean", "pg", "pg.sock"] {
        assert!(screen.stdout.contains(word), "{word} isn't shown: {screen}");
    }
    assert!(
        !screen.stdout.contains('\u{1b}'),
        "colour where nobody looks: {screen}"
    );
    assert!(
        screen.stdout.lines().count() <= 60,
        "more than a screen: {screen}"
    );
    let status: Status = world.host.json(&["status"]);
    assert_eq!(status.arrays.len(), 1);
    assert_eq!(status.volumes.len(), 1);
    assert_eq!(status.exports.len(), 1);
    assert_eq!(
        status
            .disks
            .iter()
            .filter(|disk| disk.array.is_some())
            .count(),
        7
    );
    assert_eq!(status.daemon.pid, world.host.pid());
}

#[test]
fn check_exits_0_when_all_is_well_1_on_a_warning_and_2_on_an_error() {
    let world = World::new("raid6", 4, 0, "64MiB");
    world.host.cairn(&["check"]).exited(0);
    world.host.ok(&["disk", "fail", &world.disks[0]]);
    world
        .host
        .cairn(&["check"])
        .exited(1)
        .says(&["ARRAY_DEGRADED", "DISK_FAILED", "pool"]);
    let csv = world.host.cairn(&["-o", "csv", "check"]).exited(1);
    assert!(
        csv.stdout.starts_with("severity,code,subject,message,hint"),
        "{csv}"
    );
    // 2: labels::too_many_members…, space::d11….
}

#[test]
fn array_show_has_what_programs_were_promised() {
    let world = World::new("raid6", 6, 1, "64MiB");
    let shown = world.host.ok(&["-o", "json", "array", "show", "pool"]);
    let array: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(array["schema"], 1);
    assert_eq!(array["name"], "pool");
    assert_eq!(array["level"], "raid6");
    assert_eq!(array["chunk_bytes"], 65536);
    assert_eq!(array["state"], "clean");
    assert_eq!(array["redundancy_left"], 2);
    assert!(array["size_bytes"].as_u64().unwrap() > 0);
    assert_eq!(array["uuid"].as_str().unwrap().len(), 36);
    let members = array["members"].as_array().unwrap();
    assert_eq!(members.len(), 6);
    for (slot, member) in members.iter().enumerate() {
        assert_eq!(member["path"], world.disks[slot]);
        assert_eq!(member["slot"], slot);
        assert_eq!(member["state"], "in_sync");
        assert_eq!(member["errors"]["read"], 0);
    }
    for key in ["action", "done_bytes", "total_bytes", "eta_seconds"] {
        assert!(array["sync"].get(key).is_some(), "sync.{key} in {shown}");
    }
    assert_eq!(array["flags"], Value::Array(Vec::new()), "{shown}");
    assert_eq!(array["bad_blocks"], Value::Array(Vec::new()), "{shown}");
}

#[test]
fn an_array_without_checksums_says_so_wherever_it_is_shown() {
    let scratch = Scratch::new();
    let paths = disks::texts(&disks::files(scratch.path(), "d", 3, DISK_MIB));
    let host = Host::start(&scratch);
    let line = create_line("pool", "raid5", &paths, &["--integrity", "none"]);
    host.ok(&line).says(&["without checksums"]);
    let array = host.array("pool");
    assert!(array.flags.contains(&ArrayFlag::NoIntegrity), "{array:#?}");
    host.ok(&["array", "show", "pool"]).says(&["no_integrity"]);
}

#[test]
fn what_is_printed_for_a_shell_can_be_evaluated() {
    let world = World::new("raid5", 3, 0, "64MiB");
    let pairs = world.host.ok(&["-o", "export", "array", "show", "pool"]);
    let script = format!("{}\nprintf '%s %s' \"$NAME\" \"$STATE\"\n", pairs.stdout);
    let said = run_with_input("sh", &["-eu"], script.as_bytes()).ok();
    assert_eq!(said.stdout, "pool clean");
}

#[test]
fn every_noun_lists_in_every_format() {
    let world = World::new("raid5", 3, 1, "64MiB");
    for noun in [
        &["array", "list"][..],
        &["array", "show", "pool"],
        &["disk", "list"],
        &["disk", "show", &world.disks[0]],
        &["volume", "list"],
        &["volume", "show", "pg"],
        &["status"],
        &["df"],
        &["events"],
        &["version"],
    ] {
        for format in ["table", "json", "csv", "export"] {
            let mut line = vec!["-o", format];
            line.extend(noun);
            let shown = world.host.ok(&line);
            assert!(!shown.stdout.is_empty(), "{shown}");
            if format == "json" {
                let value: Value = serde_json::from_str(&shown.stdout).unwrap();
                assert_eq!(value["schema"], 1, "{shown}");
            }
        }
    }
}

#[test]
fn events_have_mdadms_names_and_outlive_the_daemon() {
    let mut world = World::new("raid6", 6, 1, "64MiB");
    world.host.ok(&["disk", "fail", &world.disks[2]]);
    world.host.wait_clean("pool");
    let before: EventPage = world.host.json(&["events", "-n", "1000"]);
    world.host.kill();
    world.host.up();
    let after: EventPage = world.host.json(&["events", "-n", "1000"]);
    assert!(
        after.events.len() > before.events.len(),
        "a start is an event"
    );
    for (old, new) in before.events.iter().zip(&after.events) {
        assert_eq!((old.id, &old.kind), (new.id, &new.kind));
    }
    let position = |kind: &str| {
        let mut kinds = after.events.iter().map(|event| event.kind.as_str());
        kinds
            .position(|seen| seen == kind)
            .unwrap_or_else(|| panic!("no {kind}: {after:#?}"))
    };
    assert!(position("NewArray") < position("Fail"));
    assert!(position("Fail") < position("RebuildStarted"));
    assert!(position("RebuildStarted") < position("RebuildFinished"));
    assert!(position("RebuildStarted") < position("SpareActive"));
    let fail = &after.events[position("Fail")];
    assert_eq!(fail.array.as_deref(), Some("pool"));
    assert_eq!(fail.disk.as_deref(), Some(world.disks[2].as_str()));
}
