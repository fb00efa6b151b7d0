//! InternLM2 and 2.5 (arXiv 2403.17297): LLaMA with other tensor names and one matrix for queries, keys and values.

use super::{Architecture, Biases, Rows, llama};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    class: "InternLM2ForCausalLM",
    model_type: "internlm2",
    gguf: Some("internlm2"),
    config: llama::config,
    biases: Biases::Field { name: "bias", default: true },
    gguf_interleaves_heads: true,
    prefixes: &[],
    tensors: &[
        ("model.tok_embeddings.weight", "model.embed_tokens.weight", Rows::All),
        ("output.weight", "lm_head.weight", Rows::All),
        ("attention_norm.weight", "input_layernorm.weight", Rows::All),
        ("attention.wqkv.weight", "self_attn.q_proj.weight", Rows::Query),
        ("attention.wqkv.weight", "self_attn.k_proj.weight", Rows::Key),
        ("attention.wqkv.weight", "self_attn.v_proj.weight", Rows::Value),
        ("attention.wqkv.bias", "self_attn.q_proj.bias", Rows::Query),
        ("attention.wqkv.bias", "self_attn.k_proj.bias", Rows::Key),
        ("attention.wqkv.bias", "self_attn.v_proj.bias", Rows::Value),
        ("attention.wo.weight", "self_attn.o_proj.weight", Rows::All),
        ("attention.wo.bias", "self_attn.o_proj.bias", Rows::All),
        ("ffn_norm.weight", "post_attention_layernorm.weight", Rows::All),
        ("feed_forward.w1.weight", "mlp.gate_proj.weight", Rows::All),
        ("feed_forward.w3.weight", "mlp.up_proj.weight", Rows::All),
        ("feed_forward.w2.weight", "mlp.down_proj.weight", Rows::All),
    ],
};
