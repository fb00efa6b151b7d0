//! The questions of a run with their prompts, and what of them is answered.

use crate::{
    EvalConfig, Model, Plan, Result, Sample, Task,
    fingerprint::hash_ids,
    journal::Entries,
    modes::r#gen::{self, Built, Limits},
    prompt::Style,
};

/// A question with its prompt.
pub(crate) struct Question<'a> {
    /// Number of its task.
    pub task: usize,
    /// Its task.
    pub of: &'a Task,
    /// Its subset.
    pub abbr: &'a str,
    /// Its row.
    pub sample: &'a Sample,
    /// The prompt and the hash of its ids, or why there is none.
    pub prompt: Result<(Built, String), String>,
}

impl Question<'_> {
    /// Its place among the entries of a journal.
    pub(crate) fn key(&self) -> (String, usize) {
        (self.abbr.to_owned(), self.sample.index)
    }
}

/// All questions, subset by subset, row by row: neighbours share their solved examples, which the engine's prefix
/// cache then finds.
pub(crate) struct Questions<'a>(pub Vec<Question<'a>>);

impl<'a> Questions<'a> {
    /// The questions of `tasks` with their prompts.
    ///
    /// # Errors
    /// As for [`build`](r#gen::build).
    pub(crate) fn build(tasks: &'a [Task], style: &Style, limits: Limits, model: &dyn Model) -> Result<Self> {
        let samples = tasks.iter().enumerate().flat_map(|(i, task)| task.samples.iter().map(move |s| (i, task, s)));
        let built = r#gen::build(tasks, style, limits, model)?;
        let question = |((task, of, sample), built): ((usize, &'a Task, &'a Sample), Result<Built, String>)| Question {
            task,
            of,
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
    pub(crate) fn askable(&self) -> impl Iterator<Item = (&Question<'a>, &Built, &str)> {
        self.0.iter().filter_map(|question| {
            let (built, hash) = question.prompt.as_ref().ok()?;
            Some((question, built, hash.as_str()))
        })
    }

    /// Those that `entries` holds no answer to.
    pub(crate) fn open(&self, entries: &Entries) -> Vec<(&Question<'a>, &Built, &str)> {
        self.askable().filter(|(question, ..)| !entries.contains_key(&question.key())).collect()
    }

    /// The answers of `recorded` to exactly these prompts, and how many are to other ones.
    pub(crate) fn valid(&self, mut recorded: Entries) -> (Entries, usize) {
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

    /// Of all prompts.
    pub(crate) fn prompt_tokens(&self) -> u64 {
        self.askable().map(|(_, built, _)| built.ids.len() as u64).sum()
    }

    /// What is left to do beside `entries`.
    pub(crate) fn plan(&self, run: Option<String>, subsets: usize, entries: &Entries) -> Plan {
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

    /// One sentence for all prompts that lost something.
    pub(crate) fn truncation_warning(&self, config: &EvalConfig, model: &dyn Model) -> Option<String> {
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
