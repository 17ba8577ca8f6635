//! Requests: any bytes decode or are refused, and what is accepted is aligned and inside.
#![no_main]

use cairn_blockdev::export::nbd::proto::REQUEST_MAGIC;
use cairn_blockdev::export::nbd::request::{Command, REQUEST_BYTES, Request, Terms};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: ([u8; REQUEST_BYTES], u64, bool, bool)| {
    let (mut bytes, size, read_only, structured) = input;
    bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
    let terms = Terms {
        size: size / 512 * 512,
        block: 512,
        read_only,
        structured,
        block_status: structured,
    };
    let request = Request::decode(bytes).expect("the magic is right");
    assert_eq!(request.encode(), bytes);
    match request.judge(&terms) {
        Err(_) | Ok(Command::Disconnect) => {}
        Ok(_) => {
            let end = request.offset.checked_add(u64::from(request.len));
            assert!(end.is_some_and(|end| end <= terms.size));
            assert!(request.offset % 512 == 0 && request.len % 512 == 0);
        }
    }
});
