//! InternLM, the first version (7B, 20B, base and chat): LLaMA with biases on all four projections of attention.
//!
//! Beyond the original context its authors' code rotates all cached keys anew for every generated token. Here, as for every
//! model, a key stays as it was written, which is transformers' LLaMA; prompts and their first token are the same in both.

use super::{Architecture, Biases, llama};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    class: "InternLMForCausalLM",
    model_type: "internlm",
    gguf: None,
    // A configuration without the field has them.
    config: llama::config,
    biases: Biases::Field { name: "bias", default: true },
    gguf_interleaves_heads: false,
    prefixes: &[],
    tensors: &[],
};
