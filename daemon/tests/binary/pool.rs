//! The host's pool of spares: who gets its disks, and that they are nowhere else.

use cairn_api::routes;
use cairn_api::{
    AddDisks, Array, ArrayState, CreateArray, DiskList, DiskRole, ErrorCode, EventPage, FailDisk,
    Health, Level, MemberState, RemoveDisk, SpareChange, WipeDisk,
};

use crate::common::{DISK_MIB, Daemon, TempDir, change, done, raid6};

fn add(paths: &[&str]) -> AddDisks {
    AddDisks {
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        wipe: Vec::new(),
        dry_run: false,
    }
}

fn remove(path: &str, yes: bool, dry_run: bool) -> RemoveDisk {
    RemoveDisk {
        path: path.into(),
        yes,
        dry_run,
    }
}

fn fail(daemon: &Daemon, path: &str) {
    let request = FailDisk {
        path: path.into(),
        yes: true,
        dry_run: false,
    };
    done(daemon, routes::DISK_FAIL, "", &request);
}

/// Waits for an event of this kind.
fn await_event(daemon: &Daemon, kind: &str) {
    let mut after = 0;
    loop {
        let path = format!("{}?after={after}&wait_ms=20000", routes::EVENTS.path);
        let (_, text) = daemon.raw("GET", &path, b"");
        let page: EventPage = serde_json::from_str(&text).unwrap();
        assert!(!page.events.is_empty(), "no {kind} came");
        if page.events.iter().any(|event| event.kind == kind) {
            return;
        }
        after = page.last_id;
    }
}

/// The disks in the pool, and how they fare.
fn pool(daemon: &Daemon) -> Vec<(String, MemberState)> {
    let list: DiskList = daemon.get(routes::DISKS, "");
    let pooled = list.disks.into_iter();
    let pooled = pooled.filter(|disk| disk.role == DiskRole::HostSpare);
    pooled
        .map(|disk| (disk.path, disk.state.unwrap()))
        .collect()
}

fn codes(daemon: &Daemon) -> Vec<String> {
    let health: Health = daemon.get(routes::HEALTH, "");
    let codes = health.checks.iter().map(|check| check.code.to_string());
    codes.collect()
}

#[test]
fn a_disk_of_the_pool_takes_a_lost_members_place_by_itself_and_is_missed_afterwards() {
    let dir = TempDir::new();
    let daemon = Daemon::start(dir.path());
    let array = raid6(&daemon, &dir, 0);
    let spare = dir.disk("p", DISK_MIB);
    done(&daemon, routes::DISK_ADD, "", &add(&[&spare]));
    assert_eq!(pool(&daemon), [(spare.clone(), MemberState::Spare)]);
    let offered: Array = daemon.get(routes::ARRAY, "pool");
    assert_eq!(offered.host_spares.fitting, 1);
    // A crash leaves it in the pool.
    daemon.kill();
    let daemon = Daemon::start(dir.path());
    assert_eq!(pool(&daemon), [(spare.clone(), MemberState::Spare)]);
    assert_eq!(codes(&daemon), Vec::<String>::new());
    fail(&daemon, &array.members[1].path);
    await_event(&daemon, "SpareActive");
    await_event(&daemon, "HostSpareTaken");
    assert_eq!(pool(&daemon), []);
    let gone = remove(&array.members[1].path, false, false);
    done(&daemon, routes::DISK_REMOVE, "", &gone);
    daemon.stop();
    let daemon = Daemon::start(dir.path());
    assert_eq!(pool(&daemon), []);
    let array: Array = daemon.get(routes::ARRAY, "pool");
    assert_eq!(array.state, ArrayState::Clean);
    assert_eq!(array.members[1].path, spare);
    assert!(codes(&daemon).contains(&"SPARE_MISSING".to_owned()));
}

#[test]
fn an_array_takes_its_own_spares_before_those_of_the_host() {
    let dir = TempDir::new();
    let daemon = Daemon::start(dir.path());
    let array = raid6(&daemon, &dir, 1);
    let spare = dir.disk("p", DISK_MIB);
    done(&daemon, routes::DISK_ADD, "", &add(&[&spare]));
    fail(&daemon, &array.members[0].path);
    await_event(&daemon, "SpareActive");
    assert_eq!(pool(&daemon), [(spare, MemberState::Spare)]);
    let missing = codes(&daemon);
    assert!(
        !missing.contains(&"SPARE_MISSING".to_owned()),
        "{missing:?}"
    );
}

