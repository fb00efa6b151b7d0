//! C-Eval (Huang et al., 2023, arXiv:2305.08322): 52 subjects of Chinese exams, four options each.

use super::{
    Dataset, Family, Group, Loader, Rows, Source,
    build::{check_split, contamination, place},
    demo,
    files::Layout,
    table,
    vocabulary::{
        ICE_TOKEN, OPTIONS, dataset_type, each, evaluator_type, first_five, inferencer_type, no_examples,
        postprocessor_type, template,
    },
};
use crate::{Error, Result};
use serde_json::{Value, json};

static LAYOUT: Layout = Layout {
    dataset: "C-Eval",
    ids: &[EXAM, INTERNAL],
    holds: &["dev", "val"],
    folders: &["ceval/formal_ceval", "data/ceval/formal_ceval", "formal_ceval", ""],
    archives: &[("ceval-exam", ""), ("OpenCompassData-core-", "data/ceval/formal_ceval/")],
    expected: "<data>/ceval/formal_ceval/{dev,val}/<subject>_<split>.csv, ceval-exam.zip, or OpenCompassData-core-*.zip",
};

/// One of the 52 subjects.
pub(super) struct Subject {
    /// In file names.
    pub name: &'static str,
    /// In prompts.
    chinese: &'static str,
    /// `stem`, `social-science`, `humanities` or `other`.
    category: &'static str,
}

const fn subject_of(name: &'static str, chinese: &'static str, category: &'static str) -> Subject {
    Subject { name, chinese, category }
}

/// In OpenCompass's order.
static SUBJECTS: [Subject; 52] = [
    subject_of("computer_network", "计算机网络", "stem"),
    subject_of("operating_system", "操作系统", "stem"),
    subject_of("computer_architecture", "计算机组成", "stem"),
    subject_of("college_programming", "大学编程", "stem"),
    subject_of("college_physics", "大学物理", "stem"),
    subject_of("college_chemistry", "大学化学", "stem"),
    subject_of("advanced_mathematics", "高等数学", "stem"),
    subject_of("probability_and_statistics", "概率统计", "stem"),
    subject_of("discrete_mathematics", "离散数学", "stem"),
    subject_of("electrical_engineer", "注册电气工程师", "stem"),
    subject_of("metrology_engineer", "注册计量师", "stem"),
    subject_of("high_school_mathematics", "高中数学", "stem"),
    subject_of("high_school_physics", "高中物理", "stem"),
    subject_of("high_school_chemistry", "高中化学", "stem"),
    subject_of("high_school_biology", "高中生物", "stem"),
    subject_of("middle_school_mathematics", "初中数学", "stem"),
    subject_of("middle_school_biology", "初中生物", "stem"),
    subject_of("middle_school_physics", "初中物理", "stem"),
    subject_of("middle_school_chemistry", "初中化学", "stem"),
    subject_of("veterinary_medicine", "兽医学", "stem"),
    subject_of("college_economics", "大学经济学", "social-science"),
    subject_of("business_administration", "工商管理", "social-science"),
    subject_of("marxism", "马克思主义基本原理", "social-science"),
    subject_of("mao_zedong_thought", "毛泽东思想和中国特色社会主义理论体系概论", "social-science"),
    subject_of("education_science", "教育学", "social-science"),
    subject_of("teacher_qualification", "教师资格", "social-science"),
    subject_of("high_school_politics", "高中政治", "social-science"),
    subject_of("high_school_geography", "高中地理", "social-science"),
    subject_of("middle_school_politics", "初中政治", "social-science"),
    subject_of("middle_school_geography", "初中地理", "social-science"),
    subject_of("modern_chinese_history", "近代史纲要", "humanities"),
    subject_of("ideological_and_moral_cultivation", "思想道德修养与法律基础", "humanities"),
    subject_of("logic", "逻辑学", "humanities"),
    subject_of("law", "法学", "humanities"),
    subject_of("chinese_language_and_literature", "中国语言文学", "humanities"),
    subject_of("art_studies", "艺术学", "humanities"),
    subject_of("professional_tour_guide", "导游资格", "humanities"),
    subject_of("legal_professional", "法律职业资格", "humanities"),
    subject_of("high_school_chinese", "高中语文", "humanities"),
    subject_of("high_school_history", "高中历史", "humanities"),
    subject_of("middle_school_history", "初中历史", "humanities"),
    subject_of("civil_servant", "公务员", "other"),
    subject_of("sports_science", "体育学", "other"),
    subject_of("plant_protection", "植物保护", "other"),
    subject_of("basic_medicine", "基础医学", "other"),
    subject_of("clinical_medicine", "临床医学", "other"),
    subject_of("urban_and_rural_planner", "注册城乡规划师", "other"),
    subject_of("accountant", "注册会计师", "other"),
    subject_of("fire_engineer", "注册消防工程师", "other"),
    subject_of("environmental_impact_assessment_engineer", "环境影响评价工程师", "other"),
    subject_of("tax_accountant", "税务师", "other"),
    subject_of("physician", "医师资格", "other"),
];

