//! Reads answers, scores them, and writes down what OpenCompass's evaluation stage writes.

use crate::{
    EvalConfig, Failure, Result, Task,
    extract::Extractor,
    journal::{Entries, Entry},
    metrics,
    output::{self, RunFolder},
    prompt::Style,
    questions::Questions,
    records::{Record, Recorder},
    report::summary::Cell,
    score::{self, Answer, Counts},
};
use serde_json::{Map, Value};

/// What was found of one model.
#[derive(Default)]
pub(crate) struct Found {
    /// One per subset.
    pub cells: Vec<Cell>,
    /// Percent right of each subset; `None` where it has no score.
    pub accuracies: Vec<Option<f64>>,
    /// Over all scored questions.
    pub counts: Counts,
    pub failures: Vec<Failure>,
    pub warnings: Vec<String>,
}

/// The answers to one subset as they are scored: question by question, or why there is none.
pub(crate) type Answers = Vec<Result<Record, String>>;

/// The records of every subset from the journal's `entries`; predictions files and logs are written. The inner error is
/// the reason why a question has no answer.
///
/// # Errors
/// What cannot be written; what is wrong with the solved examples.
pub(crate) fn from_journal(
    config: &EvalConfig,
    folder: &RunFolder,
    questions: &Questions<'_>,
    entries: &Entries,
    tasks: &[Task],
    style: &Style,
) -> Result<Vec<Answers>> {
    let model = &config.model.abbr;
    let mut recorders: Vec<Recorder<'_>> = tasks.iter().map(|task| Recorder::new(task, style)).collect();
    let mut all: Vec<Answers> = tasks.iter().map(|_| Vec::new()).collect();
    let mut logged: Vec<Vec<(&Entry, bool)>> = tasks.iter().map(|_| Vec::new()).collect();
    for question in &questions.all {
        let record = match (&question.asked, entries.get(&question.key())) {
            (Ok((asked, _)), Some(entry)) => {
                logged[question.number].push((entry, asked.is_by_batch()));
                recorders[question.number].record(question.sample, asked, entry)?
            }
            (Ok(_), None) => Err("the model gave no answer".to_owned()),
            (Err(reason), _) => Err(reason.clone()),
        };
        all[question.number].push(record);
    }
    for ((task, answers), entries) in tasks.iter().zip(&all).zip(&logged) {
        let subset = &task.abbr;
        let answered =
            task.samples.iter().zip(answers).filter_map(|(s, record)| Some((s.index, record.as_ref().ok()?)));
        folder.write(format!("predictions/{model}/{subset}.json"), &output::predictions(answered))?;
        folder.write(format!("logs/infer/{model}/{subset}.out"), &output::infer_log(entries, task.shots.len()))?;
    }
    Ok(all)
}

/// The records of every subset from the predictions files of a run folder. The outer error of a subset is the reason why
/// it has none.
///
/// # Errors
/// Files that cannot be read or understood.
pub(crate) fn from_predictions(
    config: &EvalConfig,
    folder: &RunFolder,
    tasks: &[Task],
) -> Result<Vec<Result<Answers, String>>> {
    let of = |task: &Task| {
        let (path, records) = folder.records(&config.model.abbr, &task.abbr)?;
        Ok(match records {
            None => Err(format!("no answers: {} does not exist", path.display())),
            Some(records) if records.len() != task.samples.len() => {
                let (found, wanted) = (records.len(), task.samples.len());
                Err(format!("{found} answers in {} for {wanted} questions", path.display()))
            }
            Some(records) => Ok(records.into_iter().map(Ok).collect()),
        })
    };
    tasks.iter().map(of).collect()
}

/// Scores the subsets of one model, and writes their results files and logs.
///
/// # Errors
/// What cannot be written.
pub(crate) fn score(
    config: &EvalConfig,
    folder: &RunFolder,
    tasks: &[Task],
    answers: Vec<Result<Answers, String>>,
) -> Result<Found> {
    let mut found = Found::default();
    for (task, answers) in tasks.iter().zip(answers) {
        let (cell, accuracy) = subset(config, folder, task, answers, &mut found)?;
        if let Cell::Failed(reason) = &cell {
            found.failures.push(Failure { abbr: task.abbr.clone(), index: None, reason: reason.clone() });
        }
        found.cells.push(cell);
        found.accuracies.push(accuracy);
    }
    Ok(found)
}

