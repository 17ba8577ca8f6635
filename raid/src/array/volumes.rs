//! Volumes of an array: their table, their extents, and the gates that keep an extent from being
//! given away under a request's hands.
//!
//! Invariants
//! - A request holds its extents' gates open; unmapping an extent waits until nobody is in and lets
//!   nobody in meanwhile.
//! - An extent is free for reuse once its unmapping was written and flushed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::rc::Rc;

use cairn_blockdev::{BlockDevice, IoErrorKind, PreparedDevice};
use futures_util::future::LocalBoxFuture;
use tokio::sync::{Notify, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use uuid::Uuid;

use super::Array;
use crate::error::RaidError;
use crate::geometry::Row;
use crate::journal::entry::{Entry, Kind, Tag};
use crate::label::valid_name;
use crate::mutation::{Mutation, on};
use crate::space::{ExtentId, VOLUMES_MAX, VolumeId, VolumeRecord};
use crate::volume::Volume;

/// Extents of a volume that is deleted whose records have room in the rings together, whatever else these hold.
const UNMAPS_AT_ONCE: usize = 1024;
/// Volumes' sizes are multiples of this.
const VOLUME_UNIT: u64 = 4096;
/// Largest volume: what an NBD client can address with room to spare, and far above any array.
const VOLUME_MAX: u64 = 1 << 60;

/// A volume, described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeInfo {
    /// Identity.
    pub uuid: Uuid,
    /// Name.
    pub name: String,
    /// Size that clients see.
    pub size_bytes: u64,
    /// Bytes of extents mapped to it.
    pub allocated_bytes: u64,
    /// When it was created, in ms since 1970.
    pub created_ms: u64,
}

/// Gates of extents in use.
#[derive(Default)]
pub(crate) struct ExtentGates {
    gates: RefCell<BTreeMap<ExtentId, Gate>>,
    /// How many times extents are on their way back to those that are free.
    returning: Cell<usize>,
    returned: Notify,
}

/// Extents are unmapped, and free as soon as that is durable. They wait for no gate any more.
struct Returning(Rc<ExtentGates>);

impl Drop for Returning {
    fn drop(&mut self) {
        self.0.returning.set(self.0.returning.get() - 1);
        self.0.returned.notify_waiters();
    }
}

type Gate = std::sync::Arc<RwLock<()>>;

/// Keeps an extent mapped while a request uses it.
pub(crate) struct InUse {
    gates: Rc<ExtentGates>,
    extent: ExtentId,
    guard: Option<Held>,
}

