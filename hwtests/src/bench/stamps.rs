//! What a smoke run writes, so that it can tell whether it reads what it wrote.
//!
//! ```text
//!   block of 4 KiB:  0 block number 8 │ 8 write's number 8 │ 16 words that follow from both …
//! ```
//!
//! Invariant: two writes of one block are never under way at the same time, so that of every block
//! exactly one content is right.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use cairn_blockdev::BlockDevice;
use cairn_blockdev::device::read_vec;
use cairn_blockdev::sim::Rng;
use cairn_blockdev::units::{BLOCK, BLOCK_BYTES, u64_of, usize_of};

/// Blocks that are compared at once.
const COMPARE_BLOCKS: u64 = 256;

/// What every block of one device must hold.
#[derive(Debug, Default)]
pub struct Stamps {
    last: RefCell<BTreeMap<u64, u64>>,
    under_way: RefCell<BTreeSet<u64>>,
    next: RefCell<u64>,
}

fn blocks(offset: u64, len: usize) -> Range<u64> {
    offset / BLOCK..(offset + u64_of(len)).div_ceil(BLOCK)
}

fn fill(block: u64, number: u64, bytes: &mut [u8]) {
    let mut rng = Rng::new(block.rotate_left(32) ^ number);
    rng.fill(bytes);
    let head = block.to_le_bytes().into_iter().chain(number.to_le_bytes());
    for (to, from) in bytes.iter_mut().zip(head) {
        *to = from;
    }
}

impl Stamps {
    /// Fills `bytes` for a write at `offset`; `false` if a write of one of its blocks is under way.
    pub fn begin(&self, offset: u64, bytes: &mut [u8]) -> bool {
        let mut under_way = self.under_way.borrow_mut();
        if blocks(offset, bytes.len()).any(|block| under_way.contains(&block)) {
            return false;
        }
        *self.next.borrow_mut() += 1;
        let number = *self.next.borrow();
        for (block, bytes) in blocks(offset, bytes.len()).zip(bytes.chunks_mut(BLOCK_BYTES)) {
            under_way.insert(block);
            self.last.borrow_mut().insert(block, number);
            fill(block, number, bytes);
        }
        true
    }

    /// The write is acknowledged.
    pub fn end(&self, offset: u64, len: usize) {
        let mut under_way = self.under_way.borrow_mut();
        for block in blocks(offset, len) {
            under_way.remove(&block);
        }
    }

    /// Compares all that was written with what the device gives; the number of blocks, or the first
    /// difference.
    pub async fn compare(&self, device: &dyn BlockDevice) -> Result<u64, String> {
        let last = self.last.borrow().clone();
        let end = device.geometry().size / BLOCK;
        let mut wanted = vec![0; BLOCK_BYTES];
        let mut at = 0;
        while at < end {
            let count = COMPARE_BLOCKS.min(end - at);
            let bytes = read_vec(device, at * BLOCK, usize_of(count) * BLOCK_BYTES)
                .await
                .map_err(|error| error.to_string())?;
            for (block, bytes) in (at..).zip(bytes.chunks(BLOCK_BYTES)) {
                let number = last.get(&block).copied();
                match number {
                    Some(number) => fill(block, number, &mut wanted),
                    None => wanted.fill(0),
                }
                if bytes != wanted {
                    return Err(format!(
                        "block {block} of {} isn't what write {number:?} wrote",
                        device.name()
                    ));
                }
            }
            at += count;
        }
        Ok(u64_of(last.len()))
    }
}
