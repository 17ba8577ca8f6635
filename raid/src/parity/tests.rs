//! Every kernel that this CPU has, against the byte-by-byte oracle and against each other.

use cairn_blockdev::Buf;
use cairn_blockdev::sim::Rng;
use proptest::prelude::*;

use super::field::mul;
use super::*;

fn random(rng: &mut Rng, n: usize, len: usize) -> Vec<Vec<u8>> {
    let source = |_| {
        let mut data = vec![0; len];
        rng.fill(&mut data);
        data
    };
    (0..n).map(source).collect()
}

/// Byte by byte, from the table of the field alone.
fn oracle(data: &[&[u8]], factors: &[u8]) -> Vec<u8> {
    let len = data.first().map_or(0, |d| d.len());
    (0..len)
        .map(|at| {
            let products = data.iter().zip(factors).map(|(d, f)| mul(*f, d[at]));
            products.fold(0, |sum, product| sum ^ product)
        })
        .collect()
}

fn q_factors(n: usize) -> Vec<u8> {
    (0..n).map(coefficient).collect()
}

/// Bytes around an output that nobody may touch.
const GUARD: usize = 70;

struct Guarded {
    bytes: Vec<u8>,
    shift: usize,
    len: usize,
}

impl Guarded {
    fn new(shift: usize, len: usize) -> Self {
        Self {
            bytes: vec![0xa5; GUARD + shift + len + GUARD],
            shift,
            len,
        }
    }

    fn out(&mut self) -> &mut [u8] {
        let start = GUARD + self.shift;
        &mut self.bytes[start..start + self.len]
    }

    fn check(&mut self, want: &[u8], what: &str) {
        assert!(self.out() == want, "{what}");
        let start = GUARD + self.shift;
        let (before, rest) = self.bytes.split_at(start);
        let around = before.iter().chain(&rest[self.len..]);
        assert!(
            around.copied().all(|byte| byte == 0xa5),
            "{what}: bytes beside it"
        );
    }
}

#[test]
fn the_plain_kernel_is_always_there_and_the_best_is_the_first() {
    let names: Vec<&str> = Kernel::available().iter().map(|k| k.name()).collect();
    assert_eq!(names.last(), Some(&"words"));
    assert_eq!(names.first(), Some(&Kernel::best().name()));
}

/// What all the other tests go through is what the kernel says of this CPU: a kernel that isn't offered
/// any more would go untested.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[test]
fn every_kernel_that_this_cpu_can_run_is_offered() {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let flags = info.lines().find(|line| line.starts_with("flags")).unwrap();
    let has = |flag: &&str| flags.split_whitespace().any(|word| word == *flag);
    let mut want = Vec::new();
    if ["avx512f", "avx512bw", "gfni"].iter().all(has) {
        want.push("avx512+gfni");
    }
    if has(&"avx2") {
        want.push("avx2");
    }
    want.push("words");
    let names: Vec<&str> = Kernel::available().iter().map(|k| k.name()).collect();
    assert_eq!(names, want);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_kernel_computes_what_the_oracle_does(
        n in 1usize..=64,
        len in 1usize..1500,
        shifts in proptest::array::uniform4(0usize..65),
        factors in proptest::collection::vec(any::<u8>(), 128),
        seed: u64,
    ) {
        // Each source at an alignment of its own, and at the end of its memory.
        let shift = |i: usize| (i * 7 + shifts[0]) % 64;
        let mut rng = Rng::new(seed);
        let owned: Vec<Vec<u8>> = (0..n)
            .flat_map(|i| random(&mut rng, 1, len + shift(i)))
            .collect();
        let data: Vec<&[u8]> = owned
            .iter()
            .enumerate()
            .map(|(i, d)| &d[shift(i)..])
            .collect();
        let (f, g) = (&factors[..n], &factors[64..64 + n]);
        let want_p = oracle(&data, &vec![1; n]);
        let want_q = oracle(&data, &q_factors(n));
        for kernel in Kernel::available() {
            let name = kernel.name();
            let guarded = || (Guarded::new(shifts[1], len), Guarded::new(shifts[2], len));
            let (mut p, mut q) = guarded();
            kernel.pq(&data, p.out(), q.out());
            p.check(&want_p, name);
            q.check(&want_q, name);
            let (mut p, mut q) = guarded();
            kernel.p(&data, p.out());
            kernel.q(&data, q.out());
            p.check(&want_p, name);
            q.check(&want_q, name);
            let (mut a, mut b) = guarded();
            let plain = shifts[3] % (n + 1);
            kernel.pair(&data, f, plain, a.out(), b.out());
            let with_plain: Vec<u8> = (0..n).map(|i| f[i] ^ u8::from(i < plain)).collect();
            a.check(&oracle(&data, f), name);
            b.check(&oracle(&data, &with_plain), name);
            let (mut a, mut b) = guarded();
            kernel.dot(&data, g, a.out());
            a.check(&oracle(&data, g), name);
            b.out().copy_from_slice(data[0]);
            kernel.mul_into(b.out(), data[n - 1], f[0]);
            kernel.xor_into(b.out(), data[n / 2]);
            let three = [data[0], data[n - 1], data[n / 2]];
            b.check(&oracle(&three, &[1, f[0], 1]), name);
            // From the first source to the last, in what is P and Q of other things.
            let (mut p, mut q) = guarded();
            p.out().copy_from_slice(&want_p);
            q.out().copy_from_slice(&want_q);
            kernel.update_pq(data[0], data[n - 1], f[0], p.out(), q.out());
            let (p_terms, q_terms) = ([&*want_p, data[0], data[n - 1]], [&*want_q, data[0], data[n - 1]]);
            p.check(&oracle(&p_terms, &[1, 1, 1]), name);
            q.check(&oracle(&q_terms, &[1, f[0], f[0]]), name);
        }
    }
}

