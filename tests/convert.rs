//! Converted models compute what the originals do, to the bit, whatever format those have.

use oc_engine::{
    ConvertOptions, Dtype, Engine, EngineOptions, Error, ModelFiles, Request, ScoreRequest, Tokenizer, convert,
};
use oc_kernels::WeightFormat;
use oc_tests::{
    checkpoint, fixture, gguf, model, reference,
    sentencepiece::{self, RandomModels},
    shared,
};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Every fixture: folders of safetensors and of both containers of PyTorch, in shards and not; GGUF files.
const MODELS: [&str; 14] = [
    "llama",
    "llama-tied",
    "qwen2",
    "internlm",
    "internlm2",
    "internlm2-legacy",
    "internlm2-ntk",
    "llama-linear",
    "opt",
    "opt-post",
    "llama-q8_0",
    "llama-k",
    "qwen2-mixed",
    "internlm2-q8_0",
];

fn converted(input: &Path, output: &Path, options: &ConvertOptions) -> oc_engine::Result<oc_engine::Converted> {
    convert(input, output, options, &mut |done, total| assert!(done <= total))
}

/// Log-probabilities of a prompt and of every token after it, and greedy tokens, as bits.
fn results(path: &Path, dtype: Dtype) -> Vec<u32> {
    let options =
        EngineOptions { dtype: Some(dtype), max_seq_len: Some(256), threads: Some(1), ..EngineOptions::default() };
    let mut engine = Engine::load(path, options).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let vocab_size = engine.config().vocab_size as u32;
    let prompt: Vec<u32> = reference("llama").prompts[2].ids.iter().map(|id| id % vocab_size).collect();
    let step = vocab_size.div_ceil(512) as usize;
    let vocabulary = (0..vocab_size).step_by(step).map(|id| vec![id]).collect();
    let request = ScoreRequest { context: prompt.clone(), continuations: vocabulary, context_logprobs: true };
    let score = engine.score(vec![request]).unwrap().remove(0);
    let request = Request { ignore_eos: true, ..Request::new(prompt, 32) };
    let output = engine.generate(vec![request]).unwrap().remove(0);
    let logprobs = score.context.iter().chain(score.continuations.iter().flatten()).chain(&output.logprobs);
    logprobs.map(|value| value.to_bits()).chain(output.tokens).collect()
}

