//! `kill -9` of the real binary at arbitrary points, then `-r`: the files are those of an undisturbed run, byte for byte.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const RUN: &str = "eval --datasets ceval_demo_gen --max-out-len 48 --dtype f32 --batch-size 5 --threads 1";

fn start(dir: &Path, resume: bool) -> Child {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/llama");
    let mut command = Command::new(env!("CARGO_BIN_EXE_oc-cli"));
    command.args(RUN.split(' ')).arg("--hf-path").arg(model).args(resume.then_some("-r"));
    command.current_dir(dir).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn run_folder(dir: &Path) -> Option<PathBuf> {
    let mut runs = fs::read_dir(dir.join("outputs/default")).ok()?.map(|entry| entry.unwrap().path());
    let first = runs.next()?;
    assert!(runs.next().is_none(), "resuming makes no second folder");
    Some(first)
}

/// Finished lines of the journal.
fn journalled(dir: &Path) -> usize {
    let journal = run_folder(dir).and_then(|folder| fs::read(folder.join("journal.jsonl")).ok());
    journal.unwrap_or_default().iter().filter(|byte| **byte == b'\n').count()
}

/// Every file below `predictions` and `results`, by its path.
fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = run_folder(dir).unwrap();
    let mut found = Vec::new();
    let mut folders = vec![folder.join("predictions"), folder.join("results")];
    while let Some(current) = folders.pop() {
        for entry in fs::read_dir(current).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push((path.strip_prefix(&folder).unwrap().to_owned(), fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn killed_and_resumed_is_the_same_as_undisturbed() {
    let (whole, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert!(start(whole.path(), false).wait().unwrap().success());
    let total = journalled(whole.path());
    assert_eq!(total, 81, "a header and 80 questions");

    let mut kills = 0;
    let mut resume = false;
    // Points between and within writes: a few lines further each time, with a delay that differs.
    for (more, delay) in [(1, 0), (3, 7), (9, 1), (17, 3), (22, 0), (11, 5)] {
        let wanted = (journalled(killed.path()) + more).min(total);
        let mut child = start(killed.path(), resume);
        let deadline = Instant::now() + Duration::from_secs(60);
        let ended = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if journalled(killed.path()) >= wanted {
                break None;
            }
            assert!(Instant::now() < deadline, "no progress");
            thread::sleep(Duration::from_micros(200));
        };
        match ended {
            // It was faster than we could look.
            Some(status) => assert!(status.success()),
            None => {
                thread::sleep(Duration::from_millis(delay));
                child.kill().unwrap();
                kills += usize::from(!child.wait().unwrap().success());
            }
        }
        resume = run_folder(killed.path()).is_some();
    }
    assert!(kills >= 2, "only {kills} runs were killed in time");
    assert!(start(killed.path(), resume).wait().unwrap().success());
    let (found, wanted) = (files(killed.path()), files(whole.path()));
    assert_eq!(wanted.len(), 16);
    assert!(found == wanted, "files differ after {kills} kills");
}

/// Ctrl-C is a polite request: status 130, the way on is named, and nothing finished is lost.
#[cfg(unix)]
#[test]
fn interrupted_runs_end_soon_and_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/llama");
    let mut command = Command::new(env!("CARGO_BIN_EXE_oc-cli"));
    command.args(RUN.replace("--max-out-len 48", "--max-out-len 900").split(' ')).arg("--hf-path").arg(&model);
    let child = command.current_dir(dir.path()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    // The header is there, so answering has begun.
    while journalled(dir.path()) == 0 {
        assert!(Instant::now() < deadline, "no journal");
        thread::sleep(Duration::from_millis(1));
    }
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("go on with -r"), "{stderr}");
    assert!(journalled(dir.path()) < 81, "it was stopped before its end");
}
