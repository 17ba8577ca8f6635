//! Binding a block's crc to its place, so that a right block at a wrong place fails (fault D7).
//!
//! ```text
//!  stored = crc32c(data) ⊕ crc32c(array uuid ‖ slot, u32 le ‖ block of the data zone, u64 le)
//! ```
//!
//! The crc of the data comes back by the same operation, so that two replicas can compare theirs.
//!
//! Does not know: where sums are kept.

use cairn_blockdev::units::u32_of;
use uuid::Uuid;

use crate::geometry::Slot;

/// The sealing of one array's sums.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seal {
    /// crc32c of the array's UUID: every address begins with it.
    array_crc: u32,
}

impl Seal {
    pub(crate) fn new(array: Uuid) -> Self {
        Self {
            array_crc: cairn_blockdev::crc::crc32c(array.as_bytes()),
        }
    }

    /// The sum to be stored for `crc` at `block` of `slot`; and, of a stored sum, the crc.
    pub(crate) fn apply(self, slot: Slot, block: u64, crc: u32) -> u32 {
        let mut address = [0; 12];
        let (slot_bytes, block_bytes) = address.split_at_mut(4);
        slot_bytes.copy_from_slice(&u32_of(slot.0).to_le_bytes());
        block_bytes.copy_from_slice(&block.to_le_bytes());
        crc ^ cairn_blockdev::crc::crc32c_append(self.array_crc, &address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_sum_is_what_the_format_says() {
        let array = Uuid::from_bytes([9; 16]);
        let mut address = array.as_bytes().to_vec();
        address.extend(3u32.to_le_bytes());
        address.extend(0x1234_5678_9ABC_u64.to_le_bytes());
        let crc = cairn_blockdev::crc::crc32c(b"data");
        assert_eq!(
            Seal::new(array).apply(Slot(3), 0x1234_5678_9ABC, crc),
            crc ^ cairn_blockdev::crc::crc32c(&address)
        );
    }

    proptest! {
        #[test]
        fn d7_no_two_near_places_share_a_seal(
            slot in 0usize..32, other_slot in 0usize..32,
            block in 0u64..1 << 40, distance in 1u64..1 << 20, crc in any::<u32>(),
        ) {
            let seal = Seal::new(Uuid::from_bytes([1; 16]));
            let stored = seal.apply(Slot(slot), block, crc);
            prop_assert_eq!(seal.apply(Slot(slot), block, stored), crc);
            prop_assert_ne!(seal.apply(Slot(slot), block + distance, crc), stored);
            if slot != other_slot {
                prop_assert_ne!(seal.apply(Slot(other_slot), block, crc), stored);
            }
            let foreign = Seal::new(Uuid::from_bytes([2; 16]));
            prop_assert_ne!(foreign.apply(Slot(slot), block, crc), stored);
        }
    }
}
