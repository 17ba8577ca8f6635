//! One log: pure.
//!
//! Invariants
//! - base ≤ applied + 1 ≤ committed + 1 ≤ next; every record is in base..next.
//! - What is committed and not applied is named by its commit's place in the lane.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use cairn_blockdev::SharedBuf;
use cairn_blockdev::units::u64_of;

use super::codec::{Said, State};
use crate::journal::admission::operation_bytes;
use crate::journal::entry::{Entry, Seq};
use crate::space::ExtentId;

/// A record that isn't trimmed.
pub(crate) struct Held {
    pub(crate) entry: Entry,
    /// One part, or none.
    pub(crate) payload: Vec<SharedBuf>,
    /// Where its newest copy stands in the lane.
    pub(crate) lane: Seq,
    /// Where it stood first: tells it from another of the same sequence.
    pub(crate) stamp: Seq,
    /// Extents that stay mapped until it takes effect.
    pub(crate) pins: Vec<ExtentId>,
}

impl Held {
    pub(crate) fn cost(&self) -> u64 {
        operation_bytes(self.payload.iter().map(|part| part.len()).sum())
    }
}

/// A log.
#[derive(Default)]
pub(crate) struct Log {
    base: u64,
    next: u64,
    committed: u64,
    applied: u64,
    durable: u64,
    /// The owner needs the records from here on; `None` until it says so.
    keep_from: Option<u64>,
    /// The hook agreed to everything through this.
    released: u64,
    records: BTreeMap<u64, Rc<Held>>,
    /// Commits that aren't in place: where, and through which sequence.
    commits: VecDeque<(Seq, u64)>,
    meta: Vec<u8>,
    /// Where the newest state stands.
    anchor: Option<Seq>,
    /// Whether anything changed since.
    changed: bool,
}

impl Log {
    // --- what the lane says, in its order

    /// Takes a record of the lane. Gives the operations that take effect with it, in order.
    pub(crate) fn take(
        &mut self,
        lane: Seq,
        entry: &Entry,
        payload: Vec<SharedBuf>,
        said: Said,
    ) -> Vec<Rc<Held>> {
        match said {
            Said::Prepared(seq) => self.found(seq, lane, entry.clone(), payload),
            Said::Commit(first, through) => return self.take_effect(lane, first, through),
            Said::Abort(from) => drop(self.cut(from)),
            Said::Forget => *self = Self::default(),
            Said::State(state) => self.found_state(lane, state),
        }
        Vec::new()
    }

    fn found(&mut self, seq: u64, lane: Seq, entry: Entry, payload: Vec<SharedBuf>) {
        if self.next == 0 {
            self.begin(seq);
        }
        self.next = self.next.max(seq.saturating_add(1));
        if seq < self.base && self.anchor.is_some() {
            return;
        }
        // A copy may come first; the state behind it says where the log really begins.
        self.base = self.base.min(seq);
        let stamp = self.records.get(&seq).map_or(lane, |held| held.stamp);
        let held = Held {
            entry,
            payload,
            lane,
            stamp,
            pins: Vec::new(),
        };
        self.records.insert(seq, Rc::new(held));
    }

    fn found_state(&mut self, lane: Seq, state: State) {
        self.base = state.base;
        self.next = state.next;
        self.committed = state.committed;
        self.applied = state.applied;
        self.meta = state.meta;
        self.records
            .retain(|seq, _| (state.base..state.next).contains(seq));
        self.commits.retain(|(_, through)| *through > state.applied);
        self.note_anchor(lane);
    }

    fn begin(&mut self, seq: u64) {
        self.base = seq;
        self.next = seq;
        self.committed = seq.saturating_sub(1);
        self.applied = self.committed;
        self.durable = self.committed;
    }

    /// The lane has no more: everything found is durable.
    pub(crate) fn end_of_replay(&mut self) {
        self.durable = self.next.saturating_sub(1);
        self.changed = true;
    }

    // --- what the owner does

    /// The sequence that must come next; `None` if any may.
    pub(crate) fn expects(&self) -> Option<u64> {
        (self.next != 0).then_some(self.next)
    }

