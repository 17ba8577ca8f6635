//! Arrays.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use cairn_api::{
    Array, ArrayFlag, ArrayList, ArrayState, ErrorCounters, JournalRing, MemberState, Scrub,
    ScrubState, Spare, SyncAction, SyncStatus,
};

use crate::output::{Cell, Fact, Sheet, Tone, View, fact};
use crate::progress::Position;
use crate::quantity::{percent, show_moment, show_seconds, show_size};

/// The tone of a whole array.
pub(super) fn state_tone(state: ArrayState) -> Tone {
    match state {
        ArrayState::Clean => Tone::Good,
        ArrayState::Degraded | ArrayState::Rebuilding => Tone::Warn,
        ArrayState::Incomplete => Tone::Bad,
        ArrayState::Stopped => Tone::Dim,
    }
}

/// The tone of one disk in it.
pub(super) fn member_tone(state: MemberState) -> Tone {
    match state {
        MemberState::InSync | MemberState::Journal => Tone::Good,
        MemberState::Spare => Tone::Plain,
        MemberState::Rebuilding | MemberState::Replacing => Tone::Warn,
        MemberState::Failed | MemberState::Missing => Tone::Bad,
        MemberState::Removed => Tone::Dim,
    }
}

/// How many more disks an array may lose; none is worth a colour.
pub(super) fn redundancy_cell(array: &Array) -> Cell {
    let tone = match (array.redundancy_left, array.state) {
        (0, ArrayState::Stopped) => Tone::Dim,
        (0, _) => Tone::Bad,
        _ => Tone::Plain,
    };
    Cell::count(array.redundancy_left).toned(tone)
}

/// Where the background work of an array stands.
pub(crate) fn rebuild_position(sync: &SyncStatus) -> Position {
    Position {
        done: sync.done_bytes,
        total: sync.total_bytes,
        speed: Some(sync.speed_bytes_per_second),
        eta_seconds: sync.eta_seconds,
    }
}

/// `rebuild 41 %, 12 s left`, or `idle`.
pub(super) fn sync_cell(sync: &SyncStatus) -> Cell {
    if sync.action == SyncAction::Idle {
        return Cell::text("idle").toned(Tone::Dim);
    }
    let mut text = format!(
        "{} {} %",
        sync.action,
        percent(sync.done_bytes, sync.total_bytes)
    );
    if sync.speed_bytes_per_second > 0 {
        let _ = write!(text, ", {}/s", show_size(sync.speed_bytes_per_second));
    }
    if let Some(eta) = sync.eta_seconds {
        let _ = write!(text, ", {} left", show_seconds(eta));
    }
    Cell::text(sync.action.as_str())
        .shown_as(text)
        .toned(Tone::Warn)
}

/// The counters that aren't zero, `read 3, corruption 1`; or a dash.
pub(super) fn errors_cell(errors: &ErrorCounters) -> Cell {
    let named = [
        ("read", errors.read),
        ("write", errors.write),
        ("flush", errors.flush),
        ("corruption", errors.corruption),
        ("generation", errors.generation),
        ("timeouts", errors.timeouts),
    ];
    let words: Vec<String> = named
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    let cell = Cell::text(errors.total().to_string());
    if words.is_empty() {
        cell.shown_as("-").toned(Tone::Dim)
    } else {
        cell.shown_as(words.join(", ")).toned(Tone::Bad)
    }
}

fn flag_names(flags: &[ArrayFlag]) -> String {
    let names: Vec<&str> = flags.iter().map(|flag| flag.as_str()).collect();
    names.join(" ")
}

/// Slots of the geometry: a failed disk and the one that took its place share one.
fn slots(array: &Array) -> usize {
    let slots: BTreeSet<u32> = array.members.iter().map(|member| member.slot).collect();
    slots.len()
}

/// Members in sync, of all slots.
fn in_sync(array: &Array) -> usize {
    array
        .members
        .iter()
        .filter(|member| matches!(member.state, MemberState::InSync | MemberState::Replacing))
        .count()
}

