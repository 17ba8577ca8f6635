//! What the labels of a disk say: the best of its three, or why there is none.
//!
//! Invariants
//! - A label of a later version counts, whatever the others of the disk say: that version may have
//!   written since what this one would misread.
//! - What can't be read at all is an error, never a blank disk.

use cairn_blockdev::{BlockDevice, Buf, IoError};
use futures_util::future::LocalBoxFuture;
use uuid::Uuid;

use crate::error::RaidError;
use crate::host_spare::{self, HostSpare};
use crate::label::{ArrayLabel, INCOMPAT_HOST_SPARE, Label, LabelError};
use crate::layout::{LABEL_A, LABEL_B, label_copy};
use crate::member::MemberState;

/// What a disk's label says, for grouping disks to arrays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The array.
    pub array_uuid: Uuid,
    /// Its name.
    pub array_name: String,
    /// The disk.
    pub member_uuid: Uuid,
    /// The host that starts the array.
    pub home_host: Uuid,
    /// Event count of this label.
    pub event_count: u64,
    /// What the disk thinks that it is.
    pub state: Option<MemberState>,
    /// Disks that the label lists as taking part.
    pub members_listed: usize,
}

/// What was found where labels are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// No label.
    Blank,
    /// A label.
    Member(Identity),
    /// The label of a disk in a host's pool of spares.
    HostSpare(HostSpare),
    /// Something that was a label, or is one that this version can't use.
    Damaged(String),
}

/// Why a disk has no label to go by.
pub(super) enum NoLabel {
    Label(LabelError),
    /// None of the places could be read.
    Io(IoError),
}

impl std::fmt::Display for NoLabel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Label(error) => error.fmt(f),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl NoLabel {
    /// A later version's. It counts whatever an older slot still says: that version may have written
    /// since what this one would misread.
    fn is_from_the_future(&self) -> bool {
        match self {
            Self::Label(LabelError::Version(_)) => true,
            // A disk of a host's pool, or of one that was: this version knows what that means.
            Self::Label(LabelError::Incompat(bits)) => bits & !INCOMPAT_HOST_SPARE != 0,
            Self::Label(_) | Self::Io(_) => false,
        }
    }
}

/// Reads the best label of a disk.
pub(super) async fn best_label(device: &dyn BlockDevice) -> Result<Label, NoLabel> {
    let size = device.geometry().size;
    let mut best: Result<Label, NoLabel> = Err(NoLabel::Label(LabelError::Absent));
    for offset in [LABEL_A, LABEL_B, label_copy(size)] {
        if offset + cairn_blockdev::units::BLOCK > size {
            continue;
        }
        let buf = Buf::zeroed(cairn_blockdev::units::BLOCK_BYTES);
        let found = match device.read(offset, buf).await {
            (buf, Ok(())) => Label::decode(&buf).map_err(NoLabel::Label),
            (_, Err(error)) => Err(NoLabel::Io(error)),
        };
        best = match (best, found) {
            (Err(future), _) | (_, Err(future)) if future.is_from_the_future() => Err(future),
            (Ok(old), Ok(new)) => Ok(if rank(&new.array) > rank(&old.array) {
                new
            } else {
                old
            }),
            (Ok(old), Err(_)) => Ok(old),
            (Err(_), Ok(new)) => Ok(new),
            // What is there and damaged says more than what can't be read, and that more than a blank.
            (Err(NoLabel::Label(LabelError::Absent)), Err(new)) => Err(new),
            (Err(NoLabel::Io(_)), Err(new @ NoLabel::Label(_)))
                if !matches!(new, NoLabel::Label(LabelError::Absent)) =>
            {
                Err(new)
            }
            (Err(old), Err(_)) => Err(old),
        };
    }
    best
}

pub(super) fn rank(label: &ArrayLabel) -> (u64, u64) {
    (label.event_count, label.generation)
}

