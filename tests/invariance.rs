//! The same bits for a question whatever the batch size, order, prefix cache, chunking, threads or stops in between.
//!
//! Prompts with three shared beginnings, two families and every dtype, on the real scheduler: generations (tokens, text,
//! log-probabilities) and scores are compared as bytes with those of one request at a time, cold, in one piece.

use oc_engine::{Dtype, Engine, EngineOptions, Output, Request, SamplingParams, Score, ScoreRequest};
use oc_tests::{checkpoint, reference};

/// Everything that must not change, as one comparable text per request.
fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn output_bytes(output: &Output) -> String {
    format!("{:?} {:?} {:?} {:?}", output.tokens, output.text, bits(&output.logprobs), output.finish)
}

fn score_bytes(score: &Score) -> String {
    let continuations: Vec<Vec<u32>> = score.continuations.iter().map(|one| bits(one)).collect();
    format!("{:?} {continuations:?} {:?}", bits(&score.context), score.is_greedy)
}

/// 70 prompts of three "subjects" that share long beginnings, as 5-shot prompts do, of many lengths around page and
/// chunk edges; every fourth is sampled.
fn requests(name: &str) -> Vec<Request> {
    let words: Vec<Vec<u32>> = reference(name).prompts.into_iter().map(|prompt| prompt.ids).collect();
    let long = &words[4];
    (0..70)
        .map(|i| {
            let mut prompt = long[..[31, 64, 90][i % 3]].to_vec();
            prompt.extend(words[i % 4].iter().cycle().skip(i).take(1 + i % 37));
            let mut request = Request { ignore_eos: i % 5 != 0, ..Request::new(prompt, 1 + i % 9) };
            if i % 4 == 3 {
                request.sampling = SamplingParams { temperature: 0.9, top_k: 40, top_p: 0.95, seed: i as u64 };
            }
            request
        })
        .collect()
}

fn score_requests(name: &str) -> Vec<ScoreRequest> {
    requests(name)
        .into_iter()
        .take(24)
        .enumerate()
        .map(|(i, request)| ScoreRequest {
            context: request.prompt,
            continuations: (0..4).map(|c| (0..1 + (i + c) % 3).map(|t| (7 * c + t + i) as u32).collect()).collect(),
            context_logprobs: i % 2 == 0,
        })
        .collect()
}

/// Settings that must not matter.
#[derive(Clone, Copy, Debug)]
struct Way {
    batch: usize,
    budget: usize,
    prefix_cache: bool,
    threads: usize,
    shuffled: bool,
}

