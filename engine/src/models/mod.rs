//! The architecture registry: one row per architecture, one file each.

pub(crate) mod decoder;
mod internlm;
mod internlm2;
mod llama;
mod opt;
mod qwen2;

use crate::{ModelConfig, Result, load::fields::Fields};

/// What distinguishes one architecture from another on the way from its files to the shared [`decoder`].
#[derive(Debug)]
pub(crate) struct Architecture {
    /// Hugging Face class name, as in `architectures` of a `config.json`.
    pub class: &'static str,
    /// `model_type` of a `config.json`, for files without `architectures`.
    pub model_type: &'static str,
    /// `general.architecture` of a GGUF file; `None` where there is no such thing.
    pub gguf: Option<&'static str>,
    /// The meaning of a `config.json`, without the name of the class and the tokens that begin and end texts.
    pub config: fn(&Fields<'_>, Biases) -> Result<ModelConfig>,
    /// Which projections of attention have a bias.
    pub biases: Biases,
    /// Whether GGUF files interleave the two halves of each query and key head (ggml's rotation of neighbours).
    pub gguf_interleaves_heads: bool,
    /// What tensor names of a folder begin with, where LLaMA's begin with `model.`; the longest first.
    pub prefixes: &'static [&'static str],
    /// Tensors that a folder keeps under names other than LLaMA's: its name, LLaMA's name, and which of its rows those are.
    /// Names inside a layer stand without `model.layers.N.`.
    pub tensors: &'static [(&'static str, &'static str, Rows)],
}

/// Which projections of attention have a bias.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Biases {
    /// Queries, keys and values.
    Qkv,
    /// All four, if this field of the configuration says so.
    Field {
        /// The field.
        name: &'static str,
        /// What its absence means.
        default: bool,
    },
}

impl Biases {
    /// Whether queries, keys and values have one, and whether the output projection has.
    pub fn of(self, fields: &Fields<'_>) -> Result<(bool, bool)> {
        match self {
            Self::Qkv => Ok((true, false)),
            Self::Field { name, default } => {
                let all = fields.flag(name)?.unwrap_or(default);
                Ok((all, all))
            }
        }
    }
}

/// Rows of a tensor in a folder. A fused matrix holds, for every key/value head, the query heads that read it, the key
/// head and the value head, `head_dim` rows each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    /// All, in order.
    All,
    /// The query heads of a fused matrix.
    Query,
    /// Its key heads.
    Key,
    /// Its value heads.
    Value,
}

/// Every architecture.
pub(crate) const ARCHITECTURES: [&Architecture; 5] =
    [&llama::ARCHITECTURE, &qwen2::ARCHITECTURE, &internlm::ARCHITECTURE, &internlm2::ARCHITECTURE, &opt::ARCHITECTURE];

impl Architecture {
    /// The architecture of this Hugging Face class name.
    pub fn of_class(class: &str) -> Option<&'static Self> {
        ARCHITECTURES.into_iter().find(|a| a.class == class)
    }
}