/// The subjects of `ceval-hard`, in OpenCompass's order.
const HARD: [&str; 8] = [
    "advanced_mathematics",
    "discrete_mathematics",
    "probability_and_statistics",
    "college_chemistry",
    "college_physics",
    "high_school_mathematics",
    "high_school_chemistry",
    "high_school_physics",
];

/// The subject of this name, which must be one of the 52.
pub(super) fn subject(name: &str) -> &'static Subject {
    SUBJECTS.iter().find(|subject| subject.name == name).expect("a subject of C-Eval")
}

const EXAM: &str = "opencompass/ceval-exam";
const INTERNAL: &str = "./data/ceval_internal/formal_ceval";
const VAL: &[&str] = &["val"];
const BOTH: &[&str] = &["val", "test"];

pub(super) static FAMILY: Family = Family {
    name: LAYOUT.dataset,
    folder: "ceval",
    variable: "ceval_datasets",
    datasets: &DATASETS,
    loaders: &[
        Loader { class: "CEvalDataset", read, integers: &[], has_splits: true, dictionary: None },
        Loader { class: "CEvalDatasetClean", read: read_clean, integers: &[], has_splits: true, dictionary: None },
    ],
    groups,
};

static DATASETS: [Dataset; 9] = [
    Dataset {
        name: "ceval_gen_5f30c7",
        aliases: &["ceval_gen"],
        about: "C-Eval, 52 subjects, validation split, 5 examples, the answer is generated",
        mode: "gen",
        configs: || configs(VAL, EXAM, Kind::FewShot),
    },
    Dataset {
        name: "ceval_gen_2daf24",
        aliases: &[],
        about: "the same on the validation split and the unlabelled test split",
        mode: "gen",
        configs: || configs(BOTH, EXAM, Kind::FewShot),
    },
    Dataset {
        name: "ceval_zero_shot_gen_bd40ef",
        aliases: &[],
        about: "C-Eval, validation split, no examples, the model is asked to think before it answers",
        mode: "gen",
        configs: || configs(VAL, EXAM, Kind::ZeroShot),
    },
    Dataset {
        name: "ceval_ppl_578f8d",
        aliases: &["ceval_ppl"],
        about: "C-Eval, 52 subjects, validation split, 5 examples, the likeliest of four answers",
        mode: "ppl",
        configs: || configs(VAL, EXAM, Kind::Perplexity("AccEvaluator")),
    },
    Dataset {
        name: "ceval_ppl_93e5ce",
        aliases: &[],
        about: "the same on the validation split and the unlabelled test split",
        mode: "ppl",
        configs: || configs(BOTH, EXAM, Kind::Perplexity("AccEvaluator")),
    },
    Dataset {
        name: "ceval_ppl_1cd8bf",
        aliases: &[],
        about: "the likeliest of four answers, in a plain text without roles, both splits",
        mode: "ppl",
        configs: || configs(BOTH, EXAM, Kind::Plain),
    },
    Dataset {
        name: "ceval_internal_ppl_93e5ce",
        aliases: &[],
        about: "ceval_ppl_93e5ce on data/ceval_internal, whose test split has answers; else on C-Eval's own data",
        mode: "ppl",
        configs: || configs(BOTH, INTERNAL, Kind::Perplexity("AccwithDetailsEvaluator")),
    },
    Dataset {
        name: "ceval_internal_ppl_1cd8bf",
        aliases: &[],
        about: "another name of ceval_ppl_1cd8bf",
        mode: "ppl",
        configs: || configs(BOTH, EXAM, Kind::Plain),
    },
    Dataset {
        name: "ceval_clean_ppl",
        aliases: &[],
        about: "ceval_ppl scored apart for clean and contaminated questions; needs annotations",
        mode: "ppl",
        configs: || configs(VAL, EXAM, Kind::Perplexity("AccContaminationEvaluator")),
    },
];

