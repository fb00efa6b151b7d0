//! Real models on the real C-Eval: the predictions and results files are OpenCompass's own, byte for byte.
//!
//! The references are runs of OpenCompass with transformers in float32 on the CPU.

use oc_tests::{model, shared};
use serde_json::Value;
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

/// Perplexities of a real run: everything but the numbers to the byte, the numbers within 1e-4, the answers equal unless
/// the two lowest perplexities are nearer to one another than 1e-3.
fn check_ppl(model_file: &str, reference: &str) {
    let (Some(model), Some(data)) = (model(model_file), shared("data")) else { return };
    let Some(reference) = shared(&format!("goldens/opencompass_runs/{reference}")) else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_oc-cli"));
    command.args("eval --datasets ceval_ppl --subjects computer_network --dtype f32 --max-seq-len 2048".split(' '));
    command.arg("--hf-path").arg(model).arg("--data-dir").arg(data);
    let output = command.current_dir(dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let run = fs::read_dir(dir.path().join("outputs/default")).unwrap().next().unwrap().unwrap().path();
    let read =
        |run: &Path, kind: &str| -> Value { serde_json::from_slice(&fs::read(file(run, kind)).unwrap()).unwrap() };
    let (found, wanted) = (read(&run, "predictions"), read(&reference, "predictions"));
    let questions = wanted.as_object().unwrap();
    assert_eq!((found.as_object().unwrap().len(), questions.len()), (19, 19));
    let mut furthest = 0.0_f64;
    for (index, wanted) in questions {
        let found = &found[index];
        let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(found), keys(wanted), "question {index}");
        let mut perplexities = Vec::new();
        for (key, wanted) in wanted.as_object().unwrap() {
            let found = &found[key];
            let Some(wanted) = wanted.as_object() else {
                assert!(found == wanted || key == "prediction", "question {index}: {key} differs");
                continue;
            };
            assert_eq!(keys(found), wanted.keys().cloned().collect::<Vec<_>>(), "question {index}, {key}");
            for (name, wanted) in wanted {
                match wanted.as_f64() {
                    None => assert!(found[name] == *wanted, "question {index}, {key}: {name} differs"),
                    Some(wanted) => {
                        let difference = (found[name].as_f64().unwrap() - wanted).abs() / wanted;
                        assert!(difference < 1e-4, "question {index}, {key}: {name} is {}, not {wanted}", found[name]);
                        furthest = furthest.max(difference);
                    }
                }
            }
            perplexities.push(wanted["PPL"].as_f64().unwrap());
        }
        perplexities.sort_by(f64::total_cmp);
        let is_tie = perplexities[1] - perplexities[0] < 1e-3;
        assert!(found["prediction"] == wanted["prediction"] || is_tie, "question {index}: another answer");
        if found["prediction"] != wanted["prediction"] {
            println!("question {index}: another answer, the best two are {} apart", perplexities[1] - perplexities[0]);
        }
    }
    println!("largest relative difference of PPL and BPB: {furthest:e}");
    assert_eq!(read(&run, "results")["accuracy"], read(&reference, "results")["accuracy"]);
    // Scoring what OpenCompass itself wrote gives its results and its table.
    let theirs = dir.path().join("theirs/20260101_000000");
    copy(&reference.join("predictions"), &theirs.join("predictions"));
    let abbr = fs::read_dir(reference.join("predictions")).unwrap().next().unwrap().unwrap().file_name();
    let abbr = abbr.to_str().unwrap();
    for mode in ["eval", "viz"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oc-cli"));
        command.args("eval --datasets ceval_ppl --subjects computer_network -w theirs -r -m".split(' ')).arg(mode);
        command.arg("--hf-path").arg(abbr.trim_end_matches("_hf"));
        command.arg("--data-dir").arg(shared("data").unwrap());
        let output = command.current_dir(dir.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let (found, wanted) = (file(&theirs, "results"), file(&reference, "results"));
        assert!(fs::read(found).unwrap() == fs::read(&wanted).unwrap(), "{} differs", wanted.display());
        let summary = fs::read_dir(reference.join("summary")).unwrap().map(|entry| entry.unwrap().path());
        let csv = summary.into_iter().find(|path| path.extension().is_some_and(|e| e == "csv")).unwrap();
        let row = fs::read_to_string(csv).unwrap().lines().nth(1).unwrap().replace(',', " ");
        let table = String::from_utf8(output.stdout).unwrap();
        assert!(table.lines().any(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") == row), "{table}");
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (entry, to) = (entry.unwrap(), to);
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::write(target, fs::read(entry.path()).unwrap()).unwrap();
        }
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

#[test]
fn smollm2_perplexities() {
    check_ppl(SMOLLM2, "smollm2-135m/ppl_578f8d_base_bs1");
}

#[test]
fn qwen2_perplexities() {
    check_ppl(QWEN, "qwen2.5-coder-0.5b/ppl_578f8d_base_bs1");
}
