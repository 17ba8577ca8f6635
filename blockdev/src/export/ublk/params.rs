//! A device's shape in the kernel's words.

use super::uapi::{BasicParams, DiscardParams, Params, SECTOR_SHIFT, attrs, param_types, sectors};
use crate::device::DeviceGeometry;
use crate::units::u32_of;

/// The most that one request carries: a row of eight chunks of 64 KiB. With [`DEPTH`] it bounds the
/// memory of a device's requests to 64 MiB.
pub(crate) const MAX_IO_BYTES: u32 = 512 << 10;
/// Requests that a device has under way.
pub(crate) const DEPTH: u16 = 128;
/// The most that one discard or write of zeros covers: whole rows of it cost nothing, and the
/// request after it isn't kept waiting.
const RANGE_MAX_BYTES: u64 = 1 << 30;
/// What a write should be a multiple of, if it may: the unit of checksums.
const PHYSICAL_BLOCK: u32 = 4096;

/// What is chosen about a device, beside what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Logical block in bytes: 512 or 4096.
    pub logical_block: u32,
    /// The kernel refuses writes.
    pub read_only: bool,
}

/// The largest power of two that divides `bytes`, as a shift of at least `least`: the kernel takes
/// hints only so.
fn shift_of(bytes: u32, least: u8) -> u8 {
    match bytes {
        0 => least,
        bytes => u8::try_from(bytes.trailing_zeros()).map_or(least, |shift| shift.max(least)),
    }
}

/// The parameters of a device of this geometry.
pub(crate) fn params(geometry: &DeviceGeometry, choice: Choice) -> Params {
    let logical_block = choice.logical_block.max(geometry.logical_block);
    let logical = shift_of(logical_block, SECTOR_SHIFT);
    let physical = shift_of(logical_block.max(PHYSICAL_BLOCK), logical);
    let io_min = shift_of(geometry.io_min, physical);
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    Params {
        len: u32_of(size_of::<Params>()),
        types: param_types::BASIC | param_types::DISCARD,
        basic: BasicParams {
            attrs: flag(choice.read_only, attrs::READ_ONLY)
                | flag(geometry.rotational, attrs::ROTATIONAL)
                | flag(geometry.write_cache, attrs::VOLATILE_CACHE | attrs::FUA),
            logical_bs_shift: logical,
            physical_bs_shift: physical,
            io_opt_shift: shift_of(geometry.io_opt, io_min),
            io_min_shift: io_min,
            max_sectors: sectors(u64::from(MAX_IO_BYTES)),
            chunk_sectors: 0,
            dev_sectors: (geometry.size >> logical << logical) >> SECTOR_SHIFT,
            virt_boundary_mask: 0,
        },
        discard: DiscardParams {
            discard_alignment: 0,
            discard_granularity: geometry.io_opt.max(logical_block),
            max_discard_sectors: sectors(RANGE_MAX_BYTES),
            max_write_zeroes_sectors: sectors(RANGE_MAX_BYTES),
            max_discard_segments: 1,
            reserved: 0,
        },
        reserved: 0,
    }
}

/// Bytes of a device with these parameters.
pub(crate) fn size_of_device(params: &Params) -> u64 {
    params.basic.dev_sectors.saturating_mul(1 << SECTOR_SHIFT)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GEOMETRY: DeviceGeometry = DeviceGeometry {
        size: (1 << 30) + 4096,
        logical_block: 512,
        physical_block: 512,
        io_min: 64 << 10,
        io_opt: 512 << 10,
        rotational: false,
        write_cache: true,
    };

    fn basic(geometry: DeviceGeometry, logical_block: u32) -> BasicParams {
        let choice = Choice {
            logical_block,
            read_only: false,
        };
        params(&geometry, choice).basic
    }

    #[test]
    fn blocks_hints_and_attributes_are_the_devices() {
        let shown = basic(GEOMETRY, 4096);
        assert_eq!((shown.logical_bs_shift, shown.physical_bs_shift), (12, 12));
        assert_eq!((shown.io_min_shift, shown.io_opt_shift), (16, 19));
        assert_eq!(shown.attrs, attrs::VOLATILE_CACHE | attrs::FUA);
        assert_eq!(shown.dev_sectors, (1 << 21) + 8);
        let shown = basic(GEOMETRY, 512);
        assert_eq!((shown.logical_bs_shift, shown.physical_bs_shift), (9, 12));
    }

    #[test]
    fn a_row_that_is_no_power_of_two_is_hinted_by_what_divides_it_and_discarded_whole() {
        let geometry = DeviceGeometry {
            io_opt: 3 * (64 << 10),
            ..GEOMETRY
        };
        assert_eq!(basic(geometry, 4096).io_opt_shift, 16);
        let choice = Choice {
            logical_block: 4096,
            read_only: true,
        };
        let params = params(&geometry, choice);
        assert_eq!(params.discard.discard_granularity, 3 * (64 << 10));
        assert!(params.basic.attrs & attrs::READ_ONLY != 0);
    }

    #[test]
    fn a_device_without_hints_or_of_larger_blocks_is_no_riddle() {
        let geometry = DeviceGeometry {
            logical_block: 4096,
            io_min: 0,
            io_opt: 0,
            size: 4096 * 3,
            write_cache: false,
            ..GEOMETRY
        };
        let shown = basic(geometry, 512);
        assert_eq!((shown.logical_bs_shift, shown.io_opt_shift), (12, 12));
        assert_eq!((shown.attrs, shown.dev_sectors), (0, 24));
    }

    #[test]
    fn a_last_piece_smaller_than_a_block_is_not_shown() {
        let geometry = DeviceGeometry {
            size: 4096 + 512,
            ..GEOMETRY
        };
        assert_eq!(basic(geometry, 4096).dev_sectors, 8);
        assert_eq!(basic(geometry, 512).dev_sectors, 9);
    }
}