/// The five kinds of C-Eval's configurations; of perplexities with the evaluator.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    FewShot,
    ZeroShot,
    Perplexity(&'static str),
    Plain,
}

fn configs(splits: &[&str], path: &str, kind: Kind) -> Vec<Value> {
    let of_split = |split: &&str| {
        let split = (*split).to_owned();
        SUBJECTS.iter().map(move |subject| {
            config(subject, if split == "val" { "ceval" } else { "ceval-test" }, path, &split, kind)
        })
    };
    splits.iter().flat_map(of_split).collect()
}

/// One subset: `<abbr>-<subject>`.
pub(super) fn config(subject: &Subject, abbr: &str, path: &str, split: &str, kind: Kind) -> Value {
    let evaluator = if let Kind::Perplexity(evaluator) = kind { evaluator } else { "AccEvaluator" };
    let mut eval_cfg = json!({ "evaluator": { "type": evaluator_type(evaluator) } });
    match kind {
        Kind::FewShot => {
            eval_cfg["pred_postprocessor"] = json!({ "type": postprocessor_type("first_capital_postprocess") })
        }
        Kind::ZeroShot => {
            eval_cfg["pred_postprocessor"] =
                json!({ "type": postprocessor_type("first_option_postprocess"), "options": "ABCD" });
        }
        Kind::Perplexity(_) | Kind::Plain => {}
    }
    let class = if evaluator == "AccContaminationEvaluator" {
        eval_cfg["analyze_contamination"] = true.into();
        "CEvalDatasetClean"
    } else {
        "CEvalDataset"
    };
    let mut config = json!({
        "type": dataset_type(class),
        "path": path,
        "name": subject.name,
        "abbr": format!("{abbr}-{}", subject.name),
        "reader_cfg": {
            "input_columns": ["question", "A", "B", "C", "D"],
            "output_column": "answer",
            "train_split": "dev",
            "test_split": split,
        },
        "infer_cfg": infer_config(subject, kind),
        "eval_cfg": eval_cfg,
    });
    if path == INTERNAL {
        config["local_mode"] = true.into();
    }
    config
}

