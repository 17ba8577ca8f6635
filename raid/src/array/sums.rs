//! The array's checksums at work: pages brought in, blocks verified, sums noted, pages written.
//!
//! Invariants
//! - A block's sum is noted once the block is in place on every member that has a place for it, under
//!   the lock of its columns and while its pages are held.
//! - The pages are written after a flush of the blocks they speak of, and before the map and the floor.
//! - An array without checksums passes through here without I/O.

use std::rc::Rc;
use std::time::Duration;

use cairn_blockdev::IoErrorKind;
use cairn_blockdev::units::{BLOCK_BYTES, u64_of, usize_of};

use super::Array;
use super::disk::Disk;
use crate::error::RaidError;
use crate::events::EventKind;
use crate::geometry::{Columns, Role, Row, Slot};
use crate::integrity::cache::Verdict;
use crate::integrity::store::{Flaw, SumsError};
use crate::integrity::{Ready, Sums};
use crate::mutation::{Mutation, on};
use crate::stripe::overlay::Overlay;
use crate::stripe::transaction::NewParity;
use crate::stripe::view::RowView;

/// A page that is lost is told of again after this long, if it is asked for.
const TOLD_AGAIN_AFTER: Duration = Duration::from_mins(10);

impl Array {
    /// The members in sync, by slot: those whose copies of pages count.
    pub(super) fn sums_disks(&self) -> Vec<Option<Rc<Disk>>> {
        let ledger = self.ledger.borrow();
        let slots = ledger.slots().iter();
        slots
            .map(|slot| slot.member.clone().filter(|disk| !disk.out.get()))
            .collect()
    }

    /// Whether every member's zone can hold its copies of pages.
    pub(super) fn check_sums_fit(&self) -> Result<(), RaidError> {
        let Some(sums) = &self.sums else {
            return Ok(());
        };
        let live = self.ledger.borrow().live();
        for disk in live.iter().filter(|disk| !disk.ring_only.get()) {
            let layout = disk.layout.get().unwrap_or_default();
            if !sums.places().fits(&layout) {
                return Err(RaidError::Format {
                    disk: disk.path.to_string(),
                    reason: "its zone for checksums is too small for this array's".into(),
                });
            }
        }
        Ok(())
    }

    /// Holds the pages of columns in memory.
    pub(crate) async fn sums_ready(
        self: &Rc<Self>,
        row: Row,
        cols: &Columns,
    ) -> Result<Option<Ready>, IoErrorKind> {
        let Some(sums) = &self.sums else {
            return Ok(None);
        };
        let disks = self.sums_disks();
        let mut ready = sums.ready(&disks, row, cols.clone()).await;
        // What nothing was written to yet isn't lost with it: damage in a page that was never used is found by no scrub.
        if matches!(ready, Err(SumsError::Lost { .. })) && self.sums_speak_of_nothing(row, cols) {
            ready = sums.ready_or_blank(&disks, row, cols.clone()).await;
        }
        self.note_findings(sums);
        ready.map(Some).map_err(|error| self.sums_lost(&error))
    }

    /// As [`Array::sums_ready`], with the copies of the pages that are at hand: for reads, which wait for no slow disk.
    pub(crate) async fn sums_at_hand(
        self: &Rc<Self>,
        row: Row,
        cols: &Columns,
    ) -> Result<Option<Ready>, IoErrorKind> {
        let Some(sums) = &self.sums else {
            return Ok(None);
        };
        let disks = self.sums_disks();
        match sums.at_hand(&disks, row, cols.clone()).await {
            Ok(ready) => {
                self.note_findings(sums);
                Ok(Some(ready))
            }
            Err(_) => self.sums_ready(row, cols).await,
        }
    }

    /// Whether a page of some columns was read without all of its copies: it may be old, and nothing is to be mended by it.
    pub(crate) fn sums_are_partial(&self, row: Row, cols: &Columns) -> bool {
        let sums = self.sums.as_ref();
        sums.is_some_and(|sums| sums.is_partial(row, cols))
    }

    /// Whether no row that the pages of some columns speak of was written. What is written is in the map after its
    /// pages are durable; before that it is in the journal, sums and all.
    fn sums_speak_of_nothing(&self, row: Row, cols: &Columns) -> bool {
        let Some(sums) = &self.sums else {
            return true;
        };
        let space = self.space.borrow();
        let mut rows = sums
            .places()
            .runs(row, cols.clone())
            .map(|run| sums.places().rows(run.page));
        rows.all(|rows| {
            space
                .next_written(rows.start)
                .is_none_or(|next| next >= rows.end)
        })
    }

