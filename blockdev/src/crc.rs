//! CRC-32C, by the fastest way that this CPU has.
//!
//! ```text
//!                        256 bytes and more                      fewer
//!  AVX-512, VPCLMULQDQ   `x86::fold`                             `x86::step`
//!  other x86-64          crc-fast; crc32c behind other bytes     `x86::step`
//!  others                crc-fast; crc32c behind other bytes     crc32c
//! ```
//!
//! Before the first sum is given, every way that would be taken is compared with the definition, bit by bit;
//! where they differ the crc32c crate's is taken, for good, and that is said.

#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::OnceLock;

/// Where they are compared: around the sizes at which implementations change their ways.
const COMPARED: [usize; 14] = [
    0, 1, 7, 8, 63, 64, 255, 256, 257, 511, 512, 1021, 4096, 9000,
];
/// From so many bytes on the folding pays.
const FOLD_FROM: usize = 256;

/// The ways that are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ways {
    /// [`FOLD_FROM`] bytes and more.
    long: Way,
    /// Fewer.
    short: Way,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    #[cfg(target_arch = "x86_64")]
    Fold,
    #[cfg(target_arch = "x86_64")]
    Step,
    Products,
    Plain,
}

static WAYS: OnceLock<Ways> = OnceLock::new();

/// The sum of some bytes.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc32c_append(0, bytes)
}

/// The sum of what `sum` is the sum of, and `bytes` behind it.
#[inline]
pub fn crc32c_append(sum: u32, bytes: &[u8]) -> u32 {
    let ways = ways();
    let way = if bytes.len() < FOLD_FROM {
        ways.short
    } else {
        ways.long
    };
    way.append(sum, bytes)
}

/// What long runs of bytes are summed by, for people.
pub fn kernel() -> &'static str {
    match ways().long {
        #[cfg(target_arch = "x86_64")]
        Way::Fold => "avx512+vpclmulqdq",
        #[cfg(target_arch = "x86_64")]
        Way::Step => "sse4.2",
        Way::Products => "crc-fast",
        Way::Plain => "crc32c",
    }
}

fn ways() -> Ways {
    *WAYS.get_or_init(|| Ways {
        long: Way::long().checked(FOLD_FROM),
        short: Way::short().checked(0),
    })
}

impl Way {
    /// The fastest for many bytes.
    fn long() -> Self {
        #[cfg(target_arch = "x86_64")]
        if x86::can_fold() {
            return Self::Fold;
        }
        Self::Products
    }

    /// The fastest for few.
    fn short() -> Self {
        #[cfg(target_arch = "x86_64")]
        if x86::can_step() {
            return Self::Step;
        }
        Self::Plain
    }

    #[inline]
    fn append(self, sum: u32, bytes: &[u8]) -> u32 {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: only `long` chooses this, where the CPU has what it needs.
            Self::Fold => !unsafe { x86::fold(!sum, bytes) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: only `short` chooses this, where the CPU has what it needs.
            Self::Step => !unsafe { x86::step(!sum, bytes) },
            Self::Products if sum == 0 => crc_fast::crc32_iscsi(bytes),
            Self::Products | Self::Plain => crc32c::crc32c_append(sum, bytes),
        }
    }

    /// This one, if it is right from so many bytes on.
    fn checked(self, from: usize) -> Self {
        if self.is_right(from) {
            return self;
        }
        tracing::error!("CRC-32C by {self:?} is wrong on this processor; a plainer way is used");
        Self::Plain
    }

    fn is_right(self, from: usize) -> bool {
        let mut word = 0x2545_f491_u32;
        let bytes: Vec<u8> = (0..10_000)
            .map(|_| {
                word ^= word << 13;
                word ^= word >> 17;
                word ^= word << 5;
                word.to_le_bytes()[0]
            })
            .collect();
        let mut lens = COMPARED.iter().filter(|len| **len >= from);
        lens.all(|len| {
            let bytes = bytes.get(..*len).unwrap_or_default();
            [0, word]
                .into_iter()
                .all(|sum| self.append(sum, bytes) == by_definition(sum, bytes))
        })
    }
}

/// Castagnoli's polynomial without x³², the coefficient of x³¹ in the lowest bit.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Bit by bit.
fn by_definition(sum: u32, bytes: &[u8]) -> u32 {
    let of_byte = |sum: u32, byte: &u8| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ if sum & 1 == 1 { POLYNOMIAL } else { 0 }
        })
    };
    !bytes.iter().fold(!sum, of_byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every way that this CPU has, and from how many bytes on.
    fn every() -> Vec<(Way, usize)> {
        let mut every = vec![(Way::Products, 0), (Way::Plain, 0)];
        #[cfg(target_arch = "x86_64")]
        {
            every.extend(x86::can_fold().then_some((Way::Fold, FOLD_FROM)));
            every.extend(x86::can_step().then_some((Way::Step, 0)));
        }
        every
    }

    #[test]
    fn the_sum_is_castagnolis() {
        // The check value of the catalogue, and RFC 3720's examples (B.4).
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        let block: Vec<u8> = (0..=250).cycle().take(4096).collect();
        assert_eq!(crc32c(&block), by_definition(0, &block));
    }

    #[test]
    fn every_way_is_right_here() {
        for (way, from) in every() {
            assert!(way.is_right(from), "{way:?}");
            assert_eq!(way.checked(from), way);
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn too_few_bytes_are_not_folded() {
        let folded = || Way::Fold.append(0, &[0; FOLD_FROM - 1]);
        assert!(!x86::can_fold() || std::panic::catch_unwind(folded).is_err());
    }

    #[test]
    fn a_flipped_bit_anywhere_in_a_block_changes_the_sum() {
        let mut block = vec![0x5a; 4096];
        let before = crc32c(&block);
        for bit in 0..8 * block.len() {
            block[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(crc32c(&block), before, "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
    }

    proptest! {
        #[test]
        fn sums_are_the_same_whichever_way_from_any_address_and_in_pieces(
            bytes in proptest::collection::vec(any::<u8>(), 0..9000),
            start in 0usize..70, cut in 0usize..9000, sum in any::<u32>(),
        ) {
            let bytes = &bytes[start.min(bytes.len())..];
            let right = crc32c::crc32c_append(sum, bytes);
            for (way, from) in every() {
                if bytes.len() >= from {
                    prop_assert_eq!(way.append(sum, bytes), right, "{:?}", way);
                }
            }
            let (before, after) = bytes.split_at(cut.min(bytes.len()));
            prop_assert_eq!(crc32c(bytes), by_definition(0, bytes));
            prop_assert_eq!(crc32c_append(crc32c(before), after), crc32c(bytes));
        }
    }
}
