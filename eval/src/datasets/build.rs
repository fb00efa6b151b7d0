//! From one of OpenCompass's dataset dictionaries to a task.

use super::{FAMILIES, Family, Loader, Source};
use crate::{
    Error, Result, Row,
    extract::Extractor,
    prompt::{Prompting, Template, prompt_version},
    python,
    task::{Evaluator, Generation, Inferencer, Sample, Task},
};
use serde_json::{Map, Value};
use std::path::Path;

/// Keys of a dataset that are read by no stage here, or by the loaders.
const KEYS: [&str; 9] =
    ["abbr", "type", "path", "name", "reader_cfg", "infer_cfg", "eval_cfg", "local_mode", "trust_remote_code"];

/// What the parts of a dataset dictionary can be beside post-processors, see [`Reader`].
pub(super) const PARTS: [&str; 11] = [
    "PromptTemplate",
    "ZeroRetriever",
    "FixKRetriever",
    "GenInferencer",
    "PPLInferencer",
    "LLInferencer",
    "CLPInferencer",
    "AccEvaluator",
    "AccwithDetailsEvaluator",
    "AccContaminationEvaluator",
    "EDAccEvaluator",
];

/// Reads one dictionary; its name goes with every message.
struct Reader<'a> {
    abbr: &'a str,
}

