//! Which array has a disk, and what it is there, whatever somebody calls it.

use std::path::PathBuf;
use std::sync::Arc;

use cairn_api::{Array, ErrorCode, MemberState};

use super::disks::same;
use super::spares::POOL;
use super::{Entry, Snapshot, Supervisor};
use crate::engine::EngineHandle;
use crate::refuse::{Answer, refuse};

/// A disk of an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Located {
    /// What the array knows it by.
    pub(super) name: String,
    /// How it fares.
    pub(super) state: MemberState,
    /// It is, or was, for the journal.
    pub(super) journal: bool,
    /// Its slot.
    pub(super) slot: Option<u32>,
}

/// Whether the array has a disk of this state open.
fn is_open(state: MemberState) -> bool {
    !matches!(
        state,
        MemberState::Missing | MemberState::Removed | MemberState::Failed
    )
}

impl Supervisor {
    /// Paths that running arrays and the host's pool have, with what has them.
    pub(super) async fn taken(&self) -> Vec<(PathBuf, String)> {
        let mut taken = self.taken_by_arrays().await;
        let pool = self.pool_paths().into_iter();
        taken.extend(pool.map(|path| (path, POOL.to_owned())));
        taken
    }

    /// Those of running arrays.
    pub(super) async fn taken_by_arrays(&self) -> Vec<(PathBuf, String)> {
        let snapshots = self.snapshots().await;
        let running = snapshots.iter().filter(|snapshot| snapshot.running);
        let mut taken = Vec::new();
        for Snapshot { array, .. } in running {
            // A failed disk is let go: it, or another at its path, may come back as a new one.
            let members = array.members.iter().filter(|m| is_open(m.state));
            let spares = array.spares.iter().filter(|s| is_open(s.state));
            let paths = members.map(|m| &m.path).chain(spares.map(|s| &s.path));
            taken.extend(paths.map(|path| (PathBuf::from(path), format!("array {}", array.name))));
        }
        taken
    }

    /// The running array that has this disk, named by any path to it or by the UUID in its label: a
    /// disk that is away has no path.
    pub(super) async fn array_of_disk(&self, disk: &str) -> Answer<(Arc<Entry>, EngineHandle)> {
        for entry in self.entries() {
            let Some(array) = entry.running_array().await else {
                continue;
            };
            if located(&array, disk).is_some() {
                let engine = entry.running()?;
                return Ok((entry, engine));
            }
        }
        Err(refuse(
            ErrorCode::UnknownDisk,
            format!("{disk} is in no running array"),
            "`cairn disk list` shows the disks and their arrays",
        ))
    }
}

/// What `disk`, as somebody called it, is in `array`.
pub(super) fn located(array: &Array, disk: &str) -> Option<Located> {
    let members = array.members.iter();
    let members = members.map(|m| (&m.path, &m.uuid, m.state, Some(m.slot), false));
    let spares = array.spares.iter();
    let spares = spares.map(|s| (&s.path, &s.uuid, s.state, None, s.journal));
    let all: Vec<_> = members.chain(spares).collect();
    let exact = all
        .iter()
        .find(|(path, uuid, ..)| !disk.is_empty() && (*path == disk || *uuid == disk));
    // By another name: a link, or what udev calls it.
    let same = || {
        all.iter()
            .find(|(path, _, state, ..)| is_open(*state) && same(path.as_ref(), disk.as_ref()))
    };
    let (path, uuid, state, slot, journal) = exact.or_else(same)?;
    Some(Located {
        // The array doesn't know where a missing disk was, nor one that was out when it was started.
        name: if *state == MemberState::Missing
            || (*journal && *state == MemberState::Failed)
            || path.is_empty()
        {
            (*uuid).clone()
        } else {
            (*path).clone()
        },
        state: *state,
        journal: *journal,
        slot: *slot,
    })
}
