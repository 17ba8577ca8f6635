//! What each command does: build a request, send it, show the reply.

mod array;
mod change;
mod disk;
mod events;
mod host;
mod scrub;
mod volume;
mod wait;

use cairn_api::Exit;

use crate::cli::Command;
use crate::client::Client;
use crate::demo;
use crate::error::ToolError;
use crate::output::Output;

pub(crate) use host::{show_df, show_status};
pub(crate) use wait::{Verdict, verdict};

/// What every command works with.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) output: Output,
}

/// Runs one command; the exit code tells how it went where that isn't an error.
pub(crate) async fn run(context: &Context, command: Command) -> Result<Exit, ToolError> {
    match command {
        Command::Array(verb) => array::run(context, verb).await,
        Command::Disk(verb) => disk::run(context, verb).await,
        Command::Volume(verb) => volume::run(context, verb).await,
        Command::Status => show_status(context).await,
        Command::Check => host::check(context).await,
        Command::Df => show_df(context).await,
        Command::Events(args) => events::run(context, args).await,
        Command::Top(args) => crate::top::run(context, args).await,
        Command::Version => host::version(context).await,
        Command::Demo(args) => demo::run(context.output, args).await,
    }
}
