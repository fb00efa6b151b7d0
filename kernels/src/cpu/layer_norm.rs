//! Layer normalisation (arXiv 1607.06450).

use super::{
    SimdLevel,
    threads::Threads,
    vector::{Kernel, LANES, Simd, dispatch, padded},
};

/// `out = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias`, row by row. `x`, `out`: `[rows, weight.len()]`; `bias` as
/// long as `weight`.
pub(super) fn layer_norm(
    level: SimdLevel,
    threads: &Threads,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    eps: f32,
    out: &mut [f32],
) {
    let cols = weight.len();
    threads.for_rows(out, cols, |first, out| {
        let x = &x[first * cols..][..out.len()];
        dispatch(level, LayerNorm { x, weight, bias, eps, out });
    });
}

struct LayerNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for LayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let cols = self.weight.len();
        for (x, out) in self.x.chunks_exact(cols).zip(self.out.chunks_exact_mut(cols)) {
            let (chunks, tail) = x.as_chunks::<LANES>();
            let zero = simd.splat(0.0);
            let mut sums = [simd.load(&padded(tail)), zero, zero, zero];
            for (i, x) in chunks.iter().enumerate() {
                sums[i % 4] = simd.add(sums[i % 4], simd.load(x));
            }
            let sum = simd.add(simd.add(sums[0], sums[1]), simd.add(sums[2], sums[3]));
            let mean = simd.reduce_add(sum) / cols as f32;
            let means = simd.splat(mean);
            // The mean square of differences: the difference of mean squares would cancel.
            let d = simd.select_first(tail.len(), simd.sub(simd.load(&padded(tail)), means), zero);
            let mut sums = [simd.mul(d, d), zero, zero, zero];
            for (i, x) in chunks.iter().enumerate() {
                let d = simd.sub(simd.load(x), means);
                sums[i % 4] = simd.mul_add(d, d, sums[i % 4]);
            }
            let sum = simd.add(simd.add(sums[0], sums[1]), simd.add(sums[2], sums[3]));
            let scale = 1.0 / (simd.reduce_add(sum) / cols as f32 + self.eps).sqrt();
            out.iter_mut().zip(x).zip(self.weight).for_each(|((out, x), w)| *out = (x - mean) * scale * w);
            if let Some(bias) = self.bias {
                out.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
            }
        }
    }
}
