//! Rows by index: nothing is computed, so the reference is the copy itself.

use crate::{
    Backend, Result,
    ops::{Op, Rng, Shape, Trial, poisoned, poisoned_residual, row_cost, rows_of, unrounded, worse},
};

/// The registry's row; `rows` counts the gathered ones, out of four times as many. Timed on a residual stream, checked on
/// activations too.
pub fn op<B: Backend>() -> Op<B> {
    Op {
        name: "gather_rows",
        model_shapes: |w| vec![Shape::Rows { rows: w.rows, cols: w.model.hidden }],
        random_shape: |rng| Shape::Rows { rows: rng.below(40), cols: 1 + rng.below(300) },
        streams: false,
        cost: |shape, _, storage| row_cost(shape, storage, 0.0, 2.0, 0.0),
        tolerance: |_, _| 0.0,
        trial: |backend, shape, seed, copies| {
            let (rows, cols) = rows_of(shape);
            let mut rng = Rng(seed);
            let host = rng.vec(4 * rows * cols, 1.0);
            let index = (0..rows).map(|_| rng.below(4 * rows) as u32).collect();
            let x = (0..copies).map(|_| backend.upload_residual(&host, 4 * rows, cols)).collect::<Result<_>>()?;
            let out = poisoned_residual(backend, rows, cols)?;
            Ok(Box::new(Gather { backend, host, cols, index, x, out }))
        },
    }
}

struct Gather<'a, B: Backend> {
    backend: &'a B,
    host: Vec<f32>,
    cols: usize,
    index: Vec<u32>,
    x: Vec<B::Tensor>,
    out: B::Tensor,
}

impl<B: Backend> Trial for Gather<'_, B> {
    fn run(&mut self, copy: usize) -> Result<()> {
        self.backend.gather_rows(&self.x[copy], &self.index, &mut self.out)
    }

    fn error(&mut self) -> Result<f64> {
        self.run(0)?;
        let error = self.error_of(&self.host, &self.out)?;
        let (rows, storage) = (self.index.len(), self.backend.info().storage);
        let host: Vec<f32> = self.host.iter().map(|x| storage.round(*x)).collect();
        let x = self.backend.upload(&host, 4 * rows, self.cols)?;
        let mut out = poisoned(self.backend, rows, self.cols)?;
        self.backend.gather_rows(&x, &self.index, &mut out)?;
        Ok(unrounded(worse(self.error_of(&host, &out)?, error), 0.0))
    }
}

impl<B: Backend> Gather<'_, B> {
    fn error_of(&self, host: &[f32], out: &B::Tensor) -> Result<f64> {
        let got = self.backend.download(out)?;
        let mut error = 0.0;
        for (row, got) in self.index.iter().zip(got.chunks_exact(self.cols)) {
            for (got, want) in got.iter().zip(&host[*row as usize * self.cols..]) {
                error = worse(f64::from((got - want).abs()), error);
            }
        }
        Ok(error)
    }
}
