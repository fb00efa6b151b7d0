//! The real binary: help, errors, exit codes, what goes to which stream, and whole jobs with a tiny checkpoint.

use assert_cmd::Command;
use predicates::prelude::*;
use std::path::{Path, PathBuf};

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A random LLaMA that computes in milliseconds and knows nothing.
fn tiny_model() -> PathBuf {
    root().join("tests/fixtures/llama")
}

/// The binary in an empty folder, with nothing of the environment that could change what it does.
struct Cli {
    dir: tempfile::TempDir,
}

impl Cli {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn run(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oc-cli"));
        command.current_dir(self.dir.path()).args(line.split_whitespace());
        for name in ["COMPASS_DATA_CACHE", "OC_LOG", "NO_COLOR"] {
            command.env_remove(name);
        }
        command
    }

    /// As [`run`](Self::run), with the tiny model.
    fn with_model(&self, line: &str) -> Command {
        let mut command = self.run(line);
        command.arg("--hf-path").arg(tiny_model());
        command
    }

    /// The one folder in the work dir.
    fn run_folder(&self) -> PathBuf {
        let runs: Vec<PathBuf> =
            std::fs::read_dir(self.dir.path().join("outputs/default")).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(runs.len(), 1, "{runs:?}");
        runs.into_iter().next().unwrap()
    }
}

/// The command fails with status 2, says nothing on stdout, and one `error: …` on stderr; unless `hint` is empty, with
/// a blank line and a `hint: …` below it.
fn refuses(mut command: Command, message: &str, hint: &str) {
    let output = command.assert().code(2).stdout("").get_output().clone();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let error = stderr.find("error: ").unwrap_or_else(|| panic!("no error in {stderr:?}"));
    let (found, rest) = stderr[error..].split_once("\n\nhint: ").unwrap_or((&stderr[error..], ""));
    assert!(found.contains(message), "{found:?} lacks {message:?}");
    assert!(rest.contains(hint), "{rest:?} lacks {hint:?}");
    assert!(!stderr.contains("panicked"), "{stderr:?}");
}

#[test]
fn help_and_version_are_data() {
    let cli = Cli::new();
    let contains = predicate::str::contains;
    cli.run("--version").assert().code(0).stdout(concat!("oc-cli ", env!("CARGO_PKG_VERSION"), "\n")).stderr("");
    for (line, wanted) in [
        ("--help", "Exit status:"),
        ("eval --help", "--tokenizer-kwargs"),
        ("prompt --help", "--jsonl"),
        ("generate --help", "Examples:"),
        ("bench-kernels --help", "of floor"),
        ("inspect --help", "Only headers are read"),
        ("convert --help", ".OUT.incomplete"),
        ("pull --help", "HF_ENDPOINT"),
    ] {
        cli.run(line).assert().code(0).stdout(contains(wanted)).stderr("");
    }
    cli.run("eval --help").assert().stdout(contains("[default: outputs/default]").and(contains("Examples:")));
}

#[test]
fn usage_errors_have_status_2_and_a_hint() {
    let cli = Cli::new();
    refuses(cli.run(""), "a command is missing", "oc-cli --help");
    refuses(cli.run("evaluate"), "unrecognized subcommand 'evaluate'", "see `oc-cli --help`");
    refuses(cli.run("eval --datasets x --work-dri y"), "unexpected argument '--work-dri'", "'--work-dir'");
    refuses(cli.run("eval --hf-path m"), "--datasets", "see `oc-cli eval --help`");
    refuses(cli.run("eval --datasets x --max-seq-len 0"), "'0' for '--max-seq-len", "oc-cli eval --help");
    refuses(cli.run("eval --datasets x --device tpu"), "possible values: auto, cpu, cuda", "oc-cli eval --help");
    refuses(cli.run("eval --datasets x"), "no model was given", "--hf-path");
    refuses(cli.run("generate hello"), "no model was given", "--hf-path");
    let mut bad_filter = cli.run("eval --datasets x");
    bad_filter.env("OC_LOG", "oc_cli=loud");
    refuses(bad_filter, "OC_LOG=`oc_cli=loud` is not a log filter", "debug");
}

