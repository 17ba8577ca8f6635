//! Volumes and exports.

use cairn_api::{Export, ExportState, KERNEL, UBLK, Volume, VolumeList};

use crate::output::{Cell, Sheet, Tone, View, fact};

/// `volume list`.
pub(crate) fn volume_list(list: &VolumeList) -> View {
    View {
        sheet: list_sheet(&list.volumes),
        nothing: "no volumes; `cairn volume create --help` shows how to make one",
        ..View::default()
    }
}

/// A line per volume.
pub(super) fn list_sheet(volumes: &[Volume]) -> Sheet {
    Sheet {
        columns: vec!["name", "array", "size_bytes", "allocated_bytes", "exports"],
        rows: volumes
            .iter()
            .map(|volume| {
                let exports: Vec<&str> = volume.exports.iter().map(place).collect();
                let exports = (!exports.is_empty()).then(|| exports.join(" "));
                vec![
                    Cell::text(&volume.name),
                    Cell::text(&volume.array),
                    Cell::bytes(volume.size_bytes),
                    Cell::bytes(volume.allocated_bytes),
                    Cell::maybe(exports),
                ]
            })
            .collect(),
        verbatim: false,
    }
}

/// `volume show`: facts, then a line per export.
pub(crate) fn volume(volume: &Volume) -> View {
    View {
        facts: vec![
            fact("name", Cell::text(&volume.name)),
            fact("uuid", Cell::text(&volume.uuid)),
            fact("array", Cell::text(&volume.array)),
            fact("size_bytes", Cell::bytes(volume.size_bytes)),
            fact("allocated_bytes", Cell::bytes(volume.allocated_bytes)),
            fact("exports", Cell::count(volume.exports.len())),
        ],
        // Without an export the facts are the whole answer, in CSV too.
        sheet: if volume.exports.is_empty() {
            Sheet::default()
        } else {
            exports_sheet(&volume.exports)
        },
        nothing: "",
        more: Vec::new(),
    }
}

/// Where an export is, for people.
fn place(export: &Export) -> &str {
    if [UBLK, KERNEL].contains(&export.nbd.as_str()) && !export.uri.is_empty() {
        return &export.uri;
    }
    &export.nbd
}

/// A line per export.
pub(super) fn exports_sheet(exports: &[Export]) -> Sheet {
    Sheet {
        columns: vec![
            "volume",
            "nbd",
            "state",
            "connections",
            "read_only",
            "uri",
            "error",
        ],
        rows: exports
            .iter()
            .map(|export| {
                let tone = match export.state {
                    ExportState::Listening => Tone::Good,
                    ExportState::Waiting => Tone::Warn,
                    ExportState::Failed => Tone::Bad,
                };
                vec![
                    Cell::text(&export.volume),
                    Cell::text(&export.nbd).shown_as(place(export)),
                    Cell::text(export.state.as_str()).toned(tone),
                    Cell::count(export.connections),
                    Cell::text(export.read_only.to_string()),
                    Cell::text(&export.uri),
                    Cell::maybe(export.error.as_ref()),
                ]
            })
            .collect(),
        verbatim: false,
    }
}
