//! Addition to the residual stream.

use super::threads::Threads;

/// `residual += x[0] + x[1] + ...`, element by element, where `x` is made of parts as long as `residual`.
pub(super) fn add(threads: &Threads, x: &[f32], residual: &mut [f32]) {
    let len = residual.len();
    threads.for_rows(residual, 1, |first, residual| {
        for part in x.chunks_exact(len) {
            residual.iter_mut().zip(&part[first..]).for_each(|(residual, x)| *residual += x);
        }
    });
}
