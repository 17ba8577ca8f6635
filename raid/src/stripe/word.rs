//! Loading the code word of some columns of a row, solving what can't be read, and writing back
//! what a disk couldn't give (fault D1).
//!
//! Every function here wants the caller to hold the lock of the columns.

use std::rc::Rc;

use cairn_blockdev::units::{BLOCK_BYTES, usize_of};
use cairn_blockdev::{Buf, IoErrorKind};
use futures_util::future::join_all;

use super::view::{RowView, Unread, Why};
use crate::array::Array;
use crate::array::disk::{Disk, is_late};
use crate::events::EventKind;
use crate::geometry::{Columns, Role, Set, Slot};
use crate::parity::{Word, compute_p, compute_q};

/// Bytes of some columns.
pub(crate) fn bytes_of(cols: &Columns) -> usize {
    usize_of(cols.end - cols.start) * BLOCK_BYTES
}

impl Array {
    /// Reads columns of one slot. A failure is counted; the caller leaves the slot out.
    pub(crate) async fn read_slot(
        self: &Rc<Self>,
        view: &RowView,
        slot: Slot,
        disk: Rc<Disk>,
        cols: &Columns,
    ) -> Result<Buf, Unread> {
        let buf = self.pool.take(bytes_of(cols));
        let patience = view.patience(slot);
        let read = disk.read(&self.geometry, view.row, cols.start, buf, patience);
        match read.await {
            (buf, Ok(())) => match self.verified(view.row, slot, cols, &buf).await {
                Ok(true) => Ok(buf),
                Ok(false) => {
                    disk.count(|errors| errors.corruption += 1);
                    Err(Unread {
                        slot,
                        why: Why::Unverified,
                    })
                }
                // Its sums can't be had: nothing vouches for it.
                Err(_) => Err(Unread {
                    slot,
                    why: Why::Unverified,
                }),
            },
            (_, Err(error)) => {
                self.read_failed(&disk, &error);
                Err(Unread {
                    slot,
                    why: if is_late(&error) {
                        Why::Late
                    } else {
                        Why::Refused
                    },
                })
            }
        }
    }

    /// All data of `cols`, the unreadable part solved. Slots that fail on the way are distrusted.
    ///
    /// Reads what `wanted` asks for and no more, unless something is missing; then everything. Where
    /// that isn't enough for all columns together, each is tried by itself: what is bad in one of them
    /// may be good in the next.
    pub(crate) async fn load_data(
        self: &Rc<Self>,
        view: &mut RowView,
        cols: &Columns,
        wanted: Set,
    ) -> Result<Vec<Option<Buf>>, IoErrorKind> {
        let before = view.clone();
        let whole = self.load_word(view, cols, wanted).await;
        if whole.is_ok() || cols.end - cols.start == 1 {
            return whole;
        }
        let mut joined: Vec<Option<Buf>> = (0..self.geometry.data_chunks())
            .map(|index| wanted.has(index).then(|| self.pool.take(bytes_of(cols))))
            .collect();
        for col in cols.clone() {
            let mut single = before.clone();
            let word = self.load_word(&mut single, &(col..col + 1), wanted).await?;
            let at = usize_of(col - cols.start) * BLOCK_BYTES;
            for (to, from) in joined.iter_mut().zip(word) {
                if let (Some(to), Some(from)) = (to, from)
                    && let Some(to) = to.get_mut(at..at + BLOCK_BYTES)
                {
                    to.copy_from_slice(&from);
                }
            }
        }
        Ok(joined)
    }

