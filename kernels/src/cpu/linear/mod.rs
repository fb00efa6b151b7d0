//! The linear layer: `out = x · wᵀ (+ bias)` with weights packed once at load.

use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use super::SimdLevel;
use crate::reference::dequant::dequantize;
use crate::{Dtype, Error, Result, WeightView};

/// A weight matrix `[rows, cols]` (output features, input features) in the layout that [`linear`] reads.
pub struct PackedWeight {
    rows: usize,
    cols: usize,
    data: Vec<f32>,
    dtype: Dtype,
}

impl PackedWeight {
    /// Packs matrices that share their input, stacked along the rows, for the kernels of `level`.
    ///
    /// # Errors
    /// [`Error::Shape`] when there is no part, or the parts differ in their number of columns;
    /// [`Error::Unsupported`] when this machine cannot run `level`.
    pub fn pack(parts: &[WeightView<'_>], dtype: Dtype, level: SimdLevel) -> Result<Self> {
        if !level.is_supported() {
            return Err(Error::Unsupported(format!("this CPU cannot run the {} kernels", level.name())));
        }
        let cols = parts.first().map_or(0, |p| p.cols);
        if let Some(part) = parts.iter().find(|p| p.cols != cols) {
            return Err(Error::Shape {
                what: "packed weight: part",
                found: format!("[{}, {}]", part.rows, part.cols),
                wanted: format!("[_, {cols}]"),
            });
        }
        let mut data: Vec<f32> = parts.iter().flat_map(dequantize).collect();
        if dtype != Dtype::F32 {
            data.iter_mut().for_each(|v| *v = bf16::from_f32(*v).to_f32());
        }
        Ok(Self { rows: parts.iter().map(|p| p.rows).sum(), cols, data, dtype })
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes held in memory.
    pub fn bytes(&self) -> usize {
        self.data.len() * 4
    }

    /// Writes the dequantised weights of row `row` to `out`. `out: [cols]`
    pub fn row_f32(&self, row: usize, out: &mut [f32]) {
        out.copy_from_slice(&self.data[row * self.cols..(row + 1) * self.cols]);
    }
}

/// `out[r * out_stride + c - cols.start] = x[r] · w[c] (+ bias[c])` for the output features `c` in `cols`;
/// with `accumulate` the result is added to what `out` holds.
///
/// `x: [m, w.cols()]`, `bias: [w.rows()]`. The bits of a row depend on that row, the weights and the dtype only:
/// not on `m`, the position of the row, `cols` or the number of threads.
///
/// # Errors
/// [`Error::Shape`] when an operand is smaller than the shapes above need; [`Error::Index`] when `cols` exceeds
/// the rows of `w`.
#[allow(clippy::too_many_arguments)]
pub fn linear(
    x: &[f32],
    m: usize,
    w: &PackedWeight,
    cols: Range<usize>,
    bias: Option<&[f32]>,
    accumulate: bool,
    out: &mut [f32],
    out_stride: usize,
    pool: &rayon::ThreadPool,
) -> Result<()> {
    if cols.start > cols.end || cols.end > w.rows {
        return Err(Error::Index { what: "linear: output columns", index: cols.end, len: w.rows + 1 });
    }
    let shape = |what, found: usize, wanted: String| Err(Error::Shape { what, found: format!("[{found}]"), wanted });
    if x.len() != m * w.cols {
        return shape("linear: input", x.len(), format!("[{m}, {}]", w.cols));
    }
    if let Some(bias) = bias.filter(|b| b.len() != w.rows) {
        return shape("linear: bias", bias.len(), format!("[{}]", w.rows));
    }
    if m == 0 || cols.is_empty() {
        return Ok(());
    }
    if out_stride < cols.len() || out.len() < (m - 1) * out_stride + cols.len() {
        return shape("linear: output", out.len(), format!("[{m}, {}] with stride {out_stride}", cols.len()));
    }
    let round = |v: f32| if w.dtype == Dtype::F32 { v } else { bf16::from_f32(v).to_f32() };
    pool.install(|| {
        out.par_chunks_mut(out_stride).take(m).enumerate().for_each(|(r, out)| {
            let x = &x[r * w.cols..(r + 1) * w.cols];
            for c in cols.clone() {
                let row = &w.data[c * w.cols..(c + 1) * w.cols];
                let dot: f32 = x.iter().zip(row).map(|(&a, &b)| round(a) * b).sum();
                let dot = dot + bias.map_or(0.0, |b| b[c]);
                let slot = &mut out[c - cols.start];
                *slot = if accumulate { *slot + dot } else { dot };
            }
        });
    });
    Ok(())
}
