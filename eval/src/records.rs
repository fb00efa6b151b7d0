//! Answers as OpenCompass's predictions files have them: one dictionary for each question.

use crate::{
    Inferencer, Label, Message, Prompt, Result, Sample, Task,
    journal::{Entry, Reply},
    modes::{
        fit::{Asked, Built},
        ppl,
    },
    prompt::Style,
};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// One question's part of a predictions file.
pub(crate) type Record = Map<String, Value>;

/// Makes the records of one subset.
pub(crate) struct Recorder<'a> {
    task: &'a Task,
    style: &'a Style,
    /// The solved examples by their number.
    examples: HashMap<usize, Prompt>,
}

impl<'a> Recorder<'a> {
    pub(crate) fn new(task: &'a Task, style: &'a Style) -> Self {
        Self { task, style, examples: HashMap::new() }
    }

    fn examples(&mut self, shots: usize) -> Result<Prompt> {
        if let Some(examples) = self.examples.get(&shots) {
            return Ok(examples.clone());
        }
        let examples = self.task.examples(shots, self.style)?;
        self.examples.insert(shots, examples.clone());
        Ok(examples)
    }

    /// What is written for a question, or why it has no answer.
    ///
    /// # Errors
    /// Where the examples cannot be built.
    pub(crate) fn record(&mut self, sample: &Sample, asked: &Asked, entry: &Entry) -> Result<Result<Record, String>> {
        let numbers = match &entry.reply {
            Reply::Text { text, .. } => {
                let prompt = asked.prompts().first().map(|built| prompt(&built.prompt));
                let record =
                    json!({ "origin_prompt": prompt, "prediction": text, "gold": self.task.gold_json(sample) });
                return Ok(Ok(object(record)));
            }
            Reply::Numbers { numbers } => numbers.iter().copied().collect::<Option<Vec<f64>>>(),
        };
        let Some(numbers) = numbers else {
            return Ok(Err("the model's probabilities are not finite numbers".into()));
        };
        match &self.task.inferencer {
            Inferencer::Clp { choices } => self.choices(sample, asked, &numbers, choices).map(Ok),
            inferencer => {
                let labels = inferencer.labels().unwrap_or_default();
                let complete = labels.len() == numbers.len() && asked.prompts().len() == labels.len();
                if !complete {
                    return Ok(Err(format!("{} labels have {} numbers", labels.len(), numbers.len())));
                }
                self.labels(sample, asked.prompts(), &numbers, labels).map(Ok)
            }
        }
    }

    fn labels(&mut self, sample: &Sample, built: &[Built], numbers: &[f64], labels: &[Label]) -> Result<Record> {
        let all = self.examples(self.task.shots.len())?;
        let mut record = object(json!({ "in-context examples": prompt(&all) }));
        let is_ppl = matches!(self.task.inferencer, Inferencer::Ppl { .. });
        for ((label, built), number) in labels.iter().zip(built).zip(numbers) {
            let examples = self.examples(built.shots)?;
            let (input, bytes) = match &built.prompt {
                Prompt::Text(text) => {
                    let input = Task::without_examples(text, &examples);
                    let bytes = input.len();
                    (Value::from(input), bytes)
                }
                messages => (prompt(messages), built.text.len()),
            };
            let mut scored = Map::new();
            scored.insert("testing input".into(), input.clone());
            scored.insert("prompt".into(), prompt(&built.prompt));
            if is_ppl {
                record.entry("origin_prompt").or_insert(input);
                scored.insert("PPL".into(), json!(number));
                scored.insert("BPB".into(), json!(number * built.counted as f64 / bytes.max(1) as f64));
            } else {
                scored.insert("Loglikelihood".into(), json!(number));
            }
            record.insert(ppl::key(label), scored.into());
        }
        let answer = ppl::best(&self.task.inferencer, numbers).map(|best| labels[best].to_json());
        record.insert("prediction".into(), answer.unwrap_or_default());
        record.insert("gold".into(), self.task.gold_json(sample));
        Ok(record)
    }

    fn choices(&mut self, sample: &Sample, asked: &Asked, numbers: &[f64], choices: &[String]) -> Result<Record> {
        let all = self.examples(self.task.shots.len())?;
        let (sent, input) = match asked.prompts().first() {
            Some(Built { prompt: Prompt::Text(text), shots, .. }) => {
                let examples = self.examples(*shots)?;
                (Value::from(text.as_str()), Task::without_examples(text, &examples).into())
            }
            Some(built) => (prompt(&built.prompt), prompt(&built.prompt)),
            None => (Value::Null, Value::Null),
        };
        Ok(object(json!({
            "in-context examples": prompt(&all),
            "testing input": input,
            "prompt": sent,
            "choices": choices,
            "prediction": numbers,
            "pred_label": ppl::best(&self.task.inferencer, numbers),
            "gold": self.task.gold_json(sample),
        })))
    }
}

fn object(value: Value) -> Record {
    match value {
        Value::Object(record) => record,
        _ => Record::new(),
    }
}

/// Text as it is; messages in OpenCompass's own roles.
fn prompt(prompt: &Prompt) -> Value {
    match prompt {
        Prompt::Text(text) => text.as_str().into(),
        Prompt::Messages(messages) => {
            messages.iter().map(|m| json!({ "role": role(m), "prompt": m.content })).collect()
        }
    }
}

fn role(message: &Message) -> &str {
    match message.role.as_str() {
        "user" => "HUMAN",
        "assistant" => "BOT",
        "system" => "SYSTEM",
        other => other,
    }
}
