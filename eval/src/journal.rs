//! The append-only record of a run: one line of JSON per finished sample, so that a kill costs at most the sample
//! that was being written.
//!
//! A head names a model and its [`Fingerprint`]; the samples that follow are its answers, until the next head. Lines are
//! only ever appended, each with one write, and a sample counts as finished when its line is on disk. Where a sample
//! stands twice, the later line holds.

use crate::{Error, Result, fingerprint::Fingerprint};
use oc_engine::{FinishReason, Output};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::{
    collections::HashMap,
    fs::{File, OpenOptions, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Version of the line format.
const FORMAT: u64 = 2;

/// A finished line waits for the disk at most this long while further ones come in.
const MAX_SYNC_INTERVAL: Duration = Duration::from_millis(500);

/// Syncing may take this share of the time: where the disk is slow, several lines share a sync.
const SYNC_SHARE: u32 = 20;

/// A finished sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// The subset.
    pub abbr: String,
    /// 0-based row.
    pub index: usize,
    /// Hash of the ids of its prompts as sent.
    pub ids: String,
    /// The settings of its subset that it depends on, in words.
    pub settings: String,
    /// What came back.
    #[serde(flatten)]
    pub reply: Reply,
    /// Tokens of the prompts as sent.
    pub prompt_tokens: usize,
    /// Solved examples left in the shortest prompt.
    pub shots: usize,
    /// Most tokens cut from the beginning of a prompt.
    pub cut: usize,
}

/// What came back for a question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Reply {
    /// A generation.
    Text {
        /// The generated text.
        text: String,
        /// Why it ended: `eos`, `stop` or `length`.
        finish: String,
        /// The generated ids.
        tokens: Vec<u32>,
        /// Natural log-probability of each; null where it is not a number.
        logprobs: Vec<Option<f32>>,
    },
    /// Scores.
    Numbers {
        /// Of each label or choice as OpenCompass has it; null where it is not a finite number.
        numbers: Vec<Option<f64>>,
    },
}

impl Reply {
    /// Of a generation.
    pub(crate) fn text(output: Output) -> Self {
        let finish = match output.finish {
            FinishReason::Eos => "eos",
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        };
        Self::Text {
            text: output.text,
            finish: finish.into(),
            tokens: output.tokens,
            logprobs: output.logprobs.iter().map(|p| p.is_finite().then_some(*p)).collect(),
        }
    }

    /// Of scores.
    pub(crate) fn numbers(numbers: &[f64]) -> Self {
        Self::Numbers { numbers: numbers.iter().map(|x| x.is_finite().then_some(*x)).collect() }
    }
}

/// Finished samples of one model by subset and row.
pub(crate) type Entries = HashMap<(String, usize), Entry>;

/// A line before the samples of a model.
#[derive(Serialize, Deserialize)]
struct Header {
    journal: u64,
    model: String,
    fingerprint: Map<String, Value>,
}

/// What the journal of a run holds of one model.
#[derive(Debug, Default)]
struct Section {
    model: String,
    /// Of every head; all are alike unless the file was edited.
    fingerprint: Map<String, Value>,
    entries: Entries,
}

/// What the journal of a run holds.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    sections: Vec<Section>,
    /// The model of the last head.
    last: Option<String>,
    /// Bytes up to the end of the last whole line.
    valid: usize,
}

impl Recorded {
    /// What the journal at `path` holds, without changing or locking it; nothing where there is none.
    ///
    /// # Errors
    /// [`Error::Journal`], [`Error::Read`].
    pub(crate) fn read(path: &Path) -> Result<Self> {
        match std::fs::read(path) {
            Ok(bytes) => parse(&bytes, path),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(Error::Read { path: path.into(), source }),
        }
    }

    /// Takes the answers of `model`, which must have been given under this fingerprint.
    ///
    /// # Errors
    /// [`Error::Mismatch`] names every field that differs.
    pub(crate) fn take(&mut self, model: &str, run: &str, fingerprint: &Fingerprint) -> Result<Entries> {
        let Some(section) = self.sections.iter_mut().find(|section| section.model == model) else {
            return Ok(Entries::new());
        };
        let differences = fingerprint.differences(&section.fingerprint);
        if differences.is_empty() {
            Ok(std::mem::take(&mut section.entries))
        } else {
            Err(Error::Mismatch { run: run.into(), differences })
        }
    }
}

