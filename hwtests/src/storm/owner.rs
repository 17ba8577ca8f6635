//! Owners of logs: they prepare, commit and abort on a volume of their own, as who replicates it does,
//! between the clients and through whatever happens to the disks. What each may find is known to the block.
//!
//! Two owners share the volume, so that each row has blocks of both.
//!
//! Does not know: what happens, and when; who the other hosts would be.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use cairn_blockdev::prepared::{LogId, Op, PreparedDevice, Record, Seq, Tag};
use cairn_blockdev::sim::Rng;
use cairn_blockdev::units::{BLOCK, BLOCK_BYTES, usize_of};
use cairn_blockdev::{Buf, Env, IoError, IoErrorKind};
use futures_util::future::join_all;

use super::load::AFTER_ERROR;
use super::log::Log;
use super::world::Rules;

/// Owners, each with a log.
const OWNERS: u64 = 2;
/// Blocks of an owner that lie together; as many of the other's follow.
const RUN: u64 = 4;
/// Blocks of an owner at most.
const BLOCKS_MAX: u64 = 96;
/// Operations that an owner keeps at most, so that it never waits for room that only it could make.
const KEPT_MAX: u64 = 12;
/// What the metadata of a log is filled up to.
const META_BYTES: usize = 100;

/// What was prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Write,
    Zero,
    Discard,
    Barrier,
}

/// An operation, in blocks of its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Did {
    kind: Kind,
    first: u64,
    count: u64,
    /// What it writes, told apart from everything else that was ever prepared.
    mark: u64,
}

impl Did {
    /// What its `at`-th block holds.
    fn value(&self, at: u64) -> u64 {
        match self.kind {
            Kind::Write => self.mark * RUN + at,
            _ => 0,
        }
    }
}

/// The volume that is written by way of logs alone.
pub(super) struct Replica {
    pub(super) device: RefCell<Option<Rc<dyn PreparedDevice>>>,
    pub(super) owners: Vec<Rc<Owner>>,
}

impl Replica {
    /// The volume's name.
    pub(super) const NAME: &'static str = "replica";

    /// Owners on a volume of so many bytes.
    pub(super) fn new(bytes: u64) -> Self {
        let blocks = (bytes / BLOCK / (OWNERS * RUN) * RUN).min(BLOCKS_MAX);
        Self {
            device: RefCell::default(),
            owners: (0..OWNERS)
                .map(|turn| Rc::new(Owner::new(turn, blocks)))
                .collect(),
        }
    }
}

/// The owner of a log. It survives the array's crashes.
pub(super) struct Owner {
    log: LogId,
    turn: u64,
    blocks: u64,
    /// What the blocks held before `ops`.
    base: RefCell<Vec<u64>>,
    ops: RefCell<BTreeMap<u64, Did>>,
    marks: Cell<u64>,
    next: Cell<u64>,
    /// Prepared, and acked.
    acked: Cell<u64>,
    /// Commit was called.
    committed: Cell<u64>,
    /// Commit was called, and it is durable.
    surely: Cell<u64>,
    /// What is above is kept.
    kept: Cell<u64>,
    /// An abort was called from here, and isn't acked.
    aborting: Cell<Option<u64>>,
    /// The hook agreed through this.
    released: Rc<Cell<u64>>,
    /// (called, acked).
    meta: Cell<(u8, u8)>,
    /// A task of it runs, or was cut off.
    works: Cell<bool>,
    /// More was lost than the level survives: nothing is known of the log any more.
    is_lost: Cell<bool>,
    /// Operations prepared and acked, all in all.
    prepared: Cell<u64>,
}

impl Owner {
    fn new(turn: u64, blocks: u64) -> Self {
        let before = turn * 4;
        Self {
            log: LogId(7 + u32::from(turn > 0) * 1000),
            turn,
            blocks,
            base: RefCell::new(vec![0; usize_of(blocks)]),
            ops: RefCell::default(),
            marks: Cell::new(0),
            next: Cell::new(before + 1),
            acked: Cell::new(before),
            committed: Cell::new(before),
            surely: Cell::new(before),
            kept: Cell::new(before),
            aborting: Cell::new(None),
            released: Rc::new(Cell::new(before)),
            meta: Cell::new((0, 0)),
            works: Cell::new(false),
            is_lost: Cell::new(false),
            prepared: Cell::new(0),
        }
    }

