//! New contents of a row's data chunks, gathered from queued writes: runs of whole blocks.
//!
//! Later writes win. Knows blocks and chunks; does not know disks or parity.

use std::collections::BTreeSet;

use cairn_blockdev::units::{BLOCK_BYTES, u64_of, usize_of};
use cairn_blockdev::{Buf, BufPool, SharedBuf};

use crate::geometry::{Columns, Set};

/// Blocks of one chunk: the first column and the bytes.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) col: u64,
    pub(crate) data: SharedBuf,
}

impl Run {
    fn end(&self) -> u64 {
        self.col + u64_of(self.data.len() / BLOCK_BYTES)
    }

    /// The bytes of columns `cols`, if the run covers them.
    fn slice(&self, cols: &Columns) -> Option<SharedBuf> {
        (self.col <= cols.start && cols.end <= self.end()).then(|| {
            let from = usize_of(cols.start - self.col) * BLOCK_BYTES;
            let to = usize_of(cols.end - self.col) * BLOCK_BYTES;
            self.data.slice(from..to)
        })
    }
}

/// Some columns of a chunk, with their new bytes if there are any.
#[derive(Debug, Clone)]
pub(crate) struct Cover {
    pub(crate) cols: Columns,
    pub(crate) data: Option<SharedBuf>,
}

impl Cover {
    /// Columns without new bytes.
    pub(crate) fn gap(cols: Columns) -> Self {
        Self { cols, data: None }
    }
}

/// A run of columns in which the same data chunks are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) cols: Columns,
    pub(crate) written: Set,
}

/// The new contents, by data index; runs are sorted and don't overlap.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    chunks: Vec<Vec<Run>>,
}

impl Overlay {
    pub(crate) fn new(data_chunks: usize) -> Self {
        Self {
            chunks: (0..data_chunks).map(|_| Vec::new()).collect(),
        }
    }

    /// Lays `data` (whole blocks) over what is there.
    pub(crate) fn put(&mut self, index: usize, col: u64, data: SharedBuf) {
        assert!(
            data.len().is_multiple_of(BLOCK_BYTES),
            "a run of {} bytes",
            data.len()
        );
        let new = Run { col, data };
        let Some(runs) = self.chunks.get_mut(index) else {
            return;
        };
        let mut kept = Vec::with_capacity(runs.len() + 1);
        for run in runs.drain(..) {
            if run.end() <= new.col || run.col >= new.end() {
                kept.push(run);
                continue;
            }
            if run.col < new.col {
                let data = run
                    .slice(&(run.col..new.col))
                    .unwrap_or_else(|| run.data.clone());
                kept.push(Run { col: run.col, data });
            }
            if run.end() > new.end() {
                let data = run
                    .slice(&(new.end()..run.end()))
                    .unwrap_or_else(|| run.data.clone());
                kept.push(Run {
                    col: new.end(),
                    data,
                });
            }
        }
        kept.push(new);
        kept.sort_by_key(|run| run.col);
        *runs = kept;
    }

    /// The new bytes of columns `cols` of a chunk, if one run covers them.
    pub(crate) fn get(&self, index: usize, cols: &Columns) -> Option<SharedBuf> {
        self.chunks
            .get(index)?
            .iter()
            .find_map(|run| run.slice(cols))
    }

    /// The new bytes of columns `cols` of a chunk, in order, with the gaps between them.
    pub(crate) fn cover(&self, index: usize, cols: &Columns) -> Vec<Cover> {
        let mut covers = Vec::new();
        let mut at = cols.start;
        let runs = self.chunks.get(index).into_iter().flatten();
        for run in runs.filter(|run| run.col < cols.end && cols.start < run.end()) {
            let part = run.col.max(cols.start)..run.end().min(cols.end);
            if at < part.start {
                covers.push(Cover::gap(at..part.start));
            }
            at = part.end;
            let data = run.slice(&part);
            covers.push(Cover { cols: part, data });
        }
        if at < cols.end {
            covers.push(Cover::gap(at..cols.end));
        }
        covers
    }