    /// Takes the next operation.
    ///
    /// # Panics
    /// If it isn't the next.
    pub(crate) fn prepare(&mut self, seq: u64, held: Held) {
        if self.next == 0 {
            self.begin(seq);
        }
        assert_eq!(seq, self.next, "a log with a gap");
        self.next = seq + 1;
        self.records.insert(seq, Rc::new(held));
        self.changed = true;
    }

    /// A record is flushed, and all before it. False if it was aborted since.
    pub(crate) fn note_durable(&mut self, seq: u64, stamp: Seq) -> bool {
        let is_it = match self.records.get(&seq) {
            Some(held) => held.stamp == stamp,
            // Committed, in place and let go.
            None => seq <= self.committed,
        };
        if is_it {
            self.durable = self.durable.max(seq);
        }
        is_it
    }

    /// What would take effect with a commit through `through`: first and last, if anything.
    pub(crate) fn commits_to(&self, through: u64) -> Option<(u64, u64)> {
        let through = through.min(self.next.saturating_sub(1));
        (through > self.committed).then_some((self.committed + 1, through))
    }

    /// Commits; gives what takes effect, in order.
    pub(crate) fn commit(&mut self, lane: Seq, through: u64) -> Vec<Rc<Held>> {
        let Some((first, through)) = self.commits_to(through) else {
            return Vec::new();
        };
        self.take_effect(lane, first, through)
    }

    fn take_effect(&mut self, lane: Seq, first: u64, through: u64) -> Vec<Rc<Held>> {
        if self.next == 0 {
            self.begin(first);
        }
        self.next = self.next.max(through.saturating_add(1));
        self.committed = self.committed.max(through);
        self.commits.push_back((lane, through));
        self.changed = true;
        self.records
            .range(first..=through)
            .map(|(_, held)| Rc::clone(held))
            .collect()
    }

    /// Whether `from` can be aborted.
    pub(crate) fn may_abort(&self, from: u64) -> bool {
        from > self.committed
    }

    /// Aborts everything from `from` on; gives what is void.
    pub(crate) fn abort(&mut self, from: u64) -> Vec<Rc<Held>> {
        self.cut(from.max(self.committed + 1))
    }

    fn cut(&mut self, from: u64) -> Vec<Rc<Held>> {
        if self.next == 0 || from >= self.next {
            return Vec::new();
        }
        self.next = from;
        self.durable = self.durable.min(from.saturating_sub(1));
        self.changed = true;
        self.records.split_off(&from).into_values().collect()
    }

    pub(crate) fn set_meta(&mut self, meta: &[u8]) {
        self.meta = meta.to_vec();
        self.changed = true;
    }

    pub(crate) fn meta(&self) -> &[u8] {
        &self.meta
    }

    pub(crate) fn set_floor(&mut self, keep_from: u64) {
        let floor = self.keep_from.unwrap_or(0).max(keep_from);
        self.keep_from = Some(floor);
    }

    // --- what the journal does

    /// Everything in the lane below this is in place and flushed.
    pub(crate) fn note_applied(&mut self, below: Seq) {
        while let Some((_, through)) = self.commits.front().filter(|(lane, _)| *lane < below) {
            self.applied = self.applied.max(*through);
            self.durable = self.durable.max(self.applied);
            self.changed = true;
            self.commits.pop_front();
        }
        assert!(self.applied <= self.committed, "applied and not committed");
    }

    /// The last record that may go once the hook agrees.
    pub(crate) fn could_trim(&self) -> Option<u64> {
        let through = self.applied.min(self.keep_from?.saturating_sub(1));
        (through >= self.base && self.next != 0).then_some(through)
    }

    /// Whether [`Log::trim`] would let anything go.
    pub(crate) fn would_trim(&self) -> bool {
        self.could_trim()
            .is_some_and(|through| through.min(self.released) >= self.base)
    }

    /// The hook agreed to everything through this.
    pub(crate) fn release(&mut self, through: u64) {
        self.released = self.released.max(through);
    }

    /// Lets go of what nobody needs; gives it.
    pub(crate) fn trim(&mut self) -> Vec<Rc<Held>> {
        let through = match self.could_trim() {
            Some(through) => through.min(self.released),
            None => return Vec::new(),
        };
        if through < self.base {
            return Vec::new();
        }
        self.base = through + 1;
        self.changed = true;
        let kept = self.records.split_off(&self.base);
        std::mem::replace(&mut self.records, kept)
            .into_values()
            .collect()
    }

