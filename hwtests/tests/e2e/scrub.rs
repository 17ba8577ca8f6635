//! `cairn array scrub`: what it finds and mends is counted, a pause keeps its place over whatever happens to
//! the daemon, and what can't be done to a scrub is refused with the next step.

use std::io::Read;
use std::os::unix::fs::FileExt;
use std::process::{Child, Stdio};

use cairn_api::{Array, EventPage, Scrub, ScrubState};
use cairn_hwtests::program;

use crate::integrity::{PATTERN, open, places};
use crate::world::{World, io};

const BLOCK: usize = 4096;
const READ: &str = "read -P 0x5d 1M 90M";
/// As slow as may be, so that it can be looked at: it takes minutes.
const SLOW: &str = "[scrub]\nbytes_per_second_max = 1048576\n";

/// A stopped RAID 6 of five with blocks on two members of which one byte is wrong.
struct Rotted {
    world: World,
    /// Member and offset.
    blocks: Vec<(usize, u64)>,
}

impl Rotted {
    fn new() -> Self {
        let mut world = World::new("raid6", 5, 0, "128MiB");
        io(&world.uri, &["write -P 0x5d 1M 90M", "flush"]);
        // A clean stop drains the journal.
        world.host.down();
        let mut blocks = Vec::new();
        for member in [1, 3] {
            let all = places(&world.disks[member]);
            blocks.extend(all.iter().step_by(51).map(|at| (member, *at)));
        }
        for (number, (member, at)) in blocks.iter().enumerate() {
            let within = u64::try_from(number * 7 % BLOCK).unwrap();
            let file = open(&world.disks[*member]);
            file.write_all_at(&[PATTERN ^ 0x10], at + within).unwrap();
        }
        assert!(blocks.len() > 100, "{} blocks", blocks.len());
        Self { world, blocks }
    }

    fn up(&mut self, config: &str) {
        let text = format!("degraded_wait_seconds = 1\n{config}");
        std::fs::write(self.world.scratch.join("state.toml"), text).unwrap();
        self.world.host.up();
    }

    fn count(&self) -> u64 {
        u64::try_from(self.blocks.len()).unwrap()
    }

    /// How many of them are on their disks as they were before.
    fn mended(&self) -> u64 {
        let mut block = [0; BLOCK];
        let mut right = 0;
        for (member, at) in &self.blocks {
            let file = open(&self.world.disks[*member]);
            file.read_exact_at(&mut block, *at).unwrap();
            right += u64::from(block.iter().all(|byte| *byte == PATTERN));
        }
        right
    }

    /// One run has found each of them once, whatever came between its start and its end.
    fn is_mended(&self) -> Array {
        let array = self.world.array();
        let scrub = &array.scrub;
        assert_eq!(
            (scrub.mismatched, scrub.repaired, scrub.unrepairable),
            (self.count(), self.count(), 0),
            "{array:#?}"
        );
        assert_eq!((scrub.state, scrub.runs), (ScrubState::Idle, 1));
        assert!(scrub.finished_unix_ms >= scrub.started_unix_ms && scrub.started_unix_ms.is_some());
        assert_eq!(array.bad_blocks_total, 0, "{array:#?}");
        assert_eq!(self.mended(), self.count());
        array
    }

    fn run(&self, verb: &str) {
        let host = &self.world.host;
        host.ok(&["array", "scrub", "pool", verb]);
    }

    fn scrub(&self) -> Scrub {
        self.world.array().scrub
    }

    /// Waits until it is somewhere between its beginning and its end.
    fn wait_under_way(&self, beyond: u64) -> Scrub {
        let array = self.world.host.wait_array("pool", "its progress", |array| {
            array.scrub.done_bytes > beyond
        });
        assert_eq!(array.scrub.state, ScrubState::Running, "{array:#?}");
        assert!(array.scrub.done_bytes < array.scrub.total_bytes);
        array.scrub
    }

