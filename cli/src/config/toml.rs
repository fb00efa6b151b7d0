//! Our own form: a TOML file whose keys are those of the command line. Unknown keys are errors.

use super::{Configuration, Entry, Questions, built_in_datasets, read_source};
use crate::diagnostics::{Error, Result};
use oc_eval::{model_abbr, models, models::Class, names};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Names of `oc-cli list-configs`.
    datasets: Vec<String>,
    #[serde(default)]
    models: Vec<Model>,
    work_dir: Option<PathBuf>,
    data_dir: Option<PathBuf>,
    #[serde(default)]
    subjects: Vec<String>,
    limit: Option<usize>,
    #[serde(default)]
    strict_braces: bool,
}

/// One `[[models]]`: a `name` of `oc-cli list-configs` or a `path`, and what is to differ.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Model {
    name: Option<String>,
    path: Option<String>,
    /// `base` or `chat`.
    hf_type: Option<String>,
    abbr: Option<String>,
    tokenizer_path: Option<String>,
    max_seq_len: Option<usize>,
    max_out_len: Option<usize>,
    batch_size: Option<usize>,
    num_gpus: Option<usize>,
    stop_words: Option<Vec<String>>,
    meta_template: Option<Map<String, Value>>,
    model_kwargs: Option<Map<String, Value>>,
    tokenizer_kwargs: Option<Map<String, Value>>,
    generation_kwargs: Option<Map<String, Value>>,
}

/// Reads a `.toml` file.
pub(super) fn read(path: &Path) -> Result<Configuration> {
    let source = read_source(path)?;
    parse(&path.to_string_lossy(), &source)
}

fn parse(name: &str, source: &str) -> Result<Configuration> {
    let file: File = toml::from_str(source).map_err(|error| {
        let line = error.span().map_or(1, |span| source[..span.start.min(source.len())].matches('\n').count() + 1);
        let message = error.message().trim().replace('\n', "; ");
        Error::input(format!("{name}:{line}: {message}"), "README.md shows a whole file")
    })?;
    if file.models.is_empty() {
        return Err(Error::input(format!("{name} has no [[models]]"), "[[models]] with a `name` or a `path`"));
    }
    if file.limit == Some(0) {
        return Err(Error::input(format!("{name}: limit is 0"), "leave it out for all questions"));
    }
    let (mut datasets, mut notes) = (Vec::new(), Vec::new());
    for dataset in &file.datasets {
        datasets.extend(built_in_datasets(dataset, name, &mut notes)?);
    }
    let models = file.models.iter().enumerate();
    let models = models.map(|(number, model)| entry(name, number + 1, model)).collect::<Result<_>>()?;
    Ok(Configuration {
        models,
        datasets,
        summarizer: None,
        work_dir: file.work_dir,
        questions: Questions {
            data_dir: file.data_dir,
            subjects: file.subjects,
            limit: file.limit,
            strict_braces: file.strict_braces,
        },
        notes,
    })
}

/// The dictionary of a model in OpenCompass's words.
fn entry(file: &str, number: usize, model: &Model) -> Result<Entry> {
    let place = format!("{file}, model {number}");
    let wrong = |message: &str, hint: &str| Error::input(format!("{place}: {message}"), hint);
    let mut dict = match (&model.name, &model.path) {
        (Some(name), _) => match models::find(name) {
            Ok(found) => found.config(),
            Err(near) => {
                let message = format!("unknown model `{name}`{}", names::did_you_mean(&near));
                return Err(wrong(&message, "`oc-cli list-configs` lists them; others are given with `path`"));
            }
        },
        (None, Some(path)) => json!({ "abbr": model_abbr(path), "max_out_len": 256, "type": "" }),
        (None, None) => return Err(wrong("it has neither `name` nor `path`", "give one of the two")),
    };
    let class = match (model.hf_type.as_deref(), dict["type"].as_str()) {
        (Some("chat"), _) => Class::HuggingFacewithChatTemplate.dotted(),
        (Some("base"), _) | (None, Some("")) => Class::HuggingFaceBaseModel.dotted(),
        (None, class) => class.unwrap_or_default().to_owned(),
        (Some(other), _) => return Err(wrong(&format!("hf_type is `{other}`"), "base or chat")),
    };
    dict["type"] = class.into();
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            dict[key] = value;
        }
    };
    let text = |value: &Option<String>| value.clone().map(Value::from);
    let number = |value: Option<usize>| value.map(Value::from);
    let map = |value: &Option<Map<String, Value>>| value.clone().map(Value::from);
    set("path", text(&model.path));
    set("abbr", text(&model.abbr));
    set("tokenizer_path", text(&model.tokenizer_path));
    set("max_seq_len", number(model.max_seq_len));
    set("max_out_len", number(model.max_out_len));
    set("batch_size", number(model.batch_size));
    set("run_cfg", model.num_gpus.map(|gpus| json!({ "num_gpus": gpus })));
    set("stop_words", model.stop_words.clone().map(Value::from));
    set("meta_template", map(&model.meta_template));
    set("model_kwargs", map(&model.model_kwargs));
    set("tokenizer_kwargs", map(&model.tokenizer_kwargs));
    set("generation_kwargs", map(&model.generation_kwargs));
    Ok(Entry { dict, place })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(source: &str) -> String {
        parse("run.toml", source).unwrap_err().to_string()
    }

    #[test]
    fn a_file_becomes_dictionaries() {
        let source = "datasets = ['ceval_gen']\nlimit = 2\n[[models]]\nname = 'hf_opt_125m'\nbatch_size = 1\n\
                      [[models]]\npath = 'm/x.gguf'\nhf_type = 'chat'\nmodel_kwargs = { torch_dtype = 'float32' }\n";
        let configuration = parse("run.toml", source).unwrap();
        assert_eq!(configuration.questions.limit, Some(2));
        let dicts: Vec<&Value> = configuration.models.iter().map(|entry| &entry.dict).collect();
        assert_eq!((&dicts[0]["path"], &dicts[0]["batch_size"]), (&json!("facebook/opt-125m"), &json!(1)));
        assert_eq!(dicts[1]["abbr"], "x_hf");
        assert_eq!(dicts[1]["type"], Class::HuggingFacewithChatTemplate.dotted());
        assert_eq!(configuration.datasets[0].dict["abbr"], "ceval-computer_network");
    }

    #[test]
    fn what_is_unknown_is_an_error_with_its_line() {
        let models = "\n[[models]]\nname = 'hf_opt_125m'\n";
        let unknown = error(&format!("datasets = ['ceval_gen']\nlimt = 2{models}"));
        assert!(unknown.starts_with("run.toml:2: unknown field `limt`"), "{unknown}");
        assert!(error(&format!("datasets = ['ceval_gen']{models}batchsize = 2\n")).starts_with("run.toml:4: unknown"));
        assert!(error(&format!("datasets = 3{models}")).starts_with("run.toml:1: invalid type"));
        assert!(error(&format!("datasets = ['cevl_gen']{models}")).contains("did you mean `ceval_gen`"));
        assert!(error("datasets = ['ceval_gen']").contains("has no [[models]]"));
        assert!(error("datasets = ['ceval_gen']\n[[models]]\n").contains("neither `name` nor `path`"));
        assert!(error("datasets = [\n").starts_with("run.toml:"));
        assert!(error("datasets = ['ceval_gen']\n[[models]]\nname = 'hf_opt_125'").contains("did you mean"));
    }
}
