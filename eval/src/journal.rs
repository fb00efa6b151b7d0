//! The append-only record of a run: one line of JSON per finished sample, so that a kill costs at most the sample
//! that was being written.
//!
//! The first line holds the [`Fingerprint`]; every further one a sample. Lines are only ever appended, each with one
//! write, and a sample counts as finished when its line is on disk. Where a sample stands twice, the later line holds.

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
const FORMAT: u64 = 1;

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
    /// [`hash_ids`](crate::fingerprint::hash_ids) of the prompt as sent.
    pub ids: String,
    /// The generated text.
    pub text: String,
    /// Why it ended: `eos`, `stop` or `length`.
    pub finish: String,
    /// Tokens of the prompt as sent.
    pub prompt_tokens: usize,
    /// Solved examples left in the prompt.
    pub shots: usize,
    /// Tokens cut from the prompt's beginning.
    pub cut: usize,
    /// The generated ids.
    pub tokens: Vec<u32>,
    /// Natural log-probability of each; null where it is not a number.
    pub logprobs: Vec<Option<f32>>,
}

impl Entry {
    pub(crate) fn new(abbr: &str, index: usize, ids: String, shots: usize, cut: usize, output: Output) -> Self {
        let finish = match output.finish {
            FinishReason::Eos => "eos",
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        };
        Self {
            abbr: abbr.into(),
            index,
            ids,
            text: output.text,
            finish: finish.into(),
            prompt_tokens: output.prompt_tokens,
            shots,
            cut,
            tokens: output.tokens,
            logprobs: output.logprobs.iter().map(|p| p.is_finite().then_some(*p)).collect(),
        }
    }
}

/// Finished samples by subset and row.
pub(crate) type Entries = HashMap<(String, usize), Entry>;

/// The first line.
#[derive(Serialize, Deserialize)]
struct Header {
    journal: u64,
    fingerprint: Map<String, Value>,
}

/// An open journal, locked against other writers.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
    run: String,
    unsynced: usize,
    last_sync: Instant,
    sync_cost: Duration,
}

impl Journal {
    /// Opens the journal at `path` of the run named `run`, or begins it; returns what it holds. A torn last line is
    /// cut off.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Mismatch`], [`Error::Journal`], [`Error::Read`], [`Error::Write`].
    pub(crate) fn open(path: &Path, run: &str, fingerprint: &Fingerprint) -> Result<(Self, Entries)> {
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
        let parsed = parse(&bytes, path)?;
        // Before anything is changed: the torn line may belong to a run with other settings.
        parsed.header.as_ref().map_or(Ok(()), |recorded| check(recorded, run, fingerprint))?;
        let mut journal = Self {
            file,
            path: path.into(),
            run: run.into(),
            unsynced: 0,
            last_sync: Instant::now(),
            sync_cost: Duration::ZERO,
        };
        if parsed.valid < bytes.len() {
            journal.file.set_len(parsed.valid as u64).map_err(failed)?;
        }
        if parsed.header.is_none() {
            journal.write_line(&Header { journal: FORMAT, fingerprint: fingerprint.to_map() })?;
            journal.sync()?;
            sync_folder(path);
        }
        Ok((journal, parsed.entries))
    }

    /// What the journal at `path` holds, without changing or locking it; nothing where there is none.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub(crate) fn read(path: &Path, run: &str, fingerprint: &Fingerprint) -> Result<Entries> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(Error::Read { path: path.into(), source }),
        };
        let parsed = parse(&bytes, path)?;
        parsed.header.map_or(Ok(()), |recorded| check(&recorded, run, fingerprint))?;
        Ok(parsed.entries)
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

struct Parsed {
    header: Option<Map<String, Value>>,
    entries: Entries,
    /// Bytes up to the end of the last whole line.
    valid: usize,
}

/// Reads lines; the last one may be torn, the others may not.
fn parse(bytes: &[u8], path: &Path) -> Result<Parsed> {
    let mut parsed = Parsed { header: None, entries: Entries::new(), valid: 0 };
    let mut lines = bytes.split_inclusive(|b| *b == b'\n').enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        let is_last = lines.peek().is_none();
        if is_last && line.last() != Some(&b'\n') {
            break;
        }
        let read = if number == 0 {
            serde_json::from_slice(line).map_err(|e| e.to_string()).and_then(|header: Header| {
                parsed.header = Some(header.fingerprint);
                let known = header.journal == FORMAT;
                known.then_some(()).ok_or(format!("journal format {}, this program knows {FORMAT}", header.journal))
            })
        } else {
            serde_json::from_slice(line).map_err(|e| e.to_string()).map(|entry: Entry| {
                parsed.entries.insert((entry.abbr.clone(), entry.index), entry);
            })
        };
        match read {
            Ok(()) => parsed.valid += line.len(),
            // After a power failure the last line may have its full length but not its content.
            Err(_) if is_last && number > 0 => break,
            Err(reason) => {
                let what = if number == 0 { "not the head of a journal" } else { "not a finished sample" };
                let reason = format!("{what}: {reason}");
                return Err(Error::Journal { path: path.into(), line: number + 1, reason });
            }
        }
    }
    Ok(parsed)
}

fn check(recorded: &Map<String, Value>, run: &str, fingerprint: &Fingerprint) -> Result<()> {
    let differences = fingerprint.differences(recorded);
    if differences.is_empty() { Ok(()) } else { Err(Error::Mismatch { run: run.into(), differences }) }
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
        Entry::new("ceval-law", index, "hash".into(), 5, 0, output)
    }

    fn open(path: &Path) -> Result<(Journal, Entries)> {
        Journal::open(path, "run", &fingerprint("f32"))
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
        assert_eq!(entries[&("ceval-law".to_owned(), 1)].logprobs, [Some(-0.1), None]);
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
            let before = Journal::read(&path, "run", &fingerprint("f32")).unwrap();
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
        std::fs::write(&path, good.replace("{\"journal\":1", "{\"journal\":2")).unwrap();
        let error = open(&path).unwrap_err().to_string();
        assert!(error.contains("journal format 2, this program knows 1"), "{error}");
    }

    #[test]
    fn other_settings_and_second_writers_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let (journal, _) = open(&path).unwrap();
        assert!(matches!(open(&path), Err(Error::Locked { run }) if run == "run"));
        drop(journal);
        let error = Journal::open(&path, "run", &fingerprint("bf16")).unwrap_err().to_string();
        assert!(error.starts_with("run cannot be resumed: dtype was f32, now bf16\n\nhint: "), "{error}");
        assert!(Journal::read(&path, "run", &fingerprint("bf16")).is_err());
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
            unsynced: 0,
            last_sync: now,
            sync_cost: Duration::ZERO,
        };
        let error = journal.append(&entry(0, "a")).unwrap_err().to_string();
        assert!(error.starts_with("cannot write /dev/full: No space left on device"), "{error}");
        assert!(error.ends_with("run again with -r 20260101_000000"), "{error}");
    }
}
