//! The run folder, with OpenCompass's names, keys and formats.
//!
//! `<work_dir>/<YYYYmmdd_HHMMSS>/{configs,logs/{infer,eval},predictions,results,summary}`, and our `journal.jsonl`
//! beside them. Everything but the journal is written at the end, from the journal, so it needs no syncing: what a
//! crash spoils is written again on resume.

use crate::{
    Error, Result, Resume,
    journal::{Entry, Reply},
    python,
    records::Record,
    score::{Answer, Metrics},
};
use jiff::{ToSpan, civil::DateTime};
use serde::Serialize;
use serde_json::{
    Map, Value, json,
    ser::{Formatter, PrettyFormatter},
};
use std::{
    fs,
    io::{self, Write},
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
        Ok(Self { path: work_dir.join(&name), name })
    }

    /// Refuses to go on asking in a folder that another program wrote: there is no record of how its answers were made.
    ///
    /// # Errors
    /// [`Error::NotOurs`].
    pub(crate) fn check_ours(&self) -> Result<()> {
        // A run that was killed before its first line has neither; one of OpenCompass has answers, but no journal.
        if !self.journal().exists() && self.path.join("predictions").exists() {
            return Err(Error::NotOurs { run: self.name.clone() });
        }
        Ok(())
    }

    /// The recorded answers of a model to a subset: OpenCompass's `predictions/<model>/<subset>.json`, or its parts
    /// `<subset>_0.json`, `<subset>_1.json` …; and the file that was read, or looked for.
    ///
    /// # Errors
    /// As for [`read_json`]; [`Error::Config`] where a row is missing.
    pub(crate) fn records(&self, model: &str, subset: &str) -> Result<(PathBuf, Option<Vec<Record>>)> {
        let folder = self.path.join("predictions").join(model);
        let whole = folder.join(format!("{subset}.json"));
        if let Some(file) = read_json(&whole)? {
            return Ok((whole.clone(), Some(rows(&whole, file)?)));
        }
        let mut all = Vec::new();
        for part in 0.. {
            let path = folder.join(format!("{subset}_{part}.json"));
            match read_json(&path)? {
                Some(file) => all.extend(rows(&path, file)?),
                None if part == 0 => return Ok((whole, None)),
                None => break,
            }
        }
        Ok((folder.join(format!("{subset}_0.json")), Some(all)))
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

/// The records of a predictions file in the order of their rows.
fn rows(path: &Path, mut file: Map<String, Value>) -> Result<Vec<Record>> {
    let wrong = |what: String| Error::Config {
        what: format!("{}: {what}\n\nhint: remove the file and ask again with -m infer -r", path.display()),
    };
    let len = file.len();
    let row = |index: usize| match file.remove(&index.to_string()) {
        Some(Value::Object(record)) => Ok(record),
        Some(_) => Err(wrong(format!("row {index} is no JSON object"))),
        None => Err(wrong(format!("row {index} is missing"))),
    };
    (0..len).map(row).collect()
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
pub(crate) fn predictions<'a>(records: impl IntoIterator<Item = (usize, &'a Record)>) -> String {
    let records = records.into_iter().map(|(index, record)| (index.to_string(), Value::Object(record.clone())));
    python_json(&records.collect::<Map<_, _>>())
}

/// `results/<model>/<subset>.json`.
pub(crate) fn results(metrics: &Metrics, details: Option<&Value>) -> String {
    // JSON has no NaN, but Python's files do.
    let number = |x: &f64| if x.is_nan() { "NaN".to_owned() } else { python::float(*x) };
    let metric = |(name, x): &(String, f64)| format!("    {}: {}", Value::from(name.as_str()), number(x));
    let details = details.map(|details| format!("    \"details\": {}", python_json(details).replace('\n', "\n    ")));
    format!("{{\n{}\n}}", metrics.iter().map(metric).chain(details).collect::<Vec<_>>().join(",\n"))
}

/// `logs/infer/<model>/<subset>.out`: a line for each question, with what its prompts lost. Beside each entry stands whether
/// that depends on the size of OpenCompass's batches.
pub(crate) fn infer_log(entries: &[(&Entry, bool)], all_shots: usize) -> String {
    let line = |(e, is_by_batch): &(&Entry, bool)| {
        let (shots, cut) = (e.shots, e.cut);
        let mut line = json!({
            "index": e.index, "prompt_tokens": e.prompt_tokens, "shots": shots, "cut": cut,
            "truncated": shots < all_shots || cut > 0,
        });
        if *is_by_batch {
            line["by_batch"] = true.into();
        }
        match &e.reply {
            Reply::Text { tokens, finish, .. } => {
                line["output_tokens"] = tokens.len().into();
                line["finish"] = finish.as_str().into();
            }
            Reply::Numbers { numbers } => line["numbers"] = json!(numbers),
        }
        line
    };
    entries.iter().map(|entry| format!("{}\n", line(entry))).collect()
}

/// `logs/eval/<model>/<subset>.out`: a line for each question, with the rules that read its answer.
pub(crate) fn eval_log(answers: &[Answer<'_>]) -> String {
    let line = |a: &Answer<'_>| {
        let mut line = json!({
            "index": a.sample.index, "answer": a.extracted.answer, "rule": a.extracted.rule, "strict": a.strict.answer,
            "strict_rule": a.strict.rule, "gold": a.gold, "correct": a.is_correct,
        });
        if let Some(nearest) = a.nearest {
            line["nearest"] = nearest.into();
        }
        line
    };
    answers.iter().map(|answer| format!("{}\n", line(answer))).collect()
}

