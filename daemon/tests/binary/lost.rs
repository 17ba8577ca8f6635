//! Disks that fail, vanish, come late or come back, and commands that must not go halfway.

use std::os::unix::fs::FileExt;

use cairn_api::routes;
use cairn_api::{
    Array, ArrayList, ArrayState, Changed, DestroyArray, Disk, DiskContent, DiskList, ErrorCode,
    ErrorDetail, FailDisk, Health, MemberState, RemoveDisk, ReplaceDisk, ResizeVolume, SpareChange,
    routes::Route,
};

use crate::common::{DISK_MIB, Daemon, TempDir, change, done, raid6, volume};

/// A daemon that doesn't wait for disks.
fn hasty(dir: &TempDir) -> Daemon {
    let file = dir.join("cairnd.toml");
    let text = format!(
        "state_dir = '{}'\ndegraded_wait_seconds = 0\n",
        dir.path().display()
    );
    std::fs::write(&file, text).unwrap();
    let socket = dir.join("cairnd.sock");
    Daemon::start_with(&["--config", file.to_str().unwrap()], &socket)
}

fn spare(daemon: &Daemon, route: Route, path: &str, wipe: bool) -> Result<Changed, ErrorDetail> {
    let request = SpareChange {
        path: path.to_owned(),
        wipe,
        yes: false,
        dry_run: false,
    };
    change(daemon, route, "pool", &request)
}

fn fail(daemon: &Daemon, path: &str) -> Array {
    let request = FailDisk {
        path: path.to_owned(),
        yes: true,
        dry_run: false,
    };
    let failed = done(daemon, routes::DISK_FAIL, "", &request);
    failed.array.unwrap()
}

fn remove(daemon: &Daemon, path: &str) -> Changed {
    let request = RemoveDisk {
        path: path.to_owned(),
        yes: false,
        dry_run: false,
    };
    done(daemon, routes::DISK_REMOVE, "", &request)
}

fn replace(daemon: &Daemon, old: &str, new: &str) -> Result<Changed, ErrorDetail> {
    let request = ReplaceDisk {
        old: old.to_owned(),
        new: new.to_owned(),
        wipe: true,
        dry_run: false,
    };
    change(daemon, routes::DISK_REPLACE, "", &request)
}

/// Waits until nothing is left to do, without looking at a clock: the array's events say so.
fn until_clean(daemon: &Daemon) -> Array {
    loop {
        let array: Array = daemon.get(routes::ARRAY, "pool");
        if array.state == ArrayState::Clean {
            return array;
        }
        let page = format!("{}?after=999999&wait_ms=50", routes::EVENTS.path);
        daemon.raw("GET", &page, b"");
    }
}

