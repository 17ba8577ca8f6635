//! The journal at work: records are queued, leave in groups, and count once they and all before them
//! are on enough members.
//!
//! ```text
//!  push ─▶ queue ─▶ group ─▶ R+1 rings ─▶ logged ─▶ (flush) ─▶ durable ─▶ … ─▶ floor
//! ```
//!
//! Invariants
//! - A sequence is given in the same breath in which the record is queued; groups leave in order.
//! - `logged` is the end of the run of groups from the beginning that are on R+1 journal disks, or on R+1
//!   members, or on all living members if they are fewer. Copies on disks of the one kind don't count
//!   among those of the other: any R of each may be lost. Nor does a copy on a disk that was thrown out.
//! - Ring space and the admission that a record took are given back when the floor has passed it, and
//!   the floor is durable, and nothing of it is on its way (`room`).
//! - Data is admitted before it gets a sequence and to three quarters of the rings only, so that the
//!   records which applying needs always find room: the queue never waits for what waits for it.
//!
//! Does not know: rows, what a record means, when the floor may rise.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::rc::Rc;

use cairn_blockdev::units::{BLOCK_BYTES, u32_of, u64_of};
use cairn_blockdev::{IoErrorKind, SharedBuf, WriteFlags};
use futures_util::StreamExt;
use futures_util::future::{Either, select, select_all};
use futures_util::stream::FuturesUnordered;
use tokio::sync::Notify;
use uuid::Uuid;

use super::admission::{Admission, Admitted, admission_units, units_within};
use super::copies::Copies;
use super::entry::{Entry, Kind, Seq, Tag};
use super::group::{ENTRIES_MAX, Head, descriptor_bytes, encode, escape};
use super::header::RING_OFFSET;
use super::ring::Ring;
use crate::array::Array;
use crate::array::disk::Disk;
use crate::layout::ZoneKind;
use crate::memory::{MemoryShare, Quota};
use crate::mutation::{Mutation, on};

/// Payload of a group at most: large enough to be efficient, small enough not to make others wait.
const GROUP_PAYLOAD_MAX: usize = 1 << 20;
/// Payload of a record at most.
pub(crate) const RECORD_PAYLOAD_MAX: usize = GROUP_PAYLOAD_MAX;
/// Records of a group at most.
const GROUP_RECORDS_MAX: usize = 512;
/// Sums of a group at most, but for a single record that has more: 64 KiB of descriptor.
const GROUP_SUMS_MAX: usize = 16 << 10;
/// Groups on their way at once: one on the disks while the next one gathers.
const GROUPS_AT_ONCE: usize = 6;
/// Groups after one that went through the disks' caches which do, too: a stream's next complete row
/// comes within them.
const THROUGH_AFTER: u32 = 16;

const _: () = assert!(GROUP_RECORDS_MAX <= ENTRIES_MAX);

struct Queued {
    entry: Entry,
    payload: Vec<SharedBuf>,
    /// Somebody waits until it is durable: its group goes through the disks' caches.
    through: bool,
}

impl Queued {
    fn new(entry: Entry, payload: Vec<SharedBuf>) -> Self {
        Self {
            entry,
            payload,
            through: false,
        }
    }

    fn payload_len(&self) -> usize {
        self.payload.iter().map(|part| part.len()).sum()
    }
}

