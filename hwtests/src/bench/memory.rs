//! `bench memory`: what a daemon of default configuration comes to hold, with a large array whose caches
//! are full and whose clients ask for more than it may have in flight.
//!
//! The disks are sparse files on an XFS of its own, which is a sparse file itself: zones of terabytes that
//! were zeroed are unwritten extents there, and only what is written takes room.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cairn_blockdev::sim::Rng;
use cairn_tools::nbd_client::Client;
use clap::Args;
use serde::Serialize;

use super::figures::{float, shuffled};
use super::interrupt::Interrupt;
use super::machine::Machine;
use super::report::table;
use crate::disks;
use crate::host::Host;
use crate::program;
use crate::scratch::Scratch;
use crate::wait;

/// Room that the disks' zones and what is written may come to, in GiB: as much as can't matter.
const ROOM_GIB: u64 = 2 << 10;
/// The bound of the issue: checksum cache and row cache included.
const BOUND_MIB: u64 = 512;
/// Pages that the checksum cache holds: 256 MiB.
const CACHE_PAGES: u64 = 65536;
/// Requests of clients that want a lot at once.
const LARGE: usize = 1 << 20;
/// The range that large requests go to, so that the disks' files stay small.
const LARGE_SPAN: u64 = 2 << 30;
/// Small requests.
const SMALL: usize = 4 << 10;
/// Connections that make small requests.
const SMALL_CLIENTS: usize = 32;

/// What is measured.
#[derive(Debug, Clone, Args)]
pub struct MemoryArgs {
    /// Members.
    #[arg(long, default_value_t = 24)]
    pub disks: usize,
    /// Size of a disk, in GiB.
    #[arg(long, value_name = "GIB", default_value_t = 4000)]
    pub disk_size: u64,
    /// RAID level.
    #[arg(long, default_value = "raid6")]
    pub level: String,
    /// Rows written once, all over the volume, each with a checksum page of its own; the cache holds
    /// 65536 pages. Each takes a whole row of room on the disks' file system.
    #[arg(long, default_value_t = 6000)]
    pub rows: u64,
    /// Chunk, in KiB.
    #[arg(long, value_name = "KIB", default_value_t = 64)]
    pub chunk: u64,
    /// Clients with a request of 1 MiB each.
    #[arg(long, default_value_t = 384)]
    pub clients: usize,
    /// How long they go on.
    #[arg(long, value_name = "S", default_value_t = 20.0)]
    pub seconds: f64,
    /// Everything tiny.
    #[arg(long)]
    pub smoke: bool,
}

/// What the daemon held after a phase.
#[derive(Debug, Clone, Serialize)]
pub struct Phase {
    /// What was done.
    pub name: String,
    /// Resident now, in MiB.
    pub resident_mib: u64,
    /// The most so far, in MiB.
    pub peak_mib: u64,
}

/// A whole run.
#[derive(Debug, Clone, Serialize)]
pub struct MemoryReport {
    /// Where.
    pub machine: Machine,
    /// Of what.
    pub setting: String,
    /// What it held.
    pub phases: Vec<Phase>,
    /// The most it should hold.
    pub bound_mib: u64,
    /// Checksum pages that were in use, at most.
    pub pages: u64,
    /// Whether it held no more.
    pub met: bool,
}

/// A line of `/proc/PID/status` in MiB, rounded up.
fn status_mib(pid: u32, name: &str) -> Result<u64, String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))
        .map_err(|error| format!("the daemon is gone: {error}"))?;
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .map(|kib| kib.div_ceil(1024))
        .ok_or_else(|| format!("/proc/{pid}/status has no {name}"))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// One client's requests.
struct Errand {
    offsets: Vec<u64>,
    bytes: usize,
    /// Writes, then reads, each of its requests.
    reads: bool,
    /// Again and again until then.
    until: Option<Instant>,
}