impl Reader<'_> {
    fn error(&self, what: impl std::fmt::Display) -> Error {
        Error::Config { what: format!("dataset {}: {what}", self.abbr) }
    }

    fn map<'v>(&self, parent: &'v Map<String, Value>, key: &str) -> Result<&'v Map<String, Value>> {
        parent.get(key).and_then(Value::as_object).ok_or_else(|| self.error(format!("`{key}` is missing, or no dict")))
    }

    /// Refuses every key but these.
    fn only(&self, of: &str, map: &Map<String, Value>, keys: &[&str]) -> Result<()> {
        match map.keys().find(|key| !keys.contains(&key.as_str())) {
            Some(key) => Err(self.error(format!("`{key}` of {of} is not supported; known are {}", keys.join(", ")))),
            None => Ok(()),
        }
    }

    fn text(&self, map: &Map<String, Value>, key: &str) -> Result<Option<String>> {
        match map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(self.error(format!("`{key}` is {}, wanted a string", python::repr(other)))),
        }
    }

    fn count(&self, map: &Map<String, Value>, key: &str) -> Result<Option<usize>> {
        match map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let count = value.as_u64().and_then(|n| usize::try_from(n).ok());
                let wrong = || self.error(format!("`{key}` is {}, wanted a whole number", python::repr(value)));
                count.map(Some).ok_or_else(wrong)
            }
        }
    }

    fn texts(&self, map: &Map<String, Value>, key: &str) -> Result<Vec<String>> {
        let wrong = |value: &Value| self.error(format!("`{key}` is {}, wanted strings", python::repr(value)));
        match map.get(key) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(vec![text.clone()]),
            Some(list @ Value::Array(items)) => {
                items.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(|| wrong(list))).collect()
            }
            Some(other) => Err(wrong(other)),
        }
    }

    /// The class of `type=`, without its module.
    fn class<'v>(&self, of: &str, map: &'v Map<String, Value>) -> Result<&'v str> {
        map.get("type").and_then(class).ok_or_else(|| self.error(format!("{of} has no `type`")))
    }

    fn unknown(&self, of: &str, map: &Map<String, Value>, known: &str) -> Error {
        let found = map.get("type").map(python::repr).unwrap_or_default();
        self.error(format!("{of} of type {found} does not exist here; known are {known}"))
    }

    fn template(&self, infer: &Map<String, Value>, key: &str) -> Result<Option<Template>> {
        let Some(config) = infer.get(key) else { return Ok(None) };
        let wrong = |reason| self.error(format!("{key}: {reason}"));
        let map = config.as_object().ok_or_else(|| wrong("it is no dict".into()))?;
        if self.class(key, map)? != "PromptTemplate" {
            return Err(self.unknown(key, map, "PromptTemplate"));
        }
        Template::parse(config).map(Some).map_err(wrong)
    }

    /// The indices of the examples, and what stands between and after them.
    fn retriever(&self, map: &Map<String, Value>) -> Result<(Vec<usize>, String, String)> {
        let or = |text: Option<String>, default: &str| text.unwrap_or_else(|| default.to_owned());
        match self.class("the retriever", map)? {
            "ZeroRetriever" => {
                self.only("ZeroRetriever", map, &["type", "ice_eos_token"])?;
                Ok((Vec::new(), String::new(), or(self.text(map, "ice_eos_token")?, "")))
            }
            "FixKRetriever" => {
                let keys = ["type", "fix_id_list", "ice_separator", "ice_eos_token", "ice_num"];
                self.only("FixKRetriever", map, &keys)?;
                let list = map.get("fix_id_list").and_then(Value::as_array);
                let index = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok());
                let ids = list.and_then(|list| list.iter().map(index).collect::<Option<Vec<usize>>>());
                let ids = ids.ok_or_else(|| self.error("FixKRetriever needs a `fix_id_list` of row numbers"))?;
                let separator = or(self.text(map, "ice_separator")?, "\n");
                Ok((ids, separator, or(self.text(map, "ice_eos_token")?, "\n")))
            }
            _ => Err(self.unknown("a retriever", map, "ZeroRetriever and FixKRetriever")),
        }
    }

    fn inferencer(&self, map: &Map<String, Value>, prompting: &Prompting, first: Option<&Row>) -> Result<Inferencer> {
        // `batch_size` only decides which prompts are cut as single ones, and `save_every` nothing.
        let common = ["type", "batch_size", "save_every", "max_seq_len"];
        let labels = || {
            let wrong = || self.error("its template must have one body for each answer");
            prompting.labels().filter(|labels| !labels.is_empty()).ok_or_else(wrong)
        };
        let class = self.class("the inferencer", map)?;
        let own: &[&str] =
            if class == "GenInferencer" { &["max_out_len", "min_out_len", "stopping_criteria"] } else { &[] };
        let inferencer = match class {
            "GenInferencer" => Inferencer::Gen(Generation {
                max_out_len: self.count(map, "max_out_len")?,
                min_out_len: self.count(map, "min_out_len")?,
                batch_size: self.count(map, "batch_size")?,
                stop: self.texts(map, "stopping_criteria")?,
            }),
            "PPLInferencer" => Inferencer::Ppl { labels: labels()? },
            "LLInferencer" => Inferencer::Ll { labels: labels()? },
            "CLPInferencer" => {
                let column = first.and_then(|row| row.iter().find(|(name, _)| name == "choices"));
                let choices = column.and_then(|(_, choices)| serde_json::from_str(choices).ok());
                let wrong = || self.error("CLPInferencer reads the column `choices`, which this dataset does not have");
                Inferencer::Clp { choices: choices.ok_or_else(wrong)? }
            }
            _ => {
                let known = "GenInferencer, PPLInferencer, CLPInferencer and LLInferencer";
                return Err(self.unknown("an inferencer", map, known));
            }
        };
        self.only(class, map, &[&common[..], own].concat())?;
        Ok(inferencer)
    }

    fn evaluator(&self, eval: &Map<String, Value>) -> Result<Evaluator> {
        let map = self.map(eval, "evaluator")?;
        self.only("the evaluator", map, &["type"])?;
        match self.class("the evaluator", map)? {
            "AccEvaluator" => Ok(Evaluator::Acc),
            "AccwithDetailsEvaluator" => Ok(Evaluator::AccWithDetails),
            "AccContaminationEvaluator" => Ok(Evaluator::AccContamination),
            "EDAccEvaluator" => Ok(Evaluator::EdAcc),
            _ => {
                let known = "AccEvaluator, AccwithDetailsEvaluator, AccContaminationEvaluator and EDAccEvaluator";
                Err(self.unknown("an evaluator", map, known))
            }
        }
    }

    fn extractor(&self, eval: &Map<String, Value>) -> Result<Extractor> {
        if eval.get("pred_postprocessor").is_none_or(Value::is_null) {
            return Ok(Extractor::Verbatim);
        }
        Extractor::parse(self.map(eval, "pred_postprocessor")?).map_err(|reason| self.error(reason))
    }
}

fn class(of: &Value) -> Option<&str> {
    of.as_str().map(|name| name.rsplit('.').next().unwrap_or(name))
}

fn loader(class: &str) -> Option<(&'static Family, &'static Loader)> {
    let of =
        |family: &&'static Family| family.loaders.iter().find(|loader| loader.class == class).map(|l| (*family, l));
    FAMILIES.iter().find_map(of)
}

/// The dataset that a dictionary is of.
pub(super) fn family(config: &Value) -> Option<&'static Family> {
    loader(class(&config["type"])?).map(|(family, _)| family)
}

/// The names by which `--subjects` takes the subset: its own, and one that tells the test split from others.
pub(super) fn subjects(config: &Value) -> [String; 2] {
    let abbr = config["abbr"].as_str().unwrap_or_default();
    let name = config["name"].as_str().unwrap_or(abbr);
    let tested = format!("test-{name}");
    let own = if abbr.ends_with(&tested) { tested } else { name.to_owned() };
    [own, name.to_owned()]
}

