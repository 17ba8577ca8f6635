//! The space map: which extent belongs to which part of which volume, and which rows were written.
//!
//! An extent is `rows_per_extent` whole rows. Its owner and the written bits of its rows stand in
//! one record of one page, so that mapping, first write and unmapping are each atomic on disk.
//!
//! Invariants
//! - An unmapped extent is not reused before a page that says so is durable ([`SpaceMap::release`]).
//! - Two records that claim the same place of a volume can only come from a crash between the
//!   unmapping of one and the durable page of the other: the later allocation wins.
//! - A record whose volume isn't in the volume table is an orphan of a deletion and is free.
//!
//! Does not know: disks, when pages are written, who waits.

mod page;

use std::collections::{BTreeMap, BTreeSet};

use cairn_blockdev::units::{u64_of, usize_of, usize_of_u32};
use uuid::Uuid;

use page::{
    EXTENT_FIELDS, ExtentFields, PageKind, VOLUME_PAGES, VOLUMES_PER_PAGE, decode_page,
    encode_page, extent_fields_from_bytes, extent_fields_to_bytes, read_extent, read_volume,
    record_len, records_per_page, write_extent, write_volume,
};
pub use page::{PageError, VolumeRecord};

use crate::geometry::{Geometry, Row};
use crate::layout::rows_per_extent;

/// Bytes of a shard of a volume.
pub const SHARD_BYTES: u64 = 1 << 30;
/// Volumes that one array can hold.
pub const VOLUMES_MAX: usize = VOLUME_PAGES * VOLUMES_PER_PAGE;
/// Bytes of a page.
pub const PAGE_BYTES: usize = 4096;

/// An extent's number, from the start of the data zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtentId(pub u32);

/// A volume's place in the volume table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeId(pub u32);

/// Which part of which volume an extent holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// The volume.
    pub volume: VolumeId,
    /// Shard of the volume, by GiB.
    pub shard: u32,
    /// Extent of the shard.
    pub index: u32,
}

/// No extent is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoSpace;

/// Bytes of both slots of all map pages.
pub fn map_bytes(geometry: &Geometry, data_bytes: u64) -> u64 {
    let rows = rows_per_extent(geometry);
    let extents = data_bytes / (rows * geometry.chunk_bytes());
    2 * u64_of(PAGE_BYTES) * pages_for(extents, rows)
}

fn pages_for(extents: u64, rows: u64) -> u64 {
    u64_of(VOLUME_PAGES) + extents.div_ceil(u64_of(records_per_page(rows)))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Free,
    Mapped {
        owner: Owner,
        alloc_seq: u64,
    },
    /// Unmapped in memory; free once that is durable.
    Releasing,
}

/// The map in memory.
pub struct SpaceMap {
    array_uuid: Uuid,
    rows_per_extent: u64,
    extent_bytes: u64,
    extents: Vec<Use>,
    written: Vec<u64>,
    free: BTreeSet<ExtentId>,
    by_owner: BTreeMap<Owner, ExtentId>,
    volumes: Vec<Option<VolumeRecord>>,
    /// Volumes that left the table while extents of theirs are still mapped: their places are not
    /// reused, and their records stay true until they are unmapped.
    retired: BTreeMap<VolumeId, VolumeRecord>,
    next_alloc_seq: u64,
    generations: Vec<u64>,
    dirty: BTreeSet<usize>,
}

impl SpaceMap {
    /// An empty map.
    pub fn new(array_uuid: Uuid, geometry: &Geometry, data_bytes: u64) -> Self {
        let rows = rows_per_extent(geometry);
        let extents = data_bytes / (rows * geometry.chunk_bytes());
        let count = usize_of(extents);
        let pages = usize_of(pages_for(extents, rows));
        Self {
            array_uuid,
            rows_per_extent: rows,
            extent_bytes: rows * geometry.row_bytes(),
            extents: vec![Use::Free; count],
            written: vec![0; usize_of((extents * rows).div_ceil(64))],
            free: (0..u32::try_from(extents).unwrap_or(u32::MAX))
                .map(ExtentId)
                .collect(),
            by_owner: BTreeMap::new(),
            volumes: vec![None; VOLUMES_MAX],
            retired: BTreeMap::new(),
            next_alloc_seq: 1,
            generations: vec![0; pages],
            dirty: BTreeSet::new(),
        }
    }

    /// Pages of one slot.
    pub fn pages(&self) -> usize {
        self.generations.len()
    }

    /// Data bytes of an extent.
    pub fn extent_bytes(&self) -> u64 {
        self.extent_bytes
    }