/// One lane's journal.
pub(crate) struct Journal {
    lane: u16,
    epoch: Cell<u64>,
    /// Given to the next record.
    next: Cell<Seq>,
    queue: RefCell<VecDeque<Queued>>,
    /// First sequence that no group has taken.
    taken: Cell<Seq>,
    groups: Cell<usize>,
    /// Groups that are logged beyond a gap: first sequence → the one after the last.
    beyond: RefCell<BTreeMap<Seq, Seq>>,
    /// Everything below is logged.
    logged: Cell<Seq>,
    /// Everything below is durable.
    durable: Cell<Seq>,
    /// Groups that are durable beyond a gap: first sequence → the one after the last.
    durable_beyond: RefCell<BTreeMap<Seq, Seq>>,
    /// Groups that are logged and not known to be durable, by their first sequence.
    cached: RefCell<BTreeMap<Seq, Copies>>,
    /// Everything below is in place and flushed.
    applied: Cell<Seq>,
    /// Everything below is needed by nobody and may be overwritten in the rings.
    floor: Cell<Seq>,
    /// Everything below is trimmed, and the floor that says so is durable.
    pub(super) trimmed: Cell<Seq>,
    /// Why nothing can be logged any more.
    pub(super) failed: Cell<Option<IoErrorKind>>,
    moved: Notify,
    pub(super) room: Notify,
    pub(super) rings: RefCell<BTreeMap<Uuid, Ring>>,
    pub(super) rotation: Cell<usize>,
    /// Groups whose room isn't given back yet, whatever the floor: first sequence → holders.
    pub(super) kept: RefCell<BTreeMap<Seq, usize>>,
    pub(super) admitted: RefCell<VecDeque<Admitted>>,
    pub(super) admission: Quota,
    /// What the rings take of it, however much memory there is.
    pub(super) rings_take: u32,
    header_generation: Cell<u64>,
    /// Records that nobody may trim: sequence → holders.
    holds: RefCell<BTreeMap<Seq, usize>>,
    /// Groups that still go through the disks' caches, for the sake of the next record that wants to.
    through_left: Cell<u32>,
    /// Disks that are about to be members, perhaps in the places of others: they get a copy of every group.
    pub(super) joining: RefCell<Vec<Rc<Disk>>>,
}

/// Keeps the floor from passing a record, until dropped.
pub(crate) struct Hold {
    journal: Rc<Journal>,
    seq: Seq,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut holds = self.journal.holds.borrow_mut();
        if let Some(count) = holds.get_mut(&self.seq) {
            *count -= 1;
            if *count == 0 {
                holds.remove(&self.seq);
            }
        }
    }
}

/// Where a journal goes on.
pub(crate) struct Resume {
    pub(crate) epoch: u64,
    /// The next record's sequence; everything before it is durable.
    pub(crate) next: Seq,
    pub(crate) floor: Seq,
    pub(crate) header_generation: u64,
    /// The members' rings.
    pub(crate) rings: BTreeMap<Uuid, Ring>,
    /// Those of the journal disks.
    pub(crate) own_rings: BTreeMap<Uuid, Ring>,
}

impl Entry {
    /// A record with bytes: each of its blocks has a sum.
    pub(crate) fn with_payload(kind: Kind, offset: u64, payload: &[u8]) -> Self {
        let sums = payload
            .chunks(BLOCK_BYTES)
            .map(cairn_blockdev::crc::crc32c)
            .collect();
        Self {
            payload_len: u32_of(payload.len()),
            ..Self::without_payload(kind, offset, u64_of(payload.len()), sums)
        }
    }

    /// A record of a range.
    pub(crate) fn without_payload(kind: Kind, offset: u64, len: u64, sums: Vec<u32>) -> Self {
        Self {
            kind,
            flags: 0,
            log: 0,
            log_seq: 0,
            offset,
            len,
            arg: 0,
            tag: Tag::default(),
            sums,
            payload_len: 0,
        }
    }
}

impl Journal {
    /// A journal of a new array.
    pub(crate) fn create(disks: &[Rc<Disk>], copies: usize, memory: MemoryShare) -> Rc<Self> {
        let rings = disks.iter().map(|disk| {
            let ring = Ring::new(ring_bytes(disk));
            (disk.ring_only.get(), disk.uuid, ring)
        });
        let (own_rings, rings) = split_rings(rings);
        let from = Resume {
            epoch: 1,
            next: Seq::FIRST,
            floor: Seq::FIRST,
            header_generation: 0,
            rings,
            own_rings,
        };
        Self::resume(from, copies, None, memory)
    }

