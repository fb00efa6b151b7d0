//! `oc-cli list-configs` against the tables that OpenCompass prints.

use assert_cmd::Command;
use oc_tests::shared;
use std::collections::BTreeMap;

fn list(patterns: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oc-cli"));
    let output = command.arg("list-configs").args(patterns).assert().code(0).stderr("").get_output().clone();
    String::from_utf8(output.stdout).unwrap()
}

/// The rows of each table, by the title of its first column.
fn tables(text: &str) -> BTreeMap<String, Vec<(String, String)>> {
    let mut tables: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    let mut title = None;
    for line in text.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        match &cells[..] {
            [rule] if rule.starts_with('+') => {}
            ["", rule, ""] if rule.starts_with('-') => {}
            ["", name, "Config Path", ""] => title = Some((*name).to_owned()),
            ["", name, path, ""] => {
                let title = title.clone().expect("a header comes first");
                tables.entry(title).or_default().push(((*name).to_owned(), (*path).to_owned()));
            }
            _ => panic!("not a line of a table: {line:?}"),
        }
    }
    tables
}

#[test]
fn rows_are_opencompasss() {
    let Some(golden) = shared("goldens/cli/list_configs_internlm_ceval.txt") else { return };
    let golden = tables(&std::fs::read_to_string(golden).unwrap());
    let ours = tables(&list(&["internlm", "ceval"]));
    assert_eq!(ours.keys().collect::<Vec<_>>(), golden.keys().collect::<Vec<_>>());
    for (title, rows) in &ours {
        // What is built in only is no file of OpenCompass.
        let known: Vec<_> = rows.iter().filter(|(_, path)| path != "(built in)").collect();
        // The same rows in the same order: ours are those that exist here.
        let theirs: Vec<_> = golden[title].iter().filter(|row| known.contains(row)).collect();
        assert_eq!(known, theirs, "{title}");
    }
    let models: Vec<&str> = ours["Model"].iter().map(|(name, _)| name.as_str()).collect();
    let theirs = golden["Model"].iter().map(|(name, _)| name.as_str());
    let wanted: Vec<&str> = theirs.filter(|name| name.starts_with("hf_")).collect();
    assert_eq!(models, wanted);
    for name in ["ceval_gen", "ceval_ppl", "ceval_zero_shot_gen_bd40ef", "ceval_clean_ppl"] {
        assert!(ours["Dataset"].iter().any(|(known, _)| known == name), "{name}");
    }
}

#[test]
fn the_form_is_opencompasss() {
    let Some(golden) = shared("goldens/cli/list_configs_internlm_ceval.txt") else { return };
    let golden = std::fs::read_to_string(golden).unwrap();
    let table = list(&["hf_internlm_chat"]);
    let mut lines = table.lines();
    // A table of two rows: the same rules, header and cells, as wide as its own widest cells.
    let (left, right) =
        ("hf_internlm_chat_20b".len(), "opencompass/configs/models/hf_internlm/hf_internlm_chat_20b.py".len());
    let row = golden.lines().find(|line| line.contains("| hf_internlm_chat_20b ")).unwrap();
    let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let rule = format!("+{}+{}+", "-".repeat(left + 2), "-".repeat(right + 2));
    assert_eq!(lines.next(), Some(rule.as_str()));
    let header = lines.next().unwrap();
    assert_eq!(squeezed(header), squeezed(golden.lines().nth(1).unwrap()));
    assert_eq!(header.len(), rule.len());
    assert_eq!(lines.next(), Some(format!("|{}|", &rule[1..rule.len() - 1]).as_str()));
    let cells = lines.next().unwrap();
    assert_eq!(squeezed(cells), squeezed(row));
    assert_eq!(cells.len(), rule.len());
    assert_eq!(golden.lines().nth(2).unwrap().chars().filter(|c| *c == '+').count(), 1);
}

/// Collections lie among OpenCompass's datasets, so they are listed; and what is listed can be evaluated.
#[test]
fn collections_are_datasets() {
    let rows = tables(&list(&["base_", "qwen"])).remove("Dataset").unwrap();
    let row = |name: &str| rows.iter().find(|row| row.0 == name).map(|row| row.1.as_str());
    assert_eq!(row("base_medium"), Some("opencompass/configs/datasets/collections/base_medium.py"));
    assert_eq!(row("qwen_chat"), Some("opencompass/configs/datasets/collections/leaderboard/qwen_chat.py"));
    let names: Vec<&str> = rows.iter().map(|row| row.0.as_str()).collect();
    assert_eq!(names, ["base_core", "base_medium", "base_medium_llama", "base_small", "qwen", "qwen_chat"]);
    let Some(data) = shared("data") else { return };
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("x.toml"),
        "datasets = ['base_c*']\nsubjects = ['law']\n[[models]]\nname = 'hf_opt_125m'\n",
    )
    .unwrap();
    std::fs::write(
        dir.path().join("x.py"),
        "from .datasets.collections.base_core import datasets\nfrom .models.opt.hf_opt_125m import models\n",
    )
    .unwrap();
    for line in ["--datasets base_c* --models hf_opt_125m --subjects law", "x.toml", "x.py --subjects law"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oc-cli"));
        command.current_dir(dir.path()).arg("prompt").args(line.split(' ')).args(["--all", "--jsonl"]);
        let output = command.arg("--data-dir").arg(&data).assert().code(0).get_output().clone();
        // C-Eval's law, on both splits, in `ceval_ppl_1cd8bf`: four prompts for each question.
        let prompts = String::from_utf8(output.stdout).unwrap().lines().count();
        assert_eq!(prompts, (24 + 221) * 4, "{line}");
    }
}

#[test]
fn patterns_choose() {
    assert_eq!(list(&["no_such_name"]), "");
    let names = |patterns: &[&str]| -> Vec<String> {
        tables(&list(patterns)).remove("Model").unwrap_or_default().into_iter().map(|(name, _)| name).collect()
    };
    assert_eq!(names(&["OPT"]), ["hf_opt_125m", "hf_opt_350m"]);
    assert_eq!(names(&["opt_125m", "opt_350m"]), ["hf_opt_125m", "hf_opt_350m"]);
    assert_eq!(names(&["hf_llama[23]_7b"]), ["hf_llama2_7b", "hf_llama2_7b_chat"]);
    assert!(names(&[]).len() > 80);
    let all = list(&[]);
    assert!(all.contains("| ceval_demo_gen ") && all.contains("| (built in) "));
}
