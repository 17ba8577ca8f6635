//! `bench rebuild` and `bench scrub`: how fast an array does them when idle, and what clients feel of it.
//!
//! A rebuild's figure is what the new member gets; its limit what the disks give to one sequential
//! reader, shared among the members that are read and the one that is written. A scrub's figure is the
//! data that it has compared.

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::array::{ArrayArgs, Setting, Stand, compare, raw_bytes};
use super::btrfs::Btrfs;
use super::figures::{float, median, ratio};
use super::interrupt::Interrupt;
use super::load::{Load, Order, Until};
use super::machine::Machine;
use super::report::{spread, table};
use super::subject::{Chore, Done, Subject};
use crate::scratch::Scratch;
use cairn_blockdev::units::{MIB, u64_of};
use std::time::Duration;

/// At least so much of the limit.
const SHARE_MIN: f64 = 0.5;
/// At least so much of what btrfs does.
const BTRFS_MIN: f64 = 3.0;
/// At most so much longer, for 99 of 100 requests.
const P99_MAX: f64 = 2.0;

/// What a scrub is compared with, beside the disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScrubPeer {
    /// btrfs of the same level, with as much data on as many disks.
    Btrfs,
}

/// What is scrubbed, beside what.
#[derive(Debug, Clone, Args)]
pub struct ScrubArgs {
    /// The array and its disks.
    #[command(flatten)]
    pub array: ArrayArgs,
    /// What to compare with.
    #[arg(long, value_enum)]
    pub peer: Option<ScrubPeer>,
}

/// Scrubs, and gives the table.
pub fn scrub(args: ScrubArgs, interrupt: &Interrupt) -> Result<ChoreReport, String> {
    let array = ArrayArgs {
        beside_btrfs: args.peer == Some(ScrubPeer::Btrfs),
        ..args.array
    };
    run(Chore::Scrub, array, interrupt)
}

/// A row of the table.
#[derive(Debug, Clone, Serialize)]
pub struct ChoreRow {
    /// What.
    pub name: String,
    /// With journal and checksums, every run.
    pub on: Vec<f64>,
    /// Without both, every run.
    pub off: Vec<f64>,
    /// What it is held against, every run.
    pub limit: Vec<f64>,
    /// Median of on over limit.
    pub ratio: f64,
    /// What is wanted of the ratio.
    pub target: String,
    /// Whether it is so.
    pub met: bool,
}

/// A whole run.
#[derive(Debug, Clone, Serialize)]
pub struct ChoreReport {
    /// Where.
    pub machine: Machine,
    /// Of what.
    pub setting: String,
    /// The table.
    pub rows: Vec<ChoreRow>,
    /// Every idle run with journal and checksums.
    pub done_on: Vec<Done>,
    /// Every idle run without both.
    pub done_off: Vec<Done>,
}

fn paired(ours: &[f64], theirs: &[f64]) -> f64 {
    let turns = ours.iter().zip(theirs);
    median(&turns.map(|(a, b)| ratio(*a, *b)).collect::<Vec<_>>())
}

struct Measured {
    rows: Vec<ChoreRow>,
    on: Vec<Done>,
    off: Vec<Done>,
}

/// Runs it, and gives the table.
pub fn run(chore: Chore, args: ArrayArgs, interrupt: &Interrupt) -> Result<ChoreReport, String> {
    let setting = Setting::make(args)?;
    let measured = Setting::block_on(measure(chore, &setting, interrupt))?;
    Ok(ChoreReport {
        machine: setting.machine,
        setting: setting.text,
        rows: measured.rows,
        done_on: measured.on,
        done_off: measured.off,
    })
}

/// MiB per second of a chore.
fn speed(chore: Chore, working_set: u64, done: &Done) -> f64 {
    let bytes = match chore {
        Chore::Rebuild => done.first_disk_bytes,
        Chore::Scrub => working_set,
    };
    ratio(float(bytes) / 1_048_576.0, done.seconds)
}

