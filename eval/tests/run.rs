//! A whole evaluation with a scripted model: events, plan, files, table, and what goes wrong.

mod scripted;

use oc_engine::Tokenizer;
use oc_eval::{Error, EvalConfig, HfType, Phase, Prompt, Resume, datasets, prompts, run};
use scripted::{BOS, Recorder, Scripted, demo, files};
use serde_json::{Value, json};
use std::{fs, path::Path};

const RUN: &str = "20260102_030405";

#[test]
fn a_run_tells_plans_and_writes() {
    let dir = tempfile::tempdir().unwrap();
    let config = demo(dir.path(), 3);
    let (mut model, mut seen) = (Scripted::varied(), Recorder::default());
    let report = run(&mut model, &config, &mut seen).unwrap();

    assert_eq!(seen.phases, [Phase::Load, Phase::Prompts, Phase::Infer, Phase::Eval, Phase::Summary]);
    assert!(
        seen.styles.len() == 1 && seen.styles[0].contains("plain text") && seen.styles[0].contains("--hf-type chat")
    );
    assert_eq!(seen.plans, std::slice::from_ref(&report.plan));
    assert_eq!((seen.folder.as_deref(), seen.folder.clone()), (Some(&*dir.path().join(RUN)), report.folder.clone()));
    assert_eq!(seen.samples.len(), 24);
    assert_eq!(seen.samples.last().map(|(_, _, done, total)| (*done, *total)), Some((24, 24)));
    let tasks = datasets::load(&config).unwrap();
    let (abbr, first, tokens) = seen.first.unwrap();
    assert_eq!((&abbr, &first, tokens), (&tasks[0].abbr, &model.asked[0], first.chars().count()));

    let plan = &report.plan;
    assert_eq!((plan.run.as_deref(), plan.subsets, plan.samples, plan.resumed), (Some(RUN), 8, 24, 0));
    let all: usize = model.asked.iter().map(|prompt| prompt.chars().count()).sum();
    assert_eq!((plan.prompt_tokens, plan.truncated), (all as u64, 0));
    // The solved examples of each subject are shared by its three questions.
    assert!(plan.unshared_tokens > plan.prompt_tokens / 4 && plan.unshared_tokens < plan.prompt_tokens / 2);

    assert_eq!(report.failures, []);
    assert_eq!(report.subsets.len(), 8);
    assert!(report.subsets.iter().all(|s| s.accuracy.is_some() && s.questions == 3 && s.mode == "gen"));
    assert_eq!(report.table.lines().count(), 2 + 8);
    assert!(report.table.lines().next().unwrap().trim_end().ends_with("scripted_hf"));
    let overall = report.overall[0];
    assert_eq!((overall.questions, overall.prompt_tokens, overall.computed_tokens), (24, all as u64, all as u64));
    assert!(overall.unparsed > 0 && overall.accuracy > 0.0 && overall.accuracy < 100.0);
    assert!(
        report.line.starts_with("accuracy ") && report.line.contains(" ± ") && report.line.contains("24 questions")
    );

    let files = files(&dir.path().join(RUN));
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    let count = |start: &str| names.iter().filter(|name| name.starts_with(start)).count();
    for folder in ["predictions", "results", "logs/infer", "logs/eval"] {
        assert_eq!(count(&format!("{folder}/scripted_hf/")), 8, "{names:?}");
    }
    assert_eq!((count("configs/20260102_030405_"), count("summary/summary_20260102_030405.")), (1, 3));
    assert_eq!(names.len(), 4 * 8 + 1 + 3 + 1, "{names:?}");
    let csv = std::str::from_utf8(&files["summary/summary_20260102_030405.csv"]).unwrap();
    assert!(csv.starts_with("dataset,version,metric,mode,scripted_hf\n"));
    let log = std::str::from_utf8(&files[&format!("logs/infer/scripted_hf/{abbr}.out")]).unwrap();
    assert!(log.starts_with(r#"{"index":0,"prompt_tokens":"#) && log.contains(r#""truncated":false"#), "{log}");
}

#[test]
fn details_are_left_out_on_request() {
    let dir = tempfile::tempdir().unwrap();
    let config = EvalConfig { dump_eval_details: false, ..demo(dir.path(), 1) };
    let report = run(&mut Scripted::new(|_| "A".into()), &config, &mut ()).unwrap();
    let path = format!("results/scripted_hf/{}.json", report.subsets[0].abbr);
    let text = fs::read_to_string(report.folder.unwrap().join(path)).unwrap();
    let accuracy = report.subsets[0].accuracy.unwrap();
    assert_eq!(text, format!("{{\n    \"accuracy\": {accuracy:?}\n}}"));
}

#[test]
fn a_dry_run_plans_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let work_dir = dir.path().join("outputs");
    let config = EvalConfig { dry_run: true, ..demo(&work_dir, 2) };
    let (mut model, mut seen) = (Scripted::varied(), Recorder::default());
    let report = run(&mut model, &config, &mut seen).unwrap();
    assert_eq!((report.plan.samples, report.plan.run.clone(), seen.plans.len()), (16, None, 1));
    assert!(report.plan.prompt_tokens > 0 && report.overall.is_empty() && report.folder.is_none());
    assert!(!work_dir.exists() && model.asked.is_empty());
    // Of a run that is there it says what is left, without touching it.
    run(&mut Scripted::varied(), &demo(&work_dir, 1), &mut ()).unwrap();
    let before = files(&work_dir);
    let resume = EvalConfig { resume: Some(Resume::Run(RUN.into())), ..config };
    let report = run(&mut model, &resume, &mut ()).unwrap();
    assert_eq!((report.plan.samples, report.plan.resumed, report.plan.run.as_deref()), (16, 8, Some(RUN)));
    assert_eq!(files(&work_dir), before);
}

#[test]
fn an_unwritable_work_dir_is_said_before_anything_is_computed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let mut model = Scripted::varied();
    let error = run(&mut model, &demo(&file.join("outputs"), 1), &mut ()).unwrap_err();
    assert!(matches!(error, Error::Write { .. }) && error.to_string().contains("file/outputs"), "{error}");
    assert!(model.asked.is_empty());
}