#[test]
fn converted_models_compute_the_same_bits() {
    for name in MODELS {
        let dir = tempfile::tempdir().unwrap();
        let input = checkpoint(name);
        let output = dir.path().join("out");
        converted(&input, &output, &ConvertOptions::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(results(&input, Dtype::F32), results(&output, Dtype::F32), "{name} in f32");
        // Quantised weights are not rounded in bf16 where their numbers are, so there the bits may differ.
        if input.is_dir() {
            assert_eq!(results(&input, Dtype::Bf16), results(&output, Dtype::Bf16), "{name} in bf16");
        }
        let wide = dir.path().join("wide");
        let options = ConvertOptions { format: Some(WeightFormat::F32), ..ConvertOptions::default() };
        converted(&output, &wide, &options).unwrap();
        assert_eq!(results(&input, Dtype::F32), results(&wide, Dtype::F32), "{name}, written in f32");
        let config: Value = serde_json::from_slice(&fs::read(wide.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["torch_dtype"], "float32", "{name}");
        // Whoever looks at the folders sees the same texts.
        let (before, after) = (Tokenizer::open(&input).unwrap(), Tokenizer::open(&output).unwrap());
        assert_eq!(before.fingerprint(), after.fingerprint(), "{name}");
        let template = |path: &Path| {
            let engine =
                Engine::load(path, EngineOptions { max_seq_len: Some(64), ..EngineOptions::default() }).unwrap();
            engine.fingerprint().chat_template.clone()
        };
        assert_eq!(template(&input), template(&output), "{name}");
        assert_eq!(template(&output).is_some(), !name.starts_with("opt"), "{name}");
    }
}

/// A copy of the folder `from`, in half precision, whose norms are in float32 with `offset` added to each of their numbers: what
/// files in half precision often are.
fn with_wide_norms(from: &Path, to: &Path, offset: f32) {
    fs::create_dir(to).unwrap();
    for name in entries(from) {
        fs::copy(from.join(&name), to.join(&name)).unwrap();
    }
    let files = ModelFiles::open(from).unwrap();
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for name in files.tensor_names() {
        let tensor = files.tensor(name).unwrap();
        let at = data.len();
        let dtype = if name.contains("norm") {
            data.extend(tensor.to_f32().unwrap().iter().flat_map(|x| (x + offset).to_le_bytes()));
            "F32"
        } else {
            data.extend(&*tensor.data);
            "F16"
        };
        header
            .insert(name.to_owned(), json!({"dtype": dtype, "shape": tensor.shape, "data_offsets": [at, data.len()]}));
    }
    let header = Value::Object(header).to_string();
    let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
    fs::write(to.join("model.safetensors"), bytes).unwrap();
}

/// All tensors are written in one format, the smallest that holds them exactly.
#[test]
fn one_format_holds_all_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let half = dir.path().join("half");
    let options = ConvertOptions { format: Some(WeightFormat::F16), ..ConvertOptions::default() };
    converted(&checkpoint("llama"), &half, &options).unwrap();
    let cases = [("exact", 0.0, WeightFormat::F16, "float16"), ("inexact", 1e-5, WeightFormat::F32, "float32")];
    for (name, offset, format, dtype) in cases {
        let (mixed, output) = (dir.path().join(format!("{name}-mixed")), dir.path().join(name));
        with_wide_norms(&half, &mixed, offset);
        converted(&mixed, &output, &ConvertOptions::default()).unwrap();
        let files = ModelFiles::open(&output).unwrap();
        for tensor in files.tensor_names() {
            assert_eq!(files.tensor(tensor).unwrap().format, format, "{name}: {tensor}");
        }
        let config: Value = serde_json::from_slice(&fs::read(output.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["torch_dtype"], dtype, "{name}");
        assert_eq!(results(&mixed, Dtype::F32), results(&output, Dtype::F32), "{name}");
    }
}

/// What is written in another format is the nearest number of it, ties to even.
#[test]
fn numbers_are_rounded_to_the_nearest() {
    let dir = tempfile::tempdir().unwrap();
    for (format, name) in [(WeightFormat::Bf16, "bfloat16"), (WeightFormat::F16, "float16")] {
        let output = dir.path().join(name);
        let options = ConvertOptions { format: Some(format), ..ConvertOptions::default() };
        converted(&checkpoint("llama"), &output, &options).unwrap();
        let config: Value = serde_json::from_slice(&fs::read(output.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["torch_dtype"], name);
        let (before, after) = (ModelFiles::open(&checkpoint("llama")).unwrap(), ModelFiles::open(&output).unwrap());
        for tensor in before.tensor_names() {
            let (wide, narrow) = (before.tensor(tensor).unwrap(), after.tensor(tensor).unwrap());
            assert_eq!((narrow.format, &narrow.shape), (format, &wide.shape));
            let rounded = |value: &f32| match format {
                WeightFormat::Bf16 => {
                    // The upper half, after adding half of its last place.
                    let bits = value.to_bits();
                    f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
                }
                _ => nearest_f16(*value),
            };
            let wanted: Vec<f32> = wide.to_f32().unwrap().iter().map(rounded).collect();
            assert_eq!(narrow.to_f32().unwrap(), wanted, "{tensor} in {name}");
        }
    }
}

/// By the definition: a multiple of the spacing of half precision at this size.
fn nearest_f16(value: f32) -> f32 {
    let exponent = value.abs().log2().floor().max(-14.0);
    let spacing = 2_f64.powf(f64::from(exponent) - 10.0);
    ((f64::from(value) / spacing).round_ties_even() * spacing) as f32
}

#[test]
fn shards_are_no_larger_than_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("out");
    let options = ConvertOptions { shard_bytes: 100_000, ..ConvertOptions::default() };
    let done = converted(&checkpoint("llama-q8_0"), &output, &options).unwrap();
    assert!(done.weights.len() > 3, "{:?}", done.weights);
    for name in &done.weights {
        assert!(fs::metadata(output.join(name)).unwrap().len() < 100_000 + 4096, "{name}");
    }
    let index: Value = serde_json::from_slice(&fs::read(output.join("model.safetensors.index.json")).unwrap()).unwrap();
    assert_eq!(index["metadata"]["total_size"], json!(done.bytes));
    assert_eq!(results(&checkpoint("llama-q8_0"), Dtype::F32), results(&output, Dtype::F32));
}

/// The names in a folder, none of them hidden.
fn entries(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_folder_is_there_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("out");
    let (options, force) = (ConvertOptions::default(), ConvertOptions { replace: true, ..ConvertOptions::default() });
    // What fails leaves nothing behind.
    let text = |error: Error| error.to_string();
    let error = converted(&dir.path().join("absent"), &output, &options).unwrap_err();
    assert!(text(error).contains("absent"));
    assert_eq!(entries(dir.path()), [""; 0]);
    // A panic in the middle, as a stand-in for whatever may end a conversion.
    let interrupted = std::panic::catch_unwind(|| {
        convert(&checkpoint("llama"), &output, &options, &mut |done, _| assert!(done < 100_000, "enough"))
    });
    assert!(interrupted.is_err());
    assert_eq!(entries(dir.path()), [""; 0]);
    // What a killed process left behind is cleared.
    let staged = dir.path().join(".out.incomplete");
    fs::create_dir(&staged).unwrap();
    fs::write(staged.join("model.safetensors"), "half of it").unwrap();
    converted(&checkpoint("llama"), &output, &options).unwrap();
    assert_eq!(entries(dir.path()), ["out"]);
    assert_eq!(
        entries(&output),
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    );
    // What is there is kept, unless it is a model and may be replaced.
    assert!(text(converted(&checkpoint("qwen2"), &output, &options).unwrap_err()).contains("exists already"));
    let mark = output.join("mark");
    fs::write(&mark, "").unwrap();
    assert!(text(converted(&dir.path().join("absent"), &output, &force).unwrap_err()).contains("absent"));
    assert!(mark.exists());
    converted(&checkpoint("qwen2"), &output, &force).unwrap();
    assert!(!mark.exists());
    assert_eq!(entries(dir.path()), ["out"]);
    assert_eq!(ModelFiles::open(&output).unwrap().config().architecture, "Qwen2ForCausalLM");
    assert!(text(converted(&output, &output, &force).unwrap_err()).contains("shall be converted"));
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    assert!(text(converted(&output, &other, &force).unwrap_err()).contains("holds no model"));
}

#[test]
fn numbers_that_half_precision_cannot_hold_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in");
    converted(&checkpoint("llama"), &input, &ConvertOptions::default()).unwrap();
    let file = input.join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&1e6_f32.to_le_bytes());
    fs::write(&file, bytes).unwrap();
    let options = ConvertOptions { format: Some(WeightFormat::F16), ..ConvertOptions::default() };
    let error = converted(&input, &dir.path().join("out"), &options).unwrap_err().to_string();
    assert!(error.contains("holds 1000000, which f16 cannot") && error.contains("bf16"), "{error}");
    assert_eq!(entries(dir.path()), ["in"]);
}

