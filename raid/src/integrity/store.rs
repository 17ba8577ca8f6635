//! Reading and writing the copies of pages.
//!
//! Invariants
//! - A page is what the highest valid generation among **all** its copies says: the one copy that is
//!   at hand may be on a disk whose old image was put back, and would confirm its old data (fault A10).
//! - A disk that gives no answer in time is done without only if another copy was read whole; else it is
//!   waited for, as for data that nobody else has: a copy isn't lost because it is late.
//! - A copy is written to the side that doesn't hold its newest valid content. Where the newest isn't
//!   known, it is looked for first.
//!
//! Does not know: which pages are in memory, when they are written, what is flushed.

use std::rc::Rc;

use cairn_blockdev::units::{BLOCK, BLOCK_BYTES, u64_of, usize_of};
use cairn_blockdev::{Buf, IoError, IoErrorKind, SharedBuf, WriteFlags};
use futures_util::future::join_all;

use super::cache::{Content, Sides, Snapshot};
use super::page::{PageError, PageId, SumsPage};
use super::place::{Copy, PageNumber, Places, Side};
use crate::array::disk::{Disk, is_late};
use crate::array::flights::Patience;
use crate::geometry::Slot;
use crate::layout::ZoneKind;
use crate::mutation::{Mutation, on};

/// What is wrong with one copy of a page.
#[derive(Debug, Clone)]
pub(crate) enum Flaw {
    /// It is older than the newest copy. After a crash in a checkpoint that is nothing unusual.
    Stale {
        /// Its generation; 0 if it is blank.
        generation: u64,
        /// That of the newest copy.
        newest: u64,
    },
    /// Neither side is a page.
    Damaged,
    /// It has the newest generation and says something else.
    Differs,
    /// A side, or both, can't be read.
    Unreadable(IoError),
}

/// A flaw of the copy of `page` on a disk. The page is dirty, so that the next checkpoint mends it.
#[derive(Clone)]
pub(crate) struct Finding {
    pub(crate) page: PageNumber,
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "tests name the copy by its slot")
    )]
    pub(crate) slot: Slot,
    pub(crate) disk: Rc<Disk>,
    pub(crate) flaw: Flaw,
}

/// A page can't be had.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum SumsError {
    /// No copy of it is left.
    #[error(
        "checksum page {page} is lost: {copies}; the blocks it speaks of can't be verified: scrub the array, or have a peer repair them"
    )]
    Lost {
        /// Its number.
        page: u64,
        /// What each copy is like, by disk.
        copies: String,
    },
    /// A copy has a version that isn't known here.
    #[error("{disk}: {source}")]
    Version {
        /// The disk.
        disk: Rc<str>,
        /// Which one.
        source: PageError,
    },
}

/// A page, and what is to be said about its copies.
pub(crate) struct Loaded {
    pub(crate) content: Content,
    pub(crate) findings: Vec<Finding>,
    /// A copy that may be newer wasn't waited for.
    pub(crate) partial: bool,
}

/// Both sides of a copy, as they were read.
pub(crate) struct CopyRead {
    copy: Copy,
    disk: Rc<Disk>,
    sides: [(Side, Result<Buf, IoError>); 2],
}

