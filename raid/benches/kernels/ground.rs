//! The memory that kernels work on.
//!
//! Invariant: strips lie staggered, each in cache sets of its own, unless a shape says that they lie on
//! pages; contents are random.

use std::cell::RefCell;
use std::hint::black_box;
use std::ops::{Deref, DerefMut};

use cairn_blockdev::sim::Rng;

/// How much of what.
pub(crate) struct Shape {
    /// What it is called.
    pub(crate) name: &'static str,
    /// Where it is at home.
    pub(crate) place: Place,
    /// Data strips.
    pub(crate) data: usize,
    /// Bytes of each.
    pub(crate) len: usize,
    /// Whether all of them begin at a page.
    pub(crate) is_on_pages: bool,
}

/// What a working set fits in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// A core's own cache.
    Cache,
    /// Nothing but memory.
    Ram,
}

/// The working sets of the targets, and what the engine has: whole chunks on pages.
pub(crate) const SHAPES: [Shape; 6] = [
    Shape {
        name: "L2 8+2",
        place: Place::Cache,
        data: 8,
        len: 32 << 10,
        is_on_pages: false,
    },
    Shape {
        name: "L2 22+2",
        place: Place::Cache,
        data: 22,
        len: 16 << 10,
        is_on_pages: false,
    },
    Shape {
        name: "RAM 8+2",
        place: Place::Ram,
        data: 8,
        len: 16 << 20,
        is_on_pages: false,
    },
    Shape {
        name: "RAM 22+2",
        place: Place::Ram,
        data: 22,
        len: 8 << 20,
        is_on_pages: false,
    },
    Shape {
        name: "L2 8+2, on pages",
        place: Place::Cache,
        data: 8,
        len: 32 << 10,
        is_on_pages: true,
    },
    Shape {
        name: "L2 22+2, on pages",
        place: Place::Cache,
        data: 22,
        len: 16 << 10,
        is_on_pages: true,
    },
];

const PAGE: usize = 4096;
/// From one strip's first cache line to the next one's: coprime to the lines of a page.
const STAGGER: usize = 9 * 64;

/// So many bytes at a place within their page.
pub(crate) struct Strip {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Strip {
    fn new(len: usize, in_page: usize) -> Self {
        let memory = vec![0; len + 2 * PAGE];
        let page = memory.as_ptr().addr().next_multiple_of(PAGE) - memory.as_ptr().addr();
        Self {
            memory,
            start: page + in_page % PAGE,
            len,
        }
    }
}

impl Deref for Strip {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let range = self.start..self.start + self.len;
        self.memory.get(range).unwrap_or_default()
    }
}

impl DerefMut for Strip {
    fn deref_mut(&mut self) -> &mut [u8] {
        let range = self.start..self.start + self.len;
        self.memory.get_mut(range).unwrap_or_default()
    }
}

/// The strips of a shape.
pub(crate) struct Ground {
    /// Where they are at home.
    pub(crate) place: Place,
    /// Whether they begin at pages.
    pub(crate) is_on_pages: bool,
    /// Data.
    pub(crate) data: Vec<Strip>,
    len: usize,
    /// As much as the data together, to be copied from the one half to the other.
    halves: RefCell<(Vec<u8>, Vec<u8>)>,
}

impl Ground {
    /// Fresh ones.
    pub(crate) fn new(shape: &Shape) -> Self {
        let half = shape.data * shape.len / 2;
        let mut ground = Self {
            place: shape.place,
            is_on_pages: shape.is_on_pages,
            data: Vec::new(),
            len: shape.len,
            halves: RefCell::new((vec![1; half], vec![2; half])),
        };
        let mut rng = Rng::new(1);
        for index in 0..shape.data {
            let mut strip = ground.strip(index);
            rng.fill(&mut strip);
            ground.data.push(strip);
        }
        ground
    }

    fn strip(&self, index: usize) -> Strip {
        let in_page = if self.is_on_pages { 0 } else { index * STAGGER };
        Strip::new(self.len, in_page)
    }

    /// The data.
    pub(crate) fn sources(&self) -> Vec<&[u8]> {
        self.data.iter().map(|strip| &**strip).collect()
    }

    /// Copies as many bytes as the data has.
    pub(crate) fn copy(&self) {
        let mut halves = self.halves.borrow_mut();
        let (from, to) = &mut *halves;
        to.copy_from_slice(black_box(from));
        from.copy_from_slice(black_box(to));
    }

    /// Room for two results.
    pub(crate) fn results(&self) -> Results {
        let next = self.data.len();
        Results {
            a: self.strip(next),
            b: self.strip(next + 1),
            word: 0,
        }
    }
}

/// What a kernel gives.
pub(crate) struct Results {
    /// The first strip.
    pub(crate) a: Strip,
    /// The second.
    pub(crate) b: Strip,
    /// What is no strip.
    pub(crate) word: u64,
}
