//! Arrays, volumes and exports on files: what is kept over stops, kills and restarts.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use cairn_api::routes;
use cairn_api::{
    Array, ArrayList, ArrayState, AssembleArray, Changed, CreateArray, CreateVolume, DeleteVolume,
    DestroyArray, DiskList, DiskRole, ErrorCode, ErrorDetail, EventPage, ExportState, ExportVolume,
    FailDisk, Level, MemberState, RemoveDisk, SpareChange, StopArray, UnexportVolume, Volume,
    WipeDisk,
};

use crate::common::{DISK_MIB, Daemon, TempDir, change, done, raid6, volume};

/// Reads without a bound would hang a failed test.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

fn export(daemon: &Daemon, name: &str, nbd: &str) -> Result<Changed, ErrorDetail> {
    let request = ExportVolume {
        nbd: nbd.into(),
        ..ExportVolume::default()
    };
    change(daemon, routes::VOLUME_EXPORT, name, &request)
}

/// The greeting of an NBD server.
fn greeting(socket: &std::path::Path) -> [u8; 8] {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
    let mut magic = [0; 8];
    stream.read_exact(&mut magic).unwrap();
    magic
}

#[test]
fn arrays_volumes_and_exports_survive_stops_and_kills() {
    let dir = TempDir::new();
    let socket = dir.join("pg.sock");
    let nbd = format!("unix:{}", socket.display());
    let mut daemon = Daemon::start(dir.path());
    let made = raid6(&daemon, &dir, 1);
    assert_eq!((made.state, made.redundancy_left), (ArrayState::Clean, 2));
    volume(&daemon, "pg", 32 << 20);
    export(&daemon, "pg", &nbd).unwrap();
    for kill in [false, true] {
        assert_eq!(&greeting(&socket), b"NBDMAGIC");
        if kill {
            daemon.kill();
        } else {
            assert!(daemon.stop().success());
            assert!(!socket.exists(), "a stop leaves the export's socket behind");
        }
        daemon = Daemon::start(dir.path());
        let array: Array = daemon.get(routes::ARRAY, "pool");
        assert_eq!(array.uuid, made.uuid);
        assert_eq!(array.state, ArrayState::Clean);
        let pg: Volume = daemon.get(routes::VOLUME, "pg");
        assert_eq!(pg.size_bytes, 32 << 20);
        assert_eq!(pg.exports.len(), 1);
        assert_eq!(pg.exports[0].state, ExportState::Listening);
    }
    assert_eq!(&greeting(&socket), b"NBDMAGIC");
}

#[test]
fn a_stopped_array_stays_stopped_until_it_is_assembled() {
    let dir = TempDir::new();
    let daemon = Daemon::start(dir.path());
    raid6(&daemon, &dir, 0);
    done(&daemon, routes::ARRAY_STOP, "pool", &StopArray::default());
    daemon.stop();
    let daemon = Daemon::start(dir.path());
    let array: Array = daemon.get(routes::ARRAY, "pool");
    assert_eq!(array.state, ArrayState::Stopped);
    let again = done(&daemon, routes::ARRAY_STOP, "pool", &StopArray::default());
    assert!(!again.changed, "{}", again.summary);
    let request = AssembleArray::default();
    let assembled = done(&daemon, routes::ARRAY_ASSEMBLE, "pool", &request);
    assert_eq!(assembled.array.unwrap().state, ArrayState::Clean);
}

