//! `oc-cli bench` and `--load-format dummy` on tiny models: what is reported, not how fast it is.

use assert_cmd::Command;
use serde_json::Value;
use std::path::{Path, PathBuf};

fn run(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oc-cli"));
    command.args(line.split_whitespace()).env_remove("OC_LOG");
    command
}

/// A folder with the configuration of a tiny LLaMA and nothing else.
fn shape_only() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let fixture: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/llama/config.json");
    std::fs::copy(fixture, dir.path().join("config.json")).unwrap();
    dir
}

#[test]
fn a_configuration_is_enough_to_measure_everything() {
    let dir = shape_only();
    let mut command = run("bench --load-format dummy --device cpu --what prefill,decode,gen,ppl --prompt-tokens 40 \
                           --new-tokens 5 --sequences 1,3 --subjects 2 --questions 3 --repeat 1 --json");
    // C-Eval's sizes are beyond the context that the tiny model was made for, which its rotary embedding does not mind.
    let output = command.arg("--hf-path").arg(dir.path()).assert().code(0).get_output().clone();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = report["rows"].as_array().unwrap();
    let of = |key: &str| rows.iter().map(|row| row[key].clone()).collect::<Vec<_>>();
    assert_eq!(of("what"), ["prefill", "prefill", "decode", "decode", "gen", "ppl"]);
    // 2 × (1100 + 3 × 110) prompt tokens; 6 answers of 16 tokens; 6 × 4 choices of which one token is computed.
    let tokens = [40, 120, 5, 15, 2860 + 96, 2860 + 24];
    assert_eq!(of("tokens"), tokens.map(Value::from));
    for row in rows {
        let [seconds, floor, share] = ["seconds", "floor_seconds", "of_floor"].map(|key| row[key].as_f64().unwrap());
        assert!(seconds > 0.0 && floor > 0.0 && (share - floor / seconds).abs() < 1e-9, "{row}");
    }
    assert!(report["peak_bytes"].as_u64().is_none_or(|bytes| bytes > report["weight_bytes"].as_u64().unwrap()));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("random weights: its answers mean nothing"), "{stderr}");
}

#[test]
fn random_weights_answer_and_say_so() {
    let dir = shape_only();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/llama");
    let mut command = run("generate --load-format dummy --device cpu --max-out-len 4 hello --tokenizer-path");
    let output = command.arg(fixture).arg("--hf-path").arg(dir.path()).assert().code(0).get_output().clone();
    assert!(String::from_utf8_lossy(&output.stderr).contains("its answers mean nothing"));
}

#[test]
fn what_cannot_be_measured_is_refused_by_name() {
    for (line, wanted) in [
        ("bench", "no model was given"),
        ("bench --shape GPT-5", "there is no shape `GPT-5`"),
        ("bench --shape SmolLM2-135M --device emulator", "the emulator has no clock"),
        ("bench --shape SmolLM2-135M --sequences 0", "invalid value '0'"),
    ] {
        let output = run(line).assert().code(2).stdout("").get_output().clone();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains(wanted), "{line}: {stderr}");
    }
}
