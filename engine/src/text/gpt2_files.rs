//! GPT-2's tokenizer files, which OPT is published with: `vocab.json`, `merges.txt` and `tokenizer_config.json`.

use super::{
    gguf_vocab::{bytes, model, surround},
    tokenizer_config::{ROLES, TokenizerConfig},
};
use crate::{
    Error, Result,
    load::{read_json, read_text},
};
use serde_json::Value;
use std::path::Path;
use tokenizers::{AddedToken, Tokenizer, models::bpe::Vocab};

/// The tokenizer classes that split text as GPT-2 does.
const CLASSES: [&str; 2] = ["GPT2Tokenizer", "GPT2TokenizerFast"];

/// Builds the tokenizer of a folder that has a `vocab.json`.
///
/// # Errors
/// [`Error::Io`]; [`Error::Malformed`] for files that do not fit together; [`Error::Unsupported`] for another class of
/// tokenizer, whose rules do not stand in these files.
pub(super) fn tokenizer(folder: &Path) -> Result<Tokenizer> {
    let config = TokenizerConfig::of_folder(folder)?;
    let class = config.as_ref().and_then(|config| config.json()["tokenizer_class"].as_str()).unwrap_or("none");
    let Some(config) = config.as_ref().filter(|_| CLASSES.contains(&class)) else {
        return Err(Error::Unsupported {
            what: format!("{}: a vocab.json whose tokenizer_class is {class}", folder.display()),
            hint: "transformers writes a tokenizer.json with AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
                .into(),
        });
    };
    let json = config.json();
    let (ids_path, merges_path) = (folder.join("vocab.json"), folder.join("merges.txt"));
    let ids = vocabulary(&ids_path)?;
    let text = read_text(&merges_path)?;
    let merges = text.lines().filter(|line| !line.starts_with("#version") && !line.is_empty());
    let malformed = |reason: String| Error::Malformed { path: merges_path.clone(), reason };
    let mut tokenizer = Tokenizer::new(model(ids, merges, false).map_err(malformed)?);
    tokenizer
        .with_pre_tokenizer(Some(bytes(true).add_prefix_space(json["add_prefix_space"].as_bool().unwrap_or(false))));
    tokenizer.with_decoder(Some(bytes(true)));
    add_special_tokens(folder, config, &mut tokenizer)?;
    let wanted = |role: &str| {
        let is_added = json[format!("add_{role}_token")].as_bool().unwrap_or(false);
        if !is_added {
            return Ok(None);
        }
        let missing = || config.malformed(format!("add_{role}_token is set, but {role}_token is not"));
        config.special(role).map(Some).ok_or_else(missing)
    };
    surround(&mut tokenizer, wanted("bos")?, wanted("eos")?).map_err(|reason| config.malformed(reason))?;
    Ok(tokenizer)
}

/// The ids by token.
fn vocabulary(path: &Path) -> Result<Vocab> {
    let malformed = |reason: String| Error::Malformed { path: path.to_owned(), reason };
    let json = read_json(path)?;
    let object = json.as_object().ok_or_else(|| malformed("the file does not hold a JSON object".into()))?;
    let (mut ids, mut seen) = (Vocab::with_capacity(object.len()), vec![false; object.len()]);
    for (token, id) in object {
        // Ids without holes: anything else would be another file's.
        let index = id.as_u64().and_then(|id| usize::try_from(id).ok()).filter(|id| *id < seen.len());
        match index.map(|index| std::mem::replace(&mut seen[index], true)) {
            Some(false) => ids.insert(token.clone(), id.as_u64().unwrap_or(0) as u32),
            Some(true) => return Err(malformed(format!("the id {id} of {token:?} is also another token's"))),
            None => return Err(malformed(format!("{token:?} has the id {id}, but there are {} tokens", seen.len()))),
        };
    }
    Ok(ids)
}

/// Registers the tokens that are never split: those by role, and those added to the vocabulary, which follow it.
fn add_special_tokens(folder: &Path, config: &TokenizerConfig, tokenizer: &mut Tokenizer) -> Result<()> {
    let map_path = folder.join("special_tokens_map.json");
    let map = if map_path.is_file() { read_json(&map_path)? } else { Value::Null };
    let added = config.json()["added_tokens_decoder"].as_object();
    let mut by_id: Vec<(u64, &Value)> = Vec::new();
    for (id, token) in added.into_iter().flatten() {
        let number = id.parse().map_err(|_| config.malformed(format!("`added_tokens_decoder` has the id {id:?}")))?;
        by_id.push((number, token));
    }
    by_id.sort_by_key(|(id, _)| *id);
    let roles = ROLES.map(|role| format!("{role}_token"));
    let by_role = roles.iter().flat_map(|role| [&config.json()[role], &map[role]]).map(|token| (token, true));
    let more = map["additional_special_tokens"].as_array().into_iter().flatten().map(|token| (token, true));
    let by_id = by_id.iter().map(|(_, token)| (*token, token["special"].as_bool().unwrap_or(false)));
    for (token, is_special) in by_id.chain(by_role).chain(more) {
        let Some(content) = token.as_str().or_else(|| token["content"].as_str()).filter(|text| !text.is_empty()) else {
            continue;
        };
        let flag = |name: &str| token[name].as_bool().unwrap_or(false);
        let token = AddedToken::from(content, is_special)
            .single_word(flag("single_word"))
            .lstrip(flag("lstrip"))
            .rstrip(flag("rstrip"))
            .normalized(false);
        if is_special {
            tokenizer.add_special_tokens(&[token])
        } else {
            tokenizer.add_tokens(&[token])
        };
    }
    for (id, token) in added.into_iter().flatten() {
        let content = token["content"].as_str().unwrap_or_default();
        if tokenizer.token_to_id(content).map(|id| id.to_string()).as_deref() != Some(id.as_str()) {
            return Err(config.malformed(format!("the added token {content:?} cannot have the id {id}")));
        }
    }
    Ok(())
}
