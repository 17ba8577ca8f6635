//! What must be durable, and in which order: labels, map pages, flushes, the clean flag.
//!
//! Invariants
//! - Label commits follow one another; a disk that fails one is ejected in the next.
//! - A map page is written after a flush of everything before it: data before its written bit, and
//!   the page's other slot before this one.
//! - A cursor in a label never runs ahead of what the filled disk has flushed.

use std::rc::Rc;
use std::time::Duration;

use cairn_blockdev::units::{BLOCK, u64_of};
use cairn_blockdev::{Buf, IoError, IoErrorKind, SharedBuf, WriteFlags};
use futures_util::future::join_all;
use tokio::sync::MutexGuard;

use super::Array;
use super::disk::Disk;
use crate::error::RaidError;
use crate::events::{EventKind, Witness};
use crate::label::{ArrayLabel, Label};
use crate::layout::{LABEL_A, LABEL_B, Layout, ZoneKind, label_copy};

/// Without writes for this long, the labels are marked clean.
const CLEAN_AFTER: Duration = Duration::from_secs(5);
/// Map pages on their way to one disk at once: what a write takes beside its bytes is then little,
/// however large the map is.
const PAGES_AT_ONCE: usize = 64;
/// How often idle work is looked for.
const IDLE_LOOK: Duration = Duration::from_secs(1);

/// A map page, its generation, and the bytes as they are written.
pub(super) type WrittenPage = (usize, u64, SharedBuf);

/// Counts a write in progress, until dropped.
pub(crate) struct ActiveWrite(Rc<Array>);

impl Drop for ActiveWrite {
    fn drop(&mut self) {
        self.0.active_writes.set(self.0.active_writes.get() - 1);
        self.0.note_client_io();
    }
}

/// Writes one label: its slot, durable, then the copy at the end, durable.
pub(super) async fn write_label(disk: &Disk, array: &ArrayLabel) -> Result<(), IoError> {
    let label = Label {
        member_uuid: disk.uuid,
        disk_bytes: disk.size,
        layout: disk.layout.get().unwrap_or_default(),
        array: array.clone(),
    };
    let slot = if array.generation.is_multiple_of(2) {
        LABEL_A
    } else {
        LABEL_B
    };
    let bytes: SharedBuf = Buf::copy_of(&label.encode()).freeze();
    for offset in [slot, label_copy(disk.size)] {
        disk.write_at(offset, bytes.clone(), WriteFlags { fua: true })
            .await?;
        disk.flush().await?;
    }
    Ok(())
}

/// First byte of a map page's slot.
pub(super) fn page_offset(layout: &Layout, pages: usize, page: usize, generation: u64) -> u64 {
    let slot = (generation % 2) * u64_of(pages);
    layout.zone(ZoneKind::Maps).offset + BLOCK + (slot + u64_of(page)) * BLOCK
}

impl Array {
    /// Writes the label to every live disk, without a change of membership. Who fails is thrown out, and the others are told.
    ///
    /// Returns once what the label says is on all that are left; a broken array writes no labels.
    pub(crate) async fn commit(
        self: &Rc<Self>,
        _held: &MutexGuard<'_, ()>,
    ) -> Result<(), RaidError> {
        let mut lost_some = false;
        let mut is_shared = false;
        loop {
            self.check_unbroken()?;
            let label = self.ledger.borrow_mut().next_generation();
            let live = self.ledger.borrow().live();
            // Who joins first: no label of another disk speaks of it before its own does. So a disk of
            // the host's pool is the pool's until then, and the array's from then on; and whom it replaces is done
            // without only once it says itself that it is a member.
            let (new, known): (Vec<_>, Vec<_>) = live
                .into_iter()
                .partition(|disk| disk.labelled.get() == 0 || self.is_promoted(disk.uuid));
            let mut all_written = true;
            let mut is_told = false;
            for disks in [new, known] {
                let results = join_all(disks.iter().map(|disk| write_label(disk, &label))).await;
                for (disk, result) in disks.iter().zip(results) {
                    match result {
                        Ok(()) => disk.labelled.set(label.generation),
                        Err(error) => {
                            all_written = false;
                            disk.count_error(&error);
                            lost_some |= self.put_out(disk, &error.to_string());
                        }
                    }
                }
                if !all_written {
                    break;
                }
                // It is about to be said, or was said by those who failed in saying it.
                is_told = true;
            }
            // Nobody may fall two events behind. What only a disk that failed at once may say of this event doesn't count for the
            // others, who say it with a higher generation, but nor may the witness take it for what they have: one more comes
            // when they have this one.
            match (all_written, is_told) {
                (true, _) if !std::mem::take(&mut is_shared) => break,
                (false, false) => is_shared = true,
                _ => self.ledger.borrow_mut().count_event(),
            }
        }
        self.ledger.borrow_mut().note_committed();
        if lost_some {
            self.after_loss().await;
        }
        Ok(())
    }

    /// Commits a change of membership: labels first, then the host's witness.
    pub(crate) async fn commit_event(
        self: &Rc<Self>,
        held: &MutexGuard<'_, ()>,
    ) -> Result<(), RaidError> {
        self.ledger.borrow_mut().count_event();
        self.commit(held).await?;
        self.record_witness().await;
        Ok(())
    }