#[test]
fn an_array_is_found_by_scan_after_the_state_directory_is_lost_and_not_started_by_itself() {
    let dir = TempDir::new();
    let disks = TempDir::new();
    let daemon = Daemon::start(dir.path());
    let made = raid6(&daemon, &disks, 1);
    volume(&daemon, "pg", 32 << 20);
    daemon.stop();
    // Other names and another order too: identity is in the labels.
    for (old, new) in [("d0", "x"), ("d3", "d0"), ("x", "d3"), ("s0", "z")] {
        std::fs::rename(disks.join(old), disks.join(new)).unwrap();
    }

    let fresh = TempDir::new();
    let file = fresh.join("cairnd.toml");
    let text = format!(
        "state_dir = '{}'\ndevices = ['{}/*']\ndegraded_wait_seconds = 0\n",
        fresh.path().display(),
        disks.path().display()
    );
    std::fs::write(&file, text).unwrap();
    let socket = fresh.join("cairnd.sock");
    let daemon = Daemon::start_with(&["--config", file.to_str().unwrap()], &socket);
    let arrays: ArrayList = daemon.get(routes::ARRAYS, "");
    assert_eq!(
        arrays.arrays,
        [],
        "an array of another host was started by itself"
    );
    let names = ["d0", "d1", "d2", "d3", "z"];
    let request = AssembleArray {
        scan: names
            .iter()
            .map(|name| disks.join(name).display().to_string())
            .collect(),
        ..AssembleArray::default()
    };
    let array = done(&daemon, routes::ARRAY_ASSEMBLE, "pool", &request)
        .array
        .unwrap();
    assert_eq!((array.uuid, array.state), (made.uuid, ArrayState::Clean));
    let pg: Volume = daemon.get(routes::VOLUME, "pg");
    assert_eq!(pg.array, "pool");
    // From now on it is this host's.
    daemon.stop();
    let daemon = Daemon::start_with(&["--config", file.to_str().unwrap()], &socket);
    let array: Array = daemon.get(routes::ARRAY, "pool");
    assert_eq!(array.state, ArrayState::Clean);
}

#[test]
fn the_last_redundancy_goes_only_with_yes_and_the_last_copy_never() {
    let dir = TempDir::new();
    let daemon = Daemon::start(dir.path());
    let array = raid6(&daemon, &dir, 0);
    let fail = |slot: usize, yes, dry_run| {
        let path = array.members[slot].path.clone();
        change(
            &daemon,
            routes::DISK_FAIL,
            "",
            &FailDisk { path, yes, dry_run },
        )
    };
    assert_eq!(fail(0, false, false).unwrap().redundancy_left, Some(1));
    let dry = fail(1, false, true).unwrap();
    assert!(dry.dry_run && dry.needs_yes);
    assert_eq!(
        fail(1, false, false).unwrap_err().code,
        ErrorCode::ConfirmationRequired
    );
    let failed = fail(1, true, false).unwrap();
    assert_eq!(failed.redundancy_left, Some(0));
    assert_eq!(failed.array.unwrap().state, ArrayState::Degraded);
    assert_eq!(fail(2, true, false).unwrap_err().code, ErrorCode::ArrayBusy);
    let now: Array = daemon.get(routes::ARRAY, "pool");
    assert_eq!(now.members[2].state, MemberState::InSync);
}

#[test]
fn a_spare_takes_a_failed_members_place_by_itself_and_that_is_kept() {
    let dir = TempDir::new();
    let daemon = Daemon::start(dir.path());
    let array = raid6(&daemon, &dir, 1);
    let path = array.members[1].path.clone();
    let spare = array.spares[0].path.clone();
    let request = FailDisk {
        path: path.clone(),
        yes: false,
        dry_run: false,
    };
    done(&daemon, routes::DISK_FAIL, "", &request);
    let mut after = 0;
    loop {
        let path = format!("{}?after={after}&wait_ms=20000", routes::EVENTS.path);
        let (_, text) = daemon.raw("GET", &path, b"");
        let page: EventPage = serde_json::from_str(&text).unwrap();
        assert!(!page.events.is_empty(), "no SpareActive came");
        if page.events.iter().any(|event| event.kind == "SpareActive") {
            break;
        }
        after = page.last_id;
    }
    let remove = RemoveDisk {
        path,
        yes: false,
        dry_run: false,
    };
    done(&daemon, routes::DISK_REMOVE, "", &remove);
    daemon.stop();
    let daemon = Daemon::start(dir.path());
    let array: Array = daemon.get(routes::ARRAY, "pool");
    assert_eq!(array.state, ArrayState::Clean);
    assert_eq!(array.members[1].path, spare);
    let health: cairn_api::Health = daemon.get(routes::HEALTH, "");
    let codes: Vec<_> = health.checks.iter().map(|c| c.code.as_str()).collect();
    assert!(codes.contains(&"SPARE_MISSING"), "{codes:?}");
}

