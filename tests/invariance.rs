//! The same bits for a question whatever the batch size, order, prefix cache, chunking, threads or stops in between.
//!
//! Prompts with three shared beginnings, two families and every dtype, on the real scheduler: generations (tokens, text,
//! log-probabilities) and scores are compared as bytes with those of one request at a time, cold, in one piece.

use oc_engine::{Dtype, Engine, EngineOptions, Output, Request, SamplingParams, Score, ScoreEvent, ScoreRequest};
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
            let min_new_tokens = if i % 7 == 3 { 3 } else { 0 };
            let mut request = Request { ignore_eos: i % 5 != 0, min_new_tokens, ..Request::new(prompt, 1 + i % 9) };
            if i % 4 == 3 {
                request.sampling = SamplingParams { temperature: 0.9, top_k: 40, top_p: 0.95, seed: i as u64 };
            }
            request
        })
        .collect()
}

/// Beyond the original context of dynamic rotary scaling only texts of one length have a common beginning.
fn of_one_length(mut requests: Vec<ScoreRequest>, engine: &Engine) -> Vec<ScoreRequest> {
    for ScoreRequest { context, continuations, .. } in &mut requests {
        let longest = continuations.iter().map(Vec::len).max().unwrap_or(0);
        if context.len() + longest > engine.config().unscaled_context() {
            continuations.iter_mut().for_each(|c| c.resize(longest, 7));
        }
    }
    requests
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

/// Questions with four choices, as perplexity asks them: a beginning that many share, and ends of one to four tokens that
/// fork before, at and after the edges of pages. One of them has an empty end, and one forks behind its first token.
fn questions(name: &str) -> Vec<ScoreRequest> {
    let long = reference(name).prompts.swap_remove(4).ids;
    let lengths = [15, 16, 17, 31, 32, 33, 47, 48, 49, 64, 90, 1];
    let question = |(q, length): (usize, &usize)| ScoreRequest {
        context: long[..*length].to_vec(),
        continuations: (0..4).map(|c| (0..(q + c) % 5).map(|t| (11 * c + 3 * t + q) as u32).collect()).collect(),
        context_logprobs: true,
    };
    lengths.iter().enumerate().map(question).collect()
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
        max_batch_size: Some(way.batch),
        token_budget: Some(way.budget),
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

/// The log-probabilities of every choice of every question, scored as one whole prompt, one after the other.
fn whole_prompts(engine: &mut Engine, questions: &[ScoreRequest]) -> Vec<Vec<u32>> {
    let prompts = questions.iter().flat_map(|q| q.continuations.iter().map(|c| [&q.context[..], c].concat()));
    let request = |context| ScoreRequest { context, continuations: Vec::new(), context_logprobs: true };
    prompts.map(|prompt| bits(&engine.score(vec![request(prompt)]).unwrap()[0].context)).collect()
}

/// The same from one prefill per question.
fn forked(engine: &mut Engine, questions: &[ScoreRequest], reversed: bool) -> Vec<Vec<u32>> {
    let order: Vec<usize> =
        if reversed { (0..questions.len()).rev().collect() } else { (0..questions.len()).collect() };
    let scores = engine.score(order.iter().map(|i| questions[*i].clone()).collect()).unwrap();
    let mut found = vec![Vec::new(); questions.len()];
    for (i, score) in order.iter().zip(scores) {
        found[*i] = score.continuations.iter().map(|c| bits(&[&score.context[..], c].concat())).collect();
    }
    found.into_iter().flatten().collect()
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
    let of_one_length = |requests| of_one_length(requests, &engine(name, dtype, ALONE));
    let (scored, questions) = (of_one_length(score_requests(name)), of_one_length(questions(name)));
    let whole = whole_prompts(&mut engine(name, dtype, ALONE), &questions);
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
        assert_eq!(forked(&mut engine, &questions, way.shuffled), whole, "{name} {dtype:?} choices, {way:?}");
        assert_eq!(forked(&mut engine, &questions, !way.shuffled), whole, "{name} {dtype:?} choices, warm, {way:?}");
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

/// Prompts and what follows them beyond the original context, where rotary frequencies follow from the length of the text.
#[test]
fn internlm2_dynamic_scaling_f32() {
    check("internlm2-ntk", Dtype::F32);
}

#[test]
fn opt_f32() {
    check("opt", Dtype::F32);
}

#[test]
fn opt_post_norm_bf16() {
    check("opt-post", Dtype::Bf16);
}

/// What prompts of 90 and more tokens share beyond an original context of 64: everything with those of their own length,
/// nothing with others. Within it, and before a generation crosses its end, lengths do not matter.
#[test]
fn scaled_texts_share_with_their_own_length() {
    let way = Way { batch: 64, budget: 4096, prefix_cache: true, threads: 1, shuffled: false };
    let long = reference("internlm2-ntk").prompts.swap_remove(4).ids;
    let cached = |engine: &mut Engine, len: usize, last: u32| {
        let before = engine.stats().cached_tokens;
        let prompt = [&long[..len - 1], &[last]].concat();
        engine.generate(vec![Request { ignore_eos: true, ..Request::new(prompt, 8) }]).unwrap();
        engine.stats().cached_tokens - before
    };
    let mut engine = engine("internlm2-ntk", Dtype::F32, way);
    for (len, last, wanted) in [
        (90, 1, 0),
        (90, 2, 80),
        (91, 1, 0),
        (60, 1, 0),
        (63, 1, 48),
        (64, 2, 48),
        (65, 1, 0),
        (91, 2, 80),
        (62, 3, 48),
    ] {
        assert_eq!(cached(&mut engine, len, last), wanted, "{len} tokens that end in {last}");
    }
}

/// bf16 weights, which are quantised for 8-bit products.
#[test]
fn llama_tied_int8() {
    check("llama-tied", Dtype::Int8);
}

/// What a question with four choices costs: its context once, however many tokens of its last page are its own, and of
/// every choice all tokens but the last.
#[test]
fn choices_cost_one_prefill() {
    let way = Way { batch: 64, budget: 4096, prefix_cache: true, threads: 2, shuffled: false };
    let long = reference("llama").prompts.swap_remove(4).ids;
    for (length, tail) in [(90, 1), (90, 3), (64, 1), (64, 3), (65, 2), (7, 4)] {
        let mut engine = engine("llama", Dtype::F32, way);
        let request = ScoreRequest {
            context: long[..length].to_vec(),
            continuations: (0..4).map(|c| (0..tail).map(|t| 20 * c + t).collect()).collect(),
            context_logprobs: true,
        };
        engine.score(vec![request.clone()]).unwrap();
        let cold = engine.stats();
        let wanted = length as u64 + 4 * u64::from(tail - 1);
        assert_eq!((cold.computed_prompt_tokens, cold.cached_tokens), (wanted, 0), "{length} {tail}");
        // Again: the full pages come from the cache with their losses; behind them stands the row whose next token, the
        // first of a page that nobody keeps, has to be asked for once more.
        engine.score(vec![request]).unwrap();
        let warm = engine.stats();
        let full = length / 16 * 16;
        let again = if full == 0 { length } else { length - full + 1 } as u64 + 4 * u64::from(tail - 1);
        assert_eq!(warm.computed_prompt_tokens - cold.computed_prompt_tokens, again, "{length} {tail}, warm");
        assert_eq!(warm.cached_tokens + warm.computed_prompt_tokens, warm.prompt_tokens, "{length} {tail}");
    }
}

/// Scores come as they are finished; what comes after a stream that was dropped half way is as if it had not been.
#[test]
fn scores_are_streamed_and_may_be_abandoned() {
    let questions = questions("qwen2");
    let way = Way { batch: 3, budget: 48, prefix_cache: true, threads: 2, shuffled: false };
    let wanted = whole_prompts(&mut engine("qwen2", Dtype::Bf16, ALONE), &questions);
    let mut engine = engine("qwen2", Dtype::Bf16, way);
    for events in [0, 1, 4, 9, 15, 30] {
        let mut stream = engine.score_stream(questions.clone()).unwrap();
        let seen: Vec<ScoreEvent> = stream.by_ref().take(events).collect::<Result<_, _>>().unwrap();
        drop(stream);
        let finished = seen.iter().filter(|event| matches!(event, ScoreEvent::Finished(_))).count();
        // One step brings nothing yet; a score needs no more than the four of a question with four ends.
        assert!(if events < 2 { finished == 0 } else { events < 9 || finished > 0 }, "{seen:?}");
        assert_eq!(forked(&mut engine, &questions, true), wanted, "after {events} events");
    }
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
