//! The memory that arrays share: what the configuration says, as it is shown, while arrays come and go.

use cairn_api::Array;
use cairn_hwtests::disks;
use cairn_hwtests::host::Host;
use cairn_hwtests::program::run;
use cairn_hwtests::scratch::Scratch;

use crate::world::{DISK_MIB, World, create_line, io};

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

#[test]
fn checksum_pages_are_counted_as_they_are_found_in_the_cache_or_read() {
    let mut world = World::new("raid6", 5, 0, "128MiB");
    io(&world.uri, &["write -P 0x3a 0 64M", "flush"]);
    world.host.down();
    world.host.up();
    let counts = |world: &World| {
        let memory = world.array().memory.unwrap();
        (memory.checksum_cache_hits, memory.checksum_cache_misses)
    };
    let before = counts(&world);
    io(&world.uri, &["read -P 0x3a 0 64M"]);
    let first = counts(&world);
    assert!(first.1 > before.1, "none were there: {before:?}, {first:?}");
    io(&world.uri, &["read -P 0x3a 0 64M"]);
    let seen = world
        .host
        .wait_array("pool", "pages that were there", |array| {
            array.memory.unwrap().checksum_cache_hits > first.0
        });
    assert_eq!(seen.memory.unwrap().checksum_cache_misses, first.1);
    world
        .host
        .ok(&["array", "show", "pool"])
        .says(&["checksum cache hits", "checksum cache misses"]);
}
