//! `bench nbd`: a volume on an array over NBD, beside one on an array without journal and checksums, servers of
//! one raw loop and a file on btrfs, all under fio.
//!
//! Every server is a process of its own on the same machine as fio; one at a time has work.

use std::path::{Path, PathBuf};
use std::process::Child;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::btrfs::Btrfs;
use super::figures::{median, ratio};
use super::interrupt::Interrupt;
use super::machine::Machine;
use super::ram_disks::{DiskSet, RamDisks};
use super::report::{spread, table};
use crate::host::Host;
use crate::program;
use crate::scratch::Scratch;
use crate::wait;

/// Journal of a member, in MiB.
const JOURNAL_MIB: u64 = 256;
/// Beside journal and volume on a disk, in MiB.
const SLACK_MIB: u64 = 256;
/// What a burst writes.
const BURST: &str = "32m";

/// A server to compare with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// A volume of the same daemon on an array of its own, without journal and checksums.
    Off,
    /// nbdkit's file plugin over one loop.
    Nbdkit,
    /// qemu-nbd with io_uring over one loop.
    QemuNbd,
    /// The loop itself, without NBD.
    Raw,
    /// A file on btrfs of the same level over as many loops, without NBD.
    Btrfs,
}

impl Peer {
    fn name(self) -> &'static str {
        match self {
            Self::Off => "both off",
            Self::Nbdkit => "nbdkit file",
            Self::QemuNbd => "qemu-nbd",
            Self::Raw => "raw loop",
            Self::Btrfs => "btrfs",
        }
    }
}

/// What is measured, beside what, how often.
#[derive(Debug, Clone, Args)]
pub struct NbdArgs {
    /// What to compare with.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Peer::Off, Peer::Nbdkit, Peer::QemuNbd, Peer::Btrfs])]
    pub peer: Vec<Peer>,
    /// Members.
    #[arg(long, default_value_t = 10)]
    pub disks: usize,
    /// RAID level.
    #[arg(long, default_value = "raid6")]
    pub level: String,
    /// The volume, and the peers' disk, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    pub size: u64,
    /// Time of each load.
    #[arg(long, value_name = "S", default_value_t = 3)]
    pub seconds: u64,
    /// Turns.
    #[arg(long, default_value_t = 5)]
    pub runs: usize,
    /// Everything tiny, and fio verifies what it reads.
    #[arg(long)]
    pub smoke: bool,
}

/// A row of the table.
struct Case {
    name: &'static str,
    rw: &'static str,
    bytes: &'static str,
    depth: &'static str,
    /// Bytes and no time.
    burst: bool,
    targets: &'static [(Peer, f64)],
}

const CASES: [Case; 6] = [
    Case {
        name: "4k random read QD1",
        rw: "randread",
        bytes: "4k",
        depth: "1",
        burst: false,
        targets: &[(Peer::Off, 0.85), (Peer::Nbdkit, 1.2)],
    },
    Case {
        name: "4k random read QD32",
        rw: "randread",
        bytes: "4k",
        depth: "32",
        burst: false,
        targets: &[(Peer::Off, 0.85), (Peer::Nbdkit, 1.3)],
    },
    Case {
        name: "4k random write QD32, burst of 32 MiB",
        rw: "randwrite",
        bytes: "4k",
        depth: "32",
        burst: true,
        targets: &[(Peer::Off, 1.0), (Peer::QemuNbd, 1.0)],
    },
    Case {
        name: "4k random write QD32, sustained",
        rw: "randwrite",
        bytes: "4k",
        depth: "32",
        burst: false,
        targets: &[(Peer::Off, 0.5), (Peer::Btrfs, 2.0)],
    },
    Case {
        name: "1M read QD8",
        rw: "read",
        bytes: "1m",
        depth: "8",
        burst: false,
        targets: &[(Peer::Off, 0.85), (Peer::Nbdkit, 1.0)],
    },
    Case {
        name: "1M write QD8",
        rw: "write",
        bytes: "1m",
        depth: "8",
        burst: false,
        targets: &[(Peer::Off, 0.8), (Peer::Nbdkit, 0.8), (Peer::Btrfs, 3.5)],
    },
];

