//! Replay: after an unclean stop the journal's records go to their places before anything is served.
//!
//! 1. Scan the ring of every member in sync and of every journal disk; the union of the copies is the journal ([`crate::journal::union`]).
//! 2. Zero the descriptors of the torn tail, so that its sequences can be given again; copy what too few
//!    members have.
//! 3. Go through the records in order: what they change in the map, and per row its [`RowHistory`].
//! 4. Rows with notes: finish the noted transaction. Its parity may be half written, so it is computed
//!    from data; a lost block is solved per sector, with the equation that its parity's note tells.
//! 5. Rows with intents, as many at once as memory has room for: tell new blocks from old by the intent's sums, and
//!    write the row anew.
//! 6. Everything else is dirty as before the stop, and the ordinary cycles apply it.
//!
//! Invariants
//! - Nothing is trimmed that isn't in place: a replay that is interrupted anywhere begins again and comes to the
//!   same end.
//! - An older record never goes over a newer one, nor over a complete row that was written past it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use cairn_blockdev::units::{BLOCK, BLOCK_BYTES, u64_of, usize_of};
use cairn_blockdev::{Buf, IoErrorKind, SharedBuf, WriteFlags};
use futures_util::future::join_all;

use super::history::{Layer, Note, RowHistory};
use super::overlay::Overlay;
use super::transaction::NewParity;
use super::versions::{Blocks, Speaking, Versions};
use super::view::RowView;
use super::word::bytes_of;
use crate::array::Array;
use crate::array::disk::Disk;
use crate::array::flights::Patience;
use crate::defects::{Place, Reason};
use crate::error::RaidError;
use crate::events::EventKind;
use crate::geometry::{Columns, Role, Row, Slot};
use crate::journal::entry::{Kind, Seq};
use crate::journal::log::{Hold, Journal};
use crate::journal::open::Opened;
use crate::journal::union::Record;
use crate::mutation::{Mutation, on};
use crate::parity::{compute_p, compute_q};

/// Rows whose noted transactions are finished at once.
const ROWS_AT_ONCE: usize = 16;

type Histories = BTreeMap<Row, RowHistory>;

impl Array {
    /// Brings what the journal holds to its place.
    pub(crate) async fn replay(
        self: &Rc<Self>,
        journal: &Rc<Journal>,
        opened: &Opened,
    ) -> Result<(), RaidError> {
        let histories = self.read_histories(opened).await?;
        self.write_journal_headers(journal, &self.with_rings())
            .await;
        self.flush_all().await.map_err(|_| self.lost_error())?;
        for (disk, error) in opened.cut_tail().await {
            self.write_failed(&disk, &error).await;
        }
        // Only now may anything be written behind the records: what follows says that they are durable.
        self.thicken(journal, opened).await;
        self.flush_all().await.map_err(|_| self.lost_error())?;
        let detail = format!(
            "{} records of {} rows after an unclean stop",
            opened.records().len(),
            histories.len()
        );
        // What isn't dirty yet keeps its records, whoever begins a cycle.
        let first = histories.values().map(RowHistory::first).min();
        let hold = first.map(|first| journal.hold(first));
        for row in histories.keys() {
            self.note_replayed(*row);
        }
        self.finish_noted(&histories).await?;
        let (with_intents, others): (Vec<_>, Vec<_>) = histories
            .into_iter()
            .partition(|(_, history)| history.has_intent());
        for (row, history) in others {
            self.make_dirty(row, &history);
        }
        self.pin_pending();
        if on(Mutation::ReplayNotIdempotent) {
            self.write_floor(journal, journal.next()).await;
        }
        self.settle_rows(journal, with_intents, hold).await?;
        while journal.applied() < journal.next() {
            self.cycle_of_replay(|| journal.applied()).await?;
        }
        self.settled.borrow_mut().clear();
        self.forget_looks();
        self.report(EventKind::JournalReplayed, None, detail);
        Ok(())
    }

