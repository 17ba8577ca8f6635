//! Checksums of every block of every member: what makes "verified" more than "read without error".
//!
//! [`page`] is the page on disk, [`place`] says where everything is, `seal` binds a sum to its
//! place, `cache` holds pages in memory, `store` reads and writes their copies, and [`Sums`], which
//! an array owns, puts them together.
//!
//! Invariants
//! - Sums are kept away from the data they speak of: a page covers all members, and has R+1 copies
//!   on different ones (faults D6, A10).
//! - Pages aren't journalled. What a page says is durable once a checkpoint wrote it and the disks
//!   were flushed; until then the journal's entries carry the crcs, and replay sets them again.
//! - No side of a copy is written before the last write to the other side was flushed.
//! - What is written to a copy has a higher generation than anything that it holds.
//!
//! Does not know: which rows were written (the sums of others mean nothing), what to do about a
//! block that fails, when to checkpoint.

pub(crate) mod cache;
pub mod page;
pub mod place;
mod seal;
pub(crate) mod store;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use cairn_blockdev::units::u64_of;
use cairn_blockdev::{Buf, IoError, SharedBuf};
use futures_util::future::join_all;
use tokio::sync::Notify;
use uuid::Uuid;

use self::cache::{Content, ENTRY_BYTES, Sides, Snapshot, SumsCache, Verdict};
use self::place::{PageNumber, Places};
use self::store::{Finding, Loaded, SumsError, Taker};
use crate::array::disk::Disk;
use crate::geometry::{Columns, Geometry, Row, Slot};

/// Pages with damaged copies that an array which nobody writes to keeps in memory until it mends them.
const MENDS_AT_ONCE: usize = 32;

/// Pages of one round of a checkpoint: what the snapshots and the writes of a round take stays at a
/// few MiB, however much is dirty.
const ROUND_PAGES: usize = 256;
/// Findings that wait to be fetched; past it the oldest are only counted.
const FINDINGS_MAX: usize = 1024;

/// What the checksums have come to, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct SumsStats {
    /// Pages that the cache may hold.
    pub(crate) pages_max: usize,
    /// Bytes that these take.
    pub(crate) bytes_max: u64,
    /// Pages in memory.
    pub(crate) pages: usize,
    /// Of these, pages that the disks don't have yet.
    pub(crate) dirty: usize,
    /// Bytes that they take.
    pub(crate) bytes: u64,
    /// Pages asked for that were here.
    pub(crate) hits: u64,
    /// Pages read from the disks.
    pub(crate) loads: u64,
    /// Flaws found in copies.
    pub(crate) flaws: u64,
}

/// The pages of a range, here until dropped.
#[must_use = "the pages may go when this is dropped"]
pub(crate) struct Ready {
    pins: Vec<Pin>,
}

struct Pin {
    cache: Rc<RefCell<SumsCache>>,
    page: PageNumber,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.cache.borrow_mut().unpin(self.page);
    }
}

/// One read of a page, which others wait for, too.
#[derive(Default)]
struct Load {
    ended: Notify,
    /// Why it failed; stays empty if it was given up.
    error: RefCell<Option<SumsError>>,
}

type Loads = RefCell<BTreeMap<PageNumber, Rc<Load>>>;

/// Ends a load, even if its caller gives up in the middle: another takes over then.
struct Loading<'a> {
    loads: &'a Loads,
    page: PageNumber,
    load: Rc<Load>,
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        self.loads.borrow_mut().remove(&self.page);
        self.load.ended.notify_waiters();
    }
}

/// Ends a checkpoint.
struct Writing<'a>(&'a Cell<bool>);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// The checksums of an array.
pub(crate) struct Sums {
    places: Places,
    cache: Rc<RefCell<SumsCache>>,
    loads: Loads,
    /// Counts, by slot, the disks that came: what was read of an earlier one says nothing of the next.
    joins: RefCell<Vec<u64>>,
    findings: RefCell<VecDeque<Finding>>,
    writing: Cell<bool>,
    /// Copies were written, perhaps by an earlier run of the daemon, and not flushed since.
    unflushed: Cell<bool>,
    /// Nothing is ever written: what is wrong with copies isn't kept for a mend.
    read_only: Cell<bool>,
    mending: Rc<Cell<bool>>,
    stats: Cell<SumsStats>,
}

