//! Log-softmax.

use super::{dequant::dequantize, int8};
use crate::{
    Backend, Dtype, Result, Storage, WeightFormat, WeightView,
    ops::{Cost, Op, Rng, Shape, Trial, Unit, Workload, matrix_of, rounded, subset, worse},
};

/// `logits - ln(sum(e^logits))`.
pub fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = max + logits.iter().map(|l| (l - max).exp()).sum::<f64>().ln();
    logits.iter().map(|l| l - log_sum).collect()
}

/// Shapes of the LM head: few rows of a step reach it.
pub fn model_shapes(w: &Workload<'_>) -> Vec<Shape> {
    w.products(w.rows.min(64), w.model.hidden, w.model.vocab).collect()
}

/// Few tokens, or more than one chunk of the vocabulary.
pub fn random_shape(rng: &mut Rng) -> Shape {
    let cols = if rng.below(2) == 0 { 1 + rng.below(100) } else { 4000 + rng.below(500) };
    let format = rng.pick(&[WeightFormat::F32, WeightFormat::Bf16, WeightFormat::Q4_1, WeightFormat::Q8_0]);
    let inner = if format.is_quantized() { format.block_len() * (1 + rng.below(3)) } else { 1 + rng.below(40) };
    Shape::Matrix { rows: rng.below(6), inner, cols, format }
}

/// The product with the head, then a pass over the logits.
pub fn cost<B: Backend>(shape: &Shape, dtype: Dtype, storage: Storage) -> Cost {
    let (rows, _, cols, _) = matrix_of(shape);
    let product = (super::linear::op::<B>().cost)(shape, dtype, storage);
    let logits = (2 * rows * cols * storage.bytes()) as f64;
    // The logits stay on the chip.
    Cost { bytes: product.bytes - logits, flops: product.flops, unit: Unit::of_products(dtype) }
}

/// Quantised weights may be rounded to bf16 or not: the reference takes them as they are.
pub fn tolerance(shape: &Shape, dtype: Dtype) -> f64 {
    if dtype == Dtype::Bf16 && matrix_of(shape).3.is_quantized() { 1e-2 } else { 1e-5 }
}

/// A random LM head and hidden states, and the `f64` logits of any row.
pub struct Vocabulary {
    /// `[rows, inner]`
    pub hidden: Vec<f32>,
    rows: usize,
    inner: usize,
    cols: usize,
    format: WeightFormat,
    bytes: Vec<u8>,
}

impl Vocabulary {
    /// Logits of a few units.
    pub fn new(rng: &mut Rng, shape: &Shape) -> Self {
        let (rows, inner, cols, format) = matrix_of(shape);
        let bytes = rng.weight(format, cols, inner, 6.0 / (inner as f32).sqrt());
        Self { hidden: rng.vec(rows * inner, 1.5), rows, inner, cols, format, bytes }
    }

    /// The hidden states on a device.
    ///
    /// # Errors
    /// Whatever the backend refuses.
    pub fn upload<B: Backend>(&self, backend: &B) -> Result<B::Tensor> {
        backend.upload(&self.hidden, self.rows, self.inner)
    }

    /// The head on a device.
    ///
    /// # Errors
    /// Whatever the backend refuses.
    pub fn head<B: Backend>(&self, backend: &B) -> Result<B::Weight> {
        backend.weight(&[WeightView::new(&self.bytes, self.format, self.cols, self.inner)?])
    }

    /// Logits of row `row`, from inputs rounded as `backend` rounds them.
    ///
    /// # Errors
    /// None: the shapes are its own.
    pub fn logits<B: Backend>(&self, backend: &B, row: usize) -> Result<Vec<f64>> {
        let dtype = backend.info().dtype;
        let hidden = int8::rounded_row(&self.hidden[row * self.inner..][..self.inner], dtype);
        let view = WeightView::new(&self.bytes, self.format, self.cols, self.inner)?;
        let logit = |col| {
            let view = WeightView { data: view.row(col), rows: 1, ..view };
            match dtype {
                Dtype::Int8 => hidden.iter().zip(int8::weights(&view)).map(|(x, w)| x * f64::from(w)).sum(),
                _ if view.format.is_quantized() => {
                    hidden.iter().zip(dequantize(&view)).map(|(x, w)| x * f64::from(w)).sum()
                }
                _ => hidden.iter().zip(dequantize(&view)).map(|(x, w)| x * rounded(w, dtype)).sum(),
            }
        };
        Ok((0..self.cols).map(logit).collect())
    }
}

/// The registry's row.
pub fn op<B: Backend>() -> Op<B> {
    Op {
        name: "log_prob",
        model_shapes,
        random_shape,
        streams: true,
        cost: cost::<B>,
        tolerance,
        trial: |backend, shape, seed, copies| {
            let (rows, _, cols, _) = matrix_of(shape);
            let mut rng = Rng(seed);
            let vocabulary = Vocabulary::new(&mut rng, shape);
            let targets = (0..rows).map(|_| rng.below(cols) as u32).collect();
            let head = (0..copies).map(|_| vocabulary.head(backend)).collect::<Result<_>>()?;
            let hidden = vocabulary.upload(backend)?;
            Ok(Box::new(LogProb { backend, vocabulary, targets, hidden, head }))
        },
    }
}

struct LogProb<'a, B: Backend> {
    backend: &'a B,
    vocabulary: Vocabulary,
    targets: Vec<u32>,
    hidden: B::Tensor,
    head: Vec<B::Weight>,
}

impl<B: Backend> Trial for LogProb<'_, B> {
    fn run(&mut self, copy: usize) -> Result<()> {
        self.backend.log_prob(&self.hidden, &self.head[copy], &self.targets).map(drop)
    }

    fn error(&mut self) -> Result<f64> {
        let got = self.backend.log_prob(&self.hidden, &self.head[0], &self.targets)?;
        let mut error = 0.0;
        for row in subset(got.len(), 4) {
            let want = log_softmax(&self.vocabulary.logits(self.backend, row)?);
            let best = want.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let got = &got[row];
            for (got, want) in [
                (f64::from(got.logprob), want[self.targets[row] as usize]),
                (f64::from(got.argmax_logprob), best),
                // Of equal maxima any may win here: that the first does is tested with exact ties.
                (want[got.argmax as usize], best),
            ] {
                error = worse((got - want).abs() / (1.0 + want.abs()), error);
            }
        }
        Ok(error)
    }
}
