//! `--model-kwargs`, `--tokenizer-kwargs`, `--generation-kwargs`: OpenCompass's `key=value` pairs, their literals, and
//! what each known key means here. An unknown key is an error.

use crate::diagnostics::{Error, Result};
use oc_engine::{Device, Dtype, SamplingParams};
use oc_eval::names;
use serde_json::{Map, Value};

/// Keys that change nothing here, and why; the note is logged.
type Ignored = &'static [(&'static str, &'static str)];

const NO_REMOTE_CODE: &str = "is not needed: no code from a model's folder is ever run";

const MODEL_KEYS: &[&str] = &["trust_remote_code", "device_map", "torch_dtype", "dtype"];
const MODEL_IGNORED: Ignored = &[
    ("low_cpu_mem_usage", "has no effect: weights are always memory-mapped"),
    ("use_safetensors", "has no effect: safetensors is what a folder must hold"),
    ("local_files_only", "has no effect: nothing is ever downloaded"),
    ("attn_implementation", "has no effect: there is one attention kernel for each device"),
];

const TOKENIZER_KEYS: &[&str] = &["trust_remote_code", "padding_side", "truncation_side"];
const TOKENIZER_IGNORED: Ignored = &[
    ("truncation", "has no effect, as in OpenCompass; --max-seq-len limits the prompt"),
    ("padding", "has no effect: sequences are never padded"),
    ("use_fast", "has no effect: there is one tokenizer"),
];

const GENERATION_KEYS: &[&str] =
    &["do_sample", "temperature", "top_k", "top_p", "seed", "num_beams", "repetition_penalty"];

/// What `--model-kwargs` decides.
#[derive(Debug, Default, PartialEq)]
pub struct ModelKwargs {
    /// As written.
    pub raw: Map<String, Value>,
    /// `torch_dtype`.
    pub dtype: Option<Dtype>,
    /// `device_map`, where it names a kind of device.
    pub device: Option<Device>,
}

/// Splits `items` at their first `=` and reads the values as OpenCompass does (mmengine's `DictAction`).
///
/// # Errors
/// An item without `=`, or with unbalanced brackets.
pub fn parse(flag: &str, items: &[String]) -> Result<Map<String, Value>> {
    let mut map = Map::new();
    for item in items {
        let Some((key, value)) = item.split_once('=') else {
            return Err(Error::input(
                format!("{flag} takes key=value pairs, but `{item}` has no `=`"),
                format!("for example {flag} {item}=True"),
            ));
        };
        let value = literal(value)
            .ok_or_else(|| Error::input(format!("{flag} {item}: brackets do not match"), "write a list as [1,2]"))?;
        map.insert(key.to_owned(), value);
    }
    Ok(map)
}

/// A number, True, False, None, a list in brackets or with commas, else a string; quotes around it are dropped.
fn literal(text: &str) -> Option<Value> {
    let text: String = text.trim_matches(['\'', '"']).chars().filter(|c| *c != ' ').collect();
    let inside = |open, close| text.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
    let list = match inside('(', ')').or_else(|| inside('[', ']')) {
        Some(list) => list,
        None if text.contains(',') => &text,
        None => return Some(scalar(&text)),
    };
    let (mut items, mut depth, mut start) = (Vec::new(), 0_i32, 0);
    for (at, c) in list.char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            ',' if depth == 0 => {
                items.push(literal(&list[start..at])?);
                start = at + 1;
            }
            _ => {}
        }
        if depth < 0 {
            return None;
        }
    }
    if start < list.len() {
        items.push(literal(&list[start..])?);
    }
    (depth == 0).then_some(Value::Array(items))
}

fn scalar(text: &str) -> Value {
    if let Ok(int) = text.parse::<i64>() {
        return int.into();
    }
    // JSON has no infinity: it stays a string.
    if let Some(float) = text.parse().ok().and_then(serde_json::Number::from_f64) {
        return Value::Number(float);
    }
    match text {
        "None" => Value::Null,
        _ if text.eq_ignore_ascii_case("true") => Value::Bool(true),
        _ if text.eq_ignore_ascii_case("false") => Value::Bool(false),
        _ => text.into(),
    }
}

