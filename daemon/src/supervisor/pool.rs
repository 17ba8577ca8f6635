//! The host's pool of spares: which disks it has, and which of them are free.
//!
//! Values only: [`spares`](super::spares) looks at disks, opens them and writes their labels.
//!
//! Invariants
//! - A disk is reserved for one taker at a time, and only a ready one.
//! - Of the disks that are large enough the smallest is given.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cairn_api::{Array, ArrayState, HostSpares, MemberState};
use cairn_raid::HostSpare;
use uuid::Uuid;

use super::returning::Connection;

/// Disks that a pool may have: it is looked through for every array every few seconds.
pub(super) const POOL_MAX: usize = 256;
/// A disk that couldn't be taken isn't tried again before.
const UNFIT_FOR: Duration = Duration::from_mins(5);
/// An array that couldn't take a disk, for reasons of its own, isn't given another before.
const REFUSED_FOR: Duration = Duration::from_mins(1);

/// How a disk of the pool fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PoolState {
    /// Open for the daemon alone, and free. As what it was connected then.
    Ready(Option<Connection>),
    /// Somebody is about to take it or to remove it: who, for people.
    Reserved(String),
    /// It is not where it was last seen.
    Missing,
    /// It is there and can't be used: why, and since when.
    Unfit(String, Instant),
}

/// A disk of the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PoolDisk {
    /// What is on it.
    pub(super) label: HostSpare,
    /// Where it is, or was last seen.
    pub(super) path: PathBuf,
    /// Its size; that in its label while it isn't there.
    pub(super) size_bytes: u64,
    /// How it fares.
    pub(super) state: PoolState,
    /// An array was about to take it when the daemon ended.
    pub(super) was_taking: bool,
    /// That it is missing was told.
    pub(super) told: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pool {
    disks: BTreeMap<Uuid, PoolDisk>,
    /// Arrays that couldn't take a disk, and when.
    refused: BTreeMap<Uuid, Instant>,
    /// Disks with a label that isn't for this pool, that were told of.
    strangers: BTreeSet<Uuid>,
}

impl Pool {
    pub(super) fn insert(&mut self, disk: PoolDisk) {
        self.disks.insert(disk.label.uuid, disk);
    }

    pub(super) fn remove(&mut self, uuid: Uuid) -> Option<PoolDisk> {
        self.disks.remove(&uuid)
    }

    pub(super) fn get(&self, uuid: Uuid) -> Option<&PoolDisk> {
        self.disks.get(&uuid)
    }

    pub(super) fn disks(&self) -> Vec<PoolDisk> {
        self.disks.values().cloned().collect()
    }

    pub(super) fn set_state(&mut self, uuid: Uuid, state: PoolState) {
        if let Some(disk) = self.disks.get_mut(&uuid) {
            disk.state = state;
        }
    }

    /// That a missing disk is told of: true the first time.
    pub(super) fn tell_missing(&mut self, uuid: Uuid) -> bool {
        let disk = self.disks.get_mut(&uuid);
        disk.is_some_and(|disk| !std::mem::replace(&mut disk.told, true))
    }

    /// That a disk with a label for another pool, or a copy, was seen: true the first time.
    pub(super) fn tell_stranger(&mut self, uuid: Uuid) -> bool {
        self.strangers.len() < POOL_MAX && self.strangers.insert(uuid)
    }

    /// Takes the smallest free disk of at least `need_bytes` out of the others' reach.
    pub(super) fn reserve(&mut self, need_bytes: u64, whom: &str) -> Option<PoolDisk> {
        let free = self.disks.values_mut().filter(|disk| disk.is_ready());
        let fitting = free.filter(|disk| disk.size_bytes >= need_bytes);
        let disk = fitting.min_by_key(|disk| (disk.size_bytes, disk.label.uuid))?;
        let given = disk.clone();
        disk.state = PoolState::Reserved(whom.to_owned());
        Some(given)
    }

    /// The same with a disk that was named. `Err`: how it fares instead.
    pub(super) fn reserve_this(&mut self, uuid: Uuid, whom: &str) -> Result<PoolDisk, String> {
        let Some(disk) = self.disks.get_mut(&uuid) else {
            return Err("it has left the pool".into());
        };
        if let PoolState::Reserved(other) = &disk.state {
            return Err(format!("{other} is about to take it"));
        }
        let given = disk.clone();
        disk.state = PoolState::Reserved(whom.to_owned());
        Ok(given)
    }

