//! An array on its engine thread: its disks, its label, and who may do what to it.
//!
//! `ledger` holds the label and the live disks and is the one place where states change; `durable`
//! writes labels, map pages and flushes; `eject` throws disks out; `watch`, `flights` and
//! `slow` see to it that nobody waits for a disk that hangs; `create` and `assemble` make an [`Array`]; `operate` holds
//! the operator's verbs; `journal_disks` looks after disks that hold a ring and nothing else; `missed` and `returning` bring members back that were away; `volumes` the
//! space. The stripe engine is in [`crate::stripe`], rebuild in
//! [`crate::sync`].
//!
//! Invariants
//! - An ejection is in the other disks' labels before the write that caused it is acked (fault D2).
//! - A disk that is out, or whose label is stale, is never read.
//! - With more members gone than the level survives, writes fail and nothing more goes into labels:
//!   the disks stay as they were at that moment, so that returning them brings the array back.

pub(crate) mod assemble;
mod bad_blocks;
mod budget;
mod checkup;
pub(crate) mod create;
pub(crate) mod disk;
mod durable;
mod eject;
mod filling;
pub(crate) mod flights;
mod journal_disks;
mod ledger;
mod losses;
pub(crate) mod missed;
mod operate;
pub(crate) mod prepared;
pub(crate) mod probe;
mod reopen;
mod returning;
mod slow;
mod status;
mod sums;
pub(crate) mod volumes;
pub(crate) mod vouch;
pub(crate) mod watch;
mod work;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use cairn_blockdev::units::usize_of;
use cairn_blockdev::{BlockDevice, BufPool, Env, IoError, IoErrorKind, Ticks};
use tokio::sync::{Mutex, Notify, oneshot};
use uuid::Uuid;

pub use bad_blocks::BadBlock;
pub use disk::ErrorCounts;
pub use flights::Deadlines;
pub use prepared::{ListedLog, list_logs};
pub use returning::Readded;
pub use slow::Unanswered;
pub use status::{
    ArrayState, ArrayStatus, JournalRoom, JournalStatus, MemberStatus, SpaceStatus, SyncAction,
    SyncStatus,
};
pub use volumes::VolumeInfo;
pub use work::{ArrayWork, DiskWork, VolumeWork};

use crate::defects::{Defects, Place};
use crate::error::RaidError;
use crate::events::{ArrayEvent, EventKind, Hooks};
use crate::geometry::{Geometry, Row, Slot};
use crate::integrity::Sums;
use crate::journal::log::{Hold, Journal};
use crate::label::ArrayLabel;
use crate::level::Level;
use crate::memory::{MemoryShare, MemoryStatus, Quota};
use crate::scrub::ScrubTask;
use crate::space::SpaceMap;
use crate::stripe::bypass::Unflushed;
use crate::stripe::cache::RowCache;
use crate::stripe::cleared::Cleared;
use crate::stripe::dirty::Dirty;
use crate::stripe::view::{RowView, SlotView};
use crate::sync::SyncState;
use crate::tally::Counters;
use crate::turnstile::Turnstile;
use disk::{Disk, is_late};
use ledger::Ledger;
use missed::Missed;
use prepared::Logs;
use volumes::ExtentGates;
use watch::Watch;

/// The unit in which row memory is counted.
const ROW_CACHE_UNIT: u64 = 4096;

/// Memory of rows in transactions and in rebuild.
fn row_cache_units(share: MemoryShare) -> u32 {
    u32::try_from(share.rows_bytes() / ROW_CACHE_UNIT).unwrap_or(u32::MAX)
}

/// An opened disk, not yet part of anything.
#[derive(Clone)]
pub struct MemberDisk {
    /// Where it was found.
    pub path: Rc<str>,
    /// The disk.
    pub device: Rc<dyn BlockDevice>,
}

