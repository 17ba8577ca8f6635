//! All logs of a lane: pure.
//!
//! Invariants
//! - The floor is never between an operation and its commit ([`Book::floor`]).
//! - Untrimmed records of all logs together take at most [`TOTAL_SHARE`] of what the journal admits, so
//!   that copying them forward always makes room.
//! - A log's quota is its part of [`QUOTA_SHARE`]; one that is empty may take one record that is larger.

use std::collections::BTreeMap;
use std::rc::Rc;

use cairn_blockdev::SharedBuf;
use cairn_blockdev::prepared::{LogId, Record, Seq as LogSeq, Tag as OwnersTag};
use cairn_blockdev::units::u64_of;

use super::codec::{Said, said, to_op};
use super::log::{Held, Log};
use crate::journal::entry::{Entry, Seq};
use crate::space::ExtentId;

/// Logs of an array at most. Their quotas and their states have to fit the ring.
pub(crate) const LOGS_MAX: usize = 32;
/// Logs that quotas are made for at least, so that the first few don't shrink each other's.
const LOGS_USUAL: u64 = 4;
/// The logs' quotas together: this part of what the journal admits, and with every log beyond
/// [`LOGS_USUAL`] that came after others had filled theirs some more: three times that at most.
const QUOTA_SHARE: u64 = 3;
/// Records of all logs: two of five parts of what the journal admits.
const TOTAL_SHARE: (u64, u64) = (2, 5);

/// The logs.
#[derive(Default)]
pub(crate) struct Book {
    logs: BTreeMap<LogId, Log>,
    pins: BTreeMap<ExtentId, usize>,
    /// Commits that the floor hasn't passed: the place of each, and the lowest place of what took effect
    /// with it.
    spans: BTreeMap<Seq, Seq>,
}

impl Book {
    // --- replay

    /// Takes a record of the lane, in order. Gives the operations that take effect with it.
    pub(crate) fn take(
        &mut self,
        lane: Seq,
        entry: &Entry,
        payload: Vec<SharedBuf>,
    ) -> Vec<Rc<Held>> {
        let Some(said) = said(entry, &payload) else {
            return Vec::new();
        };
        let id = LogId(entry.log);
        if said == Said::Forget {
            self.logs.remove(&id);
            return Vec::new();
        }
        let log = self.logs.entry(id).or_default();
        let effects = log.take(lane, entry, payload, said);
        self.note_span(lane, &effects);
        effects
    }

    fn note_span(&mut self, lane: Seq, effects: &[Rc<Held>]) {
        if let Some(lowest) = effects.iter().map(|held| held.lane).min() {
            self.spans.insert(lane, lowest);
        }
    }

    /// The lane has no more.
    pub(crate) fn end_of_replay(&mut self) {
        self.logs.values_mut().for_each(Log::end_of_replay);
    }

    // --- logs

    pub(crate) fn is_empty(&self) -> bool {
        self.logs.is_empty()
    }

    pub(crate) fn ids(&self) -> Vec<LogId> {
        self.logs.keys().copied().collect()
    }

    pub(crate) fn get(&self, id: LogId) -> Option<&Log> {
        self.logs.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: LogId) -> Option<&mut Log> {
        self.logs.get_mut(&id)
    }

    /// The log, made now if there is none. `None`: there are too many.
    pub(crate) fn open(&mut self, id: LogId) -> Option<&mut Log> {
        if !self.logs.contains_key(&id) && self.logs.len() >= LOGS_MAX {
            return None;
        }
        Some(self.logs.entry(id).or_default())
    }

    /// Commits a log's operations through `through`; gives what takes effect, in order.
    pub(crate) fn commit(&mut self, id: LogId, lane: Seq, through: u64) -> Vec<Rc<Held>> {
        let effects = self.logs.get_mut(&id).map(|log| log.commit(lane, through));
        let effects = effects.unwrap_or_default();
        self.note_span(lane, &effects);
        for held in &effects {
            self.unpin(&held.pins);
        }
        effects
    }

    pub(crate) fn remove(&mut self, id: LogId) {
        if let Some(log) = self.logs.remove(&id) {
            for (_, held) in log.pending() {
                self.unpin(&held.pins);
            }
        }
    }

