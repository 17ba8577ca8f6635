//! `cairn demo`: the main job, shown in half a minute, by the same API and tool as in earnest.
//!
//! Invariants
//! - Everything lives in one directory of mode 0700; it and the daemon are gone afterwards,
//!   whatever the way out: the end, an error, Ctrl-C, a panic. Only `--keep` leaves them.
//! - The daemon has a process group of its own, so that Ctrl-C reaches the demo, which stops it.
//! - What is read back is compared with a model, not with what the daemon said.

mod daemon;
mod load;
mod model;
mod place;

use std::hash::{BuildHasher, Hasher};
use std::path::Path;
use std::time::Duration;

use cairn_api::{
    Array, ArrayState, Changed, CreateArray, CreateVolume, Exit, ExportVolume, FailDisk, Level,
    NbdAddress, Volume, routes,
};
use tokio::time::Instant;

use self::daemon::Daemon;
use self::load::Load;
use self::place::Place;
use crate::cli::{DemoArgs, Goal};
use crate::client::Client;
use crate::commands::{Context, Verdict, show_df, show_status, verdict};
use crate::error::ToolError;
use crate::output::{Output, say};
use crate::progress::Progress;
use crate::quantity::show_size;
use crate::signals::Ending;
use crate::views;

/// Members of the array.
const DISKS: usize = 10;
/// Spares beside them, one for each disk that fails.
const SPARES: usize = 2;
/// Members that hold data in a row of ten under RAID 6.
const DATA_DISKS: u64 = 8;
/// Smallest file disk: labels, journal and checksum zones leave most of it for data.
const DISK_BYTES_MIN: u64 = 256 << 20;
/// Room on each disk for labels and zones beside its share of the volume.
const DISK_ZONES_BYTES: u64 = 128 << 20;
/// The slots whose disks fail, and after how many percent of the writes.
const FAILURES: [(usize, u64); SPARES] = [(3, 30), (7, 45)];
/// Longest wait for both rebuilds; they take seconds.
const REBUILD_TIMEOUT: Duration = Duration::from_mins(5);
/// How often the rebuild is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
const ARRAY: &str = "pool";
const VOLUME: &str = "pg";

/// Runs the demo.
pub(crate) async fn run(output: Output, args: DemoArgs) -> Result<Exit, ToolError> {
    let program = daemon::program().await?;
    // From here on a signal doesn't end the process, it ends the demo.
    let mut ending = Ending::listen()?;

    let started = Instant::now();
    let place = Place::make(args.dir.as_deref())?;
    let mut daemon = None;
    let stages = async {
        daemon = Some(Daemon::start(&program, &place, args.keep)?);
        Stages::new(output, &args, &place).run(&mut daemon).await
    };
    let tasks = tokio::task::LocalSet::new();
    let (result, interrupted) = tokio::select! {
        result = tasks.run_until(stages) => (result, false),
        ended = ending.come() => (Err(ToolError::failed(ended)), true),
    };
    // The workers' connections end before the daemon they lead to.
    drop(tasks);
    if result.is_err() && !interrupted {
        place.show_log();
    }
    let runs = daemon.as_mut().is_some_and(Daemon::is_running);
    match daemon {
        Some(daemon) if args.keep && runs && !interrupted => {
            explain_keep(&place, daemon.pid());
            place.keep();
        }
        Some(daemon) => {
            daemon.stop().await;
            place.remove()?;
        }
        None => place.remove()?,
    }
    let summary = result?;
    say(format!(
        "\nDone in {:.1} s: {summary}{}",
        started.elapsed().as_secs_f64(),
        if args.keep {
            ""
        } else {
            " Nothing is left behind."
        }
    ));
    Ok(Exit::Done)
}

fn explain_keep(place: &Place, pid: u32) {
    let dir = place.dir().display();
    let address = NbdAddress::Unix(place.nbd_socket());
    say(format!(
        "\nIt is left running (--keep). Use it:\n\
         \n  export CAIRN_SOCKET={}\
         \n  cairn status\
         \n  cairn events\
         \n  nbdinfo '{}'\
         \n\nStop it and remove it:\n\
         \n  kill {pid}; while kill -0 {pid} 2>/dev/null; do sleep 0.1; done; rm -r {dir}",
        place.admin_socket().display(),
        address.uri(VOLUME),
    ));
}

