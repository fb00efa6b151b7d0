//! `PPLInferencer`, `LLInferencer` and `CLPInferencer`: given answers are compared by their likelihood.
//!
//! The prompts of a question's labels share all but their ends, so they are one request: the common beginning is computed
//! once, and the ends fork from it. A number is the sum of the token losses in order, in 64 bits, so it does not depend on
//! where the prompts part.

use super::fit::{Asked, Built};
use crate::{EvalConfig, Inferencer, Label, Model, PadTokens, Result, Sample, Task};
use oc_engine::{Score, ScoreRequest};
use std::collections::BTreeMap;

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
        (_, asked) => Ok(labels(asked.prompts(), model.unscaled_context())),
    }
}

/// One request for prompts with a common beginning, or one for each. Of prompts longer than `unscaled` tokens only those of
/// one length have one.
fn labels(prompts: &[Built], unscaled: usize) -> Ask {
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (label, built) in prompts.iter().enumerate() {
        let len = built.ids.len();
        groups.entry(if len > unscaled { len } else { 0 }).or_default().push(label);
    }
    let mut ask = Ask { requests: Vec::new(), places: vec![(0, 0); prompts.len()] };
    for group in groups.into_values() {
        let all: Vec<&[u32]> = group.iter().map(|label| prompts[*label].ids.as_slice()).collect();
        let common = |ids: &&[u32]| ids.iter().zip(all[0]).take_while(|(a, b)| a == b).count();
        let shared = all.iter().map(common).min().unwrap_or(0);
        if shared == 0 {
            for (label, ids) in group.into_iter().zip(all) {
                ask.places[label] = (ask.requests.len(), 0);
                let continuations = vec![Vec::new()];
                ask.requests.push(Scored { context: ids.to_vec(), continuations, context_logprobs: true });
            }
            continue;
        }
        for (place, label) in group.into_iter().enumerate() {
            ask.places[label] = (ask.requests.len(), place);
        }
        let continuations = all.iter().map(|ids| ids[shared..].to_vec()).collect();
        ask.requests.push(Scored { context: all[0][..shared].to_vec(), continuations, context_logprobs: true });
    }
    ask
}

impl Ask {
    /// The number of each label as OpenCompass has it, from the scores of all requests: perplexities, log-likelihoods,
    /// or the probabilities of the choices. Not finite where the model's own numbers are not.
    pub(crate) fn numbers(
        &self,
        inferencer: &Inferencer,
        asked: &Asked,
        left_out: &LeftOut,
        scores: &[Score],
    ) -> Vec<f64> {
        let parts = |&(request, i): &(usize, usize)| {
            let score = &scores[request];
            score.context.iter().chain(&score.continuations[i]).map(|logprob| f64::from(*logprob))
        };
        if let Inferencer::Clp { .. } = inferencer {
            return softmax(&self.places.iter().map(|place| parts(place).sum()).collect::<Vec<_>>());
        }
        let number = |(label, (place, built)): (usize, (&(usize, usize), &Built))| {
            let is_pad = |id: u32| Some(id) == left_out.pad;
            // The first token has no loss, but it counts in the divisor; a padding token has none and does not count.
            let all = parts(place).zip(&built.ids[1..]).map(|(logprob, id)| if is_pad(*id) { 0.0 } else { logprob });
            let count = built.ids.iter().filter(|id| !is_pad(**id)).count() as f64;
            match (&left_out.likelihoods, inferencer) {
                // The losses of the masked tokens are left out, and the rest is averaged.
                (Likelihoods::Masked(masked), Inferencer::Ll { .. }) => {
                    all.skip(masked.saturating_sub(1)).sum::<f64>() / (count - *masked as f64)
                }
                (Likelihoods::After(contexts), Inferencer::Ll { .. }) => {
                    let context = contexts.get(label).copied().unwrap_or(0);
                    parts(place).skip(context.saturating_sub(1)).sum()
                }
                _ => all.map(|logprob| -logprob).sum::<f64>() / count,
            }
        };
        self.places.iter().zip(asked.prompts()).enumerate().map(number).collect()
    }
}

/// What of a question's losses does not count.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LeftOut {
    /// The token that OpenCompass pads with: it has no loss wherever it stands, and does not count.
    pad: Option<u32>,
    likelihoods: Likelihoods,
}

/// How `get_loglikelihood` of OpenCompass's classes tells the continuation from the rest.
#[derive(Clone, Debug, PartialEq)]
enum Likelihoods {
    /// As many tokens are left out at the *beginning* of each prompt as the continuation has.
    Masked(usize),
    /// Those of each prompt without the continuation's text; the others are summed (`HuggingFaceCausalLM`).
    After(Vec<usize>),
}