/// A folder whose tokenizer is this SentencePiece model, converted: where it is, and what was noted.
fn with_model(model: &Path) -> (tempfile::TempDir, PathBuf, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in");
    converted(&checkpoint("llama-tied"), &input, &ConvertOptions::default()).unwrap();
    fs::remove_file(input.join("tokenizer.json")).unwrap();
    fs::remove_file(input.join("tokenizer_config.json")).unwrap();
    fs::copy(model, input.join("tokenizer.model")).unwrap();
    let output = dir.path().join("out");
    let done = converted(&input, &output, &ConvertOptions::default()).unwrap();
    (dir, output, done.notes)
}

/// Tiny SentencePiece models that have an equal `tokenizer.json`.
const TINY: [&str; 5] = ["llama", "symbols", "prefixed", "collapsed", "unescaped"];

/// Beside a SentencePiece model there is a `tokenizer.json` that gives the ids, and the texts, of the reference library: on its
/// fuzzed corpus, and for InternLM on all of C-Eval.
#[test]
fn sentencepiece_models_become_a_tokenizer_json() {
    let internlm = shared("data/internlm/tokenizer.model").zip(shared("data/ceval/formal_ceval"));
    let tiny = |name: &'static str| (name, fixture("sentencepiece").join(format!("{name}.model")));
    let real = internlm.as_ref().map(|(model, _)| ("internlm", model.clone()));
    for (name, model) in TINY.map(tiny).into_iter().chain(real) {
        let (_dir, output, notes) = with_model(&model);
        assert!(notes.is_empty(), "{name}: {notes:?}");
        assert!(output.join("tokenizer.model").is_file());
        let tokenizer = Tokenizer::open(&output.join("tokenizer.json")).unwrap();
        sentencepiece::check(name, &tokenizer);
        if let Some((_, ceval)) = internlm.as_ref().filter(|_| name == "internlm") {
            sentencepiece::check_ceval(&tokenizer, ceval);
        }
        // Special tokens too, and what is put around a text.
        let before = Tokenizer::open(&model).unwrap();
        for text in ["", "<s>a</s> b<unk>c", " <s> ", "</s></s>", "\u{0}<s>\u{0}"] {
            for special in [false, true] {
                let ids = before.encode(text, special).unwrap();
                assert_eq!(ids, tokenizer.encode(text, special).unwrap(), "{name}: {text:?}");
                assert_eq!(
                    before.decode(&ids, special).unwrap(),
                    tokenizer.decode(&ids, special).unwrap(),
                    "{name}: {text:?}"
                );
            }
        }
    }
}

