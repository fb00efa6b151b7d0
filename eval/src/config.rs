//! What to evaluate, fully resolved: nothing in this crate reads flags, the environment or the home folder.

use crate::{
    Error, Result,
    datasets::{self, Group},
    extract::Extractor,
    names,
};
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

/// What goes of a prompt that is too long without examples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Truncation {
    /// Its beginning.
    #[default]
    Left,
    /// Its middle: `mode='mid'` of OpenCompass's models, which reserve room for the output, and `drop_middle=True` of
    /// `HuggingFaceBaseModel`, which does not.
    Middle,
}

/// Which earlier run to go on with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// The newest in the work dir: the last by name.
    Latest,
    /// The one of this name, `YYYYmmdd_HHMMSS`.
    Run(String),
}

/// What of a run to do (`-m`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Ask, score and summarize.
    #[default]
    All,
    /// Only ask: answers and predictions files.
    Infer,
    /// Score the predictions files of an earlier run, and summarize.
    Eval,
    /// Summarize the results files of an earlier run.
    Viz,
}

impl Stage {
    /// The spelling of `-m`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Infer => "infer",
            Self::Eval => "eval",
            Self::Viz => "viz",
        }
    }

    /// Whether a model is asked.
    pub const fn infers(self) -> bool {
        matches!(self, Self::All | Self::Infer)
    }
}

/// What the summary shows. `Default`: every subset, then every group of the datasets that is complete.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summarizer {
    /// Only these rows, in this order: a subset or group, and one of its metrics (`None`: the first).
    pub rows: Option<Vec<(String, Option<String>)>>,
    /// The groups; `None`: those of the datasets.
    pub groups: Option<Vec<Group>>,
}

impl Summarizer {
    /// The one that OpenCompass's dictionary describes: `dataset_abbrs` and `summary_groups`, either of which may be
    /// missing.
    ///
    /// # Errors
    /// [`Error::Config`] for what is malformed, and for ways to average that do not exist here.
    pub fn parse(dict: &Value) -> Result<Self> {
        let wrong = |what: String| Error::Config { what: format!("summarizer: {what}") };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let rows = match dict.get("dataset_abbrs") {
            None | Some(Value::Null) => None,
            Some(Value::Array(rows)) => {
                let row = |row: &Value| match row {
                    Value::String(name) => Ok((name.clone(), None)),
                    Value::Array(pair) if pair.len() == 2 => {
                        let name =
                            text(&pair[0]).ok_or_else(|| wrong(format!("{row} in dataset_abbrs has no name")))?;
                        Ok((name, text(&pair[1])))
                    }
                    other => Err(wrong(format!("{other} in dataset_abbrs, wanted a name or a name and a metric"))),
                };
                Some(rows.iter().map(row).collect::<Result<Vec<_>>>()?)
            }
            Some(other) => return Err(wrong(format!("dataset_abbrs is {other}, wanted a list"))),
        };
        let groups = match dict.get("summary_groups") {
            None | Some(Value::Null) => None,
            Some(Value::Array(groups)) if groups.is_empty() => None,
            Some(Value::Array(groups)) => Some(groups.iter().map(group).collect::<Result<Vec<_>>>()?),
            Some(other) => return Err(wrong(format!("summary_groups is {other}, wanted a list"))),
        };
        Ok(Self { rows, groups })
    }

    /// The one of this name: `example`, which is the default, or a dataset's with its own groups only: `ceval`, `mmlu` ….
    ///
    /// # Errors
    /// [`Error::Config`] with the known names.
    pub fn named(name: &str) -> Result<Self> {
        if name == "example" {
            return Ok(Self::default());
        }
        // A family without a folder is of this project, not of OpenCompass.
        let grouped = || {
            let families = datasets::families().iter();
            families.filter(|family| !family.folder.is_empty()).filter(|family| !family.groups().is_empty())
        };
        if let Some(family) = grouped().find(|family| family.folder == name) {
            return Ok(Self { rows: None, groups: Some(family.groups()) });
        }
        let known: Vec<&str> = ["example"].into_iter().chain(grouped().map(|family| family.folder)).collect();
        let near = names::did_you_mean(&names::near(name, known.iter().copied()));
        let what = format!("unknown summarizer `{name}`{near}\n\nhint: known summarizers are {}", known.join(", "));
        Err(Error::Config { what })
    }
}

