//! Tensors from one format to another, piece by piece, into safetensors files.

use super::{ConvertOptions, Converted, folder::Staged};
use crate::{Error, ModelFiles, Result, Tensor};
use half::{bf16, f16};
use oc_kernels::{WeightFormat, WeightView, reference::dequant::dequantize};
use serde_json::{Map, Value, json};
use std::io::{BufWriter, Write};

/// Numbers that are converted at once: a whole number of blocks of every format.
const CHUNK: usize = 1 << 18;

/// A tensor on its way.
pub(super) struct Item {
    /// Its name in a folder.
    pub name: String,
    shape: Vec<usize>,
    /// What it becomes.
    pub format: WeightFormat,
    /// Bytes of that.
    pub bytes: usize,
}

/// The tensors of a model in the order of their names.
pub(super) fn items(files: &ModelFiles, options: &ConvertOptions) -> Result<Vec<Item>> {
    let format = match options.format {
        Some(format) => format,
        None => exact_format(files)?,
    };
    let mut items = Vec::new();
    for name in files.stored_names() {
        let (shape, _) = files.stored_shape(&name)?;
        let bytes = shape.iter().product::<usize>() * format.block_bytes();
        items.push(Item { name, shape, format, bytes });
    }
    Ok(items)
}

/// The smallest format that holds all tensors exactly. One for all, because transformers computes in what it finds and takes
/// no two: a GGUF file in F16 has its norms in F32.
fn exact_format(files: &ModelFiles) -> Result<WeightFormat> {
    let (mut wide, mut narrow) = (Vec::new(), None);
    for name in files.stored_names() {
        match files.stored_shape(&name)?.1 {
            WeightFormat::F32 => wide.push(name),
            format @ (WeightFormat::F16 | WeightFormat::Bf16) if narrow.is_none_or(|narrow| narrow == format) => {
                narrow = Some(format);
            }
            _ => return Ok(WeightFormat::F32),
        }
    }
    let Some(narrow) = narrow else { return Ok(WeightFormat::F32) };
    for name in wide {
        let tensor = files.stored(&name)?;
        let values = dequantize(&WeightView::new(&tensor.data, WeightFormat::F32, 1, tensor.data.len() / 4)?);
        let is_exact = values.iter().all(|value| {
            let rounded =
                if narrow == WeightFormat::F16 { f16::from_f32(*value).into() } else { bf16::from_f32(*value).into() };
            value.to_bits() == f32::to_bits(rounded)
        });
        files.release(&tensor);
        if !is_exact {
            return Ok(WeightFormat::F32);
        }
    }
    Ok(narrow)
}

/// Writes the shards and their index.
pub(super) fn write(
    files: &ModelFiles,
    items: &[Item],
    shard_bytes: usize,
    staged: &Staged,
    done: &mut Converted,
    on_progress: &mut dyn FnMut(usize, usize),
) -> Result<()> {
    let total = items.iter().map(|item| item.bytes).sum();
    let mut shards: Vec<Vec<&Item>> = Vec::new();
    let mut size = 0;
    for item in items {
        if shards.is_empty() || size + item.bytes > shard_bytes {
            shards.push(Vec::new());
            size = 0;
        }
        size += item.bytes;
        shards.last_mut().expect("one was pushed").push(item);
    }
    let count = shards.len();
    let mut weight_map = Map::new();
    for (i, shard) in shards.iter().enumerate() {
        let name = match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
        };
        weight_map.extend(shard.iter().map(|item| (item.name.clone(), Value::String(name.clone()))));
        write_shard(files, shard, &name, staged, &mut |bytes| {
            done.bytes += bytes;
            on_progress(done.bytes, total);
        })?;
        done.weights.push(name);
    }
    if count > 1 {
        weight_map.sort_keys();
        let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
        staged.write_json("model.safetensors.index.json", &index)?;
    }
    Ok(())
}

fn write_shard(
    files: &ModelFiles,
    items: &[&Item],
    name: &str,
    staged: &Staged,
    on_bytes: &mut dyn FnMut(usize),
) -> Result<()> {
    let failed = |source| staged.error(name, source);
    let mut out = BufWriter::with_capacity(1 << 20, staged.file(name)?);
    let header = header(items);
    out.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed)?;
    out.write_all(header.as_bytes()).map_err(failed)?;
    for item in items {
        let tensor = files.stored(&item.name)?;
        pieces(&tensor, item.format, &mut |bytes| {
            out.write_all(bytes).map_err(failed)?;
            on_bytes(bytes.len());
            Ok(())
        })?;
        files.release(&tensor);
    }
    let file = out.into_inner().map_err(|error| failed(error.into_error()))?;
    staged.finish(name, &file)
}

/// The header of a safetensors file, padded so that the tensors are aligned.
fn header(items: &[&Item]) -> String {
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut at = 0;
    for item in items {
        let entry = json!({"dtype": item.format.name(), "shape": item.shape, "data_offsets": [at, at + item.bytes]});
        header.insert(item.name.clone(), entry);
        at += item.bytes;
    }
    let mut text = Value::Object(header).to_string();
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
    text
}

/// Gives the numbers of `tensor` in `format` to `out`, some at a time.
fn pieces(tensor: &Tensor<'_>, format: WeightFormat, out: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let from = tensor.format;
    let step = CHUNK / from.block_len() * from.block_bytes();
    let mut converted = Vec::new();
    for chunk in tensor.data.chunks(step) {
        if from == format {
            out(chunk)?;
            continue;
        }
        let numbers = chunk.len() / from.block_bytes() * from.block_len();
        let values = dequantize(&WeightView::new(chunk, from, 1, numbers)?);
        converted.clear();
        match format {
            WeightFormat::F32 => values.iter().for_each(|v| converted.extend(v.to_le_bytes())),
            WeightFormat::Bf16 => values.iter().for_each(|v| converted.extend(bf16::from_f32(*v).to_le_bytes())),
            WeightFormat::F16 => {
                for value in values {
                    let narrow = f16::from_f32(value);
                    if value.is_finite() && !narrow.is_finite() {
                        return Err(Error::Unsupported {
                            what: format!("tensor `{}` holds {value}, which f16 cannot; it", tensor.name),
                            hint: "use bf16 or f32".into(),
                        });
                    }
                    converted.extend(narrow.to_le_bytes());
                }
            }
            other => {
                return Err(Error::Unsupported {
                    what: format!("writing {}", other.name()),
                    hint: "safetensors are written as F32, F16 or BF16".into(),
                });
            }
        }
        out(&converted)?;
    }
    Ok(())
}
