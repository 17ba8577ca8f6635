//! The kernel's side of ublk: the structures and numbers of `linux/ublk_cmd.h`, as far as they are
//! used here.
//!
//! ```text
//!  control command (the SQE's 80 bytes, 32 used)     I/O command (16 used)
//!   0 dev_id    u32   16 data[0] u64                  0 q_id   u16
//!   4 queue_id  u16   24 dev_path_len u16             2 tag    u16
//!   6 len       u16   26 pad      u16                 4 result i32
//!   8 addr      u64   28 reserved u32                 8 addr   u64
//!
//!  descriptor of a request, one per tag in the mapped table
//!   0 op_flags u32   4 nr_sectors u32   8 start_sector u64   16 addr u64
//! ```
//!
//! All of it is in the machine's byte order: it never leaves the machine.

use nix::libc;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::units::{u32_of, u64_of, usize_of_u32};

/// Where control commands go.
pub(crate) const CONTROL_PATH: &str = "/dev/ublk-control";
/// Sectors are of this size in the whole protocol, whatever the logical block.
pub(crate) const SECTOR_SHIFT: u8 = 9;

// --- commands -----------------------------------------------------------------------------------

/// How commands are encoded as ioctl numbers: direction, size of the structure, `u`, number.
const fn encoded(direction: u32, number: u32, size: usize) -> u32 {
    (direction << 30) | (u32_of(size) << 16) | (117 << 8) | number
}

const READ: u32 = 2;
const READ_WRITE: u32 = 3;

const fn control(direction: u32, number: u32) -> u32 {
    encoded(direction, number, size_of::<ControlCommand>())
}

const fn io(number: u32) -> u32 {
    encoded(READ_WRITE, number, size_of::<IoCommand>())
}

/// A command's number, as the kernel wants it in `cmd_op`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Op(pub(crate) u32);

impl Op {
    pub(crate) const GET_DEV_INFO: Self = Self(control(READ, 0x02));
    pub(crate) const ADD_DEV: Self = Self(control(READ_WRITE, 0x04));
    pub(crate) const DEL_DEV: Self = Self(control(READ_WRITE, 0x05));
    pub(crate) const START_DEV: Self = Self(control(READ_WRITE, 0x06));
    pub(crate) const STOP_DEV: Self = Self(control(READ_WRITE, 0x07));
    pub(crate) const SET_PARAMS: Self = Self(control(READ_WRITE, 0x08));
    pub(crate) const GET_PARAMS: Self = Self(control(READ, 0x09));
    pub(crate) const START_USER_RECOVERY: Self = Self(control(READ_WRITE, 0x10));
    pub(crate) const END_USER_RECOVERY: Self = Self(control(READ_WRITE, 0x11));
    pub(crate) const GET_FEATURES: Self = Self(control(READ, 0x13));
    pub(crate) const DEL_DEV_ASYNC: Self = Self(control(READ, 0x14));
    pub(crate) const UPDATE_SIZE: Self = Self(control(READ_WRITE, 0x15));
    pub(crate) const FETCH_REQ: Self = Self(io(0x20));
    pub(crate) const COMMIT_AND_FETCH_REQ: Self = Self(io(0x21));
}

/// `queue_id` of commands that are about no queue.
pub(crate) const NO_QUEUE: u16 = u16::MAX;
/// `dev_id` that lets the kernel choose a number.
pub(crate) const ANY_DEVICE: u32 = u32::MAX;

/// A control command.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct ControlCommand {
    pub(crate) dev_id: u32,
    pub(crate) queue_id: u16,
    /// Bytes at `addr`.
    pub(crate) len: u16,
    pub(crate) addr: u64,
    pub(crate) data: u64,
    pub(crate) dev_path_len: u16,
    pub(crate) pad: u16,
    pub(crate) reserved: u32,
}
const _: () = assert!(size_of::<ControlCommand>() == 32);

/// A command on a queue: its tag's result, and what the tag is free for.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct IoCommand {
    pub(crate) q_id: u16,
    pub(crate) tag: u16,
    /// Bytes done, or a negative error number.
    pub(crate) result: i32,
    /// Must be 0 with [`features::USER_COPY`].
    pub(crate) addr: u64,
}
const _: () = assert!(size_of::<IoCommand>() == 16);

