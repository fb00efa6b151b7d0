//! From the values of a pickle to tensors: the only globals that mean anything are those that rebuild one.

use super::machine::{Id, Pickle, Value};
use oc_kernels::WeightFormat;

/// Dimensions of a tensor, and bytes of a storage's key. One list or text may stand for those of every tensor, so without a
/// limit few bytes could ask for many.
const MAX_DIMS: usize = 16;
const MAX_KEY: usize = 256;

/// A tensor as it was saved.
#[derive(Debug)]
pub(super) struct Tensor {
    pub storage: Stored,
    /// First element in the storage.
    pub offset: usize,
    pub shape: Vec<usize>,
    /// Elements from one index to the next, per dimension.
    pub strides: Vec<usize>,
}

/// A storage as a tensor describes it.
#[derive(Debug)]
pub(super) struct Stored {
    pub key: String,
    pub dtype: &'static Dtype,
    /// Elements.
    pub len: usize,
}

/// An element type of PyTorch.
#[derive(Debug)]
pub(super) struct Dtype {
    /// Name of the storage's class.
    pub name: &'static str,
    pub bytes: usize,
    /// `None`: such a tensor may exist but is not read.
    pub format: Option<WeightFormat>,
}

const DTYPES: [Dtype; 10] = [
    Dtype { name: "FloatStorage", bytes: 4, format: Some(WeightFormat::F32) },
    Dtype { name: "HalfStorage", bytes: 2, format: Some(WeightFormat::F16) },
    Dtype { name: "BFloat16Storage", bytes: 2, format: Some(WeightFormat::Bf16) },
    Dtype { name: "DoubleStorage", bytes: 8, format: None },
    Dtype { name: "LongStorage", bytes: 8, format: None },
    Dtype { name: "IntStorage", bytes: 4, format: None },
    Dtype { name: "ShortStorage", bytes: 2, format: None },
    Dtype { name: "CharStorage", bytes: 1, format: None },
    Dtype { name: "ByteStorage", bytes: 1, format: None },
    Dtype { name: "BoolStorage", bytes: 1, format: None },
];

impl Tensor {
    /// Whether its elements follow one another in row-major order.
    pub fn is_contiguous(&self) -> bool {
        let mut step = 1_usize;
        self.shape.len() == self.strides.len()
            && self.shape.iter().zip(&self.strides).rev().all(|(size, stride)| {
                let fits = *size == 1 || *stride == step;
                step = step.saturating_mul(*size);
                fits
            })
    }
}

/// The tensors of a state dictionary, in order.
pub(super) fn tensors(pickle: &Pickle) -> Result<Vec<(String, Tensor)>, String> {
    let entries = dict(pickle, pickle.root())?;
    let mut tensors = Vec::with_capacity(entries.len());
    let mut names = std::collections::HashSet::new();
    for (key, value) in entries {
        let Value::String(name) = pickle.get(*key) else {
            return Err(format!("a tensor's name is {:?}", pickle.get(*key)));
        };
        if !names.insert(name) {
            return Err(format!("tensor `{name}` appears twice"));
        }
        let tensor = tensor(pickle, *value).map_err(|reason| format!("tensor `{name}`: {reason}"))?;
        tensors.push((name.clone(), tensor));
    }
    Ok(tensors)
}

/// The entries of a dictionary.
fn dict<'a>(pickle: &'a Pickle, value: &'a Value) -> Result<&'a [(Id, Id)], String> {
    match value {
        Value::Dict(entries) => Ok(entries),
        Value::Call(callable, _) => Err(refused(pickle, *callable)),
        other => Err(format!("it holds {}, but must hold a dictionary of tensors", kind(other))),
    }
}

