//! What a disk with a volatile cache holds: what reads see, and what a power cut may leave of it.
//!
//! A write goes into the pages that reads see; what those pages held before the first write since
//! the last flush is kept beside them. A flush forgets it, a power cut starts from it again.
//! So each byte is stored once, and a write costs nothing twice.
//!
//! Invariants
//! - `base` has a page exactly if a write in `unflushed` touches it.
//! - Writes in `unflushed` are in the order of their completion; a power cut keeps that order.
//! - A write with FUA never gives way to an older one that wasn't flushed.

use std::collections::{BTreeMap, VecDeque};

use super::pages::{Page, Pages, pieces, store_in_page};
use super::rng::Rng;
use crate::buf::SharedBuf;
use crate::units::{BLOCK, BLOCK_BYTES, align_down, u64_of, usize_of};

/// What a write carries.
#[derive(Clone)]
pub(super) enum Payload {
    Data(SharedBuf),
    /// So many zeros, which need no memory.
    Zeros(u64),
}

impl Payload {
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Data(data) => u64_of(data.len()),
            Self::Zeros(len) => *len,
        }
    }
}

/// A write on its way, in the cache or beyond.
#[derive(Clone)]
pub(super) struct Write {
    pub(super) offset: u64,
    pub(super) payload: Payload,
    /// On the medium, whatever happens to the cache.
    pub(super) fua: bool,
}

#[derive(Clone)]
struct Base {
    page: Option<Page>,
    /// The last write in the cache that touches it.
    last: u64,
}

/// The contents of a disk and its cache.
#[derive(Clone, Default)]
pub(super) struct Medium {
    current: Pages,
    base: BTreeMap<u64, Base>,
    unflushed: VecDeque<Write>,
    /// Number of the first write in `unflushed`.
    first: u64,
}

/// How much of what was in the cache a power cut leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mercy {
    Nothing,
    Everything,
    Some,
}

impl Medium {
    pub(super) fn load(&self, offset: u64, bytes: &mut [u8]) {
        self.current.load(offset, bytes);
    }

    /// Offsets of pages that hold something.
    pub(super) fn present(&self, offset: u64, len: u64) -> Vec<u64> {
        let pages = self.current.present(offset, len);
        pages.into_iter().map(|page| page * BLOCK).collect()
    }

    /// The number that the next write gets: a flush asked for now covers all below it.
    pub(super) fn next_write(&self) -> u64 {
        self.first + u64_of(self.unflushed.len())
    }

    /// Pages of a write that change something: zeros over what was never written don't.
    fn touched(&self, write: &Write) -> Vec<u64> {
        match &write.payload {
            Payload::Data(data) => pieces(write.offset, data.len()).map(|p| p.0).collect(),
            Payload::Zeros(len) => {
                let mut pages = self.current.present(write.offset, *len);
                // Written and zeroed since: nothing that reads see, but something that may return.
                let range = write.offset / BLOCK..(write.offset + len).div_ceil(BLOCK);
                pages.extend(self.base.range(range).map(|(page, _)| *page));
                pages.sort_unstable();
                pages.dedup();
                pages
            }
        }
    }

    /// A write completes.
    pub(super) fn write(&mut self, write: Write) {
        let touched = self.touched(&write);
        let number = self.next_write();
        let in_cache = !write.fua || touched.iter().any(|page| self.base.contains_key(page));
        if in_cache && !touched.is_empty() {
            for page in touched {
                let current = &self.current;
                self.base
                    .entry(page)
                    .or_insert_with(|| Base {
                        page: current.get(page).cloned(),
                        last: number,
                    })
                    .last = number;
            }
            self.unflushed.push_back(write.clone());
        }
        let current = &mut self.current;
        apply(&write, &mut |page, within, bytes| match bytes {
            Some(bytes) => current.store(page * BLOCK + u64_of(within), bytes),
            None => current.set(page, None),
        });
    }

    /// Everything below `through` is on the medium.
    pub(super) fn flush(&mut self, through: u64) {
        if through >= self.next_write() {
            self.first = self.next_write();
            self.unflushed.clear();
            self.base.clear();
            return;
        }
        while self.first < through {
            let Some(write) = self.unflushed.pop_front() else {
                break;
            };
            let number = self.first;
            self.first += 1;
            let base = &mut self.base;
            apply(&write, &mut |page, within, bytes| {
                let Some(kept) = base.get_mut(&page) else {
                    return;
                };
                if kept.last == number {
                    base.remove(&page);
                } else if let Some(bytes) = bytes {
                    store_in_page(&mut kept.page, within, bytes);
                } else {
                    kept.page = None;
                }
            });
        }
    }

