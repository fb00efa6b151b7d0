//! Root-mean-square normalisation.

use crate::{
    Backend, Result,
    ops::{Op, Rng, Shape, Trial, poisoned, relative_error, row_cost, rows_of, subset, worse},
};

/// `x / sqrt(mean(x^2) + eps) * weight` for one row.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f64> {
    let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / x.len() as f64;
    let scale = 1.0 / (mean + f64::from(eps)).sqrt();
    x.iter().zip(weight).map(|(x, w)| f64::from(*x) * scale * f64::from(*w)).collect()
}

/// The registry's row.
pub fn op<B: Backend>() -> Op<B> {
    Op {
        name: "rms_norm",
        model_shapes: |w| vec![Shape::Rows { rows: w.rows, cols: w.model.hidden }],
        random_shape: |rng| Shape::Rows { rows: rng.below(40), cols: 1 + rng.below(300) },
        streams: false,
        cost: |shape, _, storage| row_cost(shape, storage, 1.0, 1.0, 4.0),
        tolerance: |_, _| 1e-6,
        trial: |backend, shape, seed, copies| {
            let (rows, cols) = rows_of(shape);
            let mut rng = Rng(seed);
            let weight = rng.stored(backend, cols, 2.0);
            let host = rng.vec(rows * cols, 3.0);
            let x = (0..copies).map(|_| backend.upload_residual(&host, rows, cols)).collect::<Result<_>>()?;
            let out = poisoned(backend, rows, cols)?;
            let device_weight = backend.upload(&weight, 1, cols)?;
            Ok(Box::new(Rms { backend, host, weight, x, device_weight, out }))
        },
    }
}

const EPS: f32 = 1e-5;

struct Rms<'a, B: Backend> {
    backend: &'a B,
    host: Vec<f32>,
    weight: Vec<f32>,
    x: Vec<B::Tensor>,
    device_weight: B::Tensor,
    out: B::Tensor,
}

impl<B: Backend> Trial for Rms<'_, B> {
    fn run(&mut self, copy: usize) -> Result<()> {
        self.backend.rms_norm(&self.x[copy], &self.device_weight, EPS, &mut self.out)
    }

    fn error(&mut self) -> Result<f64> {
        self.run(0)?;
        let got = self.backend.download(&self.out)?;
        let cols = self.weight.len();
        let mut error = 0.0;
        for row in subset(got.len() / cols, 64) {
            let row = row * cols..(row + 1) * cols;
            let want = rms_norm(&self.host[row.clone()], &self.weight, EPS);
            error = worse(relative_error(&got[row], &want, self.backend.info().storage), error);
        }
        Ok(error)
    }
}
