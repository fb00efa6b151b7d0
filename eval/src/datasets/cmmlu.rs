//! CMMLU (Li et al., 2023, arXiv:2306.09212): 67 subjects of Chinese exams, four options each.

use super::{
    Dataset, Family, Group, Loader, Rows, Source,
    build::{check_split, place},
    files::Layout,
    table::{self, Columns},
    vocabulary::{
        ICE_TOKEN, OPTIONS, dataset_type, each, evaluator_type, first_five, inferencer_type, no_examples,
        postprocessor_type, template,
    },
};
use crate::Result;
use serde_json::{Value, json};

const ID: &str = "opencompass/cmmlu";

static LAYOUT: Layout = Layout {
    dataset: "CMMLU",
    ids: &[ID],
    folders: &["cmmlu", "data/cmmlu", ""],
    holds: &["dev", "test"],
    archives: &[("cmmlu", ""), ("cmmlu", "cmmlu/"), ("OpenCompassData-core-", "data/cmmlu/")],
    expected: "<data>/cmmlu/{dev,test}/<subject>.csv, cmmlu*.zip, or OpenCompassData-core-*.zip",
};

/// The first column numbers the rows.
const COLUMNS: Columns = Columns {
    names: &[None, Some("question"), Some("A"), Some("B"), Some("C"), Some("D"), Some("answer")],
    has_header: true,
    question: "question",
    answer: "answer",
};

/// One of the 67 subjects.
struct Subject {
    /// In file names.
    name: &'static str,
    /// In prompts.
    chinese: &'static str,
    category: &'static str,
    /// Whether it is in the group of what is particular to China too.
    is_china_specific: bool,
}

const fn subject(
    name: &'static str,
    chinese: &'static str,
    category: &'static str,
    is_china_specific: bool,
) -> Subject {
    Subject { name, chinese, category, is_china_specific }
}

const STEM: &str = "stem";
const SOCIAL: &str = "social-science";
const HUMANITIES: &str = "humanities";
const OTHER: &str = "other";

/// In the order of OpenCompass's groups; its configurations have them by the alphabet.
static SUBJECTS: [Subject; 67] = [
    subject("agronomy", "农学", OTHER, false),
    subject("anatomy", "解剖学", STEM, false),
    subject("ancient_chinese", "古汉语", SOCIAL, true),
    subject("arts", "艺术学", HUMANITIES, false),
    subject("astronomy", "天文学", STEM, false),
    subject("business_ethics", "商业伦理", SOCIAL, false),
    subject("chinese_civil_service_exam", "中国公务员考试", SOCIAL, true),
    subject("chinese_driving_rule", "中国驾驶规则", OTHER, true),
    subject("chinese_food_culture", "中国饮食文化", SOCIAL, true),
    subject("chinese_foreign_policy", "中国外交政策", SOCIAL, true),
    subject("chinese_history", "中国历史", HUMANITIES, true),
    subject("chinese_literature", "中国文学", HUMANITIES, true),
    subject("chinese_teacher_qualification", "中国教师资格", SOCIAL, true),
    subject("college_actuarial_science", "大学精算学", STEM, false),
    subject("college_education", "大学教育学", SOCIAL, false),
    subject("college_engineering_hydrology", "大学工程水文学", STEM, false),
    subject("college_law", "大学法律", HUMANITIES, false),
    subject("college_mathematics", "大学数学", STEM, false),
    subject("college_medical_statistics", "大学医学统计", STEM, false),
    subject("clinical_knowledge", "临床知识", OTHER, false),
    subject("college_medicine", "大学医学", OTHER, false),
    subject("computer_science", "计算机科学", STEM, false),
    subject("computer_security", "计算机安全", OTHER, false),
    subject("conceptual_physics", "概念物理学", STEM, false),
    subject("construction_project_management", "建设工程管理", OTHER, true),
    subject("economics", "经济学", SOCIAL, false),
    subject("education", "教育学", SOCIAL, false),
    subject("elementary_chinese", "小学语文", SOCIAL, true),
    subject("elementary_commonsense", "小学常识", OTHER, true),
    subject("elementary_information_and_technology", "小学信息技术", OTHER, false),
    subject("electrical_engineering", "电气工程", STEM, false),
    subject("elementary_mathematics", "初等数学", STEM, false),
    subject("ethnology", "民族学", SOCIAL, true),
    subject("food_science", "食品科学", OTHER, false),
    subject("genetics", "遗传学", STEM, false),
    subject("global_facts", "全球事实", HUMANITIES, false),
    subject("high_school_biology", "高中生物", STEM, false),
    subject("high_school_chemistry", "高中化学", STEM, false),
    subject("high_school_geography", "高中地理", SOCIAL, false),
    subject("high_school_mathematics", "高中数学", STEM, false),
    subject("high_school_physics", "高中物理学", STEM, false),
    subject("high_school_politics", "高中政治", SOCIAL, true),
    subject("human_sexuality", "人类性行为", OTHER, false),
    subject("international_law", "国际法学", HUMANITIES, false),
    subject("journalism", "新闻学", SOCIAL, false),
    subject("jurisprudence", "法理学", HUMANITIES, false),
    subject("legal_and_moral_basis", "法律与道德基础", OTHER, false),
    subject("logical", "逻辑学", HUMANITIES, false),
    subject("machine_learning", "机器学习", STEM, false),
    subject("management", "管理学", SOCIAL, false),
    subject("marketing", "市场营销", SOCIAL, false),
    subject("marxist_theory", "马克思主义理论", HUMANITIES, false),
    subject("modern_chinese", "现代汉语", SOCIAL, true),
    subject("nutrition", "营养学", OTHER, false),
    subject("philosophy", "哲学", HUMANITIES, false),
    subject("professional_accounting", "专业会计", SOCIAL, false),
    subject("professional_law", "专业法学", HUMANITIES, false),
    subject("professional_medicine", "专业医学", OTHER, false),
    subject("professional_psychology", "专业心理学", SOCIAL, false),
    subject("public_relations", "公共关系", SOCIAL, false),
    subject("security_study", "安全研究", SOCIAL, false),
    subject("sociology", "社会学", SOCIAL, false),
    subject("sports_science", "体育学", OTHER, false),
    subject("traditional_chinese_medicine", "中医中药", OTHER, true),
    subject("virology", "病毒学", STEM, false),
    subject("world_history", "世界历史", HUMANITIES, false),
    subject("world_religions", "世界宗教", HUMANITIES, false),
];

