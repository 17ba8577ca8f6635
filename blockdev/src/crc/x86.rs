//! CRC-32C on x86-64: long runs of bytes by carry-less products of 512 bits, a few by the CPU's own
//! instruction.
//!
//! ```text
//!  bytes   │ 64 │ 64 │ 64 │ 64 │ 64 │ 64 │ …       four sums, each of every fourth 64 bytes:
//!           s0   s1   s2   s3   s0   s1  …        s ← s·x²⁰⁴⁸ + the next ones, all mod P
//!                                                in the end four become one, its 512 bits 128, and
//!                                                the instruction makes 32 of these
//! ```
//!
//! The bits of a byte stand in the order of falling powers, the lowest bit first, and so do bytes: a
//! 128-bit lane is a polynomial whose *low* half has the higher powers. The product of two such halves comes
//! out as if multiplied by x, and a factor of 32 bits that lies in the low 33 of a half, shifted by one, as if
//! multiplied by x³¹. The factors that move a lane by d bits are therefore xᵈ⁺³² for its low half and
//! xᵈ⁻³² for its high one, mod P.
//!
//! Does not know: which way is taken, and that sums begin and end inverted, but for the first one's place.

use std::arch::x86_64::{
    __m128i, __m512i, _MM_HINT_T0, _mm_crc32_u8, _mm_crc32_u64, _mm_cvtsi32_si128,
    _mm_cvtsi128_si64, _mm_extract_epi64, _mm_prefetch, _mm_set_epi64x, _mm_xor_si128,
    _mm512_broadcast_i32x4, _mm512_castsi512_si128, _mm512_clmulepi64_epi128,
    _mm512_extracti32x4_epi32, _mm512_loadu_si512, _mm512_set_epi64, _mm512_ternarylogic_epi64,
    _mm512_xor_si512, _mm512_zextsi128_si512,
};

use super::POLYNOMIAL;

/// Bytes that a step of the loop takes.
const STEP: usize = 4 * VECTOR;
const VECTOR: usize = 64;

/// xⁿ mod P, as the polynomial is written.
const fn power(n: u32) -> u32 {
    let mut value = 1 << 31;
    let mut left = n;
    while left > 0 {
        value = (value >> 1) ^ if value & 1 == 1 { POLYNOMIAL } else { 0 };
        left -= 1;
    }
    value
}

/// Moves a lane: the factors of its low and of its high half.
#[derive(Clone, Copy)]
struct Factors(i64, i64);

impl Factors {
    #[expect(clippy::as_conversions, reason = "widening, in a constant")]
    const fn by(bits: u32) -> Self {
        Self(
            (power(bits + 32) as i64) << 1,
            (power(bits - 32) as i64) << 1,
        )
    }
}

const BY_2048: Factors = Factors::by(2048);
const BY_1536: Factors = Factors::by(1536);
const BY_1024: Factors = Factors::by(1024);
const BY_512: Factors = Factors::by(512);
const BY_384: Factors = Factors::by(384);
const BY_256: Factors = Factors::by(256);
const BY_128: Factors = Factors::by(128);

/// Whether this CPU can [`fold`].
pub(super) fn can_fold() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("vpclmulqdq")
        && is_x86_feature_detected!("pclmulqdq")
        && can_step()
}

/// Whether this CPU can [`step`].
pub(super) fn can_step() -> bool {
    is_x86_feature_detected!("sse4.2")
}

/// The sum goes on over some bytes.
#[target_feature(enable = "sse4.2")]
pub(super) fn step(sum: u32, bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks();
    let sum = words.iter().fold(u64::from(sum), |sum, word| {
        _mm_crc32_u64(sum, u64::from_le_bytes(*word))
    });
    rest.iter()
        .fold(low(sum), |sum, byte| _mm_crc32_u8(sum, *byte))
}

/// What the instruction for words gives has 32 bits.
fn low(sum: u64) -> u32 {
    u32::try_from(sum & u64::from(u32::MAX)).unwrap_or_default()
}

