//! One file per subcommand.

pub mod bench;
pub mod bench_kernels;
mod bench_report;
pub mod convert;
pub mod doctor;
mod engine_model;
pub mod eval;
pub mod generate;
pub mod inspect;
pub mod list_configs;
pub mod prompt;
pub mod pull;

use crate::{diagnostics::Terminal, progress, resolve};
use oc_engine::{Device, DeviceChoice, Engine, EngineOptions, InputProcessor, LoadFormat, ModelFiles, Replicas};
use std::time::Instant;

/// How a command ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything asked for was done.
    Complete,
    /// It ran to its end, but something has no score, or a wrong one; stderr says what.
    WithFailures,
}

/// Loads a model once, showing how far it is.
fn load(model: &resolve::Model, terminal: &Terminal) -> oc_engine::Result<Engine> {
    let options = cut(model)?;
    if options.device != Device::Cpu && model.gpus.count > options.tensor_parallel {
        tracing::warn!("this command loads a model once: on {} GPU of {}", options.tensor_parallel, model.gpus.count);
    }
    load_on(model, options, terminal)
}

/// Loads a model on as many GPUs as it is to run on: as often as it fits.
fn load_replicas(model: &resolve::Model, terminal: &Terminal) -> oc_engine::Result<Replicas> {
    let options = cut(model)?;
    let cut = options.tensor_parallel;
    let groups = if options.device == Device::Cpu { 1 } else { model.gpus.count / cut };
    let load = |group| load_on(model, EngineOptions { gpu: group * cut, ..options.clone() }, terminal);
    Ok(Replicas::new((0..groups).map(load).collect::<oc_engine::Result<_>>()?))
}

/// The options of a model, with its device and over how many GPUs it is cut.
fn cut(model: &resolve::Model) -> oc_engine::Result<EngineOptions> {
    let mut options = model.options.clone();
    resolve_device(&mut options);
    let resolve::Gpus { count, cut } = model.gpus;
    if cut.is_none() && count > 1 {
        options.tensor_parallel = Engine::fewest_gpus(&open(model)?, &options, count)?;
        if options.tensor_parallel > 1 {
            tracing::info!("the model is cut over {} GPUs: it does not fit fewer", options.tensor_parallel);
        }
    }
    Ok(options)
}

fn open(model: &resolve::Model) -> oc_engine::Result<ModelFiles> {
    match model.options.load_format {
        LoadFormat::Auto => ModelFiles::open(&model.path),
        LoadFormat::Dummy => ModelFiles::dummy(&model.path),
    }
}

fn load_on(model: &resolve::Model, options: EngineOptions, terminal: &Terminal) -> oc_engine::Result<Engine> {
    if options.load_format == LoadFormat::Dummy {
        tracing::warn!("{} gets random weights: its answers mean nothing", model.path.display());
    }
    let engine = load_files(open(model)?, options, terminal)?;
    warn_of_length(model, engine.input());
    Ok(engine)
}

/// What a model makes of text: for prompts alone its weights need not fit anywhere.
fn input_of(model: &resolve::Model) -> oc_engine::Result<InputProcessor> {
    let input = InputProcessor::of_model(&open(model)?, &model.options)?;
    warn_of_length(model, &input);
    Ok(input)
}

fn warn_of_length(model: &resolve::Model, input: &InputProcessor) {
    let (wanted, trained) = (input.max_seq_len(), input.config().max_position_embeddings);
    if model.options.max_seq_len.is_some() && wanted > trained {
        let name = model.path.display();
        tracing::warn!("contexts of up to {wanted} tokens are allowed, but {name} was trained for {trained}");
    }
}

/// The device that `--device auto` means here, said in a log line.
fn resolve_device(options: &mut EngineOptions) {
    if options.device == Device::Auto {
        let choice = DeviceChoice::auto(options.dtype);
        if choice.is_degraded {
            tracing::warn!("computing on the processor: {} (`oc-cli doctor` says more)", choice.reason);
        } else {
            tracing::debug!("--device auto takes {:?}: {}", choice.device, choice.reason);
        }
        options.device = choice.device;
    }
}

/// Loads a model from open files, showing how far it is.
fn load_files(files: ModelFiles, mut options: EngineOptions, terminal: &Terminal) -> oc_engine::Result<Engine> {
    let started = Instant::now();
    let path = files.path();
    let name = path.file_name().unwrap_or(path.as_os_str()).display().to_string();
    resolve_device(&mut options);
    let bar = progress::loading(terminal, &name);
    let engine = Engine::from_files(files, options, &mut |done, total| {
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
    Ok(engine)
}
