//! The entry point: [`run`] evaluates.

use crate::{
    Error, EvalConfig, Event, Failure, HfType, Model, Observer, Overall, Phase, Result, RunReport, Subset, Task,
    datasets::{self, Group},
    fingerprint::Fingerprint,
    journal::{Entries, Entry, Journal},
    metrics,
    modes::r#gen::{Built, Limits},
    output::{self, RunFolder},
    prompt::Style,
    questions::{Question, Questions},
    report::{self, Score, Summary},
    score::{Answer, Counts},
    task::Inferencer,
};
use oc_engine::{Request, SamplingParams, Stats};
use std::{collections::HashSet, time::Instant};

/// Evaluates `model`. Bad input and everything that stops the run is an error; what concerns only some samples is
/// in [`RunReport::failures`].
///
/// # Errors
/// Every variant of [`Error`]. Samples that were finished before stay finished: [`EvalConfig::resume`] goes on.
pub fn run(model: &mut dyn Model, config: &EvalConfig, observer: &mut dyn Observer) -> Result<RunReport> {
    observer.event(Event::Phase(Phase::Load));
    let tasks = datasets::load(config)?;
    evaluate(model, config, observer, &tasks, &datasets::groups(config)?)
}

/// [`run`] from where the data is read.
fn evaluate(
    model: &mut dyn Model,
    config: &EvalConfig,
    observer: &mut dyn Observer,
    tasks: &[Task],
    groups: &[Group],
) -> Result<RunReport> {
    let start = Instant::now();
    let mut teller = Teller { observer, warnings: Vec::new() };
    let stamp = output::timestamp(config.timestamp.as_deref())?;
    check_abbr(&config.model.abbr)?;
    check_tasks(tasks)?;
    let limits = Limits::new(config, model)?;
    let style = Style::of(config)?;
    teller.observer.event(Event::Style(&describe_style(config)));

    let placeholders: usize = tasks.iter().map(Task::rows_with_placeholders).sum();
    if placeholders > 0 && !config.strict_braces {
        teller.warn(format!(
            "{placeholders} rows hold a placeholder such as {{A}} in their own text; as in OpenCompass it is replaced \
             by that column's value"
        ));
    }
    // Whether a run can be resumed is known before its prompts are built.
    let fingerprint = Fingerprint::new(config, model.identity());
    let mut record = match &config.resume {
        Some(resume) => Some(Record::open(RunFolder::find(&config.work_dir, resume)?, &fingerprint, config.dry_run)?),
        None => None,
    };
    teller.phase(Phase::Prompts);
    let questions = Questions::build(tasks, &style, limits, model)?;
    teller.stop_if_asked(record.as_ref())?;
    if record.is_none() && !config.dry_run {
        let folder = RunFolder::create(&config.work_dir, &stamp)?;
        record = Some(Record::open(folder, &fingerprint, false)?);
    }
    let (mut entries, outdated) = questions.valid(record.as_mut().map(Record::take_entries).unwrap_or_default());
    if outdated > 0 {
        teller.warn(format!("{outdated} answers of the resumed run belong to other prompts; they are computed again"));
    }
    if let Some(warning) = questions.truncation_warning(config, model) {
        teller.warn(warning);
    }
    let plan = questions.plan(record.as_ref().map(|record| record.folder.name.clone()), tasks.len(), &entries);

    let Some(Record { folder, journal: Some(mut journal), .. }) = record else {
        teller.observer.event(Event::Plan(&plan));
        return Ok(RunReport { plan, warnings: teller.warnings, ..RunReport::default() });
    };
    // A resumed run keeps what it wrote before, under the time of writing, as in OpenCompass.
    let stamp = if config.resume.is_some() { stamp } else { folder.name.clone() };
    teller.observer.run_folder(&folder.path);
    let configuration = report::configuration(config, tasks, groups, &folder);
    folder.write(format!("configs/{stamp}_{}.py", std::process::id()), &configuration)?;
    teller.observer.event(Event::Plan(&plan));
    let stats = infer(model, config, &questions, &mut entries, &mut journal, &folder, &mut teller)?;

    teller.phase(Phase::Eval);
    let scoring = Scoring { config, folder: &folder, questions: &questions, entries: &entries };
    let mut found = Found::default();
    for (number, task) in tasks.iter().enumerate() {
        scoring.score(number, task, &mut found)?;
    }
    teller.phase(Phase::Summary);
    let summary = Summary::new(&config.model.abbr, &found.scores, groups);
    for (ending, content) in [("txt", summary.text(&stamp)), ("csv", summary.csv()), ("md", summary.markdown())] {
        folder.write(format!("summary/summary_{stamp}.{ending}"), &content)?;
    }
    let Counts { questions: scored, correct, strict, unparsed } = found.counts;
    let overall = Overall {
        accuracy: metrics::accuracy(correct, scored),
        stderr: metrics::stderr(correct, scored),
        interval: metrics::wilson(correct, scored),
        strict_accuracy: metrics::accuracy(strict, scored),
        questions: scored,
        prompt_tokens: questions.prompt_tokens(),
        computed_tokens: stats.computed_prompt_tokens,
        generated_tokens: stats.generated_tokens,
        truncated: plan.truncated,
        unparsed,
        seconds: start.elapsed().as_secs_f64(),
    };
    let subset = |(score, task): (Score, &Task)| Subset {
        abbr: score.abbr,
        version: score.version,
        mode: score.mode,
        accuracy: score.accuracy.ok(),
        questions: task.samples.len(),
    };
    Ok(RunReport {
        run: Some(folder.name.clone()),
        folder: Some(folder.path.clone()),
        plan,
        subsets: found.scores.into_iter().zip(tasks).map(subset).collect(),
        table: summary.table(),
        averages: summary.averages(),
        overall: Some(overall),
        line: report::line(&overall, &model.identity().dtype),
        failures: found.failures,
        warnings: teller.warnings,
    })
}