enum Held {
    Shared(#[expect(dead_code, reason = "held for its drop")] OwnedRwLockReadGuard<()>),
    Alone(#[expect(dead_code, reason = "held for its drop")] OwnedRwLockWriteGuard<()>),
}

impl ExtentGates {
    fn gate(&self, extent: ExtentId) -> Gate {
        Gate::clone(self.gates.borrow_mut().entry(extent).or_default())
    }

    /// Made before the wait, so that giving up tidies the gate away too.
    fn waiting(self: &Rc<Self>, extent: ExtentId) -> InUse {
        InUse {
            gates: Rc::clone(self),
            extent,
            guard: None,
        }
    }

    pub(crate) async fn enter(self: &Rc<Self>, extent: ExtentId) -> InUse {
        let mut inside = self.waiting(extent);
        inside.guard = Some(Held::Shared(self.gate(extent).read_owned().await));
        inside
    }

    pub(crate) async fn close(self: &Rc<Self>, extent: ExtentId) -> InUse {
        let mut inside = self.waiting(extent);
        inside.guard = Some(Held::Alone(self.gate(extent).write_owned().await));
        inside
    }

    pub(crate) fn in_use(&self) -> bool {
        !self.gates.borrow().is_empty()
    }

    fn returning(self: &Rc<Self>) -> Returning {
        self.returning.set(self.returning.get() + 1);
        Returning(Rc::clone(self))
    }

    /// Waits until some of the extents that are on their way back are there. False: none is.
    async fn some_return(&self) -> bool {
        if self.returning.get() == 0 {
            return false;
        }
        self.returned.notified().await;
        true
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.guard = None;
        let mut gates = self.gates.gates.borrow_mut();
        let unused = gates
            .get(&self.extent)
            .is_some_and(|gate| std::sync::Arc::strong_count(gate) == 1);
        if unused {
            gates.remove(&self.extent);
        }
    }
}

/// A change of the table of volumes that isn't durable yet.
struct Unsaved {
    array: Rc<Array>,
    volume: Option<Uuid>,
}

impl Drop for Unsaved {
    fn drop(&mut self) {
        if let Some(volume) = self.volume {
            self.array.unsaved.borrow_mut().remove(&volume);
        }
    }
}

impl Array {
    /// The volumes.
    pub fn volumes(&self) -> Vec<VolumeInfo> {
        let space = self.space.borrow();
        space
            .volumes()
            .filter(|(_, volume)| !self.is_coming(volume))
            .map(|(id, volume)| {
                let mut volume = volume.clone();
                volume.size_bytes = self.durable_size(&volume);
                describe(&volume, space.allocated_bytes(id))
            })
            .collect()
    }

    /// A volume by name.
    pub fn volume(&self, name: &str) -> Result<VolumeInfo, RaidError> {
        let (id, mut record) = self.find_volume(name)?;
        record.size_bytes = self.durable_size(&record);
        Ok(describe(&record, self.space.borrow().allocated_bytes(id)))
    }

    /// A volume is as it was before, for everybody, until that is dropped.
    fn unsaved(self: &Rc<Self>, volume: Uuid, before: Option<u64>) -> Unsaved {
        // Of two changes at once the first says what is durable.
        let first = !self.unsaved.borrow().contains_key(&volume);
        if first {
            self.unsaved.borrow_mut().insert(volume, before);
        }
        Unsaved {
            array: Rc::clone(self),
            volume: first.then_some(volume),
        }
    }

    fn is_coming(&self, volume: &VolumeRecord) -> bool {
        self.unsaved.borrow().get(&volume.uuid) == Some(&None)
    }

    /// The size of a volume that no power cut takes back.
    pub(crate) fn durable_size(&self, volume: &VolumeRecord) -> u64 {
        let before = self.unsaved.borrow().get(&volume.uuid).copied().flatten();
        before.unwrap_or(volume.size_bytes)
    }

    fn find_volume(&self, name: &str) -> Result<(VolumeId, VolumeRecord), RaidError> {
        let space = self.space.borrow();
        space
            .volume_by_name(name)
            .filter(|(_, record)| !self.is_coming(record))
            .map(|(id, record)| (id, record.clone()))
            .ok_or_else(|| RaidError::NoVolume {
                name: name.into(),
                array: self.name.to_string(),
            })
    }

    /// Makes a thin volume; its map entry is durable on return.
    pub fn create_volume<'a>(
        self: &'a Rc<Self>,
        name: &'a str,
        size_bytes: u64,
    ) -> LocalBoxFuture<'a, Result<VolumeInfo, RaidError>> {
        Box::pin(async move {
            self.check_open()?;
            if !valid_name(name) {
                return Err(RaidError::BadName { name: name.into() });
            }
            check_size(name, size_bytes)?;
            let is_taken = self.space.borrow().volume_by_name(name).is_some();
            if is_taken {
                return Err(RaidError::VolumeExists {
                    name: name.into(),
                    array: self.name.to_string(),
                });
            }
            let record = VolumeRecord {
                uuid: self.env.new_uuid(),
                name: name.into(),
                size_bytes,
                created_ms: self.env.clock.unix_ms(),
            };
            // Nobody writes to what a power cut may take back.
            let unsaved = self.unsaved(record.uuid, None);
            let added = self.space.borrow_mut().add_volume(record);
            if added.is_none() {
                return Err(RaidError::TooManyVolumes {
                    array: self.name.to_string(),
                    max: VOLUMES_MAX,
                });
            }
            self.save_map().await?;
            drop(unsaved);
            self.volume(name)
        })
    }

