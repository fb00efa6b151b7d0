//! Model files: a GGUF file or a Hugging Face folder, behind one naming scheme (Hugging Face's).

mod config;
mod dummy;
pub(crate) mod fields;
pub(crate) mod gguf;
mod gguf_config;
pub(crate) mod hash;
mod inspect;
mod map;
mod names;
mod safetensors;
mod shards;
mod share;
mod torch_bin;

pub use config::{MlpKind, ModelConfig, Norm, Positions, RopeScaling};
pub(crate) use share::Share;

pub use inspect::{FormatShare, MemoryNeed, ModelCard, TokenizerCard};

use crate::{Error, Result, models::Rows};
use gguf::Gguf;
use half::{bf16, f16};
use oc_kernels::{Heads, WeightFormat, WeightView};
use shards::Shards;
use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// An opened model: its configuration and its memory-mapped tensors.
#[derive(Debug)]
pub struct ModelFiles {
    path: PathBuf,
    config: ModelConfig,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// The file, and the GGUF name of each Hugging Face name.
    Gguf(Gguf, BTreeMap<String, String>),
    /// The shards, and where each LLaMA tensor lies in them.
    Folder(Shards, BTreeMap<String, (String, Rows)>),
    /// No file: the shape of each tensor, whose values are made up.
    Dummy(BTreeMap<String, Vec<usize>>),
}

/// A tensor as it lies in its file, rows in Hugging Face's order.
#[derive(Clone, Debug)]
pub struct Tensor<'a> {
    /// Hugging Face name.
    pub name: String,
    /// Row-major: `[out_features, in_features]` for a matrix, `[n]` for a vector.
    pub shape: Vec<usize>,
    /// How `data` encodes the numbers.
    pub format: WeightFormat,
    /// Borrowed from the memory map unless rows had to be reordered. No alignment assumed.
    pub data: Cow<'a, [u8]>,
}

/// Some of the heads in every group of a fused matrix.
struct FusedPart {
    /// First head of each group that is taken.
    first: usize,
    /// Heads of each group that are taken.
    count: usize,
    /// Heads in a group.
    group: usize,
    /// Rows of a head.
    head_dim: usize,
    /// Rows that are taken in all.
    rows: usize,
    /// Rows of the fused matrix.
    wanted: usize,
}

impl FusedPart {
    /// The bytes of this part, out of all.
    fn of(&self, data: &[u8]) -> Vec<u8> {
        if data.is_empty() {
            return Vec::new();
        }
        let head_bytes = data.len() / self.wanted * self.head_dim;
        let groups = data.chunks_exact(head_bytes * self.group);
        groups.flat_map(|heads| &heads[self.first * head_bytes..][..self.count * head_bytes]).copied().collect()
    }
}

