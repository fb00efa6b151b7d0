//! Tables of rotary angles: computed once on the host, the same for every backend.

use crate::{Error, Result, RotarySegment};

/// Rows `[cos | sin]` of all positions of all segments, in order, and how many rows and columns those are. The angle is an
/// `f32` product, as in HF transformers.
///
/// # Errors
/// [`Error::Shape`] when segments differ in their number of frequencies.
pub(crate) fn table(segments: &[RotarySegment<'_>]) -> Result<(Vec<f32>, usize, usize)> {
    let half = segments.first().map_or(0, |segment| segment.inv_freq.len());
    let rows = segments.iter().map(|segment| segment.positions.len()).sum();
    let mut out = Vec::with_capacity(rows * 2 * half);
    for RotarySegment { inv_freq, factor, positions } in segments {
        if inv_freq.len() != half {
            let (found, wanted) = (format!("{} frequencies", inv_freq.len()), format!("{half}"));
            return Err(Error::Shape { what: "rotary_table: segment", found, wanted });
        }
        for position in positions.clone() {
            let angles = || inv_freq.iter().map(|inv_freq| position as f32 * inv_freq);
            out.extend(angles().map(|angle| angle.cos() * factor));
            out.extend(angles().map(|angle| angle.sin() * factor));
        }
    }
    Ok((out, rows, 2 * half))
}