    /// Power goes, and with it a part of the cache; `in_flight` is what had no completion yet.
    /// Returns how many writes were torn.
    pub(super) fn power_cut(&mut self, in_flight: Vec<Write>, rng: &mut Rng, tear: u64) -> u64 {
        let mercy = match rng.below(4) {
            0 => Mercy::Nothing,
            1 => Mercy::Everything,
            _ => Mercy::Some,
        };
        let cached = std::mem::take(&mut self.unflushed);
        self.first += u64_of(cached.len());
        for (page, base) in std::mem::take(&mut self.base) {
            self.current.set(page, base.page);
        }
        let mut torn = 0;
        for write in cached {
            if write.fua || mercy == Mercy::Everything {
                self.keep(&write);
            } else if mercy == Mercy::Some {
                torn += u64::from(self.keep_some(&write, rng, tear));
            }
        }
        for write in in_flight {
            torn += u64::from(self.keep_some(&write, rng, tear));
        }
        torn
    }

    /// What was in flight lands whole, in part or not: the process is gone, the disk runs on.
    pub(super) fn land(&mut self, in_flight: Vec<Write>, rng: &mut Rng, tear: u64) -> u64 {
        let mut torn = 0;
        for write in in_flight {
            let fate = fate(&write, rng, tear);
            torn += u64::from(fate.torn);
            for part in fate.parts {
                self.write(part);
            }
        }
        torn
    }

    /// Changes what is stored, behind the cache's back.
    pub(super) fn poke(&mut self, offset: u64, bytes: &[u8]) {
        self.current.store(offset, bytes);
        let mut rest = bytes;
        for (page, within, n) in pieces(offset, bytes.len()) {
            let (head, tail) = rest.split_at(n);
            if let Some(base) = self.base.get_mut(&page) {
                store_in_page(&mut base.page, within, head);
            }
            rest = tail;
        }
    }

    fn keep(&mut self, write: &Write) {
        let current = &mut self.current;
        apply(write, &mut |page, within, bytes| match bytes {
            Some(bytes) => current.store(page * BLOCK + u64_of(within), bytes),
            None => current.set(page, None),
        });
    }

    fn keep_some(&mut self, write: &Write, rng: &mut Rng, tear: u64) -> bool {
        let fate = fate(write, rng, tear);
        for part in &fate.parts {
            self.keep(part);
        }
        fate.torn
    }
}

/// Takes a piece of a write: page, first byte in it, and the bytes; `None` is a whole page of zeros.
type Taker<'a> = &'a mut dyn FnMut(u64, usize, Option<&[u8]>);

/// Hands a write on page by page.
fn apply(write: &Write, to: Taker<'_>) {
    const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
    match &write.payload {
        Payload::Data(data) => {
            let mut rest: &[u8] = data;
            for (page, within, n) in pieces(write.offset, data.len()) {
                let (head, tail) = rest.split_at(n);
                to(page, within, Some(head));
                rest = tail;
            }
        }
        Payload::Zeros(len) => {
            for (page, within, n) in pieces(write.offset, usize_of(*len)) {
                to(page, within, ZEROS.get(..n).filter(|_| n < BLOCK_BYTES));
            }
        }
    }
}

/// What became of a write that nothing had made durable.
struct Fate {
    parts: Vec<Write>,
    torn: bool,
}

/// Zeros over more than this are torn at one place only.
const TORN_ZEROS_MAX: u64 = 64 << 10;

/// Whole, gone, its beginning, or any of its sectors; `tear` is what the disk writes at once.
fn fate(write: &Write, rng: &mut Rng, tear: u64) -> Fate {
    let len = write.payload.len();
    let end = write.offset + len;
    let whole = || Fate {
        parts: vec![write.clone()],
        torn: false,
    };
    let choice = rng.below(4);
    if choice == 0 {
        return whole();
    }
    if choice == 1 {
        return Fate {
            parts: Vec::new(),
            torn: false,
        };
    }
    let units = || {
        let first = align_down(write.offset, tear);
        let steps = (end - first).div_ceil(tear);
        (0..steps).map(move |i| {
            let from = (first + i * tear).max(write.offset);
            (from, (first + (i + 1) * tear).min(end))
        })
    };
    let count = u64_of(units().count());
    let mut parts = Vec::new();
    if choice == 2 || matches!(write.payload, Payload::Zeros(len) if len > TORN_ZEROS_MAX) {
        let kept = rng.below(count + 1);
        if let Some((_, to)) = units().take(usize_of(kept)).last() {
            parts.push(part(write, write.offset, to));
        }
        let torn = kept > 0 && kept < count;
        return Fate { parts, torn };
    }
    for (from, to) in units() {
        if rng.one_in(2) {
            parts.push(part(write, from, to));
        }
    }
    let torn = !parts.is_empty() && u64_of(parts.len()) < count;
    Fate { parts, torn }
}

fn part(write: &Write, from: u64, to: u64) -> Write {
    let payload = match &write.payload {
        Payload::Data(data) => {
            Payload::Data(data.slice(usize_of(from - write.offset)..usize_of(to - write.offset)))
        }
        Payload::Zeros(_) => Payload::Zeros(to - from),
    };
    Write {
        offset: from,
        payload,
        fua: false,
    }
}
