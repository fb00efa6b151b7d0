//! Raw arguments → fully resolved settings: after this nobody reads flags, the environment or the clock.

use crate::{
    args::{EvalArgs, ModelArgs, QuestionArgs, RunArgs},
    config::{self, Configuration, Entry, ModelFolders},
    diagnostics::{Error, Result},
    hub, kwargs,
};
use oc_engine::{DEFAULT_BATCH_SIZE, Device, Dtype, EngineOptions};
use oc_eval::{EvalConfig, ModelConfig, Resume, Stage, Summarizer, model_abbr, models, names};
use std::path::{Path, PathBuf};

/// A model and how to load it.
#[derive(Debug)]
pub struct Model {
    /// A `.gguf` file or a folder.
    pub path: PathBuf,
    /// How to load it.
    pub options: EngineOptions,
    /// How many GPUs share the questions.
    pub gpus: Gpus,
    /// For the record.
    pub config: ModelConfig,
}

/// The GPUs that a model runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gpus {
    /// How many there are.
    pub count: usize,
    /// Over how many of them the model is cut, which divides `count`; `None`: as few as it needs.
    pub cut: Option<usize>,
}

/// One model of an evaluation.
#[derive(Debug)]
pub struct Evaluation {
    /// The evaluation.
    pub config: EvalConfig,
    /// The model; else why there is none.
    pub model: Result<Model>,
}

/// What `eval` and `prompt` work on.
#[derive(Debug)]
pub struct Job {
    /// One for each model, which differ in nothing else.
    pub evaluations: Vec<Evaluation>,
    /// The configuration file, where one was given.
    pub configuration: Option<Configuration>,
}

impl Job {
    /// Adds the place in the configuration that an error is about.
    pub fn locate(&self, error: oc_eval::Error) -> Error {
        match &self.configuration {
            Some(configuration) => configuration.locate(error),
            None => error.into(),
        }
    }
}

/// What of the environment decides settings.
#[derive(Debug, Default)]
pub struct Environment {
    /// `COMPASS_DATA_CACHE`.
    pub data_cache: Option<PathBuf>,
    /// The cache of the Hugging Face hub: `HF_HUB_CACHE`, `hub` in `HF_HOME`, or the usual place.
    pub hub: Option<PathBuf>,
    /// Local time, `YYYYmmdd_HHMMSS`.
    pub now: Option<String>,
}

impl Environment {
    /// Of this process.
    pub fn read() -> Self {
        let path = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self {
            data_cache: path("COMPASS_DATA_CACHE"),
            hub: hub::Settings::read().cache,
            now: Some(jiff::ZonedDateTime::now().strftime("%Y%m%d_%H%M%S").to_string()),
        }
    }
}

/// Settings of `eval` and `prompt`. What is worth knowing about an argument goes to `notes`.
///
/// # Errors
/// Arguments that make no sense, and a configuration that cannot be read. Weights that are not there are no error yet.
pub fn job(args: &EvalArgs, env: Environment, notes: &mut Vec<String>) -> Result<Job> {
    note_ineffective(&args.run, notes);
    let mut configuration = args.config.as_deref().map(Configuration::read).transpose()?;
    let entries = match &mut configuration {
        Some(configuration) => {
            notes.append(&mut configuration.notes);
            configuration.models.clone()
        }
        None => {
            let mut entries = Vec::new();
            for name in &args.models {
                entries.extend(match config::named_models(&args.config_dir, name, notes)? {
                    Some(own) => own,
                    None => vec![shortcut(name, notes)?],
                });
            }
            entries
        }
    };
    if configuration.is_none() {
        configuration = own_datasets(args, notes)?;
    }
    if entries.is_empty() {
        let mut evaluation = by_flags(args, &env, notes)?;
        if let Some(configuration) = &configuration {
            configured(&mut evaluation.config, configuration, args);
        }
        return Ok(Job { evaluations: vec![evaluation], configuration });
    }
    note_overridden(args, notes);
    let mut evaluations: Vec<Evaluation> = Vec::new();
    for entry in &entries {
        let evaluation = by_dictionary(args, &env, entry, notes)?;
        let abbr = &evaluation.config.model.abbr;
        if evaluations.iter().any(|other| other.config.model.abbr == *abbr) {
            return Err(entry.error(format!("two models are called {abbr}"), "give each an `abbr` of its own"));
        }
        evaluations.push(evaluation);
    }
    if let Some(configuration) = &configuration {
        for Evaluation { config, .. } in &mut evaluations {
            configured(config, configuration, args);
            if let (None, Some(summarizer)) = (&args.run.summarizer, &configuration.summarizer) {
                config.summarizer = Summarizer::parse(summarizer)?;
            }
        }
    }
    Ok(Job { evaluations, configuration })
}