    /// Leaves everything so far behind: the next header begins a new epoch, so many further on.
    ///
    /// # Panics
    /// If something isn't in place.
    pub(crate) fn begin_epoch(&self, step: u64) {
        assert_eq!(
            self.applied.get(),
            self.next.get(),
            "an epoch ends with records that aren't in place"
        );
        self.epoch.set(self.epoch.get() + step);
    }

    /// A journal that goes on from there, for groups on `copies` of the members, or of the journal disks.
    /// `smallest`: the smallest ring that one of these has, or may have when it comes back.
    pub(crate) fn resume(
        from: Resume,
        copies: usize,
        smallest: Option<u64>,
        memory: MemoryShare,
    ) -> Rc<Self> {
        let own = from.own_rings.values().map(Ring::len_bytes);
        let most = own.chain(smallest).min().unwrap_or(u64::MAX);
        let units = admission_units(&from.rings, copies, most);
        let mut rings = from.rings;
        rings.extend(from.own_rings);
        Rc::new(Self {
            lane: 0,
            epoch: Cell::new(from.epoch),
            next: Cell::new(from.next),
            queue: RefCell::default(),
            taken: Cell::new(from.next),
            groups: Cell::new(0),
            beyond: RefCell::default(),
            logged: Cell::new(from.next),
            durable: Cell::new(from.next),
            durable_beyond: RefCell::default(),
            cached: RefCell::default(),
            applied: Cell::new(from.floor),
            floor: Cell::new(from.floor),
            trimmed: Cell::new(from.floor),
            failed: Cell::new(None),
            moved: Notify::new(),
            room: Notify::new(),
            rings: RefCell::new(rings),
            rotation: Cell::new(0),
            kept: RefCell::default(),
            admitted: RefCell::default(),
            admission: Quota::new(units.min(units_within(memory.admitted_bytes()))),
            rings_take: units,
            header_generation: Cell::new(from.header_generation),
            holds: RefCell::default(),
            through_left: Cell::new(0),
            joining: RefCell::default(),
        })
    }

    /// The sequence that the next record will get.
    pub(crate) fn next(&self) -> Seq {
        self.next.get()
    }

    /// Everything below is trimmed.
    pub(crate) fn floor(&self) -> Seq {
        self.floor.get()
    }

    /// Everything below is trimmed, and the floor that says so is durable.
    pub(crate) fn trimmed_below(&self) -> Seq {
        self.trimmed.get()
    }

    /// From now on everything below is trimmed, once that is durable.
    pub(super) fn raise_floor(&self, floor: Seq) {
        self.floor.set(floor.max(self.floor.get()));
    }

    /// Epoch and generation of the next header.
    pub(super) fn next_header(&self) -> (u64, u64) {
        let generation = self.header_generation.get() + 1;
        self.header_generation.set(generation);
        (self.epoch.get(), generation)
    }

    /// Epoch and generation of the newest header.
    pub(super) fn last_header(&self) -> (u64, u64) {
        (self.epoch.get(), self.header_generation.get())
    }

    /// Everything below is in place and flushed.
    pub(crate) fn applied(&self) -> Seq {
        self.applied.get()
    }

    /// Everything below is in place and flushed.
    pub(crate) fn note_applied(&self, below: Seq) {
        self.applied.set(self.applied.get().max(below));
    }

    /// Keeps a record from being trimmed.
    pub(crate) fn hold(self: &Rc<Self>, seq: Seq) -> Hold {
        *self.holds.borrow_mut().entry(seq).or_default() += 1;
        Hold {
            journal: Rc::clone(self),
            seq,
        }
    }

    /// The lowest record that is held.
    pub(crate) fn first_held(&self) -> Option<Seq> {
        self.holds.borrow().keys().next().copied()
    }

    /// Waits until everything below `end` is logged.
    pub(crate) async fn logged_below(&self, end: Seq) -> Result<(), IoErrorKind> {
        loop {
            let moved = self.moved.notified();
            if self.logged.get() >= end {
                return Ok(());
            }
            if let Some(kind) = self.failed.get() {
                return Err(kind);
            }
            moved.await;
        }
    }