    /// What the pool has for the taker `whom`, whose disks must have `need_bytes`: what is free, and what
    /// is on its way to him.
    pub(super) fn offer(&self, need_bytes: u64, whom: &str) -> HostSpares {
        let his = |disk: &&PoolDisk| match &disk.state {
            PoolState::Ready(_) => true,
            PoolState::Reserved(taker) => taker == whom,
            PoolState::Missing | PoolState::Unfit(..) => false,
        };
        let ready = self.disks.values().filter(his);
        let (fitting, small): (Vec<_>, Vec<_>) =
            ready.partition(|disk| disk.size_bytes >= need_bytes);
        let count = |disks: &[&PoolDisk]| u32::try_from(disks.len()).unwrap_or(u32::MAX);
        HostSpares {
            fitting: count(&fitting),
            too_small: count(&small),
            too_small_bytes: small.iter().map(|disk| disk.size_bytes).max().unwrap_or(0),
            need_bytes,
        }
    }

    pub(super) fn note_refused(&mut self, array: Uuid, now: Instant) {
        self.refused.insert(array, now);
    }

    /// Whether an array is to be given a disk again.
    pub(super) fn may_ask(&mut self, array: Uuid, now: Instant) -> bool {
        let recent = |at: &Instant| now.saturating_duration_since(*at) < REFUSED_FOR;
        self.refused.retain(|_, at| recent(at));
        !self.refused.contains_key(&array)
    }

    /// Disks that are to be tried again.
    pub(super) fn to_retry(&self, now: Instant) -> Vec<PoolDisk> {
        let due = |disk: &&PoolDisk| match &disk.state {
            PoolState::Unfit(_, since) => now.saturating_duration_since(*since) >= UNFIT_FOR,
            _ => false,
        };
        self.disks.values().filter(due).cloned().collect()
    }

    /// Whether a disk of the pool may turn up.
    pub(super) fn misses_some(&self) -> bool {
        let mut disks = self.disks.values();
        disks.any(|disk| disk.state == PoolState::Missing)
    }
}

impl PoolDisk {
    pub(super) fn is_ready(&self) -> bool {
        matches!(self.state, PoolState::Ready(_))
    }

    /// Whether it is where its path says.
    pub(super) fn is_here(&self) -> bool {
        self.state != PoolState::Missing
    }

    pub(super) fn is_at(&self, path: &Path) -> bool {
        self.path == path
    }

    /// In the words of members' states.
    pub(super) fn shown_state(&self) -> MemberState {
        match self.state {
            PoolState::Ready(_) | PoolState::Reserved(_) => MemberState::Spare,
            PoolState::Missing => MemberState::Missing,
            PoolState::Unfit(..) => MemberState::Failed,
        }
    }
}

/// Whether an array has a slot that nobody fills, and no spare of its own for it.
pub(super) fn wants_disk(array: &Array) -> bool {
    if !matches!(array.state, ArrayState::Degraded | ArrayState::Rebuilding) {
        return false;
    }
    let slots: BTreeSet<u32> = array.members.iter().map(|member| member.slot).collect();
    let seen_to = |state| {
        matches!(
            state,
            MemberState::InSync | MemberState::Rebuilding | MemberState::Replacing
        )
    };
    let filled: BTreeSet<u32> = array
        .members
        .iter()
        .filter(|member| seen_to(member.state))
        .map(|member| member.slot)
        .collect();
    let own = array.spares.iter();
    let own = own.filter(|spare| spare.state == MemberState::Spare);
    slots.len().saturating_sub(filled.len()) > own.count()
}

#[cfg(test)]
mod tests {
    use cairn_api::{ErrorCounters, Spare};

    use super::*;
    use crate::health::tests::array;

    fn disk(n: u128, size_bytes: u64) -> PoolDisk {
        PoolDisk {
            label: HostSpare {
                uuid: Uuid::from_u128(n),
                host: Uuid::nil(),
                disk_bytes: size_bytes,
                since_ms: 0,
            },
            path: format!("/p{n}").into(),
            size_bytes,
            state: PoolState::Ready(None),
            was_taking: false,
            told: false,
        }
    }

