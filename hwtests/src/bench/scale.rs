//! `bench scale`: what more disks, and more requests at a time, bring and cost.
//!
//! Arrays of all sizes exist side by side and take turns. What counts is the work for each second of
//! processor time: the disks are memory, so that more of them bring no speed of their own.

use std::time::Duration;

use cairn_blockdev::units::{MIB, u64_of};
use cairn_raid::Level;
use clap::Args;
use serde::Serialize;

use super::cases::Unit;
use super::figures::{float, median, ratio};
use super::interrupt::Interrupt;
use super::load::{Load, Order, Sample, Until};
use super::machine::Machine;
use super::ram_disks::{DiskSet, RamDisks};
use super::report::{spread, table};
use super::subject::{Make, Subject};
use super::svg::{self, Curve, Panel};
use crate::program;

/// Members of the arrays, fewest first.
const DISKS: [usize; 5] = [8, 12, 16, 20, 24];
/// Requests at a time.
const DEPTHS: [usize; 8] = [1, 2, 4, 8, 16, 32, 64, 128];
/// The array that is given more and more of them.
const DEPTHS_ON: usize = 12;
const LEVEL: Level = Level::Raid6;
const CHUNK_BYTES: u32 = 64 << 10;
/// At least so much of a core's work is left with the most disks.
const LEFT_MIN: f64 = 0.8;
/// Journal of a member, and what a disk has beside journal and volume, in MiB.
const JOURNAL_MIB: u64 = 64;
const SLACK_MIB: u64 = 256;
/// What a burst of small writes writes: the journals hold it.
const BURST_BYTES: u64 = 16 << 20;
const BLOCK: usize = 4 << 10;
const MEBIBYTE: usize = 1 << 20;
/// Where the curves are kept, in `hwtests`.
const PLOT: &str = "doc/scale.svg";

/// How long, and how often.
#[derive(Debug, Clone, Args)]
pub struct ScaleArgs {
    /// Of the volume, so much on each disk for data, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 32)]
    pub share: u64,
    /// Time of each load.
    #[arg(long, value_name = "S", default_value_t = 0.5)]
    pub seconds: f64,
    /// Turns.
    #[arg(long, default_value_t = 5)]
    pub runs: usize,
    /// Everything tiny, and what is read compared with what was written.
    #[arg(long)]
    pub smoke: bool,
}

/// A load, whatever the array.
struct Kind {
    name: &'static str,
    unit: Unit,
    is_write: bool,
    bytes: usize,
    depth: usize,
    /// Bytes and no time.
    is_burst: bool,
}

const KINDS: [Kind; 4] = [
    Kind {
        name: "4k random write QD32, bursts",
        unit: Unit::Iops,
        is_write: true,
        bytes: BLOCK,
        depth: 32,
        is_burst: true,
    },
    Kind {
        name: "sequential write 1M QD8",
        unit: Unit::Mib,
        is_write: true,
        bytes: MEBIBYTE,
        depth: 8,
        is_burst: false,
    },
    Kind {
        name: "4k random read QD32",
        unit: Unit::Iops,
        is_write: false,
        bytes: BLOCK,
        depth: 32,
        is_burst: false,
    },
    Kind {
        name: "sequential read 1M QD8",
        unit: Unit::Mib,
        is_write: false,
        bytes: MEBIBYTE,
        depth: 8,
        is_burst: false,
    },
];

/// An array, and its place on the curves.
struct Stand {
    disks: usize,
    volume_bytes: u64,
    row_bytes: u64,
    subject: Subject,
}

/// One point.
#[derive(Debug, Clone, Serialize)]
pub struct Point {
    /// Members.
    pub disks: usize,
    /// Requests at a time.
    pub depth: usize,
    /// Every run: IOPS, or MiB/s.
    pub figures: Vec<f64>,
    /// Every run: the same for each second of processor time.
    pub per_core: Vec<f64>,
    /// Every run: half of the requests took no longer, in microseconds.
    pub p50_us: Vec<f64>,
}

/// One load over all of them.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// The load.
    pub name: String,
    /// What it is counted in.
    pub unit: &'static str,
    /// From few to many.
    pub points: Vec<Point>,
}

/// A whole run.
#[derive(Debug, Clone, Serialize)]
pub struct ScaleReport {
    /// Where.
    pub machine: Machine,
    /// Of what.
    pub setting: String,
    /// More disks.
    pub by_disks: Vec<Line>,
    /// More requests at a time.
    pub by_depth: Vec<Line>,
}

impl Point {
    fn new(disks: usize, depth: usize) -> Self {
        Self {
            disks,
            depth,
            figures: Vec::new(),
            per_core: Vec::new(),
            p50_us: Vec::new(),
        }
    }

    fn take(&mut self, unit: Unit, sample: &Sample) {
        let amount = match unit {
            Unit::Iops => float(sample.ops),
            Unit::Mib => float(sample.bytes) / float(MIB),
        };
        self.figures.push(ratio(amount, sample.seconds));
        self.per_core.push(ratio(amount, sample.cpu_seconds));
        self.p50_us.push(sample.p50_us);
    }
}

