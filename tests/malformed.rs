//! Broken checkpoints, tokenizers and settings: each gets one clear error, and nothing panics or reads out of bounds.

use oc_engine::{Engine, EngineOptions, Error, Request, ScoreRequest, Tokenizer};
use oc_tests::checkpoint;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

fn load(path: &Path) -> oc_engine::Result<Engine> {
    Engine::load(path, EngineOptions { max_seq_len: Some(128), threads: Some(1), ..EngineOptions::default() })
}

/// The error of loading `path`, which must be of our own making and name something in the file.
#[track_caller]
fn refused(path: &Path, wanted: &str) -> String {
    let error =
        load(path).err().unwrap_or_else(|| panic!("{} should be refused: {wanted}", path.display())).to_string();
    assert!(error.contains(wanted), "found: {error}\nwanted: {wanted}");
    error
}

/// A copy of a committed checkpoint folder that a test may break.
fn copy(name: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join(name);
    fs::create_dir(&folder).unwrap();
    for entry in fs::read_dir(checkpoint(name)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    (dir, folder)
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut json: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    edit(&mut json);
    fs::write(path, json.to_string()).unwrap();
}

/// Rewrites the header of a safetensors file; offsets and data stay.
fn edit_header(path: &Path, edit: impl FnOnce(&mut Value)) {
    let bytes = fs::read(path).unwrap();
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + len]).unwrap();
    edit(&mut header);
    let header = header.to_string();
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.extend(&bytes[8 + len..]);
    fs::write(path, out).unwrap();
}

#[test]
fn the_copies_load_unbroken() {
    for name in ["llama", "llama-tied", "qwen2"] {
        load(&copy(name).1).unwrap();
    }
}

#[test]
fn contexts_longer_than_the_positions_that_were_learned() {
    let options = |max_seq_len| EngineOptions { max_seq_len: Some(max_seq_len), ..EngineOptions::default() };
    let error = Engine::load(checkpoint("opt"), options(257)).unwrap_err().to_string();
    assert!(error.contains("257") && error.contains("--max-seq-len 256"), "{error}");
    Engine::load(checkpoint("opt"), options(256)).unwrap();
}

/// Beyond the original context dynamic scaling makes every key depend on the length of its text.
#[test]
fn choices_of_several_lengths_beyond_the_original_context() {
    let options = EngineOptions { max_seq_len: Some(128), ..EngineOptions::default() };
    let mut engine = Engine::load(checkpoint("internlm2-ntk"), options).unwrap();
    let mut score = |len, continuations| {
        engine.score(vec![ScoreRequest { context: vec![5; len], continuations, context_logprobs: true }])
    };
    let error = score(62, vec![vec![1, 2], vec![1, 2, 3]]).unwrap_err().to_string();
    assert!(error.contains("64 to 65 tokens") && error.contains("original context of 64"), "{error}");
    score(61, vec![vec![1, 2], vec![1, 2, 3], Vec::new()]).unwrap();
    score(70, vec![vec![1, 2], vec![3, 4]]).unwrap();
}

#[test]
fn absent_files() {
    let dir = tempfile::tempdir().unwrap();
    refused(&dir.path().join("no.gguf"), "cannot read");
    refused(dir.path(), "has no config.json");
    for (file, wanted) in [
        ("tokenizer.json", "has neither tokenizer.json nor tokenizer.model"),
        ("model.safetensors", "safetensors"),
        ("config.json", "has no config.json"),
    ] {
        let (_dir, folder) = copy("llama");
        fs::remove_file(folder.join(file)).unwrap();
        refused(&folder, wanted);
    }
    let (_dir, folder) = copy("llama-tied");
    fs::remove_file(folder.join("model-00002-of-00002.safetensors")).unwrap();
    refused(&folder, "model-00002-of-00002.safetensors");
}

/// Every length that cuts the header, and some that cut the data.
#[test]
fn truncated_gguf() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.gguf");
    let bytes = fs::read(checkpoint("qwen2-mixed")).unwrap();
    let step = (bytes.len() / 400).max(1);
    let lengths = (0..64).chain((64..bytes.len()).step_by(step)).chain([bytes.len() - 1]);
    for len in lengths {
        fs::write(&path, &bytes[..len]).unwrap();
        let error = load(&path).err().unwrap_or_else(|| panic!("{len} of {} bytes should be refused", bytes.len()));
        let text = error.to_string();
        assert!(text.contains("cut.gguf"), "{len} bytes: {text}");
        assert!(matches!(error, Error::Malformed { .. } | Error::Io { .. }), "{len} bytes: {text}");
    }
}

