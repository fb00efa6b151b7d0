//! Sampling where some tokens may not come yet.

use oc_engine::{Device, Dtype, Engine, EngineOptions, Request, SamplingParams};
use oc_tests::{checkpoint, reference};

/// With `min_new_tokens`, tokens that end a generation have no probability before temperature, top-k and top-p. Reference:
/// transformers 4.48.3 on the logits of the checkpoint `llama` after the prompt of 16 tokens, in float32, through
/// `MinNewTokensLengthLogitsProcessor` for its two likeliest tokens, then `TemperatureLogitsWarper(0.7)`,
/// `TopKLogitsWarper(6)` and `TopPLogitsWarper(0.8)`.
#[test]
fn ends_that_may_not_come_yet_leave_their_places_to_others() {
    const ENDS: [u32; 2] = [169, 40];
    const WANTED: [(u32, f64); 5] = [(238, 0.25127), (141, 0.220585), (17, 0.211194), (193, 0.179821), (155, 0.13713)];
    const DRAWS: u64 = 4000;
    let prompt = reference("llama").prompts.into_iter().map(|prompt| prompt.ids).find(|ids| ids.len() == 16).unwrap();
    let options = EngineOptions {
        device: Device::Cpu,
        dtype: Some(Dtype::F32),
        eos_token_ids: Some(ENDS.to_vec()),
        ..EngineOptions::default()
    };
    let mut engine = Engine::load(checkpoint("llama"), options).unwrap();
    let request = |seed, min_new_tokens| Request {
        min_new_tokens,
        sampling: SamplingParams { temperature: 0.7, top_k: 6, top_p: 0.8, seed },
        ..Request::new(prompt.clone(), 2)
    };
    // Without it the likeliest token is the only one, and ends everything.
    let free = engine.generate((0..50).map(|seed| request(seed, 0)).collect()).unwrap();
    assert!(free.iter().all(|output| output.tokens.is_empty()));
    let outputs = engine.generate((0..DRAWS).map(|seed| request(seed, 1)).collect()).unwrap();
    let mut drawn = 0;
    for (token, wanted) in WANTED {
        let count = outputs.iter().filter(|output| output.tokens[0] == token).count();
        let deviation = (wanted * (1.0 - wanted) * DRAWS as f64).sqrt();
        assert!((count as f64 - wanted * DRAWS as f64).abs() < 4.0 * deviation, "token {token}: {count} of {DRAWS}");
        drawn += count;
    }
    assert_eq!(drawn as u64, DRAWS, "no other token is drawn");
    // As long as it is wanted, and each seed gives the same again.
    let mut longer = |seeds: std::ops::Range<u64>| {
        let outputs = engine_outputs(&mut engine, seeds.map(|seed| request(seed, 2)).collect());
        assert!(outputs.iter().all(|tokens| tokens.len() == 2 && !tokens.iter().any(|token| ENDS.contains(token))));
        outputs
    };
    let (all, few) = (longer(0..64), longer(7..9));
    assert_eq!(all[7..9], few);
}

fn engine_outputs(engine: &mut Engine, requests: Vec<Request>) -> Vec<Vec<u32>> {
    engine.generate(requests).unwrap().into_iter().map(|output| output.tokens).collect()
}
