//! Making an array: zones, map and labels on blank disks.
//!
//! Whoever calls this has made sure that the disks may be written. Labels come last, so that a crash
//! on the way leaves no half array behind.

use std::rc::Rc;

use cairn_blockdev::units::{BLOCK, MIB, u64_of};
use cairn_blockdev::{BlockDevice, Buf, BufPool, Env, IoError, IoErrorKind, WriteFlags, ZeroFlags};
use futures_util::future::{LocalBoxFuture, join_all};
use uuid::Uuid;
use zerocopy::{FromBytes, IntoBytes};

use super::disk::Disk;
use super::durable::page_offset;
use super::flights::Patience;
use super::journal_disks::{journal_disks_bounds, journal_layout_for};
use super::ledger::journal_entry;
use super::watch::Watch;
use super::{Array, MemberDisk, Parts};
use crate::defects::Defects;
use crate::error::RaidError;
use crate::events::{EventKind, Hooks};
use crate::geometry::Geometry;
use crate::host_spare;
use crate::journal::log::Journal;
use crate::label::{
    ArrayLabel, Entry, INCOMPAT_JOURNAL, INCOMPAT_JOURNAL_DISKS, INCOMPAT_NO_INTEGRITY, TABLE_MAX,
    valid_name,
};
use crate::layout::rows_per_extent;
use crate::layout::{
    LABEL_A, LABEL_B, Layout, Shape, ZONES_START, ZoneHeader, ZoneKind, label_copy,
};
use crate::level::Level;
use crate::member::MemberState;
use crate::space::SpaceMap;

/// Zeros go out in pieces of this size, so that memory stays small.
const ZERO_PIECE: u64 = 8 * MIB;

/// What kind of array to make.
#[derive(Debug, Clone)]
pub struct CreateSpec {
    /// Its name.
    pub name: String,
    /// Its level.
    pub level: Level,
    /// Its chunk, a power of two.
    pub chunk_bytes: u32,
    /// The host that starts it.
    pub home_host: Uuid,
    /// Journal of a member; `None`: 1 % of the disk within bounds.
    pub journal_bytes: Option<u64>,
    /// Whether blocks get checksums.
    pub integrity: bool,
    /// Whether writes go through a journal. Without one an ack waits for the write in place, and a
    /// crash together with a failing disk can lose more than the disk.
    pub journal: bool,
}

impl CreateSpec {
    fn incompat(&self) -> u64 {
        // Pages are redone from the journal: without it there are none.
        let integrity = if self.integrity && self.journal {
            0
        } else {
            INCOMPAT_NO_INTEGRITY
        };
        let journal = if self.journal { INCOMPAT_JOURNAL } else { 0 };
        integrity | journal
    }
}

impl CreateSpec {
    /// Whether these can be the journal disks of an array of so many members.
    pub fn check_journal_disks(
        &self,
        members: usize,
        disks: &[(&str, u64)],
    ) -> Result<(), RaidError> {
        if disks.is_empty() {
            return Ok(());
        }
        if !self.journal {
            return Err(RaidError::NoJournal);
        }
        let lost = self.level.redundancy(members);
        let (fewest, most) = journal_disks_bounds(lost);
        if !(fewest..=most).contains(&disks.len()) {
            return Err(RaidError::JournalDisks {
                given: disks.len(),
                level: self.level.to_string(),
                members,
                fewest,
                most,
                lost,
            });
        }
        for (path, size) in disks {
            journal_layout_for(path, *size, self.journal_bytes)?;
        }
        Ok(())
    }

    /// Geometry, zones and the common data zone for disks of these sizes: what `--dry-run` shows.
    pub fn shape(&self, disks: &[(&str, u64)]) -> Result<(Shape, u64), RaidError> {
        if !valid_name(&self.name) {
            return Err(RaidError::BadName {
                name: self.name.clone(),
            });
        }
        let geometry = Geometry::new(self.level, disks.len(), self.chunk_bytes)?;
        let shape = Shape {
            geometry,
            journal_bytes: self.journal_bytes,
        };
        let mut data_bytes = u64::MAX;
        for (path, size) in disks {
            let bytes = shape
                .data_bytes_for(*size)
                .ok_or_else(|| RaidError::TooSmall {
                    disk: (*path).to_owned(),
                    size: *size,
                    need: shape.disk_bytes_min(0),
                    what: "labels, zones and one extent".into(),
                })?;
            data_bytes = data_bytes.min(bytes);
        }
        Ok((shape, data_bytes))
    }
}

