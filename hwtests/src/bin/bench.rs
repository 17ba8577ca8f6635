//! `bench`: how fast it is and what it takes. See `hwtests/README.md`.

use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;

use cairn_hwtests::bench::array::{self, ArrayArgs};
use cairn_hwtests::bench::chores::{self, ScrubArgs};
use cairn_hwtests::bench::interrupt::Interrupt;
use cairn_hwtests::bench::kernels::{self, KernelArgs};
use cairn_hwtests::bench::memory::{self, MemoryArgs};
use cairn_hwtests::bench::nbd::{self, NbdArgs};
use cairn_hwtests::bench::readme;
use cairn_hwtests::bench::scale::{self, ScaleArgs, ScaleReport};
use cairn_hwtests::bench::subject::Chore;
use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;

/// Speed and memory, beside the same work done otherwise.
///
/// Exits with 0 when it ran: a target of speed that was missed is printed, and is no failure. Memory beyond its bound is one.
#[derive(Parser)]
#[command(name = "bench", version)]
struct Arguments {
    /// How to print the figures.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Keep every run's figures in this file, as JSON.
    #[arg(long, global = true, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Put the tables into hwtests/README.md.
    #[arg(long, global = true)]
    write_readme: bool,
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// Every run, for programs.
    Json,
}

#[derive(Subcommand)]
enum What {
    /// The engine in process: with journal and checksums, without both, and the disks alone.
    Array(ArrayArgs),
    /// Parity and checksums alone, beside ISA-L: `cargo bench -p cairn-raid`.
    Kernels(KernelArgs),
    /// What a daemon of default configuration holds, with a large array under load.
    Memory(MemoryArgs),
    /// A volume over NBD under fio, beside other servers and btrfs.
    Nbd(NbdArgs),
    /// A member filled again.
    Rebuild(ArrayArgs),
    /// What more disks, and more requests at a time, bring and cost.
    Scale(ScaleArgs),
    /// Everything read and compared.
    Scrub(ScrubArgs),
}

/// What is done with figures.
struct Sink {
    output: Output,
    save: Option<PathBuf>,
    write_readme: bool,
}

impl Sink {
    fn take<R: Display + Serialize>(&self, bench: &str, report: &R) -> Result<(), String> {
        let json = serde_json::to_string_pretty(report).map_err(|error| error.to_string())?;
        match self.output {
            Output::Table => println!("{report}"),
            Output::Json => println!("{json}"),
        }
        if let Some(path) = &self.save {
            std::fs::write(path, json).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        if self.write_readme {
            readme::write(bench, &report.to_string())?;
        }
        Ok(())
    }

    /// The table, and the curves below it.
    fn take_scale(&self, report: &ScaleReport) -> Result<(), String> {
        self.take("scale", report)?;
        if self.write_readme {
            let plot = report.write_plot()?;
            readme::write("scale", &format!("{report}\n{plot}"))?;
        }
        Ok(())
    }
}

fn run(arguments: Arguments) -> Result<(), String> {
    let interrupt = Interrupt::take_over()?;
    let sink = Sink {
        output: arguments.output,
        save: arguments.save,
        write_readme: arguments.write_readme,
    };
    match arguments.what {
        What::Array(args) => sink.take("array", &array::run(args, &interrupt)?),
        What::Memory(args) => {
            let report = memory::run(args, &interrupt)?;
            sink.take("memory", &report)?;
            // A bound, and no matter of how quick or quiet a machine is.
            report.check()
        }
        What::Nbd(args) => sink.take("nbd", &nbd::run(args, &interrupt)?),
        What::Rebuild(args) => {
            sink.take("rebuild", &chores::run(Chore::Rebuild, args, &interrupt)?)
        }
        What::Kernels(args) => sink.take("kernels", &kernels::run(args)?),
        What::Scale(args) => sink.take_scale(&scale::run(args, &interrupt)?),
        What::Scrub(args) => sink.take("scrub", &chores::scrub(args, &interrupt)?),
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}
