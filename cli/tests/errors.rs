//! Data and run folders that are not as they must be, on the real binary: each is one error or one named failure, with the
//! status that belongs to it.

use assert_cmd::Command;
use oc_tests::fixture;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A folder with data and runs in it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn run(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oc-cli"));
        command.current_dir(self.0.path()).args(line.split_whitespace());
        for name in ["COMPASS_DATA_CACHE", "OC_LOG", "NO_COLOR", "HF_HOME", "HF_HUB_CACHE", "HOME"] {
            command.env_remove(name);
        }
        command
    }

    /// Stderr of a command that ends with this status.
    fn stderr(&self, line: &str, status: i32) -> String {
        let stderr = self.run(line).assert().code(status).get_output().stderr.clone();
        let stderr = String::from_utf8(stderr).unwrap();
        assert!(!stderr.contains("panicked"), "{stderr}");
        stderr
    }

    /// The command is refused with status 2, and its one error holds all of `wanted`.
    fn refuses(&self, line: &str, wanted: &[&str]) {
        let stderr = self.stderr(line, 2);
        assert_eq!(stderr.matches("error: ").count(), 1, "{stderr}");
        let error = &stderr[stderr.find("error: ").unwrap()..];
        for wanted in wanted {
            assert!(error.contains(wanted), "{line}\n{error:?} lacks {wanted:?}");
        }
    }
}

/// C-Eval's file of one subject: so many rows with an answer.
fn ceval(rows: usize) -> String {
    let row = |n: usize| format!("{n},What is {n}?,one,two,three,four,B,\n");
    "id,question,A,B,C,D,answer,explanation\n".to_owned() + &(0..rows).map(row).collect::<String>()
}

const LAW: &str = "ceval/formal_ceval";

/// C-Eval with one subject and six questions.
fn with_law() -> Place {
    let place = Place::new();
    place.write(&format!("data/{LAW}/dev/law_dev.csv"), ceval(5));
    place.write(&format!("data/{LAW}/val/law_val.csv"), ceval(6));
    place
}

#[test]
fn data_that_is_not_there_is_named() {
    let place = Place::new();
    fs::create_dir(place.path("empty")).unwrap();
    for (dataset, name, expected) in [
        ("ceval_gen", "C-Eval", "<data>/ceval/formal_ceval/{dev,val}"),
        ("ceval_ppl", "C-Eval", "<data>/ceval/formal_ceval/{dev,val}"),
        ("cmmlu_gen", "CMMLU", "<data>/cmmlu/{dev,test}"),
        ("mmlu_ppl", "MMLU", "<data>/mmlu/{dev,test}"),
        ("siqa_gen", "SIQA", "<data>/siqa/{train,dev}.jsonl"),
        ("siqa_gen_e78df3", "SIQA", "<data>/siqa/{train,dev}.jsonl"),
        ("winograd_ppl", "Winograd", "<data>/winograd_wsc/wsc285/test.jsonl"),
        ("winogrande_ll_c5cf57", "WinoGrande", "<data>/winogrande/dev.jsonl"),
    ] {
        let prompt = format!("prompt --datasets {dataset}");
        place.refuses(&prompt, &[&format!("{name} needs its data"), "--data-dir", expected]);
        let found = format!("no {name} data in nowhere: no such file or folder");
        place.refuses(&format!("{prompt} --data-dir nowhere"), &[&found, expected]);
        let found = format!("no {name} data in empty: the folder is empty");
        place.refuses(&format!("{prompt} --data-dir empty"), &[&found, expected]);
    }
    // An archive that is none, and a collection without a member that exists here.
    place.write("data/ceval-exam.zip", "not a zip");
    place.refuses("prompt --datasets ceval_gen --data-dir data", &["ceval-exam.zip", "not a zip archive"]);
    place.refuses(
        "prompt --datasets example",
        &["2 of the 2 datasets of example do not exist here: piqa_gen_1194eb, nq_gen_c788f6", "list-configs"],
    );
    place.refuses("prompt --datasets no_such*", &["unknown dataset `no_such*`"]);
}

