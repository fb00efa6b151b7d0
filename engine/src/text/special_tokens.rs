//! Tokens that are looked for in a text before it is segmented, as Hugging Face's tokenizers do: special tokens by role and
//! those that a folder adds to its vocabulary.

use super::tokenizer_config::{ROLES, TokenizerConfig};
use crate::{Error, Result, load::read_json};
use serde_json::Value;
use std::{collections::BTreeMap, path::Path};

/// The text of the token in a role, `bos`, `eos`, `unk` or `pad`, as the files of a folder name it. Without
/// `tokenizer_config.json` it is LLaMA's usual one, if there is one.
///
/// # Errors
/// What cannot be read.
pub(super) fn role(folder: &Path, config: Option<&TokenizerConfig>, role: &str) -> Result<Option<String>> {
    let path = folder.join("special_tokens_map.json");
    let map = if path.is_file() { read_json(&path)? } else { Value::Null };
    let token = &map[format!("{role}_token")];
    let named = config.and_then(|config| config.special(role)).or(token.as_str().or_else(|| token["content"].as_str()));
    Ok(named.or(usual(role).filter(|_| config.is_none())).map(str::to_owned))
}

/// LLaMA's token in a role.
fn usual(role: &str) -> Option<&'static str> {
    match role {
        "bos" => Some("<s>"),
        "eos" => Some("</s>"),
        "unk" => Some("<unk>"),
        _ => None,
    }
}

/// The tokens and what is put around a text.
#[derive(Debug, Default)]
pub(super) struct SpecialTokens {
    /// Text and whether it is special (left out of decoded text), by id.
    tokens: BTreeMap<u32, (String, bool)>,
    /// Put in front of every text.
    pub prefix: Option<u32>,
    /// Put behind every text.
    pub suffix: Option<u32>,
}

impl SpecialTokens {
    /// Of the folder that a vocabulary with the ids `id_of` lies in.
    ///
    /// A folder without `tokenizer_config.json` has `<s>`, `</s>` and `<unk>`, and puts a BOS in front of a text, as
    /// LLaMA's and InternLM's tokenizer classes do.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a file that contradicts the vocabulary or another file.
    pub fn of_folder(folder: &Path, id_of: &dyn Fn(&str) -> Option<u32>) -> Result<Self> {
        let config = TokenizerConfig::of_folder(folder)?;
        let map_path = folder.join("special_tokens_map.json");
        let map = if map_path.is_file() { read_json(&map_path)? } else { Value::Null };
        let mut special = Self::default();
        // Ids first: a role may name a token that only these files know.
        let added_path = folder.join("added_tokens.json");
        if added_path.is_file() {
            let json = read_json(&added_path)?;
            for (text, id) in json.as_object().into_iter().flatten() {
                special.add(&added_path, text, id, false, id_of)?;
            }
        }
        if let Some(config) = &config {
            for (id, token) in config.json()["added_tokens_decoder"].as_object().into_iter().flatten() {
                let id = id.parse::<u32>().map_or(Value::String(id.clone()), Value::from);
                let text = token["content"].as_str().ok_or_else(|| {
                    config.malformed(format!("token {id} of `added_tokens_decoder` has no text `content`"))
                })?;
                special.add(config.path(), text, &id, token["special"].as_bool().unwrap_or(false), id_of)?;
            }
        }
        let mut by_role: BTreeMap<&str, u32> = BTreeMap::new();
        for role in ROLES {
            let key = format!("{role}_token");
            let in_map = map[&key].as_str().or_else(|| map[&key]["content"].as_str());
            let named = config.as_ref().and_then(|config| config.special(role)).or(in_map);
            let Some(text) = named.or(usual(role).filter(|_| config.is_none())) else { continue };
            let added = special.tokens.iter().find(|(_, (added, _))| added == text).map(|(id, _)| *id);
            if let Some(id) = added.or_else(|| id_of(text)) {
                special.tokens.entry(id).or_insert_with(|| (text.to_owned(), true)).1 = true;
                by_role.insert(role, id);
            }
        }
        let more = map["additional_special_tokens"].as_array().into_iter().flatten();
        for text in more.filter_map(|token| token.as_str().or_else(|| token["content"].as_str())) {
            if let Some(id) = id_of(text) {
                special.tokens.insert(id, (text.to_owned(), true));
            }
        }
        let flag = |role: &str| config.as_ref().and_then(|config| config.json()[format!("add_{role}_token")].as_bool());
        special.prefix = by_role.get("bos").copied().filter(|_| flag("bos").unwrap_or(true));
        special.suffix = by_role.get("eos").copied().filter(|_| flag("eos").unwrap_or(false));
        Ok(special)
    }

    /// Adds one token.
    pub fn insert(&mut self, id: u32, text: &str, is_special: bool) {
        self.tokens.insert(id, (text.to_owned(), is_special));
    }

    fn add(
        &mut self,
        path: &Path,
        text: &str,
        id: &Value,
        is_special: bool,
        id_of: &dyn Fn(&str) -> Option<u32>,
    ) -> Result<()> {
        let malformed = |reason: String| Error::Malformed { path: path.to_owned(), reason };
        let number = id.as_u64().and_then(|id| u32::try_from(id).ok()).filter(|id| *id < 1 << 31);
        let Some(number) = number else {
            return Err(malformed(format!("the added token {text:?} has the id {id}")));
        };
        if text.is_empty() {
            return Err(malformed(format!("the added token {number} is empty")));
        }
        if let Some(own) = id_of(text).filter(|own| *own != number) {
            return Err(malformed(format!(
                "the added token {text:?} has the id {number}, but {own} in the vocabulary"
            )));
        }
        if let Some((other, _)) = self.tokens.get(&number).filter(|(other, _)| other != text) {
            return Err(malformed(format!("{other:?} and {text:?} both have the id {number}")));
        }
        self.tokens.insert(number, (text.to_owned(), is_special));
        Ok(())
    }

    /// Cuts `text` at the tokens in it, the leftmost and then longest first: stretches of text, and tokens with their ids.
    pub fn split<'a>(&self, text: &'a str) -> Vec<(&'a str, Option<u32>)> {
        let (mut parts, mut start, mut at) = (Vec::new(), 0, 0);
        while at < text.len() {
            let here = self.tokens.iter().filter(|(_, (token, _))| text[at..].starts_with(token.as_str()));
            let Some((id, (token, _))) = here.max_by_key(|(_, (token, _))| token.len()) else {
                at += text[at..].chars().next().map_or(1, char::len_utf8);
                continue;
            };
            if start < at {
                parts.push((&text[start..at], None));
            }
            parts.push((&text[at..at + token.len()], Some(*id)));
            at += token.len();
            start = at;
        }
        if start < text.len() {
            parts.push((&text[start..], None));
        }
        parts
    }

    /// Id, text and whether it is special, of every token.
    pub fn all(&self) -> impl Iterator<Item = (u32, &str, bool)> {
        self.tokens.iter().map(|(id, (text, special))| (*id, text.as_str(), *special))
    }

    /// Its text, if it is one of these.
    pub fn token(&self, id: u32) -> Option<&str> {
        self.tokens.get(&id).map(|(text, _)| text.as_str())
    }

    /// Whether it is left out of decoded text.
    pub fn is_special(&self, id: u32) -> bool {
        self.tokens.get(&id).is_some_and(|(_, special)| *special)
    }

    /// Largest id + 1.
    pub fn vocab_size(&self) -> usize {
        self.tokens.keys().next_back().map_or(0, |id| *id as usize + 1)
    }
}
