//! What an evaluation needs of a model: the engine in production, a scripted one in tests.

use crate::Result;
use oc_engine::{Output, Request, Score, ScoreRequest, Stats};
use serde::{Deserialize, Serialize};

/// One message of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
}

/// What makes two answers to the same token ids comparable. Every field is compared on resume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelIdentity {
    /// Fingerprint of the weights: of their contents, not of their path.
    pub weights: String,
    /// Fingerprint of the tokenizer.
    pub tokenizer: String,
    /// Fingerprint of the chat template; `None` where the model has none.
    pub chat_template: Option<String>,
    /// What is computed with: `f32`, `bf16`, `int8`.
    pub dtype: String,
    /// Kind of device: `cpu`, `cuda`.
    pub device: String,
    /// Changes whenever the same inputs may give other bits.
    pub numeric_version: String,
}

/// The tokens that OpenCompass may take for padding: those of the model's own files. `None`: no such token is named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PadTokens {
    /// Of the tokenizer.
    pub tokenizer: Option<u32>,
    /// Of `generation_config.json`.
    pub generation_config: Option<u32>,
    /// The tokenizer's end of a text.
    pub eos: Option<u32>,
    /// Size of the tokenizer's vocabulary, from whose end negative ids count.
    pub vocab_size: usize,
}

/// What [`Model::generate`] calls with every finished output, in completion order, and with `None` every now and then
/// between them; and the counters so far. An error ends the generation and is returned by it.
pub type OnOutput<'a> = dyn FnMut(Option<Output>, Stats) -> Result<()> + 'a;

/// The same for [`Model::score`].
pub type OnScore<'a> = dyn FnMut(Option<Score>, Stats) -> Result<()> + 'a;

/// A language model with its tokenizer.
pub trait Model {
    /// For messages, e.g. the file's name.
    fn name(&self) -> &str;

    /// What its answers depend on.
    ///
    /// # Errors
    /// A model that is there for its prompts only gives no answers.
    fn identity(&self) -> Result<ModelIdentity>;

    /// Longest context in tokens, prompt and output together.
    fn max_seq_len(&self) -> usize;

    /// The longest text whose tokens have the same likelihoods however long it becomes: longer ones that begin alike are to
    /// be scored together only if they are equally long.
    fn unscaled_context(&self) -> usize {
        usize::MAX
    }

    /// Ids of `text`. With `add_special_tokens` as the tokenizer does by default (a BOS only if the tokenizer adds
    /// one), without it nothing is added: a rendered chat template carries its own special tokens.
    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>>;

    /// [`encode`](Self::encode) of many texts; an implementation may use several threads.
    fn encode_all(&self, texts: &[String], add_special_tokens: bool) -> Result<Vec<Vec<u32>>> {
        texts.iter().map(|text| self.encode(text, add_special_tokens)).collect()
    }

    /// The text of `ids` without special tokens. Only prompts that are cut in the middle need it.
    ///
    /// # Errors
    /// By default: this model cannot do that.
    fn decode(&self, ids: &[u32]) -> Result<String> {
        let what = format!("{} cannot turn {} ids into text", self.name(), ids.len());
        Err(crate::Error::Config { what })
    }

    /// See [`PadTokens`]; by default there are none.
    fn pad_tokens(&self) -> PadTokens {
        PadTokens::default()
    }

    /// The text that the model's chat template makes of `messages`, ending where the assistant's next answer begins if
    /// that is to be generated. A named error if the model has no chat template.
    fn apply_chat_template(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String>;

    /// Continues every request. [`Output::request`] is the index in `requests`; requests that share a beginning
    /// stand side by side. Returns what this call computed.
    fn generate(&mut self, requests: Vec<Request>, on_output: &mut OnOutput<'_>) -> Result<Stats>;

    /// Finds the log-probabilities of every request. [`Score::request`] is the index in `requests`. Returns what this call
    /// computed.
    fn score(&mut self, requests: Vec<ScoreRequest>, on_score: &mut OnScore<'_>) -> Result<Stats>;
}
