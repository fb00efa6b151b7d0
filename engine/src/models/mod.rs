//! The architecture registry: one row per architecture, one file each.

pub(crate) mod decoder;
mod llama;
mod qwen2;

/// What distinguishes one architecture from another on the way from its files to the shared [`decoder`].
#[derive(Debug)]
pub(crate) struct Architecture {
    /// Hugging Face class name, as in `architectures` of a `config.json`.
    pub class: &'static str,
    /// `model_type` of a `config.json`, for files without `architectures`.
    pub model_type: &'static str,
    /// `general.architecture` of a GGUF file.
    pub gguf: &'static str,
    /// Whether the q, k and v projections have a bias.
    pub attention_bias: bool,
    /// Whether GGUF files interleave the two halves of each query and key head (ggml's rotation of neighbours).
    pub gguf_interleaves_heads: bool,
}

/// Every architecture.
pub(crate) const ARCHITECTURES: [&Architecture; 2] = [&llama::ARCHITECTURE, &qwen2::ARCHITECTURE];

impl Architecture {
    /// The architecture of this Hugging Face class name.
    pub fn of_class(class: &str) -> Option<&'static Self> {
        ARCHITECTURES.into_iter().find(|a| a.class == class)
    }
}
