//! The model registry: OpenCompass's names for models, one row each, one file per family.
//!
//! A row holds what OpenCompass's configuration of that name says; [`Model::config`] spells it out. Where the weights
//! are is not known here: whoever reads files looks for [`Model::path`] below the folder of models.

mod internlm;
mod llama;
mod opt;
mod qwen;
mod qwen2_5;
mod yi;

use crate::names;
use serde_json::{Map, Value, json};

/// The class that OpenCompass runs a model with: it decides how prompts reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Plain text.
    HuggingFaceBaseModel,
    /// Messages through the model's chat template.
    HuggingFacewithChatTemplate,
    /// The older class: plain text, or text with the markers of a meta template.
    HuggingFaceCausalLM,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 3] =
        [Self::HuggingFaceBaseModel, Self::HuggingFacewithChatTemplate, Self::HuggingFaceCausalLM];

    /// As configurations name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HuggingFaceBaseModel => "HuggingFaceBaseModel",
            Self::HuggingFacewithChatTemplate => "HuggingFacewithChatTemplate",
            Self::HuggingFaceCausalLM => "HuggingFaceCausalLM",
        }
    }

    /// With the module that defines it, as OpenCompass writes it into the configurations it saves.
    pub fn dotted(self) -> String {
        let module = match self {
            Self::HuggingFaceBaseModel | Self::HuggingFacewithChatTemplate => "huggingface_above_v4_33",
            Self::HuggingFaceCausalLM => "huggingface",
        };
        format!("opencompass.models.{module}.{}", self.name())
    }
}

/// The markers of one role in a meta template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Markers {
    /// `HUMAN`, `BOT` or `SYSTEM`.
    role: &'static str,
    begin: &'static str,
    end: &'static str,
}

const fn marker(role: &'static str, begin: &'static str, end: &'static str) -> Markers {
    Markers { role, begin, end }
}

/// What stands in a model's `meta_template`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MetaTemplate {
    None,
    /// Markers around each role's text, in the order of a round; the answer's are last.
    Text(&'static [Markers]),
    /// Roles of messages, in the order of a round.
    Messages(&'static [&'static str]),
}

/// One registered model.
#[derive(Clone, Debug)]
pub struct Model {
    /// OpenCompass's name of the configuration, e.g. `hf_internlm2_chat_7b`.
    pub name: &'static str,
    /// Name in tables and folders, e.g. `internlm2-chat-7b-hf`.
    pub abbr: &'static str,
    /// `organisation/name` on the hub, e.g. `internlm/internlm2-chat-7b`.
    pub path: &'static str,
    /// How prompts reach it.
    pub class: Class,
    /// Other variables of OpenCompass's file, besides `models`, that hold this model, e.g. `opt125m`.
    pub variable: Option<&'static str>,
    max_out_len: usize,
    batch_size: usize,
    num_gpus: usize,
    stop_words: &'static [&'static str],
    meta_template: MetaTemplate,
    end_str: Option<&'static str>,
    eos_token_ids: &'static [u32],
    has_batch_padding: bool,
}

const fn model(class: Class, name: &'static str, abbr: &'static str, path: &'static str) -> Model {
    Model {
        name,
        abbr,
        path,
        class,
        variable: None,
        max_out_len: 1024,
        batch_size: 8,
        num_gpus: 1,
        stop_words: &[],
        meta_template: MetaTemplate::None,
        end_str: None,
        eos_token_ids: &[],
        has_batch_padding: false,
    }
}

const fn base(name: &'static str, abbr: &'static str, path: &'static str) -> Model {
    model(Class::HuggingFaceBaseModel, name, abbr, path)
}

const fn chat(name: &'static str, abbr: &'static str, path: &'static str) -> Model {
    model(Class::HuggingFacewithChatTemplate, name, abbr, path)
}

const fn causal(name: &'static str, abbr: &'static str, path: &'static str) -> Model {
    model(Class::HuggingFaceCausalLM, name, abbr, path).max_out_len(100)
}

impl Model {
    const fn max_out_len(mut self, tokens: usize) -> Self {
        self.max_out_len = tokens;
        self
    }

    const fn batch_size(mut self, sequences: usize) -> Self {
        self.batch_size = sequences;
        self
    }

    const fn num_gpus(mut self, gpus: usize) -> Self {
        self.num_gpus = gpus;
        self
    }

