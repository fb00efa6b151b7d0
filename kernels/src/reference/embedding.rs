//! Token embeddings: rows of the table, dequantised.

use super::{dequant::dequantize, int8};
use crate::{
    Backend, Dtype, Result, WeightFormat, WeightView,
    ops::{Cost, Op, Rng, Shape, Trial, Unit, matrix_of, poisoned, stored_bytes, worse},
};

/// The registry's row; `inner` is the width of an embedding.
pub fn op<B: Backend>() -> Op<B> {
    Op {
        name: "embedding",
        model_shapes: |w| w.products(w.rows, w.model.hidden, 8192).collect(),
        random_shape: |rng| {
            let format = rng.pick(&WeightFormat::ALL);
            let inner = format.block_len() * (1 + rng.below(3)) * if format.is_quantized() { 1 } else { 16 };
            Shape::Matrix { rows: rng.below(20), inner, cols: 1 + rng.below(100), format }
        },
        streams: false,
        cost: |shape, dtype, storage| {
            let (rows, inner, _, format) = matrix_of(shape);
            let bytes = stored_bytes(format, dtype, storage) + storage.bytes() as f64;
            Cost { bytes: (rows * inner) as f64 * bytes, flops: 0.0, unit: Unit::F32 }
        },
        // A backend may keep the table in its compute type, and does so for 8-bit products.
        tolerance: |_, dtype| if dtype == Dtype::Bf16 { 1.0 / 256.0 } else { 1e-6 },
        trial: |backend, shape, seed, _| {
            let (rows, inner, cols, format) = matrix_of(shape);
            let mut rng = Rng(seed);
            let bytes = rng.weight(format, cols, inner, 1.0);
            let view = WeightView::new(&bytes, format, cols, inner)?;
            let table = backend.weight(&[view])?;
            let ids = (0..rows).map(|_| rng.below(cols) as u32).collect();
            let out = poisoned(backend, rows, inner)?;
            let host = if backend.info().dtype == Dtype::Int8 { int8::weights(&view) } else { dequantize(&view) };
            Ok(Box::new(Embedding { backend, host, inner, ids, table, out }))
        },
    }
}

struct Embedding<'a, B: Backend> {
    backend: &'a B,
    host: Vec<f32>,
    inner: usize,
    ids: Vec<u32>,
    table: B::Weight,
    out: B::Tensor,
}

impl<B: Backend> Trial for Embedding<'_, B> {
    fn run(&mut self, _: usize) -> Result<()> {
        self.backend.embedding(&self.table, &self.ids, &mut self.out)
    }

    fn error(&mut self) -> Result<f64> {
        self.run(0)?;
        let got = self.backend.download(&self.out)?;
        let mut error = 0.0;
        for (id, got) in self.ids.iter().zip(got.chunks_exact(self.inner)) {
            for (got, want) in got.iter().zip(&self.host[*id as usize * self.inner..]) {
                let difference = f64::from(*got) - f64::from(*want);
                error = worse(difference.abs() / f64::from(want.abs()).max(1e-3), error);
            }
        }
        Ok(error)
    }
}