/// Reads a JSON file of OpenCompass's; `None` where there is none. A bare `NaN` or `Infinity`, which Python writes, is
/// read as null.
///
/// # Errors
/// [`Error::Read`], and [`Error::Config`] for what is no JSON object.
pub(crate) fn read_json(path: &Path) -> Result<Option<Map<String, Value>>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::Read { path: path.into(), source }),
    };
    let wrong = |reason: &str| {
        let hint = "remove the file, or the whole folder, and make it again";
        Error::Config { what: format!("{}: {reason}\n\nhint: {hint}", path.display()) }
    };
    let text = String::from_utf8(bytes).map_err(|_| wrong("not UTF-8 text"))?;
    let parsed = serde_json::from_str(&text).or_else(|_| serde_json::from_str(&without_nan(&text)));
    match parsed {
        Ok(Value::Object(map)) => Ok(Some(map)),
        Ok(_) => Err(wrong("wanted a JSON object")),
        Err(e) => Err(wrong(&format!("not JSON: {e}"))),
    }
}

/// `null` for Python's `NaN`, `Infinity` and `-Infinity` outside of strings.
fn without_nan(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (i, part) in split_strings(text).into_iter().enumerate() {
        if i % 2 == 1 {
            out += part;
        } else {
            out += &part.replace("-Infinity", "null").replace("Infinity", "null").replace("NaN", "null");
        }
    }
    out
}

/// Text outside of strings and strings in turn.
fn split_strings(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut inside, mut escaped) = (Vec::new(), 0, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if inside => escaped = true,
            b'"' => {
                let end = if inside { at + 1 } else { at };
                parts.push(&text[start..end]);
                (start, inside) = (end, !inside);
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// As Python's `json.dump(value, indent=4, ensure_ascii=False)` writes it.
pub(crate) fn python_json(value: &impl Serialize) -> String {
    let mut bytes = Vec::new();
    let formatter = PythonFormatter(PrettyFormatter::with_indent(b"    "));
    value
        .serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter))
        .expect("maps with string keys, into memory");
    String::from_utf8(bytes).expect("JSON is UTF-8")
}

/// `PrettyFormatter` with Python's floats.
struct PythonFormatter(PrettyFormatter<'static>);

impl Formatter for PythonFormatter {
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(python::float(value).as_bytes())
    }

    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_array(writer)
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array(writer)
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(writer, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array_value(writer)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object_value(writer)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }
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
        // A folder of OpenCompass is not gone on with.
        fs::create_dir_all(dir.path().join("20260102_000000/predictions")).unwrap();
        let folder = RunFolder::find(dir.path(), &Resume::Latest).unwrap();
        let ours = folder.check_ours().unwrap_err().to_string();
        assert!(ours.starts_with("20260102_000000 has answers but no journal.jsonl"), "{ours}");
        let absent = RunFolder::find(&dir.path().join("absent"), &Resume::Latest).unwrap_err().to_string();
        assert!(absent.contains("the folder does not exist"), "{absent}");
    }

    #[test]
    fn python_numbers_are_written_and_read() {
        let metrics = vec![("accuracy - clean".to_owned(), f64::NAN), ("b".to_owned(), 31.57894736842105)];
        let details = json!({"0": {"PPL": 1e-5, "text": "NaN \\" }, "1": []});
        let text = results(&metrics, Some(&details));
        let wanted = "{\n    \"accuracy - clean\": NaN,\n    \"b\": 31.57894736842105,\n    \"details\": {\n        \"0\": {\n            \
                      \"PPL\": 1e-05,\n            \"text\": \"NaN \\\\\"\n        },\n        \"1\": []\n    }\n}";
        assert_eq!(text, wanted);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        assert!(read_json(&path).unwrap().is_none());
        fs::write(&path, &text).unwrap();
        let read = read_json(&path).unwrap().unwrap();
        assert_eq!((&read["accuracy - clean"], &read["b"]), (&Value::Null, &json!(31.57894736842105)));
        assert_eq!(read["details"], details);
        fs::write(&path, "[1]").unwrap();
        assert!(read_json(&path).unwrap_err().to_string().contains("a.json: wanted a JSON object"));
        fs::write(&path, "{").unwrap();
        assert!(read_json(&path).unwrap_err().to_string().contains("a.json: not JSON: "));
    }

    #[test]
    fn predictions_may_come_in_parts() {
        let dir = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(dir.path(), "20260101_000000").unwrap();
        assert_eq!(folder.records("m", "s").unwrap().1, None);
        let record = |text: &str| json!({ "prediction": text }).as_object().unwrap().clone();
        let (a, b, c) = (record("a"), record("b"), record("c"));
        folder.write("predictions/m/s_0.json", &predictions([(0, &a), (1, &b)])).unwrap();
        folder.write("predictions/m/s_1.json", &predictions([(0, &c)])).unwrap();
        assert_eq!(folder.records("m", "s").unwrap().1.unwrap(), [a.clone(), b.clone(), c]);
        folder.write("predictions/m/s.json", &predictions([(0, &b)])).unwrap();
        assert_eq!(folder.records("m", "s").unwrap().1.unwrap(), std::slice::from_ref(&b));
        folder.write("predictions/m/s.json", &predictions([(0, &a), (2, &b)])).unwrap();
        assert!(folder.records("m", "s").unwrap_err().to_string().contains("s.json: row 1 is missing"));
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
