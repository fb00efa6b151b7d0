//! The entry points: [`run`] evaluates one model, [`run_all`] several in one folder with one table.

use crate::{
    Error, EvalConfig, Event, Failure, Model, Observer, Overall, Phase, Plan, Result, RunReport, Stage, Subset, Task,
    datasets::{self, Group},
    evaluate::{self, Found},
    fingerprint::Fingerprint,
    infer,
    journal::{Entries, Journal, Recorded, Reply},
    metrics,
    output::{self, RunFolder},
    prompt::Style,
    questions::Questions,
    report::{
        self,
        summary::{Row, Summary},
    },
    score::Counts,
};
use serde_json::Value;
use std::{collections::HashSet, time::Instant};

/// The models of a run, loaded one after the other.
pub trait Models {
    /// The model of the configuration of this number; the one before is not needed any more.
    ///
    /// # Errors
    /// Whatever keeps it from being loaded.
    fn load(&mut self, number: usize) -> Result<&mut dyn Model>;
}

/// One that is loaded already.
struct Loaded<'a>(&'a mut dyn Model);

impl Models for Loaded<'_> {
    fn load(&mut self, _number: usize) -> Result<&mut dyn Model> {
        Ok(self.0)
    }
}

/// Evaluates `model`. Bad input and everything that stops the run is an error; what concerns only some samples is
/// in [`RunReport::failures`].
///
/// # Errors
/// Every variant of [`Error`]. Samples that were finished before stay finished: [`EvalConfig::resume`] goes on.
pub fn run(model: &mut dyn Model, config: &EvalConfig, observer: &mut dyn Observer) -> Result<RunReport> {
    run_all(&mut Loaded(model), std::slice::from_ref(config), observer)
}

/// Evaluates several models, one configuration each, into one run folder and one table. Each is loaded once, and only if
/// the stage asks models. What concerns the run as a whole (work dir, stage, resume, time, summarizer) is the first
/// configuration's.
///
/// # Errors
/// As for [`run`].
pub fn run_all(models: &mut dyn Models, configs: &[EvalConfig], observer: &mut dyn Observer) -> Result<RunReport> {
    observer.event(Event::Phase(Phase::Load));
    let Some(first) = configs.first() else {
        return Err(Error::Config { what: "there is no model to evaluate".into() });
    };
    let groups = match &first.summarizer.groups {
        Some(groups) => groups.clone(),
        None => groups(configs)?,
    };
    if first.stage == Stage::Viz {
        return Run::new(configs, &groups, observer)?.show();
    }
    let tasks = configs.iter().map(datasets::load).collect::<Result<Vec<_>>>()?;
    evaluate(models, configs, observer, &tasks, &groups)
}

/// [`run_all`] from where the data is read.
fn evaluate(
    models: &mut dyn Models,
    configs: &[EvalConfig],
    observer: &mut dyn Observer,
    tasks: &[Vec<Task>],
    groups: &[Group],
) -> Result<RunReport> {
    let mut run = Run::new(configs, groups, observer)?;
    for tasks in tasks {
        check_tasks(tasks)?;
    }
    configs.iter().flat_map(datasets::warnings).for_each(|warning| run.teller.warn(warning));
    run.datasets = distinct(tasks.iter().flatten().map(|task| &task.dataset_config));
    if run.first.stage == Stage::Eval {
        return run.score_again(tasks);
    }
    run.ask_all(models, tasks)
}

/// The groups of all configurations, each once.
fn groups(configs: &[EvalConfig]) -> Result<Vec<Group>> {
    let mut all: Vec<Group> = Vec::new();
    for config in configs {
        for group in datasets::groups(config)? {
            if !all.iter().any(|known| known.name == group.name) {
                all.push(group);
            }
        }
    }
    Ok(all)
}

fn distinct<'a>(configs: impl Iterator<Item = &'a Value>) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    for config in configs {
        if !all.contains(config) {
            all.push(config.clone());
        }
    }
    all
}

