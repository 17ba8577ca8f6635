//! What was done as Prometheus reads it: names, labels and units. The values are the API's [`Work`].
//!
//! Invariants
//! - Seconds and bytes, never their multiples; what only rises is a counter.

use std::fmt::Error;
use std::time::Duration;

use cairn_api::{ArrayWork, Tally, Work};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// The type of the text.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A value.
#[derive(Debug, Clone, Copy)]
enum Value {
    /// It only rises.
    Count(u64),
    /// The same, of ns that are shown as seconds.
    Nanos(u64),
    /// It rises and falls.
    Level(u64),
}

/// Values of one name, each with its labels.
struct Family {
    name: &'static str,
    help: &'static str,
    values: Vec<(Vec<(&'static str, String)>, Value)>,
}

impl Family {
    fn new(name: &'static str, help: &'static str) -> Self {
        Self {
            name,
            help,
            values: Vec::new(),
        }
    }

    fn put(&mut self, labels: &[(&'static str, &str)], value: Value) {
        let labels = labels
            .iter()
            .map(|(name, text)| (*name, (*text).to_owned()));
        self.values.push((labels.collect(), value));
    }

    fn encode(&self, encoder: &mut DescriptorEncoder) -> Result<(), Error> {
        let Some((_, first)) = self.values.first() else {
            return Ok(());
        };
        let kind = match first {
            Value::Level(_) => MetricType::Gauge,
            _ => MetricType::Counter,
        };
        let mut family = encoder.encode_descriptor(self.name, self.help, None, kind)?;
        for (labels, value) in &self.values {
            let metric = family.encode_family(labels)?;
            match value {
                Value::Count(count) => ConstCounter::new(*count).encode(metric)?,
                Value::Nanos(nanos) => {
                    let seconds = Duration::from_nanos(*nanos).as_secs_f64();
                    ConstCounter::new(seconds).encode(metric)?;
                }
                Value::Level(level) => ConstGauge::new(*level).encode(metric)?,
            }
        }
        Ok(())
    }
}

/// Four families of requests, of volumes or of disks.
struct Requests([Family; 4]);

impl Requests {
    fn put(&mut self, labels: &[(&'static str, &str)], tally: &Tally) {
        let Self([ended, failed, bytes, time]) = self;
        for (op, count) in tally.kinds() {
            let labels = [labels, &[("op", op)]].concat();
            ended.put(&labels, Value::Count(count.ops));
            failed.put(&labels, Value::Count(count.failed));
            bytes.put(&labels, Value::Count(count.bytes));
            time.put(&labels, Value::Nanos(count.nanos));
        }
    }
}

fn families(work: &Work, now_unix_ms: u64) -> Vec<Family> {
    let mut volumes = Requests([
        Family::new("cairn_volume_requests", "Clients' requests that have ended"),
        Family::new(
            "cairn_volume_request_failures",
            "Clients' requests that failed",
        ),
        Family::new("cairn_volume_bytes", "Bytes of clients' requests"),
        Family::new(
            "cairn_volume_request_seconds",
            "Time that clients' requests took, summed up",
        ),
    ]);
    let mut disks = Requests([
        Family::new("cairn_disk_requests", "What a disk was asked and has ended"),
        Family::new(
            "cairn_disk_request_failures",
            "What a disk was asked and failed",
        ),
        Family::new(
            "cairn_disk_bytes",
            "Bytes read from, written to or trimmed on a disk",
        ),
        Family::new(
            "cairn_disk_request_seconds",
            "Time that a disk took, summed up over what it was asked",
        ),
    ]);
    let mut in_flight = Family::new(
        "cairn_disk_in_flight",
        "What a disk was asked and hasn't ended",
    );
    let mut errors = Family::new(
        "cairn_disk_errors",
        "Errors of a disk since its array was started, by kind",
    );
    for array in &work.arrays {
        for volume in &array.volumes {
            let labels = [("array", &*array.name), ("volume", &*volume.name)];
            volumes.put(&labels, &volume.tally);
        }
        for disk in &array.disks {
            let slot = disk.slot.map(|slot| slot.to_string()).unwrap_or_default();
            let labels = [
                ("array", &*array.name),
                ("disk", &*disk.path),
                ("slot", &*slot),
            ];
            disks.put(&labels, &disk.tally);
            in_flight.put(&labels, Value::Level(disk.in_flight));
            let counts = disk.errors;
            for (kind, count) in [
                ("read", counts.read),
                ("write", counts.write),
                ("flush", counts.flush),
                ("corruption", counts.corruption),
                ("generation", counts.generation),
                ("timeout", counts.timeouts),
            ] {
                let labels = [&labels[..], &[("kind", kind)]].concat();
                errors.put(&labels, Value::Count(count));
            }
        }
    }
    let mut families = vec![up(), age(work, now_unix_ms)];
    families.extend(of_arrays(work));
    families.extend(volumes.0);
    families.extend(disks.0);
    families.extend([in_flight, errors]);
    families
}

fn up() -> Family {
    let mut up = Family::new("cairn_up", "cairnd answers");
    up.put(&[("version", env!("CARGO_PKG_VERSION"))], Value::Level(1));
    up
}

/// An array's thread that doesn't answer is seen here.
fn age(work: &Work, now_unix_ms: u64) -> Family {
    let mut age = Family::new(
        "cairn_array_answer_age_milliseconds",
        "How long ago the array's thread said what is told of it here: a few seconds, or it doesn't answer",
    );
    for array in &work.arrays {
        let since = now_unix_ms.saturating_sub(array.taken_unix_ms);
        age.put(&[("array", &array.name)], Value::Level(since));
    }
    age
}

type Read = fn(&ArrayWork) -> Value;

fn of_arrays(work: &Work) -> Vec<Family> {
    const OF_EACH: [(&str, &str, Read); 10] = [
        (
            "cairn_array_cpu_seconds",
            "Processor time of the array's thread, the kernel's on its behalf included",
            |array| Value::Nanos(array.cpu_ns),
        ),
        (
            "cairn_array_redundancy_left",
            "Further member failures that would be survived",
            |array| Value::Level(u64::from(array.redundancy_left)),
        ),
        ("cairn_array_size_bytes", "Data bytes in all", |array| {
            Value::Level(array.size_bytes)
        }),
        (
            "cairn_array_free_bytes",
            "Data bytes that no volume has",
            |array| Value::Level(array.free_bytes),
        ),
        (
            "cairn_array_journal_used_bytes",
            "Bytes of records that are not trimmed yet, and of what they take in memory",
            |array| Value::Level(array.journal_used_bytes),
        ),
        (
            "cairn_array_journal_bytes",
            "Bytes that the journal admits: writes wait where it is all used",
            |array| Value::Level(array.journal_total_bytes),
        ),
        (
            "cairn_array_checksum_cache_hits",
            "Checksum pages that were in memory when they were needed",
            |array| Value::Count(array.checksum_cache_hits),
        ),
        (
            "cairn_array_checksum_cache_misses",
            "Checksum pages that had to be read",
            |array| Value::Count(array.checksum_cache_misses),
        ),
        (
            "cairn_array_memory_used_bytes",
            "Memory of the array's caches",
            |array| Value::Level(array.memory_used_bytes),
        ),
        (
            "cairn_array_running_seconds",
            "How long the array's thread has been running",
            |array| Value::Nanos(array.running_ns),
        ),
    ];
    let of_each = OF_EACH.iter().map(|(name, help, read)| {
        let mut family = Family::new(name, help);
        for array in &work.arrays {
            family.put(&[("array", &array.name)], read(array));
        }
        family
    });
    let mut state = Family::new("cairn_array_state", "1 for the state that the array is in");
    for array in &work.arrays {
        let labels = [("array", &*array.name), ("state", array.state.as_str())];
        state.put(&labels, Value::Level(1));
    }
    of_each.chain([state]).collect()
}

#[derive(Debug)]
struct Shown {
    work: Work,
    now_unix_ms: u64,
}

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), Error> {
        for family in families(&self.work, self.now_unix_ms) {
            family.encode(&mut encoder)?;
        }
        Ok(())
    }
}

/// The text.
pub(crate) fn text(work: &Work, now_unix_ms: u64) -> Result<String, Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Shown {
        work: work.clone(),
        now_unix_ms,
    }));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_api::{ArrayState, Count, DiskWork, ErrorCounters, MemberState, VolumeWork};

    fn work() -> Work {
        let reads = Count {
            ops: 3,
            failed: 1,
            bytes: 12288,
            nanos: 1_500_000_000,
        };
        let tally = Tally {
            reads,
            ..Tally::default()
        };
        Work {
            taken_unix_ms: 1000,
            pid: 1,
            arrays: vec![ArrayWork {
                name: "pool".into(),
                uuid: "u".into(),
                taken_unix_ms: 1000,
                running_ns: 2_000_000_000,
                cpu_ns: 250_000_000,
                state: ArrayState::Degraded,
                redundancy_left: 1,
                size_bytes: 1 << 30,
                free_bytes: 1 << 20,
                journal_used_bytes: 4096,
                journal_total_bytes: 1 << 24,
                checksum_cache_hits: 8,
                checksum_cache_misses: 2,
                memory_used_bytes: 77,
                volumes: vec![VolumeWork {
                    name: "pg".into(),
                    uuid: "v".into(),
                    tally,
                }],
                disks: vec![DiskWork {
                    path: "/dev/disk/by-id/a \"b\"".into(),
                    uuid: "d".into(),
                    slot: Some(2),
                    state: MemberState::InSync,
                    in_flight: 5,
                    tally,
                    errors: ErrorCounters {
                        corruption: 9,
                        ..ErrorCounters::default()
                    },
                }],
            }],
            idle_volumes_left_out: false,
        }
    }

    #[test]
    fn everything_is_there_with_its_labels_and_units() {
        let text = text(&work(), 4500).unwrap();
        for line in [
            "# TYPE cairn_volume_requests counter",
            r#"cairn_volume_requests_total{array="pool",volume="pg",op="read"} 3"#,
            r#"cairn_volume_request_failures_total{array="pool",volume="pg",op="read"} 1"#,
            r#"cairn_volume_bytes_total{array="pool",volume="pg",op="read"} 12288"#,
            r#"cairn_volume_request_seconds_total{array="pool",volume="pg",op="read"} 1.5"#,
            r#"cairn_volume_requests_total{array="pool",volume="pg",op="flush"} 0"#,
            r#"cairn_disk_in_flight{array="pool",disk="/dev/disk/by-id/a \"b\"",slot="2"} 5"#,
            r#"cairn_disk_errors_total{array="pool",disk="/dev/disk/by-id/a \"b\"",slot="2",kind="corruption"} 9"#,
            r#"cairn_array_cpu_seconds_total{array="pool"} 0.25"#,
            r#"cairn_array_state{array="pool",state="degraded"} 1"#,
            r#"cairn_array_answer_age_milliseconds{array="pool"} 3500"#,
            r#"cairn_array_checksum_cache_misses_total{array="pool"} 2"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn a_daemon_without_arrays_has_no_empty_families() {
        let text = text(&Work::default(), 0).unwrap();
        assert!(text.contains("cairn_up{"));
        assert!(!text.contains("cairn_array"), "{text}");
    }
}
