//! What a run would send, without sending it.

use crate::{
    Error, EvalConfig, Model, Prompt, PromptRecord, Result, Task, datasets,
    modes::fit::{self, Built},
    prompt::Style,
    task::{Label, Sample},
};

/// The prompts of a run, in order, without computing anything; of perplexities, one for each label of a question.
/// Without a model they are not cut to [`EvalConfig::max_seq_len`], and have no ids.
///
/// # Errors
/// Whatever is wrong with the configuration, the data, or the model's tokenizer or chat template.
pub fn prompts(config: &EvalConfig, model: Option<&dyn Model>) -> Result<Vec<PromptRecord>> {
    let tasks = datasets::load(config)?;
    let style = Style::of(config)?;
    let Some(model) = model else {
        let mut records = Vec::new();
        for task in &tasks {
            for sample in &task.samples {
                match task.inferencer.labels() {
                    None => {
                        let prompt = task.prompt(sample, task.shots.len(), &style)?;
                        records.push(record(task, sample, None, prompt, None));
                    }
                    Some(labels) => {
                        for label in labels {
                            let prompt = task.candidate(sample, label, task.shots.len(), &style)?;
                            records.push(record(task, sample, Some(label), prompt, None));
                        }
                    }
                }
            }
        }
        return Ok(records);
    };
    let asked = fit::build(&tasks, &style, config, model)?;
    let samples = tasks.iter().flat_map(|task| task.samples.iter().map(move |sample| (task, sample)));
    let mut records = Vec::new();
    for ((task, sample), asked) in samples.zip(asked) {
        let failed = |reason| Error::Sample { abbr: task.abbr.clone(), index: sample.index, reason };
        let labels = task.inferencer.labels().unwrap_or_default();
        for (i, built) in asked.map_err(failed)?.prompts().iter().enumerate() {
            let Built { prompt, text, ids, .. } = built.clone();
            records.push(record(task, sample, labels.get(i), prompt, Some((text, ids))));
        }
    }
    Ok(records)
}

fn record(
    task: &Task,
    sample: &Sample,
    label: Option<&Label>,
    prompt: Prompt,
    sent: Option<(String, Vec<u32>)>,
) -> PromptRecord {
    let (text, ids) = sent.unzip();
    let (text, messages) = match prompt {
        Prompt::Text(text) => (Some(text), None),
        Prompt::Messages(messages) => (text, Some(messages)),
    };
    PromptRecord {
        subject: task.subject.clone(),
        index: sample.index,
        label: label.map(|label| label.text.clone()),
        prompt: text,
        messages,
        ids,
        gold: sample.gold.clone(),
    }
}
