//! What a scrub looks at beside the data: labels and maps, on every member.
//!
//! Both have more than one copy, so that a damaged one is written again from what is in memory.

use std::rc::Rc;

use cairn_blockdev::units::{BLOCK_BYTES, u64_of};
use cairn_blockdev::{Buf, IoErrorKind};
use futures_util::future::join_all;
use tokio::sync::MutexGuard;

use super::Array;
use super::assemble::newest_copy;
use super::create::read_map_slots;
use super::disk::Disk;
use super::flights::Patience;
use crate::events::EventKind;
use crate::label::Label;
use crate::layout::{LABEL_A, LABEL_B, label_copy};

impl Array {
    /// Looks at the labels of every member and journal disk and at the maps of every member, and mends what is damaged. Gives how many copies
    /// that were.
    pub(crate) async fn check_zones(self: &Rc<Self>) -> Result<u64, IoErrorKind> {
        Ok(self.check_labels().await? + self.check_maps().await?)
    }

    async fn check_labels(self: &Rc<Self>) -> Result<u64, IoErrorKind> {
        // Nobody writes labels meanwhile.
        let held = self.lock_labels().await;
        let generation = self.ledger.borrow().label().generation;
        let disks = self.with_rings();
        let looks = disks.iter().map(|disk| damaged_labels(disk, generation));
        let mut damaged = 0;
        for (disk, count) in disks.iter().zip(join_all(looks).await) {
            if count > 0 {
                damaged += count;
                disk.count(|errors| errors.corruption += count);
                let detail = format!("{count} of its labels were damaged; written again");
                self.report(EventKind::Repaired, Some(&disk.path), detail);
            }
        }
        if damaged > 0 {
            self.rewrite_labels(&held).await?;
        }
        Ok(damaged)
    }

    /// Twice, so that both slots are new.
    async fn rewrite_labels(self: &Rc<Self>, held: &MutexGuard<'_, ()>) -> Result<(), IoErrorKind> {
        for _ in 0..2 {
            self.commit(held).await.map_err(|_| IoErrorKind::Lost)?;
        }
        Ok(())
    }

    async fn check_maps(self: &Rc<Self>) -> Result<u64, IoErrorKind> {
        let (pages, generations) = {
            let space = self.space.borrow();
            let pages = space.pages();
            let generations: Vec<u64> = (0..pages).map(|page| space.generation(page)).collect();
            (pages, generations)
        };
        // After one that started now, all of these are on the members, and newer ones may be.
        self.checkpoint().await?;
        let mut damaged = 0;
        for disk in self.in_sync() {
            let slots = read_map_slots(&disk, pages).await;
            let mut count = 0;
            for ((page, copies), generation) in slots.into_iter().enumerate().zip(&generations) {
                let newest = newest_copy(copies, self.uuid, page);
                let newest = newest.ok().flatten().map(|(generation, _)| generation);
                count += u64::from(newest < Some(*generation));
            }
            if count > 0 {
                damaged += count;
                disk.count(|errors| errors.corruption += count);
                let detail = format!("{count} pages of its map were damaged; written again");
                self.report(EventKind::Repaired, Some(&disk.path), detail);
            }
        }
        if damaged > 0 {
            self.space.borrow_mut().touch_all();
            self.checkpoint().await?;
            self.flush_all().await?;
        }
        Ok(damaged)
    }
}

/// How many of a disk's three labels aren't what they should be.
async fn damaged_labels(disk: &Rc<Disk>, generation: u64) -> u64 {
    let newest_in_a = generation.is_multiple_of(2);
    let places = [
        (LABEL_A, newest_in_a),
        (LABEL_B, !newest_in_a),
        (label_copy(disk.size), true),
    ];
    let looks = places.map(|(offset, is_newest)| async move {
        if !is_newest && generation < 2 {
            // The other slot was never written.
            return false;
        }
        let buf = Buf::zeroed(BLOCK_BYTES);
        let (buf, result) = disk.read_at(offset, buf, Patience::Eject).await;
        let label = result.ok().and_then(|()| Label::decode(&buf).ok());
        let right = label.is_some_and(|label| {
            label.member_uuid == disk.uuid && (label.array.generation == generation || !is_newest)
        });
        !right
    });
    let damaged = join_all(looks).await;
    u64_of(damaged.into_iter().filter(|damaged| *damaged).count())
}