/// A server's figures in one row.
#[derive(Debug, Clone, Serialize)]
pub struct Column {
    /// Who.
    pub server: String,
    /// Every run: IOPS, or MiB/s.
    pub figures: Vec<f64>,
    /// Every run: half of the requests took no longer, in microseconds.
    pub p50_us: Vec<f64>,
}

/// A row of the table; the first column is Cairn's.
#[derive(Debug, Clone, Serialize)]
pub struct NbdRow {
    /// The case.
    pub name: String,
    /// What it is counted in.
    pub unit: &'static str,
    /// Cairn's and the peers'.
    pub columns: Vec<Column>,
    /// What it is held against.
    pub targets: Vec<NbdTarget>,
}

/// Somebody whom Cairn is held against.
#[derive(Debug, Clone, Serialize)]
pub struct NbdTarget {
    /// Who.
    pub server: String,
    /// The least ratio.
    pub least: f64,
    /// The ratio, if that one ran.
    pub ratio: Option<f64>,
    /// Whether it is met.
    pub met: Option<bool>,
}

/// A whole run.
#[derive(Debug, Clone, Serialize)]
pub struct NbdReport {
    /// Where.
    pub machine: Machine,
    /// Of what.
    pub setting: String,
    /// The table.
    pub rows: Vec<NbdRow>,
}

#[derive(Deserialize)]
struct FioOutput {
    jobs: Vec<FioJob>,
}

#[derive(Deserialize)]
struct FioJob {
    error: i32,
    read: FioSide,
    write: FioSide,
}

#[derive(Deserialize)]
struct FioSide {
    iops: f64,
    bw_bytes: f64,
    clat_ns: FioLatency,
}

#[derive(Deserialize)]
struct FioLatency {
    #[serde(default)]
    percentile: std::collections::BTreeMap<String, f64>,
}

/// Where fio finds a server.
enum Target {
    Uri(String),
    Device(String),
}

impl Target {
    fn arguments(&self) -> Vec<String> {
        match self {
            Self::Uri(uri) => vec!["--ioengine=nbd".into(), format!("--uri={uri}")],
            Self::Device(device) => vec![
                "--ioengine=io_uring".into(),
                "--direct=1".into(),
                format!("--filename={device}"),
            ],
        }
    }
}

/// A server's process, ended with its value.
struct Server {
    name: &'static str,
    target: Target,
    child: Option<Child>,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // One that has ended by itself needs no end.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Server {
    /// Serves a device; what is to be reached without NBD is there as it is.
    fn start(peer: Peer, device: &str, socket: PathBuf) -> Self {
        let socket_text = socket.to_string_lossy().into_owned();
        let child = match peer {
            Peer::Off | Peer::Raw | Peer::Btrfs => None,
            Peer::Nbdkit => Some(program::command(
                "nbdkit",
                &["-f", "-U", &socket_text, "file", device],
            )),
            Peer::QemuNbd => Some(program::command(
                "qemu-nbd",
                &[
                    "-t",
                    "-k",
                    &socket_text,
                    "-f",
                    "raw",
                    "--cache=none",
                    "--aio=io_uring",
                    "--shared=0",
                    device,
                ],
            )),
        };
        let child = child.map(program::start);
        if child.is_some() {
            wait::until("the peer's socket", || {
                if socket.exists() {
                    Ok(())
                } else {
                    Err(socket_text.clone())
                }
            });
        }
        Self {
            name: peer.name(),
            target: match peer {
                Peer::Raw | Peer::Btrfs => Target::Device(device.to_owned()),
                _ => Target::Uri(format!("nbd+unix:///?socket={socket_text}")),
            },
            child,
        }
    }
}

