//! The decoder that all architectures share: layers of attention and an MLP around a residual stream. What a layer consists
//! of, and where its norms stand, is data in [`ModelConfig`].

use crate::{
    ModelConfig, ModelFiles, Positions, Result,
    batch::{Asked, ForwardBatch},
    layers::{Attention, AttentionSpace, Mlp, MlpSpace, Norm, Pack, Parts, Rotary, Store, Weights},
    rank::Rank,
};
use oc_kernels::{Backend, Epilogue, Heads};

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
    /// Reads all that the configuration of `files` asks for into `store`, or the part of it that is the device's of `rank`. `on_progress(done, total)` counts layers.
    ///
    /// # Errors
    /// [`Error::MissingTensor`](crate::Error::MissingTensor), [`Error::TensorShape`](crate::Error::TensorShape) or
    /// [`Error::Unsupported`](crate::Error::Unsupported), naming the tensor; what the store refuses.
    pub fn load<S: Store<Matrix = M, Vector = V>>(
        store: &S,
        files: &ModelFiles,
        rank: Rank,
        on_progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self> {
        let config = &rank.config(files.config())?;
        let weights = Weights::new(store, files, rank);
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
    /// What the next matrix reads of it. `[T, hidden_size]`
    normed: B::Tensor,
    /// `[T, qkv_cols]`
    qkv: B::Tensor,
    /// `[T, q_cols]`
    attended: B::Tensor,
    mlp: MlpSpace<B::Tensor>,
    /// Where products of several devices meet.
    parts: Option<Parts<B::Tensor>>,
    /// Where embeddings are projected. `[T, embedding_size]`
    embedded: Option<B::Tensor>,
    /// Rows of `hidden` that somebody asked for. `[T, hidden_size]`
    gathered: B::Tensor,
    /// The same of `attended`. `[T, q_cols]`
    gathered_attended: B::Tensor,
    /// Whether the last layer of the last step went on with `gathered` in the place of `hidden`, both of each pair.
    swapped: bool,
    /// The step, with the lists that came along.
    batch: Option<B::Batch>,
    capacity: usize,
}

impl<B: Backend> Workspace<B> {
    /// Room for `capacity` rows; `config`: of the part that one of `devices` has.
    pub fn new(backend: &B, config: &ModelConfig, devices: usize, capacity: usize) -> Result<Self> {
        let parts = (devices > 1).then(|| Parts::new(backend, config.hidden_size, capacity, devices));
        let heads = config.heads();
        let is_projected = config.embedding_size != config.hidden_size;
        Ok(Self {
            hidden: backend.residual(capacity, config.hidden_size)?,
            normed: backend.tensor(capacity, config.hidden_size)?,
            qkv: backend.tensor(capacity, heads.qkv_cols())?,
            attended: backend.tensor(capacity, heads.q_cols())?,
            mlp: MlpSpace::new(backend, config, capacity)?,
            parts: parts.transpose()?,
            embedded: is_projected.then(|| backend.tensor(capacity, config.embedding_size)).transpose()?,
            gathered: backend.residual(capacity, config.hidden_size)?,
            gathered_attended: backend.tensor(capacity, heads.q_cols())?,
            swapped: false,
            batch: None,
            capacity,
        })
    }

    /// Most rows of a step.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    fn swap(&mut self) {
        std::mem::swap(&mut self.hidden, &mut self.gathered);
        std::mem::swap(&mut self.attended, &mut self.gathered_attended);
        self.swapped = !self.swapped;
    }

    /// Every tensor in its first place, with `rows` rows: recorded steps know where they were.
    fn set_rows(&mut self, backend: &B, rows: usize) -> Result<()> {
        if self.swapped {
            self.swap();
        }
        let tensors = [&mut self.hidden, &mut self.normed, &mut self.qkv, &mut self.attended];
        for tensor in tensors.into_iter().chain(&mut self.embedded) {
            backend.set_rows(tensor, rows)?;
        }
        self.set_mlp_rows(backend, rows)
    }

    /// Goes on with these rows of `hidden` and `attended` only.
    fn keep_rows(&mut self, backend: &B, rows: &[u32]) -> Result<()> {
        backend.set_rows(&mut self.gathered, rows.len())?;
        backend.set_rows(&mut self.gathered_attended, rows.len())?;
        backend.gather_rows(&self.hidden, rows, &mut self.gathered)?;
        backend.gather_rows(&self.attended, rows, &mut self.gathered_attended)?;
        self.swap();
        backend.set_rows(&mut self.normed, rows.len())?;
        self.set_mlp_rows(backend, rows.len())
    }

    /// Of what a layer writes from the output projection of its attention on.
    fn set_mlp_rows(&mut self, backend: &B, rows: usize) -> Result<()> {
        self.parts.iter_mut().try_for_each(|parts| parts.set_rows(backend, rows))?;
        self.mlp.set_rows(backend, rows)
    }

    /// Normalises the residual stream itself.
    fn renorm(&mut self, backend: &B, norm: &Norm<B::Tensor>) -> Result<()> {
        norm.forward(backend, &self.hidden, &mut self.normed)?;
        Ok(backend.convert(&self.normed, &mut self.hidden)?)
    }
}

