//! The entry points: [`run`] evaluates, [`prompts`] only builds what would be sent.

use crate::{
    Error, EvalConfig, Event, Failure, HfType, Model, Observer, Overall, Phase, Plan, Prompt, PromptRecord, Result,
    RunReport, Sample, Subset, Task,
    datasets::{self, Group},
    fingerprint::{Fingerprint, hash_ids},
    journal::{Entries, Entry, Journal},
    metrics,
    modes::r#gen::{self, Built, Limits},
    output::{self, RunFolder},
    prompt::Style,
    report::{self, Score, Summary},
    score::{Answer, Counts},
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
    let tasks = load(config)?;
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
    let limits = Limits::new(config, model)?;
    let style = Style::new(config.hf_type, config.meta_template.as_deref())?;
    teller.observer.event(Event::Style(&describe_style(config)));

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
        line: report::line(&overall),
        failures: found.failures,
        warnings: teller.warnings,
    })
}

/// The prompts of a run, in order, without generating anything. Without a model they are not cut to
/// [`EvalConfig::max_seq_len`], and have no ids.
///
/// # Errors
/// Whatever is wrong with the configuration, the data, or the model's tokenizer or chat template.
pub fn prompts(config: &EvalConfig, model: Option<&dyn Model>) -> Result<Vec<PromptRecord>> {
    let tasks = load(config)?;
    let style = Style::new(config.hf_type, config.meta_template.as_deref())?;
    let samples = || tasks.iter().flat_map(|task| task.samples.iter().map(move |sample| (task, sample)));
    let record = |task: &Task, sample: &Sample, prompt: Prompt, sent: Option<(String, Vec<u32>)>| {
        let (text, ids) = sent.unzip();
        let (text, messages) = match prompt {
            Prompt::Text(text) => (Some(text), None),
            Prompt::Messages(messages) => (text, Some(messages)),
        };
        PromptRecord {
            subject: task.subject.clone(),
            index: sample.index,
            label: None,
            prompt: text,
            messages,
            ids,
            gold: sample.gold.clone(),
        }
    };
    let Some(model) = model else {
        return samples()
            .map(|(task, sample)| Ok(record(task, sample, task.prompt(sample, task.shots.len(), &style)?, None)))
            .collect();
    };
    let built = r#gen::build(&tasks, &style, Limits::new(config, model)?, model)?;
    samples()
        .zip(built)
        .map(|((task, sample), built)| match built {
            Ok(Built { prompt, text, ids, .. }) => Ok(record(task, sample, prompt, Some((text, ids)))),
            Err(reason) => Err(Error::Sample { abbr: task.abbr.clone(), index: sample.index, reason }),
        })
        .collect()
}

/// The tasks, each under a name of its own.
fn load(config: &EvalConfig) -> Result<Vec<Task>> {
    let tasks = datasets::load(config)?;
    let mut seen = HashSet::new();
    if let Some(task) = tasks.iter().find(|task| !seen.insert(task.abbr.as_str())) {
        let what = format!("{} is asked for twice\n\nhint: name every dataset once with --datasets", task.abbr);
        return Err(Error::Config { what });
    }
    if tasks.iter().all(|task| task.samples.is_empty()) {
        return Err(Error::Config { what: "there are no questions\n\nhint: check --subjects and --limit".into() });
    }
    Ok(tasks)
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

/// A question with its prompt.
struct Question<'a> {
    /// Number of its task.
    task: usize,
    abbr: &'a str,
    sample: &'a Sample,
    /// The prompt and the hash of its ids, or why there is none.
    prompt: Result<(Built, String), String>,
}

impl Question<'_> {
    fn key(&self) -> (String, usize) {
        (self.abbr.to_owned(), self.sample.index)
    }
}

/// All questions, subset by subset, row by row: neighbours share their solved examples, which the engine's prefix
/// cache then finds.
struct Questions<'a>(Vec<Question<'a>>);