/// Writes a limit on the questions into a dictionary, so that the same dictionary gives the same questions.
pub(super) fn record_limit(config: &mut Value, limit: usize) {
    let reading = &mut config["reader_cfg"];
    let start = match &reading["test_range"] {
        Value::String(range) => range.trim_start_matches('[').split(':').next().map_or("", str::trim).to_owned(),
        _ => String::new(),
    };
    let range = match start.parse::<usize>() {
        Ok(start) => format!("[{start}:{}]", start + limit),
        // From the end the limit cannot be written as one slice; then it stays in the command line alone.
        Err(_) if start.is_empty() => format!("[:{limit}]"),
        Err(_) => return,
    };
    if let Some(reading) = reading.as_object_mut() {
        reading.insert("test_range".into(), range.into());
    }
}

/// See [`super::task`].
pub(super) fn task(config: &Value, source: &mut Source<'_>, strict_braces: bool) -> Result<Task> {
    let abbr = config["abbr"].as_str().unwrap_or_default().to_owned();
    let reader = Reader { abbr: &abbr };
    let Some(map) = config.as_object() else { return Err(reader.error("it is no dict")) };
    if abbr.is_empty() || abbr.contains(['/', '\\', '\0']) {
        return Err(reader.error("`abbr` must be a name that can be a file's"));
    }
    reader.only("a dataset", map, &KEYS)?;
    let class = reader.class("it", map)?;
    let Some((_, loader)) = loader(class) else {
        let known: Vec<&str> = FAMILIES.iter().flat_map(|family| family.loaders).map(|loader| loader.class).collect();
        return Err(reader.unknown("a dataset", map, &known.join(", ")));
    };
    let (reading, infer) = (reader.map(map, "reader_cfg")?, reader.map(map, "infer_cfg")?);
    let eval = reader.map(map, "eval_cfg")?;
    let columns = ["input_columns", "output_column", "train_split", "test_split", "train_range", "test_range"];
    reader.only("reader_cfg", reading, &columns)?;
    reader.only("infer_cfg", infer, &["ice_template", "prompt_template", "retriever", "inferencer"])?;
    reader.only(
        "eval_cfg",
        eval,
        &["evaluator", "pred_postprocessor", "pred_role", "analyze_contamination", "num_gpus"],
    )?;
    let output_column = reader.text(reading, "output_column")?;
    let output_column = output_column.ok_or_else(|| reader.error("`output_column` of reader_cfg is missing"))?;
    let (ids, separator, eos) = reader.retriever(reader.map(infer, "retriever")?)?;
    let prompting = Prompting {
        ice: reader.template(infer, "ice_template")?,
        prompt: reader.template(infer, "prompt_template")?,
        separator,
        eos,
        output_column,
        strict_braces,
    };
    prompting.check().map_err(|reason| reader.error(reason))?;

    let split = |key: &str, default: &str| Ok::<_, Error>(reader.text(reading, key)?.unwrap_or_else(|| default.into()));
    let (train, test) = (split("train_split", "train")?, split("test_split", "test")?);
    let mut rows = |split: &str, range: &str| -> Result<_> {
        let mut read = (loader.read)(source, config, split)?;
        let subdivision = if loader.has_splits { format!("{abbr}_{split}") } else { abbr.clone() };
        for (index, row) in read.rows.iter_mut().enumerate() {
            row.push(("subdivision".into(), subdivision.clone()));
            row.push(("idx".into(), index.to_string()));
        }
        let chosen = match reading.get(range) {
            None | Some(Value::Null) => 0..read.rows.len(),
            Some(Value::String(text)) => slice(text, read.rows.len())
                .ok_or_else(|| reader.error(format!("`{range}` is {text:?}, wanted a slice such as '[:10]'")))?,
            Some(other) => {
                let found = python::repr(other);
                return Err(reader.error(format!("`{range}` is {found}; only slices such as '[:10]' are supported")));
            }
        };
        read.rows = read.rows.drain(chosen).collect();
        Ok(read)
    };
    let mut shots = Vec::with_capacity(ids.len());
    if let Some(most) = ids.iter().max() {
        let dev = rows(&train, "train_range")?;
        if *most >= dev.rows.len() {
            let reason = format!("{} rows, but a prompt needs {} solved examples", dev.rows.len(), most + 1);
            return Err(Error::Csv { file: dev.file, line: None, reason });
        }
        shots.extend(ids.iter().map(|id| dev.rows[*id].clone()));
    }
    let test = rows(&test, "test_range")?;
    let inferencer = reader.inferencer(reader.map(infer, "inferencer")?, &prompting, test.rows.first())?;
    let columns = test.rows.first().map(|row| row.iter().map(|(name, _)| name.clone()).collect()).unwrap_or_default();
    let sample = |(index, row): (usize, Row)| {
        let gold = row.iter().find(|(name, _)| *name == prompting.output_column).map(|(_, answer)| answer.clone());
        let dictionary = loader.dictionary.filter(|(column, _)| *column == prompting.output_column);
        let reference = dictionary.map(|(_, of)| of(&row));
        Sample { index, row, gold: gold.filter(|gold| !gold.is_empty()), reference }
    };
    let samples: Vec<Sample> = test.rows.into_iter().enumerate().map(sample).collect();
    let (evaluator, extractor) = (reader.evaluator(eval)?, reader.extractor(eval)?);
    if evaluator == Evaluator::EdAcc && samples.iter().any(|sample| sample.reference.is_none()) {
        let column = &prompting.output_column;
        return Err(reader.error(format!(
            "EDAccEvaluator compares with the candidates of a dictionary, and the column `{column}` holds none"
        )));
    }
    let [subject, _] = subjects(config);
    Ok(Task {
        version: prompt_version(&config["infer_cfg"]),
        dataset_config: config.clone(),
        subject,
        samples,
        shots,
        columns,
        inferencer,
        extractor,
        evaluator,
        pred_role: reader.text(eval, "pred_role")?,
        integer_golds: loader.integers.contains(&prompting.output_column.as_str()),
        missing_annotations: test.missing_annotations,
        prompting,
        abbr,
    })
}

