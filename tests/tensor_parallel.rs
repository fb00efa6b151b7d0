//! One model cut over several devices: near Hugging Face transformers, the same bits for a request whatever it is computed
//! with, and the same on several groups of devices as on one.

use oc_engine::{Device, Dtype, Engine, EngineOptions, Error, Output, Replicas, Request, Score, ScoreRequest};
use oc_tests::{checkpoint, reference};

/// float32 against float32: only the order of summation differs.
const TOLERANCE: f64 = 2e-4;

/// Grouped heads; biases of q, k and v; fused q, k and v; biases of sums, without and with a gate; norms after the sums and
/// a narrow embedding.
const MODELS: [(&str, usize); 6] =
    [("llama", 2), ("qwen2", 2), ("internlm2", 2), ("internlm", 4), ("opt", 2), ("opt-post", 2)];

fn options(device: Device, dtype: Dtype, devices: usize) -> EngineOptions {
    EngineOptions {
        device,
        dtype: Some(dtype),
        tensor_parallel: devices,
        max_seq_len: Some(256),
        threads: Some(2),
        ..EngineOptions::default()
    }
}

fn load(name: &str, options: EngineOptions) -> Engine {
    Engine::load(checkpoint(name), options).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn assert_close(found: &[f32], wanted: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        let difference = (f64::from(*found) - wanted).abs();
        assert!(difference < tolerance, "{what}: entry {i} is {found}, expected {wanted}");
    }
}

fn context(ids: &[u32]) -> ScoreRequest {
    ScoreRequest { context: ids.to_vec(), continuations: Vec::new(), context_logprobs: true }
}

