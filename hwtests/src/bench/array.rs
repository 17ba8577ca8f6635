//! `bench array`: the engine in process, with journal and checksums, without both or one of them, and the disks alone.

use std::time::Duration;

use cairn_blockdev::units::{MIB, u64_of};
use cairn_raid::Level;
use clap::{Args, ValueEnum};

use super::cases::{self, Case, Limit, Sizes, Way};
use super::figures::{float, median};
use super::interrupt::Interrupt;
use super::load::{Load, Order, Sample, Until};
use super::machine::Machine;
use super::ram_disks::{self, DiskSet, RamDisks};
use super::report::{Report, Row, figure};
use super::subject::{Make, Subject};

/// Of each raw disk, so much is used.
const RAW_MIB: u64 = 128;
/// Beside journal and working set on a disk: zones, rows for the first touch, what an extent rounds up.
const SLACK_MIB: u64 = 256;
/// Memory to be left when the working set is chosen.
const LEFT_MIB: u64 = 4 << 10;

/// What the second subject does without.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Without {
    /// Journal and checksums: what the targets are about.
    #[default]
    Both,
    /// Checksums alone: what they cost.
    Checksums,
    /// The journal alone: what it costs.
    Journal,
}

impl Without {
    /// What the first subject has, and the second hasn't.
    const fn words(self) -> &'static str {
        match self {
            Self::Both => "off: neither",
            Self::Checksums => "off: the journal alone, no checksums",
            Self::Journal => "off: checksums alone, no journal",
        }
    }
}

/// What is measured, on what, how often.
#[derive(Debug, Clone, Args)]
pub struct ArrayArgs {
    /// Members.
    #[arg(long, default_value_t = 10)]
    pub disks: usize,
    /// RAID level.
    #[arg(long, default_value = "raid6")]
    pub level: Level,
    /// Chunk, in KiB.
    #[arg(long, value_name = "KIB", default_value_t = 64)]
    pub chunk: u32,
    /// Size of a disk, in MiB; as much as the rest needs, if it isn't given.
    #[arg(long, value_name = "MIB")]
    pub disk_size: Option<u64>,
    /// Journal of a member, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    pub journal: u64,
    /// The volume, in MiB; the most up to 4096 that memory allows, if it isn't given.
    #[arg(long, value_name = "MIB")]
    pub working_set: Option<u64>,
    /// Time of each load.
    #[arg(long, value_name = "S", default_value_t = 3.0)]
    pub seconds: f64,
    /// Turns.
    #[arg(long, default_value_t = 5)]
    pub runs: usize,
    /// What the array that ours is compared with lacks; there are targets for both alone.
    #[arg(long, value_enum, default_value_t)]
    pub without: Without,
    /// Only rows with this in their name.
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
    /// Everything tiny, and what is read compared with what was written.
    #[arg(long)]
    pub smoke: bool,
    /// Whether there are disks for btrfs, too.
    #[arg(skip)]
    pub(super) beside_btrfs: bool,
}

/// The three that take turns.
pub(super) struct Stand {
    pub(super) on: Subject,
    pub(super) off: Subject,
    pub(super) raw: Subject,
}

/// What of an array's writes is data, and how many disk operations a read-modify-write takes.
fn shares(level: Level, disks: usize) -> (f64, f64) {
    let lost = float(u64_of(level.redundancy(disks)));
    let all = float(u64_of(disks));
    let rmw = match level {
        Level::Raid1 => all,
        Level::Raid5 | Level::Raid6 => 2.0 * (lost + 1.0),
    };
    ((all - lost) / all, rmw)
}

impl ArrayArgs {
    pub(super) fn data_chunks(&self) -> u64 {
        u64_of(
            self.disks
                .saturating_sub(self.level.redundancy(self.disks))
                .max(1),
        )
    }

    /// Memory that the disks of all three come to hold, in MiB.
    fn need_mib(&self, working_set_mib: u64) -> u64 {
        let disks = u64_of(self.disks);
        let data = (working_set_mib / self.data_chunks() + SLACK_MIB / 2) * disks;
        let arrays = if self.beside_btrfs { 3 } else { 2 };
        let journals = if self.without == Without::Checksums {
            2
        } else {
            1
        };
        arrays * data + (journals * self.journal + RAW_MIB) * disks
    }

    /// The volume, in MiB.
    fn choose_working_set(&self) -> u64 {
        let fits = |mib: &u64| self.need_mib(*mib) + LEFT_MIB <= ram_disks::available_mib();
        let most = if self.smoke { 64 } else { 4096 };
        let mut choices = [most, most / 2, most / 4, most / 8].into_iter();
        self.working_set
            .unwrap_or_else(|| choices.find(fits).unwrap_or(most / 8))
    }

