//! The tensors of a model folder, in one file or split over several.

use super::{map::MappedFile, safetensors, torch_bin};
use crate::{Error, Result};
use oc_kernels::WeightFormat;
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::Path,
};

/// A format of weight files.
struct Format {
    /// A model in one file.
    single: &'static str,
    /// The list of the shards of a model in several.
    index: &'static str,
    /// What one file holds.
    tensors: fn(&MappedFile) -> Result<BTreeMap<String, Entry>>,
}

/// The formats, the preferred one first.
const FORMATS: [Format; 2] = [
    Format { single: "model.safetensors", index: "model.safetensors.index.json", tensors: safetensors::tensors },
    Format { single: "pytorch_model.bin", index: "pytorch_model.bin.index.json", tensors: torch_bin::tensors },
];

/// Shape, format (`Err` with the type's name for one that is not read) and place in the file of a tensor.
pub(super) type Entry = (Vec<usize>, std::result::Result<WeightFormat, String>, Range<usize>);

/// The tensors of a model folder.
#[derive(Debug)]
pub(crate) struct Shards {
    files: Vec<MappedFile>,
    tensors: BTreeMap<String, TensorInfo>,
}

/// Where a tensor lies and what it holds.
#[derive(Clone, Debug)]
pub(crate) struct TensorInfo {
    file: usize,
    pub shape: Vec<usize>,
    /// `Err` with the type's name for one that this engine does not read; such a tensor may exist but not be used.
    pub format: std::result::Result<WeightFormat, String>,
    range: Range<usize>,
}

impl Shards {
    /// Opens the weights in `folder`: the first that exists of `model.safetensors`, the shards that
    /// `model.safetensors.index.json` lists, and the same of `pytorch_model.bin`.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a bad header, a missing shard, a tensor that the index lists but the shard lacks, one
    /// that the index does not list, or one that lies in two shards; [`Error::Io`].
    pub fn open(folder: &Path) -> Result<Self> {
        for format in &FORMATS {
            let (single, index) = (folder.join(format.single), folder.join(format.index));
            if single.is_file() {
                let mut shards = Self { files: Vec::new(), tensors: BTreeMap::new() };
                shards.add(&single, format)?;
                return Ok(shards);
            }
            if index.is_file() {
                return Self::open_index(folder, &index, format);
            }
        }
        let names: Vec<&str> = FORMATS.iter().flat_map(|format| [format.single, format.index]).collect();
        Err(Error::Malformed {
            path: folder.to_owned(),
            reason: format!("the folder holds no weights: none of {}", names.join(", ")),
        })
    }

    fn open_index(folder: &Path, index_path: &Path, format: &Format) -> Result<Self> {
        let malformed = |reason: String| Error::Malformed { path: index_path.to_owned(), reason };
        #[derive(Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let text = super::read_text(index_path)?;
        let index: Index = serde_json::from_str(&text).map_err(|e| malformed(e.to_string()))?;
        let names: BTreeSet<&String> = index.weight_map.values().collect();
        let mut shards = Self { files: Vec::new(), tensors: BTreeMap::new() };
        for name in &names {
            let plain = Path::new(name.as_str()).file_name().is_some_and(|f| f == name.as_str());
            if !plain {
                return Err(malformed(format!("shard `{name}` is not a file name")));
            }
            let path = folder.join(name);
            if !path.is_file() {
                return Err(malformed(format!("shard `{name}` is missing from {}", folder.display())));
            }
            shards.add(&path, format)?;
        }
        for (tensor, file) in &index.weight_map {
            let found = shards.tensors.get(tensor).map(|info| shards.files[info.file].path());
            match found.and_then(Path::file_name) {
                Some(found) if found == file.as_str() => {}
                Some(found) => {
                    return Err(malformed(format!(
                        "tensor `{tensor}` should be in shard `{file}`, but lies in `{}`",
                        found.display()
                    )));
                }
                None => return Err(malformed(format!("tensor `{tensor}` is not in its shard `{file}`"))),
            }
        }
        if let Some((tensor, info)) = shards.tensors.iter().find(|(name, _)| !index.weight_map.contains_key(*name)) {
            let file = shards.files[info.file].path().display();
            return Err(malformed(format!("tensor `{tensor}` of {file} is not listed")));
        }
        Ok(shards)
    }

    fn add(&mut self, path: &Path, format: &Format) -> Result<()> {
        let file = MappedFile::open(path)?;
        for (name, (shape, format, range)) in (format.tensors)(&file)? {
            if let Some(first) = self.tensors.get(&name) {
                let first = self.files[first.file].path().display();
                return Err(file.malformed(format!("tensor `{name}` is also in {first}")));
            }
            self.tensors.insert(name, TensorInfo { file: self.files.len(), shape, format, range });
        }
        self.files.push(file);
        Ok(())
    }

    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    pub fn maps(&self) -> &[MappedFile] {
        &self.files
    }

    /// The bytes of `info`, which must come from this folder.
    pub fn bytes(&self, info: &TensorInfo) -> &[u8] {
        &self.files[info.file][info.range.clone()]
    }
}