/// A number that nobody chose.
fn random() -> u64 {
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}

/// The demo's steps, one after the other.
struct Stages<'a> {
    context: Context,
    place: &'a Place,
    seed: u64,
    size_bytes: u64,
}

impl<'a> Stages<'a> {
    fn new(output: Output, args: &DemoArgs, place: &'a Place) -> Self {
        Self {
            context: Context {
                client: Client::new(place.admin_socket()),
                output,
            },
            place,
            seed: args.seed.unwrap_or_else(random),
            size_bytes: load::round_size(args.size),
        }
    }

    async fn run(&self, daemon: &mut Option<Daemon>) -> Result<String, ToolError> {
        say(format!(
            "Seed {}; everything is in {}",
            self.seed,
            self.place.dir().display()
        ));
        if let Some(daemon) = daemon {
            daemon.ready(&self.context.client).await?;
        }
        let (disks, spares) = self.make_disks()?;
        self.make_array(&disks, &spares).await?;
        self.make_volume().await?;

        let socket = self.place.nbd_socket();
        let mut load =
            Load::connect(Path::new(&socket), VOLUME, self.seed, self.size_bytes).await?;
        say("\nWriting random data over NBD; two disks will fail meanwhile");
        let written = self.write_and_fail(&mut load, &disks).await?;
        say("Reading everything back, degraded");
        load.verify("verifying").await?;
        say("Waiting for both spares");
        self.wait_clean(&spares).await?;
        say("Reading everything back from the rebuilt array");
        let verified = load.verify("verifying").await?;
        self.trim(&mut load).await?;
        load.close().await?;

        say("\n$ cairn status");
        show_status(&self.context).await?;
        say("\n$ cairn df");
        show_df(&self.context).await?;
        Ok(format!(
            "{} written, two of ten disks lost meanwhile, both rebuilt, every one of {} bytes \
             verified against the model.",
            show_size(written),
            verified
        ))
    }

    fn make_disks(&self) -> Result<(Vec<String>, Vec<String>), ToolError> {
        let share = self.size_bytes / DATA_DISKS * 5 / 4;
        let bytes = (share + DISK_ZONES_BYTES).max(DISK_BYTES_MIN);
        let disks = (0..DISKS)
            .map(|index| self.place.make_disk(&format!("d{index}"), bytes))
            .collect::<Result<Vec<_>, _>>()?;
        let spares = (0..SPARES)
            .map(|index| self.place.make_disk(&format!("s{index}"), bytes))
            .collect::<Result<Vec<_>, _>>()?;
        say(format!(
            "Made {} sparse file disks of {} each",
            DISKS + SPARES,
            show_size(bytes)
        ));
        Ok((disks, spares))
    }

    async fn make_array(&self, disks: &[String], spares: &[String]) -> Result<(), ToolError> {
        say(format!(
            "\n$ cairn array create {ARRAY} --level raid6 --disks d0 … d{} --spares s0 s1",
            DISKS - 1
        ));
        let request = CreateArray {
            name: ARRAY.to_owned(),
            level: Level::Raid6,
            disks: disks.to_vec(),
            spares: spares.to_vec(),
            chunk_bytes: None,
            journal_bytes: None,
            integrity: cairn_api::Integrity::default(),
            journal_disks: Vec::new(),
            no_journal: false,
            wipe: Vec::new(),
            dry_run: false,
        };
        self.change(routes::ARRAY_CREATE.path, &request).await
    }

