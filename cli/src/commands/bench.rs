//! `oc-cli bench`: what a whole model costs here, as a share of what this machine can do.

use super::{Outcome, bench_report::peaks_text, load, load_files, resolve_device};
use crate::{
    args::{BenchArgs, BenchWhat},
    diagnostics::{Error, Result, Stdout, Terminal},
    resolve,
};
use oc_engine::{DEFAULT_BATCH_SIZE, Device, Engine, EngineOptions, Event, ModelFiles, Request, ScoreRequest};
use oc_kernels::{
    Dtype,
    cpu::{CpuBackend, CpuOptions, SimdLevel},
    cuda::{CudaBackend, driver},
    ops::{Cost, MODELS, ModelShape, Peaks, Rng},
};
use serde_json::{Value, json};
use std::{path::Path, time::Instant};

/// C-Eval's five examples, its questions and its answers, in tokens.
const PREFIX: usize = 1100;
const TAIL: usize = 110;
const ANSWER: usize = 16;
/// Choices of a question, and their tokens.
const CHOICES: usize = 4;
const CHOICE: usize = 2;

/// What a [`ModelShape`] leaves out: name, class, layers, longest context, whether embeddings are tied.
const REST: [(&str, &str, usize, usize, bool); 5] = [
    ("SmolLM2-135M", "LlamaForCausalLM", 30, 8192, true),
    ("Qwen2-0.5B", "Qwen2ForCausalLM", 24, 32768, true),
    ("InternLM2-7B", "InternLM2ForCausalLM", 32, 32768, false),
    ("InternLM-7B", "InternLMForCausalLM", 32, 2048, false),
    ("InternLM-20B", "InternLMForCausalLM", 60, 4096, false),
];

/// Runs the command.
///
/// # Errors
/// Bad input, and whatever the engine refuses.
pub fn run(args: &BenchArgs, terminal: &Terminal) -> Result<Outcome> {
    let mut notes = Vec::new();
    let context = args.what.iter().map(|what| args.context(*what)).max();
    let model = resolve::model(&args.model, context, resolve::Environment::read().hub.as_deref(), &mut notes)?;
    notes.iter().for_each(|note| tracing::info!("{note}"));
    let mut model = match (model, &args.shape) {
        (Some(model), _) => Target::Model(Box::new(model)),
        (None, Some(name)) => Target::Shape(name, resolve::options_of(&args.model, context)?),
        (None, None) => return Err(Error::input("no model was given", "name one with --hf-path or --shape")),
    };
    let options = model.options();
    resolve_device(options);
    if options.device == Device::Emulator {
        let hint = "use --device cpu or cuda; `oc-cli bench-kernels --device emulator` counts what kernels do";
        return Err(Error::input("the emulator has no clock", hint));
    }
    let most = args.sequences.iter().copied().max().unwrap_or(1);
    options.max_batch_size = args.model.batch_size.or_else(|| (most > DEFAULT_BATCH_SIZE).then_some(most));
    tracing::info!("measuring the peaks of this machine");
    let peaks = peaks(options)?;
    let mut engine = model.load(terminal)?;
    let mut report = Report { is_json: args.json, peaks, rows: Vec::new() };
    let mut out = Stdout::lock();
    out.print(report.heading(&engine))?;
    for what in &args.what {
        let counts: &[usize] =
            if matches!(what, BenchWhat::Prefill | BenchWhat::Decode) { &args.sequences } else { &[0] };
        for count in counts {
            let row = match what {
                BenchWhat::Prefill | BenchWhat::Decode => sequences(args, &mut engine, *what, *count)?,
                BenchWhat::Gen => generated(args, &mut engine)?,
                BenchWhat::Ppl => scored(args, &mut engine)?,
            };
            out.print(report.row(row))?;
        }
    }
    out.print(report.ending(&engine))?;
    Ok(Outcome::Complete)
}

/// What is measured.
enum Target<'a> {
    Model(Box<resolve::Model>),
    Shape(&'a str, EngineOptions),
}

