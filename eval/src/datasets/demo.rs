//! The built-in demonstration set: eight subjects of original questions in C-Eval's format. It is not C-Eval.

use super::{
    Dataset, Family, Group,
    ceval::{self, Kind},
};
use serde_json::Value;
use std::path::PathBuf;

const NAME: &str = "ceval_demo";

struct Embedded {
    subject: &'static str,
    dev: &'static str,
    val: &'static str,
}

macro_rules! embedded {
    ($($subject:literal),+ $(,)?) => {
        [$(Embedded {
            subject: $subject,
            dev: include_str!(concat!("../../../data/demo/formal_ceval/dev/", $subject, "_dev.csv")),
            val: include_str!(concat!("../../../data/demo/formal_ceval/val/", $subject, "_val.csv")),
        }),+]
    };
}

static FILES: [Embedded; 8] = embedded![
    "computer_network",
    "operating_system",
    "high_school_physics",
    "middle_school_biology",
    "college_economics",
    "high_school_geography",
    "logic",
    "law",
];

pub(super) static FAMILY: Family = Family {
    name: NAME,
    folder: "",
    variable: "ceval_demo_datasets",
    datasets: &DATASETS,
    // Its rows are read as C-Eval's.
    loaders: &[],
    groups,
};

static DATASETS: [Dataset; 2] = [
    Dataset {
        name: "ceval_demo_gen",
        aliases: &[],
        about: "built-in demonstration in C-Eval's format, 8 subjects, 80 questions; NOT C-Eval",
        mode: "gen",
        configs: || configs(Kind::FewShot),
    },
    Dataset {
        name: "ceval_demo_ppl",
        aliases: &[],
        about: "the same, by the likeliest of four answers; NOT C-Eval",
        mode: "ppl",
        configs: || configs(Kind::Perplexity("AccEvaluator")),
    },
];

/// In C-Eval's order of subjects.
fn configs(kind: Kind) -> Vec<Value> {
    FILES.iter().map(|files| ceval::config(ceval::subject(files.subject), NAME, NAME, "val", kind)).collect()
}

/// The embedded file of `subject`, if `path` names this set.
pub(super) fn file(path: &str, subject: &str, split: &str) -> Option<(PathBuf, Vec<u8>)> {
    let files = FILES.iter().find(|files| path == NAME && files.subject == subject)?;
    let text = match split {
        "dev" => files.dev,
        "val" => files.val,
        _ => return None,
    };
    Some((PathBuf::from(format!("{NAME}/{split}/{subject}_{split}.csv")), text.as_bytes().to_vec()))
}

/// One group of all subjects.
fn groups() -> Vec<Group> {
    vec![Group::new(NAME, FILES.iter().map(|files| format!("{NAME}-{}", files.subject)).collect())]
}