    fn sizes(&self, working_set_mib: u64) -> Sizes {
        let row_bytes = u64::from(self.chunk) * 1024 * self.data_chunks();
        let (bursts, fresh_rows) = if self.smoke {
            ([MIB, 4 * MIB], 64)
        } else {
            ([32 * MIB, 128 * MIB], 512)
        };
        Sizes {
            working_set: working_set_mib * MIB / row_bytes * row_bytes,
            row_bytes,
            bursts,
            time: Duration::from_secs_f64(self.seconds),
            fresh_rows,
        }
    }

    /// As little as still goes through everything.
    fn reduced(mut self) -> Self {
        if self.smoke {
            self.journal = self.journal.min(16);
            self.seconds = self.seconds.min(0.1);
            self.runs = 1;
        }
        self
    }
}

/// The disks of a run, and what is said of them.
pub(super) struct Setting {
    pub(super) args: ArrayArgs,
    pub(super) machine: Machine,
    pub(super) sizes: Sizes,
    pub(super) text: String,
    disks: RamDisks,
}

impl Setting {
    pub(super) fn make(args: ArrayArgs) -> Result<Self, String> {
        let args = args.reduced();
        if !args.chunk.is_power_of_two() || args.runs == 0 {
            return Err("a chunk is a power of two, and there is at least one run".into());
        }
        let machine = Machine::now();
        let working_set_mib = args.choose_working_set();
        let sizes = args.sizes(working_set_mib);
        let auto_mib = args.journal + working_set_mib / args.data_chunks() + SLACK_MIB;
        let member = DiskSet {
            count: args.disks,
            mib: args.disk_size.unwrap_or(auto_mib),
        };
        let raw = DiskSet {
            count: args.disks,
            mib: RAW_MIB,
        };
        let mut sets = vec![member, member, raw];
        if args.beside_btrfs {
            sets.push(member);
        }
        let disks = RamDisks::make(&sets, 512, args.need_mib(working_set_mib))?;
        let rows = sizes.working_set / sizes.row_bytes;
        let way = if disks.are_direct() {
            "direct"
        } else {
            "through the page cache"
        };
        let text = format!(
            "{} of {} loops in memory ({way}), chunk {} KiB, journal {} MiB a member, volume \
             {working_set_mib} MiB = {rows} rows, written once before; {} turns of {} s; on: journal \
             and checksums, {}; median (least–most); ratios: median of the turns' ratios",
            args.level,
            args.disks,
            args.chunk,
            args.journal,
            args.runs,
            args.seconds,
            args.without.words(),
        );
        Ok(Self {
            args,
            machine,
            sizes,
            text,
            disks,
        })
    }

    /// The disks that are for btrfs.
    pub(super) fn disks_of_btrfs(&self) -> Vec<String> {
        self.disks.paths(3)
    }

    /// Runs the orders to the subjects' threads, on this one.
    pub(super) fn block_on<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?
            .block_on(work)
    }
}

/// Bytes that the raw disks are used for together.
pub(super) fn raw_bytes(args: &ArrayArgs) -> u64 {
    RAW_MIB * MIB * u64_of(args.disks)
}

impl Stand {
    /// Makes the three, and writes everything once.
    pub(super) async fn make(setting: &Setting, interrupt: &Interrupt) -> Result<Self, String> {
        let Setting {
            args, sizes, disks, ..
        } = setting;
        let journal_bytes = Some(args.journal * MIB);
        let array = |journal_bytes, integrity| Make::Array {
            level: args.level,
            chunk_bytes: args.chunk * 1024,
            journal_bytes,
            integrity,
            volume_bytes: sizes.working_set,
        };
        let start =
            |make, set| Subject::start(make, disks.paths(set), args.smoke, interrupt.clone());
        let raw = Make::Raw {
            disk_bytes: RAW_MIB * MIB,
        };
        let second = match args.without {
            Without::Both => array(None, false),
            Without::Checksums => array(journal_bytes, false),
            Without::Journal => array(None, true),
        };
        let stand = Self {
            on: start(array(journal_bytes, true), 0).await?,
            off: start(second, 1).await?,
            raw: start(raw, 2).await?,
        };
        eprintln!("{}", stand.on.backend());
        let fill = Load::fill(sizes.working_set, sizes.row_bytes);
        stand.on.load(fill).await?;
        stand.off.load(fill).await?;
        stand.raw.load(Load::fill(raw_bytes(args), MIB)).await?;
        stand.on.drain().await?;
        Ok(stand)
    }

