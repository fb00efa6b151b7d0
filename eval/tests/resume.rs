//! What is finished stays finished, and a run that was cut short ends in the same bytes as one that was not.

mod scripted;

use oc_eval::{Error, EvalConfig, Resume, prompts, run};
use scripted::{Order, Recorder, Scripted, demo, fast_dir, files};
use std::{collections::BTreeMap, fs, fs::File, path::Path};

const RUN: &str = "20260102_030405";

fn resumed(config: &EvalConfig) -> EvalConfig {
    EvalConfig { resume: Some(Resume::Latest), timestamp: Some("20260102_040000".into()), ..config.clone() }
}

/// Everything that is the same however often a run was cut short: not the journal, whose lines stand in the order of
/// completion, and not what bears the time of writing.
fn lasting(work_dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = files(&work_dir.join(RUN));
    files.retain(|name, _| ["predictions/", "results/", "logs/"].iter().any(|folder| name.starts_with(folder)));
    files
}

/// An uninterrupted run: its files and its journal.
fn whole(limit: usize) -> (BTreeMap<String, Vec<u8>>, Vec<u8>) {
    let dir = fast_dir();
    run(&mut Scripted::varied(), &demo(dir.path(), limit), &mut ()).unwrap();
    let journal = fs::read(dir.path().join(RUN).join("journal.jsonl")).unwrap();
    (lasting(dir.path()), journal)
}

#[test]
fn stopped_after_any_sample_a_run_goes_on_where_it_was() {
    let (wanted, _) = whole(2);
    for stop_at in 0..=16 {
        let dir = fast_dir();
        let config = demo(dir.path(), 2);
        let mut observer = Recorder::stopping_at(stop_at);
        let error = run(&mut Scripted::varied(), &config, &mut observer).unwrap_err();
        let Error::Interrupted { resume } = &error else { panic!("{error}") };
        assert_eq!(observer.samples.len(), stop_at);
        if stop_at == 0 {
            // Nothing was computed: there is no folder yet, and nothing to resume.
            assert!(resume.is_none() && files(dir.path()).is_empty());
            continue;
        }
        assert_eq!(resume.as_deref(), Some(RUN));
        let (mut model, mut observer) = (Scripted::varied(), Recorder::default());
        let report = run(&mut model, &resumed(&config), &mut observer).unwrap();
        assert_eq!((report.plan.resumed, model.asked.len()), (stop_at, 16 - stop_at));
        assert_eq!(report.run.as_deref(), Some(RUN));
        let counts: Vec<_> = observer.samples.iter().map(|(_, _, done, total)| (*done, *total)).collect();
        assert_eq!(counts, (stop_at + 1..=16).map(|done| (done, 16)).collect::<Vec<_>>());
        assert_eq!(lasting(dir.path()), wanted, "stopped at {stop_at}");
    }
}

/// `kill -9` leaves a prefix of the journal, and perhaps nothing else.
#[test]
fn from_any_prefix_of_the_journal_come_the_same_bytes() {
    // One subject is enough: every offset is a run of its own.
    let dir = fast_dir();
    let subject = prompts(&demo(dir.path(), 1), None).unwrap()[0].subject.clone();
    let config = EvalConfig { subjects: vec![subject], ..demo(dir.path(), 3) };
    run(&mut Scripted::varied(), &config, &mut ()).unwrap();
    let wanted = lasting(dir.path());
    let journal = fs::read(dir.path().join(RUN).join("journal.jsonl")).unwrap();
    let config = resumed(&config);
    let ends: Vec<usize> = (0..journal.len()).filter(|i| journal[*i] == b'\n').map(|i| i + 1).collect();
    assert_eq!(ends.len(), 1 + 3);
    for len in 0..=journal.len() {
        let folder = dir.path().join(RUN);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("journal.jsonl"), &journal[..len]).unwrap();
        let mut model = Scripted::varied();
        let report = run(&mut model, &config, &mut ()).unwrap();
        let finished = ends.iter().filter(|end| **end <= len).count().saturating_sub(1);
        assert_eq!((report.plan.resumed, model.asked.len()), (finished, 3 - finished), "cut at {len}");
        assert_eq!(lasting(dir.path()), wanted, "cut at {len}");
    }
}

#[test]
fn a_failing_model_loses_nothing_that_was_finished() {
    let (wanted, _) = whole(1);
    let dir = fast_dir();
    let config = demo(dir.path(), 1);
    let mut model = Scripted { fails_after: 3, ..Scripted::varied() };
    let mut observer = Recorder::default();
    let error = run(&mut model, &config, &mut observer).unwrap_err();
    assert!(error.to_string().contains("scripted failure"), "{error}");
    assert_eq!(observer.samples.len(), 3);
    let mut model = Scripted::varied();
    run(&mut model, &resumed(&config), &mut ()).unwrap();
    assert_eq!(model.asked.len(), 5);
    assert_eq!(lasting(dir.path()), wanted);
}

