//! The distribution that sampling draws from.

use super::log_prob::{Vocabulary, log_softmax};
use crate::{
    Backend, Result, Sampling,
    ops::{Op, Rng, Trial, matrix_of, subset, worse},
};

/// Probability of every token after temperature, top-k and top-p, in that order; equal logits rank by id.
pub fn distribution(logits: &[f64], how: &Sampling) -> Vec<f64> {
    let mut ranked: Vec<usize> = (0..logits.len()).collect();
    ranked.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
    let mut out = vec![0.0; logits.len()];
    if how.temperature == 0.0 {
        out[ranked[0]] = 1.0;
        return out;
    }
    if how.top_k > 0 {
        ranked.truncate(how.top_k);
    }
    let max = logits[ranked[0]];
    let weight = |id: usize| ((logits[id] - max) / f64::from(how.temperature)).exp();
    let total: f64 = ranked.iter().map(|id| weight(*id)).sum();
    let mut before = 0.0;
    let mut kept = Vec::new();
    for id in ranked {
        // Kept while the more likely ones do not reach `top_p`; the first always.
        if !kept.is_empty() && how.top_p < 1.0 && before >= f64::from(how.top_p) {
            break;
        }
        before += weight(id) / total;
        kept.push(id);
    }
    let total: f64 = kept.iter().map(|id| weight(*id)).sum();
    for id in kept {
        out[id] = weight(id) / total;
    }
    out
}

/// The registry's row: greedy and random rows in turn. That frequencies follow the distribution is tested apart.
pub fn op<B: Backend>() -> Op<B> {
    Op {
        name: "sample",
        model_shapes: super::log_prob::model_shapes,
        random_shape: super::log_prob::random_shape,
        streams: true,
        cost: super::log_prob::cost::<B>,
        tolerance: super::log_prob::tolerance,
        trial: |backend, shape, seed, copies| {
            let (rows, ..) = matrix_of(shape);
            let mut rng = Rng(seed);
            let vocabulary = Vocabulary::new(&mut rng, shape);
            let how = (0..rows as u64).map(|row| match row % 4 {
                1 => Sampling { temperature: 0.8, top_k: 5, top_p: 0.9, seed, counter: row },
                _ => Sampling::GREEDY,
            });
            let how = how.collect();
            let head = (0..copies).map(|_| vocabulary.head(backend)).collect::<Result<_>>()?;
            let hidden = vocabulary.upload(backend)?;
            Ok(Box::new(Sample { backend, vocabulary, how, hidden, head }))
        },
    }
}

struct Sample<'a, B: Backend> {
    backend: &'a B,
    vocabulary: Vocabulary,
    how: Vec<Sampling>,
    hidden: B::Tensor,
    head: Vec<B::Weight>,
}

impl<B: Backend> Trial for Sample<'_, B> {
    fn run(&mut self, copy: usize) -> Result<()> {
        self.backend.sample(&self.hidden, &self.head[copy], &self.how).map(drop)
    }

    fn error(&mut self) -> Result<f64> {
        let got = self.backend.sample(&self.hidden, &self.head[0], &self.how)?;
        let mut error = 0.0;
        for row in subset(got.len(), 4) {
            let logits = self.vocabulary.logits(self.backend, row)?;
            let log_probs = log_softmax(&logits);
            let want = log_probs[got[row].token as usize];
            error = worse((f64::from(got[row].logprob) - want).abs() / (1.0 + want.abs()), error);
            // Never less likely than the least likely token that may be drawn.
            let support = distribution(&logits, &self.how[row]);
            let kept = support.iter().zip(&log_probs).filter(|(p, _)| **p > 0.0);
            let least = kept.map(|(_, l)| *l).fold(f64::INFINITY, f64::min);
            error = worse((least - want) / (1.0 + want.abs()), error);
        }
        Ok(error)
    }
}
