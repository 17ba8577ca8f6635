//! What members miss while they are away: noted as rows go in place, saved before the journal forgets.
//!
//! A member that leaves may lose with its cache what it acked since the last flush (fault D12). All of
//! that is in records at or above the journal's floor, so its map begins with the rows that were put in
//! place and whose records aren't trimmed; rows that are logged and not in place yet come when they are.
//! From then on every row that is put in place without it is noted, and each cycle saves the maps ahead
//! of the floor. After a crash the saved map and the records above the floor tell the rest.
//!
//! Invariants
//! - A row is noted before anything of it is written in place, under the lock of its columns.
//! - The floor passes a record only when the maps that are on the disks, durably, have its row. So no
//!   write waits for a map.
//! - Blocks of a map are written only after a flush of those written before.
//! - A member without [`Absence`] in its entry has no map: it is rebuilt whole.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use cairn_blockdev::units::{BLOCK, BLOCK_BYTES, u64_of, usize_of};
use cairn_blockdev::{Buf, IoErrorKind, SharedBuf, WriteFlags};
use futures_util::future::join_all;
use uuid::Uuid;

use super::Array;
use super::disk::Disk;
use super::flights::Patience;
use crate::events::EventKind;
use crate::geometry::Row;
use crate::journal::entry::Seq;
use crate::label::Absence;
use crate::layout::ZoneKind;
use crate::missed::{BlockNo, Loader, MAPS_MAX, MapId, MapShape, MissedMap};
use crate::turnstile::Turnstile;

/// A map that is kept here and looked at by the disk that it is for.
pub(crate) type SharedMap = Rc<RefCell<MissedMap>>;

/// Blocks of a map read at once: 1 MiB.
const READ_BLOCKS: u64 = 256;

/// The maps of an array, and what the next one would begin with.
pub(crate) struct Missed {
    /// Rows that were put in place: their records lie below this, and aren't trimmed.
    recent: RefCell<BTreeMap<Row, Seq>>,
    /// Rows of which a rebuild has changed the checksums, in pages that may not be on the disks.
    refilled: RefCell<BTreeSet<Row>>,
    maps: RefCell<BTreeMap<Uuid, SharedMap>>,
    /// Bits are complete for every record below.
    claim: Cell<Seq>,
    saves: Rc<Turnstile>,
    written: Cell<u64>,
    flushed: Cell<u64>,
}

impl Default for Missed {
    fn default() -> Self {
        Self {
            recent: RefCell::default(),
            refilled: RefCell::default(),
            maps: RefCell::default(),
            claim: Cell::new(Seq::FIRST),
            saves: Rc::default(),
            written: Cell::new(0),
            flushed: Cell::new(0),
        }
    }
}

impl Missed {
    /// Blocks written so far: what a flush that begins now makes durable.
    pub(super) fn written(&self) -> u64 {
        self.written.get()
    }

    /// A flush that began when so much was written is over.
    pub(super) fn note_flushed(&self, written: u64) {
        self.flushed.set(self.flushed.get().max(written));
    }

    /// The journal doesn't hold records below `floor` any more.
    pub(crate) fn trimmed(&self, floor: Seq) {
        self.recent.borrow_mut().retain(|_, end| *end > floor);
    }

    /// Rows whose pages the next checkpoint brings to everybody who is here.
    pub(crate) fn refilled(&self) -> BTreeSet<Row> {
        self.refilled.borrow().clone()
    }

    /// The pages of these are durable.
    pub(crate) fn note_refilled_flushed(&self, rows: &BTreeSet<Row>) {
        self.refilled.borrow_mut().retain(|row| !rows.contains(row));
    }

    pub(super) fn map(&self, member: Uuid) -> Option<SharedMap> {
        self.maps.borrow().get(&member).map(Rc::clone)
    }

    fn free_place(&self) -> Option<usize> {
        let maps = self.maps.borrow();
        (0..MAPS_MAX).find(|place| maps.values().all(|map| map.borrow().place() != *place))
    }
}

