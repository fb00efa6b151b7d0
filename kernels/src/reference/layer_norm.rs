//! Layer normalisation.

use crate::{
    Backend, Result,
    ops::{Op, Rng, Shape, Trial, poisoned, row_cost, rows_of, subset, worse},
};

/// `(x - mean(x)) / sqrt(var(x) + eps) * weight + bias` for one row and, element by element, the magnitude of what was
/// subtracted and added, which is what rounding errors are proportional to.
pub fn layer_norm(x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f32) -> (Vec<f64>, Vec<f64>) {
    let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / x.len() as f64;
    let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / x.len() as f64;
    let scale = 1.0 / (variance + f64::from(eps)).sqrt();
    let element = |i: usize| {
        let (factor, bias) = (scale * f64::from(weight[i]), bias.map_or(0.0, |bias| f64::from(bias[i])));
        let x = f64::from(x[i]);
        ((x - mean) * factor + bias, (x.abs() + mean.abs()) * factor.abs() + bias.abs())
    };
    (0..x.len()).map(element).unzip()
}

/// The registry's row; every other problem has no bias.
pub fn op<B: Backend>() -> Op<B> {
    Op {
        name: "layer_norm",
        model_shapes: |w| vec![Shape::Rows { rows: w.rows, cols: w.model.hidden }],
        random_shape: |rng| Shape::Rows { rows: rng.below(40), cols: 1 + rng.below(300) },
        streams: false,
        cost: |shape, _, storage| row_cost(shape, storage, 1.0, 1.0, 8.0),
        tolerance: |_, _| 2e-6,
        trial: |backend, shape, seed, copies| {
            let (rows, cols) = rows_of(shape);
            let mut rng = Rng(seed);
            let weight = rng.stored(backend, cols, 2.0);
            let bias = (rng.below(2) == 0).then(|| rng.stored(backend, cols, 1.0));
            // Not around zero: the mean matters.
            let host: Vec<f32> = rng.vec(rows * cols, 3.0).into_iter().map(|x| x + 2.0).collect();
            let x = (0..copies).map(|_| backend.upload_residual(&host, rows, cols)).collect::<Result<_>>()?;
            let device_weight = backend.upload(&weight, 1, cols)?;
            let device_bias = bias.as_ref().map(|bias| backend.upload(bias, 1, cols)).transpose()?;
            let out = poisoned(backend, rows, cols)?;
            Ok(Box::new(Layer { backend, host, weight, bias, x, device_weight, device_bias, out }))
        },
    }
}

const EPS: f32 = 1e-5;

struct Layer<'a, B: Backend> {
    backend: &'a B,
    host: Vec<f32>,
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    x: Vec<B::Tensor>,
    device_weight: B::Tensor,
    device_bias: Option<B::Tensor>,
    out: B::Tensor,
}

impl<B: Backend> Trial for Layer<'_, B> {
    fn run(&mut self, copy: usize) -> Result<()> {
        self.backend.layer_norm(&self.x[copy], &self.device_weight, self.device_bias.as_ref(), EPS, &mut self.out)
    }

    fn error(&mut self) -> Result<f64> {
        self.run(0)?;
        let got = self.backend.download(&self.out)?;
        let cols = self.weight.len();
        let smallest = self.backend.info().storage.smallest_normal();
        let mut error = 0.0;
        for row in subset(got.len() / cols, 64) {
            let row = row * cols..(row + 1) * cols;
            let (want, magnitude) = layer_norm(&self.host[row.clone()], &self.weight, self.bias.as_deref(), EPS);
            for ((got, want), magnitude) in got[row].iter().zip(want).zip(magnitude) {
                error = worse((f64::from(*got) - want).abs() / magnitude.max(smallest), error);
            }
        }
        Ok(error)
    }
}
