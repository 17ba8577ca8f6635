//! From a tape to crash states: where a crash is worth trying, and what it may leave on the disks.
//!
//! A power cut may leave any of the versions that a sector had since its disk's last flush, each sector
//! for itself; a kill leaves what was done, and any part of what was under way. So the states only grow
//! until a flush (or, for a kill, a write) ends, and what the clients were promised only grows when they
//! are told something. It follows that the states just before each such end, judged by what had been
//! promised by then, contain those of every crash point before it: a crash after *every* I/O is covered
//! by the cuts that are found here.

use std::collections::{BTreeMap, BTreeSet};

use cairn_blockdev::SharedBuf;
use cairn_blockdev::units::u64_of;

use crate::script::{Crash, Known, SECTOR};
use crate::tape::Event;

const STEP: u64 = 512;

/// A sector of a disk.
pub(crate) type Place = (usize, u64);

/// What a sector may hold.
#[derive(Clone)]
pub(crate) struct Free {
    pub(crate) place: Place,
    /// At least two, all different; `None` is what the disk holds with the cut's `fixed` alone.
    pub(crate) options: Vec<Option<SharedBuf>>,
}

/// A crash point.
pub(crate) struct Cut {
    pub(crate) crash: Crash,
    /// The event before which it comes.
    pub(crate) at: usize,
    /// Sectors that are surely on the disks, newer than the base image.
    pub(crate) fixed: BTreeMap<Place, SharedBuf>,
    pub(crate) free: Vec<Free>,
    /// What the clients know, by row.
    pub(crate) known: Vec<Known>,
}

struct Version {
    op: u64,
    data: SharedBuf,
}

struct Walk<'a> {
    base: &'a dyn Fn(Place) -> Vec<u8>,
    /// On the medium.
    durable: BTreeMap<Place, SharedBuf>,
    /// Written and not flushed, in order.
    pending: BTreeMap<Place, Vec<Version>>,
    done: BTreeSet<u64>,
    /// Per flush: what it covers.
    covers: BTreeMap<u64, BTreeSet<u64>>,
    acked: Vec<usize>,
    durable_below: usize,
    begun: usize,
}

impl Walk<'_> {
    fn known(&self, crash: Crash) -> Vec<Known> {
        let kept = |acked: &usize| match crash {
            Crash::Kill => (*acked).max(self.durable_below),
            Crash::Power => self.durable_below,
        };
        let rows = self.acked.iter();
        rows.map(|acked| Known {
            begun: self.begun,
            kept: kept(acked),
        })
        .collect()
    }

    fn cut(&self, crash: Crash, at: usize) -> Cut {
        let mut fixed = self.durable.clone();
        let mut free = Vec::new();
        for (place, versions) in &self.pending {
            let mut open: Vec<&Version> = versions.iter().collect();
            if crash == Crash::Kill {
                for version in versions.iter().filter(|v| self.done.contains(&v.op)) {
                    fixed.insert(*place, version.data.clone());
                }
                open.retain(|version| !self.done.contains(&version.op));
            }
            let there = match fixed.get(place) {
                Some(data) => data.to_vec(),
                None => (self.base)(*place),
            };
            let mut options: Vec<Option<SharedBuf>> = vec![None];
            for version in open {
                let is_known = there[..] == version.data[..]
                    || options
                        .iter()
                        .flatten()
                        .any(|other| other[..] == version.data[..]);
                if !is_known {
                    options.push(Some(version.data.clone()));
                }
            }
            if options.len() > 1 {
                free.push(Free {
                    place: *place,
                    options,
                });
            }
        }
        Cut {
            crash,
            at,
            fixed,
            free,
            known: self.known(crash),
        }
    }

    /// These operations of a disk are on its medium.
    fn settle(&mut self, disk: usize, is_covered: impl Fn(u64) -> bool) {
        let range = (disk, 0)..(disk + 1, 0);
        let places: Vec<Place> = self.pending.range(range).map(|(place, _)| *place).collect();
        for place in places {
            let Some(versions) = self.pending.get_mut(&place) else {
                continue;
            };
            if let Some(last) = versions.iter().rposition(|v| is_covered(v.op)) {
                for version in versions.drain(..=last) {
                    self.durable.insert(place, version.data);
                }
            }
            if versions.is_empty() {
                self.pending.remove(&place);
            }
        }
    }
}

