//! What a kernel needs of the CPU: vectors of bytes that can be added, doubled and multiplied in the
//! field. The plain one is a 64-bit word; the others are used only where the CPU has them.
//!
//! # Safety
//! Whoever calls a method of a [`Vector`] runs on a CPU that has its instructions; pointers are valid
//! for [`Vector::BYTES`], aligned to them only where it says so.

use super::field::POLYNOMIAL_LOW;

/// Bytes that are worked on at once.
pub(super) trait Vector: Copy {
    /// How many.
    const BYTES: usize;
    /// What a product with one factor needs.
    type Factor: Copy;

    unsafe fn zero() -> Self;
    unsafe fn load(from: *const u8) -> Self;
    unsafe fn store(self, to: *mut u8);
    /// Past the caches; `to` is aligned to [`Vector::BYTES`].
    unsafe fn stream(self, to: *mut u8);
    /// Streamed stores are seen by everybody from here on.
    unsafe fn fence();
    unsafe fn xor(self, other: Self) -> Self;
    unsafe fn double(self) -> Self;
    unsafe fn factor(factor: u8) -> Self::Factor;
    unsafe fn mul(self, factor: Self::Factor) -> Self;
}

/// The low seven bits, and the lowest bit, of each byte of a word.
const LOW7: u64 = 0x7f7f_7f7f_7f7f_7f7f;
const ONES: u64 = 0x0101_0101_0101_0101;

impl Vector for u64 {
    const BYTES: usize = 8;
    type Factor = u8;

    #[inline(always)]
    unsafe fn zero() -> Self {
        0
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller's; unaligned is fine.
        unsafe { from.cast::<Self>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: the caller's; unaligned is fine.
        unsafe { to.cast::<Self>().write_unaligned(self) }
    }

    #[inline(always)]
    unsafe fn stream(self, to: *mut u8) {
        // SAFETY: the caller's.
        unsafe { self.store(to) }
    }

    #[inline(always)]
    unsafe fn fence() {}

    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        self ^ other
    }

    #[inline(always)]
    unsafe fn double(self) -> Self {
        let high = (self >> 7) & ONES;
        // 0x1d times 0 or 1 in each byte: no carry crosses a byte.
        ((self & LOW7) << 1) ^ (high * 0x1d)
    }

    #[inline(always)]
    unsafe fn factor(factor: u8) -> u8 {
        factor
    }

    #[inline(always)]
    unsafe fn mul(self, factor: u8) -> Self {
        let (mut power, mut sum) = (self, 0);
        for bit in 0..8 {
            // All ones where the bit is set: no branch, so that this becomes vector code.
            sum ^= power & u64::from(factor >> bit & 1).wrapping_neg();
            // SAFETY: a word needs nothing of the CPU.
            power = unsafe { power.double() };
        }
        sum
    }
}

