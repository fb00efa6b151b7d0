//! MMLU (Hendrycks et al., 2021, arXiv:2009.03300): 57 subjects of English exams, four options each.

use super::{
    Dataset, Family, Group, Loader, Rows, Source,
    build::{check_split, contamination, place},
    files::Layout,
    table::{self, Columns},
    vocabulary::{
        ICE_TOKEN, OPTIONS, PROMPT_TEMPLATE, dataset_type, each, evaluator_type, first_five, inferencer_type,
        no_examples, postprocessor_type, template,
    },
};
use crate::{Error, Result};
use serde_json::{Value, json};

const ID: &str = "opencompass/mmlu";

static LAYOUT: Layout = Layout {
    dataset: "MMLU",
    ids: &[ID],
    folders: &["mmlu", "data/mmlu", ""],
    holds: &["dev", "test"],
    archives: &[("mmlu", "mmlu/"), ("OpenCompassData-core-", "data/mmlu/")],
    expected: "<data>/mmlu/{dev,test}/<subject>_<split>.csv, or OpenCompassData-core-*.zip",
};

const COLUMNS: Columns = Columns {
    names: &[Some("input"), Some("A"), Some("B"), Some("C"), Some("D"), Some("target")],
    has_header: false,
    question: "input",
    answer: "target",
};

/// A subject, its category, and the questions of its test split, which weigh it in `mmlu-weighted`.
type Subject = (&'static str, &'static str, u16);

/// In OpenCompass's order.
static SUBJECTS: [Subject; 57] = [
    ("college_biology", STEM, 144),
    ("college_chemistry", STEM, 100),
    ("college_computer_science", STEM, 100),
    ("college_mathematics", STEM, 100),
    ("college_physics", STEM, 102),
    ("electrical_engineering", STEM, 145),
    ("astronomy", STEM, 152),
    ("anatomy", STEM, 135),
    ("abstract_algebra", STEM, 100),
    ("machine_learning", STEM, 112),
    ("clinical_knowledge", OTHER, 265),
    ("global_facts", OTHER, 100),
    ("management", OTHER, 103),
    ("nutrition", OTHER, 306),
    ("marketing", OTHER, 234),
    ("professional_accounting", OTHER, 282),
    ("high_school_geography", SOCIAL, 198),
    ("international_law", HUMANITIES, 121),
    ("moral_scenarios", HUMANITIES, 895),
    ("computer_security", STEM, 100),
    ("high_school_microeconomics", SOCIAL, 238),
    ("professional_law", HUMANITIES, 1534),
    ("medical_genetics", OTHER, 100),
    ("professional_psychology", SOCIAL, 612),
    ("jurisprudence", HUMANITIES, 108),
    ("world_religions", HUMANITIES, 171),
    ("philosophy", HUMANITIES, 311),
    ("virology", OTHER, 166),
    ("high_school_chemistry", STEM, 203),
    ("public_relations", SOCIAL, 110),
    ("high_school_macroeconomics", SOCIAL, 390),
    ("human_sexuality", SOCIAL, 131),
    ("elementary_mathematics", STEM, 378),
    ("high_school_physics", STEM, 151),
    ("high_school_computer_science", STEM, 100),
    ("high_school_european_history", HUMANITIES, 165),
    ("business_ethics", OTHER, 100),
    ("moral_disputes", HUMANITIES, 346),
    ("high_school_statistics", STEM, 216),
    ("miscellaneous", OTHER, 783),
    ("formal_logic", HUMANITIES, 126),
    ("high_school_government_and_politics", SOCIAL, 193),
    ("prehistory", HUMANITIES, 324),
    ("security_studies", SOCIAL, 245),
    ("high_school_biology", STEM, 310),
    ("logical_fallacies", HUMANITIES, 163),
    ("high_school_world_history", HUMANITIES, 237),
    ("professional_medicine", OTHER, 272),
    ("high_school_mathematics", STEM, 270),
    ("college_medicine", OTHER, 173),
    ("high_school_us_history", HUMANITIES, 204),
    ("sociology", SOCIAL, 201),
    ("econometrics", SOCIAL, 114),
    ("high_school_psychology", SOCIAL, 545),
    ("human_aging", OTHER, 223),
    ("us_foreign_policy", SOCIAL, 100),
    ("conceptual_physics", STEM, 235),
];

