//! Datasets, prompts, answer extraction, metrics, journal and output folders, compatible with OpenCompass.
//!
//! [`run`] takes a [`Model`] and an [`EvalConfig`] and returns a [`RunReport`]; [`prompts`] shows what would be sent.
//! The crate contains no device code, prints nothing, and reads neither arguments nor the environment: progress goes
//! to an [`Observer`].

mod config;
pub mod datasets;
mod error;
mod evaluate;
pub mod extract;
mod fingerprint;
mod infer;
mod journal;
pub mod metrics;
mod model;
pub mod models;
mod modes;
pub mod names;
mod observer;
mod outcome;
mod output;
mod preview;
pub mod prompt;
mod python;
mod questions;
mod records;
mod report;
mod run;
mod score;
mod task;

pub use config::{EvalConfig, HfType, ModelConfig, Resume, Stage, Summarizer, Truncation, model_abbr};
pub use error::{Error, Result};
pub use model::{Message, Model, ModelIdentity, OnOutput, OnScore, PadTokens};
pub use observer::{Event, Observer, Phase, Plan};
pub use outcome::{Failure, Overall, PromptRecord, RunReport, Subset};
pub use preview::prompts;
pub use python::integer_key;
pub use run::{Models, run, run_all};
pub use task::{Evaluator, Generation, Inferencer, Label, Prompt, Row, Sample, Task};