impl ModelFiles {
    /// Opens a `.gguf` file, or a folder with `config.json` and safetensors or `pytorch_model.bin`. Only headers are read.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Malformed`], [`Error::MissingTensor`] or [`Error::Unsupported`], naming the file and the
    /// field or tensor.
    pub fn open(path: &Path) -> Result<Self> {
        let metadata = fs::metadata(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let (config, source) = if metadata.is_dir() { Self::open_folder(path)? } else { Self::open_gguf(path)? };
        Ok(Self { path: path.to_owned(), config, source })
    }

    fn open_folder(folder: &Path) -> Result<(ModelConfig, Source)> {
        let config_path = folder.join("config.json");
        if !config_path.is_file() {
            return Err(Error::Malformed {
                path: folder.to_owned(),
                reason: "the folder has no config.json; a model is a folder with config.json, model.safetensors and \
                         tokenizer.json, or one .gguf file"
                    .into(),
            });
        }
        let config = read_json(&config_path)?;
        let generation_path = folder.join("generation_config.json");
        let generation = if generation_path.is_file() { Some(read_json(&generation_path)?) } else { None };
        let config = ModelConfig::from_json(&config_path, &config, generation.as_ref())?;
        let shards = Shards::open(folder)?;
        let mut places = BTreeMap::new();
        for name in shards.tensors().keys().filter(|name| !names::is_derived(name)) {
            let parts = names::from_folder(&config, name);
            if parts.is_empty() {
                return Err(unknown_tensor(folder, name, &config));
            }
            for (to, rows) in parts {
                if let Some((first, _)) = places.insert(to.clone(), (name.clone(), rows)) {
                    let reason = format!("the tensors `{first}` and `{name}` are both `{to}`");
                    return Err(Error::Malformed { path: folder.to_owned(), reason });
                }
            }
        }
        Ok((config, Source::Folder(shards, places)))
    }

    fn open_gguf(path: &Path) -> Result<(ModelConfig, Source)> {
        let gguf = Gguf::open(path)?;
        let config = gguf_config::config(&gguf)?;
        let mut hf_names = BTreeMap::new();
        for name in gguf.tensors().keys().filter(|name| !names::is_derived(name)) {
            let hf_name = names::from_gguf(&config, name).ok_or_else(|| unknown_tensor(path, name, &config))?;
            hf_names.insert(hf_name, name.clone());
        }
        Ok((config, Source::Gguf(gguf, hf_names)))
    }

    /// The numbers that define the model.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The file or folder that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The GGUF file, if it is one: its tokenizer and chat template lie in its metadata.
    pub(crate) fn gguf(&self) -> Option<&Gguf> {
        match &self.source {
            Source::Gguf(gguf, _) => Some(gguf),
            Source::Folder(..) | Source::Dummy(_) => None,
        }
    }

    /// Whether the weights are random.
    pub(crate) fn is_dummy(&self) -> bool {
        matches!(self.source, Source::Dummy(_))
    }

    /// Hugging Face names of all tensors, sorted.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        let (gguf, folder, dummy) = match &self.source {
            Source::Gguf(_, names) => (Some(names.keys()), None, None),
            Source::Folder(_, places) => (None, Some(places.keys()), None),
            Source::Dummy(shapes) => (None, None, Some(shapes.keys())),
        };
        let files = gguf.into_iter().flatten().chain(folder.into_iter().flatten());
        files.chain(dummy.into_iter().flatten()).map(String::as_str)
    }

    /// Whether the model has the tensor of this Hugging Face name.
    pub fn has_tensor(&self, hf_name: &str) -> bool {
        match &self.source {
            Source::Gguf(_, names) => names.contains_key(hf_name),
            Source::Folder(_, places) => places.contains_key(hf_name),
            Source::Dummy(shapes) => shapes.contains_key(hf_name),
        }
    }

    /// The format of the tensor of this Hugging Face name, if its shape is `wanted`. None of its bytes is read.
    ///
    /// # Errors
    /// As for [`Self::tensor`]; [`Error::TensorShape`].
    pub(crate) fn expect(&self, hf_name: &str, wanted: &[usize]) -> Result<WeightFormat> {
        let (shape, format) = self.shape(hf_name)?;
        if shape == wanted {
            return Ok(format);
        }
        Err(Error::TensorShape { name: hf_name.to_owned(), found: shape, wanted: wanted.to_vec() })
    }

    /// Shape and format of the tensor of this Hugging Face name. None of its bytes is read.
    ///
    /// # Errors
    /// As for [`Self::tensor`].
    pub fn shape(&self, hf_name: &str) -> Result<(Vec<usize>, WeightFormat)> {
        match &self.source {
            Source::Gguf(gguf, names) => {
                let info = &gguf.tensors()[names.get(hf_name).ok_or_else(|| self.missing(hf_name))?];
                Ok((info.shape.clone(), info.format))
            }
            Source::Folder(shards, places) => {
                let (name, rows) = places.get(hf_name).ok_or_else(|| self.missing(hf_name))?;
                let info = &shards.tensors()[name];
                let format = self.readable(name, &info.format)?;
                let mut shape = info.shape.clone();
                if let Some(part) = self.part_of(*rows) {
                    if shape.first() != Some(&part.wanted) {
                        let wanted = std::iter::once(part.wanted).chain(shape.iter().skip(1).copied()).collect();
                        return Err(Error::TensorShape { name: name.to_owned(), found: shape, wanted });
                    }
                    shape[0] = part.rows;
                }
                Ok((shape, format))
            }
            Source::Dummy(shapes) => {
                let shape = shapes.get(hf_name).ok_or_else(|| self.missing(hf_name))?;
                Ok((shape.clone(), WeightFormat::Bf16))
            }
        }
    }

    fn missing(&self, hf_name: &str) -> Error {
        Error::MissingTensor { name: hf_name.to_owned(), path: self.path.clone() }
    }

    /// The tensor of this Hugging Face name, such as `model.layers.0.self_attn.q_proj.weight`.
    ///
    /// # Errors
    /// [`Error::MissingTensor`]; [`Error::Unsupported`] for a dtype that is not a [`WeightFormat`].
    pub fn tensor(&self, hf_name: &str) -> Result<Tensor<'_>> {
        let (shape, format) = self.shape(hf_name)?;
        let data = match &self.source {
            Source::Gguf(gguf, names) => {
                let name = &names[hf_name];
                gguf_config::hf_bytes(gguf, &self.config, name, &gguf.tensors()[name])
            }
            Source::Folder(shards, places) => {
                let (name, rows) = &places[hf_name];
                let data = shards.bytes(&shards.tensors()[name]);
                self.part_of(*rows).map_or(Cow::Borrowed(data), |part| Cow::Owned(part.of(data)))
            }
            Source::Dummy(_) => Cow::Owned(dummy::values(hf_name, &shape)),
        };
        Ok(Tensor { name: hf_name.to_owned(), shape, format, data })
    }

    /// The names that the tensors of this model have in a folder: its own, or for a GGUF file Hugging Face's.
    pub(crate) fn stored_names(&self) -> Vec<String> {
        match &self.source {
            Source::Gguf(_, names) => names.keys().cloned().collect(),
            Source::Dummy(shapes) => shapes.keys().cloned().collect(),
            Source::Folder(shards, _) => {
                shards.tensors().keys().filter(|name| !names::is_derived(name)).cloned().collect()
            }
        }
    }

    /// Shape and format of one of the [`stored_names`](Self::stored_names).
    ///
    /// # Errors
    /// As for [`tensor`](Self::tensor).
    pub(crate) fn stored_shape(&self, name: &str) -> Result<(Vec<usize>, WeightFormat)> {
        match &self.source {
            Source::Gguf(gguf, names) => {
                let info = names.get(name).map(|own| &gguf.tensors()[own]);
                info.map(|info| (info.shape.clone(), info.format))
                    .ok_or_else(|| Error::MissingTensor { name: name.to_owned(), path: self.path.clone() })
            }
            Source::Folder(..) => self.stored(name).map(|tensor| (tensor.shape, tensor.format)),
            Source::Dummy(_) => self.shape(name),
        }
    }

    /// One of the [`stored_names`](Self::stored_names).
    ///
    /// # Errors
    /// As for [`tensor`](Self::tensor).
    pub(crate) fn stored(&self, name: &str) -> Result<Tensor<'_>> {
        let Source::Folder(shards, _) = &self.source else { return self.tensor(name) };
        let missing = || Error::MissingTensor { name: name.to_owned(), path: self.path.clone() };
        let info = shards.tensors().get(name).ok_or_else(missing)?;
        let (shape, format) = (info.shape.clone(), self.readable(name, &info.format)?);
        Ok(Tensor { name: name.to_owned(), shape, format, data: Cow::Borrowed(shards.bytes(info)) })
    }

    fn readable(&self, name: &str, format: &Result<WeightFormat, String>) -> Result<WeightFormat> {
        format.clone().map_err(|dtype| Error::Unsupported {
            what: format!("{}: tensor `{name}` of dtype {dtype}", self.path.display()),
            hint: "weights in a folder must be F32, F16 or BF16".into(),
        })
    }

    /// Which part of a fused matrix `rows` are; `None`: all of any matrix.
    fn part_of(&self, rows: Rows) -> Option<FusedPart> {
        let Heads { num_heads, num_kv_heads, head_dim } = self.config.heads();
        let group = num_heads / num_kv_heads;
        let (first, count) = match rows {
            Rows::All => return None,
            Rows::Query => (0, group),
            Rows::Key => (group, 1),
            Rows::Value => (group + 1, 1),
        };
        let wanted = num_kv_heads * (group + 2) * head_dim;
        let rows = num_kv_heads * count * head_dim;
        Some(FusedPart { first, count, group: group + 2, head_dim, rows, wanted })
    }

    /// Tells the operating system that the bytes of `tensor` will not be read soon: mapped pages count as memory in
    /// use until then.
    pub(crate) fn release(&self, tensor: &Tensor<'_>) {
        let Cow::Borrowed(data) = tensor.data else { return };
        match &self.source {
            Source::Gguf(gguf, _) => gguf.map().release(data),
            Source::Folder(shards, _) => shards.maps().iter().for_each(|map| map.release(data)),
            Source::Dummy(_) => {}
        }
    }

    /// As [`Self::release`], for everything.
    pub(crate) fn release_all(&self) {
        match &self.source {
            Source::Gguf(gguf, _) => gguf.map().release(gguf.map()),
            Source::Folder(shards, _) => shards.maps().iter().for_each(|map| map.release(map)),
            Source::Dummy(_) => {}
        }
    }

    /// 32 hexadecimal digits that identify the configuration and the weights: a hash over every tensor's name, shape,
    /// format and bytes, whatever file they lie in. Reads the whole model, on all cores.
    ///
    /// # Errors
    /// As [`Self::tensor`].
    pub fn fingerprint(&self) -> Result<String> {
        let mut header = format!("{:?}\n", self.config);
        if self.is_dummy() {
            // The values follow from the shapes.
            return Ok(format!("{:032x}", hash::hash(format!("dummy\n{header}").as_bytes())));
        }
        let mut tensors = Vec::new();
        for name in self.tensor_names() {
            let tensor = self.tensor(name)?;
            header.push_str(&format!("{name} {:?} {}\n", tensor.shape, tensor.format.name()));
            tensors.push(tensor.data);
        }
        let mut parts = vec![header.as_bytes()];
        parts.extend(tensors.iter().map(|data| &**data));
        Ok(format!("{:032x}", hash::hash_parts(&parts)))
    }
}