/// An array. Used as `Rc<Array>` on one engine thread.
pub struct Array {
    pub(crate) env: Env,
    pub(crate) pool: BufPool,
    hooks: Hooks,
    name: Rc<str>,
    uuid: Uuid,
    pub(crate) geometry: Geometry,
    ledger: RefCell<Ledger>,
    pub(crate) space: RefCell<SpaceMap>,
    pub(crate) cache: Rc<RowCache>,
    /// In units of [`ROW_CACHE_UNIT`] bytes.
    pub(crate) memory: Quota,
    /// What a whole row takes of it, if there is so much.
    pub(crate) row_cost: u32,
    journal: RefCell<Option<Rc<Journal>>>,
    /// Checksums, if it has them.
    sums: Option<Sums>,
    /// What is logged and not in place yet.
    pub(crate) dirty_rows: Rc<Dirty>,
    /// Logs of prepared operations.
    pub(crate) logs: Rc<Logs>,
    /// Complete rows that no flush has made durable yet.
    pub(crate) unflushed: Unflushed,
    /// Rows that were trimmed, not durably yet.
    pub(crate) cleared: Cleared,
    /// Rows with intents that replay has put together, and that aren't trimmed yet.
    pub(crate) settled: RefCell<BTreeSet<Row>>,
    /// Complete rows that are in place and not flushed yet.
    pub(crate) bypassed: RefCell<Vec<Hold>>,
    pub(crate) cycles: Rc<Turnstile>,
    pub(crate) apply_kicked: Rc<Notify>,
    /// Held over every change of the label, from the decision to the last disk's flush.
    labels: Mutex<()>,
    /// Disks that are out and not yet out of the ledger, with the reason.
    thrown_out: RefCell<Vec<(Rc<Disk>, String)>>,
    settles: Rc<Turnstile>,
    /// Records of journal disks that went are being brought to their places.
    draining: Cell<bool>,
    flushes: Rc<Turnstile>,
    /// Those of clients, around disks that are slow.
    pub(crate) arounds: Rc<Turnstile>,
    checkpoints: Rc<Turnstile>,
    /// The labels say that parity may not match.
    dirty: Cell<bool>,
    /// Some rows' parity couldn't be recomputed: the labels must not say clean.
    doubtful: Cell<bool>,
    /// Assembly or creation is over: slots may be filled.
    open: Cell<bool>,
    /// Replay has begun: what it puts in place must not be trusted to disks that were thrown out.
    replaying: Cell<bool>,
    active_writes: Cell<u64>,
    last_client_io: Cell<Ticks>,
    /// Why no more writes are taken.
    broken: RefCell<Option<String>>,
    stopping: Cell<bool>,
    /// Why nothing is written to any disk, if so.
    read_only: RefCell<Option<String>>,
    /// What it cost to start it by force.
    forced_over: RefCell<Option<String>>,
    pub(crate) sync: SyncState,
    pub(crate) scrub: ScrubTask,
    gates: Rc<ExtentGates>,
    pub(crate) watch: Rc<Watch>,
    /// Blocks that are lost, and the scrub's record. Whoever changes it calls `save_defects`.
    pub(crate) defects: RefCell<Defects>,
    /// How many blocks were put on it.
    losses_noted: Cell<u64>,
    /// Blocks that had to be given up, and that the bad-block list had no room for.
    unlisted: RefCell<BTreeSet<Place>>,
    /// The last row of which nothing could be given up, because its checksums can't be had.
    unvouched: Cell<Option<Row>>,
    /// Rows that the last cycle with them couldn't finish, and since when that is so.
    pub(crate) unfinished: RefCell<BTreeMap<Row, Ticks>>,
    /// It has stopped, and has no disks any more.
    closed: Cell<bool>,
    /// Rows without checksums that a replay has looked at, and since when there are some.
    looked: RefCell<BTreeSet<Row>>,
    looks_since: Cell<Option<Ticks>>,
    /// Rows of which tasks give up what can't be had.
    giving_up: RefCell<BTreeSet<Row>>,
    /// Volumes whose place in the map, or size, isn't durable yet: what is so far; `None`: they aren't there.
    pub(crate) unsaved: RefCell<BTreeMap<Uuid, Option<u64>>>,
    /// What was asked of volumes that were opened, by their identity.
    asked: RefCell<BTreeMap<Uuid, Rc<Counters>>>,
    /// Checksum pages that are lost, and when that was said.
    pages_told: RefCell<BTreeMap<u64, Ticks>>,
    /// Rows of which blocks have left the list, and the generation of the list that says so first.
    healed: RefCell<BTreeMap<Row, u64>>,
    defect_saves: Rc<Turnstile>,
    /// Generation of the list that was written last, and of the last that is durable.
    list_written: Cell<u64>,
    list_durable: Cell<u64>,
    /// What members that are away have missed.
    pub(crate) missed: Missed,
    /// The last event that the host's witness tells of, or of which it tells nothing.
    witnessed: Cell<u64>,
    /// The host has no witness, because it couldn't be written.
    unrecorded: Cell<bool>,
    /// Complete rows that hold something may be overwritten in place.
    bypass: Cell<bool>,
    /// Unreadable places of a disk within an hour, beyond which it is thrown out.
    medium_errors_max: Cell<u32>,
}