    /// [`Array::load_data`], of columns that stand or fall together.
    async fn load_word(
        self: &Rc<Self>,
        view: &mut RowView,
        cols: &Columns,
        wanted: Set,
    ) -> Result<Vec<Option<Buf>>, IoErrorKind> {
        loop {
            let readable = view.readable_data();
            let solve = !wanted.minus(readable).is_empty();
            let missing = Set::first(self.geometry.data_chunks())
                .minus(readable)
                .len();
            let indices = if solve { readable } else { wanted };
            let parities: Vec<Role> = [Role::P, Role::Q]
                .into_iter()
                .filter(|role| solve && view.parity_readable(*role))
                .take(missing)
                .collect();
            if solve && parities.len() < missing {
                if view.wait_for_late() {
                    continue;
                }
                return Err(IoErrorKind::Lost);
            }
            let roles = indices.iter().map(Role::Data).chain(parities);
            let reads = roles.filter_map(|role| {
                let (slot, disk) = if let Role::Data(index) = role {
                    view.source(index)?
                } else {
                    let slot = view.parity_slot(role)?;
                    (slot, Rc::clone(view.reader(slot)?))
                };
                let view = &*view;
                Some(async move { (role, self.read_slot(view, slot, disk, cols).await) })
            });
            let results = join_all(reads).await;
            let mut word = Word {
                data: (0..self.geometry.data_chunks()).map(|_| None).collect(),
                p: None,
                q: None,
            };
            let mut failed = Vec::new();
            for (role, result) in results {
                match (role, result) {
                    (_, Err(unread)) => failed.push(unread),
                    (Role::P, Ok(buf)) => word.p = Some(buf),
                    (Role::Q, Ok(buf)) => word.q = Some(buf),
                    (Role::Data(index), Ok(buf)) => {
                        if let Some(place) = word.data.get_mut(index) {
                            *place = Some(buf);
                        }
                    }
                }
            }
            if failed.is_empty() {
                if solve {
                    word.solve_data(|| self.pool.take(bytes_of(cols)))
                        .map_err(|_| IoErrorKind::Lost)?;
                    for index in wanted.minus(readable).iter() {
                        let solved = word.data.get(index).and_then(Option::as_ref);
                        let solved = solved.ok_or(IoErrorKind::Lost)?;
                        if !self.solved_right(view, index, cols, solved).await? {
                            return Err(IoErrorKind::Lost);
                        }
                    }
                }
                return Ok(word.data);
            }
            // Each round leaves out at least one slot more, and what is late comes back once at most:
            // this ends.
            for unread in failed {
                view.leave_out(unread);
            }
        }
    }

    /// New P or Q of complete data.
    pub(crate) fn parity_of(&self, role: Role, data: &[Buf]) -> Buf {
        let mut parity = self.pool.take(data.first().map_or(0, |buf| buf.len()));
        let sources = data.iter().map(|buf| &**buf);
        match role {
            Role::P => compute_p(sources, &mut parity),
            Role::Q => compute_q(sources, &mut parity),
            Role::Data(_) => unreachable!("parity of a data role"),
        }
        parity
    }

    /// What `slot` should hold in `cols`, from the other members.
    pub(crate) async fn contents_of(
        self: &Rc<Self>,
        view: &mut RowView,
        slot: Slot,
        cols: &Columns,
    ) -> Result<Buf, IoErrorKind> {
        let role = self.geometry.role(view.row, slot);
        if let Role::Data(index) = role {
            let mut data = self.load_data(view, cols, Set::EMPTY.with(index)).await?;
            return data
                .get_mut(index)
                .and_then(Option::take)
                .ok_or(IoErrorKind::Lost);
        }
        let all = Set::first(self.geometry.data_chunks());
        let data = self.load_data(view, cols, all).await?;
        let data: Vec<Buf> = data.into_iter().flatten().collect();
        Ok(self.parity_of(role, &data))
    }

    /// Rewrites what the distrusted slots of `view` couldn't give, so that the disk can remap its bad
    /// sectors. A disk that can't be written is ejected. Each column by itself: its neighbours may be
    /// sound, or bad elsewhere.
    pub(crate) async fn repair(self: &Rc<Self>, view: &mut RowView, cols: &Columns) {
        if self.is_read_only() {
            return;
        }
        let Ok(_sums) = self.sums_at_hand(view.row, cols).await else {
            return;
        };
        // Whoever asks when the disk that is slow answers, or is out, mends it.
        if self.sums_are_partial(view.row, cols) {
            return;
        }
        for slot in view.distrusted().iter().map(Slot) {
            let mut mended = false;
            for col in cols.clone() {
                mended |= self.repair_block(view, slot, col).await;
            }
            if view.refused(slot) && !mended {
                self.refresh(view, slot, cols).await;
            }
        }
    }