const STEM: &str = "stem";
const SOCIAL: &str = "social-science";
const HUMANITIES: &str = "humanities";
const OTHER: &str = "other";

pub(super) static FAMILY: Family = Family {
    name: LAYOUT.dataset,
    folder: "mmlu",
    variable: "mmlu_datasets",
    datasets: &DATASETS,
    loaders: &[
        Loader { class: "MMLUDataset", read, integers: &[], has_splits: true, dictionary: None },
        Loader { class: "MMLUDatasetClean", read: read_clean, integers: &[], has_splits: true, dictionary: None },
    ],
    groups,
};

static DATASETS: [Dataset; 9] = [
    Dataset {
        name: "mmlu_gen_4d595a",
        aliases: &[],
        about: "MMLU, 57 subjects, test split, 5 examples, the answer is generated",
        mode: "gen",
        configs: || {
            configs(&|name| rounds(name, "Question", "Answer"), "AccwithDetailsEvaluator", Some(first_option()))
        },
    },
    Dataset {
        name: "mmlu_gen_a484b3",
        aliases: &[],
        about: "the same, with `Q:` and `A:` before the last question's parts",
        mode: "gen",
        configs: || configs(&mixed_rounds, "AccEvaluator", Some(first_option())),
    },
    Dataset {
        name: "mmlu_gen_5d1409",
        aliases: &[],
        about: "the same, with `Q:` and `A:` in examples too, read by the first capital",
        mode: "gen",
        configs: || configs(&|name| rounds(name, "Q", "A"), "AccEvaluator", Some(first_capital())),
    },
    Dataset {
        name: "mmlu_gen_79e572",
        aliases: &[],
        about: "MMLU, 5 examples, the answer is generated after a plain text without roles",
        mode: "gen",
        configs: || configs(&plain, "AccEvaluator", Some(first_capital())),
    },
    Dataset {
        name: "mmlu_gen_23a9a9",
        aliases: &[],
        about: "MMLU, 5 examples, the subject is named once, by the system",
        mode: "gen",
        configs: || configs(&named_by_system, "AccEvaluator", Some(first_capital())),
    },
    Dataset {
        name: "mmlu_zero_shot_gen_47e2c0",
        aliases: &[],
        about: "MMLU, no examples, the model is asked to think before it answers",
        mode: "gen",
        configs: || configs(&zero_shot, "AccEvaluator", Some(first_option())),
    },
    Dataset {
        name: "mmlu_openai_simple_evals_gen_b618ea",
        aliases: &["mmlu_gen"],
        about: "MMLU, no examples, the last line of the answer is `ANSWER: <letter>`",
        mode: "gen",
        configs: || configs(&simple_evals, "AccEvaluator", Some(answer_line())),
    },
    Dataset {
        name: "mmlu_ppl_ac766d",
        aliases: &["mmlu_ppl"],
        about: "MMLU, 57 subjects, test split, 5 examples, the likeliest of four answers",
        mode: "ppl",
        configs: || configs(&perplexity, "AccwithDetailsEvaluator", None),
    },
    Dataset {
        name: "mmlu_clean_ppl",
        aliases: &[],
        about: "mmlu_ppl scored apart for clean and contaminated questions; needs annotations",
        mode: "ppl",
        configs: || configs(&perplexity, "AccContaminationEvaluator", None),
    },
];

fn first_capital() -> Value {
    json!({ "type": postprocessor_type("first_capital_postprocess") })
}

fn first_option() -> Value {
    json!({ "type": postprocessor_type("first_option_postprocess"), "options": "ABCD" })
}

