//! The summary: OpenCompass's table with its group averages, as text, CSV and Markdown, and our own line.

pub(crate) mod table;

use crate::{EvalConfig, HfType, Overall, Task, datasets::Group, output::RunFolder, python};
use serde_json::{Map, json};

/// A subset's score, or why it has none.
#[derive(Clone, Debug)]
pub(crate) struct Score {
    /// E.g. `ceval-law`.
    pub abbr: String,
    /// First six hex digits of the prompt configuration's hash.
    pub version: String,
    /// `gen`.
    pub mode: &'static str,
    /// Percent, or why there is none.
    pub accuracy: Result<f64, String>,
}

/// All scores of a run.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    model: String,
    subsets: Vec<Vec<String>>,
    groups: Vec<Vec<String>>,
    raw: Vec<String>,
}

impl Summary {
    /// `model` is its name in the tables. A group has a row when all its subsets have a score.
    pub(crate) fn new(model: &str, scores: &[Score], groups: &[Group]) -> Self {
        let mut summary = Self { model: model.into(), subsets: Vec::new(), groups: Vec::new(), raw: Vec::new() };
        for score in scores {
            let (row, raw) = match &score.accuracy {
                Ok(accuracy) => (
                    vec![
                        score.abbr.clone(),
                        score.version.clone(),
                        "accuracy".into(),
                        score.mode.into(),
                        two(*accuracy),
                    ],
                    json!({ "accuracy": accuracy }),
                ),
                Err(reason) => {
                    let dash = || "-".to_owned();
                    (vec![score.abbr.clone(), dash(), dash(), dash(), dash()], json!({ "error": reason }))
                }
            };
            summary.subsets.push(row);
            summary.raw.push(format!("{}: {}", score.abbr, python::repr(&raw)));
        }
        for group in groups {
            summary.add_group(group, scores);
        }
        summary
    }

    fn add_group(&mut self, group: &Group, scores: &[Score]) {
        let find = |abbr: &String| scores.iter().find(|s| s.abbr == *abbr && s.accuracy.is_ok());
        let found: Vec<&Score> = group.subsets.iter().filter_map(find).collect();
        if found.is_empty() {
            return;
        }
        if found.len() < group.subsets.len() {
            let missing: Vec<&String> = group.subsets.iter().filter(|abbr| find(abbr).is_none()).collect();
            let reason = format!("missing metrics: {}", python::repr(&json!(missing)));
            self.raw.push(format!("{}: {}", group.name, python::repr(&json!({ "error": reason }))));
            return;
        }
        let sum: f64 = found.iter().filter_map(|score| score.accuracy.as_ref().ok()).sum();
        let mean = sum / found.len() as f64;
        let mode = if found.iter().all(|score| score.mode == found[0].mode) { found[0].mode } else { "mixed" };
        for metric in ["accuracy", "naive_average"] {
            self.groups.push(vec![group.name.clone(), "-".into(), metric.into(), mode.into(), two(mean)]);
        }
        let raw = json!({ "accuracy": mean, "naive_average": mean });
        self.raw.push(format!("{}: {}", group.name, python::repr(&raw)));
    }

    fn header(&self) -> [&str; 5] {
        ["dataset", "version", "metric", "mode", &self.model]
    }

    fn rows(&self) -> Vec<Vec<String>> {
        self.subsets.iter().chain(&self.groups).cloned().collect()
    }

    /// The table of the subsets, as OpenCompass prints it.
    pub(crate) fn table(&self) -> String {
        table::tabulate(&self.header(), &self.subsets)
    }

    /// The averages of complete groups in the same form.
    pub(crate) fn averages(&self) -> Option<String> {
        (!self.groups.is_empty()).then(|| table::tabulate(&self.header(), &self.groups))
    }

    /// `summary_<time>.csv`.
    pub(crate) fn csv(&self) -> String {
        table::csv(&self.header(), &self.rows())
    }

    /// `summary_<time>.md`.
    pub(crate) fn markdown(&self) -> String {
        table::markdown(&self.header(), &self.rows())
    }

