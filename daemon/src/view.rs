//! What raid says of an array, in the admin API's words.

use cairn_api::{
    Array, ArrayFlag, ArrayMemory, ArrayState, BadBlocks, ErrorCounters, HostSpares, JournalRing,
    Level, Member, MemberState, Scrub, ScrubState, Space, Spare, SyncAction, SyncStatus,
};
use cairn_raid::{ArrayStatus, ErrorCounts, MemberStatus, MemoryStatus};

/// The API's level for raid.
pub fn raid_level(level: Level) -> cairn_raid::Level {
    match level {
        Level::Raid1 => cairn_raid::Level::Raid1,
        Level::Raid5 => cairn_raid::Level::Raid5,
        Level::Raid6 => cairn_raid::Level::Raid6,
    }
}

fn level(level: cairn_raid::Level) -> Level {
    match level {
        cairn_raid::Level::Raid1 => Level::Raid1,
        cairn_raid::Level::Raid5 => Level::Raid5,
        cairn_raid::Level::Raid6 => Level::Raid6,
    }
}

pub(crate) fn member_state(state: cairn_raid::MemberState) -> MemberState {
    use cairn_raid::MemberState as Raid;
    match state {
        Raid::InSync => MemberState::InSync,
        Raid::Rebuilding => MemberState::Rebuilding,
        Raid::Spare => MemberState::Spare,
        Raid::Failed => MemberState::Failed,
        Raid::Missing => MemberState::Missing,
        Raid::Replacing => MemberState::Replacing,
        Raid::Removed => MemberState::Removed,
        Raid::Journal => MemberState::Journal,
    }
}

pub(crate) fn errors(counts: ErrorCounts) -> ErrorCounters {
    ErrorCounters {
        read: counts.read,
        write: counts.write,
        flush: counts.flush,
        corruption: counts.corruption,
        generation: counts.generation,
        timeouts: counts.timeouts,
    }
}

pub(crate) fn slot_number(slot: usize) -> u32 {
    u32::try_from(slot).unwrap_or(u32::MAX)
}

fn sync(status: &ArrayStatus) -> SyncStatus {
    let Some(sync) = status.sync else {
        return SyncStatus::default();
    };
    let filling = |m: &&MemberStatus| {
        use cairn_raid::MemberState as Raid;
        matches!(m.state, Raid::Rebuilding | Raid::Replacing)
    };
    let slots = status.members.iter().filter(filling);
    SyncStatus {
        action: match sync.action {
            cairn_raid::SyncAction::Rebuild => SyncAction::Rebuild,
            cairn_raid::SyncAction::Replace => SyncAction::Replace,
            // Told of beside this.
            cairn_raid::SyncAction::Scrub => SyncAction::Idle,
            cairn_raid::SyncAction::CatchUp => SyncAction::CatchUp,
        },
        done_bytes: sync.done_bytes,
        total_bytes: sync.total_bytes,
        speed_bytes_per_second: sync.bytes_per_second,
        eta_seconds: sync.eta_seconds,
        slots: slots.filter_map(|m| m.slot).map(slot_number).collect(),
    }
}

/// The API's word for where a scrub is.
pub fn scrub_state(state: cairn_raid::defects::ScrubState) -> ScrubState {
    use cairn_raid::defects::ScrubState as Raid;
    match state {
        Raid::Idle => ScrubState::Idle,
        Raid::Running => ScrubState::Running,
        Raid::Paused => ScrubState::Paused,
        Raid::Stopped => ScrubState::Stopped,
        Raid::Waiting => ScrubState::Waiting,
    }
}

fn scrub(status: &ArrayStatus) -> Scrub {
    let record = status.scrub;
    let known = |ms: u64| (ms > 0).then_some(ms);
    let progress = status.scrubbing.as_ref();
    Scrub {
        state: scrub_state(record.state),
        done_bytes: progress.map_or(0, |p| p.done_bytes),
        total_bytes: progress.map_or(0, |p| p.total_bytes),
        speed_bytes_per_second: progress.map_or(0, |p| p.bytes_per_second),
        eta_seconds: progress.and_then(|p| p.eta_seconds),
        started_unix_ms: known(record.started_ms),
        finished_unix_ms: known(record.finished_ms),
        runs: record.runs,
        repaired: record.repaired,
        mismatched: record.mismatched,
        unrepairable: record.unrepairable,
    }
}

