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

use cairn_blockdev::SharedBuf;
use cairn_blockdev::crc::crc32c;
use cairn_blockdev::units::{BLOCK_BYTES, usize_of};

use super::overlay::Overlay;
use super::transaction::{NewParity, parity_into};
use super::view::RowView;
use crate::array::Array;
use crate::geometry::Role;

/// Bytes of each source at once. With a wide array's 22 of them that is a third of a core's cache, and
/// streams from memory are long enough for the prefetchers.
const TILE: usize = 16 << 10;

/// What a complete row is written with.
pub(super) struct Summed {
    pub(super) parity: Vec<NewParity>,
    /// Of its data, block by block.
    pub(super) sums: Vec<u32>,
}

/// A parity in the making.
struct Made {
    role: Role,
    data: cairn_blockdev::Buf,
    sums: Vec<u32>,
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
                sums: Vec::with_capacity(len / BLOCK_BYTES),
            })
            .collect();
        let mut sums = vec![0; data.len() * (len / BLOCK_BYTES)];
        for at in (0..len).step_by(TILE) {
            let tile = at..len.min(at + TILE);
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
                let blocks = part(&made.data, &tile).chunks(BLOCK_BYTES);
                made.sums.extend(blocks.map(crc32c));
            }
        }
        let parity = made.into_iter().map(|made| NewParity {
            role: made.role,
            col: 0,
            data: made.data.freeze(),
            sums: Some(made.sums),
        });
        Summed {
            parity: parity.collect(),
            sums,
        }
    }
}

fn part<'a>(bytes: &'a [u8], range: &Range<usize>) -> &'a [u8] {
    bytes.get(range.clone()).unwrap_or_default()
}
