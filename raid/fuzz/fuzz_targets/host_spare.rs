//! Labels of disks in a host's pool: any bytes, with a right checksum or without, decode or are refused;
//! what is accepted encodes to something that decodes to the same, and no member's label is accepted.
#![no_main]

use cairn_raid::HostSpare;
use cairn_raid::label::Label;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<u8>, bool)| {
    let (mut bytes, seal) = input;
    if seal {
        bytes.resize(4096, 0);
        bytes[..8].copy_from_slice(b"CAIRNLBL");
        let crc = crc32c::crc32c(&bytes[..4092]);
        bytes[4092..].copy_from_slice(&crc.to_le_bytes());
    }
    if let Ok(spare) = HostSpare::decode(&bytes) {
        assert!(Label::decode(&bytes).is_err());
        assert_eq!(HostSpare::decode(&spare.encode()), Ok(spare));
    }
});
