//! The verdict on the host: a pure function of what is shown elsewhere.
//!
//! The codes are stable, and daemon/README.md has a section on each with what to do. A finding of
//! weight `ok` is worth knowing and doesn't change the verdict.
//!
//! Does not know: where the values come from, or what was the verdict before.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cairn_api::{
    Array, ArrayState, BackendKind, Check, Disk, ErrorCounters, Export, ExportState, Health,
    HealthCode, HealthLevel, IoBackend, MemberState, ScrubState, SyncAction,
};

use crate::df::percent_up;

/// From this much allocated on, an array is nearly full, in percent.
pub const SPACE_LOW_PERCENT: u32 = 85;
/// From this much allocated on, volumes larger than their array are a risk, in percent.
pub const OVERCOMMIT_WARN_PERCENT: u32 = 70;

/// What the verdict rests on.
#[derive(Debug, Clone, Default)]
pub struct Facts<'a> {
    /// Every array that the daemon knows.
    pub arrays: &'a [Array],
    /// Spares that each array was given by the operator, by the array's UUID; see `SPARE_MISSING`.
    pub spares_wanted: BTreeMap<String, usize>,
    /// UUIDs of arrays for which the host's pool had a disk; see `SPARE_MISSING`.
    pub relying_on_pool: BTreeSet<String>,
    /// The disks of the host's pool.
    pub pool: &'a [Disk],
    /// Every export.
    pub exports: &'a [Export],
    /// What disk I/O goes through.
    pub io_backend: Option<&'a IoBackend>,
    /// Why the state directory takes no more writes, if so.
    pub store_error: Option<&'a str>,
    /// Now, in ms since 1970.
    pub now_unix_ms: u64,
    /// From the last complete scrub, or the creation, on. `None`: nobody asks.
    pub scrub_overdue_after: Option<Duration>,
}

/// The verdict.
pub fn verdict(facts: &Facts<'_>) -> Health {
    let mut checks = Vec::new();
    for array in facts.arrays {
        if array.state == ArrayState::Stopped {
            continue;
        }
        array_state(array, &mut checks);
        array_disks(array, &mut checks);
        if array.state != ArrayState::Incomplete {
            let wanted = facts.spares_wanted.get(&array.uuid).copied();
            let relies = facts.relying_on_pool.contains(&array.uuid);
            array_spares(array, wanted.unwrap_or(0), relies, &mut checks);
            array_journal(array, &mut checks);
            array_space(array, &mut checks);
            array_bad_blocks(array, &mut checks);
            array_scrub(array, facts, &mut checks);
        }
    }
    pool_disks(facts.pool, &mut checks);
    for export in facts.exports {
        if export.state == ExportState::Failed {
            checks.push(Check {
                code: HealthCode::ExportFailed,
                severity: HealthLevel::Err,
                subject: export.volume.clone(),
                message: format!(
                    "volume {} can't be reached at {}: {}",
                    export.volume,
                    export.nbd,
                    export.error.as_deref().unwrap_or("no reason is known")
                ),
                hint: format!(
                    "remove the cause, then export it again as it was: `cairn volume export {} {}`",
                    export.volume,
                    export.option()
                ),
            });
        }
    }
    if let Some(backend) = facts.io_backend
        && backend.kind == BackendKind::Threads
    {
        checks.push(Check {
            code: HealthCode::IoThreads,
            severity: HealthLevel::Ok,
            subject: String::new(),
            message: format!(
                "disk I/O goes through threads: {}",
                backend
                    .reason
                    .as_deref()
                    .unwrap_or("io_uring is not to be had")
            ),
            hint:
                "allow io_uring (sysctl kernel.io_uring_disabled, the container's seccomp profile)"
                    .into(),
        });
    }
    if let Some(error) = facts.store_error {
        checks.push(Check {
            code: HealthCode::Other,
            severity: HealthLevel::Err,
            subject: String::new(),
            message: error.to_owned(),
            hint: "look at the disk and the free space under the state directory, then restart \
                   cairnd"
                .into(),
        });
    }
    Health::of(checks)
}

fn check(
    array: &Array,
    code: HealthCode,
    severity: HealthLevel,
    message: String,
    hint: String,
) -> Check {
    Check {
        code,
        severity,
        subject: array.name.clone(),
        message,
        hint,
    }
}

