//! The linear layer: `out = x · wᵀ (+ bias)` with weights packed once at load.
//!
//! Quantised weights stay quantised. Floor of one row: the bytes of the packed weights over the memory bandwidth;
//! of many rows: `2 * m * rows * cols` operations over the peak of the instruction set. The two are served from one
//! layout: with many rows, a panel of 64 output columns is decoded into a scratch that stays in the caches and
//! multiplied with all rows by a dense kernel; with one row, decoding and product are fused in registers.
//! Both give every output element one accumulator that takes the weights in the order of `k`, so a row has the same
//! bits in any batch, on any number of threads.
//!
//! Where there are instructions for products of bf16 pairs, and always in 8 bits, activations are multiplied with the
//! codes of quantised weights and the scales are applied to sums over blocks (`blocks.rs`); elsewhere every weight is
//! computed, rounded to bf16 if that is the dtype, and multiplied (`kernel.rs`).
//!
//! With [`Dtype::Int8`] the activations are quantised too, row by row and 32 at a time. Quantised weights keep the codes
//! and scales of their file, so nothing is lost and nothing grows; float weights are brought into the blocks of Q8_0
//! (8.5 bits a weight).

mod blocks;
mod isa;
mod kernel;
mod lanes;
mod pack;
#[cfg(target_arch = "x86_64")]
mod pairs;
mod product;
mod quads;
mod scheme;
mod source;
mod store;

use std::ops::Range;

use self::isa::{Functions, Storage, Words};
use self::pack::Layout;
use self::scheme::PANEL;
use self::store::Store;
use super::{SimdLevel, Threads};
use crate::{Dtype, Error, Result, WeightFormat, WeightView};

/// One part of a packed weight: rows of one format.
struct Segment {
    layout: Layout,
    functions: Functions,
    /// First row of the part in the whole.
    first: usize,
    /// Rows of the part.
    rows: usize,
    panel_bytes: usize,
    data: Store,
}

impl Segment {
    fn panel(&self, panel: usize) -> &[u8] {
        &self.data.bytes()[panel * self.panel_bytes..(panel + 1) * self.panel_bytes]
    }
}

/// A weight matrix `[rows, cols]` (output features, input features) in the layout that [`linear`] reads.
pub struct PackedWeight {
    rows: usize,
    cols: usize,
    /// How activations are converted.
    words: Words,
    segments: Vec<Segment>,
}

/// Bytes that a weight of these parts, `(format, rows)` each, occupies once it is packed.
pub fn packed_bytes(parts: &[(WeightFormat, usize)], cols: usize, dtype: Dtype, level: SimdLevel) -> usize {
    let step = isa::words(level, dtype).step;
    let bytes = |(format, rows): &(WeightFormat, usize)| {
        Layout::new(*format, dtype, step).panel_bytes(cols).saturating_mul(rows.div_ceil(PANEL))
    };
    parts.iter().map(bytes).sum()
}

impl PackedWeight {
    /// Packs matrices that share their input, stacked along the rows, for the kernels of `level`.
    ///
    /// Parts may differ in format. They are spread over `threads`.
    ///
    /// # Errors
    /// [`Error::Shape`] when there is no part, or the parts differ in their number of columns;
    /// [`Error::Unsupported`] when this machine cannot run `level`, or for f16.
    pub fn pack(parts: &[WeightView<'_>], dtype: Dtype, level: SimdLevel, threads: &Threads) -> Result<Self> {
        if !level.is_supported() {
            return Err(Error::Unsupported(format!("this CPU cannot run the {} kernels", level.name())));
        }
        if dtype == Dtype::F16 {
            return Err(Error::Unsupported("the CPU backend computes in f32, bf16 or int8, not in f16".into()));
        }
        let Some(cols) = parts.first().map(|p| p.cols) else {
            return Err(Error::Shape { what: "packed weight", found: "0 parts".into(), wanted: "1 or more".into() });
        };
        let words = isa::words(level, dtype);
        let mut segments = Vec::with_capacity(parts.len());
        let mut rows = 0;
        for part in parts {
            // The fields of a view are public: check again what the kernels rely on.
            let part = WeightView::new(part.data, part.format, part.rows, part.cols)?;
            if part.cols != cols {
                return Err(Error::Shape {
                    what: "packed weight: part",
                    found: format!("[{}, {}]", part.rows, part.cols),
                    wanted: format!("[_, {cols}]"),
                });
            }
            let layout = Layout::new(part.format, dtype, words.step);
            let storage = match layout {
                Layout::F32 | Layout::Bf16Pairs => Storage::Steps,
                Layout::Half { bf16: true } => Storage::Bf16,
                Layout::Half { bf16: false } => Storage::F16,
                Layout::Quantized { format, .. } => Storage::Quantized(format),
            };
            segments.push(Segment {
                layout,
                functions: isa::select(level, dtype, storage),
                first: rows,
                rows: part.rows,
                panel_bytes: layout.panel_bytes(cols),
                data: layout.pack(&part, threads)?,
            });
            rows += part.rows;
        }
        Ok(Self { rows, cols, words, segments })
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
        self.segments.iter().map(|s| s.data.bytes().len()).sum()
    }

    /// Writes the weights of row `row`, exactly dequantised, to `out`. `out: [cols]`
    ///
    /// Float weights come back as they are kept: those packed for bf16 products in bf16, those packed for 8-bit
    /// products in the blocks of Q8_0.
    ///
    /// # Panics
    /// If `row` is not below [`Self::rows`] or `out` does not have [`Self::cols`] elements.
    pub fn row_f32(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.cols, "row {row} of {} into {} elements", self.rows, out.len());
        // Segments are in order of their first row; the last that starts at or before `row` has it.
        let segment = &self.segments[self.segments.partition_point(|s| s.first <= row) - 1];
        let row = row - segment.first;
        segment.layout.row(segment.panel(row / PANEL), row % PANEL, out);
    }
}

/// `out[r * out_stride + c - cols.start] = x[r] · w[c] (+ bias[c])` for the output features `c` in `cols`;
/// with `accumulate` the result is added to what `out` holds.
///
/// `x: [m, w.cols()]`, `bias: [w.rows()]`. The bits of a row depend on that row, the weights and the dtype only:
/// not on `m`, the position of the row, `cols` or the number of threads. Ranges that start and end at multiples of
/// 64 within every stacked part are fastest.
///
/// # Errors
/// [`Error::Shape`] when an operand does not have the shape above; [`Error::Index`] when `cols` exceeds the rows
/// of `w`.
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
    threads: &Threads,
) -> Result<()> {
    if cols.start > cols.end || cols.end > w.rows {
        return Err(Error::Index { what: "linear: output columns", index: cols.end, len: w.rows + 1 });
    }
    let shape = |what, found: usize, wanted: String| Err(Error::Shape { what, found: format!("[{found}]"), wanted });
    if m.checked_mul(w.cols) != Some(x.len()) {
        return shape("linear: input", x.len(), format!("[{m}, {}]", w.cols));
    }
    if let Some(bias) = bias.filter(|b| b.len() != w.rows) {
        return shape("linear: bias", bias.len(), format!("[{}]", w.rows));
    }
    if m == 0 || cols.is_empty() {
        return Ok(());
    }
    let needed = (m - 1).checked_mul(out_stride).and_then(|n| n.checked_add(cols.len()));
    if out_stride < cols.len() || needed.is_none_or(|n| out.len() < n) {
        return shape("linear: output", out.len(), format!("[{m}, {}] with stride {out_stride}", cols.len()));
    }
    product::run(x, m, w, cols, bias, accumulate, out, out_stride, threads);
    Ok(())
}
