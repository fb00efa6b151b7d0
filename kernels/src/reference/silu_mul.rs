//! Gated activation.

use crate::{
    Backend, Result,
    ops::{Op, Rng, Shape, Trial, poisoned, relative_error, row_cost, rows_of, subset, worse},
};

/// `silu(gate) * up` for one row `[gate | up]`.
pub fn silu_mul(gate_up: &[f32]) -> Vec<f64> {
    let (gate, up) = gate_up.split_at(gate_up.len() / 2);
    gate.iter().zip(up).map(|(g, u)| f64::from(*g) / (1.0 + (-f64::from(*g)).exp()) * f64::from(*u)).collect()
}

/// The registry's row; `cols` counts the output's.
pub fn op<B: Backend>() -> Op<B> {
    Op {
        name: "silu_mul",
        model_shapes: |w| vec![Shape::Rows { rows: w.rows, cols: w.model.intermediate }],
        random_shape: |rng| Shape::Rows { rows: rng.below(40), cols: 1 + rng.below(300) },
        streams: false,
        cost: |shape, _, storage| row_cost(shape, storage, 3.0, 0.0, 20.0),
        tolerance: |_, _| 1e-6,
        trial: |backend, shape, seed, copies| {
            let (rows, cols) = rows_of(shape);
            let host = Rng(seed).stored(backend, rows * 2 * cols, 10.0);
            let x = (0..copies).map(|_| backend.upload(&host, rows, 2 * cols)).collect::<Result<_>>()?;
            let out = poisoned(backend, rows, cols)?;
            Ok(Box::new(Silu { backend, host, cols, x, out }))
        },
    }
}

struct Silu<'a, B: Backend> {
    backend: &'a B,
    host: Vec<f32>,
    cols: usize,
    x: Vec<B::Tensor>,
    out: B::Tensor,
}

impl<B: Backend> Trial for Silu<'_, B> {
    fn run(&mut self, copy: usize) -> Result<()> {
        self.backend.silu_mul(&self.x[copy], &mut self.out)
    }

    fn error(&mut self) -> Result<f64> {
        self.run(0)?;
        let got = self.backend.download(&self.out)?;
        let mut error = 0.0;
        for row in subset(got.len() / self.cols, 64) {
            let want = silu_mul(&self.host[row * 2 * self.cols..][..2 * self.cols]);
            error =
                worse(relative_error(&got[row * self.cols..][..self.cols], &want, self.backend.info().storage), error);
        }
        Ok(error)
    }
}