fn infer_config(subject: &Subject, kind: Kind) -> Value {
    let thought = if matches!(kind, Kind::ZeroShot) { "让我们一步一步思考。" } else { "" };
    let asked = format!(
        "以下是中国关于{}考试的单项选择题，请选出其中的正确答案。\n{{question}}\nA. {{A}}\nB. {{B}}\nC. {{C}}\nD. {{D}}\n{thought}答案: ",
        subject.chinese
    );
    let rounds = |answer: &str| {
        json!({
            "begin": ICE_TOKEN,
            "round": [{ "role": "HUMAN", "prompt": asked }, { "role": "BOT", "prompt": answer }],
        })
    };
    match kind {
        Kind::FewShot => json!({
            "ice_template": template(rounds("{answer}"), Some(ICE_TOKEN)),
            "retriever": first_five(),
            "inferencer": { "type": inferencer_type("GenInferencer") },
        }),
        Kind::ZeroShot => json!({
            "ice_template": template(rounds("{answer}"), Some(ICE_TOKEN)),
            "retriever": no_examples(),
            "inferencer": { "type": inferencer_type("GenInferencer"), "max_out_len": 256 },
        }),
        Kind::Perplexity(_) => json!({
            "ice_template": template(each(&OPTIONS, &rounds), Some(ICE_TOKEN)),
            "retriever": first_five(),
            "inferencer": { "type": inferencer_type("PPLInferencer") },
        }),
        Kind::Plain => {
            let stated = |answer: &str| format!("{{question}}\nA. {{A}}\nB. {{B}}\nC. {{C}}\nD. {{D}}\n答案: {answer}");
            let hint = format!("以下是关于{}的单项选择题，请直接给出正确答案的选项。", subject.chinese);
            let example = |answer: &str| Value::from(stated(answer) + "\n");
            let question = |answer: &str| Value::from(format!("{hint}\n{ICE_TOKEN}{}", stated(answer)));
            json!({
                "ice_template": template(each(&OPTIONS, &example), None),
                "prompt_template": template(each(&OPTIONS, &question), Some(ICE_TOKEN)),
                "retriever": first_five(),
                "inferencer": { "type": inferencer_type("PPLInferencer") },
            })
        }
    }
}

/// One split of a subject: OpenCompass gives every row an explanation and an answer, empty where there is none.
fn read(source: &mut Source<'_>, config: &Value, split: &str) -> Result<Rows> {
    let (path, name) = place(config)?;
    let (file, bytes) = match demo::file(path, name, split) {
        Some(found) => found,
        None => {
            check_split(LAYOUT.dataset, &["dev", "val", "test"], split)?;
            source.files(path, &LAYOUT)?.read(&format!("{split}/{name}_{split}.csv"), name)?
        }
    };
    let mut rows = table::read(&file, &bytes, split != "test")?;
    for row in &mut rows {
        for column in ["explanation", "answer"] {
            if !row.iter().any(|(name, _)| name == column) {
                row.push((column.into(), String::new()));
            }
        }
    }
    Ok(Rows { file, rows, missing_annotations: None })
}

/// The same with the column `is_clean` on the validation split, from `val/ceval_contamination_annotations.json`:
/// `{"law-0": ["clean", …], …}`.
fn read_clean(source: &mut Source<'_>, config: &Value, split: &str) -> Result<Rows> {
    let mut read = read(source, config, split)?;
    if split != "val" {
        return Ok(read);
    }
    let (path, name) = place(config)?;
    let annotations = "val/ceval_contamination_annotations.json";
    match source.files(path, &LAYOUT)?.read(annotations, name) {
        Ok((file, bytes)) => {
            for (index, status) in
                contamination(&file, &bytes, read.rows.len(), |i| format!("{name}-{i}"))?.into_iter().enumerate()
            {
                read.rows[index].push(("is_clean".into(), status));
            }
        }
        Err(Error::MissingSubject { file, .. }) => read.missing_annotations = Some(file),
        Err(other) => return Err(other),
    }
    Ok(read)
}

/// The groups of OpenCompass's C-Eval summarizer: six over the validation split, and the same over the test split.
pub(super) fn groups() -> Vec<Group> {
    ["ceval", "ceval-test"].into_iter().flat_map(groups_of).collect()
}

/// The groups of the subsets whose names begin with `split`.
fn groups_of(split: &str) -> Vec<Group> {
    let subset = |name: &str| format!("{split}-{name}");
    let category = |category: &str| {
        let subjects = SUBJECTS.iter().filter(|s| s.category == category);
        Group::new(subset(category), subjects.map(|s| subset(s.name)).collect())
    };
    let mut groups: Vec<Group> = ["stem", "social-science", "humanities", "other"].into_iter().map(category).collect();
    groups.push(Group::new(subset("hard"), HARD.iter().map(|name| subset(name)).collect()));
    groups.push(Group::new(split, SUBJECTS.iter().map(|s| subset(s.name)).collect()));
    groups
}
