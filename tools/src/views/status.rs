//! `cairn status`: one screen for 3 a.m.
//!
//! What is wrong comes first, with what to do about it; then what there is. Healthy disks of a
//! large host are summed up, so that the sick one is on the screen.

use std::fmt::Write as _;

use cairn_api::{Array, Disk, DiskRole, HealthLevel, MemberState, Status, SyncAction};

use super::array::sync_cell;
use super::host::{event_rows, level_tone};
use super::{array, disk, volume};
use crate::output::{Cell, Painter, Sheet, Tone};
use crate::quantity::{percent, show_seconds, show_size};

/// More disks than this, and the healthy ones are summed up.
const DISKS_SHOWN_MAX: usize = 16;
/// Cells of the rebuild bar.
const BAR_CELLS: u64 = 30;
/// Events at the end of the screen.
const EVENTS_SHOWN_MAX: usize = 5;

/// The whole screen.
pub(crate) fn screen(status: &Status, painter: Painter) -> String {
    let mut text = String::new();
    verdict(&mut text, status, painter);
    host(&mut text, status, painter);
    arrays(&mut text, status, painter);
    disks(&mut text, status, painter);
    section(
        &mut text,
        painter,
        "VOLUMES",
        &volume::list_sheet(&status.volumes),
        &["exports"],
    );
    section(
        &mut text,
        painter,
        "EXPORTS",
        &volume::exports_sheet(&status.exports),
        &["uri", "read_only", "error"],
    );
    for export in &status.exports {
        if let Some(error) = &export.error {
            let line = format!("{} {}: {error}", export.volume, export.nbd);
            let _ = writeln!(text, "  {}", painter.paint(Tone::Bad, &line));
        }
    }
    let skip = status.events.len().saturating_sub(EVENTS_SHOWN_MAX);
    let events = Sheet {
        columns: super::EVENT_COLUMNS.to_vec(),
        rows: event_rows(&status.events).into_iter().skip(skip).collect(),
        verbatim: false,
    };
    section(&mut text, painter, "LAST EVENTS", &events, &["volume"]);
    text
}

fn verdict(text: &mut String, status: &Status, painter: Painter) {
    let health = &status.health;
    let word = health.level.as_str().to_uppercase();
    let mut codes: Vec<&str> = Vec::new();
    for check in &health.checks {
        if !codes.contains(&check.code.as_str()) {
            codes.push(check.code.as_str());
        }
    }
    let line = if codes.is_empty() {
        word
    } else {
        format!("{word}: {}", codes.join(", "))
    };
    let _ = writeln!(
        text,
        "{}  {}",
        painter.heading(&format!("cairn on {}", status.host.name)),
        painter.paint(level_tone(health.level), &line)
    );
    for check in &health.checks {
        let head = format!(
            "{:4} {}",
            check.severity.as_str().to_uppercase(),
            check.code
        );
        let subject = if check.subject.is_empty() {
            String::new()
        } else {
            format!("{}: ", check.subject)
        };
        let _ = writeln!(
            text,
            "  {}  {subject}{}",
            painter.paint(level_tone(check.severity), &head),
            check.message
        );
        if !check.hint.is_empty() && check.severity != HealthLevel::Ok {
            let _ = writeln!(text, "       next: {}", check.hint);
        }
    }
}

fn host(text: &mut String, status: &Status, painter: Painter) {
    let (host, daemon, io) = (&status.host, &status.daemon, &status.io_backend);
    let reason = match &io.reason {
        Some(reason) => format!(" ({reason})"),
        None => String::new(),
    };
    let line = format!(
        "cairnd {} pid {} up {}, I/O by {}{reason}",
        daemon.version,
        daemon.pid,
        show_seconds(daemon.uptime_seconds),
        io.kind,
    );
    let _ = writeln!(text, "{}", painter.paint(Tone::Dim, &line));
    let line = format!(
        "Linux {}, {} CPUs, load {:.2}, {} of {} memory free, up {}",
        host.kernel,
        host.cpus,
        host.load_one,
        show_size(host.memory_available_bytes),
        show_size(host.memory_bytes),
        show_seconds(host.uptime_seconds),
    );
    let _ = writeln!(text, "{}", painter.paint(Tone::Dim, &line));
}

fn arrays(text: &mut String, status: &Status, painter: Painter) {
    if status.arrays.is_empty() {
        let _ = writeln!(
            text,
            "\nno arrays; `cairn array create --help` shows how to make one"
        );
        return;
    }
    section(
        text,
        painter,
        "ARRAYS",
        &array::list_sheet(&status.arrays),
        &["free_bytes", "in_sync", "host_spares", "sync_action"],
    );
    for array in &status.arrays {
        if array.sync.action != SyncAction::Idle {
            let _ = writeln!(text, "  {}", rebuild_line(array, painter));
        }
        if let Some(reason) = &array.reason {
            let line = format!("{}: {reason}", array.name);
            let _ = writeln!(text, "  {}", painter.paint(Tone::Bad, &line));
            if let Some(hint) = &array.hint {
                let _ = writeln!(text, "       next: {hint}");
            }
        }
    }
}

