//! AVX2, FMA and F16C: two 256-bit registers.

use std::arch::x86_64::*;

use super::{Lanes, Quads};

/// The expression for both registers, `$i` being 0 and 1.
macro_rules! both {
    ($i:ident => $e:expr) => {
        [
            {
                const $i: usize = 0;
                $e
            },
            {
                const $i: usize = 1;
                $e
            },
        ]
    };
}

/// AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(in crate::cpu::linear) struct Avx2;

// SAFETY of every block below: `Lanes` demands that the CPU has AVX2, FMA and F16C and that pointers are valid
// for the bytes the method names; all loads and stores are unaligned.
impl Lanes for Avx2 {
    type F = [__m256; 2];
    type U = [__m256i; 2];
    type Table = __m256;

    #[inline(always)]
    unsafe fn splat(v: f32) -> Self::F {
        // SAFETY: see above.
        unsafe { [_mm256_set1_ps(v); 2] }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        // SAFETY: see above.
        unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::F) {
        // SAFETY: see above.
        unsafe {
            _mm256_storeu_ps(p, v[0]);
            _mm256_storeu_ps(p.add(8), v[1]);
        }
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: see above.
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: see above.
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // SAFETY: see above.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }
    #[inline(always)]
    unsafe fn round_bf16(v: Self::F) -> Self::F {
        both!(I => {
            // SAFETY: see above.
            unsafe {
                let bits = _mm256_castps_si256(v[I]);
                let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
                let sum = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
                let rounded = _mm256_and_si256(sum, _mm256_set1_epi32(!0xffff));
                // The carry of the rounding would turn some NaNs into numbers: NaN stays what it is.
                _mm256_blendv_ps(_mm256_castsi256_ps(rounded), v[I], _mm256_cmp_ps::<_CMP_UNORD_Q>(v[I], v[I]))
            }
        })
    }

    #[inline(always)]
    unsafe fn from_f16(p: *const u8) -> Self::F {
        // SAFETY: see above.
        unsafe { both!(I => _mm256_cvtph_ps(_mm_loadu_si128(p.add(16 * I).cast()))) }
    }
    #[inline(always)]
    unsafe fn from_bf16(p: *const u8) -> Self::F {
        // SAFETY: see above.
        unsafe {
            {
                let v = Self::load_u16(p);
                both!(I => _mm256_castsi256_ps(_mm256_slli_epi32::<16>(v[I])))
            }
        }
    }
    #[inline(always)]
    unsafe fn from_u8(p: *const u8) -> Self::F {
        // SAFETY: see above.
        unsafe { both!(I => _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(p.add(8 * I).cast())))) }
    }
    #[inline(always)]
    unsafe fn from_i8(p: *const u8) -> Self::F {
        // SAFETY: see above.
        unsafe { both!(I => _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.add(8 * I).cast())))) }
    }

    #[inline(always)]
    unsafe fn load_u32(p: *const u8) -> Self::U {
        // SAFETY: see above.
        unsafe { both!(I => _mm256_loadu_si256(p.add(32 * I).cast())) }
    }
    #[inline(always)]
    unsafe fn load_u16(p: *const u8) -> Self::U {
        // SAFETY: see above.
        unsafe { both!(I => _mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(16 * I).cast()))) }
    }
    #[inline(always)]
    unsafe fn table(offset: f32) -> Self::Table {
        // SAFETY: see above.
        unsafe { _mm256_set1_ps(offset) }
    }
    #[inline(always)]
    unsafe fn nibble<const SHIFT: u32>(v: Self::U, table: Self::Table) -> Self::F {
        both!(I => {
            // SAFETY: see above.
            unsafe {
                let code = _mm256_and_si256(_mm256_srlv_epi32(v[I], _mm256_set1_epi32(SHIFT as i32)), _mm256_set1_epi32(15));
                _mm256_sub_ps(_mm256_cvtepi32_ps(code), table)
            }
        })
    }
    #[inline(always)]
    unsafe fn two_high_bits<const SHIFT: u32>(v: Self::U) -> Self::F {
        both!(I => {
            // SAFETY: see above.
            unsafe {
                let bits = _mm256_and_si256(_mm256_srlv_epi32(v[I], _mm256_set1_epi32(SHIFT as i32)), _mm256_set1_epi32(3));
                _mm256_cvtepi32_ps(_mm256_slli_epi32::<4>(bits))
            }
        })
    }
    #[inline(always)]
    unsafe fn add_fifth_bit(v: Self::F, bits: u16) -> Self::F {
        // SAFETY: see above.
        unsafe {
            let bits = _mm256_set1_epi32(i32::from(bits));
            let low = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
            let lane = [low, _mm256_slli_epi32::<8>(low)];
            let sixteen = _mm256_castps_si256(_mm256_set1_ps(16.0));
            both!(I => {
                let set = _mm256_cmpeq_epi32(_mm256_and_si256(bits, lane[I]), lane[I]);
                _mm256_add_ps(v[I], _mm256_castsi256_ps(_mm256_and_si256(set, sixteen)))
            })
        }
    }

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
}

