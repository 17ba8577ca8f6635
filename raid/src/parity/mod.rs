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

use std::mem::MaybeUninit;
use std::ops::Range;
use std::{ptr, slice};

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
/// With more sources the columns are done in tiles of this size, whose sums stay in the core's own cache
/// between the passes. The prefetchers begin anew with each tile: from 16 KiB to 128 KiB, many sources in
/// memory gain a third, and little beyond.
const TILE: usize = 128 << 10;
/// The same where what is found is compared: it has to stay in the cache, too.
const COMPARED_TILE: usize = 32 << 10;
/// What a streamed store needs of its address.
const STREAM_ALIGN: usize = 64;

#[repr(align(64))]
struct Tile<const BYTES: usize>(MaybeUninit<[u8; BYTES]>);

impl<const BYTES: usize> Tile<BYTES> {
    fn new() -> Self {
        Self(MaybeUninit::uninit())
    }

    fn start(&mut self) -> *mut u8 {
        self.0.as_mut_ptr().cast()
    }
}

/// Sums over sources of one length; what has no length of its own is checked by whoever makes it.
#[derive(Clone, Copy)]
struct Work<'a> {
    sources: &'a [*const u8],
    terms: Terms<'a>,
}

/// What of each source is in the first and in the second sum.
#[derive(Clone, Copy)]
enum Terms<'a> {
    /// P, and Q.
    Parity,
    /// A factor each; there is no second sum.
    Factors(&'a [u8]),
    /// A factor each; in the second sum the first so many sources are once more.
    Pair(&'a [u8], usize),
}

/// The first and the second sum.
#[derive(Clone, Copy)]
struct Outs<T>(Option<T>, Option<T>);

impl<T> Outs<T> {
    fn map<U>(self, mut of: impl FnMut(T) -> U) -> Outs<U> {
        Outs(self.0.map(&mut of), self.1.map(&mut of))
    }

    fn count(&self) -> usize {
        usize::from(self.0.is_some()) + usize::from(self.1.is_some())
    }
}

impl<'a> Work<'a> {
    /// Some of the sources alone. As Q is summed by Horner's rule, what comes after them has to be in
    /// the carry.
    fn part(self, range: Range<usize>) -> Self {
        let of = |factors: &'a [u8]| factors.get(range.clone()).unwrap_or_default();
        Self {
            sources: self.sources.get(range.clone()).unwrap_or_default(),
            terms: match self.terms {
                Terms::Parity => Terms::Parity,
                Terms::Factors(factors) => Terms::Factors(of(factors)),
                Terms::Pair(factors, plain) => {
                    Terms::Pair(of(factors), plain.saturating_sub(range.start))
                }
            },
        }
    }

    fn sum(self, outs: Outs<Out>) -> Option<Sum<'a>> {
        match (self.terms, outs) {
            (Terms::Parity, Outs(Some(p), Some(q))) => Some(Sum::PQ(p, q)),
            (Terms::Parity, Outs(Some(p), None)) => Some(Sum::P(p)),
            (Terms::Parity, Outs(None, Some(q))) => Some(Sum::Q(q)),
            (Terms::Factors(factors), Outs(Some(a), _)) => Some(Sum::Dot(factors, a)),
            (Terms::Pair(factors, plain), Outs(Some(a), Some(b))) => {
                Some(Sum::Pair(factors, plain, a, b))
            }
            _ => None,
        }
    }
}

impl Kernel {
    /// P = XOR of all `data`.
    pub fn p(&self, data: &[&[u8]], p: &mut [u8]) {
        self.parity(data, Some(p), None);
    }

    /// Q = Σ 2^i · data i.
    pub fn q(&self, data: &[&[u8]], q: &mut [u8]) {
        self.parity(data, None, Some(q));
    }

    /// Both parities in one pass.
    pub fn pq(&self, data: &[&[u8]], p: &mut [u8], q: &mut [u8]) {
        self.parity(data, Some(p), Some(q));
    }

    fn parity(&self, data: &[&[u8]], p: Option<&mut [u8]>, q: Option<&mut [u8]>) {
        let len = p.as_ref().or(q.as_ref()).map_or(0, |out| out.len());
        let sources = pointers(data, len);
        let outs = Outs(p, q).map(|out| pointer(out, len));
        let work = Work {
            sources: &sources,
            terms: Terms::Parity,
        };
        // SAFETY: all are `len` long, and the outputs are borrowed for writing.
        unsafe { self.sums(work, len, outs) };
    }

