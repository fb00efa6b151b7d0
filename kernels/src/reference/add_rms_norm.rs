//! Addition to the residual stream, then root-mean-square normalisation.

use super::rms_norm::rms_norm;
use crate::{
    Backend, Result,
    ops::{Op, Rng, Shape, Trial, poisoned, relative_error, row_cost, rows_of, subset, worse},
};

/// The registry's row.
pub fn op<B: Backend>() -> Op<B> {
    Op {
        name: "add_rms_norm",
        model_shapes: |w| vec![Shape::Rows { rows: w.rows, cols: w.model.hidden }],
        random_shape: |rng| Shape::Rows { rows: rng.below(40), cols: 1 + rng.below(300) },
        streams: false,
        cost: |shape, _, storage| row_cost(shape, storage, 2.0, 2.0, 5.0),
        tolerance: |_, _| 1e-6,
        trial: |backend, shape, seed, copies| {
            let (rows, cols) = rows_of(shape);
            let mut rng = Rng(seed);
            let weight = rng.stored(backend, cols, 2.0);
            let x = rng.stored(backend, rows * cols, 3.0);
            let residual = rng.vec(rows * cols, 5.0);
            let device_x = (0..copies).map(|_| backend.upload(&x, rows, cols)).collect::<Result<_>>()?;
            let device_residual =
                (0..copies).map(|_| backend.upload_residual(&residual, rows, cols)).collect::<Result<_>>()?;
            let device_weight = backend.upload(&weight, 1, cols)?;
            let out = poisoned(backend, rows, cols)?;
            Ok(Box::new(AddRms { backend, x, residual, weight, device_x, device_residual, device_weight, out }))
        },
    }
}

const EPS: f32 = 1e-5;

struct AddRms<'a, B: Backend> {
    backend: &'a B,
    x: Vec<f32>,
    residual: Vec<f32>,
    weight: Vec<f32>,
    device_x: Vec<B::Tensor>,
    device_residual: Vec<B::Tensor>,
    device_weight: B::Tensor,
    out: B::Tensor,
}

impl<B: Backend> Trial for AddRms<'_, B> {
    fn run(&mut self, copy: usize) -> Result<()> {
        let (x, residual) = (&self.device_x[copy], &mut self.device_residual[copy]);
        self.backend.add_rms_norm(x, residual, &self.device_weight, EPS, &mut self.out)
    }

    fn error(&mut self) -> Result<f64> {
        let cols = self.weight.len();
        self.device_residual[0] = self.backend.upload_residual(&self.residual, self.residual.len() / cols, cols)?;
        self.run(0)?;
        let sums = self.backend.download(&self.device_residual[0])?;
        let got = self.backend.download(&self.out)?;
        let storage = self.backend.info().storage;
        let mut error = 0.0;
        for row in subset(got.len() / cols, 64) {
            let row = row * cols..(row + 1) * cols;
            let terms = self.residual[row.clone()].iter().zip(&self.x[row.clone()]);
            // An addition in `f32` leaves no choice.
            let want: Vec<f32> = terms.map(|(residual, x)| residual + x).collect();
            if sums[row.clone()] != want {
                return Ok(f64::INFINITY);
            }
            let want = rms_norm(&want, &self.weight, EPS);
            error = worse(relative_error(&got[row], &want, storage), error);
        }
        Ok(error)
    }
}
