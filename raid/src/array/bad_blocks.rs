//! The bad-block list on the members: loaded at the start, saved by whoever changes it, shown.
//!
//! Every member that takes part, and every disk that is being filled, holds the whole list in its
//! zone, in two slots by generation. The highest generation that is whole on any member in sync wins.
//!
//! Invariant: a slot is written after a flush of everything before it, the other slot included.

use std::rc::Rc;

use cairn_blockdev::units::{BLOCK, BLOCK_BYTES, u64_of};
use cairn_blockdev::{Buf, IoErrorKind, WriteFlags};
use futures_util::future::join_all;

use super::Array;
use super::disk::Disk;
use super::flights::Patience;
use crate::defects::{
    Defect, Defects, DefectsError, Place, Reason, ScrubRecord, bytes_needed, slot_offset,
};
use crate::error::RaidError;
use crate::geometry::Role;
use crate::label::ArrayLabel;
use crate::layout::ZoneKind;

/// Runs of bad blocks that a status shows; the rest is counted.
const SHOWN_MAX: usize = 256;

/// A run of bad blocks of one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadBlock {
    /// Where the member is; empty if it is missing.
    pub path: String,
    /// Its slot.
    pub slot: usize,
    /// The row.
    pub row: u64,
    /// First byte on the disk; 0 if the member is missing.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// Why.
    pub reason: Reason,
    /// Since when, in ms since 1970.
    pub since_ms: u64,
    /// The volume whose data is lost, and where in it; `None` for parity, and where no volume is.
    pub volume: Option<(String, u64)>,
}

/// What the members say.
pub(super) struct Loaded {
    pub(super) defects: Defects,
    /// Members had lists and none was whole: what was known is lost.
    pub(super) lost: bool,
    /// Members without the newest list.
    pub(super) behind: Vec<Rc<Disk>>,
}

/// The newest whole list among the members in sync.
pub(super) async fn load_defects(
    label: &ArrayLabel,
    in_sync: &[Rc<Disk>],
) -> Result<Loaded, RaidError> {
    let slots = in_sync
        .iter()
        .flat_map(|disk| [0, 1].map(|generation| (disk, generation)));
    let lists = join_all(slots.map(|(disk, generation)| read_list(disk, label, generation))).await;
    let mut best: Option<Defects> = None;
    let mut damaged = false;
    for list in &lists {
        match list {
            Ok(list)
                if best
                    .as_ref()
                    .is_none_or(|b| list.generation() > b.generation()) =>
            {
                best = Some(list.clone());
            }
            Ok(_) | Err(DefectsError::Blank) => {}
            Err(DefectsError::Damaged) => damaged = true,
            Err(error @ DefectsError::Version(_)) => {
                return Err(RaidError::Format {
                    disk: in_sync
                        .first()
                        .map_or_else(String::new, |disk| disk.path.to_string()),
                    reason: error.to_string(),
                });
            }
        }
    }
    let lost = damaged && best.is_none();
    let defects = best.unwrap_or_else(|| Defects::new(label.uuid));
    let newest = defects.generation();
    let has_it = |lists: &[Result<Defects, DefectsError>]| {
        let mut whole = lists.iter().flatten();
        whole.any(|list| list.generation() == newest)
    };
    let mut behind = Vec::new();
    if newest > 0 {
        let of_disks = in_sync.iter().zip(lists.chunks(2));
        let lacking = of_disks.filter(|(_, lists)| !has_it(lists));
        behind.extend(lacking.map(|(disk, _)| Rc::clone(disk)));
    }
    Ok(Loaded {
        defects,
        lost,
        behind,
    })
}

async fn read_list(
    disk: &Disk,
    label: &ArrayLabel,
    generation: u64,
) -> Result<Defects, DefectsError> {
    let zone = disk.layout.get().unwrap_or_default();
    let offset = zone.zone(ZoneKind::BadBlocks).offset + slot_offset(generation);
    let read = async |len: usize| {
        let (buf, result) = disk
            .read_at(offset, Buf::zeroed(len), Patience::Eject)
            .await;
        result.map(|()| buf).map_err(|_| DefectsError::Damaged)
    };
    let first = read(BLOCK_BYTES).await?;
    let len = bytes_needed(&first)?;
    let whole = if len > first.len() {
        read(len).await?
    } else {
        first
    };
    let list = Defects::decode(&whole, label.uuid)?;
    let geometry = &label.geometry;
    let inside = |place: Place| {
        place.slot.0 < geometry.members()
            && u64::from(place.col) < geometry.chunk_blocks()
            && place.row.0 < label.data_bytes / geometry.chunk_bytes()
    };
    if list.list().all(|(place, _)| inside(place)) {
        Ok(list)
    } else {
        Err(DefectsError::Damaged)
    }
}

