//! Owners of logs, each with blocks of its own, a plain writer between them, and what each of them may
//! find after a crash.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use cairn_blockdev::prepared::{LogId, Op, PreparedDevice, Seq, Tag};
use cairn_blockdev::sim::Rng;
use cairn_blockdev::{Buf, SharedBuf, WriteFlags, ZeroFlags};
use cairn_raid::Array;

use crate::model::Crash;
use crate::world::{Shape, World};

pub(crate) const BLOCK: u64 = 4096;
/// Blocks of an owner; owners and the plain writer take turns, so that they share rows.
const BLOCKS: usize = 24;
/// Owners, and the plain writer.
const PARTIES: usize = 4;
/// Blocks that lie together.
const RUN: usize = 4;

pub(crate) fn filled(blocks: usize, value: u8) -> SharedBuf {
    let mut buf = Buf::zeroed(blocks * 4096);
    buf.fill(value);
    buf.freeze()
}

pub(crate) fn write(block: u64, blocks: usize, value: u8) -> Op {
    Op::Write {
        offset: block * BLOCK,
        data: filled(blocks, value),
    }
}

pub(crate) fn tag_of(seq: u64) -> Tag {
    Tag::new(format!("ballot 1, {seq}").as_bytes()).unwrap()
}

pub(crate) async fn block_at(device: &Rc<dyn PreparedDevice>, block: u64) -> u8 {
    let (buf, result) = device.read(block * BLOCK, Buf::zeroed(4096)).await;
    result.unwrap();
    assert!(
        buf.iter().all(|byte| *byte == buf[0]),
        "block {block} is mixed"
    );
    buf[0]
}

/// Where a party's `index`-th block lies.
fn place(party: usize, index: usize) -> u64 {
    ((index / RUN * PARTIES + party) * RUN + index % RUN) as u64
}

#[derive(Clone, Copy, Debug)]
struct Did {
    first: usize,
    count: usize,
    /// 0 for zeros.
    value: u8,
    kind: u8,
}

/// Operations that an owner keeps in the journal at most: three quarters of a log's quota.
const UNTRIMMED_MAX: u64 = 24;

/// The owner of a log.
struct Owner {
    log: LogId,
    party: usize,
    ops: RefCell<BTreeMap<u64, Did>>,
    next: Cell<u64>,
    /// Prepared and acked.
    acked: Cell<u64>,
    /// Commit was called.
    committed: Cell<u64>,
    /// Commit was called, and a flush followed.
    surely: Cell<u64>,
    /// It wants to keep what is above.
    kept: Cell<u64>,
    /// An abort was called from here, and isn't acked.
    aborting: Cell<Option<u64>>,
    /// The hook agreed through this.
    released: Rc<Cell<u64>>,
    /// (called, acked)
    meta: Cell<(u8, u8)>,
    value: Cell<u8>,
}

impl Owner {
    fn new(party: usize) -> Self {
        Self {
            log: LogId(party as u32 * 1000),
            party,
            ops: RefCell::default(),
            next: Cell::new(5),
            acked: Cell::new(4),
            committed: Cell::new(4),
            surely: Cell::new(4),
            kept: Cell::new(4),
            aborting: Cell::new(None),
            released: Rc::default(),
            meta: Cell::new((0, 0)),
            value: Cell::new(0),
        }
    }

    fn hook(&self, device: &Rc<dyn PreparedDevice>) {
        let released = Rc::clone(&self.released);
        device.on_trim(
            self.log,
            Rc::new(move |_, through| {
                let released = Rc::clone(&released);
                Box::pin(async move {
                    released.set(released.get().max(through.0));
                    true
                })
            }),
        );
    }

    fn fresh_op(&self, rng: &mut Rng) -> (Did, Vec<Op>) {
        let run = rng.below((BLOCKS / RUN) as u64) as usize * RUN;
        let at = rng.below(RUN as u64) as usize;
        let count = 1 + rng.below((RUN - at) as u64) as usize;
        let kind = rng.below(8) as u8;
        self.value.set(self.value.get() % 250 + 1);
        let value = if kind < 5 { self.value.get() } else { 0 };
        let did = Did {
            first: run + at,
            count,
            value,
            kind,
        };
        (did, vec![self.op(did)])
    }