/// Every subset needs a name of its own, because its files bear it, and there must be something to ask.
fn check_tasks(tasks: &[Task]) -> Result<()> {
    let mut seen = HashSet::new();
    if let Some(task) = tasks.iter().find(|task| !seen.insert(task.abbr.as_str())) {
        let what = format!("two datasets have a subset {}\n\nhint: evaluate one of them at a time", task.abbr);
        return Err(Error::Config { what });
    }
    tasks.iter().try_for_each(Task::check_scorable)?;
    if tasks.iter().all(|task| task.samples.is_empty()) {
        return Err(Error::Config { what: "there are no questions\n\nhint: check --subjects and --limit".into() });
    }
    Ok(())
}

/// The name becomes a folder's, so it must be able to be one, and belong to one model.
fn check_abbrs(configs: &[EvalConfig]) -> Result<()> {
    let mut seen = HashSet::new();
    for abbr in configs.iter().map(|config| config.model.abbr.as_str()) {
        if abbr.is_empty() || matches!(abbr, "." | "..") || abbr.contains(['/', '\\', '\0']) {
            return Err(Error::Config { what: format!("model name `{abbr}`: wanted a name that can be a folder's") });
        }
        if !seen.insert(abbr) {
            let what = format!("two models are called {abbr}\n\nhint: give one of them another name or path");
            return Err(Error::Config { what });
        }
    }
    Ok(())
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
        // Several models may have the same thing to say of the data.
        if !self.warnings.contains(&text) {
            self.observer.event(Event::Warning(&text));
            self.warnings.push(text);
        }
    }
}

/// The run folder and what its journal held.
struct Record {
    folder: RunFolder,
    /// `None` where nothing is to be written.
    journal: Option<Journal>,
    recorded: Recorded,
}

impl Record {
    fn open(folder: RunFolder, read_only: bool) -> Result<Self> {
        let (path, run) = (folder.journal(), folder.name.clone());
        let (journal, recorded) = if read_only {
            (None, Recorded::read(&path)?)
        } else {
            let (journal, recorded) = Journal::open(&path, &run)?;
            (Some(journal), recorded)
        };
        Ok(Self { folder, journal, recorded })
    }
}

/// What came of one model.
struct Outcome {
    found: Found,
    overall: Overall,
    line: String,
}

/// A run in progress.
struct Run<'a> {
    configs: &'a [EvalConfig],
    /// Its settings are the run's.
    first: &'a EvalConfig,
    groups: &'a [Group],
    /// The dictionaries of all subsets.
    datasets: Vec<Value>,
    teller: Teller<'a>,
    /// When it was begun, `YYYYmmdd_HHMMSS`.
    stamp: String,
    start: Instant,
    plan: Plan,
}

impl<'a> Run<'a> {
    fn new(configs: &'a [EvalConfig], groups: &'a [Group], observer: &'a mut dyn Observer) -> Result<Self> {
        let first = &configs[0];
        check_abbrs(configs)?;
        if !first.stage.infers() {
            let stage = first.stage.name();
            let refuse = |what: String| Err(Error::Config { what });
            if first.resume.is_none() {
                return refuse(format!(
                    "-m {stage} works on an earlier run, and none was named\n\n\
                     hint: add -r for the newest in the work dir, or -r YYYYmmdd_HHMMSS"
                ));
            }
            if first.dry_run {
                return refuse(format!(
                    "-m {stage} asks nothing, so there is nothing to try\n\nhint: leave --dry-run out"
                ));
            }
        }
        Ok(Self {
            configs,
            first,
            groups,
            datasets: Vec::new(),
            teller: Teller { observer, warnings: Vec::new() },
            stamp: output::timestamp(first.timestamp.as_deref())?,
            start: Instant::now(),
            plan: Plan::default(),
        })
    }

    /// The folder of the run that is gone on with.
    fn earlier(&self) -> Result<RunFolder> {
        let resume = self.first.resume.clone().unwrap_or(crate::Resume::Latest);
        RunFolder::find(&self.first.work_dir, &resume)
    }

    fn write_configuration(&self, folder: &RunFolder) -> Result<()> {
        let configuration = report::configuration(self.configs, &self.datasets, self.groups, folder);
        folder.write(format!("configs/{}_{}.py", self.stamp, std::process::id()), &configuration)
    }