    /// Puts rows with intents together, and brings all but the last of them to their places: memory never holds more of
    /// them at once than it has room for. `hold` is of the oldest record.
    async fn settle_rows(
        self: &Rc<Self>,
        journal: &Rc<Journal>,
        mut rows: Vec<(Row, RowHistory)>,
        mut hold: Option<Hold>,
    ) -> Result<(), RaidError> {
        // The oldest first, so that the journal gets room as it goes.
        rows.sort_by_key(|(row, history)| (history.first(), *row));
        let at_once = usize_of(u64::from(self.memory.size() / self.row_cost.max(1))).max(1);
        let mut left = VecDeque::from(rows);
        loop {
            let batch: Vec<_> = left.drain(..at_once.min(left.len())).collect();
            for some in batch.chunks(ROWS_AT_ONCE) {
                let settled = some
                    .iter()
                    .map(|(row, history)| self.settle_intents(*row, history));
                let settled = join_all(settled).await;
                self.check_listed()?;
                for ((row, _), settled) in some.iter().zip(settled) {
                    settled.map_err(|kind| self.stuck_at(*row, kind))?;
                }
            }
            // Before zeros take the place of what is lost.
            self.settle_losses().await.map_err(|_| self.lost_error())?;
            let Some(next) = left.front().map(|(_, history)| history.first()) else {
                return Ok(());
            };
            drop(hold.take());
            hold = (!on(Mutation::ReplayWithoutHold)).then(|| journal.hold(next));
            // Rows of one commit have the same place: those of this batch as well as the next one's.
            while self.dirty_rows.first().is_some_and(|first| first <= next) {
                self.cycle_of_replay(|| self.dirty_rows.oldest(1)).await?;
            }
        }
    }

    /// A cycle, unless nothing can bring `progress` forward any more.
    async fn cycle_of_replay<T: PartialEq>(
        self: &Rc<Self>,
        progress: impl Fn() -> T,
    ) -> Result<(), RaidError> {
        self.check_alive().map_err(|_| self.lost_error())?;
        let before = progress();
        self.run_cycle().await;
        // What this one couldn't finish is known only then.
        self.given_up().await;
        self.check_listed()?;
        match self.take_unvouched() {
            Some(row) if progress() == before && !self.look_in_replay(row).await => {
                Err(self.stuck_at(row, IoErrorKind::Lost))
            }
            // A look at it has a bound of its own.
            Some(_) => Ok(()),
            // Whatever the reason: a start that never ends tells nobody anything.
            None => match self.unfinished_for_long() {
                Some(row) if progress() == before => Err(self.stuck_at(row, IoErrorKind::Lost)),
                _ => Ok(()),
            },
        }
    }

