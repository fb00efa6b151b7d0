//! The run folder, with OpenCompass's names, keys and formats.
//!
//! `<work_dir>/<YYYYmmdd_HHMMSS>/{configs,logs/{infer,eval},predictions,results,summary}`, and our `journal.jsonl`
//! beside them. Everything but the journal is written at the end, from the journal, so it needs no syncing: what a
//! crash spoils is written again on resume.

use crate::{Error, Message, Prompt, Result, Resume, journal::Entry, score::Answer};
use jiff::{ToSpan, civil::DateTime};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Names of run folders.
const STAMP: &str = "%Y%m%d_%H%M%S";

/// How often another second is tried for a folder that exists.
const MAX_ATTEMPTS: usize = 3600;

/// One run's folder.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RunFolder {
    /// Its name, usually `YYYYmmdd_HHMMSS`.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
}

/// `stamp`, or now in UTC.
///
/// # Errors
/// [`Error::Config`] unless it reads `YYYYmmdd_HHMMSS`.
pub(crate) fn timestamp(stamp: Option<&str>) -> Result<String> {
    let Some(stamp) = stamp else {
        return Ok(jiff::Timestamp::now().strftime(STAMP).to_string());
    };
    if is_stamp(stamp) {
        return Ok(stamp.into());
    }
    Err(Error::Config { what: format!("timestamp `{stamp}`: wanted YYYYmmdd_HHMMSS") })
}

fn is_stamp(text: &str) -> bool {
    text.len() == 15 && DateTime::strptime(STAMP, text).is_ok()
}

impl RunFolder {
    /// Makes a new folder named `stamp`, or a later second where that exists.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub(crate) fn create(work_dir: &Path, stamp: &str) -> Result<Self> {
        let failed = |path: &Path, source| Error::Write { path: path.into(), source, resume: None };
        fs::create_dir_all(work_dir).map_err(|e| failed(work_dir, e))?;
        let first = DateTime::strptime(STAMP, stamp)
            .map_err(|e| Error::Config { what: format!("timestamp `{stamp}`: {e}; wanted YYYYmmdd_HHMMSS") })?;
        let mut last = None;
        for second in 0..MAX_ATTEMPTS {
            let name = first.saturating_add((second as i64).seconds()).strftime(STAMP).to_string();
            let path = work_dir.join(&name);
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self { name, path }),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => last = Some(failed(&path, e)),
                Err(e) => return Err(failed(&path, e)),
            }
        }
        Err(last.unwrap_or_else(|| failed(work_dir, io::ErrorKind::AlreadyExists.into())))
    }

    /// The folder of an earlier run.
    ///
    /// # Errors
    /// [`Error::NoRun`] where there is none, or none of ours.
    pub(crate) fn find(work_dir: &Path, resume: &Resume) -> Result<Self> {
        let missing = |found: &str| Error::NoRun { work_dir: work_dir.into(), found: found.into() };
        let name = match resume {
            Resume::Run(name) => {
                if !work_dir.join(name).is_dir()
                    || name.contains(['/', '\\'])
                    || matches!(name.as_str(), "" | "." | "..")
                {
                    let names = runs(work_dir);
                    let newest = names.last().map(|n| format!("; the newest is {n}")).unwrap_or_default();
                    return Err(missing(&format!("there is no folder {name}{newest}")));
                }
                name.clone()
            }
            Resume::Latest if !work_dir.exists() => return Err(missing("the folder does not exist")),
            Resume::Latest => runs(work_dir).pop().ok_or_else(|| missing("no folder is named YYYYmmdd_HHMMSS"))?,
        };
        let folder = Self { path: work_dir.join(&name), name };
        // A run that was killed before its first line has neither; one of OpenCompass has answers, but no journal.
        if !folder.journal().exists() && folder.path.join("predictions").exists() {
            return Err(missing(&format!("{} has answers but no journal.jsonl: another program's run", folder.name)));
        }
        Ok(folder)
    }

    /// The record of finished samples.
    pub(crate) fn journal(&self) -> PathBuf {
        self.path.join("journal.jsonl")
    }

    /// Replaces a file in the folder as a whole: at no time does it hold half of `content`.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub(crate) fn write(&self, relative: impl AsRef<Path>, content: &str) -> Result<()> {
        let path = self.path.join(relative);
        self.write_to(&path, content).map_err(|source| Error::Write { path, source, resume: Some(self.name.clone()) })
    }

    fn write_to(&self, path: &Path, content: &str) -> io::Result<()> {
        let (parent, file) = (path.parent().unwrap_or(&self.path), path.file_name().unwrap_or_default());
        fs::create_dir_all(parent)?;
        let temporary = parent.join(format!(".{}.tmp", file.to_string_lossy()));
        let written = fs::write(&temporary, content).and_then(|()| fs::rename(&temporary, path));
        if written.is_err() {
            // Best effort; the error of interest is the first one.
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// Removes a file that no longer holds; none is fine.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub(crate) fn remove(&self, relative: impl AsRef<Path>) -> Result<()> {
        let path = self.path.join(relative);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error::Write { path, source, resume: Some(self.name.clone()) })
            }
            _ => Ok(()),
        }
    }
}

