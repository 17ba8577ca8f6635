//! Checked conversions between integer widths, and the sizes that everything leans on.
//!
//! `as` is denied in the workspace because it truncates without a word; these are the few places
//! where a conversion can't fail, or where failing is our own bug.

// Offsets and lengths are u64 on disk and usize in memory; the code relies on the two being alike.
const _: () = assert!(usize::BITS == 64, "Cairn needs a 64-bit target");

/// The unit of checksums, row plans and member I/O.
pub const BLOCK_BYTES: usize = 4096;
/// [`BLOCK_BYTES`] as the type of device offsets.
pub const BLOCK: u64 = 4096;
/// The smallest unit a client may address.
pub const SECTOR: u64 = 512;
/// 1 KiB.
pub const KIB: u64 = 1 << 10;
/// 1 MiB.
pub const MIB: u64 = 1 << 20;
/// 1 GiB.
pub const GIB: u64 = 1 << 30;

/// A length in memory as a device length.
#[expect(
    clippy::as_conversions,
    reason = "widths are equal by the assertion above"
)]
pub const fn u64_of(value: usize) -> u64 {
    value as u64
}

/// A device length as a length in memory.
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "widths are equal by the assertion above"
)]
pub const fn usize_of(value: u64) -> usize {
    value as usize
}

/// A length known to fit 32 bits; a larger one is our own bug and panics.
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "checked by the assertion before it"
)]
pub const fn u32_of(value: usize) -> u32 {
    assert!(value <= usize_of_u32(u32::MAX), "value exceeds 32 bits");
    value as u32
}

/// A 32-bit value as a length in memory.
#[expect(clippy::as_conversions, reason = "widening")]
pub const fn usize_of_u32(value: u32) -> usize {
    value as usize
}

/// `value` rounded down to a multiple of `unit`.
pub const fn align_down(value: u64, unit: u64) -> u64 {
    value - value % unit
}

/// `value` rounded up to a multiple of `unit`; `None` past `u64::MAX`.
pub const fn align_up(value: u64, unit: u64) -> Option<u64> {
    value.checked_next_multiple_of(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alignment_rounds_both_ways() {
        assert_eq!(align_down(4097, 4096), 4096);
        assert_eq!(align_up(4097, 4096), Some(8192));
        assert_eq!(align_up(0, 4096), Some(0));
        assert_eq!(align_up(u64::MAX, 4096), None);
    }
}