    fn sums_lost(&self, error: &SumsError) -> IoErrorKind {
        if self.is_news(error) {
            self.report(EventKind::BadBlock, None, error.to_string());
        }
        IoErrorKind::Lost
    }

    /// Whether that hasn't been said lately: who waits for a page asks for it again and again.
    fn is_news(&self, error: &SumsError) -> bool {
        let SumsError::Lost { page, .. } = error else {
            return true;
        };
        let now = self.env.clock.now();
        let mut told = self.pages_told.borrow_mut();
        told.retain(|_, at| now.since(*at) < TOLD_AGAIN_AFTER);
        let news = !told.contains_key(page);
        told.entry(*page).or_insert(now);
        news
    }

    /// Counts what was found wrong with copies of pages. After a crash a copy may be behind; that is
    /// nobody's fault, and no disk's while the array is being started.
    pub(super) fn take_findings(&self, sums: &Sums) -> bool {
        let findings = sums.take_findings();
        let any = !findings.is_empty();
        for finding in findings {
            match finding.flaw {
                Flaw::Stale { .. } if !self.is_open() => {}
                Flaw::Stale { generation, newest } => {
                    finding.disk.count(|errors| errors.generation += 1);
                    let detail = format!(
                        "checksum page {} is of generation {generation}, others say {newest}: the \
                         disk lost writes or is an older image of itself",
                        finding.page.0
                    );
                    self.report(EventKind::DiskError, Some(&finding.disk.path), detail);
                }
                Flaw::Damaged | Flaw::Differs => {
                    finding.disk.count(|errors| errors.corruption += 1);
                }
                Flaw::Unreadable(error) => finding.disk.count_error(&error),
            }
        }
        any
    }

    /// As [`Array::take_findings`], and has the pages written if they become many: where nobody writes nothing else would, and
    /// they stay in memory until then.
    pub(super) fn note_findings(self: &Rc<Self>, sums: &Sums) {
        let mends = self.take_findings(sums)
            && self.is_open()
            && !self.is_stopping()
            && !self.is_read_only();
        if let Some(mending) = mends.then(|| sums.begin_mending()).flatten() {
            let array = Rc::clone(self);
            self.env.spawn.spawn(Box::pin(async move {
                // A disk that fails in it is thrown out, and the rest is told by the next one.
                let _ = array.checkpoint().await;
                mending.set(false);
            }));
        }
    }

    /// Whether blocks are what was written there. The caller holds the lock of their columns, or
    /// takes a no for a reason to get it.
    pub(crate) async fn verified(
        self: &Rc<Self>,
        row: Row,
        slot: Slot,
        cols: &Columns,
        data: &[u8],
    ) -> Result<bool, IoErrorKind> {
        let Some(sums) = &self.sums else {
            return Ok(true);
        };
        if on(Mutation::ParityFromUnverified) {
            return Ok(true);
        }
        let mut verdict = sums.verify(row, cols.start, slot, data);
        if matches!(verdict, Verdict::Absent) {
            let _ready = self.sums_at_hand(row, cols).await?;
            verdict = sums.verify(row, cols.start, slot, data);
        } else {
            sums.note_hit();
        }
        Ok(matches!(verdict, Verdict::Good))
    }

    /// The crc of what was written at a block, if the array has sums and its page is held.
    pub(crate) fn expected_sum(&self, row: Row, col: u64, slot: Slot) -> Option<u32> {
        self.sums.as_ref()?.crc(slot, row, col)
    }

    /// Whether a column's checksums are those of a page that was begun anew. Its page is held.
    pub(crate) fn sums_say_nothing(&self, row: Row, col: u64) -> bool {
        let sums = self.sums.as_ref();
        sums.is_some_and(|sums| sums.says_nothing(row, col))
    }

    /// The sums of a row's data as it lies in place: all of them or none. Its pages are held.
    pub(crate) fn sums_in_place(&self, row: Row) -> Vec<u32> {
        let Some(sums) = &self.sums else {
            return Vec::new();
        };
        let cols = self.geometry.chunk_blocks();
        if (0..cols).any(|col| sums.says_nothing(row, col)) {
            return Vec::new();
        }
        let mut slots = (0..self.geometry.data_chunks()).map(|i| self.geometry.data_slot(row, i));
        let mut crcs = Vec::with_capacity(self.geometry.data_chunks() * usize_of(cols));
        if slots.all(|slot| sums.append_crcs(slot, row, 0..cols, &mut crcs)) {
            crcs
        } else {
            Vec::new()
        }
    }

