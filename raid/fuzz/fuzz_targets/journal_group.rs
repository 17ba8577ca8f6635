//! Journal groups: any bytes, with a right checksum or without, decode or are refused; what is
//! accepted encodes to something that decodes to the same, and its payload lies where it says.
#![no_main]

use cairn_raid::journal::group::{
    Damage, GROUP_BYTES_MAX, decode, descriptor_bytes, encode, payload_is_intact,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<u8>, bool)| {
    let (mut bytes, seal) = input;
    if seal {
        bytes.resize(bytes.len().next_multiple_of(4096).clamp(4096, 64 * 4096), 0);
        bytes[..8].copy_from_slice(b"CAIRNGRP");
        bytes[8..12].copy_from_slice(&1u32.to_le_bytes());
        // At least one block, and no more than there are.
        let blocks = 1 + u32::from(bytes[12]) % (bytes.len() as u32 / 4096);
        bytes[12..16].copy_from_slice(&blocks.to_le_bytes());
        bytes[80..84].fill(0);
        let crc = crc32c::crc32c(&bytes[..blocks as usize * 4096]);
        bytes[80..84].copy_from_slice(&crc.to_le_bytes());
    }
    match decode(&bytes) {
        Ok(group) => {
            assert!(group.bytes() <= GROUP_BYTES_MAX);
            assert_eq!(group.descriptor_len, descriptor_bytes(&group.entries));
            let mut end = group.descriptor_len;
            for index in 0..group.entries.len() {
                let range = group.payload_range(index).unwrap();
                assert_eq!(range.start, end);
                end = range.end;
            }
            assert_eq!(end, group.bytes());
            if let Some(payload) = bytes.get(group.descriptor_len..end) {
                let _ = payload_is_intact(&group, payload);
            }
            let mut again = vec![0; group.descriptor_len];
            encode(&group.head, &group.entries, &mut again);
            assert_eq!(decode(&again), Ok(group));
        }
        Err(Damage::Short { needs }) => assert!(needs > bytes.len() && needs <= GROUP_BYTES_MAX),
        Err(_) => {}
    }
});
