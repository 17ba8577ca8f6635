//! P and Q over GF(2⁸), generator 2, polynomial 0x11d: md's, so that md can read our members.
//!
//! `field` is the arithmetic of single bytes, `vector` what a CPU does at once, `kernel` the loops
//! and the choice between them, `word` the code word with its lost parts solved. Every function here
//! works on equally long slices and panics otherwise: a length mismatch is our own bug.
//!
//! Data index i is the exponent of its Q coefficient.
//!
//! Does not know: geometry, members, disks.

mod field;
#[expect(
    clippy::inline_always,
    reason = "only inside of a function with the CPU's features is this vector code"
)]
mod kernel;
#[cfg(test)]
mod tests;
#[expect(
    clippy::inline_always,
    reason = "only inside of a function with the CPU's features is this vector code"
)]
mod vector;
mod word;

use std::ptr;

pub use field::{coefficient, inverse, mul};
pub use kernel::Kernel;
use kernel::{Job, Out, Sum};
pub use word::{Unsolvable, Word};

/// From this size of sources and results together on, results are stored past the caches: they would
/// push out more than they are worth.
const STREAM_FROM: usize = 4 << 20;
/// Sources that are read side by side at most in memory that isn't cached: more streams than that the
/// CPU's prefetchers don't follow.
const SOURCES_AT_ONCE: usize = 11;
/// With more sources the columns are done in tiles of this size, whose sums stay in the cache between
/// the passes.
const TILE: usize = 16 << 10;
/// What a streamed store needs of its address.
const STREAM_ALIGN: usize = 64;

#[repr(align(64))]
struct Tile([u8; TILE]);

impl Kernel {
    /// P = XOR of all `data`.
    pub fn p(&self, data: &[&[u8]], p: &mut [u8]) {
        self.sums(data, Some(p), None);
    }

    /// Q = Σ 2^i · data i.
    pub fn q(&self, data: &[&[u8]], q: &mut [u8]) {
        self.sums(data, None, Some(q));
    }

    /// Both parities in one pass.
    pub fn pq(&self, data: &[&[u8]], p: &mut [u8], q: &mut [u8]) {
        self.sums(data, Some(p), Some(q));
    }

    fn sums(&self, data: &[&[u8]], p: Option<&mut [u8]>, q: Option<&mut [u8]>) {
        let len = p.as_ref().or(q.as_ref()).map_or(0, |out| out.len());
        assert!(
            data.iter().all(|source| source.len() == len)
                && p.as_ref().is_none_or(|p| p.len() == len)
                && q.as_ref().is_none_or(|q| q.len() == len),
            "parity of unequal lengths"
        );
        let outputs = usize::from(p.is_some()) + usize::from(q.is_some());
        let sources: Vec<*const u8> = data.iter().map(|source| source.as_ptr()).collect();
        let p = p.map(<[u8]>::as_mut_ptr);
        let q = q.map(<[u8]>::as_mut_ptr);
        let aligned = [p, q].into_iter().flatten().all(is_stream_aligned);
        let stream = aligned && (data.len() + outputs) * len >= STREAM_FROM;
        if stream && sources.len() > SOURCES_AT_ONCE {
            self.tiled(&sources, len, p, q);
            return;
        }
        let job = Job {
            sources: &sources,
            at: 0,
            len,
            stream,
        };
        // SAFETY: all are `len` long, and the outputs are borrowed for writing.
        unsafe { self.sum_of(&job, p.map(fresh), q.map(fresh)) };
    }

    /// Column by column, so many sources at once: the last ones first, as Horner's rule has it.
    fn tiled(&self, sources: &[*const u8], len: usize, p: Option<*mut u8>, q: Option<*mut u8>) {
        let (mut p_tile, mut q_tile) = (Tile([0; TILE]), Tile([0; TILE]));
        for at in (0..len).step_by(TILE) {
            let tile = TILE.min(len - at);
            let mut passes = sources.rchunks(SOURCES_AT_ONCE).peekable();
            let mut first = true;
            while let Some(sources) = passes.next() {
                let last = passes.peek().is_none();
                let job = Job {
                    sources,
                    at,
                    len: tile,
                    stream: last,
                };
                let place = |out: Option<*mut u8>, tile: &mut Tile| {
                    let tile = tile.0.as_mut_ptr();
                    out.map(|out| Out {
                        to: if last {
                            // SAFETY: the outputs are `len` long, and `at` is below that.
                            unsafe { out.add(at) }
                        } else {
                            tile
                        },
                        carry: if first { ptr::null() } else { tile },
                    })
                };
                let (p, q) = (place(p, &mut p_tile), place(q, &mut q_tile));
                // SAFETY: sources and outputs have `tile` bytes from `at` on, tiles at least so many.
                unsafe { self.sum_of(&job, p, q) };
                first = false;
            }
        }
    }

