//! A task: one subset of a dataset with everything needed to ask its questions and to score the answers.

use crate::{
    Error, Result,
    extract::Extractor,
    prompt::{Style, Template, has_placeholder},
};
use crate::{Message, names};
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
    pub template: Template,
    /// How an answer is read.
    pub extractor: Extractor,
}

/// The fields of one row, in column order: `id`, `question`, `A` … `D`, `answer`, `explanation`.
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
    /// [`Error::Sample`] when the template names a field that the row lacks.
    pub fn prompt(&self, sample: &Sample, num_shots: usize, style: &Style) -> Result<Prompt> {
        let shots = &self.shots[..num_shots.min(self.shots.len())];
        let columns: Vec<&str> = shots.iter().flatten().map(|(name, _)| name.as_str()).collect();
        if let Some(column) = self.template.missing_column(&sample.row, &columns) {
            let has: Vec<&str> = sample.row.iter().map(|(name, _)| name.as_str()).collect();
            return Err(Error::Sample {
                abbr: self.abbr.clone(),
                index: sample.index,
                reason: format!("the prompt needs the column `{column}`, but the row has only {}", has.join(", ")),
            });
        }
        Ok(style.render(&self.template.turns(shots, &sample.row)))
    }

    /// Rows, of examples and questions, whose data holds a placeholder such as `{A}`: compatible prompts replace it.
    pub fn rows_with_placeholders(&self) -> usize {
        let rows = self.shots.iter().chain(self.samples.iter().map(|sample| &sample.row));
        rows.filter(|row| has_placeholder(row)).count()
    }
}

/// Keeps the wanted subjects in the order of `all`, or all if none is named.
///
/// # Errors
/// [`Error::UnknownSubject`].
pub(crate) fn choose<'a, T>(
    all: &'a [T],
    name: impl Fn(&T) -> &str,
    wanted: &[String],
    dataset: &str,
) -> Result<Vec<&'a T>> {
    for subject in wanted {
        if !all.iter().any(|one| name(one) == subject) {
            return Err(Error::UnknownSubject {
                name: subject.clone(),
                dataset: dataset.to_owned(),
                near: names::near(subject, all.iter().map(&name)),
                known: all.iter().map(|one| name(one).to_owned()).collect(),
            });
        }
    }
    Ok(all.iter().filter(|one| wanted.is_empty() || wanted.iter().any(|subject| subject == name(one))).collect())
}
