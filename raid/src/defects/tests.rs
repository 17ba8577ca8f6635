use proptest::prelude::*;

use super::*;

const ARRAY: Uuid = Uuid::from_bytes([7; 16]);

fn place(row: u64, col: u32, slot: usize) -> Place {
    Place {
        row: Row(row),
        col,
        slot: Slot(slot),
    }
}

fn defect(since_ms: u64, reason: Reason) -> Defect {
    Defect { since_ms, reason }
}

fn sample() -> Defects {
    let mut defects = Defects::new(ARRAY);
    defects.note(place(3, 1, 2), defect(1_000, Reason::Unreadable));
    defects.note(place(3, 0, 5), defect(1_001, Reason::Mismatch));
    defects.note(place(1 << 40, 15, 23), defect(1_002, Reason::CutOff));
    defects.note(place(0, 0, 0), defect(1_003, Reason::NotRebuilt));
    defects.set_scrub(ScrubRecord {
        state: ScrubState::Paused,
        cursor: Row(77),
        started_ms: 1,
        finished_ms: 2,
        repaired: 3,
        mismatched: 4,
        unrepairable: 5,
        runs: 6,
    });
    defects
}

fn saved(defects: &Defects, generation: u64) -> Defects {
    Defects {
        generation,
        dirty: false,
        ..defects.clone()
    }
}

#[test]
fn a_block_that_couldnt_be_had_can_be_given_up_and_that_is_news_once() {
    let mut defects = Defects::new(ARRAY);
    assert!(defects.note(place(5, 3, 1), defect(9, Reason::Mismatch)));
    assert!(defects.take_dirty().is_some());
    let given_up = defect(10, Reason::NotRebuilt);
    assert!(defects.note(place(5, 3, 1), given_up));
    assert!(defects.take_dirty().is_some());
    for later in [Reason::Unreadable, Reason::Mismatch, Reason::CutOff] {
        assert!(!defects.note(place(5, 3, 1), defect(11, later)));
    }
    assert!(!defects.is_dirty());
    let all: Vec<_> = defects.list().collect();
    assert_eq!(all, [(place(5, 3, 1), given_up)]);
}

#[test]
fn a_block_stays_bad_until_it_is_written_anew() {
    let mut defects = Defects::new(ARRAY);
    let bad = defect(9, Reason::Unreadable);
    assert!(defects.note(place(5, 3, 1), bad));
    assert!(!defects.note(place(5, 3, 1), defect(10, Reason::Mismatch)));
    assert!(defects.take_dirty().is_some() && defects.take_dirty().is_none());
    // Other columns, rows and members don't heal it.
    let slot = |n| Set::EMPTY.with(n);
    assert_eq!(defects.heal(Row(5), &(0..3), slot(1)), 0);
    assert_eq!(defects.heal(Row(5), &(4..16), slot(1)), 0);
    assert_eq!(defects.heal(Row(4), &(0..16), slot(1)), 0);
    assert_eq!(defects.heal(Row(5), &(0..16), slot(2)), 0);
    assert!(!defects.is_dirty() && defects.is_bad(place(5, 3, 1)));
    assert_eq!(defects.list().collect::<Vec<_>>(), [(place(5, 3, 1), bad)]);
    assert_eq!(defects.heal(Row(5), &(3..4), slot(1)), 1);
    assert!(defects.is_dirty() && defects.is_empty());
}

#[test]
fn what_does_not_fit_is_counted_and_not_forgotten() {
    let mut defects = Defects::new(ARRAY);
    let more = 10;
    for row in 0..u64_of(ENTRIES_MAX) + more {
        defects.note(place(row, 0, 1), defect(1, Reason::Unreadable));
    }
    assert_eq!(defects.more(), more);
    assert_eq!(defects.total(), u64_of(ENTRIES_MAX) + more);
    let (generation, bytes) = defects.take_dirty().unwrap();
    let mut back = Defects::decode(&bytes, ARRAY).unwrap();
    assert_eq!(back, saved(&defects, generation));
    // Both slots lie in the zone, apart from each other and from its header.
    let end = |generation| slot_offset(generation) + u64_of(bytes.len());
    assert!(slot_offset(0) >= 4096 && end(0) <= slot_offset(1) && end(1) <= 1 << 20);
    for row in 0..u64_of(ENTRIES_MAX) {
        back.heal(Row(row), &(0..1), Set::first(24));
    }
    assert!(!back.is_empty(), "what didn't fit is still lost");
    back.forget_more();
    assert!(back.is_empty() && back.is_dirty());
}

