//! SentencePiece models (`tokenizer.model`, arXiv 1808.06226) of the BPE kind, exactly as the reference library segments
//! text: InternLM, InternLM2, LLaMA 1 and 2.
//!
//! A `tokenizers` BPE ranks *pairs*, where SentencePiece ranks the piece that a pair makes and, among equal scores (InternLM's
//! pieces share many), takes the leftmost. Whether one can stand for the other is found out in `json.rs`.

mod bpe;
mod json;
mod normalizer;
mod proto;
mod symbols;

use serde_json::{Map, Value, json};
use std::{collections::HashMap, fs, path::Path};

use self::{normalizer::Normalizer, proto::PieceKind};
use super::{gguf_vocab, special_tokens::SpecialTokens};
use crate::{
    Error, Result,
    load::{gguf::Gguf, hash::hash},
};

/// Stands for a space inside pieces.
const SPACE: char = '\u{2581}';
/// Stands for the zero character in GGUF files of InternLM2.
const ZERO_SIGN: &str = "\u{1f409}";
/// What the reference library decodes an unknown piece to, where no role makes it a special token.
const UNKNOWN_TEXT: &str = " \u{2047} ";

/// A model and the tokens that its folder adds to it.
pub(super) struct SentencePiece {
    pieces: Vec<proto::Piece>,
    /// Pieces that text can be segmented into.
    ids: HashMap<String, u32>,
    /// Pieces that are one symbol wherever they occur, longest match first.
    user_defined: Prefixes,
    /// Ids of `<0x00>` to `<0xFF>`, where unknown characters fall back to bytes.
    bytes: Option<Vec<u32>>,
    unknown: u32,
    normalizer: Normalizer,
    special: SpecialTokens,
    fingerprint: String,
}

/// Strings that are looked for at a place of a text.
struct Prefixes {
    strings: Vec<String>,
    /// Lengths in bytes, descending, each once.
    lengths: Vec<usize>,
}

impl Prefixes {
    fn new(mut strings: Vec<String>) -> Self {
        strings.retain(|s| !s.is_empty());
        strings.sort_unstable();
        let mut lengths: Vec<usize> = strings.iter().map(String::len).collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        lengths.dedup();
        Self { strings, lengths }
    }

    /// Length of the longest string that `text` begins with, or 0.
    fn longest(&self, text: &str) -> usize {
        let found = |len: &&usize| {
            text.get(..**len).is_some_and(|start| self.strings.binary_search_by(|s| s.as_str().cmp(start)).is_ok())
        };
        self.lengths.iter().find(found).copied().unwrap_or(0)
    }
}

impl SentencePiece {
    /// Reads a `tokenizer.model` and, beside it, the added tokens of `tokenizer_config.json`, `added_tokens.json` and
    /// `special_tokens_map.json`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Malformed`]; [`Error::Unsupported`] for a model that is not BPE.
    pub fn open(file: &Path) -> Result<Self> {
        let bytes = fs::read(file).map_err(|source| Error::Io { path: file.to_owned(), source })?;
        let malformed = |reason: String| Error::Malformed { path: file.to_owned(), reason };
        let model = proto::parse(&bytes).map_err(malformed)?;
        if model.kind != proto::BPE {
            return Err(Error::Unsupported {
                what: format!("{}: a SentencePiece model of kind {}", file.display(), model.kind),
                hint: "models of kind BPE (2) run; give a folder with tokenizer.json as --tokenizer-path".into(),
            });
        }
        let mut sentencepiece = Self::new(model).map_err(malformed)?;
        let folder = file.parent().map(Path::to_owned).unwrap_or_default();
        sentencepiece.special = {
            let ids: HashMap<&str, u32> = sentencepiece.all_pieces().collect();
            SpecialTokens::of_folder(&folder, &|text| ids.get(text).copied())?
        };
        sentencepiece.fingerprint = fingerprint(hash(&bytes), &sentencepiece.special);
        Ok(sentencepiece)
    }

    /// The vocabulary of a GGUF file of the kind `llama`.
    ///
    /// # Errors
    /// [`Error::Malformed`] for inconsistent lists.
    pub fn of_gguf(gguf: &Gguf) -> Result<Self> {
        let model = gguf_model(gguf)?;
        let mut text = String::new();
        for piece in &model.pieces {
            text.push_str(&format!("{piece:?}\n"));
        }
        let flags = (model.add_dummy_prefix, model.remove_extra_whitespaces, &model.charsmap);
        let identity = hash(format!("{text}{flags:?}").as_bytes());
        let mut sentencepiece = Self::new(model).map_err(|reason| gguf.malformed(reason))?;
        let tokens = gguf.strings("tokenizer.ggml.tokens")?.unwrap_or_default();
        let mut special = SpecialTokens::default();
        for (id, piece) in sentencepiece.pieces.iter().enumerate() {
            if piece.kind == PieceKind::Control {
                special.insert(id as u32, &piece.text, true);
            }
        }
        let of_role = |role: &str, add_by_default: bool| -> Result<Option<u32>> {
            let add = gguf.bool(&format!("tokenizer.ggml.add_{role}_token"))?.unwrap_or(add_by_default);
            match gguf_vocab::special(gguf, role, &tokens)?.filter(|_| add) {
                Some(token) => Ok(tokens.iter().position(|t| *t == token).map(|id| id as u32)),
                None => Ok(None),
            }
        };
        special.prefix = of_role("bos", true)?;
        special.suffix = of_role("eos", false)?;
        sentencepiece.fingerprint = fingerprint(identity, &special);
        sentencepiece.special = special;
        Ok(sentencepiece)
    }

