//! What a model makes of text, for which no weights are needed.

use crate::{ChatTemplate, EngineOptions, Error, ModelConfig, ModelFiles, PadTokens, Positions, Result, Tokenizer};

/// A model's tokenizer, chat template and lengths: all that prompts depend on.
pub struct InputProcessor {
    tokenizer: Tokenizer,
    chat_template: Option<ChatTemplate>,
    pad_tokens: PadTokens,
    config: ModelConfig,
    max_seq_len: usize,
}

impl InputProcessor {
    /// That of open files, as an engine with these options has it. No weight is read.
    ///
    /// # Errors
    /// A tokenizer or template that cannot be read; [`Error::VocabMismatch`] for one that the model has no rows for;
    /// [`Error::Unsupported`] for a context that the model has no positions for.
    pub fn of_model(files: &ModelFiles, options: &EngineOptions) -> Result<Self> {
        let mut config = files.config().clone();
        if let Some(ids) = &options.eos_token_ids {
            config.eos_token_ids.clone_from(ids);
        }
        let path = options.tokenizer_path.as_deref();
        let tokenizer = match path {
            Some(path) => Tokenizer::open(path)?,
            None => Tokenizer::of_model(files)?,
        };
        if tokenizer.vocab_size() > config.vocab_size {
            return Err(Error::VocabMismatch { tokenizer: tokenizer.vocab_size(), model: config.vocab_size });
        }
        Ok(Self {
            chat_template: ChatTemplate::of_model(files, path)?,
            pad_tokens: PadTokens::of_model(files, path, &tokenizer)?,
            tokenizer,
            config,
            max_seq_len: context(files, options)?,
        })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The tokens that other programs take for padding; nothing is padded here.
    pub fn pad_tokens(&self) -> PadTokens {
        self.pad_tokens
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
        self.max_seq_len
    }
}

/// Longest context in tokens.
///
/// # Errors
/// [`Error::Unsupported`] for one that the model has no positions for.
pub(crate) fn context(files: &ModelFiles, options: &EngineOptions) -> Result<usize> {
    let trained = files.config().max_position_embeddings;
    match options.max_seq_len.unwrap_or(trained) {
        len if len > trained && files.config().positions != Positions::Rotary => Err(Error::Unsupported {
            what: format!("a context of {len} tokens, where the model has learned only {trained} positions,"),
            hint: format!("use --max-seq-len {trained} or less"),
        }),
        len => Ok(len),
    }
}