/// The disks of a new array.
#[derive(Default)]
pub struct NewDisks {
    /// One for each slot.
    pub members: Vec<MemberDisk>,
    /// Spares.
    pub spares: Vec<MemberDisk>,
    /// For the journal alone; none: it is on the members.
    pub journal: Vec<MemberDisk>,
}

/// Makes an array of blank disks, its journal on the members, and starts it.
pub fn create(
    env: Env,
    pool: BufPool,
    spec: CreateSpec,
    members: Vec<MemberDisk>,
    spares: Vec<MemberDisk>,
    hooks: Hooks,
) -> LocalBoxFuture<'static, Result<Rc<Array>, RaidError>> {
    Box::pin(async move {
        let disks = NewDisks {
            members,
            spares,
            journal: Vec::new(),
        };
        create_with(env, pool, spec, disks, hooks).await
    })
}

/// Makes an array of blank disks and starts it.
pub fn create_with(
    env: Env,
    pool: BufPool,
    spec: CreateSpec,
    disks: NewDisks,
    hooks: Hooks,
) -> LocalBoxFuture<'static, Result<Rc<Array>, RaidError>> {
    Box::pin(async move {
        let NewDisks {
            members,
            spares,
            journal,
        } = disks;
        let (shape, data_bytes) = spec.shape(&sizes_of(&members))?;
        spec.check_journal_disks(members.len(), &sizes_of(&journal))?;
        if members.len() + spares.len() + journal.len() > TABLE_MAX {
            return Err(RaidError::TooManyDisks {
                array: spec.name,
                max: TABLE_MAX,
            });
        }
        let mut incompat = spec.incompat();
        let watch = Watch::new(&env);
        let mut table = Vec::new();
        let mut disks = Vec::new();
        for (slot, member) in members.into_iter().enumerate() {
            let layout = layout_for(&shape, &member, data_bytes)?;
            let device = watch.over(&member.path, &member.device);
            let disk = Disk::new(env.new_uuid(), member.path, device, Some(layout));
            table.push(entry(&disk, Some(slot), MemberState::InSync));
            disks.push(disk);
        }
        for spare in spares {
            let layout = layout_for(&shape, &spare, data_bytes)?;
            let device = watch.over(&spare.path, &spare.device);
            let disk = Disk::new(env.new_uuid(), spare.path, device, Some(layout));
            table.push(entry(&disk, None, MemberState::Spare));
            disks.push(disk);
        }
        for one in journal {
            let size = one.device.geometry().size;
            let layout = journal_layout_for(&one.path, size, spec.journal_bytes)?;
            let device = watch.over(&one.path, &one.device);
            let disk = Disk::new(env.new_uuid(), one.path, device, Some(layout));
            disk.ring_only.set(true);
            table.push(journal_entry(&disk, 1));
            disks.push(disk);
            incompat |= INCOMPAT_JOURNAL_DISKS;
        }
        let label = ArrayLabel {
            uuid: env.new_uuid(),
            name: spec.name,
            home_host: spec.home_host,
            geometry: shape.geometry,
            compat: 0,
            ro_compat: 0,
            incompat,
            generation: 0,
            event_count: 0,
            clean: true,
            rows_per_extent: rows_per_extent(&shape.geometry),
            data_bytes,
            created_ms: env.clock.unix_ms(),
            journal_bytes: spec.journal_bytes.unwrap_or(0),
            journal_headers: 0,
            table,
        };
        for result in join_all(disks.iter().map(|disk| prepare(disk, label.uuid))).await {
            result?;
        }
        for disk in &disks {
            let owner = zone_owner(disk.device()).await?;
            let other = disks
                .iter()
                .find(|other| owner == Some((label.uuid, other.uuid)));
            if let Some(other) = other.filter(|other| other.uuid != disk.uuid) {
                return Err(RaidError::SameDisk {
                    first: disk.path.to_string(),
                    second: other.path.to_string(),
                });
            }
        }
        let mut space = SpaceMap::new(label.uuid, &shape.geometry, data_bytes);
        space.touch_all();
        let array = Array::from_parts(Parts {
            env,
            pool,
            hooks,
            defects: Defects::new(label.uuid),
            label,
            disks,
            space,
            watch,
        });
        if array.ledger.borrow().label().has_journal() {
            let disks = array.with_rings();
            let journal =
                Journal::create(&disks, array.geometry.redundancy() + 1, array.hooks.memory);
            array.write_journal_headers(&journal, &disks).await;
            *array.journal.borrow_mut() = Some(journal);
        }
        array
            .checkpoint()
            .await
            .map_err(|_| array.failed_in_creation())?;
        array
            .flush_all()
            .await
            .map_err(|_| array.failed_in_creation())?;
        if array.has_thrown_out() {
            return Err(array.failed_in_creation());
        }
        let held = array.labels.lock().await;
        array.commit_event(&held).await?;
        drop(held);
        array.report(
            EventKind::NewArray,
            None,
            format!(
                "{} of {sizes_len} members",
                spec.level,
                sizes_len = shape.geometry.members()
            ),
        );
        array.open.set(true);
        array.start_idle_work();
        array.start_applying();
        array.kick_sync();
        Ok(array)
    })
}