    /// Before its first operation.
    fn before_all(&self) -> u64 {
        self.turn * 4
    }

    pub(super) fn can_work(&self) -> bool {
        !self.is_lost.get() && !self.works.get()
    }

    pub(super) fn prepared(&self) -> u64 {
        self.prepared.get()
    }

    /// Works for as long as `go_on` says so.
    pub(super) async fn work(
        self: Rc<Self>,
        device: Rc<dyn PreparedDevice>,
        mut rng: Rng,
        (env, rules, log): (Env, Rc<Rules>, Rc<Log>),
        go_on: impl Fn() -> bool,
    ) {
        self.works.set(true);
        while go_on() {
            let done = self.step(&device, &mut rng, &rules).await;
            log.note(0x10 | u64::from(done.is_err()));
            log.note(self.next.get() << 32 ^ self.committed.get());
            if let Err(error) = done {
                let no_space = rules.full_allowed.get() && error.kind == IoErrorKind::NoSpace;
                if no_space {
                    env.clock.sleep(AFTER_ERROR).await;
                    continue;
                }
                assert!(
                    rules.errors_allowed.get(),
                    "{:?}: its owner was told: {error}",
                    self.log
                );
                // Of an array that has failed nothing is to be had until it is started again.
                return;
            }
        }
        self.works.set(false);
    }

    async fn step(
        &self,
        device: &Rc<dyn PreparedDevice>,
        rng: &mut Rng,
        rules: &Rules,
    ) -> Result<(), IoError> {
        match rng.below(12) {
            0..=4 => {
                if self.next.get() - self.kept.get() > KEPT_MAX {
                    let through = self.acked.get();
                    self.committed.set(through);
                    device.commit(self.log, Seq(through));
                    device.set_floor(self.log, Seq(through));
                    self.kept.set(through);
                }
                self.prepare_some(device, rng).await
            }
            5..=7 => {
                let pending = self.acked.get() - self.committed.get();
                let through = self.committed.get() + rng.below(pending + 1);
                self.committed.set(through);
                device.commit(self.log, Seq(through));
                self.check(device, rules).await;
                Ok(())
            }
            8 => {
                let committed = self.committed.get();
                device.flush().await?;
                self.surely.set(self.surely.get().max(committed));
                Ok(())
            }
            9 => {
                let pending = self.next.get() - 1 - self.committed.get();
                let from = self.committed.get() + 1 + rng.below(pending + 1);
                self.aborting.set(Some(from));
                let in_doubt = device.abort(self.log, Seq(from)).await?;
                assert!(in_doubt.is_empty(), "in doubt: {in_doubt:?}");
                self.aborted(from);
                Ok(())
            }
            10 => {
                let keep = self.committed.get().saturating_sub(rng.below(4));
                device.set_floor(self.log, Seq(keep));
                self.kept.set(keep.max(self.kept.get()));
                Ok(())
            }
            _ => {
                let (_, acked) = self.meta.get();
                let new = acked % 200 + 1;
                self.meta.set((new, acked));
                device.set_meta(self.log, &[new; META_BYTES]).await?;
                self.meta.set((new, new));
                Ok(())
            }
        }
    }

    /// Some operations, all on their way together.
    async fn prepare_some(
        &self,
        device: &Rc<dyn PreparedDevice>,
        rng: &mut Rng,
    ) -> Result<(), IoError> {
        let mut waits = Vec::new();
        for _ in 0..=rng.below(3) {
            let did = self.fresh(rng);
            let seq = self.next.get();
            self.next.set(seq + 1);
            self.ops.borrow_mut().insert(seq, did);
            let wait = device.prepare(self.log, Seq(seq), tag_of(did.mark), self.op(did));
            waits.push(async move { (seq, wait.await) });
        }
        let mut failed = None;
        for (seq, result) in join_all(waits).await {
            match result {
                Ok(()) => {
                    assert!(failed.is_none(), "{seq} was accepted, one before it not");
                    self.acked.set(seq);
                    self.prepared.set(self.prepared.get() + 1);
                }
                Err(error) => {
                    // It wasn't taken, and it is the next one again. Those behind it come too early.
                    failed.get_or_insert((seq, error));
                }
            }
        }
        let Some((seq, error)) = failed else {
            return Ok(());
        };
        if error.kind == IoErrorKind::NoSpace {
            self.aborted(seq);
        }
        Err(error)
    }

