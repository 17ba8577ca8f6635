//! Writes: into the row cache, and out of it as row transactions.
//!
//! A transaction locks its columns, lays the queued writes over the row, plans each segment, reads
//! what the plan asks for, computes parity, and writes data and parity together. The journal will
//! put its record between the plan and the writes; until then the ack follows the writes, and an
//! unclean stop is answered by recomputing parity (raid/README.md, Without the journal).
//!
//! Invariants
//! - An ack follows every write of the transaction, and the durable ejection of every disk that
//!   failed one.
//! - The first write to a row writes all of it, zero-filled, and its written bit is on the disks
//!   before the ack and after the data.

use std::collections::BTreeMap;
use std::rc::Rc;

use cairn_blockdev::units::{BLOCK, BLOCK_BYTES, align_down, u64_of, usize_of};
use cairn_blockdev::{Buf, IoErrorKind, SharedBuf};
use futures_util::future::join_all;
use tokio::sync::oneshot;

use super::cache::{Lock, Pending};
use super::overlay::{Overlay, Span};
use super::plan::{Segment, Strategy, plan};
use super::turn::Turn;
use super::view::RowView;
use super::word::bytes_of;
use crate::array::Array;
use crate::geometry::{Columns, Role, Row, Set};
use crate::parity::{coefficient, mul_into, xor_into};

/// Turns that a row waits at most for neighbours of its queued writes: a stream of small requests
/// must not keep the first of them waiting.
const GATHER_TURNS_MAX: u32 = 8;

/// Parity of some columns, to be written.
struct NewParity {
    role: Role,
    col: u64,
    data: SharedBuf,
}

impl Array {
    /// Writes to the array's address space; returns when it is applied.
    pub(crate) async fn write_at(
        self: &Rc<Self>,
        offset: u64,
        data: SharedBuf,
    ) -> Result<(), IoErrorKind> {
        let _active = self.begin_write().await?;
        let mut waits = Vec::new();
        let mut done = 0;
        while done < data.len() {
            let (row, within) = self.geometry.locate(offset + u64_of(done));
            let left = usize_of(self.geometry.row_bytes() - within);
            let len = left.min(data.len() - done);
            waits.push(self.queue(row, within, data.slice(done..done + len)));
            done += len;
        }
        let mut outcome = Ok(());
        for wait in waits {
            outcome = outcome.and(wait.await.unwrap_or(Err(IoErrorKind::Stopped)));
        }
        outcome
    }

    fn queue(
        self: &Rc<Self>,
        row: Row,
        within: u64,
        data: SharedBuf,
    ) -> oneshot::Receiver<Result<(), IoErrorKind>> {
        let (done, wait) = oneshot::channel();
        let cols = self.columns(within, u64_of(data.len()));
        if self.cache.queue(
            row,
            Pending {
                within,
                data,
                cols,
                done,
            },
        ) {
            self.start_row(row);
        }
        wait
    }

    /// Columns that a range of a row's data touches, as one run.
    fn columns(&self, within: u64, len: u64) -> Columns {
        let pieces = self.geometry.pieces(within, len);
        let ends = pieces.map(|piece| {
            (
                piece.in_chunk / BLOCK,
                (piece.in_chunk + piece.len).div_ceil(BLOCK),
            )
        });
        let hull = ends.reduce(|(a, b), (start, end)| (a.min(start), b.max(end)));
        hull.map_or(0..0, |(start, end)| start..end)
    }

    fn start_row(self: &Rc<Self>, row: Row) {
        let array = Rc::clone(self);
        self.env
            .spawn
            .spawn(Box::pin(async move { array.run_row(row).await }));
    }

    /// One transaction of a row: takes what is queued by the time that it can run.
    async fn run_row(self: Rc<Self>, row: Row) {
        let permit = self.memory.acquire_many(self.row_cost).await;
        self.gather_neighbours(row).await;
        let Some(lock) = self.lock_for_write(row).await else {
            return;
        };
        let (batch, more) = lock.take_queued();
        if more {
            self.start_row(row);
        }
        let result = self.apply(row, &lock, &batch).await;
        drop((lock, permit));
        for pending in batch {
            // A client that is gone doesn't mind.
            let _ = pending.done.send(result);
        }
    }

