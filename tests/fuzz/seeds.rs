//! Small files that are right, to be damaged.

use oc_tests::{
    checkpoint, fixture,
    gguf::{Vocabulary, gguf},
};
use serde_json::{Value, json};
use std::{
    fs,
    io::{Cursor, Write},
    path::Path,
};
use zip::{ZipWriter, write::SimpleFileOptions};

/// A file to be damaged.
pub struct Seed {
    pub bytes: Vec<u8>,
    /// Whether it has to load as it is; one that once failed need not.
    pub is_valid: bool,
}

/// The seeds of a loader: small files made here, or of the fixtures, and what once failed.
pub fn of(loader: &str) -> Vec<Seed> {
    let files = match loader {
        "safetensors" => vec![safetensors(&TENSORS), safetensors(&TENSORS[..1])],
        "pickle" => vec![zipped(), legacy()],
        "config" => ["llama", "qwen2", "internlm", "internlm2", "opt", "opt-post"]
            .iter()
            .map(|name| fs::read(checkpoint(name).join("config.json")).unwrap())
            .collect(),
        "gguf" => vec![gguf("llama", &Vocabulary::Bytes, false), gguf("llama", &Vocabulary::small(), false)],
        "sentencepiece" => {
            let fixture = |name| fs::read(fixture("sentencepiece").join(name)).unwrap();
            vec![sentencepiece(), fixture("folded.model"), fixture("symbols.model")]
        }
        "tokenizer" => tokenizers().iter().map(|json| json.to_string().into_bytes()).collect(),
        other => panic!("no seeds of {other}"),
    };
    let once_failed = fs::read_dir(fixture("fuzz").join(loader)).into_iter().flatten();
    let mut failed: Vec<_> = once_failed.map(|entry| entry.unwrap().path()).collect();
    failed.sort();
    let files = files.into_iter().map(|bytes| Seed { bytes, is_valid: true });
    files.chain(failed.iter().map(|path| Seed { bytes: fs::read(path).unwrap(), is_valid: false })).collect()
}

/// What the loader needs beside the damaged file.
pub fn folder(loader: &str, dir: &Path) {
    match loader {
        "safetensors" | "pickle" => fs::write(dir.join("config.json"), config().to_string()).unwrap(),
        "config" => fs::write(dir.join("model.safetensors"), safetensors(&[])).unwrap(),
        _ => {}
    }
}

fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 4, "intermediate_size": 4, "num_attention_heads": 2,
        "num_key_value_heads": 1, "num_hidden_layers": 1, "vocab_size": 8, "max_position_embeddings": 16,
    })
}

/// Name, dtype, bytes of an element, shape.
type Tensor = (&'static str, &'static str, usize, &'static [usize]);

const TENSORS: [Tensor; 5] = [
    ("model.embed_tokens.weight", "F32", 4, &[8, 4]),
    ("model.layers.0.self_attn.q_proj.weight", "F16", 2, &[4, 4]),
    ("model.layers.0.mlp.up_proj.weight", "BF16", 2, &[4, 4]),
    ("model.layers.0.self_attn.rotary_emb.inv_freq", "I64", 8, &[1]),
    ("model.norm.weight", "F32", 4, &[4]),
];

fn safetensors(tensors: &[Tensor]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut at = 0;
    for (name, dtype, size, shape) in tensors {
        let end = at + size * shape.iter().product::<usize>();
        header.insert((*name).into(), json!({"dtype": dtype, "shape": shape, "data_offsets": [at, end]}));
        at = end;
    }
    let header = Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + at, 1);
    bytes
}

