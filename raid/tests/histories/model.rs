//! What every sector of a volume may hold, while it runs and after a crash.
//!
//! A sector's contents name the volume, the write that put them there and the sector itself, so that
//! another volume's, another sector's or an older write's bytes are recognised for what they are.

use std::ops::Range;

use cairn_blockdev::units::u64_of;

/// Unit of the model.
pub(crate) const SECTOR: u64 = 512;
/// The stamp of zeros.
pub(crate) const ZERO: u64 = 0;

const MAGIC: u64 = 0x5EC7_0A5E_ED5E_ED01;

fn word(tag: u64, stamp: u64, sector: u64, at: u64) -> u64 {
    match at {
        0 => MAGIC,
        1 => tag,
        2 => stamp,
        3 => sector,
        _ => (tag ^ stamp.rotate_left(20) ^ sector.rotate_left(40))
            .wrapping_add(at)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15),
    }
}

/// Fills whole sectors from `first` on.
pub(crate) fn fill(bytes: &mut [u8], tag: u64, stamp: u64, first: u64) {
    for (sector, chunk) in (first..).zip(bytes.chunks_mut(512)) {
        for (at, to) in (0..).zip(chunk.chunks_mut(8)) {
            to.copy_from_slice(&word(tag, stamp, sector, at).to_le_bytes());
        }
    }
}

/// What a sector's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// Zeros, or a write of this volume to this sector.
    Stamp(u64),
    /// Another volume's, another sector's, or nobody's.
    Foreign,
}

fn decode(bytes: &[u8], tag: u64, sector: u64) -> Found {
    let mut words = bytes
        .chunks(8)
        .map(|w| u64::from_le_bytes(w.try_into().unwrap()));
    if words.clone().all(|w| w == 0) {
        return Found::Stamp(ZERO);
    }
    let stamp = words.clone().nth(2).unwrap();
    if words
        .by_ref()
        .zip(0..)
        .all(|(w, at)| w == word(tag, stamp, sector, at))
    {
        Found::Stamp(stamp)
    } else {
        Found::Foreign
    }
}

/// How a history was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crash {
    /// `kill -9`: acked is kept.
    Kill,
    /// Power: flushed is kept.
    Power,
}

#[derive(Clone, Default)]
struct Cell {
    /// Durable: flushed, or never written.
    floor: u64,
    /// Acked since, in order: (ack number, stamp).
    since: Vec<(u64, u64)>,
    /// Begun and neither acked nor known to be lost.
    open: Vec<u64>,
    /// Failed, perhaps after it had changed something, and was followed by an ack (its number): while
    /// that isn't durable, a power cut may leave this.
    failed: Vec<(u64, u64)>,
    /// Anything: a forced start couldn't tell. Until it is written again.
    unknown: bool,
}

impl Cell {
    fn now(&self) -> u64 {
        self.since.last().map_or(self.floor, |(_, stamp)| *stamp)
    }

    fn may_hold(&self, stamp: u64, crash: Option<Crash>) -> bool {
        let durable = crash == Some(Crash::Power)
            && (self.floor == stamp
                || self.since.iter().any(|(_, s)| *s == stamp)
                || self.failed.iter().any(|(_, s)| *s == stamp));
        self.unknown || durable || self.now() == stamp || self.open.contains(&stamp)
    }
}

struct Window {
    first: u64,
    cells: Vec<Cell>,
}

/// A volume's model: the sectors of some windows; writes stay inside, trims may reach beyond.
pub(crate) struct Model {
    tag: u64,
    windows: Vec<Window>,
    acks: u64,
}

impl Model {
    pub(crate) fn new(tag: u64, windows: &[Range<u64>]) -> Self {
        let windows = windows.iter().map(|range| Window {
            first: range.start,
            cells: vec![Cell::default(); usize::try_from(range.end - range.start).unwrap()],
        });
        Self {
            tag,
            windows: windows.collect(),
            acks: 0,
        }
    }

    pub(crate) fn tag(&self) -> u64 {
        self.tag
    }

    pub(crate) fn windows(&self) -> Vec<Range<u64>> {
        self.windows
            .iter()
            .map(|w| w.first..w.first + u64_of(w.cells.len()))
            .collect()
    }

    fn each(&mut self, range: Range<u64>, mut change: impl FnMut(u64, &mut Cell)) {
        for window in &mut self.windows {
            let from = range.start.max(window.first);
            let to = range.end.min(window.first + u64_of(window.cells.len()));
            for sector in from..to {
                let at = usize::try_from(sector - window.first).unwrap();
                change(sector, &mut window.cells[at]);
            }
        }
    }

