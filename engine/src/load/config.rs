//! The numbers that define a decoder, from a Hugging Face `config.json`; `gguf_config` reads them from GGUF metadata.
//!
//! A field that would change the computation in a way this engine does not implement is an error that names it.

use super::fields::Fields;
use crate::{Error, Result};
use oc_kernels::{Activation, Heads, KvLayout};
use serde_json::Value;
use std::path::Path;

/// Everything a decoder needs besides its weights. Names as in Hugging Face configurations of LLaMA.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Hugging Face class name, such as `LlamaForCausalLM`.
    pub architecture: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the embedding and of what the output head reads; projected to and from `hidden_size` where they differ.
    pub embedding_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key/value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Longest context that the model was made for, in tokens.
    pub max_position_embeddings: usize,
    /// How tokens learn of their positions.
    pub positions: Positions,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Change of the rotary frequencies for long contexts.
    pub rope_scaling: RopeScaling,
    /// How hidden states are normalised.
    pub norm: Norm,
    /// Added to the mean square or the variance before the root.
    pub norm_eps: f32,
    /// Whether a layer normalises the residual stream after it has added to it, rather than what its parts read.
    pub post_norm: bool,
    /// Whether there is one more norm before the output head.
    pub final_norm: bool,
    /// What the MLP computes.
    pub mlp: MlpKind,
    /// Whether the matrices of the MLP have biases.
    pub mlp_bias: bool,
    /// Whether the q, k and v projections have a bias.
    pub attention_bias: bool,
    /// Whether the output projection of attention has a bias.
    pub attention_output_bias: bool,
    /// Whether the output projection is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// Token that begins a text.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text, each once.
    pub eos_token_ids: Vec<u32>,
}

/// How tokens learn of their positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positions {
    /// Queries and keys are rotated (arXiv 2104.09864).
    Rotary,
    /// A vector for each position is added to the embedding.
    Learned {
        /// Row of the first position; the rows before it are not used.
        offset: usize,
    },
}

/// How hidden states are normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// By their root mean square, times a weight (arXiv 1910.07467).
    Rms,
    /// By mean and variance (arXiv 1607.06450).
    Layer {
        /// Whether a weight and a bias follow.
        affine: bool,
    },
}

/// What the MLP computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MlpKind {
    /// `down(silu(gate(x)) * up(x))` (arXiv 2002.05202)
    Gated,
    /// `down(activation(up(x)))`
    Plain(Activation),
}

/// How the rotary frequencies differ from `rope_theta^(-2i/head_dim)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Every frequency divided by `factor`.
    Linear {
        /// At least 1.
        factor: f64,
    },
    /// Beyond the original context the base grows with the length of the text ("NTK-aware", `factor` 1 or more); within
    /// it nothing changes.
    Dynamic {
        /// How much faster than the length it grows.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, those between interpolated.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths over `original_max_position / low_freq_factor` are low frequencies.
        low_freq_factor: f64,
        /// Wavelengths under `original_max_position / high_freq_factor` are high frequencies.
        high_freq_factor: f64,
        /// Context of the pre-training.
        original_max_position: usize,
    },
}

impl ModelConfig {
    /// Reads a `config.json` and, where present, the end-of-sequence ids of its `generation_config.json`.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a missing or impossible value, [`Error::Unsupported`] for a field or architecture that
    /// this engine does not implement.
    pub(crate) fn from_json(path: &Path, config: &Value, generation_config: Option<&Value>) -> Result<Self> {
        let fields = Fields::new(path, config)?;
        let architecture = fields.architecture()?;
        let mut eos_token_ids = match generation_config {
            Some(g) => Fields::new(&path.with_file_name("generation_config.json"), g)?.ids("eos_token_id")?,
            None => Vec::new(),
        };
        if eos_token_ids.is_empty() {
            eos_token_ids = fields.ids("eos_token_id")?;
        }
        fields.check_neutral()?;
        let config = Self {
            architecture: architecture.class.to_owned(),
            bos_token_id: fields.ids("bos_token_id")?.first().copied(),
            eos_token_ids,
            ..(architecture.config)(&fields, architecture.biases)?
        };
        config.validate(path)?;
        Ok(config)
    }