/// Whenever a model made by chance becomes one, that gives the ids of the reference library too.
#[test]
fn random_sentencepiece_models_become_equals_or_stay_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("any.model");
    let RandomModels { texts, models } = RandomModels::read();
    let mut written = 0;
    for (number, random) in models.iter().enumerate() {
        fs::write(&file, random.model()).unwrap();
        let (_dir, output, notes) = with_model(&file);
        let json = output.join("tokenizer.json");
        assert_eq!(json.exists(), notes.is_empty(), "{number}: {notes:?}");
        let tokenizers = [Some(file.clone()), json.exists().then_some(json)];
        for path in tokenizers.into_iter().flatten() {
            let tokenizer = Tokenizer::open(&path).unwrap();
            for (text, ids) in texts.iter().zip(&random.ids) {
                assert_eq!(tokenizer.encode(text, false).unwrap(), *ids, "{number}, {}: {text:?}", path.display());
            }
        }
        written += usize::from(notes.is_empty());
    }
    assert!(written > models.len() / 3 && written < models.len(), "{written} of {}", models.len());
}

/// One that replaces characters, or takes pieces apart again, has no equal, and stays what it is.
#[test]
fn sentencepiece_models_without_an_equal_stay_what_they_are() {
    for (name, reason) in [("folded", "rules of its own"), ("steps", "only a step on the way to others")] {
        let (_dir, output, notes) = with_model(&fixture("sentencepiece").join(format!("{name}.model")));
        let told = |note: &String| note.contains("stays a SentencePiece model") && note.contains(reason);
        assert!(notes.iter().any(told), "{notes:?}");
        assert!(!output.join("tokenizer.json").exists());
        sentencepiece::check(name, &Tokenizer::open(&output).unwrap());
    }
}

/// A SentencePiece model of these pieces, all of one score, whose first one is the unknown one.
fn model_of(pieces: &[String]) -> Vec<u8> {
    let field = |tag: u8, bytes: &[u8]| {
        // Lengths in groups of seven bits, the lowest first.
        let (mut out, mut len) = (vec![tag << 3 | 2], bytes.len());
        while len >= 0x80 {
            out.push(len as u8 | 0x80);
            len >>= 7;
        }
        [&out, &[len as u8][..], bytes].concat()
    };
    let piece = |(id, text): (usize, &String)| {
        let kind = if id == 0 { 2 } else { 1 };
        field(1, &[&field(1, text.as_bytes())[..], &[2 << 3 | 5], &(-1_f32).to_le_bytes(), &[3 << 3, kind]].concat())
    };
    let model: Vec<u8> = pieces.iter().enumerate().flat_map(piece).collect();
    // Of the kind BPE; no space in front, none removed.
    [&model[..], &field(2, &[3 << 3, 2]), &field(3, &[3 << 3, 0, 4 << 3, 0])].concat()
}

/// What would take long to compare, and what cannot be read, is copied, and a note says so.
#[test]
fn models_that_are_not_worth_trying_stay_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("any.model");
    let letters = ('a'..='z').chain('A'..='Z').map(String::from).collect::<Vec<_>>();
    let begun = || std::iter::once("<unk>".to_owned()).chain(letters.iter().cloned());
    let pairs = letters.iter().flat_map(|a| letters.iter().map(move |b| format!("{a}{b}")));
    let few: Vec<String> = begun().chain(["ab", "bc"].map(String::from)).collect();
    let equal: Vec<String> = begun().chain(pairs).collect();
    let long: Vec<String> = begun().chain(["a".repeat(2_000)]).collect();
    let damaged = model_of(&few)[..40].to_vec();
    let unread = "could not be read";
    for (bytes, told) in [
        (model_of(&few), None),
        (model_of(&equal), Some("2704 of its merges have the score -1, too many to rank")),
        (model_of(&long), Some("its piece 53 has 2000 bytes, more than 1024")),
        (damaged, Some(unread)),
    ] {
        fs::write(&file, &bytes).unwrap();
        let (_dir, output, notes) = with_model(&file);
        assert_eq!(notes.len(), usize::from(told.is_some()), "{notes:?}");
        assert!(told.is_none_or(|told| notes[0].contains(told)), "{notes:?}");
        assert_eq!(fs::read(output.join("tokenizer.model")).unwrap(), bytes);
        assert_eq!(output.join("tokenizer.json").exists(), told.is_none());
    }
}

