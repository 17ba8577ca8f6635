//! Scrub windows of the configuration: in them what is due begins by itself, outside of them it is held, and
//! what somebody asked for or paused is left alone.

use std::fs::File;
use std::os::unix::fs::FileExt;

use cairn_api::{Array, EventPage, Health, HealthCode, ScrubState};
use cairn_hwtests::program::{self, run};
use cairn_hwtests::scratch::Scratch;
use cairn_hwtests::wait;
use cairn_raid::label::Label;
use cairn_raid::layout::{LABEL_A, LABEL_B, LABEL_COPY_BEFORE_END};

use crate::world::{DISK_MIB, World, io};

const LABEL_BYTES: usize = 4096;
const DAY_MS: u64 = 86_400_000;
const HOUR_MINUTES: u32 = 60;
const DAY_MINUTES: u32 = 24 * HOUR_MINUTES;
/// So slow that it runs for minutes.
const SLOW: &str = "bytes_per_second_max = 1048576\n";

/// Where the daemons live: as far from UTC as can be, so that a window of local time isn't one of UTC.
const ZONE: &str = "FAR-12";

/// Now by a clock on their wall.
fn minute_of_the_day() -> u32 {
    let mut date = program::command("date", &["+%H:%M"]);
    date.env("TZ", ZONE);
    let said = program::finish(date).ok().stdout;
    let (hours, minutes) = said.trim().split_once(':').unwrap();
    hours.parse::<u32>().unwrap() * HOUR_MINUTES + minutes.parse::<u32>().unwrap()
}

/// A window of every day that begins and ends so many hours from now.
fn window(from_hours: u32, to_hours: u32) -> String {
    let now = minute_of_the_day();
    let time = |hours: u32| {
        let minute = (now + hours * HOUR_MINUTES) % DAY_MINUTES;
        format!("{:02}:{:02}", minute / HOUR_MINUTES, minute % HOUR_MINUTES)
    };
    let (from, to) = (time(from_hours), time(to_hours));
    format!("windows = ['{from}-{to}']\n")
}

/// It began two hours ago and goes on for two.
fn open() -> String {
    window(22, 2)
}

/// It isn't now, nor soon; by UTC it would be.
fn closed() -> String {
    window(10, 14)
}

/// A RAID 6 with something to scrub, and the configuration that its daemon has.
struct Kept {
    world: World,
    /// Of the checksum cache, which tells that a configuration has come to the array.
    cache_mib: u64,
}

impl Kept {
    /// Made forty days ago, to its labels; never scrubbed.
    fn due(scrub: &str) -> Self {
        let mut world = World::new("raid6", 5, 0, "128MiB");
        io(&world.uri, &["write -P 0x5d 1M 90M", "flush"]);
        world.host.down();
        for path in &world.disks {
            let disk = File::options().read(true).write(true).open(path).unwrap();
            for at in [LABEL_A, LABEL_B, (DISK_MIB << 20) - LABEL_COPY_BEFORE_END] {
                let mut bytes = [0; LABEL_BYTES];
                disk.read_exact_at(&mut bytes, at).unwrap();
                let mut label = Label::decode(&bytes).unwrap();
                label.array.created_ms -= 40 * DAY_MS;
                disk.write_all_at(&label.encode(), at).unwrap();
            }
        }
        let mut kept = Self {
            world,
            cache_mib: 64,
        };
        kept.write(scrub);
        kept.world.host.live_in(ZONE);
        kept.world.host.up();
        kept
    }

    fn write(&self, scrub: &str) {
        let text = format!(
            "degraded_wait_seconds = 1\n[memory]\nchecksum_cache_bytes = {}\n[scrub]\n{scrub}",
            self.cache_mib << 20
        );
        std::fs::write(self.world.scratch.join("state.toml"), text).unwrap();
    }

    /// The daemon is given another configuration.
    fn reload(&self, scrub: &str, word: &str) {
        let before = self.world.host.log().matches(word).count();
        self.write(scrub);
        let pid = self.world.host.pid().to_string();
        run("kill", &["-HUP", &pid]).ok();
        wait::until("the reload", || {
            let log = self.world.host.log();
            let more = log.matches(word).count() > before;
            more.then_some(()).ok_or(log)
        });
    }

    fn configure(&self, scrub: &str) {
        self.reload(scrub, "the configuration was reloaded");
    }

    /// The daemon has looked at its arrays' scrubs: a look begins with the settings that arrays take over, so the
    /// one before the second change is over.
    fn wait_looked_at(&mut self, scrub: &str) -> Array {
        for _ in 0..2 {
            self.cache_mib -= 8;
            self.configure(scrub);
            let cache_bytes = self.cache_mib << 20;
            let has_it = |array: &Array| {
                let memory = array.memory.unwrap();
                // Pages of checksums aren't cut.
                memory.checksum_cache_bytes_max.div_ceil(1 << 20) << 20 == cache_bytes
            };
            let host = &self.world.host;
            host.wait_array("pool", "a look at it", has_it);
        }
        self.world.array()
    }

    fn wait_scrub(&self, state: ScrubState) -> Array {
        let host = &self.world.host;
        let what = format!("a scrub that is {}", state.as_str());
        host.wait_array("pool", &what, |array| array.scrub.state == state)
    }