    /// Lets requests that are on their way reach the queue, as long as each turn brings some and the
    /// row isn't complete: group commit without a timer.
    async fn gather_neighbours(&self, row: Row) {
        let mut before = 0;
        for _ in 0..GATHER_TURNS_MAX {
            let queued = self.cache.queued_bytes(row);
            if queued == before || queued >= self.geometry.row_bytes() {
                return;
            }
            before = queued;
            Turn::default().await;
        }
    }

    /// Locks what the queue touches; the whole row if it was never written.
    async fn lock_for_write(self: &Rc<Self>, row: Row) -> Option<Lock> {
        let whole = 0..self.geometry.chunk_blocks();
        let mut widened = false;
        loop {
            let hull = self.cache.hull(row)?;
            let written = self.space.borrow().is_written(row);
            let cols = if written { hull } else { whole.clone() };
            let lock = self.cache.lock(row, cols).await;
            // The row may have been trimmed while this waited.
            let enough = *lock.cols() == whole || self.space.borrow().is_written(row);
            // What came to the queue meanwhile may make the row complete: worth one more wait.
            let hull = self.cache.hull(row)?;
            let grown = hull.start < lock.cols().start || lock.cols().end < hull.end;
            if enough && (widened || !grown) {
                return Some(lock);
            }
            widened = true;
        }
    }

    async fn apply(
        self: &Rc<Self>,
        row: Row,
        lock: &Lock,
        batch: &[Pending],
    ) -> Result<(), IoErrorKind> {
        self.check_alive()?;
        let mut view = self.view(row);
        let fresh = !self.space.borrow().is_written(row);
        let mut overlay = self.gather(&mut view, fresh, batch).await?;
        if fresh {
            self.fill_with_zeros(&mut overlay);
        }
        overlay.coalesce(&self.pool);
        let spans = overlay.spans();
        let computed = join_all(spans.iter().map(|span| {
            let mut view = view.clone();
            let overlay = &overlay;
            async move {
                let parity = self.new_parity(&mut view, overlay, span).await;
                (parity, view)
            }
        }));
        let mut parity = Vec::new();
        let computed: Vec<_> = computed.await;
        for (new, learnt) in computed {
            parity.extend(new?);
            view.learn(&learnt);
        }
        self.check_alive()?;
        self.write_out(&view, &overlay, parity).await?;
        if fresh {
            self.space.borrow_mut().mark(row, true);
            self.checkpoint().await?;
        }
        if !view.distrusted().is_empty() {
            self.repair(&mut view, lock.cols()).await;
        }
        self.before_ack().await
    }

    /// Lays the batch over the row, as whole blocks; the rest of a partly written block is read.
    async fn gather(
        self: &Rc<Self>,
        view: &mut RowView,
        fresh: bool,
        batch: &[Pending],
    ) -> Result<Overlay, IoErrorKind> {
        let mut overlay = Overlay::new(self.geometry.data_chunks());
        for pending in batch {
            let len = u64_of(pending.data.len());
            for piece in self.geometry.pieces(pending.within, len) {
                let from = usize_of(piece.in_request);
                let data = pending.data.slice(from..from + usize_of(piece.len));
                self.lay(
                    view,
                    fresh,
                    &mut overlay,
                    piece.index,
                    piece.in_chunk,
                    &data,
                )
                .await?;
            }
        }
        Ok(overlay)
    }