    /// The lowest place in the lane that this log needs. [`None`]: nothing of it is there.
    pub(crate) fn lowest(&self) -> Option<Seq> {
        let lowest = self.records.values().map(|held| held.lane).min();
        lowest.into_iter().chain(self.anchor).min()
    }

    /// Records that may be copied to the lane's end, with their sequences: those in place below `applied` in the
    /// lane, and those that are pending below `end`.
    pub(crate) fn movable(&self, applied: Seq, end: Seq) -> impl Iterator<Item = (u64, &Rc<Held>)> {
        let may = move |seq: u64, held: &Held| {
            let is_pending = seq > self.committed && held.lane < end;
            is_pending || (seq <= self.applied && held.lane < applied)
        };
        self.records
            .iter()
            .filter(move |(seq, held)| may(**seq, held))
            .map(|(seq, held)| (*seq, held))
    }

    /// A record was copied to `lane`.
    ///
    /// # Panics
    /// If there is no such record, or it is on its way into place.
    pub(crate) fn note_moved(&mut self, seq: u64, lane: Seq) {
        assert!(
            seq > self.committed || seq <= self.applied,
            "a copy of what is on its way"
        );
        let Some(held) = self.records.get_mut(&seq) else {
            unreachable!("a copy of nothing");
        };
        *held = Rc::new(Held {
            entry: held.entry.clone(),
            payload: held.payload.clone(),
            lane,
            stamp: held.stamp,
            pins: held.pins.clone(),
        });
    }

    pub(crate) fn state(&self) -> State {
        State {
            base: self.base,
            next: self.next,
            committed: self.committed,
            applied: self.applied,
            meta: self.meta.clone(),
        }
    }

    /// Whether the state has to be written for the floor to rise to `below`.
    pub(crate) fn wants_anchor(&self, below: Seq) -> bool {
        self.changed || self.anchor.is_none_or(|anchor| anchor < below)
    }

    /// The state stands at `lane`.
    pub(crate) fn note_anchor(&mut self, lane: Seq) {
        self.anchor = Some(lane);
        self.changed = false;
    }

    // --- looking

    pub(crate) fn records(&self) -> impl Iterator<Item = (u64, &Rc<Held>)> {
        self.records.iter().map(|(seq, held)| (*seq, held))
    }

    pub(crate) fn pending(&self) -> impl Iterator<Item = (u64, &Rc<Held>)> {
        let first = self.committed + 1;
        self.records.range(first..).map(|(seq, held)| (*seq, held))
    }

    /// Sets what a pending record pins.
    pub(crate) fn set_pins(&mut self, seq: u64, pins: Vec<ExtentId>) {
        if let Some(held) = self.records.get_mut(&seq) {
            *held = Rc::new(Held {
                entry: held.entry.clone(),
                payload: held.payload.clone(),
                lane: held.lane,
                stamp: held.stamp,
                pins,
            });
        }
    }

    /// Bytes of untrimmed records.
    pub(crate) fn used(&self) -> u64 {
        self.records.values().map(|held| held.cost()).sum()
    }

    /// Untrimmed records.
    pub(crate) fn records_total(&self) -> u64 {
        u64_of(self.records.len())
    }

    /// Payload of all untrimmed records.
    pub(crate) fn payload_bytes(&self) -> u64 {
        let parts = self.records.values().flat_map(|held| &held.payload);
        parts.map(|part| u64_of(part.len())).sum()
    }

    pub(crate) fn is_committed(&self, seq: u64) -> bool {
        seq <= self.committed
    }

    /// Whether nothing is pending or on its way into place.
    pub(crate) fn is_idle(&self) -> bool {
        self.applied == self.committed && self.next <= self.committed + 1
    }

    pub(crate) fn watermarks(&self) -> cairn_blockdev::prepared::Watermarks {
        use cairn_blockdev::prepared::{Seq, Watermarks};
        Watermarks {
            contiguous: Seq(self.next.saturating_sub(1)),
            durable: Seq(self.durable),
            committed: Seq(self.committed),
            destaged: Seq(self.applied),
            trimmed: Seq(self.base.saturating_sub(1)),
        }
    }
}
