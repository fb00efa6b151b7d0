//! Runs batches on a backend.

use crate::{
    ModelConfig, Result,
    batch::{ForwardBatch, ForwardOutput},
    models::decoder::{Decoder, Workspace},
};
use oc_kernels::{Backend, Sampled};
use std::borrow::Cow;

/// A model on a device: what the engine needs to know of a backend.
pub(crate) trait Runner: Send {
    /// One forward pass.
    fn run(&mut self, batch: &ForwardBatch) -> Result<ForwardOutput>;
}

/// A decoder, its KV pool and its activations on one backend.
pub(crate) struct BackendRunner<B: Backend> {
    backend: B,
    decoder: Decoder<B>,
    kv: B::KvCache,
    space: Workspace<B>,
    vocab_size: usize,
}

impl<B: Backend> BackendRunner<B> {
    /// Allocates a pool of `num_pages` and room for steps of `token_budget` tokens.
    pub fn new(
        backend: B,
        decoder: Decoder<B>,
        config: &ModelConfig,
        num_pages: usize,
        token_budget: usize,
    ) -> Result<Self> {
        let kv = backend.kv_cache(config.kv_layout(num_pages))?;
        let space = Workspace::new(&backend, config, token_budget)?;
        Ok(Self { backend, decoder, kv, space, vocab_size: config.vocab_size })
    }
}

impl<B: Backend> Runner for BackendRunner<B> {
    fn run(&mut self, batch: &ForwardBatch) -> Result<ForwardOutput> {
        let Self { backend, decoder, kv, space, vocab_size } = self;
        let batch = padded(backend, batch, space.capacity());
        let asked = batch.asked();
        decoder.forward(backend, &batch, &asked, kv, space)?;
        let answers = decoder.ask(backend, &batch, &asked, space)?;
        let mut answers = backend.collect(answers)?;
        for ((sampled, place), forbidden) in answers.sampled.iter_mut().zip(&asked.sampled).zip(&batch.forbidden) {
            // So rare that it may cost a product of its own.
            if let Some(forbidden) = forbidden.as_ref().filter(|forbidden| forbidden.contains(&sampled.token)) {
                *sampled = best_other(&decoder.logits(backend, *place, *vocab_size, space)?, forbidden);
            }
        }
        Ok(answers)
    }
}

/// A step of generated tokens with as many rows as `backend` likes, of which there is room for `capacity`.
fn padded<'a, B: Backend>(backend: &B, batch: &'a ForwardBatch, capacity: usize) -> Cow<'a, ForwardBatch> {
    let rows = batch.ids.len();
    let wanted = if batch.is_decode() { backend.padded_rows(rows) } else { rows };
    let mut batch = Cow::Borrowed(batch);
    if wanted > rows && wanted <= capacity {
        batch.to_mut().pad(wanted);
    }
    batch
}

/// The first maximum of `logits` beside the forbidden tokens, and its log-probability among all.
fn best_other(logits: &[f32], forbidden: &[u32]) -> Sampled {
    let allowed = (0..logits.len() as u32).filter(|token| !forbidden.contains(token));
    let best = allowed.reduce(|best, token| if logits[token as usize] > logits[best as usize] { token } else { best });
    let token = best.unwrap_or(0);
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - max).exp()).sum();
    Sampled { token, logprob: (f64::from(logits[token as usize] - max) - sum.ln()) as f32 }
}