    /// A model without special tokens. The error says what is inconsistent.
    fn new(model: proto::Model) -> Result<Self, String> {
        let mut ids = HashMap::with_capacity(model.pieces.len());
        let mut seen: HashMap<&str, usize> = HashMap::with_capacity(model.pieces.len());
        for (id, piece) in model.pieces.iter().enumerate() {
            if piece.text.is_empty() {
                return Err(format!("piece {id} is empty"));
            }
            if let Some(first) = seen.insert(&piece.text, id) {
                return Err(format!("pieces {first} and {id} are both {:?}", piece.text));
            }
            // The library leaves the zero character to byte pieces.
            let zero = model.byte_fallback && piece.text == "\0";
            if matches!(piece.kind, PieceKind::Normal | PieceKind::UserDefined | PieceKind::Unused) && !zero {
                ids.insert(piece.text.clone(), id as u32);
            }
        }
        let byte_id = |value: usize| {
            let id = seen.get(format!("<0x{value:02X}>").as_str()).copied();
            id.filter(|id| model.pieces[*id].kind == PieceKind::Byte).map(|id| id as u32)
        };
        let bytes = (0..256).map(byte_id).collect::<Option<Vec<u32>>>();
        if model.byte_fallback && bytes.is_none() {
            return Err("it falls back to bytes, but not all of <0x00> to <0xFF> are byte pieces".into());
        }
        let is_byte = |text: &str| text.len() == 6 && u8::from_str_radix(&text[3..5], 16).is_ok();
        if let Some(piece) = model.pieces.iter().find(|p| p.kind == PieceKind::Byte && !is_byte(&p.text)) {
            return Err(format!("{:?} is no byte piece", piece.text));
        }
        let of_kind = |kind| model.pieces.iter().enumerate().filter(move |(_, piece)| piece.kind == kind);
        let unknown: Vec<usize> = of_kind(PieceKind::Unknown).map(|(id, _)| id).collect();
        let [unknown] = unknown[..] else {
            return Err(format!("it has {} unknown pieces, but must have one", unknown.len()));
        };
        let user_defined = of_kind(PieceKind::UserDefined).map(|(_, piece)| piece.text.clone()).collect();
        Ok(Self {
            ids,
            user_defined: Prefixes::new(user_defined),
            bytes: bytes.filter(|_| model.byte_fallback),
            unknown: unknown as u32,
            normalizer: Normalizer::new(&model)?,
            special: SpecialTokens::default(),
            fingerprint: String::new(),
            pieces: model.pieces,
        })
    }

    /// Every piece with its id.
    fn all_pieces(&self) -> impl Iterator<Item = (&str, u32)> {
        self.pieces.iter().enumerate().map(|(id, piece)| (piece.text.as_str(), id as u32))
    }