/// Checks `--model-kwargs`; what is worth knowing about a key goes to `notes`.
///
/// # Errors
/// An unknown key, or a value that is not supported.
pub fn model(items: &[String], notes: &mut Vec<String>) -> Result<ModelKwargs> {
    let flag = "--model-kwargs";
    model_of(flag, parse(flag, items)?, notes)
}

/// [`model`] for the dictionary of a configuration; `name` is for messages.
///
/// # Errors
/// As for [`model`].
pub fn model_of(name: &str, raw: Map<String, Value>, notes: &mut Vec<String>) -> Result<ModelKwargs> {
    let flag = Flag { name, known: MODEL_KEYS, ignored: MODEL_IGNORED };
    let (mut dtype, mut device) = (None, None);
    for (key, value) in &raw {
        match key.as_str() {
            "trust_remote_code" => flag.trust_remote_code(value, notes)?,
            "device_map" => match value.as_str() {
                Some("auto" | "balanced" | "sequential") => {}
                Some("cpu") => device = Some(Device::Cpu),
                Some("cuda" | "cuda:0") => device = Some(Device::Cuda),
                Some(name) if name.starts_with("cuda:") => {
                    return Err(Error::input(
                        format!("{} {key}={name}: the model goes to the first GPU", flag.name),
                        "leave it out, and name the GPU in the environment, for example CUDA_VISIBLE_DEVICES=1",
                    ));
                }
                _ => return Err(flag.bad_value(key, value, "auto, cpu or cuda")),
            },
            "torch_dtype" | "dtype" => {
                let name = value.as_str().unwrap_or_default();
                dtype = match name.strip_prefix("torch.").unwrap_or(name) {
                    "auto" => None,
                    "float32" | "float" => Some(Dtype::F32),
                    "bfloat16" => Some(Dtype::Bf16),
                    "float16" | "half" => {
                        return Err(Error::input(
                            format!("{} {key}={name}: the processor computes nothing in float16", flag.name),
                            "use bfloat16 or float32, or leave it out (float16 weights can be loaded either way); for a GPU \
                             leave it out and say --dtype f16",
                        ));
                    }
                    _ => return Err(flag.bad_value(key, value, "auto, float32 or bfloat16")),
                };
            }
            _ => flag.ignored(key, value, notes)?,
        }
    }
    Ok(ModelKwargs { raw, dtype, device })
}

/// Checks `--tokenizer-kwargs`.
///
/// # Errors
/// An unknown key, or a value that is not supported.
pub fn tokenizer(items: &[String], notes: &mut Vec<String>) -> Result<Map<String, Value>> {
    let flag = "--tokenizer-kwargs";
    tokenizer_of(flag, parse(flag, items)?, notes)
}

/// [`tokenizer`] for the dictionary of a configuration; `name` is for messages.
///
/// # Errors
/// As for [`tokenizer`].
pub fn tokenizer_of(name: &str, raw: Map<String, Value>, notes: &mut Vec<String>) -> Result<Map<String, Value>> {
    let flag = Flag { name, known: TOKENIZER_KEYS, ignored: TOKENIZER_IGNORED };
    for (key, value) in &raw {
        match (key.as_str(), value.as_str()) {
            ("trust_remote_code", _) => flag.trust_remote_code(value, notes)?,
            // Either side gives what OpenCompass's attention mask gives: there is no padding.
            ("padding_side", Some("left" | "right")) => {}
            ("padding_side", _) => return Err(flag.bad_value(key, value, "left or right")),
            ("truncation_side", Some("left")) => {}
            ("truncation_side", Some("right")) => {
                return Err(Error::input(
                    format!("{} truncation_side=right would cut the question off", flag.name),
                    "too long prompts lose in-context examples and then their beginning, as OpenCompass's default does; \
                     leave it out",
                ));
            }
            ("truncation_side", _) => return Err(flag.bad_value(key, value, "left")),
            _ => flag.ignored(key, value, notes)?,
        }
    }
    Ok(raw)
}

/// How tokens are chosen, from `--generation-kwargs` with the defaults of HF transformers.
///
/// # Errors
/// An unknown key, or a value that is not supported.
pub fn generation(items: &[String], notes: &mut Vec<String>) -> Result<SamplingParams> {
    let flag = "--generation-kwargs";
    generation_of(flag, &parse(flag, items)?, notes)
}

