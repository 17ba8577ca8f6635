//! Aligned memory that can be cut and shared without copying.
//!
//! [`Buf`] is exclusive and mutable: reads fill it. It can be split in disjoint parts, so that one
//! request's memory is filled by several members at once, and joined again. [`Buf::freeze`] turns
//! it into a [`SharedBuf`]: immutable, cheap to clone and to slice, what writes take.
//!
//! Invariants
//! - No two live `Buf`s of one region overlap: only splitting makes a second one.
//! - A region's memory lives until the last view of it is dropped, so an operation that holds a
//!   view may be abandoned by its caller without the memory being reused under the kernel's hands.
//! - Every region starts at a multiple of [`ALIGN`]; views are as aligned as their offsets.
//! - A pool with an arena serves from it first: that memory is registered with the engine's ring,
//!   which saves the kernel from pinning pages for each operation. The heap stands in when it is
//!   used up; no caller sees a difference.

mod arena;

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::rc::{Rc, Weak};

use memmap2::MmapMut;

pub(crate) use self::arena::Arena;
use crate::units::usize_of_u32;

/// Alignment of every region: a page, which O_DIRECT takes on every disk.
pub const ALIGN: usize = 4096;

/// Smallest size class of a pool.
const CLASS_MIN_BYTES: usize = 4096;
/// Largest size class of a pool; larger requests are mapped and unmapped each time, so that their
/// pages are zeroed as data arrives: 32 MiB at once would hold up everybody on the thread.
const CLASS_MAX_BYTES: usize = 4 << 20;

/// Free memory of one size class.
type FreeList = Vec<(NonNull<u8>, Layout)>;

/// Where a region's memory goes when its last view is dropped.
enum Home {
    Heap {
        layout: Layout,
        pool: Weak<PoolInner>,
    },
    Arena(Rc<Arena>),
    /// A mapping of its own, unmapped with the region.
    Mapped(#[expect(dead_code, reason = "held for its drop")] MmapMut),
}

struct Region {
    ptr: NonNull<u8>,
    size: usize,
    home: Home,
}

impl Region {
    fn allocate(len: usize, pool: Weak<PoolInner>) -> Self {
        let size = len.max(1).next_multiple_of(ALIGN);
        if size > CLASS_MAX_BYTES
            && let Ok(mut map) = MmapMut::map_anon(size)
            && let Some(ptr) = NonNull::new(map.as_mut_ptr())
        {
            return Self {
                ptr,
                size,
                home: Home::Mapped(map),
            };
        }
        let layout = Layout::from_size_align(size, ALIGN)
            .unwrap_or_else(|_| handle_alloc_error(Layout::new::<u8>()));
        // SAFETY: the layout's size is at least ALIGN, so not zero.
        let raw = unsafe { alloc_zeroed(layout) };
        let Some(ptr) = NonNull::new(raw) else {
            handle_alloc_error(layout)
        };
        Self {
            ptr,
            size,
            home: Home::Heap { layout, pool },
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        match &self.home {
            Home::Arena(arena) => arena.give_back(self.ptr),
            Home::Mapped(_) => {}
            Home::Heap { layout, pool } => {
                if let Some(pool) = pool.upgrade()
                    && pool.keep(self.ptr, *layout)
                {
                    return;
                }
                // SAFETY: allocated with this very layout, and nobody else holds the pointer: the
                // region is dropped with its last view.
                unsafe { dealloc(self.ptr.as_ptr(), *layout) };
            }
        }
    }
}

/// Exclusive, mutable, aligned memory.
pub struct Buf {
    region: Rc<Region>,
    start: usize,
    len: usize,
}

impl Buf {
    /// Fresh zeroed memory outside any pool.
    pub fn zeroed(len: usize) -> Self {
        Self {
            region: Rc::new(Region::allocate(len, Weak::new())),
            start: 0,
            len,
        }
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut buf = Self::zeroed(bytes.len());
        buf.copy_from_slice(bytes);
        buf
    }

    /// Keeps the first `at` bytes and returns the rest.
    ///
    /// # Panics
    /// If `at` lies past the end.
    pub fn split_off(&mut self, at: usize) -> Self {
        assert!(at <= self.len, "split at {at} past the end {}", self.len);
        let tail = Self {
            region: Rc::clone(&self.region),
            start: self.start + at,
            len: self.len - at,
        };
        self.len = at;
        tail
    }