    /// Asks every model, and scores its answers unless only asking was wanted.
    fn ask_all(mut self, models: &mut dyn Models, tasks: &[Vec<Task>]) -> Result<RunReport> {
        let mut record = match &self.first.resume {
            Some(_) => {
                let folder = self.earlier()?;
                folder.check_ours()?;
                Some(Record::open(folder, self.first.dry_run)?)
            }
            None => None,
        };
        let placeholders: usize = tasks.first().into_iter().flatten().map(Task::rows_with_placeholders).sum();
        if placeholders > 0 && !self.first.strict_braces {
            self.teller.warn(format!(
                "{placeholders} rows hold a placeholder such as {{A}} in their own text; as in OpenCompass it is replaced \
                 by that column's value"
            ));
        }
        let mut outcomes = Vec::new();
        for (number, (config, tasks)) in self.configs.iter().zip(tasks).enumerate() {
            if let Some(outcome) = self.ask(models.load(number)?, config, tasks, &mut record)? {
                outcomes.push(outcome);
            }
        }
        match record {
            Some(record) if !self.first.dry_run => self.finish(&record.folder, tasks, outcomes),
            _ => Ok(RunReport { plan: self.plan, warnings: self.teller.warnings, ..RunReport::default() }),
        }
    }

    /// One model. `None`: nothing was scored.
    fn ask(
        &mut self,
        model: &mut dyn Model,
        config: &EvalConfig,
        tasks: &[Task],
        record: &mut Option<Record>,
    ) -> Result<Option<Outcome>> {
        let start = Instant::now();
        let style = Style::of(config)?;
        self.teller.observer.event(Event::Style(&style.describe()));
        // Whether a run can be resumed is known before its prompts are built.
        let fingerprint = |model: &dyn Model| model.identity().map(|identity| Fingerprint::new(config, identity));
        let abbr = &config.model.abbr;
        let recorded = match record {
            Some(record) => record.recorded.take(abbr, &record.folder.name, &fingerprint(model)?)?,
            None => Default::default(),
        };
        self.teller.phase(Phase::Prompts);
        let questions = Questions::build(tasks, &style, config, model)?;
        if self.teller.observer.interrupted() {
            return Err(Error::Interrupted { resume: record.as_ref().map(|record| record.folder.name.clone()) });
        }
        if record.is_none() && !config.dry_run {
            let folder = RunFolder::create(&config.work_dir, &self.stamp)?;
            *record = Some(Record::open(folder, false)?);
        }
        let (mut entries, outdated) = questions.valid(recorded, config);
        let truncated = questions.truncation_warning(config);
        let by_batch = questions.batch_warning(config);
        outdated.into_iter().chain(truncated).chain(by_batch).for_each(|warning| self.teller.warn(warning));
        let run = record.as_ref().map(|record| record.folder.name.clone());
        let plan = questions.plan(run, tasks.len(), &entries);
        let Some(Record { folder, journal: Some(journal), .. }) = record else {
            self.teller.observer.event(Event::Plan(&plan));
            self.add_plan(&plan);
            return Ok(None);
        };
        if self.plan.samples == 0 {
            // A resumed run keeps what it wrote before, under the time of writing, as in OpenCompass.
            if self.first.resume.is_none() {
                self.stamp.clone_from(&folder.name);
            }
            self.teller.observer.run_folder(&folder.path);
            self.write_configuration(folder)?;
        }
        self.teller.observer.event(Event::Plan(&plan));
        self.add_plan(&plan);
        journal.begin(abbr, &fingerprint(model)?)?;
        self.teller.phase(Phase::Infer);
        let stats =
            infer::infer(model, config, &questions, &mut entries, journal, &folder.name, &mut *self.teller.observer)?;

        self.teller.phase(Phase::Eval);
        let answers = evaluate::from_journal(config, folder, &questions, &entries, tasks, &style)?;
        write_submission(config, folder, tasks, &answers)?;
        if config.stage == Stage::Infer {
            let failures = unanswered(tasks, &answers);
            let found = Found { failures, ..Found::default() };
            return Ok(Some(Outcome { found, overall: Overall::default(), line: String::new() }));
        }
        let found = evaluate::score(config, folder, tasks, answers.into_iter().map(Ok).collect())?;
        let overall = Overall {
            prompt_tokens: questions.prompt_tokens(),
            computed_tokens: stats.computed_prompt_tokens,
            generated_tokens: stats.generated_tokens,
            truncated: plan.truncated,
            stopped: ended(&entries, "stop"),
            unended: ended(&entries, "length"),
            seconds: start.elapsed().as_secs_f64(),
            ..of_counts(found.counts)
        };
        let line = report::line(&overall, Some(&model.identity()?.dtype));
        Ok(Some(Outcome { found, overall, line }))
    }

