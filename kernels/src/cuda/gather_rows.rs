//! Rows of a matrix by index, and of the token table. Floor and shape: `src/compute_80/gather_rows.cu`.

use super::{
    CudaBackend, CudaTensor, CudaWeight,
    device::{Arg, DevicePtr},
    expect,
    launch::CHUNK,
    modules,
};
use crate::{Error, Result};

/// Refuses an index outside `0..len`.
fn check(what: &'static str, indices: &[u32], len: usize) -> Result<()> {
    match indices.iter().find(|index| **index as usize >= len) {
        Some(index) => Err(Error::Index { what, index: *index as usize, len }),
        None => Ok(()),
    }
}

impl CudaBackend {
    /// `out[r] = table[ids[r]]`
    pub(super) fn launch_embedding(&self, table: &CudaWeight, ids: &[u32], out: &mut CudaTensor) -> Result<()> {
        if table.is_gated() {
            let (found, wanted) = ("a gated weight".into(), "a token table".into());
            return Err(Error::Shape { what: "embedding: table", found, wanted });
        }
        expect("embedding: output", out.shape(), (ids.len(), table.cols()))?;
        check("embedding: token id", ids, table.rows())?;
        self.gather(table.ptr(), table.stride(), ids, out)
    }

    /// `out[i] = x[rows[i]]`
    pub(super) fn launch_gather_rows(&self, x: &CudaTensor, rows: &[u32], out: &mut CudaTensor) -> Result<()> {
        expect("gather_rows: output", out.shape(), (rows.len(), x.cols))?;
        check("gather_rows: row", rows, x.rows)?;
        self.gather(x.ptr(), x.stride(), rows, out)
    }

    /// Both matrices have rows `stride` elements apart.
    fn gather(&self, from: DevicePtr, stride: usize, indices: &[u32], out: &mut CudaTensor) -> Result<()> {
        expect("gather_rows: padded output", (out.rows, out.stride()), (indices.len(), stride))?;
        let on_device = self.indices(indices)?;
        let [from, on_device_ptr, to] = [from, on_device.ptr(), out.ptr()].map(Arg::Ptr);
        let sizes = [out.rows, out.cols, stride].map(|n| Arg::U32(n as u32));
        let args = [&[from, on_device_ptr, to][..], &sizes].concat();
        self.launch_pieces(&modules::GATHER_ROWS, "gather_rows", out.rows, out.cols.div_ceil(CHUNK), &args)
    }
}