fn entry(disk: &Disk, slot: Option<usize>, state: MemberState) -> Entry {
    Entry {
        uuid: disk.uuid,
        slot,
        state,
        cursor_rows: 0,
        since_event: 1,
        disk_bytes: disk.size,
        absence: None,
        held_out: false,
        journal: false,
        undrained: false,
    }
}

fn sizes_of(disks: &[MemberDisk]) -> Vec<(&str, u64)> {
    let sizes = disks.iter();
    sizes
        .map(|disk| (&*disk.path, disk.device.geometry().size))
        .collect()
}

/// The zones of a disk that is to carry `data_bytes`, or why it can't.
pub(super) fn layout_for(
    shape: &Shape,
    disk: &MemberDisk,
    data_bytes: u64,
) -> Result<Layout, RaidError> {
    let size = disk.device.geometry().size;
    shape
        .layout(size, data_bytes)
        .ok_or_else(|| RaidError::TooSmall {
            disk: disk.path.to_string(),
            size,
            need: shape.disk_bytes_min(data_bytes),
            what: "a member of this array".into(),
        })
}

/// Zeroes everything before the data zone, the labels too, and writes the zone headers.
///
/// A disk of a host's pool keeps the last copy of the label that says so, until the array's own label
/// is written over it: a crash before that must not lose the disk.
pub(super) async fn prepare(disk: &Disk, array: Uuid) -> Result<(), IoError> {
    let layout = disk.layout.get().unwrap_or_default();
    let is_pooled = host_spare::retreat(disk.device()).await?;
    zero(disk.device(), 0, BLOCK).await?;
    zero(disk.device(), LABEL_A, layout.data_offset() - LABEL_A).await?;
    if !is_pooled {
        zero(disk.device(), label_copy(disk.size), BLOCK).await?;
    }
    for (kind, zone) in ZoneKind::ALL.into_iter().zip(layout.zones) {
        if kind == ZoneKind::Data || zone.len == 0 {
            continue;
        }
        let header = ZoneHeader::new(kind, array.into_bytes(), disk.uuid.into_bytes(), zone.len);
        let mut block = Buf::zeroed(cairn_blockdev::units::BLOCK_BYTES);
        for (to, from) in block.iter_mut().zip(header.as_bytes()) {
            *to = *from;
        }
        disk.write_at(zone.offset, block.freeze(), WriteFlags::default())
            .await?;
    }
    disk.flush().await
}

/// Which array and member the first zone of a disk says that it belongs to: what is written through
/// one path shows through every other, and wiping labels doesn't touch it.
pub(super) async fn zone_owner(device: &dyn BlockDevice) -> Result<Option<(Uuid, Uuid)>, IoError> {
    let buf = Buf::zeroed(cairn_blockdev::units::BLOCK_BYTES);
    let (buf, result) = device.read(ZONES_START, buf).await;
    result?;
    let header = ZoneHeader::read_from_prefix(&buf)
        .ok()
        .map(|(header, _)| header);
    Ok(header.filter(ZoneHeader::is_valid).map(|header| {
        (
            Uuid::from_bytes(header.array_uuid),
            Uuid::from_bytes(header.member_uuid),
        )
    }))
}

