//! What concerns the whole host: health, free space, events, the daemon itself.

use cairn_api::{Df, Event, EventPage, Health, HealthLevel, Status, Version};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::output::{Cell, Sheet, Tone, View, fact};

/// The tone of a verdict or a check.
pub(super) fn level_tone(level: HealthLevel) -> Tone {
    match level {
        HealthLevel::Ok => Tone::Good,
        HealthLevel::Warn => Tone::Warn,
        HealthLevel::Err => Tone::Bad,
    }
}

/// `check`: a line per finding.
pub(crate) fn health(health: &Health) -> View {
    View {
        sheet: Sheet {
            columns: vec!["severity", "code", "subject", "message", "hint"],
            rows: health
                .checks
                .iter()
                .map(|check| {
                    vec![
                        Cell::text(check.severity.as_str())
                            .shown_as(check.severity.as_str().to_uppercase())
                            .toned(level_tone(check.severity)),
                        Cell::text(check.code.as_str()),
                        Cell::text(&check.subject),
                        Cell::text(&check.message),
                        Cell::text(&check.hint),
                    ]
                })
                .collect(),
            verbatim: false,
        },
        nothing: "OK",
        ..View::default()
    }
}

/// `df`: gp_disk_free's columns first, as the original names them.
pub(crate) fn df(df: &Df) -> View {
    View {
        sheet: Sheet {
            columns: vec![
                "dfsegment",
                "dfhostname",
                "dfdevice",
                "dfspace",
                "kind",
                "mount",
                "size_kib",
                "used_kib",
                "used_percent",
            ],
            rows: df
                .rows
                .iter()
                .map(|row| {
                    /// From here on somebody should look.
                    const PERCENT_WARN: u32 = 85;
                    /// From here on it is urgent.
                    const PERCENT_BAD: u32 = 95;
                    let tone = match row.used_percent {
                        PERCENT_BAD.. => Tone::Bad,
                        PERCENT_WARN.. => Tone::Warn,
                        _ => Tone::Plain,
                    };
                    vec![
                        Cell::count(row.dfsegment),
                        Cell::text(&row.dfhostname),
                        Cell::text(&row.dfdevice),
                        Cell::count(row.dfspace),
                        Cell::text(row.kind.as_str()),
                        Cell::maybe(row.mount.as_ref()),
                        Cell::count(row.size_kib),
                        Cell::count(row.used_kib),
                        Cell::count(row.used_percent).toned(tone),
                    ]
                })
                .collect(),
            verbatim: true,
        },
        nothing: "no arrays and no file systems",
        ..View::default()
    }
}

/// Columns of events, for the header of a stream.
pub(crate) const EVENT_COLUMNS: [&str; 7] =
    ["id", "time", "kind", "array", "disk", "volume", "detail"];

/// `events`.
pub(crate) fn events(page: &EventPage) -> View {
    View {
        sheet: Sheet {
            columns: EVENT_COLUMNS.to_vec(),
            rows: event_rows(&page.events),
            verbatim: false,
        },
        nothing: "nothing has happened yet",
        ..View::default()
    }
}

/// A row per event; the time is local for people, UTC for programs.
pub(crate) fn event_rows(events: &[Event]) -> Vec<Vec<Cell>> {
    events
        .iter()
        .map(|event| {
            vec![
                Cell::count(event.id),
                Cell::text(&event.time).shown_as(local_time(event)),
                Cell::text(&event.kind).toned(kind_tone(&event.kind)),
                Cell::maybe(event.array.as_ref()),
                Cell::maybe(event.disk.as_ref()),
                Cell::maybe(event.volume.as_ref()),
                Cell::text(&event.detail),
            ]
        })
        .collect()
}

fn local_time(event: &Event) -> String {
    let at = i64::try_from(event.time_unix_ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok());
    match at {
        Some(at) => at
            .to_zoned(TimeZone::system())
            .strftime("%Y-%m-%d %H:%M:%S")
            .to_string(),
        None => event.time.clone(),
    }
}

/// By mdadm's names: what is lost, what comes back, the rest.
fn kind_tone(kind: &str) -> Tone {
    let any = |words: &[&str]| words.iter().any(|word| kind.contains(word));
    if any(&["Fail", "Degraded", "Disappeared", "Missing", "Error"]) {
        Tone::Bad
    } else if any(&["Finished", "SpareActive"]) {
        Tone::Good
    } else {
        Tone::Plain
    }
}

/// `version`.
pub(crate) fn version(version: &Version) -> View {
    View {
        facts: vec![
            fact("cairn", Cell::text(env!("CARGO_PKG_VERSION"))),
            fact("cairnd", Cell::text(&version.version)),
            fact("pid", Cell::count(version.pid)),
            fact("socket", Cell::text(&version.socket)),
            fact("state_dir", Cell::text(&version.state_dir)),
            fact("uptime_seconds", Cell::seconds(version.uptime_seconds)),
        ],
        ..View::default()
    }
}

/// `status` for shells and spreadsheets, which have no screen: the verdict and the counts.
pub(crate) fn status_facts(status: &Status) -> View {
    let codes: Vec<&str> = status
        .health
        .checks
        .iter()
        .map(|check| check.code.as_str())
        .collect();
    View {
        facts: vec![
            fact("health", Cell::text(status.health.level.as_str())),
            fact("codes", Cell::text(codes.join(" "))),
            fact("host", Cell::text(&status.host.name)),
            fact("cairnd", Cell::text(&status.daemon.version)),
            fact("pid", Cell::count(status.daemon.pid)),
            fact("io_backend", Cell::text(status.io_backend.kind.as_str())),
            fact("arrays", Cell::count(status.arrays.len())),
            fact("disks", Cell::count(status.disks.len())),
            fact("volumes", Cell::count(status.volumes.len())),
            fact("exports", Cell::count(status.exports.len())),
        ],
        ..View::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Painter;
    use crate::views::samples;
    use cairn_api::{DfKind, DfRow};

    #[test]
    fn df_begins_with_the_columns_of_gp_disk_free() {
        let value = Df {
            rows: vec![DfRow {
                dfsegment: -1,
                dfhostname: "h1".to_owned(),
                dfdevice: "pool".to_owned(),
                dfspace: 1024,
                kind: DfKind::Array,
                mount: None,
                size_kib: 4096,
                used_kib: 3072,
                used_percent: 75,
            }],
        };
        let text = Painter::new(false).view(&df(&value));
        let mut lines = text.lines();
        let header: Vec<_> = lines.next().unwrap().split_whitespace().collect();
        assert_eq!(
            header[..4],
            ["dfsegment", "dfhostname", "dfdevice", "dfspace"]
        );
        let row: Vec<_> = lines.next().unwrap().split_whitespace().collect();
        assert_eq!(row[..5], ["-1", "h1", "pool", "1024", "array"]);
    }

    #[test]
    fn a_healthy_host_checks_ok_and_findings_have_their_codes() {
        assert_eq!(
            Painter::new(false).view(&health(&Health::default())),
            "OK\n"
        );
        let text = Painter::new(false).view(&health(&samples::health()));
        assert!(text.contains("WARN      SPARE_MISSING"), "{text}");
    }

    #[test]
    fn events_keep_utc_for_programs() {
        let rows = event_rows(&[samples::event()]);
        assert_eq!(rows[0][1].raw, "2026-09-21T14:13:20.123Z");
        assert_eq!(rows[0][0].raw, "9");
    }
}
