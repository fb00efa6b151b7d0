//! What to evaluate, fully resolved: nothing in this crate reads flags, the environment or the home folder.

use serde_json::{Map, Value};
use std::path::PathBuf;

/// How prompts reach the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HfType {
    /// Plain text, as the tutorial's command sends it (OpenCompass's `HuggingFaceBaseModel`).
    #[default]
    Base,
    /// Messages through the model's own chat template (`HuggingFacewithChatTemplate`).
    Chat,
}

impl HfType {
    /// The spelling of `--hf-type`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Chat => "chat",
        }
    }
}

/// Which earlier run to go on with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// The newest in the work dir: the last by name.
    Latest,
    /// The one of this name, `YYYYmmdd_HHMMSS`.
    Run(String),
}

/// What is known of the model before it is loaded. Only written to the record of the run, never interpreted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelConfig {
    /// Name in tables and folders; see [`model_abbr`].
    pub abbr: String,
    /// As given to `--hf-path`.
    pub path: String,
    /// As given to `--tokenizer-path`.
    pub tokenizer_path: Option<String>,
    /// As given to `--model-kwargs`.
    pub model_kwargs: Map<String, Value>,
    /// As given to `--tokenizer-kwargs`.
    pub tokenizer_kwargs: Map<String, Value>,
    /// As given to `--num-gpus` or `--hf-num-gpus`.
    pub num_gpus: usize,
    /// The dictionary of the model in a configuration, in OpenCompass's words; saved as it is.
    pub dict: Option<Value>,
}

/// OpenCompass's name for a model given by path: the last path component and `_hf`.
pub fn model_abbr(path: &str) -> String {
    let trimmed = path.trim_end_matches(['/', '\\']);
    let last = trimmed.rsplit(['/', '\\']).next().unwrap_or(trimmed);
    let stem = last.strip_suffix(".gguf").unwrap_or(last);
    format!("{stem}_hf")
}

/// A whole evaluation.
#[derive(Clone, Debug)]
pub struct EvalConfig {
    /// Names or aliases from the dataset registry, in the order of the table.
    pub datasets: Vec<String>,
    /// Dataset dictionaries of a configuration file, after those of `datasets`; see [`crate::datasets::task`].
    pub dataset_configs: Vec<Value>,
    /// Leave placeholders such as `{A}` alone where they stand in the data; OpenCompass replaces them.
    pub strict_braces: bool,
    /// Folder or downloaded archive that holds the data; not needed by `ceval_demo_gen`.
    pub data_dir: Option<PathBuf>,
    /// Run folders go here; OpenCompass's default is `outputs/default`.
    pub work_dir: PathBuf,
    /// The model, for the record.
    pub model: ModelConfig,
    /// Plain text or messages.
    pub hf_type: HfType,
    /// Name of a meta template , see `prompt::meta`; `None`: none with [`HfType::Base`].
    pub meta_template: Option<String>,
    /// The `meta_template` dictionary of the model's configuration, see [`crate::prompt::MetaTemplate::parse`]; with
    /// [`HfType::Chat`] the roles of its rounds. Not beside `meta_template`.
    pub meta_template_config: Option<Value>,
    /// Prompts longer than this lose in-context examples, then their beginning. `None`: the model's own limit only
    /// cuts the beginning, and no example is dropped, as in OpenCompass.
    pub max_seq_len: Option<usize>,
    /// Most tokens to generate; OpenCompass's default is 256.
    pub max_out_len: usize,
    /// Upper bound on sequences in flight, for the record: the engine has its own copy.
    pub batch_size: usize,
    /// Only these subjects; empty: all.
    pub subjects: Vec<String>,
    /// Only the first questions of each subject.
    pub limit: Option<usize>,
    /// Extra stop strings, cut from the answer.
    pub stop_words: Vec<String>,
    /// Tokens that end an answer, where they are not the model's own; for the record: the engine has its own copy.
    pub eos_token_ids: Option<Vec<u32>>,
    /// 0 is greedy, as OpenCompass runs C-Eval.
    pub temperature: f32,
    /// Seed of sampling; no effect when greedy.
    pub seed: u64,
    /// Go on with an earlier run.
    pub resume: Option<Resume>,
    /// Plan only: build every prompt, count, generate nothing and write nothing.
    pub dry_run: bool,
    /// Write `details` into the results files (OpenCompass's default).
    pub dump_eval_details: bool,
    /// Name of the run folder, `YYYYmmdd_HHMMSS` in local time; `None`: now, in UTC. Taken with a later second where
    /// the folder exists.
    pub timestamp: Option<String>,
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self {
            datasets: Vec::new(),
            dataset_configs: Vec::new(),
            strict_braces: false,
            data_dir: None,
            work_dir: PathBuf::from("outputs/default"),
            model: ModelConfig::default(),
            hf_type: HfType::Base,
            meta_template: None,
            meta_template_config: None,
            max_seq_len: None,
            max_out_len: 256,
            batch_size: 8,
            subjects: Vec::new(),
            limit: None,
            stop_words: Vec::new(),
            eos_token_ids: None,
            temperature: 0.0,
            seed: 0,
            resume: None,
            dry_run: false,
            dump_eval_details: true,
            timestamp: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abbr_is_the_last_component() {
        assert_eq!(model_abbr("models/smollm2-135m"), "smollm2-135m_hf");
        assert_eq!(model_abbr("/m/internlm2-7b/"), "internlm2-7b_hf");
        assert_eq!(model_abbr("qwen2.5-0.5b.q4_k_m.gguf"), "qwen2.5-0.5b.q4_k_m_hf");
    }
}
