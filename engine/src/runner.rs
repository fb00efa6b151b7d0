//! Runs batches on a backend.

use crate::{
    ModelConfig, Result,
    batch::{ForwardBatch, ForwardOutput},
    models::decoder::{Decoder, Workspace},
};
use oc_kernels::Backend;
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
        let batch = padded(backend, batch, space.capacity());
        let asked = batch.asked();
        decoder.forward(backend, &batch, &asked, kv, space)?;
        let answers = decoder.ask(backend, &batch, &asked, space)?;
        Ok(backend.collect(answers)?)
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