/// `path` of a dictionary.
///
/// # Errors
/// [`Error::Config`] where it is missing.
pub(super) fn path(config: &Value) -> Result<&str> {
    text(config, "path")
}

fn text<'a>(config: &'a Value, key: &str) -> Result<&'a str> {
    let abbr = config["abbr"].as_str().unwrap_or_default();
    config[key].as_str().ok_or_else(|| Reader { abbr }.error(format!("`{key}` is missing, or no string")))
}

/// `path` and `name` of a dictionary.
///
/// # Errors
/// [`Error::Config`] where one is missing.
pub(super) fn place(config: &Value) -> Result<(&str, &str)> {
    let abbr = config["abbr"].as_str().unwrap_or_default();
    let name = text(config, "name")?;
    if name.contains(['/', '\\', '\0']) || name.starts_with('.') {
        return Err(Reader { abbr }.error(format!("`name` is {name:?}, wanted the name of a subject")));
    }
    Ok((path(config)?, name))
}

/// Refuses a split that the dataset does not have.
///
/// # Errors
/// [`Error::Config`].
pub(super) fn check_split(dataset: &str, splits: &[&str], split: &str) -> Result<()> {
    if splits.contains(&split) {
        return Ok(());
    }
    Err(Error::Config { what: format!("{dataset} has no split `{split}`; it has {}", splits.join(", ")) })
}

/// The contamination status of `rows` rows from a file of annotations; `key` names a row in it.
///
/// # Errors
/// [`Error::Csv`] where it is no such file.
pub(super) fn contamination(
    file: &Path,
    bytes: &[u8],
    rows: usize,
    key: impl Fn(usize) -> String,
) -> Result<Vec<String>> {
    let wrong = |reason: String| Error::Csv { file: file.to_owned(), line: None, reason };
    let all: Map<String, Value> =
        serde_json::from_slice(bytes).map_err(|e| wrong(format!("no JSON object of annotations: {e}")))?;
    let status = |index: usize| match all.get(&key(index)) {
        None => Ok("not labeled".to_owned()),
        Some(entry) => {
            let status = entry.get(0).and_then(Value::as_str).map(str::to_owned);
            status.ok_or_else(|| wrong(format!("{} is {entry}, wanted a list that begins with a status", key(index))))
        }
    };
    (0..rows).map(status).collect()
}

/// The rows of Python's `[start:stop]` of `len` rows.
fn slice(text: &str, len: usize) -> Option<std::ops::Range<usize>> {
    let (start, stop) = text.trim().strip_prefix('[')?.strip_suffix(']')?.split_once(':')?;
    let bound = |text: &str, default: usize| -> Option<usize> {
        match text.trim() {
            "" => Some(default),
            text => {
                let n: i64 = text.parse().ok()?;
                let back = usize::try_from(n.unsigned_abs()).ok()?;
                Some(if n < 0 { len.saturating_sub(back) } else { back.min(len) })
            }
        }
    };
    let (start, stop) = (bound(start, 0)?, bound(stop, len)?);
    Some(start..stop.max(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_pythons() {
        for (text, wanted) in [
            ("[:3]", Some(0..3)),
            ("[2:]", Some(2..5)),
            ("[1:4]", Some(1..4)),
            ("[-2:]", Some(3..5)),
            ("[:-1]", Some(0..4)),
            ("[4:2]", Some(4..4)),
            ("[:99]", Some(0..5)),
            ("[:]", Some(0..5)),
            ("[3]", None),
            ("[::2]", None),
            (":3", None),
        ] {
            assert_eq!(slice(text, 5), wanted, "{text}");
        }
    }
}