    /// Records who is in sync at this event. On return the host's witness says so, or the host has none, or the
    /// array is broken.
    ///
    /// A witness that stayed behind would vouch for disks that were thrown out since: alone at the next start,
    /// they would be taken for all that there is.
    pub(super) async fn record_witness(&self) {
        let witness = self.witness();
        let event = witness.event_count;
        if let Err(reason) = self.hooks.witness.record(witness).await {
            self.unrecorded.set(true);
            let forgotten = self.hooks.witness.forget(self.uuid).await;
            let outcome = match &forgotten {
                Ok(()) => {
                    "what it said before is gone, so that a start without all members in sync may want --force"
                }
                Err(_) => "and what it said before can't be removed",
            };
            self.report(
                EventKind::WitnessFailed,
                None,
                format!("{reason}; {outcome}"),
            );
            if let Err(stays) = forgotten
                && self.could_run_without_others()
            {
                self.fail(
                    None,
                    format!(
                        "who is in sync can't be recorded in the state directory ({reason}; {stays}), and \
                         disks that were thrown out could run alone after a restart: mend it and restart"
                    ),
                );
            }
        } else {
            self.unrecorded.set(false);
        }
        self.witnessed.set(self.witnessed.get().max(event));
    }

    /// Tries again to record what couldn't be.
    async fn record_witness_again(&self) {
        let _held = self.labels.lock().await;
        // What no label says can't be told of.
        let is_said = self.broken.borrow().is_none() && !self.ledger.borrow().has_uncommitted();
        if is_said
            && self.unrecorded.get()
            && self.hooks.witness.record(self.witness()).await.is_ok()
        {
            self.unrecorded.set(false);
        }
    }

    fn witness(&self) -> Witness {
        let ledger = self.ledger.borrow();
        let label = ledger.label();
        let members = label.table.iter();
        Witness {
            array: self.uuid,
            event_count: label.event_count,
            members: members.map(|entry| (entry.uuid, entry.state)).collect(),
        }
    }

    /// Whether as many members as may be out are enough to run.
    fn could_run_without_others(&self) -> bool {
        self.geometry.redundancy() * 2 >= self.geometry.members()
    }

    /// Makes every completed write durable on every member and journal disk.
    pub(crate) async fn flush_all(self: &Rc<Self>) -> Result<(), IoErrorKind> {
        self.flushes
            .pass(&self.env.spawn, || {
                let array = Rc::clone(self);
                Box::pin(array.flush_disks())
            })
            .await;
        self.settle().await;
        self.check_alive()
    }

    pub(super) async fn flush_disks(self: Rc<Self>) {
        let disks = self.flushed_disks();
        let journal = self.journal();
        let logged = journal.as_ref().map(|journal| journal.logged());
        let maps = self.missed.written();
        let bypassed = self.unflushed.noted();
        let cached = disks.iter().filter(|disk| disk.has_write_cache());
        let flushes = cached.map(|disk| async {
            let flushed = disk.flush().await;
            if let Err(error) = &flushed {
                // What a failed flush lost can't be known, and a later success proves nothing
                // (fault D3): the disk is out, and not only when the last disk has answered.
                disk.count_error(error);
                self.throw_out(disk, &error.to_string());
            }
            flushed.is_ok()
        });
        if join_all(flushes).await.contains(&false) {
            self.settle().await;
        }
        if let (Some(journal), Some(logged)) = (journal, logged) {
            journal.note_flushed(logged);
            self.cleared.flushed(journal.durable());
        }
        self.missed.note_flushed(maps);
        self.unflushed.flushed(bypassed);
    }

    /// Writes the changed map pages to every member, after a flush of the data they speak of.
    pub(crate) async fn checkpoint(self: &Rc<Self>) -> Result<(), IoErrorKind> {
        self.checkpoints
            .pass(&self.env.spawn, || {
                let array = Rc::clone(self);
                Box::pin(array.write_pages())
            })
            .await;
        self.settle().await;
        self.check_alive()
    }

    async fn write_pages(self: Rc<Self>) {
        // Taken before the flush: a bit that is set meanwhile waits for the next run.
        let (pages, dirty) = {
            let mut space = self.space.borrow_mut();
            (space.pages(), space.take_dirty())
        };
        if dirty.is_empty() && !self.has_dirty_sums() {
            return;
        }
        if let Some(journal) = self.journal()
            && journal.logged_below(journal.next()).await.is_err()
        {
            // No page tells of what a record did that is never logged: a row that was given back, an extent.
            return;
        }
        if self.save_refilled().await.is_err() {
            return;
        }
        self.clone().flush_disks().await;
        if self.has_dirty_sums() {
            // Before the bits: whoever finds a row written must find its sums.
            self.write_sums().await;
            self.clone().flush_disks().await;
            self.settle().await;
            if self.check_alive().is_err() {
                // Perhaps no copy of them was written: then nobody must find the row written.
                return;
            }
            self.note_sums_flushed();
        }
        let dirty: Vec<WrittenPage> = dirty
            .into_iter()
            .map(|(page, generation, bytes)| (page, generation, Buf::copy_of(&bytes).freeze()))
            .collect();
        let disks = self.ledger.borrow().with_data();
        let results = join_all(disks.iter().map(|disk| write_pages_to(disk, pages, &dirty))).await;
        for (disk, result) in disks.iter().zip(results) {
            if let Err(error) = result {
                self.write_failed(disk, &error).await;
            }
        }
    }

