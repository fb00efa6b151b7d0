//! The Winograd schema challenge (Levesque et al., 2012): which of two nouns a pronoun stands for; 285 questions.

use super::{
    Dataset, Family, Loader, Rows, Source, build,
    files::Layout,
    lines,
    vocabulary::{dataset_type, evaluator_type, inferencer_type, no_examples, template},
};
use crate::{Error, Result, integer_key};
use serde_json::{Map, Value, json};

/// OpenCompass has the Hugging Face hub load it, so there is no local layout of its own: the rows lie here as
/// `to_json` of the `datasets` library writes them.
const ID: &str = "winograd_wsc";

static LAYOUT: Layout = Layout {
    dataset: "Winograd",
    ids: &[ID],
    folders: &["winograd_wsc", "winograd", "data/winograd_wsc", "data/winograd", ""],
    holds: &["wsc285", "wsc273", "wsc285.jsonl", "wsc273.jsonl"],
    archives: &[],
    expected: "<data>/winograd_wsc/wsc285/test.jsonl, what `load_dataset('winograd_wsc', 'wsc285')['test'].to_json(…)` \
               writes: text, pronoun, options, label, …",
};

pub(super) static FAMILY: Family = Family {
    name: LAYOUT.dataset,
    folder: "winograd",
    variable: "winograd_datasets",
    datasets: &DATASETS,
    loaders: &[Loader { class: "WinogradDataset", read, integers: &["label"], has_splits: true, dictionary: None }],
    groups: Vec::new,
};

static DATASETS: [Dataset; 2] = [
    Dataset {
        name: "winograd_ppl_b6c7ed",
        aliases: &["winograd_ppl"],
        about: "Winograd schemas, 285 questions, no examples, the likelier of two answers",
        mode: "ppl",
        configs: || {
            let body = |n| json!({ "round": [{ "role": "HUMAN", "prompt": asked(n, "") }] });
            vec![config(&["prompt", "pronoun", "opt1", "opt2"], &body)]
        },
    },
    Dataset {
        name: "winograd_ppl_8f3049",
        aliases: &[],
        about: "the same with a full stop, in a plain text without roles",
        mode: "ppl",
        configs: || vec![config(&["opt1", "opt2"], &|n| asked(n, ".").into())],
    },
];

fn asked(n: i64, end: &str) -> String {
    format!("{{prompt}} Q: In the previous text, what does '{{pronoun}}' refer to? A: {{opt{}}}{end}", n + 1)
}

fn config(columns: &[&str], body: &dyn Fn(i64) -> Value) -> Value {
    let bodies: Map<String, Value> = (0..2).map(|n| (integer_key(n), body(n))).collect();
    json!({
        "abbr": "winograd",
        "type": dataset_type("WinogradDataset"),
        "path": ID,
        "trust_remote_code": true,
        "name": "wsc285",
        "reader_cfg": {
            "input_columns": columns,
            "output_column": "label",
            "train_split": "test",
            "test_split": "test",
        },
        "infer_cfg": {
            "prompt_template": template(Value::Object(bodies), None),
            "retriever": no_examples(),
            "inferencer": { "type": inferencer_type("PPLInferencer") },
        },
        "eval_cfg": { "evaluator": { "type": evaluator_type("AccEvaluator") } },
    })
}

/// The columns of the data but `options` and `source`; `text` is called `prompt`, and the options `opt1` and `opt2`.
fn read(source: &mut Source<'_>, config: &Value, split: &str) -> Result<Rows> {
    build::check_split(LAYOUT.dataset, &["test"], split)?;
    let (path, name) = build::place(config)?;
    let files = source.files(path, &LAYOUT)?;
    let (file, bytes) = match files.read(&format!("{name}/test.jsonl"), name) {
        Err(Error::MissingSubject { .. }) => files.read(&format!("{name}.jsonl"), name)?,
        found => found?,
    };
    let mut rows = Vec::new();
    for (line, mut object) in lines::objects(&file, &bytes)? {
        let wrong = |reason: &str| Error::Csv { file: file.clone(), line: Some(line), reason: reason.into() };
        let prompt = lines::text(&file, line, &object, "text")?.to_owned();
        lines::text(&file, line, &object, "pronoun")?;
        let options: Vec<String> = object
            .get("options")
            .and_then(|options| serde_json::from_value(options.clone()).ok())
            .filter(|options: &Vec<String>| options.len() == 2)
            .ok_or_else(|| wrong("`options` must be two texts"))?;
        if !object.get("label").and_then(Value::as_i64).is_some_and(|label| (0..2).contains(&label)) {
            return Err(wrong("`label` must be 0 or 1"));
        }
        for column in ["text", "options", "source"] {
            object.shift_remove(column);
        }
        let mut row = lines::row(object);
        row.push(("prompt".into(), prompt));
        row.extend(["opt1", "opt2"].map(str::to_owned).into_iter().zip(options));
        rows.push(row);
    }
    Ok(Rows { file, rows, missing_annotations: None })
}
