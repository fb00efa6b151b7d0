//! Data files that are wrong, hostile or merely unusual, and the real ones against Python's reading of them.

use oc_eval::{
    Error, EvalConfig, HfType, Prompt, Task,
    datasets::{self, Source},
    prompt::Style,
};
use oc_tests::{root, shared};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
};
use zip::{ZipWriter, write::SimpleFileOptions};

const SUBJECT: &str = "law";

fn config(data: &Path, subjects: &[&str]) -> EvalConfig {
    EvalConfig {
        datasets: vec!["ceval_gen".into()],
        data_dir: Some(data.to_owned()),
        subjects: subjects.iter().map(|s| (*s).to_owned()).collect(),
        ..EvalConfig::default()
    }
}

/// One subject of the demonstration set, as bytes.
fn demo(split: &str) -> Vec<u8> {
    fs::read(root().join(format!("data/demo/formal_ceval/{split}/{SUBJECT}_{split}.csv"))).unwrap()
}

/// A data folder with one subject.
fn folder(dev: impl AsRef<[u8]>, val: impl AsRef<[u8]>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (split, bytes) in [("dev", dev.as_ref()), ("val", val.as_ref())] {
        fs::create_dir(dir.path().join(split)).unwrap();
        fs::write(dir.path().join(format!("{split}/{SUBJECT}_{split}.csv")), bytes).unwrap();
    }
    dir
}

#[track_caller]
fn refused(data: &Path, wanted: &str) -> Error {
    let error = datasets::load(&config(data, &[SUBJECT])).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(wanted), "found: {text}\nwanted: {wanted}");
    error
}

#[test]
fn fewer_solved_examples_than_a_prompt_needs() {
    let dev = String::from_utf8(demo("dev")).unwrap();
    let four: String = dev.lines().take(5).map(|line| format!("{line}\n")).collect();
    let dir = folder(&four, demo("val"));
    let error = refused(dir.path(), "law_dev.csv: 4 rows, but a prompt needs 5 solved examples");
    assert!(matches!(error, Error::Csv { .. }));
}

#[test]
fn the_file_at_fault_is_named_with_its_line() {
    let dir = folder(demo("dev"), String::from_utf8(demo("val")).unwrap().replacen("question", "frage", 1));
    refused(dir.path(), "law_val.csv, line 1: the column `question` is missing");
    let dir = folder([&demo("dev")[..], b"9,q,a,b,c,d,F,x\n"].concat(), demo("val"));
    refused(dir.path(), "law_dev.csv, line 7: the answer is \"F\"");
}

#[test]
fn a_missing_split() {
    let dir = folder(demo("dev"), demo("val"));
    fs::remove_dir_all(dir.path().join("val")).unwrap();
    assert!(matches!(refused(dir.path(), "law_val.csv is missing"), Error::MissingSubject { .. }));
    let no_data = EvalConfig { data_dir: None, ..config(dir.path(), &[]) };
    assert!(matches!(datasets::load(&no_data).unwrap_err(), Error::NoDataDir { .. }));
}

#[test]
fn windows_files_give_the_same_tasks() {
    let windows = |split| format!("\u{feff}{}", String::from_utf8(demo(split)).unwrap().replace('\n', "\r\n"));
    let load = |dir: &tempfile::TempDir| datasets::load(&config(dir.path(), &[SUBJECT])).unwrap().remove(0);
    let (found, wanted) = (load(&folder(windows("dev"), windows("val"))), load(&folder(demo("dev"), demo("val"))));
    assert_eq!((found.samples, found.shots), (wanted.samples, wanted.shots));
}

/// A small archive whose file unpacks to more than the limit is refused before it fills the memory.
#[test]
fn an_archive_that_unpacks_to_too_much() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ceval-exam.zip");
    let mut zip = ZipWriter::new(File::create(&path).unwrap());
    zip.start_file("dev/law_dev.csv", SimpleFileOptions::default()).unwrap();
    io::copy(&mut io::repeat(b'A').take(65 << 20), &mut zip).unwrap();
    zip.finish().unwrap();
    assert!(fs::metadata(&path).unwrap().len() < 1 << 20);
    assert!(matches!(refused(dir.path(), "law_dev.csv: more than 64 MiB unpacked"), Error::Read { .. }));
}