fn array_state(array: &Array, checks: &mut Vec<Check>) {
    let name = &array.name;
    let left = match array.redundancy_left {
        0 => "the next disk that fails takes data with it".to_owned(),
        1 => "1 more disk may fail".to_owned(),
        n => format!("{n} more disks may fail"),
    };
    match array.state {
        ArrayState::Clean | ArrayState::Stopped => {}
        ArrayState::Degraded => checks.push(check(
            array,
            HealthCode::ArrayDegraded,
            HealthLevel::Warn,
            format!("array {name} is degraded: {left}"),
            format!(
                "add a disk: `cairn array spare add {name} PATH`, or `cairn disk add PATH` for any \
                 array; the rebuild begins by itself"
            ),
        )),
        ArrayState::Rebuilding => {
            let work = match array.sync.action {
                SyncAction::Replace => "a member is being replaced",
                SyncAction::Resync => "parity is being recomputed",
                SyncAction::CatchUp => "a member that was away gets what it missed",
                SyncAction::Rebuild | SyncAction::Idle => "a member is being rebuilt",
            };
            let percent = percent_down(array.sync.done_bytes, array.sync.total_bytes);
            checks.push(check(
                array,
                HealthCode::ArrayRebuilding,
                HealthLevel::Warn,
                format!("array {name}: {work}, {percent} % done; {left}"),
                format!("wait: `cairn array wait {name} --for clean`"),
            ));
        }
        ArrayState::Incomplete => checks.push(check(
            array,
            HealthCode::ArrayIncomplete,
            HealthLevel::Err,
            match &array.reason {
                Some(reason) => format!("array {name} is not served: {reason}"),
                None => format!("array {name} is not served: too many members are gone"),
            },
            array
                .hint
                .clone()
                .unwrap_or_else(|| format!("`cairn array show {name}` names the missing disks")),
        )),
    }
}

/// What rests on a disk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Slot,
    Journal,
    None,
}

fn array_journal(array: &Array, checks: &mut Vec<Check>) {
    let Some(journal) = array.journal.filter(|journal| journal.on_members) else {
        return;
    };
    let name = &array.name;
    checks.push(check(
        array,
        HealthCode::JournalOnMembers,
        HealthLevel::Warn,
        format!(
            "array {name} has {} of the {} journal disks that it takes: the journal is on the members",
            journal.disks, journal.wanted
        ),
        format!("`cairn disk replace OLD NEW` for what `cairn array show {name}` lists as out"),
    ));
}

fn array_disks(array: &Array, checks: &mut Vec<Check>) {
    let members = array
        .members
        .iter()
        .map(|m| (&m.path, &m.uuid, m.state, m.errors, Use::Slot));
    let spares = array.spares.iter().map(|s| {
        let of = if s.journal { Use::Journal } else { Use::None };
        (&s.path, &s.uuid, s.state, s.errors, of)
    });
    for (path, uuid, state, errors, of) in members.chain(spares) {
        let disk = if path.is_empty() { uuid } else { path };
        if disk.is_empty() {
            // A slot without a disk: the array's own finding says it.
            continue;
        }
        let finding = |code, message: String, hint: String| Check {
            code,
            severity: HealthLevel::Warn,
            subject: disk.clone(),
            message,
            hint,
        };
        match state {
            // Nobody has it open, and the array's own finding says what is missing.
            MemberState::Missing if array.state == ArrayState::Incomplete => {}
            MemberState::Failed | MemberState::Missing if of == Use::Journal => {
                checks.push(finding(
                    HealthCode::JournalDiskFailed,
                    format!("journal disk {disk} of array {} is {state}", array.name),
                    format!(
                        "`cairn disk replace {disk} NEW` puts another in its place; if it is fine \
                         again, NEW can be itself, with --wipe"
                    ),
                ));
            }
            MemberState::Failed | MemberState::Missing => checks.push(finding(
                HealthCode::DiskFailed,
                format!("disk {disk} of array {} is {state}", array.name),
                match (state, of == Use::Slot) {
                    (MemberState::Failed, true) => {
                        format!("let a spare take its place, or `cairn disk replace {disk} NEW`")
                    }
                    (MemberState::Failed, false) => {
                        format!("nothing rests on it: `cairn disk remove {disk}`, then swap it")
                    }
                    (_, true) => format!(
                        "look at cable and power, and at `cairn disk show {disk}`; if it is lost: \
                         `cairn disk replace {disk} NEW`"
                    ),
                    (_, false) => {
                        format!("look at cable and power; `cairn disk remove {disk}` forgets it")
                    }
                },
            )),
            _ if errors.total() > 0 => checks.push(finding(
                HealthCode::DiskErrors,
                format!(
                    "disk {disk} of array {} has had {}",
                    array.name,
                    counted(errors)
                ),
                format!("watch it; `cairn disk replace {disk} NEW` copies it to another disk"),
            )),
            _ => {}
        }
    }
}

