//! A tokenizer from `tokenizer.json`, `tokenizer.model`, GPT-2's `vocab.json` or the vocabulary of a GGUF file.

use super::{
    gguf_vocab, gpt2_files,
    guard::{AnyJson, guarded},
    sentencepiece::SentencePiece,
    tokenizer_config::TokenizerConfig,
};
use crate::{
    Error, Result,
    load::{ModelFiles, gguf, hash::hash, read_text},
};
use std::{path::Path, thread};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

/// Ids without a token that a vocabulary may have beside as many as it has tokens.
const MAX_HOLES: usize = 1 << 16;
/// Fewer texts than this per thread are not worth a thread.
const MIN_TEXTS_PER_THREAD: usize = 8;

/// Files of a folder that a tokenizer is made from.
const TOKENIZER_FILES: [&str; 3] = ["tokenizer.json", "tokenizer.model", "vocab.json"];

/// Turns text into token ids and back.
pub struct Tokenizer {
    inner: Inner,
    vocab_size: usize,
    fingerprint: String,
}

enum Inner {
    /// `tokenizer.json`, and byte-level BPE of GPT-2's and GGUF files.
    Json(Box<tokenizers::Tokenizer>),
    /// `tokenizer.model`, and its kin in GGUF files.
    SentencePiece(Box<SentencePiece>),
}

impl Tokenizer {
    /// Reads a `tokenizer.json`, a `tokenizer.model`, a folder that holds one of them (the first, if both) or GPT-2's
    /// `vocab.json`, `merges.txt` and `tokenizer_config.json`, or the vocabulary of a `.gguf` file.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Malformed`], or [`Error::Unsupported`] for a kind of tokenizer this engine does not know.
    pub fn open(path: &Path) -> Result<Self> {
        if gguf::is_gguf(path) {
            return Self::of_gguf(&gguf::Gguf::open(path)?);
        }
        if !path.is_dir() {
            let is_model = path.extension().is_some_and(|extension| extension == "model");
            return if is_model { Ok(Self::sentencepiece(SentencePiece::open(path)?)) } else { Self::from_json(path) };
        }
        let [json, model] = ["tokenizer.json", "tokenizer.model"].map(|name| path.join(name));
        if json.is_file() {
            return Self::from_json(&json);
        }
        if model.is_file() {
            return Ok(Self::sentencepiece(SentencePiece::open(&model)?));
        }
        let vocab = path.join("vocab.json");
        if vocab.is_file() {
            return Self::new(gpt2_files::tokenizer(path)?, &read_text(&vocab)?);
        }
        let reason = "the folder has neither tokenizer.json nor tokenizer.model\n\nhint: name another folder with --tokenizer-path";
        Err(Error::Malformed { path: path.to_owned(), reason: reason.into() })
    }

