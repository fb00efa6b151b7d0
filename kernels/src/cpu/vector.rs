//! Sixteen `f32` lanes at every dispatch level, so that each kernel is written once.
//!
//! A value of a [`Simd`] type is the proof that the CPU has the instructions: only [`dispatch`] makes one. Its methods
//! are therefore safe, and kernels over them contain no `unsafe`. Everything generic here is `#[inline(always)]`, so
//! that it is compiled inside the `#[target_feature]` function that `dispatch` enters.

use super::SimdLevel;

/// `f32` lanes of a vector at every level.
pub(crate) const LANES: usize = 16;

/// The tail of a row as one vector, zeros behind it.
#[inline(always)]
pub(crate) fn padded(tail: &[f32]) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    out[..tail.len()].copy_from_slice(tail);
    out
}

/// A kernel that can be compiled for every level.
pub(crate) trait Kernel {
    /// What it returns.
    type Output;
    /// The kernel; implementations are `#[inline(always)]`.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Runs `kernel` with the instructions of `level`.
///
/// # Panics
/// If the CPU lacks them; `CpuBackend` refuses such a level when it is made.
pub(crate) fn dispatch<K: Kernel>(level: SimdLevel, kernel: K) -> K::Output {
    assert!(level.is_supported(), "{} is not supported by this CPU", level.name());
    match level {
        SimdLevel::Portable => kernel.run(Portable),
        // SAFETY: the CPU supports the level, asserted above; so for the two arms below.
        #[cfg(target_arch = "x86_64")]
        SimdLevel::Avx2 => unsafe { x86::run_avx2(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        SimdLevel::Avx512 => unsafe { x86::run_avx512(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        SimdLevel::Avx512Bf16 => unsafe { x86::run_avx512_bf16(kernel) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => kernel.run(Portable),
    }
}

/// Vector arithmetic of one level. Reductions run in one fixed order.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// Sixteen `f32`.
    type V: Copy;
    /// Rows of a register tile of [`Self::TILE_VECTORS`] vectors that fit the register file.
    const TILE_ROWS: usize;
    /// Vectors of a register tile.
    const TILE_VECTORS: usize;

    fn splat(self, x: f32) -> Self::V;
    fn load(self, x: &[f32; LANES]) -> Self::V;
    fn store(self, v: Self::V, to: &mut [f32; LANES]);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, fused where the level has it.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `b` where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `b` where either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// To the nearest integer, ties to even.
    fn round(self, a: Self::V) -> Self::V;
    /// `a * 2^n` for integral `n` in `-252..=254`, with gradual underflow and overflow to infinity.
    fn scale_by_power_of_two(self, a: Self::V, n: Self::V) -> Self::V;
    /// The first `count` lanes of `a`, the others `fill`.
    fn select_first(self, count: usize, a: Self::V, fill: Self::V) -> Self::V;
    /// `acc + a.low * b.low + a.high * b.high` for pairs of bf16 (`low` in the lower half): `a` is the same for all lanes.
    fn dot_bf16_pairs(self, acc: Self::V, a: u32, b: &[u32; LANES]) -> Self::V;
    /// As [`Simd::dot_bf16_pairs`] with the high half of `b` read as zero, whatever it holds.
    fn dot_bf16_low(self, acc: Self::V, a: u32, b: &[u32; LANES]) -> Self::V;
    /// Rounds to bf16, ties to even, and packs neighbouring lanes: lane `2i` low, lane `2i + 1` high.
    fn pack_bf16(self, a: Self::V, to: &mut [u32; LANES / 2]);

    /// The lanes as an array.
    #[inline(always)]
    fn to_array(self, v: Self::V) -> [f32; LANES] {
        let mut out = [0.0; LANES];
        self.store(v, &mut out);
        out
    }

    /// Sum of the lanes, by halves.
    #[inline(always)]
    fn reduce_add(self, v: Self::V) -> f32 {
        let mut x = self.to_array(v);
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                x[i] += x[i + half];
            }
        }
        x[0]
    }

    /// Largest lane; NaN lanes may or may not be seen.
    #[inline(always)]
    fn reduce_max(self, v: Self::V) -> f32 {
        let mut x = self.to_array(v);
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                x[i] = if x[i] > x[i + half] { x[i] } else { x[i + half] };
            }
        }
        x[0]
    }

    /// `e^x` to 2 ulp: `-inf` gives exactly 0, large `x` infinity, NaN stays NaN.
    ///
    /// `x = n ln 2 + r` with `|r| <= ln 2 / 2`; `ln 2` is split so that `n * LN2_HIGH` is exact without fused
    /// arithmetic; degree-6 polynomial for `e^r` (Cephes `expf`, S. Moshier).
    #[inline(always)]
    fn exp(self, x: Self::V) -> Self::V {
        const LN2_HIGH: f32 = 0.693_359_4;
        const LN2_LOW: f32 = -2.121_944_4e-4;
        const POLYNOMIAL: [f32; 6] =
            [1.987_569_2e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
        let x = self.max(self.splat(-105.0), self.min(self.splat(89.0), x));
        let n = self.round(self.mul(x, self.splat(std::f32::consts::LOG2_E)));
        let r = self.mul_add(n, self.splat(-LN2_HIGH), x);
        let r = self.mul_add(n, self.splat(-LN2_LOW), r);
        let mut p = self.splat(POLYNOMIAL[0]);
        for c in &POLYNOMIAL[1..] {
            p = self.mul_add(p, r, self.splat(*c));
        }
        let p = self.add(self.mul_add(p, self.mul(r, r), r), self.splat(1.0));
        self.scale_by_power_of_two(p, n)
    }
}

/// The two `f32` of a bf16 pair: exact.
#[inline(always)]
fn unpack(pair: u32) -> (f32, f32) {
    (f32::from_bits(pair << 16), f32::from_bits(pair & 0xffff_0000))
}

/// Rounds to bf16, ties to even; NaN stays NaN. The result is the upper half of an `f32`.
#[inline(always)]
pub(crate) fn bf16_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    if x.is_nan() { (bits >> 16) | 0x40 } else { (bits + 0x7fff + ((bits >> 16) & 1)) >> 16 }
}

/// Plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

/// Applies `f` lane by lane.
#[inline(always)]
fn zip(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    let mut out = a;
    for i in 0..LANES {
        out[i] = f(a[i], b[i]);
    }
    out
}

impl Simd for Portable {
    type V = [f32; LANES];
    const TILE_ROWS: usize = 2;
    const TILE_VECTORS: usize = 1;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::V {
        *x
    }
    #[inline(always)]
    fn store(self, v: Self::V, to: &mut [f32; LANES]) {
        *to = v;
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        self.add(self.mul(a, b), c)
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        // Adding 1.5 * 2^23 leaves no bits below the units; exact for |a| < 2^22.
        const UNITS: f32 = 12_582_912.0;
        zip(a, a, |a, _| (a + UNITS) - UNITS)
    }
    #[inline(always)]
    fn scale_by_power_of_two(self, a: Self::V, n: Self::V) -> Self::V {
        zip(a, n, |a, n| {
            let n = n as i32;
            let half = n >> 1;
            let power = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
            a * power(half) * power(n - half)
        })
    }
    #[inline(always)]
    fn select_first(self, count: usize, a: Self::V, fill: Self::V) -> Self::V {
        let mut out = fill;
        for i in 0..LANES {
            out[i] = if i < count { a[i] } else { fill[i] };
        }
        out
    }
    #[inline(always)]
    fn dot_bf16_pairs(self, acc: Self::V, a: u32, b: &[u32; LANES]) -> Self::V {
        let (low, high) = unpack(a);
        let mut out = acc;
        for i in 0..LANES {
            let (b_low, b_high) = unpack(b[i]);
            out[i] = acc[i] + high * b_high + low * b_low;
        }
        out
    }
    #[inline(always)]
    fn dot_bf16_low(self, acc: Self::V, a: u32, b: &[u32; LANES]) -> Self::V {
        let (low, _) = unpack(a);
        let mut out = acc;
        for i in 0..LANES {
            out[i] = acc[i] + low * unpack(b[i]).0;
        }
        out
    }
    #[inline(always)]
    fn pack_bf16(self, a: Self::V, to: &mut [u32; LANES / 2]) {
        for i in 0..LANES / 2 {
            to[i] = bf16_bits(a[2 * i]) | bf16_bits(a[2 * i + 1]) << 16;
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[path = "vector_x86.rs"]
mod x86;

#[cfg(test)]
mod tests {
    use super::*;

    struct ExpAll<'a>(&'a [f32]);

    impl Kernel for ExpAll<'_> {
        type Output = Vec<f32>;
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Vec<f32> {
            let (chunks, _) = self.0.as_chunks::<LANES>();
            let mut out = Vec::new();
            for chunk in chunks {
                out.extend(simd.to_array(simd.exp(simd.load(chunk))));
            }
            out
        }
    }

    #[test]
    fn exp_is_within_two_ulp_at_every_level() {
        let mut xs: Vec<f32> = (0..200_000).map(|i| -103.9 + i as f32 * (103.9 + 88.7) / 200_000.0).collect();
        xs.truncate(xs.len() / LANES * LANES);
        for level in SimdLevel::ALL.into_iter().filter(|l| l.is_supported()) {
            for (x, got) in xs.iter().zip(dispatch(level, ExpAll(&xs))) {
                let want = f64::from(*x).exp();
                let ulp = f64::from(f32::from_bits((want as f32).to_bits() + 1)) - f64::from(want as f32);
                let error = (f64::from(got) - want).abs() / ulp;
                assert!(error <= 2.0, "{}: exp({x}) = {got}, {error} ulp from {want}", level.name());
            }
        }
    }

    #[test]
    fn exp_of_the_limits() {
        let mut xs = [0.0; LANES];
        xs[..6].copy_from_slice(&[f32::NEG_INFINITY, f32::INFINITY, f32::NAN, -200.0, 200.0, 0.0]);
        for level in SimdLevel::ALL.into_iter().filter(|l| l.is_supported()) {
            let got = dispatch(level, ExpAll(&xs));
            assert_eq!(got[..2], [0.0, f32::INFINITY], "{}", level.name());
            assert!(got[2].is_nan(), "{}", level.name());
            assert_eq!(got[3..6], [0.0, f32::INFINITY, 1.0], "{}", level.name());
        }
    }

    struct PackAndDot<'a>(&'a [f32; LANES], &'a [u32; LANES]);

    impl Kernel for PackAndDot<'_> {
        type Output = ([u32; LANES / 2], [f32; LANES], [f32; LANES]);
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Self::Output {
            let mut packed = [0; LANES / 2];
            simd.pack_bf16(simd.load(self.0), &mut packed);
            let zero = simd.splat(0.0);
            let both = simd.dot_bf16_pairs(zero, packed[0], self.1);
            (packed, simd.to_array(both), simd.to_array(simd.dot_bf16_low(zero, packed[0], self.1)))
        }
    }