    fn add_plan(&mut self, plan: &Plan) {
        let all = &mut self.plan;
        *all = Plan {
            run: plan.run.clone(),
            subsets: all.subsets + plan.subsets,
            samples: all.samples + plan.samples,
            resumed: all.resumed + plan.resumed,
            prompt_tokens: all.prompt_tokens + plan.prompt_tokens,
            unshared_tokens: all.unshared_tokens + plan.unshared_tokens,
            truncated: all.truncated + plan.truncated,
        };
    }

    /// Scores the predictions files of an earlier run.
    fn score_again(mut self, tasks: &[Vec<Task>]) -> Result<RunReport> {
        let folder = self.earlier()?;
        self.teller.observer.run_folder(&folder.path);
        self.write_configuration(&folder)?;
        self.teller.phase(Phase::Eval);
        let mut outcomes = Vec::new();
        for (config, tasks) in self.configs.iter().zip(tasks) {
            let start = Instant::now();
            let answers = evaluate::from_predictions(config, &folder, tasks)?;
            let found = evaluate::score(config, &folder, tasks, answers)?;
            found.warnings.iter().for_each(|warning| self.teller.warn(warning.clone()));
            let overall = Overall { seconds: start.elapsed().as_secs_f64(), ..of_counts(found.counts) };
            outcomes.push(Outcome { line: report::line(&overall, None), found, overall });
        }
        self.finish(&folder, tasks, outcomes)
    }

    /// Shows the results files of an earlier run; the data is not needed.
    fn show(mut self) -> Result<RunReport> {
        let folder = self.earlier()?;
        let all = self.configs.iter().map(datasets::configs).collect::<Result<Vec<_>>>()?;
        self.datasets = distinct(all.iter().flatten());
        self.teller.observer.run_folder(&folder.path);
        self.write_configuration(&folder)?;
        let rows: Vec<Vec<Row>> = all.iter().map(|configs| configs.iter().map(datasets::row).collect()).collect();
        let mut outcomes = Vec::new();
        for (config, rows) in self.configs.iter().zip(&rows) {
            let subsets: Vec<String> = rows.iter().map(|row| row.abbr.clone()).collect();
            let found = evaluate::from_results(config, &folder, &subsets)?;
            outcomes.push(Outcome { found, overall: Overall::default(), line: String::new() });
        }
        self.summarize(&folder, &rows, &[], outcomes)
    }

    fn finish(self, folder: &RunFolder, tasks: &[Vec<Task>], outcomes: Vec<Outcome>) -> Result<RunReport> {
        let row = |task: &Task| datasets::row(&task.dataset_config);
        let rows: Vec<Vec<Row>> = tasks.iter().map(|tasks| tasks.iter().map(row).collect()).collect();
        let questions: Vec<usize> = tasks.iter().flatten().map(|task| task.samples.len()).collect();
        self.summarize(folder, &rows, &questions, outcomes)
    }