#[test]
fn a_missing_or_malformed_file_is_named_with_its_line() {
    let good = ceval(6);
    let file = "data/ceval/formal_ceval/val/law_val.csv";
    let line = "prompt --datasets ceval_gen --data-dir data --subjects law";
    with_law().run(line).assert().code(0);
    let place = with_law();
    fs::remove_file(place.path(file)).unwrap();
    place.refuses(line, &["law: ", "law_val.csv is missing", "leave the subject out with --subjects"]);
    for (content, wanted) in [
        (
            good.replacen("What is 1?,one", "What is 1?", 1).into_bytes(),
            "law_val.csv, line 3: 7 fields where the header has 8",
        ),
        (good.replacen("What is 2?", "", 1).into_bytes(), "law_val.csv, line 4: "),
        (good.replacen("four,B,", "four,E,", 1).into_bytes(), "law_val.csv, line 2: "),
        (good.replacen("What is 3?", "\"What is 3?", 1).into_bytes(), "law_val.csv, line 5: "),
        (good.replacen("question", "text", 1).into_bytes(), "law_val.csv, line 1: "),
        ([good.as_bytes(), &[0xff, 0xfe]].concat(), "law_val.csv, line 8: not UTF-8"),
        (Vec::new(), "law_val.csv: the file is empty"),
        (ceval(0).into_bytes(), "law_val.csv: the file has a header, but no rows"),
    ] {
        place.write(file, content);
        place.refuses(line, &[wanted]);
    }
    let place = with_law();
    place.write(&format!("data/{LAW}/dev/law_dev.csv"), ceval(3));
    place.refuses(line, &["law_dev.csv: 3 rows, but a prompt needs 5 solved examples"]);

    // The files of the other datasets.
    let place = Place::new();
    place.write("data/siqa/dev.jsonl", "{\"context\": \"c\", \"question\": \"q\", \"answerA\": \"a\"}\n");
    let siqa = "prompt --datasets siqa_gen --data-dir data";
    place.refuses(siqa, &["siqa: ", "dev-labels.lst is missing"]);
    place.write("data/siqa/dev-labels.lst", "1\n2\n");
    place.refuses(siqa, &["dev-labels.lst: 2 labels for the 1 rows"]);
    place.write("data/siqa/dev-labels.lst", "1\n");
    place.refuses(siqa, &["dev.jsonl, line 1: ", "answerB"]);
    place.write(
        "data/siqa/dev.jsonl",
        "{\"context\": \"c\", \"question\": \"q\", \"answerA\": \"a\", \"answerB\": \"b\", \"answerC\": \"c\"}\n",
    );
    place.write("data/siqa/dev-labels.lst", "4\n");
    for dataset in ["siqa_gen", "siqa_gen_e78df3", "siqa_ppl"] {
        let siqa = siqa.replace("siqa_gen", dataset);
        place.refuses(&siqa, &["dev-labels.lst, line 1: the label is \"4\", wanted 1, 2 or 3"]);
    }
    place.write("data/siqa/dev.jsonl", "{\n");
    place.refuses(siqa, &["dev.jsonl, line 1: no JSON object"]);

    place.write("data/winograd_wsc/wsc285/test.jsonl", "{\"text\": \"t\", \"pronoun\": \"p\", \"options\": [\"a\"]}\n");
    let winograd = "prompt --datasets winograd_ppl --data-dir data";
    place.refuses(winograd, &["test.jsonl, line 1: `options` must be two texts"]);
    fs::remove_file(place.path("data/winograd_wsc/wsc285/test.jsonl")).unwrap();
    place.refuses(winograd, &["wsc285.jsonl is missing"]);
    place.write(
        "data/winogrande/dev.jsonl",
        "{\"sentence\": \"s\", \"option1\": \"a\", \"option2\": \"b\", \"answer\": \"1\"}\n",
    );
    place.refuses("prompt --datasets winogrande_ll_c5cf57 --data-dir data", &["dev.jsonl, line 1: ", "has no gap `_`"]);

    for (dataset, file) in [("mmlu_gen", "mmlu/test/anatomy_test.csv"), ("cmmlu_gen", "cmmlu/test/anatomy.csv")] {
        place.write(&format!("data/{file}"), "x\n1\n");
        let line = format!("prompt --datasets {dataset} --data-dir data --subjects anatomy");
        place.refuses(&line, &[&format!("{file}, line ")]);
        fs::remove_file(place.path(&format!("data/{file}"))).unwrap();
        place.refuses(&line, &[&format!("anatomy: data/{file} is missing")]);
    }
}

