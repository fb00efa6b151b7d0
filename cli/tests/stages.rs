//! `--mode`, `--reuse` and `--summarizer` on the real binary: asking, scoring and showing apart, and what goes wrong there.

use assert_cmd::Command;
use std::{
    fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// The demonstration with a tiny model, one question a subject, in `dir`.
fn eval(dir: &TempDir, more: &str) -> Command {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/qwen2");
    let mut command = Command::new(env!("CARGO_BIN_EXE_oc-cli"));
    let line = "eval --datasets ceval_demo_gen --dtype f32 --limit 1 --max-out-len 4 --work-dir runs";
    command.current_dir(dir.path()).args(line.split(' ')).arg("--hf-path").arg(model).args(more.split_whitespace());
    command
}

/// The one run folder.
fn run_folder(dir: &TempDir) -> PathBuf {
    let mut runs = fs::read_dir(dir.path().join("runs")).unwrap().map(|entry| entry.unwrap().path());
    let run = runs.next().unwrap();
    assert_eq!(runs.next(), None);
    run
}

/// Every file below `folder`, sorted, with its contents.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push((path.clone(), fs::read(&path).unwrap())) }
    }
    found.sort();
    found
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Status, and what is on stderr.
fn fails(mut command: Command, code: i32) -> String {
    text(&command.assert().code(code).get_output().stderr)
}

#[test]
fn asking_scoring_and_showing_apart_are_one_run() {
    let whole = tempfile::tempdir().unwrap();
    let table = text(&eval(&whole, "").assert().code(0).get_output().stdout);

    let dir = tempfile::tempdir().unwrap();
    eval(&dir, "-m infer").assert().code(0);
    let run = run_folder(&dir);
    assert!(!run.join("results").exists() && !run.join("summary").exists(), "nothing is scored yet");
    let scored = text(&eval(&dir, "-m eval -r").assert().code(0).get_output().stdout);
    let shown = text(&eval(&dir, "-m viz -r").assert().code(0).get_output().stdout);
    // The table and the averages below it; the line after them says how long it took.
    let rows = |text: &str| {
        text.lines().take_while(|line| !line.starts_with("accuracy ")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(rows(&table).iter().any(|row| row.starts_with("ceval_demo-law")), "{table}");
    assert_eq!(rows(&scored), rows(&table));
    assert_eq!(rows(&shown)[..rows(&table).len() - 1], rows(&table)[..rows(&table).len() - 1]);

    for folder in ["predictions", "results"] {
        let of = |dir: &TempDir| {
            let root = run_folder(dir).join(folder);
            files(&root)
                .into_iter()
                .map(|(path, data)| (path.strip_prefix(&root).unwrap().to_owned(), text(&data)))
                .collect::<Vec<_>>()
        };
        assert_eq!(of(&dir), of(&whole), "{folder}");
    }
}

#[test]
fn stages_need_what_comes_before_them() {
    let dir = tempfile::tempdir().unwrap();
    for mode in ["eval", "viz"] {
        let error = fails(eval(&dir, &format!("-m {mode}")), 2);
        assert!(error.contains(&format!("-m {mode} works on an earlier run")) && error.contains("add -r"), "{error}");
        let error = fails(eval(&dir, &format!("-m {mode} -r")), 2);
        assert!(error.contains("no run"), "{error}");
    }
    let error = fails(eval(&dir, "-m train"), 2);
    assert!(error.contains("unknown mode `train`") && error.contains("all, infer, eval and viz"), "{error}");

    eval(&dir, "-m infer").assert().code(0);
    let error = fails(eval(&dir, "-m eval -r 20200101_000000"), 2);
    assert!(error.contains("there is no folder 20200101_000000; the newest is"), "{error}");
    // A subset without predictions is named, the others are scored, and the status says so.
    let predictions = run_folder(&dir).join("predictions");
    let law = files(&predictions).into_iter().find(|(path, _)| path.ends_with("ceval_demo-law.json")).unwrap().0;
    fs::remove_file(&law).unwrap();
    let output = eval(&dir, "-m eval -r").assert().code(1).get_output().clone();
    let (table, error) = (text(&output.stdout), text(&output.stderr));
    assert!(
        error.contains("ceval_demo-law: no answers") && error.contains("ceval_demo-law.json does not exist"),
        "{error}"
    );
    let row = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap().trim_end().to_owned();
    assert!(row("ceval_demo-law ").ends_with('-') && !row("ceval_demo-logic ").ends_with('-'), "{table}");
    // Predictions that are no predictions.
    fs::write(&law, "{\"0\": ").unwrap();
    let error = fails(eval(&dir, "-m eval -r"), 2);
    assert!(error.contains("ceval_demo-law.json: not JSON") && error.contains("hint: remove the file"), "{error}");
}

#[test]
fn summarizers_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = fails(eval(&dir, "--summarizer cevall"), 2);
    assert!(error.contains("unknown summarizer `cevall` (did you mean `ceval`?)"), "{error}");
    assert!(error.trim_end().ends_with("known summarizers are example, ceval, cmmlu, mmlu"), "{error}");
    assert!(!dir.path().join("runs").exists(), "nothing was begun");
}
