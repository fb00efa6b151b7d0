//! The tensors of a decoder, under the names of their files and under LLaMA's in Hugging Face's format.

use super::config::{MlpKind, ModelConfig, Norm, Positions};
use crate::models::{Architecture, Rows};

/// Outside the layers: (GGUF, Hugging Face).
const MODEL: [(&str, &str); 5] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("position_embd.weight", "model.embed_positions.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output_norm.bias", "model.norm.bias"),
    ("output.weight", "lm_head.weight"),
];

/// Outside the layers, without a name in GGUF files.
const PROJECTIONS: [&str; 2] = ["model.project_in.weight", "model.project_out.weight"];

/// Inside each layer, after `blk.N.` and `model.layers.N.`.
const LAYER: [(&str, &str); 18] = [
    ("attn_norm.weight", "input_layernorm.weight"),
    ("attn_norm.bias", "input_layernorm.bias"),
    ("attn_q.weight", "self_attn.q_proj.weight"),
    ("attn_k.weight", "self_attn.k_proj.weight"),
    ("attn_v.weight", "self_attn.v_proj.weight"),
    ("attn_q.bias", "self_attn.q_proj.bias"),
    ("attn_k.bias", "self_attn.k_proj.bias"),
    ("attn_v.bias", "self_attn.v_proj.bias"),
    ("attn_output.weight", "self_attn.o_proj.weight"),
    ("attn_output.bias", "self_attn.o_proj.bias"),
    ("ffn_norm.weight", "post_attention_layernorm.weight"),
    ("ffn_norm.bias", "post_attention_layernorm.bias"),
    ("ffn_gate.weight", "mlp.gate_proj.weight"),
    ("ffn_gate.bias", "mlp.gate_proj.bias"),
    ("ffn_up.weight", "mlp.up_proj.weight"),
    ("ffn_up.bias", "mlp.up_proj.bias"),
    ("ffn_down.weight", "mlp.down_proj.weight"),
    ("ffn_down.bias", "mlp.down_proj.bias"),
];

/// The Hugging Face name of a GGUF tensor; `None` for one that the decoder of `config` does not have.
pub(super) fn from_gguf(config: &ModelConfig, name: &str) -> Option<String> {
    if let Some((_, hf)) = MODEL.iter().find(|(gguf, _)| *gguf == name) {
        return has(config, hf).then(|| (*hf).to_owned());
    }
    let (layer, part) = layer_of(config, name.strip_prefix("blk.")?)?;
    let (_, hf) = LAYER.iter().find(|(gguf, _)| *gguf == part)?;
    has(config, hf).then(|| format!("model.layers.{layer}.{hf}"))
}

/// LLaMA's names of what a tensor of a folder holds, and the rows of each; none for one that the decoder of `config` does
/// not have.
pub(super) fn from_folder(config: &ModelConfig, name: &str) -> Vec<(String, Rows)> {
    let architecture = Architecture::of_class(&config.architecture);
    let prefixes = architecture.map_or(&[][..], |architecture| architecture.prefixes);
    let name = &match prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)) {
        Some(rest) => format!("model.{rest}"),
        // LLaMA's own beginning is none of these names.
        None if !prefixes.is_empty() && name.starts_with("model.") => return Vec::new(),
        None => name.to_owned(),
    };
    let layer = name.strip_prefix("model.layers.").and_then(|rest| layer_of(config, rest));
    let (prefix, part) = match layer {
        Some((layer, part)) => (format!("model.layers.{layer}."), part),
        None => (String::new(), name.as_str()),
    };
    let known: &[(&str, &str)] = if layer.is_some() { &LAYER } else { &MODEL };
    let is_known = |to: &str| known.iter().any(|(_, hf)| *hf == to) || layer.is_none() && PROJECTIONS.contains(&to);
    let own = architecture.map_or(&[][..], |architecture| architecture.tensors);
    let renamed: Vec<_> = own.iter().filter(|(from, ..)| *from == part).map(|(_, to, rows)| (*to, *rows)).collect();
    // A name that the architecture has replaced is not also known under LLaMA's.
    let same =
        if renamed.is_empty() && !own.iter().any(|(_, to, _)| *to == part) { vec![(part, Rows::All)] } else { renamed };
    let exists = |(to, _): &(&str, Rows)| is_known(to) && has(config, to);
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

/// Whether the decoder of `config` has this part.
fn has(config: &ModelConfig, part: &str) -> bool {
    let (stem, is_bias) = part.strip_suffix(".bias").map_or((part, false), |stem| (stem, true));
    let stem = stem.strip_suffix(".weight").unwrap_or(stem);
    let has_norm = if is_bias {
        config.norm == Norm::Layer { affine: true }
    } else {
        config.norm != Norm::Layer { affine: false }
    };
    match stem {
        "model.embed_positions" => config.positions != Positions::Rotary,
        "model.project_in" | "model.project_out" => config.embedding_size != config.hidden_size,
        "model.norm" => config.final_norm && has_norm,
        "input_layernorm" | "post_attention_layernorm" => has_norm,
        "mlp.gate_proj" => config.mlp == MlpKind::Gated && (config.mlp_bias || !is_bias),
        "mlp.up_proj" | "mlp.down_proj" => config.mlp_bias || !is_bias,
        "self_attn.o_proj" => config.attention_output_bias || !is_bias,
        _ => config.attention_bias || !is_bias,
    }
}
