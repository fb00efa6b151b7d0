//! Addition to the residual stream. Floor and shape: `src/compute_80/add.cu`.

use super::{CudaBackend, CudaTensor, device::Arg, launch::CHUNK, modules};
use crate::{Result, backend::parts};

impl CudaBackend {
    /// `residual += x[0] + x[1] + ...`
    pub(super) fn launch_add(&self, x: &CudaTensor, residual: &mut CudaTensor) -> Result<()> {
        let parts = parts(residual.shape(), x.shape())?;
        let sizes = [residual.rows, x.cols, x.stride(), parts].map(|n| Arg::U32(n as u32));
        let args = [&[Arg::Ptr(x.ptr()), Arg::Ptr(residual.ptr())][..], &sizes].concat();
        let per_row = x.cols.div_ceil(CHUNK);
        self.launch_pieces(&modules::ADD, &self.kernel_name("add"), residual.rows, per_row, &args)
    }
}