    /// Goes through the records: the map as they leave it, and what each row needs.
    async fn read_histories(self: &Rc<Self>, opened: &Opened) -> Result<Histories, RaidError> {
        let mut rows = Histories::new();
        let listed: BTreeSet<Place> = {
            let defects = self.defects.borrow();
            defects.list().map(|(place, _)| place).collect()
        };
        for record in opened.records() {
            let entry = &record.entry;
            let (offset, end) = (entry.offset, entry.offset.saturating_add(entry.len));
            if entry.is_prepared() {
                self.replay_log(opened, record, &mut rows).await?;
                continue;
            }
            match entry.kind {
                Kind::Data => {
                    if !self.is_mapped(offset) {
                        continue;
                    }
                    let data = opened
                        .payload(record)
                        .await
                        .map_err(|error| self.unreadable_record(record.seq, &error.to_string()))?;
                    let (row, within) = self.geometry.locate(offset);
                    let history = rows.entry(row).or_insert_with(|| self.history(record.seq));
                    let end = (within + u64_of(data.len())).min(self.geometry.row_bytes());
                    for piece in self.geometry.pieces(within, end - within) {
                        let from = usize_of(piece.in_request);
                        let part = data.slice(from..from + usize_of(piece.len));
                        let col = piece.in_chunk / BLOCK;
                        self.heal(row, piece.index, &(col..col + piece.len / BLOCK));
                        history.data(record.seq, piece.index, col, part);
                    }
                }
                Kind::Zero => self.lose(record, &listed, &mut rows),
                Kind::Discard => {
                    let (first, last) =
                        (self.geometry.locate(offset).0, self.geometry.locate(end).0);
                    if on(Mutation::DiscardDoesNotRevoke) {
                        continue;
                    }
                    for row in first.0..last.0 {
                        rows.remove(&Row(row));
                        self.heal_row(Row(row));
                        self.space.borrow_mut().mark(Row(row), false);
                    }
                }
                Kind::Unmap => {
                    let (first, last) =
                        (self.geometry.locate(offset).0, self.geometry.locate(end).0);
                    rows.retain(|row, _| *row < first || *row >= last);
                    self.heal_rows(first..last);
                    let mut space = self.space.borrow_mut();
                    if let Some(extent) = space.extent_at(offset) {
                        space.unmap(extent);
                        space.release(extent);
                    }
                }
                Kind::Map => {
                    // What was put where it lies belonged to a mapping that is gone.
                    let (first, last) =
                        (self.geometry.locate(offset).0, self.geometry.locate(end).0);
                    rows.retain(|row, _| *row < first || *row >= last);
                    self.heal_rows(first..last);
                    let mut space = self.space.borrow_mut();
                    if let Some(extent) = space.extent_at(offset) {
                        space.adopt(extent, entry.tag.bytes());
                    }
                }
                Kind::Intent => {
                    if self.is_mapped(offset) {
                        let (row, _) = self.geometry.locate(offset);
                        if on(Mutation::IntentHeals) {
                            self.heal_row(row);
                        }
                        let history = rows.entry(row).or_insert_with(|| self.history(record.seq));
                        for (index, col) in history.intent(entry.sums.clone()) {
                            self.heal(row, index, &(col..col + 1));
                        }
                    }
                }
                Kind::Note => {
                    let chunk = self.geometry.chunk_bytes();
                    let row = Row(offset / chunk);
                    let first = offset % chunk / BLOCK;
                    // What a note below the floor covers is in place.
                    let counts = Seq(entry.arg) > opened.floor();
                    if let Some(history) = rows.get_mut(&row).filter(|_| counts) {
                        let cols = first..first + entry.len / BLOCK;
                        history.note(Note::new(entry, cols));
                    }
                }
                Kind::Commit | Kind::Abort | Kind::Meta => {
                    self.replay_log(opened, record, &mut rows).await?;
                }
                // Only logs have them.
                Kind::Barrier => {}
            }
        }
        self.logs.book.borrow_mut().end_of_replay();
        Ok(rows)
    }

    /// Zeros that took the place of a block that was lost. `listed` is on the list whatever the journal says.
    fn lose(&self, record: &Record, listed: &BTreeSet<Place>, rows: &mut Histories) {
        if !self.is_mapped(record.entry.offset) {
            return;
        }
        let (row, within) = self.geometry.locate(record.entry.offset);
        let end = (within + record.entry.len).min(self.geometry.row_bytes());
        let history = rows.entry(row).or_insert_with(|| self.history(record.seq));
        for piece in self.geometry.pieces(within, end - within) {
            let first = piece.in_chunk / BLOCK;
            for col in first..first + piece.len / BLOCK {
                self.note_lost(row, piece.index, col, Reason::NotRebuilt);
                let place = self.place(row, piece.index, col);
                history.lost(piece.index, col, listed.contains(&place));
            }
            let zeros = self.pool.take_zeroed(usize_of(piece.len)).freeze();
            history.data(record.seq, piece.index, first, zeros);
        }
    }