    /// Stops them.
    pub(super) async fn end(self) -> Result<(), String> {
        self.on.end().await?;
        self.off.end().await?;
        self.raw.end().await
    }
}

/// Runs it, and gives the table.
pub fn run(args: ArrayArgs, interrupt: &Interrupt) -> Result<Report, String> {
    let setting = Setting::make(args)?;
    let rows = Setting::block_on(measure(&setting, interrupt))?;
    Ok(Report {
        machine: setting.machine,
        setting: setting.text,
        rows,
    })
}

async fn measure(setting: &Setting, interrupt: &Interrupt) -> Result<Vec<Row>, String> {
    let (args, sizes) = (&setting.args, &setting.sizes);
    let raw_bytes = raw_bytes(args);
    let stand = Stand::make(setting, interrupt).await?;

    let chosen = |case: &Case| {
        let only = args.only.as_deref();
        only.is_none_or(|text| case.name.contains(text))
    };
    let mut all = cases::all(sizes);
    if args.without != Without::Both {
        for case in &mut all {
            case.target_off = None;
        }
    }
    let (degraded, healthy): (Vec<Case>, Vec<Case>) = all
        .into_iter()
        .filter(chosen)
        .partition(|case| case.way == Way::Degraded);
    let mut rows = Vec::new();
    for case in &healthy {
        rows.push(turns(args, &stand, case, raw_bytes, interrupt).await?);
    }
    compare(args, &stand).await?;
    if !degraded.is_empty() {
        stand.on.fail_one().await?;
        stand.off.fail_one().await?;
    }
    for case in &degraded {
        let mut row = turns(args, &stand, case, raw_bytes, interrupt).await?;
        let whole = rows.iter().find(|row| case.name.starts_with(&row.name));
        if let Some(whole) = whole.filter(|_| case.limit == Limit::Healthy) {
            let healthy = vec![median(&whole.on); row.on.len()];
            row = Row::of(case, row.samples_on, row.samples_off, healthy);
        }
        rows.push(row);
    }
    compare(args, &stand).await?;
    stand.end().await?;
    Ok(rows)
}

/// One case, the three in turns; every other turn the other way round.
async fn turns(
    args: &ArrayArgs,
    stand: &Stand,
    case: &Case,
    raw_bytes: u64,
    interrupt: &Interrupt,
) -> Result<Row, String> {
    let (mut on, mut off, mut limit) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..args.runs {
        interrupt.check()?;
        let seed = u64_of(turn) + 1;
        let case = Case {
            load: Load { seed, ..case.load },
            ..case.clone()
        };
        if turn % 2 == 0 {
            on.push(once(&stand.on, &case).await?);
            off.push(once(&stand.off, &case).await?);
        } else {
            off.push(once(&stand.off, &case).await?);
            on.push(once(&stand.on, &case).await?);
        }
        limit.extend(raw_limit(args, stand, &case, raw_bytes).await?);
    }
    let row = Row::of(case, on, off, limit);
    eprintln!(
        "{}: on {:.0}, off {:.0}, limit {:.0} {}",
        row.name,
        median(&row.on),
        median(&row.off),
        median(&row.limit),
        row.unit
    );
    Ok(row)
}

async fn once(subject: &Subject, case: &Case) -> Result<Sample, String> {
    subject.drain().await?;
    match case.way {
        Way::Fresh => subject.load_fresh(case.load).await,
        Way::Plain | Way::Degraded => subject.load(case.load).await,
    }
}

/// What the disks would allow, in the case's unit.
async fn raw_limit(
    args: &ArrayArgs,
    stand: &Stand,
    case: &Case,
    raw_bytes: u64,
) -> Result<Option<f64>, String> {
    let (data, rmw) = shares(args.level, args.disks);
    let share = match case.limit {
        Limit::None | Limit::Healthy => return Ok(None),
        Limit::Raw => 1.0,
        Limit::Rmw => 1.0 / rmw,
        Limit::Data => data,
    };
    let order = match case.load.order {
        Order::Sequential(_) => Order::Sequential(0),
        _ => Order::Random,
    };
    let load = Load {
        order,
        warm_ops: case.load.warm_ops.min(1000),
        until: Until::Time(Duration::from_secs_f64(args.seconds / 2.0)),
        span_bytes: raw_bytes,
        ..case.load
    };
    let sample = stand.raw.load(load).await?;
    Ok(Some(figure(case, &sample) * share))
}

pub(super) async fn compare(args: &ArrayArgs, stand: &Stand) -> Result<(), String> {
    if args.smoke {
        for subject in [&stand.on, &stand.off, &stand.raw] {
            let blocks = subject.compare().await?;
            eprintln!("{blocks} blocks are as they were written");
        }
    }
    Ok(())
}
