//! GGUF files, versions 2 and 3: a header of typed metadata, a table of tensors, and their bytes.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Nothing in the file is believed: every count,
//! length and offset is compared with the size of the file before it is used, and nothing is allocated from a claim.

use super::map::MappedFile;
use crate::{Error, Result};
use oc_kernels::WeightFormat;
use std::{collections::BTreeMap, ops::Range, path::Path};

/// The first four bytes.
pub(crate) const MAGIC: &[u8; 4] = b"GGUF";
const DEFAULT_ALIGNMENT: usize = 32;
/// ggml's own limit.
const MAX_DIMS: usize = 4;

/// A checked GGUF file.
#[derive(Debug)]
pub(crate) struct Gguf {
    file: MappedFile,
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, TensorInfo>,
}

/// Where a tensor lies and what it holds.
#[derive(Clone, Debug)]
pub(crate) struct TensorInfo {
    /// Row-major, as in PyTorch (the file has the reverse order).
    pub shape: Vec<usize>,
    pub format: WeightFormat,
    /// Bytes of the file.
    pub range: Range<usize>,
}

/// A metadata value. Strings and arrays stay in the file.
#[derive(Clone, Debug)]
enum Value {
    Int(i128),
    Float(f64),
    Bool(bool),
    String(Range<usize>),
    Array { kind: Kind, len: usize, range: Range<usize> },
}

/// The types of metadata values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    fn from_tag(tag: u32) -> Option<Self> {
        use Kind::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64].get(tag as usize).copied()
    }

    /// Bytes of one element, or the fewest it can take.
    const fn min_bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::String => 8,
            Self::Array => 12,
        }
    }
}

/// The format of a ggml type number, or the name of a type that this engine does not read.
fn weight_format(tag: u32) -> Result<WeightFormat, String> {
    Ok(match tag {
        0 => WeightFormat::F32,
        1 => WeightFormat::F16,
        2 => WeightFormat::Q4_0,
        3 => WeightFormat::Q4_1,
        6 => WeightFormat::Q5_0,
        7 => WeightFormat::Q5_1,
        8 => WeightFormat::Q8_0,
        12 => WeightFormat::Q4K,
        13 => WeightFormat::Q5K,
        14 => WeightFormat::Q6K,
        30 => WeightFormat::Bf16,
        _ => {
            const NAMES: [(u32, &str); 19] = [
                (9, "Q8_1"),
                (10, "Q2_K"),
                (11, "Q3_K"),
                (15, "Q8_K"),
                (16, "IQ2_XXS"),
                (17, "IQ2_XS"),
                (18, "IQ3_XXS"),
                (19, "IQ1_S"),
                (20, "IQ4_NL"),
                (21, "IQ3_S"),
                (22, "IQ2_S"),
                (23, "IQ4_XS"),
                (24, "I8"),
                (25, "I16"),
                (26, "I32"),
                (27, "I64"),
                (28, "F64"),
                (29, "IQ1_M"),
                (39, "MXFP4"),
            ];
            let name = NAMES.iter().find(|(n, _)| *n == tag).map(|(_, name)| format!("{name} (ggml type {tag})"));
            return Err(name.unwrap_or_else(|| format!("ggml type {tag}")));
        }
    })
}

