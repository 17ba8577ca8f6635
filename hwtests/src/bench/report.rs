//! Figures as a table for people, and as JSON with every run.

use serde::Serialize;

use super::cases::{Case, Limit, Unit};
use super::figures::{median, ratio};
use super::load::Sample;
use super::machine::Machine;

/// A target, and what came of it.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Against {
    /// Median over the runs of the ratio to what ran beside it.
    pub ratio: f64,
    /// The least that it should be, if there is a target.
    pub target: Option<f64>,
    /// Whether it is.
    pub met: Option<bool>,
}

impl Against {
    fn of(ours: &[f64], theirs: &[f64], target: Option<f64>) -> Option<Self> {
        let pairs: Vec<f64> = ours
            .iter()
            .zip(theirs)
            .map(|(a, b)| ratio(*a, *b))
            .collect();
        (!pairs.is_empty()).then(|| {
            let ratio = median(&pairs);
            Self {
                ratio,
                target,
                met: target.map(|target| ratio >= target),
            }
        })
    }
}

/// A row of the table.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The case.
    pub name: String,
    /// What it is counted in.
    pub unit: &'static str,
    /// With journal and checksums.
    pub on: Vec<f64>,
    /// Without both.
    pub off: Vec<f64>,
    /// The limit.
    pub limit: Vec<f64>,
    /// On against off.
    pub against_off: Option<Against>,
    /// On against the limit.
    pub against_limit: Option<Against>,
    /// What the limit is.
    pub limit_is: &'static str,
    /// Every run with journal and checksums.
    pub samples_on: Vec<Sample>,
    /// Every run without both.
    pub samples_off: Vec<Sample>,
}

/// A whole run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// Of what: disks, level, sizes.
    pub setting: String,
    /// The table.
    pub rows: Vec<Row>,
}

/// A sample in the case's unit.
pub fn figure(case: &Case, sample: &Sample) -> f64 {
    match case.unit {
        Unit::Iops => sample.iops(),
        Unit::Mib => sample.mib_per_second(),
    }
}

impl Row {
    /// The row of a case.
    pub fn of(case: &Case, on: Vec<Sample>, off: Vec<Sample>, limit: Vec<f64>) -> Self {
        let figures = |samples: &[Sample]| -> Vec<f64> {
            samples.iter().map(|sample| figure(case, sample)).collect()
        };
        let (ons, offs) = (figures(&on), figures(&off));
        Self {
            name: case.name.clone(),
            unit: match case.unit {
                Unit::Iops => "IOPS",
                Unit::Mib => "MiB/s",
            },
            against_off: Against::of(&ons, &offs, case.target_off),
            against_limit: Against::of(&ons, &limit, case.target_limit),
            limit_is: match case.limit {
                Limit::None => "",
                Limit::Raw => "raw",
                Limit::Rmw => "RMW",
                Limit::Data => "raw, data",
                Limit::Healthy => "healthy",
            },
            on: ons,
            off: offs,
            limit,
            samples_on: on,
            samples_off: off,
        }
    }
}

/// The median of values, and how far apart they are.
pub fn spread(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    if values.is_empty() {
        return String::new();
    }
    format!("{:.0} ({least:.0}–{most:.0})", median(values))
}

fn compared(against: Option<Against>) -> [String; 2] {
    let Some(against) = against else {
        return [String::new(), String::new()];
    };
    let verdict = match (against.target, against.met) {
        (Some(target), Some(true)) => format!("≥ {target}: met"),
        (Some(target), _) => format!("≥ {target}: **missed**"),
        (None, _) => String::new(),
    };
    [format!("{:.2}", against.ratio), verdict]
}

/// Median of something of each sample.
fn typical(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> f64 {
    let values: Vec<f64> = samples.iter().map(of).collect();
    median(&values)
}

/// What a request costs: processor time, and the disks' reads, writes and flushes.
fn cost(samples: &[Sample]) -> String {
    let disk = |at: usize| {
        typical(samples, |sample| {
            sample.disk_ops_per_op().get(at).copied().unwrap_or(0.0)
        })
    };
    format!(
        "{:.0} µs; {:.2} r {:.2} w {:.3} f",
        typical(samples, Sample::cpu_us_per_op),
        disk(0),
        disk(1),
        disk(2)
    )
}

/// Rows of cells as a Markdown table with its columns under each other.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| {
            let padding = " ".repeat(width - cell.chars().count());
            format!(" {cell}{padding} |")
        });
        format!("|{}\n", cells.collect::<String>())
    };
    let rule = widths.iter().map(|width| "-".repeat(width + 2) + "|");
    let rule = format!("|{}\n", rule.collect::<String>());
    let mut lines = rows.iter().map(line);
    let head = lines.next().unwrap_or_default();
    head + &rule + &lines.collect::<String>()
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}\n{}\n", self.machine, self.setting)?;
        let head = [
            "",
            "unit",
            "on",
            "off",
            "on/off",
            "target",
            "limit",
            "on/limit",
            "target",
            "latency on p50, p99 µs",
        ];
        let mut cells = vec![head.map(str::to_owned).to_vec()];
        for row in &self.rows {
            let [to_off, off_verdict] = compared(row.against_off);
            let [to_limit, limit_verdict] = compared(row.against_limit);
            let limit = match row.limit_is {
                "" => String::new(),
                what => format!("{what} {}", spread(&row.limit)),
            };
            cells.push(vec![
                row.name.clone(),
                row.unit.into(),
                spread(&row.on),
                spread(&row.off),
                to_off,
                off_verdict,
                limit,
                to_limit,
                limit_verdict,
                format!(
                    "{:.0}, {:.0}",
                    typical(&row.samples_on, |sample| sample.p50_us),
                    typical(&row.samples_on, |sample| sample.p99_us)
                ),
            ]);
        }
        writeln!(f, "{}", table(&cells))?;
        let head = [
            "a request costs: processor; disks' reads, writes, flushes",
            "on",
            "off",
        ];
        let mut cells = vec![head.map(str::to_owned).to_vec()];
        for row in &self.rows {
            cells.push(vec![
                row.name.clone(),
                cost(&row.samples_on),
                cost(&row.samples_off),
            ]);
        }
        write!(f, "{}", table(&cells))
    }
}