    #[test]
    fn bf16_pairs_round_and_multiply_as_half_does() {
        let xs: [f32; LANES] = std::array::from_fn(|i| (i as f32 + 1.0) * 0.37 - 3.0);
        let nan_high: [u32; LANES] = std::array::from_fn(|i| bf16_bits(i as f32 - 4.5) | 0x7fc0_0000);
        let pairs = nan_high.map(|b| (b & 0xffff) | bf16_bits(0.75) << 16);
        for level in SimdLevel::ALL.into_iter().filter(|l| l.is_supported()) {
            let (packed, both, _) = dispatch(level, PackAndDot(&xs, &pairs));
            let (_, _, low) = dispatch(level, PackAndDot(&xs, &nan_high));
            let rounded = xs.map(half::bf16::from_f32);
            for i in 0..LANES / 2 {
                let want = u32::from(rounded[2 * i].to_bits()) | u32::from(rounded[2 * i + 1].to_bits()) << 16;
                assert_eq!(packed[i], want, "{}", level.name());
            }
            for i in 0..LANES {
                let b = f32::from_bits(nan_high[i] << 16);
                assert_eq!(low[i], rounded[0].to_f32() * b, "{}", level.name());
                let want = rounded[0].to_f32() * b + rounded[1].to_f32() * 0.75;
                assert!((both[i] - want).abs() < 1e-5, "{}: {} != {want}", level.name(), both[i]);
            }
        }
    }
}
