//! The superblock of Linux's md, version 1.2, as its kernel header `raid/md_p.h` has it.
//!
//! ```text
//!    0 magic  4 major  8 feature map  12 pad  16 set uuid  32 set name  64 ctime  72 level  76 layout
//!   80 size  88 chunk  92 members  96 bitmap, reshape … 0  128 data offset  136 data size
//!  144 super offset  152 recovery offset  160 number  164 corrected  168 device uuid  184 flags, bad blocks
//!  192 utime  200 events  208 resync offset  216 sum  220 roles in the table  224 pad  256 roles, 2 each
//! ```
//! Sizes and places are in sectors of 512 bytes. The sum is that of all little-endian words, folded.
//!
//! Does not know: disks, Cairn's labels.

use cairn_blockdev::units::SECTOR;

/// Where it lies: 4 KiB from the beginning.
pub const SUPERBLOCK_AT: u64 = 4096;
/// What is written of it.
pub const SUPERBLOCK_BYTES: usize = 4096;
/// Roles in the table.
const ROLES: usize = 128;
/// A place of the table that nobody has.
const ROLE_NONE: u16 = 0xffff;
/// md's number for left-symmetric, of RAID 5 and of RAID 6.
const LEFT_SYMMETRIC: u32 = 2;
const SUM_AT: usize = 216;
const ROLES_AT: usize = 256;

/// What a member's superblock tells. Bytes.
#[derive(Debug, Clone, Copy)]
pub struct Superblock {
    /// The array.
    pub set_uuid: [u8; 16],
    /// This member.
    pub device_uuid: [u8; 16],
    /// 5 or 6.
    pub level: u32,
    /// Its place in the geometry.
    pub slot: u16,
    /// Members of the array.
    pub members: u16,
    /// Chunk.
    pub chunk: u64,
    /// First byte of the data.
    pub data_offset: u64,
    /// Bytes of data of each member.
    pub data: u64,
}

impl Superblock {
    /// The superblock of an array that was stopped cleanly.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; SUPERBLOCK_BYTES];
        let mut put = |offset: usize, field: &[u8]| {
            for (to, from) in bytes.iter_mut().skip(offset).zip(field) {
                *to = *from;
            }
        };
        let word = u32::to_le_bytes;
        let long = u64::to_le_bytes;
        let sectors = |bytes: u64| long(bytes / SECTOR);
        put(0, &word(0xa92b_4efc));
        put(4, &word(1));
        put(16, &self.set_uuid);
        put(32, b"cairn");
        put(72, &word(self.level));
        put(76, &word(LEFT_SYMMETRIC));
        put(80, &sectors(self.data));
        // 32 bits each: the upper half falls on the next field, which is written after it.
        put(88, &sectors(self.chunk));
        put(92, &word(u32::from(self.members)));
        put(128, &sectors(self.data_offset));
        put(136, &sectors(self.data));
        put(144, &sectors(SUPERBLOCK_AT));
        put(160, &word(u32::from(self.slot)));
        put(168, &self.device_uuid);
        put(200, &long(1));
        // All of it is in sync.
        put(208, &long(u64::MAX));
        put(220, &word(u32::try_from(ROLES).unwrap_or(u32::MAX)));
        for place in 0..ROLES {
            let role = u16::try_from(place)
                .ok()
                .filter(|role| *role < self.members);
            put(
                ROLES_AT + 2 * place,
                &role.unwrap_or(ROLE_NONE).to_le_bytes(),
            );
        }
        let sum = sum(bytes.get(..ROLES_AT + 2 * ROLES).unwrap_or_default());
        for (to, from) in bytes.iter_mut().skip(SUM_AT).zip(word(sum)) {
            *to = from;
        }
        bytes
    }
}

/// Of bytes in which the sum's own place is zero.
fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks_exact(4).map(|word| {
        let word = <[u8; 4]>::try_from(word).unwrap_or_default();
        u64::from(u32::from_le_bytes(word))
    });
    let total: u64 = words.sum();
    let folded = (total & u64::from(u32::MAX)) + (total >> 32);
    u32::try_from(folded & u64::from(u32::MAX)).unwrap_or_default()
}

const _: () = assert!(ROLES_AT + 2 * ROLES <= SUPERBLOCK_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_md_looks_for_them_and_the_sum_covers_them() {
        let superblock = Superblock {
            set_uuid: [0xA1; 16],
            device_uuid: [0xD2; 16],
            level: 6,
            slot: 3,
            members: 5,
            chunk: 65536,
            data_offset: 24 << 20,
            data: 160 << 20,
        };
        let mut bytes = superblock.encode();
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!((word(72), word(76), word(88), word(92)), (6, 2, 128, 5));
        assert_eq!((long(80), long(128), long(144)), (327_680, 49152, 8));
        assert_eq!((word(160), word(220)), (3, 128));
        assert_eq!(bytes[256..268], [0, 0, 1, 0, 2, 0, 3, 0, 4, 0, 0xff, 0xff]);
        let stored = word(216);
        bytes[216..220].fill(0);
        assert_eq!(sum(&bytes[..512]), stored);
    }
}