#[test]
fn annotations_and_labels_may_be_missing() {
    let place = with_law();
    let model = fixture("llama");
    let eval = |more: &str| format!("eval --data-dir data --subjects law -w runs --hf-path {} {more}", model.display());
    let line = eval("--datasets ceval_clean_ppl --limit 1");
    place.refuses(
        &line,
        &["ceval-law: annotations missing: ", "val/ceval_contamination_annotations.json", "without `clean`"],
    );
    assert!(!place.path("runs").exists(), "nothing was begun");
    let annotations = format!("data/{LAW}/val/ceval_contamination_annotations.json");
    place.write(&annotations, "[]");
    place.refuses(&line, &["ceval_contamination_annotations.json: no JSON object of annotations"]);
    place.write(&annotations, "{\"law-0\": 3}");
    place.refuses(&line, &["law-0 is 3, wanted a list that begins with a status"]);
    place.write(&annotations, "{\"law-0\": [\"clean\"]}");
    let output = place.run(&line).assert().code(0).get_output().clone();
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("accuracy - clean"), "{table}");

    // The test split has no labels: no score, and no failure either, but a file for C-Eval's site.
    let unlabelled = ceval(6).replace("four,B,", "four,").replace("answer,", "");
    place.write(&format!("data/{LAW}/test/law_test.csv"), unlabelled);
    fs::remove_dir_all(place.path("runs")).unwrap();
    let line =
        eval("--datasets ceval_gen_2daf24 --limit 2 --max-out-len 2").replace("--subjects law", "--subjects test-law");
    let output = place.run(&line).assert().code(0).get_output().clone();
    let table = String::from_utf8(output.stdout).unwrap();
    let row = table.lines().find(|line| line.starts_with("ceval-test-law")).unwrap();
    assert!(row.trim_end().ends_with("no labels"), "{table}");
    let run = fs::read_dir(place.path("runs")).unwrap().next().unwrap().unwrap().path();
    let submission = fs::read_to_string(run.join("submission/llama_hf/ceval.json")).unwrap();
    let submission: Value = serde_json::from_str(&submission).unwrap();
    assert_eq!(submission["law"].as_object().unwrap().keys().collect::<Vec<_>>(), ["0", "1"]);
    assert!(run.join("predictions/llama_hf/ceval-test-law.json").is_file());
    assert!(!run.join("results/llama_hf/ceval-test-law.json").exists());
    // So it is when the run is scored, or shown, again.
    for stage in ["eval", "viz"] {
        let output = place.run(&format!("{line} -r -m {stage}")).assert().code(0).get_output().clone();
        let again = String::from_utf8(output.stdout).unwrap();
        assert!(again.lines().any(|line| line == row), "{stage}: {again}");
    }
    fs::remove_file(run.join("predictions/llama_hf/ceval-test-law.json")).unwrap();
    let output = place.run(&format!("{line} -r -m viz")).assert().code(1).get_output().clone();
    assert!(String::from_utf8(output.stderr).unwrap().contains("ceval-test-law: no score: "));
}

/// A run folder of six answers, of which the predictions file is `content`.
fn with_predictions(content: &str) -> Place {
    let place = with_law();
    place.write("runs/20260101_000000/predictions/m_hf/ceval-law.json", content);
    place
}