    fn note_logged(&self, first: Seq, end: Seq) {
        if on(Mutation::AckOutOfSequence) {
            self.logged.set(self.logged.get().max(end));
            self.moved.notify_waiters();
            return;
        }
        let mut beyond = self.beyond.borrow_mut();
        beyond.insert(first, end);
        while let Some(end) = beyond.remove(&self.logged.get()) {
            self.logged.set(end);
        }
        drop(beyond);
        self.moved.notify_waiters();
    }

    /// Takes the next group from the queue.
    fn take_group(&self) -> Option<(Seq, Vec<Queued>)> {
        let mut queue = self.queue.borrow_mut();
        let mut group = Vec::new();
        let (mut payload, mut sums) = (0, 0);
        while let Some(next) = queue.front() {
            let len = next.payload_len();
            let its_sums = next.entry.sums.len();
            let full = payload + len > GROUP_PAYLOAD_MAX
                || sums + its_sums > GROUP_SUMS_MAX
                || group.len() == GROUP_RECORDS_MAX;
            if full && !group.is_empty() {
                break;
            }
            payload += len;
            sums += its_sums;
            group.extend(queue.pop_front());
        }
        if group.is_empty() {
            return None;
        }
        let first = self.taken.get();
        self.taken.set(Seq(first.0 + u64_of(group.len())));
        Some((first, group))
    }

    /// Whether a group goes through the disks' caches. Where one had to, the next may have to, and
    /// would wait for a flush of all members if those before it hadn't.
    fn goes_through(&self, group: &[Queued]) -> bool {
        if group.iter().any(|queued| queued.through) {
            self.through_left.set(THROUGH_AFTER);
            return true;
        }
        let left = self.through_left.get();
        self.through_left.set(left.saturating_sub(1));
        left > 0
    }

    /// Everything that was logged before a flush of all members began is durable.
    pub(crate) fn note_flushed(&self, logged: Seq) {
        self.durable.set(self.durable.get().max(logged));
        self.join_durable();
    }

    /// A group went through the caches of enough disks.
    fn note_durable(&self, first: Seq, end: Seq) {
        self.durable_beyond.borrow_mut().insert(first, end);
        self.join_durable();
    }

    fn join_durable(&self) {
        let mut beyond = self.durable_beyond.borrow_mut();
        while let Some(run) = beyond
            .first_entry()
            .filter(|e| *e.key() <= self.durable.get())
        {
            self.durable.set(self.durable.get().max(run.remove()));
        }
        let mut cached = self.cached.borrow_mut();
        while let Some(group) = cached.first_entry()
            && group.get().last < self.durable.get()
        {
            group.remove();
        }
    }

    /// Groups below `end` that aren't known to be durable.
    pub(super) fn cached_below(&self, end: Seq) -> Vec<Copies> {
        let cached = self.cached.borrow();
        cached.range(..end).map(|(_, one)| one.clone()).collect()
    }

    /// Whether nothing can be lost with the group any more: it is durable, or trimmed.
    pub(super) fn is_safe_already(&self, group: &Copies) -> bool {
        group.last < self.durable.get().max(self.trimmed.get())
    }

    /// A group has come to be on one more disk.
    pub(super) fn note_copy(&self, first: Seq, disk: Rc<Disk>, at: u64) {
        if disk.out.get() {
            return;
        }
        if let Some(group) = self.cached.borrow_mut().get_mut(&first) {
            group.on.push((disk, at));
        }
    }

    /// A disk was thrown out: whatever it has doesn't count, and nothing here keeps its device open.
    pub(crate) fn forget_copies(&self, disk: &Rc<Disk>) {
        for group in self.cached.borrow_mut().values_mut() {
            group.on.retain(|(other, _)| !Rc::ptr_eq(other, disk));
        }
    }

