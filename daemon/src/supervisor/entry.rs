//! One array that the daemon knows: its record, whether it runs, and what it looks like.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Mutex;
use std::time::Duration;

use cairn_api::{
    Array, ArrayFlag, ArrayState, ErrorCounters, Member, MemberState, Space, Spare, SyncStatus,
    UBLK,
};
use cairn_blockdev::export::nbd::Stop;
use cairn_blockdev::export::ublk;
use uuid::Uuid;

use super::locked;
use crate::engine::EngineHandle;
use crate::record::ArrayRecord;
use crate::refuse::{self, Answer};
use crate::view;

/// Longest wait for an engine to describe itself; it answers between two I/Os or is stuck.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(5);

const STARTING: &str = "it is being started; after an unclean stop its journal is replayed first";

fn wait_for(name: &str) -> String {
    format!("wait: `cairn array wait {name}`")
}

/// Whether an array runs.
#[derive(Clone)]
pub(crate) enum Run {
    /// On this engine thread.
    Running(EngineHandle),
    /// Being started, which takes long where the journal is long, or parity has to be recomputed
    /// because there is none.
    Starting,
    /// Stopped by the operator.
    Stopped,
    /// Not started, or not yet: why, and what to do.
    Idle {
        /// A sentence.
        reason: String,
        /// The next step.
        hint: String,
    },
}

impl Run {
    /// Its destruction was begun and not ended.
    pub(crate) fn half_destroyed(name: &str) -> Self {
        Self::Idle {
            reason: "its destruction was interrupted".into(),
            hint: format!(
                "`cairn array destroy {name}` ends it; `cairn array assemble {name}` brings the \
                 array back if enough of its labels are left"
            ),
        }
    }
}

/// An array.
pub(crate) struct Entry {
    record: Mutex<ArrayRecord>,
    run: Mutex<Run>,
    /// Held by whoever changes something within the array.
    pub(crate) changes: tokio::sync::Mutex<()>,
}

/// An array with its volumes at one moment.
pub(crate) struct Snapshot {
    pub(crate) uuid: Uuid,
    pub(crate) array: Array,
    pub(crate) running: bool,
    pub(crate) volumes: Vec<cairn_raid::VolumeInfo>,
    /// Clients connected, by volume and address.
    pub(crate) connections: BTreeMap<(Uuid, String), usize>,
    /// Exports whose block device was taken away by somebody else, by volume and address.
    pub(crate) taken: BTreeSet<(Uuid, String)>,
}

impl Entry {
    /// One that is remembered and doesn't run yet.
    pub(crate) fn known(record: ArrayRecord) -> Self {
        let run = if record.destroying {
            Run::half_destroyed(&record.name)
        } else if record.stopped {
            Run::Stopped
        } else {
            Run::Idle {
                reason: "it is being assembled".into(),
                hint: "wait".into(),
            }
        };
        Self::new(record, run)
    }

    /// One in the given state.
    pub(crate) fn new(record: ArrayRecord, run: Run) -> Self {
        Self {
            record: Mutex::new(record),
            run: Mutex::new(run),
            changes: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn uuid(&self) -> Uuid {
        locked(&self.record).uuid
    }

    pub(crate) fn name(&self) -> String {
        locked(&self.record).name.clone()
    }

    pub(crate) fn record(&self) -> ArrayRecord {
        locked(&self.record).clone()
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut ArrayRecord)) {
        change(&mut locked(&self.record));
    }

    pub(crate) fn refresh(&self, array: &Array) {
        locked(&self.record).refresh(array);
    }

    pub(crate) fn run(&self) -> Run {
        locked(&self.run).clone()
    }

    pub(crate) fn set_run(&self, run: Run) {
        *locked(&self.run) = run;
    }

    /// The engine, if the array runs.
    pub(crate) fn engine(&self) -> Option<EngineHandle> {
        match &*locked(&self.run) {
            Run::Running(engine) => Some(engine.clone()),
            _ => None,
        }
    }

    /// The engine, or why there is none.
    pub(crate) fn running(&self) -> Answer<EngineHandle> {
        let name = self.name();
        match self.run() {
            Run::Running(engine) => Ok(engine),
            Run::Starting => Err(refuse::refuse(
                cairn_api::ErrorCode::ArrayNotStarted,
                format!("array {name} is not started yet: {STARTING}"),
                wait_for(&name),
            )),
            Run::Stopped => Err(refuse::refuse(
                cairn_api::ErrorCode::ArrayNotStarted,
                format!("array {name} is stopped"),
                format!("`cairn array assemble {name}` starts it"),
            )),
            Run::Idle { reason, hint } => Err(refuse::refuse(
                cairn_api::ErrorCode::ArrayNotStarted,
                format!("array {name} is not started: {reason}"),
                hint,
            )),
        }
    }

    /// What a running array says when `question` is put to it.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Rc<cairn_raid::Array>) -> T + Send + 'static,
    ) -> Option<T> {
        let engine = self.engine()?;
        let answer = engine.call(|engine| async move {
            let array = engine.array.borrow().clone()?;
            Some(question(&array))
        });
        match tokio::time::timeout(DESCRIBE_TIMEOUT, answer).await {
            Ok(Ok(answer)) => answer,
            _ => None,
        }
    }

