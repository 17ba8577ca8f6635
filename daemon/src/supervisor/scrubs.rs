//! Scrubs: by request, and by the windows of the configuration; and what running arrays take over
//! of the settings.

use std::sync::Arc;
use std::time::Duration;

use cairn_api::{Changed, ErrorCode, ScrubAction, ScrubArray};
use cairn_raid::defects::ScrubState;
use cairn_raid::{Array, ArrayStatus, Deadlines, MemoryShare};

use super::{Entry, Supervisor, share_of};
use crate::config::Config;
use crate::engine::EngineHandle;
use crate::refuse::{self, Answer, refuse};
use crate::schedule::{Moment, Situation, Step, decide};

/// How often windows are looked at, besides when something of the settings has changed.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// What of the settings an array takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ArraySettings {
    deadlines: Deadlines,
    medium_errors_max: u32,
    bypass: bool,
    scrub_bytes_per_second_max: Option<u64>,
    memory: MemoryShare,
}

impl ArraySettings {
    /// Those of one of so many arrays that run.
    pub(super) fn of(config: &Config, arrays: usize) -> Self {
        Self {
            deadlines: Deadlines {
                reconstruct: config.disks.reconstruct_after,
                eject: config.disks.eject_after,
            },
            medium_errors_max: config.disks.medium_errors_max,
            bypass: config.arrays.bypass,
            scrub_bytes_per_second_max: config.scrub.bytes_per_second_max,
            memory: share_of(config, arrays),
        }
    }

    pub(super) fn apply(self, array: &Array) {
        array.set_deadlines(self.deadlines);
        array.set_medium_errors_max(self.medium_errors_max);
        array.set_bypass(self.bypass);
        array.set_scrub_limit(self.scrub_bytes_per_second_max);
        array.set_memory(self.memory);
    }
}

impl Supervisor {
    /// Starts, pauses, resumes or stops the scrub of an array.
    pub async fn scrub_array(&self, name: &str, request: ScrubArray) -> Answer<Changed> {
        let entry = self.find(name)?;
        let _within = entry.changes.lock().await;
        self.check_running()?;
        let engine = entry.running()?;
        let action = request.action;
        let name = entry.name();
        let before = status(&engine).await?.scrub.state;
        let would = plan(&name, before, action)?;
        let mut changed = would.is_some();
        if !request.dry_run && changed {
            // Before it runs: a window that closes now mustn't take it for its own.
            if matches!(action, ScrubAction::Start | ScrubAction::Resume) {
                entry.update(|record| record.scrub_by_operator = true);
            }
            changed = engine
                .call(move |engine| async move {
                    let array = engine.array()?;
                    let done = match action {
                        ScrubAction::Start => array.scrub_start().await,
                        ScrubAction::Pause => array.scrub_pause().await,
                        ScrubAction::Resume => array.scrub_resume().await,
                        ScrubAction::Stop => array.scrub_stop().await,
                    };
                    done.map_err(|error| refuse::raid(&error))
                })
                .await??;
            self.remember(&entry).await;
        }
        let summary = match (would, request.dry_run) {
            (Some(what), false) => format!("array {name}: the scrub {what}"),
            (Some(what), true) => format!("array {name}: the scrub would be as follows: it {what}"),
            (None, _) => format!("array {name}: the scrub is {} already", view_state(before)),
        };
        let array = entry.snapshot().await.array;
        Ok(Changed {
            dry_run: request.dry_run,
            changed,
            summary,
            redundancy_left: Some(array.redundancy_left),
            array: Some(array),
            ..Changed::default()
        })
    }