    fn said(&self, kind: &str, words: &str) -> bool {
        let page: EventPage = self.world.host.json(&["events", "-n", "1000"]);
        let mut events = page.events.iter();
        events.any(|event| event.kind == kind && event.detail.contains(words))
    }

    fn is_overdue(&self) -> bool {
        let health: Health = self.world.host.health();
        let mut checks = health.checks.iter();
        checks.any(|check| check.code == HealthCode::ScrubOverdue)
    }
}

#[test]
fn a_scrub_that_is_due_begins_in_its_window_and_is_held_outside_of_it() {
    let closed = closed() + SLOW;
    let mut kept = Kept::due(&closed);
    assert!(kept.is_overdue());
    let idle = kept.wait_looked_at(&closed).scrub;
    assert_eq!((idle.state, idle.started_unix_ms), (ScrubState::Idle, None));

    kept.configure(&(open() + SLOW));
    kept.wait_scrub(ScrubState::Running);
    let host = &kept.world.host;
    let begun = host.wait_array("pool", "its progress", |array| array.scrub.done_bytes > 0);
    kept.configure(&closed);
    let held = kept.wait_scrub(ScrubState::Waiting);
    wait::until("word of it", || {
        let is_told = kept.said("ScrubPaused", "until its next window");
        is_told.then_some(()).ok_or_else(|| kept.world.host.log())
    });
    assert!(held.scrub.done_bytes >= begun.scrub.done_bytes, "{held:#?}");
    kept.world.host.kill();
    kept.world.host.up();
    let kept_waiting = kept.world.array().scrub;
    assert_eq!(kept_waiting.state, ScrubState::Waiting);
    assert!(kept_waiting.done_bytes >= begun.scrub.done_bytes);
    let show = kept.world.host.ok(&["array", "show", "pool"]);
    show.says(&["waiting"]);

    // Without a bound it ends soon.
    kept.configure(&open());
    let host = &kept.world.host;
    let ended = host.wait_array("pool", "its end", |array| array.scrub.runs == 1);
    assert!(kept.said("ScrubStarted", "goes on at row "));
    let scrub = &ended.scrub;
    assert_eq!(scrub.state, ScrubState::Idle);
    assert_eq!(scrub.started_unix_ms, kept_waiting.started_unix_ms);
    assert!(scrub.finished_unix_ms > scrub.started_unix_ms, "{scrub:#?}");
    assert!(!kept.is_overdue());
    // The next one is due in a month.
    let after = kept.wait_looked_at(&open()).scrub;
    assert_eq!((after.state, after.runs), (ScrubState::Idle, 1));
    assert_eq!(after.started_unix_ms, scrub.started_unix_ms);
}

#[test]
fn a_scrub_by_request_runs_outside_of_windows_and_a_paused_one_is_not_resumed_by_one() {
    let closed = closed() + SLOW;
    let mut kept = Kept::due(&closed);
    kept.world.host.ok(&["array", "scrub", "pool", "--no-wait"]);
    let scrub = kept.wait_looked_at(&closed).scrub;
    assert_eq!(scrub.state, ScrubState::Running, "{scrub:#?}");
    kept.world.host.ok(&["array", "scrub", "pool", "--pause"]);
    let open = open() + SLOW;
    kept.configure(&open);
    let scrub = kept.wait_looked_at(&open).scrub;
    assert_eq!(scrub.state, ScrubState::Paused, "{scrub:#?}");
}

#[test]
fn o5_what_is_no_window_is_refused_with_its_place_and_an_example() {
    let scratch = Scratch::new();
    let file = scratch.text("bad.toml");
    let shape = "write it as \"Sat 02:00-06:00\"";
    for (windows, place, words) in [
        ("windows = ['Sat 2-6']", "2:12", ["Sat 2-6", shape]),
        ("windows = ['24:00-02:00']", "2:12", ["24:00-02:00", shape]),
        (
            "windows = [\n  '01:00-02:00',\n  'Someday 01:00-02:00']",
            "4:3",
            ["Someday", "use Mon, Tue"],
        ),
        (
            "windows = ['02:00-02:00']",
            "2:12",
            ["02:00-02:00", "it ends when it begins"],
        ),
        ("interval = '10m'", "2:12", ["10m", "between 1h and 366d"]),
    ] {
        std::fs::write(&file, format!("[scrub]\n{windows}\n")).unwrap();
        let place = format!("{file}:{place}");
        let words = [&place, words[0], words[1]];
        for line in [
            &["--config", &file, "--check-config"][..],
            &["--config", &file],
        ] {
            let refused = program::finish(program::command(program::binary("cairnd"), line));
            refused.exited(1).says(&words);
        }
    }
}

#[test]
fn o5_a_reload_with_what_is_no_window_changes_nothing() {
    let kept = Kept::due(&open());
    let file = kept.world.scratch.text("state.toml");
    let why = format!("the old one stays: {file}:5:12: window \"Sat 2-6\"");
    kept.reload("windows = ['Sat 2-6']\n", &why);
    // By the windows that it has.
    kept.wait_scrub(ScrubState::Running);
}