#[test]
fn flags_of_opencompass_without_a_meaning_here_are_named() {
    let cli = Cli::new();
    for (flags, message) in [
        ("--slurm -p part", "--slurm: cluster runners"),
        ("-a vllm", "-a: other inference engines"),
        ("--peft-path x", "--peft-path: adapters"),
        ("--custom-dataset-path x.csv", "--custom-dataset-path: custom datasets"),
    ] {
        refuses(cli.run(&format!("eval --datasets ceval_gen {flags}")), message, "");
    }
    refuses(cli.run("eval --datasets ceval_gen --config-verbose"), "--config-verbose", "the run folder holds");
}

#[test]
fn kwargs_are_checked() {
    let cli = Cli::new();
    let eval = |tail: &str| cli.run(&format!("eval --datasets ceval_demo_gen {tail}"));
    refuses(
        eval("--tokenizer-kwargs padding_sidee='left'"),
        "unknown key `padding_sidee` in --tokenizer-kwargs (did you mean `padding_side`?)",
        "known keys are trust_remote_code, padding_side, truncation_side, truncation",
    );
    refuses(eval("--model-kwargs load_in_8bit=True"), "unknown key `load_in_8bit`", "known keys are trust_remote_code");
    refuses(eval("--model-kwargs trust_remote_code"), "`trust_remote_code` has no `=`", "trust_remote_code=True");
    refuses(eval("--model-kwargs torch_dtype=torch.float16"), "computes nothing in float16", "--dtype f16");
    refuses(eval("--model-kwargs device_map=cuda:1"), "goes to the first GPU", "CUDA_VISIBLE_DEVICES=1");
    refuses(eval("--tokenizer-kwargs truncation_side=right"), "truncation_side=right", "leave it out");
    refuses(eval("--generation-kwargs num_beams=4"), "num_beams=4 is not supported", "1");
}

#[test]
fn a_gpu_that_is_not_there_is_named() {
    let cli = Cli::new();
    if oc_kernels::cuda::driver::is_driver_present() {
        return eprintln!("skipped: this machine has NVIDIA's driver");
    }
    let refused = "NVIDIA's driver is not installed here";
    refuses(cli.with_model("generate hello --device cuda"), refused, "--device cpu");
}

#[test]
fn missing_models_and_data_are_named() {
    let cli = Cli::new();
    refuses(
        cli.run("eval --datasets ceval_demo_gen --hf-path internlm/internlm2-7b"),
        "--hf-path internlm/internlm2-7b: no such file or folder",
        "nothing is downloaded",
    );
    refuses(cli.with_model("eval --datasets ceval_gen"), "C-Eval needs its data", "--data-dir");
    refuses(cli.with_model("eval --datasets ceval_gen --data-dir nowhere"), "nowhere", "formal_ceval");
    refuses(cli.with_model("eval --datasets ceval_gne"), "unknown dataset `ceval_gne`", "ceval_gen");
    refuses(cli.with_model("eval --datasets ceval_demo_gen --subjects lwa"), "unknown subject `lwa`", "law");
    refuses(cli.with_model("eval --datasets ceval_demo_gen --meta-template x"), "unknown meta template `x`", "");
    std::fs::write(cli.dir.path().join("model.gguf"), "GGUF").unwrap();
    let mut broken = cli.run("eval --datasets ceval_demo_gen --hf-path model.gguf");
    broken.assert().code(2).stdout("").stderr(predicate::str::contains("error: model.gguf: "));
    // Nothing was begun.
    assert!(!cli.dir.path().join("outputs").exists());
}

#[test]
fn prompts_need_no_model() {
    let cli = Cli::new();
    let output = cli.run("prompt --datasets ceval_demo_gen --all --jsonl").assert().code(0).get_output().clone();
    let lines: Vec<serde_json::Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 80);
    for line in &lines {
        let keys: Vec<&String> = line.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["subject", "index", "prompt"], "{line}");
        // Five solved examples and the question.
        assert_eq!(line["prompt"].as_str().unwrap().matches("\n答案: ").count(), 6, "{line}");
    }
    assert_eq!((&lines[10]["index"], &lines[9]["index"]), (&0.into(), &9.into()));

    let one = cli.run("prompt --datasets ceval_demo_gen --subject law --index 3").assert().code(0).get_output().clone();
    let text = String::from_utf8(one.stdout).unwrap();
    let law = lines.iter().find(|line| line["subject"] == "law" && line["index"] == 3).unwrap();
    assert!(text.starts_with("subject  law\nindex    3\n"), "{text}");
    assert!(text.contains(law["prompt"].as_str().unwrap()), "{text}");
    assert!(text.contains("no ids"), "{text}");

    refuses(
        cli.run("prompt --datasets ceval_demo_gen --subject law --index 10"),
        "law has no question 10",
        "law has 10",
    );
}

