//! The memory that arrays share: what the configuration says, as it is shown, while arrays come and go; and what a start
//! takes that has much to put in place.

use std::path::Path;

use cairn_api::Array;
use cairn_hwtests::disks;
use cairn_hwtests::host::Host;
use cairn_hwtests::program::{self, run};
use cairn_hwtests::scratch::Scratch;

use crate::world::{DISK_MIB, create_line};

const MIB: u64 = 1 << 20;

/// What an array may take for checksums and for rows, in MiB; pages of checksums aren't cut.
fn share(array: &Array) -> (u64, u64) {
    let memory = array.memory.unwrap();
    assert!(memory.checksum_cache_bytes <= memory.checksum_cache_bytes_max);
    assert!(memory.row_cache_bytes <= memory.row_cache_bytes_max);
    (
        memory.checksum_cache_bytes_max.div_ceil(MIB),
        memory.row_cache_bytes_max.div_ceil(MIB),
    )
}

#[test]
fn arrays_share_the_memory_that_the_configuration_gives_evenly() {
    let scratch = Scratch::new();
    let paths = disks::texts(&disks::files(scratch.path(), "d", 6, DISK_MIB));
    let config = "[memory]\nchecksum_cache_bytes = 67108864\nrow_cache_bytes = 33554432\n";
    let host = Host::start_with(&scratch, "state", config);
    host.ok(&create_line("one", "raid5", &paths[..3], &[]));
    let (sums, rows) = share(&host.array("one"));
    assert_eq!(sums, 64);
    // The rings of disks as small as these take less than there is memory for.
    assert!((16..=32).contains(&rows), "{rows} MiB");
    host.ok(&create_line("two", "raid5", &paths[3..], &[]));
    let half = share(&host.array("two"));
    assert!(half.0 == 32 && half.1 <= 16, "{half:?}");
    host.wait_array("one", "half of it", |array| share(array) == half);
    host.ok(&["array", "show", "one"])
        .says(&["checksum cache", "of 31.9 MiB"]);
    host.ok(&["array", "stop", "two", "--yes"]);
    assert_eq!(host.array("two").memory, None);
    host.wait_array("one", "all of it", |array| share(array) == (sums, rows));
    // A reload is taken over, too.
    let text = "[memory]\nchecksum_cache_bytes = 16777216\n";
    std::fs::write(scratch.join("state.toml"), text).unwrap();
    run("kill", &["-HUP", &host.pid().to_string()]).ok();
    host.wait_array("one", "less", |array| share(array).0 == 16);
}

/// A value of a process's status, in MiB.
fn status_mib(pid: u32, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.unwrap().trim_start_matches(':').trim();
    kib.trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// Complete rows, one after the other, as fast as they are taken; checked by their pattern if `check` says so.
fn stream(uri: &str, dir: &Path, check: bool) {
    let uri = format!("--uri={uri}");
    let mut line = vec![
        "--name=stream",
        "--ioengine=nbd",
        &uri,
        "--rw=write",
        "--bs=1m",
        "--iodepth=8",
        "--size=1024m",
        "--verify=pattern",
        "--verify_pattern=%o0x5eed17ecd",
        "--verify_fatal=1",
    ];
    line.push(if check {
        "--verify_only=1"
    } else {
        "--do_verify=0"
    });
    let mut fio = program::command("fio", &line);
    // It leaves a state file where it runs.
    fio.current_dir(dir);
    program::finish(fio).ok();
}

/// What was on its way past the journal at a `kill -9` is put together row by row at the next start, and there may be
/// much more of it than the array may have memory for.
#[test]
fn h1_a_start_after_a_stream_was_killed_keeps_to_its_memory() {
    let scratch = Scratch::new();
    let ram = scratch.ram("ram", 5 * 400);
    let loops = disks::loops(&ram, "d", 5, 400, 4096);
    let config = "[memory]\nchecksum_cache_bytes = 16777216\nrow_cache_bytes = 16777216\n";
    let mut host = Host::start_with(&scratch, "state", config);
    host.create("pool", "raid6", &disks::devices(&loops), &[]);
    let uri = host.volume("v", "pool", "1GiB", &scratch.text("v.sock"));
    let idle = status_mib(host.pid(), "VmHWM");
    // Rows that are written already are announced before they are written again.
    stream(&uri, scratch.path(), false);
    stream(&uri, scratch.path(), false);
    host.kill();
    host.up();
    host.wait_clean("pool");
    let peak = status_mib(host.pid(), "VmHWM");
    let events = host.ok(&["events"]).stdout;
    let told = events
        .lines()
        .rfind(|line| line.contains("JournalReplayed"));
    let told = told.unwrap_or_else(|| panic!("{events}"));
    let rows = told.split(" records of ").nth(1).unwrap();
    let rows: u64 = rows.split(' ').next().unwrap().parse().unwrap();
    let replayed = rows * 3 * 64 / 1024;
    println!("{replayed} MiB in {rows} rows; {idle} MiB before, {peak} MiB at the start's peak");
    assert!(replayed >= 100, "too little to tell: {told}");
    assert!(
        peak < idle + 80,
        "{idle} MiB before, {peak} MiB at the peak; {told}"
    );
    stream(&uri, scratch.path(), true);
}
