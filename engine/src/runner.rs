//! Runs batches on a backend.

use crate::{
    ModelConfig, Result,
    batch::{ForwardBatch, ForwardOutput},
    models::decoder::{Decoder, Workspace},
};
use oc_kernels::Backend;

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
        Ok(Self { backend, decoder, kv, space })
    }
}

impl<B: Backend> Runner for BackendRunner<B> {
    fn run(&mut self, batch: &ForwardBatch) -> Result<ForwardOutput> {
        let Self { backend, decoder, kv, space } = self;
        decoder.forward(backend, batch, batch.wanted_rows(), kv, space)?;
        Ok(ForwardOutput {
            sampled: decoder.sample(backend, &batch.sample_rows, &batch.sampling, space)?,
            scored: decoder.log_prob(backend, &batch.score_rows, &batch.targets, space)?,
        })
    }
}