#[test]
fn names_are_taken_once_and_disks_too() {
    let dir = TempDir::new();
    let daemon = Daemon::start(dir.path());
    let array = raid6(&daemon, &dir, 1);
    let create = |name: &str, disks: Vec<String>| {
        let request = CreateArray {
            name: name.into(),
            level: Level::Raid1,
            disks,
            spares: Vec::new(),
            chunk_bytes: None,
            journal_bytes: None,
            integrity: cairn_api::Integrity::default(),
            journal_disks: Vec::new(),
            no_journal: false,
            wipe: Vec::new(),
            dry_run: false,
        };
        change(&daemon, routes::ARRAY_CREATE, "", &request).unwrap_err()
    };
    let (free, other) = (dir.disk("free", DISK_MIB), dir.disk("other", DISK_MIB));
    assert_eq!(
        create("pool", vec![free.clone(), other]).code,
        ErrorCode::NameTaken
    );
    let used = create("pool2", vec![free.clone(), array.members[0].path.clone()]);
    assert_eq!(used.code, ErrorCode::DiskInUse);
    assert!(used.message.contains("in array pool"), "{used}");
    let hard = dir.join("hard").display().to_string();
    std::fs::hard_link(&array.spares[0].path, &hard).unwrap();
    assert_eq!(create("pool2", vec![free, hard]).code, ErrorCode::DiskInUse);
    volume(&daemon, "pg", 32 << 20);
    let twice = CreateVolume {
        name: "pg".into(),
        array: "pool".into(),
        size_bytes: 32 << 20,
        dry_run: false,
    };
    let taken = change(&daemon, routes::VOLUME_CREATE, "", &twice).unwrap_err();
    assert_eq!(taken.code, ErrorCode::NameTaken);
}

#[test]
fn a_volume_beyond_its_array_is_made_with_a_warning() {
    let dir = TempDir::new();
    let daemon = Daemon::start(dir.path());
    let array = raid6(&daemon, &dir, 0);
    assert_eq!(volume(&daemon, "fits", 4096).warnings, Vec::<String>::new());
    let large = volume(&daemon, "large", array.size_bytes + 4096);
    assert!(
        large.warnings[0].contains("overcommitted"),
        "{:?}",
        large.warnings
    );
    let request = CreateVolume {
        name: "odd".into(),
        array: "pool".into(),
        size_bytes: 1000,
        dry_run: false,
    };
    let refused = change(&daemon, routes::VOLUME_CREATE, "", &request).unwrap_err();
    assert_eq!(refused.code, ErrorCode::InvalidArgument);
}

#[test]
fn exports_are_refused_where_nobody_should_listen() {
    let dir = TempDir::new();
    let daemon = Daemon::start(dir.path());
    raid6(&daemon, &dir, 0);
    volume(&daemon, "pg", 32 << 20);
    volume(&daemon, "other", 32 << 20);
    let refused = |nbd: &str, words: &str| {
        let error = export(&daemon, "pg", nbd).unwrap_err();
        assert_eq!(error.code, ErrorCode::ExportAddress, "{nbd}");
        assert!(error.message.contains(words), "{nbd}: {error}");
    };
    refused("tcp:0.0.0.0:10809", "TLS");
    refused("unix:pg.sock", "absolute");
    refused(&format!("unix:/{}", "x".repeat(120)), "121 bytes");
    refused(
        &format!("unix:{}/no/pg.sock", dir.path().display()),
        "create it first",
    );
    refused(
        &format!("unix:{}/cairnd.sock", dir.path().display()),
        "in use",
    );
    refused(&format!("unix:{}/d0", dir.path().display()), "is no socket");
    let nbd = format!("unix:{}", dir.join("pg.sock").display());
    export(&daemon, "pg", &nbd).unwrap();
    assert!(
        !export(&daemon, "pg", &nbd).unwrap().changed,
        "twice is once"
    );
    let error = export(&daemon, "other", &nbd).unwrap_err();
    assert_eq!(error.code, ErrorCode::ExportAddress);
    assert!(error.message.contains("volume pg"), "{error}");
}

