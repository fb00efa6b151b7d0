//! The card of a model: what its files say, and everything in them that this engine refuses, without loading any of it.

use super::{ModelConfig, ModelFiles, Source, gguf::Gguf, gguf_config, names, read_json, shards::Shards};
use crate::{ChatTemplate, Error, Result, Tokenizer, memory, rank::Rank};
use oc_kernels::{
    Backend, Dtype, PAGE_SIZE,
    cpu::{CpuBackend, CpuOptions},
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Fields of one configuration that are reported at most; each is set aside to see what comes after it.
const MAX_FIELDS: usize = 64;

/// What the files of a model say.
#[derive(Debug, Default)]
pub struct ModelCard {
    /// The file or folder.
    pub path: PathBuf,
    /// Of the weights: `safetensors`, `pytorch_model.bin (zip)`, `pytorch_model.bin (before PyTorch 1.6)`, `GGUF`; empty
    /// where they cannot be read.
    pub format: String,
    /// The files with weights, and their bytes.
    pub files: Vec<(PathBuf, usize)>,
    /// The architecture as the files name it, whether it is known or not.
    pub architecture: Option<String>,
    /// The numbers that define the model, fields that are not supported set aside; `None` where there is no sense in them.
    pub config: Option<ModelConfig>,
    /// Numbers in all tensors; one that several names share counts once.
    pub parameters: usize,
    /// How they are stored, the most frequent format first.
    pub formats: Vec<FormatShare>,
    /// What running it takes, for each dtype of the processor.
    pub memory: Vec<MemoryNeed>,
    /// The tokenizer, if it can be read.
    pub tokenizer: Option<TokenizerCard>,
    /// Fingerprint of the chat template, if there is one.
    pub chat_template: Option<String>,
    /// Everything that stands in the way of running it, each a whole message.
    pub problems: Vec<Error>,
}

/// Tensors of one format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatShare {
    /// `BF16`, `Q4_K` …
    pub name: String,
    /// How many tensors.
    pub tensors: usize,
    /// How many numbers.
    pub parameters: usize,
    /// How many bytes.
    pub bytes: usize,
}

/// Memory that a model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryNeed {
    /// What is computed in.
    pub dtype: Dtype,
    /// Bytes of all weights.
    pub weights: usize,
    /// Bytes of keys and values for every token of every sequence.
    pub kv_per_token: usize,
}

/// What a tokenizer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizerCard {
    /// The algorithm: `BPE`, `SentencePiece BPE` …
    pub kind: &'static str,
    /// Largest id + 1.
    pub vocab_size: usize,
    /// Ids and texts of all special tokens, ascending.
    pub special_tokens: Vec<(u32, String)>,
    /// The ids that it puts around a text.
    pub added_around: Vec<u32>,
    /// Of everything that decides the ids.
    pub fingerprint: String,
}

