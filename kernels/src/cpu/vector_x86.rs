//! AVX2, AVX-512 and AVX-512-BF16.

#![allow(clippy::undocumented_unsafe_blocks)] // every block below: the type's existence proves the CPU features

use std::arch::x86_64::*;

use super::{Kernel, LANES, Simd};

/// AVX2 and FMA. Made only by [`run_avx2`].
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

/// AVX-512 F, BW, DQ, VL. Made only by [`run_avx512`].
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

/// AVX-512 with BF16. Made only by [`run_avx512_bf16`].
#[derive(Clone, Copy)]
pub(crate) struct Avx512Bf16(());

/// # Safety
/// The CPU must have AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2(()))
}

/// # Safety
/// The CPU must have AVX-512 F, BW, DQ and VL.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512(()))
}

/// # Safety
/// The CPU must have AVX-512 F, BW, DQ, VL, BF16 and VNNI.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni")]
pub(super) unsafe fn run_avx512_bf16<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512Bf16(()))
}

const ROUND: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

/// Rounds eight lanes to bf16 in the low halves of 32-bit lanes.
#[inline(always)]
fn round_bf16_256(a: __m256) -> __m256i {
    unsafe {
        let bits = _mm256_castps_si256(a);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(a, a));
        let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
        _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan))
    }
}

impl Avx2 {
    #[inline(always)]
    fn each(self, a: [__m256; 2], b: [__m256; 2], f: impl Fn(__m256, __m256) -> __m256) -> [__m256; 2] {
        [f(a[0], b[0]), f(a[1], b[1])]
    }

    /// Halves of sixteen bf16 pairs as `f32`: low, high.
    #[inline(always)]
    fn load_pairs(self, b: &[u32; LANES], i: usize) -> (__m256, __m256) {
        unsafe {
            let pair = _mm256_loadu_si256(b.as_ptr().add(8 * i).cast());
            let high = _mm256_and_si256(pair, _mm256_set1_epi32(0xffff_0000_u32 as i32));
            (_mm256_castsi256_ps(_mm256_slli_epi32::<16>(pair)), _mm256_castsi256_ps(high))
        }
    }
}

impl Simd for Avx2 {
    type V = [__m256; 2];
    const TILE_ROWS: usize = 3;
    const TILE_VECTORS: usize = 2;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        unsafe { [_mm256_set1_ps(x); 2] }
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::V {
        unsafe { [_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))] }
    }
    #[inline(always)]
    fn store(self, v: Self::V, to: &mut [f32; LANES]) {
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), v[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), v[1]);
        }
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        self.each(a, b, |a, b| unsafe { _mm256_add_ps(a, b) })
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        self.each(a, b, |a, b| unsafe { _mm256_sub_ps(a, b) })
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        self.each(a, b, |a, b| unsafe { _mm256_mul_ps(a, b) })
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        self.each(a, b, |a, b| unsafe { _mm256_div_ps(a, b) })
    }
    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        self.each(a, b, |a, b| unsafe { _mm256_max_ps(a, b) })
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        self.each(a, b, |a, b| unsafe { _mm256_min_ps(a, b) })
    }
    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        self.each(a, a, |a, _| unsafe { _mm256_round_ps::<ROUND>(a) })
    }
    #[inline(always)]
    fn scale_by_power_of_two(self, a: Self::V, n: Self::V) -> Self::V {
        self.each(a, n, |a, n| unsafe {
            let n = _mm256_cvtps_epi32(n);
            let half = _mm256_srai_epi32::<1>(n);
            let bias = _mm256_set1_epi32(127);
            let power = |n| _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, bias)));
            _mm256_mul_ps(_mm256_mul_ps(a, power(half)), power(_mm256_sub_epi32(n, half)))
        })
    }
    #[inline(always)]
    fn select_first(self, count: usize, a: Self::V, fill: Self::V) -> Self::V {
        unsafe {
            let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let keep = |from: i32| _mm256_cmpgt_epi32(_mm256_set1_epi32(count.min(LANES) as i32 - from), lane);
            [
                _mm256_blendv_ps(fill[0], a[0], _mm256_castsi256_ps(keep(0))),
                _mm256_blendv_ps(fill[1], a[1], _mm256_castsi256_ps(keep(8))),
            ]
        }
    }
    #[inline(always)]
    fn dot_bf16_pairs(self, acc: Self::V, a: u32, b: &[u32; LANES]) -> Self::V {
        unsafe {
            let low = _mm256_set1_ps(f32::from_bits(a << 16));
            let high = _mm256_set1_ps(f32::from_bits(a & 0xffff_0000));
            let mut out = acc;
            for (i, out) in out.iter_mut().enumerate() {
                let (b_low, b_high) = self.load_pairs(b, i);
                *out = _mm256_fmadd_ps(low, b_low, _mm256_fmadd_ps(high, b_high, *out));
            }
            out
        }
    }
    #[inline(always)]
    fn dot_bf16_low(self, acc: Self::V, a: u32, b: &[u32; LANES]) -> Self::V {
        unsafe {
            let low = _mm256_set1_ps(f32::from_bits(a << 16));
            let mut out = acc;
            for (i, out) in out.iter_mut().enumerate() {
                *out = _mm256_fmadd_ps(low, self.load_pairs(b, i).0, *out);
            }
            out
        }
    }
    #[inline(always)]
    fn pack_bf16(self, a: Self::V, to: &mut [u32; LANES / 2]) {
        unsafe {
            let packed = _mm256_packus_epi32(round_bf16_256(a[0]), round_bf16_256(a[1]));
            // `packus` works within 128-bit halves: put the quarters in order.
            _mm256_storeu_si256(to.as_mut_ptr().cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(packed));
        }
    }
}

