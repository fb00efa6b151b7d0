//! Scores, files and tables against real runs of OpenCompass: given its predictions, ours are its bytes.

mod scripted;

use oc_engine::Tokenizer;
use oc_eval::{EvalConfig, HfType, Message, ModelConfig, PromptRecord, RunReport, prompts, run};
use oc_tests::{json_lines, model, shared};
use scripted::{Scripted, files};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

const SMOLLM2: &str = "smollm2-135m-instruct.q4_1.gguf";
const QWEN: &str = "qwen2.5-coder-0.5b-instruct.q4_k_m.gguf";

/// The settings that all reference runs share.
fn config(data_dir: &Path, work_dir: &Path, abbr: &str) -> EvalConfig {
    let map = |value: Value| value.as_object().unwrap().clone();
    EvalConfig {
        datasets: vec!["ceval_gen".into()],
        data_dir: Some(data_dir.into()),
        work_dir: work_dir.into(),
        model: ModelConfig {
            abbr: abbr.into(),
            path: format!("models/{}", abbr.trim_end_matches("_hf")),
            tokenizer_path: None,
            model_kwargs: map(json!({ "device_map": "cpu", "torch_dtype": "torch.float32" })),
            tokenizer_kwargs: map(json!({ "padding_side": "left", "truncation": "left" })),
            num_gpus: 0,
            dict: None,
        },
        max_out_len: 16,
        batch_size: 4,
        ..EvalConfig::default()
    }
}

/// What the model is given for a question; the key of its scripted answer.
fn sent(record: &PromptRecord) -> String {
    record.prompt.clone().unwrap_or_else(|| rendered(record.messages.as_deref().unwrap_or_default()))
}

/// As the scripted model's chat template does it.
fn rendered(messages: &[Message]) -> String {
    let turns = messages.iter().map(|m| format!("<{}>{}\n", m.role, m.content));
    turns.chain(["<assistant>".to_owned()]).collect()
}

/// Runs with answers by prompt. Prompts that are asked twice need the same answer twice.
fn answer(config: &EvalConfig, answers: HashMap<String, String>, tokenizer: Option<Tokenizer>) -> RunReport {
    let mut model = Scripted::new(move |prompt| answers.get(prompt).cloned().unwrap_or_default());
    model.tokenizer = tokenizer;
    run(&mut model, config, &mut ()).unwrap()
}

#[derive(Deserialize)]
struct Synthetic {
    predictions_and_gold: HashMap<String, Vec<(String, String)>>,
    accuracy: HashMap<String, f64>,
}

#[test]
fn all_52_subjects_give_opencompass_summary() {
    let Some(golden) = shared("goldens/opencompass_runs/synthetic/gen_full52") else { return };
    let Some(data) = shared("data") else { return };
    let text = fs::read_to_string(golden.join("predictions_and_accuracy.json")).unwrap();
    let synthetic: Synthetic = serde_json::from_str(&text).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = EvalConfig { timestamp: Some("20261123_205207".into()), ..config(&data, dir.path(), "synthetic_hf") };

    let mut answers = HashMap::new();
    for record in prompts(&config, None).unwrap() {
        let (prediction, gold) = &synthetic.predictions_and_gold[&format!("ceval-{}", record.subject)][record.index];
        assert_eq!(record.gold.as_deref(), Some(gold.as_str()), "{} {}", record.subject, record.index);
        let earlier = answers.insert(sent(&record), prediction.clone());
        assert!(earlier.is_none_or(|earlier| earlier == *prediction), "one prompt with two answers");
    }
    let report = answer(&config, answers, None);
    assert_eq!((report.subsets.len(), &report.failures[..]), (52, &[][..]));
    for subset in &report.subsets {
        assert_eq!(subset.accuracy, Some(synthetic.accuracy[&subset.abbr]), "{}", subset.abbr);
    }
    let folder = report.folder.unwrap();
    for ending in ["csv", "md", "txt"] {
        let name = format!("summary/summary_20261123_205207.{ending}");
        assert_eq!(fs::read_to_string(folder.join(&name)).unwrap(), fs::read_to_string(golden.join(&name)).unwrap());
    }
    // What is printed is the upper part of that table, and the averages below it.
    let csv = fs::read_to_string(golden.join("summary/summary_20261123_205207.csv")).unwrap();
    let cells = |text: &str| {
        text.lines().skip(2).map(|line| line.split_whitespace().collect::<Vec<_>>().join(",")).collect::<Vec<_>>()
    };
    let rows = [cells(&report.table), cells(&report.averages.unwrap())].concat();
    assert_eq!(rows, csv.lines().skip(1).collect::<Vec<_>>());
    let overall = report.overall[0];
    assert_eq!(overall.questions, 1346);
    let right: usize = synthetic
        .predictions_and_gold
        .iter()
        .map(|(abbr, all)| (synthetic.accuracy[abbr] / 100.0 * all.len() as f64).round() as usize)
        .sum();
    assert!((overall.accuracy - 100.0 * right as f64 / 1346.0).abs() < 1e-9);
}

