//! A row transaction's parts: laying writes over a row, and the parity that follows from them.
//!
//! Every function here wants the caller to hold the lock of the columns.

use std::collections::BTreeMap;
use std::rc::Rc;

use cairn_blockdev::units::{BLOCK, BLOCK_BYTES, align_down, u64_of, usize_of};
use cairn_blockdev::{Buf, IoErrorKind, SharedBuf, WriteFlags};
use futures_util::future::join_all;

use super::cache::Pending;
use super::overlay::{Overlay, Span};
use super::plan::{Segment, Strategy, plan};
use super::view::RowView;
use super::word::bytes_of;
use crate::array::Array;
use crate::array::disk::Disk;
use crate::geometry::{Role, Row, Set};
use crate::parity::{coefficient, compute, mul_into, xor_into};

/// Parity of some columns, to be written.
pub(crate) struct NewParity {
    pub(crate) role: Role,
    pub(crate) col: u64,
    pub(crate) data: SharedBuf,
    /// Of its blocks, where they were taken with it.
    pub(crate) sums: Option<Vec<u32>>,
}

/// A write to one disk: from a column on.
pub(crate) type DiskWrite = (Rc<Disk>, u64, SharedBuf);

/// Computes what is wanted of P and Q, in one pass.
pub(super) fn parity_into<'a>(sources: &[&[u8]], outs: impl Iterator<Item = (Role, &'a mut [u8])>) {
    let (mut p, mut q) = (None, None);
    for (role, out) in outs {
        match role {
            Role::P => p = Some(out),
            Role::Q => q = Some(out),
            Role::Data(_) => unreachable!("parity of a data role"),
        }
    }
    if p.is_some() || q.is_some() {
        compute(sources, p, q);
    }
}

impl Array {
    /// Lays the batch over the row, as whole blocks, and over the blocks of `under`; the rest of a
    /// partly written block is read, or zeros if the row is `fresh`.
    pub(super) async fn gather(
        self: &Rc<Self>,
        view: &mut RowView,
        fresh: bool,
        under: &[(usize, u64, SharedBuf)],
        batch: &[Pending],
    ) -> Result<Overlay, IoErrorKind> {
        let mut overlay = Overlay::new(self.geometry.data_chunks());
        for (index, col, data) in under {
            overlay.put(*index, *col, data.clone());
        }
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

    pub(crate) fn copy_of(&self, data: &SharedBuf) -> Buf {
        let mut copy = self.pool.take(data.len());
        copy.copy_from_slice(data);
        copy
    }

    /// The bytes where O_DIRECT can take them from.
    pub(super) fn aligned(&self, data: &SharedBuf) -> SharedBuf {
        if data.is_aligned() {
            data.clone()
        } else {
            self.copy_of(data).freeze()
        }
    }

    pub(super) fn fill_with_zeros(&self, overlay: &mut Overlay) {
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
    pub(super) async fn new_parity(
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
        let mut parity: Vec<(Role, Buf)> = wanted
            .iter()
            .map(|role| (*role, self.pool.take(bytes_of(&span.cols))))
            .collect();
        parity_into(
            &sources,
            parity.iter_mut().map(|(role, data)| (*role, &mut **data)),
        );
        let parity = parity.into_iter().map(|(role, data)| NewParity {
            role,
            col: span.cols.start,
            data: data.freeze(),
            sums: None,
        });
        parity.collect()
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
                sums: None,
            });
        }
        Ok(Some(done))
    }

    /// The new parity of one span; where it can't be had of all columns together, of each by itself: what is bad in one of
    /// them may be good in the next.
    async fn parity_of_span(
        self: &Rc<Self>,
        view: &mut RowView,
        overlay: &Overlay,
        span: &Span,
    ) -> Result<Vec<NewParity>, IoErrorKind> {
        let before = view.clone();
        let whole = self.new_parity(view, overlay, span).await;
        if whole.is_ok() || span.cols.end - span.cols.start == 1 {
            return whole;
        }
        let mut joined: Vec<(Role, Buf)> = Vec::new();
        for col in span.cols.clone() {
            let mut single = before.clone();
            let part = Span {
                cols: col..col + 1,
                written: span.written,
            };
            let at = usize_of(col - span.cols.start) * BLOCK_BYTES;
            for new in self.new_parity(&mut single, overlay, &part).await? {
                if joined.iter().all(|(role, _)| *role != new.role) {
                    joined.push((new.role, self.pool.take(bytes_of(&span.cols))));
                }
                let of_role = joined.iter_mut().find(|(role, _)| *role == new.role);
                if let Some(to) = of_role.and_then(|(_, buf)| buf.get_mut(at..at + BLOCK_BYTES)) {
                    to.copy_from_slice(&new.data);
                }
            }
            view.learn(&single);
        }
        let joined = joined.into_iter().map(|(role, data)| NewParity {
            role,
            col: span.cols.start,
            data: data.freeze(),
            sums: None,
        });
        Ok(joined.collect())
    }

    /// The parity of everything in `overlay`, with what had to be distrusted noted in `view`.
    pub(super) async fn parity_of_overlay(
        self: &Rc<Self>,
        view: &mut RowView,
        overlay: &Overlay,
    ) -> Result<Vec<NewParity>, IoErrorKind> {
        let spans = overlay.spans();
        let computed = join_all(spans.iter().map(|span| {
            let mut view = view.clone();
            async move {
                let parity = self.parity_of_span(&mut view, overlay, span).await;
                (parity, view)
            }
        }));
        let mut parity = Vec::new();
        let computed: Vec<_> = computed.await;
        for (new, learnt) in computed {
            parity.extend(new?);
            view.learn(&learnt);
        }
        Ok(parity)
    }

    /// What goes to whom of `overlay`: to everybody who has a place for it.
    pub(super) fn data_writes(view: &RowView, overlay: &Overlay) -> Vec<DiskWrite> {
        let mut writes = Vec::new();
        for (index, run) in overlay.runs() {
            for slot in view.slots_of(index) {
                let disks = view.writers(slot).iter();
                writes.extend(disks.map(|disk| (Rc::clone(disk), run.col, run.data.clone())));
            }
        }
        writes
    }

    /// What goes to whom of `parity`.
    pub(super) fn parity_writes(view: &RowView, parity: &[NewParity]) -> Vec<DiskWrite> {
        let mut writes = Vec::new();
        for new in parity {
            let slot = view.parity_slot(new.role);
            let disks = slot.into_iter().flat_map(|slot| view.writers(slot));
            writes.extend(disks.map(|disk| (Rc::clone(disk), new.col, new.data.clone())));
        }
        writes
    }

    /// Writes to disks; who fails is ejected, durably on return.
    pub(super) async fn write_all(
        self: &Rc<Self>,
        writes: impl IntoIterator<Item = (Row, DiskWrite)>,
        flags: WriteFlags,
    ) -> Result<(), IoErrorKind> {
        let results = join_all(
            writes
                .into_iter()
                .map(|(row, (disk, col, data))| async move {
                    let write = disk.write_with(&self.geometry, row, col, data, flags);
                    let result = write.await;
                    (disk, result)
                }),
        )
        .await;
        for (disk, result) in results {
            if let Err(error) = result {
                self.write_failed(&disk, &error).await;
            }
        }
        self.check_alive()
    }
}
