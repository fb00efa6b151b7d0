//! Addition to the residual stream. Floor and shape: `src/compute_80/add.cu`.

use super::{CudaBackend, CudaTensor, device::Arg, expect, launch::CHUNK, modules};
use crate::Result;

impl CudaBackend {
    /// `residual += x`
    pub(super) fn launch_add(&self, x: &CudaTensor, residual: &mut CudaTensor) -> Result<()> {
        expect("add: residual", residual.shape(), x.shape())?;
        let sizes = [x.rows, x.cols, x.stride()].map(|n| Arg::U32(n as u32));
        let args = [&[Arg::Ptr(x.ptr()), Arg::Ptr(residual.ptr())][..], &sizes].concat();
        let per_row = x.cols.div_ceil(CHUNK);
        self.launch_pieces(&modules::ADD, &self.kernel_name("add"), x.rows, per_row, &args)
    }
}
