//! The decoder that all architectures share: layers of attention and an MLP around a residual stream. What a layer consists
//! of, and where its norms stand, is data in [`ModelConfig`].

use crate::{
    ModelConfig, ModelFiles, Positions, Result,
    batch::ForwardBatch,
    layers::{Attention, AttentionSpace, Mlp, MlpSpace, Norm, Pack, Rotary, Store, Weights},
};
use oc_kernels::{Backend, Epilogue, Heads, Sampled, Sampling, TokenLogProb};

/// The parameters of a decoder: matrices kept as `M`, vectors as `V`.
pub(crate) struct Parameters<M, V> {
    /// `[vocab_size, embedding_size]`
    embedding: M,
    /// Learned positions. `[offset + max_position_embeddings, hidden_size]`
    positions: Option<M>,
    /// `[hidden_size, embedding_size]`
    project_in: Option<M>,
    layers: Vec<Layer<M, V>>,
    norm: Option<Norm<V>>,
    /// `[embedding_size, hidden_size]`
    project_out: Option<M>,
    /// `None`: tied to the embedding. `[vocab_size, embedding_size]`
    head: Option<M>,
}

struct Layer<M, V> {
    attention_norm: Norm<V>,
    attention: Attention<M, V>,
    mlp_norm: Norm<V>,
    mlp: Mlp<M, V>,
}

