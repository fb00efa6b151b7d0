//! The Hugging Face hub: its settings in the environment, its cache on disk, and how files get there.
//!
//! The cache has the layout of the `huggingface_hub` library, so that either finds what the other fetched:
//! `models--org--name/` with `blobs/<etag>`, `refs/<revision>` (a commit) and `snapshots/<commit>/<file>` (links to blobs).

mod blob;
mod client;

pub use blob::{fetch, free_bytes, link};
pub use client::{Client, Remote};

use crate::diagnostics::{Error, Result};
use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// What the environment says of the hub.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `HF_ENDPOINT`, without a slash at its end.
    pub endpoint: String,
    /// Where models are kept: `HF_HUB_CACHE`, `hub` in `HF_HOME`, or the usual place.
    pub cache: Option<PathBuf>,
    /// `HF_TOKEN`, or the one that `huggingface-cli login` wrote.
    pub token: Option<String>,
    /// `HF_HUB_OFFLINE`: nothing is fetched.
    pub is_offline: bool,
}

impl Settings {
    /// Of this process.
    pub fn read() -> Self {
        let path = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let text = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let is_set = |name: &str| {
            text(name).is_some_and(|value| ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str()))
        };
        let home = path("HF_HOME")
            .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .or_else(|| path("HOME").map(|home| home.join(".cache/huggingface")));
        let token_file = path("HF_TOKEN_PATH").or_else(|| home.as_ref().map(|home| home.join("token")));
        let saved = || token_file.and_then(|file| fs::read_to_string(file).ok());
        Self {
            endpoint: text("HF_ENDPOINT").unwrap_or("https://huggingface.co".into()).trim_end_matches('/').into(),
            cache: path("HF_HUB_CACHE").or_else(|| home.as_ref().map(|home| home.join("hub"))),
            token: text("HF_TOKEN").or_else(saved).map(|token| token.trim().to_owned()).filter(|t| !t.is_empty()),
            is_offline: is_set("HF_HUB_OFFLINE") || is_set("TRANSFORMERS_OFFLINE"),
        }
    }
}

/// Whether `name` is how models are called on the hub, `org/name`, rather than a path.
pub fn is_name(name: &str) -> bool {
    let parts: Vec<&str> = name.split('/').collect();
    let is_part = |part: &&str| {
        !part.is_empty()
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
            && !part.starts_with(['.', '-'])
            && !part.contains("..")
            && !part.contains("--")
    };
    parts.len() == 2 && parts.iter().all(is_part) && !name.ends_with(".gguf")
}

/// A model's folder in the cache.
pub fn folder(cache: &Path, name: &str) -> PathBuf {
    cache.join(format!("models--{}", name.replace('/', "--")))
}

/// A model in the cache: the folder of its snapshot, or the one `.gguf` file in it.
pub fn find(cache: &Path, name: &str) -> Option<PathBuf> {
    snapshot(&folder(cache, name)).map(|snapshot| model_in(&snapshot))
}

/// The snapshot of a model's folder: the one that `main` names, else the only one.
pub fn snapshot(folder: &Path) -> Option<PathBuf> {
    let snapshots = folder.join("snapshots");
    if let Ok(revision) = fs::read_to_string(folder.join("refs/main")) {
        let named = snapshots.join(revision.trim());
        if named.is_dir() {
            return Some(named);
        }
    }
    let mut all = fs::read_dir(snapshots).ok()?.flatten().map(|entry| entry.path());
    all.next().filter(|_| all.next().is_none())
}

/// What of a snapshot to open: the folder, or the one `.gguf` file where it is nothing else.
pub fn model_in(snapshot: &Path) -> PathBuf {
    if snapshot.join("config.json").exists() {
        return snapshot.to_owned();
    }
    let entries = fs::read_dir(snapshot).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut gguf = entries.filter(|path| path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")));
    match (gguf.next(), gguf.next()) {
        (Some(file), None) => file,
        _ => snapshot.to_owned(),
    }
}

/// Refuses a name that the hub gave if it would lead out of a folder.
///
/// # Errors
/// Such a name.
pub fn check_path(name: &str) -> Result<()> {
    let is_plain = |part: &str| {
        !matches!(part, "" | "." | "..") && !part.contains(['\\', '\0', ':']) && !part.chars().any(char::is_control)
    };
    if name.split('/').all(is_plain) {
        return Ok(());
    }
    let message = format!("the hub names a file {name:?}, which would lie outside the model's folder");
    Err(Error::input(message, "do not use this model; nothing was written for it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths_are_told_apart() {
        for name in ["internlm/internlm2-7b", "a/b_c.d-e"] {
            assert!(is_name(name), "{name}");
        }
        for path in ["model", "./a/b", "a/b/c", "/a/b", "a/..", "../b", "a/m.gguf", "a/b--c", "a/", "~/b", "a b/c"] {
            assert!(!is_name(path), "{path}");
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in ["config.json", "a/b.json", "..a/b..c"] {
            check_path(name).unwrap();
        }
        for name in ["", "../x", "/etc/passwd", "a/../../x", "a//b", "a\\..\\b", "c:x", "a/./b", "a\nb"] {
            assert!(check_path(name).is_err(), "{name}");
        }
    }
}