/// Any one byte of the header replaced: an error or a model, never a panic. Whatever loads also runs.
#[test]
fn corrupt_gguf_headers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.gguf");
    let good = fs::read(checkpoint("llama-q8_0")).unwrap();
    let mut refusals = 0;
    // The header with its tensor table ends well before the last half of this small file.
    for position in (0..good.len() / 2).step_by(97) {
        for value in [0, 0x7f, 0xff] {
            let mut bytes = good.clone();
            bytes[position] = value;
            fs::write(&path, &bytes).unwrap();
            match load(&path) {
                Ok(mut engine) => drop(engine.generate(vec![Request::new(vec![1, 2, 3], 2)])),
                Err(_) => refusals += 1,
            }
        }
    }
    assert!(refusals > 50, "only {refusals} were noticed");
}

#[test]
fn gguf_of_another_kind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    fs::write(&path, b"PK\x03\x04 a zip file, really, with some bytes in it").unwrap();
    refused(&path, "not a GGUF file");
    let mut bytes = fs::read(checkpoint("llama-q8_0")).unwrap();
    bytes[4] = 9;
    fs::write(&path, &bytes).unwrap();
    refused(&path, "GGUF version 9");
    fs::write(&path, b"").unwrap();
    refused(&path, "x.gguf");
}

/// Replaces one text in a GGUF file by another of the same length.
fn patch_gguf(name: &str, from: &str, to: &str) -> (TempDir, PathBuf) {
    assert_eq!(from.len(), to.len());
    let mut bytes = fs::read(checkpoint(name)).unwrap();
    let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).expect("the text is in the file");
    bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("patched.gguf");
    fs::write(&path, bytes).unwrap();
    (dir, path)
}

#[test]
fn gguf_with_unknown_or_missing_parts() {
    let (_dir, path) = patch_gguf("qwen2-mixed", "blk.0.ffn_up.weight", "blk.0.ffn_xx.weight");
    refused(&path, "blk.0.ffn_xx.weight");
    let pre = "tokenizer.ggml.pre";
    let (_dir, path) = patch_gguf("qwen2-mixed", pre, "tokenizer.ggml.prX");
    refused(&path, "`tokenizer.ggml.pre` is missing");
    let (_dir, path) = patch_gguf("qwen2-mixed", "general.architecture", "general.architecturX");
    refused(&path, "general.architecture");
    // The value follows its key: a type (4 bytes) and a length (8 bytes) stand between them.
    let mut bytes = fs::read(checkpoint("qwen2-mixed")).unwrap();
    let at = bytes.windows(pre.len()).position(|window| window == pre.as_bytes()).unwrap() + pre.len() + 12;
    assert_eq!(&bytes[at..at + 5], b"qwen2");
    bytes[at..at + 5].copy_from_slice(b"weird");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pre.gguf");
    fs::write(&path, bytes).unwrap();
    let error = refused(&path, "the pre-tokenizer `weird` is not supported");
    assert!(error.contains("qwen2, llama-bpe"), "the known ones are named: {error}");
}

#[test]
fn truncated_safetensors() {
    let (_dir, folder) = copy("llama");
    let path = folder.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    for len in [0, 1, 7, 8, 9, 100, 1000, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&path, &bytes[..len]).unwrap();
        refused(&folder, "model.safetensors");
    }
    let mut longer = bytes.clone();
    longer.extend([0; 16]);
    fs::write(&path, &longer).unwrap();
    refused(&folder, "model.safetensors");
}

#[test]
fn corrupt_safetensors_headers() {
    let (_dir, folder) = copy("qwen2");
    let path = folder.join("model.safetensors");
    let good = fs::read(&path).unwrap();
    let len = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    for position in (0..8 + len).step_by(11) {
        let mut bytes = good.clone();
        bytes[position] ^= 0x15;
        fs::write(&path, &bytes).unwrap();
        // Some changes only touch `__metadata__`; none may panic.
        drop(load(&folder));
    }
    let norm = "model.layers.0.input_layernorm.weight";
    type Edit = fn(&mut Value, &str);
    let edits: [(Edit, &str); 7] = [
        (|header, name| header[name]["shape"] = json!([32]), "input_layernorm"),
        (|header, name| header[name]["shape"] = json!([u64::MAX, 4]), "input_layernorm"),
        (|header, name| header[name]["dtype"] = json!("I8"), "input_layernorm"),
        (|header, name| header[name]["data_offsets"] = json!([0, 1u64 << 60]), "input_layernorm"),
        (|header, name| header[name]["data_offsets"] = json!([64, 0]), "input_layernorm"),
        (|header, name| header[name] = json!("a text"), "model.safetensors"),
        (|header, name| drop(header.as_object_mut().unwrap().remove(name)), "bytes of data follow"),
    ];
    for (edit, wanted) in edits {
        fs::write(&path, &good).unwrap();
        edit_header(&path, |header| edit(header, norm));
        refused(&folder, wanted);
    }
}

