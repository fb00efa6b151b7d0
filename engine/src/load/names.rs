//! The tensors of a decoder, under the names of their files and under LLaMA's in Hugging Face's format.

use super::config::ModelConfig;
use crate::models::{Architecture, Rows};

/// Outside the layers: (GGUF, Hugging Face).
const MODEL: [(&str, &str); 3] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
];

/// Inside each layer, after `blk.N.` and `model.layers.N.`.
const LAYER: [(&str, &str); 13] = [
    ("attn_norm.weight", "input_layernorm.weight"),
    ("attn_q.weight", "self_attn.q_proj.weight"),
    ("attn_k.weight", "self_attn.k_proj.weight"),
    ("attn_v.weight", "self_attn.v_proj.weight"),
    ("attn_q.bias", "self_attn.q_proj.bias"),
    ("attn_k.bias", "self_attn.k_proj.bias"),
    ("attn_v.bias", "self_attn.v_proj.bias"),
    ("attn_output.weight", "self_attn.o_proj.weight"),
    ("attn_output.bias", "self_attn.o_proj.bias"),
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
    has(config, hf).then(|| format!("model.layers.{layer}.{hf}"))
}

/// LLaMA's names of what a tensor of a folder holds, and the rows of each; none for one that the decoder of `config` does
/// not have.
pub(super) fn from_folder(config: &ModelConfig, name: &str) -> Vec<(String, Rows)> {
    let layer = name.strip_prefix("model.layers.").and_then(|rest| layer_of(config, rest));
    let (prefix, part) = match layer {
        Some((layer, part)) => (format!("model.layers.{layer}."), part),
        None => (String::new(), name),
    };
    let known: &[(&str, &str)] = if layer.is_some() { &LAYER } else { &MODEL };
    let own = Architecture::of_class(&config.architecture).map_or(&[][..], |architecture| architecture.tensors);
    let renamed: Vec<_> = own.iter().filter(|(from, ..)| *from == part).map(|(_, to, rows)| (*to, *rows)).collect();
    // A name that the architecture has replaced is not also known under LLaMA's.
    let same =
        if renamed.is_empty() && !own.iter().any(|(_, to, _)| *to == part) { vec![(part, Rows::All)] } else { renamed };
    let exists = |(to, _): &(&str, Rows)| known.iter().any(|(_, hf)| hf == to) && has(config, to);
    same.into_iter().filter(exists).map(|(to, rows)| (format!("{prefix}{to}"), rows)).collect()
}

/// Whether a tensor, under either name, only stores rotary frequencies, which are computed from the configuration.
pub(super) fn is_derived(name: &str) -> bool {
    name == "rope_freqs.weight" || name.ends_with(".attn_rot_embd.weight") || name.ends_with("rotary_emb.inv_freq")
}

/// Splits `N.part`; `None` for a layer that does not exist.
fn layer_of<'a>(config: &ModelConfig, rest: &'a str) -> Option<(usize, &'a str)> {
    let (layer, part) = rest.split_once('.')?;
    let index: usize = layer.parse().ok()?;
    (index < config.num_layers && index.to_string() == layer).then_some((index, part))
}

/// Whether the decoder of `config` has this part: biases are a matter of the configuration.
fn has(config: &ModelConfig, part: &str) -> bool {
    match part {
        "self_attn.o_proj.bias" => config.attention_output_bias,
        _ => config.attention_bias || !part.ends_with(".bias"),
    }
}
