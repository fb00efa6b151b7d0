//! The built-in demonstration set: eight subjects of original questions in C-Eval's format. It is not C-Eval.

use super::{
    Group,
    ceval::{self, Subject},
    table,
};
use crate::{EvalConfig, Result, task::Task};
use std::path::Path;

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

/// The tasks, in C-Eval's order of subjects.
pub(super) fn load(config: &EvalConfig) -> Result<Vec<Task>> {
    let chosen = crate::task::choose(&FILES, |files| files.subject, &config.subjects, NAME)?;
    let task = |files: &Embedded| {
        let subject: &Subject = ceval::subject(files.subject);
        let file = |split: &str| format!("{NAME}/{split}/{}_{split}.csv", subject.name);
        let dev = table::read(Path::new(&file("dev")), files.dev.as_bytes(), true)?;
        let val = table::read(Path::new(&file("val")), files.val.as_bytes(), true)?;
        ceval::task(subject, NAME, NAME, (Path::new(&file("dev")), dev), val)
    };
    chosen.into_iter().map(task).collect()
}

/// One group of all subjects.
pub(super) fn groups() -> Vec<Group> {
    let subsets = FILES.iter().map(|files| format!("{NAME}-{}", files.subject)).collect();
    vec![Group { name: NAME.into(), subsets }]
}
