//! The registry's row of the linear layer; its reference is [`super::gemm::linear`].

use super::{dequant::dequantize, int8};
use crate::{
    Backend, Dtype, Epilogue, Result, WeightFormat, WeightView,
    ops::{Cost, Op, Rng, Shape, Trial, Unit, matrix_of, stored_bytes, subset, worse},
};

/// The registry's row: with bias, accumulating.
pub fn op<B: Backend>() -> Op<B> {
    Op {
        name: "linear",
        model_shapes: |w| {
            let m = w.model;
            let layers = [
                (m.hidden, m.heads.qkv_cols()),
                (m.heads.q_cols(), m.hidden),
                (m.hidden, 2 * m.intermediate),
                (m.intermediate, m.hidden),
            ];
            layers.into_iter().flat_map(|(inner, cols)| w.products(w.rows, inner, cols)).collect()
        },
        random_shape: |rng| {
            let format = rng.pick(&WeightFormat::ALL);
            let blocks = 1 + rng.below(if format.block_len() == 256 { 2 } else { 6 });
            let inner = if format.is_quantized() { format.block_len() * blocks } else { 1 + rng.below(200) };
            Shape::Matrix { rows: rng.below(30), inner, cols: 1 + rng.below(200), format }
        },
        streams: true,
        cost: |shape, dtype, storage| {
            let (rows, inner, cols, format) = matrix_of(shape);
            let activations = (rows * (inner + 2 * cols) * storage.bytes()) as f64;
            let bytes = (inner * cols) as f64 * stored_bytes(format, dtype, storage) + activations;
            Cost { bytes, flops: 2.0 * (rows * inner * cols) as f64, unit: Unit::of_products(dtype) }
        },
        tolerance: |shape, dtype| match (dtype, matrix_of(shape).3) {
            (Dtype::F32 | Dtype::Int8, _) => 2e-6,
            // What is stored as bf16 is multiplied exactly; anything else may first be rounded to bf16 (half an ulp, 2^-8).
            (_, WeightFormat::Bf16) => 2e-6,
            _ => 4e-3,
        },
        trial: |backend, shape, seed, copies| {
            let (rows, inner, cols, format) = matrix_of(shape);
            let mut rng = Rng(seed);
            let bytes = rng.weight(format, cols, inner, 1.0);
            let w = (0..copies).map(|_| backend.weight(&[WeightView::new(&bytes, format, cols, inner)?]));
            let w = w.collect::<Result<_>>()?;
            let x = rng.stored(backend, rows * inner, 1.0);
            let bias = rng.stored(backend, cols, 1.0);
            let device_x = backend.upload(&x, rows, inner)?;
            let device_bias = backend.upload(&bias, 1, cols)?;
            let out = backend.upload(&vec![0.5; rows * cols], rows, cols)?;
            let shape = (rows, inner, cols, format);
            Ok(Box::new(Linear { backend, shape, bytes, x, bias, device_x, device_bias, w, out }))
        },
    }
}

struct Linear<'a, B: Backend> {
    backend: &'a B,
    shape: (usize, usize, usize, WeightFormat),
    bytes: Vec<u8>,
    x: Vec<f32>,
    bias: Vec<f32>,
    device_x: B::Tensor,
    device_bias: B::Tensor,
    w: Vec<B::Weight>,
    out: B::Tensor,
}

impl<B: Backend> Trial for Linear<'_, B> {
    fn run(&mut self, copy: usize) -> Result<()> {
        self.backend.linear(&self.device_x, &self.w[copy], Some(&self.device_bias), Epilogue::Accumulate, &mut self.out)
    }

    fn error(&mut self) -> Result<f64> {
        let (rows, inner, cols, format) = self.shape;
        let dtype = self.backend.info().dtype;
        let before = self.backend.download(&self.out)?;
        self.run(0)?;
        let got = self.backend.download(&self.out)?;
        let mut error = 0.0;
        let view = WeightView::new(&self.bytes, format, cols, inner)?;
        let x: Vec<_> =
            subset(rows, 32).map(|row| (row, int8::rounded_row(&self.x[row * inner..][..inner], dtype))).collect();
        for col in subset(cols, 256) {
            let view = WeightView { data: view.row(col), rows: 1, ..view };
            let w = if dtype == Dtype::Int8 { int8::weights(&view) } else { dequantize(&view) };
            for (row, x) in &x {
                let (mut want, mut magnitude) = (0.0, 0.0);
                for (x, w) in x.iter().zip(&w) {
                    let product = x * f64::from(*w);
                    want += product;
                    magnitude += product.abs();
                }
                for term in [self.bias[col], before[row * cols + col]] {
                    want += f64::from(term);
                    magnitude += f64::from(term.abs());
                }
                error = worse((f64::from(got[row * cols + col]) - want).abs() / magnitude, error);
            }
        }
        Ok(error)
    }
}
