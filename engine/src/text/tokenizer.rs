//! A tokenizer from `tokenizer.json` or from the vocabulary of a GGUF file.

use crate::{Error, Result, load::ModelFiles};
use std::path::Path;

/// Turns text into token ids and back.
pub struct Tokenizer {}

impl Tokenizer {
    /// Reads a `tokenizer.json`, a folder that holds one, or the vocabulary of a `.gguf` file.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Malformed`], or [`Error::Unsupported`] for a pre-tokenizer this engine does not know.
    pub fn open(_path: &Path) -> Result<Self> {
        Err(Error::Tokenizer("not connected yet".into()))
    }

    /// The tokenizer that belongs to `files`.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub(crate) fn of_model(_files: &ModelFiles) -> Result<Self> {
        Err(Error::Tokenizer("not connected yet".into()))
    }

    /// Ids of `text`. With `add_special_tokens` as the tokenizer does by default (a BOS only if it adds one). Special
    /// tokens spelt out in `text` become their ids, as in HF transformers.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn encode(&self, _text: &str, _add_special_tokens: bool) -> Result<Vec<u32>> {
        Ok(Vec::new())
    }

    /// [`encode`](Self::encode) of many texts, on several threads.
    ///
    /// # Errors
    /// As for [`encode`](Self::encode).
    pub fn encode_all(&self, texts: &[String], add_special_tokens: bool) -> Result<Vec<Vec<u32>>> {
        texts.iter().map(|text| self.encode(text, add_special_tokens)).collect()
    }

    /// The text of `ids`. Incomplete characters become U+FFFD.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] for an id outside the vocabulary.
    pub fn decode(&self, _ids: &[u32], _skip_special_tokens: bool) -> Result<String> {
        Ok(String::new())
    }

    /// Starts decoding token by token, special tokens left out.
    pub fn stream(&self) -> TextStream {
        TextStream {}
    }

    /// Largest id + 1.
    pub fn vocab_size(&self) -> usize {
        0
    }

    /// The token of this id as it stands in the vocabulary, e.g. `Ġthe` or `<|im_end|>`; `None` outside it.
    pub fn token(&self, _id: u32) -> Option<String> {
        None
    }

    /// Whether `id` is a special token.
    pub fn is_special(&self, _id: u32) -> bool {
        false
    }

    /// Fingerprint of everything that decides the ids, 32 hex digits.
    pub fn fingerprint(&self) -> &str {
        ""
    }
}

/// Decodes one sequence token by token without ever splitting a character.
#[derive(Clone, Debug)]
pub struct TextStream {}

impl TextStream {
    /// The text that `id` completes; empty while a character is incomplete.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] for an id outside the vocabulary.
    pub fn push(&mut self, _tokenizer: &Tokenizer, _id: u32) -> Result<String> {
        Ok(String::new())
    }

    /// What is left: U+FFFD where a character was cut, else nothing. The pieces together equal
    /// [`Tokenizer::decode`] of all ids.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn finish(self, _tokenizer: &Tokenizer) -> Result<String> {
        Ok(String::new())
    }
}
