//! The registry's row of the gated linear layer: both projections and the gate in one.

use super::linear::{self, dot, rounded_rows, rounded_weight};
use crate::{
    Backend, Result, WeightFormat, WeightView,
    ops::{Cost, Op, Rng, Trial, Unit, matrix_of, poisoned, stored_bytes, subset, worse},
};

/// The registry's row; `cols` counts the output's.
pub fn op<B: Backend>() -> Op<B> {
    Op {
        name: "linear_silu_mul",
        model_shapes: |w| w.products(w.rows, w.model.hidden, w.model.intermediate).collect(),
        random_shape: linear::op::<B>().random_shape,
        streams: true,
        cost: |shape, dtype, storage| {
            let (rows, inner, cols, format) = matrix_of(shape);
            let activations = (rows * (inner + cols) * storage.bytes()) as f64;
            let bytes = 2.0 * (inner * cols) as f64 * stored_bytes(format, dtype, storage) + activations;
            Cost { bytes, flops: 4.0 * (rows * inner * cols) as f64, unit: Unit::of_products(dtype) }
        },
        tolerance: linear::op::<B>().tolerance,
        trial: |backend, shape, seed, copies| {
            let (rows, inner, cols, format) = matrix_of(shape);
            let mut rng = Rng(seed);
            let [gate, up] = [(); 2].map(|()| rng.weight(format, cols, inner, 1.0));
            let view = |bytes| WeightView::new(bytes, format, cols, inner);
            let w = (0..copies).map(|_| backend.gated_weight(&view(&gate)?, &view(&up)?)).collect::<Result<_>>()?;
            let x = rng.stored(backend, rows * inner, 3.0 / (inner as f32).sqrt());
            let device_x = backend.upload(&x, rows, inner)?;
            let out = poisoned(backend, rows, cols)?;
            let shape = (rows, inner, cols, format);
            Ok(Box::new(Gated { backend, shape, gate, up, x, device_x, w, out }))
        },
    }
}

struct Gated<'a, B: Backend> {
    backend: &'a B,
    shape: (usize, usize, usize, WeightFormat),
    gate: Vec<u8>,
    up: Vec<u8>,
    x: Vec<f32>,
    device_x: B::Tensor,
    w: Vec<B::Weight>,
    out: B::Tensor,
}

impl<B: Backend> Trial for Gated<'_, B> {
    fn run(&mut self, copy: usize) -> Result<()> {
        self.backend.linear_silu_mul(&self.device_x, &self.w[copy], &mut self.out)
    }

    fn error(&mut self) -> Result<f64> {
        self.run(0)?;
        let (rows, inner, cols, format) = self.shape;
        let got = self.backend.download(&self.out)?;
        let mut error = 0.0;
        let [gate, up] = [&self.gate, &self.up].map(|bytes| WeightView::new(bytes, format, cols, inner));
        let (gate, up) = (gate?, up?);
        let x = rounded_rows(self.backend, &self.x, rows, inner);
        for col in subset(cols, 256) {
            let (gate, up) = (rounded_weight(self.backend, &gate, col), rounded_weight(self.backend, &up, col));
            for (row, x) in &x {
                let ((gate, gate_size), (up, up_size)) = (dot(x, &gate), dot(x, &up));
                let silu = gate / (1.0 + (-gate).exp());
                let want = silu * up;
                // How errors of both products reach the output: the slope of silu is at most 1.1.
                let magnitude = 1.1 * gate_size * up.abs() + silu.abs() * up_size + want.abs();
                error = worse((f64::from(got[row * cols + col]) - want).abs() / magnitude.max(1e-30), error);
            }
        }
        Ok(error)
    }
}
