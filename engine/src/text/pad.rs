//! The token that programs which pad their batches pad with. Nothing is padded here, but scores that are to be compared with
//! theirs leave it out.

use super::{Tokenizer, special_tokens::role, tokenizer_config::TokenizerConfig};
use crate::{
    ModelFiles, Result,
    load::{gguf::Gguf, read_json},
};
use std::path::Path;

/// The tokens that may be taken for padding, as a model's files name them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PadTokens {
    /// Of the tokenizer.
    pub tokenizer: Option<u32>,
    /// Of `generation_config.json`.
    pub generation_config: Option<u32>,
    /// The tokenizer's end of a text.
    pub eos: Option<u32>,
}

impl PadTokens {
    /// Of a model whose `tokenizer` may come from elsewhere.
    ///
    /// # Errors
    /// [`Error::Malformed`](crate::Error::Malformed) or [`Error::Io`](crate::Error::Io) for files that cannot be read.
    pub(crate) fn of_model(files: &ModelFiles, elsewhere: Option<&Path>, tokenizer: &Tokenizer) -> Result<Self> {
        let path = elsewhere.unwrap_or(files.path());
        let of_gguf = |gguf: &Gguf| {
            let id = |which: &str| gguf.u32(&format!("tokenizer.ggml.{which}_token_id"));
            Ok(Self { tokenizer: id("padding")?, generation_config: None, eos: id("eos")? })
        };
        match (elsewhere, files.gguf()) {
            (None, Some(gguf)) => return of_gguf(gguf),
            (Some(path), _) if crate::load::gguf::is_gguf(path) => return of_gguf(&Gguf::open(path)?),
            _ => {}
        }
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
        let config = TokenizerConfig::of_folder(folder)?;
        // The id of a special token's text: the one token it is encoded as.
        let id = |name: &str| -> Result<Option<u32>> {
            let Some(text) = role(folder, config.as_ref(), name)? else { return Ok(None) };
            Ok(match tokenizer.encode(&text, false)?[..] {
                [id] => Some(id),
                _ => None,
            })
        };
        let generation = folder.join("generation_config.json");
        let generation_config = if generation.is_file() {
            read_json(&generation)?["pad_token_id"].as_u64().and_then(|id| u32::try_from(id).ok())
        } else {
            None
        };
        Ok(Self { tokenizer: id("pad")?, generation_config, eos: id("eos")? })
    }
}
