//! Where the imports of a Python configuration lead: to files beside it, else to the registries of what is built in.

use oc_eval::{EvalConfig, datasets, integer_key, models, names};
use oc_pyconfig::{Dict, Host, Module, Place, Value};
use serde_json::{Value as Json, json};
use std::{
    path::{Component, Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// The files of the user, and the registries.
#[derive(Default)]
pub struct Imports {
    /// What is worth telling of imported collections.
    pub notes: Mutex<Vec<String>>,
}

impl Host for Imports {
    fn module(&self, file: &str, level: u32, module: &str) -> Result<Module, String> {
        let path = path_of(file, level, module);
        if path.is_file() {
            let source = super::read_source(&path).map_err(|error| error.to_string())?;
            return Ok(Module::File { name: path.to_string_lossy().into_owned(), source });
        }
        built_in(module, &mut self.notes.lock().unwrap_or_else(PoisonError::into_inner)).map(Module::Values).ok_or_else(
            || {
                let name = last(module);
                let known = || {
                    models::all()
                        .map(|model| model.name)
                        .chain(dataset_names())
                        .chain(datasets::collections().map(|c| c.0))
                };
                let near = names::did_you_mean(&names::near(name, known()));
                format!(
                    "there is no file {}, and no built-in configuration `{name}`{near}\n\nhint: `oc-cli list-configs` \
                 lists what is built in",
                    path.display()
                )
            },
        )
    }
}

/// The file that an import names: relative to the importing file, or below the working directory.
fn path_of(file: &str, level: u32, module: &str) -> PathBuf {
    let mut path = PathBuf::new();
    if level > 0 {
        path.push(Path::new(file).parent().unwrap_or(Path::new("")));
        (1..level).for_each(|_| path.push(".."));
    }
    path.extend(module.split('.').filter(|part| !part.is_empty()));
    path.as_mut_os_string().push(".py");
    normal(&path)
}

/// Without `..` after a folder, so that messages can be read; links are not followed.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        let has_folder = matches!(normal.components().next_back(), Some(Component::Normal(_)));
        if component == Component::ParentDir && has_folder {
            normal.pop();
        } else if component != Component::CurDir {
            normal.push(component);
        }
    }
    normal
}

fn last(module: &str) -> &str {
    module.rsplit('.').next().unwrap_or(module)
}

fn dataset_names() -> impl Iterator<Item = &'static str> {
    datasets::all().flat_map(|dataset| dataset.aliases.iter().copied().chain([dataset.name]))
}

/// The variables of the built-in configuration of this name, as OpenCompass's file has them.
fn built_in(module: &str, notes: &mut Vec<String>) -> Option<Vec<(String, Value)>> {
    let name = last(module);
    let place = Place { file: format!("built-in {name}"), line: 1 };
    if module.split('.').any(|part| part == "summarizers" || part == "groups") {
        return summarizer(name, &place);
    }
    if let Ok(model) = models::find(name) {
        let config = value(&model.config(), &place);
        let own = model.variable.map(|variable| (variable.to_owned(), config.clone()));
        return Some(own.into_iter().chain([("models".to_owned(), Value::List(vec![config]))]).collect());
    }
    if let Some((family, dataset)) = datasets::find(name) {
        let configs = dataset.configs().iter().map(|config| value(config, &place)).collect();
        return Some(vec![(family.variable.to_owned(), Value::List(configs))]);
    }
    collection(name, &place, notes)
}

/// A collection of datasets: a variable for each of those that exist here, and all of them together.
fn collection(name: &str, place: &Place, notes: &mut Vec<String>) -> Option<Vec<(String, Value)>> {
    let is_it = datasets::collections().any(|(known, _)| known == name);
    let found = if is_it { datasets::resolve(name).ok()? } else { return None };
    notes.extend(found.warnings.into_iter().filter(|warning| !notes.contains(warning)).collect::<Vec<_>>());
    let mut variables: Vec<(String, Value)> = Vec::new();
    let mut all = Vec::new();
    for (family, dataset) in found.members {
        let configs: Vec<Value> = dataset.configs().iter().map(|config| value(config, place)).collect();
        all.extend(configs.iter().cloned());
        // As in a file that imports the same variable twice, the later one stays.
        variables.retain(|(variable, _)| variable != family.variable);
        variables.push((family.variable.to_owned(), Value::List(configs)));
    }
    variables.push(("datasets".into(), Value::List(all)));
    Some(variables)
}