/// An output that can be streamed to, with bytes around it that nobody may touch.
struct Aligned {
    bytes: Buf,
    len: usize,
}

impl Aligned {
    fn new(len: usize) -> Self {
        let mut bytes = Buf::zeroed(STREAM_ALIGN + len + GUARD);
        bytes.fill(0xa5);
        Self { bytes, len }
    }

    fn start(&mut self) -> *mut u8 {
        let start = self.bytes[STREAM_ALIGN..].as_mut_ptr();
        assert!(is_stream_aligned(start));
        start
    }

    fn check(&self, want: &[u8], what: &str) {
        let (before, rest) = self.bytes.split_at(STREAM_ALIGN);
        let (out, after) = rest.split_at(self.len);
        assert!(out == want, "{what}");
        let mut around = before.iter().chain(after);
        assert!(around.all(|byte| *byte == 0xa5), "{what}: bytes beside it");
    }
}

/// How sums are made, forced: what [`Kernel::sums`] takes for much memory alone.
#[derive(Clone, Copy, Debug)]
enum How {
    Streamed,
    /// In tiles so small that the few bytes of a test are many of them.
    Tiles,
    WideTiles,
}

fn forced(kernel: &Kernel, how: How, work: Work, len: usize, outs: Outs<*mut u8>) {
    // SAFETY: the tests' sources and outputs are `len` long, and outputs aligned.
    unsafe {
        match how {
            How::Streamed => kernel.at_once(work, len, outs, true),
            How::Tiles => kernel.tiled::<STREAM_ALIGN>(work, len, outs),
            How::WideTiles => kernel.tiled::<1024>(work, len, outs),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn sums_are_the_oracles_streamed_and_in_passes_over_tiles(
        n in 0usize..=64,
        len in 1usize..4000,
        shift in 0usize..65,
        plain in 0usize..=64,
        factors in proptest::collection::vec(any::<u8>(), 64),
        seed: u64,
    ) {
        let owned = random(&mut Rng::new(seed), n, len + shift);
        let data: Vec<&[u8]> = owned.iter().map(|d| &d[shift..]).collect();
        let sources = pointers(&data, len);
        let (f, plain) = (&factors[..n], plain.min(n));
        let with_plain: Vec<u8> = (0..n).map(|i| f[i] ^ u8::from(i < plain)).collect();
        let sum = |factors: &[u8]| if n == 0 { vec![0; len] } else { oracle(&data, factors) };
        let (want_p, want_q) = (sum(&vec![1; n]), sum(&q_factors(n)));
        let (want_f, want_pair) = (sum(f), sum(&with_plain));
        let rows = [
            (Terms::Parity, Some(&want_p), Some(&want_q)),
            (Terms::Parity, Some(&want_p), None),
            (Terms::Parity, None, Some(&want_q)),
            (Terms::Factors(f), Some(&want_f), None),
            (Terms::Pair(f, plain), Some(&want_f), Some(&want_pair)),
        ];
        for kernel in Kernel::available() {
            for how in [How::Streamed, How::Tiles, How::WideTiles] {
                for (row, (terms, want_a, want_b)) in rows.into_iter().enumerate() {
                    let (mut a, mut b) = (Aligned::new(len), Aligned::new(len));
                    let outs = Outs(want_a.map(|_| a.start()), want_b.map(|_| b.start()));
                    forced(kernel, how, Work { sources: &sources, terms }, len, outs);
                    let untouched = vec![0xa5; len];
                    let what = format!("{} {how:?}, row {row}", kernel.name());
                    a.check(want_a.unwrap_or(&untouched), &what);
                    b.check(want_b.unwrap_or(&untouched), &what);
                }
            }
        }
    }
}

#[test]
fn streamed_and_tiled_results_are_the_same() {
    let mut rng = Rng::new(3);
    for (n, len) in [
        (2, 2 << 20),
        (11, 512 << 10),
        (12, (512 << 10) + 4096),
        (23, (256 << 10) + 12),
    ] {
        let owned = random(&mut rng, n, len);
        let data: Vec<&[u8]> = owned.iter().map(Vec::as_slice).collect();
        let mut wants: Option<(Buf, Buf)> = None;
        for kernel in Kernel::available().iter().rev() {
            let (mut p, mut q) = (Buf::zeroed(len), Buf::zeroed(len));
            assert!(is_stream_aligned(p.as_mut_ptr()));
            kernel.pq(&data, &mut p, &mut q);
            let (want_p, want_q) = wants.get_or_insert_with(|| {
                // Halves are too small to be streamed.
                let (mut p, mut q) = (Buf::zeroed(len), Buf::zeroed(len));
                for at in (0..len).step_by(4096) {
                    let end = len.min(at + 4096);
                    let piece: Vec<&[u8]> = data.iter().map(|d| &d[at..end]).collect();
                    kernel.pq(&piece, &mut p[at..end], &mut q[at..end]);
                }
                (p, q)
            });
            assert!(
                p[..] == want_p[..] && q[..] == want_q[..],
                "{} of {n}",
                kernel.name()
            );
            // The same sums, by their factors; of the pair's second, all but the last source once more.
            let (mut a, mut b) = (Buf::zeroed(len), Buf::zeroed(len));
            kernel.pair(&data, &q_factors(n), n - 1, &mut a, &mut b);
            let mut want_b = want_q.to_vec();
            for at in 0..len {
                want_b[at] ^= want_p[at] ^ data[n - 1][at];
            }
            assert!(
                a[..] == want_q[..] && b[..] == want_b[..],
                "{} of {n}",
                kernel.name()
            );
            kernel.dot(&data, &vec![1; n], &mut a);
            assert!(a[..] == want_p[..], "{} of {n}", kernel.name());
            // Each parity alone, and where nothing can be streamed to.
            let mut odd = Buf::zeroed(len + 1);
            for out in [&mut a[..], &mut odd[1..]] {
                kernel.p(&data, out);
                assert!(out[..] == want_p[..], "{} of {n}", kernel.name());
                kernel.q(&data, out);
                assert!(out[..] == want_q[..], "{} of {n}", kernel.name());
            }
        }
    }
}

#[test]
fn an_update_brings_parity_to_what_the_new_data_has() {
    let mut rng = Rng::new(5);
    let mut data = random(&mut rng, 9, 4096);
    for kernel in Kernel::available() {
        let slices = |data: &[Vec<u8>]| -> (Vec<u8>, Vec<u8>) {
            let sources: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
            let (mut p, mut q) = (vec![0; 4096], vec![0; 4096]);
            kernel.pq(&sources, &mut p, &mut q);
            (p, q)
        };
        let (mut p, mut q) = slices(&data);
        for index in [0, 3, 8] {
            let mut new = vec![0; 4096];
            rng.fill(&mut new);
            kernel.update_pq(&data[index], &new, coefficient(index), &mut p, &mut q);
            data[index] = new;
            assert!((p.clone(), q.clone()) == slices(&data), "{}", kernel.name());
        }
    }
}

#[test]
fn parity_is_verified_to_the_last_byte() {
    let mut rng = Rng::new(9);
    for (n, len) in [
        (1, 1),
        (2, 77),
        (6, COMPARED_TILE),
        (12, COMPARED_TILE + 1),
        (23, 3 * COMPARED_TILE + 500),
        (64, 4096),
    ] {
        let owned = random(&mut rng, n, len);
        let data: Vec<&[u8]> = owned.iter().map(Vec::as_slice).collect();
        let (mut p, mut q) = (vec![0; len], vec![0; len]);
        compute(&data, Some(&mut p), Some(&mut q));
        for kernel in Kernel::available() {
            assert!(kernel.is_pq(&data, &p, &q), "{} of {n}", kernel.name());
            let edges = [0, len / 2, COMPARED_TILE - 1, COMPARED_TILE, len - 1];
            for at in edges.into_iter().filter(|at| *at < len) {
                p[at] ^= 1;
                assert!(!kernel.is_pq(&data, &p, &q), "{} of {n}", kernel.name());
                p[at] ^= 1;
                q[at] ^= 0x80;
                assert!(!kernel.is_pq(&data, &p, &q), "{} of {n}", kernel.name());
                q[at] ^= 0x80;
            }
        }
    }
    for kernel in Kernel::available() {
        assert!(kernel.is_pq(&[], &[0; 9], &[0; 9]) && !kernel.is_pq(&[], &[0; 9], &[1; 9]));
    }
}

#[test]
fn every_pair_of_losses_is_solved() {
    let mut rng = Rng::new(11);
    // A step of the widest vectors, words, and a tail.
    let len = 256 + 8 + 3;
    for n in [1usize, 2, 3, 6, 22, 30, 62, 64] {
        let data = random(&mut rng, n, len);
        let sources: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
        let (mut p, mut q) = (vec![0; len], vec![0; len]);
        compute(&sources, Some(&mut p), Some(&mut q));
        // Index n is P, n+1 is Q.
        for a in 0..n + 2 {
            for b in 0..n + 2 {
                let known = |i: usize| i != a && i != b;
                let mut word = Word {
                    data: (0..n)
                        .map(|i| known(i).then(|| Buf::copy_of(&data[i])))
                        .collect(),
                    p: known(n).then(|| Buf::copy_of(&p)),
                    q: known(n + 1).then(|| Buf::copy_of(&q)),
                };
                // What a fresh buffer has in it doesn't matter.
                let fresh = || Buf::copy_of(&vec![0x5a; len]);
                word.solve_data(fresh).unwrap();
                for (got, want) in word.data.iter().zip(&data) {
                    assert_eq!(&got.as_ref().unwrap()[..], &want[..]);
                }
            }
        }
    }
}

#[test]
fn three_losses_are_not_invented() {
    let mut word = Word {
        data: vec![None, None, None],
        p: Some(Buf::zeroed(8)),
        q: Some(Buf::zeroed(8)),
    };
    assert_eq!(word.solve_data(|| Buf::zeroed(8)), Err(Unsolvable));
}

/// Kernels work on pointers: a length that is believed wrongly would be memory of somebody else.
#[test]
fn unequal_lengths_are_refused_before_a_byte_is_touched() {
    let refused = |what: &str, outs: [&mut [u8]; 2], run: &dyn Fn(&mut [u8], &mut [u8])| {
        let [a, b] = outs;
        let unwound = std::panic::AssertUnwindSafe(|| run(a, b));
        assert!(std::panic::catch_unwind(unwound).is_err(), "{what}");
        let mut all = a.iter().chain(b.iter());
        assert!(all.all(|byte| *byte == 0xa5), "{what}: touched");
    };
    let (long, short) = ([1u8; 600], [1u8; 599]);
    let (full, odd): ([&[u8]; 2], [&[u8]; 2]) = ([&long, &long], [&long, &short]);
    for kernel in Kernel::available() {
        for [a, b] in [[600, 600], [600, 599], [599, 600], [600, 601], [601, 600]] {
            let (mut a, mut b) = (vec![0xa5; a], vec![0xa5; b]);
            let is_even = a.len() == b.len();
            let mut check = |what: &str, run: &dyn Fn(&mut [u8], &mut [u8])| {
                refused(what, [&mut a, &mut b], run);
            };
            check("pq of odd data", &|a, b| kernel.pq(&odd, a, b));
            check("p of odd data", &|a, _| kernel.p(&odd, a));
            check("q of odd data", &|_, b| kernel.q(&odd, b));
            check("dot of odd data", &|a, _| kernel.dot(&odd, &[2, 3], a));
            check("pair of odd data", &|a, b| {
                kernel.pair(&odd, &[2, 3], 1, a, b);
            });
            check("dot with a factor less", &|a, _| kernel.dot(&full, &[2], a));
            check("dot with a factor more", &|a, _| {
                kernel.dot(&full, &[2; 3], a);
            });
            check("pair with a factor less", &|a, b| {
                kernel.pair(&full, &[2], 1, a, b);
            });
            check("update from odd data", &|a, b| {
                kernel.update_pq(&short, &long, 2, a, b);
            });
            check("update to odd data", &|a, b| {
                kernel.update_pq(&long, &short, 2, a, b);
            });
            check("verify of odd data", &|a, b| {
                kernel.is_pq(&odd, a, b);
            });
            check("sum of another length", &|a, _| kernel.xor_into(a, &[1; 3]));
            check("product of another length", &|a, _| {
                kernel.mul_into(a, &[1; 3], 2);
            });
            check("zero times another length", &|a, _| mul_into(a, &[1; 3], 0));
            if !is_even {
                check("pq", &|a, b| kernel.pq(&full, a, b));
                check("pair", &|a, b| kernel.pair(&full, &[2, 3], 1, a, b));
                check("update", &|a, b| kernel.update_pq(&long, &long, 2, a, b));
                check("verify", &|a, b| {
                    kernel.is_pq(&full, a, b);
                });
            }
        }
    }
}