impl Target<'_> {
    fn options(&mut self) -> &mut EngineOptions {
        match self {
            Self::Model(model) => &mut model.options,
            Self::Shape(_, options) => options,
        }
    }

    fn load(self, terminal: &Terminal) -> Result<Engine> {
        match self {
            Self::Model(model) => Ok(load(&model, terminal)?),
            Self::Shape(name, options) => {
                let (shape, config) = shape(name)?;
                Ok(load_files(ModelFiles::dummy_of(Path::new(shape.name), &config)?, options, terminal)?)
            }
        }
    }
}

/// The shape of this name and its `config.json`.
fn shape(name: &str) -> Result<(&'static ModelShape, Value)> {
    let rest = REST.iter().find(|rest| rest.0.eq_ignore_ascii_case(name));
    let shape = rest.and_then(|rest| MODELS.iter().find(|shape| shape.name == rest.0));
    let (Some((_, class, layers, context, is_tied)), Some(shape)) = (rest, shape) else {
        let names = REST.map(|rest| rest.0).join(", ");
        return Err(Error::input(format!("there is no shape `{name}`"), format!("the shapes are {names}")));
    };
    let config = json!({
        "architectures": [class],
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": shape.heads.num_heads,
        "num_key_value_heads": shape.heads.num_kv_heads,
        "head_dim": shape.heads.head_dim,
        "vocab_size": shape.vocab,
        "max_position_embeddings": context,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": is_tied,
        // What InternLM's own files say; the others have none.
        "bias": *class == "InternLMForCausalLM",
    });
    Ok((shape, config))
}

fn peaks(options: &EngineOptions) -> Result<Peaks> {
    if options.device == Device::Cuda {
        return Ok(CudaBackend::new(driver::open(0)?, options.dtype.unwrap_or(Dtype::Bf16))?.measure_peaks()?);
    }
    let best = if SimdLevel::detect() == SimdLevel::Avx512Bf16 { Dtype::Bf16 } else { Dtype::F32 };
    let dtype = options.dtype.unwrap_or(best);
    Ok(CpuBackend::new(CpuOptions { threads: options.threads.unwrap_or(0), dtype, level: None })?.measure_peaks())
}

impl BenchArgs {
    /// Longest sequence of a measurement.
    fn context(&self, what: BenchWhat) -> usize {
        match what {
            BenchWhat::Prefill | BenchWhat::Decode => self.prompt_tokens + self.new_tokens + 1,
            BenchWhat::Gen => PREFIX + TAIL + ANSWER,
            BenchWhat::Ppl => PREFIX + TAIL + CHOICE,
        }
    }
}

/// One measurement.
struct Row {
    what: &'static str,
    problem: String,
    /// Tokens that count: of prompts or generated; of C-Eval those that a perfect prefix cache computes, and generates.
    tokens: usize,
    seconds: f64,
    /// Of the work that took `seconds`: each pass, and how often.
    passes: Vec<(Cost, f64)>,
}

/// `count` random prompts from their first token, or what is generated after them; the median of several.
fn sequences(args: &BenchArgs, engine: &mut Engine, what: BenchWhat, count: usize) -> Result<Row> {
    let (prompt, new) = (args.prompt_tokens, args.new_tokens);
    let mut laps = Vec::new();
    let mut tokens = 0;
    for lap in 0..args.repeat {
        let mut rng = Rng((count * 1000 + lap + if what == BenchWhat::Decode { 500 } else { 0 }) as u64);
        let prompts: Vec<Vec<u32>> = (0..count).map(|_| random(engine, &mut rng, prompt)).collect();
        let started = Instant::now();
        run_all(engine, requests(&prompts, 1), |_| {})?;
        if what == BenchWhat::Prefill {
            tokens = count * prompt;
            laps.push((started.elapsed().as_secs_f64(), tokens));
            continue;
        }
        // The prompts are cached now, so that all sequences begin together.
        let (mut first, mut begun, mut after, mut last) = (vec![false; count], None, 0, Instant::now());
        run_all(engine, requests(&prompts, new + 1), |request| {
            last = Instant::now();
            match begun {
                Some(_) => after += 1,
                None => {
                    first[request] = true;
                    begun = first.iter().all(|seen| *seen).then_some(last);
                }
            }
        })?;
        let begun = begun.unwrap_or(last);
        tokens = after;
        laps.push(((last - begun).as_secs_f64(), after));
    }
    // Seconds a token: laps of one measurement may count different numbers of tokens.
    laps.sort_by(|a, b| (a.0 / a.1 as f64).total_cmp(&(b.0 / b.1 as f64)));
    let (seconds, _) = laps.remove(laps.len() / 2);
    let (name, pass, times) = match what {
        BenchWhat::Decode => {
            let pass = engine.cost(&vec![(1, prompt + new / 2); count], count);
            ("decode", pass, tokens as f64 / count as f64)
        }
        _ => ("prefill", engine.cost(&vec![(prompt, prompt); count], count), 1.0),
    };
    let problem =
        if name == "decode" { format!("{count} × {new} after {prompt}") } else { format!("{count} × {prompt}") };
    Ok(Row { what: name, problem, tokens, seconds, passes: vec![(pass, times)] })
}

