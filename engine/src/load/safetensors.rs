//! Safetensors files: an 8-byte length, a JSON header, the bytes; and models split over several of them.
//!
//! Format: <https://github.com/huggingface/safetensors#format>. The header is checked here rather than by the crate of
//! that name so that every error names its tensor and no sum of offsets from the file can overflow.

use super::map::MappedFile;
use crate::{Error, Result};
use oc_kernels::WeightFormat;
use serde::{
    Deserialize,
    de::{Deserializer, Error as _, MapAccess, Visitor},
};
use std::{
    collections::{BTreeMap, BTreeSet, btree_map},
    fmt,
    ops::Range,
    path::Path,
};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// The format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;

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
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` lists, in `folder`.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a bad header, a missing shard, a tensor that the index lists but the shard lacks, one
    /// that the index does not list, or one that lies in two shards; [`Error::Io`].
    pub fn open(folder: &Path) -> Result<Self> {
        let single = folder.join(SINGLE);
        if single.is_file() {
            let mut shards = Self { files: Vec::new(), tensors: BTreeMap::new() };
            shards.add(&single)?;
            return Ok(shards);
        }
        let index_path = folder.join(INDEX);
        if !index_path.is_file() {
            return Err(Error::Malformed {
                path: folder.to_owned(),
                reason: format!("the folder holds neither {SINGLE} nor {INDEX}"),
            });
        }
        Self::open_index(folder, &index_path)
    }

    fn open_index(folder: &Path, index_path: &Path) -> Result<Self> {
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
            shards.add(&path)?;
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

    fn add(&mut self, path: &Path) -> Result<()> {
        let file = MappedFile::open(path)?;
        for (name, (shape, format, range)) in header(&file)? {
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

type Entry = (Vec<usize>, std::result::Result<WeightFormat, String>, Range<usize>);

/// Reads and checks the header of one file.
fn header(file: &MappedFile) -> Result<BTreeMap<String, Entry>> {
    let prefix = file.get(..8).ok_or_else(|| file.malformed(format!("cut off: only {} bytes", file.len())))?;
    let header_len = u64::from_le_bytes(prefix.try_into().expect("eight bytes"));
    if header_len > MAX_HEADER_BYTES {
        return Err(file.malformed(format!("claims a header of {header_len} bytes; at most {MAX_HEADER_BYTES} fit")));
    }
    let data_start = 8 + header_len as usize;
    let text = file.get(8..data_start).ok_or_else(|| {
        file.malformed(format!("cut off: a header of {header_len} bytes in a file of {} bytes", file.len()))
    })?;
    let header: Header =
        serde_json::from_slice(text).map_err(|e| file.malformed(format!("the header is not valid: {e}")))?;
    let data_len = file.len() - data_start;

    let mut entries = BTreeMap::new();
    let mut order = Vec::new();
    for (name, raw) in header.0 {
        let [start, end] = raw.data_offsets;
        if start > end || end > data_len {
            return Err(file.malformed(format!(
                "tensor `{name}` has the data offsets {start}..{end}, but the file holds {data_len} bytes of data"
            )));
        }
        let (format, bits) = dtype(&raw.dtype)
            .ok_or_else(|| file.malformed(format!("tensor `{name}` has the unknown dtype `{}`", raw.dtype)))?;
        let bytes = raw.shape.iter().try_fold(bits, |n, d| n.checked_mul(*d)).map(|bits| bits.div_ceil(8));
        if bytes != Some(end - start) {
            return Err(file.malformed(format!(
                "tensor `{name}` of shape {:?} and dtype {} cannot have {} bytes",
                raw.shape,
                raw.dtype,
                end - start
            )));
        }
        order.push((start, end, name.clone()));
        entries.insert(name, (raw.shape, format, data_start + start..data_start + end));
    }
    order.sort();
    for pair in order.windows(2) {
        if pair[0].1 > pair[1].0 {
            return Err(file.malformed(format!("tensors `{}` and `{}` overlap", pair[0].2, pair[1].2)));
        }
    }
    // The format has no holes: bytes that belong to no tensor mean that the header is not the one of this data.
    let used: usize = order.iter().map(|(start, end, _)| end - start).sum();
    if used != data_len {
        return Err(file.malformed(format!("its tensors have {used} bytes, but {data_len} bytes of data follow")));
    }
    Ok(entries)
}

/// The format and bits per element of a dtype; `None` for an unknown one.
fn dtype(name: &str) -> Option<(std::result::Result<WeightFormat, String>, usize)> {
    Some(match name {
        "F32" => (Ok(WeightFormat::F32), 32),
        "F16" => (Ok(WeightFormat::F16), 16),
        "BF16" => (Ok(WeightFormat::Bf16), 16),
        "F64" | "I64" | "U64" | "C64" => (Err(name.into()), 64),
        "I32" | "U32" => (Err(name.into()), 32),
        "I16" | "U16" => (Err(name.into()), 16),
        "I8" | "U8" | "BOOL" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" => (Err(name.into()), 8),
        _ => return None,
    })
}

#[derive(Deserialize)]
struct RawInfo {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [usize; 2],
}

/// The header's object in file order; a name that appears twice is an error, which serde's own maps would hide.
struct Header(Vec<(String, RawInfo)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut entries: BTreeMap<String, RawInfo> = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<serde::de::IgnoredAny>()?;
                        continue;
                    }
                    match entries.entry(name) {
                        btree_map::Entry::Vacant(entry) => {
                            entry.insert(map.next_value()?);
                        }
                        btree_map::Entry::Occupied(entry) => {
                            return Err(A::Error::custom(format!("tensor `{}` appears twice", entry.key())));
                        }
                    }
                }
                Ok(Header(entries.into_iter().collect()))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