    /// Whether a record of so many bytes may enter, of a journal that admits `admits` bytes.
    /// `granted` is what operations that aren't in their logs yet will take.
    pub(crate) fn has_room(&self, id: LogId, cost: u64, admits: u64, granted: u64) -> bool {
        let used = self.logs.get(&id).map_or(0, Log::used);
        let total = self.used() + granted;
        let new = u64::from(!self.logs.contains_key(&id));
        let quota = admits / QUOTA_SHARE / (u64_of(self.logs.len()) + new).max(LOGS_USUAL);
        let (part, of) = TOTAL_SHARE;
        let fits = used == 0 || used + cost <= quota;
        fits && total + cost <= admits / of * part
    }

    /// Bytes that a journal has to admit for what logs hold to be no more than their part.
    pub(crate) fn room_needed(&self) -> u64 {
        let (part, of) = TOTAL_SHARE;
        self.used().div_ceil(part) * of
    }

    /// Bytes of all untrimmed records.
    pub(crate) fn used(&self) -> u64 {
        self.logs.values().map(Log::used).sum()
    }

    /// Payload of all untrimmed records.
    pub(crate) fn payload_bytes(&self) -> u64 {
        self.logs.values().map(Log::payload_bytes).sum()
    }

    /// Untrimmed records.
    pub(crate) fn records_total(&self) -> u64 {
        self.logs.values().map(Log::records_total).sum()
    }

    // --- the journal

    /// Everything in the lane below this is in place and flushed.
    pub(crate) fn note_applied(&mut self, below: Seq) {
        self.logs
            .values_mut()
            .for_each(|log| log.note_applied(below));
    }

    /// The highest floor up to `most` that the logs allow: not beyond what one of them needs, and not
    /// between an operation and its commit, whatever became of both since. A replay does everything
    /// from the floor on once more, and what a commit does may follow on something that undoes it.
    pub(crate) fn floor(&self, most: Seq) -> Seq {
        let needs = self.logs.values().filter_map(Log::lowest);
        let mut floor = needs.fold(most, Seq::min);
        loop {
            let open = self.spans.range(floor..).map(|(_, lowest)| *lowest);
            match open.filter(|lowest| *lowest < floor).min() {
                Some(lowest) => floor = lowest,
                None => return floor,
            }
        }
    }

    /// The floor is durable.
    pub(crate) fn passed(&mut self, floor: Seq) {
        self.spans = self.spans.split_off(&floor);
    }

    /// Records that may be copied to the lane's end, the oldest first: those in place below `applied` in the lane,
    /// and those that are pending below `end`.
    pub(crate) fn movable(&self, applied: Seq, end: Seq) -> Vec<(LogId, u64, Rc<Held>)> {
        let all = self.logs.iter().flat_map(|(id, log)| {
            let records = log.movable(applied, end);
            records.map(|(seq, held)| (*id, seq, Rc::clone(held)))
        });
        let mut all: Vec<_> = all.collect();
        all.sort_by_key(|(_, _, held)| held.lane);
        all
    }

    // --- extents

    pub(crate) fn pin(&mut self, extents: &[ExtentId]) {
        for extent in extents {
            *self.pins.entry(*extent).or_default() += 1;
        }
    }

    pub(crate) fn unpin(&mut self, extents: &[ExtentId]) {
        for extent in extents {
            if let Some(count) = self.pins.get_mut(extent) {
                *count -= 1;
                if *count == 0 {
                    self.pins.remove(extent);
                }
            }
        }
    }

    /// Whether a pending record needs an extent.
    pub(crate) fn pins(&self, extent: ExtentId) -> bool {
        self.pins.contains_key(&extent)
    }

    // --- looking

    /// A log's records from `from` on, as its owner sees them.
    pub(crate) fn records(&self, id: LogId, from: LogSeq) -> Vec<Record> {
        let Some(log) = self.logs.get(&id) else {
            return Vec::new();
        };
        let records = log.records().filter(|(seq, _)| *seq >= from.0);
        let as_seen = records.filter_map(|(seq, held)| {
            Some(Record {
                seq: LogSeq(seq),
                device: held.entry.arg,
                tag: OwnersTag::new(held.entry.tag.bytes()).unwrap_or_default(),
                op: to_op(&held.entry, &held.payload)?,
                committed: log.is_committed(seq),
            })
        });
        as_seen.collect()
    }
}
