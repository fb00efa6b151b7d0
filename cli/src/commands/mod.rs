//! One file per subcommand.

pub mod bench_kernels;
mod bench_report;
pub mod convert;
mod engine_model;
pub mod eval;
pub mod generate;
pub mod inspect;
pub mod list_configs;
pub mod prompt;
pub mod pull;

use crate::{diagnostics::Terminal, progress, resolve};
use oc_engine::Engine;
use std::time::Instant;

/// How a command ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything asked for was done.
    Complete,
    /// It ran to its end, but something has no score, or a wrong one; stderr says what.
    WithFailures,
}

/// Loads a model, showing how far it is.
fn load(model: &resolve::Model, terminal: &Terminal) -> oc_engine::Result<Engine> {
    let started = Instant::now();
    let name = model.path.file_name().unwrap_or(model.path.as_os_str()).display().to_string();
    let bar = progress::loading(terminal, &name);
    let engine = Engine::load_with_progress(&model.path, model.options.clone(), |done, total| {
        if let Some(bar) = &bar {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        }
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let engine = engine?;
    let dtype = &engine.fingerprint().dtype;
    let seconds = started.elapsed().as_secs_f64();
    tracing::info!("loaded {name} in {seconds:.1} s: {dtype} on {}", engine.device_name());
    let plan = engine.memory_plan();
    tracing::debug!(
        "memory: weights {} MiB, KV cache {} MiB ({} tokens), workspace {} MiB",
        plan.weights >> 20,
        plan.kv_cache >> 20,
        plan.kv_tokens,
        plan.workspace >> 20
    );
    let (wanted, trained) = (engine.max_seq_len(), engine.config().max_position_embeddings);
    if model.options.max_seq_len.is_some() && wanted > trained {
        tracing::warn!("contexts of up to {wanted} tokens are allowed, but {name} was trained for {trained}");
    }
    Ok(engine)
}
