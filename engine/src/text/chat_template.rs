//! Chat templates in Jinja, run by minijinja with limits on steps and output.

use crate::{Error, Result, load::ModelFiles};

/// One message of a chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatMessage {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
}

/// A model's chat template.
pub struct ChatTemplate {}

impl ChatTemplate {
    /// The template of `files`: of the GGUF metadata, or `chat_template.jinja` or `tokenizer_config.json` in the folder.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] when it does not parse.
    pub(crate) fn of_model(_files: &ModelFiles) -> Result<Option<Self>> {
        Ok(None)
    }

    /// The text that the template makes of `messages`; with `add_generation_prompt` ending where the assistant's
    /// answer begins.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`]: what the template raised, or the limit it exceeded.
    pub fn render(&self, _messages: &[ChatMessage], _add_generation_prompt: bool) -> Result<String> {
        Err(Error::ChatTemplate("not connected yet".into()))
    }

    /// Fingerprint of the template's text, 32 hex digits.
    pub fn fingerprint(&self) -> &str {
        ""
    }
}