/// Sets what a configuration says beside its models; flags win.
fn configured(config: &mut EvalConfig, configuration: &Configuration, args: &EvalArgs) {
    config.datasets.clear();
    config.dataset_configs = configuration.datasets.iter().map(|entry| entry.dict.clone()).collect();
    if let (None, Some(dir)) = (&args.run.work_dir, &configuration.work_dir) {
        config.work_dir.clone_from(dir);
    }
    let questions = &configuration.questions;
    if args.questions.data_dir.is_none() && questions.data_dir.is_some() {
        config.data_dir.clone_from(&questions.data_dir);
    }
    if config.subjects.is_empty() {
        config.subjects.clone_from(&questions.subjects);
    }
    config.limit = config.limit.or(questions.limit);
    config.strict_braces |= questions.strict_braces;
}

/// The datasets of `--datasets`, where one of them is a configuration of the user's.
fn own_datasets(args: &EvalArgs, notes: &mut Vec<String>) -> Result<Option<Configuration>> {
    let names = &args.questions.datasets;
    let mut own = Vec::with_capacity(names.len());
    for name in names {
        own.push(config::named_datasets(&args.config_dir, name, notes)?);
    }
    if own.iter().all(Option::is_none) {
        return Ok(None);
    }
    let mut entries = Vec::new();
    for (name, own) in names.iter().zip(own) {
        match own {
            Some(own) => entries.extend(own),
            None => entries.extend(config::built_in_datasets(name, name, notes)?),
        }
    }
    Ok(Some(Configuration { datasets: entries, ..Configuration::default() }))
}

/// The registered model of this name, or the first that a pattern matches.
fn shortcut(name: &str, notes: &mut Vec<String>) -> Result<Entry> {
    let pattern = name.strip_suffix(".py").unwrap_or(name);
    let mut matching: Vec<&str> = models::all().map(|model| model.name).collect();
    matching.retain(|known| names::matches(pattern, known));
    matching.sort_unstable();
    if matching.len() > 1 {
        notes.push(format!("`{name}` matches {}; the first is taken, as in OpenCompass", matching.join(", ")));
    }
    match models::find(matching.first().unwrap_or(&name)) {
        Ok(model) => Ok(Entry { dict: model.config(), place: name.to_owned() }),
        Err(near) => Err(Error::input(
            format!("unknown model `{name}`{}", names::did_you_mean(&near)),
            "`oc-cli list-configs` lists the names; other models are given by --hf-path or a configuration file",
        )),
    }
}

/// What does not depend on the model.
fn common(args: &EvalArgs, env: &Environment) -> Result<EvalConfig> {
    let QuestionArgs { datasets, data_dir, subjects, limit, .. } = &args.questions;
    let default = EvalConfig::default();
    Ok(EvalConfig {
        stage: stage(&args.run)?,
        summarizer: args.run.summarizer.as_deref().map(Summarizer::named).transpose()?.unwrap_or_default(),
        datasets: datasets.clone(),
        data_dir: find_data(data_dir.as_deref(), env.data_cache.as_deref()),
        work_dir: args.run.work_dir.clone().unwrap_or(default.work_dir.clone()),
        strict_braces: args.questions.strict_braces,
        subjects: subjects.clone(),
        limit: *limit,
        resume: args.run.reuse.as_ref().map(|run| match run.as_str() {
            "latest" => Resume::Latest,
            run => Resume::Run(run.to_owned()),
        }),
        dry_run: args.run.dry_run,
        dump_eval_details: args.run.dump_eval_details,
        timestamp: env.now.clone(),
        ..default
    })
}

