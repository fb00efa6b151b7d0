//! LLaMA 1 to 3 and what shares their architecture, such as SmolLM2 (arXiv 2302.13971, 2307.09288, 2407.21783).

use super::{Architecture, Biases};
use crate::{MlpKind, ModelConfig, Norm, Positions, Result, load::fields::Fields};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    class: "LlamaForCausalLM",
    model_type: "llama",
    gguf: Some("llama"),
    config,
    biases: Biases::Field { name: "attention_bias", default: false },
    gguf_interleaves_heads: true,
    prefixes: &[],
    tensors: &[],
};

/// The configuration of LLaMA and its kin, whose attention has biases as given.
pub(super) fn config(fields: &Fields<'_>, biases: Biases) -> Result<ModelConfig> {
    fields.neutral("hidden_act", &["\"silu\"", "\"swish\""])?;
    let (attention_bias, attention_output_bias) = biases.of(fields)?;
    for name in ["bias", "attention_bias"] {
        if !matches!(biases, Biases::Field { name: field, .. } if field == name) {
            fields.neutral(name, &["false"])?;
        }
    }
    let hidden_size = fields.size("hidden_size")?;
    let num_heads = fields.size("num_attention_heads")?;
    let (rope_theta, rope_scaling) = fields.rope()?;
    Ok(ModelConfig {
        architecture: String::new(),
        hidden_size,
        embedding_size: hidden_size,
        intermediate_size: fields.size("intermediate_size")?,
        num_layers: fields.size("num_hidden_layers")?,
        num_heads,
        num_kv_heads: fields.optional_size("num_key_value_heads")?.unwrap_or(num_heads),
        head_dim: fields.optional_size("head_dim")?.unwrap_or(hidden_size / num_heads),
        vocab_size: fields.size("vocab_size")?,
        max_position_embeddings: fields.size("max_position_embeddings")?,
        positions: Positions::Rotary,
        rope_theta,
        rope_scaling,
        norm: Norm::Rms,
        norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
        post_norm: false,
        final_norm: true,
        mlp: MlpKind::Gated,
        mlp_bias: fields.flag("mlp_bias")?.unwrap_or(false),
        attention_bias,
        attention_output_bias,
        tie_word_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(false),
        bos_token_id: None,
        eos_token_ids: Vec::new(),
    })
}
