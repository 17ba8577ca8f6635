use std::collections::BTreeSet;

use super::*;
use crate::journal::group::decode;
use crate::journal::ring::Ring;
use crate::journal::scan::Found;
use crate::journal::union::{ReplayError, union};

/// A group of `entries` barriers; `arg` makes them differ.
fn found(position: u64, head: Head, entries: usize, arg: u64, intact: bool) -> Found {
    let entry = Entry {
        arg,
        ..bare(Kind::Barrier, Vec::new())
    };
    let group = decode(&bytes_of(&head, &vec![entry; entries], &[])).unwrap();
    let end = position + group.bytes() as u64;
    Found {
        position,
        group,
        payload: end..end,
        intact,
    }
}

fn known(first: u64, durable_through: u64, floor: u64) -> Head {
    Head {
        durable_through: Seq(durable_through),
        floor: Seq(floor),
        ..head(first)
    }
}

/// One entry at sequence `first`, nothing known to be durable.
fn one(position: u64, first: u64, intact: bool) -> Found {
    found(position, known(first, 0, 1), 1, first, intact)
}

fn seqs(members: &[(usize, Vec<Found>)], floor: u64) -> Vec<u64> {
    let replay = union(members, Seq(floor)).unwrap();
    replay.records.iter().map(|record| record.seq.0).collect()
}

#[test]
fn an_empty_journal_goes_on_at_its_floor() {
    let replay = union(&[(0, vec![]), (1, vec![])], Seq(40)).unwrap();
    assert_eq!((replay.records, replay.next), (vec![], Seq(40)));
    assert_eq!(replay.live, [(0, vec![]), (1, vec![])]);
}

#[test]
fn a_torn_copy_hides_neither_a_good_one_nor_what_follows_it() {
    let members = [
        (2, vec![one(0, 1, false), one(4096, 2, true)]),
        (5, vec![one(0, 1, true), one(4096, 3, true)]),
    ];
    let replay = union(&members, Seq(1)).unwrap();
    let copies: Vec<_> = replay.records.iter().map(|r| r.copies.clone()).collect();
    assert_eq!(copies, [vec![(5, 0, 0)], vec![(2, 1, 0)], vec![(5, 1, 0)]]);
    assert_eq!((replay.next, replay.tail.len()), (Seq(4), 0));
    assert_eq!(replay.live[0], (2, vec![(4096, 4096, Seq(2))]));
}

#[test]
fn a_gap_above_what_was_durable_ends_the_journal_and_the_rest_is_named() {
    let members = [
        (0, vec![one(0, 1, true), one(4096, 3, true)]),
        (1, vec![one(0, 2, false), one(8192, 4, false)]),
    ];
    let replay = union(&members, Seq(1)).unwrap();
    assert_eq!((replay.records.len(), replay.next), (1, Seq(2)));
    assert_eq!(
        replay.tail,
        [(0, 4096, 4096), (1, 0, 4096), (1, 8192, 4096)]
    );
}

#[test]
fn a_gap_at_or_below_what_was_durable_is_loud_even_if_only_the_torn_tail_knows() {
    for intact in [true, false] {
        let members = [(
            0,
            vec![one(0, 1, true), found(4096, known(5, 3, 1), 1, 0, intact)],
        )];
        assert_eq!(
            union(&members, Seq(1)),
            Err(ReplayError::Hole {
                seq: Seq(2),
                durable_through: Seq(3)
            })
        );
    }
    let members = [(
        0,
        vec![one(0, 1, true), found(4096, known(5, 1, 1), 1, 0, true)],
    )];
    assert_eq!(seqs(&members, 1), [1]);
}

#[test]
fn a_journal_that_lost_every_copy_of_its_start_is_loud() {
    let members = [(0, vec![found(0, known(9, 8, 5), 1, 0, true)])];
    assert!(matches!(
        union(&members, Seq(3)),
        Err(ReplayError::Hole { seq: Seq(5), .. })
    ));
}

#[test]
fn the_highest_floor_counts_wherever_it_stands() {
    // 3 and 4 are trimmed and overwritten; only a torn group of the tail says so.
    let members = [(
        0,
        vec![one(0, 5, true), found(4096, known(7, 4, 5), 1, 0, false)],
    )];
    let replay = union(&members, Seq(3)).unwrap();
    assert_eq!((replay.floor, replay.next), (Seq(5), Seq(6)));
    assert_eq!(replay.tail, [(0, 4096, 4096)]);
}

