//! From the dictionary of a model to what is loaded and how it is asked.

use super::Entry;
use crate::{
    diagnostics::{Error, Result},
    hub, kwargs,
};
use oc_engine::{Device, Dtype, SamplingParams};
use oc_eval::{HfType, ModelConfig, Truncation, extract::Extractor, models::Class, names};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Keys of a model's dictionary that mean something here.
const KEYS: [&str; 20] = [
    "abbr",
    "type",
    "path",
    "tokenizer_path",
    "model_kwargs",
    "tokenizer_kwargs",
    "generation_kwargs",
    "max_seq_len",
    "max_out_len",
    "batch_size",
    "meta_template",
    "stop_words",
    "end_str",
    "run_cfg",
    "min_out_len",
    "pad_token_id",
    "mode",
    "drop_middle",
    "batch_padding",
    "pred_postprocessor",
];

/// Keys that change nothing here: what they are for there.
const IGNORED: [(&str, &str); 2] = [
    ("summarizer_abbr", "the table has one name for each model"),
    ("tokenizer_only", "prompts are shown without weights by `oc-cli prompt`"),
];

/// Keys that must be absent or switched off.
const REFUSED: [(&str, &str); 4] = [
    ("peft_path", "merge the adapter into the weights first, and give that folder"),
    ("peft_kwargs", "merge the adapter into the weights first, and give that folder"),
    ("fastchat_template", "use the model's own chat template (HuggingFacewithChatTemplate), or a meta_template"),
    ("extract_pred_after_decode", "leave it out: answers never hold their prompt"),
];

/// Where weights are looked for.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// `--models-dir`.
    pub models_dir: Option<PathBuf>,
    /// The cache of the Hugging Face hub.
    pub hub: Option<PathBuf>,
}

/// What the dictionary of a model decides.
#[derive(Debug)]
pub struct Settings {
    /// For the record.
    pub config: ModelConfig,
    /// The weights, or why they are not found.
    pub path: Result<PathBuf>,
    /// The tokenizer, where it is elsewhere.
    pub tokenizer_path: Option<PathBuf>,
    /// `torch_dtype` of `model_kwargs`.
    pub dtype: Option<Dtype>,
    /// `device_map` of `model_kwargs`.
    pub device: Option<Device>,
    /// How prompts reach it.
    pub hf_type: HfType,
    /// `meta_template`.
    pub meta_template: Option<Value>,
    /// Limit of a prompt in tokens.
    pub max_seq_len: Option<usize>,
    /// `mode`, or `drop_middle`.
    pub truncation: Truncation,
    /// The class is `HuggingFaceCausalLM`.
    pub is_causal_lm: bool,
    /// `batch_padding`.
    pub has_batch_padding: bool,
    /// Most tokens to generate.
    pub max_out_len: usize,
    /// Fewest tokens to generate.
    pub min_out_len: Option<usize>,
    /// `pad_token_id`.
    pub pad_token_id: Option<i64>,
    /// `pred_postprocessor`.
    pub pred_postprocessor: Option<Extractor>,
    /// Prompts of a batch there.
    pub batch_size: usize,
    /// `stop_words`, and `end_str` of the class that has it.
    pub stop_words: Vec<String>,
    /// `eos_token_id` of `generation_kwargs`.
    pub eos_token_ids: Option<Vec<u32>>,
    /// The rest of `generation_kwargs`.
    pub sampling: SamplingParams,
}