fn predictions(rows: usize) -> Value {
    let record = |n: usize| (n.to_string(), json!({ "origin_prompt": "", "prediction": "B", "gold": "B" }));
    Value::Object((0..rows).map(record).collect())
}

const AGAIN: &str = "eval --datasets ceval_gen --data-dir data --subjects law -w runs --hf-path m -r -m";

#[test]
fn folders_without_answers_or_results_are_named() {
    let place = with_law();
    fs::create_dir_all(place.path("runs")).unwrap();
    for mode in ["eval", "viz"] {
        place.refuses(&format!("{AGAIN} {mode}"), &["no run to resume in runs: no folder is named YYYYmmdd_HHMMSS"]);
    }
    fs::create_dir(place.path("runs/20260101_000000")).unwrap();
    let stderr = place.stderr(&format!("{AGAIN} eval"), 1);
    assert!(stderr.contains("ceval-law: no answers: ") && stderr.contains("ceval-law.json does not exist"), "{stderr}");
    let stderr = place.stderr(&format!("{AGAIN} viz"), 1);
    assert!(
        stderr.contains("ceval-law: no score: ") && stderr.contains("results/m_hf/ceval-law.json does not exist"),
        "{stderr}"
    );
    place.refuses(
        &format!("{AGAIN} eval").replace("-r -m", "-r 20250101_000000 -m"),
        &["there is no folder 20250101_000000; the newest is 20260101_000000", "-r takes the name of a folder"],
    );
    place.refuses(&format!("{AGAIN} viz --dry-run"), &["-m viz asks nothing, so there is nothing to try"]);
    // Asking goes on only where it is known how the answers there came about.
    let place = with_predictions(&predictions(6).to_string());
    let line = AGAIN.replace("--hf-path m", &format!("--hf-path {}", fixture("llama").display()));
    place.refuses(
        &format!("{line} all"),
        &["20260101_000000 has answers but no journal.jsonl", "-m eval -r 20260101_000000"],
    );
}

#[test]
fn damaged_predictions_and_results_are_named() {
    let place = with_predictions(&predictions(6).to_string());
    let table = place.run(&format!("{AGAIN} eval")).assert().code(0).get_output().stdout.clone();
    assert!(String::from_utf8(table).unwrap().contains("100.00"));
    for (content, wanted) in [
        ("{\"0\": ".to_owned(), "ceval-law.json: not JSON: "),
        ("[]".to_owned(), "ceval-law.json: wanted a JSON object"),
        ("{\"0\": 3}".to_owned(), "ceval-law.json: row 0 is no JSON object"),
        (predictions(6).to_string().replace("\"3\":", "\"7\":"), "ceval-law.json: row 3 is missing"),
    ] {
        with_predictions(&content).refuses(&format!("{AGAIN} eval"), &[wanted, "hint: remove the file"]);
    }
    // What is wrong with one answer, or with their number, costs the subset its score, and only that.
    for (content, wanted) in [
        (predictions(5), "ceval-law: 5 answers in ".to_owned()),
        (predictions(7), "7 answers in ".to_owned()),
        (
            json!({ "0": {}, "1": {}, "2": {}, "3": {}, "4": {}, "5": { "prediction": "B" } }),
            "ceval-law question 0: it has no `prediction`".to_owned(),
        ),
    ] {
        let stderr = with_predictions(&content.to_string()).stderr(&format!("{AGAIN} eval"), 1);
        assert!(stderr.contains(&wanted), "{stderr} lacks {wanted}");
    }
    // Answers to other data.
    let other = predictions(6).to_string().replacen("\"gold\":\"B\"", "\"gold\":\"C\"", 2);
    let stderr = with_predictions(&other).stderr(&format!("{AGAIN} eval"), 0);
    assert!(stderr.contains("ceval-law: 2 recorded right answers are not those of the data"), "{stderr}");
    for (content, wanted) in [("{", "not JSON: "), ("3", "wanted a JSON object")] {
        place.write("runs/20260101_000000/results/m_hf/ceval-law.json", content);
        place.refuses(&format!("{AGAIN} viz"), &["results/m_hf/ceval-law.json: ", wanted]);
    }
    // A reason that OpenCompass wrote down.
    place.write("runs/20260101_000000/results/m_hf/ceval-law.json", "{\"error\": \"out of memory\"}");
    let stderr = place.stderr(&format!("{AGAIN} viz"), 1);
    assert!(stderr.contains("ceval-law: out of memory"), "{stderr}");
}

