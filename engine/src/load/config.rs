//! The numbers that define a decoder, from a Hugging Face `config.json`; `gguf_config` reads them from GGUF metadata.
//!
//! A field that would change the computation in a way this engine does not implement is an error that names it.

use crate::{
    Error, Result,
    models::{ARCHITECTURES, Architecture, Biases},
};
use oc_kernels::{Heads, KvLayout};
use serde_json::{Map, Value};
use std::path::Path;

/// Everything a decoder needs besides its weights. Names as in Hugging Face configurations.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Hugging Face class name, such as `LlamaForCausalLM`.
    pub architecture: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key/value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Longest context that the model was made for, in tokens.
    pub max_position_embeddings: usize,
    /// Added to the mean square before the root.
    pub rms_norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Change of the rotary frequencies for long contexts.
    pub rope_scaling: RopeScaling,
    /// Whether the output projection is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// Whether the q, k and v projections have a bias.
    pub attention_bias: bool,
    /// Whether the output projection of attention has a bias.
    pub attention_output_bias: bool,
    /// Token that begins a text.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text, each once.
    pub eos_token_ids: Vec<u32>,
}

/// How the rotary frequencies differ from `rope_theta^(-2i/head_dim)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Every frequency divided by `factor`.
    Linear {
        /// At least 1.
        factor: f64,
    },
    /// Beyond the original context the base grows with the length of the text ("NTK-aware", `factor` 1 or more); within
    /// it nothing changes.
    Dynamic {
        /// How much faster than the length it grows.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, those between interpolated.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths over `original_max_position / low_freq_factor` are low frequencies.
        low_freq_factor: f64,
        /// Wavelengths under `original_max_position / high_freq_factor` are high frequencies.
        high_freq_factor: f64,
        /// Context of the pre-training.
        original_max_position: usize,
    },
}

/// Fields that change the computation, with the one value that leaves it as implemented here (absent and `null` also do).
const NEUTRAL: [(&str, &[&str]); 21] = [
    ("hidden_act", &["\"silu\"", "\"swish\""]),
    ("mlp_bias", &["false"]),
    ("use_sliding_window", &["false"]),
    ("use_qk_norm", &["false"]),
    ("qk_layernorm", &["false"]),
    ("partial_rotary_factor", &["1", "1.0"]),
    ("rope_interleaved", &["false"]),
    ("use_mrope", &["false"]),
    ("quantization_config", &[]),
    ("attn_logit_softcapping", &[]),
    ("final_logit_softcapping", &[]),
    ("query_pre_attn_scalar", &[]),
    ("attention_multiplier", &[]),
    ("embedding_multiplier", &["1", "1.0"]),
    ("residual_multiplier", &["1", "1.0"]),
    ("logits_scaling", &["1", "1.0"]),
    ("scale_emb", &["1", "1.0"]),
    ("scale_depth", &[]),
    ("num_local_experts", &["0"]),
    ("num_experts", &["0"]),
    ("is_encoder_decoder", &["false"]),
];

impl ModelConfig {
    /// Reads a `config.json` and, where present, the end-of-sequence ids of its `generation_config.json`.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a missing or impossible value, [`Error::Unsupported`] for a field or architecture that
    /// this engine does not implement.
    pub(crate) fn from_json(path: &Path, config: &Value, generation_config: Option<&Value>) -> Result<Self> {
        let fields = Fields::new(path, config)?;
        let architecture = fields.architecture()?;
        for (name, neutral) in NEUTRAL {
            let found = fields.map.get(name).filter(|v| !v.is_null()).map(Value::to_string);
            if let Some(found) = found.filter(|v| !neutral.contains(&v.as_str())) {
                return Err(unsupported(path, name, &found));
            }
        }
        let layer_types = fields.map.get("layer_types").and_then(Value::as_array);
        if let Some(other) = layer_types.and_then(|l| l.iter().find(|t| *t != "full_attention")) {
            return Err(unsupported(path, "layer_types", &other.to_string()));
        }
        let hidden_size = fields.size("hidden_size")?;
        let num_heads = fields.size("num_attention_heads")?;
        let (rope_theta, rope_scaling) = fields.rope()?;
        let (attention_bias, attention_output_bias) = match architecture.biases {
            Biases::Qkv => (true, false),
            Biases::Field { name, default } => {
                let all = fields.flag(name)?.unwrap_or(default);
                (all, all)
            }
        };
        for name in ["bias", "attention_bias"] {
            let read = matches!(architecture.biases, Biases::Field { name: field, .. } if field == name);
            if !read && fields.flag(name)? == Some(true) {
                return Err(unsupported(path, name, "true"));
            }
        }
        let mut eos_token_ids = match generation_config {
            Some(g) => Fields::new(&path.with_file_name("generation_config.json"), g)?.ids("eos_token_id")?,
            None => Vec::new(),
        };
        if eos_token_ids.is_empty() {
            eos_token_ids = fields.ids("eos_token_id")?;
        }
        let config = Self {
            architecture: architecture.class.to_owned(),
            hidden_size,
            intermediate_size: fields.size("intermediate_size")?,
            num_layers: fields.size("num_hidden_layers")?,
            num_heads,
            num_kv_heads: fields.optional_size("num_key_value_heads")?.unwrap_or(num_heads),
            head_dim: fields.optional_size("head_dim")?.unwrap_or(hidden_size / num_heads.max(1)),
            vocab_size: fields.size("vocab_size")?,
            max_position_embeddings: fields.size("max_position_embeddings")?,
            rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            rope_theta,
            rope_scaling,
            tie_word_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(false),
            attention_bias,
            attention_output_bias,
            bos_token_id: fields.ids("bos_token_id")?.first().copied(),
            eos_token_ids,
        };
        config.validate(path)?;
        Ok(config)
    }