/// Every subset needs a name of its own, because its files bear it, and there must be something to ask.
fn check_tasks(tasks: &[Task]) -> Result<()> {
    let mut seen = HashSet::new();
    if let Some(task) = tasks.iter().find(|task| !seen.insert(task.abbr.as_str())) {
        let what = format!("two datasets have a subset {}\n\nhint: evaluate one of them at a time", task.abbr);
        return Err(Error::Config { what });
    }
    tasks.iter().try_for_each(Task::check_scorable)?;
    if let Some(task) = tasks.iter().find(|task| !matches!(task.inferencer, Inferencer::Gen(_))) {
        let what = format!("{} is scored by {}, which only `prompt` shows yet", task.abbr, task.inferencer.mode());
        return Err(Error::Config { what });
    }
    if tasks.iter().all(|task| task.samples.is_empty()) {
        return Err(Error::Config { what: "there are no questions\n\nhint: check --subjects and --limit".into() });
    }
    Ok(())
}

/// The name becomes a folder's.
fn check_abbr(abbr: &str) -> Result<()> {
    if abbr.is_empty() || matches!(abbr, "." | "..") || abbr.contains(['/', '\\', '\0']) {
        return Err(Error::Config { what: format!("model name `{abbr}`: wanted a name that can be a folder's") });
    }
    Ok(())
}

fn describe_style(config: &EvalConfig) -> String {
    match (config.hf_type, &config.meta_template) {
        (HfType::Base, None) => {
            "prompts are sent as plain text (--hf-type base); --hf-type chat sends them as messages \
                                 through the model's chat template"
                .into()
        }
        (HfType::Base, Some(name)) => format!(
            "prompts are sent as text with the markers of the meta template {name} (--hf-type base); without \
             --meta-template they are plain text"
        ),
        (HfType::Chat, _) => "prompts are sent as messages through the model's chat template (--hf-type chat); \
                              --hf-type base sends plain text"
            .into(),
    }
}

/// Tells the observer, and remembers what is in the report too.
struct Teller<'a> {
    observer: &'a mut dyn Observer,
    warnings: Vec<String>,
}