/// An element of `summary_groups`.
fn group(dict: &Value) -> Result<Group> {
    let name = dict["name"].as_str().unwrap_or_default();
    let wrong = |what: &str| Error::Config { what: format!("summarizer: group `{name}`: {what}") };
    let known = ["name", "subsets", "weights"];
    let keys = dict.as_object().ok_or_else(|| wrong("it is no dictionary"))?.keys();
    if let Some(key) = keys.into_iter().find(|key| !known.contains(&key.as_str())) {
        return Err(wrong(&format!("`{key}` is not supported; known are {}", known.join(", "))));
    }
    let names = dict["subsets"].as_array().and_then(|all| all.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
    let subsets: Vec<String> =
        names.ok_or_else(|| wrong("`subsets` must be a list of names"))?.into_iter().map(str::to_owned).collect();
    if name.is_empty() || subsets.is_empty() {
        return Err(wrong("it needs a `name` and `subsets`"));
    }
    let weights = match dict.get("weights").and_then(Value::as_object).filter(|weights| !weights.is_empty()) {
        None => Vec::new(),
        Some(weights) => {
            let weight = |subset: &String| weights.get(subset).and_then(Value::as_f64);
            let all = subsets.iter().map(weight).collect::<Option<Vec<_>>>();
            all.ok_or_else(|| wrong("`weights` must have a number for each subset"))?
        }
    };
    Ok(Group { weights, ..Group::new(name, subsets) })
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
    /// What goes of a prompt that is longer without examples too.
    pub truncation: Truncation,
    /// The model is of OpenCompass's class `HuggingFaceCausalLM`, whose single prompts leave room for the output within
    /// [`max_seq_len`](Self::max_seq_len).
    pub is_causal_lm: bool,
    /// `batch_padding=True` of that class: prompts are not single, but for one that is alone in its batch.
    pub has_batch_padding: bool,
    /// Most tokens to generate; OpenCompass's default is 256.
    pub max_out_len: usize,
    /// Tokens before which no token can end an answer, where the dataset does not say.
    pub min_out_len: Option<usize>,
    /// The token whose losses perplexities leave out, where it is not the model's own; negative ones count from the end of
    /// the vocabulary.
    pub pad_token_id: Option<i64>,
    /// The model's own post-processor, which reads every answer before the dataset's.
    pub pred_postprocessor: Option<Extractor>,
    /// OpenCompass's batch size. It decides nothing but which prompts are single, see `has_batch_padding`; the engine has a
    /// bound of its own on sequences in flight.
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
    /// Sample from this many of the likeliest tokens; 0: from all. No effect when greedy.
    pub top_k: usize,
    /// Sample from the likeliest tokens that together have this probability. No effect when greedy.
    pub top_p: f32,
    /// Seed of sampling; no effect when greedy.
    pub seed: u64,
    /// What of the run to do. [`Stage::Eval`] and [`Stage::Viz`] need [`resume`](Self::resume).
    pub stage: Stage,
    /// What the summary shows.
    pub summarizer: Summarizer,
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
            truncation: Truncation::Left,
            is_causal_lm: false,
            has_batch_padding: false,
            max_out_len: 256,
            min_out_len: None,
            pad_token_id: None,
            pred_postprocessor: None,
            batch_size: 8,
            subjects: Vec::new(),
            limit: None,
            stop_words: Vec::new(),
            eos_token_ids: None,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            seed: 0,
            stage: Stage::All,
            summarizer: Summarizer::default(),
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
