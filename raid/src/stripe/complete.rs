//! Parity and sums of a complete row, taken together while its bytes are in the core's own cache.
//!
//! ```text
//!            ┌ tile ┐
//!  data 0  ──┼──────┼────────  1. P and Q of the tile: the first touch, by every source's stream
//!  data 1  ──┼──────┼────────  2. the sums of its blocks, then of those of P and Q: from the cache
//!  …         └──────┘          3. the next tile
//! ```
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
    /// If the array has checksums.
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
                sums: self
                    .has_sums()
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
            sums: made.sums,
        });
        Summed {
            parity: parity.collect(),
            sums,
        }
    }
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
    fn a_tile_is_whole_blocks_and_stays_in_a_cores_cache() {
        for (chunks, len) in [(1, 512), (3, 128), (10, 32), (24, 16), (64, 8), (1000, 4)] {
            assert_eq!(tile_len(chunks), len << 10, "{chunks} chunks");
        }
    }
}