#[test]
fn a_run_under_other_settings_is_refused_by_field() {
    let place = with_law();
    let copy = |from: &str, to: &str| {
        for file in fs::read_dir(fixture(from)).unwrap().map(|entry| entry.unwrap().path()) {
            let name = file.file_name().unwrap().to_str().unwrap().to_owned();
            place.write(&format!("{to}/{name}"), fs::read(&file).unwrap());
        }
    };
    copy("llama", "a/m");
    copy("qwen2", "b/m");
    let line = "eval --datasets ceval_gen --data-dir data --subjects law --limit 1 -w runs --max-seq-len 4000 \
                --max-out-len 2 --dtype f32 --hf-path a/m";
    place.run(line).assert().code(0);
    for (change, differences) in [
        (line.replace("a/m", "b/m"), &["weights was ", "tokenizer was "][..]),
        (line.replace("f32", "bf16"), &["dtype was f32, now bf16"]),
        (line.replace("--max-seq-len 4000", "--max-seq-len 3000"), &["max_seq_len was 4000, now 3000"]),
        (line.replace("--max-out-len 2", "--max-out-len 3"), &["max_out_len was 2, now 3"]),
        (format!("{line} --hf-type chat"), &["hf_type was base, now chat"]),
        (format!("{line} --meta-template internlm_chat"), &["meta_template was none, now internlm_chat"]),
        (format!("{line} --stop-words x"), &["stop_words was [], now [\"x\"]"]),
        (
            format!("{line} --generation-kwargs do_sample=True top_k=3 seed=7"),
            &["temperature was 0, now 1", "top_k was not recorded, now 3", "seed was none, now 7"],
        ),
    ] {
        let wanted: Vec<&str> = ["cannot be resumed", "without -r"].iter().chain(differences).copied().collect();
        place.refuses(&format!("{change} -r"), &wanted);
    }
    // Other prompts are no other settings: they are asked again, and it is said.
    place.write(&format!("data/{LAW}/dev/law_dev.csv"), ceval(5).replace("four", "more"));
    let stderr = place.stderr(&format!("{line} -r"), 0);
    assert!(
        stderr.contains("1 answers of the resumed run belong to other prompts; they are computed again"),
        "{stderr}"
    );
    let run = fs::read_dir(place.path("runs")).unwrap().next().unwrap().unwrap().path();
    let journal = run.join("journal.jsonl");
    let text = fs::read_to_string(&journal).unwrap();
    fs::write(&journal, text.replacen("{", "{{", 1)).unwrap();
    place.refuses(&format!("{line} -r"), &["journal.jsonl, line 1: "]);
}

#[test]
fn flags_of_a_run_are_checked() {
    let place = with_law();
    let line = "eval --datasets ceval_gen --data-dir data --subjects law --hf-path m";
    for (flag, wanted) in [
        ("--max-num-workers x", "'x' for '--max-num-workers"),
        ("--max-workers-per-gpu x", "'x' for '--max-workers-per-gpu"),
        ("--dump-eval-details maybe", "True or False is wanted"),
        ("--pad-token-id x", "'x' for '--pad-token-id"),
        ("--limit 0", "'0' for '--limit"),
        ("-m test", "unknown mode `test`"),
        ("-m viz -r --summarizer none", "unknown summarizer `none`"),
    ] {
        place.refuses(&format!("{line} {flag}"), &[wanted]);
    }
    place.write("file", "");
    let model = fixture("llama");
    let line = line.replace("--hf-path m", &format!("--hf-path {} --limit 1 --max-out-len 1", model.display()));
    place.refuses(&format!("{line} -w file"), &["cannot write file", "free the space or the permission"]);
    let stderr = place.stderr(&format!("{line} --max-num-workers 8 --dry-run"), 0);
    assert!(stderr.contains("--max-num-workers has no effect: one process does all the work"), "{stderr}");
}