impl Array {
    /// `row` is about to be written in place, with records below `end`. Whoever is away misses it.
    pub(crate) fn note_in_place(&self, row: Row, end: Seq) {
        let mut recent = self.missed.recent.borrow_mut();
        let known = recent.entry(row).or_insert(end);
        *known = end.max(*known);
        for (member, map) in &*self.missed.maps.borrow() {
            // One that is being caught up is written to, or lacks the row anyway.
            let disk = self.ledger.borrow().disk(*member);
            if disk.is_none_or(|disk| !disk.progress.borrow().is_catching_up()) {
                map.borrow_mut().insert(row);
            }
        }
    }

    /// A rebuild is about to change the checksums of `row`, of which no record tells: those who are away miss the page.
    /// Durable on return.
    pub(crate) async fn note_refilled(self: &Rc<Self>, row: Row) -> Result<(), IoErrorKind> {
        let Some(journal) = self.journal() else {
            // Nobody knows what is missed: who comes back is rebuilt whole.
            return Ok(());
        };
        self.missed.refilled.borrow_mut().insert(row);
        let mut missed = false;
        for (member, map) in &*self.missed.maps.borrow() {
            let disk = self.ledger.borrow().disk(*member);
            if disk.is_none_or(|disk| !disk.progress.borrow().is_catching_up()) {
                map.borrow_mut().insert(row);
                missed = true;
            }
        }
        if missed {
            self.save_missed(journal.floor()).await?;
            self.flush_all().await?;
        }
        Ok(())
    }

    /// Before pages are written: who went since a rebuild changed some of them misses these, durably.
    pub(super) async fn save_refilled(self: &Rc<Self>) -> Result<(), IoErrorKind> {
        let none = self.missed.refilled.borrow().is_empty() || self.missed.maps.borrow().is_empty();
        let Some(journal) = self.journal().filter(|_| !none) else {
            return Ok(());
        };
        self.save_missed(journal.floor()).await
    }

    /// Records of `row` are replayed: who was away may have missed them, also who is about to be caught up, as its
    /// map is complete only for what the journal doesn't tell any more. It must not take part: where the others'
    /// data is in place already, nothing is left to change its old parity by.
    pub(crate) fn note_replayed(&self, row: Row) {
        for map in self.missed.maps.borrow().values() {
            map.borrow_mut().insert(row);
        }
    }

    /// Notes that a member is away from now on. The caller has changed its state and commits.
    pub(super) fn begin_absence(&self, member: Uuid, floor: Option<Seq>, last_generation: u64) {
        if !self.ledger.borrow().label().has_journal() {
            // Nobody knows what it will miss.
            return;
        }
        // At the start the journal isn't open yet; what was loaded is complete below its floor.
        let opened = floor.or_else(|| Some(self.journal()?.floor()));
        let from = opened.unwrap_or(self.missed.claim.get());
        let before = self.ledger.borrow().entry(member).and_then(|e| e.absence);
        let known = self.missed.map(member).zip(before);
        // If it was being caught up, what it hadn't got yet is still in its map.
        let (map, absence) = if let Some(known) = known {
            known
        } else {
            // One of an earlier absence is of no use any more.
            self.missed.maps.borrow_mut().remove(&member);
            let Some(new) = self.new_map(member, from) else {
                self.ledger.borrow_mut().set_absence(member, None);
                return;
            };
            new
        };
        for row in self.missed.recent.borrow().keys() {
            map.borrow_mut().insert(*row);
        }
        for row in &*self.missed.refilled.borrow() {
            map.borrow_mut().insert(*row);
        }
        let absence = Absence {
            last_generation,
            returning: false,
            ..absence
        };
        self.ledger.borrow_mut().set_absence(member, Some(absence));
        self.missed.maps.borrow_mut().insert(member, map);
    }

    /// An empty map, if the zone has a place for it.
    fn new_map(&self, member: Uuid, from: Seq) -> Option<(SharedMap, Absence)> {
        let place = self.missed.free_place()?;
        let shape = self.map_shape();
        let (random, _) = self.env.new_uuid().as_u64_pair();
        let number = u32::try_from(random >> 32).unwrap_or(1).max(1);
        let id = MapId {
            array: self.uuid,
            member,
            number,
        };
        let map = MissedMap::new(id, shape, place);
        let absence = Absence {
            map: number,
            from,
            last_generation: 0,
            returning: false,
        };
        Some((Rc::new(RefCell::new(map)), absence))
    }