    /// Somebody who waits for its end: he has asked for it, and it runs already.
    fn waiting(&self) -> Child {
        let line = ["array", "scrub", "pool", "--wait"];
        let mut command = self.world.host.command(&line);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut waiting = program::start(command);
        let mut first = [0; 1];
        waiting
            .stderr
            .as_mut()
            .unwrap()
            .read_exact(&mut first)
            .unwrap();
        waiting
    }

    /// What was said of its last beginning.
    fn began(&self) -> String {
        let page: EventPage = self.world.host.json(&["events", "-n", "1000"]);
        let mut starts = page.events.iter().filter(|e| e.kind == "ScrubStarted");
        let last = starts.next_back().unwrap();
        last.detail.clone()
    }
}

#[test]
fn d8_a_scrub_mends_and_counts_every_rotten_block_and_its_completion_is_shown() {
    let mut rotted = Rotted::new();
    rotted.up("");
    let never = rotted.world.host.ok(&["array", "show", "pool"]);
    assert!(shown(&never.stdout, "scrub finished").contains("never"));
    assert_eq!(rotted.mended(), 0);
    let count = rotted.count();
    let said = format!("scrubbed: {count} repaired, {count} mismatched, none unrepairable");
    let line = ["array", "scrub", "pool", "--wait"];
    rotted.world.host.ok(&line).says(&[&said]);
    let ended = rotted.is_mended();
    for member in [1, 3] {
        assert!(ended.members[member].errors.corruption > 0, "{ended:#?}");
    }
    // The same after a crash.
    rotted.world.host.kill();
    rotted.world.host.up();
    assert_eq!(rotted.is_mended().scrub, ended.scrub);
    let show = rotted.world.host.ok(&["array", "show", "pool"]).stdout;
    assert!(!shown(&show, "scrub finished").contains("never"), "{show}");
    for title in ["scrub repaired", "scrub mismatched"] {
        assert!(shown(&show, title).contains(&count.to_string()), "{show}");
    }
    // A second one finds nothing.
    rotted.world.host.ok(&line).says(&["none repaired"]);
    let scrub = rotted.scrub();
    assert_eq!(
        (scrub.mismatched, scrub.repaired, scrub.runs),
        (0, 0, 2),
        "{scrub:#?}"
    );
    // What it wrote carries the data.
    for other in [0, 2] {
        let disk = &rotted.world.disks[other];
        rotted.world.host.ok(&["disk", "fail", disk, "--yes"]);
    }
    io(&rotted.world.uri, &[READ]);
}

/// The line of `array show` that begins with this title.
fn shown<'a>(show: &'a str, title: &str) -> &'a str {
    let normal = |line: &str| line.trim_start().to_lowercase().replace('_', " ");
    let mut lines = show.lines();
    let line = lines.find(|line| normal(line).starts_with(title));
    line.unwrap_or_else(|| panic!("no {title} in {show}"))
}