/// A command's bytes at the start of the SQE's 80.
pub(crate) fn command_bytes(command: &(impl IntoBytes + Immutable)) -> [u8; 80] {
    let mut bytes = [0; 80];
    for (to, from) in bytes.iter_mut().zip(command.as_bytes()) {
        *to = *from;
    }
    bytes
}

// --- devices ------------------------------------------------------------------------------------

/// `UBLK_F_*`: what the driver can, and what a device was made with.
pub(crate) mod features {
    /// The device outlives its server, and waits for another.
    pub(crate) const USER_RECOVERY: u64 = 1 << 3;
    /// What was with the server when it died is given to the next one instead of failing.
    pub(crate) const USER_RECOVERY_REISSUE: u64 = 1 << 4;
    /// Commands are encoded as ioctl numbers.
    pub(crate) const CMD_IOCTL_ENCODE: u64 = 1 << 6;
    /// Data is copied by reading and writing the character device.
    pub(crate) const USER_COPY: u64 = 1 << 7;
    /// The size of a running device can be changed.
    pub(crate) const UPDATE_SIZE: u64 = 1 << 10;

    /// What every device of ours is made with, and the driver must have.
    pub(crate) const WANTED: u64 =
        USER_RECOVERY | USER_RECOVERY_REISSUE | CMD_IOCTL_ENCODE | USER_COPY;
}

/// `UBLK_S_*`: where a device is in its life.
pub(crate) mod state {
    /// Made and not started yet, or stopped.
    pub(crate) const DEAD: u16 = 0;
    /// Its server is gone; requests wait for the next.
    pub(crate) const QUIESCED: u16 = 2;
}

/// What the kernel tells of a device, and is told to make one.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct DeviceInfo {
    pub(crate) nr_hw_queues: u16,
    pub(crate) queue_depth: u16,
    pub(crate) state: u16,
    pub(crate) pad0: u16,
    pub(crate) max_io_buf_bytes: u32,
    pub(crate) dev_id: u32,
    pub(crate) ublksrv_pid: i32,
    pub(crate) pad1: u32,
    pub(crate) flags: u64,
    /// For the server alone; the kernel keeps it as long as the device.
    pub(crate) ublksrv_flags: u64,
    pub(crate) owner_uid: u32,
    pub(crate) owner_gid: u32,
    pub(crate) reserved1: u64,
    pub(crate) reserved2: u64,
}
const _: () = assert!(size_of::<DeviceInfo>() == 64);

/// `UBLK_ATTR_*`.
pub(crate) mod attrs {
    pub(crate) const READ_ONLY: u32 = 1 << 0;
    pub(crate) const ROTATIONAL: u32 = 1 << 1;
    pub(crate) const VOLATILE_CACHE: u32 = 1 << 2;
    pub(crate) const FUA: u32 = 1 << 3;
}

/// `UBLK_PARAM_TYPE_*`: which parts of [`Params`] hold.
pub(crate) mod param_types {
    pub(crate) const BASIC: u32 = 1 << 0;
    pub(crate) const DISCARD: u32 = 1 << 1;
}

/// Size, blocks and attributes.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub(crate) struct BasicParams {
    pub(crate) attrs: u32,
    pub(crate) logical_bs_shift: u8,
    pub(crate) physical_bs_shift: u8,
    pub(crate) io_opt_shift: u8,
    pub(crate) io_min_shift: u8,
    pub(crate) max_sectors: u32,
    pub(crate) chunk_sectors: u32,
    pub(crate) dev_sectors: u64,
    pub(crate) virt_boundary_mask: u64,
}
const _: () = assert!(size_of::<BasicParams>() == 32);

/// What may be discarded and zeroed with one request.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub(crate) struct DiscardParams {
    pub(crate) discard_alignment: u32,
    pub(crate) discard_granularity: u32,
    pub(crate) max_discard_sectors: u32,
    pub(crate) max_write_zeroes_sectors: u32,
    pub(crate) max_discard_segments: u16,
    pub(crate) reserved: u16,
}
const _: () = assert!(size_of::<DiscardParams>() == 20);

/// A device's parameters. The kernel's structure goes on: `len` says how much of it there is.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub(crate) struct Params {
    pub(crate) len: u32,
    pub(crate) types: u32,
    pub(crate) basic: BasicParams,
    pub(crate) discard: DiscardParams,
    pub(crate) reserved: u32,
}
const _: () = assert!(size_of::<Params>() == 64);

