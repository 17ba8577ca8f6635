//! What is newer than the members: logged data of rows that isn't in place yet.
//!
//! Each row has two layers: `active` takes what is logged now; `applying` is frozen and on its way to
//! the members. A read looks through active, applying, and then at the disks.
//!
//! Invariants
//! - Data enters in the order of its sequence, in the same breath in which it gets one.
//! - The journal isn't trimmed beyond [`Dirty::first`]: everything here is also there.
//! - A row without layers and pins takes no memory.
//!
//! Does not know: disks, parity, when rows are applied.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::rc::Rc;

use cairn_blockdev::SharedBuf;
use cairn_blockdev::units::{BLOCK, u64_of};

use super::overlay::{Cover, Overlay};
use crate::geometry::{Columns, Row};
use crate::journal::entry::Seq;

#[derive(Default)]
struct Layers {
    active: Option<Overlay>,
    /// Lowest sequence in `active`.
    first: Option<Seq>,
    applying: Option<Rc<Overlay>>,
    /// Changes of the row's newest contents, so that who looked before an await can tell.
    changes: u64,
    pins: usize,
    /// Blocks that somebody has looked at who is to know if they change.
    edges: Vec<Rc<Edges>>,
}

/// Blocks of a row, by chunk and column, and whether their newest contents changed.
struct Edges {
    blocks: Vec<(usize, u64)>,
    changed: Cell<bool>,
}

impl Layers {
    fn is_unused(&self) -> bool {
        self.active.is_none() && self.applying.is_none() && self.pins == 0
    }

    /// What `is_in` says of a chunk and a column: whether it changes now.
    fn change(&mut self, is_in: impl Fn(usize, u64) -> bool) {
        self.changes += 1;
        for edges in &self.edges {
            if edges.blocks.iter().any(|(index, col)| is_in(*index, *col)) {
                edges.changed.set(true);
            }
        }
    }
}

#[derive(Default)]
struct State {
    rows: BTreeMap<Row, Layers>,
    /// Rows with an active layer, by the age of the oldest thing in it.
    by_age: BTreeSet<(Seq, Row)>,
}

/// All rows with something newer than the members.
pub(crate) struct Dirty {
    data_chunks: usize,
    state: RefCell<State>,
}

/// Keeps the count of a row's changes while somebody waits.
pub(crate) struct Pin {
    dirty: Rc<Dirty>,
    row: Row,
    seen: u64,
    edges: Option<Rc<Edges>>,
}

impl Pin {
    /// Whether the newest contents of the row, or of the blocks that this is of, changed since it was made.
    pub(crate) fn is_outdated(&self) -> bool {
        if let Some(edges) = &self.edges {
            return edges.changed.get();
        }
        let state = self.dirty.state.borrow();
        state
            .rows
            .get(&self.row)
            .is_none_or(|layers| layers.changes != self.seen)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut state = self.dirty.state.borrow_mut();
        if let Some(layers) = state.rows.get_mut(&self.row) {
            layers.pins -= 1;
            if let Some(mine) = &self.edges {
                layers.edges.retain(|edges| !Rc::ptr_eq(edges, mine));
            }
        }
        state.forget_if_unused(self.row);
    }
}

impl State {
    fn forget_if_unused(&mut self, row: Row) {
        if self.rows.get(&row).is_some_and(Layers::is_unused) {
            self.rows.remove(&row);
        }
    }

    /// Takes a row's active layer.
    fn take_active(&mut self, row: Row) -> Option<Overlay> {
        let layers = self.rows.get_mut(&row)?;
        let active = layers.active.take()?;
        if let Some(first) = layers.first.take() {
            self.by_age.remove(&(first, row));
        }
        Some(active)
    }
}

impl Dirty {
    pub(crate) fn new(data_chunks: usize) -> Self {
        Self {
            data_chunks,
            state: RefCell::default(),
        }
    }

    /// Lays whole blocks over the row; `seq` is the record that holds them.
    pub(crate) fn put(&self, row: Row, index: usize, col: u64, data: SharedBuf, seq: Seq) {
        let mut state = self.state.borrow_mut();
        let layers = state.rows.entry(row).or_default();
        let cols = col..col + u64_of(data.len()) / BLOCK;
        layers.change(|of, at| of == index && cols.contains(&at));
        let active = layers
            .active
            .get_or_insert_with(|| Overlay::new(self.data_chunks));
        active.put(index, col, data);
        if layers.first.is_none() {
            layers.first = Some(seq);
            state.by_age.insert((seq, row));
        }
    }

    /// The newest contents of `cols` of a chunk, where they are newer than the members.
    pub(crate) fn cover(&self, row: Row, index: usize, cols: &Columns) -> Vec<Cover> {
        let state = self.state.borrow();
        let whole = || vec![Cover::gap(cols.clone())];
        let Some(layers) = state.rows.get(&row) else {
            return whole();
        };
        let newest = match &layers.active {
            Some(active) => active.cover(index, cols),
            None => whole(),
        };
        let Some(applying) = &layers.applying else {
            return newest;
        };
        newest
            .into_iter()
            .flat_map(|cover| match cover.data {
                Some(_) => vec![cover],
                None => applying.cover(index, &cover.cols),
            })
            .collect()
    }