/// Nothing is unpacked to the disk, and a file outside the dataset's folder is none of its files.
#[test]
fn an_archive_with_names_outside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ceval-exam.zip");
    let write = |names: &[(&str, &str)]| {
        let mut zip = ZipWriter::new(File::create(&path).unwrap());
        for (name, split) in names {
            zip.start_file(*name, SimpleFileOptions::default()).unwrap();
            zip.write_all(&demo(split)).unwrap();
        }
        zip.finish().unwrap();
    };
    write(&[("../dev/law_dev.csv", "dev"), ("../val/law_val.csv", "val"), ("/dev/law_dev.csv", "dev")]);
    assert!(matches!(refused(&path, "an archive without its files"), Error::MissingData { .. }));
    write(&[("dev/law_dev.csv", "dev"), ("dev/../val/law_val.csv", "val")]);
    assert!(matches!(refused(&path, "val/law_val.csv is missing"), Error::MissingSubject { .. }));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "only the archive");
}

/// Counted with Python's `csv` module over the 1346 questions: OpenCompass replaces the placeholders of four.
#[test]
fn rows_whose_placeholders_are_replaced() {
    let Some(data) = shared("data") else { return };
    let tasks = datasets::load(&config(&data, &[])).unwrap();
    let mut marked: Vec<_> =
        tasks.iter().map(|t| (t.subject.as_str(), t.rows_with_placeholders())).filter(|(_, n)| *n > 0).collect();
    marked.sort_unstable();
    assert_eq!(marked, [("advanced_mathematics", 1), ("high_school_physics", 1), ("probability_and_statistics", 2)]);
}

#[derive(Deserialize)]
struct Versions {
    versions: Vec<Version>,
}

#[derive(Deserialize)]
struct Version {
    config: String,
    split: String,
    abbr: String,
    version: String,
}

/// The hash of the text that OpenCompass hashes, for each subject the file has.
#[test]
fn versions_are_the_recorded_ones() {
    let (Some(file), Some(data)) = (shared("goldens/prompt_versions.json"), shared("data")) else { return };
    let recorded: Versions = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let tasks = datasets::load(&config(&data, &[])).unwrap();
    let mut compared = 0;
    for wanted in recorded.versions.iter().filter(|v| v.config == "ceval_gen_5f30c7" && v.split == "val") {
        let task = tasks.iter().find(|task| task.abbr == wanted.abbr).unwrap();
        assert_eq!(task.version, wanted.version, "{}", wanted.abbr);
        compared += 1;
    }
    assert!(compared >= 5, "{compared} compared");
}

