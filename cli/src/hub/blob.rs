//! One file from the hub into the cache: resumed, checked, and visible only when it is whole.

use super::client::{Client, Failure, Remote, passing};
use crate::diagnostics::{Error, Result};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read, Write},
    path::Path,
};

/// A checksum in the making, of the kind that an ETag is.
enum Checksum {
    Sha256(Sha256),
    /// Of Git's blob: a header with the length comes first.
    Git(Sha1),
    /// The tag says nothing of the contents.
    None,
}

impl Checksum {
    fn new(remote: &Remote) -> Self {
        let is_hex = remote.etag.bytes().all(|b| b.is_ascii_hexdigit());
        match remote.etag.len() {
            64 if is_hex => Self::Sha256(Sha256::new()),
            40 if is_hex => Self::Git(Sha1::new_with_prefix(format!("blob {}\0", remote.size))),
            _ => Self::None,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Git(hash) => hash.update(bytes),
            Self::None => {}
        }
    }

    /// In hexadecimal digits.
    fn finish(self) -> Option<String> {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Sha256(hash) => Some(hex(&hash.finalize())),
            Self::Git(hash) => Some(hex(&hash.finalize())),
            Self::None => None,
        }
    }
}

/// Brings the blob of `remote` into `model`, a model's folder in the cache. `on_bytes(present)` counts the bytes that are
/// there.
///
/// # Errors
/// What the hub refuses, a wrong checksum, and what the disk refuses.
pub fn fetch(client: &Client, model: &Path, remote: &Remote, on_bytes: &mut dyn FnMut(u64)) -> Result<()> {
    let blob = model.join("blobs").join(&remote.etag);
    if !is_whole(&blob, remote) {
        create_dir(&model.join("blobs"))?;
        let _lock = lock(model, remote)?;
        // Whoever held the lock may have fetched it.
        if !is_whole(&blob, remote) {
            download(client, &blob, remote, on_bytes)?;
        }
    }
    on_bytes(remote.size);
    Ok(())
}

fn is_whole(blob: &Path, remote: &Remote) -> bool {
    blob.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() == remote.size)
}

/// The lock that `huggingface_hub` takes too.
fn lock(model: &Path, remote: &Remote) -> Result<File> {
    let (cache, name) = (model.parent().unwrap_or(model), model.file_name().unwrap_or_default());
    let folder = cache.join(".locks").join(name);
    create_dir(&folder)?;
    let path = folder.join(format!("{}.lock", remote.etag));
    let file = File::create(&path).map_err(|error| disk(&path, &error))?;
    if file.try_lock().is_err() {
        tracing::info!("waiting for another process that fetches {}", remote.name);
        file.lock().map_err(|error| disk(&path, &error))?;
    }
    Ok(file)
}

