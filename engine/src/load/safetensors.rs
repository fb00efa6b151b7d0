//! Safetensors files: an 8-byte length, a JSON header, the bytes.
//!
//! Format: <https://github.com/huggingface/safetensors#format>. The header is checked here rather than by the crate of
//! that name so that every error names its tensor and no sum of offsets from the file can overflow.

use super::{map::MappedFile, shards::Entry};
use crate::Result;
use oc_kernels::WeightFormat;
use serde::{
    Deserialize,
    de::{Deserializer, Error as _, MapAccess, Visitor},
};
use std::{
    collections::{BTreeMap, btree_map},
    fmt,
};

/// The format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Reads and checks the header of one file.
pub(super) fn tensors(file: &MappedFile) -> Result<BTreeMap<String, Entry>> {
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
