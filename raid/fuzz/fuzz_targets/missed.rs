//! Blocks of missed maps: any bytes, sealed or not, are taken or passed over; a map made of them is
//! saved and read back the same.
#![no_main]

use cairn_raid::Row;
use cairn_raid::journal::entry::Seq;
use cairn_raid::missed::{Loader, MapId, MapShape};
use libfuzzer_sys::fuzz_target;
use uuid::Uuid;

const ID: MapId = MapId {
    array: Uuid::from_bytes([7; 16]),
    member: Uuid::from_bytes([3; 16]),
    number: 5,
};

fuzz_target!(|input: (Vec<Vec<u8>>, bool)| {
    let shape = MapShape::new(100_000, 1 << 20);
    let mut loader = Loader::new(ID, shape, 0);
    for (turn, mut bytes) in input.0.into_iter().enumerate() {
        bytes.resize(4096, 0);
        if input.1 {
            bytes[..8].copy_from_slice(b"CAIRNMIS");
            bytes[8..12].copy_from_slice(&1u32.to_le_bytes());
            bytes[12..16].copy_from_slice(&5u32.to_le_bytes());
            bytes[16..32].copy_from_slice(ID.array.as_bytes());
            bytes[32..48].copy_from_slice(ID.member.as_bytes());
            bytes[60..64].fill(0);
            let crc = crc32c::crc32c(&bytes);
            bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        }
        loader.take(turn % 2, &bytes);
    }
    if let Some(mut map) = loader.finish(Seq(0)) {
        let mut again = Loader::new(ID, shape, 0);
        for save in map.take_dirty(Seq(9)) {
            again.take(save.slot, &save.bytes);
        }
        let again = again.finish(Seq(9)).expect("what was saved is read");
        for row in 0..100_000 {
            assert_eq!(map.contains(Row(row)), again.contains(Row(row)));
        }
    }
});