pub(super) static FAMILY: Family = Family {
    name: LAYOUT.dataset,
    folder: "cmmlu",
    variable: "cmmlu_datasets",
    datasets: &DATASETS,
    loaders: &[Loader { class: "CMMLUDataset", read, integers: &[], has_splits: true, dictionary: None }],
    groups,
};

static DATASETS: [Dataset; 4] = [
    Dataset {
        name: "cmmlu_gen_c13365",
        aliases: &[],
        about: "CMMLU, 67 subjects, test split, 5 examples, the answer is generated",
        mode: "gen",
        configs: || configs(&few_shot, "AccwithDetailsEvaluator", Some(first_capital())),
    },
    Dataset {
        name: "cmmlu_0shot_cot_gen_305931",
        aliases: &["cmmlu_gen"],
        about: "CMMLU, no examples, the last line of the answer is `答案: <letter>`",
        mode: "gen",
        configs: || configs(&thought, "AccEvaluator", Some(answer_line())),
    },
    Dataset {
        name: "cmmlu_ppl_8b9c76",
        aliases: &["cmmlu_ppl"],
        about: "CMMLU, 67 subjects, test split, 5 examples, the likeliest of four answers",
        mode: "ppl",
        configs: || configs(&perplexity, "AccEvaluator", None),
    },
    Dataset {
        name: "cmmlu_ppl_041cbf",
        aliases: &[],
        about: "the likeliest of four answers, in a plain text without roles",
        mode: "ppl",
        configs: || configs(&plain, "AccwithDetailsEvaluator", None),
    },
];

fn first_capital() -> Value {
    json!({ "type": postprocessor_type("first_capital_postprocess") })
}

fn answer_line() -> Value {
    let pattern = r"(?i)答案\s*:\s*[\W]*([A-D])[\W]*";
    json!({ "type": postprocessor_type("match_answer_pattern"), "answer_pattern": pattern })
}

