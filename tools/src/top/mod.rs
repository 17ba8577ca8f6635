//! `cairn top`: what the daemon does, from its statistics page. The daemon isn't asked: it may be busy, or hang.
//!
//! Invariants
//! - Rates are by each array's own clock, over what its thread has said; one that said nothing new has none.

mod rates;

use std::io::{ErrorKind, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cairn_api::page::{PageError, decode, path_of};
use cairn_api::{Exit, Work};

pub(crate) use rates::{Line, Top, rates};

use crate::cli::{Format, TopArgs};
use crate::commands::Context;
use crate::error::ToolError;
use crate::output::{say, write_stdout};
use crate::views;

/// A page that is older isn't written any more.
const STALE_AFTER: Duration = Duration::from_secs(4);
/// The page is written once a second, in two slots: one of them is whole soon.
const TORN_TRIES: u32 = 20;
const TORN_PAUSE: Duration = Duration::from_millis(50);
/// Cursor home, and everything below erased.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Shows rates until there were enough.
pub(crate) async fn run(context: &Context, args: TopArgs) -> Result<Exit, ToolError> {
    let socket = context.client.socket();
    let path = path_of(socket);
    let is_screen = context.output.format == Format::Table && std::io::stdout().is_terminal();
    let forever = args.samples.is_none() && is_screen;
    let mut left = args.samples.unwrap_or(1);
    let mut before = read(&path, socket).await?;
    loop {
        tokio::time::sleep(args.interval).await;
        let now = read(&path, socket).await?;
        let top = rates(&before, &now, unix_ms());
        if is_screen && forever {
            write_stdout(CLEAR)?;
        }
        context.output.show(&top, views::top)?;
        tell_of_silence(&top);
        before = now;
        left = left.saturating_sub(1);
        if left == 0 && !forever {
            return Ok(Exit::Done);
        }
    }
}

/// Said beside the data: what is shown is old.
fn tell_of_silence(top: &Top) {
    let stale_ms = u64::try_from(STALE_AFTER.as_millis()).unwrap_or(u64::MAX);
    if top.age_ms > stale_ms {
        say(format!(
            "cairnd (process {}) hasn't written this for {} s: it hangs, or was killed",
            top.pid,
            top.age_ms / 1000
        ));
        return;
    }
    for (array, age_ms) in top.silent.iter().filter(|(_, age_ms)| *age_ms > stale_ms) {
        say(format!(
            "array {array}: its thread hasn't answered for {} s; look at the log of cairnd",
            age_ms / 1000
        ));
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

async fn read(path: &Path, socket: &Path) -> Result<Work, ToolError> {
    let mut tries = 0;
    loop {
        let page = std::fs::read(path).map_err(|error| unreadable(path, socket, &error))?;
        tries += 1;
        match decode(&page) {
            Ok((_, work)) => return Ok(work),
            Err(PageError::Damaged) if tries < TORN_TRIES => {
                tokio::time::sleep(TORN_PAUSE).await;
            }
            Err(PageError::Damaged) => {
                return Err(ToolError::failed_with(
                    format!("{} is no statistics page", path.display()),
                    "look whether cairnd of this version runs: `cairn version`",
                ));
            }
            Err(PageError::Version(version)) => {
                return Err(ToolError::failed_with(
                    format!("{} is of version {version}", path.display()),
                    "use a `cairn` of the daemon's version",
                ));
            }
        }
    }
}

fn unreadable(path: &Path, socket: &Path, error: &std::io::Error) -> ToolError {
    match error.kind() {
        // No daemon has been here, or it was stopped.
        ErrorKind::NotFound => ToolError::Unreachable {
            socket: PathBuf::from(socket),
            reason: format!("there is no statistics page {}", path.display()),
            hint: "is cairnd running? `systemctl status cairnd`; `--socket PATH` if it listens elsewhere".to_owned(),
        },
        _ => ToolError::failed_with(
            format!("{} can't be read: {error}", path.display()),
            "it is for the user that cairnd runs as",
        ),
    }
}
