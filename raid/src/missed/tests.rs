use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const ID: MapId = MapId {
    array: Uuid::from_bytes([7; 16]),
    member: Uuid::from_bytes([3; 16]),
    number: 5,
};

fn shape(rows: u64) -> MapShape {
    MapShape::new(rows, 1 << 20)
}

fn map(rows: u64) -> MissedMap {
    MissedMap::new(ID, shape(rows), 0)
}

/// What a member has of a map: every block by slot and number.
type Zone = BTreeMap<(usize, BlockNo), Vec<u8>>;

fn put(zone: &mut Zone, saves: Vec<Save>) {
    for save in saves {
        zone.insert((save.slot, save.block), save.bytes);
    }
}

fn load(zones: &[&Zone], rows: u64, floor: u64) -> Option<MissedMap> {
    let mut loader = Loader::new(ID, shape(rows), 0);
    for zone in zones {
        for ((slot, _), bytes) in *zone {
            loader.take(*slot, bytes);
        }
    }
    loader.finish(Seq(floor))
}

fn rows_of(map: &MissedMap) -> Vec<u64> {
    let mut rows = Vec::new();
    let mut at = Row(0);
    while let Some(row) = map.next(at) {
        rows.push(row.0);
        at = Row(row.0 + 1);
    }
    rows
}

#[test]
fn every_shape_fits_its_zone() {
    use crate::geometry::Geometry;
    use crate::layout::{Shape, ZoneKind};
    use crate::level::Level;
    for level in [Level::Raid1, Level::Raid5, Level::Raid6] {
        for members in [4, 8, 24] {
            for chunk in [4096, 65536, 1 << 20] {
                for size in [256u64 << 20, 10 << 30, 4 << 40, 64 << 40] {
                    let geometry = Geometry::new(level, members, chunk).unwrap();
                    let of = Shape {
                        geometry,
                        journal_bytes: None,
                    };
                    let Some(data) = of.data_bytes_for(size) else {
                        continue;
                    };
                    let zone = of.layout(size, data).unwrap().zone(ZoneKind::DirtyMaps);
                    let rows = data / geometry.chunk_bytes();
                    let shape = MapShape::new(rows, zone.len);
                    let last = BlockNo::Page(shape.pages() - 1);
                    let end = shape.offset(0, 0, last) + BLOCK;
                    assert!(end <= shape.slot_offset(0, 1), "a slot holds its pages");
                    let end = shape.slot_offset(usize_of(PLACES), 0);
                    assert!(end <= zone.len, "the zone holds its places");
                    // A grain is small: 256 KiB, or a row where rows are larger.
                    let grain = shape.rows_per_bit * geometry.row_bytes();
                    assert!(grain <= geometry.row_bytes().max(256 << 10), "{grain}");
                }
            }
        }
    }
}

#[test]
fn a_map_knows_its_rows_and_forgets_those_that_are_done() {
    let mut map = map(1 << 19);
    let rows = [0, 63, 64, 32_255, 32_256, 100_000, (1 << 19) - 1];
    for row in rows {
        map.insert(Row(row));
    }
    assert_eq!(rows_of(&map), rows);
    assert!(map.contains(Row(64)) && !map.contains(Row(65)));
    map.clear_below(Row(64));
    assert_eq!(rows_of(&map), rows[2..]);
    map.clear_below(Row(u64::MAX));
    assert!(map.is_empty());
}

#[test]
fn small_rows_share_a_bit_and_are_done_together() {
    let rows = 3_000_000;
    let mut map = map(rows);
    assert_eq!(map.shape().rows_per_bit, 4);
    map.insert(Row(9));
    assert_eq!(rows_of(&map), [8, 9, 10, 11]);
    map.clear_below(Row(11));
    assert!(map.contains(Row(9)), "row 11 isn't done");
    map.clear_below(Row(12));
    assert!(map.is_empty());
}

#[test]
fn a_map_comes_back_from_any_member_that_has_it() {
    let mut map = map(1 << 19);
    let (mut a, b) = (Zone::new(), Zone::new());
    for (turn, row) in [5, 40_000, 6, 7, 40_001].into_iter().enumerate() {
        map.insert(Row(row));
        put(&mut a, map.take_dirty(Seq(10 + turn as u64)));
    }
    let back = load(&[&b, &a], 1 << 19, 14).unwrap();
    assert_eq!(rows_of(&back), [5, 6, 7, 40_000, 40_001]);
    assert!(load(&[&a], 1 << 19, 15).is_none(), "records beyond it went");
    assert!(load(&[&b], 1 << 19, 0).is_none());
}

