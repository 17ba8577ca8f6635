//! `cairn array wait`: asks again and again until the array is as wanted.

use std::time::Duration;

use cairn_api::{Array, ArrayFlag, ArrayState, Exit, MemberState, SyncAction};
use tokio::time::Instant;

use super::{Context, array};
use crate::cli::{Format, Goal};
use crate::error::ToolError;
use crate::output::say;
use crate::progress::Progress;
use crate::views;

/// How often the array is asked for: quick enough for a bar, slow enough for the daemon.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// How long an array may stand still before waiting is called pointless: a daemon that has just
/// started waits 30 s for absent disks before it starts an array degraded.
const STUCK_PATIENCE: Duration = Duration::from_secs(40);

/// What a look at an array says about the goal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is so.
    Reached,
    /// Something is being done about it.
    Working,
    /// Nothing is being done; why, what would help, and the exit code if it stays so.
    Stuck {
        reason: String,
        hint: String,
        exit: Exit,
    },
}

/// Whether `array` is as `goal` wants it, or on its way.
pub(crate) fn verdict(array: &Array, goal: Goal) -> Verdict {
    let idle = array.sync.action == SyncAction::Idle;
    let name = &array.name;
    // Its daemon has just come up, and it isn't known yet what there will be to do.
    let starting = array.flags.contains(&ArrayFlag::Starting);
    let stopped_or_incomplete = matches!(array.state, ArrayState::Incomplete | ArrayState::Stopped);
    let reached = match goal {
        Goal::Clean => array.state == ArrayState::Clean && idle,
        Goal::Redundant => array.redundancy_left > 0 && !stopped_or_incomplete,
        // What will be done isn't known of one that doesn't run yet; one that was stopped is at rest.
        Goal::Idle => {
            let at_rest = !matches!(array.state, ArrayState::Rebuilding | ArrayState::Incomplete);
            idle && !starting && at_rest
        }
    };
    if reached {
        return Verdict::Reached;
    }
    match array.state {
        ArrayState::Stopped => Verdict::Stuck {
            reason: format!("{name} is stopped"),
            hint: format!("start it: cairn array assemble {name}"),
            exit: Exit::Failed,
        },
        ArrayState::Incomplete if starting => Verdict::Working,
        ArrayState::Incomplete => Verdict::Stuck {
            reason: match &array.reason {
                Some(reason) => format!("{name} is incomplete: {reason}"),
                None => format!("{name} is incomplete: too many of its disks are gone"),
            },
            hint: array
                .hint
                .clone()
                .unwrap_or_else(|| format!("see which are missing: cairn array show {name}")),
            exit: Exit::ArrayFailed,
        },
        ArrayState::Degraded if idle && !has_spare(array) => Verdict::Stuck {
            reason: format!("{name} is degraded and has no spare to rebuild on"),
            hint: format!("give it one: cairn array spare add {name} PATH"),
            exit: Exit::Failed,
        },
        _ => Verdict::Working,
    }
}

/// Of its own, or in the host's pool. Failed disks whose place was taken are listed beside the spares.
fn has_spare(array: &Array) -> bool {
    let mut spares = array.spares.iter();
    array.host_spares.fitting > 0 || spares.any(|spare| spare.state == MemberState::Spare)
}

