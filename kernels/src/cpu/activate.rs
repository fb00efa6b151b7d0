//! Activations without a gate.

use super::{
    SimdLevel,
    threads::Threads,
    vector::{Kernel, LANES, Simd, dispatch, padded},
};
use crate::Activation;

/// `out = activation(x)`, element by element.
pub(super) fn activate(level: SimdLevel, threads: &Threads, activation: Activation, x: &[f32], out: &mut [f32]) {
    threads.for_rows(out, 1, |first, out| {
        let x = &x[first..][..out.len()];
        match activation {
            Activation::Gelu => dispatch(level, Gelu { x, out }),
            Activation::Relu => out.iter_mut().zip(x).for_each(|(out, x)| *out = if *x < 0.0 { 0.0 } else { *x }),
        }
    });
}

struct Gelu<'a> {
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Gelu<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let ((x, x_tail), (out, out_tail)) = (self.x.as_chunks::<LANES>(), self.out.as_chunks_mut::<LANES>());
        for (x, out) in x.iter().zip(out) {
            simd.store(gelu(simd, x), out);
        }
        let tail = simd.to_array(gelu(simd, &padded(x_tail)));
        out_tail.copy_from_slice(&tail[..out_tail.len()]);
    }
}

/// `x * erfc(-x / sqrt(2)) / 2`, which is `x * (1 + erf(x / sqrt(2))) / 2` without the cancellation at negative x.
///
/// `erfc(z) = t * P(t) * e^(-z^2)` with `t = 1 / (1 + 0.38 z)`; `P` is a Chebyshev fit on `t` in `[0.15, 1]`, to 3.4e-8
/// relative.
#[inline(always)]
fn gelu<S: Simd>(simd: S, x: &[f32; LANES]) -> S::V {
    const P: [f32; 9] = [
        5.829_473_4e-2,
        -2.591_508_6e-1,
        3.577_166_4e-1,
        -1.548_489_5e-1,
        2.257_856_7e-1,
        1.402_997_7e-1,
        2.035_288_5e-1,
        2.139_655e-1,
        2.144_086_8e-1,
    ];
    // Beyond 20 the tail is 0 in `f32`.
    let magnitude = simd.load(&x.map(|x| if x.abs() < 20.0 { x.abs() } else { 20.0 }));
    let step = simd.splat(0.38 * std::f32::consts::FRAC_1_SQRT_2);
    let t = simd.div(simd.splat(1.0), simd.mul_add(step, magnitude, simd.splat(1.0)));
    let mut p = simd.splat(P[0]);
    for c in &P[1..] {
        p = simd.mul_add(p, t, simd.splat(*c));
    }
    // The square in two parts, the first exact in 12 bits: its rounding would be magnified by the exponent.
    let high = simd.load(&simd.to_array(magnitude).map(|a| f32::from_bits(a.to_bits() & 0xffff_f000)));
    let low = simd.sub(magnitude, high);
    let rest = simd.mul(low, simd.add(magnitude, high));
    let half = simd.splat(-0.5);
    let e = simd.mul(simd.exp(simd.mul(half, simd.mul(high, high))), simd.exp(simd.mul(half, rest)));
    let tail = simd.to_array(simd.mul(simd.mul(simd.splat(0.5), t), simd.mul(p, e)));
    let mut out = *x;
    for (x, tail) in out.iter_mut().zip(tail) {
        *x *= if *x < 0.0 { tail } else { 1.0 - tail };
    }
    simd.load(&out)
}
