//! Root-mean-square normalisation (arXiv 1910.07467).

use super::{
    SimdLevel,
    threads::Threads,
    vector::{Kernel, LANES, Simd, dispatch, padded},
};

/// `out = x / sqrt(mean(x^2) + eps) * weight`, row by row. `x`, `out`: `[rows, weight.len()]`.
pub(super) fn rms_norm(level: SimdLevel, threads: &Threads, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let cols = weight.len();
    threads.for_rows(out, cols, |first, out| {
        let x = &x[first * cols..][..out.len()];
        dispatch(level, RmsNorm { x, weight, eps, out });
    });
}

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let cols = self.weight.len();
        for (x, out) in self.x.chunks_exact(cols).zip(self.out.chunks_exact_mut(cols)) {
            norm_row(simd, x, self.weight, self.eps, out);
        }
    }
}

/// One row; all slices are as long as `weight`.
#[inline(always)]
pub(super) fn norm_row<S: Simd>(simd: S, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let (x, x_tail) = x.as_chunks::<LANES>();
    let (weight, weight_tail) = weight.as_chunks::<LANES>();
    let cols = x.len() * LANES + x_tail.len();
    let mut sums = [simd.splat(0.0); 4];
    for (i, x) in x.iter().enumerate() {
        let x = simd.load(x);
        sums[i % 4] = simd.mul_add(x, x, sums[i % 4]);
    }
    let tail = simd.load(&padded(x_tail));
    sums[0] = simd.mul_add(tail, tail, sums[0]);
    let sum = simd.add(simd.add(sums[0], sums[1]), simd.add(sums[2], sums[3]));
    let mean = simd.reduce_add(sum) / cols as f32;
    let scale = 1.0 / (mean + eps).sqrt();
    let scales = simd.splat(scale);
    let (out, out_tail) = out.as_chunks_mut::<LANES>();
    for ((x, weight), out) in x.iter().zip(weight).zip(out) {
        simd.store(simd.mul(simd.mul(simd.load(x), scales), simd.load(weight)), out);
    }
    for ((x, weight), out) in x_tail.iter().zip(weight_tail).zip(out_tail) {
        *out = x * scale * weight;
    }
}