    /// A write, or a trim (stamp zero), begins.
    pub(crate) fn begin(&mut self, range: Range<u64>, stamp: u64) {
        self.each(range, |_, cell| cell.open.push(stamp));
    }

    /// It is acked.
    pub(crate) fn acked(&mut self, range: Range<u64>, stamp: u64, fua: bool) {
        self.acks += 1;
        let ack = self.acks;
        self.each(range, |_, cell| {
            let others = std::mem::take(&mut cell.open).into_iter();
            let others = others.filter(|other| *other != stamp);
            cell.failed.extend(others.map(|other| (ack, other)));
            cell.unknown = false;
            if fua {
                cell.floor = stamp;
                cell.since.clear();
                cell.failed.clear();
            } else {
                cell.since.push((ack, stamp));
            }
        });
    }

    /// A flush begins: the number to end it with.
    pub(crate) fn flush_begins(&self) -> u64 {
        self.acks
    }

    /// Everything acked by then is durable.
    pub(crate) fn flushed(&mut self, through: u64) {
        self.each(0..u64::MAX, |_, cell| {
            let count = cell
                .since
                .iter()
                .take_while(|(ack, _)| *ack <= through)
                .count();
            if let Some((_, stamp)) = cell.since.drain(..count).next_back() {
                cell.floor = stamp;
            }
            cell.failed.retain(|(ack, _)| *ack > through);
        });
    }

    /// Checks what a running array gave. `crash` tells what may have happened since the model knew
    /// for certain; a crash settles each sector at what it turned out to hold.
    pub(crate) fn check(&mut self, first: u64, bytes: &[u8], crash: Option<Crash>, what: &str) {
        let doubtful = |_: u64| false;
        self.check_but(first, bytes, crash, doubtful, what);
    }

    /// As [`Model::check`], but rows that `doubtful` names may hold anything.
    pub(crate) fn check_but(
        &mut self,
        first: u64,
        bytes: &[u8],
        crash: Option<Crash>,
        doubtful: impl Fn(u64) -> bool,
        what: &str,
    ) {
        let tag = self.tag;
        let count = u64_of(bytes.len()) / SECTOR;
        self.acks += 1;
        let ack = self.acks;
        self.each(first..first + count, |sector, cell| {
            let at = usize::try_from((sector - first) * SECTOR).unwrap();
            let got = &bytes[at..at + 512];
            let found = decode(got, tag, sector);
            cell.unknown |= doubtful(sector);
            let allowed = match found {
                Found::Stamp(stamp) => cell.may_hold(stamp, crash),
                Found::Foreign => cell.unknown,
            };
            assert!(
                allowed,
                "{what}: volume {tag:#x} sector {sector} holds {found:x?} {:x?}, may hold now {} floor {} since {:?} open {:?} ({crash:?})",
                got.chunks(8).take(4).map(|w| u64::from_le_bytes(w.try_into().unwrap())).collect::<Vec<_>>(),
                cell.now(),
                cell.floor,
                cell.since,
                cell.open,
            );
            if let (Some(crash), Found::Stamp(stamp)) = (crash, found) {
                cell.open.clear();
                if crash == Crash::Power {
                    cell.since.clear();
                    cell.failed.clear();
                    cell.floor = stamp;
                } else if cell.now() != stamp {
                    cell.since.push((ack, stamp));
                }
            }
        });
    }

    /// Whether a sector of the range has something that a crash may have left half done.
    pub(crate) fn unsettled(&mut self, range: Range<u64>, crash: Crash) -> bool {
        let mut any = false;
        self.each(range, |_, cell| {
            any |= !cell.open.is_empty() || (crash == Crash::Power && !cell.since.is_empty());
        });
        any
    }
}

#[test]
fn the_model_knows_its_own_bytes_and_no_others() {
    let mut bytes = vec![0; 1024];
    fill(&mut bytes, 7, 9, 100);
    assert_eq!(decode(&bytes[..512], 7, 100), Found::Stamp(9));
    assert_eq!(decode(&bytes[512..], 7, 101), Found::Stamp(9));
    assert_eq!(decode(&bytes[..512], 8, 100), Found::Foreign);
    assert_eq!(decode(&bytes[..512], 7, 101), Found::Foreign);
    bytes[511] ^= 1;
    assert_eq!(decode(&bytes[..512], 7, 100), Found::Foreign);
}
