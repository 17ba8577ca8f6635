//! Replay: after an unclean stop the journal's records go to their places before anything is served.
//!
//! 1. Scan every in-sync member's ring; the union of the copies is the journal ([`crate::journal::union`]).
//! 2. Zero the descriptors of the torn tail, so that its sequences can be given again.
//! 3. Go through the records in order: what they change in the map, and per row its [`RowHistory`].
//! 4. Rows with notes: finish the noted transaction. Its parity may be half written, so it is computed
//!    from data; a lost block is solved per sector, with the equation that its parity's note tells.
//! 5. Rows with intents: tell new blocks from old by the intent's sums, and write the row anew.
//! 6. Everything else is dirty as before the stop, and the ordinary cycles apply it.
//!
//! Invariants
//! - Nothing is trimmed before the last step: a replay that is interrupted anywhere begins again and
//!   comes to the same end.
//! - An older record never goes over a newer one, nor over a complete row that was written past it.

use std::collections::BTreeMap;
use std::rc::Rc;

use cairn_blockdev::units::{BLOCK, BLOCK_BYTES, SECTOR, u64_of, usize_of};
use cairn_blockdev::{Buf, IoErrorKind, SharedBuf};
use futures_util::future::join_all;

use super::apply::sector_sums;
use super::history::{Layer, Note, RowHistory};
use super::overlay::Overlay;
use super::transaction::NewParity;
use super::view::RowView;
use super::word::bytes_of;
use crate::array::Array;
use crate::array::disk::Disk;
use crate::array::flights::Patience;
use crate::defects::Reason;
use crate::error::RaidError;
use crate::events::EventKind;
use crate::geometry::{Columns, Role, Row, Set, Slot};
use crate::journal::entry::{Entry, Kind, Seq};
use crate::journal::log::Journal;
use crate::journal::open::Opened;
use crate::journal::union::Record;
use crate::mutation::{Mutation, on};
use crate::parity::{Word, coefficient, mul_into, xor_into};

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
        self.write_journal_headers(journal, &self.in_sync()).await;
        self.flush_all().await.map_err(|_| self.lost_error())?;
        let cut = opened.cut_tail().await;
        cut.map_err(|error| RaidError::NotStarted {
            array: self.name().to_owned(),
            reason: error.to_string(),
            wait_may_help: true,
            force_may_help: false,
        })?;
        let detail = format!(
            "{} records of {} rows after an unclean stop",
            opened.records().len(),
            histories.len()
        );
        self.finish_noted(&histories).await?;
        for (row, history) in histories {
            if history.has_intent() {
                let settled = self.settle_intents(row, &history).await;
                settled.map_err(|kind| self.stuck_at(row, kind))?;
            } else {
                self.make_dirty(row, &history);
            }
        }
        if on(Mutation::ReplayNotIdempotent) {
            self.write_floor(journal, journal.next()).await;
        }
        // Before zeros take the place of what is lost.
        self.settle_losses().await.map_err(|_| self.lost_error())?;
        self.pin_pending();
        while journal.applied() < journal.next() {
            self.check_alive().map_err(|_| self.lost_error())?;
            self.run_cycle().await;
        }
        self.settled.borrow_mut().clear();
        self.report(EventKind::JournalReplayed, None, detail);
        Ok(())
    }

    /// Goes through the records: the map as they leave it, and what each row needs.
    async fn read_histories(self: &Rc<Self>, opened: &Opened) -> Result<Histories, RaidError> {
        let mut rows = Histories::new();
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
                Kind::Zero => self.lose(record, &mut rows),
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
                    let mut space = self.space.borrow_mut();
                    if let Some(extent) = space.extent_at(offset) {
                        space.adopt(extent, entry.tag.bytes());
                    }
                }
                Kind::Intent => {
                    if self.is_mapped(offset) {
                        let (row, _) = self.geometry.locate(offset);
                        self.heal_row(row);
                        let history = rows.entry(row).or_insert_with(|| self.history(record.seq));
                        history.intent(entry.sums.clone());
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

    /// Zeros that took the place of a block that was lost.
    fn lose(&self, record: &Record, rows: &mut Histories) {
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
            .filter(|(_, history)| !history.has_intent() && !history.notes().is_empty())
            .filter(|(row, _)| self.space.borrow().is_written(**row))
            .collect();
        for some in noted.chunks(ROWS_AT_ONCE) {
            let computed = some.iter().map(|(row, history)| async move {
                let mut view = self.view(**row);
                let whole = history.noted();
                let cols = 0..self.geometry.chunk_blocks();
                let sums = self.sums_ready(**row, &cols).await;
                let sums = sums.map_err(|kind| self.stuck_at(**row, kind))?;
                let mut parity = Vec::new();
                for note in history.notes() {
                    let noted = self.noted_parity(&mut view, &whole, note).await;
                    parity.extend(noted.map_err(|kind| self.stuck_at(**row, kind))?);
                }
                Ok::<_, RaidError>((**row, view, whole, parity, sums))
            });
            let computed: Result<Vec<_>, _> = join_all(computed).await.into_iter().collect();
            let computed = computed?;
            let end = self.journal().map_or(Seq::FIRST, |journal| journal.next());
            for (row, ..) in &computed {
                self.note_in_place(*row, end);
            }
            let put = async {
                let parity = computed.iter().flat_map(|(row, view, _, parity, _)| {
                    let writes = Self::parity_writes(view, parity);
                    writes.into_iter().map(|write| (*row, write))
                });
                self.write_all(parity).await?;
                self.flush_all().await?;
                let data = computed.iter().flat_map(|(row, view, whole, _, _)| {
                    let writes = Self::data_writes(view, whole);
                    writes.into_iter().map(|write| (*row, write))
                });
                self.write_all(data).await
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

    /// The parity that a note announced, computed from data. What is lost of the data is solved.
    async fn noted_parity(
        self: &Rc<Self>,
        view: &mut RowView,
        new: &Overlay,
        note: &Note,
    ) -> Result<Vec<NewParity>, IoErrorKind> {
        let count = self.geometry.data_chunks();
        let mut parities: BTreeMap<bool, Buf> = BTreeMap::new();
        for (is_q, role) in [(false, Role::P), (true, Role::Q)] {
            if view.parity_wanted(role) {
                parities.insert(is_q, self.pool.take(bytes_of(&note.cols)));
            }
        }
        for col in note.cols.clone() {
            let cols = col..col + 1;
            let mut data: Vec<Option<Buf>> = Vec::with_capacity(count);
            let mut lost = Set::EMPTY;
            for index in 0..count {
                let block = match new.get(index, &cols) {
                    Some(new) => Some(self.copy_of(&new)),
                    None => self.read_in_place(view, index, &cols).await,
                };
                if block.is_none() {
                    lost = lost.with(index);
                }
                data.push(block);
            }
            if !lost.is_empty() {
                self.solve_noted(view, new, note, col, lost, &mut data)
                    .await?;
            }
            let data: Vec<Buf> = data.into_iter().flatten().collect();
            let at = usize_of(col - note.cols.start) * BLOCK_BYTES;
            for (is_q, parity) in &mut parities {
                let role = if *is_q { Role::Q } else { Role::P };
                let block = self.parity_of(role, &data);
                if let Some(to) = parity.get_mut(at..at + BLOCK_BYTES) {
                    to.copy_from_slice(&block);
                }
            }
        }
        let parity = parities.into_iter().map(|(is_q, data)| NewParity {
            role: if is_q { Role::Q } else { Role::P },
            col: note.cols.start,
            data: data.freeze(),
        });
        Ok(parity.collect())
    }

    /// A data block that no record touches, verified.
    async fn read_in_place(
        self: &Rc<Self>,
        view: &mut RowView,
        index: usize,
        cols: &Columns,
    ) -> Option<Buf> {
        while let Some((slot, disk)) = view.source(index) {
            match self.read_slot(view, slot, disk, cols).await {
                Ok(buf) => return Some(buf),
                Err(unread) => view.leave_out(unread),
            }
        }
        None
    }

    /// A block as it lies on a member, whatever it is.
    async fn read_raw(&self, row: Row, disk: &Disk, cols: &Columns) -> Option<Buf> {
        let buf = self.pool.take(bytes_of(cols));
        let read = disk.read(&self.geometry, row, cols.start, buf, Patience::Eject);
        let (buf, result) = read.await;
        result.is_ok().then_some(buf)
    }

    async fn read_raw_slot(&self, view: &RowView, slot: Slot, cols: &Columns) -> Option<Buf> {
        let disk = view.reader(slot)?;
        self.read_raw(view.row, disk, cols).await
    }

    /// Solves the data blocks of one column that neither a record nor a member has.
    ///
    /// Parity went in place before data: where a sector of it is old, all data in place is old. So each
    /// sector is solved with the version of the written blocks that its parities speak of.
    async fn solve_noted(
        self: &Rc<Self>,
        view: &RowView,
        new: &Overlay,
        note: &Note,
        col: u64,
        lost: Set,
        data: &mut [Option<Buf>],
    ) -> Result<(), IoErrorKind> {
        let cols = col..col + 1;
        let mut parities = Vec::new();
        for role in [Role::P, Role::Q] {
            let Some(slot) = view.parity_slot(role) else {
                continue;
            };
            if let Some(block) = self.read_raw_slot(view, slot, &cols).await {
                let block = block.freeze();
                let fresh: Vec<bool> = match note.sums(role, col) {
                    Some(sums) => sector_sums(&block)
                        .zip(sums)
                        .map(|(a, b)| a == *b)
                        .collect(),
                    None => vec![true; BLOCK_BYTES / usize_of(SECTOR)],
                };
                parities.push((role, block, fresh));
            }
        }
        let mut old: BTreeMap<usize, Buf> = BTreeMap::new();
        let mut gone = Set::EMPTY;
        for index in 0..data.len() {
            if new.get(index, &cols).is_none() {
                continue;
            }
            let slot = self.geometry.data_slot(view.row, index);
            match self.read_raw_slot(view, slot, &cols).await {
                Some(block) => drop(old.insert(index, block)),
                None => gone = gone.with(index),
            }
        }
        let case = Noted {
            array: self,
            data: &*data,
            parities: &parities,
            old: &old,
            lost,
            gone,
        };
        let mut solved: BTreeMap<usize, Buf> = BTreeMap::new();
        for index in lost.iter() {
            solved.insert(index, self.pool.take(BLOCK_BYTES));
        }
        let mut versions: BTreeMap<Vec<bool>, Vec<Option<Buf>>> = BTreeMap::new();
        for sector in 0..BLOCK_BYTES / usize_of(SECTOR) {
            let version: Vec<bool> = parities
                .iter()
                .map(|(_, _, fresh)| fresh.get(sector).copied().unwrap_or(false))
                .collect();
            if !versions.contains_key(&version) {
                versions.insert(version.clone(), case.solve(&version)?);
            }
            let range = sector * usize_of(SECTOR)..(sector + 1) * usize_of(SECTOR);
            for (index, block) in &mut solved {
                let from = versions
                    .get(&version)
                    .and_then(|data| data.get(*index)?.as_ref()?.get(range.clone()))
                    .ok_or(IoErrorKind::Lost)?;
                if let Some(to) = block.get_mut(range.clone()) {
                    to.copy_from_slice(from);
                }
            }
        }
        for (index, block) in solved {
            if let Some(place) = data.get_mut(index) {
                *place = Some(block);
            }
        }
        Ok(())
    }

    /// Puts together what a row with an intent holds, block by block, and makes all of it dirty: its
    /// parity can't be trusted, so it is written anew as a complete row.
    async fn settle_intents(
        self: &Rc<Self>,
        row: Row,
        history: &RowHistory,
    ) -> Result<(), IoErrorKind> {
        let view = self.view(row);
        // What follows an intent found its row in place, whatever the map on the disks says yet.
        let followed = history.intents() > 1 || !history.notes().is_empty();
        let written = self.space.borrow().is_written(row) || followed;
        let _sums = self
            .sums_ready(row, &(0..self.geometry.chunk_blocks()))
            .await?;
        for index in 0..self.geometry.data_chunks() {
            for col in 0..self.geometry.chunk_blocks() {
                let settled = self.settle_block(&view, history, (index, col), written);
                let block = match settled.await {
                    Some(block) => block,
                    None if written => {
                        self.note_lost(row, index, col, Reason::CutOff);
                        self.pool.take_zeroed(BLOCK_BYTES).freeze()
                    }
                    // It never held anything.
                    None => self.pool.take_zeroed(BLOCK_BYTES).freeze(),
                };
                self.remember_homeless(&view, index, col, &block);
                self.dirty_rows.put(row, index, col, block, history.first());
            }
        }
        self.settled.borrow_mut().insert(row);
        if written {
            // No first write: what is in place is overwritten only once its successor is durable.
            self.space.borrow_mut().mark(row, true);
        }
        // The row is whole in memory now: nothing in place is read for it.
        Ok(())
    }

    /// What a block of a row with intents is to hold. `None`: nobody knows, or, of a row that nothing
    /// was `written` to before its intent, nothing.
    async fn settle_block(
        self: &Rc<Self>,
        view: &RowView,
        history: &RowHistory,
        (index, col): (usize, u64),
        written: bool,
    ) -> Option<SharedBuf> {
        let cols = col..col + 1;
        let mut found: Vec<SharedBuf> = Vec::new();
        for slot in view.slots_of(index) {
            let block = self.read_raw_slot(view, slot, &cols).await;
            found.extend(block.map(Buf::freeze));
        }
        let in_place = !found.is_empty();
        if !in_place {
            let solved = self.solve_in_place(view, index, &cols).await;
            found.extend(solved.map(Buf::freeze));
            found.extend(self.solve_in_note(view, history, index, col).await);
        }
        let at = usize_of(u64_of(index) * self.geometry.chunk_blocks() + col);
        let mut followed = !history.notes().is_empty();
        for layer in history.layers().iter().rev() {
            match layer {
                Layer::Data(overlay) => {
                    if let Some(data) = overlay.get(index, &cols) {
                        return Some(data);
                    }
                }
                Layer::Intent(_) if on(Mutation::OldRecordOverBypass) => {}
                Layer::Intent(sums) => {
                    let sum = sums.get(at);
                    let fits = |block: &&SharedBuf| Some(&crc32c::crc32c(block)) == sum;
                    if let Some(block) = found.iter().find(fits) {
                        return Some(block.clone());
                    }
                    if followed {
                        // Its row was in place when the next one began: nothing older counts.
                        break;
                    }
                    followed = true;
                }
            }
        }
        if !written {
            return None;
        }
        let slot = self.geometry.data_slot(view.row, index);
        let expected = self.expected_sum(view.row, col, slot);
        let old = found
            .iter()
            .find(|block| expected.is_some_and(|sum| crc32c::crc32c(block) == sum));
        // What lies in place and is neither is mixed by sectors, and was never acked. What was only
        // solved from a parity that may be torn must match something.
        old.cloned()
            .or_else(|| found.into_iter().next().filter(|_| in_place))
    }

    /// Logs a block that has no member to go to: the row's parity is about to be written over, and a
    /// stop in the middle of that must find the block somewhere.
    fn remember_homeless(
        self: &Rc<Self>,
        view: &RowView,
        index: usize,
        col: u64,
        block: &SharedBuf,
    ) {
        let homeless = self.is_homeless(view, index);
        if let (true, Some(journal)) = (homeless, self.journal()) {
            let chunk = u64_of(index) * self.geometry.chunk_bytes();
            let at = view.row.0 * self.geometry.row_bytes() + chunk + col * BLOCK;
            let entry = Entry::with_payload(Kind::Data, at, block);
            self.log(&journal, entry, vec![block.clone()], None);
        }
    }

    /// A lost block as the parity has it that a note of the row tells of; right or not.
    async fn solve_in_note(
        self: &Rc<Self>,
        view: &RowView,
        history: &RowHistory,
        index: usize,
        col: u64,
    ) -> Option<SharedBuf> {
        let mut notes = history.notes().iter();
        let note = notes.find(|note| note.cols.contains(&col))?;
        let (new, cols) = (history.noted(), col..col + 1);
        let mut data = Vec::new();
        let mut lost = Set::EMPTY;
        for other in 0..self.geometry.data_chunks() {
            let slot = self.geometry.data_slot(view.row, other);
            let block = if let Some(new) = new.get(other, &cols) {
                Some(self.copy_of(&new))
            } else {
                self.read_raw_slot(view, slot, &cols).await
            };
            if block.is_none() {
                lost = lost.with(other);
            }
            data.push(block);
        }
        let solved = self.solve_noted(view, &new, note, col, lost, &mut data);
        solved.await.ok()?;
        data.get_mut(index)?.take().map(Buf::freeze)
    }

    /// A lost block as the parity in place has it; right or not.
    async fn solve_in_place(
        self: &Rc<Self>,
        view: &RowView,
        index: usize,
        cols: &Columns,
    ) -> Option<Buf> {
        let mut word = Word {
            data: Vec::new(),
            p: None,
            q: None,
        };
        for other in 0..self.geometry.data_chunks() {
            let slot = self.geometry.data_slot(view.row, other);
            word.data.push(self.read_raw_slot(view, slot, cols).await);
        }
        if let Some(slot) = view.parity_slot(Role::P) {
            word.p = self.read_raw_slot(view, slot, cols).await;
        }
        if let Some(slot) = view.parity_slot(Role::Q) {
            word.q = self.read_raw_slot(view, slot, cols).await;
        }
        word.solve_data(|| self.pool.take(bytes_of(cols))).ok()?;
        word.data.get_mut(index)?.take()
    }
}

/// One column of a noted transaction with lost blocks.
struct Noted<'a> {
    array: &'a Array,
    /// New where written, in place elsewhere; `None` where lost.
    data: &'a [Option<Buf>],
    parities: &'a [(Role, SharedBuf, Vec<bool>)],
    /// What lies in place where the transaction writes.
    old: &'a BTreeMap<usize, Buf>,
    /// Lost and not written.
    lost: Set,
    /// Lost and written: their new contents are known, their old aren't.
    gone: Set,
}

impl Noted<'_> {
    /// All data, for parities of which some are new and some old.
    fn solve(&self, version: &[bool]) -> Result<Vec<Option<Buf>>, IoErrorKind> {
        let mut word = Word {
            data: self
                .data
                .iter()
                .map(|block| block.as_ref().map(|b| self.copy(b)))
                .collect(),
            p: None,
            q: None,
        };
        let any_new = version.iter().any(|new| *new);
        for ((role, block, _), new) in self.parities.iter().zip(version) {
            let mut parity = self.copy(block);
            if !new && !self.gone.is_empty() {
                if any_new {
                    // It speaks of an old block that nobody has; the new one does without it.
                    continue;
                }
            } else if !new {
                self.renew(*role, &mut parity);
            }
            match role {
                Role::P => word.p = Some(parity),
                _ => word.q = Some(parity),
            }
        }
        if !any_new && !self.gone.is_empty() {
            for (index, place) in word.data.iter_mut().enumerate() {
                if self.gone.has(index) {
                    *place = None;
                } else if let Some(old) = self.old.get(&index) {
                    *place = Some(self.copy(old));
                }
            }
        }
        word.solve_data(|| self.array.pool.take(BLOCK_BYTES))
            .map_err(|_| IoErrorKind::Lost)?;
        Ok(word
            .data
            .into_iter()
            .enumerate()
            .map(|(index, block)| block.filter(|_| self.lost.has(index)))
            .collect())
    }

    fn copy(&self, data: &[u8]) -> Buf {
        let mut copy = self.array.pool.take(data.len());
        copy.copy_from_slice(data);
        copy
    }

    /// Old parity, as if the written blocks were in place.
    fn renew(&self, role: Role, parity: &mut Buf) {
        for (index, old) in self.old {
            let Some(Some(new)) = self.data.get(*index) else {
                continue;
            };
            let mut change = self.copy(old);
            xor_into(&mut change, new);
            let factor = if role == Role::P {
                1
            } else {
                coefficient(*index)
            };
            mul_into(parity, &change, factor);
        }
    }
}