/// (IOPS or MiB/s, p50 in microseconds).
fn fio(args: &NbdArgs, case: &Case, target: &Target, dir: &Path) -> Result<(f64, f64), String> {
    let mut line: Vec<String> = vec![
        "--name=bench".into(),
        format!("--rw={}", case.rw),
        format!("--bs={}", case.bytes),
        format!("--iodepth={}", case.depth),
        format!("--size={}m", args.size),
        "--output-format=json".into(),
        "--randrepeat=0".into(),
    ];
    line.extend(target.arguments());
    if args.smoke {
        line.push("--io_size=2m".into());
        if case.rw.ends_with("write") {
            line.extend(["--verify=crc32c".into(), "--do_verify=1".into()]);
        }
    } else if case.burst {
        line.push(format!("--io_size={BURST}"));
    } else {
        line.extend([
            "--time_based".into(),
            format!("--runtime={}", args.seconds),
            "--ramp_time=500ms".into(),
        ]);
    }
    let mut command = program::command("fio", &line);
    // It leaves a state file where it runs.
    command.current_dir(dir);
    let finished = program::finish(command).ok();
    // Notes may come before the JSON.
    let json = finished
        .stdout
        .find('{')
        .and_then(|at| finished.stdout.get(at..));
    let output: FioOutput = serde_json::from_str(json.unwrap_or_default())
        .map_err(|error| format!("fio's output isn't understood ({error}): {finished}"))?;
    let job = output.jobs.first().ok_or("fio ran no job")?;
    if job.error != 0 {
        return Err(format!("fio had error {}: {finished}", job.error));
    }
    let side = if case.rw.ends_with("read") {
        &job.read
    } else {
        &job.write
    };
    let p50 = side.clat_ns.percentile.get("50.000000").copied();
    let figure = if case.bytes == "4k" {
        side.iops
    } else {
        side.bw_bytes / 1_048_576.0
    };
    Ok((figure, p50.unwrap_or(0.0) / 1e3))
}

/// Runs it, and gives the table.
pub fn run(mut args: NbdArgs, interrupt: &Interrupt) -> Result<NbdReport, String> {
    if args.smoke {
        args.size = args.size.min(64);
        args.runs = 1;
    }
    let machine = Machine::now();
    let journal_mib = if args.smoke { 16 } else { JOURNAL_MIB };
    let member_mib = journal_mib + args.size / 2 + SLACK_MIB;
    let count = u64::try_from(args.disks).unwrap_or(u64::MAX);
    let peers = args.peer.len();
    let beside_off = args.peer.contains(&Peer::Off);
    let on_btrfs = args.peer.contains(&Peer::Btrfs);
    let need = count * (journal_mib + SLACK_MIB / 2)
        + 2 * args.size
        + args.size * u64::try_from(peers).unwrap_or(0)
        + if beside_off { 2 * args.size } else { 0 }
        + if on_btrfs { 2 * args.size } else { 0 };
    let sets = [
        DiskSet {
            count: args.disks,
            mib: member_mib,
        },
        DiskSet {
            count: peers,
            mib: args.size,
        },
        DiskSet {
            count: if on_btrfs { args.disks } else { 0 },
            mib: member_mib,
        },
        DiskSet {
            count: if beside_off { args.disks } else { 0 },
            mib: member_mib,
        },
    ];
    let disks = RamDisks::make(&sets, 512, need)?;
    let scratch = Scratch::new();
    let host = Host::start_with(&scratch, "state", "");
    let journal = format!("{journal_mib}MiB");
    let make = |array: &str, members: &[String], flags: &[&str]| {
        let mut line = vec!["array", "create", array, "--level", &args.level];
        line.extend(flags);
        line.push("--disks");
        line.extend(members.iter().map(String::as_str));
        host.ok(&line);
    };
    make("pool", &disks.paths(0), &["--journal-size", &journal]);
    let size = format!("{}MiB", args.size);
    let uri = host.volume("load", "pool", &size, &scratch.text("cairn.sock"));
    let mut servers = vec![Server {
        name: "Cairn",
        target: Target::Uri(uri),
        child: None,
    }];
    let btrfs = on_btrfs.then(|| Btrfs::make(&args.level, &disks.paths(2), &scratch));
    for ((peer, device), number) in args.peer.iter().zip(disks.paths(1)).zip(0..) {
        if *peer == Peer::Off {
            let flags = ["--journal", "none", "--integrity", "none"];
            make("off", &disks.paths(3), &flags);
            let uri = host.volume("plain", "off", &size, &scratch.text("off.sock"));
            servers.push(Server {
                name: peer.name(),
                target: Target::Uri(uri),
                child: None,
            });
            continue;
        }
        let socket = scratch.join(&format!("peer{number}.sock"));
        let device = match (peer, &btrfs) {
            (Peer::Btrfs, Some(btrfs)) => btrfs.file(),
            _ => device,
        };
        servers.push(Server::start(*peer, &device, socket));
    }
    for server in &servers {
        interrupt.check()?;
        write_once(args.size, &server.target, scratch.path());
    }
    let mut rows = Vec::new();
    for case in &CASES {
        let mut columns: Vec<Column> = servers
            .iter()
            .map(|server| Column {
                server: server.name.to_owned(),
                figures: Vec::new(),
                p50_us: Vec::new(),
            })
            .collect();
        for _ in 0..args.runs {
            for (server, column) in servers.iter().zip(&mut columns) {
                interrupt.check()?;
                if case.burst && !args.smoke {
                    // What earlier loads have logged comes to its place meanwhile.
                    std::thread::sleep(std::time::Duration::from_secs(3));
                }
                let (figure, p50) = fio(&args, case, &server.target, scratch.path())?;
                column.figures.push(figure);
                column.p50_us.push(p50);
            }
        }
        rows.push(row_of(case, columns));
    }
    drop(servers);
    drop(btrfs);
    Ok(NbdReport {
        machine,
        setting: format!(
            "{} of {} loops in memory, journal {journal_mib} MiB a member, volume of {} MiB \
             written once before; both off: one of the same daemon without journal and checksums; others serve one loop each by NBD over a unix socket (fio's nbd engine); btrfs: a file on the same level over as many loops, with checksums, by io_uring and O_DIRECT; {} turns of {} s; median (least–most)",
            args.level, args.disks, args.size, args.runs, args.seconds
        ),
        rows,
    })
}

