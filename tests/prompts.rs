//! Prompts, their versions and answer extraction against what OpenCompass produced.

use oc_eval::{EvalConfig, HfType, Message, datasets, extract::Extractor, metrics, prompts};
use oc_tests::{json_lines, root, shared};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

#[derive(Deserialize)]
struct Golden {
    subject: String,
    index: usize,
    label: Option<String>,
    prompt: Option<String>,
    messages: Option<Vec<Message>>,
    gold: String,
}

fn config(data: &Path, subjects: &[&str]) -> EvalConfig {
    EvalConfig {
        datasets: vec!["ceval_gen".into()],
        data_dir: Some(data.to_owned()),
        subjects: subjects.iter().map(|s| (*s).to_owned()).collect(),
        ..EvalConfig::default()
    }
}

/// Every configuration, style, question and label that was recorded, byte for byte. The records are of the validation
/// split; where a configuration has the test split as well, its prompts come after all of these.
#[test]
fn prompts_are_opencompass_own() {
    let (Some(data), Some(goldens)) = (shared("data"), shared("goldens/prompts")) else { return };
    let manifest: Vec<Listed> =
        serde_json::from_str(&fs::read_to_string(goldens.join("MANIFEST.json")).unwrap()).unwrap();
    let mut files = 0;
    for Listed { config: name, template, .. } in manifest {
        let file = goldens.join(format!("{name}.{template}.jsonl.gz"));
        if !file.exists() {
            continue;
        }
        files += 1;
        let goldens: Vec<Golden> = json_lines(&file);
        let mut subjects: Vec<&str> = goldens.iter().map(|golden| golden.subject.as_str()).collect();
        subjects.dedup();
        let mut config = config(&data, &subjects);
        config.datasets = vec![name.clone()];
        match template.as_str() {
            "base" => {}
            "hf_messages" => config.hf_type = HfType::Chat,
            meta => config.meta_template = Some(meta.into()),
        }
        let records = prompts(&config, None).unwrap();
        let has_test_split = records.iter().any(|record| record.subject.starts_with("test-"));
        assert_eq!(records.len() > goldens.len(), has_test_split, "{name} {template}");
        for (record, golden) in records.iter().zip(&goldens) {
            let place = format!("{name} {template}, {} {} {:?}", golden.subject, golden.index, golden.label);
            assert_eq!(
                (&record.subject, record.index, &record.label),
                (&golden.subject, golden.index, &golden.label),
                "{place}"
            );
            assert_eq!(record.prompt, golden.prompt, "{place}");
            assert_eq!(record.messages, golden.messages, "{place}");
            assert_eq!(record.gold.as_ref(), Some(&golden.gold), "{place}");
        }
    }
    assert!(files >= 33, "only {files} files of reference prompts");
}

#[derive(Deserialize)]
struct Listed {
    config: String,
    template: String,
}

#[derive(Deserialize)]
struct Versions {
    versions: Vec<Version>,
}

#[derive(Deserialize)]
struct Version {
    config: String,
    abbr: String,
    subject: String,
    version: String,
}

/// The hash of every configuration and split that was recorded.
#[test]
fn versions_are_opencompass_own() {
    let Some(file) = shared("goldens/prompt_versions.json") else { return };
    let Versions { versions } = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let Some(data) = shared("data") else { return };
    let mut found: BTreeMap<(String, String), String> = BTreeMap::new();
    let subjects: BTreeSet<&str> = versions.iter().map(|version| version.subject.as_str()).collect();
    let subjects: Vec<&str> = subjects.into_iter().collect();
    for name in versions.iter().map(|version| &version.config).collect::<BTreeSet<_>>() {
        let config = EvalConfig { datasets: vec![name.clone()], ..config(&data, &subjects) };
        for task in datasets::load(&config).unwrap() {
            found.insert((name.clone(), task.abbr), task.version);
        }
    }
    assert!(versions.len() >= 70);
    for Version { config, abbr, version, .. } in versions {
        assert_eq!(found.get(&(config.clone(), abbr.clone())), Some(&version), "{config} {abbr}");
    }
}