fn configs(infer: &dyn Fn(&str) -> Value, evaluator: &str, postprocessor: Option<Value>) -> Vec<Value> {
    let config = |subject: &&Subject| {
        let mut eval_cfg = json!({ "evaluator": { "type": evaluator_type(evaluator) } });
        if let Some(postprocessor) = &postprocessor {
            eval_cfg["pred_postprocessor"] = postprocessor.clone();
        }
        json!({
            "type": dataset_type("CMMLUDataset"),
            "path": ID,
            "name": subject.name,
            "abbr": abbr(subject.name),
            "reader_cfg": {
                "input_columns": ["question", "A", "B", "C", "D"],
                "output_column": "answer",
                "train_split": "dev",
                "test_split": "test",
            },
            "infer_cfg": infer(subject.chinese),
            "eval_cfg": eval_cfg,
        })
    };
    let mut subjects: Vec<&Subject> = SUBJECTS.iter().collect();
    subjects.sort_unstable_by_key(|subject| subject.name);
    subjects.iter().map(config).collect()
}

fn abbr(name: &str) -> String {
    format!("cmmlu-{name}")
}

const QUESTION: &str = "题目：{question}\nA. {A}\nB. {B}\nC. {C}\nD. {D}";

fn hint(chinese: &str) -> String {
    format!("以下是关于{chinese}的单项选择题，请直接给出正确答案的选项。\n")
}

fn rounds(chinese: &str, answer: &str) -> Value {
    json!({
        "begin": ICE_TOKEN,
        "round": [
            { "role": "HUMAN", "prompt": hint(chinese) + QUESTION },
            { "role": "BOT", "prompt": format!("答案是: {answer}") },
        ],
    })
}

fn few_shot(chinese: &str) -> Value {
    json!({
        "ice_template": template(rounds(chinese, "{answer}"), Some(ICE_TOKEN)),
        "retriever": first_five(),
        "inferencer": { "type": inferencer_type("GenInferencer") },
    })
}

fn perplexity(chinese: &str) -> Value {
    json!({
        "ice_template": template(each(&OPTIONS, &|answer| rounds(chinese, answer)), Some(ICE_TOKEN)),
        "retriever": first_five(),
        "inferencer": { "type": inferencer_type("PPLInferencer") },
    })
}

fn plain(chinese: &str) -> Value {
    let stated = |answer: &str| format!("{QUESTION}\n答案是: {answer}");
    let example = |answer: &str| Value::from(stated(answer) + "\n");
    let question = |answer: &str| Value::from(hint(chinese) + ICE_TOKEN + &stated(answer));
    json!({
        "ice_template": template(each(&OPTIONS, &example), None),
        "prompt_template": template(each(&OPTIONS, &question), Some(ICE_TOKEN)),
        "retriever": first_five(),
        "inferencer": { "type": inferencer_type("PPLInferencer") },
    })
}

fn thought(chinese: &str) -> Value {
    let prompt = format!(
        "请回答以下关于{chinese}的单项选择题, 你回答的最后一行**必须**是以下格式 '答案: $选项' (不带引号), \
         其中选项是ABCD之一. 请在回答之前一步步思考.\n\n{{question}}\n\nA) {{A}}\nB) {{B}}\nC) {{C}}\nD) {{D}}"
    );
    json!({
        "prompt_template": template(json!({ "round": [{ "role": "HUMAN", "prompt": prompt }] }), None),
        "retriever": no_examples(),
        "inferencer": { "type": inferencer_type("GenInferencer") },
    })
}

fn read(source: &mut Source<'_>, config: &Value, split: &str) -> Result<Rows> {
    check_split(LAYOUT.dataset, &["dev", "test"], split)?;
    let (path, name) = place(config)?;
    let (file, bytes) = source.files(path, &LAYOUT)?.read(&format!("{split}/{name}.csv"), name)?;
    let rows = table::positional(&file, &bytes, &COLUMNS)?;
    Ok(Rows { file, rows, missing_annotations: None })
}

/// The groups of OpenCompass's CMMLU summarizer.
fn groups() -> Vec<Group> {
    let group = |name: &str, is_in: &dyn Fn(&Subject) -> bool| {
        let subjects = SUBJECTS.iter().filter(|subject| is_in(subject));
        Group::new(name, subjects.map(|subject| abbr(subject.name)).collect())
    };
    let category =
        |category: &'static str| group(&format!("cmmlu-{category}"), &|subject| subject.category == category);
    let mut groups: Vec<Group> = [HUMANITIES, STEM, SOCIAL, OTHER].map(category).into();
    groups.push(group("cmmlu-china-specific", &|subject| subject.is_china_specific));
    groups.push(group("cmmlu", &|_| true));
    groups
}
