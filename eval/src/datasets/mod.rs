//! The dataset registry: one row per dataset here, one file per dataset beside this one.
//!
//! A configuration is data in OpenCompass's own vocabulary: the dictionaries that its configuration file of the same
//! name would make. [`Task`]s are built from these ([`task`]), and from those of a user's file alike.

mod build;
mod ceval;
mod cmmlu;
mod collections;
mod demo;
mod files;
mod lines;
mod mmlu;
mod siqa;
mod table;
mod vocabulary;
mod winograd;
mod winogrande;

use crate::{Error, EvalConfig, Result, names, prompt::prompt_version, report::summary::Row, task::Task};
use files::Files;
use serde_json::Value;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

/// A named mean over subsets, as a row of OpenCompass's summarizer.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// E.g. `ceval-stem`.
    pub name: String,
    /// Abbreviations of its subsets, in OpenCompass's order.
    pub subsets: Vec<String>,
    /// Weight of each subset; empty where all weigh the same.
    pub weights: Vec<f64>,
}

impl Group {
    /// One whose subsets weigh the same.
    pub fn new(name: impl Into<String>, subsets: Vec<String>) -> Self {
        Self { name: name.into(), subsets, weights: Vec::new() }
    }
}

/// One configuration.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// E.g. `ceval_gen_5f30c7`.
    pub name: &'static str,
    /// Other names, e.g. `ceval_gen`.
    pub aliases: &'static [&'static str],
    /// One line for `--help` and lists.
    pub about: &'static str,
    /// `gen` or `ppl`.
    pub mode: &'static str,
    configs: fn() -> Vec<Value>,
}

impl Dataset {
    /// The dictionaries of its subsets: `type`, `path`, `name`, `abbr`, `reader_cfg`, `infer_cfg`, `eval_cfg`. Integer
    /// keys are as [`crate::integer_key`] makes them.
    pub fn configs(&self) -> Vec<Value> {
        (self.configs)()
    }
}

/// A dataset: how its data is read, and its configurations.
pub struct Family {
    /// For messages, e.g. `C-Eval`.
    pub name: &'static str,
    /// The folder of its configuration files in OpenCompass, e.g. `ceval`.
    pub folder: &'static str,
    /// The variable that its configuration files define, e.g. `ceval_datasets`.
    pub variable: &'static str,
    /// Its configurations.
    pub datasets: &'static [Dataset],
    loaders: &'static [Loader],
    groups: fn() -> Vec<Group>,
}

impl Family {
    /// The groups that its summarizer shows, in OpenCompass's order.
    pub fn groups(&self) -> Vec<Group> {
        (self.groups)()
    }
}

/// How a dataset class of OpenCompass reads its data.
struct Loader {
    /// The class, without its module.
    class: &'static str,
    /// Reads one split.
    read: fn(&mut Source<'_>, &Value, &str) -> Result<Rows>,
    /// Columns that are integers there.
    integers: &'static [&'static str],
    /// Whether the splits have names, which OpenCompass then adds to the column `subdivision`.
    has_splits: bool,
    /// A column that is a dictionary there, made of the others; in the row it is Python's text of it.
    dictionary: Option<(&'static str, Dictionary)>,
}

/// The dictionary of a row.
type Dictionary = fn(&crate::Row) -> Value;

/// One split of a subset.
struct Rows {
    /// For messages.
    file: PathBuf,
    rows: Vec<crate::Row>,
    /// The file of contamination annotations that the class needs and that is not there.
    missing_annotations: Option<PathBuf>,
}

static FAMILIES: [&Family; 7] = [
    &ceval::FAMILY,
    &cmmlu::FAMILY,
    &mmlu::FAMILY,
    &siqa::FAMILY,
    &winograd::FAMILY,
    &winogrande::FAMILY,
    &demo::FAMILY,
];

/// Every dataset.
pub fn families() -> &'static [&'static Family] {
    &FAMILIES
}

/// Every configuration.
pub fn all() -> impl Iterator<Item = &'static Dataset> {
    FAMILIES.iter().flat_map(|family| family.datasets)
}

/// The dataset and its configuration of this name or alias.
pub fn find(name: &str) -> Option<(&'static Family, &'static Dataset)> {
    let is_it = |dataset: &&Dataset| dataset.name == name || dataset.aliases.contains(&name);
    FAMILIES.iter().find_map(|family| family.datasets.iter().find(is_it).map(|dataset| (*family, dataset)))
}

/// Where data lies. Folders and archives are looked for once.
pub struct Source<'a> {
    data_dir: Option<&'a Path>,
    found: HashMap<&'static str, Files>,
}

