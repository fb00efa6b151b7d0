//! The tensors of a decoder, under their GGUF and their Hugging Face names.

use super::config::ModelConfig;

/// Outside the layers: (GGUF, Hugging Face).
const MODEL: [(&str, &str); 3] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
];

/// Inside each layer, after `blk.N.` and `model.layers.N.`.
const LAYER: [(&str, &str); 12] = [
    ("attn_norm.weight", "input_layernorm.weight"),
    ("attn_q.weight", "self_attn.q_proj.weight"),
    ("attn_k.weight", "self_attn.k_proj.weight"),
    ("attn_v.weight", "self_attn.v_proj.weight"),
    ("attn_q.bias", "self_attn.q_proj.bias"),
    ("attn_k.bias", "self_attn.k_proj.bias"),
    ("attn_v.bias", "self_attn.v_proj.bias"),
    ("attn_output.weight", "self_attn.o_proj.weight"),
    ("ffn_norm.weight", "post_attention_layernorm.weight"),
    ("ffn_gate.weight", "mlp.gate_proj.weight"),
    ("ffn_up.weight", "mlp.up_proj.weight"),
    ("ffn_down.weight", "mlp.down_proj.weight"),
];

/// The Hugging Face name of a GGUF tensor; `None` for one that the decoder of `config` does not have.
pub(super) fn from_gguf(config: &ModelConfig, name: &str) -> Option<String> {
    if let Some((_, hf)) = MODEL.iter().find(|(gguf, _)| *gguf == name) {
        return Some((*hf).to_owned());
    }
    let (layer, part) = layer_of(config, name.strip_prefix("blk.")?)?;
    let (_, hf) = LAYER.iter().find(|(gguf, _)| *gguf == part)?;
    Some(format!("model.layers.{layer}.{hf}"))
}

/// Whether the decoder of `config` has the tensor of this Hugging Face name.
pub(super) fn is_known(config: &ModelConfig, name: &str) -> bool {
    MODEL.iter().any(|(_, hf)| *hf == name)
        || name
            .strip_prefix("model.layers.")
            .and_then(|rest| layer_of(config, rest))
            .is_some_and(|(_, part)| LAYER.iter().any(|(_, hf)| *hf == part))
}

/// Whether a tensor, under either name, only stores rotary frequencies, which are computed from the configuration.
pub(super) fn is_derived(name: &str) -> bool {
    name == "rope_freqs.weight" || name.ends_with(".attn_rot_embd.weight") || name.ends_with("rotary_emb.inv_freq")
}

/// Splits `N.part`; `None` for a layer that does not exist, or a bias that the configuration rules out.
fn layer_of<'a>(config: &ModelConfig, rest: &'a str) -> Option<(usize, &'a str)> {
    let (layer, part) = rest.split_once('.')?;
    let index: usize = layer.parse().ok()?;
    let exists = index < config.num_layers && index.to_string() == layer;
    (exists && (config.attention_bias || !part.ends_with(".bias"))).then_some((index, part))
}