impl Line {
    /// What a core does with the most disks, against the fewest: median of the turns' ratios.
    fn left(&self) -> f64 {
        let (Some(few), Some(many)) = (self.points.first(), self.points.last()) else {
            return 0.0;
        };
        let turns = many.per_core.iter().zip(&few.per_core);
        median(
            &turns
                .map(|(many, few)| ratio(*many, *few))
                .collect::<Vec<_>>(),
        )
    }
}

/// Runs it, and gives the table.
pub fn run(mut args: ScaleArgs, interrupt: &Interrupt) -> Result<ScaleReport, String> {
    if args.smoke {
        args.share = args.share.min(8);
        args.seconds = args.seconds.min(0.02);
        args.runs = 1;
    }
    if args.runs == 0 {
        return Err("there is at least one run".into());
    }
    let machine = Machine::now();
    let mib = JOURNAL_MIB + args.share + SLACK_MIB;
    let sets = DISKS.map(|count| DiskSet { count, mib });
    let count: u64 = DISKS.iter().map(|count| u64_of(*count)).sum();
    let disks = RamDisks::make(
        &sets,
        512,
        count * (JOURNAL_MIB + args.share + SLACK_MIB / 8),
    )?;
    let setting = format!(
        "{LEVEL} of {DISKS:?} loops in memory, chunk {} KiB, journal {JOURNAL_MIB} MiB a member, {} MiB of data a \
         disk, written once before; all arrays take turns, {} turns of {} s; processor time is the \
         process's, without the loops' own; median (least–most)",
        CHUNK_BYTES >> 10,
        args.share,
        args.runs,
        args.seconds
    );
    let work = measure(&args, &disks, interrupt);
    let (by_disks, by_depth) = super::array::Setting::block_on(work)?;
    Ok(ScaleReport {
        machine,
        setting,
        by_disks,
        by_depth,
    })
}

async fn measure(
    args: &ScaleArgs,
    disks: &RamDisks,
    interrupt: &Interrupt,
) -> Result<(Vec<Line>, Vec<Line>), String> {
    let mut stands = Vec::new();
    for (set, count) in DISKS.into_iter().enumerate() {
        let data = u64_of(count - LEVEL.redundancy(count));
        let row_bytes = u64::from(CHUNK_BYTES) * data;
        // Whole rows, of whole requests.
        let volume_bytes = args.share * MIB * data;
        let make = Make::Array {
            level: LEVEL,
            chunk_bytes: CHUNK_BYTES,
            journal_bytes: Some(JOURNAL_MIB * MIB),
            integrity: true,
            volume_bytes,
        };
        let subject = Subject::start(make, disks.paths(set), args.smoke, interrupt.clone()).await?;
        subject.load(Load::fill(volume_bytes, row_bytes)).await?;
        subject.drain().await?;
        stands.push(Stand {
            disks: count,
            volume_bytes,
            row_bytes,
            subject,
        });
    }
    let mut by_disks = Vec::new();
    for kind in &KINDS {
        let points = stands.iter().map(|stand| (stand, kind.depth)).collect();
        by_disks.push(line(args, kind, points, interrupt).await?);
    }
    let mut by_depth = Vec::new();
    let small = KINDS.iter().filter(|kind| kind.bytes == BLOCK);
    if let Some(stand) = stands.iter().find(|stand| stand.disks == DEPTHS_ON) {
        for kind in small {
            let points = DEPTHS.iter().map(|depth| (stand, *depth)).collect();
            let mut line = line(args, kind, points, interrupt).await?;
            line.name = line.name.replace(" QD32", "");
            by_depth.push(line);
        }
    }
    for stand in stands {
        if args.smoke {
            let blocks = stand.subject.compare().await?;
            eprintln!(
                "{} disks: {blocks} blocks are as they were written",
                stand.disks
            );
        }
        stand.subject.end().await?;
    }
    Ok((by_disks, by_depth))
}