fn bad_blocks(bad: &cairn_raid::BadBlock) -> BadBlocks {
    BadBlocks {
        path: bad.path.clone(),
        slot: slot_number(bad.slot),
        offset_bytes: bad.offset,
        len_bytes: bad.len,
        reason: bad.reason.to_string(),
        since_unix_ms: bad.since_ms,
        volume: bad.volume.as_ref().map(|(name, _)| name.clone()),
        volume_offset_bytes: bad.volume.as_ref().map(|(_, offset)| *offset),
    }
}

fn flags(status: &ArrayStatus) -> Vec<ArrayFlag> {
    let flags = [
        (status.no_integrity, ArrayFlag::NoIntegrity),
        (status.no_journal, ArrayFlag::NoJournal),
        (status.read_only.is_some(), ArrayFlag::ReadOnly),
    ];
    flags
        .into_iter()
        .filter_map(|(set, flag)| set.then_some(flag))
        .collect()
}

/// A running array.
pub fn array(status: &ArrayStatus) -> Array {
    let mut members = Vec::new();
    let mut spares = Vec::new();
    for disk in &status.members {
        let state = member_state(disk.state);
        match disk.slot {
            Some(slot) => members.push(Member {
                path: disk.path.clone(),
                uuid: disk.uuid.to_string(),
                slot: slot_number(slot),
                state,
                errors: errors(disk.errors),
            }),
            None => spares.push(Spare {
                path: disk.path.clone(),
                uuid: disk.uuid.to_string(),
                state,
                journal: disk.journal,
                errors: errors(disk.errors),
            }),
        }
    }
    // A slot whose disk was taken out has no disk to show, and is missing all the same.
    for slot in 0..slot_number(status.members_total) {
        if !members.iter().any(|member| member.slot == slot) {
            members.push(Member {
                path: String::new(),
                uuid: String::new(),
                slot,
                state: MemberState::Missing,
                errors: ErrorCounters::default(),
            });
        }
    }
    members.sort_by_key(|member| member.slot);
    let state = match status.state {
        // Nothing is missing, but a slot is being written: not over yet for who waits.
        cairn_raid::ArrayState::Clean if status.sync.is_some() => ArrayState::Rebuilding,
        cairn_raid::ArrayState::Clean => ArrayState::Clean,
        cairn_raid::ArrayState::Degraded => ArrayState::Degraded,
        cairn_raid::ArrayState::Rebuilding => ArrayState::Rebuilding,
        cairn_raid::ArrayState::Incomplete => ArrayState::Incomplete,
    };
    let space = &status.space;
    Array {
        name: status.name.clone(),
        uuid: status.uuid.to_string(),
        level: level(status.level),
        chunk_bytes: status.chunk_bytes,
        size_bytes: status.size_bytes,
        state,
        redundancy_left: slot_number(status.redundancy_left),
        members,
        spares,
        host_spares: HostSpares {
            need_bytes: status.member_bytes_min,
            ..HostSpares::default()
        },
        journal: status.journal.map(|journal| JournalRing {
            disks: slot_number(journal.disks),
            wanted: slot_number(journal.wanted),
            on_members: journal.on_members,
            draining: journal.draining,
        }),
        memory: Some(memory(status)),
        sync: sync(status),
        scrub: scrub(status),
        bad_blocks: status.bad_blocks.iter().map(bad_blocks).collect(),
        bad_blocks_total: status.bad_blocks_total,
        created_unix_ms: status.created_ms,
        space: Space {
            extent_bytes: space.extent_bytes,
            allocated_bytes: space.total_bytes.saturating_sub(space.free_bytes),
            free_bytes: space.free_bytes,
            provisioned_bytes: space.promised_bytes,
        },
        flags: flags(status),
        event_count: status.event_count,
        reason: status.failure.clone().or(status.read_only.clone()),
        hint: status.failure.as_ref().map(|_| {
            format!(
                "bring back failed disks that can still be read, then `cairn array stop {0}` and \
                 `cairn array assemble {0}`",
                status.name
            )
        }),
    }
}

