//! Runs with a scripted model.

use super::*;
use crate::{Message, ModelConfig, ModelIdentity, OnOutput, OnScore, Resume};
use oc_engine::{FinishReason, Output, Request, ScoreRequest, Stats};
use std::path::Path;

/// Answers everything with A, one token a character.
struct Yes;

impl Model for Yes {
    fn name(&self) -> &str {
        "yes"
    }

    fn identity(&self) -> Result<ModelIdentity> {
        let text = || "x".to_owned();
        Ok(ModelIdentity {
            weights: text(),
            tokenizer: text(),
            chat_template: None,
            dtype: text(),
            device: text(),
            numeric_version: text(),
        })
    }

    fn max_seq_len(&self) -> usize {
        1 << 16
    }

    fn encode(&self, text: &str, _add_special_tokens: bool) -> Result<Vec<u32>> {
        Ok(text.chars().map(u32::from).collect())
    }

    fn apply_chat_template(&self, _messages: &[Message], _add_generation_prompt: bool) -> Result<String> {
        Err(Error::Config { what: "none".into() })
    }

    fn generate(&mut self, requests: Vec<Request>, on_output: &mut OnOutput<'_>) -> Result<Stats> {
        for (request, asked) in requests.iter().enumerate() {
            let output = Output {
                request,
                text: "A".into(),
                tokens: vec![65],
                logprobs: vec![0.0],
                finish: FinishReason::Eos,
                prompt_tokens: asked.prompt.len(),
                cached_tokens: 0,
            };
            on_output(Some(output), Stats::default())?;
        }
        Ok(Stats::default())
    }

    fn score(&mut self, _requests: Vec<ScoreRequest>, _on_score: &mut OnScore<'_>) -> Result<Stats> {
        Ok(Stats::default())
    }
}

fn ask(config: &EvalConfig, tasks: &[Task]) -> Result<RunReport> {
    let mut yes = Yes;
    evaluate(&mut Loaded(&mut yes), std::slice::from_ref(config), &mut (), &[tasks.to_vec()], &[])
}

fn demo(work_dir: &Path) -> (EvalConfig, Vec<Task>) {
    let config = EvalConfig {
        datasets: vec!["ceval_demo_gen".into()],
        work_dir: work_dir.into(),
        model: ModelConfig { abbr: "yes_hf".into(), ..ModelConfig::default() },
        limit: Some(2),
        timestamp: Some("20260102_030405".into()),
        ..EvalConfig::default()
    };
    let tasks = datasets::load(&config).unwrap();
    (config, tasks)
}

#[test]
fn without_right_answers_there_are_predictions_and_no_score() {
    let dir = tempfile::tempdir().unwrap();
    let (config, mut tasks) = demo(dir.path());
    // Of an attempt at the time when the answers were there.
    ask(&config, &tasks).unwrap();
    tasks[1].samples.iter_mut().for_each(|sample| sample.gold = None);
    let config = EvalConfig { resume: Some(Resume::Latest), ..config };
    let report = ask(&config, &tasks).unwrap();
    assert_eq!(report.subsets.iter().filter(|subset| subset.accuracy.is_none()).count(), 1);
    let abbr = tasks[1].abbr.clone();
    assert_eq!(report.failures, []);
    let row = report.table.lines().find(|line| line.starts_with(abbr.as_str())).unwrap();
    assert!(row.ends_with("no labels"), "{row}");
    let folder = report.folder.unwrap();
    let predictions = std::fs::read_to_string(folder.join(format!("predictions/yes_hf/{abbr}.json"))).unwrap();
    assert!(predictions.contains("\"prediction\": \"A\",\n        \"gold\": \"\""), "{predictions}");
    assert!(!folder.join(format!("results/yes_hf/{abbr}.json")).exists(), "the score of before is gone");
    let submission = std::fs::read_to_string(folder.join("submission/yes_hf/ceval.json")).unwrap();
    let submission: Value = serde_json::from_str(&submission).unwrap();
    let subject = tasks[1].dataset_config["name"].as_str().unwrap();
    assert_eq!(submission, serde_json::json!({ subject: { "0": "A", "1": "A" } }));
    // Where only some are missing, the score would be of the others.
    tasks[1].samples[0].gold = Some("A".into());
    let report = ask(&config, &tasks).unwrap();
    let reason = "1 of 2 questions have no right answer to compare with".to_owned();
    assert_eq!(report.failures, [Failure { abbr: abbr.clone(), index: None, reason }]);
}

#[test]
fn a_question_that_cannot_be_built_is_named_and_the_others_are_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (config, mut tasks) = demo(dir.path());
    tasks[0].samples[1].row.retain(|(column, _)| column != "B");
    let report = ask(&config, &tasks).unwrap();
    let failures: Vec<_> = report.failures.iter().map(|f| (f.abbr.as_str(), f.index)).collect();
    assert_eq!(failures, [(tasks[0].abbr.as_str(), Some(1)), (tasks[0].abbr.as_str(), None)]);
    assert!(report.failures[0].reason.contains("column `B`"), "{}", report.failures[0].reason);
    assert_eq!((report.plan.samples, report.overall[0].questions), (16, 14));
    assert!(report.subsets[0].accuracy.is_none() && report.subsets[1].accuracy.is_some());
}

#[test]
fn placeholders_in_the_data_are_said() {
    let dir = tempfile::tempdir().unwrap();
    let (config, mut tasks) = demo(dir.path());
    tasks[0].samples[0].row[0].1.push_str("\\bar{A}");
    let report = ask(&config, &tasks).unwrap();
    assert!(report.warnings.len() == 1 && report.warnings[0].starts_with("1 rows hold a placeholder such as {A}"));
}

#[test]
fn subsets_that_would_share_their_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (config, mut tasks) = demo(dir.path());
    tasks[1].abbr = tasks[0].abbr.clone();
    let error = ask(&config, &tasks).unwrap_err().to_string();
    assert!(error.starts_with(&format!("two datasets have a subset {}", tasks[0].abbr)), "{error}");
    tasks.iter_mut().for_each(|task| task.samples.clear());
    tasks.truncate(1);
    assert!(ask(&config, &tasks).unwrap_err().to_string().contains("no questions"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
