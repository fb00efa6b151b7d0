//! C-Eval (Huang et al., 2023, arXiv:2305.08322): 52 subjects of Chinese exams, four options each.

use super::{
    Group,
    files::{Files, Layout},
    table,
};
use crate::{
    Error, EvalConfig, Result, Row,
    extract::Extractor,
    prompt::{Role, Round, Template, prompt_version},
    task::{Sample, Task},
};
use serde_json::{Value, json};
use std::path::Path;

/// Solved examples in a prompt: the first rows of the `dev` split.
const SHOTS: usize = 5;

const LAYOUT: Layout = Layout {
    dataset: "C-Eval",
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

/// `ceval_gen_5f30c7`: the validation split of the wanted subjects.
pub(super) fn load(config: &EvalConfig) -> Result<Vec<Task>> {
    let chosen = crate::task::choose(&SUBJECTS, |subject| subject.name, &config.subjects, LAYOUT.dataset)?;
    let no_data_dir = || Error::NoDataDir { dataset: LAYOUT.dataset.into(), expected: LAYOUT.expected.into() };
    let mut files = Files::find(config.data_dir.as_deref().ok_or_else(no_data_dir)?, &LAYOUT)?;
    let mut tasks = Vec::with_capacity(chosen.len());
    for subject in chosen {
        let (dev_file, dev) = files.read("dev", subject.name)?;
        let (val_file, val) = files.read("val", subject.name)?;
        let dev = table::read(&dev_file, &dev, true)?;
        let val = table::read(&val_file, &val, true)?;
        tasks.push(self::task(subject, "ceval", "opencompass/ceval-exam", (&dev_file, dev), val)?);
    }
    Ok(tasks)
}

/// The task of one subject: `dev` rows are its solved examples, `val` rows its questions.
pub(super) fn task(
    subject: &Subject,
    abbr: &str,
    path: &str,
    (dev_file, mut dev): (&Path, Vec<Row>),
    val: Vec<Row>,
) -> Result<Task> {
    if dev.len() < SHOTS {
        let reason = format!("{} rows, but a prompt needs {SHOTS} solved examples", dev.len());
        return Err(Error::Csv { file: dev_file.to_owned(), line: None, reason });
    }
    dev.truncate(SHOTS);
    let question = format!(
        "以下是中国关于{}考试的单项选择题，请选出其中的正确答案。\n{{question}}\nA. {{A}}\nB. {{B}}\nC. {{C}}\nD. {{D}}\n答案: ",
        subject.chinese
    );
    let abbr = format!("{abbr}-{}", subject.name);
    let infer_cfg = infer_config(&question);
    let samples = val.into_iter().enumerate().map(|(index, row)| {
        let gold = row.iter().find(|(name, _)| name == "answer").map(|(_, answer)| answer.clone());
        Sample { index, row, gold }
    });
    Ok(Task {
        version: prompt_version(&infer_cfg),
        dataset_config: dataset_config(&abbr, subject.name, path, infer_cfg),
        abbr,
        subject: subject.name.into(),
        samples: samples.collect(),
        shots: dev,
        template: Template {
            rounds: vec![
                Round { role: Role::Human, prompt: question },
                Round { role: Role::Bot, prompt: "{answer}".into() },
            ],
            answer: "answer".into(),
        },
        extractor: Extractor::FirstCapital,
    })
}

/// OpenCompass's `infer_cfg`, keys sorted as its dumped configurations have them.
fn infer_config(question: &str) -> Value {
    json!({
        "ice_template": {
            "ice_token": "</E>",
            "template": {
                "begin": "</E>",
                "round": [
                    {"prompt": question, "role": "HUMAN"},
                    {"prompt": "{answer}", "role": "BOT"},
                ],
            },
            "type": "opencompass.openicl.icl_prompt_template.PromptTemplate",
        },
        "inferencer": {"type": "opencompass.openicl.icl_inferencer.GenInferencer"},
        "retriever": {
            "fix_id_list": (0..SHOTS).collect::<Vec<_>>(),
            "type": "opencompass.openicl.icl_retriever.FixKRetriever",
        },
    })
}

fn dataset_config(abbr: &str, name: &str, path: &str, infer_cfg: Value) -> Value {
    json!({
        "abbr": abbr,
        "eval_cfg": {
            "evaluator": {"type": "opencompass.openicl.icl_evaluator.AccEvaluator"},
            "pred_postprocessor": {"type": "opencompass.utils.text_postprocessors.first_capital_postprocess"},
        },
        "infer_cfg": infer_cfg,
        "name": name,
        "path": path,
        "reader_cfg": {
            "input_columns": ["question", "A", "B", "C", "D"],
            "output_column": "answer",
            "test_split": "val",
            "train_split": "dev",
        },
        "type": "opencompass.datasets.CEvalDataset",
    })
}

/// The groups of OpenCompass's C-Eval summarizer: six over the validation split, and the same over the test split.
pub(super) fn groups() -> Vec<Group> {
    ["ceval", "ceval-test"].into_iter().flat_map(groups_of).collect()
}

/// The groups of the subsets whose names begin with `split`.
fn groups_of(split: &str) -> Vec<Group> {
    let subset = |name: &str| format!("{split}-{name}");
    let category = |category: &str| Group {
        name: subset(category),
        subsets: SUBJECTS.iter().filter(|s| s.category == category).map(|s| subset(s.name)).collect(),
    };
    let mut groups: Vec<Group> = ["stem", "social-science", "humanities", "other"].into_iter().map(category).collect();
    groups.push(Group { name: subset("hard"), subsets: HARD.iter().map(|name| subset(name)).collect() });
    groups.push(Group { name: split.into(), subsets: SUBJECTS.iter().map(|s| subset(s.name)).collect() });
    groups
}
