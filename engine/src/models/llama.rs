//! LLaMA 1 to 3 and what shares their architecture, such as SmolLM2 (arXiv 2302.13971, 2307.09288, 2407.21783).

use super::Architecture;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    class: "LlamaForCausalLM",
    model_type: "llama",
    gguf: "llama",
    attention_bias: false,
    gguf_interleaves_heads: true,
};
