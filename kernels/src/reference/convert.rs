//! Activations to the residual stream and back: nothing is computed but a rounding.

use crate::{
    Backend, Result,
    ops::{Op, Rng, Shape, Trial, poisoned, poisoned_residual, row_cost, rows_of, unrounded, worse},
};

/// The registry's row: timed from activations to a residual stream, checked both ways.
pub fn op<B: Backend>() -> Op<B> {
    Op {
        name: "convert",
        model_shapes: |w| vec![Shape::Rows { rows: w.rows, cols: w.model.hidden }],
        random_shape: |rng| Shape::Rows { rows: rng.below(40), cols: 1 + rng.below(300) },
        streams: false,
        cost: |shape, _, storage| row_cost(shape, storage, 1.0, 1.0, 0.0),
        tolerance: |_, _| 0.0,
        trial: |backend, shape, seed, copies| {
            let (rows, cols) = rows_of(shape);
            let mut rng = Rng(seed);
            let host = rng.vec(rows * cols, 3.0);
            let rounded: Vec<f32> = host.iter().map(|x| backend.info().storage.round(*x)).collect();
            let x = (0..copies).map(|_| backend.upload(&rounded, rows, cols)).collect::<Result<_>>()?;
            let out = poisoned_residual(backend, rows, cols)?;
            Ok(Box::new(Convert { backend, host, rounded, rows, cols, x, out }))
        },
    }
}

struct Convert<'a, B: Backend> {
    backend: &'a B,
    host: Vec<f32>,
    /// `host` as activations are kept.
    rounded: Vec<f32>,
    rows: usize,
    cols: usize,
    x: Vec<B::Tensor>,
    out: B::Tensor,
}

impl<B: Backend> Trial for Convert<'_, B> {
    fn run(&mut self, copy: usize) -> Result<()> {
        self.backend.convert(&self.x[copy], &mut self.out)
    }

    fn error(&mut self) -> Result<f64> {
        self.run(0)?;
        let residual = self.backend.upload_residual(&self.host, self.rows, self.cols)?;
        let mut narrow = poisoned(self.backend, self.rows, self.cols)?;
        self.backend.convert(&residual, &mut narrow)?;
        let mut error = 0.0;
        for got in [self.backend.download(&self.out)?, self.backend.download(&narrow)?] {
            for (got, want) in got.iter().zip(&self.rounded) {
                error = worse(f64::from((got - want).abs()), error);
            }
        }
        Ok(unrounded(error, 0.0))
    }
}