#[test]
fn a_disk_of_the_pool_is_nobody_elses_until_it_is_taken_out_and_then_it_is_blank() {
    let dir = TempDir::new();
    let daemon = Daemon::start(dir.path());
    let array = raid6(&daemon, &dir, 0);
    let spare = dir.disk("p", DISK_MIB);
    let dry = AddDisks {
        dry_run: true,
        ..add(&[&spare])
    };
    assert!(done(&daemon, routes::DISK_ADD, "", &dry).dry_run);
    assert_eq!(pool(&daemon), []);
    done(&daemon, routes::DISK_ADD, "", &add(&[&spare]));
    let create = CreateArray {
        name: "other".into(),
        level: Level::Raid1,
        disks: vec![spare.clone(), dir.disk("q", DISK_MIB)],
        journal_disks: Vec::new(),
        spares: Vec::new(),
        chunk_bytes: None,
        journal_bytes: None,
        integrity: cairn_api::Integrity::default(),
        no_journal: false,
        wipe: vec![spare.clone()],
        dry_run: false,
    };
    let wipe = WipeDisk {
        path: spare.clone(),
        yes: true,
        dry_run: false,
    };
    let refused = [
        change(&daemon, routes::ARRAY_CREATE, "", &create).unwrap_err(),
        change(&daemon, routes::DISK_WIPE, "", &wipe).unwrap_err(),
        change(&daemon, routes::DISK_ADD, "", &add(&[&spare])).unwrap_err(),
    ];
    for detail in refused {
        assert_eq!(detail.code, ErrorCode::DiskInUse);
        assert!(detail.message.contains("pool of spares"), "{detail}");
    }
    let member = change(
        &daemon,
        routes::DISK_ADD,
        "",
        &add(&[&array.members[0].path]),
    );
    assert!(member.unwrap_err().message.contains("in array pool"));
    let preview = done(
        &daemon,
        routes::DISK_REMOVE,
        "",
        &remove(&spare, false, true),
    );
    assert!(preview.needs_yes, "it is the array's last spare");
    let unsure = change(
        &daemon,
        routes::DISK_REMOVE,
        "",
        &remove(&spare, false, false),
    );
    assert_eq!(unsure.unwrap_err().code, ErrorCode::ConfirmationRequired);
    done(
        &daemon,
        routes::DISK_REMOVE,
        "",
        &remove(&spare, true, false),
    );
    assert_eq!(codes(&daemon), Vec::<String>::new(), "fewer will do");
    done(&daemon, routes::ARRAY_CREATE, "", &create);
}

#[test]
fn a_disk_of_the_pool_can_be_given_to_an_array_without_a_word_on_wiping() {
    let dir = TempDir::new();
    let daemon = Daemon::start(dir.path());
    raid6(&daemon, &dir, 0);
    let spare = dir.disk("p", DISK_MIB);
    done(&daemon, routes::DISK_ADD, "", &add(&[&spare]));
    let request = |dry_run| SpareChange {
        path: spare.clone(),
        wipe: false,
        yes: false,
        dry_run,
    };
    assert!(done(&daemon, routes::SPARE_ADD, "pool", &request(true)).dry_run);
    assert_eq!(pool(&daemon).len(), 1);
    let array = done(&daemon, routes::SPARE_ADD, "pool", &request(false)).array;
    assert_eq!(array.unwrap().spares[0].path, spare);
    assert_eq!(pool(&daemon), []);
}

#[test]
fn a_disk_of_the_pool_that_is_gone_is_missed_by_name_until_it_is_forgotten() {
    let dir = TempDir::new();
    let disks = TempDir::new();
    let daemon = Daemon::start(dir.path());
    let spare = disks.disk("p", DISK_MIB);
    done(&daemon, routes::DISK_ADD, "", &add(&[&spare]));
    daemon.stop();
    std::fs::rename(disks.join("p"), disks.join("away")).unwrap();
    let daemon = Daemon::start(dir.path());
    assert_eq!(pool(&daemon), [(spare.clone(), MemberState::Missing)]);
    assert_eq!(codes(&daemon), ["DISK_FAILED"]);
    // It comes back by itself, and by request under another name.
    std::fs::rename(disks.join("away"), disks.join("p")).unwrap();
    await_event(&daemon, "HostSpareBack");
    assert_eq!(pool(&daemon), [(spare.clone(), MemberState::Spare)]);
    daemon.stop();
    std::fs::rename(disks.join("p"), disks.join("q")).unwrap();
    let daemon = Daemon::start(dir.path());
    let other = disks.join("q").display().to_string();
    done(&daemon, routes::DISK_ADD, "", &add(&[&other]));
    assert_eq!(pool(&daemon), [(other.clone(), MemberState::Spare)]);
    daemon.stop();
    std::fs::remove_file(disks.join("q")).unwrap();
    let daemon = Daemon::start(dir.path());
    done(
        &daemon,
        routes::DISK_REMOVE,
        "",
        &remove(&other, false, false),
    );
    assert_eq!(codes(&daemon), Vec::<String>::new());
}