async fn run_errand(
    socket: &Path,
    export: &str,
    errand: Errand,
    interrupt: &Interrupt,
) -> Result<(), String> {
    let mut client = Client::connect_unix(socket, export).await.map_err(text)?;
    let mut data = vec![0; errand.bytes];
    Rng::new(7).fill(&mut data);
    loop {
        for offset in &errand.offsets {
            interrupt.check()?;
            if errand.until.is_some_and(|until| Instant::now() >= until) {
                break;
            }
            client.write(*offset, &data).await.map_err(text)?;
            if errand.reads {
                client.read(*offset, &mut data).await.map_err(text)?;
            }
        }
        if errand.until.is_none_or(|until| Instant::now() >= until) {
            break;
        }
    }
    client.disconnect().await.map_err(text)
}

fn run_errands(
    socket: &Path,
    export: &str,
    errands: Vec<Errand>,
    interrupt: &Interrupt,
) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(text)?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let tasks: Vec<_> = errands
            .into_iter()
            .map(|errand| {
                let (socket, export) = (socket.to_owned(), export.to_owned());
                let interrupt = interrupt.clone();
                tokio::task::spawn_local(async move {
                    run_errand(&socket, &export, errand, &interrupt).await
                })
            })
            .collect();
        for task in tasks {
            task.await.map_err(text)??;
        }
        Ok(())
    })
}

/// Small requests all over the volume, each in a row of its own, shared out among clients.
fn scattered(rows: u64, volume_bytes: u64) -> Vec<Errand> {
    let apart = (volume_bytes / rows.max(1))
        .next_multiple_of(4096)
        .max(4096);
    let places = (volume_bytes / apart).min(rows);
    let offsets: Vec<u64> = shuffled(places, 3)
        .into_iter()
        .map(|at| at * apart)
        .collect();
    let share = offsets.len().div_ceil(SMALL_CLIENTS).max(1);
    offsets
        .chunks(share)
        .map(|offsets| Errand {
            offsets: offsets.to_vec(),
            bytes: SMALL,
            reads: true,
            until: None,
        })
        .collect()
}

/// Large requests of many clients at once.
fn crowd(clients: usize, volume_bytes: u64, until: Instant) -> Vec<Errand> {
    let places = LARGE_SPAN.min(volume_bytes) >> 20;
    (0..clients)
        .map(|_| places)
        .zip(1..)
        .map(|(places, seed)| Errand {
            offsets: shuffled(places, seed)
                .into_iter()
                .map(|at| at << 20)
                .collect(),
            bytes: LARGE,
            reads: true,
            until: Some(until),
        })
        .collect()
}

/// A directory in which files of terabytes can be; unmounted with its value.
struct Room {
    dir: PathBuf,
}

impl Room {
    fn make(scratch: &Scratch) -> Self {
        program::need_root();
        let image = disks::file(scratch.path(), "room", ROOM_GIB << 10);
        let image = image.to_string_lossy();
        let dir = scratch.dir("disks");
        program::run("mkfs.xfs", &["-q", "-K", &image]).ok();
        program::run("mount", &["-o", "loop", &image, &dir.to_string_lossy()]).ok();
        Self { dir }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let dir = self.dir.to_string_lossy().into_owned();
        if std::thread::panicking() {
            program::run("umount", &["-l", &dir]);
            return;
        }
        // What the daemon had open is closed a moment after its end.
        wait::until("the end of the disks' file system", || {
            match program::run("umount", &[&dir]) {
                done if done.code == Some(0) => Ok(()),
                busy => Err(busy.to_string()),
            }
        });
    }
}