/// The opcodes that `torch.save` writes for a text.
fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A state dictionary in the form of `torch.save`, the shapes and storages of [`TENSORS`].
fn state_dict(is_legacy: bool) -> Vec<u8> {
    let mut out = b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01(".to_vec();
    for (key, (name, dtype, _, shape)) in TENSORS.iter().enumerate() {
        let class = match *dtype {
            "F32" => "FloatStorage",
            "F16" => "HalfStorage",
            "BF16" => "BFloat16Storage",
            _ => "LongStorage",
        };
        text(&mut out, name);
        out.extend(b"q\x02ctorch._utils\n_rebuild_tensor_v2\nq\x03((");
        text(&mut out, "storage");
        out.extend(format!("ctorch\n{class}\n").as_bytes());
        text(&mut out, &key.to_string());
        text(&mut out, "cpu");
        out.extend([b'K', shape.iter().product::<usize>() as u8]);
        out.extend(if is_legacy { &b"NtQK\x00("[..] } else { b"tQK\x00(" });
        let mut stride = shape.iter().product::<usize>();
        let mut strides = Vec::new();
        for size in *shape {
            out.extend([b'K', *size as u8]);
            stride /= size;
            strides.extend([b'K', stride as u8]);
        }
        out.extend(b"t(");
        out.extend(strides);
        out.extend(b"t\x89ccollections\nOrderedDict\n)RtR");
    }
    out.extend(b"u.");
    out
}

fn zipped() -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut add = |name: String, data: &[u8]| {
        zip.start_file(name, options).unwrap();
        zip.write_all(data).unwrap();
    };
    add("m/data.pkl".into(), &state_dict(false));
    add("m/byteorder".into(), b"little");
    for (key, (_, _, size, shape)) in TENSORS.iter().enumerate() {
        add(format!("m/data/{key}"), &vec![1; size * shape.iter().product::<usize>()]);
    }
    zip.finish().unwrap().into_inner()
}

fn legacy() -> Vec<u8> {
    let mut out =
        b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}q\x00(".to_vec();
    text(&mut out, "little_endian");
    out.extend(b"\x88u.");
    out.extend(state_dict(true));
    out.extend(b"\x80\x02]q\x00(");
    (0..TENSORS.len()).for_each(|key| text(&mut out, &key.to_string()));
    out.extend(b"e.");
    for (_, _, size, shape) in TENSORS {
        let count = shape.iter().product::<usize>();
        out.extend((count as u64).to_le_bytes());
        out.resize(out.len() + size * count, 1);
    }
    out
}

/// A BPE model of a few pieces, in the encoding of protocol buffers.
fn sentencepiece() -> Vec<u8> {
    let mut out = Vec::new();
    for (text, kind) in [("<unk>", 2), ("<s>", 3), ("a", 1), ("b", 1), ("ab", 1), ("\u{2581}a", 5), ("\u{2581}", 4)] {
        let mut piece = vec![0x0a, text.len() as u8];
        piece.extend(text.as_bytes());
        piece.push(0x15);
        piece.extend((-(out.len() as f32)).to_le_bytes());
        piece.extend([0x18, kind]);
        out.extend([0x0a, piece.len() as u8]);
        out.extend(piece);
    }
    // The trainer's `model_type` is BPE; the normaliser puts a space in front and keeps all others.
    out.extend([0x12, 2, 0x18, 2, 0x1a, 4, 0x18, 1, 0x20, 0]);
    out
}

/// The algorithms of `tokenizer.json`, each with a few tokens.
fn tokenizers() -> [Value; 4] {
    let added = |id: usize, text: &str| {
        json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
               "special": true})
    };
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let whole = |model: Value, added: Vec<Value>, rest: Value| {
        let mut json = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
            "pre_tokenizer": null, "post_processor": null, "decoder": null, "model": model,
        });
        for (key, value) in rest.as_object().unwrap() {
            json[key] = value.clone();
        }
        json
    };
    let template = json!({
        "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [4], "tokens": ["<s>"]}},
    });
    [
        whole(
            json!({"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                   "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                   "vocab": {"a": 0, "b": 1, "ab": 2, "Ġ": 3}, "merges": [["a", "b"]]}),
            vec![added(4, "<s>")],
            json!({"pre_tokenizer": bytes, "decoder": bytes, "post_processor": template}),
        ),
        whole(
            json!({"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
                   "vocab": {"<unk>": 0, "▁": 1, "a": 2, "▁a": 3, "<0x00>": 4}, "merges": ["▁ a"]}),
            vec![added(0, "<unk>")],
            json!({
                "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Prepend", "prepend": "▁"},
                               {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
                "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                            {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
            }),
        ),
        whole(
            json!({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
                   "vocab": {"[UNK]": 0, "a": 1, "##b": 2}}),
            vec![added(0, "[UNK]")],
            json!({"normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                                  "strip_accents": null, "lowercase": true},
                   "pre_tokenizer": {"type": "BertPreTokenizer"},
                   "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true}}),
        ),
        whole(
            json!({"type": "Unigram", "unk_id": 0, "byte_fallback": false, "vocab": [["<unk>", 0.0], ["▁a", -1.5], ["b", -2.0]]}),
            vec![added(0, "<unk>")],
            json!({"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
                   "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}}),
        ),
    ]
}