impl ModelCard {
    /// Reads the headers of a `.gguf` file or a folder as [`ModelFiles::open`] takes it, and its tokenizer.
    ///
    /// # Errors
    /// [`Error::Io`] for a path that does not exist; whatever else is wrong is among the [`problems`](Self::problems).
    pub fn read(path: &Path) -> Result<Self> {
        let metadata = fs::metadata(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let mut card = Self { path: path.to_owned(), ..Self::default() };
        let source = if metadata.is_dir() { card.read_folder() } else { card.read_gguf() };
        if let Some(source) = source {
            card.count(&source);
            if let Some(config) = card.config.clone() {
                card.plan(&ModelFiles { path: path.to_owned(), config, source });
            }
        }
        let (tokenizer, template) = if metadata.is_dir() {
            (Tokenizer::open(path), ChatTemplate::at(path))
        } else {
            // They stand before the tensors, which may be cut off.
            match Gguf::open_metadata(path) {
                Ok(gguf) => (Tokenizer::of_gguf(&gguf), ChatTemplate::of_gguf(&gguf)),
                Err(error) => (Err(error), Ok(None)),
            }
        };
        match tokenizer {
            Ok(tokenizer) => card.describe(&tokenizer),
            Err(error) => card.add(error),
        }
        match template {
            Ok(template) => card.chat_template = template.map(|template| template.fingerprint().to_owned()),
            Err(error) => card.add(error),
        }
        Ok(card)
    }

    /// Adds a problem, once.
    fn add(&mut self, problem: Error) {
        let text = problem.to_string();
        if !self.problems.iter().any(|known| known.to_string() == text) {
            self.problems.push(problem);
        }
    }

    /// The configuration, every field of it that is not supported reported; the weights, if they can be opened.
    fn read_folder(&mut self) -> Option<Source> {
        let path = self.path.join("config.json");
        let generation = self.path.join("generation_config.json");
        match read_json(&path) {
            Ok(json) => {
                let generation = generation.is_file().then(|| read_json(&generation)).transpose();
                let generation = generation.unwrap_or_else(|error| {
                    self.add(error);
                    None
                });
                self.read_config(&path, json, generation.as_ref());
            }
            Err(error) => self.add(error),
        }
        let shards = match Shards::open(&self.path) {
            Ok(shards) => shards,
            Err(error) => {
                self.add(error);
                return None;
            }
        };
        let first = shards.maps().first();
        self.format =
            match first.map(|map| (map.path().extension().is_some_and(|e| e == "bin"), map.starts_with(b"PK"))) {
                Some((true, true)) => "pytorch_model.bin (zip)",
                Some((true, false)) => "pytorch_model.bin (before PyTorch 1.6)",
                _ => "safetensors",
            }
            .into();
        self.files = shards.maps().iter().map(|map| (map.path().to_owned(), map.len())).collect();
        let mut places = BTreeMap::new();
        if let Some(config) = self.config.clone() {
            for name in shards.tensors().keys().filter(|name| !names::is_derived(name)) {
                let parts = names::from_folder(&config, name);
                if parts.is_empty() {
                    self.add(super::unknown_tensor(&self.path.clone(), name, &config));
                }
                places.extend(parts.into_iter().map(|(to, rows)| (to, (name.clone(), rows))));
            }
        }
        Some(Source::Folder(shards, places))
    }

    /// Reads `config.json` again and again, without the field that was not supported.
    fn read_config(&mut self, path: &Path, mut json: Value, generation: Option<&Value>) {
        let named = json["architectures"][0].as_str().or_else(|| json["model_type"].as_str());
        self.architecture = named.map(str::to_owned);
        for _ in 0..MAX_FIELDS {
            match ModelConfig::from_json(path, &json, generation) {
                Ok(config) => {
                    self.config = Some(config);
                    return;
                }
                Err(error) => {
                    let field = unsupported_field(&error);
                    self.add(error);
                    let set_aside = field.is_some_and(|field| remove(&mut json, &field));
                    if !set_aside {
                        return;
                    }
                }
            }
        }
    }

    fn read_gguf(&mut self) -> Option<Source> {
        let gguf = match Gguf::open(&self.path) {
            Ok(gguf) => gguf,
            Err(error) => {
                self.add(error);
                let metadata = Gguf::open_metadata(&self.path).ok();
                self.architecture = metadata.and_then(|gguf| Some(gguf.str("general.architecture").ok()??.to_owned()));
                return None;
            }
        };
        self.format = "GGUF".into();
        self.files = vec![(self.path.clone(), gguf.map().len())];
        self.architecture = gguf.str("general.architecture").ok().flatten().map(str::to_owned);
        match gguf_config::config(&gguf) {
            Ok(config) => self.config = Some(config),
            Err(error) => self.add(error),
        }
        let mut hf_names = BTreeMap::new();
        if let Some(config) = self.config.clone() {
            for name in gguf.tensors().keys().filter(|name| !names::is_derived(name)) {
                match names::from_gguf(&config, name) {
                    Some(hf_name) => {
                        hf_names.insert(hf_name, name.clone());
                    }
                    None => self.add(super::unknown_tensor(&self.path.clone(), name, &config)),
                }
            }
        }
        Some(Source::Gguf(gguf, hf_names))
    }

    /// Counts what is stored.
    fn count(&mut self, source: &Source) {
        let mut shares: BTreeMap<String, FormatShare> = BTreeMap::new();
        let mut add = |name: String, shape: &[usize], bytes: usize| {
            let parameters = shape.iter().product::<usize>();
            let empty = FormatShare { name: name.clone(), tensors: 0, parameters: 0, bytes: 0 };
            let share = shares.entry(name).or_insert(empty);
            share.tensors += 1;
            share.parameters += parameters;
            share.bytes += bytes;
        };
        match source {
            Source::Gguf(gguf, _) => {
                for (_, info) in gguf.tensors().iter().filter(|(name, _)| !names::is_derived(name)) {
                    add(info.format.name().into(), &info.shape, info.range.len());
                }
            }
            Source::Folder(shards, _) => {
                let mut seen = BTreeSet::new();
                for (_, info) in shards.tensors().iter().filter(|(name, _)| !names::is_derived(name)) {
                    let bytes = shards.bytes(info);
                    if seen.insert((bytes.as_ptr() as usize, bytes.len())) || bytes.is_empty() {
                        let name = info.format.as_ref().map_or_else(Clone::clone, |format| format.name().to_owned());
                        add(name, &info.shape, bytes.len());
                    }
                }
            }
            // A card is of files.
            Source::Dummy(_) => {}
        }
        self.parameters = shares.values().map(|share| share.parameters).sum();
        self.formats = shares.into_values().collect();
        self.formats.sort_by_key(|share| std::cmp::Reverse(share.parameters));
    }

    /// What it takes to run.
    fn plan(&mut self, files: &ModelFiles) {
        let problems = memory::problems(files);
        if !problems.is_empty() {
            return problems.into_iter().for_each(|problem| self.add(problem));
        }
        for dtype in [Dtype::F32, Dtype::Bf16, Dtype::Int8] {
            let need = CpuBackend::new(CpuOptions { threads: 1, dtype, level: None }).map_err(Error::from);
            let need = need.and_then(|backend| {
                let kv_per_token = backend.kv_page_bytes(files.config().kv_layout(1)) / PAGE_SIZE;
                Ok(MemoryNeed { dtype, weights: memory::weight_bytes(&backend, files, Rank::ALONE)?, kv_per_token })
            });
            match need {
                Ok(need) => self.memory.push(need),
                Err(error) => self.add(error),
            }
        }
    }

    fn describe(&mut self, tokenizer: &Tokenizer) {
        let special = (0..tokenizer.vocab_size() as u32).filter(|id| tokenizer.is_special(*id));
        self.tokenizer = Some(TokenizerCard {
            kind: tokenizer.kind(),
            vocab_size: tokenizer.vocab_size(),
            special_tokens: special.filter_map(|id| Some((id, tokenizer.token(id)?))).collect(),
            added_around: tokenizer.encode("", true).unwrap_or_default(),
            fingerprint: tokenizer.fingerprint().to_owned(),
        });
        if let Some(model) = self.config.as_ref().map(|config| config.vocab_size)
            && tokenizer.vocab_size() > model
        {
            self.add(Error::VocabMismatch { tokenizer: tokenizer.vocab_size(), model });
        }
    }
}

/// The field of `config.json` that an error of it names first: `` `field` = value ``.
fn unsupported_field(error: &Error) -> Option<String> {
    let Error::Unsupported { what, .. } = error else { return None };
    // From the left: a value may be any text, a name may not.
    let (before, _) = what.split_once("` = ")?;
    before.rsplit_once('`').map(|(_, field)| field.to_owned())
}

/// Removes a field, wherever it stands; whether there was one.
fn remove(json: &mut Value, field: &str) -> bool {
    let Some(map) = json.as_object_mut() else { return false };
    map.shift_remove(field).is_some() || map.values_mut().any(|value| remove(value, field))
}
