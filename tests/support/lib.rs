//! What the end-to-end tests share: where data lies, and readers for the reference files.

pub mod gguf;
pub mod sentencepiece;

use flate2::read::GzDecoder;
use serde::{Deserialize, de::DeserializeOwned};
use std::{
    env,
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

/// Names of the committed checkpoints, each with `<name>.reference.json` beside it.
pub const CHECKPOINTS: [&str; 14] = [
    "llama",
    "llama-tied",
    "llama-linear",
    "qwen2",
    "llama-q8_0",
    "llama-k",
    "qwen2-mixed",
    "internlm",
    "internlm2",
    "internlm2-ntk",
    "internlm2-q8_0",
    "opt",
    "opt-post",
    "opt-bare",
];

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository")
}

/// Folder or `.gguf` file of a committed checkpoint.
pub fn checkpoint(name: &str) -> PathBuf {
    let fixtures = root().join("tests/fixtures");
    let folder = fixtures.join(name);
    if folder.is_dir() { folder } else { fixtures.join(format!("{name}.gguf")) }
}

/// A committed file or folder of `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures").join(name)
}

/// A path below the shared reference data, which lies beside the repository (or at `OC_SHARED`). `None`, with a
/// notice, where it does not exist.
///
/// # Panics
/// When it is absent although `CI` is `true`.
pub fn shared(path: &str) -> Option<PathBuf> {
    let base = env::var_os("OC_SHARED").map_or_else(|| root().join("../shared"), PathBuf::from);
    let full = base.join(path);
    if full.exists() {
        return Some(full);
    }
    assert!(env::var("CI").as_deref() != Ok("true"), "{} must exist when CI=true", full.display());
    eprintln!("skipped: {} does not exist", full.display());
    None
}

/// A downloaded model by file name, from `models/` (or `OC_MODELS`). `None`, with a notice, where it was not fetched:
/// models are too large to be fetched by a test.
pub fn model(file: &str) -> Option<PathBuf> {
    let full = env::var_os("OC_MODELS").map_or_else(|| root().join("models"), PathBuf::from).join(file);
    if full.exists() {
        return Some(full);
    }
    eprintln!("skipped: {} was not fetched", full.display());
    None
}

/// The records of a gzipped file of JSON lines.
///
/// # Panics
/// When it cannot be read.
pub fn json_lines<T: DeserializeOwned>(path: &Path) -> Vec<T> {
    let file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let lines = BufReader::new(GzDecoder::new(file)).lines();
    lines.map(|line| serde_json::from_str(&line.expect("gzip")).expect("one record a line")).collect()
}

/// What Hugging Face transformers computes for a committed checkpoint, in float32; see `tests/fixtures/README.md`.
#[derive(Deserialize)]
pub struct Reference {
    /// Prompts with everything that follows from them.
    pub prompts: Vec<Prompt>,
    /// Log-probabilities of continuations.
    pub score: Scored,
    /// Texts and their ids.
    pub encodings: Vec<Encoding>,
    /// Messages and the rendered template; `None` for a model without one.
    pub chat: Option<Chat>,
}

/// One prompt of a [`Reference`].
#[derive(Deserialize)]
pub struct Prompt {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Logits at some positions.
    pub logits: Vec<Logits>,
    /// Log-probabilities of `ids[1..]`.
    pub logprobs: Vec<f64>,
    /// 64 greedy tokens, end-of-sequence ids ignored.
    pub greedy: Vec<u32>,
    /// Their log-probabilities.
    pub greedy_logprobs: Vec<f64>,
}

/// Logits after the token at `position`.
#[derive(Deserialize)]
pub struct Logits {
    /// 0-based.
    pub position: usize,
    /// One per row of the output head.
    pub values: Vec<f64>,
}

/// The scored continuations of a [`Reference`].
#[derive(Deserialize)]
pub struct Scored {
    /// Token ids.
    pub context: Vec<u32>,
    /// Token ids of each.
    pub continuations: Vec<Vec<u32>>,
    /// Of each token of each.
    pub logprobs: Vec<Vec<f64>>,
}

/// A text and its ids, special tokens added.
#[derive(Deserialize)]
pub struct Encoding {
    /// The text.
    pub text: String,
    /// Its ids.
    pub ids: Vec<u32>,
}

/// A rendered chat.
#[derive(Deserialize)]
pub struct Chat {
    /// The messages.
    pub messages: Vec<Message>,
    /// The template's output, with the generation prompt.
    pub text: String,
}

/// One message of a [`Chat`].
#[derive(Deserialize)]
pub struct Message {
    /// `user` or `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
}

/// The reference of a committed checkpoint.
///
/// # Panics
/// When it cannot be read.
pub fn reference(name: &str) -> Reference {
    let path = root().join(format!("tests/fixtures/{name}.reference.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
