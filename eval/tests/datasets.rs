//! Data files that are wrong, hostile or merely unusual, and the real ones against Python's reading of them.

use oc_eval::{Error, EvalConfig, datasets};
use oc_tests::{root, shared};
use serde::Deserialize;
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
