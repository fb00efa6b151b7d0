//! Runs batches on a backend.

use crate::{
    ModelConfig, Result,
    batch::{ForwardBatch, ForwardOutput},
    models::decoder::{Decoder, Workspace},
};
use oc_kernels::{Backend, Sampled, Sampling};
use std::{borrow::Cow, collections::VecDeque, sync::Arc};

/// A model on a device: what the engine needs to know of a backend.
pub(crate) trait Runner: Send {
    /// Queues a forward pass, behind those that were queued before.
    fn queue(&mut self, batch: &ForwardBatch) -> Result<()>;
    /// Whether one more may be queued before the answers of the last one are collected.
    fn may_run_ahead(&self) -> bool;
    /// Waits for the answers of the first pass that is queued.
    fn collect(&mut self) -> Result<ForwardOutput>;
    /// Waits for all that is queued, and forgets the answers.
    fn forget(&mut self) -> Result<()>;
    /// Lets no other device that shares the model wait for this one any more.
    fn end_group(&self);
    /// See [`Backend::device_bytes_used`].
    fn device_bytes_used(&self) -> Option<u64> {
        None
    }
}

/// A decoder, its KV pool and its activations on one backend.
pub(crate) struct BackendRunner<B: Backend> {
    backend: B,
    decoder: Decoder<B>,
    kv: B::KvCache,
    space: Workspace<B>,
    vocab_size: usize,
    queued: VecDeque<Queued<B>>,
}

/// A pass that is being computed.
struct Queued<B: Backend> {
    answers: B::Answers,
    /// As in the batch.
    forbidden: Vec<Option<Arc<[u32]>>>,
    /// As in the batch.
    sampling: Vec<Sampling>,
    /// As in [`Asked`](crate::batch::Asked).
    sampled: Vec<u32>,
    may_be_corrected: bool,
}

impl<B: Backend> BackendRunner<B> {
    /// Allocates a pool of `num_pages` and room for steps of `token_budget` tokens. `config`: of the decoder, which is the part
    /// that one of `devices` has.
    pub fn new(
        backend: B,
        decoder: Decoder<B>,
        config: &ModelConfig,
        devices: usize,
        num_pages: usize,
        token_budget: usize,
    ) -> Result<Self> {
        let kv = backend.kv_cache(config.kv_layout(num_pages))?;
        let space = Workspace::new(&backend, config, devices, token_budget)?;
        Ok(Self { backend, decoder, kv, space, vocab_size: config.vocab_size, queued: VecDeque::new() })
    }
}

impl<B: Backend> Runner for BackendRunner<B> {
    fn queue(&mut self, batch: &ForwardBatch) -> Result<()> {
        let Self { backend, decoder, kv, space, queued, .. } = self;
        let before = queued.back().map(|pass| &pass.answers).filter(|_| !batch.sampled_before.is_empty());
        let batch = with_stand_ins(backend, padded(backend, batch, space.capacity()), before);
        let asked = batch.asked();
        decoder.forward(backend, &batch, before, &asked, kv, space)?;
        let mut answers = decoder.ask(backend, &batch, &asked, space)?;
        backend.queue_collect(&mut answers)?;
        let (forbidden, sampling) = (batch.forbidden.clone(), batch.sampling.clone());
        let may_be_corrected = batch.may_be_corrected();
        queued.push_back(Queued { answers, forbidden, sampling, sampled: asked.sampled, may_be_corrected });
        Ok(())
    }

    fn may_run_ahead(&self) -> bool {
        self.backend.runs_ahead() && self.queued.iter().all(|pass| !pass.may_be_corrected)
    }

    fn collect(&mut self) -> Result<ForwardOutput> {
        let Self { backend, decoder, space, vocab_size, queued, .. } = self;
        let Some(Queued { answers, forbidden, sampling, sampled: places, .. }) = queued.pop_front() else {
            return Ok(ForwardOutput::default());
        };
        let mut answers = backend.collect(answers)?;
        let asked = answers.sampled.iter_mut().zip(&places).zip(&forbidden).zip(&sampling);
        for (((sampled, place), forbidden), how) in asked {
            // So rare that it may cost a product of its own. What is drawn depends on forbidden tokens even where none of
            // them was drawn: top-k and top-p choose among the others.
            let is_other = |forbidden: &&Arc<[u32]>| how.temperature > 0.0 || forbidden.contains(&sampled.token);
            if let Some(forbidden) = forbidden.as_ref().filter(is_other) {
                *sampled = other(decoder.logits(backend, *place, *vocab_size, space)?, forbidden, how);
            }
        }
        Ok(answers)
    }

    fn forget(&mut self) -> Result<()> {
        self.queued.drain(..).try_for_each(|pass| self.backend.collect(pass.answers).map(|_| ())).map_err(Into::into)
    }

    fn end_group(&self) {
        self.backend.end_group();
    }

    fn device_bytes_used(&self) -> Option<u64> {
        self.backend.device_bytes_used()
    }
}

/// `batch` with ids that stand for what `before` will have sampled.
fn with_stand_ins<'a, B: Backend>(
    backend: &B,
    mut batch: Cow<'a, ForwardBatch>,
    before: Option<&B::Answers>,
) -> Cow<'a, ForwardBatch> {
    if let Some(before) = before {
        let stand_ins = backend.sampled_ids(before);
        let ForwardBatch { ids, sampled_before, .. } = batch.to_mut();
        sampled_before.iter().for_each(|(row, sample)| ids[*row as usize] = stand_ins[*sample as usize]);
    }
    batch
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

/// The token that is chosen beside the forbidden ones, which have no probability before temperature, top-k and top-p, as in
/// HF transformers; and its log-probability among all.
fn other(logits: Vec<f32>, forbidden: &[u32], how: &Sampling) -> Sampled {
    let mut allowed = logits.clone();
    for token in forbidden {
        if let Some(logit) = allowed.get_mut(*token as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
    let token = how.choose(&allowed);
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - max).exp()).sum();
    Sampled { token, logprob: (f64::from(logits[token as usize] - max) - sum.ln()) as f32 }
}
