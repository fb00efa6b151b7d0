//! LayerNorm. Floor and shape: `src/compute_80/layer_norm.cu`.

use super::{CudaBackend, CudaTensor, device::Arg, expect, expect_storage, modules};
use crate::{Result, Storage};

/// Threads of a block, one block a row.
const THREADS: u32 = 256;

impl CudaBackend {
    /// `out = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias`
    pub(super) fn launch_layer_norm(
        &self,
        x: &CudaTensor,
        weight: &CudaTensor,
        bias: Option<&CudaTensor>,
        eps: f32,
        out: &mut CudaTensor,
    ) -> Result<()> {
        expect("layer_norm: weight", weight.shape(), (1, x.cols))?;
        if let Some(bias) = bias {
            expect("layer_norm: bias", bias.shape(), (1, x.cols))?;
            expect_storage("layer_norm: bias", bias, self.storage)?;
        }
        expect("layer_norm: output", out.shape(), x.shape())?;
        expect_storage("layer_norm: input", x, Storage::F32)?;
        expect_storage("layer_norm: weight", weight, self.storage)?;
        expect_storage("layer_norm: output", out, self.storage)?;
        let bias = bias.map_or(0, CudaTensor::ptr);
        let [x_ptr, weight, bias, out] = [x.ptr(), weight.ptr(), bias, out.ptr()].map(Arg::Ptr);
        let (cols, stride) = (Arg::U32(x.cols as u32), Arg::U32(x.stride() as u32));
        let args = [x_ptr, weight, bias, out, cols, stride, Arg::F32(eps)];
        self.launch_blocks(&modules::LAYER_NORM, &self.kernel_name("layer_norm"), x.rows, THREADS, &args)
    }
}