#[test]
fn a_folder_that_cannot_be_written_at_the_end_costs_no_answer() {
    let dir = tempfile::tempdir().unwrap();
    let config = demo(dir.path(), 1);
    // A file stands where the folder of the predictions belongs.
    fs::create_dir(dir.path().join(RUN)).unwrap();
    let results = dir.path().join(RUN).join("results");
    fs::write(&results, "").unwrap();
    let resume = EvalConfig { resume: Some(Resume::Latest), ..config };
    let error = run(&mut Scripted::varied(), &resume, &mut ()).unwrap_err();
    assert!(matches!(&error, Error::Write { resume: Some(run), .. } if run == RUN), "{error}");
    fs::remove_file(results).unwrap();
    let mut model = Scripted::varied();
    assert_eq!(run(&mut model, &resume, &mut ()).unwrap().plan.resumed, 8);
    assert!(model.asked.is_empty());
}

#[test]
fn a_question_without_an_answer_leaves_its_subset_without_a_score() {
    let dir = tempfile::tempdir().unwrap();
    let config = demo(dir.path(), 2);
    let report = run(&mut Scripted { skips: vec![3], ..Scripted::varied() }, &config, &mut ()).unwrap();
    let second = report.subsets[1].clone();
    assert_eq!(second.accuracy, None);
    assert_eq!(report.subsets.iter().filter(|s| s.accuracy.is_some()).count(), 7);
    let failures: Vec<_> = report.failures.iter().map(|f| (f.abbr.as_str(), f.index, f.reason.as_str())).collect();
    let wanted = [
        (second.abbr.as_str(), Some(1), "the model gave no answer"),
        (second.abbr.as_str(), None, "1 of 2 questions have no answer"),
    ];
    assert_eq!(failures, wanted);
    assert_eq!(report.overall[0].questions, 14);
    let row = report.table.lines().find(|line| line.starts_with(&second.abbr)).unwrap();
    assert_eq!(row.split_whitespace().skip(1).collect::<String>(), "----");
    let folder = report.folder.unwrap();
    assert!(!folder.join(format!("results/scripted_hf/{}.json", second.abbr)).exists());
    let summary = fs::read_to_string(folder.join(format!("summary/summary_{RUN}.txt"))).unwrap();
    assert!(summary.contains("{'error': '1 of 2 questions have no answer'}"), "{summary}");
    // Resuming asks the one question and scores the subset.
    let resume = EvalConfig { resume: Some(Resume::Latest), ..config };
    let mut model = Scripted::varied();
    let report = run(&mut model, &resume, &mut ()).unwrap();
    assert_eq!((model.asked.len(), report.failures.len()), (1, 0));
    assert!(report.averages.is_some_and(|averages| averages.contains("naive_average")));
}