async fn measure(
    chore: Chore,
    setting: &Setting,
    interrupt: &Interrupt,
) -> Result<Measured, String> {
    let (args, sizes) = (&setting.args, &setting.sizes);
    let stand = Stand::make(setting, interrupt).await?;
    let load = |depth, bytes, order, span_bytes| Load {
        is_write: false,
        bytes,
        depth,
        order,
        warm_ops: 16,
        until: Until::Time(Duration::from_secs_f64(args.seconds)),
        span_bytes,
        row_bytes: sizes.row_bytes,
        seed: 1,
    };
    let share = match chore {
        Chore::Rebuild => 1.0 / float(args.data_chunks() + 1),
        Chore::Scrub => float(args.data_chunks()) / float(u64_of(args.disks)),
    };
    let raw = load(8, 1 << 20, Order::Sequential(0), raw_bytes(args));
    let small = load(1, 4096, Order::Random, sizes.working_set);
    let (mut on, mut off, mut limit) = (Vec::new(), Vec::new(), Vec::new());
    let (mut quiet, mut beside) = (Vec::new(), Vec::new());
    let scratch = Scratch::new();
    let btrfs = args.beside_btrfs.then(|| {
        let level = args.level.to_string();
        let btrfs = Btrfs::make(&level, &setting.disks_of_btrfs(), &scratch);
        btrfs.fill(sizes.working_set / MIB);
        btrfs
    });
    let mut peer = Vec::new();
    for _ in 0..args.runs {
        interrupt.check()?;
        limit.push(stand.raw.load(raw).await?.mib_per_second() * share);
        on.push(idle(&stand.on, chore).await?);
        off.push(idle(&stand.off, chore).await?);
        if let Some(btrfs) = &btrfs {
            let mib = float(sizes.working_set / MIB);
            peer.push(ratio(mib, btrfs.scrub().as_secs_f64()));
        }
        quiet.push(stand.on.load(small).await?.p99_us);
        let done = stand.on.chore(chore, Some(small)).await?;
        beside.push(done.load.map_or(0.0, |sample| sample.p99_us));
    }
    compare(args, &stand).await?;
    stand.end().await?;
    let speeds = |all: &[Done]| -> Vec<f64> {
        let working_set = sizes.working_set;
        all.iter()
            .map(|done| speed(chore, working_set, done))
            .collect()
    };
    let name = match chore {
        Chore::Rebuild => "rebuild, MiB/s to the new member",
        Chore::Scrub => "scrub, MiB/s of data",
    };
    let idle_ratio = paired(&speeds(&on), &limit);
    let felt = paired(&beside, &quiet);
    let against_btrfs = paired(&speeds(&on), &peer);
    let mut rows = vec![
        ChoreRow {
            name: name.into(),
            on: speeds(&on),
            off: speeds(&off),
            limit,
            ratio: idle_ratio,
            target: format!("≥ {SHARE_MIN}"),
            met: idle_ratio >= SHARE_MIN,
        },
        ChoreRow {
            name: "beside it: p99 of 4k random reads QD1, µs; limit: without it".into(),
            on: beside,
            off: Vec::new(),
            limit: quiet,
            ratio: felt,
            target: format!("≤ {P99_MAX}"),
            met: felt <= P99_MAX,
        },
    ];
    if btrfs.is_some() {
        rows.push(ChoreRow {
            name: "scrub, MiB/s of data; limit: btrfs".into(),
            on: speeds(&on),
            off: Vec::new(),
            limit: peer,
            ratio: against_btrfs,
            target: format!("≥ {BTRFS_MIN}"),
            met: against_btrfs >= BTRFS_MIN,
        });
    }
    Ok(Measured { rows, on, off })
}

async fn idle(subject: &Subject, chore: Chore) -> Result<Done, String> {
    subject.drain().await?;
    subject.chore(chore, None).await
}

/// Processor time and disk operations of a chore, per MiB of what the disks moved.
fn cost(all: &[Done]) -> String {
    let each = |of: &dyn Fn(&Done) -> f64| median(&all.iter().map(of).collect::<Vec<_>>());
    let moved = |done: &Done| float(done.disks.read_bytes + done.disks.write_bytes) / float(MIB);
    format!(
        "{:.0} µs of processor for each MiB moved; {:.0} MiB read, {:.0} MiB written; \
         {:.0} reads, {:.0} writes, {:.0} flushes",
        each(&|done| ratio(done.cpu_seconds * 1e6, moved(done))),
        each(&|done| float(done.disks.read_bytes) / float(MIB)),
        each(&|done| float(done.disks.write_bytes) / float(MIB)),
        each(&|done| float(done.disks.reads)),
        each(&|done| float(done.disks.writes)),
        each(&|done| float(done.disks.flushes)),
    )
}

impl std::fmt::Display for ChoreReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}\n{}\n", self.machine, self.setting)?;
        let head = ["", "on", "off", "limit", "on/limit", "target"];
        let mut cells = vec![head.map(str::to_owned).to_vec()];
        for row in &self.rows {
            let verdict = if row.met { "met" } else { "**missed**" };
            cells.push(vec![
                row.name.clone(),
                spread(&row.on),
                spread(&row.off),
                spread(&row.limit),
                format!("{:.2}", row.ratio),
                format!("{}: {verdict}", row.target),
            ]);
        }
        writeln!(f, "{}", table(&cells))?;
        writeln!(f, "on: {}", cost(&self.done_on))?;
        write!(f, "off: {}", cost(&self.done_off))
    }
}