/// What an [`Array`] is made from.
struct Parts {
    env: Env,
    pool: BufPool,
    hooks: Hooks,
    label: ArrayLabel,
    disks: Vec<Rc<Disk>>,
    space: SpaceMap,
    watch: Rc<Watch>,
    defects: Defects,
}

impl Array {
    fn from_parts(parts: Parts) -> Rc<Self> {
        let geometry = parts.label.geometry;
        let members = cairn_blockdev::units::u64_of(geometry.members());
        let row_units = (members * geometry.chunk_bytes()).div_ceil(ROW_CACHE_UNIT);
        let memory = parts.hooks.memory;
        let cache_bytes = usize_of(memory.checksum_cache_bytes);
        let sums = parts.label.has_sums().then(|| {
            let label = &parts.label;
            Sums::new(label.uuid, &geometry, label.data_bytes, cache_bytes)
        });
        let event_count = parts.label.event_count;
        let array = Rc::new(Self {
            name: Rc::from(parts.label.name.as_str()),
            uuid: parts.label.uuid,
            geometry,
            dirty: Cell::new(!parts.label.clean),
            ledger: RefCell::new(Ledger::new(parts.label, parts.disks)),
            space: RefCell::new(parts.space),
            cache: Rc::default(),
            memory: Quota::new(row_cache_units(memory)),
            row_cost: u32::try_from(row_units.max(1)).unwrap_or(u32::MAX),
            journal: RefCell::new(None),
            sums,
            dirty_rows: Rc::new(Dirty::new(geometry.data_chunks())),
            logs: Rc::default(),
            unflushed: Unflushed::default(),
            cleared: Cleared::default(),
            settled: RefCell::default(),
            bypassed: RefCell::default(),
            cycles: Rc::default(),
            apply_kicked: Rc::default(),
            labels: Mutex::new(()),
            thrown_out: RefCell::default(),
            settles: Rc::default(),
            draining: Cell::new(false),
            flushes: Rc::default(),
            arounds: Rc::default(),
            checkpoints: Rc::default(),
            doubtful: Cell::new(false),
            open: Cell::new(false),
            replaying: Cell::new(false),
            active_writes: Cell::new(0),
            last_client_io: Cell::new(Ticks::default()),
            broken: RefCell::new(None),
            stopping: Cell::new(false),
            read_only: RefCell::default(),
            forced_over: RefCell::default(),
            sync: SyncState::default(),
            scrub: ScrubTask::default(),
            gates: Rc::default(),
            env: parts.env,
            pool: parts.pool,
            hooks: parts.hooks,
            watch: parts.watch,
            list_written: Cell::new(parts.defects.generation()),
            list_durable: Cell::new(parts.defects.generation()),
            defects: RefCell::new(parts.defects),
            losses_noted: Cell::new(0),
            unlisted: RefCell::default(),
            unvouched: Cell::new(None),
            unfinished: RefCell::default(),
            closed: Cell::new(false),
            looked: RefCell::default(),
            looks_since: Cell::new(None),
            giving_up: RefCell::default(),
            unsaved: RefCell::default(),
            asked: RefCell::default(),
            pages_told: RefCell::default(),
            healed: RefCell::default(),
            defect_saves: Rc::default(),
            missed: Missed::default(),
            witnessed: Cell::new(event_count),
            unrecorded: Cell::new(false),
            bypass: Cell::new(true),
            medium_errors_max: Cell::new(budget::PLACES_MAX),
        });
        array.watch.tell(&array);
        array
    }

