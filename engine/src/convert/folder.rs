//! A folder that appears whole or not at all.

use super::name_of;
use crate::{Error, Result};
use serde_json::Value;
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

/// Held while a folder is made, so that nobody else clears it away.
const LOCK: &str = ".lock";

/// The folder while it is made: a hidden sibling of its place. Dropped before it is committed, it is removed; what a killed
/// process left behind is cleared by the next one.
pub(super) struct Staged {
    path: PathBuf,
    parent: PathBuf,
    output: PathBuf,
    replace: bool,
    committed: bool,
    /// Locked until this is dropped.
    _lock: File,
}

impl Staged {
    /// For the folder `output`, which must not exist, or hold a model if it may be replaced.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::Write`].
    pub fn create(input: &Path, output: &Path, replace: bool) -> Result<Self> {
        let (parent, name) = name_of(output)?;
        if output.symlink_metadata().is_ok() {
            // What else than a model may be there is not ours to remove.
            let is_input = same(input, output);
            if !replace || is_input || !output.join("config.json").is_file() {
                let reason = match (is_input, replace) {
                    (true, _) => "it is the model that shall be converted",
                    (_, true) => "it holds no model, and only one is replaced",
                    (_, false) => "it exists already",
                };
                return Err(Error::Exists { path: output.to_owned(), reason });
            }
        }
        fs::create_dir_all(&parent).map_err(|source| write_error(&parent, source))?;
        let path = parent.join(format!(".{name}.incomplete"));
        let failed = |source| write_error(&path, source);
        fs::create_dir_all(&path).map_err(failed)?;
        let lock = File::create(path.join(LOCK)).map_err(failed)?;
        if lock.try_lock().is_err() {
            return Err(Error::Exists { path, reason: "another process is writing to it" });
        }
        for entry in fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name() != LOCK {
                fs::remove_file(entry.path()).map_err(failed)?;
            }
        }
        Ok(Self { path, parent, output: output.to_owned(), replace, committed: false, _lock: lock })
    }

    /// Where it is for now.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A new file, to be closed by [`Self::finish`].
    pub fn file(&self, name: &str) -> Result<File> {
        let path = self.path.join(name);
        File::create_new(&path).map_err(|source| write_error(&path, source))
    }

    /// An [`Error::Write`] about one of its files.
    pub fn error(&self, name: &str, source: std::io::Error) -> Error {
        write_error(&self.path.join(name), source)
    }

    /// Puts a file on disk.
    pub fn finish(&self, name: &str, file: &File) -> Result<()> {
        file.sync_all().map_err(|source| self.error(name, source))
    }

    /// Writes a small file.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut file = self.file(name)?;
        file.write_all(bytes).map_err(|source| self.error(name, source))?;
        self.finish(name, &file)
    }

    /// Writes a JSON file for people and programs.
    pub fn write_json(&self, name: &str, json: &Value) -> Result<()> {
        self.write(name, format!("{json:#}\n").as_bytes())
    }

    /// Copies a file.
    pub fn copy(&self, from: &Path, name: &str) -> Result<()> {
        let bytes = fs::read(from).map_err(|source| Error::Io { path: from.to_owned(), source })?;
        self.write(name, &bytes)
    }

    /// Puts it in its place.
    ///
    /// # Errors
    /// [`Error::Write`]; the place is then as it was.
    pub fn commit(mut self) -> Result<()> {
        sync(&self.path)?;
        let failed = |source| write_error(&self.output, source);
        if self.replace && self.output.symlink_metadata().is_ok() {
            let replaced = swap(&self.path, &self.output, &self.parent).map_err(failed)?;
            self.committed = true;
            sync(&self.parent)?;
            fs::remove_dir_all(&replaced).map_err(|source| write_error(&replaced, source))?;
        } else {
            fs::rename(&self.path, &self.output).map_err(failed)?;
            self.committed = true;
            sync(&self.parent)?;
        }
        // The lock went along with the folder.
        fs::remove_file(self.output.join(LOCK)).map_err(|source| write_error(&self.output, source))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Puts `new` in the place of `old`; where `old` is now.
fn swap(new: &Path, old: &Path, parent: &Path) -> std::io::Result<PathBuf> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        // Both at once, so that there is always one of them.
        if renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE).is_ok() {
            return Ok(new.to_owned());
        }
    }
    let name = old.file_name().unwrap_or_default().to_string_lossy();
    let aside = parent.join(format!(".{name}.replaced-{}", std::process::id()));
    fs::rename(old, &aside)?;
    fs::rename(new, old).inspect_err(|_| {
        let _ = fs::rename(&aside, old);
    })?;
    Ok(aside)
}

fn same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b || a.starts_with(&b))
}

/// Makes a folder's entries last.
fn sync(folder: &Path) -> Result<()> {
    #[cfg(unix)]
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|source| write_error(folder, source))?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

fn write_error(path: &Path, source: std::io::Error) -> Error {
    Error::Write { path: path.to_owned(), source }
}
