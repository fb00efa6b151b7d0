//! The configuration from GGUF metadata, and the row order of `llama` files.

use super::{
    config::{MlpKind, ModelConfig, Norm, Positions, RopeScaling, unknown_architecture, unsupported},
    gguf::{Gguf, TensorInfo},
};
use crate::{
    Error, Result,
    models::{ARCHITECTURES, Architecture},
};
use oc_kernels::WeightFormat;
use std::borrow::Cow;

/// Reads the configuration of a GGUF model.
pub(super) fn config(gguf: &Gguf) -> Result<ModelConfig> {
    let name = gguf.str("general.architecture")?.ok_or_else(|| gguf.missing("general.architecture"))?;
    let known = ARCHITECTURES.into_iter().find(|known| known.gguf == Some(name));
    let names = ARCHITECTURES.iter().filter_map(|known| known.gguf);
    let architecture = known.ok_or_else(|| unknown_architecture(gguf.path(), name, names))?;
    let key = |field: &str| format!("{name}.{field}");
    let hidden_size = gguf.required_usize(&key("embedding_length"))?;
    let num_heads = gguf.required_usize(&key("attention.head_count"))?;
    let head_dim = gguf.usize_or(&key("attention.key_length"), hidden_size / num_heads.max(1))?;
    // Values that would change the computation: (field, the one value that does not).
    for (field, neutral) in [
        ("attention.value_length", head_dim),
        ("rope.dimension_count", head_dim),
        ("expert_count", 0),
        ("attention.sliding_window", 0),
    ] {
        if let Some(value) = gguf.usize(&key(field))?.filter(|v| *v != neutral) {
            return Err(unsupported(gguf.path(), &key(field), &value.to_string()));
        }
    }
    for field in ["logit_scale", "embedding_scale", "residual_scale", "attention.scale"] {
        if let Some(value) = gguf.f64(&key(field))?.filter(|v| *v != 0.0) {
            return Err(unsupported(gguf.path(), &key(field), &value.to_string()));
        }
    }
    let eps_key = key("attention.layer_norm_rms_epsilon");
    let rope_theta = gguf.f64(&key("rope.freq_base"))?.unwrap_or(10_000.0);
    let max_position_embeddings = gguf.required_usize(&key("context_length"))?;
    let embedding = gguf
        .tensors()
        .get("token_embd.weight")
        .ok_or_else(|| Error::MissingTensor { name: "token_embd.weight".into(), path: gguf.path().to_owned() })?;
    let config = ModelConfig {
        architecture: architecture.class.to_owned(),
        hidden_size,
        embedding_size: hidden_size,
        intermediate_size: gguf.required_usize(&key("feed_forward_length"))?,
        num_layers: gguf.required_usize(&key("block_count"))?,
        num_heads,
        num_kv_heads: gguf.usize_or(&key("attention.head_count_kv"), num_heads)?,
        head_dim,
        vocab_size: embedding.shape[0],
        max_position_embeddings,
        positions: Positions::Rotary,
        norm: Norm::Rms,
        norm_eps: gguf.f64(&eps_key)?.ok_or_else(|| gguf.missing(&eps_key))? as f32,
        rope_theta,
        rope_scaling: rope_scaling(gguf, name, head_dim, rope_theta)?,
        post_norm: false,
        final_norm: true,
        mlp: MlpKind::Gated,
        mlp_bias: gguf.tensors().contains_key("blk.0.ffn_up.bias"),
        tie_word_embeddings: !gguf.tensors().contains_key("output.weight"),
        attention_bias: gguf.tensors().contains_key("blk.0.attn_q.bias"),
        attention_output_bias: gguf.tensors().contains_key("blk.0.attn_output.bias"),
        bos_token_id: gguf.u32("tokenizer.ggml.bos_token_id")?,
        eos_token_ids: eos_token_ids(gguf)?,
    };
    config.validate(gguf.path())?;
    Ok(config)
}

/// The ids that end a text. GGUF keeps only one `eos`; the others of a `generation_config.json` are lost, but the
/// padding token, which never occurs inside a text, is usually one of them (Qwen2: `<|im_end|>` and `<|endoftext|>`).
fn eos_token_ids(gguf: &Gguf) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    for kind in ["eos", "eot", "eom", "padding"] {
        if let Some(id) = gguf.u32(&format!("tokenizer.ggml.{kind}_token_id"))?.filter(|id| !ids.contains(id)) {
            ids.push(id);
        }
    }
    Ok(ids)
}