fn counted(errors: ErrorCounters) -> String {
    let kinds = [
        (errors.read, "read"),
        (errors.write, "write"),
        (errors.flush, "flush"),
        (errors.corruption, "checksum"),
        (errors.generation, "generation"),
        (errors.timeouts, "timeout"),
    ];
    let parts: Vec<String> = kinds
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, kind)| format!("{count} {kind}"))
        .collect();
    format!("{} errors", parts.join(", "))
}

fn array_spares(array: &Array, wanted: usize, relies_on_pool: bool, checks: &mut Vec<Check>) {
    let ready = array
        .spares
        .iter()
        .filter(|spare| spare.state == MemberState::Spare)
        .count();
    let (name, pool) = (&array.name, &array.host_spares);
    // A disk that fits every array of the host is as good as one of its own.
    if pool.fitting > 0 {
        return;
    }
    let is_waiting = array.state == ArrayState::Degraded && pool.too_small > 0;
    let what = if ready < wanted {
        format!("array {name} had {wanted} spares and has {ready} left")
    } else if ready == 0 && (relies_on_pool || is_waiting) {
        format!("array {name} has no spare left")
    } else {
        return;
    };
    let small = match pool.too_small {
        0 => String::new(),
        1 => format!(
            "; the disk in the host's pool is too small for it: it has {} bytes, {} are needed",
            pool.too_small_bytes, pool.need_bytes
        ),
        n => format!(
            "; the {n} disks in the host's pool are too small for it: the largest has {} bytes, {} are \
             needed",
            pool.too_small_bytes, pool.need_bytes
        ),
    };
    checks.push(check(
        array,
        HealthCode::SpareMissing,
        HealthLevel::Warn,
        format!("{what}{small}"),
        format!("`cairn array spare add {name} PATH`, or for all arrays `cairn disk add PATH`"),
    ));
}

fn pool_disks(pool: &[Disk], checks: &mut Vec<Check>) {
    for disk in pool {
        let (path, why) = (
            &disk.path,
            disk.note.as_deref().unwrap_or("no reason is known"),
        );
        let (what, hint) = match disk.state {
            Some(MemberState::Missing) => (
                "is missing".to_owned(),
                format!("look at cable and power; `cairn disk remove {path}` forgets it"),
            ),
            Some(MemberState::Failed) => (
                format!("can't be used: {why}"),
                format!("remove the cause, or take it out: `cairn disk remove {path}`"),
            ),
            _ => continue,
        };
        checks.push(Check {
            code: HealthCode::DiskFailed,
            severity: HealthLevel::Warn,
            subject: path.clone(),
            message: format!("disk {path} of the host's pool of spares {what}"),
            hint,
        });
    }
}

fn array_bad_blocks(array: &Array, checks: &mut Vec<Check>) {
    if array.bad_blocks_total == 0 {
        return;
    }
    let name = &array.name;
    checks.push(check(
        array,
        HealthCode::BadBlocks,
        HealthLevel::Err,
        format!(
            "array {name}: {} blocks of 4 KiB are lost; reading them gives an error",
            array.bad_blocks_total
        ),
        format!(
            "`cairn array show {name}` names the volumes and offsets: write these places anew from a \
             copy, which heals them"
        ),
    ));
}

fn array_scrub(array: &Array, facts: &Facts<'_>, checks: &mut Vec<Check>) {
    let Some(after) = facts.scrub_overdue_after else {
        return;
    };
    let finished = array.scrub.finished_unix_ms;
    let since_ms = finished.unwrap_or(0).max(array.created_unix_ms);
    if since_ms == 0 {
        // It doesn't run, and nobody knows.
        return;
    }
    let age = Duration::from_millis(facts.now_unix_ms.saturating_sub(since_ms));
    if age < after {
        return;
    }
    let (name, days) = (&array.name, age.as_secs() / 86_400);
    let message = match finished {
        Some(_) => format!("array {name} was last scrubbed to its end {days} days ago"),
        None => format!("array {name} was never scrubbed to its end, in {days} days"),
    };
    let hint = match array.scrub.state {
        ScrubState::Running | ScrubState::Waiting => "a scrub is under way: wait".to_owned(),
        ScrubState::Paused => {
            format!("one is paused: `cairn array scrub {name} --resume`")
        }
        ScrubState::Idle | ScrubState::Stopped => {
            format!("`cairn array scrub {name}`, or set `[scrub] windows` in the configuration")
        }
    };
    let found = check(
        array,
        HealthCode::ScrubOverdue,
        HealthLevel::Warn,
        message,
        hint,
    );
    checks.push(found);
}

