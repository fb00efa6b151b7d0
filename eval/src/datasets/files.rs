//! Where a dataset's files lie: a folder, or an archive as it was downloaded.

use crate::{Error, Result};
use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};
use zip::{ZipArchive, result::ZipError};

/// A larger file in an archive is refused: C-Eval's largest has 300 kB.
const MAX_FILE: u64 = 64 << 20;

/// What to look for.
pub(super) struct Layout {
    /// For messages.
    pub dataset: &'static str,
    /// What OpenCompass's configurations call it in `path=`.
    pub ids: &'static [&'static str],
    /// Folders below the data folder, likeliest first.
    pub folders: &'static [&'static str],
    /// Folders and files of which each of `folders` holds one at least.
    pub holds: &'static [&'static str],
    /// Archives: the beginning of the file's name, and the folder inside that holds the same.
    pub archives: &'static [(&'static str, &'static str)],
    /// In words.
    pub expected: &'static str,
}

/// The files of a dataset.
#[derive(Debug)]
pub(super) enum Files {
    /// The folder that holds the splits.
    Folder(PathBuf),
    /// An archive, and the folder inside with a slash at its end.
    Archive { path: PathBuf, archive: Box<ZipArchive<File>>, folder: String },
}

impl Files {
    /// Looks in `data_dir`: a folder that holds the dataset, the dataset's own folder, or an archive.
    ///
    /// # Errors
    /// [`Error::MissingData`] if nothing is there; [`Error::Read`] for a damaged archive.
    pub fn find(data_dir: &Path, layout: &Layout) -> Result<Self> {
        let missing = |found: String| Error::MissingData {
            dataset: layout.dataset.into(),
            path: data_dir.to_owned(),
            found,
            expected: layout.expected.into(),
        };
        if data_dir.is_file() {
            let known = layout.archives.iter().map(|(_, folder)| *folder);
            return Self::archive(data_dir, known, layout.holds)?
                .ok_or_else(|| missing("an archive without its files".into()));
        }
        if !data_dir.is_dir() {
            return Err(missing("no such file or folder".into()));
        }
        let holds = |folder: &Path| layout.holds.iter().any(|name| folder.join(name).exists());
        if let Some(folder) = layout.folders.iter().map(|folder| data_dir.join(folder)).find(|f| holds(f)) {
            return Ok(Self::Folder(folder));
        }
        let mut names: Vec<String> = fs::read_dir(data_dir)
            .map_err(|source| Error::Read { path: data_dir.to_owned(), source })?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        for (beginning, folder) in layout.archives {
            // The newest, should there be several.
            for name in names.iter().rev().filter(|name| name.starts_with(beginning) && name.ends_with(".zip")) {
                if let Some(files) = Self::archive(&data_dir.join(name), [*folder].into_iter(), layout.holds)? {
                    return Ok(files);
                }
            }
        }
        let shown: Vec<&str> = names.iter().take(8).map(String::as_str).collect();
        Err(missing(match names.len() {
            0 => "the folder is empty".into(),
            n if n > shown.len() => format!("there are {} and {} more", shown.join(", "), n - shown.len()),
            _ => format!("there are {}", shown.join(", ")),
        }))
    }

    /// The archive, if one of `folders` in it holds one of `names`.
    fn archive<'a>(path: &Path, mut folders: impl Iterator<Item = &'a str>, names: &[&str]) -> Result<Option<Self>> {
        let read = |source: io::Error| Error::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(read)?;
        let archive = ZipArchive::new(file).map_err(|e| read(io::Error::other(format!("not a zip archive: {e}"))))?;
        let holds = |folder: &&str| {
            let wanted: Vec<String> = names.iter().map(|name| format!("{folder}{name}")).collect();
            let is_it = |file: &str| {
                wanted.iter().any(|wanted| {
                    file.strip_prefix(wanted.as_str()).is_some_and(|r| r.is_empty() || r.starts_with('/'))
                })
            };
            archive.file_names().flatten().any(|file| is_it(&file))
        };
        let Some(folder) = folders.find(holds) else { return Ok(None) };
        Ok(Some(Self::Archive { path: path.to_owned(), archive: Box::new(archive), folder: folder.to_owned() }))
    }

    /// The name, for messages, and the bytes of `name`, a file of `subject`.
    ///
    /// # Errors
    /// [`Error::MissingSubject`], [`Error::Read`].
    pub fn read(&mut self, name: &str, subject: &str) -> Result<(PathBuf, Vec<u8>)> {
        let missing = |file: &Path| Error::MissingSubject { subject: subject.to_owned(), file: file.to_owned() };
        match self {
            Self::Folder(folder) => {
                let file = folder.join(name);
                match fs::read(&file) {
                    Ok(bytes) => Ok((file, bytes)),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => Err(missing(&file)),
                    Err(source) => Err(Error::Read { path: file, source }),
                }
            }
            Self::Archive { path, archive, folder } => {
                let file = path.join(format!("{folder}{name}"));
                let read = |source: io::Error| Error::Read { path: file.clone(), source };
                let entry = match archive.by_name(&format!("{folder}{name}")) {
                    Ok(entry) => entry,
                    Err(ZipError::FileNotFound) => return Err(missing(&file)),
                    Err(e) => return Err(read(io::Error::other(e.to_string()))),
                };
                let mut bytes = Vec::new();
                // The size in the header may lie, so the bytes are counted as they come.
                entry.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(read)?;
                if bytes.len() as u64 > MAX_FILE {
                    return Err(read(io::Error::other(format!("more than {} MiB unpacked", MAX_FILE >> 20))));
                }
                Ok((file, bytes))
            }
        }
    }
}