/// The sum goes on over some bytes, at least 256.
///
/// # Panics
/// If they are fewer.
#[target_feature(enable = "avx512f,avx512vl,vpclmulqdq,pclmulqdq,sse4.2")]
pub(super) fn fold(sum: u32, bytes: &[u8]) -> u32 {
    let (steps, rest) = bytes.as_chunks::<STEP>();
    let Some((first, steps)) = steps.split_first() else {
        panic!("{} bytes can't be folded", bytes.len());
    };
    let mut sums = load(first);
    let before = _mm_cvtsi32_si128(sum.cast_signed());
    sums.0 = _mm512_xor_si512(sums.0, _mm512_zextsi128_si512(before));
    let by = all_lanes(BY_2048);
    for step in steps {
        ahead(step);
        let next = load(step);
        sums.0 = moved(sums.0, by, next.0);
        sums.1 = moved(sums.1, by, next.1);
        sums.2 = moved(sums.2, by, next.2);
        sums.3 = moved(sums.3, by, next.3);
    }
    let sum = moved(sums.0, all_lanes(BY_1536), sums.3);
    let sum = moved(sums.1, all_lanes(BY_1024), sum);
    let sum = moved(sums.2, all_lanes(BY_512), sum);
    step(of_lanes(sum), rest)
}

/// How far before its turn a line is asked for.
const AHEAD: usize = 2048;

/// Asks for what comes later. The CPU does so by itself within a page of memory, and begins anew in each: a block of a
/// disk is no longer than that, and the next one lies behind it as a rule.
#[inline]
#[target_feature(enable = "sse")]
fn ahead(step: &[u8; STEP]) {
    let later = step.as_ptr().wrapping_add(AHEAD);
    for line in 0..STEP / VECTOR {
        // Nothing is read where nothing is.
        _mm_prefetch::<_MM_HINT_T0>(later.wrapping_add(line * VECTOR).cast());
    }
}

struct Sums(__m512i, __m512i, __m512i, __m512i);

#[inline]
#[target_feature(enable = "avx512f")]
fn load(from: &[u8; STEP]) -> Sums {
    let from = from.as_ptr();
    // SAFETY: four vectors are in there, and none needs an alignment.
    unsafe {
        Sums(
            _mm512_loadu_si512(from.cast()),
            _mm512_loadu_si512(from.add(VECTOR).cast()),
            _mm512_loadu_si512(from.add(2 * VECTOR).cast()),
            _mm512_loadu_si512(from.add(3 * VECTOR).cast()),
        )
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn all_lanes(by: Factors) -> __m512i {
    _mm512_broadcast_i32x4(_mm_set_epi64x(by.1, by.0))
}

/// Each lane moved, and `more` added to it.
#[inline]
#[target_feature(enable = "avx512f,vpclmulqdq")]
fn moved(lanes: __m512i, by: __m512i, more: __m512i) -> __m512i {
    /// The sum of three.
    const XOR: i32 = 0x96;
    let low = _mm512_clmulepi64_epi128::<0x00>(lanes, by);
    let high = _mm512_clmulepi64_epi128::<0x11>(lanes, by);
    _mm512_ternarylogic_epi64::<XOR>(low, high, more)
}

/// The sum of the four lanes, the first of which has the highest powers.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,vpclmulqdq,sse4.2")]
fn of_lanes(lanes: __m512i) -> u32 {
    let (first, second, third) = (BY_384, BY_256, BY_128);
    let by = _mm512_set_epi64(0, 0, third.1, third.0, second.1, second.0, first.1, first.0);
    let last = _mm512_extracti32x4_epi32::<3>(lanes);
    let low = _mm512_clmulepi64_epi128::<0x00>(lanes, by);
    let high = _mm512_clmulepi64_epi128::<0x11>(lanes, by);
    let products = _mm512_xor_si512(low, high);
    let first: __m128i = _mm_xor_si128(_mm512_castsi512_si128(products), last);
    let others = _mm_xor_si128(
        _mm512_extracti32x4_epi32::<1>(products),
        _mm512_extracti32x4_epi32::<2>(products),
    );
    let sum = _mm_xor_si128(first, others);
    let sums = [_mm_cvtsi128_si64(sum), _mm_extract_epi64::<1>(sum)];
    low_of(sums)
}

/// The sum of 128 bits.
#[inline]
#[target_feature(enable = "sse4.2")]
fn low_of(halves: [i64; 2]) -> u32 {
    let sum = halves
        .iter()
        .fold(0, |sum, half| _mm_crc32_u64(sum, half.cast_unsigned()));
    low(sum)
}
