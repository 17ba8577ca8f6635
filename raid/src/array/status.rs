//! What an array says of itself, as values that can leave its thread.

use std::rc::Rc;

use uuid::Uuid;

use super::Array;
use super::bad_blocks::BadBlock;
use super::disk::ErrorCounts;
use crate::defects::ScrubRecord;
use crate::level::Level;
use crate::member::MemberState;
use crate::memory::MemoryStatus;

/// The state of an array in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArrayState {
    /// All members in sync.
    Clean,
    /// Members are missing and nothing fills their slots.
    Degraded,
    /// Slots are being filled.
    Rebuilding,
    /// More members are gone than the level survives.
    Incomplete,
}

/// A disk of the array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// Identity.
    pub uuid: Uuid,
    /// Where it is, or was last seen; empty if unknown.
    pub path: String,
    /// Its slot; `None` for spares.
    pub slot: Option<usize>,
    /// Its state.
    pub state: MemberState,
    /// Bytes.
    pub size_bytes: u64,
    /// Errors since the array was started.
    pub errors: ErrorCounts,
    /// It is a journal disk, in service or out.
    pub journal: bool,
}

/// The journal of an array that has, or had, disks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalStatus {
    /// Journal disks in service.
    pub disks: usize,
    /// Journal disks that it takes.
    pub wanted: usize,
    /// Too few are left: the ring is on the members.
    pub on_members: bool,
    /// Records may have one copy too few because journal disks went, until they are in place.
    pub draining: bool,
}

/// Room for records in a journal that runs. Bytes of records and what they take in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalRoom {
    /// What is admitted and not trimmed yet.
    pub used_bytes: u64,
    /// What may be admitted. Writes wait where it is all used.
    pub total_bytes: u64,
}

/// What goes on in the background.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncAction {
    /// Slots without a member.
    Rebuild,
    /// A member's slot, for a replacement.
    Replace,
    /// Everything that was written is read and compared.
    Scrub,
    /// Members that were away get what they missed.
    CatchUp,
}

/// Progress of filling or of a scrub. Bytes are data bytes of written rows; of those to be copied, for a
/// catch-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncStatus {
    /// What is done.
    pub action: SyncAction,
    /// Done so far.
    pub done_bytes: u64,
    /// To do in all.
    pub total_bytes: u64,
    /// Seconds left at the present pace; `None` while that is unknown.
    pub eta_seconds: Option<u64>,
    /// Present pace.
    pub bytes_per_second: u64,
}

/// Space of the array. Data bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceStatus {
    /// All extents.
    pub total_bytes: u64,
    /// Extents not mapped.
    pub free_bytes: u64,
    /// Rows written.
    pub written_bytes: u64,
    /// Sum of the volumes' sizes.
    pub promised_bytes: u64,
    /// One extent.
    pub extent_bytes: u64,
}

/// An array, described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArrayStatus {
    /// Name.
    pub name: String,
    /// Identity.
    pub uuid: Uuid,
    /// Level.
    pub level: Level,
    /// Slots.
    pub members_total: usize,
    /// Chunk.
    pub chunk_bytes: u64,
    /// Data bytes of a row.
    pub row_bytes: u64,
    /// Data bytes in all.
    pub size_bytes: u64,
    /// In one word.
    pub state: ArrayState,
    /// Further member failures that would be survived.
    pub redundancy_left: usize,
    /// Bytes that a disk must have to become a member.
    pub member_bytes_min: u64,
    /// Members, spares and failed disks.
    pub members: Vec<MemberStatus>,
    /// A rebuild or replacement in progress.
    pub sync: Option<SyncStatus>,
    /// Space.
    pub space: SpaceStatus,
    /// Whether the labels say that parity matches.
    pub clean: bool,
    /// Blocks carry no checksums.
    pub no_integrity: bool,
    /// Acks follow the writes in place: there is no journal.
    pub no_journal: bool,
    /// The journal, if it has disks of its own.
    pub journal: Option<JournalStatus>,
    /// Room in the journal; `None`: there is none.
    pub journal_room: Option<JournalRoom>,
    /// Memory of its caches.
    pub memory: MemoryStatus,
    /// Membership changes so far.
    pub event_count: u64,
    /// When it was created, in ms since 1970.
    pub created_ms: u64,
    /// Blocks that are lost here: the first runs.
    pub bad_blocks: Vec<BadBlock>,
    /// Blocks that are lost here, in all.
    pub bad_blocks_total: u64,
    /// What is kept of the scrub.
    pub scrub: ScrubRecord,
    /// A scrub under way, paused or held.
    pub scrubbing: Option<SyncStatus>,
    /// Why writes fail, if they do.
    pub failure: Option<String>,
    /// Why nothing is written to any disk, if so.
    pub read_only: Option<String>,
}