    /// `summary_<time>.txt`: every form, then the unrounded values and what is missing.
    pub(crate) fn text(&self, time: &str) -> String {
        let (open, close) = ("^".repeat(128), "$".repeat(128));
        let divider = |dashes: usize| format!("{0} THIS IS A DIVIDER {0}", "-".repeat(dashes));
        let section = |title: &str, body: &str| format!("{title} format\n{open}\n{body}\n{close}\n");
        let table = table::tabulate(&self.header(), &self.rows());
        let raw = format!("{}\nModel: {}\n{}", "-".repeat(31), self.model, self.raw.join("\n"));
        [
            format!("{time}\n"),
            section("tabulate", &table),
            format!("\n{}\n\n", divider(128)),
            section("csv", self.csv().trim_end()),
            "\n".into(),
            section("markdown", &self.markdown()),
            format!("{}\n\n", divider(128)),
            section("raw", &raw),
        ]
        .concat()
    }
}

/// Python's `'{:.2f}'`.
fn two(percent: f64) -> String {
    format!("{percent:.2}")
}

/// Our line below the tables. What was computed in stands with the score it may have changed.
pub(crate) fn line(overall: &Overall, dtype: &str) -> String {
    let score = if overall.questions == 0 {
        "accuracy - over 0 scored questions".to_owned()
    } else {
        format!(
            "accuracy {:.2} ± {:.2} % over {} questions (strict {:.2} %, no answer in {})",
            overall.accuracy, overall.stderr, overall.questions, overall.strict_accuracy, overall.unparsed
        )
    };
    format!(
        "{score}; {} prompt tokens, {} computed; {} prompts truncated; {:.1} s in {dtype}",
        overall.prompt_tokens, overall.computed_tokens, overall.truncated, overall.seconds
    )
}

/// `configs/<time>_<pid>.py`: the settings as OpenCompass dumps them.
pub(crate) fn configuration(config: &EvalConfig, tasks: &[Task], groups: &[Group], folder: &RunFolder) -> String {
    let model = &config.model;
    let class = match config.hf_type {
        HfType::Base => "HuggingFaceBaseModel",
        HfType::Chat => "HuggingFacewithChatTemplate",
    };
    let mut generation_kwargs = Map::new();
    if config.temperature > 0.0 {
        generation_kwargs.insert("do_sample".into(), true.into());
        // Through text: 0.1 must not become 0.10000000149011612.
        let temperature: f64 = config.temperature.to_string().parse().unwrap_or(config.temperature.into());
        generation_kwargs.insert("temperature".into(), temperature.into());
        generation_kwargs.insert("seed".into(), config.seed.into());
    }
    let mut entry = json!({
        "abbr": model.abbr,
        "batch_size": config.batch_size,
        "generation_kwargs": generation_kwargs,
        "max_out_len": config.max_out_len,
        "max_seq_len": config.max_seq_len,
        "model_kwargs": model.model_kwargs,
        "pad_token_id": null,
        "path": model.path,
        "peft_kwargs": {},
        "peft_path": null,
        "run_cfg": { "num_gpus": model.num_gpus },
        "stop_words": config.stop_words,
        "tokenizer_kwargs": model.tokenizer_kwargs,
        "tokenizer_path": model.tokenizer_path,
        "type": format!("opencompass.models.huggingface_above_v4_33.{class}"),
    });
    if let Some(name) = &config.meta_template {
        entry["meta_template"] = name.as_str().into();
    }
    if let Some(dict) = &model.dict {
        entry.clone_from(dict);
    }
    let group = |group: &Group| json!({ "name": group.name, "subsets": group.subsets });
    let all = json!({
        "datasets": tasks.iter().map(|task| task.dataset_config.clone()).collect::<Vec<_>>(),
        "models": [entry],
        "summarizer": { "summary_groups": groups.iter().map(group).collect::<Vec<_>>() },
        "work_dir": folder.path.to_string_lossy(),
    });
    all.as_object().map(python::config).unwrap_or_default()
}
