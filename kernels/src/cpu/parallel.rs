//! Splitting rows among threads. Rows are independent, so the split changes no bit of the result.

use rayon::{ThreadPool, prelude::*};

/// Elements below which waking another thread costs more than it saves (some 10 µs of streaming work).
const MIN_ELEMENTS: usize = 1 << 15;

/// Calls `f(first_row, rows)` for consecutive runs of whole rows that together are `out: [_, cols]`.
pub(crate) fn for_rows(pool: &ThreadPool, out: &mut [f32], cols: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    if out.is_empty() {
        return;
    }
    let rows_per_task = (MIN_ELEMENTS / 2).div_ceil(cols);
    if pool.current_num_threads() == 1 || out.len() < MIN_ELEMENTS {
        return f(0, out);
    }
    let tasks = out.par_chunks_mut(rows_per_task * cols).enumerate();
    pool.install(|| tasks.for_each(|(i, rows)| f(i * rows_per_task, rows)));
}