fn answer_line() -> Value {
    json!({ "type": postprocessor_type("match_answer_pattern"), "answer_pattern": r"(?i)ANSWER\s*:\s*([A-D])" })
}

fn configs(infer: &dyn Fn(&str) -> Value, evaluator: &str, postprocessor: Option<Value>) -> Vec<Value> {
    let config = |(name, _, _): &Subject| {
        let mut eval_cfg = json!({ "evaluator": { "type": evaluator_type(evaluator) } });
        if let Some(postprocessor) = &postprocessor {
            eval_cfg["pred_postprocessor"] = postprocessor.clone();
        }
        let class = if evaluator == "AccContaminationEvaluator" {
            eval_cfg["analyze_contamination"] = true.into();
            "MMLUDatasetClean"
        } else {
            "MMLUDataset"
        };
        json!({
            "abbr": abbr(name),
            "type": dataset_type(class),
            "path": ID,
            "name": name,
            "reader_cfg": {
                "input_columns": ["input", "A", "B", "C", "D"],
                "output_column": "target",
                "train_split": "dev",
            },
            "infer_cfg": infer(&name.replace('_', " ")),
            "eval_cfg": eval_cfg,
        })
    };
    SUBJECTS.iter().map(config).collect()
}

fn abbr(name: &str) -> String {
    format!("lukaemon_mmlu_{name}")
}

const OPTION_LINES: &str = "A. {A}\nB. {B}\nC. {C}\nD. {D}";

/// What a person says: a hint, the question after `question:`, the options, and `answer: `.
fn asked(subject: &str, question: &str, answer: &str) -> Value {
    let hint =
        format!("There is a single choice question about {subject}. Answer the question by replying A, B, C or D.");
    json!({ "role": "HUMAN", "prompt": format!("{hint}\n{question}: {{input}}\n{OPTION_LINES}\n{answer}: ") })
}

fn five_shot(example: Value, question: Value) -> Value {
    json!({
        "ice_template": template(json!({ "round": [example, { "role": "BOT", "prompt": "{target}\n" }] }), None),
        "prompt_template": template(json!({ "begin": ICE_TOKEN, "round": [question] }), Some(ICE_TOKEN)),
        "retriever": first_five(),
        "inferencer": { "type": inferencer_type("GenInferencer") },
    })
}

fn rounds(subject: &str, question: &str, answer: &str) -> Value {
    five_shot(asked(subject, question, answer), asked(subject, question, answer))
}

fn mixed_rounds(subject: &str) -> Value {
    five_shot(asked(subject, "Question", "Answer"), asked(subject, "Q", "A"))
}

fn zero_shot(subject: &str) -> Value {
    let mut config = five_shot(asked(subject, "Q", "A"), asked(subject, "Q", "Let's think step by step. A"));
    config["retriever"] = no_examples();
    config["inferencer"]["max_out_len"] = 256.into();
    config
}

fn named_by_system(subject: &str) -> Value {
    let question = json!({ "role": "HUMAN", "prompt": format!("{{input}}\n{OPTION_LINES}\nAnswer: ") });
    let mut config = five_shot(question.clone(), question);
    let hint = format!("The following are multiple choice questions (with answers) about {subject}.");
    config["prompt_template"]["template"]["begin"] =
        json!([{ "role": "SYSTEM", "fallback_role": "HUMAN", "prompt": hint }, ICE_TOKEN]);
    // There it is named without its module, and so it is hashed.
    config["prompt_template"]["type"] = PROMPT_TEMPLATE.into();
    config
}

/// The heading of prompts without roles; the two spaces are OpenCompass's.
fn heading(subject: &str) -> String {
    format!("The following are multiple choice questions (with answers) about  {subject}.\n\n{ICE_TOKEN}")
}

