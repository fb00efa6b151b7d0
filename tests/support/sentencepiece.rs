//! What the SentencePiece library makes of texts, and whether a tokenizer does the same.

use crate::{fixture, gguf::Vocabulary};
use flate2::read::GzDecoder;
use oc_engine::Tokenizer;
use prost::Message;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, fs, io::Read, path::Path};

#[derive(Deserialize)]
struct Reference {
    rows: Vec<Row>,
    #[serde(default)]
    ceval: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Row {
    text: String,
    ids: Vec<u32>,
    decoded: String,
}

#[derive(Message)]
struct Model {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Piece>,
    #[prost(message, optional, tag = "3")]
    normalizer: Option<Normalizer>,
}

#[derive(Message)]
struct Piece {
    #[prost(string, tag = "1")]
    text: String,
    #[prost(float, tag = "2")]
    score: f32,
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
}

#[derive(Message)]
struct Normalizer {
    #[prost(bool, optional, tag = "3")]
    add_dummy_prefix: Option<bool>,
}

/// Small models made by chance, and what the library makes of texts with them.
#[derive(Deserialize)]
pub struct RandomModels {
    /// The texts.
    pub texts: Vec<String>,
    /// The models.
    pub models: Vec<RandomModel>,
}

/// A model made by chance.
#[derive(Deserialize)]
pub struct RandomModel {
    /// Compressed, in hexadecimal.
    model: String,
    /// Ids of each text.
    pub ids: Vec<Vec<u32>>,
}

impl RandomModels {
    /// Those of the fixtures.
    ///
    /// # Panics
    /// When there are none.
    pub fn read() -> Self {
        let file = fixture("sentencepiece").join("random.reference.json");
        serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
    }
}

impl RandomModel {
    /// The bytes of its `tokenizer.model`.
    ///
    /// # Panics
    /// When they cannot be read.
    pub fn model(&self) -> Vec<u8> {
        let digits = self.model.as_bytes().as_chunks::<2>().0;
        let byte = |digits: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
        let compressed: Vec<u8> = digits.iter().map(byte).collect();
        let mut model = Vec::new();
        GzDecoder::new(&compressed[..]).read_to_end(&mut model).unwrap();
        model
    }
}

/// A `tokenizer.model` as llama.cpp's converter writes it into a GGUF file.
///
/// # Panics
/// When it is none.
pub fn vocabulary(model: &[u8]) -> Vocabulary {
    let model = Model::decode(model).unwrap();
    // It writes InternLM2's zero character so.
    let text = |text: String| if text == "\0" { "\u{1f409}".to_owned() } else { text };
    let piece = |piece: Piece| (text(piece.text), piece.score, piece.kind.unwrap_or(1));
    Vocabulary::SentencePiece {
        pieces: model.pieces.into_iter().map(piece).collect(),
        adds_space: model.normalizer.and_then(|normalizer| normalizer.add_dummy_prefix).unwrap_or(true),
    }
}

fn reference(name: &str) -> Reference {
    let file = fixture("sentencepiece").join(format!("{name}.reference.json"));
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

/// Compares `tokenizer` with what the reference library made of a fuzzed corpus with the model `name`.
///
/// The library knows no special tokens in text: Hugging Face's classes, and this engine, do.
///
/// # Panics
/// Where they differ.
pub fn check(name: &str, tokenizer: &Tokenizer) {
    let (mut encoded, mut decoded, special) = (0, 0, ["<s>", "</s>", "<unk>"]);
    for row in reference(name).rows {
        if special.iter().any(|token| row.text.contains(token)) {
            continue;
        }
        let ids = tokenizer.encode(&row.text, false).unwrap();
        assert_eq!(ids, row.ids, "{name}: {:?}", row.text);
        encoded += 1;
        // Hugging Face leaves the unknown token out, the reference library writes a sign for it.
        if row.decoded.contains('\u{2047}') {
            continue;
        }
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), row.decoded, "{name}: {:?}", row.text);
        let mut stream = tokenizer.stream();
        let mut streamed: String = ids.iter().map(|id| stream.push(tokenizer, *id).unwrap()).collect();
        streamed += &stream.finish(tokenizer).unwrap();
        assert_eq!(streamed, row.decoded, "{name}: {:?} in pieces", row.text);
        decoded += 1;
    }
    assert!(encoded > 200 && decoded > 50, "{name}: only {encoded} texts, and {decoded} decoded");
}

/// Compares the ids of every field of all files of C-Eval below `folder` with those of InternLM's model.
///
/// # Panics
/// Where they differ.
pub fn check_ceval(tokenizer: &Tokenizer, folder: &Path) {
    let files = reference("internlm").ceval;
    assert_eq!(files.len(), 156);
    for (name, want) in files {
        let fields = fields(&folder.join(&name));
        let ids = tokenizer.encode_all(&fields, false).unwrap();
        let hash = Sha256::digest(serde_json::to_string(&ids).unwrap());
        let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hash, want, "{name}");
    }
}

/// Every field of a CSV file, the header's too.
fn fields(file: &Path) -> Vec<String> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_path(file).unwrap();
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    rows.iter().flat_map(|row| row.iter().map(str::to_owned)).collect()
}