impl Gguf {
    /// Maps and checks `path`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] for anything inconsistent or cut off; [`Error::Unsupported`] for other
    /// versions, big-endian files, split files and tensor types outside [`WeightFormat`].
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(path, true)
    }

    /// The metadata of a file whose tensors may be cut off or damaged; none of them is listed.
    ///
    /// # Errors
    /// As for [`open`](Self::open), of what stands before the tensors.
    pub fn open_metadata(path: &Path) -> Result<Self> {
        Self::read(path, false)
    }

    fn read(path: &Path, with_tensors: bool) -> Result<Self> {
        let file = MappedFile::open(path)?;
        let mut cursor = Cursor { file: &file, pos: 0 };
        if cursor.take(4, "the magic number")? != MAGIC {
            return Err(file.malformed("not a GGUF file: it does not begin with `GGUF`"));
        }
        let version = cursor.u32("the version")?;
        if !matches!(version, 2 | 3) {
            let big_endian = matches!(version.swap_bytes(), 1..=3);
            return Err(Error::Unsupported {
                what: if big_endian {
                    format!("{}: a big-endian GGUF file", path.display())
                } else {
                    format!("{}: GGUF version {version}", path.display())
                },
                hint: "use a little-endian GGUF file of version 2 or 3".into(),
            });
        }
        // The smallest tensor entry is an empty name, no dimensions, type and offset; the smallest metadata entry an
        // empty key, a type and one byte.
        let num_tensors = cursor.count(8 + 4 + 4 + 8, "tensors")?;
        let num_entries = cursor.count(8 + 4 + 1, "metadata entries")?;
        let metadata = cursor.metadata(num_entries)?;
        let mut tensors = Default::default();
        if with_tensors {
            let alignment = alignment(&file, &metadata)?;
            tensors = cursor.tensors(num_tensors, alignment)?;
            check_overlap(&file, &tensors)?;
        }
        let gguf = Self { file, metadata, tensors };
        if gguf.usize_or("split.count", 1)? > 1 {
            return Err(Error::Unsupported {
                what: format!("{}: a GGUF model split over several files", path.display()),
                hint: "merge the parts with `llama-gguf-split --merge`".into(),
            });
        }
        Ok(gguf)
    }

    pub fn path(&self) -> &Path {
        self.file.path()
    }

    pub fn map(&self) -> &MappedFile {
        &self.file
    }

    pub fn malformed(&self, reason: impl Into<String>) -> Error {
        self.file.malformed(reason)
    }

    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// The bytes of `info`, which must come from this file.
    pub fn bytes(&self, info: &TensorInfo) -> &[u8] {
        &self.file[info.range.clone()]
    }

    fn wrong_type(&self, key: &str, wanted: &str) -> Error {
        let found = match &self.metadata[key] {
            Value::Int(v) => format!("the integer {v}"),
            Value::Float(v) => format!("the number {v}"),
            Value::Bool(v) => format!("{v}"),
            Value::String(_) => "a string".into(),
            Value::Array { kind, len, .. } => format!("an array of {len} {kind:?}"),
        };
        self.malformed(format!("metadata `{key}` is {found}, but must be {wanted}"))
    }

    /// A string, or `None` if the key is absent.
    pub fn str(&self, key: &str) -> Result<Option<&str>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::String(range)) => self.text(range, key).map(Some),
            Some(_) => Err(self.wrong_type(key, "a string")),
        }
    }

    /// A boolean, or `None` if the key is absent.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Bool(v)) => Ok(Some(*v)),
            Some(_) => Err(self.wrong_type(key, "a boolean")),
        }
    }

    /// A number, or `None` if the key is absent.
    pub fn f64(&self, key: &str) -> Result<Option<f64>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Float(v)) if v.is_finite() => Ok(Some(*v)),
            Some(Value::Int(v)) => Ok(Some(*v as f64)),
            Some(_) => Err(self.wrong_type(key, "a finite number")),
        }
    }

    /// A number between 0 and `u32::MAX`, or `None` if the key is absent.
    pub fn u32(&self, key: &str) -> Result<Option<u32>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Int(v)) if u32::try_from(*v).is_ok() => Ok(Some(*v as u32)),
            Some(_) => Err(self.wrong_type(key, "an integer between 0 and 2^32 - 1")),
        }
    }

    /// As [`Self::u32`], for sizes.
    pub fn usize(&self, key: &str) -> Result<Option<usize>> {
        Ok(self.u32(key)?.map(|v| v as usize))
    }

    /// As [`Self::usize`], with a default.
    pub fn usize_or(&self, key: &str, default: usize) -> Result<usize> {
        Ok(self.usize(key)?.unwrap_or(default))
    }

    /// A size that must be there.
    pub fn required_usize(&self, key: &str) -> Result<usize> {
        self.usize(key)?.ok_or_else(|| self.missing(key))
    }

    /// The error for an absent key.
    pub fn missing(&self, key: &str) -> Error {
        self.malformed(format!("metadata `{key}` is missing"))
    }

    /// An array of strings, or `None` if the key is absent.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<&str>>> {
        let (len, range) = match self.metadata.get(key) {
            None => return Ok(None),
            Some(Value::Array { kind: Kind::String, len, range }) => (*len, range),
            Some(_) => return Err(self.wrong_type(key, "an array of strings")),
        };
        let mut cursor = Cursor { file: &self.file, pos: range.start };
        let mut strings = Vec::with_capacity(len); // checked against the file's size when the file was opened
        for _ in 0..len {
            let range = cursor.string_range(key)?;
            strings.push(self.text(&range, key)?);
        }
        Ok(Some(strings))
    }

    /// A metadata array of numbers.
    ///
    /// # Errors
    /// [`Error::Malformed`] for another type.
    pub fn floats(&self, key: &str) -> Result<Option<Vec<f32>>> {
        let (kind, len, range) = match self.metadata.get(key) {
            None => return Ok(None),
            Some(Value::Array { kind, len, range }) => (*kind, *len, range),
            Some(_) => return Err(self.wrong_type(key, "an array of numbers")),
        };
        let mut cursor = Cursor { file: &self.file, pos: range.start };
        (0..len)
            .map(|_| match cursor.scalar(kind, key)? {
                Value::Float(v) => Ok(v as f32),
                _ => Err(self.wrong_type(key, "an array of numbers")),
            })
            .collect::<Result<_>>()
            .map(Some)
    }

    /// An array of integers, or `None` if the key is absent.
    pub fn ints(&self, key: &str) -> Result<Option<Vec<i64>>> {
        let (kind, len, range) = match self.metadata.get(key) {
            None => return Ok(None),
            Some(Value::Array { kind, len, range }) => (*kind, *len, range),
            Some(_) => return Err(self.wrong_type(key, "an array of integers")),
        };
        let mut cursor = Cursor { file: &self.file, pos: range.start };
        (0..len)
            .map(|_| match cursor.scalar(kind, key)? {
                Value::Int(v) => i64::try_from(v).map_err(|_| self.wrong_type(key, "an array of 64-bit integers")),
                _ => Err(self.wrong_type(key, "an array of integers")),
            })
            .collect::<Result<_>>()
            .map(Some)
    }

    fn text(&self, range: &Range<usize>, key: &str) -> Result<&str> {
        std::str::from_utf8(&self.file[range.clone()])
            .map_err(|_| self.malformed(format!("metadata `{key}` holds text that is not UTF-8")))
    }
}