fn plain(subject: &str) -> Value {
    let question = format!("{{input}}\n{OPTION_LINES}\nAnswer:");
    json!({
        "ice_template": template(format!("{question} {{target}}\n").into(), None),
        "prompt_template": template((heading(subject) + &question).into(), Some(ICE_TOKEN)),
        "retriever": first_five(),
        "inferencer": { "type": inferencer_type("GenInferencer") },
    })
}

fn perplexity(subject: &str) -> Value {
    let stated = |answer: &str| format!("{{input}}\n{OPTION_LINES}\nAnswer: {answer}");
    let example = |answer: &str| Value::from(stated(answer) + "\n");
    let question = |answer: &str| Value::from(heading(subject) + &stated(answer));
    json!({
        "ice_template": template(each(&OPTIONS, &example), None),
        "prompt_template": template(each(&OPTIONS, &question), Some(ICE_TOKEN)),
        "retriever": first_five(),
        "inferencer": { "type": inferencer_type("PPLInferencer") },
    })
}

fn simple_evals(_subject: &str) -> Value {
    let prompt = "Answer the following multiple choice question. The last line of your response should be of the \
                  following format: 'ANSWER: $LETTER' (without quotes) where LETTER is one of ABCD. Think step by step \
                  before answering.\n\n{input}\n\nA) {A}\nB) {B}\nC) {C}\nD) {D}";
    json!({
        "prompt_template": template(json!({ "round": [{ "role": "HUMAN", "prompt": prompt }] }), None),
        "retriever": no_examples(),
        "inferencer": { "type": inferencer_type("GenInferencer") },
    })
}

fn read(source: &mut Source<'_>, config: &Value, split: &str) -> Result<Rows> {
    check_split(LAYOUT.dataset, &["dev", "test"], split)?;
    let (path, name) = place(config)?;
    let (file, bytes) = source.files(path, &LAYOUT)?.read(&format!("{split}/{name}_{split}.csv"), name)?;
    let rows = table::positional(&file, &bytes, &COLUMNS)?;
    Ok(Rows { file, rows, missing_annotations: None })
}

/// The same with the column `is_clean` on the test split, from `test/MMLU_test_contamination_annotations.json`:
/// `{"virology 0": ["clean", …], …}`.
fn read_clean(source: &mut Source<'_>, config: &Value, split: &str) -> Result<Rows> {
    let mut read = read(source, config, split)?;
    if split != "test" {
        return Ok(read);
    }
    let (path, name) = place(config)?;
    match source.files(path, &LAYOUT)?.read("test/MMLU_test_contamination_annotations.json", name) {
        Ok((file, bytes)) => {
            let found = contamination(&file, &bytes, read.rows.len(), |index| format!("{name} {index}"))?;
            read.rows.iter_mut().zip(found).for_each(|(row, status)| row.push(("is_clean".into(), status)));
        }
        Err(Error::MissingSubject { file, .. }) => read.missing_annotations = Some(file),
        Err(other) => return Err(other),
    }
    Ok(read)
}

/// The groups of OpenCompass's MMLU summarizer.
fn groups() -> Vec<Group> {
    // Categories hold their subjects by the alphabet, and the whole holds the categories in this order.
    let mut groups: Vec<Group> = Vec::new();
    let mut all: Vec<String> = Vec::new();
    let mut weights: Vec<f64> = Vec::new();
    for category in [HUMANITIES, STEM, SOCIAL, OTHER] {
        let mut subjects: Vec<&Subject> = SUBJECTS.iter().filter(|(_, of, _)| *of == category).collect();
        subjects.sort_unstable();
        let subsets: Vec<String> = subjects.iter().map(|(name, _, _)| abbr(name)).collect();
        all.extend(subsets.clone());
        weights.extend(subjects.iter().map(|(_, _, questions)| f64::from(*questions)));
        groups.push(Group::new(format!("mmlu-{category}"), subsets));
    }
    groups.push(Group::new("mmlu", all.clone()));
    groups.push(Group { name: "mmlu-weighted".into(), subsets: all, weights });
    groups
}
