//! The parts of a device that signatures lie in, and a view of them once read.

use crate::units::{BLOCK, GIB, KIB, MIB, align_down, usize_of};

/// The first bytes hold nearly everything: boot sectors, superblocks, ZFS labels 0 and 1.
const HEAD_BYTES: u64 = 512 * KIB;
/// The last bytes: backup GPT, md 0.90 and 1.0, ZFS labels 2 and 3 (in the last two whole
/// 256 KiB), DRBD, fake RAID.
const TAIL_BYTES: u64 = 1024 * KIB;
/// Single blocks in between: LUKS2's further second headers, Cairn's label slots, btrfs' copies.
const BLOCKS: [u64; 7] = [
    512 * KIB,
    MIB,
    CAIRN_SLOTS[0],
    CAIRN_SLOTS[1],
    4 * MIB,
    64 * MIB,
    256 * GIB,
];

/// Where Cairn's label slots A and B lie.
pub(crate) const CAIRN_SLOTS: [u64; 2] = [2 * MIB, 2 * MIB + 64 * KIB];

/// Where the copy of Cairn's label lies on a device of `size` bytes.
pub(crate) fn cairn_copy(size: u64) -> Option<u64> {
    size.checked_sub(MIB).map(|at| align_down(at, BLOCK))
}

/// A part of a device, in bytes; aligned to 4096 on both sides, or ending with the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// What must be read of a device of `size` bytes to recognise what it holds.
pub fn windows_of(size: u64) -> Vec<Window> {
    let tail = align_down(size.saturating_sub(TAIL_BYTES), BLOCK);
    let copy = cairn_copy(size);
    let head = Window {
        offset: 0,
        len: size.min(HEAD_BYTES),
    };
    let mut windows = vec![head];
    let singles = BLOCKS.into_iter().chain(copy);
    for offset in singles.filter(|offset| (HEAD_BYTES..tail).contains(offset)) {
        windows.push(Window {
            offset,
            len: (size - offset).min(BLOCK),
        });
    }
    let tail = tail.max(head.len);
    if tail < size {
        windows.push(Window {
            offset: tail,
            len: size - tail,
        });
    }
    windows
}

/// A device as far as it was read.
#[derive(Debug, Clone)]
pub struct Windows<'a> {
    size: u64,
    parts: Vec<(u64, &'a [u8])>,
}

impl<'a> Windows<'a> {
    /// A view of a device of `size` bytes of which `parts` (offset and bytes) were read.
    pub fn new(size: u64, parts: impl IntoIterator<Item = (u64, &'a [u8])>) -> Self {
        Self {
            size,
            parts: parts.into_iter().collect(),
        }
    }

    /// The device's size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The bytes at `offset`, if one part holds them all.
    pub fn bytes(&self, offset: u64, len: usize) -> Option<&'a [u8]> {
        self.parts.iter().find_map(|(start, bytes)| {
            let from = usize_of(offset.checked_sub(*start)?);
            bytes.get(from..from.checked_add(len)?)
        })
    }

    /// `N` bytes at `offset`.
    pub(crate) fn array<const N: usize>(&self, offset: u64) -> Option<[u8; N]> {
        self.bytes(offset, N)?.try_into().ok()
    }

    pub(crate) fn u8(&self, offset: u64) -> Option<u8> {
        self.array(offset).map(u8::from_le_bytes)
    }

    pub(crate) fn u16_le(&self, offset: u64) -> Option<u16> {
        self.array(offset).map(u16::from_le_bytes)
    }

    pub(crate) fn u32_le(&self, offset: u64) -> Option<u32> {
        self.array(offset).map(u32::from_le_bytes)
    }

    pub(crate) fn u32_be(&self, offset: u64) -> Option<u32> {
        self.array(offset).map(u32::from_be_bytes)
    }

    pub(crate) fn u64_le(&self, offset: u64) -> Option<u64> {
        self.array(offset).map(u64::from_le_bytes)
    }

    /// Whether `magic` lies at `offset`.
    pub(crate) fn has(&self, offset: u64, magic: &[u8]) -> bool {
        self.bytes(offset, magic.len()) == Some(magic)
    }

    /// A text of at most `len` bytes at `offset`, up to its first zero.
    pub(crate) fn text(&self, offset: u64, len: usize) -> Option<String> {
        let bytes = self.bytes(offset, len)?;
        let text = bytes.split(|&b| b == 0).next()?;
        let text = String::from_utf8_lossy(text);
        let text: String = text.chars().filter(|c| !c.is_control()).collect();
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// An offset counted from the end.
    pub(crate) fn before_end(&self, bytes: u64) -> Option<u64> {
        self.size.checked_sub(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_lie_inside_and_dont_overlap_whatever_the_size() {
        for size in [
            4096,
            512 * KIB,
            513 * KIB,
            MIB,
            4 * MIB,
            5 * MIB,
            65 * MIB,
            300 * GIB,
            300 * GIB + 512,
        ] {
            let mut windows = windows_of(size);
            windows.sort_by_key(|window| window.offset);
            assert_eq!(windows[0].offset, 0);
            for pair in windows.windows(2) {
                assert!(pair[0].offset + pair[0].len <= pair[1].offset, "{size}");
            }
            let last = windows.last().unwrap();
            assert_eq!(last.offset + last.len, size);
            assert!(windows.iter().all(|w| w.offset % BLOCK == 0 && w.len > 0));
        }
    }
}
