//! LLaMA 1 to 3 and what shares their architecture, such as SmolLM2 (arXiv 2302.13971, 2307.09288, 2407.21783).

use super::{Architecture, Biases};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    class: "LlamaForCausalLM",
    model_type: "llama",
    gguf: "llama",
    biases: Biases::Field { name: "attention_bias", default: false },
    gguf_interleaves_heads: true,
    tensors: &[],
};
