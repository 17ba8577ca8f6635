//! A log is what its records amount to, wherever the floor cuts them off.

use cairn_blockdev::prepared::{LogId, Op, Seq as LogSeq, Tag as OwnersTag};
use cairn_blockdev::{Buf, SharedBuf};
use proptest::prelude::*;

use super::book::{Book, LOGS_MAX};
use super::codec::{Said, State, of_abort, of_commit, of_forget, of_op, of_state, said};
use super::log::Held;
use crate::journal::entry::{Entry, Seq};
use crate::journal::group;

type Line = (Seq, Entry, Vec<SharedBuf>);

fn block(value: u8) -> SharedBuf {
    let mut buf = Buf::zeroed(4096);
    buf.fill(value);
    buf.freeze()
}

fn write(value: u8) -> Op {
    Op::Write {
        offset: u64::from(value) * 4096,
        data: block(value),
    }
}

/// A lane with logs that are used as the executor uses them.
#[derive(Default)]
struct Lane {
    lines: Vec<Line>,
    book: Book,
    /// Values that took effect, in order, with the commit's place.
    effects: Vec<(Seq, u8)>,
    applied_below: u64,
    floor: u64,
}

fn value_of(held: &Held) -> u8 {
    held.payload.first().map_or(0, |data| data[0])
}

impl Lane {
    fn log(&mut self, entry: Entry, payload: Vec<SharedBuf>) -> Seq {
        let lane = Seq(1 + self.lines.len() as u64);
        self.lines.push((lane, entry, payload));
        lane
    }

    fn prepare(&mut self, id: u32, value: u8) {
        let seq = self.book.open(LogId(id)).unwrap().expects().unwrap_or(7);
        let (entry, payload) = of_op(id, seq, 1, &OwnersTag::default(), &write(value));
        let lane = self.log(entry.clone(), payload.clone());
        let held = Held {
            entry,
            payload,
            lane,
            stamp: lane,
            pins: Vec::new(),
        };
        self.book.get_mut(LogId(id)).unwrap().prepare(seq, held);
    }

    fn commit(&mut self, id: u32, count: u64) {
        let Some(log) = self.book.get(LogId(id)) else {
            return;
        };
        let through = log.watermarks().committed.0 + count;
        let Some((first, through)) = log.commits_to(through) else {
            return;
        };
        let lane = self.log(of_commit(id, first, through), Vec::new());
        for held in self.book.commit(LogId(id), lane, through) {
            self.effects.push((lane, value_of(&held)));
        }
    }

    fn abort(&mut self, id: u32, back: u64) {
        let Some(log) = self.book.get(LogId(id)) else {
            return;
        };
        let marks = log.watermarks();
        let from = (marks.contiguous.0 + 1)
            .saturating_sub(back)
            .max(marks.committed.0 + 1);
        self.log(of_abort(id, from), Vec::new());
        self.book.get_mut(LogId(id)).unwrap().abort(from);
    }

    /// A cycle: everything in the lane is in place; some is copied, the rest stays.
    fn cycle(&mut self, applied_below: u64, copies: usize) {
        self.applied_below = self
            .applied_below
            .max(applied_below.min(self.lines.len() as u64 + 1));
        let below = Seq(self.applied_below);
        self.book.note_applied(below);
        for id in self.book.ids() {
            let log = self.book.get_mut(id).unwrap();
            if let Some(through) = log.could_trim() {
                log.release(through);
            }
            log.trim();
        }
        for (id, seq, held) in self.book.movable(below, below).into_iter().take(copies) {
            let lane = self.log(held.entry.clone(), held.payload.clone());
            self.book.get_mut(id).unwrap().note_moved(seq, lane);
        }
        for id in self.book.ids() {
            if self.book.get(id).unwrap().wants_anchor(below) {
                let (entry, payload) = of_state(id.0, &self.book.get(id).unwrap().state());
                let lane = self.log(entry, payload);
                self.book.get_mut(id).unwrap().note_anchor(lane);
            }
        }
        self.floor = self.book.floor(below).0.max(self.floor);
        self.book.passed(Seq(self.floor));
    }

    /// What a restart finds: the logs, and what takes effect again.
    fn replay(&self) -> (Book, Vec<(Seq, u8)>) {
        let mut book = Book::default();
        let mut effects = Vec::new();
        for (lane, entry, payload) in self.lines.iter().filter(|(lane, ..)| lane.0 >= self.floor) {
            for held in book.take(*lane, entry, payload.clone()) {
                effects.push((*lane, value_of(&held)));
            }
        }
        book.end_of_replay();
        (book, effects)
    }
}