impl Tensor<'_> {
    /// The tensor as a matrix.
    ///
    /// # Errors
    /// [`Error::Kernel`] unless it has two dimensions.
    pub fn view(&self) -> Result<WeightView<'_>> {
        let [rows, cols] = self.shape[..] else {
            return Err(Error::Kernel(oc_kernels::Error::Shape {
                what: "weight",
                found: format!("`{}` of shape {:?}", self.name, self.shape),
                wanted: "a matrix".into(),
            }));
        };
        Ok(WeightView::new(&self.data, self.format, rows, cols)?)
    }

    /// The values of a vector (or any unquantised tensor) in `f32`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a quantised format.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        expect_floats(&self.name, self.format)?;
        let pairs = || self.data.as_chunks::<2>().0.iter();
        match self.format {
            WeightFormat::F32 => Ok(self.data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
            WeightFormat::F16 => Ok(pairs().map(|b| f16::from_le_bytes(*b).to_f32()).collect()),
            _ => Ok(pairs().map(|b| bf16::from_le_bytes(*b).to_f32()).collect()),
        }
    }
}

/// Refuses a quantised format where single values are read.
pub(crate) fn expect_floats(name: &str, format: WeightFormat) -> Result<()> {
    if !format.is_quantized() {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: format!("tensor `{name}` in the quantised format {}", format.name()),
        hint: "norms and biases must be F32, F16 or BF16".into(),
    })
}

/// The error for a tensor that would otherwise be silently left out of the computation.
fn unknown_tensor(path: &Path, name: &str, config: &ModelConfig) -> Error {
    Error::Unsupported {
        what: format!("{}: tensor `{name}` in a model of architecture {}", path.display(), config.architecture),
        hint: "leaving it out would change the results; use a model without it".into(),
    }
}

/// Reads a text file.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|source| Error::Io { path: path.to_owned(), source })
}

/// Reads a JSON file.
pub(crate) fn read_json(path: &Path) -> Result<serde_json::Value> {
    let malformed = |e: serde_json::Error| Error::Malformed { path: path.to_owned(), reason: e.to_string() };
    serde_json::from_str(&read_text(path)?).map_err(malformed)
}
