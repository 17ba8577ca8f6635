//! What every sector of a volume may hold: while it runs, after `kill -9`, after a power cut.
//!
//! A sector's bytes name the volume, the write that put them there and the sector itself, so that
//! another volume's, another sector's or an older write's bytes are known for what they are.
//!
//! The rule, for any number of writes at once: a write is *over* when it was acked or has failed; it
//! *counts* when it was acked (while running and after a kill), or made durable by a flush or FUA
//! (after a power cut). A sector may hold every write that wasn't over before the latest write that
//! counts began. Nothing else, ever.
//!
//! Does not know: arrays, disks, who the clients are.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use cairn_blockdev::units::{SECTOR, u64_of, usize_of, usize_of_u32};

/// How a history was cut off; the worse is the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Crash {
    /// `kill -9`: acked is kept.
    Kill,
    /// Power: flushed is kept.
    Power,
}

/// A write in the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WriteId(u32);

/// A moment in the model's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

/// Not yet.
const NEVER: Moment = Moment(u64::MAX);
/// The stamp of zeros.
const ZEROS: u64 = 0;
/// A sector remembers this many writes before it forgets those that can't return.
const REMEMBERED: usize = 4;

#[derive(Debug, Clone, Copy)]
struct Write {
    /// What its sectors bear.
    stamp: u64,
    began: Moment,
    /// Acked or failed.
    over: Moment,
    acked: bool,
    fua: bool,
}

/// Who may still be in a sector, oldest first; empty means zeros, durably.
type Cell = Vec<WriteId>;

/// A volume's model.
#[derive(Clone)]
pub struct Model {
    tag: u64,
    now: u64,
    cells: Vec<Cell>,
    /// The first is the beginning of all: zeros, durable.
    writes: Vec<Write>,
    /// When the latest flush that was acked began.
    flushed: Moment,
    /// Reads under way, by the moment when they began.
    reads: BTreeSet<Moment>,
}

const BEGINNING: WriteId = WriteId(0);

impl Model {
    /// A new volume of so many sectors; no other volume has its tag.
    pub fn new(tag: u64, sectors: u64) -> Self {
        Self {
            tag,
            now: 0,
            cells: vec![Cell::new(); usize_of(sectors)],
            writes: vec![Write {
                stamp: ZEROS,
                began: Moment(0),
                over: Moment(0),
                acked: true,
                fua: true,
            }],
            flushed: Moment(0),
            reads: BTreeSet::new(),
        }
    }

    /// Sectors of the volume.
    pub fn sectors(&self) -> u64 {
        u64_of(self.cells.len())
    }

    fn tick(&mut self) -> Moment {
        self.now += 1;
        Moment(self.now)
    }

    fn write(&self, id: WriteId) -> Write {
        match self.writes.get(usize_of_u32(id.0)) {
            Some(write) => *write,
            None => unreachable!("a cell knows a write that the model doesn't"),
        }
    }

    fn add(&mut self, write: Write) -> WriteId {
        let id = u32::try_from(self.writes.len()).unwrap_or(u32::MAX);
        self.writes.push(write);
        WriteId(id)
    }

    /// A write of data begins; [`fill`](Self::fill) gives its bytes.
    pub fn begin_write(&mut self, sectors: Range<u64>, fua: bool) -> WriteId {
        let stamp = u64_of(self.writes.len());
        self.begin(sectors, stamp, fua)
    }

    /// A trim or a write of zeros begins.
    pub fn begin_zeros(&mut self, sectors: Range<u64>, fua: bool) -> WriteId {
        self.begin(sectors, ZEROS, fua)
    }

    fn begin(&mut self, sectors: Range<u64>, stamp: u64, fua: bool) -> WriteId {
        let began = self.tick();
        let id = self.add(Write {
            stamp,
            began,
            over: NEVER,
            acked: false,
            fua,
        });
        let settled = self.reads.first().copied().unwrap_or(began);
        let range = usize_of(sectors.start)..usize_of(sectors.end);
        let mut cells = std::mem::take(&mut self.cells);
        for cell in cells.get_mut(range).into_iter().flatten() {
            if cell.len() >= REMEMBERED {
                self.forget(cell, settled);
            }
            if cell.is_empty() {
                cell.push(BEGINNING);
            }
            cell.push(id);
        }
        self.cells = cells;
        id
    }

