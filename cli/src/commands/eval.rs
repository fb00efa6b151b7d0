//! `oc-cli eval`: answers a dataset's questions with a model and prints OpenCompass's table.

use super::engine_model::EngineModel;
use super::{Outcome, load};
use crate::{
    args::EvalArgs,
    diagnostics::{Result, Stdout, Terminal},
    interrupt::Interrupt,
    progress::Progress,
    resolve::{self, Environment, Evaluation},
};
use oc_eval::{Event, Observer, Phase, Plan, RunReport, datasets};
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
    let mut ready = Vec::with_capacity(evaluations.len());
    for Evaluation { config, model } in evaluations {
        ready.push((config, model?));
    }
    // A misspelt dataset or missing data is said before a model is loaded for it.
    if let Some((config, _)) = ready.first() {
        datasets::load(config).map_err(|error| job.locate(error))?;
    }
    let mut outcome = Outcome::Complete;
    let interrupt = Interrupt::install(terminal);
    for (config, model) in ready {
        let engine = load(&model, terminal)?;
        let mut model = EngineModel::new(config.model.abbr.clone(), engine);
        let mut console = Console { terminal, interrupt: interrupt.clone(), progress: None, plan: Plan::default() };
        let report = oc_eval::run(&mut model, &config, &mut console);
        console.end_progress();
        if print(&report?, config.dry_run)? == Outcome::WithFailures {
            outcome = Outcome::WithFailures;
        }
    }
    Ok(outcome)
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
fn print(report: &RunReport, dry_run: bool) -> Result<Outcome> {
    let mut out = Stdout::lock();
    if dry_run {
        out.line(plan_text(&report.plan))?;
        return Ok(Outcome::Complete);
    }
    out.line(report.table.trim_end())?;
    if let Some(averages) = &report.averages {
        out.line(format_args!("\n{}", averages.trim_end()))?;
    }
    out.line(format_args!("\n{}", report.line.trim_end()))?;
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