/// Reads the dictionary of a model. `ignore_dtype`: the command line names one. Notes go to `notes`.
///
/// # Errors
/// Keys that do not exist or are not supported, and values of the wrong kind, with their place.
pub fn settings(entry: &Entry, folders: &Place, ignore_dtype: bool, notes: &mut Vec<String>) -> Result<Settings> {
    let reader = Reader(entry);
    let Some(dict) = entry.dict.as_object() else { return Err(entry.error("it is no dictionary", "dict(type=…)")) };
    for (key, value) in dict {
        reader.check_key(key, value, notes)?;
    }
    let path = reader.text(dict, "path")?.ok_or_else(|| entry.error("`path` is missing", "path='folder or name'"))?;
    let class = reader.class(dict)?;
    let abbr = match reader.text(dict, "abbr")? {
        Some(abbr) => abbr,
        None => abbr_of(class, &path),
    };
    let is_causal = class == Class::HuggingFaceCausalLM;

    let at = |key: &str| format!("{}: {key}", entry.place);
    let mut model_kwargs = reader.map(dict, "model_kwargs")?;
    let raw = model_kwargs.clone();
    if ignore_dtype {
        model_kwargs.retain(|key, _| !matches!(key.as_str(), "torch_dtype" | "dtype"));
    }
    let kwargs = kwargs::model_of(&at("model_kwargs"), model_kwargs, notes)?;
    let tokenizer_kwargs = kwargs::tokenizer_of(&at("tokenizer_kwargs"), reader.map(dict, "tokenizer_kwargs")?, notes)?;
    let mut generation = reader.map(dict, "generation_kwargs")?;
    let eos_token_ids =
        generation.shift_remove("eos_token_id").map(|ids| reader.ids("eos_token_id", &ids)).transpose()?;
    let sampling = kwargs::generation_of(&at("generation_kwargs"), &generation, notes)?;

    let mut stop_words = reader.texts(dict, "stop_words")?;
    // An answer ends where it is cut there.
    let end = reader.text(dict, "end_str")?.filter(|end| !end.is_empty());
    let has_batch_padding = reader.flag(dict, "batch_padding")?;
    if is_causal {
        stop_words.extend(end);
    } else {
        let unused = [("end_str", end.is_some()), ("batch_padding", has_batch_padding)];
        for (key, _) in unused.into_iter().filter(|(_, is_given)| *is_given) {
            notes.push(no_effect(key, class));
        }
    }
    if class == Class::HuggingFaceBaseModel && dict.get("meta_template").is_some_and(|meta| !meta.is_null()) {
        notes.push("`meta_template` is used here; OpenCompass's HuggingFaceBaseModel ignores it".into());
    }
    let tokenizer = reader.text(dict, "tokenizer_path")?;
    let run_cfg = reader.map(dict, "run_cfg")?;
    let found = find(&path, folders).ok_or_else(|| not_found(&abbr, &path, entry, folders));
    let tokenizer_path = match tokenizer.as_ref().filter(|tokenizer| **tokenizer != path) {
        Some(tokenizer) => Some(find(tokenizer, folders).ok_or_else(|| not_found(&abbr, tokenizer, entry, folders))?),
        None => None,
    };
    Ok(Settings {
        config: ModelConfig {
            abbr,
            path,
            tokenizer_path: tokenizer,
            model_kwargs: raw,
            tokenizer_kwargs,
            num_gpus: run_cfg
                .get("num_gpus")
                .and_then(Value::as_u64)
                .and_then(|n| usize::try_from(n).ok())
                .unwrap_or(0),
            dict: Some(entry.dict.clone()),
        },
        path: found,
        tokenizer_path,
        dtype: kwargs.dtype,
        device: kwargs.device,
        hf_type: if class == Class::HuggingFacewithChatTemplate { HfType::Chat } else { HfType::Base },
        meta_template: dict.get("meta_template").filter(|meta| !meta.is_null()).cloned(),
        // The older class has a limit of its own.
        max_seq_len: reader.count(dict, "max_seq_len")?.or(is_causal.then_some(2048)),
        max_out_len: reader
            .count(dict, "max_out_len")?
            .ok_or_else(|| entry.error("`max_out_len` is missing", "max_out_len=100"))?,
        truncation: reader.truncation(dict, class, notes)?,
        is_causal_lm: is_causal,
        has_batch_padding,
        min_out_len: reader.count(dict, "min_out_len")?,
        pad_token_id: match dict.get("pad_token_id") {
            None | Some(Value::Null) => None,
            Some(id) => Some(id.as_i64().ok_or_else(|| reader.wrong("pad_token_id", id, "a token id"))?),
        },
        pred_postprocessor: match dict.get("pred_postprocessor") {
            None | Some(Value::Null) => None,
            Some(Value::Object(map)) => {
                let hint = "the functions that exist here can be named by a dataset or a model; leave it out otherwise";
                Some(Extractor::parse(map).map_err(|reason| entry.error(reason, hint))?)
            }
            Some(other) => return Err(reader.wrong("pred_postprocessor", other, "a dictionary")),
        },
        batch_size: reader.count(dict, "batch_size")?.unwrap_or(1),
        stop_words,
        eos_token_ids,
        sampling,
    })
}

