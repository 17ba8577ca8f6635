//! What an array tells its host: events by mdadm's names, and the event witness.

use std::fmt;
use std::rc::Rc;

use cairn_blockdev::LocalFuture;
use uuid::Uuid;

use crate::member::MemberState;
use crate::memory::MemoryShare;

/// The kinds, named in mdadm's manner where mdadm has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// The array was created.
    NewArray,
    /// The array was assembled and serves.
    Started,
    /// The array was stopped cleanly.
    DeviceDisappeared,
    /// The array lost redundancy.
    DegradedArray,
    /// More members are gone than the level survives.
    ArrayFailed,
    /// A member failed or was failed.
    Fail,
    /// A spare, or a disk that was being filled, failed.
    FailSpare,
    /// A spare was added.
    SpareAdded,
    /// A disk left the array.
    DiskRemoved,
    /// A spare or replacement became a member.
    SpareActive,
    /// A rebuild or replacement began, or went on after a restart.
    RebuildStarted,
    /// So many per cent are rebuilt.
    Rebuild(u8),
    /// A rebuild or replacement is complete.
    RebuildFinished,
    /// A member came back that can't be caught up.
    MemberStale,
    /// It isn't known any more what an absent member missed.
    MissedMapLost,
    /// A rebuild can't go on.
    RebuildStopped,
    /// A scrub began, or goes on.
    ScrubStarted,
    /// A scrub was paused, or held until its next window.
    ScrubPaused,
    /// A scrub was ended before its end.
    ScrubStopped,
    /// A scrub came to its end.
    ScrubFinished,
    /// Blocks that should agree don't, and nothing says which is wrong.
    Mismatch,
    /// Parity is recomputed after an unclean stop.
    ResyncStarted,
    /// Parity matches the data again.
    ResyncFinished,
    /// A block that couldn't be read was rewritten from the others.
    Repaired,
    /// A disk gave errors.
    DiskError,
    /// Blocks are lost, or the list of them is.
    BadBlock,
    /// A disk is slow to answer; reads go around it.
    DiskSlow,
    /// A disk that was slow, or thrown out for not answering, has answered.
    DiskAnswers,
    /// The event witness couldn't be written.
    WitnessFailed,
    /// Logged data can't be put in place yet.
    ApplyStuck,
    /// The journal was replayed after an unclean stop.
    JournalReplayed,
    /// Too few journal disks are left: the journal is on the members.
    JournalOnMembers,
    /// A journal disk entered service.
    JournalDiskActive,
    /// It was started with `--force`: what may be lost.
    Forced,
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rebuild(percent) => write!(f, "Rebuild{percent:02}"),
            other => write!(f, "{other:?}"),
        }
    }
}

/// Something that happened to an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArrayEvent {
    /// What.
    pub kind: EventKind,
    /// The array's name.
    pub array: String,
    /// The disk's path, where one is concerned.
    pub disk: Option<String>,
    /// A sentence for people.
    pub detail: String,
}

/// Takes events. Must not block.
pub trait EventSink {
    /// Notes an event.
    fn event(&self, event: ArrayEvent);
}

/// What the host remembers of an array beside its disks: who was in sync at which event count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    /// The array.
    pub array: Uuid,
    /// Its event count.
    pub event_count: u64,
    /// Disks and their states.
    pub members: Vec<(Uuid, MemberState)>,
}

/// Keeps the witness durably.
pub trait WitnessStore {
    /// Durable on completion. After an error the one before may still be there.
    fn record(&self, witness: Witness) -> LocalFuture<Result<(), String>>;

    /// Forgets what was recorded of an array, durably on completion.
    fn forget(&self, array: Uuid) -> LocalFuture<Result<(), String>> {
        Box::pin(std::future::ready(Err(format!(
            "what is recorded of array {array} can't be forgotten here"
        ))))
    }
}

/// What an array needs of its host.
#[derive(Clone)]
pub struct Hooks {
    /// Takes events.
    pub events: Rc<dyn EventSink>,
    /// Keeps the witness.
    pub witness: Rc<dyn WitnessStore>,
    /// Memory that it may take; [`Array::set_memory`](crate::Array::set_memory) changes it.
    pub memory: MemoryShare,
}