    /// Gives members the newest map pages that they lack. They are durable before newer ones are written:
    /// a flush comes first then.
    pub(super) async fn bring_maps_level(self: &Rc<Self>, behind: &[(Rc<Disk>, Vec<WrittenPage>)]) {
        let pages = self.space.borrow().pages();
        for (disk, lacking) in behind.iter().filter(|(disk, _)| !disk.out.get()) {
            if let Err(error) = write_pages_to(disk, pages, lacking).await {
                self.write_failed(disk, &error).await;
            }
        }
    }

    /// Enters a write: the labels say that parity may not match, before the first changes anything.
    pub(crate) async fn begin_write(self: &Rc<Self>) -> Result<ActiveWrite, IoErrorKind> {
        loop {
            if self.stopping.get() {
                return Err(IoErrorKind::Stopped);
            }
            self.check_alive()?;
            if self.is_read_only() {
                return Err(IoErrorKind::ReadOnly);
            }
            if self.dirty.get() {
                self.active_writes.set(self.active_writes.get() + 1);
                self.note_client_io();
                return Ok(ActiveWrite(Rc::clone(self)));
            }
            let held = self.labels.lock().await;
            if !self.dirty.get() && !self.stopping.get() {
                self.ledger.borrow_mut().set_clean(false);
                self.commit(&held).await.map_err(|_| IoErrorKind::Lost)?;
                self.dirty.set(true);
            }
        }
    }

    /// Marks the labels clean, if no write is on its way. A disk that fails its flush for it is thrown
    /// out, and the labels stay dirty until the next time.
    pub(crate) async fn mark_clean(self: &Rc<Self>) -> Result<(), RaidError> {
        let held = self.labels.lock().await;
        let doubtful = self.doubtful.get() || self.broken.borrow().is_some();
        // A disk that is out and still a member in the ledger isn't flushed below: first it has to go.
        let unsettled = self.has_thrown_out();
        let logged = self
            .journal()
            .is_some_and(|journal| journal.floor() < journal.next());
        if !self.dirty.get() || self.active_writes.get() > 0 || doubtful || unsettled || logged {
            return Ok(());
        }
        // Writers that come from here on wait for `held` in `begin_write`.
        self.dirty.set(false);
        let disks = self.flushed_disks();
        let flushed = join_all(disks.iter().map(|disk| disk.flush())).await;
        let mut lost_some = false;
        for (disk, result) in disks.iter().zip(flushed) {
            if let Err(error) = result {
                // As in `flush_disks`: out, and never asked again.
                disk.count_error(&error);
                lost_some |= self.put_out(disk, &error.to_string());
            }
        }
        if lost_some {
            self.dirty.set(true);
            self.commit_event(&held).await?;
            self.after_loss().await;
            return Ok(());
        }
        if self.has_thrown_out() {
            self.dirty.set(true);
            return Ok(());
        }
        self.ledger.borrow_mut().set_clean(true);
        self.ledger.borrow_mut().note_drained(None);
        // Twice, so that both slots say so: the loss of the newest label must not cost a clean stop.
        self.commit(&held).await?;
        self.commit(&held).await
    }

    /// Idle work, until the array is dropped or stops.
    pub(super) fn start_idle_work(self: &Rc<Self>) {
        let (weak, clock) = (Rc::downgrade(self), Rc::clone(&self.env.clock));
        self.env.spawn.spawn(Box::pin(async move {
            loop {
                clock.sleep(IDLE_LOOK).await;
                let Some(array) = weak.upgrade() else { return };
                if array.stopping.get() {
                    return;
                }
                if array.unrecorded.get() {
                    array.record_witness_again().await;
                }
                let idle = clock.now().since(array.last_client_io.get());
                if array.dirty.get() && array.active_writes.get() == 0 && idle >= CLEAN_AFTER {
                    let _ = array.settle_journal().await;
                    // A failure has ejected its disk and been reported by then.
                    let _ = array.mark_clean().await;
                }
            }
        }));
    }
}

async fn write_pages_to(disk: &Disk, pages: usize, dirty: &[WrittenPage]) -> Result<(), IoError> {
    let layout = disk.layout.get().unwrap_or_default();
    for some in dirty.chunks(PAGES_AT_ONCE) {
        let writes = some.iter().map(|(page, generation, bytes)| {
            let offset = page_offset(&layout, pages, *page, *generation);
            disk.write_at(offset, bytes.clone(), WriteFlags::default())
        });
        let written: Result<(), IoError> = join_all(writes).await.into_iter().collect();
        written?;
    }
    Ok(())
}
