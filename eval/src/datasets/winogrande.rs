//! WinoGrande (Sakaguchi et al., 2019, arXiv:1907.10641): which of two words fills a gap.

use super::{
    Dataset, Family, Loader, Rows, Source, build,
    files::Layout,
    lines,
    vocabulary::{dataset_type, evaluator_type, inferencer_type, no_examples, template},
};
use crate::{Error, Result, integer_key};
use serde_json::{Map, Value, json};

const ID: &str = "opencompass/winogrande";

static LAYOUT: Layout = Layout {
    dataset: "WinoGrande",
    ids: &[ID],
    folders: &["winogrande", "data/winogrande", ""],
    holds: &["dev.jsonl"],
    archives: &[("winogrande", "winogrande/"), ("OpenCompassData-core-", "data/winogrande/")],
    expected: "<data>/winogrande/dev.jsonl, or OpenCompassData-core-*.zip",
};

pub(super) static FAMILY: Family = Family {
    name: LAYOUT.dataset,
    folder: "winogrande",
    variable: "winogrande_datasets",
    datasets: &DATASETS,
    loaders: &[Loader { class: "WinograndeDataset", read, integers: &[], has_splits: false, dictionary: None }],
    groups: Vec::new,
};

static DATASETS: [Dataset; 1] = [Dataset {
    name: "winogrande_ll_c5cf57",
    aliases: &["winogrande_ll"],
    about: "WinoGrande, development split, no examples, by log-likelihoods of the whole sentences",
    mode: "ll",
    configs: || vec![config()],
}];

fn config() -> Value {
    let bodies: Map<String, Value> = (1..=2).map(|n| (integer_key(n), format!("{{opt{n}}}").into())).collect();
    json!({
        "abbr": "winogrande",
        "type": dataset_type("WinograndeDataset"),
        "path": ID,
        "reader_cfg": { "input_columns": ["opt1", "opt2"], "output_column": "answer" },
        "infer_cfg": {
            "prompt_template": template(Value::Object(bodies), None),
            "retriever": no_examples(),
            "inferencer": { "type": inferencer_type("LLInferencer") },
        },
        "eval_cfg": { "evaluator": { "type": evaluator_type("AccEvaluator") } },
    })
}

/// The one file, for whichever split is asked: the sentence, the words, the sentence with each word in the gap, the
/// answer, and what follows the gap as `cont`.
fn read(source: &mut Source<'_>, config: &Value, _split: &str) -> Result<Rows> {
    let (file, bytes) = source.files(build::path(config)?, &LAYOUT)?.read("dev.jsonl", "winogrande")?;
    let mut rows = Vec::new();
    for (line, object) in lines::objects(&file, &bytes)? {
        let text = |key: &str| lines::text(&file, line, &object, key);
        let (sentence, one, two) = (text("sentence")?, text("option1")?, text("option2")?);
        let Some(cont) = sentence.split('_').nth(1) else {
            let reason = format!("the sentence {sentence:?} has no gap `_`");
            return Err(Error::Csv { file, line: Some(line), reason });
        };
        let (first, second) = (sentence.replace('_', one), sentence.replace('_', two));
        let fields = [
            ("prompt", sentence),
            ("only_option1", one),
            ("only_option2", two),
            ("opt1", &first),
            ("opt2", &second),
            ("answer", text("answer")?),
            ("cont", cont),
        ];
        rows.push(fields.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec());
    }
    Ok(Rows { file, rows, missing_annotations: None })
}