/// A data folder of the given files, and the tasks of a configuration in it.
fn load(name: &str, files: &[(&str, &str)]) -> oc_eval::Result<Vec<Task>> {
    let dir = tempfile::tempdir().unwrap();
    for (file, text) in files {
        let file = dir.path().join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
    datasets::load(&EvalConfig { datasets: vec![name.into()], ..config(dir.path(), &[]) })
}

/// The prompts of the first question as plain text.
fn first_prompts(task: &Task) -> Vec<String> {
    let style = Style::new(HfType::Base, None).unwrap();
    let sample = &task.samples[0];
    let prompts = match task.inferencer.labels() {
        None => vec![task.prompt(sample, 0, &style).unwrap()],
        Some(labels) => labels.iter().map(|label| task.candidate(sample, label, 0, &style).unwrap()).collect(),
    };
    let text = |prompt| if let Prompt::Text(text) = prompt { text } else { panic!("messages") };
    prompts.into_iter().map(text).collect()
}

const SIQA: [(&str, &str); 2] = [
    (
        "siqa/dev.jsonl",
        "{\"context\": \"Kim ran.\", \"question\": \"Why?\", \"answerA\": \"late\", \"answerB\": \"fun\", \"answerC\": \"{context}\"}\n{\"context\": \"c\", \"question\": \"q\", \"answerA\": \"1\", \"answerB\": \"2\", \"answerC\": \"3\"}\n",
    ),
    ("siqa/dev-labels.lst", "2\n3\n"),
];

#[test]
fn siqa_in_its_local_layout() {
    let task = load("siqa_gen", &SIQA).unwrap().remove(0);
    assert_eq!((task.abbr.as_str(), task.version.as_str(), task.inferencer.mode()), ("siqa", "18632c", "gen"));
    // The columns are context, question, A, B, C, …: `{context}` comes too late to be replaced.
    assert_eq!(first_prompts(&task), ["Kim ran.\nQuestion: Why?\nA. late\nB. fun\nC. {context}\nAnswer:"]);
    assert_eq!(task.gold_json(&task.samples[0]), "B");

    // The right answer is a dictionary there, in prompts Python's text of it.
    let task = load("siqa_gen_e78df3", &SIQA).unwrap().remove(0);
    assert_eq!((task.version.as_str(), task.inferencer.mode()), ("e78df3", "gen"));
    assert_eq!(first_prompts(&task), ["Kim ran.\nQuestion: Why?\nA. late\nB. fun\nC. {context}\nAnswer:"]);
    let candidates = |texts: [&str; 3]| -> Value {
        ["A", "B", "C"].into_iter().zip(texts).map(|(a, text)| json!([format!("{a}. {text}"), a, text])).collect()
    };
    let gold = json!({ "candidates": candidates(["late", "fun", "{context}"]), "label": 1 });
    assert_eq!(task.gold_json(&task.samples[0]), gold);
    let text = "{'candidates': [['A. 1', 'A', '1'], ['B. 2', 'B', '2'], ['C. 3', 'C', '3']], 'label': 2}";
    assert_eq!((task.samples[1].field("all_labels"), task.samples[1].field("label")), (Some(text), Some("C")));
    assert_eq!(task.samples[1].gold.as_deref(), Some(text));

    let task = load("siqa_ppl", &SIQA).unwrap().remove(0);
    assert_eq!((task.version.as_str(), task.inferencer.mode()), ("ced5f6", "ppl"));
    let wanted = ["late", "fun", "{context}"].map(|answer| format!("Kim ran.\nQuestion: Why?\nAnswer:\n{answer}"));
    assert_eq!(first_prompts(&task), wanted);
    // Labels and answers are numbers there.
    let labels: Vec<_> = task.inferencer.labels().unwrap().iter().map(|label| label.to_json()).collect();
    assert_eq!(labels, [1, 2, 3]);
    assert_eq!(task.gold_json(&task.samples[1]), 3);
    // Of this configuration the labels are texts, and the answers numbers.
    let task = load("siqa_ppl_e8d8c5", &SIQA).unwrap().remove(0);
    assert_eq!(
        (task.inferencer.labels().unwrap()[0].to_json(), task.gold_json(&task.samples[0])),
        ("1".into(), 2.into())
    );
    assert!(first_prompts(&task)[2].ends_with("C. {context}\nAnswer: C"));
    assert_eq!(
        first_prompts(&load("siqa_ppl_42bc6e", &SIQA).unwrap()[0])[0],
        "The following makes sense:\n Kim ran. \nQ: Why?\nA: late"
    );
}

#[test]
fn siqa_files_that_are_wrong() {
    let refused = |files: [(&str, &str); 2], wanted: &str| {
        let error = load("siqa_gen", &files).unwrap_err().to_string();
        assert!(error.contains(wanted), "found: {error}\nwanted: {wanted}");
    };
    refused([SIQA[0], ("siqa/dev-labels.lst", "2\n")], "1 labels for the 2 rows");
    refused([SIQA[0], ("siqa/dev-labels.lst", "2\n4\n")], "dev-labels.lst, line 2: the label is \"4\"");
    refused([SIQA[0], ("siqa/x", "")], "dev-labels.lst is missing");
    refused([("siqa/dev.jsonl", "{\"context\": \"c\"}\n"), SIQA[1]], "1 rows of");
    refused([("siqa/dev.jsonl", "{\"context\": \"c\"}\n{}\n"), SIQA[1]], "line 1: `question` is missing");
    refused([("siqa/dev.jsonl", "{}\n[\n"), SIQA[1]], "line 2: no JSON object");
    refused([("other/x", ""), ("y", "")], "no SIQA data");
}

#[test]
fn winograd_rows() {
    let rows = "{\"text\": \"Ann met Eve; she left.\", \"pronoun\": \"she\", \"pronoun_loc\": 13, \"quote\": \"she left\", \"quote_loc\": 13, \"options\": [\"Ann\", \"Eve\"], \"label\": 1, \"source\": \"s\"}\n";
    for file in ["winograd_wsc/wsc285/test.jsonl", "winograd/wsc285.jsonl", "wsc285.jsonl"] {
        let task = load("winograd_ppl", &[(file, rows)]).unwrap().remove(0);
        assert_eq!((task.abbr.as_str(), task.version.as_str()), ("winograd", "b6c7ed"));
        let asked = "Ann met Eve; she left. Q: In the previous text, what does 'she' refer to? A: ";
        assert_eq!(first_prompts(&task), [format!("{asked}Ann"), format!("{asked}Eve")]);
        assert_eq!(task.gold_json(&task.samples[0]), 1);
    }
    let refused = |rows: String, wanted: &str| {
        let error = load("winograd_ppl", &[("wsc285.jsonl", &rows)]).unwrap_err().to_string();
        assert!(error.contains(wanted), "found: {error}\nwanted: {wanted}");
    };
    refused(rows.replace("[\"Ann\", \"Eve\"]", "[\"Ann\"]"), "line 1: `options` must be two texts");
    refused(rows.replace("\"label\": 1", "\"label\": 2"), "line 1: `label` must be 0 or 1");
    refused(rows.replace("pronoun\":", "noun\":"), "`pronoun` is missing");
}

#[test]
fn winogrande_is_scored_by_likelihood() {
    let rows = "{\"sentence\": \"The cup fell off the _ because it was tilted.\", \"option1\": \"table\", \"option2\": \"floor\", \"answer\": \"1\"}\n";
    let task = load("winogrande_ll", &[("winogrande/dev.jsonl", rows)]).unwrap().remove(0);
    assert_eq!((task.version.as_str(), task.inferencer.mode()), ("c5cf57", "ll"));
    let wanted = ["table", "floor"].map(|word| format!("The cup fell off the {word} because it was tilted."));
    assert_eq!(first_prompts(&task), wanted);
    assert_eq!(task.continuation(&task.samples[0]), Some(" because it was tilted."));
    let error = load("winogrande_ll", &[("dev.jsonl", &rows.replace('_', "-"))]).unwrap_err().to_string();
    assert!(error.contains("line 1: the sentence") && error.contains("has no gap `_`"), "{error}");
}

#[test]
fn contamination_needs_annotations() {
    let (dev, val) = (String::from_utf8(demo("dev")).unwrap(), String::from_utf8(demo("val")).unwrap());
    let load = |annotations: &[(&str, &str)]| {
        let files = [&[("dev/law_dev.csv", dev.as_str()), ("val/law_val.csv", val.as_str())], annotations].concat();
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let file = dir.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        datasets::load(&EvalConfig { datasets: vec!["ceval_clean_ppl".into()], ..config(dir.path(), &[SUBJECT]) })
    };
    // The prompts need none.
    let task = load(&[]).unwrap().remove(0);
    assert_eq!(first_prompts(&task).len(), 4);
    let error = task.check_scorable().unwrap_err().to_string();
    assert!(
        error.starts_with("ceval-law: annotations missing: ") && error.contains("ceval_contamination_annotations.json")
    );
    let file = "val/ceval_contamination_annotations.json";
    let task = load(&[(file, "{\"law-1\": [\"clean\", 1]}")]).unwrap().remove(0);
    task.check_scorable().unwrap();
    let status: Vec<&str> = task.samples.iter().take(2).map(|sample| sample.field("is_clean").unwrap()).collect();
    assert_eq!(status, ["not labeled", "clean"]);
    for (text, wanted) in [("[]", "no JSON object of annotations"), ("{\"law-0\": 3}", "law-0 is 3")] {
        let error = load(&[(file, text)]).unwrap_err().to_string();
        assert!(error.contains(wanted), "found: {error}\nwanted: {wanted}");
    }
}

/// The test split has questions and no answers, in a set of its own beside the validation split.
#[test]
fn the_unlabelled_test_split() {
    let Some(data) = shared("data") else { return };
    let both = EvalConfig { datasets: vec!["ceval_gen_2daf24".into()], ..config(&data, &[]) };
    let tasks = datasets::load(&both).unwrap();
    let count = |prefix: &str| {
        let of = || tasks.iter().filter(|task| task.abbr.starts_with(prefix));
        (of().count(), of().map(|task| task.samples.len()).sum::<usize>())
    };
    assert_eq!((count("ceval-test-"), count("ceval-")), ((52, 12342), (104, 1346 + 12342)));
    assert!(tasks.iter().all(|task| task.is_unlabelled() == task.abbr.starts_with("ceval-test-")));
    let tested = datasets::load(&EvalConfig { subjects: vec!["test-law".into()], ..both.clone() }).unwrap();
    assert_eq!(tested.iter().map(|task| task.abbr.as_str()).collect::<Vec<_>>(), ["ceval-test-law"]);
    let law = datasets::load(&EvalConfig { subjects: vec!["law".into()], ..both }).unwrap();
    assert_eq!(law.iter().map(|task| task.abbr.as_str()).collect::<Vec<_>>(), ["ceval-law", "ceval-test-law"]);
}

#[test]
fn collections_resolve_to_what_exists_here() {
    let Some(data) = shared("data") else { return };
    let medium = EvalConfig { datasets: vec!["base_core".into()], limit: Some(1), ..config(&data, &[]) };
    let tasks = datasets::load(&medium).unwrap();
    let count = |prefix: &str| tasks.iter().filter(|task| task.abbr.starts_with(prefix)).count();
    assert_eq!((count("lukaemon_mmlu_"), count("cmmlu-"), count("ceval-"), tasks.len()), (57, 67, 104, 57 + 67 + 104));
    let missing = datasets::warnings(&medium).remove(0);
    assert!(missing.starts_with("12 of the 15 datasets of base_core do not exist here: GaokaoBench_"), "{missing}");
    let none = EvalConfig { datasets: vec!["example".into()], ..medium.clone() };
    let error = datasets::load(&none).unwrap_err().to_string();
    assert!(error.starts_with("2 of the 2 datasets of example do not exist here: piqa_gen"), "{error}");

    // As OpenCompass looks for files: patterns, whatever the case; of several the first; and the ends of variables.
    let first = |name: &str| datasets::resolve(name).map(|found| (found.members[0].1.name, found.warnings.len()));
    assert_eq!(first("CEval_gen").unwrap(), ("ceval_gen_5f30c7", 0));
    assert_eq!(first("ceval_gen.py").unwrap(), ("ceval_gen_5f30c7", 0));
    assert_eq!(first("siqa_ppl_[!ce]*").unwrap(), ("siqa_ppl_42bc6e", 1));
    assert_eq!(first("ceval_zero*").unwrap(), ("ceval_zero_shot_gen_bd40ef", 0));
    assert_eq!(first("ceval_gen/ceval_datasets").unwrap(), ("ceval_gen_5f30c7", 0));
    assert_eq!(first("base_core/datasets").unwrap().0, "mmlu_ppl_ac766d");
    assert_eq!(datasets::resolve("base_core/cmmlu_datasets").unwrap().members.len(), 1);
    let error = |name: &str| first(name).unwrap_err().to_string();
    assert!(
        error("ceval_gen/test").starts_with("ceval_gen/test: no variable ends in `test`"),
        "{}",
        error("ceval_gen/test")
    );
    assert!(error("cevall_*").starts_with("unknown dataset `cevall_*`"));
}

/// What a user's configuration may hold that has no meaning here is named.
#[test]
fn dictionaries_that_are_not_supported() {
    let (_, dataset) = datasets::find("ceval_demo_gen").unwrap();
    let good = dataset.configs().remove(0);
    datasets::task(&good, &mut Source::new(None), false).unwrap();
    let sheet: [(&str, Value, &str); 12] = [
        (
            "/type",
            json!("opencompass.datasets.GSM8KDataset"),
            "a dataset of type 'opencompass.datasets.GSM8KDataset' does not exist here",
        ),
        ("/abbr", json!("../x"), "`abbr` must be a name"),
        ("/name", json!("../x"), "`name` is \"../x\""),
        (
            "/infer_cfg/retriever/type",
            json!("x.RandomRetriever"),
            "a retriever of type 'x.RandomRetriever' does not exist",
        ),
        ("/infer_cfg/retriever/fix_id_list", json!([0, 99]), "5 rows, but a prompt needs 100"),
        (
            "/infer_cfg/inferencer/type",
            json!("x.ChatInferencer"),
            "an inferencer of type 'x.ChatInferencer' does not exist",
        ),
        ("/infer_cfg/inferencer/type", json!("x.PPLInferencer"), "one body for each answer"),
        ("/infer_cfg/inferencer/type", json!("x.CLPInferencer"), "CLPInferencer reads the column `choices`"),
        ("/infer_cfg/ice_template/template", json!(3), "ice_template: its template must be a string"),
        ("/eval_cfg/evaluator/type", json!("x.BleuEvaluator"), "an evaluator of type 'x.BleuEvaluator' does not exist"),
        (
            "/eval_cfg/pred_postprocessor/type",
            json!("x.last_option"),
            "a pred_postprocessor of type 'x.last_option' does",
        ),
        ("/reader_cfg/test_split", json!("train"), "C-Eval has no split `train`"),
    ];
    for (place, value, wanted) in sheet {
        let mut config = good.clone();
        *config.pointer_mut(place).unwrap() = value;
        let error = datasets::task(&config, &mut Source::new(None), false).unwrap_err().to_string();
        assert!(error.contains(wanted), "{place}\nfound: {error}\nwanted: {wanted}");
    }
    let mut config = good.clone();
    for (key, value, wanted) in [
        ("dataset_postprocessor", json!({}), "`dataset_postprocessor` of eval_cfg is not supported"),
        ("pred_role", json!(3), "`pred_role` is 3, wanted a string"),
        ("evaluator", json!({ "type": "EDAccEvaluator" }), "and the column `answer` holds none"),
        ("pred_postprocessor", json!({ "type": "first-capital", "x": 1 }), "`x` of first-capital is not supported"),
        (
            "pred_postprocessor",
            json!({ "type": "first_option_postprocess" }),
            "first_option_postprocess needs `options`",
        ),
        (
            "pred_postprocessor",
            json!({ "type": "first_option_postprocess", "options": "AB", "cushion": 1 }),
            "`cushion` of first_option_postprocess is 1, wanted True or False",
        ),
        ("pred_postprocessor", json!({ "type": "match_answer_pattern", "answer_pattern": "(" }), "is not supported"),
    ] {
        config["eval_cfg"] = good["eval_cfg"].clone();
        config["eval_cfg"][key] = value;
        let error = datasets::task(&config, &mut Source::new(None), false).unwrap_err().to_string();
        assert!(error.contains(wanted), "{key}\nfound: {error}\nwanted: {wanted}");
    }
    // Rows can be chosen, as users do to try things out.
    let mut config = good;
    config["reader_cfg"]["test_range"] = "[2:5]".into();
    let task = datasets::task(&config, &mut Source::new(None), false).unwrap();
    assert_eq!((task.samples.len(), task.samples[0].index, task.samples[0].field("idx")), (3, 0, Some("2")));
}
