//! From the answers of one subset to its score.

use crate::{
    Inferencer, Sample, Task,
    extract::{Extracted, Extractor},
    metrics, python,
    records::Record,
    task::Evaluator,
};
use serde_json::{Map, Value, json};

/// An answered question and what was read out of the answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer<'a> {
    /// The question.
    pub sample: &'a Sample,
    /// As the predictions file has it.
    pub record: Record,
    /// As OpenCompass reads it.
    pub extracted: Extracted,
    /// As the strict rule reads it.
    pub strict: Extracted,
    /// The right answer; empty where there is none, as OpenCompass has it.
    pub gold: String,
    /// The number of the candidate that `EDAccEvaluator` takes it for.
    pub nearest: Option<usize>,
    /// Whether it is right as OpenCompass reads it.
    pub is_correct: bool,
    /// Whether it is right as the strict rule reads it.
    pub is_strictly_correct: bool,
}

impl<'a> Answer<'a> {
    /// Reads the answer to `sample` of `task`, after the model's own post-processor has been over it.
    ///
    /// # Errors
    /// What is wrong with the record.
    pub(crate) fn read(
        task: &Task,
        sample: &'a Sample,
        record: Record,
        postprocessor: Option<&Extractor>,
    ) -> Result<Self, String> {
        let prediction = record.get("prediction").ok_or("it has no `prediction`")?;
        let (mut extracted, mut strict) = match (&task.inferencer, prediction) {
            (Inferencer::Clp { choices }, Value::Array(numbers)) => {
                let numbers: Option<Vec<f64>> = numbers.iter().map(Value::as_f64).collect();
                let numbers = numbers.ok_or("its `prediction` is no list of numbers")?;
                let best = crate::modes::ppl::best(&task.inferencer, &numbers).and_then(|best| choices.get(best));
                let answer = best.ok_or("its `prediction` has other choices than the dataset")?.clone();
                let found = Extracted { answer, rule: "likeliest-choice".into() };
                (found.clone(), found)
            }
            (inferencer, prediction) => {
                let text = match prediction {
                    Value::String(text) => text.clone(),
                    Value::Number(number) => number.to_string(),
                    other => return Err(format!("its `prediction` is {}, wanted text", python::repr(other))),
                };
                let text = match postprocessor {
                    Some(postprocessor) => postprocessor.extract(&text).answer,
                    None => text,
                };
                let rule = match inferencer {
                    Inferencer::Ppl { .. } => "lowest-perplexity",
                    Inferencer::Ll { .. } => "likeliest-label",
                    _ => "",
                };
                if rule.is_empty() || !matches!(task.extractor, Extractor::Verbatim) {
                    (task.extractor.extract(&text), task.extractor.extract_strict(&text))
                } else {
                    let found = Extracted { answer: text, rule: rule.into() };
                    (found.clone(), found)
                }
            }
        };
        let gold = sample.gold.clone().unwrap_or_default();
        let mut nearest = None;
        let (mut is_correct, mut is_strictly_correct) = (extracted.answer == gold, strict.answer == gold);
        if let (Evaluator::EdAcc, Some(reference)) = (task.evaluator, &sample.reference) {
            let (candidates, label) = (&reference["candidates"], &reference["label"]);
            nearest = metrics::nearest(&extracted.answer, candidates).map(|(choice, _)| choice);
            is_correct = nearest.is_some_and(|choice| *label == choice);
            extracted.rule = "nearest-candidate".into();
            // Strictly read, it has to be one of the candidates.
            let exact = metrics::nearest(strict.answer.trim(), candidates).filter(|(_, distance)| *distance == 0);
            is_strictly_correct = exact.is_some_and(|(choice, _)| *label == choice);
            strict.rule = if exact.is_some() { "exact-candidate".into() } else { "none".into() };
        }
        Ok(Self { sample, record, extracted, strict, gold, nearest, is_correct, is_strictly_correct })
    }
}

/// Questions by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// All.
    pub questions: usize,
    /// Answered right as OpenCompass reads it.
    pub correct: usize,
    /// Answered right under the strict rule.
    pub strict: usize,
    /// Answers in which no rule found a letter.
    pub unparsed: usize,
}