    /// Name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Changes how much memory its caches may take. Less is reached as it comes free: whoever changes it
    /// calls this again.
    pub fn set_memory(&self, share: MemoryShare) {
        self.memory.resize(row_cache_units(share));
        if let Some(journal) = self.journal() {
            // What logs hold is theirs until their owners let go of it, and others go on beside it.
            let logs = self.logs.book.borrow().room_needed();
            journal.set_admitted_max(share.admitted_bytes().max(logs));
            // Whoever waits for room may have it now.
            self.logs.wake();
        }
        if let Some(sums) = &self.sums {
            sums.set_cache_bytes(usize_of(share.checksum_cache_bytes));
        }
    }

    /// Whether a complete row that holds something may be overwritten in place, its journal having its sums
    /// alone. If not, it is logged like any other write, and no crash can cost a block of it.
    pub fn set_bypass(&self, on: bool) {
        self.bypass.set(on);
    }

    pub(crate) fn overwrites_in_place(&self) -> bool {
        self.bypass.get()
    }

    /// Sets how many places of a disk may be unreadable within an hour before it is thrown out.
    pub fn set_medium_errors_max(&self, places: u32) {
        self.medium_errors_max.set(places);
    }

    /// What its caches take, and may take.
    pub(crate) fn memory_status(&self) -> MemoryStatus {
        let journal = self.journal();
        let (admits, admitted) = journal.map_or((0, 0), |journal| {
            (journal.admits_bytes(), journal.admitted_bytes())
        });
        // Half of what is admitted is payload.
        let rows = |units: u64, admitted: u64| units * ROW_CACHE_UNIT + admitted / 2;
        let size = u64::from(self.memory.size());
        let sums = self.sums.as_ref().map(Sums::stats).unwrap_or_default();
        MemoryStatus {
            used: MemoryShare {
                checksum_cache_bytes: sums.bytes,
                row_cache_bytes: rows(size - self.memory.free(), admitted),
            },
            share: MemoryShare {
                checksum_cache_bytes: sums.bytes_max,
                row_cache_bytes: rows(size, admits),
            },
            checksum_hits: sums.hits,
            checksum_misses: sums.loads,
        }
    }

    pub(crate) fn shared_name(&self) -> Rc<str> {
        Rc::clone(&self.name)
    }

    /// Why it would not have been started without `--force`, and what may be lost, if that was needed.
    pub fn forced_over(&self) -> Option<String> {
        self.forced_over.borrow().clone()
    }

