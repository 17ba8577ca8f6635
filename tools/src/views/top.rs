//! `cairn top`: what was asked of arrays, volumes and disks in the last moments.

use crate::output::{Cell, Sheet, Tone, View};
use crate::top::{Line, Top};

/// A row for each array, its volumes and its disks.
pub(crate) fn top(top: &Top) -> View {
    View {
        sheet: Sheet {
            columns: vec![
                "what",
                "name",
                "state",
                "reads_s",
                "read_bytes_s",
                "read_us",
                "writes_s",
                "write_bytes_s",
                "write_us",
                "flushes_s",
                "flush_us",
                "failed_s",
                "in_flight",
                "cpu_us",
                "cpu_percent",
            ],
            rows: top.lines.iter().map(row).collect(),
            verbatim: false,
        },
        nothing: "no array runs",
        ..View::default()
    }
}

fn row(line: &Line) -> Vec<Cell> {
    let number = |value: Option<u64>| match value {
        Some(value) => Cell::count(value),
        None => Cell::maybe(None::<String>),
    };
    let tone = match line.state.as_deref() {
        Some("clean" | "in_sync") => Tone::Good,
        Some("spare" | "journal") | None => Tone::Plain,
        Some("degraded" | "rebuilding" | "replacing") => Tone::Warn,
        Some(_) => Tone::Bad,
    };
    vec![
        Cell::text(line.what),
        Cell::text(&line.name),
        Cell::maybe(line.state.as_ref()).toned(tone),
        Cell::count(line.reads.per_second),
        Cell::bytes(line.reads.bytes_per_second),
        number(line.reads.mean_us),
        Cell::count(line.writes.per_second),
        Cell::bytes(line.writes.bytes_per_second),
        number(line.writes.mean_us),
        Cell::count(line.flushes.per_second),
        number(line.flushes.mean_us),
        Cell::errors(line.failed_per_second),
        number(line.in_flight),
        number(line.cpu_us_per_request),
        number(line.cpu_percent),
    ]
}
