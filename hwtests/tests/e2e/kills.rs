//! `kill -9` at random moments, again and again, in every state that an array of block devices has:
//! whatever was acknowledged is there afterwards, to the writers' own books and to fio's.

use std::process::{Command, Stdio};
use std::time::Duration;

use cairn_api::{Array, ArrayState, SyncAction, Volume};
use cairn_hwtests::acked::Ledger;
use cairn_hwtests::disks::{self, Loop};
use cairn_hwtests::full;
use cairn_hwtests::host::Host;
use cairn_hwtests::program;
use cairn_hwtests::scratch::Scratch;

use crate::world::{DISK_MIB, io};

const MEMBERS: usize = 6;
const LEDGER_BYTES: u64 = 64 << 20;
/// A kill comes within this many milliseconds of work.
const MOMENT_MS_MAX: u64 = 400;
/// The same while a disk is filled, which is soon full.
const FILLING_MS_MAX: u64 = 60;

/// What is going on when the daemon is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Healthy,
    Scrubbing,
    Degraded,
    CatchingUp,
    Twice,
    Rebuilding,
    Replacing,
}

const STATES: [State; 7] = [
    State::Healthy,
    State::Degraded,
    State::CatchingUp,
    State::Scrubbing,
    State::Twice,
    State::Rebuilding,
    State::Replacing,
];

/// fio's writes of a round, to 24 MiB of `target`. All that is written has its offset and the round's number, and is
/// compared whole: fio's checksums are right in what an earlier round left, too. The pattern is 17 bytes, so that no two
/// blocks of a request are the same.
fn fio(target: &[String], round: u32, further: &[&str]) -> Command {
    let seed = format!("--randseed={round}");
    let pattern = format!("--verify_pattern=%o0x{:08x}c5a1967ecd", round + 1);
    let mut line = vec![
        "--name=kills",
        "--rw=randwrite",
        "--bsrange=4k-64k",
        "--blockalign=4k",
        "--size=24m",
        "--iodepth=16",
        "--verify=pattern",
        "--verify_fatal=1",
        &seed,
        &pattern,
    ];
    line.extend(target.iter().map(String::as_str));
    line.extend(further);
    program::command("fio", &line)
}

/// Fields go in this order: the daemon before its disks, these before their files.
struct Rounds {
    host: Host,
    members: Vec<String>,
    /// The disk that isn't in the array: it takes a member's place in some rounds.
    fresh: String,
    /// Kills while a disk was being rebuilt, and while one was being replaced.
    filling: [u32; 2],
    uri: String,
    /// Written once, and read at the end.
    bulk: String,
    random: u64,
    _loops: Vec<Loop>,
    scratch: Scratch,
}

impl Rounds {
    fn new(seed: u64) -> Self {
        let scratch = Scratch::new();
        let ram = scratch.ram("ram", 8 * DISK_MIB);
        let loops = disks::loops(&ram, "d", MEMBERS + 1, DISK_MIB, 512);
        let mut members = disks::devices(&loops);
        let fresh = members.split_off(MEMBERS).remove(0);
        let host = Host::start(&scratch);
        host.create("pool", "raid6", &members, &[]);
        host.volume("pg", "pool", "128MiB", &scratch.text("pg.sock"));
        let uri = host.volume("fio", "pool", "64MiB", &scratch.text("fio.sock"));
        // What a disk is filled with takes longer than the way to its kill.
        let bulk = host.volume("bulk", "pool", "384MiB", &scratch.text("bulk.sock"));
        io(&bulk, &["write -P 0x3c 0 384M", "flush"]);
        Self {
            host,
            members,
            fresh,
            filling: [0; 2],
            uri,
            bulk,
            random: seed,
            _loops: loops,
            scratch,
        }
    }

    fn array(&self) -> Array {
        self.host.array("pool")
    }

