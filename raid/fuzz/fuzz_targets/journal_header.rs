//! Journal headers: any bytes, with a right checksum or without, decode or are refused; what is
//! accepted encodes to something that decodes to the same, and is found again in its slot.
#![no_main]

use cairn_raid::journal::header::{JournalHeader, SLOTS, newest};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<u8>, bool)| {
    let (mut block, seal) = input;
    if seal {
        block.resize(4096, 0);
        block[..8].copy_from_slice(b"CAIRNJNL");
        block[8..12].copy_from_slice(&1u32.to_le_bytes());
        block[80..84].fill(0);
        let crc = crc32c::crc32c(&block);
        block[80..84].copy_from_slice(&crc.to_le_bytes());
    }
    if let Ok(header) = JournalHeader::decode(&block) {
        assert_eq!(JournalHeader::decode(&header.encode()), Ok(header));
        let (mut a, mut b) = (vec![0; 4096], vec![0; 4096]);
        *(if header.slot() == SLOTS[0] {
            &mut a
        } else {
            &mut b
        }) = block;
        assert_eq!(newest(&a, &b), Ok(header));
    }
});