fn memory(status: &ArrayStatus) -> ArrayMemory {
    let MemoryStatus {
        used,
        share,
        checksum_hits,
        checksum_misses,
    } = status.memory;
    let journal = status.journal_room;
    ArrayMemory {
        checksum_cache_bytes: used.checksum_cache_bytes,
        checksum_cache_bytes_max: share.checksum_cache_bytes,
        checksum_cache_hits: checksum_hits,
        checksum_cache_misses: checksum_misses,
        row_cache_bytes: used.row_cache_bytes,
        row_cache_bytes_max: share.row_cache_bytes,
        journal_bytes: journal.map_or(0, |journal| journal.used_bytes),
        journal_bytes_max: journal.map_or(0, |journal| journal.total_bytes),
    }
}

#[cfg(test)]
mod tests {
    use cairn_raid::{MemberState as Raid, MemoryShare, SpaceStatus};
    use uuid::Uuid;

    use super::*;

    fn status() -> ArrayStatus {
        let disk = |n: u128, slot, state| MemberStatus {
            uuid: Uuid::from_u128(n),
            path: format!("/d{n}"),
            slot,
            state,
            size_bytes: 1,
            journal: false,
            errors: ErrorCounts::default(),
        };
        ArrayStatus {
            name: "pool".into(),
            uuid: Uuid::nil(),
            level: cairn_raid::Level::Raid5,
            members_total: 3,
            chunk_bytes: 65536,
            row_bytes: 131_072,
            size_bytes: 100,
            state: cairn_raid::ArrayState::Clean,
            redundancy_left: 1,
            member_bytes_min: 1,
            members: vec![
                disk(2, Some(2), Raid::InSync),
                disk(0, Some(0), Raid::InSync),
                disk(9, None, Raid::Spare),
            ],
            sync: None,
            space: SpaceStatus {
                total_bytes: 100,
                free_bytes: 70,
                written_bytes: 10,
                promised_bytes: 200,
                extent_bytes: 10,
            },
            clean: false,
            no_integrity: true,
            no_journal: false,
            journal: None,
            journal_room: None,
            memory: MemoryStatus {
                used: MemoryShare::LEAST,
                share: MemoryShare::FULL,
                checksum_hits: 0,
                checksum_misses: 0,
            },
            event_count: 3,
            created_ms: 0,
            bad_blocks: Vec::new(),
            bad_blocks_total: 0,
            scrub: cairn_raid::defects::ScrubRecord::default(),
            scrubbing: None,
            failure: None,
            read_only: None,
        }
    }

    #[test]
    fn every_slot_is_shown_in_order_even_without_a_disk() {
        let shown = array(&status());
        let slots: Vec<_> = shown.members.iter().map(|m| (m.slot, m.state)).collect();
        assert_eq!(
            slots,
            [
                (0, MemberState::InSync),
                (1, MemberState::Missing),
                (2, MemberState::InSync)
            ]
        );
        assert_eq!(shown.spares.len(), 1);
        assert_eq!(shown.space.allocated_bytes, 30);
    }

    #[test]
    fn a_replacement_counts_as_rebuilding_until_it_is_over() {
        let mut status = status();
        status.sync = Some(cairn_raid::SyncStatus {
            action: cairn_raid::SyncAction::Replace,
            done_bytes: 1,
            total_bytes: 2,
            eta_seconds: None,
            bytes_per_second: 0,
        });
        assert_eq!(array(&status).state, ArrayState::Rebuilding);
    }

    #[test]
    fn a_name_that_the_api_takes_fits_a_label_and_no_other_does() {
        let long = |n| "x".repeat(n);
        for name in [
            &long(48),
            &long(49),
            "0",
            "",
            "-a",
            ".a",
            "_a",
            "a/b",
            "ä",
            "a._-9",
        ] {
            assert_eq!(
                cairn_api::validate_name(name).is_ok(),
                cairn_raid::label::valid_name(name),
                "{name:?}"
            );
        }
    }

    #[test]
    fn open_writes_are_no_fault() {
        let shown = array(&status());
        assert_eq!(
            shown.flags,
            [ArrayFlag::NoIntegrity],
            "not clean only means written to"
        );
    }
}
