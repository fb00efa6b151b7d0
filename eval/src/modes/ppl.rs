//! `PPLInferencer`, `LLInferencer` and `CLPInferencer`: given answers are compared by their likelihood.
//!
//! The prompts of a question's labels share all but their ends, so they are one request: the common beginning is computed
//! once, and the ends fork from it. A number is the sum of the token losses in order, in 64 bits, so it does not depend on
//! where the prompts part.

use super::fit::{Asked, Built};
use crate::{Inferencer, Label, Model, Result, Sample, Task};
use oc_engine::{Score, ScoreRequest};

/// The requests of one question, and where in them each label's tokens are.
#[derive(Debug, PartialEq)]
pub(crate) struct Ask {
    pub requests: Vec<Scored>,
    /// Request and continuation of each label, in their order.
    places: Vec<(usize, usize)>,
}

/// The parts of a [`ScoreRequest`], which has no equality.
#[derive(Debug, PartialEq)]
pub(crate) struct Scored {
    pub context: Vec<u32>,
    pub continuations: Vec<Vec<u32>>,
    pub context_logprobs: bool,
}

impl From<Scored> for ScoreRequest {
    fn from(scored: Scored) -> Self {
        let Scored { context, continuations, context_logprobs } = scored;
        Self { context, continuations, context_logprobs }
    }
}

/// What is asked of the model for a question.
///
/// # Errors
/// What the tokenizer refuses of a choice.
pub(crate) fn ask(task: &Task, asked: &Asked, model: &dyn Model) -> Result<Ask> {
    match (&task.inferencer, asked) {
        (Inferencer::Clp { choices }, Asked::One(built)) => {
            let mut ids = Vec::new();
            for choice in choices {
                ids.extend(model.encode(choice, false)?);
            }
            let places = (0..ids.len()).map(|i| (0, i)).collect();
            let continuations = ids.into_iter().map(|id| vec![id]).collect();
            let request = Scored { context: built.ids.clone(), continuations, context_logprobs: false };
            Ok(Ask { requests: vec![request], places })
        }
        (_, asked) => Ok(labels(asked.prompts())),
    }
}

/// One request for prompts with a common beginning, or one for each.
fn labels(prompts: &[Built]) -> Ask {
    let first = prompts.first().map(|built| built.ids.as_slice()).unwrap_or_default();
    let common = |built: &Built| built.ids.iter().zip(first).take_while(|(a, b)| a == b).count();
    let shared = prompts.iter().map(common).min().unwrap_or(0);
    if shared == 0 {
        let alone =
            |b: &Built| Scored { context: b.ids.clone(), continuations: vec![Vec::new()], context_logprobs: true };
        let places = (0..prompts.len()).map(|i| (i, 0)).collect();
        return Ask { requests: prompts.iter().map(alone).collect(), places };
    }
    let request = Scored {
        context: first[..shared].to_vec(),
        continuations: prompts.iter().map(|built| built.ids[shared..].to_vec()).collect(),
        context_logprobs: true,
    };
    Ask { requests: vec![request], places: (0..prompts.len()).map(|i| (0, i)).collect() }
}

impl Ask {
    /// The number of each label as OpenCompass has it, from the scores of all requests: perplexities, log-likelihoods,
    /// or the probabilities of the choices. Not finite where the model's own numbers are not.
    pub(crate) fn numbers(&self, inferencer: &Inferencer, asked: &Asked, masked: usize, scores: &[Score]) -> Vec<f64> {
        let parts = |&(request, i): &(usize, usize)| {
            let score = &scores[request];
            score.context.iter().chain(&score.continuations[i]).map(|logprob| f64::from(*logprob))
        };
        match inferencer {
            Inferencer::Clp { .. } => softmax(&self.places.iter().map(|place| parts(place).sum()).collect::<Vec<_>>()),
            Inferencer::Ll { .. } => {
                // The losses of the masked tokens are left out, and the rest is averaged.
                let number = |(place, built): (&(usize, usize), &Built)| {
                    let sum: f64 = parts(place).skip(masked.saturating_sub(1)).sum();
                    sum / (built.ids.len() as f64 - masked as f64)
                };
                self.places.iter().zip(asked.prompts()).map(number).collect()
            }
            Inferencer::Ppl { .. } | Inferencer::Gen(_) => {
                // The first token has no loss, but it counts in the divisor.
                let number = |(place, built): (&(usize, usize), &Built)| {
                    let sum: f64 = parts(place).map(|logprob| -logprob).sum();
                    sum / built.ids.len() as f64
                };
                self.places.iter().zip(asked.prompts()).map(number).collect()
            }
        }
    }
}

/// Tokens whose losses `LLInferencer` leaves out: as `get_loglikelihood` of OpenCompass's models has it, as many at the
/// *beginning* of each prompt as the continuation has.
///
/// # Errors
/// What the tokenizer refuses of the continuation.
pub(crate) fn masked(task: &Task, sample: &Sample, model: &dyn Model) -> Result<usize> {
    match (&task.inferencer, task.continuation(sample)) {
        (Inferencer::Ll { .. }, Some(continuation)) => Ok(model.encode(continuation, false)?.len()),
        _ => Ok(0),
    }
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = logits.iter().map(|logit| (logit - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}

/// The place of the answer among `numbers`: the lowest perplexity, else the largest number; of equal ones the first.
pub(crate) fn best(inferencer: &Inferencer, numbers: &[f64]) -> Option<usize> {
    let lowest = matches!(inferencer, Inferencer::Ppl { .. });
    (0..numbers.len()).reduce(|best, i| {
        let is_better = if lowest { numbers[i] < numbers[best] } else { numbers[i] > numbers[best] };
        if is_better { i } else { best }
    })
}

/// The key of a label in OpenCompass's files.
pub(crate) fn key(label: &Label) -> String {
    format!("label: {}", label.text)
}

/// What a score depends on beside the ids of its prompts, in words.
pub(crate) fn settings(task: &Task) -> String {
    match &task.inferencer {
        Inferencer::Clp { choices } => format!("choices {choices:?}"),
        _ => format!("scored by {}", task.inferencer.mode()),
    }
}