async fn zero(device: &dyn BlockDevice, offset: u64, len: u64) -> Result<(), IoError> {
    let mut at = offset;
    while at < offset + len {
        let piece = ZERO_PIECE.min(offset + len - at);
        match device.write_zeroes(at, piece, ZeroFlags::default()).await {
            Err(error) if error.kind == IoErrorKind::Unsupported => {
                let zeros = Buf::zeroed(cairn_blockdev::units::usize_of(piece)).freeze();
                device.write(at, zeros, WriteFlags::default()).await?;
            }
            other => other?,
        }
        at += piece;
    }
    Ok(())
}

/// Removes a label: all three copies. The zones stay as they are.
pub fn wipe_label(device: &dyn BlockDevice) -> LocalBoxFuture<'_, Result<(), RaidError>> {
    Box::pin(async move {
        let size = device.geometry().size;
        for offset in [LABEL_A, LABEL_B, label_copy(size)] {
            if offset + BLOCK <= size {
                zero(device, offset, BLOCK).await?;
            }
        }
        device.flush().await?;
        Ok(())
    })
}

impl Array {
    fn failed_in_creation(&self) -> RaidError {
        let out = self.thrown_out.borrow();
        let reasons: Vec<String> = out
            .iter()
            .map(|(disk, why)| format!("{}: {why}", disk.path))
            .collect();
        RaidError::Failed {
            array: self.name.to_string(),
            reason: reasons.join("; "),
        }
    }

    /// Bytes that a disk must have to become a member of this array.
    pub fn member_bytes_min(&self) -> u64 {
        let (shape, data_bytes) = self.shape();
        shape.disk_bytes_min(data_bytes)
    }

    /// Refuses a disk of `size` that is too small to be a member: before anything on it is touched.
    pub fn check_size(&self, path: &str, size: u64) -> Result<(), RaidError> {
        let need = self.member_bytes_min();
        if size >= need {
            return Ok(());
        }
        Err(RaidError::TooSmall {
            disk: path.to_owned(),
            size,
            need,
            what: format!("a member of array {}", self.name),
        })
    }

    /// What sizes the zones of this array's disks.
    pub(super) fn shape(&self) -> (Shape, u64) {
        let ledger = self.ledger.borrow();
        let label = ledger.label();
        let journal_bytes = (label.journal_bytes > 0).then_some(label.journal_bytes);
        (
            Shape {
                geometry: self.geometry,
                journal_bytes,
            },
            label.data_bytes,
        )
    }
}

/// Reads every map page of a disk: both slots, in order. Unreadable pages are `None`.
pub(super) async fn read_map_slots(disk: &Disk, pages: usize) -> Vec<[Option<Box<[u8]>>; 2]> {
    let layout = disk.layout.get().unwrap_or_default();
    let mut slots: [Vec<Option<Box<[u8]>>>; 2] = [Vec::new(), Vec::new()];
    for (generation, slot) in (0u64..).zip(slots.iter_mut()) {
        let mut page = 0;
        while page < pages {
            let count = (pages - page).min(MAP_READ_PAGES);
            let offset = page_offset(&layout, pages, page, generation);
            let buf = Buf::zeroed(count * crate::space::PAGE_BYTES);
            let (buf, result) = disk.read_at(offset, buf, Patience::Eject).await;
            if result.is_ok() {
                slot.extend(
                    buf.chunks(crate::space::PAGE_BYTES)
                        .map(|page| Some(page.into())),
                );
            } else {
                // One bad sector must not cost its neighbours: page by page.
                for single in page..page + count {
                    let offset = page_offset(&layout, pages, single, generation);
                    let buf = Buf::zeroed(crate::space::PAGE_BYTES);
                    let (buf, result) = disk.read_at(offset, buf, Patience::Eject).await;
                    slot.push(result.is_ok().then(|| (*buf).into()));
                }
            }
            page += count;
        }
    }
    let [even, odd] = slots;
    assert_eq!(u64_of(even.len()), u64_of(pages));
    even.into_iter().zip(odd).map(|(a, b)| [a, b]).collect()
}

/// Map pages read at once: 1 MiB.
const MAP_READ_PAGES: usize = 256;
