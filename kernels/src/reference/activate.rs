//! Activations without a gate.

use crate::{
    Activation, Backend, Result,
    ops::{BoxedTrial, Op, Rng, Shape, Trial, poisoned, relative_error, row_cost, rows_of, subset, worse},
};

/// `2 / sqrt(pi) * integral of e^(-t^2) from z to infinity` for `z >= 0`, to about 1e-14 relative: Taylor's series of erf
/// near zero, Laplace's continued fraction beyond.
fn erfc(z: f64) -> f64 {
    let scale = std::f64::consts::FRAC_2_SQRT_PI * (-z * z).exp();
    if z < 2.0 {
        // erf(z) = 2 / sqrt(pi) * e^(-z^2) * sum of 2^n z^(2n+1) / (2n+1)!!
        let (mut term, mut sum) = (z, z);
        for n in 1..80 {
            term *= 2.0 * z * z / f64::from(2 * n + 1);
            sum += term;
        }
        return 1.0 - scale * sum;
    }
    let fraction = (1..=150).rev().fold(z, |tail, n| z + f64::from(n) / 2.0 / tail);
    scale / 2.0 / fraction
}

/// `x * (1 + erf(x / sqrt(2))) / 2`.
fn gelu(x: f64) -> f64 {
    let tail = erfc(x.abs() * std::f64::consts::FRAC_1_SQRT_2) / 2.0;
    x * if x < 0.0 { tail } else { 1.0 - tail }
}

/// One element.
pub fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Gelu => gelu(x),
        Activation::Relu if x < 0.0 => 0.0,
        Activation::Relu => x,
    }
}

/// The registry's row of [`Activation::Gelu`].
pub fn gelu_op<B: Backend>() -> Op<B> {
    Op {
        name: Activation::Gelu.name(),
        cost: |shape, _, storage| row_cost(shape, storage, 2.0, 0.0, 25.0),
        trial: |backend, shape, seed, copies| trial(Activation::Gelu, backend, shape, seed, copies),
        ..relu_op()
    }
}

/// The registry's row of [`Activation::Relu`].
pub fn relu_op<B: Backend>() -> Op<B> {
    Op {
        name: Activation::Relu.name(),
        model_shapes: |w| vec![Shape::Rows { rows: w.rows, cols: w.model.intermediate }],
        random_shape: |rng| Shape::Rows { rows: rng.below(40), cols: 1 + rng.below(300) },
        streams: false,
        cost: |shape, _, storage| row_cost(shape, storage, 2.0, 0.0, 1.0),
        tolerance: |_, _| 1e-6,
        trial: |backend, shape, seed, copies| trial(Activation::Relu, backend, shape, seed, copies),
    }
}

fn trial<'a, B: Backend>(
    activation: Activation,
    backend: &'a B,
    shape: &Shape,
    seed: u64,
    copies: usize,
) -> Result<BoxedTrial<'a>> {
    let (rows, cols) = rows_of(shape);
    let host = Rng(seed).stored(backend, rows * cols, 8.0);
    let x = (0..copies).map(|_| backend.upload(&host, rows, cols)).collect::<Result<_>>()?;
    let out = poisoned(backend, rows, cols)?;
    Ok(Box::new(Activate { backend, activation, host, cols, x, out }))
}

struct Activate<'a, B: Backend> {
    backend: &'a B,
    activation: Activation,
    host: Vec<f32>,
    cols: usize,
    x: Vec<B::Tensor>,
    out: B::Tensor,
}

impl<B: Backend> Trial for Activate<'_, B> {
    fn run(&mut self, copy: usize) -> Result<()> {
        self.backend.activate(self.activation, &self.x[copy], &mut self.out)
    }

    fn error(&mut self) -> Result<f64> {
        self.run(0)?;
        let got = self.backend.download(&self.out)?;
        let mut error = 0.0;
        for row in subset(got.len() / self.cols, 64) {
            let row = row * self.cols..(row + 1) * self.cols;
            let want: Vec<f64> =
                self.host[row.clone()].iter().map(|x| activate(self.activation, f64::from(*x))).collect();
            error = worse(relative_error(&got[row], &want, self.backend.info().storage), error);
        }
        Ok(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erfc_is_the_tabulated_one() {
        // Abramowitz and Stegun, table 7.1 (erf), and 7.3 (z e^(z^2) erfc z at z^-2 = 0.0625: z = 4).
        assert!((erfc(0.0) - 1.0).abs() < 1e-15);
        assert!((erfc(0.5) - (1.0 - 0.520_499_877_8)).abs() < 1e-10);
        assert!((erfc(1.0) - (1.0 - 0.842_700_792_9)).abs() < 1e-10);
        assert!((erfc(1.99) - (1.0 - 0.995_109_4)).abs() < 1e-4);
        // Both methods, where each is good.
        let series = erfc(1.999_999_999_999);
        assert!((series / erfc(2.0) - 1.0).abs() < 1e-10, "{series}");
    }
}