#[test]
fn the_whole_of_ceval_loads() {
    let Some(data) = shared("data") else { return };
    let tasks = datasets::load(&config(&data, &[])).unwrap();
    assert_eq!(tasks.len(), 52);
    assert_eq!(tasks.iter().map(|task| task.samples.len()).sum::<usize>(), 1346);
    assert!(tasks.iter().all(|task| task.shots.len() == 5));
    assert!(tasks.iter().map(|task| task.rows_with_placeholders()).sum::<usize>() > 0, "some formulas hold {{A}}");
}

/// The hashes depend on every character of the template and on the subject's Chinese name.
#[test]
fn versions_of_all_52_subjects() {
    let Some(data) = shared("data") else { return };
    let folder = "goldens/opencompass_runs/synthetic/gen_full52/summary/summary_20261123_205207.csv";
    let Some(summary) = shared(folder) else { return };
    let wanted: Vec<(String, String)> = fs::read_to_string(summary)
        .unwrap()
        .lines()
        .skip(1)
        .map(|line| line.split(',').collect::<Vec<_>>())
        .filter(|fields| fields[1] != "-")
        .map(|fields| (fields[0].to_owned(), fields[1].to_owned()))
        .collect();
    let tasks = datasets::load(&config(&data, &[])).unwrap();
    let found: Vec<(String, String)> = tasks.into_iter().map(|task| (task.abbr, task.version)).collect();
    assert_eq!(found, wanted);
}

#[derive(Deserialize)]
struct Case {
    function: String,
    #[serde(default)]
    input: String,
    #[serde(default)]
    options: String,
    #[serde(default)]
    cushion: bool,
    #[serde(default)]
    predictions: Vec<String>,
    #[serde(default)]
    references: Vec<String>,
    output: serde_json::Value,
}

#[test]
fn answers_are_read_as_opencompass_reads_them() {
    let Some(file) = shared("goldens/postprocess.json") else { return };
    let cases: Vec<Case> = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    assert!(cases.len() >= 60);
    for case in cases {
        let extractor = match case.function.as_str() {
            "first_capital_postprocess" => Extractor::FirstCapital,
            "first_option_postprocess" => Extractor::FirstOption { options: case.options, cushion: case.cushion },
            "AccEvaluator.score" => {
                let correct = case.predictions.iter().zip(&case.references).filter(|(p, r)| p == r).count();
                let accuracy = metrics::accuracy(correct, case.predictions.len());
                assert_eq!(Some(accuracy), case.output["accuracy"].as_f64());
                continue;
            }
            other => panic!("unknown function {other}"),
        };
        let found = extractor.extract(&case.input).answer;
        assert_eq!(Some(found.as_str()), case.output.as_str(), "{extractor:?} of {:?}", case.input);
    }
}