impl Array {
    /// Describes the array as it is now.
    pub fn status(self: &Rc<Self>) -> ArrayStatus {
        let ledger = self.ledger.borrow();
        let label = ledger.label();
        let joining = self.sync.joining();
        let missing = ledger.slots_missing() + joining;
        let filling = ledger.slots().iter().any(|slot| {
            slot.member.is_none() && slot.target.as_ref().is_some_and(|target| !target.out.get())
        });
        let failure = self.broken.borrow().clone();
        let state = match (missing, &failure) {
            (_, Some(_)) => ArrayState::Incomplete,
            (0, None) => ArrayState::Clean,
            _ if filling || joining > 0 => ArrayState::Rebuilding,
            _ => ArrayState::Degraded,
        };
        let members = label.table.iter().map(|entry| {
            let disk = ledger.disk(entry.uuid);
            // One that is absent stays in sync in the labels of an array that is read only.
            let absent = disk.is_none() && entry.state == MemberState::InSync;
            let out = absent || disk.as_ref().is_some_and(|disk| disk.out.get());
            MemberStatus {
                uuid: entry.uuid,
                path: ledger
                    .path(entry.uuid)
                    .map_or_else(String::new, |path| path.to_string()),
                slot: entry.slot,
                state: if out {
                    MemberState::Failed
                } else {
                    entry.state
                },
                size_bytes: entry.disk_bytes,
                errors: disk.map_or(ErrorCounts::default(), |disk| disk.errors()),
                journal: entry.journal,
            }
        });
        let space = self.space.borrow();
        let extent_bytes = space.extent_bytes();
        let total_bytes = space.extents_total() * extent_bytes;
        ArrayStatus {
            name: self.name.to_string(),
            uuid: self.uuid,
            level: self.geometry.level(),
            members_total: self.geometry.members(),
            chunk_bytes: self.geometry.chunk_bytes(),
            row_bytes: self.geometry.row_bytes(),
            size_bytes: total_bytes,
            state,
            redundancy_left: self.geometry.redundancy().saturating_sub(missing),
            member_bytes_min: self.member_bytes_min(),
            members: members.collect(),
            sync: self.sync_status(),
            space: SpaceStatus {
                total_bytes,
                free_bytes: space.extents_free() * extent_bytes,
                written_bytes: space.rows_written() * self.geometry.row_bytes(),
                promised_bytes: space.volumes().map(|(_, volume)| volume.size_bytes).sum(),
                extent_bytes,
            },
            clean: !self.dirty.get(),
            no_integrity: label.incompat & crate::label::INCOMPAT_NO_INTEGRITY != 0,
            no_journal: !label.has_journal(),
            journal: self.journal_status(&ledger),
            journal_room: self.journal().map(|journal| JournalRoom {
                used_bytes: journal.admitted_bytes(),
                total_bytes: journal.admits_bytes(),
            }),
            memory: self.memory_status(),
            event_count: label.event_count,
            created_ms: label.created_ms,
            bad_blocks: self.bad_blocks(),
            bad_blocks_total: self.defects.borrow().total(),
            scrub: self.shown_scrub(),
            scrubbing: self.scrub_status(),
            failure,
            read_only: self.read_only.borrow().clone(),
        }
    }

    /// Rows that were written, in order: for audits.
    pub fn written_rows(&self) -> Vec<crate::Row> {
        let space = self.space.borrow();
        let mut rows = Vec::new();
        let mut at = crate::Row(0);
        while let Some(row) = space.next_written(at) {
            rows.push(row);
            at = crate::Row(row.0 + 1);
        }
        rows
    }

    /// First byte of a member's data zone, by its path: for audits and tools.
    pub fn data_offset(&self, path: &str) -> Option<u64> {
        let ledger = self.ledger.borrow();
        let disk = ledger.disk(ledger.find(path)?)?;
        let layout = disk.layout.get().filter(|_| !disk.ring_only.get());
        layout.map(|layout| layout.data_offset())
    }
}