/// Writes everything once.
fn write_once(mib: u64, target: &Target, dir: &Path) {
    let mut line = vec![
        "--name=fill".to_owned(),
        "--rw=write".into(),
        "--bs=1m".into(),
        "--iodepth=8".into(),
        format!("--size={mib}m"),
    ];
    line.extend(target.arguments());
    let mut command = program::command("fio", &line);
    command.current_dir(dir);
    program::finish(command).ok().says(&["err= 0"]);
}

fn row_of(case: &Case, columns: Vec<Column>) -> NbdRow {
    let ours = columns
        .first()
        .map_or_else(Vec::new, |column| column.figures.clone());
    let targets = case.targets.iter().map(|(peer, least)| {
        let theirs = columns.iter().find(|column| column.server == peer.name());
        let ratio = theirs.map(|theirs| {
            let turns = ours.iter().zip(&theirs.figures);
            median(&turns.map(|(a, b)| ratio(*a, *b)).collect::<Vec<_>>())
        });
        NbdTarget {
            server: peer.name().to_owned(),
            least: *least,
            ratio,
            met: ratio.map(|ratio| ratio >= *least),
        }
    });
    let row = NbdRow {
        name: case.name.to_owned(),
        unit: if case.bytes == "4k" { "IOPS" } else { "MiB/s" },
        targets: targets.collect(),
        columns,
    };
    let figures = row
        .columns
        .iter()
        .map(|column| median(&column.figures).round());
    eprintln!(
        "{}: {:?} {}",
        row.name,
        figures.collect::<Vec<_>>(),
        row.unit
    );
    row
}

impl std::fmt::Display for NbdReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}\n{}\n", self.machine, self.setting)?;
        let mut head = vec![String::new(), "unit".into()];
        if let Some(row) = self.rows.first() {
            head.extend(row.columns.iter().map(|column| column.server.clone()));
        }
        head.extend(["ratios, targets", "p50 of Cairn, µs"].map(str::to_owned));
        let mut cells = vec![head];
        for row in &self.rows {
            let mut line = vec![row.name.clone(), row.unit.to_owned()];
            line.extend(row.columns.iter().map(|column| spread(&column.figures)));
            let verdicts = row.targets.iter().map(|target| {
                let NbdTarget { server, least, .. } = target;
                let verdict = match (target.ratio, target.met) {
                    (Some(ratio), Some(true)) => format!("{ratio:.2}: met"),
                    (Some(ratio), _) => format!("{ratio:.2}: **missed**"),
                    (None, _) => "not run".to_owned(),
                };
                format!("≥ {least} × {server}: {verdict}")
            });
            line.push(verdicts.collect::<Vec<_>>().join("; "));
            let p50 = row
                .columns
                .first()
                .map_or(0.0, |column| median(&column.p50_us));
            line.push(format!("{p50:.0}"));
            cells.push(line);
        }
        write!(f, "{}", table(&cells))
    }
}