fn no_effect(key: &str, class: Class) -> String {
    format!("`{key}` of a model has no effect: nor has it in OpenCompass's {}", class.name())
}

/// OpenCompass's name of a model that has none: its class and the last two parts of its path.
fn abbr_of(class: Class, path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let last = &parts[parts.len().saturating_sub(2)..];
    format!("{}_{}", class.name(), last.join("_"))
}

/// The weights called `path`: there, below the folder of models, or in the hub's cache.
fn find(path: &str, folders: &Place) -> Option<PathBuf> {
    let given = Path::new(path);
    if given.exists() {
        return Some(given.to_owned());
    }
    let name = given.file_name()?;
    let below = folders.models_dir.iter().flat_map(|dir| {
        let mut file = name.to_owned();
        file.push(".gguf");
        [dir.join(path.trim_start_matches('/')), dir.join(name), dir.join(file)]
    });
    if let Some(found) = below.into_iter().find(|candidate| candidate.exists()) {
        return Some(found);
    }
    let caches = folders.models_dir.iter().chain(&folders.hub);
    caches.filter_map(|dir| hub::find(dir, path)).next()
}

fn not_found(abbr: &str, path: &str, entry: &Entry, folders: &Place) -> Error {
    let dir = folders.models_dir.as_deref().unwrap_or(Path::new("models"));
    let name = path.rsplit('/').next().unwrap_or(path);
    let hub = folders.hub.as_ref().map_or(String::new(), |hub| format!(", or the hub's cache in {}", hub.display()));
    entry.error(
        format!("the weights of {abbr} (`{path}`) were not found"),
        format!(
            "put its folder (config.json, safetensors, tokenizer.json) at {}, or a file at {}{hub}; --models-dir names \
             another place; nothing is downloaded unasked, `oc-cli pull {path}` does it",
            dir.join(path).display(),
            dir.join(format!("{name}.gguf")).display()
        ),
    )
}

/// Reads values of a dictionary.
struct Reader<'a>(&'a Entry);

