//! Asks what is open; every answer is journalled as it comes.

use crate::{
    Error, EvalConfig, Event, Model, Observer, Result,
    journal::{Entries, Journal, Reply},
    modes::{
        r#gen,
        ppl::{self, Ask, LeftOut},
    },
    questions::{Askable, Questions},
};
use oc_engine::{Score, Stats};

/// Puts the open questions to `model`: every answer is in `journal` and in `entries` afterwards. Returns what was computed.
///
/// # Errors
/// What the model, the tokenizer or the disk refuses; [`Error::Interrupted`]. What was finished before is journalled.
pub(crate) fn infer(
    model: &mut dyn Model,
    config: &EvalConfig,
    questions: &Questions<'_>,
    entries: &mut Entries,
    journal: &mut Journal,
    run: &str,
    observer: &mut dyn Observer,
) -> Result<Stats> {
    let open = questions.open(entries);
    let total = questions.askable().count();
    if let Some(first) = open.first()
        && let Some(built) = first.asked.prompts().first()
    {
        let abbr = &first.question.task.abbr;
        observer.event(Event::FirstPrompt { abbr, prompt: &built.text, ids: &built.ids });
    }
    let (generated, scored): (Vec<_>, Vec<_>) = open.iter().partition(|askable| askable.is_generated());
    let done = entries.len();
    let mut writer =
        Writer { config, run, entries, journal, observer, waiting: Vec::new(), done, total, before: Stats::default() };
    let result = generate(model, &generated, &mut writer).and_then(|()| score(model, &scored, &mut writer));
    // Also after an error, so that nothing finished waits for the disk; the first error is the one to report.
    let flushed = writer.flush(writer.before);
    result?;
    flushed?;
    Ok(writer.before)
}

fn generate(model: &mut dyn Model, open: &[Askable<'_>], writer: &mut Writer<'_>) -> Result<()> {
    if open.is_empty() {
        return Ok(());
    }
    let request = |askable: &Askable<'_>| {
        let built = askable.asked.prompts().first().ok_or_else(|| no_prompt(askable))?;
        Ok(r#gen::request(askable.question.task, built, writer.config))
    };
    let requests = open.iter().map(request).collect::<Result<Vec<_>>>()?;
    let mut latest = Stats::default();
    let stats = model.generate(requests, &mut |output, stats| {
        latest = stats;
        let Some(output) = output else { return writer.check() };
        let number = output.request;
        let askable = open.get(number).ok_or_else(|| unasked(number, open.len()))?;
        writer.finish(askable, Reply::text(output), stats)
    });
    writer.before = sum(writer.before, *stats.as_ref().unwrap_or(&latest));
    stats.map(|_| ())
}

fn score(model: &mut dyn Model, open: &[Askable<'_>], writer: &mut Writer<'_>) -> Result<()> {
    if open.is_empty() {
        return Ok(());
    }
    let mut pending = Vec::with_capacity(open.len());
    let mut requests = Vec::new();
    // Question and part of each request.
    let mut places = Vec::new();
    for (number, askable) in open.iter().enumerate() {
        let first = places.len();
        let mut ask = ppl::ask(askable.question.task, askable.asked, model)?;
        for (part, request) in std::mem::take(&mut ask.requests).into_iter().enumerate() {
            places.push((number, part));
            requests.push(request.into());
        }
        let parts = places.len() - first;
        let (task, sample) = (askable.question.task, askable.question.sample);
        let left_out = ppl::left_out(task, sample, askable.asked, writer.config, model)?;
        pending.push(Pending { ask, left_out, scores: vec![None; parts] });
    }
    let mut latest = Stats::default();
    let stats = model.score(requests, &mut |score, stats| {
        latest = stats;
        let Some(score) = score else { return writer.check() };
        let (number, part) = *places.get(score.request).ok_or_else(|| unasked(score.request, places.len()))?;
        let (askable, question) = (&open[number], &mut pending[number]);
        question.scores[part] = Some(score);
        let Some(scores) = question.scores.iter().cloned().collect::<Option<Vec<Score>>>() else { return Ok(()) };
        let numbers =
            question.ask.numbers(&askable.question.task.inferencer, askable.asked, &question.left_out, &scores);
        question.scores.fill(None);
        writer.finish(askable, Reply::numbers(&numbers), stats)
    });
    writer.before = sum(writer.before, *stats.as_ref().unwrap_or(&latest));
    stats.map(|_| ())
}

/// A question that is being scored.
struct Pending {
    ask: Ask,
    left_out: LeftOut,
    /// Of its requests, as they come.
    scores: Vec<Option<Score>>,
}

fn unasked(number: usize, asked: usize) -> Error {
    Error::Config { what: format!("the model answered request {number} of {asked}") }
}

fn no_prompt(askable: &Askable<'_>) -> Error {
    let (abbr, index) = askable.question.key();
    Error::Sample { abbr, index, reason: "there is no prompt".into() }
}

fn sum(a: Stats, b: Stats) -> Stats {
    Stats {
        prompt_tokens: a.prompt_tokens + b.prompt_tokens,
        cached_tokens: a.cached_tokens + b.cached_tokens,
        computed_prompt_tokens: a.computed_prompt_tokens + b.computed_prompt_tokens,
        generated_tokens: a.generated_tokens + b.generated_tokens,
        steps: a.steps + b.steps,
    }
}

/// Writes answers down and tells of them.
struct Writer<'a> {
    config: &'a EvalConfig,
    run: &'a str,
    entries: &'a mut Entries,
    journal: &'a mut Journal,
    observer: &'a mut dyn Observer,
    /// Written, but perhaps not yet on disk: subset, row, and the answer for people.
    waiting: Vec<(String, usize, String)>,
    done: usize,
    total: usize,
    /// What earlier calls of the model computed.
    before: Stats,
}

impl Writer<'_> {
    fn interrupted(&self) -> Error {
        Error::Interrupted { resume: Some(self.run.to_owned()) }
    }

    /// Between answers.
    fn check(&self) -> Result<()> {
        if self.observer.interrupted() { Err(self.interrupted()) } else { Ok(()) }
    }

    fn finish(&mut self, askable: &Askable<'_>, reply: Reply, stats: Stats) -> Result<()> {
        let entry = askable.entry(self.config, reply);
        self.journal.append(&entry)?;
        let text = match &entry.reply {
            Reply::Text { text, .. } => text.clone(),
            Reply::Numbers { numbers } => {
                let numbers: Vec<String> = numbers.iter().flatten().map(|x| format!("{x:.4}")).collect();
                numbers.join(" ")
            }
        };
        self.waiting.push((entry.abbr.clone(), entry.index, text));
        self.entries.insert(askable.question.key(), entry);
        let is_interrupted = self.observer.interrupted();
        if is_interrupted || self.journal.sync_is_due() {
            self.flush(sum(self.before, stats))?;
        }
        if is_interrupted { Err(self.interrupted()) } else { Ok(()) }
    }

    /// Returns when everything is on disk, and tells of it.
    fn flush(&mut self, stats: Stats) -> Result<()> {
        self.journal.sync()?;
        for (abbr, index, text) in self.waiting.drain(..) {
            self.done += 1;
            let (done, total) = (self.done, self.total);
            self.observer.event(Event::Sample { abbr: &abbr, index, text: &text, done, total, stats });
        }
        Ok(())
    }
}