    /// The tokenizer that belongs to `files`.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub(crate) fn of_model(files: &ModelFiles) -> Result<Self> {
        match files.gguf() {
            Some(gguf) => Self::of_gguf(gguf),
            // A benchmark needs none, and a configuration alone has none.
            None if files.is_dummy() && !TOKENIZER_FILES.iter().any(|name| files.path().join(name).is_file()) => {
                Self::of_bytes()
            }
            None => Self::open(files.path()),
        }
    }

    /// A token for each byte.
    fn of_bytes() -> Result<Self> {
        let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
        alphabet.sort_unstable();
        let ids = alphabet.into_iter().zip(0..).map(|(c, id)| (c.to_string(), id)).collect();
        let model = gguf_vocab::model(ids, std::iter::empty::<&str>(), false).map_err(Error::Tokenizer)?;
        let mut inner = tokenizers::Tokenizer::new(model);
        inner.with_pre_tokenizer(Some(gguf_vocab::bytes(false)));
        inner.with_decoder(Some(gguf_vocab::bytes(false)));
        // Its ids have no holes, as above.
        Self::new(inner, "")
    }

    /// As [`open`](Self::open), of an open file.
    pub(crate) fn of_gguf(gguf: &gguf::Gguf) -> Result<Self> {
        match gguf.str("tokenizer.ggml.model")? {
            Some("llama") => Ok(Self::sentencepiece(SentencePiece::of_gguf(gguf)?)),
            // Its ids have no holes: they are places in a list.
            _ => Self::new(gguf_vocab::tokenizer(gguf)?, ""),
        }
    }

    fn sentencepiece(inner: SentencePiece) -> Self {
        let (vocab_size, fingerprint) = (inner.vocab_size(), inner.fingerprint().to_owned());
        Self { inner: Inner::SentencePiece(Box::new(inner)), vocab_size, fingerprint }
    }

    fn from_json(file: &Path) -> Result<Self> {
        let malformed = |reason: String| Error::Malformed { path: file.to_owned(), reason };
        let text = read_text(file)?;
        serde_json::from_str::<AnyJson>(&text).map_err(|e| malformed(format!("not a tokenizer: {e}")))?;
        let config = file.parent().map(TokenizerConfig::of_folder).transpose()?.flatten();
        let read = guarded(|| {
            let mut inner: tokenizers::Tokenizer =
                text.parse().map_err(|e: tokenizers::Error| malformed(format!("not a tokenizer: {e}")))?;
            // A tokenizer saved after training may still cut or pad; a prompt is never changed silently here.
            inner.with_truncation(None).map_err(error)?;
            inner.with_padding(None);
            if let Some(config) = &config {
                config.apply_bos_and_eos(&mut inner).map_err(Error::Tokenizer)?;
            }
            Self::new(inner, &text)
        });
        read.map_err(|e| if let Error::Tokenizer(reason) = e { malformed(reason) } else { e })
    }

    /// Of a tokenizer that was read from `text`.
    fn new(inner: tokenizers::Tokenizer, text: &str) -> Result<Self> {
        let ids = inner.get_vocab(true).into_values();
        let (tokens, vocab_size) = (ids.len(), ids.max().map_or(0, |id| id as usize + 1));
        if vocab_size > 2 * tokens + MAX_HOLES {
            let largest = vocab_size - 1;
            return Err(Error::Tokenizer(format!("its ids go up to {largest}, but it has only {tokens} tokens")));
        }
        // The crate writes a vocabulary with holes id by id, and a line about them to standard output.
        let mut ids: Vec<u32> = inner.get_vocab(false).into_values().collect();
        ids.sort_unstable();
        ids.dedup();
        let is_dense = ids.last().is_none_or(|last| *last as usize + 1 == ids.len());
        let written = is_dense.then(|| inner.to_string(false).map_err(error)).transpose()?;
        let fingerprint = format!("{:032x}", hash(written.as_deref().unwrap_or(text).as_bytes()));
        Ok(Self { inner: Inner::Json(Box::new(inner)), vocab_size, fingerprint })
    }

    /// Ids of `text`. With `add_special_tokens` as the tokenizer does by default (a BOS only if it adds one). Special
    /// tokens spelt out in `text` become their ids, as in HF transformers.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        match &self.inner {
            Inner::Json(inner) => {
                guarded(|| Ok(inner.encode_fast(text, add_special_tokens).map_err(error)?.get_ids().to_vec()))
            }
            Inner::SentencePiece(inner) => Ok(inner.encode(text, add_special_tokens)),
        }
    }

    /// Refuses a prompt that begins twice with the token that this tokenizer puts in front of texts: once because it does,
    /// and once because a template, or whoever wrote the text, has done so too. No model has seen that in training.
    ///
    /// # Errors
    /// [`Error::DoubledBos`]; as for [`encode`](Self::encode).
    pub fn check_beginning(&self, ids: &[u32]) -> Result<()> {
        match self.encode("", true)?.first() {
            Some(bos) if ids.starts_with(&[*bos; 2]) => {
                Err(Error::DoubledBos { id: *bos, token: self.token(*bos).unwrap_or_default() })
            }
            _ => Ok(()),
        }
    }

    /// [`encode`](Self::encode) of many texts, on several threads.
    ///
    /// # Errors
    /// As for [`encode`](Self::encode).
    pub fn encode_all(&self, texts: &[String], add_special_tokens: bool) -> Result<Vec<Vec<u32>>> {
        let threads = thread::available_parallelism().map_or(1, |n| n.get());
        let per_thread = texts.len().div_ceil(threads).max(MIN_TEXTS_PER_THREAD);
        let encode = |texts: &[String]| -> Result<Vec<Vec<u32>>> {
            texts.iter().map(|text| self.encode(text, add_special_tokens)).collect()
        };
        let encode = &encode;
        thread::scope(|scope| {
            let parts: Vec<_> = texts.chunks(per_thread).map(|texts| scope.spawn(move || encode(texts))).collect();
            let mut ids = Vec::with_capacity(texts.len());
            for part in parts {
                let part = part.join().map_err(|_| Error::Tokenizer("a tokenizer thread panicked".into()))?;
                ids.extend(part?);
            }
            Ok(ids)
        })
    }

    /// The text of `ids`. Incomplete characters become U+FFFD. An id without a token (an embedding may have more rows
    /// than the tokenizer has tokens) is no text, as in HF transformers.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        match &self.inner {
            Inner::Json(inner) => guarded(|| inner.decode(ids, skip_special_tokens).map_err(error)),
            Inner::SentencePiece(inner) => Ok(inner.decode(ids, skip_special_tokens)),
        }
    }

    /// Starts decoding token by token, special tokens left out.
    pub fn stream(&self) -> TextStream {
        TextStream::default()
    }

    /// Largest id + 1.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The token of this id as it stands in the vocabulary, e.g. `Ġthe` or `<|im_end|>`; `None` outside it.
    pub fn token(&self, id: u32) -> Option<String> {
        match &self.inner {
            Inner::Json(inner) => inner.id_to_token(id),
            Inner::SentencePiece(inner) => inner.token(id),
        }
    }

    /// Whether `id` is a special token.
    pub fn is_special(&self, id: u32) -> bool {
        match &self.inner {
            Inner::Json(inner) => {
                let added = inner.get_added_vocabulary();
                added.get_added_tokens_decoder().get(&id).is_some_and(|token| token.special)
            }
            Inner::SentencePiece(inner) => inner.is_special(id),
        }
    }

    /// Fingerprint of everything that decides the ids, 32 hex digits.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The text of a `tokenizer.json` that is this tokenizer.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] with what a `tokenizer.json` cannot do, for some SentencePiece models.
    pub(crate) fn to_json(&self) -> Result<String> {
        match &self.inner {
            Inner::Json(inner) => inner.to_string(true).map_err(error),
            Inner::SentencePiece(inner) => {
                guarded(|| inner.to_json().map_err(Error::Tokenizer)?.to_string(true).map_err(error))
            }
        }
    }

    /// A `tokenizer.model` that is this tokenizer, and what its `tokenizer_config.json` has to say of tokens; `None` for
    /// one that is no SentencePiece model.
    pub(crate) fn to_sentencepiece(&self) -> Option<(Vec<u8>, serde_json::Map<String, serde_json::Value>)> {
        match &self.inner {
            Inner::Json(_) => None,
            Inner::SentencePiece(inner) => Some((inner.to_model(), inner.token_settings())),
        }
    }

    /// The algorithm, for people: `BPE`, `SentencePiece BPE` …
    pub fn kind(&self) -> &'static str {
        use tokenizers::ModelWrapper;
        match &self.inner {
            Inner::SentencePiece(_) => "SentencePiece BPE",
            Inner::Json(inner) => match inner.get_model() {
                ModelWrapper::BPE(_) => "BPE",
                ModelWrapper::WordPiece(_) => "WordPiece",
                ModelWrapper::WordLevel(_) => "WordLevel",
                ModelWrapper::Unigram(_) => "Unigram",
            },
        }
    }
}