/// All of C-Eval val in its sizes, answers generated.
fn generated(args: &BenchArgs, engine: &mut Engine) -> Result<Row> {
    let requests = requests(&questions(args, engine, 1), ANSWER);
    let (started, mut generated) = (Instant::now(), 0);
    run_all(engine, requests, |_| generated += 1)?;
    let seconds = started.elapsed().as_secs_f64();
    let count = args.subjects * args.questions;
    let mut decode = engine.cost(&vec![(1, PREFIX + TAIL + ANSWER / 2); count], count);
    let once = engine.cost(&[(1, PREFIX)], 0).bytes - engine.cost(&[(1, 0)], 0).bytes;
    decode.bytes -= once * (count - args.subjects) as f64;
    let passes = vec![(prompts_cost(args, engine, count), 1.0), (decode, (ANSWER - 1) as f64)];
    Ok(Row { what: "gen", problem: problem(args), tokens: prompt_tokens(args) + generated, seconds, passes })
}

/// All of C-Eval val in its sizes, every choice scored with all that stands before it.
fn scored(args: &BenchArgs, engine: &mut Engine) -> Result<Row> {
    let mut rng = Rng(3);
    let contexts = questions(args, engine, 2);
    let choices = |rng: &mut Rng, engine: &Engine| (0..CHOICES).map(|_| random(engine, rng, CHOICE)).collect();
    let requests: Vec<ScoreRequest> = contexts
        .into_iter()
        .map(|context| ScoreRequest { context, continuations: choices(&mut rng, engine), context_logprobs: true })
        .collect();
    let started = Instant::now();
    engine.score(requests)?;
    let seconds = started.elapsed().as_secs_f64();
    // Of a choice all tokens but the last are computed.
    let extra = args.subjects * args.questions * CHOICES * (CHOICE - 1);
    let tokens = prompt_tokens(args) + extra;
    let mut pass = prompts_cost(args, engine, tokens);
    let choice = engine.cost(&[(1, PREFIX + TAIL + 1)], 0).flops;
    pass.flops += choice * extra as f64;
    Ok(Row { what: "ppl", problem: problem(args), tokens, seconds, passes: vec![(pass, 1.0)] })
}

fn problem(args: &BenchArgs) -> String {
    format!("{} × ({PREFIX} + {} × {TAIL})", args.subjects, args.questions)
}

/// Tokens of prompts, each prefix once.
fn prompt_tokens(args: &BenchArgs) -> usize {
    args.subjects * (PREFIX + args.questions * TAIL)
}

/// One pass over all prompts, each prefix once.
fn prompts_cost(args: &BenchArgs, engine: &Engine, outputs: usize) -> Cost {
    let mut passes = vec![(PREFIX, PREFIX); args.subjects];
    passes.extend(vec![(TAIL, PREFIX + TAIL); args.subjects * args.questions]);
    engine.cost(&passes, outputs)
}