    fn map_shape(&self) -> MapShape {
        let (shape, data_bytes) = self.shape();
        let rows = data_bytes / shape.geometry.chunk_bytes();
        MapShape::new(rows, shape.dirty_maps_bytes(data_bytes))
    }

    /// Has every map written again, to disks that don't have them yet.
    pub(crate) fn touch_missed(&self) {
        for map in self.missed.maps.borrow().values() {
            map.borrow_mut().touch();
        }
    }

    /// What is below `row` is on a member that is being caught up, durably. False if it was thrown out
    /// meanwhile: its map tells already what it misses from then on, rows below as well.
    pub(crate) fn clear_missed(&self, disk: &Rc<Disk>, row: Row) -> bool {
        let known = self.ledger.borrow().disk(disk.uuid);
        if disk.out.get() || !known.is_some_and(|known| Rc::ptr_eq(&known, disk)) {
            return false;
        }
        if let Some(map) = self.missed.map(disk.uuid) {
            map.borrow_mut().clear_below(row);
        }
        true
    }

    /// Whether the maps that were written are complete for every record below `floor`.
    pub(crate) fn is_missed_saved(&self, floor: Seq) -> bool {
        let maps = self.missed.maps.borrow();
        maps.values()
            .all(|map| map.borrow().saved_floor() >= Some(floor))
    }

    /// Writes the maps, complete for every record below `floor`, to every member. Durable after the
    /// next flush.
    pub(crate) async fn save_missed(self: &Rc<Self>, floor: Seq) -> Result<(), IoErrorKind> {
        self.missed.claim.set(floor.max(self.missed.claim.get()));
        if self.missed.maps.borrow().is_empty() {
            return Ok(());
        }
        self.missed
            .saves
            .pass(&self.env.spawn, || {
                let array = Rc::clone(self);
                Box::pin(array.write_missed())
            })
            .await;
        self.settle().await;
        self.check_alive()
    }

    async fn write_missed(self: Rc<Self>) {
        self.forget_maps();
        if self.missed.flushed.get() < self.missed.written.get() {
            self.clone().flush_disks().await;
        }
        let mut blocks: Vec<(u64, SharedBuf)> = Vec::new();
        for map in self.missed.maps.borrow().values() {
            let mut map = map.borrow_mut();
            let (place, shape) = (map.place(), *map.shape());
            for save in map.take_dirty(self.missed.claim.get()) {
                let at = shape.offset(place, save.slot, save.block);
                blocks.push((at, Buf::copy_of(&save.bytes).freeze()));
            }
        }
        let disks = self.ledger.borrow().with_data();
        let writes = disks.iter().map(|disk| {
            let zone = disk.layout.get().unwrap_or_default();
            let zone = zone.zone(ZoneKind::DirtyMaps);
            let writes = blocks.iter().map(move |(at, bytes)| {
                assert!(at + BLOCK <= zone.len, "a missed map outgrew its zone");
                disk.write_at(zone.offset + at, bytes.clone(), WriteFlags::default())
            });
            join_all(writes)
        });
        let results = join_all(writes).await;
        self.missed.written.set(self.missed.written.get() + 1);
        for (disk, results) in disks.iter().zip(results) {
            if let Some(error) = results.into_iter().find_map(Result::err) {
                self.write_failed(disk, &error).await;
            }
        }
    }

    /// Lets go of the maps of members that are in sync or were replaced, once the labels say so.
    pub(crate) fn forget_maps(&self) {
        let ledger = self.ledger.borrow();
        if ledger.has_uncommitted() {
            return;
        }
        let needed = |member: &Uuid, map: &SharedMap| {
            let absence = ledger.entry(*member).and_then(|entry| entry.absence);
            absence.is_some_and(|absence| absence.map == map.borrow().id().number)
        };
        let mut maps = self.missed.maps.borrow_mut();
        maps.retain(|member, map| needed(member, map));
    }

