//! Models that cut prompts or count tokens in an unusual way, against what OpenCompass itself answered with the same
//! configuration, checkpoint and questions (`tests/fixtures/make_opencompass_lengths.py`).

use assert_cmd::Command;
use oc_tests::{fixture, root};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::{fs, path::Path};

#[derive(Deserialize)]
struct Case {
    name: String,
    config: String,
    /// `dev.jsonl` in the folder of the data, instead of the demonstration's.
    data: Option<String>,
    predictions: Map<String, Value>,
}

fn cases() -> Vec<Case> {
    serde_json::from_slice(&fs::read(fixture("opencompass_lengths.json")).unwrap()).unwrap()
}

/// Runs a configuration of a case in `dir`; what is on stderr, and the run folder's predictions and log.
fn run(dir: &Path, config: &str, data: Option<&str>) -> (String, Map<String, Value>, String) {
    let folder = match data {
        Some(lines) => {
            fs::write(dir.join("dev.jsonl"), lines).unwrap();
            dir.to_owned()
        }
        None => root().join("data/demo/formal_ceval"),
    };
    let config = config.replace("DATA", folder.to_str().unwrap()).replace("MODEL", fixture("llama").to_str().unwrap());
    fs::write(dir.join("x.py"), config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_oc-cli"));
    let output = command.current_dir(dir).args(["eval", "x.py", "-w", "runs"]).assert().code(0).get_output().clone();
    let run = fs::read_dir(dir.join("runs")).unwrap().next().unwrap().unwrap().path();
    let read = |file: &str| fs::read_to_string(run.join(file)).unwrap();
    let predictions = serde_json::from_str(&read("predictions/m/ceval-law.json")).unwrap();
    (String::from_utf8(output.stderr).unwrap(), predictions, read("logs/infer/m/ceval-law.out"))
}

/// Equal, but for the last digits of numbers.
fn same(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => {
            found.len() == wanted.len() && found.iter().zip(wanted).all(|((k, a), (l, b))| k == l && same(a, b))
        }
        (Value::Number(found), Value::Number(wanted)) => {
            let (found, wanted) = (found.as_f64().unwrap(), wanted.as_f64().unwrap());
            (found - wanted).abs() <= 1e-5 * wanted.abs()
        }
        (found, wanted) => found == wanted,
    }
}

#[test]
fn answers_are_opencompasss() {
    let cases = cases();
    assert!(cases.len() >= 30);
    for Case { name, config, data, predictions } in cases {
        let dir = tempfile::tempdir().unwrap();
        let (_, found, _) = run(dir.path(), &config, data.as_deref());
        assert_eq!(found.len(), predictions.len(), "{name}");
        for (index, wanted) in &predictions {
            assert!(same(&found[index], wanted), "{name}, question {index}:\n{:#}\nwanted {wanted:#}", found[index]);
        }
    }
}

/// The cases would not be worth much if their settings changed nothing.
#[test]
fn every_setting_changes_something() {
    let all = cases();
    let of = |name: &str| all.iter().find(|case| case.name == name).unwrap();
    for (name, other) in [
        ("min_out_len", "eos_token_id"),
        ("chat mid", "chat none"),
        ("drop_middle", "causal"),
        ("causal", "causal mid"),
        ("drop_middle of perplexities", "causal of perplexities"),
        ("pad_token_id", "causal of perplexities"),
        ("likelihoods", "likelihoods of the older class"),
        ("3 rows in batches of 2", "3 rows in batches of 1"),
        ("3 rows in batches of 2", "3 rows in batches of 3"),
        ("5 rows in batches of 4", "5 rows in batches of 3"),
        ("batches of the dataset's size", "3 rows in batches of 3"),
        ("batches mid", "3 rows in batches of 2"),
        ("end_str", "end_str of a special token"),
        ("end_str of two", "end_str"),
        ("end_str of the newer class", "end_str"),
    ] {
        assert_ne!(of(name).predictions, of(other).predictions, "{name}");
    }
}

/// Fewest tokens go with sampling too (`tests/sampling.rs` has the distribution).
#[test]
fn sampled_answers_have_a_least_length() {
    let case = cases().into_iter().find(|case| case.name == "min_out_len").unwrap();
    let tokens = |config: &str| -> Vec<u64> {
        let dir = tempfile::tempdir().unwrap();
        let (_, _, log) = run(dir.path(), config, None);
        let line = |line: &str| serde_json::from_str::<Value>(line).unwrap()["output_tokens"].as_u64().unwrap();
        log.lines().map(line).collect()
    };
    // Half of all tokens end an answer.
    let ends: Vec<String> = (0..300).filter(|token| token % 2 == 0).map(|token| token.to_string()).collect();
    let sampled =
        case.config.replace("eos_token_id=", &format!("do_sample=True, seed=5, eos_token_id=[{}, ", ends.join(", ")));
    let at = sampled.find("eos_token_id=").unwrap();
    let close = at + sampled[at..].find(')').unwrap();
    let sampled = format!("{}]{}", &sampled[..close], &sampled[close..]);
    let (least, free) = (tokens(&sampled), tokens(&sampled.replace("min_out_len=5, ", "")));
    assert!(least.iter().all(|tokens| *tokens >= 5), "{least:?}");
    assert!(free.iter().any(|tokens| *tokens < 5), "{free:?}");
}

