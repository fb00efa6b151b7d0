//! `oc-cli inspect` and `oc-cli convert` on the tiny checkpoints.

use assert_cmd::Command;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("tests/fixtures").join(name)
}

fn cli(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oc-cli"));
    command.args(args).env_remove("OC_LOG").env_remove("HF_HUB_CACHE").env_remove("HF_HOME");
    command
}

fn inspect(path: &Path, code: i32) -> Value {
    let output =
        cli(&["inspect", "--json", path.to_str().unwrap()]).assert().code(code).stderr("").get_output().clone();
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn cards_of_the_checkpoints() {
    // LLaMA: embedding and head 2 · 320 · 64, two layers of 64 · (64 + 32 + 32 + 64) + 3 · 64 · 96 + 2 · 64, one norm.
    let parameters = 2 * 320 * 64 + 2 * (64 * 192 + 3 * 64 * 96 + 128) + 64;
    let card = inspect(&fixture("llama"), 0);
    assert_eq!(card["parameters"], parameters);
    assert_eq!((&card["format"], &card["architecture"]), (&json!("safetensors"), &json!("LlamaForCausalLM")));
    assert_eq!(
        card["formats"],
        json!([{"name": "F32", "tensors": 21, "parameters": parameters, "bytes": 4 * parameters}])
    );
    assert_eq!(card["config"]["max_position_embeddings"], 16384);
    let kv = |dtype: usize| card["memory"][dtype]["kv_per_token"].as_u64().unwrap();
    // Keys and values, two layers, two heads of 16.
    assert_eq!([kv(0), kv(1), kv(2)], [2 * 2 * 32 * 4, 2 * 2 * 32 * 2, 2 * 2 * 32 * 2]);
    assert!(card["memory"][0]["weights"].as_u64().unwrap() >= 4 * parameters);
    assert_eq!(card["tokenizer"]["kind"], "BPE");
    assert_eq!(card["tokenizer"]["added_around"], json!([311]));
    assert_eq!(card["tokenizer"]["special_tokens"][0], json!({"id": 311, "text": "<|begin_of_text|>"}));
    assert_eq!(card["chat_template"].as_str().unwrap().len(), 32);
    assert_eq!(card["unsupported"], json!([]));
    for (name, format, architecture) in [
        ("llama-tied", "safetensors", "LlamaForCausalLM"),
        ("internlm", "pytorch_model.bin (zip)", "InternLMForCausalLM"),
        ("internlm2", "pytorch_model.bin (zip)", "InternLM2ForCausalLM"),
        ("internlm2-legacy", "pytorch_model.bin (before PyTorch 1.6)", "InternLM2ForCausalLM"),
        ("llama-k.gguf", "GGUF", "llama"),
        ("qwen2-mixed.gguf", "GGUF", "qwen2"),
    ] {
        let card = inspect(&fixture(name), 0);
        assert_eq!((&card["format"], &card["architecture"]), (&json!(format), &json!(architecture)), "{name}");
        assert!(card["memory"].as_array().unwrap().len() == 3, "{name}");
    }
    assert_eq!(inspect(&fixture("llama-q8_0.gguf"), 0)["parameters"], parameters);
    assert_eq!(inspect(&fixture("llama-tied"), 0)["files"].as_array().unwrap().len(), 2);
}

#[test]
fn the_card_is_for_people_too() {
    let path = fixture("llama");
    let output = cli(&["inspect", path.to_str().unwrap()]).assert().code(0).stderr("").get_output().clone();
    let text = String::from_utf8(output.stdout).unwrap();
    for line in [
        "files           safetensors, one file, 403.3 KiB",
        "architecture    LlamaForCausalLM",
        "parameters      102,720: F32 100.0 %",
        "context         16,384 tokens",
        "  puts around   311 <|begin_of_text|>",
        "  ends with     312 <|end_of_text|>, 315 <|eot_id|>",
        "not supported   nothing: it runs",
    ] {
        assert!(text.lines().any(|found| found.starts_with(line)), "no {line:?} in\n{text}");
    }
}

/// Everything that stands in the way is listed, not only the first thing.
#[test]
fn all_problems_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture("qwen2")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    let path = dir.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["hidden_act"] = json!("gelu");
    config["use_sliding_window"] = json!(true);
    config["rope_scaling"] = json!({"rope_type": "yarn", "factor": 4.0});
    fs::write(&path, config.to_string()).unwrap();
    let weights = dir.path().join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    for (from, to) in
        [("layers.0.mlp.gate_proj", "layers.0.mlp.gate_poj_"), ("layers.1.mlp.up_proj", "layers.1.mlp.up_poj_")]
    {
        let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
    }
    fs::write(&weights, bytes).unwrap();
    fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    let card = inspect(dir.path(), 1);
    let problems: Vec<&str> = card["unsupported"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
    let wanted = [
        "`hidden_act` = \"gelu\"",
        "`use_sliding_window` = true",
        "yarn",
        "gate_poj_",
        "up_poj_",
        "tokenizer.json: not a tokenizer",
    ];
    for wanted in wanted {
        assert!(problems.iter().any(|problem| problem.contains(wanted)), "{wanted} is not in {problems:#?}");
    }
    assert_eq!(card["config"]["hidden_size"], 64);
    assert_eq!(card["tokenizer"], Value::Null);
    // Of a file that is cut off in its tensors, what stands before them is shown.
    let whole = inspect(&fixture("qwen2-mixed.gguf"), 0);
    let cut = dir.path().join("cut.gguf");
    let bytes = fs::read(fixture("qwen2-mixed.gguf")).unwrap();
    fs::write(&cut, &bytes[..bytes.len() - 1000]).unwrap();
    let card = inspect(&cut, 1);
    assert_eq!(card["unsupported"].as_array().unwrap().len(), 1, "{card}");
    assert_eq!((&card["tokenizer"], &card["architecture"]), (&whole["tokenizer"], &whole["architecture"]));
    assert!(card["tokenizer"]["vocab_size"].is_u64());
    // A folder without anything is a card with problems; a path without anything an error.
    let empty = tempfile::tempdir().unwrap();
    assert!(inspect(empty.path(), 1)["unsupported"].as_array().unwrap().len() >= 2);
    cli(&["inspect", "/no/such/model"]).assert().code(2).stdout("");
}

/// The library that reads `tokenizer.json` panics on some damage; the program does not.
#[test]
fn a_tokenizer_whose_parts_do_not_fit_is_one_error() {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture("llama")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    let path = dir.path().join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let processor = &mut tokenizer["post_processor"]["processors"][1];
    processor["single"][0]["SpecialToken"]["id"] = json!("<|nobody|>");
    fs::write(&path, tokenizer.to_string()).unwrap();
    let output =
        cli(&["generate", "--hf-path", dir.path().to_str().unwrap(), "hello"]).assert().code(2).get_output().clone();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("error: ") && !stderr.contains("panicked"), "{stderr}");
}

