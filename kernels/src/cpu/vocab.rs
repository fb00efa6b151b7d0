//! Logits in pieces: products with the LM head, and the running log-sum-exp over a row of them.

use std::ops::Range;

use super::{
    SimdLevel,
    linear::{PackedWeight, linear},
    threads::Threads,
    vector::{Kernel, LANES, Simd, dispatch, padded},
};
use crate::{Error, Result};

/// The log-sum-exp of a row is summed in pieces of this many logits, in order, whatever the batch.
const CHUNK: usize = 2048;
/// Logits held at once.
const MAX_LOGITS: usize = 1 << 20;
/// Rows per pass over the head; more would leave too few logits per row at once.
const MAX_ROWS: usize = 256;

/// Calls `f(rows, vocab, logits)` for blocks `[rows.len(), vocab.len()]` of `hidden · headᵀ`: for each run of rows all
/// of the vocabulary in order. Vocabulary ranges start at multiples of [`CHUNK`].
pub(super) fn for_logits(
    threads: &Threads,
    hidden: &[f32],
    head: &PackedWeight,
    mut f: impl FnMut(Range<usize>, Range<usize>, &[f32]) -> Result<()>,
) -> Result<()> {
    let (cols, vocab) = (head.cols(), head.rows());
    let num_rows = hidden.len() / cols.max(1);
    for first in (0..num_rows).step_by(MAX_ROWS) {
        let rows = first..num_rows.min(first + MAX_ROWS);
        let width = (MAX_LOGITS / rows.len() / CHUNK).max(1) * CHUNK;
        let mut logits = vec![0.0; rows.len() * width.min(vocab)];
        for start in (0..vocab).step_by(width) {
            let ids = start..vocab.min(start + width);
            let logits = &mut logits[..rows.len() * ids.len()];
            let hidden = &hidden[rows.start * cols..rows.end * cols];
            linear(hidden, rows.len(), head, ids.clone(), None, false, logits, ids.len(), threads)?;
            f(rows.clone(), ids, logits)?;
        }
    }
    Ok(())
}

/// What is known of one row's logits after the chunks seen so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowStats {
    /// Largest logit.
    pub(super) max: f32,
    /// Its first index.
    pub(super) argmax: u32,
    /// Sum of `e^(logit - max)`.
    sum: f64,
}

impl RowStats {
    pub(super) const EMPTY: Self = Self { max: f32::NEG_INFINITY, argmax: 0, sum: 0.0 };

    /// Adds the logits of ids from `first_id` on.
    pub(super) fn update(&mut self, level: SimdLevel, first_id: usize, logits: &[f32]) {
        for (i, chunk) in logits.chunks(CHUNK).enumerate() {
            dispatch(level, Update { stats: self, first_id: first_id + i * CHUNK, logits: chunk });
        }
    }

    /// `log_softmax` of a logit of this row.
    pub(super) fn log_prob(&self, logit: f32) -> f32 {
        (f64::from(logit) - f64::from(self.max) - self.sum.ln()) as f32
    }

    /// Refuses a row with NaN or infinite logits; `row` and `what` are named in the error.
    pub(super) fn check(&self, what: &'static str, row: usize) -> Result<()> {
        // A NaN anywhere makes the sum NaN, and so does infinity minus infinity.
        if self.max.is_finite() && self.sum.is_finite() { Ok(()) } else { Err(Error::NotFinite { what, row }) }
    }
}

/// Updates the statistics of all rows of one block of logits, `[stats.len(), ids.len()]`.
pub(super) fn update_all(
    level: SimdLevel,
    threads: &Threads,
    stats: &mut [RowStats],
    ids: &Range<usize>,
    logits: &[f32],
) {
    threads.for_each_part(stats, 1, |row, stats| {
        let logits = &logits[row * ids.len()..][..ids.len()];
        stats.iter_mut().for_each(|stats| stats.update(level, ids.start, logits));
    });
}

struct Update<'a> {
    stats: &'a mut RowStats,
    first_id: usize,
    logits: &'a [f32],
}

impl Kernel for Update<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { stats, first_id, logits } = self;
        let (chunks, tail) = logits.as_chunks::<LANES>();
        let nothing = simd.splat(f32::NEG_INFINITY);
        let tail = simd.select_first(tail.len(), simd.load(&padded(tail)), nothing);
        let mut max = tail;
        for chunk in chunks {
            max = simd.max(max, simd.load(chunk));
        }
        let max = simd.reduce_max(max);
        if max > stats.max {
            stats.sum *= (f64::from(stats.max) - f64::from(max)).exp();
            stats.max = max;
            stats.argmax = (first_id + logits.iter().position(|x| *x == max).unwrap_or(0)) as u32;
        }
        let shift = simd.splat(stats.max);
        let mut sums = [simd.exp(simd.sub(tail, shift)), simd.splat(0.0)];
        for (i, chunk) in chunks.iter().enumerate() {
            sums[i % 2] = simd.add(sums[i % 2], simd.exp(simd.sub(simd.load(chunk), shift)));
        }
        stats.sum += f64::from(simd.reduce_add(simd.add(sums[0], sums[1])));
    }
}
