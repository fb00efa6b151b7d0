//! RMSNorm, alone and after an addition to the residual stream. Floor and shape: `src/compute_80/rms_norm.cu`.

use super::{
    CudaBackend, CudaTensor,
    device::{Arg, Launch},
    expect, modules,
};
use crate::Result;

/// Threads of a block, one block a row.
const THREADS: u32 = 256;

impl CudaBackend {
    /// `out = x / sqrt(mean(x^2) + eps) * weight`
    pub(super) fn launch_rms_norm(
        &self,
        x: &CudaTensor,
        weight: &CudaTensor,
        eps: f32,
        out: &mut CudaTensor,
    ) -> Result<()> {
        expect("rms_norm: weight", weight.shape(), (1, x.cols))?;
        expect("rms_norm: output", out.shape(), x.shape())?;
        let (cols, stride) = (x.cols as u32, x.stride() as u32);
        let args = [x.ptr(), weight.ptr(), out.ptr()].map(Arg::Ptr);
        self.rows_kernel("rms_norm", x.rows, &[&args[..], &[Arg::U32(cols), Arg::U32(stride), Arg::F32(eps)]].concat())
    }

    /// One block of [`THREADS`] per row; nothing for no rows or no columns.
    fn rows_kernel(&self, name: &str, rows: usize, args: &[Arg]) -> Result<()> {
        if rows == 0 {
            return Ok(());
        }
        self.device().launch(&Launch {
            module: &modules::RMS_NORM,
            kernel: &self.kernel_name(name),
            grid: [rows as u32, 1, 1],
            block: [THREADS, 1, 1],
            shared_bytes: 0,
            args,
        })
    }
}