    /// Everything below is durable.
    pub(crate) fn durable(&self) -> Seq {
        self.durable.get()
    }

    /// Everything below is logged.
    pub(crate) fn logged(&self) -> Seq {
        self.logged.get()
    }

    /// Gives a disk that became a member its place in the journal.
    pub(crate) fn add_ring(&self, disk: &Disk) {
        let mut rings = self.rings.borrow_mut();
        rings
            .entry(disk.uuid)
            .or_insert_with(|| Ring::new(ring_bytes(disk)));
    }

    /// Whether a disk has its place in the journal.
    pub(crate) fn has_ring(&self, disk: &Disk) -> bool {
        self.rings.borrow().contains_key(&disk.uuid)
    }

    /// Nothing can be logged any more: everybody who waits is told.
    pub(crate) fn fail(&self, kind: IoErrorKind) {
        self.failed.set(Some(kind));
        self.admission.close();
        self.moved.notify_waiters();
        self.room.notify_waiters();
    }
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rings = self.rings.borrow();
        let free: Vec<u64> = rings.values().map(Ring::free_bytes).collect();
        write!(
            f,
            "journal floor {} applied {} durable {} logged {} taken {} next {}, queued {}, groups {}, \
             held {:?}, room kept from {:?}, admission {} of {} blocks, free {free:?}",
            self.floor.get().0,
            self.applied.get().0,
            self.durable.get().0,
            self.logged.get().0,
            self.taken.get().0,
            self.next.get().0,
            self.queue.borrow().len(),
            self.groups.get(),
            self.first_held(),
            self.kept.borrow().keys().next(),
            self.admission.free(),
            self.admission.size(),
        )
    }
}

/// Waits until one of the disks, which aren't slow, is; for ever if there are none.
pub(super) async fn some_becomes_slow(disks: &[Rc<Disk>]) {
    if disks.is_empty() {
        return std::future::pending().await;
    }
    let slow = disks
        .iter()
        .map(|disk| Box::pin(disk.flights().becomes_slow()));
    select_all(slow).await;
}

/// Bytes of a disk's ring.
pub(crate) fn ring_bytes(disk: &Disk) -> u64 {
    let layout = disk.layout.get().unwrap_or_default();
    layout
        .zone(ZoneKind::Journal)
        .len
        .saturating_sub(RING_OFFSET)
}

/// Where a disk's ring begins.
pub(super) fn ring_offset(disk: &Disk) -> u64 {
    let layout = disk.layout.get().unwrap_or_default();
    layout.zone(ZoneKind::Journal).offset + RING_OFFSET
}

/// The rings of journal disks and those of members.
pub(crate) fn split_rings(
    rings: impl Iterator<Item = (bool, Uuid, Ring)>,
) -> (BTreeMap<Uuid, Ring>, BTreeMap<Uuid, Ring>) {
    let (own, members): (Vec<_>, Vec<_>) = rings.partition(|(is_own, ..)| *is_own);
    let map = |rings: Vec<(bool, Uuid, Ring)>| {
        let rings = rings.into_iter();
        rings.map(|(_, disk, ring)| (disk, ring)).collect()
    };
    (map(own), map(members))
}

impl Array {
    /// Queues a record and gives it the next sequence.
    pub(crate) fn log(
        self: &Rc<Self>,
        journal: &Rc<Journal>,
        entry: Entry,
        payload: Vec<SharedBuf>,
        admission: Option<Admission>,
    ) -> Seq {
        self.enqueue(journal, Queued::new(entry, payload), admission)
    }

    /// The same for a record that is wanted durable soon: once it is logged, it and those that are
    /// queued with it are durable, and [`Journal::durable`] tells whether all before them are.
    pub(crate) fn log_through(
        self: &Rc<Self>,
        journal: &Rc<Journal>,
        entry: Entry,
        admission: Admission,
    ) -> Seq {
        let queued = Queued {
            through: true,
            ..Queued::new(entry, Vec::new())
        };
        self.enqueue(journal, queued, Some(admission))
    }