    /// The heads of each layer.
    pub fn heads(&self) -> Heads {
        Heads { num_heads: self.num_heads, num_kv_heads: self.num_kv_heads, head_dim: self.head_dim }
    }

    /// The geometry of a KV pool of `num_pages` pages.
    pub(crate) fn kv_layout(&self, num_pages: usize) -> KvLayout {
        let Self { num_layers, num_kv_heads, head_dim, .. } = *self;
        KvLayout { num_layers, num_kv_heads, head_dim, num_pages }
    }

    /// Checks what every later computation relies on.
    pub(crate) fn validate(&self, path: &Path) -> Result<()> {
        let bad = |reason: String| Err(Error::Malformed { path: path.to_owned(), reason });
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_layers),
            ("num_attention_heads", self.num_heads),
            ("num_key_value_heads", self.num_kv_heads),
            ("head_dim", self.head_dim),
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        if let Some((name, value)) = sizes.iter().find(|(_, v)| *v == 0 || *v > 1 << 31) {
            return bad(format!("{name} is {value}; it must be between 1 and 2^31"));
        }
        if !self.head_dim.is_multiple_of(2) {
            return bad(format!("head_dim is {}; rotary embeddings need an even number", self.head_dim));
        }
        if !self.num_heads.is_multiple_of(self.num_kv_heads) {
            return bad(format!(
                "{} attention heads cannot be shared by {} key/value heads",
                self.num_heads, self.num_kv_heads
            ));
        }
        if !(self.rms_norm_eps.is_finite() && self.rms_norm_eps >= 0.0) {
            return bad(format!("rms_norm_eps is {}", self.rms_norm_eps));
        }
        if !(self.rope_theta.is_finite() && self.rope_theta > 0.0) {
            return bad(format!("rope_theta is {}", self.rope_theta));
        }
        let ids = self.eos_token_ids.iter().chain(&self.bos_token_id);
        if let Some(id) = ids.into_iter().find(|id| **id as usize >= self.vocab_size) {
            return bad(format!("special token id {id} is outside the vocabulary of {}", self.vocab_size));
        }
        match self.rope_scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } | RopeScaling::Dynamic { factor } if factor.is_finite() && factor >= 1.0 => {
                Ok(())
            }
            RopeScaling::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, original_max_position }
                if factor.is_finite()
                    && factor >= 1.0
                    && high.is_finite()
                    && low > 0.0
                    && high > low
                    && original_max_position > 0 =>
            {
                Ok(())
            }
            other => bad(format!("impossible rope_scaling {other:?}")),
        }
    }
}

pub(crate) fn unsupported(path: &Path, field: &str, value: &str) -> Error {
    Error::Unsupported {
        what: format!("{}: `{field}` = {value}", path.display()),
        hint: "this engine would compute something else than the model's authors meant; use a model without it".into(),
    }
}

/// The error for an architecture outside [`ARCHITECTURES`].
pub(crate) fn unknown_architecture(path: &Path, name: &str, known: impl Iterator<Item = &'static str>) -> Error {
    Error::Unsupported {
        what: format!("{}: the architecture `{name}`", path.display()),
        hint: format!("the architectures that run are {}", known.collect::<Vec<_>>().join(", ")),
    }
}

/// Typed access to a JSON object, with errors that name file and field.
struct Fields<'a> {
    path: &'a Path,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    fn new(path: &'a Path, value: &'a Value) -> Result<Self> {
        let map = value.as_object().ok_or_else(|| Error::Malformed {
            path: path.to_owned(),
            reason: "the file does not hold a JSON object".into(),
        })?;
        Ok(Self { path, map })
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|v| !v.is_null())
    }

    fn bad(&self, name: &str, found: Option<&Value>, wanted: &str) -> Error {
        let found = found.map_or("missing".into(), Value::to_string);
        Error::Malformed { path: self.path.to_owned(), reason: format!("`{name}` is {found}, but must be {wanted}") }
    }

    fn optional_size(&self, name: &str) -> Result<Option<usize>> {
        let wanted = "a positive integer";
        let as_size = |v: &Value| v.as_u64().filter(|n| (1..=1 << 31).contains(n)).map(|n| n as usize);
        self.get(name).map(|v| as_size(v).ok_or_else(|| self.bad(name, Some(v), wanted))).transpose()
    }

    fn size(&self, name: &str) -> Result<usize> {
        self.optional_size(name)?.ok_or_else(|| self.bad(name, None, "a positive integer"))
    }

    fn number(&self, name: &str) -> Result<Option<f64>> {
        self.get(name).map(|v| v.as_f64().ok_or_else(|| self.bad(name, Some(v), "a number"))).transpose()
    }

    fn flag(&self, name: &str) -> Result<Option<bool>> {
        self.get(name).map(|v| v.as_bool().ok_or_else(|| self.bad(name, Some(v), "true or false"))).transpose()
    }

    /// One token id or a list of them.
    fn ids(&self, name: &str) -> Result<Vec<u32>> {
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

    fn architecture(&self) -> Result<&'static Architecture> {
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

    /// `rope_theta` and the scaling, from the fields `rope_theta` and `rope_scaling` or, since transformers 5, from
    /// `rope_parameters`; InternLM's from `rotary`.
    fn rope(&self) -> Result<(f64, RopeScaling)> {
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
            Some("dynamic") => RopeScaling::Dynamic { factor: need("factor")? },
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