/// OpenCompass's `summarizers/example.py`, which has no groups, and its `summarizers/groups/<dataset>.py`.
fn summarizer(name: &str, place: &Place) -> Option<Vec<(String, Value)>> {
    if name == "example" {
        return Some(vec![("summarizer".into(), value(&json!({ "summary_groups": [] }), place))]);
    }
    let family = datasets::families().iter().find(|family| !name.is_empty() && family.folder == name)?;
    let any = family.datasets.first()?.name.to_owned();
    let groups = datasets::groups(&EvalConfig { datasets: vec![any], ..EvalConfig::default() }).ok()?;
    let groups: Vec<Json> = groups.iter().map(group).collect();
    let is_some = !groups.is_empty();
    is_some.then(|| vec![(format!("{name}_summary_groups"), value(&Json::from(groups), place))])
}

/// A group in OpenCompass's words.
pub(super) fn group(group: &datasets::Group) -> Json {
    let mut dict = json!({ "name": group.name, "subsets": group.subsets });
    if !group.weights.is_empty() {
        // Numbers of questions.
        let weight = |weight: &f64| if weight.fract() == 0.0 { json!(*weight as i64) } else { json!(weight) };
        dict["weights"] = group.subsets.iter().cloned().zip(group.weights.iter().map(weight)).collect();
    }
    dict
}

/// A dictionary of a registry as a file would have made it.
fn value(json: &Json, place: &Place) -> Value {
    match json {
        Json::Null => Value::None,
        Json::Bool(b) => Value::Bool(*b),
        Json::Number(n) => n.as_i64().map_or_else(|| Value::Float(n.as_f64().unwrap_or(f64::NAN)), Value::Int),
        Json::String(text) => Value::Str(text.clone()),
        Json::Array(items) => Value::List(items.iter().map(|item| value(item, place)).collect()),
        Json::Object(map) => {
            let entries = map.iter().map(|(key, item)| (key_value(key), value(item, place))).collect();
            Value::Dict(Dict { entries, place: place.clone() })
        }
    }
}

/// A key that may stand for an integer.
fn key_value(key: &str) -> Value {
    let digits: String = key.chars().filter(|c| c.is_ascii_digit() || *c == '-').collect();
    match digits.parse() {
        Ok(number) if integer_key(number) == key => Value::Int(number),
        _ => Value::Str(key.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_are_relative_to_their_file() {
        for (file, level, module, wanted) in [
            ("configs/eval.py", 1, "datasets.siqa.siqa_gen", "configs/datasets/siqa/siqa_gen.py"),
            ("configs/a/b.py", 2, "models.x", "configs/models/x.py"),
            ("eval.py", 1, "x", "x.py"),
            ("eval.py", 2, "x", "../x.py"),
            ("/a/b/c.py", 3, "x.y", "/x/y.py"),
            (
                "eval.py",
                0,
                "opencompass.configs.models.opt.hf_opt_125m",
                "opencompass/configs/models/opt/hf_opt_125m.py",
            ),
        ] {
            assert_eq!(path_of(file, level, module), Path::new(wanted), "{module}");
        }
    }

    #[test]
    fn what_is_built_in_has_opencompasss_variables() {
        let names = |module: &str| {
            let found = built_in(module, &mut Vec::new());
            found.map(|variables| variables.into_iter().map(|(name, _)| name).collect::<Vec<_>>())
        };
        assert_eq!(names("models.opt.hf_opt_125m").unwrap(), ["opt125m", "models"]);
        assert_eq!(names("datasets.ceval.ceval_gen").unwrap(), ["ceval_datasets"]);
        assert_eq!(names("datasets.gsm8k.gsm8k_gen"), None);
        assert_eq!(names("summarizers.example").unwrap(), ["summarizer"]);
        assert_eq!(names("summarizers.groups.ceval").unwrap(), ["ceval_summary_groups"]);
        let small = names("datasets.collections.base_small").unwrap();
        assert_eq!(small, ["ceval_datasets", "winogrande_datasets", "datasets"]);
        let mut notes = Vec::new();
        built_in("datasets.collections.base_small", &mut notes).unwrap();
        assert!(
            notes[0].starts_with("31 of the 33 datasets of base_small do not exist here: bbh_gen_5b92b0, "),
            "{notes:?}"
        );
        assert_eq!((names("summarizers.ceval_gen"), names("groups.siqa")), (None, None));
    }

    #[test]
    fn integers_stay_keys() {
        assert_eq!(key_value(&integer_key(-3)), Value::Int(-3));
        assert_eq!(key_value("3"), Value::Str("3".into()));
    }
}
