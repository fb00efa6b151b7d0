//! From any format that is read to a Hugging Face folder: `config.json`, safetensors, tokenizer and chat template.
//!
//! Tensors are streamed: never more than about one is in memory. Everything is written into a sibling of the folder and
//! synchronised before that is renamed, so that the folder is there whole or not at all.

mod describe;
mod folder;
mod tensors;

use crate::{Error, ModelFiles, Result, Tokenizer, memory};
use folder::Staged;
use oc_kernels::WeightFormat;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// As large as the shards that transformers writes.
const SHARD_BYTES: usize = 5_000_000_000;

/// Files of a folder that are kept as they are: tokenizer, template, what a model generates with, and the code that
/// transformers needs for some architectures and that is never run here.
const KEPT: [&str; 9] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
];

/// How to convert.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// Format of all tensors: F32, F16 or BF16. `None`: the smallest that holds all of them exactly, which for quantised ones
    /// is F32.
    pub format: Option<WeightFormat>,
    /// Replace a model that is at the destination already.
    pub replace: bool,
    /// Most bytes of tensors in one file.
    pub shard_bytes: usize,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        Self { format: None, replace: false, shard_bytes: SHARD_BYTES }
    }
}

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Converted {
    /// Names of the files with weights.
    pub weights: Vec<String>,
    /// Bytes of all tensors.
    pub bytes: usize,
    /// What is worth knowing about the result.
    pub notes: Vec<String>,
}

/// Writes the model at `input` (a `.gguf` file or a folder, as [`ModelFiles::open`] takes it) to the folder `output`.
/// `on_progress(done, total)` counts bytes of tensors.
///
/// # Errors
/// Whatever opening the model refuses, and tensors that are missing or wrong; [`Error::Exists`]; [`Error::Write`]; [`Error::Unsupported`] for numbers that do not
/// fit into the format. Then `output` is as it was.
pub fn convert(
    input: &Path,
    output: &Path,
    options: &ConvertOptions,
    on_progress: &mut dyn FnMut(usize, usize),
) -> Result<Converted> {
    let files = ModelFiles::open(input)?;
    if let Some(problem) = memory::problems(&files).into_iter().next() {
        return Err(problem);
    }
    let items = tensors::items(&files, options)?;
    let staged = Staged::create(input, output, options.replace)?;
    let mut done = Converted::default();
    match files.gguf() {
        Some(gguf) => describe::of_gguf(&files, gguf, &items, &staged, &mut done.notes)?,
        None => copy_folder(&files, &items, &staged, &mut done.notes)?,
    }
    tensors::write(&files, &items, options.shard_bytes, &staged, &mut done, on_progress)?;
    check(input, &files, staged.path())?;
    staged.commit()?;
    Ok(done)
}

/// The parts of a folder that are not tensors.
fn copy_folder(files: &ModelFiles, items: &[tensors::Item], staged: &Staged, notes: &mut Vec<String>) -> Result<()> {
    let mut config = crate::load::read_json(&files.path().join("config.json"))?;
    describe::set_dtype(&mut config, items);
    staged.write_json("config.json", &config)?;
    for name in KEPT {
        let path = files.path().join(name);
        if path.is_file() {
            staged.copy(&path, name)?;
        }
    }
    let io = |source| Error::Io { path: files.path().to_owned(), source };
    for entry in fs::read_dir(files.path()).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.extension().is_some_and(|extension| extension == "py") && path.is_file() {
            staged.copy(&path, name)?;
        }
    }
    match Tokenizer::of_model(files) {
        Ok(_) if files.path().join("tokenizer.json").is_file() => Ok(()),
        Ok(tokenizer) => write_tokenizer_json(&tokenizer, staged, notes),
        // A model without a tokenizer, or with one that does not run here, is none the worse.
        Err(error) => {
            notes.push(format!(
                "the tokenizer could not be read, so that its files are copied and not compared: {error}"
            ));
            Ok(())
        }
    }
}

/// Writes `tokenizer.json`, beside the `tokenizer.model` of a SentencePiece model, or says why there is none.
fn write_tokenizer_json(tokenizer: &Tokenizer, staged: &Staged, notes: &mut Vec<String>) -> Result<()> {
    match tokenizer.to_json() {
        Ok(json) => staged.write("tokenizer.json", json.as_bytes()),
        Err(Error::Tokenizer(reason)) => {
            notes.push(format!("the tokenizer stays a SentencePiece model (tokenizer.model), for no tokenizer.json is the same: {reason}"));
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Opens what was written and compares it with the original: the configuration, the tensors' names and shapes, and the tokenizer's
/// whole vocabulary and its ids of some texts.
fn check(input: &Path, original: &ModelFiles, written: &Path) -> Result<()> {
    let differs = |what: &str| {
        Err(Error::Unsupported {
            what: format!("{}: {what} that a folder cannot hold unchanged", input.display()),
            hint: "nothing was written; use the model as it is".into(),
        })
    };
    let copy = ModelFiles::open(written)?;
    let mut config = copy.config().clone();
    config.architecture.clone_from(&original.config().architecture);
    if config != *original.config() {
        return differs("a configuration");
    }
    if !copy.tensor_names().eq(original.tensor_names()) {
        return differs("tensors");
    }
    for name in original.tensor_names() {
        if original.tensor(name)?.shape != copy.tensor(name)?.shape {
            return differs(&format!("tensor `{name}`"));
        }
    }
    let Ok(before) = Tokenizer::of_model(original) else { return Ok(()) };
    let after = Tokenizer::open(written)?;
    let size = before.vocab_size().max(after.vocab_size()) as u32;
    for id in 0..size {
        // A token that stands for another text is named otherwise where its name could be taken for it.
        let is_same =
            before.token(id) == after.token(id) || before.decode(&[id], false)? == after.decode(&[id], false)?;
        if !is_same || before.is_special(id) != after.is_special(id) {
            return differs("a vocabulary");
        }
    }
    for text in PROBES {
        if before.encode(text, true)? != after.encode(text, true)? {
            return differs("a tokenizer");
        }
    }
    Ok(())
}

/// Texts that tell tokenizers apart: spaces, scripts, numbers, bytes, composition.
const PROBES: [&str; 6] = [
    "",
    "  The quick brown fox can't jump over 12345 lazy dogs.\n\n\tNext  line ",
    "以下是中国关于法律考试的单项选择题，请选出其中的正确答案。\nA. 甲  B. 乙",
    "<s>a</s><unk><|im_start|>user\n🙂\u{200d}\u{0}\u{7f}e\u{301}é",
    "\u{feff}ﬁ ① Ω½ \u{a0}\u{3000}x\r\ny",
    "fn main() { println!(\"{}\", 3.14e-10); } // ünïcödé",
];

/// The destination's name for messages and siblings.
fn name_of(output: &Path) -> Result<(PathBuf, String)> {
    let named = output.file_name().and_then(|name| name.to_str());
    let Some(name) = named else {
        return Err(Error::InvalidRequest(format!("{} does not end in the name of a folder", output.display())));
    };
    let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok((parent.unwrap_or(Path::new(".")).to_owned(), name.to_owned()))
}
