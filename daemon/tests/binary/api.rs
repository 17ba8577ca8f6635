//! The admin API over its socket: every route is there, and every error is in its words.

use crate::common::{Daemon, TempDir};
use cairn_api::routes::{self, Method};
use cairn_api::{
    ArrayList, Changed, CreateArray, Df, DfKind, ErrorBody, ErrorCode, Level, REQUEST_BYTES_MAX,
    Reply,
};

fn error(text: &str) -> cairn_api::ErrorDetail {
    let reply: Reply<ErrorBody> = serde_json::from_str(text).unwrap();
    reply.body.error
}

fn create(disks: Vec<String>) -> CreateArray {
    CreateArray {
        name: "pool".into(),
        level: Level::Raid5,
        disks,
        spares: Vec::new(),
        chunk_bytes: None,
        journal_bytes: None,
        integrity: cairn_api::Integrity::default(),
        journal_disks: Vec::new(),
        no_journal: false,
        wipe: Vec::new(),
        dry_run: false,
    }
}

#[test]
fn every_route_of_the_table_is_served() {
    let dir = TempDir::new();
    let daemon = Daemon::start(dir.path());
    for route in routes::ALL {
        let method = match route.method {
            Method::Get => "GET",
            Method::Post => "POST",
        };
        let (_, text) = daemon.raw(method, &route.with_name("no-such-name"), b"{}");
        if route == routes::METRICS {
            assert!(text.ends_with("# EOF\n"), "{text}");
            continue;
        }
        let reply: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(reply["schema"], 1, "{route:?}");
        assert_ne!(reply["error"]["code"], "unknown_route", "{route:?}");
    }
}

