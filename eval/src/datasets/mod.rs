//! The dataset registry: one row per configuration name, one file per dataset.

mod ceval;
mod demo;
mod files;
mod table;

use crate::{Error, EvalConfig, Result, names, task::Task};

/// A named mean over subsets, as a row of OpenCompass's summarizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// E.g. `ceval-stem`.
    pub name: String,
    /// Abbreviations of its subsets, in OpenCompass's order.
    pub subsets: Vec<String>,
}

/// One registered configuration.
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
    load: fn(&EvalConfig) -> Result<Vec<Task>>,
    groups: fn() -> Vec<Group>,
}

static DATASETS: [Dataset; 2] = [
    Dataset {
        name: "ceval_gen_5f30c7",
        aliases: &["ceval_gen"],
        about: "C-Eval, 52 subjects, validation split, 5 examples, the answer is generated",
        mode: "gen",
        load: ceval::load,
        groups: ceval::groups,
    },
    Dataset {
        name: "ceval_demo_gen",
        aliases: &[],
        about: "built-in demonstration in C-Eval's format, 8 subjects, 80 questions; NOT C-Eval",
        mode: "gen",
        load: demo::load,
        groups: demo::groups,
    },
];

/// Every registered configuration.
pub fn all() -> &'static [Dataset] {
    &DATASETS
}

/// The tasks of all of `config.datasets`, in table order, with `subjects` and `limit` applied.
///
/// # Errors
/// Unknown names, missing or malformed data.
pub fn load(config: &EvalConfig) -> Result<Vec<Task>> {
    let mut tasks = Vec::new();
    for dataset in named(config)? {
        tasks.extend((dataset.load)(config)?);
    }
    if let Some(limit) = config.limit {
        tasks.iter_mut().for_each(|task| task.samples.truncate(limit));
    }
    Ok(tasks)
}

/// The groups of `config.datasets`, in OpenCompass's order.
///
/// # Errors
/// Unknown names.
pub fn groups(config: &EvalConfig) -> Result<Vec<Group>> {
    Ok(named(config)?.into_iter().flat_map(|dataset| (dataset.groups)()).collect())
}

/// The rows of the registry that the configuration names, each once.
fn named(config: &EvalConfig) -> Result<Vec<&'static Dataset>> {
    let mut found: Vec<&'static Dataset> = Vec::new();
    for name in &config.datasets {
        let dataset = DATASETS.iter().find(|dataset| dataset.name == name || dataset.aliases.contains(&name.as_str()));
        let dataset = dataset.ok_or_else(|| {
            let known = || DATASETS.iter().flat_map(|d| d.aliases.iter().copied().chain([d.name]));
            Error::UnknownDataset {
                name: name.clone(),
                near: names::near(name, known()),
                known: known().map(str::to_owned).collect(),
            }
        })?;
        if !found.iter().any(|one| one.name == dataset.name) {
            found.push(dataset);
        }
    }
    if found.is_empty() {
        return Err(Error::Config {
            what: "no dataset was named\n\nhint: name one with --datasets, e.g. ceval_gen".into(),
        });
    }
    Ok(found)
}