/// One real run: its folder, model, tokenizer if truncation needs it, and settings.
struct Golden {
    path: &'static str,
    abbr: &'static str,
    tokenizer: Option<&'static str>,
    max_seq_len: usize,
    hf_type: HfType,
}

const RUNS: [Golden; 5] = [
    Golden {
        path: "qwen2.5-coder-0.5b/gen_base",
        abbr: "qwen2.5-coder-0.5b_hf",
        tokenizer: None,
        max_seq_len: 2048,
        hf_type: HfType::Base,
    },
    Golden {
        path: "qwen2.5-coder-0.5b/gen_chat",
        abbr: "qwen2.5-coder-0.5b_hf",
        tokenizer: None,
        max_seq_len: 2048,
        hf_type: HfType::Chat,
    },
    Golden {
        path: "smollm2-135m/gen_base",
        abbr: "smollm2-135m_hf",
        tokenizer: None,
        max_seq_len: 2048,
        hf_type: HfType::Base,
    },
    Golden {
        path: "smollm2-135m/gen_base_maxseq1024",
        abbr: "smollm2-135m_hf",
        tokenizer: Some(SMOLLM2),
        max_seq_len: 1024,
        hf_type: HfType::Base,
    },
    Golden {
        path: "smollm2-135m/gen_base_maxseq160",
        abbr: "smollm2-135m_hf",
        tokenizer: Some(SMOLLM2),
        max_seq_len: 160,
        hf_type: HfType::Base,
    },
];

/// Of the files of a real run: predictions, results and summary to the byte, the configuration but for the folder.
#[test]
fn real_runs_are_written_again_to_the_byte() {
    let (Some(goldens), Some(data)) = (shared("goldens/opencompass_runs"), shared("data")) else { return };
    for golden in RUNS {
        let tokenizer = match golden.tokenizer {
            Some(file) => match model(file) {
                Some(path) => Some(Tokenizer::open(&path).unwrap()),
                None => continue,
            },
            None => None,
        };
        let wanted = files(&goldens.join(golden.path));
        let text = |name: &str| std::str::from_utf8(&wanted[name]).unwrap();
        let configuration = text(wanted.keys().find(|name| name.starts_with("configs/")).unwrap());
        let predictions = format!("predictions/{}/ceval-computer_network.json", golden.abbr);
        let recorded: BTreeMap<usize, Value> = serde_json::from_str(text(&predictions)).unwrap();
        let (settings, time) = configuration.rsplit_once('/').unwrap();

        let dir = tempfile::tempdir().unwrap();
        let time = time.trim_end_matches('\'');
        let config = EvalConfig {
            subjects: subjects(configuration),
            max_seq_len: Some(golden.max_seq_len),
            hf_type: golden.hf_type,
            timestamp: Some(time.into()),
            ..config(&data, dir.path(), golden.abbr)
        };
        // What characters are counted by must not truncate.
        let config = match tokenizer {
            Some(_) => config,
            None => EvalConfig { max_seq_len: None, ..config },
        };
        let mut answers = HashMap::new();
        let scripted = Scripted { tokenizer, ..Scripted::varied() };
        let is_recorded = |record: &PromptRecord| record.subject == "computer_network";
        for record in prompts(&config, Some(&scripted)).unwrap().into_iter().filter(is_recorded) {
            let prediction = recorded[&record.index]["prediction"].as_str().unwrap();
            let sent = match &scripted.tokenizer {
                Some(tokenizer) => tokenizer.decode(record.ids.as_deref().unwrap(), false).unwrap(),
                None => sent(&record),
            };
            answers.insert(sent, prediction.to_owned());
        }
        let report = answer(&config, answers, scripted.tokenizer);
        let found = files(&report.folder.unwrap());
        let mut compared = 0;
        for (name, wanted) in wanted.iter().filter(|(name, _)| !name.starts_with("configs/")) {
            let (wanted, found) = (std::str::from_utf8(wanted).unwrap(), std::str::from_utf8(&found[name]).unwrap());
            assert!(found == wanted, "{}: {name} differs:\n{}", golden.path, first_difference(found, wanted));
            compared += 1;
        }
        assert!(compared >= 2, "{}: {compared} files", golden.path);
        let name = found.keys().find(|name| name.starts_with("configs/")).unwrap();
        let found = std::str::from_utf8(&found[name]).unwrap();
        let wanted = match golden.tokenizer {
            Some(_) => settings.to_owned(),
            None => settings.replace(&format!("max_seq_len={}", golden.max_seq_len), "max_seq_len=None"),
        };
        let (wanted, _) = wanted.rsplit_once('\n').unwrap();
        let (found, work_dir) = found.rsplit_once('\n').unwrap();
        assert!(found == wanted, "{}: configs differ:\n{}", golden.path, first_difference(found, wanted));
        assert_eq!(work_dir, format!("work_dir='{}'", dir.path().join(time).display()));
    }
}