#[test]
fn what_is_exported_is_neither_deleted_nor_destroyed() {
    let dir = TempDir::new();
    let daemon = Daemon::start(dir.path());
    raid6(&daemon, &dir, 0);
    volume(&daemon, "pg", 32 << 20);
    let socket = dir.join("pg.sock");
    export(&daemon, "pg", &format!("unix:{}", socket.display())).unwrap();
    let (delete, destroy) = (
        DeleteVolume {
            yes: true,
            dry_run: false,
        },
        DestroyArray {
            yes: true,
            dry_run: false,
        },
    );
    let refused = change(&daemon, routes::VOLUME_DELETE, "pg", &delete).unwrap_err();
    assert_eq!(refused.code, ErrorCode::ArrayBusy);
    let refused = change(&daemon, routes::ARRAY_DESTROY, "pool", &destroy).unwrap_err();
    assert_eq!(refused.code, ErrorCode::ArrayBusy);
    assert!(refused.message.contains("pg"), "{refused}");
    done(
        &daemon,
        routes::VOLUME_UNEXPORT,
        "pg",
        &UnexportVolume::default(),
    );
    assert!(!socket.exists());
    let unsure = change(
        &daemon,
        routes::VOLUME_DELETE,
        "pg",
        &DeleteVolume::default(),
    );
    assert_eq!(unsure.unwrap_err().code, ErrorCode::ConfirmationRequired);
    done(&daemon, routes::VOLUME_DELETE, "pg", &delete);
    done(&daemon, routes::ARRAY_DESTROY, "pool", &destroy);
    let arrays: ArrayList = daemon.get(routes::ARRAYS, "");
    assert_eq!(arrays.arrays, []);
    daemon.stop();
    let daemon = Daemon::start(dir.path());
    let arrays: ArrayList = daemon.get(routes::ARRAYS, "");
    assert_eq!(arrays.arrays, [], "a destroyed array came back");
    // Its disks are blank again.
    raid6(&daemon, &dir, 0);
}

#[test]
fn spares_come_and_go_and_a_disk_is_wiped_only_when_it_is_free() {
    let dir = TempDir::new();
    let daemon = Daemon::start(dir.path());
    let array = raid6(&daemon, &dir, 0);
    let path = dir.disk("spare", DISK_MIB);
    let spare = |yes, dry_run| SpareChange {
        path: path.clone(),
        wipe: false,
        yes,
        dry_run,
    };
    let dry = done(&daemon, routes::SPARE_ADD, "pool", &spare(false, true));
    assert_eq!(dry.array.unwrap().spares, []);
    let added = done(&daemon, routes::SPARE_ADD, "pool", &spare(false, false));
    assert_eq!(added.array.unwrap().spares[0].path, path);
    let wipe = |path: &str, yes| {
        let request = WipeDisk {
            path: path.to_owned(),
            yes,
            dry_run: false,
        };
        change(&daemon, routes::DISK_WIPE, "", &request)
    };
    assert_eq!(wipe(&path, true).unwrap_err().code, ErrorCode::DiskInUse);
    assert_eq!(
        wipe(&array.members[0].path, true).unwrap_err().code,
        ErrorCode::DiskInUse
    );
    let unsure = change(&daemon, routes::SPARE_REMOVE, "pool", &spare(false, false));
    assert_eq!(unsure.unwrap_err().code, ErrorCode::ConfirmationRequired);
    done(&daemon, routes::SPARE_REMOVE, "pool", &spare(true, false));
    let disks: DiskList = daemon.get(routes::DISKS, "");
    let ours: Vec<_> = disks.disks.iter().filter(|d| d.array.is_some()).collect();
    assert_eq!(ours.len(), 4);
    assert!(ours.iter().all(|disk| disk.role == DiskRole::Member));
}
