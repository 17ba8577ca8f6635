//! CRC-32C, by the fastest way that this CPU has.
//!
//! Two implementations that know nothing of each other stand behind it: carry-less products
//! (crc-fast), and the CPU's CRC instruction or tables (crc32c). Before the first sum is given they are
//! compared; where they differ the second one is taken, for good, and that is said.

use std::sync::OnceLock;

/// Where the two are compared: around the sizes at which implementations change their ways.
const COMPARED: [usize; 12] = [0, 1, 7, 8, 63, 64, 255, 256, 512, 1021, 4096, 9000];

static IS_FAST_RIGHT: OnceLock<bool> = OnceLock::new();

/// The sum of some bytes.
pub fn crc32c(bytes: &[u8]) -> u32 {
    if *IS_FAST_RIGHT.get_or_init(compare) {
        crc_fast::crc32_iscsi(bytes)
    } else {
        crc32c::crc32c(bytes)
    }
}

/// The sum of what `sum` is the sum of, and `bytes` behind it.
pub fn crc32c_append(sum: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(sum, bytes)
}

fn compare() -> bool {
    let mut word = 0x2545_f491_u32;
    let bytes: Vec<u8> = (0..10_000)
        .map(|_| {
            word ^= word << 13;
            word ^= word >> 17;
            word ^= word << 5;
            word.to_le_bytes()[0]
        })
        .collect();
    let same = COMPARED.iter().all(|len| {
        let bytes = bytes.get(..*len).unwrap_or_default();
        crc_fast::crc32_iscsi(bytes) == crc32c::crc32c(bytes)
    });
    if !same {
        tracing::error!(
            "two implementations of CRC-32C differ on this processor; the plainer one is used"
        );
    }
    same
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_sum_is_castagnolis() {
        // The check value of the catalogue, and RFC 3720's examples (B.4).
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn both_implementations_agree_here() {
        assert!(compare());
    }

    proptest! {
        #[test]
        fn sums_are_the_same_whichever_way_and_in_pieces(
            bytes in proptest::collection::vec(any::<u8>(), 0..9000),
            cut in 0usize..9000,
        ) {
            let (before, after) = bytes.split_at(cut.min(bytes.len()));
            prop_assert_eq!(crc32c(&bytes), crc32c::crc32c(&bytes));
            prop_assert_eq!(crc32c_append(crc32c(before), after), crc32c(&bytes));
        }
    }
}