    /// Grows a volume.
    pub fn resize_volume<'a>(
        self: &'a Rc<Self>,
        name: &'a str,
        size_bytes: u64,
    ) -> LocalBoxFuture<'a, Result<VolumeInfo, RaidError>> {
        Box::pin(async move {
            self.check_open()?;
            let (id, record) = self.find_volume(name)?;
            check_size(name, size_bytes)?;
            if size_bytes < record.size_bytes {
                return Err(RaidError::BadSize {
                    name: name.into(),
                    reason: format!(
                        "it has {} bytes and {size_bytes} would cut data off; shrinking is refused: \
                     create a smaller volume and copy",
                        record.size_bytes
                    ),
                });
            }
            let unsaved = self.unsaved(record.uuid, Some(self.durable_size(&record)));
            self.space.borrow_mut().set_volume_size(id, size_bytes);
            self.save_map().await?;
            drop(unsaved);
            self.volume(name)
        })
    }

    /// Deletes a volume and gives its extents back.
    pub fn delete_volume<'a>(
        self: &'a Rc<Self>,
        name: &'a str,
    ) -> LocalBoxFuture<'a, Result<(), RaidError>> {
        Box::pin(async move {
            self.check_open()?;
            let (id, _) = self.find_volume(name)?;
            let array = Rc::clone(self);
            // To its end even if the caller gives up, or its space would be kept until a restart.
            let deleted = self.detached(async move { array.delete(id).await }).await;
            deleted.unwrap_or_else(|| {
                Err(RaidError::Stopping {
                    array: self.name.to_string(),
                })
            })
        })
    }

    async fn delete(self: &Rc<Self>, id: VolumeId) -> Result<(), RaidError> {
        self.space.borrow_mut().retire_volume(id);
        let early = on(Mutation::ReuseBeforeUnmapDurable);
        if !early {
            self.save_map().await?;
        }
        let extents = self.space.borrow().extents_of(id);
        let mut closed = Vec::new();
        for (owner, extent) in extents {
            let gate = self.gates.close(extent).await;
            // A discard that was on its way may have given it back, and it may be another's by now.
            if self.space.borrow().owner(extent) == Some(owner) {
                self.unmap(extent).await.map_err(|_| self.lost_error())?;
                if early {
                    self.space.borrow_mut().release(extent);
                }
                closed.push((extent, gate));
                // A volume may have more extents than the rings have room for records.
                if closed.len().is_multiple_of(UNMAPS_AT_ONCE) && self.journal().is_some() {
                    self.run_cycle().await;
                }
            }
        }
        let returning = self.gates.returning();
        self.save_map().await?;
        for (extent, gate) in closed {
            self.space.borrow_mut().release(extent);
            drop(gate);
        }
        drop(returning);
        self.space.borrow_mut().forget_volume(id);
        Ok(())
    }

    /// Writes and flushes the map.
    async fn save_map(self: &Rc<Self>) -> Result<(), RaidError> {
        let saved = async {
            self.settle_map().await?;
            self.checkpoint().await?;
            self.flush_all().await
        };
        saved.await.or_else(|_| self.check_open())
    }

    /// A volume as a device. Several may be open at once; they are the same.
    pub fn open_volume(self: &Rc<Self>, name: &str) -> Result<Rc<dyn BlockDevice>, RaidError> {
        self.check_readable()?;
        let (id, record) = self.find_volume(name)?;
        Ok(Rc::new(Volume::new(Rc::clone(self), id, &record)))
    }

    /// A volume as a device whose writes can be prepared. The logs are the array's: all its volumes'
    /// devices speak of the same.
    pub fn open_prepared(self: &Rc<Self>, name: &str) -> Result<Rc<dyn PreparedDevice>, RaidError> {
        self.check_open()?;
        let (id, record) = self.find_volume(name)?;
        Ok(Rc::new(Volume::new(Rc::clone(self), id, &record)))
    }

    /// Keeps an extent mapped until the guard is dropped.
    pub(crate) async fn enter_extent(&self, extent: ExtentId) -> InUse {
        self.gates.enter(extent).await
    }

    /// After no extent was free: whether there may be one now. An extent that was trimmed empty, and is
    /// written again at once, wants another one before its own is back.
    pub(crate) async fn may_have_space(&self) -> Result<bool, IoErrorKind> {
        let returned = self.gates.some_return().await;
        self.check_alive()?;
        Ok(returned)
    }

    /// Gives an extent back if nothing is written in it any more.
    pub(crate) async fn free_if_empty(
        self: &Rc<Self>,
        extent: ExtentId,
    ) -> Result<(), IoErrorKind> {
        let closed = self.gates.close(extent).await;
        if self.space.borrow().owner(extent).is_none() || !self.is_empty_extent(extent) {
            return Ok(());
        }
        let returning = self.gates.returning();
        self.unmap(extent).await?;
        if !on(Mutation::ReuseBeforeUnmapDurable) {
            self.settle_map().await?;
            self.flush_all().await?;
        }
        self.space.borrow_mut().release(extent);
        drop((closed, returning));
        Ok(())
    }

    fn rows_of(&self, extent: ExtentId) -> RangeInclusive<Row> {
        let rows = self.rows_per_extent();
        let first = u64::from(extent.0) * rows;
        Row(first)..=Row(first + rows - 1)
    }

    /// Whether nothing is written in an extent, nor logged or prepared for it.
    pub(crate) fn is_empty_extent(&self, extent: ExtentId) -> bool {
        let rows = self.rows_of(extent);
        let written = self.space.borrow().any_written(extent) || self.dirty_rows.any(rows);
        !written && !self.is_pinned(extent)
    }

    /// Unmaps an extent: what is logged for it is revoked, and nothing of it is on its way. The
    /// caller keeps its gate shut.
    async fn unmap(self: &Rc<Self>, extent: ExtentId) -> Result<(), IoErrorKind> {
        let rows = self.rows_of(extent);
        let whole = 0..self.geometry.chunk_blocks();
        for row in rows.start().0..=rows.end().0 {
            let row = Row(row);
            if self.dirty_rows.has(row) || !self.cache.is_idle(row) {
                let _lock = self.cache.lock(row, whole.clone()).await;
                self.check_alive()?;
                self.dirty_rows.revoke(row);
            }
        }
        self.check_alive()?;
        for row in rows.start().0..=rows.end().0 {
            self.heal_row(Row(row));
        }
        if let Some(journal) = self.journal() {
            let bytes = self.space.borrow().extent_bytes();
            let at = self.space.borrow().extent_offset(extent);
            let entry = Entry::without_payload(Kind::Unmap, at, bytes, Vec::new());
            self.log(&journal, entry, Vec::new(), None);
        }
        self.space.borrow_mut().unmap(extent);
        Ok(())
    }

    /// Logs whose an extent is, before the first data in it.
    pub(crate) fn log_mapping(self: &Rc<Self>, extent: ExtentId) {
        let Some(journal) = self.journal() else {
            return;
        };
        let (at, bytes, tag) = {
            let space = self.space.borrow();
            let tag = space.mapping(extent);
            (space.extent_offset(extent), space.extent_bytes(), tag)
        };
        if let Some(tag) = tag {
            let entry = Entry {
                tag: Tag::new(&tag).unwrap_or_default(),
                ..Entry::without_payload(Kind::Map, at, bytes, Vec::new())
            };
            self.log(&journal, entry, Vec::new(), None);
        }
    }

    /// Makes changes of the map safe from a kill: logged, or written where there is no journal.
    pub(crate) async fn settle_map(self: &Rc<Self>) -> Result<(), IoErrorKind> {
        match self.journal() {
            Some(journal) => {
                journal.logged_below(journal.next()).await?;
                self.kick_apply();
                self.before_ack().await
            }
            None => self.checkpoint().await,
        }
    }
}

fn check_size(name: &str, size_bytes: u64) -> Result<(), RaidError> {
    let reason = if size_bytes == 0 {
        "its size is zero"
    } else if !size_bytes.is_multiple_of(VOLUME_UNIT) {
        "its size is no multiple of 4 KiB"
    } else if size_bytes > VOLUME_MAX {
        "its size is above 1 EiB"
    } else {
        return Ok(());
    };
    Err(RaidError::BadSize {
        name: name.into(),
        reason: reason.into(),
    })
}

fn describe(volume: &VolumeRecord, allocated_bytes: u64) -> VolumeInfo {
    VolumeInfo {
        uuid: volume.uuid,
        name: volume.name.clone(),
        size_bytes: volume.size_bytes,
        allocated_bytes,
        created_ms: volume.created_ms,
    }
}