fn rope_scaling(gguf: &Gguf, name: &str, head_dim: usize, rope_theta: f64) -> Result<RopeScaling> {
    let key = format!("{name}.rope.scaling.type");
    let scaling = match gguf.str(&key)? {
        None | Some("none") => match gguf.f64(&format!("{name}.rope.scale_linear"))? {
            Some(factor) if factor != 1.0 => RopeScaling::Linear { factor },
            _ => RopeScaling::None,
        },
        Some("linear") => {
            let key = format!("{name}.rope.scaling.factor");
            RopeScaling::Linear { factor: gguf.f64(&key)?.ok_or_else(|| gguf.missing(&key))? }
        }
        Some(other) => return Err(unsupported(gguf.path(), &key, other)),
    };
    let Some(info) = gguf.tensors().get("rope_freqs.weight") else { return Ok(scaling) };
    let bytes = gguf.bytes(info);
    let divisors: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let llama3 = if info.format == WeightFormat::F32 && scaling == RopeScaling::None {
        recognise_llama3(&divisors, head_dim, rope_theta)
    } else {
        None
    };
    llama3.ok_or_else(|| unsupported(gguf.path(), "rope_freqs.weight", "frequency factors other than Llama 3's"))
}

/// GGUF stores Llama 3's scaling as the divisor of each frequency. Its constants other than `factor` never varied
/// (low 1, high 4, original context 8192), so they are tried and the result is compared with every divisor.
fn recognise_llama3(divisors: &[f32], head_dim: usize, rope_theta: f64) -> Option<RopeScaling> {
    let (low, high, original) = (1.0, 4.0, 8192.0);
    let factor = f64::from(divisors.iter().copied().fold(1.0, f32::max));
    let expected = (0..head_dim / 2).map(|i| {
        let wavelength = std::f64::consts::TAU * rope_theta.powf(2.0 * i as f64 / head_dim as f64);
        if wavelength < original / high {
            1.0
        } else if wavelength > original / low {
            factor
        } else {
            let smooth = (original / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    });
    let same =
        divisors.len() == head_dim / 2 && expected.zip(divisors).all(|(e, d)| (e - f64::from(*d)).abs() <= 1e-4 * e);
    same.then_some(RopeScaling::Llama3 {
        factor,
        low_freq_factor: low,
        high_freq_factor: high,
        original_max_position: original as usize,
    })
}

/// The bytes of a tensor in Hugging Face's row order.
///
/// `llama` files interleave the two halves of each query and key head (row `2i + j` holds row `j * head_dim/2 + i`),
/// because ggml rotates neighbouring pairs. Quantisation blocks lie within rows, so whole rows move as bytes.
pub(super) fn hf_bytes<'a>(gguf: &'a Gguf, config: &ModelConfig, gguf_name: &str, info: &TensorInfo) -> Cow<'a, [u8]> {
    let bytes = gguf.bytes(info);
    let is_rotated =
        ["attn_q.weight", "attn_q.bias", "attn_k.weight", "attn_k.bias"].iter().any(|part| gguf_name.ends_with(part));
    let rows = info.shape[0];
    let head_dim = config.head_dim;
    let has_rows = rows.is_multiple_of(head_dim) && (info.shape.len() == 2 || !info.format.is_quantized());
    let interleaved = Architecture::of_class(&config.architecture).is_some_and(|a| a.gguf_interleaves_heads);
    if !interleaved || !is_rotated || !has_rows {
        return Cow::Borrowed(bytes); // a wrong shape is reported where it is checked
    }
    let row_bytes = bytes.len() / rows;
    let mut out = Vec::with_capacity(bytes.len());
    for head in bytes.chunks_exact(head_dim * row_bytes) {
        for half in 0..2 {
            for i in 0..head_dim / 2 {
                let row = 2 * i + half;
                out.extend_from_slice(&head[row * row_bytes..(row + 1) * row_bytes]);
            }
        }
    }
    Cow::Owned(out)
}