#[test]
fn a_group_across_the_floor_is_replayed_from_the_floor_on() {
    let members = [(0, vec![found(0, known(1, 0, 1), 5, 0, true)])];
    let replay = union(&members, Seq(3)).unwrap();
    let copies: Vec<_> = replay.records.iter().map(|r| r.copies[0].2).collect();
    assert_eq!(copies, [2, 3, 4]);
    assert_eq!(replay.live, [(0, vec![(0, 4096, Seq(5))])]);
}

#[test]
fn two_contents_of_one_record_are_loud() {
    let members = [
        (3, vec![found(0, known(1, 0, 1), 2, 7, true)]),
        (4, vec![found(0, known(1, 0, 1), 2, 8, true)]),
    ];
    assert_eq!(
        union(&members, Seq(2)),
        Err(ReplayError::Conflict {
            seq: Seq(2),
            one: 3,
            other: 4
        })
    );
    assert_eq!(
        seqs(&members, 3),
        [0; 0],
        "what is trimmed is compared no more"
    );
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Good,
    Torn,
    Lost,
}

/// A group of a history: entries, how far durability and floor lag, and each member's copy.
type Story = (usize, u64, u64, Vec<Fate>);

fn story() -> impl Strategy<Value = Story> {
    let fate = prop_oneof![
        5 => Just(Fate::Good),
        1 => Just(Fate::Torn),
        3 => Just(Fate::Lost),
    ];
    (
        1usize..4,
        0u64..30,
        0u64..30,
        proptest::collection::vec(fate, 4),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_union_is_what_is_left_sequence_by_sequence(
        history in proptest::collection::vec(story(), 0..14),
        floor in 1u64..12,
    ) {
        let mut members: Vec<(usize, Vec<Found>)> = (0..4).map(|m| (m * 10, vec![])).collect();
        let mut good = BTreeSet::new();
        let (mut durable, mut top) = (0, floor);
        let mut first = 1u64;
        for (entries, behind, kept, fates) in &history {
            let through = (first - 1).saturating_sub(*behind);
            let head = known(first, through, through.saturating_sub(*kept).max(1));
            for (member, (_, list)) in members.iter_mut().enumerate() {
                if fates[member] == Fate::Lost {
                    continue;
                }
                let position = list.len() as u64 * 4096;
                let intact = fates[member] == Fate::Good;
                list.push(found(position, head, *entries, first, intact));
                durable = durable.max(through);
                top = top.max(head.floor.0);
                if intact {
                    good.extend(first..first + *entries as u64);
                }
            }
            first += *entries as u64;
        }
        // Members' rings aren't in order of sequences.
        for (_, list) in &mut members {
            list.reverse();
        }
        let next = (top..=top.max(first)).find(|seq| !good.contains(seq)).unwrap();
        let replay = match union(&members, Seq(floor)) {
            Err(error) => {
                prop_assert_eq!(error, ReplayError::Hole {
                    seq: Seq(next), durable_through: Seq(durable)
                });
                prop_assert!(durable >= next);
                return Ok(());
            }
            Ok(replay) => replay,
        };
        prop_assert!(durable < next);
        prop_assert_eq!((replay.floor, replay.next), (Seq(top), Seq(next)));
        prop_assert_eq!(replay.durable_through, Seq(durable));
        let seqs: Vec<_> = replay.records.iter().map(|record| record.seq.0).collect();
        prop_assert_eq!(seqs, (top..next).collect::<Vec<_>>());
        for record in &replay.records {
            let mut expected = vec![];
            for (member, list) in &members {
                for (index, found) in list.iter().enumerate() {
                    let (from, to) = (found.group.head.first.0, found.group.last().0);
                    if found.intact && (from..=to).contains(&record.seq.0) {
                        let at = usize::try_from(record.seq.0 - from).unwrap();
                        expected.push((*member, index, at));
                        prop_assert_eq!(&found.group.entries[at], &record.entry);
                    }
                }
            }
            prop_assert_eq!(&record.copies, &expected);
        }
        for (member, list) in &members {
            let live = &replay.live.iter().find(|(m, _)| m == member).unwrap().1;
            for found in list {
                let last = found.group.last().0;
                let place = (found.position, 4096, Seq(last));
                let tail = (*member, found.position, 4096);
                prop_assert_eq!(replay.tail.contains(&tail), last >= next);
                let kept = found.intact && last >= top && last < next;
                prop_assert_eq!(live.contains(&place), kept);
            }
            let ring = Ring::restore(1 << 20, live.clone());
            prop_assert_eq!(ring.used_bytes(), live.len() as u64 * 4096);
        }
    }
}
