//! Starting and stopping the binary: what is refused, and in which words.

use crate::common::{Daemon, TempDir, command, output};
use cairn_api::{EventPage, Health, HealthLevel, Status, Version, routes};

fn stderr(arguments: &[&str]) -> (Option<i32>, String) {
    let output = output(arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), text)
}

#[test]
fn a_second_daemon_on_the_same_state_directory_is_refused_and_the_first_goes_on() {
    let dir = TempDir::new();
    let first = Daemon::start(dir.path());
    let (code, text) = stderr(&["--state-dir", dir.path().to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(text.contains(&format!("(pid {})", first.pid())), "{text}");
    assert!(text.contains("--state-dir"), "the next step: {text}");
    let version: Version = first.get(routes::VERSION, "");
    assert_eq!(version.pid, first.pid());
}

#[test]
fn a_bad_configuration_is_refused_with_its_line_and_column() {
    let dir = TempDir::new();
    let file = dir.join("cairnd.toml");
    std::fs::write(&file, "# ours\ndegraded_wait_second = 3\n").unwrap();
    let file = file.to_str().unwrap();
    for arguments in [
        &["--config", file][..],
        &["--config", file, "--check-config"],
    ] {
        let (code, text) = stderr(arguments);
        assert_eq!(code, Some(1));
        assert!(text.contains("cairnd.toml:2:1: unknown field"), "{text}");
    }
}

#[test]
fn a_good_configuration_is_checked_without_starting_anything() {
    let dir = TempDir::new();
    let state = dir.join("state");
    let file = dir.join("cairnd.toml");
    std::fs::write(&file, format!("state_dir = '{}'\n", state.display())).unwrap();
    let checked = output(&["--config", file.to_str().unwrap(), "--check-config"]);
    assert!(checked.status.success());
    assert!(!state.exists());
}

#[test]
fn a_socket_path_too_long_is_refused_before_anything_is_made() {
    let dir = TempDir::new();
    let state = dir.join(&"d".repeat(120));
    let (code, text) = stderr(&["--state-dir", state.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(text.contains("at most 107"), "{text}");
    assert!(!state.exists());
}

#[test]
fn a_file_where_the_socket_should_be_is_never_removed() {
    let dir = TempDir::new();
    std::fs::write(dir.join("cairnd.sock"), "mine").unwrap();
    let (code, text) = stderr(&["--state-dir", dir.path().to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(text.contains("is no socket"), "{text}");
    assert_eq!(std::fs::read(dir.join("cairnd.sock")).unwrap(), b"mine");
}

#[test]
fn a_damaged_metadata_store_is_named_with_what_to_do() {
    let dir = TempDir::new();
    std::fs::write(dir.join("meta.redb"), [0x55; 9000]).unwrap();
    let (code, text) = stderr(&["--state-dir", dir.path().to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(
        text.contains("meta.redb") && text.contains("move the file away"),
        "{text}"
    );
}

#[test]
fn a_daemon_that_was_killed_leaves_nothing_in_the_way_of_the_next() {
    let dir = TempDir::new();
    Daemon::start(dir.path()).kill();
    assert!(dir.join("cairnd.sock").exists(), "its socket's file stays");
    let next = Daemon::start(dir.path());
    let health: Health = next.get(routes::HEALTH, "");
    assert_ne!(health.level, HealthLevel::Err);
}

#[test]
fn a_stop_is_clean_and_leaves_no_socket_behind() {
    let dir = TempDir::new();
    let daemon = Daemon::start(dir.path());
    assert!(daemon.stop().success());
    assert!(!dir.join("cairnd.sock").exists());
}

#[test]
fn the_admin_socket_is_for_its_own_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new();
    let _daemon = Daemon::start(dir.path());
    let mode = std::fs::metadata(dir.join("cairnd.sock"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn identity_and_history_survive_a_restart() {
    let dir = TempDir::new();
    let first = Daemon::start(dir.path());
    let before: Status = first.get(routes::STATUS, "");
    first.stop();
    let second = Daemon::start(dir.path());
    let after: Status = second.get(routes::STATUS, "");
    assert_eq!(after.host.uuid, before.host.uuid);
    let page: EventPage = second.get(routes::EVENTS, "");
    let kinds: Vec<&str> = page.events.iter().map(|e| e.kind.as_str()).collect();
    assert_eq!(kinds, ["DaemonStarted", "DaemonStopped", "DaemonStarted"]);
    let ids: Vec<u64> = page.events.iter().map(|e| e.id).collect();
    assert_eq!(ids, [1, 2, 3]);
}

#[test]
fn a_bad_configuration_at_reload_changes_nothing_and_the_daemon_runs_on() {
    let dir = TempDir::new();
    let file = dir.join("cairnd.toml");
    let good = format!("state_dir = '{}'\n", dir.path().display());
    std::fs::write(&file, &good).unwrap();
    let socket = dir.join("cairnd.sock");
    let daemon = Daemon::start_with(&["--config", file.to_str().unwrap()], &socket);
    std::fs::write(&file, "state_dir = 5\n").unwrap();
    daemon.reload();
    let version: Version = daemon.get(routes::VERSION, "");
    assert_eq!(version.state_dir, dir.path().display().to_string());
    assert!(daemon.stop().success());
}

#[test]
fn help_teaches_the_first_steps() {
    let help = command().arg("--help").output().unwrap();
    let text = String::from_utf8(help.stdout).unwrap();
    for word in [
        "--state-dir",
        "CAIRN_SOCKET",
        "--check-config",
        "SIGHUP",
        "CAIRN_IO",
    ] {
        assert!(text.contains(word), "{word} is missing:\n{text}");
    }
}
