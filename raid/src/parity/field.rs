//! GF(2⁸) with generator 2 and polynomial 0x11d: one byte at a time, and what kernels need of it.

/// The polynomial without its highest term.
pub(super) const POLYNOMIAL_LOW: u8 = 0x1d;

const fn tables() -> ([u8; 512], [u8; 256]) {
    let (mut exp, mut log) = ([0u8; 512], [0u8; 256]);
    let mut value = 1u8;
    let mut i = 0u8;
    while i < 255 {
        set(&mut exp, usize_of_u8(i), value);
        set(&mut exp, usize_of_u8(i) + 255, value);
        set(&mut log, usize_of_u8(value), i);
        value = double(value);
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

/// Twice a value.
pub(super) const fn double(value: u8) -> u8 {
    (value << 1) ^ if value & 0x80 == 0 { 0 } else { POLYNOMIAL_LOW }
}

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

/// The product with `factor` as a matrix over bits, as GFNI's affine instruction wants it: the row of
/// output bit i is byte 7 − i.
pub(super) fn matrix(factor: u8) -> u64 {
    MATRICES.get(usize::from(factor)).copied().unwrap_or(0)
}

static MATRICES: [u64; 256] = matrices();

#[expect(
    clippy::indexing_slicing,
    reason = "evaluated at compile time: a bad index won't build"
)]
const fn matrices() -> [u64; 256] {
    let mut all = [0; 256];
    let mut factor = 0u8;
    loop {
        all[usize_of_u8(factor)] = matrix_of(factor);
        if factor == u8::MAX {
            return all;
        }
        factor += 1;
    }
}

const fn matrix_of(factor: u8) -> u64 {
    let mut rows = 0u64;
    let mut column = factor;
    let mut input = 0u32;
    while input < 8 {
        let mut output = 0u32;
        while output < 8 {
            if column >> output & 1 == 1 {
                rows |= 1 << ((7 - output) * 8 + input);
            }
            output += 1;
        }
        column = double(column);
        input += 1;
    }
    rows
}

/// The products of a factor with 0‥15, and with 0x00, 0x10, ‥ 0xf0.
pub(super) type Nibbles = ([u8; 16], [u8; 16]);

/// Those of `factor`.
pub(super) fn nibbles(factor: u8) -> &'static Nibbles {
    static NONE: Nibbles = ([0; 16], [0; 16]);
    NIBBLES.get(usize::from(factor)).unwrap_or(&NONE)
}

/// A table: of many factors the products cost more than what a kernel then does with a small block.
static NIBBLES: [Nibbles; 256] = all_nibbles();

#[expect(
    clippy::indexing_slicing,
    reason = "evaluated at compile time: a bad index won't build"
)]
const fn all_nibbles() -> [Nibbles; 256] {
    let mut all = [([0; 16], [0; 16]); 256];
    let mut factor = 0u8;
    loop {
        all[usize_of_u8(factor)] = nibbles_of(factor);
        if factor == u8::MAX {
            return all;
        }
        factor += 1;
    }
}

const fn nibbles_of(factor: u8) -> Nibbles {
    let (mut low, mut high) = ([0; 16], [0; 16]);
    let mut value = 0u8;
    while value < 16 {
        set(&mut low, usize_of_u8(value), slow_mul(factor, value));
        set(&mut high, usize_of_u8(value), slow_mul(factor, value << 4));
        value += 1;
    }
    (low, high)
}

/// The product, bit by bit.
const fn slow_mul(mut a: u8, mut b: u8) -> u8 {
    let mut sum = 0;
    while b != 0 {
        if b & 1 == 1 {
            sum ^= a;
        }
        a = double(a);
        b >>= 1;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The slow oracle, which shares nothing with what it judges: the product of two polynomials, and
    /// then its remainder.
    fn oracle(a: u8, b: u8) -> u8 {
        let mut product = (0..8).fold(0u16, |sum, bit| {
            sum ^ if b >> bit & 1 == 1 {
                u16::from(a) << bit
            } else {
                0
            }
        });
        for bit in (8..16).rev() {
            if product >> bit & 1 == 1 {
                product ^= 0x11d << (bit - 8);
            }
        }
        u8::try_from(product).unwrap()
    }

    #[test]
    fn the_field_is_the_field() {
        for a in 0..=255u8 {
            let (low, high) = nibbles(a);
            for b in 0..=255u8 {
                let want = oracle(a, b);
                assert_eq!(slow_mul(a, b), want);
                assert_eq!(mul(a, b), want);
                let by_nibbles = low[usize::from(b & 15)] ^ high[usize::from(b >> 4)];
                assert_eq!(by_nibbles, want);
                let rows = matrix(a).to_be_bytes();
                let by_matrix = (0..8).fold(0, |sum, bit| {
                    sum | (u8::from((rows[bit] & b).count_ones() % 2 == 1) << bit)
                });
                assert_eq!(by_matrix, want);
            }
            if a != 0 {
                assert_eq!(mul(a, inverse(a)), 1);
            }
        }
    }
}
