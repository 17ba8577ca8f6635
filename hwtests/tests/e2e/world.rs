//! A daemon with one array and one exported volume: where most tests begin.

use std::path::PathBuf;

use cairn_api::Array;
use cairn_hwtests::disks;
use cairn_hwtests::host::Host;
use cairn_hwtests::program::{Finished, run};
use cairn_hwtests::scratch::Scratch;

/// Room for labels, zones and a few hundred MiB of data on each.
pub(crate) const DISK_MIB: u64 = 256;

/// Fields go in this order: the daemon before its disks.
pub(crate) struct World {
    pub(crate) host: Host,
    pub(crate) disks: Vec<String>,
    pub(crate) spares: Vec<String>,
    pub(crate) uri: String,
    pub(crate) scratch: Scratch,
}

impl World {
    /// `pool` at `level` over so many file disks and spares, with the volume `pg` of `size` exported.
    pub(crate) fn new(level: &str, members: usize, spares: usize, size: &str) -> Self {
        let scratch = Scratch::new();
        let disks = disks::texts(&disks::files(scratch.path(), "d", members, DISK_MIB));
        let spares = disks::texts(&disks::files(scratch.path(), "s", spares, DISK_MIB));
        let host = Host::start(&scratch);
        host.create("pool", level, &disks, &spares);
        let uri = host.volume("pg", "pool", size, &scratch.text("pg.sock"));
        Self {
            host,
            disks,
            spares,
            uri,
            scratch,
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.scratch.join("pg.sock")
    }

    pub(crate) fn array(&self) -> Array {
        self.host.array("pool")
    }
}

/// `cairn array create NAME --level LEVEL --disks …` and whatever follows, as one line.
pub(crate) fn create_line<'a>(
    name: &'a str,
    level: &'a str,
    disks: &'a [String],
    further: &[&'a str],
) -> Vec<&'a str> {
    let mut line = vec!["array", "create", name, "--level", level, "--disks"];
    line.extend(disks.iter().map(String::as_str));
    line.extend(further);
    line
}

/// qemu-io with these commands on the volume at `uri`, however it ends.
pub(crate) fn qemu_io(uri: &str, commands: &[&str]) -> Finished {
    let mut line = vec!["-f", "raw"];
    for command in commands {
        line.extend(["-c", command]);
    }
    line.push(uri);
    run("qemu-io", &line)
}

/// The same, and every command must succeed and every pattern match.
#[track_caller]
pub(crate) fn io(uri: &str, commands: &[&str]) {
    // It exits with 0 although a pattern didn't match, and says so.
    let done = qemu_io(uri, commands).ok();
    assert!(!done.stdout.contains("failed"), "{done}");
}
