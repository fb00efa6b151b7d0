//! Addition to the residual stream. Floor and shape: `src/compute_80/add.cu`.

use super::{CudaBackend, CudaTensor, device::Arg, expect_storage, launch::QUAD, modules};
use crate::{Result, Storage, backend::parts};

impl CudaBackend {
    /// `residual += x[0] + x[1] + ...`
    pub(super) fn launch_add(&self, x: &CudaTensor, residual: &mut CudaTensor) -> Result<()> {
        let parts = parts(residual.shape(), x.shape())?;
        expect_storage("add: input", x, self.storage)?;
        expect_storage("add: residual", residual, Storage::F32)?;
        let sizes = [residual.rows, x.cols, x.stride(), parts].map(|n| Arg::U32(n as u32));
        let args = [&[Arg::Ptr(x.ptr()), Arg::Ptr(residual.ptr())][..], &sizes].concat();
        let per_row = x.cols.div_ceil(QUAD);
        self.launch_pieces(&modules::ADD, &self.kernel_name("add"), residual.rows, per_row, &args)
    }
}
