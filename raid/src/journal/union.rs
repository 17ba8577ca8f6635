//! What the rings of all in-sync members say together.
//!
//! A record counts if any member has a copy of it whose payload is intact. From the floor on the
//! records must follow each other; where they stop, the journal ends. Below `durable_through` they
//! can't stop: an end there is rot beyond the copies, and refused. Above it an end is the torn tail
//! of a crash, never acked as durable, and dropped with everything behind it.
//!
//! Invariants
//! - The floor is the highest that the caller or any descriptor knows: a descriptor is true when it
//!   is cut, even if its payload never came. The caller makes [`Replay::floor`] durable *before* it
//!   zeroes the tail, which may hold the only mention of it.
//! - `durable_through` counts wherever it is found, in the torn tail too.
//! - A group is wholly in or wholly out: its copies are the same bytes.
//!
//! Does not know: disks, what the entries do, which members are in sync.

use std::collections::BTreeMap;

use super::entry::{Entry, Seq};
use super::ring::LiveGroup;
use super::scan::Found;

/// A record and where it can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// Its sequence.
    pub(crate) seq: Seq,
    /// What it says.
    pub(crate) entry: Entry,
    /// Its intact copies: member, as the caller named it; group, in that member's list; entry, in
    /// that group. Never none.
    pub(crate) copies: Vec<(usize, usize, usize)>,
}

/// What is to be replayed, and what is to be done with the rings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Replay {
    /// The highest floor known; the records begin here.
    pub(crate) floor: Seq,
    /// The records, each sequence from the floor on, none left out.
    pub(crate) records: Vec<Record>,
    /// The first sequence behind them.
    pub(crate) next: Seq,
    /// The highest seen; below `next`.
    pub(crate) durable_through: Seq,
    /// Groups, intact or not, that lie behind the records: member, position, bytes. Their
    /// descriptors must be zeroed, and that flushed, before a sequence from `next` on is written.
    pub(crate) tail: Vec<(usize, u64, u64)>,
    /// Each member's intact groups of the records, for `Ring::restore`. A copy that isn't intact is
    /// free space.
    pub(crate) live: Vec<(usize, Vec<LiveGroup>)>,
}

/// Why the journal can't be replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReplayError {
    /// No intact copy of a record is left that was durable on R+1 members.
    #[error(
        "journal: no member has an intact copy of record {seq}, though everything through \
         {durable_through} was on enough of them: find the missing members"
    )]
    Hole {
        /// The first record missing.
        seq: Seq,
        /// What was known to be durable.
        durable_through: Seq,
    },
    /// Two intact copies of a record say different things.
    #[error(
        "journal: members {one} and {other} have different records {seq}: one of them is stale or \
         a foreign disk; take it out"
    )]
    Conflict {
        /// The record.
        seq: Seq,
        /// A member, as the caller named it.
        one: usize,
        /// Another, or the same if its ring holds both.
        other: usize,
    },
}

/// An intact group on one of the members.
struct Copy<'a> {
    member: usize,
    index: usize,
    found: &'a Found,
}

/// The union of the copies that the members hold, from `floor` on.
pub(crate) fn union(members: &[(usize, Vec<Found>)], floor: Seq) -> Result<Replay, ReplayError> {
    up_to_a_gap(members, floor, false)
}

/// As [`union`]. `lossy`: also what was durable may end early.
pub(crate) fn up_to_a_gap(
    members: &[(usize, Vec<Found>)],
    floor: Seq,
    lossy: bool,
) -> Result<Replay, ReplayError> {
    let heads = || {
        members
            .iter()
            .flat_map(|(_, found)| found.iter().map(|found| &found.group.head))
    };
    let floor = heads().map(|head| head.floor).fold(floor, Seq::max);
    let durable_through = heads()
        .map(|head| head.durable_through)
        .fold(Seq::NONE, Seq::max);
    let (records, next) = records(members, floor, false)?;
    if durable_through >= next && !lossy {
        return Err(ReplayError::Hole {
            seq: next,
            durable_through,
        });
    }
    let mut tail = Vec::new();
    let mut live = Vec::new();
    for (member, found) in members {
        let mut kept = Vec::new();
        for found in found {
            let last = found.group.last();
            if last >= next {
                tail.push((*member, found.position, found.len()));
            } else if found.intact && last >= floor {
                kept.push((found.position, found.len(), last));
            }
        }
        live.push((*member, kept));
    }
    Ok(Replay {
        floor,
        records,
        next,
        durable_through,
        tail,
        live,
    })
}

/// The records that the members hold, from `floor` on, also behind holes: to be looked at, never to be
/// replayed. And whether nothing that was durable is missing.
pub(crate) fn all_there_is(
    members: &[(usize, Vec<Found>)],
    floor: Seq,
) -> Result<(Replay, bool), ReplayError> {
    let complete = match union(members, floor) {
        Ok(replay) => return Ok((replay, true)),
        Err(ReplayError::Hole { .. }) => false,
        Err(error) => return Err(error),
    };
    let heads = || {
        members
            .iter()
            .flat_map(|(_, found)| found)
            .map(|found| &found.group.head)
    };
    let floor = heads().map(|head| head.floor).fold(floor, Seq::max);
    let (records, next) = records(members, floor, true)?;
    let replay = Replay {
        floor,
        records,
        next,
        durable_through: heads()
            .map(|head| head.durable_through)
            .fold(Seq::NONE, Seq::max),
        tail: Vec::new(),
        live: Vec::new(),
    };
    Ok((replay, complete))
}

/// The records from `floor` on, for as long as they follow each other or, if asked for, also behind
/// holes; and the sequence behind them.
fn records(
    members: &[(usize, Vec<Found>)],
    floor: Seq,
    behind_holes: bool,
) -> Result<(Vec<Record>, Seq), ReplayError> {
    let mut copies: Vec<Copy> = Vec::new();
    for (member, found) in members {
        for (index, found) in found.iter().enumerate() {
            if found.intact && found.group.last() >= floor {
                copies.push(Copy {
                    member: *member,
                    index,
                    found,
                });
            }
        }
    }
    // Stable: the copies of a group stay in the order of the members.
    copies.sort_by_key(|copy| copy.found.group.head.first);
    let mut records: BTreeMap<Seq, Record> = BTreeMap::new();
    let mut next = floor;
    for Copy {
        member,
        index,
        found,
    } in copies
    {
        let group = &found.group;
        if group.head.first > next && !behind_holes {
            break;
        }
        for (at, entry) in group.entries.iter().enumerate() {
            let seq = group.head.first.plus(at);
            if seq < floor {
                continue;
            }
            let record = records.entry(seq).or_insert_with(|| Record {
                seq,
                entry: entry.clone(),
                copies: Vec::new(),
            });
            if record.entry != *entry {
                let one = record.copies.first().map_or(member, |copy| copy.0);
                return Err(ReplayError::Conflict {
                    seq,
                    one,
                    other: member,
                });
            }
            record.copies.push((member, index, at));
        }
        next = next.max(group.last().plus(1));
    }
    Ok((records.into_values().collect(), next))
}
