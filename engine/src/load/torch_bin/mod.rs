//! `pytorch_model.bin`: what `torch.save` wrote, without PyTorch and without running what the file asks to run.
//!
//! Since PyTorch 1.6 a zip archive of stored (never compressed) files: `<name>/data.pkl` describes the tensors,
//! `<name>/data/<key>` are their storages. Before, a stream of pickles (magic number, protocol, system, tensors, storage keys)
//! and then the storages, each with its length in front. Both are described by `torch/serialization.py`.

mod machine;
mod state_dict;

use super::{map::MappedFile, shards::Entry};
use crate::Result;
use state_dict::{Stored, Tensor};
use std::{
    collections::{BTreeMap, HashMap},
    io::Cursor,
    ops::Range,
};

/// The first pickle of the old container holds this number.
const LEGACY_MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// The tensors of one file.
///
/// # Errors
/// [`crate::Error::Malformed`], naming the tensor or the global that is refused.
pub(super) fn tensors(file: &MappedFile) -> Result<BTreeMap<String, Entry>> {
    let found = if file.starts_with(b"PK") { zipped(file) } else { legacy(file) };
    let (tensors, storages) = found.map_err(|reason| file.malformed(reason))?;
    let mut entries = BTreeMap::new();
    for (name, tensor) in tensors {
        let entry = entry(&tensor, &storages).map_err(|reason| file.malformed(format!("tensor `{name}`: {reason}")))?;
        entries.insert(name, entry);
    }
    Ok(entries)
}

/// Tensors by name, and where the bytes of each storage lie.
type Found = (Vec<(String, Tensor)>, HashMap<String, Range<usize>>);

fn entry(tensor: &Tensor, storages: &HashMap<String, Range<usize>>) -> Result<Entry, String> {
    let Stored { key, dtype, len } = &tensor.storage;
    let place = storages.get(key).ok_or_else(|| format!("its storage `{key}` is not in the file"))?;
    let size = dtype.bytes;
    if len.checked_mul(size) != Some(place.len()) {
        let (name, found) = (dtype.name, place.len());
        return Err(format!("its storage `{key}` should hold {len} elements of {name}, but has {found} bytes"));
    }
    if !tensor.is_contiguous() {
        return Err(format!("shape {:?} with strides {:?} is not contiguous", tensor.shape, tensor.strides));
    }
    let count = tensor.shape.iter().try_fold(1_usize, |n, d| n.checked_mul(*d));
    let end = count.and_then(|count| tensor.offset.checked_add(count)).filter(|end| end <= len);
    let Some(end) = end else {
        return Err(format!("shape {:?} at offset {} exceeds its storage of {len}", tensor.shape, tensor.offset));
    };
    let range = place.start + tensor.offset * size..place.start + end * size;
    let format = dtype.format.ok_or_else(|| dtype.name.to_owned());
    Ok((tensor.shape.clone(), format, range))
}

fn zipped(file: &MappedFile) -> Result<Found, String> {
    let bad = |e: zip::result::ZipError| format!("not a zip archive: {e}");
    let mut archive = zip::ZipArchive::new(Cursor::new(&file[..])).map_err(bad)?;
    let mut pickle = None;
    let mut storages = HashMap::new();
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(bad)?;
        // The folder inside is named after the file that was saved.
        let full = entry.name().map_err(bad)?;
        let Some((_, name)) = full.split_once('/') else { continue };
        let name = name.to_owned();
        if name != "data.pkl" && name != "byteorder" && !name.starts_with("data/") {
            continue;
        }
        if entry.compression() != zip::CompressionMethod::Stored || entry.encrypted() {
            return Err(format!("`{name}` is compressed; torch.save never does that"));
        }
        let start = entry.data_start().ok_or_else(|| format!("`{name}` has no data"))? as usize;
        let end = usize::try_from(entry.size()).ok().and_then(|size| start.checked_add(size));
        let range = end.filter(|end| *end <= file.len()).map(|end| start..end);
        let range = range.ok_or_else(|| format!("`{name}` is cut off"))?;
        match name.as_str() {
            "data.pkl" => pickle = Some(range),
            "byteorder" if &file[range.clone()] != b"little" => {
                return Err(format!("byte order {:?}", String::from_utf8_lossy(&file[range])));
            }
            _ => {
                let key = name.strip_prefix("data/").unwrap_or_default();
                storages.insert(key.to_owned(), range);
            }
        }
    }
    let pickle = pickle.ok_or("the archive has no data.pkl: it was not written by torch.save")?;
    let (value, _) = machine::run(&file[pickle])?;
    Ok((state_dict::tensors(&value)?, storages))
}

fn legacy(file: &MappedFile) -> Result<Found, String> {
    const WHAT: &str = "neither a zip archive nor a stream of pickles: it was not written by torch.save";
    let mut at = 0;
    let next = |limit: &mut usize| -> Result<machine::Pickle, String> {
        let (value, len) = machine::run(&file[*limit..])?;
        *limit += len;
        Ok(value)
    };
    let magic = next(&mut at).map_err(|e| format!("{WHAT} ({e})"))?;
    if magic.long() != Some(&LEGACY_MAGIC[..]) {
        return Err(WHAT.into());
    }
    let protocol = next(&mut at)?;
    if protocol.int() != Some(1001) {
        return Err("a protocol of torch.save that is not 1001".into());
    }
    let system = next(&mut at)?;
    if system.entry("little_endian").and_then(|value| system.bool_at(value)) == Some(false) {
        return Err("a file of a big-endian machine".into());
    }
    let described = next(&mut at)?;
    let tensors = state_dict::tensors(&described)?;
    let keys = next(&mut at)?;
    let sizes: HashMap<&str, (usize, usize)> =
        tensors.iter().map(|(_, t)| (t.storage.key.as_str(), (t.storage.len, t.storage.dtype.bytes))).collect();
    let mut storages = HashMap::new();
    for key in keys.strings()? {
        let len = file.get(at..at + 8).ok_or("the storages are cut off")?;
        let len = usize::try_from(u64::from_le_bytes(len.try_into().expect("eight bytes"))).unwrap_or(usize::MAX);
        at += 8;
        let (wanted, size) = *sizes.get(key).ok_or_else(|| format!("storage `{key}` belongs to no tensor"))?;
        if len != wanted {
            return Err(format!("storage `{key}` has {len} elements, but is described with {wanted}"));
        }
        let end = len.checked_mul(size).and_then(|bytes| at.checked_add(bytes)).filter(|end| *end <= file.len());
        let end = end.ok_or_else(|| format!("storage `{key}` is cut off"))?;
        storages.insert(key.to_owned(), at..end);
        at = end;
    }
    Ok((tensors, storages))
}
