//! A device among several that share a model, and what its part of the model is.
//!
//! Attention is cut by key/value heads, with the query heads that read them, and the MLP by its inner width: rows of what
//! makes them, columns of what comes back. Embeddings, norms and the output head are on every device.

use crate::{Error, ModelConfig, Result};

/// One of `count` devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rank {
    /// Which, from 0.
    pub index: usize,
    /// Devices that share the model.
    pub count: usize,
}

impl Rank {
    /// A device that has a model for itself.
    pub const ALONE: Self = Self { index: 0, count: 1 };

    /// The first of `count` devices.
    pub fn first(count: usize) -> Self {
        Self { index: 0, count: count.max(1) }
    }

    /// All of as many devices.
    pub fn all(self) -> impl Iterator<Item = Self> {
        (0..self.count).map(move |index| Self { index, ..self })
    }

    /// The sizes of this device's part of the model of `config`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model that cannot be cut into as many equal parts.
    pub fn config(self, config: &ModelConfig) -> Result<ModelConfig> {
        let sizes = [("key/value heads", config.num_kv_heads), ("numbers inside the MLP", config.intermediate_size)];
        if let Some((name, size)) = sizes.iter().find(|(_, size)| !size.is_multiple_of(self.count)) {
            let fits = |count: &usize| sizes.iter().all(|(_, size)| size.is_multiple_of(*count));
            let fitting: Vec<String> = (1..=config.num_kv_heads).filter(fits).map(|count| count.to_string()).collect();
            return Err(Error::Unsupported {
                what: format!("a model with {size} {name} cut over {} devices", self.count),
                hint: format!("it can be cut over {} (--tensor-parallel-size)", fitting.join(" or ")),
            });
        }
        Ok(ModelConfig {
            num_heads: config.num_heads / self.count,
            num_kv_heads: config.num_kv_heads / self.count,
            intermediate_size: config.intermediate_size / self.count,
            ..config.clone()
        })
    }
}
