//! A task: one subset of a dataset with everything needed to ask its questions and to score the answers.

use crate::{
    Error, EvalConfig, Message, Result,
    extract::Extractor,
    names,
    prompt::{Mode, Prompting, Style, has_placeholder},
    python,
};
use serde_json::Value;
use std::path::PathBuf;

/// One subset, e.g. one C-Eval subject.
#[derive(Clone, Debug)]
pub struct Task {
    /// E.g. `ceval-law`: the row of the table and the file name.
    pub abbr: String,
    /// E.g. `law`; `test-law` on the test split of C-Eval.
    pub subject: String,
    /// First six hex digits of the hash of the prompt configuration.
    pub version: String,
    /// OpenCompass's configuration of the subset; for `configs/*.py`.
    pub dataset_config: Value,
    /// The questions.
    pub samples: Vec<Sample>,
    /// The solved examples, in the order they stand in the prompt.
    pub shots: Vec<Row>,
    /// How prompts are made.
    pub prompting: Prompting,
    /// The columns of the data, in order.
    pub columns: Vec<String>,
    /// How the model is asked.
    pub inferencer: Inferencer,
    /// How an answer is read.
    pub extractor: Extractor,
    /// How answers are scored.
    pub evaluator: Evaluator,
    /// The role whose part of an answer is scored (`pred_role`). As OpenCompass 0.5.4 looks for it, that is always the
    /// whole answer, but the model's meta template must have the role.
    pub pred_role: Option<String>,
    /// Whether the right answers are integers in OpenCompass's files.
    pub integer_golds: bool,
    /// The file of contamination annotations that its score needs and that is not there.
    pub missing_annotations: Option<PathBuf>,
}

/// The fields of one row, in column order, e.g. `id`, `question`, `A` … `D`, `answer`, `explanation`.
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
    /// The right answer where it is a dictionary there; `gold` is Python's text of it.
    pub reference: Option<Value>,
}

impl Sample {
    /// The field of this column.
    pub fn field(&self, column: &str) -> Option<&str> {
        self.row.iter().find(|(name, _)| name == column).map(|(_, value)| value.as_str())
    }
}

/// OpenCompass's way to ask the model, with its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inferencer {
    /// `GenInferencer`: the answer is generated.
    Gen(Generation),
    /// `PPLInferencer`: one prompt per label ([`Task::candidate`]); the one of lowest perplexity is the answer.
    Ppl {
        /// The answers, in order: of equal ones the first wins.
        labels: Vec<Label>,
    },
    /// `CLPInferencer`: the prompt of a generation ([`Task::prompt`]); the probabilities of the choices' first tokens
    /// after it, normalised over the choices, are the answer.
    Clp {
        /// Texts of one token.
        choices: Vec<String>,
    },
    /// `LLInferencer`: one prompt per label ([`Task::candidate`]); the one after which [`Task::continuation`] is
    /// likeliest, as `get_loglikelihood` has it, is the answer.
    Ll {
        /// The answers, in order: of equal ones the first wins.
        labels: Vec<Label>,
    },
}

impl Inferencer {
    /// As OpenCompass's tables show it: `gen`, `ppl`, `clp` or `ll`.
    pub fn mode(&self) -> &'static str {
        match self {
            Self::Gen(_) => "gen",
            Self::Ppl { .. } => "ppl",
            Self::Clp { .. } => "clp",
            Self::Ll { .. } => "ll",
        }
    }

    /// Whether predictions files have numbers as answers.
    pub fn answers_are_numbers(&self) -> bool {
        let are_integers = |labels: &[Label]| labels.iter().any(|label| label.is_integer);
        matches!(self, Self::Clp { .. }) || self.labels().is_some_and(are_integers)
    }

    /// The answers that have a prompt of their own, in order; none where one prompt serves all.
    pub fn labels(&self) -> Option<&[Label]> {
        match self {
            Self::Ppl { labels } | Self::Ll { labels } => Some(labels),
            Self::Gen(_) | Self::Clp { .. } => None,
        }
    }
}