    /// Reads the maps of members that are away or being caught up. What was missed below `floor` must
    /// be in them; the rest is in the journal. The caller commits the label.
    pub(super) async fn load_missed(&self, floor: Seq) {
        self.missed.claim.set(floor);
        let table = self.ledger.borrow().label().table.clone();
        let disks = self.in_sync();
        let mut away = Vec::new();
        // All of them before any new one: that must not be given the place of one that is still to be read.
        for entry in table {
            let Some(absence) = entry.absence else {
                continue;
            };
            let found = self.read_map(&disks, entry.uuid, absence, floor).await;
            let found = found.map(|map| Rc::new(RefCell::new(map)));
            if let Some(map) = &found {
                let mut maps = self.missed.maps.borrow_mut();
                maps.insert(entry.uuid, Rc::clone(map));
            }
            away.push((entry, absence, found));
        }
        for (entry, absence, found) in away {
            let map = match found {
                Some(map) => Some(map),
                // The journal still tells all of it.
                None if absence.from >= floor => {
                    self.new_map(entry.uuid, floor).map(|(map, new)| {
                        let absence = Absence {
                            last_generation: absence.last_generation,
                            returning: absence.returning,
                            ..new
                        };
                        let mut ledger = self.ledger.borrow_mut();
                        ledger.set_absence(entry.uuid, Some(absence));
                        map
                    })
                }
                None => None,
            };
            let Some(map) = map else {
                self.ledger.borrow_mut().set_absence(entry.uuid, None);
                let path = self.ledger.borrow().path(entry.uuid);
                self.report(
                    EventKind::MissedMapLost,
                    path.as_deref(),
                    "what it missed isn't known: it is rebuilt whole".into(),
                );
                continue;
            };
            if let Some(disk) = self.ledger.borrow().disk(entry.uuid) {
                disk.catch_up(Rc::clone(&map));
            }
            self.missed.maps.borrow_mut().insert(entry.uuid, map);
        }
    }

    async fn read_map(
        &self,
        disks: &[Rc<Disk>],
        member: Uuid,
        absence: Absence,
        floor: Seq,
    ) -> Option<MissedMap> {
        let shape = self.map_shape();
        let id = MapId {
            array: self.uuid,
            member,
            number: absence.map,
        };
        for place in 0..MAPS_MAX {
            let mut loader = Loader::new(id, shape, place);
            for slot in [0, 1] {
                let at = shape.offset(place, slot, BlockNo::Head);
                let heads = join_all(disks.iter().map(|disk| read_blocks(disk, at, 1))).await;
                for head in heads.iter().flatten() {
                    loader.take(slot, head);
                }
            }
            if !loader.has_head() {
                continue;
            }
            for slot in [0, 1] {
                let mut page = 0u32;
                while page < shape.pages() {
                    let count = u64::from(shape.pages() - page).min(READ_BLOCKS);
                    let at = shape.offset(place, slot, BlockNo::Page(page));
                    let reads = disks.iter().map(|disk| read_blocks(disk, at, count));
                    for block in join_all(reads).await.iter().flatten() {
                        loader.take(slot, block);
                    }
                    page += u32::try_from(count).unwrap_or(u32::MAX);
                }
            }
            return loader.finish(floor);
        }
        None
    }
}

/// Blocks of a disk's zone; those that can't be read are missing.
async fn read_blocks(disk: &Disk, at: u64, count: u64) -> Vec<Vec<u8>> {
    let zone = disk.layout.get().unwrap_or_default();
    let zone = zone.zone(ZoneKind::DirtyMaps);
    let mut blocks = Vec::new();
    let read = async |at: u64, count: u64| {
        if at + count * BLOCK > zone.len {
            return None;
        }
        let buf = Buf::zeroed(usize_of(count) * BLOCK_BYTES);
        let read = disk.read_at(zone.offset + at, buf, Patience::Eject);
        let (buf, result) = read.await;
        result.is_ok().then_some(buf)
    };
    if let Some(buf) = read(at, count).await {
        blocks.extend(buf.chunks(BLOCK_BYTES).map(<[u8]>::to_vec));
    } else if count > 1 {
        // One bad sector must not cost its neighbours.
        for single in 0..count {
            let block = read(at + single * BLOCK, 1).await;
            blocks.extend(block.map(|block| block.to_vec()));
        }
    }
    assert!(u64_of(blocks.len()) <= count);
    blocks
}