    fn enqueue(
        self: &Rc<Self>,
        journal: &Rc<Journal>,
        queued: Queued,
        admission: Option<Admission>,
    ) -> Seq {
        let seq = journal.next.get();
        journal.next.set(Seq(seq.0 + 1));
        if let Some(admission) = admission {
            journal.note_admitted(seq, admission);
        }
        journal.queue.borrow_mut().push_back(queued);
        if journal.groups.get() < GROUPS_AT_ONCE {
            journal.groups.set(journal.groups.get() + 1);
            let (array, journal) = (Rc::clone(self), Rc::clone(journal));
            self.env.spawn.spawn(Box::pin(async move {
                while let Some((first, group)) = journal.take_group() {
                    array.write_group(&journal, first, group).await;
                }
                journal.groups.set(journal.groups.get() - 1);
            }));
        }
        seq
    }

    /// Copies of a group on disks of which so many live that make it logged: as many as can be lost, and one.
    pub(crate) fn copies_wanted(&self, living: usize) -> usize {
        let all = self.geometry.redundancy() + 1;
        let all = if on(Mutation::OneCopyTooFew) {
            all - 1
        } else {
            all
        };
        all.min(living)
    }

    /// Whether a group that so many journal disks have can come to be on enough of them soon.
    fn journal_disks_take(&self, disks: &[Rc<Disk>], copies: &[(Rc<Disk>, u64)]) -> bool {
        let has = |disk: &Rc<Disk>| copies.iter().any(|(copy, _)| Rc::ptr_eq(copy, disk));
        let takers = disks.iter().filter(|disk| !disk.is_slow() || has(disk));
        takers.count() >= self.copies_wanted(usize::MAX)
    }

