//! What products of [`Dtype::Int8`] are computed from: activations in 8 bits, and float weights too.

use half::f16;

use super::dequant::dequantize;
use crate::{Dtype, WeightView};

/// Consecutive elements of a row that share one scale.
pub const BLOCK: usize = 32;

/// Activations are integers of `-127..=127` times the scale of their block, which is its largest magnitude over 127:
/// `scale * round(x * (127 / largest))`, ties to even, all but the last product in `f32`. `x` is one row.
///
/// No element is off by more than half a scale. Magnitudes below 1e-35 count as nothing.
pub fn activations(x: &[f32]) -> Vec<f64> {
    let block = |x: &[f32]| {
        let largest = x.iter().fold(0.0_f32, |a, x| a.max(x.abs()));
        let value = move |x: &f32| match largest {
            1e-35.. => f64::from((x * (127.0 / largest)).round_ties_even()) * f64::from(largest / 127.0),
            _ => 0.0,
        };
        x.iter().map(value).collect::<Vec<_>>()
    };
    x.chunks(BLOCK).flat_map(block).collect()
}

/// Weights in a quantised format are what they are. Float weights become integers of `-127..=127` times a scale per
/// block of a row: the smallest `f16` that is no less than its largest magnitude over 127. `[rows, cols]`
pub fn weights(view: &WeightView<'_>) -> Vec<f32> {
    let exact = dequantize(view);
    if view.format.is_quantized() {
        return exact;
    }
    let block = |w: &[f32]| {
        let wanted = w.iter().fold(0.0_f32, |a, w| a.max(w.abs())) / 127.0;
        // Positive `f16` are in the order of their bits.
        let scale = (0..0x7c00).map(|bits| f16::from_bits(bits).to_f32());
        let first = (f16::from_f32(wanted).to_bits().saturating_sub(1)) as usize;
        let scale = scale.skip(first).find(|scale| *scale >= wanted).unwrap_or(f16::MAX.to_f32());
        let code = move |w: &f32| if scale > 0.0 { (w / scale).round_ties_even().clamp(-127.0, 127.0) } else { 0.0 };
        w.iter().map(|w| code(w) * scale).collect::<Vec<_>>()
    };
    exact.chunks(view.cols.max(1)).flat_map(|row| row.chunks(BLOCK).flat_map(block)).collect()
}

/// What the activations of one row become in products of `dtype`.
pub fn rounded_row(x: &[f32], dtype: Dtype) -> Vec<f64> {
    match dtype {
        Dtype::Int8 => activations(x),
        Dtype::F32 | Dtype::Bf16 | Dtype::F16 => x.iter().map(|x| crate::ops::rounded(*x, dtype)).collect(),
    }
}
