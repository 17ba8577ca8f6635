//! The tool as a process: exit codes, and which stream says what.

use std::process::{Command, Output, Stdio};

/// Runs `cairn` without a daemon and without a terminal.
fn cairn(args: &[&str]) -> std::io::Result<Output> {
    Command::new(env!("CARGO_BIN_EXE_cairn"))
        .args(args)
        .env("CAIRN_SOCKET", "/no/such/dir/cairnd.sock")
        .stdin(Stdio::null())
        .output()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn help_and_version_are_answers() {
    for args in [&["--help"][..], &["array", "create", "--help"], &["-V"]] {
        let output = cairn(args).unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(!output.stdout.is_empty(), "{args:?}");
        assert!(output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn a_usage_error_exits_3_and_says_so_on_stderr() {
    for args in [
        &[][..],
        &["array"],
        &["no-such-noun"],
        &["volume", "create", "pg", "--array", "pool", "--size", "8GB"],
        &[
            "array", "create", "p", "--level", "raid1", "--disks", "a", "b", "--wipe", "c",
        ],
    ] {
        let output = cairn(args).unwrap();
        assert_eq!(output.status.code(), Some(3), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}");
        assert!(!output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn without_a_daemon_it_exits_4_and_names_the_socket_and_the_next_step() {
    let output = cairn(&["status"]).unwrap();
    assert_eq!(output.status.code(), Some(4));
    assert!(output.stdout.is_empty());
    let said = text(&output.stderr);
    for part in [
        "/no/such/dir/cairnd.sock",
        "next: ",
        "systemctl start cairnd",
    ] {
        assert!(said.contains(part), "{part:?} is missing in {said}");
    }
}

#[test]
fn under_json_an_error_is_json() {
    let output = cairn(&["-o", "json", "df"]).unwrap();
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["schema"], 1);
    assert_eq!(error["error"]["code"], "unreachable");
}

#[test]
fn a_reader_that_went_away_is_no_panic() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_cairn"))
        .args(["array", "create", "--help"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}
