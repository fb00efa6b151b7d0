//! Addition to the residual stream.

use crate::{
    Backend, Result,
    ops::{Op, Rng, Shape, Trial, relative_error, row_cost, rows_of, worse},
};

/// The registry's row.
pub fn op<B: Backend>() -> Op<B> {
    Op {
        name: "add",
        model_shapes: |w| vec![Shape::Rows { rows: w.rows, cols: w.model.hidden }],
        random_shape: |rng| Shape::Rows { rows: rng.below(40), cols: 1 + rng.below(300) },
        streams: false,
        cost: |shape, _, storage| row_cost(shape, storage, 3.0, 1.0),
        tolerance: |_, _| 1e-6,
        trial: |backend, shape, seed, copies| {
            let (rows, cols) = rows_of(shape);
            let mut rng = Rng(seed);
            let (x, before) = (rng.stored(backend, rows * cols, 1.0), rng.stored(backend, rows * cols, 10.0));
            let upload = |host: &[f32]| backend.upload(host, rows, cols);
            let pairs = (0..copies).map(|_| Ok((upload(&x)?, upload(&before)?))).collect::<Result<_>>()?;
            Ok(Box::new(Add { backend, x, before, rows, cols, pairs }))
        },
    }
}

struct Add<'a, B: Backend> {
    backend: &'a B,
    x: Vec<f32>,
    before: Vec<f32>,
    rows: usize,
    cols: usize,
    pairs: Vec<(B::Tensor, B::Tensor)>,
}

impl<B: Backend> Trial for Add<'_, B> {
    fn run(&mut self, copy: usize) -> Result<()> {
        let (x, residual) = &mut self.pairs[copy];
        self.backend.add(x, residual)
    }

    fn error(&mut self) -> Result<f64> {
        self.pairs[0].1 = self.backend.upload(&self.before, self.rows, self.cols)?;
        self.run(0)?;
        let got = self.backend.download(&self.pairs[0].1)?;
        let sums = self.x.iter().zip(&self.before);
        let want: Vec<f64> = sums.map(|(x, before)| f64::from(*x) + f64::from(*before)).collect();
        Ok(worse(relative_error(&got, &want, self.backend.info().storage), 0.0))
    }
}