fn download(client: &Client, blob: &Path, remote: &Remote, on_bytes: &mut dyn FnMut(u64)) -> Result<()> {
    let mut name = blob.file_name().unwrap_or_default().to_owned();
    name.push(".incomplete");
    let path = blob.with_file_name(name);
    let failed = |error: io::Error| disk(&path, &error);
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path).map_err(failed)?;
    let mut checksum = Checksum::new(remote);
    let mut have = read_what_is_there(&mut file, &mut checksum).map_err(failed)?;
    let mut attempts = 0;
    // From the first byte, when what is there is of no use.
    let restart = |file: &File, checksum: &mut Checksum, have: &mut u64| -> Result<()> {
        *checksum = Checksum::new(remote);
        *have = 0;
        file.set_len(0).map_err(failed)
    };
    if have > remote.size {
        restart(&file, &mut checksum, &mut have)?;
    }
    while have < remote.size {
        let before = have;
        let failure = match client.open(remote, have) {
            Ok((body, is_partial)) => {
                if !is_partial && have > 0 {
                    restart(&file, &mut checksum, &mut have)?;
                }
                let mut sink = |bytes: &[u8]| {
                    file.write_all(bytes).map_err(failed)?;
                    checksum.update(bytes);
                    have += bytes.len() as u64;
                    on_bytes(have);
                    if have > remote.size { Err(wrong(remote, "it sends more bytes than it said")) } else { Ok(()) }
                };
                match copy(body.into_reader(), &mut sink) {
                    Ok(()) if have == remote.size => break,
                    Ok(()) => Failure::Passing("the connection was cut".into(), None),
                    Err(failure) => failure,
                }
            }
            Err(failure) => failure,
        };
        match failure {
            Failure::Final(error) => {
                if have > remote.size {
                    let _ = fs::remove_file(&path);
                }
                return Err(error);
            }
            Failure::Passing(reason, pause) => {
                // A connection that brought something is no failed attempt.
                attempts = if have > before { 1 } else { attempts + 1 };
                client.pause(&remote.url, &reason, attempts, pause)?;
            }
        }
    }
    if let Some(found) = checksum.finish().filter(|found| *found != remote.etag.to_lowercase()) {
        let _ = fs::remove_file(&path);
        return Err(wrong(remote, &format!("what came has the checksum {found}, not {}", remote.etag)));
    }
    file.sync_all().map_err(failed)?;
    fs::rename(&path, blob).map_err(failed)
}

/// The bytes of an earlier attempt: how many, and their checksum.
fn read_what_is_there(file: &mut File, checksum: &mut Checksum) -> io::Result<u64> {
    let mut buffer = vec![0; 1 << 20];
    let mut have = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(have),
            n => {
                checksum.update(&buffer[..n]);
                have += n as u64;
            }
        }
    }
}

fn copy(mut body: impl Read, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<(), Failure> {
    let mut buffer = vec![0; 1 << 18];
    loop {
        match body.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => sink(&buffer[..n]).map_err(Failure::Final)?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(passing(&error.into())),
        }
    }
}

/// Links a blob into the snapshot `commit`, relatively as `huggingface_hub` does.
///
/// # Errors
/// What the disk refuses.
pub fn link(model: &Path, commit: &str, remote: &Remote) -> Result<()> {
    let path = model.join("snapshots").join(commit).join(&remote.name);
    let folder = path.parent().unwrap_or(model);
    create_dir(folder)?;
    let up = "../".repeat(2 + remote.name.matches('/').count());
    let target = format!("{up}blobs/{}", remote.etag);
    if fs::read_link(&path).is_ok_and(|found| found == Path::new(&target)) {
        return Ok(());
    }
    let failed = |error: io::Error| disk(&path, &error);
    let new = folder.join(format!(".{}.{}", remote.etag, std::process::id()));
    #[cfg(unix)]
    std::os::unix::fs::symlink(&target, &new).map_err(failed)?;
    #[cfg(not(unix))]
    fs::copy(model.join("blobs").join(&remote.etag), &new).map(drop).map_err(failed)?;
    fs::rename(&new, &path).map_err(failed)
}

fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|error| disk(path, &error))
}

fn wrong(remote: &Remote, what: &str) -> Error {
    Error::input(format!("{}: {what}", remote.url), "it was thrown away; try again, and mistrust the network")
}

/// An error of the disk.
pub fn disk(path: &Path, error: &io::Error) -> Error {
    let hint = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "the disk is full: HF_HUB_CACHE names another place",
        _ => "HF_HUB_CACHE names another place",
    };
    Error::input(format!("cannot write {}: {error}", path.display()), hint)
}

/// Bytes that can still be written below `path`; `None` where the system does not say.
pub fn free_bytes(path: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let there = path.ancestors().find(|path| path.exists())?;
        let there = if there.as_os_str().is_empty() { Path::new(".") } else { there };
        let disk = rustix::fs::statvfs(there).ok()?;
        disk.f_bavail.checked_mul(disk.f_frsize)
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}