    const fn stop_words(mut self, words: &'static [&'static str]) -> Self {
        self.stop_words = words;
        self
    }

    const fn meta_template(mut self, round: &'static [Markers]) -> Self {
        self.meta_template = MetaTemplate::Text(round);
        self
    }

    const fn messages(mut self, roles: &'static [&'static str]) -> Self {
        self.meta_template = MetaTemplate::Messages(roles);
        self
    }

    const fn end_str(mut self, end: &'static str) -> Self {
        self.end_str = Some(end);
        self
    }

    const fn eos_token_ids(mut self, ids: &'static [u32]) -> Self {
        self.eos_token_ids = ids;
        self
    }

    const fn batch_padding(mut self) -> Self {
        self.has_batch_padding = true;
        self
    }

    const fn variable(mut self, name: &'static str) -> Self {
        self.variable = Some(name);
        self
    }

    /// The file that OpenCompass keeps this configuration in, below its `configs/models`, e.g. `opt/hf_opt_125m.py`.
    pub fn file(&self) -> String {
        let families = FAMILIES.iter().find(|(_, models)| models.iter().any(|model| model.name == self.name));
        let folder = families.map_or("", |(folder, _)| *folder);
        format!("{folder}/{}.py", self.name)
    }

    /// The configuration in OpenCompass's words, keys sorted as it saves them.
    pub fn config(&self) -> Value {
        let mut config = Map::new();
        let mut set = |key: &str, value: Value| {
            config.insert(key.into(), value);
        };
        let is_causal = self.class == Class::HuggingFaceCausalLM;
        set("abbr", self.abbr.into());
        if self.has_batch_padding {
            set("batch_padding", true.into());
        }
        set("batch_size", self.batch_size.into());
        if let Some(end) = self.end_str {
            set("end_str", end.into());
        }
        if !self.eos_token_ids.is_empty() {
            set("generation_kwargs", json!({ "eos_token_id": self.eos_token_ids }));
        }
        set("max_out_len", self.max_out_len.into());
        if is_causal {
            set("max_seq_len", 2048.into());
        }
        match self.meta_template {
            MetaTemplate::None => {}
            MetaTemplate::Text(round) => set("meta_template", json!({ "round": rounds(round) })),
            MetaTemplate::Messages(roles) => set("meta_template", message_rounds(roles)),
        }
        if is_causal {
            set("model_kwargs", json!({ "device_map": "auto", "trust_remote_code": true }));
        }
        set("path", self.path.into());
        let mut run_cfg = json!({ "num_gpus": self.num_gpus });
        if is_causal {
            run_cfg["num_procs"] = 1.into();
        }
        set("run_cfg", run_cfg);
        if !self.stop_words.is_empty() {
            set("stop_words", json!(self.stop_words));
        }
        if is_causal {
            let kwargs = json!({
                "padding_side": "left", "truncation_side": "left", "trust_remote_code": true, "use_fast": false,
            });
            set("tokenizer_kwargs", kwargs);
            set("tokenizer_path", self.path.into());
        }
        set("type", self.class.dotted().into());
        Value::Object(config)
    }
}

fn rounds(round: &[Markers]) -> Vec<Value> {
    let entry = |markers: &Markers| {
        let mut entry = json!({ "begin": markers.begin, "end": markers.end });
        if markers.role == "BOT" {
            entry["generate"] = true.into();
        }
        entry["role"] = markers.role.into();
        entry
    };
    round.iter().map(entry).collect()
}

fn message_rounds(roles: &[&str]) -> Value {
    let entry = |role: &&str| {
        let mut entry = json!({ "api_role": role });
        if *role == "BOT" {
            entry["generate"] = true.into();
        }
        entry["role"] = (*role).into();
        entry
    };
    json!({
        "reserved_roles": [{ "api_role": "SYSTEM", "role": "SYSTEM" }],
        "round": roles.iter().map(entry).collect::<Vec<_>>(),
    })
}

/// OpenCompass's folders of model configurations, and what is registered of each.
static FAMILIES: [(&str, &[Model]); 6] = [
    ("hf_internlm", &internlm::MODELS),
    ("hf_llama", &llama::MODELS),
    ("opt", &opt::MODELS),
    ("qwen", &qwen::MODELS),
    ("qwen2_5", &qwen2_5::MODELS),
    ("yi", &yi::MODELS),
];

/// Every registered model.
pub fn all() -> impl Iterator<Item = &'static Model> + Clone {
    FAMILIES.iter().flat_map(|(_, models)| models.iter())
}

/// The model of this name; else known names that look like it.
///
/// # Errors
/// The names that are near, none where nothing is.
pub fn find(name: &str) -> Result<&'static Model, Vec<String>> {
    all().find(|model| model.name == name).ok_or_else(|| names::near(name, all().map(|model| model.name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_files_are_opencompasss() {
        let mut seen = HashSet::new();
        assert!(all().all(|model| seen.insert(model.name)));
        let file = |name: &str| find(name).unwrap().file();
        assert_eq!(file("hf_opt_125m"), "opt/hf_opt_125m.py");
        assert_eq!(file("hf_internlm2_chat_7b"), "hf_internlm/hf_internlm2_chat_7b.py");
        assert_eq!(find("hf_opt_125").unwrap_err(), ["hf_opt_125m"]);
        assert!(find("gpt_4o").unwrap_err().is_empty());
    }
}