    /// Joins `tail`, which must be the neighbour that was split off here.
    ///
    /// # Panics
    /// If it isn't.
    pub fn unsplit(&mut self, tail: Self) {
        assert!(
            Rc::ptr_eq(&self.region, &tail.region) && self.start + self.len == tail.start,
            "unsplit of buffers that are no neighbours"
        );
        self.len += tail.len;
    }

    /// Joins parts in their order: in place if they are still neighbours, else by copying.
    ///
    /// A part that an operation didn't give back was replaced by other memory.
    pub fn join(parts: Vec<Self>) -> Self {
        let neighbours = parts.windows(2).all(|pair| match pair {
            [a, b] => Rc::ptr_eq(&a.region, &b.region) && a.start + a.len == b.start,
            _ => true,
        });
        if !neighbours {
            let mut whole = Self::zeroed(parts.iter().map(|part| part.len).sum());
            let mut rest: &mut [u8] = &mut whole;
            for part in parts {
                let (to, left) = rest.split_at_mut(part.len);
                to.copy_from_slice(&part);
                rest = left;
            }
            return whole;
        }
        let mut parts = parts.into_iter();
        let Some(mut whole) = parts.next() else {
            return Self::zeroed(0);
        };
        parts.for_each(|part| whole.unsplit(part));
        whole
    }

    /// Gives up the right to write, for views that can be shared.
    pub fn freeze(self) -> SharedBuf {
        SharedBuf {
            region: self.region,
            start: self.start,
            len: self.len,
        }
    }
}

impl Deref for Buf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: start..start+len lies in the region (kept by every constructor), the memory was
        // zeroed at allocation, and no other Buf or SharedBuf overlaps this range.
        unsafe { std::slice::from_raw_parts(self.region.ptr.as_ptr().add(self.start), self.len) }
    }
}

impl DerefMut for Buf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for deref; exclusivity of the range makes the mutable view unique.
        unsafe {
            std::slice::from_raw_parts_mut(self.region.ptr.as_ptr().add(self.start), self.len)
        }
    }
}

impl std::fmt::Debug for Buf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buf({} bytes)", self.len)
    }
}

/// Immutable memory, cheap to clone and to slice.
#[derive(Clone)]
pub struct SharedBuf {
    region: Rc<Region>,
    start: usize,
    len: usize,
}

impl SharedBuf {
    /// The part `range` of this view.
    ///
    /// # Panics
    /// If the range lies outside.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "slice outside the buffer"
        );
        Self {
            region: Rc::clone(&self.region),
            start: self.start + range.start,
            len: range.end - range.start,
        }
    }

    /// Memory that stays for as long as this view does.
    pub fn held_bytes(&self) -> usize {
        self.region.size
    }

    /// Whether the memory starts at a multiple of [`ALIGN`], as O_DIRECT wants it.
    pub fn is_aligned(&self) -> bool {
        self.start.is_multiple_of(ALIGN)
    }
}

impl Deref for SharedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the range lies in the region, and frozen memory is written by nobody.
        unsafe { std::slice::from_raw_parts(self.region.ptr.as_ptr().add(self.start), self.len) }
    }
}

impl From<Buf> for SharedBuf {
    fn from(buf: Buf) -> Self {
        buf.freeze()
    }
}

impl std::fmt::Debug for SharedBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SharedBuf({} bytes)", self.len)
    }
}

struct PoolInner {
    /// Free regions by size class (powers of two from [`CLASS_MIN_BYTES`]).
    classes: RefCell<Vec<FreeList>>,
    kept_bytes: Cell<usize>,
    keep_max_bytes: usize,
    arena: Option<Rc<Arena>>,
}

impl PoolInner {
    /// Takes the memory back, unless the pool is full or the size is none of its classes.
    fn keep(&self, ptr: NonNull<u8>, layout: Layout) -> bool {
        let size = layout.size();
        if !size.is_power_of_two() || self.kept_bytes.get() + size > self.keep_max_bytes {
            return false;
        }
        let Ok(mut classes) = self.classes.try_borrow_mut() else {
            return false;
        };
        let Some(list) = classes.get_mut(class_of(size)) else {
            return false;
        };
        list.push((ptr, layout));
        self.kept_bytes.set(self.kept_bytes.get() + size);
        true
    }
}