/// What the two AVX-512 levels share.
macro_rules! avx512_methods {
    () => {
        type V = __m512;
        const TILE_ROWS: usize = 6;
        const TILE_VECTORS: usize = 4;

        #[inline(always)]
        fn splat(self, x: f32) -> Self::V {
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        fn load(self, x: &[f32; LANES]) -> Self::V {
            unsafe { _mm512_loadu_ps(x.as_ptr()) }
        }
        #[inline(always)]
        fn store(self, v: Self::V, to: &mut [f32; LANES]) {
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), v) }
        }
        #[inline(always)]
        fn add(self, a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        fn sub(self, a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        fn mul(self, a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        fn div(self, a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm512_div_ps(a, b) }
        }
        #[inline(always)]
        fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        fn max(self, a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm512_max_ps(a, b) }
        }
        #[inline(always)]
        fn min(self, a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm512_min_ps(a, b) }
        }
        #[inline(always)]
        fn round(self, a: Self::V) -> Self::V {
            unsafe { _mm512_roundscale_ps::<ROUND>(a) }
        }
        #[inline(always)]
        fn scale_by_power_of_two(self, a: Self::V, n: Self::V) -> Self::V {
            unsafe { _mm512_scalef_ps(a, n) }
        }
        #[inline(always)]
        fn select_first(self, count: usize, a: Self::V, fill: Self::V) -> Self::V {
            let keep = ((1_u32 << count.min(LANES)) - 1) as __mmask16;
            unsafe { _mm512_mask_mov_ps(fill, keep, a) }
        }
        #[inline(always)]
        fn reduce_add(self, v: Self::V) -> f32 {
            // Written out: the order of `_mm512_reduce_add_ps` is the compiler's to choose.
            unsafe {
                let v = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
                let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
                _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps::<1>(v, v)))
            }
        }
        #[inline(always)]
        fn reduce_max(self, v: Self::V) -> f32 {
            unsafe { _mm512_reduce_max_ps(v) }
        }
    };
}

impl Simd for Avx512 {
    avx512_methods!();

    #[inline(always)]
    fn dot_bf16_pairs(self, acc: Self::V, a: u32, b: &[u32; LANES]) -> Self::V {
        unsafe {
            let pair = _mm512_loadu_si512(b.as_ptr().cast());
            let low = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pair));
            let high = _mm512_castsi512_ps(_mm512_and_si512(pair, _mm512_set1_epi32(0xffff_0000_u32 as i32)));
            let acc = _mm512_fmadd_ps(_mm512_set1_ps(f32::from_bits(a & 0xffff_0000)), high, acc);
            _mm512_fmadd_ps(_mm512_set1_ps(f32::from_bits(a << 16)), low, acc)
        }
    }
    #[inline(always)]
    fn dot_bf16_low(self, acc: Self::V, a: u32, b: &[u32; LANES]) -> Self::V {
        unsafe {
            let low = _mm512_slli_epi32::<16>(_mm512_loadu_si512(b.as_ptr().cast()));
            _mm512_fmadd_ps(_mm512_set1_ps(f32::from_bits(a << 16)), _mm512_castsi512_ps(low), acc)
        }
    }
    #[inline(always)]
    fn pack_bf16(self, a: Self::V, to: &mut [u32; LANES / 2]) {
        unsafe {
            let bits = _mm512_castps_si512(a);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a);
            let quiet = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x0040_0000));
            let packed = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(quiet));
            _mm256_storeu_si256(to.as_mut_ptr().cast(), packed);
        }
    }
}

impl Simd for Avx512Bf16 {
    avx512_methods!();

    #[inline(always)]
    fn dot_bf16_pairs(self, acc: Self::V, a: u32, b: &[u32; LANES]) -> Self::V {
        unsafe {
            let b = _mm512_loadu_si512(b.as_ptr().cast());
            // SAFETY of the transmutes: plain 512-bit registers.
            let a = std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(a as i32));
            _mm512_dpbf16_ps(acc, a, std::mem::transmute::<__m512i, __m512bh>(b))
        }
    }
    #[inline(always)]
    fn dot_bf16_low(self, acc: Self::V, a: u32, b: &[u32; LANES]) -> Self::V {
        unsafe {
            let b = _mm512_and_si512(_mm512_loadu_si512(b.as_ptr().cast()), _mm512_set1_epi32(0xffff));
            let a = std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(a as i32));
            _mm512_dpbf16_ps(acc, a, std::mem::transmute::<__m512i, __m512bh>(b))
        }
    }
    #[inline(always)]
    fn pack_bf16(self, a: Self::V, to: &mut [u32; LANES / 2]) {
        unsafe {
            let packed = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(a));
            _mm256_storeu_si256(to.as_mut_ptr().cast(), packed);
        }
    }
}