    /// The heads of each layer.
    pub fn heads(&self) -> Heads {
        Heads { num_heads: self.num_heads, num_kv_heads: self.num_kv_heads, head_dim: self.head_dim }
    }

    /// The longest text whose tokens have the same hidden states however long it becomes. Beyond it, rotary frequencies
    /// follow from the length of the text.
    pub fn unscaled_context(&self) -> usize {
        match self.rope_scaling {
            RopeScaling::Dynamic { .. } => self.max_position_embeddings,
            _ => usize::MAX,
        }
    }

    /// The geometry of a KV pool of `num_pages` pages.
    pub(crate) fn kv_layout(&self, num_pages: usize) -> KvLayout {
        let Self { num_layers, num_kv_heads, head_dim, .. } = *self;
        KvLayout { num_layers, num_kv_heads, head_dim, num_pages }
    }

    /// Checks what every later computation relies on.
    pub(crate) fn validate(&self, path: &Path) -> Result<()> {
        let bad = |reason: String| Err(Error::Malformed { path: path.to_owned(), reason });
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("word_embed_proj_dim", self.embedding_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_layers),
            ("num_attention_heads", self.num_heads),
            ("num_key_value_heads", self.num_kv_heads),
            ("head_dim", self.head_dim),
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        if let Some((name, value)) = sizes.iter().find(|(_, v)| *v == 0 || *v > 1 << 31) {
            return bad(format!("{name} is {value}; it must be between 1 and 2^31"));
        }
        if !self.head_dim.is_multiple_of(2) {
            return bad(format!("head_dim is {}; it must be even", self.head_dim));
        }
        if !self.num_heads.is_multiple_of(self.num_kv_heads) {
            return bad(format!(
                "{} attention heads cannot be shared by {} key/value heads",
                self.num_heads, self.num_kv_heads
            ));
        }
        if !(self.norm_eps.is_finite() && self.norm_eps >= 0.0) {
            return bad(format!("rms_norm_eps is {}", self.norm_eps));
        }
        if !(self.rope_theta.is_finite() && self.rope_theta > 0.0) {
            return bad(format!("rope_theta is {}", self.rope_theta));
        }
        let ids = self.eos_token_ids.iter().chain(&self.bos_token_id);
        if let Some(id) = ids.into_iter().find(|id| **id as usize >= self.vocab_size) {
            return bad(format!("special token id {id} is outside the vocabulary of {}", self.vocab_size));
        }
        match self.rope_scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } if factor.is_finite() && factor >= 1.0 => Ok(()),
            // The base grows to the power of `head_dim / (head_dim - 2)`.
            RopeScaling::Dynamic { factor } if factor.is_finite() && factor >= 1.0 && self.head_dim > 2 => Ok(()),
            RopeScaling::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, original_max_position }
                if factor.is_finite()
                    && factor >= 1.0
                    && high.is_finite()
                    && low > 0.0
                    && high > low
                    && original_max_position > 0 =>
            {
                Ok(())
            }
            other => bad(format!("impossible rope_scaling {other:?}")),
        }
    }
}

pub(crate) fn unsupported(path: &Path, field: &str, value: &str) -> Error {
    Error::Unsupported {
        what: format!("{}: `{field}` = {value}", path.display()),
        hint: "this engine would compute something else than the model's authors meant; use a model without it".into(),
    }
}

/// The error for an architecture outside the registry.
pub(crate) fn unknown_architecture(path: &Path, name: &str, known: impl Iterator<Item = &'static str>) -> Error {
    Error::Unsupported {
        what: format!("{}: the architecture `{name}`", path.display()),
        hint: format!("the architectures that run are {}", known.collect::<Vec<_>>().join(", ")),
    }
}