#[derive(Debug, Clone)]
enum Step {
    Prepare(u32, u8),
    Commit(u32, u64),
    Abort(u32, u64),
    Floor(u32, u64),
    Meta(u32, u8),
    Cycle(u64, usize),
    Forget(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0u32..3, 1u8..).prop_map(|(id, value)| Step::Prepare(id, value)),
        4 => (0u32..3, 0u64..4).prop_map(|(id, count)| Step::Commit(id, count)),
        1 => (0u32..3, 0u64..4).prop_map(|(id, back)| Step::Abort(id, back)),
        2 => (0u32..3, 0u64..30).prop_map(|(id, keep)| Step::Floor(id, keep)),
        1 => (0u32..3, 0u8..).prop_map(|(id, value)| Step::Meta(id, value)),
        4 => (0u64..60, 0usize..5).prop_map(|(below, copies)| Step::Cycle(below, copies)),
        1 => (0u32..3).prop_map(Step::Forget),
    ]
}

proptest! {
    /// Wherever the floor stands, a restart finds the logs as they were, and everything that took effect
    /// from there on takes effect again, at the places of the commits.
    #[test]
    fn a_restart_finds_what_was_there(steps in proptest::collection::vec(step(), 0..80)) {
        let mut lane = Lane::default();
        for step in steps {
            match step {
                Step::Prepare(id, value) => lane.prepare(id, value),
                Step::Commit(id, count) => lane.commit(id, count),
                Step::Abort(id, back) => lane.abort(id, back),
                Step::Floor(id, keep) => if let Some(log) = lane.book.get_mut(LogId(id)) {
                    log.set_floor(keep);
                },
                Step::Meta(id, value) => {
                    lane.book.open(LogId(id)).unwrap().set_meta(&[value; 9]);
                    let (entry, payload) = of_state(id, &lane.book.get(LogId(id)).unwrap().state());
                    let at = lane.log(entry, payload);
                    lane.book.get_mut(LogId(id)).unwrap().note_anchor(at);
                }
                Step::Cycle(below, copies) => lane.cycle(below, copies),
                Step::Forget(id) => if lane.book.get(LogId(id)).is_some_and(super::log::Log::is_idle) {
                    lane.log(of_forget(id), Vec::new());
                    lane.book.remove(LogId(id));
                },
            }
            let (mut found, effects) = lane.replay();
            found.note_applied(Seq(lane.applied_below));
            let expected: Vec<_> = lane.effects.iter().filter(|(at, _)| at.0 >= lane.floor).copied().collect();
            prop_assert_eq!(effects, expected);
            prop_assert_eq!(found.ids(), lane.book.ids());
            for id in found.ids() {
                let (a, b) = (found.get(id).unwrap(), lane.book.get(id).unwrap());
                let (marks, was) = (a.watermarks(), b.watermarks());
                prop_assert_eq!(marks.contiguous, was.contiguous);
                prop_assert_eq!(marks.committed, was.committed);
                prop_assert_eq!(a.meta(), b.meta());
                let see = |book: &Book| -> Vec<_> {
                    let records = book.records(id, LogSeq::NONE).into_iter();
                    records.filter(|r| r.seq > was.trimmed).map(|r| (r.seq, r.op.range(), r.committed)).collect()
                };
                prop_assert_eq!(see(&found), see(&lane.book));
            }
        }
    }

    #[test]
    fn what_a_log_says_survives_the_journal(
        log in any::<u32>(), next in any::<u64>(), base in any::<u64>(), committed in any::<u64>(),
        applied in any::<u64>(), meta in proptest::collection::vec(any::<u8>(), 0..=4096),
    ) {
        let mut order = [base, applied, committed, next];
        order.sort_unstable();
        let [base, applied, committed, next] = order;
        let state = State { base, next, committed, applied, meta };
        let (entry, payload) = of_state(log, &state);
        let expected = (committed < next).then_some(Said::State(state));
        prop_assert_eq!(said(&entry, &payload), expected);
        let (first, last) = (next.min(base), next.max(base));
        prop_assert_eq!(said(&of_commit(log, first, last), &[]), Some(Said::Commit(first, last)));
        prop_assert_eq!(said(&of_abort(log, next), &[]), Some(Said::Abort(next)));
        prop_assert_eq!(said(&of_forget(log), &[]), Some(Said::Forget));
    }
}