    /// `out` = Σ factor i · source i.
    pub fn dot(&self, sources: &[&[u8]], factors: &[u8], out: &mut [u8]) {
        self.by_factors(sources, Terms::Factors(factors), out, None);
    }

    /// `a` = Σ factor i · source i, and `b` = `a` + the first `plain` sources: with Q as the last source, and
    /// `plain` all before it, two lost chunks at once.
    pub fn pair(
        &self,
        sources: &[&[u8]],
        factors: &[u8],
        plain: usize,
        a: &mut [u8],
        b: &mut [u8],
    ) {
        self.by_factors(sources, Terms::Pair(factors, plain), a, Some(b));
    }

    fn by_factors(&self, sources: &[&[u8]], terms: Terms, a: &mut [u8], b: Option<&mut [u8]>) {
        let len = a.len();
        let (Terms::Factors(factors) | Terms::Pair(factors, _)) = terms else {
            unreachable!("parity has no factors");
        };
        assert_eq!(factors.len(), sources.len(), "a factor for each source");
        let sources = pointers(sources, len);
        let outs = Outs(Some(a), b).map(|out| pointer(out, len));
        let work = Work {
            sources: &sources,
            terms,
        };
        // SAFETY: all are `len` long, and the outputs are borrowed for writing.
        unsafe { self.sums(work, len, outs) };
    }

    /// # Safety
    /// Sources are valid for reading, and outputs for writing, each for `len` bytes; outputs overlap nothing.
    unsafe fn sums(&self, work: Work, len: usize, outs: Outs<*mut u8>) {
        let all_bytes = (work.sources.len() + outs.count()) * len;
        let aligned = [outs.0, outs.1]
            .into_iter()
            .flatten()
            .all(is_stream_aligned);
        let stream = aligned && all_bytes >= STREAM_FROM;
        // SAFETY: the caller's; streamed only if aligned.
        unsafe {
            if stream && work.sources.len() > SOURCES_AT_ONCE {
                self.tiled::<TILE>(work, len, outs);
            } else {
                self.at_once(work, len, outs, stream);
            }
        }
    }

    /// # Safety
    /// As [`Kernel::sums`]; the outputs are aligned if `stream`.
    unsafe fn at_once(&self, work: Work, len: usize, outs: Outs<*mut u8>, stream: bool) {
        let job = Job {
            sources: work.sources,
            at: 0,
            len,
            stream,
        };
        if let Some(sum) = work.sum(outs.map(fresh)) {
            // SAFETY: the caller's.
            unsafe { self.run(&job, sum) };
        }
    }

    /// Streamed, in tiles of so many bytes, a multiple of [`STREAM_ALIGN`].
    ///
    /// Never inlined: whoever has the tiles in its frame touches each of their pages, and small sums
    /// would pay for it.
    ///
    /// # Safety
    /// As [`Kernel::sums`]; the outputs are aligned.
    #[inline(never)]
    unsafe fn tiled<const BYTES: usize>(&self, work: Work, len: usize, outs: Outs<*mut u8>) {
        const { assert!(BYTES > 0 && BYTES.is_multiple_of(STREAM_ALIGN)) };
        let mut tiles = Tiles::<BYTES>::new();
        let between = tiles.outs(&outs);
        for at in (0..len).step_by(BYTES) {
            // SAFETY: the outputs are `len` long, and `at` is below that.
            let outs = outs.map(|out| unsafe { out.add(at) });
            let columns = at..len.min(at + BYTES);
            // SAFETY: sources and outputs have these bytes, and a tile has room for them; a multiple of
            // the alignment behind the first, each tile's first is aligned, too.
            unsafe { self.passes(work, columns, outs, true, between) };
        }
    }

