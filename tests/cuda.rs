//! The whole engine on the CUDA kernels, run by the emulator: near Hugging Face transformers, and the same bits for a request
//! whatever it is computed with.

use oc_engine::{Device, Dtype, Engine, EngineOptions, Output, Request, SamplingParams, Score, ScoreRequest};
use oc_kernels::{
    cuda::device::{Device as CudaDevice, DeviceCaps, DevicePtr, Download, Graph, Launch},
    emulator::{Emulator, EmulatorOptions, Traffic},
};
use oc_tests::{CHECKPOINTS, checkpoint, reference};
use std::sync::{Arc, Mutex};

fn options(dtype: Dtype, batch: usize, budget: usize, prefix_cache: bool) -> EngineOptions {
    EngineOptions {
        device: Device::Emulator,
        dtype: Some(dtype),
        max_seq_len: Some(256),
        max_batch_size: Some(batch),
        token_budget: Some(budget),
        prefix_cache,
        ..EngineOptions::default()
    }
}

fn load(name: &str, options: EngineOptions) -> Engine {
    Engine::load(checkpoint(name), options).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn engine(name: &str, dtype: Dtype, batch: usize, budget: usize, prefix_cache: bool) -> Engine {
    load(name, options(dtype, batch, budget, prefix_cache))
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

/// How requests come to an engine.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    OneByOne,
    Given,
    /// The last first: who computes a common beginning, and who finds it.
    Reversed,
}

/// Everything that is asked of an engine, as bytes, in the order given.
fn everything(engine: &mut Engine, name: &str, order: Order) -> Vec<String> {
    let (mut requests, mut questions) = (requests(name), questions(name));
    if order == Order::OneByOne {
        let outputs =
            requests.into_iter().map(|r| of_output(&engine.generate(vec![r]).unwrap()[0])).collect::<Vec<_>>();
        return outputs
            .into_iter()
            .chain(questions.into_iter().map(|q| of_score(&engine.score(vec![q]).unwrap()[0])))
            .collect();
    }
    if order == Order::Reversed {
        requests.reverse();
        questions.reverse();
    }
    let mut outputs = engine.generate(requests).unwrap();
    let mut scores = engine.score(questions).unwrap();
    if order == Order::Reversed {
        outputs.reverse();
        scores.reverse();
    }
    outputs.iter().map(of_output).chain(scores.iter().map(of_score)).collect()
}

#[test]
fn a_request_has_the_same_bits_alone_and_among_others() {
    let models =
        [("qwen2", Dtype::Bf16), ("llama", Dtype::F16), ("internlm2-ntk", Dtype::Bf16), ("opt-post", Dtype::F16)];
    for (name, dtype) in models {
        // One by one, kernel by kernel, step by step.
        let eager = EngineOptions { cuda_graphs: false, async_scheduling: false, ..options(dtype, 1, 4096, false) };
        let wanted = everything(&mut load(name, eager), name, Order::OneByOne);
        let all = (true, true);
        let cases = [
            (64, 4096, true, all, Order::Given),
            (64, 4096, true, all, Order::Reversed),
            (3, 32, true, all, Order::Given),
            (64, 48, false, all, Order::Reversed),
            (64, 4096, true, (false, true), Order::Given),
            (64, 4096, true, (true, false), Order::Given),
        ];
        for (batch, budget, prefix_cache, (cuda_graphs, async_scheduling), order) in cases {
            let options = options(dtype, batch, budget, prefix_cache);
            let mut engine = load(name, EngineOptions { cuda_graphs, async_scheduling, ..options });
            for round in ["cold", "warm"] {
                let found = everything(&mut engine, name, order);
                for (i, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
                    let with = format!(
                        "batch {batch}, budget {budget}, graphs {cuda_graphs}, ahead {async_scheduling}, {order:?}"
                    );
                    assert_eq!(found, wanted, "{name}, item {i}, {with}, {round}");
                }
            }
        }
    }
}

/// Five prompts, each continued by 14 tokens, as one call.
fn decode(engine: &mut Engine, sampling: SamplingParams) -> Vec<String> {
    let long = reference("qwen2").prompts.swap_remove(4).ids;
    let requests = [33, 40, 15, 64, 50].iter().enumerate().map(|(i, len)| {
        let prompt = [&long[i..*len], &[3 + i as u32]].concat();
        Request { sampling, ignore_eos: true, ..Request::new(prompt, 14) }
    });
    engine.generate(requests.collect()).unwrap().iter().map(of_output).collect()
}

/// What `work` asked of the device, and in how many steps.
fn traffic(emulator: &Emulator, engine: &mut Engine, work: impl Fn(&mut Engine)) -> (Traffic, u64) {
    let (before, steps) = (emulator.traffic(), engine.stats().steps);
    work(engine);
    let after = emulator.traffic();
    let since = Traffic {
        allocations: after.allocations - before.allocations,
        uploads: after.uploads - before.uploads,
        downloads: after.downloads - before.downloads,
        waits: after.waits - before.waits,
        launches: after.launches - before.launches,
        graphs: after.graphs - before.graphs,
    };
    (since, engine.stats().steps - steps)
}

#[test]
fn a_step_copies_once_each_way_and_waits_once() {
    let emulator = Emulator::new(EmulatorOptions::default());
    for cuda_graphs in [true, false] {
        let options = EngineOptions { cuda_graphs, ..options(Dtype::Bf16, 64, 64, false) };
        let mut engine = Engine::load_on(Arc::new(emulator.clone()), checkpoint("qwen2"), options).unwrap();
        let layers = engine.config().num_layers as u64;
        let greedy = |engine: &mut Engine| drop(decode(engine, SamplingParams::default()));
        greedy(&mut engine);
        let (found, steps) = traffic(&emulator, &mut engine, greedy);
        assert_eq!((found.allocations, found.waits), (0, 0), "{found:?}");
        assert_eq!((found.uploads, found.downloads), (steps, steps), "{found:?}");
        // Four steps of prompts; of the 13 of generated tokens at least ten have been recorded.
        assert_eq!(steps, 17);
        assert!(if cuda_graphs { found.graphs >= 10 } else { found.graphs == 0 }, "{found:?}");
        // A layer is nine kernels on prompts (two norms, four products, rotary, attention, and the last layer's two gatherings
        // of rows), ten on generated tokens; around them are at most five.
        let most = if cuda_graphs { 7 * (10 * layers + 5) + 10 * 5 } else { 17 * (10 * layers + 7) };
        assert!(found.launches <= most, "{found:?}, at most {most}");

        // Draws take their parameters along in a second copy.
        let random = SamplingParams { temperature: 0.8, top_p: 0.9, ..SamplingParams::default() };
        let drawn = |engine: &mut Engine| drop(decode(engine, random));
        drawn(&mut engine);
        let (found, steps) = traffic(&emulator, &mut engine, drawn);
        assert_eq!((found.allocations, found.waits, found.downloads), (0, 0, steps), "{found:?}");
        assert!(found.uploads <= 2 * steps, "{found:?}");

        let score = |engine: &mut Engine| drop(engine.score(questions("qwen2")).unwrap());
        score(&mut engine);
        let (found, steps) = traffic(&emulator, &mut engine, score);
        let wanted = Traffic { uploads: steps, downloads: steps, launches: found.launches, ..Traffic::default() };
        assert_eq!(found, wanted);
    }
}

/// Padded to every kind of bucket, across the edge of a range of attention. Behind so long a common beginning, prompts share tiles
/// of attention; the other engine shares nothing.
#[test]
fn replayed_steps_have_the_bits_of_steps_launched_kernel_by_kernel() {
    let long = reference("qwen2").prompts.swap_remove(4).ids;
    let prompt: Vec<u32> = long.iter().cycle().take(290).copied().collect();
    let options = |on| EngineOptions { cuda_graphs: on, max_seq_len: Some(340), ..options(Dtype::Bf16, 64, 4096, on) };
    let (mut eager, mut replayed) = (load("qwen2", options(false)), load("qwen2", options(true)));
    for count in [1, 3, 17] {
        let requests = || {
            let request = |i: usize| {
                let mut prompt = prompt.clone();
                prompt.truncate(290 - i % 3);
                prompt.push(3 + i as u32);
                Request { ignore_eos: true, ..Request::new(prompt, 5 + i % 7) }
            };
            (0..count).map(request).collect::<Vec<_>>()
        };
        let [wanted, found] = [&mut eager, &mut replayed].map(|engine| {
            let outputs = engine.generate(requests()).unwrap();
            outputs.iter().map(of_output).collect::<Vec<_>>()
        });
        assert_eq!(found, wanted, "{count} sequences");
    }
}

/// Sequences that end while their next step is being computed already: at tokens that end them, at stop strings, at their
/// limit, and by being abandoned.
#[test]
fn a_step_ahead_changes_nothing_that_anybody_sees() {
    let plain = |async_scheduling| EngineOptions { async_scheduling, ..options(Dtype::Bf16, 4, 64, true) };
    let long = reference("qwen2").prompts.swap_remove(4).ids;
    let request = |i: usize| Request { ignore_eos: true, ..Request::new(long[..9 + 5 * i].to_vec(), 9 + i) };
    let free = load("qwen2", plain(false)).generate((0..6).map(request).collect()).unwrap();
    // Every sequence has a token that it did generate among those that end it, but one.
    let eos = |output: &Output| output.tokens[output.request.min(output.tokens.len() - 1)];
    let ends: Vec<u32> = free[1..].iter().map(eos).collect();
    let requests = || {
        (0..6).map(|i| {
            let stop = if i % 2 == 0 { vec![free[i].text.chars().skip(4).take(2).collect()] } else { vec![] };
            Request { ignore_eos: i == 0, stop, min_new_tokens: if i == 3 { 5 } else { 0 }, ..request(i) }
        })
    };
    let found = [false, true].map(|async_scheduling| {
        let options = EngineOptions { eos_token_ids: Some(ends.clone()), ..plain(async_scheduling) };
        let mut engine = load("qwen2", options);
        // Left in the middle, with a step in flight.
        drop(engine.stream(requests().collect()).unwrap().take(5).collect::<Vec<_>>());
        let outputs = engine.generate(requests().collect()).unwrap();
        assert!(outputs.iter().any(|output| output.finish != oc_engine::FinishReason::Length));
        let scores = engine.score(questions("qwen2")).unwrap();
        let seen = outputs.iter().map(of_output).chain(scores.iter().map(of_score)).collect::<Vec<_>>();
        (seen, engine.stats().generated_tokens)
    });
    assert_eq!(found[0].0, found[1].0);
}

/// A device that writes down when work is queued, and when it is waited for.
struct Watched {
    emulator: Emulator,
    log: Arc<Mutex<Vec<char>>>,
}

struct WatchedDownload {
    inner: Box<dyn Download>,
    log: Arc<Mutex<Vec<char>>>,
}

impl Download for WatchedDownload {
    fn wait(self: Box<Self>) -> oc_kernels::Result<Vec<u8>> {
        self.log.lock().unwrap().push('w');
        self.inner.wait()
    }
}

impl CudaDevice for Watched {
    fn caps(&self) -> &DeviceCaps {
        self.emulator.caps()
    }
    fn alloc(&self, what: &'static str, bytes: usize) -> oc_kernels::Result<DevicePtr> {
        self.emulator.alloc(what, bytes)
    }
    fn free(&self, ptr: DevicePtr) {
        self.emulator.free(ptr);
    }
    fn upload(&self, from: &[u8], to: DevicePtr) -> oc_kernels::Result<()> {
        self.emulator.upload(from, to)
    }
    fn download(&self, from: DevicePtr, to: &mut [u8]) -> oc_kernels::Result<()> {
        self.log.lock().unwrap().push('w');
        self.emulator.download(from, to)
    }
    fn queue_download(&self, from: DevicePtr, bytes: usize) -> oc_kernels::Result<Box<dyn Download>> {
        self.log.lock().unwrap().push('q');
        let inner = self.emulator.queue_download(from, bytes)?;
        Ok(Box::new(WatchedDownload { inner, log: self.log.clone() }))
    }
    fn copy(&self, from: DevicePtr, to: DevicePtr, bytes: usize) -> oc_kernels::Result<()> {
        self.emulator.copy(from, to, bytes)
    }
    fn launch(&self, launch: &Launch<'_>) -> oc_kernels::Result<()> {
        self.emulator.launch(launch)
    }
    fn synchronize(&self) -> oc_kernels::Result<()> {
        self.log.lock().unwrap().push('w');
        self.emulator.synchronize()
    }
    fn capture(&self, work: &mut dyn FnMut() -> oc_kernels::Result<()>) -> oc_kernels::Result<Box<dyn Graph>> {
        self.emulator.capture(work)
    }
    fn time(&self, work: &mut dyn FnMut() -> oc_kernels::Result<()>) -> oc_kernels::Result<Option<f64>> {
        self.emulator.time(work)
    }
}

#[test]
fn the_next_step_is_queued_before_the_present_one_is_waited_for() {
    for (async_scheduling, wanted) in [(true, "qqwqwqwqww"), (false, "qwqwqwqwqw")] {
        let log = Arc::default();
        let device = Arc::new(Watched { emulator: Emulator::new(EmulatorOptions::default()), log: Arc::clone(&log) });
        let options = EngineOptions { async_scheduling, ..options(Dtype::Bf16, 4, 64, true) };
        let mut engine = Engine::load_on(device, checkpoint("qwen2"), options).unwrap();
        log.lock().unwrap().clear();
        let request = |i: u32| Request { ignore_eos: true, ..Request::new(vec![5, 6, 7 + i], 5) };
        engine.generate((0..3).map(request).collect()).unwrap();
        assert_eq!(log.lock().unwrap().iter().collect::<String>(), wanted);
    }
    // Where an answer may have to be corrected, the next step waits.
    let log = Arc::default();
    let device = Arc::new(Watched { emulator: Emulator::new(EmulatorOptions::default()), log: Arc::clone(&log) });
    let mut engine = Engine::load_on(device, checkpoint("qwen2"), options(Dtype::Bf16, 4, 64, true)).unwrap();
    log.lock().unwrap().clear();
    let request = Request { min_new_tokens: 3, ignore_eos: true, ..Request::new(vec![5, 6, 7], 5) };
    engine.generate(vec![request]).unwrap();
    assert_eq!(log.lock().unwrap().iter().collect::<String>(), "qwqwqwqqww");
}

/// As on a GPU, whose memory is nobody else's: what the weights leave is pages, large steps and many sequences.
#[test]
fn a_small_gpu_is_filled_and_computes_the_same() {
    let device = Emulator::new(EmulatorOptions { total_bytes: 128 << 20, ..EmulatorOptions::default() });
    let on_gpu = EngineOptions {
        device: Device::Cuda,
        max_batch_size: None,
        token_budget: None,
        ..options(Dtype::Bf16, 1, 1, true)
    };
    let mut engine = Engine::load_on(Arc::new(device), checkpoint("qwen2"), on_gpu).unwrap();
    let plan = engine.memory_plan().clone();
    let left = (128 << 20) - plan.weights - plan.workspace;
    assert!(plan.kv_cache <= left - left / 12 && plan.kv_cache > left / 10 * 9, "{plan:?}");
    let mut one_by_one = self::engine("qwen2", Dtype::Bf16, 1, 32, false);
    let wanted = everything(&mut one_by_one, "qwen2", Order::OneByOne);
    assert_eq!(everything(&mut engine, "qwen2", Order::Given), wanted);
}