/// The three places where the same files may lie give the same tasks.
#[test]
fn folders_and_downloaded_archives() {
    let dir = tempfile::tempdir().unwrap();
    let demo = root().join("data/demo/formal_ceval");
    let wanted: Vec<String> =
        questions(&EvalConfig { datasets: vec!["ceval_demo_gen".into()], ..EvalConfig::default() });
    let subjects: Vec<String> =
        datasets::load(&EvalConfig { datasets: vec!["ceval_demo_gen".into()], ..EvalConfig::default() })
            .unwrap()
            .into_iter()
            .map(|task| task.subject)
            .collect();
    let subjects: Vec<&str> = subjects.iter().map(String::as_str).collect();

    let unpacked = dir.path().join("unpacked/ceval/formal_ceval");
    let (exam, core) = (dir.path().join("exam"), dir.path().join("core"));
    fs::create_dir_all(&exam).unwrap();
    fs::create_dir_all(&core).unwrap();
    let mut files = Vec::new();
    for split in ["dev", "val"] {
        fs::create_dir_all(unpacked.join(split)).unwrap();
        for subject in &subjects {
            let name = format!("{split}/{subject}_{split}.csv");
            let bytes = fs::read(demo.join(&name)).unwrap();
            fs::write(unpacked.join(&name), &bytes).unwrap();
            files.push((name, bytes));
        }
    }
    write_zip(&exam.join("ceval-exam.zip"), "", &files);
    write_zip(&core.join("OpenCompassData-core-20240207.zip"), "data/ceval/formal_ceval/", &files);
    let places: Vec<PathBuf> = vec![
        dir.path().join("unpacked"),
        dir.path().join("unpacked/ceval"),
        unpacked.clone(),
        exam.clone(),
        exam.join("ceval-exam.zip"),
        core,
    ];
    for place in places {
        assert_eq!(questions(&config(&place, &subjects)), wanted, "{}", place.display());
    }
    let refused = |path: &Path, subjects: &[&str], wanted: &str| {
        let error = datasets::load(&config(path, subjects)).unwrap_err().to_string();
        assert!(error.contains(wanted), "found: {error}\nwanted: {wanted}");
    };
    refused(&exam, &["law", "physician"], "dev/physician_dev.csv is missing");
    refused(&unpacked, &["physician"], "physician_dev.csv is missing");
    refused(&unpacked, &["lav"], "unknown subject `lav` in C-Eval (did you mean `law`");
    refused(&dir.path().join("nowhere"), &[], "no such file or folder");
    fs::create_dir(dir.path().join("empty")).unwrap();
    refused(&dir.path().join("empty"), &[], "the folder is empty");
    let broken = dir.path().join("empty/ceval-exam.zip");
    fs::write(&broken, b"PK\x03\x04 not really").unwrap();
    refused(&dir.path().join("empty"), &[], "not a zip archive");
    let bytes = fs::read(exam.join("ceval-exam.zip")).unwrap();
    for cut in [10, bytes.len() / 2, bytes.len() - 5] {
        fs::write(&broken, &bytes[..cut]).unwrap();
        refused(&broken, &["law"], "ceval-exam.zip");
    }
    // Damage within a file of the archive.
    let mut damaged = bytes.clone();
    damaged[200..260].fill(0x55);
    fs::write(&broken, &damaged).unwrap();
    assert!(datasets::load(&config(&broken, &subjects)).is_err());
}

fn write_zip(path: &Path, folder: &str, files: &[(String, Vec<u8>)]) {
    let mut zip = zip::ZipWriter::new(File::create(path).unwrap());
    for (name, bytes) in files {
        zip.start_file(format!("{folder}{name}"), zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
}

fn questions(config: &EvalConfig) -> Vec<String> {
    let tasks = datasets::load(config).unwrap();
    tasks.iter().flat_map(|task| task.samples.iter().map(|sample| sample.row[1].1.clone())).collect()
}

#[test]
fn the_demonstration_is_built_in_and_not_ceval() {
    let config = EvalConfig { datasets: vec!["ceval_demo_gen".into()], ..EvalConfig::default() };
    let tasks = datasets::load(&config).unwrap();
    assert_eq!(tasks.len(), 8);
    assert!(tasks.iter().all(|task| task.samples.len() == 10 && task.abbr.starts_with("ceval_demo-")));
    assert_eq!(datasets::groups(&config).unwrap()[0].subsets.len(), 8);
    let error =
        datasets::load(&EvalConfig { datasets: vec!["ceval_gem".into()], ..EvalConfig::default() }).unwrap_err();
    assert!(error.to_string().contains("did you mean `ceval_gen`"), "{error}");
}

/// Prompts of all subjects of C-Eval, CMMLU and MMLU, in every style, against digests that OpenCompass's own template
/// code made; see `tests/fixtures/prompt_digests.py`.
#[test]
fn prompts_of_every_subject_have_opencompass_digests() {
    let Some(data) = shared("data") else { return };
    let mut checked = 0;
    for line in fs::read_to_string(root().join("tests/fixtures/prompt_digests.tsv")).unwrap().lines() {
        let [name, style, limit, count, digest] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let mut config = config(&data, &[]);
        config.datasets = vec![name.into()];
        config.limit = Some(limit.parse().unwrap());
        match style {
            "base" => {}
            "hf_messages" => config.hf_type = HfType::Chat,
            meta => config.meta_template = Some(meta.into()),
        }
        let mut hash = Sha256::new();
        let records = prompts(&config, None).unwrap();
        for record in &records {
            for Message { role, content } in record.messages.iter().flatten() {
                hash.update(format!("{role}\u{1}{content}\u{2}"));
            }
            hash.update(record.prompt.as_deref().unwrap_or_default());
            hash.update([0]);
        }
        let found: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((records.len().to_string().as_str(), found.as_str()), (count, digest), "{name} {style}");
        checked += 1;
    }
    assert!(checked >= 60);
}