impl Drop for PoolInner {
    fn drop(&mut self) {
        for (ptr, layout) in self.classes.get_mut().drain(..).flatten() {
            // SAFETY: the pool owns what is on its free lists, allocated with that layout.
            unsafe { dealloc(ptr.as_ptr(), layout) };
        }
    }
}

fn class_of(size: usize) -> usize {
    usize_of_u32((size / CLASS_MIN_BYTES).trailing_zeros())
}

/// Aligned memory kept for reuse, bounded. Cheap to clone; one per engine thread.
#[derive(Clone)]
pub struct BufPool(Rc<PoolInner>);

impl BufPool {
    /// A pool that keeps at most `keep_max_bytes` of freed memory.
    pub fn new(keep_max_bytes: usize) -> Self {
        Self::build(keep_max_bytes, None)
    }

    /// A pool that serves from `arena` first, and keeps at most `keep_max_bytes` of freed memory
    /// beyond it.
    pub(crate) fn with_arena(keep_max_bytes: usize, arena: Rc<Arena>) -> Self {
        Self::build(keep_max_bytes, Some(arena))
    }

    fn build(keep_max_bytes: usize, arena: Option<Rc<Arena>>) -> Self {
        let classes = class_of(CLASS_MAX_BYTES) + 1;
        Self(Rc::new(PoolInner {
            classes: RefCell::new((0..classes).map(|_| Vec::new()).collect()),
            kept_bytes: Cell::new(0),
            keep_max_bytes,
            arena,
        }))
    }

    /// Memory of `len` bytes with arbitrary initialised contents: for buffers that are filled
    /// before they are read.
    pub fn take(&self, len: usize) -> Buf {
        let size = len.max(CLASS_MIN_BYTES).next_power_of_two();
        let region = if size > CLASS_MAX_BYTES {
            Region::allocate(len, Weak::new())
        } else if let Some((arena, ptr)) = self.take_registered(size) {
            Region {
                ptr,
                size,
                home: Home::Arena(arena),
            }
        } else {
            let kept = self
                .0
                .classes
                .borrow_mut()
                .get_mut(class_of(size))
                .and_then(Vec::pop);
            match kept {
                Some((ptr, layout)) => {
                    self.0.kept_bytes.set(self.0.kept_bytes.get() - size);
                    Region {
                        ptr,
                        size,
                        home: Home::Heap {
                            layout,
                            pool: Rc::downgrade(&self.0),
                        },
                    }
                }
                None => Region::allocate(size, Rc::downgrade(&self.0)),
            }
        };
        Buf {
            region: Rc::new(region),
            start: 0,
            len,
        }
    }

    fn take_registered(&self, size: usize) -> Option<(Rc<Arena>, NonNull<u8>)> {
        let arena = self.0.arena.as_ref()?;
        let ptr = arena.take(size)?;
        Some((Rc::clone(arena), ptr))
    }

    /// Memory of `len` zero bytes.
    pub fn take_zeroed(&self, len: usize) -> Buf {
        let mut buf = self.take(len);
        buf.fill(0);
        buf
    }

    /// The same bytes, for somebody who keeps them for long: copied where the view holds more than twice
    /// its own memory, which would stay for as long as this small part of it does.
    pub fn compact(&self, view: SharedBuf) -> SharedBuf {
        if view.held_bytes() / 2 <= view.len().max(CLASS_MIN_BYTES) {
            return view;
        }
        let mut own = self.take(view.len());
        own.copy_from_slice(&view);
        own.freeze()
    }

    /// Bytes on the free lists.
    pub fn kept_bytes(&self) -> usize {
        self.0.kept_bytes.get()
    }
}

