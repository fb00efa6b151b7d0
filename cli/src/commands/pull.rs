//! `oc-cli pull`: a model from the Hugging Face hub into its cache.

use super::Outcome;
use crate::{
    args::PullArgs,
    diagnostics::{Error, Result, Stdout, Terminal},
    hub::{self, Client, Remote, Settings},
    progress,
};
use oc_eval::names::glob;
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

/// Between the lines that say how far a file is, where no bar can be drawn.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Runs the command.
///
/// # Errors
/// Bad input, what the hub refuses, and what the disk refuses.
pub fn run(args: &PullArgs, terminal: &Terminal) -> Result<Outcome> {
    let settings = Settings::read();
    let name = &args.name;
    if !hub::is_name(name) {
        let hint = "models are called org/name, for example Qwen/Qwen2.5-0.5B-Instruct";
        return Err(Error::input(format!("`{name}` is no name of a model on the hub"), hint));
    }
    hub::check_path(&args.revision)?;
    let Some(cache) = &settings.cache else {
        return Err(Error::input("no place for models is known", "set HF_HUB_CACHE to a folder"));
    };
    let model = hub::folder(cache, name);
    if settings.is_offline {
        return offline(args, &model);
    }
    let client = Client::new(&settings, name);
    let (commit, listed) = client.describe(&args.revision)?;
    listed.iter().try_for_each(|file| hub::check_path(file))?;
    let chosen = choose(args, &listed)?;
    let remotes = chosen.iter().map(|file| client.head(&commit, file)).collect::<Result<Vec<_>>>()?;
    check_space(&model, &remotes)?;
    for (i, remote) in remotes.iter().enumerate() {
        fetch(&client, &model, remote, (i + 1, remotes.len()), terminal)?;
    }
    // Only now, so that nobody takes a part for the whole.
    remotes.iter().try_for_each(|remote| hub::link(&model, &commit, remote))?;
    let snapshot = model.join("snapshots").join(&commit);
    if args.revision != commit {
        let path = model.join("refs").join(&args.revision);
        write_whole(&path, &commit)?;
    }
    let total = progress::size(remotes.iter().map(|remote| remote.size).sum());
    tracing::info!("{name} is complete: {} files, {total}; `--hf-path {name}` finds it", remotes.len());
    Stdout::lock().line(hub::model_in(&snapshot).display())?;
    Ok(Outcome::Complete)
}

/// What is there already, without the network.
fn offline(args: &PullArgs, model: &Path) -> Result<Outcome> {
    let commit = fs::read_to_string(model.join("refs").join(&args.revision)).unwrap_or(args.revision.clone());
    let snapshot = model.join("snapshots").join(commit.trim());
    if !snapshot.is_dir() {
        let message = format!("{} is not in the cache, and HF_HUB_OFFLINE forbids to fetch it", args.name);
        return Err(Error::input(message, "unset HF_HUB_OFFLINE, or copy the model's folder here"));
    }
    tracing::warn!("HF_HUB_OFFLINE is set: the hub was not asked whether there is anything newer");
    Stdout::lock().line(hub::model_in(&snapshot).display())?;
    Ok(Outcome::Complete)
}

/// The files to fetch.
fn choose(args: &PullArgs, listed: &[String]) -> Result<Vec<String>> {
    let is_excluded = |file: &&String| args.exclude.iter().any(|pattern| glob(pattern, file));
    let left: Vec<&String> = listed.iter().filter(|file| !is_excluded(file)).collect();
    let chosen: Vec<String> = if args.include.is_empty() {
        by_default(&left)?
    } else {
        left.iter()
            .filter(|file| args.include.iter().any(|pattern| glob(pattern, file)))
            .map(|f| (*f).clone())
            .collect()
    };
    if chosen.is_empty() {
        let message = format!("no file of {} is wanted", args.name);
        return Err(Error::input(message, format!("--include and --exclude choose among {}", some(&left))));
    }
    Ok(chosen)
}

/// What running a model needs.
fn by_default(files: &[&String]) -> Result<Vec<String>> {
    let matching = |patterns: &[&str]| -> Vec<String> {
        let wanted = files.iter().filter(|file| !file.contains('/'));
        wanted.filter(|file| patterns.iter().any(|pattern| glob(pattern, file))).map(|file| (*file).clone()).collect()
    };
    let formats = [["model.safetensors", "model-*.safetensors"], ["pytorch_model.bin", "pytorch_model-*.bin"]];
    let Some(weights) = formats.iter().map(|patterns| matching(patterns)).find(|files| !files.is_empty()) else {
        let message = "it has neither safetensors nor pytorch_model.bin, so it is not clear what to fetch";
        return Err(Error::input(message, format!("choose with --include among {}", some(files))));
    };
    let index =
        if weights[0].ends_with(".bin") { "pytorch_model.bin.index.json" } else { "model.safetensors.index.json" };
    let mut chosen = matching(&["*.json", "*.jinja", "tokenizer.model", "vocab.txt", "merges.txt"]);
    chosen.retain(|file| !file.ends_with(".index.json") || file == index);
    chosen.extend(weights);
    Ok(chosen)
}