/// An open journal, locked against other writers.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
    run: String,
    /// Bytes to keep when the first line is written: a torn one behind them goes.
    keep: Option<u64>,
    /// Whose samples the next lines are.
    model: Option<String>,
    unsynced: usize,
    last_sync: Instant,
    sync_cost: Duration,
}

impl Journal {
    /// Opens the journal at `path` of the run named `run`, or begins it; returns what it holds. Nothing is changed before
    /// [`begin`](Self::begin).
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Journal`], [`Error::Read`], [`Error::Write`].
    pub(crate) fn open(path: &Path, run: &str) -> Result<(Self, Recorded)> {
        let failed = |source| write_error(path, run, source);
        let file = OpenOptions::new().create(true).read(true).append(true).open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Locked { run: run.into() }),
            // Some network file systems know no locks; better unguarded than unusable.
            Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
        let bytes = std::fs::read(path).map_err(|source| Error::Read { path: path.into(), source })?;
        let recorded = parse(&bytes, path)?;
        let journal = Self {
            file,
            path: path.into(),
            run: run.into(),
            keep: (recorded.valid < bytes.len()).then_some(recorded.valid as u64),
            model: recorded.last.clone(),
            unsynced: 0,
            last_sync: Instant::now(),
            sync_cost: Duration::ZERO,
        };
        Ok((journal, recorded))
    }

    /// Says whose samples come next. A torn last line is cut off.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub(crate) fn begin(&mut self, model: &str, fingerprint: &Fingerprint) -> Result<()> {
        if let Some(keep) = self.keep.take() {
            self.file.set_len(keep).map_err(|source| write_error(&self.path, &self.run, source))?;
        }
        if self.model.as_deref() == Some(model) {
            return Ok(());
        }
        self.write_line(&Header { journal: FORMAT, model: model.into(), fingerprint: fingerprint.to_map() })?;
        self.sync()?;
        sync_folder(&self.path);
        self.model = Some(model.into());
        Ok(())
    }

    /// Appends a sample. It is safe from a crash of this process at once, and from one of the machine after
    /// [`sync`](Self::sync).
    ///
    /// # Errors
    /// [`Error::Write`].
    pub(crate) fn append(&mut self, entry: &Entry) -> Result<()> {
        self.write_line(entry)?;
        self.unsynced += 1;
        Ok(())
    }

    /// Whether lines have waited long enough, or the disk is fast enough, to [`sync`](Self::sync) now.
    pub(crate) fn sync_is_due(&self) -> bool {
        let interval = (self.sync_cost * SYNC_SHARE).min(MAX_SYNC_INTERVAL);
        self.unsynced > 0 && self.last_sync.elapsed() >= interval
    }

    /// Returns when everything appended is on disk.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub(crate) fn sync(&mut self) -> Result<()> {
        let start = Instant::now();
        self.file.sync_data().map_err(|source| write_error(&self.path, &self.run, source))?;
        self.last_sync = Instant::now();
        self.sync_cost = self.last_sync - start;
        self.unsynced = 0;
        Ok(())
    }

    fn write_line(&mut self, value: &impl Serialize) -> Result<()> {
        let failed = |source| write_error(&self.path, &self.run, source);
        let mut line = serde_json::to_vec(value).map_err(|e| failed(e.into()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(failed)
    }
}

/// Reads lines; the last one may be torn, the others may not.
fn parse(bytes: &[u8], path: &Path) -> Result<Recorded> {
    let mut recorded = Recorded::default();
    let mut lines = bytes.split_inclusive(|b| *b == b'\n').enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        let is_last = lines.peek().is_none();
        if is_last && line.last() != Some(&b'\n') {
            break;
        }
        match recorded.read_line(line, number == 0) {
            Ok(()) => recorded.valid += line.len(),
            // After a power failure the last line may have its full length but not its content.
            Err(_) if is_last && number > 0 => break,
            Err(reason) => {
                let what = if number == 0 { "not the head of a journal" } else { "not a finished sample" };
                let reason = format!("{what}: {reason}");
                return Err(Error::Journal { path: path.into(), line: number + 1, reason });
            }
        }
    }
    Ok(recorded)
}

impl Recorded {
    fn read_line(&mut self, line: &[u8], is_first: bool) -> Result<(), String> {
        if is_first || line.starts_with(b"{\"journal\"") {
            let journal: Format = serde_json::from_slice(line).map_err(|e| e.to_string())?;
            if journal.journal != FORMAT {
                return Err(format!("journal format {}, this program knows {FORMAT}", journal.journal));
            }
            let Header { model, fingerprint, .. } = serde_json::from_slice(line).map_err(|e| e.to_string())?;
            if !self.sections.iter().any(|section| section.model == model) {
                self.sections.push(Section { model: model.clone(), fingerprint, entries: Entries::new() });
            }
            self.last = Some(model);
            return Ok(());
        }
        let entry: Entry = serde_json::from_slice(line).map_err(|e| e.to_string())?;
        let section = self.sections.iter_mut().find(|section| self.last.as_ref() == Some(&section.model));
        let section = section.ok_or("no head stands before it")?;
        section.entries.insert((entry.abbr.clone(), entry.index), entry);
        Ok(())
    }
}

/// The part of a head that every format has.
#[derive(Deserialize)]
struct Format {
    journal: u64,
}

fn write_error(path: &Path, run: &str, source: io::Error) -> Error {
    Error::Write { path: path.into(), source, resume: Some(run.into()) }
}

/// Makes a new file's name durable, where the platform can.
fn sync_folder(path: &Path) {
    if let Some(folder) = path.parent()
        && let Ok(folder) = File::open(folder)
    {
        // Some file systems refuse to sync a folder; the lines themselves are synced anyway.
        let _ = folder.sync_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EvalConfig, ModelIdentity};

    fn fingerprint(dtype: &str) -> Fingerprint {
        let identity = ModelIdentity {
            weights: "w".into(),
            tokenizer: "t".into(),
            chat_template: None,
            dtype: dtype.into(),
            device: "cpu".into(),
            numeric_version: "1".into(),
        };
        Fingerprint::new(&EvalConfig::default(), identity)
    }

    fn entry(index: usize, text: &str) -> Entry {
        let output = Output {
            request: 0,
            text: text.into(),
            tokens: vec![5, 6],
            logprobs: vec![-0.1, f32::NAN],
            finish: FinishReason::Length,
            prompt_tokens: 9,
            cached_tokens: 0,
        };
        Entry {
            abbr: "ceval-law".into(),
            index,
            ids: "hash".into(),
            settings: "max_out_len 16".into(),
            reply: Reply::text(output),
            prompt_tokens: 9,
            shots: 5,
            cut: 0,
        }
    }

    fn read(path: &Path, dtype: &str) -> Result<Entries> {
        Recorded::read(path)?.take("model", "run", &fingerprint(dtype))
    }

    fn open(path: &Path) -> Result<(Journal, Entries)> {
        let (mut journal, mut recorded) = Journal::open(path, "run")?;
        let entries = recorded.take("model", "run", &fingerprint("f32"))?;
        journal.begin("model", &fingerprint("f32"))?;
        Ok((journal, entries))
    }

    #[test]
    fn what_is_appended_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let (mut journal, entries) = open(&path).unwrap();
        assert!(entries.is_empty());
        journal.append(&entry(0, "a\n\u{fffd}\"")).unwrap();
        journal.append(&entry(1, "b")).unwrap();
        journal.append(&entry(0, "c")).unwrap();
        journal.sync_cost = Duration::ZERO;
        assert!(journal.sync_is_due(), "a fast disk is synced at once");
        (journal.last_sync, journal.sync_cost) = (Instant::now(), Duration::from_secs(100));
        assert!(!journal.sync_is_due(), "a slow one for several lines together");
        journal.last_sync -= MAX_SYNC_INTERVAL;
        assert!(journal.sync_is_due(), "but not for too many");
        journal.sync().unwrap();
        assert!(!journal.sync_is_due());
        drop(journal);
        let (_, entries) = open(&path).unwrap();
        assert_eq!(entries.len(), 2);
        // The later line of a sample holds.
        assert_eq!(entries[&("ceval-law".to_owned(), 0)], entry(0, "c"));
        let Reply::Text { logprobs, .. } = &entries[&("ceval-law".to_owned(), 1)].reply else { panic!("text") };
        assert_eq!(*logprobs, [Some(-0.1), None]);
    }

    #[test]
    fn numbers_come_back_to_the_bit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let mut numbers: Vec<f64> = (1..2000).map(|i| (i as f64).sqrt().sin() * 10f64.powi(i % 40 - 20)).collect();
        numbers.push(f64::INFINITY);
        let (mut journal, _) = open(&path).unwrap();
        journal.append(&Entry { reply: Reply::numbers(&numbers), ..entry(3, "") }).unwrap();
        drop(journal);
        let entries = open(&path).unwrap().1;
        let Reply::Numbers { numbers: found } = &entries[&("ceval-law".to_owned(), 3)].reply else { panic!("numbers") };
        assert_eq!(found.last(), Some(&None));
        assert!(found.iter().flatten().map(|x| x.to_bits()).eq(numbers[..1999].iter().map(|x| x.to_bits())));
    }

    #[test]
    fn models_take_turns() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        for (turn, model) in ["a", "b", "a", "b", "b"].into_iter().enumerate() {
            let (mut journal, mut recorded) = Journal::open(&path, "run").unwrap();
            let entries = recorded.take(model, "run", &fingerprint(model)).unwrap();
            assert_eq!(entries.len(), [0, 0, 1, 1, 2][turn]);
            journal.begin(model, &fingerprint(model)).unwrap();
            journal.append(&entry(turn, model)).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.matches("{\"journal\":2,\"model\":").count(), 4, "{text}");
        let error = Recorded::read(&path).unwrap().take("b", "run", &fingerprint("a")).unwrap_err().to_string();
        assert!(error.starts_with("run cannot be resumed: dtype was b, now a\n\nhint: "), "{error}");
    }

    #[test]
    fn a_torn_line_costs_one_sample_wherever_it_is_torn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let (mut journal, _) = open(&path).unwrap();
        let mut ends = vec![std::fs::metadata(&path).unwrap().len() as usize];
        for i in 0..3 {
            journal.append(&entry(i, "答案：A")).unwrap();
            ends.push(std::fs::metadata(&path).unwrap().len() as usize);
        }
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        for len in 0..=whole.len() {
            std::fs::write(&path, &whole[..len]).unwrap();
            let before = read(&path, "f32").unwrap();
            let (mut journal, entries) = open(&path).unwrap();
            let wanted = ends.iter().filter(|end| **end <= len).count().saturating_sub(1);
            assert_eq!((before.len(), entries.len()), (wanted, wanted), "cut at {len}");
            // What is appended after the cut stands on a line of its own.
            journal.append(&entry(9, "new")).unwrap();
            drop(journal);
            assert_eq!(open(&path).unwrap().1.len(), wanted + 1, "cut at {len}");
        }
    }

    #[test]
    fn garbage_is_an_error_except_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let (mut journal, _) = open(&path).unwrap();
        journal.append(&entry(0, "a")).unwrap();
        drop(journal);
        let good = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{good}\0\0\0\n")).unwrap();
        assert_eq!(open(&path).unwrap().1.len(), 1);
        let (header, line) = good.split_once('\n').unwrap();
        std::fs::write(&path, format!("{header}\n{{}}\n{line}")).unwrap();
        let error = open(&path).unwrap_err().to_string();
        assert!(error.contains("journal.jsonl, line 2: not a finished sample: missing field `abbr`"), "{error}");
        std::fs::write(&path, format!("hello\n{line}")).unwrap();
        let error = open(&path).unwrap_err().to_string();
        assert!(error.contains("line 1: not the head of a journal"), "{error}");
        std::fs::write(&path, good.replace("{\"journal\":2", "{\"journal\":1")).unwrap();
        let error = open(&path).unwrap_err().to_string();
        assert!(error.contains("journal format 1, this program knows 2"), "{error}");
    }

    #[test]
    fn other_settings_and_second_writers_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let (journal, _) = open(&path).unwrap();
        assert!(matches!(open(&path), Err(Error::Locked { run }) if run == "run"));
        drop(journal);
        let error = read(&path, "bf16").unwrap_err().to_string();
        assert!(error.starts_with("run cannot be resumed: dtype was f32, now bf16\n\nhint: "), "{error}");
        assert!(open(&path).is_ok());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error_with_a_way_on() {
        let file = OpenOptions::new().append(true).open("/dev/full").unwrap();
        let now = Instant::now();
        let mut journal = Journal {
            file,
            path: "/dev/full".into(),
            run: "20260101_000000".into(),
            keep: None,
            model: None,
            unsynced: 0,
            last_sync: now,
            sync_cost: Duration::ZERO,
        };
        let error = journal.append(&entry(0, "a")).unwrap_err().to_string();
        assert!(error.starts_with("cannot write /dev/full: No space left on device"), "{error}");
        assert!(error.ends_with("run again with -r 20260101_000000"), "{error}");
    }
}