#[test]
fn long_prompts_lose_their_last_examples_then_their_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let base = demo(dir.path(), 4);
    let tasks = datasets::load(&base).unwrap();
    let style = oc_eval::prompt::Style::new(HfType::Base, None).unwrap();
    let plain =
        |task: &oc_eval::Task, sample: &oc_eval::Sample, shots| match task.prompt(sample, shots, &style).unwrap() {
            Prompt::Text(text) => text,
            Prompt::Messages(_) => unreachable!(),
        };
    for adds_bos in [false, true] {
        for limit in [40, 150, 250, 400, 600, 2000] {
            let model = Scripted { adds_bos, ..Scripted::varied() };
            let config = EvalConfig { max_seq_len: Some(limit), ..base.clone() };
            let records = prompts(&config, Some(&model)).unwrap();
            let samples = tasks.iter().flat_map(|task| task.samples.iter().map(move |sample| (task, sample)));
            assert_eq!(records.len(), 32);
            for (record, (task, sample)) in records.iter().zip(samples) {
                // The rule, spelt out: the most examples that fit, else none.
                let special = usize::from(adds_bos);
                let fits = |shots: &usize| plain(task, sample, *shots).chars().count() + special <= limit;
                let shots = (0..=task.shots.len()).rev().find(fits).unwrap_or(0);
                let text = plain(task, sample, shots);
                assert_eq!(record.prompt.as_deref(), Some(text.as_str()), "{} at {limit}", task.abbr);
                let chars: Vec<u32> = text.chars().map(u32::from).collect();
                let tail = &chars[chars.len().saturating_sub(limit - special)..];
                let bos: &[u32] = if adds_bos { &[BOS] } else { &[] };
                assert_eq!(record.ids.as_deref(), Some(&*[bos, tail].concat()), "{} at {limit}", task.abbr);
            }
        }
    }
}

