//! `tokenizer_config.json`: special tokens by role, and the chat template.

use super::gguf_vocab::surround;
use crate::{
    Error, Result,
    load::{read_json, read_text},
};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The roles that templates may use, e.g. `bos_token`.
pub(super) const ROLES: [&str; 4] = ["bos", "eos", "unk", "pad"];

/// What a folder says about its tokenizer beside its vocabulary.
pub(super) struct TokenizerConfig {
    path: PathBuf,
    json: Value,
}

impl TokenizerConfig {
    /// Of a folder; `None` where it has no such file.
    pub fn of_folder(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join("tokenizer_config.json");
        if !path.is_file() {
            return Ok(None);
        }
        let json = read_json(&path)?;
        Ok(Some(Self { path, json }))
    }

    pub fn malformed(&self, reason: String) -> Error {
        Error::Malformed { path: self.path.clone(), reason }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its contents.
    pub fn json(&self) -> &Value {
        &self.json
    }

    /// The token in the role `bos`, `eos`, `unk` or `pad`.
    pub fn special(&self, role: &str) -> Option<&str> {
        let token = &self.json[format!("{role}_token")];
        token.as_str().or_else(|| token["content"].as_str())
    }

    /// LLaMA's tokenizer classes decide about BOS and EOS by two flags, whatever `tokenizer.json` says; other classes
    /// follow `tokenizer.json`.
    pub fn apply_bos_and_eos(&self, tokenizer: &mut tokenizers::Tokenizer) -> Result<(), String> {
        let class = self.json["tokenizer_class"].as_str().unwrap_or_default();
        let flag = |role: &str| self.json[format!("add_{role}_token")].as_bool();
        if !matches!(class, "LlamaTokenizer" | "LlamaTokenizerFast") || (flag("bos"), flag("eos")) == (None, None) {
            return Ok(());
        }
        let wanted = |role: &str, default: bool| {
            if !flag(role).unwrap_or(default) {
                return Ok(None);
            }
            self.special(role).map(Some).ok_or(format!("add_{role}_token is set, but {role}_token is not"))
        };
        surround(tokenizer, wanted("bos", true)?, wanted("eos", false)?)
    }

    /// The template in `chat_template`: text, or the one named `default` in a list.
    pub fn chat_template(&self) -> Result<Option<String>> {
        match &self.json["chat_template"] {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text.clone())),
            Value::Array(list) => {
                let default = list.iter().find(|entry| entry["name"] == "default");
                Ok(default.and_then(|entry| entry["template"].as_str()).map(str::to_owned))
            }
            other => Err(self.malformed(format!("`chat_template` is {other}, but must be text or a list"))),
        }
    }
}

/// The chat template of a folder: `chat_template.jinja`, or the one in `tokenizer_config.json`.
pub(super) fn chat_template(folder: &Path, config: Option<&TokenizerConfig>) -> Result<Option<String>> {
    let file = folder.join("chat_template.jinja");
    if file.is_file() {
        return read_text(&file).map(Some);
    }
    Ok(config.map(TokenizerConfig::chat_template).transpose()?.flatten())
}
