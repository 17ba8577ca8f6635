//! The loops over a code word, for each kind of vector, and the choice between them.
//!
//! A kernel does whole steps of four vectors; what is left over is done word by word, and the last
//! bytes in a word of their own.
//!
//! Invariants
//! - A kernel is in [`Kernel::available`] only if this CPU has its instructions.
//! - Every result is the same whichever kernel gave it (the tests force each).

use std::sync::OnceLock;

use super::vector::Vector;
#[cfg(target_arch = "x86_64")]
use super::vector::{Wide256, Wide512};

/// What the loops read.
pub(super) struct Job<'a> {
    /// The first byte of each source.
    pub(super) sources: &'a [*const u8],
    /// Where in each of them this begins.
    pub(super) at: usize,
    /// Bytes.
    pub(super) len: usize,
    /// Store past the caches: the outputs are aligned to 64 bytes.
    pub(super) stream: bool,
}

/// Where a result goes.
#[derive(Clone, Copy)]
pub(super) struct Out {
    pub(super) to: *mut u8,
    /// What it begins with; null: zeros.
    pub(super) carry: *const u8,
}

impl Out {
    /// The part behind the first `bytes`.
    ///
    /// # Safety
    /// There are so many.
    unsafe fn past(self, bytes: usize) -> Self {
        // SAFETY: the caller's.
        unsafe {
            Self {
                to: self.to.add(bytes),
                carry: if self.carry.is_null() {
                    self.carry
                } else {
                    self.carry.add(bytes)
                },
            }
        }
    }
}

/// What a kernel computes.
#[derive(Clone, Copy)]
pub(super) enum Sum<'a> {
    /// The sum.
    P(Out),
    /// Σ 2^i · source i, by Horner's rule: a carry is what comes after the last source.
    Q(Out),
    /// Both.
    PQ(Out, Out),
    /// Σ factor i · source i.
    Dot(&'a [u8], Out),
    /// Σ factor i · source i, and that plus the first so many sources: two lost ones of which all but
    /// Q add up to P, for little more than the price of one.
    Pair(&'a [u8], usize, Out, Out),
    /// P += old + new, Q += factor · (old + new), of the two sources.
    Update(u8, Out, Out),
}

impl Sum<'_> {
    /// # Safety
    /// The outputs have so many bytes.
    unsafe fn past(self, bytes: usize) -> Self {
        // SAFETY: the caller's.
        unsafe {
            match self {
                Self::P(p) => Self::P(p.past(bytes)),
                Self::Q(q) => Self::Q(q.past(bytes)),
                Self::PQ(p, q) => Self::PQ(p.past(bytes), q.past(bytes)),
                Self::Dot(factors, out) => Self::Dot(factors, out.past(bytes)),
                Self::Pair(factors, plain, a, b) => {
                    Self::Pair(factors, plain, a.past(bytes), b.past(bytes))
                }
                Self::Update(factor, p, q) => Self::Update(factor, p.past(bytes), q.past(bytes)),
            }
        }
    }
}

/// One way to compute.
pub struct Kernel {
    name: &'static str,
    /// Returns how many bytes it has done. Safe under the terms of [`Kernel::run`].
    run: unsafe fn(&Job, Sum) -> usize,
}

static WORDS: Kernel = Kernel {
    name: "words",
    run: run_words,
};

#[cfg(target_arch = "x86_64")]
static AVX2: Kernel = Kernel {
    name: "avx2",
    run: run_avx2,
};

#[cfg(target_arch = "x86_64")]
static AVX512: Kernel = Kernel {
    name: "avx512+gfni",
    run: run_avx512,
};

impl Kernel {
    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// All that this CPU can run, the fastest first.
    pub fn available() -> &'static [&'static Self] {
        static AVAILABLE: OnceLock<Vec<&'static Kernel>> = OnceLock::new();
        AVAILABLE.get_or_init(|| {
            let mut kernels = Vec::new();
            #[cfg(target_arch = "x86_64")]
            {
                let wide = is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("gfni");
                kernels.extend(wide.then_some(&AVX512));
                kernels.extend(is_x86_feature_detected!("avx2").then_some(&AVX2));
            }
            kernels.push(&WORDS);
            kernels
        })
    }

    /// The fastest.
    pub fn best() -> &'static Self {
        Self::available().first().copied().unwrap_or(&WORDS)
    }

    /// Computes.
    ///
    /// # Safety
    /// Every source is valid for reading from `job.at` on, every output for writing and every carry
    /// for reading, each for `job.len` bytes; there is a factor for each source. Outputs overlap
    /// nothing but their own carries.
    pub(super) unsafe fn run(&self, job: &Job, sum: Sum) {
        // SAFETY: the caller's; and who has this kernel has the instructions.
        unsafe {
            let done = (self.run)(job, sum);
            let rest = Job {
                at: job.at + done,
                len: job.len - done,
                stream: false,
                ..*job
            };
            let sum = sum.past(done);
            let words = run_words(&rest, sum);
            if words < rest.len {
                run_tail(&rest, sum.past(words), words);
            }
        }
    }
}

