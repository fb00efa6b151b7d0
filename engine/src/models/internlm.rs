//! InternLM, the first version (7B, 20B, base and chat): LLaMA with biases on all four projections of attention.

use super::{Architecture, Biases};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    class: "InternLMForCausalLM",
    model_type: "internlm",
    gguf: "internlm",
    // A configuration without the field has them.
    biases: Biases::Field { name: "bias", default: true },
    gguf_interleaves_heads: false,
    tensors: &[],
};