/// The best label of a disk that must have one.
pub(super) async fn read_label(device: &dyn BlockDevice, path: &str) -> Result<Label, RaidError> {
    best_label(device).await.map_err(|error| match error {
        NoLabel::Io(error) => error.into(),
        NoLabel::Label(error) => RaidError::Format {
            disk: path.to_owned(),
            reason: error.to_string(),
        },
    })
}

/// Looks for a label. A disk that can't be read at all is an error, not a damaged label.
pub fn probe(device: &dyn BlockDevice) -> LocalBoxFuture<'_, Result<Probe, RaidError>> {
    Box::pin(async move {
        Ok(match best_label(device).await {
            Ok(label) => Probe::Member(Identity {
                array_uuid: label.array.uuid,
                array_name: label.array.name.clone(),
                member_uuid: label.member_uuid,
                home_host: label.array.home_host,
                event_count: label.array.event_count,
                state: label
                    .array
                    .entry(label.member_uuid)
                    .map(|entry| entry.state),
                members_listed: label
                    .array
                    .table
                    .iter()
                    .filter(|e| e.state.holds_slot())
                    .count(),
            }),
            Err(NoLabel::Label(LabelError::Absent)) => Probe::Blank,
            // Also beside a member's label that is torn: it didn't get to the disk.
            Err(NoLabel::Label(error)) => match host_spare::read(device).await? {
                Some(spare) => Probe::HostSpare(spare),
                None => Probe::Damaged(error.to_string()),
            },
            Err(NoLabel::Io(error)) => return Err(error.into()),
        })
    })
}

#[cfg(test)]
mod tests {
    use cairn_blockdev::WriteFlags;
    use cairn_blockdev::sim::{Sim, SimDisk, SimDiskConfig};

    use super::*;
    use crate::label::tests::sample;

    const SIZE: u64 = 64 << 20;

    /// A disk with these labels in its three places.
    fn disk(labels: [&[u8]; 3]) -> (Sim, SimDisk) {
        let sim = Sim::new(1);
        let config = SimDiskConfig {
            size: SIZE,
            logical_block: 512,
            latency_us_max: 100,
        };
        let disk = SimDisk::new("/dev/sim", config, &sim.env(), 1);
        for (place, label) in [LABEL_A, LABEL_B, label_copy(SIZE)].into_iter().zip(labels) {
            let bytes = Buf::copy_of(label).freeze();
            let write = disk.write(place, bytes, WriteFlags::default());
            sim.block_on(write).unwrap();
        }
        (sim, disk)
    }

    #[test]
    fn o4_a_label_with_an_unknown_feature_counts_wherever_it_is() {
        let old = sample().encode();
        let mut label = sample();
        label.array.incompat |= 1 << 40;
        let new = label.encode();
        for labels in [[&new, &old, &old], [&old, &new, &old], [&old, &old, &new]] {
            let (sim, disk) = disk(labels.map(|label| &label[..]));
            match sim.block_on(probe(&disk)).unwrap() {
                Probe::Damaged(why) => assert!(why.contains("feature"), "{why}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn o4_a_label_of_a_later_version_counts_also_beside_torn_ones() {
        let old = sample().encode();
        let mut new = old.to_vec();
        new[8] += 1;
        let end = new.len() - 4;
        let sum = crate::label::sum(&new);
        new[end..].copy_from_slice(&sum.to_le_bytes());
        let (sim, disk) = disk([&old, &new, &[0xA5; 4096]]);
        let probed = sim.block_on(probe(&disk)).unwrap();
        assert!(matches!(probed, Probe::Damaged(_)), "{probed:?}");
    }

    #[test]
    fn a_torn_label_and_one_of_a_pool_leave_the_members_label() {
        let member = sample().encode();
        let (sim, disk) = disk([&[0xA5; 4096], &member, &[0; 4096]]);
        let probed = sim.block_on(probe(&disk)).unwrap();
        assert!(matches!(probed, Probe::Member(_)), "{probed:?}");
    }
}
