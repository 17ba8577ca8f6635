//! A client's flush around disks that are slow: what they alone would hold it up for is given to others.
//!
//! ```text
//!  acked, in caches ─▶ copies on prompt disks made up to R+1 ─▶ these flushed ─▶ enough of each group? ─▶ durable
//! ```
//!
//! Invariants
//! - A record counts as durable once R+1 disks have it durably, none of which is slow with a cache: whatever
//!   becomes of the slow ones takes nothing away, and as many disks as ever may go with them.
//! - Rows that were written past the journal are durable only where they lie: while one of them isn't
//!   flushed everywhere, a flush waits for every disk.
//! - A disk of which a flush has failed counts for nothing (fault D3).
//! - More copies are admitted like records, and never wait for room: if there is none, or too few disks answer,
//!   nothing is read or written, and the flush waits for the slow ones to answer or to be thrown out.
//! - What a disk was asked is followed to its end, also when it takes too long: an error throws it out.
//!
//! Does not know: rows, when a disk counts as slow, when it is thrown out.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use cairn_blockdev::{IoError, IoErrorKind, WriteFlags};
use futures_util::StreamExt;
use futures_util::future::{Either, join_all, select};
use futures_util::stream::FuturesUnordered;

use super::copies::Copies;
use super::entry::Seq;
use super::log::{Journal, ring_offset, some_becomes_slow};
use crate::array::Array;
use crate::array::disk::Disk;
use crate::mutation::{Mutation, on};

/// How long until it is tried again where it isn't possible now.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Groups that are given to others at once, each with its bytes in memory.
const GIVEN_AT_ONCE: usize = 4;

/// Whether what a disk says it has flushed counts.
fn is_sound(disk: &Disk) -> bool {
    !disk.out.get() && disk.failed_flush().is_none()
}

impl Array {
    /// Makes durable what was acked before this call. Waits for every disk, but for one that is slow only as
    /// long as others can't take its place.
    pub(crate) async fn flush_acked(self: &Rc<Self>) -> Result<(), IoErrorKind> {
        let Some(journal) = self.journal() else {
            return self.flush_all().await;
        };
        let (logged, bypassed) = (journal.logged(), self.unflushed.noted());
        let around = pin!(self.made_durable_around(&journal, logged, bypassed));
        match select(pin!(self.flush_all()), around).await {
            Either::Left((flushed, _)) => flushed,
            Either::Right(((), _)) => self.check_alive(),
        }
    }

    /// Waits until all below `logged` is durable although some disk is slow; for ever if it can't be.
    async fn made_durable_around(
        self: &Rc<Self>,
        journal: &Rc<Journal>,
        logged: Seq,
        bypassed: u64,
    ) {
        loop {
            let mut cached = self.flushed_disks();
            cached.retain(|disk| disk.has_write_cache());
            some_becomes_slow(&cached).await;
            if !self.unflushed.has_until(bypassed) {
                self.arounds
                    .pass(&self.env.spawn, || {
                        let array = Rc::clone(self);
                        Box::pin(array.flush_around())
                    })
                    .await;
                if journal.durable() >= logged {
                    self.settle().await;
                    return;
                }
            }
            self.env.clock.sleep(LOOK_EVERY).await;
        }
    }

    /// Makes durable what is logged by now, on disks that aren't slow; or nothing, if that can't be.
    async fn flush_around(self: Rc<Self>) {
        let Some(journal) = self.journal() else {
            return;
        };
        let logged = journal.logged();
        let mut groups = journal.cached_below(logged).into_iter();
        let mut under_way = FuturesUnordered::new();
        let mut all_given = true;
        loop {
            while all_given
                && under_way.len() < GIVEN_AT_ONCE
                && let Some(group) = groups.next()
            {
                under_way.push(self.give_to_others(&journal, group));
            }
            let Some(given) = under_way.next().await else {
                break;
            };
            all_given &= given;
        }
        if !all_given {
            return;
        }
        // Before the flush: a copy that comes later isn't durable by it.
        let groups = journal.cached_below(logged);
        let mut prompt = self.flushed_disks();
        prompt.retain(|disk| disk.has_write_cache() && !disk.is_slow());
        let flushes = prompt.iter().map(|disk| {
            let flushed = Rc::clone(disk);
            self.in_time(disk, async move { flushed.flush().await })
        });
        let answered = join_all(flushes).await;
        let flushed: Vec<&Rc<Disk>> = prompt
            .iter()
            .zip(answered)
            .filter_map(|(disk, answered)| answered.then_some(disk))
            .collect();
        let is_safe = |disk: &Disk| {
            let flushed = || {
                flushed
                    .iter()
                    .any(|other| std::ptr::eq(&raw const ***other, disk))
            };
            let durable = !disk.has_write_cache() || flushed() || on(Mutation::SlowDiskCounted);
            is_sound(disk) && durable
        };
        // From here on nothing awaits: who is safe stays so. A disk that joins and isn't has to join anew: it may lack what
        // counts as durable from now on.
        for disk in journal.joining() {
            if !is_safe(&disk) {
                journal.joins_no_more(&disk);
            }
        }
        let is_durable =
            |group: &Copies| journal.is_safe_already(group) || self.missing(group, is_safe) == 0;
        if groups.iter().all(is_durable) {
            journal.note_flushed(logged);
            self.cleared.flushed(journal.durable());
        }
    }