fn error(e: tokenizers::Error) -> Error {
    Error::Tokenizer(e.to_string())
}

/// Decodes one sequence token by token without ever splitting a character.
#[derive(Clone, Debug, Default)]
pub struct TextStream {
    /// The tokens that still matter: the last that were given out, as context, and those held back.
    ids: Vec<u32>,
    /// How many of them were given out.
    context: usize,
}

impl TextStream {
    /// The text that `id` completes; empty while a character is incomplete.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String> {
        self.ids.push(id);
        let (given, text) = self.decode(tokenizer)?;
        if text.len() <= given || text.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        self.ids.drain(..self.context);
        self.context = self.ids.len();
        Ok(text[given..].to_owned())
    }

    /// What is left: U+FFFD where a character was cut, else nothing. The pieces together equal
    /// [`Tokenizer::decode`] of all ids.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn finish(self, tokenizer: &Tokenizer) -> Result<String> {
        let (given, text) = self.decode(tokenizer)?;
        Ok(text.get(given..).unwrap_or_default().to_owned())
    }

    /// Length of what was given out of the remaining tokens, and the text of all of them. Decoders look back at the
    /// tokens before (a word's leading space), so a token is not decoded alone.
    fn decode(&self, tokenizer: &Tokenizer) -> Result<(usize, String)> {
        let context = tokenizer.decode(&self.ids[..self.context], true)?;
        let text = tokenizer.decode(&self.ids, true)?;
        Ok((if text.starts_with(&context) { context.len() } else { text.len() }, text))
    }
}
