//! Generates from and scores with a model: `cargo run --release -p oc-engine --example embed -- model.gguf`.

use oc_engine::{Engine, EngineOptions, Request, ScoreRequest};

fn main() -> oc_engine::Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "models/smollm2-135m-instruct.q4_1.gguf".into());
    let mut engine = Engine::load(path, EngineOptions { max_seq_len: Some(1024), ..EngineOptions::default() })?;

    let prompt = engine.tokenizer().encode("The capital of France is", true)?;
    let output = engine.generate(vec![Request::new(prompt.clone(), 8)])?.remove(0);
    println!("generated: {:?}", output.text);

    let cities = [" Paris", " London", " a city"];
    let continuations = cities.iter().map(|city| engine.tokenizer().encode(city, false)).collect::<Result<_, _>>()?;
    let request = ScoreRequest { context: prompt, continuations, context_logprobs: false };
    for (city, logprobs) in cities.iter().zip(&engine.score(vec![request])?[0].continuations) {
        println!("log p({city:?}) = {:.3}", logprobs.iter().sum::<f32>());
    }
    Ok(())
}