impl<'a> Source<'a> {
    /// Below `data_dir`, or in it.
    pub fn new(data_dir: Option<&'a Path>) -> Self {
        Self { data_dir, found: HashMap::new() }
    }

    /// The files of the dataset that a configuration calls `path`: one of OpenCompass's names for it, or a folder.
    ///
    /// # Errors
    /// [`Error::NoDataDir`], [`Error::MissingData`], [`Error::Read`].
    fn files(&mut self, path: &str, layout: &'static files::Layout) -> Result<&mut Files> {
        let folder = Path::new(path);
        let is_own = !layout.ids.contains(&path) && folder.is_dir();
        if is_own && !matches!(self.found.get(layout.dataset), Some(Files::Folder(known)) if known == folder) {
            self.found.insert(layout.dataset, Files::Folder(folder.to_owned()));
        }
        if !self.found.contains_key(layout.dataset) {
            let expected = || layout.expected.to_owned();
            let no_data_dir = || Error::NoDataDir { dataset: layout.dataset.into(), expected: expected() };
            self.found.insert(layout.dataset, Files::find(self.data_dir.ok_or_else(no_data_dir)?, layout)?);
        }
        Ok(self.found.get_mut(layout.dataset).expect("it was inserted"))
    }
}

/// The classes and functions that a dataset dictionary can name as its `type` and those of its parts.
pub fn types() -> Vec<&'static str> {
    let datasets = FAMILIES.iter().flat_map(|family| family.loaders).map(|loader| loader.class);
    datasets.chain(build::PARTS).chain(crate::extract::POSTPROCESSORS).collect()
}

/// The task that one of OpenCompass's dataset dictionaries describes.
///
/// # Errors
/// [`Error::Config`] for what is not supported, with its name; missing or malformed data.
pub fn task(config: &Value, source: &mut Source<'_>, strict_braces: bool) -> Result<Task> {
    build::task(config, source, strict_braces)
}

/// The tasks of all of `config.datasets`, in table order, then those of `config.dataset_configs`, with `subjects` and
/// `limit` applied.
///
/// # Errors
/// Unknown names, missing or malformed data.
pub fn load(config: &EvalConfig) -> Result<Vec<Task>> {
    let mut source = Source::new(config.data_dir.as_deref());
    let mut tasks = Vec::new();
    for dataset in configs(config)? {
        let mut task = task(&dataset, &mut source, config.strict_braces)?;
        if let Some(limit) = config.limit.filter(|limit| *limit < task.samples.len()) {
            task.samples.truncate(limit);
            build::record_limit(&mut task.dataset_config, limit);
        }
        tasks.push(task);
    }
    Ok(tasks)
}

/// The dictionaries of all of `config.datasets`, in table order, then `config.dataset_configs`, with `subjects` applied.
///
/// # Errors
/// Unknown names.
pub(crate) fn configs(config: &EvalConfig) -> Result<Vec<Value>> {
    let named = named(config)?;
    let own = config.dataset_configs.iter().cloned();
    let configs: Vec<Value> = named.iter().flat_map(|(_, dataset)| dataset.configs()).chain(own).collect();
    let subjects: Vec<[String; 2]> = configs.iter().map(build::subjects).collect();
    let all: Vec<&str> = subjects.iter().flatten().map(String::as_str).collect();
    let families: Vec<&str> = named.iter().map(|(family, _)| family.name).collect();
    crate::task::check_subjects(&all, &config.subjects, &families.join(", "))?;
    let is_wanted =
        |names: &[String; 2]| config.subjects.is_empty() || names.iter().any(|n| config.subjects.contains(n));
    let wanted = configs.iter().zip(&subjects).filter(|(_, names)| is_wanted(names));
    Ok(wanted.map(|(config, _)| config.clone()).collect())
}

/// The row of the subset that a dictionary describes.
pub(crate) fn row(config: &Value) -> Row {
    let class = config["infer_cfg"]["inferencer"]["type"].as_str().unwrap_or_default();
    let modes =
        [("GenInferencer", "gen"), ("CLPInferencer", "unknown"), ("PPLInferencer", "ppl"), ("LLInferencer", "ll")];
    let mode = modes.iter().find(|(name, _)| class.ends_with(name)).map_or("unknown", |(_, mode)| mode);
    Row {
        abbr: config["abbr"].as_str().unwrap_or_default().to_owned(),
        version: prompt_version(&config["infer_cfg"]),
        mode: mode.to_owned(),
    }
}

