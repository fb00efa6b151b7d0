//! What the entry points return.

use crate::{Message, Plan};
use serde::Serialize;
use std::path::PathBuf;

/// What a run found.
#[derive(Clone, Debug, Default)]
pub struct RunReport {
    /// The run folder's name, `YYYYmmdd_HHMMSS`; `None` in a dry run.
    pub run: Option<String>,
    /// The run folder; `None` in a dry run.
    pub folder: Option<PathBuf>,
    /// What was planned.
    pub plan: Plan,
    /// One per model and subset, models in order, subsets in table order; empty where nothing is scored.
    pub subsets: Vec<Subset>,
    /// OpenCompass's table (`dataset version metric mode <model> …`), as it prints it; empty where nothing is scored.
    pub table: String,
    /// The group averages in the same form, for the line below the table; `None` where no group is complete.
    pub averages: Option<String>,
    /// Over all questions, one per model; empty where nothing is scored.
    pub overall: Vec<Overall>,
    /// Our own line below the tables, one per model; empty where nothing is scored.
    pub line: String,
    /// Samples and subsets without an answer or score, and why. Not empty: exit status 1.
    pub failures: Vec<Failure>,
    /// Everything that was reported as [`crate::Event::Warning`].
    pub warnings: Vec<String>,
}

/// One row of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Subset {
    /// The model's name.
    pub model: String,
    /// E.g. `ceval-law`.
    pub abbr: String,
    /// First six hex digits of the prompt configuration's hash.
    pub version: String,
    /// `gen`, `ppl`, `clp` or `ll`.
    pub mode: String,
    /// Percent right; `None` if it could not be scored.
    pub accuracy: Option<f64>,
    /// Questions.
    pub questions: usize,
}

/// Counts over all questions of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Overall {
    /// Percent correct of all scored questions (not the mean over subjects).
    pub accuracy: f64,
    /// Its standard error, in percent.
    pub stderr: f64,
    /// 95 % interval of it (Wilson), in percent.
    pub interval: (f64, f64),
    /// Percent correct under the strict answer rule.
    pub strict_accuracy: f64,
    /// Questions scored.
    pub questions: usize,
    /// Tokens of all prompts, resumed ones included.
    pub prompt_tokens: u64,
    /// Prompt tokens that this run computed.
    pub computed_tokens: u64,
    /// Tokens that this run generated.
    pub generated_tokens: u64,
    /// Prompts that lost in-context examples or their beginning.
    pub truncated: usize,
    /// Answers that a stop word ended.
    pub stopped: usize,
    /// Answers that the limit of tokens ended.
    pub unended: usize,
    /// Answers in which no rule found a letter.
    pub unparsed: usize,
    /// Wall-clock time of this run.
    pub seconds: f64,
}

/// Something that has no score, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The subset.
    pub abbr: String,
    /// 0-based row; `None`: the whole subset.
    pub index: Option<usize>,
    /// Why.
    pub reason: String,
}

/// One prompt as it would be sent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PromptRecord {
    /// The subject, e.g. `law`.
    pub subject: String,
    /// 0-based row.
    pub index: usize,
    /// The candidate answer that the prompt ends in; perplexity mode only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The text: with a model, after examples were dropped and before its beginning is cut; of messages, what the
    /// model's chat template made of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The messages, for [`crate::HfType::Chat`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<Message>>,
    /// The ids as sent; `None` without a model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<u32>>,
    /// The right answer, if the split has labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gold: Option<String>,
}