/// One load on all of these, in turns; every other turn the other way round.
async fn line(
    args: &ScaleArgs,
    kind: &Kind,
    places: Vec<(&Stand, usize)>,
    interrupt: &Interrupt,
) -> Result<Line, String> {
    let fresh = places
        .iter()
        .map(|(stand, depth)| Point::new(stand.disks, *depth));
    let mut points: Vec<Point> = fresh.collect();
    for turn in 0..args.runs {
        let mut turns: Vec<_> = places.iter().zip(&mut points).collect();
        if turn % 2 == 1 {
            turns.reverse();
        }
        for ((stand, depth), point) in turns {
            interrupt.check()?;
            let burst_bytes = if args.smoke { MIB } else { BURST_BYTES };
            let load = Load {
                is_write: kind.is_write,
                bytes: kind.bytes,
                depth: *depth,
                order: if kind.bytes == BLOCK {
                    Order::Random
                } else {
                    Order::Sequential(0)
                },
                warm_ops: if kind.is_burst { 0 } else { 4 * u64_of(*depth) },
                until: if kind.is_burst {
                    Until::Ops(burst_bytes / u64_of(kind.bytes))
                } else {
                    Until::Time(Duration::from_secs_f64(args.seconds))
                },
                span_bytes: stand.volume_bytes,
                row_bytes: stand.row_bytes,
                seed: u64_of(turn) + 1,
            };
            stand.subject.drain().await?;
            point.take(kind.unit, &stand.subject.load(load).await?);
        }
    }
    let medians = points.iter().map(|point| median(&point.figures).round());
    eprintln!("{}: {:?}", kind.name, medians.collect::<Vec<_>>());
    Ok(Line {
        name: kind.name.to_owned(),
        unit: match kind.unit {
            Unit::Iops => "IOPS",
            Unit::Mib => "MiB/s",
        },
        points,
    })
}

fn count(value: usize) -> f64 {
    float(u64_of(value))
}

impl ScaleReport {
    fn panels(&self) -> [Panel; 3] {
        let curves = |lines: &[Line], of: &dyn Fn(&Line, &Point) -> (f64, f64)| -> Vec<Curve> {
            let curve = |line: &Line| Curve {
                name: line.name.clone(),
                points: line.points.iter().map(|point| of(line, point)).collect(),
            };
            lines.iter().map(curve).collect()
        };
        let first = |line: &Line| line.points.first().map_or(0.0, |few| median(&few.per_core));
        let depth_marks = DEPTHS
            .iter()
            .map(|depth| (count(*depth).log2(), depth.to_string()));
        let depth_marks: Vec<_> = depth_marks.collect();
        [
            Panel {
                title: "work of a core, from 8 to 24 disks".into(),
                across: "disks, RAID 6".into(),
                up: "8 disks = 1".into(),
                marks: DISKS
                    .iter()
                    .map(|disks| (count(*disks), disks.to_string()))
                    .collect(),
                curves: curves(&self.by_disks, &|line, point| {
                    let share = ratio(median(&point.per_core), first(line));
                    (count(point.disks), share)
                }),
            },
            Panel {
                title: format!("requests at a time, {DEPTHS_ON} disks"),
                across: "queue depth".into(),
                up: "IOPS".into(),
                marks: depth_marks.clone(),
                curves: curves(&self.by_depth, &|_, point| {
                    (count(point.depth).log2(), median(&point.figures))
                }),
            },
            Panel {
                title: format!("latency, {DEPTHS_ON} disks"),
                across: "queue depth".into(),
                up: "p50, µs".into(),
                marks: depth_marks,
                curves: curves(&self.by_depth, &|_, point| {
                    (count(point.depth).log2(), median(&point.p50_us))
                }),
            },
        ]
    }

    /// Draws the curves into `hwtests`; what README says to show them.
    pub fn write_plot(&self) -> Result<String, String> {
        let path = program::tree().join("hwtests").join(PLOT);
        let shown = |error: std::io::Error| format!("{}: {error}", path.display());
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(shown)?;
        }
        std::fs::write(&path, svg::draw(&self.panels())).map_err(shown)?;
        Ok(format!(
            "![what more disks and more requests at a time bring]({PLOT})"
        ))
    }
}

impl std::fmt::Display for ScaleReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}\n{}\n", self.machine, self.setting)?;
        let disks = DISKS.map(|disks| format!("{disks} disks"));
        let head = ["for each second of a core".to_owned(), "unit".to_owned()];
        let tail = ["24 against 8".to_owned(), "target".to_owned()];
        let mut cells = vec![[&head[..], &disks[..], &tail[..]].concat()];
        for line in &self.by_disks {
            let left = line.left();
            let verdict = if left >= LEFT_MIN {
                "met"
            } else {
                "**missed**"
            };
            let mut row = vec![line.name.clone(), line.unit.to_owned()];
            row.extend(line.points.iter().map(|point| spread(&point.per_core)));
            row.extend([format!("{left:.2}"), format!("≥ {LEFT_MIN}: {verdict}")]);
            cells.push(row);
        }
        writeln!(f, "{}", table(&cells))?;
        let depths = DEPTHS.map(|depth| format!("QD{depth}"));
        let head = [format!("{DEPTHS_ON} disks"), "unit".to_owned()];
        let mut cells = vec![[&head[..], &depths[..]].concat()];
        for line in &self.by_depth {
            let mut row = vec![line.name.clone(), line.unit.to_owned()];
            row.extend(line.points.iter().map(|point| spread(&point.figures)));
            cells.push(row);
            let mut row = vec![format!("{}, p50", line.name), "µs".to_owned()];
            row.extend(line.points.iter().map(|point| spread(&point.p50_us)));
            cells.push(row);
        }
        write!(f, "{}", table(&cells))
    }
}
