//! The questions of a run with their prompts, and what of them is answered.

use crate::{
    EvalConfig, Inferencer, Model, Plan, Result, Sample, Task, Truncation,
    fingerprint::hash_prompts,
    journal::{Entries, Entry, Reply},
    modes::{
        fit::{self, Asked, Built},
        r#gen, ppl,
    },
    prompt::Style,
};
use std::collections::BTreeSet;

/// A question with its prompts.
pub(crate) struct Question<'a> {
    /// Number of its task.
    pub number: usize,
    /// Its task.
    pub task: &'a Task,
    /// Its row.
    pub sample: &'a Sample,
    /// The prompts and the hash of their ids, or why there are none.
    pub asked: Result<(Asked, String), String>,
}

impl Question<'_> {
    /// Its place among the entries of a journal.
    pub(crate) fn key(&self) -> (String, usize) {
        (self.task.abbr.clone(), self.sample.index)
    }
}

/// A question that can be asked.
#[derive(Clone, Copy)]
pub(crate) struct Askable<'a> {
    pub question: &'a Question<'a>,
    pub asked: &'a Asked,
    hash: &'a str,
    /// The padding token, see [`ppl::pad`].
    pad: Option<u32>,
}

impl Askable<'_> {
    /// Whether its answer is generated.
    pub(crate) fn is_generated(&self) -> bool {
        matches!(self.question.task.inferencer, Inferencer::Gen(_))
    }

    /// What its answer depends on beside its prompts and the settings of the run, in words.
    fn settings(&self, config: &EvalConfig) -> String {
        if self.is_generated() {
            r#gen::settings(self.question.task, config)
        } else {
            ppl::settings(self.question.task, self.asked, config, self.pad)
        }
    }

    /// What is journalled of its answer.
    pub(crate) fn entry(&self, config: &EvalConfig, reply: Reply) -> Entry {
        Entry {
            abbr: self.question.task.abbr.clone(),
            index: self.question.sample.index,
            ids: self.hash.to_owned(),
            settings: self.settings(config),
            reply,
            prompt_tokens: self.asked.tokens(),
            shots: self.asked.shots(),
            cut: self.asked.cut(),
        }
    }
}

/// All questions, subset by subset, row by row: neighbours share their solved examples, which the engine's prefix
/// cache then finds.
pub(crate) struct Questions<'a> {
    pub all: Vec<Question<'a>>,
    pad: Option<u32>,
}

impl<'a> Questions<'a> {
    /// The questions of `tasks` with their prompts.
    ///
    /// # Errors
    /// As for [`build`](fit::build).
    pub(crate) fn build(tasks: &'a [Task], style: &Style, config: &EvalConfig, model: &dyn Model) -> Result<Self> {
        let samples = tasks.iter().enumerate().flat_map(|(i, task)| task.samples.iter().map(move |s| (i, task, s)));
        let asked = fit::build(tasks, style, config, model)?;
        let question =
            |((number, task, sample), asked): ((usize, &'a Task, &'a Sample), Result<Asked, String>)| Question {
                number,
                task,
                sample,
                asked: asked.map(|asked| {
                    let hash = hash_prompts(asked.prompts().iter().map(|built| built.ids.as_slice()));
                    (asked, hash)
                }),
            };
        Ok(Self { all: samples.zip(asked).map(question).collect(), pad: ppl::pad(config, model) })
    }

