//! The dataset registry: one row per configuration name, one file per dataset.

use crate::{EvalConfig, Result, task::Task};

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
}

/// Every registered configuration.
pub fn all() -> &'static [Dataset] {
    &[]
}

/// The tasks of all of `config.datasets`, in table order, with `subjects` and `limit` applied.
///
/// # Errors
/// Unknown names, missing or malformed data.
pub fn load(_config: &EvalConfig) -> Result<Vec<Task>> {
    Ok(Vec::new())
}

/// The groups of `config.datasets`, in OpenCompass's order.
///
/// # Errors
/// Unknown names.
pub fn groups(_config: &EvalConfig) -> Result<Vec<Group>> {
    Ok(Vec::new())
}
