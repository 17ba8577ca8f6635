//! NBD clients of a newer release than the host's, and nbd-tester-client.
//!
//! `lab/newer-clients.sh` puts them into `CAIRN_NEWER_CLIENTS`, or beside other caches; the first to
//! ask waits for it.

use std::path::PathBuf;

use crate::program::{self, Finished, run};

/// Where they are.
#[track_caller]
pub fn clients() -> PathBuf {
    let dir = match std::env::var_os("CAIRN_NEWER_CLIENTS") {
        Some(dir) => PathBuf::from(dir),
        None => cache().join("cairn-lab/newer-clients"),
    };
    let text = dir.to_string_lossy().into_owned();
    run("sh", &[&program::lab("newer-clients.sh"), &text]).ok();
    dir
}

fn cache() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    cache.or_else(home).unwrap_or_else(std::env::temp_dir)
}

/// Runs a newer `program`, however it ends.
#[track_caller]
pub fn newer(program: &str, arguments: &[&str]) -> Finished {
    let mut line = vec![program];
    line.extend(arguments);
    program::finish(program::command(clients().join("run"), &line))
}

/// Runs nbd-tester-client; it must succeed. Its counting of requests is left out.
#[track_caller]
pub fn tester(arguments: &[&str]) {
    let command = program::command(clients().join("nbd-tester-client"), arguments);
    let finished = program::finish(command);
    let last = |text: &str| {
        let line = text.trim_end().rsplit(['\r', '\n']).next();
        line.unwrap_or_default().to_owned()
    };
    assert_eq!(
        finished.code,
        Some(0),
        "nbd-tester-client {arguments:?}: {}",
        last(&finished.stderr)
    );
}
