//! Whole-model speed, in the terms of `llama-bench`: prefill and decode tokens per second, medians.
//!
//!     cargo bench -p oc-benches --bench forward -- MODEL [--dtype bf16|f32|int8] [--prompt 512] [--generate 64] [--repeat 5]

use oc_engine::{Dtype, Engine, EngineOptions, Request};
use std::time::Instant;

/// Sequences that generate side by side over one shared prompt.
const BATCHES: [usize; 3] = [1, 4, 16];

struct Settings {
    model: String,
    dtype: Option<Dtype>,
    prompt: usize,
    generate: usize,
    repeat: usize,
}

impl Settings {
    fn parse() -> Result<Self, String> {
        let mut settings = Self { model: String::new(), dtype: None, prompt: 512, generate: 64, repeat: 5 };
        // Cargo adds `--bench`.
        let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value"));
            let number = |text: String| text.parse().map_err(|_| format!("{text} is no number"));
            match arg.as_str() {
                "--dtype" => {
                    let name = value()?;
                    let known = [Dtype::F32, Dtype::Bf16, Dtype::Int8];
                    let dtype = known.into_iter().find(|dtype| dtype.name() == name);
                    settings.dtype = Some(dtype.ok_or(format!("unknown dtype {name}"))?);
                }
                "--prompt" => settings.prompt = number(value()?)?,
                "--generate" => settings.generate = number(value()?)?,
                "--repeat" => settings.repeat = number(value()?)?,
                _ => settings.model = arg,
            }
        }
        if settings.model.is_empty() { Err("name a model".into()) } else { Ok(settings) }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn run(settings: &Settings) -> oc_engine::Result<()> {
    let options = EngineOptions {
        dtype: settings.dtype,
        max_seq_len: Some(settings.prompt + settings.generate + 64),
        ..EngineOptions::default()
    };
    let mut engine = Engine::load(&settings.model, options)?;
    let name = settings.model.rsplit('/').next().unwrap_or(&settings.model).to_owned();
    println!("{name}: {} on {}", engine.fingerprint().dtype, engine.device_name());
    // The first token differs every time, so nothing is found in the prefix cache.
    let mut fresh = 0;
    let mut prompt = |len: usize| -> Vec<u32> {
        fresh += 1;
        (0..len as u32).map(|i| 1000 + fresh + (i * 7919) % 20_000).collect()
    };
    let seconds = (0..settings.repeat).map(|_| {
        let request = Request::new(prompt(settings.prompt), 1);
        let start = Instant::now();
        engine.generate(vec![request])?;
        Ok(start.elapsed().as_secs_f64())
    });
    let seconds = median(seconds.collect::<oc_engine::Result<_>>()?);
    println!("prefill {} tokens: {:.1} tokens/s", settings.prompt, settings.prompt as f64 / seconds);
    for batch in BATCHES {
        let mut rates = Vec::new();
        for _ in 0..settings.repeat {
            let shared = prompt(settings.prompt);
            engine.generate(vec![Request::new(shared.clone(), 1)])?;
            let request = Request { ignore_eos: true, ..Request::new(shared, settings.generate) };
            let mut first = None;
            for event in engine.stream(vec![request; batch])? {
                event?;
                first.get_or_insert_with(Instant::now);
            }
            let elapsed = first.map_or(0.0, |first| first.elapsed().as_secs_f64());
            rates.push((batch * (settings.generate - 1)) as f64 / elapsed);
        }
        println!("decode, {batch} at once after {} tokens: {:.1} tokens/s", settings.prompt, median(rates));
    }
    Ok(())
}

fn main() {
    let outcome = Settings::parse().and_then(|settings| run(&settings).map_err(|e| e.to_string()));
    if let Err(message) = outcome {
        eprintln!("error: {message}");
        std::process::exit(2);
    }
}
