//! Grouped-query attention: the projections around [`Backend::attention`].

use super::{Parts, Store, Weights, add_product};
use crate::{ModelConfig, Result};
use oc_kernels::{Backend, Epilogue};

/// One layer's attention, its matrices kept as `M` and its vectors as `V`.
pub(crate) struct Attention<M, V> {
    /// `head_dim^-1/2`
    scale: f32,
    /// `[qkv_cols, hidden_size]`
    qkv: M,
    /// `[qkv_cols]`
    qkv_bias: Option<V>,
    /// `[hidden_size, q_cols]`
    output: M,
    /// `[hidden_size]`
    output_bias: Option<V>,
}

/// What attention writes on its way. `T` is the number of rows.
pub(crate) struct AttentionSpace<'a, B: Backend> {
    /// `[T, qkv_cols]`
    pub qkv: &'a mut B::Tensor,
    /// `[T, q_cols]`
    pub attended: &'a mut B::Tensor,
}

impl<M, V> Attention<M, V> {
    pub fn load<S: Store<Matrix = M, Vector = V>>(weights: &Weights<'_, S>, config: &ModelConfig) -> Result<Self> {
        let heads = config.heads();
        let (hidden, q, kv) = (config.hidden_size, heads.q_cols(), heads.num_kv_heads * heads.head_dim);
        let qkv = [("self_attn.q_proj.weight", q), ("self_attn.k_proj.weight", kv), ("self_attn.v_proj.weight", kv)];
        let bias = [("self_attn.q_proj.bias", q), ("self_attn.k_proj.bias", kv), ("self_attn.v_proj.bias", kv)];
        Ok(Self {
            scale: (heads.head_dim as f32).sqrt().recip(),
            qkv: weights.by_rows().matrix(&qkv, hidden)?,
            qkv_bias: weights.by_rows().biases(config.attention_bias, &bias)?,
            output: weights.by_cols().matrix(&[("self_attn.o_proj.weight", hidden)], q)?,
            output_bias: weights.biases_of_sum(config.attention_output_bias, &[("self_attn.o_proj.bias", hidden)])?,
        })
    }

    /// Stores the keys and values of `x` in layer `layer` of `kv`, and attends to them. `x: [T, hidden_size]`
    #[allow(clippy::too_many_arguments)]
    pub fn attend<B: Backend<Weight = M, Tensor = V>>(
        &self,
        backend: &B,
        x: &V,
        rotary: &V,
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

    /// Adds the output projection of `attended: [T, q_cols]` to `hidden: [T, hidden_size]`, as [`add_product`].
    pub fn project<B: Backend<Weight = M, Tensor = V>>(
        &self,
        backend: &B,
        attended: &V,
        parts: Option<&mut Parts<V>>,
        hidden: &mut V,
    ) -> Result<()> {
        add_product(backend, attended, &self.output, self.output_bias.as_ref(), parts, hidden)
    }

    pub fn matrices(&self) -> [&M; 2] {
        [&self.qkv, &self.output]
    }
}