/// What a dataset's configuration says about generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generation {
    /// Wins over the model's.
    pub max_out_len: Option<usize>,
    /// Wins over the model's.
    pub min_out_len: Option<usize>,
    /// Wins over the model's.
    pub batch_size: Option<usize>,
    /// Added to the model's.
    pub stop: Vec<String>,
}

/// An answer of a set, with the type that OpenCompass's files give it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// E.g. `A`, or `1`.
    pub text: String,
    /// Whether it is an integer there.
    pub is_integer: bool,
}

impl Label {
    /// The label that a key of a template stands for, see [`crate::integer_key`].
    pub(crate) fn of_key(key: &str) -> Self {
        match python::integer_of_key(key) {
            Some(digits) => Self { text: digits.to_owned(), is_integer: true },
            None => Self { text: key.to_owned(), is_integer: false },
        }
    }

    /// As OpenCompass writes it.
    pub fn to_json(&self) -> Value {
        integer(&self.text).filter(|_| self.is_integer).map_or_else(|| self.text.clone().into(), Value::from)
    }
}

fn integer(text: &str) -> Option<i64> {
    text.parse().ok()
}

/// OpenCompass's way to score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evaluator {
    /// `AccEvaluator`: percent of right answers.
    Acc,
    /// `AccwithDetailsEvaluator`: the same, and it returns the details itself.
    AccWithDetails,
    /// `AccContaminationEvaluator`: one accuracy for each value of the column `is_clean`.
    AccContamination,
    /// `EDAccEvaluator`: percent of answers whose nearest candidate, by edit distance, is that of the right answer.
    EdAcc,
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
    /// The prompt that asks `sample` with the first `num_shots` solved examples; its answer is left to the model.
    ///
    /// # Errors
    /// [`Error::Sample`] when the template names a field that the row lacks, or does not fit the model's template.
    pub fn prompt(&self, sample: &Sample, num_shots: usize, style: &Style) -> Result<Prompt> {
        self.build(sample, num_shots, |task, shots| {
            let examples = task.prompting.examples(shots)?;
            style.render(&task.prompting.question(&examples, &sample.row)?, Mode::Gen)
        })
    }

    /// The prompt that states the answer `label` to `sample`, after the first `num_shots` solved examples.
    ///
    /// # Errors
    /// As for [`prompt`](Self::prompt), and for an answer that has no template.
    pub fn candidate(&self, sample: &Sample, label: &Label, num_shots: usize, style: &Style) -> Result<Prompt> {
        self.build(sample, num_shots, |task, shots| {
            let examples = task.prompting.examples(shots)?;
            style.render(&task.prompting.statement(&examples, &sample.row, &label.text)?, Mode::Ppl)
        })
    }

    /// The first `num_shots` solved examples alone: `in-context examples` of OpenCompass's files.
    ///
    /// # Errors
    /// As for [`prompt`](Self::prompt), with the row of the first example.
    pub fn examples(&self, num_shots: usize, style: &Style) -> Result<Prompt> {
        let shots = self.first_shots(num_shots);
        let examples = self.prompting.examples(shots).and_then(|draft| style.render(&draft.unguard(), Mode::Ppl));
        examples.map_err(|reason| Error::Sample { abbr: self.abbr.clone(), index: 0, reason })
    }

    /// A prompt without its examples, as OpenCompass finds it (`testing input` of its files, and the bytes of `BPB`):
    /// their text is removed wherever it stands. Where the question changed a placeholder in an example, or the
    /// examples are messages, that is nowhere.
    pub fn without_examples(prompt: &str, examples: &Prompt) -> String {
        match examples {
            Prompt::Text(examples) if !examples.is_empty() => prompt.replace(examples.as_str(), ""),
            _ => prompt.to_owned(),
        }
    }

    /// What [`Inferencer::Ll`] scores after each prompt: the column `cont`.
    pub fn continuation<'a>(&self, sample: &'a Sample) -> Option<&'a str> {
        sample.field("cont")
    }

    fn first_shots(&self, num_shots: usize) -> &[Row] {
        &self.shots[..num_shots.min(self.shots.len())]
    }

    fn build(
        &self,
        sample: &Sample,
        num_shots: usize,
        build: impl Fn(&Self, &[Row]) -> Result<Prompt, String>,
    ) -> Result<Prompt> {
        let failed = |reason: String| Error::Sample { abbr: self.abbr.clone(), index: sample.index, reason };
        if let Some(column) = self.prompting.missing_column(&sample.row, &self.columns) {
            let has: Vec<&str> = sample.row.iter().map(|(name, _)| name.as_str()).collect();
            return Err(failed(format!(
                "the prompt needs the column `{column}`, but the row has only {}",
                has.join(", ")
            )));
        }
        build(self, self.first_shots(num_shots)).map_err(failed)
    }

    /// Most tokens to generate: the dataset's own limit, or the one of `config`.
    pub fn max_out_len(&self, config: &EvalConfig) -> usize {
        match &self.inferencer {
            Inferencer::Gen(Generation { max_out_len: Some(len), .. }) => *len,
            _ => config.max_out_len,
        }
    }

    /// Tokens before which no token can end an answer: the dataset's own number, or the one of `config`.
    pub fn min_out_len(&self, config: &EvalConfig) -> usize {
        match &self.inferencer {
            Inferencer::Gen(generation) => generation.min_out_len.or(config.min_out_len).unwrap_or(0),
            _ => 0,
        }
    }

    /// Questions of a batch as OpenCompass makes them: the dataset's own number, or the one of `config`.
    pub fn batch_size(&self, config: &EvalConfig) -> usize {
        let own = if let Inferencer::Gen(generation) = &self.inferencer { generation.batch_size } else { None };
        own.unwrap_or(config.batch_size).max(1)
    }

    /// Stop strings: those of `config`, then the dataset's own.
    pub fn stop_words(&self, config: &EvalConfig) -> Vec<String> {
        let own: &[String] = if let Inferencer::Gen(generation) = &self.inferencer { &generation.stop } else { &[] };
        config.stop_words.iter().chain(own).cloned().collect()
    }

    /// The right answer as OpenCompass's files have it: empty text where there is none.
    pub fn gold_json(&self, sample: &Sample) -> Value {
        if let Some(reference) = &sample.reference {
            return reference.clone();
        }
        let gold = sample.gold.clone().unwrap_or_default();
        Label { text: gold, is_integer: self.integer_golds }.to_json()
    }

    /// Whether the answers are left out of the data, as on C-Eval's test split.
    pub fn is_unlabelled(&self) -> bool {
        !self.samples.is_empty() && self.samples.iter().all(|sample| sample.gold.is_none())
    }

    /// Checks that its answers can be scored, as far as that is known before they are given.
    ///
    /// # Errors
    /// [`Error::MissingAnnotations`].
    pub fn check_scorable(&self) -> Result<()> {
        match &self.missing_annotations {
            Some(file) => Err(Error::MissingAnnotations { abbr: self.abbr.clone(), file: file.clone() }),
            None => Ok(()),
        }
    }

    /// Rows, of examples and questions, whose data holds a placeholder such as `{A}`: compatible prompts replace it.
    pub fn rows_with_placeholders(&self) -> usize {
        let rows = self.shots.iter().chain(self.samples.iter().map(|sample| &sample.row));
        rows.filter(|row| has_placeholder(row)).count()
    }
}

/// Checks that every one of `wanted` is a subject of `dataset`.
///
/// # Errors
/// [`Error::UnknownSubject`].
pub(crate) fn check_subjects(all: &[&str], wanted: &[String], dataset: &str) -> Result<()> {
    match wanted.iter().find(|subject| !all.contains(&subject.as_str())) {
        None => Ok(()),
        Some(subject) => Err(Error::UnknownSubject {
            name: subject.clone(),
            dataset: dataset.to_owned(),
            near: names::near(subject, all.iter().copied()),
            known: all.iter().map(|one| (*one).to_owned()).collect(),
        }),
    }
}
