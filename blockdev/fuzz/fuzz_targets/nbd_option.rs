//! Option payloads: any bytes decode to a request or an error, and hold no more than they spell out.
#![no_main]

use cairn_blockdev::export::nbd::option::OptionRequest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u32, &[u8])| {
    let (option, payload) = input;
    // Low numbers are the options that exist.
    if let Ok(OptionRequest::MetaContext { name, queries, .. }) =
        OptionRequest::decode(option % 16, payload)
    {
        let held: usize = queries.iter().map(|query| 4 + query.len()).sum();
        assert_eq!(8 + name.len() + held, payload.len());
    }
});