impl Sums {
    /// The checksums of an array with `data_bytes` a member, with at most about `cache_bytes` in memory.
    pub(crate) fn new(
        array: Uuid,
        geometry: &Geometry,
        data_bytes: u64,
        cache_bytes: usize,
    ) -> Self {
        let places = Places::new(geometry, data_bytes);
        Self {
            places,
            cache: Rc::new(RefCell::new(SumsCache::new(array, places, cache_bytes))),
            loads: RefCell::default(),
            joins: RefCell::new(vec![0; geometry.members()]),
            findings: RefCell::default(),
            writing: Cell::new(false),
            unflushed: Cell::new(true),
            read_only: Cell::new(false),
            mending: Rc::default(),
            stats: Cell::default(),
        }
    }

    /// Changes how much memory its pages may take.
    pub(crate) fn set_cache_bytes(&self, bytes: usize) {
        self.cache.borrow_mut().set_bytes(bytes);
    }

    /// Nothing is written from here on.
    pub(crate) fn set_read_only(&self) {
        self.read_only.set(true);
    }

    /// Somebody is about to write pages for no other reason than that copies have to be mended; the flag is to be cleared
    /// when that is done. `None` if it isn't worth it yet, or under way.
    pub(crate) fn begin_mending(&self) -> Option<Rc<Cell<bool>>> {
        let is_much = self.cache.borrow().dirty_count() >= MENDS_AT_ONCE;
        (is_much && !self.mending.replace(true)).then(|| Rc::clone(&self.mending))
    }

    /// Where pages lie; `fits` says whether a member's zone can hold them.
    pub(crate) fn places(&self) -> &Places {
        &self.places
    }

    pub(crate) fn stats(&self) -> SumsStats {
        let cache = self.cache.borrow();
        SumsStats {
            pages_max: cache.pages_max(),
            bytes_max: u64_of(cache.pages_max() * ENTRY_BYTES),
            pages: cache.len(),
            dirty: cache.dirty_count(),
            bytes: cache.bytes(),
            ..self.stats.get()
        }
    }

    fn count(&self, change: impl FnOnce(&mut SumsStats)) {
        let mut stats = self.stats.get();
        change(&mut stats);
        self.stats.set(stats);
    }

    // --- pages into memory

    /// Has the pages of `cols` of `row` in memory, read from all their copies on `disks` (by slot)
    /// where they aren't, until the returned guard is dropped.
    ///
    /// Callers that want the same page share one read of it. Fails if a page has no valid copy left. Every copy has been
    /// asked, however long its disk takes: what follows may rest on the page being the newest.
    pub(crate) async fn ready(
        &self,
        disks: &[Option<Rc<Disk>>],
        row: Row,
        cols: Columns,
    ) -> Result<Ready, SumsError> {
        let joins = self.joins.borrow().clone();
        let ready = self.at_hand(disks, row, cols).await?;
        let all = ready
            .pins
            .iter()
            .map(|pin| self.complete(disks, &joins, pin.page));
        for completed in join_all(all).await {
            completed?;
        }
        Ok(ready)
    }

    /// As [`Sums::ready`], with the copies that are at hand: those on disks that are slow aren't waited for unless there is no
    /// other. Only to be compared with.
    pub(crate) async fn at_hand(
        &self,
        disks: &[Option<Rc<Disk>>],
        row: Row,
        cols: Columns,
    ) -> Result<Ready, SumsError> {
        let joins = self.joins.borrow().clone();
        let mut pins = Vec::new();
        let mut absent = Vec::new();
        for run in self.places.runs(row, cols) {
            match self.pin(run.page) {
                Some(pin) => pins.push(pin),
                None => absent.push(run.page),
            }
        }
        let loads = absent
            .into_iter()
            .map(|page| self.have(disks, &joins, page));
        for pin in join_all(loads).await {
            pins.push(pin?);
        }
        for pin in &pins {
            // Whoever was slow answers again, or is out.
            let mut copies = self.places.copies(pin.page);
            let is_slow = |disk: &Rc<Disk>| disk.is_slow();
            if !copies.any(|copy| store::at(disks, copy.slot).is_some_and(is_slow)) {
                self.complete(disks, &joins, pin.page).await?;
            }
        }
        Ok(Ready { pins })
    }

