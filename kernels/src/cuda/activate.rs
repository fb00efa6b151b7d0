//! Activations, gated and not. Floors and shapes: `src/compute_80/{silu_mul,activate}.cu`.

use super::{CudaBackend, CudaTensor, device::Arg, expect, expect_storage, launch::CHUNK, modules};
use crate::{Activation, Result};

impl CudaBackend {
    /// `out = silu(gate) * up` where a row of `gate_up` is `[gate | up]`
    pub(super) fn launch_silu_mul(&self, gate_up: &CudaTensor, out: &mut CudaTensor) -> Result<()> {
        expect("silu_mul: input", gate_up.shape(), (out.rows, 2 * out.cols))?;
        expect_storage("silu_mul: input", gate_up, self.storage)?;
        expect_storage("silu_mul: output", out, self.storage)?;
        let sizes = [out.rows, out.cols, gate_up.stride(), out.stride()].map(|n| Arg::U32(n as u32));
        let args = [&[Arg::Ptr(gate_up.ptr()), Arg::Ptr(out.ptr())][..], &sizes].concat();
        let per_row = out.cols.div_ceil(CHUNK);
        self.launch_pieces(&modules::SILU_MUL, &self.kernel_name("silu_mul"), out.rows, per_row, &args)
    }

    /// `out = activation(x)`
    pub(super) fn launch_activate(&self, activation: Activation, x: &CudaTensor, out: &mut CudaTensor) -> Result<()> {
        expect("activate: output", out.shape(), x.shape())?;
        expect_storage("activate: input", x, self.storage)?;
        expect_storage("activate: output", out, self.storage)?;
        let sizes = [x.rows, x.cols, x.stride()].map(|n| Arg::U32(n as u32));
        let args = [&[Arg::Ptr(x.ptr()), Arg::Ptr(out.ptr())][..], &sizes].concat();
        let per_row = x.cols.div_ceil(CHUNK);
        self.launch_pieces(&modules::ACTIVATE, &self.kernel_name(activation.name()), x.rows, per_row, &args)
    }
}
