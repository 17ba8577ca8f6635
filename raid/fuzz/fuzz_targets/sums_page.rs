//! Checksum pages: any bytes, with a right checksum or without, decode or are refused; what is
//! accepted encodes to a page that says the same.
#![no_main]

use cairn_raid::integrity::page::{PageId, SumsPage, encode};
use cairn_raid::integrity::place::PageNumber;
use libfuzzer_sys::fuzz_target;
use uuid::Uuid;

fuzz_target!(|input: (Vec<u8>, bool, u8)| {
    let (mut bytes, seal, members) = input;
    let members = 2 + usize::from(members) % 31;
    let id = PageId {
        array: Uuid::from_bytes([7; 16]),
        page: PageNumber(5),
        words: 1008 / members,
        members,
    };
    if seal {
        bytes.resize(4096, 0);
        bytes[..8].copy_from_slice(b"CAIRNSUM");
        bytes[12..16].copy_from_slice(&(members as u32).to_le_bytes());
        bytes[16..32].copy_from_slice(id.array.as_bytes());
        bytes[32..40].copy_from_slice(&id.page.0.to_le_bytes());
        bytes[48..52].copy_from_slice(&(id.words as u32).to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..4092]);
        bytes[4092..].copy_from_slice(&crc.to_le_bytes());
    }
    if let Ok(page) = SumsPage::decode(&id, &bytes) {
        let sums: Vec<u32> = page.sums().collect();
        let again = encode(&id, page.generation(), &sums);
        let back = SumsPage::decode(&id, &again).unwrap();
        assert_eq!(back.generation(), page.generation());
        assert!(back.agrees(&page));
    }
});
