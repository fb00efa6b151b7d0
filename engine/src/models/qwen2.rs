//! Qwen2 and Qwen2.5 (arXiv 2407.10671): LLaMA with biases on the q, k and v projections.

use super::{Architecture, Biases, llama};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    class: "Qwen2ForCausalLM",
    model_type: "qwen2",
    gguf: Some("qwen2"),
    config: llama::config,
    biases: Biases::Qkv,
    gguf_interleaves_heads: false,
    prefixes: &[],
    tensors: &[],
};
