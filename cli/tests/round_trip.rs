//! Run folders of OpenCompass go through the real binary, and ours have the form of its own. (That OpenCompass itself takes
//! ours is shown by `scripts/opencompass_round_trip.py`, where it is installed.)

use assert_cmd::Command;
use oc_pyconfig::{Host, Limits, Module, Value as Python};
use oc_tests::{fixture, shared};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

const STAMP: &str = "20260101_000000";

fn oc(dir: &Path, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oc-cli"));
    command.current_dir(dir).args(line.split_whitespace()).env("OC_LOG", "warn");
    command
}

fn only(folder: &Path) -> PathBuf {
    let mut all = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let one = all.next().unwrap_or_else(|| panic!("{} is empty", folder.display()));
    assert_eq!(all.next(), None, "{}", folder.display());
    one
}

/// Every file below a folder, by its path there.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let (mut found, mut open) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(current) = open.pop() {
        for path in fs::read_dir(&current).into_iter().flatten().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
                found.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    found
}

fn copy(from: &Path, to: &Path) {
    for (name, content) in files(from) {
        let path = to.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

/// The summaries by ending, the newest of each; the time at their top and in their names is left out.
fn summaries(run: &Path) -> BTreeMap<String, String> {
    let mut by_ending = BTreeMap::new();
    for (name, content) in files(&run.join("summary")) {
        let (stem, ending) = name.rsplit_once('.').unwrap();
        assert!(stem.starts_with("summary_2") && stem.len() == "summary_20260101_000000".len(), "{name}");
        let text = content.strip_prefix(&stem["summary_".len()..]).unwrap_or(&content).to_owned();
        by_ending.insert(ending.to_owned(), text);
    }
    by_ending
}

/// Each real run of OpenCompass, scored and shown by our binary from the configuration that OpenCompass saved: results and
/// summaries to the byte.
#[test]
fn opencompasss_folders_are_scored_and_shown() {
    let (Some(goldens), Some(data)) = (shared("goldens/opencompass_runs"), shared("data")) else { return };
    let mut runs = Vec::new();
    for model in fs::read_dir(&goldens).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
        let of_model = fs::read_dir(&model).unwrap().map(|entry| entry.unwrap().path());
        runs.extend(of_model.filter(|path| path.join("predictions").is_dir()));
    }
    assert!(runs.len() >= 9, "{runs:?}");
    for golden in runs {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("runs").join(STAMP);
        copy(&golden.join("predictions"), &run.join("predictions"));
        let config = files(&golden.join("configs")).into_iter().next().unwrap().1;
        let is_whole = config.matches("abbr='ceval-").count() == 1;
        fs::write(dir.path().join("saved.py"), config).unwrap();
        let wanted = files(&golden.join("results"));
        // Their summaries, where the run had no other subject than the one that is here.
        let table = summaries(&golden);
        let line = format!("eval saved.py -w runs -r {STAMP} --subjects computer_network -m");
        for mode in ["eval", "viz"] {
            let mut command = oc(dir.path(), &format!("{line} {mode}"));
            command.arg("--data-dir").arg(&data).assert().code(0);
            assert!(files(&run.join("results")) == wanted, "{}: results differ after {mode}", golden.display());
            let found = summaries(&run);
            for (ending, wanted) in &table {
                assert!(found[ending] == *wanted, "{}, {mode}: summary.{ending}:\n{}", golden.display(), found[ending]);
            }
            fs::remove_dir_all(run.join("summary")).unwrap();
        }
        // Without details, as OpenCompass leaves them out.
        let mut command = oc(dir.path(), &format!("{line} eval --dump-eval-details False"));
        command.arg("--data-dir").arg(&data).assert().code(0);
        for (name, text) in files(&run.join("results")) {
            let mut wanted: serde_json::Map<String, Value> = serde_json::from_str(&wanted[&name]).unwrap();
            assert!(wanted.remove("details").is_some_and(|details| details.is_object()), "{name}");
            assert_eq!(serde_json::from_str::<serde_json::Map<String, Value>>(&text).unwrap(), wanted, "{name}");
        }
        // All subjects of the saved configuration: those without answers are named, and the status says so.
        let mut command = oc(dir.path(), &line.replace(" --subjects computer_network", ""));
        command.arg("eval").arg("--data-dir").arg(&data).assert().code(if is_whole { 0 } else { 1 });
    }
}

/// Made-up answers to all 52 subjects: the groups, and every summary file.
#[test]
fn all_subjects_are_scored_and_shown() {
    let Some(golden) = shared("goldens/opencompass_runs/synthetic/gen_full52") else { return };
    let Some(data) = shared("data") else { return };
    let synthetic = fs::read_to_string(golden.join("predictions_and_accuracy.json")).unwrap();
    let synthetic: Value = serde_json::from_str(&synthetic).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("runs").join(STAMP);
    let predictions = run.join("predictions/synthetic_hf");
    fs::create_dir_all(&predictions).unwrap();
    let subjects = synthetic["predictions_and_gold"].as_object().unwrap();
    assert_eq!(subjects.len(), 52);
    for (abbr, pairs) in subjects {
        let record = |(index, pair): (usize, &Value)| {
            (index.to_string(), json!({ "origin_prompt": "", "prediction": pair[0], "gold": pair[1] }))
        };
        let records: serde_json::Map<_, _> = pairs.as_array().unwrap().iter().enumerate().map(record).collect();
        fs::write(predictions.join(format!("{abbr}.json")), serde_json::to_string(&records).unwrap()).unwrap();
    }
    for mode in ["eval", "viz"] {
        let line =
            format!("eval --datasets ceval_gen --hf-path models/synthetic --summarizer ceval -w runs -r -m {mode}");
        oc(dir.path(), &line).arg("--data-dir").arg(&data).assert().code(0);
        let (found, wanted) = (summaries(&run), summaries(&golden));
        assert_eq!(found.keys().collect::<Vec<_>>(), ["csv", "md", "txt"]);
        for (ending, wanted) in wanted {
            assert!(found[&ending] == wanted, "{mode}: summary.{ending}:\n{}", found[&ending]);
        }
        fs::remove_dir_all(run.join("summary")).unwrap();
    }
    let law = fs::read_to_string(run.join("results/synthetic_hf/ceval-law.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&law).unwrap()["accuracy"], synthetic["accuracy"]["ceval-law"]);
}

/// SIQA by the option nearest to the answer, and post-processors of the model itself, against what OpenCompass asked, wrote
/// and scored with the same configuration, checkpoint and data (`tests/fixtures/make_opencompass_siqa.py`).
#[test]
fn nearest_options_and_post_processors_are_opencompasss() {
    #[derive(serde::Deserialize)]
    struct Fixture {
        files: BTreeMap<String, String>,
        config: String,
        cases: Vec<Case>,
    }
    #[derive(serde::Deserialize)]
    struct Case {
        name: String,
        more: String,
        is_by_hand: bool,
        predictions: String,
        results: String,
    }
    let bytes = fs::read(fixture("opencompass_siqa.json")).unwrap();
    let Fixture { files: data, config, cases } = serde_json::from_slice(&bytes).unwrap();
    assert!(cases.len() >= 10);
    for Case { name, more, is_by_hand, predictions, results } in &cases {
        let dir = TempDir::new().unwrap();
        for (file, text) in &data {
            let path = dir.path().join("data").join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let model = fixture("llama");
        let config = config.replace("MORE", more).replace("MODEL", model.to_str().unwrap());
        fs::write(dir.path().join("x.py"), config).unwrap();
        let line = "eval x.py --data-dir data -w runs";
        let run = if *is_by_hand {
            let run = dir.path().join("runs").join(STAMP);
            fs::create_dir_all(run.join("predictions/m")).unwrap();
            fs::write(run.join("predictions/m/siqa.json"), predictions).unwrap();
            oc(dir.path(), &format!("{line} -m eval -r")).assert().code(0);
            run
        } else {
            oc(dir.path(), line).assert().code(0);
            only(&dir.path().join("runs"))
        };
        let read = |file: &str| fs::read_to_string(run.join(file)).unwrap();
        let (found, scored) = (read("predictions/m/siqa.json"), read("results/m/siqa.json"));
        assert!(found == *predictions, "{name}:\n{found}\nwanted {predictions}");
        assert!(scored == *results, "{name}:\n{scored}\nwanted {results}");
        // Each answer is marked with the option that it was taken for.
        let log = read("logs/eval/m/siqa.out");
        assert_eq!(log.matches("\"rule\":\"nearest-candidate\"").count(), 6, "{name}: {log}");
        assert_eq!(log.matches("\"nearest\":").count(), 6, "{name}: {log}");
    }
    // They would not be worth much if they changed nothing.
    let by_hand: Vec<&str> = cases.iter().filter(|case| case.is_by_hand).map(|case| case.results.as_str()).collect();
    for (i, one) in by_hand.iter().enumerate().skip(2) {
        assert!(!by_hand[..i].contains(one), "{i}");
    }
}

/// Names, keys in their order, types and nesting.
fn shape(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) => "boolean".into(),
        Value::Number(_) => "number".into(),
        Value::String(_) => "text".into(),
        Value::Array(items) => format!("[{}]", items.first().map(shape).unwrap_or_default()),
        Value::Object(map) => {
            let entries: Vec<String> = map.iter().map(|(key, value)| format!("{key}: {}", shape(value))).collect();
            format!("{{{}}}", entries.join(", "))
        }
    }
}

/// The same of a configuration; of a list of dictionaries the first.
fn python_shape(value: &Python) -> String {
    match value {
        Python::Dict(dict) => {
            let entry = |(key, value): &(Python, Python)| format!("{key:?}: {}", python_shape(value));
            format!("{{{}}}", dict.entries.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
        Python::List(items) => format!("[{}]", items.first().map(python_shape).unwrap_or_default()),
        other => other.kind().into(),
    }
}

struct Nothing;

impl Host for Nothing {
    fn module(&self, file: &str, _: u32, module: &str) -> Result<Module, String> {
        Err(format!("{file} imports {module}"))
    }
}

fn configuration(text: &str) -> Vec<(String, String)> {
    let evaluated = oc_pyconfig::evaluate("saved.py", text, &Nothing, Limits::default()).unwrap();
    evaluated.variables.iter().map(|(name, value)| (name.clone(), python_shape(value))).collect()
}

/// What we write has the names, keys, types and nesting of what OpenCompass writes.
#[test]
fn our_folders_have_the_form_of_opencompasss() {
    let (Some(goldens), Some(data)) = (shared("goldens/opencompass_runs/smollm2-135m"), shared("data")) else { return };
    for (dataset, golden, flags) in [
        ("ceval_gen", "gen_base_maxseq160", "--max-out-len 2 --model-kwargs device_map=cpu torch_dtype=torch.float32"),
        ("ceval_ppl", "ppl_578f8d_base_bs1", "--model-kwargs device_map=cpu torch_dtype=torch.float32"),
    ] {
        let (golden, dir) = (goldens.join(golden), TempDir::new().unwrap());
        let line = format!(
            "eval --datasets {dataset} --subjects computer_network --limit 2 --max-seq-len 160 -w runs {flags} \
             --tokenizer-kwargs padding_side='left' truncation='left'"
        );
        let mut command = oc(dir.path(), &line);
        command.arg("--hf-path").arg(fixture("llama")).arg("--data-dir").arg(&data).assert().code(0);
        let run = only(&dir.path().join("runs"));
        // Paths: the same with the model's name replaced, the time where theirs has it, and what is ours alone.
        let stamp = run.file_name().unwrap().to_str().unwrap().to_owned();
        let ours = files(&run);
        for (name, theirs) in files(&golden) {
            let file = name.rsplit('/').next().unwrap();
            let (kind, name) = (name.split('/').next().unwrap(), name.replace("smollm2-135m_hf", "llama_hf"));
            match kind {
                "configs" => {
                    let mine = ours.iter().find(|(name, _)| name.starts_with("configs/")).unwrap();
                    assert!(mine.0.starts_with(&format!("configs/{stamp}_")) && mine.0.ends_with(".py"), "{}", mine.0);
                    let mut theirs = configuration(&theirs);
                    let mut mine = configuration(mine.1);
                    // A limit is written down where OpenCompass would read it, and the path of the tokenizer may be none.
                    for all in [&mut theirs, &mut mine] {
                        for (_, shape) in all.iter_mut() {
                            *shape = shape.replace(", Str(\"test_range\"): a str", "");
                            *shape = shape.replace("Str(\"tokenizer_path\"): a str", "Str(\"tokenizer_path\"): None");
                        }
                    }
                    assert_eq!(mine, theirs, "{dataset}");
                }
                "summary" => {
                    let ending = file.rsplit('.').next().unwrap();
                    let mine = &ours[&format!("summary/summary_{stamp}.{ending}")];
                    assert_eq!(mine.lines().count(), theirs.lines().count(), "{dataset}, {ending}");
                    // Of the first row what is not the model's: subset, version, metric and mode.
                    let row = |text: &str| {
                        let row = text.lines().find(|line| line.contains("ceval-computer_network")).unwrap().to_owned();
                        row.split([',', ' ', '|'])
                            .filter(|word| !word.is_empty())
                            .take(4)
                            .map(str::to_owned)
                            .collect::<Vec<_>>()
                    };
                    assert_eq!(row(mine), row(&theirs), "{dataset}, {ending}");
                }
                _ => {
                    let read = |text: &str| serde_json::from_str::<serde_json::Map<String, Value>>(text).unwrap();
                    let (mine, theirs) = (read(&ours[&name]), read(&theirs));
                    let keys = |map: &serde_json::Map<String, Value>| -> Vec<String> {
                        map.iter()
                            .filter(|(key, _)| key.parse::<usize>().is_ok_and(|n| n > 1))
                            .map(|x| x.0.clone())
                            .collect()
                    };
                    assert_eq!(
                        (keys(&mine).len(), keys(&theirs).len()),
                        (0, if kind == "predictions" { 17 } else { 0 })
                    );
                    // Two questions against nineteen: the records of the first two.
                    let first = |mut map: serde_json::Map<String, Value>| {
                        map.retain(|key, _| key.parse::<usize>().is_ok_and(|n| n < 2) || key.parse::<usize>().is_err());
                        if let Some(details) = map.get_mut("details").and_then(Value::as_object_mut) {
                            details.retain(|key, _| key == "type" || key == "0" || key == "1");
                        }
                        shape(&Value::Object(map))
                    };
                    assert_eq!(first(mine), first(theirs), "{name}");
                }
            }
        }
        for name in ours.keys().filter(|name| !name.starts_with("logs/")) {
            let kinds = ["configs/", "predictions/llama_hf/", "results/llama_hf/", "summary/", "journal.jsonl"];
            assert!(kinds.iter().any(|kind| name.starts_with(kind)), "{name}");
        }
        for stage in ["infer", "eval"] {
            assert!(ours.contains_key(&format!("logs/{stage}/llama_hf/ceval-computer_network.out")), "{stage}");
        }
    }
}