#[test]
fn a_save_that_was_cut_off_anywhere_leaves_the_one_before() {
    let mut map = map(1 << 19);
    let mut zone = Zone::new();
    let mut rows = Vec::new();
    for turn in 0..6u64 {
        for row in [turn, 40_000 + turn, 80_000 * turn] {
            map.insert(Row(row));
        }
        let before = zone.clone();
        let saves = map.take_dirty(Seq(100 + turn));
        // Any subset of the blocks may have made it, others are torn.
        for subset in 0..1u32 << saves.len() {
            let mut cut = before.clone();
            for (at, save) in saves.iter().enumerate() {
                let mut bytes = save.bytes.clone();
                if subset >> at & 1 == 0 {
                    bytes[2048..].fill(0xEE);
                }
                cut.insert((save.slot, save.block), bytes);
            }
            if turn > 0 {
                let back = load(&[&cut], 1 << 19, 100 + turn - 1).unwrap();
                let missed = rows_of(&back);
                assert!(rows.iter().all(|row| missed.contains(row)), "turn {turn}");
                // And it can be saved again, torn too.
                let mut again = load(&[&cut], 1 << 19, 100 + turn - 1).unwrap();
                again.insert(Row(500_000));
                put(&mut cut, again.take_dirty(Seq(200)));
                let back = load(&[&cut], 1 << 19, 200).unwrap();
                assert_eq!(rows_of(&again), rows_of(&back));
            }
        }
        put(&mut zone, saves);
        rows = rows_of(&map);
    }
}

#[test]
fn a_lost_page_is_noticed_and_its_older_copy_does_not_stand_in() {
    let mut map = map(1 << 19);
    let mut zone = Zone::new();
    for row in [1, 2, 3] {
        map.insert(Row(row));
        map.insert(Row(40_000 + row));
        put(&mut zone, map.take_dirty(Seq(row)));
    }
    let newest: Vec<_> = map
        .pages
        .iter()
        .map(|(n, p)| (p.slot, BlockNo::Page(*n)))
        .collect();
    for key in newest {
        let mut rotten = zone.clone();
        rotten.get_mut(&key).unwrap()[100] ^= 1;
        assert!(load(&[&rotten], 1 << 19, 3).is_none());
        // Another member has it still.
        assert!(load(&[&rotten, &zone], 1 << 19, 3).is_some());
    }
}

#[test]
fn the_map_of_version_1_is_read_for_ever() {
    let golden = include_bytes!("../../tests/golden/missed-v1.bin");
    let mut map = map(1 << 19);
    map.insert(Row(3));
    map.insert(Row(100));
    let saves = map.take_dirty(Seq(77));
    let bytes: Vec<u8> = saves.iter().flat_map(|save| save.bytes.clone()).collect();
    assert_eq!(bytes, golden, "the encoding of version 1 changed");
    let mut loader = Loader::new(ID, shape(1 << 19), 0);
    for (save, block) in saves.iter().zip(golden.chunks(4096)) {
        loader.take(save.slot, block);
    }
    assert_eq!(rows_of(&loader.finish(Seq(77)).unwrap()), [3, 100]);
}

#[test]
fn a_newer_block_is_refused_and_no_map_comes_of_it() {
    let golden = include_bytes!("../../tests/golden/missed-v1.bin");
    // The page and the head, as a version would have sealed them.
    let of_version = |version: u8| -> Vec<Vec<u8>> {
        let blocks = golden.chunks(4096).map(|block| {
            let mut block = block.to_vec();
            block[8] = version;
            block[60..64].fill(0);
            let sum = cairn_blockdev::crc::crc32c(&block);
            block[60..64].copy_from_slice(&sum.to_le_bytes());
            block
        });
        blocks.collect()
    };
    let load = |page: &[u8], head: &[u8]| {
        let mut loader = Loader::new(ID, shape(1 << 19), 0);
        loader.take(0, page);
        loader.take(1, head);
        loader.finish(Seq(77))
    };
    let (known, newer) = (of_version(1), of_version(2));
    for block in &newer {
        assert_eq!(codec::decode(block, &ID), Err(BlockError::Version(2)));
    }
    assert!(load(&known[0], &known[1]).is_some());
    // One newer block suffices: half of a map would leave rows out.
    assert!(load(&newer[0], &known[1]).is_none());
    assert!(load(&known[0], &newer[1]).is_none());
    assert!(load(&newer[0], &newer[1]).is_none());
}

#[test]
fn blocks_of_another_map_and_flipped_bits_are_refused() {
    let mut map = map(1000);
    map.insert(Row(3));
    for save in map.take_dirty(Seq(1)) {
        for at in 0..save.bytes.len() {
            let mut bad = save.bytes.clone();
            bad[at] ^= 4;
            assert_eq!(
                codec::decode(&bad, &ID),
                Err(BlockError::Damaged),
                "byte {at}"
            );
        }
        let other = MapId { number: 6, ..ID };
        assert_eq!(codec::decode(&save.bytes, &other), Err(BlockError::Other));
    }
}

proptest! {
    #[test]
    fn a_map_is_the_set_of_its_rows(
        steps in proptest::collection::vec((0u64..200_000, 0u8..8), 1..80)
    ) {
        let mut map = map(200_000);
        let mut set = BTreeSet::new();
        let mut zone = Zone::new();
        for (turn, (row, kind)) in steps.into_iter().enumerate() {
            match kind {
                0 => {
                    map.clear_below(Row(row));
                    set = set.split_off(&row);
                }
                1 => {
                    put(&mut zone, map.take_dirty(Seq(turn as u64)));
                    map = load(&[&zone], 200_000, turn as u64).unwrap();
                }
                _ => {
                    map.insert(Row(row));
                    set.insert(row);
                }
            }
        }
        prop_assert_eq!(rows_of(&map), set.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..5000)) {
        let _ = codec::decode(&bytes, &ID);
        let mut loader = Loader::new(ID, shape(1000), 0);
        loader.take(0, &bytes);
        let _ = loader.finish(Seq(0));
    }
}