    /// Those that can be asked.
    pub(crate) fn askable(&self) -> impl Iterator<Item = Askable<'_>> {
        self.all.iter().filter_map(|question| {
            let (asked, hash) = question.asked.as_ref().ok()?;
            Some(Askable { question, asked, hash, pad: self.pad })
        })
    }

    /// Those that `entries` holds no answer to.
    pub(crate) fn open(&self, entries: &Entries) -> Vec<Askable<'_>> {
        self.askable().filter(|askable| !entries.contains_key(&askable.question.key())).collect()
    }

    /// The answers of `recorded` to exactly these prompts under these settings, and a sentence for each reason why others
    /// are asked for again.
    pub(crate) fn valid(&self, mut recorded: Entries, config: &EvalConfig) -> (Entries, Vec<String>) {
        let (mut other_prompts, mut other_settings) = (0, 0);
        let mut differences = BTreeSet::new();
        let mut valid = Entries::new();
        for askable in self.askable() {
            let key = askable.question.key();
            let Some(entry) = recorded.remove(&key) else { continue };
            let settings = askable.settings(config);
            if entry.ids != askable.hash {
                other_prompts += 1;
            } else if entry.settings != settings {
                other_settings += 1;
                differences.insert(format!("{} was {}, now {settings}", key.0, entry.settings));
            } else {
                valid.insert(key, entry);
            }
        }
        let mut warnings = Vec::new();
        if other_prompts > 0 {
            warnings.push(format!(
                "{other_prompts} answers of the resumed run belong to other prompts; they are computed again"
            ));
        }
        if let Some(first) = differences.first() {
            warnings.push(format!(
                "{other_settings} answers of the resumed run were given under other settings ({first}); they are \
                 computed again"
            ));
        }
        (valid, warnings)
    }

    /// Of all prompts.
    pub(crate) fn prompt_tokens(&self) -> u64 {
        self.askable().map(|askable| askable.asked.tokens() as u64).sum()
    }

    /// What is left to do beside `entries`.
    pub(crate) fn plan(&self, run: Option<String>, subsets: usize, entries: &Entries) -> Plan {
        let open = self.open(entries);
        let prompts = open.iter().flat_map(|askable| askable.asked.prompts());
        let left: Vec<&[u32]> = prompts.map(|built| built.ids.as_slice()).collect();
        Plan {
            run,
            subsets,
            samples: self.all.len(),
            resumed: entries.len(),
            prompt_tokens: left.iter().map(|ids| ids.len() as u64).sum(),
            unshared_tokens: fit::unshared_tokens(&left),
            truncated: self.prompts().filter(|built| built.is_truncated()).count(),
        }
    }

    fn prompts(&self) -> impl Iterator<Item = &Built> {
        self.askable().flat_map(|askable| askable.asked.prompts())
    }

    /// One sentence for all prompts that depend on the size of OpenCompass's batches.
    pub(crate) fn batch_warning(&self, config: &EvalConfig) -> Option<String> {
        let count = self.prompts().filter(|built| built.is_by_batch).count();
        let concerned = self.askable().filter(|askable| askable.asked.is_by_batch());
        let sizes: BTreeSet<usize> = concerned.map(|askable| askable.question.task.batch_size(config)).collect();
        let sizes: Vec<String> = sizes.iter().map(usize::to_string).collect();
        (count > 0).then(|| {
            format!(
                "the cut of {count} of {} prompts depends on the batch size, which is {}: with batch_padding=True only a \
                 prompt alone in its batch leaves room for the output, as in OpenCompass",
                self.prompts().count(),
                sizes.join(" or ")
            )
        })
    }

    /// One sentence for all prompts that lost something.
    pub(crate) fn truncation_warning(&self, config: &EvalConfig) -> Option<String> {
        let lost = if config.truncation == Truncation::Middle { "middle" } else { "beginning" };
        let count = |is_it: &dyn Fn(&Built) -> bool| self.prompts().filter(|built| is_it(built)).count();
        let (fewer, cut) = (count(&|built| built.shots < built.all_shots), count(&|built| built.cut > 0));
        let all = count(&Built::is_truncated);
        let limits: BTreeSet<String> = self
            .askable()
            .flat_map(|askable| askable.asked.prompts())
            .filter(|built| built.is_truncated())
            .map(|built| match config.max_seq_len {
                Some(len) if len <= built.room => format!("--max-seq-len {len}"),
                _ => format!("the {} tokens that the model's context leaves beside the output", built.room),
            })
            .collect();
        let limit = limits.into_iter().collect::<Vec<_>>().join(", or ");
        (all > 0).then(|| {
            format!(
                "{all} of {} prompts do not fit into {limit}: {fewer} lost solved examples, {cut} lost their {lost}",
                self.prompts().count()
            )
        })
    }
}
