//! Normalisation of hidden states: RMSNorm or LayerNorm.

use super::{Store, Weights};
use crate::{ModelConfig, Norm as Kind, Result};
use oc_kernels::Backend;

/// A norm, its parameters kept as `V`.
pub(crate) struct Norm<V> {
    kind: Kind,
    eps: f32,
    /// `[hidden_size]`
    weight: V,
    /// `[hidden_size]`
    bias: Option<V>,
}

impl<V> Norm<V> {
    /// The one whose parameters are `<name>.weight` and `<name>.bias`, if it has any.
    pub fn load<S: Store<Vector = V>>(weights: &Weights<'_, S>, config: &ModelConfig, name: &str) -> Result<Self> {
        let hidden = config.hidden_size;
        let weight = match config.norm {
            Kind::Rms | Kind::Layer { affine: true } => weights.vector(&format!("{name}.weight"), hidden)?,
            Kind::Layer { affine: false } => weights.ones(hidden)?,
        };
        let has_bias = config.norm == Kind::Layer { affine: true };
        let bias = weights.biases(has_bias, &[(&format!("{name}.bias"), hidden)])?;
        Ok(Self { kind: config.norm, eps: config.norm_eps, weight, bias })
    }

    /// `x`, `out`: `[T, hidden_size]`
    pub fn forward<B: Backend<Tensor = V>>(&self, backend: &B, x: &V, out: &mut V) -> Result<()> {
        match self.kind {
            Kind::Rms => backend.rms_norm(x, &self.weight, self.eps, out)?,
            Kind::Layer { .. } => backend.layer_norm(x, &self.weight, self.bias.as_ref(), self.eps, out)?,
        }
        Ok(())
    }
}
