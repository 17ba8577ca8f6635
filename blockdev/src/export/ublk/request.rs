//! What the kernel asks of a device, from a descriptor: pure, and total over all descriptors.

use nix::libc;

use super::uapi::{Descriptor, SECTOR_SHIFT, io_flag, io_op, sector_bytes};
use crate::error::IoErrorKind;

/// A request that can be carried out, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    Read {
        offset: u64,
        len: u32,
    },
    Write {
        offset: u64,
        len: u32,
        fua: bool,
    },
    Flush,
    Discard {
        offset: u64,
        len: u64,
    },
    Zero {
        offset: u64,
        len: u64,
        fua: bool,
        no_hole: bool,
    },
}

impl Request {
    /// Reads a descriptor; requests with data carry at most `max_io` bytes. The error is the number
    /// that the kernel is answered with.
    pub(crate) fn decode(descriptor: &Descriptor, max_io: u32) -> Result<Self, i32> {
        let flags = descriptor.op_flags;
        let fua = flags & io_flag::FUA != 0;
        let op = flags & io_op::MASK;
        if op == io_op::FLUSH {
            return Ok(Self::Flush);
        }
        let offset = descriptor
            .start_sector
            .checked_mul(1 << SECTOR_SHIFT)
            .ok_or(libc::EIO)?;
        let len = sector_bytes(descriptor.nr_sectors);
        let data_len = || match u32::try_from(len) {
            Ok(len) if len > 0 && len <= max_io => Ok(len),
            _ => Err(libc::EIO),
        };
        match op {
            io_op::READ => Ok(Self::Read {
                offset,
                len: data_len()?,
            }),
            io_op::WRITE => Ok(Self::Write {
                offset,
                len: data_len()?,
                fua,
            }),
            io_op::DISCARD => Ok(Self::Discard { offset, len }),
            io_op::WRITE_ZEROES => Ok(Self::Zero {
                offset,
                len,
                fua,
                no_hole: flags & io_flag::NOUNMAP != 0,
            }),
            _ => Err(libc::EOPNOTSUPP),
        }
    }
}

/// The number that the kernel is answered with when a request fails. Only such that it passes on as
/// final: it would repeat a request for ever that lacks memory or is told to come again.
pub(crate) fn errno_of(kind: IoErrorKind) -> i32 {
    match kind {
        IoErrorKind::NoSpace => libc::ENOSPC,
        IoErrorKind::Unsupported => libc::EOPNOTSUPP,
        _ => libc::EIO,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: u32 = 512 << 10;

    fn descriptor(op_flags: u32, nr_sectors: u32, start_sector: u64) -> Descriptor {
        Descriptor {
            op_flags,
            nr_sectors,
            start_sector,
            addr: 0,
        }
    }

    #[test]
    fn each_operation_is_read_with_its_flags() {
        let decode = |op_flags| Request::decode(&descriptor(op_flags, 8, 16), MAX);
        let (offset, len) = (8192, 4096);
        assert_eq!(decode(0), Ok(Request::Read { offset, len }));
        let write = |fua| Request::Write { offset, len, fua };
        assert_eq!(decode(1), Ok(write(false)));
        // META and FAILFAST are hints.
        assert_eq!(decode(1 | 1 << 13 | 1 << 11 | 1 << 8), Ok(write(true)));
        assert_eq!(decode(2), Ok(Request::Flush));
        let len = 4096;
        assert_eq!(decode(3), Ok(Request::Discard { offset, len }));
        for (flags, fua, no_hole) in [
            (0, false, false),
            (1 << 13, true, false),
            (1 << 15, false, true),
        ] {
            let zero = Request::Zero {
                offset,
                len,
                fua,
                no_hole,
            };
            assert_eq!(decode(5 | flags), Ok(zero));
        }
    }

    #[test]
    fn what_is_unknown_too_long_or_past_all_ends_is_refused() {
        for op in [4, 6, 10, 18, 255] {
            let refused = Request::decode(&descriptor(op, 8, 0), MAX);
            assert_eq!(refused, Err(libc::EOPNOTSUPP), "{op}");
        }
        for (sectors, start) in [(0, 0), (1025, 0), (u32::MAX, 0), (8, u64::MAX)] {
            let refused = Request::decode(&descriptor(1, sectors, start), MAX);
            assert_eq!(refused, Err(libc::EIO), "{sectors} at {start}");
        }
    }

    #[test]
    fn no_failure_makes_the_kernel_try_for_ever() {
        for kind in [
            IoErrorKind::Medium,
            IoErrorKind::Gone,
            IoErrorKind::ReadOnly,
            IoErrorKind::Busy,
            IoErrorKind::TimedOut,
            IoErrorKind::Lost,
            IoErrorKind::Stopped,
        ] {
            assert_eq!(errno_of(kind), libc::EIO, "{kind}");
        }
        assert_eq!(errno_of(IoErrorKind::NoSpace), libc::ENOSPC);
    }

    proptest! {
        #[test]
        fn any_descriptor_is_a_request_within_bounds_or_refused(
            op_flags: u32, nr_sectors: u32, start_sector: u64, addr: u64,
        ) {
            let any = Descriptor { op_flags, nr_sectors, start_sector, addr };
            match Request::decode(&any, MAX) {
                Ok(Request::Read { len, .. } | Request::Write { len, .. }) => {
                    prop_assert!(len > 0 && len <= MAX);
                }
                Ok(_) => {}
                Err(errno) => prop_assert!(errno > 0),
            }
        }
    }
}
