//! Configuration files: OpenCompass's Python, evaluated in a sandbox, and our own TOML. Either becomes dictionaries of
//! models and datasets in OpenCompass's words.

mod imports;
mod model;
mod python;
mod toml;

#[cfg(test)]
mod opencompass_tests;

pub use model::{Place as ModelFolders, settings};
pub use python::{named_datasets, named_models};

use crate::diagnostics::{Error, Result};
use oc_eval::{datasets, names};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// What a configuration file asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Configuration {
    /// The models, in order.
    pub models: Vec<Entry>,
    /// Datasets as dictionaries, in order.
    pub datasets: Vec<Entry>,
    /// OpenCompass's `summarizer`.
    pub summarizer: Option<Value>,
    /// Where run folders go.
    pub work_dir: Option<PathBuf>,
    /// What a TOML file says beside these; flags win.
    pub questions: Questions,
    /// What is worth telling.
    pub notes: Vec<String>,
}

/// What TOML has keys for and OpenCompass's configurations have not; the last may stand in a `.py` file too.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Questions {
    /// `data_dir`.
    pub data_dir: Option<PathBuf>,
    /// `subjects`.
    pub subjects: Vec<String>,
    /// `limit`.
    pub limit: Option<usize>,
    /// `strict_braces`, which is saved with a run.
    pub strict_braces: bool,
}

/// A dictionary of a configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// In OpenCompass's words.
    pub dict: Value,
    /// Where it stands, `file:line`.
    pub place: String,
}

impl Entry {
    /// An error about the dictionary, with its place.
    pub fn error(&self, message: impl std::fmt::Display, hint: impl std::fmt::Display) -> Error {
        Error::input(format!("{}: {message}", self.place), hint)
    }
}

impl Configuration {
    /// Reads a `.py` or `.toml` file.
    ///
    /// # Errors
    /// A file that is not there, has another ending, is malformed, or names what does not exist here.
    pub fn read(path: &Path) -> Result<Self> {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        let hint = "a configuration is a .py file in OpenCompass's form, or a .toml file";
        match ending {
            "py" => python::read(path),
            "toml" => toml::read(path),
            _ => Err(Error::input(format!("{}: unknown kind of configuration", path.display()), hint)),
        }
    }

    /// Adds the place of the dataset that an error of the evaluation is about.
    pub fn locate(&self, error: oc_eval::Error) -> Error {
        let text = error.to_string();
        let about = |entry: &&Entry| {
            let abbr = entry.dict["abbr"].as_str().unwrap_or_default();
            !abbr.is_empty() && text.starts_with(&format!("dataset {abbr}: "))
        };
        match self.datasets.iter().find(about) {
            Some(entry) => Error::Input(format!("{}: {text}", entry.place)),
            None => error.into(),
        }
    }
}

/// The dictionaries of what is built in under a name of `--datasets`. `place` is for messages.
///
/// # Errors
/// Names that do not exist.
pub fn built_in_datasets(name: &str, place: &str, notes: &mut Vec<String>) -> Result<Vec<Entry>> {
    let found = datasets::resolve(name).map_err(|error| match error {
        oc_eval::Error::UnknownDataset { name, near, .. } => {
            let (place, near) =
                (if place == name { String::new() } else { format!("{place}: ") }, names::did_you_mean(&near));
            Error::input(
                format!("{place}unknown dataset `{name}`{near}"),
                "`oc-cli list-configs` lists what is built in",
            )
        }
        other => Error::Input(format!("{place}: {other}")),
    })?;
    notes.extend(found.warnings);
    let mut entries: Vec<Entry> = Vec::new();
    for (_, dataset) in found.members {
        entries.extend(dataset.configs().into_iter().map(|dict| Entry { dict, place: place.to_owned() }));
    }
    Ok(entries)
}

/// Most bytes of a configuration file.
const MAX_BYTES: u64 = 1 << 20;

/// The text of a configuration file.
fn read_source(path: &Path) -> Result<String> {
    let wrong = |what: String| Error::input(format!("{}: {what}", path.display()), "give the path of a text file");
    let metadata = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?;
    if !metadata.is_file() {
        return Err(wrong("this is no file".into()));
    }
    if metadata.len() > MAX_BYTES {
        return Err(wrong(format!("{} bytes; a configuration has at most {MAX_BYTES}", metadata.len())));
    }
    std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))
}