impl<'a> Questions<'a> {
    fn build(tasks: &'a [Task], style: &Style, limits: Limits, model: &dyn Model) -> Result<Self> {
        let samples = tasks.iter().enumerate().flat_map(|(i, task)| task.samples.iter().map(move |s| (i, task, s)));
        let built = r#gen::build(tasks, style, limits, model)?;
        let question = |((task, of, sample), built): ((usize, &'a Task, &'a Sample), Result<Built, String>)| Question {
            task,
            abbr: of.abbr.as_str(),
            sample,
            prompt: built.map(|built| {
                let hash = hash_ids(&built.ids);
                (built, hash)
            }),
        };
        Ok(Self(samples.zip(built).map(question).collect()))
    }

    /// Those that can be asked.
    fn askable(&self) -> impl Iterator<Item = (&Question<'a>, &Built, &str)> {
        self.0.iter().filter_map(|question| {
            let (built, hash) = question.prompt.as_ref().ok()?;
            Some((question, built, hash.as_str()))
        })
    }

    /// Those that `entries` holds no answer to.
    fn open(&self, entries: &Entries) -> Vec<(&Question<'a>, &Built, &str)> {
        self.askable().filter(|(question, ..)| !entries.contains_key(&question.key())).collect()
    }

    /// The answers of `recorded` to exactly these prompts, and how many are to other ones.
    fn valid(&self, mut recorded: Entries) -> (Entries, usize) {
        let mut outdated = 0;
        let mut valid = Entries::new();
        for (question, _, hash) in self.askable() {
            match recorded.remove(&question.key()) {
                Some(entry) if entry.ids == hash => {
                    valid.insert(question.key(), entry);
                }
                Some(_) => outdated += 1,
                None => {}
            }
        }
        (valid, outdated)
    }

    fn prompt_tokens(&self) -> u64 {
        self.askable().map(|(_, built, _)| built.ids.len() as u64).sum()
    }

    fn plan(&self, run: Option<String>, subsets: usize, entries: &Entries) -> Plan {
        let left: Vec<&[u32]> = self.open(entries).iter().map(|(_, built, _)| built.ids.as_slice()).collect();
        Plan {
            run,
            subsets,
            samples: self.0.len(),
            resumed: entries.len(),
            prompt_tokens: left.iter().map(|ids| ids.len() as u64).sum(),
            unshared_tokens: r#gen::unshared_tokens(&left),
            truncated: self.askable().filter(|(_, built, _)| built.is_truncated()).count(),
        }
    }

    fn truncation_warning(&self, config: &EvalConfig, model: &dyn Model) -> Option<String> {
        let count = |is_it: &dyn Fn(&Built) -> bool| self.askable().filter(|(_, built, _)| is_it(built)).count();
        let (fewer, cut) = (count(&|built| built.shots < built.all_shots), count(&|built| built.cut > 0));
        let all = count(&Built::is_truncated);
        let room = model.max_seq_len() - config.max_out_len;
        let limit = match config.max_seq_len {
            Some(len) if len <= room => format!("--max-seq-len {len}"),
            _ => format!("the {room} tokens that the model's context leaves beside the output"),
        };
        (all > 0).then(|| {
            format!(
                "{all} of {} prompts do not fit into {limit}: {fewer} lost solved examples, {cut} lost their beginning",
                self.0.len()
            )
        })
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
    let request = |built: &Built| Request {
        prompt: built.ids.clone(),
        max_new_tokens: config.max_out_len,
        sampling: SamplingParams { temperature: config.temperature, seed: config.seed, ..SamplingParams::default() },
        stop: config.stop_words.clone(),
        ignore_eos: false,
    };
    let requests = open.iter().map(|(_, built, _)| request(built)).collect();
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
    let generated = model.generate(requests, &mut |output, stats| {
        let number = output.request;
        let Some((question, built, hash)) = open.get(number) else {
            return Err(Error::Config { what: format!("the model answered request {number} of {}", open.len()) });
        };
        let entry = Entry::new(question.abbr, question.sample.index, (*hash).into(), built.shots, built.cut, output);
        journal.append(&entry)?;
        waiting.push((number, entry.text.clone()));
        entries.insert(question.key(), entry);
        latest = stats;
        let is_interrupted = observer.interrupted();
        if is_interrupted || journal.sync_is_due() {
            journal.sync()?;
            announce(&mut waiting, stats, observer);
        }
        if is_interrupted { Err(Error::Interrupted { resume: Some(folder.name.clone()) }) } else { Ok(()) }
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
        found.scores.push(Score { abbr, version, mode: "gen", accuracy });
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