/// The groups of `config.datasets` and `config.dataset_configs`, in OpenCompass's order.
///
/// # Errors
/// Unknown names.
pub fn groups(config: &EvalConfig) -> Result<Vec<Group>> {
    let mut families: Vec<&Family> = named(config)?.into_iter().map(|(family, _)| family).collect();
    families.extend(config.dataset_configs.iter().filter_map(build::family));
    let mut names: Vec<&str> = Vec::new();
    families.retain(|family| {
        let is_new = !names.contains(&family.name);
        names.push(family.name);
        is_new
    });
    Ok(families.into_iter().flat_map(|family| (family.groups)()).collect())
}

/// What is worth knowing of the names in `config.datasets`, each once: members of a collection that do not exist here, and
/// patterns that stand for more than one name.
pub fn warnings(config: &EvalConfig) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for warning in config.datasets.iter().filter_map(|name| resolve(name).ok()).flat_map(|found| found.warnings) {
        if !all.contains(&warning) {
            all.push(warning);
        }
    }
    all
}

/// Every collection and OpenCompass's file of it, below `configs/datasets`.
pub fn collections() -> impl Iterator<Item = (&'static str, String)> {
    collections::COLLECTIONS.iter().map(|collection| (collection.name, collection.file()))
}

/// What a name stands for.
pub struct Resolved {
    /// Configurations, in order; of a collection those that exist.
    pub members: Vec<(&'static Family, &'static Dataset)>,
    /// What is worth knowing.
    pub warnings: Vec<String>,
}

/// The configurations that a name of `--datasets` stands for, as OpenCompass looks for it: a configuration, a collection,
/// or a pattern in the manner of a shell, whatever the case; of several that match, the first by name. After a `/`
/// stands the end of the variables that are wanted, e.g. `ceval_gen/ceval_datasets`.
///
/// # Errors
/// [`Error::UnknownDataset`]; [`Error::Config`] for a collection without a member that exists, and for an ending that no
/// variable has.
pub fn resolve(given: &str) -> Result<Resolved> {
    let (pattern, ending) = given.split_once('/').map_or((given, None), |(name, ending)| (name, Some(ending)));
    let pattern = pattern.strip_suffix(".py").unwrap_or(pattern);
    let known = || all().flat_map(|d| d.aliases.iter().copied().chain([d.name])).chain(collections().map(|c| c.0));
    let is_known = find(pattern).is_some() || collections::find(pattern).is_some();
    let mut names: Vec<&str> =
        if is_known { vec![pattern] } else { known().filter(|name| names::matches(pattern, name)).collect() };
    names.sort_unstable();
    names.dedup();
    let Some(&name) = names.first() else {
        let near = names::near(pattern, known());
        return Err(Error::UnknownDataset { name: given.into(), near, known: known().map(str::to_owned).collect() });
    };
    let mut warnings = Vec::new();
    if names.len() > 1 {
        let all = names.join(", ");
        warnings.push(format!("`{given}` matches {all}; the first is taken, as in OpenCompass"));
    }
    let (mut members, is_collection) = match (find(name), collections::find(name)) {
        (None, Some(collection)) => {
            let missing: Vec<&str> = collection.members().filter(|name| find(name).is_none()).collect();
            if !missing.is_empty() {
                let (all, gone, names) = (collection.members().count(), missing.len(), missing.join(", "));
                warnings.push(format!("{gone} of the {all} datasets of {name} do not exist here: {names}"));
            }
            (collection.members().filter_map(find).collect::<Vec<_>>(), true)
        }
        (found, _) => (found.into_iter().collect(), false),
    };
    if members.is_empty() {
        let what = format!("{}\n\nhint: `oc-cli list-configs` shows those that do", warnings.join("; "));
        return Err(Error::Config { what });
    }
    if let Some(ending) = ending.filter(|ending| !(is_collection && "datasets".ends_with(ending))) {
        let variables: Vec<&str> = members.iter().map(|(family, _)| family.variable).collect();
        members.retain(|(family, _)| family.variable.ends_with(ending));
        if members.is_empty() {
            let what = format!("{given}: no variable ends in `{ending}`\n\nhint: {name} has {}", variables.join(", "));
            return Err(Error::Config { what });
        }
    }
    Ok(Resolved { members, warnings })
}

/// The configurations that are named, each once; of a collection those of its members that exist.
fn named(config: &EvalConfig) -> Result<Vec<(&'static Family, &'static Dataset)>> {
    let mut found: Vec<(&'static Family, &'static Dataset)> = Vec::new();
    for name in &config.datasets {
        for (family, dataset) in resolve(name)?.members {
            if !found.iter().any(|(_, one)| one.name == dataset.name) {
                found.push((family, dataset));
            }
        }
    }
    if found.is_empty() && config.dataset_configs.is_empty() {
        return Err(Error::Config {
            what: "no dataset was named\n\nhint: name one with --datasets, e.g. ceval_gen".into(),
        });
    }
    Ok(found)
}
