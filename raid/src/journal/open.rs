//! Opening the journal of an array that is being assembled: headers, scans, and their union.
//!
//! Invariants
//! - Only members that are in sync and journal disks in service are asked: a stale one's says nothing.
//! - The highest epoch among the headers is the journal's; within it the highest floor.
//! - Until the caller says otherwise nothing on the disks is changed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use cairn_blockdev::units::{BLOCK_BYTES, u64_of};
use cairn_blockdev::{Buf, IoError, SharedBuf, WriteFlags};
use futures_util::future::join_all;
use uuid::Uuid;

use super::copies::Copies;
use super::entry::Seq;
use super::header::{JournalHeader, RING_OFFSET, SLOTS, newest};
use super::log::{Resume, ring_bytes, split_rings};
use super::ring::Ring;
use super::scan::{Found, PayloadError, read_payload, scan};
use super::union::{Record, Replay, all_there_is, up_to_a_gap};
use crate::array::disk::Disk;
use crate::array::flights::Patience;
use crate::layout::ZoneKind;

/// Why a journal can't be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// No member has a header that can be used.
    #[error("no member's journal header can be read ({0}); bring more members back")]
    NoHeader(String),
    /// Acked records are missing, or contradict each other.
    #[error(transparent)]
    Replay(#[from] super::union::ReplayError),
}

/// A journal that was read and not yet replayed.
pub(crate) struct Opened {
    array: Uuid,
    epoch: u64,
    header_generation: u64,
    disks: Vec<Rc<Disk>>,
    found: Vec<(usize, Vec<Found>)>,
    replay: Replay,
    /// Disks without a header of this array, or whose ring can't be read at all.
    blind: Vec<Rc<Disk>>,
    /// Disks without the newest header.
    behind: Vec<Rc<Disk>>,
    /// Journal disks are lost, and with them records.
    lossy: bool,
    /// Payloads of records with one copy.
    kept: RefCell<BTreeMap<Seq, SharedBuf>>,
}

/// Most bytes of payloads that are kept.
const KEPT_BYTES: u64 = 64 << 20;

/// Sequences that a journal leaves out if it can't know which of them were given: nothing that is
/// written from then on must look older than what lies on the disks.
const LEFT_OUT: u64 = 1 << 40;

fn zone(disk: &Disk) -> u64 {
    let layout = disk.layout.get().unwrap_or_default();
    layout.zone(ZoneKind::Journal).offset
}

async fn read_header(disk: &Disk) -> Result<JournalHeader, String> {
    let mut blocks = Vec::new();
    for slot in SLOTS {
        let block = Buf::zeroed(BLOCK_BYTES);
        let read = disk.read_at(zone(disk) + slot, block, Patience::Eject);
        let (buf, result) = read.await;
        // A slot that can't be read is as good as torn.
        blocks.push(if result.is_ok() {
            buf
        } else {
            Buf::zeroed(BLOCK_BYTES)
        });
    }
    let [a, b] = blocks.as_slice() else {
        return Err(String::new());
    };
    let header = newest(a, b).map_err(|error| format!("{}: {error}", disk.path))?;
    let whole = [a, b]
        .iter()
        .all(|block| JournalHeader::decode(block).is_ok());
    // A slot that can't be read may have held the one after it.
    disk.found_header(header.generation + u64::from(!whole));
    Ok(header)
}

/// The headers of the array's journals; never none. And the disks that have none.
async fn read_headers(
    array: Uuid,
    disks: &[Rc<Disk>],
) -> Result<(Vec<JournalHeader>, Vec<Rc<Disk>>), OpenError> {
    let mut headers = Vec::new();
    let mut faults = Vec::new();
    let mut blind = Vec::new();
    let reads = join_all(disks.iter().map(|disk| read_header(disk))).await;
    for (disk, read) in disks.iter().zip(reads) {
        match read {
            Ok(header) if header.array == array => headers.push(header),
            Ok(_) => blind.push(Rc::clone(disk)),
            Err(fault) => {
                faults.push(fault);
                blind.push(Rc::clone(disk));
            }
        }
    }
    if headers.is_empty() {
        return Err(OpenError::NoHeader(faults.join("; ")));
    }
    Ok((headers, blind))
}

/// The journal's epoch, and the highest floor that a header of it knows.
fn newest_of(headers: &[JournalHeader]) -> (u64, Seq) {
    let all = headers.iter().map(|header| (header.epoch, header.floor));
    all.max().unwrap_or((0, Seq::NONE))
}

