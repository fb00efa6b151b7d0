//! `oc-cli prompt`: what an evaluation would send, exactly.

use super::engine_model::EngineModel;
use super::{Outcome, input_of};
use crate::{
    args::PromptArgs,
    diagnostics::{Error, Result, Stdout},
    resolve::{self, Environment, Evaluation},
};
use oc_engine::Tokenizer;
use oc_eval::PromptRecord;
use std::collections::BTreeMap;

/// Runs the command.
///
/// # Errors
/// Bad input, and whatever the evaluation or the engine refuses.
pub fn run(args: &PromptArgs) -> Result<Outcome> {
    let mut notes = Vec::new();
    let mut job = resolve::job(&args.eval, Environment::read(), &mut notes)?;
    notes.iter().for_each(|note| tracing::info!("{note}"));
    let evaluations = std::mem::take(&mut job.evaluations);
    let count = evaluations.len();
    let Ok([Evaluation { config, model }]) = <[Evaluation; 1]>::try_from(evaluations) else {
        let message = format!("{count} models are configured, but one at a time is shown");
        return Err(Error::input(message, "name one with --models, or shorten the configuration's list"));
    };
    // Without a model there are no ids, but prompts there are.
    let model = match &model {
        Ok(model) => Some(EngineModel::without_weights(config.model.abbr.clone(), input_of(model)?)),
        Err(_) => None,
    };
    let records = oc_eval::prompts(&config, model.as_ref().map(|model| model as &dyn oc_eval::Model));
    let records = records.map_err(|error| job.locate(error))?;
    let records = if args.all { records } else { chosen(records, args.index)? };
    let mut out = Stdout::lock();
    for (i, record) in records.iter().enumerate() {
        if args.jsonl {
            // Answers are no part of a prompt.
            let record = PromptRecord { gold: None, ..record.clone() };
            out.line(serde_json::to_string(&record).expect("strings and numbers"))?;
        } else {
            let separator = if i > 0 { "\n" } else { "" };
            let tokenizer = model.as_ref().map(|model| model.input().tokenizer());
            out.print(format_args!("{separator}{}", describe(record, tokenizer)))?;
        }
    }
    Ok(Outcome::Complete)
}

/// Row `index` of the first subject; in perplexity mode that is one prompt per label.
fn chosen(records: Vec<PromptRecord>, index: usize) -> Result<Vec<PromptRecord>> {
    let Some(subject) = records.first().map(|record| record.subject.clone()) else {
        return Err(Error::input("the dataset has no questions", "look at its files, or leave --limit out"));
    };
    let of_subject = |record: &PromptRecord| record.subject == subject;
    let count = records.iter().filter(|r| of_subject(r)).map(|record| record.index + 1).max().unwrap_or(0);
    let chosen: Vec<PromptRecord> = records.into_iter().filter(|r| of_subject(r) && r.index == index).collect();
    if chosen.is_empty() {
        let hint = format!("questions are counted from 0; {subject} has {count}");
        return Err(Error::input(format!("{subject} has no question {index}"), hint));
    }
    Ok(chosen)
}

/// The prompt for people: its text between two lines, its end spelt out, its ids, and its special tokens.
fn describe(record: &PromptRecord, tokenizer: Option<&Tokenizer>) -> String {
    let mut text = format!("subject  {}\nindex    {}\n", record.subject, record.index);
    if let Some(label) = &record.label {
        text += &format!("label    {label}\n");
    }
    if let Some(gold) = &record.gold {
        text += &format!("answer   {gold}\n");
    }
    if let Some(prompt) = &record.prompt {
        text += &format!("\n---- text, {} characters ----\n{prompt}\n---- end ----\n", prompt.chars().count());
        let tail: Vec<char> = prompt.chars().rev().take(12).collect();
        text += &format!("ends in  {:?}\n", tail.into_iter().rev().collect::<String>());
    }
    for message in record.messages.iter().flatten() {
        text += &format!("\n---- message of {} ----\n{}\n---- end ----\n", message.role, message.content);
    }
    let Some(ids) = &record.ids else {
        return text + "\nno ids: they need a tokenizer, give the model with --hf-path\n";
    };
    let list: Vec<String> = ids.iter().map(u32::to_string).collect();
    text += &format!("\n---- {} ids ----\n{}\n", ids.len(), list.join(" "));
    if let Some(tokenizer) = tokenizer {
        text += &special_tokens(ids, tokenizer);
    }
    text
}

/// Which special tokens stand where.
fn special_tokens(ids: &[u32], tokenizer: &Tokenizer) -> String {
    let mut positions: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for (position, id) in ids.iter().enumerate().filter(|(_, id)| tokenizer.is_special(**id)) {
        positions.entry(*id).or_default().push(position.to_string());
    }
    if positions.is_empty() {
        return "---- no special tokens ----\n".into();
    }
    let mut text = "---- special tokens: id, token, positions ----\n".to_owned();
    for (id, positions) in positions {
        let token = tokenizer.token(id).unwrap_or_default();
        text += &format!("{id} {token} at {}\n", positions.join(", "));
    }
    text
}