/// The subjects that a dumped configuration names, in order.
fn subjects(configuration: &str) -> Vec<String> {
    let datasets = configuration.split("\nmodels=").next().unwrap();
    let abbrs = datasets.split("abbr='ceval-").skip(1);
    abbrs.map(|rest| rest.split('\'').next().unwrap().to_owned()).collect()
}

fn first_difference(found: &str, wanted: &str) -> String {
    let differs = found.lines().zip(wanted.lines()).enumerate().find(|(_, (found, wanted))| found != wanted);
    match differs {
        Some((line, (found, wanted))) => format!("line {}\n  found  {found}\n  wanted {wanted}", line + 1),
        None => format!("{} lines found, {} wanted", found.lines().count(), wanted.lines().count()),
    }
}

#[derive(Deserialize)]
struct Truncated {
    tokenizer: String,
    subject: String,
    index: usize,
    max_seq_len: usize,
    kept_ice: usize,
    input_tokens: usize,
    prompt_sha256: String,
    input_ids_sha256: String,
    first_ids: Vec<u32>,
    last_ids: Vec<u32>,
}

/// Which examples go and what is cut, with two real tokenizers.
#[test]
fn truncation_is_opencompass() {
    let (Some(golden), Some(data)) = (shared("goldens/prompts/gen_truncation.jsonl.gz"), shared("data")) else {
        return;
    };
    let golden: Vec<Truncated> = json_lines(&golden);
    let sha256 = |text: &str| -> String { Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect() };
    for (name, file) in [("qwen2.5-coder-0.5b", QWEN), ("smollm2-135m", SMOLLM2)] {
        let Some(path) = model(file) else { continue };
        let model = Scripted { tokenizer: Some(Tokenizer::open(&path).unwrap()), ..Scripted::varied() };
        let mut records: HashMap<usize, Vec<PromptRecord>> = HashMap::new();
        let mut compared = 0;
        for wanted in golden.iter().filter(|wanted| wanted.tokenizer == name) {
            let max_seq_len = wanted.max_seq_len;
            let config = EvalConfig {
                subjects: ["computer_network", "operating_system", "law", "high_school_chinese", "physician"]
                    .map(String::from)
                    .to_vec(),
                limit: Some(10),
                max_seq_len: Some(max_seq_len),
                ..config(&data, Path::new("unused"), "m_hf")
            };
            let records = records.entry(max_seq_len).or_insert_with(|| prompts(&config, Some(&model)).unwrap());
            let of_wanted = |record: &&PromptRecord| (&record.subject, record.index) == (&wanted.subject, wanted.index);
            let record = records.iter().find(of_wanted).unwrap();
            let (prompt, ids) = (record.prompt.as_deref().unwrap(), record.ids.as_deref().unwrap());
            let what = format!("{name} {} {} at {max_seq_len}", wanted.subject, wanted.index);
            let shots = prompt.matches("\n答案: \n").count();
            assert_eq!((shots, ids.len()), (wanted.kept_ice, wanted.input_tokens), "{what}");
            assert_eq!(sha256(prompt), wanted.prompt_sha256, "{what}");
            assert!(ids.starts_with(&wanted.first_ids) && ids.ends_with(&wanted.last_ids), "{what}");
            let list: Vec<String> = ids.iter().map(u32::to_string).collect();
            assert_eq!(sha256(&format!("[{}]", list.join(", "))), wanted.input_ids_sha256, "{what}");
            compared += 1;
        }
        assert_eq!(compared, 250, "{name}");
    }
}