/// What one side holds.
enum Held<'a> {
    Page(Side, SumsPage<'a>),
    Blank,
    Damaged,
    Unreadable(&'a IoError),
}

/// A copy's best side.
enum Best<'a> {
    /// The newer of its valid sides.
    Page(Side, SumsPage<'a>),
    /// Nothing was ever completed here: one side is blank and the other blank or torn.
    Never(Side),
    Damaged,
    Unreadable,
}

/// First byte of the zone on a disk. Only disks with zones take part in an array.
fn zone_offset(disk: &Disk, places: &Places) -> u64 {
    let layout = disk.layout.get().unwrap_or_default();
    assert!(
        places.fits(&layout),
        "{} has no room for checksum pages",
        disk.path
    );
    layout.zone(ZoneKind::Checksums).offset
}

/// The disk of a slot, if it takes part.
pub(crate) fn at(disks: &[Option<Rc<Disk>>], slot: Slot) -> Option<&Rc<Disk>> {
    disks.get(slot.0)?.as_ref().filter(|disk| !disk.out.get())
}

async fn read(disk: &Disk, offset: u64, len: usize, patience: Patience) -> Result<Buf, IoError> {
    let read = disk.read_at(offset, Buf::zeroed(len), patience);
    let (buf, result) = read.await;
    result.map(|()| buf)
}

/// Both sides of a copy by one read; each for itself if that fails, since one may be good.
async fn read_copy(disk: Rc<Disk>, places: &Places, copy: Copy, patience: Patience) -> CopyRead {
    let offset = zone_offset(&disk, places) + copy.offset();
    let [first, second] = copy.sides();
    let sides = match read(&disk, offset, 2 * BLOCK_BYTES, patience).await {
        Ok(mut buf) => {
            let tail = buf.split_off(BLOCK_BYTES);
            [(first, Ok(buf)), (second, Ok(tail))]
        }
        Err(error) if error.kind == IoErrorKind::Gone || is_late(&error) => {
            [(first, Err(error.clone())), (second, Err(error))]
        }
        Err(_) => [
            (first, read(&disk, offset, BLOCK_BYTES, patience).await),
            (
                second,
                read(&disk, offset + BLOCK, BLOCK_BYTES, patience).await,
            ),
        ],
    };
    CopyRead { copy, disk, sides }
}

impl CopyRead {
    fn held(&self, id: &PageId) -> Result<[Held<'_>; 2], SumsError> {
        let [first, second] = &self.sides;
        Ok([self.held_by(id, first)?, self.held_by(id, second)?])
    }

    fn held_by<'a>(
        &self,
        id: &PageId,
        (side, read): &'a (Side, Result<Buf, IoError>),
    ) -> Result<Held<'a>, SumsError> {
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(error) => return Ok(Held::Unreadable(error)),
        };
        match SumsPage::decode(id, bytes) {
            Ok(page) => Ok(Held::Page(*side, page)),
            Err(PageError::Blank) => Ok(Held::Blank),
            Err(PageError::Damaged) => Ok(Held::Damaged),
            Err(source @ PageError::Version(_)) => Err(SumsError::Version {
                disk: Rc::clone(&self.disk.path),
                source,
            }),
        }
    }

    /// A side may be there, and wasn't waited for.
    fn is_late(&self) -> bool {
        let mut sides = self.sides.iter();
        sides.any(|(_, read)| read.as_ref().is_err_and(is_late))
    }

    /// Both sides were read, and they tell what the page is.
    fn is_whole(&self, id: &PageId) -> bool {
        let read = self.sides.iter().all(|(_, read)| read.is_ok());
        let tells = self.held(id).is_ok_and(|held| {
            let best = best(self.copy.sides(), &held);
            matches!(best, Best::Page(..) | Best::Never(_))
        });
        read && tells
    }

    fn finding(&self, id: &PageId, flaw: Flaw) -> Finding {
        Finding {
            page: id.page,
            slot: self.copy.slot,
            disk: Rc::clone(&self.disk),
            flaw,
        }
    }
}

fn best<'a>(sides: [Side; 2], held: &[Held<'a>; 2]) -> Best<'a> {
    let pages = held.iter().filter_map(|held| match held {
        Held::Page(side, page) => Some((*side, *page)),
        _ => None,
    });
    if let Some((side, page)) = pages.max_by_key(|(_, page)| page.generation()) {
        return Best::Page(side, page);
    }
    // The blank side counts as the newest, so that the next write replaces what is torn.
    match held {
        [Held::Unreadable(_), _] | [_, Held::Unreadable(_)] => Best::Unreadable,
        [Held::Blank, Held::Damaged] => Best::Never(sides[0]),
        [Held::Damaged, Held::Blank] => Best::Never(sides[1]),
        [Held::Blank, Held::Blank] => Best::Never(Side::B),
        _ => Best::Damaged,
    }
}