#[test]
fn a_reader_that_has_seen_enough_ends_the_program_quietly() {
    let cli = Cli::new();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_oc-cli"));
    command.args(["prompt", "--datasets", "ceval_demo_gen", "--all"]).current_dir(cli.dir.path());
    let (stdout, stderr) = (std::process::Stdio::piped(), std::process::Stdio::piped());
    let mut child = command.stdout(stdout).stderr(stderr).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr)), (Some(0), "".into()));
}

#[test]
fn prompts_with_a_model_have_the_ids_that_are_sent() {
    let cli = Cli::new();
    let command = "prompt --datasets ceval_demo_gen --subject logic";
    let output = cli.with_model(&format!("{command} --jsonl")).assert().code(0).get_output().clone();
    let record: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let ids: Vec<u64> = record["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
    assert_eq!(ids[0], 311, "this tokenizer adds its beginning-of-text token");
    let text = cli.with_model(command).assert().code(0).get_output().clone();
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains(&format!("---- {} ids ----\n311 ", ids.len())), "{text}");
    assert!(text.contains("\n311 <|begin_of_text|> at 0\n"), "{text}");
    assert!(text.contains("ends in  ") && text.contains("答案: \""), "{text}");
}

#[test]
fn a_dry_run_counts_and_writes_nothing() {
    let cli = Cli::new();
    let line = "eval --datasets ceval_demo_gen --subjects law,logic --limit 3 --dry-run";
    let output = cli.with_model(line).assert().code(0).get_output().clone();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("2 subsets, 6 questions; "), "{text}");
    assert!(!cli.dir.path().join("outputs").exists());
}

/// Prompts are shown and counted without the model's weights, on a machine that they do not fit.
#[test]
fn prompts_need_no_room_for_the_model() {
    let cli = Cli::new();
    // A million GiB of keys and values.
    let line = "--datasets ceval_demo_gen --subjects law --limit 1 --kv-cache-mib 1073741824";
    refuses(cli.with_model(&format!("eval {line}")), "the KV cache needs", "");
    for command in ["eval --dry-run", "prompt"] {
        cli.with_model(&format!("{command} {line}")).assert().code(0);
    }
}