impl std::fmt::Debug for BufPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BufPool({} bytes free)", self.kept_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_parts_are_disjoint_and_join_again() {
        let mut whole = Buf::zeroed(3 * ALIGN);
        let mut tail = whole.split_off(ALIGN);
        whole.fill(1);
        tail.fill(2);
        whole.unsplit(tail);
        assert_eq!(whole.len(), 3 * ALIGN);
        assert!(whole[..ALIGN].iter().all(|&b| b == 1));
        assert!(whole[ALIGN..].iter().all(|&b| b == 2));
    }

    #[test]
    fn parts_are_joined_in_place_and_replaced_ones_by_copying() {
        let mut whole = Buf::zeroed(3 * ALIGN);
        let mut middle = whole.split_off(ALIGN);
        let last = middle.split_off(ALIGN);
        let start = whole.as_ptr();
        whole.fill(1);
        middle.fill(2);
        let whole = Buf::join(vec![whole, middle, last]);
        assert_eq!((whole.as_ptr(), whole.len()), (start, 3 * ALIGN));
        let mut head = whole;
        let tail = head.split_off(2 * ALIGN);
        let _middle = head.split_off(ALIGN);
        let mut other = Buf::zeroed(ALIGN);
        other.fill(7);
        let mixed = Buf::join(vec![head, other, tail]);
        assert_eq!(mixed.len(), 3 * ALIGN);
        let sum = |range: Range<usize>| mixed[range].iter().map(|b| usize::from(*b)).sum::<usize>();
        assert_eq!(sum(0..ALIGN), ALIGN);
        assert_eq!(sum(ALIGN..2 * ALIGN), 7 * ALIGN);
        assert_eq!(sum(2 * ALIGN..3 * ALIGN), 0);
    }

    #[test]
    #[should_panic(expected = "no neighbours")]
    fn strangers_are_not_joined() {
        let mut a = Buf::zeroed(ALIGN);
        a.unsplit(Buf::zeroed(ALIGN));
    }

    #[test]
    fn memory_returns_to_its_pool_with_the_last_view_only() {
        let pool = BufPool::new(1 << 20);
        let shared = pool.take(5000).freeze();
        let part = shared.slice(4096..5000);
        drop(shared);
        assert_eq!(pool.kept_bytes(), 0);
        drop(part);
        assert_eq!(pool.kept_bytes(), 8192);
        let again = pool.take(8192);
        assert_eq!((again.len(), pool.kept_bytes()), (8192, 0));
    }

    #[test]
    fn a_small_part_that_is_kept_holds_no_large_buffer() {
        let pool = BufPool::new(0);
        let mut whole = pool.take(64 << 10);
        whole.fill(7);
        let whole = whole.freeze();
        let small = pool.compact(whole.slice(4096..12288));
        assert_eq!((small.len(), small.held_bytes()), (8192, 8192));
        assert!(small.is_aligned() && small.iter().all(|&byte| byte == 7));
        // Half of it and more is worth no copy.
        let half = pool.compact(whole.slice(0..32 << 10));
        assert_eq!(half.held_bytes(), 64 << 10);
        // Nor is the least that there is.
        let least = pool.compact(pool.take(4096).freeze().slice(0..512));
        assert_eq!((least.len(), least.held_bytes()), (512, 4096));
    }

    #[test]
    fn memory_above_the_largest_class_is_zeroed_aligned_and_shared_like_any_other() {
        let pool = BufPool::new(1 << 20);
        let mut buf = pool.take(CLASS_MAX_BYTES + 1);
        assert!(buf.as_ptr().addr().is_multiple_of(ALIGN) && buf.iter().all(|&b| b == 0));
        buf[CLASS_MAX_BYTES] = 9;
        let part = buf.freeze().slice(CLASS_MAX_BYTES..CLASS_MAX_BYTES + 1);
        assert_eq!((part[0], pool.kept_bytes()), (9, 0));
    }

    #[test]
    fn a_full_pool_frees_instead_of_keeping() {
        let pool = BufPool::new(4096);
        let (a, b) = (pool.take(4096), pool.take(4096));
        drop((a, b));
        assert_eq!(pool.kept_bytes(), 4096);
    }

    #[test]
    fn an_arena_serves_first_and_the_heap_stands_in() {
        let arena = Rc::new(Arena::map(CLASS_MAX_BYTES).unwrap().unwrap());
        let pool = BufPool::with_arena(1 << 20, Rc::clone(&arena));
        let first = pool.take(CLASS_MAX_BYTES);
        assert!(arena.contains(first.as_ptr(), first.len()));
        let second = pool.take(4096);
        assert!(!arena.contains(second.as_ptr(), second.len()));
        let shared = first.freeze();
        let view = shared.slice(0..512);
        drop((shared, pool));
        assert_eq!(arena.taken_bytes(), CLASS_MAX_BYTES);
        drop(view);
        assert_eq!(arena.taken_bytes(), 0);
    }

    #[test]
    fn a_buffer_may_outlive_its_pool() {
        let pool = BufPool::new(1 << 20);
        let mut buf = pool.take_zeroed(4096);
        drop(pool);
        buf.fill(7);
        assert!(buf.iter().all(|&b| b == 7));
    }
}