    /// Copies that a group lacks, of those on disks of which `counts` is true: on journal disks or on members,
    /// as copies on the one say nothing among those on the other.
    fn missing(&self, group: &Copies, counts: impl Fn(&Disk) -> bool) -> usize {
        let members = self.in_sync();
        let is_there = |disk: &Disk| {
            disk.ring_only.get() || members.iter().any(|member| member.uuid == disk.uuid)
        };
        let (on_own, on_members) = group.count(|disk| counts(disk) && is_there(disk));
        if on_own >= self.copies_wanted(usize::MAX) {
            return 0;
        }
        self.copies_wanted(members.len()).saturating_sub(on_members)
    }

    /// Sends a group to members that answer, so that enough have it of those that can be flushed. `false`: there
    /// aren't enough, or there is no room.
    async fn give_to_others(self: &Rc<Self>, journal: &Rc<Journal>, group: Copies) -> bool {
        // From before it is known to be needed still until the last write of it has landed.
        let first = group.head.first;
        let held = Rc::new((journal.keep_room(first), journal.hold(first)));
        if journal.is_safe_already(&group) {
            return true;
        }
        let missing = self.missing(&group, |disk| {
            let uncertain = disk.has_write_cache() && disk.is_slow();
            is_sound(disk) && (!uncertain || on(Mutation::SlowDiskCounted))
        });
        if missing == 0 {
            return true;
        }
        let can_take = |disk: &Rc<Disk>| {
            let answers = is_sound(disk) && !disk.is_slow();
            answers && !group.has(disk.uuid) && journal.has_room(disk, group.len)
        };
        let mut others = self.in_sync();
        others.retain(can_take);
        if others.len() < missing {
            return false;
        }
        let copies = self.geometry.redundancy() + 1;
        let Some(admission) = journal.try_admit_copies(group.len, missing, copies) else {
            return false;
        };
        let Some(bytes) = group.read_promptly().await else {
            return false;
        };
        if journal.is_safe_already(&group) {
            return true;
        }
        others.retain(can_take);
        if others.len() < missing {
            return false;
        }
        let placed = journal.place(&others, missing, group.len, group.last);
        journal.note_more_copies(admission);
        let writes = placed.into_iter().map(|(disk, position)| {
            let at = ring_offset(&disk) + position;
            let write = disk.write_at(at, bytes.clone(), WriteFlags::default());
            let (held, journal) = (Rc::clone(&held), Rc::clone(journal));
            async move {
                let on = Rc::clone(&disk);
                // Noted also when it lands late: it isn't given there once more then.
                let landed = async move {
                    let result = write.await;
                    if result.is_ok() {
                        journal.note_copy(first, on, at);
                    }
                    drop(held);
                    result
                };
                self.in_time(&disk, landed).await
            }
        });
        join_all(writes).await.into_iter().all(|landed| landed)
    }

    /// Whether an operation succeeds before its disk is slow. It is followed to its end in any case, and an
    /// error throws the disk out.
    async fn in_time(
        self: &Rc<Self>,
        disk: &Rc<Disk>,
        operation: impl Future<Output = Result<(), IoError>> + 'static,
    ) -> bool {
        let (array, of) = (Rc::clone(self), Rc::clone(disk));
        let followed = self.detached(async move {
            let result = operation.await;
            if let Err(error) = &result {
                array.write_failed(&of, error).await;
            }
            result.is_ok()
        });
        let slow = disk.flights().becomes_slow();
        match select(pin!(followed), pin!(slow)).await {
            Either::Left((succeeded, _)) => succeeded == Some(true),
            Either::Right(((), _)) => false,
        }
    }
}