/// The last bytes, fewer than a word: as a word of which not all is stored.
///
/// # Safety
/// As [`Kernel::run`].
unsafe fn run_tail(job: &Job, sum: Sum, from: usize) {
    let left = job.len - from;
    assert!(left < 8, "{left} bytes are no tail");
    let mut words = vec![[0u8; 8]; job.sources.len()];
    // SAFETY: `left` bytes of each source and carry are there, and a word has room for them.
    unsafe {
        for (word, source) in words.iter_mut().zip(job.sources) {
            let start = source.add(job.at + from);
            start.copy_to_nonoverlapping(word.as_mut_ptr(), left);
        }
    }
    let sources: Vec<*const u8> = words.iter().map(|word| word.as_ptr()).collect();
    let whole = Job {
        sources: &sources,
        at: 0,
        len: 8,
        stream: false,
    };
    let (mut a, mut b) = ([0u8; 8], [0u8; 8]);
    let (first, second) = match sum {
        Sum::P(out) | Sum::Q(out) | Sum::Dot(_, out) => (out, None),
        Sum::PQ(a, b) | Sum::Pair(_, _, a, b) | Sum::Update(_, a, b) => (a, Some(b)),
    };
    let in_word = |out: Out, word: &mut [u8; 8]| {
        // One pointer for both: a shared borrow would end with the first store.
        let to = word.as_mut_ptr();
        if !out.carry.is_null() {
            // SAFETY: as above.
            unsafe { out.carry.copy_to_nonoverlapping(to, left) };
        }
        Out { to, carry: to }
    };
    let in_a = in_word(first, &mut a);
    let in_b = in_word(second.unwrap_or(first), &mut b);
    let sum = match sum {
        Sum::P(_) => Sum::P(in_a),
        Sum::Q(_) => Sum::Q(in_a),
        Sum::PQ(..) => Sum::PQ(in_a, in_b),
        Sum::Dot(factors, _) => Sum::Dot(factors, in_a),
        Sum::Pair(factors, plain, ..) => Sum::Pair(factors, plain, in_a, in_b),
        Sum::Update(factor, ..) => Sum::Update(factor, in_a, in_b),
    };
    // SAFETY: all of it is in words of our own.
    unsafe {
        run_words(&whole, sum);
        a.as_ptr().copy_to_nonoverlapping(first.to, left);
        if let Some(second) = second {
            b.as_ptr().copy_to_nonoverlapping(second.to, left);
        }
    }
}

/// # Safety
/// As [`Kernel::run`].
unsafe fn run_words(job: &Job, sum: Sum) -> usize {
    // SAFETY: the caller's; words need nothing of the CPU.
    unsafe { steps::<u64>(job, sum) }
}

/// # Safety
/// As [`Kernel::run`], on a CPU with AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn run_avx2(job: &Job, sum: Sum) -> usize {
    // SAFETY: the caller's.
    unsafe { steps::<Four<Wide256>>(job, sum) }
}

/// # Safety
/// As [`Kernel::run`], on a CPU with AVX-512 F and BW and with GFNI.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,gfni")]
unsafe fn run_avx512(job: &Job, sum: Sum) -> usize {
    // SAFETY: the caller's.
    unsafe { steps::<Four<Wide512>>(job, sum) }
}

/// Four vectors that go through a step side by side: the latency of one hides behind the others.
#[derive(Clone, Copy)]
struct Four<V>(V, V, V, V);

