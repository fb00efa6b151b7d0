//! RMSNorm, alone and after an addition to the residual stream. Floor and shape: `src/compute_80/rms_norm.cu`.

use super::{CudaBackend, CudaTensor, device::Arg, expect, expect_storage, modules};
use crate::{Result, Storage};

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
        expect_storage("rms_norm: input", x, Storage::F32)?;
        expect_storage("rms_norm: weight", weight, self.storage)?;
        expect_storage("rms_norm: output", out, self.storage)?;
        let [x_ptr, weight, out] = [x.ptr(), weight.ptr(), out.ptr()].map(Arg::Ptr);
        let (cols, stride) = (Arg::U32(x.cols as u32), Arg::U32(x.stride() as u32));
        let args = [x_ptr, weight, out, cols, stride, Arg::F32(eps)];
        self.launch_blocks(&modules::RMS_NORM, &self.kernel_name("rms_norm"), x.rows, THREADS, &args)
    }

    /// `residual += x; out = rms_norm(residual)`
    pub(super) fn launch_add_rms_norm(
        &self,
        x: &CudaTensor,
        residual: &mut CudaTensor,
        weight: &CudaTensor,
        eps: f32,
        out: &mut CudaTensor,
    ) -> Result<()> {
        expect("add_rms_norm: weight", weight.shape(), (1, x.cols))?;
        expect("add_rms_norm: residual", residual.shape(), x.shape())?;
        expect("add_rms_norm: output", out.shape(), x.shape())?;
        expect_storage("add_rms_norm: input", x, self.storage)?;
        expect_storage("add_rms_norm: residual", residual, Storage::F32)?;
        expect_storage("add_rms_norm: weight", weight, self.storage)?;
        expect_storage("add_rms_norm: output", out, self.storage)?;
        let [x_ptr, residual, weight, out] = [x.ptr(), residual.ptr(), weight.ptr(), out.ptr()].map(Arg::Ptr);
        let (cols, stride) = (Arg::U32(x.cols as u32), Arg::U32(x.stride() as u32));
        let args = [x_ptr, residual, weight, out, cols, stride, Arg::F32(eps)];
        self.launch_blocks(&modules::RMS_NORM, &self.kernel_name("add_rms_norm"), x.rows, THREADS, &args)
    }
}