#[test]
fn convert_writes_a_folder_that_runs() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (fixture("qwen2-mixed.gguf"), dir.path().join("out"));
    let args = ["convert", input.to_str().unwrap(), output.to_str().unwrap()];
    cli(&args).assert().code(0).stdout(format!("{}\n", output.display()));
    let card = inspect(&output, 0);
    assert_eq!((&card["format"], &card["architecture"]), (&json!("safetensors"), &json!("Qwen2ForCausalLM")));
    let text = |path: &Path| {
        let args = ["generate", "--hf-path", path.to_str().unwrap(), "--dtype", "f32", "--max-out-len", "20", "hello"];
        cli(&args).assert().code(0).get_output().stdout.clone()
    };
    assert_eq!(text(&input), text(&output));
    let refused = cli(&args).assert().code(2).stdout("").get_output().clone();
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert!(stderr.contains("exists already\n\nhint: --force replaces it"), "{stderr}");
    cli(&args).args(["--force", "--dtype", "bf16"]).assert().code(0);
    assert_eq!(inspect(&output, 0)["formats"].as_array().unwrap().len(), 1);
}

/// A large sparse model takes long enough to be killed in the middle.
#[test]
fn killing_it_leaves_no_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in"), dir.path().join("out"));
    fs::create_dir(&input).unwrap();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(fixture("llama").join(name), input.join(name)).unwrap();
    }
    // Layers with an MLP of 4 Mi: the MLP's matrices alone have 3 GiB in bf16.
    let mut config: Value = serde_json::from_slice(&fs::read(input.join("config.json")).unwrap()).unwrap();
    let inner = 1_u64 << 22;
    config["intermediate_size"] = json!(inner);
    fs::write(input.join("config.json"), config.to_string()).unwrap();
    let mut header = serde_json::Map::new();
    let mut at = 0;
    let mut add = |name: String, shape: &[u64]| {
        let end = at + 2 * shape.iter().product::<u64>();
        header.insert(name, json!({"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}));
        at = end;
    };
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        add(name.into(), &[320, 64]);
    }
    add("model.norm.weight".into(), &[64]);
    for layer in 0..2 {
        let mut part = |name: &str, shape: &[u64]| add(format!("model.layers.{layer}.{name}.weight"), shape);
        part("input_layernorm", &[64]);
        part("post_attention_layernorm", &[64]);
        part("self_attn.q_proj", &[64, 64]);
        part("self_attn.k_proj", &[32, 64]);
        part("self_attn.v_proj", &[32, 64]);
        part("self_attn.o_proj", &[64, 64]);
        part("mlp.gate_proj", &[inner, 64]);
        part("mlp.up_proj", &[inner, 64]);
        part("mlp.down_proj", &[64, inner]);
    }
    let text = Value::Object(header).to_string();
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    let file = input.join("model.safetensors");
    fs::write(&file, &bytes).unwrap();
    fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(bytes.len() as u64 + at).unwrap();

    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_oc-cli"))
        .args(["convert", input.to_str().unwrap(), output.to_str().unwrap(), "--dtype", "f32"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let staged = dir.path().join(".out.incomplete/model-00001-of-00002.safetensors");
    let started = Instant::now();
    while !fs::metadata(&staged).is_ok_and(|file| file.len() > 1 << 20) {
        assert!(child.try_wait().unwrap().is_none(), "it ended too early");
        assert!(started.elapsed() < Duration::from_secs(60), "nothing was written");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!output.exists());
    // The next one is not disturbed by what was left behind.
    let small = fixture("llama");
    cli(&["convert", small.to_str().unwrap(), output.to_str().unwrap()]).assert().code(0);
    assert!(output.join("model.safetensors").is_file());
    assert!(!staged.parent().unwrap().exists());
}