    /// Drops from a cell what can't return, whatever happens, and what no read under way can see.
    fn forget(&self, cell: &mut Cell, settled: Moment) {
        let bar = cell
            .iter()
            .map(|id| self.write(*id))
            .filter(|write| self.is_durable(write) && write.over < settled)
            .map(|write| write.began)
            .max();
        if let Some(bar) = bar {
            cell.retain(|id| self.write(*id).over >= bar);
        }
    }

    /// The bytes of a write, from its sector `first` on.
    pub fn fill(&self, id: WriteId, first: u64, bytes: &mut [u8]) {
        let stamp = self.write(id).stamp;
        for (sector, bytes) in (first..).zip(bytes.chunks_exact_mut(usize_of(SECTOR))) {
            sector_bytes(self.tag, stamp, sector, bytes);
        }
    }

    fn end(&mut self, id: WriteId, acked: bool) {
        let over = self.tick();
        if let Some(write) = self.writes.get_mut(usize_of_u32(id.0)) {
            (write.over, write.acked) = (over, acked);
        }
    }

    /// It was acked.
    pub fn acked(&mut self, id: WriteId) {
        self.end(id, true);
    }

    /// It failed: it may be there or not.
    pub fn failed(&mut self, id: WriteId) {
        self.end(id, false);
    }

    /// A flush begins.
    pub fn flush_begins(&mut self) -> Moment {
        self.tick()
    }

    /// It was acked: what was acked before it began is durable.
    pub fn flushed(&mut self, began: Moment) {
        self.flushed = self.flushed.max(began);
    }

    fn is_durable(&self, write: &Write) -> bool {
        write.acked && (write.fua || write.over < self.flushed)
    }

    /// A read begins.
    pub fn read_begins(&mut self) -> Moment {
        let began = self.tick();
        self.reads.insert(began);
        began
    }

    /// A read that began then is over.
    pub fn read_ends(&mut self, began: Moment) {
        self.reads.remove(&began);
    }

    /// Whether a cell may hold `stamp` if the writes that `counts` names count.
    fn may_hold(&self, cell: &Cell, stamp: u64, counts: impl Fn(&Write) -> bool) -> bool {
        if cell.is_empty() {
            return stamp == ZEROS;
        }
        self.candidates(cell, counts)
            .any(|write| write.stamp == stamp)
    }