impl<B: Backend> Decoder<B> {
    /// Packs the weights of `files`, or the part that is the device's of `rank`, for contexts of up to `max_seq_len` tokens. `on_progress(done, total)` counts layers.
    pub fn load(
        backend: &B,
        files: &ModelFiles,
        rank: Rank,
        max_seq_len: usize,
        on_progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self> {
        let config = rank.config(files.config())?;
        Ok(Self {
            parameters: Parameters::load(&Pack(backend), files, rank, on_progress)?,
            rotary: Rotary::new(backend, &config, max_seq_len)?,
            heads: config.heads(),
            positions: config.positions,
            post_norm: config.post_norm,
        })
    }

    /// Bytes of all matrices in the layout that is computed with.
    pub fn weight_bytes(&self, backend: &B) -> usize {
        self.parameters.matrices().map(|weight| backend.weight_bytes(weight)).sum()
    }

    /// Runs all layers over a batch, some of whose ids may stand for what `before` samples; the residual stream of the rows asked for stays in `space`. Of the others the last layer
    /// only stores keys and values.
    pub fn forward(
        &self,
        backend: &B,
        batch: &ForwardBatch,
        before: Option<&B::Answers>,
        asked: &Asked,
        kv: &mut B::KvCache,
        space: &mut Workspace<B>,
    ) -> Result<()> {
        // Its memory is free for the next one.
        space.batch = None;
        let turn = self.rotary.turn(backend, batch)?;
        let learned: Vec<u32> = match self.positions {
            Positions::Rotary => Vec::new(),
            Positions::Learned { offset } => batch.paged.positions.iter().map(|p| p + offset as u32).collect(),
        };
        let places = [&asked.sampled, &asked.scored].map(|places| places.chunks(space.capacity));
        let mut lists = vec![&batch.ids[..], &learned, &asked.rows];
        lists.extend(places.into_iter().flatten().chain(batch.targets.chunks(space.capacity)));
        let device_batch = backend.step(&turn.batch, &lists, self.heads, kv)?;
        let rows = batch.ids.len();
        space.set_rows(backend, rows)?;
        self.embed(backend, &batch.ids, before, &learned, space)?;
        let mut layers = || self.layers(backend, &device_batch, turn.table(), asked, rows, kv, space);
        let is_replayable = turn.is_common() && asked.rows.len() == rows;
        if is_replayable { backend.replay(&device_batch, &mut layers) } else { layers() }?;
        space.batch = Some(device_batch);
        Ok(())
    }

    /// The layers, from the embedded tokens on; `rows`: rows of the batch.
    #[allow(clippy::too_many_arguments)]
    fn layers(
        &self,
        backend: &B,
        batch: &B::Batch,
        rotary: &B::Tensor,
        asked: &Asked,
        rows: usize,
        kv: &mut B::KvCache,
        space: &mut Workspace<B>,
    ) -> Result<()> {
        let layers = &self.parameters.layers;
        if self.post_norm {
            backend.convert(&space.hidden, &mut space.normed)?;
        }
        for (index, layer) in layers.iter().enumerate() {
            if !self.post_norm {
                layer.attention_norm.forward(backend, &space.hidden, &mut space.normed)?;
            }
            let attention_space = AttentionSpace { qkv: &mut space.qkv, attended: &mut space.attended };
            layer.attention.attend(backend, &space.normed, rotary, batch, index, kv, attention_space)?;
            if index + 1 == layers.len() && asked.rows.len() < rows {
                space.keep_rows(backend, &asked.rows)?;
            }
            layer.attention.project(backend, &space.attended, space.parts.as_mut(), &mut space.hidden)?;
            if self.post_norm {
                space.renorm(backend, &layer.attention_norm)?;
            } else {
                layer.mlp_norm.forward(backend, &space.hidden, &mut space.normed)?;
            }
            layer.mlp.widen(backend, &space.normed, &mut space.mlp)?;
            layer.mlp.project(backend, &space.mlp, space.parts.as_mut(), &mut space.hidden)?;
            if self.post_norm {
                space.renorm(backend, &layer.mlp_norm)?;
            }
        }
        Ok(())
    }

    /// The residual stream at its beginning: tokens, and their positions where these are learned, by rows of their table.
    fn embed(
        &self,
        backend: &B,
        ids: &[u32],
        before: Option<&B::Answers>,
        learned: &[u32],
        space: &mut Workspace<B>,
    ) -> Result<()> {
        let Parameters { embedding, positions, project_in, .. } = &self.parameters;
        let Workspace { hidden, normed, embedded, .. } = space;
        let look_up = |out: &mut B::Tensor| match before {
            Some(before) => backend.embedding_after(before, embedding, ids, out),
            None => backend.embedding(embedding, ids, out),
        };
        match (project_in, embedded) {
            (Some(project_in), Some(embedded)) => {
                look_up(embedded)?;
                backend.linear(embedded, project_in, None, Epilogue::Store, hidden)?;
            }
            _ => {
                look_up(normed)?;
                backend.convert(normed, hidden)?;
            }
        }
        if let Some(positions) = positions {
            backend.embedding(positions, learned, normed)?;
            backend.add(normed, hidden)?;
        }
        Ok(())
    }

    /// Asks for all that is wanted after the rows of the last batch; a row may be asked more than once.
    pub fn ask(
        &self,
        backend: &B,
        batch: &ForwardBatch,
        asked: &Asked,
        space: &mut Workspace<B>,
    ) -> Result<B::Answers> {
        let mut answers = backend.answers(asked.sampled.len(), asked.scored.len())?;
        let capacity = space.capacity;
        for (places, how) in asked.sampled.chunks(capacity).zip(batch.sampling.chunks(capacity)) {
            let (hidden, head) = self.last_hidden(backend, places, space)?;
            backend.queue_sample(hidden, head, how, &mut answers)?;
        }
        for (places, targets) in asked.scored.chunks(capacity).zip(batch.targets.chunks(capacity)) {
            let (hidden, head) = self.last_hidden(backend, places, space)?;
            backend.queue_log_prob(hidden, head, targets, &mut answers)?;
        }
        Ok(answers)
    }

    /// The logits after the row at `place` of those asked. `[vocab_size]`
    pub fn logits(&self, backend: &B, place: u32, vocab_size: usize, space: &mut Workspace<B>) -> Result<Vec<f32>> {
        let mut out = backend.residual(1, vocab_size)?;
        backend.set_rows(&mut out, 1)?;
        let (hidden, head) = self.last_hidden(backend, &[place], space)?;
        backend.linear(hidden, head, None, Epilogue::Store, &mut out)?;
        Ok(backend.download(&out)?)
    }

    /// What the head reads, of the rows at these `places` only.
    fn last_hidden<'a>(
        &'a self,
        backend: &B,
        places: &[u32],
        space: &'a mut Workspace<B>,
    ) -> Result<(&'a B::Tensor, &'a B::Weight)> {
        let Parameters { norm, project_out, head, embedding, .. } = &self.parameters;
        let Workspace { hidden, normed, gathered, embedded, .. } = space;
        backend.set_rows(gathered, places.len())?;
        backend.gather_rows(hidden, places, gathered)?;
        backend.set_rows(normed, places.len())?;
        match norm {
            Some(norm) => norm.forward(backend, gathered, normed)?,
            None => backend.convert(gathered, normed)?,
        }
        let mut last = &*normed;
        if let (Some(project_out), Some(embedded)) = (project_out, embedded) {
            backend.set_rows(embedded, places.len())?;
            backend.linear(last, project_out, None, Epilogue::Store, embedded)?;
            last = embedded;
        }
        Ok((last, head.as_ref().unwrap_or(embedding)))
    }
}