/// Decides what the page is, from all copies that are there.
///
/// A page of which no copy was ever completed is one that was never written, if none is worse than
/// that: a first write torn on every member is replayed from the journal, like any other.
fn judge(id: &PageId, places: &Places, reads: &[CopyRead]) -> Result<Loaded, SumsError> {
    let mut copies = Vec::with_capacity(reads.len());
    for read in reads {
        let held = read.held(id)?;
        let best = best(read.copy.sides(), &held);
        copies.push((read, held, best));
    }
    let newest = copies
        .iter()
        .filter_map(|(_, _, best)| match best {
            Best::Page(_, page) => Some(*page),
            _ => None,
        })
        // The first copy of the highest generation.
        .reduce(|a, b| {
            if b.generation() > a.generation() && !on(Mutation::PageWithoutGeneration) {
                b
            } else {
                a
            }
        });
    let never = copies
        .iter()
        .any(|(_, _, best)| matches!(best, Best::Never(_)));
    let worse = copies
        .iter()
        .any(|(_, _, best)| matches!(best, Best::Damaged));
    if newest.is_none() && (worse || !never) {
        return Err(lost(id, &copies));
    }
    let generation = newest.map_or(0, |page| page.generation());
    let mut sides = Sides::default();
    let mut findings = Vec::new();
    for (read, held, best) in &copies {
        let flaw = match best {
            Best::Page(_, page) if page.generation() < generation => Some(Flaw::Stale {
                generation: page.generation(),
                newest: generation,
            }),
            Best::Page(_, page) if newest.is_some_and(|newest| !newest.agrees(page)) => {
                Some(Flaw::Differs)
            }
            Best::Never(_) if generation > 0 => Some(Flaw::Stale {
                generation: 0,
                newest: generation,
            }),
            Best::Damaged => Some(Flaw::Damaged),
            Best::Page(..) | Best::Never(_) | Best::Unreadable => None,
        };
        if let Best::Page(side, _) | Best::Never(side) = best {
            sides.set(read.copy.number, Some(*side));
        }
        findings.extend(flaw.map(|flaw| read.finding(id, flaw)));
        // One a copy: a bad sector under one side is as much of a medium error as under both.
        let error = held.iter().find_map(|held| match held {
            // What it holds isn't known to be bad.
            Held::Unreadable(error) if is_late(error) => None,
            Held::Unreadable(error) => Some(Flaw::Unreadable((*error).clone())),
            _ => None,
        });
        findings.extend(error.map(|flaw| read.finding(id, flaw)));
    }
    let sums = newest.map_or_else(
        || vec![0; places.sums_per_page()].into(),
        |page| page.sums().collect(),
    );
    Ok(Loaded {
        content: Content {
            generation,
            sums,
            sides,
        },
        findings,
        partial: reads.iter().any(CopyRead::is_late),
    })
}

