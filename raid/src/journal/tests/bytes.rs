use super::*;
use crate::journal::group::{
    DESCRIPTOR_BYTES_MAX, Damage, ENTRIES_MAX, GROUP_BYTES_MAX, GROUP_MAGIC, decode,
    descriptor_bytes, payload_is_intact, unescape,
};
use crate::journal::header::{
    HEADER_VERSION, HeaderError, JournalHeader, RING_OFFSET, SLOTS, newest,
};

/// One entry of every kind; the write is prepared and has two blocks, the second of which looks
/// like a descriptor.
fn golden_group() -> (Head, Vec<Entry>, Vec<u8>) {
    let mut payload = vec![0xA5; 2 * BLOCK_BYTES];
    payload[BLOCK_BYTES..BLOCK_BYTES + 8].copy_from_slice(&GROUP_MAGIC);
    let meta = vec![0x3C; BLOCK_BYTES];
    let mut entries = Vec::new();
    for (n, kind) in (1u8..).zip(Kind::ALL) {
        let mut entry = match kind {
            Kind::Data => Entry {
                flags: PREPARED,
                ..data(1 << 20, &payload)
            },
            Kind::Meta => data(0, &meta),
            Kind::Intent => bare(kind, (0..64).collect()),
            Kind::Note => bare(kind, (0..1024).map(|n| n * 3).collect()),
            _ => bare(kind, Vec::new()),
        };
        entry.kind = kind;
        entry.log = u32::from(n);
        entry.log_seq = u64::from(n) << 33;
        entry.arg = u64::MAX - u64::from(n);
        entry.tag = Tag::new(&vec![n; usize::from(n) * 5]).unwrap();
        entries.push(entry);
    }
    let head = Head {
        array: ARRAY,
        epoch: 5,
        lane: 2,
        first: Seq(1000),
        durable_through: Seq(990),
        floor: Seq(900),
    };
    payload.extend(meta);
    (head, entries, payload)
}

fn golden_header() -> JournalHeader {
    JournalHeader {
        array: ARRAY,
        member: Uuid::from_bytes([8; 16]),
        epoch: 5,
        floor: Seq(900),
        generation: 77,
        ring_bytes: 16 << 20,
        lanes: 1,
    }
}

#[test]
fn the_group_of_version_1_is_read_for_ever() {
    let golden = include_bytes!("../../../tests/golden/journal-group-v1.bin");
    let (head, entries, mut payload) = golden_group();
    let group = decode(golden).unwrap();
    assert_eq!((group.head, &group.entries), (head, &entries));
    assert_eq!(group.bytes(), golden.len());
    assert!(payload_is_intact(&group, &golden[group.descriptor_len..]));
    assert_eq!(
        bytes_of(&head, &entries, &payload),
        golden,
        "the encoding of version 1 changed"
    );
    let mut stored = golden[group.payload_range(0).unwrap()].to_vec();
    assert!(unescape(&entries[0].sums, &mut stored));
    payload.truncate(stored.len());
    assert_eq!(stored, payload);
}

#[test]
fn the_journal_header_of_version_1_is_read_for_ever() {
    let golden = include_bytes!("../../../tests/golden/journal-header-v1.bin");
    assert_eq!(JournalHeader::decode(golden), Ok(golden_header()));
    assert_eq!(
        &*golden_header().encode(),
        golden,
        "the encoding of version 1 changed"
    );
}

#[test]
fn the_numbers_of_kinds_are_those_on_disks() {
    for (number, kind) in (1u8..).zip(Kind::ALL) {
        assert_eq!(kind.code(), number);
        assert_eq!(Kind::from_code(number), Some(kind));
    }
    assert_eq!((Kind::from_code(0), Kind::from_code(12)), (None, None));
}