#[test]
fn a_damaged_list_or_that_of_another_array_is_refused() {
    let bytes = sample().encode(3);
    let used = 128 + 4 * 24;
    for at in 0..used {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        assert!(Defects::decode(&bad, ARRAY).is_err(), "byte {at}");
    }
    assert_eq!(
        Defects::decode(&bytes, Uuid::nil()),
        Err(DefectsError::Damaged)
    );
    assert_eq!(Defects::decode(&[0; 4096], ARRAY), Err(DefectsError::Blank));
    let mut newer = bytes;
    newer[8] = 2;
    let crc = cairn_blockdev::crc::crc32c_append(
        cairn_blockdev::crc::crc32c(&newer[..124]),
        &newer[128..used],
    );
    newer[124..128].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(
        Defects::decode(&newer, ARRAY),
        Err(DefectsError::Version(2))
    );
}

#[test]
fn the_list_of_version_1_is_read_for_ever() {
    let golden = include_bytes!("../../tests/golden/defects-v1.bin");
    assert_eq!(Defects::decode(golden, ARRAY), Ok(saved(&sample(), 42)));
    assert_eq!(
        sample().encode(42),
        golden,
        "the encoding of version 1 changed"
    );
}

fn any_place() -> impl Strategy<Value = Place> {
    (0u64..50, 0u32..16, 0usize..24).prop_map(|(row, col, slot)| place(row, col, slot))
}

proptest! {
    #[test]
    fn decoding_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..9000), seal: bool, count in 0u32..400) {
        if seal && bytes.len() >= 128 {
            bytes[..8].copy_from_slice(b"CAIRNBAD");
            bytes[8..12].copy_from_slice(&1u32.to_le_bytes());
            bytes[12..16].copy_from_slice(&count.to_le_bytes());
            bytes[16..32].copy_from_slice(ARRAY.as_bytes());
            let end = (128 + count as usize * 24).min(bytes.len());
            let crc = cairn_blockdev::crc::crc32c_append(cairn_blockdev::crc::crc32c(&bytes[..124]), &bytes[128..end]);
            bytes[124..128].copy_from_slice(&crc.to_le_bytes());
        }
        let _ = bytes_needed(&bytes);
        if let Ok(defects) = Defects::decode(&bytes, ARRAY) {
            let again = Defects::decode(&defects.encode(defects.generation()), ARRAY);
            prop_assert_eq!(again, Ok(defects));
        }
    }

    #[test]
    fn the_list_is_what_was_noted_and_not_healed(
        steps in proptest::collection::vec((any_place(), 0u32..6, any::<bool>()), 0..200),
    ) {
        let mut defects = Defects::new(ARRAY);
        let mut model = BTreeMap::new();
        for (place, width, note) in steps {
            if note {
                let defect = defect(u64::from(width), Reason::Mismatch);
                defects.note(place, defect);
                model.entry(place).or_insert(defect);
            } else {
                let cols = u64::from(place.col)..u64::from(place.col + width);
                let slots = Set::EMPTY.with(place.slot.0);
                let before = model.len();
                model.retain(|p: &Place, _| {
                    !(p.row == place.row && cols.contains(&u64::from(p.col)) && p.slot == place.slot)
                });
                prop_assert_eq!(defects.heal(place.row, &cols, slots), before - model.len());
            }
        }
        prop_assert_eq!(defects.list().collect::<BTreeMap<_, _>>(), model);
        if let Some((generation, bytes)) = defects.take_dirty() {
            prop_assert_eq!(bytes_needed(&bytes), Ok(bytes.len()));
            prop_assert_eq!(Defects::decode(&bytes, ARRAY), Ok(saved(&defects, generation)));
        }
    }
}