    /// The columns from the first to the last that is written.
    pub(crate) fn hull(&self) -> Option<Columns> {
        let start = self.runs().map(|(_, run)| run.col).min()?;
        let end = self.runs().map(|(_, run)| run.end()).max()?;
        Some(start..end)
    }

    /// Joins neighbouring runs, so that each becomes one operation on its disk.
    pub(crate) fn coalesce(&mut self, pool: &BufPool) {
        for runs in self.chunks.iter_mut().filter(|runs| runs.len() > 1) {
            let mut joined: Vec<Run> = Vec::with_capacity(runs.len());
            let mut group: Vec<Run> = Vec::new();
            for run in runs.drain(..) {
                if group.last().is_some_and(|last| last.end() != run.col) {
                    joined.extend(join(std::mem::take(&mut group), pool));
                }
                group.push(run);
            }
            joined.extend(join(group, pool));
            *runs = joined;
        }
    }

    /// Every run with its data index.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (usize, &Run)> {
        self.chunks
            .iter()
            .enumerate()
            .flat_map(|(index, runs)| runs.iter().map(move |r| (index, r)))
    }

    /// The columns touched, cut where the set of written chunks changes.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let edges: BTreeSet<u64> = self
            .runs()
            .flat_map(|(_, run)| [run.col, run.end()])
            .collect();
        let mut spans: Vec<Span> = Vec::new();
        for (start, end) in edges.iter().zip(edges.iter().skip(1)) {
            let cols = *start..*end;
            let written = self
                .runs()
                .filter(|(_, run)| run.slice(&cols).is_some())
                .fold(Set::EMPTY, |set, (index, _)| set.with(index));
            match spans.last_mut() {
                _ if written.is_empty() => {}
                Some(last) if last.cols.end == cols.start && last.written == written => {
                    last.cols.end = cols.end;
                }
                _ => spans.push(Span { cols, written }),
            }
        }
        spans
    }
}

fn join(group: Vec<Run>, pool: &BufPool) -> Option<Run> {
    let first = group.first()?;
    if group.len() == 1 {
        return Some(first.clone());
    }
    let col = first.col;
    let mut whole: Buf = pool.take(group.iter().map(|run| run.data.len()).sum());
    let mut rest: &mut [u8] = &mut whole;
    for run in &group {
        let (head, tail) = rest.split_at_mut(run.data.len());
        head.copy_from_slice(&run.data);
        rest = tail;
    }
    Some(Run {
        col,
        data: whole.freeze(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn blocks(count: usize, value: u8) -> SharedBuf {
        let mut buf = Buf::zeroed(count * BLOCK_BYTES);
        buf.fill(value);
        buf.freeze()
    }

    proptest! {
        /// Any order of overlapping writes reads like the same writes on an array of blocks, and the
        /// spans name exactly what was written.
        #[test]
        fn later_writes_win(writes in proptest::collection::vec((0usize..3, 0u64..14, 1usize..6, 1u8..), 1..20)) {
            let pool = BufPool::new(1 << 20);
            let mut model = [[0u8; 20]; 3];
            let mut overlay = Overlay::new(3);
            for (index, col, len, value) in writes {
                overlay.put(index, col, blocks(len, value));
                model[index][usize_of(col)..usize_of(col) + len].fill(value);
            }
            overlay.coalesce(&pool);
            let mut seen = [[0u8; 20]; 3];
            for span in overlay.spans() {
                for index in span.written.iter() {
                    let bytes = overlay.get(index, &span.cols).unwrap();
                    for (col, block) in span.cols.clone().zip(bytes.chunks(BLOCK_BYTES)) {
                        seen[index][usize_of(col)] = block[0];
                    }
                }
            }
            prop_assert_eq!(seen, model);
        }
    }
}