const _: () = assert!(POLYNOMIAL_LOW == 0x1d);

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Wide256, Wide512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::{
        __m128i, __m256i, __m512i, _mm_loadu_si128, _mm_sfence, _mm256_add_epi8, _mm256_and_si256,
        _mm256_broadcastsi128_si256, _mm256_loadu_si256, _mm256_set1_epi8, _mm256_setzero_si256,
        _mm256_shuffle_epi8, _mm256_srli_epi64, _mm256_storeu_si256, _mm256_stream_si256,
        _mm256_xor_si256, _mm512_gf2p8affine_epi64_epi8, _mm512_loadu_si512, _mm512_set1_epi64,
        _mm512_setzero_si512, _mm512_storeu_si512, _mm512_stream_si512, _mm512_xor_si512,
    };

    use super::super::field::{POLYNOMIAL_LOW, matrix, nibbles};
    use super::Vector;

    /// The polynomial in each byte whose highest bit is set: what its double has too much.
    ///
    /// In assembly, because the compiler turns the intrinsic into a comparison and a mask: one
    /// instruction more, by which P+Q of cached data is a tenth slower.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn reduction(value: __m256i) -> __m256i {
        let reduction: __m256i;
        // SAFETY: it reads and writes registers alone.
        unsafe {
            asm!(
                "vpblendvb {reduction}, {zero}, {low}, {value}",
                reduction = lateout(ymm_reg) reduction,
                zero = in(ymm_reg) _mm256_setzero_si256(),
                low = in(ymm_reg) _mm256_set1_epi8(POLYNOMIAL_LOW.cast_signed()),
                value = in(ymm_reg) value,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        reduction
    }

    /// AVX2.
    #[derive(Clone, Copy)]
    pub(in crate::parity) struct Wide256(__m256i);

    impl Vector for Wide256 {
        const BYTES: usize = 32;
        /// Products of the low and of the high nibble.
        type Factor = (__m256i, __m256i);

        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the caller's.
            Self(unsafe { _mm256_setzero_si256() })
        }

        #[inline(always)]
        unsafe fn load(from: *const u8) -> Self {
            // SAFETY: the caller's.
            Self(unsafe { _mm256_loadu_si256(from.cast()) })
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut u8) {
            // SAFETY: the caller's.
            unsafe { _mm256_storeu_si256(to.cast(), self.0) }
        }

        #[inline(always)]
        unsafe fn stream(self, to: *mut u8) {
            // SAFETY: the caller's.
            unsafe { _mm256_stream_si256(to.cast(), self.0) }
        }

        #[inline(always)]
        unsafe fn fence() {
            // SAFETY: the caller's.
            unsafe { _mm_sfence() }
        }

        #[inline(always)]
        unsafe fn xor(self, other: Self) -> Self {
            // SAFETY: the caller's.
            Self(unsafe { _mm256_xor_si256(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn double(self) -> Self {
            // SAFETY: the caller's.
            unsafe {
                let doubled = _mm256_add_epi8(self.0, self.0);
                Self(_mm256_xor_si256(doubled, reduction(self.0)))
            }
        }

        #[inline(always)]
        unsafe fn factor(factor: u8) -> Self::Factor {
            let (low, high) = nibbles(factor);
            // SAFETY: the caller's; 16 bytes each.
            unsafe {
                let low: __m128i = _mm_loadu_si128(low.as_ptr().cast());
                let high: __m128i = _mm_loadu_si128(high.as_ptr().cast());
                (
                    _mm256_broadcastsi128_si256(low),
                    _mm256_broadcastsi128_si256(high),
                )
            }
        }

        #[inline(always)]
        unsafe fn mul(self, (low, high): Self::Factor) -> Self {
            // SAFETY: the caller's.
            unsafe {
                let mask = _mm256_set1_epi8(0x0f);
                let low_nibble = _mm256_and_si256(self.0, mask);
                let high_nibble = _mm256_and_si256(_mm256_srli_epi64::<4>(self.0), mask);
                Self(_mm256_xor_si256(
                    _mm256_shuffle_epi8(low, low_nibble),
                    _mm256_shuffle_epi8(high, high_nibble),
                ))
            }
        }
    }

    /// AVX-512 with GFNI.
    #[derive(Clone, Copy)]
    pub(in crate::parity) struct Wide512(__m512i);

    impl Vector for Wide512 {
        const BYTES: usize = 64;
        /// The product as a matrix. Once, not eight times: reading it for each source takes half of
        /// what a whole vector would, and reading is what these loops wait for.
        type Factor = i64;

        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the caller's.
            Self(unsafe { _mm512_setzero_si512() })
        }

        #[inline(always)]
        unsafe fn load(from: *const u8) -> Self {
            // SAFETY: the caller's.
            Self(unsafe { _mm512_loadu_si512(from.cast()) })
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut u8) {
            // SAFETY: the caller's.
            unsafe { _mm512_storeu_si512(to.cast(), self.0) }
        }

        #[inline(always)]
        unsafe fn stream(self, to: *mut u8) {
            // SAFETY: the caller's.
            unsafe { _mm512_stream_si512(to.cast(), self.0) }
        }

        #[inline(always)]
        unsafe fn fence() {
            // SAFETY: the caller's.
            unsafe { _mm_sfence() }
        }

        #[inline(always)]
        unsafe fn xor(self, other: Self) -> Self {
            // SAFETY: the caller's.
            Self(unsafe { _mm512_xor_si512(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn double(self) -> Self {
            // SAFETY: the caller's.
            unsafe { self.mul(Self::factor(2)) }
        }

        #[inline(always)]
        unsafe fn factor(factor: u8) -> Self::Factor {
            matrix(factor).cast_signed()
        }

        #[inline(always)]
        unsafe fn mul(self, factor: Self::Factor) -> Self {
            // SAFETY: the caller's.
            unsafe {
                let matrix = _mm512_set1_epi64(factor);
                Self(_mm512_gf2p8affine_epi64_epi8::<0>(self.0, matrix))
            }
        }
    }
}