impl<V: Vector> Vector for Four<V> {
    const BYTES: usize = 4 * V::BYTES;
    type Factor = V::Factor;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller's.
        unsafe { Self(V::zero(), V::zero(), V::zero(), V::zero()) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller's: all four are within.
        unsafe {
            Self(
                V::load(from),
                V::load(from.add(V::BYTES)),
                V::load(from.add(2 * V::BYTES)),
                V::load(from.add(3 * V::BYTES)),
            )
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: the caller's: all four are within.
        unsafe {
            self.0.store(to);
            self.1.store(to.add(V::BYTES));
            self.2.store(to.add(2 * V::BYTES));
            self.3.store(to.add(3 * V::BYTES));
        }
    }

    #[inline(always)]
    unsafe fn stream(self, to: *mut u8) {
        // SAFETY: the caller's: all four are within, and aligned if the first is.
        unsafe {
            self.0.stream(to);
            self.1.stream(to.add(V::BYTES));
            self.2.stream(to.add(2 * V::BYTES));
            self.3.stream(to.add(3 * V::BYTES));
        }
    }

    #[inline(always)]
    unsafe fn fence() {
        // SAFETY: the caller's.
        unsafe { V::fence() }
    }

    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: the caller's.
        unsafe {
            Self(
                self.0.xor(other.0),
                self.1.xor(other.1),
                self.2.xor(other.2),
                self.3.xor(other.3),
            )
        }
    }

    #[inline(always)]
    unsafe fn double(self) -> Self {
        // SAFETY: the caller's.
        unsafe {
            Self(
                self.0.double(),
                self.1.double(),
                self.2.double(),
                self.3.double(),
            )
        }
    }

    #[inline(always)]
    unsafe fn factor(factor: u8) -> V::Factor {
        // SAFETY: the caller's.
        unsafe { V::factor(factor) }
    }

    #[inline(always)]
    unsafe fn mul(self, factor: V::Factor) -> Self {
        // SAFETY: the caller's.
        unsafe {
            Self(
                self.0.mul(factor),
                self.1.mul(factor),
                self.2.mul(factor),
                self.3.mul(factor),
            )
        }
    }
}

/// What an output begins with.
///
/// # Safety
/// The carry, if there is one, has a vector at `at`; the CPU has the instructions of `V`.
#[inline(always)]
unsafe fn begin<V: Vector>(out: Out, at: usize) -> V {
    // SAFETY: the caller's: the carry, if there is one, has a vector there.
    unsafe {
        if out.carry.is_null() {
            V::zero()
        } else {
            V::load(out.carry.add(at))
        }
    }
}

/// Stores a result.
///
/// # Safety
/// The output has a vector at `at`, aligned if `stream`; the CPU has the instructions of `V`.
#[inline(always)]
unsafe fn end<V: Vector>(value: V, out: Out, at: usize, stream: bool) {
    // SAFETY: the caller's: the output has a vector there.
    unsafe {
        if stream {
            value.stream(out.to.add(at));
        } else {
            value.store(out.to.add(at));
        }
    }
}

/// All whole steps; returns how many bytes they were.
///
/// # Safety
/// As [`Kernel::run`], on a CPU that has the instructions of `V`.
#[inline(always)]
unsafe fn steps<V: Vector>(job: &Job, sum: Sum) -> usize {
    let whole = job.len / V::BYTES * V::BYTES;
    if whole == 0 {
        return 0;
    }
    // SAFETY: the caller's; every access is below `whole`.
    unsafe {
        match sum {
            Sum::P(p) => steps_p::<V>(job, whole, p),
            Sum::Q(q) => steps_q::<V>(job, whole, q),
            Sum::PQ(p, q) => steps_pq::<V>(job, whole, p, q),
            Sum::Dot(factors, out) => steps_dot::<V>(job, whole, factors, out),
            Sum::Pair(factors, plain, a, b) => {
                steps_pair::<V>(job, whole, (factors, plain), a, b);
            }
            Sum::Update(factor, p, q) => steps_update::<V>(job, whole, factor, p, q),
        }
        if job.stream {
            V::fence();
        }
    }
    whole
}

/// # Safety
/// As [`steps`]; `whole` is at most the job's length.
#[inline(always)]
unsafe fn steps_p<V: Vector>(job: &Job, whole: usize, p: Out) {
    for at in (0..whole).step_by(V::BYTES) {
        // SAFETY: the caller's.
        unsafe {
            let mut sum: V = begin(p, at);
            for source in job.sources {
                sum = sum.xor(V::load(source.add(job.at + at)));
            }
            end(sum, p, at, job.stream);
        }
    }
}