#[test]
fn every_flipped_bit_of_a_group_is_seen() {
    let (head, entries, payload) = golden_group();
    let mut bytes = bytes_of(&head, &entries, &payload);
    let descriptor = descriptor_bytes(&entries);
    let good = decode(&bytes).unwrap();
    for bit in 0..bytes.len() * 8 {
        // All of the head and the first entries, then a sample.
        if bit > 512 * 8 && bit % 13 != 0 {
            continue;
        }
        bytes[bit / 8] ^= 1 << (bit % 8);
        if bit / 8 < descriptor {
            assert!(decode(&bytes).is_err(), "bit {bit}");
        } else {
            assert!(!payload_is_intact(&good, &bytes[descriptor..]), "bit {bit}");
        }
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn a_descriptor_that_runs_on_says_how_much_it_needs() {
    let entries = vec![bare(Kind::Note, vec![9; 3000])];
    let bytes = bytes_of(&head(1), &entries, &[]);
    assert!(bytes.len() > 2 * BLOCK_BYTES);
    let needs = bytes.len();
    assert_eq!(decode(&bytes[..BLOCK_BYTES]), Err(Damage::Short { needs }));
    assert_eq!(decode(&bytes[..needs - 1]), Err(Damage::Short { needs }));
    assert_eq!(decode(&bytes).unwrap().entries, entries);
    assert_eq!(decode(&[]), Err(Damage::Short { needs: BLOCK_BYTES }));
    assert_eq!(decode(&[0; BLOCK_BYTES]), Err(Damage::Absent));
}

#[test]
fn a_newer_group_is_told_from_a_damaged_one() {
    let mut bytes = write_group(1, 1, 1);
    bytes[8] = 2;
    assert_eq!(decode(&bytes), Err(Damage::Version(2)));
    bytes[8] = 0;
    assert!(matches!(decode(&bytes), Err(Damage::Damaged(_))));
}

#[test]
fn the_largest_groups_come_back() {
    let most = vec![bare(Kind::Commit, Vec::new()); ENTRIES_MAX];
    assert_eq!(
        decode(&bytes_of(&head(1), &most, &[])).unwrap().entries,
        most
    );

    let wide = vec![bare(Kind::Note, vec![7; (DESCRIPTOR_BYTES_MAX - 256) / 4])];
    assert_eq!(descriptor_bytes(&wide), DESCRIPTOR_BYTES_MAX);
    assert_eq!(
        decode(&bytes_of(&head(1), &wide, &[])).unwrap().entries,
        wide
    );

    let payload = vec![1; GROUP_BYTES_MAX - 2 * BLOCK_BYTES];
    let long = vec![data(0, &payload)];
    let bytes = bytes_of(&head(1), &long, &payload);
    assert_eq!(bytes.len(), GROUP_BYTES_MAX);
    assert!(payload_is_intact(&decode(&bytes).unwrap(), &payload));
}

#[test]
#[should_panic(expected = "journal group of")]
fn a_group_past_its_bounds_is_not_encoded() {
    let payload = vec![1; GROUP_BYTES_MAX];
    encode(
        &head(1),
        &[data(0, &payload)],
        &mut vec![0; 2 * GROUP_BYTES_MAX],
    );
}

#[test]
#[should_panic(expected = "durability")]
fn a_group_that_knows_the_future_is_not_encoded() {
    let mut head = head(5);
    head.durable_through = Seq(5);
    encode(
        &head,
        &[bare(Kind::Barrier, Vec::new())],
        &mut [0; BLOCK_BYTES],
    );
}

#[test]
fn no_stored_block_begins_like_a_descriptor() {
    let inner = write_group(1, 1, 0x11);
    let mut stored = inner.clone();
    escape(&mut stored);
    for block in stored.chunks(BLOCK_BYTES) {
        assert_eq!(decode(block), Err(Damage::Absent));
    }
    assert!(unescape(&sums_of(&inner), &mut stored));
    assert_eq!(stored, inner);
}

#[test]
fn every_flipped_bit_of_a_journal_header_is_seen() {
    let mut block = golden_header().encode();
    for bit in 0..block.len() * 8 {
        block[bit / 8] ^= 1 << (bit % 8);
        assert!(JournalHeader::decode(&block).is_err(), "bit {bit}");
        block[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn the_newest_journal_header_of_its_own_slot_counts() {
    let at = |generation| JournalHeader {
        generation,
        ..golden_header()
    };
    assert_eq!((at(4).slot(), at(5).slot()), (SLOTS[0], SLOTS[1]));
    assert!(SLOTS.iter().all(|slot| slot + 4096 <= RING_OFFSET));
    let blank = [0; BLOCK_BYTES];
    let mut torn = at(5).encode();
    torn[100] ^= 1;
    assert_eq!(newest(&at(4).encode(), &at(5).encode()), Ok(at(5)));
    assert_eq!(newest(&at(6).encode(), &at(5).encode()), Ok(at(6)));
    assert_eq!(newest(&at(4).encode(), &torn), Ok(at(4)));
    assert_eq!(newest(&blank, &at(1).encode()), Ok(at(1)));
    assert_eq!(newest(&at(4).encode(), &at(6).encode()), Ok(at(4)));
    assert_eq!(newest(&blank, &blank), Err(HeaderError::Absent));
    assert_eq!(newest(&blank, &torn), Err(HeaderError::Checksum));
}

#[test]
fn a_newer_journal_header_is_not_passed_over_for_an_older_one() {
    let mut newer = golden_header().encode();
    newer[8] = 2;
    reseal(&mut newer);
    let older = JournalHeader {
        generation: 76,
        ..golden_header()
    };
    assert_eq!(
        newest(&older.encode(), &newer),
        Err(HeaderError::Version(2))
    );
    assert_ne!(HEADER_VERSION, 2);
}

/// Puts a right checksum over wrong contents; both structures have it at byte 80.
fn reseal(bytes: &mut [u8]) {
    bytes[80..84].fill(0);
    let crc = cairn_blockdev::crc::crc32c(bytes);
    bytes[80..84].copy_from_slice(&crc.to_le_bytes());
}

proptest! {
    #[test]
    fn a_group_comes_back_as_it_was((head, entries, payload) in any_group(), behind in 0usize..5000) {
        let mut bytes = bytes_of(&head, &entries, &payload);
        prop_assert!(bytes.len().is_multiple_of(BLOCK_BYTES));
        let len = bytes.len();
        bytes.resize(len + behind, 0x77);
        let group = decode(&bytes).unwrap();
        prop_assert_eq!((group.head, &group.entries), (head, &entries));
        prop_assert_eq!(group.descriptor_len, descriptor_bytes(&entries));
        prop_assert_eq!((group.bytes(), group.payload_len), (len, payload.len()));
        prop_assert!(payload_is_intact(&group, &bytes[group.descriptor_len..len]));
        let mut back = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let mut stored = bytes[group.payload_range(index).unwrap()].to_vec();
            if !stored.is_empty() {
                prop_assert!(unescape(&entry.sums, &mut stored));
            }
            back.extend(stored);
        }
        prop_assert_eq!(back, payload);
        prop_assert_eq!(group.payload_range(entries.len()), None);
    }

    #[test]
    fn a_flipped_bit_of_any_group_is_seen((head, entries, payload) in any_group(), at: proptest::sample::Index) {
        let mut bytes = bytes_of(&head, &entries, &payload);
        let good = decode(&bytes).unwrap();
        let bit = at.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        let seen = match decode(&bytes) {
            Err(_) => true,
            Ok(group) => group == good && !payload_is_intact(&group, &bytes[group.descriptor_len..]),
        };
        prop_assert!(seen, "bit {}", bit);
    }

    #[test]
    fn decoding_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..9000), magic: bool) {
        if magic && bytes.len() >= 12 {
            bytes[..12].copy_from_slice(b"CAIRNGRP\x01\0\0\0");
        }
        let _ = decode(&bytes);
        let _ = JournalHeader::decode(&bytes);
        let _ = newest(&bytes, &bytes);
    }

    /// A right checksum over wrong contents: the checks behind it must hold, and what they let
    /// through must be something that can be written again.
    #[test]
    fn a_sealed_group_of_nonsense_is_refused_or_makes_sense(
        at in 0usize..4096, len in 1usize..24, value: u8
    ) {
        let (head, entries, _) = golden_group();
        let mut bytes = vec![0; descriptor_bytes(&entries)];
        encode(&head, &entries, &mut bytes);
        let end = (at + len).min(bytes.len());
        bytes[at..end].fill(value);
        reseal(&mut bytes);
        if let Ok(group) = decode(&bytes) {
            let mut again = vec![0; group.descriptor_len];
            encode(&group.head, &group.entries, &mut again);
            prop_assert_eq!(decode(&again), Ok(group));
        }
    }

    #[test]
    fn a_sealed_journal_header_of_nonsense_is_refused_or_makes_sense(
        at in 0usize..128, len in 1usize..24, value: u8
    ) {
        let mut block = golden_header().encode();
        block[at..at + len].fill(value);
        reseal(&mut block);
        if let Ok(header) = JournalHeader::decode(&block) {
            prop_assert_eq!(JournalHeader::decode(&header.encode()), Ok(header));
        }
    }
}