async fn scan_all(
    array: Uuid,
    disks: &[Rc<Disk>],
    epoch: u64,
    floor: Seq,
    blind: &mut Vec<Rc<Disk>>,
) -> Vec<(usize, Vec<Found>)> {
    let scans = disks.iter().map(|disk| {
        let (zone, len) = (zone(disk), ring_bytes(disk));
        scan(disk.device(), zone, len, array, epoch, 0, floor)
    });
    let scans = join_all(scans).await;
    let mut found = Vec::with_capacity(disks.len());
    for ((member, disk), scanned) in disks.iter().enumerate().zip(scans) {
        if scanned.is_err() {
            blind.push(Rc::clone(disk));
        }
        // A member whose ring can't be read at all counts as one that lost its copies.
        found.push((member, scanned.unwrap_or_default()));
    }
    found
}

impl Opened {
    /// Reads what the journals of `disks` hold, and says whether that is all of it. To be looked at: of a
    /// journal with holes nothing may be replayed.
    pub(crate) async fn survey(
        array: Uuid,
        disks: Vec<Rc<Disk>>,
    ) -> Result<(Self, bool), OpenError> {
        let (headers, mut blind) = read_headers(array, &disks).await?;
        let (epoch, floor) = newest_of(&headers);
        let found = scan_all(array, &disks, epoch, floor, &mut blind).await;
        let (replay, complete) = all_there_is(&found, floor)?;
        let opened = Self {
            array,
            epoch,
            header_generation: 0,
            disks,
            found,
            replay,
            blind,
            behind: Vec::new(),
            lossy: false,
            kept: RefCell::default(),
        };
        Ok((opened, complete))
    }

    /// Reads the journals of the members in sync and of the journal disks. After a clean stop there is
    /// nothing to look for. `lossy`: more journal disks are lost than may be; what follows the first gap
    /// is lost with them.
    pub(crate) async fn read(
        array: Uuid,
        disks: Vec<Rc<Disk>>,
        clean: bool,
        lossy: bool,
    ) -> Result<Self, OpenError> {
        let (headers, mut blind) = read_headers(array, &disks).await?;
        let (epoch, floor) = newest_of(&headers);
        let header_generation = headers.iter().map(|h| h.generation).max().unwrap_or(0);
        let has_newest = |disk: &Rc<Disk>| {
            let mut newest = headers.iter().filter(|h| h.generation == header_generation);
            newest.any(|header| header.member == disk.uuid)
        };
        let lacking = disks.iter().filter(|disk| !has_newest(disk));
        let behind = lacking.map(Rc::clone).collect();
        let mut found = Vec::new();
        if !clean {
            found = scan_all(array, &disks, epoch, floor, &mut blind).await;
        }
        let replay = up_to_a_gap(&found, floor, lossy)?;
        Ok(Self {
            array,
            epoch,
            header_generation,
            disks,
            found,
            replay,
            blind,
            behind,
            lossy,
            kept: RefCell::default(),
        })
    }

    /// Journal disks that say nothing: as good as lost.
    pub(crate) fn blind_journal_disks(&self) -> impl Iterator<Item = &Rc<Disk>> {
        self.blind.iter().filter(|disk| disk.ring_only.get())
    }

    /// Disks that are in and lack the newest header.
    pub(crate) fn behind(&self) -> Vec<Rc<Disk>> {
        let disks = self.behind.iter().filter(|disk| !disk.out.get());
        disks.map(Rc::clone).collect()
    }

    /// Disks whose header is older than every member's was when the labels were written.
    pub(crate) fn outdated(&self, journal_headers: u64) -> impl Iterator<Item = &Rc<Disk>> {
        let is_old = move |known: u64| known > 0 && known < journal_headers;
        let disks = self.disks.iter();
        disks.filter(move |disk| is_old(disk.header()))
    }

    /// Whether a disk that was read has been thrown out since.
    pub(crate) fn lost_a_disk(&self) -> bool {
        self.disks.iter().any(|disk| disk.out.get())
    }

    /// The records to replay, in order.
    pub(crate) fn records(&self) -> &[Record] {
        &self.replay.records
    }

    /// Everything below is in place.
    pub(crate) fn floor(&self) -> Seq {
        self.replay.floor
    }