/// [`generation`] for the dictionary of a configuration; `name` is for messages.
///
/// # Errors
/// As for [`generation`].
pub fn generation_of(name: &str, raw: &Map<String, Value>, notes: &mut Vec<String>) -> Result<SamplingParams> {
    let flag = Flag { name, known: GENERATION_KEYS, ignored: &[] };
    let do_sample = raw.get("do_sample").map(|value| flag.bool("do_sample", value)).transpose()?.unwrap_or(false);
    let mut sampling = SamplingParams::default();
    if do_sample {
        (sampling.temperature, sampling.top_k) = (1.0, 50);
    }
    for (key, value) in raw {
        let number = value.as_f64();
        match (key.as_str(), number) {
            ("do_sample", _) => {}
            ("temperature", Some(t)) if t > 0.0 => sampling.temperature = t as f32,
            ("temperature", _) => return Err(flag.bad_value(key, value, "a number above 0")),
            ("top_k", _) => {
                sampling.top_k =
                    value.as_u64().ok_or_else(|| flag.bad_value(key, value, "a whole number; 0 keeps all"))? as usize;
            }
            ("top_p", Some(p)) if p > 0.0 && p <= 1.0 => sampling.top_p = p as f32,
            ("top_p", _) => return Err(flag.bad_value(key, value, "a number in (0, 1]")),
            ("seed", _) => {
                sampling.seed = value.as_u64().ok_or_else(|| flag.bad_value(key, value, "a whole number"))?;
            }
            ("num_beams", Some(1.0)) | ("repetition_penalty", Some(1.0)) => {}
            ("num_beams" | "repetition_penalty", _) => return Err(flag.bad_value(key, value, "1, which is no change")),
            ("max_new_tokens", _) => {
                return Err(Error::input(format!("{} has {key}", flag.name), "use --max-out-len"));
            }
            _ => return Err(flag.unknown(key)),
        }
    }
    if !do_sample && raw.keys().any(|key| matches!(key.as_str(), "temperature" | "top_k" | "top_p")) {
        notes.push("temperature, top_k and top_p have no effect without do_sample=True, as in HF transformers".into());
        return Ok(SamplingParams { seed: sampling.seed, ..SamplingParams::default() });
    }
    Ok(sampling)
}

/// One of the three flags, for its messages.
struct Flag<'a> {
    name: &'a str,
    known: &'static [&'static str],
    ignored: Ignored,
}