#[test]
fn a_paused_scrub_keeps_its_place_over_a_restart_and_a_kill_and_goes_on_from_there() {
    let mut rotted = Rotted::new();
    rotted.up(SLOW);
    rotted.run("--no-wait");
    let before = rotted.wait_under_way(0);
    let waiting = rotted.waiting();
    rotted.run("--pause");
    let told = program::finished("array scrub pool --wait", waiting).exited(1);
    told.says(&["paused before its end", "next:", "cairn array scrub pool"]);
    assert_eq!(rotted.scrub().state, ScrubState::Paused);
    // Nothing is under way any more after a stop.
    rotted.world.host.down();
    let mended = rotted.mended();
    rotted.world.host.up();
    let paused = rotted.scrub();
    assert_eq!(paused.state, ScrubState::Paused, "{paused:#?}");
    assert!(paused.done_bytes >= before.done_bytes, "{paused:#?}");
    assert!(paused.done_bytes < paused.total_bytes, "{paused:#?}");
    assert_eq!(paused.repaired, mended, "{paused:#?}");
    assert!(mended < rotted.count(), "some are left for later");
    rotted.world.host.kill();
    rotted.world.host.up();
    assert_eq!(rotted.scrub(), paused, "a kill moves nothing");
    let show = rotted.world.host.ok(&["array", "show", "pool"]).stdout;
    assert!(shown(&show, "scrub state").contains("paused"), "{show}");

    rotted.run("--resume");
    assert!(rotted.began().starts_with("goes on at row "));
    assert!(!rotted.began().ends_with(" row 0"), "{}", rotted.began());
    let resumed = rotted.wait_under_way(paused.done_bytes);
    assert_eq!(resumed.started_unix_ms, paused.started_unix_ms);
    // One that runs goes on by itself, without a bound now; what the kill took is looked at once more.
    rotted.world.host.kill();
    rotted.up("");
    rotted.run("--wait");
    rotted.is_mended();
    io(&rotted.world.uri, &[READ]);
}

#[test]
fn a_stopped_scrub_stays_stopped_and_the_next_begins_at_the_beginning() {
    let mut rotted = Rotted::new();
    rotted.up(SLOW);
    rotted.run("--no-wait");
    rotted.wait_under_way(0);
    rotted.run("--stop");
    rotted.world.host.down();
    let mended = rotted.mended();
    assert!(mended < rotted.count(), "some are left for later");
    rotted.up("");
    let stopped = rotted.scrub();
    assert_eq!(stopped.state, ScrubState::Stopped, "{stopped:#?}");
    assert_eq!((stopped.runs, stopped.finished_unix_ms), (0, None));
    assert_eq!(stopped.repaired, mended);
    rotted.world.host.ok(&["array", "scrub", "pool", "--wait"]);
    assert_eq!(rotted.began(), "from the beginning");
    let scrub = rotted.scrub();
    assert_eq!(scrub.repaired, rotted.count() - mended, "{scrub:#?}");
    assert_eq!(rotted.mended(), rotted.count());
}

#[test]
fn what_cannot_be_done_to_a_scrub_is_refused_with_the_next_step_and_changes_nothing() {
    let mut rotted = Rotted::new();
    rotted.up(SLOW);
    let host = &rotted.world.host;
    let line = |verb| ["array", "scrub", "pool", verb];
    let refused = |verb: &'static str| {
        let what = format!("no scrub to {}", verb.trim_start_matches('-'));
        host.refuses(
            &line(verb),
            3,
            &["pool", &what, "next:", "`cairn array scrub pool`"],
        );
    };
    for verb in ["--pause", "--resume", "--stop"] {
        refused(verb);
        let unknown = ["array", "scrub", "lake", verb];
        host.refuses(&unknown, 1, &["lake", "next:", "cairn array list"]);
    }
    host.refuses(
        &["array", "scrub", "lake"],
        1,
        &["lake", "cairn array list"],
    );
    host.refuses(&[&line("--pause")[..], &["--stop"]].concat(), 3, &[]);
    assert_eq!(rotted.scrub(), Scrub::default(), "nothing was begun");

    rotted.run("--no-wait");
    let is_so = |verb, word| {
        let before = rotted.scrub();
        host.ok(&line(verb)).says(&["pool", word, "already"]);
        assert_eq!(rotted.scrub().state, before.state);
    };
    is_so("--resume", "running");
    is_so("--no-wait", "running");
    rotted.run("--pause");
    is_so("--pause", "paused");
    rotted.run("--stop");
    is_so("--stop", "stopped");
    refused("--pause");
    refused("--resume");
    assert_eq!(rotted.scrub().state, ScrubState::Stopped);
    host.ok(&["array", "stop", "pool", "--yes"]);
    let stopped = ["array", "scrub", "pool"];
    host.refuses(&stopped, 1, &["pool", "next:", "cairn array assemble pool"]);
}
