//! A group of records and the disks that have it.
//!
//! Does not know: how many are enough, what is in the group.

use std::rc::Rc;

use cairn_blockdev::units::usize_of;
use cairn_blockdev::{Buf, SharedBuf};
use uuid::Uuid;

use super::entry::Seq;
use super::group::{Head, decode, payload_is_intact};
use crate::array::disk::Disk;
use crate::array::flights::Patience;

/// Where the bytes of a group lie.
#[derive(Clone)]
pub(crate) struct Copies {
    /// What every copy says of itself.
    pub(crate) head: Head,
    pub(crate) last: Seq,
    pub(crate) len: u64,
    /// Who has it, and its first byte there. A disk may have it twice.
    pub(crate) on: Vec<(Rc<Disk>, u64)>,
}

impl Copies {
    /// Disks that have it and of which `counts` is true: journal disks, and members.
    pub(crate) fn count(&self, counts: impl Fn(&Disk) -> bool) -> (usize, usize) {
        let mut disks: Vec<&Rc<Disk>> = self.on.iter().map(|(disk, _)| disk).collect();
        disks.retain(|disk| counts(disk));
        disks.sort_unstable_by_key(|disk| disk.uuid);
        disks.dedup_by_key(|disk| disk.uuid);
        let own = disks.iter().filter(|disk| disk.ring_only.get()).count();
        (own, disks.len() - own)
    }

    /// Whether the disk has it.
    pub(crate) fn has(&self, disk: Uuid) -> bool {
        self.on.iter().any(|(other, _)| other.uuid == disk)
    }

    /// Its bytes, from the first copy that still is what it was.
    pub(crate) async fn read(&self) -> Option<SharedBuf> {
        // A disk that is slow only if no other has them.
        match self.read_promptly().await {
            Some(bytes) => Some(bytes),
            None => self.read_with(Patience::Eject).await,
        }
    }

    /// The same; no disk is waited for.
    pub(crate) async fn read_promptly(&self) -> Option<SharedBuf> {
        self.read_with(Patience::Reconstruct).await
    }

    async fn read_with(&self, patience: Patience) -> Option<SharedBuf> {
        for (disk, at) in &self.on {
            let waits = patience == Patience::Eject;
            if disk.out.get() || (disk.is_slow() && !waits) {
                continue;
            }
            let buf = Buf::zeroed(usize_of(self.len));
            let (buf, result) = disk.read_at(*at, buf, patience).await;
            let whole = decode(&buf).is_ok_and(|group| {
                if (group.head, group.last()) != (self.head, self.last) {
                    // A lost write left an older group there.
                    return false;
                }
                let payload = buf.get(group.descriptor_len..).unwrap_or_default();
                let payload = payload.get(..group.payload_len);
                payload.is_some_and(|bytes| payload_is_intact(&group, bytes))
            });
            if result.is_ok() && whole {
                return Some(buf.freeze());
            }
        }
        None
    }
}