    /// Writes a group to enough journal disks, or to enough members; goes on to others where one fails or is
    /// slow.
    async fn write_group(self: &Rc<Self>, journal: &Rc<Journal>, first: Seq, group: Vec<Queued>) {
        let end = Seq(first.0 + u64_of(group.len()));
        let last = Seq(end.0 - 1);
        // No place is given to another group while a write of this one is on its way to it.
        let kept = journal.keep_room(first);
        let through = journal.goes_through(&group);
        let (head, bytes) = self.encode_group(journal, first, group);
        let len = u64_of(bytes.len());
        let mut copies: Vec<(Rc<Disk>, u64)> = Vec::new();
        let mut asked: Vec<Rc<Disk>> = Vec::new();
        let mut writes = FuturesUnordered::new();
        let mut on_own = true;
        loop {
            let room = journal.room.notified();
            copies.retain(|(disk, _)| !disk.out.get());
            let mut living = self.rings_of_their_own(journal);
            if on_own && !self.journal_disks_take(&living, &copies) {
                // All of it is the members' now: a copy on the one doesn't stand for one on the other.
                on_own = false;
                if !on(Mutation::CopiesMixed) {
                    copies.clear();
                }
                asked.clear();
            }
            let wanted = if on_own {
                self.copies_wanted(usize::MAX)
            } else {
                living = self.in_sync();
                self.copies_wanted(living.len())
            };
            if wanted == 0 {
                // Whoever was thrown out last has broken the array: said before anybody gets an error.
                self.settle().await;
            }
            if self.check_alive().is_err() || wanted == 0 {
                journal.fail(IoErrorKind::Lost);
                return;
            }
            // A member that was replaced meanwhile keeps its copy to itself.
            let counts = |disk: &Rc<Disk>| {
                living.iter().any(|one| Rc::ptr_eq(one, disk)) || on(Mutation::CopiesMixed)
            };
            let logged = copies.iter().filter(|(disk, _)| counts(disk)).count();
            let mut owed = if on_own {
                Vec::new()
            } else {
                journal.joining()
            };
            owed.retain(|disk| !copies.iter().any(|(copy, _)| Rc::ptr_eq(copy, disk)));
            if logged >= wanted && owed.is_empty() {
                break;
            }
            let prompt: Vec<Rc<Disk>> = asked
                .iter()
                .filter(|disk| !disk.is_slow() && !disk.out.get())
                .map(Rc::clone)
                .collect();
            let promised = prompt.iter().filter(|disk| counts(disk)).count();
            let more = wanted.saturating_sub(logged + promised);
            let mut others = living;
            let known = || copies.iter().map(|(disk, _)| disk).chain(&asked);
            others.retain(|disk| known().all(|has| has.uuid != disk.uuid));
            if others.iter().any(|disk| !disk.is_slow()) || !asked.is_empty() {
                others.retain(|disk| !disk.is_slow());
            }
            let mut placed = journal.place(&others, more, len, last);
            owed.retain(|disk| !asked.iter().any(|one| Rc::ptr_eq(one, disk)));
            let is_full = journal.place_joining(owed, &mut placed, len, last);
            if is_full && placed.is_empty() && asked.is_empty() {
                continue;
            }
            if placed.is_empty() && asked.is_empty() {
                // Applying is under way and gives room, or the array fails: both wake this.
                self.kick_apply();
                if writes.is_empty() {
                    room.await;
                    continue;
                }
            }
            for (disk, position) in placed {
                let at = ring_offset(&disk) + position;
                let write = disk.write_at(at, bytes.clone(), WriteFlags { fua: through });
                asked.push(Rc::clone(&disk));
                writes.push(async move { (disk, at, write.await) });
            }
            let (slow, room) = (pin!(some_becomes_slow(&prompt)), pin!(room));
            let next = select(writes.next(), select(slow, room)).await;
            if let Either::Left((Some((disk, at, result)), _)) = next {
                asked.retain(|other| !Rc::ptr_eq(other, &disk));
                match result {
                    Ok(()) if disk.ring_only.get() == on_own || on(Mutation::CopiesMixed) => {
                        copies.push((disk, at));
                    }
                    // Too late for the journal disks: the members take it.
                    Ok(()) => {}
                    // Durable before the ack. Not waited for here: the other writes go on.
                    Err(error) => {
                        disk.count_error(&error);
                        self.throw_out(&disk, &error.to_string());
                    }
                }
            }
        }
        if through {
            journal.note_durable(first, end);
        } else {
            let on = copies;
            let group = Copies {
                head,
                last,
                len,
                on,
            };
            journal.cached.borrow_mut().insert(first, group);
        }
        journal.note_logged(first, end);
        if !writes.is_empty() {
            let (array, hold) = (Rc::clone(self), journal.hold(first));
            self.env.spawn.spawn(Box::pin(async move {
                while let Some((disk, _, result)) = writes.next().await {
                    if let Err(error) = result {
                        array.write_failed(&disk, &error).await;
                    }
                }
                drop((hold, kept));
            }));
        }
    }

    fn encode_group(&self, journal: &Journal, first: Seq, group: Vec<Queued>) -> (Head, SharedBuf) {
        let (entries, payloads): (Vec<Entry>, Vec<Vec<SharedBuf>>) = group
            .into_iter()
            .map(|queued| (queued.entry, queued.payload))
            .unzip();
        let head = Head {
            array: self.uuid(),
            epoch: journal.epoch.get(),
            lane: journal.lane,
            first,
            durable_through: Seq(journal.durable.get().0.saturating_sub(1)),
            floor: journal.floor.get(),
        };
        let descriptor = descriptor_bytes(&entries);
        let payload: usize = payloads.iter().flatten().map(|part| part.len()).sum();
        let mut buf = self.pool.take(descriptor + payload);
        encode(&head, &entries, &mut buf);
        let mut rest: &mut [u8] = buf.get_mut(descriptor..).unwrap_or_default();
        for part in payloads.iter().flatten() {
            let (to, tail) = rest.split_at_mut(part.len());
            to.copy_from_slice(part);
            escape(to);
            rest = tail;
        }
        (head, buf.freeze())
    }
}