    /// One tile, so many sources at once: the last ones first, as Horner's rule has it.
    ///
    /// # Safety
    /// Sources are valid in `columns`; `outs`, which are where the first column goes, and `between` for so
    /// many bytes, and `outs` aligned if `stream`.
    unsafe fn passes(
        &self,
        work: Work,
        columns: Range<usize>,
        outs: Outs<*mut u8>,
        stream: bool,
        between: Outs<*mut u8>,
    ) {
        let all = work.sources.len();
        let each = all.div_ceil(all.div_ceil(SOURCES_AT_ONCE).max(1)).max(1);
        let mut end = all;
        // Once without any sources, too: sums of nothing are zeros.
        loop {
            let start = end.saturating_sub(each);
            let (is_first, is_last) = (end == all, start == 0);
            let place = |to: Option<*mut u8>, tile: Option<*mut u8>| {
                to.zip(tile).map(|(to, tile)| Out {
                    to: if is_last { to } else { tile },
                    carry: if is_first { ptr::null() } else { tile },
                })
            };
            let part = work.part(start..end);
            let job = Job {
                sources: part.sources,
                at: columns.start,
                len: columns.len(),
                stream: stream && is_last,
            };
            let placed = Outs(place(outs.0, between.0), place(outs.1, between.1));
            if let Some(sum) = part.sum(placed) {
                // SAFETY: the caller's.
                unsafe { self.run(&job, sum) };
            }
            if is_last {
                return;
            }
            end = start;
        }
    }

    /// Whether both parities are those of `data`. Stops at the first tile where they aren't.
    pub fn is_pq(&self, data: &[&[u8]], p: &[u8], q: &[u8]) -> bool {
        let len = p.len();
        assert_eq!(q.len(), len, "parity of unequal lengths");
        let sources = pointers(data, len);
        let work = Work {
            sources: &sources,
            terms: Terms::Parity,
        };
        let mut between = Tiles::<COMPARED_TILE>::new();
        let mut found = Tiles::<COMPARED_TILE>::new();
        let (found_p, found_q) = (found.0.start(), found.1.start());
        let outs = Outs(Some(found_p), Some(found_q));
        let between = between.outs(&outs);
        let stored = p.chunks(COMPARED_TILE).zip(q.chunks(COMPARED_TILE));
        stored
            .zip((0..).step_by(COMPARED_TILE))
            .all(|((p, q), at)| {
                // SAFETY: sources have these bytes, and a tile has room for them, which are then there.
                unsafe {
                    self.passes(work, at..at + p.len(), outs, false, between);
                    slice::from_raw_parts(found_p, p.len()) == p
                        && slice::from_raw_parts(found_q, q.len()) == q
                }
            })
    }

    /// Brings both parities from `old` data to `new`, whose Q coefficient is `factor`.
    pub fn update_pq(&self, old: &[u8], new: &[u8], factor: u8, p: &mut [u8], q: &mut [u8]) {
        let len = p.len();
        assert!(
            old.len() == len && new.len() == len && q.len() == len,
            "update of unequal lengths"
        );
        let job = Job {
            sources: &[old.as_ptr(), new.as_ptr()],
            at: 0,
            len,
            stream: false,
        };
        // SAFETY: all are `len` long.
        unsafe { self.run(&job, Sum::Update(factor, in_place(p), in_place(q))) }
    }

    /// `to` ^= `from`.
    pub fn xor_into(&self, to: &mut [u8], from: &[u8]) {
        assert_eq!(to.len(), from.len(), "sums of unequal lengths");
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
        assert_eq!(to.len(), from.len(), "sums of unequal lengths");
        let job = Job {
            sources: &[from.as_ptr()],
            at: 0,
            len: to.len(),
            stream: false,
        };
        // SAFETY: both are as long.
        unsafe { self.run(&job, Sum::Dot(&[factor], in_place(to))) }
    }
}

/// What sums are kept in between the passes.
struct Tiles<const BYTES: usize>(Tile<BYTES>, Tile<BYTES>);

impl<const BYTES: usize> Tiles<BYTES> {
    fn new() -> Self {
        Self(Tile::new(), Tile::new())
    }

    /// Those that are wanted.
    fn outs<T>(&mut self, wanted: &Outs<T>) -> Outs<*mut u8> {
        Outs(
            wanted.0.is_some().then_some(self.0.start()),
            wanted.1.is_some().then_some(self.1.start()),
        )
    }
}

/// Where sources begin that must be `len` long.
fn pointers(sources: &[&[u8]], len: usize) -> Vec<*const u8> {
    assert!(
        sources.iter().all(|source| source.len() == len),
        "sources and sums of unequal lengths"
    );
    sources.iter().map(|source| source.as_ptr()).collect()
}

fn pointer(out: &mut [u8], len: usize) -> *mut u8 {
    assert_eq!(out.len(), len, "sums of unequal lengths");
    out.as_mut_ptr()
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

/// What is wanted of them, in one pass; `data` in index order.
pub fn compute(data: &[&[u8]], p: Option<&mut [u8]>, q: Option<&mut [u8]>) {
    Kernel::best().parity(data, p, q);
}
