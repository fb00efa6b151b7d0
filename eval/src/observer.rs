//! What a run tells its caller while it works; the caller decides what of it to show.

use oc_engine::Stats;
use std::path::Path;

/// Something happened.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A phase begins.
    Phase(Phase),
    /// Which prompt style is in force, in words, and how to change it.
    Style(&'a str),
    /// Everything is known before the first token is computed.
    Plan(&'a Plan),
    /// The text and ids of the first prompt that is sent.
    FirstPrompt {
        /// The subset, e.g. `ceval-law`.
        abbr: &'a str,
        /// The text.
        prompt: &'a str,
        /// The ids, as sent.
        ids: &'a [u32],
    },
    /// A sample is finished and on disk.
    Sample {
        /// The subset.
        abbr: &'a str,
        /// 0-based row.
        index: usize,
        /// The generated text.
        text: &'a str,
        /// Samples finished, those of the resumed run included.
        done: usize,
        /// All samples.
        total: usize,
        /// What this run computed so far.
        stats: Stats,
    },
    /// Something the user should know; also in [`crate::RunReport::warnings`].
    Warning(&'a str),
}

/// The phases of a run, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reading data.
    Load,
    /// Building and encoding prompts.
    Prompts,
    /// Generating.
    Infer,
    /// Extracting answers and scoring.
    Eval,
    /// Writing the tables.
    Summary,
}

/// What a run is going to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The run folder's name.
    pub run: Option<String>,
    /// Subsets, e.g. C-Eval subjects.
    pub subsets: usize,
    /// All samples.
    pub samples: usize,
    /// Of these, already answered in the resumed run.
    pub resumed: usize,
    /// Prompt tokens of the samples that are left.
    pub prompt_tokens: u64,
    /// Of these, tokens not shared with the beginning of an earlier prompt of the plan: what a perfect prefix cache
    /// would compute.
    pub unshared_tokens: u64,
    /// Prompts that lost in-context examples or their beginning.
    pub truncated: usize,
}

/// Receives the events of a run. `()` ignores them.
pub trait Observer {
    /// Called for every event, in order.
    fn event(&mut self, event: Event<'_>);

    /// Asked after every sample and now and then between; `true` ends the run with [`crate::Error::Interrupted`], losing nothing finished.
    fn interrupted(&self) -> bool {
        false
    }

    /// The run folder exists from now on.
    fn run_folder(&mut self, _folder: &Path) {}
}

impl Observer for () {
    fn event(&mut self, _event: Event<'_>) {}
}
