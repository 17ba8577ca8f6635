//! Complete rows go straight to the members: the journal gets an intent instead of the payload.
//!
//! The intent has the sum of every block as it will be, and as it is: a page of sums may be written before
//! the row it speaks of is durable, and a power cut takes the row back. A restart compares: a block is new, or
//! an older record's, or old, or was torn and never acked (raid/README.md, Journal).
//!
//! Invariants
//! - The intent is durable before a row that was written is overwritten. Without that, a row torn by
//!   a power cut would match neither its old nor its new sums. A row that was trimmed counts as written
//!   until that is durable: a power cut brings it back.
//! - Of a row that was never written the parity is durable before any of its data is in place: if a
//!   crash takes a member along, its blocks can be solved, or the data hadn't all arrived and the row is
//!   as it was, zeros. (A row that was written has its old data to lose as well: the exception.)
//! - What the last intent of a row announced is durable before the row gets another one, or a note; and that what it
//!   healed is off the bad-block list, before it gets another one.
//! - Older records of the row stay in the journal until what was written here is flushed.
//! - A chunk without a member to go to is in the journal.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use cairn_blockdev::units::{BLOCK_BYTES, u64_of};
use cairn_blockdev::{IoErrorKind, SharedBuf, WriteFlags};

use super::cache::Pending;
use super::complete::Summed;
use super::overlay::Overlay;
use super::transaction::{DiskWrite, NewParity};
use super::view::RowView;
use crate::array::Array;
use crate::array::disk::Disk;
use crate::geometry::Row;
use crate::journal::entry::{Entry, Kind, Seq};
use crate::journal::log::{Hold, Journal};
use crate::level::Level;
use crate::mutation::{Mutation, on};

/// What covers all of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whole {
    /// The queued writes.
    Batch,
    /// The queued writes over what is logged and not in place.
    WithLogged,
}

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bypassed {
    /// It is in place.
    InPlace,
    /// Nothing happened: what was to complete the row has changed meanwhile.
    Outdated,
}

/// A row that is about to be written as a whole.
struct Complete<'a> {
    view: &'a RowView,
    overlay: &'a Overlay,
    /// Of its data, block by block.
    sums: &'a [u32],
    parity: &'a [NewParity],
    /// What lies in place may be needed after a power cut.
    has_old: bool,
}

/// Complete rows that are in place and not flushed yet.
#[derive(Default)]
pub(crate) struct Unflushed {
    /// By the count of notes at which each was last written.
    rows: RefCell<BTreeMap<Row, u64>>,
    noted: Cell<u64>,
}

impl Unflushed {
    fn note(&self, row: Row) {
        self.noted.set(self.noted.get() + 1);
        self.rows.borrow_mut().insert(row, self.noted.get());
    }

    fn has(&self, row: Row) -> bool {
        self.rows.borrow().contains_key(&row)
    }

    /// Whether a row that was in place at that count isn't flushed yet.
    pub(crate) fn has_until(&self, noted: u64) -> bool {
        self.rows.borrow().values().any(|at| *at <= noted)
    }

    /// What a flush that begins now makes durable.
    pub(crate) fn noted(&self) -> u64 {
        self.noted.get()
    }

    /// A flush that began at that count is over.
    pub(crate) fn flushed(&self, noted: u64) {
        self.rows.borrow_mut().retain(|_, at| *at > noted);
    }
}