    /// What a running array looks like.
    pub(crate) async fn running_array(&self) -> Option<Array> {
        let status = self.ask(cairn_raid::Array::status).await?;
        Some(self.shown(&status))
    }

    /// The array in the API's words; what is missing is shown where it was last seen.
    fn shown(&self, status: &cairn_raid::ArrayStatus) -> Array {
        let mut array = view::array(status);
        locked(&self.record).fill_paths(&mut array);
        array
    }

    /// Spares that wait for a member to fail.
    pub(crate) async fn ready_spares(&self) -> usize {
        let array = self.snapshot().await.array;
        let ready = |spare: &&Spare| spare.state == MemberState::Spare;
        array.spares.iter().filter(ready).count()
    }

    /// What it looks like, running or not.
    pub(crate) async fn snapshot(&self) -> Snapshot {
        let described = async {
            let engine = self.engine()?;
            engine
                .call(|engine| async move {
                    let array = engine.array.borrow().clone()?;
                    let exports = engine.exports.borrow();
                    let connections: BTreeMap<(Uuid, String), usize> = exports
                        .iter()
                        .map(|(key, serving)| (key.clone(), serving.connections()))
                        .collect();
                    let taken: BTreeSet<(Uuid, String)> = exports
                        .iter()
                        .filter(|(_, serving)| serving.is_taken())
                        .map(|(key, _)| key.clone())
                        .collect();
                    let devices = engine.devices.borrow();
                    let devices: Vec<(Uuid, Option<u32>)> = devices
                        .iter()
                        .map(|(volume, serving)| (*volume, serving.number()))
                        .collect();
                    Some((array.status(), array.volumes(), connections, devices, taken))
                })
                .await
                .ok()
                .flatten()
        };
        let described = tokio::time::timeout(DESCRIBE_TIMEOUT, described).await;
        match (described, self.run()) {
            (Ok(Some((status, volumes, mut connections, devices, mut taken))), _) => {
                for (volume, number) in devices {
                    let Some(number) = number else {
                        taken.insert((volume, UBLK.to_owned()));
                        continue;
                    };
                    let users = usize::from(ublk::is_used(number));
                    connections.insert((volume, UBLK.to_owned()), users);
                }
                Snapshot {
                    uuid: self.uuid(),
                    array: self.shown(&status),
                    running: true,
                    volumes,
                    connections,
                    taken,
                }
            }
            (_, Run::Running(_)) => self.remembered(
                ArrayState::Incomplete,
                Some((
                    "its engine thread doesn't answer",
                    "look at the log; restart cairnd",
                )),
            ),
            (_, Run::Starting) => {
                let hint = wait_for(&self.name());
                let mut snapshot = self.remembered(ArrayState::Incomplete, Some((STARTING, &hint)));
                snapshot.array.flags.push(ArrayFlag::Starting);
                snapshot
            }
            (_, Run::Stopped) => self.remembered(ArrayState::Stopped, None),
            (_, Run::Idle { reason, hint }) => {
                self.remembered(ArrayState::Incomplete, Some((&reason, &hint)))
            }
        }
    }

