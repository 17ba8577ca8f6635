//! What an array has done, as values that can leave its thread: of each volume what clients asked, of each disk what it was asked.
//!
//! Invariants
//! - Counts only rise as long as the array runs; they begin at zero when it is started.

use std::collections::BTreeMap;
use std::rc::Rc;

use uuid::Uuid;

use super::Array;
use super::status::JournalRoom;
use crate::member::MemberState;
use crate::memory::MemoryStatus;
use crate::tally::{Counters, Tally};

/// What was asked of a volume's block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeWork {
    /// Identity.
    pub uuid: Uuid,
    /// Name.
    pub name: String,
    /// What was asked.
    pub tally: Tally,
}

/// What a disk was asked: by clients' requests, and by everything else that the array does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskWork {
    /// Identity.
    pub uuid: Uuid,
    /// Where it is.
    pub path: String,
    /// Its slot; `None` for spares and journal disks.
    pub slot: Option<usize>,
    /// Its state.
    pub state: MemberState,
    /// Operations that it hasn't ended.
    pub in_flight: usize,
    /// What it was asked and has ended.
    pub tally: Tally,
}

/// What an array has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArrayWork {
    /// Name.
    pub name: String,
    /// Identity.
    pub uuid: Uuid,
    /// By name.
    pub volumes: Vec<VolumeWork>,
    /// Members by slot, then the others.
    pub disks: Vec<DiskWork>,
    /// Room in the journal; `None`: there is none.
    pub journal_room: Option<JournalRoom>,
    /// Memory of its caches, and how often the checksum cache had what was needed.
    pub memory: MemoryStatus,
}

impl Array {
    /// The counters of a volume, for who opens it.
    pub(crate) fn counters_of(&self, volume: Uuid) -> Rc<Counters> {
        Rc::clone(self.asked.borrow_mut().entry(volume).or_default())
    }

    /// What it has done so far.
    pub fn work(&self) -> ArrayWork {
        let space = self.space.borrow();
        let mut asked = self.asked.borrow_mut();
        let mut kept = BTreeMap::new();
        let mut volumes = Vec::new();
        for (_, volume) in space.volumes() {
            let counters = asked.remove(&volume.uuid).unwrap_or_default();
            volumes.push(VolumeWork {
                uuid: volume.uuid,
                name: volume.name.clone(),
                tally: counters.tally(),
            });
            kept.insert(volume.uuid, counters);
        }
        // What is left is of volumes that were deleted.
        *asked = kept;
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        let ledger = self.ledger.borrow();
        let table = ledger.label().table.iter();
        let mut disks: Vec<DiskWork> = table
            .filter_map(|entry| {
                let disk = ledger.disk(entry.uuid)?;
                Some(DiskWork {
                    uuid: entry.uuid,
                    path: disk.path.to_string(),
                    slot: entry.slot,
                    state: if disk.out.get() {
                        MemberState::Failed
                    } else {
                        entry.state
                    },
                    in_flight: disk.flights().in_flight(),
                    tally: disk.flights().counters().tally(),
                })
            })
            .collect();
        disks.sort_by_key(|disk| (disk.slot.is_none(), disk.slot));
        ArrayWork {
            name: self.name.to_string(),
            uuid: self.uuid,
            volumes,
            disks,
            journal_room: self.journal().map(|journal| JournalRoom {
                used_bytes: journal.admitted_bytes(),
                total_bytes: journal.admits_bytes(),
            }),
            memory: self.memory_status(),
        }
    }
}