/// The tutorial's command line, quotes and all, on the built-in questions.
#[test]
fn the_whole_job() {
    let cli = Cli::new();
    let mut command = cli.with_model(
        "eval --datasets ceval_demo_gen --tokenizer-kwargs padding_side='left' truncation='left' \
         trust_remote_code=True --model-kwargs trust_remote_code=True device_map='auto' --max-seq-len 2048 \
         --max-out-len 16 --batch-size 4 --num-gpus 1 --debug --subjects law,logic --limit 2 --dtype f32",
    );
    let output = command.arg("--tokenizer-path").arg(tiny_model()).assert().code(0).get_output().clone();
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());

    // Data to stdout: the table and our line, nothing else.
    let mut lines = stdout.lines();
    let header: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(header, ["dataset", "version", "metric", "mode", "llama_hf"], "{stdout}");
    let subsets: Vec<&str> =
        stdout.lines().filter(|l| l.starts_with("ceval_demo-")).map(|l| l.split(' ').next().unwrap()).collect();
    assert_eq!(subsets, ["ceval_demo-logic", "ceval_demo-law"], "{stdout}");
    assert!(stdout.contains(" ± ") && stdout.contains("4 questions"), "{stdout}");
    assert!(stdout.trim_end().ends_with(" s in f32"), "{stdout}");

    // Everything else to stderr, plain.
    for wanted in [
        "trust_remote_code is not needed",
        "truncation=left has no effect",
        "Starting inference process...",
        "first prompt (ceval_demo-l",
        "memory: weights ",
        "2 subsets, 4 questions; ",
        "4/4 questions, ",
        "tokens/s, prefix cache ",
        "--hf-type chat",
    ] {
        assert!(stderr.contains(wanted), "{stderr} lacks {wanted}");
    }
    assert!(!stderr.contains(['\x1b', '\r']), "{stderr:?}");
    assert_eq!(stderr.matches("trust_remote_code is not needed").count(), 1, "{stderr}");

    let folder = cli.run_folder();
    let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
    assert!(stderr.contains(&format!("outputs/default/{name}")), "{stderr}");
    for file in ["predictions/llama_hf/ceval_demo-law.json", "results/llama_hf/ceval_demo-logic.json"] {
        assert!(folder.join(file).is_file(), "{file}");
    }
    let predictions = std::fs::read_to_string(folder.join("predictions/llama_hf/ceval_demo-law.json")).unwrap();
    let predictions: serde_json::Value = serde_json::from_str(&predictions).unwrap();
    assert_eq!(predictions.as_object().unwrap().len(), 2);

    // Resuming a finished run asks nothing and prints the same table.
    let line = "eval --datasets ceval_demo_gen --max-seq-len 2048 --max-out-len 16 --subjects law,logic --limit 2 \
                --dtype f32 -r";
    let again = cli.with_model(line).assert().code(0).get_output().clone();
    let again_stdout = String::from_utf8(again.stdout).unwrap();
    let table = |text: &str| text.lines().take_while(|line| !line.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(table(&again_stdout), table(&stdout));
    assert!(String::from_utf8(again.stderr).unwrap().contains("4 already answered"));
    assert_eq!(cli.run_folder(), folder);

    // Other settings would be another experiment.
    refuses(cli.with_model(&line.replace("f32", "bf16")), "cannot be resumed", "without -r");
}

#[test]
fn a_work_dir_that_cannot_be_written_is_named() {
    let cli = Cli::new();
    std::fs::write(cli.dir.path().join("file"), "").unwrap();
    let line = "eval --datasets ceval_demo_gen --subjects law --limit 1 --max-out-len 2 -w file/runs";
    refuses(cli.with_model(line), "file/runs", "");
    refuses(cli.with_model("eval --datasets ceval_demo_gen --subjects law -r"), "no run to resume", "-r");
}

#[test]
fn generate_streams_text_and_nothing_else() {
    let cli = Cli::new();
    let line = "generate --dtype f32 --max-out-len 8 --stats hello";
    let first = cli.with_model(line).assert().code(0).get_output().clone();
    assert!(first.stdout.ends_with(b"\n"), "{first:?}");
    let stderr = String::from_utf8(first.stderr).unwrap();
    assert!(stderr.contains("prompt ") && stderr.contains("generated 8 tokens"), "{stderr}");
    // The prompt from standard input is the same prompt.
    let piped = cli.with_model("generate --dtype f32 --max-out-len 8").write_stdin("hello\n").assert().code(0);
    assert_eq!(piped.get_output().stdout, first.stdout);
    // Sampling is reproducible.
    let sample = |seed: u32| {
        let line = format!("generate --dtype f32 --max-out-len 24 --temperature 1 --seed {seed} hello");
        cli.with_model(&line).assert().code(0).get_output().stdout.clone()
    };
    assert_eq!(sample(1), sample(1));
    assert_ne!(sample(1), sample(2));
    // Through the chat template.
    cli.with_model("generate --dtype f32 --max-out-len 4 --chat --system s hello").assert().code(0);
    refuses(cli.with_model("generate --temperature=-1 hello"), "temperature", "");
    refuses(cli.with_model("generate <|begin_of_text|>hello"), "twice", "leave it out");
    refuses(cli.with_model("generate --max-seq-len 8 --max-out-len 9 hello"), "exceeds the context", "");
}

