use super::*;
use crate::level::Level;
use proptest::prelude::*;

fn geometry() -> Geometry {
    Geometry::new(Level::Raid6, 6, 65536).unwrap()
}

const DATA: u64 = 16384 * 65536 / 4;
const ARRAY: Uuid = Uuid::from_bytes([7; 16]);

fn volume(n: u8, name: &str) -> VolumeRecord {
    VolumeRecord {
        uuid: Uuid::from_bytes([n; 16]),
        name: name.into(),
        size_bytes: 5 << 30,
        created_ms: 1_700_000_000_000,
    }
}

/// What the slots of a disk would hold after each take.
struct Disk(Vec<Option<Box<[u8]>>>);

impl Disk {
    fn new(map: &SpaceMap) -> Self {
        Self(vec![None; map.pages()])
    }
    fn save(&mut self, map: &mut SpaceMap) {
        for (page, _, bytes) in map.take_dirty() {
            self.0[page] = Some(bytes);
        }
    }
    fn load(&self) -> SpaceMap {
        SpaceMap::load(ARRAY, &geometry(), DATA, self.0.clone()).unwrap()
    }
}

fn owner(volume: VolumeId, index: u32) -> Owner {
    Owner {
        volume,
        shard: 0,
        index,
    }
}

#[test]
fn a_map_comes_back_as_it_was_saved() {
    let mut map = SpaceMap::new(ARRAY, &geometry(), DATA);
    let mut disk = Disk::new(&map);
    let id = map.add_volume(volume(1, "pg")).unwrap();
    let extent = map.allocate(owner(id, 3)).unwrap();
    let row = map.rows_of(extent).nth(5).unwrap();
    map.mark(row, true);
    disk.save(&mut map);
    let back = disk.load();
    assert_eq!(back.find(owner(id, 3)), Some(extent));
    assert!(back.is_written(row));
    assert_eq!(back.rows_written(), 1);
    assert_eq!(back.next_written(Row(0)), Some(row));
    assert_eq!(back.volume(id), Some(&volume(1, "pg")));
    assert_eq!(back.extents_free(), map.extents_free());
    assert!(!back.is_dirty());
}

#[test]
fn an_unmapped_extent_waits_for_its_release_and_forgets_its_rows() {
    let mut map = SpaceMap::new(ARRAY, &geometry(), DATA);
    let id = map.add_volume(volume(1, "pg")).unwrap();
    let extent = map.allocate(owner(id, 0)).unwrap();
    let row = map.rows_of(extent).next().unwrap();
    map.mark(row, true);
    let free = map.extents_free();
    map.unmap(extent);
    assert_eq!(map.extents_free(), free);
    assert!(!map.is_written(row));
    let other = map.allocate(owner(id, 0)).unwrap();
    assert_ne!(other, extent);
    map.release(extent);
    assert_eq!(map.extents_free(), free);
}

#[test]
fn extents_of_a_deleted_volume_are_free_after_a_restart() {
    let mut map = SpaceMap::new(ARRAY, &geometry(), DATA);
    let mut disk = Disk::new(&map);
    let id = map.add_volume(volume(1, "pg")).unwrap();
    let extent = map.allocate(owner(id, 0)).unwrap();
    map.mark(map.rows_of(extent).next().unwrap(), true);
    disk.save(&mut map);
    // Only the volume table reached the disk before the crash, and its place was taken again.
    map.retire_volume(id);
    assert_ne!(
        map.add_volume(volume(2, "other")),
        Some(id),
        "the place is still taken"
    );
    let (page, _, bytes) = map.take_dirty().remove(0);
    disk.0[page] = Some(bytes);
    let back = disk.load();
    assert_eq!(back.extents_free(), back.extents_total());
    assert_eq!(back.rows_written(), 0);
    assert!(back.is_dirty());
}

#[test]
fn the_later_of_two_claims_wins() {
    let geometry = Geometry::new(Level::Raid1, 2, 4096).unwrap();
    // One record a page here, so that each claim has a page of its own.
    let data = 16384 * 4096 * 4;
    let mut map = SpaceMap::new(ARRAY, &geometry, data);
    let mut pages = vec![None; map.pages()];
    let id = map.add_volume(volume(1, "pg")).unwrap();
    let old = map.allocate(owner(id, 0)).unwrap();
    map.mark(map.rows_of(old).next().unwrap(), true);
    for (page, _, bytes) in map.take_dirty() {
        pages[page] = Some(bytes);
    }
    map.unmap(old);
    let new = map.allocate(owner(id, 0)).unwrap();
    // The page of the new extent is durable, that of the old one is not.
    let (page, _, bytes) = map.take_dirty().pop().unwrap();
    pages[page] = Some(bytes);
    let back = SpaceMap::load(ARRAY, &geometry, data, pages).unwrap();
    assert_eq!(back.find(owner(id, 0)), Some(new));
    assert_eq!(back.rows_written(), 0);
    assert_eq!(back.extents_free(), back.extents_total() - 1);
}