/// The prompts of all questions, subject by subject.
fn questions(args: &BenchArgs, engine: &Engine, seed: u64) -> Vec<Vec<u32>> {
    let mut rng = Rng(seed);
    let mut prompts = Vec::with_capacity(args.subjects * args.questions);
    for _ in 0..args.subjects {
        let prefix = random(engine, &mut rng, PREFIX);
        for _ in 0..args.questions {
            prompts.push([&prefix[..], &random(engine, &mut rng, TAIL)].concat());
        }
    }
    prompts
}

fn random(engine: &Engine, rng: &mut Rng, len: usize) -> Vec<u32> {
    (0..len).map(|_| rng.below(engine.config().vocab_size) as u32).collect()
}

fn requests(prompts: &[Vec<u32>], new_tokens: usize) -> Vec<Request> {
    let request = |prompt: &Vec<u32>| Request { ignore_eos: true, ..Request::new(prompt.clone(), new_tokens) };
    prompts.iter().map(request).collect()
}

/// Answers all requests; `on_token` is told whose token has come.
fn run_all(engine: &mut Engine, requests: Vec<Request>, mut on_token: impl FnMut(usize)) -> Result<()> {
    for event in engine.stream(requests)? {
        if let Event::Token { request, .. } = event? {
            on_token(request);
        }
    }
    Ok(())
}

/// The table, or the JSON document.
struct Report {
    is_json: bool,
    peaks: Peaks,
    rows: Vec<Value>,
}

impl Report {
    fn heading(&self, engine: &Engine) -> String {
        if self.is_json {
            return String::new();
        }
        let (plan, dtype) = (engine.memory_plan(), &engine.fingerprint().dtype);
        format!(
            "{}, {dtype}: weights {} MiB, KV cache {} KiB a token\n{}\n\n{:<8} {:<28} {:>8} {:>9} {:>10} {:>9}\n",
            engine.device_name(),
            plan.weights >> 20,
            (plan.kv_cache / plan.kv_tokens.max(1)) >> 10,
            peaks_text(&self.peaks),
            "",
            "problem",
            "tokens",
            "seconds",
            "tokens/s",
            "of floor"
        )
    }

    fn row(&mut self, row: Row) -> String {
        let floor: f64 = row.passes.iter().map(|(cost, times)| self.peaks.floor(cost, true).0 * times).sum();
        let Row { what, problem, tokens, seconds, .. } = row;
        let (rate, share) = (tokens as f64 / seconds, floor / seconds);
        self.rows.push(json!({
            "what": what, "problem": problem, "tokens": tokens, "seconds": seconds, "tokens_per_second": rate,
            "floor_seconds": floor, "of_floor": share,
        }));
        if self.is_json {
            return String::new();
        }
        let share = 100.0 * share;
        format!("{what:<8} {problem:<28} {tokens:>8} {seconds:>9.3} {rate:>10.1} {share:>7.0} %\n")
    }

    fn ending(&self, engine: &Engine) -> String {
        let plan = engine.memory_plan();
        let planned = plan.weights + plan.kv_cache + plan.workspace;
        let peak = peak_memory();
        if !self.is_json {
            let peak = peak.map_or("unknown".into(), |bytes| format!("{} MiB", bytes >> 20));
            let gpu =
                engine.device_bytes_used().map_or(String::new(), |bytes| format!(", of the GPU {} MiB", bytes >> 20));
            return format!("\npeak memory of the process {peak}{gpu}; planned for the model {} MiB\n", planned >> 20);
        }
        let Peaks { f32_gflops, bf16_gflops, int8_gops, read_gbps, .. } = self.peaks;
        // JSON has no infinity: what a GPU is not asked for is null.
        let document = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "device": engine.device_name(),
            "dtype": engine.fingerprint().dtype,
            "peaks": { "f32_gflops": f32_gflops, "bf16_gflops": bf16_gflops, "int8_gops": int8_gops, "read_gbps": read_gbps },
            "weight_bytes": plan.weights,
            "kv_bytes_per_token": plan.kv_cache / plan.kv_tokens.max(1),
            "planned_bytes": planned,
            "peak_bytes": peak,
            "device_peak_bytes": engine.device_bytes_used(),
            "rows": self.rows,
        });
        format!("{document:#}\n")
    }
}

/// Most memory that this process has had, in bytes; `None` where the system does not say.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
