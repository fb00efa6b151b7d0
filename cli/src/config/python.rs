//! OpenCompass's configuration files.

use super::{Configuration, Entry, Questions, imports::Imports, read_source};
use crate::diagnostics::{Error, Result};
use oc_eval::{datasets, extract::POSTPROCESSORS, integer_key, models::Class, names};
use oc_pyconfig::{Dict, Evaluated, Limits, Value};
use serde_json::{Map, Number, Value as Json};
use std::{
    path::{Path, PathBuf},
    sync::PoisonError,
};

/// Variables that ask for something that does not exist here.
const REFUSED: [(&str, &str); 3] = [
    ("model_dataset_combinations", "list models and datasets; every model answers every dataset"),
    ("chatml_datasets", "bring the questions into the layout of a dataset that exists here"),
    ("judge_models", "only datasets that are scored by rules are supported"),
];

/// Summarizers whose keys are understood.
const SUMMARIZERS: [&str; 1] = ["DefaultSummarizer"];

/// The types that the dictionary of a model can name.
fn model_types() -> Vec<&'static str> {
    Class::ALL.map(Class::name).into_iter().chain(POSTPROCESSORS).collect()
}

/// The variables of a file. What is worth telling goes to its notes.
fn evaluate(path: &Path) -> Result<Evaluated> {
    let source = read_source(path)?;
    let imports = Imports::default();
    let evaluated = oc_pyconfig::evaluate(&path.to_string_lossy(), &source, &imports, Limits::default());
    let mut evaluated = evaluated.map_err(|error| Error::Input(error.to_string()))?;
    evaluated.notes.append(&mut imports.notes.into_inner().unwrap_or_else(PoisonError::into_inner));
    Ok(evaluated)
}

/// The models of the user's configuration of this name below `folder`, if there is one.
///
/// # Errors
/// As for a configuration file.
pub fn named_models(folder: &Path, name: &str, notes: &mut Vec<String>) -> Result<Option<Vec<Entry>>> {
    let Some(path) = named(&[folder.join("models")], name, notes) else { return Ok(None) };
    entries(&evaluate(&path)?, &path.to_string_lossy(), "models", &model_types()).map(Some)
}

/// The datasets of the user's configuration of this name below `folder`, if there is one: all lists whose names end in
/// `_datasets`, or in what follows a `/` of the name.
///
/// # Errors
/// As for a configuration file.
pub fn named_datasets(folder: &Path, name: &str, notes: &mut Vec<String>) -> Result<Option<Vec<Entry>>> {
    let (name, ending) = name.split_once('/').unwrap_or((name, "_datasets"));
    let folders = ["datasets", "dataset_collections"].map(|kind| folder.join(kind));
    let Some(path) = named(&folders, name, notes) else { return Ok(None) };
    let mut evaluated = evaluate(&path)?;
    notes.append(&mut evaluated.notes);
    let mut found = Vec::new();
    for (variable, _) in evaluated.variables.iter().filter(|(variable, _)| variable.ends_with(ending)) {
        found.extend(entries(&evaluated, &path.to_string_lossy(), variable, &datasets::types())?);
    }
    if found.is_empty() {
        let message = format!("{} has no variable that ends in `{ending}`", path.display());
        return Err(Error::input(message, "name_datasets = [dict(type=…, …)]"));
    }
    Ok(Some(found))
}