    fn below(&mut self, end: u64) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % end
    }

    /// fio over the first or the second half of its volume, with what `further` says.
    fn fio(&self, half: u32, round: u32, further: &[&str]) -> Command {
        let target = ["--ioengine=nbd".to_owned(), format!("--uri={}", self.uri)];
        let mut command = fio(&target, round, further);
        command.arg(format!("--offset={}m", half * 32));
        // It leaves a state file where it runs.
        command.current_dir(self.scratch.path());
        command
    }

    fn prepare(&mut self, state: State) {
        let slot = usize::try_from(self.below(6)).unwrap();
        let victim = self.members[slot].clone();
        match state {
            State::Healthy | State::Twice => {}
            State::Rebuilding | State::Replacing => {
                let fresh = std::mem::replace(&mut self.fresh, victim.clone());
                if state == State::Rebuilding {
                    self.host.ok(&["disk", "fail", &victim, "--yes"]);
                    let add = ["array", "spare", "add", "pool", &fresh, "--wipe"];
                    self.host.ok(&add);
                } else {
                    let replace = ["disk", "replace", &victim, &fresh, "--wipe"];
                    self.host.ok(&replace);
                }
                self.members[slot] = fresh;
            }
            State::Scrubbing => {
                self.host.ok(&["array", "scrub", "pool", "--no-wait"]);
            }
            State::Degraded => {
                self.host.ok(&["disk", "fail", &victim, "--yes"]);
            }
            State::CatchingUp => {
                // The disk that the round before this one left out.
                let array = self.array();
                let mut members = array.members.iter();
                let out = members.find(|m| m.state != cairn_api::MemberState::InSync);
                let path = out.map_or(victim, |member| member.path.clone());
                if array.state == ArrayState::Clean {
                    self.host.ok(&["disk", "fail", &path, "--yes"]);
                }
                self.host.ok(&["array", "spare", "add", "pool", &path]);
            }
        }
    }

    /// One round: writes that fio knows to be acknowledged, then load, and the kill in its middle.
    fn round(&mut self, number: u32, mut ledger: Ledger) -> Ledger {
        let state = STATES[usize::try_from(number).unwrap() % STATES.len()];
        let socket = self.scratch.join("pg.sock");
        program::finish(self.fio(0, number, &["--do_verify=0"])).ok();
        let writers = ledger.write(&socket, "pg");
        writers.progress(20);
        let fills = matches!(state, State::Rebuilding | State::Replacing);
        if !fills {
            self.prepare(state);
        }
        let mut load = self.fio(
            1,
            number,
            &["--do_verify=0", "--time_based", "--runtime=60"],
        );
        load.stdout(Stdio::null()).stderr(Stdio::null());
        let load = program::start(load);
        let moment = self.below(if fills { FILLING_MS_MAX } else { MOMENT_MS_MAX });
        if fills {
            std::thread::sleep(Duration::from_millis(MOMENT_MS_MAX));
            self.prepare(state);
        }
        println!("round {number}: {state:?}, killed after {moment} ms");
        std::thread::sleep(Duration::from_millis(moment));
        if fills {
            let underway = self.array().sync.action != SyncAction::Idle;
            let of_a_replace = usize::from(state == State::Replacing);
            self.filling[of_a_replace] += u32::from(underway);
        }
        self.host.kill();
        ledger = writers.finish();
        // Its server is gone; what it says of that is no news.
        program::finished("fio, whose server was killed", load);
        if state == State::Twice {
            // In the middle of the start's replay, maybe.
            let moment = self.below(100);
            self.host.begin();
            std::thread::sleep(Duration::from_millis(moment));
            self.host.kill();
        }
        self.host.up();
        let volume: Volume = self.host.json(&["volume", "show", "fio"]);
        assert_eq!(volume.exports.len(), 1, "its export is back");
        ledger.verify(&socket, "pg");
        let verify = self.fio(0, number, &["--verify_only"]);
        program::finish(verify).ok().says(&["err= 0"]);
        if state == State::Degraded {
            assert!(self.array().redundancy_left >= 1);
        } else {
            self.host.wait_clean("pool");
        }
        ledger
    }
}

#[test]
fn h1_what_is_acknowledged_survives_kill_9_at_random_moments_in_every_state() {
    let rounds = full::rounds(7, 100);
    let seed = full::seed();
    let mut world = Rounds::new(seed);
    let mut ledger = Ledger::new(seed, LEDGER_BYTES);
    for number in 0..rounds {
        ledger = world.round(number, ledger);
    }
    let filling = world.filling;
    assert!(
        filling.iter().all(|kills| *kills > 0),
        "killed too late: {filling:?}"
    );
    let socket = world.scratch.join("pg.sock");
    world.host.ok(&["array", "scrub", "pool", "--wait"]);
    let array = world.array();
    assert_eq!(
        (array.scrub.mismatched, array.scrub.unrepairable),
        (0, 0),
        "{array:#?}"
    );
    assert_eq!(array.bad_blocks_total, 0, "{array:#?}");
    // Parity carries the data as well.
    for disk in &world.members[..2] {
        world.host.ok(&["disk", "fail", disk, "--yes"]);
    }
    ledger.verify(&socket, "pg");
    io(&world.bulk, &["read -P 0x3c 0 384M"]);
    world.host.down();
}

#[test]
fn fio_sees_a_block_of_the_round_before() {
    let scratch = Scratch::new();
    let file = scratch.join("file");
    let target = [
        "--ioengine=psync".to_owned(),
        format!("--filename={}", file.display()),
    ];
    // The same places in both rounds: what tells them apart is the number.
    let run = |round: u32, how: &str| {
        let mut command = fio(&target, round, &["--randseed=7", how]);
        command.current_dir(scratch.path());
        program::finish(command)
    };
    run(1, "--do_verify=0").ok();
    let before = std::fs::read(&file).unwrap();
    run(2, "--do_verify=0").ok();
    run(2, "--verify_only").ok();
    // A write of the second round that never came.
    let lost = 8 << 20..(8 << 20) + 4096;
    let mut after = std::fs::read(&file).unwrap();
    after[lost.clone()].copy_from_slice(&before[lost]);
    std::fs::write(&file, after).unwrap();
    let seen = run(2, "--verify_only");
    assert_ne!(seen.code, Some(0), "{seen:#?}");
}