#[test]
fn truncated_prompts_are_counted_said_and_marked() {
    let dir = tempfile::tempdir().unwrap();
    let config = EvalConfig { max_seq_len: Some(60), ..demo(dir.path(), 2) };
    let mut seen = Recorder::default();
    let report = run(&mut Scripted::varied(), &config, &mut seen).unwrap();
    assert_eq!((report.plan.truncated, report.overall[0].truncated), (16, 16));
    assert_eq!(seen.warnings, report.warnings);
    let warning = &report.warnings[0];
    assert!(
        warning.starts_with("16 of 16 prompts do not fit into --max-seq-len 60: 16 lost solved examples"),
        "{warning}"
    );
    assert!(report.line.contains("16 prompts truncated"), "{}", report.line);
    let log = format!("logs/infer/scripted_hf/{}.out", report.subsets[0].abbr);
    let log = fs::read_to_string(report.folder.unwrap().join(log)).unwrap();
    assert_eq!(log.matches(r#""truncated":true"#).count(), 2);
    // Without a limit of one's own no example goes, and the model's context cuts the beginning.
    let model = Scripted { max_seq_len: 116, ..Scripted::varied() };
    let config = EvalConfig { max_seq_len: None, ..config };
    let whole = prompts(&config, None).unwrap();
    for (record, whole) in prompts(&config, Some(&model)).unwrap().iter().zip(whole) {
        assert_eq!((record.ids.as_ref().map(Vec::len), &record.prompt), (Some(100), &whole.prompt));
    }
}

/// A meta template that writes what the tokenizer adds: the prompt would begin with it twice.
#[test]
fn a_doubled_bos_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let llama = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/llama");
    let model = Scripted { tokenizer: Some(Tokenizer::open(&llama).unwrap()), ..Scripted::varied() };
    let round = [json!({"role": "HUMAN"}), json!({"role": "BOT", "generate": true})];
    let with = |begin| EvalConfig {
        meta_template_config: Some(json!({"begin": begin, "round": round})),
        ..demo(dir.path(), 1)
    };
    let error = prompts(&with("<|begin_of_text|>"), Some(&model)).unwrap_err().to_string();
    assert!(error.contains("twice"), "{error}");
    prompts(&with("Begin: "), Some(&model)).unwrap();
}

#[test]
fn messages_go_through_the_chat_template() {
    let dir = tempfile::tempdir().unwrap();
    let config = EvalConfig { hf_type: HfType::Chat, ..demo(dir.path(), 1) };
    let model = Scripted { adds_bos: true, ..Scripted::varied() };
    let records = prompts(&config, Some(&model)).unwrap();
    let without = prompts(&config, None).unwrap();
    for (record, without) in records.iter().zip(&without) {
        assert!(without.ids.is_none() && without.prompt.is_none());
        assert_eq!(record.messages, without.messages);
        let text = record.prompt.clone().unwrap();
        assert!(text.starts_with("<user>") && text.ends_with("<assistant>"));
        // The template's text carries its own special tokens: none is added.
        assert_eq!(record.ids.clone().unwrap(), text.chars().map(u32::from).collect::<Vec<_>>());
    }
    // Counted are the bare texts as one message, so markers of the turns do not cost an example.
    let bare = |record: &oc_eval::PromptRecord| -> usize {
        let texts: usize = record.messages.iter().flatten().map(|m| m.content.chars().count()).sum();
        texts + "<user>\n<assistant>".chars().count()
    };
    let limit = bare(&records[0]);
    let at = |limit| prompts(&EvalConfig { max_seq_len: Some(limit), ..config.clone() }, Some(&model)).unwrap();
    assert_eq!(at(limit)[0].messages, records[0].messages);
    assert_eq!(at(limit - 1)[0].messages.as_ref().unwrap().len(), records[0].messages.as_ref().unwrap().len() - 2);
    // The markers count in the cut, which takes the end.
    let ids = records[0].ids.as_ref().unwrap();
    assert_eq!(at(limit)[0].ids.as_deref(), Some(&ids[ids.len() - limit..]));

    let report = run(&mut Scripted::varied(), &config, &mut ()).unwrap();
    let path = format!("predictions/scripted_hf/{}.json", report.subsets[0].abbr);
    let predictions: Value =
        serde_json::from_str(&fs::read_to_string(report.folder.unwrap().join(path)).unwrap()).unwrap();
    let roles: Vec<&str> =
        predictions["0"]["origin_prompt"].as_array().unwrap().iter().map(|m| m["role"].as_str().unwrap()).collect();
    assert_eq!((roles[0], roles[1], roles.last()), ("HUMAN", "BOT", Some(&"HUMAN")));

    let mut without = Scripted::varied();
    without.identity.chat_template = None;
    let config = EvalConfig { timestamp: Some("20270101_000000".into()), ..config };
    let error = run(&mut without, &config, &mut ()).unwrap_err().to_string();
    assert!(error.contains("no chat template"), "{error}");
    assert!(!dir.path().join("20270101_000000").exists());
}

#[test]
fn stop_words_end_answers() {
    let dir = tempfile::tempdir().unwrap();
    let config = EvalConfig { stop_words: vec!["\n".into()], ..demo(dir.path(), 1) };
    let report = run(&mut Scripted::new(|_| " B\nC".into()), &config, &mut ()).unwrap();
    let path = format!("predictions/scripted_hf/{}.json", report.subsets[0].abbr);
    let text = fs::read_to_string(report.folder.unwrap().join(path)).unwrap();
    assert!(text.contains(r#""prediction": " B","#), "{text}");
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let base = demo(dir.path(), 1);
    let refused = |config: EvalConfig, max_seq_len| {
        let error = run(&mut Scripted { max_seq_len, ..Scripted::varied() }, &config, &mut ()).unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{error}");
        error.to_string()
    };
    assert!(refused(EvalConfig { max_seq_len: Some(0), ..base.clone() }, 99).starts_with("max_seq_len is 0"));
    assert!(refused(EvalConfig { max_out_len: 0, ..base.clone() }, 99).starts_with("max_out_len is 0"));
    assert!(refused(base.clone(), 16).contains("the whole context of scripted is 16 tokens"));
    assert!(refused(EvalConfig { timestamp: Some("now".into()), ..base.clone() }, 99).contains("YYYYmmdd_HHMMSS"));
    let mut named = base.clone();
    named.model.abbr = "a/b".into();
    assert!(refused(named, 99).contains("model name `a/b`"));
    assert!(files(dir.path()).is_empty());
    let resume = EvalConfig { resume: Some(Resume::Run("20250101_000000".into())), ..base };
    let error = run(&mut Scripted::varied(), &resume, &mut ()).unwrap_err();
    assert!(matches!(error, Error::NoRun { .. }), "{error}");
}