    /// Ids of `text`: special and added tokens spelt out become their ids, what lies between is segmented piece by piece.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Vec<u32> {
        let mut ids = Vec::new();
        if add_special_tokens {
            ids.extend(self.special.prefix);
        }
        for (part, token) in self.special.split(text) {
            match token {
                Some(id) => ids.push(id),
                None => self.segment(part, &mut ids),
            }
        }
        if add_special_tokens {
            ids.extend(self.special.suffix);
        }
        ids
    }

    /// The text of `ids`, bytes joined to characters; incomplete ones become U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> String {
        let mut out = Decoder { bytes: Vec::new(), text: String::new() };
        let mut at_start = self.normalizer.adds_space();
        for id in ids {
            if let Some(token) = self.special.token(*id) {
                if !(skip_special_tokens && self.special.is_special(*id)) {
                    out.push(token);
                }
                continue;
            }
            let Some(piece) = self.pieces.get(*id as usize) else { continue };
            match piece.kind {
                PieceKind::Control => {
                    if !skip_special_tokens {
                        out.push(&piece.text);
                    }
                }
                PieceKind::Unknown => out.push(UNKNOWN_TEXT),
                PieceKind::Byte => out.bytes.extend(u8::from_str_radix(&piece.text[3..5], 16)),
                _ => {
                    at_start = at_start && out.text.is_empty() && out.bytes.is_empty();
                    let stripped = piece.text.strip_prefix(SPACE).filter(|_| at_start);
                    // One space was put in front; where spaces collapse, none can stand there.
                    at_start = at_start && (stripped.is_none() || self.normalizer.collapses_spaces());
                    out.push(&stripped.unwrap_or(&piece.text).replace(SPACE, " "));
                }
            }
        }
        out.flush();
        out.text
    }

    /// Largest id + 1.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len().max(self.special.vocab_size())
    }

    /// The token of this id as it stands in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        let piece = self.pieces.get(id as usize).map(|piece| piece.text.as_str());
        self.special.token(id).or(piece).map(str::to_owned)
    }

    /// Whether `id` is left out of decoded text.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.is_special(id) || self.pieces.get(id as usize).is_some_and(|p| p.kind == PieceKind::Control)
    }

    /// Fingerprint of everything that decides the ids, 32 hex digits.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The bytes of a `tokenizer.model` with these pieces and this normalisation, for a model of a GGUF file (which has no
    /// rules for characters).
    pub fn to_model(&self) -> Vec<u8> {
        proto::encode(&self.pieces, self.bytes.is_some(), self.normalizer.spaces())
    }

    /// What `tokenizer_config.json` has to say so that the same tokens are special and put around a text.
    pub fn token_settings(&self) -> Map<String, Value> {
        let mut decoder = Map::new();
        for (id, text, special) in self.special.all() {
            decoder.insert(id.to_string(), json!({"content": text, "special": special, "normalized": false}));
        }
        let mut settings = Map::new();
        settings.insert("add_bos_token".into(), self.special.prefix.is_some().into());
        settings.insert("add_eos_token".into(), self.special.suffix.is_some().into());
        settings.insert("added_tokens_decoder".into(), decoder.into());
        settings
    }

    /// Appends the ids of text without special tokens.
    fn segment(&self, text: &str, out: &mut Vec<u32>) {
        self.pieces_of(&self.normalizer.normalize(text, &self.user_defined), out);
    }

    /// Appends the ids of normalised text.
    fn pieces_of(&self, text: &str, out: &mut Vec<u32>) {
        let mut unknown_before = false;
        bpe::segment(text, self, &mut |piece| {
            let id = self.ids.get(piece).copied();
            match (id, &self.bytes) {
                (Some(id), _) => out.push(id),
                (None, Some(bytes)) => out.extend(piece.bytes().map(|b| bytes[usize::from(b)])),
                // A run of unknown characters is one unknown piece.
                (None, None) if unknown_before => {}
                (None, None) => out.push(self.unknown),
            }
            unknown_before = id.is_none();
        });
    }
}

impl bpe::Vocabulary for SentencePiece {
    fn score(&self, piece: &str) -> Option<f32> {
        self.ids.get(piece).map(|id| self.pieces[*id as usize].score)
    }

    fn is_unused(&self, piece: &str) -> bool {
        self.ids.get(piece).is_some_and(|id| self.pieces[*id as usize].kind == PieceKind::Unused)
    }

    fn atom(&self, text: &str) -> usize {
        self.user_defined.longest(text)
    }
}

/// Of a vocabulary's hash and what is added to it.
fn fingerprint(vocabulary: u128, special: &SpecialTokens) -> String {
    format!("{:032x}", hash(format!("{vocabulary:032x} {special:?}").as_bytes()))
}

/// What the metadata of a GGUF file say of a vocabulary of the kind `llama`.
fn gguf_model(gguf: &Gguf) -> Result<proto::Model> {
    let missing = |key: &str| gguf.missing(key);
    let tokens = gguf.strings("tokenizer.ggml.tokens")?.ok_or_else(|| missing("tokenizer.ggml.tokens"))?;
    let scores = gguf.floats("tokenizer.ggml.scores")?.ok_or_else(|| missing("tokenizer.ggml.scores"))?;
    let kinds = gguf.ints("tokenizer.ggml.token_type")?.ok_or_else(|| missing("tokenizer.ggml.token_type"))?;
    if (scores.len(), kinds.len()) != (tokens.len(), tokens.len()) {
        let (scores, kinds) = (scores.len(), kinds.len());
        return Err(gguf.malformed(format!("{scores} scores and {kinds} token types for {} tokens", tokens.len())));
    }
    // llama.cpp's converter puts a sign in the place of InternLM2's zero character.
    let has_sign = gguf.str("general.architecture")? == Some("internlm2") && !tokens.contains(&"\0");
    let pieces = tokens.iter().zip(scores).zip(kinds).enumerate().map(|(id, ((text, score), kind))| {
        let text = if has_sign && *text == ZERO_SIGN { "\0" } else { text };
        proto::piece(id, text.to_owned(), score, kind as i32).map_err(|reason| gguf.malformed(reason))
    });
    Ok(proto::Model {
        pieces: pieces.collect::<Result<_>>()?,
        kind: proto::BPE,
        byte_fallback: true,
        charsmap: Vec::new(),
        add_dummy_prefix: gguf.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true),
        remove_extra_whitespaces: gguf.bool("tokenizer.ggml.remove_extra_whitespaces")?.unwrap_or(false),
        escape_whitespaces: true,
    })
}

/// Joins pieces and bytes.
struct Decoder {
    bytes: Vec<u8>,
    text: String,
}

impl Decoder {
    fn push(&mut self, text: &str) {
        self.flush();
        self.text.push_str(text);
    }

    /// Each byte that is not part of a character becomes a U+FFFD of its own, as in the reference library.
    fn flush(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        for chunk in bytes.utf8_chunks() {
            self.text.push_str(chunk.valid());
            self.text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
        }
    }
}