#[test]
fn bench_kernels_prints_a_table_or_json() {
    let cli = Cli::new();
    let line = "bench-kernels --device cpu --ops rms_norm,silu_mul --models SmolLM2-135M --rows 1 --time 1";
    let table = cli.run(line).assert().code(0).get_output().clone();
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("peaks measured now: f32 "), "{table}");
    assert_eq!(table.lines().filter(|line| line.ends_with("right")).count(), 2, "{table}");
    let json = cli.run(&format!("{line} --json")).assert().code(0).get_output().clone();
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["rows"].as_array().unwrap().len(), 2);
    assert!(json["peaks"]["read_gbps"].as_f64().unwrap() > 0.0);
    assert!(json["rows"][0]["micros"].as_f64().unwrap() > 0.0 && json["rows"][0]["ok"] == true);
    refuses(cli.run("bench-kernels --ops frobnicate"), "there is no operation \"frobnicate\"; there are embedding", "");
}

#[test]
fn bench_kernels_compares_with_an_earlier_run() {
    let cli = Cli::new();
    let line = "bench-kernels --op rms_norm --models SmolLM2-135M --rows 1,2 --time 1";
    let json = cli.run(&format!("{line} --json")).assert().code(0).get_output().stdout.clone();
    let mut before: serde_json::Value = serde_json::from_slice(&json).unwrap();
    // One row was a thousand times as fast, and one did not exist.
    before["rows"][0]["micros"] = 1e-6.into();
    before["rows"].as_array_mut().unwrap().remove(1);
    let file = cli.dir.path().join("before.json");
    std::fs::write(&file, before.to_string()).unwrap();
    let table = cli.run(&format!("{line} --baseline before.json")).assert().code(0).get_output().stdout.clone();
    let table = String::from_utf8(table).unwrap();
    assert!(table.contains("   before  result") && table.contains("      new  right"), "{table}");
    assert!(table.contains("1 of 2 rows are in before.json; slower by more than 10 %:\n  rms_norm 1×576: "), "{table}");
    let json = cli.run(&format!("{line} --baseline before.json --json")).assert().code(0).get_output().stdout.clone();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["baseline"]["slower"][0], "rms_norm 1×576");
    assert!(json["rows"][0]["times_baseline"].as_f64().unwrap() > 10.0, "{json}");
    assert!(json["rows"][1]["times_baseline"].is_null(), "{json}");

    refuses(cli.run(&format!("{line} --baseline nowhere.json")), "nowhere.json: cannot be read", "--json");
    for (text, wrong) in
        [("{", "is not JSON"), ("{}", "has no `rows`"), (r#"{"rows":[{}]}"#, "row 0"), (r#"{"rows":[]}"#, "no times")]
    {
        std::fs::write(&file, text).unwrap();
        refuses(cli.run(&format!("{line} --baseline before.json")), wrong, "--baseline takes what");
    }
}

#[test]
fn bench_kernels_counts_on_the_emulator() {
    let cli = Cli::new();
    let line = "bench-kernels --device emulator --op rms_norm --models InternLM2-7B --rows 1,512 --shape x4096";
    let table = cli.run(line).assert().code(0).get_output().stdout.clone();
    let table = String::from_utf8(table).unwrap();
    assert!(table.contains("not timed") && table.contains(" 4×4096 "), "{table}");
    assert_eq!(table.lines().filter(|line| line.ends_with("0  right")).count(), 2, "{table}");
    assert!(!table.contains("µs"), "{table}");
    let json = cli.run(&format!("{line} --dtype f16 --json")).assert().code(0).get_output().stdout.clone();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert!(json["rows"][0]["kernels"]["rms_norm_f16"]["instructions"].as_u64().unwrap() > 0, "{json}");
    assert!(json["rows"][0]["micros"].is_null() && json["peaks"].is_null(), "{json}");
    refuses(cli.run("bench-kernels --device emulator --dtype f32"), "not in f32", "--device cpu");
    refuses(cli.run("bench-kernels --device emulator --baseline x"), "x: cannot be read", "--json");
    refuses(cli.run("bench-kernels --shape 7x7"), "`7×7`", "");
}

#[test]
fn without_a_gpu_the_driver_layer_says_so() {
    if oc_kernels::cuda::driver::is_driver_present() {
        eprintln!("skipped: this machine has NVIDIA's driver");
        return;
    }
    refuses(Cli::new().run("bench-kernels --device cuda"), "libcuda.so.1 was not found", "--device cpu");
}