fn lost(id: &PageId, copies: &[(&CopyRead, [Held<'_>; 2], Best<'_>)]) -> SumsError {
    let copies: Vec<String> = copies
        .iter()
        .map(|(read, _, best)| {
            let state = match best {
                Best::Page(..) => "valid",
                Best::Never(_) => "blank",
                Best::Damaged => "damaged",
                Best::Unreadable => "unreadable",
            };
            format!("{} {state}", read.disk.path)
        })
        .collect();
    SumsError::Lost {
        page: id.page.0,
        copies: if copies.is_empty() {
            "every member that holds a copy is missing".into()
        } else {
            copies.join(", ")
        },
    }
}

/// Reads all copies of a page that are there, both sides of each. Who is slow is waited for if `all` are wanted, or if
/// nobody else has a whole copy.
pub(crate) async fn load(
    id: &PageId,
    places: &Places,
    disks: &[Option<Rc<Disk>>],
    all: bool,
) -> Result<Loaded, SumsError> {
    let reads = places.copies(id.page).filter_map(|copy| {
        let disk = Rc::clone(at(disks, copy.slot)?);
        Some(read_copy(disk, places, copy, Patience::Reconstruct))
    });
    let mut reads = join_all(reads).await;
    if all || !reads.iter().any(|read| read.is_whole(id)) {
        let again = reads.iter_mut().filter(|read| read.is_late());
        join_all(again.map(|late| async {
            let disk = Rc::clone(&late.disk);
            *late = read_copy(disk, places, late.copy, Patience::Eject).await;
        }))
        .await;
    }
    judge(id, places, &reads)
}

/// Which side of a copy is to be kept, and its generation, as the disk says; `None` if it doesn't.
pub(crate) async fn newest_side(
    id: &PageId,
    places: &Places,
    disk: &Rc<Disk>,
    copy: Copy,
) -> Option<(Side, u64)> {
    // It is about to be written there, and waited for.
    let read = read_copy(Rc::clone(disk), places, copy, Patience::Eject).await;
    match best(copy.sides(), &read.held(id).ok()?) {
        Best::Page(side, page) => Some((side, page.generation())),
        Best::Never(side) => Some((side, 0)),
        Best::Damaged | Best::Unreadable => None,
    }
}

/// A disk that takes copies of a slot's pages.
#[derive(Clone)]
pub(crate) struct Taker {
    pub(crate) slot: Slot,
    pub(crate) disk: Rc<Disk>,
    /// It is the one that is read; a target of a replacement isn't, yet.
    pub(crate) is_read: bool,
}

/// One copy's write: to which side, and of what.
struct Job {
    offset: u64,
    copy: usize,
    side: Side,
    page: PageNumber,
    bytes: SharedBuf,
}

/// How one copy's write ended on a disk that is read.
pub(crate) struct Outcome {
    pub(crate) page: PageNumber,
    pub(crate) copy: usize,
    /// The side that is newest now; `None` if the write failed.
    pub(crate) side: Option<Side>,
}

/// Writes snapshots to a disk, neighbours by one write. The first error ends up with the caller; the
/// rest of the disk's writes are waited for.
pub(crate) async fn write(
    taker: &Taker,
    places: &Places,
    snapshots: &[(Snapshot, SharedBuf)],
) -> (Vec<Outcome>, Option<IoError>) {
    let zone = zone_offset(&taker.disk, places);
    let mut jobs: Vec<Job> = snapshots
        .iter()
        .filter_map(|(snapshot, bytes)| {
            let copy = places
                .copies(snapshot.page)
                .find(|copy| copy.slot == taker.slot)?;
            let side = snapshot.sides.get(copy.number).map_or(Side::A, Side::other);
            Some(Job {
                offset: zone + copy.side_offset(side),
                copy: copy.number,
                side,
                page: snapshot.page,
                bytes: bytes.clone(),
            })
        })
        .collect();
    jobs.sort_by_key(|job| job.offset);
    let runs = jobs.chunk_by(|a, b| a.offset + BLOCK == b.offset);
    let results = join_all(runs.map(|run| async move {
        let result = match run {
            [] => Ok(()),
            [first, rest @ ..] => {
                let bytes = if rest.is_empty() {
                    first.bytes.clone()
                } else {
                    joined(run)
                };
                taker
                    .disk
                    .write_at(first.offset, bytes, WriteFlags::default())
                    .await
            }
        };
        (run, result)
    }))
    .await;
    let mut outcomes = Vec::with_capacity(jobs.len());
    let mut failed = None;
    for (run, result) in results {
        outcomes.extend(run.iter().map(|job| Outcome {
            page: job.page,
            copy: job.copy,
            side: result.is_ok().then_some(job.side),
        }));
        failed = failed.or(result.err());
    }
    (outcomes, failed)
}

fn joined(run: &[Job]) -> SharedBuf {
    let mut buf = Buf::zeroed(usize_of(u64_of(run.len()) * BLOCK));
    for (to, job) in buf.chunks_exact_mut(BLOCK_BYTES).zip(run) {
        to.copy_from_slice(&job.bytes);
    }
    buf.freeze()
}