fn tensor(pickle: &Pickle, id: Id) -> Result<Tensor, String> {
    let Value::Call(callable, arguments) = pickle.get(id) else {
        return Err(format!("it is {}, not a tensor", kind(pickle.get(id))));
    };
    let arguments = sequence(pickle, *arguments)?;
    match global(pickle, *callable) {
        Some("torch._utils._rebuild_tensor_v2") => rebuild(pickle, arguments),
        // (tensor, requires_grad, hooks): a parameter cannot hold another one, so this does not nest.
        Some("torch._utils._rebuild_parameter") => match arguments.first().map(|id| (id, pickle.get(*id))) {
            Some((_, Value::Call(inner, inner_arguments)))
                if global(pickle, *inner) == Some("torch._utils._rebuild_tensor_v2") =>
            {
                rebuild(pickle, sequence(pickle, *inner_arguments)?)
            }
            _ => Err("a parameter without a tensor".into()),
        },
        _ => Err(refused(pickle, *callable)),
    }
}

/// `(storage, offset, shape, strides, requires_grad, hooks, …)`
fn rebuild(pickle: &Pickle, arguments: &[Id]) -> Result<Tensor, String> {
    let [stored, offset, shape, strides, ..] = arguments else { return Err("too few arguments".into()) };
    let Value::Persistent(description) = pickle.get(*stored) else { return Err("it has no storage".into()) };
    Ok(Tensor {
        storage: storage(pickle, sequence(pickle, *description)?)?,
        offset: size(pickle, *offset)?,
        shape: sizes(pickle, *shape)?,
        strides: sizes(pickle, *strides)?,
    })
}

/// `("storage", class, key, location, number of elements, …)`
fn storage(pickle: &Pickle, description: &[Id]) -> Result<Stored, String> {
    let [tag, class, key, _, len, ..] = description else { return Err("its storage is not described".into()) };
    let (Value::String(tag), Value::String(key)) = (pickle.get(*tag), pickle.get(*key)) else {
        return Err("its storage is not described".into());
    };
    if key.len() > MAX_KEY {
        return Err(format!("the key of its storage has {} bytes; at most {MAX_KEY} are read", key.len()));
    }
    if tag != "storage" {
        return Err(format!("it refers to a `{tag}`"));
    }
    let class_name = global(pickle, *class).and_then(|name| name.strip_prefix("torch."));
    let dtype = DTYPES.iter().find(|dtype| Some(dtype.name) == class_name).ok_or_else(|| refused(pickle, *class))?;
    Ok(Stored { key: key.clone(), dtype, len: size(pickle, *len)? })
}

fn sequence(pickle: &Pickle, id: Id) -> Result<&[Id], String> {
    match pickle.get(id) {
        Value::Sequence(items) => Ok(items),
        other => Err(format!("{} where a tuple should be", kind(other))),
    }
}

fn size(pickle: &Pickle, id: Id) -> Result<usize, String> {
    match pickle.get(id) {
        Value::Int(n) => usize::try_from(*n).map_err(|_| format!("a size of {n}")),
        other => Err(format!("{} where a size should be", kind(other))),
    }
}

fn sizes(pickle: &Pickle, id: Id) -> Result<Vec<usize>, String> {
    let sizes = sequence(pickle, id)?;
    if sizes.len() > MAX_DIMS {
        return Err(format!("{} dimensions; at most {MAX_DIMS} are read", sizes.len()));
    }
    sizes.iter().map(|id| size(pickle, *id)).collect()
}

fn global(pickle: &Pickle, id: Id) -> Option<&str> {
    if let Value::Global(name) = pickle.get(id) { Some(name) } else { None }
}

/// What is said of anything else than tensors.
fn refused(pickle: &Pickle, id: Id) -> String {
    match pickle.get(id) {
        Value::Global(name) => format!("it asks for `{name}`, which is not part of a tensor and is never run"),
        other => format!("it calls {}, which is never run", kind(other)),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::None => "None",
        Value::Bool(_) => "a truth value",
        Value::Int(_) | Value::Long(_) => "an integer",
        Value::Float => "a number",
        Value::String(_) => "a text",
        Value::Bytes => "bytes",
        Value::Sequence(_) => "a list",
        Value::Dict(_) => "a dictionary",
        Value::Global(_) => "a global",
        Value::Call(..) => "the result of a call",
        Value::Persistent(_) => "a storage",
    }
}