/// Everything that a log ever says, as one group of the journal: entries, and what each of them says.
fn golden_records() -> (Vec<(Entry, Vec<SharedBuf>)>, Vec<Said>) {
    let tag = OwnersTag::new(b"ballot 3.14").unwrap();
    let device = 0x0102_0304_0506_0708;
    let op = |seq, op: &Op| of_op(7, seq, device, &tag, op);
    let zero = Op::Zero {
        offset: 1 << 33,
        len: 3 << 12,
    };
    let discard = Op::Discard {
        offset: 1 << 34,
        len: 5 << 12,
    };
    let state = State {
        base: 0x1111,
        next: 0x4444_4444,
        committed: 0x3333_3333,
        applied: 0x2222_2222,
        meta: b"promised 9".to_vec(),
    };
    let blank = State {
        base: 0,
        next: 0,
        committed: 0,
        applied: 0,
        meta: Vec::new(),
    };
    let without_payload = |entry| (entry, Vec::new());
    let records = vec![
        op(0x21, &write(5)),
        op(0x22, &zero),
        op(0x23, &discard),
        op(0x24, &Op::Barrier),
        without_payload(of_commit(7, 0x21, 0x22)),
        without_payload(of_abort(7, 0x24)),
        of_state(7, &state),
        of_state(8, &blank),
        without_payload(of_forget(8)),
    ];
    let said = vec![
        Said::Prepared(0x21),
        Said::Prepared(0x22),
        Said::Prepared(0x23),
        Said::Prepared(0x24),
        Said::Commit(0x21, 0x22),
        Said::Abort(0x24),
        Said::State(state),
        Said::State(blank),
        Said::Forget,
    ];
    (records, said)
}

#[test]
fn what_logs_said_in_version_1_is_read_for_ever() {
    let golden = include_bytes!("../../tests/golden/journal-logs-v1.bin");
    let group = group::decode(golden).unwrap();
    assert!(group::payload_is_intact(
        &group,
        &golden[group.descriptor_len..]
    ));
    let (records, all_said) = golden_records();
    assert_eq!(group.entries.len(), records.len());
    for (index, (entry, expected)) in group.entries.iter().zip(all_said).enumerate() {
        let range = group.payload_range(index).unwrap();
        let payload = golden[range].chunks(4096);
        let payload: Vec<SharedBuf> = payload.map(|b| Buf::copy_of(b).freeze()).collect();
        assert_eq!(said(entry, &payload), Some(expected), "entry {index}");
        assert_eq!(entry, &records[index].0, "entry {index}");
    }
    // And they are written as they were.
    let entries: Vec<Entry> = records.iter().map(|(entry, _)| entry.clone()).collect();
    let mut bytes = vec![0; group::descriptor_bytes(&entries)];
    group::encode(&group.head, &entries, &mut bytes);
    bytes.extend(
        records
            .iter()
            .flat_map(|(_, payload)| payload.iter().flat_map(|block| block.to_vec())),
    );
    assert_eq!(bytes, golden, "the encoding of version 1 changed");
}

#[test]
fn one_log_over_its_quota_leaves_the_others_theirs() {
    let mut lane = Lane::default();
    let admits = 1 << 20;
    // What an operation of one block is admitted with.
    let cost = 16 << 10;
    let mut taken = 0;
    while lane.book.has_room(LogId(0), cost, admits, 0) {
        lane.prepare(0, 1);
        taken += 1;
    }
    assert_eq!(taken, (1 << 20) / 3 / 4 / cost);
    assert!(lane.book.has_room(LogId(1), cost, admits, 0));
    // An empty log may take one that is larger than its quota, while there is room for all.
    assert!(lane.book.has_room(LogId(2), 300 << 10, admits, 0));
    assert!(!lane.book.has_room(LogId(2), 1 << 20, admits, 0));
    for id in 3..=u32::try_from(LOGS_MAX).unwrap() {
        lane.prepare(id, 1);
    }
    assert!(lane.book.open(LogId(1)).is_some() && lane.book.open(LogId(99)).is_none());
}

#[test]
fn records_stay_until_the_owner_spoke() {
    let mut lane = Lane::default();
    lane.prepare(0, 1);
    lane.prepare(0, 2);
    lane.commit(0, 2);
    lane.cycle(100, 0);
    assert_eq!(lane.book.records(LogId(0), LogSeq::NONE).len(), 2);
    lane.book.get_mut(LogId(0)).unwrap().set_floor(8);
    lane.cycle(100, 0);
    assert_eq!(lane.book.records(LogId(0), LogSeq::NONE).len(), 1);
}
