//! Values that tests render.

use cairn_api::{
    Array, ArrayFlag, ArrayMemory, ArrayState, ArrayWork, BackendKind, BadBlocks, Check, Disk,
    DiskContent, DiskKind, DiskRole, DiskWork, ErrorCounters, Event, Export, ExportState, Health,
    HealthCode, HealthLevel, HostInfo, IoBackend, Level, Member, MemberState, Scrub, ScrubState,
    Space, Spare, Status, SyncAction, SyncStatus, Tally, Version, Volume, VolumeWork, Work,
};

pub(crate) fn member(slot: u32, state: MemberState) -> Member {
    Member {
        path: format!("/d/{slot}"),
        uuid: String::new(),
        slot,
        state,
        errors: ErrorCounters::default(),
    }
}

pub(crate) fn rebuilding_array() -> Array {
    let mut members = vec![
        member(0, MemberState::InSync),
        member(1, MemberState::Rebuilding),
        member(2, MemberState::InSync),
        member(3, MemberState::InSync),
    ];
    members[0].errors.read = 2;
    Array {
        name: "pool".to_owned(),
        uuid: "7d0a4a6e-8a0e-4b9c-9d6f-0d2f4b1f6c11".to_owned(),
        level: Level::Raid6,
        chunk_bytes: 65536,
        size_bytes: 4 << 30,
        state: ArrayState::Rebuilding,
        redundancy_left: 1,
        members,
        spares: vec![Spare {
            path: "/d/s1".to_owned(),
            uuid: String::new(),
            state: MemberState::Spare,
            journal: false,
            errors: ErrorCounters::default(),
        }],
        host_spares: cairn_api::HostSpares::default(),
        journal: None,
        sync: SyncStatus {
            action: SyncAction::Rebuild,
            done_bytes: 1 << 30,
            total_bytes: 4 << 30,
            speed_bytes_per_second: 300 << 20,
            eta_seconds: Some(12),
            slots: vec![1],
        },
        scrub: Scrub {
            state: ScrubState::Idle,
            started_unix_ms: Some(1_790_000_000_000),
            finished_unix_ms: Some(1_790_000_600_000),
            runs: 2,
            repaired: 3,
            mismatched: 3,
            ..Scrub::default()
        },
        memory: Some(ArrayMemory {
            checksum_cache_bytes: 12 << 20,
            checksum_cache_bytes_max: 128 << 20,
            checksum_cache_hits: 987,
            checksum_cache_misses: 13,
            row_cache_bytes: 0,
            row_cache_bytes_max: 64 << 20,
            journal_bytes: 3 << 20,
            journal_bytes_max: 64 << 20,
        }),
        bad_blocks: vec![BadBlocks {
            path: "/d/2".to_owned(),
            slot: 2,
            offset_bytes: 20_975_616,
            len_bytes: 8192,
            reason: "checksum mismatch".to_owned(),
            since_unix_ms: 1_790_000_300_000,
            volume: Some("pg".to_owned()),
            volume_offset_bytes: Some(65536),
        }],
        bad_blocks_total: 2,
        created_unix_ms: 1_780_000_000_000,
        space: Space {
            extent_bytes: 64 << 20,
            allocated_bytes: 1 << 30,
            free_bytes: 3 << 30,
            provisioned_bytes: 8 << 30,
        },
        flags: vec![ArrayFlag::NoIntegrity],
        event_count: 7,
        reason: None,
        hint: None,
    }
}

pub(crate) fn disk(slot: u32, state: MemberState) -> Disk {
    Disk {
        path: format!("/d/{slot}"),
        kind: DiskKind::File,
        size_bytes: 1 << 30,
        logical_block_bytes: 4096,
        rotational: Some(false),
        model: None,
        serial: None,
        content: DiskContent::Cairn,
        signature: None,
        role: DiskRole::Member,
        array: Some("pool".to_owned()),
        uuid: None,
        slot: Some(slot),
        state: Some(state),
        errors: ErrorCounters::default(),
        note: None,
    }
}