/// The model of `--hf-path`.
fn by_flags(args: &EvalArgs, env: &Environment, notes: &mut Vec<String>) -> Result<Evaluation> {
    let QuestionArgs { hf_type, meta_template, max_seq_len, max_out_len, stop_words, generation_kwargs, .. } =
        &args.questions;
    let sampling = kwargs::generation(generation_kwargs, notes)?;
    let max_out_len = max_out_len.unwrap_or(EvalConfig::default().max_out_len);
    // The output comes on top of the prompt's limit, as in OpenCompass.
    let context = max_seq_len.map(|len| len + max_out_len);
    // Scoring needs the model's name, not its weights.
    let (model, record) = if stage(&args.run)?.infers() {
        let model = model(&args.model, context, env.hub.as_deref(), notes)?;
        let record = model.as_ref().map(|model| model.config.clone());
        (model, record.unwrap_or_default())
    } else {
        let path = args.model.hf_path.as_ref().ok_or_else(no_model)?;
        (None, record(&args.model, path, notes)?)
    };
    let config = EvalConfig {
        model: record,
        hf_type: hf_type.map(Into::into).unwrap_or_default(),
        meta_template: meta_template.clone(),
        max_seq_len: *max_seq_len,
        max_out_len,
        pad_token_id: args.run.pad_token_id.map(i64::from),
        batch_size: args.model.batch_size.unwrap_or(DEFAULT_BATCH_SIZE),
        stop_words: stop_words.clone(),
        temperature: sampling.temperature,
        top_k: sampling.top_k,
        top_p: sampling.top_p,
        seed: sampling.seed,
        ..common(args, env)?
    };
    Ok(Evaluation { config, model: model.ok_or_else(no_model) })
}

/// A model of a configuration or of the registry.
fn by_dictionary(args: &EvalArgs, env: &Environment, entry: &Entry, notes: &mut Vec<String>) -> Result<Evaluation> {
    let folders = ModelFolders { models_dir: Some(args.models_dir.clone()), hub: env.hub.clone() };
    let settings = config::settings(entry, &folders, args.model.dtype.is_some(), notes)?;
    let context = settings.max_seq_len.map(|len| len + settings.max_out_len);
    let mut options = options(&args.model, settings.dtype, settings.device, context)?;
    // What the dictionary says is a bound of OpenCompass's memory, not of ours.
    let settings_bound = Some(settings.batch_size).filter(|size| *size > DEFAULT_BATCH_SIZE);
    options.max_batch_size = args.model.batch_size.or(settings_bound);
    options.tokenizer_path = settings.tokenizer_path.clone();
    options.eos_token_ids.clone_from(&settings.eos_token_ids);
    let config = EvalConfig {
        model: settings.config.clone(),
        hf_type: settings.hf_type,
        meta_template_config: settings.meta_template,
        max_seq_len: settings.max_seq_len,
        truncation: settings.truncation,
        is_causal_lm: settings.is_causal_lm,
        has_batch_padding: settings.has_batch_padding,
        max_out_len: settings.max_out_len,
        min_out_len: settings.min_out_len,
        pad_token_id: settings.pad_token_id,
        pred_postprocessor: settings.pred_postprocessor,
        // `--batch-size` bounds the engine; what OpenCompass's batches decide, only the dictionary does.
        batch_size: settings.batch_size,
        stop_words: settings.stop_words,
        eos_token_ids: settings.eos_token_ids,
        temperature: settings.sampling.temperature,
        top_k: settings.sampling.top_k,
        top_p: settings.sampling.top_p,
        seed: settings.sampling.seed,
        ..common(args, env)?
    };
    if args.model.num_gpus.is_none() && settings.config.num_gpus > 1 {
        let count = settings.config.num_gpus;
        notes
            .push(format!("num_gpus = {count} of the configuration is only recorded: --num-gpus {count} uses so many"));
    }
    let gpus = gpus(&args.model)?;
    let model = settings.path.map(|path| Model { path, options, gpus, config: settings.config });
    Ok(Evaluation { config, model })
}

