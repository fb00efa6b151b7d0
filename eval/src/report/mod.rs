//! What a run leaves beside its answers: the summary, our own line below it, and the configuration.

pub(crate) mod summary;
pub(crate) mod table;

use crate::{EvalConfig, HfType, Overall, datasets::Group, output::RunFolder, python};
use serde_json::{Map, Value, json};

/// Our line below the tables. What was computed in stands with the score it may have changed; without `dtype` nothing was
/// computed.
pub(crate) fn line(overall: &Overall, dtype: Option<&str>) -> String {
    let score = if overall.questions == 0 {
        "accuracy - over 0 scored questions".to_owned()
    } else {
        format!(
            "accuracy {:.2} ± {:.2} % over {} questions (strict {:.2} %, no answer in {})",
            overall.accuracy, overall.stderr, overall.questions, overall.strict_accuracy, overall.unparsed
        )
    };
    let Some(dtype) = dtype else { return score };
    format!(
        "{score}; {} prompt tokens, {} computed; {} prompts truncated{}; {:.1} s in {dtype}",
        overall.prompt_tokens,
        overall.computed_tokens,
        overall.truncated,
        ends(overall),
        overall.seconds
    )
}

/// What ended answers beside the model itself.
fn ends(overall: &Overall) -> String {
    let ends = [(overall.unended, "max_out_len"), (overall.stopped, "a stop word")];
    let ends: Vec<String> =
        ends.iter().filter(|(count, _)| *count > 0).map(|(count, by)| format!("{count} by {by}")).collect();
    if ends.is_empty() { String::new() } else { format!("; answers ended {}", ends.join(", ")) }
}

/// `configs/<time>_<pid>.py`: the settings as OpenCompass dumps them, of all models and datasets.
pub(crate) fn configuration(
    configs: &[EvalConfig],
    datasets: &[Value],
    groups: &[Group],
    folder: &RunFolder,
) -> String {
    let group = |group: &Group| {
        let mut entry = json!({ "name": group.name, "subsets": group.subsets });
        if !group.weights.is_empty() {
            let weights = group.subsets.iter().cloned().zip(group.weights.iter().map(|weight| json!(weight)));
            entry["weights"] = weights.collect::<Map<_, _>>().into();
        }
        entry
    };
    let mut all = json!({
        "datasets": datasets,
        "models": configs.iter().map(model).collect::<Vec<_>>(),
        "summarizer": { "summary_groups": groups.iter().map(group).collect::<Vec<_>>() },
        "work_dir": folder.path.to_string_lossy(),
    });
    // Ours alone; OpenCompass does not look at it.
    if configs.iter().any(|config| config.strict_braces) {
        all["strict_braces"] = true.into();
    }
    all.as_object().map(python::config).unwrap_or_default()
}

/// A model's dictionary.
fn model(config: &EvalConfig) -> Value {
    let model = &config.model;
    let class = match config.hf_type {
        HfType::Base => "HuggingFaceBaseModel",
        HfType::Chat => "HuggingFacewithChatTemplate",
    };
    let mut generation_kwargs = Map::new();
    if config.temperature > 0.0 {
        generation_kwargs.insert("do_sample".into(), true.into());
        // Through text: 0.1 must not become 0.10000000149011612.
        let temperature: f64 = config.temperature.to_string().parse().unwrap_or(config.temperature.into());
        generation_kwargs.insert("temperature".into(), temperature.into());
        generation_kwargs.insert("top_k".into(), config.top_k.into());
        let top_p: f64 = config.top_p.to_string().parse().unwrap_or(config.top_p.into());
        generation_kwargs.insert("top_p".into(), top_p.into());
        generation_kwargs.insert("seed".into(), config.seed.into());
    }
    let mut entry = json!({
        "abbr": model.abbr,
        "batch_size": config.batch_size,
        "generation_kwargs": generation_kwargs,
        "max_out_len": config.max_out_len,
        "max_seq_len": config.max_seq_len,
        "model_kwargs": model.model_kwargs,
        "pad_token_id": config.pad_token_id,
        "path": model.path,
        "peft_kwargs": {},
        "peft_path": null,
        "run_cfg": { "num_gpus": model.num_gpus },
        "stop_words": config.stop_words,
        "tokenizer_kwargs": model.tokenizer_kwargs,
        "tokenizer_path": model.tokenizer_path,
        "type": format!("opencompass.models.huggingface_above_v4_33.{class}"),
    });
    if let Some(name) = &config.meta_template {
        entry["meta_template"] = name.as_str().into();
    }
    if let Some(dict) = &model.dict {
        entry.clone_from(dict);
    }
    entry
}