pub(crate) fn volume() -> Volume {
    Volume {
        name: "pg".to_owned(),
        uuid: "0b1f6c11-8a0e-4b9c-9d6f-0d2f4b1f6c11".to_owned(),
        array: "pool".to_owned(),
        size_bytes: 8 << 30,
        allocated_bytes: 1 << 30,
        exports: vec![export()],
    }
}

pub(crate) fn export() -> Export {
    Export {
        volume: "pg".to_owned(),
        nbd: "unix:/run/cairn/pg.sock".to_owned(),
        uri: "nbd+unix:///pg?socket=/run/cairn/pg.sock".to_owned(),
        read_only: false,
        state: ExportState::Listening,
        connections: 3,
        error: None,
    }
}

pub(crate) fn health() -> Health {
    Health::of(vec![
        Check {
            code: HealthCode::SpareMissing,
            severity: HealthLevel::Warn,
            subject: "pool".to_owned(),
            message: "no spare is left".to_owned(),
            hint: "cairn array spare add pool PATH".to_owned(),
        },
        Check {
            code: HealthCode::ArrayRebuilding,
            severity: HealthLevel::Warn,
            subject: "pool".to_owned(),
            message: "slot 1 is being rebuilt".to_owned(),
            hint: String::new(),
        },
    ])
}

pub(crate) fn status() -> Status {
    Status {
        health: health(),
        host: HostInfo {
            name: "h1".to_owned(),
            uuid: "u".to_owned(),
            kernel: "6.12.0".to_owned(),
            cpus: 8,
            memory_bytes: 16 << 30,
            memory_available_bytes: 12 << 30,
            load_one: 0.25,
            uptime_seconds: 90_000,
        },
        daemon: Version {
            version: "0.1.0".to_owned(),
            pid: 77,
            state_dir: "/var/lib/cairn".to_owned(),
            socket: "/run/cairn/cairnd.sock".to_owned(),
            started_unix_ms: 1_790_000_000_000,
            uptime_seconds: 185,
        },
        io_backend: IoBackend {
            kind: BackendKind::Threads,
            registered_buffers: false,
            reason: Some("io_uring_setup: EPERM".to_owned()),
        },
        arrays: vec![rebuilding_array()],
        disks: vec![
            disk(0, MemberState::InSync),
            disk(1, MemberState::Rebuilding),
        ],
        volumes: vec![volume()],
        exports: vec![export()],
        events: vec![event()],
    }
}

pub(crate) fn event() -> Event {
    Event {
        id: 9,
        time_unix_ms: 1_790_000_000_123,
        time: "2026-09-21T14:13:20.123Z".to_owned(),
        kind: "RebuildStarted".to_owned(),
        array: Some("pool".to_owned()),
        disk: Some("/d/s0".to_owned()),
        volume: None,
        detail: "slot 1".to_owned(),
    }
}

pub(crate) fn work() -> Work {
    Work {
        taken_unix_ms: 1_700_000_000_000,
        pid: 7,
        arrays: vec![ArrayWork {
            name: "pool".to_owned(),
            uuid: "7d0a4a6e-8a0e-4b9c-9d6f-0d2f4b1f6c11".to_owned(),
            taken_unix_ms: 1_700_000_000_000,
            running_ns: 5_000_000_000,
            cpu_ns: 70_000_000,
            state: ArrayState::Clean,
            redundancy_left: 2,
            size_bytes: 1 << 40,
            free_bytes: 1 << 39,
            journal_used_bytes: 0,
            journal_total_bytes: 1 << 26,
            checksum_cache_hits: 10,
            checksum_cache_misses: 1,
            memory_used_bytes: 1 << 20,
            volumes: vec![VolumeWork {
                name: "pg".to_owned(),
                uuid: "v".to_owned(),
                tally: Tally::default(),
            }],
            disks: vec![DiskWork {
                path: "/d/0".to_owned(),
                uuid: "d".to_owned(),
                slot: Some(0),
                state: MemberState::InSync,
                in_flight: 2,
                tally: Tally::default(),
                errors: ErrorCounters::default(),
            }],
        }],
        idle_volumes_left_out: false,
    }
}
