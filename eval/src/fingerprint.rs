//! What makes two answers to the same prompt comparable: written at the head of a journal, compared on resume.

use crate::{EvalConfig, ModelIdentity};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// Everything an answer depends on beside the ids of its prompt, which stand with each answer. Names and paths are
/// left out on purpose: the same weights under another name give the same answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Fingerprint {
    /// The model, field by field.
    #[serde(flatten)]
    model: ModelIdentity,
    /// `base` or `chat`.
    hf_type: String,
    /// Name of the meta template.
    meta_template: Option<String>,
    /// Limit of the prompt in tokens.
    max_seq_len: Option<usize>,
    /// Limit of the output in tokens.
    max_out_len: usize,
    /// Stop strings, in order.
    stop_words: Vec<String>,
    /// Tokens that end an answer, where they are not the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    eos_token_ids: Option<Vec<u32>>,
    /// As text, because JSON has no `f32`.
    temperature: String,
    /// Only where it leaves something out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    top_k: Option<usize>,
    /// As text; only where it leaves something out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    top_p: Option<String>,
    /// Only where it has an effect.
    seed: Option<u64>,
}

impl Fingerprint {
    pub(crate) fn new(config: &EvalConfig, model: ModelIdentity) -> Self {
        Self {
            model,
            hf_type: config.hf_type.name().into(),
            meta_template: config
                .meta_template
                .clone()
                .or_else(|| config.meta_template_config.as_ref().map(ToString::to_string)),
            max_seq_len: config.max_seq_len,
            max_out_len: config.max_out_len,
            stop_words: config.stop_words.clone(),
            eos_token_ids: config.eos_token_ids.clone(),
            temperature: config.temperature.to_string(),
            top_k: (config.temperature > 0.0 && config.top_k > 0).then_some(config.top_k),
            top_p: (config.temperature > 0.0 && config.top_p < 1.0).then(|| config.top_p.to_string()),
            seed: (config.temperature > 0.0).then_some(config.seed),
        }
    }

    /// As a JSON object.
    pub(crate) fn to_map(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(map)) => map,
            // Strings and numbers in a struct always make an object.
            _ => unreachable!("a fingerprint is an object"),
        }
    }

    /// One text per field that differs from what is `recorded`: name, recorded value, present value.
    pub(crate) fn differences(&self, recorded: &Map<String, Value>) -> Vec<String> {
        let present = self.to_map();
        let names = present.keys().chain(recorded.keys().filter(|name| !present.contains_key(*name)));
        names
            .filter(|name| present.get(*name) != recorded.get(*name))
            .map(|name| format!("{name} was {}, now {}", show(recorded.get(name)), show(present.get(name))))
            .collect()
    }
}

fn show(value: Option<&Value>) -> String {
    match value {
        None => "not recorded".into(),
        Some(Value::Null) => "none".into(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// SHA-256 of the ids of all prompts of a question as little-endian 32-bit words, each prompt but the first behind a
/// word that is no id, in hex.
pub(crate) fn hash_prompts<'a>(prompts: impl Iterator<Item = &'a [u32]>) -> String {
    let mut hash = Sha256::new();
    for (i, ids) in prompts.enumerate() {
        if i > 0 {
            hash.update(u32::MAX.to_le_bytes());
        }
        for id in ids {
            hash.update(id.to_le_bytes());
        }
    }
    hash.finalize().iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> ModelIdentity {
        ModelIdentity {
            weights: "w".into(),
            tokenizer: "t".into(),
            chat_template: None,
            dtype: "f32".into(),
            device: "cpu".into(),
            numeric_version: "1".into(),
        }
    }

    #[test]
    fn every_setting_that_matters_is_compared_and_named() {
        let base = EvalConfig::default();
        let recorded = Fingerprint::new(&base, identity()).to_map();
        let differences =
            |config: EvalConfig, model: ModelIdentity| Fingerprint::new(&config, model).differences(&recorded);
        assert_eq!(differences(base.clone(), identity()), [""; 0]);
        // The seed has no effect on greedy answers; names have none at all.
        let mut same = EvalConfig { seed: 7, batch_size: 1, limit: Some(3), ..base.clone() };
        same.model.path = "elsewhere".into();
        assert_eq!(differences(same, identity()), [""; 0]);

        let other = EvalConfig { max_seq_len: Some(128), stop_words: vec!["\n".into()], ..base.clone() };
        let model = ModelIdentity { dtype: "bf16".into(), chat_template: Some("c".into()), ..identity() };
        let wanted = [
            "chat_template was none, now c",
            "dtype was f32, now bf16",
            "max_seq_len was none, now 128",
            r#"stop_words was [], now ["\n"]"#,
        ];
        assert_eq!(differences(other, model), wanted);
        let few = EvalConfig { temperature: 0.5, top_k: 5, top_p: 0.5, ..base.clone() };
        let wanted = ["top_k was not recorded, now 5", "top_p was not recorded, now 0.5"];
        assert_eq!(differences(few, identity())[1..3], wanted);
        let hot = EvalConfig { temperature: 0.5, seed: 7, ..base };
        assert_eq!(differences(hot, identity()), ["temperature was 0, now 0.5", "seed was none, now 7"]);

        let mut newer = recorded.clone();
        newer.insert("rope".into(), "x".into());
        let now = Fingerprint::new(&EvalConfig::default(), identity());
        assert_eq!(now.differences(&newer), ["rope was x, now not recorded"]);
    }

    #[test]
    fn ids_are_hashed_as_words() {
        // sha256 of the bytes 01 00 00 00 02 01 00 00, from Python's hashlib.
        let hash = |prompts: &[&[u32]]| hash_prompts(prompts.iter().copied());
        assert_eq!(hash(&[&[1, 258]]), "fb8bbe2ad3ab5292f19bc5d75bbab9b5fbddc5a78ce47ab41b2d3d59bca08596");
        assert_ne!(hash(&[&[1, 2]]), hash(&[&[2, 1]]));
        assert_ne!(hash(&[&[1], &[2, 3]]), hash(&[&[1, 2], &[3]]));
    }
}
