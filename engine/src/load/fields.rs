//! The fields of a `config.json`, typed, and what families share of their meaning.

use super::config::{RopeScaling, unknown_architecture, unsupported};
use crate::{
    Error, Result,
    models::{ARCHITECTURES, Architecture},
};
use serde_json::{Map, Value};
use std::path::Path;

/// Fields of any family that change the computation, with the values that leave it as implemented here (absent and `null`
/// also do).
const NEUTRAL: [(&str, &[&str]); 36] = [
    ("use_sliding_window", &["false"]),
    ("attention_sink_size", &["0"]),
    ("use_qk_norm", &["false"]),
    ("qk_norm", &["false"]),
    ("qk_layernorm", &["false"]),
    ("clip_qkv", &[]),
    ("partial_rotary_factor", &["1", "1.0"]),
    ("rotary_pct", &["1", "1.0"]),
    ("rope_interleaved", &["false"]),
    ("no_rope_layers", &[]),
    ("no_rope_layer_interval", &[]),
    ("use_mrope", &["false"]),
    ("alibi", &["false"]),
    ("quantization_config", &[]),
    ("attn_logit_softcapping", &[]),
    ("final_logit_softcapping", &[]),
    ("query_pre_attn_scalar", &[]),
    ("attention_multiplier", &[]),
    ("attention_scale", &[]),
    ("logit_scale", &["1", "1.0"]),
    ("logits_scaling", &["1", "1.0"]),
    ("lm_head_multiplier", &["1", "1.0"]),
    ("embedding_multiplier", &["1", "1.0"]),
    ("embedding_scale", &["1", "1.0"]),
    ("residual_multiplier", &["1", "1.0"]),
    ("scale_emb", &["1", "1.0"]),
    ("scale_embedding", &["false"]),
    ("scale_depth", &[]),
    ("dim_model_base", &[]),
    ("use_parallel_residual", &["false"]),
    ("parallel_attn", &["false"]),
    ("num_local_experts", &["0"]),
    ("num_experts", &["0"]),
    ("n_routed_experts", &["0"]),
    ("add_cross_attention", &["false"]),
    ("is_encoder_decoder", &["false"]),
];

