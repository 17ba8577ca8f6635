//! P and Q over GF(2⁸), generator 2, polynomial 0x11d: md's, so that md can read our members.
//!
//! Plain Rust on 64-bit words, which the compiler turns into vector code. Every function works on
//! equally long slices and panics otherwise: a length mismatch is our own bug.
//!
//! Does not know: geometry, members, disks. Data index i is the exponent of its Q coefficient.

use cairn_blockdev::Buf;

const POLYNOMIAL_LOW: u8 = 0x1d;

const fn tables() -> ([u8; 512], [u8; 256]) {
    let (mut exp, mut log) = ([0u8; 512], [0u8; 256]);
    let mut value = 1u8;
    let mut i = 0u8;
    while i < 255 {
        set(&mut exp, usize_of_u8(i), value);
        set(&mut exp, usize_of_u8(i) + 255, value);
        set(&mut log, usize_of_u8(value), i);
        value = (value << 1) ^ (if value & 0x80 == 0 { 0 } else { POLYNOMIAL_LOW });
        i += 1;
    }
    (exp, log)
}

#[expect(
    clippy::indexing_slicing,
    reason = "evaluated at compile time: a bad index won't build"
)]
const fn set(table: &mut [u8], at: usize, value: u8) {
    table[at] = value;
}

#[expect(clippy::as_conversions, reason = "widening")]
const fn usize_of_u8(value: u8) -> usize {
    value as usize
}

static TABLES: ([u8; 512], [u8; 256]) = tables();

fn exp(power: usize) -> u8 {
    TABLES.0.get(power % 255).copied().unwrap_or(0)
}

fn log(value: u8) -> usize {
    assert!(value != 0, "zero has no logarithm");
    TABLES
        .1
        .get(usize::from(value))
        .copied()
        .map_or(0, usize::from)
}

/// Product in the field.
pub fn mul(a: u8, b: u8) -> u8 {
    if a == 0 || b == 0 {
        0
    } else {
        exp(log(a) + log(b))
    }
}

/// Inverse in the field; of zero, zero.
pub fn inverse(a: u8) -> u8 {
    if a == 0 { 0 } else { exp(255 - log(a)) }
}

/// The Q coefficient of data index `index`: 2^index.
pub fn coefficient(index: usize) -> u8 {
    exp(index)
}

/// `to` ^= `from`.
pub fn xor_into(to: &mut [u8], from: &[u8]) {
    assert_eq!(to.len(), from.len(), "xor of unequal lengths");
    let (to_words, to_rest) = to.as_chunks_mut::<8>();
    let (from_words, from_rest) = from.as_chunks::<8>();
    for (t, f) in to_words.iter_mut().zip(from_words) {
        *t = (u64::from_ne_bytes(*t) ^ u64::from_ne_bytes(*f)).to_ne_bytes();
    }
    for (t, f) in to_rest.iter_mut().zip(from_rest) {
        *t ^= f;
    }
}

/// The low seven bits, and the lowest bit, of each byte of a word.
const LOW7: u64 = 0x7f7f_7f7f_7f7f_7f7f;
const ONES: u64 = 0x0101_0101_0101_0101;

/// `q` = 2·`q` ^ `from`: one step of Horner's rule.
fn double_and_add(q: &mut [u8], from: &[u8]) {
    assert_eq!(q.len(), from.len(), "parity of unequal lengths");
    let (q_words, q_rest) = q.as_chunks_mut::<8>();
    let (from_words, from_rest) = from.as_chunks::<8>();
    for (t, f) in q_words.iter_mut().zip(from_words) {
        let word = u64::from_ne_bytes(*t);
        let high = (word >> 7) & ONES;
        // 0x1d times 0 or 1 in each byte: no carry crosses a byte.
        let doubled = ((word & LOW7) << 1) ^ (high * u64::from(POLYNOMIAL_LOW));
        *t = (doubled ^ u64::from_ne_bytes(*f)).to_ne_bytes();
    }
    for (t, f) in q_rest.iter_mut().zip(from_rest) {
        *t = mul(*t, 2) ^ f;
    }
}

/// `to` ^= `factor` · `from`.
pub fn mul_into(to: &mut [u8], from: &[u8], factor: u8) {
    assert_eq!(to.len(), from.len(), "product of unequal lengths");
    match factor {
        0 => {}
        1 => xor_into(to, from),
        _ => {
            let table = product_table(factor);
            for (t, f) in to.iter_mut().zip(from) {
                // A 256-entry table indexed by a byte: `get` compiles to the bare load.
                *t ^= table.get(usize::from(*f)).copied().unwrap_or(0);
            }
        }
    }
}

/// `to` = `factor` · `to`.
fn scale(to: &mut [u8], factor: u8) {
    let table = product_table(factor);
    for t in to {
        *t = table.get(usize::from(*t)).copied().unwrap_or(0);
    }
}

fn product_table(factor: u8) -> [u8; 256] {
    let mut table = [0; 256];
    for (value, entry) in (0u8..=255).zip(table.iter_mut()) {
        *entry = mul(factor, value);
    }
    table
}

/// P = XOR of all `data`.
pub fn compute_p<'a>(data: impl IntoIterator<Item = &'a [u8]>, p: &mut [u8]) {
    p.fill(0);
    for source in data {
        xor_into(p, source);
    }
}