impl Reader<'_> {
    fn check_key(&self, key: &str, value: &Value, notes: &mut Vec<String>) -> Result<()> {
        let is_off = match value {
            Value::Null | Value::Bool(false) => true,
            Value::Object(map) => map.is_empty(),
            Value::String(text) => text == "none",
            _ => false,
        };
        if KEYS.contains(&key) {
            return Ok(());
        }
        if let Some((_, why)) = IGNORED.iter().find(|(ignored, _)| *ignored == key) {
            let note = format!("`{key}` of a model has no effect: {why}");
            if !is_off && !notes.contains(&note) {
                notes.push(note);
            }
            return Ok(());
        }
        if let Some((_, hint)) = REFUSED.iter().find(|(refused, _)| *refused == key) {
            return if is_off { Ok(()) } else { Err(self.0.error(format!("`{key}` is not supported"), hint)) };
        }
        let known = || KEYS.iter().chain(IGNORED.iter().map(|(key, _)| key)).copied();
        let near = names::did_you_mean(&names::near(key, known()));
        let hint = format!("a model has {}", known().collect::<Vec<_>>().join(", "));
        Err(self.0.error(format!("unknown key `{key}` of a model{near}"), hint))
    }

    fn class(&self, dict: &Map<String, Value>) -> Result<Class> {
        let dotted = self.text(dict, "type")?.unwrap_or_default();
        let name = dotted.rsplit('.').next().unwrap_or(&dotted);
        Class::ALL.into_iter().find(|class| class.name() == name).ok_or_else(|| {
            let known = Class::ALL.map(Class::name).join(", ");
            self.0.error(format!("a model of type `{dotted}` does not exist here"), format!("types are {known}"))
        })
    }

    fn wrong(&self, key: &str, value: &Value, wanted: &str) -> Error {
        self.0.error(format!("`{key}` is {value}"), format!("{key} takes {wanted}"))
    }

    fn text(&self, dict: &Map<String, Value>, key: &str) -> Result<Option<String>> {
        match dict.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(self.wrong(key, other, "text")),
        }
    }

    fn texts(&self, dict: &Map<String, Value>, key: &str) -> Result<Vec<String>> {
        let text = |list: &Value, value: &Value| match value {
            Value::String(text) => Ok(text.clone()),
            _ => Err(self.wrong(key, list, "a list of texts")),
        };
        match dict.get(key) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(list @ Value::Array(items)) => items.iter().map(|item| text(list, item)).collect(),
            Some(other) => Err(self.wrong(key, other, "a list of texts")),
        }
    }

    fn count(&self, dict: &Map<String, Value>, key: &str) -> Result<Option<usize>> {
        match dict.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let count = value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
                count.map(Some).ok_or_else(|| self.wrong(key, value, "a whole number above 0"))
            }
        }
    }

    fn flag(&self, dict: &Map<String, Value>, key: &str) -> Result<bool> {
        match dict.get(key) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.wrong(key, other, "True or False")),
        }
    }

    /// `mode` of the classes that have it, else `drop_middle`: where a class has the other key, it has no effect.
    fn truncation(&self, dict: &Map<String, Value>, class: Class, notes: &mut Vec<String>) -> Result<Truncation> {
        let is_mid = match dict.get("mode").map(|mode| (mode, mode.as_str())) {
            None | Some((Value::Null, _) | (_, Some("none"))) => false,
            Some((_, Some("mid"))) => true,
            Some((other, _)) => return Err(self.wrong("mode", other, "'none' or 'mid'")),
        };
        let drops_middle = self.flag(dict, "drop_middle")?;
        let (is_middle, unused) = match class {
            Class::HuggingFaceBaseModel => (drops_middle, is_mid.then_some("mode")),
            _ => (is_mid, drops_middle.then_some("drop_middle")),
        };
        if let Some(key) = unused {
            notes.push(no_effect(key, class));
        }
        Ok(if is_middle { Truncation::Middle } else { Truncation::Left })
    }

    fn map(&self, dict: &Map<String, Value>, key: &str) -> Result<Map<String, Value>> {
        match dict.get(key) {
            None | Some(Value::Null) => Ok(Map::new()),
            Some(Value::Object(map)) => Ok(map.clone()),
            Some(other) => Err(self.wrong(key, other, "a dictionary")),
        }
    }

    fn ids(&self, key: &str, value: &Value) -> Result<Vec<u32>> {
        let items = match value {
            Value::Array(items) => items.clone(),
            one => vec![one.clone()],
        };
        let id = |item: &Value| item.as_u64().and_then(|n| u32::try_from(n).ok());
        let ids: Option<Vec<u32>> = items.iter().map(id).collect();
        ids.filter(|ids| !ids.is_empty()).ok_or_else(|| self.wrong(key, value, "a token id, or a list of them"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oc_eval::models;
    use serde_json::json;

    fn read(dict: Value, folders: &Place) -> Result<Settings> {
        settings(&Entry { dict, place: "x.py:3".into() }, folders, false, &mut Vec::new())
    }

    #[test]
    fn every_registered_model_is_understood() {
        for model in models::all() {
            let settings = read(model.config(), &Place::default()).unwrap_or_else(|e| panic!("{}: {e}", model.name));
            let error = settings.path.unwrap_err().to_string();
            assert!(error.contains(model.abbr) && error.contains(&format!("models/{}", model.path)), "{error}");
        }
    }

    #[test]
    fn the_older_class_has_markers_and_an_end() {
        let dict = models::find("hf_internlm2_chat_7b_with_system").unwrap().config();
        let settings = read(dict, &Place::default()).unwrap();
        assert_eq!((settings.hf_type, settings.max_seq_len, settings.max_out_len), (HfType::Base, Some(2048), 100));
        assert_eq!(settings.stop_words, ["<|im_end|>"]);
        assert_eq!(settings.eos_token_ids, Some(vec![2, 92542]));
        assert_eq!(settings.meta_template.unwrap()["round"][0]["role"], "SYSTEM");
    }

    #[test]
    fn classes_cut_as_opencompasss() {
        let settings = |name: &str, key: &str, value: Value| {
            let mut dict = models::find(name).unwrap().config();
            dict[key] = value;
            let mut notes = Vec::new();
            let entry = Entry { dict, place: "x.py:3".into() };
            let settings = settings(&entry, &Place::default(), false, &mut notes).unwrap();
            (settings.truncation, notes.iter().filter(|note| note.starts_with(&format!("`{key}`"))).count())
        };
        let (base, chat) = ("hf_opt_125m", "hf_internlm2_chat_7b");
        assert_eq!(settings(base, "drop_middle", json!(true)), (Truncation::Middle, 0));
        assert_eq!(settings(base, "mode", json!("mid")), (Truncation::Left, 1));
        assert_eq!(settings(chat, "mode", json!("mid")), (Truncation::Middle, 0));
        assert_eq!(settings(chat, "mode", json!("none")), (Truncation::Left, 0));
        assert_eq!(settings("hf_internlm2_chat_7b_with_system", "mode", json!("mid")), (Truncation::Middle, 0));
    }

    #[test]
    fn weights_are_found_below_the_folder_of_models_and_in_the_cache() {
        let dir = tempfile::tempdir().unwrap();
        let folders = Place { models_dir: Some(dir.path().join("m")), hub: Some(dir.path().join("hub")) };
        let found =
            || find("facebook/opt-125m", &folders).map(|path| path.strip_prefix(dir.path()).unwrap().to_owned());
        assert_eq!(found(), None);
        let cached = dir.path().join("hub/models--facebook--opt-125m");
        std::fs::create_dir_all(cached.join("snapshots/abc")).unwrap();
        assert_eq!(found().unwrap(), Path::new("hub/models--facebook--opt-125m/snapshots/abc"));
        std::fs::create_dir_all(cached.join("snapshots/def")).unwrap();
        assert_eq!(found(), None);
        std::fs::create_dir_all(cached.join("refs")).unwrap();
        std::fs::write(cached.join("refs/main"), "def\n").unwrap();
        assert_eq!(found().unwrap(), Path::new("hub/models--facebook--opt-125m/snapshots/def"));
        std::fs::create_dir_all(dir.path().join("m")).unwrap();
        std::fs::write(dir.path().join("m/opt-125m.gguf"), "").unwrap();
        assert_eq!(found().unwrap(), Path::new("m/opt-125m.gguf"));
        std::fs::create_dir_all(dir.path().join("m/facebook/opt-125m")).unwrap();
        assert_eq!(found().unwrap(), Path::new("m/facebook/opt-125m"));
    }

    #[test]
    fn what_is_not_supported_is_named_with_its_place() {
        let base = || models::find("hf_opt_125m").unwrap().config();
        let error = |key: &str, value: Value| {
            let mut dict = base();
            dict[key] = value;
            read(dict, &Place::default()).map(|_| ()).unwrap_err().to_string()
        };
        assert!(error("max_sequence", json!(3)).starts_with("x.py:3: unknown key `max_sequence` of a model"));
        assert!(error("batchsize", json!(3)).contains("did you mean `batch_size`"));
        assert!(error("peft_path", json!("x")).starts_with("x.py:3: `peft_path` is not supported"));
        assert!(error("mode", json!("left")).contains("`mode` is \"left\""));
        assert!(error("drop_middle", json!("x")).contains("`drop_middle` is \"x\""));
        assert!(error("max_out_len", json!("x")).contains("`max_out_len` is \"x\""));
        assert!(
            error("type", json!("opencompass.models.OpenAI")).contains("`opencompass.models.OpenAI` does not exist")
        );
        assert!(error("model_kwargs", json!({"load_in_8bit": true})).contains("unknown key `load_in_8bit` in x.py:3"));
        assert!(error("path", json!(null)).contains("`path` is missing"));
    }

    #[test]
    fn a_model_without_a_name_gets_opencompasss() {
        assert_eq!(abbr_of(Class::HuggingFaceCausalLM, "/a/b/c"), "HuggingFaceCausalLM_b_c");
        assert_eq!(abbr_of(Class::HuggingFaceCausalLM, "c"), "HuggingFaceCausalLM_c");
    }
}