/// Spares that wait for a member to fail. Failed disks are listed beside them and are none.
fn ready_spares(array: &Array) -> usize {
    let ready = |spare: &&Spare| spare.state == MemberState::Spare;
    array.spares.iter().filter(ready).count()
}

/// Disks of the host's pool that the array could take; and those that are too small for it.
fn host_spares_cell(array: &Array) -> Cell {
    let pool = &array.host_spares;
    let cell = Cell::count(pool.fitting);
    match pool.too_small {
        0 => cell,
        n => cell.shown_as(format!(
            "{}; {n} too small: {} bytes at most, {} are needed",
            pool.fitting, pool.too_small_bytes, pool.need_bytes
        )),
    }
}

/// `array list`.
pub(crate) fn array_list(list: &ArrayList) -> View {
    View {
        sheet: list_sheet(&list.arrays),
        nothing: "no arrays; `cairn array create --help` shows how to make one",
        ..View::default()
    }
}

/// A line per array.
pub(super) fn list_sheet(arrays: &[Array]) -> Sheet {
    Sheet {
        columns: vec![
            "name",
            "level",
            "state",
            "redundancy_left",
            "size_bytes",
            "allocated_bytes",
            "free_bytes",
            "members",
            "in_sync",
            "spares",
            "host_spares",
            "sync_action",
        ],
        rows: arrays
            .iter()
            .map(|array| {
                vec![
                    Cell::text(&array.name),
                    Cell::text(array.level.as_str()),
                    Cell::text(array.state.as_str()).toned(state_tone(array.state)),
                    redundancy_cell(array),
                    Cell::bytes(array.size_bytes),
                    Cell::bytes(array.space.allocated_bytes),
                    Cell::bytes(array.space.free_bytes),
                    Cell::count(slots(array)),
                    Cell::count(in_sync(array)),
                    Cell::count(ready_spares(array)),
                    Cell::count(array.host_spares.fitting),
                    sync_cell(&array.sync),
                ]
            })
            .collect(),
        verbatim: false,
    }
}

/// `array show`: facts, then a line per member and spare.
pub(crate) fn array(array: &Array) -> View {
    let sync = &array.sync;
    let mut facts = vec![
        fact("name", Cell::text(&array.name)),
        fact("uuid", Cell::text(&array.uuid)),
        fact("level", Cell::text(array.level.as_str())),
        fact(
            "state",
            Cell::text(array.state.as_str()).toned(state_tone(array.state)),
        ),
        fact("redundancy_left", redundancy_cell(array)),
        fact("chunk_bytes", Cell::bytes(array.chunk_bytes)),
        fact("size_bytes", Cell::bytes(array.size_bytes)),
        fact("allocated_bytes", Cell::bytes(array.space.allocated_bytes)),
        fact("free_bytes", Cell::bytes(array.space.free_bytes)),
        fact(
            "provisioned_bytes",
            Cell::bytes(array.space.provisioned_bytes),
        ),
        fact("extent_bytes", Cell::bytes(array.space.extent_bytes)),
        fact("members", Cell::count(slots(array))),
        fact("in_sync", Cell::count(in_sync(array))),
        fact("spares", Cell::count(ready_spares(array))),
        fact("host_spares", host_spares_cell(array)),
        fact(
            "member_bytes_min",
            Cell::bytes(array.host_spares.need_bytes),
        ),
        fact("sync_action", sync_cell(sync)),
    ];
    if let Some(journal) = array.journal {
        facts.push(fact("journal", journal_cell(journal)));
    }
    if let Some(memory) = array.memory {
        let of = |used, max| Cell::text(format!("{} of {}", show_size(used), show_size(max)));
        facts.push(fact(
            "checksum_cache",
            of(memory.checksum_cache_bytes, memory.checksum_cache_bytes_max),
        ));
        facts.push(fact(
            "checksum_cache_hits",
            Cell::count(memory.checksum_cache_hits),
        ));
        facts.push(fact(
            "checksum_cache_misses",
            Cell::count(memory.checksum_cache_misses),
        ));
        facts.push(fact(
            "row_cache",
            of(memory.row_cache_bytes, memory.row_cache_bytes_max),
        ));
        if memory.journal_bytes_max > 0 {
            facts.push(fact(
                "journal_used",
                of(memory.journal_bytes, memory.journal_bytes_max),
            ));
        }
    }
    if sync.action != SyncAction::Idle {
        facts.push(fact("sync_done_bytes", Cell::bytes(sync.done_bytes)));
        facts.push(fact("sync_total_bytes", Cell::bytes(sync.total_bytes)));
        if let Some(eta) = sync.eta_seconds {
            facts.push(fact("sync_eta_seconds", Cell::seconds(eta)));
        }
    }
    facts.extend(scrub_facts(array));
    facts.push(fact("event_count", Cell::count(array.event_count)));
    facts.push(fact("flags", Cell::text(flag_names(&array.flags))));
    if let Some(reason) = &array.reason {
        facts.push(fact("reason", Cell::text(reason).toned(Tone::Bad)));
    }
    if let Some(hint) = &array.hint {
        facts.push(fact("hint", Cell::text(hint)));
    }
    View {
        facts,
        sheet: disks_sheet(array),
        more: bad_blocks(array).into_iter().collect(),
        nothing: "",
    }
}