/// Writes the magic of ext4 on a disk.
fn ext4(path: &str) -> Vec<u8> {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(&[0x53, 0xef], 1024 + 56).unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn a_failed_disk_comes_back_into_its_slot_and_a_removed_one_when_its_label_may_go() {
    let dir = TempDir::new();
    let daemon = Daemon::start(dir.path());
    let array = raid6(&daemon, &dir, 0);
    let (path, uuid) = (array.members[1].path.clone(), array.members[1].uuid.clone());
    assert_eq!(fail(&daemon, &path).members[1].state, MemberState::Failed);
    let shown: Disk = {
        let target = routes::DISK.with_query(&[("path", Some(path.clone()))]);
        let (_, text) = daemon.raw("GET", &target, b"");
        serde_json::from_str(&text).unwrap()
    };
    assert_eq!(shown.state, Some(MemberState::Failed));
    let back = spare(&daemon, routes::SPARE_ADD, &path, false).unwrap();
    assert!(back.summary.contains("caught up"), "{}", back.summary);
    let array = until_clean(&daemon);
    assert_eq!(
        (&array.members[1].path, &array.members[1].uuid),
        (&path, &uuid)
    );
    assert_eq!(array.spares, []);
    // One that the array has forgotten is trusted with nothing.
    fail(&daemon, &path);
    remove(&daemon, &path);
    let refused = spare(&daemon, routes::SPARE_ADD, &path, false).unwrap_err();
    assert!(refused.message.contains("label of array pool"), "{refused}");
    assert!(refused.hint.contains("--wipe"), "{}", refused.hint);
    spare(&daemon, routes::SPARE_ADD, &path, true).unwrap();
    let array = until_clean(&daemon);
    assert_eq!(array.members[1].path, path);
    assert_ne!(array.members[1].uuid, uuid);
    assert_eq!(array.spares, [], "the old entry is gone");
}

#[test]
fn the_last_ready_spare_is_guarded_beside_failed_disks_too() {
    let dir = TempDir::new();
    let daemon = Daemon::start(dir.path());
    let array = raid6(&daemon, &dir, 2);
    fail(&daemon, &array.members[0].path);
    let array = until_clean(&daemon);
    let states: Vec<_> = array.spares.iter().map(|s| (s.state, &s.path)).collect();
    assert_eq!(states.len(), 2, "{states:?}");
    let ready = array.spares.iter();
    let mut ready = ready.filter(|s| s.state == MemberState::Spare);
    let last = ready.next().unwrap().path.clone();
    let refused = spare(&daemon, routes::SPARE_REMOVE, &last, false).unwrap_err();
    assert_eq!(refused.code, ErrorCode::ConfirmationRequired);
    let failed = array.spares.iter().find(|s| s.path != last).unwrap();
    let refused = spare(&daemon, routes::SPARE_REMOVE, &failed.path, false).unwrap_err();
    assert!(refused.hint.contains("cairn disk remove"), "{refused}");
    remove(&daemon, &failed.path);
}

#[test]
fn a_missing_disk_is_named_by_where_it_was_and_forgotten_by_that_name() {
    let dir = TempDir::new();
    let daemon = Daemon::start(dir.path());
    let path = raid6(&daemon, &dir, 0).members[2].path.clone();
    daemon.stop();
    std::fs::rename(&path, dir.join("away")).unwrap();
    let daemon = hasty(&dir);
    let array: Array = daemon.get(routes::ARRAY, "pool");
    assert_eq!(array.members[2].state, MemberState::Missing);
    assert_eq!(array.members[2].path, path);
    let health: Health = daemon.get(routes::HEALTH, "");
    let lost = health.checks.iter().find(|check| check.subject == path);
    assert!(lost.unwrap().message.contains("missing"), "{health:?}");
    // Another disk at that path is another disk.
    dir.disk("d2", DISK_MIB);
    let target = routes::DISK.with_query(&[("path", Some(path.clone()))]);
    let (_, text) = daemon.raw("GET", &target, b"");
    let there: Disk = serde_json::from_str(&text).unwrap();
    assert_eq!(there.content, DiskContent::Blank);
    assert!(there.note.unwrap().contains("missing"));
    remove(&daemon, &path);
    spare(&daemon, routes::SPARE_ADD, &path, false).unwrap();
    assert_eq!(until_clean(&daemon).members[2].path, path);
}

#[test]
fn a_disk_is_found_by_every_path_to_it() {
    let dir = TempDir::new();
    let daemon = Daemon::start(dir.path());
    let array = raid6(&daemon, &dir, 0);
    let link = dir.join("by-id").display().to_string();
    std::os::unix::fs::symlink(&array.members[3].path, &link).unwrap();
    assert_eq!(fail(&daemon, &link).members[3].state, MemberState::Failed);
}

#[test]
fn a_refused_replace_or_spare_wipes_nothing() {
    let dir = TempDir::new();
    let daemon = Daemon::start(dir.path());
    let array = raid6(&daemon, &dir, 1);
    let (new, small) = (dir.disk("new", DISK_MIB), dir.disk("small", 16));
    let (new_before, small_before) = (ext4(&new), ext4(&small));
    let spare_path = array.spares[0].path.clone();
    let refused = replace(&daemon, &spare_path, &new).unwrap_err();
    assert_eq!(refused.code, ErrorCode::ArrayBusy, "{refused}");
    let refused = replace(&daemon, &array.members[0].path, &small).unwrap_err();
    assert_eq!(refused.code, ErrorCode::DiskUnusable, "{refused}");
    let refused = spare(&daemon, routes::SPARE_ADD, &small, true).unwrap_err();
    assert_eq!(refused.code, ErrorCode::DiskUnusable, "{refused}");
    assert!(std::fs::read(&new).unwrap() == new_before);
    assert!(std::fs::read(&small).unwrap() == small_before);
}

#[test]
fn a_spare_of_the_array_can_take_a_members_place() {
    let dir = TempDir::new();
    let daemon = Daemon::start(dir.path());
    let array = raid6(&daemon, &dir, 1);
    let (old, new) = (&array.members[1].path, &array.spares[0].path);
    replace(&daemon, old, new).unwrap();
    let array = until_clean(&daemon);
    assert_eq!(array.members[1].path, *new);
    assert_eq!(array.spares, [], "the old disk has left");
    let disks: DiskList = daemon.get(routes::DISKS, "");
    assert!(disks.disks.iter().all(|disk| disk.path != *old));
}

#[test]
fn an_array_that_cannot_start_can_be_destroyed_and_stays_away() {
    let dir = TempDir::new();
    let daemon = Daemon::start(dir.path());
    let array = raid6(&daemon, &dir, 0);
    daemon.stop();
    for member in &array.members[..3] {
        std::fs::remove_file(&member.path).unwrap();
    }
    let daemon = hasty(&dir);
    let left: Array = daemon.get(routes::ARRAY, "pool");
    assert_eq!(left.state, ArrayState::Incomplete);
    let destroy = |yes| {
        let request = DestroyArray {
            yes,
            dry_run: false,
        };
        change(&daemon, routes::ARRAY_DESTROY, "pool", &request)
    };
    assert_eq!(
        destroy(false).unwrap_err().code,
        ErrorCode::ConfirmationRequired
    );
    destroy(true).unwrap();
    let target = routes::DISK.with_query(&[("path", Some(array.members[3].path.clone()))]);
    let (_, text) = daemon.raw("GET", &target, b"");
    let disk: Disk = serde_json::from_str(&text).unwrap();
    assert_eq!(disk.content, DiskContent::Blank);
    daemon.stop();
    let daemon = hasty(&dir);
    let arrays: ArrayList = daemon.get(routes::ARRAYS, "");
    assert_eq!(arrays.arrays, []);
}

#[test]
fn a_destroyed_array_leaves_no_label_on_a_disk_that_had_failed() {
    let dir = TempDir::new();
    let daemon = Daemon::start(dir.path());
    let array = raid6(&daemon, &dir, 0);
    fail(&daemon, &array.members[0].path);
    let request = DestroyArray {
        yes: true,
        dry_run: false,
    };
    let destroyed = done(&daemon, routes::ARRAY_DESTROY, "pool", &request);
    assert_eq!(destroyed.warnings, Vec::<String>::new());
    raid6(&daemon, &dir, 0);
}

#[test]
fn a_spare_that_turns_up_late_is_waited_for() {
    let dir = TempDir::new();
    let daemon = Daemon::start(dir.path());
    let spare = raid6(&daemon, &dir, 1).spares[0].path.clone();
    daemon.stop();
    let away = dir.join("away");
    std::fs::rename(&spare, &away).unwrap();
    let socket = dir.join("cairnd.sock");
    let late = std::thread::spawn({
        let spare = spare.clone();
        move || {
            // The daemon listens before it looks for disks.
            while !socket.exists() {
                std::thread::yield_now();
            }
            std::fs::rename(&away, &spare).unwrap();
        }
    });
    let daemon = Daemon::start(dir.path());
    late.join().unwrap();
    let array: Array = daemon.get(routes::ARRAY, "pool");
    assert_eq!(array.spares.len(), 1);
    assert_eq!(array.spares[0].state, MemberState::Spare);
}

#[test]
fn a_volume_never_shrinks_not_even_with_consent() {
    let dir = TempDir::new();
    let daemon = Daemon::start(dir.path());
    raid6(&daemon, &dir, 0);
    volume(&daemon, "pg", 32 << 20);
    for (yes, dry_run) in [(false, false), (true, false), (true, true)] {
        let request = ResizeVolume {
            size_bytes: 16 << 20,
            yes,
            dry_run,
        };
        let refused = change(&daemon, routes::VOLUME_RESIZE, "pg", &request).unwrap_err();
        assert_eq!(refused.code, ErrorCode::InvalidArgument);
        assert!(refused.message.contains("shrink"), "{refused}");
    }
}