    /// Lays `data` at byte `in_chunk` of a chunk over `overlay`.
    async fn lay(
        self: &Rc<Self>,
        view: &mut RowView,
        fresh: bool,
        overlay: &mut Overlay,
        index: usize,
        in_chunk: u64,
        data: &SharedBuf,
    ) -> Result<(), IoErrorKind> {
        let mut done = 0;
        while done < data.len() {
            let at = in_chunk + u64_of(done);
            let within = usize_of(at - align_down(at, BLOCK));
            let left = data.len() - done;
            if within == 0 && left >= BLOCK_BYTES {
                let len = left - left % BLOCK_BYTES;
                let whole = self.aligned(&data.slice(done..done + len));
                overlay.put(index, at / BLOCK, whole);
                done += len;
                continue;
            }
            let len = left.min(BLOCK_BYTES - within);
            let col = at / BLOCK;
            let cols = col..col + 1;
            let mut block = match overlay.get(index, &cols) {
                Some(new) => self.copy_of(&new),
                None if fresh => self.pool.take_zeroed(BLOCK_BYTES),
                None => {
                    let mut data = self.load_data(view, &cols, Set::EMPTY.with(index)).await?;
                    data.get_mut(index)
                        .and_then(Option::take)
                        .ok_or(IoErrorKind::Lost)?
                }
            };
            if let (Some(to), Some(from)) = (
                block.get_mut(within..within + len),
                data.get(done..done + len),
            ) {
                to.copy_from_slice(from);
            }
            overlay.put(index, col, block.freeze());
            done += len;
        }
        Ok(())
    }

    fn copy_of(&self, data: &SharedBuf) -> Buf {
        let mut copy = self.pool.take(data.len());
        copy.copy_from_slice(data);
        copy
    }

    /// The bytes where O_DIRECT can take them from.
    fn aligned(&self, data: &SharedBuf) -> SharedBuf {
        if data.is_aligned() {
            data.clone()
        } else {
            self.copy_of(data).freeze()
        }
    }

    fn fill_with_zeros(&self, overlay: &mut Overlay) {
        let whole = 0..self.geometry.chunk_blocks();
        let mut zeros: Option<SharedBuf> = None;
        for index in 0..self.geometry.data_chunks() {
            let mut holes = vec![whole.clone()];
            for (_, run) in overlay.runs().filter(|(i, _)| *i == index) {
                let end = run.col + u64_of(run.data.len() / BLOCK_BYTES);
                if let Some(last) = holes.pop() {
                    holes.push(last.start..run.col);
                    holes.push(end..last.end);
                }
            }
            for hole in holes.into_iter().filter(|hole| !hole.is_empty()) {
                let zeros = zeros
                    .get_or_insert_with(|| self.pool.take_zeroed(bytes_of(&whole)).freeze())
                    .slice(0..bytes_of(&hole));
                overlay.put(index, hole.start, zeros);
            }
        }
    }

    /// The new parity of one span. Slots that fail to be read are distrusted and planned around.
    async fn new_parity(
        self: &Rc<Self>,
        view: &mut RowView,
        overlay: &Overlay,
        span: &Span,
    ) -> Result<Vec<NewParity>, IoErrorKind> {
        let count = self.geometry.data_chunks();
        loop {
            let segment = Segment {
                data: count,
                written: span.written,
                readable: view.readable_data(),
                p_readable: view.parity_readable(Role::P),
                q_readable: view.parity_readable(Role::Q),
                p_wanted: view.parity_wanted(Role::P),
                q_wanted: view.parity_wanted(Role::Q),
            };
            let Ok(strategy) = plan(&segment) else {
                if view.wait_for_late() {
                    continue;
                }
                return Err(IoErrorKind::Lost);
            };
            let wanted: Vec<Role> = [Role::P, Role::Q]
                .into_iter()
                .filter(|role| view.parity_wanted(*role))
                .collect();
            let old = match strategy {
                Strategy::DataOnly => return Ok(Vec::new()),
                Strategy::FromDelta => match self.delta(view, overlay, span, &wanted).await? {
                    Some(parity) => return Ok(parity),
                    None => continue,
                },
                Strategy::FromData { read } => self.load_data(view, &span.cols, read).await?,
                Strategy::Solve => {
                    let rest = Set::first(count).minus(span.written);
                    self.load_data(view, &span.cols, rest).await?
                }
            };
            return Ok(self.parity_from(overlay, span, &old, &wanted));
        }
    }

