//! Grouped-query attention with rotary embedding: the projections around [`Backend::attention`].

use super::Weights;
use crate::{ModelConfig, Result};
use oc_kernels::{Backend, Epilogue};

/// One layer's attention.
pub(crate) struct Attention<B: Backend> {
    /// `head_dim^-1/2`
    scale: f32,
    /// `[qkv_cols, hidden_size]`
    qkv: B::Weight,
    /// `[qkv_cols]`
    qkv_bias: Option<B::Tensor>,
    /// `[hidden_size, q_cols]`
    output: B::Weight,
    /// `[hidden_size]`
    output_bias: Option<B::Tensor>,
}

/// What attention writes on its way. `T` is the number of rows.
pub(crate) struct AttentionSpace<'a, B: Backend> {
    /// `[T, qkv_cols]`
    pub qkv: &'a mut B::Tensor,
    /// `[T, q_cols]`
    pub attended: &'a mut B::Tensor,
}

impl<B: Backend> Attention<B> {
    pub fn load(weights: &Weights<'_, B>, config: &ModelConfig) -> Result<Self> {
        let heads = config.heads();
        let (hidden, q, kv) = (config.hidden_size, heads.q_cols(), heads.num_kv_heads * heads.head_dim);
        let qkv = [("self_attn.q_proj.weight", q), ("self_attn.k_proj.weight", kv), ("self_attn.v_proj.weight", kv)];
        let bias = [("self_attn.q_proj.bias", q), ("self_attn.k_proj.bias", kv), ("self_attn.v_proj.bias", kv)];
        Ok(Self {
            scale: (heads.head_dim as f32).sqrt().recip(),
            qkv: weights.matrix(&qkv, hidden)?,
            qkv_bias: config.attention_bias.then(|| weights.vectors(&bias)).transpose()?,
            output: weights.matrix(&[("self_attn.o_proj.weight", hidden)], q)?,
            output_bias: config
                .attention_output_bias
                .then(|| weights.vector("self_attn.o_proj.bias", hidden))
                .transpose()?,
        })
    }

    /// Stores the keys and values of `x` in layer `layer` of `kv`, and attends to them. `x: [T, hidden_size]`
    #[allow(clippy::too_many_arguments)]
    pub fn attend(
        &self,
        backend: &B,
        x: &B::Tensor,
        rotary: &B::Tensor,
        batch: &B::Batch,
        layer: usize,
        kv: &mut B::KvCache,
        space: AttentionSpace<'_, B>,
    ) -> Result<()> {
        let AttentionSpace { qkv, attended } = space;
        backend.linear(x, &self.qkv, self.qkv_bias.as_ref(), Epilogue::Store, qkv)?;
        backend.rotary_store_kv(qkv, rotary, batch, layer, kv)?;
        Ok(backend.attention(qkv, batch, layer, kv, self.scale, attended)?)
    }

    /// Adds the output projection of `attended: [T, q_cols]` to `hidden: [T, hidden_size]`.
    pub fn project(&self, backend: &B, attended: &B::Tensor, hidden: &mut B::Tensor) -> Result<()> {
        Ok(backend.linear(attended, &self.output, self.output_bias.as_ref(), Epilogue::Accumulate, hidden)?)
    }

    pub fn weights(&self) -> [&B::Weight; 2] {
        [&self.qkv, &self.output]
    }
}
