//! The facade: load a model once, then generate and score.

use crate::{
    ChatTemplate, Error, Event, Fingerprint, MemoryPlan, ModelConfig, Output, Request, Result, Score, ScoreRequest,
    Stats, Tokenizer, request::EngineOptions,
};
use std::path::Path;

/// A loaded model with its tokenizer, KV cache and scheduler.
pub struct Engine {
    tokenizer: Tokenizer,
    chat_template: Option<ChatTemplate>,
    config: ModelConfig,
}

impl Engine {
    /// Loads a `.gguf` file, or a Hugging Face folder with `config.json`, safetensors and `tokenizer.json`.
    ///
    /// # Errors
    /// Every variant of [`Error`] that concerns files, devices or memory.
    pub fn load(_path: impl AsRef<Path>, _options: EngineOptions) -> Result<Self> {
        Err(Error::InvalidRequest("the engine is not connected yet".into()))
    }

    /// Continues every request and returns the outputs in the order of the requests.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`], [`Error::PromptTooLong`], or what the backend refuses; then no output is returned.
    pub fn generate(&mut self, requests: Vec<Request>) -> Result<Vec<Output>> {
        let mut outputs = Vec::new();
        for event in self.stream(requests)? {
            if let Event::Finished(output) = event? {
                outputs.push(output);
            }
        }
        outputs.sort_by_key(|output| output.request);
        Ok(outputs)
    }

    /// As [`generate`](Self::generate), but yields every token as it comes, and each output when it is finished (in
    /// order of completion). Dropping the iterator abandons what is unfinished.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] or [`Error::PromptTooLong`] before anything is computed.
    pub fn stream(&mut self, _requests: Vec<Request>) -> Result<impl Iterator<Item = Result<Event>> + '_> {
        Ok(std::iter::empty())
    }

    /// The log-probabilities of every request, in order. Continuations share the pages of their context.
    ///
    /// # Errors
    /// As for [`generate`](Self::generate).
    pub fn score(&mut self, _requests: Vec<ScoreRequest>) -> Result<Vec<Score>> {
        Err(Error::InvalidRequest("the engine is not connected yet".into()))
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The model's chat template, if it has one.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.chat_template.as_ref()
    }

    /// The numbers that define the model.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Longest context in tokens, prompt and output together.
    pub fn max_seq_len(&self) -> usize {
        self.config.max_position_embeddings
    }

    /// Where the memory goes.
    pub fn memory_plan(&self) -> &MemoryPlan {
        unimplemented!()
    }

    /// What results depend on beside the request.
    pub fn fingerprint(&self) -> &Fingerprint {
        unimplemented!()
    }

    /// What has been computed since the engine was loaded.
    pub fn stats(&self) -> Stats {
        Stats::default()
    }
}