/// The cuts that matter. `base` is what a sector held before the tape began.
pub(crate) fn cuts(tape: &[Event], rows: usize, base: &dyn Fn(Place) -> Vec<u8>) -> Vec<Cut> {
    let mut walk = Walk {
        base,
        durable: BTreeMap::new(),
        pending: BTreeMap::new(),
        done: BTreeSet::new(),
        covers: BTreeMap::new(),
        acked: vec![0; rows],
        durable_below: 0,
        begun: 0,
    };
    let mut through = BTreeSet::new();
    let mut cuts = Vec::new();
    // Whether something began, or was promised, since the last cut of a kind.
    let mut is_new = BTreeMap::from([(Crash::Power, true), (Crash::Kill, true)]);
    let last = tape.len();
    for (at, event) in tape.iter().enumerate() {
        let ends: &[Crash] = match event {
            Event::Flushed { op, .. } if walk.covers.get(op).is_some_and(|ops| !ops.is_empty()) => {
                &[Crash::Power]
            }
            Event::Done { op, .. } if through.contains(op) => &[Crash::Power, Crash::Kill],
            Event::Done { .. } => &[Crash::Kill],
            _ => &[],
        };
        for crash in ends {
            if is_new.insert(*crash, false) == Some(true) {
                cuts.push(walk.cut(*crash, at));
            }
        }
        match event {
            Event::Begun {
                disk,
                op,
                offset,
                data,
                fua,
            } => {
                if *fua {
                    through.insert(*op);
                }
                for (i, from) in (0..data.len()).step_by(SECTOR).enumerate() {
                    let place = (*disk, offset + u64_of(i) * STEP);
                    let version = Version {
                        op: *op,
                        data: data.slice(from..from + SECTOR),
                    };
                    walk.pending.entry(place).or_default().push(version);
                }
                is_new.extend([(Crash::Power, true), (Crash::Kill, true)]);
            }
            Event::Done { disk, op } => {
                walk.done.insert(*op);
                if through.contains(op) {
                    walk.settle(*disk, |other| other == *op);
                    is_new.insert(Crash::Power, true);
                }
            }
            Event::FlushBegun { disk, op } => {
                let range = (*disk, 0)..(*disk + 1, 0);
                let ops = walk.pending.range(range).flat_map(|(_, versions)| versions);
                let covered = ops.map(|v| v.op).filter(|op| walk.done.contains(op));
                walk.covers.insert(*op, covered.collect());
            }
            Event::Flushed { disk, op } => {
                let covered = walk.covers.remove(op).unwrap_or_default();
                walk.settle(*disk, |other| covered.contains(&other));
            }
            Event::Read { .. } => {}
            Event::WriteBegun { step } => walk.begun = walk.begun.max(step + 1),
            Event::Acked { step, row } => {
                walk.acked[*row] = walk.acked[*row].max(step + 1);
                if walk.acked.iter().all(|acked| *acked > *step) {
                    is_new.insert(Crash::Kill, true);
                }
            }
            Event::Durable { below } => {
                walk.durable_below = walk.durable_below.max(*below);
                is_new.extend([(Crash::Power, true), (Crash::Kill, true)]);
            }
        }
    }
    for crash in [Crash::Power, Crash::Kill] {
        cuts.push(walk.cut(crash, last));
    }
    cuts
}

/// The number of states of these sectors, if it is below `most`.
pub(crate) fn states(free: &[&Free], most: usize) -> Option<usize> {
    free.iter().try_fold(1usize, |all, sector| {
        let all = all.checked_mul(sector.options.len())?;
        (all <= most).then_some(all)
    })
}

/// The choice of each sector in state number `state`.
pub(crate) fn choose<'a>(
    free: &'a [&'a Free],
    mut state: usize,
) -> impl Iterator<Item = (Place, Option<&'a SharedBuf>)> {
    free.iter().map(move |sector| {
        let count = sector.options.len();
        let choice = state % count;
        state /= count;
        (sector.place, sector.options[choice].as_ref())
    })
}
