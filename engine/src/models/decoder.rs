//! The decoder that all architectures share: pre-norm layers of attention and a gated MLP around a residual stream.

use crate::{
    ModelConfig, ModelFiles, Result,
    layers::{Attention, AttentionSpace, Mlp, Weights, rotary_frequencies},
};
use oc_kernels::{Backend, Heads, PagedBatch, RotarySegment, Sampled, Sampling, TokenLogProb};

/// A decoder's weights on a device.
pub(crate) struct Decoder<B: Backend> {
    embedding: B::Weight,
    layers: Vec<Layer<B>>,
    norm: B::Tensor,
    /// `None`: tied to the embedding.
    head: Option<B::Weight>,
    rotary: B::Tensor,
    heads: Heads,
    eps: f32,
}

struct Layer<B: Backend> {
    attention_norm: B::Tensor,
    attention: Attention<B>,
    mlp_norm: B::Tensor,
    mlp: Mlp<B>,
}

/// Activations of one step, allocated once. `T` is the token budget.
pub(crate) struct Workspace<B: Backend> {
    /// The residual stream. `[T, hidden_size]`
    hidden: B::Tensor,
    /// `[T, hidden_size]`
    normed: B::Tensor,
    /// `[T, qkv_cols]`
    qkv: B::Tensor,
    /// `[T, q_cols]`
    attended: B::Tensor,
    /// `[T, 2 * intermediate_size]`
    gate_up: B::Tensor,
    /// `[T, intermediate_size]`
    gated: B::Tensor,
    /// Rows of `hidden` that somebody asked for. `[T, hidden_size]`
    gathered: B::Tensor,
    /// The same of `attended`. `[T, q_cols]`
    gathered_attended: B::Tensor,
    /// Rows of the batch that `hidden` holds after the last layer, ascending.
    wanted: Vec<u32>,
    capacity: usize,
}

impl<B: Backend> Workspace<B> {
    /// Room for `capacity` rows.
    pub fn new(backend: &B, config: &ModelConfig, capacity: usize) -> Result<Self> {
        let heads = config.heads();
        Ok(Self {
            hidden: backend.tensor(capacity, config.hidden_size)?,
            normed: backend.tensor(capacity, config.hidden_size)?,
            qkv: backend.tensor(capacity, heads.qkv_cols())?,
            attended: backend.tensor(capacity, heads.q_cols())?,
            gate_up: backend.tensor(capacity, 2 * config.intermediate_size)?,
            gated: backend.tensor(capacity, config.intermediate_size)?,
            gathered: backend.tensor(capacity, config.hidden_size)?,
            gathered_attended: backend.tensor(capacity, heads.q_cols())?,
            wanted: Vec::new(),
            capacity,
        })
    }
}

impl<B: Backend> Workspace<B> {
    fn set_rows(&mut self, backend: &B, rows: usize) -> Result<()> {
        let hidden = [&mut self.hidden, &mut self.normed];
        let attention = [&mut self.qkv, &mut self.attended];
        let mlp = [&mut self.gate_up, &mut self.gated];
        for tensor in hidden.into_iter().chain(attention).chain(mlp) {
            backend.set_rows(tensor, rows)?;
        }
        Ok(())
    }

    /// Goes on with these rows of `hidden` and `attended` only.
    fn keep_rows(&mut self, backend: &B, rows: &[u32]) -> Result<()> {
        backend.set_rows(&mut self.gathered, rows.len())?;
        backend.set_rows(&mut self.gathered_attended, rows.len())?;
        backend.gather_rows(&self.hidden, rows, &mut self.gathered)?;
        backend.gather_rows(&self.attended, rows, &mut self.gathered_attended)?;
        std::mem::swap(&mut self.hidden, &mut self.gathered);
        std::mem::swap(&mut self.attended, &mut self.gathered_attended);
        for tensor in [&mut self.normed, &mut self.gate_up, &mut self.gated] {
            backend.set_rows(tensor, rows.len())?;
        }
        Ok(())
    }
}