    /// What was asked was answered by a page that was here.
    pub(crate) fn note_hit(&self) {
        self.count(|stats| stats.hits += 1);
    }

    fn pin(&self, page: PageNumber) -> Option<Pin> {
        let here = self.cache.borrow_mut().pin(page);
        here.then(|| {
            self.note_hit();
            self.pinned(page)
        })
    }

    /// Pins a page, reading it if it isn't here. `joins` is from when `disks` was.
    async fn have(
        &self,
        disks: &[Option<Rc<Disk>>],
        joins: &[u64],
        page: PageNumber,
    ) -> Result<Pin, SumsError> {
        loop {
            if let Some(pin) = self.pin(page) {
                return Ok(pin);
            }
            let running = self.loads.borrow().get(&page).map(Rc::clone);
            let Some(load) = running else {
                return self.load(disks, joins, page).await;
            };
            load.ended.notified().await;
            if let Some(error) = &*load.error.borrow() {
                return Err(error.clone());
            }
        }
    }

    /// Waits for the copies of a page in memory that weren't waited for. `joins` is from when `disks` was.
    async fn complete(
        &self,
        disks: &[Option<Rc<Disk>>],
        joins: &[u64],
        page: PageNumber,
    ) -> Result<(), SumsError> {
        if !self.cache.borrow().is_partial(page) {
            return Ok(());
        }
        let id = self.cache.borrow().id(page);
        match store::load(&id, &self.places, disks, true).await {
            Ok(mut loaded) => {
                let mut dirty = !loaded.findings.is_empty();
                dirty |= self.forget_joined(page, joins, &mut loaded.content);
                dirty &= !self.read_only.get();
                if self.cache.borrow().is_partial(page) {
                    self.cache
                        .borrow_mut()
                        .complete(page, loaded.content, dirty);
                    self.note(loaded.findings);
                }
            }
            Err(SumsError::Lost { .. }) => self.cache.borrow_mut().leave_partial(page),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Whether a page of some columns is in memory without all its copies having been asked.
    pub(crate) fn is_partial(&self, row: Row, cols: &Columns) -> bool {
        let cache = self.cache.borrow();
        let mut runs = self.places.runs(row, cols.clone());
        runs.any(|run| cache.is_partial(run.page))
    }

    fn pinned(&self, page: PageNumber) -> Pin {
        Pin {
            cache: Rc::clone(&self.cache),
            page,
        }
    }

    async fn load(
        &self,
        disks: &[Option<Rc<Disk>>],
        joins: &[u64],
        page: PageNumber,
    ) -> Result<Pin, SumsError> {
        let loading = Loading {
            loads: &self.loads,
            page,
            load: Rc::default(),
        };
        self.loads
            .borrow_mut()
            .insert(page, Rc::clone(&loading.load));
        self.count(|stats| stats.loads += 1);
        let id = self.cache.borrow().id(page);
        let loaded = store::load(&id, &self.places, disks, false).await;
        match loaded {
            Ok(loaded) => {
                self.take_in(page, loaded, joins);
                Ok(self.pinned(page))
            }
            Err(error) => {
                *loading.load.error.borrow_mut() = Some(error.clone());
                Err(error)
            }
        }
    }

    /// Takes a page in that was read, pinned. `joins` is from before the read. A page that was begun
    /// anew meanwhile stays.
    fn take_in(&self, page: PageNumber, loaded: Loaded, joins: &[u64]) {
        if self.cache.borrow_mut().pin(page) {
            return;
        }
        let Loaded {
            mut content,
            findings,
            partial,
        } = loaded;
        let mut dirty = !findings.is_empty();
        dirty |= self.forget_joined(page, joins, &mut content);
        dirty &= !self.read_only.get();
        self.cache
            .borrow_mut()
            .insert_known(page, content, dirty, partial);
        self.note(findings);
    }

    /// What was read of slots to which other disks have come since `joins` says nothing. True if there are any.
    fn forget_joined(&self, page: PageNumber, joins: &[u64], content: &mut Content) -> bool {
        let mut any = false;
        for copy in self.places.copies(page) {
            if self.has_joined(copy.slot, joins) {
                content.sides.set(copy.number, None);
                any = true;
            }
        }
        any
    }

    /// Whether another disk came to `slot` since `joins`.
    fn has_joined(&self, slot: Slot, joins: &[u64]) -> bool {
        joins.get(slot.0) != self.joins.borrow().get(slot.0)
    }

    fn note(&self, findings: Vec<Finding>) {
        let mut waiting = self.findings.borrow_mut();
        for finding in findings {
            self.count(|stats| stats.flaws += 1);
            if waiting.len() == FINDINGS_MAX {
                waiting.pop_front();
            }
            waiting.push_back(finding);
        }
    }

    /// Compares the copies of the pages of `cols` of `row` with what is in memory: for a scrub, which
    /// would otherwise not see a copy that rots under a page in use. What is wrong is in the findings
    /// and is mended by the next checkpoint, even if no copy is left.
    pub(crate) async fn check(
        &self,
        disks: &[Option<Rc<Disk>>],
        row: Row,
        cols: Columns,
    ) -> Result<(), SumsError> {
        let here = |page: &PageNumber| self.cache.borrow().has(*page);
        let pages = self.places.runs(row, cols.clone()).map(|run| run.page);
        let pages: Vec<PageNumber> = pages.filter(here).collect();
        // What isn't here is read from all copies now.
        let ready = self.ready(disks, row, cols).await?;
        for page in pages {
            let (id, before) = {
                let cache = self.cache.borrow();
                (cache.id(page), cache.clean(page))
            };
            if before.is_none() {
                // Changed: it is written to all copies soon.
                continue;
            }
            let loaded = store::load(&id, &self.places, disks, true).await;
            let mut cache = self.cache.borrow_mut();
            if cache.clean(page) != before {
                continue;
            }
            let says_nothing = before == Some(0);
            match loaded {
                // It was begun anew, and nothing of it is set: what is back on the disks says more.
                Ok(loaded) if says_nothing => {
                    let dirty = !loaded.findings.is_empty();
                    cache.replace(page, loaded.content, dirty);
                    self.note(loaded.findings);
                }
                Err(SumsError::Lost { .. }) if says_nothing => {}
                Ok(loaded) => {
                    if !loaded.findings.is_empty() || Some(loaded.content.generation) != before {
                        cache.mend(page, loaded.content.sides, loaded.content.generation);
                    }
                    self.note(loaded.findings);
                }
                Err(SumsError::Lost { .. }) => cache.mend(page, Sides::default(), 0),
                Err(error) => return Err(error),
            }
        }
        drop(ready);
        Ok(())
    }

    /// What was found wrong with copies since the last call. They are mended by the next checkpoint;
    /// the disks' error counters are the caller's.
    pub(crate) fn take_findings(&self) -> Vec<Finding> {
        self.findings.borrow_mut().drain(..).collect()
    }

    /// Begins the pages of `cols` of `row` anew where they can't be had: for a repair that is about to
    /// set their sums. Until it does, every block of theirs fails.
    pub(crate) async fn ready_or_blank(
        &self,
        disks: &[Option<Rc<Disk>>],
        row: Row,
        cols: Columns,
    ) -> Result<Ready, SumsError> {
        let joins = self.joins.borrow().clone();
        let mut pins = Vec::new();
        for run in self.places.runs(row, cols) {
            match self.have(disks, &joins, run.page).await {
                Ok(pin) => {
                    self.complete(disks, &joins, run.page).await?;
                    pins.push(pin);
                }
                Err(SumsError::Lost { .. }) => {
                    let is_here = self.cache.borrow_mut().pin(run.page);
                    if !is_here {
                        self.cache.borrow_mut().blank(run.page);
                    }
                    pins.push(self.pinned(run.page));
                    self.complete(disks, &joins, run.page).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Ready { pins })
    }

    // --- sums

    /// Compares blocks of `slot`, from column `col` of `row` on, with what was written there.
    ///
    /// # Panics
    /// If `data` isn't whole blocks of the row's chunk.
    pub(crate) fn verify(&self, row: Row, col: u64, slot: Slot, data: &[u8]) -> Verdict {
        self.cache.borrow_mut().verify(row, col, slot, data)
    }

    /// The crc of what was written at a block. `None` if its page isn't in memory.
    pub(crate) fn crc(&self, slot: Slot, row: Row, col: u64) -> Option<u32> {
        self.cache.borrow().crc(slot, row, col)
    }

    /// Puts the crcs of what was written at columns of `slot` behind those in `crcs`. False if a page of
    /// theirs isn't in memory.
    pub(crate) fn append_crcs(
        &self,
        slot: Slot,
        row: Row,
        cols: Columns,
        crcs: &mut Vec<u32>,
    ) -> bool {
        self.cache.borrow().append_crcs(slot, row, cols, crcs)
    }

    /// Whether the sums of a word, of all members, are those of a page that was begun anew: they say
    /// nothing. False if its page isn't in memory.
    pub(crate) fn says_nothing(&self, row: Row, col: u64) -> bool {
        self.cache.borrow().says_nothing(row, col)
    }

    /// Notes the crcs of blocks of `slot`, from column `col` of `row` on, which [`Sums::ready`] holds.
    ///
    /// # Panics
    /// If nobody holds their pages.
    pub(crate) fn set(&self, slot: Slot, row: Row, col: u64, crcs: &[u32]) {
        self.cache.borrow_mut().set(slot, row, col, crcs);
    }

    /// Has the pages of columns, which [`Sums::ready`] holds, written with the next checkpoint: so they
    /// get to a disk that is being filled.
    ///
    /// # Panics
    /// If nobody holds them.
    pub(crate) fn touch(&self, row: Row, cols: Columns) {
        self.cache.borrow_mut().touch(row, cols);
    }

    // --- pages onto the disks

    /// The disk at `slot` is another one than before, or was away: what is on it has to be looked at.
    /// To be called before it is among the `disks` of any other call. Calls that are under way with the
    /// earlier disk notice; a future that was made with the earlier disks and not polled yet doesn't.
    pub(crate) fn joined(&self, slot: Slot) {
        if let Some(joins) = self.joins.borrow_mut().get_mut(slot.0) {
            *joins += 1;
        }
        self.cache.borrow_mut().joined(slot);
    }

    /// All disks were flushed, and the flush began after the last [`Sums::write_dirty`] had ended.
    pub(crate) fn flushed(&self) {
        self.unflushed.set(self.writing.get());
    }

    /// Writes every page that is dirty now to its copies on `disks` (by slot), and on `targets` that are
    /// being filled for a slot whose disk still serves. `generation` is the journal's sequence: all
    /// up to it is in the pages.
    ///
    /// Doesn't flush what it writes; but if nobody said [`Sums::flushed`] since the last time, it
    /// flushes that first. Disks that are missing or out are passed over. Returns the disks that
    /// failed, which the caller has to throw out; a page is clean if any copy was written.
    ///
    /// To be run as a task of its own: given up in the middle, its writes may come after later ones.
    ///
    /// # Panics
    /// If it is running already.
    pub(crate) async fn write_dirty(
        &self,
        disks: &[Option<Rc<Disk>>],
        targets: &[(Slot, Rc<Disk>)],
        generation: u64,
    ) -> Vec<(Rc<Disk>, IoError)> {
        let joins = self.joins.borrow().clone();
        let pages = self.cache.borrow().dirty_pages();
        let mut failed = Vec::new();
        if pages.is_empty() {
            return failed;
        }
        assert!(!self.writing.replace(true), "two checkpoints at a time");
        let _writing = Writing(&self.writing);
        let takers = takers(disks, targets);
        if self.unflushed.replace(true) {
            flush(&takers, &mut failed).await;
        }
        for round in pages.chunks(ROUND_PAGES) {
            // Nothing was changed by a page that is partial, but a disk that joined has to get it. One that can't be had waits.
            let partial = round.iter();
            let partial = partial.map(|page| self.complete(disks, &joins, *page));
            drop(join_all(partial).await);
            let mut snapshots = self.cache.borrow_mut().take_dirty(round, generation);
            let usable: Vec<&Taker> = takers
                .iter()
                .filter(|taker| !taker.disk.out.get() && !has(&failed, &taker.disk))
                .collect();
            self.look_for_sides(&usable, &mut snapshots).await;
            let snapshots: Vec<(Snapshot, SharedBuf)> = snapshots
                .into_iter()
                .map(|mut snapshot| {
                    let bytes = Buf::copy_of(&std::mem::take(&mut snapshot.bytes)).freeze();
                    (snapshot, bytes)
                })
                .collect();
            let writes = usable.into_iter().map(|taker| {
                let snapshots = &snapshots;
                async move {
                    let result = store::write(taker, &self.places, snapshots).await;
                    (taker, result)
                }
            });
            let mut written = BTreeMap::new();
            for (taker, (outcomes, error)) in join_all(writes).await {
                // A disk that came to the slot meanwhile has nothing of this, and gets it next time.
                let came = self.has_joined(taker.slot, &joins);
                for outcome in outcomes.into_iter().filter(|_| taker.is_read) {
                    *written.entry(outcome.page).or_insert(false) |= outcome.side.is_some();
                    let side = outcome.side.filter(|_| !came);
                    let mut cache = self.cache.borrow_mut();
                    cache.note_side(outcome.page, outcome.copy, side);
                }
                failed.extend(error.map(|error| (Rc::clone(&taker.disk), error)));
            }
            for (snapshot, _) in &snapshots {
                let mut copies = self.places.copies(snapshot.page);
                let missed = copies.any(|copy| self.has_joined(copy.slot, &joins));
                if written.get(&snapshot.page) == Some(&true) && !missed {
                    let mut cache = self.cache.borrow_mut();
                    cache.written(snapshot.page, snapshot.generation);
                }
            }
        }
        failed
    }

    /// Looks up, on the disks that are read, the newest sides that aren't known. A snapshot outranks what
    /// is found there: a copy that wasn't read may have a page of a sequence that a power cut took back.
    async fn look_for_sides(&self, takers: &[&Taker], snapshots: &mut [Snapshot]) {
        let lookups = snapshots.iter().enumerate().flat_map(|(at, snapshot)| {
            let id = self.cache.borrow().id(snapshot.page);
            let unknown = self
                .places
                .copies(snapshot.page)
                .filter(|copy| snapshot.sides.get(copy.number).is_none());
            unknown.filter_map(move |copy| {
                let taker = takers.iter().find(|t| t.is_read && t.slot == copy.slot)?;
                Some(async move {
                    let side = store::newest_side(&id, &self.places, &taker.disk, copy).await;
                    (at, copy.number, side)
                })
            })
        });
        let found = join_all(lookups.collect::<Vec<_>>()).await;
        for (at, copy, found) in found {
            if let Some(snapshot) = snapshots.get_mut(at) {
                snapshot.sides.set(copy, found.map(|(side, _)| side));
                if let Some((_, generation)) = found {
                    self.cache.borrow_mut().outrank(snapshot, generation);
                }
            }
        }
    }
}

fn has(failed: &[(Rc<Disk>, IoError)], disk: &Rc<Disk>) -> bool {
    failed.iter().any(|(other, _)| Rc::ptr_eq(other, disk))
}

/// Everybody who takes copies. A target of a slot without a disk is the disk of that slot.
fn takers(disks: &[Option<Rc<Disk>>], targets: &[(Slot, Rc<Disk>)]) -> Vec<Taker> {
    let slots = (0..disks.len()).map(Slot);
    let members = slots.filter_map(|slot| {
        let disk = Rc::clone(store::at(disks, slot)?);
        Some(Taker {
            slot,
            disk,
            is_read: true,
        })
    });
    let targets = targets
        .iter()
        .filter(|(_, disk)| !disk.out.get())
        .map(|(slot, disk)| Taker {
            slot: *slot,
            disk: Rc::clone(disk),
            is_read: store::at(disks, *slot).is_none(),
        });
    members.chain(targets).collect()
}

async fn flush(takers: &[Taker], failed: &mut Vec<(Rc<Disk>, IoError)>) {
    let cached = takers.iter().filter(|taker| taker.disk.has_write_cache());
    let flushes = cached.map(|taker| async move { (taker, taker.disk.flush().await) });
    for (taker, result) in join_all(flushes).await {
        if let Err(error) = result {
            failed.push((Rc::clone(&taker.disk), error));
        }
    }
}
