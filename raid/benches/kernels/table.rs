//! The figures of a run: medians over the samples, ratios of the same samples, verdicts.

use std::fmt;
use std::time::Duration;

use crate::contender::{Case, Side, float};
use crate::isal::{Isal, MISSING};

/// The table so far.
pub(crate) struct Table {
    peer: String,
    lines: Vec<[String; 7]>,
}

const HEAD: [&str; 7] = [
    "kernel",
    "working set",
    "Cairn, GB/s",
    "others, GB/s",
    "ratio to the fastest",
    "target",
    "memcpy",
];

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn spread(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    let middle = median(values.to_vec());
    format!("{middle:.1} ({least:.1}–{most:.1})")
}

impl Table {
    /// Without lines.
    pub(crate) fn new(isal: Option<&Isal>) -> Self {
        Self {
            peer: isal.map_or_else(|| MISSING.to_owned(), |isal| isal.version.clone()),
            lines: Vec::new(),
        }
    }

    /// A case's line, of the time of each contender in each round.
    pub(crate) fn add(&mut self, shape: &str, case: &Case, rounds: Vec<Vec<Duration>>) {
        let bytes = float(case.bytes);
        // Of each contender, GB/s in each round.
        let speeds = |at: usize| -> Vec<f64> {
            let times = rounds.iter().filter_map(|round| round.get(at));
            times.map(|time| bytes / time.as_secs_f64() / 1e9).collect()
        };
        let all = || {
            let contenders = case.contenders.iter().enumerate();
            contenders.map(|(at, contender)| (contender, speeds(at)))
        };
        let of = |side: Side| all().filter(move |(contender, _)| contender.side == side);
        let Some((contender, ours)) = of(Side::Ours).next() else {
            return;
        };
        let fastest = of(Side::Peer)
            .map(|(_, speeds)| speeds)
            .max_by(|a, b| median(a.clone()).total_cmp(&median(b.clone())));
        let ratio = fastest.map(|theirs| {
            let pairs = ours.iter().zip(&theirs);
            median(pairs.map(|(ours, theirs)| ours / theirs).collect())
        });
        let verdict = match (case.target, ratio) {
            (Some(target), Some(ratio)) if ratio >= target => format!("≥ {target}: met"),
            (Some(target), Some(_)) => format!("≥ {target}: **missed**"),
            (Some(target), None) => format!("≥ {target}: no peer"),
            (None, _) => String::new(),
        };
        let others =
            of(Side::Peer).map(|(peer, speeds)| format!("{} {}", peer.name, spread(&speeds)));
        let limit = of(Side::Limit).map(|(_, speeds)| spread(&speeds)).next();
        self.lines.push([
            format!("{} ({})", case.kernel, contender.name),
            shape.to_owned(),
            spread(&ours),
            others.collect::<Vec<_>>().join(", "),
            ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
            verdict,
            limit.unwrap_or_default(),
        ]);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.lines.is_empty() {
            return write!(f, "All that ran give the same results.");
        }
        writeln!(
            f,
            "{}; one core; medians (least–most) of samples in which all take turns; ratios: median of the samples'\n",
            self.peer
        )?;
        let mut lines = vec![HEAD.map(str::to_owned)];
        let mut sorted: Vec<_> = self.lines.clone();
        sorted.sort_by(|a, b| a.first().cmp(&b.first()));
        lines.extend(sorted);
        let mut widths = [0; 7];
        for line in &lines {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = cell.chars().count().max(*width);
            }
        }
        for (number, line) in lines.iter().enumerate() {
            let cells = line.iter().zip(widths);
            let cells = cells.map(|(cell, width)| format!(" {cell:width$} |"));
            writeln!(f, "|{}", cells.collect::<String>())?;
            if number == 0 {
                let rule = widths.iter().map(|width| "-".repeat(width + 2) + "|");
                writeln!(f, "|{}", rule.collect::<String>())?;
            }
        }
        Ok(())
    }
}