impl Array {
    /// Writes a complete row.
    pub(super) async fn bypass(
        self: &Rc<Self>,
        row: Row,
        journal: &Rc<Journal>,
        batch: &[Pending],
    ) -> Result<Bypassed, IoErrorKind> {
        // The chunks that may have no member to go to, now or in a replay, which logs them before it
        // writes the row's parity anew, and has no other way to room than what is admitted here.
        let row_bytes = self.geometry.row_bytes();
        let homeless = match self.geometry.level() {
            // A mirror that runs has a member for everything.
            Level::Raid1 => 0,
            _ => u64_of(self.geometry.redundancy()) * self.geometry.chunk_bytes(),
        };
        // Those of the row as it will be, and as it is.
        let sums = row_bytes / u64_of(BLOCK_BYTES) * 4 * 2;
        let payload = homeless.clamp(sums, row_bytes);
        let admission = journal
            .admit(cairn_blockdev::units::usize_of(payload))
            .await?;
        let _memory = self.memory.acquire(self.row_cost).await;
        let _lock = self.cache.lock(row, 0..self.geometry.chunk_blocks()).await;
        self.check_alive()?;
        let mut view = self.view(row);
        // Anything may have happened to what is logged while this waited for the row.
        let pin = self.dirty_rows.pin(row);
        let Some(whole) = self.whole_with(row, batch) else {
            return Ok(Bypassed::Outdated);
        };
        let logged = match whole {
            Whole::Batch => Vec::new(),
            Whole::WithLogged => self.logged_of_row(row),
        };
        // Every byte is covered, so that nothing is read for a partly written block.
        let mut overlay = self.gather(&mut view, true, &logged, batch).await?;
        overlay.coalesce(&self.pool);
        let Summed { parity, sums } = self.sum_complete(&view, &overlay);
        let fresh = !self.space.borrow().is_written(row);
        let has_old = self.has_old(row, journal);
        // It came to hold something since it was queued, or the setting has changed.
        if has_old && !self.overwrites_in_place() {
            return Ok(Bypassed::Outdated);
        }
        // An intent says that the one before it is in place, durably.
        self.flush_bypassed([row]).await?;
        self.settle_healed(row).await?;
        let _sums = self
            .sums_ready(row, &(0..self.geometry.chunk_blocks()))
            .await?;
        // A write that was logged since is newer than what was laid under the batch.
        if whole == Whole::WithLogged && (pin.is_outdated() || self.has_losses(row)) {
            return Ok(Bypassed::Outdated);
        }
        drop(pin);
        let overlay = Rc::new(overlay);
        // From here to the hold nothing awaits: sequence, newest contents and hold belong together.
        let before = if fresh {
            Vec::new()
        } else {
            self.sums_in_place(row)
        };
        let announced = [sums.as_slice(), &before].concat();
        let entry = Entry::without_payload(Kind::Intent, row.0 * row_bytes, row_bytes, announced);
        let first = if !has_old || on(Mutation::IntentNotDurable) {
            self.log(journal, entry, Vec::new(), Some(admission))
        } else {
            self.log_through(journal, entry, admission)
        };
        self.log_homeless(journal, &view, &overlay);
        let end = journal.next();
        self.note_in_place(row, end);
        if on(Mutation::IntentHeals) {
            self.heal_row(row);
        }
        let superseded = self.dirty_rows.supersede(row, Rc::clone(&overlay));
        let keep = superseded.unwrap_or(first).min(first);
        let hold = journal.hold(if on(Mutation::TrimBeforeBypassFlushed) {
            end
        } else {
            keep
        });
        let complete = Complete {
            view: &view,
            overlay: &overlay,
            sums: &sums,
            parity: &parity,
            has_old,
        };
        let done = self.bypass_in_place(journal, end, complete, fresh).await;
        // If it isn't, the array has failed, and the next start finds everything in the journal. Until
        // then reads go on finding what superseded the older data.
        done?;
        // Not before: a list without its lost blocks may be durable before the row is.
        self.heal_row(row);
        self.dirty_rows.applied(row);
        self.in_place(hold);
        self.kick_apply_if_crowded(journal);
        self.before_ack().await.map(|()| Bypassed::InPlace)
    }

