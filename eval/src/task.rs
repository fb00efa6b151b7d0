//! A task: one subset of a dataset with everything needed to ask its questions and to score the answers.

use crate::{Message, Result, extract::Extractor};
use serde_json::Value;

/// One subset, e.g. one C-Eval subject.
#[derive(Clone, Debug)]
pub struct Task {
    /// E.g. `ceval-law`: the row of the table and the file name.
    pub abbr: String,
    /// E.g. `law`.
    pub subject: String,
    /// First six hex digits of the hash of the prompt configuration.
    pub version: String,
    /// OpenCompass's configuration of the subset, keys in the order it writes them; for `configs/*.py`.
    pub dataset_config: Value,
    /// The questions.
    pub samples: Vec<Sample>,
    /// The solved examples, in the order they stand in the prompt.
    pub shots: Vec<Row>,
    /// The prompt template.
    pub template: crate::prompt::Template,
    /// How an answer is read.
    pub extractor: Extractor,
}

/// The fields of one row, in column order: `question`, `A` … `D`, `answer`.
pub type Row = Vec<(String, String)>;

/// One question.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// 0-based row.
    pub index: usize,
    /// Its fields.
    pub row: Row,
    /// The right answer; `None` on an unlabelled split.
    pub gold: Option<String>,
}

/// What is sent for a question, before any cut by tokens.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// Plain text.
    Text(String),
    /// Messages for the model's chat template.
    Messages(Vec<Message>),
}

impl Task {
    /// The prompt of `sample` with the first `num_shots` solved examples.
    ///
    /// # Errors
    /// [`crate::Error::Sample`] when the template names a field that the row lacks.
    pub fn prompt(&self, _sample: &Sample, _num_shots: usize, _style: &crate::prompt::Style) -> Result<Prompt> {
        Err(crate::Error::Config { what: "prompts are not connected yet".into() })
    }
}