    /// Brings a record to its log. What takes effect with it is the rows' from that place on.
    async fn replay_log(
        self: &Rc<Self>,
        opened: &Opened,
        record: &Record,
        rows: &mut Histories,
    ) -> Result<(), RaidError> {
        let mut payload = Vec::new();
        if record.entry.payload_len > 0 {
            let read = opened.payload(record).await;
            payload.push(
                read.map_err(|error| self.unreadable_record(record.seq, &error.to_string()))?,
            );
        }
        let mut book = self.logs.book.borrow_mut();
        let effects = book.take(record.seq, &record.entry, payload);
        drop(book);
        for held in effects {
            let mut puts = Vec::new();
            let has_data = |row| rows.contains_key(&row) || self.space.borrow().is_written(row);
            self.effects_of(&held, has_data, |row, index, col, data| {
                puts.push((row, index, col, data));
            });
            for (row, index, col, data) in puts {
                self.heal(row, index, &(col..col + u64_of(data.len()) / BLOCK));
                let history = rows.entry(row).or_insert_with(|| self.history(record.seq));
                history.data(record.seq, index, col, data);
            }
        }
        Ok(())
    }

    fn history(&self, first: Seq) -> RowHistory {
        RowHistory::new(self.geometry.data_chunks(), first)
    }

    fn is_mapped(&self, offset: u64) -> bool {
        let space = self.space.borrow();
        space
            .extent_at(offset)
            .is_some_and(|extent| space.owner(extent).is_some())
    }

    fn unreadable_record(&self, seq: Seq, why: &str) -> RaidError {
        RaidError::NotStarted {
            array: self.name().to_owned(),
            reason: format!(
                "journal record {seq} can't be read from any member: {why}; it holds acked writes: \
                 bring more members back"
            ),
            wait_may_help: true,
            force_may_help: false,
        }
    }

    /// What a row's records hold is newer than the members, as it was before the stop.
    fn make_dirty(&self, row: Row, history: &RowHistory) {
        for layer in history.layers() {
            if let Layer::Data(overlay) = layer {
                for (index, run) in overlay.runs() {
                    self.dirty_rows
                        .put(row, index, run.col, run.data.clone(), history.first());
                }
            }
        }
    }

    /// Finishes the noted transactions: parity of all rows, flushed, then data, flushed.
    async fn finish_noted(self: &Rc<Self>, histories: &Histories) -> Result<(), RaidError> {
        let noted: Vec<(&Row, &RowHistory)> = histories
            .iter()
            .filter(|(_, history)| !history.has_intent() && history.is_noted())
            .filter(|(row, _)| self.space.borrow().is_written(**row))
            .collect();
        for some in noted.chunks(ROWS_AT_ONCE) {
            let computed = some.iter().map(|(row, history)| async move {
                let mut view = self.view(**row);
                // What a disk that is slow holds isn't lost: others may not suffice in its place.
                view.wait_for_all();
                let mut whole = history.noted();
                let cols = 0..self.geometry.chunk_blocks();
                let sums = self.sums_ready(**row, &cols).await;
                let sums = sums.map_err(|kind| self.stuck_at(**row, kind))?;
                let mut parity = Vec::new();
                for note in history.notes() {
                    parity.extend(self.noted_parity(&view, &mut whole, (history, note)).await);
                }
                Ok::<_, RaidError>((**row, view, whole, parity, sums))
            });
            let computed: Result<Vec<_>, _> = join_all(computed).await.into_iter().collect();
            let computed = computed?;
            // Before zeros take the place of what is lost.
            self.check_listed()?;
            self.settle_losses().await.map_err(|_| self.lost_error())?;
            let end = self.journal().map_or(Seq::FIRST, |journal| journal.next());
            for (row, ..) in &computed {
                self.note_in_place(*row, end);
            }
            let put = async {
                let parity = computed.iter().flat_map(|(row, view, _, parity, _)| {
                    let writes = Self::parity_writes(view, parity);
                    writes.into_iter().map(|write| (*row, write))
                });
                self.write_all(parity, WriteFlags::default()).await?;
                self.flush_all().await?;
                let data = computed.iter().flat_map(|(row, view, whole, _, _)| {
                    let writes = Self::data_writes(view, whole);
                    writes.into_iter().map(|write| (*row, write))
                });
                self.write_all(data, WriteFlags::default()).await
            };
            put.await.map_err(|_| self.lost_error())?;
            for (_, view, whole, parity, _) in &computed {
                self.note_sums(view, whole, parity);
            }
        }
        if noted.is_empty() {
            return Ok(());
        }
        self.flush_all().await.map_err(|_| self.lost_error())
    }