/// A token that text is never segmented into, and that nothing makes a special one, is left out of decoded text all the same,
/// which a `tokenizer.json` cannot say: the folder is written without one.
#[test]
fn control_pieces_without_a_role_stay_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("any.model");
    // Field 3, the kind, is the last of each piece of `model_of`.
    let mut bytes = model_of(&["<unk>", "a", "<pad>"].map(String::from));
    let at = bytes.windows(5).position(|window| window == b"<pad>").unwrap();
    let kind = at + bytes[at..].windows(2).position(|window| window == [3 << 3, 1]).unwrap() + 1;
    bytes[kind] = 3;
    fs::write(&file, &bytes).unwrap();
    let (_dir, output, notes) = with_model(&file);
    assert!(notes.iter().any(|note| note.contains("\"<pad>\"")), "{notes:?}");
    assert!(output.join("tokenizer.model").is_file() && !output.join("tokenizer.json").exists());
}

/// The vocabulary of a GGUF file that is one becomes a `tokenizer.model` and a `tokenizer.json`.
#[test]
fn sentencepiece_vocabularies_of_gguf_files_become_models() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("m.gguf"), dir.path().join("out"));
    fs::write(&input, gguf::gguf("llama", &gguf::Vocabulary::small(), true)).unwrap();
    let done = converted(&input, &output, &ConvertOptions::default()).unwrap();
    assert!(done.notes.is_empty(), "{:?}", done.notes);
    let before = Tokenizer::open(&input).unwrap();
    for file in ["tokenizer.model", "tokenizer.json"] {
        let after = Tokenizer::open(&output.join(file)).unwrap();
        for text in ["", "a", "ab  a", "<s>ab</s>a<unk>", "é 🙂\u{0}\n", " <0x41>"] {
            for special in [false, true] {
                let ids = before.encode(text, special).unwrap();
                assert_eq!(ids, after.encode(text, special).unwrap(), "{file}: {text:?}");
                let (wanted, found) = (before.decode(&ids, special).unwrap(), after.decode(&ids, special).unwrap());
                assert_eq!(wanted, found, "{file}: {text:?}");
            }
        }
    }
    assert_eq!(results(&input, Dtype::F32), results(&output, Dtype::F32));
}

/// With the ids and the texts of the reference library, as the `tokenizer.model` that the vocabulary was taken from.
#[test]
fn sentencepiece_vocabularies_of_gguf_files_segment_as_the_reference_library() {
    let internlm = shared("data/internlm/tokenizer.model").zip(shared("data/ceval/formal_ceval"));
    let tiny = |name: &'static str| (name, fixture("sentencepiece").join(format!("{name}.model")));
    let real = internlm.as_ref().map(|(model, _)| ("internlm", model.clone()));
    for (name, model) in ["llama", "symbols", "prefixed"].map(tiny).into_iter().chain(real) {
        let dir = tempfile::tempdir().unwrap();
        let (input, output) = (dir.path().join("m.gguf"), dir.path().join("out"));
        let architecture = if name == "internlm" { "internlm2" } else { "llama" };
        let vocabulary = sentencepiece::vocabulary(&fs::read(model).unwrap());
        fs::write(&input, gguf::gguf(architecture, &vocabulary, true)).unwrap();
        let done = converted(&input, &output, &ConvertOptions::default()).unwrap();
        assert!(done.notes.is_empty(), "{name}: {:?}", done.notes);
        for path in [input, output.join("tokenizer.model"), output.join("tokenizer.json")] {
            let tokenizer = Tokenizer::open(&path).unwrap();
            sentencepiece::check(name, &tokenizer);
            if let Some((_, ceval)) = internlm.as_ref().filter(|_| name == "internlm") {
                sentencepiece::check_ceval(&tokenizer, ceval);
                // What stands for the zero character in such files.
                assert_eq!(tokenizer.encode("\u{1f409}", false).unwrap(), [243, 162, 147, 140]);
            }
        }
    }
}

/// A model that could not run is not converted either.
#[test]
fn incomplete_models_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("m.gguf");
    fs::write(&input, gguf::gguf("llama", &gguf::Vocabulary::Bytes, false)).unwrap();
    let error = converted(&input, &dir.path().join("out"), &ConvertOptions::default()).unwrap_err().to_string();
    assert!(error.contains("is missing from"), "{error}");
}

/// A real quantised model, where it was fetched.
#[test]
fn a_real_model_keeps_its_bits() {
    let Some(input) = model("smollm2-135m-instruct.q4_1.gguf") else { return };
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("out");
    converted(&input, &output, &ConvertOptions::default()).unwrap();
    assert_eq!(results(&input, Dtype::F32), results(&output, Dtype::F32));
}
