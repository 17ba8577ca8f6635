//! More disks pulled than a level survives: the array fails and says what to do, and gives everything back once
//! they are plugged in again.

use cairn_api::{Array, ArrayState, HealthCode, HealthLevel};
use cairn_hwtests::acked::Ledger;
use cairn_hwtests::disks::{self, Loop};
use cairn_hwtests::fault::Pullable;
use cairn_hwtests::host::Host;
use cairn_hwtests::scratch::Scratch;

use crate::world::{DISK_MIB, io, qemu_io};

const LOADED_BYTES: u64 = 64 << 20;
/// Beyond what the writers write.
const WRITTEN: &str = "write -P 0x5a 80M 32M";
const READ: &str = "read -P 0x5a 80M 32M";

/// Loops, and disks that can be pulled, known by names that stay. Fields go in this order.
struct Setting {
    host: Host,
    pulled: Vec<Pullable>,
    names: Vec<String>,
    loops: Vec<Loop>,
    uri: String,
    scratch: Scratch,
}

impl Setting {
    /// `pool` over so many loops and one disk more than the level survives.
    fn new(level: &str, loops: usize, pulled: usize) -> Self {
        let scratch = Scratch::new();
        let ram = scratch.ram("ram", 8 * DISK_MIB);
        let loops = disks::loops(&ram, "d", loops, DISK_MIB, 512);
        let host = Host::start(&scratch);
        let pulled: Vec<Pullable> = (0..pulled)
            .map(|number| Pullable::make(&scratch, &ram, &format!("p{number}"), DISK_MIB, 512))
            .collect();
        let names: Vec<String> = (0..pulled.len())
            .map(|number| scratch.text(&format!("by-id-{number}")))
            .collect();
        for (disk, name) in pulled.iter().zip(&names) {
            std::os::unix::fs::symlink(disk.device(), name).unwrap();
        }
        let mut members = disks::devices(&loops);
        members.extend(names.iter().cloned());
        host.create("pool", level, &members, &[]);
        let uri = host.volume("pg", "pool", "128MiB", &scratch.text("pg.sock"));
        io(&uri, &[WRITTEN, "flush"]);
        Self {
            host,
            pulled,
            names,
            loops,
            uri,
            scratch,
        }
    }

    fn plug(&mut self, number: usize) {
        let (disk, name) = (&mut self.pulled[number], &self.names[number]);
        disk.plug();
        std::fs::remove_file(name).unwrap();
        std::os::unix::fs::symlink(disk.device(), name).unwrap();
    }

    fn plug_all(&mut self) {
        (0..self.pulled.len()).for_each(|number| self.plug(number));
    }

    /// Nothing is served any more, loudly: to clients, on every screen, to monitoring.
    fn has_failed(&self) -> Array {
        let host = &self.host;
        let failed = host.wait_array("pool", "its failure", |array| {
            array.state == ArrayState::Incomplete
        });
        assert!(failed.reason.is_some(), "{failed:#?}");
        for request in ["write -P 0x66 80M 4M", "flush"] {
            let answer = qemu_io(&self.uri, &[request]);
            let refused = answer.stdout.contains("rror") || answer.stderr.contains("rror");
            assert!(refused || answer.code != Some(0), "{request}: {answer}");
        }
        // Some of it may be read, and is right then.
        let read = qemu_io(&self.uri, &[READ]);
        let wrong = "Pattern verification failed";
        assert!(!read.stdout.contains(wrong), "{read}");
        let hint = failed.hint.clone().unwrap_or_default();
        let steps = [
            "bring back",
            "cairn array stop pool",
            "cairn array assemble pool",
        ];
        for step in steps {
            assert!(hint.contains(step), "{hint}");
        }
        host.ok(&["array", "show", "pool"]).says(&steps);
        let health = host.health();
        let mut checks = health.checks.iter();
        let check = checks.find(|check| check.code == HealthCode::ArrayIncomplete);
        let check = check.unwrap_or_else(|| panic!("{health:#?}"));
        assert_eq!(check.severity, HealthLevel::Err);
        assert!(check.hint.contains(steps[1]), "{check:#?}");
        host.cairn(&["check"]).exited(2).says(&["ARRAY_INCOMPLETE"]);
        failed
    }

    /// It says that it had failed, that it is stopped all the same, and what is next.
    fn stop(&self) {
        let line = ["array", "stop", "pool", "--yes"];
        let said = ["array pool is stopped", "`cairn array assemble pool`"];
        let told = self.host.refuses(&line, 2, &said);
        assert!(!told.stderr.contains("stop the array"), "{told}");
        assert_eq!(self.host.array("pool").state, ArrayState::Stopped);
    }