impl Array {
    /// Puts the bad-block list, if it changed, on every member. Durable after the next flush.
    pub(crate) async fn save_defects(self: &Rc<Self>) -> Result<(), IoErrorKind> {
        if self.is_read_only() {
            return Err(IoErrorKind::ReadOnly);
        }
        self.defect_saves
            .pass(&self.env.spawn, || {
                let array = Rc::clone(self);
                Box::pin(array.write_defects())
            })
            .await;
        self.settle().await;
        self.check_alive()
    }

    async fn write_defects(self: Rc<Self>) {
        let Some((generation, bytes)) = self.defects.borrow_mut().take_dirty() else {
            return;
        };
        // What left the list did so for a record: where that isn't durable, the zeros that stand for the
        // block would be read for its contents.
        if let Some(journal) = self.journal() {
            let logged = journal.logged_below(journal.next()).await;
            if logged.is_err() {
                return;
            }
        }
        self.clone().flush_disks().await;
        let disks = self.ledger.borrow().with_data();
        self.write_list(&disks, generation, &bytes).await;
        self.list_written.set(generation);
    }

    /// Gives members the newest list, as it is. It is durable before a newer one is written: a flush comes
    /// first then.
    pub(super) async fn bring_lists_level(self: &Rc<Self>, behind: &[Rc<Disk>]) {
        let disks = behind.iter().filter(|disk| !disk.out.get());
        let disks: Vec<Rc<Disk>> = disks.map(Rc::clone).collect();
        if !disks.is_empty() {
            let (generation, bytes) = self.defects.borrow().saved();
            self.write_list(&disks, generation, &bytes).await;
        }
    }

    async fn write_list(self: &Rc<Self>, disks: &[Rc<Disk>], generation: u64, bytes: &[u8]) {
        let bytes = Buf::copy_of(bytes).freeze();
        let writes = disks.iter().map(|disk| {
            let zone = disk.layout.get().unwrap_or_default();
            let offset = zone.zone(ZoneKind::BadBlocks).offset + slot_offset(generation);
            disk.write_at(offset, bytes.clone(), WriteFlags::default())
        });
        for (disk, result) in disks.iter().zip(join_all(writes).await) {
            if let Err(error) = result {
                self.write_failed(disk, &error).await;
            }
        }
    }

    /// The record of the scrub.
    pub fn scrub_record(&self) -> ScrubRecord {
        self.defects.borrow().scrub()
    }

    /// The first runs of bad blocks.
    pub(super) fn bad_blocks(&self) -> Vec<BadBlock> {
        let mut runs: Vec<BadBlock> = Vec::new();
        // By member, so that neighbours follow each other.
        let defects = self.defects.borrow();
        let mut places: Vec<(Place, Defect)> = defects.list().take(SHOWN_MAX * 16).collect();
        places.sort_by_key(|(place, _)| (place.row, place.slot, place.col));
        for (place, defect) in places {
            let new = self.describe(place, defect);
            let full = runs.len() == SHOWN_MAX;
            match runs.last_mut() {
                Some(last) if continues(last, &new) => last.len += new.len,
                _ if full => break,
                _ => runs.push(new),
            }
        }
        runs
    }

    fn describe(&self, place: Place, defect: Defect) -> BadBlock {
        let in_chunk = u64::from(place.col) * BLOCK;
        let ledger = self.ledger.borrow();
        let member = ledger
            .slots()
            .get(place.slot.0)
            .and_then(|slot| slot.member.clone());
        let data = member
            .as_ref()
            .and_then(|disk| disk.layout.get())
            .map(|layout| layout.data_offset());
        let chunk = self.geometry.chunk_bytes();
        BadBlock {
            path: member.map_or_else(String::new, |disk| disk.path.to_string()),
            slot: place.slot.0,
            row: place.row.0,
            offset: data.map_or(0, |data| data + place.row.0 * chunk + in_chunk),
            len: BLOCK,
            reason: defect.reason,
            since_ms: defect.since_ms,
            volume: self.volume_at(place),
        }
    }

    /// The volume that a block holds data of, and where.
    fn volume_at(&self, place: Place) -> Option<(String, u64)> {
        let index = match self.geometry.role(place.row, place.slot) {
            Role::Data(index) => u64_of(index),
            Role::P | Role::Q => return None,
        };
        let in_row = index * self.geometry.chunk_bytes() + u64::from(place.col) * BLOCK;
        let space = self.space.borrow();
        let address = place.row.0 * self.geometry.row_bytes() + in_row;
        let (volume, offset) = space.volume_at(address)?;
        Some((volume.name.clone(), offset))
    }
}

/// Whether `new` goes on where `last` ends.
fn continues(last: &BadBlock, new: &BadBlock) -> bool {
    let follows = |a: u64, b: u64| a + last.len == b;
    (last.slot, last.row, last.reason) == (new.slot, new.row, new.reason)
        && last.offset > 0
        && follows(last.offset, new.offset)
        && match (&last.volume, &new.volume) {
            (Some((a, at)), Some((b, then))) => a == b && follows(*at, *then),
            (None, None) => true,
            _ => false,
        }
}

#[cfg(test)]
mod tests;
