//! Bad-block lists: any bytes, with a right checksum or without, decode or are refused; what is
//! accepted encodes to something that decodes to the same.
#![no_main]

use cairn_raid::defects::{Defects, bytes_needed};
use libfuzzer_sys::fuzz_target;
use uuid::Uuid;

const ARRAY: Uuid = Uuid::from_bytes([7; 16]);

fuzz_target!(|input: (Vec<u8>, bool)| {
    let (mut bytes, seal) = input;
    if seal {
        bytes.resize(bytes.len().max(128), 0);
        bytes[..8].copy_from_slice(b"CAIRNBAD");
        bytes[8..12].copy_from_slice(&1u32.to_le_bytes());
        let count = (bytes.len() - 128) / 24;
        bytes[12..16].copy_from_slice(&(count as u32).to_le_bytes());
        bytes[16..32].copy_from_slice(ARRAY.as_bytes());
        let end = 128 + count * 24;
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..124]), &bytes[128..end]);
        bytes[124..128].copy_from_slice(&crc.to_le_bytes());
    }
    let _ = bytes_needed(&bytes);
    if let Ok(defects) = Defects::decode(&bytes, ARRAY) {
        let again = Defects::decode(&defects.encode(defects.generation()), ARRAY);
        assert_eq!(again, Ok(defects));
    }
});
