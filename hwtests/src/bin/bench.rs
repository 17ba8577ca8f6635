//! `bench`: how fast it is and what it takes. See `hwtests/README.md`.

use std::fmt::Display;
use std::process::ExitCode;

use cairn_hwtests::bench::array::{self, ArrayArgs};
use cairn_hwtests::bench::interrupt::Interrupt;
use cairn_hwtests::bench::memory::{self, MemoryArgs};
use cairn_hwtests::bench::nbd::{self, NbdArgs};
use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;

/// Speed and memory, beside the same work done otherwise.
#[derive(Parser)]
#[command(name = "bench", version)]
struct Arguments {
    /// How to print the figures.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    output: Output,
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
    /// What a daemon of default configuration holds, with a large array under load.
    Memory(MemoryArgs),
    /// A volume over NBD under fio, beside other servers.
    Nbd(NbdArgs),
}

fn print<R: Display + Serialize>(output: Output, report: &R) -> Result<(), String> {
    match output {
        Output::Table => println!("{report}"),
        Output::Json => {
            let text = serde_json::to_string_pretty(report).map_err(|error| error.to_string())?;
            println!("{text}");
        }
    }
    Ok(())
}

fn run(arguments: Arguments) -> Result<(), String> {
    let interrupt = Interrupt::take_over()?;
    match arguments.what {
        What::Array(args) => print(arguments.output, &array::run(args, &interrupt)?),
        What::Memory(args) => print(arguments.output, &memory::run(args, &interrupt)?),
        What::Nbd(args) => print(arguments.output, &nbd::run(args, &interrupt)?),
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
