//! `lab`: what the scripts in `hwtests/lab` do that no other program can. See `hwtests/README.md`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;

use cairn_hwtests::lab::outage::Outage;
use cairn_hwtests::lab::stopped::Stopped;
use cairn_hwtests::lab::workload::Workload;
use cairn_hwtests::lab::{Answer, handover, recorder};
use clap::{Parser, Subcommand};

/// Tools of the tests' scripts. They write over disks without asking.
#[derive(Parser)]
#[command(name = "lab", version)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Tell which rows of a stopped array are whose.
    Map {
        /// All members.
        disks: Vec<PathBuf>,
    },
    /// Make a stopped array md's, beside Cairn: zero what was never written, write md's superblocks.
    Handover {
        /// A volume and its image, as Cairn read it.
        #[arg(long = "volume", value_name = "NAME=FILE", value_parser = volume_and_file)]
        volumes: Vec<(String, PathBuf)>,
        /// All members.
        disks: Vec<PathBuf>,
    },
    /// Compare what md reads with what Cairn read.
    Compare {
        /// md's device.
        #[arg(long)]
        md: PathBuf,
        /// A volume and its image.
        #[arg(long = "volume", value_name = "NAME=FILE", value_parser = volume_and_file)]
        volumes: Vec<(String, PathBuf)>,
        /// All members.
        disks: Vec<PathBuf>,
    },
    /// Serve disks that record what is done to them, until killed.
    Record {
        /// How many.
        #[arg(long)]
        disks: u8,
        /// Size of each.
        #[arg(long)]
        mib: u64,
        /// Where the record and their contents go.
        dir: PathBuf,
    },
    /// Keep a file system busy, and note what was synced.
    Workload {
        /// The record of the disks below it.
        #[arg(long)]
        record: PathBuf,
        /// Where the notes go.
        #[arg(long)]
        notes: PathBuf,
        /// Syncs of each of two writers.
        #[arg(long)]
        rounds: u64,
        /// What chance begins with.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// The file system.
        dir: PathBuf,
    },
    /// Cut the power everywhere in a record.
    Outage {
        /// The record.
        #[arg(long)]
        record: PathBuf,
        /// The workload's notes.
        #[arg(long)]
        notes: PathBuf,
        /// Disks of the record.
        #[arg(long)]
        disks: u8,
        /// Size of each.
        #[arg(long)]
        mib: u64,
        /// The volume with the file system.
        #[arg(long)]
        volume: String,
        /// Members that may be lost in the same moment.
        #[arg(long)]
        lose: u64,
        /// What chance begins with.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// This cut alone.
        #[arg(long, value_name = "N")]
        only: Option<usize>,
        /// A directory of the test's own.
        dir: PathBuf,
    },
}

fn volume_and_file(text: &str) -> Answer<(String, PathBuf)> {
    let (name, file) = text.split_once('=').ok_or("NAME=FILE is wanted")?;
    Ok((name.to_owned(), file.into()))
}

fn main() -> ExitCode {
    match run(Arguments::parse().what) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(what: What) -> Answer<()> {
    match what {
        What::Map { disks } => {
            let array = Stopped::open(&disks)?;
            println!(
                "{}: {:?}, {} rows, {} of them written",
                array.label.name,
                array.label.geometry,
                array.rows(),
                array.map.rows_written()
            );
            for (_, volume) in array.map.volumes() {
                let (stretches, size) = array.written(&volume.name)?;
                println!(
                    "{}: {size} bytes, {} written rows",
                    volume.name,
                    stretches.len()
                );
            }
        }
        What::Handover { volumes, disks } => {
            let array = Stopped::open(&disks)?;
            for (volume, image) in volumes {
                handover::check_unwritten(&array, &volume, &image)?;
            }
            let zeroed = handover::zero_unwritten(&array)?;
            handover::write_superblocks(&array)?;
            println!("{zeroed} of {} rows zeroed", array.rows());
        }
        What::Compare { md, volumes, disks } => {
            let array = Stopped::open(&disks)?;
            for (volume, image) in volumes {
                let done = handover::compare(&array, &md, &volume, &image)?;
                println!(
                    "{volume}: {} rows, {} bytes: the same",
                    done.rows, done.bytes
                );
            }
        }
        What::Record { disks, mib, dir } => {
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            let runtime = runtime.map_err(|error| error.to_string())?;
            runtime.block_on(recorder::serve(disks, mib << 20, &dir))?;
        }
        What::Workload {
            record,
            notes,
            rounds,
            seed,
            dir,
        } => {
            let opened = std::fs::File::create(&notes);
            let opened = opened.map_err(|error| format!("{}: {error}", notes.display()))?;
            let workload = Workload {
                dir,
                record,
                notes: Mutex::new(opened),
            };
            workload.run(rounds, seed)?;
        }
        What::Outage {
            record,
            notes,
            disks,
            mib,
            volume,
            lose,
            seed,
            only,
            dir,
        } => {
            let outage = Outage {
                record,
                notes,
                disks,
                disk_bytes: mib << 20,
                volume,
                lose,
                seed,
                only,
                dir,
            };
            println!("{}", outage.run()?);
        }
    }
    Ok(())
}
