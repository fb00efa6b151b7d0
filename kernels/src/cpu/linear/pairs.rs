//! Products of bf16 activations with `vdpbf16ps`: two `k` to a word, sums in `f32` over a sub-block.
//!
//! Codes become bf16 numbers by looking them up, so that neither a multiplication nor a rounding is spent on a weight.
//! The words on the side of a unit of 32 activations are the `f32` sums of its halves, as rounded to bf16.

use std::arch::x86_64::*;

use super::blocks::{Product, UNIT};
use super::kernel::{self, Kernel};
use super::lanes::{Avx512, Lanes};
use super::source::Format;

/// Pairs of bf16 activations times codes.
pub(super) struct Pairs;

/// `code - offset` of 64 codes as bf16.
struct Numbers<T>(std::marker::PhantomData<T>);

impl<T: Format> Numbers<T> {
    const BF16: [u16; 64] = {
        let mut out = [0; 64];
        let mut code = 0;
        while code < 64 {
            // Integers of at most eight bits: the low half of the `f32` is zero.
            out[code] = ((code as f32 - T::SCHEME.offset as f32).to_bits() >> 16) as u16;
            code += 1;
        }
        out
    };
}

// SAFETY of every block below: `Product` demands AVX-512 F, BW, DQ, VL and BF16, and pointers that are valid for what
// is read and written; all loads and stores are unaligned.
impl Product for Pairs {
    type L = Avx512;
    type S = __m512;
    type B = __m512i;
    /// For 4 bits the same sixteen numbers twice; for 5 bits the upper sixteen twice as well; for 6 bits all 64.
    type Table = [__m512i; 2];
    const STEP: usize = 2;
    const SIDE: usize = 2;
    const ROWS: usize = 6;
    const IN_MEMORY: bool = true;
    const WIDE: bool = true;

    #[inline(always)]
    unsafe fn convert(x: *const f32, n: usize, words: *mut u32) {
        // SAFETY: the row's words, and after them two per unit on the side.
        unsafe {
            kernel::Pairs::convert(x, n, words);
            let count = n.div_ceil(Self::STEP);
            let side = words.add(count);
            for half in 0..2 * n.div_ceil(UNIT) {
                let present = (count - (UNIT / 4 * half).min(count)).min(UNIT / 4);
                // Eight words are sixteen activations; the second halves of the words are in the high bits.
                let mask = (0xff_u32 >> (8 - present)) as __mmask8;
                let pairs = _mm256_maskz_loadu_epi32(mask, words.wrapping_add(UNIT / 4 * half).cast());
                let even = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs));
                let odd = _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000_u32 as i32)));
                let sums = _mm256_add_ps(even, odd);
                let sums = _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps::<1>(sums));
                let sums = _mm_add_ps(sums, _mm_movehl_ps(sums, sums));
                let sum = _mm_add_ss(sums, _mm_shuffle_ps::<1>(sums, sums));
                *side.add(half) = _mm_cvtss_f32(sum).to_bits();
            }
        }
    }

    #[inline(always)]
    unsafe fn load(p: *const u8) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut u8, codes: __m512i) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_si512(p.cast(), codes) }
    }
    #[inline(always)]
    unsafe fn table<T: Format>() -> [__m512i; 2] {
        // SAFETY: see above; 64 numbers.
        unsafe {
            let numbers: *const __m256i = Numbers::<T>::BF16.as_ptr().cast();
            if T::SCHEME.bits == 6 {
                [_mm512_loadu_si512(numbers.cast()), _mm512_loadu_si512(numbers.add(2).cast())]
            } else {
                let (low, high) = (_mm256_loadu_si256(numbers), _mm256_loadu_si256(numbers.add(1)));
                [_mm512_broadcast_i64x4(low), _mm512_broadcast_i64x4(high)]
            }
        }
    }

    #[inline(always)]
    unsafe fn codes<T: Format>(low: *const u8, high: *const u8, [a, b]: [__m512i; 2]) -> [__m512i; 4] {
        let bits = T::SCHEME.bits;
        // SAFETY: a step has 128 codes: 64 or 128 bytes in the low plane, 0, 16 or 32 in the high plane.
        unsafe {
            let mut out = [a; 4];
            if bits == 8 {
                for (u, out) in out.iter_mut().enumerate() {
                    let p = low.add(32 * u);
                    *out = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(
                        Avx512::from_i8(p.add(16)),
                        Avx512::from_i8(p),
                    ));
                }
                return out;
            }
            // Each 16-bit lane has a nibble of each of the four vectors. A permutation reads the low five bits of a
            // lane, or six of two tables.
            let v = _mm512_loadu_si512(low.cast());
            let nibbles = [v, _mm512_srli_epi16::<4>(v), _mm512_srli_epi16::<8>(v), _mm512_srli_epi16::<12>(v)];
            if bits == 6 {
                let h = _mm512_cvtepu8_epi16(_mm256_loadu_si256(high.cast()));
                let two = [_mm512_slli_epi16::<4>(h), _mm512_slli_epi16::<2>(h), h, _mm512_srli_epi16::<2>(h)];
                for (u, out) in out.iter_mut().enumerate() {
                    // Bits 0 to 3 of the nibble, the rest of the high bits.
                    let index = _mm512_ternarylogic_epi32::<0xca>(_mm512_set1_epi16(15), nibbles[u], two[u]);
                    *out = _mm512_permutex2var_epi16(a, index, b);
                }
                return out;
            }
            for (u, out) in out.iter_mut().enumerate() {
                *out = _mm512_permutexvar_epi16(nibbles[u], a);
                if bits == 5 {
                    let set = u32::from_le(high.add(4 * u).cast::<u32>().read_unaligned());
                    *out = _mm512_mask_permutexvar_epi16(*out, set, nibbles[u], b);
                }
            }
            out
        }
    }

    #[inline(always)]
    unsafe fn start<T: Format>(_: *const u32, _: usize) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn mac(sum: __m512, codes: __m512i, x: u32) -> __m512 {
        // SAFETY: see above; both types are 64 plain bytes.
        unsafe { kernel::Pairs::mac(sum, std::mem::transmute::<__m512i, __m512bh>(codes), x) }
    }
    #[inline(always)]
    unsafe fn finish<T: Format>(
        acc: __m512,
        sum: __m512,
        scale: __m512,
        min: __m512,
        side: *const u32,
        _: usize,
    ) -> __m512 {
        // SAFETY: a unit has two words on the side. Formats with minima have sub-blocks of whole units.
        unsafe {
            let mut acc = _mm512_fmadd_ps(sum, scale, acc);
            if T::SCHEME.has_min {
                let sum = f32::from_bits(*side) + f32::from_bits(*side.add(1));
                acc = _mm512_fmadd_ps(min, _mm512_set1_ps(sum), acc);
            }
            acc
        }
    }
}
