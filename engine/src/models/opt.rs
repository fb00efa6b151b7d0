//! OPT (arXiv 2205.01068): learned positions, LayerNorm and a plain MLP, biases everywhere. The 350m model normalises after
//! the residual additions and has narrower embeddings, which are projected in and out.

use super::{Architecture, Biases, Rows};
use crate::{MlpKind, ModelConfig, Norm, Positions, Result, RopeScaling, load::fields::Fields};
use oc_kernels::Activation;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    class: "OPTForCausalLM",
    model_type: "opt",
    gguf: None,
    config,
    biases: Biases::Field { name: "enable_bias", default: true },
    gguf_interleaves_heads: false,
    // The published files were saved without the head, and so without `model.`.
    prefixes: &["model.decoder.", "decoder."],
    tensors: &[
        ("model.final_layer_norm.weight", "model.norm.weight", Rows::All),
        ("model.final_layer_norm.bias", "model.norm.bias", Rows::All),
        ("self_attn_layer_norm.weight", "input_layernorm.weight", Rows::All),
        ("self_attn_layer_norm.bias", "input_layernorm.bias", Rows::All),
        ("self_attn.out_proj.weight", "self_attn.o_proj.weight", Rows::All),
        ("self_attn.out_proj.bias", "self_attn.o_proj.bias", Rows::All),
        ("final_layer_norm.weight", "post_attention_layernorm.weight", Rows::All),
        ("final_layer_norm.bias", "post_attention_layernorm.bias", Rows::All),
        ("fc1.weight", "mlp.up_proj.weight", Rows::All),
        ("fc1.bias", "mlp.up_proj.bias", Rows::All),
        ("fc2.weight", "mlp.down_proj.weight", Rows::All),
        ("fc2.bias", "mlp.down_proj.bias", Rows::All),
    ],
};

fn config(fields: &Fields<'_>, biases: Biases) -> Result<ModelConfig> {
    let hidden_size = fields.size("hidden_size")?;
    let num_heads = fields.size("num_attention_heads")?;
    let before = fields.flag("do_layer_norm_before")?.unwrap_or(true);
    let (biases, _) = biases.of(fields)?;
    let activation = match fields.text("activation_function")? {
        None | Some("relu") => Activation::Relu,
        Some("gelu") => Activation::Gelu,
        Some(other) => return Err(fields.unsupported("activation_function", other)),
    };
    Ok(ModelConfig {
        architecture: String::new(),
        hidden_size,
        embedding_size: fields.optional_size("word_embed_proj_dim")?.unwrap_or(hidden_size),
        intermediate_size: fields.size("ffn_dim")?,
        num_layers: fields.size("num_hidden_layers")?,
        num_heads,
        num_kv_heads: num_heads,
        head_dim: hidden_size / num_heads,
        vocab_size: fields.size("vocab_size")?,
        max_position_embeddings: fields.size("max_position_embeddings")?,
        // fairseq counted positions from its padding token's id on, which is 1.
        positions: Positions::Learned { offset: 2 },
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        norm: Norm::Layer { affine: fields.flag("layer_norm_elementwise_affine")?.unwrap_or(true) },
        norm_eps: 1e-5,
        post_norm: !before,
        final_norm: before && !fields.flag("_remove_final_layer_norm")?.unwrap_or(false),
        mlp: MlpKind::Plain(activation),
        mlp_bias: biases,
        attention_bias: biases,
        attention_output_bias: biases,
        tie_word_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(true),
        bos_token_id: None,
        eos_token_ids: Vec::new(),
    })
}