    fn candidates<'a>(
        &'a self,
        cell: &'a Cell,
        counts: impl Fn(&Write) -> bool,
    ) -> impl Iterator<Item = Write> {
        let writes = || cell.iter().map(|id| self.write(*id));
        let bar = writes()
            .filter(|write| counts(write))
            .map(|write| write.began)
            .max()
            .unwrap_or(Moment(0));
        cell.iter()
            .map(|id| self.write(*id))
            .filter(move |write| write.over >= bar)
    }

    /// Checks what a read gave that began then; an error says what is wrong where.
    pub fn check(&self, first: u64, bytes: &[u8], began: Moment) -> Result<(), String> {
        for (sector, found, cell) in self.look(first, bytes) {
            let counts = |write: &Write| write.acked && write.over < began;
            let fine = found.is_some_and(|stamp| self.may_hold(cell, stamp, counts));
            if !fine {
                return Err(self.complaint(sector, bytes, first, "read"));
            }
        }
        Ok(())
    }

    fn look(&self, first: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, Option<u64>, &Cell)> {
        let cells = self.cells.get(usize_of(first)..).unwrap_or_default();
        (first..)
            .zip(bytes.chunks_exact(usize_of(SECTOR)))
            .zip(cells)
            .map(|((sector, bytes), cell)| (sector, stamp_of(self.tag, sector, bytes), cell))
    }

    /// Everything in progress was cut off.
    pub fn crashed(&mut self) {
        let over = self.tick();
        self.reads.clear();
        for write in &mut self.writes {
            if write.over == NEVER {
                write.over = over;
            }
        }
    }

    /// Checks what is there after a crash, and takes it as settled from now on: what was found is
    /// what was acked.
    pub fn check_after(&mut self, crash: Crash, first: u64, bytes: &[u8]) -> Result<(), String> {
        let mut found = Vec::new();
        for (sector, stamp, cell) in self.look(first, bytes) {
            let fine = stamp.is_some_and(|stamp| match crash {
                Crash::Kill => self.may_hold(cell, stamp, |write| write.acked),
                Crash::Power => self.may_hold(cell, stamp, |write| self.is_durable(write)),
            });
            match stamp.filter(|_| fine) {
                Some(stamp) => found.push(stamp),
                None => return Err(self.complaint(sector, bytes, first, &format!("{crash:?}"))),
            }
        }
        let mut adopted = BTreeMap::new();
        for (at, stamp) in (usize_of(first)..).zip(found) {
            let doubt = self.cells.get(at).is_some_and(|cell| match crash {
                Crash::Kill => self.candidates(cell, |write| write.acked).count() > 1,
                Crash::Power => cell.len() > 1,
            });
            if !doubt {
                continue;
            }
            let id = *adopted.entry(stamp).or_insert_with(|| {
                let moment = self.tick();
                self.add(Write {
                    stamp,
                    began: moment,
                    over: moment,
                    acked: true,
                    fua: crash == Crash::Power,
                })
            });
            if let Some(cell) = self.cells.get_mut(at) {
                // After a kill an older, durable write may still come back by a power cut.
                if crash == Crash::Power {
                    cell.clear();
                }
                cell.push(id);
            }
        }
        Ok(())
    }

    /// Whether, at a crash, a write to each of these sectors wasn't over, or wasn't durable: then a
    /// complete row may have been cut off there, and the loss of a member in the same crash may have
    /// cost its blocks (the one exception that is documented).
    pub fn cut_off(&self, crash: Crash, sectors: Range<u64>) -> bool {
        let cells = self
            .cells
            .get(usize_of(sectors.start)..usize_of(sectors.end));
        cells.into_iter().flatten().all(|cell| match crash {
            Crash::Kill => self.candidates(cell, |write| write.acked).count() > 1,
            Crash::Power => {
                self.candidates(cell, |write| self.is_durable(write))
                    .count()
                    > 1
            }
        })
    }

    /// Whether none of these sectors ever had more than the one write, or none at all.
    pub fn is_first_write(&self, sectors: Range<u64>) -> bool {
        let cells = self
            .cells
            .get(usize_of(sectors.start)..usize_of(sectors.end));
        let writes = cells.into_iter().flatten().flatten();
        let ids: BTreeSet<WriteId> = writes.filter(|id| **id != BEGINNING).copied().collect();
        ids.len() <= 1
    }

    fn complaint(&self, sector: u64, bytes: &[u8], first: u64, when: &str) -> String {
        let at = usize_of((sector - first) * SECTOR);
        let words: Vec<u64> = bytes
            .get(at..at + 32)
            .unwrap_or_default()
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()))
            .collect();
        let known: Vec<(WriteId, Write)> = self
            .cells
            .get(usize_of(sector))
            .into_iter()
            .flatten()
            .map(|id| (*id, self.write(*id)))
            .collect();
        let found = match stamp_of(
            self.tag,
            sector,
            bytes.get(at..at + usize_of(SECTOR)).unwrap_or_default(),
        ) {
            Some(ZEROS) => "zeros".to_owned(),
            Some(stamp) => format!("write {stamp}"),
            None => format!("bytes of no write of it: {words:x?}"),
        };
        format!(
            "{when}: volume {:#x} sector {sector} holds {found}; it knows {known:?}, flushed through \
             {:?}, now {}",
            self.tag, self.flushed, self.now
        )
    }
}

fn base(tag: u64, stamp: u64, sector: u64) -> u64 {
    let mut word = tag ^ stamp.rotate_left(24) ^ sector.rotate_left(44);
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word ^ (word >> 27)
}

const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

fn sector_bytes(tag: u64, stamp: u64, sector: u64, bytes: &mut [u8]) {
    let mut word = base(tag, stamp, sector);
    for to in bytes.chunks_exact_mut(8) {
        to.copy_from_slice(&word.to_le_bytes());
        word = word.wrapping_add(STEP);
    }
    // The stamp in clear, so that it can be read back.
    if let Some(first) = bytes.first_chunk_mut::<8>() {
        *first = stamp.to_le_bytes();
    }
}

