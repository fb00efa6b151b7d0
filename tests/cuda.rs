//! The whole engine on the CUDA kernels, run by the emulator: near Hugging Face transformers, and the same bits for a request
//! whatever it is computed with.

use oc_engine::{Device, Dtype, Engine, EngineOptions, Output, Request, SamplingParams, Score, ScoreRequest};
use oc_tests::{CHECKPOINTS, checkpoint, reference};

fn engine(name: &str, dtype: Dtype, batch: usize, budget: usize, prefix_cache: bool) -> Engine {
    let options = EngineOptions {
        device: Device::Emulator,
        dtype: Some(dtype),
        max_seq_len: Some(256),
        max_batch_size: batch,
        token_budget: budget,
        prefix_cache,
        ..EngineOptions::default()
    };
    Engine::load(checkpoint(name), options).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn context(ids: &[u32]) -> ScoreRequest {
    ScoreRequest { context: ids.to_vec(), continuations: Vec::new(), context_logprobs: true }
}

/// 16-bit activations against float32: close, but not equal.
#[test]
fn log_probabilities_stay_near_the_reference() {
    for name in CHECKPOINTS {
        for (dtype, tolerance) in [(Dtype::Bf16, 0.5), (Dtype::F16, 0.06)] {
            let mut engine = engine(name, dtype, 8, 4096, true);
            let prompts = reference(name).prompts;
            let scores = engine.score(prompts.iter().map(|prompt| context(&prompt.ids)).collect()).unwrap();
            for (score, prompt) in scores.iter().zip(&prompts) {
                assert_eq!(score.context.len(), prompt.logprobs.len());
                for (i, (found, wanted)) in score.context.iter().zip(&prompt.logprobs).enumerate() {
                    let difference = (f64::from(*found) - wanted).abs();
                    let what = format!("{name} in {}, token {i} of {}", dtype.name(), prompt.ids.len());
                    assert!(difference < tolerance, "{what}: {found}, expected {wanted}");
                }
            }
        }
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn of_output(output: &Output) -> String {
    format!("{:?} {:?} {:?}", output.tokens, output.text, bits(&output.logprobs))
}

fn of_score(score: &Score) -> String {
    let continuations: Vec<Vec<u32>> = score.continuations.iter().map(|one| bits(one)).collect();
    format!("{:?} {continuations:?} {:?}", bits(&score.context), score.is_greedy)
}

/// Prompts that share beginnings, of lengths around the edges of pages, one of them sampled.
fn requests(name: &str) -> Vec<Request> {
    let long = reference(name).prompts.swap_remove(4).ids;
    let request = |(i, len): (usize, &usize)| {
        let mut prompt = long[..*len].to_vec();
        prompt.push(3 + i as u32);
        let mut request = Request { ignore_eos: true, ..Request::new(prompt, 2 + i % 3) };
        if i == 2 {
            request.sampling = SamplingParams { temperature: 0.9, top_k: 40, top_p: 0.95, seed: 5 };
        }
        request
    };
    [64, 64, 47, 48, 15, 16, 90, 1, 31].iter().enumerate().map(request).collect()
}

fn questions(name: &str) -> Vec<ScoreRequest> {
    let long = reference(name).prompts.swap_remove(4).ids;
    let question = |len: &usize| ScoreRequest {
        context: long[..*len].to_vec(),
        continuations: (0..4).map(|c| vec![7 * c + 1, c]).collect(),
        context_logprobs: true,
    };
    [47, 48, 17, 64].iter().map(question).collect()
}

/// Everything that is asked of an engine, as bytes.
fn everything(engine: &mut Engine, name: &str, one_by_one: bool) -> Vec<String> {
    let (requests, questions) = (requests(name), questions(name));
    if one_by_one {
        let outputs =
            requests.into_iter().map(|r| of_output(&engine.generate(vec![r]).unwrap()[0])).collect::<Vec<_>>();
        return outputs
            .into_iter()
            .chain(questions.into_iter().map(|q| of_score(&engine.score(vec![q]).unwrap()[0])))
            .collect();
    }
    let outputs = engine.generate(requests).unwrap();
    let scores = engine.score(questions).unwrap();
    outputs.iter().map(of_output).chain(scores.iter().map(of_score)).collect()
}

#[test]
fn a_request_has_the_same_bits_alone_and_among_others() {
    for (name, dtype) in [("qwen2", Dtype::Bf16), ("llama", Dtype::F16)] {
        let wanted = everything(&mut engine(name, dtype, 1, 4096, false), name, true);
        for (batch, budget, prefix_cache) in [(64, 4096, true), (3, 32, true), (64, 48, false)] {
            let mut engine = engine(name, dtype, batch, budget, prefix_cache);
            for round in ["cold", "warm"] {
                let found = everything(&mut engine, name, false);
                for (i, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
                    assert_eq!(found, wanted, "{name}, item {i}, batch {batch}, budget {budget}, {round}");
                }
            }
        }
    }
}
