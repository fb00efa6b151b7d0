//! The one error type of the crate: one variant per cause, each naming the thing, what was found and what to do.

use crate::names::did_you_mean;
use std::path::PathBuf;

/// Everything that an evaluation can refuse. A sample that fails does not end a run: see
/// [`RunReport::failures`](crate::RunReport::failures).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A dataset name that the registry does not hold.
    #[error("unknown dataset `{name}`{}\n\nhint: known datasets are {}", did_you_mean(near), known.join(", "))]
    UnknownDataset {
        /// The name given.
        name: String,
        /// Known names that look like it.
        near: Vec<String>,
        /// All names.
        known: Vec<String>,
    },
    /// A subject that the dataset does not have.
    #[error("unknown subject `{name}` in {dataset}{}\n\nhint: {dataset} has {}", did_you_mean(near), known.join(", "))]
    UnknownSubject {
        /// The name given.
        name: String,
        /// The dataset.
        dataset: String,
        /// Known names that look like it.
        near: Vec<String>,
        /// All names.
        known: Vec<String>,
    },
    /// A meta template name that does not exist.
    #[error("unknown meta template `{name}`{}\n\nhint: known meta templates are {}", did_you_mean(near), known.join(", "))]
    UnknownMetaTemplate {
        /// The name given.
        name: String,
        /// Known names that look like it.
        near: Vec<String>,
        /// All names.
        known: Vec<String>,
    },
    /// The data folder or archive is missing, or has another layout.
    #[error("no {dataset} data in {}: {found}\n\nhint: expected {expected}", path.display())]
    MissingData {
        /// The dataset.
        dataset: String,
        /// Where it was looked for.
        path: PathBuf,
        /// What was there instead.
        found: String,
        /// The layout wanted.
        expected: String,
    },
    /// No place to read the data from was given.
    #[error("{dataset} needs its data\n\nhint: give the folder with --data-dir; expected {expected}")]
    NoDataDir {
        /// The dataset.
        dataset: String,
        /// The layout wanted.
        expected: String,
    },
    /// One subject's file is missing although the folder is there.
    #[error("{subject}: {} is missing\n\nhint: put it there, or leave the subject out with --subjects", file.display())]
    MissingSubject {
        /// The subject.
        subject: String,
        /// The file wanted.
        file: PathBuf,
    },
    /// A score by contamination needs annotations, which are no part of the data.
    #[error("{abbr}: annotations missing: {} does not exist\n\nhint: it says which questions are contaminated; save the annotations of github.com/liyucheng09/Contamination_Detector under this name, or evaluate the configuration without `clean` in its name", file.display())]
    MissingAnnotations {
        /// The subset.
        abbr: String,
        /// The file wanted.
        file: PathBuf,
    },
    /// A data file is malformed.
    #[error("{}{}: {reason}", file.display(), line.map(|l| format!(", line {l}")).unwrap_or_default())]
    Csv {
        /// The file.
        file: PathBuf,
        /// 1-based line where the record starts, if known.
        line: Option<u64>,
        /// What is wrong and what was wanted.
        reason: String,
    },
    /// A file or folder could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// A file or folder could not be written. What was journalled before stays valid.
    #[error("cannot write {}: {source}\n\nhint: nothing finished is lost; free the space or the permission and run again with {}", path.display(), resume.as_deref().map_or("-r".into(), |t| format!("-r {t}")))]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
        /// The run to resume, if there is one.
        resume: Option<String>,
    },
    /// `-r` names a run that does not exist.
    #[error("no run to resume in {}: {found}\n\nhint: -r takes the name of a folder there, or nothing for the newest", work_dir.display())]
    NoRun {
        /// The work dir.
        work_dir: PathBuf,
        /// What was there.
        found: String,
    },
    /// `-r` names a run of another program, and more than scoring was wanted.
    #[error(
        "{run} has answers but no journal.jsonl: another program's run\n\nhint: its answers can be scored with -m eval -r {run}, and its scores shown with -m viz -r {run}; to ask a model, start a new run without -r"
    )]
    NotOurs {
        /// The run.
        run: String,
    },
    /// Another process is writing the run.
    #[error(
        "{run} is being written by another process\n\nhint: wait for it or stop it; without -r a new run is started"
    )]
    Locked {
        /// The run.
        run: String,
    },
    /// The answers recorded in a run were made under other settings.
    #[error("{run} cannot be resumed: {}\n\nhint: use the settings of that run, or start a new one without -r", differences.join("; "))]
    Mismatch {
        /// The run.
        run: String,
        /// One text per differing field: name, recorded value, present value.
        differences: Vec<String>,
    },
    /// A journal holds something else than samples, before its last line.
    #[error("{}, line {line}: {reason}\n\nhint: remove that line to lose one sample, or start a new run without -r", path.display())]
    Journal {
        /// The journal.
        path: PathBuf,
        /// 1-based line.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A setting makes no sense.
    #[error("{what}")]
    Config {
        /// The setting, the value found, the value wanted.
        what: String,
    },
    /// A sample cannot be sent to the model.
    #[error("{abbr} question {index}: {reason}")]
    Sample {
        /// The subset, e.g. `ceval-law`.
        abbr: String,
        /// 0-based row.
        index: usize,
        /// What is wrong.
        reason: String,
    },
    /// The observer asked to stop.
    #[error("interrupted\n\nhint: finished samples are kept; go on with {}", resume.as_deref().map_or("-r".into(), |t| format!("-r {t}")))]
    Interrupted {
        /// The run to resume, if there is one.
        resume: Option<String>,
    },
    /// The model failed.
    #[error(transparent)]
    Engine(#[from] oc_engine::Error),
}

/// Shorthand used throughout the crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