/// Some of the names, for a message.
fn some(files: &[&String]) -> String {
    const SHOWN: usize = 20;
    let mut names: Vec<&str> = files.iter().take(SHOWN).map(|file| file.as_str()).collect();
    let more = format!("{} more", files.len().saturating_sub(SHOWN));
    if files.len() > SHOWN {
        names.push(&more);
    }
    if names.is_empty() { "no files at all".into() } else { names.join(", ") }
}

/// Refuses what does not fit on the disk.
fn check_space(model: &Path, remotes: &[Remote]) -> Result<()> {
    let size = |name: &str| model.join("blobs").join(name).metadata().map_or(0, |metadata| metadata.len());
    let missing = |remote: &Remote| {
        let have = size(&remote.etag).max(size(&format!("{}.incomplete", remote.etag)));
        remote.size.saturating_sub(have)
    };
    let needed: u64 = remotes.iter().map(missing).sum();
    match hub::free_bytes(model) {
        Some(free) if free < needed => {
            let (needed, free) = (progress::size(needed), progress::size(free));
            let message = format!("{needed} are still to be fetched, but only {free} are free in {}", model.display());
            Err(Error::input(message, "make room, or name another place with HF_HUB_CACHE"))
        }
        _ => Ok(()),
    }
}

/// Fetches file `at.0` of `at.1`, showing how far it is.
fn fetch(client: &Client, model: &Path, remote: &Remote, at: (usize, usize), terminal: &Terminal) -> Result<()> {
    let what = format!("{} ({} of {})", remote.name, at.0, at.1);
    let bar = progress::bytes(terminal, &what);
    if let Some(bar) = &bar {
        bar.set_length(remote.size);
    }
    let mut last_line = Instant::now();
    let fetched = hub::fetch(client, model, remote, &mut |present| match &bar {
        Some(bar) => bar.set_position(present),
        None if last_line.elapsed() >= LINE_INTERVAL && present < remote.size => {
            last_line = Instant::now();
            tracing::info!("{what}: {} of {}", progress::size(present), progress::size(remote.size));
        }
        None => {}
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    fetched?;
    tracing::info!("{what}: {}", progress::size(remote.size));
    Ok(())
}

/// Writes a small file so that readers see the old text or the new.
fn write_whole(path: &Path, text: &str) -> Result<()> {
    let failed = |error: std::io::Error| Error::input(format!("cannot write {}: {error}", path.display()), "see above");
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(failed)?;
    let new = folder.join(format!(".{}", std::process::id()));
    fs::write(&new, text).and_then(|()| fs::rename(&new, path)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(files: &[&str], include: &[&str], exclude: &[&str]) -> Result<Vec<String>> {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let (include, exclude) = (owned(include), owned(exclude));
        let args = PullArgs { name: "a/b".into(), revision: "main".into(), include, exclude };
        choose(&args, &owned(files))
    }

    #[test]
    fn the_defaults_are_what_running_a_model_needs() {
        let files = [
            "README.md",
            "config.json",
            "model.safetensors.index.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
            "tokenizer.json",
            "original/params.json",
            "consolidated.safetensors",
            "modeling_x.py",
        ];
        let wanted = [
            "config.json",
            "model.safetensors.index.json",
            "tokenizer.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        ];
        assert_eq!(chosen(&files, &[], &[]).unwrap(), wanted);
        let old = chosen(&files, &[], &["*.safetensors"]).unwrap();
        assert_eq!(old, ["config.json", "pytorch_model.bin.index.json", "tokenizer.json", "pytorch_model.bin"]);
        assert_eq!(chosen(&files, &["*.md", "original/*"], &[]).unwrap(), ["README.md", "original/params.json"]);
        let error = chosen(&["a.gguf", "b.gguf"], &[], &[]).unwrap_err().to_string();
        assert!(error.contains("--include among a.gguf, b.gguf"), "{error}");
        assert!(chosen(&files, &["*.gguf"], &[]).unwrap_err().to_string().contains("no file of a/b is wanted"));
    }
}
