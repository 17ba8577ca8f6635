//! Rates out of two looks at what only rises.

use cairn_api::{ArrayWork, Count, Tally, Work};
use serde::Serialize;

/// Requests of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Rate {
    pub(crate) per_second: u64,
    pub(crate) bytes_per_second: u64,
    /// What one took, on average; `null`: there were none.
    pub(crate) mean_us: Option<u64>,
}

/// A volume, a disk, or all volumes of an array.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Line {
    /// `array`, `volume` or `disk`.
    pub(crate) what: &'static str,
    pub(crate) array: String,
    pub(crate) name: String,
    /// Of arrays and disks.
    pub(crate) state: Option<String>,
    pub(crate) reads: Rate,
    pub(crate) writes: Rate,
    pub(crate) flushes: Rate,
    pub(crate) zeros: Rate,
    pub(crate) failed_per_second: u64,
    /// Of disks.
    pub(crate) in_flight: Option<u64>,
    /// Of arrays: processor time for each request of a client.
    pub(crate) cpu_us_per_request: Option<u64>,
    /// Of arrays: processor time, in percent of one processor.
    pub(crate) cpu_percent: Option<u64>,
}

/// Everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Top {
    pub(crate) taken_unix_ms: u64,
    pub(crate) pid: u32,
    /// How old the page is.
    pub(crate) age_ms: u64,
    /// How old what each array said is.
    pub(crate) silent: Vec<(String, u64)>,
    pub(crate) lines: Vec<Line>,
}

/// What happened between two looks.
pub(crate) fn rates(before: &Work, now: &Work, now_unix_ms: u64) -> Top {
    let mut top = Top {
        taken_unix_ms: now.taken_unix_ms,
        pid: now.pid,
        age_ms: now_unix_ms.saturating_sub(now.taken_unix_ms),
        ..Top::default()
    };
    for array in &now.arrays {
        let age_ms = now_unix_ms.saturating_sub(array.taken_unix_ms);
        top.silent.push((array.name.clone(), age_ms));
        let mut known = before.arrays.iter();
        // One that wasn't there, or was started anew since, has counted from zero.
        let earlier = known
            .find(|one| one.uuid == array.uuid && one.running_ns <= array.running_ns)
            .cloned();
        let earlier = earlier.unwrap_or_else(|| ArrayWork {
            running_ns: 0,
            cpu_ns: 0,
            volumes: Vec::new(),
            disks: Vec::new(),
            ..array.clone()
        });
        top.lines.extend(of_array(&earlier, array));
    }
    top
}

fn of_array(before: &ArrayWork, now: &ArrayWork) -> Vec<Line> {
    let over_ns = now.running_ns - before.running_ns;
    let mut sum = Tally::default();
    let volumes = now.volumes.iter().map(|volume| {
        let mut known = before.volumes.iter();
        let earlier = known.find(|one| one.uuid == volume.uuid);
        let done = difference(
            &earlier.map_or_else(Tally::default, |one| one.tally),
            &volume.tally,
        );
        sum = added(&sum, &done);
        line("volume", now, &volume.name, &done, over_ns)
    });
    let volumes: Vec<Line> = volumes.collect();
    let requests: u64 = sum.kinds().iter().map(|(_, count)| count.ops).sum();
    let cpu_ns = now.cpu_ns.saturating_sub(before.cpu_ns);
    let mut lines = vec![Line {
        state: Some(now.state.to_string()),
        cpu_us_per_request: cpu_ns.checked_div(requests).map(|ns| ns / 1000),
        cpu_percent: cpu_ns.saturating_mul(100).checked_div(over_ns),
        ..line("array", now, &now.name, &sum, over_ns)
    }];
    lines.extend(volumes);
    lines.extend(now.disks.iter().map(|disk| {
        let mut known = before.disks.iter();
        let earlier = known.find(|one| one.uuid == disk.uuid);
        let done = difference(
            &earlier.map_or_else(Tally::default, |one| one.tally),
            &disk.tally,
        );
        Line {
            state: Some(disk.state.to_string()),
            in_flight: Some(disk.in_flight),
            ..line("disk", now, &disk.path, &done, over_ns)
        }
    }));
    lines
}