    fn fresh(&self, rng: &mut Rng) -> Did {
        let run = rng.below(self.blocks / RUN) * RUN;
        let at = rng.below(RUN);
        self.marks.set(self.marks.get() + 1);
        Did {
            kind: match rng.below(8) {
                0..=4 => Kind::Write,
                5 => Kind::Zero,
                6 => Kind::Discard,
                _ => Kind::Barrier,
            },
            first: run + at,
            count: 1 + rng.below(RUN - at),
            mark: self.marks.get(),
        }
    }

    /// Where its `index`-th block lies.
    fn place(&self, index: u64) -> u64 {
        ((index / RUN * OWNERS + self.turn) * RUN + index % RUN) * BLOCK
    }

    fn op(&self, did: Did) -> Op {
        let (offset, len) = (self.place(did.first), did.count * BLOCK);
        match did.kind {
            Kind::Write => {
                let mut data = Buf::zeroed(usize_of(len));
                for (block, at) in data.chunks_mut(BLOCK_BYTES).zip(0..) {
                    let value = self.salted(did.value(at));
                    for word in block.chunks_mut(8) {
                        word.copy_from_slice(&value.to_le_bytes());
                    }
                }
                Op::Write {
                    offset,
                    data: data.freeze(),
                }
            }
            Kind::Zero => Op::Zero { offset, len },
            Kind::Discard => Op::Discard { offset, len },
            Kind::Barrier => Op::Barrier,
        }
    }

    /// No two owners write the same.
    fn salted(&self, value: u64) -> u64 {
        if value == 0 {
            0
        } else {
            value | (self.turn + 1) << 56
        }
    }

    fn aborted(&self, from: u64) {
        self.aborting.set(None);
        if self.next.get() > from {
            self.next.set(from);
            self.acked.set(self.acked.get().min(from - 1));
            self.ops.borrow_mut().split_off(&from);
        }
    }

    /// What its blocks hold with everything through `committed` in effect.
    fn expected(&self, committed: u64) -> Vec<u64> {
        let mut blocks = self.base.borrow().clone();
        for did in self.ops.borrow().range(..=committed).map(|(_, did)| did) {
            if did.kind == Kind::Barrier {
                continue;
            }
            let places = blocks.iter_mut().skip(usize_of(did.first));
            for (place, at) in places.zip(0..did.count) {
                *place = self.salted(did.value(at));
            }
        }
        blocks
    }

    /// Reads all its blocks: what was committed has taken effect, and nothing else.
    async fn check(&self, device: &Rc<dyn PreparedDevice>, rules: &Rules) {
        let want = self.expected(self.committed.get());
        for (run, want) in (0..).step_by(usize_of(RUN)).zip(want.chunks(usize_of(RUN))) {
            let at = self.place(run);
            let bytes = want.len() * BLOCK_BYTES;
            let (buf, result) = device.read(at, Buf::zeroed(bytes)).await;
            if let Err(error) = result {
                assert!(
                    rules.errors_allowed.get(),
                    "{:?}: a read at {at}: {error}",
                    self.log
                );
                continue;
            }
            for ((block, want), index) in buf.chunks(BLOCK_BYTES).zip(want).zip(run..) {
                let is_right = |word: &[u8]| word == want.to_le_bytes();
                assert!(
                    block.chunks(8).all(is_right),
                    "{:?}: block {index} isn't {want:#x} throughout; it begins with {:x?}; committed {}, {:?}",
                    self.log,
                    block.get(..16),
                    self.committed.get(),
                    self.ops.borrow()
                );
            }
        }
    }

    /// Nothing of it runs, and everything is checked.
    pub(super) async fn check_idle(&self, device: &Rc<dyn PreparedDevice>, rules: &Rules) {
        if self.can_work() {
            self.check(device, rules).await;
        }
    }

    /// The array was stopped cleanly: all that was committed is durable.
    pub(super) fn stopped(&self) {
        self.surely.set(self.committed.get());
    }

