//! Disks.

use cairn_api::{Disk, DiskContent, DiskKind, DiskList};

use super::array::{errors_cell, member_tone};
use crate::output::{Cell, Sheet, Tone, View, fact};

fn content_cell(disk: &Disk) -> Cell {
    let tone = match disk.content {
        DiskContent::Blank | DiskContent::Cairn | DiskContent::Unknown => Tone::Plain,
        DiskContent::Foreign => Tone::Warn,
        DiskContent::Damaged | DiskContent::Unreadable => Tone::Bad,
    };
    match &disk.signature {
        Some(signature) => Cell::text(signature),
        None => Cell::text(disk.content.as_str()),
    }
    .toned(tone)
}

fn state_cell(disk: &Disk) -> Cell {
    match (disk.state, disk.kind) {
        (Some(state), _) => Cell::text(state.as_str()).toned(member_tone(state)),
        (None, DiskKind::Absent) => Cell::text("absent").toned(Tone::Bad),
        (None, _) => Cell::maybe(None::<String>),
    }
}

fn slot_cell(disk: &Disk) -> Cell {
    Cell {
        right: true,
        ..Cell::maybe(disk.slot.map(|slot| slot.to_string()))
    }
}

/// `disk list`.
pub(crate) fn disk_list(list: &DiskList) -> View {
    View {
        sheet: list_sheet(list.disks.iter()),
        nothing: "no disks are known yet; `cairn array create` makes an array of some",
        ..View::default()
    }
}

/// A line per disk.
pub(super) fn list_sheet<'a>(disks: impl Iterator<Item = &'a Disk>) -> Sheet {
    Sheet {
        columns: vec![
            "path",
            "role",
            "array",
            "slot",
            "state",
            "size_bytes",
            "kind",
            "content",
            "errors",
        ],
        rows: disks
            .map(|disk| {
                vec![
                    Cell::text(&disk.path),
                    Cell::text(disk.role.as_str()),
                    Cell::maybe(disk.array.as_ref()),
                    slot_cell(disk),
                    state_cell(disk),
                    Cell::bytes(disk.size_bytes),
                    Cell::text(disk.kind.as_str()),
                    content_cell(disk),
                    errors_cell(&disk.errors),
                ]
            })
            .collect(),
        verbatim: false,
    }
}

/// `disk show`.
pub(crate) fn disk(disk: &Disk) -> View {
    let errors = &disk.errors;
    let rotational = disk.rotational.map(|spins| spins.to_string());
    View {
        facts: vec![
            fact("path", Cell::text(&disk.path)),
            fact("kind", Cell::text(disk.kind.as_str())),
            fact("size_bytes", Cell::bytes(disk.size_bytes)),
            fact(
                "logical_block_bytes",
                Cell::bytes(u64::from(disk.logical_block_bytes)),
            ),
            fact("rotational", Cell::maybe(rotational)),
            fact("model", Cell::maybe(disk.model.as_ref())),
            fact("serial", Cell::maybe(disk.serial.as_ref())),
            fact("content", content_cell(disk)),
            fact("role", Cell::text(disk.role.as_str())),
            fact("array", Cell::maybe(disk.array.as_ref())),
            fact("slot", slot_cell(disk)),
            fact("state", state_cell(disk)),
            fact("uuid", Cell::maybe(disk.uuid.as_ref())),
            fact("read_errors", Cell::errors(errors.read)),
            fact("write_errors", Cell::errors(errors.write)),
            fact("flush_errors", Cell::errors(errors.flush)),
            fact("corruption_errors", Cell::errors(errors.corruption)),
            fact("generation_errors", Cell::errors(errors.generation)),
            fact("note", Cell::maybe(disk.note.as_ref())),
        ],
        ..View::default()
    }
}