    /// # Safety
    /// As `Kernel::run`.
    unsafe fn sum_of(&self, job: &Job, p: Option<Out>, q: Option<Out>) {
        let sum = match (p, q) {
            (Some(p), Some(q)) => Sum::PQ(p, q),
            (Some(p), None) => Sum::P(p),
            (None, Some(q)) => Sum::Q(q),
            (None, None) => return,
        };
        // SAFETY: the caller's.
        unsafe { self.run(job, sum) }
    }

    /// `to` ^= `from`.
    pub fn xor_into(&self, to: &mut [u8], from: &[u8]) {
        assert_eq!(to.len(), from.len(), "xor of unequal lengths");
        let job = Job {
            sources: &[from.as_ptr()],
            at: 0,
            len: to.len(),
            stream: false,
        };
        // SAFETY: both are as long.
        unsafe { self.run(&job, Sum::P(in_place(to))) }
    }

    /// `to` ^= `factor` · `from`.
    pub fn mul_into(&self, to: &mut [u8], from: &[u8], factor: u8) {
        assert_eq!(to.len(), from.len(), "product of unequal lengths");
        let job = Job {
            sources: &[from.as_ptr()],
            at: 0,
            len: to.len(),
            stream: false,
        };
        // SAFETY: both are as long.
        unsafe { self.run(&job, Sum::Dot(&[factor], in_place(to))) }
    }

    /// `out` = Σ factor i · source i.
    pub fn dot(&self, sources: &[&[u8]], factors: &[u8], out: &mut [u8]) {
        let pointers = Pointers::new(sources, &[factors], out.len());
        // SAFETY: all are as long as `out`.
        unsafe { self.run(&pointers.job(), Sum::Dot(factors, fresh(out.as_mut_ptr()))) }
    }

    /// Two of them in one pass.
    pub fn dot2(&self, sources: &[&[u8]], f: &[u8], a: &mut [u8], g: &[u8], b: &mut [u8]) {
        assert_eq!(a.len(), b.len(), "products of unequal lengths");
        let pointers = Pointers::new(sources, &[f, g], a.len());
        let (a_out, b_out) = (fresh(a.as_mut_ptr()), fresh(b.as_mut_ptr()));
        // SAFETY: all are as long as `a`.
        unsafe { self.run(&pointers.job(), Sum::Dot2(f, a_out, g, b_out)) }
    }
}

/// Where sources of one length begin.
struct Pointers {
    sources: Vec<*const u8>,
    len: usize,
}

impl Pointers {
    fn new(sources: &[&[u8]], factors: &[&[u8]], len: usize) -> Self {
        assert!(
            sources.iter().all(|source| source.len() == len)
                && factors.iter().all(|factors| factors.len() == sources.len()),
            "products of unequal lengths"
        );
        Self {
            sources: sources.iter().map(|source| source.as_ptr()).collect(),
            len,
        }
    }

    fn job(&self) -> Job<'_> {
        Job {
            sources: &self.sources,
            at: 0,
            len: self.len,
            stream: false,
        }
    }
}

fn is_stream_aligned(to: *mut u8) -> bool {
    to.addr().is_multiple_of(STREAM_ALIGN)
}

fn fresh(to: *mut u8) -> Out {
    Out {
        to,
        carry: ptr::null(),
    }
}

fn in_place(to: &mut [u8]) -> Out {
    let to = to.as_mut_ptr();
    Out { to, carry: to }
}

/// `to` ^= `from`.
pub fn xor_into(to: &mut [u8], from: &[u8]) {
    Kernel::best().xor_into(to, from);
}

/// `to` ^= `factor` · `from`.
pub fn mul_into(to: &mut [u8], from: &[u8], factor: u8) {
    match factor {
        0 => assert_eq!(to.len(), from.len(), "product of unequal lengths"),
        1 => xor_into(to, from),
        _ => Kernel::best().mul_into(to, from, factor),
    }
}

/// P = XOR of all `data`.
pub fn compute_p<'a>(data: impl IntoIterator<Item = &'a [u8]>, p: &mut [u8]) {
    let data: Vec<&[u8]> = data.into_iter().collect();
    Kernel::best().p(&data, p);
}

/// Q = Σ 2^i · data i; `data` in index order.
pub fn compute_q<'a>(data: impl IntoIterator<Item = &'a [u8]>, q: &mut [u8]) {
    let data: Vec<&[u8]> = data.into_iter().collect();
    Kernel::best().q(&data, q);
}

/// Both; `data` in index order.
pub fn compute_pq(data: &[&[u8]], p: &mut [u8], q: &mut [u8]) {
    Kernel::best().pq(data, p, q);
}