/// Typed access to a JSON object, with errors that name file and field.
pub(crate) struct Fields<'a> {
    pub path: &'a Path,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub fn new(path: &'a Path, value: &'a Value) -> Result<Self> {
        let map = value.as_object().ok_or_else(|| Error::Malformed {
            path: path.to_owned(),
            reason: "the file does not hold a JSON object".into(),
        })?;
        Ok(Self { path, map })
    }

    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|v| !v.is_null())
    }

    pub fn bad(&self, name: &str, found: Option<&Value>, wanted: &str) -> Error {
        let found = found.map_or("missing".into(), Value::to_string);
        Error::Malformed { path: self.path.to_owned(), reason: format!("`{name}` is {found}, but must be {wanted}") }
    }

    pub fn optional_size(&self, name: &str) -> Result<Option<usize>> {
        let wanted = "a positive integer";
        let as_size = |v: &Value| v.as_u64().filter(|n| (1..=1 << 31).contains(n)).map(|n| n as usize);
        self.get(name).map(|v| as_size(v).ok_or_else(|| self.bad(name, Some(v), wanted))).transpose()
    }

    pub fn size(&self, name: &str) -> Result<usize> {
        self.optional_size(name)?.ok_or_else(|| self.bad(name, None, "a positive integer"))
    }

    pub fn number(&self, name: &str) -> Result<Option<f64>> {
        self.get(name).map(|v| v.as_f64().ok_or_else(|| self.bad(name, Some(v), "a number"))).transpose()
    }

    pub fn flag(&self, name: &str) -> Result<Option<bool>> {
        self.get(name).map(|v| v.as_bool().ok_or_else(|| self.bad(name, Some(v), "true or false"))).transpose()
    }

    pub fn text(&self, name: &str) -> Result<Option<&'a str>> {
        self.get(name).map(|v| v.as_str().ok_or_else(|| self.bad(name, Some(v), "text"))).transpose()
    }

    /// The error for a value that this engine does not implement.
    pub fn unsupported(&self, name: &str, found: &str) -> Error {
        unsupported(self.path, name, found)
    }

    /// One token id or a list of them.
    pub fn ids(&self, name: &str) -> Result<Vec<u32>> {
        let Some(value) = self.get(name) else { return Ok(Vec::new()) };
        let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        let mut ids = Vec::new();
        for id in list {
            let id = id.as_u64().and_then(|n| u32::try_from(n).ok());
            let id = id.ok_or_else(|| self.bad(name, Some(value), "a token id or a list of token ids"))?;
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    pub fn architecture(&self) -> Result<&'static Architecture> {
        let listed = self.get("architectures").and_then(|a| a.get(0)).and_then(Value::as_str);
        let model_type = self.get("model_type").and_then(Value::as_str);
        let known = ARCHITECTURES.into_iter().find(|known| match listed {
            Some(listed) => known.class == listed,
            None => Some(known.model_type) == model_type,
        });
        known.ok_or_else(|| match listed.or(model_type) {
            Some(name) => unknown_architecture(self.path, name, ARCHITECTURES.iter().map(|known| known.class)),
            None => self.bad("architectures", self.get("architectures"), "a list with one class name"),
        })
    }

    /// Refuses a field that must have one of these values (absent and `null` are fine), and has another.
    pub fn neutral(&self, name: &str, neutral: &[&str]) -> Result<()> {
        let found = self.get(name).map(Value::to_string).filter(|found| !neutral.contains(&found.as_str()));
        found.map_or(Ok(()), |found| Err(unsupported(self.path, name, &found)))
    }

    /// Refuses fields of any family that would change the computation.
    pub fn check_neutral(&self) -> Result<()> {
        NEUTRAL.iter().try_for_each(|(name, neutral)| self.neutral(name, neutral))?;
        let layer_types = self.get("layer_types").and_then(Value::as_array);
        match layer_types.and_then(|list| list.iter().find(|kind| *kind != "full_attention")) {
            Some(other) => Err(unsupported(self.path, "layer_types", &other.to_string())),
            None => Ok(()),
        }
    }

    /// `rope_theta` and the scaling, from the fields `rope_theta` and `rope_scaling` or, since transformers 5, from
    /// `rope_parameters`; InternLM's from `rotary`.
    pub fn rope(&self) -> Result<(f64, RopeScaling)> {
        const DEFAULT_THETA: f64 = 10_000.0;
        let theta = self.number("rope_theta")?;
        let fields = ["rope_parameters", "rope_scaling", "rotary"];
        let field = fields.into_iter().find(|field| self.get(field).is_some()).unwrap_or("rope_scaling");
        let Some(value) = self.get(field) else { return Ok((theta.unwrap_or(DEFAULT_THETA), RopeScaling::None)) };
        let rope = Fields::new(self.path, value).map_err(|_| self.bad(field, Some(value), "an object"))?;
        // InternLM: `rotary` with `base`, `type` and, if not 1, `scaling_factor`.
        let is_rotary = field == "rotary";
        let theta = rope.number(if is_rotary { "base" } else { "rope_theta" })?.or(theta).unwrap_or(DEFAULT_THETA);
        if let Some(partial) = rope.number("partial_rotary_factor")?.filter(|f| *f != 1.0) {
            return Err(unsupported(self.path, "partial_rotary_factor", &partial.to_string()));
        }
        let kind = rope.get("rope_type").or_else(|| rope.get("type"));
        let need = |name: &str| rope.number(name)?.ok_or_else(|| rope.bad(name, None, "a number"));
        let scaling = match kind.map(|k| k.as_str().unwrap_or_default()) {
            Some("default") => RopeScaling::None,
            Some("origin") if is_rotary => RopeScaling::None,
            Some("dynamic") if is_rotary => {
                RopeScaling::Dynamic { factor: rope.number("scaling_factor")?.unwrap_or(1.0) }
            }
            Some("dynamic") => {
                // transformers scales beyond `max_position_embeddings`, whatever this says.
                let original = rope.optional_size("original_max_position_embeddings")?;
                if let Some(other) =
                    original.filter(|n| Some(*n) != self.optional_size("max_position_embeddings").ok().flatten())
                {
                    return Err(unsupported(self.path, "original_max_position_embeddings", &other.to_string()));
                }
                RopeScaling::Dynamic { factor: need("factor")? }
            }
            None if field == "rope_parameters" => RopeScaling::None,
            Some("linear") => RopeScaling::Linear { factor: need("factor")? },
            Some("llama3") => RopeScaling::Llama3 {
                factor: need("factor")?,
                low_freq_factor: need("low_freq_factor")?,
                high_freq_factor: need("high_freq_factor")?,
                original_max_position: rope.size("original_max_position_embeddings")?,
            },
            _ => return Err(unsupported(self.path, field, &value.to_string())),
        };
        Ok((theta, scaling))
    }
}
