//! The feed-forward part of a layer, gated or plain.

use super::{Parts, Store, Weights, add_product};
use crate::{MlpKind, ModelConfig, Result};
use oc_kernels::{Activation, Backend, Epilogue};

/// One layer's MLP, its matrices kept as `M` and its vectors as `V`.
pub(crate) struct Mlp<M, V> {
    kind: MlpKind,
    /// Gate and up of a gated one, `[2 * intermediate_size, hidden_size]`, else `[intermediate_size, hidden_size]`.
    up: M,
    /// One per row of `up`.
    up_bias: Option<V>,
    /// `[hidden_size, intermediate_size]`
    down: M,
    /// `[hidden_size]`
    down_bias: Option<V>,
}

/// What the MLP writes on its way. `T` is the number of rows.
pub(crate) struct MlpSpace<T> {
    /// Of a gated one with biases. `[T, 2 * intermediate_size]`
    pub gate_up: Option<T>,
    /// `[T, intermediate_size]`
    pub inner: T,
}

impl<T> MlpSpace<T> {
    /// Room for `capacity` rows.
    pub fn new<B: Backend<Tensor = T>>(backend: &B, config: &ModelConfig, capacity: usize) -> Result<Self> {
        let is_split = config.mlp == MlpKind::Gated && config.mlp_bias;
        let gate_up = is_split.then(|| backend.tensor(capacity, 2 * config.intermediate_size)).transpose()?;
        Ok(Self { gate_up, inner: backend.tensor(capacity, config.intermediate_size)? })
    }

    pub fn set_rows<B: Backend<Tensor = T>>(&mut self, backend: &B, rows: usize) -> Result<()> {
        self.gate_up.iter_mut().chain([&mut self.inner]).try_for_each(|tensor| Ok(backend.set_rows(tensor, rows)?))
    }
}

impl<M, V> Mlp<M, V> {
    pub fn load<S: Store<Matrix = M, Vector = V>>(weights: &Weights<'_, S>, config: &ModelConfig) -> Result<Self> {
        let (hidden, inner, has_bias) = (config.hidden_size, config.intermediate_size, config.mlp_bias);
        let (gate, gate_bias) = (("mlp.gate_proj.weight", inner), ("mlp.gate_proj.bias", inner));
        let (up, up_bias) = (("mlp.up_proj.weight", inner), ("mlp.up_proj.bias", inner));
        let by_rows = weights.by_rows();
        let (up, up_bias) = match config.mlp {
            // One product with the gate as its epilogue, which has no room for biases.
            MlpKind::Gated if !has_bias => (by_rows.gated(gate.0, up.0, inner, hidden)?, vec![]),
            MlpKind::Gated => (by_rows.matrix(&[gate, up], hidden)?, vec![gate_bias, up_bias]),
            MlpKind::Plain(_) => (by_rows.matrix(&[up], hidden)?, vec![up_bias]),
        };
        Ok(Self {
            kind: config.mlp,
            up,
            up_bias: by_rows.biases(has_bias, &up_bias)?,
            down: weights.by_cols().matrix(&[("mlp.down_proj.weight", hidden)], inner)?,
            down_bias: weights.biases_of_sum(has_bias, &[("mlp.down_proj.bias", hidden)])?,
        })
    }

    /// The activations that `x: [T, hidden_size]` leads to.
    pub fn widen<B: Backend<Weight = M, Tensor = V>>(&self, backend: &B, x: &V, space: &mut MlpSpace<V>) -> Result<()> {
        let bias = self.up_bias.as_ref();
        match (self.kind, &mut space.gate_up) {
            (MlpKind::Plain(activation), _) => {
                let epilogue = match activation {
                    Activation::Relu => Epilogue::Relu,
                    Activation::Gelu => Epilogue::Gelu,
                };
                Ok(backend.linear(x, &self.up, bias, epilogue, &mut space.inner)?)
            }
            (MlpKind::Gated, None) => Ok(backend.linear_silu_mul(x, &self.up, &mut space.inner)?),
            (MlpKind::Gated, Some(gate_up)) => {
                backend.linear(x, &self.up, bias, Epilogue::Store, gate_up)?;
                Ok(backend.silu_mul(gate_up, &mut space.inner)?)
            }
        }
    }

    /// Adds the projection of the activations to `hidden: [T, hidden_size]`, as [`add_product`].
    pub fn project<B: Backend<Weight = M, Tensor = V>>(
        &self,
        backend: &B,
        space: &MlpSpace<V>,
        parts: Option<&mut Parts<V>>,
        hidden: &mut V,
    ) -> Result<()> {
        add_product(backend, &space.inner, &self.down, self.down_bias.as_ref(), parts, hidden)
    }

    pub fn matrices(&self) -> [&M; 2] {
        [&self.up, &self.down]
    }
}