/// The file `name.py` in one of the folders or below, where `name` may be a pattern; of several the first by name, in the
/// first folder that has one.
fn named(folders: &[PathBuf], name: &str, notes: &mut Vec<String>) -> Option<PathBuf> {
    let pattern = format!("{}.py", name.strip_suffix(".py").unwrap_or(name));
    let mut found: Vec<PathBuf> = Vec::new();
    for folder in folders {
        let (mut open, mut here) = (vec![folder.clone()], Vec::new());
        while let Some(folder) = open.pop() {
            for path in std::fs::read_dir(&folder).ok().into_iter().flatten().flatten().map(|entry| entry.path()) {
                let is_match = |file: &std::ffi::OsStr| names::matches(&pattern, &file.to_string_lossy());
                if path.is_file() && path.file_name().is_some_and(is_match) {
                    here.push(path);
                } else if path.is_dir() && !path.is_symlink() {
                    // Links are not followed, so that this ends.
                    open.push(path);
                }
            }
        }
        here.sort_by(|a, b| a.file_name().cmp(&b.file_name()).then_with(|| a.cmp(b)));
        found.append(&mut here);
    }
    if found.len() > 1 {
        let all: Vec<String> = found.iter().map(|path| path.display().to_string()).collect();
        notes.push(format!("`{name}` matches {}; the first is taken, as in OpenCompass", all.join(", ")));
    }
    found.into_iter().next()
}

/// Reads a `.py` file.
pub(super) fn read(path: &Path) -> Result<Configuration> {
    let name = path.to_string_lossy();
    let evaluated = evaluate(path)?;
    for (variable, hint) in REFUSED {
        if evaluated.get(variable).is_some() {
            return Err(Error::input(format!("{name}: `{variable}` is not supported"), hint));
        }
    }
    let mut notes = evaluated.notes.clone();
    let ignored: Vec<&str> = ["infer", "eval"].into_iter().filter(|key| evaluated.get(key).is_some()).collect();
    if !ignored.is_empty() {
        notes.push(format!("`{}` of {name} has no effect: one process does all the work", ignored.join("` and `")));
    }
    let strict_braces = match evaluated.get("strict_braces") {
        None | Some(Value::None) => false,
        Some(Value::Bool(is_set)) => *is_set,
        Some(other) => {
            let message = format!("{name}: `strict_braces` is {}, wanted True or False", other.kind());
            return Err(Error::input(message, "True leaves placeholders in the questions alone"));
        }
    };
    Ok(Configuration {
        models: entries(&evaluated, &name, "models", &model_types())?,
        datasets: entries(&evaluated, &name, "datasets", &datasets::types())?,
        summarizer: summarizer(&evaluated, &name)?,
        work_dir: match evaluated.get("work_dir") {
            None | Some(Value::None) => None,
            Some(Value::Str(dir)) => Some(dir.into()),
            Some(other) => {
                let hint = "a folder: work_dir = 'outputs/mine'";
                return Err(Error::input(format!("{name}: `work_dir` is {}, wanted text", other.kind()), hint));
            }
        },
        questions: Questions { strict_braces, ..Questions::default() },
        notes,
    })
}

/// The dictionaries of a variable. `known`: the types that they may name.
fn entries(evaluated: &Evaluated, file: &str, variable: &str, known: &[&str]) -> Result<Vec<Entry>> {
    let hint = format!("a configuration lists dictionaries: {variable} = [dict(type=…, …)]");
    let items = match evaluated.get(variable) {
        Some(Value::List(items) | Value::Tuple(items)) => items,
        Some(other) => {
            return Err(Error::input(format!("{file}: `{variable}` is {}, wanted a list", other.kind()), hint));
        }
        None => {
            let lists = evaluated.variables.iter().filter(|(_, value)| matches!(value, Value::List(_)));
            let lists: Vec<&str> = lists.map(|(name, _)| name.as_str()).collect();
            let found = if lists.is_empty() { String::new() } else { format!("; its lists are {}", lists.join(", ")) };
            return Err(Error::input(format!("{file} has no variable `{variable}`{found}"), hint));
        }
    };
    if items.is_empty() {
        return Err(Error::input(format!("{file}: `{variable}` is empty"), hint));
    }
    let entry = |item: &Value| match item {
        Value::Dict(dict) => {
            let what = dict.get("abbr").map_or_else(
                || variable.trim_end_matches('s').to_owned(),
                |abbr| match abbr {
                    Value::Str(abbr) => format!("{} {abbr}", variable.trim_end_matches('s')),
                    other => format!("{} with `abbr` {}", variable.trim_end_matches('s'), other.kind()),
                },
            );
            Ok(Entry { dict: dictionary(dict, &what, known)?, place: dict.place.to_string() })
        }
        other => Err(Error::input(format!("{file}: `{variable}` holds {}, wanted dictionaries", other.kind()), &hint)),
    };
    items.iter().map(entry).collect()
}

