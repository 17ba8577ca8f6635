//! `cairn array scrub`: starts one and shows how far it is, or pauses, resumes, ends it.

use std::io::IsTerminal;
use std::time::Duration;

use cairn_api::{Array, Exit, Scrub, ScrubAction, ScrubArray, ScrubState, routes};

use super::{Context, array, change};
use crate::cli::DryRun;
use crate::cli::Format;
use crate::error::ToolError;
use crate::output::say;
use crate::progress::{Position, Progress};

/// How often the array is asked for.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Whether to wait for the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// If somebody looks on.
    OnTerminal,
    Always,
    Never,
}

impl Patience {
    pub(super) fn of(wait: bool, no_wait: bool) -> Self {
        match (wait, no_wait) {
            (true, _) => Self::Always,
            (false, true) => Self::Never,
            (false, false) => Self::OnTerminal,
        }
    }

    fn waits(self, context: &Context) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::OnTerminal => {
                context.output.format == Format::Table && std::io::stderr().is_terminal()
            }
        }
    }
}

pub(super) async fn run(
    context: &Context,
    name: &str,
    action: ScrubAction,
    patience: Patience,
    dry: DryRun,
) -> Result<Exit, ToolError> {
    let request = ScrubArray {
        action,
        dry_run: dry.dry_run,
    };
    let target = routes::ARRAY_SCRUB.with_name(name);
    let exit = change::plain(context, &format!("scrub of {name}"), &target, &request).await?;
    let starts = matches!(action, ScrubAction::Start | ScrubAction::Resume);
    if !starts || dry.dry_run || !patience.waits(context) {
        return Ok(exit);
    }
    follow(context, name).await
}

async fn follow(context: &Context, name: &str) -> Result<Exit, ToolError> {
    let bar = Progress::bytes(format!("{name} scrub"));
    let mut bar = Some(bar);
    loop {
        let array: Array = array::fetch(context, name).await?;
        match end(&array) {
            None => {}
            Some(end) => {
                drop(bar.take());
                return end.inspect(|exit| {
                    if *exit == Exit::Done {
                        say(format!("{name}: {}", words(&array.scrub)));
                    }
                });
            }
        }
        if let Some(bar) = &mut bar {
            bar.update(position(&array.scrub));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn position(scrub: &Scrub) -> Position {
    Position {
        done: scrub.done_bytes,
        total: scrub.total_bytes,
        speed: Some(scrub.speed_bytes_per_second),
        eta_seconds: scrub.eta_seconds,
    }
}

/// `done: 3 blocks repaired, 3 mismatched, none unrepairable`.
fn words(scrub: &Scrub) -> String {
    let count = |count: u64| match count {
        0 => "none".to_owned(),
        count => count.to_string(),
    };
    format!(
        "scrubbed: {} repaired, {} mismatched, {} unrepairable",
        count(scrub.repaired),
        count(scrub.mismatched),
        count(scrub.unrepairable)
    )
}

/// How the scrub of an array has ended, if it has.
fn end(array: &Array) -> Option<Result<Exit, ToolError>> {
    let (name, scrub) = (&array.name, &array.scrub);
    match scrub.state {
        ScrubState::Running => None,
        ScrubState::Idle if scrub.unrepairable > 0 => Some(Err(ToolError::failed_with(
            format!("{name}: {}", words(scrub)),
            format!("see what is lost: cairn array show {name}"),
        ))),
        ScrubState::Idle => Some(Ok(Exit::Done)),
        ScrubState::Paused | ScrubState::Waiting | ScrubState::Stopped => {
            Some(Err(ToolError::failed_with(
                format!("the scrub of {name} is {} before its end", scrub.state),
                format!("go on with it: cairn array scrub {name}"),
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::samples;

    #[test]
    fn a_scrub_has_ended_when_it_says_so_and_losses_are_a_failure() {
        let mut array = samples::rebuilding_array();
        array.scrub.state = ScrubState::Running;
        assert!(end(&array).is_none());
        array.scrub.state = ScrubState::Idle;
        array.scrub.repaired = 3;
        assert!(matches!(end(&array), Some(Ok(Exit::Done))));
        array.scrub.unrepairable = 1;
        let lost = end(&array).unwrap().unwrap_err();
        assert_eq!(lost.exit().code(), 1);
        assert!(lost.to_string().contains("1 unrepairable"), "{lost}");
        array.scrub.state = ScrubState::Paused;
        let paused = end(&array).unwrap().unwrap_err().to_string();
        assert!(paused.contains("paused before its end"), "{paused}");
    }
}
