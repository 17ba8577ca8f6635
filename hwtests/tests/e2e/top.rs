//! What the daemon does at the moment: `cairn top`, also while it hangs, and `/metrics`.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use cairn_hwtests::acked::Ledger;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::world::{World, io};

fn lines<'a>(top: &'a Value, what: &'a str) -> impl Iterator<Item = &'a Value> {
    let lines = top["lines"].as_array().unwrap().iter();
    lines.filter(move |line| line["what"] == what)
}

#[test]
fn top_shows_what_arrays_volumes_and_disks_do() {
    let mut world = World::new("raid6", 6, 1, "256MiB");
    let socket = world.scratch.join("pg.sock");
    let writers = Ledger::new(81, 64 << 20).write(&socket, "pg");
    writers.progress(100);
    let top: Value = world.host.json(&["top", "--interval", "3s"]);
    writers.progress(50);
    drop(writers.finish());
    let volume = lines(&top, "volume").next().unwrap();
    assert!(
        volume["writes"]["per_second"].as_u64().unwrap() > 0,
        "{top}"
    );
    assert!(volume["writes"]["mean_us"].as_u64().unwrap() > 0, "{top}");
    let array = lines(&top, "array").next().unwrap();
    assert!(array["cpu_us_per_request"].as_u64().unwrap() > 0, "{top}");
    assert_eq!(array["writes"], volume["writes"], "{top}");
    assert_eq!(lines(&top, "disk").count(), 7, "{top}");
    let written = |line: &Value| line["writes"]["bytes_per_second"].as_u64().unwrap() > 0;
    let mut members = lines(&top, "disk").filter(|line| line["state"] == "in_sync");
    assert!(members.all(written), "{top}");
    let table = world.host.ok(&["top", "--interval", "1s"]);
    for word in ["volume", "pg", "in_sync", "CPU US"] {
        assert!(table.stdout.contains(word), "{word} isn't shown: {table}");
    }
    world
        .host
        .refuses(&["top", "--interval", "10ms"], 3, &["once a second"]);
    world.host.down();
    // No daemon, no page.
    let gone = world.host.cairn(&["top"]);
    gone.exited(4).says(&["statistics page"]);
    world.host.up();
    world.host.ok(&["top", "--interval", "1s"]);
}

#[test]
fn top_answers_while_the_daemon_hangs_and_says_so() {
    let mut world = World::new("raid5", 3, 0, "128MiB");
    world.host.ok(&["top", "--interval", "1s"]);
    let pid = Pid::from_raw(i32::try_from(world.host.pid()).unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    let shown = world.host.ok(&["top", "--interval", "6s"]);
    kill(pid, Signal::SIGCONT).unwrap();
    assert!(shown.stdout.contains("pool"), "{shown}");
    assert!(shown.stderr.contains("hasn't written"), "{shown}");
    world.host.down();
}

#[test]
fn metrics_are_what_prometheus_reads() {
    let mut world = World::new("raid5", 3, 0, "128MiB");
    io(
        &world.uri,
        &["write -P 0x11 0 4M", "flush", "read -P 0x11 0 4M"],
    );
    let count = |text: &str, name: &str| -> Option<u64> {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.rsplit(' ').next()?.parse().ok()
    };
    let written = r#"cairn_volume_bytes_total{array="pool",volume="pg",op="write"}"#;
    let version: Value = world.host.json(&["version"]);
    let socket = version["socket"].as_str().unwrap().to_owned();
    let text = cairn_hwtests::wait::until("the counts", || {
        let mut stream = UnixStream::connect(&socket).unwrap();
        let ask = "GET /metrics HTTP/1.1\r\nHost: cairn\r\nConnection: close\r\n\r\n";
        stream.write_all(ask.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        match count(&text, written) {
            Some(bytes) if bytes >= 4 << 20 => Ok(text),
            _ => Err(text),
        }
    });
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(
        text.contains("content-type: application/openmetrics-text"),
        "{text}"
    );
    assert!(
        text.contains(r#"cairn_array_state{array="pool",state="clean"} 1"#),
        "{text}"
    );
    let disk = format!(
        r#"cairn_disk_requests_total{{array="pool",disk="{}""#,
        world.disks[0]
    );
    assert!(count(&text, &disk).is_some(), "{text}");
    world.host.down();
}