fn line(what: &'static str, array: &ArrayWork, name: &str, done: &Tally, over_ns: u64) -> Line {
    let failed: u64 = done.kinds().iter().map(|(_, count)| count.failed).sum();
    Line {
        what,
        array: array.name.clone(),
        name: name.to_owned(),
        state: None,
        reads: rate(done.reads, over_ns),
        writes: rate(done.writes, over_ns),
        flushes: rate(done.flushes, over_ns),
        zeros: rate(done.zeros, over_ns),
        failed_per_second: per_second(failed, over_ns),
        in_flight: None,
        cpu_us_per_request: None,
        cpu_percent: None,
    }
}

fn rate(done: Count, over_ns: u64) -> Rate {
    Rate {
        per_second: per_second(done.ops, over_ns),
        bytes_per_second: per_second(done.bytes, over_ns),
        mean_us: done.nanos.checked_div(done.ops).map(|ns| ns / 1000),
    }
}

/// To the nearest; 0 over no time.
fn per_second(count: u64, over_ns: u64) -> u64 {
    let over = u128::from(over_ns);
    let scaled = u128::from(count) * 1_000_000_000 + over / 2;
    let rate = scaled.checked_div(over).unwrap_or(0);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

fn with(one: Count, other: Count, of: impl Fn(u64, u64) -> u64) -> Count {
    Count {
        ops: of(one.ops, other.ops),
        failed: of(one.failed, other.failed),
        bytes: of(one.bytes, other.bytes),
        nanos: of(one.nanos, other.nanos),
    }
}

fn of_kinds(one: &Tally, other: &Tally, of: impl Fn(u64, u64) -> u64) -> Tally {
    Tally {
        reads: with(one.reads, other.reads, &of),
        writes: with(one.writes, other.writes, &of),
        flushes: with(one.flushes, other.flushes, &of),
        zeros: with(one.zeros, other.zeros, &of),
    }
}

fn difference(before: &Tally, now: &Tally) -> Tally {
    of_kinds(now, before, u64::saturating_sub)
}

fn added(one: &Tally, other: &Tally) -> Tally {
    of_kinds(one, other, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::samples;

    #[test]
    fn a_rate_is_what_came_between_two_looks() {
        let before = samples::work();
        let mut now = before.clone();
        let array = &mut now.arrays[0];
        array.running_ns += 2_000_000_000;
        array.cpu_ns += 500_000_000;
        let writes = &mut array.volumes[0].tally.writes;
        writes.ops += 1000;
        writes.bytes += 1000 << 12;
        writes.nanos += 3_000_000_000;
        array.disks[0].tally.flushes.ops += 3;
        let top = rates(&before, &now, now.taken_unix_ms + 700);
        let of = |what: &str| top.lines.iter().find(|line| line.what == what).unwrap();
        let (array, volume, disk) = (of("array"), of("volume"), of("disk"));
        assert_eq!(
            volume.writes,
            Rate {
                per_second: 500,
                bytes_per_second: 500 << 12,
                mean_us: Some(3000),
            }
        );
        assert_eq!((volume.reads.per_second, volume.reads.mean_us), (0, None));
        assert_eq!(array.writes, volume.writes);
        assert_eq!(
            (array.cpu_us_per_request, array.cpu_percent),
            (Some(500), Some(25))
        );
        assert_eq!(disk.flushes.per_second, 2, "rounded");
        assert_eq!(top.age_ms, 700);
    }

    #[test]
    fn an_array_that_said_nothing_new_has_no_rates_and_one_that_is_new_has_those_since_its_start() {
        let before = samples::work();
        let mut now = before.clone();
        let quiet = |top: &Top| {
            let mut lines = top.lines.iter();
            lines.all(|line| line.reads.per_second == 0 && line.writes.per_second == 0)
        };
        assert!(quiet(&rates(&before, &now, 0)));
        let reads = &mut now.arrays[0].volumes[0].tally.reads;
        (reads.ops, reads.nanos) = (10, 20_000);
        now.arrays[0].running_ns = 5_000_000_000;
        let mut other = before.clone();
        other.arrays[0].running_ns = 6_000_000_000;
        for before in [Work::default(), other] {
            let top = rates(&before, &now, 0);
            assert_eq!(
                (top.lines[0].reads.per_second, top.lines[0].reads.mean_us),
                (2, Some(2))
            );
        }
    }
}