const WITNESS_MAGIC: &[u8; 8] = b"CAIRNWIT";
const WITNESS_VERSION: u32 = 1;
const WITNESS_HEAD: usize = 8 + 4 + 4 + 16 + 8;
const WITNESS_ENTRY: usize = 16 + 1;

impl Witness {
    /// The file's contents:
    /// `magic 8 | version 4 | members 4 | array 16 | event count 8 | (uuid 16, state 1)… | crc32c 4`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let count = cairn_blockdev::units::u32_of(self.members.len());
        let mut bytes = Vec::with_capacity(WITNESS_HEAD + self.members.len() * WITNESS_ENTRY + 4);
        bytes.extend_from_slice(WITNESS_MAGIC);
        bytes.extend_from_slice(&WITNESS_VERSION.to_le_bytes());
        bytes.extend_from_slice(&count.to_le_bytes());
        bytes.extend_from_slice(self.array.as_bytes());
        bytes.extend_from_slice(&self.event_count.to_le_bytes());
        for (uuid, state) in &self.members {
            bytes.extend_from_slice(uuid.as_bytes());
            bytes.push(state.code());
        }
        bytes.extend_from_slice(&cairn_blockdev::crc::crc32c(&bytes).to_le_bytes());
        bytes
    }

    /// Decodes a file's contents. `None`: damaged, or of another version.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        if cairn_blockdev::crc::crc32c(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        let (magic, rest) = body.split_first_chunk::<8>()?;
        let (version, rest) = rest.split_first_chunk::<4>()?;
        let (count, rest) = rest.split_first_chunk::<4>()?;
        let (array, rest) = rest.split_first_chunk::<16>()?;
        let (event_count, rest) = rest.split_first_chunk::<8>()?;
        if magic != WITNESS_MAGIC || u32::from_le_bytes(*version) != WITNESS_VERSION {
            return None;
        }
        let members: Option<Vec<_>> = rest
            .chunks(WITNESS_ENTRY)
            .map(|entry| {
                let (uuid, state) = entry.split_first_chunk::<16>()?;
                let state = MemberState::from_code(*state.first()?)?;
                Some((Uuid::from_bytes(*uuid), state))
            })
            .collect();
        let members = members?;
        let counted = u32::try_from(members.len()).ok() == Some(u32::from_le_bytes(*count));
        counted.then_some(Self {
            array: Uuid::from_bytes(*array),
            event_count: u64::from_le_bytes(*event_count),
            members,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_witness_comes_back_and_a_damaged_one_does_not() {
        let witness = Witness {
            array: Uuid::from_bytes([1; 16]),
            event_count: 42,
            members: vec![
                (Uuid::from_bytes([2; 16]), MemberState::InSync),
                (Uuid::from_bytes([3; 16]), MemberState::Failed),
            ],
        };
        let bytes = witness.to_bytes();
        assert_eq!(Witness::from_bytes(&bytes), Some(witness));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert_eq!(Witness::from_bytes(&bad), None, "byte {at}");
        }
    }

    #[test]
    fn the_witness_of_version_1_is_read_for_ever() {
        let witness = Witness {
            array: Uuid::from_bytes([1; 16]),
            event_count: 42,
            members: vec![
                (Uuid::from_bytes([2; 16]), MemberState::InSync),
                (Uuid::from_bytes([3; 16]), MemberState::Failed),
            ],
        };
        let golden = include_bytes!("../tests/golden/witness-v1.bin");
        assert_eq!(Witness::from_bytes(golden), Some(witness.clone()));
        assert_eq!(
            witness.to_bytes(),
            golden,
            "the encoding of version 1 changed"
        );
    }

    #[test]
    fn a_witness_of_another_version_is_refused_though_its_sum_is_right() {
        let of_version = |version: u8| {
            let mut bytes = include_bytes!("../tests/golden/witness-v1.bin").to_vec();
            bytes[8] = version;
            let (body, crc) = bytes.split_last_chunk_mut::<4>().unwrap();
            *crc = cairn_blockdev::crc::crc32c(body).to_le_bytes();
            bytes
        };
        assert!(Witness::from_bytes(&of_version(1)).is_some());
        assert_eq!(Witness::from_bytes(&of_version(0)), None);
        assert_eq!(Witness::from_bytes(&of_version(2)), None);
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Witness::from_bytes(&bytes);
        }
    }
}