#[test]
fn answers_to_other_prompts_are_asked_for_again() {
    let (wanted, journal) = whole(1);
    let dir = fast_dir();
    let folder = dir.path().join(RUN);
    fs::create_dir_all(&folder).unwrap();
    // One recorded hash is of other ids.
    let text = String::from_utf8(journal).unwrap();
    let at = text.find("\"ids\":\"").unwrap() + 7;
    fs::write(folder.join("journal.jsonl"), format!("{}{}{}", &text[..at], "0".repeat(64), &text[at + 64..])).unwrap();
    let mut model = Scripted::varied();
    let report = run(&mut model, &resumed(&demo(dir.path(), 1)), &mut ()).unwrap();
    assert_eq!((report.plan.resumed, model.asked.len()), (7, 1));
    assert_eq!(report.warnings, ["1 answers of the resumed run belong to other prompts; they are computed again"]);
    assert_eq!(lasting(dir.path()), wanted);
    // From then on the new answer holds.
    let mut model = Scripted::varied();
    let report = run(&mut model, &resumed(&demo(dir.path(), 1)), &mut ()).unwrap();
    assert_eq!((report.plan.resumed, model.asked.len(), report.warnings.len()), (8, 0, 0));
}

#[test]
fn more_questions_can_be_added_to_a_run() {
    let (wanted, _) = whole(2);
    let dir = fast_dir();
    run(&mut Scripted::varied(), &demo(dir.path(), 1), &mut ()).unwrap();
    let mut model = Scripted::varied();
    run(&mut model, &resumed(&demo(dir.path(), 2)), &mut ()).unwrap();
    assert_eq!(model.asked.len(), 8);
    assert_eq!(lasting(dir.path()), wanted);
}

#[test]
fn other_settings_are_refused_by_name() {
    let dir = fast_dir();
    let config = demo(dir.path(), 1);
    run(&mut Scripted::varied(), &config, &mut ()).unwrap();
    let before = files(dir.path());
    let mut model = Scripted::varied();
    model.identity.dtype = "bf16".into();
    let other = EvalConfig { max_out_len: 32, ..resumed(&config) };
    let error = run(&mut model, &other, &mut ()).unwrap_err();
    let Error::Mismatch { run: name, differences } = &error else { panic!("{error}") };
    assert_eq!(name, RUN);
    assert_eq!(differences.join("; "), "dtype was f32, now bf16; max_out_len was 16, now 32");
    assert_eq!((files(dir.path()), model.asked.len()), (before, 0));
    // Its name and path are no setting.
    let mut renamed = resumed(&config);
    renamed.model.path = "elsewhere".into();
    assert_eq!(run(&mut Scripted::varied(), &renamed, &mut ()).unwrap().plan.resumed, 8);
}

#[test]
fn a_run_has_one_writer() {
    let dir = fast_dir();
    let config = demo(dir.path(), 1);
    run(&mut Scripted::varied(), &config, &mut ()).unwrap();
    let other = File::open(dir.path().join(RUN).join("journal.jsonl")).unwrap();
    other.lock().unwrap();
    let error = run(&mut Scripted::varied(), &resumed(&config), &mut ()).unwrap_err();
    assert!(matches!(&error, Error::Locked { run } if run == RUN), "{error}");
    drop(other);
    run(&mut Scripted::varied(), &resumed(&config), &mut ()).unwrap();
}

#[test]
fn a_damaged_journal_is_named_with_its_line() {
    let dir = fast_dir();
    let config = demo(dir.path(), 1);
    run(&mut Scripted::varied(), &config, &mut ()).unwrap();
    let path = dir.path().join(RUN).join("journal.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines[3] = "{\"abbr\":";
    fs::write(&path, lines.join("\n") + "\n").unwrap();
    let error = run(&mut Scripted::varied(), &resumed(&config), &mut ()).unwrap_err();
    assert!(matches!(&error, Error::Journal { line: 4, .. }), "{error}");
    // The hint says that removing the line costs one sample.
    lines.remove(3);
    fs::write(&path, lines.join("\n") + "\n").unwrap();
    assert_eq!(run(&mut Scripted::varied(), &resumed(&config), &mut ()).unwrap().plan.resumed, 7);
}

#[test]
fn the_order_of_completion_leaves_no_trace() {
    let (wanted, _) = whole(3);
    for order in [Order::Reversed, Order::Strided(5)] {
        let dir = fast_dir();
        run(&mut Scripted { order, ..Scripted::varied() }, &demo(dir.path(), 3), &mut ()).unwrap();
        assert_eq!(lasting(dir.path()), wanted, "{order:?}");
    }
}