    /// Whether a row has anything newer than the members.
    pub(crate) fn has(&self, row: Row) -> bool {
        let state = self.state.borrow();
        state
            .rows
            .get(&row)
            .is_some_and(|layers| layers.active.is_some() || layers.applying.is_some())
    }

    /// Whether any of `rows` has anything newer than the members.
    pub(crate) fn any(&self, rows: RangeInclusive<Row>) -> bool {
        let state = self.state.borrow();
        let mut range = state.rows.range(rows);
        range.any(|(_, layers)| layers.active.is_some() || layers.applying.is_some())
    }

    /// Notes the row's newest contents as they are now.
    pub(crate) fn pin(self: &Rc<Self>, row: Row) -> Pin {
        let mut state = self.state.borrow_mut();
        let layers = state.rows.entry(row).or_default();
        layers.pins += 1;
        Pin {
            dirty: Rc::clone(self),
            row,
            seen: layers.changes,
            edges: None,
        }
    }

    /// Notes the newest contents of blocks of a row, by chunk and column: others of the row may change.
    pub(crate) fn pin_blocks(self: &Rc<Self>, row: Row, blocks: Vec<(usize, u64)>) -> Pin {
        let edges = Rc::new(Edges {
            blocks,
            changed: Cell::new(false),
        });
        let mut pin = self.pin(row);
        let mut state = self.state.borrow_mut();
        let layers = state.rows.entry(row).or_default();
        layers.edges.push(Rc::clone(&edges));
        drop(state);
        pin.edges = Some(edges);
        pin
    }

    /// The columns that a row's active layer touches.
    pub(crate) fn hull(&self, row: Row) -> Option<Columns> {
        let state = self.state.borrow();
        state.rows.get(&row)?.active.as_ref()?.hull()
    }

    /// The lowest sequence that any active layer needs, and the oldest rows first.
    pub(crate) fn first(&self) -> Option<Seq> {
        self.state.borrow().by_age.first().map(|(seq, _)| *seq)
    }

    /// Rows with an active layer, those with the oldest data first.
    pub(crate) fn oldest(&self, most: usize) -> Vec<Row> {
        let state = self.state.borrow();
        state
            .by_age
            .iter()
            .take(most)
            .map(|(_, row)| *row)
            .collect()
    }

    /// Freezes a row's active layer for its way to the members, and says which is the oldest record in
    /// it. The caller holds the lock of its
    /// columns until [`Dirty::applied`].
    ///
    /// # Panics
    /// If the row is on its way already.
    pub(crate) fn freeze(&self, row: Row) -> Option<(Seq, Rc<Overlay>)> {
        let mut state = self.state.borrow_mut();
        let first = state.rows.get(&row)?.first?;
        let active = Rc::new(state.take_active(row)?);
        let layers = state.rows.get_mut(&row)?;
        assert!(
            layers.applying.is_none(),
            "{row:?} is applied twice at once"
        );
        layers.applying = Some(Rc::clone(&active));
        Some((first, active))
    }

    /// Puts complete new contents of a row over everything, on its way to the members. Gives the
    /// lowest sequence of what that supersedes, which the journal must keep until the members have
    /// the new contents.
    pub(crate) fn supersede(&self, row: Row, whole: Rc<Overlay>) -> Option<Seq> {
        let mut state = self.state.borrow_mut();
        let first = state.rows.get(&row).and_then(|layers| layers.first);
        drop(state.take_active(row));
        let layers = state.rows.entry(row).or_default();
        assert!(
            layers.applying.is_none(),
            "{row:?} is applied twice at once"
        );
        layers.applying = Some(whole);
        layers.change(|_, _| true);
        first
    }

    /// What was frozen is in place, or given up.
    pub(crate) fn applied(&self, row: Row) {
        let mut state = self.state.borrow_mut();
        if let Some(layers) = state.rows.get_mut(&row) {
            layers.applying = None;
        }
        state.forget_if_unused(row);
    }

    /// What was frozen couldn't be put in place: it is active again, under what came since.
    pub(crate) fn thaw(&self, row: Row, first: Seq) {
        let mut state = self.state.borrow_mut();
        let newer = state.take_active(row);
        let Some(layers) = state.rows.get_mut(&row) else {
            return;
        };
        let Some(frozen) = layers.applying.take() else {
            return;
        };
        let mut whole = Overlay::new(self.data_chunks);
        for (index, run) in frozen.runs().chain(newer.iter().flat_map(Overlay::runs)) {
            whole.put(index, run.col, run.data.clone());
        }
        layers.active = Some(whole);
        layers.first = Some(first);
        state.by_age.insert((first, row));
    }

    /// Forgets a row's data: it reads as unwritten from here on. Nothing of it may be on its way.
    pub(crate) fn revoke(&self, row: Row) {
        let mut state = self.state.borrow_mut();
        drop(state.take_active(row));
        if let Some(layers) = state.rows.get_mut(&row) {
            assert!(layers.applying.is_none(), "{row:?} is revoked on its way");
            layers.change(|_, _| true);
        }
        state.forget_if_unused(row);
    }
}