fn engine(name: &str, dtype: Dtype, way: Way) -> Engine {
    let options = EngineOptions {
        dtype: Some(dtype),
        max_seq_len: Some(256),
        max_batch_size: way.batch,
        token_budget: way.budget,
        prefix_cache: way.prefix_cache,
        threads: Some(way.threads),
        ..EngineOptions::default()
    };
    Engine::load(checkpoint(name), options).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// A fixed permutation: 70 and 31 have no common factor.
fn order(len: usize, shuffled: bool) -> Vec<usize> {
    (0..len).map(|i| if shuffled { (i * 31 + 11) % len } else { i }).collect()
}

fn generate(engine: &mut Engine, requests: &[Request], shuffled: bool) -> Vec<String> {
    let order = order(requests.len(), shuffled);
    let outputs = engine.generate(order.iter().map(|i| requests[*i].clone()).collect()).unwrap();
    let mut bytes = vec![String::new(); requests.len()];
    for (i, output) in order.iter().zip(&outputs) {
        bytes[*i] = output_bytes(output);
    }
    bytes
}

fn score(engine: &mut Engine, requests: &[ScoreRequest], shuffled: bool) -> Vec<String> {
    let order: Vec<usize> = if shuffled { (0..requests.len()).rev().collect() } else { (0..requests.len()).collect() };
    let scores = engine.score(order.iter().map(|i| requests[*i].clone()).collect()).unwrap();
    let mut bytes = vec![String::new(); requests.len()];
    for (i, score) in order.iter().zip(&scores) {
        bytes[*i] = score_bytes(score);
    }
    bytes
}

const ALONE: Way = Way { batch: 1, budget: 4096, prefix_cache: false, threads: 1, shuffled: false };

fn ways() -> Vec<Way> {
    let mut ways = Vec::new();
    for batch in [1, 2, 7, 64] {
        for shuffled in [false, true] {
            for prefix_cache in [false, true] {
                ways.push(Way { batch, budget: 4096, prefix_cache, threads: 2, shuffled });
            }
        }
    }
    // Prompts in chunks of one and of two pages, mixed with generating ones.
    for budget in [32, 64, 100] {
        ways.push(Way { batch: 64, budget, prefix_cache: true, threads: 2, shuffled: true });
        ways.push(Way { batch: 7, budget, prefix_cache: false, threads: 1, shuffled: false });
    }
    ways
}

fn check(name: &str, dtype: Dtype) {
    let requests = requests(name);
    let scored = score_requests(name);
    // One engine per request: nothing before it, nothing beside it.
    let alone: Vec<String> = {
        let mut engine = engine(name, dtype, ALONE);
        requests.iter().map(|r| output_bytes(&engine.generate(vec![r.clone()]).unwrap()[0])).collect()
    };
    let scores: Vec<String> = {
        let mut engine = engine(name, dtype, ALONE);
        scored.iter().map(|r| score_bytes(&engine.score(vec![r.clone()]).unwrap()[0])).collect()
    };
    assert!(alone.iter().any(|bytes| *bytes != alone[0]), "the requests differ");
    for way in ways() {
        let mut engine = engine(name, dtype, way);
        assert_eq!(generate(&mut engine, &requests, way.shuffled), alone, "{name} {dtype:?} cold, {way:?}");
        let cold = engine.stats();
        assert_eq!(generate(&mut engine, &requests, !way.shuffled), alone, "{name} {dtype:?} warm, {way:?}");
        let warm = engine.stats();
        let cached = |a: oc_engine::Stats, b: oc_engine::Stats| b.cached_tokens - a.cached_tokens;
        assert_eq!(cached(cold, warm) > 0, way.prefix_cache, "the second time uses the cache, {way:?}");
        // Scores after generations, over pages that generations left, and the other way round.
        assert_eq!(score(&mut engine, &scored, way.shuffled), scores, "{name} {dtype:?} scores, {way:?}");
        assert_eq!(score(&mut engine, &scored, !way.shuffled), scores, "{name} {dtype:?} scores, warm, {way:?}");
        assert_eq!(generate(&mut engine, &requests, way.shuffled), alone, "{name} {dtype:?} after scores, {way:?}");
    }
}

#[test]
fn llama_f32() {
    check("llama", Dtype::F32);
}

#[test]
fn llama_quantised_bf16() {
    check("llama-k", Dtype::Bf16);
}

#[test]
fn qwen2_bf16() {
    check("qwen2-mixed", Dtype::Bf16);
}

#[test]
fn qwen2_int8() {
    check("qwen2-mixed", Dtype::Int8);
}

/// bf16 weights, which are quantised for 8-bit products.
#[test]
fn llama_tied_int8() {
    check("llama-tied", Dtype::Int8);
}

/// A pool that holds only a few sequences: pages are evicted and prompts wait, and still no bit changes.
#[test]
fn a_small_pool_changes_nothing() {
    let requests = requests("qwen2");
    let alone: Vec<String> = {
        let mut engine = engine("qwen2", Dtype::F32, ALONE);
        requests.iter().map(|r| output_bytes(&engine.generate(vec![r.clone()]).unwrap()[0])).collect()
    };
    let plan = engine("qwen2", Dtype::F32, ALONE).memory_plan().clone();
    let longest = requests.iter().map(|r| r.prompt.len() + r.max_new_tokens).max().unwrap();
    let options = EngineOptions {
        dtype: Some(Dtype::F32),
        max_seq_len: Some(256),
        kv_cache_bytes: Some(2 * longest * (plan.kv_cache / plan.kv_tokens)),
        ..EngineOptions::default()
    };
    let mut engine = Engine::load(checkpoint("qwen2"), options).unwrap();
    for shuffled in [false, true, false] {
        assert_eq!(generate(&mut engine, &requests, shuffled), alone);
    }
}

/// The streaming iterator may be dropped at any point; what comes after is as if it had not been.
#[test]
fn a_stream_dropped_half_way_leaves_nothing_behind() {
    let requests = requests("qwen2");
    let way = Way { batch: 7, budget: 64, prefix_cache: true, threads: 2, shuffled: false };
    let wanted = generate(&mut engine("qwen2", Dtype::Bf16, ALONE), &requests, false);
    let mut engine = engine("qwen2", Dtype::Bf16, way);
    for events in [0, 1, 5, 40, 111] {
        let mut stream = engine.stream(requests.clone()).unwrap();
        for event in stream.by_ref().take(events) {
            event.unwrap();
        }
        drop(stream);
        assert_eq!(generate(&mut engine, &requests, true), wanted, "after {events} events");
    }
}
