//! Requests: any bytes decode or are refused, and what is accepted is aligned and inside.
#![no_main]

use cairn_blockdev::export::nbd::context::Contexts;
use cairn_blockdev::export::nbd::framing::Framing;
use cairn_blockdev::export::nbd::proto::{EXTENDED_REQUEST_MAGIC, REQUEST_MAGIC};
use cairn_blockdev::export::nbd::request::{
    Command, EXTENDED_REQUEST_BYTES, REQUEST_BYTES, Request, STATUS_PAYLOAD_MAX_BYTES, Terms,
};
use libfuzzer_sys::fuzz_target;

/// A compact request, an extended one, its payload; and what they are judged by.
type Input<'a> = (
    [u8; REQUEST_BYTES],
    [u8; EXTENDED_REQUEST_BYTES],
    &'a [u8],
    u64,
    bool,
    bool,
);

fn judged(request: Request, command: Command, terms: &Terms) {
    if matches!(command, Command::Disconnect | Command::NarrowedBlockStatus) {
        return;
    }
    let end = request.offset.checked_add(request.len);
    assert!(end.is_some_and(|end| end <= terms.size));
    assert!(request.offset % 512 == 0 && request.len % 512 == 0);
}

fuzz_target!(|input: Input<'_>| {
    let (mut compact, mut extended, payload, size, read_only, structured) = input;
    compact[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
    extended[..4].copy_from_slice(&EXTENDED_REQUEST_MAGIC.to_be_bytes());
    let mut terms = Terms {
        size: size / 512 * 512,
        block: 512,
        read_only,
        framing: if structured {
            Framing::Structured
        } else {
            Framing::Simple
        },
        contexts: if structured {
            Contexts::ALL
        } else {
            Contexts::default()
        },
    };
    let request = Request::decode(compact).expect("the magic is right");
    assert_eq!(request.encode(), compact);
    if let Ok(command) = request.judge(&terms) {
        judged(request, command, &terms);
    }
    terms.framing = Framing::Extended;
    let request = Request::decode_extended(extended).expect("the magic is right");
    assert_eq!(request.encode_extended(), extended);
    if let Ok(command) = request.judge(&terms) {
        judged(request, command, &terms);
    }
    let payload = &payload[..payload.len().min(STATUS_PAYLOAD_MAX_BYTES)];
    if let Ok((request, command)) = request.narrowed(payload, &terms) {
        judged(request, command, &terms);
    }
});
