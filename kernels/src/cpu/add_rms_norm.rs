//! The addition to the residual stream and the normalisation that follows it, in one pass.

use super::{
    SimdLevel,
    rms_norm::norm_row,
    threads::Threads,
    vector::{Kernel, Simd, dispatch},
};

/// `residual += x; out = rms_norm(residual)`, row by row. `x`, `residual`, `out`: `[rows, weight.len()]`.
pub(super) fn add_rms_norm(
    level: SimdLevel,
    threads: &Threads,
    x: &[f32],
    residual: &mut [f32],
    weight: &[f32],
    eps: f32,
    out: &mut [f32],
) {
    let cols = weight.len();
    threads.for_rows_of_two(residual, out, cols, |first, residual, out| {
        let x = &x[first * cols..][..out.len()];
        dispatch(level, AddRmsNorm { x, residual, weight, eps, out });
    });
}

struct AddRmsNorm<'a> {
    x: &'a [f32],
    residual: &'a mut [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for AddRmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let cols = self.weight.len();
        let rows = self.residual.chunks_exact_mut(cols).zip(self.out.chunks_exact_mut(cols));
        for (x, (residual, out)) in self.x.chunks_exact(cols).zip(rows) {
            residual.iter_mut().zip(x).for_each(|(residual, x)| *residual += x);
            norm_row(simd, residual, self.weight, self.eps, out);
        }
    }
}