#[test]
fn float32_is_transformers_on_every_number_of_devices() {
    for (name, most) in MODELS {
        for devices in [2, 4].into_iter().filter(|devices| *devices <= most) {
            let mut engine = load(name, options(Device::Cpu, Dtype::F32, devices));
            let reference = reference(name);
            let scores = engine.score(reference.prompts.iter().map(|p| context(&p.ids)).collect()).unwrap();
            let request = |ids: &Vec<u32>| Request { ignore_eos: true, ..Request::new(ids.clone(), 64) };
            let outputs = engine.generate(reference.prompts.iter().map(|p| request(&p.ids)).collect()).unwrap();
            for (p, ((score, output), wanted)) in scores.iter().zip(&outputs).zip(&reference.prompts).enumerate() {
                let what = format!("{name} on {devices}, prompt {p}");
                assert_close(&score.context, &wanted.logprobs, TOLERANCE, &what);
                assert_eq!(output.tokens, wanted.greedy, "{what}");
                assert_close(&output.logprobs, &wanted.greedy_logprobs, TOLERANCE, &what);
            }
        }
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn of_output(output: &Output) -> String {
    format!("{:?} {:?}", output.tokens, bits(&output.logprobs))
}

fn of_score(score: &Score) -> String {
    let continuations: Vec<Vec<u32>> = score.continuations.iter().map(|one| bits(one)).collect();
    format!("{:?} {continuations:?} {:?}", bits(&score.context), score.is_greedy)
}

#[test]
fn bf16_on_emulated_devices_stays_near() {
    for (name, devices) in [("llama", 2), ("internlm", 4), ("opt-post", 2)] {
        let mut engine = load(name, options(Device::Emulator, Dtype::Bf16, devices));
        let prompts = reference(name).prompts;
        let scores = engine.score(prompts.iter().map(|prompt| context(&prompt.ids)).collect()).unwrap();
        for (score, prompt) in scores.iter().zip(&prompts) {
            assert_close(&score.context, &prompt.logprobs, 0.5, name);
        }
    }
}

/// Prompts that share beginnings, of lengths around the edges of pages, and questions with choices.
fn everything(engine: &mut Engine, name: &str, one_by_one: bool) -> Vec<String> {
    let long = reference(name).prompts.swap_remove(4).ids;
    let request = |(i, len): (usize, &usize)| {
        let prompt = [&long[..*len], &[3 + i as u32]].concat();
        Request { ignore_eos: true, ..Request::new(prompt, 2 + i % 3) }
    };
    let requests: Vec<Request> = [64, 64, 47, 48, 15, 90, 1].iter().enumerate().map(request).collect();
    let question = |len: &usize| ScoreRequest {
        context: long[..*len].to_vec(),
        continuations: (0..4).map(|c| vec![7 * c + 1, c]).collect(),
        context_logprobs: true,
    };
    let questions: Vec<ScoreRequest> = [47, 48, 17].iter().map(question).collect();
    let size = if one_by_one { 1 } else { requests.len() };
    let outputs: Vec<Output> = requests.chunks(size).flat_map(|r| engine.generate(r.to_vec()).unwrap()).collect();
    let scores: Vec<Score> = questions.chunks(size).flat_map(|q| engine.score(q.to_vec()).unwrap()).collect();
    outputs.iter().map(of_output).chain(scores.iter().map(of_score)).collect()
}

#[test]
fn a_request_has_the_same_bits_alone_and_among_others() {
    for (name, device, dtype) in [
        ("qwen2", Device::Emulator, Dtype::Bf16),
        ("opt-post", Device::Emulator, Dtype::F16),
        ("qwen2", Device::Cpu, Dtype::Bf16),
        ("internlm2", Device::Cpu, Dtype::F32),
    ] {
        let way = |batch, budget, prefix_cache| EngineOptions {
            max_batch_size: Some(batch),
            token_budget: Some(budget),
            prefix_cache,
            ..options(device, dtype, 2)
        };
        let wanted = everything(&mut load(name, way(1, 4096, false)), name, true);
        for (batch, budget, prefix_cache) in [(64, 4096, true), (3, 32, true), (64, 48, false)] {
            let mut engine = load(name, way(batch, budget, prefix_cache));
            for round in ["cold", "warm"] {
                let found = everything(&mut engine, name, false);
                assert_eq!(found, wanted, "{name} on {device:?}, batch {batch}, budget {budget}, {round}");
            }
        }
    }
}

/// Two groups of two devices, and one.
#[test]
fn groups_that_share_the_questions_give_the_bits_of_one() {
    let long = reference("llama").prompts.swap_remove(4).ids;
    let request = |len: usize| Request { ignore_eos: true, ..Request::new(long[..len].to_vec(), 3) };
    let requests: Vec<Request> = [64, 47, 15, 31, 33, 5].map(request).to_vec();
    let run = |groups: usize| {
        let group =
            |group| load("llama", EngineOptions { gpu: 2 * group, ..options(Device::Emulator, Dtype::Bf16, 2) });
        let mut replicas = Replicas::new((0..groups).map(group).collect());
        let mut outputs = Vec::new();
        let take = &mut |output: Option<Output>, _| -> Result<(), Error> {
            outputs.extend(output);
            Ok(())
        };
        replicas.generate(requests.clone(), take).unwrap();
        outputs.sort_by_key(|output| output.request);
        outputs.iter().map(of_output).collect::<Vec<_>>()
    };
    assert_eq!(run(2), run(1));
}

#[test]
fn results_say_over_how_many_devices_the_model_was_cut() {
    let kind = |devices| load("llama", options(Device::Cpu, Dtype::F32, devices)).fingerprint().device.clone();
    assert_eq!(kind(2), format!("{}/tp2", kind(1)));
    let engine = load("llama", options(Device::Emulator, Dtype::Bf16, 2));
    assert!(engine.fingerprint().device.ends_with("/tp2"), "{:?}", engine.fingerprint());
    assert!(engine.device_name().starts_with("2 x emulator"), "{}", engine.device_name());
    // Half of the layers and of the keys and values, and all of the ends.
    let (one, half) = (load("llama", options(Device::Emulator, Dtype::Bf16, 1)), engine.memory_plan());
    let one = one.memory_plan();
    assert!(half.weights < one.weights && half.weights > one.weights / 2, "{half:?}, {one:?}");
    assert_eq!(half.kv_cache / half.kv_tokens * 2, one.kv_cache / one.kv_tokens);
}

#[test]
fn a_model_that_cannot_be_cut_is_refused_with_its_numbers() {
    let refused = |name: &str, devices| {
        let error = Engine::load(checkpoint(name), options(Device::Cpu, Dtype::F32, devices)).unwrap_err();
        error.to_string()
    };
    let text = refused("llama", 4);
    assert!(text.contains("2 key/value heads cut over 4 devices") && text.contains("over 1 or 2"), "{text}");
    let text = refused("llama", 3);
    assert!(text.contains("cut over 3 devices") && text.contains("--tensor-parallel-size"), "{text}");
    // 96 columns are three blocks of 32.
    let text = refused("llama-q8_0", 2);
    assert!(text.contains("in Q8_0") && text.contains("96 columns") && text.contains("blocks of 32"), "{text}");
}
