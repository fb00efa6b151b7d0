//! Real models on the real C-Eval: the predictions and results files are OpenCompass's own, byte for byte.
//!
//! The references are runs of OpenCompass with transformers in float32 on the CPU.

use oc_tests::{model, shared};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The one file `<kind>/<model>/ceval-computer_network.json` below a run folder.
fn file(run: &Path, kind: &str) -> PathBuf {
    let mut models = fs::read_dir(run.join(kind)).unwrap().map(|entry| entry.unwrap().path());
    models.next().expect("a folder of the model").join("ceval-computer_network.json")
}

fn check(model_file: &str, reference: &str, flags: &str) {
    let (Some(model), Some(data)) = (model(model_file), shared("data")) else { return };
    let Some(reference) = shared(&format!("goldens/opencompass_runs/{reference}")) else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_oc-cli"));
    command.args("eval --datasets ceval_gen --subjects computer_network --dtype f32 --max-out-len 16".split(' '));
    command.args(flags.split(' ')).arg("--hf-path").arg(model).arg("--data-dir").arg(data);
    let output = command.current_dir(dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let run = fs::read_dir(dir.path().join("outputs/default")).unwrap().next().unwrap().unwrap().path();
    for kind in ["predictions", "results"] {
        let (found, wanted) = (file(&run, kind), file(&reference, kind));
        assert!(fs::read(&found).unwrap() == fs::read(&wanted).unwrap(), "{kind} differ from {}", wanted.display());
    }
}

const SMOLLM2: &str = "smollm2-135m-instruct.q4_1.gguf";
const QWEN: &str = "qwen2.5-coder-0.5b-instruct.q4_k_m.gguf";

#[test]
fn smollm2() {
    check(SMOLLM2, "smollm2-135m/gen_base", "--max-seq-len 2048");
}

/// Examples are dropped until the prompt fits.
#[test]
fn smollm2_with_fewer_examples() {
    check(SMOLLM2, "smollm2-135m/gen_base_maxseq1024", "--max-seq-len 1024");
}

/// No example is left, and the beginning is cut.
#[test]
fn smollm2_with_cut_prompts() {
    check(SMOLLM2, "smollm2-135m/gen_base_maxseq160", "--max-seq-len 160");
}

#[test]
fn qwen2() {
    check(QWEN, "qwen2.5-coder-0.5b/gen_base", "--max-seq-len 2048");
}

#[test]
fn qwen2_through_its_chat_template() {
    check(QWEN, "qwen2.5-coder-0.5b/gen_chat", "--max-seq-len 2048 --hf-type chat");
}
