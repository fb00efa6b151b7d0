//! `GenInferencer`: the model continues the prompt of a question, and the text is the answer.

use super::fit::Built;
use crate::{EvalConfig, Task};
use oc_engine::{Request, SamplingParams};

/// What is asked of the model.
pub(crate) fn request(task: &Task, built: &Built, config: &EvalConfig) -> Request {
    let EvalConfig { temperature, top_k, top_p, seed, .. } = *config;
    Request {
        prompt: built.ids.clone(),
        max_new_tokens: task.max_out_len(config),
        min_new_tokens: task.min_out_len(config),
        sampling: SamplingParams { temperature, top_k, top_p, seed },
        stop: task.stop_words(config),
        ignore_eos: false,
    }
}

/// What an answer depends on beside the ids of its prompt and the settings of the run, in words.
pub(crate) fn settings(task: &Task, config: &EvalConfig) -> String {
    let least = match task.min_out_len(config) {
        0 => String::new(),
        least => format!("min_out_len {least}, "),
    };
    format!("{least}max_out_len {}, stop words {:?}", task.max_out_len(config), task.stop_words(config))
}
