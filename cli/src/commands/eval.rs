//! `oc-cli eval`: answers a dataset's questions with a model and prints OpenCompass's table.

use super::engine_model::EngineModel;
use super::{Outcome, input_of, load_replicas};
use crate::{
    args::EvalArgs,
    diagnostics::{Result, Stdout, Terminal},
    interrupt::Interrupt,
    progress::Progress,
    resolve::{self, Environment, Evaluation},
};
use oc_eval::{EvalConfig, Event, Model, Models, Observer, Phase, Plan, RunReport, Stage, datasets};
use std::path::Path;

/// Most failures that are named one by one.
const FAILURES_SHOWN: usize = 10;

/// Runs the command.
///
/// # Errors
/// Bad input, and whatever stops the evaluation.
pub fn run(args: &EvalArgs, terminal: &Terminal) -> Result<Outcome> {
    let mut notes = Vec::new();
    let mut job = resolve::job(args, Environment::read(), &mut notes)?;
    notes.iter().for_each(|note| tracing::info!("{note}"));
    let evaluations = std::mem::take(&mut job.evaluations);
    let (mut configs, mut models) = (Vec::with_capacity(evaluations.len()), Vec::new());
    for Evaluation { config, model } in evaluations {
        if config.stage.infers() {
            let mut model = model?;
            // A misspelt dataset or missing data is said before a model is loaded for it.
            let tasks = datasets::load(&config).map_err(|error| job.locate(error))?;
            // Room for the longest output beside the prompt: a dataset may ask for more than the flags do.
            if let Some(len) = config.max_seq_len {
                let output = tasks.iter().map(|task| task.max_out_len(&config)).max().unwrap_or(config.max_out_len);
                model.options.max_seq_len = Some(len + output);
            }
            models.push(model);
        }
        configs.push(config);
    }
    // What goes on with a run compares its model with the one that answered.
    let is_counted = configs[0].dry_run && configs[0].resume.is_none();
    let names = configs.iter().map(|c| c.model.abbr.clone()).collect();
    let mut loaded = Loaded { terminal, models, names, is_counted, model: None };
    let interrupt = Interrupt::install(terminal);
    let mut console = Console { terminal, interrupt, progress: None, plan: Plan::default() };
    let report = oc_eval::run_all(&mut loaded, &configs, &mut console);
    console.end_progress();
    print(&report.map_err(|error| job.locate(error))?, &configs[0])
}

/// Loads the models of a run one after the other; the one before makes room first.
struct Loaded<'a> {
    terminal: &'a Terminal,
    models: Vec<resolve::Model>,
    names: Vec<String>,
    /// Whether prompts are only counted.
    is_counted: bool,
    model: Option<EngineModel>,
}

impl Models for Loaded<'_> {
    fn load(&mut self, number: usize) -> oc_eval::Result<&mut dyn Model> {
        self.model = None;
        let (model, name) = (&self.models[number], self.names[number].clone());
        let loaded = match self.is_counted {
            true => EngineModel::without_weights(name, input_of(model)?),
            false => EngineModel::new(name, load_replicas(model, self.terminal)?),
        };
        Ok(self.model.insert(loaded))
    }
}

/// Shows the events of a run.
struct Console<'a> {
    terminal: &'a Terminal,
    interrupt: Interrupt,
    progress: Option<Progress>,
    plan: Plan,
}

impl Console<'_> {
    fn end_progress(&mut self) {
        if let Some(progress) = self.progress.take() {
            progress.finish();
        }
    }
}

impl Observer for Console<'_> {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Phase(Phase::Load) => tracing::debug!("reading data"),
            Event::Phase(Phase::Prompts) => tracing::debug!("building prompts"),
            Event::Phase(Phase::Infer) => {
                tracing::debug!("Starting inference process...");
                self.progress = Some(Progress::start(self.terminal, &self.plan));
            }
            Event::Phase(Phase::Eval) => {
                self.end_progress();
                tracing::debug!("scoring");
            }
            Event::Phase(Phase::Summary) => tracing::debug!("writing the tables"),
            Event::Style(style) => tracing::info!("{style}"),
            Event::Plan(plan) => {
                tracing::info!("{}", plan_text(plan));
                self.plan = plan.clone();
            }
            Event::FirstPrompt { abbr, prompt, ids } => {
                tracing::debug!(
                    "first prompt ({abbr}, {} tokens), between the lines:\n----\n{prompt}\n----",
                    ids.len()
                );
            }
            Event::Sample { done, total, stats, .. } => {
                if let Some(progress) = &mut self.progress {
                    progress.update(done, total, &stats);
                }
            }
            Event::Warning(text) => tracing::warn!("{text}"),
        }
    }

    fn interrupted(&self) -> bool {
        self.interrupt.is_set()
    }

    fn run_folder(&mut self, folder: &Path) {
        tracing::info!("run folder {}", folder.display());
    }
}

/// One line: `8 subsets, 80 questions; 90,123 prompt tokens, of which 12,345 have to be computed`.
fn plan_text(plan: &Plan) -> String {
    let mut text = format!("{} subsets, {} questions", plan.subsets, plan.samples);
    if plan.resumed > 0 {
        text += &format!(", {} already answered", plan.resumed);
    }
    text += &format!(
        "; {} prompt tokens, {} of them not shared with an earlier prompt",
        plan.prompt_tokens, plan.unshared_tokens
    );
    if plan.truncated > 0 {
        text += &format!("; {} prompts shortened to --max-seq-len", plan.truncated);
    }
    text
}

/// The result to stdout, what has no score to stderr.
fn print(report: &RunReport, config: &EvalConfig) -> Result<Outcome> {
    let mut out = Stdout::lock();
    if config.dry_run {
        out.line(plan_text(&report.plan))?;
        return Ok(Outcome::Complete);
    }
    if config.stage == Stage::Infer {
        out.line(plan_text(&report.plan))?;
    } else {
        out.line(report.table.trim_end())?;
    }
    if let Some(averages) = &report.averages {
        out.line(format_args!("\n{}", averages.trim_end()))?;
    }
    if !report.line.is_empty() {
        out.line(format_args!("\n{}", report.line.trim_end()))?;
    }
    if let Some(folder) = &report.folder {
        tracing::info!("everything is in {}", folder.display());
    }
    for failure in report.failures.iter().take(FAILURES_SHOWN) {
        let question = failure.index.map_or(String::new(), |index| format!(" question {index}"));
        tracing::error!("{}{question}: {}", failure.abbr, failure.reason);
    }
    if report.failures.len() > FAILURES_SHOWN {
        tracing::error!("{} more have no score", report.failures.len() - FAILURES_SHOWN);
    }
    Ok(if report.failures.is_empty() { Outcome::Complete } else { Outcome::WithFailures })
}