/// Braces in the data are replaced as in OpenCompass, and counted; a strict mode leaves them alone.
#[test]
fn braces_in_the_data_are_replaced_counted_and_said() {
    let place = with_law();
    let braces = ceval(6).replacen("What is 1?", "Is {A} or {B} {C or {E}?", 1).replacen("What is 4?", "{D}", 1);
    place.write(&format!("data/{LAW}/val/law_val.csv"), braces);
    let prompt = "prompt --datasets ceval_gen --data-dir data --subjects law --all --jsonl";
    let last = |line: &str| -> Vec<String> {
        let output = place.run(line).assert().code(0).get_output().stdout.clone();
        let prompts = String::from_utf8(output).unwrap();
        let prompts = prompts.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["prompt"].clone());
        prompts
            .map(|prompt| prompt.as_str().unwrap().rsplit("。\n").next().unwrap().lines().next().unwrap().to_owned())
            .collect()
    };
    let compatible = last(prompt);
    assert_eq!((compatible[1].as_str(), compatible[4].as_str()), ("Is one or two {C or {E}?", "four"));
    let strict = last(&format!("{prompt} --strict-braces"));
    assert_eq!((strict[1].as_str(), strict[4].as_str()), ("Is {A} or {B} {C or {E}?", "{D}"));
    assert_eq!((&compatible[0], &compatible[2]), (&strict[0], &strict[2]));
    let model = fixture("llama");
    let eval =
        format!("eval --datasets ceval_gen --data-dir data --subjects law --dry-run --hf-path {}", model.display());
    let stderr = place.stderr(&eval, 0);
    assert!(stderr.contains("2 rows hold a placeholder such as {A} in their own text; as in OpenCompass"), "{stderr}");
    assert!(!place.stderr(&format!("{eval} --strict-braces"), 0).contains("placeholder"));
    // What is saved with a run says which it was.
    let eval = eval.replace("--dry-run", "--max-out-len 1");
    for (flags, is_strict) in [("-w compatible", false), ("-w strict --strict-braces", true)] {
        place.stderr(&format!("{eval} {flags}"), 0);
        let pattern = place.path(flags.split(' ').nth(1).unwrap());
        let run = std::fs::read_dir(pattern).unwrap().next().unwrap().unwrap().path().join("configs");
        let saved = std::fs::read_dir(run).unwrap().next().unwrap().unwrap().path();
        let again = place.stderr(&format!("eval {} --data-dir data --dry-run", saved.display()), 0);
        assert_eq!(again.contains("placeholder"), !is_strict, "{flags}: {again}");
    }
}

/// All choices of a question cost hardly more than one: the examples and the question are computed once.
#[test]
fn perplexities_cost_as_many_tokens_as_generating() {
    let Some(data) = oc_tests::shared("data") else { return };
    let computed = |dataset: &str| -> f64 {
        let place = Place::new();
        let line = format!(
            "eval --datasets {dataset} --subjects law,computer_network,high_school_chinese,art_studies \
                            --max-out-len 1 --dtype f32"
        );
        let mut command = place.run(&line);
        command.arg("--hf-path").arg(fixture("llama")).arg("--data-dir").arg(&data as &Path);
        let output = command.assert().code(0).get_output().stdout.clone();
        let text = String::from_utf8(output).unwrap();
        let (before, _) = text.split_once(" computed;").unwrap_or_else(|| panic!("{text}"));
        before.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let (generated, scored) = (computed("ceval_gen"), computed("ceval_ppl"));
    println!("{scored} tokens in ppl mode, {generated} in gen mode: {:.3}", scored / generated);
    assert!(scored <= 1.15 * generated, "{scored} tokens in ppl mode, {generated} in gen mode");
}