/// Q = Σ 2^i · data i; `data` in index order.
pub fn compute_q<'a>(
    data: impl IntoIterator<Item = &'a [u8], IntoIter: DoubleEndedIterator>,
    q: &mut [u8],
) {
    q.fill(0);
    for source in data.into_iter().rev() {
        double_and_add(q, source);
    }
}

/// The code word of some columns of a row: data 0.., P and Q, each known or not.
pub struct Word {
    /// Data chunks in index order; `None` where unknown.
    pub data: Vec<Option<Buf>>,
    /// XOR parity, where the level has it and it is known.
    pub p: Option<Buf>,
    /// Q parity, where the level has it and it is known.
    pub q: Option<Buf>,
}

/// More is unknown than the known parities can give back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsolvable;

impl Word {
    /// Fills in every unknown data chunk. Parities stay as they are.
    ///
    /// `fresh` gives a buffer of the word's length with any contents.
    pub fn solve_data(&mut self, fresh: impl Fn() -> Buf) -> Result<(), Unsolvable> {
        let unknown: Vec<usize> = self
            .data
            .iter()
            .enumerate()
            .filter(|(_, d)| d.is_none())
            .map(|(i, _)| i)
            .collect();
        match (unknown.as_slice(), &self.p, &self.q) {
            ([], _, _) => Ok(()),
            (&[x], Some(p), _) => {
                let mut out = fresh();
                out.copy_from_slice(p);
                for source in self.data.iter().flatten() {
                    xor_into(&mut out, source);
                }
                self.put(x, out)
            }
            (&[x], None, Some(q)) => {
                let mut out = fresh();
                self.q_without_unknown(&mut out);
                xor_into(&mut out, q);
                scale(&mut out, inverse(coefficient(x)));
                self.put(x, out)
            }
            (&[x, y], Some(p), Some(q)) => {
                // Px = Dx ^ Dy, Qx = 2^x Dx ^ 2^y Dy  =>  Dx = (Qx ^ 2^y Px) / (2^x ^ 2^y).
                let mut p_rest = fresh();
                p_rest.copy_from_slice(p);
                for source in self.data.iter().flatten() {
                    xor_into(&mut p_rest, source);
                }
                let mut dx = fresh();
                self.q_without_unknown(&mut dx);
                xor_into(&mut dx, q);
                mul_into(&mut dx, &p_rest, coefficient(y));
                scale(&mut dx, inverse(coefficient(x) ^ coefficient(y)));
                xor_into(&mut p_rest, &dx);
                self.put(x, dx)?;
                self.put(y, p_rest)
            }
            _ => Err(Unsolvable),
        }
    }

    /// Q over the known data alone.
    fn q_without_unknown(&self, q: &mut [u8]) {
        q.fill(0);
        for source in self.data.iter().rev() {
            match source {
                Some(source) => double_and_add(q, source),
                None => scale(q, 2),
            }
        }
    }

    fn put(&mut self, index: usize, value: Buf) -> Result<(), Unsolvable> {
        *self.data.get_mut(index).ok_or(Unsolvable)? = Some(value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_blockdev::sim::Rng;

    /// Russian-peasant product, the slow oracle.
    fn slow_mul(mut a: u8, mut b: u8) -> u8 {
        let mut r = 0;
        while b != 0 {
            if b & 1 == 1 {
                r ^= a;
            }
            a = (a << 1) ^ if a & 0x80 == 0 { 0 } else { POLYNOMIAL_LOW };
            b >>= 1;
        }
        r
    }

    #[test]
    fn the_field_is_the_field() {
        for a in 0..=255u8 {
            for b in 0..=255u8 {
                assert_eq!(mul(a, b), slow_mul(a, b));
            }
            if a != 0 {
                assert_eq!(mul(a, inverse(a)), 1);
            }
        }
    }

    fn random_word(rng: &mut Rng, n: usize, len: usize) -> (Vec<Vec<u8>>, Vec<u8>, Vec<u8>) {
        let data: Vec<Vec<u8>> = (0..n)
            .map(|_| {
                let mut d = vec![0; len];
                rng.fill(&mut d);
                d
            })
            .collect();
        let (mut p, mut q) = (vec![0; len], vec![0; len]);
        compute_p(data.iter().map(Vec::as_slice), &mut p);
        compute_q(data.iter().map(Vec::as_slice), &mut q);
        (data, p, q)
    }

    #[test]
    fn p_and_q_match_the_byte_by_byte_oracle() {
        let mut rng = Rng::new(7);
        for n in 1..=30 {
            let len = 1 + usize::try_from(rng.below(100)).unwrap();
            let (data, p, q) = random_word(&mut rng, n, len);
            for at in 0..len {
                let (mut want_p, mut want_q) = (0, 0);
                for (i, d) in data.iter().enumerate() {
                    want_p ^= d[at];
                    want_q ^= slow_mul(coefficient(i), d[at]);
                }
                assert_eq!((p[at], q[at]), (want_p, want_q));
            }
        }
    }

    #[test]
    fn every_pair_of_losses_is_solved() {
        let mut rng = Rng::new(11);
        for n in [2usize, 3, 6, 22, 30] {
            let (data, p, q) = random_word(&mut rng, n, 72);
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
                    word.solve_data(|| Buf::zeroed(72)).unwrap();
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
}