    /// After a start: finds out what is left of its log, and checks it.
    pub(super) async fn recover(&self, device: &Rc<dyn PreparedDevice>, rules: &Rules) {
        if rules.errors_allowed.get() || rules.cache_lost.get() {
            // What was acked may be gone with the disks, or with what they had not flushed.
            self.is_lost.set(true);
        }
        if self.is_lost.get() {
            return;
        }
        let marks = device.watermarks(self.log);
        let before_all = self.before_all();
        let what = || {
            format!(
                "{:?}: {marks:?}; acked {}, committed {}, durably {}, next {}, aborting {:?}, released {}",
                self.log,
                self.acked.get(),
                self.committed.get(),
                self.surely.get(),
                self.next.get(),
                self.aborting.get(),
                self.released.get()
            )
        };
        if self.acked.get() == before_all && marks.contiguous == Seq::NONE {
            self.next.set(before_all + 1);
            self.ops.borrow_mut().clear();
        } else {
            let aborted = self.aborting.get().unwrap_or(u64::MAX);
            assert!(
                marks.contiguous.0 >= self.acked.get().min(aborted - 1)
                    && marks.contiguous.0 < self.next.get(),
                "what was prepared: {}",
                what()
            );
            assert!(
                (self.surely.get()..=self.committed.get())
                    .contains(&marks.committed.0.max(before_all)),
                "what was committed: {}",
                what()
            );
            assert!(
                marks.trimmed.0.max(before_all) <= self.released.get(),
                "trimmed too early: {}",
                what()
            );
            self.next.set(marks.contiguous.0 + 1);
            self.acked.set(marks.contiguous.0);
            self.committed.set(marks.committed.0.max(before_all));
            self.surely.set(self.committed.get());
            self.ops.borrow_mut().split_off(&self.next.get());
            let all = marks.trimmed.0.max(before_all) + 1..=marks.contiguous.0;
            let records = device.records(self.log, Seq::NONE).await;
            let records = records.unwrap_or_else(|error| panic!("{error}: {}", what()));
            let seqs = records.iter().map(|record| record.seq.0);
            assert!(seqs.eq(all), "its records: {}", what());
            for record in &records {
                self.check_record(record, marks.committed);
            }
            self.fold(marks.trimmed.0);
        }
        self.kept.set(marks.trimmed.0.max(before_all));
        self.aborting.set(None);
        let meta = device.meta(self.log).first().copied().unwrap_or(0);
        let (called, acked) = self.meta.get();
        assert!(
            meta == called || meta == acked,
            "metadata {meta}, and neither {called} nor {acked}: {}",
            what()
        );
        self.meta.set((meta, meta));
        self.works.set(false);
        self.hook(device);
        self.check(device, rules).await;
    }

    fn check_record(&self, record: &Record, committed: Seq) {
        let ops = self.ops.borrow();
        let Some(did) = ops.get(&record.seq.0) else {
            panic!("{:?}: {} was never prepared", self.log, record.seq);
        };
        let op = self.op(*did);
        let same = match (&record.op, &op) {
            (Op::Write { data, .. }, Op::Write { data: want, .. }) => data[..] == want[..],
            (Op::Zero { .. }, Op::Zero { .. })
            | (Op::Discard { .. }, Op::Discard { .. })
            | (Op::Barrier, Op::Barrier) => true,
            _ => false,
        };
        assert!(
            same && record.op.range() == op.range()
                && record.tag == tag_of(did.mark)
                && record.committed == (record.seq <= committed),
            "{:?}: record {} isn't {did:?}",
            self.log,
            record.seq
        );
    }

    /// What is trimmed isn't asked for again.
    fn fold(&self, trimmed: u64) {
        let base = self.expected(trimmed);
        *self.base.borrow_mut() = base;
        let kept = self.ops.borrow_mut().split_off(&(trimmed + 1));
        *self.ops.borrow_mut() = kept;
    }

    /// What it has to remember of its records is always durable.
    pub(super) fn hook(&self, device: &Rc<dyn PreparedDevice>) {
        let released = Rc::clone(&self.released);
        device.on_trim(
            self.log,
            Rc::new(move |_, through| {
                released.set(released.get().max(through.0));
                Box::pin(std::future::ready(true))
            }),
        );
    }
}

fn tag_of(mark: u64) -> Tag {
    Tag::new(&mark.to_le_bytes()).unwrap_or_default()
}
