//! The gated MLP: `down(silu(gate(x)) * up(x))` (arXiv 2002.05202).

use super::Weights;
use crate::{ModelConfig, Result};
use oc_kernels::{Backend, Epilogue};

/// One layer's MLP.
pub(crate) struct Mlp<B: Backend> {
    /// `[2 * intermediate_size, hidden_size]`
    gate_up: B::Weight,
    /// `[hidden_size, intermediate_size]`
    down: B::Weight,
}

impl<B: Backend> Mlp<B> {
    pub fn load(weights: &Weights<'_, B>, config: &ModelConfig) -> Result<Self> {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let gate_up = [("mlp.gate_proj.weight", intermediate), ("mlp.up_proj.weight", intermediate)];
        Ok(Self {
            gate_up: weights.matrix(&gate_up, hidden)?,
            down: weights.matrix(&[("mlp.down_proj.weight", hidden)], intermediate)?,
        })
    }

    /// Adds the MLP of `x` to `hidden`. `x`, `hidden`: `[T, hidden_size]`, `gate_up`: `[T, 2 * intermediate_size]`,
    /// `gated`: `[T, intermediate_size]`
    pub fn forward(
        &self,
        backend: &B,
        x: &B::Tensor,
        gate_up: &mut B::Tensor,
        gated: &mut B::Tensor,
        hidden: &mut B::Tensor,
    ) -> Result<()> {
        backend.linear(x, &self.gate_up, None, Epilogue::Store, gate_up)?;
        backend.silu_mul(gate_up, gated)?;
        Ok(backend.linear(gated, &self.down, None, Epilogue::Accumulate, hidden)?)
    }

    pub fn weights(&self) -> [&B::Weight; 2] {
        [&self.gate_up, &self.down]
    }
}
