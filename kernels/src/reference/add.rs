//! Addition to the residual stream.

use crate::{
    Backend, Result,
    ops::{BoxedTrial, Op, Rng, Shape, Trial, row_cost, rows_of, unrounded, worse},
};

/// Parts in the row of [`parts_op`].
const PARTS: usize = 4;
/// Largest error.
const TOLERANCE: f64 = 1e-6;

/// The registry's row.
pub fn op<B: Backend>() -> Op<B> {
    Op {
        name: "add",
        model_shapes: |w| vec![Shape::Rows { rows: w.rows, cols: w.model.hidden }],
        random_shape: |rng| Shape::Rows { rows: rng.below(40), cols: 1 + rng.below(300) },
        streams: false,
        cost: |shape, _, storage| row_cost(shape, storage, 1.0, 2.0, 1.0),
        tolerance: |_, _| TOLERANCE,
        trial: |backend, shape, seed, copies| trial(backend, shape, seed, copies, 1),
    }
}

/// The row of a model that several devices share: of the parts of four.
pub fn parts_op<B: Backend>() -> Op<B> {
    Op {
        name: "add_parts",
        cost: |shape, _, storage| row_cost(shape, storage, PARTS as f64, 2.0, PARTS as f64),
        trial: |backend, shape, seed, copies| trial(backend, shape, seed, copies, PARTS),
        ..op()
    }
}

fn trial<'a, B: Backend>(
    backend: &'a B,
    shape: &Shape,
    seed: u64,
    copies: usize,
    parts: usize,
) -> Result<BoxedTrial<'a>> {
    let (rows, cols) = rows_of(shape);
    let mut rng = Rng(seed);
    let (x, before) = (rng.stored(backend, parts * rows * cols, 1.0), rng.vec(rows * cols, 10.0));
    let pair = || Ok((backend.upload(&x, parts * rows, cols)?, backend.upload_residual(&before, rows, cols)?));
    let pairs = (0..copies).map(|_| pair()).collect::<Result<_>>()?;
    Ok(Box::new(Add { backend, x, before, rows, cols, pairs }))
}

struct Add<'a, B: Backend> {
    backend: &'a B,
    /// `[parts * rows, cols]`
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
        self.pairs[0].1 = self.backend.upload_residual(&self.before, self.rows, self.cols)?;
        self.run(0)?;
        let got = self.backend.download(&self.pairs[0].1)?;
        let len = self.before.len();
        let mut worst = 0.0;
        for (i, (got, before)) in got.iter().zip(&self.before).enumerate() {
            let terms = || self.x.iter().skip(i).step_by(len).map(|x| f64::from(*x));
            let want = f64::from(*before) + terms().sum::<f64>();
            // One addition is rounded once, and exact to the last bit whatever cancels.
            let size = if self.x.len() == len {
                want.abs()
            } else {
                terms().map(f64::abs).sum::<f64>() + f64::from(before.abs())
            };
            worst = worse(worst, (f64::from(*got) - want).abs() / size.max(f64::from(f32::MIN_POSITIVE)));
        }
        Ok(unrounded(worst, TOLERANCE))
    }
}