    /// Parity from the new data and, where nothing is written, the old.
    fn parity_from(
        &self,
        overlay: &Overlay,
        span: &Span,
        old: &[Option<Buf>],
        wanted: &[Role],
    ) -> Vec<NewParity> {
        let new: BTreeMap<usize, SharedBuf> = span
            .written
            .iter()
            .filter_map(|index| Some((index, overlay.get(index, &span.cols)?)))
            .collect();
        let sources: Vec<&[u8]> = old
            .iter()
            .enumerate()
            .filter_map(|(index, old)| match new.get(&index) {
                Some(new) => Some(&**new),
                None => old.as_deref(),
            })
            .collect();
        assert_eq!(
            sources.len(),
            self.geometry.data_chunks(),
            "parity of incomplete data"
        );
        wanted
            .iter()
            .map(|&role| {
                let mut parity = self.pool.take(bytes_of(&span.cols));
                match role {
                    Role::P => crate::parity::compute_p(sources.iter().copied(), &mut parity),
                    _ => crate::parity::compute_q(sources.iter().copied(), &mut parity),
                }
                NewParity {
                    role,
                    col: span.cols.start,
                    data: parity.freeze(),
                }
            })
            .collect()
    }

    /// Parity from the old parity and what changes. `None` if something couldn't be read: plan anew.
    async fn delta(
        self: &Rc<Self>,
        view: &mut RowView,
        overlay: &Overlay,
        span: &Span,
        wanted: &[Role],
    ) -> Result<Option<Vec<NewParity>>, IoErrorKind> {
        let before = view.left_out();
        let parity_reads = wanted.iter().filter_map(|&role| {
            let slot = view.parity_slot(role)?;
            let disk = Rc::clone(view.reader(slot)?);
            let view = &*view;
            Some(async move { (role, self.read_slot(view, slot, disk, &span.cols).await) })
        });
        let mut data_view = view.clone();
        let (parities, old) = futures_util::future::join(
            join_all(parity_reads),
            self.load_data(&mut data_view, &span.cols, span.written),
        )
        .await;
        *view = data_view;
        let mut fresh = Vec::new();
        for (role, result) in parities {
            match result {
                Ok(buf) => fresh.push((role, buf)),
                Err(unread) => view.leave_out(unread),
            }
        }
        // Even if the old data is lost with these, another plan may do without it.
        if view.left_out() != before {
            return Ok(None);
        }
        let old = old?;
        let mut done = Vec::with_capacity(fresh.len());
        for (role, mut parity) in fresh {
            for index in span.written.iter() {
                let old = old
                    .get(index)
                    .and_then(Option::as_ref)
                    .ok_or(IoErrorKind::Lost)?;
                let new = overlay.get(index, &span.cols).ok_or(IoErrorKind::Lost)?;
                let factor = if role == Role::P {
                    1
                } else {
                    coefficient(index)
                };
                let mut change = self.pool.take(old.len());
                change.copy_from_slice(old);
                xor_into(&mut change, &new);
                mul_into(&mut parity, &change, factor);
            }
            done.push(NewParity {
                role,
                col: span.cols.start,
                data: parity.freeze(),
            });
        }
        Ok(Some(done))
    }

    /// Writes data and parity to everybody who has a place for them.
    async fn write_out(
        self: &Rc<Self>,
        view: &RowView,
        overlay: &Overlay,
        parity: Vec<NewParity>,
    ) -> Result<(), IoErrorKind> {
        let mut writes = Vec::new();
        for (index, run) in overlay.runs() {
            for slot in view.slots_of(index) {
                writes.extend(
                    view.writers(slot)
                        .iter()
                        .map(|d| (d, run.col, run.data.clone())),
                );
            }
        }
        for new in &parity {
            if let Some(slot) = view.parity_slot(new.role) {
                writes.extend(
                    view.writers(slot)
                        .iter()
                        .map(|d| (d, new.col, new.data.clone())),
                );
            }
        }
        let results = join_all(writes.into_iter().map(|(disk, col, data)| async move {
            (disk, disk.write(&self.geometry, view.row, col, data).await)
        }))
        .await;
        for (disk, result) in results {
            if let Err(error) = result {
                self.write_failed(disk, &error).await;
            }
        }
        self.check_alive()
    }
}