    async fn make_volume(&self) -> Result<(), ToolError> {
        say(format!(
            "$ cairn volume create {VOLUME} --array {ARRAY} --size {}B",
            self.size_bytes
        ));
        let request = CreateVolume {
            name: VOLUME.to_owned(),
            array: ARRAY.to_owned(),
            size_bytes: self.size_bytes,
            dry_run: false,
        };
        self.change(routes::VOLUME_CREATE.path, &request).await?;
        let nbd = NbdAddress::Unix(self.place.nbd_socket()).to_string();
        say(format!("$ cairn volume export {VOLUME} --nbd {nbd}"));
        let request = ExportVolume {
            nbd,
            ..ExportVolume::default()
        };
        let target = routes::VOLUME_EXPORT.with_name(VOLUME);
        self.change(&target, &request).await
    }

    async fn change<R: serde::Serialize>(
        &self,
        target: &str,
        request: &R,
    ) -> Result<(), ToolError> {
        let reply: Changed = self.context.client.post(target, request).await?;
        say(format!("  {}", reply.summary));
        for warning in &reply.warnings {
            say(format!("  warning: {warning}"));
        }
        Ok(())
    }

    /// Writes, and fails the disks when so much is written; writing ends after both have failed.
    async fn write_and_fail(&self, load: &mut Load, disks: &[String]) -> Result<u64, ToolError> {
        let goal = self.size_bytes;
        let meter = load.meter();
        let saboteur = async {
            for (slot, percent) in FAILURES {
                meter.reached(goal / 100 * percent).await;
                let path = disks.get(slot).ok_or_else(|| {
                    ToolError::failed(format!("the demo has no disk for slot {slot}"))
                })?;
                let request = FailDisk {
                    path: path.clone(),
                    yes: true,
                    dry_run: false,
                };
                let reply: Changed = self
                    .context
                    .client
                    .post(routes::DISK_FAIL.path, &request)
                    .await?;
                meter.announce(format!(
                    "$ cairn disk fail d{slot}        (after {} written)\n  {}",
                    show_size(meter.written()),
                    reply.summary
                ));
            }
            meter.let_end_at(goal);
            Ok::<(), ToolError>(())
        };
        let (written, ()) = tokio::try_join!(load.write("writing", goal), saboteur)?;
        Ok(written)
    }

    async fn wait_clean(&self, spares: &[String]) -> Result<(), ToolError> {
        let started = Instant::now();
        let mut bar = Progress::bytes("rebuilding");
        let target = routes::ARRAY.with_name(ARRAY);
        loop {
            let array: Array = self.context.client.get_at(&target, Duration::ZERO).await?;
            if verdict(&array, Goal::Clean) == Verdict::Reached {
                drop(bar);
                return took_over(&array, spares);
            }
            if array.sync.total_bytes > 0 {
                bar.update(views::rebuild_position(&array.sync));
            }
            if array.state == ArrayState::Incomplete || started.elapsed() > REBUILD_TIMEOUT {
                return Err(ToolError::failed_with(
                    format!(
                        "the array is {} and not clean after {} s",
                        array.state,
                        started.elapsed().as_secs()
                    ),
                    "repeat the demo with --keep and look at `cairn status`",
                ));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    async fn trim(&self, load: &mut Load) -> Result<(), ToolError> {
        let before = self.allocated().await?;
        let trimmed = load.trim_half().await?;
        load.verify("verifying").await?;
        let after = self.allocated().await?;
        say(format!(
            "Trimmed {}: the volume holds {} instead of {}, and reads zeros there",
            show_size(trimmed),
            show_size(after),
            show_size(before)
        ));
        Ok(())
    }

    async fn allocated(&self) -> Result<u64, ToolError> {
        let target = routes::VOLUME.with_name(VOLUME);
        let volume: Volume = self.context.client.get_at(&target, Duration::ZERO).await?;
        Ok(volume.allocated_bytes)
    }
}

/// Checks that a clean array is clean because the spares are members now.
fn took_over(array: &Array, spares: &[String]) -> Result<(), ToolError> {
    let member = |path: &String| array.members.iter().any(|member| &member.path == path);
    match spares.iter().find(|path| !member(path)) {
        None => {
            say(format!(
                "  both spares have taken over; {} more disks may be lost",
                array.redundancy_left
            ));
            Ok(())
        }
        Some(path) => Err(ToolError::failed(format!(
            "the array is clean but the spare {path} is no member of it"
        ))),
    }
}
