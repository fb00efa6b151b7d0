//! Linear layers. Floor, tiles and epilogues: `src/compute_80/gemm.cu`.

use super::{
    CudaBackend, CudaTensor, CudaWeight, arch,
    device::{Arg, DevicePtr, Launch},
    expect, expect_storage, modules,
};
use crate::{Epilogue, Error, Result, Storage};

/// `Epilogue` of `gemm.cu`.
#[derive(Clone, Copy)]
enum Store {
    Plain(Epilogue),
    /// Pairs of columns are a gate and its up projection.
    SiluMul,
    /// `f32` output.
    Float,
}

impl Store {
    const fn code(self) -> u32 {
        match self {
            Self::Plain(Epilogue::Store) => 0,
            Self::Plain(Epilogue::Accumulate) => 1,
            Self::Plain(Epilogue::Relu) => 2,
            Self::Plain(Epilogue::Gelu) => 3,
            Self::SiluMul => 4,
            Self::Float => 5,
        }
    }

    /// Whether the output is `f32`.
    const fn is_float(self) -> bool {
        matches!(self, Self::Float | Self::Plain(Epilogue::Accumulate))
    }
}

impl CudaBackend {
    /// As [`crate::Backend::linear`].
    pub(super) fn launch_linear(
        &self,
        x: &CudaTensor,
        w: &CudaWeight,
        bias: Option<&CudaTensor>,
        epilogue: Epilogue,
        out: &mut CudaTensor,
    ) -> Result<()> {
        self.check_input("linear: input", x, w)?;
        expect("linear: output", out.shape(), (x.rows, w.rows()))?;
        if let Some(bias) = bias {
            expect("linear: bias", bias.shape(), (1, w.rows()))?;
            expect_storage("linear: bias", bias, self.storage)?;
        }
        let store = match (epilogue, out.storage()) {
            (Epilogue::Store, Storage::F32) => Store::Float,
            _ => Store::Plain(epilogue),
        };
        expect_storage("linear: output", out, if store.is_float() { Storage::F32 } else { self.storage })?;
        self.gemm((x.ptr(), x.rows, x.stride()), w, bias, store, out)
    }

    /// As [`crate::Backend::linear_silu_mul`].
    pub(super) fn launch_linear_silu_mul(&self, x: &CudaTensor, w: &CudaWeight, out: &mut CudaTensor) -> Result<()> {
        self.check_input("linear_silu_mul: input", x, w)?;
        if !w.is_gated() {
            let found = "rows of one matrix".into();
            return Err(Error::Shape { what: "linear_silu_mul: weight", found, wanted: "a gated weight".into() });
        }
        expect("linear_silu_mul: output", out.shape(), (x.rows, w.rows() / 2))?;
        expect_storage("linear_silu_mul: output", out, self.storage)?;
        self.gemm((x.ptr(), x.rows, x.stride()), w, None, Store::SiluMul, out)
    }

    /// Room for `f32` products of `rows` rows with a weight of `cols` rows.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn logits(&self, rows: usize, cols: usize) -> Result<CudaTensor> {
        CudaTensor::scratch(&self.scratch, "logits", Storage::F32, rows, cols)
    }

    /// `f32` products of `rows` rows of `x` from `first` on with `w`. `out: [rows, w.rows()]`, `f32`.
    ///
    /// # Errors
    /// [`Error::Shape`]; whatever the device refuses.
    pub fn launch_logits(
        &self,
        x: &CudaTensor,
        first: usize,
        rows: usize,
        w: &CudaWeight,
        out: &mut CudaTensor,
    ) -> Result<()> {
        self.check_input("logits: input", x, w)?;
        if first.checked_add(rows).is_none_or(|end| end > x.rows) {
            return Err(Error::Index { what: "logits: row", index: first.saturating_add(rows), len: x.rows });
        }
        expect("logits: output", out.shape(), (rows, w.rows()))?;
        expect_storage("logits: output", out, Storage::F32)?;
        let start = x.ptr() + (first * x.stride() * x.storage().bytes()) as u64;
        self.gemm((start, rows, x.stride()), w, None, Store::Float, out)
    }

    /// Refuses an input that `w` does not take.
    pub(super) fn check_input(&self, what: &'static str, x: &CudaTensor, w: &CudaWeight) -> Result<()> {
        expect(what, x.shape(), (x.rows, w.cols()))?;
        expect_storage(what, x, self.storage)
    }

    fn gemm(
        &self,
        (x, rows, x_stride): (DevicePtr, usize, usize),
        w: &CudaWeight,
        bias: Option<&CudaTensor>,
        store: Store,
        out: &mut CudaTensor,
    ) -> Result<()> {
        if rows == 0 || w.rows() == 0 {
            return Ok(());
        }
        let tile = arch::compute_80::gemm(rows, w.rows());
        let bias = bias.map_or(0, CudaTensor::ptr);
        let pointers = [x, w.ptr(), bias, out.ptr()].map(Arg::Ptr);
        let sizes = [rows, w.rows(), w.cols(), x_stride, w.stride(), out.stride()].map(|n| Arg::U32(n as u32));
        self.device().launch(&Launch {
            module: &modules::GEMM,
            kernel: &self.kernel_name(&format!("gemm_{}", tile.name)),
            grid: [tile.blocks(rows, w.rows()) as u32, 1, 1],
            block: [tile.threads, 1, 1],
            shared_bytes: tile.shared_bytes,
            args: &[&pointers[..], &sizes, &[Arg::U32(store.code())]].concat(),
        })
    }
}