#[test]
fn what_is_no_request_is_answered_in_json() {
    let dir = TempDir::new();
    let daemon = Daemon::start(dir.path());
    for (method, path) in [
        ("GET", "/v2/arrays"),
        ("DELETE", "/v1/arrays/pool"),
        ("GET", "/"),
    ] {
        let (status, text) = daemon.raw(method, path, b"");
        assert_eq!(
            (status, error(&text).code),
            (404, ErrorCode::UnknownRoute),
            "{method} {path}"
        );
    }
    let bodies: [&[u8]; 4] = [b"{", b"[]", br#"{"name":"x"}"#, b"\xff"];
    for body in bodies {
        let (status, text) = daemon.raw("POST", routes::ARRAY_CREATE.path, body);
        assert_eq!(
            (status, error(&text).code),
            (400, ErrorCode::BadRequest),
            "{body:?}"
        );
    }
    let misspelt = br#"{"yess":true}"#;
    let (status, text) = daemon.raw("POST", &routes::ARRAY_STOP.with_name("pool"), misspelt);
    assert_eq!((status, error(&text).code), (400, ErrorCode::BadRequest));
    let (status, text) = daemon.raw("GET", "/v1/events?aftr=1", b"");
    assert_eq!((status, error(&text).code), (400, ErrorCode::BadRequest));
}

#[test]
fn a_body_beyond_the_bound_is_refused() {
    let dir = TempDir::new();
    let daemon = Daemon::start(dir.path());
    let long = vec![b' '; REQUEST_BYTES_MAX + 1];
    let (status, text) = daemon.raw("POST", routes::ARRAY_CREATE.path, &long);
    assert_eq!((status, error(&text).code), (400, ErrorCode::BadRequest));
}

#[test]
fn unknown_names_have_their_own_codes() {
    let dir = TempDir::new();
    let daemon = Daemon::start(dir.path());
    let cases = [
        (routes::ARRAY, ErrorCode::UnknownArray),
        (routes::ARRAY_STOP, ErrorCode::UnknownArray),
        (routes::ARRAY_ASSEMBLE, ErrorCode::UnknownArray),
        (routes::ARRAY_DESTROY, ErrorCode::UnknownArray),
        (routes::VOLUME, ErrorCode::UnknownVolume),
        (routes::VOLUME_DELETE, ErrorCode::UnknownVolume),
        (routes::VOLUME_UNEXPORT, ErrorCode::UnknownVolume),
    ];
    for (route, code) in cases {
        let refused = daemon
            .ask::<serde_json::Value>(route, "nobody", &serde_json::json!({}))
            .unwrap_err();
        assert_eq!(refused.code, code, "{route:?}");
        assert!(refused.message.contains("nobody"), "{}", refused.message);
        assert!(!refused.hint.is_empty(), "{route:?} has no next step");
    }
}

#[test]
fn an_array_that_cannot_be_is_refused_before_a_disk_is_touched() {
    let dir = TempDir::new();
    let daemon = Daemon::start(dir.path());
    let disks: Vec<String> = (0..3).map(|i| dir.disk(&format!("d{i}"), 64)).collect();
    let link = dir.join("link").display().to_string();
    std::os::unix::fs::symlink(&disks[0], &link).unwrap();
    let small = dir.disk("small", 1);
    let swap = dir.disk("swap", 64);
    {
        use std::os::unix::fs::FileExt;
        let file = std::fs::OpenOptions::new().write(true).open(&swap).unwrap();
        file.write_all_at(b"SWAPSPACE2", 4096 - 10).unwrap();
    }
    let with = |change: &dyn Fn(&mut CreateArray)| {
        let mut request = create(disks.clone());
        change(&mut request);
        daemon
            .ask::<Changed>(routes::ARRAY_CREATE, "", &request)
            .unwrap_err()
    };
    let cases = [
        (
            with(&|r| r.disks.truncate(2)),
            ErrorCode::InvalidArgument,
            "at least 3",
        ),
        (
            with(&|r| r.chunk_bytes = Some(5000)),
            ErrorCode::InvalidArgument,
            "power of two",
        ),
        (
            with(&|r| r.chunk_bytes = Some(1 << 33)),
            ErrorCode::InvalidArgument,
            "power of two",
        ),
        (
            with(&|r| r.name = "a/b".into()),
            ErrorCode::InvalidArgument,
            "a/b",
        ),
        (
            with(&|r| r.disks[1] = "d1".into()),
            ErrorCode::InvalidArgument,
            "relative",
        ),
        (
            with(&|r| r.disks[1] = link.clone()),
            ErrorCode::DiskDuplicate,
            "same disk",
        ),
        (
            with(&|r| r.spares = vec![r.disks[0].clone()]),
            ErrorCode::DiskDuplicate,
            "twice",
        ),
        (
            with(&|r| r.disks[1] = "/no/disk".into()),
            ErrorCode::UnknownDisk,
            "/no/disk",
        ),
        (
            with(&|r| r.disks[1] = "/tmp".into()),
            ErrorCode::DiskUnusable,
            "give a block device or a regular file",
        ),
        (
            with(&|r| r.disks[1] = small.clone()),
            ErrorCode::DiskUnusable,
            "small",
        ),
        (
            with(&|r| r.disks[1] = swap.clone()),
            ErrorCode::DiskForeign,
            "swap",
        ),
        (
            with(&|r| r.wipe = vec![swap.clone()]),
            ErrorCode::InvalidArgument,
            "no disk of",
        ),
    ];
    for (refused, code, words) in cases {
        assert_eq!(refused.code, code, "{refused}");
        assert!(
            refused.message.contains(words),
            "{words:?} isn't in {:?}",
            refused.message
        );
    }
    let arrays: ArrayList = daemon.get(routes::ARRAYS, "");
    assert_eq!(arrays.arrays, []);
    for disk in &disks {
        let bytes = std::fs::read(disk).unwrap();
        assert!(bytes.iter().all(|&byte| byte == 0), "{disk} was written to");
    }
}

#[test]
fn a_foreign_disk_is_taken_when_wipe_names_it_and_a_dry_run_leaves_it_as_it_is() {
    use std::os::unix::fs::FileExt;
    let dir = TempDir::new();
    let daemon = Daemon::start(dir.path());
    let disks: Vec<String> = (0..3).map(|i| dir.disk(&format!("d{i}"), 64)).collect();
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&disks[1])
        .unwrap();
    file.write_all_at(b"SWAPSPACE2", 4096 - 10).unwrap();
    let mut request = create(disks.clone());
    request.wipe = vec![disks[1].clone()];
    request.dry_run = true;
    let dry: Changed = daemon.ask(routes::ARRAY_CREATE, "", &request).unwrap();
    assert!(dry.dry_run && dry.array.is_none());
    let bytes = std::fs::read(&disks[1]).unwrap();
    assert_eq!(&bytes[4086..4096], b"SWAPSPACE2");
    request.dry_run = false;
    let made: Changed = daemon.ask(routes::ARRAY_CREATE, "", &request).unwrap();
    assert!(made.array.is_some());
    let bytes = std::fs::read(&disks[1]).unwrap();
    assert!(
        bytes[..4096].iter().all(|&byte| byte == 0),
        "its signature is still there"
    );
}

#[test]
fn df_has_the_columns_of_gp_disk_free() {
    let dir = TempDir::new();
    let daemon = Daemon::start(dir.path());
    let df: Df = daemon.get(routes::DF, "");
    for row in df.rows {
        assert_eq!((row.dfsegment, row.kind), (-1, DfKind::Filesystem));
        assert!(!row.dfhostname.is_empty());
        assert!(row.dfspace <= row.size_kib, "{row:?}");
    }
}