    /// Extents in all.
    pub fn extents_total(&self) -> u64 {
        u64_of(self.extents.len())
    }

    /// Extents that could be handed out now.
    pub fn extents_free(&self) -> u64 {
        u64_of(self.free.len())
    }

    /// Bytes of extents mapped to `volume`.
    pub fn allocated_bytes(&self, volume: VolumeId) -> u64 {
        let from = Owner {
            volume,
            shard: 0,
            index: 0,
        };
        let to = Owner {
            volume,
            shard: u32::MAX,
            index: u32::MAX,
        };
        u64_of(self.by_owner.range(from..=to).count()) * self.extent_bytes
    }

    // --- volumes

    /// The volumes.
    pub fn volumes(&self) -> impl Iterator<Item = (VolumeId, &VolumeRecord)> {
        (0u32..)
            .map(VolumeId)
            .zip(&self.volumes)
            .filter_map(|(id, v)| Some((id, v.as_ref()?)))
    }

    /// A volume by name.
    pub fn volume_by_name(&self, name: &str) -> Option<(VolumeId, &VolumeRecord)> {
        self.volumes().find(|(_, volume)| volume.name == name)
    }

    /// A volume by its place.
    pub fn volume(&self, id: VolumeId) -> Option<&VolumeRecord> {
        self.volumes.get(usize_of_u32(id.0))?.as_ref()
    }

    /// A volume by the first eight bytes of its UUID, as records speak of it.
    pub(crate) fn volume_by_mark(&self, mark: u64) -> Option<VolumeId> {
        let mut volumes = self.volumes();
        volumes.find_map(|(id, volume)| (tag(volume.uuid) == mark).then_some(id))
    }

    /// Puts a volume in a free place of the table. `None` if it is full.
    pub fn add_volume(&mut self, record: VolumeRecord) -> Option<VolumeId> {
        let (at, id) =
            self.volumes
                .iter()
                .zip(0u32..)
                .enumerate()
                .find_map(|(at, (place, id))| {
                    let id = VolumeId(id);
                    (place.is_none() && !self.retired.contains_key(&id)).then_some((at, id))
                })?;
        *self.volumes.get_mut(at)? = Some(record);
        self.dirty.insert(at / VOLUMES_PER_PAGE);
        Some(id)
    }

    /// Changes a volume's size.
    pub fn set_volume_size(&mut self, id: VolumeId, size_bytes: u64) {
        if let Some(Some(volume)) = self.volumes.get_mut(usize_of_u32(id.0)) {
            volume.size_bytes = size_bytes;
            self.dirty.insert(usize_of_u32(id.0) / VOLUMES_PER_PAGE);
        }
    }

    /// Takes a volume out of the table. Once that is durable its extents may be unmapped and the
    /// place forgotten ([`SpaceMap::forget_volume`]); a crash in between leaves orphans, which are
    /// free.
    pub fn retire_volume(&mut self, id: VolumeId) {
        if let Some(record) = self
            .volumes
            .get_mut(usize_of_u32(id.0))
            .and_then(Option::take)
        {
            self.retired.insert(id, record);
            self.dirty.insert(usize_of_u32(id.0) / VOLUMES_PER_PAGE);
        }
    }

    /// Makes a retired volume's place free for another.
    ///
    /// # Panics
    /// If extents are still mapped to it.
    pub fn forget_volume(&mut self, id: VolumeId) {
        assert_eq!(
            self.allocated_bytes(id),
            0,
            "a forgotten volume still has extents"
        );
        self.retired.remove(&id);
    }

    // --- extents

    /// The owner of the extent that holds byte `offset` of `volume`, and the byte in the extent.
    pub fn place(&self, volume: VolumeId, offset: u64) -> (Owner, u64) {
        let in_shard = offset % SHARD_BYTES;
        let shard = u32::try_from(offset / SHARD_BYTES).unwrap_or(u32::MAX);
        let index = u32::try_from(in_shard / self.extent_bytes).unwrap_or(u32::MAX);
        (
            Owner {
                volume,
                shard,
                index,
            },
            in_shard % self.extent_bytes,
        )
    }

    /// Bytes from `offset` of a volume to the end of its extent (or of its shard, if that is first).
    pub fn run_in_extent(&self, offset: u64) -> u64 {
        let in_shard = offset % SHARD_BYTES;
        (self.extent_bytes - in_shard % self.extent_bytes).min(SHARD_BYTES - in_shard)
    }

    /// The extent of an owner.
    pub fn find(&self, owner: Owner) -> Option<ExtentId> {
        self.by_owner.get(&owner).copied()
    }

