//! Parity and sums of a complete row, taken together while its bytes are in the core's own cache.
//!
//! ```text
//!            ┌ tile ┐
//!  data 0  ──┼──────┼────────  1. P and Q of the tile: the first touch, by every source's stream
//!  data 1  ──┼──────┼────────  2. the sums of its blocks, then of those of Q: from the cache
//!  …         └──────┘          3. the next tile
//! ```
//!
//! The sums of P follow from those of the data: P is their XOR, and a CRC of an XOR is that of the CRCs,
//! but for what a block of zeros has, once for every pair. So they aren't of P as memory holds it, but as it
//! has to be: a P that came out wrong is found when it is read. The price: a processor or memory that gets the
//! sum of a block of data wrong gets P's wrong with it, and RAID 5 then lists a block that it could have kept.
//!
//! Does not know: who gets what, and when.

use std::ops::Range;

use cairn_blockdev::crc::crc32c;
use cairn_blockdev::units::{BLOCK_BYTES, usize_of};
use cairn_blockdev::{Buf, SharedBuf};

use super::overlay::Overlay;
use super::transaction::{NewParity, parity_into};
use super::view::RowView;
use crate::array::Array;
use crate::geometry::Role;

/// Bytes of a tile, of all chunks together: half of what a core has of its own in today's servers, so that
/// they are still there when their sums are taken. The longer a chunk's part, the better for the
/// prefetchers, which begin anew with each.
const TILE_BYTES: usize = 512 << 10;

/// What a complete row is written with.
pub(super) struct Summed {
    pub(super) parity: Vec<NewParity>,
    /// Of its data, block by block.
    pub(super) sums: Vec<u32>,
}

/// A parity in the making.
struct Made {
    role: Role,
    data: Buf,
    /// If the array has checksums, and they have to be taken.
    sums: Option<Vec<u32>>,
}

impl Array {
    /// Parity and sums of a row, all of which is in `overlay`, a run for each chunk.
    ///
    /// # Panics
    /// If it isn't.
    pub(super) fn sum_complete(&self, view: &RowView, overlay: &Overlay) -> Summed {
        let cols = 0..self.geometry.chunk_blocks();
        let len = usize_of(self.geometry.chunk_bytes());
        let chunks = 0..self.geometry.data_chunks();
        let data: Vec<SharedBuf> = chunks
            .filter_map(|index| overlay.get(index, &cols))
            .collect();
        assert_eq!(
            data.len(),
            self.geometry.data_chunks(),
            "parity of incomplete data"
        );
        let mut made: Vec<Made> = [Role::P, Role::Q]
            .into_iter()
            .filter(|role| view.parity_wanted(*role))
            .map(|role| Made {
                role,
                data: self.pool.take(len),
                sums: (self.has_sums() && role != Role::P)
                    .then(|| Vec::with_capacity(len / BLOCK_BYTES)),
            })
            .collect();
        let mut sums = vec![0; data.len() * (len / BLOCK_BYTES)];
        let tile_len = tile_len(data.len() + made.len());
        for at in (0..len).step_by(tile_len) {
            let tile = at..len.min(at + tile_len);
            let sources: Vec<&[u8]> = data.iter().map(|chunk| part(chunk, &tile)).collect();
            let outs = made.iter_mut().map(|made| {
                let out = made.data.get_mut(tile.clone()).unwrap_or_default();
                (made.role, out)
            });
            parity_into(&sources, outs);
            let of_chunks = sums.chunks_mut(len / BLOCK_BYTES);
            for (source, sums) in sources.iter().zip(of_chunks) {
                let sums = sums.iter_mut().skip(tile.start / BLOCK_BYTES);
                for (block, sum) in source.chunks(BLOCK_BYTES).zip(sums) {
                    *sum = crc32c(block);
                }
            }
            for made in &mut made {
                if let Some(sums) = &mut made.sums {
                    let blocks = part(&made.data, &tile).chunks(BLOCK_BYTES);
                    sums.extend(blocks.map(crc32c));
                }
            }
        }
        let parity = made.into_iter().map(|made| NewParity {
            role: made.role,
            col: 0,
            data: made.data.freeze(),
            sums: match made.role {
                Role::P if self.has_sums() => Some(sums_of_p(&sums, data.len())),
                _ => made.sums,
            },
        });
        Summed {
            parity: parity.collect(),
            sums,
        }
    }
}

/// The sums of the blocks of P, from those of so many chunks of data, chunk by chunk.
fn sums_of_p(sums: &[u32], chunks: usize) -> Vec<u32> {
    let of_zeros = crc32c(&[0; BLOCK_BYTES]);
    let blocks = sums.len() / chunks.max(1);
    // Each sum is that of zeros, changed by the block's bits: of an even number of them it falls out.
    let first = if chunks.is_multiple_of(2) {
        of_zeros
    } else {
        0
    };
    let mut of_p = vec![first; blocks];
    for of_chunk in sums.chunks(blocks.max(1)) {
        for (of_p, sum) in of_p.iter_mut().zip(of_chunk) {
            *of_p ^= sum;
        }
    }
    of_p
}

/// Bytes of a chunk's part in a tile of so many chunks: a power of two, whole blocks.
fn tile_len(chunks: usize) -> usize {
    let most = TILE_BYTES / chunks.max(1);
    most.checked_ilog2()
        .map_or(0, |power| 1 << power)
        .max(BLOCK_BYTES)
}

fn part<'a>(bytes: &'a [u8], range: &Range<usize>) -> &'a [u8] {
    bytes.get(range.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_of_p_are_those_of_its_blocks() {
        let mut state = 1u64;
        let mut byte = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(11);
            state.to_be_bytes()[0]
        };
        for (chunks, blocks) in [(1, 1), (2, 3), (3, 2), (8, 16), (22, 1), (31, 2)] {
            let len = blocks * BLOCK_BYTES;
            let data: Vec<Vec<u8>> = (0..chunks)
                .map(|_| (0..len).map(|_| byte()).collect())
                .collect();
            let sums: Vec<u32> = data
                .iter()
                .flat_map(|chunk| chunk.chunks(BLOCK_BYTES))
                .map(crc32c)
                .collect();
            let mut p = vec![0; len];
            let sources: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
            parity_into(&sources, [(Role::P, p.as_mut_slice())].into_iter());
            let expected: Vec<u32> = p.chunks(BLOCK_BYTES).map(crc32c).collect();
            assert_eq!(sums_of_p(&sums, chunks), expected, "{chunks} chunks");
        }
    }

    #[test]
    fn a_tile_is_whole_blocks_and_stays_in_a_cores_cache() {
        for (chunks, len) in [(1, 512), (3, 128), (10, 32), (24, 16), (64, 8), (1000, 4)] {
            assert_eq!(tile_len(chunks), len << 10, "{chunks} chunks");
        }
    }
}