    /// Reads the payloads of records that one disk alone has, as they were on their way at the stop, and
    /// keeps them: from here on a start doesn't depend on that disk. Ask [`Opened::lost_a_disk`] afterwards.
    pub(crate) async fn keep_single(&self) {
        let mut room = KEPT_BYTES;
        for record in &self.replay.records {
            let len = u64::from(record.entry.payload_len);
            // One disk may have it twice.
            let (mut has, first) = (record.copies.iter(), record.copies.first());
            let single = has.all(|copy| Some(copy.0) == first.map(|first| first.0));
            if !single || len == 0 || len > room {
                continue;
            }
            if let Ok(payload) = self.payload(record).await {
                room -= len;
                self.kept.borrow_mut().insert(record.seq, payload);
            }
        }
    }

    /// A record's payload, from the first copy that still is what it was.
    pub(crate) async fn payload(&self, record: &Record) -> Result<SharedBuf, PayloadError> {
        if let Some(kept) = self.kept.borrow().get(&record.seq) {
            return Ok(kept.clone());
        }
        let mut fault = None;
        for (member, group, entry) in &record.copies {
            let Some(disk) = self.disks.get(*member) else {
                continue;
            };
            let list = self.found.iter().find(|(other, _)| other == member);
            let Some(found) = list.and_then(|(_, found)| found.get(*group)) else {
                continue;
            };
            match read_payload(disk.device(), zone(disk), found, *entry).await {
                Ok(buf) => return Ok(buf.freeze()),
                Err(error) => fault = Some(error),
            }
        }
        match fault {
            Some(error) => Err(error),
            None => unreachable!("record {} has no copy", record.seq),
        }
    }

    /// Groups of the records with fewer intact copies than are enough, on journal disks and on members: what
    /// was on its way at the stop, and what has rotted.
    pub(crate) fn thin(&self, is_enough: impl Fn(usize, usize) -> bool) -> Vec<Copies> {
        let mut groups: BTreeMap<Seq, Copies> = BTreeMap::new();
        for (member, all) in &self.found {
            let Some(disk) = self.disks.get(*member) else {
                continue;
            };
            for found in all.iter().filter(|found| found.intact) {
                let last = found.group.last();
                if last < self.replay.floor || last >= self.replay.next {
                    continue;
                }
                let first = found.group.head.first;
                let group = groups.entry(first).or_insert(Copies {
                    head: found.group.head,
                    last,
                    len: found.len(),
                    on: Vec::new(),
                });
                let at = zone(disk) + RING_OFFSET + found.position;
                group.on.push((Rc::clone(disk), at));
            }
        }
        let thin = groups.into_values();
        thin.filter(|group| {
            let (on_own, on_members) = group.count(|_| true);
            !is_enough(on_own, on_members)
        })
        .collect()
    }

    /// Zeroes the descriptors of what lies behind the records: its sequences are given again. The caller
    /// has made the floor durable in the headers, which only the tail may have told, flushes, and throws
    /// out the disks that are returned.
    pub(crate) async fn cut_tail(&self) -> Vec<(Rc<Disk>, IoError)> {
        let mut failed = Vec::new();
        for (member, position, _) in &self.replay.tail {
            let groups = self.found.iter().find(|(other, _)| other == member);
            let group = groups.and_then(|(_, all)| all.iter().find(|f| f.position == *position));
            if let (Some(disk), Some(found)) = (self.disks.get(*member), group) {
                let at = zone(disk) + RING_OFFSET + position;
                let zeros = Buf::zeroed(found.group.descriptor_len).freeze();
                let written = disk.write_at(at, zeros, WriteFlags::default()).await;
                failed.extend(written.err().map(|error| (Rc::clone(disk), error)));
            }
        }
        failed
    }

    /// Where the journal goes on, its records still in it.
    pub(crate) fn resume(&self) -> Resume {
        let rings = self.disks.iter().enumerate().map(|(member, disk)| {
            let live = self.replay.live.iter().find(|(other, _)| *other == member);
            let live = live.map(|(_, live)| live.clone()).unwrap_or_default();
            let ring = Ring::restore(ring_bytes(disk), live);
            (disk.ring_only.get(), disk.uuid, ring)
        });
        let (own_rings, rings) = split_rings(rings);
        debug_assert!(u64_of(rings.len()) > 0 && !self.array.is_nil());
        let mut next = self.replay.next;
        if self.lossy {
            let groups = self.found.iter().flat_map(|(_, groups)| groups);
            let newest = groups.map(|found| found.group.last()).fold(next, Seq::max);
            next = Seq(newest.0.saturating_add(LEFT_OUT));
        }
        Resume {
            epoch: self.epoch,
            next,
            floor: self.replay.floor,
            header_generation: self.header_generation,
            rings,
            own_rings,
        }
    }
}