    /// How it looked when it last ran.
    fn remembered(&self, state: ArrayState, why: Option<(&str, &str)>) -> Snapshot {
        let record = self.record();
        let mut members = Vec::new();
        let mut spares = Vec::new();
        for disk in &record.disks {
            let (path, uuid, errors) = (
                disk.path.clone(),
                disk.uuid.clone(),
                ErrorCounters::default(),
            );
            // Nobody has looked: whether it is there is the next assembly's to say.
            let unknown = MemberState::Missing;
            match disk.slot {
                Some(slot) => members.push(Member {
                    path,
                    uuid,
                    slot,
                    state: unknown,
                    errors,
                }),
                None => spares.push(Spare {
                    path,
                    uuid,
                    state: unknown,
                    journal: disk.journal,
                    errors,
                }),
            }
        }
        Snapshot {
            uuid: record.uuid,
            array: Array {
                name: record.name,
                uuid: record.uuid.to_string(),
                level: record.level,
                chunk_bytes: record.chunk_bytes,
                size_bytes: record.size_bytes,
                state,
                redundancy_left: 0,
                members,
                spares,
                host_spares: cairn_api::HostSpares::default(),
                journal: None,
                memory: None,
                sync: SyncStatus::default(),
                scrub: cairn_api::Scrub::default(),
                bad_blocks: Vec::new(),
                bad_blocks_total: 0,
                created_unix_ms: 0,
                space: Space::default(),
                flags: Vec::new(),
                event_count: 0,
                reason: why.map(|(reason, _)| reason.to_owned()),
                hint: why.map(|(_, hint)| hint.to_owned()),
            },
            running: false,
            volumes: Vec::new(),
            connections: BTreeMap::new(),
            taken: BTreeSet::new(),
        }
    }

    /// Drains its exports, stops it cleanly and ends its engine. Fine if it doesn't run.
    pub(crate) async fn stop(&self) -> Answer<()> {
        let _changes = self.changes.lock().await;
        let Some(engine) = self.engine() else {
            return Ok(());
        };
        let stopped = engine
            .call(|engine| async move {
                let exports = std::mem::take(&mut *engine.exports.borrow_mut());
                for ((_, address), serving) in exports {
                    if !serving.stop(Stop::Restart).await {
                        tracing::warn!(address, "clients of this export didn't drain in time");
                    }
                }
                let devices = std::mem::take(&mut *engine.devices.borrow_mut());
                for serving in devices.into_values() {
                    serving.give_up().await;
                }
                let Some(array) = engine.array.borrow_mut().take() else {
                    return Ok(());
                };
                array.stop().await.map_err(|error| refuse::raid(&error))
            })
            .await;
        engine.shut_down().await;
        self.set_run(Run::Idle {
            reason: "it was stopped with the daemon".into(),
            hint: "start the daemon again".into(),
        });
        stopped?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(change: impl FnOnce(&mut ArrayRecord)) -> Entry {
        let shown = crate::health::tests::array("pool");
        let mut record = ArrayRecord::of(Uuid::from_u128(1), &shown, 0);
        change(&mut record);
        Entry::known(record)
    }

    #[tokio::test]
    async fn a_half_destroyed_array_is_shown_with_the_way_to_end_it() {
        let entry = known(|record| {
            record.destroying = true;
            record.stopped = true;
        });
        let array = entry.snapshot().await.array;
        assert_eq!(array.state, ArrayState::Incomplete);
        assert!(array.hint.unwrap().contains("cairn array destroy pool"));
    }

    #[tokio::test]
    async fn an_array_that_is_being_started_says_so() {
        let entry = known(|_| {});
        entry.set_run(Run::Starting);
        let array = entry.snapshot().await.array;
        assert_eq!(array.flags, [ArrayFlag::Starting]);
        let refused = entry.running().err().unwrap();
        assert!(refused.hint.contains("cairn array wait pool"), "{refused}");
    }
}
