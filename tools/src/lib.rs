//! `cairn`: asks `cairnd` over its admin socket, prints the answer, exits with a code that tells.
//!
//! Knows the admin API (`cairn-api`) and nothing below it: no disk, no array code. `disk locate` alone
//! looks at a device, as it lights one. The NBD client is here because `cairn demo` uses a volume as a database would, from the outside.
//!
//! Invariants
//! - Data goes to stdout, talk to stderr; a closed stdout ends the tool quietly.
//! - Exit codes are [`cairn_api::Exit`]'s and no others.
//! - Nothing destructive happens without `--yes` or the name typed on a terminal.
#![cfg_attr(test, allow(clippy::as_conversions, clippy::cast_possible_truncation))]

mod cli;
mod client;
mod commands;
mod confirm;
mod demo;
mod error;
mod locate;
pub mod nbd_client;
mod output;
mod paths;
mod progress;
mod quantity;
mod signals;
mod top;
mod views;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;
use crate::client::Client;
use crate::commands::Context;
use crate::error::ToolError;
use crate::output::Output;

/// Runs the tool on the process's arguments, and returns what it exits with.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(refusal) => {
            // Help and version are answers, everything else is a usage error; a reader who has
            // gone away is neither.
            let _ = refusal.print();
            let exit = if refusal.use_stderr() {
                cairn_api::Exit::Usage
            } else {
                cairn_api::Exit::Done
            };
            return ExitCode::from(exit.code());
        }
    };
    let output = Output::for_process(cli.output);
    let context = Context {
        client: Client::new(cli.socket),
        output,
    };
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| ToolError::failed(format!("no event loop could be made: {source}")))
        .and_then(|runtime| runtime.block_on(commands::run(&context, cli.command)));
    match result {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(error) => {
            error.report(cli.output);
            ExitCode::from(error.exit().code())
        }
    }
}