impl<M, V> Parameters<M, V> {
    /// Reads all that the configuration of `files` asks for into `store`. `on_progress(done, total)` counts layers.
    ///
    /// # Errors
    /// [`Error::MissingTensor`](crate::Error::MissingTensor), [`Error::TensorShape`](crate::Error::TensorShape) or
    /// [`Error::Unsupported`](crate::Error::Unsupported), naming the tensor; what the store refuses.
    pub fn load<S: Store<Matrix = M, Vector = V>>(
        store: &S,
        files: &ModelFiles,
        on_progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self> {
        let config = files.config();
        let weights = Weights::new(store, files);
        let (vocab, hidden, narrow) = (config.vocab_size, config.hidden_size, config.embedding_size);
        let matrix = |has: bool, name, rows, cols| has.then(|| weights.matrix(&[(name, rows)], cols)).transpose();
        let is_projected = narrow != hidden;
        let embedding = weights.matrix(&[("model.embed_tokens.weight", vocab)], narrow)?;
        let positions = match config.positions {
            Positions::Rotary => None,
            Positions::Learned { offset } => {
                let rows = offset + config.max_position_embeddings;
                Some(weights.matrix(&[("model.embed_positions.weight", rows)], hidden)?)
            }
        };
        let project_in = matrix(is_projected, "model.project_in.weight", hidden, narrow)?;
        let layers = (0..config.num_layers).map(|index| {
            let weights = weights.layer(index);
            let layer = Layer {
                attention_norm: Norm::load(&weights, config, "input_layernorm")?,
                attention: Attention::load(&weights, config)?,
                mlp_norm: Norm::load(&weights, config, "post_attention_layernorm")?,
                mlp: Mlp::load(&weights, config)?,
            };
            on_progress(index + 1, config.num_layers);
            Ok(layer)
        });
        Ok(Self {
            embedding,
            positions,
            project_in,
            layers: layers.collect::<Result<_>>()?,
            norm: config.final_norm.then(|| Norm::load(&weights, config, "model.norm")).transpose()?,
            project_out: matrix(is_projected, "model.project_out.weight", narrow, hidden)?,
            head: matrix(!config.tie_word_embeddings, "lm_head.weight", vocab, narrow)?,
        })
    }

    /// The matrices that every token is multiplied with.
    pub fn body(&self) -> impl Iterator<Item = &M> {
        let layers = self.layers.iter().flat_map(|l| l.attention.matrices().into_iter().chain(l.mlp.matrices()));
        layers.chain([&self.project_in, &self.project_out].into_iter().flatten())
    }

    /// The matrix that makes logits.
    pub fn output(&self) -> &M {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// All matrices.
    pub fn matrices(&self) -> impl Iterator<Item = &M> {
        let layers = self.layers.iter().flat_map(|l| l.attention.matrices().into_iter().chain(l.mlp.matrices()));
        let ends = [&self.positions, &self.project_in, &self.project_out, &self.head].into_iter().flatten();
        layers.chain([&self.embedding]).chain(ends)
    }
}

/// A decoder on a device.
pub(crate) struct Decoder<B: Backend> {
    parameters: Parameters<B::Weight, B::Tensor>,
    rotary: Rotary<B::Tensor>,
    heads: Heads,
    positions: Positions,
    post_norm: bool,
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
    mlp: MlpSpace<B::Tensor>,
    /// Where embeddings are projected. `[T, embedding_size]`
    embedded: Option<B::Tensor>,
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
        let is_projected = config.embedding_size != config.hidden_size;
        Ok(Self {
            hidden: backend.tensor(capacity, config.hidden_size)?,
            normed: backend.tensor(capacity, config.hidden_size)?,
            qkv: backend.tensor(capacity, heads.qkv_cols())?,
            attended: backend.tensor(capacity, heads.q_cols())?,
            mlp: MlpSpace::new(backend, config, capacity)?,
            embedded: is_projected.then(|| backend.tensor(capacity, config.embedding_size)).transpose()?,
            gathered: backend.tensor(capacity, config.hidden_size)?,
            gathered_attended: backend.tensor(capacity, heads.q_cols())?,
            wanted: Vec::new(),
            capacity,
        })
    }

    fn set_rows(&mut self, backend: &B, rows: usize) -> Result<()> {
        let tensors = [&mut self.hidden, &mut self.normed, &mut self.qkv, &mut self.attended];
        for tensor in tensors.into_iter().chain(&mut self.embedded) {
            backend.set_rows(tensor, rows)?;
        }
        self.mlp.set_rows(backend, rows)
    }

    /// Goes on with these rows of `hidden` and `attended` only.
    fn keep_rows(&mut self, backend: &B, rows: &[u32]) -> Result<()> {
        backend.set_rows(&mut self.gathered, rows.len())?;
        backend.set_rows(&mut self.gathered_attended, rows.len())?;
        backend.gather_rows(&self.hidden, rows, &mut self.gathered)?;
        backend.gather_rows(&self.attended, rows, &mut self.gathered_attended)?;
        std::mem::swap(&mut self.hidden, &mut self.gathered);
        std::mem::swap(&mut self.attended, &mut self.gathered_attended);
        backend.set_rows(&mut self.normed, rows.len())?;
        self.mlp.set_rows(backend, rows.len())
    }

    /// Normalises the residual stream itself.
    fn renorm(&mut self, backend: &B, norm: &Norm<B::Tensor>) -> Result<()> {
        norm.forward(backend, &self.hidden, &mut self.normed)?;
        std::mem::swap(&mut self.hidden, &mut self.normed);
        Ok(())
    }
}

impl<B: Backend> Decoder<B> {
    /// Packs the weights of `files` for contexts of up to `max_seq_len` tokens. `on_progress(done, total)` counts layers.
    pub fn load(
        backend: &B,
        files: &ModelFiles,
        max_seq_len: usize,
        on_progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self> {
        let config = files.config();
        Ok(Self {
            parameters: Parameters::load(&Pack(backend), files, on_progress)?,
            rotary: Rotary::new(backend, config, max_seq_len)?,
            heads: config.heads(),
            positions: config.positions,
            post_norm: config.post_norm,
        })
    }

    /// Bytes of all matrices in the layout that is computed with.
    pub fn weight_bytes(&self, backend: &B) -> usize {
        self.parameters.matrices().map(|weight| backend.weight_bytes(weight)).sum()
    }

    /// Runs all layers over a batch; the residual stream of the `wanted` rows (ascending) stays in `space`. Of the others
    /// the last layer only stores keys and values.
    pub fn forward(
        &self,
        backend: &B,
        batch: &ForwardBatch,
        wanted: Vec<u32>,
        kv: &mut B::KvCache,
        space: &mut Workspace<B>,
    ) -> Result<()> {
        let turn = self.rotary.turn(backend, batch)?;
        let device_batch = &backend.batch(&turn.batch, self.heads, kv)?;
        space.set_rows(backend, batch.ids.len())?;
        self.embed(backend, batch, space)?;
        let layers = &self.parameters.layers;
        for (index, layer) in layers.iter().enumerate() {
            let read = if self.post_norm {
                &space.hidden
            } else {
                layer.attention_norm.forward(backend, &space.hidden, &mut space.normed)?;
                &space.normed
            };
            let attention_space = AttentionSpace { qkv: &mut space.qkv, attended: &mut space.attended };
            layer.attention.attend(backend, read, turn.table(), device_batch, index, kv, attention_space)?;
            if index + 1 == layers.len() && wanted.len() < batch.ids.len() {
                space.keep_rows(backend, &wanted)?;
            }
            layer.attention.project(backend, &space.attended, &mut space.hidden)?;
            if self.post_norm {
                space.renorm(backend, &layer.attention_norm)?;
                layer.mlp.widen(backend, &space.hidden, &mut space.mlp)?;
                layer.mlp.project(backend, &space.mlp, &mut space.hidden)?;
                space.renorm(backend, &layer.mlp_norm)?;
            } else {
                layer.mlp_norm.forward(backend, &space.hidden, &mut space.normed)?;
                layer.mlp.widen(backend, &space.normed, &mut space.mlp)?;
                layer.mlp.project(backend, &space.mlp, &mut space.hidden)?;
            }
        }
        space.wanted = wanted;
        Ok(())
    }

    /// The residual stream at its beginning: tokens, and their positions where these are learned.
    fn embed(&self, backend: &B, batch: &ForwardBatch, space: &mut Workspace<B>) -> Result<()> {
        let Parameters { embedding, positions, project_in, .. } = &self.parameters;
        let Workspace { hidden, normed, embedded, .. } = space;
        match (project_in, embedded) {
            (Some(project_in), Some(embedded)) => {
                backend.embedding(embedding, &batch.ids, embedded)?;
                backend.linear(embedded, project_in, None, Epilogue::Store, hidden)?;
            }
            _ => backend.embedding(embedding, &batch.ids, hidden)?,
        }
        if let (Positions::Learned { offset }, Some(positions)) = (self.positions, positions) {
            let rows: Vec<u32> = batch.paged.positions.iter().map(|position| position + offset as u32).collect();
            backend.embedding(positions, &rows, normed)?;
            backend.add(normed, hidden)?;
        }
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

    /// What the head reads, of the rows asked for only.
    fn last_hidden<'a>(
        &'a self,
        backend: &B,
        rows: &[u32],
        space: &'a mut Workspace<B>,
    ) -> Result<(&'a B::Tensor, &'a B::Weight)> {
        let place = |row: &u32| space.wanted.binary_search(row).expect("a row asked for is among those wanted") as u32;
        let places: Vec<u32> = rows.iter().map(place).collect();
        let Parameters { norm, project_out, head, embedding, .. } = &self.parameters;
        let Workspace { hidden, normed, gathered, embedded, .. } = space;
        backend.set_rows(gathered, rows.len())?;
        backend.gather_rows(hidden, &places, gathered)?;
        let mut last = &*gathered;
        if let Some(norm) = norm {
            backend.set_rows(normed, rows.len())?;
            norm.forward(backend, last, normed)?;
            last = normed;
        }
        if let (Some(project_out), Some(embedded)) = (project_out, embedded) {
            backend.set_rows(embedded, rows.len())?;
            backend.linear(last, project_out, None, Epilogue::Store, embedded)?;
            last = embedded;
        }
        Ok((last, head.as_ref().unwrap_or(embedding)))
    }
}
