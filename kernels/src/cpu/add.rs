//! Addition to the residual stream.

use super::threads::Threads;

/// `residual += x`, element by element.
pub(super) fn add(threads: &Threads, x: &[f32], residual: &mut [f32]) {
    threads.for_rows(residual, 1, |first, residual| {
        residual.iter_mut().zip(&x[first..]).for_each(|(residual, x)| *residual += x);
    });
}