    /// The volume that a byte of the array's address space belongs to, and where in it.
    pub fn volume_at(&self, address: u64) -> Option<(&VolumeRecord, u64)> {
        let extent = u32::try_from(address / self.extent_bytes).ok()?;
        let owner = self.owner(ExtentId(extent))?;
        let before =
            u64::from(owner.shard) * SHARD_BYTES + u64::from(owner.index) * self.extent_bytes;
        let (_, volume) = self.volumes().find(|(id, _)| *id == owner.volume)?;
        Some((volume, before + address % self.extent_bytes))
    }

    /// Whose an extent is.
    pub fn owner(&self, extent: ExtentId) -> Option<Owner> {
        match self.extents.get(usize_of_u32(extent.0)) {
            Some(Use::Mapped { owner, .. }) => Some(*owner),
            _ => None,
        }
    }

    /// Extents of a volume.
    pub fn extents_of(&self, volume: VolumeId) -> Vec<(Owner, ExtentId)> {
        let from = Owner {
            volume,
            shard: 0,
            index: 0,
        };
        let to = Owner {
            volume,
            shard: u32::MAX,
            index: u32::MAX,
        };
        self.by_owner
            .range(from..=to)
            .map(|(o, e)| (*o, *e))
            .collect()
    }

    /// The extent of `owner`, mapped now if it wasn't. No row of a new one is written.
    pub fn allocate(&mut self, owner: Owner) -> Result<ExtentId, NoSpace> {
        if let Some(extent) = self.find(owner) {
            return Ok(extent);
        }
        let extent = self.free.pop_first().ok_or(NoSpace)?;
        let alloc_seq = self.next_alloc_seq;
        self.next_alloc_seq = self.next_alloc_seq.saturating_add(1);
        self.set(extent, Use::Mapped { owner, alloc_seq });
        self.by_owner.insert(owner, extent);
        assert!(!self.any_written(extent), "a free extent has written rows");
        Ok(extent)
    }

    /// What a journal record says of a mapped extent: the fixed part of its record in a page.
    pub(crate) fn mapping(&self, extent: ExtentId) -> Option<[u8; EXTENT_FIELDS]> {
        let Some(Use::Mapped { owner, alloc_seq }) = self.extents.get(usize_of_u32(extent.0))
        else {
            return None;
        };
        let volume = self.volume(owner.volume)?;
        let fields = ExtentFields {
            volume: owner.volume.0,
            volume_tag: tag(volume.uuid),
            shard: owner.shard,
            index: owner.index,
            alloc_seq: *alloc_seq,
        };
        Some(extent_fields_to_bytes(&fields))
    }

    /// Maps an extent as a journal record says, unless the pages know better: its volume is gone, or
    /// the extent or the place was mapped anew since.
    pub(crate) fn adopt(&mut self, extent: ExtentId, mapping: &[u8]) {
        let Some(fields) = extent_fields_from_bytes(mapping) else {
            return;
        };
        self.next_alloc_seq = self.next_alloc_seq.max(fields.alloc_seq.saturating_add(1));
        let owner = Owner {
            volume: VolumeId(fields.volume),
            shard: fields.shard,
            index: fields.index,
        };
        let known = self
            .volume(owner.volume)
            .is_some_and(|volume| tag(volume.uuid) == fields.volume_tag);
        let free = self.free.contains(&extent);
        if !known || !free || self.find(owner).is_some() {
            return;
        }
        self.free.remove(&extent);
        self.set(
            extent,
            Use::Mapped {
                owner,
                alloc_seq: fields.alloc_seq,
            },
        );
        self.by_owner.insert(owner, extent);
    }

    /// The extent that holds byte `offset` of the array's address space.
    pub(crate) fn extent_at(&self, offset: u64) -> Option<ExtentId> {
        let id = u32::try_from(offset / self.extent_bytes).ok()?;
        (u64::from(id) < self.extents_total()).then_some(ExtentId(id))
    }

    /// Unmaps an extent and forgets what was written in it. It can be reused after
    /// [`SpaceMap::release`], which the caller may call once the page is durable.
    pub fn unmap(&mut self, extent: ExtentId) {
        if let Some(owner) = self.owner(extent) {
            self.by_owner.remove(&owner);
        }
        self.set(extent, Use::Releasing);
        for row in self.rows_of(extent) {
            self.put_bit(row, false);
        }
    }

