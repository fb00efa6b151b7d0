//! Token embeddings: dequantised rows of the table.

use super::linear::PackedWeight;
use crate::{Error, Result};

/// `out[i] = table[ids[i]]`. `out: [ids.len(), table.cols()]`
pub(super) fn embedding(table: &PackedWeight, ids: &[u32], out: &mut [f32]) -> Result<()> {
    if let Some(id) = ids.iter().find(|id| **id as usize >= table.rows()) {
        return Err(Error::Index { what: "embedding: token id", index: *id as usize, len: table.rows() });
    }
    for (id, out) in ids.iter().zip(out.chunks_exact_mut(table.cols().max(1))) {
        table.row_f32(*id as usize, out);
    }
    Ok(())
}