    fn assemble(&self) {
        self.host.ok(&["array", "assemble", "pool"]);
        let array = self.host.array("pool");
        assert_ne!(array.state, ArrayState::Incomplete, "{array:#?}");
    }

    /// The volume is served again, whole, and redundancy is what it was.
    fn is_whole(&self, ledger: &mut Ledger, redundancy: u32) {
        let socket = self.scratch.join("pg.sock");
        ledger.verify(&socket, "pg");
        io(&self.uri, &[READ]);
        let array = self.host.wait_clean("pool");
        assert_eq!(array.redundancy_left, redundancy, "{array:#?}");
        assert_eq!(array.bad_blocks_total, 0, "{array:#?}");
        self.host.ok(&["array", "scrub", "pool", "--wait"]);
        let scrub = self.host.array("pool").scrub;
        assert_eq!((scrub.mismatched, scrub.unrepairable), (0, 0), "{scrub:#?}");
        // What came back carries the data: others may go.
        let mut others = disks::devices(&self.loops);
        others.extend(self.names.iter().cloned());
        for other in others.iter().take(usize::try_from(redundancy).unwrap()) {
            self.host.ok(&["disk", "fail", other, "--yes"]);
        }
        ledger.verify(&socket, "pg");
        io(&self.uri, &[READ]);
    }
}

/// All at once under load, then back.
fn pulled_at_once(level: &str, loops: usize, redundancy: u32, seed: u64) {
    let beyond = usize::try_from(redundancy + 1).unwrap();
    let mut setting = Setting::new(level, loops, beyond);
    let socket = setting.scratch.join("pg.sock");
    let writers = Ledger::new(seed, LOADED_BYTES).write_until_refused(&socket, "pg");
    writers.progress(300);
    for disk in &mut setting.pulled {
        disk.pull();
    }
    writers.wait_refused();
    let mut ledger = writers.finish();
    setting.has_failed();
    setting.plug_all();
    setting.stop();
    setting.assemble();
    setting.is_whole(&mut ledger, redundancy);
    setting.host.down();
}

#[test]
fn o1_both_disks_of_a_mirror_pulled_and_plugged_in_again_give_everything_back() {
    pulled_at_once("raid1", 0, 1, 81);
}

#[test]
fn o1_two_disks_of_a_raid5_pulled_at_once_and_plugged_in_again_give_everything_back() {
    pulled_at_once("raid5", 3, 1, 82);
}

#[test]
fn o1_three_disks_of_a_raid6_pulled_at_once_and_plugged_in_again_give_everything_back() {
    pulled_at_once("raid6", 3, 2, 83);
}

#[test]
fn o1_a_healthy_disk_pulled_while_degraded_fails_the_array_until_it_is_back() {
    let mut setting = Setting::new("raid5", 2, 2);
    let socket = setting.scratch.join("pg.sock");
    let writers = Ledger::new(84, LOADED_BYTES).write_until_refused(&socket, "pg");
    writers.progress(300);
    setting.pulled[0].pull();
    // What is acknowledged from here on the first one lacks.
    setting.host.wait_array("pool", "its ejection", |array| {
        array.state == ArrayState::Degraded
    });
    writers.progress(300);
    setting.pulled[1].pull();
    writers.wait_refused();
    let mut ledger = writers.finish();
    let failed = setting.has_failed();
    setting.stop();
    // The first one alone is too old for what is missing.
    setting.plug(0);
    let mut members = failed.members.iter();
    let second = members.find(|member| member.path == setting.names[1]);
    let words = [
        "pool",
        &second.unwrap().uuid,
        "next: connect the missing disks",
    ];
    let line = ["array", "assemble", "pool"];
    setting.host.refuses(&line, 1, &words);
    setting.plug(1);
    setting.assemble();
    setting.is_whole(&mut ledger, 1);
    setting.host.down();
}

#[test]
fn o1_a_failed_array_whose_disks_are_back_is_served_again_after_a_restart_of_the_daemon() {
    let mut setting = Setting::new("raid6", 2, 3);
    let socket = setting.scratch.join("pg.sock");
    let writers = Ledger::new(85, LOADED_BYTES).write_until_refused(&socket, "pg");
    writers.progress(300);
    setting.pulled.iter_mut().for_each(Pullable::pull);
    writers.wait_refused();
    let mut ledger = writers.finish();
    setting.has_failed();
    setting.host.down();
    setting.plug_all();
    setting.host.up();
    setting.is_whole(&mut ledger, 2);
    setting.host.down();
}