    /// Writes the tables. `questions`: of each model's subsets, where they are known.
    fn summarize(
        mut self,
        folder: &RunFolder,
        rows: &[Vec<Row>],
        questions: &[usize],
        outcomes: Vec<Outcome>,
    ) -> Result<RunReport> {
        let several = outcomes.len() > 1;
        let mut report = RunReport {
            run: Some(folder.name.clone()),
            folder: Some(folder.path.clone()),
            plan: self.plan.clone(),
            ..RunReport::default()
        };
        let name = |config: &EvalConfig| if several { format!("{}: ", config.model.abbr) } else { String::new() };
        for (config, outcome) in self.configs.iter().zip(&outcomes) {
            let failure = |failure: &Failure| Failure { abbr: name(config) + &failure.abbr, ..failure.clone() };
            report.failures.extend(outcome.found.failures.iter().map(failure));
        }
        if self.first.stage == Stage::Infer {
            report.warnings = self.teller.warnings;
            return Ok(report);
        }
        self.teller.phase(Phase::Summary);
        let mut all: Vec<Row> = Vec::new();
        for row in rows.iter().flatten() {
            if !all.iter().any(|known| known.abbr == row.abbr) {
                all.push(row.clone());
            }
        }
        let cell = |row: &Row, (rows, outcome): (&Vec<Row>, &Outcome)| {
            let place = rows.iter().position(|known| known.abbr == row.abbr)?;
            outcome.found.cells.get(place).cloned()
        };
        let cells: Vec<Vec<_>> = rows
            .iter()
            .zip(&outcomes)
            .map(|of| all.iter().map(|row| cell(row, of).unwrap_or(report::summary::Cell::Missing)).collect())
            .collect();
        let models: Vec<String> = self.configs.iter().map(|config| config.model.abbr.clone()).collect();
        let summary = Summary::new(&models, &all, &cells, self.groups, &self.first.summarizer);
        let stamp = &self.stamp;
        for (ending, content) in [("txt", summary.text(stamp)), ("csv", summary.csv()), ("md", summary.markdown())] {
            folder.write(format!("summary/summary_{stamp}.{ending}"), &content)?;
        }
        let mut questions = questions.iter().copied();
        let mut lines = Vec::new();
        for ((config, rows), outcome) in self.configs.iter().zip(rows).zip(&outcomes) {
            for (row, accuracy) in rows.iter().zip(&outcome.found.accuracies) {
                report.subsets.push(Subset {
                    model: config.model.abbr.clone(),
                    abbr: row.abbr.clone(),
                    version: row.version.clone(),
                    mode: row.mode.clone(),
                    accuracy: *accuracy,
                    questions: questions.next().unwrap_or(0),
                });
            }
            if !outcome.line.is_empty() {
                report.overall.push(outcome.overall);
                lines.push(name(config) + &outcome.line);
            }
        }
        if let [overall] = &mut report.overall[..] {
            overall.seconds = self.start.elapsed().as_secs_f64();
        }
        report.line = lines.join("\n");
        report.table = summary.table();
        report.averages = summary.averages();
        report.warnings = self.teller.warnings;
        Ok(report)
    }
}

/// Answers that ended in this way.
fn ended(entries: &Entries, wanted: &str) -> usize {
    entries.values().filter(|entry| matches!(&entry.reply, Reply::Text { finish, .. } if finish == wanted)).count()
}

/// The questions of a run that only asks that have no answer.
fn unanswered(tasks: &[Task], answers: &[evaluate::Answers]) -> Vec<Failure> {
    let mut failures = Vec::new();
    for (task, answers) in tasks.iter().zip(answers) {
        for (sample, record) in task.samples.iter().zip(answers) {
            if let Err(reason) = record {
                let (abbr, index) = (task.abbr.clone(), Some(sample.index));
                failures.push(Failure { abbr, index, reason: reason.clone() });
            }
        }
    }
    failures
}

/// The answers of unlabelled subsets, as C-Eval's site takes them.
fn write_submission(
    config: &EvalConfig,
    folder: &RunFolder,
    tasks: &[Task],
    answers: &[evaluate::Answers],
) -> Result<()> {
    let submission = evaluate::submission(config, tasks, answers);
    if submission.is_empty() {
        return Ok(());
    }
    folder.write(format!("submission/{}/ceval.json", config.model.abbr), &output::python_json(&submission))
}

fn of_counts(Counts { questions, correct, strict, unparsed }: Counts) -> Overall {
    Overall {
        accuracy: metrics::accuracy(correct, questions),
        stderr: metrics::stderr(correct, questions),
        interval: metrics::wilson(correct, questions),
        strict_accuracy: metrics::accuracy(strict, questions),
        questions,
        unparsed,
        ..Overall::default()
    }
}

#[cfg(test)]
mod tests;