    /// A row whose records can't be finished.
    fn stuck_at(&self, row: Row, kind: IoErrorKind) -> RaidError {
        RaidError::NotStarted {
            array: self.name().to_owned(),
            reason: format!(
                "the journal's records of row {} (byte {} of the data zones) can't be finished: {kind}; \
                 bring more members back",
                row.0,
                row.0 * self.geometry.chunk_bytes()
            ),
            wait_may_help: true,
            force_may_help: false,
        }
    }

    /// The parity that a note announced, computed from data. What is lost of the data is solved; what
    /// can't be is put on the list, and zeros take its place.
    async fn noted_parity(
        self: &Rc<Self>,
        view: &RowView,
        new: &mut Overlay,
        (history, note): (&RowHistory, &Note),
    ) -> Vec<NewParity> {
        let count = self.geometry.data_chunks();
        let mut parities: BTreeMap<bool, Buf> = BTreeMap::new();
        for (is_q, role) in [(false, Role::P), (true, Role::Q)] {
            if view.parity_wanted(role) {
                parities.insert(is_q, self.pool.take(bytes_of(&note.cols)));
            }
        }
        for col in note.cols.clone() {
            let cols = col..col + 1;
            // Who can't be read in one column may well be in the next.
            let mut here = view.clone();
            let mut wanted: Blocks = Vec::with_capacity(count);
            for index in 0..count {
                wanted.push(match new.get(index, &cols) {
                    Some(new) => Some(new),
                    None => self.read_in_place(&mut here, index, &cols).await,
                });
            }
            let lost: Vec<usize> = (0..count)
                .filter(|index| wanted.get(*index).is_some_and(Option::is_none))
                .collect();
            if !lost.is_empty() {
                let solutions = self.solutions(&here, col, &wanted, &[(new, note)]).await;
                for index in lost {
                    let slot = self.geometry.data_slot(view.row, index);
                    let sum = self.expected_sum(view.row, col, slot);
                    let right = |block: &&SharedBuf| {
                        sum.is_none_or(|sum| cairn_blockdev::crc::crc32c(block) == sum)
                    };
                    let mut found = solutions.iter().filter_map(|solved| solved.get(&index));
                    let block = found.find(right).cloned();
                    let block = block.unwrap_or_else(|| {
                        // What was logged while the cycle was planning comes after it.
                        if history.newest(index, &cols).is_none() {
                            self.note_lost(view.row, index, col, Reason::NotRebuilt);
                        }
                        let zeros = self.pool.take_zeroed(BLOCK_BYTES).freeze();
                        new.put(index, col, zeros.clone());
                        zeros
                    });
                    if let Some(place) = wanted.get_mut(index) {
                        *place = Some(block);
                    }
                }
            }
            let data: Vec<SharedBuf> = wanted.into_iter().flatten().collect();
            let at = usize_of(col - note.cols.start) * BLOCK_BYTES;
            for (is_q, parity) in &mut parities {
                let to = parity.get_mut(at..at + BLOCK_BYTES).unwrap_or_default();
                let sources = data.iter().map(|block| &**block);
                if *is_q {
                    compute_q(sources, to);
                } else {
                    compute_p(sources, to);
                }
            }
        }
        let parity = parities.into_iter().map(|(is_q, data)| NewParity {
            role: if is_q { Role::Q } else { Role::P },
            col: note.cols.start,
            data: data.freeze(),
            sums: None,
        });
        parity.collect()
    }

