//! Witness files: any bytes decode or are refused, and what is accepted comes back the same.
#![no_main]

use cairn_raid::Witness;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(witness) = Witness::from_bytes(bytes) {
        assert_eq!(witness.to_bytes(), bytes);
    }
});