    /// Starts, holds and resumes scrubs by their windows, and hands changed settings to running
    /// arrays, for as long as the daemon runs.
    pub async fn keep_scrubs(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = self.settings_changed.notified() => {}
            }
            // First: one array that is busy with a change mustn't keep the others from it.
            for entry in self.entries() {
                self.hand_settings_to(&entry).await;
            }
            for entry in self.entries() {
                if *self.stopping.borrow() {
                    return;
                }
                if let Err(detail) = self.keep_scrub(&entry).await {
                    tracing::warn!(
                        array = entry.name(),
                        "its scrub isn't looked after: {detail}"
                    );
                }
            }
        }
    }

    async fn hand_settings_to(&self, entry: &Entry) {
        let Some(engine) = entry.engine() else {
            return;
        };
        let settings = ArraySettings::of(&self.config(), self.running_arrays());
        let handed = engine.call(move |engine| async move {
            if let Some(array) = &*engine.array.borrow() {
                settings.apply(array);
            }
        });
        // An engine that has just ended wants none.
        let _ = handed.await;
    }

    async fn keep_scrub(&self, entry: &Entry) -> Answer<()> {
        let Some(engine) = entry.engine() else {
            return Ok(());
        };
        let config = self.config();
        // A long change of one array isn't waited for: the others have windows, too.
        let Ok(_within) = entry.changes.try_lock() else {
            return Ok(());
        };
        let status = status(&engine).await?;
        let now_ms = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0);
        let step = decide(&Situation {
            scrub: status.scrub,
            by_operator: entry.record().scrub_by_operator,
            is_whole: status.state == cairn_raid::ArrayState::Clean,
            created_ms: status.created_ms,
            now_ms,
            moment: Moment::now(),
            windows: &config.scrub.windows,
            interval: config.scrub.interval,
        });
        let Some(step) = step else {
            return Ok(());
        };
        if step == Step::Start {
            entry.update(|record| record.scrub_by_operator = false);
        }
        engine
            .call(move |engine| async move {
                let array = engine.array()?;
                let done = match step {
                    Step::Start => array.scrub_start().await,
                    Step::Hold => array.scrub_hold().await,
                    Step::Resume => array.scrub_resume().await,
                };
                done.map_err(|error| refuse::raid(&error))
            })
            .await??;
        self.remember(entry).await;
        Ok(())
    }
}

async fn status(engine: &EngineHandle) -> Answer<ArrayStatus> {
    engine
        .call(|engine| async move { Ok(engine.array()?.status()) })
        .await?
}

fn view_state(state: ScrubState) -> &'static str {
    crate::view::scrub_state(state).as_str()
}

/// What a request would do, in words; `None`: it is so already. Refused where there is nothing to do
/// it to.
fn plan(name: &str, state: ScrubState, action: ScrubAction) -> Answer<Option<&'static str>> {
    use ScrubState::{Idle, Paused, Running, Stopped, Waiting};
    Ok(match (action, state) {
        (ScrubAction::Start | ScrubAction::Resume, Running)
        | (ScrubAction::Pause, Paused)
        | (ScrubAction::Stop, Stopped) => None,
        (ScrubAction::Start, Idle | Stopped) => Some("begins"),
        (ScrubAction::Start | ScrubAction::Resume, Paused | Waiting) => Some("goes on"),
        (ScrubAction::Pause, Running | Waiting) => Some("is paused until it is resumed"),
        (ScrubAction::Stop, Running | Paused | Waiting) => {
            Some("is ended; the next one begins at the beginning")
        }
        (ScrubAction::Pause | ScrubAction::Resume | ScrubAction::Stop, Idle)
        | (ScrubAction::Pause | ScrubAction::Resume, Stopped) => {
            return Err(refuse(
                ErrorCode::InvalidArgument,
                format!("array {name} has no scrub to {action}"),
                format!("`cairn array scrub {name}` starts one"),
            ));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_in_every_state_is_done_is_so_already_or_is_refused_with_the_next_step() {
        let states = [
            ScrubState::Idle,
            ScrubState::Running,
            ScrubState::Paused,
            ScrubState::Waiting,
            ScrubState::Stopped,
        ];
        for state in states {
            assert!(plan("pool", state, ScrubAction::Start).is_ok());
            for action in [ScrubAction::Pause, ScrubAction::Resume, ScrubAction::Stop] {
                if let Err(refused) = plan("pool", state, action) {
                    assert!(refused.message.contains(&format!("no scrub to {action}")));
                    assert!(refused.hint.contains("cairn array scrub pool"));
                }
            }
        }
        assert!(plan("pool", ScrubState::Idle, ScrubAction::Pause).is_err());
        assert_eq!(
            plan("pool", ScrubState::Running, ScrubAction::Start),
            Ok(None)
        );
    }
}