/// One subset: its cell, and its percentage of right answers.
fn subset(
    config: &EvalConfig,
    folder: &RunFolder,
    task: &Task,
    answers: Result<Answers, String>,
    found: &mut Found,
) -> Result<(Cell, Option<f64>)> {
    let (model, subset) = (&config.model.abbr, &task.abbr);
    let results = format!("results/{model}/{subset}.json");
    let answers = match answers {
        Ok(answers) => answers,
        // Of an earlier attempt, perhaps: what it was made from is gone.
        Err(reason) => return folder.remove(&results).map(|()| (Cell::Failed(reason), None)),
    };
    let mut read: Vec<Answer<'_>> = Vec::with_capacity(answers.len());
    let mut unanswered = 0;
    let mut other_golds = 0;
    for (sample, record) in task.samples.iter().zip(answers) {
        if let Ok(record) = &record
            && record.get("gold").is_some_and(|gold| *gold != task.gold_json(sample))
        {
            other_golds += 1;
        }
        match record.and_then(|record| Answer::read(task, sample, record, config.pred_postprocessor.as_ref())) {
            Ok(answer) => read.push(answer),
            Err(reason) => {
                unanswered += 1;
                found.failures.push(Failure { abbr: subset.clone(), index: Some(sample.index), reason });
            }
        }
    }
    if other_golds > 0 {
        found.warnings.push(format!(
            "{subset}: {other_golds} recorded right answers are not those of the data; the data's are compared with"
        ));
    }
    folder.write(format!("logs/eval/{model}/{subset}.out"), &output::eval_log(&read))?;
    let unlabelled = read.iter().filter(|answer| answer.sample.gold.is_none()).count();
    let questions = task.samples.len();
    let failed = |reason: String| folder.remove(&results).map(|()| (Cell::Failed(reason), None));
    if questions == 0 {
        return failed("it has no questions".into());
    }
    let has_postprocessor = config.pred_postprocessor.is_some() || task.extractor != Extractor::Verbatim;
    if has_postprocessor && task.inferencer.answers_are_numbers() {
        return failed("its answers are numbers, and a post-processor reads only text, as in OpenCompass".into());
    }
    if let Some(role) = task.pred_role.as_ref().filter(|role| Style::lacks_role(config, role)) {
        return failed(format!("its `pred_role` is {role}, and the model's meta template has no such role"));
    }
    if unanswered > 0 {
        return failed(format!("{unanswered} of {questions} questions have no answer"));
    }
    if task.is_unlabelled() {
        return folder.remove(&results).map(|()| (Cell::Unlabelled, None));
    }
    if unlabelled > 0 {
        return failed(format!("{unlabelled} of {questions} questions have no right answer to compare with"));
    }
    let counts = Counts::of(&read);
    found.counts += counts;
    let scores = score::metrics(task.evaluator, &read);
    let details = config.dump_eval_details.then(|| score::details(task, &read));
    folder.write(&results, &output::results(&scores, details.as_ref()))?;
    let number = |x: f64| if x.is_nan() { Value::Null } else { x.into() };
    let scored = scores.into_iter().map(|(metric, x)| (metric, number(x))).collect();
    Ok((Cell::Scored(scored), Some(metrics::accuracy(counts.correct, counts.questions))))
}

/// The results files of a run folder, subset by subset.
///
/// # Errors
/// Files that cannot be read or understood.
pub(crate) fn from_results(config: &EvalConfig, folder: &RunFolder, subsets: &[String]) -> Result<Found> {
    let mut found = Found::default();
    for abbr in subsets {
        let path = folder.path.join(format!("results/{}/{abbr}.json", config.model.abbr));
        let (cell, reason) = match output::read_json(&path)? {
            None if has_no_labels(config, folder, abbr)? => (Cell::Unlabelled, None),
            None => (Cell::Missing, Some(format!("no score: {} does not exist", path.display()))),
            Some(mut results) => {
                results.shift_remove("details");
                let reason = results.get("error").map(|reason| match reason {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                });
                (Cell::Scored(results), reason)
            }
        };
        let accuracy = match &cell {
            Cell::Scored(results) => results.get("accuracy").and_then(Value::as_f64),
            _ => None,
        };
        found.failures.extend(reason.map(|reason| Failure { abbr: abbr.clone(), index: None, reason }));
        found.cells.push(cell);
        found.accuracies.push(accuracy);
    }
    Ok(found)
}

/// Whether there are answers of a subset, and nothing that they could be compared with.
fn has_no_labels(config: &EvalConfig, folder: &RunFolder, subset: &str) -> Result<bool> {
    let (_, records) = folder.records(&config.model.abbr, subset)?;
    let is_unlabelled = |record: &Record| record.get("gold").is_some_and(|gold| gold == "");
    Ok(records.is_some_and(|records| !records.is_empty() && records.iter().all(is_unlabelled)))
}

/// The answers of unlabelled subsets by subject and row, as C-Eval takes them: `{"law": {"0": "A", …}, …}`.
pub(crate) fn submission(config: &EvalConfig, tasks: &[Task], answers: &[Answers]) -> Map<String, Value> {
    let mut all = Map::new();
    for (task, answers) in tasks.iter().zip(answers).filter(|(task, _)| task.is_unlabelled()) {
        let answer = |(sample, record): (_, &Result<Record, String>)| {
            let (record, postprocessor) = (record.as_ref().ok()?.clone(), config.pred_postprocessor.as_ref());
            let answer = Answer::read(task, sample, record, postprocessor).ok()?;
            Some((answer.sample.index.to_string(), Value::from(answer.extracted.answer)))
        };
        let subject = task.dataset_config["name"].as_str().unwrap_or(&task.subject);
        let answers: Map<String, Value> = task.samples.iter().zip(answers).filter_map(answer).collect();
        all.insert(subject.to_owned(), answers.into());
    }
    all
}
