//! The registry's row of the linear layer; its reference is [`super::gemm::linear`].

use super::{activate::activate, dequant::dequantize, int8};
use crate::{
    Backend, Dtype, Epilogue, Result, Storage, WeightFormat, WeightView,
    ops::{Cost, Op, Rng, Shape, Trial, Unit, matrix_of, stored_bytes, subset, unrounded, worse},
};

/// The registry's row: with bias; timed accumulating to a residual stream, checked with every epilogue.
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
            let activations = rows * (inner * storage.bytes() + 2 * cols * Storage::F32.bytes());
            let bytes = (inner * cols) as f64 * stored_bytes(format, dtype, storage) + activations as f64;
            Cost { bytes, flops: 2.0 * (rows * inner * cols) as f64, unit: Unit::of_products(dtype) }
        },
        tolerance,
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
            let residual = backend.upload_residual(&vec![0.3; rows * cols], rows, cols)?;
            let shape = (rows, inner, cols, format);
            Ok(Box::new(Linear { backend, shape, bytes, x, bias, device_x, device_bias, w, out, residual }))
        },
    }
}

/// Largest error, relative to the sum of magnitudes.
fn tolerance(shape: &Shape, dtype: Dtype) -> f64 {
    match (dtype, matrix_of(shape).3) {
        (Dtype::F32 | Dtype::Int8, _) => 2e-6,
        // What is stored as bf16 is multiplied exactly; anything else may first be rounded to bf16 (half an ulp, 2^-8).
        (_, WeightFormat::Bf16) => 2e-6,
        _ => 4e-3,
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
    residual: B::Tensor,
}

impl<B: Backend> Trial for Linear<'_, B> {
    fn run(&mut self, copy: usize) -> Result<()> {
        let (bias, epilogue) = (Some(&self.device_bias), Epilogue::Accumulate);
        self.backend.linear(&self.device_x, &self.w[copy], bias, epilogue, &mut self.residual)
    }

    fn error(&mut self) -> Result<f64> {
        let (rows, inner, cols, format) = self.shape;
        let allowed = tolerance(&Shape::Matrix { rows, inner, cols, format }, self.backend.info().dtype);
        let mut error = 0.0;
        for epilogue in [Epilogue::Accumulate, Epilogue::Store] {
            error = worse(unrounded(self.error_of(epilogue, true)?, allowed), error);
        }
        for epilogue in [Epilogue::Store, Epilogue::Relu, Epilogue::Gelu] {
            error = worse(self.error_of(epilogue, false)?, error);
        }
        Ok(error)
    }
}

impl<B: Backend> Linear<'_, B> {
    fn error_of(&mut self, epilogue: Epilogue, to_residual: bool) -> Result<f64> {
        let (rows, inner, cols, format) = self.shape;
        let out = if to_residual { &mut self.residual } else { &mut self.out };
        let before = self.backend.download(out)?;
        self.backend.linear(&self.device_x, &self.w[0], Some(&self.device_bias), epilogue, out)?;
        let got = self.backend.download(out)?;
        let mut error = 0.0;
        let view = WeightView::new(&self.bytes, format, cols, inner)?;
        let x = rounded_rows(self.backend, &self.x, rows, inner);
        for col in subset(cols, 256) {
            let w = rounded_weight(self.backend, &view, col);
            for (row, x) in &x {
                let (mut want, mut magnitude) = dot(x, &w);
                let at = row * cols + col;
                let residual = if epilogue == Epilogue::Accumulate { before[at] } else { 0.0 };
                for term in [self.bias[col], residual] {
                    want += f64::from(term);
                    magnitude += f64::from(term.abs());
                }
                if let Some(activation) = epilogue.activation() {
                    want = activate(activation, want);
                }
                error = worse((f64::from(got[at]) - want).abs() / magnitude, error);
            }
        }
        Ok(error)
    }
}

/// Some rows of `x` as products of `backend` take them, with their indices.
pub(super) fn rounded_rows<B: Backend>(backend: &B, x: &[f32], rows: usize, inner: usize) -> Vec<(usize, Vec<f64>)> {
    let dtype = backend.info().dtype;
    subset(rows, 32).map(|row| (row, int8::rounded_row(&x[row * inner..][..inner], dtype))).collect()
}

/// Row `row` of a weight as products of `backend` take it.
pub(super) fn rounded_weight<B: Backend>(backend: &B, view: &WeightView<'_>, row: usize) -> Vec<f32> {
    let view = WeightView { data: view.row(row), rows: 1, ..*view };
    if backend.info().dtype == Dtype::Int8 { int8::weights(&view) } else { dequantize(&view) }
}

/// `sum of x * w`, and the sum of magnitudes.
pub(super) fn dot(x: &[f64], w: &[f32]) -> (f64, f64) {
    let products = x.iter().zip(w).map(|(x, w)| x * f64::from(*w));
    products.fold((0.0, 0.0), |(sum, magnitude), product| (sum + product, magnitude + product.abs()))
}