    /// Makes an unmapped extent free; its unmapping is durable.
    pub fn release(&mut self, extent: ExtentId) {
        if let Some(state @ Use::Releasing) = self.extents.get_mut(usize_of_u32(extent.0)) {
            *state = Use::Free;
            self.free.insert(extent);
        }
    }

    fn set(&mut self, extent: ExtentId, state: Use) {
        if let Some(place) = self.extents.get_mut(usize_of_u32(extent.0)) {
            *place = state;
        }
        self.touch(extent);
    }

    // --- rows

    /// Rows of an extent.
    pub fn rows_of(&self, extent: ExtentId) -> impl Iterator<Item = Row> + use<> {
        let first = u64::from(extent.0) * self.rows_per_extent;
        (first..first + self.rows_per_extent).map(Row)
    }

    /// First logical byte of an extent in the array's address space.
    pub fn extent_offset(&self, extent: ExtentId) -> u64 {
        u64::from(extent.0) * self.extent_bytes
    }

    /// Whether a row was written.
    pub fn is_written(&self, row: Row) -> bool {
        let word = self.written.get(usize_of(row.0 / 64)).copied().unwrap_or(0);
        word >> (row.0 % 64) & 1 == 1
    }

    /// Whether any row of an extent was written.
    pub fn any_written(&self, extent: ExtentId) -> bool {
        self.rows_of(extent).any(|row| self.is_written(row))
    }

    /// The first written row at or after `row`.
    pub fn next_written(&self, row: Row) -> Option<Row> {
        let mut word_at = row.0 / 64;
        let mut mask = u64::MAX << (row.0 % 64);
        loop {
            let word = self.written.get(usize_of(word_at))? & mask;
            if word != 0 {
                return Some(Row(word_at * 64 + u64::from(word.trailing_zeros())));
            }
            mask = u64::MAX;
            word_at += 1;
        }
    }

    /// Written rows in all.
    pub fn rows_written(&self) -> u64 {
        self.written
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }

    /// Written rows before `row`.
    pub fn rows_written_before(&self, row: Row) -> u64 {
        let whole = usize_of(row.0 / 64);
        let full: u64 = self
            .written
            .iter()
            .take(whole)
            .map(|word| u64::from(word.count_ones()))
            .sum();
        let rest = self.written.get(whole).copied().unwrap_or(0) & !(u64::MAX << (row.0 % 64));
        full + u64::from(rest.count_ones())
    }

    /// Sets or clears a row's written bit.
    pub fn mark(&mut self, row: Row, written: bool) {
        if self.is_written(row) != written {
            self.put_bit(row, written);
            let extent = u32::try_from(row.0 / self.rows_per_extent).unwrap_or(u32::MAX);
            self.touch(ExtentId(extent));
        }
    }

    fn put_bit(&mut self, row: Row, written: bool) {
        if let Some(word) = self.written.get_mut(usize_of(row.0 / 64)) {
            let bit = 1 << (row.0 % 64);
            *word = if written { *word | bit } else { *word & !bit };
        }
    }

    // --- pages

    fn touch(&mut self, extent: ExtentId) {
        let per_page = records_per_page(self.rows_per_extent);
        self.dirty
            .insert(VOLUME_PAGES + usize_of_u32(extent.0) / per_page);
    }

    /// Marks every page to be written: what a new member needs.
    pub fn touch_all(&mut self) {
        self.dirty.extend(0..self.generations.len());
    }

    /// Whether something waits to be written.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// The generation that a page was last written with.
    pub(crate) fn generation(&self, page: usize) -> u64 {
        self.generations.get(page).copied().unwrap_or(0)
    }