    async fn bypass_in_place(
        self: &Rc<Self>,
        journal: &Rc<Journal>,
        end: Seq,
        complete: Complete<'_>,
        fresh: bool,
    ) -> Result<(), IoErrorKind> {
        let Complete {
            view,
            overlay,
            sums,
            parity,
            has_old,
        } = complete;
        let row = view.row;
        journal.logged_below(end).await?;
        if has_old && journal.durable() < end && !on(Mutation::IntentNotDurable) {
            self.flush_all().await?;
        }
        // The intent may be on disks that no label tells of yet.
        self.settle().await;
        self.check_alive()?;
        let of_row = |writes: Vec<DiskWrite>| writes.into_iter().map(move |write| (row, write));
        let data = of_row(Self::data_writes(view, overlay));
        let of_parity = of_row(Self::parity_writes(view, parity));
        if fresh {
            let through = WriteFlags { fua: true };
            self.write_all(of_parity, through).await?;
            self.write_all(data, WriteFlags::default()).await?;
        } else {
            let writes = data.chain(of_parity);
            self.write_all(writes, WriteFlags::default()).await?;
        }
        self.unflushed.note(row);
        self.note_known_sums(view, overlay, parity, sums);
        if fresh {
            self.space.borrow_mut().mark(row, true);
        }
        Ok(())
    }

    /// Makes those of `rows` durable that were written as complete rows since the last flush.
    pub(super) async fn flush_bypassed(
        self: &Rc<Self>,
        rows: impl IntoIterator<Item = Row>,
    ) -> Result<(), IoErrorKind> {
        if rows.into_iter().any(|row| self.unflushed.has(row)) {
            self.flush_all().await?;
        }
        Ok(())
    }

    /// Takes a row's written bit away; the record says so.
    pub(crate) fn clear_by(&self, row: Row, seq: Seq) {
        let mut space = self.space.borrow_mut();
        if space.is_written(row) {
            self.cleared.note(row, seq);
            space.mark(row, false);
        }
    }

    /// Whether a row that counts as never written may be written again after a power cut.
    pub(super) fn may_return(&self, row: Row, journal: &Journal) -> bool {
        self.cleared.may_return(row, journal.durable())
    }

    /// Whether a row that is complete may go to the members at once, as the array is set: what it holds can be
    /// lost only if it holds something.
    pub(super) fn may_bypass(&self, row: Row, journal: &Journal) -> bool {
        self.overwrites_in_place() || !self.has_old(row, journal)
    }

    /// Whether what lies in the row's place may be needed after a power cut.
    fn has_old(&self, row: Row, journal: &Journal) -> bool {
        self.space.borrow().is_written(row) || self.may_return(row, journal)
    }

    /// Whether a data chunk of the row has no member to go to. A disk that is being filled doesn't
    /// count: after a crash it begins where its cursor was.
    pub(super) fn is_homeless(members: &[Rc<Disk>], view: &RowView, index: usize) -> bool {
        let is_member = |disk: &Rc<Disk>| members.iter().any(|member| Rc::ptr_eq(member, disk));
        !view
            .slots_of(index)
            .any(|slot| view.writers(slot).iter().any(is_member))
    }

    /// Logs the chunks of a complete row that have no member to go to.
    fn log_homeless(self: &Rc<Self>, journal: &Rc<Journal>, view: &RowView, overlay: &Overlay) {
        let members = self.in_sync();
        for (index, run) in overlay.runs() {
            if !Self::is_homeless(&members, view, index) {
                continue;
            }
            let chunk = self.geometry.chunk_bytes();
            let base = view.row.0 * self.geometry.row_bytes() + u64_of(index) * chunk;
            let mut at = base + run.col * cairn_blockdev::units::BLOCK;
            let mut rest: SharedBuf = run.data.clone();
            while !rest.is_empty() {
                let len = rest.len().min(crate::journal::log::RECORD_PAYLOAD_MAX);
                let part = rest.slice(0..len);
                let entry = Entry::with_payload(Kind::Data, at, &part);
                self.log(journal, entry, vec![part], None);
                rest = rest.slice(len..rest.len());
                at += u64_of(len);
            }
        }
    }

    /// What `hold` keeps in the journal is in place: the next flush of all members lets it go.
    fn in_place(&self, hold: Hold) {
        self.bypassed.borrow_mut().push(hold);
    }
}
