//! Rows of a matrix by index, and of the token table. Floor and shape: `src/compute_80/gather_rows.cu`.

use super::{
    CudaAnswers, CudaBackend, CudaTensor, CudaWeight,
    device::{Arg, DevicePtr},
    expect, expect_storage,
    launch::CHUNK,
    modules, sampled_ids,
};
use crate::{Error, Result};

/// Refuses an index outside `0..len`.
fn check(what: &'static str, mut indices: impl Iterator<Item = u32>, len: usize) -> Result<()> {
    match indices.find(|index| *index as usize >= len) {
        Some(index) => Err(Error::Index { what, index: index as usize, len }),
        None => Ok(()),
    }
}

impl CudaBackend {
    /// `out[r] = table[ids[r]]`
    pub(super) fn launch_embedding(&self, table: &CudaWeight, ids: &[u32], out: &mut CudaTensor) -> Result<()> {
        expect_storage("embedding: output", out, self.storage)?;
        check_embedding(table, ids.iter().copied(), ids.len(), out)?;
        let ids = self.indices(ids)?;
        self.gather(table.ptr(), table.stride(), ids.ptr(), out)
    }

    /// `out[r] = table[ids[r]]`, where ids may be [stand-ins](sampled_ids::stand_ins) of what `answers` sample.
    pub(super) fn launch_embedding_after(
        &self,
        answers: &CudaAnswers,
        table: &CudaWeight,
        ids: &[u32],
        out: &mut CudaTensor,
    ) -> Result<()> {
        expect_storage("embedding: output", out, self.storage)?;
        check_embedding(table, sampled_ids::known(ids), ids.len(), out)?;
        let ids = self.resolve_ids(answers, ids, table.rows())?;
        self.gather(table.ptr(), table.stride(), ids.ptr(), out)
    }

    /// `out[i] = x[rows[i]]`
    pub(super) fn launch_gather_rows(&self, x: &CudaTensor, rows: &[u32], out: &mut CudaTensor) -> Result<()> {
        expect("gather_rows: output", out.shape(), (rows.len(), x.cols))?;
        check("gather_rows: row", rows.iter().copied(), x.rows)?;
        expect("gather_rows: padded output", (out.rows, out.stride()), (rows.len(), x.stride()))?;
        let rows = self.indices(rows)?;
        expect_storage("gather_rows: output", out, x.storage())?;
        self.gather(x.ptr(), x.stride(), rows.ptr(), out)
    }

    /// Both matrices have rows `stride` elements apart; `indices`, one for each row of `out`, stand on the device.
    fn gather(&self, from: DevicePtr, stride: usize, indices: DevicePtr, out: &mut CudaTensor) -> Result<()> {
        let pointers = [from, indices, out.ptr()].map(Arg::Ptr);
        // The kernel moves 16 bits at a time.
        let halves = out.storage().bytes() / 2;
        let sizes = [out.rows, halves * out.cols, halves * stride].map(|n| Arg::U32(n as u32));
        let args = [&pointers[..], &sizes].concat();
        self.launch_pieces(&modules::GATHER_ROWS, "gather_rows", out.rows, (halves * out.cols).div_ceil(CHUNK), &args)
    }
}

/// Refuses operands that do not fit together, or ids outside the table.
fn check_embedding(table: &CudaWeight, ids: impl Iterator<Item = u32>, rows: usize, out: &CudaTensor) -> Result<()> {
    if table.is_gated() {
        let (found, wanted) = ("a gated weight".into(), "a token table".into());
        return Err(Error::Shape { what: "embedding: table", found, wanted });
    }
    expect("embedding: output", out.shape(), (rows, table.cols()))?;
    expect("embedding: padded output", (out.rows, out.stride()), (rows, table.stride()))?;
    check("embedding: token id", ids, table.rows())
}