// --- requests -----------------------------------------------------------------------------------

/// `UBLK_IO_OP_*`, the low byte of `op_flags`.
pub(crate) mod io_op {
    pub(crate) const READ: u32 = 0;
    pub(crate) const WRITE: u32 = 1;
    pub(crate) const FLUSH: u32 = 2;
    pub(crate) const DISCARD: u32 = 3;
    pub(crate) const WRITE_ZEROES: u32 = 5;
    pub(crate) const MASK: u32 = 0xff;
}

/// `UBLK_IO_F_*`, the rest of it.
pub(crate) mod io_flag {
    pub(crate) const FUA: u32 = 1 << 13;
    pub(crate) const NOUNMAP: u32 = 1 << 15;
}

/// A request, as the kernel describes it in the mapped table.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub(crate) struct Descriptor {
    pub(crate) op_flags: u32,
    pub(crate) nr_sectors: u32,
    pub(crate) start_sector: u64,
    pub(crate) addr: u64,
}
const _: () = assert!(size_of::<Descriptor>() == 24);

/// A command that ended so has a request: nothing was wrong.
pub(crate) const RESULT_OK: i32 = 0;
/// The device is being stopped: no request comes any more.
pub(crate) const RESULT_ABORT: i32 = -libc::ENODEV;

/// The data of all requests begins here in the character device.
const DATA_OFFSET: u64 = 0x8000_0000;
/// Bits of an offset within one request's data.
const DATA_BITS: u32 = 25;

/// The most that one request may carry.
pub(crate) const MAX_IO_BYTES: u32 = 1 << DATA_BITS;

/// Where a tag's data is in the character device. Of queue 0: there is no other.
pub(crate) fn data_offset(tag: u16) -> u64 {
    DATA_OFFSET + (u64::from(tag) << DATA_BITS)
}

/// Bytes of the table of descriptors of a queue: whole pages.
pub(crate) fn table_bytes(depth: u16) -> usize {
    let page = 4096;
    (usize::from(depth) * size_of::<Descriptor>()).next_multiple_of(page)
}

/// The structure's length, as commands carry it.
pub(crate) fn len_u16(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}

/// Sectors in so many bytes, as far as 32 bits go.
pub(crate) fn sectors(bytes: u64) -> u32 {
    u32::try_from(bytes >> SECTOR_SHIFT).unwrap_or(u32::MAX)
}

/// Bytes in so many sectors.
pub(crate) fn sector_bytes(sectors: u32) -> u64 {
    u64_of(usize_of_u32(sectors)) << SECTOR_SHIFT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_have_the_numbers_of_the_kernels_header() {
        // As printed by a C program over linux/ublk_cmd.h of Linux 6.12.
        for (op, number) in [
            (Op::GET_DEV_INFO, 0x8020_7502),
            (Op::ADD_DEV, 0xc020_7504),
            (Op::DEL_DEV, 0xc020_7505),
            (Op::START_DEV, 0xc020_7506),
            (Op::STOP_DEV, 0xc020_7507),
            (Op::SET_PARAMS, 0xc020_7508),
            (Op::GET_PARAMS, 0x8020_7509),
            (Op::START_USER_RECOVERY, 0xc020_7510),
            (Op::END_USER_RECOVERY, 0xc020_7511),
            (Op::GET_FEATURES, 0x8020_7513),
            (Op::DEL_DEV_ASYNC, 0x8020_7514),
            (Op::FETCH_REQ, 0xc010_7520),
            (Op::COMMIT_AND_FETCH_REQ, 0xc010_7521),
        ] {
            assert_eq!(op.0, number, "{:#x}", op.0);
        }
    }

    #[test]
    fn every_tag_has_its_own_place_for_data() {
        assert_eq!(data_offset(0), 0x8000_0000);
        assert_eq!(data_offset(3), 0x8000_0000 + 3 * u64::from(MAX_IO_BYTES));
        assert_eq!((table_bytes(1), table_bytes(171)), (4096, 8192));
    }

    #[test]
    fn a_commands_bytes_lead_and_zeros_follow() {
        let command = IoCommand {
            q_id: 1,
            tag: 2,
            result: -5,
            addr: 0,
        };
        let bytes = command_bytes(&command);
        assert_eq!(&bytes[..16], command.as_bytes());
        assert!(bytes[16..].iter().all(|&byte| byte == 0));
    }
}