#[test]
fn tensors_of_another_shape_or_name() {
    let (_dir, folder) = copy("qwen2");
    let path = folder.join("model.safetensors");
    let name = "model.layers.0.mlp.gate_proj.weight";
    edit_header(&path, |header| header[name]["shape"].as_array_mut().unwrap().reverse());
    let error = refused(&folder, "mlp.gate_proj.weight` has shape");
    assert!(error.contains("but the configuration needs"), "{error}");
    let (_dir, folder) = copy("qwen2");
    edit_header(&folder.join("model.safetensors"), |header| {
        let header = header.as_object_mut().unwrap();
        let tensor = header.remove(name).unwrap();
        header.insert("model.layers.0.mlp.gate_poj.weight".into(), tensor);
    });
    refused(&folder, "gate_poj");
    // OPT's tensors are published with and without `model.`; not both.
    let (_dir, folder) = copy("opt-post");
    edit_header(&folder.join("model.safetensors"), |header| {
        let header = header.as_object_mut().unwrap();
        let tensor = header.remove("model.decoder.layers.0.fc1.bias").unwrap();
        header.insert("decoder.layers.1.fc1.bias".into(), tensor);
    });
    refused(&folder, "are both `model.layers.1.mlp.up_proj.bias`");
    let (_dir, folder) = copy("qwen2");
    edit_json(&folder.join("config.json"), |config| config["num_hidden_layers"] = json!(3));
    refused(&folder, "model.layers.2.");
}