fn rebuild_line(array: &Array, painter: Painter) -> String {
    let sync = &array.sync;
    let done = percent(sync.done_bytes, sync.total_bytes);
    let full = usize::try_from(done * BAR_CELLS / 100).unwrap_or(0);
    let empty = usize::try_from(BAR_CELLS).unwrap_or(0).saturating_sub(full);
    let bar = format!("{}{}", "█".repeat(full), "░".repeat(empty));
    format!(
        "{} {} {}  {} of {}",
        array.name,
        painter.paint(Tone::Warn, &bar),
        sync_cell(sync).shown,
        show_size(sync.done_bytes),
        show_size(sync.total_bytes)
    )
}

/// A disk that nobody has to look at.
fn is_quiet(disk: &Disk) -> bool {
    disk.errors.total() == 0
        && disk.note.is_none()
        && matches!(
            disk.state,
            None | Some(MemberState::InSync | MemberState::Spare)
        )
}

fn disks(text: &mut String, status: &Status, painter: Painter) {
    let all = &status.disks;
    let sum_up = all.len() > DISKS_SHOWN_MAX;
    let sheet = disk::list_sheet(all.iter().filter(|disk| !(sum_up && is_quiet(disk))));
    section(text, painter, "DISKS", &sheet, &["kind", "content"]);
    if sum_up {
        let quiet = all.iter().filter(|disk| is_quiet(disk)).count();
        if sheet.rows.is_empty() {
            let _ = writeln!(text, "\n{}", painter.heading("DISKS"));
        }
        let _ = writeln!(
            text,
            "  {quiet} {}disks without errors (cairn disk list)",
            if sheet.rows.is_empty() { "" } else { "more " }
        );
    }
    let pool = all.iter().filter(|disk| disk.role == DiskRole::HostSpare);
    let ready = pool.filter(|disk| is_quiet(disk)).count();
    if ready > 0 {
        let disks = if ready == 1 { "disk" } else { "disks" };
        let _ = writeln!(text, "  {ready} {disks} in the host's pool of spares");
    }
}

/// A heading and the sheet without the columns in `without`; nothing for an empty sheet.
fn section(text: &mut String, painter: Painter, title: &str, sheet: &Sheet, without: &[&str]) {
    if sheet.rows.is_empty() {
        return;
    }
    let keep: Vec<bool> = sheet.columns.iter().map(|c| !without.contains(c)).collect();
    let narrowed = Sheet {
        columns: kept(&sheet.columns, &keep),
        rows: sheet
            .rows
            .iter()
            .map(|row| kept::<Cell>(row, &keep))
            .collect(),
        verbatim: sheet.verbatim,
    };
    let _ = writeln!(text, "\n{}", painter.heading(title));
    text.push_str(&painter.sheet(&narrowed, 2));
}

fn kept<T: Clone>(items: &[T], keep: &[bool]) -> Vec<T> {
    items
        .iter()
        .zip(keep)
        .filter(|(_, keep)| **keep)
        .map(|(item, _)| item.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::samples;

    #[test]
    fn the_verdict_with_its_codes_is_the_first_line() {
        let text = screen(&samples::status(), Painter::new(false));
        assert_eq!(
            text.lines().next().unwrap(),
            "cairn on h1  WARN: ARRAY_REBUILDING, SPARE_MISSING"
        );
        for part in [
            "next: cairn array spare add pool PATH",
            "I/O by threads (io_uring_setup: EPERM)",
            "pool ███████░",
            "rebuild 25 %, 300 MiB/s, 12 s left  1 GiB of 4 GiB",
            "unix:/run/cairn/pg.sock",
            "RebuildStarted",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
    }

    #[test]
    fn healthy_disks_of_a_large_host_are_summed_up() {
        let mut status = samples::status();
        status.disks = (0..24)
            .map(|slot| samples::disk(slot, MemberState::InSync))
            .collect();
        status.disks[7].errors.read = 1;
        let text = screen(&status, Painter::new(false));
        assert!(text.contains("/d/7 "), "{text}");
        assert!(!text.contains("/d/8 "), "{text}");
        assert!(text.contains("23 more disks without errors"), "{text}");
    }

    #[test]
    fn the_pool_of_spares_is_on_the_screen() {
        let mut status = samples::status();
        let mut spare = samples::disk(9, MemberState::Spare);
        spare.role = DiskRole::HostSpare;
        status.disks.push(spare.clone());
        let text = screen(&status, Painter::new(false));
        assert!(text.contains("host_spare"), "{text}");
        assert!(
            text.contains("1 disk in the host's pool of spares"),
            "{text}"
        );
        spare.state = Some(MemberState::Missing);
        status.disks = vec![spare];
        let text = screen(&status, Painter::new(false));
        assert!(!text.contains("in the host's pool"), "{text}");
    }

    #[test]
    fn an_empty_host_says_how_to_begin() {
        let mut status = samples::status();
        status.health = cairn_api::Health::default();
        status.arrays.clear();
        status.disks.clear();
        status.volumes.clear();
        status.exports.clear();
        status.events.clear();
        let text = screen(&status, Painter::new(false));
        assert!(text.starts_with("cairn on h1  OK\n"), "{text}");
        assert!(text.contains("cairn array create"), "{text}");
    }
}