    fn pool(sizes: &[u64]) -> Pool {
        let mut pool = Pool::default();
        for (n, size) in (1..).zip(sizes) {
            pool.insert(disk(n, *size));
        }
        pool
    }

    #[test]
    fn the_smallest_disk_that_is_large_enough_is_given_and_to_one_taker_only() {
        let mut pool = pool(&[500, 100, 200]);
        assert_eq!(pool.reserve(101, "a").unwrap().size_bytes, 200);
        assert_eq!(pool.reserve(101, "b").unwrap().size_bytes, 500);
        assert_eq!(pool.reserve(101, "c"), None, "100 is too small");
        assert_eq!(pool.reserve(100, "c").unwrap().size_bytes, 100);
        let taken = pool.reserve_this(Uuid::from_u128(1), "d").unwrap_err();
        assert!(taken.contains("b is about to take it"), "{taken}");
    }

    #[test]
    fn only_disks_that_are_ready_are_offered() {
        let mut pool = pool(&[500, 100, 200, 90]);
        pool.set_state(Uuid::from_u128(1), PoolState::Missing);
        let unfit = PoolState::Unfit("EIO".into(), Instant::now());
        pool.set_state(Uuid::from_u128(3), unfit);
        let offer = pool.offer(150, "a");
        assert_eq!((offer.fitting, offer.too_small), (0, 2));
        assert_eq!((offer.too_small_bytes, offer.need_bytes), (100, 150));
        assert_eq!(pool.reserve(150, "a"), None);
        assert!(pool.misses_some());
        assert_eq!(pool.offer(95, "a").fitting, 1);
        pool.reserve(95, "a").unwrap();
        assert_eq!(pool.offer(95, "a").fitting, 1, "it is on its way");
        assert_eq!(pool.offer(95, "b").fitting, 0);
    }

    #[test]
    fn a_disk_that_could_not_be_taken_is_tried_again_later() {
        let mut pool = pool(&[500]);
        let now = Instant::now();
        pool.set_state(Uuid::from_u128(1), PoolState::Unfit("EIO".into(), now));
        assert_eq!(pool.to_retry(now), []);
        assert_eq!(pool.to_retry(now + UNFIT_FOR).len(), 1);
        let one = Uuid::from_u128(9);
        pool.note_refused(one, now);
        assert!(!pool.may_ask(one, now) && pool.may_ask(Uuid::nil(), now));
        assert!(pool.may_ask(one, now + REFUSED_FOR));
    }

    #[test]
    fn an_array_asks_for_a_disk_when_a_slot_is_left_to_nobody() {
        let mut pool = array("pool");
        assert!(!wants_disk(&pool));
        pool.state = ArrayState::Degraded;
        pool.members[1].state = MemberState::Failed;
        assert!(wants_disk(&pool));
        pool.spares.push(Spare {
            path: "/s".into(),
            uuid: "s".into(),
            state: MemberState::Spare,
            journal: false,
            errors: ErrorCounters::default(),
        });
        assert!(!wants_disk(&pool), "it has a spare of its own");
        pool.members[2].state = MemberState::Missing;
        assert!(wants_disk(&pool), "for one of the two slots");
        pool.spares.clear();
        pool.state = ArrayState::Rebuilding;
        pool.members[2].state = MemberState::Rebuilding;
        assert!(wants_disk(&pool), "the other one is being filled");
        pool.members[1].state = MemberState::Rebuilding;
        assert!(!wants_disk(&pool));
        pool.members[1].state = MemberState::Failed;
        pool.state = ArrayState::Incomplete;
        assert!(!wants_disk(&pool), "it can't rebuild anything");
    }

    #[test]
    fn what_is_missing_or_strange_is_told_once() {
        let mut pool = pool(&[1]);
        let one = Uuid::from_u128(1);
        assert!(pool.tell_missing(one) && !pool.tell_missing(one));
        assert!(pool.tell_stranger(one) && !pool.tell_stranger(one));
        assert!(!pool.tell_missing(Uuid::nil()));
    }
}