    /// Notes the sums of what a transaction has put in place; its pages are held.
    pub(crate) fn note_sums(&self, view: &RowView, overlay: &Overlay, parity: &[NewParity]) {
        if self.sums.is_some() {
            self.note_known_sums(view, overlay, parity, &Self::block_sums(overlay));
        }
    }

    /// The sum of every block of what is written, in the order of its runs.
    fn block_sums(overlay: &Overlay) -> Vec<u32> {
        let blocks = overlay
            .runs()
            .flat_map(|(_, run)| run.data.chunks(BLOCK_BYTES));
        blocks.map(cairn_blockdev::crc::crc32c).collect()
    }

    /// [`Array::note_sums`], with the data's [`Array::block_sums`].
    pub(crate) fn note_known_sums(
        &self,
        view: &RowView,
        overlay: &Overlay,
        parity: &[NewParity],
        crcs: &[u32],
    ) {
        let Some(sums) = &self.sums else {
            return;
        };
        let mut rest = crcs;
        for (index, run) in overlay.runs() {
            let (of_run, others) = rest.split_at(run.data.len() / BLOCK_BYTES);
            rest = others;
            for slot in view.slots_of(index) {
                sums.set(slot, view.row, run.col, of_run);
            }
        }
        for new in parity {
            if let Some(slot) = view.parity_slot(new.role) {
                match &new.sums {
                    Some(crcs) => sums.set(slot, view.row, new.col, crcs),
                    None => self.note_blocks(view.row, slot, new.col, &new.data),
                }
            }
        }
    }

    /// Notes the sums of blocks of one slot; their pages are held.
    pub(crate) fn note_blocks(&self, row: Row, slot: Slot, col: u64, data: &[u8]) {
        if let Some(sums) = &self.sums {
            let crcs: Vec<u32> = data
                .chunks(BLOCK_BYTES)
                .map(cairn_blockdev::crc::crc32c)
                .collect();
            sums.set(slot, row, col, &crcs);
        }
    }

    /// Whether the sums of a slot's chunk are these blocks' already; their pages are held.
    pub(crate) fn is_noted(&self, row: Row, slot: Slot, data: &[u8]) -> bool {
        let sums = self.sums.as_ref();
        sums.is_none_or(|sums| matches!(sums.verify(row, 0, slot, data), Verdict::Good))
    }

    /// Has the pages of a row written to whoever is being filled.
    pub(crate) fn touch_sums(&self, row: Row) {
        if let Some(sums) = &self.sums {
            sums.touch(row, 0..self.geometry.chunk_blocks());
        }
    }

    /// Another disk has come to a slot.
    pub(crate) fn sums_joined(&self, slot: Slot) {
        if let Some(sums) = &self.sums {
            sums.joined(slot);
        }
    }

    /// Whether the array has checksums.
    pub(crate) fn has_sums(&self) -> bool {
        self.sums.is_some()
    }

    pub(crate) fn has_dirty_sums(&self) -> bool {
        self.sums
            .as_ref()
            .is_some_and(|sums| sums.stats().dirty > 0)
    }

    /// Writes the pages that changed. Part of a checkpoint, of which there is one at a time.
    pub(crate) async fn write_sums(self: &Rc<Self>) {
        let Some(sums) = &self.sums else { return };
        let targets: Vec<(Slot, Rc<Disk>)> = self
            .slot_targets()
            .into_iter()
            .map(|(slot, disk)| (Slot(slot), disk))
            .collect();
        let generation = self.journal().map_or(0, |journal| journal.next().0);
        let disks = self.sums_disks();
        for (disk, error) in sums.write_dirty(&disks, &targets, generation).await {
            self.write_failed(&disk, &error).await;
        }
        self.take_findings(sums);
    }

    /// The pages that were written are durable.
    pub(crate) fn note_sums_flushed(&self) {
        if let Some(sums) = &self.sums {
            sums.flushed();
        }
    }

    /// Whether solved data is what was written: what stands in for a lost block is checked as that.
    pub(crate) async fn solved_right(
        self: &Rc<Self>,
        view: &RowView,
        index: usize,
        cols: &Columns,
        data: &[u8],
    ) -> Result<bool, IoErrorKind> {
        let slot = self.geometry.data_slot(view.row, index);
        debug_assert!(matches!(self.geometry.role(view.row, slot), Role::Data(_)));
        debug_assert_eq!(u64_of(data.len() / BLOCK_BYTES), cols.end - cols.start);
        self.verified(view.row, slot, cols, data).await
    }
}