// SAFETY of every block below: as above, for `Quads`.
impl Quads for Avx2 {
    type L = Self;
    type I = [__m256i; 2];
    type B = [__m256i; 2];

    /// As integers, the bits of magnitudes are in the order of the magnitudes, NaN above all.
    #[inline(always)]
    unsafe fn largest(v: [[__m256; 2]; 2]) -> f32 {
        // SAFETY: see above.
        unsafe {
            let mut m = _mm256_setzero_si256();
            for v in v.as_flattened() {
                let magnitude = _mm256_and_si256(_mm256_castps_si256(*v), _mm256_set1_epi32(0x7fff_ffff));
                m = _mm256_max_epi32(m, magnitude);
            }
            let m = _mm_max_epi32(_mm256_castsi256_si128(m), _mm256_extracti128_si256::<1>(m));
            let m = _mm_max_epi32(m, _mm_shuffle_epi32::<0b01_00_11_10>(m));
            let m = _mm_max_epi32(m, _mm_shuffle_epi32::<0b10_11_00_01>(m));
            f32::from_bits(_mm_cvtsi128_si32(m) as u32)
        }
    }
    #[inline(always)]
    unsafe fn quantize(v: [__m256; 2], factor: f32, codes: *mut i8) -> i32 {
        // SAFETY: see above.
        unsafe {
            let factor = _mm256_set1_ps(factor);
            let (a, b) =
                (_mm256_cvtps_epi32(_mm256_mul_ps(v[0], factor)), _mm256_cvtps_epi32(_mm256_mul_ps(v[1], factor)));
            // Packing works in halves of 16 bytes; the permutation puts the four pieces in order.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(a, b));
            let (low, high) = (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(codes.cast(), _mm_packs_epi16(low, high));
            let sum = _mm256_add_epi32(a, b);
            let sum = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
            let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b01_00_11_10>(sum));
            _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32::<0b10_11_00_01>(sum)))
        }
    }

    #[inline(always)]
    unsafe fn splat(v: i32) -> Self::I {
        // SAFETY: see above.
        unsafe { [_mm256_set1_epi32(v); 2] }
    }
    #[inline(always)]
    unsafe fn to_f32(v: Self::I) -> [__m256; 2] {
        // SAFETY: see above.
        unsafe { both!(I => _mm256_cvtepi32_ps(v[I])) }
    }
    #[inline(always)]
    unsafe fn load(p: *const u8) -> Self::B {
        // SAFETY: see above.
        unsafe { both!(I => _mm256_loadu_si256(p.add(32 * I).cast())) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut u8, v: Self::B) {
        // SAFETY: see above.
        unsafe {
            _mm256_storeu_si256(p.cast(), v[0]);
            _mm256_storeu_si256(p.add(32).cast(), v[1]);
        }
    }
    /// Even and odd bytes apart, as 16-bit numbers: `vpmaddubsw` would saturate.
    #[inline(always)]
    unsafe fn dot(acc: Self::I, w: Self::B, x: u32) -> Self::I {
        both!(I => {
            // SAFETY: see above.
            unsafe {
                let x = _mm256_set1_epi32(x as i32);
                let (even, odd) = (_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x)), _mm256_srai_epi16::<8>(x));
                let w_even = _mm256_and_si256(w[I], _mm256_set1_epi16(0xff));
                let sums = _mm256_add_epi32(acc[I], _mm256_madd_epi16(w_even, even));
                _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_srli_epi16::<8>(w[I]), odd))
            }
        })
    }

    #[inline(always)]
    unsafe fn nibbles<const HIGH: bool>(v: Self::B) -> Self::B {
        both!(I => {
            // SAFETY: see above.
            unsafe {
                let v = if HIGH { _mm256_srli_epi16::<4>(v[I]) } else { v[I] };
                _mm256_and_si256(v, _mm256_set1_epi8(15))
            }
        })
    }
    #[inline(always)]
    unsafe fn or_fifth_bit(code: Self::B, bits: u64) -> Self::B {
        both!(I => {
            // SAFETY: see above.
            unsafe {
                // Byte `i` of the register gets byte `i / 8` of the bits (the shuffle works in halves of 16 bytes).
                let bits = _mm256_set1_epi32((bits >> (32 * I)) as i32);
                let which = _mm256_setr_epi64x(
                    0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303,
                );
                let mask = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
                let set = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(bits, which), mask), mask);
                _mm256_or_si256(code[I], _mm256_and_si256(set, _mm256_set1_epi8(16)))
            }
        })
    }
    #[inline(always)]
    unsafe fn or_two_bits<const I: u32>(code: Self::B, high: Self::B) -> Self::B {
        both!(J => {
            // SAFETY: see above.
            unsafe {
                // Two bits of each byte end up at bits 4 and 5; what crosses into other bits is masked.
                let moved = match I {
                    0 => _mm256_slli_epi16::<4>(high[J]),
                    1 => _mm256_slli_epi16::<2>(high[J]),
                    2 => high[J],
                    _ => _mm256_srli_epi16::<2>(high[J]),
                };
                _mm256_or_si256(code[J], _mm256_and_si256(moved, _mm256_set1_epi8(0x30)))
            }
        })
    }
}