#[test]
fn the_map_page_of_version_1_is_read_for_ever() {
    let mut map = SpaceMap::new(ARRAY, &geometry(), DATA);
    let id = map.add_volume(volume(1, "pg")).unwrap();
    let extent = map
        .allocate(Owner {
            volume: id,
            shard: 2,
            index: 4,
        })
        .unwrap();
    for row in map.rows_of(extent).step_by(3) {
        map.mark(row, true);
    }
    let pages = map.take_dirty();
    let bytes: Vec<u8> = pages
        .iter()
        .flat_map(|(_, _, bytes)| bytes.to_vec())
        .collect();
    let golden = include_bytes!("../../tests/golden/map-v1.bin");
    assert_eq!(bytes, golden, "the encoding of version 1 changed");
    let mut slots = vec![None; map.pages()];
    slots[0] = Some(golden[..4096].into());
    slots[VOLUME_PAGES] = Some(golden[4096..].into());
    let back = SpaceMap::load(ARRAY, &geometry(), DATA, slots).unwrap();
    assert_eq!(back.rows_written(), map.rows_written());
}

/// The golden pages as a version would have sealed them.
fn golden_of_version(version: u8) -> Vec<Box<[u8]>> {
    let golden = include_bytes!("../../tests/golden/map-v1.bin");
    let pages = golden.chunks(4096).map(|page| {
        let mut page: Box<[u8]> = page.into();
        page[8] = version;
        let sum = cairn_blockdev::crc::crc32c(&page[..4092]);
        page[4092..].copy_from_slice(&sum.to_le_bytes());
        page
    });
    pages.collect()
}

#[test]
fn a_newer_map_page_is_refused_and_not_taken_for_a_damaged_one() {
    let numbers = [0, VOLUME_PAGES];
    for (number, page) in numbers.into_iter().zip(golden_of_version(1)) {
        assert!(page_generation(&page, ARRAY, number).is_ok());
    }
    for (number, page) in numbers.into_iter().zip(golden_of_version(2)) {
        let newer = PageError::Version(2);
        assert_eq!(page_generation(&page, ARRAY, number), Err(newer.clone()));
        let mut slots = vec![None; SpaceMap::new(ARRAY, &geometry(), DATA).pages()];
        slots[number] = Some(page.clone());
        let loaded = SpaceMap::load(ARRAY, &geometry(), DATA, slots);
        assert_eq!(loaded.err(), Some(newer));
        // What rotted says nothing of a version.
        let mut rotten = page;
        rotten[100] ^= 1;
        let found = page_generation(&rotten, ARRAY, number);
        assert_eq!(found, Err(PageError::Damaged));
    }
}

#[test]
fn addresses_cover_a_shard_without_overlap() {
    let geometry = Geometry::new(Level::Raid6, 24, 65536).unwrap();
    let map = SpaceMap::new(ARRAY, &geometry, 1 << 34);
    let (mut at, mut seen) = (0, std::collections::BTreeSet::new());
    while at < 3 * SHARD_BYTES {
        let (owner, within) = map.place(VolumeId(0), at);
        assert_eq!(within, 0);
        assert!(seen.insert(owner));
        at += map.run_in_extent(at);
    }
    assert_eq!(at, 3 * SHARD_BYTES);
}

/// The highest sequence there is has none after it.
#[test]
fn a_page_of_ones_is_nonsense_and_no_panic() {
    let map = SpaceMap::new(ARRAY, &geometry(), DATA);
    let mut slots = vec![None; map.pages().max(12)];
    let of_ones = encode_page(PageKind::Extents, ARRAY, VOLUME_PAGES, 1, |body| {
        body.fill(255);
    });
    slots[VOLUME_PAGES] = Some(of_ones);
    let _ = SpaceMap::load(ARRAY, &geometry(), DATA, slots);
}

proptest! {
    #[test]
    fn decoding_a_page_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..4200)) {
        let _ = page_generation(&bytes, ARRAY, 0);
    }

    #[test]
    fn a_sealed_page_of_nonsense_never_panics(at in 60usize..4092, value: u8, page in 0usize..12) {
        let kind = if page < VOLUME_PAGES { PageKind::Volumes } else { PageKind::Extents };
        let bytes = encode_page(kind, ARRAY, page, 1, |body| body[at - 60..].fill(value));
        let map = SpaceMap::new(ARRAY, &geometry(), DATA);
        let mut slots = vec![None; map.pages().max(12)];
        slots[page] = Some(bytes);
        let _ = SpaceMap::load(ARRAY, &geometry(), DATA, slots);
    }

    #[test]
    fn accounting_is_exact_after_any_history(ops in proptest::collection::vec((0u32..20, 0u8..4), 1..60)) {
        let mut map = SpaceMap::new(ARRAY, &geometry(), DATA);
        let mut disk = Disk::new(&map);
        let id = map.add_volume(volume(1, "pg")).unwrap();
        for (index, op) in ops {
            match op {
                0 | 1 => { let _ = map.allocate(owner(id, index)); }
                2 => if let Some(extent) = map.find(owner(id, index)) {
                    map.unmap(extent);
                    map.release(extent);
                },
                _ => if let Some(extent) = map.find(owner(id, index)) {
                    map.mark(map.rows_of(extent).next().unwrap(), true);
                },
            }
        }
        disk.save(&mut map);
        let back = disk.load();
        prop_assert_eq!(back.extents_free(), map.extents_free());
        prop_assert_eq!(back.rows_written(), map.rows_written());
        prop_assert_eq!(back.extents_of(id), map.extents_of(id));
    }
}
