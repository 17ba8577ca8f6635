//! PostgreSQL on a RAID 6 of block devices: while two of ten members fail, and while the daemon is
//! killed under it again and again.

use std::process::Stdio;

use cairn_api::{Array, ArrayState, MemberState};
use cairn_hwtests::disks;
use cairn_hwtests::fault::Pullable;
use cairn_hwtests::full;
use cairn_hwtests::host::Host;
use cairn_hwtests::program::{self, Finished};
use cairn_hwtests::scratch::Scratch;

const DISK_MIB: u64 = 512;
/// All disks full would take this much memory; the test fills a small part.
const RAM_MIB: u64 = 14 * DISK_MIB;
/// How long pgbench runs while the disks fail.
const LOAD_SECONDS: &str = "12";

struct Postgres {
    dir: String,
    sector_bytes: u32,
}

impl Postgres {
    fn command(&self, verb: &str, further: &[&str]) -> std::process::Command {
        let script = program::lab("pg-on-nbd.sh");
        let mut line = vec![script.as_str(), verb, &self.dir];
        line.extend(further);
        let mut command = program::command("bash", &line);
        command.env("SECT", self.sector_bytes.to_string());
        command
    }

    fn does(&self, verb: &str, further: &[&str]) -> Finished {
        program::finish(self.command(verb, further)).ok()
    }

    fn attach_fresh(&self, uri: &str) {
        let mut command = self.command("attach", &[uri]);
        command.env("FRESH", "1");
        program::finish(command).ok();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        program::finish(self.command("down", &[]));
    }
}

/// Two members fail under load, one by request and one pulled, and PostgreSQL doesn't notice.
fn survives_two_failures(sector_bytes: u32) {
    program::need_root();
    let scratch = Scratch::new();
    let ram = scratch.ram("ram", RAM_MIB);
    let loops = disks::loops(&ram, "d", 9, DISK_MIB, sector_bytes);
    let spares = disks::loops(&ram, "s", 2, DISK_MIB, sector_bytes);
    let mut pulled = Pullable::make(&scratch, &ram, "p", DISK_MIB, sector_bytes);
    let mut members = disks::devices(&loops);
    members.insert(4, pulled.device().to_owned());
    let spares = disks::devices(&spares);

    let mut host = Host::start(&scratch);
    host.create("pool", "raid6", &members, &spares);
    let uri = host.volume("pg", "pool", "3GiB", &scratch.text("pg.sock"));
    let postgres = Postgres {
        dir: scratch.text("pg"),
        sector_bytes,
    };
    postgres.attach_fresh(&uri);
    postgres.does("start", &[]);

    let mut load = postgres.command("load", &[LOAD_SECONDS]);
    load.stdout(Stdio::piped()).stderr(Stdio::piped());
    let load = program::start(load);
    std::thread::sleep(std::time::Duration::from_secs(2));
    host.ok(&["disk", "fail", &members[1]]);
    // The second failure meets the first one's rebuild.
    std::thread::sleep(std::time::Duration::from_secs(2));
    pulled.pull();
    let is_in_sync = |array: &Array, path: &str| {
        let mut members = array.members.iter();
        members.any(|member| member.path == path && member.state == MemberState::InSync)
    };
    host.wait_array("pool", "the pulled disk's ejection", |array| {
        !is_in_sync(array, pulled.device())
    });
    let load = program::finished("pgbench under two failures", load).ok();
    println!("{}", load.stdout);

    let array = host.wait_clean("pool");
    assert_eq!(array.redundancy_left, 2);
    for spare in &spares {
        assert!(is_in_sync(&array, spare), "{array:#?}");
    }

    postgres.does("stop", &[]).says(&["Bad checksums:  0"]);
    postgres.does("detach", &[]);

    // Once more from what a restarted daemon finds on the disks.
    host.down();
    host.up();
    assert_eq!(host.array("pool").state, ArrayState::Clean);
    postgres.does("attach", &[&uri]);
    postgres.does("start", &[]);
    postgres
        .does("check", &[])
        .says(&["amcheck and balances are clean"]);
    postgres.does("load", &["3"]);
    postgres.does("check", &[]);
    postgres.does("stop", &[]).says(&["Bad checksums:  0"]);
    postgres.does("detach", &[]);
    host.down();
}

#[test]
fn d2_postgres_loses_no_transaction_when_two_disks_of_512_byte_sectors_fail() {
    survives_two_failures(512);
}

#[test]
fn d2_postgres_loses_no_transaction_when_two_disks_of_4096_byte_sectors_fail() {
    survives_two_failures(4096);
}

/// The daemon is killed under pgbench; whatever stood on it is gone with it, as after a power cut.
/// After each start PostgreSQL recovers by itself, and all that was committed is there.
#[test]
fn h1_postgres_recovers_whenever_the_daemon_is_killed_and_has_every_commit() {
    program::need_root();
    let kills = full::rounds(2, 20);
    let mut random = full::seed();
    let scratch = Scratch::new();
    let ram = scratch.ram("ram", RAM_MIB);
    let loops = disks::loops(&ram, "d", 6, DISK_MIB, 512);
    let mut host = Host::start(&scratch);
    host.create("pool", "raid6", &disks::devices(&loops), &[]);
    let uri = host.volume("pg", "pool", "1536MiB", &scratch.text("pg.sock"));
    let postgres = Postgres {
        dir: scratch.text("pg"),
        sector_bytes: 512,
    };
    postgres.attach_fresh(&uri);
    postgres.does("start", &[]);
    for number in 0..kills {
        let mut load = postgres.command("torn", &["60"]);
        load.stdout(Stdio::piped()).stderr(Stdio::piped());
        let load = program::start(load);
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let moment = 1500 + (random >> 33) % 2000;
        std::thread::sleep(std::time::Duration::from_millis(moment));
        host.kill();
        let load = program::finished("pgbench, whose disk is gone", load).ok();
        println!("kill {number} after {moment} ms: {}", load.stdout.trim());
        program::finish(postgres.command("down", &[]));
        host.up();
        postgres.does("attach", &[&uri]);
        postgres.does("start", &[]);
        postgres.does("kept", &[]).says(&["are there"]);
        postgres
            .does("check", &[])
            .says(&["amcheck and balances are clean"]);
    }
    postgres.does("stop", &[]).says(&["Bad checksums:  0"]);
    postgres.does("detach", &[]);
    host.ok(&["array", "scrub", "pool", "--wait"]);
    let array = host.wait_clean("pool");
    assert_eq!(
        (array.scrub.mismatched, array.scrub.unrepairable),
        (0, 0),
        "{array:#?}"
    );
    host.down();
}
