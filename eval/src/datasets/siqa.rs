//! Social IQa (Sap et al., 2019, arXiv:1904.09728): questions about everyday situations, three options each.

use super::{
    Dataset, Family, Loader, Rows, Source, build,
    files::Layout,
    lines,
    vocabulary::{dataset_type, evaluator_type, inferencer_type, no_examples, postprocessor_type, template},
};
use crate::{Error, Result, Row, integer_key, python};
use serde_json::{Map, Value, json};

const ID: &str = "opencompass/siqa";

static LAYOUT: Layout = Layout {
    dataset: "SIQA",
    ids: &[ID],
    folders: &["siqa", "data/siqa", ""],
    holds: &["dev.jsonl", "train.jsonl"],
    archives: &[("siqa", "siqa/"), ("OpenCompassData-core-", "data/siqa/")],
    expected: "<data>/siqa/{train,dev}.jsonl with {train,dev}-labels.lst, or OpenCompassData-core-*.zip",
};

pub(super) static FAMILY: Family = Family {
    name: LAYOUT.dataset,
    folder: "siqa",
    variable: "siqa_datasets",
    datasets: &DATASETS,
    loaders: &[
        Loader { class: "siqaDataset", read: read_numbered, integers: &["label"], has_splits: true, dictionary: None },
        Loader {
            class: "siqaDataset_V2",
            read: read_candidates,
            integers: &[],
            has_splits: true,
            dictionary: Some((ALL_LABELS, candidates)),
        },
        Loader { class: "SiqaDatasetV3", read: read_lettered, integers: &[], has_splits: true, dictionary: None },
    ],
    groups: Vec::new,
};

static DATASETS: [Dataset; 6] = [
    Dataset {
        name: "siqa_gen_18632c",
        aliases: &["siqa_gen"],
        about: "Social IQa, validation split, no examples, the answer is generated",
        mode: "gen",
        configs: || vec![generated()],
    },
    Dataset {
        name: "siqa_gen_e78df3",
        aliases: &[],
        about: "the same, and the option nearest to the answer by edit distance is taken",
        mode: "gen",
        configs: || vec![matched()],
    },
    Dataset {
        name: "siqa_ppl_ced5f6",
        aliases: &["siqa_ppl"],
        about: "Social IQa, validation split, no examples, the likeliest of three answers",
        mode: "ppl",
        configs: || {
            let body = |n: i64| rounds("{context}\nQuestion: {question}\nAnswer:", &format!("{{answer{}}}", letter(n)));
            vec![scored(&integer_key, &body)]
        },
    },
    Dataset {
        name: "siqa_ppl_e8d8c5",
        aliases: &[],
        about: "the same with the options in the question, and a letter as the answer",
        mode: "ppl",
        configs: || {
            let asked = "{context}\nQuestion: {question}\nA. {answerA}\nB. {answerB}\nC. {answerC}";
            let body = |n: i64| rounds(asked, &format!("Answer: {}", letter(n)));
            vec![scored(&|n| n.to_string(), &body)]
        },
    },
    Dataset {
        name: "siqa_ppl_7845b0",
        aliases: &[],
        about: "the likeliest of three answers, in a plain text without roles",
        mode: "ppl",
        configs: || vec![scored(&integer_key, &|n| plain("", n))],
    },
    Dataset {
        name: "siqa_ppl_42bc6e",
        aliases: &[],
        about: "the same under a heading",
        mode: "ppl",
        configs: || vec![scored(&integer_key, &|n| plain("The following makes sense:\n ", n))],
    },
];

fn letter(n: i64) -> char {
    ['A', 'B', 'C'][usize::try_from(n - 1).unwrap_or(0).min(2)]
}

fn rounds(asked: &str, answer: &str) -> Value {
    json!({ "round": [{ "role": "HUMAN", "prompt": asked }, { "role": "BOT", "prompt": answer }] })
}

fn plain(heading: &str, n: i64) -> Value {
    format!("{heading}{{context}} \nQ: {{question}}\nA: {{answer{}}}", letter(n)).into()
}

fn config(class: &str, columns: &[&str], output: &str, infer_cfg: Value, eval_cfg: Value) -> Value {
    json!({
        "abbr": "siqa",
        "type": dataset_type(class),
        "path": ID,
        "reader_cfg": { "input_columns": columns, "output_column": output, "test_split": "validation" },
        "infer_cfg": infer_cfg,
        "eval_cfg": eval_cfg,
    })
}

fn generated() -> Value {
    let prompt = "{context}\nQuestion: {question}\nA. {A}\nB. {B}\nC. {C}\nAnswer:";
    let infer_cfg = json!({
        "prompt_template": template(json!({ "round": [{ "role": "HUMAN", "prompt": prompt }] }), None),
        "retriever": no_examples(),
        "inferencer": { "type": inferencer_type("GenInferencer") },
    });
    let eval_cfg = json!({
        "evaluator": { "type": evaluator_type("AccEvaluator") },
        "pred_postprocessor": {
            "type": postprocessor_type("first_option_postprocess"),
            "options": "ABC",
            "cushion": false,
        },
    });
    config("SiqaDatasetV3", &["context", "question", "A", "B", "C"], "answer", infer_cfg, eval_cfg)
}