fn array_space(array: &Array, checks: &mut Vec<Check>) {
    let (name, space) = (&array.name, &array.space);
    let used_percent = percent_up(
        space.allocated_bytes,
        space.allocated_bytes.saturating_add(space.free_bytes),
    );
    let used = space.allocated_bytes > 0;
    if used && space.free_bytes < space.extent_bytes.max(1) {
        checks.push(check(
            array,
            HealthCode::SpaceFull,
            HealthLevel::Err,
            format!("array {name} is full: writes to new places get \"no space left\""),
            "trim file systems on its volumes (`fstrim`), or delete a volume".into(),
        ));
    } else if used && used_percent >= SPACE_LOW_PERCENT {
        checks.push(check(
            array,
            HealthCode::SpaceLow,
            HealthLevel::Warn,
            format!("array {name} is {used_percent} % full"),
            "trim file systems on its volumes (`fstrim`), delete a volume, or move data away"
                .into(),
        ));
    }
    if space.provisioned_bytes > array.size_bytes {
        let severity = if used_percent >= OVERCOMMIT_WARN_PERCENT {
            HealthLevel::Warn
        } else {
            HealthLevel::Ok
        };
        checks.push(check(
            array,
            HealthCode::SpaceOvercommitted,
            severity,
            format!(
                "volumes of array {name} are together larger than it ({} of {} bytes), and it is \
                 {used_percent} % full",
                space.provisioned_bytes, array.size_bytes
            ),
            "keep an eye on `cairn df`".into(),
        ));
    }
}