/// # Safety
/// As [`steps`]; `whole` is at most the job's length.
#[inline(always)]
unsafe fn steps_q<V: Vector>(job: &Job, whole: usize, q: Out) {
    for at in (0..whole).step_by(V::BYTES) {
        // SAFETY: the caller's.
        unsafe {
            let mut sum: V = begin(q, at);
            for source in job.sources.iter().rev() {
                sum = sum.double().xor(V::load(source.add(job.at + at)));
            }
            end(sum, q, at, job.stream);
        }
    }
}

/// # Safety
/// As [`steps`]; `whole` is at most the job's length.
#[inline(always)]
unsafe fn steps_pq<V: Vector>(job: &Job, whole: usize, p: Out, q: Out) {
    for at in (0..whole).step_by(V::BYTES) {
        // SAFETY: the caller's.
        unsafe {
            let (mut sum_p, mut sum_q): (V, V) = (begin(p, at), begin(q, at));
            for source in job.sources.iter().rev() {
                let data = V::load(source.add(job.at + at));
                sum_p = sum_p.xor(data);
                sum_q = sum_q.double().xor(data);
            }
            end(sum_p, p, at, job.stream);
            end(sum_q, q, at, job.stream);
        }
    }
}

/// # Safety
/// The CPU has the instructions of `V`.
#[inline(always)]
unsafe fn prepared<V: Vector>(factors: &[u8]) -> Vec<V::Factor> {
    let mut prepared = Vec::with_capacity(factors.len());
    for &factor in factors {
        // SAFETY: the caller's.
        prepared.push(unsafe { V::factor(factor) });
    }
    prepared
}

/// # Safety
/// As [`steps`]; `whole` is at most the job's length.
#[inline(always)]
unsafe fn steps_dot<V: Vector>(job: &Job, whole: usize, factors: &[u8], out: Out) {
    // SAFETY: the caller's.
    let factors = unsafe { prepared::<V>(factors) };
    for at in (0..whole).step_by(V::BYTES) {
        // SAFETY: the caller's.
        unsafe {
            let mut sum: V = begin(out, at);
            for (source, factor) in job.sources.iter().zip(&factors) {
                sum = sum.xor(V::load(source.add(job.at + at)).mul(*factor));
            }
            end(sum, out, at, job.stream);
        }
    }
}

/// # Safety
/// As [`steps`]; `whole` is at most the job's length.
#[inline(always)]
unsafe fn steps_pair<V: Vector>(
    job: &Job,
    whole: usize,
    (factors, plain): (&[u8], usize),
    a: Out,
    b: Out,
) {
    // SAFETY: the caller's.
    let factors = unsafe { prepared::<V>(factors) };
    let (both, first_only) = job.sources.split_at(plain.min(job.sources.len()));
    let (of_both, of_first) = factors.split_at(both.len().min(factors.len()));
    for at in (0..whole).step_by(V::BYTES) {
        // SAFETY: the caller's.
        unsafe {
            let (mut products, mut sum) = (V::zero(), V::zero());
            for (source, factor) in both.iter().zip(of_both) {
                let data = V::load(source.add(job.at + at));
                products = products.xor(data.mul(*factor));
                sum = sum.xor(data);
            }
            for (source, factor) in first_only.iter().zip(of_first) {
                products = products.xor(V::load(source.add(job.at + at)).mul(*factor));
            }
            let (begin_a, begin_b): (V, V) = (begin(a, at), begin(b, at));
            end(begin_a.xor(products), a, at, job.stream);
            end(begin_b.xor(products).xor(sum), b, at, job.stream);
        }
    }
}

/// # Safety
/// As [`steps`]; `whole` is at most the job's length, and there are two sources.
#[inline(always)]
unsafe fn steps_update<V: Vector>(job: &Job, whole: usize, factor: u8, p: Out, q: Out) {
    let &[old, new] = job.sources else {
        unreachable!("an update of {} sources", job.sources.len());
    };
    // SAFETY: the caller's.
    let factor = unsafe { V::factor(factor) };
    for at in (0..whole).step_by(V::BYTES) {
        // SAFETY: the caller's.
        unsafe {
            let change = V::load(old.add(job.at + at)).xor(V::load(new.add(job.at + at)));
            let (sum_p, sum_q): (V, V) = (begin(p, at), begin(q, at));
            end(sum_p.xor(change), p, at, job.stream);
            end(sum_q.xor(change.mul(factor)), q, at, job.stream);
        }
    }
}