fn matched() -> Value {
    let prompt = "{context}\nQuestion: {question}\nA. {answerA}\nB. {answerB}\nC. {answerC}\nAnswer:";
    let infer_cfg = json!({
        "prompt_template": template(json!({ "round": [{ "role": "HUMAN", "prompt": prompt }] }), None),
        "retriever": no_examples(),
        "inferencer": { "type": inferencer_type("GenInferencer") },
    });
    let eval_cfg = json!({ "evaluator": { "type": evaluator_type("EDAccEvaluator") }, "pred_role": "BOT" });
    let columns = ["context", "question", "answerA", "answerB", "answerC"];
    config("siqaDataset_V2", &columns, ALL_LABELS, infer_cfg, eval_cfg)
}

/// Perplexities of three bodies under the keys 1, 2 and 3, which are numbers or texts.
fn scored(key: &dyn Fn(i64) -> String, body: &dyn Fn(i64) -> Value) -> Value {
    let bodies: Map<String, Value> = (1..=3).map(|n| (key(n), body(n))).collect();
    let infer_cfg = json!({
        "prompt_template": template(Value::Object(bodies), None),
        "retriever": no_examples(),
        "inferencer": { "type": inferencer_type("PPLInferencer") },
    });
    let eval_cfg = json!({ "evaluator": { "type": evaluator_type("AccEvaluator") } });
    config("siqaDataset", &["context", "question", "answerA", "answerB", "answerC"], "label", infer_cfg, eval_cfg)
}

/// Adds the label of one row, 1 to 3, to it.
type Label = fn(Row, usize) -> Row;

/// `siqaDataset`: options `answerA` to `answerC`, and `label` 1 to 3.
fn read_numbered(source: &mut Source<'_>, config: &Value, split: &str) -> Result<Rows> {
    read(source, config, split, |mut row, label| {
        row.push(("label".into(), label.to_string()));
        row
    })
}

/// The column of `siqaDataset_V2` that holds the right answer and the others.
const ALL_LABELS: &str = "all_labels";

/// `siqaDataset_V2`: options `answerA` to `answerC`, `all_labels`, see [`candidates`], and the letter as `label`.
fn read_candidates(source: &mut Source<'_>, config: &Value, split: &str) -> Result<Rows> {
    read(source, config, split, |mut row, label| {
        row.retain(|(name, _)| name != "label");
        row.push(("label".into(), LETTERS[label - 1].into()));
        let all = python::repr(&candidates(&row));
        row.insert(row.len() - 1, (ALL_LABELS.into(), all));
        row
    })
}

/// The three ways to write each option, and the number of the right one, from 0.
fn candidates(row: &Row) -> Value {
    let field = |name: &str| row.iter().find(|(column, _)| column == name).map_or("", |(_, text)| text.as_str());
    let candidate = |(letter, option): (&str, &str)| {
        let text = field(option);
        json!([format!("{letter}. {text}"), letter, text])
    };
    let all: Vec<Value> = LETTERS.into_iter().zip(OPTIONS).map(candidate).collect();
    json!({ "candidates": all, "label": LETTERS.iter().position(|letter| *letter == field("label")) })
}

/// `SiqaDatasetV3`: options `A` to `C`, and their letter as `answer`, after all other columns.
fn read_lettered(source: &mut Source<'_>, config: &Value, split: &str) -> Result<Rows> {
    read(source, config, split, |row, label| {
        let (options, mut row): (Row, Row) = row.into_iter().partition(|(name, _)| OPTIONS.contains(&name.as_str()));
        for (option, letter) in OPTIONS.into_iter().zip(LETTERS) {
            let text = options.iter().find(|(name, _)| name == option).map(|(_, text)| text.clone());
            row.push((letter.into(), text.unwrap_or_default()));
        }
        row.push(("answer".into(), LETTERS[label - 1].into()));
        row
    })
}

const LETTERS: [&str; 3] = ["A", "B", "C"];
const OPTIONS: [&str; 3] = ["answerA", "answerB", "answerC"];

fn read(source: &mut Source<'_>, config: &Value, split: &str, labelled: Label) -> Result<Rows> {
    build::check_split(LAYOUT.dataset, &["train", "validation"], split)?;
    let name = if split == "train" { "train" } else { "dev" };
    let files = source.files(build::path(config)?, &LAYOUT)?;
    let (file, bytes) = files.read(&format!("{name}.jsonl"), "siqa")?;
    let (label_file, label_bytes) = files.read(&format!("{name}-labels.lst"), "siqa")?;
    let objects = lines::objects(&file, &bytes)?;
    let labels = lines::texts(&label_file, &label_bytes)?;
    if objects.len() != labels.len() {
        let reason = format!("{} labels for the {} rows of {}", labels.len(), objects.len(), file.display());
        return Err(Error::Csv { file: label_file, line: None, reason });
    }
    let mut rows = Vec::with_capacity(objects.len());
    for ((line, object), (label_line, label)) in objects.into_iter().zip(labels) {
        for key in ["context", "question"].into_iter().chain(OPTIONS) {
            lines::text(&file, line, &object, key)?;
        }
        let Some(label) = label.parse().ok().filter(|label| (1..=3).contains(label)) else {
            let reason = format!("the label is {label:?}, wanted 1, 2 or 3");
            return Err(Error::Csv { file: label_file, line: Some(label_line), reason });
        };
        rows.push(labelled(lines::row(object), label));
    }
    Ok(Rows { file, rows, missing_annotations: None })
}