/// That a cut depends on the batches is said, and marked on each question; other batches are other prompts.
#[test]
fn what_depends_on_batches_is_said_and_marked() {
    let all = cases();
    let of = |name: &str| all.iter().find(|case| case.name == name).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (stderr, _, log) = run(dir.path(), &of("3 rows in batches of 2").config, None);
    assert!(stderr.contains("the cut of 3 of 3 prompts depends on the batch size, which is 2: "), "{stderr}");
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let tokens: Vec<u64> = lines.iter().map(|line| line["prompt_tokens"].as_u64().unwrap()).collect();
    assert_eq!(tokens, [150, 150, 138]);
    assert!(lines.iter().all(|line| line["by_batch"] == true), "{log}");
    // Resumed with the whole in one batch, only the question that was alone is asked again.
    let config = fs::read_to_string(dir.path().join("x.py")).unwrap();
    fs::write(dir.path().join("x.py"), config.replace("batch_size=2", "batch_size=3")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_oc-cli"));
    let line = "eval x.py -w runs -r";
    let output = command.current_dir(dir.path()).args(line.split(' ')).assert().code(0).get_output().clone();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("1 answers of the resumed run belong to other prompts"), "{stderr}");
    let run_folder = fs::read_dir(dir.path().join("runs")).unwrap().next().unwrap().unwrap().path();
    let found: Map<String, Value> =
        serde_json::from_slice(&fs::read(run_folder.join("predictions/m/ceval-law.json")).unwrap()).unwrap();
    assert_eq!(found, of("3 rows in batches of 3").predictions);
    // `--batch-size` bounds what is computed at once, and changes nothing.
    fs::remove_dir_all(dir.path().join("runs")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_oc-cli"));
    command.current_dir(dir.path()).args("eval x.py -w runs --batch-size 1".split(' ')).assert().code(0);
    let run_folder = fs::read_dir(dir.path().join("runs")).unwrap().next().unwrap().unwrap().path();
    let again: Map<String, Value> =
        serde_json::from_slice(&fs::read(run_folder.join("predictions/m/ceval-law.json")).unwrap()).unwrap();
    assert_eq!(again, found);
    // Without `batch_padding`, and where everything fits, nothing depends on batches.
    for (name, from, to) in [("batches without padding", "", ""), ("3 rows in batches of 2", "=150", "=900")] {
        let dir = tempfile::tempdir().unwrap();
        let config = if from.is_empty() { of(name).config.clone() } else { of(name).config.replace(from, to) };
        let (stderr, _, log) = run(dir.path(), &config, None);
        assert!(!stderr.contains("batch size") && !log.contains("by_batch"), "{name}: {stderr}{log}");
    }
}

/// What was cut is said, counted in the last line, and marked on each question, and so is what ended the answers.
#[test]
fn events_are_counted_and_marked() {
    let case = cases().into_iter().find(|case| case.name == "chat mid").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (stderr, _, log) = run(dir.path(), &case.config, None);
    assert!(
        stderr
            .contains("2 of 2 prompts do not fit into --max-seq-len 150: 2 lost solved examples, 2 lost their middle"),
        "{stderr}"
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_oc-cli"));
    let output =
        command.current_dir(dir.path()).args(["eval", "x.py", "-w", "runs", "-r"]).assert().get_output().clone();
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("; 2 prompts truncated; answers ended 2 by max_out_len; "), "{table}");
    for line in log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        assert_eq!((&line["shots"], &line["truncated"], &line["finish"]), (&0.into(), &true.into(), &"length".into()));
        assert!(line["cut"].as_u64().unwrap() > 0 && line["prompt_tokens"] == 138, "{line}");
        assert_eq!(line["output_tokens"], 12);
    }
    // A word at which answers end, of the command line's; `end_str` of the older class is another.
    let answer = case.predictions["0"]["prediction"].as_str().unwrap();
    let stop = answer.chars().filter(|c| c.is_ascii_alphabetic()).nth(1).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let stopping = case.config.replace("mode='mid'", &format!("mode='mid', stop_words=['{stop}']"));
    let (_, found, log) = run(dir.path(), &stopping, None);
    assert_eq!(found["0"]["prediction"].as_str().unwrap(), answer.split(stop).next().unwrap());
    assert!(log.lines().next().unwrap().contains("\"finish\":\"stop\""), "{log}");
}