/// `idle`, `paused 41 %`.
fn scrub_cell(scrub: &Scrub) -> Cell {
    let word = scrub.state.as_str();
    let cell = Cell::text(word);
    match scrub.state {
        ScrubState::Idle | ScrubState::Stopped => cell.toned(Tone::Dim),
        ScrubState::Running | ScrubState::Paused | ScrubState::Waiting => {
            let done = percent(scrub.done_bytes, scrub.total_bytes);
            let mut text = format!("{word}, {done} % done");
            if let Some(eta) = scrub
                .eta_seconds
                .filter(|_| scrub.state == ScrubState::Running)
            {
                let _ = write!(text, ", {} left", show_seconds(eta));
            }
            cell.shown_as(text)
        }
    }
}

fn moment(unix_ms: Option<u64>) -> Cell {
    match unix_ms {
        Some(ms) => Cell::text(ms.to_string()).shown_as(show_moment(ms)),
        None => Cell {
            shown: "never".to_owned(),
            tone: Tone::Dim,
            ..Cell::default()
        },
    }
}

fn scrub_facts(array: &Array) -> Vec<Fact> {
    let scrub = &array.scrub;
    vec![
        fact("scrub_state", scrub_cell(scrub)),
        fact("scrub_finished", moment(scrub.finished_unix_ms)),
        fact("scrub_repaired", Cell::count(scrub.repaired)),
        fact("scrub_mismatched", Cell::errors(scrub.mismatched)),
        fact("scrub_lost_blocks", Cell::errors(scrub.unrepairable)),
        fact("bad_blocks", Cell::errors(array.bad_blocks_total)),
    ]
}

/// What is lost, where, and what to do about it.
fn bad_blocks(array: &Array) -> Option<(&'static str, Sheet)> {
    if array.bad_blocks.is_empty() {
        return None;
    }
    let rows = array.bad_blocks.iter().map(|bad| {
        let heal = match &bad.volume {
            Some(_) => "write the place in the volume anew from a copy",
            None => "nothing: no volume has data there",
        };
        vec![
            Cell::maybe((!bad.path.is_empty()).then_some(&bad.path)),
            Cell::count(bad.slot),
            Cell::count(bad.offset_bytes),
            Cell::bytes(bad.len_bytes),
            Cell::maybe(bad.volume.as_ref()),
            Cell {
                right: true,
                ..Cell::maybe(bad.volume_offset_bytes.map(|offset| offset.to_string()))
            },
            moment(Some(bad.since_unix_ms)),
            Cell::text(&bad.reason).toned(Tone::Bad),
            Cell::text(heal),
        ]
    });
    let sheet = Sheet {
        columns: vec![
            "path",
            "slot",
            "offset",
            "size_bytes",
            "volume",
            "volume_offset",
            "since",
            "reason",
            "what_to_do",
        ],
        rows: rows.collect(),
        verbatim: false,
    };
    Some((
        "LOST BLOCKS (reading them gives an error; offsets in bytes)",
        sheet,
    ))
}