impl Flag<'_> {
    fn unknown(&self, key: &str) -> Error {
        let known: Vec<&str> = self.known.iter().copied().chain(self.ignored.iter().map(|(name, _)| *name)).collect();
        let near = names::did_you_mean(&names::near(key, known.iter().copied()));
        Error::input(
            format!("unknown key `{key}` in {}{near}", self.name),
            format!("known keys are {}", known.join(", ")),
        )
    }

    fn bad_value(&self, key: &str, value: &Value, wanted: &str) -> Error {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Error::input(format!("{} {key}={value} is not supported", self.name), format!("{key} takes {wanted}"))
    }

    fn bool(&self, key: &str, value: &Value) -> Result<bool> {
        value.as_bool().ok_or_else(|| self.bad_value(key, value, "True or False"))
    }

    fn trust_remote_code(&self, value: &Value, notes: &mut Vec<String>) -> Result<()> {
        if self.bool("trust_remote_code", value)? {
            let note = format!("trust_remote_code {NO_REMOTE_CODE}");
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
        Ok(())
    }

    /// A key without effect.
    fn ignored(&self, key: &str, value: &Value, notes: &mut Vec<String>) -> Result<()> {
        let (_, why) = self.ignored.iter().find(|(name, _)| *name == key).ok_or_else(|| self.unknown(key))?;
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        notes.push(format!("{key}={value} {why}"));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn strings(items: &[&str]) -> Vec<String> {
        items.iter().map(|s| s.to_string()).collect()
    }

    #[test]
    fn literals_are_read_as_opencompass_reads_them() {
        let cases = [
            ("True", json!(true)),
            ("false", json!(false)),
            ("None", json!(null)),
            ("none", json!("none")),
            ("7", json!(7)),
            ("-3", json!(-3)),
            ("1e-3", json!(0.001)),
            ("0.5", json!(0.5)),
            ("inf", json!("inf")),
            ("'left'", json!("left")),
            ("\"left\"", json!("left")),
            ("torch.float16", json!("torch.float16")),
            ("a=b", json!("a=b")),
            ("1,2,x", json!([1, 2, "x"])),
            ("[1, 2]", json!([1, 2])),
            ("[(1,2),[a,b],c]", json!([[1, 2], ["a", "b"], "c"])),
            ("[]", json!([])),
            ("", json!("")),
        ];
        for (text, wanted) in cases {
            assert_eq!(literal(text), Some(wanted), "{text}");
        }
        assert_eq!(literal("[1,(2]"), None);
        assert_eq!(literal("[1],2)"), None);
    }

    #[test]
    fn the_tutorials_kwargs_are_accepted() {
        let mut notes = Vec::new();
        let items = strings(&["padding_side='left'", "truncation='left'", "trust_remote_code=True"]);
        assert_eq!(tokenizer(&items, &mut notes).unwrap()["padding_side"], "left");
        let kwargs = model(&strings(&["trust_remote_code=True", "device_map='auto'"]), &mut notes).unwrap();
        assert_eq!((kwargs.dtype, kwargs.device), (None, None));
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert!(notes[1].contains("trust_remote_code is not needed"), "{notes:?}");
    }

    #[test]
    fn unknown_keys_name_the_known_ones() {
        let error = tokenizer(&strings(&["paddingside=left"]), &mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains("unknown key `paddingside` in --tokenizer-kwargs (did you mean `padding_side`?)"));
        assert!(error.contains("known keys are trust_remote_code, padding_side, truncation_side, truncation"));
        assert!(model(&strings(&["load_in_8bit=True"]), &mut Vec::new()).is_err());
        assert!(generation(&strings(&["length_penalty=2"]), &mut Vec::new()).is_err());
        let error = model(&strings(&["trust_remote_code"]), &mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains("has no `=`"), "{error}");
    }

    #[test]
    fn values_mean_something_or_are_refused() {
        let dtype = |value: &str| model(&[format!("torch_dtype={value}")], &mut Vec::new()).map(|m| m.dtype);
        assert_eq!(dtype("auto").unwrap(), None);
        assert_eq!(dtype("torch.bfloat16").unwrap(), Some(Dtype::Bf16));
        assert_eq!(dtype("'float32'").unwrap(), Some(Dtype::F32));
        assert!(dtype("torch.float16").unwrap_err().to_string().contains("float16"));
        assert!(dtype("int3").is_err());
        let device = model(&strings(&["device_map=cuda:0"]), &mut Vec::new()).unwrap().device;
        assert_eq!(device, Some(Device::Cuda));
        assert!(tokenizer(&strings(&["truncation_side=right"]), &mut Vec::new()).is_err());
        assert!(tokenizer(&strings(&["truncation_side=left", "padding_side=right"]), &mut Vec::new()).is_ok());
        assert!(tokenizer(&strings(&["trust_remote_code=1"]), &mut Vec::new()).is_err());
    }

    #[test]
    fn sampling_needs_do_sample() {
        let generation = |items: &[&str]| {
            let mut notes = Vec::new();
            generation(&strings(items), &mut notes).map(|sampling| (sampling, notes.len()))
        };
        assert_eq!(generation(&[]).unwrap(), (SamplingParams::default(), 0));
        assert_eq!(generation(&["do_sample=False", "num_beams=1"]).unwrap(), (SamplingParams::default(), 0));
        assert_eq!(generation(&["temperature=0.7"]).unwrap(), (SamplingParams::default(), 1));
        let wanted = SamplingParams { temperature: 0.5, top_k: 50, top_p: 0.9, seed: 7 };
        let items = ["do_sample=True", "temperature=0.5", "top_p=0.9", "seed=7"];
        assert_eq!(generation(&items).unwrap(), (wanted, 0));
        for bad in ["temperature=0", "top_p=2", "top_k=-1", "num_beams=4", "max_new_tokens=3", "seed=x"] {
            assert!(generation(&["do_sample=True", bad]).is_err(), "{bad}");
        }
    }
}
