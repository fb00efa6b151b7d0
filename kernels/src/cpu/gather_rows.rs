//! Rows of a matrix by index.

use crate::{Error, Result};

/// `out[i] = x[rows[i]]`. `x: [_, cols]`, `out: [rows.len(), cols]`
pub(super) fn gather_rows(x: &[f32], cols: usize, rows: &[u32], out: &mut [f32]) -> Result<()> {
    let len = x.len() / cols.max(1);
    for (row, out) in rows.iter().zip(out.chunks_exact_mut(cols.max(1))) {
        let row = *row as usize;
        if row >= len {
            return Err(Error::Index { what: "gather_rows: row", index: row, len });
        }
        out.copy_from_slice(&x[row * cols..][..cols]);
    }
    Ok(())
}