    /// A data block that no record touches, verified.
    async fn read_in_place(
        self: &Rc<Self>,
        view: &mut RowView,
        index: usize,
        cols: &Columns,
    ) -> Option<SharedBuf> {
        while let Some((slot, disk)) = view.source(index) {
            match self.read_slot(view, slot, disk, cols).await {
                Ok(buf) => return Some(buf.freeze()),
                Err(unread) => view.leave_out(unread),
            }
        }
        None
    }

    /// A block as it lies on a member, whatever it is. What fails is asked for once more: where nothing
    /// else tells what a block holds, one refusal must not lose it.
    async fn read_raw(&self, row: Row, disk: &Disk, cols: &Columns) -> Option<Buf> {
        let mut buf = self.pool.take(bytes_of(cols));
        for _ in 0..2 {
            let read = disk.read(&self.geometry, row, cols.start, buf, Patience::Eject);
            let (back, result) = read.await;
            match result {
                Ok(()) => return Some(back),
                Err(error) if error.kind == IoErrorKind::Medium => buf = back,
                Err(_) => return None,
            }
        }
        None
    }

    pub(super) async fn read_raw_slot(
        &self,
        view: &RowView,
        slot: Slot,
        cols: &Columns,
    ) -> Option<Buf> {
        let disk = view.reader(slot)?;
        self.read_raw(view.row, disk, cols).await
    }

    /// What the lost blocks of a column may be: by all parities, and by each alone. Only what matches a
    /// sum is to be believed: a parity may be rotten.
    ///
    /// `versions` are what notes announced, the newest first.
    pub(super) async fn solutions(
        &self,
        view: &RowView,
        col: u64,
        wanted: &Blocks,
        versions: &[(&Overlay, &Note)],
    ) -> Vec<BTreeMap<usize, SharedBuf>> {
        self.solutions_of(view, col, wanted, versions, |_| true)
            .await
    }

    /// The same by those parities that `is_trusted` takes.
    pub(super) async fn solutions_of(
        &self,
        view: &RowView,
        col: u64,
        wanted: &Blocks,
        versions: &[(&Overlay, &Note)],
        is_trusted: impl Fn(&Speaking) -> bool,
    ) -> Vec<BTreeMap<usize, SharedBuf>> {
        let cols = col..col + 1;
        let mut in_place: Blocks = Vec::with_capacity(wanted.len());
        for (index, wanted) in wanted.iter().enumerate() {
            let slot = self.geometry.data_slot(view.row, index);
            let block = match wanted {
                Some(_) => self.read_raw_slot(view, slot, &cols).await,
                None => None,
            };
            in_place.push(block.map(Buf::freeze));
        }
        let announced = |(new, _): &(&Overlay, &Note)| -> Blocks {
            let blocks = in_place.iter().enumerate();
            blocks
                .map(|(index, old)| {
                    let lost = wanted.get(index).is_none_or(Option::is_none);
                    let new = new.get(index, &cols).or_else(|| old.clone());
                    new.filter(|_| !lost)
                })
                .collect()
        };
        let mut known: Vec<Blocks> = versions.iter().map(announced).collect();
        known.push(in_place);
        let mut parities = Vec::new();
        for role in [Role::P, Role::Q] {
            let Some(slot) = view.parity_slot(role) else {
                continue;
            };
            if let Some(block) = self.read_raw_slot(view, slot, &cols).await {
                let notes: Vec<Option<&[u32]>> = versions
                    .iter()
                    .map(|(_, note)| note.sums(role, col))
                    .collect();
                let speaking = Speaking::new(role, block.freeze(), &notes);
                parities.extend(Some(speaking).filter(&is_trusted));
            }
        }
        let case = Versions {
            pool: &self.pool,
            wanted: wanted.clone(),
            known,
            parities,
        };
        let roles: [&[Role]; 3] = [&[Role::P, Role::Q], &[Role::P], &[Role::Q]];
        roles.iter().filter_map(|roles| case.solve(roles)).collect()
    }
}