    /// Identity.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    pub(crate) fn report(&self, kind: EventKind, disk: Option<&str>, detail: String) {
        self.hooks.events.event(ArrayEvent {
            kind,
            array: self.name.to_string(),
            disk: disk.map(str::to_owned),
            detail,
        });
    }

    /// The journal, if the array has one and is open.
    pub(crate) fn journal(&self) -> Option<Rc<Journal>> {
        self.journal.borrow().clone()
    }

    /// Members that are in sync and in.
    pub(crate) fn in_sync(&self) -> Vec<Rc<Disk>> {
        let ledger = self.ledger.borrow();
        let members = ledger
            .slots()
            .iter()
            .filter_map(|slot| slot.member.as_ref());
        members
            .filter(|disk| !disk.out.get())
            .map(Rc::clone)
            .collect()
    }

    /// Whether a disk that a flush waits for gives no answers at the moment: a member in sync, or a
    /// journal disk.
    pub(crate) fn has_slow_disk(&self) -> bool {
        let ledger = self.ledger.borrow();
        let mut members = ledger.slots().iter().filter_map(|s| s.member.as_ref());
        let is_slow = |disk: &Rc<Disk>| !disk.out.get() && disk.is_slow();
        members.any(is_slow) || ledger.journal_disks().iter().any(is_slow)
    }

    /// Who can be read and written in `row`, now.
    pub(crate) fn view(&self, row: Row) -> RowView {
        let ledger = self.ledger.borrow();
        let slots = ledger
            .slots()
            .iter()
            .map(|slot| {
                let live = |disk: &&Rc<Disk>| !disk.out.get();
                let member = slot.member.as_ref().filter(live);
                let target = slot
                    .target
                    .as_ref()
                    .filter(live)
                    .filter(|target| target.has(row));
                let prompt = member
                    .into_iter()
                    .chain(target)
                    .find(|disk| !disk.is_slow());
                SlotView {
                    read: prompt.or(member).or(target).map(Rc::clone),
                    write: member.into_iter().chain(target).map(Rc::clone).collect(),
                }
            })
            .collect();
        RowView::new(row, self.geometry, slots)
    }

    /// Who to read data chunk `index` of `row` from: as [`RowView::source`], without making a view.
    /// `None` also if the disk is slow: then the row is to be read around it.
    pub(crate) fn reader(&self, row: Row, index: usize) -> Option<Rc<Disk>> {
        if self.geometry.level() == Level::Raid1 {
            return self.view(row).source(index).map(|(_, disk)| disk);
        }
        let ledger = self.ledger.borrow();
        let slot = ledger.slots().get(self.geometry.data_slot(row, index).0)?;
        let usable = |disk: &&Rc<Disk>| !disk.out.get() && !disk.is_slow();
        let filled = |disk: &&Rc<Disk>| usable(disk) && disk.has(row);
        slot.member
            .as_ref()
            .filter(usable)
            .or_else(|| slot.target.as_ref().filter(filled))
            .map(Rc::clone)
    }

    /// The slot from which `disk` gives data chunk `index`: on RAID 1 any; `None` if it has none any more.
    pub(crate) fn slot_read(&self, row: Row, index: usize, disk: &Disk) -> Option<Slot> {
        if self.geometry.level() != Level::Raid1 {
            return Some(self.geometry.data_slot(row, index));
        }
        let ledger = self.ledger.borrow();
        let is_it = |has: &Option<Rc<Disk>>| has.as_ref().is_some_and(|has| has.uuid == disk.uuid);
        let mut slots = ledger.slots().iter();
        let at = slots.position(|slot| is_it(&slot.member) || is_it(&slot.target));
        at.map(Slot)
    }

    /// Fails once more members are gone than the level survives.
    pub(crate) fn check_alive(&self) -> Result<(), IoErrorKind> {
        if self.broken.borrow().is_some() {
            Err(IoErrorKind::Lost)
        } else if self.closed.get() {
            Err(IoErrorKind::Stopped)
        } else {
            Ok(())
        }
    }

    /// Fails where nothing can be changed.
    pub(crate) fn check_open(&self) -> Result<(), RaidError> {
        self.check_readable()?;
        match &*self.read_only.borrow() {
            Some(reason) => Err(RaidError::ReadOnly {
                array: self.name.to_string(),
                reason: reason.clone(),
            }),
            None => Ok(()),
        }
    }

    pub(crate) fn check_readable(&self) -> Result<(), RaidError> {
        if self.stopping.get() {
            return Err(RaidError::Stopping {
                array: self.name.to_string(),
            });
        }
        self.check_unbroken()
    }

    /// Whether nothing is written to any disk.
    pub fn is_read_only(&self) -> bool {
        self.read_only.borrow().is_some()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.get()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Notes a client's operation, so that rebuild and idle work step back.
    pub(crate) fn note_client_io(&self) {
        self.last_client_io.set(self.env.clock.now());
    }

    /// Notes how long a client's request took.
    pub(crate) fn note_request(&self, began: Ticks) {
        self.scrub.note_request(self.env.clock.now().since(began));
    }

    pub(crate) fn last_client_io(&self) -> Ticks {
        self.last_client_io.get()
    }

    /// Notes a failed read and, if the disk is beyond its budget, starts its ejection; but not that of a disk
    /// without which the array would be lost: what it still gives is all there is (fault A5).
    pub(crate) fn read_failed(self: &Rc<Self>, disk: &Rc<Disk>, error: &IoError) {
        if is_late(error) || disk.out.get() {
            disk.count_error(error);
            return;
        }
        let first = disk.errors().read == 0;
        let eject = disk.read_failed(error, self.env.clock.now(), self.medium_errors_max.get());
        if first {
            self.report(EventKind::DiskError, Some(&disk.path), error.to_string());
        }
        let redundancy = self.geometry.redundancy();
        let is_needed = || self.ledger.borrow().is_needed(disk.uuid, redundancy);
        if eject && error.kind != IoErrorKind::Gone && is_needed() {
            if !disk.needed.replace(true) {
                let detail = format!(
                    "{error}: it fails in more places than a disk may, and stays in because nothing of \
                     the array could be written without it; give the array a spare, then replace it"
                );
                self.report(EventKind::DiskError, Some(&disk.path), detail);
            }
            return;
        }
        if eject {
            // At once: the next one that fails in the same breath may be needed then.
            self.throw_out(disk, &error.to_string());
        }
    }

    /// Runs `work` to its end, even if the caller gives up on it.
    pub(crate) async fn detached<T: 'static>(
        &self,
        work: impl Future<Output = T> + 'static,
    ) -> Option<T> {
        let (done, wait) = oneshot::channel();
        self.env.spawn.spawn(Box::pin(async move {
            // A caller that is gone doesn't want the result.
            let _ = done.send(work.await);
        }));
        wait.await.ok()
    }

    /// Notes a failed write and ejects the disk; durable in the other labels on return.
    pub(crate) async fn write_failed(self: &Rc<Self>, disk: &Rc<Disk>, error: &IoError) {
        disk.count_error(error);
        self.eject(disk, &error.to_string()).await;
    }
}

impl std::fmt::Debug for Array {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Array({}, {}", self.name, self.geometry.level())?;
        if let Some(journal) = self.journal() {
            write!(f, ", {journal:?}")?;
        }
        let thrown_out = self.thrown_out.borrow().len();
        let labels_held = self.labels.try_lock().is_err();
        write!(
            f,
            ", first dirty {:?}, row memory {} of {}, active writes {}, thrown out {thrown_out}, \
             labels held {labels_held}, stopping {}, rebuild runs {}, scrub runs {}, gates used {}, \
             cycles {:?}, checkpoints {:?}, flushes {:?}, around {:?}, settles {:?}",
            self.dirty_rows.first(),
            self.memory.free(),
            self.memory.size(),
            self.active_writes.get(),
            self.stopping.get(),
            self.sync.is_running(),
            self.scrub.is_running(),
            self.gates.in_use(),
            self.cycles,
            self.checkpoints,
            self.flushes,
            self.arounds,
            self.settles,
        )?;
        write!(f, ")")
    }
}
