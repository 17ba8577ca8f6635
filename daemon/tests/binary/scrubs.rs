//! Scrubs by request, what they say, and arrays that do without checksums or journal.

use std::os::unix::fs::FileExt;

use cairn_api::routes;
use cairn_api::{
    Array, ArrayFlag, Changed, CreateArray, ErrorCode, ErrorDetail, EventPage, Integrity, Level,
    ScrubAction, ScrubArray, ScrubState,
};

use crate::common::{DISK_MIB, Daemon, TempDir, change, done, raid6, volume};

fn scrub(daemon: &Daemon, name: &str, action: ScrubAction) -> Result<Changed, ErrorDetail> {
    let request = ScrubArray {
        action,
        dry_run: false,
    };
    change(daemon, routes::ARRAY_SCRUB, name, &request)
}

/// Waits for the end of a run, by the array's events and not by a clock.
fn until_runs(daemon: &Daemon, runs: u32) -> Array {
    loop {
        let array: Array = daemon.get(routes::ARRAY, "pool");
        if array.scrub.runs == runs && array.scrub.state == ScrubState::Idle {
            return array;
        }
        let page = format!("{}?after=999999&wait_ms=50", routes::EVENTS.path);
        daemon.raw("GET", &page, b"");
    }
}

fn events(daemon: &Daemon) -> Vec<String> {
    let page: EventPage = daemon.get(routes::EVENTS, "");
    page.events.into_iter().map(|event| event.kind).collect()
}

#[test]
fn a_scrub_by_request_mends_what_is_damaged_and_its_record_is_kept() {
    let dir = TempDir::new();
    let mut daemon = Daemon::start(dir.path());
    let made = raid6(&daemon, &dir, 0);
    assert!(made.flags.is_empty(), "{:?}", made.flags);
    assert!(made.created_unix_ms > 0 && made.scrub.finished_unix_ms.is_none());
    volume(&daemon, "pg", 32 << 20);
    // Both label slots of one member.
    let path = dir.join("d1");
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[0; 512], 2 << 20).unwrap();
    file.write_all_at(&[0; 512], (2 << 20) + (64 << 10))
        .unwrap();
    let dry = ScrubArray {
        dry_run: true,
        ..ScrubArray::default()
    };
    let would = done(&daemon, routes::ARRAY_SCRUB, "pool", &dry);
    assert!(would.dry_run && would.changed);
    assert_eq!(would.array.unwrap().scrub.runs, 0);
    assert!(scrub(&daemon, "pool", ScrubAction::Start).unwrap().changed);
    let array = until_runs(&daemon, 1);
    assert!(array.scrub.repaired >= 1, "{:?}", array.scrub);
    assert_eq!(array.scrub.unrepairable, 0);
    assert!(array.scrub.finished_unix_ms >= array.scrub.started_unix_ms);
    assert_eq!((array.bad_blocks_total, array.bad_blocks.len()), (0, 0));
    let kinds = events(&daemon);
    for kind in ["ScrubStarted", "Repaired", "ScrubFinished"] {
        assert!(kinds.iter().any(|k| k == kind), "{kind}: {kinds:?}");
    }
    let before = array.scrub;
    daemon.kill();
    daemon = Daemon::start(dir.path());
    let array: Array = daemon.get(routes::ARRAY, "pool");
    assert_eq!(array.scrub, before, "a kill forgets nothing of it");
    scrub(&daemon, "pool", ScrubAction::Start).unwrap();
    assert_eq!(until_runs(&daemon, 2).scrub.repaired, 0);
}

#[test]
fn what_cannot_be_done_to_a_scrub_is_refused_with_the_next_step() {
    let dir = TempDir::new();
    let daemon = Daemon::start(dir.path());
    raid6(&daemon, &dir, 0);
    for action in [ScrubAction::Pause, ScrubAction::Resume, ScrubAction::Stop] {
        let refused = scrub(&daemon, "pool", action).unwrap_err();
        assert_eq!(refused.code, ErrorCode::InvalidArgument);
        assert!(refused.hint.contains("cairn array scrub pool"), "{refused}");
    }
    let unknown = scrub(&daemon, "lake", ScrubAction::Start).unwrap_err();
    assert_eq!(unknown.code, ErrorCode::UnknownArray);
    let path = routes::ARRAY_SCRUB.with_name("pool");
    for body in [&b"{\"action\":\"halt\"}"[..], b"{\"pause\":true}"] {
        let (status, text) = daemon.raw("POST", &path, body);
        assert_eq!(status, 400, "{text}");
        assert!(text.contains("bad_request"), "{text}");
    }
    let stop = cairn_api::StopArray {
        yes: true,
        dry_run: false,
    };
    done(&daemon, routes::ARRAY_STOP, "pool", &stop);
    let stopped = scrub(&daemon, "pool", ScrubAction::Start).unwrap_err();
    assert_eq!(stopped.code, ErrorCode::ArrayNotStarted);
}

#[test]
fn an_array_without_checksums_or_journal_is_made_with_warnings_and_says_so_ever_after() {
    let dir = TempDir::new();
    let daemon = Daemon::start(dir.path());
    let request = CreateArray {
        name: "pool".into(),
        level: Level::Raid1,
        disks: vec![dir.disk("d0", DISK_MIB), dir.disk("d1", DISK_MIB)],
        spares: Vec::new(),
        chunk_bytes: None,
        journal_bytes: None,
        integrity: Integrity::None,
        journal_disks: Vec::new(),
        no_journal: true,
        wipe: Vec::new(),
        dry_run: false,
    };
    let made = done(&daemon, routes::ARRAY_CREATE, "", &request);
    assert!(
        made.warnings
            .iter()
            .any(|w| w.contains("WITHOUT A JOURNAL"))
    );
    assert!(
        made.warnings
            .iter()
            .any(|w| w.contains("without checksums"))
    );
    let flags = [ArrayFlag::NoIntegrity, ArrayFlag::NoJournal];
    assert_eq!(made.array.unwrap().flags, flags);
    let array: Array = daemon.get(routes::ARRAY, "pool");
    assert_eq!(array.flags, flags);
    let (status, _) = daemon.raw(
        "POST",
        routes::ARRAY_CREATE.path,
        b"{\"name\":\"x\",\"level\":\"raid1\",\"disks\":[],\"integrity\":\"sha1\"}",
    );
    assert_eq!(status, 400);
}