impl Teller<'_> {
    fn phase(&mut self, phase: Phase) {
        self.observer.event(Event::Phase(phase));
    }

    fn warn(&mut self, text: String) {
        self.observer.event(Event::Warning(&text));
        self.warnings.push(text);
    }

    fn stop_if_asked(&self, record: Option<&Record>) -> Result<()> {
        let resume = record.map(|record| record.folder.name.clone());
        if self.observer.interrupted() { Err(Error::Interrupted { resume }) } else { Ok(()) }
    }
}

/// A run's folder and what its journal held.
struct Record {
    folder: RunFolder,
    /// `None` where nothing is to be written.
    journal: Option<Journal>,
    entries: Entries,
}

impl Record {
    fn open(folder: RunFolder, fingerprint: &Fingerprint, read_only: bool) -> Result<Self> {
        let (path, run) = (folder.journal(), folder.name.clone());
        let (journal, entries) = if read_only {
            (None, Journal::read(&path, &run, fingerprint)?)
        } else {
            let (journal, entries) = Journal::open(&path, &run, fingerprint)?;
            (Some(journal), entries)
        };
        Ok(Self { folder, journal, entries })
    }

    fn take_entries(&mut self) -> Entries {
        std::mem::take(&mut self.entries)
    }
}

/// Asks what is open; every answer is in `journal` and in `entries` afterwards.
fn infer(
    model: &mut dyn Model,
    config: &EvalConfig,
    questions: &Questions<'_>,
    entries: &mut Entries,
    journal: &mut Journal,
    folder: &RunFolder,
    teller: &mut Teller<'_>,
) -> Result<Stats> {
    let open = questions.open(entries);
    let total = questions.askable().count();
    if let Some((question, built, _)) = open.first() {
        teller.observer.event(Event::FirstPrompt { abbr: question.abbr, prompt: &built.text, ids: &built.ids });
    }
    teller.phase(Phase::Infer);
    if open.is_empty() {
        return Ok(Stats::default());
    }
    let request = |question: &Question<'_>, built: &Built| Request {
        prompt: built.ids.clone(),
        max_new_tokens: question.of.max_out_len(config),
        sampling: SamplingParams { temperature: config.temperature, seed: config.seed, ..SamplingParams::default() },
        stop: question.of.stop_words(config),
        ignore_eos: false,
    };
    let requests = open.iter().map(|(question, built, _)| request(question, built)).collect();
    let observer = &mut *teller.observer;
    let mut done = entries.len();
    // Written, but perhaps not yet on disk.
    let mut waiting: Vec<(usize, String)> = Vec::new();
    let mut latest = Stats::default();
    let mut announce = |waiting: &mut Vec<(usize, String)>, stats, observer: &mut dyn Observer| {
        for (number, text) in waiting.drain(..) {
            done += 1;
            let (question, ..) = open[number];
            let (abbr, index) = (question.abbr, question.sample.index);
            observer.event(Event::Sample { abbr, index, text: &text, done, total, stats });
        }
    };
    let interrupted = || Error::Interrupted { resume: Some(folder.name.clone()) };
    let generated = model.generate(requests, &mut |output, stats| {
        latest = stats;
        let Some(output) = output else {
            return if observer.interrupted() { Err(interrupted()) } else { Ok(()) };
        };
        let number = output.request;
        let Some((question, built, hash)) = open.get(number) else {
            return Err(Error::Config { what: format!("the model answered request {number} of {}", open.len()) });
        };
        let entry = Entry::new(question.abbr, question.sample.index, (*hash).into(), built.shots, built.cut, output);
        journal.append(&entry)?;
        waiting.push((number, entry.text.clone()));
        entries.insert(question.key(), entry);
        let is_interrupted = observer.interrupted();
        if is_interrupted || journal.sync_is_due() {
            journal.sync()?;
            announce(&mut waiting, stats, observer);
        }
        if is_interrupted { Err(interrupted()) } else { Ok(()) }
    });
    // Also after an error, so that nothing finished waits for the disk; the first error is the one to report.
    let synced = journal.sync();
    if synced.is_ok() {
        announce(&mut waiting, latest, observer);
    }
    let stats = generated?;
    synced?;
    Ok(stats)
}

/// What the scoring of all subsets found.
#[derive(Default)]
struct Found {
    scores: Vec<Score>,
    counts: Counts,
    failures: Vec<Failure>,
}

