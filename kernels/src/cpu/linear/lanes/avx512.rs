//! AVX-512 F, BW, DQ and VL: one 512-bit register.

use std::arch::x86_64::*;

use super::{Lanes, Quads};

/// AVX-512 F, BW, DQ and VL.
#[derive(Clone, Copy)]
pub(in crate::cpu::linear) struct Avx512;

// SAFETY of every block below: `Lanes` demands that the CPU has AVX-512 F, BW, DQ and VL and that pointers are
// valid for the bytes the method names; all loads and stores are unaligned.
impl Lanes for Avx512 {
    type F = __m512;
    type U = __m512i;
    type Table = __m512;

    #[inline(always)]
    unsafe fn splat(v: f32) -> Self::F {
        // SAFETY: see above.
        unsafe { _mm512_set1_ps(v) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        // SAFETY: see above.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::F) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: see above.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: see above.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // SAFETY: see above.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn round_bf16(v: Self::F) -> Self::F {
        // SAFETY: see above.
        unsafe {
            let bits = _mm512_castps_si512(v);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let sum = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let rounded = _mm512_and_si512(sum, _mm512_set1_epi32(!0xffff));
            // The carry of the rounding would turn some NaNs into numbers: NaN stays what it is.
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            _mm512_mask_mov_ps(_mm512_castsi512_ps(rounded), nan, v)
        }
    }

    #[inline(always)]
    unsafe fn from_f16(p: *const u8) -> Self::F {
        // SAFETY: see above.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn from_bf16(p: *const u8) -> Self::F {
        // SAFETY: see above.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(Self::load_u16(p))) }
    }
    #[inline(always)]
    unsafe fn from_u8(p: *const u8) -> Self::F {
        // SAFETY: see above.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn from_i8(p: *const u8) -> Self::F {
        // SAFETY: see above.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_u32(p: *const u8) -> Self::U {
        // SAFETY: see above.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load_u16(p: *const u8) -> Self::U {
        // SAFETY: see above.
        unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn table(offset: f32) -> Self::Table {
        // SAFETY: see above.
        unsafe {
            let codes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            _mm512_sub_ps(_mm512_cvtepi32_ps(codes), _mm512_set1_ps(offset))
        }
    }
    /// The permute reads the low four bits of each lane only: it masks and converts in one instruction.
    #[inline(always)]
    unsafe fn nibble<const SHIFT: u32>(v: Self::U, table: Self::Table) -> Self::F {
        // SAFETY: see above.
        unsafe { _mm512_permutexvar_ps(_mm512_srli_epi32::<SHIFT>(v), table) }
    }
    #[inline(always)]
    unsafe fn two_high_bits<const SHIFT: u32>(v: Self::U) -> Self::F {
        // SAFETY: see above.
        unsafe {
            let table = _mm512_setr_ps(0., 16., 32., 48., 0., 16., 32., 48., 0., 16., 32., 48., 0., 16., 32., 48.);
            _mm512_permutexvar_ps(_mm512_srli_epi32::<SHIFT>(v), table)
        }
    }
    #[inline(always)]
    unsafe fn add_fifth_bit(v: Self::F, bits: u16) -> Self::F {
        // SAFETY: see above.
        unsafe { _mm512_mask_add_ps(v, bits, v, _mm512_set1_ps(16.0)) }
    }

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
}

/// [`Avx512`] with AVX-512-VNNI.
#[derive(Clone, Copy)]
pub(in crate::cpu::linear) struct Avx512Vnni;

/// Everything of [`Quads`] but the type and its product.
macro_rules! quads {
    ($name:ty, |$acc:ident, $w:ident, $x:ident| $dot:expr) => {
        // SAFETY of every block below: as above, for `Quads`, and `Avx512Vnni` demands AVX-512-VNNI too.
        impl Quads for $name {
            type L = Avx512;
            type I = __m512i;
            type B = __m512i;

            /// As integers, the bits of magnitudes are in the order of the magnitudes, NaN above all.
            #[inline(always)]
            unsafe fn largest(v: [__m512; 2]) -> f32 {
                // SAFETY: see above.
                unsafe {
                    let mask = _mm512_set1_epi32(0x7fff_ffff);
                    let a = _mm512_and_si512(_mm512_castps_si512(v[0]), mask);
                    let b = _mm512_and_si512(_mm512_castps_si512(v[1]), mask);
                    f32::from_bits(_mm512_reduce_max_epi32(_mm512_max_epi32(a, b)) as u32)
                }
            }
            #[inline(always)]
            unsafe fn quantize(v: __m512, factor: f32, codes: *mut i8) -> i32 {
                // SAFETY: see above.
                unsafe {
                    let v = _mm512_cvtps_epi32(_mm512_mul_ps(v, _mm512_set1_ps(factor)));
                    _mm_storeu_si128(codes.cast(), _mm512_cvtepi32_epi8(v));
                    _mm512_reduce_add_epi32(v)
                }
            }

            #[inline(always)]
            unsafe fn splat(v: i32) -> __m512i {
                // SAFETY: see above.
                unsafe { _mm512_set1_epi32(v) }
            }
            #[inline(always)]
            unsafe fn to_f32(v: __m512i) -> __m512 {
                // SAFETY: see above.
                unsafe { _mm512_cvtepi32_ps(v) }
            }
            #[inline(always)]
            unsafe fn load(p: *const u8) -> __m512i {
                // SAFETY: see above.
                unsafe { _mm512_loadu_si512(p.cast()) }
            }
            #[inline(always)]
            unsafe fn store(p: *mut u8, v: __m512i) {
                // SAFETY: see above.
                unsafe { _mm512_storeu_si512(p.cast(), v) }
            }
            #[inline(always)]
            unsafe fn dot($acc: __m512i, $w: __m512i, x: u32) -> __m512i {
                // SAFETY: see above.
                unsafe {
                    let $x = _mm512_set1_epi32(x as i32);
                    $dot
                }
            }

            #[inline(always)]
            unsafe fn nibbles<const HIGH: bool>(v: __m512i) -> __m512i {
                // SAFETY: see above.
                unsafe {
                    let v = if HIGH { _mm512_srli_epi16::<4>(v) } else { v };
                    _mm512_and_si512(v, _mm512_set1_epi8(15))
                }
            }
            #[inline(always)]
            unsafe fn or_fifth_bit(code: __m512i, bits: u64) -> __m512i {
                // SAFETY: see above.
                unsafe { _mm512_mask_add_epi8(code, bits, code, _mm512_set1_epi8(16)) }
            }
            #[inline(always)]
            unsafe fn or_two_bits<const I: u32>(code: __m512i, high: __m512i) -> __m512i {
                // SAFETY: see above.
                unsafe {
                    // Two bits of each byte end up at bits 4 and 5; what crosses into other bits is masked.
                    let moved = match I {
                        0 => _mm512_slli_epi16::<4>(high),
                        1 => _mm512_slli_epi16::<2>(high),
                        2 => high,
                        _ => _mm512_srli_epi16::<2>(high),
                    };
                    _mm512_or_si512(code, _mm512_and_si512(moved, _mm512_set1_epi8(0x30)))
                }
            }
        }
    };
}

// Even and odd bytes apart, as 16-bit numbers: `vpmaddubsw` would saturate.
quads!(Avx512, |acc, w, x| {
    let (even, odd) = (_mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(x)), _mm512_srai_epi16::<8>(x));
    let w_even = _mm512_and_si512(w, _mm512_set1_epi16(0xff));
    let sums = _mm512_add_epi32(acc, _mm512_madd_epi16(w_even, even));
    _mm512_add_epi32(sums, _mm512_madd_epi16(_mm512_srli_epi16::<8>(w), odd))
});
quads!(Avx512Vnni, |acc, w, x| _mm512_dpbusd_epi32(acc, w, x));