    /// A disk gave an error once, and everything the next time: where the weak sector is, it alone knows. What was
    /// asked for is written anew, so that it gets the sector in order or another in its place.
    pub(super) async fn refresh(self: &Rc<Self>, view: &RowView, slot: Slot, cols: &Columns) {
        if self.is_read_only() || self.sums_are_partial(view.row, cols) {
            return;
        }
        let right = if self.has_sums() {
            let mut around = view.clone();
            self.contents_of(&mut around, slot, cols).await.ok()
        } else {
            // Nothing vouches for what the others give: what it holds is what it gives itself.
            self.read_again(view, slot, cols).await
        };
        let Some(right) = right else { return };
        let data = right.freeze();
        for disk in view.writers(slot).iter().filter(|disk| !disk.out.get()) {
            let write = disk.write(&self.geometry, view.row, cols.start, data.clone());
            match write.await {
                Ok(()) => {
                    for (col, at) in cols.clone().zip(0..) {
                        let block = data.slice(at * BLOCK_BYTES..(at + 1) * BLOCK_BYTES);
                        self.note_blocks(view.row, slot, col, &block);
                    }
                    let detail = format!(
                        "row {} columns {} to {} rewritten: a read of them failed once",
                        view.row.0,
                        cols.start,
                        cols.end.saturating_sub(1)
                    );
                    self.report(EventKind::Repaired, Some(&disk.path), detail);
                }
                Err(error) => self.write_failed(disk, &error).await,
            }
        }
    }

    /// Asks a slot's disk once more, whatever it did before.
    async fn read_again(&self, view: &RowView, slot: Slot, cols: &Columns) -> Option<Buf> {
        let mut disks = view.writers(slot).iter().filter(|disk| !disk.out.get());
        let disk = disks.next()?;
        let (buf, patience) = (self.pool.take(bytes_of(cols)), view.patience(slot));
        let read = disk.read(&self.geometry, view.row, cols.start, buf, patience);
        let (buf, result) = read.await;
        result.ok().map(|()| buf)
    }

    /// Looks at one block of a slot, and mends it if what it holds isn't what it should. True if that was so.
    pub(crate) async fn repair_block(
        self: &Rc<Self>,
        view: &RowView,
        slot: Slot,
        col: u64,
    ) -> bool {
        if self.is_read_only() {
            return false;
        }
        let cols = col..col + 1;
        let live = view.writers(slot).iter().filter(|disk| !disk.out.get());
        let live: Vec<Rc<Disk>> = live.map(Rc::clone).collect();
        if live.is_empty() {
            return false;
        }
        // What others couldn't give in another column they may give in this one.
        let mut around = self.view(view.row);
        around.leave_out(Unread {
            slot,
            why: Why::Unverified,
        });
        let Ok(right) = self.contents_of(&mut around, slot, &cols).await else {
            return false;
        };
        // A parity is computed from data that verifies, whatever its own sum says.
        let data = right.freeze();
        let mut mended = false;
        for disk in live {
            let buf = self.pool.take(BLOCK_BYTES);
            let patience = view.patience(slot);
            let read = disk
                .read(&self.geometry, view.row, col, buf, patience)
                .await;
            if let (buf, Ok(())) = &read
                && **buf == *data
            {
                // The others give the same: if its sum said otherwise, the page was stale.
                self.note_blocks(view.row, slot, col, &data);
                continue;
            }
            if read.1.is_ok() && !self.has_sums() {
                // One of them is wrong, and nothing says which.
                continue;
            }
            mended = true;
            match disk
                .write(&self.geometry, view.row, col, data.clone())
                .await
            {
                Ok(()) => {
                    self.note_blocks(view.row, slot, col, &data);
                    let why = if read.1.is_ok() {
                        "it wasn't what was written there"
                    } else {
                        "it couldn't be read"
                    };
                    let detail = format!("row {} column {col} rewritten: {why}", view.row.0);
                    self.report(EventKind::Repaired, Some(&disk.path), detail);
                }
                Err(error) => self.write_failed(&disk, &error).await,
            }
        }
        mended
    }
}