/// Where the journal is.
fn journal_cell(journal: JournalRing) -> Cell {
    let JournalRing { disks, wanted, .. } = journal;
    if journal.on_members {
        let text = format!("on members ({disks} of {wanted} journal disks left)");
        Cell::text(text).toned(Tone::Warn)
    } else {
        Cell::text(format!("{disks} disks"))
    }
}

fn disks_sheet(array: &Array) -> Sheet {
    let row = |slot: Option<u32>,
               (path, uuid): (&str, &str),
               state: MemberState,
               errors: &ErrorCounters| {
        vec![
            Cell {
                right: true,
                ..Cell::maybe(slot.map(|slot| slot.to_string()))
            },
            match (path, uuid) {
                ("", "") => Cell::maybe(None::<String>),
                // Nobody knows where it is: its UUID names it to every command.
                ("", uuid) => Cell::text(path).shown_as(uuid),
                (path, _) => Cell::text(path),
            },
            Cell::text(state.as_str()).toned(member_tone(state)),
            Cell::errors(errors.read),
            Cell::errors(errors.write),
            Cell::errors(errors.flush),
            Cell::errors(errors.corruption),
            Cell::errors(errors.generation),
        ]
    };
    let members = array
        .members
        .iter()
        .map(|m| row(Some(m.slot), (&m.path, &m.uuid), m.state, &m.errors));
    let spares = array
        .spares
        .iter()
        .map(|s| row(None, (&s.path, &s.uuid), s.state, &s.errors));
    Sheet {
        columns: vec![
            "slot",
            "path",
            "state",
            "read_errors",
            "write_errors",
            "flush_errors",
            "corruption_errors",
            "generation_errors",
        ],
        rows: members.chain(spares).collect(),
        verbatim: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Painter;
    use crate::views::samples;

    #[test]
    fn json_of_an_array_has_the_promised_fields() {
        let text = crate::output::json(&samples::rebuilding_array()).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["schema"], 1);
        assert_eq!(value["state"], "rebuilding");
        assert_eq!(value["level"], "raid6");
        assert_eq!(value["redundancy_left"], 1);
        assert_eq!(value["chunk_bytes"], 65536);
        assert_eq!(value["members"][1]["state"], "rebuilding");
        assert_eq!(value["members"][1]["slot"], 1);
        assert_eq!(value["members"][0]["errors"]["read"], 2);
        assert_eq!(value["sync"]["action"], "rebuild");
        assert_eq!(value["sync"]["eta_seconds"], 12);
        assert_eq!(value["flags"][0], "no_integrity");
    }

    #[test]
    fn a_disk_of_the_pool_that_is_too_small_is_shown_with_both_sizes() {
        let mut value = samples::rebuilding_array();
        value.host_spares.need_bytes = 5678;
        let text = Painter::new(false).view(&array(&value));
        assert!(text.contains("host spares            0\n"), "{text}");
        value.host_spares.too_small = 1;
        value.host_spares.too_small_bytes = 1234;
        let text = Painter::new(false).view(&array(&value));
        for part in ["1 too small", "1234 bytes", "5678 are needed"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_person_sees_the_rebuild_and_the_errors() {
        let text = Painter::new(false).view(&array(&samples::rebuilding_array()));
        assert!(
            text.contains("sync action            rebuild 25 %, 300 MiB/s, 12 s left\n"),
            "{text}"
        );
        let line = text.lines().find(|line| line.contains("/d/0")).unwrap();
        assert_eq!(
            line.split_whitespace().collect::<Vec<_>>(),
            ["0", "/d/0", "in_sync", "2", "0", "0", "0", "0"]
        );
    }

    #[test]
    fn lost_blocks_are_shown_with_their_place_and_what_to_do() {
        let text = Painter::new(false).view(&array(&samples::rebuilding_array()));
        let line = text
            .lines()
            .find(|line| line.contains("/d/2  "))
            .unwrap_or("");
        assert!(text.contains("LOST BLOCKS"), "{text}");
        let lost = text.lines().find(|line| line.contains("20975616")).unwrap();
        for part in [
            "/d/2",
            "8 KiB",
            "pg",
            "65536",
            "checksum mismatch",
            "anew from a copy",
        ] {
            assert!(lost.contains(part), "{part}: {lost}");
        }
        assert!(!line.is_empty());
        let mut sound = samples::rebuilding_array();
        sound.bad_blocks.clear();
        sound.bad_blocks_total = 0;
        let text = Painter::new(false).view(&array(&sound));
        assert!(!text.contains("LOST"), "{text}");
    }

    #[test]
    fn the_scrub_is_shown_with_its_last_completion() {
        let mut value = samples::rebuilding_array();
        let text = Painter::new(false).view(&array(&value));
        assert!(text.contains("2026-09-21"), "{text}");
        value.scrub.state = ScrubState::Running;
        value.scrub.done_bytes = 1;
        value.scrub.total_bytes = 4;
        value.scrub.eta_seconds = Some(60);
        value.scrub.finished_unix_ms = None;
        let text = Painter::new(false).view(&array(&value));
        assert!(text.contains("running, 25 % done, "), "{text}");
        assert!(text.contains("never"), "{text}");
        let json = crate::output::json(&value).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["scrub"]["state"], "running");
        assert_eq!(json["bad_blocks"][0]["volume_offset_bytes"], 65536);
        assert_eq!(json["bad_blocks_total"], 2);
    }

    #[test]
    fn a_list_has_raw_bytes_for_programs() {
        let list = ArrayList {
            arrays: vec![samples::rebuilding_array()],
        };
        let view = array_list(&list);
        let row = &view.sheet.rows[0];
        let at = |name: &str| {
            let index = view.sheet.columns.iter().position(|c| *c == name).unwrap();
            row[index].raw.clone()
        };
        assert_eq!(at("size_bytes"), "4294967296");
        assert_eq!(at("sync_action"), "rebuild");
        assert_eq!(at("in_sync"), "3");
        assert_eq!(at("members"), "4");
    }

    #[test]
    fn a_disk_that_nobody_finds_is_listed_by_its_uuid_and_an_empty_slot_by_a_dash() {
        let mut value = samples::rebuilding_array();
        value.members[0].path = String::new();
        value.members[0].uuid = "0b9cf0c6".to_owned();
        value.members[1].path = String::new();
        value.members[1].uuid = String::new();
        let text = Painter::new(false).view(&array(&value));
        let of_slot = |slot: &str| -> Vec<&str> {
            let rows = text.lines().map(|line| line.split_whitespace().collect());
            let mut rows = rows.filter(|row: &Vec<&str>| row.len() == 8 && row[0] == slot);
            rows.next().unwrap()
        };
        assert_eq!(of_slot("0")[1], "0b9cf0c6");
        assert_eq!(of_slot("1")[1], "-");
    }

    #[test]
    fn a_failed_disk_without_a_slot_is_no_spare() {
        let mut value = samples::rebuilding_array();
        let before = ready_spares(&value);
        value.spares.push(Spare {
            path: "/d/9".to_owned(),
            uuid: "u9".to_owned(),
            state: MemberState::Failed,
            journal: false,
            errors: ErrorCounters::default(),
        });
        assert_eq!(ready_spares(&value), before);
    }

    #[test]
    fn a_failed_disk_and_its_successor_count_as_one_member() {
        let mut value = samples::rebuilding_array();
        value.members.push(samples::member(1, MemberState::Failed));
        assert_eq!(slots(&value), 4);
    }
}