/// A position in the file that never passes its end.
struct Cursor<'a> {
    file: &'a MappedFile,
    pos: usize,
}

impl<'a> Cursor<'a> {
    fn remaining(&self) -> usize {
        self.file.len() - self.pos
    }

    fn take(&mut self, len: usize, what: &str) -> Result<&'a [u8]> {
        if len > self.remaining() {
            return Err(self.file.malformed(format!(
                "cut off: {what} at byte {} needs {len} bytes, but the file ends at {}",
                self.pos,
                self.file.len()
            )));
        }
        let bytes = &self.file[self.pos..self.pos + len];
        self.pos += len;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N, what)?);
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A number of things of at least `min_bytes` each, which the rest of the file must be able to hold.
    fn count(&mut self, min_bytes: usize, what: &str) -> Result<usize> {
        let at = self.pos;
        let claimed = self.u64(what)?;
        usize::try_from(claimed).ok().filter(|n| *n <= self.remaining() / min_bytes).ok_or_else(|| {
            self.file.malformed(format!(
                "byte {at} claims {claimed} {what}, more than the remaining {} bytes can hold",
                self.remaining()
            ))
        })
    }

    fn string_range(&mut self, what: &str) -> Result<Range<usize>> {
        let len = self.count(1, &format!("bytes in a string of {what}"))?;
        self.pos += len;
        Ok(self.pos - len..self.pos)
    }

    fn name(&mut self, what: &str) -> Result<String> {
        let range = self.string_range(what)?;
        let at = range.start;
        let text = std::str::from_utf8(&self.file[range]);
        Ok(text.map_err(|_| self.file.malformed(format!("{what} at byte {at} is not UTF-8")))?.to_owned())
    }

    fn kind(&mut self, key: &str) -> Result<Kind> {
        let tag = self.u32(key)?;
        Kind::from_tag(tag)
            .ok_or_else(|| self.file.malformed(format!("metadata `{key}` has the unknown value type {tag}")))
    }

    fn scalar(&mut self, kind: Kind, key: &str) -> Result<Value> {
        Ok(match kind {
            Kind::U8 => Value::Int(u8::from_le_bytes(self.array(key)?).into()),
            Kind::I8 => Value::Int(i8::from_le_bytes(self.array(key)?).into()),
            Kind::U16 => Value::Int(u16::from_le_bytes(self.array(key)?).into()),
            Kind::I16 => Value::Int(i16::from_le_bytes(self.array(key)?).into()),
            Kind::U32 => Value::Int(self.u32(key)?.into()),
            Kind::I32 => Value::Int(i32::from_le_bytes(self.array(key)?).into()),
            Kind::U64 => Value::Int(self.u64(key)?.into()),
            Kind::I64 => Value::Int(i64::from_le_bytes(self.array(key)?).into()),
            Kind::F32 => Value::Float(f32::from_le_bytes(self.array(key)?).into()),
            Kind::F64 => Value::Float(f64::from_le_bytes(self.array(key)?)),
            Kind::Bool => match self.array::<1>(key)?[0] {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                v => return Err(self.file.malformed(format!("metadata `{key}` is the boolean {v}, not 0 or 1"))),
            },
            Kind::String => Value::String(self.string_range(key)?),
            Kind::Array => {
                return Err(self.file.malformed(format!("metadata `{key}` is an array of arrays")));
            }
        })
    }

    fn value(&mut self, key: &str) -> Result<Value> {
        let kind = self.kind(key)?;
        if kind != Kind::Array {
            return self.scalar(kind, key);
        }
        let kind = self.kind(key)?;
        let len = self.count(kind.min_bytes(), &format!("elements of `{key}`"))?;
        let start = self.pos;
        for _ in 0..len {
            self.scalar(kind, key)?;
        }
        Ok(Value::Array { kind, len, range: start..self.pos })
    }

    fn metadata(&mut self, count: usize) -> Result<BTreeMap<String, Value>> {
        let mut metadata = BTreeMap::new();
        for _ in 0..count {
            let key = self.name("a metadata key")?;
            let value = self.value(&key)?;
            if metadata.contains_key(&key) {
                return Err(self.file.malformed(format!("metadata `{key}` appears twice")));
            }
            metadata.insert(key, value);
        }
        Ok(metadata)
    }

    /// Reads the tensor table, which ends where the data begins, rounded up to `alignment`.
    fn tensors(&mut self, count: usize, alignment: usize) -> Result<BTreeMap<String, TensorInfo>> {
        struct Entry {
            name: String,
            shape: Vec<usize>,
            format: WeightFormat,
            offset: u64,
            bytes: usize,
        }
        let mut entries = Vec::new();
        for _ in 0..count {
            let name = self.name("a tensor name")?;
            let bad = |reason: String| self.file.malformed(format!("tensor `{name}` {reason}"));
            let num_dims = u32::from_le_bytes(self.array(&name)?) as usize;
            if num_dims == 0 || num_dims > MAX_DIMS {
                return Err(bad(format!("has {num_dims} dimensions; 1 to {MAX_DIMS} are allowed")));
            }
            let mut shape = Vec::with_capacity(num_dims);
            for _ in 0..num_dims {
                let dim = u64::from_le_bytes(self.array(&name)?);
                shape.push(
                    usize::try_from(dim)
                        .ok()
                        .filter(|d| *d > 0)
                        .ok_or_else(|| self.file.malformed(format!("tensor `{name}` has a dimension of {dim}")))?,
                );
            }
            shape.reverse();
            let tag = u32::from_le_bytes(self.array(&name)?);
            let offset = u64::from_le_bytes(self.array(&name)?);
            let bad = |reason: String| self.file.malformed(format!("tensor `{name}` {reason}"));
            let format = weight_format(tag).map_err(|kind| Error::Unsupported {
                what: format!("{}: tensor `{name}` of type {kind}", self.file.path().display()),
                hint: format!("the types read are {}", WeightFormat::ALL.map(WeightFormat::name).join(", ")),
            })?;
            let (cols, rows) = shape.split_last().expect("at least one dimension");
            let row_bytes = format.row_bytes(*cols).ok_or_else(|| {
                bad(format!("has rows of {cols}, not a multiple of {}'s {}", format.name(), format.block_len()))
            })?;
            let bytes = rows.iter().try_fold(row_bytes, |n, d| n.checked_mul(*d));
            let bytes = bytes.ok_or_else(|| bad(format!("has the impossible shape {shape:?}")))?;
            if !offset.is_multiple_of(alignment as u64) {
                return Err(bad(format!("lies at offset {offset}, which is not aligned to {alignment} bytes")));
            }
            entries.push(Entry { name, shape, format, offset, bytes });
        }
        let data_start = self.pos.next_multiple_of(alignment) as u64;
        let mut tensors = BTreeMap::new();
        for Entry { name, shape, format, offset, bytes } in entries {
            let start = data_start.checked_add(offset);
            let end = start.and_then(|s| s.checked_add(bytes as u64)).filter(|e| *e <= self.file.len() as u64);
            let (Some(start), Some(end)) = (start, end) else {
                return Err(self.file.malformed(format!(
                    "cut off: tensor `{name}` needs {bytes} bytes at offset {offset} of the data, \
                     which begins at byte {data_start}, but the file ends at {}",
                    self.file.len()
                )));
            };
            let info = TensorInfo { shape, format, range: start as usize..end as usize };
            if tensors.contains_key(&name) {
                return Err(self.file.malformed(format!("tensor `{name}` appears twice")));
            }
            tensors.insert(name, info);
        }
        Ok(tensors)
    }
}

fn alignment(file: &MappedFile, metadata: &BTreeMap<String, Value>) -> Result<usize> {
    match metadata.get("general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::Int(v)) if (1..=1 << 20).contains(v) && (*v as usize).is_power_of_two() => Ok(*v as usize),
        Some(other) => {
            Err(file.malformed(format!("metadata `general.alignment` is {other:?}; a power of two was expected")))
        }
    }
}

/// Two tensors that share bytes are a sign of corruption.
fn check_overlap(file: &MappedFile, tensors: &BTreeMap<String, TensorInfo>) -> Result<()> {
    let mut order: Vec<_> = tensors.iter().collect();
    order.sort_by_key(|(_, info)| info.range.start);
    for pair in order.windows(2) {
        let [(a, first), (b, second)] = pair else { unreachable!("windows of two") };
        if first.range.end > second.range.start {
            return Err(file.malformed(format!(
                "tensors `{a}` (bytes {:?}) and `{b}` (bytes {:?}) overlap",
                first.range, second.range
            )));
        }
    }
    Ok(())
}

/// Whether `path` names a GGUF file, by its name.
pub(crate) fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
}
