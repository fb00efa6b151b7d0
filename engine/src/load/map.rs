//! Memory-mapped files.

use crate::{Error, Result};
use memmap2::Mmap;
use std::{
    fs::File,
    ops::Deref,
    path::{Path, PathBuf},
};

/// A file mapped read-only.
#[derive(Debug)]
pub(crate) struct MappedFile {
    path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    /// Maps `path`.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be opened or mapped, or is not a regular file.
    pub fn open(path: &Path) -> Result<Self> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        if !file.metadata().map_err(io)?.is_file() {
            return Err(io(std::io::Error::other("not a regular file")));
        }
        // SAFETY: the map is read-only and private to this struct. As for every program that maps its weights, the
        // file must not be changed while it is in use; nothing here can prevent that.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(Self { path: path.to_owned(), map })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the memory behind `bytes`, if they are part of this file, back to the operating system; reading them again
    /// reads the file again.
    pub fn release(&self, bytes: &[u8]) {
        let (start, at) = (self.map.as_ptr() as usize, bytes.as_ptr() as usize);
        if at < start || at + bytes.len() > start + self.map.len() {
            return;
        }
        #[cfg(unix)]
        // SAFETY: the map is a read-only view of a file: pages that are dropped are read from the file again, so no
        // byte that a reference can see changes. A refusal changes nothing and is of no interest.
        unsafe {
            let _ = self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, at - start, bytes.len());
        }
    }

    /// An [`Error::Malformed`] of this file.
    pub fn malformed(&self, reason: impl Into<String>) -> Error {
        Error::Malformed { path: self.path.clone(), reason: reason.into() }
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}