impl<B: Backend> Decoder<B> {
    /// Packs the weights of `files` for contexts of up to `max_seq_len` tokens, and gives the file's pages back to the
    /// operating system one matrix after the other. `on_progress(done, total)` counts layers.
    pub fn load(
        backend: &B,
        files: &ModelFiles,
        max_seq_len: usize,
        on_progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self> {
        let config = files.config();
        let weights = Weights::new(backend, files);
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        let embedding = weights.matrix(&[("model.embed_tokens.weight", vocab)], hidden)?;
        let layers = (0..config.num_layers).map(|index| {
            let weights = weights.layer(index);
            let layer = Layer {
                attention_norm: weights.vector("input_layernorm.weight", hidden)?,
                attention: Attention::load(&weights, config)?,
                mlp_norm: weights.vector("post_attention_layernorm.weight", hidden)?,
                mlp: Mlp::load(&weights, config)?,
            };
            on_progress(index + 1, config.num_layers);
            Ok(layer)
        });
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let norm = weights.vector("model.norm.weight", hidden)?;
        let head = match config.tie_word_embeddings {
            true => None,
            false => Some(weights.matrix(&[("lm_head.weight", vocab)], hidden)?),
        };
        let inv_freq = rotary_frequencies(config);
        let positions = 0..max_seq_len as u32;
        let rotary = backend.rotary_table(&[RotarySegment { inv_freq: &inv_freq, factor: 1.0, positions }])?;
        Ok(Self { embedding, layers, norm, head, rotary, heads: config.heads(), eps: config.rms_norm_eps })
    }

    /// Bytes of all matrices in the layout that is computed with.
    pub fn weight_bytes(&self, backend: &B) -> usize {
        let layers = self.layers.iter().flat_map(|l| l.attention.weights().into_iter().chain(l.mlp.weights()));
        layers.chain([&self.embedding]).chain(&self.head).map(|weight| backend.weight_bytes(weight)).sum()
    }

    /// Runs all layers over a batch; the residual stream of the `wanted` rows (ascending) stays in `space`. Of the others
    /// the last layer only stores keys and values. `ids: [batch.num_tokens()]`
    pub fn forward(
        &self,
        backend: &B,
        ids: &[u32],
        batch: &PagedBatch,
        wanted: Vec<u32>,
        kv: &mut B::KvCache,
        space: &mut Workspace<B>,
    ) -> Result<()> {
        let batch = &backend.batch(batch, self.heads, kv)?;
        space.set_rows(backend, ids.len())?;
        backend.embedding(&self.embedding, ids, &mut space.hidden)?;
        for (index, layer) in self.layers.iter().enumerate() {
            backend.rms_norm(&space.hidden, &layer.attention_norm, self.eps, &mut space.normed)?;
            let attention_space = AttentionSpace { qkv: &mut space.qkv, attended: &mut space.attended };
            layer.attention.attend(backend, &space.normed, &self.rotary, batch, index, kv, attention_space)?;
            if index + 1 == self.layers.len() && wanted.len() < ids.len() {
                space.keep_rows(backend, &wanted)?;
            }
            layer.attention.project(backend, &space.attended, &mut space.hidden)?;
            backend.rms_norm(&space.hidden, &layer.mlp_norm, self.eps, &mut space.normed)?;
            layer.mlp.forward(backend, &space.normed, &mut space.gate_up, &mut space.gated, &mut space.hidden)?;
        }
        space.wanted = wanted;
        Ok(())
    }

    /// Chooses a token after each of `rows` of the last batch.
    pub fn sample(
        &self,
        backend: &B,
        rows: &[u32],
        how: &[Sampling],
        space: &mut Workspace<B>,
    ) -> Result<Vec<Sampled>> {
        let mut out = Vec::with_capacity(rows.len());
        for (rows, how) in rows.chunks(space.capacity).zip(how.chunks(space.capacity)) {
            let (hidden, head) = self.last_hidden(backend, rows, space)?;
            out.extend(backend.sample(hidden, head, how)?);
        }
        Ok(out)
    }

    /// The log-probabilities of `targets` after `rows` of the last batch; a row may occur more than once.
    pub fn log_prob(
        &self,
        backend: &B,
        rows: &[u32],
        targets: &[u32],
        space: &mut Workspace<B>,
    ) -> Result<Vec<TokenLogProb>> {
        let mut out = Vec::with_capacity(rows.len());
        for (rows, targets) in rows.chunks(space.capacity).zip(targets.chunks(space.capacity)) {
            let (hidden, head) = self.last_hidden(backend, rows, space)?;
            out.extend(backend.log_prob(hidden, head, targets)?);
        }
        Ok(out)
    }

    /// The normalised hidden states that the head reads, of the rows asked for only.
    fn last_hidden<'a>(
        &'a self,
        backend: &B,
        rows: &[u32],
        space: &'a mut Workspace<B>,
    ) -> Result<(&'a B::Tensor, &'a B::Weight)> {
        let place = |row: &u32| space.wanted.binary_search(row).expect("a row asked for is among those wanted") as u32;
        let places: Vec<u32> = rows.iter().map(place).collect();
        let (gathered, normed) = (&mut space.gathered, &mut space.normed);
        backend.set_rows(gathered, rows.len())?;
        backend.set_rows(normed, rows.len())?;
        backend.gather_rows(&space.hidden, &places, gathered)?;
        backend.rms_norm(gathered, &self.norm, self.eps, normed)?;
        Ok((normed, self.head.as_ref().unwrap_or(&self.embedding)))
    }
}