/// See [`LeftOut`].
///
/// # Errors
/// What the tokenizer refuses of the continuation.
pub(crate) fn left_out(
    task: &Task,
    sample: &Sample,
    asked: &Asked,
    config: &EvalConfig,
    model: &dyn Model,
) -> Result<LeftOut> {
    let likelihoods = match (&task.inferencer, task.continuation(sample)) {
        (Inferencer::Ll { .. }, Some(continuation)) if config.is_causal_lm => {
            let context = |built: &Built| Ok(model.encode(&built.text.replace(continuation, ""), true)?.len());
            Likelihoods::After(asked.prompts().iter().map(context).collect::<Result<_>>()?)
        }
        (Inferencer::Ll { .. }, Some(continuation)) => Likelihoods::Masked(model.encode(continuation, false)?.len()),
        _ => Likelihoods::Masked(0),
    };
    Ok(LeftOut { pad: pad(config, model), likelihoods })
}

/// The token that OpenCompass would pad a batch of this model with.
pub(crate) fn pad(config: &EvalConfig, model: &dyn Model) -> Option<u32> {
    let PadTokens { tokenizer, generation_config, eos, vocab_size } = model.pad_tokens();
    let given = config.pad_token_id.map(|id| if id < 0 && config.is_causal_lm { id + vocab_size as i64 } else { id });
    let given = given.and_then(|id| u32::try_from(id).ok());
    let others = if config.is_causal_lm { eos.or(generation_config) } else { generation_config.or(eos) };
    given.or(tokenizer).or(others)
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

/// What a score depends on beside the ids of its prompts, in words. `pad`: see [`pad`].
pub(crate) fn settings(task: &Task, asked: &Asked, config: &EvalConfig, pad: Option<u32>) -> String {
    let held = pad.filter(|pad| asked.prompts().iter().any(|built| built.ids.contains(pad)));
    let without = held.map_or(String::new(), |pad| format!(" without the padding token {pad}"));
    match &task.inferencer {
        Inferencer::Clp { choices } => format!("choices {choices:?}"),
        Inferencer::Ll { .. } if config.is_causal_lm => "scored by ll of HuggingFaceCausalLM".into(),
        _ => format!("scored by {}{without}", task.inferencer.mode()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Prompt;

    /// A context and its ends.
    type Forks = (Vec<u32>, Vec<Vec<u32>>);

    /// The requests for these prompts, and where each label's are.
    fn asked(ids: &[&[u32]], unscaled: usize) -> (Vec<Forks>, Vec<(usize, usize)>) {
        let (prompt, text) = (Prompt::Text(String::new()), String::new());
        let built = Built {
            prompt,
            text,
            ids: Vec::new(),
            shots: 0,
            all_shots: 0,
            cut: 0,
            counted: 0,
            room: 0,
            is_by_batch: false,
        };
        let prompts: Vec<Built> = ids.iter().map(|ids| Built { ids: ids.to_vec(), ..built.clone() }).collect();
        let ask = labels(&prompts, unscaled);
        (ask.requests.into_iter().map(|request| (request.context, request.continuations)).collect(), ask.places)
    }

    #[test]
    fn prompts_are_forked_from_their_common_beginning() {
        let prompts: [&[u32]; 4] = [&[1, 2, 3], &[1, 2, 4, 5], &[1, 2, 6], &[1, 2, 7, 8]];
        let ends = vec![vec![3], vec![4, 5], vec![6], vec![7, 8]];
        assert_eq!(asked(&prompts, 4), (vec![(vec![1, 2], ends)], vec![(0, 0), (0, 1), (0, 2), (0, 3)]));
        let alone = vec![(vec![1], vec![vec![]]), (vec![2], vec![vec![]])];
        assert_eq!(asked(&[&[1], &[2]], 4), (alone, vec![(0, 0), (1, 0)]));
    }

    /// Beyond the original context of dynamic rotary scaling, lengths are kept apart.
    #[test]
    fn long_prompts_are_forked_by_length() {
        let prompts: [&[u32]; 4] = [&[1, 2, 3], &[1, 2, 4, 5], &[1, 2, 6], &[1, 2, 7, 8]];
        let requests = vec![(vec![1, 2], vec![vec![3], vec![6]]), (vec![1, 2], vec![vec![4, 5], vec![7, 8]])];
        assert_eq!(asked(&prompts, 3), (requests, vec![(0, 0), (1, 0), (0, 1), (1, 1)]));
    }
}
