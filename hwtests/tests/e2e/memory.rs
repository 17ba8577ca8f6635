//! The memory that arrays share: what the configuration says, as it is shown, while arrays come and go.

use cairn_api::Array;
use cairn_hwtests::disks;
use cairn_hwtests::host::Host;
use cairn_hwtests::program::run;
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