pub(super) async fn run(
    context: &Context,
    name: &str,
    goal: Goal,
    timeout: Option<Duration>,
) -> Result<Exit, ToolError> {
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut bar: Option<(SyncAction, Progress)> = None;
    let mut stuck_since: Option<Instant> = None;
    loop {
        let now = array::fetch(context, name).await?;
        match verdict(&now, goal) {
            Verdict::Reached => {
                drop(bar);
                return reached(context, &now);
            }
            Verdict::Working => stuck_since = None,
            Verdict::Stuck { reason, hint, exit } => {
                let since = *stuck_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= STUCK_PATIENCE {
                    return Err(ToolError::Failed {
                        message: reason,
                        hint,
                        exit,
                    });
                }
            }
        }
        let action = now.sync.action;
        if bar.as_ref().is_some_and(|(shown, _)| *shown != action) {
            bar = None;
        }
        if action != SyncAction::Idle {
            let (_, progress) =
                bar.get_or_insert_with(|| (action, Progress::bytes(format!("{name} {action}"))));
            progress.update(views::rebuild_position(&now.sync));
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(timed_out(&now, goal, timeout.unwrap_or_default()));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn reached(context: &Context, array: &Array) -> Result<Exit, ToolError> {
    match context.output.format {
        Format::Table => say(format!(
            "{} is {}, {} more may be lost",
            array.name, array.state, array.redundancy_left
        )),
        _ => context.output.show(array, views::array)?,
    }
    Ok(Exit::Done)
}

fn timed_out(array: &Array, goal: Goal, timeout: Duration) -> ToolError {
    let (reason, hint, exit) = match verdict(array, goal) {
        Verdict::Stuck { reason, hint, exit } => (reason, hint, exit),
        _ => (
            format!("{} is still {}", array.name, array.state),
            format!("look at it: cairn array show {}", array.name),
            Exit::Failed,
        ),
    };
    ToolError::Failed {
        message: format!("the time is up after {} s: {reason}", timeout.as_secs_f64()),
        hint,
        exit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::samples;

    #[test]
    fn a_rebuilding_array_is_redundant_before_it_is_clean() {
        let mut array = samples::rebuilding_array();
        assert_eq!(verdict(&array, Goal::Clean), Verdict::Working);
        assert_eq!(verdict(&array, Goal::Redundant), Verdict::Reached);
        assert_eq!(verdict(&array, Goal::Idle), Verdict::Working);
        array.state = ArrayState::Clean;
        array.sync = cairn_api::SyncStatus::default();
        for goal in [Goal::Clean, Goal::Redundant, Goal::Idle] {
            assert_eq!(verdict(&array, goal), Verdict::Reached, "{goal:?}");
        }
    }

    #[test]
    fn an_array_that_starts_is_not_idle_yet() {
        let mut array = samples::rebuilding_array();
        array.sync = cairn_api::SyncStatus::default();
        array.state = ArrayState::Incomplete;
        array.flags = vec![ArrayFlag::Starting];
        for goal in [Goal::Clean, Goal::Redundant, Goal::Idle] {
            assert_eq!(verdict(&array, goal), Verdict::Working, "{goal:?}");
        }
        // Its daemon hasn't looked yet, or disks are missing: in time it is said which.
        array.flags = vec![];
        assert!(matches!(verdict(&array, Goal::Idle), Verdict::Stuck { .. }));
        array.state = ArrayState::Stopped;
        assert_eq!(verdict(&array, Goal::Idle), Verdict::Reached);
    }

    #[test]
    fn waiting_for_what_cannot_come_is_called_stuck() {
        let mut array = samples::rebuilding_array();
        array.sync = cairn_api::SyncStatus::default();
        array.state = ArrayState::Degraded;
        // The spare is there: the rebuild is about to begin.
        assert_eq!(verdict(&array, Goal::Clean), Verdict::Working);
        for spare in &mut array.spares {
            spare.state = MemberState::Failed;
        }
        let Verdict::Stuck { hint, exit, .. } = verdict(&array, Goal::Clean) else {
            panic!("not stuck");
        };
        assert_eq!(exit.code(), 1);
        assert!(hint.contains("spare add pool"), "{hint}");
        array.state = ArrayState::Incomplete;
        array.redundancy_left = 1;
        let Verdict::Stuck { exit, .. } = verdict(&array, Goal::Redundant) else {
            panic!("not stuck");
        };
        assert_eq!(exit.code(), 2);
        // Recomputing parity takes its time, and ends by itself.
        array.flags.push(ArrayFlag::Starting);
        assert_eq!(verdict(&array, Goal::Redundant), Verdict::Working);
    }
}