fn summarizer(evaluated: &Evaluated, file: &str) -> Result<Option<Json>> {
    match evaluated.get("summarizer") {
        None | Some(Value::None) => Ok(None),
        Some(Value::Dict(dict)) => Ok(Some(dictionary(dict, "summarizer", &SUMMARIZERS)?)),
        Some(other) => {
            let hint = "summarizer = dict(summary_groups=[…])";
            Err(Error::input(format!("{file}: `summarizer` is {}, wanted a dictionary", other.kind()), hint))
        }
    }
}

/// A dictionary as JSON. Every `type` in it must be known.
fn dictionary(dict: &Dict, what: &str, known: &[&str]) -> Result<Json> {
    let mut map = Map::new();
    for (key, value) in &dict.entries {
        let name = match key {
            Value::Str(key) => key.clone(),
            Value::Int(n) => integer_key(*n),
            Value::Bool(b) => integer_key(i64::from(*b)),
            other => {
                let message = format!("{}: a key of {what} is {}", dict.place, other.kind());
                return Err(Error::input(message, "keys are text or whole numbers"));
            }
        };
        if name == "type" {
            check_type(value, dict, what, known)?;
        }
        map.insert(name, json(value, dict, what, known)?);
    }
    Ok(Json::Object(map))
}

/// A dictionary as JSON, whatever types it names.
#[cfg(test)]
pub(super) fn any_dictionary(dict: &Dict) -> Result<Json> {
    dictionary(dict, "the dictionary", &["*"])
}

fn check_type(value: &Value, dict: &Dict, what: &str, known: &[&str]) -> Result<()> {
    let (dotted, imported) = match value {
        Value::Name(name) => (&name.dotted, format!(", imported at {}", name.place)),
        Value::Str(name) => (name, String::new()),
        other => {
            let message = format!("{}: the `type` of {what} is {}", dict.place, other.kind());
            return Err(Error::input(message, "a type is a name that was imported, or its dotted name as text"));
        }
    };
    let class = dotted.rsplit('.').next().unwrap_or(dotted);
    if known.contains(&class) || known == ["*"] {
        return Ok(());
    }
    let near = names::did_you_mean(&names::near(class, known.iter().copied()));
    Err(Error::input(
        format!("{}: {what}: the type `{dotted}` does not exist here{near}{imported}", dict.place),
        format!("types that exist here are {}", known.join(", ")),
    ))
}

fn json(value: &Value, parent: &Dict, what: &str, known: &[&str]) -> Result<Json> {
    Ok(match value {
        Value::None => Json::Null,
        Value::Bool(b) => Json::Bool(*b),
        Value::Int(n) => Json::from(*n),
        Value::Float(x) => {
            let message = || format!("{}: {what} holds the number {x}", parent.place);
            Json::Number(Number::from_f64(*x).ok_or_else(|| Error::input(message(), "numbers must be finite"))?)
        }
        Value::Str(text) => Json::from(text.as_str()),
        Value::List(items) | Value::Tuple(items) | Value::Set(items) => {
            let items = items.iter().map(|item| json(item, parent, what, known));
            Json::Array(items.collect::<Result<_>>()?)
        }
        Value::Dict(dict) => dictionary(dict, what, known)?,
        Value::Name(name) => Json::from(name.dotted.as_str()),
        Value::Function(place) => {
            let message = format!("{place}: {what} holds a function");
            return Err(Error::input(message, "no code of a configuration runs later; name what exists here"));
        }
    })
}