/// Runs it, and gives the table.
pub fn run(mut args: MemoryArgs, interrupt: &Interrupt) -> Result<MemoryReport, String> {
    if args.smoke {
        args.disks = args.disks.min(6);
        args.disk_size = args.disk_size.min(100);
        args.rows = args.rows.min(200);
        args.clients = args.clients.min(8);
        args.seconds = args.seconds.min(0.5);
    }
    let machine = Machine::now();
    let scratch = Scratch::new();
    // Goes after the daemon, and before what it lies in.
    let room = Room::make(&scratch);
    let files = disks::files(&room.dir, "d", args.disks, args.disk_size << 10);
    let host = Host::start_with(&scratch, "state", "");
    let pid = host.pid();
    let mut phases = Vec::new();
    let mut note = |name: &str| -> Result<(), String> {
        let phase = Phase {
            name: name.to_owned(),
            resident_mib: status_mib(pid, "VmRSS")?,
            peak_mib: status_mib(pid, "VmHWM")?,
        };
        eprintln!(
            "{name}: {} MiB, peak {} MiB",
            phase.resident_mib, phase.peak_mib
        );
        phases.push(phase);
        Ok(())
    };
    note("started")?;
    interrupt.check()?;
    let chunk = format!("{}KiB", args.chunk);
    let mut line = vec!["array", "create", "pool", "--level", &args.level];
    line.extend(["--chunk", &chunk, "--disks"]);
    let members = disks::texts(&files);
    line.extend(members.iter().map(String::as_str));
    host.ok(&line);
    note("array made")?;
    let lost = match args.level.as_str() {
        "raid6" => 2,
        "raid5" => 1,
        _ => args.disks.saturating_sub(1),
    };
    let data_disks = u64::try_from(args.disks.saturating_sub(lost)).unwrap_or(1);
    // Thin: a tenth is left for zones.
    let volume_gib = data_disks * args.disk_size / 10 * 9;
    let socket = scratch.join("nbd.sock");
    let size = format!("{volume_gib}GiB");
    host.volume("load", "pool", &size, &socket.to_string_lossy());
    let volume_bytes = volume_gib << 30;
    run_errands(
        &socket,
        "load",
        scattered(args.rows, volume_bytes),
        interrupt,
    )?;
    note("4k writes and reads all over the volume, a row each")?;
    let until = Instant::now() + Duration::from_secs_f64(args.seconds);
    run_errands(
        &socket,
        "load",
        crowd(args.clients, volume_bytes, until),
        interrupt,
    )?;
    let name = format!("{} clients with 1 MiB each", args.clients);
    note(&name)?;
    let peak_mib = phases.last().map_or(0, |phase| phase.peak_mib);
    drop(host);
    Ok(MemoryReport {
        machine,
        setting: format!(
            "cairnd, default configuration; {} of {} sparse files of {} GiB, chunk {} KiB, volume of {:.1} TiB; {} rows \
             written",
            args.level,
            args.disks,
            args.disk_size,
            args.chunk,
            float(volume_gib) / 1024.0,
            args.rows
        ),
        phases,
        bound_mib: BOUND_MIB,
        pages: args.rows.min(CACHE_PAGES),
        met: peak_mib <= BOUND_MIB,
    })
}

impl MemoryReport {
    /// Whether it kept within its bound.
    pub fn check(&self) -> Result<(), String> {
        if self.met {
            return Ok(());
        }
        let peak = self.phases.last().map_or(0, |phase| phase.peak_mib);
        Err(format!(
            "cairnd held {peak} MiB at its peak, more than {} MiB",
            self.bound_mib
        ))
    }
}

impl std::fmt::Display for MemoryReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}\n{}\n", self.machine, self.setting)?;
        let mut cells = vec![
            ["after", "resident, MiB", "peak, MiB"]
                .map(str::to_owned)
                .to_vec(),
        ];
        for phase in &self.phases {
            cells.push(vec![
                phase.name.clone(),
                phase.resident_mib.to_string(),
                phase.peak_mib.to_string(),
            ]);
        }
        let verdict = if self.met { "met" } else { "**missed**" };
        write!(
            f,
            "{}\npeak ≤ {} MiB: {verdict}",
            table(&cells),
            self.bound_mib
        )
    }
}