#[test]
fn configurations_that_make_no_sense() {
    let cases: [(&str, Value, &str); 10] = [
        ("hidden_size", json!(0), "hidden_size"),
        ("hidden_size", json!("many"), "hidden_size"),
        ("num_attention_heads", json!(0), "num_attention_heads"),
        ("num_attention_heads", json!(3), "head"),
        ("num_key_value_heads", json!(3), "key/value heads"),
        ("num_hidden_layers", json!(1u64 << 40), "num_hidden_layers"),
        ("vocab_size", json!(-5), "vocab_size"),
        ("architectures", json!(["GptJForCausalLM"]), "GptJForCausalLM"),
        ("hidden_act", json!("gelu"), "hidden_act"),
        ("rope_scaling", json!({"rope_type": "yarn", "factor": 4.0}), "yarn"),
    ];
    for (field, value, wanted) in cases {
        let (_dir, folder) = copy("llama");
        edit_json(&folder.join("config.json"), |config| config[field] = value);
        refused(&folder, wanted);
    }
    // Fields that change the computation, and values that do not.
    let cases: [(&str, &str, Value, bool); 26] = [
        ("llama", "use_sliding_window", json!(true), false),
        ("llama", "use_sliding_window", json!(false), true),
        ("llama", "sliding_window", json!(4096), true),
        ("llama", "pretraining_tp", json!(2), true),
        ("llama", "partial_rotary_factor", json!(0.5), false),
        ("llama", "partial_rotary_factor", json!(1.0), true),
        ("llama", "logit_scale", json!(0.0625), false),
        ("llama", "attn_logit_softcapping", json!(50.0), false),
        ("llama", "final_logit_softcapping", json!(30.0), false),
        ("llama", "quantization_config", json!({"quant_method": "gptq"}), false),
        ("llama", "clip_qkv", json!(8), false),
        ("llama", "no_rope_layers", json!([1, 0]), false),
        ("llama", "layer_types", json!(["sliding_attention", "full_attention"]), false),
        ("llama", "layer_types", json!(["full_attention", "full_attention"]), true),
        ("llama", "bias", json!(true), false),
        ("qwen2", "use_sliding_window", json!(true), false),
        ("qwen2", "use_mrope", json!(true), false),
        ("internlm", "attention_bias", json!(true), false),
        ("internlm", "rotary", json!({"base": 10000, "type": "yarn"}), false),
        ("internlm2", "rope_scaling", json!({"type": "longrope", "factor": 2.0}), false),
        (
            "internlm2",
            "rope_scaling",
            json!({"type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 64}),
            false,
        ),
        ("internlm2", "rope_scaling", json!({"type": "linear", "factor": 2.0}), true),
        ("opt", "activation_function", json!("tanh"), false),
        ("opt", "activation_function", json!("gelu"), true),
        ("opt", "is_encoder_decoder", json!(true), false),
        ("opt", "do_layer_norm_before", json!("yes"), false),
    ];
    for (name, field, value, is_fine) in cases {
        let (_dir, folder) = copy(name);
        let of_rope = field == "rope_scaling" || field == "rotary";
        let is_dynamic = value["type"] == "dynamic";
        let wanted = if is_dynamic {
            "`original_max_position_embeddings`".to_owned()
        } else if of_rope {
            value["type"].as_str().unwrap().to_owned()
        } else {
            format!("`{field}`")
        };
        edit_json(&folder.join("config.json"), |config| config[field] = value);
        if is_fine {
            load(&folder).unwrap_or_else(|e| panic!("{name}, {field}: {e}"));
        } else {
            refused(&folder, &wanted);
        }
    }
    let (_dir, folder) = copy("llama");
    fs::write(folder.join("config.json"), "{ not json").unwrap();
    refused(&folder, "config.json");
}

#[test]
fn tokenizers_that_do_not_fit() {
    // A vocabulary larger than the embedding.
    let (_dir, folder) = copy("qwen2");
    edit_json(&folder.join("tokenizer.json"), |tokenizer| {
        let added = tokenizer["added_tokens"].as_array_mut().unwrap();
        let mut token = added[0].clone();
        for id in 0..64 {
            token["content"] = json!(format!("<|extra_{id}|>"));
            added.push(token.clone());
        }
    });
    let error = load(&folder).expect_err("more tokens than rows");
    assert!(matches!(error, Error::VocabMismatch { .. }), "{error}");
    let (_dir, folder) = copy("qwen2");
    for text in ["", "{}", "[1, 2]", "{\"model\": {\"type\": \"BPE\"}}", "\u{0}\u{1}"] {
        fs::write(folder.join("tokenizer.json"), text).unwrap();
        refused(&folder, "tokenizer.json");
    }
    fs::remove_file(folder.join("tokenizer.json")).unwrap();
    fs::write(folder.join("tokenizer.model"), "").unwrap();
    refused(&folder, "tokenizer.model: not a SentencePiece model");
    // A tokenizer that would cut or pad is made not to.
    let (_dir, folder) = copy("qwen2");
    edit_json(&folder.join("tokenizer.json"), |tokenizer| {
        tokenizer["truncation"] =
            json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    });
    assert!(Tokenizer::open(&folder).unwrap().encode("a longer text than that", true).unwrap().len() > 2);
}

#[test]
fn requests_that_cannot_be_served() {
    let mut engine = load(&checkpoint("qwen2")).unwrap();
    let mut refused = |request: Request, wanted: &str| {
        let error = engine.generate(vec![request]).unwrap_err().to_string();
        assert!(error.contains(wanted), "found: {error}\nwanted: {wanted}");
    };
    refused(Request::new(Vec::new(), 4), "request");
    refused(Request::new(vec![1], 0), "request");
    refused(Request::new(vec![999_999], 4), "request");
    refused(Request::new(vec![1; 120], 9), "exceeds the context of 128 tokens");
    let mut odd = Request::new(vec![1], 4);
    odd.sampling.temperature = f32::NAN;
    refused(odd.clone(), "temperature");
    odd.sampling.temperature = 1.0;
    odd.sampling.top_p = 0.0;
    refused(odd, "top_p");
    // The engine is as good as new.
    assert_eq!(engine.generate(vec![Request::new(vec![1; 120], 8)]).unwrap().len(), 1);
}

/// GPT-2's tokenizer files, as OPT has them.
#[test]
fn vocabularies_and_merges_that_do_not_fit() {
    let with = |edit: &dyn Fn(&Path), wanted: &str| {
        let (_dir, folder) = copy("opt");
        edit(&folder);
        refused(&folder, wanted);
    };
    let append = |folder: &Path, line: &str| {
        let path = folder.join("merges.txt");
        fs::write(&path, fs::read_to_string(&path).unwrap() + line).unwrap();
    };
    with(&|folder| append(folder, "a\n"), "must be two tokens");
    with(&|folder| append(folder, "zq qz\n"), "needs the token \"zq\"");
    with(&|folder| fs::remove_file(folder.join("merges.txt")).unwrap(), "merges.txt");
    with(&|folder| fs::write(folder.join("vocab.json"), "[]").unwrap(), "vocab.json");
    with(&|folder| edit_json(&folder.join("vocab.json"), |vocab| vocab["!"] = json!(1)), "also another token's");
    with(&|folder| edit_json(&folder.join("vocab.json"), |vocab| vocab["!"] = json!(-1)), "has the id -1");
    with(
        &|folder| {
            edit_json(&folder.join("tokenizer_config.json"), |config| {
                config["tokenizer_class"] = json!("OtherTokenizer")
            })
        },
        "tokenizer_class is OtherTokenizer",
    );
    with(
        &|folder| edit_json(&folder.join("tokenizer_config.json"), |config| config["bos_token"] = Value::Null),
        "bos_token is not",
    );
    with(
        &|folder| {
            let added = json!({"900": {"content": "<mask>", "special": true}});
            edit_json(&folder.join("tokenizer_config.json"), |config| config["added_tokens_decoder"] = added);
        },
        "cannot have the id 900",
    );
}