/// The write that a sector bears; `None` if it is nobody's, or another sector's.
fn stamp_of(tag: u64, sector: u64, bytes: &[u8]) -> Option<u64> {
    let stamp = u64::from_le_bytes(*bytes.first_chunk()?);
    if stamp == ZEROS {
        return bytes.iter().all(|byte| *byte == 0).then_some(ZEROS);
    }
    let mut word = base(tag, stamp, sector);
    let mut wrong = 0;
    for found in bytes.chunks_exact(8).skip(1) {
        word = word.wrapping_add(STEP);
        wrong |= u64::from_le_bytes(found.try_into().ok()?) ^ word;
    }
    (wrong == 0).then_some(stamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(model: &Model, id: WriteId, first: u64, sectors: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize_of(sectors * SECTOR)];
        model.fill(id, first, &mut bytes);
        bytes
    }

    fn now(model: &mut Model) -> Moment {
        let began = model.read_begins();
        model.read_ends(began);
        began
    }

    #[test]
    fn a_sector_is_known_by_its_volume_its_place_and_its_write() {
        let mut model = Model::new(7, 8);
        let one = model.begin_write(0..2, false);
        let mut of_one = bytes(&model, one, 0, 2);
        model.acked(one);
        let then = now(&mut model);
        model.check(0, &of_one, then).unwrap();
        assert!(model.check(1, &of_one[..512], then).is_err(), "misplaced");
        assert!(model.check(0, &[0; 512], then).is_err(), "lost");
        assert!(Model::new(8, 8).check(0, &of_one, then).is_err(), "foreign");
        of_one[511] ^= 1;
        assert!(model.check(0, &of_one, then).is_err(), "rotten");
    }

    #[test]
    fn of_two_writes_at_once_either_may_be_there_and_of_two_in_turn_only_the_second() {
        let mut model = Model::new(7, 1);
        let one = model.begin_write(0..1, false);
        let two = model.begin_write(0..1, false);
        model.acked(two);
        model.acked(one);
        let then = now(&mut model);
        model.check(0, &bytes(&model, one, 0, 1), then).unwrap();
        model.check(0, &bytes(&model, two, 0, 1), then).unwrap();
        let three = model.begin_write(0..1, false);
        let early = model.read_begins();
        model.acked(three);
        model
            .check(0, &bytes(&model, one, 0, 1), early)
            .expect("the read was under way already");
        model.read_ends(early);
        let late = now(&mut model);
        model.check(0, &bytes(&model, one, 0, 1), late).unwrap_err();
        model.check(0, &bytes(&model, three, 0, 1), late).unwrap();
    }

    #[test]
    fn a_kill_keeps_what_was_acked_and_a_power_cut_what_was_flushed() {
        let mut model = Model::new(7, 1);
        let old = model.begin_write(0..1, false);
        model.acked(old);
        let flush = model.flush_begins();
        model.flushed(flush);
        let new = model.begin_write(0..1, false);
        model.acked(new);
        let open = model.begin_write(0..1, false);
        model.crashed();
        let of = |id| bytes(&model, id, 0, 1);
        let (old, new, open) = (of(old), of(new), of(open));
        for (crash, found, fine) in [
            (Crash::Kill, &old, false),
            (Crash::Kill, &new, true),
            (Crash::Kill, &open, true),
            (Crash::Power, &old, true),
            (Crash::Power, &new, true),
            (Crash::Power, &vec![0; 512], false),
        ] {
            let mut model = model.clone();
            let checked = model.check_after(crash, 0, found);
            assert_eq!(checked.is_ok(), fine, "{crash:?}");
            if fine {
                let then = now(&mut model);
                model.check(0, found, then).unwrap();
                assert!(
                    [&old, &new, &open]
                        .iter()
                        .all(|other| { *other == found || model.check(0, other, then).is_err() })
                );
            }
        }
        // Acked and found after a kill isn't flushed yet.
        let mut killed = model.clone();
        killed.check_after(Crash::Kill, 0, &new).unwrap();
        killed.crashed();
        killed.check_after(Crash::Power, 0, &old).unwrap();
    }

    #[test]
    fn what_was_written_through_survives_power_and_what_failed_may_be_there() {
        let mut model = Model::new(7, 1);
        let through = model.begin_write(0..1, true);
        model.acked(through);
        let failed = model.begin_zeros(0..1, false);
        model.failed(failed);
        let then = now(&mut model);
        model.check(0, &[0; 512], then).unwrap();
        model.check(0, &bytes(&model, through, 0, 1), then).unwrap();
        model.crashed();
        let through = bytes(&model, through, 0, 1);
        model.check_after(Crash::Power, 0, &through).unwrap();
        assert!(model.check(0, &[0; 512], Moment(u64::MAX)).is_err());
    }

    #[test]
    fn what_is_forgotten_could_not_have_come_back() {
        let mut model = Model::new(7, 1);
        let mut last = BEGINNING;
        for _ in 0..50 {
            last = model.begin_write(0..1, false);
            model.acked(last);
            let flush = model.flush_begins();
            model.flushed(flush);
        }
        assert!(model.cells[0].len() <= REMEMBERED + 1);
        model.crashed();
        let last = bytes(&model, last, 0, 1);
        model.check_after(Crash::Power, 0, &last).unwrap();
    }
}