/// Names of the runs in `work_dir`, oldest first.
fn runs(work_dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(work_dir).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> = folders.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| is_stamp(name));
    names.sort();
    names
}

/// `predictions/<model>/<subset>.json`.
pub(crate) fn predictions(answers: &[Answer<'_>]) -> String {
    let record = |a: &Answer<'_>| json!({ "origin_prompt": origin_prompt(a.prompt), "prediction": a.prediction, "gold": a.gold });
    python_json(&answers.iter().map(|a| (a.index.to_string(), record(a))).collect::<Map<_, _>>())
}

/// `results/<model>/<subset>.json`; `accuracy` in percent.
pub(crate) fn results(accuracy: f64, answers: Option<&[Answer<'_>]>) -> String {
    let record = |a: &Answer<'_>| {
        json!({
            "prompt": origin_prompt(a.prompt),
            "origin_prediction": a.prediction,
            "predictions": a.extracted.answer,
            "references": a.gold,
        })
    };
    let mut file = Map::new();
    file.insert("accuracy".into(), json!(accuracy));
    if let Some(answers) = answers {
        let mut details = Map::new();
        details.insert("type".into(), "GEN".into());
        details.extend(answers.iter().map(|a| (a.index.to_string(), record(a))));
        file.insert("details".into(), details.into());
    }
    python_json(&file)
}

/// `logs/infer/<model>/<subset>.out`: a line for each question, with what its prompt lost.
pub(crate) fn infer_log(entries: &[&Entry], all_shots: usize) -> String {
    let line = |e: &&Entry| {
        let (shots, cut) = (e.shots, e.cut);
        json!({
            "index": e.index, "prompt_tokens": e.prompt_tokens, "shots": shots, "cut": cut,
            "truncated": shots < all_shots || cut > 0, "output_tokens": e.tokens.len(), "finish": e.finish,
        })
    };
    entries.iter().map(|entry| format!("{}\n", line(entry))).collect()
}

/// `logs/eval/<model>/<subset>.out`: a line for each question, with the rules that read its answer.
pub(crate) fn eval_log(answers: &[Answer<'_>]) -> String {
    let line = |a: &Answer<'_>| {
        json!({
            "index": a.index, "answer": a.extracted.answer, "rule": a.extracted.rule, "strict": a.strict.answer,
            "strict_rule": a.strict.rule, "gold": a.gold, "correct": a.extracted.answer == a.gold,
        })
    };
    answers.iter().map(|answer| format!("{}\n", line(answer))).collect()
}

/// Text as it is; messages in OpenCompass's own roles.
fn origin_prompt(prompt: &Prompt) -> Value {
    match prompt {
        Prompt::Text(text) => text.as_str().into(),
        Prompt::Messages(messages) => {
            messages.iter().map(|m| json!({ "role": role(m), "prompt": m.content })).collect()
        }
    }
}

fn role(message: &Message) -> &str {
    match message.role.as_str() {
        "user" => "HUMAN",
        "assistant" => "BOT",
        "system" => "SYSTEM",
        other => other,
    }
}

/// As Python's `json.dump(value, indent=4, ensure_ascii=False)` writes it.
fn python_json(value: &impl Serialize) -> String {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    value
        .serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter))
        .expect("maps with string keys, into memory");
    String::from_utf8(bytes).expect("JSON is UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_existing_folder_moves_the_name_by_a_second() {
        let dir = tempfile::tempdir().unwrap();
        let work_dir = dir.path().join("outputs/default");
        let name = |stamp| RunFolder::create(&work_dir, stamp).unwrap().name;
        assert_eq!(name("20261231_235959"), "20261231_235959");
        assert_eq!(name("20261231_235959"), "20270101_000000");
        assert_eq!(name("20261231_235959"), "20270101_000001");
        assert!(timestamp(Some("2026-12-31")).unwrap_err().to_string().contains("wanted YYYYmmdd_HHMMSS"));
        assert!(timestamp(Some("20261331_000000")).is_err());
        assert!(is_stamp(&timestamp(None).unwrap()));
    }

    #[test]
    fn an_unwritable_work_dir_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = RunFolder::create(&file.join("outputs"), "20260101_000000").unwrap_err().to_string();
        assert!(error.starts_with("cannot write ") && error.contains("file/outputs"), "{error}");
        let folder = RunFolder { name: "run".into(), path: file };
        assert!(matches!(folder.write("a/b.json", ""), Err(Error::Write { resume: Some(run), .. }) if run == "run"));
    }

    #[test]
    fn the_run_to_resume_is_the_newest_or_the_named_one() {
        let dir = tempfile::tempdir().unwrap();
        let find = |resume| RunFolder::find(dir.path(), &resume).map(|folder| folder.name);
        let error = |resume| find(resume).unwrap_err().to_string();
        assert!(error(Resume::Latest).contains("no folder is named YYYYmmdd_HHMMSS"));
        for name in ["20260101_000000", "20260102_000000", "notes", "mine"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("20270101_000000"), "a file").unwrap();
        assert_eq!(find(Resume::Latest).unwrap(), "20260102_000000");
        assert_eq!(find(Resume::Run("mine".into())).unwrap(), "mine");
        let unknown = error(Resume::Run("20250101_000000".into()));
        assert!(unknown.contains("there is no folder 20250101_000000; the newest is 20260102_000000"), "{unknown}");
        assert!(find(Resume::Run("..".into())).is_err() && find(Resume::Run("".into())).is_err());
        // A folder of OpenCompass is not touched.
        fs::create_dir_all(dir.path().join("20260102_000000/predictions")).unwrap();
        assert!(error(Resume::Latest).contains("has answers but no journal.jsonl"));
        let absent = RunFolder::find(&dir.path().join("absent"), &Resume::Latest).unwrap_err().to_string();
        assert!(absent.contains("the folder does not exist"), "{absent}");
    }

    #[test]
    fn files_are_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(dir.path(), "20260101_000000").unwrap();
        folder.write("a/b/c.json", "one").unwrap();
        folder.write("a/b/c.json", "two").unwrap();
        assert_eq!(fs::read_to_string(folder.path.join("a/b/c.json")).unwrap(), "two");
        assert_eq!(fs::read_dir(folder.path.join("a/b")).unwrap().count(), 1);
        folder.remove("a/b/c.json").unwrap();
        folder.remove("a/b/c.json").unwrap();
    }
}
