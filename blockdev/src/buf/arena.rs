//! One mapping cut in slabs, each slab in equal chunks: the memory that a ring has registered.
//!
//! Invariants
//! - A chunk is given out once until it comes back; chunks of one slab have one size.
//! - The mapping outlives every chunk: whoever holds a chunk holds the arena.
//! - A slab changes its chunk size only while none of its chunks is out.

use std::cell::{Cell, RefCell};
use std::ptr::NonNull;

use memmap2::MmapMut;

use super::{CLASS_MAX_BYTES, CLASS_MIN_BYTES};

/// A slab holds one chunk of the largest class, or more of a smaller one.
pub(crate) const SLAB_BYTES: usize = CLASS_MAX_BYTES;

struct Slab {
    chunk_bytes: usize,
    /// Offsets in the arena of the chunks that are in.
    free: Vec<usize>,
}

impl Slab {
    fn chunks(&self) -> usize {
        SLAB_BYTES / self.chunk_bytes
    }

    fn is_idle(&self) -> bool {
        self.free.len() == self.chunks()
    }

    fn cut(&mut self, start: usize, chunk_bytes: usize) {
        self.chunk_bytes = chunk_bytes;
        self.free.clear();
        // Highest first, so that chunks are taken from the slab's beginning.
        self.free.extend(
            (0..self.chunks())
                .rev()
                .map(|index| start + index * chunk_bytes),
        );
    }
}

/// Page-aligned memory of a fixed size, cut in chunks on demand.
pub(crate) struct Arena {
    /// Unmapped when the arena is dropped; touched through `base` only.
    _map: MmapMut,
    base: NonNull<u8>,
    len: usize,
    slabs: RefCell<Vec<Slab>>,
    taken_bytes: Cell<usize>,
}

impl Arena {
    /// Maps `bytes`, rounded down to whole slabs; `None` if that is none.
    pub(crate) fn map(bytes: usize) -> std::io::Result<Option<Self>> {
        let len = bytes - bytes % SLAB_BYTES;
        if len == 0 {
            return Ok(None);
        }
        let mut map = MmapMut::map_anon(len)?;
        let Some(base) = NonNull::new(map.as_mut_ptr()) else {
            return Ok(None);
        };
        let slabs = (0..len / SLAB_BYTES)
            .map(|index| {
                let mut slab = Slab {
                    chunk_bytes: SLAB_BYTES,
                    free: Vec::new(),
                };
                slab.cut(index * SLAB_BYTES, SLAB_BYTES);
                slab
            })
            .collect();
        Ok(Some(Self {
            _map: map,
            base,
            len,
            slabs: RefCell::new(slabs),
            taken_bytes: Cell::new(0),
        }))
    }

    /// Where the arena begins.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Bytes in it.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether `len` bytes at `ptr` lie inside.
    pub(crate) fn contains(&self, ptr: *const u8, len: usize) -> bool {
        let start = self.base.as_ptr().addr();
        ptr.addr()
            .checked_sub(start)
            .and_then(|offset| offset.checked_add(len))
            .is_some_and(|end| end <= self.len)
    }

    /// A chunk of `chunk_bytes`, a power of two between the least and the largest class; `None`
    /// if no slab of that size has one and none is idle.
    pub(crate) fn take(&self, chunk_bytes: usize) -> Option<NonNull<u8>> {
        debug_assert!(chunk_bytes.is_power_of_two());
        debug_assert!((CLASS_MIN_BYTES..=SLAB_BYTES).contains(&chunk_bytes));
        let mut slabs = self.slabs.borrow_mut();
        let fits = |slab: &Slab| slab.chunk_bytes == chunk_bytes && !slab.free.is_empty();
        let index = match slabs.iter().position(fits) {
            Some(index) => index,
            None => slabs.iter().position(Slab::is_idle)?,
        };
        let slab = slabs.get_mut(index)?;
        if slab.chunk_bytes != chunk_bytes {
            slab.cut(index * SLAB_BYTES, chunk_bytes);
        }
        let offset = slab.free.pop()?;
        self.taken_bytes.set(self.taken_bytes.get() + chunk_bytes);
        // SAFETY: the offset lies inside the mapping, which lives as long as `self`.
        Some(unsafe { self.base.add(offset) })
    }

    /// Takes a chunk back that [`Arena::take`] gave.
    pub(crate) fn give_back(&self, ptr: NonNull<u8>) {
        assert!(self.contains(ptr.as_ptr(), 1), "a chunk of another arena");
        let offset = ptr.as_ptr().addr() - self.base.as_ptr().addr();
        if let Some(slab) = self.slabs.borrow_mut().get_mut(offset / SLAB_BYTES) {
            self.taken_bytes
                .set(self.taken_bytes.get() - slab.chunk_bytes);
            slab.free.push(offset);
        }
    }

    /// Bytes that are out.
    #[cfg(test)]
    pub(crate) fn taken_bytes(&self) -> usize {
        self.taken_bytes.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_disjoint_and_an_idle_slab_changes_its_size() {
        let arena = Arena::map(SLAB_BYTES + 1).unwrap().unwrap();
        assert_eq!(arena.len(), SLAB_BYTES);
        let mut small: Vec<_> = std::iter::from_fn(|| arena.take(4096)).collect();
        assert_eq!(small.len(), SLAB_BYTES / 4096);
        small.sort();
        small.dedup();
        assert_eq!(small.len(), SLAB_BYTES / 4096);
        assert!(arena.take(8192).is_none());
        for chunk in small {
            arena.give_back(chunk);
        }
        assert_eq!(arena.taken_bytes(), 0);
        let whole = arena.take(SLAB_BYTES).unwrap();
        assert!(arena.contains(whole.as_ptr(), SLAB_BYTES));
        assert!(!arena.contains(whole.as_ptr(), SLAB_BYTES + 1));
        arena.give_back(whole);
    }

    #[test]
    fn less_than_a_slab_is_no_arena() {
        assert!(Arena::map(SLAB_BYTES - 1).unwrap().is_none());
    }
}