/// Whole percent, rounded down, so that only done is 100.
fn percent_down(done: u64, total: u64) -> u128 {
    match total {
        0 => 0,
        total => u128::from(done.min(total)) * 100 / u128::from(total),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use cairn_api::{Level, Member, Space, Spare, SyncStatus};

    use super::*;

    /// A healthy RAID 6 of four members.
    pub(crate) fn array(name: &str) -> Array {
        let member = |slot: u32| Member {
            path: format!("/d{slot}"),
            uuid: format!("u{slot}"),
            slot,
            state: MemberState::InSync,
            errors: ErrorCounters::default(),
        };
        Array {
            name: name.into(),
            uuid: "a".into(),
            level: Level::Raid6,
            chunk_bytes: 65536,
            size_bytes: 1000,
            state: ArrayState::Clean,
            redundancy_left: 2,
            members: (0..4).map(member).collect(),
            spares: Vec::new(),
            host_spares: cairn_api::HostSpares::default(),
            sync: SyncStatus::default(),
            scrub: cairn_api::Scrub::default(),
            journal: None,
            memory: None,
            bad_blocks: Vec::new(),
            bad_blocks_total: 0,
            created_unix_ms: 0,
            space: Space {
                extent_bytes: 10,
                allocated_bytes: 100,
                free_bytes: 900,
                provisioned_bytes: 500,
            },
            flags: Vec::new(),
            event_count: 1,
            reason: None,
            hint: None,
        }
    }

    fn codes(array: Array, wanted: usize) -> Vec<(HealthCode, HealthLevel)> {
        let wanted = BTreeMap::from([(array.uuid.clone(), wanted)]);
        let health = verdict(&Facts {
            arrays: &[array],
            spares_wanted: wanted,
            ..Facts::default()
        });
        health.checks.iter().map(|c| (c.code, c.severity)).collect()
    }

    #[test]
    fn a_whole_array_with_room_is_healthy() {
        assert_eq!(codes(array("pool"), 0), []);
    }

    #[test]
    fn a_lost_disk_is_named_and_the_redundancy_left_is_said() {
        let mut pool = array("pool");
        pool.state = ArrayState::Degraded;
        pool.redundancy_left = 1;
        pool.members[2].state = MemberState::Failed;
        let health = verdict(&Facts {
            arrays: &[pool],
            ..Facts::default()
        });
        assert_eq!(health.level, HealthLevel::Warn);
        let degraded = &health.checks[0];
        assert_eq!(degraded.code, HealthCode::ArrayDegraded);
        assert!(
            degraded.message.contains("1 more disk may fail"),
            "{}",
            degraded.message
        );
        let failed = &health.checks[1];
        assert_eq!(
            (failed.code, failed.subject.as_str()),
            (HealthCode::DiskFailed, "/d2")
        );
    }

    #[test]
    fn an_array_that_is_not_served_is_an_error_with_its_reason() {
        let mut pool = array("pool");
        pool.state = ArrayState::Incomplete;
        pool.reason = Some("3 of 4 members are missing".into());
        pool.space.free_bytes = 0;
        pool.members[1].state = MemberState::Missing;
        let health = verdict(&Facts {
            arrays: &[pool],
            ..Facts::default()
        });
        assert_eq!(health.level, HealthLevel::Err);
        assert_eq!(health.checks.len(), 1, "what isn't known isn't judged");
        assert!(health.checks[0].message.contains("3 of 4"));
    }

    #[test]
    fn a_stopped_array_is_nobodys_problem() {
        let mut pool = array("pool");
        pool.state = ArrayState::Stopped;
        pool.members[0].state = MemberState::Missing;
        assert_eq!(codes(pool, 2), []);
    }

    #[test]
    fn a_used_up_spare_is_missed_and_one_never_given_is_not() {
        let mut pool = array("pool");
        pool.spares.push(Spare {
            path: "/s0".into(),
            uuid: "s0".into(),
            state: MemberState::Spare,
            journal: false,
            errors: ErrorCounters::default(),
        });
        assert_eq!(codes(pool.clone(), 1), []);
        let missed = [(HealthCode::SpareMissing, HealthLevel::Warn)];
        assert_eq!(codes(pool, 2), missed);
    }

    #[test]
    fn an_array_without_spares_is_fine_while_the_pool_has_a_disk_that_fits() {
        let missing = |array: &Array, wanted: usize, relies: bool| {
            let health = verdict(&Facts {
                arrays: std::slice::from_ref(array),
                spares_wanted: BTreeMap::from([(array.uuid.clone(), wanted)]),
                relying_on_pool: relies.then(|| array.uuid.clone()).into_iter().collect(),
                ..Facts::default()
            });
            let mut checks = health.checks.into_iter();
            checks.find(|check| check.code == HealthCode::SpareMissing)
        };
        let mut pool = array("pool");
        pool.host_spares.fitting = 1;
        assert_eq!(missing(&pool, 2, true), None);
        pool.host_spares.fitting = 0;
        assert!(missing(&pool, 1, false).is_some());
        assert!(missing(&pool, 0, true).is_some(), "the pool's is gone");
        assert_eq!(missing(&pool, 0, false), None, "it never had one");
        pool.host_spares.too_small = 1;
        pool.host_spares.too_small_bytes = 1234;
        pool.host_spares.need_bytes = 5678;
        assert_eq!(missing(&pool, 0, false), None, "nothing wants it yet");
        pool.state = ArrayState::Degraded;
        let told = missing(&pool, 0, false).unwrap();
        for part in ["too small", "1234", "5678"] {
            assert!(told.message.contains(part), "{}", told.message);
        }
    }

    #[test]
    fn a_disk_of_the_pool_that_is_gone_is_named() {
        let disk = |state| Disk {
            path: "/p".into(),
            kind: cairn_api::DiskKind::Absent,
            size_bytes: 1,
            logical_block_bytes: 0,
            rotational: None,
            model: None,
            serial: None,
            content: cairn_api::DiskContent::Unknown,
            signature: None,
            role: cairn_api::DiskRole::HostSpare,
            array: None,
            uuid: None,
            slot: None,
            state: Some(state),
            errors: ErrorCounters::default(),
            note: Some("EIO".into()),
        };
        let told = |state| {
            let health = verdict(&Facts {
                pool: &[disk(state)],
                ..Facts::default()
            });
            health.checks.first().map(|check| check.message.clone())
        };
        assert_eq!(told(MemberState::Spare), None);
        assert!(told(MemberState::Missing).unwrap().contains("/p"));
        assert!(told(MemberState::Failed).unwrap().contains("EIO"));
    }

    #[test]
    fn space_is_judged_by_what_is_allocated() {
        let mut pool = array("pool");
        let mut at = |allocated, free, provisioned| {
            pool.space.allocated_bytes = allocated;
            pool.space.free_bytes = free;
            pool.space.provisioned_bytes = provisioned;
            codes(pool.clone(), 0)
        };
        assert_eq!(at(840, 160, 1000), []);
        assert_eq!(
            at(850, 150, 1000),
            [(HealthCode::SpaceLow, HealthLevel::Warn)]
        );
        assert_eq!(
            at(995, 5, 1000),
            [(HealthCode::SpaceFull, HealthLevel::Err)]
        );
        assert_eq!(
            at(0, 0, 0),
            [],
            "an array whose space isn't known isn't full"
        );
        assert_eq!(
            at(100, 900, 1001),
            [(HealthCode::SpaceOvercommitted, HealthLevel::Ok)]
        );
        assert_eq!(
            at(700, 300, 1001),
            [(HealthCode::SpaceOvercommitted, HealthLevel::Warn)]
        );
    }

    #[test]
    fn errors_of_a_disk_in_use_are_counted_out() {
        let mut pool = array("pool");
        pool.members[1].errors.read = 3;
        let health = verdict(&Facts {
            arrays: &[pool],
            ..Facts::default()
        });
        assert_eq!(health.checks[0].code, HealthCode::DiskErrors);
        assert!(health.checks[0].message.contains("3 read errors"));
    }

    #[test]
    fn lost_blocks_are_an_error_with_the_way_to_heal_them() {
        let mut pool = array("pool");
        pool.bad_blocks_total = 3;
        let health = verdict(&Facts {
            arrays: &[pool],
            ..Facts::default()
        });
        assert_eq!(health.level, HealthLevel::Err);
        assert_eq!(health.checks[0].code, HealthCode::BadBlocks);
        assert!(health.checks[0].message.contains("3 blocks"));
        assert!(health.checks[0].hint.contains("cairn array show pool"));
    }

    #[test]
    fn a_scrub_is_overdue_from_the_last_completion_or_the_creation_on() {
        const DAY_MS: u64 = 86_400_000;
        let mut pool = array("pool");
        let mut overdue = |created: u64, finished: Option<u64>, now: u64| {
            pool.created_unix_ms = created * DAY_MS;
            pool.scrub.finished_unix_ms = finished.map(|days| days * DAY_MS);
            let health = verdict(&Facts {
                arrays: std::slice::from_ref(&pool),
                now_unix_ms: now * DAY_MS,
                scrub_overdue_after: Some(Duration::from_hours(35 * 24)),
                ..Facts::default()
            });
            health.checks.first().map(|check| check.message.clone())
        };
        assert_eq!(overdue(100, None, 134), None);
        let never = overdue(100, None, 135).unwrap();
        assert!(never.contains("never scrubbed"), "{never}");
        assert_eq!(overdue(100, Some(120), 154), None);
        let old = overdue(100, Some(120), 160).unwrap();
        assert!(old.contains("40 days ago"), "{old}");
        assert_eq!(
            overdue(0, None, 900),
            None,
            "one that doesn't run isn't judged"
        );
    }

    #[test]
    fn rebuilding_shows_how_far() {
        let mut pool = array("pool");
        pool.state = ArrayState::Rebuilding;
        pool.sync.action = SyncAction::Rebuild;
        pool.sync.done_bytes = 199;
        pool.sync.total_bytes = 200;
        let health = verdict(&Facts {
            arrays: &[pool],
            ..Facts::default()
        });
        assert!(health.checks[0].message.contains("99 % done"));
    }

    #[test]
    fn an_export_that_cannot_be_reached_is_an_error_and_a_waiting_one_is_not() {
        let mut export = Export {
            volume: "pg".into(),
            nbd: "unix:/run/x.sock".into(),
            uri: String::new(),
            read_only: false,
            state: ExportState::Waiting,
            connections: 0,
            error: None,
        };
        let level = |export: &Export| {
            verdict(&Facts {
                exports: std::slice::from_ref(export),
                ..Facts::default()
            })
            .level
        };
        assert_eq!(level(&export), HealthLevel::Ok);
        export.state = ExportState::Failed;
        assert_eq!(level(&export), HealthLevel::Err);
    }

    #[test]
    fn threads_instead_of_a_ring_are_said_without_alarm() {
        let backend = IoBackend {
            kind: BackendKind::Threads,
            registered_buffers: false,
            reason: Some("io_uring_setup: EPERM".into()),
        };
        let health = verdict(&Facts {
            io_backend: Some(&backend),
            ..Facts::default()
        });
        assert_eq!(health.level, HealthLevel::Ok);
        assert_eq!(health.checks[0].code, HealthCode::IoThreads);
    }
}
