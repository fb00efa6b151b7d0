//! Activations to the residual stream and back. Floor and shape: `src/compute_80/convert.cu`.

use super::{CudaBackend, CudaTensor, device::Arg, expect, expect_storage, launch::QUAD, modules};
use crate::{Result, Storage};

impl CudaBackend {
    /// `out = x`
    pub(super) fn launch_convert(&self, x: &CudaTensor, out: &mut CudaTensor) -> Result<()> {
        expect("convert: output", out.shape(), x.shape())?;
        let widens = out.storage() == Storage::F32;
        let (from, to) = if widens { (self.storage, Storage::F32) } else { (Storage::F32, self.storage) };
        expect_storage("convert: input", x, from)?;
        expect_storage("convert: output", out, to)?;
        let sizes = [x.rows, x.cols, x.stride()].map(|n| Arg::U32(n as u32));
        let args = [&[Arg::Ptr(x.ptr()), Arg::Ptr(out.ptr())][..], &sizes].concat();
        let kernel = self.kernel_name(if widens { "widen" } else { "narrow" });
        self.launch_pieces(&modules::CONVERT, &kernel, x.rows, x.cols.div_ceil(QUAD), &args)
    }
}