/// Reads answers, and writes them down.
struct Scoring<'a> {
    config: &'a EvalConfig,
    folder: &'a RunFolder,
    questions: &'a Questions<'a>,
    entries: &'a Entries,
}

impl Scoring<'_> {
    /// Scores task `number` and writes its files.
    fn score(&self, number: usize, task: &Task, found: &mut Found) -> Result<()> {
        let (mut answers, mut entries) = (Vec::new(), Vec::new());
        let mut unanswered = 0;
        for question in self.questions.0.iter().filter(|question| question.task == number) {
            let index = question.sample.index;
            let reason = match (&question.prompt, self.entries.get(&question.key())) {
                (Ok((built, _)), Some(entry)) => {
                    let gold = question.sample.gold.as_deref().unwrap_or_default();
                    answers.push(Answer::read(task, index, gold, &built.prompt, &entry.text));
                    entries.push(entry);
                    continue;
                }
                (Ok(_), None) => "the model gave no answer".to_owned(),
                (Err(reason), _) => reason.clone(),
            };
            unanswered += 1;
            found.failures.push(Failure { abbr: task.abbr.clone(), index: Some(index), reason });
        }
        let unlabelled = answers.iter().filter(|answer| answer.gold.is_empty()).count();
        let accuracy = if task.samples.is_empty() {
            Err("it has no questions".to_owned())
        } else if unanswered > 0 {
            Err(format!("{unanswered} of {} questions have no answer", task.samples.len()))
        } else if unlabelled > 0 {
            Err(format!("{unlabelled} of {} questions have no right answer to compare with", task.samples.len()))
        } else {
            let counts = Counts::of(&answers);
            found.counts += counts;
            Ok(metrics::accuracy(counts.correct, counts.questions))
        };
        self.write(task, &answers, &entries, accuracy.as_ref().ok().copied())?;
        if let Err(reason) = &accuracy {
            found.failures.push(Failure { abbr: task.abbr.clone(), index: None, reason: reason.clone() });
        }
        let (abbr, version) = (task.abbr.clone(), task.version.clone());
        found.scores.push(Score { abbr, version, mode: task.inferencer.mode(), accuracy });
        Ok(())
    }

    fn write(&self, task: &Task, answers: &[Answer<'_>], entries: &[&Entry], accuracy: Option<f64>) -> Result<()> {
        let (model, subset, folder) = (&self.config.model.abbr, &task.abbr, self.folder);
        folder.write(format!("predictions/{model}/{subset}.json"), &output::predictions(answers))?;
        folder.write(format!("logs/infer/{model}/{subset}.out"), &output::infer_log(entries, task.shots.len()))?;
        folder.write(format!("logs/eval/{model}/{subset}.out"), &output::eval_log(answers))?;
        let results = format!("results/{model}/{subset}.json");
        match accuracy {
            Some(accuracy) => {
                let details = self.config.dump_eval_details.then_some(answers);
                folder.write(results, &output::results(accuracy, details))
            }
            // Of an earlier attempt, perhaps.
            None => folder.remove(results),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Message, ModelConfig, ModelIdentity, OnOutput, Resume};
    use oc_engine::{FinishReason, Output};
    use std::path::Path;

    /// Answers everything with A, one token a character.
    struct Yes;

    impl Model for Yes {
        fn name(&self) -> &str {
            "yes"
        }

        fn identity(&self) -> ModelIdentity {
            let text = || "x".to_owned();
            ModelIdentity {
                weights: text(),
                tokenizer: text(),
                chat_template: None,
                dtype: text(),
                device: text(),
                numeric_version: text(),
            }
        }

        fn max_seq_len(&self) -> usize {
            1 << 16
        }

        fn encode(&self, text: &str, _add_special_tokens: bool) -> Result<Vec<u32>> {
            Ok(text.chars().map(u32::from).collect())
        }

        fn apply_chat_template(&self, _messages: &[Message]) -> Result<String> {
            Err(Error::Config { what: "none".into() })
        }

        fn generate(&mut self, requests: Vec<Request>, on_output: &mut OnOutput<'_>) -> Result<Stats> {
            for (request, asked) in requests.iter().enumerate() {
                let output = Output {
                    request,
                    text: "A".into(),
                    tokens: vec![65],
                    logprobs: vec![0.0],
                    finish: FinishReason::Eos,
                    prompt_tokens: asked.prompt.len(),
                    cached_tokens: 0,
                };
                on_output(Some(output), Stats::default())?;
            }
            Ok(Stats::default())
        }
    }

    fn demo(work_dir: &Path) -> (EvalConfig, Vec<Task>) {
        let config = EvalConfig {
            datasets: vec!["ceval_demo_gen".into()],
            work_dir: work_dir.into(),
            model: ModelConfig { abbr: "yes_hf".into(), ..ModelConfig::default() },
            limit: Some(2),
            timestamp: Some("20260102_030405".into()),
            ..EvalConfig::default()
        };
        let tasks = datasets::load(&config).unwrap();
        (config, tasks)
    }

    #[test]
    fn without_right_answers_there_are_predictions_and_no_score() {
        let dir = tempfile::tempdir().unwrap();
        let (config, mut tasks) = demo(dir.path());
        // Of an attempt at the time when the answers were there.
        evaluate(&mut Yes, &config, &mut (), &tasks, &[]).unwrap();
        tasks[1].samples.iter_mut().for_each(|sample| sample.gold = None);
        let config = EvalConfig { resume: Some(Resume::Latest), ..config };
        let report = evaluate(&mut Yes, &config, &mut (), &tasks, &[]).unwrap();
        assert_eq!(report.subsets.iter().filter(|subset| subset.accuracy.is_none()).count(), 1);
        let abbr = &tasks[1].abbr;
        let reason = "2 of 2 questions have no right answer to compare with".to_owned();
        assert_eq!(report.failures, [Failure { abbr: abbr.clone(), index: None, reason }]);
        let folder = report.folder.unwrap();
        let predictions = std::fs::read_to_string(folder.join(format!("predictions/yes_hf/{abbr}.json"))).unwrap();
        assert!(predictions.contains("\"prediction\": \"A\",\n        \"gold\": \"\""), "{predictions}");
        assert!(!folder.join(format!("results/yes_hf/{abbr}.json")).exists(), "the score of before is gone");
    }

    #[test]
    fn a_question_that_cannot_be_built_is_named_and_the_others_are_asked() {
        let dir = tempfile::tempdir().unwrap();
        let (config, mut tasks) = demo(dir.path());
        tasks[0].samples[1].row.retain(|(column, _)| column != "B");
        let report = evaluate(&mut Yes, &config, &mut (), &tasks, &[]).unwrap();
        let failures: Vec<_> = report.failures.iter().map(|f| (f.abbr.as_str(), f.index)).collect();
        assert_eq!(failures, [(tasks[0].abbr.as_str(), Some(1)), (tasks[0].abbr.as_str(), None)]);
        assert!(report.failures[0].reason.contains("column `B`"), "{}", report.failures[0].reason);
        assert_eq!((report.plan.samples, report.overall.unwrap().questions), (16, 14));
        assert!(report.subsets[0].accuracy.is_none() && report.subsets[1].accuracy.is_some());
    }

    #[test]
    fn placeholders_in_the_data_are_said() {
        let dir = tempfile::tempdir().unwrap();
        let (config, mut tasks) = demo(dir.path());
        tasks[0].samples[0].row[0].1.push_str("\\bar{A}");
        let report = evaluate(&mut Yes, &config, &mut (), &tasks, &[]).unwrap();
        assert!(report.warnings.len() == 1 && report.warnings[0].starts_with("1 rows hold a placeholder such as {A}"));
    }

    #[test]
    fn subsets_that_would_share_their_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (config, mut tasks) = demo(dir.path());
        tasks[1].abbr = tasks[0].abbr.clone();
        let error = evaluate(&mut Yes, &config, &mut (), &tasks, &[]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("two datasets have a subset {}", tasks[0].abbr)), "{error}");
        tasks.iter_mut().for_each(|task| task.samples.clear());
        tasks.truncate(1);
        assert!(evaluate(&mut Yes, &config, &mut (), &tasks, &[]).unwrap_err().to_string().contains("no questions"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
