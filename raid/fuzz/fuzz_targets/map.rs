//! Map pages: a page of any contents under a right checksum loads, mended, or is refused; the map
//! that comes of it accounts for every extent.
#![no_main]

use cairn_raid::space::SpaceMap;
use cairn_raid::{Geometry, Level};
use libfuzzer_sys::fuzz_target;
use uuid::Uuid;

const ARRAY: Uuid = Uuid::from_bytes([7; 16]);
const DATA_BYTES: u64 = 256 << 20;

fuzz_target!(|input: (Vec<u8>, u8)| {
    let (mut page, number) = input;
    let geometry = Geometry::new(Level::Raid6, 6, 65536).unwrap();
    let pages = SpaceMap::new(ARRAY, &geometry, DATA_BYTES).pages();
    let number = usize::from(number) % pages;
    page.resize(4096, 0);
    page[..8].copy_from_slice(b"CAIRNMAP");
    page[8..12].copy_from_slice(&1u32.to_le_bytes());
    page[12..16].copy_from_slice(&(if number < 8 { 1u32 } else { 2 }).to_le_bytes());
    page[16..32].copy_from_slice(ARRAY.as_bytes());
    page[32..40].copy_from_slice(&(number as u64).to_le_bytes());
    let crc = crc32c::crc32c(&page[..4092]);
    page[4092..].copy_from_slice(&crc.to_le_bytes());
    let mut slots = vec![None; pages];
    slots[number] = Some(page.into_boxed_slice());
    if let Ok(map) = SpaceMap::load(ARRAY, &geometry, DATA_BYTES, slots) {
        let mapped: u64 = map.volumes().map(|(id, _)| map.allocated_bytes(id)).sum();
        assert_eq!(
            map.extents_free() + mapped / map.extent_bytes(),
            map.extents_total()
        );
    }
});