    fn op(&self, did: Did) -> Op {
        let block = place(self.party, did.first);
        let (offset, len) = (block * BLOCK, did.count as u64 * BLOCK);
        match did.kind {
            0..=4 => write(block, did.count, did.value),
            5 => Op::Zero { offset, len },
            6 => Op::Discard { offset, len },
            _ => Op::Barrier,
        }
    }

    async fn step(&self, device: &Rc<dyn PreparedDevice>, rng: &mut Rng) {
        match rng.below(12) {
            0..=4 => {
                // Nobody else could give the log room if it used up its quota.
                if self.next.get() - self.kept.get() > UNTRIMMED_MAX {
                    let through = self.acked.get();
                    self.committed.set(through);
                    device.commit(self.log, Seq(through));
                    device.set_floor(self.log, Seq(through));
                    self.kept.set(through);
                }
                // Some at once, all in flight together.
                let count = 1 + rng.below(3);
                let mut waits = Vec::new();
                for _ in 0..count {
                    let (did, ops) = self.fresh_op(rng);
                    let seq = self.next.get();
                    self.next.set(seq + 1);
                    self.ops.borrow_mut().insert(seq, did);
                    for op in ops {
                        waits.push((seq, device.prepare(self.log, Seq(seq), tag_of(seq), op)));
                    }
                }
                let waits = waits.into_iter().map(|(seq, wait)| async move {
                    wait.await.unwrap();
                    self.acked.set(self.acked.get().max(seq));
                });
                futures_util::future::join_all(waits).await;
            }
            5..=7 => {
                let pending = self.acked.get() - self.committed.get();
                let through = self.committed.get() + rng.below(pending + 1);
                self.committed.set(through);
                device.commit(self.log, Seq(through));
                let marks = device.watermarks(self.log);
                assert!(through < 5 || marks.committed == Seq(through));
                self.check(device).await;
            }
            8 => {
                let committed = self.committed.get();
                device.flush().await.unwrap();
                self.surely.set(self.surely.get().max(committed));
            }
            9 => {
                let pending = self.next.get() - 1 - self.committed.get();
                let from = self.committed.get() + 1 + rng.below(pending + 1);
                self.aborting.set(Some(from));
                let doubt = device.abort(self.log, Seq(from)).await.unwrap();
                assert!(doubt.is_empty());
                self.aborted(from);
            }
            10 => {
                let keep = self.committed.get().saturating_sub(rng.below(4));
                device.set_floor(self.log, Seq(keep));
                self.kept.set(keep.max(self.kept.get()));
            }
            _ => {
                let (_, acked) = self.meta.get();
                let new = acked % 200 + 1;
                self.meta.set((new, acked));
                device.set_meta(self.log, &[new; 100]).await.unwrap();
                self.meta.set((new, new));
            }
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
    fn expected(&self, committed: u64) -> [u8; BLOCKS] {
        let mut blocks = [0; BLOCKS];
        for (_, did) in self.ops.borrow().range(..=committed) {
            if did.kind < 7 {
                blocks[did.first..did.first + did.count].fill(did.value);
            }
        }
        blocks
    }

    async fn check(&self, device: &Rc<dyn PreparedDevice>) {
        let want = self.expected(self.committed.get());
        for run in (0..BLOCKS).step_by(RUN) {
            let at = place(self.party, run) * BLOCK;
            let (buf, result) = device.read(at, Buf::zeroed(RUN * 4096)).await;
            result.unwrap();
            for (block, bytes) in buf.chunks(4096).enumerate() {
                let want = want[run + block];
                assert!(
                    bytes.iter().all(|byte| *byte == want),
                    "log {:?} block {}: {} and not {want}; committed {}, {:?}",
                    self.log,
                    run + block,
                    bytes[0],
                    self.committed.get(),
                    self.ops.borrow()
                );
            }
        }
    }

    /// After a restart: finds out what is left, and checks it.
    async fn recover(&self, device: &Rc<dyn PreparedDevice>) {
        let marks = device.watermarks(self.log);
        let what = format!("log {:?}: {marks:?}, acked {}", self.log, self.acked.get());
        if self.acked.get() == 4 && marks.contiguous == Seq::NONE {
            self.next.set(5);
            self.ops.borrow_mut().clear();
        } else {
            let aborted = self.aborting.get().unwrap_or(u64::MAX);
            assert!(
                marks.contiguous.0 >= self.acked.get().min(aborted - 1),
                "{what}"
            );
            assert!(marks.contiguous.0 < self.next.get(), "{what}");
            assert!(marks.committed.0 >= self.surely.get(), "{what}");
            assert!(marks.committed.0 <= self.committed.get(), "{what}");
            assert!(marks.trimmed.0 <= self.released.get().max(4), "{what}");
            self.next.set(marks.contiguous.0 + 1);
            self.acked.set(marks.contiguous.0);
            self.committed.set(marks.committed.0);
            self.surely.set(marks.committed.0);
            self.ops.borrow_mut().split_off(&self.next.get());
            let records = device.records(self.log, Seq::NONE).await.unwrap();
            let seqs: Vec<u64> = records.iter().map(|record| record.seq.0).collect();
            let all: Vec<u64> = (marks.trimmed.0 + 1..=marks.contiguous.0).collect();
            assert_eq!(seqs, all, "{what}");
            for record in records {
                let did = self.ops.borrow()[&record.seq.0];
                assert_eq!(record.tag, tag_of(record.seq.0));
                assert_eq!(record.committed, record.seq <= marks.committed);
                let op = self.op(did);
                assert_eq!(record.op.range(), op.range());
                if let (Op::Write { data, .. }, Op::Write { data: want, .. }) = (&record.op, &op) {
                    assert!(data[..] == want[..], "{what}: payload of {}", record.seq);
                }
            }
        }
        self.kept.set(marks.trimmed.0.max(4));
        self.aborting.set(None);
        let meta = device.meta(self.log).first().copied().unwrap_or(0);
        let (called, acked) = self.meta.get();
        assert!(meta == called || meta == acked, "{what}: meta {meta}");
        self.meta.set((meta, meta));
        self.check(device).await;
        self.hook(device);
    }
}

/// Writes without a log.
struct Plain {
    party: usize,
    /// What each block may hold: the last is the newest.
    blocks: RefCell<Vec<Vec<u8>>>,
    value: Cell<u8>,
    bulk: bool,
}

impl Plain {
    async fn step(&self, device: &Rc<dyn PreparedDevice>, array: &Rc<Array>, rng: &mut Rng) {
        let run = rng.below((BLOCKS / RUN) as u64) as usize * RUN;
        self.value.set(self.value.get() % 250 + 1);
        match rng.below(if self.bulk { 9 } else { 7 }) {
            0..=3 => {
                let zero = rng.one_in(4);
                let value = if zero { 0 } else { self.value.get() };
                for block in &mut self.blocks.borrow_mut()[run..run + RUN] {
                    block.push(value);
                }
                let at = place(self.party, run) * BLOCK;
                if zero {
                    let flags = ZeroFlags::default();
                    device
                        .write_zeroes(at, RUN as u64 * BLOCK, flags)
                        .await
                        .unwrap();
                } else {
                    let data = filled(RUN, value);
                    device.write(at, data, WriteFlags::default()).await.unwrap();
                }
            }
            4 | 5 => {
                let ends: Vec<usize> = self.blocks.borrow().iter().map(Vec::len).collect();
                device.flush().await.unwrap();
                for (block, len) in self.blocks.borrow_mut().iter_mut().zip(ends) {
                    block.drain(..len - 1);
                }
            }
            6 => array.drain().await.unwrap(),
            _ => {
                // Much, elsewhere: the journal gets crowded.
                let at = (2 << 20) + rng.below(8) * (512 << 10) + 4096;
                let data = filled(127, self.value.get());
                device.write(at, data, WriteFlags::default()).await.unwrap();
            }
        }
    }

    async fn recover(&self, device: &Rc<dyn PreparedDevice>, crash: Crash) {
        for index in 0..BLOCKS {
            let at = place(self.party, index) * BLOCK;
            let (found, result) = device.read(at, Buf::zeroed(4096)).await;
            result.unwrap();
            let may = self.blocks.borrow()[index].clone();
            // The last may be in flight, and the one before it then is the last that was acked.
            let may_be: &[u8] = match crash {
                Crash::Kill => &may[may.len().saturating_sub(2)..],
                Crash::Power => &may,
            };
            let fits = found.iter().all(|byte| may_be.contains(byte));
            assert!(fits, "plain block {index}: {}, {may:?}", found[0]);
            let value = found[0];
            if found.iter().any(|byte| *byte != value) {
                // It wasn't acked: old and new by sectors.
                let flags = WriteFlags { fua: true };
                device.write(at, filled(1, value), flags).await.unwrap();
            }
            self.blocks.borrow_mut()[index] = vec![value];
        }
    }
}

/// A tale of three owners and a plain writer.
pub(crate) struct Tale {
    pub(crate) world: World,
    owners: Rc<Vec<Owner>>,
    plain: Rc<Plain>,
    seed: u64,
    chapters: Cell<u64>,
}

impl Tale {
    pub(crate) fn new(shape: Shape, seed: u64, bulk: bool) -> Self {
        let plain = Plain {
            party: PARTIES - 1,
            blocks: RefCell::new(vec![vec![0]; BLOCKS]),
            value: Cell::new(0),
            bulk,
        };
        Self {
            world: World::new(seed, shape),
            owners: Rc::new((0..PARTIES - 1).map(Owner::new).collect()),
            plain: Rc::new(plain),
            seed,
            chapters: Cell::new(0),
        }
    }

    pub(crate) fn begin(&self) -> Rc<Array> {
        let array = self.world.create();
        self.world.run(array.create_volume("v", 1 << 30)).unwrap();
        let device = array.open_prepared("v").unwrap();
        for owner in self.owners.iter() {
            owner.hook(&device);
        }
        array
    }

    /// Everybody takes `steps` steps.
    pub(crate) fn chapter(
        &self,
        array: &Rc<Array>,
        steps: usize,
    ) -> impl Future<Output = ()> + use<> {
        let device = array.open_prepared("v").unwrap();
        let (owners, plain, array) = (
            Rc::clone(&self.owners),
            Rc::clone(&self.plain),
            Rc::clone(array),
        );
        self.chapters.set(self.chapters.get() + 1);
        let seed = self.seed * 31 + self.chapters.get() * 7;
        async move {
            let all = owners.iter().map(|owner| {
                let mut rng = Rng::new(seed + owner.party as u64);
                let device = &device;
                async move {
                    for _ in 0..steps {
                        owner.step(device, &mut rng).await;
                    }
                }
            });
            let mut rng = Rng::new(seed + 100);
            let plain = async {
                for _ in 0..steps {
                    plain.step(&device, &array, &mut rng).await;
                }
            };
            futures_util::future::join(futures_util::future::join_all(all), plain).await;
        }
    }

    pub(crate) fn crash(&mut self, crash: Crash) {
        self.world.crash(crash);
    }

    pub(crate) fn recover(&self, array: &Rc<Array>, crash: Crash) {
        let device = array.open_prepared("v").unwrap();
        self.world.run(async {
            for owner in self.owners.iter() {
                owner.recover(&device).await;
            }
            self.plain.recover(&device, crash).await;
        });
    }

    /// Everybody commits what is pending, all is put in place, and the parity is right.
    pub(crate) fn end(&self, array: &Rc<Array>) {
        let device = array.open_prepared("v").unwrap();
        self.world.run(async {
            for owner in self.owners.iter() {
                let through = owner.next.get() - 1;
                owner.committed.set(through);
                device.commit(owner.log, Seq(through));
                owner.check(&device).await;
            }
        });
        self.world.audit(array);
        self.world.run(async {
            for owner in self.owners.iter() {
                let marks = device.watermarks(owner.log);
                assert_eq!(marks.destaged, marks.committed);
                owner.check(&device).await;
            }
        });
        self.world.check_space(array);
    }
}
