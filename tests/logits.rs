//! Logits, log-probabilities and greedy tokens of tiny checkpoints against Hugging Face transformers in float32.

use oc_engine::{Dtype, Engine, EngineOptions, Request, ScoreRequest};
use oc_tests::{CHECKPOINTS, checkpoint, reference};

/// float32 against float32: only the order of summation differs.
const TOLERANCE: f64 = 2e-4;

fn engine(name: &str, dtype: Dtype) -> Engine {
    let options = EngineOptions { dtype: Some(dtype), max_seq_len: Some(256), ..EngineOptions::default() };
    Engine::load(checkpoint(name), options).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn assert_close(found: &[f32], wanted: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        let difference = (f64::from(*found) - wanted).abs();
        assert!(difference < tolerance, "{what}: entry {i} is {found}, expected {wanted}");
    }
}

/// Every id of the vocabulary as a continuation gives the whole row of log-probabilities: the logits up to the
/// constant that log-softmax removes.
#[test]
fn logits_of_the_whole_vocabulary() {
    for name in CHECKPOINTS {
        let mut engine = engine(name, Dtype::F32);
        for (p, prompt) in reference(name).prompts.iter().enumerate() {
            for logits in &prompt.logits {
                let largest = logits.values.iter().copied().fold(f64::MIN, f64::max);
                let sum: f64 = logits.values.iter().map(|v| (v - largest).exp()).sum();
                let wanted: Vec<f64> = logits.values.iter().map(|v| v - largest - sum.ln()).collect();
                let request = ScoreRequest {
                    context: prompt.ids[..=logits.position].to_vec(),
                    continuations: (0..wanted.len() as u32).map(|id| vec![id]).collect(),
                    context_logprobs: false,
                };
                let score = engine.score(vec![request]).unwrap().remove(0);
                let found: Vec<f32> = score.continuations.iter().map(|one| one[0]).collect();
                assert_close(&found, &wanted, TOLERANCE, &format!("{name}, prompt {p}, position {}", logits.position));
                let best = (0..wanted.len()).max_by(|a, b| wanted[*a].total_cmp(&wanted[*b])).unwrap();
                assert!(score.is_greedy[best], "{name}, prompt {p}: id {best} is the most likely");
                assert_eq!(score.is_greedy.iter().filter(|greedy| **greedy).count(), 1);
            }
        }
    }
}

#[test]
fn log_probabilities_of_prompts_and_continuations() {
    for name in CHECKPOINTS {
        let mut engine = engine(name, Dtype::F32);
        let reference = reference(name);
        for (p, prompt) in reference.prompts.iter().enumerate() {
            let request =
                ScoreRequest { context: prompt.ids.clone(), continuations: Vec::new(), context_logprobs: true };
            let score = engine.score(vec![request]).unwrap().remove(0);
            assert_close(&score.context, &prompt.logprobs, TOLERANCE, &format!("{name}, prompt {p}"));
            // The same text in two parts, wherever it is cut, with others beside the second one.
            for cut in [1, 15, 16, 17, prompt.ids.len() - 1].into_iter().filter(|cut| *cut < prompt.ids.len()) {
                let (context, rest) = prompt.ids.split_at(cut);
                let mut continuations = vec![vec![3, 1, 2], rest.to_vec(), vec![5]];
                if prompt.ids.len() > engine.config().unscaled_context() {
                    continuations.iter_mut().for_each(|c| c.resize(rest.len(), 7));
                }
                let request = ScoreRequest { context: context.to_vec(), continuations, context_logprobs: true };
                let score = engine.score(vec![request]).unwrap().remove(0);
                let found = [&score.context[..], &score.continuations[1]].concat();
                assert_close(&found, &prompt.logprobs, TOLERANCE, &format!("{name}, prompt {p} cut at {cut}"));
            }
        }
        let wanted = reference.score;
        let request =
            ScoreRequest { context: wanted.context, continuations: wanted.continuations, context_logprobs: false };
        let score = engine.score(vec![request]).unwrap().remove(0);
        for (c, (found, wanted)) in score.continuations.iter().zip(&wanted.logprobs).enumerate() {
            assert_close(found, wanted, TOLERANCE, &format!("{name}, continuation {c}"));
        }
    }
}

/// The reference keeps only prompts whose greedy tokens lead by a margin, so they have to match exactly.
#[test]
fn greedy_tokens() {
    for name in CHECKPOINTS {
        let mut engine = engine(name, Dtype::F32);
        let prompts = reference(name).prompts;
        let request = |ids: &Vec<u32>| Request { ignore_eos: true, ..Request::new(ids.clone(), 64) };
        let outputs = engine.generate(prompts.iter().map(|p| request(&p.ids)).collect()).unwrap();
        for (p, (output, prompt)) in outputs.iter().zip(&prompts).enumerate() {
            assert_eq!(output.tokens, prompt.greedy, "{name}, prompt {p}");
            assert_close(&output.logprobs, &prompt.greedy_logprobs, TOLERANCE, &format!("{name}, prompt {p}"));
        }
    }
}

/// bf16 rounds activations to 8 bits of mantissa: close, and the same on average, but not equal.
#[test]
fn bf16_stays_near() {
    for name in CHECKPOINTS {
        let mut engine = engine(name, Dtype::Bf16);
        for (p, prompt) in reference(name).prompts.iter().enumerate() {
            let request =
                ScoreRequest { context: prompt.ids.clone(), continuations: Vec::new(), context_logprobs: true };
            let score = engine.score(vec![request]).unwrap().remove(0);
            assert_close(&score.context, &prompt.logprobs, 0.35, &format!("{name}, prompt {p}, bf16"));
        }
    }
}