impl Counts {
    pub(crate) fn of(answers: &[Answer<'_>]) -> Self {
        let count = |is_it: &dyn Fn(&Answer<'_>) -> bool| answers.iter().filter(|answer| is_it(answer)).count();
        Self {
            questions: answers.len(),
            correct: count(&|a| a.is_correct),
            strict: count(&|a| a.is_strictly_correct),
            unparsed: count(&|a| a.extracted.answer.is_empty()),
        }
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.questions += other.questions;
        self.correct += other.correct;
        self.strict += other.strict;
        self.unparsed += other.unparsed;
    }
}

/// A subset's scores by metric, in percent, in the order of the results file. NaN: of no question.
pub(crate) type Metrics = Vec<(String, f64)>;

/// As OpenCompass's evaluator computes them.
pub(crate) fn metrics(evaluator: Evaluator, answers: &[Answer<'_>]) -> Metrics {
    let accuracy = |of: &mut dyn Iterator<Item = &Answer<'_>>| {
        let (mut correct, mut total) = (0, 0);
        for answer in of {
            total += 1;
            correct += usize::from(answer.is_correct);
        }
        if total == 0 { f64::NAN } else { metrics::accuracy(correct, total) }
    };
    match evaluator {
        Evaluator::Acc | Evaluator::AccWithDetails | Evaluator::EdAcc => {
            vec![("accuracy".into(), accuracy(&mut answers.iter()))]
        }
        Evaluator::AccContamination => {
            let kinds = [
                ("clean", "clean"),
                ("input contamination", "input contaminated"),
                ("input-and-label contamination", "input-and-label contaminated"),
            ];
            let of = |(status, name): (&str, &str)| {
                let mut rows = answers.iter().filter(|answer| answer.sample.field("is_clean") == Some(status));
                (format!("accuracy - {name}"), accuracy(&mut rows))
            };
            kinds.into_iter().map(of).collect()
        }
    }
}

/// `details` of the results file.
pub(crate) fn details(task: &Task, answers: &[Answer<'_>]) -> Value {
    if task.evaluator == Evaluator::AccWithDetails {
        return answers.iter().map(with_details).collect();
    }
    let mut details = Map::new();
    for answer in answers {
        let is_labels = answer.record.keys().any(|key| key.starts_with("label:"));
        details.entry("type").or_insert(if is_labels { "PPL" } else { "GEN" }.into());
        let detail = if is_labels { labels(answer) } else { generated(answer) };
        details.insert(answer.sample.index.to_string(), detail);
    }
    details.into()
}

fn generated(answer: &Answer<'_>) -> Value {
    json!({
        "prompt": answer.record.get("origin_prompt").or(answer.record.get("prompt")),
        "origin_prediction": answer.record.get("prediction"),
        "predictions": answer.extracted.answer,
        "references": answer.gold,
    })
}

fn labels(answer: &Answer<'_>) -> Value {
    let (mut origin, mut scored) = (Map::new(), Map::new());
    for (key, value) in &answer.record {
        if let Some(label) = key.strip_prefix("label: ") {
            let mut value = value.clone();
            if let Some(value) = value.as_object_mut() {
                value.shift_remove("testing input");
            }
            scored.insert(label.to_owned(), value);
        } else if !matches!(key.as_str(), "in-context examples" | "prediction") {
            origin.insert(key.clone(), value.clone());
        }
    }
    origin.extend(scored);
    json!({
        "origin_prediction": origin,
        "predictions": answer.extracted.answer,
        "references": answer.gold,
        "correct": answer.is_correct,
    })
}

/// As `AccwithDetailsEvaluator` has it: lists, because a question may be asked several times there.
fn with_details(answer: &Answer<'_>) -> Value {
    let field = |name: &str| answer.sample.field(name).unwrap_or_default();
    let prediction = match answer.record.get("prediction") {
        Some(Value::Number(number)) => Value::from(number.clone()),
        _ => answer.extracted.answer.as_str().into(),
    };
    json!({
        "example_abbr": format!("{}_{}", field("subdivision"), field("idx")),
        "prompt": [answer.record.get("origin_prompt")],
        "pred": [prediction],
        "refr": [answer.record.get("gold").cloned().unwrap_or_else(|| answer.gold.as_str().into())],
        "is_correct": [answer.is_correct],
    })
}