/// Flags that a configuration, or a model's row of the registry, decides instead: as in OpenCompass.
fn note_overridden(args: &EvalArgs, notes: &mut Vec<String>) {
    let (questions, model) = (&args.questions, &args.model);
    let by_model = [
        ("--hf-path", model.hf_path.is_some()),
        ("--tokenizer-path", model.tokenizer_path.is_some()),
        ("--model-kwargs", !model.model_kwargs.is_empty()),
        ("--tokenizer-kwargs", !model.tokenizer_kwargs.is_empty()),
        ("--generation-kwargs", !questions.generation_kwargs.is_empty()),
        ("--hf-type", questions.hf_type.is_some()),
        ("--meta-template", questions.meta_template.is_some()),
        ("--max-seq-len", questions.max_seq_len.is_some()),
        ("--max-out-len", questions.max_out_len.is_some()),
        ("--stop-words", !questions.stop_words.is_empty()),
    ];
    let by_file = [("--models", !args.models.is_empty()), ("--datasets", !questions.datasets.is_empty())];
    let given = |(flag, is_given): &(&'static str, bool)| is_given.then_some(*flag);
    let mut flags: Vec<&str> = by_model.iter().filter_map(given).collect();
    if args.config.is_some() {
        flags.extend(by_file.iter().filter_map(given));
    }
    if !flags.is_empty() {
        let who = if args.config.is_some() { "the configuration file decides" } else { "--models decides" };
        notes.push(format!("{} without effect, as in OpenCompass: {who}", flags.join(", ")));
    }
}

/// The model that the arguments name, if they name one. `max_seq_len`: prompt and output together; `cache`: where models
/// of the hub are.
///
/// # Errors
/// Unknown keys, contradictions, and a path that does not exist.
pub fn model(
    args: &ModelArgs,
    max_seq_len: Option<usize>,
    cache: Option<&Path>,
    notes: &mut Vec<String>,
) -> Result<Option<Model>> {
    let kwargs = kwargs::model(&args.model_kwargs, notes)?;
    let options = options(args, kwargs.dtype, kwargs.device, max_seq_len)?;
    let Some(given) = &args.hf_path else {
        kwargs::tokenizer(&args.tokenizer_kwargs, notes)?;
        return Ok(None);
    };
    let path = exists("--hf-path", given, cache)?;
    let tokenizer = args.tokenizer_path.as_ref();
    let tokenizer_path = tokenizer.map(|given| exists("--tokenizer-path", given, cache)).transpose()?;
    // The tutorial gives the model's own folder, where a GGUF file or folder is found anyway.
    let options = EngineOptions { tokenizer_path: tokenizer_path.filter(|tokenizer| *tokenizer != path), ..options };
    // What is worth knowing of its arguments was said above.
    let config = record(args, given, &mut Vec::new())?;
    kwargs::tokenizer(&args.tokenizer_kwargs, notes)?;
    Ok(Some(Model { path, options, gpus: gpus(args)?, config }))
}

/// The GPUs that were asked for. What OpenCompass's own configurations say is what a model needs there, and only recorded.
///
/// # Errors
/// A model cut over a number that does not divide theirs.
fn gpus(args: &ModelArgs) -> Result<Gpus> {
    let cut = args.tensor_parallel_size;
    let count = args.num_gpus.filter(|count| *count > 0).or(cut).unwrap_or(1);
    match cut {
        Some(size) if !count.is_multiple_of(size) => Err(Error::input(
            format!("--tensor-parallel-size {size} does not divide --num-gpus {count}"),
            format!("every copy of the model takes {size} GPUs: use a multiple of {size}, or another size"),
        )),
        cut => Ok(Gpus { count, cut }),
    }
}

/// How to load a model that is not among the arguments. `max_seq_len`: prompt and output together.
///
/// # Errors
/// Unknown keys and contradictions.
pub fn options_of(args: &ModelArgs, max_seq_len: Option<usize>) -> Result<EngineOptions> {
    let kwargs = kwargs::model(&args.model_kwargs, &mut Vec::new())?;
    options(args, kwargs.dtype, kwargs.device, max_seq_len)
}

/// What is written down of the model at `path`.
fn record(args: &ModelArgs, path: &str, notes: &mut Vec<String>) -> Result<ModelConfig> {
    Ok(ModelConfig {
        abbr: model_abbr(path),
        path: path.to_owned(),
        tokenizer_path: args.tokenizer_path.clone(),
        model_kwargs: kwargs::model(&args.model_kwargs, notes)?.raw,
        tokenizer_kwargs: kwargs::tokenizer(&args.tokenizer_kwargs, notes)?,
        num_gpus: args.num_gpus.unwrap_or(0),
        dict: None,
    })
}

/// How to load a model. `dtype`, `device`: what its `model_kwargs` say.
fn options(
    args: &ModelArgs,
    dtype: Option<Dtype>,
    device: Option<Device>,
    max_seq_len: Option<usize>,
) -> Result<EngineOptions> {
    let dtype = match (args.dtype.and_then(|dtype| dtype.dtype()), dtype) {
        (Some(flag), Some(kwarg)) if flag != kwarg => {
            return Err(Error::input(
                format!("--dtype {} contradicts torch_dtype={} in --model-kwargs", flag.name(), kwarg.name()),
                "leave one of the two out",
            ));
        }
        (flag, kwarg) => flag.or(kwarg),
    };
    let device = match (Device::from(args.device), device) {
        (Device::Auto, Some(device)) => device,
        (device, Some(kwarg)) if device != kwarg => {
            return Err(Error::input(
                "--device contradicts device_map in --model-kwargs",
                "leave one of the two out; device_map='auto' goes with every device",
            ));
        }
        (device, _) => device,
    };
    let default = EngineOptions::default();
    Ok(EngineOptions {
        load_format: args.load_format.into(),
        device,
        dtype,
        threads: args.threads,
        max_seq_len,
        max_batch_size: args.batch_size,
        kv_cache_bytes: args.kv_cache_mib.map(|mib| mib << 20),
        prefix_cache: !args.no_prefix_cache,
        cuda_graphs: !args.enforce_eager,
        async_scheduling: !args.no_async_scheduling,
        tensor_parallel: gpus(args)?.cut.unwrap_or(1),
        ..default
    })
}

/// The error of a command that needs a model and was given none.
pub fn no_model() -> Error {
    Error::input("no model was given", "name a .gguf file or a Hugging Face folder with --hf-path")
}

/// The file or folder that an argument names, by its path or, `org/name`, by its name on the hub.
///
/// # Errors
/// There is none.
pub fn exists(flag: &str, given: &str, cache: Option<&Path>) -> Result<PathBuf> {
    let path = PathBuf::from(given);
    if path.exists() {
        return Ok(path);
    }
    if !hub::is_name(given) {
        let hint = "give a .gguf file, or a folder with config.json, safetensors and tokenizer.json";
        return Err(Error::input(format!("{flag} {given}: no such file or folder"), hint));
    }
    if let Some(cached) = cache.and_then(|cache| hub::find(cache, given)) {
        return Ok(cached);
    }
    let place = cache.map_or(String::new(), |cache| format!(", nor a model in {}", cache.display()));
    let hint = format!("nothing is downloaded unasked: `oc-cli pull {given}` fetches it");
    Err(Error::input(format!("{flag} {given}: no such file or folder{place}"), hint))
}

fn stage(run: &RunArgs) -> Result<Stage> {
    let all = [Stage::All, Stage::Infer, Stage::Eval, Stage::Viz];
    let stage = all.into_iter().find(|stage| stage.name() == run.mode);
    stage.ok_or_else(|| Error::input(format!("unknown mode `{}`", run.mode), "the modes are all, infer, eval and viz"))
}

fn note_ineffective(run: &RunArgs, notes: &mut Vec<String>) {
    let mut note = |flag: &str, is_given: bool, why: &str| {
        if is_given {
            notes.push(format!("{flag} has no effect: {why}"));
        }
    };
    note("--min-out-len", run.min_out_len.is_some_and(|n| n > 1), "nor has it in OpenCompass");
    let one_process = "one process does all the work; see --threads";
    note("--max-num-workers", run.max_num_workers.is_some_and(|n| n > 1), one_process);
    note("--max-workers-per-gpu", run.max_workers_per_gpu.is_some_and(|n| n > 1), one_process);
}

/// Where the data is: as given, else in `data` below OpenCompass's cache folder or here, where there is any.
fn find_data(given: Option<&Path>, cache: Option<&Path>) -> Option<PathBuf> {
    if let Some(given) = given {
        return Some(given.to_owned());
    }
    let candidates = cache.map(|cache| cache.join("data")).into_iter().chain([PathBuf::from("data")]);
    candidates.into_iter().find(|dir| holds_data(dir))
}

fn holds_data(dir: &Path) -> bool {
    let is_archive =
        |name: &str| name == "ceval-exam.zip" || (name.starts_with("OpenCompassData-core-") && name.ends_with(".zip"));
    dir.join("ceval").is_dir()
        || std::fs::read_dir(dir)
            .is_ok_and(|entries| entries.flatten().any(|entry| entry.file_name().to_str().is_some_and(is_archive)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;
    use oc_engine::Dtype;

    fn eval(tail: &str) -> Result<(Evaluation, Vec<String>)> {
        let line = format!("oc-cli eval --datasets ceval_gen {tail}");
        let Command::Eval(args) = Cli::try_parse_from(line.split_whitespace()).unwrap().command else { panic!("eval") };
        let mut notes = Vec::new();
        let mut job = job(&args, Environment::default(), &mut notes)?;
        Ok((job.evaluations.remove(0), notes))
    }

    #[test]
    fn the_engine_gets_what_the_flags_say() {
        let here = env!("CARGO_MANIFEST_DIR");
        let tail = format!(
            "--hf-path {here} --tokenizer-path {here} --max-seq-len 100 --max-out-len 16 --batch-size 4 --threads 2 \
             --kv-cache-mib 64 --no-prefix-cache --model-kwargs torch_dtype=torch.float32 --num-gpus 1 --device cpu"
        );
        let (evaluation, notes) = eval(&tail).unwrap();
        let model = evaluation.model.unwrap();
        let options = &model.options;
        assert_eq!((options.max_seq_len, options.max_batch_size, options.threads), (Some(116), Some(4), Some(2)));
        assert_eq!((options.kv_cache_bytes, options.prefix_cache), (Some(64 << 20), false));
        assert_eq!((options.dtype, options.device), (Some(Dtype::F32), Device::Cpu));
        assert_eq!(options.tokenizer_path, None);
        assert_eq!((evaluation.config.max_seq_len, evaluation.config.batch_size), (Some(100), 4));
        assert_eq!((model.config.num_gpus, model.config.tokenizer_path.as_deref()), (1, Some(here)));
        assert_eq!(notes, [""; 0]);
    }

    #[test]
    fn a_model_is_cut_over_a_divisor_of_the_gpus() {
        let gpus = |tail: &str| {
            let here = env!("CARGO_MANIFEST_DIR");
            eval(&format!("--hf-path {here} {tail}")).map(|(evaluation, _)| {
                let model = evaluation.model.unwrap();
                (model.gpus, model.options.tensor_parallel)
            })
        };
        let of = |count, cut: Option<usize>| (Gpus { count, cut }, cut.unwrap_or(1));
        assert_eq!(gpus("").unwrap(), of(1, None));
        assert_eq!(gpus("--hf-num-gpus 4").unwrap(), of(4, None));
        assert_eq!(gpus("--num-gpus 4 --tensor-parallel-size 2").unwrap(), of(4, Some(2)));
        assert_eq!(gpus("--tensor-parallel-size 2").unwrap(), of(2, Some(2)));
        let refused = format!("{:?}", gpus("--num-gpus 4 --tensor-parallel-size 3").unwrap_err());
        assert!(refused.contains("--tensor-parallel-size 3 does not divide --num-gpus 4"), "{refused}");
    }

    #[test]
    fn the_batch_size_is_the_engines_unless_given() {
        let (evaluation, _) = eval("").unwrap();
        assert!(evaluation.model.is_err());
        assert_eq!(evaluation.config.batch_size, DEFAULT_BATCH_SIZE);
        assert_eq!((evaluation.config.max_seq_len, evaluation.config.max_out_len), (None, 256));
    }

    #[test]
    fn contradictions_and_absent_models_are_errors() {
        let error = |tail: &str| eval(tail).unwrap_err().to_string();
        assert!(error("--dtype bf16 --model-kwargs torch_dtype=float32").contains("contradicts torch_dtype=f32"));
        assert!(error("--device cpu --model-kwargs device_map=cuda").contains("contradicts device_map"));
        assert!(error("--hf-path internlm/internlm2-7b").contains("`oc-cli pull internlm/internlm2-7b`"));
        assert!(error("--hf-path ./absent.gguf").starts_with("--hf-path ./absent.gguf: no such file or folder"));
        assert!(error("--summarizer cevall").starts_with("unknown summarizer `cevall` (did you mean `ceval`?)"));
        assert!(error("--mode x").contains("unknown mode `x`"));
    }

    #[test]
    fn a_registered_model_decides_how_it_is_asked() {
        let (evaluation, notes) = eval("--models hf_internlm_chat_7b --max-seq-len 100 --batch-size 3").unwrap();
        let config = &evaluation.config;
        assert_eq!((config.max_seq_len, config.max_out_len, config.batch_size), (Some(2048), 100, 8));
        assert_eq!(config.model.abbr, "internlm-chat-7b-hf");
        assert_eq!(config.meta_template_config.as_ref().unwrap()["round"][1]["end"], "<eoa>\n");
        let missing = evaluation.model.unwrap_err().to_string();
        assert!(missing.contains("models/internlm/internlm-chat-7b"), "{missing}");
        assert!(notes.iter().any(|note| note.starts_with("--max-seq-len without effect")), "{notes:?}");
        let error = |tail: &str| eval(tail).unwrap_err().to_string();
        assert!(error("--models hf_opt_125").starts_with("unknown model `hf_opt_125` (did you mean `hf_opt_125m`"));
        assert!(error("--models hf_opt_125m hf_opt_125m").contains("two models are called opt-125m-hf"));
    }

    #[test]
    fn flags_without_effect_are_noted() {
        let (_, notes) = eval("--min-out-len 5 --pad-token-id 0 --max-num-workers 8 --max-workers-per-gpu 1").unwrap();
        assert_eq!(notes.len(), 2, "{notes:?}");
    }

    #[test]
    fn data_is_found_where_there_is_any() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("cache");
        std::fs::create_dir_all(cache.join("data")).unwrap();
        assert_eq!(find_data(None, Some(&cache)), None);
        std::fs::write(cache.join("data/OpenCompassData-core-20240207.zip"), "").unwrap();
        assert_eq!(find_data(None, Some(&cache)), Some(cache.join("data")));
        std::fs::remove_file(cache.join("data/OpenCompassData-core-20240207.zip")).unwrap();
        std::fs::create_dir_all(cache.join("data/ceval/formal_ceval")).unwrap();
        assert_eq!(find_data(None, Some(&cache)), Some(cache.join("data")));
        assert_eq!(find_data(Some(Path::new("x")), Some(&cache)), Some("x".into()));
    }
}