    /// The changed pages, each with its next generation: (page, generation, bytes). They count as
    /// written from here on.
    pub fn take_dirty(&mut self) -> Vec<(usize, u64, Box<[u8]>)> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty
            .into_iter()
            .map(|page| {
                let generation = self.generations.get_mut(page).map_or(0, |generation| {
                    *generation += 1;
                    *generation
                });
                (page, generation, self.encode(page, generation))
            })
            .collect()
    }

    /// A page as it would be written with `generation`.
    fn encode(&self, page: usize, generation: u64) -> Box<[u8]> {
        let kind = if page < VOLUME_PAGES {
            PageKind::Volumes
        } else {
            PageKind::Extents
        };
        encode_page(kind, self.array_uuid, page, generation, |body| match kind {
            PageKind::Volumes => {
                let first = page * VOLUMES_PER_PAGE;
                for (at, volume) in self
                    .volumes
                    .iter()
                    .skip(first)
                    .take(VOLUMES_PER_PAGE)
                    .enumerate()
                {
                    if let Some(volume) = volume {
                        write_volume(body, at, volume);
                    }
                }
            }
            PageKind::Extents => {
                for (at, extent) in self.extents_of_page(page).enumerate() {
                    self.encode_extent(body, at, extent);
                }
            }
        })
    }

    fn extents_of_page(&self, page: usize) -> impl Iterator<Item = ExtentId> + use<> {
        let per_page = records_per_page(self.rows_per_extent);
        let first = (page - VOLUME_PAGES) * per_page;
        let last = (first + per_page).min(self.extents.len());
        (first..last)
            .filter_map(|at| u32::try_from(at).ok())
            .map(ExtentId)
    }

    fn encode_extent(&self, body: &mut [u8], at: usize, extent: ExtentId) {
        let Some(Use::Mapped { owner, alloc_seq }) = self.extents.get(usize_of_u32(extent.0))
        else {
            return;
        };
        let known = self
            .volume(owner.volume)
            .or_else(|| self.retired.get(&owner.volume));
        let Some(volume) = known else { return };
        let fields = ExtentFields {
            volume: owner.volume.0,
            volume_tag: tag(volume.uuid),
            shard: owner.shard,
            index: owner.index,
            alloc_seq: *alloc_seq,
        };
        let bits = self.rows_of(extent).map(|row| self.is_written(row));
        write_extent(body, at, record_len(self.rows_per_extent), &fields, bits);
    }

    /// Rebuilds the map from the newest valid copy of each page; `None` for a page never written.
    /// Pages whose contents had to be mended (orphans, doubly claimed places) are dirty afterwards.
    pub fn load(
        array_uuid: Uuid,
        geometry: &Geometry,
        data_bytes: u64,
        pages: Vec<Option<Box<[u8]>>>,
    ) -> Result<Self, PageError> {
        let mut map = Self::new(array_uuid, geometry, data_bytes);
        for (page, bytes) in pages.into_iter().enumerate() {
            let Some(bytes) = bytes else { continue };
            let (kind, generation, body) = decode_page(&bytes, array_uuid, page)?;
            if let Some(known) = map.generations.get_mut(page) {
                *known = generation;
            }
            match kind {
                PageKind::Volumes => {
                    for at in 0..VOLUMES_PER_PAGE {
                        let place = map.volumes.get_mut(page * VOLUMES_PER_PAGE + at);
                        if let Some(place) = place {
                            *place = read_volume(body, at)?;
                        }
                    }
                }
                PageKind::Extents => {
                    for (at, extent) in map.extents_of_page(page).enumerate() {
                        map.load_extent(body, at, extent);
                    }
                }
            }
        }
        Ok(map)
    }

    fn load_extent(&mut self, body: &[u8], at: usize, extent: ExtentId) {
        let len = record_len(self.rows_per_extent);
        let Some((fields, bits)) = read_extent(body, at, len) else {
            return;
        };
        let owner = Owner {
            volume: VolumeId(fields.volume),
            shard: fields.shard,
            index: fields.index,
        };
        self.next_alloc_seq = self.next_alloc_seq.max(fields.alloc_seq.saturating_add(1));
        let known = self
            .volume(owner.volume)
            .is_some_and(|v| tag(v.uuid) == fields.volume_tag);
        if !known {
            self.touch(extent);
            return;
        }
        if let Some(rival) = self.find(owner) {
            let rival_seq = match self.extents.get(usize_of_u32(rival.0)) {
                Some(Use::Mapped { alloc_seq, .. }) => *alloc_seq,
                _ => 0,
            };
            if rival_seq >= fields.alloc_seq {
                self.touch(extent);
                return;
            }
            self.unmap(rival);
            self.release(rival);
        }
        self.free.remove(&extent);
        if let Some(place) = self.extents.get_mut(usize_of_u32(extent.0)) {
            *place = Use::Mapped {
                owner,
                alloc_seq: fields.alloc_seq,
            };
        }
        self.by_owner.insert(owner, extent);
        for (row, written) in self.rows_of(extent).zip(bits) {
            self.put_bit(row, written);
        }
    }
}

/// What ties an extent's record to one volume, even if the volume's place is taken by another.
fn tag(uuid: Uuid) -> u64 {
    uuid.as_u64_pair().0
}

/// Header check of a page read from disk: its generation, if it is a valid copy of `page`.
pub fn page_generation(bytes: &[u8], array_uuid: Uuid, page: usize) -> Result<u64, PageError> {
    decode_page(bytes, array_uuid, page).map(|(_, generation, _)| generation)
}

#[cfg(test)]
mod tests;
